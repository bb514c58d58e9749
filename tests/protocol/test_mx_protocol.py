"""`MXProtocol` alone: answers by invoke id, time, silence, and every way a connection can end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mxflex.errors import CommandRefused, LocalProtocolError, MXTimeout, MXUnavailable
from mxflex.mx.protocol import (
    CLOSE_SECONDS,
    MAX_BAD_FRAMES_IN_A_ROW,
    CommandFigures,
    MXProtocol,
)
from mxflex.simulator.faults import LOSES_FRAMING, MALFORMED
from mxflex.wire.codec import ConnectionID
from mxflex.wire.connection import LAST_COMMAND_ID
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookPage,
    ClearConnection,
    ConnectionClearedEvent,
    CSTAError,
    GetAddressBook,
    GetServiceList,
    GetServiceListResponse,
    HeldEvent,
    HoldCall,
    MonitorStart,
    MonitorStartResponse,
    MonitorStop,
    Presence,
    ServerKeepAlive,
    UnknownEvent,
)
from tests.protocol.memory_mx import KEEPALIVE, TIMEOUT, Peer, outcome_of, ringing, run

OK = Acknowledgement(name="HoldCallResponse")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def peer(clock):
    """Give a connection that is ready for commands."""
    return Peer(clock).connect().secure()


def hold(call_id=1):
    return HoldCall(connection=ConnectionID(call_id=call_id, device_id="3095"))


def is_held(event):
    return isinstance(event, HeldEvent)


# --- The beginning --------------------------------------------------------------------------------


def test_hears_of_the_handshake(peer):
    """TLS tells the protocol when the handshake is done: it says that it wants to know."""
    assert verifyObject(IHandshakeListener, peer.protocol)


def test_ready_after_handshake(clock):
    """Whoever waits for the connection is told after the handshake, each by a Deferred of its own.

    Who comes later is told at once.
    """
    peer = Peer(clock).connect()
    first, second = (
        outcome_of(peer.protocol.when_secured()),
        outcome_of(peer.protocol.when_secured()),
    )
    assert first == second == []
    peer.secure()
    assert first == second == [None]
    assert outcome_of(peer.protocol.when_secured()) == [None]


def test_nothing_is_sent_before_the_peer_is_checked(clock):
    """A peer that the policy refuses never gets a byte, and the reason reaches who waits."""

    def refuse(protocol):
        raise MXUnavailable("the certificate of the MX is not the pinned one")

    peer = Peer(clock, check_peer=refuse).connect()
    waiting = outcome_of(peer.protocol.when_secured())
    peer.secure()
    assert peer.transport.aborted
    peer.lose()
    assert str(waiting[0]) == "the certificate of the MX is not the pinned one"
    assert peer.transport.value() == b""
    assert clock.getDelayedCalls() == []


def test_handshake_timeout(clock):
    """A peer that never finishes the handshake is cut after the timeout, not later."""
    peer = Peer(clock).connect()
    waiting = outcome_of(peer.protocol.when_secured())
    clock.advance(TIMEOUT - 0.1)
    assert not peer.transport.aborted
    clock.advance(0.1)
    assert peer.transport.aborted
    peer.lose()
    assert isinstance(waiting[0], MXTimeout)
    assert clock.getDelayedCalls() == []


def test_tls_failure_is_named(clock):
    """When OpenSSL refuses the peer, the error says why: an operator can tell it from a cable."""
    peer = Peer(clock).connect()
    waiting = outcome_of(peer.protocol.when_secured())
    peer.lose(SSL.Error([("SSL routines", "", "certificate verify failed")]))
    assert isinstance(waiting[0], MXUnavailable)
    assert "certificate verify failed" in str(waiting[0])


def test_tls_failure_without_words(clock):
    """OpenSSL sometimes fails without a reason; that is a lost connection like any other."""
    peer = Peer(clock).connect()
    waiting = outcome_of(peer.protocol.when_secured())
    peer.lose(SSL.Error([]))
    assert str(waiting[0]) == "the connection to the MX was lost"


# --- Answers --------------------------------------------------------------------------------------


def test_answers_by_id_out_of_order(peer):
    """Several commands are in flight; each gets the answer with its id, whatever the order."""
    asked = [
        outcome_of(peer.protocol.request(MonitorStart(device=str(n)))) for n in range(3000, 3010)
    ]
    ids = peer.ids()
    assert len(set(ids)) == 10
    for number in (7, 0, 9, 3, 1, 8, 2, 6, 4, 5):
        peer.reply(ids[number], MonitorStartResponse(monitor=f"m{number}"))
    assert [each[0].monitor for each in asked] == [f"m{number}" for number in range(10)]


def test_literal_bytes(clock):
    """The bytes on the wire, both ways: header, id from 0001 on, and the answer by that id."""
    peer = Peer(clock).connect().secure()
    asked = outcome_of(peer.protocol.request(MonitorStop(monitor="17")))
    assert peer.transport.value() == (
        b"\x00\x00\x00\x4c0001<MonitorStop><monitorCrossRefID>17</monitorCrossRefID></MonitorStop>"
    )
    peer.deliver(b"\x00\x00\x00\x1e0001<MonitorStopResponse/>")
    assert asked == [Acknowledgement(name="MonitorStopResponse")]


def test_answer_inside_write(peer):
    """The waiter stands before the bytes are written: an answer may come before `write` returns."""
    peer.on_command = lambda p, received: p.reply(received.invoke_id, OK)
    assert outcome_of(peer.protocol.request(hold())) == [OK]


def test_connection_lost_inside_write(peer):
    """A connection may be lost inside `write`; the command fails like those before it."""
    peer.on_command = lambda p, received: p.lose()
    (error,) = outcome_of(peer.protocol.request(hold()))
    assert isinstance(error, MXUnavailable)
    assert peer.clock.getDelayedCalls() == []


def test_refusal(peer):
    """`CSTAErrorCode` with the command's id fails it with the MX's words and category."""
    asked = outcome_of(peer.protocol.request(hold()))
    peer.deliver(
        b"\x00\x00\x00\x510001"
        b"<CSTAErrorCode><operation>invalidConnectionID</operation></CSTAErrorCode>"
    )
    (error,) = asked
    assert isinstance(error, CommandRefused)
    assert (str(error), error.category) == ("invalidConnectionID", "operation")


def test_any_other_root_is_success(peer):
    """Servers name their answers differently; whatever is no error is success."""
    asked = outcome_of(peer.protocol.request(hold()))
    peer.reply(1, Acknowledgement(name="HeldResponse"))
    assert asked == [Acknowledgement(name="HeldResponse")]


@pytest.mark.parametrize("step", [1, 2, 7, 8, 9, 1000])
def test_any_split_of_the_bytes(clock, step):
    """However TCP cuts the stream, the same answers and events come in the same order."""
    peer = Peer(clock).connect().secure()
    asked = outcome_of(peer.protocol.request(hold()))
    stream = (
        peer.wire.event(ringing("1", 5))
        + peer.wire.reply(1, OK)
        + encode_frame(9999, b"")
        + peer.wire.event(ringing("1", 6))
    )
    for start in range(0, len(stream), step):
        peer.deliver(stream[start : start + step])
    assert asked == [OK]
    assert [event.connection.call_id for event in peer.events] == [5, 6]


def test_command_that_cannot_be_sent(peer):
    """A command with a character XML cannot carry fails, and the link goes on."""
    (error,) = outcome_of(peer.protocol.request(MonitorStart(device="\x00")))
    assert isinstance(error, LocalProtocolError)
    assert peer.received == []
    asked = outcome_of(peer.protocol.request(hold()))
    peer.reply(peer.ids()[0], OK)
    assert asked == [OK]


# --- Time -----------------------------------------------------------------------------------------


def test_timeout_per_command(clock, peer):
    """Each command has its own time, counted from its own start, and says what was asked."""
    early = outcome_of(peer.protocol.request(hold(1)))
    clock.advance(3)
    late = outcome_of(peer.protocol.request(hold(2)))
    clock.advance(TIMEOUT - 3 - 0.1)
    assert early == []
    clock.advance(0.1)
    assert isinstance(early[0], MXTimeout)
    assert "HoldCall" in str(early[0])
    assert late == []
    peer.reply(peer.ids()[1], OK)
    assert late == [OK]


def test_late_answer(clock, peer, logged):
    """An answer that comes after the timeout is ignored: it answers nothing else."""
    asked = outcome_of(peer.protocol.request(hold()))
    clock.advance(TIMEOUT)
    assert isinstance(asked[0], MXTimeout)
    other = outcome_of(peer.protocol.request(hold(2)))
    peer.reply(1, OK)
    assert other == []
    assert len(asked) == 1
    assert logged.about("late answer HoldCallResponse")
    assert not peer.protocol.ended


def test_late_answer_never_meets_another(clock, peer):
    """The id of a command that was given up is not used again before its late answer has come."""
    first = outcome_of(peer.protocol.request(hold()))
    clock.advance(TIMEOUT)
    assert isinstance(first[0], MXTimeout)
    peer.on_command = lambda p, received: p.reply(received.invoke_id, OK)
    for _ in range(LAST_COMMAND_ID + 10):
        peer.protocol.request(hold())
    assert peer.ids().count(1) == 1


def test_ids_wrap_around_the_waiting(peer):
    """Ids go from 1 to 9998 and begin anew, past those that still wait."""
    slow = [outcome_of(peer.protocol.request(MonitorStart(device=ext))) for ext in ("3001", "3002")]
    peer.on_command = lambda p, received: p.reply(received.invoke_id, OK)
    for _ in range(LAST_COMMAND_ID):
        peer.protocol.request(hold())
    ids = peer.ids()
    assert ids[: LAST_COMMAND_ID + 2] == [*range(1, LAST_COMMAND_ID + 1), 3, 4]
    assert slow == [[], []]
    peer.on_command = None
    peer.reply(2, MonitorStartResponse(monitor="two"))
    peer.reply(1, MonitorStartResponse(monitor="one"))
    assert [each[0].monitor for each in slow] == ["one", "two"]


def test_all_ids_wait(peer):
    """When all 9998 ids wait the next command fails by itself, and the others go on waiting."""
    waiting = outcome_of(peer.protocol.request(hold()))
    for _ in range(LAST_COMMAND_ID - 1):
        # Below the protocol, which would keep a timer for each.
        peer.protocol._wire.request(hold())
    (error,) = outcome_of(peer.protocol.request(hold()))
    assert isinstance(error, MXUnavailable)
    assert not peer.protocol.ended
    peer.reply(1, OK)
    assert waiting == [OK]
    again = outcome_of(peer.protocol.request(hold()))
    peer.reply(1, OK)
    assert again == [OK]


def test_announced_answer_keeps_its_own_command(clock, peer):
    """An answer that only announces the event frees the id; whoever gets that id is not mixed up.

    Neither its answer nor the timeout of the older command reaches the wrong one.
    """
    book = outcome_of(peer.protocol.request(GetAddressBook()))
    peer.reply(1, Acknowledgement(name="iqResponse"))
    peer.on_command = lambda p, received: p.reply(received.invoke_id, OK)
    for _ in range(LAST_COMMAND_ID - 1):
        peer.protocol.request(hold())
    peer.on_command = None
    clock.advance(TIMEOUT - 1)
    newer = outcome_of(peer.protocol.request(hold()))
    assert peer.ids()[-1] == 1
    assert book == []
    clock.advance(1)
    assert isinstance(book[0], MXTimeout)
    assert newer == []
    peer.reply(1, OK)
    assert newer == [OK]


def test_cancel_stops_the_waiting(clock, peer):
    """Cancelling a command ends its waiting alone: no timer stays, the late answer is ignored."""
    timers = len(clock.getDelayedCalls())
    asked = peer.protocol.request(hold())
    outcome = outcome_of(asked)
    asked.cancel()
    assert isinstance(outcome[0], CancelledError)
    assert len(clock.getDelayedCalls()) == timers
    peer.reply(1, OK)
    assert len(outcome) == 1
    assert not peer.protocol.ended


# --- Keep-alive -----------------------------------------------------------------------------------


def test_keepalive(clock, peer):
    """A keep-alive goes out after 30 s of silence on our side, and every 30 s from then on."""
    peer.on_command = lambda p, received: p.reply(received.invoke_id, GetServiceListResponse())
    clock.advance(KEEPALIVE - 0.1)
    assert peer.keepalives == []
    clock.advance(0.1)
    assert peer.transport.value().startswith(b"\x00\x00\x00\x150000<keepalive />")
    run(clock, 3 * KEEPALIVE)
    assert peer.keepalives[0] == KEEPALIVE
    gaps = [b - a for a, b in pairwise(peer.keepalives)]
    assert gaps
    assert max(gaps) <= KEEPALIVE


def test_every_command_restarts_the_keepalive(clock, peer):
    """Each command is a sign of life: the 30 s count from the last one."""
    peer.on_command = lambda p, received: p.reply(received.invoke_id, OK)
    for _ in range(5):
        clock.advance(KEEPALIVE - 1)
        peer.protocol.request(hold())
    assert peer.keepalives == []
    clock.advance(KEEPALIVE - 0.1)
    assert peer.keepalives == []
    clock.advance(0.1)
    assert len(peer.keepalives) == 1


def test_no_longer_silent_than_a_keepalive_interval(clock, peer):
    """Whatever happens, the MX never waits longer than 30 s for a byte of ours."""
    sent = []
    peer.on_command = lambda p, received: (
        sent.append(clock.seconds()),
        p.reply(received.invoke_id, OK),
    )
    for pause in (1, 29, 31, 45, 12, 30, 100):
        run(clock, pause, step=0.5)
        peer.protocol.request(hold())
    moments = sorted([0.0, *sent, *peer.keepalives])
    assert max(b - a for a, b in pairwise(moments)) <= KEEPALIVE


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(9999, b"<keepalive/>"),
        encode_frame(0, b"<keepalive/>"),
        encode_frame(0, b"<x/>"),
    ],
)
def test_answer_to_keepalive(peer, frame):
    """Nobody waits for an answer to a keep-alive; if one comes it means nothing."""
    asked = outcome_of(peer.protocol.request(hold()))
    peer.deliver(frame)
    assert asked == []
    assert [event for event in peer.events if not isinstance(event, ServerKeepAlive)] == []
    assert not peer.protocol.ended


# --- Silence --------------------------------------------------------------------------------------


def test_half_open_peer_is_found(clock, peer):
    """A peer that vanished is found within one keep-alive interval and two timeouts, and cut."""
    lost = outcome_of(peer.protocol.when_lost())
    peer.event(ringing("1"))
    run(clock, KEEPALIVE + 2 * TIMEOUT)
    assert peer.transport.aborted
    peer.lose()
    assert lost == ["the MX has gone silent"]


@pytest.mark.parametrize("asked_after", [0, 1, 7, 15, 22.5, 29, 29.5, 30, 31, 36])
def test_half_open_peer_is_found_whenever_asked(clock, peer, asked_after):
    """However a command falls into the silence, the bound on finding it holds."""
    peer.event(ringing("1"))
    run(clock, asked_after)
    outcome_of(peer.protocol.request(hold()))
    run(clock, KEEPALIVE + 2 * TIMEOUT - asked_after)
    assert peer.transport.aborted


def test_unanswered_command_asks_for_life_at_once(clock, peer):
    """After an unanswered command the peer is probed at once: two timeouts are enough."""
    clock.advance(1)
    outcome_of(peer.protocol.request(hold()))
    clock.advance(TIMEOUT)
    assert len(peer.commands(GetServiceList)) == 1
    clock.advance(TIMEOUT)
    assert peer.transport.aborted


def test_unanswered_command_of_a_living_peer(clock, peer):
    """A peer that said something since the command is alive, and is not asked."""
    outcome_of(peer.protocol.request(hold()))
    clock.advance(1)
    peer.event(ringing("1"))
    clock.advance(TIMEOUT)
    assert peer.commands(GetServiceList) == []


def test_quiet_but_living_peer_is_kept(clock, peer):
    """A peer that only answers the probe may be silent for hours; the probes stay few."""
    peer.on_command = lambda p, received: p.reply(received.invoke_id, GetServiceListResponse())
    run(clock, 3600, step=1)
    assert not peer.transport.aborted
    assert len(peer.commands(GetServiceList)) <= 3600 / KEEPALIVE + 1


@pytest.mark.parametrize("answer", [CSTAError(text="serviceNotSupported"), OK])
def test_any_answer_to_the_probe_will_do(clock, peer, answer):
    """A server that does not know the probe's command lives all the same."""
    peer.on_command = lambda p, received: p.reply(received.invoke_id, answer)
    run(clock, 10 * KEEPALIVE)
    assert not peer.transport.aborted


