"""Which extensions are monitored, by which `monitorCrossRefID`, on the connection of the moment."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import MXError, MXUnavailable
from mxflex.mx.places import Places
from mxflex.mx.protocol import MXProtocol
from mxflex.wire.messages import (
    CallEvent,
    Message,
    MonitorStart,
    MonitorStartResponse,
    MonitorStop,
)

log = Logger()

# Monitors started side by side when many come back, after a reconnect or a restart: enough to hide
# the round trips, too few to overrun the MX.
COME_BACK_AT_ONCE = 16
# Events of unknown monitors kept while a start is under way; its answer may come behind them.
MAX_EARLY_EVENTS = 1_000


def _nothing(_ext: str) -> None:
    """Take no interest in monitors that run again."""


class Monitors:
    """One monitor for each wanted extension, started again on each new connection.

    Args:
        on_event: Called with the extension and the event, in the MX's order.

    Attributes:
        on_restored: Called with an extension that was without its monitor and has one again, before
            any event of it.
    """

    def __init__(self, on_event: Callable[[str, CallEvent], None]) -> None:
        self._on_event = on_event
        self.on_restored: Callable[[str], None] = _nothing
        self._protocol: MXProtocol | None = None
        self._wanted: set[str] = set()
        # Of the present connection alone: a new one hands out new ids.
        self._monitor_of: dict[str, str] = {}
        self._ext_of: dict[str, str] = {}
        # Start and stop of one extension follow each other, never side by side.
        self._locks: dict[str, Places] = {}
        # Why a wanted monitor is missing, as it was logged.
        self._troubles: dict[str, str] = {}
        # For those that come back in a crowd; taken behind the lock of the extension.
        self._places = Places(COME_BACK_AT_ONCE)
        self._starting = 0
        self._early: deque[CallEvent] = deque(maxlen=MAX_EARLY_EVENTS)

    @property
    def wanted(self) -> frozenset[str]:
        """The extensions that are to be monitored whenever the MX is there."""
        return frozenset(self._wanted)

    def monitor_of(self, ext: str) -> str | None:
        """Give the running monitor's id, or None."""
        return self._monitor_of.get(ext)

    @property
    def missing(self) -> frozenset[str]:
        """The wanted extensions that no monitor runs for."""
        return frozenset(self._wanted - self._monitor_of.keys())

    def want(self, ext: str) -> None:
        """See to it that the extension is monitored as soon as the MX lets it."""
        self._wanted.add(ext)

    def start_missing(self) -> None:
        """Start what is wanted and not monitored now, and not when the link looks the next time."""
        if self._protocol is not None and self.missing:
            restoring = Deferred.fromCoroutine(self.restore(self._protocol))
            restoring.addErrback(lambda failure: failure.trap(MXUnavailable) and None)

    async def start(self, ext: str, *, in_turn: bool = False) -> None:
        """See to it that the extension is monitored, now and after reconnects.

        Cancelling it only ends the waiting: the MX may have been asked already, and a monitor that
        nobody wants any more is stopped as soon as its id is known.

        Args:
            ext: The extension.
            in_turn: Whether it may be one of a crowd that comes back, and waits until the MX has
                dealt with those before it.

        Raises:
            MXUnavailable: The server connection is down; the extension is not remembered.
            MXTimeout: The MX did not answer in time.
            CommandRefused: The MX refuses to monitor the extension.
        """
        if ext in self._monitor_of and ext not in self._locks:
            # Nobody is about to stop it.
            self._wanted.add(ext)
            return
        waiting: Deferred[None] = Deferred()
        starting = Deferred.fromCoroutine(self._start(ext, waiting, in_turn=in_turn))
        starting.addCallbacks(waiting.callback, waiting.errback)
        await waiting

    async def _start(self, ext: str, waiting: Deferred[None], *, in_turn: bool) -> None:
        async with self._lock(ext):
            if ext not in self._monitor_of:
                async with self._places if in_turn else nullcontext():
                    if waiting.called and ext not in self._wanted:
                        return
                    if self._protocol is None:
                        raise MXUnavailable("the server connection to the MX is down")
                    await self._start_on(self._protocol, ext)
            if not waiting.called:
                self._wanted.add(ext)
            elif ext not in self._wanted:
                await self._stop_running(ext)

    async def stop(self, ext: str) -> None:
        """Stop monitoring the extension; events that still come are dropped. May be repeated.

        Cancelling it only ends the waiting.
        """
        # Before the lock: a reconnect that waits for it must not start this monitor again.
        self._wanted.discard(ext)
        self._troubles.pop(ext, None)
        waiting: Deferred[None] = Deferred()
        stopping = Deferred.fromCoroutine(self._stop(ext))
        stopping.addCallbacks(waiting.callback, waiting.errback)
        await waiting

    async def _stop(self, ext: str) -> None:
        async with self._lock(ext):
            # Unless somebody logged in while this waited.
            if ext not in self._wanted:
                await self._stop_running(ext)

    async def _stop_running(self, ext: str) -> None:
        monitor = self._monitor_of.pop(ext, None)
        if monitor is None or self._protocol is None:
            return
        self._ext_of.pop(monitor, None)
        try:
            await self._protocol.request(MonitorStop(monitor=monitor))
        except MXUnavailable:
            # It ended with its connection.
            return
        except MXError as error:
            # What matters, that no event goes on to anybody, is reached all the same.
            log.warn("monitor of {ext} not stopped: {error}", ext=ext, error=error)
        else:
            log.info("monitor of {ext} stopped", ext=ext)

    async def restore(self, protocol: MXProtocol) -> None:
        """Start every wanted monitor on a new connection.

        One that the MX refuses, or does not answer, is logged and stays missing.

        Raises:
            MXUnavailable: The connection ended meanwhile.
        """
        self._protocol = protocol
        restored = await DeferredList(
            [Deferred.fromCoroutine(self._restore_one(ext)) for ext in sorted(self._wanted)],
            consumeErrors=True,
        )
        for success, result in restored:
            if not success:
                cast("Failure", result).raiseException()

    async def _restore_one(self, ext: str) -> None:
        async with self._lock(ext), self._places:
            if ext not in self._wanted or ext in self._monitor_of or self._protocol is None:
                return
            try:
                await self._start_on(self._protocol, ext)
            except MXUnavailable:
                raise
            except MXError as error:
                self._report(ext, str(error))

    def _report(self, ext: str, trouble: str) -> None:
        """Log why a monitor is missing, once for as long as that lasts."""
        if self._troubles.get(ext) != trouble:
            self._troubles[ext] = trouble
            log.error("monitor of {ext} not restored: {error}", ext=ext, error=trouble)

    async def _start_on(self, protocol: MXProtocol, ext: str) -> None:
        self._starting += 1
        try:
            answer = await protocol.request(
                MonitorStart(device=ext), late=partial(self._came_late, protocol)
            )
            monitor = answer.monitor if isinstance(answer, MonitorStartResponse) else ""
            if not monitor:
                raise MXError("the MX started a monitor without an id")
            if protocol is not self._protocol:
                raise MXUnavailable("the server connection to the MX was lost")
            self._assign(monitor, ext)
            self._troubles.pop(ext, None)
            log.info("monitor {monitor} of {ext} started", monitor=monitor, ext=ext)
            if ext in self._wanted:
                self.on_restored(ext)
        finally:
            self._starting -= 1
            self._deliver_early()

    def _assign(self, monitor: str, ext: str) -> None:
        """Know whose a monitor is.

        An MX that forgets its monitors without an end of the connection gives their ids again. The
        extension that had this one is missing then, and started anew with all that are.
        """
        former = self._ext_of.get(monitor)
        if former is not None:
            log.warn("the MX gives the monitor of {former} to {ext}", former=former, ext=ext)
            del self._monitor_of[former]
        self._monitor_of[ext] = monitor
        self._ext_of[monitor] = ext

    def _came_late(self, protocol: MXProtocol, answer: Message) -> None:
        """Stop a monitor whose start was given up: nobody knows of it, and it tells all twice."""
        if isinstance(answer, MonitorStartResponse) and answer.monitor not in ("", *self._ext_of):
            log.info("monitor {monitor} came too late, and is stopped", monitor=answer.monitor)
            stopping = protocol.request(MonitorStop(monitor=answer.monitor))
            stopping.addErrback(lambda failure: failure.trap(MXError) and None)

    def lost(self) -> None:
        """Forget the monitors of a connection that has ended; they are still wanted."""
        self._protocol = None
        self._monitor_of.clear()
        self._ext_of.clear()
        self._early.clear()

    def observe(self, event: CallEvent) -> None:
        """Hand an event to whoever its monitor belongs to; others are dropped."""
        ext = self._ext_of.get(event.monitor)
        if ext is not None:
            self._on_event(ext, event)
        elif self._starting:
            self._early.append(event)
        else:
            log.debug("event of unknown monitor {monitor} dropped", monitor=event.monitor)

    def _deliver_early(self) -> None:
        early, self._early = self._early, deque(maxlen=MAX_EARLY_EVENTS)
        for event in early:
            self.observe(event)

    @asynccontextmanager
    async def _lock(self, ext: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(ext, Places(1))
        try:
            async with lock:
                yield
        finally:
            if lock.unused and self._locks.get(ext) is lock:
                del self._locks[ext]
