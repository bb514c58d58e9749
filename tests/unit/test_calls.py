"""The calls of an extension, as its events tell them, and the commands on them."""

from __future__ import annotations

import contextlib

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxflex.errors import CommandRefused, Forbidden, MXError, MXTimeout, MXUnavailable
from mxflex.gateway.calls import (
    CONNECTION_STATES,
    LEAVING_SECONDS,
    MAX_CALLS,
    REFRESH_AT_ONCE,
    STALE_SECONDS,
    CallRegistry,
    Calls,
)
from mxflex.gateway.tokens import Identity
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import example_company
from mxflex.simulator.switchboard import DeviceNotice, State, Switchboard
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    Acknowledgement,
    AnswerCall,
    ClearConnection,
    ConnectionClearedEvent,
    CSTAError,
    DeflectCall,
    DeliveredEvent,
    DeviceCall,
    DivertedEvent,
    EstablishedEvent,
    FailedEvent,
    HeldEvent,
    HoldCall,
    MakeCall,
    MakeCallResponse,
    NetworkReachedEvent,
    OriginatedEvent,
    ParkCall,
    ParkedEvent,
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
from tests.unit.memory_mx import NOW, MemoryMX, person

ME, PETER, JOHN = "3095", "3044", "3098"
EXTENSIONS = (ME, PETER, JOHN, "3099")
OUTSIDE = "12025550104"
CALL = ConnectionID(call_id=39, device_id=ME)


class Time:
    """A clock that is set by hand, ahead and back."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


class House:
    """A simulated switchboard whose events go straight to a registry."""

    def __init__(self, **behaviour):
        behaviour = {"caller_sees": "connected", "outgoing": "desk", **behaviour}
        self.board = Switchboard(example_company(), Behaviour(**behaviour))
        self.time = Time()
        self.registry = CallRegistry(self.time)
        for ext in EXTENSIONS:
            self.registry.watch(ext)

    def tell(self):
        """Let the registry have all events, a second for each."""
        for notice in self.board.drain():
            if isinstance(notice, DeviceNotice):
                self.time.now += 1
                self.registry.observe(notice.device, notice.event)

    def do(self, operation, *args, **kwargs):
        """Do something at the switchboard and tell of it."""
        result = getattr(self.board, operation)(*args, **kwargs)
        self.tell()
        return result

    def both(self, call):
        """Give the parts of a call's two ends."""
        return [(call, party) for party in call.live]

    def states(self, ext):
        """Give the states of an extension's calls, those that have left it included."""
        return [call.state for call in self.registry.calls(ext)]

    def only(self, ext):
        """Give the one call that an extension has."""
        (call,) = self.registry.calls(ext)
        return call

    def parties(self, ext):
        """Give direction, calling, called and answering device of the only call."""
        call = self.only(ext)
        return call.direction, call.calling_device, call.called_device, call.answering_device


class TestOutgoing:
    """Calls that the extension makes (docs/mx-protocol.md, "Call scenarios")."""

    def test_owners_sample(self):
        """The owner's run, event by event: connected, diverted on its way, alerting, answered."""
        time = Time()
        registry = CallRegistry(time)
        registry.watch(ME)
        to = "79031744445"
        rows = [
            (OriginatedEvent(connection=CALL, calling_device=ME, called_device=to), "connected"),
            (
                DivertedEvent(connection=CALL, diverting_device=ME, new_destination=to),
                "connected",
            ),
            (
                DeliveredEvent(
                    connection=CALL,
                    alerting_device=to,
                    calling_device=ME,
                    called_device=to,
                    local_connection_info="alerting",
                ),
                "alerting",
            ),
            (
                EstablishedEvent(
                    connection=CALL,
                    answering_device=to,
                    answering_display_name=to,
                    calling_device=ME,
                    called_device=to,
                ),
                "connected",
            ),
        ]
        since = []
        for event, state in rows:
            time.now += 10
            registry.observe(ME, event)
            (call,) = registry.calls(ME)
            assert (call.state, call.direction, call.calling_device) == (state, "outgoing", ME)
            assert call.called_device == to
            assert not call.leaving or isinstance(event, DivertedEvent)
            since.append(call.since - NOW)
        assert since == [10, 10, 30, 40]
        assert (call.started_at, call.answered_at) == (NOW + 10, NOW + 40)
        assert (call.answering_device, call.answering_display_name) == (to, to)
        cleared = ConnectionClearedEvent(connection=CALL, releasing_device=ME)
        registry.observe(ME, cleared)
        assert registry.calls(ME) == []

    @pytest.mark.parametrize("outgoing", ["remote", "desk"])
    @pytest.mark.parametrize("initiated", [True, False])
    @pytest.mark.parametrize("network", [True, False])
    @pytest.mark.parametrize("rings", [True, False])
    def test_every_way_to_begin(self, outgoing, initiated, network, rings):
        """However a server lets a call begin, it ends up as the same outgoing call."""
        house = House(
            outgoing=outgoing,
            service_initiated=initiated,
            network_reached=network,
            own_phone_rings=rings,
        )
        call, _ = house.do("make_call", ME, OUTSIDE)
        assert house.states(ME) == ["connected"]
        assert house.parties(ME) == ("outgoing", ME, OUTSIDE, "")
        assert house.only(ME).answered_at is None
        house.do("answer", call, call.ringing)
        assert house.parties(ME) == ("outgoing", ME, OUTSIDE, OUTSIDE)
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == ["connected"]
        house.do("clear", call, call.party(OUTSIDE))
        assert house.states(ME) == []

    @pytest.mark.parametrize("info", ["initiated", "initializing", ""])
    def test_off_hook(self, info):
        """Off hook the state is `initiated`, whatever word a server has for it."""
        house = House()
        event = ServiceInitiatedEvent(
            connection=CALL, initiating_device=ME, local_connection_info=info
        )
        house.registry.observe(ME, event)
        assert house.states(ME) == ["initiated"]
        assert house.parties(ME) == ("outgoing", ME, "", "")

    def test_busy(self):
        """A call that fails says so, until it is cleared."""
        house = House()
        call, _ = house.do("make_call", ME, OUTSIDE)
        house.board.fail(call)
        *events, cleared = [n for n in house.board.drain() if isinstance(n, DeviceNotice)]
        for notice in events:
            house.registry.observe(notice.device, notice.event)
        assert isinstance(events[-1].event, FailedEvent)
        assert house.states(ME) == ["fail"]
        house.registry.observe(cleared.device, cleared.event)
        assert house.states(ME) == []


