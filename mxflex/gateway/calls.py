"""The calls of the watched extensions: what is known of them, whose they are, and the commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial, singledispatch

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import CommandRefused, Forbidden, MXError, MXUnavailable
from mxflex.gateway.tokens import Identity
from mxflex.mx.link import ServerLink
from mxflex.mx.places import Places
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    AnswerCall,
    CallEvent,
    ClearConnection,
    ConnectionClearedEvent,
    ConnectionCommand,
    ConnectionEvent,
    DeflectCall,
    DeliveredEvent,
    DeviceCall,
    DivertedEvent,
    EstablishedEvent,
    Event,
    FailedEvent,
    HeldEvent,
    HoldCall,
    MakeCall,
    MakeCallResponse,
    NetworkReachedEvent,
    OriginatedEvent,
    ParkCall,
    RecordingStateEvent,
    RetrieveCall,
    RetrievedEvent,
    ServiceInitiatedEvent,
    SingleStepTransferCall,
    SnapshotDevice,
    SnapshotDeviceResponse,
    StartRecording,
    StopRecording,
    TransferCall,
    TransferredEvent,
)

log = Logger()

# A call that was diverted or handed on should be cleared by the MX. Where it is not, the call is no
# longer shown after this time, in seconds.
LEAVING_SECONDS = 60.0
# A call without any event for so long has ended unseen, in seconds.
STALE_SECONDS = 24 * 3600.0
# Calls kept for one extension, and connections remembered from calls that it made: more than a
# telephone can have, few enough that a faulty MX does not fill the memory.
MAX_CALLS = 200
# Extensions whose calls are asked for side by side after a reconnect: there may be thousands.
REFRESH_AT_ONCE = 16

# ECMA-269, "connection states".
CONNECTION_STATES = frozenset(
    ("null", "initiated", "alerting", "connected", "hold", "queued", "fail")
)

INCOMING = "incoming"
OUTGOING = "outgoing"


@attrs.define(eq=False)
class Call:
    """A call of one extension, as its events tell it.

    Attributes:
        call_id: The id at this extension.
        device_id: The device that commands on the call must name.
        started_at: When the call was first heard of; all times in seconds since the epoch.
        since: When its state began.
        updated_at: When it was last heard of.
        state: The local connection state (ECMA-269).
        direction: `incoming`, `outgoing`, or "" when its beginning was not seen.
        answered_at: When it was first established; None before.
        recording: Whether it is being recorded.
        left_at: When it was diverted or handed on, so that only its end is still to come; None
            while it is the extension's.
    """

    call_id: int | str
    device_id: str
    started_at: float
    since: float
    updated_at: float
    state: str = ""
    direction: str = ""
    global_call_id: str = ""
    calling_device: str = ""
    calling_display_name: str = ""
    called_device: str = ""
    answering_device: str = ""
    answering_display_name: str = ""
    answered_at: float | None = None
    recording: bool = False
    left_at: float | None = None

    @property
    def dialling(self) -> bool:
        """Whether it may be a call of the extension's own that nobody has answered yet."""
        return self.direction != INCOMING and self.answered_at is None and self.state != "null"

    @property
    def leaving(self) -> bool:
        """Whether it has been diverted or handed on."""
        return self.left_at is not None

    def is_over(self, now: float) -> bool:
        """Tell whether the call must have ended, although the MX did not say so."""
        return now - self.updated_at > STALE_SECONDS

    def is_shown(self, now: float) -> bool:
        """Tell whether it is still the extension's, or was a moment ago.

        After that it is kept, or else the next word of it would seem to be of a new call.
        """
        return self.left_at is None or now - self.left_at <= LEAVING_SECONDS


def _state(told: str, otherwise: str) -> str:
    return told if told in CONNECTION_STATES else otherwise


def _is_own(device: str, ext: str, call: Call) -> bool:
    """Tell whether a device of an event is the extension; one left out is taken for it."""
    return device in ("", ext, call.device_id)


