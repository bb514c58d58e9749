"""Answers that go to the socket at once: the bytes are Twisted's, whatever the client does."""

from __future__ import annotations

import re

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.logger import globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mxflex.web import site as module
from mxflex.web.site import CrossOrigin, MXFlexSite, Root
from tests.integration.daemons import CapturedLog
from tests.integration.leftovers import Leftovers

LOOPBACK = "127.0.0.1"
PATIENCE = 20.0
# Far more than a socket takes.
LARGE = b"0123456789abcdef" * 2**20


class Pages(Resource):
    """Answers of all kinds, each by its path.

    Attributes:
        queued: After each answer: whether its socket waits to be written to.
        late: Fires with the request for an answer that the test gives.
    """

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.queued = []
        self.late = Deferred()

    def render(self, request):
        transport = request.channel.transport
        done = request.notifyFinish()
        done.addCallback(lambda _: self.queued.append(transport in reactor.getWriters()))
        done.addErrback(lambda _: None)
        return getattr(self, "render_" + request.postpath[-1].decode())(request)

    def render_small(self, request):
        return b"small"

    def render_large(self, request):
        return LARGE

    def render_nothing(self, request):
        request.setResponseCode(204)
        return b""

    def render_unchanged(self, request):
        request.setResponseCode(304)
        return b""

    def render_pieces(self, request):
        for piece in (b"one", b"", b"two" * 1000, b"three"):
            request.write(piece)
        request.finish()
        return NOT_DONE_YET

    def render_late(self, request):
        self.late.callback(request)
        return NOT_DONE_YET

    def render_error(self, request):
        raise ZeroDivisionError


class Client(Protocol):
    """A client that reads when it is told to."""

    def __init__(self):
        self.received = bytearray()
        self.lost = Deferred()
        self.waiter = None

    def dataReceived(self, data):
        self.received += data
        if self.waiter is not None and self.waiter[0](self.received):
            (_, done), self.waiter = self.waiter, None
            done.callback(bytes(self.received))

    def when(self, condition):
        """Give what has come once a condition holds for it."""
        done = Deferred()
        if condition(self.received):
            done.callback(bytes(self.received))
        else:
            self.waiter = (condition, done)
        return done.addTimeout(PATIENCE, reactor)

    def connectionLost(self, reason):
        self.lost.callback(bytes(self.received))


class Shop:
    """A site over a real socket, and its clients."""

    def __init__(self):
        self.pages = Pages()
        root = Root(Resource(), self.pages, CrossOrigin(frozenset()))
        self.port = reactor.listenTCP(0, MXFlexSite(root, reactor, ()), interface=LOOPBACK)
        self.clients = []

    async def connect(self):
        client = Client()
        connected = Deferred()
        client.connectionMade = lambda: connected.callback(None)
        factory = ClientFactory()
        factory.noisy = False
        factory.protocol = lambda: client
        reactor.connectTCP(LOOPBACK, self.port.getHost().port, factory)
        await connected.addTimeout(PATIENCE, reactor)
        self.clients.append(client)
        return client

    async def ask(self, *lines, version="1.1"):
        """Give all that is answered to requests on one connection, without dates and names."""
        client = await self.connect()
        for left, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
            last = "" if left else "Connection: close\r\n"
            client.transport.write(f"{line} HTTP/{version}\r\nHost: x\r\n{last}\r\n".encode())
        received = await client.lost.addTimeout(PATIENCE, reactor)
        for name in re.findall(rb"\r\nX-Request-Id: ([0-9a-f]{16})", received):
            received = received.replace(name, b"0" * len(name))
        return re.sub(rb"\r\nDate: [^\r]*", b"", received)

    async def close(self):
        for client in self.clients:
            if not client.lost.called:
                client.transport.abortConnection()
        await self.port.stopListening()


@pytest_twisted.async_yield_fixture
async def shop():
    """Give a site that is closed after the test."""
    leftovers = Leftovers(reactor)
    shop = Shop()
    yield shop
    await shop.close()
    await leftovers.check()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("page", ["small", "large", "nothing", "unchanged", "pieces", "error"])
async def test_same_bytes(shop, monkeypatch, page, method, version):
    """Every kind of answer is byte for byte the one that Twisted gives by itself."""
    answer = await shop.ask(f"{method} /{page}", version=version)
    monkeypatch.setattr(module, "takes_pieces", lambda _channel: False)
    assert answer == await shop.ask(f"{method} /{page}", version=version)
    assert answer.startswith(b"HTTP/1.")


@pytest_twisted.ensureDeferred
async def test_at_once(shop, monkeypatch):
    """An answer that the socket takes is with the kernel when it is finished."""
    # The last of them also closes the connection.
    await shop.ask("GET /small", "GET /nothing", "HEAD /large", "GET /small")
    assert shop.pages.queued[:3] == [False] * 3
    monkeypatch.setattr(module, "takes_pieces", lambda _channel: False)
    await shop.ask("GET /small", "GET /small")
    assert shop.pages.queued[4]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read(shop):
    """What the socket does not take waits, and so do the answers behind it; all of it arrives."""
    client = await shop.connect()
    client.transport.pauseProducing()
    client.transport.write(
        b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /small HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    while not shop.pages.queued:
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
    assert shop.pages.queued[0]
    client.transport.resumeProducing()
    received = await client.when(lambda data: data.endswith(b"\r\n\r\nsmall"))
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert rest.startswith(LARGE + b"HTTP/1.1 200 ")


@pytest_twisted.ensureDeferred
async def test_many_requests_at_once(shop):
    """Requests in one piece are answered in their order."""
    answer = await shop.ask("GET /small", "GET /pieces", "GET /small", "GET /large", "GET /small")
    alone = [await shop.ask(f"GET /{page}") for page in ("small", "pieces", "small", "large")]
    expected = b"".join(each.replace(b"Connection: close\r\n", b"") for each in alone)
    assert answer.startswith(expected)


@pytest_twisted.ensureDeferred
async def test_a_client_that_has_vanished(shop):
    """A connection that was reset a moment ago ends as ever, and is no bug."""
    log = CapturedLog()
    globalLogPublisher.addObserver(log)
    client = await shop.connect()
    client.transport.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
    request = await shop.pages.late.addTimeout(PATIENCE, reactor)
    gone = request.notifyFinish()
    client.transport.abortConnection()
    await client.lost
    # The kernel knows, Twisted does not yet.
    request.write(b"in vain")
    with pytest.raises((ConnectionDone, ConnectionLost)):
        await gone.addTimeout(PATIENCE, reactor)
    globalLogPublisher.removeObserver(log)
    assert log.bugs == []
