"""Lets things happen on a `SimulatedMX`: whole scripts, and single steps of whoever is at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import CommandRefused
from mxflex.simulator.company import dialled
from mxflex.simulator.scenario import (
    AddUser,
    At,
    ChangeUser,
    DeleteUser,
    Dial,
    ForceLogout,
    Script,
    SetPresence,
    Step,
    Towards,
    Wait,
)
from mxflex.simulator.server import SimulatedMX
from mxflex.simulator.switchboard import Call, Party, State, Switchboard

log = Logger()

Operation = Callable[[Switchboard, Call, Party], object]

# What one telephone does with its call, and the states in which its call must be; () for any.
OPERATIONS: Final[dict[str, tuple[tuple[State, ...], Operation]]] = {
    "answer": ((State.ALERTING,), Switchboard.answer),
    "no_answer": ((State.ALERTING,), Switchboard.no_answer),
    "fail": ((State.ALERTING,), lambda board, call, _party: board.fail(call)),
    "hang_up": ((), Switchboard.clear),
    "hold": ((State.CONNECTED,), Switchboard.hold),
    "retrieve": ((State.HOLD,), Switchboard.retrieve),
    "park": ((State.CONNECTED,), Switchboard.park),
    "record": (
        (State.CONNECTED,),
        lambda board, call, party: board.record(call, party, active=True),
    ),
    "stop_recording": (
        (State.CONNECTED,),
        lambda board, call, party: board.record(call, party, active=False),
    ),
}
# The same for those that send their call, or themselves, to somebody else.
TOWARDS_STATES: Final[dict[str, tuple[State, ...]]] = {
    "transfer": (State.CONNECTED,),
    "deflect": (State.ALERTING,),
    "consult": (State.CONNECTED, State.HOLD),
}


class NotThere(Exception):
    """A step cannot be done: there is no such call, or the telephone is in use."""


class Actor:
    """Does steps with some of the calls of an MX.

    Args:
        mx: Where they happen.
        calls: The calls in question, the latest last; those that begin here are added.
    """

    def __init__(self, mx: SimulatedMX, calls: Iterable[Call] = ()) -> None:
        self.mx = mx
        self.calls = list(calls)

    def do(self, step: Step, turn: int = 0) -> None:
        """Do one step, other than `Wait`.

        Args:
            step: What.
            turn: Which of several numbers calls or is called, counted from 0.

        Raises:
            NotThere: There is no such call, or the telephone is in use.
            CommandRefused: The MX would refuse it.
        """
        mx = self.mx
        match step:
            case Dial():
                caller, to = (numbers[turn % len(numbers)] for numbers in (step.callers, step.to))
                self._dial(caller, to, step.name)
            case At():
                self._at(step)
            case Towards():
                self._towards(step)
            case SetPresence():
                mx.set_presence(step.ext, step.status, step.note)
            case ChangeUser():
                mx.update_user(attrs.evolve(mx.user(step.ext), **dict(step.fields)))
            case AddUser():
                mx.add_user(step.user)
            case DeleteUser():
                mx.delete_user(step.ext)
            case ForceLogout():
                mx.force_logout(step.session_type)

    def leave_alone(self, number: str) -> None:
        """Refuse to touch a telephone that is not ours; whoever is at hand may touch all."""

    def _lead(self, call: Call) -> None:
        """Take charge of a call before anybody else thinks that it is left to itself."""
        self.calls.append(call)
        self.mx.telephones.led.add(call)
        self.mx.deliver()

    def _dial(self, caller: str, to: str, name: str) -> None:
        board = self.mx.switchboard
        for number in (caller, to):
            if self.mx.company.user(number) is not None:
                self.leave_alone(number)
        if self.mx.company.user(caller) is None:
            self._lead(board.call_in(caller, to, name)[0])
        else:
            self._lead(board.make_call(caller, to)[0])

    def mine(self, number: str, *states: State) -> tuple[Call, Party]:
        """Give the latest of the calls in which a number takes part in one of these states.

        Raises:
            NotThere: There is none.
        """
        found = set()
        for call in reversed(self.calls):
            party = call.party(dialled(number))
            # One that was joined to another still has parties, and is none any more.
            is_there = call in self.mx.switchboard.calls
            if is_there and party is not None and party in call.live:
                if not states or party.state in states:
                    return call, party
                found.add(party.state)
        wanted = f" that is {' or '.join(states)}" if states else ""
        instead = f", only one that is {' or '.join(sorted(found))}" if found else ""
        raise NotThere(f"{number} has no call{wanted}{instead}")

    def _at(self, step: At) -> None:
        board, number = self.mx.switchboard, step.number
        match step.action:
            case "join":
                board.transfer(self.mine(number, State.HOLD), self.mine(number, State.CONNECTED))
            case "pick_up":
                self.leave_alone(number)
                board.pick_up(number, self._parked())
            case _:
                self._operate(step)
        self.mx.deliver()

    def _operate(self, step: At) -> None:
        states, operation = OPERATIONS[step.action]
        found = self.mine(step.number, *states)
        if step.action == "answer":
            self.leave_alone(step.number)
        operation(self.mx.switchboard, *found)

    def _parked(self) -> int | str:
        for call in self.calls:
            if call.parked_ids:
                return call.parked_ids[0]
        raise NotThere("no call is parked")

    def _towards(self, step: Towards) -> None:
        board = self.mx.switchboard
        self.leave_alone(step.to)
        call, party = self.mine(step.number, *TOWARDS_STATES[step.action])
        match step.action:
            case "transfer":
                board.single_step_transfer(call, party, step.to)
            case "deflect":
                board.deflect(call, party, step.to)
            case "consult":
                self._lead(board.make_call(step.number, step.to)[0])
        self.mx.deliver()


class _Run(Actor):
    """One run of one script, with the calls that it leads.

    People who work with the simulator come first: it leaves a telephone alone that somebody uses,
    and when somebody hangs up its call, it is over.
    """

    def __init__(
        self, mx: SimulatedMX, turn: int, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        super().__init__(mx)
        self._turn = turn
        self._sleep = sleep

    async def play(self, script: Script) -> str:
        """Do all steps; leave no call behind, whatever happens.

        Returns:
            Why it ended before its last step; "" when it did not.
        """
        try:
            for number, step in enumerate(script.steps, 1):
                try:
                    if isinstance(step, Wait):
                        await self._sleep(step.seconds)
                    else:
                        self.do(step, self._turn)
                except (CommandRefused, NotThere) as reason:
                    log.debug(
                        "script {name} stops early: {reason}", name=script.name, reason=str(reason)
                    )
                    return f"step {number}: {reason}"
        finally:
            for call in self.calls:
                self._end(call)
        return ""

    def _end(self, call: Call) -> None:
        if call in self.mx.switchboard.calls and call.live:
            self.mx.switchboard.clear(call, call.live[0])
            self.mx.deliver()

    def leave_alone(self, number: str) -> None:
        """Give way when a telephone has another call."""
        for call in self.mx.switchboard.calls:
            party = call.party(number)
            if call not in self.calls and party is not None and party in call.live:
                raise NotThere(f"{number} is in use")

    def _operate(self, step: At) -> None:
        if step.action in ("answer", "no_answer"):
            _, party = self.mine(step.number)
            if party.state is not State.ALERTING:
                return  # somebody was quicker
        super()._operate(step)


def _log_end(failure: Failure, name: str) -> None:
    if not failure.check(CancelledError):
        log.failure("script {name} has failed", failure, name=name)


class Playing:
    """Lets the scripts of a scenario happen.

    Args:
        mx: Where they happen.
        scripts: What happens, each from its start on, again and again.
    """

    def __init__(self, mx: SimulatedMX, scripts: Sequence[Script]) -> None:
        self._mx = mx
        self._scripts = scripts
        self._running: list[Deferred[None]] = []
        self._on_demand: dict[Deferred[str], str] = {}
        # How often each has been played on demand.
        self._turns: dict[str, int] = {}

    def start(self) -> None:
        """Begin with all scripts that are not played on demand alone."""
        for script in self._scripts:
            if script.start is not None:
                running = Deferred.fromCoroutine(self._repeat(script, script.start))
                running.addErrback(_log_end, script.name)
                self._running.append(running)

    def stop(self) -> None:
        """End all scripts and their calls."""
        for run in list(self._on_demand):
            run.cancel()
        for running in self._running:
            running.cancel()
        self._running.clear()

    def play(self, script: Script, pace: float = 1.0) -> Deferred[str]:
        """Play a script once, now, beside whatever else happens.

        Args:
            script: What.
            pace: Times the waits: 0 leaves them out.

        Returns:
            Why it ended before its last step, "" when it did not; cancelling ends it.
        """

        async def sleep(seconds: float) -> None:
            await self._sleep(seconds * pace)

        turn = self._turns.get(script.name, 0)
        self._turns[script.name] = turn + 1
        run = Deferred.fromCoroutine(_Run(self._mx, turn, sleep).play(script))
        self._on_demand[run] = script.name

        def over(result: str | Failure) -> str | Failure:
            del self._on_demand[run]
            return result

        return run.addBoth(over)

    def on_demand(self, name: str) -> int:
        """Give how often a script is being played on demand at this moment."""
        return list(self._on_demand.values()).count(name)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._mx.clock, seconds)

    async def _repeat(self, script: Script, start: float) -> None:
        await self._sleep(start)
        turn = 0
        while True:
            await _Run(self._mx, turn, self._sleep).play(script)
            if script.pause is None:
                return
            turn += 1
            await self._sleep(script.pause)
