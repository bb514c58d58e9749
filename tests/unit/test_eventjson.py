"""The JSON of events, byte for byte, and the lines of the stream it goes into."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import OutsideParty, User, example_company
from mxflex.simulator.switchboard import DeviceNotice, Switchboard
from mxflex.web.eventjson import (
    EVENT_KEYS,
    encode_call_event,
    encode_gap,
    encode_status,
    timestamp,
)
from mxflex.web.eventstream import encode_sse
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import (
    EVENTS,
    CallEvent,
    ConnectionClearedEvent,
    ConnectionEvent,
    DeliveredEvent,
    DivertedEvent,
    EstablishedEvent,
    FailedEvent,
    HeldEvent,
    NetworkReachedEvent,
    OriginatedEvent,
    ParkedEvent,
    RecordingStateEvent,
    RetrievedEvent,
    ServiceInitiatedEvent,
    TransferredEvent,
    read_event,
)
from mxflex.wire.xmltext import is_sendable, parse
from tests.data import frames

ME = "3095"

# The owner's sample of a stream, word for word.
OWNERS_SAMPLE = b"""\
event: OriginatedEvent
data: {"callId":39,"deviceId":"3095","callingDevice":"3095","calledDevice":"79031744445","cause":"normal","callTypeFlags":36700160}

event: DivertedEvent
data: {"callId":39,"deviceId":"3095","divertingDevice":"3095","newDestination":"79031744445","cause":"normal","callTypeFlags":170917889}

event: DeliveredEvent
data: {"callId":39,"deviceId":"3095","globalCallId":"2808630435142227620","alertingDevice":"79031744445","callingDevice":"3095","calledDevice":"79031744445","localConnectionInfo":"alerting","cause":"normal","callTypeFlags":170917889,"cads":[{"name":"__FIRST_CALL_ID__","type":"string","value":"63022-00-0000D-6A4"}]}

event: EstablishedEvent
data: {"callId":39,"deviceId":"3095","globalCallId":"2808630435142227620","answeringDevice":"79031744445","answeringDisplayName":"79031744445","callingDevice":"3095","calledDevice":"79031744445","callingDisplayName":"3095","cause":"normal","callTypeFlags":170917889,"cads":[{"name":"__FIRST_CALL_ID__","type":"string","value":"63022-00-0000D-6A4"}]}

