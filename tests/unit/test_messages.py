"""Messages: each class against bytes that are facts, and all that peers may write otherwise."""

from __future__ import annotations

import re
import types
import typing
from typing import Any

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mxflex.errors import LocalProtocolError
from mxflex.wire import messages
from mxflex.wire.codec import (
    Attribute,
    CallAttachedData,
    ConnectionID,
    codecs_of,
    to_bool,
    to_int,
)
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookEntry,
    Command,
    CSTAError,
    DeliveredEvent,
    Event,
    Message,
    Reply,
    hash_password,
    read_command,
    read_event,
    read_reply,
)
from mxflex.wire.xmltext import Element, is_sendable, parse
from tests.data.frames import CALL_39, COMMANDS, EVENTS, REPLIES, Sample

SAMPLES = [*COMMANDS, *REPLIES, *EVENTS]


def command(text: str) -> Command:
    return read_command(parse(text.encode()))


def reply(to: Command, text: str) -> Reply:
    return read_reply(to, parse(text.encode()))


def event(text: str) -> Event:
    return read_event(parse(text.encode()))


def read_like(sample: Sample, text: str) -> Message:
    """Read a text as the peer would that gets the sample."""
    if sample.answers is not None:
        return reply(sample.answers, text)
    return command(text) if isinstance(sample.message, Command) else event(text)


def body_of(sample: Sample) -> str:
    return sample.frame[8:].decode()


# --- The table, both ways -------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_read(sample: Sample) -> None:
    """Each sample is read as the message it is."""
    assert read_like(sample, body_of(sample)) == sample.message


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_write(sample: Sample) -> None:
    """Each message is written as its sample, byte for byte."""
    assert sample.message.to_text() == body_of(sample)


def classes() -> list[type[Message]]:
    """Give every message class that can stand in a frame."""
    registered = [
        *messages.COMMANDS.values(),
        *messages.REPLIES.values(),
        *messages.EVENTS.values(),
        *(messages.UnknownCommand, messages.UnknownEvent, Acknowledgement, CSTAError),
    ]
    return sorted(set(registered), key=lambda cls: cls.__name__)


def test_the_table_is_complete() -> None:
    """No message class is without a sample, in each of its roles."""
    commands, replies, events = (
        {type(sample.message) for sample in table} for table in (COMMANDS, REPLIES, EVENTS)
    )
    # A server's keep-alive means nothing and is only read.
    assert commands | replies | events | {messages.ServerKeepAlive} == set(classes())
    assert replies >= {cls for cls in classes() if issubclass(cls, Reply)}
    assert commands >= {cls for cls in classes() if issubclass(cls, Command)}


def to_empty_tags(text: str) -> str:
    return re.sub(r"<(\w+)([^<>/]*)></\1>", r"<\1\2/>", text)


def to_end_tags(text: str) -> str:
    return re.sub(r"<(\w+)([^<>]*?)\s*/>", r"<\1\2></\1>", text)


def to_single_quotes(text: str) -> str:
    return text.replace('"', "'")


def to_declared(text: str) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>\r\n{text}\r\n'


def to_default_namespace(text: str) -> str:
    namespace = "http://www.ecma-international.org/standards/ecma-323/csta/ed4"
    return re.sub(r"^<(\w+)", rf'<\1 xmlns="{namespace}"', text)


def to_prefixed(text: str) -> str:
    return re.sub(r"<(/?)(\w)", r"<\1csta:\2", text)


def to_indented(text: str) -> str:
    # Only between elements: white space inside a text belongs to a password.
    return text.replace("><", ">\r\n    <")


def to_loose(text: str) -> str:
    return re.sub(r"\s*(/?>)", r"\n\1", re.sub(r" (\w+)=", r"   \1 = ", text))


@pytest.mark.parametrize(
    "rewrite",
    [
        to_empty_tags,
        to_end_tags,
        to_single_quotes,
        to_declared,
        to_default_namespace,
        to_prefixed,
        to_indented,
        to_loose,
    ],
)
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_other_ways_to_write_a_sample(sample: Sample, rewrite) -> None:
    """The layout of the XML never changes the message."""
    assert read_like(sample, rewrite(body_of(sample))) == sample.message


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_unknown_content_is_skipped(sample: Sample) -> None:
    """Elements and attributes that newer servers add change nothing."""
    text = to_end_tags(body_of(sample))
    added = re.sub(r"^<(\w+)", r'<\1 newer="yes"', text)
    # At the end: an error's first child is its category.
    added = re.sub(r"(</\w+>)$", r"<newerStill><callID>7</callID></newerStill>\1", added)
    assert read_like(sample, added) == sample.message


