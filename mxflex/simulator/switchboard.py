"""The call model of the simulated MX: operations in, events for each device out.

Pure: no clock, no sockets, no Twisted. An operation first checks whether it can be done and raises
`CommandRefused` with the words of CSTA if not; then it changes the calls and puts down what each
device of the company sees of it. `drain` hands those notices over, in the order in which an MX
would send them. Which of them reaches whom is decided by whoever holds the monitors.

A call has two live parties: two telephones, or a telephone and a service. A party's state is the
local connection state of ECMA-269; a party in the state `null` has left the call and is only told
how it goes on, as happens to a device whose call went to voicemail.

Source: docs/mx-protocol.md, "Call scenarios"; ECMA-269 for states and causes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

import attrs

from mxflex.errors import CommandRefused
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import (
    MIN_OUTSIDE_DIGITS,
    PARK,
    VOICEMAIL,
    Company,
    User,
    call_id_text,
    dialled,
    global_call_id,
)
from mxflex.simulator.mail import RECORDING, VOICE_MAIL, MailIncomingReady
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import (
    AddressBookAdded,
    AddressBookChanged,
    AddressBookDeleted,
    CallEvent,
    ConnectionClearedEvent,
    DeliveredEvent,
    DeviceCall,
    DivertedEvent,
    EstablishedEvent,
    Event,
    FailedEvent,
    HeldEvent,
    NetworkReachedEvent,
    OriginatedEvent,
    ParkedEvent,
    Presence,
    RecordingStateEvent,
    RetrievedEvent,
    ServiceInitiatedEvent,
    TransferredEvent,
)

# Flags as seen from real servers; what their bits mean is unknown.
FLAGS_ORIGINATED_OUTSIDE = 36700160
FLAGS_ORIGINATED_INSIDE = 3145728
FLAGS_CALL = 170917889
FLAGS_TO_VOICEMAIL = 137363459
FLAGS_VOICEMAIL_RINGS = 3145736
FLAGS_VOICEMAIL_ANSWERS = 137371651
FLAGS_HELD = 141565955
FLAGS_RETRIEVED = 3145728
COMMANDS_DIVERTED = 272
COMMANDS_HELD = 376

ON_CALL = "USER_ON_CALL_NO_MORE_LINES"
RINGING = "USER_HAS_RINGING_CALL"
ACCEPTS_IM = "USER_ACCEPTS_IM"

_DIALLABLE = re.compile(r"\+?[0-9*#]{2,32}")


class State(enum.StrEnum):
    """Local connection states (ECMA-269) that occur here."""

    NULL = "null"
    ALERTING = "alerting"
    CONNECTED = "connected"
    HOLD = "hold"
    FAIL = "fail"


@attrs.frozen
class DeviceNotice:
    """A call event for the monitors of one device; its `monitor` is still empty."""

    device: str
    event: CallEvent


@attrs.frozen
class BookNotice:
    """A change of the address book."""

    event: Event


@attrs.frozen
class PresenceNotice:
    """A change of one user's presence."""

    presence: Presence


Notice = DeviceNotice | BookNotice | PresenceNotice


@attrs.define(eq=False)
class Party:
    """One device's part in a call.

    Attributes:
        number: The extension, outside number or service.
        call_id: The call's id at this device.
        state: The local connection state.
        alias: The outside number through which an extension takes part; "" for its own telephone.
        recording: Whether this party records the call now.
        recorded: Whether it has ever recorded it.
    """

    number: str
    call_id: int | str
    state: State
    alias: str = ""
    recording: bool = False
    recorded: bool = False


@attrs.define(eq=False)
class Call:
    """One call.

    Attributes:
        counter: The counter inside the global id.
        global_id: The id of the call at all devices, decimal.
        id_text: The same id in its text form.
        calling: The number that calls.
        called: The number called, after diversions the new one.
        last_redirection: The device that sent the call to where it is; "" for none.
        parties: The live parties and those in the state `null`.
        presents_numbers: Whether numbers stand where names are due, as in calls that left for an
            outside number.
        presented_name: The name that the caller presents; "" for the known one.
        place: The park place; None when not parked.
        parked_ids: The call ids that `RetrieveCall` may name while the call is parked.
        mailbox: The extension whose voicemail took the call; "" for none.
        established_at: Unix seconds; None until first answered.
    """

    counter: int
    global_id: str
    id_text: str
    calling: str
    called: str
    parties: list[Party] = attrs.field(factory=list)
    last_redirection: str = ""
    presents_numbers: bool = False
    presented_name: str = ""
    place: int | None = None
    parked_ids: tuple[int | str, ...] = ()
    mailbox: str = ""
    established_at: int | None = None

    @property
    def live(self) -> list[Party]:
        """The parties that take part."""
        return [party for party in self.parties if party.state is not State.NULL]

    @property
    def ringing(self) -> Party | None:
        """The party that rings, if one does."""
        return next((p for p in self.parties if p.state is State.ALERTING), None)

    def party(self, number: str) -> Party | None:
        """Give the party with this number or alias, the live one first."""
        known = [p for p in self.parties if number in (p.number, p.alias)]
        return min(known, key=lambda p: p.state is State.NULL, default=None)

    def peer(self, party: Party) -> Party:
        """Give the live party at the other end."""
        return next(other for other in self.live if other is not party)


