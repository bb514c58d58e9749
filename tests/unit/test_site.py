"""How long a client may take for a request, on a clock."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from mxflex.web.site import IDLE_SECONDS, MXFlexSite

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n"
REQUEST = HEAD + b"\r\n" + b"x" * 40
# Of whatever makes a difference this much is between both sides of it, in seconds.
MOMENT = 0.5


class Nothing(Resource):
    """Answers all requests alike."""

    isLeaf = True

    def render(self, request):
        request.setHeader(b"content-length", b"2")
        return b"ok"


class Client:
    """A client of a site, on a clock."""

    def __init__(self):
        self.clock = Clock()
        site = MXFlexSite(Nothing(), self.clock, ())
        address = IPv4Address("TCP", "192.0.2.1", 1)
        self.transport = StringTransport(peerAddress=address)
        self.protocol = site.buildProtocol(address)
        self.protocol.makeConnection(self.transport)

    def send(self, data):
        """Send bytes."""
        self.protocol.dataReceived(data)

    def drip(self, data, seconds):
        """Send bytes one by one, so slowly that all take so long, until the site closes."""
        for byte in data:
            if not self.cut:
                self.send(bytes([byte]))
                self.clock.advance(seconds / len(data))

    @property
    def answers(self):
        """How many answers have come."""
        return self.transport.value().count(b"HTTP/1.1 200 ")

    @property
    def cut(self):
        """Whether the site has closed."""
        return self.transport.disconnecting or self.transport.disconnected


@pytest.fixture
def client():
    """Give a client that has just connected."""
    return Client()


@pytest.mark.parametrize("sent", [b"", b"P", HEAD, REQUEST[:-1]])
def test_a_request_that_is_never_whole(client, sent):
    """Who connects and sends no whole request is cut when the time is up, and not before."""
    client.send(sent)
    client.clock.advance(IDLE_SECONDS - MOMENT)
    assert not client.cut
    client.clock.advance(2 * MOMENT)
    assert client.cut


@pytest.mark.parametrize("data", [HEAD + b"X: y\r\n" * 400, REQUEST, b"\r\n" + REQUEST])
def test_a_request_that_drips_in(client, data):
    """Bytes that come one by one do not begin the time anew, in the head or in the body."""
    client.drip(data, 2 * IDLE_SECONDS)
    assert client.cut
    assert client.answers == 0


def test_a_slow_request_is_answered(client):
    """A request may take its time, from its first byte on; so may each further one."""
    for number in range(1, 4):
        client.clock.advance(IDLE_SECONDS - 4 * MOMENT)
        client.drip(REQUEST, IDLE_SECONDS - MOMENT)
        assert client.answers == number
    assert not client.cut
    client.clock.advance(IDLE_SECONDS + MOMENT)
    assert client.cut


def test_requests_in_one_go(client):
    """With the begin of the next request behind a whole one, that has its own time."""
    client.send(REQUEST + REQUEST + HEAD)
    assert client.answers == 2
    client.clock.advance(IDLE_SECONDS - MOMENT)
    assert not client.cut
    client.send(REQUEST[len(HEAD) :])
    assert client.answers == 3
    client.send(REQUEST + HEAD)
    client.drip(b"X: y\r\n" * 10, 2 * IDLE_SECONDS)
    assert client.cut


@pytest.mark.parametrize("late", ["pauseProducing", "resumeProducing", "loseConnection"])
def test_nothing_waits_for_a_connection_that_is_lost(client, late):
    """What is said to a channel after its end starts no timer, which would end in a traceback."""
    client.protocol.connectionLost(Failure(ConnectionDone()))
    getattr(client.protocol._channel, late)()
    assert client.clock.getDelayedCalls() == []


def test_a_client_that_is_cut_off_while_its_end_is_waited_for(client):
    """Whoever is cut off at once is not cut off once more when its time is up."""
    client.send(HEAD)
    client.clock.advance(IDLE_SECONDS)
    assert client.clock.getDelayedCalls()
    client.protocol._channel.forceAbortClient()
    assert client.clock.getDelayedCalls() == []
