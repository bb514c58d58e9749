"""One connection to the simulated MX: frames in and out, login, the life of the session.

What the commands do after the login stands in `commands`.
"""

from __future__ import annotations

import hashlib
from typing import Protocol as TypingProtocol
from typing import cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from mxflex.errors import CommandRefused, LocalProtocolError, RemoteProtocolError
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.commands import carry_out
from mxflex.simulator.company import Company, ServerAccount, User
from mxflex.simulator.faults import NO_FAULT, CommandFault, Faults
from mxflex.simulator.rendering import render
from mxflex.simulator.switchboard import Switchboard
from mxflex.wire.connection import EVENT_ID, BadFrame, CommandReceived, ServerConnection
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import (
    Acknowledgement,
    CallEvent,
    Command,
    CSTAError,
    Event,
    KeepAlive,
    LoggedOut,
    LoginFailed,
    LoginRequest,
    LoginResponse,
    Logout,
    Message,
    ServerKeepAlive,
    UnknownCommand,
    hash_password,
)

log = Logger()

SERVER = "Server"
USER = "User"

CODE_WRONG_PASSWORD = 2
CODE_NOT_IN_THIS_FORM = 4
CODE_ALREADY_LOGGED_IN = 5
CODE_EXPIRED = -1

# What servers give as `userId` to sessions that belong to no user.
NO_USER = 2**32 - 1

# An id that a client will hardly have in use when the fault `wrong_id` borrows it.
BORROWED_ID = 9998

# Commands that clients do not wait for: an error belongs to no answer and comes as an event.
UNAWAITED = frozenset({"iq", "presence", "message", "messageAck"})

_SERVER_USER_IDS = {"absent": None, "zero": 0, "max": NO_USER}


class Exchange(TypingProtocol):
    """What a session needs of the MX that it belongs to."""

    company: Company
    behaviour: Behaviour
    faults: Faults
    switchboard: Switchboard
    clock: IReactorTime

    def command_came(self, session: Session, invoke_id: int, command: Command) -> None:
        """Take note of a command."""

    def session_began(self, session: Session, *, forced: bool) -> None:
        """Take note of a login, and end older sessions of that account when forced."""

    def session_ended(self, session: Session) -> None:
        """Take note of the end of a connection."""

    def is_logged_in(self, login: str) -> bool:
        """Tell whether an account has a session."""

    def take_monitor_id(self, session: Session) -> str:
        """Give the id of a new monitor."""

    def deliver(self) -> None:
        """Send the events of what has happened on the switchboard."""

    def settle(self) -> None:
        """Look after whoever waits for something to happen."""


def command_name(command: Command) -> str:
    """Give a command's root element."""
    return command.name if isinstance(command, UnknownCommand) else command.wire_name


