"""The throttle: how often a login may fail, for a name and for an address."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxflex.errors import TooManyRequests
from mxflex.gateway import throttle as module
from mxflex.gateway.throttle import Throttle

NOW = 1_505_411_996.0
FAILURES = 3
WINDOW = 300.0


@pytest.fixture
def throttle():
    return Throttle(FAILURES, WINDOW)


def wait(throttle, login, address, now=NOW):
    """Give the seconds that a login has to wait; 0 when it may try."""
    try:
        throttle.check(login, address, now)
    except TooManyRequests as refusal:
        return refusal.retry_after
    return 0


def fail(throttle, login="anna", address="192.0.2.1", times=1, now=NOW):
    for _ in range(times):
        throttle.failed(login, address, now)


class TestWindow:
    """How many failures, and for how long they count."""

    @pytest.mark.parametrize(("failures", "refused"), [(0, False), (2, False), (3, True)])
    def test_limit(self, throttle, failures, refused):
        """Below the limit a login may try; at the limit it may not."""
        fail(throttle, times=failures)
        assert bool(wait(throttle, "anna", "192.0.2.1")) is refused

    def test_a_limit_of_one(self):
        """The smallest limit: one failure closes the door."""
        throttle = Throttle(1, WINDOW)
        assert wait(throttle, "anna", "192.0.2.1") == 0
        fail(throttle)
        assert wait(throttle, "anna", "192.0.2.1") == WINDOW

    @pytest.mark.parametrize(
        ("later", "expected"), [(0, 300), (1, 299), (299.5, 0.5), (300, 0), (301, 0)]
    )
    def test_the_window_ends(self, throttle, later, expected):
        """The refusal says how long it lasts, and the door opens at the window's very end."""
        fail(throttle, times=3)
        assert wait(throttle, "anna", "192.0.2.1", NOW + later) == expected

    def test_the_oldest_of_the_last_failures_counts(self, throttle):
        """The door opens when the first of the counted failures leaves the window."""
        for seconds in (0, 100, 200):
            fail(throttle, now=NOW + seconds)
        assert wait(throttle, "anna", "192.0.2.1", NOW + 250) == 50
        assert wait(throttle, "anna", "192.0.2.1", NOW + 300) == 0
        fail(throttle, now=NOW + 300)
        assert wait(throttle, "anna", "192.0.2.1", NOW + 300) == 100

    def test_failures_beyond_the_limit_prolong(self, throttle):
        """Logins that were under way when the door closed count as well."""
        fail(throttle, times=3)
        fail(throttle, times=3, now=NOW + 60)
        assert wait(throttle, "anna", "192.0.2.1", NOW + 60) == WINDOW

    def test_checking_counts_nothing(self, throttle):
        """Only failures count: to ask and be refused does not prolong the refusal."""
        fail(throttle, times=3)
        for seconds in range(0, 300, 10):
            assert wait(throttle, "anna", "192.0.2.1", NOW + seconds) == 300 - seconds
        assert wait(throttle, "anna", "192.0.2.1", NOW + 300) == 0

    def test_name_and_address_count_apart(self, throttle):
        """A closed name is closed from everywhere, a closed address for every name."""
        fail(throttle, times=3)
        assert wait(throttle, "anna", "192.0.2.2") == WINDOW
        assert wait(throttle, "boris", "192.0.2.1") == WINDOW
        assert wait(throttle, "boris", "192.0.2.2") == 0

    def test_the_longer_wait_is_told(self, throttle):
        """Where both are closed, the wait is the one after which it is worth trying."""
        for address in ("192.0.2.7", "192.0.2.8", "192.0.2.9"):
            fail(throttle, "anna", address)
        for login in ("x", "y", "z"):
            fail(throttle, login, "192.0.2.1", now=NOW + 100)
        assert wait(throttle, "anna", "192.0.2.1", NOW + 100) == WINDOW

    def test_a_name_is_no_address(self, throttle):
        """Somebody whose name is written like an address does not count as that address."""
        fail(throttle, "192.0.2.9", "192.0.2.1", times=3)
        assert wait(throttle, "anna", "192.0.2.9") == 0