def test_any_byte_is_life(clock, peer):
    """A peer that answers nothing but tells events is alive, and is not probed."""
    for _ in range(20):
        clock.advance(KEEPALIVE - 1)
        peer.event(ringing("1"))
    assert peer.received == []
    assert not peer.transport.aborted


def test_event_after_the_probe_is_life(clock, peer):
    """An event that comes while the probe waits keeps the connection."""
    clock.advance(KEEPALIVE)
    assert len(peer.commands(GetServiceList)) == 1
    clock.advance(TIMEOUT - 1)
    peer.event(ringing("1"))
    clock.advance(TIMEOUT)
    assert not peer.transport.aborted


# --- Events ---------------------------------------------------------------------------------------


def test_answer_then_event(peer):
    """The answer comes first: it ends the waiting, and the event goes on to the listener."""
    asked = outcome_of(peer.protocol.request(hold(), is_held))
    peer.reply(1, OK)
    peer.event(HeldEvent(monitor="1"))
    assert asked == [OK]
    assert peer.events == [HeldEvent(monitor="1")]


def test_event_then_answer(peer, logged):
    """The event comes first: it ends the waiting, and the answer is ignored."""
    asked = outcome_of(peer.protocol.request(hold(), is_held))
    peer.event(ConnectionClearedEvent(monitor="1"))
    assert asked == []
    peer.event(HeldEvent(monitor="1"))
    assert asked == [HeldEvent(monitor="1")]
    peer.reply(1, OK)
    assert len(asked) == 1
    assert logged.about("late answer HoldCallResponse")
    assert not peer.protocol.ended


