"""Bytes that go straight to the socket are those that `request.write` would have sent."""

from __future__ import annotations

import random
import re
import socket
from contextlib import suppress

import pytest
import pytest_twisted
from h2.settings import SettingCodes
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mxflex.certs.connection import ServerConnection
from mxflex.web import eventstream
from mxflex.web.fastpath import (
    Chunks,
    Corks,
    RequestWriter,
    SecureWriter,
    SocketWriter,
    writer_for,
)
from mxflex.web.http2 import FrameWriter
from mxflex.web.site import MXFlexSite
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import EstablishedEvent
from tests.integration.daemons import EXT
from tests.integration.h2client import ClientTLS
from tests.integration.raw_http import RawConnection
from tests.integration.streams import parse_events
from tests.integration.victims import streams_of

HEAD = b"GET / HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n\r\n"
WRITES = 100
PIECES = [b"x" * size for size in (1, 15, 16, 17, 255, 256, 4096, 70_000)]


class Body(Resource):
    """Gives its request to the test, and leaves the answer to it."""

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.came = Deferred()

    def render(self, request):
        request.write(b"")
        self.came.callback(request)
        return NOT_DONE_YET


class Collector(Protocol):
    """Keeps what it is sent; fires when the server has closed."""

    def __init__(self, paused=False):
        self.data = b""
        self.closed = Deferred()
        self.paused = paused

    def connectionMade(self):
        if self.paused:
            self.transport.pauseProducing()

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.closed.callback(self.data)


class Exchange:
    """One request on a loopback socket, whose answer the test writes."""

    async def begin(self, version=b"1.1", *, paused=False):
        self.body = Body()
        site = MXFlexSite(self.body, reactor, ())
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.port = await endpoint.listen(site)
        self.client = Collector(paused)
        connecting = Deferred()
        self.client.connectionMade = lambda: connecting.callback(None)
        reactor.connectTCP("127.0.0.1", self.port.getHost().port, _Factory(self.client))
        await connecting
        if paused:
            self.client.transport.pauseProducing()
            self.client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        self.client.transport.write(HEAD % version)
        self.request = await self.body.came
        if paused:
            # So little that the kernel cannot take what is coming.
            server = self.request.channel.transport.socket
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        return self.request

    async def end(self):
        self.request.finish()
        self.client.transport.resumeProducing()
        data = await self.client.closed
        await self.port.stopListening()
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body


class _Factory:
    """Connects one protocol that exists already."""

    def __init__(self, protocol):
        self._protocol = protocol

    def doStart(self):
        pass

    def doStop(self):
        pass

    def startedConnecting(self, connector):
        pass

    def clientConnectionLost(self, connector, reason):
        pass

    def buildProtocol(self, address):
        return self._protocol


class Alone:
    """A stream that no audience sends to."""

    def step_in(self, writer):
        pass

    def step_out(self):
        pass


def corks():
    return Corks(lambda act: reactor.callLater(0, act))


async def turns(count):
    """Let the reactor go round so many times."""
    for _ in range(count):
        await deferLater(reactor, 0)


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "not reading"])
@pytest_twisted.ensureDeferred
async def test_the_same_bytes(paused):
    """Whatever the sizes, and whether the client reads or not, both ways send the same bytes."""
    bodies = []
    for fast in (False, True):
        exchange = Exchange()
        request = await exchange.begin(paused=paused)
        writer = writer_for(request, Chunks(), corks(), Alone()) if fast else RequestWriter(request)
        assert isinstance(writer, SocketWriter) is fast
        chance = random.Random(7)
        for _ in range(WRITES):
            writer.write(chance.choice(PIECES))
            await turns(chance.choice([0, 0, 1, 3]))
        if paused:
            transport = request.channel.transport
            assert transport.dataBuffer or transport._tempDataBuffer, "the kernel took it all"
        sent = writer.sent if fast else request.sentLength
        assert sent == sum(len(piece) for piece in _replayed(random.Random(7), WRITES))
        bodies.append((await exchange.end())[1])
    assert bodies[0] == bodies[1]


def _replayed(chance, count):
    for _ in range(count):
        yield chance.choice(PIECES)
        chance.choice([0, 0, 1, 3])


@pytest_twisted.ensureDeferred
async def test_nothing_overtakes_what_is_queued():
    """Bytes that were queued before stay before, also those of the request itself."""
    exchange = Exchange()
    request = await exchange.begin()
    write = writer_for(request, Chunks(), corks(), Alone()).write
    request.write(b"first")
    write(b"second")
    await turns(3)
    write(b"third")
    write(b"fourth")
    _, body = await exchange.end()
    texts = body.replace(b"\r\n", b" ").split()[1::2]
    assert texts == [b"first", b"second", b"third", b"fourth"]