class TestInternal:
    """Calls between two watched extensions."""

    @pytest.mark.parametrize("each", [True, False])
    def test_answered(self, each):
        """Both ends see one call, each from its own side and by its own id."""
        house = House(call_id_per_device=each)
        call, _ = house.do("make_call", PETER, ME)
        assert house.states(PETER) == ["connected"]
        assert house.states(ME) == ["alerting"]
        assert house.parties(PETER)[:3] == ("outgoing", PETER, ME)
        assert house.parties(ME)[:3] == ("incoming", PETER, ME)
        assert house.only(ME).calling_display_name == "Peter Hyde"
        assert house.only(ME).device_id == ME
        assert (house.only(ME).call_id != house.only(PETER).call_id) is each
        assert house.only(ME).global_call_id == house.only(PETER).global_call_id != ""
        house.do("answer", call, call.ringing)
        assert house.states(PETER) == house.states(ME) == ["connected"]
        assert house.only(ME).answering_display_name == "Dmitry Sedykh"
        house.do("clear", call, call.party(ME))
        assert house.states(PETER) == house.states(ME) == []

    def test_caller_gives_up(self):
        """A call that stops ringing is gone at both ends."""
        house = House()
        call, caller = house.do("make_call", PETER, ME)
        house.do("clear", call, caller)
        assert house.states(PETER) == house.states(ME) == []

    def test_from_outside(self):
        """A call from outside has the number and the name it presents."""
        house = House()
        house.do("call_in", OUTSIDE, ME, "Harbor Coffee")
        assert house.parties(ME)[:3] == ("incoming", OUTSIDE, ME)
        assert house.only(ME).calling_display_name == "Harbor Coffee"

    def test_hold_and_retrieve(self):
        """Who holds is on hold; the other stays connected, and learns nothing new."""
        house = House()
        call, caller = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        answered = house.only(PETER).since
        house.do("hold", call, call.party(ME))
        assert house.states(ME) == ["hold"]
        assert house.states(PETER) == ["connected"]
        assert house.only(PETER).since == answered
        assert house.only(ME).since > answered
        house.do("hold", call, caller)
        assert house.states(PETER) == ["hold"]
        house.do("retrieve", call, call.party(ME))
        assert (house.states(ME), house.states(PETER)) == (["connected"], ["hold"])

    def test_answered_once(self):
        """A call was answered when it was first answered, whoever comes to it later."""
        house = House()
        call, _ = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        answered = house.only(PETER).answered_at
        target = house.do("single_step_transfer", call, call.party(ME), JOHN)
        house.do("answer", call, target)
        assert house.only(PETER).answered_at == answered
        assert house.only(JOHN).answered_at > answered

    def test_recording(self):
        """Recording is told while it lasts."""
        house = House()
        call, _ = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        assert not house.only(ME).recording
        house.do("record", call, call.party(ME), active=True)
        assert house.only(ME).recording
        assert not house.only(PETER).recording
        house.do("record", call, call.party(ME), active=False)
        assert not house.only(ME).recording

    def test_recording_of_a_call_that_has_ended(self):
        """A late word of a recording does not bring its call back."""
        house = House()
        event = RecordingStateEvent(connection=CALL, available=True)
        house.registry.observe(ME, event)
        assert house.states(ME) == []


