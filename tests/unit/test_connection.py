"""Both ends of a connection: invoke ids, and what the bytes of the other end mean."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxflex.errors import LocalProtocolError, RemoteProtocolError
from mxflex.wire import messages
from mxflex.wire.connection import (
    BadFrame,
    ClientConnection,
    CommandReceived,
    EventReceived,
    LateReply,
    ReplyReceived,
    ServerConnection,
)
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import Acknowledgement, UnknownCommand, UnknownEvent
from tests.data.frames import COMMANDS, EVENTS, KEEPALIVE_FRAME, REPLIES, Sample

PROBE = messages.GetServiceList()
MARK = encode_frame(9999, b"<Mark/>")
MARKED = EventReceived(UnknownEvent(name="Mark"))


def all_events(end: ClientConnection | ServerConnection) -> list[Any]:
    """Give everything that has happened."""
    return list(iter(end.next_event, None))


def received(end: ClientConnection | ServerConnection, *pieces: bytes) -> list[Any]:
    """Feed pieces and give everything that happened, as it happens."""
    happened = []
    for piece in pieces:
        end.receive_data(piece)
        happened += all_events(end)
    return happened


def waiting_client(sample: Sample) -> ClientConnection:
    """Give a client to which the sample can be sent."""
    client = ClientConnection()
    if sample.answers is not None:
        assert client.request(sample.answers)[0] == 1
    return client


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class TestFromClient:
    """Commands: written by a client, read by a server."""

    @pytest.mark.parametrize("sample", COMMANDS, ids=str)
    def test_request(self, sample: Sample) -> None:
        """A new client's first command is the sample, byte for byte, under the id 1."""
        assert ClientConnection().request(sample.message) == (1, sample.frame)

    @pytest.mark.parametrize("sample", COMMANDS, ids=str)
    def test_byte_by_byte(self, sample: Sample) -> None:
        """The server hears the command with its last byte, not before."""
        server = ServerConnection()
        *first, last = one_by_one(sample.frame)
        assert received(server, *first) == []
        assert received(server, last) == [CommandReceived(1, sample.message)]

    @pytest.mark.parametrize("sample", COMMANDS, ids=str)
    def test_every_split(self, sample: Sample) -> None:
        """Wherever the bytes are cut, the command and the one behind it are heard once each."""
        stream = sample.frame + KEEPALIVE_FRAME
        expected = [CommandReceived(1, sample.message), CommandReceived(0, messages.KeepAlive())]
        for cut in range(len(stream) + 1):
            assert received(ServerConnection(), stream[:cut], stream[cut:]) == expected


class TestFromServer:
    """Answers and events: written by a server, read by a client."""

    @pytest.mark.parametrize("sample", REPLIES, ids=str)
    def test_reply(self, sample: Sample) -> None:
        """An answer is the sample, byte for byte, under the command's id."""
        assert ServerConnection().reply(1, sample.message) == sample.frame

    @pytest.mark.parametrize("sample", EVENTS, ids=str)
    def test_event(self, sample: Sample) -> None:
        """An event is the sample, byte for byte, under the id 9999."""
        assert ServerConnection().event(sample.message) == sample.frame

    @pytest.mark.parametrize("sample", [*REPLIES, *EVENTS], ids=str)
    def test_byte_by_byte(self, sample: Sample) -> None:
        """The client hears the message with its last byte, not before."""
        client = waiting_client(sample)
        *first, last = one_by_one(sample.frame)
        assert received(client, *first) == []
        assert received(client, last) == [self.heard(sample)]
        assert client.waiting == 0

    @pytest.mark.parametrize("sample", [*REPLIES, *EVENTS], ids=str)
    def test_every_split(self, sample: Sample) -> None:
        """Wherever the bytes are cut, the message and the one behind it are heard once each."""
        stream = sample.frame + MARK
        expected = [self.heard(sample), MARKED]
        for cut in range(len(stream) + 1):
            assert received(waiting_client(sample), stream[:cut], stream[cut:]) == expected

    @staticmethod
    def heard(sample: Sample) -> ReplyReceived | EventReceived:
        if sample.answers is None:
            return EventReceived(sample.message)
        return ReplyReceived(1, sample.answers, sample.message)


