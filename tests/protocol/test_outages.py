"""From the MX's bytes to the streams, whatever the MX, the line and the clients do meanwhile."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from mxflex.errors import MXError
from mxflex.gateway.calls import CallRegistry, Calls
from mxflex.gateway.hub import Hub, Topic
from mxflex.gateway.logouts import Logouts
from mxflex.gateway.relay import Encoders, Relay
from mxflex.gateway.sessions import Sessions
from mxflex.mx.link import ServerLink
from mxflex.web.eventjson import (
    encode_call_event,
    encode_gap,
    encode_status,
    timestamp,
)
from mxflex.web.eventstream import encode_sse
from mxflex.web.listings import encode_contact_event
from mxflex.wire.messages import (
    Acknowledgement,
    CSTAError,
    GetServiceList,
    LoggedOut,
    LoginFailed,
    LoginRequest,
    MonitorStart,
    MonitorStartAddressBook,
    MonitorStartResponse,
    MonitorStop,
    SnapshotDevice,
    SnapshotDeviceResponse,
)
from tests.protocol.memory_mx import (
    LATENCY,
    TIMEOUT,
    MemoryDialer,
    Network,
    person,
    ringing,
)

NOW = 1_505_411_996.0
MINUTE = 60.0
HISTORY = 6
EXTENSIONS = ["3095", "3044", "3042"]
STATES = ("up", "down")
# Waits double from half a second to five, each shortened by a quarter at most.
MOST_A_MINUTE = 20
# The longest wait, after the account was thrown out again and again.
LONGEST_WAIT = 20 * MINUTE
# From then on until the link is up and each monitor runs, one that was refused at first included.
SETTLING = 2 * MINUTE

_EVENT = re.compile(rb"event: (\w+)\ndata: (.*)\nid: (\d+)\n\n")


@attrs.frozen
class Heard:
    """One event of a stream.

    Attributes:
        id: Its id.
        said: The number of a call event; the reason and the beginning of a gap; the MX's state.
    """

    id: int
    said: object

    @property
    def topic(self):
        """Of what it is; None for a gap, which is of everything."""
        if isinstance(self.said, int):
            return Topic.CALLS
        return Topic.STATUS if self.said in STATES else None

    @property
    def answers_an_id(self):
        """Whether it tells somebody who came back that something behind the id is lost."""
        return self.topic is None and self.said[0] in ("unknown-id", "expired")


def heard_in(data):
    """Read the bytes of a stream; there must be nothing else in them."""
    events = []
    for name, content, event_id in _EVENT.findall(data):
        event = json.loads(content)
        if name == b"gap":
            said = (event["reason"], event.get("since"))
        else:
            said = event["mx"] if name == b"status" else event["callId"]
        events.append(Heard(int(event_id), said))
    assert _EVENT.sub(b"", data) == b""
    return events


@attrs.frozen
class Habits:
    """How the MX takes what comes.

    Attributes:
        connections: See `Network.mode`.
        logins, monitors, others: What becomes of commands.
        first_monitor: The id of a connection's first monitor.
    """

    connections: str = "accept"
    logins: str = "answered"
    monitors: str = "answered"
    others: str = "answered"
    first_monitor: int = 1


HABITS = st.builds(
    Habits,
    # What keeps the link down altogether hides the rest, and comes less often.
    st.sampled_from([*["accept"] * 6, "refuse", "hang", "hang in TLS", "reset"]),
    st.sampled_from([*["answered"] * 6, "refused", "ignored"]),
    st.sampled_from(["answered", "behind an event", "refused", "answered late", "ignored"]),
    st.sampled_from(["answered", "ignored"]),
    st.integers(1, 3),
)


# It lets us in, and leaves the monitors for later.
FORGETFUL = st.builds(Habits, monitors=st.sampled_from(["refused", "answered late", "ignored"]))


def _nothing():
    pass


def _go_silent(peer):
    peer.deaf = True


# What the MX or the line does to a connection.
TROUBLES = {
    "closed": lambda peer: peer.end(ConnectionDone()),
    "lost": lambda peer: peer.end(ConnectionLost()),
    "silent": _go_silent,
    "logged out": lambda peer: (peer.event(LoggedOut(mode="normal")), peer.end(ConnectionDone())),
    "bad XML": lambda peer: peer.deliver(b"\0\0\0\x0b9999<a>"),
    "bad length": lambda peer: peer.deliver(b"\0\0\0\x079999"),
    "another protocol": lambda peer: peer.deliver(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}


class Stream:
    """A listener that keeps what it hears (see `mxflex.gateway.hub.Listener`).

    Attributes:
        topics: What it wants to hear of.
        heard: Everything, beginning with what it had missed.
        missed: How many events that were.
        begin: The id of the latest event before its first live one.
        on_send: Done when it is sent something.
    """

    def __init__(self, topics):
        self.topics = topics
        self.heard = []
        self.missed = 0
        self.begin = 0
        self.ended = 0
        self.on_send = _nothing

    def of_interest(self, events):
        """Give those events that it wants to hear."""
        return [each for each in events if each.topic is None or each.topic in self.topics]

    def send(self, data):
        assert not self.ended
        self.heard += heard_in(data)
        act, self.on_send = self.on_send, _nothing
        act()

    def end(self):
        self.ended += 1


@attrs.define(eq=False)
class Watched:
    """What must have been said about one extension since it is watched, and who listens.

    Attributes:
        witness: A stream that is there from the beginning and hears everything.
        due: What the witness must have heard, without ids.
        streams: The other ones.
        on_told: Done when the link tells the next event, which is not sent yet.
    """

    witness: Stream
    due: list = attrs.field(factory=list)
    streams: list[Stream] = attrs.field(factory=list)
    on_told: Callable[[], None] = _nothing


@attrs.frozen
class Behind:
    """Does what is to be done when an event has been told, and not yet sent."""

    watched: dict[str, Watched]

    def link_up(self):
        pass

    def link_down(self):
        pass

    def call_event(self, ext, event):
        if ext in self.watched:
            watched = self.watched[ext]
            act, watched.on_told = watched.on_told, _nothing
            act()


class Outages(RuleBasedStateMachine):
    """The real link, monitors, relay and hub, an MX with bad habits, and a clock.

    Each call event has a number of its own. The machine hears with the link's own ears what the
    link tells, and knows by the line what the link must have told.
    """

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.clock.advance(NOW)
        self.network = Network(self.clock, entries=[person(number) for number in range(3)])
        self.network.habits |= {
            LoginRequest: self._log_in,
            MonitorStart: self._start_monitor,
            MonitorStop: self._stop_monitor,
            SnapshotDevice: lambda p, r: p.reply(r.invoke_id, SnapshotDeviceResponse()),
        }
        self.answers = dict(self.network.habits)
        self.watched: dict[str, Watched] = {}
        self.habits = Habits()
        self.monitor_ids = itertools.count(1)
        self.number = 0

        self.link = ServerLink(self.clock, MemoryDialer(self.network), "mxflex", "secret")
        self.monitors = self.link.monitors
        seconds = self.clock.seconds
        self.hub = Hub(
            seconds,
            encode_sse,
            encode_gap,
            HISTORY,
            later=lambda act: self.clock.callLater(0, act),
        )
        calls = Calls(self.link, CallRegistry(seconds), True)
        encoders = Encoders(
            call=encode_call_event, contact=encode_contact_event, status=encode_status
        )
        # Before the relay, to know first; behind it, for those who come before the turn is over.
        self.link.listen(self)
        self.link.listen(Relay(self.clock, self.hub, calls, self.monitors, encoders))
        self.link.listen(Behind(self.watched))
        logouts = Logouts(self.clock)
        self.sessions = Sessions(self.clock, self.monitors, self.hub, calls, logouts)
        self._relay_restored, self.monitors.on_restored = self.monitors.on_restored, self._restored

        self.up = False
        self.lost_at = self.clock.seconds()
        self.gone: list[tuple[Stream, int]] = []
        # The extensions whose monitors run again, since the latest bytes came.
        self.restored: list[str] = []
        # When a session was ended by force.
        self.thrown_out: list[float] = []
        # Numbers of events: those that the link told, those that it must have told, and those of
        # which the end never came, or came when the connection was over.
        self.told = defaultdict(list)
        self.must = defaultdict(set)
        self.cut_off = set()
        # Hears of the MX's state all the time, whoever is watched.
        self.hub.open("")
        self.guard = Stream({Topic.STATUS})
        self._subscribe("", self.guard)
        self.link.startService()

    @initialize(early=st.sampled_from([0, 1, 1, 1]), exts=st.sets(st.sampled_from(EXTENSIONS)))
    def the_day_begins(self, early, exts):
        """Let people log in, perhaps before the link is up."""
        self._go_on(early)
        for ext in sorted(exts):
            self.logs_in(ext)
        self._go_on(early)

    # --- What the link says (see `mxflex.mx.link.LinkListener`) -------------------------------

    def link_up(self):
        assert not self.up
        self.up = True
        for watched in self.watched.values():
            self._gap(watched)
            watched.due.append(self.state)

    def link_down(self):
        assert self.up
        self.up = False
        self.lost_at = self.clock.seconds()
        for watched in self.watched.values():
            watched.due.append(self.state)

    @property
    def state(self):
        """What streams are told of the MX."""
        return "up" if self.up else "down"

    def call_event(self, ext, event):
        number = event.connection.call_id
        self.told[ext].append(number)
        if ext in self.watched:
            self.watched[ext].due.append(number)

    def _restored(self, ext):
        # While the link is not up yet, its own gap is still to come.
        if self.up:
            self.restored.append(ext)
            if ext in self.watched:
                self._gap(self.watched[ext])
        self._relay_restored(ext)

    def _gap(self, watched):
        watched.due.append(("mx-down", timestamp(self.lost_at)))

    # --- What the MX does on commands ---------------------------------------------------------

    def _log_in(self, peer, received):
        if self.habits.logins == "answered":
            # What an id stood for on the last connection, it does not on this one.
            self.monitor_ids = itertools.count(self.habits.first_monitor)
            self.network._log_in(peer, received)
        elif self.habits.logins == "refused":
            peer.reply(received.invoke_id, LoginFailed(code=1, text="no"))

    def _start_monitor(self, peer, received):
        if self.habits.monitors == "refused":
            peer.reply(received.invoke_id, CSTAError(text="no"))
            return
        if self.habits.monitors == "ignored":
            return
        monitor = str(next(self.monitor_ids))
        peer.monitors[monitor] = received.command.device
        if self.habits.monitors == "answered late":
            self.clock.callLater(TIMEOUT + 1, self._answer, peer, received, monitor)
        elif self.habits.monitors == "behind an event":
            early = self._events(peer, monitor, 2)
            self._answer(peer, received, monitor, early)
        else:
            self._answer(peer, received, monitor)

    def _answer(self, peer, received, monitor, early=()):
        data = peer.wire.reply(received.invoke_id, MonitorStartResponse(monitor=monitor))
        self._send(peer, data, received.command.device, monitor, early)

    def _stop_monitor(self, peer, received):
        peer.monitors.pop(received.command.monitor, None)
        peer.reply(received.invoke_id, Acknowledgement(name="ok"))

    def _events(self, peer, monitor, count):
        """Send events of a monitor in one piece; give their numbers."""
        numbers = range(self.number + 1, self.number + 1 + count)
        self.number += count
        data = b"".join(peer.wire.event(ringing(monitor, number)) for number in numbers)
        self._send(peer, data, peer.monitors[monitor], monitor, numbers)
        return numbers

    def _send(self, peer, data, ext, monitor, numbers):
        """Send bytes; the link must tell these events of a monitor if it knows it behind them."""
        alive = missing = False

        def before():
            nonlocal alive, missing
            alive = not peer.over and not peer.protocol.ended
            missing = self.up and ext in self.monitors.missing
            self.restored.clear()

        def after():
            if not alive:
                self.cut_off.update(numbers)
            elif self.monitors.monitor_of(ext) == monitor:
                self.must[ext].update(numbers)
                assert self.restored == [ext] * missing

        if not peer.deaf:
            self.clock.callLater(LATENCY, before)
            peer.deliver(data)
            self.clock.callLater(LATENCY, after)

    # --- Time ---------------------------------------------------------------------------------

    def _go_on(self, seconds):
        """Let time go by, from one thing that is due to the next."""
        end = self.clock.seconds() + seconds
        while calls := self.clock.getDelayedCalls():
            due = min(call.getTime() for call in calls)
            if due > end:
                break
            self.clock.advance(max(0, due - self.clock.seconds()))
        self.clock.advance(max(0, end - self.clock.seconds()))

    @rule(seconds=st.sampled_from([0, LATENCY, 0.25, 1, 5, TIMEOUT, 31, 2 * MINUTE]))
    def time_passes(self, seconds):
        self._go_on(seconds)

    # --- The MX and the line ------------------------------------------------------------------

    @property
    def peer(self):
        """The MX's end of a connection that is logged in, or None."""
        peers = [peer for peer in self.network.open if peer.logged_in]
        return peers[-1] if peers else None

    @rule(cuts=st.lists(st.integers(1, 2_000), max_size=6))
    def bytes_come_in_pieces(self, cuts):
        def cut(data):
            edges = [0, *sorted({at % len(data) for at in cuts} - {0}), len(data)]
            return [data[begin:end] for begin, end in itertools.pairwise(edges)]

        self.network.cut = cut

    @rule(habits=st.just(Habits()) | HABITS)
    def the_mx_behaves(self, habits):
        self._behave(habits)

    def _behave(self, habits):
        self.habits = habits
        self.network.mode = habits.connections
        for cls in (GetServiceList, MonitorStartAddressBook):
            self.network.habits[cls] = self.answers[cls] if habits.others == "answered" else None

    @precondition(lambda self: self.peer)
    @rule(trouble=st.sampled_from(sorted(TROUBLES)))
    def trouble(self, trouble):
        TROUBLES[trouble](self.peer)

    @precondition(lambda self: self.peer and not self.peer.deaf)
    @rule(again=st.booleans())
    def the_mx_throws_us_out(self, again):
        """Let the MX end the session by force, perhaps once more as soon as we are back."""
        for _ in range(1 + again):
            # Behind half an event it would not be understood.
            self._go_on(LATENCY)
            if self.peer and not self.peer.deaf and not self.peer.protocol.ended:
                self.peer.event(LoggedOut(mode="forced"))
                self._go_on(LATENCY)
                self.thrown_out.append(self.clock.seconds())
            self._go_on(2 * MINUTE * again)

    @precondition(lambda self: self.peer)
    @rule(habits=HABITS | FORGETFUL, seconds=st.sampled_from([5, 1, 2 * TIMEOUT]))
    def the_mx_restarts(self, habits, seconds):
        """Let the MX come back with other habits, and lose them after a while."""
        self._behave(habits)
        self.peer.end()
        self._go_on(seconds)
        self._behave(Habits())

    @precondition(lambda self: self.peer and self.peer.monitors)
    @rule(
        data=st.data(),
        count=st.integers(1, 2 * HISTORY),
        breaks=st.sampled_from([*[""] * 4, "half an event", "an event behind the end"]),
        seconds=st.sampled_from([1, LATENCY, 0]),
    )
    def events(self, data, count, breaks, seconds):
        """Let a monitor have events, all of them at once, and perhaps one more that is lost."""
        peer = self.peer
        monitor = data.draw(st.sampled_from(sorted(peer.monitors)))
        self._events(peer, monitor, count)
        if breaks:
            self.number += 1
            self.cut_off.add(self.number)
            frame = peer.wire.event(ringing(monitor, self.number))
            if breaks == "half an event":
                peer.deliver(frame[: data.draw(st.integers(1, len(frame) - 1))])
            else:
                peer.deliver(peer.wire.event(LoggedOut(mode="normal")) + frame)
            peer.end()
        self._go_on(seconds)

    # --- The clients --------------------------------------------------------------------------

    @rule(ext=st.sampled_from(EXTENSIONS))
    def logs_in(self, ext):
        opening = Deferred.fromCoroutine(self.sessions.open(ext, NOW * 2))
        opening.addErrback(lambda failure: failure.trap(MXError) and None)
        self._see_who_is_watched()

    @rule(ext=st.sampled_from(EXTENSIONS))
    def logs_out(self, ext):
        closing = Deferred.fromCoroutine(self.sessions.close(ext))
        closing.addErrback(lambda failure: failure.trap(MXError) and None)
        self._see_who_is_watched()
        assert ext not in self.watched

    @precondition(lambda self: self.watched)
    @rule(
        data=st.data(),
        comes_back=st.booleans(),
        when=st.sampled_from(["now", "an event is told", "an event is sent"]),
        topics=st.sets(st.sampled_from([Topic.CALLS, Topic.STATUS]), min_size=1),
    )
    def a_stream_comes(self, data, comes_back, when, topics):
        """Let a stream open, now or in the middle of the next event, perhaps with an id."""
        ext = data.draw(st.sampled_from(sorted(self.watched)))
        watched = self.watched[ext]
        ids = [watched.witness.begin, *(heard.id for heard in watched.witness.heard)]
        odd = st.sampled_from(ids).map(lambda known: known + 1) | st.sampled_from([-1, 0])
        last = data.draw(st.sampled_from(ids) | odd) if comes_back else None
        if when == "an event is told":
            watched.on_told = lambda: self._join(watched, ext, last, topics)
        elif when == "an event is sent":
            watched.witness.on_send = lambda: self._join(watched, ext, last, topics)
        else:
            self._join(watched, ext, last, topics)

    def _join(self, watched, ext, last, topics):
        stream = Stream(topics)
        self._subscribe(ext, stream, last)
        watched.streams.append(stream)
        heard = stream.of_interest(watched.witness.heard)
        if last is None:
            assert stream.heard == []
        elif not (stream.heard and stream.heard[0].answers_an_id):
            assert stream.heard == [each for each in heard if each.id > last]
        else:
            # The histories of shared topics reach further back than the witness.
            missed = [each for each in stream.heard[1:] if each.id > watched.witness.begin]
            assert missed == [each for each in heard if each in missed]
            if topics == {Topic.CALLS}:
                # The witness may have begun at another topic's id, which these streams do not know.
                assert last not in [each.id for each in heard][-HISTORY - 1 :]
                # What is still there is not kept back.
                assert missed == [each for each in heard[-HISTORY:] if 0 <= last < each.id]

    def _subscribe(self, ext, stream, last=None):
        """Let a stream begin; it learns what it missed, and how things are."""
        backlog = self.hub.subscribe(ext, stream, last, stream.topics)
        stream.begin = backlog.last_id
        stream.heard = heard_in(b"".join(backlog.frames))
        if Topic.STATUS in stream.topics:
            *_, told = [each for each in stream.heard if each.topic is Topic.STATUS]
            assert told.said == self.state
            if last is None or told.id <= last or told not in self.guard.heard:
                # It is no event that was missed, only the state at the beginning.
                assert stream.heard.pop() == Heard(stream.begin, self.state)
        stream.missed = len(stream.heard)

    @precondition(lambda self: any(watched.streams for watched in self.watched.values()))
    @rule(data=st.data())
    def a_stream_goes(self, data):
        ext = data.draw(st.sampled_from(sorted(e for e, w in self.watched.items() if w.streams)))
        stream = data.draw(st.sampled_from(self.watched[ext].streams))
        self.watched[ext].streams.remove(stream)
        self.sessions.unsubscribe(ext, stream)
        self.gone.append((stream, len(stream.heard)))

    def _see_who_is_watched(self):
        """Forget those whose streams have ended, and listen to those who are new."""
        for ext, watched in list(self.watched.items()):
            ended = {stream.ended for stream in (watched.witness, *watched.streams)}
            assert ended in ({0}, {1})
            if ended == {1}:
                del self.watched[ext]
        for ext in EXTENSIONS:
            if self.hub.is_open(ext) and ext not in self.watched:
                witness = Stream({Topic.CALLS, Topic.STATUS})
                self._subscribe(ext, witness)
                self.watched[ext] = Watched(witness)
            assert self.hub.is_open(ext) == (ext in self.watched)

    # --- What always holds --------------------------------------------------------------------

    @invariant()
    def everybody_hears_everything_once(self):
        """What is due comes in its order, gaps included; all streams hear the very same."""
        self._see_who_is_watched()
        for watched in self.watched.values():
            heard = watched.witness.heard
            assert [each.said for each in heard] == watched.due
            ids = [watched.witness.begin, *(each.id for each in heard)]
            assert ids == sorted(set(ids))
            for stream in watched.streams:
                live = [each for each in heard if each.id > stream.begin]
                assert stream.heard[stream.missed :] == stream.of_interest(live)
        assert all(len(stream.heard) == count for stream, count in self.gone)
        states = [each.said for each in self.guard.heard if each.topic is Topic.STATUS]
        assert states == ["up", "down"] * (len(states) // 2) + ["up"] * self.up

    @invariant()
    def the_link_tells_everything_once(self):
        """No event is lost, doubled, out of order, or made of half a frame."""
        for ext, told in self.told.items():
            assert told == sorted(set(told))
            assert self.must[ext] <= set(told)
            assert not self.cut_off & set(told)

    @invariant()
    def the_mx_is_left_alone(self):
        """There is one connection that is in use, and no tight loop of attempts."""
        assert sum(not peer.protocol.ended for peer in self.network.open) <= 1
        dialled = self.network.dialled
        for first, last in zip(dialled, dialled[MOST_A_MINUTE:], strict=False):
            assert last - first >= MINUTE
        for ended in self.thrown_out:
            assert not any(ended <= at < ended + MINUTE for at in dialled)

    def teardown(self):
        """When the MX is well again, so is the link; when it ends, nothing is left."""
        self._behave(Habits())
        self._go_on(LONGEST_WAIT)
        self._go_on(SETTLING)
        self._see_who_is_watched()
        assert self.link.up
        assert not self.peer.deaf
        assert self.monitors.missing == frozenset()
        assert sorted(self.peer.monitors.values()) == sorted(self.monitors.wanted)
        assert set(self.watched) <= self.monitors.wanted
        sent = {ext: self._events(self.peer, m, 1)[0] for m, ext in self.peer.monitors.items()}
        self._go_on(1)
        assert all(self.told[ext][-1] == sent[ext] for ext in self.watched)
        self.the_link_tells_everything_once()
        self.everybody_hears_everything_once()

        streams = [s for w in self.watched.values() for s in (w.witness, *w.streams)]
        self.sessions.stop()
        stopping = self.link.stopService()
        self._go_on(MINUTE)
        assert stopping.called
        # To end them is left to who serves them.
        assert all(stream.ended == 0 for stream in streams)
        assert self.network.open == []
        assert self.clock.getDelayedCalls() == []


Outages.TestCase.settings = settings(max_examples=200, stateful_step_count=50)


def test_outages():
    """Whatever happens in whatever order, nobody misses, doubles or swaps an event untold."""
    Outages.TestCase("runTest").runTest()
