"""`Backoff`: how long to wait before the next try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.mx.backoff import Backoff


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.75), (0.5, 0.875), (1.0, 1.0)])
def test_doubles_up_to_the_cap(chance, share):
    """Waits double from the first to the cap; chance takes away up to a quarter."""
    backoff = Backoff(1.0, 10.0, lambda: chance)
    waits = [backoff.next() for _ in range(6)]
    assert waits == [share * wait for wait in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0)]


def test_reset():
    """After a success the first wait comes again."""
    backoff = Backoff(1.0, 60.0, lambda: 1.0)
    assert [backoff.next(), backoff.next()] == [1.0, 2.0]
    backoff.reset()
    assert backoff.next() == 1.0


def test_years_of_failing():
    """A hundred thousand tries overflow nothing."""
    backoff = Backoff(0.5, 5.0, lambda: 1.0)
    assert {backoff.next() for _ in range(100_000)} == {0.5, 1.0, 2.0, 4.0, 5.0}


@given(st.floats(0.1, 100), st.floats(0.1, 1000), st.integers(1, 50))
def test_bounds(first, cap, tries):
    """No wait is longer than the cap, or shorter than three quarters of the first or the cap."""
    backoff = Backoff(first, cap)
    for _ in range(tries):
        assert 0.75 * min(first, cap) <= backoff.next() <= cap