# --- Commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '<iq type="get" id="addressbook" index="3"></iq>',
            messages.GetAddressBook(index=3),
            id="iq with an end tag",
        ),
        pytest.param(
            '<iq id="addressbook" type="get" sortmode="last"/>',
            messages.GetAddressBook(index=None),
            id="iq without an index",
        ),
        pytest.param(
            '<iq type="get" id="roster"></iq>', messages.UnknownCommand(name="iq"), id="other iq"
        ),
        pytest.param("<iq/>", messages.UnknownCommand(name="iq"), id="iq without anything"),
        pytest.param("<keepalive />", messages.KeepAlive(), id="keepalive with a space"),
        pytest.param("<logout></logout>", messages.Logout(), id="logout with an end tag"),
        pytest.param("<Logout/>", messages.UnknownCommand(name="Logout"), id="letter case"),
        pytest.param(
            "<DeliveredEvent/>", messages.UnknownCommand(name="DeliveredEvent"), id="event"
        ),
        pytest.param(
            '<presence status="Available"><presenceNote/></presence>',
            messages.SetPresence(status="Available", note=""),
            id="note cleared",
        ),
        pytest.param(
            "<MonitorStart><monitorObject><deviceObject>3095</deviceObject></monitorObject>"
            "<confEvents>true</confEvents></MonitorStart>",
            messages.MonitorStart(device="3095"),
            id="monitor with conferences",
        ),
        pytest.param("<MonitorStart/>", messages.MonitorStart(), id="monitor of nothing"),
        pytest.param(
            "<MakeCall><callingDevice>\n </callingDevice><calledDirectoryNumber> 3044\n"
            "</calledDirectoryNumber><group>Sales</group></MakeCall>",
            messages.MakeCall(called="3044"),
            id="call from the own device",
        ),
        pytest.param(
            "<StartRecording><Call><callID>39</callID><deviceID>3095</deviceID></Call>"
            "<groupID>5</groupID></StartRecording>",
            messages.StartRecording(connection=CALL_39),
            id="recording for a group",
        ),
        pytest.param("<HoldCall/>", messages.HoldCall(), id="hold of nothing"),
        pytest.param(
            '<loginRequest type="User" platform="MXIE" forced="1" loginCapab="Audio|Im" '
            'push_clean="flase"><userName>jane</userName><pwd>c2VjcmV0\n</pwd></loginRequest>',
            messages.LoginRequest(
                type="User", platform="MXIE", forced=True, user_name="jane", password="c2VjcmV0\n"
            ),
            id="login of other clients, the line feed raw",
        ),
        pytest.param(
            '<loginRequest platform="ExtWeb"><userName>webuser_1</userName></loginRequest>',
            messages.LoginRequest(platform="ExtWeb", user_name="webuser_1"),
            id="login without a password",
        ),
        pytest.param("<loginRequest/>", messages.LoginRequest(), id="login without anything"),
    ],
)
def test_commands_of_other_clients(text: str, expected: Command) -> None:
    """What other clients write for the same is read as the same."""
    assert command(text) == expected


@pytest.mark.parametrize(
    "password",
    ["]]>", "a&b", "\"'<>", "  spaces  ", "tab\tlf\ncr\r", "пароль", "\U0001f511", "x" * 10_000],
)
def test_a_password_travels_unchanged(password: str) -> None:
    """No character of a password is lost, least of all white space."""
    sent = messages.LoginRequest(user_name="jane", password=password)
    assert command(sent.to_text()) == sent


@pytest.mark.parametrize("field", ["user_name", "password", "platform"])
def test_what_xml_cannot_carry_is_not_sent(field: str) -> None:
    """A control character in a login is our error before it is the MX's."""
    with pytest.raises(LocalProtocolError):
        messages.LoginRequest(**{field: "a\x00b"}).to_text()


