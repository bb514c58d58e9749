"""What client and MX can say to each other: one frozen class for each message.

A class states its XML name once, in its decorator, and how each field stands in the XML, in the
field's annotation (see `codec`). XML names are spelled as the MX spells them (`loginResponce`,
`TransferedEvent`); Python names are spelled right.

Three registries hold them: commands (client to MX), replies (with the command's invoke id) and
events (invoke id 9999). Names outside them become `UnknownCommand`, `Acknowledgement` and
`UnknownEvent`; nothing here raises on what a peer sends.

Source: docs/mx-protocol.md; ECMA-323 for the names of CSTA.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypeVar

import attrs

from mxflex.wire.codec import (
    AttachedData,
    Attribute,
    Body,
    CallAttachedData,
    Connection,
    ConnectionID,
    Device,
    Entries,
    Flag,
    FlagAttribute,
    Number,
    NumberAttribute,
    OptionalText,
    Text,
    read_fields,
    write_element,
)
from mxflex.wire.xmltext import (
    Element,
    attribute,
    child_text,
    escape_attribute,
    escape_text,
    own_text,
)


@attrs.frozen(kw_only=True)
class Message:
    """Anything that one frame says.

    `wire_name` is the root element, `constants` the attributes that tell messages of one root
    element apart (the `iq` family).
    """

    wire_name: ClassVar[str] = ""
    constants: ClassVar[dict[str, str]] = {}

    @classmethod
    def from_element(cls, element: Element) -> Message:
        """Read the message; never raises."""
        message: Message = read_fields(cls, element)
        return message

    def to_text(self) -> str:
        """Write the message as XML text.

        Raises:
            LocalProtocolError: A value has a character that XML cannot carry.
        """
        constants = "".join(
            f' {name}="{escape_attribute(value)}"' for name, value in self.constants.items()
        )
        return write_element(self.wire_name, self, constants)


@attrs.frozen(kw_only=True)
class Reply(Message):
    """An answer of the MX to one command."""


@attrs.frozen(kw_only=True)
class Event(Message):
    """Something the MX tells by itself."""


@attrs.frozen(kw_only=True)
class CallEvent(Event):
    """An event of a monitored device; `monitor` is the `monitorCrossRefID`, kept as text."""

    monitor: Annotated[str, Text("monitorCrossRefID")] = ""


@attrs.frozen(kw_only=True)
class Command(Message):
    """A request of the client.

    `reply_type` is how the answer is read when it is not an error: servers name answers
    differently, so it goes by the command, not by the answer's name. `answered_by` is the event
    that is the real answer, for the commands that the MX answers by an event.
    """

    reply_type: ClassVar[type[Reply] | None] = None
    answered_by: ClassVar[type[Event] | None] = None


_C = TypeVar("_C", bound=type[Command])
_R = TypeVar("_R", bound=type[Reply])
_E = TypeVar("_E", bound=type[Event])

COMMANDS: dict[tuple[str, ...], type[Command]] = {}
REPLIES: dict[str, type[Reply]] = {}
EVENTS: dict[str, type[Event]] = {}


def _command(
    name: str, *, reply: type[Reply] | None = None, constants: dict[str, str] | None = None
) -> Callable[[_C], _C]:
    def register(cls: _C) -> _C:
        cls.wire_name, cls.constants, cls.reply_type = name, constants or {}, reply
        COMMANDS[(name, *cls.constants.values())] = cls
        return cls

    return register


def _reply(name: str) -> Callable[[_R], _R]:
    def register(cls: _R) -> _R:
        cls.wire_name = name
        REPLIES[name] = cls
        return cls

    return register


def _event(name: str, *also_read: str) -> Callable[[_E], _E]:
    def register(cls: _E) -> _E:
        cls.wire_name = name
        for each in (name, *also_read):
            EVENTS[each] = cls
        return cls

    return register


# --- Answers and events that fit no other place ---------------------------------------------------


@attrs.frozen(kw_only=True)
class Acknowledgement(Reply):
    """An answer without content: any root element that is not an error means success."""

    name: str = ""

    @classmethod
    def from_element(cls, element: Element) -> Acknowledgement:
        return cls(name=element.tag)

    def to_text(self) -> str:
        return f"<{self.name}/>"


@attrs.frozen(kw_only=True)
class UnknownEvent(Event):
    """An event that MXFlex has no class for, kept by its name."""

    name: str = ""

    @classmethod
    def from_element(cls, element: Element) -> UnknownEvent:
        return cls(name=element.tag)

    def to_text(self) -> str:
        return f"<{self.name}/>"


@attrs.frozen(kw_only=True)
class UnknownCommand(Command):
    """A command that has no class here, kept by its name."""

    name: str = ""

    @classmethod
    def from_element(cls, element: Element) -> UnknownCommand:
        return cls(name=element.tag)

    def to_text(self) -> str:
        return f"<{self.name}/>"


@_event("CSTAErrorCode", "errorResponse")
@attrs.frozen(kw_only=True)
class CSTAError(Reply, Event):
    """A refusal: `<CSTAErrorCode><operation>invalidDeviceID</operation></CSTAErrorCode>`.

    It answers a command, or comes as an event when it belongs to a command that has no answer.

    Attributes:
        text: The words of the MX.
        category: The ECMA-269 category (`operation`, `security`, ...) or `privateErrorCode`.
    """

    text: str = ""
    category: str = ""

    @classmethod
    def from_element(cls, element: Element) -> CSTAError:
        text = attribute(element, "Error")
        if not text and len(element):
            first = element[0]
            return cls(text=own_text(first).strip() or first.tag, category=first.tag)
        return cls(text=text or own_text(element).strip() or "refused without a reason")

    def to_text(self) -> str:
        name = self.category or "unspecified"
        return f"<CSTAErrorCode><{name}>{escape_text(self.text)}</{name}></CSTAErrorCode>"


def is_error(element: Element) -> bool:
    """Tell whether an answer means failure, whatever command it answers."""
    return element.tag in ("CSTAErrorCode", "errorResponse") or bool(element.get("Error"))


# --- Login (docs/mx-protocol.md, "Login and logout") ----------------------------------------------


def hash_password(password: str) -> str:
    """Give the form in which a password is first sent: base64 of its SHA-1, and a line feed.

    The line feed belongs to the value. The hash has no salt, so it is as secret as the password.
    """
    digest = hashlib.sha1(password.encode("utf-8"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii") + "\n"


@_reply("loginResponce")
@attrs.frozen(kw_only=True)
class LoginResponse(Reply):
    """The login is accepted; the root's name tells so, not the code.

    Attributes:
        code: 0, or -1 when the password has expired but the session exists all the same.
        serial: The serial number of the MX (`sn`).
        api_version: The API version the MX speaks.
        ext: The user's extension; "" for a server session.
        user_id: The user's JID, an integer above 2**53; absent or 0 for a server session.
        soft_phone_password: A secret of the user's telephone. Never logged or handed on.
        text: Words for people.
    """

    code: Annotated[int | None, NumberAttribute("Code")] = 0
    serial: Annotated[str, Attribute("sn", always=True)] = ""
    api_version: Annotated[int | None, NumberAttribute("apiversion")] = None
    ext: Annotated[str, Attribute("ext", always=True)] = ""
    user_id: Annotated[int | None, NumberAttribute("userId")] = None
    soft_phone_password: Annotated[str, Attribute("softPhonePwd")] = attrs.field(
        default="", repr=False
    )
    text: Annotated[str, Body()] = ""


@_reply("loginFailed")
@attrs.frozen(kw_only=True)
class LoginFailed(Reply):
    """The login is refused.

    Attributes:
        code: 2 and 4 mean that the hashed form is refused; the clear one may do.
        serial: The serial number of the MX (`sn`).
        api_version: The API version the MX speaks.
        text: The reason, for people.
    """

    code: Annotated[int | None, NumberAttribute("Code")] = 0
    serial: Annotated[str, Attribute("sn")] = ""
    api_version: Annotated[int | None, NumberAttribute("apiversion")] = None
    text: Annotated[str, Body()] = ""


@_command("loginRequest")
@attrs.frozen(kw_only=True)
class LoginRequest(Command):
    """Begins a session.

    Attributes:
        type: `Server` for the permanent connection, `User` for a person.
        platform: The class of client; sessions of one user with different platforms coexist.
        version: The client's version, free text.
        forced: Whether an older session of the same user shall end. MXFlex never sets it.
        ab_notify: Whether address-book changes are wanted without `MonitorStartAb`.
        user_name: The account.
        password: The hashed or the clear password.
    """

    type: Annotated[str, Attribute("type")] = ""
    platform: Annotated[str, Attribute("platform")] = ""
    version: Annotated[str, Attribute("version")] = ""
    forced: Annotated[bool, FlagAttribute("forced")] = False
    ab_notify: Annotated[bool, FlagAttribute("abNotify")] = False
    user_name: Annotated[str, Text("userName")] = ""
    password: Annotated[str, Text("pwd", strip=False)] = attrs.field(default="", repr=False)


@_command("logout")
@attrs.frozen(kw_only=True)
class Logout(Command):
    """Ends the session; the MX answers `Logout`, or just closes."""


@_reply("Logout")
@_event("Logout")
@attrs.frozen(kw_only=True)
class LoggedOut(Reply, Event):
    """The MX ends the session: an answer to `logout`, or by force of its own.

    Attributes:
        mode: `forced` when another client or an administrator ended it.
    """

    mode: Annotated[str, Attribute("mode")] = ""


@_command("keepalive")
@attrs.frozen(kw_only=True)
class KeepAlive(Command):
    """Shows that the client lives; never answered."""


@_event("keepalive")
@attrs.frozen(kw_only=True)
class ServerKeepAlive(Event):
    """A keep-alive from the MX: some servers may send one; it means nothing."""


# --- Monitors -------------------------------------------------------------------------------------


@_reply("MonitorStartResponse")
@attrs.frozen(kw_only=True)
class MonitorStartResponse(Reply):
    """The monitor runs; its events carry this `monitorCrossRefID`."""

    monitor: Annotated[str, Text("monitorCrossRefID")] = ""


@attrs.frozen
class _MonitoredDevice:
    """The device inside `monitorObject`."""

    in_attribute = False

    def read(self, element: Element) -> str:
        outer = element.find("monitorObject")
        return "" if outer is None else child_text(outer, "deviceObject")

    def write(self, value: str) -> str:
        return f"<monitorObject>{Text('deviceObject').write(value)}</monitorObject>"


@_command("MonitorStart", reply=MonitorStartResponse)
@attrs.frozen(kw_only=True)
class MonitorStart(Command):
    """Asks for the call events of one device; "" is the session's own device."""

    device: Annotated[str, _MonitoredDevice()] = ""


