"""The server connection: the one permanent link to the MX, kept up for as long as the daemon runs.

The life of the link is a straight line that starts over (docs/architecture.md says why this is a
coroutine and no state machine):

    connecting (and logging in) -> restoring -> ready -> (lost) -> waiting -> connecting ...
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import CommandRefused, LoginRefused, MXError, MXTimeout, MXUnavailable
from mxflex.mx.addressbook import AddressBook
from mxflex.mx.backoff import Backoff
from mxflex.mx.monitors import Monitors
from mxflex.mx.protocol import MXProtocol
from mxflex.mx.session import Dialer, server_login
from mxflex.wire.messages import (
    CallEvent,
    Command,
    CSTAError,
    Event,
    LoggedOut,
    Logout,
    Message,
    MonitorStartAddressBook,
    UnknownEvent,
)

log = Logger()

SECOND = 1.0
MINUTE = 60.0

# A link that lived this long was a good one: the waits begin anew.
GOOD_LINK_SECONDS = 30 * SECOND
# Unless it was thrown out: two servers that throw each other out both live for a while each time.
PEACE_SECONDS = 30 * MINUTE
# The address book, when it could not be read on a good link, is tried again after this pause.
RETRY_SECONDS = 30 * SECOND
# A monitor that the MX has not started, whose streams are silent meanwhile, is tried again after a
# pause that grows from the first to the second.
MISSING_SECONDS = 1 * SECOND
MAX_MISSING_SECONDS = 10 * SECOND
# The link is up once all monitors run, or after this time. Those that an MX leaves unanswered cost
# a timeout for each few of them, and neither commands nor the book have to wait for that.
RESTORE_SECONDS = 10 * SECOND
# How long the steps of an orderly end may take, together less than two seconds; then the connection
# is cut. The whole daemon has five, and the streams need their part of it.
STOP_SECONDS = 1 * SECOND
LOGOUT_SECONDS = 0.3 * SECOND
LOST_SECONDS = 0.3 * SECOND
# Names of unknown events that are remembered so that each is logged once.
MAX_UNKNOWN_NAMES = 100
MAX_NAME_CHARACTERS = 100
# What the MX sends by unknown names, it could send by any number of them.
OTHER = "other"


class LinkState(enum.Enum):
    """Where the link stands."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    RESTORING = "restoring"
    READY = "ready"
    WAITING = "waiting"


class LinkListener(Protocol):
    """Whoever wants to know how the link fares."""

    def link_up(self) -> None:
        """The MX is there, and the wanted monitors run, but for those that it lets wait."""

    def link_down(self) -> None:
        """The MX is gone; events of this time are lost."""

    def call_event(self, ext: str, event: CallEvent) -> None:
        """A monitored extension has an event."""


@attrs.define(eq=False)
class _Waits:
    """How long to wait after each kind of end."""

    # An MX that restarts is back in seconds, and a refused connection costs nothing.
    lost: Backoff = attrs.field(factory=lambda: Backoff(0.5 * SECOND, 5 * SECOND))
    # A wrong password does not become right by trying; an administrator may correct it.
    refused: Backoff = attrs.field(factory=lambda: Backoff(1 * MINUTE, 10 * MINUTE))
    # Another client with our account would be thrown out by our return, and throw us out by its.
    thrown_out: Backoff = attrs.field(factory=lambda: Backoff(80 * SECOND, 20 * MINUTE))


