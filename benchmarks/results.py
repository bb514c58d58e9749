"""What was measured, and its medians."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import attrs

from benchmarks.plan import Transport

PERCENTILES = ("p50", "p99", "p99.9")
# A round in which a server was kept from a processor for more of the time proves nothing.
DISTURBED = 0.25


@attrs.frozen(kw_only=True)
class Sample:
    """One load on one server in one round.

    Attributes:
        round: Which one, from 0.
        cpu_us: Processor time of the server, microseconds for each message that reached a reader.
        messages: Events times streams.
        messages_per_second: From the first one that was sent to the last one that was read. Not
            from the first one that was read: a server that holds everything back until it has
            worked through it all would have done that work in no time.
        latency_ms: From the source's stamp to the reader, by percentile.
        server_share: Part of one processor that the server used.
        waited_share: For what part of the time the server could have run, and was kept from it by
            whatever else runs on the machine. Latencies are the machine's where it is not small.
        readers_share: Part of one processor that the readers used.
        source_share: Part of one processor that the source of the events used.
        faults: What was wrong: missing, backward, strange or lost; nothing when empty.
    """

    round: int
    cpu_us: float
    messages: int
    messages_per_second: float
    latency_ms: dict[str, float]
    server_share: float
    waited_share: float
    readers_share: float
    source_share: float
    faults: dict[str, int]

    @property
    def undisturbed(self) -> bool:
        """Whether the server had a processor most of the time.

        One that is kept from it joins what waits meanwhile, and looks cheaper than it is.
        """
        return self.waited_share <= DISTURBED


@attrs.frozen(kw_only=True)
class Case:
    """What is compared: the same streams and the same load, on each server."""

    transport: Transport
    per_connection: int
    streams: int
    load: str
    rate: float | None

    @property
    def way(self) -> str:
        """The transport, with the streams of a connection where there can be several."""
        if self.transport is not Transport.H2:
            return self.transport.value
        return f"{self.transport.value}, {self.per_connection} a connection"


@attrs.frozen(kw_only=True)
class Held:
    """Memory of idle streams: which streams, and the resident bytes that each has added."""

    transport: Transport
    per_connection: int
    streams: int


@attrs.frozen(kw_only=True)
class Beside:
    """The same load on the same streams of MXFlex: alone, and beside streams that are not read.

    Attributes:
        alone: Without the others.
        beside: With them.
        deaf: How many they are.
        cut_off: How many of them the server has cut off meanwhile.
    """

    alone: Sample
    beside: Sample
    deaf: int
    cut_off: int


@attrs.define(eq=False)
class Results:
    """All of a run, each figure by the name of the peer.

    Attributes:
        samples: One for each round.
        beside: What readers that do not read cost the others, one for each round.
        memory: Bytes for an idle stream, one for each round.
        api: Requests by name: microseconds of processor time and median milliseconds.
        encoding: Microseconds of processor time for an event, by step.
        missed: What could not be measured, and why.
    """

    machine: dict[str, Any]
    samples: dict[Case, dict[str, list[Sample]]] = attrs.field(factory=dict)
    beside: list[Beside] = attrs.field(factory=list)
    memory: dict[Held, dict[str, list[float]]] = attrs.field(factory=dict)
    api: dict[str, dict[str, dict[str, float]]] = attrs.field(factory=dict)
    encoding: dict[str, float] = attrs.field(factory=dict)
    missed: list[str] = attrs.field(factory=list)

    def add(self, case: Case, peer: str, sample: Sample) -> None:
        """Take a sample."""
        self.samples.setdefault(case, {}).setdefault(peer, []).append(sample)

    def add_memory(self, held: Held, peer: str, each: float) -> None:
        """Take the bytes of an idle stream."""
        self.memory.setdefault(held, {}).setdefault(peer, []).append(each)

    def cpu_us(self, case: Case, peer: str) -> float | None:
        """Give the median processor time for a message."""
        return _median([sample.cpu_us for sample in self._of(case, peer)])

    def throughput(self, case: Case, peer: str) -> float | None:
        """Give the median messages a second."""
        return _median([sample.messages_per_second for sample in self._of(case, peer)])

    def latency_ms(self, case: Case, peer: str, percentile: str) -> float | None:
        """Give the median over the rounds of a percentile of the latency."""
        return _median([sample.latency_ms[percentile] for sample in self._of(case, peer)])

    def held_bytes(self, held: Held, peer: str) -> float | None:
        """Give the median bytes of an idle stream."""
        return _median(self.memory.get(held, {}).get(peer, []))

    def ratios(
        self, case: Case, peer: str, other: str, figure: Callable[[Sample], float]
    ) -> list[float]:
        """Give the ratio of a figure of two peers, for each round that disturbed neither."""
        its = {s.round: figure(s) for s in self._of(case, other) if s.undisturbed}
        return [
            figure(own) / its[own.round]
            for own in self._of(case, peer)
            if own.undisturbed and own.round in its
        ]

    def faults(self) -> list[str]:
        """Give everything that went wrong with an event."""
        steps = [
            (f"{peer}, {case.way}, {case.streams} streams, {case.load}", sample)
            for case, peers in self.samples.items()
            for peer, samples in peers.items()
            for sample in samples
        ]
        steps += [
            ("MXFlex, beside readers that do not read", sample)
            for each in self.beside
            for sample in (each.alone, each.beside)
        ]
        return [f"{words}: {sample.faults}" for words, sample in steps if sample.faults]

    def find(
        self, transport: Transport, streams: int, load: str, per_connection: int = 1
    ) -> Case | None:
        """Give the case of this description, if it was measured."""
        for case in self.samples:
            known = (case.transport, case.streams, case.load, case.per_connection)
            if known == (transport, streams, load, per_connection):
                return case
        return None

    def as_json(self) -> dict[str, Any]:
        """Give everything, every round of it, as JSON can say it."""
        return {
            "machine": self.machine,
            "fanout": [
                {
                    **_described(case),
                    "peer": peer,
                    "rounds": [attrs.asdict(sample) for sample in samples],
                }
                for case, peers in self.samples.items()
                for peer, samples in peers.items()
            ],
            "beside": [attrs.asdict(each) for each in self.beside],
            "memory": [
                {**_described(held), "peer": peer, "bytes_per_stream": each}
                for held, peers in self.memory.items()
                for peer, each in peers.items()
            ],
            "api": self.api,
            "encoding_us": self.encoding,
            "missed": self.missed,
        }

    def _of(self, case: Case, peer: str) -> list[Sample]:
        return self.samples.get(case, {}).get(peer, [])


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _described(what: Case | Held) -> dict[str, Any]:
    return {**attrs.asdict(what), "transport": what.transport.value}