@pytest_twisted.ensureDeferred
async def test_at_once():
    """When nothing is queued, the bytes are with the kernel before the call returns."""
    exchange = Exchange()
    request = await exchange.begin()
    write = writer_for(request, Chunks(), corks(), Alone()).write
    await turns(5)
    write(b"now")
    transport = request.channel.transport
    assert not transport.dataBuffer
    assert not transport._tempDataBuffer
    _, body = await exchange.end()
    assert body == b"3\r\nnow\r\n0\r\n\r\n"


@pytest_twisted.ensureDeferred
async def test_http10_has_no_chunks():
    """A client of HTTP/1.0 gets the bytes as they are, the usual way."""
    exchange = Exchange()
    request = await exchange.begin(b"1.0")
    writer = writer_for(request, Chunks(), corks(), Alone())
    assert isinstance(writer, RequestWriter)
    writer.write(b"plain")
    _, body = await exchange.end()
    assert body == b"plain"


@pytest_twisted.ensureDeferred
async def test_a_client_that_has_gone():
    """Writing to a connection that was reset is harmless, and the request learns of it."""
    exchange = Exchange()
    request = await exchange.begin()
    gone = Deferred()
    request.notifyFinish().addErrback(lambda _: gone.callback(None))
    write = writer_for(request, Chunks(), corks(), Alone()).write
    await turns(3)
    exchange.client.transport.abortConnection()
    for _ in range(3):
        write(b"x" * 1000)
    await gone
    write(b"after the end")
    await exchange.port.stopListening()


class Alternating:
    """Gives streams the shortest way and the reference in turn, and remembers which it gave."""

    def __init__(self):
        self.given = []

    def __call__(self, request, chunks, corks, pace):
        short = len(self.given) % 2 == 0
        writer = writer_for(request, chunks, corks, pace) if short else RequestWriter(request)
        self.given.append(type(writer))
        return writer


def fill(running, number, size):
    """Let the MX send an event with its number and so many letters."""
    attached = CallAttachedData(name="filling", type="string", value="x" * size)
    connection = ConnectionID(call_id=number, device_id=EXT)
    running.mx.send_event(EXT, EstablishedEvent(connection=connection, cads=(attached,)))


async def open_frames(server, count):
    """Open streams on one HTTP/2 connection; give who reads, and what gives the texts so far."""
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: 300_000})
    token = await client.log_in()
    streams = [await client.open_stream(token) for _ in range(count)]
    return [client], lambda: [bytes(stream.body) for stream in streams]


async def open_chunks(connect, token, count):
    """Open streams on HTTP/1.1; give who reads, and what gives the texts so far."""
    head = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    readers = []
    for _ in range(count):
        reader = await connect()
        reader.send(head.encode())
        await reader.when(lambda reader=reader: b"\nid: " in reader.received)
        readers.append(reader)
    return readers, lambda: [dechunk(bytes(reader.received)) for reader in readers]


async def feed(running, readers):
    """Let events come alone and in bursts, while some readers pause; give how many came."""
    chance, number = random.Random(11), 0
    for turn in range(30):
        for reader in readers[:2]:
            if turn == 10:
                reader.transport.pauseProducing()
            if turn == 20:
                reader.transport.resumeProducing()
        for _ in range(chance.choice([1, 1, 2, 7])):
            fill(running, number, chance.choice([0, 10, 500, 5_000, 20_000]))
            number += 1
        await turns(chance.choice([0, 1, 5]))
    return number


async def tell(running, texts, number, size=300):
    """Send an event, and wait until all streams have it, and all before it."""
    fill(running, number, size)
    await all_have(running, texts, number)


async def all_have(running, texts, number):
    """Wait until all streams have the event with a number, and hold them to have all before it."""
    last = b'"callId":%d,' % number
    await running.when(lambda: all(last in text and text[-2:] == b"\n\n" for text in texts()))
    (text,) = set(texts())
    assert [event.json["callId"] for event in parse_events(text)] == list(range(number + 1))


def in_rows(running):
    """Give how many streams are sent to by the audiences."""
    streams = [stream for slot in streams_of(running)._slots for stream in slot]
    return sum(stream._direct is not None for stream in streams)


