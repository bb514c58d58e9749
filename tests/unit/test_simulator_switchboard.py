"""The simulator's call model: what each device sees of each scenario, and what is refused."""

from __future__ import annotations

import attrs
import pytest

from mxflex.errors import CommandRefused
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import (
    Company,
    OutsideParty,
    call_id_text,
    example_company,
    example_users,
    global_call_id,
    make_jid,
)
from mxflex.simulator.mail import MailIncomingReady
from mxflex.simulator.rendering import render
from mxflex.simulator.switchboard import (
    BookNotice,
    DeviceNotice,
    PresenceNotice,
    State,
    Switchboard,
)
from mxflex.wire.messages import (
    ConnectionClearedEvent,
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
)

A, B, C = "3095", "3044", "3098"
OUTSIDE = "12025550104"
OTHER_OUTSIDE = "442079460112"


def a_board(**switches) -> Switchboard:
    return Switchboard(example_company(), Behaviour(**switches))


def seen_by(board, device):
    """Take all notices, and give the call events of one device."""
    return [n.event for n in board.drain() if isinstance(n, DeviceNotice) and n.device == device]


def by_device(board):
    """Take all notices, and give the names of the events of each device."""
    seen: dict[str, list[str]] = {}
    for notice in board.drain():
        if isinstance(notice, DeviceNotice):
            seen.setdefault(notice.device, []).append(notice.event.wire_name)
    return seen


def talking(board, caller=OUTSIDE, called=A):
    """Give an answered call and the called party, with the notices taken."""
    if board.company.user(caller):
        call, _ = board.make_call(caller, called)
    else:
        call, _ = board.call_in(caller, called)
    party = call.party(called)
    board.answer(call, party)
    board.drain()
    return call, party


# --- The bytes ------------------------------------------------------------------------------------

# The call of the product's description: 3095 calls 79031744445 from the web.
SEED_CALL = [
    (
        b"<OriginatedEvent><monitorCrossRefID>1</monitorCrossRefID><originatedConnection>"
        b"<callID>39</callID><deviceID>3095</deviceID></originatedConnection><callingDevice>"
        b"<deviceIdentifier>3095</deviceIdentifier></callingDevice><calledDevice><deviceIdentifier>"
        b"79031744445</deviceIdentifier></calledDevice><localConnectionInfo>connected"
        b"</localConnectionInfo><cause>normal</cause><callTypeFlags>36700160</callTypeFlags>"
        b"</OriginatedEvent>"
    ),
    (
        b"<DivertedEvent><monitorCrossRefID>1</monitorCrossRefID><connection><callID>39</callID>"
        b"<deviceID>3095</deviceID></connection><divertingDevice><deviceIdentifier>3095"
        b"</deviceIdentifier></divertingDevice><newDestination><deviceIdentifier>79031744445"
        b"</deviceIdentifier></newDestination><cause>normal</cause><callTypeFlags>170917889"
        b"</callTypeFlags></DivertedEvent>"
    ),
    (
        b"<DeliveredEvent><monitorCrossRefID>1</monitorCrossRefID><connection><callID>39</callID>"
        b"<deviceID>3095</deviceID><globalCallID>2808630435142227620</globalCallID></connection>"
        b"<alertingDevice><deviceIdentifier>79031744445</deviceIdentifier></alertingDevice>"
        b"<alertingDisplayName>79031744445</alertingDisplayName><networkCallingDevice>"
        b"<deviceIdentifier>3095</deviceIdentifier></networkCallingDevice><callingDevice>"
        b"<deviceIdentifier>3095</deviceIdentifier></callingDevice><callingDisplayName>3095"
        b"</callingDisplayName><calledDevice><deviceIdentifier>79031744445</deviceIdentifier>"
        b"</calledDevice><lastRedirectionDevice><notRequired/></lastRedirectionDevice>"
        b"<localConnectionInfo>alerting</localConnectionInfo><cause>normal</cause>"
        b'<callTypeFlags>170917889</callTypeFlags><cad name="__FIRST_CALL_ID__" type="string">'
        b"63022-00-0000D-6A4</cad></DeliveredEvent>"
    ),
    (
        b"<EstablishedEvent><monitorCrossRefID>1</monitorCrossRefID><establishedConnection>"
        b"<callID>39</callID><deviceID>3095</deviceID><globalCallID>2808630435142227620"
        b"</globalCallID></establishedConnection><answeringDevice><deviceIdentifier>79031744445"
        b"</deviceIdentifier></answeringDevice><answeringDisplayName>79031744445"
        b"</answeringDisplayName><callingDevice><deviceIdentifier>3095</deviceIdentifier>"
        b"</callingDevice><callingDisplayName>3095</callingDisplayName><calledDevice>"
        b"<deviceIdentifier>79031744445</deviceIdentifier></calledDevice><lastRedirectionDevice>"
        b"<notRequired/></lastRedirectionDevice><cause>normal</cause><callTypeFlags>170917889"
        b'</callTypeFlags><cad name="__FIRST_CALL_ID__" type="string">63022-00-0000D-6A4</cad>'
        b"</EstablishedEvent>"
    ),
    (
        b"<ConnectionClearedEvent><monitorCrossRefID>1</monitorCrossRefID><droppedConnection>"
        b"<callID>39</callID><deviceID>3095</deviceID></droppedConnection><releasingDevice>"
        b"<deviceIdentifier>3095</deviceIdentifier></releasingDevice><cause>normal</cause>"
        b"</ConnectionClearedEvent>"
    ),
]


