"""What it costs MXFlex to ask the MX whether a password is right; a program of its own.

    python -m benchmarks.talk PORT COUNT        says {"cpu_us": ..., "p50_ms": ...}

It does what a login does with the MX, by the same code, and nothing else of it: a connection, TLS,
the question, the answer, the leave.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from benchmarks.sample import PASSWORD, PEOPLE, SERVER_LOGIN, SERVER_PASSWORD, login_of
from mxflex.config import MXSettings
from mxflex.mx.verify import LoginCheck
from mxflex.service import make_dialer
from mxflex.simulator.server import LOOPBACK

WARMING = 10
# The last connection ends behind the answer, in seconds.
ENDING = 0.2


async def main(reactor: Any, port: str, count: str) -> None:
    """Ask so many times, one after the other."""
    settings = MXSettings(
        host=LOOPBACK, port=int(port), login=SERVER_LOGIN, password=SERVER_PASSWORD
    )
    check = LoginCheck(make_dialer(settings, reactor), 1, 1)
    for number in range(WARMING):
        await check.verify(login_of(number), PASSWORD, nullcontext())
    times = []
    before = time.process_time()
    for number in range(int(count)):
        began = time.monotonic()
        await check.verify(login_of(number % PEOPLE), PASSWORD, nullcontext())
        times.append(time.monotonic() - began)
    await deferLater(reactor, ENDING)
    spent = time.process_time() - before
    figures = {"cpu_us": spent / int(count) * 1e6, "p50_ms": median(times) * 1e3}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    react(lambda reactor, *words: Deferred.fromCoroutine(main(reactor, *words)), sys.argv[1:])