class TestSuccess:
    """What a good login forgives."""

    def test_the_name_is_forgiven(self, throttle):
        """After a good login the name may fail as often as if it never had."""
        for address in ("192.0.2.2", "192.0.2.3"):
            fail(throttle, "anna", address)
        throttle.succeeded("Anna")
        fail(throttle, "anna", "192.0.2.4", times=2)
        assert wait(throttle, "anna", "192.0.2.5") == 0

    def test_the_address_is_not(self, throttle):
        """A good login of one's own does not let an attacker go on guessing other people's."""
        fail(throttle, "boris", times=2)
        throttle.succeeded("anna")
        fail(throttle, "boris")
        assert wait(throttle, "anna", "192.0.2.1") == WINDOW

    def test_of_somebody_unknown(self, throttle):
        """A good login without failures before it changes nothing."""
        throttle.succeeded("anna")
        assert wait(throttle, "anna", "192.0.2.1") == 0


class TestSpelling:
    """Different spellings of one name, and of one attacker."""

    @pytest.mark.parametrize(
        ("one", "other"), [("anna", "ANNA"), ("Straße", "STRASSE"), ("Щил", "щИЛ")]
    )
    def test_names_are_folded(self, throttle, one, other):
        """Upper and lower case are one name, in every script."""
        for number in range(3):
            fail(throttle, one if number % 2 else other, f"192.0.2.{number}")
        assert wait(throttle, one, "192.0.2.9") == wait(throttle, other, "192.0.2.9") == WINDOW

    def test_names_that_cannot_be_encoded(self, throttle):
        """A name that is not valid Unicode is counted as any other."""
        fail(throttle, "\ud800", times=3)
        assert wait(throttle, "\ud800", "192.0.2.9") == WINDOW

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
            ("2001:db8:1:2::1", "2001:0DB8:0001:0002:0:0:0:0", True),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
            ("fe80::1%eth0", "fe80::2%eth1", True),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("::ffff:192.0.2.1", "::ffff:c000:201", True),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
            ("192.0.2.1", "192.0.2.2", False),
            ("::1", "127.0.0.1", False),
            ("a socket", "a socket", True),
            ("a socket", "another", False),
            ("", "192.0.2.1", False),
        ],
    )
    def test_addresses(self, throttle, one, other, same):
        """One attacker is a /64 of IPv6 or one address of IPv4, also as IPv6 writes that."""
        for name in ("x", "y", "z"):
            fail(throttle, name, one)
        assert bool(wait(throttle, "anna", other)) is same


class TestClock:
    """The clock of a machine is stepped now and then."""

    @pytest.mark.parametrize("step", [1.0, 3600.0, 86_400.0 * 365])
    def test_a_step_back_does_not_close_the_door_for_longer(self, throttle, step):
        """However far the clock was ahead, nobody waits longer than the window."""
        fail(throttle, times=3)
        assert wait(throttle, "anna", "192.0.2.1", NOW - step) == WINDOW
        assert wait(throttle, "anna", "192.0.2.1", NOW - step + WINDOW - 1) == 1
        assert wait(throttle, "anna", "192.0.2.1", NOW - step + WINDOW) == 0

    def test_a_step_back_does_not_open_it_either(self, throttle):
        """Failures from before and after a step back count together."""
        fail(throttle, times=2)
        fail(throttle, now=NOW - 1000)
        assert wait(throttle, "anna", "192.0.2.1", NOW - 1000) == WINDOW

    def test_a_step_ahead_forgives(self, throttle):
        """A step ahead ends the window early, and harms nobody."""
        fail(throttle, times=3)
        assert wait(throttle, "anna", "192.0.2.1", NOW + 10**9) == 0


