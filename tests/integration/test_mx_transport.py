"""The TLS transport to the MX: what it gives to the socket at once, and what to Twisted."""

from __future__ import annotations

import hashlib

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from mxflex.mx.tls import PeerPolicy
from mxflex.mx.transport import SecureEndpoint
from mxflex.simulator.certificate import Certificate, ServerTLS
from tests.integration.leftovers import Leftovers

LOOPBACK = "127.0.0.1"
PATIENCE = 20.0


class Peer(Protocol):
    """One end; notes what comes."""

    def __init__(self):
        self.received = hashlib.sha256()
        self.count = 0
        self.awaited = None
        self.secured = Deferred()
        self.lost = Deferred()

    def connectionMade(self):
        self.transport.write(b"!")

    def dataReceived(self, data):
        self.received.update(data)
        self.count += len(data)
        if not self.secured.called:
            self.secured.callback(None)
        if self.awaited is not None and self.count >= self.awaited[0]:
            (_, done), self.awaited = self.awaited, None
            done.callback(None)

    def when(self, count):
        """Give a Deferred that fires when so many bytes have come."""
        done = Deferred()
        if self.count >= count:
            done.callback(None)
        else:
            self.awaited = (count, done)
        return done

    def connectionLost(self, reason):
        self.lost.callback(None)


class Pair:
    """A connection over real sockets: the transport under test, and Twisted's own on the other end.

    Attributes:
        ours, theirs: The protocols of both ends.
    """

    async def open(self):
        certificate = Certificate.self_signed()
        peers = []
        factory = Factory.forProtocol(lambda: peers.append(Peer()) or peers[-1])
        factory.noisy = False
        secure = TLSMemoryBIOFactory(ServerTLS(lambda: certificate), False, factory)
        self.port = reactor.listenTCP(0, secure, interface=LOOPBACK)
        tcp = TCP4ClientEndpoint(reactor, LOOPBACK, self.port.getHost().port)
        mine = Factory.forProtocol(Peer)
        mine.noisy = False
        self.ours = await SecureEndpoint(reactor, tcp, PeerPolicy(LOOPBACK)).connect(mine)
        await soon(self.ours.secured)
        (self.theirs,) = peers
        await soon(self.theirs.secured)
        return self

    async def close(self):
        if not self.ours.lost.called:
            self.ours.transport.abortConnection()
        await soon(self.ours.lost)
        await soon(self.theirs.lost)
        await self.port.stopListening()


def soon(deferred):
    """Give the Deferred, which fails when it takes longer than tests are willing to wait."""
    return deferred.addTimeout(PATIENCE, reactor)


@pytest_twisted.async_yield_fixture
async def pair():
    """Give a connection that is closed after the test."""
    leftovers = Leftovers(reactor)
    pair = await Pair().open()
    yield pair
    await pair.close()
    await leftovers.check()


@pytest_twisted.ensureDeferred
async def test_what_is_written_is_on_its_way(pair):
    """The bytes are with the kernel when `write` returns: no turn of the reactor goes by."""
    socket = pair.ours.transport.transport
    for _ in range(3):
        pair.ours.transport.write(b"x" * 300)
        assert socket not in reactor.getWriters()
    await soon(pair.theirs.when(1 + 3 * 300))


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read(pair):
    """What the socket does not take waits in its order, and all of it arrives."""
    pair.theirs.transport.pauseProducing()
    sent = hashlib.sha256(b"!")
    total = 1
    for number in range(400):
        data = bytes([number % 251]) * (40_000 + number)
        sent.update(data)
        total += len(data)
        pair.ours.transport.write(data)
    assert pair.ours.transport.transport in reactor.getWriters()
    pair.theirs.transport.resumeProducing()
    await soon(pair.theirs.when(total))
    assert pair.theirs.received.digest() == sent.digest()


@pytest_twisted.ensureDeferred
async def test_a_farewell_follows_what_was_written(pair):
    """Closing sends what is still held, and then says goodbye."""
    pair.theirs.transport.pauseProducing()
    pair.ours.transport.write(b"y" * 5_000_000)
    pair.ours.transport.loseConnection()
    pair.theirs.transport.resumeProducing()
    await soon(pair.theirs.when(5_000_001))


@pytest_twisted.ensureDeferred
async def test_the_last_bytes(pair, monkeypatch):
    """The last bytes and the end of TLS leave together, and both arrive."""
    sent = []
    tcp = pair.ours.transport.transport
    real = tcp.socket

    class Socket:
        def send(self, data):
            sent.append(data)
            return real.send(data)

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(tcp, "socket", Socket())
    pair.ours.transport.writeLast(b"x" * 300)
    assert len(sent) == 1
    await soon(pair.theirs.when(301))
    await soon(pair.ours.lost)


@pytest_twisted.ensureDeferred
async def test_the_last_bytes_behind_others(pair):
    """What still waits goes before the last bytes."""
    pair.theirs.transport.pauseProducing()
    pair.ours.transport.write(b"y" * 5_000_000)
    pair.ours.transport.writeLast(b"x")
    pair.theirs.transport.resumeProducing()
    await soon(pair.theirs.when(5_000_002))
    assert pair.theirs.received.digest() == hashlib.sha256(b"!" + b"y" * 5_000_000 + b"x").digest()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_has_vanished(pair):
    """Writing to a connection that the peer has reset ends it, as with any transport."""
    pair.theirs.transport.abortConnection()
    while not pair.ours.lost.called:
        pair.ours.transport.write(b"z" * 1000)
        await soon(next_turn())


def next_turn():
    """Give a Deferred that fires in the next turn of the reactor."""
    turn = Deferred()
    reactor.callLater(0, turn.callback, None)
    return turn
