"""Thousands of clients that come and go, and check all that they get; a program of its own.

    python -m benchmarks.soak.readers

It reads commands from standard input, each a JSON object in a line:

    {"tokens": [{"3000": "eyJ..."}, {}]}    what to ask with: for the plain server, for the other
    {"open": {"plain": 8080, "secure": 8443, "each": {"HTTP/1.1": 200}, "exts": ["3000"],
              "slow": {"3000": 20}, "history": 256}}
                        so many clients for each extension, of whom so many read badly; says
                        {"event": "open"} when all streams are open
    {"roam": {"leave": 20.0, "nap": 2.0}}
                        from now on so many a second leave and come back, or stop reading
    {"settle": {"last": {"3000": 812}, "seconds": 60}}
                        everybody comes back and waits for that number; then says what they had
    {"close": true}     everybody leaves; says {"event": "closed"}
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from benchmarks.soak.checking import Fault, Ledger, Watch
from benchmarks.soak.clients import Opener, RovingClient, Way
from benchmarks.soak.connections import Ways
from benchmarks.soak.program import give_up, obey, say

SEED = 20260302
# Streams that are opened side by side.
PARALLEL = 64
LOOK_EVERY = 0.05
ROAM_EVERY = 0.1
# How often those who read badly stop reading, in seconds.
STALL_EVERY = 10.0
PLAIN_SERVER, SECURE_SERVER = 0, 1


class Crowd:
    """All clients.

    Args:
        reactor: Connects and keeps time.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._tokens: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._ledgers: dict[tuple[int, str], Ledger] = {}
        self._clients: list[RovingClient] = []
        self._chance = random.Random(SEED)  # noqa: S311 - so that each run is like the others
        self._did: Counter[str] = Counter()
        self._roaming: list[LoopingCall] = []

    def tokens(self, tokens: list[dict[str, str]]) -> None:
        """Ask with these from now on."""
        for known, newer in zip(self._tokens, tokens, strict=True):
            known.update(newer)

    # --- Opening ----------------------------------------------------------------------------------

    def open(
        self,
        *,
        plain: int,
        secure: int,
        each: dict[str, int],
        exts: list[str],
        slow: dict[str, int],
        history: int,
    ) -> None:
        """Open all streams, some side by side."""
        ways = Ways(self._reactor, plain, secure)
        openers = {Way.PLAIN: ways.open_plain, Way.TLS: ways.open_tls, Way.H2: ways.open_h2}
        for ext in exts:
            for name, count in each.items():
                way = Way(name)
                opener: Opener = openers[way]
                for number in range(count):
                    is_slow = number < slow.get(ext, 0)
                    self._clients.append(self._client(way, ext, opener, history, is_slow))
        waiting = list(reversed(self._clients))

        def look() -> None:
            opening = sum(not client.is_open for client in self._clients) - len(waiting)
            for _ in range(min(PARALLEL - opening, len(waiting))):
                waiting.pop().open()
            if not waiting and not opening:
                looking.stop()
                say({"event": "open", "streams": len(self._clients)})

        looking = self._repeat(look, LOOK_EVERY)

    def _client(
        self, way: Way, ext: str, opener: Opener, history: int, is_slow: bool
    ) -> RovingClient:
        server = PLAIN_SERVER if way is Way.PLAIN else SECURE_SERVER
        ledger = self._ledgers.setdefault(
            (server, ext), Ledger(name=f"{('plain', 'secure')[server]} {ext}", history=history)
        )
        return RovingClient(
            clock=self._reactor,
            way=way,
            open_stream=opener,
            token=lambda: self._tokens[server][ext],
            watch=Watch(ledger),
            chance=self._chance,
            did=self._did,
            narrow=is_slow,
        )

    def _repeat(self, call: Callable[[], None], seconds: float) -> LoopingCall:
        looping = LoopingCall(call)
        looping.clock = self._reactor
        looping.start(seconds, now=False).addErrback(give_up)
        return looping

    # --- Coming and going -------------------------------------------------------------------------

    def roam(self, *, leave: float, nap: float) -> None:
        """Let clients leave and come back, and stop reading, so many a second."""

        def some(a_second: float) -> Iterator[RovingClient]:
            count = a_second * ROAM_EVERY
            whole = int(count) + (self._chance.random() < count % 1)
            yield from self._chance.choices(self._clients, k=whole)

        def step() -> None:
            for client in some(leave):
                client.go()
            for client in some(nap):
                client.nap()

        def stall() -> None:
            for client in self._clients:
                if client.narrow:
                    client.stall()

        self._roaming = [self._repeat(step, ROAM_EVERY), self._repeat(stall, STALL_EVERY)]

    # --- The end ----------------------------------------------------------------------------------

    def settle(self, *, last: dict[str, int], seconds: float) -> None:
        """Let everybody read to the end, and tell."""
        for looping in self._roaming:
            looping.stop()
        self._roaming = []
        until = self._reactor.seconds() + seconds

        def look() -> None:
            behind = [
                client
                for client in self._clients
                if client.watch.number < last[self._ext_of[client.watch.ledger.name]]
                or not client.is_open
            ]
            for client in behind:
                client.stay()
            if not behind or self._reactor.seconds() > until:
                looking.stop()
                self._tell(behind, last)

        self._ext_of = {ledger.name: ext for (_, ext), ledger in self._ledgers.items()}
        looking = self._repeat(look, LOOK_EVERY)

    def _tell(self, behind: list[RovingClient], last: dict[str, int]) -> None:
        for client in self._clients:
            client.watch.settle()
        for client in behind:
            watch = client.watch
            missing = last[self._ext_of[watch.ledger.name]] - watch.number
            state = "open" if client.is_open else "closed"
            watch.ledger.fault(
                Fault.LOST, f"the last {missing}, {client.way}, {state}", max(1, missing)
            )
        self._compare_gaps()
        say(
            {
                "event": "report",
                "streams": len(self._clients),
                "ledgers": [
                    {"server": server, "ext": ext, **_described(ledger)}
                    for (server, ext), ledger in self._ledgers.items()
                ],
                "did": dict(sorted(self._did.items())),
                "expired": sum(client.watch.expired for client in self._clients),
            }
        )

    def _compare_gaps(self) -> None:
        """Whoever never came back too late must have been told every outage."""
        told: dict[Ledger, Counter[int]] = {}
        for client in self._clients:
            if not client.watch.expired:
                told.setdefault(client.watch.ledger, Counter())[client.watch.downs] += 1
        for ledger, counts in told.items():
            most = max(counts)
            for downs, clients in counts.items():
                if downs < most:
                    words = f"{clients} clients were told {downs} of {most} outages"
                    ledger.fault(Fault.GAP_LOST, words, clients)

    def close(self) -> None:
        """Let everybody leave for good."""
        for client in self._clients:
            client.quit()

        def look() -> None:
            if not any(client.is_open for client in self._clients):
                looking.stop()
                say({"event": "closed"})

        looking = self._repeat(look, LOOK_EVERY)


def _described(ledger: Ledger) -> dict[str, Any]:
    return {
        "messages": ledger.messages,
        "newest": ledger.newest,
        "jumps": [[*jump, count] for jump, count in ledger.jumps.items()],
        "gaps": [[*gap, count] for gap, count in ledger.gaps.items()],
        "late_gaps": ledger.late_gaps,
        "faults": {fault.value: count for fault, count in ledger.faults.items()},
        "examples": ledger.examples,
    }


async def main(reactor: Any) -> None:
    """Read until standard input ends."""
    crowd = Crowd(reactor)
    await obey(
        reactor,
        {
            "tokens": crowd.tokens,
            "open": lambda given: crowd.open(**given),
            "roam": lambda given: crowd.roam(**given),
            "settle": lambda given: crowd.settle(**given),
            "close": lambda _: crowd.close(),
        },
    )


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
