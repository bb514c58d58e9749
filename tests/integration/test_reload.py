"""A reload: what the next request meets, while a stream stays open."""

from __future__ import annotations

import pytest
import pytest_twisted

from mxflex.config import EventSettings
from mxflex.errors import TooManyRequests
from mxflex.gateway.throttle import Throttle
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.test_http_calls import known
from tests.integration.test_http_contacts import PEOPLE
from tests.integration.test_http_directory import ANNA, company
from tests.integration.test_http_limits import (
    ADDRESS_FULL,
    LONG_EVENT,
    SERVER_FULL,
    TOKEN_FULL,
    refused,
)
from tests.integration.test_tls_serving import Pair, shown_by

OUTSIDE = "12025550104"
WRONG = {"login": LOGIN, "password": "wrong"}


def told(running):
    """Give what the reloads have said: level and message of each line."""
    lines = running.log.of("mxflex.reload")
    return [(line.split()[1], line.partition("mxflex.reload  ")[2].strip()) for line in lines]


@pytest.mark.parametrize(
    ("limit", "status", "sentence"),
    [
        ("max_per_token", 429, TOKEN_FULL),
        ("max_per_address", 429, ADDRESS_FULL),
        ("max_streams", 503, SERVER_FULL),
    ],
)
@pytest_twisted.ensureDeferred
async def test_limits_of_streams(daemon, limit, status, sentence):
    """A lower limit counts at once, and closes nothing; a higher one makes room."""
    running = await daemon()
    token = await running.log_in()
    streams = [await running.open_stream(token) for _ in range(2)]
    running.reload(events={limit: 1})
    await refused(running, token, status, sentence)
    running.mx.call_in(OUTSIDE, EXT)
    for stream in streams:
        await stream.when_event("DeliveredEvent")
        assert not stream.closed
    running.reload(events={limit: 3})
    assert (await running.open_stream(token)).status == 200
    await refused(running, token, status, sentence)
    default = getattr(EventSettings(), limit)
    assert told(running) == [
        ("info", f"events.{limit} changed from {default} to 1: at once"),
        ("info", "configuration reloaded: 1 taken over, 0 left for a restart"),
        ("info", f"events.{limit} changed from 1 to 3: at once"),
        ("info", "configuration reloaded: 1 taken over, 0 left for a restart"),
    ]


@pytest_twisted.ensureDeferred
async def test_heartbeat(daemon):
    """Open streams get their comments by the new interval at once."""
    running = await daemon(events={"heartbeat": 55})
    stream = await running.open_stream(await running.log_in())
    assert stream.comments == 0
    running.reload(events={"heartbeat": 0.1})
    await stream.when(lambda: stream.comments >= 2)


