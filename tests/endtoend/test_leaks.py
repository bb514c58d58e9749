"""Thousands of clients that come and go in every way leave the daemon's process as it was.

`make leaks` lets a hundred thousand come; `MXFLEX_LEAK_ROUNDS` says how many it shall be.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import attrs
import pytest

from tests.churn import Churn
from tests.endtoend.stage import SecureSite, Site, eventually

# Streams that are opened and ended, half of them on HTTPS. With few only a coarse leak would show;
# tests/integration/test_leaks.py sees the finest.
ROUNDS = int(os.environ.get("MXFLEX_LEAK_ROUNDS", "2000"))
# Clients that come side by side.
CLIENTS = 20
# What the memory may have grown by at the end, in KiB: the allocator keeps what was used at the
# busiest moment, which comes later or sooner.
MAX_GROWTH_KIB = 4096

USER = {"ext": "3001", "login": "user", "password": "secret"}


@attrs.frozen
class Figures:
    """What a process holds.

    Attributes:
        files: Open file descriptors.
        memory: Resident memory, in KiB.
    """

    files: int
    memory: int

    @classmethod
    def of(cls, pid):
        """Look at a process (proc(5))."""
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        memory = int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[1])
        return cls(len(list(Path(f"/proc/{pid}/fd").iterdir())), memory)


def come_and_go(churn, rounds):
    """Let so many come and go, in all ways in turn; give how many they were."""
    done = 0
    while done < rounds:
        for way in churn.ways:
            way.run(churn, CLIENTS)
            done += CLIENTS
    return done


@pytest.mark.parametrize("make", [Site, SecureSite], ids=["HTTP", "HTTPS"])
def test_nothing_is_left(make, tmp_path):
    """After all who have come and gone there are as many files open, and no more memory in use."""
    scenario = {"users": [USER]}
    with make(tmp_path / "site", scenario, events={"history": 16}) as site:
        pid = site.mxflex.pid
        churn = Churn(
            site.port, secure=make is SecureSite, login=USER["login"], password=USER["password"]
        )
        idle = Figures.of(pid)
        # Caches fill up, and the allocator takes what it needs at the busiest moment.
        come_and_go(churn, ROUNDS // 10)
        eventually(lambda: Figures.of(pid).files <= idle.files)
        before = Figures.of(pid)
        rounds = come_and_go(churn, ROUNDS // 2)
        eventually(lambda: Figures.of(pid).files <= before.files)
        after = Figures.of(pid)
    # For `make leaks`, which shows what tests write.
    sys.stdout.write(f"\n{make.scheme}: {rounds} came and went; {before}, then {after}\n")
    assert after.memory - before.memory < MAX_GROWTH_KIB