@_command("MonitorStop")
@attrs.frozen(kw_only=True)
class MonitorStop(Command):
    """Ends a monitor."""

    monitor: Annotated[str, Text("monitorCrossRefID")] = ""


@_command("MonitorStartAb")
@attrs.frozen(kw_only=True)
class MonitorStartAddressBook(Command):
    """Asks for changes of the address book; the book itself is not sent."""


@_command("MonitorStopAb")
@attrs.frozen(kw_only=True)
class MonitorStopAddressBook(Command):
    """Ends the reports of address-book changes."""


# --- Address book and presence --------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class AddressBookEntry:
    """One person of the address book.

    Attributes:
        jid: The user's id, over 2**53; None when the MX left it out.
        presence: `Available`, `LoggedOut`, ...
        note: The words the user set beside the presence.
        ext: The extension (`businessPhone`).
        home_system: The home node in a group of servers; None or 0 for none.
    """

    jid: Annotated[int | None, NumberAttribute("jid")] = None
    presence: Annotated[str, Attribute("presence")] = ""
    note: Annotated[str, Attribute("presenceNote", always=True)] = ""
    first_name: Annotated[str, Text("firstName")] = ""
    last_name: Annotated[str, Text("lastName")] = ""
    ext: Annotated[str, Text("businessPhone")] = ""
    home_phone: Annotated[str, Text("homePhone")] = ""
    cell_phone: Annotated[str, Text("cellPhone")] = ""
    email: Annotated[str, Text("email")] = ""
    home_system: Annotated[int | None, Number("homeSystem")] = None
    did: Annotated[str, Text("did")] = ""
    exchange_id: Annotated[str, Text("exchangeId")] = ""