def test_refusal_after_confirmation(peer):
    """A refusal that comes behind the confirming event changes nothing any more."""
    asked = outcome_of(peer.protocol.request(hold(), is_held))
    peer.event(HeldEvent(monitor="1"))
    peer.reply(1, CSTAError(text="no"))
    assert asked == [HeldEvent(monitor="1")]


def test_state_before_waiter(clock):
    """Whoever asked finds the state changed already when the confirming event answers."""
    order = []
    peer = Peer(clock, on_event=lambda event: order.append("state")).connect().secure()
    peer.protocol.request(hold(), is_held).addCallback(lambda _: order.append("waiter"))
    peer.event(HeldEvent(monitor="1"))
    assert order == ["state", "waiter"]


def test_address_book_is_answered_by_its_event(peer):
    """The page comes as an event; an answer before it only says that it will."""
    asked = outcome_of(peer.protocol.request(GetAddressBook()))
    peer.reply(1, Acknowledgement(name="iqResponse"))
    assert asked == []
    page = AddressBookPage(size=0, index=0)
    peer.event(page)
    assert asked == [page]


def test_address_book_by_reply(peer):
    """A server may send the page with the command's id instead."""
    asked = outcome_of(peer.protocol.request(GetAddressBook()))
    page = AddressBookPage(size=0, index=0)
    peer.reply(1, page)
    assert asked == [page]


