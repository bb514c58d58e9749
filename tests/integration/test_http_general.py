"""What holds for every answer: its form, its headers, its size, and what it must not tell."""

from __future__ import annotations

import gzip
import json
from itertools import product

import pytest
import pytest_twisted

from mxflex import __version__
from mxflex.simulator.faults import CommandFault
from mxflex.wire.messages import CSTAError
from tests.integration.daemons import EXT, LOGIN, PASSWORD, SERVER_PASSWORD
from tests.integration.raw_http import request_bytes

FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
CREDENTIALS = f"login={LOGIN}&password={PASSWORD}".encode()


# --- Bodies in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", CREDENTIALS),
        ("application/x-www-form-urlencoded; charset=utf-8", CREDENTIALS),
        ("Application/X-WWW-Form-Urlencoded;charset=UTF-8", CREDENTIALS),
        ("application/json", json.dumps({"login": LOGIN, "password": PASSWORD}).encode()),
        ("application/json; charset=utf-8", b'{"password":"password","login":"user_login"}'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bodies_are_forms_or_json(daemon, content_type, body):
    """A form and a JSON object with the same names are read alike, by any spelling of the type."""
    running = await daemon()
    reply = await running.raw("POST", "/api/login", f"Content-Type: {content_type}", body=body)
    assert reply.status == 200


@pytest.mark.parametrize("path", ["/api/login", "/api/call", "/api/call/hold"])
@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Type: text/plain",),
        ("Content-Type: multipart/form-data; boundary=x",),
        ("Content-Type: application/xml",),
        ("Content-Type: application/json; charset=utf-16",),
        (),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_types_of_body_are_415(daemon, path, lines):
    """A call that needs a body refuses any other type of it, and a body without a type."""
    running = await daemon()
    token = await running.log_in()
    reply = await running.raw("POST", path, *lines, token=token, body=CREDENTIALS)
    assert reply.status == 415
    assert reply.error


@pytest_twisted.ensureDeferred
async def test_a_call_without_a_need_for_a_body_takes_any(daemon):
    """Logging out needs no body, so a page that sends one of another type is not refused.

    `navigator.sendBeacon` sends `text/plain`, and can put the token into the URL alone.
    """
    running = await daemon()
    token = await running.log_in()
    target = f"/api/logout?access_token={token}"
    reply = await running.raw("POST", target, "Content-Type: text/plain", body=b"bye")
    assert reply.status == 204


@pytest.mark.parametrize(
    ("size", "status"), [(64 * 1024, 403), (64 * 1024 + 1, 413), (3 * 1024 * 1024, 413)]
)
@pytest_twisted.ensureDeferred
async def test_bodies_over_64_kib_are_413(daemon, size, status):
    """A body of exactly 64 KiB is read; one byte more is refused, and so are megabytes."""
    running = await daemon()
    start = b"login=nobody&password=x&filler="
    body = start + b"x" * (size - len(start))
    reply = await running.raw("POST", "/api/login", FORM, body=body)
    assert reply.status == status
    assert reply.header("server") == f"MXFlex/{__version__}"
    assert reply.error


@pytest_twisted.ensureDeferred
async def test_a_chunked_body_over_64_kib_is_413(daemon):
    """The limit holds for a body that does not tell its length."""
    running = await daemon()
    connection = await running.connect()
    head = request_bytes("POST", "/api/login", FORM, "Transfer-Encoding: chunked")
    connection.send(head)
    for _ in range(5):
        connection.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    connection.send(b"0\r\n\r\n")
    reply = await connection.read_reply()
    assert reply.status == 413
    assert reply.error


# --- Answers --------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_json_keys_come_in_the_order_of_the_contract(daemon):
    """Answers are compact JSON in UTF-8 whose keys stand in the promised order."""
    running = await daemon()
    reply = await running.raw("POST", "/api/login", FORM, body=CREDENTIALS)
    assert reply.header("content-type") == "application/json; charset=utf-8"
    assert list(reply.json) == ["token_type", "access_token", "expires_in"]
    made = await running.post("/api/call", {"to": "3099"}, token=reply.json["access_token"])
    assert made.body == b'{"call":{"callId":1,"deviceId":"3095","called":"3099"}}'
    error = await running.raw("POST", "/api/login", FORM)
    name = error.header("x-request-id")
    assert error.body.decode() == f'{{"code":400,"error":"login required","request_id":"{name}"}}'


@pytest_twisted.ensureDeferred
async def test_nothing_to_say_is_204_without_a_body(daemon):
    """204 carries no body, and no header that speaks of one."""
    running = await daemon()
    reply = await running.raw("GET", "/api/logout", token=await running.log_in())
    assert reply.status == 204
    assert reply.header("content-type") is None
    assert reply.header("content-length") in (None, "0")
    assert reply.header("transfer-encoding") is None


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/", "/api/nothing", "/api/login/", "/api//login", "/nothing", "/sub/nothing.js"],
)
@pytest_twisted.ensureDeferred
async def test_unknown_paths_are_404_in_json(daemon, path):
    """An unknown path is 404 in the form of all errors, under `/api/` and among the files."""
    running = await daemon()
    reply = await running.raw("GET", path)
    assert reply.status == 404
    assert reply.error == "not found"


