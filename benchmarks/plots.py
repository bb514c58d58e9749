"""The results as pictures: each figure against the number of streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.peers import FLOOR_NAME, MXFLEX, NCHAN
from benchmarks.plan import FLAT_OUT, STEADY
from benchmarks.results import Case, Results

_COLOURS = {MXFLEX: "#0b6e99", NCHAN: "#c8553d", FLOOR_NAME: "#777777"}
_STYLES = ("-o", "--s")
_Value = Callable[[Case, str], float | None]


def plot(results: Results, folder: Path) -> list[Path]:
    """Draw a picture for each kind of figure, with a panel for each way."""

    def percentile(name: str) -> _Value:
        return lambda case, peer: results.latency_ms(case, peer, name)

    pictures: tuple[tuple[str, str, str, dict[str, _Value]], ...] = (
        ("cpu.png", "µs of processor time a message", STEADY, {"": results.cpu_us}),
        (
            "latency.png",
            "latency, ms",
            STEADY,
            {name: percentile(name) for name in ("p50", "p99")},
        ),
        ("throughput.png", "messages a second, flat out", FLAT_OUT, {"": results.throughput}),
    )
    paths = []
    for name, label, load, values in pictures:
        cases = [case for case in results.samples if case.load == load]
        if cases:
            figure = _draw(cases, values)
            figure.supylabel(label)
            figure.savefig(folder / name, dpi=120)
            paths.append(folder / name)
    return paths


def _draw(cases: list[Case], values: dict[str, _Value]) -> Figure:
    ways = list(dict.fromkeys(case.way for case in cases))
    figure = Figure(figsize=(1 + 3.6 * len(ways), 3.8), layout="constrained")
    panels = figure.subplots(1, len(ways), squeeze=False, sharey=True)[0]
    for axes, way in zip(panels, ways, strict=True):
        for peer, colour in _COLOURS.items():
            for style, (name, value) in zip(_STYLES, values.items(), strict=False):
                points = [
                    (case.streams, figure_of)
                    for case in cases
                    if case.way == way and (figure_of := value(case, peer)) is not None
                ]
                if points:
                    label = f"{peer} {name}".strip()
                    across, up = zip(*sorted(points), strict=True)
                    axes.plot(across, up, style, color=colour, markersize=4, label=label)
        axes.set(title=way, xlabel="streams", xscale="log", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    return figure
