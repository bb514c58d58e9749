"""`Monitors` on a connection moved by hand: races of start and stop, early events, restoring."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mxflex.errors import CommandRefused, MXTimeout, MXUnavailable
from mxflex.mx.monitors import COME_BACK_AT_ONCE, MAX_EARLY_EVENTS, Monitors
from mxflex.wire.messages import (
    Acknowledgement,
    CSTAError,
    MonitorStart,
    MonitorStartResponse,
    MonitorStop,
)
from tests.protocol.memory_mx import TIMEOUT, Peer, outcome_of, ringing

REFUSED = CSTAError(text="invalidDeviceID", category="operation")


class Bench:
    """Monitors, the connection they are on, and what they handed on."""

    def __init__(self):
        self.clock = Clock()
        self.heard = []
        self.monitors = Monitors(
            lambda ext, event: self.heard.append((ext, event.connection.call_id))
        )
        self.connect()

    def connect(self):
        """Give the monitors a new connection."""
        self.peer = Peer(self.clock, on_event=self.monitors.observe).connect().secure()
        return outcome_of(self.call(self.monitors.restore(self.peer.protocol)))

    def disconnect(self):
        """End the connection, as the link would tell."""
        self.peer.lose()
        self.monitors.lost()

    def call(self, coroutine):
        """Begin something."""
        return Deferred.fromCoroutine(coroutine)

    def start(self, ext):
        """Begin to start a monitor; give what comes of it."""
        return outcome_of(self.call(self.monitors.start(ext)))

    def start_in_turn(self, ext):
        """The same for one of many that come back."""
        return outcome_of(self.call(self.monitors.start(ext, in_turn=True)))

    def stop(self, ext):
        """Begin to stop a monitor; give what comes of it."""
        return outcome_of(self.call(self.monitors.stop(ext)))

    def answer(self, message, number=-1):
        """Answer a command, by default the last one."""
        self.peer.reply(self.peer.ids()[number], message)

    def running(self, ext, monitor):
        """Have a monitor running."""
        outcome = self.start(ext)
        self.answer(started(monitor))
        assert outcome == [None]

    @property
    def starts(self):
        """The extensions that the MX was asked to monitor on this connection."""
        return [command.device for command in self.peer.commands(MonitorStart)]

    @property
    def stops(self):
        """The monitors that the MX was asked to stop on this connection."""
        return [command.monitor for command in self.peer.commands(MonitorStop)]


def started(monitor):
    return MonitorStartResponse(monitor=monitor)


STOPPED = Acknowledgement(name="MonitorStopResponse")


@pytest.fixture
def bench():
    return Bench()


# --- Start and stop -------------------------------------------------------------------------------


def test_start(bench):
    """A start is done when the MX has given the id; events of that id are the extension's."""
    outcome = bench.start("3095")
    assert (outcome, bench.starts) == ([], ["3095"])
    bench.answer(started("7"))
    assert outcome == [None]
    assert bench.monitors.monitor_of("3095") == "7"
    assert bench.monitors.wanted == {"3095"}
    bench.peer.event(ringing("7", 39))
    assert bench.heard == [("3095", 39)]


def test_one_monitor_however_many_start(bench):
    """Twenty starts at once ask the MX once, and all are told when the monitor runs."""
    outcomes = [bench.start("3095") for _ in range(20)]
    assert bench.starts == ["3095"]
    bench.answer(started("7"))
    assert outcomes == [[None]] * 20
    assert bench.start("3095") == [None]
    assert bench.starts == ["3095"]


def test_extensions_do_not_wait_for_each_other(bench):
    """A slow start of one extension does not hold up another."""
    slow, quick = bench.start("3095"), bench.start("3044")
    bench.answer(started("2"))
    assert (slow, quick) == ([], [None])


def test_start_refused(bench):
    """A refusal reaches the one who asked, and the extension is not wanted."""
    outcome = bench.start("3095")
    bench.answer(REFUSED)
    assert isinstance(outcome[0], CommandRefused)
    assert bench.monitors.wanted == frozenset()


def test_start_that_fails_lets_the_next_one_try(bench):
    """Of two starts at once the second asks again when the first was refused."""
    first, second = bench.start("3095"), bench.start("3095")
    bench.answer(REFUSED)
    assert isinstance(first[0], CommandRefused)
    assert second == []
    bench.answer(started("7"))
    assert second == [None]
    assert bench.starts == ["3095", "3095"]