ROUTES = {
    "/api/login": ("POST",),
    "/api/logout": ("GET", "HEAD", "POST"),
    "/api/events": ("GET",),
    "/api/contacts": ("GET", "HEAD"),
    "/api/calls": ("GET", "HEAD"),
    "/api/call": ("POST",),
    "/api/call/hangup": ("POST",),
    "/api/call/hold": ("POST",),
    "/api/call/transfer": ("POST",),
    "/index.css": ("GET", "HEAD"),
    "/": ("GET", "HEAD"),
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW", "M-SEARCH")


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for (path, allowed), method in product(ROUTES.items(), METHODS)
        if method not in allowed
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_method_is_405_with_allow(daemon, path, method):
    """A method that a path does not have is 405, and `Allow` names those that it has."""
    running = await daemon(ready=False)
    (running.html / "index.css").write_text("")
    reply = await running.raw(method, path)
    assert reply.status == 405
    allowed = ", ".join(ROUTES[path])
    assert reply.header("allow") == allowed
    assert reply.header("server") == f"MXFlex/{__version__}"
    assert reply.error == f"method not allowed, expected {allowed}"


@pytest_twisted.ensureDeferred
async def test_head_of_an_event_stream_is_405(daemon):
    """HEAD works wherever GET does but for the event stream, which has no end to tell of."""
    running = await daemon()
    reply = await running.raw("HEAD", "/api/events", token=await running.log_in())
    assert reply.status == 405
    assert reply.header("allow") == "GET"


@pytest.mark.parametrize("path", ["/api/contacts", "/api/calls", "/", "/style.css", "/nothing"])
@pytest_twisted.ensureDeferred
async def test_head_is_get_without_the_body(daemon, path):
    """HEAD gives the status and the headers of GET, the length of the body included."""
    running = await daemon()
    token = await running.log_in()
    (running.html / "index.html").write_text("<p>welcome")
    (running.html / "style.css").write_text("p {}")
    get = await running.raw("GET", path, token=token)
    connection = await running.connect()
    connection.send(request_bytes("HEAD", path, f"Authorization: Bearer {token}"))
    head = await connection.read_reply("HEAD")
    await connection.when_closed()
    assert not connection.received
    assert head.status == get.status
    for name in ("content-type", "content-length", "etag", "last-modified", "cache-control"):
        assert head.header(name) == get.header(name), name
    assert get.header("content-length") == str(len(get.body))


@pytest_twisted.ensureDeferred
async def test_head_of_logout_logs_out(daemon):
    """HEAD works on `/api/logout`, which GET has."""
    running = await daemon()
    reply = await running.raw("HEAD", "/api/logout", token=await running.log_in())
    assert reply.status == 204


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (request_bytes("GET", "/"), 200),
        (request_bytes("HEAD", "/"), 200),
        (request_bytes("GET", "/index.html"), 301),
        (request_bytes("GET", "/", "If-None-Match: *"), 304),
        (request_bytes("GET", "/", "Range: bytes=0-1"), 206),
        (request_bytes("GET", "/", "Range: bytes=99-"), 416),
        (request_bytes("POST", "/api/login", FORM), 400),
        (request_bytes("GET", "/api/contacts"), 401),
        (request_bytes("GET", "/nothing"), 404),
        (request_bytes("GET", "/api/nothing"), 404),
        (request_bytes("GET", "/api/login"), 405),
        (request_bytes("POST", "/"), 405),
        (request_bytes("OPTIONS", "/"), 405),
        (request_bytes("OPTIONS", "/api/login"), 405),
        (request_bytes("OPTIONS", "*"), 200),
        (request_bytes("POST", "/api/login", FORM, body=b"x" * 65537), 413),
        (request_bytes("POST", "/api/login", FORM, "Content-Length: 9999999999"), 413),
        (request_bytes("POST", "/api/login", body=b"x"), 415),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"rubbish\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_answer_says_which_server_gives_it(daemon, request_, status):
    """`Server: MXFlex/<version>` stands once in every answer, to rubbish on the line too."""
    running = await daemon(ready=False)
    (running.html / "index.html").write_text("<p>hello")
    connection = await running.connect()
    connection.send(request_)
    reply = await connection.read_reply("HEAD" if request_.startswith(b"HEAD") else "GET")
    assert reply.status == status
    assert reply.header("server") == f"MXFlex/{__version__}"
    if status >= 400:
        assert reply.error


# --- Compression ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "zipped"),
    [
        ((), False),
        (("Accept-Encoding: gzip",), True),
        (("Accept-Encoding: deflate, GZIP;q=0.5, br",), True),
        (("Accept-Encoding: deflate", "Accept-Encoding: gzip", "Accept-Encoding: br"), True),
        (("Accept-Encoding: *",), True),
        (("Accept-Encoding: gzip;q=0",), False),
        (("Accept-Encoding: gzip;q=0.0, *",), False),
        (("Accept-Encoding: *;q=0",), False),
        (("Accept-Encoding: identity",), False),
        (("Accept-Encoding:",), False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_large_json_is_compressed_when_asked_for(daemon, lines, zipped):
    """JSON over 1 KiB goes out as gzip to whoever asks, and only to them; caches are told."""
    running = await daemon()
    token = await running.log_in()
    plain = await running.raw("GET", "/api/contacts", token=token)
    assert len(plain.body) > 1024
    assert plain.header("content-encoding") is None
    reply = await running.raw("GET", "/api/contacts", *lines, token=token)
    assert reply.header("vary") == "Accept-Encoding"
    assert reply.header("content-length") == str(len(reply.body))
    assert reply.header("content-encoding") == ("gzip" if zipped else None)
    assert (gzip.decompress(reply.body) if zipped else reply.body) == plain.body
    assert reply.header("etag") == plain.header("etag")


@pytest_twisted.ensureDeferred
async def test_small_json_is_not_compressed(daemon):
    """An answer of 1 KiB or less goes out as it is."""
    running = await daemon()
    reply = await running.raw("POST", "/api/login", FORM, "Accept-Encoding: gzip", body=CREDENTIALS)
    assert reply.status == 200
    assert reply.header("content-encoding") is None


@pytest_twisted.ensureDeferred
async def test_event_streams_are_never_compressed(daemon):
    """A stream stays plain text, whatever the client would take."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token, headers={"Accept-Encoding": "gzip"})
    await stream.when(lambda: stream.text)
    assert not stream.headers.hasHeader("content-encoding")
    assert stream.text.startswith(b"retry: ")


# --- No leaks -------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_nothing_secret_in_answers_and_log_lines(daemon):
    """No password, token, path, address of the MX or traceback is told or logged."""
    running = await daemon(mx={"timeout": 0.2})
    token = await running.log_in()
    secrets = [PASSWORD + "-wrong", "letmein99", token, token.split(".")[2]]
    stream = await running.open_stream(None, query=f"?access_token={token}")
    running.mx.faults.set("HoldCall", CommandFault(ignored=True))
    running.mx.faults.set("ParkCall", CommandFault(answer=CSTAError(text="noPark")))
    running.mx.call_in("+12025550104", EXT)
    running.mx.answer(EXT)
    event = await stream.when_event("EstablishedEvent")
    fields = {"callId": event.json["callId"], "deviceId": EXT}
    replies = [
        await running.post("/api/login", {"login": LOGIN, "password": secrets[0]}),
        await running.post("/api/login?password=letmein99", {"login": LOGIN}),
        await running.get(f"/api/contacts?access_token={token}"),
        await running.get(f"/api/contacts?x=1&access_token={token}x"),
        await running.get(f"/api/contacts?ACCESS_TOKEN={token}"),
        await running.get("/api/contacts", token=token + "x"),
        await running.get(f"/{token}"),
        await running.post("/api/call/hold", fields, token=token),
        await running.post("/api/call/park", fields, token=token),
        await running.post("/api/call", {"to": "\x00"}, token=token),
        await running.get("/../../etc/passwd"),
        await running.get("/%00"),
    ]
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    replies += [
        await running.post("/api/login", {"login": LOGIN, "password": PASSWORD}),
        await running.post("/api/call", {"to": "3099"}, token=token),
        await running.post("/api/call/hold", fields, token=token),
    ]
    assert [reply.status for reply in replies[-3:]] == [503, 503, 503]
    host, port = running.mx.address
    address = f"{host}:{port}"
    told = [reply.body.decode() + str(reply.headers) for reply in replies]
    for text in told:
        assert not any(secret in text for secret in [*secrets, address, str(port), "/html"])
        assert "Traceback" not in text
        assert "/" not in json.loads(text.partition("Headers(")[0] or "{}").get("error", "")
    # The simulator's own lines, and Twisted's about its port, are none of the daemon's.
    foreign = (" mxflex.simulator.", "_Door starting on", f"(TCP Port {port} Closed)")
    lines = "".join(line for line in running.log.lines if not any(map(line.__contains__, foreign)))
    for secret in [*secrets, address, str(port), f"password={SERVER_PASSWORD}", "Traceback"]:
        assert secret not in lines, secret


@pytest_twisted.ensureDeferred
async def test_the_token_of_a_logged_address_is_masked(daemon):
    """The access log shows `access_token=***` where a token stood, and the rest of the line."""
    running = await daemon()
    token = await running.log_in()
    await running.get(f"/api/contacts?a=1&access_token={token}&b=2")
    (line,) = [line for line in running.log.of("mxflex.access") if "/api/contacts" in line]
    assert " GET /api/contacts?a=1&access_token=***&b=2 200 " in line


@pytest_twisted.ensureDeferred
async def test_the_ticket_of_a_logged_address_is_masked(daemon):
    """The access log shows `ticket=***` where a ticket stood, however it was spelled."""
    running = await daemon()
    ticket = (await running.post("/api/ticket", token=await running.log_in())).json["ticket"]
    stream = await running.open_stream(None, query=f"?lastEventId=1&%74icket={ticket}")
    assert stream.status == 200
    stream.abort()
    await running.when(lambda: any("/api/events" in line for line in running.log.lines))
    (line,) = [line for line in running.log.of("mxflex.access") if "/api/events" in line]
    assert " GET /api/events?lastEventId=1&ticket=*** 200 " in line
    assert not any(ticket in line for line in running.log.lines)