def texts(board, device):
    """Give the events of a device as its first monitor would read them."""
    return [
        render(attrs.evolve(event, monitor="1"), board.behaviour).encode()
        for event in seen_by(board, device)
    ]


def test_the_call_of_the_description_comes_byte_for_byte():
    """The five frames of the product's own example are reproduced exactly."""
    board = Switchboard(example_company(), Behaviour(), next_call_id=39, next_counter=0xD6A4)
    call, party = board.make_call(A, "+79031744445")
    board.answer(call, call.party("79031744445"))
    board.clear(call, party)
    assert texts(board, A) == SEED_CALL


def call_56(**switches):
    return Switchboard(example_company(), Behaviour(**switches), next_call_id=56)


def test_service_initiated_and_network_reached_come_byte_for_byte():
    """The optional events of an outgoing call read as in the protocol's samples."""
    board = call_56(service_initiated=True, network_reached=True, outgoing="desk")
    board.make_call(A, "79031744445")
    initiated, _, reached, _ = texts(board, A)
    assert [initiated, reached] == [
        (
            b"<ServiceInitiatedEvent><monitorCrossRefID>1</monitorCrossRefID><initiatedConnection>"
            b"<callID>56</callID><deviceID>3095</deviceID></initiatedConnection><initiatingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></initiatingDevice><localConnectionInfo>"
            b"initiated</localConnectionInfo><cause>normal</cause></ServiceInitiatedEvent>"
        ),
        (
            b"<NetworkReachedEvent><monitorCrossRefID>1</monitorCrossRefID><outboundConnection>"
            b"<callID>56</callID><deviceID>3095</deviceID></outboundConnection><networkInterfaceUsed>"
            b"<deviceIdentifier>190</deviceIdentifier></networkInterfaceUsed><callingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></callingDevice><calledDevice>"
            b"<deviceIdentifier>79031744445</deviceIdentifier></calledDevice><localConnectionInfo>"
            b"connected</localConnectionInfo><cause>normal</cause></NetworkReachedEvent>"
        ),
    ]


def test_failed_comes_byte_for_byte():
    """A call to a busy extension fails as in the protocol's sample."""
    board = call_56()
    board.company.put(attrs.evolve(board.company.user(B), lines=0))
    board.make_call(A, B)
    assert texts(board, A)[1] == (
        b"<FailedEvent><monitorCrossRefID>1</monitorCrossRefID><failedConnection><callID>56"
        b"</callID><deviceID>3095</deviceID></failedConnection><callingDevice><deviceIdentifier>"
        b"3095</deviceIdentifier></callingDevice><calledDevice><deviceIdentifier>3044"
        b"</deviceIdentifier></calledDevice><localConnectionInfo>fail</localConnectionInfo><cause>"
        b"busy</cause></FailedEvent>"
    )