class TestDiverted:
    """Calls that leave the extension before they are answered."""

    @pytest.mark.parametrize("leg", [True, False])
    @pytest.mark.parametrize("cleared", [True, False])
    @pytest.mark.parametrize("to", ["own", "service"])
    def test_to_voicemail(self, leg, cleared, to):
        """A call that voicemail took is none of the extension's, though it is told of it."""
        house = House(voicemail_leg_seen=leg, cleared_after_divert=cleared, voicemail_divert_to=to)
        call, caller = house.do("make_call", PETER, ME)
        house.do("no_answer", call, call.ringing)
        known = house.registry.calls(ME)
        assert all(call.answered_at is None for call in known)
        if leg:
            assert [call.state for call in known] == ["null"]
        elif cleared:
            assert known == []
        else:
            assert [call.state for call in known] == [("alerting" if to == "own" else "null")]
        assert house.states(PETER) == ["connected"]
        assert house.parties(PETER) == ("outgoing", PETER, "*86", "*86")
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == []
        house.do("clear", call, caller)
        assert house.states(PETER) == []

    def test_ringing_on_at_the_extension_itself(self):
        """A call diverted to the extension itself, and ringing there again, has not left."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        connection = ConnectionID(house.only(ME).call_id, ME)
        diverted = DivertedEvent(connection=connection, diverting_device=ME, new_destination=ME)
        house.registry.observe(ME, diverted)
        assert house.states(ME) == ["alerting"]
        delivered = DeliveredEvent(
            connection=connection, alerting_device=ME, calling_device=OUTSIDE, called_device=ME
        )
        house.registry.observe(ME, delivered)
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == ["alerting"]

    @pytest.mark.parametrize("cleared", [True, False])
    def test_deflected(self, cleared):
        """A deflected call rings elsewhere; here it is gone, at the latest after a minute."""
        house = House(cleared_after_divert=cleared)
        call, _ = house.do("make_call", PETER, ME)
        house.do("deflect", call, call.ringing, JOHN)
        assert house.states(ME) == ([] if cleared else ["null"])
        assert house.states(JOHN) == ["alerting"]
        assert house.parties(PETER) == ("outgoing", PETER, JOHN, "")
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == []
        assert house.states(JOHN) == ["alerting"]

    @pytest.mark.parametrize(("later", "kept"), [(60, True), (60.5, False)])
    def test_the_minute(self, later, kept):
        """A call that left is shown for sixty seconds and no longer."""
        house = House(cleared_after_divert=False)
        call, _ = house.do("make_call", PETER, ME)
        house.do("deflect", call, call.ringing, JOHN)
        house.time.now = house.only(ME).left_at + later
        assert bool(house.states(ME)) is kept

    def test_news_of_a_call_that_left_long_ago(self):
        """What the other end does with a call that voicemail took is nothing to the extension."""
        house = House()
        call, caller = house.do("make_call", PETER, ME)
        house.do("no_answer", call, call.ringing)
        house.time.now += LEAVING_SECONDS + 1
        house.do("hold", call, caller)
        assert house.states(ME) == []
        house.do("retrieve", call, caller)
        assert house.states(ME) == []
        house.do("clear", call, caller)
        assert house.registry._calls[ME] == {}

    def test_the_minute_of_a_recording(self):
        """News that does not concern where the call is does not call it back."""
        house = House(cleared_after_divert=False)
        call, _ = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        connection = ConnectionID(house.only(ME).call_id, ME)
        house.registry.observe(ME, TransferredEvent(connection=connection, transferring_device=ME))
        for event in (
            RecordingStateEvent(connection=connection),
            HeldEvent(connection=connection, holding_device=PETER),
            RetrievedEvent(connection=connection, retrieving_device=PETER),
            NetworkReachedEvent(connection=connection, calling_device=PETER),
            DeliveredEvent(connection=connection, alerting_device=JOHN),
            FailedEvent(connection=connection, called_device=JOHN),
            TransferredEvent(connection=connection, transferring_device=PETER),
        ):
            house.registry.observe(ME, event)
            assert house.states(ME) == ["null"]
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == []


class TestHandedOn:
    """Transfers and parking."""

    @pytest.mark.parametrize("ends", ["answered", "rejected"])
    def test_blind_transfer(self, ends):
        """A hands its call with B to C: A has none, B and C have each other."""
        house = House()
        call, _ = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        target = house.do("single_step_transfer", call, call.party(ME), JOHN)
        assert house.states(ME) == []
        assert house.states(JOHN) == ["alerting"]
        assert house.parties(JOHN)[:3] == ("incoming", PETER, JOHN)
        assert house.parties(PETER) == ("outgoing", PETER, JOHN, "")
        assert house.only(PETER).answering_display_name == ""
        if ends == "answered":
            house.do("answer", call, target)
            assert house.states(PETER) == house.states(JOHN) == ["connected"]
            assert house.parties(PETER) == ("outgoing", PETER, JOHN, JOHN)
            assert house.only(PETER).answering_display_name == "John Smith"
        else:
            house.do("clear", call, target)
            assert house.states(PETER) == house.states(JOHN) == []

    def test_transferred_and_never_cleared(self):
        """A call that was handed on and is not cleared is null, and gone after a minute."""
        house = House()
        call, _ = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        connection = ConnectionID(house.only(ME).call_id, ME)
        event = TransferredEvent(
            connection=connection,
            transferring_device=ME,
            transferred_to_device=JOHN,
            local_connection_info="null",
        )
        house.registry.observe(ME, event)
        assert house.states(ME) == ["null"]
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == []

    def test_transfer_that_comes_back(self):
        """A transferred call that nobody took rings again where it came from, and stays."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        connection = ConnectionID(house.only(ME).call_id, ME)
        house.registry.observe(ME, TransferredEvent(connection=connection, transferring_device=ME))
        house.registry.observe(
            ME,
            DeliveredEvent(
                connection=connection,
                alerting_device=ME,
                calling_device=OUTSIDE,
                called_device=ME,
                cause="recall",
            ),
        )
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == ["alerting"]

    @pytest.mark.parametrize(
        ("event", "state"),
        [
            (HeldEvent(connection=CALL, holding_device=ME), "hold"),
            (RetrievedEvent(connection=CALL, retrieving_device=ME), "connected"),
            (EstablishedEvent(connection=CALL, answering_device=ME), "connected"),
            (OriginatedEvent(connection=CALL, calling_device=ME), "connected"),
        ],
        ids=lambda value: getattr(type(value), "wire_name", None),
    )
    def test_what_brings_a_call_back(self, event, state):
        """What the extension itself does with a call that had left shows that it has it again."""
        time = Time()
        registry = CallRegistry(time)
        registry.watch(ME)
        registry.observe(ME, TransferredEvent(connection=CALL, transferring_device=ME))
        registry.observe(ME, event)
        time.now += LEAVING_SECONDS + 1
        assert [call.state for call in registry.calls(ME)] == [state]

    @pytest.mark.parametrize("each", [True, False])
    def test_consultation_transfer(self, each):
        """A joins its two calls: both are gone for A, and the others talk to each other."""
        house = House(call_id_per_device=each)
        first, _ = house.do("make_call", PETER, ME)
        house.do("answer", first, first.ringing)
        second, talker = house.do("make_call", ME, JOHN)
        assert house.states(ME) == ["hold", "connected"]
        assert [call.direction for call in house.registry.calls(ME)] == ["incoming", "outgoing"]
        house.do("answer", second, second.ringing)
        house.do("transfer", (first, first.party(ME)), (second, talker))
        assert house.states(ME) == []
        assert house.states(PETER) == house.states(JOHN) == ["connected"]
        assert house.parties(JOHN) == ("incoming", PETER, JOHN, JOHN)
        assert house.parties(PETER) == ("outgoing", PETER, JOHN, JOHN)
        assert house.only(JOHN).calling_display_name == "Peter Hyde"

    def test_name_of_a_new_party(self):
        """When the other party changes and its name is not told, the old one's is not shown."""
        house = House()
        house.do("call_in", OUTSIDE, ME, "Harbor Coffee")
        connection = ConnectionID(house.only(ME).call_id, ME)
        answered = EstablishedEvent(
            connection=connection,
            answering_device=ME,
            answering_display_name="Dmitry",
            calling_device=OUTSIDE,
            called_device=ME,
        )
        house.registry.observe(ME, answered)
        assert house.only(ME).calling_display_name == "Harbor Coffee"
        house.registry.observe(ME, attrs.evolve(answered, calling_device=JOHN))
        assert house.only(ME).calling_device == JOHN
        assert house.only(ME).calling_display_name == ""
        house.registry.observe(
            ME, attrs.evolve(answered, answering_device="3099", answering_display_name="")
        )
        assert house.only(ME).answering_device == "3099"
        assert house.only(ME).answering_display_name == ""

    def test_other_end_changes_while_on_hold(self):
        """What happens at the other end does not take a call off hold here."""
        house = House()
        call, _ = house.do("make_call", PETER, ME)
        house.do("answer", call, call.ringing)
        house.do("hold", call, call.party(PETER))
        target = house.do("single_step_transfer", call, call.party(ME), JOHN)
        assert house.states(PETER) == ["hold"]
        house.do("answer", call, target)
        assert house.states(PETER) == ["hold"]
        assert house.parties(PETER) == ("outgoing", PETER, JOHN, JOHN)

    @pytest.mark.parametrize("cleared", [True, False])
    @pytest.mark.parametrize("caller", [ME, PETER])
    def test_parked(self, cleared, caller):
        """A parked call has left; whoever takes it has it, and the other end never lost it."""
        house = House(cleared_after_divert=cleared)
        other = PETER if caller == ME else ME
        call, _ = house.do("make_call", caller, other)
        house.do("answer", call, call.ringing)
        call_id = house.only(ME).call_id
        house.do("park", call, call.party(ME))
        assert house.states(ME) == ([] if cleared else ["null"])
        assert house.states(PETER) == ["connected"]
        house.do("pick_up", JOHN, call_id)
        assert house.states(JOHN) == house.states(PETER) == ["connected"]
        house.time.now += LEAVING_SECONDS + 1
        assert house.states(ME) == []
        assert house.states(JOHN) == house.states(PETER) == ["connected"]

    def test_parked_event_names_no_call(self):
        """The event with the park place changes nothing: it does not say which call it was."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        house.registry.observe(ME, ParkedEvent(park_id=1))
        assert house.states(ME) == ["alerting"]


class TestOddEvents:
    """What servers leave out, repeat, or tell late."""

    @pytest.mark.parametrize(
        ("event", "state"),
        [
            (EstablishedEvent(connection=CALL), "connected"),
            (HeldEvent(connection=CALL, holding_device=ME), "hold"),
            (HeldEvent(connection=CALL, holding_device=PETER), "connected"),
            (HeldEvent(connection=CALL), "hold"),
            (RetrievedEvent(connection=CALL, retrieving_device=ME), "connected"),
            (RetrievedEvent(connection=CALL, retrieving_device=PETER), "connected"),
            (NetworkReachedEvent(connection=CALL), "connected"),
            (DeliveredEvent(connection=CALL), "alerting"),
            (FailedEvent(connection=CALL), "fail"),
            (TransferredEvent(connection=CALL, transferring_device=PETER), "connected"),
            (TransferredEvent(connection=CALL, transferring_device=ME), "null"),
        ],
        ids=lambda value: getattr(type(value), "wire_name", None),
    )
    def test_first_event_of_a_call(self, event, state):
        """A monitor may begin in the middle of a call: any event may be its first."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        registry.observe(ME, event)
        (call,) = registry.calls(ME)
        assert (call.state, call.direction, call.device_id) == (state, "", ME)
        assert call.since == call.started_at == NOW

    @pytest.mark.parametrize("word", ["", "ringing", "Connected", "null ", "\u0441onnected"])
    def test_words_that_are_no_states(self, word):
        """A state is one of ECMA-269, whatever word the server sends."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        for kind in (DeliveredEvent, OriginatedEvent, ServiceInitiatedEvent, HeldEvent):
            registry.observe(ME, kind(connection=CALL, local_connection_info=word))
            assert registry.calls(ME)[0].state in CONNECTION_STATES

    def test_somebody_else_leaves(self):
        """In a conference others leave, and the call goes on."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        call_id = house.only(ME).call_id
        house.registry.observe(ME, ConnectionClearedEvent(connection=ConnectionID(call_id, PETER)))
        assert house.states(ME) == ["alerting"]
        house.registry.observe(ME, ConnectionClearedEvent(connection=ConnectionID(call_id, "")))
        assert house.states(ME) == []

    def test_cleared_twice(self):
        """The end of a call may be told twice, and of a call that was never told of."""
        house = House()
        house.registry.observe(ME, ConnectionClearedEvent(connection=CALL))
        house.registry.observe(ME, ConnectionClearedEvent(connection=CALL))
        assert house.states(ME) == []

    def test_an_event_without_a_call(self):
        """An event that names no call is no call."""
        house = House()
        house.registry.observe(ME, DeliveredEvent(connection=ConnectionID(0, ME)))
        assert house.states(ME) == []

    def test_ids_that_are_texts(self):
        """Ids that are not numbers are kept as they are, apart from numbers that look alike."""
        house = House(text_call_ids=True)
        call, _ = house.do("make_call", PETER, ME)
        assert house.only(ME).call_id == call.party(ME).call_id == "c1"
        assert house.registry.find(ME, "c1") is house.only(ME)
        assert house.registry.find(ME, 1) is None

    def test_a_device_that_is_no_extension(self):
        """A call made from an outside number names that, and is the extension's all the same."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        connection = ConnectionID(7, OUTSIDE)
        registry.observe(
            ME, DeliveredEvent(connection=connection, calling_device=OUTSIDE, called_device="9")
        )
        (call,) = registry.calls(ME)
        assert (call.device_id, call.direction) == (OUTSIDE, "outgoing")
        registry.observe(ME, HeldEvent(connection=connection, holding_device=OUTSIDE))
        assert call.state == "hold"
        registry.observe(ME, ConnectionClearedEvent(connection=connection))
        assert registry.calls(ME) == []


class TestMemory:
    """What is kept, and for how long."""

    @pytest.mark.parametrize("more", [-1, 0, 1, 50])
    def test_calls_are_bounded(self, more):
        """Of an endless number of calls the latest are kept."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        for number in range(1, MAX_CALLS + more + 1):
            registry.observe(ME, DeliveredEvent(connection=ConnectionID(number, ME)))
        ids = [call.call_id for call in registry.calls(ME)]
        assert ids == list(range(max(more, 0) + 1, MAX_CALLS + more + 1))

    def test_calls_made_are_bounded(self):
        """Of an endless number of calls made the latest are known."""
        registry = CallRegistry(Time())
        for number in range(1, MAX_CALLS + 2):
            registry.made(ME, ConnectionID(number, OUTSIDE))
        assert registry.state_of(ME, ConnectionID(1, OUTSIDE)) is None
        assert registry.state_of(ME, ConnectionID(2, OUTSIDE)) == ""
        assert len(registry._made[ME]) == MAX_CALLS

    def test_a_snapshot_is_bounded(self):
        """A server that invents calls does not fill the memory."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        registry.found(ME, [DeviceCall(connection=ConnectionID(n, ME)) for n in range(1, 1000)])
        assert len(registry.calls(ME)) == MAX_CALLS

    def test_a_silent_call_ends_after_a_day(self):
        """A call without news for a day has ended unseen; news within the day keeps it."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        house.time.now += STALE_SECONDS
        assert house.states(ME) == ["alerting"]
        house.time.now += 1
        assert house.states(ME) == []

    def test_a_step_back_loses_nothing(self):
        """A clock that is set back neither ends calls nor breaks anything."""
        house = House()
        call, _ = house.do("call_in", OUTSIDE, ME)
        house.time.now -= 2 * STALE_SECONDS
        assert house.states(ME) == ["alerting"]
        house.do("answer", call, call.ringing)
        assert house.states(ME) == ["connected"]

    def test_nothing_is_kept_of_an_extension_that_is_not_watched(self):
        """Late events and late snapshots of somebody who has logged out leave nothing behind."""
        registry = CallRegistry(Time())
        registry.observe(ME, DeliveredEvent(connection=CALL))
        registry.observe(ME, ConnectionClearedEvent(connection=CALL))
        registry.found(ME, [DeviceCall(connection=CALL, state="connected")])
        assert registry.calls(ME) == []
        assert registry._calls == {}

    def test_forgetting(self):
        """After a logout nothing of the extension is known; a second time changes nothing."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        house.registry.made(ME, ConnectionID(99, ME))
        house.registry.forget(ME)
        house.registry.forget(ME)
        house.registry.watch(ME)
        assert house.states(ME) == []
        assert house.registry.state_of(ME, ConnectionID(99, ME)) is None


class TestSnapshot:
    """What the MX says of calls that began unseen."""

    def test_unknown_calls_are_added(self):
        """A call that no event told of is known from then on, with its state and no parties."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        registry.found(
            ME,
            [
                DeviceCall(connection=CALL, state="hold"),
                DeviceCall(connection=ConnectionID(40, ME)),
                DeviceCall(connection=ConnectionID(41, ME), state="null"),
            ],
        )
        assert [(call.call_id, call.state) for call in registry.calls(ME)] == [
            (39, "hold"),
            (40, "connected"),
        ]
        assert registry.calls(ME)[0].direction == ""

    def test_known_calls_stay_as_they_are(self):
        """What events told is not overwritten, but the call is known to be there still."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        house.time.now += STALE_SECONDS
        house.registry.found(
            ME, [DeviceCall(connection=ConnectionID(house.only(ME).call_id, ME), state="fail")]
        )
        house.time.now += STALE_SECONDS
        assert house.states(ME) == ["alerting"]
        assert house.parties(ME)[1] == OUTSIDE

    def test_a_call_that_had_left(self):
        """What the MX says the extension has, it has, though it seemed to have left."""
        registry = CallRegistry(Time())
        registry.watch(ME)
        registry.observe(ME, TransferredEvent(connection=CALL, transferring_device=ME))
        registry.found(ME, [DeviceCall(connection=CALL, state="hold")])
        (call,) = registry.calls(ME)
        assert (call.state, call.leaving) == ("hold", False)

    def test_after_the_mx_was_away(self):
        """Only calls that were told of since are kept; ids of made calls may be used anew."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        house.registry.made(ME, ConnectionID(99, OUTSIDE))
        lost_at = house.time.now
        house.time.now += 5
        house.do("call_in", "442079460112", ME)
        house.registry.forget_unheard(ME, lost_at)
        assert house.parties(ME)[1] == "442079460112"
        assert house.registry.state_of(ME, ConnectionID(99, OUTSIDE)) is None
        house.registry.forget_unheard("3042", lost_at)

    def test_an_id_that_is_used_anew(self):
        """After an outage a call has nothing of an older one of its id: it may be another call."""
        house = House()
        house.do("call_in", OUTSIDE, ME)
        before = house.only(ME)
        house.time.now += 5
        house.registry.forget_unheard(ME, house.time.now)
        found = DeviceCall(connection=ConnectionID(before.call_id, ME), state="connected")
        house.registry.found(ME, [found])
        call = house.only(ME)
        assert (call.call_id, call.started_at) == (before.call_id, house.time.now)
        assert (call.direction, call.calling_device, call.global_call_id) == ("", "", "")