@pytest_twisted.ensureDeferred
async def test_history(daemon):
    """Less history forgets the oldest events, and says so to who comes back for them."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    for _ in range(3):
        running.mx.call_in(OUTSIDE, EXT)
    await stream.when(lambda: stream.names.count("DeliveredEvent") == 3)
    first = stream.events[0].id
    again = await running.open_stream(token, headers={"Last-Event-ID": str(first)})
    await again.when_events(2)
    assert "gap" not in again.names
    running.reload(events={"history": 1})
    again = await running.open_stream(token, headers={"Last-Event-ID": str(first)})
    await again.when_events(2)
    assert again.names == ["gap", "DeliveredEvent"]
    assert again.events[-1].id == stream.events[-1].id


@pytest_twisted.ensureDeferred
async def test_bound_of_new_streams(daemon):
    """A client that does not read is cut off by the bound of the time when its stream opened."""
    running = await daemon(events={"max_unsent": 1 << 30})
    token = await running.log_in()
    old = await running.open_stream(token)
    running.reload(events={"max_unsent": 65_536})
    new = await running.open_stream(token)
    for stream in (old, new):
        stream.pause()
    streams = running.service.getServiceNamed("streams")

    def is_cut_off():
        running.mx.send_event(EXT, LONG_EVENT)
        return streams.cut_off == 1

    await running.when(is_cut_off)
    new.resume()
    await new.when_closed()
    assert streams.cut_off == 1
    old.resume()
    running.mx.call_in(OUTSIDE, EXT)
    await old.when(lambda: OUTSIDE.encode() in old.text)


@pytest_twisted.ensureDeferred
async def test_throttle(daemon):
    """Failures so far count by the new limit, and by the new window."""
    running = await daemon()
    for _ in range(2):
        assert (await running.post("/api/login", WRONG)).status == 403
    running.reload(login={"max_failures": 2, "refusal_step": 0})
    assert (await running.post("/api/login", WRONG)).status == 429
    running.reload(login={"max_failures": 3, "refusal_step": 0})
    assert (await running.post("/api/login", WRONG)).status == 403
    assert (await running.post("/api/login", WRONG)).status == 429


def test_throttle_forgets_by_the_new_window():
    """A shorter window lets go who failed longer ago; a lower limit remembers the latest."""
    throttle = Throttle(2, 300)
    throttle.failed("anna", "192.0.2.1", 0)
    throttle.failed("anna", "192.0.2.1", 200)
    throttle.limit(2, 100)
    throttle.check("anna", "192.0.2.1", 250)
    throttle.limit(1, 100)
    with pytest.raises(TooManyRequests):
        throttle.check("anna", "192.0.2.1", 250)


@pytest_twisted.ensureDeferred
async def test_tokens(daemon):
    """New tokens have the new lifetime; renewals end by the new age; those in URLs are refused."""
    running = await daemon()
    token = await running.log_in()
    assert (await running.get(f"/api/calls?access_token={token}")).status == 200
    running.reload(token={"lifetime": 60, "max_age": 0, "in_url": False})
    reply = await running.post("/api/login", {"login": LOGIN, "password": PASSWORD})
    assert reply.json["expires_in"] == 60
    assert (await running.post("/api/token", token=token)).status == 403
    assert (await running.get("/api/calls", token=token)).status == 200
    assert (await running.get(f"/api/calls?access_token={token}")).status == 401
    assert b"tokenInUrl" not in (await running.get("/api/openapi.json")).body
    assert told(running)[:-1] == [
        ("info", "token.lifetime changed from 3600 to 60: for new tokens"),
        ("info", "token.max_age changed from 43200 to 0: for new tokens"),
        ("info", "token.in_url changed from true to false: at once"),
    ]


@pytest_twisted.ensureDeferred
async def test_whose_calls(daemon):
    """Calls of others are anybody's business, or not, from now on."""
    running = await daemon()
    token = await running.log_in()
    await running.log_in("user3096", "secret3096")
    others = known(running.mx.call_in(OUTSIDE, "3096"), "3096")
    assert (await running.post("/api/call/answer", others, token=token)).status == 403
    running.reload(calls={"restrict": False})
    assert (await running.post("/api/call/answer", others, token=token)).status == 204


@pytest_twisted.ensureDeferred
async def test_country(daemon):
    """The book is looked through by the numbers of the new country."""
    running = await daemon(simulator=company(*PEOPLE, ANNA))
    token = await running.log_in()
    path = "/api/contacts/lookup?number=%2B12025550104"
    assert b"Zo" not in (await running.get(path, token=token)).body
    running.reload(numbers={"country": "US"})
    assert "Zoë" in (await running.get(path, token=token)).body.decode()


@pytest_twisted.ensureDeferred
async def test_sites_and_proxies(daemon):
    """Other sites are let in, and proxies believed, by the new lists."""
    running = await daemon(cors=["https://old.example.com"])
    running.reload(cors=["https://new.example.com"], proxies=["127.0.0.0/8", "::1"])
    for site, allowed in (("https://new.example.com", True), ("https://old.example.com", False)):
        reply = await running.raw("GET", "/api/calls", f"Origin: {site}")
        assert (reply.header("access-control-allow-origin") == site) is allowed
    await running.raw("GET", "/api/calls", "X-Forwarded-For: 203.0.113.7")
    assert " 203.0.113.7 GET /api/calls " in running.log.of("mxflex.access")[-1]
    assert told(running)[:-1] == [
        ("info", "proxies changed from nothing to 127.0.0.0/8, ::1/128: at once"),
        ("info", "cors changed from https://old.example.com to https://new.example.com: at once"),
    ]