def _refuse(text: str, category: str = "operation") -> CommandRefused:
    return CommandRefused(text, category)


def _wrong_state() -> CommandRefused:
    return CommandRefused("invalidConnectionState", "stateIncompatibility")


@attrs.define(eq=False)
class Switchboard:
    """All calls of a company.

    Args:
        company: Who can call and be called.
        behaviour: The switches.
        unix_time: Gives the time in Unix seconds.
        next_call_id: The call id of the next call.
        next_counter: The counter in the global id of the next call.
    """

    company: Company
    behaviour: Behaviour
    unix_time: Callable[[], float] = lambda: 0.0
    next_call_id: int = 1
    next_counter: int = 1
    calls: list[Call] = attrs.field(factory=list, init=False)
    _notices: list[Notice] = attrs.field(factory=list, init=False)
    _mx_status: dict[int, str] = attrs.field(factory=dict, init=False)
    _next_mail_id: int = attrs.field(default=1, init=False)

    # --- What happened ----------------------------------------------------------------------------

    def drain(self) -> list[Notice]:
        """Take the notices of all operations since the last time.

        Presence goes last: a telephone is on a call once its call events have said so.
        """
        for user in self.company:
            status = self.mx_status(user.ext)
            if status != self._mx_status.get(user.jid, ACCEPTS_IM):
                self._mx_status[user.jid] = status
                self._notices.append(PresenceNotice(self.presence_of(user)))
        notices, self._notices = self._notices, []
        return notices

    def mx_status(self, ext: str) -> str:
        """Give the telephone states of an extension, joined by `|`."""
        states = {party.state for call in self.calls for party in call.live if party.number == ext}
        words = [ACCEPTS_IM]
        if State.ALERTING in states:
            words.append(RINGING)
        if states & {State.CONNECTED, State.HOLD}:
            words.append(ON_CALL)
        return "|".join(words)

    def presence_of(self, user: User) -> Presence:
        """Give a user's presence as it is sent."""
        status = user.presence
        if status == "NotAvailable" and self.behaviour.presence_typo:
            status = "NotAvaliable"
        return Presence(
            jid=user.jid, status=status, mx_status=self.mx_status(user.ext), note=user.note
        )

    def snapshot(self, ext: str) -> tuple[DeviceCall, ...]:
        """Give the calls that a device has."""
        return tuple(
            DeviceCall(connection=ConnectionID(party.call_id, ext), state=party.state)
            for call in self.calls
            for party in call.live
            if party.number == ext
        )

    def find(self, device: str, call_id: int | str) -> tuple[Call, Party]:
        """Give a call and a device's part in it.

        Raises:
            CommandRefused: There is no such connection.
        """
        for call in self.calls:
            party = call.party(device)
            if party is not None and party.call_id == call_id and self._is_ours(party):
                return call, party
        raise _refuse("invalidConnectionID")

    def latest(self, number: str, *states: State) -> tuple[Call, Party]:
        """Give the newest call in which a number takes part in one of these states.

        Raises:
            CommandRefused: There is none.
        """
        wanted = dialled(number)
        for call in reversed(self.calls):
            party = call.party(wanted)
            if party is not None and party in call.live and (not states or party.state in states):
                return call, party
        raise _refuse("invalidConnectionID")

    # --- Calls ------------------------------------------------------------------------------------

    def make_call(self, ext: str, to: str, via: str = "") -> tuple[Call, Party]:
        """Call from an extension.

        Args:
            ext: The caller; an outside number when the caller is nobody of the company.
            to: An extension, an outside number, a service, or `*77` with a park place.
            via: The outside number at which the caller speaks; "" for the own telephone.

        Returns:
            The call, which may have ended at once, and the caller's part in it.

        Raises:
            CommandRefused: No such caller, a number that cannot be dialled, no right to call, or
                the caller's current call cannot be put on hold.
        """
        number = dialled(to)
        self._check_may_call(ext, number)
        parked = self._parked_at(number)
        if parked is not None and parked.party(ext) is not None:
            raise _wrong_state()
        self._free_device(ext)
        if parked is not None:
            return self._pick_up_by_dialling(ext, number, parked)
        outside = self._is_outside(number)
        call = self._new_call(ext, number)
        call.presents_numbers = outside
        stranger = "" if self.company.user(ext) else ext
        caller = self._join(call, ext, State.CONNECTED, dialled(via) or stranger)
        self._originate(call, caller, outside=outside)
        reason = self._failure(number, ext)
        if reason:
            self._fail(call, reason)
        else:
            self._offer(call, number)
        return call, caller

    def call_in(self, number: str, to: str, name: str = "") -> tuple[Call, Party]:
        """Let somebody outside call an extension.

        Raises:
            CommandRefused: Nobody has that extension, or all its lines are taken.
        """
        caller = dialled(number)
        if not self._is_outside(caller):
            raise _refuse("invalidCallingDeviceID")
        if self.company.user(to) is None:
            raise _refuse("invalidCalledDeviceID")
        if self._failure(to, caller):
            raise _refuse("resourceBusy", "systemResourceAvailability")
        call = self._new_call(caller, to)
        call.presented_name = name
        self._join(call, caller, State.CONNECTED)
        called = self._offer(call, to)
        return call, called

    def answer(self, call: Call, party: Party) -> None:
        """Answer a ringing call.

        Raises:
            CommandRefused: It does not ring there.
        """
        if party.state is not State.ALERTING:
            raise _refuse("noCallToAnswer", "stateIncompatibility")
        self._check_may_talk(party.number)
        self._free_device(party.number)
        party.state = State.CONNECTED
        self._tell_established(call, party)

    def clear(self, call: Call, party: Party) -> None:
        """Hang up, reject a ringing call, or give up calling: the call ends.

        Raises:
            CommandRefused: The device has left the call already.
        """
        if party.state is State.NULL:
            raise _wrong_state()
        cause = "normalClearing" if call.established_at is not None else "callCancelled"
        self._end(call, releasing=party.number, cause=cause)

    def fail(self, call: Call, cause: str = "busy") -> None:
        """Let a call fail that is still ringing.

        Raises:
            CommandRefused: It does not ring any more.
        """
        if call.ringing is None:
            raise _wrong_state()
        self._fail(call, cause)

    def hold(self, call: Call, party: Party) -> None:
        """Put a call on hold.

        Raises:
            CommandRefused: The two are not talking.
        """
        self._check_talking(call, party)
        self._hold(call, party)

    def retrieve(self, call: Call, party: Party) -> None:
        """Take a call back from hold.

        Raises:
            CommandRefused: The device does not hold it, or cannot leave its current call.
        """
        if party.state is not State.HOLD:
            raise _wrong_state()
        self._check_may_talk(party.number)
        self._free_device(party.number)
        party.state = State.CONNECTED
        self._tell_retrieved(call, party)

    def single_step_transfer(self, call: Call, party: Party, to: str) -> Party:
        """Hand an answered call to another number; the device leaves.

        Returns:
            The new party, which rings.

        Raises:
            CommandRefused: The call is not answered, or the number cannot take it.
        """
        if party.state not in (State.CONNECTED, State.HOLD) or call.ringing is not None:
            raise _wrong_state()
        peer = call.peer(party)
        if self.company.service(peer.number) is not None:
            raise _wrong_state()
        number = self._check_destination(call, to)
        self._tell_transferred(call, party, number, "singleStepTransfer")
        self._leave(call, party, "singleStepTransfer")
        call.mailbox = party.number if number == VOICEMAIL else ""
        call.calling, call.presents_numbers = peer.number, False
        call.called, call.last_redirection = number, party.number
        target = self._offer(call, number)
        self._forget_if_nobody(call)
        return target

    def transfer(self, held: tuple[Call, Party], active: tuple[Call, Party]) -> None:
        """Join the other ends of a held call and an active one; the device leaves both.

        Raises:
            CommandRefused: The states are others, or both ends are the same device.
        """
        (first, holder), (second, talker) = held, active
        self._check_can_join(held, active)
        kept, moved = first.peer(holder), second.peer(talker)
        self._tell_transferred(first, holder, moved.number, "transfer")
        self._leave(first, holder, "transfer")
        for party in second.parties:
            if party is not talker:
                event = self._transferred(second, party, holder.number, moved.number, "transfer")
                self._tell(party, event)
        self._leave(second, talker, "transfer")
        self._close(second)
        first.parties += second.parties
        first.mailbox = first.mailbox or second.mailbox
        first.called, first.last_redirection = moved.number, holder.number
        if first.calling == holder.number:
            first.calling = kept.number
        first.presents_numbers = False
        self._forget_if_nobody(first)
        if first in self.calls:
            self._tell_established(first, moved)

    def deflect(self, call: Call, party: Party, to: str) -> Party:
        """Send a ringing call elsewhere.

        Returns:
            The new party, which rings.

        Raises:
            CommandRefused: It does not ring there, or the number cannot take it.
        """
        if party.state is not State.ALERTING:
            raise _wrong_state()
        number = self._check_destination(call, to)
        self._tell_diverted(call, party.number, number, "redirected")
        self._leave(call, party, "redirected", tell=self.behaviour.cleared_after_divert)
        call.mailbox = party.number if number == VOICEMAIL else ""
        call.called, call.last_redirection, call.presents_numbers = number, party.number, False
        target = self._offer(call, number)
        self._forget_if_nobody(call)
        return target

    def no_answer(self, call: Call, party: Party) -> None:
        """Give up a telephone that rings: the call goes to its voicemail, or ends.

        Raises:
            CommandRefused: It does not ring.
        """
        if party.state is not State.ALERTING:
            raise _wrong_state()
        user = self.company.user(party.number)
        if user is None or not user.has_voicemail:
            self._end(call, releasing="", cause="callNotAnswered")
            return
        own = self.behaviour.voicemail_divert_to == "own"
        for other in self._devices(call):
            to = party.number if own and other is party else VOICEMAIL
            self._tell(
                other,
                DivertedEvent(
                    connection=self._connection(other, call),
                    diverting_device=party.number,
                    new_destination=to,
                    cause=self._cause("callForwardNoAnswer"),
                    call_type_flags=FLAGS_TO_VOICEMAIL,
                    cmds_allowed=COMMANDS_DIVERTED,
                ),
            )
        if self.behaviour.voicemail_leg_seen:
            party.state = State.NULL
        else:
            self._leave(
                call, party, "callForwardNoAnswer", tell=self.behaviour.cleared_after_divert
            )
        call.called, call.mailbox = VOICEMAIL, party.number
        call.last_redirection = "" if own else party.number
        self._offer(call, VOICEMAIL)

    def park(self, call: Call, party: Party) -> int:
        """Park a call; the device leaves.

        Returns:
            The park place.

        Raises:
            CommandRefused: The two are not talking.
        """
        if party.state not in (State.CONNECTED, State.HOLD) or call.ringing is not None:
            raise _wrong_state()
        peer = call.peer(party)
        if self.company.service(peer.number) is not None:
            raise _wrong_state()
        taken = {other.place for other in self.calls}
        place = next(number for number in range(1, len(self.calls) + 2) if number not in taken)
        call.place, call.parked_ids = place, (party.call_id, peer.call_id)
        self._tell(party, ParkedEvent(park_id=place))
        self._tell(party, self._diverted(call, party, party.number, PARK, "park"))
        self._leave(call, party, "park", tell=self.behaviour.cleared_after_divert)
        self._tell_held(call, self._join(call, PARK, State.HOLD))
        return place

    def pick_up(self, ext: str, call_id: int | str) -> tuple[Call, Party]:
        """Take a parked call by the id that it had, or has, at one of its devices.

        Raises:
            CommandRefused: No such parked call, no such device, or the device is in that call.
        """
        user = self.company.user(ext)
        parked = next((c for c in self.calls if call_id in c.parked_ids), None)
        if user is None or parked is None:
            raise _refuse("invalidConnectionID")
        self._check_may_talk(ext)
        if parked.party(ext) is not None:
            raise _wrong_state()
        self._free_device(ext)
        party = self._take_place(parked, ext)
        self._tell_retrieved(parked, party)
        self._tell_established(parked, party)
        return parked, party

    def record(self, call: Call, party: Party, active: bool) -> None:
        """Begin or end the recording of a call.

        Raises:
            CommandRefused: The two are not talking, or it is so already.
        """
        if party.state is not State.CONNECTED or call.ringing or party.recording is active:
            raise _wrong_state()
        party.recording = active
        party.recorded = True
        self._tell(
            party,
            RecordingStateEvent(
                connection=self._connection(party, call), available=True, active=active
            ),
        )

    # --- People -----------------------------------------------------------------------------------

    def set_presence(self, jid: int, status: str = "", note: str | None = None) -> None:
        """Change a user's presence; "" and None leave status and note as they are.

        Raises:
            CommandRefused: There is no such user.
        """
        user = self._user(jid)
        user = attrs.evolve(
            user,
            presence=status or user.presence,
            note=user.note if note is None else note,
        )
        self.company.put(user)
        self._mx_status[jid] = self.mx_status(user.ext)
        self._notices.append(PresenceNotice(self.presence_of(user)))

    def add_user(self, user: User) -> None:
        """Add a user to the company.

        Raises:
            CommandRefused: The extension, the login or the id is taken.
        """
        taken = (
            self.company.by_jid(user.jid)
            or self.company.user(user.ext)
            or self.company.by_login(user.login)
        )
        if taken is not None:
            raise _refuse("objectAlreadyExists")
        self.company.put(user)
        self._notices.append(BookNotice(AddressBookAdded(entry=user.entry())))

    def update_user(self, user: User) -> None:
        """Replace a user's record. When the extension changes, the old one's calls end.

        Raises:
            CommandRefused: There is no such user, or the new extension or login is taken.
        """
        old = self._user(user.jid)
        rivals = (self.company.user(user.ext), self.company.by_login(user.login))
        if any(rival is not None and rival.jid != user.jid for rival in rivals):
            raise _refuse("objectAlreadyExists")
        if old.ext != user.ext:
            self._disconnect(old.ext)
        self.company.put(user)
        self._notices.append(BookNotice(AddressBookChanged(entry=user.entry())))

    def delete_user(self, jid: int) -> None:
        """Take a user out; the user's calls end.

        Raises:
            CommandRefused: There is no such user.
        """
        user = self._user(jid)
        self._disconnect(user.ext)
        self.company.remove(jid)
        self._mx_status.pop(jid, None)
        self._notices.append(BookNotice(AddressBookDeleted(jid=jid)))

    def _user(self, jid: int) -> User:
        user = self.company.by_jid(jid)
        if user is None:
            raise _refuse("invalidDeviceID")
        return user

    def _disconnect(self, ext: str) -> None:
        for call in list(self.calls):
            party = call.party(ext)
            if party is not None and party.state is State.NULL:
                self._leave(call, party, "normalClearing")
            elif party is not None:
                self._end(call, releasing="", cause="normalClearing")

    # --- Conditions -------------------------------------------------------------------------------

    def _is_user(self, party: Party) -> bool:
        return self.company.user(party.number) is not None

    def _is_ours(self, party: Party) -> bool:
        """Tell whether commands reach this party: our devices, and whoever we made call."""
        return self._is_user(party) or bool(party.alias)

    def _devices(self, call: Call) -> list[Party]:
        """Give the parties that can be monitored."""
        return [party for party in call.parties if self._is_user(party)]

    def _is_outside(self, number: str) -> bool:
        return (
            len(number) >= MIN_OUTSIDE_DIGITS
            and number.isdigit()
            and self.company.user(number) is None
        )

    def _lines_in_use(self, ext: str) -> int:
        return sum(party.number == ext for call in self.calls for party in call.live)

    def _active(self, ext: str) -> tuple[Call, Party] | None:
        return next(
            (
                (call, party)
                for call in self.calls
                for party in call.live
                if party.number == ext and party.state is State.CONNECTED
            ),
            None,
        )

    def _check_may_talk(self, ext: str) -> None:
        """Refuse when the device waits for somebody to answer: such a call cannot be held."""
        active = self._active(ext)
        if active is not None and self._is_user(active[1]) and active[0].ringing is not None:
            raise _wrong_state()

    def _free_device(self, ext: str) -> None:
        """Put the device's current call on hold: a telephone talks on one call at a time."""
        active = self._active(ext)
        if active is not None and self._is_user(active[1]):
            self._hold(*active)

    def _check_may_call(self, ext: str, number: str) -> None:
        user = self.company.user(ext)
        if user is None and not self._is_outside(ext):
            raise _refuse("invalidCallingDeviceID")
        if user is not None and not user.may_call:
            raise _refuse("URM Denied", "privateErrorCode")
        if not _DIALLABLE.fullmatch(number):
            raise _refuse("invalidCalledDeviceID")
        self._check_may_talk(ext)
        if user is not None and self._lines_in_use(ext) >= user.lines:
            raise _refuse("resourceBusy", "systemResourceAvailability")

    def _check_can_join(self, held: tuple[Call, Party], active: tuple[Call, Party]) -> None:
        (first, holder), (second, talker) = held, active
        if first is second or holder.number != talker.number:
            raise _refuse("invalidConnectionID")
        if holder.state is not State.HOLD or talker.state is not State.CONNECTED:
            raise _wrong_state()
        if first.ringing is not None or second.ringing is not None:
            raise _wrong_state()
        if first.peer(holder).number == second.peer(talker).number:
            raise _refuse("invalidCalledDeviceID")

    def _check_talking(self, call: Call, party: Party) -> None:
        if party.state is not State.CONNECTED or call.ringing is not None:
            raise _wrong_state()

    def _check_destination(self, call: Call, to: str) -> str:
        number = dialled(to)
        # A device in the call cannot be its destination too; voicemail takes any number of calls.
        known = self.company.user(number) or self.company.service(number)
        if known is None and not self._is_outside(number):
            raise _refuse("invalidCalledDeviceID")
        if call.party(number) is not None or number == PARK:
            raise _refuse("invalidCalledDeviceID")
        if self._failure(number, ""):
            raise _refuse("resourceBusy", "systemResourceAvailability")
        return number

    def _failure(self, number: str, caller: str) -> str:
        """Give the ECMA-269 cause for which a call to a number fails; "" when it rings."""
        user = self.company.user(number)
        if user is not None:
            busy = number == caller or self._lines_in_use(number) >= user.lines
            return "busy" if busy else ""
        if self._is_outside(number):
            return "busy" if self.company.outside_party(number).busy else ""
        if self.company.service(number) is None or number == PARK:
            return "destNotObtainable"
        return ""

    def _parked_at(self, number: str) -> Call | None:
        place = number.removeprefix(PARK) if number.startswith(PARK) else ""
        return next((c for c in self.calls if place and str(c.place) == place), None)

    # --- Changes ----------------------------------------------------------------------------------

    def _new_call(self, calling: str, called: str) -> Call:
        counter = self.next_counter
        self.next_counter += 1
        serial, node = self.company.serial, self.company.node
        call = Call(
            counter=counter,
            global_id=global_call_id(serial, node, counter),
            id_text=call_id_text(serial, node, counter),
            calling=calling,
            called=called,
        )
        self.calls.append(call)
        return call

    def take_call_id(self) -> int | str:
        """Give a call id that no device has had."""
        number = self.next_call_id
        self.next_call_id += 1
        return f"c{number}" if self.behaviour.text_call_ids else number

    def _join(self, call: Call, number: str, state: State, alias: str = "") -> Party:
        shared = call.parties[0].call_id if call.parties else None
        if shared is None or self.behaviour.call_id_per_device:
            shared = self.take_call_id()
        party = Party(number=number, call_id=shared, state=state, alias=alias)
        call.parties.append(party)
        return party

    def _offer(self, call: Call, number: str) -> Party:
        """Let a number ring; a service answers at once."""
        party = self._join(call, number, State.ALERTING)
        self._tell_delivered(call, party)
        if self.company.service(number) is not None:
            party.state = State.CONNECTED
            self._tell_established(call, party)
        return party

    def _hold(self, call: Call, party: Party) -> None:
        party.state = State.HOLD
        self._tell_held(call, party)

    def _take_place(self, call: Call, ext: str) -> Party:
        """Put an extension where the park server was."""
        server = next(party for party in call.parties if party.number == PARK)
        call.parties.remove(server)
        call.place, call.parked_ids = None, ()
        call.called = ext
        return self._join(call, ext, State.CONNECTED)

    def _pick_up_by_dialling(self, ext: str, number: str, parked: Call) -> tuple[Call, Party]:
        party = self._take_place(parked, ext)
        self._tell(
            party,
            OriginatedEvent(
                connection=self._connection(party, parked),
                calling_device=ext,
                called_device=number,
                local_connection_info=State.CONNECTED,
                cause=self._cause("makeCall"),
                call_type_flags=FLAGS_ORIGINATED_INSIDE,
            ),
        )
        self._tell_established(parked, party)
        return parked, party

    def _leave(self, call: Call, party: Party, cause: str, *, tell: bool = True) -> None:
        """Take a party out of a call that goes on without it."""
        call.parties.remove(party)
        party.state = State.NULL
        if self._is_user(party):
            if tell:
                self._tell(party, self._cleared(call, party, party.number, cause))
            self._announce_recording(call, party)

    def _close(self, call: Call) -> None:
        self.calls.remove(call)

    def _end(self, call: Call, *, releasing: str, cause: str) -> None:
        """End a call for everybody who sees it."""
        self._close(call)
        for party in self._devices(call):
            self._tell(party, self._cleared(call, party, releasing, cause))
        for party in self._devices(call):
            self._announce_recording(call, party)
        if call.mailbox and self.behaviour.voicemail_message:
            self._announce_mail(call, call.mailbox, VOICE_MAIL)
        for party in call.parties:
            party.state = State.NULL

    def _fail(self, call: Call, cause: str) -> None:
        called = call.called
        for party in self._devices(call):
            if party.state is not State.ALERTING:
                self._tell(
                    party,
                    FailedEvent(
                        connection=self._connection(party, call),
                        calling_device=call.calling,
                        called_device=called,
                        local_connection_info=State.FAIL,
                        # Even servers that say `normal` everywhere else must tell busy from wrong.
                        cause=cause,
                    ),
                )
        self._end(call, releasing="", cause=cause)

    def _forget_if_nobody(self, call: Call) -> None:
        """Drop a call that has no device of the company any more: it has left the MX."""
        if call in self.calls and not any(self._is_ours(party) for party in call.live):
            self._end(call, releasing="", cause="normalClearing")

    # --- Events -----------------------------------------------------------------------------------

    def _tell(self, party: Party, event: CallEvent) -> None:
        if self._is_user(party):
            self._notices.append(DeviceNotice(party.number, event))

    def _cause(self, ecma: str) -> str:
        return ecma if self.behaviour.causes == "ecma" else "normal"

    def _connection(self, party: Party, call: Call, *, whole: bool = False) -> ConnectionID:
        whole = whole or self.behaviour.global_id_everywhere
        return ConnectionID(party.call_id, party.number, call.global_id if whole else "")

    def _cads(self, call: Call) -> tuple[CallAttachedData, ...]:
        return (CallAttachedData(name="__FIRST_CALL_ID__", type="string", value=call.id_text),)

    def _name(self, call: Call, number: str) -> str:
        """Give the display name of a number within a call."""
        if call.presents_numbers:
            return number
        user, service = self.company.user(number), self.company.service(number)
        if user is not None:
            return user.name
        if service is not None:
            return service.name
        return (
            (call.presented_name if number == call.calling else "")
            or self.company.outside_party(number).name
            or number
        )

    def _redirection(self, call: Call) -> str:
        if not call.last_redirection and self.behaviour.redirection_is_caller:
            return call.calling
        return call.last_redirection

    def _originate(self, call: Call, caller: Party, *, outside: bool) -> None:
        connection = self._connection(caller, call)
        if self.behaviour.service_initiated:
            self._tell(
                caller,
                ServiceInitiatedEvent(
                    connection=connection,
                    initiating_device=caller.number,
                    local_connection_info=self.behaviour.service_initiated_info,
                    cause=self._cause("makeCall"),
                ),
            )
        if self.behaviour.own_phone_rings:
            self._tell(caller, self._delivered(call, caller, caller, State.ALERTING))
        self._tell(
            caller,
            OriginatedEvent(
                connection=connection,
                calling_device=caller.number,
                called_device=call.called,
                local_connection_info=State.CONNECTED,
                cause=self._cause("makeCall"),
                call_type_flags=FLAGS_ORIGINATED_OUTSIDE if outside else FLAGS_ORIGINATED_INSIDE,
            ),
        )
        if outside and self.behaviour.outgoing == "remote":
            self._tell(caller, self._diverted(call, caller, caller.number, call.called, "makeCall"))
        if outside and self.behaviour.network_reached:
            self._tell(
                caller,
                NetworkReachedEvent(
                    connection=connection,
                    network_interface_used=self.behaviour.network_interface,
                    calling_device=caller.number,
                    called_device=call.called,
                    local_connection_info=State.CONNECTED,
                    cause=self._cause("makeCall"),
                ),
            )

    def _delivered(self, call: Call, party: Party, alerting: Party, local: str) -> DeliveredEvent:
        number = alerting.number
        return DeliveredEvent(
            connection=self._connection(party, call, whole=True),
            alerting_device=number,
            alerting_display_name=self._name(call, number),
            network_calling_device=call.calling,
            calling_device=call.calling,
            calling_display_name=self._name(call, call.calling),
            called_device=call.called,
            last_redirection_device=self._redirection(call),
            local_connection_info=local,
            cause=self._cause("newCall"),
            call_type_flags=FLAGS_VOICEMAIL_RINGS if number == VOICEMAIL else FLAGS_CALL,
            cads=self._cads(call),
        )

    def _tell_delivered(self, call: Call, alerting: Party) -> None:
        for party in self._devices(call):
            own = party is alerting
            local = State.ALERTING if own else self.behaviour.caller_sees
            self._tell(party, self._delivered(call, party, alerting, local))

    def _tell_established(self, call: Call, answering: Party) -> None:
        if call.established_at is None:
            call.established_at = int(self.unix_time())
        voicemail = answering.number == VOICEMAIL
        for party in self._devices(call):
            self._tell(
                party,
                EstablishedEvent(
                    connection=self._connection(party, call, whole=True),
                    answering_device=answering.number,
                    answering_display_name=self._name(call, answering.number),
                    calling_device=call.calling,
                    calling_display_name=self._name(call, call.calling),
                    called_device=call.called,
                    last_redirection_device=self._redirection(call),
                    cause=self._cause("newCall"),
                    call_type_flags=FLAGS_VOICEMAIL_ANSWERS if voicemail else FLAGS_CALL,
                    cads=self._cads(call),
                ),
            )

    def _diverted(
        self, call: Call, party: Party, diverting: str, to: str, cause: str
    ) -> DivertedEvent:
        return DivertedEvent(
            connection=self._connection(party, call),
            diverting_device=diverting,
            new_destination=to,
            cause=self._cause(cause),
            call_type_flags=FLAGS_CALL,
        )

    def _tell_diverted(self, call: Call, diverting: str, to: str, cause: str) -> None:
        for party in self._devices(call):
            self._tell(party, self._diverted(call, party, diverting, to, cause))

    def _tell_held(self, call: Call, holding: Party) -> None:
        for party in self._devices(call):
            self._tell(
                party,
                HeldEvent(
                    connection=self._connection(party, call),
                    holding_device=holding.number,
                    local_connection_info=party.state,
                    cause=self._cause("newCall"),
                    call_type_flags=FLAGS_HELD,
                    cmds_allowed=COMMANDS_HELD,
                ),
            )

    def _tell_retrieved(self, call: Call, retrieving: Party) -> None:
        for party in self._devices(call):
            self._tell(
                party,
                RetrievedEvent(
                    connection=self._connection(party, call),
                    retrieving_device=retrieving.number,
                    local_connection_info=party.state,
                    cause=self._cause("newCall"),
                    call_type_flags=FLAGS_RETRIEVED,
                ),
            )

    def _transferred(
        self, call: Call, party: Party, transferring: str, to: str, cause: str
    ) -> TransferredEvent:
        leaves = party.number == transferring
        return TransferredEvent(
            connection=self._connection(party, call),
            transferring_device=transferring,
            transferred_to_device=to,
            local_connection_info=State.NULL if leaves else State.CONNECTED,
            cause=self._cause(cause),
        )

    def _tell_transferred(self, call: Call, leaving: Party, to: str, cause: str) -> None:
        for party in self._devices(call):
            self._tell(party, self._transferred(call, party, leaving.number, to, cause))

    def _cleared(
        self, call: Call, party: Party, releasing: str, cause: str
    ) -> ConnectionClearedEvent:
        return ConnectionClearedEvent(
            connection=self._connection(party, call),
            releasing_device=releasing,
            cause=self._cause(cause),
        )

    def _announce_recording(self, call: Call, party: Party) -> None:
        if party.recorded:
            party.recorded = party.recording = False
            self._announce_mail(call, party.number, RECORDING)

    def _announce_mail(self, call: Call, owner: str, media: str) -> None:
        user = self.company.user(owner)
        if user is None:
            return
        mail_id, self._next_mail_id = self._next_mail_id, self._next_mail_id + 1
        now = int(self.unix_time())
        began = now if call.established_at is None else call.established_at
        self._notices.append(
            DeviceNotice(
                owner,
                MailIncomingReady(
                    caller=call.calling,
                    from_name=self._name(call, call.calling),
                    caller_name=call.calling,
                    to=owner,
                    owner_id=user.jid,
                    mail_id=mail_id,
                    media_type=media,
                    call=call.id_text,
                    received=now,
                    duration=now - began,
                ),
            )
        )
