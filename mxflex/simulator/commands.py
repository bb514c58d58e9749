"""What the commands of a logged-in session do, and to whom they are permitted.

`carry_out` gives the answer and the events that belong to the asking session alone; what the other
devices see of it waits in the switchboard.

Source: docs/mx-protocol.md, "Commands".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from mxflex.errors import CommandRefused
from mxflex.simulator.company import User, dialled
from mxflex.simulator.switchboard import Call, Party
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookPage,
    AnswerCall,
    ClearConnection,
    Command,
    ConnectionCommand,
    DeflectCall,
    Event,
    GetAddressBook,
    GetServiceList,
    GetServiceListResponse,
    HoldCall,
    MakeCall,
    MakeCallResponse,
    Message,
    MonitorStart,
    MonitorStartAddressBook,
    MonitorStartResponse,
    MonitorStop,
    MonitorStopAddressBook,
    ParkCall,
    RetrieveCall,
    SetPresence,
    SingleStepTransferCall,
    SingleStepTransferCallResponse,
    SnapshotDevice,
    SnapshotDeviceResponse,
    StartRecording,
    StopRecording,
    TransferCall,
)

if TYPE_CHECKING:
    from mxflex.simulator.session import Session

Outcome = tuple[Message | None, tuple[Event, ...]]


def carry_out(session: Session, command: Command) -> Outcome:
    """Do what a session asks for.

    Returns:
        The answer, None when there is none, and the events for this session alone.

    Raises:
        CommandRefused: It cannot be done, or this session may not ask for it.
    """
    action = _ACTIONS.get(type(command))
    if action is None:
        raise CommandRefused("serviceNotSupported", "operation")
    return action(session, command)


def _acknowledge(session: Session, command: Command) -> Outcome:
    name = command.wire_name + session.exchange.behaviour.answer_suffix
    return Acknowledgement(name=name), ()


def _own_device(session: Session) -> str:
    """Give the extension that an empty device means: none for a server session."""
    user = _person(session)
    return "" if user is None else user.ext


def _person(session: Session) -> User | None:
    """Give the session's user as the address book has it now."""
    return None if session.user is None else session.exchange.company.by_jid(session.user.jid)


def _not_permitted() -> CommandRefused:
    return CommandRefused("privilegeViolationSpecifiedDevice", "operation")


# --- Monitors -------------------------------------------------------------------------------------


def _monitor_start(session: Session, command: MonitorStart) -> Outcome:
    behaviour = session.exchange.behaviour
    ext = command.device or _own_device(session)
    if session.exchange.company.user(ext) is None:
        raise CommandRefused("invalidDeviceID", "operation")
    user = _person(session)
    may_monitor_others = user is None or user.may_monitor or behaviour.users_monitor_others
    if ext != _own_device(session) and not may_monitor_others:
        raise _not_permitted()
    if behaviour.max_monitors is not None and len(session.monitors) >= behaviour.max_monitors:
        raise CommandRefused("resourceLimitExceeded", "subscribedResourceAvailability")
    same = next((m for m, device in session.monitors.items() if device == ext), None)
    if same is not None and behaviour.second_monitor == "error":
        raise CommandRefused("objectMonitorLimitExceeded", "subscribedResourceAvailability")
    if same is not None and behaviour.second_monitor == "same":
        return MonitorStartResponse(monitor=same), ()
    monitor = session.exchange.take_monitor_id(session)
    session.monitors[monitor] = ext
    for event in session.exchange.faults.before_monitor_answer:
        session.send_event(attrs.evolve(event, monitor=monitor))
    return MonitorStartResponse(monitor=monitor), ()


def _monitor_stop(session: Session, command: MonitorStop) -> Outcome:
    if session.monitors.pop(command.monitor, None) is None:
        raise CommandRefused("invalidMonitorCrossRefID", "operation")
    return _acknowledge(session, command)


def _watch_book(session: Session, command: MonitorStartAddressBook) -> Outcome:
    session.watches_book = True
    return _acknowledge(session, command)


def _ignore_book(session: Session, command: MonitorStopAddressBook) -> Outcome:
    session.watches_book = False
    return _acknowledge(session, command)


# --- Address book, presence, questions ------------------------------------------------------------


