"""The endpoint for those who look after the daemon: probes, and figures for Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted
from cryptography import x509
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text

from mxflex.simulator.faults import CommandFault
from mxflex.web.eventstream import EventStreams
from mxflex.wire.messages import CSTAError
from tests.integration.daemons import EXT, JID, LOGIN, PASSWORD, SERVER_PASSWORD
from tests.integration.raw_http import request_bytes
from tests.ports import LOOPBACK, free_port

ROOT = Path(__file__).parents[2]
MONITOR = {"listen": [f"tcp:0:interface={LOOPBACK}"]}
# What the libraries of Prometheus tell of the process and of Python.
OF_THE_LIBRARY = ("process_", "python_")


class Watcher:
    """Asks a daemon as a probe or a scraper does."""

    def __init__(self, running):
        self._running = running

    async def ask(self, method, target, *lines):
        """Make a request, and give the whole answer."""
        connection = await self._running.connect(self._running.ports[-1])
        connection.send(request_bytes(method, target, *lines))
        reply = await connection.read_reply(method)
        connection.abort()
        return reply

    async def get(self, target):
        """GET."""
        return await self.ask("GET", target)

    async def families(self):
        """Give all figures by their families' names."""
        text = (await self.get("/metrics")).body.decode()
        return {family.name: family for family in read_text(text)}

    async def figure(self, sample, **labels):
        """Give the value of one sample; None where there is none."""
        families = (await self.families()).values()
        samples = [each for family in families for each in family.samples]
        return next((s.value for s in samples if s.name == sample and s.labels == labels), None)


@pytest.fixture
def watched(daemon):
    """Give the builder of daemons with an endpoint for watchers."""

    async def start(**settings):
        running = await daemon(monitor=MONITOR, **settings)
        return running, Watcher(running)

    return start


@pytest_twisted.ensureDeferred
async def test_healthz(watched):
    """The process answers, whatever its MX does."""
    running, watcher = await watched()
    assert (await watcher.get("/healthz")).json == {"status": "ok"}
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    reply = await watcher.get("/healthz")
    assert (reply.status, reply.json) == (200, {"status": "ok"})


@pytest_twisted.ensureDeferred
async def test_readyz_and_the_mx(watched):
    """Ready is 200; without the MX it is 503 with the reason, and 200 again once it is back."""
    running, watcher = await watched()
    ready = {"status": "ok", "checks": [{"name": "mx", "ok": True}]}
    reply = await watcher.get("/readyz")
    assert (reply.status, reply.json) == (200, ready)
    assert reply.header("cache-control") == "no-store"
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    reply = await watcher.get("/readyz")
    assert reply.status == 503
    assert reply.json["status"] == "unavailable"
    (check,) = reply.json["checks"]
    assert (check["name"], check["ok"]) == ("mx", False)
    assert check["reason"].startswith("the server connection to the MX is ")
    running.mx.accept_connections()
    await running.come_back_now()
    await running.when_ready()
    assert (await watcher.get("/readyz")).status == 200


@pytest_twisted.ensureDeferred
async def test_the_certificate(secure):
    """With HTTPS its certificate is one of the checks, and the moment of its end is told."""
    served = await secure(monitor=MONITOR)
    watcher = Watcher(served.running)
    reply = await watcher.get("/readyz")
    assert reply.status == 200
    assert reply.json["checks"] == [{"name": name, "ok": True} for name in ("mx", "certificate")]
    path = Path(served.running.config.tls.certificate)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    ends = await watcher.figure("mxflex_certificate_not_after_timestamp_seconds")
    assert ends == certificate.not_valid_after_utc.timestamp()
    assert await watcher.figure("mxflex_certificate_real") == 1