event: ConnectionClearedEvent
data: {"callId":39,"deviceId":"3095","releasingDevice":"3095","cause":"normal"}
"""  # noqa: E501

FIVE = ["originated", "diverted", "delivered", "established", "cleared"]

# Every call event with every field filled, and the one line that clients get of it.
CALL = ConnectionID(call_id=39, device_id=ME, global_call_id="28")
CADS = (CallAttachedData(name="a", type="b", value="c"), CallAttachedData(name="d", type="e"))
COMMON = {"cause": "normal", "local_connection_info": "alerting"}
FLAGS = {"call_type_flags": 5, "cmds_allowed": 7}
PARTIES = {"calling_device": "1", "called_device": "2"}
FULL = [
    (
        OriginatedEvent(connection=CALL, **PARTIES, **COMMON, **FLAGS),
        (
            '{"callId":39,"deviceId":"3095","callingDevice":"1","calledDevice":"2","cause":"normal",'
            '"callTypeFlags":5,"cmdsAllowed":7}'
        ),
    ),
    (
        DivertedEvent(
            connection=CALL,
            diverting_device="1",
            new_destination="2",
            last_redirection_device="3",
            cause="normal",
            **FLAGS,
        ),
        (
            '{"callId":39,"deviceId":"3095","divertingDevice":"1","newDestination":"2",'
            '"lastRedirectionDevice":"3","cause":"normal","callTypeFlags":5,"cmdsAllowed":7}'
        ),
    ),
    (
        DeliveredEvent(
            connection=CALL,
            alerting_device="4",
            alerting_display_name="x",
            network_calling_device="y",
            calling_display_name="z",
            last_redirection_device="3",
            cads=CADS,
            **PARTIES,
            **COMMON,
            **FLAGS,
        ),
        (
            '{"callId":39,"deviceId":"3095","globalCallId":"28","alertingDevice":"4",'
            '"callingDevice":"1","calledDevice":"2","lastRedirectionDevice":"3",'
            '"localConnectionInfo":"alerting","cause":"normal","callTypeFlags":5,"cmdsAllowed":7,'
            '"cads":[{"name":"a","type":"b","value":"c"},{"name":"d","type":"e"}]}'
        ),
    ),
    (
        EstablishedEvent(
            connection=CALL,
            answering_device="4",
            answering_display_name="w",
            calling_display_name="z",
            last_redirection_device="3",
            cause="normal",
            cads=CADS,
            **PARTIES,
            **FLAGS,
        ),
        (
            '{"callId":39,"deviceId":"3095","globalCallId":"28","answeringDevice":"4",'
            '"answeringDisplayName":"w","callingDevice":"1","calledDevice":"2",'
            '"lastRedirectionDevice":"3","callingDisplayName":"z","cause":"normal","callTypeFlags":5,'
            '"cmdsAllowed":7,"cads":[{"name":"a","type":"b","value":"c"},{"name":"d","type":"e"}]}'
        ),
    ),
    (
        ConnectionClearedEvent(connection=CALL, releasing_device="1", cause="normal"),
        '{"callId":39,"deviceId":"3095","releasingDevice":"1","cause":"normal"}',
    ),
    (
        ServiceInitiatedEvent(connection=CALL, initiating_device="1", **COMMON),
        (
            '{"callId":39,"deviceId":"3095","initiatingDevice":"1","localConnectionInfo":"alerting",'
            '"cause":"normal"}'
        ),
    ),
    (
        NetworkReachedEvent(connection=CALL, network_interface_used="9", **PARTIES, **COMMON),
        (
            '{"callId":39,"deviceId":"3095","networkInterfaceUsed":"9","callingDevice":"1",'
            '"calledDevice":"2","localConnectionInfo":"alerting","cause":"normal"}'
        ),
    ),
    (
        FailedEvent(connection=CALL, failing_device="9", **PARTIES, **COMMON),
        (
            '{"callId":39,"deviceId":"3095","failingDevice":"9","callingDevice":"1",'
            '"calledDevice":"2","localConnectionInfo":"alerting","cause":"normal"}'
        ),
    ),
    (
        HeldEvent(connection=CALL, holding_device="1", **COMMON, **FLAGS),
        (
            '{"callId":39,"deviceId":"3095","holdingDevice":"1","localConnectionInfo":"alerting",'
            '"cause":"normal","callTypeFlags":5,"cmdsAllowed":7}'
        ),
    ),
    (
        RetrievedEvent(connection=CALL, retrieving_device="1", **COMMON, **FLAGS),
        (
            '{"callId":39,"deviceId":"3095","retrievingDevice":"1","localConnectionInfo":"alerting",'
            '"cause":"normal","callTypeFlags":5,"cmdsAllowed":7}'
        ),
    ),
    (
        TransferredEvent(
            connection=CALL, transferring_device="1", transferred_to_device="2", **COMMON
        ),
        (
            '{"callId":39,"deviceId":"3095","transferringDevice":"1","transferredToDevice":"2",'
            '"localConnectionInfo":"alerting","cause":"normal"}'
        ),
    ),
    (
        RecordingStateEvent(connection=CALL, available=True, active=True),
        '{"callId":39,"deviceId":"3095","available":true,"active":true}',
    ),
    (ParkedEvent(park_id=3), '{"deviceId":"3095","parkId":3}'),
]

# Keys that stay although nothing is in them, for each event.
EMPTY = {
    OriginatedEvent: "callId deviceId callingDevice calledDevice cause",
    DivertedEvent: "callId deviceId divertingDevice newDestination cause",
    DeliveredEvent: (
        "callId deviceId globalCallId alertingDevice callingDevice calledDevice"
        " localConnectionInfo cause"
    ),
    EstablishedEvent: (
        "callId deviceId globalCallId answeringDevice answeringDisplayName callingDevice"
        " calledDevice callingDisplayName cause"
    ),
    ConnectionClearedEvent: "callId deviceId releasingDevice cause",
    ServiceInitiatedEvent: "callId deviceId initiatingDevice localConnectionInfo cause",
    NetworkReachedEvent: (
        "callId deviceId networkInterfaceUsed callingDevice calledDevice localConnectionInfo cause"
    ),
    FailedEvent: "callId deviceId callingDevice calledDevice localConnectionInfo cause",
    HeldEvent: "callId deviceId holdingDevice localConnectionInfo cause",
    RetrievedEvent: "callId deviceId retrievingDevice localConnectionInfo cause",
    TransferredEvent: (
        "callId deviceId transferringDevice transferredToDevice localConnectionInfo cause"
    ),
    RecordingStateEvent: "callId deviceId available active",
    ParkedEvent: "deviceId parkId",
}


def event_of(name):
    """Give the event that the bytes of a sample frame are."""
    (sample,) = (each for each in frames.EVENTS if each.name == name)
    return read_event(parse(sample.frame[8:]))


def data_of(event):
    """Give the keys and values of an event as clients read them."""
    return json.loads(encode_call_event(ME, event)[1])


class TestOwnersSample:
    """The owner's own five events."""

    def test_byte_for_byte(self):
        """The frames of the owner's run give the owner's stream, byte for byte, but for the ids."""
        stream = b""
        for number, name in enumerate(FIVE):
            stream += encode_sse(number, *encode_call_event(ME, event_of(name)))
        for number in range(5):
            stream = stream.replace(b"id: %d\n" % number, b"")
        assert stream == OWNERS_SAMPLE + b"\n"

    def test_of_the_simulator(self):
        """A click-to-call in the simulator gives the owner's stream, but for numbers and names."""
        board = Switchboard(example_company(), Behaviour(), next_call_id=39, next_counter=0xD6A4)
        call, caller = board.make_call(ME, "79031744445")
        board.answer(call, call.ringing)
        board.clear(call, caller)
        events = [each.event for each in board.drain() if isinstance(each, DeviceNotice)]
        stream = b"".join(
            b"event: %s\ndata: %s\n\n" % (name.encode(), data)
            for name, data in (encode_call_event(ME, event) for event in events)
        )
        assert stream == OWNERS_SAMPLE + b"\n"


