"""The latest events of one extension, so that a client that comes back misses none."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from enum import Enum

import attrs


@attrs.frozen
class StreamEvent:
    """An event as it goes to the streams.

    Attributes:
        id: Grows along an extension's events; microseconds since the epoch when it came, or one
            more than the id before. So ids go on growing over a restart, without a file.
        frame: The bytes of the event, written once for all streams.
    """

    id: int
    frame: bytes


class Missing(Enum):
    """Why a history cannot continue from an id."""

    UNKNOWN = "unknown-id"
    EXPIRED = "expired"


class History:
    """A bounded ring of events with their ids.

    Args:
        size: Events kept; 0 keeps none.
        now: The time, in seconds since the epoch.
        above: Where an earlier history of the extension may have ended; no id of it comes again,
            even if the clock was set back.
    """

    def __init__(self, size: int, now: float, above: int = 0) -> None:
        self._ids: deque[int] = deque(maxlen=size)
        self._events: deque[StreamEvent] = deque(maxlen=size)
        self._first_id = self._last_id = max(above + 1, int(now * 1_000_000))
        # The id from which on everything is kept: the start, or the last event that was dropped.
        self._complete_after = self._first_id

    @property
    def last_id(self) -> int:
        """The id of the latest event, or of the beginning when there was none."""
        return self._last_id

    def next_id(self, now: float) -> int:
        """Give the id that an event at that time shall carry."""
        return max(self._last_id + 1, int(now * 1_000_000))

    def append(self, event: StreamEvent) -> None:
        """Keep an event whose id is from `next_id`; the oldest one goes when the ring is full."""
        if len(self._events) == self._events.maxlen:
            self._complete_after = self._events[0].id if self._events else event.id
        self._events.append(event)
        self._ids.append(event.id)
        self._last_id = event.id

    def after(self, event_id: int) -> list[StreamEvent] | Missing:
        """Give all events after an id, or why that cannot be said."""
        if event_id == self._complete_after:
            return list(self._events)
        position = bisect_right(self._ids, event_id)
        if position and self._ids[position - 1] == event_id:
            return list(self._events)[position:]
        if self._first_id <= event_id < self._complete_after:
            return Missing.EXPIRED
        return Missing.UNKNOWN

    def newer(self, event_id: int) -> tuple[int, list[StreamEvent]]:
        """Give the kept events with greater ids, behind an id after which just these come."""
        position = bisect_right(self._ids, event_id)
        before = self._ids[position - 1] if position else self._complete_after
        return before, list(self._events)[position:]