class CallRegistry:
    """What the events of each watched extension say about its calls.

    Args:
        clock: Gives the time, in seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[str, dict[int | str, Call]] = {}
        # Devices of calls made here, by call id. Not calls yet: the events of the call that the MX
        # answered with one id may come with another.
        self._made: dict[str, dict[int | str, str]] = {}

    def watch(self, ext: str) -> None:
        """Begin to take what is said about an extension; before, nothing is kept. Idempotent."""
        self._calls.setdefault(ext, {})

    def forget(self, ext: str) -> None:
        """Stop watching an extension and forget all its calls. Idempotent."""
        self._calls.pop(ext, None)
        self._made.pop(ext, None)

    def forget_unheard(self, ext: str, since: float) -> None:
        """Forget the calls that no event has told of since a time."""
        calls = self._calls.get(ext, {})
        for call in [call for call in calls.values() if call.updated_at <= since]:
            del calls[call.call_id]
        self._made.pop(ext, None)

    def calls(self, ext: str) -> list[Call]:
        """Give the calls of an extension, the oldest first."""
        now = self._clock()
        calls = self._calls.get(ext, {})
        for call in [call for call in calls.values() if call.is_over(now)]:
            del calls[call.call_id]
        return [call for call in calls.values() if call.is_shown(now)]

    def find(self, ext: str, call_id: int | str) -> Call | None:
        """Give one call of an extension."""
        return next((call for call in self.calls(ext) if call.call_id == call_id), None)

    def state_of(self, ext: str, connection: ConnectionID) -> str | None:
        """Give the state of a connection of the extension's.

        Returns:
            The state; "" when the call is known and its state is not; None for a connection that is
            not known to be the extension's.
        """
        call = self.find(ext, connection.call_id)
        if call is not None and connection.device_id in (ext, call.device_id):
            return call.state
        made_with = self._made.get(ext, {}).get(connection.call_id)
        return "" if made_with is not None and connection.device_id in (ext, made_with) else None

    def made(self, ext: str, connection: ConnectionID) -> None:
        """Remember that the extension's user has made a call with this connection."""
        if not connection.call_id:
            return
        made = self._made.setdefault(ext, {})
        made[connection.call_id] = connection.device_id
        if len(made) > MAX_CALLS:
            del made[next(iter(made))]

    def found(self, ext: str, calls: Iterable[DeviceCall]) -> None:
        """Take the calls that the MX says the extension has at this moment."""
        now = self._clock()
        for each in calls:
            if ext not in self._calls or each.state == "null":
                continue
            call = self._call(ext, each.connection, now)
            call.updated_at = now
            if call.leaving or not call.state:
                call.left_at = None
                call.state = _state(each.state, "connected")

    def observe(self, ext: str, event: CallEvent) -> None:
        """Take what an event says."""
        if ext not in self._calls:
            return
        if not isinstance(event, ConnectionEvent) or not event.connection.call_id:
            # The event of a parked call names the place alone.
            return
        if isinstance(event, ConnectionClearedEvent):
            self._cleared(ext, event.connection)
            return
        if isinstance(event, RecordingStateEvent) and not self.find(ext, event.connection.call_id):
            # It may come behind the end of its call.
            return
        now = self._clock()
        call = self._call(ext, event.connection, now)
        before = call.state
        _update(event, call, ext, now)
        call.updated_at = now
        if call.state != before:
            call.since = now

    def _cleared(self, ext: str, connection: ConnectionID) -> None:
        call = self._calls[ext].get(connection.call_id)
        # In a conference others may leave, and the call goes on.
        if call is not None and _is_own(connection.device_id, ext, call):
            del self._calls[ext][call.call_id]
            self._made.get(ext, {}).pop(call.call_id, None)

    def _call(self, ext: str, connection: ConnectionID, now: float) -> Call:
        calls = self._calls[ext]
        call = calls.get(connection.call_id)
        if call is None:
            call = calls[connection.call_id] = Call(
                call_id=connection.call_id,
                device_id=connection.device_id or ext,
                started_at=now,
                since=now,
                updated_at=now,
            )
            if len(calls) > MAX_CALLS:
                del calls[next(iter(calls))]
        call.global_call_id = connection.global_call_id or call.global_call_id
        return call


@singledispatch
def _update(_event: ConnectionEvent, _call: Call, _ext: str, _now: float) -> None:
    """Change a call by one event of it; docs/api.md, "Calls", has the table of states."""


@_update.register
def _(event: ServiceInitiatedEvent, call: Call, _ext: str, _now: float) -> None:
    call.direction = call.direction or OUTGOING
    call.calling_device = event.initiating_device or call.calling_device
    call.state = _state(event.local_connection_info, "initiated")


