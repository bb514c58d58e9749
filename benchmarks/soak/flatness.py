"""Whether a figure grows: a line fitted through what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import linear_regression, mean

import attrs

MINUTE = 60.0


@attrs.frozen(kw_only=True)
class Trend:
    """A line through a figure, from the end of the warming up on.

    Attributes:
        level: Its mean.
        per_minute: By how much it grows in a minute.
        minutes: Over how long that was seen.
    """

    level: float
    per_minute: float
    minutes: float

    @property
    def growth(self) -> float:
        """By what part of its mean the line has grown, from its beginning to its end."""
        return self.per_minute * self.minutes / self.level if self.level else 0.0


def fit(times: Sequence[float], values: Sequence[float], since: float) -> Trend:
    """Fit a line by least squares.

    Args:
        times: When each value was taken, in seconds.
        values: The values.
        since: What was taken before is left out.

    Raises:
        ValueError: Fewer than two values are left.
    """
    taken = [(time, value) for time, value in zip(times, values, strict=True) if time >= since]
    if len(taken) < 2:  # noqa: PLR2004 - a line has two points
        raise ValueError(f"{len(taken)} values since {since:.0f} s")
    kept_times, kept_values = zip(*taken, strict=True)
    slope = linear_regression(kept_times, kept_values).slope
    return Trend(
        level=mean(kept_values),
        per_minute=slope * MINUTE,
        minutes=(kept_times[-1] - kept_times[0]) / MINUTE,
    )