def _book_page(session: Session, command: GetAddressBook) -> Outcome:
    behaviour = session.exchange.behaviour
    index, size = max(command.index or 0, 0), behaviour.page_size
    users = list(session.exchange.company)
    pages = -(-len(users) // size)
    page = AddressBookPage(
        size=pages if behaviour.book_size == "pages" else len(users),
        index=index if behaviour.book_index else None,
        entries=tuple(user.entry() for user in users[index * size : (index + 1) * size]),
    )
    return (page, ()) if behaviour.book_answer == "command" else (None, (page,))


def _set_presence(session: Session, command: SetPresence) -> Outcome:
    user = _person(session)
    if user is None:
        raise CommandRefused("invalidDeviceID", "operation")
    session.exchange.switchboard.set_presence(user.jid, command.status, command.note)
    return None, ()


def _snapshot(session: Session, command: SnapshotDevice) -> Outcome:
    ext = command.device or _own_device(session)
    user = _person(session)
    if session.exchange.company.user(ext) is None:
        raise CommandRefused("invalidDeviceID", "operation")
    if user is not None and user.ext != ext:
        raise _not_permitted()
    return SnapshotDeviceResponse(calls=session.exchange.switchboard.snapshot(ext)), ()


def _services(session: Session, _command: GetServiceList) -> Outcome:
    return GetServiceListResponse(services=session.exchange.company.services), ()


# --- Calls ----------------------------------------------------------------------------------------


def _make_call(session: Session, command: MakeCall) -> Outcome:
    exchange, user = session.exchange, _person(session)
    board, behaviour = exchange.switchboard, exchange.behaviour
    device, via = command.calling_device.strip() or _own_device(session), ""
    if exchange.company.user(device) is None:
        # An outside telephone: the own one of a user, or anybody's when the server asks.
        owner = user or exchange.company.by_phone(device)
        if owner is not None and len(dialled(device)) > len(owner.ext):
            device, via = owner.ext, dialled(device)
        elif user is None:
            device = dialled(device)
    if user is not None and device != user.ext:
        raise _not_permitted()
    # An id of its own for the answer, taken ahead of that of the events.
    other_id = board.take_call_id() if behaviour.make_call_id_differs else None
    _, party = board.make_call(device, command.called, via)
    by_number = behaviour.outside_caller_device == "number" and party.alias
    return (
        MakeCallResponse(
            connection=ConnectionID(
                party.call_id if other_id is None else other_id,
                party.alias if by_number else party.number,
            ),
            called=command.called,
        ),
        (),
    )


def _find(session: Session, connection: ConnectionID) -> tuple[Call, Party]:
    device = connection.device_id or _own_device(session)
    found = session.exchange.switchboard.find(device, connection.call_id)
    user = _person(session)
    if user is not None and found[1].number != user.ext:
        raise _not_permitted()
    return found


def _simply(
    operation: Callable[[Session, Call, Party], object],
) -> Callable[[Session, ConnectionCommand], Outcome]:
    """Make an action of an operation on one connection that has an empty answer."""

    def act(session: Session, command: ConnectionCommand) -> Outcome:
        operation(session, *_find(session, command.connection))
        return _acknowledge(session, command)

    return act


def _retrieve(session: Session, command: RetrieveCall) -> Outcome:
    try:
        call, party = _find(session, command.connection)
    except CommandRefused as not_there:
        device = command.connection.device_id or _own_device(session)
        user = _person(session)
        if user is not None and device != user.ext:
            raise _not_permitted() from not_there
        session.exchange.switchboard.pick_up(device, command.connection.call_id)
    else:
        session.exchange.switchboard.retrieve(call, party)
    return _acknowledge(session, command)


def _single_step_transfer(session: Session, command: SingleStepTransferCall) -> Outcome:
    call, party = _find(session, command.connection)
    target = session.exchange.switchboard.single_step_transfer(call, party, command.destination)
    return (
        SingleStepTransferCallResponse(connection=ConnectionID(target.call_id, target.number)),
        (),
    )


def _transfer(session: Session, command: TransferCall) -> Outcome:
    held, active = _find(session, command.connection), _find(session, command.active)
    session.exchange.switchboard.transfer(held, active)
    return _acknowledge(session, command)


def _deflect(session: Session, command: DeflectCall) -> Outcome:
    call, party = _find(session, command.connection)
    session.exchange.switchboard.deflect(call, party, command.destination)
    return _acknowledge(session, command)


_ACTIONS: dict[type[Command], Callable[[Session, Any], Outcome]] = {
    MonitorStart: _monitor_start,
    MonitorStop: _monitor_stop,
    MonitorStartAddressBook: _watch_book,
    MonitorStopAddressBook: _ignore_book,
    GetAddressBook: _book_page,
    SetPresence: _set_presence,
    SnapshotDevice: _snapshot,
    GetServiceList: _services,
    MakeCall: _make_call,
    AnswerCall: _simply(lambda s, call, party: s.exchange.switchboard.answer(call, party)),
    ClearConnection: _simply(lambda s, call, party: s.exchange.switchboard.clear(call, party)),
    HoldCall: _simply(lambda s, call, party: s.exchange.switchboard.hold(call, party)),
    RetrieveCall: _retrieve,
    ParkCall: _simply(lambda s, call, party: s.exchange.switchboard.park(call, party)),
    SingleStepTransferCall: _single_step_transfer,
    TransferCall: _transfer,
    DeflectCall: _deflect,
    StartRecording: _simply(
        lambda s, call, party: s.exchange.switchboard.record(call, party, active=True)
    ),
    StopRecording: _simply(
        lambda s, call, party: s.exchange.switchboard.record(call, party, active=False)
    ),
}
