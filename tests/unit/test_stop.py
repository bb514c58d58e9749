"""Heartbeats, what clients may owe, and the end of streams, at a time that only the test moves."""

from __future__ import annotations

import json
import math
import re

import pytest
from twisted.application.service import Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mxflex.gateway.admission import RESTART_SECONDS, Admission
from mxflex.gateway.calls import CallRegistry, Calls
from mxflex.gateway.hub import CALLS_ALONE, Hub
from mxflex.gateway.logouts import Logouts
from mxflex.gateway.sessions import Sessions
from mxflex.gateway.tokens import Identity
from mxflex.process import InTurn
from mxflex.web.eventjson import encode_gap
from mxflex.web.eventstream import (
    DRAIN_SECONDS,
    ENDED_AT_ONCE,
    FIRST_RETURN_SECONDS,
    LAST_RETURN_SECONDS,
    RETURNS_PER_SECOND,
    STOP_AT_LAST_SECONDS,
    STOP_SECONDS,
    STOP_SLOT_SECONDS,
    TRANSPORT_BUFFER_BYTES,
    EventStreams,
    encode_sse,
)
from mxflex.web.site import MXFlexSite
from tests.unit.memory_mx import MemoryMX

EXT = "3095"
FAREWELL = re.compile(rb"\r\n([0-9a-f]+)\r\n(retry: (\d+)\n\n)\r\n0\r\n\r\n\Z")
MAX_UNSENT = 262_144
SLOTS = round(STOP_SECONDS / STOP_SLOT_SECONDS)


class Line(StringTransport):
    """A client's connection.

    Attributes:
        held: Whether it stays when we have closed it, as with a client that does not read.
        room: Bytes that may be written before it asks for a pause.
    """

    def __init__(self, *, held=False, room=math.inf):
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 50_000))
        self.held = held
        self.room = room

    def write(self, data):
        super().write(data)
        before, self.room = self.room, self.room - len(data)
        if before >= 0 > self.room:
            self.producer.pauseProducing()

    def writeSequence(self, data):
        self.write(b"".join(data))

    def loseConnection(self):
        super().loseConnection()
        self.connected = self.held

    def getTcpNoDelay(self):
        return True

    def setTcpNoDelay(self, enabled):
        """Send small parts at once, as here they always are."""


class Events(Resource):
    """Answers whatever is asked for with events."""

    isLeaf = True

    def __init__(self, streams, identity):
        super().__init__()
        self._streams, self._identity = streams, identity

    def render(self, request):
        last = request.getHeader("last-event-id")
        last_id = None if last is None else int(last)
        opening = self._streams.open(request, self._identity, CALLS_ALONE, last_id)
        Deferred.fromCoroutine(opening).addCallbacks(
            request.render, lambda failure: request.processingFailed(failure) and None
        )
        return NOT_DONE_YET