@_reply("ablist")
@_event("ablist")
@attrs.frozen(kw_only=True)
class AddressBookPage(Reply, Event):
    """One page of the address book; it comes as an event although it answers a command.

    Attributes:
        size: Entries in the whole book.
        index: The page's number from 0; None when the MX left it out, which means 0.
        entries: At most 50 people.
    """

    size: Annotated[int | None, NumberAttribute("size")] = None
    index: Annotated[int | None, NumberAttribute("index")] = None
    entries: Annotated[tuple[AddressBookEntry, ...], Entries("abentry", AddressBookEntry)] = ()


@_command("iq", constants={"type": "get", "id": "addressbook"})
@attrs.frozen(kw_only=True)
class GetAddressBook(Command):
    """Asks for one page of the address book, counted from 0."""

    answered_by: ClassVar[type[Event] | None] = AddressBookPage
    index: Annotated[int | None, NumberAttribute("index")] = 0


@attrs.frozen
class _OnlyEntry:
    """The one `abentry` of an address-book event."""

    in_attribute = False

    def read(self, element: Element) -> AddressBookEntry:
        child = element.find("abentry")
        entry: AddressBookEntry = (
            AddressBookEntry() if child is None else read_fields(AddressBookEntry, child)
        )
        return entry

    def write(self, value: AddressBookEntry) -> str:
        return write_element("abentry", value)


