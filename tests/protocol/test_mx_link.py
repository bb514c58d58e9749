"""`ServerLink` on a network in memory: its states, its waits, and every way it can be stopped."""

from __future__ import annotations

from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mxflex.errors import CommandRefused, MXUnavailable
from mxflex.mx.link import (
    MAX_MISSING_SECONDS,
    RESTORE_SECONDS,
    RETRY_SECONDS,
    LinkState,
    ServerLink,
)
from mxflex.mx.monitors import COME_BACK_AT_ONCE
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookAdded,
    CSTAError,
    GetAddressBook,
    GetServiceList,
    LoggedOut,
    LoginFailed,
    LoginRequest,
    Logout,
    MonitorStart,
    MonitorStartAddressBook,
    MonitorStartResponse,
    MonitorStop,
    Presence,
    UnknownEvent,
    hash_password,
)
from tests.protocol.memory_mx import (
    KEEPALIVE,
    LATENCY,
    TIMEOUT,
    MemoryDialer,
    Network,
    outcome_of,
    person,
    ringing,
    run,
)

MINUTE = 60.0
HOUR = 60 * MINUTE
# Steps of an orderly end: monitors, logout, close, and the turns of the reactor between them.
STOP_BOUND = 2.25


class Ears:
    """A listener that keeps what it is told (see `mxflex.mx.link.LinkListener`)."""

    def __init__(self, link):
        self.told = []
        self.calls = []
        link.listen(self)

    def link_up(self):
        self.told.append("up")

    def link_down(self):
        self.told.append("down")

    def call_event(self, ext, event):
        self.calls.append((ext, event.connection.call_id))


class Bench:
    """A link on a network in memory."""

    def __init__(self):
        self.clock = Clock()
        self.network = Network(self.clock, entries=[person(n) for n in range(60)])
        self.link = ServerLink(self.clock, MemoryDialer(self.network), "mxflex", "secret")
        self.ears = Ears(self.link)

    def start(self, seconds=2.0):
        """Start the link and let some time go by."""
        self.link.startService()
        self.run(seconds)
        return self

    def run(self, seconds, step=0.25):
        """Let time go by."""
        run(self.clock, seconds, step)

    def monitor(self, ext):
        """Have an extension monitored."""
        outcome = outcome_of(Deferred.fromCoroutine(self.link.monitors.start(ext)))
        self.run(1)
        assert outcome == [None]

    def stop(self):
        """Stop the link; see that it takes a bounded time and leaves nothing."""
        outcome = outcome_of(self.link.stopService())
        self.run(STOP_BOUND, step=0.05)
        assert outcome == [None]
        assert self.link.state is LinkState.STOPPED
        assert self.network.open == []
        assert self.clock.getDelayedCalls() == []
        dialled = len(self.network.dialled)
        self.run(HOUR, step=10)
        assert len(self.network.dialled) == dialled
        assert self.clock.getDelayedCalls() == []

    def gaps(self):
        """Give the seconds between the attempts."""
        return [b - a for a, b in pairwise(self.network.dialled)]


@pytest.fixture
def bench():
    """Give a link that is stopped after the test, if the test did not do that itself."""
    bench = Bench()
    yield bench
    if bench.link.running:
        bench.stop()


# --- Up and down ----------------------------------------------------------------------------------


def test_order_of_a_session(bench):
    """Login as `Server` with the hashed password, changes asked for, then the book is read."""
    bench.start()
    commands = [each.command for each in bench.network.peer.received]
    assert commands[:4] == [
        LoginRequest(
            type="Server",
            platform="iPhone",
            version="1.0",
            user_name="mxflex",
            password=hash_password("secret"),
        ),
        MonitorStartAddressBook(),
        GetAddressBook(index=0),
        GetAddressBook(index=1),
    ]
    assert len(bench.link.address_book.entries) == 60


