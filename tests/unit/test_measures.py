"""How long things take, counted by classes."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.measures import Durations

BOUNDS = (0.001, 0.01, 0.1)


@given(st.lists(st.floats(0, 1) | st.sampled_from(BOUNDS)))
def test_each_duration_is_in_every_class_that_holds_it(seconds):
    """For each bound it is told how many took no longer; at infinity that is all."""
    durations = Durations(BOUNDS)
    for each in seconds:
        durations.add(each)
    bounds = (*BOUNDS, inf)
    assert list(durations.up_to()) == [(b, sum(each <= b for each in seconds)) for b in bounds]
    assert durations.total == pytest.approx(sum(seconds))


def test_a_clock_that_was_set_back():
    """A duration is never less than nothing: the sum of a histogram only grows."""
    durations = Durations(BOUNDS)
    durations.add(-3600.0)
    assert durations.total == 0.0
    assert next(iter(durations.up_to())) == (0.001, 1)