class ServerLink(Service):
    """The server connection, with the monitors and the address book that live on it.

    Args:
        clock: Gives the time and delayed calls.
        dialer: Opens connections.
        login, password: The server account.

    Attributes:
        events: How many events of the MX came, by name; those that have no class here as `other`.
        attempts: How often it tried to connect.
        connects: How often it was up thereafter.
    """

    name = "mx"

    def __init__(self, clock: IReactorTime, dialer: Dialer, login: str, password: str) -> None:
        self._clock = clock
        self._dialer = dialer
        self._login = login
        self._password = password
        self._listeners: list[LinkListener] = []
        self._protocol: MXProtocol | None = None
        self._supervisor: Deferred[None] | None = None
        self._thrown_out = False
        self._trouble = ""
        self._unknown_names: set[str] = set()
        self._waits = _Waits()
        # There while the link waits before it tries again.
        self._waiting: Deferred[None] | None = None
        self.state = LinkState.STOPPED
        self.events: Counter[str] = Counter()
        self.attempts = self.connects = 0
        self.monitors = Monitors(self._call_event)
        self.address_book = AddressBook()

    def listen(self, listener: LinkListener) -> None:
        """Tell this listener about the link from now on."""
        self._listeners.append(listener)

    @property
    def up(self) -> bool:
        """Whether commands can be sent now."""
        return self.state is LinkState.READY

    @property
    def arrived(self) -> float | None:
        """When the bytes of the MX came that are being handled; None between."""
        return None if self._protocol is None else self._protocol.arrived

    def request(
        self, command: Command, confirms: Callable[[Event], bool] | None = None
    ) -> Deferred[Message]:
        """Send a command on the server connection; see `MXProtocol.request`.

        Fails with `MXUnavailable` at once while the link is down.
        """
        if self._protocol is None or not self.up:
            return fail(MXUnavailable("the server connection to the MX is down"))
        return self._protocol.request(command, confirms)

    # --- Life ---------------------------------------------------------------------------------

    def startService(self) -> None:
        """Begin to connect; the daemon serves its other functions meanwhile."""
        Service.startService(self)
        self._supervisor = Deferred.fromCoroutine(self._supervise())
        self._supervisor.addErrback(self._supervisor_ended)

    def _supervisor_ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("the supervisor of the server connection failed", failure)

    def stopService(self) -> Deferred[None]:
        """Stop the monitors, log out and close; each step only for a moment."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        protocol = self._protocol
        if protocol is not None and self.up:
            stopping = [Deferred.fromCoroutine(self.monitors.stop(e)) for e in self.monitors.wanted]
            await self._briefly(DeferredList(stopping, consumeErrors=True), STOP_SECONDS)
        if protocol is not None:
            # Before the link is up, too: with the session its monitors end.
            await self._briefly(protocol.request(Logout()), LOGOUT_SECONDS)
        if self._supervisor is not None:
            self._supervisor.cancel()
        if protocol is not None:
            await self._briefly(protocol.when_lost(), LOST_SECONDS)
            protocol.abort(MXUnavailable("the connection to the MX was closed"))
        self.state = LinkState.STOPPED

    async def _briefly(self, step: Deferred[Any], seconds: float) -> None:
        try:
            await step.addTimeout(seconds, self._clock)
        except Exception as error:
            log.debug("a step of the end failed: {error!r}", error=error)

    async def _supervise(self) -> None:
        while self.running:
            began = self._clock.seconds()
            try:
                await self._session()
            except CancelledError:
                raise
            except Exception as error:
                if not self.running:
                    # This is how an orderly end looks from here.
                    return
                pause = self._pause_after(error, self._clock.seconds() - began)
            self.state = LinkState.WAITING
            await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        """Wait, or not any longer once there is reason to try again."""
        waiting = self._waiting = Deferred()
        timer = self._clock.callLater(seconds, self._try_now)
        try:
            await waiting
        finally:
            self._waiting = None
            if timer.active():
                timer.cancel()

    def _try_now(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def use(self, login: str, password: str) -> None:
        """Log in otherwise the next time; if that is waited for, now."""
        self._login = login
        self._password = password
        # Whoever has changed it wants to know how it went, also if it went as before.
        self._trouble = ""
        self._waits.refused.reset()
        self._try_now()

    def _pause_after(self, error: Exception, lived: float) -> float:
        """Give the seconds to wait after a session that ended so, and log why it did."""
        if self._thrown_out:
            # However far the session had got: to come back at once is what another client of this
            # account would do, too.
            pause = self._waits.thrown_out.next()
            trouble = "the MX ended the session by force (another client of this account?)"
        elif isinstance(error, (LoginRefused, CommandRefused)):
            pause = self._waits.refused.next()
            trouble = f"the MX refuses the login of {self._login}: {error}"
        elif isinstance(error, MXError):
            if lived >= GOOD_LINK_SECONDS:
                self._waits.lost.reset()
            pause = self._waits.lost.next()
            trouble = str(error)
        else:
            pause = self._waits.refused.next()
            log.failure("the server connection failed by a bug", Failure(error))
            trouble = "a bug"
        self._report(trouble, pause)
        return pause

    def _report(self, trouble: str, pause: float) -> None:
        """Log why the link is down: loudly when that is news, else quietly."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("server connection down: {trouble}", trouble=trouble)
        log.debug("next try to reach the MX in {pause:.1f} s", pause=pause)

    async def _session(self) -> None:
        """Live through one connection from dialling to its end, which is always an error.

        Raises:
            MXError: How it ended.
        """
        self.state = LinkState.CONNECTING
        self.attempts += 1
        self._thrown_out = False
        request = server_login(self._login, self._password)
        protocol, answer = await self._dialer.log_in(request, self._event)
        began = self._clock.seconds()
        self._waits.refused.reset()
        chores: list[Deferred[None]] = []
        try:
            self._protocol = protocol
            self.state = LinkState.RESTORING
            await self._watch_address_book(protocol)
            restoring = Deferred.fromCoroutine(self.monitors.restore(protocol))
            chores.append(restoring)
            await self._wait_for_monitors(restoring)
            chores += [
                Deferred.fromCoroutine(chore).addErrback(self._chore_ended)
                for chore in (
                    self._read_address_book(protocol),
                    self._restore_missing(protocol, restoring),
                )
            ]
            self._tell_up(answer.serial)
            reason = await protocol.when_lost()
        finally:
            self._protocol = None
            self.monitors.lost()
            for each in chores:
                each.cancel()
            protocol.close()
            if self._clock.seconds() - began >= PEACE_SECONDS:
                self._waits.thrown_out.reset()
            self._tell_down()
        raise MXUnavailable(reason)

    def _tell_up(self, serial: str) -> None:
        self.state = LinkState.READY
        self.connects += 1
        self._trouble = ""
        log.info("server connection up, MX {serial}", serial=serial)
        self._tell("link_up", lambda listener: listener.link_up())

    def _tell_down(self) -> None:
        if self.up:
            self.state = LinkState.WAITING
            self._tell("link_down", lambda listener: listener.link_down())

    def _tell(self, what: str, tell: Callable[[LinkListener], None]) -> None:
        """Tell every listener; one that fails costs neither the others nor the link."""
        for listener in self._listeners:
            try:
                tell(listener)
            except Exception:
                log.failure("a listener failed on {what}", what=what)

    # --- Chores -------------------------------------------------------------------------------

    async def _watch_address_book(self, protocol: MXProtocol) -> None:
        """Ask for changes before the book is read, so that none falls between.

        An MX that refuses or does not answer costs the news of the book alone, not the calls.
        """
        try:
            await protocol.request(MonitorStartAddressBook())
        except (CommandRefused, MXTimeout) as error:
            log.error("the MX reports no address book changes: {error}", error=error)

    async def _read_address_book(self, protocol: MXProtocol) -> None:
        while True:
            try:
                await self.address_book.read(protocol)
            except MXUnavailable:
                # The next connection reads it.
                return
            except MXError as error:
                log.error(
                    "address book not read: {error}; next try in {pause:.0f} s",
                    error=error,
                    pause=RETRY_SECONDS,
                )
            else:
                return
            await deferLater(self._clock, RETRY_SECONDS)

    async def _wait_for_monitors(self, restoring: Deferred[None]) -> None:
        """Wait until the monitors run, but not for ever; they go on to be started behind that.

        Raises:
            MXUnavailable: The connection ended meanwhile.
        """
        # One of its own: to give it up must take back nothing that the MX has been asked.
        restored: Deferred[None] = Deferred()
        restoring.addCallbacks(restored.callback, restored.errback)
        try:
            await restored.addTimeout(RESTORE_SECONDS, self._clock)
        except WaitedTooLong:
            log.warn("the MX takes long over its monitors; the link is up with those that run")

    async def _restore_missing(self, protocol: MXProtocol, restoring: Deferred[None]) -> None:
        """Try again what the MX refused or left unanswered; such a stream would stay silent."""
        await restoring
        waits = Backoff(MISSING_SECONDS, MAX_MISSING_SECONDS)
        while True:
            await deferLater(self._clock, waits.next())
            if self.monitors.missing:
                await self.monitors.restore(protocol)

    def _chore_ended(self, failure: Failure) -> None:
        # When the connection ends, the session ends too and tells why.
        if not failure.check(CancelledError, MXUnavailable):
            log.failure("a chore of the server connection failed by a bug", failure)

    # --- Events -------------------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        self.events[event.wire_name or OTHER] += 1
        if isinstance(event, CallEvent):
            self.monitors.observe(event)
        elif isinstance(event, LoggedOut):
            log.error("the MX ended the session, mode {mode!r}", mode=event.mode)
            self._thrown_out = event.mode == "forced"
            if self._protocol is not None:
                self._protocol.close()
        elif isinstance(event, UnknownEvent):
            self._unknown(event.name)
        elif isinstance(event, CSTAError):
            log.warn("the MX reports {error} without a command", error=event.text)
        else:
            self.address_book.observe(event)

    def _unknown(self, name: str) -> None:
        name = name[:MAX_NAME_CHARACTERS]
        if name not in self._unknown_names and len(self._unknown_names) < MAX_UNKNOWN_NAMES:
            self._unknown_names.add(name)
            log.info("event {name} of the MX is not known here and ignored", name=name)

    def _call_event(self, ext: str, event: CallEvent) -> None:
        self._tell("call_event", lambda listener: listener.call_event(ext, event))
