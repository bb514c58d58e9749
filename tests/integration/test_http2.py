"""HTTP/2 as clients use it, over real TLS connections: windows, many streams, slow readers."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import pytest_twisted
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from twisted.internet import reactor

from mxflex import config
from mxflex.errors import ConfigError
from mxflex.gateway.hub import Hub
from mxflex.simulator.company import User, example_company
from mxflex.simulator.server import SimulatedMX
from mxflex.web.app import Api
from mxflex.web.http2 import MAX_DRAINED_BYTES, MAX_QUEUED_BYTES, MAX_STREAMS
from mxflex.web.site import IDLE_SECONDS, MAX_BODY_BYTES
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import EstablishedEvent
from tests.integration.daemons import EXT
from tests.integration.h2client import FIRST_WINDOW, LARGEST_WINDOW, ClientTLS
from tests.integration.raw_http import RawConnection, request_bytes

OUTSIDE = "12025550104"
# What a stream holds at most before its producer waits: our queue, and one more read of a file.
MOST_QUEUED = MAX_QUEUED_BYTES + 65_536
MEGABYTE = 1_000_000


def ring(server, count=1):
    """Let the extension ring and give up, so many times: two events each."""
    for _ in range(count):
        server.mx.call_in(OUTSIDE, EXT)
        server.mx.hang_up(OUTSIDE)


def tell(server, number, size):
    """Send an event with a number in it, and so many bytes beside."""
    attached = CallAttachedData(name="filling", type="string", value="x" * size)
    server.mx.send_event(
        EXT,
        EstablishedEvent(connection=ConnectionID(call_id=number, device_id=EXT), cads=(attached,)),
    )


def numbers(exchange):
    """Give the numbers of the events that have come."""
    return [event.json["callId"] for event in exchange.events]


def put(server, name, size):
    """Make a static file; what it consists of tells where a part of it belongs."""
    words = b"".join(b"%07d\n" % number for number in range(size // 8 + 1))
    (server.html / name).write_bytes(words[:size])
    return words[:size]


def listeners(server):
    """Give how many streams the hub knows for the extension."""
    hub = server.streams._sessions._hub
    assert isinstance(hub, Hub)
    return hub.listeners(EXT)


async def when_stuck(server):
    """Wait until the only connection is blocked for good: the buffers of TCP are full, too."""
    seen = 0
    while seen < 20:
        await server.running.pause(0.01)
        seen = seen + 1 if server.connection.blocked else 0


def resident_bytes():
    """Give the memory that this process uses at this moment."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


# --- 1. Windows -----------------------------------------------------------------------------------


async def from_zero(server):
    """Connect with windows of 0, and ask for a file: its headers come, and nothing else."""
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    exchange = client.exchanges[client.request("GET", "/file.txt")]
    await client.when(lambda: exchange.status)
    await client.when_ponged()
    assert not exchange.body
    return client, exchange


async def run_out(server):
    """Connect with the usual windows, and read nothing of a file."""
    client = await server.connect()
    client.acknowledges = False
    exchange = client.exchanges[client.request("GET", "/file.txt")]
    await client.when(lambda: len(exchange.body) == FIRST_WINDOW)
    return client, exchange


async def run_out_as_a_whole(server):
    """Connect with a wide window for each stream, and the usual one for all."""
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: 10 * MEGABYTE})
    client.acknowledges = False
    exchange = client.exchanges[client.request("GET", "/file.txt")]
    await client.when(lambda: len(exchange.body) == FIRST_WINDOW)
    return client, exchange


async def shrunk(server):
    """Use the window of a stream up, and shrink it below what is used: it is negative then."""
    client, exchange = await run_out(server)
    client.conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    client.flush()
    await client.when_ponged()
    assert server.connection.conn.local_flow_control_window(client.id_of(exchange)) < 0
    return client, exchange


def open_stream(client, exchange):
    """Open the window of the stream."""
    client.conn.increment_flow_control_window(10 * MEGABYTE, client.id_of(exchange))


def open_connection(client, exchange):
    """Open the window of the connection."""
    client.conn.increment_flow_control_window(10 * MEGABYTE)


def open_by_settings(client, exchange):
    """Open the windows of all streams."""
    client.conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 20 * MEGABYTE})


