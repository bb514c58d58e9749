"""nginx, HAProxy and Caddy in front of MXFlex, each with the file in contrib that is for it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mxflex.config import load
from mxflex.errors import ConfigError
from tests.integration.curl import Curl
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.pebble import HOST, LOOPBACK
from tests.integration.proxies import CONTRIB, Caddy, HAProxy, Nginx

OUTSIDE = "12025550104"
PROXIES = (Nginx, HAProxy, Caddy)
# The most that `events.heartbeat` can be, in seconds.
MAX_HEARTBEAT = 55
VERSIONS = ("--http2", "--http1.1")
every_proxy = pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.command)


@pytest_twisted.async_yield_fixture
async def behind(daemon, tmp_path):
    """Give what starts a daemon and a proxy in front of it; both end with the test."""
    started = []

    async def start(kind, changes=None, **settings):
        running = await daemon(proxies=[LOOPBACK], **settings)
        proxy = kind(reactor, tmp_path / kind.command, running.ports[0], **changes or {})
        started.append(proxy)
        await proxy.start()
        return running, proxy

    yield start
    for each in started:
        await each.stop()


def client(proxy, tmp_path):
    """Give a client of the proxy, which verifies its certificate."""
    return Curl(reactor, tmp_path, proxy.port, proxy.root)


def ring(running, count=1):
    """Let the extension ring and give up, so many times: two events each."""
    for _ in range(count):
        running.mx.call_in(OUTSIDE, EXT)
        running.mx.hang_up(OUTSIDE)


@every_proxy
@pytest_twisted.ensureDeferred
async def test_events_come_while_the_stream_is_open(behind, tmp_path, kind):
    """Nothing is held back: headers come before any event, and a small event by itself."""
    running, proxy = await behind(kind)
    curl = client(proxy, tmp_path)
    token = await curl.log_in(LOGIN, PASSWORD)
    streams = [curl.open_stream(version, token) for version in VERSIONS]
    for stream in streams:
        await stream.when_open()
    for count in (2, 4, 6):
        ring(running)
        for stream in streams:
            assert len(await stream.when_events(count)) == count
    assert not any(stream.command.ended for stream in streams)
    for stream in streams:
        await stream.command.stop()
    assert streams[0].command.output.startswith("HTTP/2 200")
    assert streams[1].command.output.startswith("HTTP/1.1 200")


@every_proxy
@pytest_twisted.ensureDeferred
async def test_a_large_stream_is_whole(behind, tmp_path, kind):
    """Far more than a proxy's buffers comes through, complete, in order, none twice."""
    running, proxy = await behind(kind, events={"max_unsent": 8_000_000})
    curl = client(proxy, tmp_path)
    stream = curl.open_stream("--http2", await curl.log_in(LOGIN, PASSWORD))
    await stream.when_open()
    ring(running, 1000)
    await stream.command.when(lambda: stream.command.output.count("\nid: ") >= 2001)
    ids = [event.id for event in stream.events]
    assert len(ids) == 2000
    assert ids == sorted(set(ids))
    assert len(stream.command.output) > 300_000
    await stream.command.stop()


@every_proxy
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_is_gone(behind, tmp_path, kind):
    """When a client goes the proxy tells MXFlex, which forgets the stream."""
    running, proxy = await behind(kind, events={"max_per_token": 1})
    curl = client(proxy, tmp_path)
    token = await curl.log_in(LOGIN, PASSWORD)
    for ended, version in enumerate(VERSIONS, 1):
        stream = curl.open_stream(version, token)
        await stream.when_open()
        await stream.command.stop("KILL")
        await running.when(lambda ended=ended: len(stream_ends(running)) == ended)


def stream_ends(running):
    """Give the lines about streams that have ended."""
    return [line for line in running.log.of("mxflex.access") if "GET /api/events" in line]


@every_proxy
@pytest_twisted.ensureDeferred
async def test_clients_count_by_their_own_address(behind, tmp_path, kind):
    """Limits and log go by the client's address, not by what it says of itself."""
    running, proxy = await behind(kind, login={"max_failures": 2})
    curl = client(proxy, tmp_path)

    async def attempt(address, login, *options):
        form = ("--data", f"login={login}", "--data", "password=nonsense")
        answer = await curl.get("--http2", "/api/login", "--interface", address, *form, *options)
        return int(re.match(r"HTTP/2 (\d+)", answer)[1])

    assert [await attempt("127.0.0.5", f"a{n}") for n in range(3)] == [403, 403, 429]
    assert await attempt("127.0.0.6", "b") == 403
    lie = ("--header", "X-Forwarded-For: 192.0.2.77")
    assert await attempt("127.0.0.5", "c", *lie) == 429
    lines = running.log.of("mxflex.access")
    assert len([line for line in lines if " 127.0.0.5 POST /api/login " in line]) == 4
    assert not [line for line in lines if "192.0.2.77" in line]


@every_proxy
@pytest_twisted.ensureDeferred
async def test_tokens_in_urls_are_not_written_down(behind, tmp_path, kind):
    """The proxy's log has the path of an event stream without the query."""
    running, proxy = await behind(kind)
    curl = client(proxy, tmp_path)
    token = await curl.log_in(LOGIN, PASSWORD)
    stream = curl.open_stream("--http2", token, in_url=True)
    await stream.when_open()
    await stream.command.stop()
    # Caddy writes down nothing unless it is told to.
    await running.when(lambda: kind is Caddy or "/api/events" in proxy.log)
    await proxy.stop()
    assert token not in proxy.log


