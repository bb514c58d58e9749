"""HTTP/2 as attackers and broken clients use it: they are refused or cut, and nobody else hurts."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from twisted.internet import reactor

from mxflex.web.http2 import (
    HEADER_TABLE_BYTES,
    IDLE_FRAMES,
    MAX_STREAMS,
    RESETS,
    Allowance,
    Connection,
    Core,
)
from tests.integration.daemons import EXT
from tests.integration.h2client import HOST

TOO_MANY_RESETS = int(RESETS[0]) * 2
TOO_MANY_FRAMES = int(IDLE_FRAMES[0]) * 2
# What one client may cost all others at a time, in seconds: far more than it does.
HICCUP = 2.0

# --- Floods ---------------------------------------------------------------------------------------


class Witness:
    """A client that behaves, has an event stream open, and must not notice anything.

    Args:
        server: The server.
    """

    def __init__(self, server):
        self._server = server
        self._client = None
        self._stream = None

    async def arrive(self):
        """Log in and open a stream."""
        self._client = await self._server.connect()
        self._stream = await self._client.open_stream(await self._client.log_in())

    async def check(self):
        """See that the server answers at once, and events arrive; and that nothing was left."""
        began = reactor.seconds()
        assert (await self._client.ask("GET", "/api/calls")).status == 401
        assert reactor.seconds() - began < HICCUP
        before = len(self._stream.events)
        self._server.mx.call_in("12025550104", "3095")
        self._server.mx.hang_up("12025550104")
        await self._client.when(lambda: len(self._stream.events) == before + 2)
        assert len(self._server.connection_of(self._client).streams) == 1
        assert not self._server.log.bugs


@pytest.fixture
def witnessed(secure):
    """Give the builder of a server with a witness."""

    async def start(**settings):
        server = await secure(**settings)
        witness = Witness(server)
        await witness.arrive()
        return server, witness

    return start


REQUEST = ((":path", "/api/calls"), (":scheme", "https"), (":authority", HOST))


def headers(stream_id, lines=(), *, end=True, method="GET"):
    """Give the frame of a request."""
    frame = HeadersFrame(stream_id)
    frame.data = Encoder().encode([(":method", method), *REQUEST, *lines])
    frame.flags |= {"END_HEADERS", "END_STREAM"} if end else {"END_HEADERS"}
    return frame


def rapid_reset():
    """Requests, each taken back at once (CVE-2023-44487)."""
    for number in range(TOO_MANY_RESETS):
        stream_id = 2 * number + 1
        yield headers(stream_id)
        yield RstStreamFrame(stream_id, error_code=8)


def rapid_reset_later():
    """The same, with each reset behind the next request."""
    yield headers(1)
    for number in range(1, TOO_MANY_RESETS):
        yield headers(2 * number + 1)
        yield RstStreamFrame(2 * number - 1, error_code=8)


def self_made_resets():
    """Requests that make the server reset them itself (CVE-2025-8671)."""
    for number in range(TOO_MANY_RESETS):
        stream_id = 2 * number + 1
        yield headers(stream_id)
        yield WindowUpdateFrame(stream_id, window_increment=2**31 - 1)


def priorities():
    """Priorities of streams that never come (CVE-2019-9513)."""
    for number in range(TOO_MANY_FRAMES):
        yield PriorityFrame(2 * number + 101, depends_on=1, stream_weight=number % 256)


def pings():
    """Pings (CVE-2019-9512)."""
    for _ in range(TOO_MANY_FRAMES):
        yield PingFrame(opaque_data=b"12345678")


def empty_settings():
    """Settings that set nothing (CVE-2019-9515)."""
    for _ in range(TOO_MANY_FRAMES):
        yield SettingsFrame()


def windows_to_and_fro():
    """Settings that change the windows of all streams, over and over."""
    for number in range(TOO_MANY_FRAMES):
        yield SettingsFrame(settings={SettingCodes.INITIAL_WINDOW_SIZE: number})


def widenings():
    """Windows that open byte by byte, with nothing to send."""
    for _ in range(TOO_MANY_FRAMES):
        yield WindowUpdateFrame(0, window_increment=1)


def empty_data():
    """A body of nothing, in many parts (CVE-2019-9518)."""
    yield headers(1, end=False, method="POST")
    for _ in range(TOO_MANY_FRAMES):
        yield DataFrame(1)


def refused_streams():
    """More streams than may be open, over and over."""
    for number in range(TOO_MANY_FRAMES + MAX_STREAMS):
        yield headers(2 * number + 1, end=False, method="POST")


def continuations():
    """Headers without end (CVE-2024-27316)."""
    frame = headers(1)
    frame.flags.discard("END_HEADERS")
    yield frame
    for _ in range(1000):
        yield ContinuationFrame(1, data=b"\x00\x01a\x01b" * 100)


def empty_continuations():
    """Headers without end and without a byte."""
    frame = headers(1)
    frame.flags.discard("END_HEADERS")
    yield frame
    for _ in range(1000):
        yield ContinuationFrame(1)


FLOODS = [
    rapid_reset,
    rapid_reset_later,
    self_made_resets,
    priorities,
    pings,
    empty_settings,
    windows_to_and_fro,
    widenings,
    empty_data,
    refused_streams,
    continuations,
    empty_continuations,
]


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("flood", FLOODS)
@pytest_twisted.ensureDeferred
async def test_floods_are_cut(witnessed, flood, read):
    """Whoever floods loses the connection soon, whether or not it reads what it is told."""
    server, witness = await witnessed()
    client = await server.connect()
    connection = server.connection_of(client)
    connection.abortTimeout = 0.2
    client.conn.receive_data = lambda data: []
    if not read:
        client.pause()
    data = b"".join(frame.serialize() for frame in flood())
    used = time.process_time()
    client.transport.write(data)
    await server.when(lambda: connection not in server.channels)
    assert time.process_time() - used < HICCUP
    assert not connection.streams
    await witness.check()


@pytest_twisted.ensureDeferred
async def test_a_flood_is_told_to_calm_down(witnessed):
    """The end of a flood says why."""
    server, witness = await witnessed()
    client = await server.connect()
    for frame in pings():
        client.send_raw(frame)
    await client.when_closed()
    assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
    assert any("ENHANCE_YOUR_CALM" in line for line in server.log.lines)
    await witness.check()


def test_an_allowance_comes_back_with_time():
    """What was used up comes back at its rate, up to the burst, and never by a clock set back."""
    allowance = Allowance(10, 2, 100.0)
    assert allowance.take(10, 100.0)
    assert not allowance.take(1, 100.0)
    # One too many was taken.
    assert not allowance.take(2, 100.5 + 0.4)
    assert allowance.take(2, 103.0)
    assert allowance.take(1, 50.0)
    assert not allowance.take(1, 50.0)
    assert allowance.take(10, 1000.0)
    assert not allowance.take(1, 1000.0)


@pytest_twisted.ensureDeferred
async def test_a_reader_in_small_steps_is_no_flood(secure):
    """Windows that are opened for each frame of a large file are no flood, however many."""
    server = await secure()
    with (server.html / "large.bin").open("wb") as file:
        file.truncate(10_000_000)
    client = await server.connect()
    client.acknowledges = False
    stream_id = client.request("GET", "/large.bin")
    exchange = client.exchanges[stream_id]
    seen = steps = 0
    while not exchange.over:
        await client.when(lambda seen=seen: len(exchange.body) > seen or exchange.over)
        for _ in range(2):
            steps += 1
            client.conn.increment_flow_control_window((len(exchange.body) - seen) // 2 + 1)
            if not exchange.over:
                client.conn.increment_flow_control_window(
                    (len(exchange.body) - seen) // 2 + 1, stream_id
                )
        seen = len(exchange.body)
        client.flush()
    assert exchange.ended
    assert len(exchange.body) == 10_000_000


@pytest_twisted.ensureDeferred
async def test_a_reader_that_catches_up_is_no_flood(secure):
    """Who reads many events at once, and opens both windows for each of them, is not cut off."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    stream = await client.open_stream(token)
    stream_id = client.id_of(stream)
    client.acknowledges = False
    for window in (None, stream_id):
        client.conn.increment_flow_control_window(10_000_000, window)
    client.flush()
    hub = server.streams._sessions._hub
    events = int(IDLE_FRAMES[0])
    for number in range(events):
        hub.publish(EXT, "DeliveredEvent", b"%d" % number)
        # Each has a frame of its own.
        hub.flush()
    await client.when(lambda: len(stream.events) == events)
    assert stream.frames > events
    for _ in range(events):
        for window in (None, stream_id):
            client.conn.increment_flow_control_window(1, window)
    await client.when_ponged()
    assert client.goaway is None