@pytest.mark.parametrize("announced", [False, True])
def test_error_as_event_refuses_the_address_book(peer, announced):
    """An error that comes as an event is for the command without an answer, and for no other."""
    asked = outcome_of(peer.protocol.request(GetAddressBook(), lambda event: False))
    other = outcome_of(peer.protocol.request(hold(), is_held))
    if announced:
        peer.reply(1, Acknowledgement(name="iqResponse"))
    peer.event(CSTAError(text="URM Denied", category="privateErrorCode"))
    assert isinstance(asked[0], CommandRefused)
    assert str(asked[0]) == "URM Denied"
    assert other == []


def test_error_as_answer_refuses_the_address_book(peer):
    """An error with the command's id refuses it, too."""
    asked = outcome_of(peer.protocol.request(GetAddressBook()))
    peer.reply(1, CSTAError(text="URM Denied", category="privateErrorCode"))
    assert isinstance(asked[0], CommandRefused)


def test_one_event_may_answer_several(peer):
    """An event that two commands wait for answers both, even when one answer cancels the other."""
    both = [peer.protocol.request(hold(), is_held), peer.protocol.request(hold(), is_held)]
    outcomes = [outcome_of(each) for each in both]
    both[0].addCallback(lambda _: both[1].cancel())
    peer.event(HeldEvent(monitor="1"))
    assert outcomes[0] == [HeldEvent(monitor="1")]
    assert isinstance(outcomes[1][0], CancelledError)
    assert not peer.protocol.ended


