"""Which extensions are watched: logins, logouts, tokens and streams in any order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mxflex.errors import MXTimeout, MXUnavailable, NotMonitored, ServiceUnavailable
from mxflex.gateway.calls import CallRegistry, Calls
from mxflex.gateway.hub import Hub
from mxflex.gateway.logouts import Logouts
from mxflex.gateway.relay import Encoders, Relay
from mxflex.gateway.sessions import RESUME_SECONDS, Sessions
from mxflex.mx.monitors import COME_BACK_AT_ONCE
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    Acknowledgement,
    CSTAError,
    DeliveredEvent,
    DeviceCall,
    MonitorStart,
    MonitorStartResponse,
    MonitorStop,
    SnapshotDevice,
)
from tests.unit.memory_mx import NOW, MemoryMX

ME, PETER = "3095", "3044"


class Stream:
    """A listener that leaves as a real one does: when it is ended, it unsubscribes."""

    def __init__(self, gateway, ext):
        self.gateway, self.ext = gateway, ext
        self.received = []
        self.ended = 0

    def send(self, frame):
        assert not self.ended
        self.received.append(frame)

    def end(self):
        self.ended += 1
        self.leave()

    def leave(self):
        self.gateway.sessions.unsubscribe(self.ext, self)


class Gateway:
    """The gateway from the link to the hub, on an MX in memory."""

    def __init__(self, *, reachable=True):
        self.mx = MemoryMX()
        self.mx.reachable = reachable
        self.clock = self.mx.clock
        self.hub = Hub(
            self.clock.seconds,
            lambda event_id, name, data: b"%d %s %s" % (event_id, name.encode(), data),
            lambda reason, since: b"%s %r" % (reason.encode(), since),
            16,
        )
        self.calls = Calls(self.mx.link, CallRegistry(self.clock.seconds), True)
        self.monitors = self.mx.link.monitors
        logouts = Logouts(self.clock)
        self.sessions = Sessions(self.clock, self.monitors, self.hub, self.calls, logouts)
        self.mx.link.listen(
            Relay(
                self.clock,
                self.hub,
                self.calls,
                self.monitors,
                Encoders(
                    call=lambda ext, event: (type(event).__name__, ext.encode()),
                    contact=lambda known, entry: None,
                    status=lambda up: b"%r" % up,
                ),
            )
        )
        if reachable:
            self.mx.start()
        else:
            self.mx.link.startService()
        self.mx.commands.clear()

    def resume(self, ext=ME, lifetime=3600):
        """Come back with a token from before a restart."""
        return self.mx.run(self.sessions.resume(ext, self.clock.seconds() + lifetime))

    def open(self, ext=ME, lifetime=3600):
        """Begin to open a session; the MX answers what it does not hold back."""
        return self.mx.run(self.sessions.open(ext, self.clock.seconds() + lifetime))

    def close(self, ext=ME):
        return self.mx.run(self.sessions.close(ext))

    def stream(self, ext=ME, last_event_id=None):
        stream = Stream(self, ext)
        stream.backlog = self.sessions.subscribe(ext, stream, last_event_id)
        return stream

    def stop(self):
        """Stop as the daemon does; no timer may be left."""
        self.sessions.stop()
        self.mx.stop()

    def pass_time(self, seconds):
        """Let time pass in small steps, answering the MX's side all the while."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(5, end - self.clock.seconds()))
            self.mx.pump()

    def ring(self, ext=ME, call_id=39):
        self.mx.send(
            ext,
            DeliveredEvent(connection=ConnectionID(call_id, ext), alerting_device=ext),
        )

    @property
    def watched(self):
        return sorted(self.mx.monitors.values())

    @property
    def own_timers(self):
        """The delayed calls of the sessions."""
        return [
            call
            for call in self.clock.getDelayedCalls()
            if getattr(call.func, "__self__", None) is self.sessions
        ]

    def is_gone(self, ext=ME):
        """Tell whether nothing is left of an extension, here and at the MX."""
        return (
            ext not in self.watched
            and ext not in self.monitors.wanted
            and not self.hub.is_open(ext)
            and ext not in self.sessions._sessions
            and ext not in self.calls._registry._calls
        )


def failure_of(deferred):
    """Give the failure of a Deferred that has failed."""
    results = []
    deferred.addErrback(results.append)
    assert results
    assert isinstance(results[0], Failure)
    return results[0]


@pytest.fixture
def gateway():
    gateway = Gateway()
    yield gateway
    gateway.stop()


