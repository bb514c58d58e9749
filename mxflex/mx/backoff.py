"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs


def pause_after(tries: int, first: float, cap: float, chance: float) -> float:
    """Give the seconds to wait: between three quarters and all of the wait in turn.

    Args:
        tries: How many waits there were before.
        first: See `Backoff`.
        cap: See `Backoff`.
        chance: A number from 0 to 1.
    """
    # Beyond this many doublings only the cap counts, and the power would overflow.
    wait = min(cap, first * 2.0 ** min(tries, 32))
    return wait * (0.75 + 0.25 * chance)


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
        """Give the seconds to wait now."""
        self._tries += 1
        return pause_after(self._tries - 1, self.first, self.cap, self.chance())

    def reset(self) -> None:
        """Begin anew after a success."""
        self._tries = 0