numbers = st.sampled_from([*EXTENSIONS, OUTSIDE, "442079460112", "*86", "*771", "*772"])


class Company(RuleBasedStateMachine):
    """People press all buttons; the registry must know of each telephone what the MX knows."""

    @initialize(
        each=st.booleans(),
        leg=st.booleans(),
        cleared=st.booleans(),
        to=st.sampled_from(["own", "service"]),
        outgoing=st.sampled_from(["remote", "desk"]),
    )
    def begin(self, each, leg, cleared, to, outgoing):
        self.house = House(
            call_id_per_device=each,
            voicemail_leg_seen=leg,
            cleared_after_divert=cleared,
            voicemail_divert_to=to,
            outgoing=outgoing,
        )
        # Seen from where voicemail takes over untold, an extension cannot know that it has.
        self.may_linger = not leg and not cleared and to == "own"
        for ext in EXTENSIONS:
            self.house.board.company.put(attrs.evolve(self.house.board.company.user(ext), lines=3))

    def _try(self, operation, *args):
        with contextlib.suppress(CommandRefused):
            getattr(self.house.board, operation)(*args)
        self.house.tell()

    def _pick(self, data, ours=True):
        known = [
            (call, party)
            for call in self.house.board.calls
            for party in call.live
            if (party.number in EXTENSIONS) is ours
        ]
        return data.draw(st.sampled_from(known)) if known else None

    @rule(ext=st.sampled_from(EXTENSIONS), to=numbers)
    def dial(self, ext, to):
        self._try("make_call", ext, to)

    @rule(ext=st.sampled_from(EXTENSIONS))
    def call_in(self, ext):
        self._try("call_in", OUTSIDE, ext)

    @rule(
        data=st.data(),
        operation=st.sampled_from(["answer", "clear", "hold", "retrieve", "no_answer", "park"]),
    )
    def press(self, data, operation):
        if picked := self._pick(data):
            self._try(operation, *picked)

    @rule(
        data=st.data(), to=numbers, operation=st.sampled_from(["single_step_transfer", "deflect"])
    )
    def hand_on(self, data, to, operation):
        if picked := self._pick(data):
            self._try(operation, *picked, to)

    @rule(data=st.data())
    def join(self, data):
        held, active = self._pick(data), self._pick(data)
        if held and active:
            self._try("transfer", held, active)

    @rule(data=st.data(), active=st.booleans())
    def record(self, data, active):
        if picked := self._pick(data):
            self._try("record", *picked, active)

    @rule(ext=st.sampled_from(EXTENSIONS), call_id=st.integers(1, 20))
    def pick_up(self, ext, call_id):
        self._try("pick_up", ext, call_id)

    @rule(data=st.data(), operation=st.sampled_from(["answer", "clear"]))
    def outside_acts(self, data, operation):
        if picked := self._pick(data, ours=False):
            self._try(operation, *picked)

    @rule()
    def minutes_pass(self):
        self.house.time.now += LEAVING_SECONDS + 1

    @invariant()
    def telephones_are_known(self):
        """Each call of each telephone is known with its state; no call is known beyond them."""
        if not hasattr(self, "house"):
            return
        for ext in EXTENSIONS:
            known = {
                call.call_id: call.state
                for call in self.house.registry.calls(ext)
                if call.state != "null"
            }
            real = {call.connection.call_id: call.state for call in self.house.board.snapshot(ext)}
            if self.may_linger:
                known = {call_id: known[call_id] for call_id in known if call_id in real}
            assert known == real

    @invariant()
    def calls_that_have_left_are_leaving(self):
        """A call without a state of its own will be forgotten."""
        if hasattr(self, "house"):
            for ext in EXTENSIONS:
                for call in self.house.registry.calls(ext):
                    assert call.leaving or call.state != "null"
                    assert call.state in set(State) - {""}


