"""Keeps delayed calls on time when the clock of the machine is set back.

Twisted counts by the time of day: set back by an hour, as after a start with a wrong clock, nothing
that was to happen later would happen for an hour. There would be no heartbeat on a stream, no limit
on how long the MX may be silent, and no word to the watchdog of systemd, which then kills.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

log = Logger()

# How often is looked, in seconds: no call is late by more.
LOOK_SECONDS = 1.0
# A clock that is set back by less is none to speak of, in seconds; NTP does that all the time.
TOLERATED_SECONDS = 1.0
# Two clocks that could not be read within so many seconds, because the process was stopped between,
# say nothing.
TAKEN_SECONDS = 0.1


class SteadyTimers(Service):
    """Moves the delayed calls of a reactor along when the time of day is set back.

    It looks from a thread, since whatever the reactor would do later is late itself. A clock that
    is set forward needs nothing: calls come early once, as after any stall.

    Args:
        reactor: Whose calls.
        steady: Gives seconds of a clock that nobody sets.
    """

    name = "clock"

    def __init__(self, reactor: Any, steady: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._steady = steady
        self._ahead = 0.0
        self._over = Event()

    def startService(self) -> None:
        """Begin to look."""
        Service.startService(self)
        self._ahead = self._read()[0]
        self._over = Event()
        Thread(target=self._watch, args=(self._over,), name="mxflex-clock", daemon=True).start()

    def stopService(self) -> None:
        """Look no more."""
        Service.stopService(self)
        self._over.set()

    def _watch(self, over: Event) -> None:
        while not over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Look once; calls are moved in the reactor's turn."""
        ahead, taken = self._read()
        if taken > TAKEN_SECONDS:
            return
        back, self._ahead = self._ahead - ahead, ahead
        if back > TOLERATED_SECONDS:
            self._reactor.callFromThread(self._catch_up, back)

    def _read(self) -> tuple[float, float]:
        """Give how far the time of day is ahead of the steady clock, and how long that took."""
        before = self._steady()
        now = self._reactor.seconds()
        return now - before, self._steady() - before

    def _catch_up(self, back: float) -> None:
        if not self.running:
            return
        log.warn("the clock was set back by {seconds:.0f} seconds", seconds=back)
        now = self._reactor.seconds()
        for call in tuple(self._reactor.getDelayedCalls()):
            # What is due sooner has been planned since, by the clock as it is now.
            if call.getTime() - now > back - 2 * LOOK_SECONDS:
                call.delay(-back)
