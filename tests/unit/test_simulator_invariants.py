"""Whatever is done to the simulator's calls, in whatever order, they stay calls."""

from __future__ import annotations

import contextlib

import attrs
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxflex.errors import CommandRefused
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import example_company
from mxflex.simulator.mail import MailIncomingReady
from mxflex.simulator.switchboard import DeviceNotice, State, Switchboard
from mxflex.wire.messages import (
    ConnectionClearedEvent,
    DeliveredEvent,
    EstablishedEvent,
    OriginatedEvent,
    ParkedEvent,
    RetrievedEvent,
)

EXTENSIONS = ("3044", "3095", "3098", "3099")
OUTSIDE = ("12025550104", "442079460112")
extensions = st.sampled_from(EXTENSIONS)
numbers = st.sampled_from([*EXTENSIONS, *OUTSIDE, "*86", "*771", "*772", "3999"])


class Telephones(RuleBasedStateMachine):
    """People press all buttons of their telephones.

    The machine knows only what the events of each device have told. That must be enough to know
    which calls the device has: no event may come for a call that the device was never told of or
    has been told the end of, and no call may vanish untold.
    """

    @initialize(each=st.booleans(), leg=st.booleans(), causes=st.sampled_from(["normal", "ecma"]))
    def begin(self, each, leg, causes):
        self.board = Switchboard(
            example_company(),
            Behaviour(call_id_per_device=each, voicemail_leg_seen=leg, causes=causes),
        )
        self.told: set[tuple[str, int]] = set()
        for ext in EXTENSIONS:
            self.board.company.put(attrs.evolve(self.board.company.user(ext), lines=3))

    def _pick(self, data):
        """Choose any device's part in any call, by what a client could know."""
        known = [
            (call, party)
            for call in self.board.calls
            for party in call.parties
            if party.number in EXTENSIONS
        ]
        return data.draw(st.sampled_from(known)) if known else None

    def _try(self, operation):
        """Do it, or be refused; a refusal must change nothing and tell nothing."""
        before = self._picture()
        done = False
        with contextlib.suppress(CommandRefused):
            operation()
            done = True
        heard = self._listen()
        assert done or (heard == 0 and self._picture() == before)

    def _picture(self):
        return [
            (call.counter, [(p.number, p.state, p.recording) for p in call.parties])
            for call in self.board.calls
        ]

    def _listen(self):
        heard = 0
        for notice in self.board.drain():
            if not isinstance(notice, DeviceNotice):
                continue
            heard += 1
            event = notice.event
            assert notice.device in EXTENSIONS
            if isinstance(event, MailIncomingReady | ParkedEvent):
                continue
            key = (notice.device, event.connection.call_id)
            assert event.connection.device_id == notice.device
            if isinstance(event, OriginatedEvent | DeliveredEvent):
                self.told.add(key)
            elif isinstance(event, EstablishedEvent | RetrievedEvent):
                # A parked call may come to a device that has never seen it.
                self.told.add(key)
            else:
                assert key in self.told, event
            if isinstance(event, ConnectionClearedEvent):
                self.told.remove(key)
        return heard

    @rule(ext=extensions, to=numbers)
    def dial(self, ext, to):
        self._try(lambda: self.board.make_call(ext, to))

    @rule(caller=st.sampled_from(OUTSIDE), ext=extensions)
    def call_in(self, caller, ext):
        self._try(lambda: self.board.call_in(caller, ext))

    @rule(data=st.data(), operation=st.sampled_from(["answer", "clear", "hold", "retrieve"]))
    def press(self, data, operation):
        if picked := self._pick(data):
            self._try(lambda: getattr(self.board, operation)(*picked))

    @rule(data=st.data(), operation=st.sampled_from(["no_answer", "park"]))
    def send_away(self, data, operation):
        if picked := self._pick(data):
            self._try(lambda: getattr(self.board, operation)(*picked))

    @rule(
        data=st.data(), to=numbers, operation=st.sampled_from(["single_step_transfer", "deflect"])
    )
    def hand_on(self, data, to, operation):
        if picked := self._pick(data):
            self._try(lambda: getattr(self.board, operation)(*picked, to))

    @rule(data=st.data())
    def join(self, data):
        held, active = self._pick(data), self._pick(data)
        if held and active:
            self._try(lambda: self.board.transfer(held, active))

    @rule(data=st.data(), active=st.booleans())
    def record(self, data, active):
        if picked := self._pick(data):
            self._try(lambda: self.board.record(*picked, active=active))

    @rule(ext=extensions, call_id=st.integers(1, 20))
    def pick_up(self, ext, call_id):
        self._try(lambda: self.board.pick_up(ext, call_id))

    @rule(data=st.data())
    def outside_acts(self, data):
        """The other side, outside, answers, hangs up, or proves busy."""
        known = [
            (call, party)
            for call in self.board.calls
            for party in call.live
            if party.number in OUTSIDE
        ]
        if not known:
            return
        call, party = data.draw(st.sampled_from(known))
        operation = data.draw(st.sampled_from(["answer", "clear", "fail"]))
        if operation == "fail":
            self._try(lambda: self.board.fail(call))
        else:
            self._try(lambda: getattr(self.board, operation)(call, party))

    @invariant()
    def every_call_has_two_ends(self):
        """No dangling calls, at most one telephone of a call rings, nobody calls himself."""
        for call in self.board.calls:
            assert len(call.live) == 2
            assert sum(party.state is State.ALERTING for party in call.live) <= 1
            assert len({party.number for party in call.parties}) == len(call.parties)

    @invariant()
    def a_telephone_talks_on_one_call(self):
        """A device is connected in one call at most."""
        for ext in EXTENSIONS:
            talks = [
                call
                for call in self.board.calls
                for party in call.live
                if party.number == ext and party.state is State.CONNECTED
            ]
            assert len(talks) <= 1

    @invariant()
    def devices_know_their_calls(self):
        """What the events told is what the calls are."""
        real = {
            (party.number, party.call_id)
            for call in self.board.calls
            for party in call.parties
            if party.number in EXTENSIONS
        }
        assert self.told == real

    def teardown(self):
        """Every call can be ended, and then nothing is left."""
        if not hasattr(self, "board"):
            return
        while self.board.calls:
            call = self.board.calls[0]
            with contextlib.suppress(CommandRefused):
                self.board.clear(call, call.live[0])
        self._listen()
        assert self.told == set()


TestTelephones = Telephones.TestCase