class Session(Protocol):
    """One connection.

    Attributes:
        type: `Server` or `User` after the login; "" before.
        login: The account; "" before the login.
        user: The person of a user session.
        monitors: The extension behind each `monitorCrossRefID`.
        watches_book: Whether changes of the address book are sent.
        monitors_started: How many monitors this session has ever had.
        is_closing: Whether its end has begun; nothing more is sent or read.
    """

    exchange: Exchange

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.type = ""
        self.login = ""
        self.user: User | None = None
        self.monitors: dict[str, str] = {}
        self.watches_book = False
        self.monitors_started = 0
        self.is_closing = False
        self.is_closed = False
        self._wire = ServerConnection()
        self._outbox = bytearray()
        self._timers: set[IDelayedCall] = set()
        self._idle: IDelayedCall | None = None
        self._closed: list[Deferred[None]] = []

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<{self.type or 'new'} session of {self.login or 'nobody'}, {state}>"

    # --- The connection ---------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._restart_idle_timer()

    def dataReceived(self, data: bytes) -> None:
        self._restart_idle_timer()
        if self.exchange.faults.silent:
            return
        self._wire.receive_data(data)
        try:
            while not self.is_closing and (happened := self._wire.next_event()) is not None:
                if isinstance(happened, BadFrame):
                    self._reply(happened.invoke_id, CSTAError(text=happened.reason))
                else:
                    self._command_received(happened)
        except RemoteProtocolError as error:
            log.warn("a client of the simulated MX lost the framing: {error}", error=str(error))
            self.close()
        self.exchange.settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        self.is_closing = self.is_closed = True
        for timer in [*self._timers, *([self._idle] if self._idle else [])]:
            if timer.active():
                timer.cancel()
        self._timers.clear()
        self.exchange.session_ended(self)
        while self._closed:
            self._closed.pop().callback(None)

    def when_closed(self) -> Deferred[None]:
        """Give a Deferred that fires when the connection has ended."""
        waiter: Deferred[None] = Deferred(self._closed.remove)
        if self.is_closed:
            waiter.callback(None)
        else:
            self._closed.append(waiter)
        return waiter

    def close(self) -> None:
        """Close in order, once everything has been written."""
        if not self.is_closing and not self._outbox:
            self._tls.loseConnection()
        self.is_closing = True

    def drop(self) -> None:
        """Close by FIN, without a word of TLS."""
        self.is_closing = True
        tcp = self._tls.transport
        assert tcp is not None
        tcp.loseConnection()

    def reset(self) -> None:
        """Close by RST."""
        self.is_closing = True
        self._tls.abortConnection()

    @property
    def _tls(self) -> TLSMemoryBIOProtocol:
        return cast("TLSMemoryBIOProtocol", self.transport)

    def _restart_idle_timer(self) -> None:
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        seconds = self.exchange.behaviour.idle_timeout
        self._idle = None if seconds is None else self.exchange.clock.callLater(seconds, self.close)

    def _later(self, seconds: float, function: object, *args: object) -> None:
        def act() -> None:
            self._timers.discard(timer)
            function(*args)  # type: ignore[operator]

        timer = self.exchange.clock.callLater(seconds, act)
        self._timers.add(timer)

    # --- Writing ----------------------------------------------------------------------------------

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self.exchange.faults.silent or self.is_closing:
            return
        if self._outbox:
            self._outbox += data
        elif self.exchange.faults.byte_by_byte:
            self._outbox += data
            self._drip()
        else:
            self._tls.write(data)

    def _drip(self) -> None:
        self._tls.write(bytes(self._outbox[:1]))
        del self._outbox[:1]
        if self._outbox:
            self._later(0, self._drip)
        elif self.is_closing:
            self._tls.loseConnection()

    def send(self, invoke_id: int, message: Message) -> None:
        """Send a message with this id.

        Raises:
            LocalProtocolError: It does not fit a frame.
        """
        text = render(message, self.exchange.behaviour)
        self.send_raw(encode_frame(invoke_id, text.encode()))

    def send_event(self, event: Event) -> None:
        """Send an event as it is."""
        self.send(EVENT_ID, event)

    def send_call_event(self, device: str, event: CallEvent) -> None:
        """Send a call event once for each monitor of its device."""
        for monitor, monitored in list(self.monitors.items()):
            if monitored == device:
                self.send_event(attrs.evolve(event, monitor=monitor))

    def _reply(self, invoke_id: int, message: Message, fault: CommandFault = NO_FAULT) -> None:
        if fault.unanswered:
            return
        try:
            for _ in range(2 if fault.twice else 1):
                self.send(BORROWED_ID if fault.wrong_id else invoke_id, message)
        except LocalProtocolError as error:
            self.send(invoke_id, CSTAError(text=str(error), category="unspecified"))

    # --- Commands ---------------------------------------------------------------------------------

    def _command_received(self, received: CommandReceived) -> None:
        name = command_name(received.command)
        log.debug("simulated MX: {name} {invoke_id}", name=name, invoke_id=received.invoke_id)
        self.exchange.command_came(self, received.invoke_id, received.command)
        fault = self.exchange.faults.strike(name)
        if fault.delay:
            self._later(fault.delay, self._act_late, received, fault)
        else:
            self._act(received, fault)

    def _act_late(self, received: CommandReceived, fault: CommandFault) -> None:
        self._act(received, fault)
        self.exchange.settle()

    def _act(self, received: CommandReceived, fault: CommandFault) -> None:
        if fault.ignored:
            return
        if fault.drop:
            self.drop()
        elif fault.reset:
            self.reset()
        elif fault.raw:
            self.send_raw(fault.raw)
        elif fault.answer is not None:
            self._reply(received.invoke_id, fault.answer, fault)
        else:
            self._obey(received.invoke_id, received.command, fault)

    def _obey(self, invoke_id: int, command: Command, fault: CommandFault) -> None:
        match command:
            case KeepAlive():
                if self.exchange.behaviour.answer_keepalive:
                    self.send(invoke_id, ServerKeepAlive())
            case LoginRequest():
                self._log_in(invoke_id, command, fault)
            case Logout():
                self._log_out(invoke_id, fault)
            case _ if not self.type:
                error = CSTAError(text="accessDenied", category="security")
                self._reply(invoke_id, error, fault)
                if not self.exchange.behaviour.keep_open_before_login:
                    self.close()
            case _:
                self._carry_out(invoke_id, command, fault)

    def _carry_out(self, invoke_id: int, command: Command, fault: CommandFault) -> None:
        answer: Message | None
        events: tuple[Event, ...] = ()
        try:
            answer, events = carry_out(self, command)
        except CommandRefused as error:
            answer = CSTAError(text=str(error), category=error.category)
            if command_name(command) in UNAWAITED:
                invoke_id = EVENT_ID
        if self.exchange.behaviour.events_first:
            self.exchange.deliver()
        if answer is not None:
            self._reply(invoke_id, answer, fault)
        for event in events:
            self.send_event(event)
        self.exchange.deliver()

    # --- Login and logout -------------------------------------------------------------------------

    def _log_in(self, invoke_id: int, request: LoginRequest, fault: CommandFault) -> None:
        if self.exchange.faults.close_at_login:
            self.close()
            return
        if self.type:
            self._reply(invoke_id, CSTAError(text="alreadyLoggedIn", category="security"), fault)
            return
        company = self.exchange.company
        account: User | ServerAccount | None
        if request.type == SERVER:
            account = next((a for a in company.accounts if a.login == request.user_name), None)
        else:
            account = company.by_login(request.user_name)
        code = self._judge(account, request)
        if account is None or code > 0:
            self._refuse_login(invoke_id, code, fault)
            return
        self.type = SERVER if request.type == SERVER else USER
        self.login = account.login
        self.user = account if isinstance(account, User) else None
        self.watches_book = request.ab_notify
        self._reply(invoke_id, self._welcome(code), fault)
        self.exchange.session_began(self, forced=request.forced)
        delay = self.exchange.behaviour.presence_after_login
        if self.user is not None and delay is not None:
            self._later(delay, self._send_own_presence, self.user.jid)

    def _judge(self, account: User | ServerAccount | None, request: LoginRequest) -> int:
        """Give the code of the answer: above 0 for a refusal."""
        behaviour = self.exchange.behaviour
        if account is None:
            return CODE_WRONG_PASSWORD
        given = request.password.strip()
        in_directory = behaviour.hash_refused or (
            isinstance(account, User) and account.in_directory
        )
        if in_directory and given != account.password:
            return CODE_NOT_IN_THIS_FORM
        if given not in (account.password, hash_password(account.password).strip()):
            return CODE_WRONG_PASSWORD
        alone = behaviour.second_session == "allow" or request.forced
        if not alone and self.exchange.is_logged_in(account.login):
            return CODE_ALREADY_LOGGED_IN
        expired = isinstance(account, User) and account.password_expired
        return CODE_EXPIRED if expired else 0

    def _refuse_login(self, invoke_id: int, code: int, fault: CommandFault) -> None:
        busy = code == CODE_ALREADY_LOGGED_IN
        failed = LoginFailed(
            code=code,
            serial=self.exchange.company.serial,
            api_version=self.exchange.behaviour.api_version,
            text="User already logged in" if busy else "Invalid user name or password",
        )
        self._reply(invoke_id, failed, fault)
        if not self.exchange.behaviour.keep_open_after_refusal:
            self.close()

    def _welcome(self, code: int) -> LoginResponse:
        behaviour, user = self.exchange.behaviour, self.user
        common = LoginResponse(
            code=code,
            serial=self.exchange.company.serial,
            api_version=behaviour.api_version,
            text="Password Expired" if code else "Login OK",
        )
        if user is None:
            return attrs.evolve(common, user_id=_SERVER_USER_IDS[behaviour.server_user_id])
        return attrs.evolve(
            common,
            ext=user.ext,
            user_id=user.jid,
            # As long as a real one, and the same each time.
            soft_phone_password=hashlib.sha256(str(user.jid).encode()).hexdigest()[:32],
        )

    def _send_own_presence(self, jid: int) -> None:
        user = self.exchange.company.by_jid(jid)
        if user is not None:
            self.send_event(attrs.evolve(self.exchange.switchboard.presence_of(user), jid=0))

    def _log_out(self, invoke_id: int, fault: CommandFault) -> None:
        match self.exchange.behaviour.logout_answer:
            case "":
                pass
            case "Logout":
                self._reply(invoke_id, LoggedOut(mode="normal"), fault)
            case name:
                self._reply(invoke_id, Acknowledgement(name=name), fault)
        self.close()

    def force_out(self) -> None:
        """End the session as an administrator does: `Logout mode="forced"`, then close."""
        self.send_event(LoggedOut(mode="forced"))
        self.close()