@pytest_twisted.ensureDeferred
async def test_many_requests_are_no_flood(secure):
    """2,000 requests on one connection, each with a priority, are all answered."""
    server = await secure()
    client = await server.connect()
    for _ in range(40):
        asked = []
        for _ in range(50):
            stream_id = client.begin("GET", "/api/calls")
            asked.append(stream_id)
            client.conn.prioritize(stream_id, weight=16)
        client.flush()
        for stream_id in asked:
            assert (await client.answer(stream_id)).status == 401


@pytest_twisted.ensureDeferred
async def test_a_large_header_table_is_not_used(secure):
    """A client cannot make us remember all headers that we have sent."""
    server = await secure()
    client = await server.connect()
    encoder = server.connection.conn.encoder
    for size in (2**32 - 1, 100, 0, 10**6, HEADER_TABLE_BYTES):
        client.conn.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
        client.flush()
        await client.when_ponged()
        assert encoder.header_table_size == min(size, HEADER_TABLE_BYTES)
        # What both sides remember is the same.
        for _ in range(2):
            reply = await client.ask("GET", "/api/calls")
            assert (reply.status, "www-authenticate" in reply.headers) == (401, True)


# --- Requests that break rules --------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [("X-Upper", "1")],
        [("connection", "keep-alive")],
        [("transfer-encoding", "chunked")],
        [("upgrade", "h2c")],
        [("proxy-connection", "close")],
        [("te", "gzip")],
        [("host", "elsewhere.test")],
        [(":status", "200")],
        [(":path", "/twice")],
        [("x", "1"), (":late", "1")],
        [(":protocol", "websocket")],
        [("content-length", "x")],
        [("content-length", "-1")],
        [("content-length", "9" * 5000)],
    ],
)
@pytest_twisted.ensureDeferred
async def test_malformed_requests_are_refused(witnessed, lines):
    """What RFC 9113, 8.2 and 8.3 forbid ends in an error, as they demand, never in a traceback."""
    server, witness = await witnessed()
    client = await server.connect()
    client.send_raw(headers(1, lines))
    await client.when_closed()
    assert client.goaway == ErrorCodes.PROTOCOL_ERROR
    await witness.check()