class TestLogins:
    """The monitor is there before the token."""

    def test_monitor_runs_when_the_session_is_open(self, gateway):
        """A session opens when the MX has started the monitor, and not before."""
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open()
        assert not opening.called
        with pytest.raises(NotMonitored):
            gateway.stream()
        gateway.mx.answer()
        assert opening.called
        assert gateway.watched == [ME]
        gateway.stream()

    def test_one_monitor_however_many_log_in(self, gateway):
        """Logins side by side and one after the other share one monitor."""
        gateway.mx.hold.add(MonitorStart)
        logins = [gateway.open() for _ in range(5)]
        assert gateway.mx.count(MonitorStart) == 1
        gateway.mx.answer()
        assert all(login.called for login in logins)
        assert gateway.open().called
        assert gateway.mx.count(MonitorStart) == 1
        assert gateway.watched == [ME]
        assert len(gateway.own_timers) == 1

    def test_each_extension_has_its_own(self, gateway):
        """Two users are two monitors, and neither waits for the other."""
        gateway.mx.hold.add(MonitorStart)
        first, second = gateway.open(ME), gateway.open(PETER)
        assert gateway.mx.count(MonitorStart) == 2
        gateway.mx.answer(CSTAError(text="invalidDeviceID"))
        gateway.mx.answer()
        failure_of(first).trap(MXUnavailable)
        assert second.called
        assert gateway.watched == [PETER]

    def test_calls_are_asked_for_once(self, gateway):
        """The MX is asked which calls there are when the watching begins, not at each login."""
        gateway.mx.calls[ME] = [DeviceCall(connection=ConnectionID(7, ME), state="hold")]
        for _ in range(3):
            gateway.open()
        assert gateway.mx.count(SnapshotDevice) == 1
        assert [call.state for call in gateway.calls._registry.calls(ME)] == ["hold"]

    def test_events_before_the_answer_are_kept(self, gateway):
        """Events that overtake the answer to the start of their monitor are in the history."""
        gateway.mx.hold.add(MonitorStart)
        gateway.open()
        gateway.mx.send_as("5", DeliveredEvent(connection=ConnectionID(39, ME), alerting_device=ME))
        gateway.mx.answer(MonitorStartResponse(monitor="5"))
        assert len(gateway.hub._extensions[ME].calls.history.newer(0)) == 1
        assert [call.call_id for call in gateway.calls._registry.calls(ME)] == [39]


class TestFailingStarts:
    """A monitor that does not start."""

    @pytest.mark.parametrize("fault", ["refused", "silent", "lost", "down"])
    def test_nothing_is_left(self, gateway, fault):
        """Whatever the fault, it is told, and neither session nor channel nor timer stays."""
        if fault == "down":
            gateway.mx.reachable = False
            gateway.mx.lose()
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open()
        if fault == "refused":
            gateway.mx.answer(CSTAError(text="invalidDeviceID"))
        elif fault == "silent":
            gateway.pass_time(10)
        elif fault == "lost":
            gateway.mx.lose()
        errors = {
            "refused": MXUnavailable,
            "silent": MXTimeout,
            "lost": MXUnavailable,
            "down": MXUnavailable,
        }
        failure_of(opening).trap(errors[fault])
        assert gateway.is_gone()
        assert gateway.own_timers == []

    def test_a_second_try(self, gateway):
        """After a failure the next login tries anew."""
        gateway.mx.refuse[MonitorStart] = CSTAError(text="no")
        failure_of(gateway.open())
        gateway.mx.refuse.clear()
        assert gateway.open().called
        assert gateway.watched == [ME]

    def test_one_login_may_fail_and_the_next_succeed(self, gateway):
        """Of two logins that wait, the failure of one does not take the other's session."""
        gateway.mx.hold.add(MonitorStart)
        first, second = gateway.open(), gateway.open()
        gateway.mx.answer(CSTAError(text="no"))
        failure_of(first).trap(MXUnavailable)
        gateway.mx.answer()
        assert second.called
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1
        assert len(gateway.calls._registry.calls(ME)) == 1

    def test_while_somebody_listens(self, gateway):
        """A login that fails leaves the session of those who are logged in alone."""
        gateway.open()
        stream = gateway.stream()
        gateway.mx.reachable = False
        gateway.mx.lose()
        failure_of(gateway.open()).trap(MXUnavailable)
        assert stream.ended == 0
        gateway.mx.come_back()
        gateway.ring()
        assert stream.received[-1].split()[1] == b"DeliveredEvent"

    def test_the_client_leaves_while_it_waits(self, gateway):
        """A login whose client has gone leaves nothing behind, whenever the MX answers."""
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open()
        opening.cancel()
        failure_of(opening).trap(CancelledError)
        gateway.mx.hold.clear()
        gateway.mx.answer()
        assert gateway.is_gone()
        assert gateway.own_timers == []

    def test_one_client_leaves_and_another_stays(self, gateway):
        """The end of one of two waiting logins does not take the other's monitor."""
        gateway.mx.hold.add(MonitorStart)
        first, second = gateway.open(), gateway.open()
        first.cancel()
        failure_of(first).trap(CancelledError)
        gateway.mx.hold.clear()
        gateway.mx.answer()
        assert second.called
        assert gateway.watched == [ME]
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1

    @pytest.mark.parametrize("answer", ["licence", "no id"])
    @pytest.mark.parametrize("way", ["open", "resume"])
    def test_the_words_of_the_mx_are_not_for_the_client(self, gateway, way, answer):
        """A refusal is none of the client's command: the MX is not there, for this purpose."""
        refusals = {"licence": CSTAError(text="licence"), "no id": Acknowledgement(name="x")}
        gateway.mx.refuse[MonitorStart] = refusals[answer]
        failure = failure_of(getattr(gateway, way)())
        assert type(failure.value) is MXUnavailable
        assert str(failure.value) == "the monitor of this extension cannot be started"
        assert gateway.is_gone()
        assert gateway.own_timers == []


