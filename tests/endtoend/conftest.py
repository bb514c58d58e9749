"""Where daemons run in processes of their own."""

from __future__ import annotations

import contextlib

import pytest

from tests.endtoend.place import Place
from tests.endtoend.stage import chromium


@pytest.fixture
def place(tmp_path):
    """Give a place to run things in."""
    with contextlib.ExitStack() as stack:
        yield Place(tmp_path, stack)


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window."""
    with chromium() as browser:
        yield browser
