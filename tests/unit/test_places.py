"""Places are handed on in order, none is lost, and no crowd is too deep for the stack."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from mxflex.errors import MXBusy
from mxflex.mx.places import Places

# More than a stack is deep.
CROWD = 5_000


class Guest:
    """Somebody who wants a place, and stays in it until told to leave."""

    def __init__(self, places, name, log):
        self.leave = Deferred()
        self._places, self._name, self._log = places, name, log
        self.done = Deferred.fromCoroutine(self._visit())
        self.error = None
        self.done.addErrback(self._failed)

    async def _visit(self):
        async with self._places:
            self._log.append(self._name)
            await self.leave

    def _failed(self, failure):
        self.error = failure.value


def test_in_order():
    """So many are in as there are places; the next one in order follows who leaves."""
    places, log = Places(2), []
    guests = [Guest(places, n, log) for n in range(4)]
    assert log == [0, 1]
    guests[1].leave.callback(None)
    assert log == [0, 1, 2]
    guests[0].leave.callback(None)
    assert log == [0, 1, 2, 3]
    for guest in guests[2:]:
        guest.leave.callback(None)
    assert places.unused


def test_a_crowd_that_fails_at_once():
    """Thousands whose turn ends as it begins cost no stack and no place."""
    places, log = Places(3), []
    guests = [Guest(places, n, log) for n in range(CROWD)]
    for guest in guests[3:]:
        guest.leave.errback(ValueError("no"))
    for guest in guests[:3]:
        guest.leave.callback(None)
    assert log == list(range(CROWD))
    assert all(isinstance(guest.error, ValueError) for guest in guests[3:])
    assert places.unused


def test_a_full_queue():
    """When as many wait as may, the next one is told so at once."""
    places, log = Places(1, max_waiting=2), []
    guests = [Guest(places, n, log) for n in range(4)]
    assert isinstance(guests[3].error, MXBusy)
    for guest in guests[:3]:
        guest.leave.callback(None)
    assert log == [0, 1, 2]
    assert places.unused


def test_other_numbers():
    """More places let in who waits, in order; fewer put nobody out, and bound who comes next."""
    places, log = Places(1, max_waiting=9), []
    guests = [Guest(places, n, log) for n in range(5)]
    places.resize(3, 2)
    assert log == [0, 1, 2]
    assert isinstance(Guest(places, 5, log).error, MXBusy)
    places.resize(1, None)
    for guest in guests[:2]:
        guest.leave.callback(None)
    assert log == [0, 1, 2]
    guests[2].leave.callback(None)
    assert log == [0, 1, 2, 3]
    guests[3].leave.callback(None)
    guests[4].leave.callback(None)
    assert places.unused


def test_no_waiting_at_all():
    """With a queue of none, a free place is still given."""
    places, log = Places(1, max_waiting=0), []
    first = Guest(places, 1, log)
    assert isinstance(Guest(places, 2, log).error, MXBusy)
    first.leave.callback(None)
    assert Guest(places, 3, log).error is None


@given(st.lists(st.tuples(st.sampled_from(["come", "leave", "fail", "cancel"]), st.integers(0, 9))))
def test_nothing_is_lost(steps):
    """Whatever guests do, never more are in than places, and never is one free while any waits."""
    places, log, guests = Places(2), [], []
    for step, number in steps:
        here = [guest for guest in guests if not guest.done.called]
        if step == "come":
            guests.append(Guest(places, len(guests), log))
        elif here:
            guest = here[number % len(here)]
            if step == "cancel":
                guest.done.cancel()
            elif not guest.leave.called:
                end = guest.leave.callback if step == "leave" else guest.leave.errback
                end(None if step == "leave" else ValueError())
        waiting = len(places._waiting)
        assert 0 <= places.taken <= 2
        assert not waiting or places.taken == 2
    for guest in guests:
        if not guest.done.called:
            guest.done.cancel()
        assert guest.error is None or isinstance(guest.error, (CancelledError, ValueError))
    assert places.unused