class TestOldTokens:
    """Tokens from before a restart: nobody has logged in since."""

    def test_starts_the_monitor(self, gateway):
        """The monitor is started, and runs before the stream opens."""
        gateway.mx.hold.add(MonitorStart)
        resuming = gateway.resume()
        assert not resuming.called
        gateway.mx.answer()
        assert resuming.called
        assert gateway.watched == [ME]
        stream = gateway.stream()
        gateway.ring()
        assert [frame.split()[1] for frame in stream.received] == [b"DeliveredEvent"]

    def test_calls_are_asked_for(self, gateway):
        """What calls there are is known again, as after a login."""
        gateway.mx.calls[ME] = [DeviceCall(connection=ConnectionID(7, ME), state="hold")]
        gateway.resume()
        assert [call.state for call in gateway.calls._registry.calls(ME)] == ["hold"]

    def test_lasts_as_long_as_the_token(self, gateway):
        """Without a stream the watching ends with the last token that came."""
        gateway.resume(lifetime=100)
        gateway.resume(lifetime=50)
        gateway.pass_time(95)
        assert gateway.watched == [ME]
        gateway.resume(lifetime=200)
        assert gateway.mx.count(MonitorStart) == 1
        gateway.pass_time(199)
        assert gateway.watched == [ME]
        gateway.pass_time(1)
        assert gateway.is_gone()
        assert gateway.own_timers == []

    def test_a_token_that_is_good_keeps_what_is_watched(self, gateway):
        """A stream outlived its token; another token of the user gives the session its time."""
        gateway.open(lifetime=100)
        stream = gateway.stream()
        gateway.pass_time(200)
        assert gateway.resume(lifetime=100).called
        stream.leave()
        gateway.mx.pump()
        assert gateway.watched == [ME]
        gateway.pass_time(100)
        assert gateway.is_gone()

    def test_side_by_side(self, gateway):
        """However many streams of one extension come back, the MX is asked once."""
        gateway.mx.hold.add(MonitorStart)
        resuming = [gateway.resume() for _ in range(50)]
        assert gateway.mx.count(MonitorStart) == 1
        gateway.mx.answer()
        assert all(each.called for each in resuming)
        assert gateway.mx.count(MonitorStart) == 1
        assert len(gateway.own_timers) == 1
        assert gateway.sessions._resuming == {}

    def test_a_company_comes_back(self, gateway):
        """Many extensions at once do not flood the MX: so many are asked for, then the next."""
        gateway.mx.hold.add(MonitorStart)
        crowd = [str(number) for number in range(4000, 4100)]
        resuming = [gateway.resume(ext) for ext in crowd]
        assert gateway.mx.count(MonitorStart) == COME_BACK_AT_ONCE
        for number in range(100):
            gateway.mx.answer()
            assert gateway.mx.count(MonitorStart) == min(100, COME_BACK_AT_ONCE + number + 1)
        assert all(each.called for each in resuming)
        assert gateway.watched == crowd

    def test_a_login_does_not_wait_behind_them(self, gateway):
        """Who logs in while a company comes back is served at once."""
        gateway.mx.hold.add(MonitorStart)
        for number in range(4000, 4100):
            gateway.resume(str(number))
        gateway.open()
        assert gateway.mx.commands[-1] == MonitorStart(device=ME)
        gateway.mx.hold.clear()
        while gateway.mx.held:
            gateway.mx.answer()

    def test_clients_that_leave_while_they_wait(self, gateway):
        """Nothing is left of them, and no monitor is asked for that nobody waits for."""
        gateway.mx.hold.add(MonitorStart)
        crowd = [str(number) for number in range(4000, 4100)]
        resuming = [gateway.resume(ext) for ext in crowd]
        for each in resuming:
            each.cancel()
            failure_of(each).trap(CancelledError)
        gateway.mx.hold.clear()
        while gateway.mx.held:
            gateway.mx.answer()
        assert gateway.mx.count(MonitorStart) == COME_BACK_AT_ONCE
        assert all(gateway.is_gone(ext) for ext in crowd)
        assert gateway.own_timers == []
        assert gateway.sessions._resuming == {}

    def test_one_leaves_and_another_stays(self, gateway):
        """The end of one of two that wait does not take the other's monitor."""
        gateway.mx.hold.add(MonitorStart)
        first, second = gateway.resume(), gateway.resume()
        first.cancel()
        failure_of(first).trap(CancelledError)
        gateway.mx.hold.clear()
        gateway.mx.answer()
        assert second.called
        assert gateway.watched == [ME]
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1

    def test_a_second_try_after_a_refusal(self, gateway):
        """What the MX refused once is asked for again at the next request."""
        gateway.mx.refuse[MonitorStart] = CSTAError(text="no")
        failure_of(gateway.resume())
        assert gateway.is_gone()
        gateway.mx.refuse.clear()
        assert gateway.resume().called
        assert gateway.watched == [ME]