@_event("AbAddUserEvent")
@attrs.frozen(kw_only=True)
class AddressBookAdded(Event):
    """A user is new in the address book."""

    entry: Annotated[AddressBookEntry, _OnlyEntry()] = AddressBookEntry()


@_event("AbUpdateUserEvent")
@attrs.frozen(kw_only=True)
class AddressBookChanged(Event):
    """A user's record has changed; the whole record comes."""

    entry: Annotated[AddressBookEntry, _OnlyEntry()] = AddressBookEntry()


@_event("AbDeleteUserEvent")
@attrs.frozen(kw_only=True)
class AddressBookDeleted(Event):
    """A user has left the address book."""

    jid: Annotated[int | None, Number("userId")] = None


@_event("presence")
@attrs.frozen(kw_only=True)
class Presence(Event):
    """A user's presence has changed.

    Attributes:
        jid: The user; 0 or None for the session's own.
        status: `Available`, `LoggedOut`, `BeRightBack`, ...; servers also write `NotAvaliable`.
        mx_status: Telephone states, joined by `|`.
        note: The words beside it: None leaves the known ones as they are, "" clears them.
    """

    jid: Annotated[int | None, NumberAttribute("from")] = None
    status: Annotated[str, Attribute("status")] = ""
    mx_status: Annotated[str, Attribute("mxStatus", always=True)] = ""
    note: Annotated[str | None, OptionalText("presenceNote")] = None


@_command("presence")
@attrs.frozen(kw_only=True)
class SetPresence(Command):
    """Sets the session's own presence; answered by a `Presence` event alone."""

    status: Annotated[str, Attribute("status")] = ""
    note: Annotated[str | None, OptionalText("presenceNote")] = None


# --- Call events ----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ConnectionEvent(CallEvent):
    """An event of one connection: a call at a device, which is always the monitored one."""

    connection: Annotated[ConnectionID, Connection("connection")] = ConnectionID()


