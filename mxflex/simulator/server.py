"""The simulated MX: listens, joins its sessions to the switchboard, and serves the tests.

    mx = SimulatedMX(reactor)
    port = await mx.listen()
    ...                                          # a client connects and monitors 3095
    await mx.when_monitored("3095")
    mx.call_in("+12025550104", "3095")           # DeliveredEvent
    mx.answer("3095")                            # EstablishedEvent
    await mx.when_command("ClearConnection")     # the client hangs up
    await mx.stop()

Nothing here waits by time: the `when_` methods give Deferreds that fire once something has happened
since the start of the simulator, at once if it has already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, ServerFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from mxflex.errors import CommandRefused
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.certificate import Certificate, ServerTLS, TLSAge
from mxflex.simulator.company import Company, User, example_company
from mxflex.simulator.faults import Faults
from mxflex.simulator.session import Session, command_name
from mxflex.simulator.switchboard import (
    BookNotice,
    Call,
    DeviceNotice,
    Notice,
    Party,
    PresenceNotice,
    State,
    Switchboard,
)
from mxflex.simulator.telephones import Telephones
from mxflex.wire.messages import CallEvent, Command, Event

log = Logger()

LOOPBACK = "127.0.0.1"

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class ReceivedCommand:
    """A command that came.

    Attributes:
        name: The root element (`MonitorStop`).
        command: The command; passwords do not show in its repr.
        invoke_id: Its id.
        session: Where it came from.
        time: Seconds of the simulator's clock.
    """

    name: str
    command: Command
    invoke_id: int
    session: Session
    time: float


@attrs.define(eq=False)
class _Waiter:
    condition: Callable[[], object]
    deferred: Deferred[object]


class _Unanswering(Protocol):
    """A TCP connection that never gets as far as TLS.

    Attributes:
        received: Bytes that came in vain.
    """

    def __init__(self, door: _Door) -> None:
        self._door = door
        self.received = 0

    def connectionMade(self) -> None:
        faults = self._door.mx.faults
        if faults.reset_on_connect:
            self.abort()
        elif faults.close_on_connect:
            cast("ITCPTransport", self.transport).loseConnection()
        else:
            self._door.unanswered.add(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self._door.mx.settle()

    def connectionLost(self, reason: object = None) -> None:  # noqa: ARG002
        self._door.unanswered.discard(self)

    def abort(self) -> None:
        """Cut the connection."""
        cast("ITCPTransport", self.transport).abortConnection()


class _Door(ServerFactory):
    """Below TLS: lets connections in, or does to them what the faults say."""

    noisy = False

    def __init__(self, mx: SimulatedMX, tls: ServerTLS) -> None:
        self.mx = mx
        self.unanswered: set[_Unanswering] = set()
        self._tls = TLSMemoryBIOFactory(tls, isClient=False, wrappedFactory=_Sessions(mx))

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        faults = self.mx.faults
        if faults.hang_in_tls or faults.close_on_connect or faults.reset_on_connect:
            return _Unanswering(self)
        return cast("Protocol", self._tls.buildProtocol(addr))


class _Sessions(Factory):
    """Above TLS: one session for each connection."""

    noisy = False

    def __init__(self, mx: SimulatedMX) -> None:
        self._mx = mx

    def buildProtocol(self, addr: IAddress | None) -> Session:  # noqa: ARG002
        session = Session(self._mx)
        self._mx.connections.append(session)
        return session


class SimulatedMX:
    """An MX.

    Args:
        reactor: Listens and keeps time.
        company: Who works there; `example_company()` by default.
        behaviour: The switches.
        certificate: What it shows; a fresh self-signed one by default.
        age: Which TLS it speaks.
        clock: Keeps the time instead of the reactor.
        first_call_id: The call id of the first call.
        first_counter: The counter in the global id of the first call.

    Attributes:
        switchboard: The calls; after operations on it call `deliver`.
        faults: How it misbehaves.
        connections: All open connections.
        commands: Every command that came, in order.
        logins: Every session that has logged in, in order, the ended ones too.
        address: Host and port, while it listens.
    """

    def __init__(
        self,
        reactor: IReactorTCP,
        company: Company | None = None,
        behaviour: Behaviour | None = None,
        *,
        certificate: Certificate | None = None,
        age: TLSAge | None = None,
        clock: IReactorTime | None = None,
        first_call_id: int = 1,
        first_counter: int = 1,
    ) -> None:
        self._reactor = reactor
        # Every reactor keeps time; the type of the one that listens does not say so.
        self.clock = clock or IReactorTime(reactor)
        self.company = company or example_company()
        self.behaviour = behaviour or Behaviour()
        self.faults = Faults()
        self.certificate = certificate or Certificate.self_signed()
        self.switchboard = Switchboard(
            company=self.company,
            behaviour=self.behaviour,
            unix_time=self.clock.seconds,
            next_call_id=first_call_id,
            next_counter=first_counter,
        )
        self.telephones = Telephones(self.clock, self.switchboard, self.behaviour, self.deliver)
        self.connections: list[Session] = []
        self.commands: list[ReceivedCommand] = []
        self.logins: list[Session] = []
        self.address: tuple[str, int] | None = None
        self.tls = ServerTLS(lambda: self.faults.certificate or self.certificate, age or TLSAge())
        self.door = _Door(self, self.tls)
        self._port: IListeningPort | None = None
        self._waiters: list[_Waiter] = []
        self._observers: list[Callable[[Notice], None]] = []
        self._monitors_started = 0

    # --- Listening --------------------------------------------------------------------------------

    def listen(self, port: int = 0, interface: str = LOOPBACK) -> Deferred[int]:
        """Begin to listen.

        Args:
            port: The TCP port; 0 for any free one.
            interface: The address.

        Returns:
            The port, as a Deferred that has fired.

        Raises:
            twisted.internet.error.CannotListenError: The port is taken.
        """
        self.listening_at(self._reactor.listenTCP(port, self.door, interface=interface))
        assert self.address is not None
        return succeed(self.address[1])

    def listening_at(self, port: IListeningPort) -> None:
        """Take over a port that was opened for `door`."""
        self._port = port
        host = cast("IPv4Address | IPv6Address", port.getHost())
        self.address = (host.host, host.port)
        log.info("simulated MX listens on {host}:{port}", host=host.host, port=host.port)

    async def refuse_connections(self) -> None:
        """Close the port, so that new connections are refused; the open ones stay."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    def accept_connections(self) -> None:
        """Open the same port again."""
        assert self.address is not None
        if self._port is None:
            host, port = self.address
            self.listening_at(self._reactor.listenTCP(port, self.door, interface=host))

    async def stop(self) -> None:
        """Close the port and cut all connections. `listen` may follow.

        Calls and people stay as they are, as in an MX that lost its network.
        """
        self.telephones.stop()
        await self.refuse_connections()
        ends = [session.when_closed() for session in self.connections]
        for session in list(self.connections):
            session.reset()
        for unanswered in list(self.door.unanswered):
            unanswered.abort()
        await DeferredList(ends)

    # --- What sessions tell -----------------------------------------------------------------------

    def command_came(self, session: Session, invoke_id: int, command: Command) -> None:
        """Take note of a command."""
        self.commands.append(
            ReceivedCommand(
                name=command_name(command),
                command=command,
                invoke_id=invoke_id,
                session=session,
                time=self.clock.seconds(),
            )
        )

    def session_began(self, session: Session, *, forced: bool) -> None:
        """Take note of a login, and end older sessions of that account when forced."""
        older = self.sessions
        self.logins.append(session)
        if forced:
            for other in older:
                if other is not session and other.login == session.login:
                    other.force_out()

    def session_ended(self, session: Session) -> None:
        """Take note of the end of a connection."""
        self.connections.remove(session)
        self.settle()

    def is_logged_in(self, login: str) -> bool:
        """Tell whether an account has a session."""
        return any(session.login == login for session in self.sessions)

    def take_monitor_id(self, session: Session) -> str:
        """Give the id of a new monitor."""
        self._monitors_started += 1
        session.monitors_started += 1
        per_session = self.behaviour.monitor_ids == "session"
        return str(session.monitors_started if per_session else self._monitors_started)

    # --- What tests watch -------------------------------------------------------------------------

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are logged in and do not end, oldest first."""
        return [s for s in self.connections if s.type and not s.is_closing]

    def received(self, name: str) -> list[ReceivedCommand]:
        """Give all commands of one name that came, in order."""
        return [command for command in self.commands if command.name == name]

    def monitors(self, ext: str) -> int:
        """Give how many monitors an extension has."""
        return sum(list(session.monitors.values()).count(ext) for session in self.sessions)

    def when(self, condition: Callable[[], _T | None]) -> Deferred[_T]:
        """Give a Deferred that fires with the first true value of a condition.

        The condition is asked now, and after each command and each end of a connection.
        """
        value = condition()
        if value:
            return succeed(value)
        waiter: _Waiter

        def forget(_deferred: Deferred[object]) -> None:
            self._waiters.remove(waiter)

        waiter = _Waiter(condition, Deferred(forget))
        self._waiters.append(waiter)
        return waiter.deferred  # type: ignore[return-value]

    def settle(self) -> None:
        """Fire the Deferreds of `when` whose condition has come true."""
        for waiter in list(self._waiters):
            value = waiter.condition()
            # A waiter may have been cancelled by what an earlier one set off.
            if value and waiter in self._waiters:
                self._waiters.remove(waiter)
                waiter.deferred.callback(value)

    def when_command(self, name: str, count: int = 1) -> Deferred[ReceivedCommand]:
        """Wait for a command, and for its being carried out.

        Args:
            name: The root element.
            count: Which one, counted from 1 since the start of the simulator.
        """

        def arrived() -> ReceivedCommand | None:
            received = self.received(name)
            return received[count - 1] if len(received) >= count else None

        return self.when(arrived)

    def when_session(self, session_type: str = "", count: int = 1) -> Deferred[Session]:
        """Wait for a login.

        Args:
            session_type: `Server`, `User`, or "" for either.
            count: Which one, counted from 1 since the start of the simulator.
        """

        def logged_in() -> Session | None:
            sessions = [s for s in self.logins if session_type in ("", s.type)]
            return sessions[count - 1] if len(sessions) >= count else None

        return self.when(logged_in)

    def when_monitored(self, ext: str) -> Deferred[Session]:
        """Wait until a session monitors an extension."""
        return self.when(
            lambda: next((s for s in self.sessions if ext in s.monitors.values()), None)
        )

    # --- Events -----------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Send the events of what has happened on the switchboard, each to whoever watches."""
        for notice in self.switchboard.drain():
            for observer in self._observers:
                observer(notice)
            for session in self.sessions:
                self._deliver_to(session, notice)
        self.telephones.look()

    def watch(self, observer: Callable[[Notice], None]) -> None:
        """Show everything that happens to an observer, monitored or not."""
        self._observers.append(observer)

    def _deliver_to(self, session: Session, notice: Notice) -> None:
        unasked = self.behaviour.book_events_unasked
        match notice:
            case DeviceNotice(device, event):
                session.send_call_event(device, event)
            case BookNotice(book_event):
                if session.watches_book or unasked:
                    session.send_event(book_event)
            case PresenceNotice(presence):
                if not self.behaviour.presence_events:
                    return
                if session.watches_book or unasked:
                    session.send_event(presence)
                elif session.user is not None and session.user.jid == presence.jid:
                    session.send_event(attrs.evolve(presence, jid=0))

    def send_event(self, ext: str, event: CallEvent) -> None:
        """Send a call event of one's own to the monitors of an extension."""
        for session in self.sessions:
            session.send_call_event(ext, event)

    def broadcast(self, event: Event) -> None:
        """Send an event as it is to every session."""
        for session in self.sessions:
            session.send_event(event)

    def send_raw(self, data: bytes, session_type: str = "") -> None:
        """Send bytes as they are to every session of a type; "" for all."""
        for session in self.sessions:
            if session_type in ("", session.type):
                session.send_raw(data)

    # --- Calls ------------------------------------------------------------------------------------

    def _in_state(self, number: str, *states: State) -> tuple[Call, Party]:
        return self.switchboard.latest(number, *states)

    def _do(self, operation: Callable[[], _T]) -> _T:
        try:
            return operation()
        finally:
            self.deliver()

    def call_in(self, from_number: str, ext: str, name: str = "") -> Call:
        """Let somebody outside call an extension, under a name.

        Raises:
            CommandRefused: Like all operations here, when it cannot be done.
        """
        return self._do(lambda: self.switchboard.call_in(from_number, ext, name)[0])

    def user_calls(self, ext: str, to: str) -> Call:
        """Let a user dial on the telephone."""
        return self._do(lambda: self.switchboard.make_call(ext, to)[0])

    def answer(self, number: str) -> Call:
        """Answer what rings at a number, inside or outside."""
        call, party = self._in_state(number, State.ALERTING)
        self._do(lambda: self.switchboard.answer(call, party))
        return call

    def hang_up(self, number: str) -> Call:
        """End the newest call in which a number takes part, whatever its state."""
        call, party = self._in_state(number)
        self._do(lambda: self.switchboard.clear(call, party))
        return call

    def fail(self, number: str, cause: str = "busy") -> Call:
        """Let the call fail that rings at a number."""
        call, _ = self._in_state(number, State.ALERTING)
        self._do(lambda: self.switchboard.fail(call, cause))
        return call

    def no_answer(self, ext: str) -> Call:
        """Give up what rings at an extension: voicemail takes it."""
        call, party = self._in_state(ext, State.ALERTING)
        self._do(lambda: self.switchboard.no_answer(call, party))
        return call

    def hold(self, number: str) -> Call:
        """Let a number put its call on hold."""
        call, party = self._in_state(number, State.CONNECTED)
        self._do(lambda: self.switchboard.hold(call, party))
        return call

    def retrieve(self, number: str) -> Call:
        """Let a number take its newest held call back."""
        call, party = self._in_state(number, State.HOLD)
        self._do(lambda: self.switchboard.retrieve(call, party))
        return call

    def transfer(self, ext: str, to: str) -> Call:
        """Let an extension hand its call on without asking."""
        call, party = self._in_state(ext, State.CONNECTED)
        self._do(lambda: self.switchboard.single_step_transfer(call, party, to))
        return call

    def join(self, ext: str) -> Call:
        """Let an extension join its held call and its active one, and leave both."""
        held = self._in_state(ext, State.HOLD)
        active = self._in_state(ext, State.CONNECTED)
        self._do(lambda: self.switchboard.transfer(held, active))
        return held[0]

    def deflect(self, ext: str, to: str) -> Call:
        """Let an extension send a ringing call elsewhere."""
        call, party = self._in_state(ext, State.ALERTING)
        self._do(lambda: self.switchboard.deflect(call, party, to))
        return call

    def park(self, ext: str) -> int:
        """Let an extension park its call; gives the park place."""
        call, party = self._in_state(ext, State.CONNECTED)
        return self._do(lambda: self.switchboard.park(call, party))

    def record(self, ext: str, active: bool = True) -> Call:
        """Let an extension begin or end the recording of its call."""
        call, party = self._in_state(ext, State.CONNECTED)
        self._do(lambda: self.switchboard.record(call, party, active=active))
        return call

    # --- People -----------------------------------------------------------------------------------

    def user(self, ext: str) -> User:
        """Give the user of an extension.

        Raises:
            CommandRefused: There is none.
        """
        user = self.company.user(ext)
        if user is None:
            raise CommandRefused("invalidDeviceID", "operation")
        return user

    def set_presence(self, ext: str, status: str, note: str | None = None) -> None:
        """Change a user's presence; None leaves the note as it is."""
        self._do(lambda: self.switchboard.set_presence(self.user(ext).jid, status, note))

    def add_user(self, user: User) -> None:
        """Add a user to the company."""
        self._do(lambda: self.switchboard.add_user(user))

    def update_user(self, user: User) -> None:
        """Replace a user's record; it is known by its id."""
        self._do(lambda: self.switchboard.update_user(user))

    def delete_user(self, ext: str) -> None:
        """Take a user out of the company."""
        self._do(lambda: self.switchboard.delete_user(self.user(ext).jid))

    # --- Ends of sessions -------------------------------------------------------------------------

    def _each(self, session_type: str, act: Callable[[Session], None]) -> None:
        for session in list(self.connections):
            if session_type in ("", session.type):
                act(session)

    def force_logout(self, session_type: str = "") -> None:
        """End sessions by `Logout mode="forced"`; "" for all."""
        self._each(session_type, Session.force_out)

    def drop(self, session_type: str = "") -> None:
        """Close connections by FIN; "" for all."""
        self._each(session_type, Session.drop)

    def reset(self, session_type: str = "") -> None:
        """Close connections by RST; "" for all."""
        self._each(session_type, Session.reset)