def test_start_without_a_connection(bench):
    """While the link is down a start fails at once."""
    bench.disconnect()
    (error,) = bench.start("3095")
    assert isinstance(error, MXUnavailable)
    assert bench.monitors.wanted == frozenset()


def test_start_unanswered(bench):
    """A start that the MX does not answer in time says so, and the next one may try."""
    outcome = bench.start("3095")
    bench.clock.advance(TIMEOUT)
    assert isinstance(outcome[0], MXTimeout)
    bench.running("3095", "8")


def test_start_without_an_id(bench):
    """An answer without an id is a failure: no event could ever be told from others."""
    outcome = bench.start("3095")
    bench.answer(started(""))
    assert "without an id" in str(outcome[0])
    assert bench.monitors.wanted == frozenset()


def test_an_id_that_is_given_to_another_extension(bench, logged):
    """An MX that forgot its monitors, and not us, gives their ids to others: those start anew."""
    bench.running("3095", "7")
    bench.running("3044", "7")
    assert bench.monitors.monitor_of("3044") == "7"
    assert bench.monitors.missing == {"3095"}
    assert len(logged.about("gives the monitor of 3095 to 3044")) == 1
    bench.peer.event(ringing("7", 39))
    assert bench.heard == [("3044", 39)]
    # The end of the one that has gone takes nothing from the other.
    assert bench.stop("3095") == [None]
    assert bench.stops == []
    bench.peer.event(ringing("7", 40))
    assert bench.heard == [("3044", 39), ("3044", 40)]
    bench.running("3095", "8")
    assert bench.monitors.missing == frozenset()


def test_connection_lost_during_start(bench):
    """The end of the connection fails the start at once."""
    outcome = bench.start("3095")
    bench.disconnect()
    assert isinstance(outcome[0], MXUnavailable)
    assert bench.monitors.wanted == frozenset()


def test_stop(bench):
    """A stop asks the MX by the id; events that still come are dropped from then on."""
    bench.running("3095", "7")
    outcome = bench.stop("3095")
    bench.peer.event(ringing("7"))
    assert (outcome, bench.stops, bench.heard) == ([], ["7"], [])
    bench.answer(STOPPED)
    assert outcome == [None]
    assert bench.monitors.wanted == frozenset()
    assert bench.stop("3095") == [None]
    assert bench.stops == ["7"]


@pytest.mark.parametrize("ending", ["refused", "unanswered", "lost"])
def test_stop_that_fails(bench, logged, ending):
    """A stop that the MX refuses, ignores or does not live to see is a stop all the same."""
    bench.running("3095", "7")
    outcome = bench.stop("3095")
    if ending == "refused":
        bench.answer(CSTAError(text="invalidMonitorCrossRefID"))
    elif ending == "unanswered":
        bench.clock.advance(TIMEOUT)
    else:
        bench.disconnect()
    assert outcome == [None]
    assert bench.monitors.monitor_of("3095") is None
    # What ends with its connection is nothing to report.
    assert bool(logged.about("not stopped")) is (ending != "lost")


def test_start_during_stop(bench):
    """Somebody logs in while the last one's logout is under way: the monitor is started anew."""
    bench.running("3095", "7")
    stopping, starting = bench.stop("3095"), bench.start("3095")
    assert bench.starts == ["3095"]
    bench.answer(STOPPED)
    assert stopping == [None]
    assert bench.starts == ["3095", "3095"]
    bench.answer(started("8"))
    assert starting == [None]
    assert bench.monitors.wanted == {"3095"}
    bench.peer.event(ringing("7", 1))
    bench.peer.event(ringing("8", 2))
    assert bench.heard == [("3095", 2)]


def test_stop_during_start(bench):
    """Whoever was told that the monitor runs has it running: an older stop leaves it."""
    starting, stopping = bench.start("3095"), bench.stop("3095")
    bench.answer(started("7"))
    assert (starting, stopping) == ([None], [None])
    assert bench.monitors.monitor_of("3095") == "7"
    assert bench.monitors.wanted == {"3095"}
    assert bench.stops == []