@pytest.mark.parametrize(
    ("begin", "steps"),
    [
        (from_zero, (open_connection, open_stream)),
        (from_zero, (open_stream, open_connection)),
        (from_zero, (open_connection, open_by_settings)),
        (from_zero, (open_by_settings, open_connection)),
        (run_out, (open_stream, open_connection)),
        (run_out, (open_connection, open_stream)),
        (run_out, (open_connection, open_by_settings)),
        (run_out_as_a_whole, (open_connection,)),
        (shrunk, (open_connection, open_stream)),
        (shrunk, (open_connection, open_by_settings)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_shut_window_costs_nothing_until_it_opens(secure, begin, steps):
    """While a window is shut the server rests; however it opens, the whole file comes."""
    server = await secure()
    file = put(server, "file.txt", 300_000)
    client, exchange = await begin(server)
    connection = server.connection
    await server.when(lambda: connection._sending is None)
    turns = 0
    send = connection._send

    def counted():
        nonlocal turns
        turns += 1
        send()

    connection._send = counted
    used = time.process_time()
    await server.running.pause(0.3)
    assert turns == 0
    assert time.process_time() - used < 0.2
    for step in steps:
        step(client, exchange)
        client.flush()
        await client.when_ponged()
    await client.when(lambda: exchange.ended)
    assert exchange.body == file
    assert turns < 50


@pytest.mark.parametrize("chatter", [None, "ping", "settings"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_nothing_is_cut(secure, chatter):
    """A connection on which data waits and nothing moves ends after the idle time, pings or not."""
    server = await secure()
    server.site.timeOut = 0.4
    put(server, "file.txt", 300_000)
    client, _ = await from_zero(server)
    began = reactor.seconds()
    while not client.closed and client.goaway is None:
        if chatter == "ping":
            client.conn.ping(b"12345678")
        elif chatter == "settings":
            client.conn.update_settings({SettingCodes.MAX_HEADER_LIST_SIZE: 10_000})
        if not client.closed:
            client.flush()
        await server.running.pause(0.05)
    assert reactor.seconds() - began < 2
    await client.when_closed()
    assert client.goaway == ErrorCodes.PROTOCOL_ERROR
    await server.when_alone()


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_even_close_is_cut(secure):
    """A client that was told of the end, and takes no notice, loses the connection."""
    server = await secure()
    server.site.timeOut = 0.2
    put(server, "file.txt", 300_000)
    client, _ = await from_zero(server)
    server.connection.abortTimeout = 0.2
    client.pause()
    await server.when_alone()


@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_not_read_is_reset_alone(secure):
    """A shut window of one stream ends that stream after the idle time; the others go on."""
    server = await secure(events={"heartbeat": 0.1})
    server.site.timeOut = 0.5
    put(server, "file.txt", 300_000)
    client = await server.connect()
    stream = await client.open_stream(await client.log_in())
    client.unread.add(client.conn.get_next_available_stream_id())
    reply = await client.ask("GET", "/file.txt")
    assert reply.reset == ErrorCodes.CANCEL
    assert len(reply.body) == FIRST_WINDOW
    comments = stream.comments
    await client.when(lambda: stream.comments > comments + 5)
    assert not stream.over
    assert len(server.connection.streams) == 1
    assert not server.connection.shut


@pytest_twisted.ensureDeferred
async def test_requests_that_drip_in_are_reset_alone(secure):
    """A body that comes byte by byte, or not at all, has the idle time and no more.

    What else is alive on the connection, such as an event stream, does not lengthen it.
    """
    server = await secure(events={"heartbeat": 0.1})
    server.site.timeOut = 0.5
    client = await server.connect()
    stream = await client.open_stream(await client.log_in())
    silent = [client.begin("POST", "/api/login", end=False) for _ in range(20)]
    dripping = [client.begin("POST", "/api/login", end=False) for _ in range(20)]
    while dripping:
        for stream_id in dripping:
            client.conn.send_data(stream_id, b"x")
        client.flush()
        # So slowly that nothing but the drip itself is against the rules.
        await server.running.pause(0.02)
        dripping = [each for each in dripping if not client.exchanges[each].over]
    for stream_id in silent:
        assert (await client.answer(stream_id)).reset == ErrorCodes.CANCEL
    await server.when(lambda: len(server.connection.streams) == 1)
    tell(server, 1, 0)
    await client.when(lambda: stream.events)
    assert numbers(stream) == [1]
    assert not server.connection._incoming


@pytest_twisted.ensureDeferred
async def test_an_idle_connection_is_closed(secure):
    """A connection without requests is closed in order after the idle time, pings or not."""
    server = await secure()
    server.site.timeOut = 0.3
    client = await server.connect()
    while client.goaway is None:
        client.conn.ping(b"12345678")
        client.flush()
        await server.running.pause(0.02)
    assert client.goaway == ErrorCodes.NO_ERROR
    await client.when_closed()


# --- 2. The end of a stream -----------------------------------------------------------------------


@pytest.mark.parametrize("who", ["server", "client", "lost", "goodbye"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_cut_leaves_nothing(secure, who):
    """Whoever ends a stream, the hub and the connection forget it; other streams go on."""
    server = await secure()
    client, other = await server.connect(), await server.connect()
    token = await client.log_in()
    stays = await other.open_stream(token)
    stream = await client.open_stream(token)
    assert (server.streams.count, listeners(server)) == (2, 2)
    stream_id = client.id_of(stream)
    if who == "server":
        served = server.connection_of(client).streams[stream_id]
        request = served._request
        # As the stream does it, when too much is unsent.
        served.forceAbortClient()
        request.write(b"never seen")
        await client.when(lambda: stream.over)
        assert stream.reset == ErrorCodes.CANCEL
    elif who == "client":
        client.conn.reset_stream(stream_id, ErrorCodes.CANCEL)
        client.flush()
    elif who == "lost":
        client.abort()
    else:
        client.conn.close_connection()
        client.flush()
        await client.when_closed()
    await server.when(lambda: (server.streams.count, listeners(server)) == (1, 1))
    ring(server)
    await other.when(lambda: len(stays.events) == 2)
    if who in ("lost", "goodbye"):
        await server.when(lambda: len(server.channels) == 1)
    else:
        await client.when_ponged()
        assert not server.connection_of(client).streams
        assert not stream.events


@pytest_twisted.ensureDeferred
async def test_a_file_whose_client_goes_is_closed(secure):
    """A file on its way is read no further when its stream is reset, and is closed."""
    server = await secure()
    put(server, "file.txt", 5 * MEGABYTE)
    client = await server.connect()
    stream_id = client.request("GET", "/file.txt")
    exchange = client.exchanges[stream_id]
    await client.when(lambda: len(exchange.body) > 2 * FIRST_WINDOW)
    producer = server.connection.streams[stream_id].producer._producer
    client.conn.reset_stream(stream_id)
    client.flush()
    await server.when(lambda: producer.fileObject.closed)
    assert not server.connection.streams
    assert (await client.ask("GET", "/api/calls")).status == 401


@pytest_twisted.ensureDeferred
async def test_logging_out_ends_the_streams_in_order(secure):
    """The end of an event stream is the end of an answer, not a reset."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    streams = [await client.open_stream(token) for _ in range(3)]
    assert (await client.ask("GET", "/api/logout", token=token)).status == 204
    for stream in streams:
        await client.when(lambda stream=stream: stream.over)
        assert stream.ended
    assert not server.connection.streams


@pytest_twisted.ensureDeferred
async def test_the_daemons_end_ends_the_streams_in_order(secure):
    """When the daemon stops, clients are told when to come back, and the connection says goodbye.

    Or a browser would ask again on the connection that it has, and take a refusal as final.
    """
    server = await secure()
    client, idle = await server.connect(), await server.connect()
    token = await client.log_in()
    streams = [await client.open_stream(token) for _ in range(30)]
    stopped = server.running.later(server.running.stop_service())
    # On a connection that is still there, and before all streams have ended.
    await client.when(lambda: any(stream.over for stream in streams))
    assert not all(stream.over for stream in streams)
    refused = await idle.ask("GET", "/api/events", token=token)
    assert (refused.status, refused.error) == (503, "the server is about to stop")
    await client.when_closed()
    assert client.goaway == ErrorCodes.NO_ERROR
    for stream in streams:
        assert stream.ended
        assert re.search(rb"\n\nretry: [0-9]{4}\n\n\Z", stream.body)
    await stopped
    assert not idle.closed


# --- 3. Silence -----------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_heartbeats_keep_a_quiet_stream(secure):
    """A stream on which nothing happens outlives the idle time many times."""
    server = await secure(events={"heartbeat": 0.15})
    server.site.timeOut = 0.4
    client = await server.connect()
    stream = await client.open_stream(await client.log_in())
    began = reactor.seconds()
    await client.when(lambda: stream.comments >= 10)
    assert reactor.seconds() - began > 2 * 0.4
    assert client.goaway is None


@pytest.mark.parametrize(("heartbeat", "taken"), [(IDLE_SECONDS - 5, True), (IDLE_SECONDS, False)])
def test_the_heartbeat_is_shorter_than_the_idle_time(heartbeat, taken):
    """No configuration lets quiet streams be taken for idle connections."""
    text = f"mx: {{addr: '192.0.2.1', login: a, password: b}}\nevents: {{heartbeat: {heartbeat}}}"
    if taken:
        assert config.load(text, "test.yaml", {}).events.heartbeat == heartbeat
    else:
        with pytest.raises(ConfigError, match=r"events\.heartbeat"):
            config.load(text, "test.yaml", {})


# --- 4. Readers that stop -------------------------------------------------------------------------


def unsent(server):
    """Give what the server holds for each of its streams: connection's queue, and stream's own."""
    held = []
    for connection in server.channels:
        for stream in connection.streams.values():
            waiting = getattr(stream.producer, "_waiting_bytes", 0)
            held.append(stream.queued + waiting)
    return held


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_is_cut_and_the_others_get_everything(secure):
    """One stream that is not read owes `events.max_unsent` at most; 20 others miss nothing."""
    server = await secure(events={"max_unsent": 131_072})
    same, other = await server.connect(), await server.connect()
    token = await same.log_in()
    slow = await same.open_stream(token)
    same.unread.add(same.id_of(slow))
    readers = [(same, await same.open_stream(token)) for _ in range(10)]
    readers += [(other, await other.open_stream(token)) for _ in range(10)]
    for number in range(100):
        tell(server, number, 4000)
        # Both connections keep up: all streams of one have a window in common.
        for client, reader in (readers[9], readers[-1]):
            await client.when(lambda reader=reader, number=number: len(reader.events) > number)
        assert max(unsent(server)) <= 131_072
    assert slow.reset == ErrorCodes.CANCEL
    for client, reader in readers:
        await client.when(lambda reader=reader: len(reader.events) == 100)
        assert numbers(reader) == list(range(100))
    # What the slow one has got is in order, too, as far as it goes.
    assert numbers(slow) == list(range(len(slow.events)))
    assert (server.streams.count, server.streams.cut_off) == (20, 1)
    assert sum("does not read its event stream" in line for line in server.log.lines) == 1


@pytest_twisted.ensureDeferred
async def test_a_reader_that_catches_up_in_time_misses_nothing(secure):
    """A stream that is read again before the bound is reached goes on in order."""
    server = await secure(events={"max_unsent": 262_144})
    client = await server.connect()
    token = await client.log_in()
    slow, fast = await client.open_stream(token), await client.open_stream(token)
    client.unread.add(client.id_of(slow))
    for number in range(60):
        tell(server, number, 4000)
        await client.when(lambda number=number: len(fast.events) > number)
    assert len(slow.events) < 20
    client.unread.clear()
    client.conn.increment_flow_control_window(MEGABYTE, client.id_of(slow))
    client.flush()
    await client.when(lambda: len(slow.events) == 60)
    assert numbers(slow) == list(range(60))


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_not_read_is_bounded_and_cut(secure):
    """A client that leaves TCP unread costs a bound for each stream; others hear everything."""
    server = await secure(events={"max_unsent": 131_072})
    server.site.timeOut = 3
    wide = {SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
    slow, other = await server.connect(wide), await server.connect()
    slow.conn.increment_flow_control_window(LARGEST_WINDOW - FIRST_WINDOW)
    token = await other.log_in()
    stuck = [await slow.open_stream(token) for _ in range(4)]
    fast = await other.open_stream(token)
    connection = server.connection_of(slow)
    slow.pause()
    sent = 0
    while server.streams.count > 1:
        tell(server, sent, 50_000)
        sent += 1
        await other.when(lambda sent=sent: len(fast.events) == sent)
        assert max(unsent(server)) <= 131_072
    assert numbers(fast) == list(range(sent))
    assert not connection.streams
    assert not [stream for stream in stuck if stream.over]


@pytest_twisted.ensureDeferred
async def test_a_stream_that_opens_while_nothing_is_read(secure):
    """A stream on a connection that is blocked waits behind its own head, and loses nothing."""
    server = await secure(events={"max_unsent": 20 * MEGABYTE})
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})
    client.conn.increment_flow_control_window(LARGEST_WINDOW - FIRST_WINDOW)
    token = await client.log_in()
    first = await client.open_stream(token)
    client.pause()
    sent = 0
    while not server.connection.blocked:
        tell(server, sent, 10_000)
        sent += 1
        await server.running.pause(0)
    await when_stuck(server)
    # Nothing else makes the second one wait.
    assert not server.connection.ready
    second = client.exchanges[client.request("GET", "/api/events", token=token)]
    await server.when(lambda: server.streams.count == 2)
    tell(server, sent, 10)
    client.resume()
    await client.when(lambda: len(second.events) == 1 and len(first.events) == sent + 1)
    assert numbers(second) == [sent]
    assert numbers(first) == list(range(sent + 1))


@pytest_twisted.ensureDeferred
async def test_a_large_file_waits_for_its_reader(secure):
    """Of 50 MB for a client that does not read, only a bounded part is in memory."""
    server = await secure()
    with (server.html / "large.bin").open("wb") as file:
        file.truncate(50 * MEGABYTE)
    wide = {SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
    client = await server.connect(wide)
    client.conn.increment_flow_control_window(LARGEST_WINDOW - FIRST_WINDOW)
    before = resident_bytes()
    client.pause()
    client.request("GET", "/large.bin")
    await when_stuck(server)
    (stream,) = server.connection.streams.values()
    for _ in range(20):
        await server.running.pause(0.02)
        assert stream.queued <= MOST_QUEUED
    assert server.connection.blocked
    assert resident_bytes() - before < 15 * MEGABYTE
    client.abort()


@pytest_twisted.ensureDeferred
async def test_a_large_file_in_small_windows_is_whole(secure):
    """However small the steps in which a client reads, the file comes in order and bounded."""
    server = await secure()
    file = put(server, "file.txt", MEGABYTE)
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: 7001})
    stream_id = client.request("GET", "/file.txt")
    exchange = client.exchanges[stream_id]
    most = 0
    while not exchange.over:
        stream = server.connection.streams.get(stream_id)
        most = max(most, stream.queued if stream else 0)
        seen = len(exchange.body)
        await client.when(lambda seen=seen: len(exchange.body) > seen or exchange.over)
    assert exchange.body == file
    assert most <= MOST_QUEUED


@pytest_twisted.ensureDeferred
async def test_answers_without_bodies_wait_for_a_blocked_connection(secure):
    """99 requests beside a file that blocks the connection are all answered when it is read."""
    server = await secure()
    with (server.html / "large.bin").open("wb") as file:
        file.truncate(20 * MEGABYTE)
    wide = {SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
    client = await server.connect(wide)
    client.conn.increment_flow_control_window(LARGEST_WINDOW - FIRST_WINDOW)
    token = await client.log_in()
    client.pause()
    client.request("GET", "/large.bin")
    await when_stuck(server)
    asked = [client.request("GET", "/api/contacts", token=token) for _ in range(MAX_STREAMS - 1)]
    await server.when(lambda: len(server.connection.streams) == MAX_STREAMS)
    client.resume()
    for stream_id in asked:
        assert (await client.answer(stream_id)).status == 200


# --- 5. Large bodies ------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_large_files_take_time_by_their_size(secure):
    """20 MB take about four times the processor time of 5 MB, not sixteen times."""
    server = await secure()
    wide = {SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
    took = {}
    for size in (5 * MEGABYTE, 20 * MEGABYTE):
        file = put(server, "file.txt", size)
        client = await server.connect(wide)
        client.conn.increment_flow_control_window(LARGEST_WINDOW - FIRST_WINDOW)
        client.acknowledges = False
        began = time.process_time()
        reply = await client.ask("GET", "/file.txt")
        took[size] = time.process_time() - began
        assert reply.body == file
        # Whole frames: nothing is cut smaller than the client takes it.
        assert reply.frames < size / 16_384 * 1.3
    assert took[20 * MEGABYTE] < 9 * took[5 * MEGABYTE]


@pytest_twisted.ensureDeferred
async def test_a_large_json_comes_whole(secure):
    """An address book of several megabytes comes in full frames, gzip or not."""
    company = example_company()
    for number in range(3000):
        company.put(
            User(
                jid=43884850000000000 + number,
                login=f"u{number}",
                password="p",
                ext=str(100_000 + number),
                first_name=f"{number}" * 100,
                last_name="y" * 400,
            )
        )
    server = await secure(simulator=SimulatedMX(reactor, company))
    client = await server.connect()
    token = await client.log_in()
    plain = await client.ask("GET", "/api/contacts", token=token)
    assert len(plain.body) > 2 * MEGABYTE
    assert len(plain.json["contacts"]) == 3008
    assert plain.frames < len(plain.body) / 16_384 * 1.6
    zipped = await client.ask("GET", "/api/contacts", [("accept-encoding", "gzip")], token=token)
    assert zipped.headers["content-encoding"] == "gzip"
    assert len(zipped.body) == int(zipped.headers["content-length"]) < len(plain.body)


# --- 6. Every route; many streams -----------------------------------------------------------------

FIELDS = {
    "callId": "1",
    "deviceId": EXT,
    "activeCallId": "2",
    "activeDeviceId": EXT,
    "destination": "3098",
    "login": "user_login",
    "password": "password",
    "to": "3098",
}


@pytest.mark.parametrize("with_fields", [True, False])
@pytest_twisted.ensureDeferred
async def test_every_route_works_on_http2(secure, with_fields):
    """No route has a bug with any method, with and without what it needs: no 500 and no traceback.

    `request.transport` is None there, so whatever touches it would fail.
    """
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    seen = set()
    for rule in Api.app.url_map.iter_rules():
        for method in ("POST", "HEAD", "GET", "OPTIONS", "PUT", "DELETE"):
            path = "/api" + rule.rule
            if (method, path) == ("GET", "/api/events"):
                stream = await client.open_stream(token)
                client.conn.reset_stream(client.id_of(stream))
                continue
            fields = FIELDS if with_fields else {}
            if method == "POST":
                reply = await client.post(path, fields, token=token)
            else:
                reply = await client.ask(method, path, token=token)
            assert reply.status not in (0, 500), (method, path, reply)
            assert reply.headers["server"].startswith("MXFlex/")
            if method != "HEAD" and reply.status >= 400:
                assert reply.error
            seen.add(reply.status)
            if path == "/api/logout":
                token = await client.log_in()
    assert {200, 204, 405} <= seen if with_fields else {400, 405} <= seen


@pytest_twisted.ensureDeferred
async def test_static_files_work_on_http2(secure):
    """Files come as on HTTP/1.1: whole, in parts, unchanged, not at all."""
    server = await secure()
    file = put(server, "index.html", 100_000)
    client = await server.connect()
    whole = await client.ask("GET", "/")
    assert (whole.status, bytes(whole.body)) == (200, file)
    assert whole.headers["content-type"] == "text/html; charset=utf-8"
    head = await client.ask("HEAD", "/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == "100000"
    known = await client.ask("GET", "/", [("if-none-match", whole.headers["etag"])])
    assert (known.status, known.body) == (304, b"")
    part = await client.ask("GET", "/", [("range", "bytes=10-19")])
    assert (part.status, bytes(part.body)) == (206, file[10:20])
    parts = await client.ask("GET", "/", [("range", "bytes=0-9,20-29")])
    assert parts.status == 206
    assert parts.headers["content-type"].startswith("multipart/byteranges")
    beyond = await client.ask("GET", "/", [("range", "bytes=100000-")])
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */100000")
    moved = await client.ask("GET", "/index.html")
    assert (moved.status, moved.headers["location"]) == (301, "/")
    assert (await client.ask("GET", "/nothing")).error == "not found"
    wrong = await client.ask("POST", "/", body=b"x")
    assert wrong.headers["allow"] == "GET, HEAD"
    assert wrong.error == "method not allowed, expected GET, HEAD"


@pytest_twisted.ensureDeferred
async def test_answers_look_as_on_http11(secure):
    """HEAD, 204, 304, gzip, CORS and HSTS are what they are on HTTP/1.1."""
    server = await secure(cors=["https://crm.example.com"])
    client = await server.connect()
    token = await client.log_in()
    full = await client.ask("GET", "/api/contacts", token=token)
    assert full.headers["strict-transport-security"].startswith("max-age=")
    head = await client.ask("HEAD", "/api/contacts", token=token)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(full.body))
    etag = [("if-none-match", full.headers["etag"])]
    assert (await client.ask("GET", "/api/contacts", etag, token=token)).status == 304
    zipped = await client.ask("GET", "/api/contacts", [("accept-encoding", "gzip")], token=token)
    assert zipped.headers["content-encoding"] == "gzip"
    preflight = await client.ask(
        "OPTIONS",
        "/api/call",
        [("origin", "https://crm.example.com"), ("access-control-request-method", "POST")],
    )
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "https://crm.example.com"
    away = await client.ask("GET", "/api/logout", token=token)
    assert (away.status, away.body, away.frames) == (204, b"", 1)
    assert "content-length" not in away.headers
    assert (await client.ask("GET", "/api/events", token=token)).error == "not monitored"
    assert (await client.ask("GET", "/api/none")).error == "not found"


@pytest_twisted.ensureDeferred
async def test_the_101st_stream_is_refused(secure):
    """One stream more than 100 is refused, as one that may be tried again; the 100 go on."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    streams = [await client.open_stream(token) for _ in range(MAX_STREAMS)]
    assert client.conn.remote_settings.max_concurrent_streams == MAX_STREAMS
    # The client would hold itself to what it was told.
    client.conn.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    client.conn.remote_settings.acknowledge()
    for _ in range(5):
        reply = await client.upload("/api/login", [], b"x" * 10_000)
        assert (reply.status, reply.reset) == (0, ErrorCodes.REFUSED_STREAM)
    ring(server)
    for stream in streams:
        await client.when(lambda stream=stream: len(stream.events) == 2)
    client.conn.reset_stream(client.id_of(streams[0]))
    assert (await client.ask("GET", "/api/calls", token=token)).status == 200


@pytest_twisted.ensureDeferred
async def test_streams_take_turns(secure):
    """Beside a large file, small answers come long before its end."""
    server = await secure()
    put(server, "file.txt", 5 * MEGABYTE)
    client = await server.connect()
    token = await client.log_in()
    large = client.exchanges[client.request("GET", "/file.txt")]
    await client.when(lambda: large.body)
    for _ in range(5):
        assert (await client.ask("GET", "/api/contacts", token=token)).status == 200
    assert not large.ended
    await client.when(lambda: large.ended)


# --- Bodies ---------------------------------------------------------------------------------------

JSON_BODY = [("content-type", "application/json")]


@pytest.mark.parametrize(
    ("size", "status"), [(MAX_BODY_BYTES, 400), (MAX_BODY_BYTES + 1, 413), (1_000_000, 413)]
)
@pytest_twisted.ensureDeferred
async def test_a_body_over_64_kib_is_413(secure, size, status):
    """The whole body is taken in, and the answer can be read; the connection goes on."""
    server = await secure()
    client = await server.connect()
    reply = await client.upload("/api/login", JSON_BODY, b" " * size)
    assert (reply.status, reply.ended, reply.reset) == (status, True, None)
    assert (
        reply.error == ("the body is too large" if status == 413 else "bad JSON") or status == 400
    )
    assert (await client.ask("GET", "/api/calls")).status == 401


@pytest.mark.parametrize("window", [0, FIRST_WINDOW])
@pytest_twisted.ensureDeferred
async def test_a_body_without_end_is_answered_before_its_end(secure, window):
    """Beyond a megabyte the client is told at once, and what it sends no longer matters."""
    server = await secure()
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: window})
    for _ in range(3):
        reply = await client.upload("/api/login", JSON_BODY, b" " * 3_000_000)
        assert (reply.status, reply.ended, reply.reset) == (413, True, None)
        if window:
            assert reply.error == "the body is too large"
        # Here the client does not go on. The stream is still its own to end.
        client.conn.reset_stream(client.id_of(reply))
        await client.when_ponged()
        assert not server.connection.streams
    # None of the refused bytes is missing in the window of the connection.
    client.conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: FIRST_WINDOW})
    reply = await client.upload("/api/login", JSON_BODY, b" " * 900_000)
    assert reply.error == "the body is too large"
    assert any(" refused: 413 " in line for line in server.log.of("mxflex.access"))


@pytest_twisted.ensureDeferred
async def test_a_body_that_goes_on_after_the_answer_is_reset(secure):
    """After a second megabyte the stream is reset; the answer has long been there."""
    server = await secure()
    client = await server.connect()
    stream_id = client.begin("POST", "/api/login", JSON_BODY, end=False)
    exchange = client.exchanges[stream_id]
    sent = 0
    while exchange.reset is None:
        room = min(client.conn.local_flow_control_window(stream_id), 16_384)
        if room:
            sent += room
            client.conn.send_data(stream_id, b" " * room)
        client.flush()
        await server.running.pause(0)
    assert (exchange.status, exchange.ended, exchange.reset) == (413, True, ErrorCodes.NO_ERROR)
    assert 2 * MAX_DRAINED_BYTES < sent < 2 * MAX_DRAINED_BYTES + 2 * FIRST_WINDOW
    assert not server.connection.streams
    assert (await client.ask("GET", "/api/calls")).status == 401


@pytest_twisted.ensureDeferred
async def test_a_client_that_waits_is_told_to_continue(secure):
    """`Expect: 100-continue` is answered before the body."""
    server = await secure()
    client = await server.connect()
    stream_id = client.begin(
        "POST",
        "/api/login",
        [("content-type", "application/x-www-form-urlencoded"), ("expect", "100-continue")],
        end=False,
    )
    client.flush()
    exchange = client.exchanges[stream_id]
    await client.when(lambda: exchange.informational)
    assert exchange.informational == [100]
    client.conn.send_data(stream_id, b"login=user_login&password=password", end_stream=True)
    client.flush()
    assert (await client.answer(stream_id)).status == 200


@pytest_twisted.ensureDeferred
async def test_an_authority_takes_the_place_of_a_host(secure):
    """Both, as converters from HTTP/1.1 send them, are one (RFC 9113, 8.3.1)."""
    server = await secure()
    put(server, "index.html", 10)
    client = await server.connect(validate_outbound_headers=False)
    assert (await client.ask("GET", "/", [("host", "mxflex.test")])).status == 200


@pytest_twisted.ensureDeferred
async def test_events_of_one_moment_share_a_frame(secure):
    """What is written to a stream at once goes out in one frame."""
    server = await secure()
    client = await server.connect()
    stream = await client.open_stream(await client.log_in())
    before = stream.frames
    (served,) = server.connection.streams.values()
    for _ in range(10):
        served._request.write(b":\n\n")
    await client.when(lambda: stream.comments == 10)
    assert stream.frames == before + 1


@pytest_twisted.ensureDeferred
async def test_many_connections_with_streams(secure):
    """20 connections with 5 streams each all hear the same; nothing is left when they go."""
    server = await secure()
    clients = [await server.connect() for _ in range(20)]
    token = await clients[0].log_in()
    streams = [(client, await client.open_stream(token)) for client in clients for _ in range(5)]
    ring(server, 10)
    for client, stream in streams:
        await client.when(lambda stream=stream: len(stream.events) == 20)
    assert len({tuple(stream.events) for _, stream in streams}) == 1
    for client in clients:
        client.abort()
    await server.when_alone()
    await server.when(lambda: (server.streams.count, listeners(server)) == (0, 0))


@pytest_twisted.ensureDeferred
async def test_http11_and_http2_share_a_port(secure):
    """A client that does not offer HTTP/2 is served HTTP/1.1 on the same port."""
    server = await secure()
    put(server, "index.html", 10)
    for protocols in (None, (b"http/1.1",)):
        connection = RawConnection(server.running.soon)
        await server.open(connection, ClientTLS(protocols=protocols))
        connection.send(request_bytes("GET", "/"))
        assert (await connection.read_reply()).status == 200