def test_states(bench):
    """The states follow each other as the link comes, goes, waits and comes again."""
    seen = []

    def look():
        if not seen or seen[-1] is not bench.link.state:
            seen.append(bench.link.state)

    look()
    bench.link.startService()
    for _ in range(400):
        look()
        bench.clock.advance(0.005)
    bench.network.peer.end()
    for _ in range(400):
        look()
        bench.clock.advance(0.005)
    round_trip = [LinkState.CONNECTING, LinkState.RESTORING, LinkState.READY]
    assert seen == [LinkState.STOPPED, *round_trip, LinkState.WAITING, *round_trip]
    bench.stop()
    assert bench.link.state is LinkState.STOPPED


def test_up_and_down_are_told_once_each(bench):
    """However a connection ends, listeners hear one `up` and one `down` of it, in turn."""
    bench.start()
    assert bench.ears.told == ["up"]
    for _ in range(3):
        bench.network.peer.end()
        bench.run(10)
    bench.stop()
    assert bench.ears.told == ["up", "down"] * 4


def test_no_word_of_a_link_that_never_was(bench):
    """Attempts that fail are not told: nothing went down."""
    bench.network.mode = "refuse"
    bench.start(MINUTE)
    bench.stop()
    assert bench.ears.told == []


def test_a_listener_that_fails(bench, logged):
    """A broken listener costs neither the link nor the other listeners anything."""

    class Broken:
        def link_up(self):
            raise ZeroDivisionError

        link_down = link_up

        def call_event(self, ext, event):
            raise ZeroDivisionError

    link = bench.link
    link._listeners.insert(0, Broken())
    bench.start()
    bench.monitor("3095")
    bench.network.peer.event(ringing("1", 7))
    bench.run(1)
    assert link.up
    assert bench.ears.calls == [("3095", 7)]
    bench.network.peer.end()
    bench.run(10)
    assert link.up
    assert bench.ears.told == ["up", "down", "up"]
    assert len(bench.network.dialled) == 2
    bench.stop()
    assert len(logged.take_failures()) == 5


def test_commands_need_the_link(bench):
    """A command goes out while the link is up, and fails at once while it is not."""
    (error,) = outcome_of(bench.link.request(GetServiceList()))
    assert isinstance(error, MXUnavailable)
    bench.start()
    outcome = outcome_of(bench.link.request(GetServiceList()))
    bench.run(1)
    assert len(outcome) == 1
    bench.network.peer.end()
    waiting = outcome_of(bench.link.request(GetServiceList()))
    bench.clock.advance(LATENCY)
    assert isinstance(waiting[0], MXUnavailable)
    (error,) = outcome_of(bench.link.request(GetServiceList()))
    assert isinstance(error, MXUnavailable)


def test_starts_with_the_mx_down(bench):
    """The service starts without an MX, and is up soon after that comes."""
    bench.network.mode = "refuse"
    bench.start(HOUR)
    assert not bench.link.up
    bench.network.mode = "accept"
    bench.run(6)
    assert bench.link.up


def test_an_mx_back_in_time_is_found_soon(bench):
    """An MX that restarts is found within seconds, the waits having begun anew."""
    bench.network.mode = "refuse"
    bench.start(HOUR)
    bench.network.mode = "accept"
    bench.run(10 * MINUTE)
    bench.network.peer.end()
    bench.run(1, step=LATENCY)
    assert bench.link.up


# --- Waits ----------------------------------------------------------------------------------------


def _forced_out(peer, received):
    peer.event(LoggedOut(mode="forced"))
    peer.end()


def _close(peer, received):
    peer.end()


def _login_then(bench, act):
    log_in = bench.network.habits[LoginRequest]

    def habit(peer, received):
        log_in(peer, received)
        act(peer, received)

    bench.network.habits[LoginRequest] = habit


def _refuse(peer, received):
    peer.reply(received.invoke_id, CSTAError(text="busy"))


