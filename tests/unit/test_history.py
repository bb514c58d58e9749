"""The history of one extension: its ids, its bound, and what it says to one who comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.gateway.history import History, Ids, Missing, StreamEvent, replay

NOW = 1_505_411_996.0
FIRST = 1_505_411_996_000_000
SECOND = 1_000_000
# The largest whole number that JavaScript holds exactly.
MAX_SAFE_INTEGER = 2**53 - 1

steps = st.lists(st.floats(-10, 10) | st.just(0.0), max_size=40)


def keep(history, event_id):
    """Give the history one event with this id."""
    event = StreamEvent(event_id, b"event %d" % event_id)
    history.append(event)
    return event


def grown(size, count):
    """Give a history that has seen so many events, one in each second, and all of them."""
    history = History(size, FIRST)
    return history, [keep(history, FIRST + number * SECOND) for number in range(1, count + 1)]


def after(event_id, *histories):
    """Give the events that come after an id, or why something is lost."""
    answer = replay(histories, event_id)
    return answer.missing or answer.events


class TestIds:
    """The ids of events."""

    def test_are_microseconds(self):
        """An id is the time of its event in microseconds, which every client can hold exactly."""
        ids = Ids()
        assert ids.next(NOW) == FIRST
        assert ids.next(NOW + 0.25) == FIRST + 250_000
        assert ids.next(4_000_000_000) < MAX_SAFE_INTEGER

    def test_grow_while_the_clock_stands(self):
        """Events of one moment have ids in their order."""
        ids = Ids()
        assert [ids.next(NOW) - FIRST for _ in range(6)] == [0, 1, 2, 3, 4, 5]

    def test_grow_while_the_clock_steps_back(self):
        """An event from before the last one by the clock comes after it by its id."""
        ids = Ids()
        last = ids.next(NOW + 10)
        assert ids.next(NOW - 3600) == last + 1
        assert ids.next(NOW + 20) == FIRST + 20 * SECOND

    @given(steps)
    def test_always_grow(self, moves):
        """Whatever the clock does, each id is greater than the one before."""
        ids, now = Ids(), NOW
        given = []
        for move in moves:
            now += move
            given.append(ids.next(now))
        assert given == sorted(set(given))

    def test_grow_over_a_restart(self):
        """Ids that begin later are beyond those of the process before."""
        before = Ids()
        last = max(before.next(NOW + number) for number in range(10))
        assert Ids().next(NOW + 9.000001) > last


class TestBound:
    """How much is kept."""

    @pytest.mark.parametrize("size", [1, 2, 5])
    @pytest.mark.parametrize("more", [-1, 0, 1, 7])
    def test_the_latest_are_kept(self, size, more):
        """At most so many events are kept, and they are the latest."""
        history, events = grown(size, size + more)
        kept = events[-size:] if events else []
        begin = events[more - 1].id if more > 0 else FIRST
        assert after(begin, history) == kept
        assert len(history._events) == len(history._ids) == min(size, size + more)

    def test_none_may_be_kept(self):
        """With a size of 0 nothing is kept, and one who missed nothing is told nothing."""
        history, events = grown(0, 3)
        assert len(history._events) == len(history._ids) == 0
        assert after(events[2].id, history) == []
        assert after(events[1].id, history) is Missing.EXPIRED
        assert after(FIRST, history) is Missing.EXPIRED
        assert after(FIRST, History(0, FIRST)) == []


class TestAfter:
    """What comes after an id."""

    def test_each_kept_id(self):
        """After each kept id come exactly the events behind it."""
        history, events = grown(5, 5)
        for position, event in enumerate(events):
            assert after(event.id, history) == events[position + 1 :]

    def test_the_beginning(self):
        """One who knows the id of the beginning gets everything, until something was dropped."""
        history, events = grown(5, 5)
        assert after(FIRST, history) == events
        keep(history, FIRST + 6 * SECOND)
        assert after(FIRST, history) is Missing.EXPIRED

    def test_the_last_dropped_id(self):
        """The event that was dropped last may itself be gone: everything after it is there."""
        history, events = grown(3, 7)
        assert after(events[3].id, history) == events[4:]
        assert after(events[2].id, history) is Missing.EXPIRED

    @pytest.mark.parametrize("unknown", [-1, 0, 1, FIRST - 1, 2**63, 10**30])
    def test_ids_of_nobody(self, unknown):
        """An id from before the beginning, or from the future, is not ours."""
        history, _ = grown(3, 7)
        assert after(unknown, history) is Missing.UNKNOWN
        assert after(unknown, History(3, FIRST)) is Missing.UNKNOWN

    def test_ids_between_two_events(self):
        """An id between two kept events belongs to another history, so it is not ours."""
        history, events = grown(3, 7)
        assert after(events[5].id + 1, history) is Missing.UNKNOWN
        assert after(events[6].id + 1, history) is Missing.UNKNOWN

    @given(st.integers(0, 6), st.integers(0, 15), st.data())
    def test_nothing_is_lost_untold(self, size, count, data):
        """For any id it gives all later events, or says that it cannot; never less than all."""
        history, events = grown(size, count)
        known = [FIRST, *(event.id for event in events)]
        asked = data.draw(st.sampled_from(known) | st.integers(FIRST - 5, FIRST + 16_000_000))
        later = [event for event in events if event.id > asked]
        answer = after(asked, history)
        if asked in known and len(later) <= size:
            assert answer == later
        else:
            assert isinstance(answer, Missing)


class TestSeveral:
    """Histories that one stream follows together."""

    def test_in_the_order_of_ids(self):
        """What comes after an id of one is there from all of them, in order."""
        one, two = History(4, FIRST), History(4, FIRST + 1)
        events = [keep((one, two)[number % 2], FIRST + 10 + number) for number in range(6)]
        for position, event in enumerate(events):
            assert after(event.id, one, two) == events[position + 1 :]
        assert after(FIRST + 1, one, two) == events

    def test_all_must_be_complete(self):
        """An id that one knows is no use where another has dropped what came after it."""
        one, two = History(4, FIRST), History(1, FIRST + 1)
        known = keep(one, FIRST + 5)
        keep(two, FIRST + 6)
        assert len(after(known.id, one, two)) == 1
        keep(two, FIRST + 7)
        answer = replay([one, two], known.id)
        assert answer.missing is Missing.EXPIRED
        assert [event.id for event in answer.events] == [FIRST + 7]
        assert after(answer.begin, one, two) == answer.events

    def test_one_that_began_later(self):
        """What one topic had before it was kept is lost for an id from before."""
        one, two = History(4, FIRST), History(4, FIRST + 10)
        known = keep(one, FIRST + 5)
        assert after(known.id, one) == []
        assert after(known.id, one, two) is Missing.UNKNOWN

    def test_a_gap_never_goes_back(self):
        """Whoever had an id of ours goes on from it or a later one, also where a gap is told."""
        one, two = History(4, FIRST), History(1, FIRST + 1)
        asked = keep(two, FIRST + 2)
        rest = [keep(one, FIRST + 3), keep(two, FIRST + 4), keep(two, FIRST + 5)]
        del rest[1]
        answer = replay([one, two], asked.id)
        assert answer.missing is Missing.EXPIRED
        assert (answer.begin, answer.events) == (asked.id, rest)

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=30), st.data())
    def test_nothing_is_lost_untold(self, steps, data):
        """Whatever the id, all later events of all come, or it is said that they cannot."""
        histories = [History(size, FIRST + number) for number, size in enumerate((0, 2, 5))]
        now, events = FIRST + 2, []
        for which, step in steps:
            now += step
            events.append(keep(histories[which], now))
        asked = data.draw(st.integers(FIRST - 2, now + 2))
        answer = replay(histories, asked)
        later = [event for event in events if event.id > asked]
        if answer.missing is None:
            assert answer.events == later
            assert asked in (FIRST + 2, *(each.id for each in events))
        else:
            assert set(answer.events) <= set(later)
            assert not answer.events or answer.begin < answer.events[0].id
            if asked in (FIRST, FIRST + 1, FIRST + 2, *(each.id for each in events)):
                assert answer.begin >= asked