@pytest_twisted.ensureDeferred
async def test_html(daemon, tmp_path):
    """Files are those of the new folder."""
    running = await daemon()
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("other")
    assert (await running.get("/")).status == 404
    running.reload(html=str(other))
    assert (await running.get("/")).body == b"other"
    running.reload(html=str(tmp_path / "nothing"))
    assert (await running.get("/")).status == 404
    assert any("there is no folder" in line for line in running.log.lines)


@pytest_twisted.ensureDeferred
async def test_password_of_the_mx(daemon):
    """A password that was wrong is tried at once when it is corrected, and never shown."""
    running = await daemon(mx={"password": "canary-one"}, ready=False)
    await running.when(lambda: any("refuses the login" in line for line in running.log.lines))
    running.reload(mx={"password": "canary-two"})
    # Still wrong, and told again.
    await running.when(lambda: sum("refuses the login" in line for line in running.log.lines) == 2)
    running.reload(mx={"password": "mxflex"})
    await running.when_ready()
    assert told(running)[0] == (
        "info",
        "mx.password changed from *** to ***: for new connections to the MX",
    )
    assert not any("canary-" in line for line in running.log.lines)


@pytest_twisted.ensureDeferred
async def test_certificate_of_the_mx(daemon):
    """Whom to trust as the MX counts for each new connection; the one that is there stays."""
    running = await daemon()
    running.reload(mx={"fingerprint": "00" * 32})
    reply = await running.post("/api/login", {"login": LOGIN, "password": PASSWORD})
    assert reply.status == 503
    assert running.link.up
    running.reload(mx={"fingerprint": running.mx.certificate.fingerprint})
    await running.log_in()


@pytest_twisted.ensureDeferred
async def test_another_mx_takes_a_restart(daemon):
    """The MX itself stays, whatever else changes of it, and each reload says so."""
    running = await daemon()
    running.reload(mx={"addr": "192.0.2.99", "timeout": 5})
    await running.log_in()
    host, port = running.mx.address
    changed = f"mx.addr changed from {host}:{port} to 192.0.2.99:7778"
    line = ("warn", f"{changed}: only after a restart; until then it stays as it is")
    assert told(running) == [
        line,
        ("info", "mx.timeout changed from 7.0 to 5.0: for new connections to the MX"),
        ("info", "configuration reloaded: 1 taken over, 1 left for a restart"),
    ]
    running.reload()
    assert told(running)[3] == line


@pytest_twisted.ensureDeferred
async def test_a_mistake_changes_nothing(daemon):
    """A configuration with a mistake is refused as a whole; what ran before runs on."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    running.reload(events={"max_per_token": 1}, token={"lifetime": "canary"})
    assert (await running.open_stream(token)).status == 200
    running.reload(token={}, mx={"verify": "/nonsense"})
    assert (await running.open_stream(token)).status == 200
    expected = "configuration not reloaded, the old one stays: test.json: "
    assert told(running) == [
        (
            "error",
            f"{expected}token.lifetime: expected a whole number of seconds from 1 to 31536000",
        ),
        ("error", f"{expected}mx.verify: the file cannot be read: No such file or directory"),
    ]
    assert not stream.closed
    running.reload(mx={"verify": "none"})
    await refused(running, token, 429, TOKEN_FULL)


@pytest_twisted.ensureDeferred
async def test_files_of_the_certificate(daemon, tmp_path):
    """Another pair of files is taken; one that does not belong together changes nothing."""
    pairs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pairs.append(Pair(tmp_path / name))
    first, second = (pair.write() for pair in pairs)
    running = await daemon(**pairs[0].settings)
    assert await shown_by(running.ports[0]) == first.certificate
    running.reload(tls=pairs[1].settings["tls"])
    assert await shown_by(running.ports[0]) == second.certificate
    mixed = {**pairs[0].settings["tls"], "key": pairs[1].settings["tls"]["key"]}
    running.reload(tls=mixed, events={"max_per_token": 1})
    assert await shown_by(running.ports[0]) == second.certificate
    assert "does not belong to the certificate" in told(running)[-1][1]
    running.reload(tls=None)
    assert await shown_by(running.ports[0]) == second.certificate
    assert ("warn", "tls.key changed from") in [(level, text[:20]) for level, text in told(running)]