class House:
    """The web side and the gateway, with an MX in memory."""

    def __init__(self):
        self.mx = MemoryMX().start()
        self.clock = self.mx.clock
        self.hub = Hub(self.clock.seconds, encode_sse, encode_gap, 16)
        calls = Calls(self.mx.link, CallRegistry(self.clock.seconds), True)
        logouts = Logouts(self.clock)
        sessions = Sessions(self.clock, self.mx.link.monitors, self.hub, calls, logouts)
        self.admission = Admission(1_000_000, 1_000_000, 1_000_000)
        self.streams = EventStreams(self.clock, sessions, self.admission, 15, MAX_UNSENT)
        now = int(self.clock.seconds())
        identity = Identity(mx="63022", ext=EXT, jid=1, expires_at=now + 3600, auth_time=now)
        self._site = MXFlexSite(Events(self.streams, identity), self.clock, ())
        self.streams.startService()
        self.lines = []
        self._protocols = []

    def connect(self, count=1, *, last_id=None, **habits):
        """Open so many streams, each on a connection of its own; see `Line`."""
        for _ in range(count):
            line = Line(**habits)
            protocol = self._site.buildProtocol(None)
            protocol.makeConnection(line)
            self.lines.append(line)
            self._protocols.append(protocol)
            self.ask(len(self.lines) - 1, last_id)
            assert line.value().startswith(b"HTTP/1.1 200 "), line.value()
            assert not line.disconnecting
        assert self.streams.count == len(self.lines)

    def ask(self, number, last_id=None):
        """Ask for a stream on a connection, with an id or none."""
        header = b"" if last_id is None else b"Last-Event-ID: %d\r\n" % last_id
        self._protocols[number].dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % header)
        self.mx.pump()

    def pass_an_interval(self):
        """Let the time between two heartbeats pass, with an MX that answers."""
        for _ in range(300):
            self.clock.advance(0.05)
            self.mx.pump()

    def hang_up(self):
        """Let all clients go."""
        for protocol in self._protocols:
            protocol.connectionLost(Failure(ConnectionDone()))

    def stop(self):
        """Begin to stop; give what tells of the end."""
        ended = []
        self.streams.stopService().addCallback(ended.append)
        return ended

    @property
    def dismissed(self):
        """How many streams have ended in order, with their connection."""
        return sum(
            bool(FAREWELL.search(line.value())) and line.disconnecting for line in self.lines
        )

    @property
    def returns(self):
        """When the clients come back, in seconds."""
        return [int(FAREWELL.search(line.value())[3]) / 1000 for line in self.lines]


@pytest.fixture
def house():
    house = House()
    yield house
    house.hang_up()
    house.mx.stop()


def test_without_streams(house):
    """Where nobody listens, nothing takes time."""
    assert house.stop() == [None]


@pytest.mark.parametrize("count", [1, ENDED_AT_ONCE])
def test_a_few_streams_end_at_once(house, count):
    """A lone stream, and a few, end in the moment of the stop, and that is all."""
    house.connect(count)
    assert house.stop() == [None]
    assert house.dismissed == count
    last = FIRST_RETURN_SECONDS + count / RETURNS_PER_SECOND
    assert all(FIRST_RETURN_SECONDS <= each <= last for each in house.returns)


def test_more_streams_take_a_slot_more(house):
    """As many as may end at once do so in each slot; the stop is over with the last one."""
    house.connect(2 * ENDED_AT_ONCE + 1)
    ended = house.stop()
    for number in (1, 2):
        assert (house.dismissed, ended) == (number * ENDED_AT_ONCE, [])
        house.clock.advance(STOP_SLOT_SECONDS)
    assert (house.dismissed, ended) == (2 * ENDED_AT_ONCE + 1, [None])


def test_many_streams_are_spread_over_the_time(house):
    """Many end evenly over the whole time, and their clients come back evenly, each when told."""
    in_slot = ENDED_AT_ONCE + 10
    house.connect(in_slot * SLOTS)
    ended = house.stop()
    for number in range(1, SLOTS + 1):
        assert house.dismissed == number * in_slot
        assert bool(ended) is (number == SLOTS)
        # Not on the very moment: sums of these are not exact.
        house.clock.advance(STOP_SLOT_SECONDS * 1.001)
    last = FIRST_RETURN_SECONDS + in_slot * SLOTS / RETURNS_PER_SECOND
    assert FIRST_RETURN_SECONDS <= min(house.returns) < max(house.returns) <= last
    assert len(set(house.returns)) > in_slot * SLOTS / 2
    assert house.streams.count == house.admission.open == 0


def test_nobody_is_sent_away_for_long(house, monkeypatch):
    """However many clients there are, none waits longer than a minute."""
    monkeypatch.setattr("mxflex.web.eventstream.RETURNS_PER_SECOND", 0.1)
    house.connect(ENDED_AT_ONCE)
    house.stop()
    assert max(house.returns) <= LAST_RETURN_SECONDS
    assert max(house.returns) > LAST_RETURN_SECONDS / 10