TestCompany = Company.TestCase


# --- Commands -----------------------------------------------------------------------------------

USER = Identity(
    mx="63022",
    ext=ME,
    jid=43884851147406145,
    expires_at=int(NOW) + 3600,
    auth_time=int(NOW),
)


class Office:
    """Call control over a link to an MX in memory, with the user's extension watched."""

    def __init__(self, restrict=True, watched=(ME,)):
        self.mx = MemoryMX([person(ME), person(PETER), person("30-98"), person("")])
        self.registry = CallRegistry(self.mx.clock.seconds)
        self.calls = Calls(self.mx.link, self.registry, restrict)
        self.mx.link.listen(self)
        self.mx.start()
        for ext in watched:
            self.calls.watch(ext)
            self.result(self.mx.link.monitors.start(ext))
        self.mx.commands.clear()

    def call_event(self, ext, event):
        self.calls.observe(ext, event)

    def link_up(self):
        pass

    def link_down(self):
        pass

    def result(self, coroutine):
        """Give the result of a coroutine that must have one once the MX has answered."""
        return now(self.mx.run(coroutine))

    def ring(self, ext=ME, call_id=39):
        self.mx.send(
            ext,
            DeliveredEvent(
                connection=ConnectionID(call_id, ext),
                alerting_device=ext,
                calling_device=OUTSIDE,
                called_device=ext,
            ),
        )

    def talk(self, ext=ME, call_id=39):
        self.ring(ext, call_id)
        self.mx.send(
            ext, EstablishedEvent(connection=ConnectionID(call_id, ext), answering_device=ext)
        )

    @property
    def sent(self):
        """The types of the commands that came, without questions."""
        return [type(c) for c in self.mx.commands if not isinstance(c, SnapshotDevice)]