def test_keepalive_is_the_known_constant() -> None:
    """A keep-alive is the 21 bytes that clients in the field send, and waits for nothing."""
    client = ClientConnection()
    assert client.keepalive() == KEEPALIVE_FRAME
    assert len(KEEPALIVE_FRAME) == 21
    assert client.waiting == 0


def test_sample_lengths() -> None:
    """The lengths that sources name are those of the samples."""
    lengths = {sample.name: len(sample.frame) for sample in (*COMMANDS, *REPLIES, *EVENTS)}
    assert lengths["login-user"] == 153
    assert lengths["monitor-start-ab"] == 25
    assert lengths["monitor-stopped"] == 30
    assert lengths["forced-logout"] == 31
    assert lengths["presence"] == 106


# --- Invoke ids -----------------------------------------------------------------------------------


def answer_to(invoke_id: int) -> bytes:
    return encode_frame(invoke_id, b"<Ok/>")


def test_ids_count_and_wrap() -> None:
    """Ids run from 1 to 9998 and begin again: 0 and 9999 are never given out."""
    client = ClientConnection()
    seen = []
    for _ in range(9998 + 3):
        invoke_id, data = client.request(PROBE)
        assert data[4:8] == b"%04d" % invoke_id
        seen.append(invoke_id)
        assert received(client, answer_to(invoke_id)) == [
            ReplyReceived(invoke_id, PROBE, messages.GetServiceListResponse())
        ]
    assert seen == [*range(1, 9999), 1, 2, 3]


def test_ids_pass_by_those_that_wait() -> None:
    """After the wrap, an id that still waits is passed by, and its own answer still finds it."""
    client = ClientConnection()
    slow = messages.MakeCall(calling_device="3095", called="3044")
    assert client.request(slow)[0] == 1
    for expected in range(2, 9999):
        assert client.request(PROBE)[0] == expected
        received(client, answer_to(expected))
    assert client.request(PROBE)[0] == 2
    assert received(client, answer_to(1)) == [ReplyReceived(1, slow, messages.MakeCallResponse())]
    assert client.waiting == 1


def test_all_ids_wait() -> None:
    """The command after 9998 open ones is refused; one answer later it goes."""
    client = ClientConnection()
    for _ in range(9998):
        client.request(PROBE)
    assert client.waiting == 9998
    with pytest.raises(LocalProtocolError, match="all invoke ids"):
        client.request(PROBE)
    assert client.waiting == 9998
    received(client, answer_to(4711))
    assert client.request(PROBE)[0] == 4711


def test_an_abandoned_id_is_not_given_out() -> None:
    """A late answer to an abandoned command is nobody's, since nobody else has its id."""
    client = ClientConnection()
    client.request(messages.HoldCall())
    client.abandon(1)
    assert client.waiting == 0
    given_out = [client.request(PROBE)[0] for _ in range(9997)]
    assert given_out == [*range(2, 9999)]
    acknowledged = messages.Acknowledgement(name="Ok")
    assert received(client, answer_to(1)) == [LateReply(1, "Ok", acknowledged)]
    assert client.waiting == 9997
    # Its answer has come, so the id is free now.
    assert client.request(PROBE)[0] == 1


def test_a_late_answer_frees_its_id() -> None:
    """Once the late answer has come, the id is as good as any other, not the last resort."""
    client = ClientConnection()
    client.request(PROBE)
    client.abandon(1)
    received(client, answer_to(1))
    for expected in range(2, 9999):
        assert client.request(PROBE)[0] == expected
        received(client, answer_to(expected))
    assert client.request(PROBE)[0] == 1