@pytest_twisted.ensureDeferred
async def test_only_what_is_there(watched):
    """Other paths are 404 and other methods 405, in the form of all errors; HEAD is as GET."""
    _, watcher = await watched()
    for target in ("/", "/api/login", "/metrics/", "/healthz/x", "/index.html"):
        reply = await watcher.get(target)
        assert (reply.status, reply.error) == (404, "not found"), target
    reply = await watcher.ask("POST", "/readyz")
    assert (reply.status, reply.header("allow")) == (405, "GET, HEAD")
    for target in ("/healthz", "/readyz"):
        get, head = await watcher.get(target), await watcher.ask("HEAD", target)
        assert (head.status, head.body) == (200, b"")
        assert head.header("content-length") == str(len(get.body))


@pytest_twisted.ensureDeferred
async def test_not_for_clients(watched):
    """The endpoint for clients has none of it."""
    running, _ = await watched()
    for target in ("/healthz", "/readyz", "/metrics", "/api/metrics"):
        assert (await running.get(target)).status == 404


@pytest_twisted.ensureDeferred
async def test_nothing_unless_it_is_named(daemon):
    """Without `monitor.listen` there is no further port."""
    running = await daemon()
    assert len(running.ports) == 1


@pytest_twisted.ensureDeferred
async def test_both_forms(watched):
    """Prometheus gets OpenMetrics if it asks for it, and its older text else."""
    _, watcher = await watched()
    reply = await watcher.get("/metrics")
    assert reply.header("content-type").startswith("text/plain; version=0.0.4")
    old = {family.name for family in read_text(reply.body.decode())}
    reply = await watcher.ask("GET", "/metrics", "Accept: application/openmetrics-text")
    assert reply.header("content-type").startswith("application/openmetrics-text")
    new = {family.name for family in read_openmetrics(reply.body.decode())}
    assert {name.removesuffix("_info") for name in new} == {
        name.removesuffix("_info") for name in old
    }


@pytest_twisted.ensureDeferred
async def test_streams(watched):
    """Streams count when they open, end, are refused, and are cut off."""
    running, watcher = await watched(
        events={"max_per_token": 2, "max_streams": 100, "max_unsent": 65536}
    )
    token = await running.log_in()
    first, _ = [await running.open_stream(token) for _ in range(2)]
    await (await running.open_stream(token)).reply()
    assert await watcher.figure("mxflex_streams_open") == 2
    assert await watcher.figure("mxflex_streams_limit") == 100
    assert await watcher.figure("mxflex_streams_opened_total") == 2
    assert await watcher.figure("mxflex_streams_refused_total", limit="max_per_token") == 1
    assert await watcher.figure("mxflex_streams_refused_total", limit="max_streams") == 0
    first.abort()
    streams = running.service.getServiceNamed(EventStreams.name)
    await running.when(lambda: streams.ended == 1)
    assert await watcher.figure("mxflex_streams_ended_total") == 1
    assert await watcher.figure("mxflex_streams_cut_off_total") == 0


@pytest_twisted.ensureDeferred
async def test_events(watched):
    """An event counts when it comes, when it is written for streams, and for each that gets it."""
    running, watcher = await watched()
    token = await running.log_in()
    streams = [await running.open_stream(token) for _ in range(3)]
    turns = await watcher.figure("mxflex_fan_out_seconds_count")
    sent = await watcher.figure("mxflex_events_sent_total")
    running.mx.call_in("12025550104", EXT)
    for stream in streams:
        await stream.when_event("DeliveredEvent")
    assert await watcher.figure("mxflex_mx_events_total", event="DeliveredEvent") == 1
    assert await watcher.figure("mxflex_events_published_total", event="DeliveredEvent") == 1
    assert await watcher.figure("mxflex_events_sent_total") == sent + 3
    assert await watcher.figure("mxflex_fan_out_seconds_count") > turns
    assert 0 < await watcher.figure("mxflex_fan_out_seconds_sum") < 10