def test_stop_during_a_start_that_fails(bench):
    """A stop behind a start that fails finds nothing to do."""
    starting, stopping = bench.start("3095"), bench.stop("3095")
    bench.answer(REFUSED)
    assert isinstance(starting[0], CommandRefused)
    assert stopping == [None]
    assert bench.stops == []
    assert bench.monitors.wanted == frozenset()


def test_stop_during_restore(bench):
    """A logout while the monitor is being restored ends it as soon as it runs."""
    bench.running("3095", "7")
    bench.disconnect()
    restored = bench.connect()
    stopping = bench.stop("3095")
    bench.answer(started("1"))
    assert restored == [None]
    assert bench.stops == ["1"]
    bench.answer(STOPPED)
    assert stopping == [None]
    assert bench.monitors.wanted == frozenset()


# --- Whoever asked has gone -----------------------------------------------------------------------


def test_start_given_up(bench):
    """A client that leaves during its login leaves no monitor: what the MX starts is stopped."""
    starting = bench.call(bench.monitors.start("3095"))
    outcome = outcome_of(starting)
    starting.cancel()
    assert isinstance(outcome[0], CancelledError)
    bench.answer(started("7"))
    assert bench.stops == ["7"]
    bench.answer(STOPPED)
    assert bench.monitors.wanted == frozenset()
    assert bench.monitors.monitor_of("3095") is None


@pytest.mark.parametrize("refused", [False, True])
def test_start_given_up_while_others_wait(bench, refused):
    """Of two logins one is given up: the other one shares its monitor, and asks anew if need be.

    The MX is never asked for a second monitor while the first answer is outstanding.
    """
    first, second = bench.call(bench.monitors.start("3095")), bench.start("3095")
    outcome_of(first)
    first.cancel()
    assert bench.starts == ["3095"]
    if refused:
        bench.answer(REFUSED)
    bench.answer(started("7"))
    if not refused:
        # Nobody waited for that one; the other login begins where it ended.
        assert bench.stops == ["7"]
        bench.answer(STOPPED)
        bench.answer(started("8"))
    assert second == [None]
    assert bench.monitors.wanted == {"3095"}
    bench.peer.event(ringing(bench.monitors.monitor_of("3095"), 5))
    assert bench.heard == [("3095", 5)]


def test_start_given_up_in_the_queue(bench):
    """A start that is given up before its turn never asks the MX."""
    first = bench.start("3095")
    second = bench.call(bench.monitors.start("3095"))
    outcome_of(second)
    second.cancel()
    bench.answer(REFUSED)
    assert isinstance(first[0], CommandRefused)
    assert bench.starts == ["3095"]


def test_start_given_up_of_what_is_wanted(bench):
    """Giving up a second login does not stop the monitor of the first one."""
    bench.running("3095", "7")
    bench.disconnect()
    bench.connect()
    starting = bench.call(bench.monitors.start("3095"))
    outcome_of(starting)
    starting.cancel()
    bench.answer(started("1"))
    assert bench.stops == []
    assert bench.monitors.monitor_of("3095") == "1"


@pytest.mark.parametrize("ending", ["refused", "lost"])
def test_failure_of_a_start_given_up(bench, ending):
    """An error that nobody waits for any more is no error."""
    starting = bench.call(bench.monitors.start("3095"))
    outcome_of(starting)
    starting.cancel()
    if ending == "refused":
        bench.answer(REFUSED)
    else:
        bench.disconnect()
    assert bench.monitors.wanted == frozenset()
    assert bench.stops == []


def test_stop_given_up(bench):
    """A client that leaves during its logout is logged out all the same, whatever it waited for."""
    bench.running("3095", "7")
    bench.disconnect()
    bench.connect()
    stopping = bench.call(bench.monitors.stop("3095"))
    outcome = outcome_of(stopping)
    stopping.cancel()
    assert isinstance(outcome[0], CancelledError)
    bench.answer(started("1"))
    assert bench.stops == ["1"]


# --- Events ---------------------------------------------------------------------------------------


def test_early_events(bench):
    """Events that come before the answer of the start are delivered with it, in order."""
    outcome = bench.start("3095")
    bench.peer.event(ringing("7", 1))
    bench.peer.event(ringing("7", 2))
    assert bench.heard == []
    bench.peer.deliver(
        bench.peer.wire.reply(bench.peer.ids()[-1], started("7"))
        + bench.peer.wire.event(ringing("7", 3))
    )
    assert outcome == [None]
    assert bench.heard == [("3095", 1), ("3095", 2), ("3095", 3)]


