"""Logins: who is let in, in which order things happen, and what a failure costs."""

from __future__ import annotations

import inspect

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mxflex.errors import (
    Forbidden,
    InvalidToken,
    LocalProtocolError,
    LoginRefused,
    MXBusy,
    MXTimeout,
    MXUnavailable,
    NotMonitored,
    TooManyRequests,
)
from mxflex.gateway.login import Logins
from mxflex.gateway.sessions import Sessions
from mxflex.gateway.throttle import Throttle
from mxflex.gateway.tokens import Tokens
from mxflex.mx.verify import Account, LoginCheck

NOW = 1_505_411_996.5
ME = Account(serial="63022", ext="3095", jid=43884851147406145)
HERE = "192.0.2.1"


def parameters(function):
    return list(inspect.signature(function).parameters)


class Check:
    """Takes the place of `mxflex.mx.verify.LoginCheck`; the test is the MX."""

    def __init__(self):
        self.asked = []
        self.waiting = []
        # Whether a login has to wait for its place first.
        self.full = False

    async def verify(self, login, password, attempt):
        if self.full:
            place = Deferred()
            self.waiting.append(place)
            await place
        with attempt:
            answer = Deferred()
            self.asked.append((login, password, answer))
            return await answer

    def answer(self, result=ME):
        self.asked.pop(0)[2].callback(result)

    def refuse(self, error):
        self.asked.pop(0)[2].errback(error)


class Watch:
    """Takes the place of `mxflex.gateway.sessions.Sessions`."""

    def __init__(self):
        self.opened = []
        self.resumed = []
        self.closed = []
        self.error = None
        self.slow = None

    async def open(self, ext, expires_at):
        self.opened.append((ext, expires_at))
        if self.slow is not None:
            await self.slow
        if self.error is not None:
            raise self.error

    async def resume(self, ext, expires_at):
        self.resumed.append((ext, expires_at))
        if self.error is not None:
            raise self.error

    async def close(self, ext):
        self.closed.append(ext)


class Door:
    """Logins with everything they need, at a time that stands unless it is set."""

    def __init__(self, max_failures=3, refusal_step=0):
        self.clock = Clock()
        self.clock.advance(NOW)
        self.check, self.watch = Check(), Watch()
        self.throttle = Throttle(max_failures, 300)
        self.tokens = Tokens(3600, b"k" * 64, 7200)
        self.logins = Logins(
            self.clock,
            self.check,
            self.throttle,
            self.tokens,
            self.watch,
            refusal_step=refusal_step,
        )

    @property
    def now(self):
        return self.clock.seconds()

    @now.setter
    def now(self, now):
        self.clock.advance(now - self.now)

    def knock(self, login="user_login", password="password", address=HERE):
        """Begin a login; give the Deferred of what comes of it."""
        return Deferred.fromCoroutine(self.logins.log_in(login, password, address))

    def fail(self, login="user_login", address=HERE, error=None):
        """Let a login be refused."""
        knocking = self.knock(login, "wrong", address)
        self.check.refuse(error or LoginRefused("Invalid user name or password", 2))
        return error_of(knocking)


def error_of(deferred):
    """Give the exception of a Deferred that has failed."""
    results = []
    deferred.addErrback(results.append)
    assert results
    assert isinstance(results[0], Failure)
    return results[0].value


def result_of(deferred):
    results = []
    deferred.addCallback(results.append)
    assert results, "has not fired, or has failed"
    return results[0]


@pytest.fixture
def door():
    return Door()


def test_fakes_are_like_what_they_stand_for():
    """The fakes have the methods that are used, with the same parameters."""
    assert parameters(Check.verify) == parameters(LoginCheck.verify)
    assert parameters(Watch.open) == parameters(Sessions.open)
    assert parameters(Watch.resume) == parameters(Sessions.resume)
    assert parameters(Watch.close) == parameters(Sessions.close)