def test_events_go_on_until_the_end(house):
    """A stream whose turn has not come hears of calls as ever."""
    house.connect(2 * ENDED_AT_ONCE)
    house.stop()
    house.hub.publish(EXT, "DeliveredEvent", b"{}")
    heard = [b"event: DeliveredEvent" in line.value() for line in house.lines]
    assert heard == [False] * ENDED_AT_ONCE + [True] * ENDED_AT_ONCE
    house.clock.advance(STOP_SLOT_SECONDS)
    assert house.dismissed == 2 * ENDED_AT_ONCE


def test_a_stream_that_ends_by_itself_meanwhile(house):
    """Whose client goes before its turn is not waited for, and hurts nobody."""
    house.connect(ENDED_AT_ONCE + 2)
    ended = house.stop()
    house._protocols.pop().connectionLost(Failure(ConnectionDone()))
    house.clock.advance(STOP_SLOT_SECONDS)
    assert ended == [None]
    assert house.dismissed == ENDED_AT_ONCE + 1


def test_new_requests_during_the_stop(house):
    """A stream that is asked for on a connection that is still there is 503, to come back soon."""
    house.connect(ENDED_AT_ONCE + 1)
    # Somebody who has a connection, and no stream on it yet.
    line = Line(held=False)
    protocol = house._site.buildProtocol(None)
    protocol.makeConnection(line)
    house.stop()
    house._protocols.append(protocol)
    house.ask(-1)
    head, _, body = line.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: %d\r\n" % RESTART_SECONDS in head
    answer = json.loads(body)
    assert (answer["code"], answer["error"]) == (503, "the server is about to stop")
    assert house.streams.refused["stopping"] == 1


def test_connections_that_stay(house):
    """Who does not read, or does not close, is waited for a moment."""
    house.connect(ENDED_AT_ONCE, held=True)
    ended = house.stop()
    assert house.dismissed == ENDED_AT_ONCE
    for _ in range(9):
        house.clock.advance(DRAIN_SECONDS / 10)
        assert ended == []
    house.clock.advance(DRAIN_SECONDS / 5)
    assert ended == [None]


def test_the_last_one_closes(house):
    """The wait is over as soon as the last connection has closed."""
    house.connect(2, held=True)
    ended = house.stop()
    house.clock.advance(DRAIN_SECONDS / 10)
    house.lines[0].connected = False
    house.clock.advance(DRAIN_SECONDS / 10)
    assert ended == []
    house.lines[1].connected = False
    house.clock.advance(DRAIN_SECONDS / 10)
    assert ended == [None]


def test_a_busy_machine_catches_up(house):
    """After a stall all those end whose turn would have been."""
    house.connect(10 * ENDED_AT_ONCE)
    ended = house.stop()
    house.clock.advance(5.5 * STOP_SLOT_SECONDS)
    assert house.dismissed == 6 * ENDED_AT_ONCE
    house.clock.advance(10 * STOP_SLOT_SECONDS)
    assert ended == [None]


def test_a_machine_that_is_too_busy(house):
    """What has not ended in time is left to the end of the process; the log says how many."""
    house.connect(3 * ENDED_AT_ONCE)
    with capturedLogs() as captured:
        ended = house.stop()
        house.clock.advance(STOP_AT_LAST_SECONDS + 0.1)
    assert ended == [None]
    assert house.dismissed == ENDED_AT_ONCE
    (told,) = [event for event in captured if event["log_format"].endswith("not ended in order")]
    assert told["count"] == 2 * ENDED_AT_ONCE


class Child(Service):
    """A service that takes its time to stop."""

    def __init__(self, parent):
        self.stopping = None
        self.setServiceParent(parent)

    def stopService(self):
        super().stopService()
        self.stopping = Deferred()
        return self.stopping