def test_held_retrieved_and_transferred_come_byte_for_byte():
    """Hold, retrieve and blind transfer read as in the protocol's samples."""
    board = call_56()
    call, party = talking(board)
    board.hold(call, party)
    board.retrieve(call, party)
    board.single_step_transfer(call, party, B)
    assert texts(board, A)[:3] == [
        (
            b"<HeldEvent><monitorCrossRefID>1</monitorCrossRefID><heldConnection><callID>56</callID>"
            b"<deviceID>3095</deviceID></heldConnection><holdingDevice><deviceIdentifier>3095"
            b"</deviceIdentifier></holdingDevice><localConnectionInfo>hold</localConnectionInfo><cause>"
            b"normal</cause><callTypeFlags>141565955</callTypeFlags><cmdsAllowed>376</cmdsAllowed>"
            b"</HeldEvent>"
        ),
        (
            b"<RetrievedEvent><monitorCrossRefID>1</monitorCrossRefID><retrievedConnection><callID>56"
            b"</callID><deviceID>3095</deviceID></retrievedConnection><retrievingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></retrievingDevice><localConnectionInfo>"
            b"connected</localConnectionInfo><cause>normal</cause><callTypeFlags>3145728"
            b"</callTypeFlags></RetrievedEvent>"
        ),
        (
            b"<TransferedEvent><monitorCrossRefID>1</monitorCrossRefID><primaryOldCall><callID>56"
            b"</callID><deviceID>3095</deviceID></primaryOldCall><transferringDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></transferringDevice><transferredToDevice>"
            b"<deviceIdentifier>3044</deviceIdentifier></transferredToDevice><localConnectionInfo>null"
            b"</localConnectionInfo><cause>normal</cause></TransferedEvent>"
        ),
    ]


def test_park_and_recording_come_byte_for_byte():
    """Park place and recording state read as in the protocol's samples."""
    board = Switchboard(example_company(), Behaviour(), next_call_id=18)
    call, party = talking(board)
    board.record(call, party, active=True)
    board.record(call, party, active=False)
    board.park(call, party)
    recorded = texts(board, A)
    assert recorded[1] == (
        b"<RecordingStateEvent><monitorCrossRefID>1</monitorCrossRefID><connection><callID>18"
        b"</callID><deviceID>3095</deviceID></connection><RecIsAvailable>true</RecIsAvailable>"
        b"<RecIsActive>false</RecIsActive></RecordingStateEvent>"
    )
    assert recorded[2] == (
        b"<callParkInfo><monitorCrossRefID>1</monitorCrossRefID><parkID>1</parkID></callParkInfo>"
    )


# --- The scenarios --------------------------------------------------------------------------------


def test_a_desk_call_to_outside_is_not_diverted():
    """The variant without a remote number leaves DivertedEvent out."""
    board = a_board(outgoing="desk")
    board.make_call(A, OUTSIDE)
    assert by_device(board) == {A: ["OriginatedEvent", "DeliveredEvent"]}


def test_an_internal_call_is_seen_at_both_ends():
    """Both devices see it ring and answered, each with its own deviceID."""
    board = a_board()
    call, _ = board.make_call(B, A)
    board.answer(call, call.party(A))
    notices = [n for n in board.drain() if isinstance(n, DeviceNotice)]
    assert [(n.device, type(n.event)) for n in notices] == [
        (B, OriginatedEvent),
        (B, DeliveredEvent),
        (A, DeliveredEvent),
        (B, EstablishedEvent),
        (A, EstablishedEvent),
    ]
    assert all(n.event.connection.device_id == n.device for n in notices)
    assert {n.event.connection.call_id for n in notices} == {1}
    assert notices[-1].event.answering_display_name == "Dmitry Sedykh"
    assert notices[-1].event.calling_display_name == "Peter Hyde"


def test_an_incoming_call_shows_who_calls():
    """The called device sees the caller's number and name."""
    board = a_board()
    board.call_in("+1 202 555 0104", A, "Harbor Coffee")
    (event,) = seen_by(board, A)
    assert (event.calling_device, event.calling_display_name) == (OUTSIDE, "Harbor Coffee")
    assert (event.alerting_device, event.called_device) == (A, A)


def test_a_caller_who_gives_up_ends_the_ringing():
    """No Established; one ConnectionCleared at each end, by the caller."""
    board = a_board()
    call, party = board.make_call(B, A)
    board.drain()
    board.clear(call, party)
    events = {n.device: n.event for n in board.drain() if isinstance(n, DeviceNotice)}
    assert set(events) == {A, B}
    assert {event.releasing_device for event in events.values()} == {B}
    assert board.calls == []