class TestOldTokensWithoutTheMX:
    """A browser takes a refusal as final, so an MX that is away must not end its streams."""

    def gaps(self, stream):
        return [frame.split()[2:] for frame in stream.received if frame.split()[1] == b"gap"]

    def test_before_the_mx_came_for_the_first_time(self):
        """The stream opens at once; with the MX comes the gap, from the start of the daemon on."""
        gateway = Gateway(reachable=False)
        gateway.mx.calls[ME] = [DeviceCall(connection=ConnectionID(7, ME), state="hold")]
        gateway.pass_time(5)
        resuming = gateway.resume()
        assert resuming.called
        stream = gateway.stream()
        gateway.mx.come_back()
        assert gateway.watched == [ME]
        assert [call.state for call in gateway.calls._registry.calls(ME)] == ["hold"]
        assert self.gaps(stream) == [[b"mx-down", b"%r" % NOW]]
        gateway.ring()
        assert stream.received[-1].split()[1] == b"DeliveredEvent"
        gateway.stop()

    def test_while_it_is_lost(self, gateway):
        """The same holds later, and the gap begins where the link was lost."""
        gateway.mx.reachable = False
        gateway.clock.advance(100)
        gateway.mx.lose()
        gateway.pass_time(5)
        assert gateway.resume().called
        stream = gateway.stream()
        gateway.mx.come_back()
        assert gateway.watched == [ME]
        assert self.gaps(stream) == [[b"mx-down", b"%r" % (NOW + 100)]]

    def test_lost_while_a_company_waits(self, gateway):
        """All that wait are served when the link is lost, and get their monitors later."""
        gateway.mx.hold.add(MonitorStart)
        crowd = [str(number) for number in range(4000, 4600)]
        resuming = [gateway.resume(ext) for ext in crowd]
        gateway.mx.lose()
        assert all(each.called for each in resuming)
        streams = [gateway.stream(ext) for ext in crowd]
        gateway.mx.hold.clear()
        gateway.mx.come_back()
        assert gateway.watched == crowd
        assert all(len(self.gaps(stream)) == 1 for stream in streams)

    def test_the_mx_answers_late(self, gateway):
        """Who has waited long enough gets the stream; the gap tells when the monitor runs."""
        gateway.mx.hold.add(MonitorStart)
        first, *_ = [gateway.resume(str(number)) for number in range(4000, 4100)]
        resuming = gateway.resume()
        gateway.clock.advance(RESUME_SECONDS - 4)
        gateway.mx.answer()
        assert first.called
        assert not resuming.called
        gateway.clock.advance(4)
        assert resuming.called
        stream = gateway.stream()
        assert gateway.watched == ["4000"]
        gateway.mx.hold.clear()
        while gateway.mx.held:
            gateway.mx.answer()
        gateway.pass_time(60)
        assert ME in gateway.watched
        assert len(self.gaps(stream)) == 1
        gateway.ring()
        assert stream.received[-1].split()[1] == b"DeliveredEvent"

    def test_the_mx_does_not_answer(self, gateway):
        """A start that the MX leaves unanswered is tried again for the open stream."""
        gateway.mx.hold.add(MonitorStart)
        resuming = gateway.resume()
        gateway.pass_time(7)
        assert resuming.called
        stream = gateway.stream()
        gateway.mx.hold.clear()
        gateway.pass_time(60)
        assert gateway.watched == [ME]
        assert len(self.gaps(stream)) == 1

    def test_the_token_ends_before_the_mx_comes(self):
        """A monitor that nobody wants any more is not started."""
        gateway = Gateway(reachable=False)
        gateway.resume(lifetime=100)
        gateway.pass_time(100)
        assert gateway.is_gone()
        gateway.mx.come_back()
        assert gateway.watched == []
        gateway.stop()


class TestLogoutsAreRemembered:
    """Tokens from before a logout open no stream, though they are good for other calls."""

    def test_until_the_next_login(self, gateway):
        """After the logout the old tokens are refused, after the next login they are not."""
        gateway.open()
        gateway.close()
        failure_of(gateway.resume()).trap(NotMonitored)
        assert gateway.is_gone()
        assert gateway.mx.count(MonitorStart) == 1
        gateway.open()
        assert gateway.resume().called
        gateway.pass_time(3600)
        assert gateway.is_gone()
        gateway.resume()
        assert gateway.watched == [ME]

    def test_a_failed_login_changes_nothing(self, gateway):
        """A login whose monitor does not start is none."""
        gateway.close()
        gateway.mx.refuse[MonitorStart] = CSTAError(text="no")
        failure_of(gateway.open())
        gateway.mx.refuse.clear()
        failure_of(gateway.resume()).trap(NotMonitored)

    def test_of_somebody_not_watched(self, gateway):
        """A logout counts though a restart came before it, whether the MX is there or not."""
        gateway.close()
        failure_of(gateway.resume()).trap(NotMonitored)
        gateway.mx.reachable = False
        gateway.mx.lose()
        failure_of(gateway.resume()).trap(NotMonitored)

    def test_the_end_of_the_last_token_is_no_logout(self, gateway):
        """A token of another server with the same key may come after the last one here ended."""
        gateway.open(lifetime=100)
        gateway.pass_time(100)
        assert gateway.is_gone()
        assert gateway.resume().called
        assert gateway.watched == [ME]

    def test_while_old_tokens_wait(self, gateway):
        """A logout is the answer at once, and the monitor that was asked for is stopped."""
        gateway.mx.hold.add(MonitorStart)
        resuming = [gateway.resume() for _ in range(3)]
        closing = gateway.close()
        for each in resuming:
            failure_of(each).trap(NotMonitored)
        gateway.mx.hold.clear()
        gateway.mx.answer()
        assert closing.called
        assert gateway.is_gone()
        assert gateway.own_timers == []

    @pytest.mark.parametrize("login_first", [True, False])
    def test_with_a_login_under_way(self, gateway, login_first):
        """The login outlives the logout, and its monitor does too; the old token does not."""
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open() if login_first else None
        resuming = gateway.resume()
        opening = opening or gateway.open()
        closing = gateway.close()
        failure_of(resuming).trap(NotMonitored)
        gateway.mx.hold.clear()
        gateway.mx.answer()
        assert opening.called
        assert closing.called
        assert gateway.watched == [ME]
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1