def test_the_oldest_abandoned_id_is_the_last_resort() -> None:
    """With no free id left, the one given up first is used again; those that wait never are."""
    client = ClientConnection()
    for _ in range(9998):
        client.request(PROBE)
    for invoke_id in (500, 20, 9998):
        client.abandon(invoke_id)
    assert [client.request(PROBE)[0] for _ in range(3)] == [500, 20, 9998]
    with pytest.raises(LocalProtocolError):
        client.request(PROBE)


def test_abandoning_what_does_not_wait() -> None:
    """Giving up an id that was answered, or never used, takes nothing away."""
    client = ClientConnection()
    client.request(PROBE)
    received(client, answer_to(1))
    for invoke_id in (0, 1, 2, 9999):
        client.abandon(invoke_id)
    assert client.request(PROBE)[0] == 2


def test_a_command_that_cannot_be_sent_waits_for_nothing() -> None:
    """A refused command uses up no id."""
    client = ClientConnection()
    with pytest.raises(LocalProtocolError):
        client.request(messages.LoginRequest(user_name="a\x00b"))
    with pytest.raises(LocalProtocolError):
        client.request(messages.LoginRequest(user_name="a" * 65_527))
    assert client.waiting == 0
    assert client.request(PROBE)[0] == 1


def test_the_longest_command() -> None:
    """A command of 65527 bytes of XML goes; one byte more does not."""
    client = ClientConnection()
    room = 65_527 - len(messages.SnapshotDevice().to_text())
    _, data = client.request(messages.SnapshotDevice(device="1" * room))
    assert data[:4] == b"\0\0\xff\xff"
    with pytest.raises(LocalProtocolError, match="65528 bytes"):
        client.request(messages.SnapshotDevice(device="1" * (room + 1)))


def test_length_counts_bytes() -> None:
    """Two Cyrillic letters are four bytes to the frame and its bound."""
    client = ClientConnection()
    with pytest.raises(LocalProtocolError):
        client.request(messages.SnapshotDevice(device="\u041e" * 32_760))


