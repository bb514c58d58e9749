"""Telephones that nobody holds: they answer, hang up and are given up after a time.

Without them a call to an outside number would ring for ever. Tests leave the times at None and do
all of it themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mxflex.errors import CommandRefused
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.switchboard import Call, Party, State, Switchboard

log = Logger()

_Operation = Callable[[Call, Party], None]


@attrs.define(eq=False)
class Telephones:
    """Acts for the telephones of a switchboard.

    Args:
        clock: Where the times run.
        switchboard: The calls.
        behaviour: The times.
        deliver: Sends the events of an action.
    """

    clock: IReactorTime
    switchboard: Switchboard
    behaviour: Behaviour
    deliver: Callable[[], None]
    # Calls that a script leads from begin to end.
    led: set[Call] = attrs.field(factory=set)
    _timers: dict[tuple[Party, State], IDelayedCall] = attrs.field(factory=dict)

    def look(self) -> None:
        """Start the times of telephones that began to ring or talk, and forget the others."""
        waiting = {}
        self.led.intersection_update(self.switchboard.calls)
        for call in self.switchboard.calls:
            if call not in self.led:
                for party in call.live:
                    waiting[party, party.state] = call
        for key in [key for key in self._timers if key not in waiting]:
            self._cancel(key)
        for key, call in waiting.items():
            if key not in self._timers:
                self._start(call, *key)

    def stop(self) -> None:
        """Forget all of them."""
        for key in list(self._timers):
            self._cancel(key)

    def _cancel(self, key: tuple[Party, State]) -> None:
        timer = self._timers.pop(key)
        if timer.active():
            timer.cancel()

    def _start(self, call: Call, party: Party, state: State) -> None:
        plan = self._plan(call, party, state)
        if plan is not None:
            seconds, operation = plan
            self._timers[party, state] = self.clock.callLater(
                seconds, self._act, call, party, operation
            )

    def _plan(self, call: Call, party: Party, state: State) -> tuple[float, _Operation] | None:
        board, behaviour = self.switchboard, self.behaviour
        user = board.company.user(party.number)
        if state is State.ALERTING and user is not None:
            choices: list[tuple[float | None, _Operation]] = [
                (user.answers_after, board.answer),
                (behaviour.no_answer_after, board.no_answer),
            ]
            times = [(seconds, act) for seconds, act in choices if seconds is not None]
            return min(times, key=lambda plan: plan[0], default=None)
        if user is not None or board.company.service(party.number) is not None:
            return None
        seconds = board.company.outside_party(party.number).answers_after
        if state is State.ALERTING:
            seconds = behaviour.outside_answers_after if seconds is None else seconds
            return None if seconds is None else (seconds, board.answer)
        seconds = behaviour.outside_hangs_up_after
        if state is State.CONNECTED and call.ringing is None and seconds is not None:
            return seconds, board.clear
        return None

    def _act(self, call: Call, party: Party, operation: _Operation) -> None:
        try:
            operation(call, party)
        except CommandRefused as refused:
            log.debug("a telephone could not act: {reason}", reason=str(refused))
        self.deliver()