@_update.register
def _(event: OriginatedEvent, call: Call, ext: str, _now: float) -> None:
    call.direction = call.direction or OUTGOING
    call.left_at = None
    _set_parties(call, ext, event)
    call.state = _state(event.local_connection_info, "connected")


@_update.register
def _(event: NetworkReachedEvent, call: Call, ext: str, _now: float) -> None:
    _set_parties(call, ext, event)
    if call.dialling:
        call.left_at = None
    call.state = call.state or _state(event.local_connection_info, "connected")


@_update.register
def _(event: DeliveredEvent, call: Call, ext: str, _now: float) -> None:
    _set_parties(call, ext, event)
    call.calling_display_name = event.calling_display_name or call.calling_display_name
    _locate(call, ext, event.alerting_device)
    if call.leaving:
        call.state = "null"
    elif not _holds(call, ext, event.alerting_device):
        call.state = _state(event.local_connection_info, "alerting")
    # Whoever answered before has handed the call on to the one that rings.
    call.answering_device = call.answering_display_name = ""


@_update.register
def _(event: EstablishedEvent, call: Call, ext: str, now: float) -> None:
    _set_parties(call, ext, event)
    call.calling_display_name = event.calling_display_name or call.calling_display_name
    if event.answering_device not in ("", call.answering_device):
        call.answering_device, call.answering_display_name = event.answering_device, ""
    call.answering_display_name = event.answering_display_name or call.answering_display_name
    _locate(call, ext, event.answering_device)
    if call.leaving:
        call.state = "null"
    elif not _holds(call, ext, event.answering_device):
        call.state = "connected"
        call.answered_at = now if call.answered_at is None else call.answered_at


@_update.register
def _(event: HeldEvent, call: Call, ext: str, _now: float) -> None:
    if _is_own(event.holding_device, ext, call):
        call.left_at = None
        call.state = _state(event.local_connection_info, "hold")
    else:
        # When the other party holds, this extension's own connection stays connected.
        call.state = call.state or "connected"


@_update.register
def _(event: RetrievedEvent, call: Call, ext: str, _now: float) -> None:
    if _is_own(event.retrieving_device, ext, call):
        call.left_at = None
        call.state = _state(event.local_connection_info, "connected")
    else:
        call.state = call.state or "connected"


@_update.register
def _(event: FailedEvent, call: Call, ext: str, _now: float) -> None:
    _set_parties(call, ext, event)
    _locate(call, ext, event.called_device)
    call.state = "null" if call.leaving else "fail"


@_update.register
def _(event: DivertedEvent, call: Call, ext: str, now: float) -> None:
    if _is_own(event.diverting_device, ext, call):
        call.left_at = now
        # A call that is diverted on its way out goes on; its next event will say so. One that is
        # diverted to the extension itself may ring on there, or go to its voicemail.
        if not call.dialling and not _is_own(event.new_destination, ext, call):
            call.state = "null"


@_update.register
def _(event: TransferredEvent, call: Call, ext: str, now: float) -> None:
    if _is_own(event.transferring_device, ext, call):
        call.left_at = now
        call.state = "null"
    else:
        call.state = call.state or "connected"


@_update.register
def _(event: RecordingStateEvent, call: Call, _ext: str, _now: float) -> None:
    call.recording = event.active


def _locate(call: Call, ext: str, device: str) -> None:
    """Take a call that has left for the extension's again, unless it goes on at another device.

    Servers go on telling the extension of a call that its voicemail took. Source:
    docs/mx-protocol.md, "Call scenarios".
    """
    if call.dialling or _is_own(device, ext, call):
        call.left_at = None


def _holds(call: Call, ext: str, device: str) -> bool:
    """Tell whether the extension holds a call at whose other end this device takes over."""
    return call.state == "hold" and not _is_own(device, ext, call)


def _set_parties(
    call: Call,
    ext: str,
    event: OriginatedEvent | NetworkReachedEvent | DeliveredEvent | EstablishedEvent | FailedEvent,
) -> None:
    if not call.direction and event.calling_device:
        own = event.calling_device in (ext, call.device_id)
        call.direction = OUTGOING if own else INCOMING
    if event.calling_device not in ("", call.calling_device):
        # The name that is known belongs to the other number.
        call.calling_device, call.calling_display_name = event.calling_device, ""
    call.called_device = event.called_device or call.called_device