def test_listener_that_fails(clock, logged):
    """A listener's error is logged and costs nothing else: not the waiter, not the connection."""

    def fail(event):
        raise ZeroDivisionError

    peer = Peer(clock, on_event=fail).connect().secure()
    asked = outcome_of(peer.protocol.request(hold(), is_held))
    peer.event(HeldEvent(monitor="1"))
    assert asked == [HeldEvent(monitor="1")]
    assert not peer.protocol.ended
    (failure,) = logged.take_failures()
    assert "HeldEvent" in failure


def test_waiter_that_fails(peer, logged):
    """An error in somebody's callback does not reach the connection."""
    peer.protocol.request(hold()).addCallback(lambda _: 1 / 0).addErrback(lambda _: None)
    peer.protocol.request(hold())
    peer.deliver(peer.wire.reply(1, OK) + peer.wire.reply(2, OK) + peer.wire.event(ringing("1")))
    assert len(peer.events) == 1
    assert not peer.protocol.ended


def test_unknown_event_is_handed_on_by_name(peer):
    """An event without a class keeps its name; who listens decides how often to say so."""
    peer.deliver(encode_frame(9999, b"<SomethingNewEvent><x>1</x></SomethingNewEvent>"))
    assert peer.events == [UnknownEvent(name="SomethingNewEvent")]


