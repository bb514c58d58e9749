"""What is measured, in full and quickly."""

from __future__ import annotations

from enum import StrEnum

import attrs

# Everything is counted in steps of so many events: the readers tell when all of them have a step.
STEP = 10


class Transport(StrEnum):
    """How the streams travel."""

    PLAIN = "HTTP/1.1"
    TLS = "HTTP/1.1, TLS"
    H2 = "HTTP/2"


@attrs.frozen(kw_only=True)
class Load:
    """How events come.

    Attributes:
        name: As shown in the tables.
        seconds: For how long.
        rate: Events a second; None for as many as all streams take.
        burst: Events that come at once.
    """

    name: str
    seconds: float
    rate: float | None = None
    burst: int = 1

    @property
    def count(self) -> int:
        """How many events that is, in whole steps."""
        assert self.rate is not None
        return max(1, round(self.rate * self.seconds / STEP)) * STEP


STEADY, BURSTS, FLAT_OUT = "steady", "bursts of 5", "flat out"


def steady(rate: float, seconds: float) -> Load:
    """Single events at equal distances."""
    return Load(name=STEADY, seconds=seconds, rate=rate)


def bursts(rate: float, seconds: float) -> Load:
    """Five events at a time: what an MX says about one step of a call to all who take part."""
    return Load(name=BURSTS, seconds=seconds, rate=rate, burst=5)


def flat_out(seconds: float) -> Load:
    """As many events as the slowest stream takes."""
    return Load(name=FLAT_OUT, seconds=seconds)


@attrs.frozen(kw_only=True)
class Stage:
    """Streams that are opened once, and the loads that they are given.

    Attributes:
        per_connection: Streams on one connection; more than one in HTTP/2 only.
        rounds: How often the whole is repeated, each time with new processes.
    """

    transport: Transport
    streams: int
    loads: tuple[Load, ...]
    per_connection: int = 1
    rounds: int = 1

    def loads_of(self, number: int) -> tuple[Load, ...]:
        """Give the loads of a round: flat out, no target speaks of, so that is for the first."""
        return tuple(load for load in self.loads if load.rate is not None or not number)


@attrs.frozen(kw_only=True)
class SlowReaders:
    """Readers that do not read, beside others that do.

    Attributes:
        streams: That are read.
        deaf: That are not.
        load: What the former get, once alone and once beside the latter, in each round.
        rounds: How often.
    """

    streams: int
    deaf: int
    load: Load
    rounds: int


@attrs.frozen(kw_only=True)
class Plan:
    """A run.

    Attributes:
        stages: Streams and loads.
        slow_readers: Readers that do not read.
        requests: Requests of each kind for the contacts.
        logins: Logins.
        encodings: Events that are parsed and encoded.
    """

    name: str
    stages: tuple[Stage, ...]
    slow_readers: SlowReaders | None
    requests: int
    logins: int
    encodings: int

    def narrowed(self, transports: set[Transport], streams: set[int]) -> Plan:
        """Give the same with these stages alone; an empty set stands for all."""
        beside = not streams and (not transports or Transport.PLAIN in transports)
        return attrs.evolve(
            self,
            slow_readers=self.slow_readers if beside else None,
            stages=tuple(
                stage
                for stage in self.stages
                if (not transports or stage.transport in transports)
                and (not streams or stage.streams in streams)
            ),
        )


# Messages a second (events times streams) of the steady load: what a server that is not the
# fastest one can still do on one core of a small machine. With 50 events a second 1,000 streams of
# HTTP/1.1 are at that limit, 20 in TLS; with more streams there are fewer events.
_STEADY_RATE = 50
_MOST_MESSAGES = {Transport.PLAIN: 50_000, Transport.TLS: 20_000, Transport.H2: 10_000}
# The number of streams that the targets speak of: measured longer, with bursts, in three rounds.
_TARGETED = 1_000


def _full_stage(transport: Transport, streams: int, per_connection: int = 1) -> Stage:
    targeted = streams == _TARGETED
    rate = min(_STEADY_RATE, _MOST_MESSAGES[transport] / streams)
    loads = [steady(rate, max(4.0 if targeted else 2.0, STEP / rate)), flat_out(2.0)]
    if targeted:
        loads.insert(1, bursts(rate, 3.0))
    return Stage(
        transport=transport,
        streams=streams,
        loads=tuple(loads),
        per_connection=per_connection,
        rounds=3 if targeted else 1,
    )


FULL = Plan(
    name="full",
    stages=tuple(
        _full_stage(transport, streams, per_connection)
        for transport, per_connection in (
            (Transport.PLAIN, 1),
            (Transport.TLS, 1),
            (Transport.H2, 1),
            (Transport.H2, 100),
        )
        for streams in (100, 1_000, 5_000, 10_000)
    ),
    # Long enough that each of the deaf ones is cut off within the load.
    slow_readers=SlowReaders(streams=500, deaf=25, load=steady(100, 12.0), rounds=3),
    requests=1_000,
    logins=200,
    encodings=10_000,
)

QUICK = Plan(
    name="quick",
    stages=(
        Stage(
            transport=Transport.PLAIN,
            streams=100,
            loads=(steady(50, 1.0), flat_out(1.0)),
        ),
        Stage(
            transport=Transport.PLAIN,
            streams=500,
            loads=(steady(50, 1.0), bursts(50, 1.0), flat_out(1.0)),
        ),
        Stage(transport=Transport.TLS, streams=100, loads=(steady(50, 1.0), flat_out(1.0))),
        Stage(transport=Transport.H2, streams=100, loads=(steady(50, 1.0),)),
        Stage(transport=Transport.H2, streams=200, per_connection=100, loads=(steady(50, 1.0),)),
    ),
    slow_readers=SlowReaders(streams=100, deaf=5, load=steady(50, 2.0), rounds=1),
    requests=200,
    logins=20,
    encodings=2_000,
)

PLANS = {plan.name: plan for plan in (FULL, QUICK)}