@_event("OriginatedEvent")
@attrs.frozen(kw_only=True)
class OriginatedEvent(ConnectionEvent):
    """A call is being made from the device."""

    connection: Annotated[ConnectionID, Connection("originatedConnection")] = ConnectionID()
    calling_device: Annotated[str, Device("callingDevice")] = ""
    called_device: Annotated[str, Device("calledDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""
    call_type_flags: Annotated[int | None, Number("callTypeFlags")] = None
    cmds_allowed: Annotated[int | None, Number("cmdsAllowed")] = None


@_event("DivertedEvent")
@attrs.frozen(kw_only=True)
class DivertedEvent(ConnectionEvent):
    """The call goes on to another destination."""

    connection: Annotated[ConnectionID, Connection("connection")] = ConnectionID()
    diverting_device: Annotated[str, Device("divertingDevice")] = ""
    new_destination: Annotated[str, Device("newDestination")] = ""
    last_redirection_device: Annotated[str, Device("lastRedirectionDevice", absent="")] = ""
    cause: Annotated[str, Text("cause")] = ""
    call_type_flags: Annotated[int | None, Number("callTypeFlags")] = None
    cmds_allowed: Annotated[int | None, Number("cmdsAllowed")] = None


@_event("DeliveredEvent")
@attrs.frozen(kw_only=True)
class DeliveredEvent(ConnectionEvent):
    """A device is ringing."""

    connection: Annotated[ConnectionID, Connection("connection")] = ConnectionID()
    alerting_device: Annotated[str, Device("alertingDevice")] = ""
    alerting_display_name: Annotated[str, Text("alertingDisplayName")] = ""
    network_calling_device: Annotated[str, Device("networkCallingDevice")] = ""
    calling_device: Annotated[str, Device("callingDevice")] = ""
    calling_display_name: Annotated[str, Text("callingDisplayName")] = ""
    called_device: Annotated[str, Device("calledDevice")] = ""
    last_redirection_device: Annotated[
        str, Device("lastRedirectionDevice", absent="notRequired")
    ] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""
    call_type_flags: Annotated[int | None, Number("callTypeFlags")] = None
    cmds_allowed: Annotated[int | None, Number("cmdsAllowed")] = None
    cads: Annotated[tuple[CallAttachedData, ...], AttachedData()] = ()


@_event("EstablishedEvent")
@attrs.frozen(kw_only=True)
class EstablishedEvent(ConnectionEvent):
    """The call is answered. It may come again for the same call, as an update."""

    connection: Annotated[ConnectionID, Connection("establishedConnection")] = ConnectionID()
    answering_device: Annotated[str, Device("answeringDevice")] = ""
    answering_display_name: Annotated[str, Text("answeringDisplayName")] = ""
    calling_device: Annotated[str, Device("callingDevice")] = ""
    calling_display_name: Annotated[str, Text("callingDisplayName")] = ""
    called_device: Annotated[str, Device("calledDevice")] = ""
    last_redirection_device: Annotated[
        str, Device("lastRedirectionDevice", absent="notRequired")
    ] = ""
    cause: Annotated[str, Text("cause")] = ""
    call_type_flags: Annotated[int | None, Number("callTypeFlags")] = None
    cmds_allowed: Annotated[int | None, Number("cmdsAllowed")] = None
    cads: Annotated[tuple[CallAttachedData, ...], AttachedData()] = ()


@_event("ConnectionClearedEvent")
@attrs.frozen(kw_only=True)
class ConnectionClearedEvent(ConnectionEvent):
    """A device has left the call; mostly the end of the call for the monitored device."""

    connection: Annotated[ConnectionID, Connection("droppedConnection")] = ConnectionID()
    releasing_device: Annotated[str, Device("releasingDevice")] = ""
    cause: Annotated[str, Text("cause")] = ""


@_event("ServiceInitiatedEvent")
@attrs.frozen(kw_only=True)
class ServiceInitiatedEvent(ConnectionEvent):
    """The device went off hook to make a call."""

    connection: Annotated[ConnectionID, Connection("initiatedConnection")] = ConnectionID()
    initiating_device: Annotated[str, Device("initiatingDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""


@_event("NetworkReachedEvent")
@attrs.frozen(kw_only=True)
class NetworkReachedEvent(ConnectionEvent):
    """An outgoing call has reached the public network; what follows there may stay unseen."""

    connection: Annotated[ConnectionID, Connection("outboundConnection")] = ConnectionID()
    network_interface_used: Annotated[str, Device("networkInterfaceUsed")] = ""
    calling_device: Annotated[str, Device("callingDevice")] = ""
    called_device: Annotated[str, Device("calledDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""


@_event("FailedEvent")
@attrs.frozen(kw_only=True)
class FailedEvent(ConnectionEvent):
    """The call cannot be completed; the cause says why (`busy`, `destNotObtainable`)."""

    connection: Annotated[ConnectionID, Connection("failedConnection")] = ConnectionID()
    failing_device: Annotated[str, Device("failingDevice", absent="")] = ""
    calling_device: Annotated[str, Device("callingDevice")] = ""
    called_device: Annotated[str, Device("calledDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""


@_event("HeldEvent")
@attrs.frozen(kw_only=True)
class HeldEvent(ConnectionEvent):
    """A party has put the call on hold."""

    connection: Annotated[ConnectionID, Connection("heldConnection")] = ConnectionID()
    holding_device: Annotated[str, Device("holdingDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""
    call_type_flags: Annotated[int | None, Number("callTypeFlags")] = None
    cmds_allowed: Annotated[int | None, Number("cmdsAllowed")] = None


@_event("RetrievedEvent")
@attrs.frozen(kw_only=True)
class RetrievedEvent(ConnectionEvent):
    """A party has taken the call back from hold."""

    connection: Annotated[ConnectionID, Connection("retrievedConnection")] = ConnectionID()
    retrieving_device: Annotated[str, Device("retrievingDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""
    call_type_flags: Annotated[int | None, Number("callTypeFlags")] = None
    cmds_allowed: Annotated[int | None, Number("cmdsAllowed")] = None


# ECMA-323 itself spells the name with one r; other servers may not.
@_event("TransferedEvent", "TransferredEvent")
@attrs.frozen(kw_only=True)
class TransferredEvent(ConnectionEvent):
    """The call has been handed to another device."""

    connection: Annotated[ConnectionID, Connection("primaryOldCall")] = ConnectionID()
    transferring_device: Annotated[str, Device("transferringDevice")] = ""
    transferred_to_device: Annotated[str, Device("transferredToDevice")] = ""
    local_connection_info: Annotated[str, Text("localConnectionInfo")] = ""
    cause: Annotated[str, Text("cause")] = ""


@_event("callParkInfo")
@attrs.frozen(kw_only=True)
class ParkedEvent(CallEvent):
    """A call of the device was parked; the event names the place, not the call."""

    park_id: Annotated[int | None, Number("parkID")] = None


@_event("RecordingStateEvent")
@attrs.frozen(kw_only=True)
class RecordingStateEvent(ConnectionEvent):
    """Recording of a call began, ended, or became possible."""

    connection: Annotated[ConnectionID, Connection("connection", or_root=True)] = ConnectionID()
    available: Annotated[bool, Flag("RecIsAvailable")] = False
    active: Annotated[bool, Flag("RecIsActive")] = False


# --- Call commands --------------------------------------------------------------------------------


@attrs.frozen
class _CallingDevice:
    """The calling device of `MakeCall`, with the attribute that some servers demand."""

    in_attribute = False

    def read(self, element: Element) -> str:
        return child_text(element, "callingDevice")

    def write(self, value: str) -> str:
        return f'<callingDevice typeOfNumber="deviceID">{escape_text(value)}</callingDevice>'


@_reply("MakeCallResponse")
@attrs.frozen(kw_only=True)
class MakeCallResponse(Reply):
    """The MX makes the call; its events may carry another call id than this answer.

    Attributes:
        connection: The caller's part in the call.
        called: The number called; "" when the MX left it out.
    """

    connection: Annotated[ConnectionID, Connection("callingDevice")] = ConnectionID()
    called: Annotated[str, Text("calledDevice")] = ""


@_command("MakeCall", reply=MakeCallResponse)
@attrs.frozen(kw_only=True)
class MakeCall(Command):
    """Makes a call from a device; "" is the session's own device."""

    calling_device: Annotated[str, _CallingDevice()] = ""
    called: Annotated[str, Text("calledDirectoryNumber")] = ""


@attrs.frozen(kw_only=True)
class ConnectionCommand(Command):
    """A command on one connection.

    `confirmed_by` is the event that shows the command has been carried out. A server may send it
    before the answer, or never answer at all, so either one means success.
    """

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = None

    connection: Annotated[ConnectionID, Connection("connection")] = ConnectionID()


@_command("AnswerCall")
@attrs.frozen(kw_only=True)
class AnswerCall(ConnectionCommand):
    """Answers a ringing call."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = EstablishedEvent
    connection: Annotated[ConnectionID, Connection("callToBeAnswered")] = ConnectionID()


@_command("ClearConnection")
@attrs.frozen(kw_only=True)
class ClearConnection(ConnectionCommand):
    """Takes the device out of the call: hangs up, or rejects a ringing call."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = ConnectionClearedEvent
    connection: Annotated[ConnectionID, Connection("connectionToBeCleared")] = ConnectionID()


@_command("HoldCall")
@attrs.frozen(kw_only=True)
class HoldCall(ConnectionCommand):
    """Puts a call on hold."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = HeldEvent
    connection: Annotated[ConnectionID, Connection("callToBeHeld")] = ConnectionID()


@_command("RetrieveCall")
@attrs.frozen(kw_only=True)
class RetrieveCall(ConnectionCommand):
    """Takes a call back from hold."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = RetrievedEvent
    connection: Annotated[ConnectionID, Connection("callToBeRetrieved")] = ConnectionID()


@_command("ParkCall")
@attrs.frozen(kw_only=True)
class ParkCall(ConnectionCommand):
    """Parks a call, so that anybody can take it by its place number."""

    connection: Annotated[ConnectionID, Connection("parking")] = ConnectionID()


@_reply("SingleStepTransferCallResponse")
@attrs.frozen(kw_only=True)
class SingleStepTransferCallResponse(Reply):
    """The call goes to its new device."""

    connection: Annotated[ConnectionID, Connection("transferredCall")] = ConnectionID()


@_command("SingleStepTransferCall", reply=SingleStepTransferCallResponse)
@attrs.frozen(kw_only=True)
class SingleStepTransferCall(ConnectionCommand):
    """Hands an answered call to another number without asking there first."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = TransferredEvent
    connection: Annotated[ConnectionID, Connection("activeCall")] = ConnectionID()
    destination: Annotated[str, Text("transferredTo")] = ""


@_command("TransferCall")
@attrs.frozen(kw_only=True)
class TransferCall(ConnectionCommand):
    """Joins a held call and an active one; the own device leaves both."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = TransferredEvent
    connection: Annotated[ConnectionID, Connection("heldCall")] = ConnectionID()
    active: Annotated[ConnectionID, Connection("activeCall")] = ConnectionID()


@_command("DeflectCall")
@attrs.frozen(kw_only=True)
class DeflectCall(ConnectionCommand):
    """Sends a ringing call elsewhere."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = DivertedEvent
    connection: Annotated[ConnectionID, Connection("callToBeDiverted")] = ConnectionID()
    destination: Annotated[str, Text("newDestination")] = ""


@_command("StartRecording")
@attrs.frozen(kw_only=True)
class StartRecording(ConnectionCommand):
    """Begins to record a call."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = RecordingStateEvent
    connection: Annotated[ConnectionID, Connection("Call")] = ConnectionID()


@_command("StopRecording")
@attrs.frozen(kw_only=True)
class StopRecording(ConnectionCommand):
    """Ends the recording of a call."""

    confirmed_by: ClassVar[type[ConnectionEvent] | None] = RecordingStateEvent
    connection: Annotated[ConnectionID, Connection("Call")] = ConnectionID()


# --- Questions ------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class DeviceCall:
    """One call in a device's snapshot.

    Attributes:
        connection: The device's part in the call.
        state: The local connection state by its ECMA-269 name; "" when the MX did not say.
    """

    connection: ConnectionID
    state: str = ""


@_reply("SnapshotDeviceResponse")
@attrs.frozen(kw_only=True)
class SnapshotDeviceResponse(Reply):
    """The calls at a device. No sample of a real server's answer is known: may well be empty."""

    calls: tuple[DeviceCall, ...] = ()

    @classmethod
    def from_element(cls, element: Element) -> SnapshotDeviceResponse:
        calls = []
        for info in element.iter("snapshotDeviceResponseInfo"):
            connection = Connection("connectionIdentifier").read(info)
            outer = info.find("localCallState")
            states = [] if outer is None else [own_text(each).strip() for each in outer.iter()]
            state = next(filter(None, states), "")
            if connection.call_id:
                calls.append(DeviceCall(connection=connection, state=state))
        return cls(calls=tuple(calls))

    def to_text(self) -> str:
        infos = "".join(
            "<snapshotDeviceResponseInfo>"
            + Connection("connectionIdentifier").write(call.connection)
            + "<localCallState><compoundCallState><localConnectionState>"
            + escape_text(call.state)
            + "</localConnectionState></compoundCallState></localCallState>"
            "</snapshotDeviceResponseInfo>"
            for call in self.calls
        )
        return (
            "<SnapshotDeviceResponse><crossRefIDorSnapshotData><snapshotData>"
            f"{infos}</snapshotData></crossRefIDorSnapshotData></SnapshotDeviceResponse>"
        )


@_command("SnapshotDevice", reply=SnapshotDeviceResponse)
@attrs.frozen(kw_only=True)
class SnapshotDevice(Command):
    """Asks for the calls that a device has at this moment."""

    device: Annotated[str, Text("snapshotObject")] = ""


@attrs.frozen(kw_only=True)
class Service:
    """A built-in service of the MX, such as voicemail, with its extension."""

    id: Annotated[str, Text("serviceId")] = ""
    name: Annotated[str, Text("serviceName")] = ""
    type: Annotated[str, Text("serviceType")] = ""
    ext: Annotated[str, Text("extension")] = ""


@_reply("GetServiceListResponse")
@attrs.frozen(kw_only=True)
class GetServiceListResponse(Reply):
    """The built-in services."""

    services: Annotated[tuple[Service, ...], Entries("Service", Service)] = ()


@_command("GetServiceList", reply=GetServiceListResponse)
@attrs.frozen(kw_only=True)
class GetServiceList(Command):
    """Asks for the built-in services: harmless and short, so it also serves as a probe."""


# --- Reading --------------------------------------------------------------------------------------


def read_event(element: Element) -> Event:
    """Read what the MX sent by itself; never raises."""
    cls = EVENTS.get(element.tag)
    return UnknownEvent.from_element(element) if cls is None else _as(Event, cls, element)


def read_reply(command: Command, element: Element) -> Reply:
    """Read the answer to a command; never raises.

    Anything that is not an error is success, whatever its root element is called.
    """
    if is_error(element):
        return CSTAError.from_element(element)
    named = REPLIES.get(element.tag)
    cls = named or command.reply_type or Acknowledgement
    return _as(Reply, cls, element)


def read_command(element: Element) -> Command:
    """Read what a client sent; never raises."""
    cls = COMMANDS.get((element.tag,))
    if cls is None:
        variant = (attribute(element, "type") or "", attribute(element, "id") or "")
        cls = COMMANDS.get((element.tag, *variant))
    return UnknownCommand.from_element(element) if cls is None else _as(Command, cls, element)


_T = TypeVar("_T", bound=Message)


def _as(_kind: type[_T], cls: type[_T], element: Element) -> _T:
    message: Any = cls.from_element(element)
    return message  # type: ignore[no-any-return]