@pytest.mark.parametrize("who", [A, B])
def test_either_side_can_hang_up(who):
    """Each monitor gets exactly one ConnectionCleared, naming who left."""
    board = a_board()
    call, _ = talking(board, B, A)
    board.clear(call, call.party(who))
    notices = [n for n in board.drain() if isinstance(n, DeviceNotice)]
    assert sorted(n.device for n in notices) == [B, A]
    for notice in notices:
        assert isinstance(notice.event, ConnectionClearedEvent)
        assert notice.event.releasing_device == who
        assert notice.event.connection.device_id == notice.device


def test_rejecting_is_clearing_a_ringing_call():
    """The called device may clear before it answers; both ends learn it."""
    board = a_board()
    call, called = board.call_in(OUTSIDE, A)
    board.clear(call, called)
    assert by_device(board) == {A: ["DeliveredEvent", "ConnectionClearedEvent"]}


def test_an_unanswered_call_goes_to_voicemail():
    """Rows 1 to 6 of the scenario: divert, *86 rings and answers, the end, the message."""
    board = a_board()
    call, party = board.call_in(OUTSIDE, A)
    board.no_answer(call, party)
    board.clear(call, call.party(OUTSIDE))
    events = seen_by(board, A)
    assert [type(e) for e in events] == [
        DeliveredEvent,
        DivertedEvent,
        DeliveredEvent,
        EstablishedEvent,
        ConnectionClearedEvent,
        MailIncomingReady,
    ]
    diverted, rings = events[1], events[2]
    assert (diverted.diverting_device, diverted.new_destination) == (A, A)
    assert diverted.cmds_allowed == 272
    assert (rings.alerting_device, rings.alerting_display_name) == ("*86", "voicemail")
    assert (rings.called_device, rings.call_type_flags) == ("*86", 3145736)
    assert rings.connection.call_id == diverted.connection.call_id
    assert events[-1].owner_id == board.company.user(A).jid


def test_voicemail_can_leave_the_device_out():
    """With the switches of ECMA the device's part ends when the call leaves it."""
    board = a_board(voicemail_leg_seen=False, voicemail_divert_to="service")
    call, party = board.call_in(OUTSIDE, A)
    board.no_answer(call, party)
    events = seen_by(board, A)
    assert [type(e) for e in events] == [DeliveredEvent, DivertedEvent, ConnectionClearedEvent]
    assert events[1].new_destination == "*86"


def test_a_user_without_voicemail_loses_the_call():
    """Nobody answers, nothing takes the call: it ends, released by nobody in particular."""
    board = a_board()
    board.company.put(attrs.evolve(board.company.user(A), has_voicemail=False))
    call, party = board.call_in(OUTSIDE, A)
    board.no_answer(call, party)
    events = seen_by(board, A)
    assert [type(e) for e in events] == [DeliveredEvent, ConnectionClearedEvent]
    assert events[1].releasing_device == ""


def test_hold_is_seen_by_the_other_side():
    """The holder's own state is hold, the peer stays connected; retrieving undoes it."""
    board = a_board()
    call, party = talking(board, B, A)
    board.hold(call, party)
    held = {n.device: n.event for n in board.drain() if isinstance(n, DeviceNotice)}
    assert all(isinstance(e, HeldEvent) and e.holding_device == A for e in held.values())
    assert (held[A].local_connection_info, held[B].local_connection_info) == ("hold", "connected")
    board.retrieve(call, party)
    taken = {n.device: n.event for n in board.drain() if isinstance(n, DeviceNotice)}
    assert all(isinstance(e, RetrievedEvent) and e.retrieving_device == A for e in taken.values())


def test_a_blind_transfer_rings_at_the_new_device():
    """The old device sees Transferred and the end; the new one rings, redirected by the old."""
    board = a_board()
    call, party = talking(board)
    target = board.single_step_transfer(call, party, B)
    notices = [n for n in board.drain() if isinstance(n, DeviceNotice)]
    assert [(n.device, type(n.event)) for n in notices] == [
        (A, TransferredEvent),
        (A, ConnectionClearedEvent),
        (B, DeliveredEvent),
    ]
    assert notices[0].event.local_connection_info == "null"
    rings = notices[2].event
    assert (rings.calling_device, rings.called_device) == (OUTSIDE, B)
    assert rings.last_redirection_device == A
    board.answer(call, target)
    assert by_device(board) == {B: ["EstablishedEvent"]}