def test_event_with_another_id(peer):
    """An event with an id that nobody waits for is an event all the same."""
    peer.reply(1234, Presence(jid=7, status="Available"))
    assert peer.events == [Presence(jid=7, status="Available")]


# --- What is broken -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MALFORMED.keys() - LOSES_FRAMING))
def test_bad_frame_is_skipped(peer, name):
    """A frame that makes no sense costs itself alone: the answer behind it arrives."""
    asked = outcome_of(peer.protocol.request(hold()))
    peer.deliver(MALFORMED[name] + peer.wire.reply(1, OK))
    assert asked == [OK]
    assert not peer.transport.aborted


@pytest.mark.parametrize("name", sorted(LOSES_FRAMING))
def test_lost_boundary_cuts(peer, logged, name):
    """After a header that makes no sense nothing can be read: the connection is cut."""
    asked = outcome_of(peer.protocol.request(hold()))
    peer.deliver(MALFORMED[name] + peer.wire.reply(1, OK))
    assert peer.transport.aborted
    assert asked == []
    peer.lose()
    assert isinstance(asked[0], MXUnavailable)
    assert "broke the protocol" in str(asked[0])
    assert logged.about("broke the protocol")


def test_frame_before_a_lost_boundary_counts(peer):
    """What came whole before the lost boundary is still delivered."""
    asked = outcome_of(peer.protocol.request(hold()))
    peer.deliver(peer.wire.reply(1, OK) + MALFORMED["length 0"])
    assert asked == [OK]
    assert peer.transport.aborted


def test_bad_frames_are_logged(peer, logged):
    """Each skipped frame is one line with its id and what was wrong."""
    peer.deliver(MALFORMED["doctype"])
    (line,) = logged.about("skipped")
    assert "9999" in line
    assert "document type" in line


