"""Which extensions are watched, for whose sake, and until when.

An extension is watched from the login of its user until the logout, or until its last token has
ended and no stream is open any more. A token from before a restart starts the watching again. What
a webhook names is watched for as long as it does, whoever comes and goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import (
    MXError,
    MXTimeout,
    MXUnavailable,
    NotMonitored,
    ServiceUnavailable,
)
from mxflex.gateway.admission import RESTART_SECONDS
from mxflex.gateway.calls import Calls
from mxflex.gateway.hub import CALLS_ALONE, Backlog, Hub, Listener, Topic
from mxflex.gateway.logouts import Logouts
from mxflex.mx.monitors import Monitors

log = Logger()

# How long a stream whose extension is not watched yet waits for the monitor, in seconds; then it
# opens without. An MX that answers takes milliseconds.
RESUME_SECONDS = 10.0


@attrs.define(eq=False)
class _Session:
    """The tokens of one extension, as far as they matter: the end of the last one."""

    expires_at: float
    # Gone once the last token has ended.
    timer: IDelayedCall | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Sessions:
    """Starts and stops monitors as people come and go.

    Args:
        clock: Gives the time, in seconds since the epoch, and delayed calls.
        monitors: The monitors of the server connection.
        hub: Where the events of watched extensions go.
        calls: The calls of watched extensions.
        logouts: Whose user has logged out, and not in again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monitors: Monitors,
        hub: Hub,
        calls: Calls,
        logouts: Logouts,
    ) -> None:
        self._clock = clock
        self._monitors = monitors
        self._hub = hub
        self._calls = calls
        self._logouts = logouts
        self._sessions: dict[str, _Session] = {}
        # What is watched for the sake of webhooks.
        self._held: set[str] = set()
        # The starts of monitors that old tokens wait for.
        self._resuming: dict[str, set[Deferred[None]]] = {}
        self._stopped = False

    def hold(self, extensions: Iterable[str]) -> None:
        """Watch these extensions, as soon as the MX lets it, whoever logs in and out.

        Those that were held before, and are not among them, are watched for their users alone.
        """
        before, self._held = self._held, set(extensions)
        for ext in sorted(self._held - before):
            self._open(ext)
            self._monitors.want(ext)
        self._monitors.start_missing()
        for ext in sorted(before - self._held - self._sessions.keys()):
            Deferred.fromCoroutine(self._end(ext)).addErrback(self._end_failed, ext)

    async def open(self, ext: str, expires_at: float) -> None:
        """Watch an extension, at least until a token of it ends.

        Args:
            ext: The extension.
            expires_at: The token's end, in seconds since the epoch.

        Raises:
            MXUnavailable: The MX is not there, or refuses to start the monitor.
            MXTimeout: The MX does not answer.
            ServiceUnavailable: The daemon stops.
        """
        with self._beginning(ext):
            await self._monitors.start(ext)
        self._logouts.discard(ext)
        self._keep(ext, expires_at)

    async def resume(self, ext: str, expires_at: float) -> None:
        """Watch an extension again for a token from before a restart, at least until it ends.

        While the MX is away, or slow, the extension counts as watched, and its monitor follows: a
        browser takes a refusal as final.

        Args:
            ext: The extension.
            expires_at: The token's end, in seconds since the epoch.

        Raises:
            NotMonitored: The user has logged out.
            MXUnavailable: The MX refuses to start the monitor.
            ServiceUnavailable: The daemon stops.
        """
        if ext not in self._sessions:
            self._check_not_logged_out(ext)
            with self._beginning(ext):
                await self._start_again(ext)
        self._keep(ext, expires_at)

    async def _start_again(self, ext: str) -> None:
        self._check_running()
        starting = Deferred.fromCoroutine(self._monitors.start(ext, in_turn=True))
        resuming = self._resuming.setdefault(ext, set())
        resuming.add(starting)
        try:
            await starting.addTimeout(RESUME_SECONDS, self._clock)
        except (MXUnavailable, MXTimeout, WaitedTooLong):
            self._monitors.want(ext)
        except CancelledError:
            # The client has left, unless it was the logout or the daemon's end.
            self._check_not_logged_out(ext)
            self._check_running()
            raise
        finally:
            resuming.discard(starting)
            if not resuming and self._resuming.get(ext) is resuming:
                del self._resuming[ext]

    def _check_not_logged_out(self, ext: str) -> None:
        if ext in self._logouts:
            raise NotMonitored("not monitored")

    @contextmanager
    def _beginning(self, ext: str) -> Iterator[None]:
        """Open an extension for the time that its monitor takes to start.

        When that fails, nothing is left of it, unless it was watched before.
        """
        # Opened first: the MX may send events before it answers the start of the monitor.
        self._open(ext)
        try:
            yield
            self._check_running()
        except BaseException as error:
            if ext not in self._sessions and ext not in self._held:
                self._hub.close(ext)
                self._calls.forget(ext)
            if isinstance(error, MXError) and not isinstance(error, (MXUnavailable, MXTimeout)):
                # Not the command of whoever asks, so not theirs to be told that it was refused.
                log.error("monitor of {ext} not started: {error}", ext=ext, error=error)
                text = "the monitor of this extension cannot be started"
                raise MXUnavailable(text) from error
            raise

    def _check_running(self) -> None:
        if self._stopped:
            # A timer would outlive the daemon.
            raise ServiceUnavailable("the server is about to stop", RESTART_SECONDS)

    def _open(self, ext: str) -> None:
        self._hub.open(ext)
        self._calls.watch(ext)

    def _keep(self, ext: str, expires_at: float) -> None:
        # A logout, or another login of the same user that failed, may have closed it meanwhile.
        self._open(ext)
        if ext not in self._sessions:
            self._sessions[ext] = _Session(0.0)
            self._calls.refresh(ext)
        self._keep_until(ext, expires_at)

    def _keep_until(self, ext: str, expires_at: float) -> None:
        session = self._sessions[ext]
        # Without a timer the tokens before this one have ended, whatever a clock that was set back
        # says now.
        if session.timer is None or expires_at > session.expires_at:
            session.stop_timer()
            session.expires_at = expires_at
            wait = max(0.0, expires_at - self._clock.seconds())
            session.timer = self._clock.callLater(wait, self._last_token_ended, ext)

    def _last_token_ended(self, ext: str) -> None:
        self._sessions[ext].timer = None
        self._close_if_unused(ext)

    async def close(self, ext: str) -> None:
        """End the watching until the next login: all streams end, and the MX is told. Idempotent.

        Tokens from before do not start it again, also after a restart.
        """
        remembered = self._logouts.add(ext)
        self._turn_away(ext)
        await self._end(ext)
        await remembered

    def _turn_away(self, ext: str) -> None:
        for starting in tuple(self._resuming.pop(ext, ())):
            starting.cancel()

    async def _end(self, ext: str) -> None:
        session = self._sessions.pop(ext, None)
        if session is not None:
            session.stop_timer()
        self._hub.close(ext)
        if ext in self._held:
            # Its streams have ended, and its history; its calls go on.
            self._hub.open(ext)
            return
        self._calls.forget(ext)
        await self._monitors.stop(ext)

    def subscribe(
        self,
        ext: str,
        listener: Listener,
        last_event_id: int | None,
        topics: frozenset[Topic] = CALLS_ALONE,
    ) -> Backlog:
        """Open a stream; see `Hub.subscribe`.

        Raises:
            NotMonitored: Neither a login nor an old token has the extension watched.
        """
        if ext not in self._sessions:
            raise NotMonitored("not monitored")
        return self._hub.subscribe(ext, listener, last_event_id, topics)

    def unsubscribe(self, ext: str, listener: Listener) -> None:
        """Close a stream; the extension's end may have waited for it. Idempotent."""
        self._hub.unsubscribe(ext, listener)
        self._close_if_unused(ext)

    def stop(self) -> None:
        """Watch nobody from now on, as the daemon ends; open streams go on until they are ended."""
        self._stopped = True
        for ext in list(self._resuming):
            self._turn_away(ext)
        for session in self._sessions.values():
            session.stop_timer()
        self._sessions.clear()

    def _close_if_unused(self, ext: str) -> None:
        session = self._sessions.get(ext)
        if session is not None and session.timer is None and not self._hub.listeners(ext):
            Deferred.fromCoroutine(self._end(ext)).addErrback(self._end_failed, ext)

    def _end_failed(self, failure: Failure, ext: str) -> None:
        log.failure("the watching of {ext} did not end", failure, ext=ext)