def test_a_blind_transfer_out_of_the_company_leaves_nothing():
    """When both ends are outside, the call is no longer ours."""
    board = a_board()
    call, party = talking(board)
    board.single_step_transfer(call, party, OTHER_OUTSIDE)
    assert board.calls == []
    assert by_device(board) == {A: ["TransferedEvent", "ConnectionClearedEvent"]}


def test_a_deflected_call_rings_elsewhere():
    """The deflecting device sees Diverted and the end; the new one rings."""
    board = a_board()
    call, party = board.call_in(OUTSIDE, A)
    board.drain()
    board.deflect(call, party, B)
    notices = [n for n in board.drain() if isinstance(n, DeviceNotice)]
    assert [(n.device, type(n.event)) for n in notices] == [
        (A, DivertedEvent),
        (A, ConnectionClearedEvent),
        (B, DeliveredEvent),
    ]
    assert notices[0].event.new_destination == B
    assert notices[2].event.last_redirection_device == A


def test_cleared_after_divert_can_be_left_out():
    """A switch makes the device end with Diverted alone."""
    board = a_board(cleared_after_divert=False)
    call, party = board.call_in(OUTSIDE, A)
    board.deflect(call, party, B)
    assert [type(e) for e in seen_by(board, A)] == [DeliveredEvent, DivertedEvent]


def consulting(board):
    """A talks to an outside caller, holds, and talks to B; gives both calls with A's parts."""
    first, holder = talking(board)
    second, talker = board.make_call(A, B)
    board.answer(second, second.party(B))
    return (first, holder), (second, talker)


def test_a_consultation_transfer_joins_the_other_ends():
    """The device sees Transferred and the end of both calls; the colleague gets the caller."""
    board = a_board()
    held, active = consulting(board)
    board.drain()
    board.transfer(held, active)
    notices = [n for n in board.drain() if isinstance(n, DeviceNotice)]
    at_a = [n.event for n in notices if n.device == A]
    assert [type(e) for e in at_a] == [
        TransferredEvent,
        ConnectionClearedEvent,
        ConnectionClearedEvent,
    ]
    assert at_a[0].connection.call_id == held[1].call_id
    assert {e.connection.call_id for e in at_a[1:]} == {held[1].call_id, active[1].call_id}
    at_b = [n.event for n in notices if n.device == B]
    assert [type(e) for e in at_b] == [TransferredEvent, EstablishedEvent]
    assert at_b[1].calling_device == OUTSIDE
    # B's own id of the call has not changed, and B can act on it.
    board.clear(*board.find(B, at_b[1].connection.call_id))
    assert board.calls == []


def test_dialling_holds_the_current_call():
    """A telephone talks on one call at a time: the consultation puts the first on hold."""
    board = a_board()
    call, party = talking(board)
    board.make_call(A, B)
    assert party.state is State.HOLD
    assert [type(e) for e in seen_by(board, A)] == [HeldEvent, OriginatedEvent, DeliveredEvent]
    assert call in board.calls


def test_a_parked_call_is_taken_by_dialling_its_place():
    """The place is told, the device leaves, and a colleague who dials *77 and it gets the call."""
    board = a_board()
    call, party = talking(board)
    place = board.park(call, party)
    assert [type(e) for e in seen_by(board, A)] == [
        ParkedEvent,
        DivertedEvent,
        ConnectionClearedEvent,
    ]
    taken, _ = board.make_call(B, f"*77{place}")
    assert taken is call
    assert by_device(board) == {B: ["OriginatedEvent", "EstablishedEvent"]}


@pytest.mark.parametrize("who", [A, B])
def test_a_parked_call_is_taken_by_its_id(who):
    """Whoever names the parked call's id gets it, the device that parked it too."""
    board = a_board()
    call, party = talking(board)
    board.park(call, party)
    board.drain()
    board.pick_up(who, party.call_id)
    assert by_device(board) == {who: ["RetrievedEvent", "EstablishedEvent"]}
    assert call.place is None


