"""The results as text, with ratios, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import attrs

from benchmarks import api, encoding
from benchmarks.peers import FLOOR_NAME, MXFLEX, NCHAN
from benchmarks.plan import BURSTS, FLAT_OUT, STEADY, Transport
from benchmarks.results import DISTURBED, PERCENTILES, Case, Held, Results, Sample

KIB = 1024
_ABSENT = "-"
# Neither the readers nor the source is the bottleneck as long as it uses less of a processor.
BUSY = 0.85
# A server that is kept from the processor for more of the time shows the latency of the machine.
KEPT = 0.1


def render(results: Results) -> str:
    """Give all tables, in Markdown, as docs/performance.md shows them."""
    figures = {
        "Processor time of the server": (
            "Microseconds for each delivered message; the ratio is MXFlex to the other.",
            _figures([c for c in results.samples if c.load != FLAT_OUT], results.cpu_us, 1),
        ),
        "Messages a second, flat out": (
            "Up to 60 events are under way.",
            _figures([c for c in results.samples if c.load == FLAT_OUT], results.throughput, 0),
        ),
        "Latency": (
            "Milliseconds from the source's `send` to the reader.",
            _latencies(results),
        ),
        "Beside readers that do not read": (
            "MXFlex, HTTP/1.1; each round once alone and once beside them.",
            _beside(results),
        ),
        "Memory of an idle stream": ("KiB resident.", _memory(results)),
        "Requests": (
            "Microseconds of the server's processor time. nginx sends a file, without a token.",
            _api(results),
        ),
        "One event": (
            "Microseconds of processor time, in one process.",
            table(("step", "µs"), [(k, _number(v, 1)) for k, v in results.encoding.items()]),
        ),
    }
    parts = [_provenance(results), "## The targets", _targets(results), "## The figures"]
    for title, (words, text) in figures.items():
        parts += [f"### {title}", words, text]
    remarks = [*results.missed, *results.faults(), *_bottlenecks(results)]
    if remarks:
        parts += ["### Remarks", "\n".join(f"- {remark}" for remark in remarks)]
    return "\n\n".join(parts) + "\n"


def _provenance(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"Commit `{machine['commit']}`, {machine['began'][:10]}: Python {machine['python']}, "
        f"{versions}; {machine['processors']} processors ({machine['processor']}), "
        f"load {machine['load_before']:.1f} before it began."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table whose columns are aligned, so that it reads well without a renderer, too."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = [
        [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = [
        "-" * width if column == 0 else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (texts[0], rule, *texts[1:]))


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:,.{digits}f}"


def _ratio(value: float | None, other: float | None) -> str:
    return _ABSENT if value is None or not other else f"{value / other:.2f} x"


def _compared(own: float | None, peers: Sequence[float | None], digits: int) -> list[str]:
    """Give our figure, and beside each other one the ratio of ours to it."""
    cells = [_number(own, digits)]
    for other in peers:
        cells += [_number(other, digits), _ratio(own, other)]
    return cells


_HEAD = ("MXFlex", "nchan", "ratio", "C floor", "ratio")


def _load(case: Case) -> str:
    return case.load if case.rate is None else f"{case.load}, {case.rate:g}/s"


def _figures(
    cases: Iterable[Case],
    figure: Callable[[Case, str], float | None],
    digits: int,
) -> str:
    rows = []
    for case in cases:
        others = [figure(case, NCHAN), figure(case, FLOOR_NAME)]
        cells = _compared(figure(case, MXFLEX), others, digits)
        rows.append((case.way, f"{case.streams:,}", _load(case), *cells))
    return table(("way", "streams", "load", *_HEAD), rows)


def _latencies(results: Results) -> str:
    rows = []
    for case in results.samples:
        if case.load == FLAT_OUT:
            # There it says how many events are under way, no more.
            continue
        for percentile in PERCENTILES:
            own, *others = (
                results.latency_ms(case, peer, percentile) for peer in (MXFLEX, NCHAN, FLOOR_NAME)
            )
            cells = _compared(own, others, 2)
            rows.append((case.way, f"{case.streams:,}", _load(case), percentile, *cells))
    return table(("way", "streams", "load", "", *_HEAD), rows)


def _memory(results: Results) -> str:
    rows = []
    for held in results.memory:
        own, *others = (_kib(results, held, peer) for peer in (MXFLEX, NCHAN))
        floor = _number(_kib(results, held, FLOOR_NAME), 1)
        way = held.transport.value
        if held.transport is Transport.H2:
            way = f"{way}, {held.per_connection} a connection"
        rows.append((way, f"{held.streams:,}", *_compared(own, others, 1), floor))
    return table(("way", "streams", *_HEAD[:-1]), rows)


def _kib(results: Results, held: Held, peer: str) -> float | None:
    each = results.held_bytes(held, peer)
    return None if each is None else each / KIB


def _api(results: Results) -> str:
    rows = []
    for name, peers in results.api.items():
        own, other = (peers.get(peer, {}) for peer in (MXFLEX, NCHAN))
        cells = _compared(own.get("cpu_us"), [other.get("cpu_us")], 0)
        rows.append((name, *cells, _number(own.get("p50_ms"), 2)))
    return table(("request", "MXFlex", "nginx", "ratio", "MXFlex p50, ms"), rows)


def _beside(results: Results) -> str:
    rows = []
    for each in results.beside:
        for name, figure in _BESIDE.items():
            alone, beside = figure(each.alone), figure(each.beside)
            cells = (_number(alone, 2), _number(beside, 2), _ratio(beside, alone))
            deaf = f"{each.cut_off} of {each.deaf}"
            rows.append((str(each.alone.round + 1), name, *cells, deaf))
    return table(("round", "", "alone", "beside", "ratio", "cut off"), rows)


_BESIDE: dict[str, Callable[[Sample], float]] = {
    "p99, ms": lambda sample: sample.latency_ms["p99"],
    "µs a message": lambda sample: sample.cpu_us,
}


def _bottlenecks(results: Results) -> list[str]:
    """Say where the figures are not the server's own."""
    busy, kept = [], []
    for case, peers in results.samples.items():
        for peer, samples in peers.items():
            where = f"{peer}, {case.way}, {case.streams:,}, {case.load}"
            for who, share in (
                ("readers", max(sample.readers_share for sample in samples)),
                ("source", max(sample.source_share for sample in samples)),
            ):
                if share > BUSY:
                    busy.append(f"{where} ({who}, {share:.0%})")
            waited = max(sample.waited_share for sample in samples)
            if case.load != FLAT_OUT and waited > KEPT:
                kept.append(f"{where} ({waited:.0%})")
    remarks = []
    if busy:
        words = f"The readers or the source used over {BUSY:.0%} of a processor, and may be what "
        remarks.append(words + "was measured: " + "; ".join(busy) + ".")
    if kept:
        remarks.append(
            f"The server was kept from a processor for over {KEPT:.0%} of the time, so that the "
            "latency is the machine's, and one that joins what waits looks cheaper than it is; "
            f"over {DISTURBED:.0%}, the round does not count for a target: " + "; ".join(kept) + "."
        )
    return remarks


