"""What systemd is told: that the daemon is ready, lives, how it stands, and that it stops.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mxflex.wire.messages import CallEvent

log = Logger()

MICROSECONDS = 1_000_000
# In a microsecond.
NANOSECONDS = 1000
CONNECTING = "connecting to the MX"
CONNECTED = "connected to the MX"
LOST = "the MX is away, trying to reach it again"


class SystemdNotifier(Service):
    """Tells systemd, if it is systemd that has started this process.

    It listens to the link (see `mxflex.mx.link.LinkListener`). As the last child of the daemon it
    starts when all ports are open, and is the first to stop.

    Args:
        clock: Gives delayed calls.
        environ: Where systemd has put the address of its socket, and how often it wants to hear
            from us.
    """

    name = "systemd"

    def __init__(self, clock: IReactorTime, environ: Mapping[str, str]) -> None:
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._interval = _watchdog_interval(environ)
        self._status = CONNECTING
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """Say that the daemon is ready, as soon as the reactor runs."""
        Service.startService(self)
        if self._address:
            self._timer = self._clock.callLater(0, self._ready)

    def stopService(self) -> None:
        """Say that the daemon stops; what is left to do takes less than a watchdog's time."""
        Service.stopService(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell("STOPPING=1", "STATUS=stopping", *self._alive())

    def _ready(self) -> None:
        self._timer = None
        self._tell("READY=1", f"STATUS={self._status}")
        if self._interval is not None:
            self._beat(self._interval)

    def _beat(self, interval: float) -> None:
        # From the reactor: one that hangs says nothing.
        self._tell(*self._alive())
        self._timer = self._clock.callLater(interval, self._beat, interval)

    def _alive(self) -> list[str]:
        return [] if self._interval is None else ["WATCHDOG=1"]

    def reloading(self) -> None:
        """Say that the configuration is being read again (sd_notify(3))."""
        if self.running:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // NANOSECONDS
            self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def reloaded(self) -> None:
        """Say that this is done."""
        if self.running:
            self._tell("READY=1", f"STATUS={self._status}")

    def link_up(self) -> None:
        """Tell that the MX is there."""
        self._set_status(CONNECTED)

    def link_down(self) -> None:
        """Tell that the MX is gone."""
        self._set_status(LOST)

    def call_event(self, ext: str, event: CallEvent) -> None:
        """Leave calls to the streams."""

    def _set_status(self, status: str) -> None:
        self._status = status
        if self.running:
            self._tell(f"STATUS={status}")

    def _tell(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        # A name that begins with @ is in the abstract namespace (unix(7)).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                # systemd reads quickly; if it does not, the daemon must not wait for it.
                notify.setblocking(False)
                notify.sendto("\n".join(lines).encode("utf-8"), address)
        except OSError as error:
            log.warn("systemd was not told {what}: {error}", what=lines[0], error=error)


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Give after how many seconds to say that we live; None if nobody wants to know."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isascii() or not microseconds.isdigit() or not int(microseconds):
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    # As sd_watchdog_enabled(3) advises: twice as often as is demanded.
    return int(microseconds) / MICROSECONDS / 2