class TestInTurn:
    """Services that stop one after the other."""

    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def parent(self, clock):
        parent = InTurn(clock, 4.0)
        parent.startService()
        return parent

    def test_the_last_one_first(self, parent, clock):
        """Each has stopped before the one before it begins."""
        first, second = Child(parent), Child(parent)
        ended = []
        parent.stopService().addCallback(ended.append)
        assert first.stopping is None
        second.stopping.callback(None)
        assert ended == []
        first.stopping.callback(None)
        assert ended == [None]
        assert clock.getDelayedCalls() == []

    def test_one_that_fails(self, parent):
        """A failure is logged, and keeps nobody else from stopping."""
        first, second = Child(parent), Child(parent)
        ended = []
        with capturedLogs() as captured:
            parent.stopService().addCallback(ended.append)
            second.stopping.errback(ValueError("a bug"))
        first.stopping.callback(None)
        assert ended == [None]
        (told,) = [event for event in captured if "log_failure" in event]
        assert told["log_failure"].check(ValueError)

    def test_one_that_takes_too_long(self, parent, clock):
        """After the time that it may take, the stop is over without it."""
        first, _ = Child(parent), Child(parent)
        ended = []
        parent.stopService().addCallback(ended.append)
        clock.advance(3.9)
        assert ended == []
        clock.advance(0.2)
        assert ended == [None]
        assert first.stopping is None


def test_heartbeats_come_in_time(house):
    """Whenever a stream was opened, a comment comes within each interval, and one at a time."""
    for _ in range(20):
        house.connect()
        house.clock.advance(0.7)
        house.mx.pump()
    for line in house.lines:
        line.clear()
    for _ in range(10):
        before = [line.value().count(b":\n\n") for line in house.lines]
        house.pass_an_interval()
        for line, seen in zip(house.lines, before, strict=True):
            assert 1 <= line.value().count(b":\n\n") - seen <= 2
    house.stop()


def test_a_stall_is_made_up_by_one(house):
    """After a moment in which nothing ran there is one heartbeat for each stream, not many."""
    house.connect(3)
    for line in house.lines:
        line.clear()
    house.clock.advance(20)
    house.pass_an_interval()
    assert all(1 <= line.value().count(b":\n\n") <= 3 for line in house.lines)
    house.stop()


@pytest.mark.parametrize("room", [1_000, math.inf], ids=["in two parts", "at once"])
def test_what_was_missed_counts_until_it_is_read(house, room):
    """A client may be owed what it missed, and once it has that the bound alone."""
    data = b"x" * 5_000
    house.connect()
    for _ in range(16):
        house.hub.publish(EXT, "DeliveredEvent", data)
    house.connect(last_id=1, room=room)
    line = house.lines[-1]
    line.room = math.inf
    line.producer.resumeProducing()
    assert line.value().count(data) == 16
    line.producer.pauseProducing()
    taken = 0
    while not house.streams.cut_off:
        house.hub.publish(EXT, "DeliveredEvent", data)
        taken += len(data)
    bound = MAX_UNSENT - TRANSPORT_BUFFER_BYTES
    assert bound - len(data) < taken <= bound + len(data)
    house.stop()


def test_pauses_do_not_add_up(house):
    """Who stops for a moment, and then reads what came meanwhile, may do so again and again."""
    data = b"x" * 5_000
    house.connect()
    line = house.lines[-1]
    pieces = (MAX_UNSENT - TRANSPORT_BUFFER_BYTES) // len(data) - 2
    for number in range(1, 6):
        line.producer.pauseProducing()
        for _ in range(pieces):
            house.hub.publish(EXT, "DeliveredEvent", data)
        line.producer.resumeProducing()
        assert line.value().count(data) == number * pieces
    assert house.streams.cut_off == 0
    house.stop()


def test_no_heartbeat_for_who_does_not_read(house):
    """Behind events that wait no comment is put: they show that the stream lives, in their turn."""
    house.connect()
    line = house.lines[-1]
    line.producer.pauseProducing()
    house.hub.publish(EXT, "DeliveredEvent", b"{}")
    for _ in range(2):
        house.pass_an_interval()
    line.producer.resumeProducing()
    assert line.value().count(b"event: DeliveredEvent") == 1
    assert b"\n:\n" not in line.value()
    house.stop()