def test_a_parked_party_cannot_take_its_own_call():
    """Neither by the place nor by the id; the refusal changes nothing."""
    board = a_board()
    call, party = talking(board, B, A)
    place = board.park(call, party)
    board.drain()
    assert refusal(lambda: board.make_call(B, f"*77{place}")) == WRONG_STATE
    assert refusal(lambda: board.pick_up(B, party.call_id)) == WRONG_STATE
    assert board.drain() == []
    assert call.party(B).state is State.CONNECTED


def test_park_places_are_used_again():
    """The lowest free place is taken."""
    board = a_board()
    first, party = talking(board)
    second, other = talking(board, OTHER_OUTSIDE, B)
    assert [board.park(first, party), board.park(second, other)] == [1, 2]
    board.clear(first, first.party(OUTSIDE))
    third, again = talking(board, OUTSIDE, C)
    assert board.park(third, again) == 1


def test_a_recorded_call_leaves_a_recording():
    """Start and stop are told, and the recording lies in the box once the call has ended."""
    board = a_board()
    call, party = talking(board)
    board.record(call, party, active=True)
    board.clear(call, party)
    events = seen_by(board, A)
    assert [type(e) for e in events] == [
        RecordingStateEvent,
        ConnectionClearedEvent,
        MailIncomingReady,
    ]
    assert events[2].media_type == "Recording"


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        ("3999", "destNotObtainable"),
        (A, "busy"),
        ("+12025550190", "busy"),
        ("*77", "destNotObtainable"),
    ],
)
def test_a_call_to_nobody_fails(number, cause):
    """Wrong and busy numbers end with Failed and ConnectionCleared, and leave no call."""
    company = Company(
        users=example_users(), outside=(OutsideParty(number="+12025550190", busy=True),)
    )
    board = Switchboard(company, Behaviour(outgoing="desk"))
    board.make_call(A, number)
    events = seen_by(board, A)
    assert [type(e) for e in events] == [OriginatedEvent, FailedEvent, ConnectionClearedEvent]
    assert events[1].cause == cause
    assert board.calls == []


def test_the_causes_of_ecma_can_be_had():
    """A switch replaces `normal` by what ECMA-269 says."""
    board = a_board(causes="ecma")
    call, party = board.call_in(OUTSIDE, A)
    board.no_answer(call, party)
    assert seen_by(board, A)[1].cause == "callForwardNoAnswer"


def test_the_other_switches_of_call_events():
    """Own phone rings first, caller `connected`, ids everywhere, as text, and one per device."""
    board = a_board(
        own_phone_rings=True,
        caller_sees="connected",
        global_id_everywhere=True,
        text_call_ids=True,
        call_id_per_device=True,
        redirection_is_caller=True,
        service_initiated=True,
        service_initiated_info="initializing",
        network_reached=True,
    )
    board.make_call(A, OUTSIDE)
    events = seen_by(board, A)
    assert [type(e) for e in events] == [
        ServiceInitiatedEvent,
        DeliveredEvent,
        OriginatedEvent,
        DivertedEvent,
        NetworkReachedEvent,
        DeliveredEvent,
    ]
    assert events[0].local_connection_info == "initializing"
    assert events[1].alerting_device == A
    assert events[-1].local_connection_info == "connected"
    assert events[-1].last_redirection_device == A
    assert all(e.connection.global_call_id for e in events)
    call, _ = board.make_call(B, C)
    assert [party.call_id for party in call.parties] == ["c3", "c4"]


# --- Refusals -------------------------------------------------------------------------------------


def refusal(operation) -> tuple[str, str]:
    with pytest.raises(CommandRefused) as caught:
        operation()
    return caught.value.category, str(caught.value)


WRONG_STATE = ("stateIncompatibility", "invalidConnectionState")


def test_what_cannot_be_done_while_ringing():
    """A ringing call can be answered, cleared and deflected, and nothing else."""
    board = a_board()
    call, party = board.call_in(OUTSIDE, A)
    assert refusal(lambda: board.hold(call, party)) == WRONG_STATE
    assert refusal(lambda: board.retrieve(call, party)) == WRONG_STATE
    assert refusal(lambda: board.park(call, party)) == WRONG_STATE
    assert refusal(lambda: board.single_step_transfer(call, party, B)) == WRONG_STATE
    assert refusal(lambda: board.record(call, party, active=True)) == WRONG_STATE