class TestKeys:
    """Which keys, in which order."""

    @pytest.mark.parametrize(("event", "line"), FULL, ids=lambda v: type(v).__name__)
    def test_everything_there(self, event, line):
        """With every field filled, the line has every key of the contract, in its order."""
        assert encode_call_event(ME, event) == (type(event).__name__, line.encode())

    @pytest.mark.parametrize("kind", EMPTY, ids=lambda kind: kind.__name__)
    def test_nothing_there(self, kind):
        """With every field empty or 0, only the optional keys are left out."""
        for event in (kind(), cleared_out(kind)):
            assert " ".join(data_of(event)) == EMPTY[kind]

    def test_every_call_event_has_its_line(self):
        """No call event that MXFlex knows is without a form, and without a test of it."""
        known = {kind for kind in EVENTS.values() if issubclass(kind, CallEvent)}
        assert known == set(EMPTY) == {type(event) for event, _ in FULL}
        assert known == {*EVENT_KEYS, ParkedEvent}

    def test_what_clients_do_not_get(self):
        """An event without a form is none for clients."""
        assert encode_call_event(ME, CallEvent()) is None
        assert encode_call_event(ME, ConnectionEvent(connection=CALL)) is None

    @pytest.mark.parametrize("call_id", [0, 39, 2**53 + 1, 2**64 - 1, -(2**63), "c39", ""])
    def test_call_ids(self, call_id):
        """A call id is a number with all its digits, or the text that the server has for it."""
        event = OriginatedEvent(connection=ConnectionID(call_id, ME))
        assert encode_call_event(ME, event)[1].startswith(
            b'{"callId":%s,' % json.dumps(call_id).encode()
        )

    def test_parked_names_the_monitored_device(self):
        """The event of a parked call has the extension, which the MX leaves out."""
        assert data_of(ParkedEvent(park_id=3)) == {"deviceId": ME, "parkId": 3}
        assert encode_call_event("3044", ParkedEvent()) == (
            "ParkedEvent",
            b'{"deviceId":"3044","parkId":0}',
        )


def cleared_out(kind):
    """Give an event of a kind whose numbers are all 0."""
    numbers = {"call_type_flags": 0, "cmds_allowed": 0, "park_id": 0}
    names = {field.name for field in attrs.fields(kind)}
    return kind(**{name: value for name, value in numbers.items() if name in names})


HOSTILE = [
    "\n",
    "\r",
    "\r\n\r\nevent: gap\ndata: {}\n\n",
    "\u2028\u2029\x85\x0b\x0c",
    '"},"x":{"',
    "\\",
    "</script><script>alert(1)</script>",
    "\u202e3095\u202c",
    "\ufeff",
    "\ufffd",
    "data: x",
    ":\n\n",
    "\N{GRINNING FACE}" * 300,
    "Обед & обед",
    "\t",
    "",
]


def lines_of(frame):
    """Split a frame as the reader of a stream does (WHATWG HTML, 9.2.6): LF, CR, CRLF, no other."""
    return frame.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