def now(deferred):
    """Give the result of a Deferred that has fired, or raise its failure."""
    results = []
    deferred.addBoth(results.append)
    assert results, "has not fired"
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


def has_fired(deferred):
    return deferred.called


@pytest.fixture
def make_office():
    """Give a function that makes an office; all are closed at the end."""
    offices = []

    def make(**options):
        offices.append(Office(**options))
        return offices[-1]

    yield make
    for office in offices:
        office.mx.stop()


@pytest.fixture
def office(make_office):
    return make_office()


COMMANDS = {
    "answer": ((), AnswerCall, EstablishedEvent),
    "hang_up": ((), ClearConnection, ConnectionClearedEvent),
    "hold": ((), HoldCall, HeldEvent),
    "retrieve": ((), RetrieveCall, RetrievedEvent),
    "deflect": ((PETER,), DeflectCall, DivertedEvent),
    "park": ((), ParkCall, None),
    "transfer": ((PETER,), SingleStepTransferCall, TransferredEvent),
    "start_recording": ((), StartRecording, RecordingStateEvent),
    "stop_recording": ((), StopRecording, RecordingStateEvent),
}
each_command = pytest.mark.parametrize("name", COMMANDS)


class TestCommands:
    """Commands on one call of the user's."""

    @each_command
    def test_is_sent_for_the_own_call(self, office, name):
        """The command names the connection and the destination, and ends when the MX answers."""
        arguments, kind, _ = COMMANDS[name]
        office.ring()
        office.result(getattr(office.calls, name)(USER, CALL, *arguments))
        (command,) = office.mx.commands
        assert type(command) is kind
        assert command.connection == CALL
        assert not arguments or command.destination == PETER

    @each_command
    def test_refusal_has_the_words_of_the_mx(self, office, name):
        """What the MX refuses fails with its words."""
        arguments, kind, _ = COMMANDS[name]
        office.ring()
        office.mx.refuse[kind] = CSTAError(text="invalidConnectionState", category="operation")
        with pytest.raises(CommandRefused, match="invalidConnectionState"):
            office.result(getattr(office.calls, name)(USER, CALL, *arguments))

    @each_command
    def test_no_answer(self, office, name):
        """Without answer and without event the command times out."""
        arguments, kind, _ = COMMANDS[name]
        office.ring()
        office.mx.hold.add(kind)
        running = office.mx.run(getattr(office.calls, name)(USER, CALL, *arguments))
        office.mx.clock.advance(6.9)
        assert not has_fired(running)
        office.mx.clock.advance(0.1)
        with pytest.raises(MXTimeout):
            now(running)

    @each_command
    def test_link_down(self, office, name):
        """While the MX is away every command fails at once, the unknown call's too."""
        arguments, _, _ = COMMANDS[name]
        office.mx.reachable = False
        office.mx.lose()
        for connection in (CALL, ConnectionID(7, "1")):
            with pytest.raises(MXUnavailable):
                now(office.mx.run(getattr(office.calls, name)(USER, connection, *arguments)))
        with pytest.raises(MXUnavailable):
            now(office.mx.run(office.calls.make(USER, OUTSIDE, "")))

    @each_command
    def test_confirmed_by_its_event(self, office, name):
        """An event that shows the command was carried out is as good as the answer."""
        arguments, kind, event = COMMANDS[name]
        office.ring()
        office.mx.hold.add(kind)
        running = office.mx.run(getattr(office.calls, name)(USER, CALL, *arguments))
        if event is None:
            office.mx.answer()
        else:
            extra = {"active": name == "start_recording"} if "recording" in name else {}
            office.mx.send(ME, event(connection=CALL, **extra))
        assert has_fired(running)
        now(running)

    @each_command
    def test_not_confirmed_by_others(self, office, name):
        """Events of other calls, monitors and kinds do not confirm, nor does the opposite one."""
        arguments, kind, event = COMMANDS[name]
        office.ring()
        office.mx.hold.add(kind)
        running = office.mx.run(getattr(office.calls, name)(USER, CALL, *arguments))
        kinds = {event for _, _, event in COMMANDS.values() if event is not None}
        for other in sorted(kinds, key=str):
            office.mx.send(ME, other(connection=ConnectionID(40, ME)))
            office.mx.send_as("77", other(connection=CALL))
            office.mx.send_as("", other(connection=CALL))
            if other is not event and other is not ConnectionClearedEvent:
                office.mx.send(ME, other(connection=CALL))
        if "recording" in name:
            opposite = RecordingStateEvent(connection=CALL, active=name != "start_recording")
            office.mx.send(ME, opposite)
        assert not has_fired(running)
        office.mx.answer()
        now(running)

    def test_refused_after_others_were_confirmed(self, office):
        """Of two commands in flight each has its own end."""
        office.ring()
        office.ring(call_id=40)
        office.mx.hold.add(ClearConnection)
        first = office.mx.run(office.calls.hang_up(USER, CALL))
        second = office.mx.run(office.calls.hang_up(USER, ConnectionID(40, ME)))
        office.mx.send(ME, ConnectionClearedEvent(connection=ConnectionID(40, ME)))
        assert (has_fired(first), has_fired(second)) == (False, True)
        office.mx.answer(CSTAError(text="no"))
        with pytest.raises(CommandRefused, match="no"):
            now(first)

    def test_state_is_true_before_the_command_ends(self, office):
        """Whoever awaited a command that its event confirmed finds the call changed."""
        office.talk()
        office.mx.hold.add(HoldCall)
        states = []
        running = office.mx.run(office.calls.hold(USER, CALL))
        running.addCallback(lambda _: states.append(office.calls.of(USER)[0].state))
        office.mx.send(ME, HeldEvent(connection=CALL, holding_device=ME))
        assert states == ["hold"]

    def test_transfer_consult(self, office):
        """Both calls are named, the held one first."""
        office.talk()
        office.talk(call_id=40)
        active = ConnectionID(40, ME)
        office.result(office.calls.transfer_consult(USER, CALL, active))
        assert office.mx.commands == [TransferCall(connection=CALL, active=active)]


