"""The latest events of one extension or topic, so that a client that comes back misses none."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from enum import Enum

import attrs


@attrs.frozen
class StreamEvent:
    """An event as it goes to the streams.

    Attributes:
        id: Grows along all events of the daemon; see `Ids`.
        frame: The bytes of the event, written once for all streams.
    """

    id: int
    frame: bytes


class Missing(Enum):
    """Why histories cannot continue from an id."""

    UNKNOWN = "unknown-id"
    EXPIRED = "expired"


class Ids:
    """Gives the ids of events.

    An id is the time in microseconds since the epoch, or one more than the id before. So ids go on
    growing over a restart, without a file.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, now: float) -> int:
        """Give an id that is greater than all before, whatever the clock does.

        Args:
            now: The time, in seconds since the epoch.
        """
        self._last = max(self._last + 1, int(now * 1_000_000))
        return self._last


class History:
    """A bounded ring of events with their ids.

    Args:
        size: Events kept; 0 keeps none.
        first_id: The id of the beginning, before the first event.
    """

    def __init__(self, size: int, first_id: int) -> None:
        self._ids: deque[int] = deque(maxlen=size)
        self._events: deque[StreamEvent] = deque(maxlen=size)
        self.first_id = first_id
        # The latest id, or that of the beginning when there was no event.
        self.last_id = first_id
        # The id from which on everything is kept: the beginning, or the last event dropped.
        self.complete_after = first_id

    def append(self, event: StreamEvent) -> None:
        """Keep an event with a greater id than all before; a full ring drops its oldest."""
        if len(self._events) == self._events.maxlen:
            self.complete_after = self._events[0].id if self._events else event.id
        self._events.append(event)
        self._ids.append(event.id)
        self.last_id = event.id

    def resize(self, size: int) -> None:
        """Keep so many events from now on; if that is less, the oldest go."""
        dropped = len(self._events) - size
        if dropped > 0:
            self.complete_after = self._events[dropped - 1].id
        self._events = deque(self._events, maxlen=size)
        self._ids = deque(self._ids, maxlen=size)

    def knows(self, event_id: int) -> bool:
        """Tell whether an id is that of an event here, or the one before all that are kept."""
        position = bisect_left(self._ids, event_id)
        kept = position < len(self._ids) and self._ids[position] == event_id
        return kept or event_id == self.complete_after

    def newer(self, event_id: int) -> list[StreamEvent]:
        """Give the kept events with greater ids."""
        return list(self._events)[bisect_right(self._ids, event_id) :]

    def before(self, event_id: int) -> int:
        """Give the greatest known id below one, or 0."""
        position = bisect_left(self._ids, event_id)
        if position:
            return self._ids[position - 1]
        return self.complete_after if self.complete_after < event_id else 0


@attrs.frozen
class Replay:
    """What somebody gets who comes back with an id.

    Attributes:
        missing: Why something is lost; None when nothing is.
        begin: An id behind which just the events come; the gap carries it, so that a client that
            is cut off after it is not told of the gap again.
        events: The kept events with greater ids, in order.
    """

    missing: Missing | None
    begin: int
    events: list[StreamEvent]


def replay(histories: Sequence[History], event_id: int) -> Replay:
    """Give what comes after an id in several histories together.

    Ids grow over all of them, so one id names a place in each.

    Args:
        histories: One or more.
        event_id: The last id that is known to whoever asks; negative if it is none of ours.
    """
    known = any(history.knows(event_id) for history in histories)
    complete = all(history.complete_after <= event_id for history in histories)
    events: list[StreamEvent] = []
    if event_id >= 0:
        events = [event for history in histories for event in history.newer(event_id)]
        if len(histories) > 1:
            events.sort(key=lambda event: event.id)
    if known and complete:
        return Replay(None, event_id, events)
    had = any(each.first_id <= event_id < each.complete_after for each in histories)
    # Something is lost; what is still there is not kept back for that.
    if events:
        begin = max(history.before(events[0].id) for history in histories)
    else:
        begin = max(history.last_id for history in histories)
    if known or had:
        # It was ours: nobody shall go on from an earlier place.
        begin = max(begin, event_id)
    return Replay(Missing.EXPIRED if had else Missing.UNKNOWN, begin, events)
