"""Telephones that ring, and an MX that fails, as a program of its own.

    python -m benchmarks.soak.mx ACCOUNT...     says {"port": ...}

It reads commands from standard input, each a JSON object in a line:

    {"begin": {"rates": {"3000": 10.0}, "every": 60, "first": 10}}
        let extensions have so many events a second, and the MX fail each minute
    {"calm": true}      fail no more; says {"event": "calm"} once all monitors run
    {"stop": true}      no more events; says what was sent and what may be lost
"""

from __future__ import annotations

import random
import sys
from itertools import cycle
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.task import LoopingCall, deferLater, react

from benchmarks.sample import make_behaviour, make_company
from benchmarks.soak.faults import FAILINGS, FailingMX
from benchmarks.soak.program import give_up, obey, say
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    CallEvent,
    ConnectionClearedEvent,
    DeliveredEvent,
    EstablishedEvent,
)

PEOPLE = 100
CALLER = "12025550104"
# How often it is looked whether the monitors run again, in seconds.
LOOK_EVERY = 0.05
# What the simulator remembers for tests is thrown away so often, in seconds.
FORGET_EVERY = 30.0
# Most events come alone, some in a burst: what an MX tells all who take part in a call.
BURSTS = (1, 1, 1, 1, 5)
SEED = 20260301


def make_event(ext: str, number: int) -> CallEvent:
    """Give an extension's event with this number: calls that ring, are answered, and end.

    The number stands where clients can see it: in the global call id, or in the device that
    releases.
    """
    call, step = divmod(number - 1, 3)
    connection = ConnectionID(call_id=call + 1, device_id=ext, global_call_id=str(number))
    match step:
        case 0:
            return DeliveredEvent(
                monitor="1",
                connection=connection,
                alerting_device=ext,
                calling_device=CALLER,
                called_device=ext,
                local_connection_info="alerting",
                cause="normal",
            )
        case 1:
            return EstablishedEvent(
                monitor="1",
                connection=connection,
                answering_device=ext,
                answering_display_name="Alexandra Featherstone",
                calling_device=CALLER,
                calling_display_name="Harbor Coffee Roasters",
                called_device=ext,
                cause="normal",
            )
        case _:
            return ConnectionClearedEvent(
                monitor="1", connection=connection, releasing_device=str(number), cause="normal"
            )


@attrs.define(eq=False)
class Telephone:
    """One extension: events at moments of chance, whether anybody is there or not."""

    reactor: Any
    mx: FailingMX
    ext: str
    rate: float
    chance: random.Random
    number: int = 0
    running: bool = True

    def ring(self) -> None:
        """Have some events, and more later."""
        if not self.running:
            return
        burst = self.chance.choice(BURSTS)
        for _ in range(burst):
            self.send()
        self.reactor.callLater(burst * self.chance.expovariate(self.rate), self.ring)

    def send(self) -> None:
        """Have one event."""
        self.number += 1
        now = self.mx.clock.seconds()
        for account, handover in self.mx.handovers.items():
            covered = self.mx.covers(account, self.ext)
            handover.sent(self.ext, self.number, now, covered=covered)
        self.mx.send_event(self.ext, make_event(self.ext, self.number))


@attrs.frozen(kw_only=True)
class Outage:
    """What happened in one minute.

    Attributes:
        name: What the MX did.
        began: When, in seconds since the epoch.
        lasted: Until it was itself again, in seconds.
        back: From then until every monitor ran again, in seconds.
        bound: What that may be.
    """

    name: str
    began: float
    lasted: float
    back: float
    bound: float


class Soak:
    """The telephones and the failures."""

    def __init__(self, reactor: Any, mx: FailingMX) -> None:
        self._reactor = reactor
        self._mx = mx
        self._telephones: list[Telephone] = []
        self._failings = cycle(FAILINGS)
        self._calm = False
        self.outages: list[Outage] = []

    def begin(self, rates: dict[str, float], every: float, first: float) -> None:
        """Let telephones ring, and the MX fail."""
        chance = random.Random(SEED)  # noqa: S311 - so that each run is like the others
        for ext, rate in rates.items():
            telephone = Telephone(self._reactor, self._mx, ext, rate, chance)
            self._telephones.append(telephone)
            telephone.ring()
        failing = LoopingCall(lambda: Deferred.fromCoroutine(self._fail()))
        failing.clock = self._reactor
        starting = deferLater(self._reactor, first, failing.start, every)
        starting.addErrback(give_up)

    def calm(self) -> None:
        """Fail no more, and say so once every monitor runs."""
        self._calm = True
        calming = Deferred.fromCoroutine(self._covered())
        calming.addCallbacks(lambda _: say({"event": "calm"}), give_up)

    def stop(self) -> None:
        """Let no telephone ring any more, and tell what there was."""
        for telephone in self._telephones:
            telephone.running = False
            # Those before may have been lost in an outage, and only a later one shows that.
            telephone.send()
        said = {
            "last": {telephone.ext: telephone.number for telephone in self._telephones},
            "uncertain": {
                account: handover.uncertain() for account, handover in self._mx.handovers.items()
            },
            "outages": [attrs.asdict(outage) for outage in self.outages],
            "unforeseen": self._mx.unforeseen,
        }
        say({"event": "stopped", **said})

    async def _fail(self) -> None:
        if self._calm:
            return
        failing = next(self._failings)
        began = self._reactor.seconds()
        sys.stderr.write(f"{began:.1f} the MX {failing.name}\n")
        await failing.act(self._mx)
        itself = self._reactor.seconds()
        await self._covered()
        back = self._reactor.seconds() - itself
        self._mx.faults.clear("MonitorStart")
        sys.stderr.write(f"{self._reactor.seconds():.1f} back after {back:.1f} s\n")
        self.outages.append(
            Outage(
                name=failing.name,
                began=began,
                lasted=itself - began,
                back=back,
                bound=failing.back,
            )
        )

    async def _covered(self) -> None:
        while not all(
            self._mx.covers(account, telephone.ext)
            for account in self._mx.handovers
            for telephone in self._telephones
        ):
            await deferLater(self._reactor, LOOK_EVERY)


async def main(reactor: Any, *accounts: str) -> None:
    """Play the MX until standard input ends."""
    company = make_company(PEOPLE, accounts)
    mx = FailingMX(cast("IReactorTCP", reactor), company, make_behaviour())

    def forget() -> None:
        mx.commands.clear()
        mx.logins.clear()

    forgetting = LoopingCall(forget)
    forgetting.clock = reactor
    forgetting.start(FORGET_EVERY)
    port = await mx.listen()
    soak = Soak(reactor, mx)
    say({"port": port})
    await obey(
        reactor,
        {
            "begin": lambda given: soak.begin(**given),
            "calm": lambda _: soak.calm(),
            "stop": lambda _: soak.stop(),
        },
    )


if __name__ == "__main__":
    react(lambda reactor, *words: Deferred.fromCoroutine(main(reactor, *words)), sys.argv[1:])