def test_what_cannot_be_done_while_talking():
    """An answered call cannot be answered, deflected or retrieved."""
    board = a_board()
    call, party = talking(board)
    no_call = ("stateIncompatibility", "noCallToAnswer")
    assert refusal(lambda: board.answer(call, party)) == no_call
    assert refusal(lambda: board.deflect(call, party, B)) == WRONG_STATE
    assert refusal(lambda: board.retrieve(call, party)) == WRONG_STATE
    assert refusal(lambda: board.no_answer(call, party)) == WRONG_STATE
    assert refusal(lambda: board.fail(call)) == WRONG_STATE
    assert refusal(lambda: board.record(call, party, active=False)) == WRONG_STATE


def test_the_caller_cannot_hold_or_leave_what_is_not_answered():
    """While the other side rings, the caller may only give up."""
    board = a_board()
    call, party = board.make_call(A, B)
    assert refusal(lambda: board.hold(call, party)) == WRONG_STATE
    assert refusal(lambda: board.make_call(A, C)) == WRONG_STATE


def test_who_cannot_call():
    """Unknown devices, odd numbers, missing rights and full telephones are refused."""
    board = a_board()
    assert refusal(lambda: board.make_call("9999", B)) == ("operation", "invalidCallingDeviceID")
    for number in ("", "nobody", "12 ab", "+", "4" * 40):
        assert refusal(lambda n=number: board.make_call(A, n)) == (
            "operation",
            "invalidCalledDeviceID",
        )
    board.company.put(attrs.evolve(board.company.user(A), may_call=False))
    assert refusal(lambda: board.make_call(A, B)) == ("privateErrorCode", "URM Denied")
    board.company.put(attrs.evolve(board.company.user(B), lines=0))
    assert refusal(lambda: board.make_call(B, C))[0] == "systemResourceAvailability"
    assert refusal(lambda: board.call_in(OUTSIDE, B))[0] == "systemResourceAvailability"
    assert refusal(lambda: board.call_in(OUTSIDE, "9999"))[1] == "invalidCalledDeviceID"
    assert refusal(lambda: board.call_in("12", A))[1] == "invalidCallingDeviceID"


@pytest.mark.parametrize("number", ["", "9999", "abc", A, OUTSIDE, "*77"])
def test_where_a_call_cannot_be_sent(number):
    """Neither nobody, nor a party of the call, nor the park server can be its destination."""
    board = a_board()
    call, party = talking(board)
    assert refusal(lambda: board.single_step_transfer(call, party, number)) == (
        "operation",
        "invalidCalledDeviceID",
    )
    assert party in call.parties


def test_voicemail_cannot_be_handed_on_or_parked():
    """A service does not talk to other people by itself."""
    board = a_board()
    call, party = board.make_call(A, "*86")
    assert refusal(lambda: board.single_step_transfer(call, party, B)) == WRONG_STATE
    assert refusal(lambda: board.park(call, party)) == WRONG_STATE


def test_which_calls_cannot_be_joined():
    """Only the own held call and the own active one, with different other ends."""
    board = a_board()
    held, active = consulting(board)
    assert refusal(lambda: board.transfer(held, held))[1] == "invalidConnectionID"
    assert refusal(lambda: board.transfer(active, held)) == WRONG_STATE
    elsewhere = talking(board, OTHER_OUTSIDE, C)
    assert refusal(lambda: board.transfer(held, elsewhere))[1] == "invalidConnectionID"
    board = a_board()
    first = talking(board, B, A)
    second = talking(board, B, A)
    assert refusal(lambda: board.transfer(first, second))[1] == "invalidCalledDeviceID"


def test_unknown_connections_are_refused():
    """A call id of another device, an outside party's, or none at all."""
    board = a_board()
    call, party = talking(board)
    for device, call_id in [(B, party.call_id), (A, 99), (OUTSIDE, party.call_id)]:
        assert refusal(lambda d=device, c=call_id: board.find(d, c))[1] == "invalidConnectionID"
    assert board.find(A, party.call_id) == (call, party)
    assert refusal(lambda: board.pick_up(B, party.call_id))[1] == "invalidConnectionID"
    assert refusal(lambda: board.latest(B))[1] == "invalidConnectionID"