def test_hashed_password() -> None:
    """The hash is base64 of SHA-1 of the UTF-8 text, and the line feed belongs to it."""
    assert hash_password("password") == "W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"
    assert hash_password("пароль") == "VnC0NYrih/6OdML/b2KT+QVAkHc=\n"
    assert hash_password("") == "2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n"


def test_secrets_are_not_shown() -> None:
    """The text form of a message, which may reach a log, has no password in it."""
    shown = repr(messages.LoginRequest(user_name="jane", password="hunter2"))
    assert "jane" in shown
    assert "hunter2" not in shown
    assert "hunter2" not in repr(messages.LoginResponse(soft_phone_password="hunter2"))


# --- Replies --------------------------------------------------------------------------------------

LOGIN = messages.LoginRequest()


@pytest.mark.parametrize(
    ("to", "text", "expected"),
    [
        # Decoded from a live MX, with its doubled and trailing blanks.
        pytest.param(
            LOGIN,
            '<loginResponce Code="0" sn="631HC" apiversion="11" ext="273" '
            'userId="43892780322813134" softPhonePwd="..."  proto="TLS" mxport="5061" '
            'clientport="1234" >Login OK</loginResponce>',
            messages.LoginResponse(
                code=0,
                serial="631HC",
                api_version=11,
                ext="273",
                user_id=43892780322813134,
                soft_phone_password="...",
                text="Login OK",
            ),
            id="login, API 11",
        ),
        # Captured from an MX of version 17.
        pytest.param(
            LOGIN,
            '<?xml version="1.0" encoding="utf-8"?><loginResponce  Code="-1" sn="63022" '
            'apiversion="20" pushApiversion="1" ext="3095" userId="43884851147406145" '
            'ipLocation="Default" maxFTFileSizeMb="50" wwwUuid="" canMonitor="false" '
            'screenSharingServerUrl="" screenSharingServerPort="8888" proto="TLS" mxport="5061" '
            'clientport="1234">Password Expired</loginResponce>',
            messages.LoginResponse(
                code=-1,
                serial="63022",
                api_version=20,
                ext="3095",
                user_id=43884851147406145,
                text="Password Expired",
            ),
            id="login, API 20, password expired",
        ),
        pytest.param(
            LOGIN,
            '<loginResponce code="-1" SN="63022"/>',
            messages.LoginResponse(code=-1, serial="63022"),
            id="attributes in other letter case",
        ),
        pytest.param(LOGIN, "<loginResponce/>", messages.LoginResponse(code=None), id="bare login"),
        pytest.param(
            LOGIN,
            '<loginResponce Code="" ext="" userId="" apiversion="new"/>',
            messages.LoginResponse(code=None),
            id="empty numbers",
        ),
        pytest.param(
            LOGIN,
            '<loginResponce Code="0" userId="4294967295"/>',
            messages.LoginResponse(code=0, user_id=4294967295),
            id="the user id of a non-user",
        ),
        pytest.param(
            LOGIN,
            '<loginResponce Code="0" userId="18446744073709551615"/>',
            messages.LoginResponse(code=0, user_id=2**64 - 1),
            id="the largest user id",
        ),
        pytest.param(
            LOGIN,
            '<loginResponce Code="0" userId="18446744073709551616"/>',
            messages.LoginResponse(code=0),
            id="a user id above 64 bits",
        ),
        pytest.param(
            LOGIN,
            '<loginFailed code="4" apiversion="20"/>',
            messages.LoginFailed(code=4, api_version=20),
            id="login failed, code in lower case",
        ),
        pytest.param(
            LOGIN, "<loginFailed/>", messages.LoginFailed(code=None), id="login failed, bare"
        ),
        pytest.param(
            messages.Logout(),
            "<logoutResponse/>",
            Acknowledgement(name="logoutResponse"),
            id="logout in other words",
        ),
        pytest.param(
            messages.MonitorStart(device="3095"),
            "<MonitorStartResponse><monitorCrossRefID>1</monitorCrossRefID>"
            "<actualMonitorMediaClass><voice>true</voice></actualMonitorMediaClass>"
            "</MonitorStartResponse>",
            messages.MonitorStartResponse(monitor="1"),
            id="monitor with its media class",
        ),
        pytest.param(
            messages.MonitorStart(device="3095"),
            "<MonitorStarted><monitorCrossRefID> a-7\n</monitorCrossRefID></MonitorStarted>",
            messages.MonitorStartResponse(monitor="a-7"),
            id="monitor in other words",
        ),
        pytest.param(
            messages.MonitorStartAddressBook(),
            "<MonitorStartAb/>",
            Acknowledgement(name="MonitorStartAb"),
            id="the command's own name",
        ),
        pytest.param(
            messages.MakeCall(),
            "<MakeCallResponse><callingDevice><callID>38</callID><deviceID>3095</deviceID>"
            "</callingDevice></MakeCallResponse>",
            messages.MakeCallResponse(connection=ConnectionID(call_id=38, device_id="3095")),
            id="call without a called number",
        ),
        pytest.param(
            messages.MakeCall(),
            "<MakeCallResponse/>",
            messages.MakeCallResponse(),
            id="call without anything",
        ),
        pytest.param(
            messages.HoldCall(),
            "<HeldResponse/>",
            Acknowledgement(name="HeldResponse"),
            id="hold in other words",
        ),
        pytest.param(
            messages.GetAddressBook(index=0),
            '<ablist size="0"/>',
            messages.AddressBookPage(size=0),
            id="empty address book without an index",
        ),
        pytest.param(
            messages.GetServiceList(),
            "<Services><Service><serviceId>1</serviceId><serviceType>VM</serviceType>"
            "<extension>*86</extension><homeSystem>0</homeSystem></Service><Service/></Services>",
            messages.GetServiceListResponse(
                services=(messages.Service(id="1", type="VM", ext="*86"), messages.Service())
            ),
            id="services in other words",
        ),
        pytest.param(
            messages.SnapshotDevice(device="3095"),
            "<SnapshotDeviceResponse/>",
            messages.SnapshotDeviceResponse(),
            id="snapshot without calls",
        ),
        pytest.param(
            messages.SnapshotDevice(device="3095"),
            "<SnapshotDeviceResponse><snapshotDeviceResponseInfo><connectionIdentifier>"
            "<callID>39</callID><deviceID>3095</deviceID></connectionIdentifier>"
            "<localCallState> hold </localCallState></snapshotDeviceResponseInfo>"
            "<snapshotDeviceResponseInfo/></SnapshotDeviceResponse>",
            messages.SnapshotDeviceResponse(
                calls=(messages.DeviceCall(connection=CALL_39, state="hold"),)
            ),
            id="snapshot with less nesting, and an entry without a call",
        ),
    ],
)
def test_replies_of_other_servers(to: Command, text: str, expected: Reply) -> None:
    """An answer goes by its command, whatever its root is called and whatever it leaves out."""
    assert reply(to, text) == expected