@pytest.mark.parametrize("lacking", [1, 0, -1])
def test_ten_bad_frames_in_a_row_cut(peer, lacking):
    """Nine bad frames in a row are borne, ten are not; the bytes behind them are not read."""
    count = MAX_BAD_FRAMES_IN_A_ROW - lacking
    peer.deliver(MALFORMED["two roots"] * count + peer.wire.event(ringing("1")))
    assert MAX_BAD_FRAMES_IN_A_ROW == 10
    assert peer.transport.aborted is (lacking <= 0)
    assert len(peer.events) == (1 if lacking > 0 else 0)


def test_bad_frames_count_in_a_row_only(peer):
    """A sound frame between them shows that the peer speaks the protocol."""
    for _ in range(5):
        peer.deliver(MALFORMED["two roots"] * 9 + peer.wire.event(ringing("1")))
    assert not peer.transport.aborted
    assert len(peer.events) == 5


def test_odd_kind_is_told_once(peer, logged):
    """Frames whose first bytes are not zero are read, and the log says so once."""
    for _ in range(3):
        peer.deliver(b"\0\x01\0\x0c9999<a/>")
    assert len(peer.events) == 3
    assert len(logged.about("frames of kind")) == 1


# --- The end --------------------------------------------------------------------------------------


def test_every_waiter_fails_at_once(clock, peer):
    """When the connection ends, whatever waits fails in that moment, and no timer stays."""
    announced = outcome_of(peer.protocol.request(GetAddressBook()))
    peer.reply(1, Acknowledgement(name="iqResponse"))
    waiting = [outcome_of(peer.protocol.request(hold(n))) for n in range(50)]
    lost = outcome_of(peer.protocol.when_lost())
    peer.lose(ConnectionLost())
    for outcome in [announced, *waiting]:
        assert isinstance(outcome[0], MXUnavailable)
    # One exception raised at fifty places would grow a chain of tracebacks.
    assert len({id(outcome[0]) for outcome in waiting}) == 50
    assert lost == ["the connection to the MX was lost"]
    assert clock.getDelayedCalls() == []


def test_waiter_that_cancels_another_at_the_end(clock, peer):
    """A failing command whose errback cancels another one does not keep the rest from failing."""
    asked = [peer.protocol.request(hold(n)) for n in range(4)]
    asked[0].addErrback(lambda failure: (asked[1].cancel(), failure)[1])
    outcomes = [outcome_of(each) for each in asked]
    peer.lose()
    assert isinstance(outcomes[1][0], CancelledError)
    for number in (0, 2, 3):
        assert isinstance(outcomes[number][0], MXUnavailable)


def test_nothing_can_be_asked_after_the_end(clock, peer):
    """A command on an ended connection fails at once, and leaves no timer."""
    peer.lose()
    (error,) = outcome_of(peer.protocol.request(hold()))
    assert isinstance(error, MXUnavailable)
    (error,) = outcome_of(peer.protocol.when_secured())
    assert isinstance(error, MXUnavailable)
    assert outcome_of(peer.protocol.when_lost()) == ["the connection to the MX was lost"]
    assert clock.getDelayedCalls() == []


def test_command_from_within_a_failing_waiter(clock, peer):
    """Whoever asks again on hearing of the end is told no, at once."""
    again = []
    peer.protocol.request(hold()).addErrback(
        lambda _: peer.protocol.request(hold()).addErrback(again.append)
    )
    peer.lose()
    assert again[0].check(MXUnavailable)
    assert clock.getDelayedCalls() == []


def test_close_is_polite_and_then_firm(clock, peer):
    """A polite end that the peer ignores becomes a cut after two seconds."""
    peer.protocol.close()
    peer.protocol.close()
    assert peer.transport.closed
    clock.advance(CLOSE_SECONDS - 0.1)
    assert not peer.transport.aborted
    clock.advance(0.1)
    assert peer.transport.aborted
    peer.lose()
    assert clock.getDelayedCalls() == []
    peer.protocol.close()
    peer.protocol.abort(MXUnavailable("too late"))
    assert clock.getDelayedCalls() == []