class Ids(RuleBasedStateMachine):
    """A client and a model of it: commands, answers in any order, and answers given up.

    Only a few ids are free, so that the wrap and the last resort come at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientConnection()
        self.waiting: set[int] = set()
        self.abandoned: list[int] = []
        for _ in range(9998):
            self.client.request(PROBE)
        # From here on ids 3 to 7 are in play; the others wait for ever.
        for invoke_id in range(3, 8):
            received(self.client, answer_to(invoke_id))
        self.blocked = 9998 - 5

    @rule()
    def request(self) -> None:
        if len(self.waiting) == 5:
            with pytest.raises(LocalProtocolError):
                self.client.request(PROBE)
            return
        invoke_id, _ = self.client.request(PROBE)
        assert 3 <= invoke_id <= 7
        assert invoke_id not in self.waiting
        if invoke_id in self.abandoned:
            assert len(self.waiting) + len(self.abandoned) == 5
            assert invoke_id == self.abandoned.pop(0)
        self.waiting.add(invoke_id)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        invoke_id = data.draw(st.sampled_from(sorted(self.waiting)))
        self.client.abandon(invoke_id)
        self.waiting.remove(invoke_id)
        self.abandoned.append(invoke_id)

    @rule(invoke_id=st.integers(3, 7))
    def answer(self, invoke_id: int) -> None:
        (happened,) = received(self.client, answer_to(invoke_id))
        assert isinstance(happened, ReplyReceived) == (invoke_id in self.waiting)
        self.waiting.discard(invoke_id)
        if invoke_id in self.abandoned:
            self.abandoned.remove(invoke_id)

    @invariant()
    def count(self) -> None:
        assert self.client.waiting == self.blocked + len(self.waiting)


Ids.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


def test_ids_against_a_model() -> None:
    """In any order of commands, answers and abandonments, no id is ever in use twice."""
    Ids.TestCase("runTest").runTest()


# --- What a client makes of odd frames ------------------------------------------------------------


def test_answers_in_any_order() -> None:
    """Several commands in flight: each answer finds its command by the id alone."""
    commands = [PROBE, messages.HoldCall(), messages.MonitorStart(device="3095")]
    bodies = [b"<A/>", b"<B/>", b"<C><monitorCrossRefID>7</monitorCrossRefID></C>"]
    for order in itertools.permutations(range(3)):
        client = ClientConnection()
        for each in commands:
            client.request(each)
        happened = received(client, b"".join(encode_frame(i + 1, bodies[i]) for i in order))
        assert [(each.invoke_id, each.command) for each in happened] == [
            (i + 1, commands[i]) for i in order
        ]


def test_an_answer_answers_once() -> None:
    """A second answer under the same id is late, and does not answer the next command."""
    client = ClientConnection()
    client.request(PROBE)
    client.request(messages.HoldCall())
    assert [type(each) for each in received(client, answer_to(1), answer_to(1))] == [
        ReplyReceived,
        LateReply,
    ]
    assert client.waiting == 1


@pytest.mark.parametrize("invoke_id", [0, 1, 42, 9998])
def test_an_answer_to_nothing(invoke_id: int) -> None:
    """An answer that nobody waits for is named, and nothing more."""
    client = ClientConnection()
    assert received(client, answer_to(invoke_id)) == [LateReply(invoke_id, "Ok")]


@pytest.mark.parametrize("body", [b"<CSTAErrorCode/>", b"<loginFailed/>"])
def test_what_is_an_answer_is_late(body: bytes) -> None:
    """An answer under an id of no command is a late one."""
    assert isinstance(received(ClientConnection(), encode_frame(7, body))[0], LateReply)


@pytest.mark.parametrize("body", [b"<ablist/>", b'<Logout mode="forced"/>'])
def test_what_may_be_an_event_is_one(body: bytes) -> None:
    """Under an id of no command it is an event; under one that was given up, a late answer."""
    client = ClientConnection()
    assert isinstance(received(client, encode_frame(7, body))[0], EventReceived)
    client.request(messages.GetAddressBook())
    client.abandon(1)
    assert isinstance(received(client, encode_frame(1, body))[0], LateReply)


def test_an_odd_kind_is_kept() -> None:
    """A frame of a kind other than 0 is read as any other, and its kind can be told."""
    client = ClientConnection()
    assert client.odd_kind is None
    frame = b"\x12\x34" + encode_frame(9999, b"<keepalive/><x/>")[2:]
    received(client, frame)
    assert client.odd_kind == 0x1234


def test_the_address_book_by_event_leaves_its_command_waiting() -> None:
    """A page under 9999 is an event; whoever asked gives up the command's id."""
    client = ClientConnection()
    client.request(messages.GetAddressBook(index=0))
    assert received(client, encode_frame(9999, b'<ablist size="0"/>')) == [
        EventReceived(messages.AddressBookPage(size=0))
    ]
    assert client.waiting == 1
    client.abandon(1)
    assert client.request(PROBE)[0] == 2


def test_an_error_by_event_answers_nothing() -> None:
    """An error under 9999 is an event, even while commands wait."""
    client = ClientConnection()
    client.request(PROBE)
    assert received(client, encode_frame(9999, b"<CSTAErrorCode>no</CSTAErrorCode>")) == [
        EventReceived(messages.CSTAError(text="no"))
    ]
    assert client.waiting == 1


@pytest.mark.parametrize("invoke_id", [0, 5, 9998])
def test_an_event_under_another_id(invoke_id: int) -> None:
    """A call event whose id is not 9999 and belongs to no command is not lost."""
    frame = encode_frame(invoke_id, b"<HeldEvent><cause>normal</cause></HeldEvent>")
    assert received(ClientConnection(), frame) == [
        EventReceived(messages.HeldEvent(cause="normal"))
    ]