ERRORS = [
    pytest.param(
        "<CSTAErrorCode><operation>invalidDeviceID</operation></CSTAErrorCode>",
        ("invalidDeviceID", "operation"),
        id="with a category",
    ),
    pytest.param(
        "<CSTAErrorCode>\n <privateErrorCode> URM Denied </privateErrorCode>\n</CSTAErrorCode>",
        ("URM Denied", "privateErrorCode"),
        id="indented",
    ),
    pytest.param("<CSTAErrorCode> denied </CSTAErrorCode>", ("denied", ""), id="bare text"),
    pytest.param(
        "<CSTAErrorCode><operation/></CSTAErrorCode>", ("operation", "operation"), id="only named"
    ),
    pytest.param("<CSTAErrorCode/>", ("refused without a reason", ""), id="empty"),
    pytest.param('<errorResponse Error="no licence"/>', ("no licence", ""), id="errorResponse"),
    pytest.param("<errorResponse Code='5'>busy</errorResponse>", ("busy", ""), id="its text"),
    pytest.param(
        '<errorResponse Error="denied"><session>7</session></errorResponse>',
        ("denied", ""),
        id="errorResponse with content",
    ),
    pytest.param(
        '<HoldCallResponse Error="not now"><callID>39</callID></HoldCallResponse>',
        ("not now", ""),
        id="an answer with an Error",
    ),
]