@pytest.mark.parametrize(
    "without", [":method", ":path", ":scheme", (":method", ":path", ":scheme", ":authority")]
)
@pytest_twisted.ensureDeferred
async def test_requests_without_a_part_are_refused(witnessed, without):
    """Method, scheme and path must be there (RFC 9113, 8.3.1)."""
    server, witness = await witnessed()
    client = await server.connect()
    lines = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", HOST)]
    frame = HeadersFrame(1, flags={"END_HEADERS", "END_STREAM"})
    frame.data = Encoder().encode([line for line in lines if line[0] not in without])
    client.send_raw(frame)
    await client.when_closed()
    assert client.goaway == ErrorCodes.PROTOCOL_ERROR
    await witness.check()


@pytest.mark.parametrize(
    "lines",
    [
        [("x y", "1")],
        [("x\u00e9", "1")],
        [("x", "a\r\nb: c")],
        [("x", "a\0b")],
        [("", "1")],
        [("content-length", "+0")],
        [("content-length", "1_0")],
        [("cookie", "a=b; \u20ac"), ("cookie", "=")],
        [("authorization", "Bearer \u00ff\u00fe")],
        [("last-event-id", "\u00ff")],
        [("accept", "\u00ff" * 1000)],
        [("range", "bytes=\u0661-")],
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_headers_are_answered_or_refused(witnessed, lines):
    """Headers of odd letters get an answer below 500, a reset, or the end of the connection."""
    server, witness = await witnessed()
    client = await server.connect(validate_outbound_headers=False, normalize_outbound_headers=False)
    client.conn.config.validate_inbound_headers = False
    stream_id = client.begin("GET", "/api/calls", lines)
    exchange = client.exchanges[stream_id]
    client.flush()
    await server.when(lambda: exchange.over or client.closed)
    assert client.closed or exchange.reset is not None or 400 <= exchange.status < 500
    await witness.check()


@pytest_twisted.ensureDeferred
async def test_connect_is_no_method_here(secure):
    """CONNECT, which has no path, is answered as any other method that no file knows."""
    server = await secure()
    client = await server.connect()
    frame = HeadersFrame(1, flags={"END_HEADERS", "END_STREAM"})
    frame.data = Encoder().encode([(":method", "CONNECT"), (":authority", f"{HOST}:443")])
    stream_id = client.begin("GET", "/api/calls")
    assert stream_id == 1
    client.conn.clear_outbound_data_buffer()
    client.send_raw(frame)
    reply = await client.answer(1)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["*", "http://elsewhere.test/api/calls", "nothing", "//x", "/%00"])
@pytest_twisted.ensureDeferred
async def test_odd_paths_are_answered(secure, path):
    """Whatever stands for a path gets an answer below 500."""
    server = await secure()
    client = await server.connect(validate_outbound_headers=False)
    for method in ("GET", "OPTIONS"):
        reply = await client.ask(method, path)
        assert 200 <= reply.status < 500, reply


@pytest.mark.parametrize(("told", "sent"), [(10, 5), (5, 10), (0, 1)])
@pytest_twisted.ensureDeferred
async def test_a_body_of_another_length_than_told_is_refused(witnessed, told, sent):
    """A body that is longer or shorter than its `Content-Length` is malformed (RFC 9113, 8.1.1)."""
    server, witness = await witnessed()
    client = await server.connect()
    body = DataFrame(1, data=b"x" * sent, flags={"END_STREAM"})
    client.send_raw(headers(1, [("content-length", str(told))], end=False, method="POST"), body)
    await client.when_closed()
    assert client.goaway == ErrorCodes.PROTOCOL_ERROR
    await witness.check()


@pytest.mark.parametrize(
    ("count", "size"), [(1, 100_000), (100, 4000), (5000, 10)], ids=["one", "large", "many"]
)
@pytest_twisted.ensureDeferred
async def test_header_bombs_are_refused(witnessed, count, size):
    """Headers of more than 64 KiB, in however few bytes, end the connection."""
    server, witness = await witnessed()
    client = await server.connect()
    encoder = Encoder()
    # The second request names what the first one has put into the table, a byte for each.
    for stream_id in (1, 3):
        lines = [("x-bomb", "x" * size)] * count
        data = encoder.encode([(":method", "GET"), *REQUEST, *lines], huffman=False)
        first, rest = data[:16_384], data[16_384:]
        frame = HeadersFrame(stream_id, data=first, flags={"END_STREAM"})
        frame.flags |= set() if rest else {"END_HEADERS"}
        client.send_raw(frame)
        while rest:
            part, rest = rest[:16_384], rest[16_384:]
            more = ContinuationFrame(stream_id, data=part)
            more.flags |= set() if rest else {"END_HEADERS"}
            client.send_raw(more)
    await client.when_closed()
    await witness.check()


@pytest.mark.parametrize(
    "data",
    [
        # The begin of a frame of 16 MB: nobody waits for the rest.
        b"\xff" * 20_000,
        DataFrame(99, data=b"x").serialize(),
        RstStreamFrame(99, error_code=0).serialize(),
        WindowUpdateFrame(0, window_increment=1).serialize().replace(b"\0\0\0\1", b"\0\0\0\0"),
        WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(),
        headers(2).serialize(),
        headers(3).serialize() + headers(1).serialize(),
        ContinuationFrame(1, data=b"x").serialize(),
        SettingsFrame(settings={SettingCodes.INITIAL_WINDOW_SIZE: 2**31}).serialize(),
        SettingsFrame(settings={SettingCodes.MAX_FRAME_SIZE: 1}).serialize(),
        HeadersFrame(1, data=b"\x80\x80\x80", flags={"END_HEADERS"}).serialize(),
        DataFrame(1, data=b"x" * 20_000).serialize(),
        b"\x00\x00\x06" + b"\x06\x00" + b"\0\0\0\0" + b"sixsix",
    ],
    ids=lambda data: data[:16].hex(),
)
@pytest_twisted.ensureDeferred
async def test_broken_frames_end_the_connection(witnessed, data):
    """Frames that break the protocol end the connection with a reason, and nothing else."""
    server, witness = await witnessed()
    client = await server.connect()
    connection = server.connection_of(client)
    client.transport.write(data)
    await server.when(lambda: not connection._stillProducing)
    client.transport.loseConnection()
    await server.when(lambda: connection not in server.channels)
    await witness.check()


@pytest_twisted.ensureDeferred
async def test_frames_for_streams_that_are_over_are_ignored(secure):
    """Windows, priorities, resets and data that come late for a stream harm nobody."""
    server = await secure()
    client = await server.connect()
    first = await client.ask("GET", "/api/calls")
    stream = await client.open_stream(await client.log_in())
    stream_id = client.id_of(stream)
    server.connection.streams[stream_id].forceAbortClient()
    await client.when(lambda: stream.over)
    for over in (client.id_of(first), stream_id):
        client.send_raw(
            WindowUpdateFrame(over, window_increment=10),
            PriorityFrame(over, depends_on=0, stream_weight=1),
            RstStreamFrame(over, error_code=8),
        )
    await client.when_ponged()
    assert (await client.ask("GET", "/api/calls")).status == 401
    assert not server.connection.streams


@pytest_twisted.ensureDeferred
async def test_a_body_for_a_stream_we_reset_gives_its_window_back(secure):
    """Data that come for refused streams do not use up the window of the connection."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    streams = [await client.open_stream(token) for _ in range(MAX_STREAMS)]
    client.conn.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    client.conn.remote_settings.acknowledge()
    # In one segment with the request: the refusal comes too late for the client to hold back.
    for _ in range(20):
        stream_id = client.begin("POST", "/api/login", end=False)
        client.conn.send_data(stream_id, b"x" * 16_000, end_stream=True)
        client.flush()
        await client.answer(stream_id)
    client.conn.reset_stream(client.id_of(streams[0]))
    reply = await client.upload("/api/login", [], b"x" * 60_000)
    assert reply.status == 415


@pytest_twisted.ensureDeferred
async def test_a_large_body_in_one_breath_is_refused(witnessed):
    """Three megabytes and their end, with no regard for windows, harm nobody."""
    server, witness = await witnessed()
    client = await server.connect()
    connection = server.connection_of(client)
    client.conn.receive_data = lambda data: []
    # As if the windows were wide: whoever keeps to them cannot send so much at once.
    connection.conn._inbound_flow_control_window_manager.current_window_size = 10**7
    client.send_raw(headers(1, end=False, method="POST"))
    await server.when(lambda: connection.streams)
    connection.conn._get_stream_by_id(1)._inbound_window_manager.current_window_size = 10**7
    body = [DataFrame(1, data=b" " * 16_000) for _ in range(190)]
    frames = b"".join(frame.serialize() for frame in [*body, DataFrame(1, flags={"END_STREAM"})])
    connection.dataReceived(frames)
    assert not connection.streams
    await witness.check()


# --- Ends -----------------------------------------------------------------------------------------


async def one_request(client):
    """Ask for something that is answered at once."""
    client.begin("GET", "/api/calls")


async def a_login(client):
    """Begin a login, which waits for the MX."""
    stream_id = client.begin(
        "POST", "/api/login", [("content-type", "application/x-www-form-urlencoded")], end=False
    )
    client.conn.send_data(stream_id, b"login=user_login&password=password", end_stream=True)


async def half_a_body(client):
    """Begin a request whose body does not end."""
    stream_id = client.begin("POST", "/api/login", end=False)
    client.conn.send_data(stream_id, b"login=")


async def a_file(client):
    """Ask for a large file."""
    client.begin("GET", "/large.bin")


async def streams(client):
    """Have event streams open."""
    token = await client.log_in()
    for _ in range(10):
        await client.open_stream(token)


def vanish(client):
    """Go without a word."""
    client.flush()
    client.abort()


def hang_up(client):
    """End TLS in order, and say nothing in HTTP/2."""
    client.flush()
    client.transport.loseConnection()


def say_goodbye(client):
    """Say that no more is wanted."""
    client.conn.close_connection()
    client.flush()


def say_goodbye_at_once(client):
    """Say it past the protocol, and go on as if nothing had been said."""
    client.send_raw(GoAwayFrame(0, last_stream_id=0, error_code=0), headers(2001))


def vanish_in_a_frame(client):
    """Go in the middle of a frame."""
    client.flush()
    client.transport.write(headers(2001).serialize()[:-3])
    client.transport.loseConnection()


@pytest.mark.parametrize(
    "end", [vanish, hang_up, say_goodbye, say_goodbye_at_once, vanish_in_a_frame]
)
@pytest.mark.parametrize("begin", [one_request, a_login, half_a_body, a_file, streams])
@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_leaves_nothing(witnessed, begin, end):
    """However a client goes, and whatever it was about, its connection is forgotten."""
    server, witness = await witnessed()
    with (server.html / "large.bin").open("wb") as file:
        file.truncate(20_000_000)
    client = await server.connect()
    connection = server.connection_of(client)
    assert isinstance(connection, Connection)
    await begin(client)
    end(client)
    await server.when(lambda: connection not in server.channels)
    assert not connection.streams
    assert connection._sending is None
    assert connection._cutting is None
    await server.when(lambda: server.streams.count == 1)
    await witness.check()


@pytest.mark.parametrize("delay", range(12))
@pytest_twisted.ensureDeferred
async def test_a_reset_at_any_moment(secure, delay):
    """A request that is taken back after any number of turns harms no other."""
    server = await secure()
    with (server.html / "large.bin").open("wb") as file:
        file.truncate(500_000)
    client = await server.connect()
    asked = []
    for path in ("/large.bin", "/api/calls", "/nothing", "/"):
        stream_id = client.request("GET", path)
        asked.append(client.request("GET", "/large.bin"))
        for _ in range(delay):
            await server.running.pause(0)
        if not client.exchanges[stream_id].over:
            client.conn.reset_stream(stream_id)
            client.flush()
    for stream_id in asked:
        assert len((await client.answer(stream_id)).body) == 500_000
    await client.when_ponged()
    assert not server.connection.streams


# --- Requests without end -------------------------------------------------------------------------


def test_few_streams_of_before_are_remembered():
    """A connection that has had any number of requests remembers a bounded number of them."""
    client = H2Connection(H2Configuration(client_side=True))
    core = Core(H2Configuration(client_side=False))
    client.initiate_connection()
    core.initiate_connection()
    request = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", "/")]
    for _ in range(2 * Core.MAX_CLOSED_STREAMS):
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, request, end_stream=True)
        core.receive_data(client.data_to_send())
        core.send_headers(stream_id, [(":status", "204")], end_stream=True)
        client.receive_data(core.data_to_send())
    assert len(core._closed_streams) == Core.MAX_CLOSED_STREAMS == 1000
    assert len(core.streams) <= 1
    # A frame that was under way when its stream ended does no harm.
    late = WindowUpdateFrame(stream_id, window_increment=1).serialize()
    assert core.receive_data(late + PingFrame(0, b"12345678").serialize())