def test_a_device_whose_call_voicemail_took_cannot_act_on_it():
    """It still sees the call, and that is all."""
    board = a_board()
    call, party = board.call_in(OUTSIDE, A)
    board.no_answer(call, party)
    assert refusal(lambda: board.clear(*board.find(A, party.call_id))) == WRONG_STATE
    assert refusal(lambda: board.answer(*board.find(A, party.call_id)))[1] == "noCallToAnswer"
    assert board.snapshot(A) == ()


# --- People ---------------------------------------------------------------------------------------


def test_presence_tells_about_calls():
    """A ringing and then a busy telephone show in mxStatus, after the call events."""
    board = a_board()
    call, party = board.call_in(OUTSIDE, A)
    ringing = board.drain()
    assert isinstance(ringing[-1], PresenceNotice)
    assert "USER_HAS_RINGING_CALL" in ringing[-1].presence.mx_status
    board.answer(call, party)
    assert "USER_ON_CALL" in board.drain()[-1].presence.mx_status
    board.clear(call, party)
    assert "CALL" not in board.drain()[-1].presence.mx_status


def test_presence_can_be_set_and_is_misspelled():
    """The event has the server's typo, the address book does not; None keeps the note."""
    board = a_board()
    jid = board.company.user(A).jid
    board.set_presence(jid, "NotAvailable", "lunch")
    (notice,) = board.drain()
    assert (notice.presence.status, notice.presence.note) == ("NotAvaliable", "lunch")
    board.set_presence(jid, "Available")
    assert board.company.user(A).entry().note == "lunch"
    board.set_presence(jid, "", "")
    assert board.company.user(A).presence == "Available"
    assert board.company.user(A).note == ""
    assert refusal(lambda: board.set_presence(1, "Available"))[1] == "invalidDeviceID"


def test_the_address_book_changes():
    """Adding, changing and deleting a user each give their event, with the full record."""
    board = a_board()
    old = board.company.user(A)
    new = attrs.evolve(old, jid=make_jid("63022", 7), ext="3999", login="new")
    board.add_user(new)
    board.update_user(attrs.evolve(new, last_name="Jones"))
    board.delete_user(new.jid)
    added, changed, deleted = (n.event for n in board.drain() if isinstance(n, BookNotice))
    assert added.entry == new.entry()
    assert changed.entry.last_name == "Jones"
    assert deleted.jid == new.jid
    assert refusal(lambda: board.add_user(old))[1] == "objectAlreadyExists"
    assert refusal(lambda: board.update_user(attrs.evolve(old, ext=B)))[1] == "objectAlreadyExists"
    assert refusal(lambda: board.delete_user(1))[1] == "invalidDeviceID"


def test_deleting_a_user_ends_the_calls():
    """Nobody is left talking to a deleted user."""
    board = a_board()
    talking(board, B, A)
    board.delete_user(board.company.user(A).jid)
    assert board.calls == []
    assert by_device(board)[B] == ["ConnectionClearedEvent"]


def test_a_snapshot_lists_the_real_calls():
    """Each live call of the device, with its state."""
    board = a_board()
    held, active = consulting(board)
    assert [(c.connection.call_id, c.state) for c in board.snapshot(A)] == [
        (held[1].call_id, "hold"),
        (active[1].call_id, "connected"),
    ]


# --- Ids ------------------------------------------------------------------------------------------


def test_ids_are_made_as_an_mx_makes_them():
    """The arithmetic gives the ids that real servers have shown."""
    assert make_jid("63022", 0x23A97B41) == 43884851147406145
    assert global_call_id("63022", 0, 0xD6A4) == "2808630435142227620"
    assert call_id_text("63022", 0, 0xD6A4) == "63022-00-0000D-6A4"


def test_a_call_between_strangers_belongs_to_whoever_made_it():
    """An outside number may be called from; it is controlled under that number."""
    board = a_board()
    call, party = board.make_call("79031234567", "79037654321")
    assert by_device(board) == {}
    board.answer(call, call.party("79037654321"))
    board.hold(*board.find("79031234567", party.call_id))
    assert refusal(lambda: board.find("79037654321", party.call_id))[1] == "invalidConnectionID"
    board.clear(call, party)
    assert board.calls == []