@every_proxy
@pytest_twisted.ensureDeferred
async def test_a_request_has_one_name(behind, tmp_path, kind):
    """The proxy names each request, for both logs and the answer, whatever the client says."""
    running, proxy = await behind(kind)
    said = ("--header", "X-Request-ID: made-up")
    answer = await client(proxy, tmp_path).get("--http2", "/api/calls", *said)
    (name,) = re.findall(r"^x-request-id: (\S+)", answer, re.MULTILINE | re.IGNORECASE)
    assert re.fullmatch(r"[0-9a-f-]{32,36}", name)
    assert running.log.of("mxflex.access")[-1].endswith(f" [{name}]\n")
    await running.when(lambda: kind is Caddy or f" [{name}]" in proxy.log)


@every_proxy
@pytest_twisted.ensureDeferred
async def test_open_streams_outlive_a_reload_of_the_proxy(behind, tmp_path, kind):
    """After a reload, streams from before go on, and new ones open by the new configuration."""
    running, proxy = await behind(kind)
    curl = client(proxy, tmp_path)
    token = await curl.log_in(LOGIN, PASSWORD)
    old = [curl.open_stream(version, token) for version in VERSIONS]
    for stream in old:
        await stream.when_open()
    await proxy.reload()
    new = client(proxy, tmp_path).open_stream("--http2", token)
    await new.when_open()
    ring(running)
    for stream in (*old, new):
        assert len(await stream.when_events(2)) == 2
        assert not stream.command.ended
        await stream.command.stop()


@pytest_twisted.ensureDeferred
async def test_comments_keep_quiet_streams_open(behind, tmp_path):
    """A stream that is quiet for longer than a proxy bears stays open by its comments."""
    short = {
        Nginx: {
            "proxy_read_timeout 5m": "proxy_read_timeout 2s",
            "send_timeout 5m": "send_timeout 2s",
        },
        HAProxy: {
            "timeout client 5m": "timeout client 2s",
            "timeout server 5m": "timeout server 2s",
        },
    }
    streams = []
    for kind, changes in short.items():
        _, proxy = await behind(kind, changes, events={"heartbeat": 0.5})
        curl = client(proxy, tmp_path)
        token = await curl.log_in(LOGIN, PASSWORD)
        streams += [curl.open_stream(version, token) for version in VERSIONS]
    for stream in streams:
        # Three seconds of them.
        await stream.command.when_says("\n:", count=6)
        await stream.command.stop()


def test_proxies_bear_more_silence_than_there_is():
    """In the files each limit on silence is longer than the longest `events.heartbeat`."""
    with pytest.raises(ConfigError, match=r"events\.heartbeat"):
        load(
            '{"mx": {"addr": "a"}}',
            "test.json",
            {"MXFLEX_EVENTS_HEARTBEAT": str(MAX_HEARTBEAT + 1)},
        )
    events = CONTRIB.joinpath("nginx.conf").read_text(encoding="utf-8").partition("/api/events")[2]
    limits = re.findall(r"(proxy_read|send)_timeout (\d+)m;", events)
    defaults = CONTRIB.joinpath("haproxy.cfg").read_text(encoding="utf-8")
    limits += re.findall(r"timeout (client|server) (\d+)m\n", defaults)
    assert [name for name, _ in limits] == ["proxy_read", "send", "client", "server"]
    assert all(int(minutes) * 60 > MAX_HEARTBEAT for _, minutes in limits)


@pytest.mark.parametrize("kind", [Nginx, HAProxy], ids=lambda kind: kind.command)
@pytest_twisted.ensureDeferred
async def test_plain_http_is_sent_to_https(behind, tmp_path, kind):
    """Who comes by plain HTTP is sent to the same page on HTTPS; on HTTPS, told to stay there.

    A token in the URL is not written down there, either.
    """
    running, proxy = await behind(kind)
    status, headers = await deferToThread(fetch, proxy.plain_port)
    assert (status, headers["Location"]) == (301, f"https://{HOST}/api/calls?x=1")
    await running.when(lambda: kind is Caddy or "/api/calls" in proxy.log)
    assert "x=1" not in proxy.log
    answer = await client(proxy, tmp_path).get("--http1.1", "/api/calls")
    assert "strict-transport-security: max-age=31536000\r\n" in answer.lower()


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.command)
def test_the_document_shows_what_is_in_the_file(kind):
    """Each line of a configuration in docs/deploy.md stands in the file that it is about."""
    document = CONTRIB.with_name("docs").joinpath("deploy.md").read_text(encoding="utf-8")
    about = document.partition(f"[contrib/{kind.file}]")[2].partition("\n### ")[0]
    shown = [line.strip() for line in about.splitlines() if line.startswith("    ")]
    text = (CONTRIB / kind.file).read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    assert shown
    assert [line for line in shown if line and line not in lines] == []


def fetch(port):
    """Make a plain request and give status and headers; redirects are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    request = urllib.request.Request(
        f"http://{LOOPBACK}:{port}/api/calls?x=1", headers={"Host": HOST}
    )
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as response:
            return response.status, response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers
