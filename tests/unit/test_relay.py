"""From the link to the hub: events on their way to the streams, and what a lost link costs."""

from __future__ import annotations

import inspect

import pytest

from mxflex.gateway.calls import CallRegistry, Calls
from mxflex.gateway.hub import Hub
from mxflex.gateway.relay import Relay
from mxflex.mx.link import LinkListener
from mxflex.web.eventjson import encode_call_event, encode_gap, timestamp
from mxflex.web.eventstream import encode_sse
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    CallEvent,
    ConnectionClearedEvent,
    CSTAError,
    DeliveredEvent,
    DeviceCall,
    MonitorStart,
    MonitorStartResponse,
    SnapshotDevice,
)
from tests.unit.memory_mx import MemoryMX

ME, PETER = "3095", "3044"


class Stream:
    """A listener that keeps what it is told, and looks at the calls whenever it is."""

    def __init__(self, look):
        self.frames = []
        self.seen = []
        self._look = look

    def send(self, frame):
        self.frames.append(frame)
        self.seen.append(self._look())

    def end(self):
        raise AssertionError("nobody ends it")

    @property
    def names(self):
        return [frame.split(b"\n")[0].removeprefix(b"event: ").decode() for frame in self.frames]


class House:
    """Link, registry, relay and hub, with two extensions watched and a stream on each."""

    def __init__(self):
        self.mx = MemoryMX()
        clock = self.mx.clock.seconds
        self.hub = Hub(clock, encode_sse, encode_gap, 16)
        self.registry = CallRegistry(clock)
        self.calls = Calls(self.mx.link, self.registry, True)
        monitors = self.mx.link.monitors
        self.relay = Relay(clock, self.hub, self.calls, monitors, encode_call_event)
        self.mx.link.listen(self.relay)
        self.mx.start()
        self.streams = {}
        for ext in (ME, PETER):
            self.hub.open(ext)
            self.calls.watch(ext)
            self.mx.run(monitors.start(ext))
            self.streams[ext] = stream = Stream(lambda ext=ext: self.ids(ext))
            self.hub.subscribe(ext, stream, None)
        self.mx.commands.clear()

    def ids(self, ext=ME):
        return [call.call_id for call in self.registry.calls(ext)]

    def ring(self, ext=ME, call_id=39):
        self.mx.send(
            ext, DeliveredEvent(connection=ConnectionID(call_id, ext), alerting_device=ext)
        )


@pytest.fixture
def house():
    house = House()
    yield house
    house.mx.stop()


def test_is_what_the_link_expects():
    """The relay has the methods of a link's listener, with the same parameters."""
    for name in ("link_up", "link_down", "call_event"):
        expected = inspect.signature(getattr(LinkListener, name))
        assert inspect.signature(getattr(Relay, name)) == expected


class TestEvents:
    """The way of one event."""

    def test_goes_to_its_extension(self, house):
        """An event reaches the streams of its extension, as the bytes of a stream."""
        house.ring()
        (frame,) = house.streams[ME].frames
        assert frame.startswith(b'event: DeliveredEvent\ndata: {"callId":39,"deviceId":"3095",')
        assert house.streams[PETER].frames == []

    def test_state_is_true_before_the_word(self, house):
        """A client that asks for the calls on hearing an event finds it in them."""
        house.ring()
        house.mx.send(ME, ConnectionClearedEvent(connection=ConnectionID(39, ME)))
        assert house.streams[ME].seen == [[39], []]

    def test_what_clients_do_not_get(self, house):
        """An event without a form for clients changes nothing for streams."""
        house.relay.call_event(ME, CallEvent(monitor="1"))
        assert house.streams[ME].frames == []

    def test_of_somebody_who_is_not_watched(self, house):
        """An event of an extension nobody watches leaves nothing behind."""
        house.relay.call_event("3042", DeliveredEvent(connection=ConnectionID(1, "3042")))
        assert house.registry.calls("3042") == []
        assert not house.hub.is_open("3042")