class TestLogout:
    """A logout ends the watching for everybody of that extension."""

    def test_everything_ends(self, gateway):
        """Streams end, the monitor stops, the calls are forgotten, and no timer stays."""
        gateway.open()
        streams = [gateway.stream(), gateway.stream()]
        gateway.ring()
        assert gateway.close().called
        assert [stream.ended for stream in streams] == [1, 1]
        assert gateway.is_gone()
        assert gateway.own_timers == []
        assert gateway.mx.count(MonitorStop) == 1
        with pytest.raises(NotMonitored):
            gateway.stream()

    def test_streams_end_before_the_mx_answers(self, gateway):
        """However slow the MX, nobody is sent anything after the logout."""
        gateway.open()
        stream = gateway.stream()
        gateway.mx.hold.add(MonitorStop)
        closing = gateway.close()
        assert not closing.called
        assert stream.ended == 1
        gateway.ring()
        assert gateway.calls._registry.calls(ME) == []
        gateway.mx.answer()
        assert closing.called

    def test_twice(self, gateway):
        """A second logout, and one of somebody unknown, is no error and no command."""
        gateway.open()
        for _ in range(2):
            assert gateway.close().called
        assert gateway.close(PETER).called
        assert gateway.mx.count(MonitorStop) == 1

    def test_of_one_extension(self, gateway):
        """The logout of one user is nothing to another."""
        gateway.open(ME)
        gateway.open(PETER)
        stream = gateway.stream(PETER)
        gateway.close(ME)
        assert stream.ended == 0
        assert gateway.watched == [PETER]

    @pytest.mark.parametrize("fault", ["refused", "silent", "lost", "down"])
    def test_an_mx_that_does_not_play_along(self, gateway, fault):
        """The logout is done whatever the MX says to it."""
        gateway.open()
        stream = gateway.stream()
        if fault == "refused":
            gateway.mx.refuse[MonitorStop] = CSTAError(text="invalidMonitorCrossRefID")
        elif fault == "down":
            gateway.mx.reachable = False
            gateway.mx.lose()
        else:
            gateway.mx.hold.add(MonitorStop)
        closing = gateway.close()
        if fault == "silent":
            gateway.pass_time(8)
        elif fault == "lost":
            gateway.mx.lose()
        assert closing.called
        assert stream.ended == 1
        assert not gateway.hub.is_open(ME)
        assert gateway.monitors.wanted == frozenset()
        gateway.mx.hold.clear()
        if fault in ("lost", "down"):
            gateway.mx.come_back()
            assert gateway.watched == []

    def test_of_the_old_session_during_a_login(self, gateway):
        """A login that is under way outlives a logout: its token is good for a stream."""
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open()
        closing = gateway.close()
        gateway.mx.hold.clear()
        gateway.mx.answer()
        assert opening.called
        assert closing.called
        assert gateway.watched == [ME]
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1
        assert len(gateway.own_timers) == 1

    def test_login_during_the_logout(self, gateway):
        """A login that comes before the MX has stopped the monitor starts a new one."""
        gateway.open()
        gateway.mx.hold.add(MonitorStop)
        closing, opening = gateway.close(), gateway.open()
        assert not opening.called
        gateway.mx.answer()
        assert closing.called
        assert opening.called
        assert gateway.watched == [ME]
        assert gateway.mx.count(MonitorStart) == 2
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1

    def test_the_next_session_knows_nothing_of_the_last(self, gateway):
        """Calls and events from before a logout are not those of the next login."""
        gateway.open()
        begin = gateway.stream().backlog.last_id
        gateway.ring()
        gateway.close()
        gateway.open()
        stream = gateway.stream(last_event_id=begin)
        assert gateway.calls._registry.calls(ME) == []
        assert [frame.split(b" ", 2)[1:] for frame in stream.backlog.frames] == [
            [b"gap", b"unknown-id None"]
        ]


