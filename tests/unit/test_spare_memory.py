"""Memory that is free inside of the heap goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mxflex.process import TRIM_SECONDS, SpareMemory

MIB = 2**20
PAGE = 4096
# Blocks with which the heap is filled, each smaller than what glibc gets from the system by itself.
BLOCK, BLOCKS = 16_000, 4_000

libc = ctypes.CDLL(None)
pytestmark = pytest.mark.skipif(not hasattr(libc, "malloc_trim"), reason="not a glibc")


def resident():
    """Give the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


@pytest.fixture
def make_holes():
    """Give what fills the heap, and frees all of it but each fourth block."""
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    kept = []

    def make():
        blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
        for block in blocks:
            ctypes.memset(block, 1, BLOCK)
        for number, block in enumerate(blocks):
            if number % 4:
                libc.free(block)
            else:
                kept.append(block)

    yield make
    for block in kept:
        libc.free(block)


def test_holes_are_given_back(make_holes):
    """Once a minute the system gets back what is free between things that are in use."""
    clock = Clock()
    service = SpareMemory(clock)
    service.startService()
    make_holes()
    before = resident()
    clock.advance(TRIM_SECONDS - 1)
    assert abs(before - resident()) < MIB
    clock.advance(1)
    assert before - resident() > 10 * MIB
    service.stopService()
    assert not clock.getDelayedCalls()