@pytest.mark.parametrize(("text", "told"), ERRORS)
@pytest.mark.parametrize(
    "to", [LOGIN, messages.HoldCall(), messages.MakeCall(), messages.GetAddressBook()], ids=repr
)
def test_errors(to: Command, text: str, told: tuple[str, str]) -> None:
    """All three forms of an error are errors, to each command; the MX's words are kept."""
    answer = reply(to, text)
    assert isinstance(answer, CSTAError)
    assert (answer.text, answer.category) == told


@pytest.mark.parametrize(
    "text", ['<HoldCallResponse Error=""/>', '<HoldCallResponse Code="0"/>', "<Error/>"]
)
def test_no_errors(text: str) -> None:
    """Anything else under the command's id is success."""
    assert isinstance(reply(messages.HoldCall(), text), Acknowledgement)


def test_an_error_as_event() -> None:
    """An error that belongs to no answer comes as an event, under both of its names."""
    assert event("<errorResponse Error='x'/>") == CSTAError(text="x")
    assert event("<CSTAErrorCode><operation>x</operation></CSTAErrorCode>") == CSTAError(
        text="x", category="operation"
    )


# --- Events ---------------------------------------------------------------------------------------


def delivered(content: str) -> DeliveredEvent:
    """Read a DeliveredEvent with that content."""
    message = event(f"<DeliveredEvent>{content}</DeliveredEvent>")
    assert isinstance(message, DeliveredEvent)
    return message


@pytest.mark.parametrize(
    ("device", "number"),
    [
        ("", ""),
        ("<callingDevice/>", ""),
        ("<callingDevice><notKnown/></callingDevice>", ""),
        ("<callingDevice><notRequired/></callingDevice>", ""),
        ("<callingDevice>\n  <notKnown></notKnown>\n</callingDevice>", ""),
        ("<callingDevice><deviceIdentifier/></callingDevice>", ""),
        ("<callingDevice><deviceIdentifier>3044</deviceIdentifier></callingDevice>", "3044"),
        ("<callingDevice>\n<deviceIdentifier>\n3044 </deviceIdentifier></callingDevice>", "3044"),
        ("<callingDevice><party><addr>3044</addr><disp>Bob</disp></party></callingDevice>", "3044"),
        ("<callingDevice><party/></callingDevice>", ""),
        (
            "<callingDevice><deviceIdentifier/><party><addr>3044</addr></party></callingDevice>",
            "3044",
        ),
        (
            "<callingDevice><party/><deviceIdentifier>3044</deviceIdentifier></callingDevice>",
            "3044",
        ),
        ("<callingDevice> 3044 </callingDevice>", "3044"),
    ],
)
def test_ways_to_write_a_device(device: str, number: str) -> None:
    """A device is read wrapped, by party or as text; unknown, unwanted or absent it is ""."""
    assert delivered(device).calling_device == number


@pytest.mark.parametrize(
    ("call_id", "expected"),
    [
        ("<callID>39</callID>", 39),
        ("<callID>\n 39 </callID>", 39),
        ("<callID>0</callID>", 0),
        ("<callID>18446744073709551615</callID>", 2**64 - 1),
        ("<callID>18446744073709551616</callID>", "18446744073709551616"),
        ("<callID>123456789012345678901234567890</callID>", "123456789012345678901234567890"),
        ("<callID>c-39:1</callID>", "c-39:1"),
        ("<callID>0x27</callID>", "0x27"),
        ("<callID>39.0</callID>", "39.0"),
        ("<callID>\u0663\u0669</callID>", "\u0663\u0669"),
        ("<callID/>", 0),
        ("", 0),
    ],
)
def test_ways_to_write_a_call_id(call_id: str, expected: int | str) -> None:
    """A call id is a number where it is one, else its text, and goes back unchanged."""
    message = delivered(f"<connection>{call_id}<deviceID>3095</deviceID></connection>")
    assert message.connection == ConnectionID(call_id=expected, device_id="3095")
    held = messages.HoldCall(connection=message.connection)
    assert command(held.to_text()) == held


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("<callTypeFlags>170917889</callTypeFlags>", 170917889),
        ("<callTypeFlags>0</callTypeFlags>", 0),
        ("<callTypeFlags>-1</callTypeFlags>", -1),
        ("<callTypeFlags> 7\n</callTypeFlags>", 7),
        ("<callTypeFlags>4294967296</callTypeFlags>", 2**32),
        ("<callTypeFlags>-9223372036854775808</callTypeFlags>", -(2**63)),
        ("<callTypeFlags>-9223372036854775809</callTypeFlags>", None),
        ("<callTypeFlags>18446744073709551615</callTypeFlags>", 2**64 - 1),
        ("<callTypeFlags>18446744073709551616</callTypeFlags>", None),
        ("<callTypeFlags>" + "9" * 5000 + "</callTypeFlags>", None),
        ("<callTypeFlags>0x2300000</callTypeFlags>", None),
        ("<callTypeFlags>\u0667</callTypeFlags>", None),
        ("<callTypeFlags></callTypeFlags>", None),
        ("<callTypeFlags/>", None),
        ("", None),
    ],
)
def test_ways_to_write_a_number(flags: str, expected: int | None) -> None:
    """What is missing, empty or no 64-bit number is None; 0 is 0."""
    assert delivered(flags).call_type_flags == expected