class TestTokens:
    """The watching lasts as long as the last token, or the last stream."""

    def test_ends_with_the_last_token(self, gateway):
        """Without a stream the monitor stops at the second the last token ends."""
        gateway.open()
        gateway.pass_time(1800)
        gateway.open()
        gateway.pass_time(3595)
        assert gateway.watched == [ME]
        gateway.pass_time(5)
        assert gateway.is_gone()
        assert gateway.own_timers == []

    def test_a_shorter_token_takes_nothing_away(self, gateway):
        """A later login whose token ends earlier does not shorten the session."""
        gateway.open(lifetime=100)
        gateway.open(lifetime=50)
        gateway.pass_time(99)
        assert gateway.watched == [ME]
        gateway.pass_time(1)
        assert gateway.is_gone()

    def test_a_stream_outlives_its_token(self, gateway):
        """An open stream keeps the extension watched; with its end, all of it ends."""
        gateway.open()
        stream, other = gateway.stream(), gateway.stream()
        gateway.pass_time(7200)
        assert gateway.own_timers == []
        gateway.ring()
        assert len(stream.received) == 1
        stream.leave()
        gateway.mx.pump()
        assert gateway.watched == [ME]
        other.leave()
        gateway.mx.pump()
        assert gateway.is_gone()

    def test_a_stream_that_leaves_early_ends_nothing(self, gateway):
        """As long as a token is good, streams come and go."""
        gateway.open()
        gateway.stream().leave()
        gateway.mx.pump()
        assert gateway.watched == [ME]
        gateway.stream()

    def test_a_login_after_the_last_token(self, gateway):
        """While a stream lives on, a new login gives the session its time again."""
        gateway.open(lifetime=100)
        stream = gateway.stream()
        gateway.pass_time(200)
        gateway.open(lifetime=100)
        stream.leave()
        gateway.mx.pump()
        assert gateway.watched == [ME]
        assert len(gateway.own_timers) == 1
        gateway.pass_time(100)
        assert gateway.is_gone()

    def test_a_login_with_a_clock_that_was_set_back(self, gateway):
        """A token that ends before the last one did, by the clock, still keeps its session."""
        gateway.open(lifetime=100)
        stream = gateway.stream()
        gateway.pass_time(100)
        gateway.mx.run(gateway.sessions.open(ME, NOW + 50))
        assert len(gateway.own_timers) == 1
        stream.leave()
        assert gateway.own_timers != []

    def test_a_token_that_ended_while_it_was_made(self, gateway):
        """A token whose time is over before the monitor runs leaves nothing behind."""
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open(lifetime=1)
        gateway.clock.advance(2)
        gateway.mx.answer()
        assert opening.called
        gateway.pass_time(1)
        assert gateway.is_gone()

    def test_the_last_token_ends_during_a_login(self, gateway):
        """A login that waits for the MX is not hurt by the end of the token before it."""
        gateway.open()
        gateway.mx.hold.add(MonitorStart)
        gateway.mx.lose()
        while not gateway.mx.held:
            gateway.clock.advance(0.5)
            gateway.mx.pump()
        opening = gateway.open()
        gateway.own_timers[0].reset(1)
        gateway.clock.advance(1)
        assert ME not in gateway.sessions._sessions
        assert not opening.called
        gateway.mx.answer()
        assert opening.called
        assert gateway.watched == [ME]
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1