def test_early_events_of_two_starts(bench):
    """Early events wait for their own monitor, also when another start ends first."""
    bench.start("3095")
    bench.start("3044")
    for number, monitor in enumerate(("1", "2", "1", "2")):
        bench.peer.event(ringing(monitor, number))
    bench.answer(started("2"))
    assert bench.heard == [("3044", 1), ("3044", 3)]
    bench.answer(started("1"), -2)
    assert bench.heard[2:] == [("3095", 0), ("3095", 2)]


def test_early_events_of_a_start_that_fails(bench):
    """Early events that belong to nobody are dropped when the last start has ended."""
    bench.start("3095")
    bench.peer.event(ringing("7", 1))
    bench.answer(REFUSED)
    bench.running("3044", "7")
    assert bench.heard == []


def test_early_events_are_bounded(bench):
    """A flood of unknown events keeps the newest thousand."""
    bench.start("3095")
    for number in range(MAX_EARLY_EVENTS + 5):
        bench.peer.event(ringing("7", number))
    bench.answer(started("7"))
    assert [call for _, call in bench.heard] == list(range(5, MAX_EARLY_EVENTS + 5))


def test_event_of_unknown_monitor(bench):
    """An event of a monitor that nobody knows is dropped, and not kept for later."""
    bench.peer.event(ringing("7", 1))
    bench.running("3095", "7")
    assert bench.heard == []


def test_events_do_not_outlive_the_connection(bench):
    """Ids belong to a connection: what came early on the last one is not delivered on the next."""
    bench.start("3095")
    bench.peer.event(ringing("1", 1))
    bench.disconnect()
    bench.connect()
    bench.running("3095", "1")
    assert bench.heard == []


def test_events_of_a_connection_that_is_being_closed(bench):
    """The same while the old connection is still on its way out."""
    bench.start("3095")
    bench.peer.event(ringing("1", 1))
    old = bench.peer
    bench.monitors.lost()
    bench.connect()
    bench.running("3044", "1")
    assert bench.heard == []
    old.lose()
    assert bench.monitors.monitor_of("3044") == "1"


def test_answer_of_a_connection_that_is_being_closed(bench):
    """An id that comes when its connection counts as lost starts nothing."""
    outcome = bench.start("3095")
    bench.monitors.lost()
    bench.answer(started("7"))
    assert isinstance(outcome[0], MXUnavailable)
    assert bench.monitors.monitor_of("3095") is None


# --- Reconnecting ---------------------------------------------------------------------------------


def test_restore(bench):
    """Every wanted monitor is started on the new connection, under its new id."""
    bench.running("3095", "1")
    bench.running("3044", "2")
    bench.disconnect()
    assert bench.monitors.monitor_of("3095") is None
    assert bench.monitors.wanted == bench.monitors.missing == {"3095", "3044"}
    restored = bench.connect()
    assert bench.starts == ["3044", "3095"]
    bench.answer(started("1"), 0)
    assert restored == []
    bench.answer(started("2"), 1)
    assert restored == [None]
    bench.peer.event(ringing("1", 9))
    assert bench.heard == [("3044", 9)]
    assert bench.monitors.missing == frozenset()


def test_restore_is_bounded(bench):
    """A company of a hundred is restored a few at a time, each as soon as there is a place."""
    for number in range(100):
        bench.running(str(3000 + number), str(number))
    bench.disconnect()
    restored = bench.connect()
    assert len(bench.starts) == COME_BACK_AT_ONCE
    for number in range(100):
        bench.answer(started(str(number)), number)
        assert len(bench.starts) == min(100, COME_BACK_AT_ONCE + number + 1)
    assert restored == [None]


def test_those_that_come_back_share_the_bound(bench):
    """What is restored and what is started in turn, together, are a few at a time."""
    for number in range(30):
        bench.running(str(3000 + number), str(number))
    bench.disconnect()
    restored = bench.connect()
    outcomes = [bench.start_in_turn(str(4000 + number)) for number in range(30)]
    for number in range(60):
        assert len(bench.starts) == min(60, COME_BACK_AT_ONCE + number)
        bench.answer(started(str(number)), number)
    assert restored == [None]
    assert outcomes == [[None]] * 30