class TestMemory:
    """What an attacker can make it remember."""

    def test_names_and_addresses_are_bounded(self, throttle, monkeypatch):
        """Beyond the bound the one that failed longest ago goes; those within stay."""
        monkeypatch.setattr(module, "MAX_KEYS", 20)
        for number in range(10):
            fail(throttle, f"name{number}", f"192.0.2.{number}", times=3, now=NOW + number)
        assert len(throttle._failures) == 20
        assert all(wait(throttle, f"name{n}", "198.51.100.1", NOW + 9) for n in range(10))
        fail(throttle, "name10", "192.0.2.10", now=NOW + 10)
        assert len(throttle._failures) == 20
        assert wait(throttle, "name0", "198.51.100.1", NOW + 10) == 0
        assert wait(throttle, "anna", "192.0.2.0", NOW + 10) == 0
        assert wait(throttle, "name1", "198.51.100.1", NOW + 10) == WINDOW - 9

    def test_a_fresh_failure_keeps_a_key(self, throttle, monkeypatch):
        """Who goes first is decided by the latest failure, not by the first one."""
        monkeypatch.setattr(module, "MAX_KEYS", 4)
        fail(throttle, "anna", "192.0.2.1", times=3)
        fail(throttle, "boris", "192.0.2.2", times=3, now=NOW + 1)
        fail(throttle, "anna", "192.0.2.1", now=NOW + 2)
        fail(throttle, "clara", "192.0.2.3", now=NOW + 3)
        assert wait(throttle, "anna", "198.51.100.1", NOW + 3)
        assert not wait(throttle, "boris", "198.51.100.1", NOW + 3)

    def test_what_has_left_the_window_is_forgotten(self, throttle):
        """When the attack is over, nothing of it stays in memory beyond its window."""
        for number in range(100):
            fail(throttle, f"name{number}", f"2001:db8:0:{number:x}::1")
        assert len(throttle._failures) == 200
        fail(throttle, now=NOW + WINDOW)
        assert len(throttle._failures) == 2

    def test_names_cost_the_same_however_long(self, throttle):
        """A name of 4096 wide characters takes no more room than a short one."""
        fail(throttle, "\N{GRINNING FACE}" * 4096, "192.0.2.1")
        size = sum(sys.getsizeof(part) for key in throttle._failures for part in (key, *key))
        assert size < 1000

    def test_failures_of_one_key_are_bounded(self, throttle):
        """However often one fails, no more times are kept than the limit needs."""
        fail(throttle, times=1000)
        assert max(len(times) for times in throttle._failures.values()) == FAILURES


NAMES = ("anna", "Anna", "boris", "192.0.2.1")
ADDRESSES = ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1")
SAME = {"Anna": "anna", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::ffff": "2001:db8::1"}


class Attack(RuleBasedStateMachine):
    """Logins fail and succeed in any order; the model keeps every failure there ever was."""

    def __init__(self):
        super().__init__()
        self.now = NOW
        self.throttle = Throttle(FAILURES, WINDOW)
        self.names: dict[str, list[float]] = {}
        self.addresses: dict[str, list[float]] = {}

    @staticmethod
    def _expected(times, now):
        """The wait after these failures: until fewer than the limit are in the window."""
        if len(times) < FAILURES:
            return 0
        return max(0, times[-FAILURES] + WINDOW - now)

    @rule(seconds=st.integers(0, 150))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(name=st.sampled_from(NAMES), address=st.sampled_from(ADDRESSES))
    def fails(self, name, address):
        self.throttle.failed(name, address, self.now)
        self.names.setdefault(SAME.get(name, name), []).append(self.now)
        self.addresses.setdefault(SAME.get(address, address), []).append(self.now)

    @precondition(lambda self: self.names)
    @rule(name=st.sampled_from(NAMES))
    def succeeds(self, name):
        self.throttle.succeeded(name)
        self.names.pop(SAME.get(name, name), None)

    @invariant()
    def waits_are_those_of_the_model(self):
        for name in NAMES:
            for address in ADDRESSES:
                expected = max(
                    self._expected(self.names.get(SAME.get(name, name), []), self.now),
                    self._expected(self.addresses.get(SAME.get(address, address), []), self.now),
                )
                assert wait(self.throttle, name, address, self.now) == expected


TestAttack = Attack.TestCase


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.text(max_size=3), st.text(max_size=12)), max_size=30
    )
)
def test_no_order_of_times_breaks_it(failures):
    """With a clock that jumps anywhere nothing raises, and nobody waits beyond the window."""
    throttle = Throttle(FAILURES, WINDOW)
    for step, login, address in failures:
        now = NOW + step
        assert wait(throttle, login, address, now) <= WINDOW + 0.001
        throttle.failed(login, address, now)
