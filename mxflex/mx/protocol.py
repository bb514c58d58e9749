"""One connection to an MX as a Twisted protocol: answers by invoke id, keep-alive, silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar, cast

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mxflex.errors import (
    CommandRefused,
    LocalProtocolError,
    MXError,
    MXTimeout,
    MXUnavailable,
    RemoteProtocolError,
)
from mxflex.measures import COMMAND_BOUNDS, Durations
from mxflex.mx.transport import PromptTLS
from mxflex.wire.connection import (
    LAST_COMMAND_ID,
    BadFrame,
    ClientConnection,
    EventReceived,
    LateReply,
    ReplyReceived,
)
from mxflex.wire.messages import Command, CSTAError, Event, GetServiceList, Message

log = Logger()

_T = TypeVar("_T")

# A peer that sends this many broken frames in a row speaks something else.
MAX_BAD_FRAMES_IN_A_ROW = 10
# How long a polite end of the connection may take before it is cut, in seconds.
CLOSE_SECONDS = 2.0


@attrs.define(eq=False)
class _Waiter:
    """A command whose answer has not come.

    `confirms` recognizes an event that is as good as the answer; `late` takes an answer that comes
    after all. The timer runs until the answer is there.
    """

    invoke_id: int
    command: Command
    done: Deferred[Message]
    confirms: Callable[[Event], bool] | None
    late: Callable[[Message], None] | None
    asked_at: float
    timer: IDelayedCall | None = None

    def stop_timer(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def is_answered_by(self, event: Event) -> bool:
        """Tell whether an event is what the command waits for."""
        answered_by = self.command.answered_by
        if isinstance(event, CSTAError):
            # Commands that are answered by an event are refused by an event, too.
            return answered_by is not None
        if self.confirms is not None:
            return self.confirms(event)
        return answered_by is not None and isinstance(event, answered_by)


class CommandFigures:
    """How the MX answers, by the name of the command, over all connections.

    Attributes:
        durations: How long answers and refusals took.
        results: How many commands ended how: `answered`, `refused`, `timeout`, `lost` with the
            connection, or `cancelled` by whoever had asked.
    """

    def __init__(self) -> None:
        self.durations: dict[str, Durations] = {}
        self.results: Counter[tuple[str, str]] = Counter()

    def ended(self, name: str, seconds: float, result: object) -> None:
        """Count a command with what its Deferred fires with."""
        if isinstance(result, Failure):
            kind = result.check(*_RESULTS)
            word = _RESULTS[kind] if kind else "lost"
        else:
            word = "answered"
        self.results[name, word] += 1
        if word in ("answered", "refused"):
            durations = self.durations.get(name)
            if durations is None:
                durations = self.durations[name] = Durations(COMMAND_BOUNDS)
            durations.add(seconds)


_RESULTS: dict[type[BaseException], str] = {
    CommandRefused: "refused",
    MXTimeout: "timeout",
    CancelledError: "cancelled",
}


def ignore_event(_event: Event) -> None:
    """Take no interest in events."""


@implementer(IHandshakeListener)
class MXProtocol(Protocol):
    """The client's end of one connection to an MX.

    Args:
        clock: Gives the time and delayed calls.
        timeout: Seconds to wait for an answer, and for the TLS handshake.
        keepalive: Seconds of silence on our side before a keep-alive is sent; also the seconds of
            silence of the MX before it is asked whether it still lives.
        check_peer: Called with this protocol after the handshake and before anything is sent;
            raises `MXUnavailable` for a peer that is not to be trusted.
        on_event: Called with each event of the MX, in order.
        figures: Count commands.

    Attributes:
        arrived: When the bytes came that are being handled; None between.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout: float,
        keepalive: float,
        check_peer: Callable[[MXProtocol], None],
        on_event: Callable[[Event], None] = ignore_event,
        *,
        figures: CommandFigures | None = None,
    ) -> None:
        self._clock = clock
        self._figures = figures or CommandFigures()
        self.arrived: float | None = None
        self._timeout = timeout
        self._keepalive = keepalive
        self._check_peer = check_peer
        self._on_event = on_event
        self._wire = ClientConnection()
        self._waiters: dict[int, _Waiter] = {}
        # Those whose answer only said that the real one comes as an event: their ids are free
        # again, and may belong to others by then.
        self._announced: list[_Waiter] = []
        self._late_takers: dict[int, Callable[[Message], None]] = {}
        self._secured = False
        self._lost = False
        # Why the connection ended, once it has or is about to.
        self._ended: MXError | None = None
        self._secured_waiters: list[Deferred[None]] = []
        self._lost_waiters: list[Deferred[str]] = []
        self._timers: dict[str, IDelayedCall] = {}
        self._last_received = 0.0
        self._probing = False
        self._bad_frames = 0
        self._odd_kind_told = False

    # --- Life ---------------------------------------------------------------------------------

    @property
    def tls(self) -> TLSMemoryBIOProtocol:
        """The transport, once there is one: an MX is only ever talked to over TLS."""
        return cast("TLSMemoryBIOProtocol", self.transport)

    @property
    def ended(self) -> bool:
        """Whether the connection has ended, or is about to."""
        return self._ended is not None

    def connectionMade(self) -> None:
        """Wait for the TLS handshake: nothing is sent to a peer that was not checked."""
        self._start_timer("handshake", self._timeout, self._handshake_timed_out)

    def _handshake_timed_out(self) -> None:
        self.abort(MXTimeout("the MX did not finish the TLS handshake in time"))

    def handshakeCompleted(self) -> None:
        """Check whom we talk to; then the connection is ready for commands."""
        self._stop_timer("handshake")
        try:
            self._check_peer(self)
        except MXUnavailable as error:
            self.abort(error)
            return
        self._secured = True
        self._last_received = self._clock.seconds()
        self._start_timer("keepalive", self._keepalive, self._send_keepalive)
        self._start_timer("silence", self._keepalive, self._check_silence)
        waiters, self._secured_waiters = self._secured_waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def when_secured(self) -> Deferred[None]:
        """Give a new Deferred that fires when commands may be sent.

        It fails with `MXUnavailable` or `MXTimeout` when the connection ends before.
        """
        done: Deferred[None] = Deferred(self._secured_waiters.remove)
        if self._ended is not None:
            done.errback(self._why())
        elif self._secured:
            done.callback(None)
        else:
            self._secured_waiters.append(done)
        return done

    def when_lost(self) -> Deferred[str]:
        """Give a new Deferred that fires with the reason when the connection has ended."""
        done: Deferred[str] = Deferred(self._lost_waiters.remove)
        if self._lost:
            done.callback(str(self._ended))
        else:
            self._lost_waiters.append(done)
        return done

    def _why(self) -> MXError:
        """Give the reason as an exception of its own: one instance raised twice grows a chain."""
        assert self._ended is not None
        return type(self._ended)(*self._ended.args)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail everything that waits, at once."""
        self._lost = True
        if self._ended is None:
            self._ended = MXUnavailable(_words_for(reason))
            log.debug("connection to the MX ended: {reason}", reason=reason.getErrorMessage())
        for name in list(self._timers):
            self._stop_timer(name)
        for waiter in [*self._waiters.values(), *self._announced]:
            # Whoever learned of it before may have cancelled this one.
            if self._take(waiter):
                waiter.done.errback(self._why())
        secured, self._secured_waiters = self._secured_waiters, []
        for done in secured:
            done.errback(self._why())
        lost, self._lost_waiters = self._lost_waiters, []
        for each in lost:
            each.callback(str(self._ended))

    def close(self, farewell: Command | None = None) -> None:
        """End the connection politely; cut it if the peer does not play along. May be repeated.

        Args:
            farewell: A last command, whose answer does not matter.
        """
        if self._lost or "close" in self._timers:
            return
        if farewell is not None and self._ended is None:
            _, data = self._wire.request(farewell)
            cast("PromptTLS", self.transport).writeLast(data)
        else:
            self.tls.loseConnection()
        self._ended = self._ended or MXUnavailable("the connection to the MX was closed")
        self._start_timer("close", CLOSE_SECONDS, self._cut)

    def abort(self, why: MXError) -> None:
        """Cut the connection at once; everything that waits fails with the reason."""
        self._ended = self._ended or why
        self._cut()

    def _cut(self) -> None:
        if not self._lost:
            self.tls.abortConnection()

    def _start_timer(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._stop_timer(name)
        self._timers[name] = self._clock.callLater(seconds, self._timer_fired, name, call)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _timer_fired(self, name: str, call: Callable[[], None]) -> None:
        del self._timers[name]
        call()

    # --- Sending ------------------------------------------------------------------------------

    def request(
        self,
        command: Command,
        confirms: Callable[[Event], bool] | None = None,
        late: Callable[[Message], None] | None = None,
    ) -> Deferred[Message]:
        """Send a command and give its answer.

        Several may be in flight; cancelling one only stops the waiting.

        Args:
            command: What to ask.
            confirms: Recognizes an event that shows the command was carried out. The Deferred fires
                with it if it comes before the answer.
            late: Called with an answer that comes after the command has timed out.

        Returns:
            Fires with the answer or the confirming event. Fails with `CommandRefused` for
            `CSTAErrorCode`, `MXTimeout` when nothing came in time, `MXUnavailable` when the
            connection ends, `LocalProtocolError` when the command cannot be sent.
        """
        if self._ended is not None:
            return fail(self._why())
        if self._wire.waiting == LAST_COMMAND_ID:
            return fail(MXUnavailable("too many commands wait for the MX"))
        try:
            # The waiter is registered before the bytes are written: the answer may be quick.
            invoke_id, data = self._wire.request(command)
        except LocalProtocolError as error:
            return fail(error)
        # Of a command that had this id before, and whose answer never came.
        self._late_takers.pop(invoke_id, None)
        done: Deferred[Message] = Deferred(lambda _: self._forget(waiter))
        waiter = _Waiter(invoke_id, command, done, confirms, late, self._clock.seconds())
        waiter.timer = self._clock.callLater(self._timeout, self._overdue, waiter)
        self._waiters[invoke_id] = waiter

        def ended(result: _T) -> _T:
            lasted = self._clock.seconds() - waiter.asked_at
            self._figures.ended(command.wire_name, lasted, result)
            return result

        done.addBoth(ended)
        log.debug("sent {command} as {id}", command=command.wire_name, id=invoke_id)
        self._write(data)
        return done

    def _overdue(self, waiter: _Waiter) -> None:
        waiter.timer = None
        self._take(waiter)
        if waiter.late is not None:
            self._late_takers[waiter.invoke_id] = waiter.late
        self._look_for_life(waiter.asked_at)
        name = waiter.command.wire_name
        waiter.done.errback(MXTimeout(f"the MX did not answer {name} in time"))

    def _take(self, waiter: _Waiter) -> bool:
        """Let a command wait no longer; tell whether it did until now."""
        waiter.stop_timer()
        if self._waiters.get(waiter.invoke_id) is waiter:
            del self._waiters[waiter.invoke_id]
            self._wire.abandon(waiter.invoke_id)
            return True
        if waiter in self._announced:
            self._announced.remove(waiter)
            return True
        return False

    def _forget(self, waiter: _Waiter) -> None:
        self._take(waiter)

    def _write(self, data: bytes) -> None:
        self.tls.write(data)
        timer = self._timers.get("keepalive")
        if timer is not None:
            timer.reset(self._keepalive)

    def _send_keepalive(self) -> None:
        self._start_timer("keepalive", self._keepalive, self._send_keepalive)
        self._write(self._wire.keepalive())

    # --- Silence ------------------------------------------------------------------------------
    # A peer whose machine lost power sends nothing, not even a FIN, and keep-alives are never
    # answered; only a question tells the dead from the quiet.

    def _check_silence(self) -> None:
        quiet = self._clock.seconds() - self._last_received
        if quiet >= self._keepalive:
            self._probe()
            quiet = 0.0
        self._start_timer("silence", self._keepalive - quiet, self._check_silence)

    def _look_for_life(self, asked_at: float) -> None:
        """Probe at once when an answer is overdue and nothing else came since the question."""
        if self._last_received < asked_at:
            self._probe()

    def _probe(self) -> None:
        if self._probing or self._ended is not None:
            return
        self._probing = True
        probed_at = self._clock.seconds()

        def answered(result: object) -> None:
            self._probing = False
            if (
                isinstance(result, Failure)
                and result.check(MXTimeout)
                and self._last_received < probed_at
            ):
                self.abort(MXUnavailable("the MX has gone silent"))

        # Any answer will do, a refusal too.
        self.request(GetServiceList()).addBoth(answered)

    # --- Receiving ----------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Hand what came to whoever waits for it."""
        if self._ended is not None:
            return
        self._last_received = self.arrived = self._clock.seconds()
        self._wire.receive_data(data)
        try:
            # Whoever is called below may have ended the connection.
            while self._ended is None and (happened := self._wire.next_event()) is not None:
                if isinstance(happened, BadFrame):
                    self._bad_frame(happened)
                    continue
                self._bad_frames = 0
                if isinstance(happened, EventReceived):
                    self._event(happened.event)
                elif isinstance(happened, ReplyReceived):
                    self._reply(happened)
                else:
                    self._late(happened)
        except RemoteProtocolError as error:
            log.error("the MX broke the protocol, connection cut: {error}", error=error)
            self.abort(MXUnavailable(f"the MX broke the protocol: {error}"))
        finally:
            self.arrived = None
        if self._wire.odd_kind is not None and not self._odd_kind_told:
            self._odd_kind_told = True
            log.warn("the MX sends frames of kind {kind:#06x}", kind=self._wire.odd_kind)

    def _bad_frame(self, frame: BadFrame) -> None:
        self._bad_frames += 1
        log.warn("frame {id} of the MX skipped: {reason}", id=frame.invoke_id, reason=frame.reason)
        if self._bad_frames >= MAX_BAD_FRAMES_IN_A_ROW:
            self.abort(MXUnavailable("the MX sent too many broken frames in a row"))

    def _reply(self, received: ReplyReceived) -> None:
        waiter = self._waiters.pop(received.invoke_id)
        answered_by = waiter.command.answered_by
        if answered_by is not None and not isinstance(received.reply, (answered_by, CSTAError)):
            # The real answer comes as an event; this one only says that it will.
            self._announced.append(waiter)
        else:
            self._settle(waiter, received.reply)

    def _settle(self, waiter: _Waiter, message: Message) -> None:
        waiter.stop_timer()
        if isinstance(message, CSTAError):
            waiter.done.errback(CommandRefused(message.text, message.category))
        else:
            waiter.done.callback(message)

    def _late(self, late: LateReply) -> None:
        log.debug("late answer {name} with id {id}", name=late.name, id=late.invoke_id)
        take = self._late_takers.pop(late.invoke_id, None)
        if take is not None and late.reply is not None:
            take(late.reply)

    def _event(self, event: Event) -> None:
        # The event goes on before the waiter learns of it, so that whoever asked finds the state
        # already changed.
        try:
            self._on_event(event)
        except Exception:
            log.failure("a listener failed on {event}", event=type(event).__name__)
        for waiter in [*self._waiters.values(), *self._announced]:
            # An earlier one of them may have cancelled this one.
            if waiter.is_answered_by(event) and self._take(waiter):
                self._settle(waiter, event)


def _words_for(reason: Failure) -> str:
    """Say how a connection ended that nobody here has ended."""
    error = reason.value
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        # OpenSSL's last word is the cause: ("SSL routines", "", "certificate verify failed").
        return f"TLS with the MX failed: {error.args[0][-1][-1]}"
    return "the connection to the MX was lost"