class TestHostileNames:
    """Names come from outside the company."""

    @pytest.mark.parametrize("text", HOSTILE, ids=ascii)
    @pytest.mark.parametrize(("event", "line"), FULL[:-2], ids=lambda v: type(v).__name__)
    def test_stay_in_their_line(self, event, line, text):
        """Whatever stands in whatever text, an event is four lines and reads back as it was."""
        event = with_all_texts(event, text)
        frame = encode_sse(7, *encode_call_event(ME, event))
        first, data, last, *rest = lines_of(frame)
        assert first == b"event: " + type(event).__name__.encode()
        assert last == b"id: 7"
        assert rest == [b"", b""]
        assert data.startswith(b"data: {")
        values = json.loads(data[6:])
        texts = {value for value in values.values() if isinstance(value, str)}
        assert texts <= {text}
        assert all(
            cad == {"name": text, "type": text, **({"value": text} if text else {})}
            for cad in values.get("cads", [])
        )

    @given(st.text(st.characters()))
    def test_from_the_wire(self, name):
        """Any name that XML can carry goes from the wire into one line and back unchanged."""
        event = DeliveredEvent(
            monitor="1", connection=CALL, calling_display_name=name, calling_device=name
        )
        if not is_sendable(name):
            # Lone surrogates and control characters never come from an XML parser.
            return
        read = read_event(parse(event.to_text().encode("utf-8")))
        established = EstablishedEvent(
            connection=read.connection,
            calling_display_name=read.calling_display_name,
            calling_device=read.calling_device,
        )
        frame = encode_sse(1, *encode_call_event(ME, established))
        assert len(lines_of(frame)) == 5
        assert json.loads(lines_of(frame)[1][6:])["callingDisplayName"] == name.strip()

    @given(st.binary(max_size=60))
    def test_bytes_that_are_no_text(self, garbage):
        """A name of broken bytes comes out as text that can be sent, or the frame is refused."""
        body = b"<HeldEvent><holdingDevice><deviceIdentifier>%s</deviceIdentifier>" % (
            garbage.translate(None, b"<&")
        )
        event = read_event(parse(body + b"</holdingDevice></HeldEvent>"))
        frame = encode_sse(1, *encode_call_event(ME, event))
        assert len(lines_of(frame)) == 5
        frame.decode("utf-8")

    def test_of_a_whole_call(self):
        """A caller whose name is an attack is told of, from the switchboard to the stream."""
        attack = "x\r\n\r\nevent: gap\r\ndata: {}\r\n\r\n<script>"
        company = example_company()
        company.put(User(jid=2**53 + 5, login="eve", password="", ext="6666", first_name=attack))
        board = Switchboard(company, Behaviour())
        board.company.outside = (OutsideParty(number="12025550104", name=attack),)
        call, called = board.call_in("12025550104", ME, attack)
        board.answer(call, called)
        call, _ = board.make_call("6666", "3044")
        board.answer(call, call.ringing)
        notices = [each for each in board.drain() if isinstance(each, DeviceNotice)]
        assert len(notices) >= 6
        for notice in notices:
            frame = encode_sse(1, *encode_call_event(notice.device, notice.event))
            assert len(lines_of(frame)) == 5
            assert frame.count(b"event: ") == 1 or b"event: gap\\r\\n" in frame


def with_all_texts(event, text):
    """Give an event whose every text is this one."""
    changes = {
        field.name: text
        for field in attrs.fields(type(event))
        if isinstance(getattr(event, field.name), str) and field.name != "monitor"
    }
    changes["connection"] = ConnectionID(39, text, text)
    if hasattr(event, "cads"):
        changes["cads"] = (CallAttachedData(name=text, type=text, value=text),)
    return attrs.evolve(event, **changes)


class TestGap:
    """The event that says that events are missing."""

    def test_reason_alone(self):
        """Without a time the reason stands alone."""
        assert encode_gap("expired", None) == b'{"reason":"expired"}'

    def test_with_its_beginning(self):
        """The time is RFC 3339, in UTC, with milliseconds."""
        assert encode_gap("mx-down", 1505411996.25) == (
            b'{"reason":"mx-down","since":"2017-09-14T17:59:56.250Z"}'
        )

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "1970-01-01T00:00:00.000Z"),
            (0.0009, "1970-01-01T00:00:00.000Z"),
            (1709164800, "2024-02-29T00:00:00.000Z"),
            (4102444799.999, "2099-12-31T23:59:59.999Z"),
        ],
    )
    def test_times(self, seconds, text):
        """Times are written in one form, whatever second they are."""
        assert timestamp(seconds) == text


@pytest.mark.parametrize(("up", "text"), [(True, b'{"mx":"up"}'), (False, b'{"mx":"down"}')])
def test_status(up, text):
    """Whether the MX is there is one word."""
    assert encode_status(up) == text


class TestFrame:
    """An event in a stream."""

    def test_form(self):
        """Name, one line of data, id, and a blank line, each ended by a line feed."""
        assert encode_sse(1505411996000001, "X", b"{}") == (
            b"event: X\ndata: {}\nid: 1505411996000001\n\n"
        )

    @given(st.integers(0, 2**63), st.sampled_from(["gap", "HeldEvent"]), st.text())
    def test_reads_back(self, event_id, name, text):
        """A reader of streams finds in it what was put in."""
        data = json.dumps(text).encode()
        fields = [line.partition(b": ") for line in lines_of(encode_sse(event_id, name, data))]
        assert fields == [
            (b"event", b": ", name.encode()),
            (b"data", b": ", data),
            (b"id", b": ", b"%d" % event_id),
            (b"", b"", b""),
            (b"", b"", b""),
        ]
