"""A bounded number of places, and a queue for them."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

from mxflex.errors import MXBusy


class Places:
    """Lets so many in at once, the others in their order: `async with places: ...`.

    Twisted's `DeferredSemaphore` hands a place on from within `release`. Where each of those who
    wait fails at once, as after a lost connection, that goes one call deeper with each of them, and
    ends in a RecursionError and a place that is lost for good. Here they follow one another in a
    loop.

    Args:
        capacity: How many places there are.
        max_waiting: How many may wait; None for any number.
    """

    def __init__(self, capacity: int, max_waiting: int | None = None) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._waiting: deque[Deferred[None]] = deque()
        self._handing_on = False
        self.taken = 0

    def resize(self, capacity: int, max_waiting: int | None) -> None:
        """Set other numbers of places; nobody who is in, or waits already, has to leave."""
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._hand_on()

    @property
    def unused(self) -> bool:
        """Whether nobody is in, and nobody waits."""
        return not self.taken and not self._waiting

    async def __aenter__(self) -> None:
        """Wait for a place.

        Raises:
            MXBusy: As many wait already as may.
        """
        # Whoever waits already comes first, even if a place has become free in this moment.
        if self.taken < self._capacity and not self._waiting:
            self.taken += 1
            return
        if self._max_waiting is not None and len(self._waiting) >= self._max_waiting:
            raise MXBusy("too many logins at once")
        turn: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        await turn

    async def __aexit__(self, *_error: object) -> None:
        """Give the place to the next one."""
        self.taken -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        if self._handing_on:
            return
        self._handing_on = True
        try:
            while self._waiting and self.taken < self._capacity:
                self.taken += 1
                self._waiting.popleft().callback(None)
        finally:
            self._handing_on = False