async def compare(running, readers, texts, direct=None):
    """Feed the streams, and hold them to have got everything, once, in order, all the same.

    Args:
        running: The daemon.
        readers: See `feed`.
        texts: Gives what the streams have got.
        direct: How many of them the audiences send to once all is read, if that is known.
    """
    number = await feed(running, readers)
    await all_have(running, texts, number - 1)
    # The first of these finds that nothing is owed any more.
    for _ in range(3):
        await tell(running, texts, number)
        number += 1
    assert direct in (None, in_rows(running))
    sizes = {len(text) for text in texts()}
    for reader in readers:
        reader.abort()

    def lines():
        return running.log.of("mxflex.access")

    await running.when(lambda: sum("/api/events" in line for line in lines()) == len(texts()))
    found = re.findall(r"/api/events\S* 200 (\d+) ", "".join(lines()))
    assert {int(size) for size in found} == sizes


@pytest.fixture
def ways(monkeypatch):
    """Let every second stream write by the request."""
    ways = Alternating()
    monkeypatch.setattr(eventstream, "writer_for", ways)
    return ways


SETTINGS = {"events": {"max_unsent": 5_000_000}}


@pytest_twisted.ensureDeferred
async def test_chunks_are_those_of_the_request(daemon, ways):
    """Streams of HTTP/1.1 get the same bytes straight to the socket as by `request.write`."""
    running = await daemon(**SETTINGS)
    token = await running.log_in()
    readers, texts = await open_chunks(running.connect, token, 6)
    assert ways.given == [SocketWriter, RequestWriter] * 3
    await compare(running, readers, texts, direct=3)


@pytest_twisted.ensureDeferred
async def test_chunks_over_tls_are_those_of_the_request(secure, ways):
    """The same over TLS."""
    server = await secure(**SETTINGS)
    token = await (await server.connect()).log_in()

    def connect():
        return server.open(RawConnection(server.running.soon), ClientTLS(protocols=None))

    readers, texts = await open_chunks(connect, token, 6)
    assert ways.given == [SecureWriter, RequestWriter] * 3
    await compare(server.running, readers, texts, direct=3)


@pytest_twisted.ensureDeferred
async def test_lone_frames_hold_what_the_request_writes(secure, ways):
    """The same in HTTP/2, where each stream has a connection, and at times no window."""
    server = await secure(**SETTINGS)
    token = await (await server.connect()).log_in()
    readers = [await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: 5_000}) for _ in range(6)]
    streams = [await reader.open_stream(token) for reader in readers]
    assert ways.given == [FrameWriter, RequestWriter] * 3
    await compare(server.running, readers, lambda: [bytes(each.body) for each in streams])


@pytest_twisted.ensureDeferred
async def test_a_tls_client_that_speaks(secure):
    """Whatever a client sends, its stream goes on: TLS may have to answer before the next event."""
    server = await secure()
    token = await (await server.connect()).log_in()

    def connect():
        return server.open(RawConnection(server.running.soon), ClientTLS(protocols=None))

    (reader,), texts = await open_chunks(connect, token, 1)
    for number in range(6):
        await tell(server.running, texts, number)
        if number in (2, 3):
            assert in_rows(server.running) == 1
            reader.send(b"GET / HTTP/1.1\r\n")
            await server.when(lambda: not in_rows(server.running))
    assert in_rows(server.running) == 1


@pytest_twisted.ensureDeferred
async def test_the_windows_of_a_lone_stream(secure):
    """What audiences have sent counts in the windows of HTTP/2, and comes to be known in time."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    stream = await client.open_stream(token)
    stream_id, core = client.id_of(stream), server.connection.conn
    client.acknowledges = False
    for number in range(40):
        await tell(server.running, lambda: [bytes(stream.body)], number)
        if number % 7 == 6:
            assert in_rows(server.running) == 1
            await client.when_ponged()
            assert in_rows(server.running) == 0
            left = client.conn.remote_flow_control_window(stream_id)
            assert core.local_flow_control_window(stream_id) == left
            assert (
                core.outbound_flow_control_window
                == client.conn._inbound_flow_control_window_manager.current_window_size
            )
    # More than the window: what is left comes when the client opens it.
    for number in range(40, 60):
        fill(server.running, number, 5_000)
    await server.when(lambda: not in_rows(server.running))
    client.acknowledges = True
    client.conn.increment_flow_control_window(60_000, stream_id)
    client.conn.increment_flow_control_window(60_000)
    client.flush()
    await all_have(server.running, lambda: [bytes(stream.body)], 59)


@pytest_twisted.ensureDeferred
async def test_a_second_stream_on_a_connection(secure):
    """A stream that is alone no more shares its connection, and is alone again later."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    first = await client.open_stream(token)
    for number in range(2):
        await tell(server.running, lambda: [bytes(first.body)], number)
    assert in_rows(server.running) == 1
    second = await client.open_stream(token)
    await tell(server.running, lambda: [bytes(first.body)], 2)
    await server.when(lambda: b'"callId":2,' in second.body)
    assert in_rows(server.running) == 0
    client.conn.reset_stream(client.id_of(second))
    client.flush()
    await server.when(lambda: server.streams.count == 1)
    for number in range(3, 5):
        await tell(server.running, lambda: [bytes(first.body)], number)
    assert in_rows(server.running) == 1


