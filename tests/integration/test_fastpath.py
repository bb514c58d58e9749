"""Bytes that go straight to the socket are those that `request.write` would have sent."""

from __future__ import annotations

import random
import socket

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mxflex.web.fastpath import Chunks, SocketWriter, writer_for
from mxflex.web.site import MXFlexSite
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
        write = writer_for(request, Chunks()) if fast else request.write
        assert isinstance(write, SocketWriter) is fast
        chance = random.Random(7)
        for _ in range(WRITES):
            write(chance.choice(PIECES))
            await turns(chance.choice([0, 0, 1, 3]))
        if paused:
            transport = request.channel.transport
            assert transport.dataBuffer or transport._tempDataBuffer, "the kernel took it all"
        assert request.sentLength == sum(
            len(piece) for piece in _replayed(random.Random(7), WRITES)
        )
        bodies.append((await exchange.end())[1])
    assert bodies[0] == bodies[1]


def _replayed(chance, count):
    for _ in range(count):
        yield chance.choice(PIECES)
        chance.choice([0, 0, 1, 3])


@pytest_twisted.ensureDeferred
async def test_nothing_overtakes_what_is_queued():
    """Bytes that were queued before stay before, also those of `request.write`."""
    exchange = Exchange()
    request = await exchange.begin()
    write = writer_for(request, Chunks())
    request.write(b"first")
    write(b"second")
    await turns(3)
    write(b"third")
    request.write(b"fourth")
    write(b"fifth")
    _, body = await exchange.end()
    texts = body.replace(b"\r\n", b" ").split()[1::2]
    assert texts == [b"first", b"second", b"third", b"fourth", b"fifth"]


@pytest_twisted.ensureDeferred
async def test_at_once():
    """When nothing is queued, the bytes are with the kernel before the call returns."""
    exchange = Exchange()
    request = await exchange.begin()
    write = writer_for(request, Chunks())
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
    write = writer_for(request, Chunks())
    assert not isinstance(write, SocketWriter)
    write(b"plain")
    _, body = await exchange.end()
    assert body == b"plain"


@pytest_twisted.ensureDeferred
async def test_a_client_that_has_gone():
    """Writing to a connection that was reset is harmless, and the request learns of it."""
    exchange = Exchange()
    request = await exchange.begin()
    gone = Deferred()
    request.notifyFinish().addErrback(lambda _: gone.callback(None))
    write = writer_for(request, Chunks())
    await turns(3)
    exchange.client.transport.abortConnection()
    for _ in range(3):
        write(b"x" * 1000)
    await gone
    write(b"after the end")
    await exchange.port.stopListening()


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