def test_a_start_in_turn_waits_only_for_a_monitor(bench):
    """One that runs already needs no place."""
    bench.running("3095", "1")
    for number in range(20):
        bench.start_in_turn(str(4000 + number))
    assert bench.start_in_turn("3095") == [None]


def test_one_that_left_before_its_turn(bench):
    """The MX is not asked for a monitor that nobody wants any more, but for one that is wanted."""
    waiting = [
        bench.call(bench.monitors.start(str(4000 + number), in_turn=True)) for number in range(20)
    ]
    bench.monitors.want("4019")
    for each in waiting[COME_BACK_AT_ONCE:]:
        each.addErrback(lambda failure: failure.trap(CancelledError) and None)
        each.cancel()
    for number in range(COME_BACK_AT_ONCE):
        bench.answer(started(str(number)), number)
    assert bench.starts == [str(4000 + number) for number in [*range(COME_BACK_AT_ONCE), 19]]
    bench.answer(started("19"))
    assert bench.monitors.missing == frozenset()


def test_wanted_before_the_connection(bench):
    """What is wanted while there is no connection is started on the next one."""
    bench.disconnect()
    bench.monitors.want("3095")
    assert bench.monitors.missing == {"3095"}
    restored = bench.connect()
    bench.answer(started("1"))
    assert restored == [None]
    assert bench.monitors.missing == frozenset()


@pytest.mark.parametrize("ending", ["stopped", "refused", "down"])
def test_nothing_is_left_of_an_extension(bench, ending):
    """However many come and go, they leave nothing that grows."""
    if ending == "down":
        bench.disconnect()
    for number in range(5):
        bench.start(str(number))
        bench.start(str(number))
        if ending == "refused":
            bench.answer(REFUSED)
            bench.answer(REFUSED)
        elif ending == "stopped":
            bench.answer(started(str(number)))
            bench.stop(str(number))
            bench.answer(STOPPED)
    assert bench.monitors._locks == {}
    assert bench.monitors._monitor_of == {}
    assert bench.monitors.wanted == frozenset()


@pytest.mark.parametrize("ending", ["refused", "unanswered"])
def test_restore_goes_on_without_one(bench, logged, ending):
    """A monitor that the MX does not restore is logged and stays missing; the others run."""
    bench.running("3095", "1")
    bench.running("3044", "2")
    bench.disconnect()
    restored = bench.connect()
    bench.answer(started("1"), 1)
    if ending == "refused":
        bench.answer(REFUSED, 0)
    else:
        bench.clock.advance(TIMEOUT)
    assert restored == [None]
    assert bench.monitors.missing == {"3044"}
    assert bench.monitors.wanted == {"3095", "3044"}
    assert logged.about("monitor of 3044 not restored")


@pytest.mark.parametrize("running", [1, 2, 40])
def test_connection_lost_during_restore(bench, running):
    """The end of the connection ends the restoring, and says just that; nothing goes on behind."""
    for number in range(running):
        bench.running(str(3000 + number), str(number))
    bench.disconnect()
    restored = bench.connect()
    bench.disconnect()
    (error,) = restored
    assert isinstance(error, MXUnavailable)
    assert bench.clock.getDelayedCalls() == []
    assert len(bench.monitors.wanted) == running


def test_login_during_restore(bench):
    """A login while its extension is being restored waits for that very monitor."""
    bench.running("3095", "1")
    bench.disconnect()
    restored = bench.connect()
    starting = bench.start("3095")
    assert bench.starts == ["3095"]
    bench.answer(started("1"))
    assert (restored, starting) == ([None], [None])


def test_restoring_again_asks_only_for_the_missing(bench):
    """A second restoring on the same connection leaves running monitors alone."""
    bench.running("3095", "1")
    bench.running("3044", "2")
    bench.disconnect()
    bench.connect()
    bench.answer(REFUSED, 0)
    bench.answer(started("1"), 1)
    again = outcome_of(bench.call(bench.monitors.restore(bench.peer.protocol)))
    assert bench.starts == ["3044", "3095", "3044"]
    bench.answer(started("2"))
    assert again == [None]