@pytest.mark.parametrize("invoke_id", [0, 1, 9999])
@pytest.mark.parametrize("body", [b"<keepalive/>", b"<keepalive />", b"<a:keepalive/>"])
def test_a_servers_keepalive(invoke_id: int, body: bytes) -> None:
    """A keep-alive from the MX is passed over under any id, and answers no command."""
    client = ClientConnection()
    client.request(PROBE)
    assert received(client, encode_frame(invoke_id, body) + MARK) == [MARKED]
    assert client.waiting == 1


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t "])
def test_an_empty_body(body: bytes) -> None:
    """A frame without content is passed over at both ends, and answers no command."""
    client = ClientConnection()
    client.request(PROBE)
    assert received(client, encode_frame(1, body) + MARK) == [MARKED]
    assert client.waiting == 1
    assert received(ServerConnection(), encode_frame(1, body)) == []


@pytest.mark.parametrize(
    "body",
    [
        b"<HeldEvent>",
        b"hello",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a>" * 10_000,
        "<HeldEvent/>".encode("utf-16"),
        b"<a b='1' b='2'/>",
    ],
    ids=["cut off", "no XML", "document type", "too deep", "UTF-16", "doubled attribute"],
)
@pytest.mark.parametrize("invoke_id", [0, 1, 9999])
def test_a_bad_frame_is_skipped(invoke_id: int, body: bytes) -> None:
    """A frame without sound XML costs itself alone: the next is read, its command still waits."""
    client = ClientConnection()
    client.request(PROBE)
    bad, good = received(client, encode_frame(invoke_id, body) + MARK)
    assert isinstance(bad, BadFrame)
    assert bad.invoke_id == invoke_id
    assert bad.reason
    assert good == MARKED
    assert client.waiting == 1
    server = ServerConnection()
    bad, good = received(server, encode_frame(invoke_id, body) + KEEPALIVE_FRAME)
    assert isinstance(bad, BadFrame)
    assert good == CommandReceived(0, messages.KeepAlive())


@pytest.mark.parametrize(
    "header",
    [b"\0\0\0\x070001", b"\0\0\0\x000001", b"\0\0\0\x0cabcd", b"HTTP/1.1 400 Bad Request\r\n"],
    ids=["length 7", "length 0", "id of letters", "HTTP"],
)
def test_a_lost_boundary(header: bytes) -> None:
    """What came before an impossible header is heard; from there on every call raises."""
    for end in (ClientConnection(), ServerConnection()):
        end.receive_data(KEEPALIVE_FRAME + MARK + header)
        if isinstance(end, ServerConnection):
            assert end.next_event() == CommandReceived(0, messages.KeepAlive())
            assert end.next_event() == CommandReceived(9999, UnknownCommand(name="Mark"))
        else:
            assert end.next_event() == MARKED
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                end.next_event()
        end.receive_data(MARK)
        with pytest.raises(RemoteProtocolError):
            end.next_event()


def test_another_kind_is_no_error() -> None:
    """The first two bytes of a header may be anything."""
    assert received(ClientConnection(), b"\x00\x01" + MARK[2:]) == [MARKED]


# --- The server's end -----------------------------------------------------------------------------


def test_a_login_under_id_0000() -> None:
    """The vendor's web client sends its login under 0000 and is answered under 0000."""
    server = ServerConnection()
    body = b"<loginRequest type='User'><userName>jane</userName><pwd>x</pwd></loginRequest>"
    assert received(server, encode_frame(0, body)) == [
        CommandReceived(0, messages.LoginRequest(type="User", user_name="jane", password="x"))
    ]
    reply = server.reply(0, messages.LoginResponse(serial="63022", ext="3095"))
    assert reply[4:8] == b"0000"
    assert reply[8:].startswith(b"<loginResponce ")