class TestHeld:
    """What a webhook names is watched whoever comes and goes."""

    def test_watched_as_soon_as_the_mx_is_there(self):
        """It is watched from the first connection on, without a login."""
        gateway = Gateway(reachable=False)
        gateway.sessions.hold([ME])
        assert gateway.watched == []
        gateway.mx.reachable = True
        gateway.pass_time(10)
        assert gateway.watched == [ME]
        gateway.stop()

    def test_after_an_outage(self):
        """It is watched again after an outage, and when the MX refused at first."""
        gateway = Gateway(reachable=False)
        gateway.sessions.hold([ME])
        gateway.mx.hold.add(MonitorStart)
        gateway.mx.reachable = True
        gateway.pass_time(1)
        gateway.mx.answer(CSTAError(text="invalidDeviceID"))
        gateway.mx.hold.clear()
        gateway.pass_time(20)
        assert gateway.watched == [ME]
        gateway.mx.lose()
        gateway.pass_time(20)
        assert gateway.watched == [ME]
        gateway.stop()

    def held(self):
        gateway = Gateway(reachable=False)
        gateway.sessions.hold([ME])
        gateway.mx.reachable = True
        gateway.pass_time(10)
        gateway.mx.commands.clear()
        return gateway

    def test_other_extensions_while_it_runs(self):
        """New ones are watched at once; those not named any more only if somebody is logged in."""
        gateway = self.held()
        gateway.sessions.hold([ME, PETER])
        gateway.mx.pump()
        assert sorted(gateway.watched) == [PETER, ME]
        assert gateway.mx.count(MonitorStart) == 1
        assert gateway.open().called
        stream = gateway.stream()
        gateway.sessions.hold([])
        gateway.mx.pump()
        assert gateway.watched == [ME]
        assert not gateway.hub.is_open(PETER)
        gateway.ring()
        assert len(stream.received) == 1
        gateway.close()
        assert gateway.watched == []
        gateway.stop()

    def test_named_and_dropped_before_the_mx_has_answered(self):
        """No monitor stays that nobody wants, however fast the configuration changes."""
        gateway = Gateway()
        gateway.mx.hold.add(MonitorStart)
        gateway.sessions.hold([ME])
        gateway.mx.pump()
        gateway.sessions.hold([])
        gateway.mx.answer(MonitorStartResponse(monitor="7"))
        assert gateway.watched == []
        assert gateway.mx.count(MonitorStop) == 1
        gateway.stop()

    def test_needs_a_login_all_the_same(self):
        """That it is watched lets nobody see its events, and old tokens as ever."""
        gateway = self.held()
        with pytest.raises(NotMonitored):
            gateway.stream()
        assert gateway.resume().called
        gateway.stream()
        gateway.stop()

    def test_a_logout_ends_streams_alone(self):
        """A logout ends the streams and forgets the history; monitor and calls stay."""
        gateway = self.held()
        assert gateway.open().called
        stream = gateway.stream()
        gateway.ring()
        assert len(stream.received) == 1
        calls = gateway.calls._registry.calls(ME)
        assert len(calls) == 1
        gateway.close()
        assert stream.ended == 1
        assert gateway.watched == [ME]
        assert gateway.mx.count(MonitorStop) == gateway.mx.count(MonitorStart) == 0
        assert gateway.calls._registry.calls(ME) == calls
        with pytest.raises(NotMonitored):
            gateway.stream()
        failure_of(gateway.resume()).trap(NotMonitored)
        assert gateway.hub.is_open(ME)
        assert gateway.open().called
        # Nothing from before the logout.
        assert [b"unknown" in each for each in gateway.stream(last_event_id=0).backlog.frames] == [
            True
        ]
        gateway.stop()

    def test_the_last_token_ends(self):
        """The end of the last token changes nothing."""
        gateway = self.held()
        assert gateway.open(lifetime=60).called
        gateway.pass_time(120)
        assert gateway.watched == [ME]
        assert gateway.hub.is_open(ME)
        gateway.stop()

    def test_a_login_that_fails(self):
        """A login during an outage that fails does not end the watching either."""
        gateway = self.held()
        gateway.mx.reachable = False
        gateway.mx.lose()
        gateway.pass_time(10)
        failure_of(gateway.open()).trap(MXUnavailable)
        assert gateway.hub.is_open(ME)
        gateway.mx.reachable = True
        gateway.pass_time(20)
        assert gateway.watched == [ME]
        gateway.stop()


class TestEnd:
    """The daemon stops."""

    def test_nobody_is_watched_any_more(self, gateway):
        """There are no sessions and no timers, and no stream opens; those that are open go on."""
        gateway.open(ME)
        gateway.open(PETER)
        streams = [gateway.stream(ME), gateway.stream(PETER)]
        gateway.sessions.stop()
        assert gateway.own_timers == []
        with pytest.raises(NotMonitored):
            gateway.stream()
        gateway.ring()
        assert [len(stream.received) for stream in streams] == [1, 0]
        for stream in streams:
            stream.leave()
        assert [stream.ended for stream in streams] == [0, 0]

    def test_a_login_under_way(self, gateway):
        """A login that is done after the end gives no session and no timer."""
        gateway.mx.hold.add(MonitorStart)
        opening = gateway.open()
        gateway.sessions.stop()
        gateway.mx.answer()
        failure_of(opening).trap(ServiceUnavailable)
        assert gateway.own_timers == []
        assert not gateway.hub.is_open(ME)
        assert gateway.calls._registry._calls == {}

    def test_an_old_token(self, gateway):
        """One that waits, and one that comes later, are told at once."""
        gateway.mx.hold.add(MonitorStart)
        waiting = gateway.resume()
        gateway.sessions.stop()
        failure_of(waiting).trap(ServiceUnavailable)
        failure_of(gateway.resume(PETER)).trap(ServiceUnavailable)
        assert gateway.mx.count(MonitorStart) == 1
        assert gateway.own_timers == []
        assert gateway.calls._registry._calls == {}
        gateway.mx.answer()
        assert gateway.watched == []

    def test_logout_and_stream_behind_the_end(self, gateway):
        """What clients still do after the end is no error."""
        gateway.open()
        stream = gateway.stream()
        gateway.sessions.stop()
        stream.leave()
        assert gateway.close().called
        gateway.sessions.stop()