@pytest.mark.parametrize("tls", [False, True], ids=["HTTP", "HTTPS"])
@pytest_twisted.ensureDeferred
async def test_nothing_overtakes_what_the_transport_holds(daemon, secure, tls):
    """What comes while a reader catches up comes behind what the transport has still to send."""
    server = await secure(**SETTINGS) if tls else None
    running = server.running if tls else await daemon(**SETTINGS)
    token = await ((await server.connect()).log_in() if tls else running.log_in())

    def connect():
        if not tls:
            return running.connect()
        return server.open(RawConnection(running.soon), ClientTLS(protocols=None))

    (reader,), texts = await open_chunks(connect, token, 1)
    reader.transport.pauseProducing()
    (stream,) = [stream for slot in streams_of(running)._slots for stream in slot]
    holder = stream._request.channel.transport
    holder = holder.transport if tls else holder
    below = reader.transport.transport if tls else reader.transport
    holder.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    below.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    sent = 0
    while not (holder.dataBuffer or holder._tempDataBuffer):
        stream.send(b": %d %b\n\n" % (sent, b"x" * 3_000))
        sent += 1
    # The kernel has room again, and the transport has had no turn to notice.
    take = reader.transport.dataReceived if tls else reader.dataReceived
    with suppress(BlockingIOError):
        while data := below.socket.recv(65_536):
            take(data)
    for _ in range(3):
        stream.send(b": %d %b\n\n" % (sent, b"x" * 3_000))
        sent += 1
    assert holder.dataBuffer or holder._tempDataBuffer
    reader.transport.resumeProducing()
    await reader.when(lambda: reader.received.count(b"x\n\n") == sent)
    assert re.findall(rb"\n: (\d+) x", texts()[0]) == [b"%d" % number for number in range(sent)]


class Records(RawConnection):
    """Remembers the plain bytes of the largest TLS record: OpenSSL gives one at a time."""

    largest = 0

    def dataReceived(self, data):
        self.largest = max(self.largest, len(data))
        super().dataReceived(data)


@pytest_twisted.ensureDeferred
async def test_records_are_short(secure, ways):
    """However much is written at once, and by which way, each TLS record has its bounded room."""
    server = await secure(**SETTINGS)
    token = await (await server.connect()).log_in()

    def connect():
        return server.open(Records(server.running.soon), ClientTLS(protocols=None))

    readers, texts = await open_chunks(connect, token, 4)
    assert ways.given == [SecureWriter, RequestWriter] * 2
    await compare(server.running, readers, texts)
    assert [reader.largest for reader in readers] == [ServerConnection.record_bytes] * 4


@pytest_twisted.ensureDeferred
async def test_frames_hold_what_the_request_writes(secure, ways):
    """The same in HTTP/2, where streams that take the long way share the connection."""
    server = await secure(**SETTINGS)
    readers, texts = await open_frames(server, 6)
    assert ways.given == [FrameWriter, RequestWriter] * 3
    await compare(server.running, readers, texts, direct=0)


def dechunk(received):
    """Give the body of a chunked answer (RFC 9112, 7.1) as far as whole chunks have come."""
    _, _, rest = received.partition(b"\r\n\r\n")
    body = b""
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        if len(rest) < int(size, 16) + 2:
            break
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


def test_one_chunk_for_all():
    """The chunk of the same object is made once."""
    chunks = Chunks()
    data = b"event: e\n\n"
    assert chunks.of(data) is chunks.of(data)
    assert chunks.of(data) == b"a\r\nevent: e\n\n\r\n"
    assert chunks.of(b"other") == b"5\r\nother\r\n"


@pytest_twisted.ensureDeferred
async def test_a_reset_behind_more_requests(daemon):
    """A client that is reset while its further requests wait unread leaves no stream behind.

    Twisted does not read on then, so only sending shows that the client has gone.
    """
    running = await daemon(events={"heartbeat": 0.2})
    token = await running.log_in()
    connection = await running.connect()
    head = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    connection.send(head.encode() + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1200)
    streams = streams_of(running)
    await running.when(lambda: streams.count == 1)
    connection.abort()
    await running.when(lambda: streams.count == 0)