def test_close_that_the_peer_answers(clock, peer):
    """A polite end that the peer answers is no cut, and leaves no timer."""
    peer.protocol.close()
    peer.lose()
    assert not peer.transport.aborted
    assert clock.getDelayedCalls() == []


def test_nothing_is_read_after_the_end_began(peer):
    """Once the end has begun nothing that still comes is handed on, nor kept."""
    peer.protocol.close()
    peer.event(ringing("1"))
    peer.deliver(b"\xff" * 100_000)
    assert peer.events == []
    assert not peer.transport.aborted
    assert peer.protocol._wire._frames._buffer == b""


def test_end_in_the_middle_of_a_burst(clock):
    """A listener that ends the connection hears no further event of the same burst."""
    heard = []

    def on_event(event):
        heard.append(event)
        peer.protocol.close()

    peer = Peer(clock, on_event=on_event).connect().secure()
    peer.deliver(peer.wire.event(ringing("1", 1)) + peer.wire.event(ringing("1", 2)))
    assert len(heard) == 1


def test_cancelled_waiters_are_forgotten(peer):
    """Whoever stops waiting for the beginning or the end is not called later."""
    fresh = Peer(peer.clock).connect()
    for give in (fresh.protocol.when_secured, fresh.protocol.when_lost):
        waiting = give()
        outcome = outcome_of(waiting)
        waiting.cancel()
        assert isinstance(outcome[0], CancelledError)
    fresh.secure()
    fresh.lose()


def test_passwords_are_not_logged(peer, logged):
    """Commands are logged by name and id; what they hold is not."""
    peer.protocol.request(MonitorStart(device="secret-device"))
    assert logged.about("sent MonitorStart as 1")
    assert not logged.about("secret-device")


def test_clear_connection_confirmed_by_event(peer):
    """A hang-up counts as done by its answer or by its event, whichever the server sends first."""
    asked = outcome_of(
        peer.protocol.request(
            ClearConnection(connection=ConnectionID(call_id=1, device_id="3095")),
            lambda event: isinstance(event, ConnectionClearedEvent),
        )
    )
    peer.event(ConnectionClearedEvent(monitor="1"))
    assert asked == [ConnectionClearedEvent(monitor="1")]


class TestFigures:
    """What is counted of commands."""

    def test_results(self, clock):
        """Each command counts once, by how it ended; only what the MX answered has a duration."""
        figures = CommandFigures()
        peer = Peer(
            clock,
            make_protocol=lambda: MXProtocol(
                clock, TIMEOUT, KEEPALIVE, lambda _: None, figures=figures
            ),
        )
        peer.connect().secure()

        def ask():
            outcome_of(peer.protocol.request(hold()))
            return peer.ids()[-1]

        answered = ask()
        clock.advance(0.5)
        peer.reply(answered, OK)
        refused = ask()
        clock.advance(0.25)
        peer.reply(refused, CSTAError(text="invalidDeviceID"))
        cancelled = peer.protocol.request(hold())
        cancelled.addErrback(lambda failure: failure.trap(CancelledError))
        cancelled.cancel()
        late = ask()
        # A sign of life, or else the connection would be looked into.
        clock.advance(TIMEOUT / 2)
        peer.event(ServerKeepAlive())
        clock.advance(TIMEOUT / 2)
        peer.reply(late, OK)
        ask()
        peer.lose()
        name = HoldCall.wire_name
        assert figures.results == {
            (name, "answered"): 1,
            (name, "refused"): 1,
            (name, "cancelled"): 1,
            (name, "timeout"): 1,
            (name, "lost"): 1,
        }
        (durations,) = figures.durations.values()
        assert list(durations.up_to())[-1][1] == 2
        assert durations.total == pytest.approx(0.75)

    def test_when_the_bytes_came(self, clock):
        """While an event is handled it is known when its bytes came; afterwards nothing is."""
        clock.advance(100.0)
        seen = []
        peer = Peer(clock, on_event=lambda _: seen.append(peer.protocol.arrived))
        peer.connect().secure()
        assert peer.protocol.arrived is None
        peer.event(Presence())
        assert seen == [clock.seconds()]
        assert peer.protocol.arrived is None