class TestHold:
    """Hold is a switch: on a held call it retrieves."""

    def test_back_and_forth(self, office):
        """Each press does the opposite of what the events say is."""
        office.talk()
        for event in (HeldEvent, RetrievedEvent, HeldEvent):
            office.result(office.calls.hold(USER, CALL))
            office.mx.send(ME, event(connection=CALL))
        assert office.sent == [HoldCall, RetrieveCall, HoldCall]

    def test_held_by_the_other(self, office):
        """A call that the other party holds is not held here."""
        office.talk()
        office.mx.send(ME, HeldEvent(connection=CALL, holding_device=OUTSIDE))
        office.result(office.calls.hold(USER, CALL))
        assert office.sent == [HoldCall]

    @pytest.mark.parametrize(("state", "kind"), [("hold", RetrieveCall), ("connected", HoldCall)])
    @pytest.mark.parametrize("watched", [(ME,), ()])
    def test_a_call_from_before(self, make_office, state, kind, watched):
        """Of a call that began unseen the MX is asked once, and the answer decides."""
        office = make_office(watched=watched)
        office.mx.calls[ME] = [DeviceCall(connection=CALL, state=state)]
        office.result(office.calls.hold(USER, CALL))
        assert office.sent == [kind]
        assert office.mx.count(SnapshotDevice) == 1

    @pytest.mark.parametrize(("mine", "theirs"), [("hold", "connected"), ("connected", "hold")])
    def test_of_another_extension(self, make_office, mine, theirs):
        """Without the restriction, the state at the named device decides, not the user's own."""
        office = make_office(restrict=False, watched=(ME, PETER))
        for ext, state in ((ME, mine), (PETER, theirs)):
            office.talk(ext)
            if state == "hold":
                office.mx.send(ext, HeldEvent(connection=ConnectionID(39, ext), holding_device=ext))
        office.result(office.calls.hold(USER, ConnectionID(39, PETER)))
        assert office.sent == [RetrieveCall if theirs == "hold" else HoldCall]


class TestWhoseCall:
    """A user acts on calls of the own extension alone."""

    @each_command
    @pytest.mark.parametrize(
        "connection",
        [
            ConnectionID(39, PETER),
            ConnectionID(40, ME),
            ConnectionID(40, PETER),
            ConnectionID(0, ME),
            ConnectionID(39, "+3095"),
            ConnectionID(39, ""),
            ConnectionID("39", ME),
        ],
        ids=str,
    )
    def test_calls_of_others(self, office, name, connection):
        """Another call, or the right call at another device, is refused and nothing is sent."""
        arguments, _, _ = COMMANDS[name]
        office.talk()
        office.mx.calls[ME] = [DeviceCall(connection=CALL, state="connected")]
        office.mx.calls[PETER] = [DeviceCall(connection=ConnectionID(40, PETER))]
        with pytest.raises(Forbidden):
            office.result(getattr(office.calls, name)(USER, connection, *arguments))
        assert office.sent == []

    def test_both_calls_of_a_transfer(self, office):
        """Neither the held nor the active call of a transfer may be somebody else's."""
        office.talk()
        other = ConnectionID(40, PETER)
        for held, active in ((CALL, other), (other, CALL)):
            with pytest.raises(Forbidden):
                office.result(office.calls.transfer_consult(USER, held, active))
        assert office.sent == []

    @each_command
    def test_an_unknown_call_is_looked_up(self, office, name):
        """A call that began unseen is the user's if the MX says so."""
        arguments, kind, _ = COMMANDS[name]
        office.mx.calls[ME] = [DeviceCall(connection=CALL, state="connected")]
        office.result(getattr(office.calls, name)(USER, CALL, *arguments))
        assert [type(command) for command in office.mx.commands] == [SnapshotDevice, kind]
        assert office.mx.commands[0].device == ME
        assert [call.call_id for call in office.calls.of(USER)] == [39]

    def test_a_known_call_is_not(self, office):
        """Of a call that events told of nothing is asked."""
        office.ring()
        office.result(office.calls.hang_up(USER, CALL))
        assert office.mx.count(SnapshotDevice) == 0

    def test_after_a_logout(self, make_office):
        """Tokens outlive the logout: the MX decides, and nothing of the call is kept."""
        office = make_office(watched=())
        office.mx.calls[ME] = [DeviceCall(connection=CALL, state="connected")]
        office.result(office.calls.hang_up(USER, CALL))
        assert office.sent == [ClearConnection]
        assert office.calls.of(USER) == []
        office.calls.watch(ME)
        assert office.calls.of(USER) == []

    @pytest.mark.parametrize(
        "answer",
        [
            CSTAError(text="serviceNotSupported"),
            SnapshotDeviceResponse(),
            Acknowledgement(name="Whatever"),
        ],
        ids=lambda answer: type(answer).__name__,
    )
    def test_an_mx_without_snapshots(self, office, answer):
        """Where the MX cannot say whose call it is, it is not the user's."""
        office.mx.refuse[SnapshotDevice] = answer
        with pytest.raises(Forbidden):
            office.result(office.calls.hang_up(USER, CALL))
        assert office.sent == []

    def test_a_call_just_made(self, office):
        """A call made here is the user's before the first event of it, by either device."""
        made = MakeCallResponse(connection=ConnectionID(38, OUTSIDE), called="79031744445")
        office.mx.refuse[MakeCall] = made
        office.result(office.calls.make(USER, "79031744445", OUTSIDE))
        for device in (OUTSIDE, ME):
            office.result(office.calls.hang_up(USER, ConnectionID(38, device)))
        assert office.sent == [MakeCall, ClearConnection, ClearConnection]
        assert office.calls.of(USER) == []
        with pytest.raises(Forbidden):
            office.result(office.calls.hang_up(USER, ConnectionID(38, PETER)))

    def test_a_call_made_and_ended(self, office):
        """With its end a call made here is nobody's: its id may be used again."""
        office.mx.refuse[MakeCall] = MakeCallResponse(connection=ConnectionID(39, OUTSIDE))
        office.result(office.calls.make(USER, "79031744445", OUTSIDE))
        office.ring()
        office.mx.send(ME, ConnectionClearedEvent(connection=CALL))
        with pytest.raises(Forbidden):
            office.result(office.calls.hang_up(USER, ConnectionID(39, OUTSIDE)))

    def test_without_the_restriction(self, make_office):
        """With `restrict: false` any call may be acted on, and nobody is asked whose it is."""
        office = make_office(restrict=False)
        office.result(office.calls.hang_up(USER, ConnectionID(40, PETER)))
        office.result(
            office.calls.transfer_consult(USER, ConnectionID(1, PETER), ConnectionID(2, PETER))
        )
        assert office.sent == [ClearConnection, TransferCall]
        assert office.mx.count(SnapshotDevice) == 0