def test_allowed_commands_as_list() -> None:
    """Newer servers list the allowed commands; that is no number, and the rest is still read."""
    message = delivered(
        "<cmdsAllowed><cmd>Disconnect</cmd><cmd>Transfer</cmd></cmdsAllowed><cause>normal</cause>"
    )
    assert (message.cmds_allowed, message.cause) == (None, "normal")


def test_attached_data() -> None:
    """Every `cad` is kept, in order, whatever it leaves out."""
    message = delivered('<cad name="a" type="string">1</cad><x/><cad>2</cad><cad name="c"/>')
    assert message.cads == (
        CallAttachedData(name="a", type="string", value="1"),
        CallAttachedData(name="", value="2"),
        CallAttachedData(name="c"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("<DeliveredEvent/>", DeliveredEvent(), id="delivered, empty"),
        pytest.param(
            "<DeliveredEvent><monitorCrossRefID>01</monitorCrossRefID><connection><callID>351"
            "</callID><deviceID>199</deviceID><globalCallID>63022-00-0000D-50D</globalCallID>"
            "<globalOrigCallID>1</globalOrigCallID></connection><direction>Incoming</direction>"
            "<state>Ringing</state></DeliveredEvent>",
            DeliveredEvent(
                monitor="01",
                connection=ConnectionID(
                    call_id=351, device_id="199", global_call_id="63022-00-0000D-50D"
                ),
            ),
            id="delivered by a newer server, global id as text",
        ),
        pytest.param(
            "<HeldEvent><cmdsAllowed>376</cmdsAllowed><callTypeFlags>141565955</callTypeFlags>"
            "<cause>normal</cause><heldConnection><deviceID>3095</deviceID><callID>56</callID>"
            "</heldConnection><monitorCrossRefID>1</monitorCrossRefID></HeldEvent>",
            messages.HeldEvent(
                monitor="1",
                connection=ConnectionID(call_id=56, device_id="3095"),
                cause="normal",
                call_type_flags=141565955,
                cmds_allowed=376,
            ),
            id="held, in another order",
        ),
        pytest.param(
            "<TransferredEvent><monitorCrossRefID>1</monitorCrossRefID><primaryOldCall><callID>39"
            "</callID><deviceID>3095</deviceID></primaryOldCall></TransferredEvent>",
            messages.TransferredEvent(monitor="1", connection=CALL_39),
            id="transferred with two r",
        ),
        pytest.param(
            "<FailedEvent><failingDevice><deviceIdentifier>3044</deviceIdentifier></failingDevice>"
            "<cause>busy</cause></FailedEvent>",
            messages.FailedEvent(failing_device="3044", cause="busy"),
            id="failed as ECMA has it",
        ),
        pytest.param(
            "<DivertedEvent><lastRedirectionDevice><deviceIdentifier>3044</deviceIdentifier>"
            "</lastRedirectionDevice><cmdsAllowed>272</cmdsAllowed></DivertedEvent>",
            messages.DivertedEvent(last_redirection_device="3044", cmds_allowed=272),
            id="diverted with a redirection",
        ),
        pytest.param(
            "<callParkInfo><monitorCrossRefID>1</monitorCrossRefID><parkID/></callParkInfo>",
            messages.ParkedEvent(monitor="1"),
            id="parked nowhere",
        ),
        pytest.param(
            "<RecordingStateEvent><monitorCrossRefID>1</monitorCrossRefID><callID>39</callID>"
            "<deviceID>3095</deviceID><RecIsAvailable>1</RecIsAvailable><RecIsActive>TRUE"
            "</RecIsActive></RecordingStateEvent>",
            messages.RecordingStateEvent(
                monitor="1", connection=CALL_39, available=True, active=True
            ),
            id="recording with the call at the top",
        ),
        pytest.param("<ablist/>", messages.AddressBookPage(), id="address book, bare"),
        pytest.param(
            '<ablist size="1"><abentry jid="9"><homeSystem/><ext/></abentry><other/></ablist>',
            messages.AddressBookPage(size=1, entries=(AddressBookEntry(jid=9),)),
            id="no index, and an entry with next to nothing",
        ),
        pytest.param("<AbAddUserEvent/>", messages.AddressBookAdded(), id="nobody added"),
        pytest.param("<AbDeleteUserEvent/>", messages.AddressBookDeleted(), id="nobody deleted"),
        pytest.param(
            '<presence status="NotAvaliable"></presence>',
            messages.Presence(status="NotAvaliable"),
            id="presence with the server's typing error",
        ),
        pytest.param(
            '<presence from="7" status="Available" mxStatus="A|B"><presenceNote/></presence>',
            messages.Presence(jid=7, status="Available", mx_status="A|B", note=""),
            id="presence with the note cleared",
        ),
        pytest.param("<Logout/>", messages.LoggedOut(), id="logout without a mode"),
        pytest.param(
            "<message><text>a DeliveredEvent</text></message>",
            messages.UnknownEvent(name="message"),
            id="an event's name in a text",
        ),
        pytest.param("<keepalive/>", messages.ServerKeepAlive(), id="a server's keep-alive"),
        pytest.param(
            "<deliveredevent/>", messages.UnknownEvent(name="deliveredevent"), id="letter case"
        ),
    ],
)
def test_events_of_other_servers(text: str, expected: Event) -> None:
    """Events in other spellings, with more or with less in them, are read."""
    assert event(text) == expected


