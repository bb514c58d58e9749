"""Which events the MX has certainly handed over to a server, and which not.

An event is handed over when it was written to a connection that lives, has the monitor of its
extension, and is not cut within the next second: what is on its way when a connection is reset may
be gone. Where a connection ends in order, all that was written before must arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import attrs

# What was written so many seconds before a connection was cut may be lost.
UNDER_WAY = 1.0


@attrs.define(eq=False)
class Handover:
    """The events of one server, numbered for each extension."""

    _uncertain: dict[str, set[int]] = attrs.field(factory=dict)
    _recent: deque[tuple[float, str, int]] = attrs.field(factory=deque)

    def sent(self, ext: str, number: int, now: float, *, covered: bool) -> None:
        """Take note of an event.

        Args:
            ext: Its extension.
            number: Its number.
            now: When it was written, in seconds.
            covered: Whether there was a living connection with a monitor to write it to.
        """
        while self._recent and self._recent[0][0] < now - UNDER_WAY:
            self._recent.popleft()
        if covered:
            self._recent.append((now, ext, number))
        else:
            self._lose(ext, number)

    def cut(self, now: float) -> None:
        """Know that the connection was cut: what was under way may be lost."""
        for written, ext, number in self._recent:
            if written >= now - UNDER_WAY:
                self._lose(ext, number)
        self._recent.clear()

    def _lose(self, ext: str, number: int) -> None:
        self._uncertain.setdefault(ext, set()).add(number)

    def uncertain(self) -> dict[str, list[tuple[int, int]]]:
        """Give the ranges of numbers that may be lost, first and last, for each extension."""
        return {ext: ranges(numbers) for ext, numbers in self._uncertain.items()}


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Join numbers to ranges, first and last."""
    joined: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if joined and joined[-1][1] == number - 1:
            joined[-1] = (joined[-1][0], number)
        else:
            joined.append((number, number))
    return joined