@attrs.frozen(kw_only=True)
class MadeCall:
    """The answer to a call that was made.

    Attributes:
        connection: What commands on the call must name.
        called: The number, as the MX understood it.
    """

    connection: ConnectionID
    called: str


# What people write into telephone numbers for the eye, and what telephones put around those that
# are copied from their address book: marks of the direction of writing.
_LAYOUT = re.compile(r"[\s().\-/\u2010-\u2015\u2212\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"\+?[0-9]+")
_DIALLED = re.compile(r"[+*#0-9]+")


def _same_for_the_mx(number: str) -> str:
    """Give a number without what does not tell it from another: an MX may drop the plus."""
    return _LAYOUT.sub("", number).removeprefix("+")


def _dialled(number: str) -> str:
    """Give a number without what is for the eye; what is no number stays as it is."""
    # +44 (0)20: what is dialled within the country only.
    plain = _LAYOUT.sub("", number.replace("(0)", "") if "+" in number else number)
    return plain if _DIALLED.fullmatch(plain) else number


class Calls:
    """Call control on behalf of a user.

    Args:
        link: The server connection.
        registry: What is known of the calls.
        restrict: Whether users may act on their own calls alone.

    Attributes:
        restrict: As given; may be changed.
    """

    def __init__(self, link: ServerLink, registry: CallRegistry, restrict: bool) -> None:
        self._link = link
        self._registry = registry
        self.restrict = restrict
        self._places = Places(REFRESH_AT_ONCE)

    # --- What is known ------------------------------------------------------------------------

    def of(self, identity: Identity) -> list[Call]:
        """Give the calls of the user's extension, the oldest first."""
        return self._registry.calls(identity.ext)

    def watch(self, ext: str) -> None:
        """Begin to know the calls of an extension. Idempotent."""
        self._registry.watch(ext)

    def forget(self, ext: str) -> None:
        """Stop watching an extension and forget all its calls. Idempotent."""
        self._registry.forget(ext)

    def observe(self, ext: str, event: CallEvent) -> None:
        """Take what an event says."""
        self._registry.observe(ext, event)

    def resume(self, ext: str, since: float) -> None:
        """Forget the calls that were not heard of since then, and ask the MX which there are."""
        self._registry.forget_unheard(ext, since)
        self.refresh(ext)

    def refresh(self, ext: str) -> None:
        """Ask the MX, in the background, which calls the extension has already."""

        def failed(failure: Failure) -> None:
            if failure.check(MXError):
                log.debug("calls of {ext} not read: {error}", ext=ext, error=failure.value)
            else:
                log.failure("reading the calls of {ext} failed", failure, ext=ext)

        Deferred.fromCoroutine(self._refresh(ext)).addErrback(failed)

    async def _refresh(self, ext: str) -> None:
        async with self._places:
            await self._ask_for_calls(ext)

    async def _ask_for_calls(self, ext: str) -> tuple[DeviceCall, ...]:
        answer = await self._link.request(SnapshotDevice(device=ext))
        if not isinstance(answer, SnapshotDeviceResponse):
            return ()
        self._registry.found(ext, answer.calls)
        return answer.calls

    # --- Commands -----------------------------------------------------------------------------
    # All raise Forbidden (not the user's call), CommandRefused, MXUnavailable, MXTimeout, and
    # LocalProtocolError for a text that cannot be sent.

    async def make(self, identity: Identity, to: str, calling: str) -> MadeCall:
        """Make a call.

        Args:
            identity: Who wants it.
            to: The number to call.
            calling: The device to call from; "" for the user's extension.
        """
        device = self._calling_device(identity, calling)
        to = _dialled(to)
        answer = await self._link.request(MakeCall(calling_device=device, called=to))
        if not isinstance(answer, MakeCallResponse):
            raise MXError("the MX answered the call in an unknown way")
        connection = attrs.evolve(
            answer.connection, device_id=answer.connection.device_id or identity.ext
        )
        self._registry.made(identity.ext, connection)
        return MadeCall(connection=connection, called=answer.called or to)

    def _calling_device(self, identity: Identity, calling: str) -> str:
        if not calling or calling == identity.ext:
            return identity.ext
        if not self.restrict:
            return calling
        number = _dialled(calling)
        if _same_for_the_mx(number) == _same_for_the_mx(identity.ext):
            return identity.ext
        book = self._link.address_book
        if not book.loaded:
            raise MXUnavailable("the address book has not been read yet")
        # What was checked is sent, not what was written.
        extensions = {_same_for_the_mx(entry.ext) for entry in book.entries.values()}
        if not _NUMBER.fullmatch(number) or _same_for_the_mx(number) in extensions:
            raise Forbidden("calls may only be made from the own extension or an outside number")
        return number

    async def answer(self, identity: Identity, connection: ConnectionID) -> None:
        """Answer a ringing call."""
        await self._act(identity, AnswerCall(connection=connection))

    async def hang_up(self, identity: Identity, connection: ConnectionID) -> None:
        """Leave a call, or reject a ringing one."""
        await self._act(identity, ClearConnection(connection=connection))

    async def hold(self, identity: Identity, connection: ConnectionID) -> None:
        """Put a call on hold; take it back if it is held."""
        held = await self._look_up(identity, connection) == "hold"
        command = RetrieveCall if held else HoldCall
        await self._send(identity, command(connection=connection))

    async def retrieve(self, identity: Identity, connection: ConnectionID) -> None:
        """Take a call back from hold."""
        await self._act(identity, RetrieveCall(connection=connection))

    async def deflect(self, identity: Identity, connection: ConnectionID, to: str) -> None:
        """Send a ringing call to another number."""
        await self._act(identity, DeflectCall(connection=connection, destination=_dialled(to)))

    async def park(self, identity: Identity, connection: ConnectionID) -> None:
        """Park a call."""
        await self._act(identity, ParkCall(connection=connection))

    async def transfer(self, identity: Identity, connection: ConnectionID, to: str) -> None:
        """Hand an answered call to another number."""
        command = SingleStepTransferCall(connection=connection, destination=_dialled(to))
        await self._act(identity, command)

    async def transfer_consult(
        self, identity: Identity, held: ConnectionID, active: ConnectionID
    ) -> None:
        """Join a held call and an active one, and leave both."""
        await self._look_up(identity, active)
        await self._act(identity, TransferCall(connection=held, active=active))

    async def start_recording(self, identity: Identity, connection: ConnectionID) -> None:
        """Begin to record a call."""
        await self._act(identity, StartRecording(connection=connection))

    async def stop_recording(self, identity: Identity, connection: ConnectionID) -> None:
        """End the recording of a call."""
        await self._act(identity, StopRecording(connection=connection))

    async def _act(self, identity: Identity, command: ConnectionCommand) -> None:
        await self._look_up(identity, command.connection)
        await self._send(identity, command)

    async def _send(self, identity: Identity, command: ConnectionCommand) -> None:
        monitor = self._link.monitors.monitor_of(identity.ext)
        await self._link.request(command, partial(_confirms, command, monitor))

    async def _look_up(self, identity: Identity, connection: ConnectionID) -> str:
        """Give the state of a connection on which the user may act; "" for an unknown state.

        Raises:
            Forbidden: It is none of the user's.
            MXUnavailable, MXTimeout: It is not known whose it is, and the MX cannot be asked.
        """
        ext = identity.ext
        state = self._registry.state_of(ext, connection)
        if state is not None:
            return state
        if not self.restrict:
            return self._registry.state_of(connection.device_id, connection) or ""
        # The call may be older than what we know; then the MX knows it.
        try:
            calls = await self._ask_for_calls(ext)
        except CommandRefused as error:
            log.debug("calls of {ext} not read: {error}", ext=ext, error=error)
            calls = ()
        for call in calls:
            devices = (ext, call.connection.device_id)
            if call.connection.call_id == connection.call_id and connection.device_id in devices:
                return call.state
        raise Forbidden("this is not a call of your extension")


def _confirms(command: ConnectionCommand, monitor: str | None, event: Event) -> bool:
    """Tell whether an event shows that a command was carried out."""
    confirmed_by = command.confirmed_by
    if confirmed_by is None or not isinstance(event, confirmed_by) or event.monitor != monitor:
        return False
    if isinstance(event, RecordingStateEvent):
        started = isinstance(command, StartRecording)
        if event.active is not started:
            return False
    return event.connection.call_id == command.connection.call_id