@pytest.mark.parametrize("cls", sorted(set(messages.EVENTS.values()), key=lambda cls: cls.__name__))
def test_an_event_without_content(cls: type[Event]) -> None:
    """Each event can be read when the server left out everything."""
    assert isinstance(event(f"<{cls.wire_name}/>"), cls)


def test_a_display_name_with_broken_characters() -> None:
    """What a caller from outside is called does not cost the event of the call."""
    body = b"<DeliveredEvent><callingDisplayName>Ann\xff\x1b[1m&#0;</callingDisplayName>"
    message = read_event(parse(body + b"<cause>normal</cause></DeliveredEvent>"))
    assert message == DeliveredEvent(
        calling_display_name="Ann\ufffd\ufffd[1m\ufffd", cause="normal"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("true", True), (" TRUE\n", True), ("1", True), ("false", False), ("0", False)],
        *[("", False), ("yes", False), (None, False)],
    ],
)
def test_booleans(text: str | None, value: bool) -> None:
    """`true` and `1` are true; everything else is false."""
    assert to_bool(text) is value


@given(st.one_of(st.text(), st.integers().map(str), st.integers(-(2**66), 2**66).map(str)))
def test_numbers_are_safe(text: str) -> None:
    """Any text is a number of 64 bits, signed or unsigned, or None."""
    number = to_int(text)
    assert number is None or -(2**63) <= number < 2**64


# --- Properties of every class --------------------------------------------------------------------

