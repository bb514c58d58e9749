"""What the daemon counts about itself, cheap enough for every event."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

# Upper bounds for what this process does by itself, and for what an MX takes; in seconds.
FAN_OUT_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
COMMAND_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# And for what a receiver elsewhere takes, which may be away for hours.
DELIVERY_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0, 86_400.0)


class Durations:
    """How long something took, each time: a histogram.

    Args:
        bounds: Upper bounds of its classes in seconds, ascending; what takes longer has a class of
            its own.

    Attributes:
        total: All durations together, in seconds.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a clock that was set back makes it 0."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def up_to(self) -> Iterator[tuple[float, int]]:
        """Give each upper bound, infinity as the last, with how many took no longer."""
        count = 0
        for bound, more in zip((*self._bounds, float("inf")), self._counts, strict=True):
            count += more
            yield bound, count
