"""Events to many streams: processor time, latency, memory."""

from __future__ import annotations

import time
from pathlib import Path

import attrs

from benchmarks.generator import Readers
from benchmarks.peers import Stand, Start, start_mxflex
from benchmarks.plan import STEP, Load, SlowReaders, Stage, Transport
from benchmarks.processes import BenchmarkError
from benchmarks.results import PERCENTILES, Beside, Case, Held, Results, Sample

# Streams are opened within a minute, and each further step of events comes within this time, even
# where a server is asked for more than it can do; in seconds.
OPENING = 120.0
PATIENCE = 30.0
# After the opening a server may still have things to put away.
SETTLING = 1.0
# Flat out, the source is so many events ahead of the slowest stream: enough to keep everybody
# busy, and far from what any of the servers keeps for a slow reader.
WINDOW = 6 * STEP
_FAULTS = ("missing", "backward", "strange", "lost")
# What MXFlex logs for each stream that it cuts off.
_CUT_OFF = "a client that does not read its event stream is cut off"


@attrs.frozen
class Turn:
    """A server in a round.

    Attributes:
        number: Of the round, from 0.
        peer: The name of the server.
        start: Starts it.
    """

    number: int
    peer: str
    start: Start


def readers_of(stage: Stage, stand: Stand, folder: Path) -> Readers:
    """Let readers open the streams of a stage."""
    return Readers(
        folder,
        stand.port,
        transport=stage.transport,
        streams=stage.streams,
        per_connection=stage.per_connection,
        target=stand.target,
        headers=stand.headers,
    )


def measure_stage(stage: Stage, turn: Turn, results: Results, folder: Path) -> None:
    """Start a server, open the streams, and give them each load in turn.

    Raises:
        BenchmarkError: Something did not come up, or did not come through.
    """
    with turn.start(folder, stage.transport) as stand:
        before = stand.server.resident_bytes()
        with readers_of(stage, stand, folder) as readers:
            readers.when_open(OPENING)
            time.sleep(SETTLING)
            added = stand.server.resident_bytes() - before
            held = Held(
                transport=stage.transport,
                per_connection=stage.per_connection,
                streams=stage.streams,
            )
            results.add_memory(held, turn.peer, added / stage.streams)
            trial = Trial(stand, readers, turn.number)
            trial.warm_up()
            for load in stage.loads_of(turn.number):
                case = Case(
                    transport=stage.transport,
                    per_connection=stage.per_connection,
                    streams=stage.streams,
                    load=load.name,
                    rate=load.rate,
                )
                results.add(case, turn.peer, trial.give(load))


def measure_beside(plan: SlowReaders, results: Results, folder: Path) -> None:
    """Give streams a load, alone and beside others that are not read, in turn.

    Raises:
        BenchmarkError: Something did not come up, or did not come through.
    """
    with start_mxflex(folder, Transport.PLAIN) as stand:

        def open_streams(count: int, *, deaf: bool) -> Readers:
            target, headers = stand.target, stand.headers
            readers = Readers(
                folder, stand.port, streams=count, target=target, headers=headers, deaf=deaf
            )
            try:
                readers.when_open(OPENING)
            except BaseException:
                readers.program.stop()
                raise
            return readers

        with open_streams(plan.streams, deaf=False) as readers:
            trial = Trial(stand, readers)
            trial.warm_up()
            for number in range(plan.rounds):
                trial.number = number
                alone = trial.give(plan.load)
                before = _times_logged(stand)
                with open_streams(plan.deaf, deaf=True):
                    beside = trial.give(plan.load)
                    cut_off = _times_logged(stand) - before
                time.sleep(SETTLING)
                results.beside.append(
                    Beside(alone=alone, beside=beside, deaf=plan.deaf, cut_off=cut_off)
                )


def _times_logged(stand: Stand) -> int:
    return stand.server.log.read_text(encoding="utf-8", errors="replace").count(_CUT_OFF)


class Trial:
    """Loads on the same streams, one after the other; the numbers of the events go on.

    Attributes:
        number: Of the round.
    """

    def __init__(self, stand: Stand, readers: Readers, number: int = 0) -> None:
        self._stand = stand
        self._readers = readers
        self._sent = 0
        self.number = number

    def warm_up(self) -> None:
        """Send a few events that do not count: the first ones are never like the others."""
        self._send(2 * STEP)
        self._readers.when_passed(self._sent, PATIENCE)

    def give(self, load: Load) -> Sample:
        """Give the streams a load, and see how it went."""
        self._readers.mark()
        server, source = self._stand.server, self._stand.source
        before, waited_before = server.cpu_seconds(), server.waited_seconds()
        source_before = source.cpu_seconds()
        began = time.monotonic()
        first = self._sent
        if load.rate is None:
            self._flat_out(load.seconds)
        else:
            self._stand.pace(load.rate, load.burst, load.count)
            self._sent += load.count
            self._readers.when_passed(self._sent, max(PATIENCE, 2 * STEP / load.rate))
        elapsed = time.monotonic() - began
        spent, waited = server.cpu_seconds() - before, server.waited_seconds() - waited_before
        source_spent = source.cpu_seconds() - source_before
        told = self._readers.report()
        expected = (self._sent - first) * self._readers.streams
        if told["messages"] != expected:
            raise BenchmarkError(f"{expected} messages were to come: {told}")
        return Sample(
            round=self.number,
            cpu_us=spent / expected * 1e6,
            messages=expected,
            messages_per_second=expected / elapsed,
            latency_ms={name: told["latency_ms"][name] for name in PERCENTILES},
            server_share=spent / elapsed,
            waited_share=waited / elapsed,
            readers_share=told["cpu_seconds"] / told["seconds"],
            source_share=source_spent / elapsed,
            faults={name: told[name] for name in _FAULTS if told[name]},
        )

    def _flat_out(self, seconds: float) -> None:
        """Let a step follow for each one that all streams have had, until the time is over."""
        until = time.monotonic() + seconds
        self._send(WINDOW)
        passed = 0
        while passed < self._sent:
            passed = self._readers.next_step(PATIENCE)
            if time.monotonic() < until:
                self._send(STEP)

    def _send(self, count: int) -> None:
        self._stand.send(count)
        self._sent += count
