"""The history of one extension: its ids, its bound, and what it says to one who comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.gateway.history import History, Missing, StreamEvent

NOW = 1_505_411_996.0
FIRST = 1_505_411_996_000_000
# The largest whole number that JavaScript holds exactly.
MAX_SAFE_INTEGER = 2**53 - 1

steps = st.lists(st.floats(-10, 10) | st.just(0.0), max_size=40)


def keep(history, now):
    """Give the history one event that came at this time."""
    event = StreamEvent(history.next_id(now), b"event %f" % now)
    history.append(event)
    return event


def grown(size, count):
    """Give a history that has seen so many events, one in each second, and all of them."""
    history = History(size, NOW)
    return history, [keep(history, NOW + number) for number in range(1, count + 1)]


class TestIds:
    """The ids of events."""

    def test_are_microseconds(self):
        """An id is the time of its event in microseconds, which every client can hold exactly."""
        history = History(4, NOW)
        assert history.last_id == FIRST
        assert keep(history, NOW + 0.25).id == FIRST + 250_000
        assert history.last_id == FIRST + 250_000
        assert keep(history, 4_000_000_000).id < MAX_SAFE_INTEGER

    def test_grow_while_the_clock_stands(self):
        """Events of one moment have ids in their order."""
        history = History(4, NOW)
        assert [keep(history, NOW).id - FIRST for _ in range(6)] == [1, 2, 3, 4, 5, 6]

    def test_grow_while_the_clock_steps_back(self):
        """An event from before the last one by the clock comes after it by its id."""
        history = History(4, NOW)
        last = keep(history, NOW + 10)
        assert keep(history, NOW - 3600).id == last.id + 1
        assert keep(history, NOW + 20).id == FIRST + 20_000_000

    @given(steps)
    def test_always_grow(self, moves):
        """Whatever the clock does, each id is greater than the one before."""
        history, now = History(4, NOW), NOW
        ids = [history.last_id]
        for move in moves:
            now += move
            ids.append(keep(history, now).id)
        assert ids == sorted(set(ids))

    def test_grow_over_a_restart(self):
        """A history that begins later has ids beyond those of the one before."""
        _, events = grown(4, 10)
        assert History(4, NOW + 10.000001).last_id > events[-1].id

    @given(steps, st.floats(-100, 100))
    def test_grow_beyond_an_earlier_history(self, moves, restarted):
        """A history told where another ended has no id of that one, not even to begin with."""
        history, now = History(4, NOW), NOW
        for move in moves:
            now += move
            keep(history, now)
        later = History(4, now + restarted, above=history.last_id)
        begin = later.last_id
        assert begin > history.last_id
        assert keep(later, now + restarted).id > begin

    def test_asking_for_an_id_changes_nothing(self):
        """An id that was asked for and not used is given again."""
        history = History(4, NOW)
        assert history.next_id(NOW + 1) == history.next_id(NOW + 1)


class TestBound:
    """How much is kept."""

    @pytest.mark.parametrize("size", [1, 2, 5])
    @pytest.mark.parametrize("more", [-1, 0, 1, 7])
    def test_the_latest_are_kept(self, size, more):
        """At most so many events are kept, and they are the latest."""
        history, events = grown(size, size + more)
        kept = events[-size:] if events else []
        begin = events[more - 1].id if more > 0 else FIRST
        assert history.after(begin) == kept
        assert len(history._events) == len(history._ids) == min(size, size + more)

    def test_none_may_be_kept(self):
        """With a size of 0 nothing is kept, and one who missed nothing is told nothing."""
        history, events = grown(0, 3)
        assert len(history._events) == len(history._ids) == 0
        assert history.after(events[2].id) == []
        assert history.after(events[1].id) is Missing.EXPIRED
        assert history.after(FIRST) is Missing.EXPIRED
        assert History(0, NOW).after(FIRST) == []


class TestAfter:
    """What comes after an id."""

    def test_each_kept_id(self):
        """After each kept id come exactly the events behind it."""
        history, events = grown(5, 5)
        for position, event in enumerate(events):
            assert history.after(event.id) == events[position + 1 :]

    def test_the_beginning(self):
        """One who knows the id of the beginning gets everything, until something was dropped."""
        history, events = grown(5, 5)
        assert history.after(FIRST) == events
        keep(history, NOW + 6)
        assert history.after(FIRST) is Missing.EXPIRED

    def test_the_last_dropped_id(self):
        """The event that was dropped last may itself be gone: everything after it is there."""
        history, events = grown(3, 7)
        assert history.after(events[3].id) == events[4:]
        assert history.after(events[2].id) is Missing.EXPIRED

    @pytest.mark.parametrize("unknown", [-1, 0, 1, FIRST - 1, 2**63, 10**30])
    def test_ids_of_nobody(self, unknown):
        """An id from before the beginning, or from the future, is not ours."""
        history, _ = grown(3, 7)
        assert history.after(unknown) is Missing.UNKNOWN
        assert History(3, NOW).after(unknown) is Missing.UNKNOWN

    def test_ids_between_two_events(self):
        """An id between two kept events belongs to another history, so it is not ours."""
        history, events = grown(3, 7)
        assert history.after(events[5].id + 1) is Missing.UNKNOWN
        assert history.after(events[6].id + 1) is Missing.UNKNOWN

    @given(st.integers(0, 6), st.integers(0, 15), st.data())
    def test_nothing_is_lost_untold(self, size, count, data):
        """For any id it gives all later events, or says that it cannot; never less than all."""
        history, events = grown(size, count)
        known = [FIRST, *(event.id for event in events)]
        asked = data.draw(st.sampled_from(known) | st.integers(FIRST - 5, FIRST + 16_000_000))
        later = [event for event in events if event.id > asked]
        answer = history.after(asked)
        if asked in known and len(later) <= size:
            assert answer == later
        else:
            assert isinstance(answer, Missing)
