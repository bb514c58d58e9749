"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs


@attrs.define(eq=False)
class Backoff:
    """Waits that double from try to try up to a cap, each moved by chance.

    The chance keeps many clients of a server that comes back from arriving together.

    Args:
        first: The first wait, in seconds.
        cap: The longest wait, in seconds.
        chance: Gives a number from 0 to 1.
    """

    first: float
    cap: float
    chance: Callable[[], float] = random.random
    _tries: int = attrs.field(init=False, default=0)

    def next(self) -> float:
        """Give the seconds to wait now: between three quarters and all of the wait in turn."""
        # Beyond this many doublings only the cap counts, and the power would overflow.
        wait = min(self.cap, self.first * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return wait * (0.75 + 0.25 * self.chance())

    def reset(self) -> None:
        """Begin anew after a success."""
        self._tries = 0
