"""The name of a request: in its answer, in its lines in the log, and in the commands it makes."""

from __future__ import annotations

import re

import pytest
import pytest_twisted

from mxflex.gateway.calls import Calls
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.test_http_calls import talking

NAME = re.compile(r"[0-9a-f]{16}")
FROM_PROXY = "4bf92f3577b34da6a3ce929d0e0e4736"


def named(running, name):
    """Give what the log says of a request, without the time."""
    return [line.split(" ", 1)[1] for line in running.log.lines if line.endswith(f" [{name}]\n")]


@pytest_twisted.ensureDeferred
async def test_every_answer_names_its_request(daemon):
    """Each answer has a name of its own, whether it comes from a route, a file or neither."""
    running = await daemon()
    token = await running.log_in()
    (running.html / "index.html").write_text("hello")
    requests = (
        ("POST", "/api/login", 400),
        ("GET", "/api/calls", 200),
        ("HEAD", "/api/calls", 200),
        ("GET", "/api/nothing", 404),
        ("DELETE", "/api/calls", 405),
        ("OPTIONS", "/api/calls", None),
        ("GET", "/", 200),
        ("GET", "/index.html", 301),
        ("GET", "/nothing", 404),
        ("OPTIONS", "*", 200),
        ("GET", "/api/logout", 204),
        ("GET", "/api/events", 403),
        ("get", "/", 400),
    )
    names = set()
    for method, target, status in requests:
        reply = await running.raw(method, target, token=token)
        assert status in (None, reply.status)
        assert NAME.fullmatch(reply.header("x-request-id"))
        names.add(reply.header("x-request-id"))
        if reply.status >= 400:
            assert reply.error
    assert len(names) == len(requests)


@pytest_twisted.ensureDeferred
async def test_access_log_names_the_request(daemon):
    """The line of a request ends with its name; so does that of a stream, when it ends."""
    running = await daemon()
    token = await running.log_in()
    reply = await running.get("/api/calls", token=token)
    (line,) = named(running, reply.header("x-request-id"))
    assert line.startswith("info  mxflex.access  127.0.0.1 GET /api/calls 200 ")
    stream = await running.open_stream(token)
    (name,) = stream.headers.getRawHeaders("x-request-id")
    assert not named(running, name)
    running.mx.call_in("12025550104", EXT)
    await stream.when_events(1)
    stream.abort()
    await running.when(lambda: named(running, name))
    (line,) = named(running, name)
    assert " GET /api/events 200 " in line
    assert line.endswith(f" (client gone) [{name}]\n")


@pytest_twisted.ensureDeferred
async def test_requests_side_by_side_keep_their_names(daemon):
    """What is logged for requests that wait at the same time is each logged under its own name."""
    running = await daemon()
    wrong = {"login": LOGIN, "password": "wrong"}
    right = {"login": LOGIN, "password": PASSWORD}
    asked = [running.later(running.post("/api/login", each)) for each in (right, wrong, right)]
    for each, word in zip(asked, ("login ok", "login refused", "login ok"), strict=True):
        reply = await each
        lines = named(running, reply.header("x-request-id"))
        assert any("mxflex.audit" in line and word in line for line in lines)
        # The command to the MX, and the access log.
        assert any("mxflex.mx.protocol  sent loginRequest as" in line for line in lines)
        assert sum(line.startswith("info  mxflex.access ") for line in lines) == 1


@pytest_twisted.ensureDeferred
async def test_commands_are_found_by_the_name(daemon):
    """The command that a call of the API sends to the MX is logged under the request's name."""
    running = await daemon()
    token = await running.log_in()
    reply = await running.post("/api/call/hold", talking(running), token=token)
    assert reply.status == 204
    lines = named(running, reply.header("x-request-id"))
    assert any("mxflex.mx.protocol  sent HoldCall as" in line for line in lines)


@pytest_twisted.ensureDeferred
async def test_a_bug_is_found_by_the_name(daemon, monkeypatch):
    """A request that fails by a bug tells its client the name under which the traceback stands."""
    running = await daemon()
    token = await running.log_in()

    def fail(*_arguments):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(Calls, "of", fail)
    reply = await running.get("/api/calls", token=token)
    assert reply.error == "internal server error"
    traceback, _access = named(running, reply.header("x-request-id"))
    assert "ZeroDivisionError: on purpose" in traceback
    assert running.log.bugs.pop() in running.log.lines


@pytest.mark.parametrize(
    "broken",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_request_has_a_name(daemon, broken):
    """A refusal of bytes that are no sound request has a name, and the log has it, too."""
    running = await daemon()
    connection = await running.connect()
    connection.send(broken)
    reply = await connection.read_reply()
    assert reply.error
    name = reply.header("x-request-id")
    assert NAME.fullmatch(name)
    (line,) = named(running, name)
    assert line.startswith("info  mxflex.access  127.0.0.1 ")
    assert f" {reply.status} " in line


@pytest_twisted.ensureDeferred
async def test_http2(secure):
    """The same on HTTP/2, for answers and for refusals."""
    server = await secure()
    client = await server.connect()
    exchange = await client.ask("GET", "/api/calls")
    assert exchange.error == "access token required"
    (line,) = named(server, exchange.headers["x-request-id"])
    assert " GET /api/calls 401 " in line
    refused = await client.upload("/api/login", (("content-type", "text/plain"),), b" " * 3_000_000)
    assert refused.error == "the body is too large"
    (line,) = named(server, refused.headers["x-request-id"])
    assert " refused: 413 " in line


@pytest.mark.parametrize("given", [FROM_PROXY, "a", "01J9ZC3W.x_y-z", "x" * 64])
@pytest_twisted.ensureDeferred
async def test_a_proxy_names_its_requests(daemon, given):
    """What a configured proxy calls a request it is called here, in answer, error and log."""
    running = await daemon(proxies=["127.0.0.1"])
    reply = await running.raw("GET", "/api/calls", f"X-Request-ID: {given}")
    assert reply.header("x-request-id") == reply.json["request_id"] == given
    assert named(running, given)


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-Request-ID: {'x' * 65}"],
        ["X-Request-ID:"],
        ["X-Request-ID: a b"],
        ["X-Request-ID: a]b"],
        ['X-Request-ID: a"b'],
        ["X-Request-ID: -a"],
        ["X-Request-ID: \xe9"],
        ["X-Request-ID: a", "X-Request-ID: a"],
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_names_are_not_taken(daemon, lines):
    """A name that is too long, not plain or given twice is not taken, not even of a proxy."""
    running = await daemon(proxies=["127.0.0.1"])
    reply = await running.raw("GET", "/api/calls", *lines)
    assert NAME.fullmatch(reply.header("x-request-id"))


@pytest.mark.parametrize("proxies", [[], ["192.0.2.1"]])
@pytest_twisted.ensureDeferred
async def test_clients_do_not_name_requests(daemon, proxies):
    """Whoever is no configured proxy has no say in the name."""
    running = await daemon(proxies=proxies)
    reply = await running.raw("GET", "/api/calls", f"X-Request-ID: {FROM_PROXY}")
    assert NAME.fullmatch(reply.header("x-request-id"))