class TestLostLink:
    """What is told when the MX was away."""

    def test_nothing_at_the_beginning(self, house):
        """The first connection is no gap."""
        assert house.streams[ME].frames == []

    def test_every_stream_is_told_once_the_mx_is_back(self, house):
        """The gap comes with the return, not with the loss, and says since when."""
        lost_at = house.mx.clock.seconds()
        house.mx.lose()
        assert house.streams[ME].frames == []
        house.mx.come_back()
        since = timestamp(lost_at)
        for stream in house.streams.values():
            (frame,) = stream.frames
            assert f'event: gap\ndata: {{"reason":"mx-down","since":"{since}"}}\n'.encode() in frame

    def test_each_loss_is_told(self, house):
        """A second loss is a second gap, with its own beginning."""
        for _ in range(2):
            house.mx.lose()
            house.mx.come_back()
            house.mx.clock.advance(100)
            house.mx.pump()
        assert house.streams[ME].names == ["gap", "gap"]
        assert house.streams[ME].frames[0] != house.streams[ME].frames[1]

    def test_tries_that_fail_are_one_loss(self, house):
        """However often the link tries in vain, there is one gap, from the loss on."""
        lost_at = house.mx.clock.seconds()
        house.mx.reachable = False
        house.mx.lose()
        house.mx.clock.advance(300)
        house.mx.come_back()
        assert house.streams[ME].names == ["gap"]
        assert timestamp(lost_at).encode() in house.streams[ME].frames[0]

    def test_calls_are_asked_for_again(self, house):
        """Calls that ended meanwhile are gone, those that began are known."""
        house.ring(call_id=39)
        house.mx.calls[ME] = [DeviceCall(connection=ConnectionID(40, ME), state="connected")]
        house.mx.lose()
        assert house.ids() == [39]
        house.mx.come_back()
        assert house.ids() == [40]
        assert {c.device for c in house.mx.commands if isinstance(c, SnapshotDevice)} == {
            ME,
            PETER,
        }

    def test_events_before_the_link_is_up_count(self, house):
        """A call that a restored monitor told of is not forgotten with those from before."""
        house.ring(call_id=39)
        house.mx.lose()
        # One monitor stays out, so that the link is not up yet when the other has its event.
        house.mx.hold.add(MonitorStart)
        while len(house.mx.held) < 2:
            house.mx.clock.advance(0.5)
            house.mx.pump()
        restored = house.mx.held[0].device
        house.mx.answer()
        assert not house.mx.link.up
        house.ring(restored, call_id=41)
        house.mx.hold.clear()
        house.mx.answer()
        assert house.mx.link.up
        assert house.ids(restored) == [41]
        assert house.streams[restored].names == ["DeliveredEvent", "gap"]

    def test_who_logged_out_meanwhile_is_not_asked_for(self, house):
        """Nothing is asked about an extension that is not watched any more."""
        house.mx.lose()
        house.mx.run(house.mx.link.monitors.stop(PETER))
        house.hub.unsubscribe(PETER, house.streams[PETER])
        house.hub.close(PETER)
        house.mx.commands.clear()
        house.mx.come_back()
        assert [c.device for c in house.mx.commands if isinstance(c, SnapshotDevice)] == [ME]
        assert house.streams[PETER].frames == []


class TestLateMonitors:
    """Monitors that the MX does not restore at once when it is back."""

    @pytest.fixture
    def late(self, house):
        """Give the house with the MX back, and both monitors refused; and when it was lost."""
        house.lost_at = house.mx.clock.seconds()
        house.mx.refuse[MonitorStart] = CSTAError(text="busy")
        house.mx.lose()
        house.mx.come_back()
        assert house.streams[ME].names == house.streams[PETER].names == ["gap"]
        house.mx.refuse.clear()
        house.mx.commands.clear()
        return house

    def check(self, house, ext):
        """Hold the stream of an extension to a second gap, and its calls to a second question."""
        assert house.streams[ext].names == ["gap", "gap"]
        assert timestamp(house.lost_at).encode() in house.streams[ext].frames[1]
        assert SnapshotDevice(device=ext) in house.mx.commands

    def test_tried_again(self, late):
        """What was lost until a monitor ran again is told when it does."""
        late.mx.clock.advance(30)
        late.mx.pump()
        self.check(late, ME)
        self.check(late, PETER)
        late.ring()
        assert late.streams[ME].names[2:] == ["DeliveredEvent"]

    def test_calls_that_ended_meanwhile(self, late):
        """What the MX said before the monitor ran again does not count any more."""
        late.mx.calls[ME] = [DeviceCall(connection=ConnectionID(40, ME), state="connected")]
        late.calls.refresh(ME)
        late.mx.pump()
        assert late.ids() == [40]
        late.mx.calls.clear()
        late.mx.clock.advance(30)
        late.mx.pump()
        assert late.ids() == []

    def test_started_by_a_login(self, late):
        """A login that gets the monitor running tells the streams that had to do without it."""
        late.mx.run(late.mx.link.monitors.start(ME))
        self.check(late, ME)
        assert late.streams[PETER].names == ["gap"]

    def test_the_gap_comes_before_the_events(self, late):
        """Events of a monitor that overtake the answer to its start come behind the gap."""
        late.mx.hold.add(MonitorStart)
        late.mx.run(late.mx.link.monitors.start(ME))
        late.mx.send_as("9", DeliveredEvent(connection=ConnectionID(50, ME), alerting_device=ME))
        late.mx.answer(MonitorStartResponse(monitor="9"))
        assert late.streams[ME].names == ["gap", "gap", "DeliveredEvent"]

    def test_first_start(self, house):
        """The first monitor of somebody who logs in is no gap for anybody."""
        house.hub.open("3042")
        begin = house.hub.subscribe("3042", Stream(list), None).last_id
        house.mx.run(house.mx.link.monitors.start("3042"))
        assert house.hub.subscribe("3042", Stream(list), begin).frames == []
        assert house.streams[ME].frames == []