@pytest_twisted.ensureDeferred
async def test_the_mx(watched):
    """The link, its coming and going, and what the MX answered are told."""
    running, watcher = await watched()
    assert await watcher.figure("mxflex_mx_link_up") == 1
    assert await watcher.figure("mxflex_mx_link_state", state="ready") == 1
    assert await watcher.figure("mxflex_mx_link_state", state="waiting") == 0
    assert await watcher.figure("mxflex_mx_link_connects_total") == 1
    token = await running.log_in()
    await running.post("/api/login", {"login": LOGIN, "password": "wrong"})
    for result, count in (("accepted", 1), ("refused", 1), ("throttled", 0), ("unavailable", 0)):
        assert await watcher.figure("mxflex_logins_total", result=result) == count
    await running.post("/api/token", token=token)
    ticket = (await running.post("/api/ticket", token=token)).json["ticket"]
    for _ in range(2):
        (await running.open_stream(None, query=f"?ticket={ticket}")).abort()
    for result, count in (("accepted", 1), ("refused", 0), ("unavailable", 0)):
        assert await watcher.figure("mxflex_renewals_total", result=result) == count
    for result, count in (("issued", 1), ("redeemed", 1), ("invalid", 1), ("refused", 0)):
        assert await watcher.figure("mxflex_tickets_total", result=result) == count
    running.mx.faults.set("MakeCall", CommandFault(answer=CSTAError(text="no")))
    await running.post("/api/call", {"to": "12025550117"}, token=token)
    commands = "mxflex_mx_commands_total"
    assert await watcher.figure(commands, command="MakeCall", result="refused") == 1
    assert await watcher.figure(commands, command="MonitorStart", result="answered") == 1
    assert await watcher.figure("mxflex_mx_command_seconds_count", command="MakeCall") == 1
    assert await watcher.figure("mxflex_monitors_wanted") == 1
    assert await watcher.figure("mxflex_monitors_missing") == 0
    assert await watcher.figure("mxflex_contacts") == len(running.link.address_book.entries)
    await running.come_back_now()
    await running.when_ready()
    assert await watcher.figure("mxflex_mx_link_connects_total") == 2


@pytest_twisted.ensureDeferred
async def test_the_process(watched):
    """Processor time, memory and open files of the process are there."""
    _, watcher = await watched()
    assert await watcher.figure("process_cpu_seconds_total") > 0
    assert await watcher.figure("process_resident_memory_bytes") > 10_000_000
    assert await watcher.figure("process_open_fds") > 0


@pytest_twisted.ensureDeferred
async def test_nothing_of_people(watched):
    """No figure has a name, a number, an address, a password or a token in it."""
    running, watcher = await watched()
    token = await running.log_in()
    await running.open_stream(token)
    running.mx.call_in("12025550104", EXT, "Somebody")
    await running.when(lambda: running.link.events["DeliveredEvent"])
    text = "\n".join(
        [(await watcher.get(target)).body.decode() for target in ("/metrics", "/readyz")]
    )
    labels = re.findall(r'"([^"]*)"', text)
    for secret in (LOGIN, PASSWORD, SERVER_PASSWORD, EXT, str(JID), "12025550104", LOOPBACK, token):
        assert not any(secret in label for label in labels if label != "mxflex"), secret


@pytest_twisted.ensureDeferred
async def test_the_document_lists_all(secure, tmp_path):
    """docs/monitoring.md has every figure, and none that is not there."""
    hook = {
        "name": "crm",
        "url": f"http://{LOOPBACK}:{free_port()}/",
        "secret": f"whsec_{'A' * 32}",
    }
    storage = str(tmp_path / "webhooks.db")
    served = await secure(monitor=MONITOR, webhooks=[hook], delivery={"storage": storage})
    client = await served.connect()
    await client.log_in()
    families = await Watcher(served.running).families()
    there = {
        f"{name}_total" if family.type == "counter" else name
        for name, family in families.items()
        if not name.startswith(OF_THE_LIBRARY)
    }
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(mxflex_\w+)` \|", text, re.MULTILINE)) == there