# --- Targets --------------------------------------------------------------------------------------


_Rounds = Callable[[Results], list[float]]


@attrs.frozen
class Target:
    """What is to be reached.

    Attributes:
        text: What is measured.
        wanted: The limit, as text.
        limit: The limit.
        rounds: Gives the figure of each round; a ratio is of what was measured in one round.
    """

    text: str
    wanted: str
    limit: float
    rounds: _Rounds


def _cpu(transport: Transport, load: str, peer: str, per_connection: int = 1) -> _Rounds:
    def ratios(results: Results) -> list[float]:
        case = results.find(transport, 1_000, load, per_connection)
        return [] if case is None else results.ratios(case, MXFLEX, peer, lambda s: s.cpu_us)

    return ratios


def _beside_alone(name: str) -> _Rounds:
    figure = _BESIDE[name]
    return lambda results: [
        figure(each.beside) / figure(each.alone)
        for each in results.beside
        if each.alone.undisturbed and each.beside.undisturbed
    ]


def _late(results: Results) -> list[float]:
    case = results.find(Transport.PLAIN, 1_000, STEADY)
    if case is None:
        return []
    return results.ratios(case, MXFLEX, NCHAN, lambda sample: sample.latency_ms["p99"])


def _idle(transport: Transport) -> _Rounds:
    held = Held(transport=transport, per_connection=1, streams=10_000)
    return lambda results: [each / KIB for each in results.memory.get(held, {}).get(MXFLEX, [])]