class TestMake:
    """Making calls."""

    def test_from_the_own_extension(self, office):
        """Without `from`, the user's extension calls; the answer is what the MX said."""
        office.mx.refuse[MakeCall] = MakeCallResponse(
            connection=ConnectionID(38, ME), called="79031744445"
        )
        made = office.result(office.calls.make(USER, "+79031744445", ""))
        assert office.mx.commands == [MakeCall(calling_device=ME, called="+79031744445")]
        assert (made.connection, made.called) == (ConnectionID(38, ME), "79031744445")

    def test_what_the_answer_leaves_out(self, office):
        """Where the MX names no device and no number, they are those that were asked for."""
        office.mx.refuse[MakeCall] = MakeCallResponse(connection=ConnectionID(38))
        made = office.result(office.calls.make(USER, "+79031744445", ""))
        assert (made.connection, made.called) == (ConnectionID(38, ME), "+79031744445")

    def test_an_answer_without_a_call(self, office):
        """An MX that names no call made none that anybody may act on."""
        office.mx.refuse[MakeCall] = MakeCallResponse()
        office.result(office.calls.make(USER, "+79031744445", ""))
        with pytest.raises(Forbidden):
            office.result(office.calls.hang_up(USER, ConnectionID(0, ME)))

    def test_an_answer_that_is_none(self, office):
        """An answer that cannot be understood is an error of the MX."""
        office.mx.refuse[MakeCall] = SnapshotDeviceResponse()
        with pytest.raises(MXError):
            office.result(office.calls.make(USER, OUTSIDE, ""))

    def test_refused(self, office):
        """What the MX refuses fails with its words, and no call is remembered."""
        office.mx.refuse[MakeCall] = CSTAError(text="URM Denied")
        with pytest.raises(CommandRefused, match="URM Denied"):
            office.result(office.calls.make(USER, OUTSIDE, ""))
        assert office.registry._made == {}

    @pytest.mark.parametrize(
        "calling", ["3095", " 3095", "30 95", "3-095", "(3095)", "+3095", "3095\n", "30\u00a095"]
    )
    def test_spellings_of_the_own_extension(self, office, calling):
        """However the own extension is written, the MX gets it as it knows it."""
        office.result(office.calls.make(USER, OUTSIDE, calling))
        assert office.mx.commands[0].calling_device == ME

    @pytest.mark.parametrize(
        ("calling", "sent"),
        [
            ("79031234567", "79031234567"),
            ("+79031234567", "+79031234567"),
            ("+7 (903) 123-45-67", "+79031234567"),
            ("7.903.123/4567", "79031234567"),
            ("30440", "30440"),
            ("13044", "13044"),
        ],
    )
    def test_outside_numbers(self, office, calling, sent):
        """An outside number may call; the MX gets it without what is there for the eye."""
        office.result(office.calls.make(USER, OUTSIDE, calling))
        assert office.mx.commands[0].calling_device == sent

    @pytest.mark.parametrize(
        "calling",
        [
            "3044",
            "30 44",
            " 3044 ",
            "+3044",
            "(30)44",
            "3044;x",
            "3044,1",
            "30\u200b44",
            "\uff13\uff10\uff14\uff14",
            "\u0663\u0660\u0664\u0664",
            "tel:3044",
            "3044@mx",
            "++3044",
            "+ 3044",
            "3098",
            "+30-98",
            "*86",
            "*773044",
            "#3044",
            "anna",
            "()",
            "+",
            "-",
            " ",
            "<callingDevice>3044</callingDevice>",
        ],
    )
    def test_extensions_of_others(self, office, calling):
        """However somebody else's extension is written, and whatever is no number, is refused."""
        with pytest.raises(Forbidden):
            office.result(office.calls.make(USER, OUTSIDE, calling))
        assert office.mx.commands == []

    def test_before_the_book_is_read(self, office):
        """As long as it is not known whose extensions there are, only the own one may call."""
        office.mx.link.address_book.loaded = False
        office.result(office.calls.make(USER, OUTSIDE, ""))
        office.result(office.calls.make(USER, OUTSIDE, "30 95"))
        with pytest.raises(MXUnavailable):
            office.result(office.calls.make(USER, OUTSIDE, "79031234567"))
        assert office.sent == [MakeCall, MakeCall]

    @pytest.mark.parametrize("calling", ["3044", "30 44", "*86", "anna"])
    def test_without_the_restriction(self, make_office, calling):
        """With `restrict: false` any device may call, and is named as it was written."""
        office = make_office(restrict=False)
        office.result(office.calls.make(USER, OUTSIDE, calling))
        assert office.mx.commands[0].calling_device == calling


class TestRefresh:
    """What the MX is asked in the background."""

    def test_the_answer_is_known(self, office):
        """After a refresh the calls that began unseen are known."""
        office.mx.calls[ME] = [DeviceCall(connection=CALL, state="hold")]
        office.calls.refresh(ME)
        office.mx.pump()
        assert [call.state for call in office.calls.of(USER)] == ["hold"]

    @pytest.mark.parametrize("fault", ["refused", "silent", "lost"])
    def test_failures_are_nobodys_affair(self, office, fault):
        """An MX that cannot say which calls there are changes nothing."""
        if fault == "refused":
            office.mx.refuse[SnapshotDevice] = CSTAError(text="serviceNotSupported")
        else:
            office.mx.hold.add(SnapshotDevice)
        office.calls.refresh(ME)
        office.mx.pump()
        if fault == "silent":
            office.mx.clock.advance(8)
        elif fault == "lost":
            office.mx.reachable = False
            office.mx.lose()
            office.calls.refresh(ME)
        assert office.calls.of(USER) == []

    def test_an_answer_behind_a_logout(self, office):
        """What the MX says of an extension that was logged out meanwhile is not kept."""
        office.mx.hold.add(SnapshotDevice)
        office.mx.calls[ME] = [DeviceCall(connection=CALL, state="hold")]
        office.calls.refresh(ME)
        office.mx.pump()
        office.calls.forget(ME)
        office.mx.answer()
        office.calls.watch(ME)
        assert office.calls.of(USER) == []

    def test_thousands_are_asked_for_a_few_at_a_time(self, office):
        """However many extensions are asked for, the MX gets a bounded number of questions."""
        office.mx.hold.add(SnapshotDevice)
        for number in range(1000, 3000):
            office.calls.watch(str(number))
            office.calls.refresh(str(number))
        office.mx.pump()
        assert len(office.mx.held) == REFRESH_AT_ONCE
        while office.mx.held:
            assert len(office.mx.held) <= REFRESH_AT_ONCE
            office.mx.answer()
        assert office.mx.count(SnapshotDevice) == 2000
