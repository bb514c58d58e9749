"""What comes on an HTTP connection and is no proper request: refused in good form, or cut."""

from __future__ import annotations

import contextlib
import socket
import zlib

import attrs
import pytest
import pytest_twisted

from mxflex.web import site
from mxflex.web.site import MAX_BODY_BYTES, SERVER, Channel
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.victims import (
    Sitter,
    Victims,
    connections,
    eventually,
    exchange,
    read_status,
    request,
    served,
    turn,
)

FORM = "Content-Type: application/x-www-form-urlencoded"
CREDENTIALS = f"login={LOGIN}&password={PASSWORD}".encode()


@pytest_twisted.async_yield_fixture
async def victim(daemon):
    """Give the builder of daemons that must be well after the test."""
    victims = Victims(daemon)
    yield victims.start
    await victims.check()


def lines(*parts):
    """Join the lines of a head."""
    return b"\r\n".join([*parts, b"", b""])


HOST = b"Host: a"
POST = b"POST /api/login HTTP/1.1"
GET = b"GET /api/contacts HTTP/1.1"
# Each name says what is wrong; then the bytes, and the status of the refusal.
BROKEN = {
    "two lengths": (lines(POST, HOST, b"Content-Length: 5", b"Content-Length: 6") + b"a" * 6, 400),
    "the same length twice": (lines(POST, HOST, *[b"Content-Length: 1"] * 2) + b"a", 400),
    "two lengths in one": (lines(POST, HOST, b"Content-Length: 1, 1") + b"a", 400),
    "length and chunks": (
        lines(POST, HOST, b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "chunks and length": (
        lines(POST, HOST, b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
        400,
    ),
    "length with a sign": (lines(POST, HOST, b"Content-Length: +5") + b"a" * 5, 400),
    "length below zero": (lines(POST, HOST, b"Content-Length: -5"), 400),
    "length in hex": (lines(POST, HOST, b"Content-Length: 0x5") + b"a" * 5, 400),
    "length in other digits": (
        lines(POST, HOST, "Content-Length: \N{ARABIC-INDIC DIGIT FIVE}".encode()),
        400,
    ),
    "length with an underscore": (lines(POST, HOST, b"Content-Length: 1_0"), 400),
    "length of 5,000 digits": (lines(POST, HOST, b"Content-Length: " + b"9" * 5000), 413),
    "length of 4,000 digits": (lines(POST, HOST, b"Content-Length: " + b"9" * 4000), 413),
    "chunked twice": (lines(POST, HOST, *[b"Transfer-Encoding: chunked"] * 2), 400),
    "an unknown coding": (lines(POST, HOST, b"Transfer-Encoding: xchunked"), 400),
    "a coding before chunked": (lines(POST, HOST, b"Transfer-Encoding: gzip, chunked"), 400),
    "identity": (
        lines(POST, HOST, b"Transfer-Encoding: identity", b"Content-Length: 1") + b"a",
        400,
    ),
    "chunks in HTTP/1.0": (
        lines(b"POST /api/login HTTP/1.0", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "a blank before the colon": (lines(POST, HOST, b"Transfer-Encoding : chunked"), 400),
    "a tab in a coding": (lines(POST, HOST, b"Transfer-Encoding: \x0bchunked"), 400),
    "a coding on a line of its own": (
        lines(POST, HOST, b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n",
        400,
    ),
    "a length on a line of its own": (
        lines(POST, HOST, b"Content-Length:", b"\t1") + b"a",
        400,
    ),
    "a length that belongs to the host": (
        lines(POST, HOST, b" Content-Length: 1") + b"a",
        400,
    ),
    "a folded header": (lines(GET, HOST, b"X: a", b"  folded"), 400),
    "a coding and a comma": (lines(POST, HOST, b"Transfer-Encoding: chunked,"), 400),
    "a comma and a coding": (lines(POST, HOST, b"Transfer-Encoding: , chunked"), 400),
    "a coding in quotes": (lines(POST, HOST, b'Transfer-Encoding: "chunked"'), 400),
    "a coding with a parameter": (lines(POST, HOST, b"Transfer-Encoding: chunked;q=1"), 400),
    "a coding behind another blank": (lines(POST, HOST, b"Transfer-Encoding: \xa0chunked"), 400),
    "no coding": (
        lines(POST, HOST, b"Transfer-Encoding:", b"Content-Length: 1") + b"a",
        400,
    ),
    "a length and a blank before the colon": (lines(POST, HOST, b"Content-Length : 1") + b"a", 400),
    "a length and a comma": (lines(POST, HOST, b"Content-Length: 1,") + b"a", 400),
    "two lengths and a blank": (lines(POST, HOST, b"Content-Length: 1 1") + b"a", 400),
    "a length of nothing": (lines(POST, HOST, b"Content-Length:") + b"a", 400),
    "a length with a point": (lines(POST, HOST, b"Content-Length: 1.0") + b"a", 400),
    "two lengths of other cases": (
        lines(POST, HOST, b"content-length: 1", b"CONTENT-LENGTH: 2") + b"aa",
        400,
    ),
    "chunks with line feeds alone": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1\na\n0\n\n\r\n",
        400,
    ),
    "a line feed in a chunk extension": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1;a\nb\r\na\r\n0\r\n\r\n",
        400,
    ),
    "a blank behind a chunk size": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1 \r\na\r\n0\r\n\r\n",
        400,
    ),
    "a chunk size below zero": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"-1\r\na\r\n0\r\n\r\n",
        400,
    ),
    "a chunk size with an underscore": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1_0\r\na\r\n0\r\n\r\n",
        400,
    ),
    "a chunk without an end": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1\r\naXX0\r\n\r\n",
        400,
    ),
    "a chunk without a size": (lines(POST, HOST, b"Transfer-Encoding: chunked") + b"\r\n\r\n", 400),
    "a chunk size with a sign": (lines(POST, HOST, b"Transfer-Encoding: chunked") + b"+1\r\n", 400),
    "a chunk size in 0x": (lines(POST, HOST, b"Transfer-Encoding: chunked") + b"0x1\r\na\r\n", 400),
    "a chunk size of 2,000 digits": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1" * 2000 + b"\r\n",
        400,
    ),
    "a chunk longer than its size": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1\r\nab\r\n0\r\n\r\n",
        400,
    ),
    "a chunk extension without end": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"1;" + b"a" * 2000,
        400,
    ),
    "a trailer of 100 kB": (
        lines(POST, HOST, b"Transfer-Encoding: chunked") + b"0\r\nX: " + b"a" * 100_000,
        400,
    ),
    "line feeds alone": (b"GET /api/contacts HTTP/1.1\nHost: a\n\r\n\r\n", 400),
    "a line feed in a header": (lines(GET, HOST, b"X: a\nContent-Length: 5"), 400),
    "a carriage return in a header": (lines(GET, HOST, b"X: a\rb"), 400),
    "a zero byte in a header": (lines(GET, HOST, b"X: a\0b"), 400),
    "a zero byte in a name": (lines(GET, HOST, b"X\0: a"), 400),
    "a zero byte in the target": (lines(b"GET /\0 HTTP/1.1", HOST), 400),
    "a header without a colon": (lines(GET, HOST, b"X"), 400),
    "a header without a name": (lines(GET, HOST, b": a"), 400),
    "a continuation of nothing": (lines(GET, b" X: a", HOST), 400),
    "no version": (lines(b"GET /api/contacts", HOST), 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/2 without TLS": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/1.2": (lines(b"GET /api/contacts HTTP/1.2", HOST), 400),
    "HTTP/11.1": (lines(b"GET /api/contacts HTTP/11.1", HOST), 400),
    "http in small letters": (lines(b"GET /api/contacts http/1.1", HOST), 400),
    "words behind the version": (lines(b"GET /api/contacts HTTP/1.1 x", HOST), 400),
    "tabs for blanks": (lines(b"GET\t/api/contacts\tHTTP/1.1", HOST), 400),
    "a byte order mark": (b"\xef\xbb\xbf" + lines(GET, HOST), 400),
    "50 empty lines": (b"\r\n" * 50 + lines(GET, HOST), 400),
    "a carriage return too many": (GET + b"\r\nHost: a\r\r\n\r\n", 400),
    "a carriage return before a name": (GET + b"\r\nHost: a\r\n\rX: b\r\n\r\n", 400),
    "two blanks": (lines(b"GET  /api/contacts HTTP/1.1", HOST), 400),
    "no target": (lines(b"GET HTTP/1.1", HOST), 400),
    "a method in small letters": (lines(b"get /api/contacts HTTP/1.1", HOST), 400),
    "a method of punctuation": (lines(b"!#$ /api/contacts HTTP/1.1", HOST), 405),
    "a method of 300 letters": (lines(b"G" * 300 + b" /api/contacts HTTP/1.1", HOST), 400),
    "a method that is no token": (lines(b"GE(T /api/contacts HTTP/1.1", HOST), 400),
    "TLS on the plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 2, 400),
    "no host": (lines(GET), 400),
    "two hosts": (lines(GET, HOST, b"Host: b"), 400),
    "a host of dots": (lines(GET, b"Host: .."), 400),
    "a host of colons": (lines(GET, b"Host: :.:"), 400),
    "a host with a quote": (lines(GET, b'Host: a"b'), 400),
    "a host with an empty label": (lines(GET, b"Host: a..b"), 400),
    "a host with a path": (lines(GET, b"Host: a/b"), 400),
    "a host with a user": (lines(GET, b"Host: u@a"), 400),
    "a host of other bytes": (lines(GET, b"Host: \xff\xfe"), 400),
    "a host of other letters": (lines(GET, "Host: пример".encode()), 400),
    "half a bracket": (lines(GET, b"Host: [::1"), 400),
    "two authorizations": (lines(GET, HOST, *[b"Authorization: Bearer a"] * 2), 400),
    "two types": (
        lines(POST, HOST, b"Content-Type: application/json", FORM.encode(), b"Content-Length: 2")
        + b"{}",
        400,
    ),
    "a header of 20 kB": (lines(GET, HOST, b"X: " + b"a" * 20_000), 431),
    "a header of 20 kB without end": (GET + b"\r\nX: " + b"a" * 20_000, 431),
    "a target of 20 kB": (lines(b"GET /" + b"a" * 20_000 + b" HTTP/1.1", HOST), 431),
    "a line of 1 MB": (b"a" * 1_000_000, 431),
    "20 kB of headers": (lines(GET, HOST, *[b"X: " + b"a" * 200] * 100), 400),
    "1,000 headers": (lines(GET, HOST, *[b"X: a"] * 1000), 400),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest_twisted.ensureDeferred
async def test_broken_request(victim, name):
    """What is no request gets one refusal in the form of all errors, and nothing behind it."""
    running = await victim()
    data, status = BROKEN[name]
    connection = await running.connect()
    connection.send(data)
    reply = await connection.read_reply()
    assert reply.status == status
    assert reply.error
    assert reply.header("server") == SERVER.decode()
    # Whatever follows is not taken for a request, if the end of the first was in doubt.
    if reply.header("connection") == "close":
        connection.send(request())
        connection.transport.loseWriteConnection()
        await connection.when_closed()
        assert connection.received == b""


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (BROKEN["a method in small letters"][0], "bad method"),
        (BROKEN["two hosts"][0], "2 Host headers, expected one"),
        (BROKEN["two authorizations"][0], "2 Authorization headers, expected one"),
        (BROKEN["two types"][0], "2 Content-Type headers, expected one"),
        (lines(GET, HOST, *[b"last-event-id: 1"] * 3), "3 Last-Event-ID headers, expected one"),
        (BROKEN["no host"][0], "Host header required"),
        (BROKEN["a host with a user"][0], "bad Host header"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_wrong(victim, head, fault):
    """A request whose head can be read, but says no one thing, is told what was expected."""
    running = await victim()
    reply = await exchange(running, head)
    assert (reply.status, reply.error) == (400, fault)


@pytest.mark.parametrize(
    "head",
    [
        lines(GET, b"Host: a", b"Authorization: Bearer \xff\xfe"),
        lines(GET, b"Host: a", b"Authorization: Bearer \x01\x02\x7f"),
        lines(GET, b"Host: a", b"X: \xff", b"Accept: \xff", b"Origin: \xff", b"Cookie: \xff=\xff"),
        lines(GET, b"Host: a", b"X-Forwarded-For: \xff, \xff"),
        lines(GET, b"Host: [::1]:8080"),
        lines(GET, b"Host: [::ffff:192.0.2.1]"),
        lines(GET, b"Host: 192.0.2.1:65536"),
        lines(GET, b"Host: a.example."),
        lines(GET, b"Host:"),
        lines(b"GET /api/contacts HTTP/1.0"),
        lines(b"GET http://other.example/api/contacts HTTP/1.1", HOST),
        lines(b"GET HTTPS://[::1]:1/api/contacts?a=b HTTP/1.1", HOST),
        b"\r\n" + lines(GET, HOST),
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_request(victim, head):
    """A request that is odd but sound is answered like any other: here, that a token is due."""
    running = await victim()
    reply = await exchange(running, head)
    assert reply.status == 401
    assert reply.error
    assert reply.header("server") == SERVER.decode()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/%ff%fe", 404),
        ("/api/login/%ff", 404),
        ("/%ff", 404),
        ("/api/%00", 404),
        ("/api/%0d%0aX:%20y", 404),
        ("/api/..%2f..%2fetc%2fpasswd", 404),
        ("/..%2f..%2fetc/passwd", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/api//login", 404),
        ("//evil.example/..", 404),
        ("/" + "a/" * 4000, 404),
        ("/" + "%41" * 5000, 404),
        ("http://a", 404),
        ("http:///api/contacts", 404),
        ("ftp://a/api/contacts", 404),
        ("/api/contacts?" + "a=b&" * 3000, 400),
        ("/api/contacts?access_token=a&access_token=b", 400),
        ("/api/contacts?access_token=%ff", 400),
        ("/api/contacts?%ff=a", 400),
        ("/api/contacts?access_token=a%00b", 401),
        ("/api/contacts?access_token=a%0d%0ab", 401),
        ("/api/contacts?", 401),
        ("/api/contacts?&&;;==", 401),
        ("*", 405),
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_target(victim, target, status):
    """A target that names nothing gets a status of the 400s, whatever it is made of."""
    running = await victim()
    reply = await exchange(running, request("GET", target))
    assert reply.status == status
    assert reply.header("server") == SERVER.decode()
    assert reply.header("x") is None
    if target != "*":
        assert reply.error


@pytest.mark.parametrize(
    "headers",
    [
        ("Range: bytes=" + "9" * 5000 + "-",),
        ("Range: bytes=" + ",".join(["0-1"] * 1000),),
        ("Range: bytes=5-1,-,--", "If-Range: \xff"),
        ("Range: \xff=\xff",),
        ("Range: bytes=a-b",),
        ("If-None-Match: \xff", "If-Modified-Since: \xff"),
        ('If-None-Match: "', "If-Modified-Since: Thu, 01 Jan 99999 00:00:00 GMT"),
        ("If-None-Match: " + ",".join(['W/"a"'] * 1000),),
        ("If-Modified-Since: Thu, 99 Foo 0000 99:99:99 GMT",),
        ("Accept-Encoding: \xff;q=\xff", "Accept-Encoding: gzip;q=nan"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_conditions(victim, headers):
    """A file is served, or its range refused, whatever conditions and ranges say."""
    running = await victim()
    (running.html / "index.html").write_text("hello", encoding="utf-8")
    reply = await exchange(running, request("GET", "/", *headers))
    assert (reply.status, reply.body) in ((200, b"hello"), (416, b""))


def test_sizes():
    """The limit that the tests below stand on is that of the contract."""
    assert MAX_BODY_BYTES == 65_536


def padded(size):
    """Give a body of that size with good credentials."""
    return CREDENTIALS + b"&pad=" + b"a" * (size - len(CREDENTIALS) - 5)


def chunked(body, size):
    """Give a body in chunks of that size."""
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["", "expect"])
@pytest.mark.parametrize("chunk", [0, 100, 65_536, 10_000_000])
@pytest.mark.parametrize(
    ("size", "status"),
    [(65_535, 200), (65_536, 200), (65_537, 413), (200_000, 413), (3_000_000, 413)],
)
@pytest_twisted.ensureDeferred
async def test_size_of_a_body(victim, size, status, chunk, expect):
    """64 KiB are read; a byte more is refused, once, however it comes, and the refusal arrives."""
    running = await victim()
    headers = (FORM, *expect, *((CHUNKED,) if chunk else ()))
    body = chunked(padded(size), chunk) if chunk else padded(size)
    connection = await running.connect()
    connection.send(request("POST", "/api/login", *headers, body=body))
    if expect and (status == 200 or chunk):
        # The length of chunks is not known yet; the client is told to send them.
        assert await read_status(connection) == 100
    reply = await connection.read_reply()
    assert reply.status == status
    assert reply.header("server") == SERVER.decode()
    assert status == 200 or reply.error == "the body is too large"
    if status == 413:
        connection.transport.loseConnection()
        await connection.when_closed()
        assert connection.received == b""


@pytest.mark.parametrize("coding", ["gzip", "deflate", "x-gzip, gzip"])
@pytest_twisted.ensureDeferred
async def test_a_compressed_bomb(victim, coding):
    """A body that unpacks to 50 MB is not unpacked: packed as it is, it is no form."""
    running = await victim()
    pack = zlib.compressobj(9, wbits=31 if "gzip" in coding else 15)
    bomb = pack.compress(b"login=a&password=" + b"a" * 50_000_000) + pack.flush()
    assert len(bomb) < MAX_BODY_BYTES
    data = request("POST", "/api/login", FORM, f"Content-Encoding: {coding}", body=bomb)
    reply = await exchange(running, data)
    assert reply.status == 400
    assert reply.error
    assert len(running.mx.received("loginRequest")) == 1


@pytest_twisted.ensureDeferred
async def test_ten_megabytes(victim):
    """A client that sends 10 MB before it looks for an answer can read the refusal."""
    running = await victim()
    connection = await running.connect()
    connection.transport.pauseProducing()
    connection.send(request("POST", "/api/login", FORM, body=b"a" * 10_000_000))
    # Not reading, but writing: the transport is empty when the daemon has taken it all.
    sent = connection.transport
    await eventually(lambda: not sent.dataBuffer and not sent._tempDataBuffer)
    sent.resumeProducing()
    reply = await connection.read_reply()
    assert reply.status == 413
    assert reply.header("connection") == "close"


@pytest_twisted.ensureDeferred
async def test_refused_client_that_stays(victim, monkeypatch):
    """A client that was refused and keeps the connection open does not keep it for ever."""
    monkeypatch.setattr(site, "LINGER_SECONDS", 0.2)
    running = await victim()
    with Sitter(running) as client:
        client.send(BROKEN["two lengths"][0])
        await eventually(lambda: served(running) == 1)
        await eventually(lambda: served(running) == 0)
        assert client.recv(9999).startswith(b"HTTP/1.1 400 ")


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_read_and_stays(victim, monkeypatch):
    """An answer that is not read, or whose end is not, does not keep a connection for ever."""
    monkeypatch.setattr(site, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(Channel, "abortTimeout", 0.3)
    running = await victim()
    (running.html / "large.bin").write_bytes(b"a" * 20_000_000)
    (running.html / "small.bin").write_bytes(b"a" * 1_000_000)
    for name, headers in (("large", ()), ("large", ("Connection: close",)), ("small", ())):
        with Sitter(running, receive_buffer=4096) as client:
            client.send(request("GET", f"/{name}.bin", *headers))
            await eventually(lambda: served(running) == 1)
            await eventually(lambda: served(running) == 0)


@pytest_twisted.ensureDeferred
async def test_last_answer_that_is_not_read(victim, monkeypatch):
    """A connection that is to close does not wait for ever for its last answer to be read."""
    monkeypatch.setattr(site, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(Channel, "abortTimeout", 0.3)
    running = await victim()
    # Small enough for the transport to take it as a whole, too large for the system.
    (running.html / "file.bin").write_bytes(b"a" * 50_000)
    with Sitter(running, receive_buffer=4096) as client:
        await eventually(lambda: served(running) == 1)
        (connection,) = connections(running)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(request("GET", "/file.bin", "Connection: close"))
        await eventually(lambda: connection.disconnecting)
        assert connection.dataBuffer or connection._tempDataLen
        await eventually(lambda: served(running) == 0)


@pytest_twisted.ensureDeferred
async def test_many_answers_that_are_not_read(victim):
    """Who asks for much in one go and reads nothing gets no more prepared than fits a transport."""
    running = await victim()
    token = await running.log_in()
    user = attrs.evolve(running.mx.user(EXT), note="x" * 60_000)
    running.mx.update_user(user)
    await running.when(lambda: running.link.address_book.entries[user.jid].note == user.note)
    with Sitter(running, receive_buffer=4096) as client:
        before = len(running.log.of("mxflex.access"))
        client.send(request(token=token) * 500)
        await eventually(lambda: any(each.producerPaused for each in connections(running)))
        for _ in range(50):
            await turn()
        (connection,) = connections(running)
        assert len(connection.dataBuffer) + connection._tempDataLen < 200_000
        answered = len(running.log.of("mxflex.access")) - before
        assert 0 < answered < 200
        # Whatever the client reads makes room for more, to the last answer.
        read = 0
        while read < 500 * 60_000:
            await turn()
            with contextlib.suppress(BlockingIOError):
                read += len(client.recv(1_000_000))
        assert len(running.log.of("mxflex.access")) - before == 500


@pytest_twisted.ensureDeferred
async def test_pipelined_requests(victim):
    """Requests that come at once are answered one after the other, all of them, in order."""
    running = await victim()
    connection = await running.connect()
    connection.send(b"".join(request("GET", f"/{i:04}") for i in range(200)))
    connection.send(request("POST", "/api/login", FORM, body=CREDENTIALS) * 3)
    connection.send(request("GET", "/api/nothing"))
    replies = [await connection.read_reply() for _ in range(204)]
    assert [reply.status for reply in replies] == [404] * 200 + [200] * 3 + [404]


@pytest_twisted.ensureDeferred
async def test_pipelining_behind_a_stream(victim):
    """Requests behind an open stream wait, and those that pile up are not read at all."""
    running = await victim()
    token = await running.log_in()
    connection = await running.connect()
    connection.send(request("GET", "/api/events", token=token))
    assert await read_status(connection) == 200
    connection.send(request() * 5_000)
    running.mx.call_in("+12025550104", EXT)
    await connection.when(lambda: b"event: DeliveredEvent" in connection.received)
    assert b"HTTP/1.1 401" not in connection.received


@pytest_twisted.ensureDeferred
async def test_half_a_request(victim):
    """A client that sends a part of a request and leaves is no news to anybody."""
    running = await victim()
    whole = request("POST", "/api/login", FORM, body=CREDENTIALS)
    for cut in range(1, len(whole), 7):
        connection = await running.connect()
        connection.send(whole[:cut])
        connection.transport.loseConnection()
        await connection.when_closed()
    assert running.mx.received("loginRequest")[1:] == []


@pytest_twisted.ensureDeferred
async def test_byte_by_byte(victim):
    """A request that comes in single bytes is answered like any other."""
    running = await victim()
    connection = await running.connect()
    connection.transport.setTcpNoDelay(True)
    for byte in request("POST", "/api/login", FORM, CHUNKED, body=chunked(CREDENTIALS, 5)):
        connection.send(bytes([byte]))
        await turn()
    assert (await connection.read_reply()).status == 200


@pytest_twisted.ensureDeferred
async def test_idle_connection(victim, monkeypatch):
    """A connection that never sends a request is closed after a while."""
    monkeypatch.setattr(site, "IDLE_SECONDS", 0.2)
    running = await victim()
    with Sitter(running), Sitter(running) as half:
        half.send(b"GET /api/contacts HTTP/1.1\r\n")
        await eventually(lambda: served(running) == 2)
        await eventually(lambda: served(running) == 0)