class TestGoodLogins:
    """People who are let in."""

    def test_grant(self, door):
        """A good login gives a token of this person, and the seconds that it lasts."""
        knocking = door.knock()
        assert door.check.asked[0][:2] == ("user_login", "password")
        door.check.answer()
        grant = result_of(knocking)
        assert grant.expires_in == 3600
        identity = door.logins.identify(grant.token)
        assert (identity.mx, identity.ext, identity.jid) == ("63022", "3095", ME.jid)
        assert identity.expires_at == int(NOW) + 3600

    def test_monitor_before_token(self, door):
        """The token is given when the extension is watched, until the token's end."""
        door.watch.slow = Deferred()
        knocking = door.knock()
        door.check.answer()
        assert door.watch.opened == [("3095", int(NOW) + 3600)]
        assert not knocking.called
        door.watch.slow.callback(None)
        assert result_of(knocking).token

    def test_token_is_no_part_of_its_text(self, door):
        """A grant that finds its way into a log does not take the token there."""
        knocking = door.knock()
        door.check.answer()
        grant = result_of(knocking)
        assert grant.token not in repr(grant)

    def test_identify_knows_the_time(self, door):
        """A token is good until its end by the same clock that made it."""
        knocking = door.knock()
        door.check.answer()
        token = result_of(knocking).token
        door.now = int(NOW) + 3599.9
        door.logins.identify(token)
        door.now = int(NOW) + 3600
        with pytest.raises(InvalidToken):
            door.logins.identify(token)

    def test_logout(self, door):
        """A logout ends the watching of the token's extension; the token stays good."""
        knocking = door.knock()
        door.check.answer()
        token = result_of(knocking).token
        identity = door.logins.identify(token)
        for _ in range(2):
            result_of(Deferred.fromCoroutine(door.logins.log_out(identity)))
        assert door.watch.closed == ["3095", "3095"]
        assert door.logins.identify(token) == identity

    @pytest.mark.parametrize("jid", [0, 2**64 - 1])
    def test_any_id(self, door, jid):
        """Whatever id the MX gives a person, the token has it."""
        knocking = door.knock()
        door.check.answer(attrs.evolve(ME, jid=jid))
        assert door.logins.identify(result_of(knocking).token).jid == jid


class TestRenewals:
    """Tokens that go on without the password."""

    def identity(self, door):
        knocking = door.knock()
        door.check.answer()
        return door.logins.identify(result_of(knocking).token)

    def test_grant(self, door):
        """The MX is not asked; the extension is watched until the new token's end."""
        identity = self.identity(door)
        door.now += 3000
        grant = result_of(Deferred.fromCoroutine(door.logins.renew(identity)))
        assert grant.expires_in == 3600
        assert door.watch.resumed == [("3095", int(NOW) + 6600)]
        assert door.check.asked == []
        renewed = door.logins.identify(grant.token)
        assert renewed == attrs.evolve(identity, expires_at=int(NOW) + 6600)

    def test_the_last_one(self, door):
        """What is left of the age is told; beyond it the login is too old."""
        identity = self.identity(door)
        door.now += 3599
        grant = result_of(Deferred.fromCoroutine(door.logins.renew(identity)))
        door.now += 100
        identity = door.logins.identify(grant.token)
        grant = result_of(Deferred.fromCoroutine(door.logins.renew(identity)))
        assert grant.expires_in == 7200 - 3699
        identity = door.logins.identify(grant.token)
        watched = list(door.watch.resumed)
        error = error_of(Deferred.fromCoroutine(door.logins.renew(identity)))
        assert isinstance(error, Forbidden)
        assert door.watch.resumed == watched

    @pytest.mark.parametrize("error", [NotMonitored("not monitored"), MXUnavailable("no")], ids=str)
    def test_what_cannot_be_watched(self, door, error):
        """Without the watching there is no token, and the person is told why."""
        identity = self.identity(door)
        door.watch.error = error
        assert error_of(Deferred.fromCoroutine(door.logins.renew(identity))) is error


