"""Every key of the configuration that has an effect on HTTP shows it in the running daemon."""

from __future__ import annotations

import pytest
import pytest_twisted

from mxflex.simulator.faults import CommandFault
from tests.integration.daemons import EXT, LOGIN
from tests.ports import free_port

SITE = "https://crm.example.com"
WRONG = {"login": LOGIN, "password": "nonsense"}


# --- Where it listens -----------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_listen_names_every_port(daemon):
    """Each endpoint of `listen` serves the same daemon, and `host` opens no port of its own."""
    port = free_port()
    running = await daemon(
        host=f"localhost:{port}",
        listen=["tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"],
    )
    assert len(set(running.ports)) == 2
    assert port not in running.ports
    for each in running.ports:
        connection = await running.connect(each)
        connection.send(b"GET /api/contacts HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await connection.read_reply()).status == 401
        connection.abort()


@pytest_twisted.ensureDeferred
async def test_host_alone_is_plain_http_on_its_port(daemon):
    """Without `listen` the port of `host` is opened, at the loopback address for `localhost`."""
    port = free_port()
    running = await daemon(host=f"localhost:{port}", listen=None)
    assert set(running.ports) == {port}
    assert (await running.get("/api/contacts")).status == 401
    assert running.hosts <= {"127.0.0.1", "::1"}


@pytest_twisted.ensureDeferred
async def test_a_taken_port_stops_the_start(daemon):
    """When a port cannot be had the start ends with one line that names it."""
    first = await daemon()
    with pytest.raises(SystemExit, match=f"tcp:{first.ports[0]}:interface=127.0.0.1: "):
        await daemon(simulator=first.mx, listen=[f"tcp:{first.ports[0]}:interface=127.0.0.1"])


@pytest_twisted.ensureDeferred
async def test_html_names_the_folder(daemon, tmp_path):
    """Files come from the folder that `html` names, which may appear after the start."""
    folder = tmp_path / "pages"
    running = await daemon(html=str(folder))
    assert (await running.get("/a.txt")).status == 404
    folder.mkdir()
    (folder / "a.txt").write_text("here")
    assert (await running.get("/a.txt")).body == b"here"
    assert "no static files" in "".join(running.log.lines)


# --- Limits ---------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_mx_timeout_is_how_long_a_client_waits(daemon):
    """A command that is not answered is given up after `mx.timeout` seconds, not much later."""
    running = await daemon(mx={"timeout": 0.5})
    token = await running.log_in()
    running.mx.faults.set("MakeCall", CommandFault(ignored=True))
    began = running.seconds()
    assert (await running.post("/api/call", {"to": "3099"}, token=token)).status == 504
    assert 0.5 <= running.seconds() - began < 2


@pytest_twisted.ensureDeferred
async def test_events_history_is_how_much_is_kept(daemon):
    """`events.history` events are kept for each extension: one more, and there is a gap."""
    running = await daemon(events={"history": 2})
    token = await running.log_in()
    watcher = await running.open_stream(token)
    running.mx.call_in("12025550104", EXT)
    running.mx.answer(EXT)
    running.mx.hang_up(EXT)
    events = await watcher.when_events(3)
    kept = await running.open_stream(token, headers={"Last-Event-ID": str(events[0].id)})
    assert await kept.when_events(2) == events[1:]
    running.mx.call_in("12025550104", EXT)
    await watcher.when_events(4)
    gone = await running.open_stream(token, headers={"Last-Event-ID": str(events[0].id)})
    assert (await gone.when_events(1))[0].name == "gap"


# --- Reverse proxies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        ([], ["192.0.2.1"], "127.0.0.1"),
        (["127.0.0.1"], [], "127.0.0.1"),
        (["127.0.0.1"], ["192.0.2.1"], "192.0.2.1"),
        (["127.0.0.0/8"], ["2001:db8::1"], "2001:db8::1"),
        (["127.0.0.1"], ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        (["127.0.0.1"], ["203.0.113.9", "192.0.2.1"], "192.0.2.1"),
        (["127.0.0.1", "10.0.0.0/8"], ["203.0.113.9, 192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        (["127.0.0.1"], ["rubbish"], "127.0.0.1"),
        (["127.0.0.1"], ["192.0.2.1, "], "127.0.0.1"),
        (["10.0.0.0/8"], ["192.0.2.1"], "127.0.0.1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_proxies_are_believed(daemon, proxies, forwarded, address):
    """The log shows the client behind a configured proxy, and nobody else's `X-Forwarded-For`."""
    running = await daemon(proxies=proxies, ready=False)
    await running.raw("GET", "/x", *(f"X-Forwarded-For: {value}" for value in forwarded))
    (line,) = running.log.of("mxflex.access")
    assert f" mxflex.access  {address} GET /x 404 " in line


@pytest_twisted.ensureDeferred
async def test_clients_behind_a_proxy_are_throttled_one_by_one(daemon):
    """Failures count for the client's own address, and for each name."""
    running = await daemon(proxies=["127.0.0.1"], login={"max_failures": 2})

    async def attempt(address, login):
        fields = {"login": login, "password": "nonsense"}
        headers = {"X-Forwarded-For": address}
        return (await running.post("/api/login", fields, headers=headers)).status

    assert [await attempt("192.0.2.1", f"a{n}") for n in range(3)] == [403, 403, 429]
    assert await attempt("192.0.2.2", "b") == 403


@pytest_twisted.ensureDeferred
async def test_an_unbelieved_header_does_not_evade_the_throttle(daemon):
    """Without `proxies` an invented `X-Forwarded-For` gives no fresh start."""
    running = await daemon(login={"max_failures": 2})
    statuses = []
    for number in range(3):
        fields = {"login": f"a{number}", "password": "x"}
        headers = {"X-Forwarded-For": f"192.0.2.{number}"}
        statuses.append((await running.post("/api/login", fields, headers=headers)).status)
    assert statuses == [403, 403, 429]


# --- Other sites ----------------------------------------------------------------------------------

CORS_HEADERS = (
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-allow-credentials",
    "access-control-max-age",
    "access-control-expose-headers",
)


@pytest_twisted.ensureDeferred
async def test_without_cors_no_site_is_let_in(daemon):
    """By default no answer has a header for other sites, and a preflight is 405."""
    running = await daemon(ready=False)
    lines = (f"Origin: {SITE}", "Access-Control-Request-Method: POST")
    for reply in (
        await running.raw("OPTIONS", "/api/login", *lines),
        await running.raw("GET", "/api/contacts", *lines),
    ):
        assert reply.status in (405, 401)
        assert all(reply.header(name) is None for name in CORS_HEADERS)
        assert reply.header("vary") is None


@pytest.mark.parametrize(
    ("path", "method"),
    [("/api/login", "POST"), ("/api/events", "GET"), ("/api/call/hold", "POST")],
)
@pytest_twisted.ensureDeferred
async def test_a_preflight_is_answered(daemon, path, method):
    """A browser of a configured site learns what its page may do, without a token."""
    running = await daemon(cors=[SITE], ready=False)
    reply = await running.raw(
        "OPTIONS",
        path,
        f"Origin: {SITE}",
        f"Access-Control-Request-Method: {method}",
        "Access-Control-Request-Headers: authorization, content-type, last-event-id",
    )
    assert (reply.status, reply.body) == (204, b"")
    assert reply.header("access-control-allow-origin") == SITE
    assert method in reply.header("access-control-allow-methods").split(", ")
    allowed = reply.header("access-control-allow-headers").lower().split(", ")
    assert {"authorization", "content-type", "last-event-id"} <= set(allowed)
    assert int(reply.header("access-control-max-age")) > 0
    assert reply.header("vary") == "Origin"
    assert reply.header("server")
    assert reply.header("content-type") is None


@pytest_twisted.ensureDeferred
async def test_answers_for_a_configured_site_may_be_read(daemon):
    """Successes, errors and streams name the page's origin, so that its script may read them."""
    running = await daemon(cors=[SITE, "https://other.example.com"])
    token = await running.log_in()
    line = f"Origin: {SITE}"
    for reply in (
        await running.raw("GET", "/api/contacts", line, token=token),
        await running.raw("GET", "/api/contacts", line),
        await running.raw("GET", "/api/nothing", line),
        await running.raw("DELETE", "/api/call", line),
        await running.raw("POST", "/api/login", line, body=b"x"),
    ):
        assert reply.header("access-control-allow-origin") == SITE
        exposed = reply.header("access-control-expose-headers").split(", ")
        assert {"Date", "ETag", "Retry-After", "WWW-Authenticate"} <= set(exposed)
        assert "Origin" in ", ".join(reply.headers.getRawHeaders("vary"))
        assert reply.header("access-control-allow-credentials") is None
    stream = await running.open_stream(token, headers={"Origin": SITE})
    assert stream.headers.getRawHeaders("access-control-allow-origin") == [SITE]


@pytest.mark.parametrize("origin", ["https://evil.example.com", "http://crm.example.com", "null"])
@pytest_twisted.ensureDeferred
async def test_other_sites_are_told_nothing(daemon, origin):
    """An origin that is not configured gets no header, but caches know that it matters."""
    running = await daemon(cors=[SITE], ready=False)
    lines = (f"Origin: {origin}", "Access-Control-Request-Method: POST")
    for method in ("OPTIONS", "POST"):
        reply = await running.raw(method, "/api/login", *lines)
        assert reply.status == (405 if method == "OPTIONS" else 400)
        assert all(reply.header(name) is None for name in CORS_HEADERS)
        assert reply.header("vary") == "Origin"


@pytest_twisted.ensureDeferred
async def test_files_may_be_imported_by_configured_sites(daemon):
    """A module loads on a page of a configured site, whether it is new there or known already."""
    running = await daemon(cors=[SITE], ready=False)
    (running.html / "a.js").write_text("export const a = 1;")
    reply = await running.raw("GET", "/a.js", f"Origin: {SITE}")
    known = await running.raw(
        "GET", "/a.js", f"Origin: {SITE}", f"If-None-Match: {reply.header('etag')}"
    )
    assert (reply.status, known.status) == (200, 304)
    for each in (reply, known):
        assert each.header("access-control-allow-origin") == SITE
        assert each.header("access-control-allow-credentials") is None
        assert each.header("vary") == "Origin"
    preflight = await running.raw(
        "OPTIONS", "/a.js", f"Origin: {SITE}", "Access-Control-Request-Method: GET"
    )
    assert preflight.status == 204
    for origin in ("https://evil.example.com", "null"):
        reply = await running.raw("GET", "/a.js", f"Origin: {origin}")
        assert reply.status == 200
        assert all(reply.header(name) is None for name in CORS_HEADERS)


# --- The log --------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_each_request_is_one_line_of_the_log(daemon):
    """The access log has address, method, path, status, bytes, seconds and name of each request."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    await running.get("/nothing?x=1")
    stream.abort()
    await running.when(lambda: len(running.log.of("mxflex.access")) == 3)
    login, nothing, events = running.log.of("mxflex.access")
    assert " mxflex.access  127.0.0.1 POST /api/login 200 " in login
    assert " mxflex.access  127.0.0.1 GET /nothing?x=1 404 64 " in nothing
    assert " mxflex.access  127.0.0.1 GET /api/events 200 " in events
    (name,) = stream.headers.getRawHeaders("x-request-id")
    assert events.endswith(f" (client gone) [{name}]\n")