@pytest.mark.parametrize("invoke_id", [0, 1, 9998, 9999])
def test_the_server_keeps_any_id(invoke_id: int) -> None:
    """The server takes ids as they come and answers under the same."""
    server = ServerConnection()
    assert received(server, encode_frame(invoke_id, b"<GetServiceList/>")) == [
        CommandReceived(invoke_id, PROBE)
    ]
    reply = server.reply(invoke_id, Acknowledgement(name="Ok"))
    assert reply == encode_frame(invoke_id, b"<Ok/>")


def test_an_unknown_command() -> None:
    """A command without a class is heard by its name."""
    assert received(
        ServerConnection(), encode_frame(3, b"<GetConfList><iter>0</iter></GetConfList>")
    ) == [CommandReceived(3, UnknownCommand(name="GetConfList"))]


def test_a_page_that_does_not_fit() -> None:
    """An answer above the bound is refused at the server's end too."""
    entry = messages.AddressBookEntry(jid=1, note="x" * 1_500)
    page = messages.AddressBookPage(size=50, index=0, entries=(entry,) * 50)
    with pytest.raises(LocalProtocolError, match="does not fit a frame"):
        ServerConnection().event(page)
    with pytest.raises(LocalProtocolError, match="does not fit a frame"):
        ServerConnection().reply(1, page)


# --- Both ends together ---------------------------------------------------------------------------


@given(st.data())
def test_a_session_however_it_is_cut(data: st.DataObject) -> None:
    """Any mix of answers and events, cut anywhere, is heard in order and as it was sent."""
    samples = data.draw(st.lists(st.sampled_from([*REPLIES, *EVENTS]), min_size=1, max_size=6))
    client, server = ClientConnection(), ServerConnection()
    stream, expected = b"", []
    for sample in samples:
        if sample.answers is None:
            stream += server.event(sample.message)
            expected.append(EventReceived(sample.message))
            continue
        invoke_id, request = client.request(sample.answers)
        assert received(server, request) == [CommandReceived(invoke_id, sample.answers)]
        stream += server.reply(invoke_id, sample.message)
        expected.append(ReplyReceived(invoke_id, sample.answers, sample.message))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    assert received(client, *pieces) == expected


def framed(body: bytes) -> bytes:
    return encode_frame(1, body)


GARBAGE = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.binary(max_size=60).map(framed),
        st.sampled_from([*COMMANDS, *REPLIES, *EVENTS]).map(lambda sample: sample.frame),
        st.sampled_from([b"\0\0", b"\0\x08", b"0001", b"<a>", b"</a>", b"<!DOCTYPE a>", b"\xff"]),
    ),
    max_size=8,
)


@given(GARBAGE)
def test_garbage(pieces: list[bytes]) -> None:
    """Any bytes at all give messages, BadFrame, nothing, or RemoteProtocolError; nothing else."""
    for end in (ClientConnection(), ServerConnection()):
        try:
            received(end, *pieces)
        except RemoteProtocolError:
            continue


@given(st.data(), st.sampled_from([*REPLIES, *EVENTS]))
def test_a_damaged_frame(data: st.DataObject, sample: Sample) -> None:
    """A frame with one byte changed in its body is some message or a BadFrame; the next is read."""
    at = data.draw(st.integers(8, len(sample.frame) - 1))
    damaged = bytearray(sample.frame)
    damaged[at] = data.draw(st.integers(0, 255))
    *_, last = received(waiting_client(sample), bytes(damaged) + MARK)
    assert last == MARKED


def test_garbage_costs_little() -> None:
    """A megabyte of bad frames, each of them as large as can be, is skipped in bounded time."""
    frame = encode_frame(9999, b"<a>" + b"\xff<b>" * 16_000)
    begin = time.process_time()
    happened = received(ClientConnection(), frame * 16)
    assert time.process_time() - begin < 5
    assert [type(each) for each in happened] == [BadFrame] * 16
