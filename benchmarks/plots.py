"""The results as pictures: each figure against the number of streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.peers import FLOOR_NAME, MXFLEX, NCHAN
from benchmarks.plan import FLAT_OUT, STEADY
from benchmarks.results import Case, Results

_COLOURS = {MXFLEX: "#0b6e99", NCHAN: "#c8553d", FLOOR_NAME: "#777777"}
_Value = Callable[[Case, str], float | None]


def plot(results: Results, folder: Path) -> list[Path]:
    """Draw a picture for each kind of figure, with a panel for each transport."""
    latency: dict[str, _Value] = {
        percentile: lambda case, peer, which=percentile: results.latency_ms(case, peer, which)  # type: ignore[misc]
        for percentile in ("p50", "p99")
    }
    return [
        _picture(
            results,
            folder / "cpu.png",
            "µs of processor time a message",
            STEADY,
            {"": results.cpu_us},
        ),
        _picture(results, folder / "latency.png", "latency, ms", STEADY, latency),
        _picture(
            results,
            folder / "throughput.png",
            "messages a second, flat out",
            FLAT_OUT,
            {"": results.throughput},
        ),
    ]


def _picture(
    results: Results, path: Path, label: str, load: str, values: dict[str, _Value]
) -> Path:
    cases = [case for case in results.samples if case.load == load]
    ways = list(dict.fromkeys(case.way for case in cases))
    figure = Figure(figsize=(4.2 * len(ways), 3.8), layout="constrained")
    for axes, way in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways, strict=True):
        for peer, colour in _COLOURS.items():
            for style, (name, value) in zip(("-o", "--s"), values.items(), strict=False):
                points = [
                    (case.streams, figure_of)
                    for case in cases
                    if case.way == way and (figure_of := value(case, peer)) is not None
                ]
                if points:
                    axes.plot(
                        *zip(*sorted(points), strict=True),
                        style,
                        color=colour,
                        markersize=4,
                        label=f"{peer} {name}".strip(),
                    )
        axes.set(title=way, xlabel="streams", xscale="log", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    figure.supylabel(label)
    figure.savefig(path, dpi=120)
    return path
