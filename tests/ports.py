"""Ports for servers that must know theirs before they listen, or come back to it."""

from __future__ import annotations

import os
import random
import socket

LOOPBACK = "127.0.0.1"
# Linux gives outgoing connections ports from 32,768 on. Above, thousands of connections of other
# tests would be about to take a port that is free now; and a connection to a port of one's own
# range at which nobody listens may meet itself.
LOWEST, HIGHEST = 10_240, 32_000

# Each process of pytest-xdist has ports of its own, so none takes what another has just looked at.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
_given: set[int] = set()


def free_port():
    """Give a TCP port that nobody listens at, on any address, and that was not given before."""
    while True:
        port = random.randrange(LOWEST + _PROCESS, HIGHEST, _PROCESSES)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