def _request(name: str) -> _Rounds:
    def figures(results: Results) -> list[float]:
        measured = results.api.get(name, {}).get(MXFLEX)
        return [] if measured is None else [measured["cpu_us"]]

    return figures


def _whole_event(results: Results) -> list[float]:
    return [us for step, us in results.encoding.items() if step == encoding.WHOLE]


TARGETS = (
    Target(
        "HTTP/1.1, 1,000 streams, 50 events/s",
        "0.80 x nchan",
        0.80,
        _cpu(Transport.PLAIN, STEADY, NCHAN),
    ),
    Target(
        "the same",
        "1.25 x the C floor",
        1.25,
        _cpu(Transport.PLAIN, STEADY, FLOOR_NAME),
    ),
    Target(
        "HTTP/1.1, 1,000 streams, bursts of 5",
        "0.30 x nchan",
        0.30,
        _cpu(Transport.PLAIN, BURSTS, NCHAN),
    ),
    Target(
        "TLS, 1,000 streams, 20 events/s",
        "0.85 x nchan",
        0.85,
        _cpu(Transport.TLS, STEADY, NCHAN),
    ),
    Target(
        "HTTP/2, 100 streams a connection",
        "0.35 x nchan",
        0.35,
        _cpu(Transport.H2, STEADY, NCHAN, 100),
    ),
    Target(
        "HTTP/2, one stream a connection",
        "1.2 x nchan",
        1.2,
        _cpu(Transport.H2, STEADY, NCHAN),
    ),
    Target("latency p99, HTTP/1.1, 1,000 streams, 50 events/s", "1.0 x nchan", 1.0, _late),
    Target("latency p99 beside 5 % that do not read", "1.3 x alone", 1.3, _beside_alone("p99, ms")),
    Target("the same, processor time", "1.3 x alone", 1.3, _beside_alone("µs a message")),
    Target("idle stream, 10,000 of them, plain", "6 KiB", 6.0, _idle(Transport.PLAIN)),
    Target("idle stream, 10,000 of them, TLS", "30 KiB", 30.0, _idle(Transport.TLS)),
    Target("/api/contacts, 500 contacts", "150 µs", 150.0, _request(api.PLAIN)),
    Target(
        "one CSTA event, bytes to SSE text",
        "40 µs",
        40.0,
        _whole_event,
    ),
    Target("/api/login, somebody's first", "1,000 µs", 1000.0, _request(api.FIRST_LOGIN)),
    Target("/api/login, again", "1,000 µs", 1000.0, _request(api.LOGIN)),
    Target(
        "the same, without the talk with the MX", "1,000 µs", 1000.0, _request(api.WITHOUT_TALK)
    ),
)


def _targets(results: Results) -> str:
    rows = []
    for target in TARGETS:
        rounds = target.rounds(results)
        unit = target.wanted.split(maxsplit=1)[1]
        figure = f"{median(rounds):,.2f} {unit}" if rounds else _ABSENT
        spread = "one"
        if len(rounds) != 1:
            ends = f": {min(rounds):,.2f} to {max(rounds):,.2f}" if rounds else ""
            spread = f"{len(rounds)}{ends}"
        rows.append((target.text, target.wanted, figure, spread, _verdict(target, rounds)))
    return table(("measure", "at most", "measured", "rounds", "reached"), rows)


def _verdict(target: Target, rounds: Sequence[float]) -> str:
    """Say yes or no only where every round says the same."""
    if not rounds:
        return _ABSENT
    verdicts = {figure <= target.limit for figure in rounds}
    if len(verdicts) > 1:
        return "undecided"
    return "yes" if verdicts.pop() else "no"