SENDABLE = st.text(st.characters(codec="utf-8")).filter(is_sendable)
STRIPPED = SENDABLE.map(str.strip)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
COMMAND_NAMES = {name for name, *_ in messages.COMMANDS}
XML_NAMES = st.from_regex(r"[A-Z][A-Za-z0-9]{0,12}", fullmatch=True)
CALL_IDS = st.one_of(
    st.integers(0, 2**64 - 1), STRIPPED.filter(lambda text: text and to_int(text) is None)
)
CONNECTIONS = st.builds(ConnectionID, CALL_IDS, STRIPPED, STRIPPED)
# Classes that read their element themselves have fields without annotations of the wire.
BY_HAND: dict[type, st.SearchStrategy[Any]] = {
    Acknowledgement: st.builds(Acknowledgement, name=XML_NAMES),
    messages.UnknownEvent: st.builds(messages.UnknownEvent, name=XML_NAMES),
    messages.UnknownCommand: st.builds(messages.UnknownCommand, name=XML_NAMES),
    CSTAError: st.builds(CSTAError, text=STRIPPED.filter(bool), category=XML_NAMES),
    CallAttachedData: st.builds(CallAttachedData, name=SENDABLE, type=SENDABLE, value=STRIPPED),
    ConnectionID: CONNECTIONS,
    messages.SnapshotDeviceResponse: st.builds(
        messages.SnapshotDeviceResponse,
        calls=st.lists(
            st.builds(
                messages.DeviceCall,
                connection=CONNECTIONS.filter(lambda connection: connection.call_id != 0),
                state=STRIPPED,
            ),
            max_size=3,
        ).map(tuple),
    ),
}


def values_of(hint: Any, codec: Any) -> st.SearchStrategy[Any]:
    """Give the values that a field of that type and codec can hold."""
    if typing.get_origin(hint) is tuple:
        return st.lists(values_of(typing.get_args(hint)[0], None), max_size=3).map(tuple)
    if isinstance(hint, types.UnionType):
        return st.one_of(*(values_of(each, codec) for each in typing.get_args(hint)))
    if hint is types.NoneType:
        return st.none()
    if hint is str:
        raw = isinstance(codec, Attribute) or getattr(codec, "strip", True) is False
        return SENDABLE if raw else STRIPPED
    if attrs.has(hint):
        return instances_of(hint)
    return {int: INTEGERS, bool: st.booleans()}[hint]


def instances_of(cls: type) -> st.SearchStrategy[Any]:
    """Give instances of an annotated class, with every field filled by its annotation."""
    if cls in BY_HAND:
        return BY_HAND[cls]
    hints = typing.get_type_hints(cls)
    fields = {name: values_of(hints[name], codec) for name, codec in codecs_of(cls)}
    return st.builds(cls, **fields)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_round_trip(cls: type[Message]) -> None:
    """Whatever a message holds, reading what it writes gives the same message."""

    # Inside, since pytest-twisted wraps a parametrized property once for each parameter.
    @settings(max_examples=25)
    @given(instances_of(cls))
    def holds(message: Message) -> None:
        element = parse(message.to_text().encode())
        name = element.tag
        if isinstance(message, Command):
            assume(not isinstance(message, messages.UnknownCommand) or name not in COMMAND_NAMES)
            assert read_command(element) == message
        if isinstance(message, Event):
            assume(not isinstance(message, messages.UnknownEvent) or name not in messages.EVENTS)
            assert read_event(element) == message
        if isinstance(message, Reply):
            assume(not isinstance(message, Acknowledgement) or name not in messages.REPLIES)
            assert read_reply(Command(), element) == message

    holds()


WIRE_NAMES = sorted(
    {name for sample in SAMPLES for name in re.findall(r"[<\s](\w+)[\s=/>]", body_of(sample))}
)


def elements(depth: int = 3) -> st.SearchStrategy[Element]:
    """Give elements that have the right names in all the wrong places."""
    names = st.sampled_from(WIRE_NAMES)

    def build(name: str, attributes: dict[str, str], text: str, children: list) -> Element:
        element = Element(name, attributes)
        element.text = text
        for child in children:
            element.append(child)
        return element

    children = st.lists(elements(depth - 1), max_size=4) if depth else st.just([])
    return st.builds(
        build, names, st.dictionaries(names, st.text(), max_size=3), st.text(), children
    )


@given(elements())
def test_reading_never_fails(element: Element) -> None:
    """Any element at all is some command, event and reply; reading raises nothing."""
    assert isinstance(read_command(element), Command)
    assert isinstance(read_event(element), Event)
    for cls in messages.COMMANDS.values():
        assert isinstance(read_reply(cls(), element), Reply)
