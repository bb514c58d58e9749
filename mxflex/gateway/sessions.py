"""Which extensions are watched, for whose sake, and until when.

An extension is watched from the login of its user until the logout, or until its last token has
ended and no stream is open any more.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import MXUnavailable, NotMonitored
from mxflex.gateway.calls import Calls
from mxflex.gateway.hub import CALLS_ALONE, Backlog, Hub, Listener, Topic
from mxflex.mx.monitors import Monitors

log = Logger()


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
    """

    def __init__(self, clock: IReactorTime, monitors: Monitors, hub: Hub, calls: Calls) -> None:
        self._clock = clock
        self._monitors = monitors
        self._hub = hub
        self._calls = calls
        self._sessions: dict[str, _Session] = {}
        self._stopped = False

    async def open(self, ext: str, expires_at: float) -> None:
        """Watch an extension, at least until a token of it ends.

        Args:
            ext: The extension.
            expires_at: The token's end, in seconds since the epoch.

        Raises:
            MXUnavailable, MXTimeout, CommandRefused: The MX does not start the monitor.
        """
        # Opened first: the MX may send events before it answers the start of the monitor.
        self._open(ext)
        try:
            await self._monitors.start(ext)
            self._check_running()
        except BaseException:
            if ext not in self._sessions:
                self._hub.close(ext)
                self._calls.forget(ext)
            raise
        # A logout, or another login of the same user that failed, may have closed it meanwhile.
        self._open(ext)
        if ext not in self._sessions:
            self._sessions[ext] = _Session(0.0)
            self._calls.refresh(ext)
        self._keep_until(ext, expires_at)

    def _check_running(self) -> None:
        if self._stopped:
            # The streams have ended for good; a timer would outlive them.
            raise MXUnavailable("the server is about to stop")

    def _open(self, ext: str) -> None:
        self._hub.open(ext)
        self._calls.watch(ext)

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
        """End the watching: all streams end, and the MX is told. Idempotent."""
        session = self._sessions.pop(ext, None)
        if session is not None:
            session.stop_timer()
        self._hub.close(ext)
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
            NotMonitored: Nobody has logged in as this user, or the user has logged out.
        """
        if ext not in self._sessions:
            raise NotMonitored("not monitored")
        return self._hub.subscribe(ext, listener, last_event_id, topics)

    def unsubscribe(self, ext: str, listener: Listener) -> None:
        """Close a stream; the extension's end may have waited for it. Idempotent."""
        self._hub.unsubscribe(ext, listener)
        self._close_if_unused(ext)

    def stop(self) -> None:
        """End all streams and forget all extensions, as the daemon ends."""
        self._stopped = True
        for session in self._sessions.values():
            session.stop_timer()
        self._sessions.clear()
        self._hub.close_all()

    def _close_if_unused(self, ext: str) -> None:
        session = self._sessions.get(ext)
        if session is not None and session.timer is None and not self._hub.listeners(ext):
            Deferred.fromCoroutine(self.close(ext)).addErrback(self._close_failed, ext)

    def _close_failed(self, failure: Failure, ext: str) -> None:
        log.failure("the watching of {ext} did not end", failure, ext=ext)