class Users(RuleBasedStateMachine):
    """Users log in and out, streams come and go, time passes, and the MX is slow or away.

    The model knows when each extension's last token ends. An extension must be watched exactly as
    long as that token, or a stream, lives.
    """

    @initialize()
    def begin(self):
        self.gateway = Gateway()
        self.ends: dict[str, float] = {}
        self.streams: list[Stream] = []
        self.logins: list[tuple[str, float, object]] = []
        self.old: list[tuple[str, float, object]] = []
        self.logged_out: set[str] = set()
        # Whether the MX has been so late with a monitor that nobody waited for its id any more.
        # Such a monitor is nobody's, and lasts as long as the connection.
        self.too_late = False

    @rule(ext=st.sampled_from([ME, PETER]), lifetime=st.sampled_from([30, 100, 3600]))
    def logs_in(self, ext, lifetime):
        end = self.gateway.clock.seconds() + lifetime
        self.logins.append((ext, end, self.gateway.open(ext, lifetime)))
        self._settle()

    @rule(ext=st.sampled_from([ME, PETER]), lifetime=st.sampled_from([30, 100, 3600]))
    def comes_back(self, ext, lifetime):
        end = self.gateway.clock.seconds() + lifetime
        self.old.append((ext, end, self.gateway.resume(ext, lifetime)))
        self._settle()

    @rule(ext=st.sampled_from([ME, PETER]))
    def logs_out(self, ext):
        # Logins under way win over a logout, see TestLogout.
        self.logged_out.add(ext)
        self.gateway.close(ext)
        self.ends.pop(ext, None)
        for stream in [stream for stream in self.streams if stream.ext == ext]:
            assert stream.ended == 1
            self.streams.remove(stream)
        self._settle()

    @rule(ext=st.sampled_from([ME, PETER]))
    def stream_opens(self, ext):
        if ext in self.ends:
            self.streams.append(self.gateway.stream(ext))
        else:
            with pytest.raises(NotMonitored):
                self.gateway.stream(ext)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def stream_closes(self, data):
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        stream.leave()
        self.gateway.mx.pump()
        self._expire()

    @rule(seconds=st.sampled_from([1, 29, 70, 3600]))
    def time_passes(self, seconds):
        for _ in range(seconds):
            self.gateway.clock.advance(1)
            self.gateway.mx.pump()
            self._settle()
            self._expire()

    @rule(kind=st.sampled_from([MonitorStart, MonitorStop]))
    def mx_gets_slow(self, kind):
        self.gateway.mx.hold.add(kind)

    @rule()
    def mx_answers(self):
        self.gateway.mx.hold.clear()
        while self.gateway.mx.held:
            self.gateway.mx.answer()
        self._settle()

    @precondition(lambda self: self.gateway.mx.link.up)
    @rule()
    def mx_goes_away_and_comes_back(self):
        self.gateway.mx.lose()
        self._settle()
        self.too_late = False
        self.gateway.mx.hold.clear()
        for _ in range(20):
            self.gateway.clock.advance(1)
            self.gateway.mx.pump()
            self._settle()
            self._expire()
        assert self.gateway.mx.link.up

    def _settle(self):
        """Take into the model what has come of the logins."""
        waiting = []
        for ext, end, opening in self.logins:
            if not opening.called:
                waiting.append((ext, end, opening))
                continue
            failed = []
            opening.addErrback(failed.append)
            if failed:
                self.too_late |= failed[0].trap(MXTimeout, MXUnavailable) is MXTimeout
            else:
                self.ends[ext] = max(end, self.ends.get(ext, 0))
                self.logged_out.discard(ext)
        self.logins = waiting
        self._settle_old()
        self._expire()

    def _settle_old(self):
        waiting = []
        for ext, end, resuming in self.old:
            if not resuming.called:
                waiting.append((ext, end, resuming))
                continue
            failed = []
            resuming.addErrback(failed.append)
            if failed:
                failed[0].trap(NotMonitored)
                assert ext in self.logged_out
            else:
                assert ext not in self.logged_out
                self.ends[ext] = max(end, self.ends.get(ext, 0))
                self.too_late |= ext in self.gateway.monitors.missing
        self.old = waiting

    def _expire(self):
        now = self.gateway.clock.seconds()
        for ext, end in list(self.ends.items()):
            if end <= now and not any(stream.ext == ext for stream in self.streams):
                del self.ends[ext]

    @invariant()
    def sessions_are_those_of_the_model(self):
        """Sessions, channels and timers are there for whom they should be, and nobody else."""
        if not hasattr(self, "gateway"):
            return
        gateway = self.gateway
        assert set(gateway.sessions._sessions) == set(self.ends)
        waiting = {ext for ext, _, _ in [*self.logins, *self.old]}
        for ext in (ME, PETER):
            if ext not in waiting:
                assert gateway.hub.is_open(ext) is (ext in self.ends)
                assert (ext in gateway.calls._registry._calls) is (ext in self.ends)
                assert (ext in gateway.monitors.wanted) is (ext in self.ends)
        running = sum(end > gateway.clock.seconds() for end in self.ends.values())
        assert len(gateway.own_timers) == running
        assert all(stream.ended == 0 for stream in self.streams)

    @invariant()
    def the_mx_runs_one_monitor_for_each(self):
        """At rest the MX has exactly one monitor for each watched extension."""
        if not hasattr(self, "gateway") or self.gateway.mx.hold or self.gateway.mx.held:
            return
        if self.gateway.monitors.missing:
            # Tried again later, see TestOldTokensWithoutTheMX.
            return
        if self.too_late:
            assert set(self.gateway.watched) >= set(self.ends)
        else:
            assert self.gateway.watched == sorted(self.ends)

    def teardown(self):
        if hasattr(self, "gateway"):
            self.gateway.stop()
            for _, _, opening in [*self.logins, *self.old]:
                assert opening.called
                opening.addErrback(
                    lambda failure: failure.trap(MXTimeout, MXUnavailable, ServiceUnavailable)
                )


TestUsers = Users.TestCase