def _log_out(peer, received):
    peer.event(LoggedOut(mode="normal"))
    peer.end()


def _die_soon(seconds):
    """Let each connection end so long after its login."""

    def begin(bench):
        _login_then(bench, lambda peer, received: peer.later(seconds, peer.end))

    return begin


def _late(bench):
    """Answer logins when nobody waits for the answer any more."""
    log_in = bench.network.habits[LoginRequest]
    bench.network.habits[LoginRequest] = lambda peer, received: peer.later(
        1.5 * TIMEOUT, log_in, peer, received
    )


def _deaf(bench):
    """Answer nothing but logins."""
    log_in = bench.network.habits[LoginRequest]
    bench.network.habits.update(dict.fromkeys(bench.network.habits))
    bench.network.habits[LoginRequest] = log_in


def _refuse_login(bench):
    bench.network.habits[LoginRequest] = lambda peer, received: peer.reply(
        received.invoke_id, LoginFailed(code=1, text="Invalid user name or password")
    )


def _refuse_as_command(bench):
    bench.network.habits[LoginRequest] = lambda peer, received: peer.reply(
        received.invoke_id, CSTAError(text="accessDenied", category="security")
    )


TROUBLES = {
    "refused": lambda bench: setattr(bench.network, "mode", "refuse"),
    "no answer to TCP": lambda bench: setattr(bench.network, "mode", "hang"),
    "reset": lambda bench: setattr(bench.network, "mode", "reset"),
    "hang in TLS": lambda bench: setattr(bench.network, "mode", "hang in TLS"),
    "silent": lambda bench: bench.network.habits.update({LoginRequest: None}),
    "closed at login": lambda bench: bench.network.habits.update({LoginRequest: _close}),
    "closed after login": lambda bench: _login_then(bench, _close),
    "closed when the book is watched": lambda bench: bench.network.habits.update(
        {MonitorStartAddressBook: _close}
    ),
    "closed when the book is read": lambda bench: bench.network.habits.update(
        {GetAddressBook: _close}
    ),
    "login refused": _refuse_login,
    "login refused as a command": _refuse_as_command,
    "unknown answer to the login": lambda bench: bench.network.habits.update(
        {LoginRequest: lambda p, r: p.reply(r.invoke_id, Acknowledgement(name="hello"))}
    ),
    "thrown out at login": lambda bench: bench.network.habits.update({LoginRequest: _forced_out}),
    "thrown out after login": lambda bench: _login_then(bench, _forced_out),
    "thrown out when the book is watched": lambda bench: bench.network.habits.update(
        {MonitorStartAddressBook: _forced_out}
    ),
    "thrown out when the book is read": lambda bench: bench.network.habits.update(
        {GetAddressBook: _forced_out}
    ),
    "sent away after login": lambda bench: _login_then(bench, _log_out),
    "sent away when the book is watched": lambda bench: bench.network.habits.update(
        {MonitorStartAddressBook: _log_out}
    ),
    "late": _late,
    "deaf after login": _deaf,
    "dead after a second": _die_soon(1),
    "dead after ten seconds": _die_soon(10),
    "dead after a minute": _die_soon(60),
    "garbage": lambda bench: _login_then(bench, lambda peer, received: peer.deliver(b"\0" * 8)),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_never_a_tight_loop_and_never_given_up(bench, trouble):
    """Whatever goes wrong, for hours: attempts are few, and do not end."""
    TROUBLES[trouble](bench)
    bench.start(0)
    bench.run(4 * HOUR, step=0.5)
    dialled = bench.network.dialled
    in_a_minute = max(sum(1 for b in dialled if a <= b < a + MINUTE) for a in dialled)
    assert in_a_minute <= 20
    assert dialled[-1] > 3 * HOUR
    assert len(bench.network.open) <= 1
    if "refused as" in trouble or "login refused" in trouble or "thrown out" in trouble:
        # An account that is refused, or shared, is tried every few minutes.
        assert in_a_minute <= 2
        assert min(bench.gaps()) >= 40
        assert len(dialled) < 50


def test_waits_grow_and_are_moved_by_chance(bench):
    """The waits double up to a cap, and no two of them are quite the same."""
    bench.network.mode = "refuse"
    bench.start(0)
    bench.run(2 * MINUTE, step=0.01)
    gaps = bench.gaps()
    assert gaps[0] <= 0.52
    assert gaps[0] < gaps[1] < gaps[2] < gaps[3]
    assert all(3.74 <= gap <= 5.02 for gap in gaps[4:])
    assert len({round(gap, 2) for gap in gaps[4:]}) > 3


def test_refused_login_waits_minutes(bench, logged):
    """A refused login is tried again after a minute, later after ten, with the MX's words logged.

    A success makes the next refusal wait a minute again.
    """
    _refuse_login(bench)
    bench.start(0)
    bench.run(2 * HOUR, step=1)
    gaps = bench.gaps()
    # Three steps of a second go by until the MX has refused.
    assert 45 <= gaps[0] <= 64
    assert all(450 <= gap <= 604 for gap in gaps[5:])
    assert len(logged.about("server connection down")) == 1
    assert logged.about("Invalid user name or password")
    bench.network.habits[LoginRequest] = bench.network._log_in
    bench.run(11 * MINUTE)
    assert bench.link.up
    _refuse_login(bench)
    bench.network.peer.end()
    before = len(bench.network.dialled)
    bench.run(63)
    assert len(bench.network.dialled) == before + 2


@pytest.mark.parametrize("lived", [0.0, 0.5, 100.0])
def test_forced_logout_waits(bench, lived):
    """A link that was thrown out stays away for a minute, then for longer each time."""
    bench.start(0)
    gone = []
    for _ in range(3):
        for _ in range(10_000):
            if bench.network.peers and bench.network.peer.logged_in and bench.network.open:
                break
            bench.run(1)
        bench.run(lived)
        _forced_out(bench.network.peer, None)
        gone.append(bench.clock.seconds())
        before = len(bench.network.dialled)
        while len(bench.network.dialled) == before:
            bench.run(1)
        gone[-1] = bench.clock.seconds() - gone[-1]
    assert gone[0] >= 59
    assert gone[0] < gone[1] < gone[2]


def test_forced_logout_after_long_peace(bench):
    """Thrown out once in a while, an hour apart, the link comes back after the first wait."""
    bench.start()
    for _ in range(3):
        bench.run(HOUR, step=5)
        assert bench.link.up
        _forced_out(bench.network.peer, None)
        # The first wait takes up to 80 s, and the login its moment; a second one at least 120 s.
        bench.run(90)
        assert bench.link.up


def test_loss_after_a_forced_logout(bench):
    """A link that was thrown out once is back soon after a plain loss."""
    bench.start()
    _forced_out(bench.network.peer, None)
    bench.run(2 * MINUTE)
    assert bench.link.up
    bench.network.peer.end()
    bench.run(5)
    assert bench.link.up


def test_polite_logout_is_a_lost_connection(bench):
    """An MX that shuts down says so by another mode: the link comes back as after any loss."""
    bench.start()
    bench.network.peer.event(LoggedOut(mode="normal"))
    bench.run(10)
    assert bench.link.up
    assert len(bench.network.dialled) == 2


def test_trouble_is_news_once(bench, logged):
    """The same trouble is one line in the log however long it lasts; another one is a new line."""
    bench.network.mode = "refuse"
    bench.start(10 * MINUTE)
    assert len(logged.about("server connection down")) == 1
    bench.network.mode = "hang in TLS"
    bench.run(MINUTE)
    assert len(logged.about("server connection down")) == 2
    assert logged.about("did not finish the TLS handshake")


def test_half_open_link_is_replaced(bench):
    """A peer that vanishes is found within a keep-alive interval and two timeouts, and replaced."""
    bench.start()
    bench.monitor("3095")
    dead = bench.network.peer
    dead.deaf = True
    bench.run(KEEPALIVE + 2 * TIMEOUT)
    assert dead.over
    bench.run(2)
    assert bench.link.up
    assert bench.network.peer is not dead
    assert bench.network.peer.commands(MonitorStart) == [MonitorStart(device="3095")]


def test_quiet_link_is_kept(bench):
    """A link on which nothing happens for hours stays, and sends a keep-alive every 30 s."""
    bench.start()
    bench.run(3 * HOUR, step=1)
    assert len(bench.network.dialled) == 1
    assert bench.ears.told == ["up"]


# --- Monitors -------------------------------------------------------------------------------------


def test_monitors_are_restored_before_up(bench):
    """After a loss every wanted monitor runs again before anybody hears `up`."""
    bench.start()
    for ext in ("3095", "3044", "3098"):
        bench.monitor(ext)
    running_at_up = []
    bench.ears.link_up = lambda: running_at_up.append(bench.link.monitors.missing)
    bench.network.peer.end()
    bench.run(10)
    assert running_at_up == [frozenset()]
    assert sorted(bench.network.peer.monitors.values()) == ["3044", "3095", "3098"]
    (monitor,) = [m for m, ext in bench.network.peer.monitors.items() if ext == "3095"]
    bench.network.peer.event(ringing(monitor, 5))
    bench.run(1)
    assert bench.ears.calls == [("3095", 5)]


@pytest.mark.parametrize("habit", ["refused", "unanswered"])
def test_monitor_that_is_not_restored_is_tried_again(bench, logged, habit):
    """A monitor that the MX does not restore is tried again, often at first, and is news once.

    When the MX is well again, however long it was not, the monitor runs within seconds.
    """
    bench.start()
    bench.monitor("3095")
    start = bench.network.habits[MonitorStart]
    bench.network.habits[MonitorStart] = _refuse if habit == "refused" else None
    bench.network.peer.end()
    bench.run(20)
    assert bench.link.up
    peer = bench.network.peer
    assert bench.link.monitors.missing == {"3095"}
    for minutes in (1, 60):
        before = len(peer.commands(MonitorStart))
        bench.run(minutes * MINUTE)
        assert 3 * minutes <= len(peer.commands(MonitorStart)) - before <= 8 * minutes
    assert bench.network.peer is peer
    assert len(logged.about("monitor of 3095 not restored")) == 1
    bench.network.habits[MonitorStart] = start
    bench.run(MAX_MISSING_SECONDS + TIMEOUT)
    assert bench.link.monitors.missing == frozenset()
    # The next trouble is news again.
    bench.network.habits[MonitorStart] = _refuse
    bench.network.peer.end()
    bench.run(20)
    assert len(logged.about("monitor of 3095 not restored")) == 2


def test_hundreds_of_monitors_that_are_not_answered(bench):
    """Nobody waits for them all: commands go, the book is read, and what is still due follows."""
    bench.start()
    extensions = {str(3000 + number) for number in range(200)}
    for ext in extensions:
        outcome_of(Deferred.fromCoroutine(bench.link.monitors.start(ext)))
    bench.run(2)
    start = bench.network.habits[MonitorStart]
    bench.network.habits[MonitorStart] = None
    bench.network.entries = [person(n) for n in range(3)]
    bench.network.peer.end()
    bench.run(RESTORE_SECONDS + 2)
    peer = bench.network.peer
    assert bench.link.up
    assert bench.link.monitors.missing == extensions
    assert len(bench.link.address_book.entries) == 3
    answer = outcome_of(bench.link.request(GetServiceList()))
    bench.run(1)
    assert len(answer) == 1
    assert not isinstance(answer[0], Exception)
    # Each has its turn before any of them has a second one.
    rounds = 0
    while len(asked := [command.device for command in peer.commands(MonitorStart)]) < 200:
        rounds += 1
        assert rounds <= 200 / COME_BACK_AT_ONCE
        bench.run(TIMEOUT)
    assert set(asked) == extensions
    bench.network.habits[MonitorStart] = start
    bench.run(TIMEOUT + MAX_MISSING_SECONDS + 5)
    assert bench.link.monitors.missing == frozenset()
    assert bench.network.peer is peer
    assert bench.ears.told == ["up", "down", "up"]


def test_connection_lost_behind_the_wait_for_monitors(bench, logged):
    """A connection that ends while monitors are still due is replaced, and nobody is alarmed."""
    bench.start()
    for number in range(40):
        bench.monitor(str(3000 + number))
    start = bench.network.habits[MonitorStart]
    bench.network.habits[MonitorStart] = None
    bench.network.peer.end()
    bench.run(RESTORE_SECONDS + 2)
    assert bench.link.up
    bench.network.habits[MonitorStart] = start
    bench.network.peer.end()
    bench.run(5)
    assert bench.link.up
    assert bench.link.monitors.missing == frozenset()
    assert not logged.about("by a bug")


def test_connection_lost_while_monitors_are_restored(bench):
    """A connection that ends in the middle of the restoring is a lost one, and soon replaced."""
    bench.start()
    for number in range(40):
        bench.monitor(str(3000 + number))
    start = bench.network.habits[MonitorStart]
    bench.network.habits[MonitorStart] = _close
    bench.network.peer.end()
    bench.run(MINUTE)
    assert not bench.link.up
    assert len(bench.network.dialled) > 5
    bench.network.habits[MonitorStart] = start
    bench.run(10)
    assert bench.link.up
    assert len(bench.network.peer.monitors) == 40


def test_start_while_the_link_is_down(bench):
    """A login while the MX is away fails at once, and is not made good later by itself."""
    bench.network.mode = "refuse"
    bench.start()
    (error,) = outcome_of(Deferred.fromCoroutine(bench.link.monitors.start("3095")))
    assert isinstance(error, MXUnavailable)
    bench.network.mode = "accept"
    bench.run(10)
    assert bench.network.peer.commands(MonitorStart) == []


# --- Address book ---------------------------------------------------------------------------------


def test_address_book_follows_events(bench):
    """Changes and presence reach the book while the link is up."""
    bench.start()
    bench.network.peer.event(AddressBookAdded(entry=person(99)))
    bench.network.peer.event(Presence(jid=person(99).jid, status="Away"))
    bench.run(1)
    assert bench.link.address_book.entries[person(99).jid].presence == "Away"


def test_address_book_is_read_again(bench):
    """After a reconnect the book is read anew: what changed meanwhile is in it."""
    bench.start()
    bench.network.peer.end()
    bench.network.entries = [person(5)]
    bench.run(10)
    assert set(bench.link.address_book.entries) == {person(5).jid}


@pytest.mark.parametrize(
    "habit", [None, lambda peer, received: peer.event(CSTAError(text="URM Denied"))]
)
def test_address_book_that_fails_is_tried_again(bench, habit):
    """A book that is refused or unanswered leaves the link up, and is tried again every 30 s."""
    give = bench.network.habits[GetAddressBook]
    bench.network.habits[GetAddressBook] = habit
    bench.start(5 * MINUTE)
    assert bench.link.up
    assert len(bench.network.dialled) == 1
    assert not bench.link.address_book.loaded
    asked = len(bench.network.peer.commands(GetAddressBook))
    assert 7 <= asked <= 11
    bench.network.habits[GetAddressBook] = give
    bench.run(RETRY_SECONDS + TIMEOUT + 1)
    assert bench.link.address_book.loaded


@pytest.mark.parametrize(
    "habit", [None, lambda peer, received: peer.reply(received.invoke_id, CSTAError(text="no"))]
)
def test_address_book_changes_are_not_to_be_had(bench, logged, habit):
    """An MX that refuses or ignores `MonitorStartAb` costs the news of the book, not the calls."""
    bench.network.habits[MonitorStartAddressBook] = habit
    bench.start(TIMEOUT + 2)
    assert bench.link.up
    assert len(bench.network.dialled) == 1
    assert bench.link.address_book.loaded
    assert logged.about("no address book changes")


# --- Events ---------------------------------------------------------------------------------------


def test_unknown_events_are_logged_once(bench, logged):
    """An unknown event is logged once, on whatever connection; a flood of names is bounded."""
    bench.start()
    for _ in range(3):
        bench.network.peer.event(UnknownEvent(name="SomethingNewEvent"))
    bench.run(1)
    bench.network.peer.end()
    bench.run(10)
    bench.network.peer.event(UnknownEvent(name="SomethingNewEvent"))
    bench.run(1)
    assert len(logged.about("SomethingNewEvent")) == 1
    for number in range(300):
        bench.network.peer.event(UnknownEvent(name=f"Event{number}"))
    bench.run(1)
    assert len(logged.about("is not known here")) == 100


def test_error_without_a_command(bench, logged):
    """An error that belongs to no command is logged, and nothing else happens."""
    bench.start()
    bench.network.peer.event(CSTAError(text="URM Denied"))
    bench.run(1)
    assert logged.about("URM Denied")
    assert bench.link.up


def test_passwords_stay_out_of_the_log(bench, logged):
    """Neither form of the server account's password is in any line."""
    bench.start()
    bench.stop()
    assert not logged.about("secret")
    assert not logged.about(hash_password("secret").strip())


# --- Stopping -------------------------------------------------------------------------------------


def test_stop_takes_leave(bench, logged):
    """An orderly end stops the monitors, logs out and closes; nobody is alarmed."""
    bench.start()
    bench.monitor("3095")
    bench.monitor("3044")
    peer = bench.network.peer
    bench.stop()
    names = [type(each.command) for each in peer.received]
    assert names[-3:] == [MonitorStop, MonitorStop, Logout]
    assert not peer.transport.aborted
    assert bench.ears.told == ["up", "down"]
    assert not logged.about("server connection down")


def test_stop_while_monitors_are_restored(bench):
    """The MX is told of the end as well when its monitors do not all run yet."""
    bench.start()
    bench.monitor("3095")
    bench.network.habits[MonitorStart] = None
    bench.network.peer.end()
    bench.run(2)
    assert bench.link.state is LinkState.RESTORING
    peer = bench.network.peer
    bench.stop()
    assert isinstance(peer.received[-1].command, Logout)
    assert not peer.transport.aborted


def test_stop_with_a_deaf_mx(bench):
    """An MX that answers nothing any more delays the end by seconds only; the socket is cut."""
    bench.start()
    bench.monitor("3095")
    bench.network.peer.deaf = True
    bench.stop()
    assert bench.network.peer.transport.aborted


@pytest.mark.parametrize("after", [n * LATENCY / 2 for n in range(26)])
@pytest.mark.parametrize("monitors", [0, 3])
def test_stop_at_any_moment_of_the_start(bench, after, monitors):
    """Whatever step the link is at, a stop ends it in bounded time and leaves nothing."""
    if monitors:
        bench.start()
        for number in range(monitors):
            bench.monitor(str(3000 + number))
        bench.network.peer.end()
        bench.clock.advance(LATENCY)
        while bench.link.state is LinkState.WAITING:
            bench.clock.advance(LATENCY / 2)
    else:
        bench.link.startService()
    run(bench.clock, after, step=LATENCY / 2)
    bench.stop()


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("after", [0.0, 0.02, 0.045, 0.3, 5.0])
def test_stop_in_any_trouble(bench, trouble, after):
    """The same while the MX makes trouble."""
    TROUBLES[trouble](bench)
    bench.link.startService()
    run(bench.clock, after, step=0.005)
    bench.stop()


def test_stop_before_start(bench):
    """A link that was never started stops at once."""
    assert outcome_of(bench.link.stopService()) == [None]


def test_start_again(bench):
    """A stopped link can be started again."""
    bench.start()
    bench.stop()
    bench.start()
    assert bench.link.up
    assert bench.ears.told == ["up", "down", "up"]


def test_connection_lost_during_the_leave(bench, logged):
    """An MX that ends the connection while the link takes its leave is no trouble any more."""
    bench.start()
    bench.monitor("3095")
    bench.network.habits[MonitorStop] = _close
    dialled = len(bench.network.dialled)
    bench.stop()
    assert len(bench.network.dialled) == dialled
    assert not logged.about("server connection down")


def test_many_monitors_stop(bench):
    """Hundreds of monitors are stopped side by side, within the same bound."""
    bench.start()
    for number in range(300):
        outcome_of(Deferred.fromCoroutine(bench.link.monitors.start(str(3000 + number))))
    bench.run(2)
    assert len(bench.network.peer.monitors) == 300
    bench.stop()
    assert len(bench.network.peer.commands(MonitorStop)) == 300


def test_cancelled_login_of_a_person_during_the_stop(bench):
    """A monitor that is being started when the link stops fails, and is not started later."""
    bench.start()
    bench.network.habits[MonitorStart] = None
    outcome = outcome_of(Deferred.fromCoroutine(bench.link.monitors.start("3095")))
    bench.stop()
    assert isinstance(outcome[0], MXUnavailable)
    assert bench.link.monitors.wanted == frozenset()


def test_refused_monitor_reaches_the_caller(bench):
    """A monitor that the MX refuses to start is refused to who asked, with the MX's words."""
    bench.start()
    bench.network.habits[MonitorStart] = lambda peer, received: peer.reply(
        received.invoke_id, CSTAError(text="invalidDeviceID", category="operation")
    )
    outcome = outcome_of(Deferred.fromCoroutine(bench.link.monitors.start("9999")))
    bench.run(1)
    assert isinstance(outcome[0], CommandRefused)
    assert bench.link.up


def test_early_events_over_the_link(bench):
    """Events in front of the answer of `MonitorStart` reach the listeners behind it, in order."""
    bench.start()

    def early(peer, received):
        peer.event(ringing("1", 1))
        peer.event(ringing("1", 2))
        peer.reply(received.invoke_id, MonitorStartResponse(monitor="1"))
        peer.event(ringing("1", 3))

    bench.network.habits[MonitorStart] = early
    bench.monitor("3095")
    assert bench.ears.calls == [("3095", 1), ("3095", 2), ("3095", 3)]


class TestFigures:
    """What the link counts."""

    def test_comings(self):
        """Every try counts, and every time that the link came up."""
        bench = Bench()
        bench.network.mode = "refuse"
        bench.start(1)
        tries = len(bench.network.dialled)
        assert tries > 1
        assert (bench.link.attempts, bench.link.connects) == (tries, 0)
        bench.network.mode = "accept"
        bench.run(10)
        bench.network.peer.end()
        bench.run(10)
        assert bench.link.connects == 2
        assert bench.link.attempts == len(bench.network.dialled)

    def test_events_by_name(self):
        """Events count by the names that are known here; a stranger's names cannot fill memory."""
        bench = Bench().start()
        before = dict(bench.link.events)
        for number in range(300):
            bench.network.peer.event(UnknownEvent(name=f"Odd{number}"))
        bench.network.peer.event(Presence())
        bench.run(1)
        after = dict(bench.link.events)
        assert after.pop("other") == 300
        assert after.pop(Presence.wire_name) == before.get(Presence.wire_name, 0) + 1
        assert after.keys() <= before.keys()