class TestRefusals:
    """People who are not."""

    def test_words_of_the_mx(self, door):
        """What the MX says to a bad login is what the person is told; nothing is watched."""
        error = door.fail()
        assert isinstance(error, LoginRefused)
        assert (str(error), error.code) == ("Invalid user name or password", 2)
        assert door.watch.opened == []

    def test_account_without_an_extension(self, door):
        """An account without a telephone has nothing to watch, and gets no token."""
        knocking = door.knock()
        door.check.answer(attrs.evolve(ME, ext=""))
        assert isinstance(error_of(knocking), Forbidden)
        assert door.watch.opened == []

    @pytest.mark.parametrize("error", [MXUnavailable("down"), MXTimeout("slow")], ids=str)
    def test_monitor_that_does_not_start(self, door, error):
        """Without a monitor there is no token, and the person is told why."""
        door.watch.error = error
        knocking = door.knock()
        door.check.answer()
        assert error_of(knocking) is error


class TestThrottle:
    """Failures are counted."""

    def test_after_too_many_the_mx_is_not_asked(self, door):
        """A login that has failed too often is refused before the MX hears of it."""
        for _ in range(3):
            door.fail()
        error = error_of(door.knock())
        assert isinstance(error, TooManyRequests)
        assert error.retry_after == 300
        assert door.check.asked == []
        door.now += 300
        knocking = door.knock()
        door.check.answer()
        assert result_of(knocking)

    def test_failure_counts_when_the_mx_answers(self, door):
        """The window begins with the refusal, not with the question."""
        door = Door(max_failures=1)
        knocking = door.knock()
        door.now += 100
        door.check.refuse(LoginRefused("no"))
        error_of(knocking)
        assert error_of(door.knock()).retry_after == 300

    @pytest.mark.parametrize(
        "error",
        [
            MXUnavailable("down"),
            MXTimeout("slow"),
            MXBusy("busy"),
            LocalProtocolError("cannot be sent"),
            CancelledError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_is_not_the_persons_fault(self, door, error):
        """An MX that is away, slow or busy, and a client that leaves, count as no failure."""
        for _ in range(10):
            assert type(door.fail(error=error)) is type(error)
        assert door.throttle._failures == {}

    def test_a_good_login_forgives_the_name(self, door):
        """After a good login the name begins anew, from another address too."""
        for number in range(2):
            door.fail(address=f"192.0.2.{number + 10}")
        knocking = door.knock()
        door.check.answer()
        result_of(knocking)
        for number in range(2):
            assert isinstance(door.fail(address=f"192.0.2.{number + 20}"), LoginRefused)

    def test_it_does_so_whatever_comes_behind(self, door):
        """The password was right, though the monitor did not start or there is no extension."""
        door.fail(address="192.0.2.9")
        door.watch.error = MXUnavailable("down")
        knocking = door.knock()
        door.check.answer()
        error_of(knocking)
        assert len(door.throttle._failures) == 1

    def test_those_who_wait_are_asked_again(self, door):
        """Logins that queue while others fail are refused when their turn comes."""
        door.check.full = True
        queue = [door.knock(address=f"192.0.2.{n}") for n in range(5)]
        door.check.full = False
        for _ in range(3):
            door.fail()
        for place in door.check.waiting:
            place.callback(None)
        assert door.check.asked == []
        assert all(isinstance(error_of(knocking), TooManyRequests) for knocking in queue)

    def test_takes_no_place_in_the_queue(self, door):
        """A login that has failed too often does not wait in others' way only to be refused."""
        for _ in range(3):
            door.fail()
        door.check.full = True
        assert isinstance(error_of(door.knock()), TooManyRequests)
        assert door.check.waiting == []

    def test_a_client_that_leaves(self, door):
        """A login whose client has gone opens nothing."""
        knocking = door.knock()
        knocking.cancel()
        assert isinstance(error_of(knocking), CancelledError)
        assert door.watch.opened == []


class TestTime:
    """The time of a refusal tells nothing of what the MX did meanwhile."""

    STEP = 0.25

    def answered_after(self, taken, **door):
        """Give after how many seconds a login is answered that the MX refuses after so many."""
        door = Door(**{"refusal_step": self.STEP, **door})
        came = door.now
        knocking = door.knock()
        answered = []
        knocking.addErrback(lambda failure: answered.append((door.now - came, failure.value)))
        door.clock.advance(taken)
        door.check.refuse(LoginRefused("no", 4))
        while not answered:
            door.clock.advance(min(call.getTime() for call in door.clock.calls) - door.now)
        after, error = answered[0]
        assert isinstance(error, LoginRefused)
        assert door.clock.calls == []
        return after

    @pytest.mark.parametrize("taken", [0, 0.001, 0.03, 0.125, 0.2499])
    def test_one_moment_for_all(self, taken):
        """Whatever the MX does within a step, the answer comes at the end of that step."""
        assert self.answered_after(taken) == pytest.approx(self.STEP)

    @pytest.mark.parametrize(("taken", "steps"), [(0.2501, 2), (0.49, 2), (0.51, 3), (7, 29)])
    def test_a_slow_mx(self, taken, steps):
        """Beyond it, the answer comes at the end of the step that the MX needed."""
        assert self.answered_after(taken) == pytest.approx(steps * self.STEP)

    @given(taken=st.floats(0, 30), step=st.floats(0.01, 10))
    def test_always_at_a_multiple(self, taken, step):
        """An answer comes at a multiple of the step, at the most one step after the MX's."""
        after = self.answered_after(taken, refusal_step=step)
        assert after / step == pytest.approx(round(after / step), abs=1e-3)
        assert taken - 1e-3 <= after <= taken + step + 1e-3

    def test_it_is_counted_at_once(self):
        """Whoever tries others meanwhile is not let through for it."""
        door = Door(max_failures=1, refusal_step=self.STEP)
        door.knock().addErrback(lambda _: None)
        door.check.refuse(LoginRefused("no"))
        assert isinstance(error_of(door.knock()), TooManyRequests)

    def test_switched_off(self):
        """With a step of 0 a refusal is told at once."""
        assert isinstance(Door(refusal_step=0).fail(), LoginRefused)

    def test_who_is_let_in_does_not_wait(self):
        """The right password is answered at once."""
        door = Door(refusal_step=self.STEP)
        knocking = door.knock()
        door.check.answer()
        assert result_of(knocking)

    @pytest.mark.parametrize("login", ["user_login", "nobody"])
    def test_too_many_is_told_at_once(self, login):
        """429 says nothing of the MX, which was not asked; it comes at once for every name."""
        door = Door(max_failures=1, refusal_step=self.STEP)
        door.throttle.failed(login, HERE, door.now)
        assert isinstance(error_of(door.knock(login)), TooManyRequests)
        assert door.clock.calls == []

    @pytest.mark.parametrize("error", [MXUnavailable("down"), MXTimeout("slow"), MXBusy("busy")])
    def test_an_mx_that_is_away_is_told_at_once(self, error):
        """An MX that cannot be asked refuses nobody."""
        door = Door(refusal_step=self.STEP)
        assert door.fail(error=error) is error

    def test_a_client_that_leaves_meanwhile(self):
        """A client that does not wait for its refusal was refused, and leaves nothing behind."""
        door = Door(refusal_step=self.STEP)
        knocking = door.knock()
        door.check.refuse(LoginRefused("no"))
        knocking.cancel()
        assert isinstance(error_of(knocking), LoginRefused)
        assert door.clock.calls == []


def test_results(door):
    """Every login counts once, by how it ended."""
    door.knock()
    door.check.answer()
    door.fail()
    for error in (MXUnavailable("away"), MXBusy("busy"), MXTimeout("late")):
        door.fail(error=error)
    door.fail(error=LocalProtocolError("too long"))
    for number in range(3):
        door.fail(login=f"somebody{number}", address="192.0.2.9")
    error_of(door.knock(address="192.0.2.9"))
    assert door.logins.results == {
        "accepted": 1,
        "refused": 4,
        "throttled": 1,
        "unavailable": 3,
        "other": 1,
    }
