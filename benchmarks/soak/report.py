"""The verdict as a table, as JSON, and memory as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.document import RESULTS_FILE, TABLES
from benchmarks.soak.flatness import MINUTE
from benchmarks.soak.judging import Measured, Verdict
from benchmarks.tables import KIB, table

MIB = KIB * KIB
_HOUR = 60


@attrs.frozen(kw_only=True)
class Run:
    """A soak that has come to its end.

    Attributes:
        machine: Where and how it ran.
        verdict: What is to be thought of it.
        servers: What was measured of them.
        readers: What the clients had.
        mx: What the MX has sent.
    """

    machine: dict[str, Any]
    verdict: Verdict
    servers: Sequence[Measured]
    readers: dict[str, Any]
    mx: dict[str, Any]


def render(run: Run) -> str:
    """Give all of it, in Markdown."""
    verdict = run.verdict
    yes_no = {True: "yes", False: "NO"}
    checks = [(c.what, c.found, c.wanted, yes_no[c.holds]) for c in verdict.checks]
    parts = [
        "### The run\n\n"
        + table(
            ("", ""),
            [
                (key, str(value))
                for key, value in run.machine.items()
                if not isinstance(value, dict)
            ],
        ),
        "### What must hold\n\n" + table(("what", "found", "wanted", "holds"), checks),
        "### The servers\n\n" + _servers(verdict, run.servers),
        "### What the MX did\n\n" + _outages(run.mx["outages"]),
        "### What the clients did\n\n"
        + table(("what", "times"), [(what, f"{n:,}") for what, n in run.readers["did"].items()]),
    ]
    if verdict.examples:
        parts.append("### Faults\n\n" + "\n".join(f"- {words}" for words in verdict.examples))
    return "\n\n".join(parts) + "\n"


def _servers(verdict: Verdict, servers: Iterable[Measured]) -> str:
    rows = []
    for server in servers:
        memory = verdict.trends[server.name]["memory"]
        rows.append(
            (
                server.name,
                f"{memory.level / MIB:.1f}",
                f"{memory.per_minute * _HOUR / KIB:+,.0f}",
                f"{server.descriptors[0]:,.0f} to {server.descriptors[-1]:,.0f}",
                f"{server.cpu_share:.0%}",
            )
        )
    head = ("server", "memory, MiB", "slope, KiB an hour", "descriptors", "of a processor")
    return table(head, rows)


def _outages(outages: Iterable[dict[str, Any]]) -> str:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for outage in outages:
        by_name.setdefault(outage["name"], []).append(outage)
    rows = [
        (
            name,
            str(len(those)),
            f"{max(outage['back'] for outage in those):.1f}",
            f"{those[0]['bound']:.0f}",
        )
        for name, those in by_name.items()
    ]
    return table(("the MX", "times", "all monitors run again after, s, at most", "bound, s"), rows)


def write(run: Run, folder: Path) -> str:
    """Write the tables and everything behind them; gives the tables."""
    text = render(run)
    (folder / TABLES).write_text(text, encoding="utf-8")
    document = {
        "machine": run.machine,
        "holds": run.verdict.holds,
        "checks": [attrs.asdict(check) for check in run.verdict.checks],
        "faults": run.verdict.examples,
        "trends": {
            name: {what: attrs.asdict(trend) for what, trend in trends.items()}
            for name, trends in run.verdict.trends.items()
        },
        "servers": [attrs.asdict(server) for server in run.servers],
        "readers": run.readers,
        "mx": run.mx,
    }
    words = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / RESULTS_FILE).write_text(words, encoding="utf-8")
    return text


def plot(run: Run, folder: Path) -> None:
    """Draw memory and descriptors over the time, with the fitted line and the outages."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - without pictures it need not be there

    count = len(run.servers)
    figure = Figure(figsize=(10, 3 * count), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for axes, server in zip(panels, run.servers, strict=True):
        minutes = [time / MINUTE for time in server.times]
        axes.plot(minutes, [value / MIB for value in server.memory], color="#0b6e99")
        trend = run.verdict.trends[server.name]["memory"]
        ends = (minutes[-1] - trend.minutes, minutes[-1])
        half = trend.per_minute * trend.minutes / 2
        levels = [(trend.level - half) / MIB, (trend.level + half) / MIB]
        axes.plot(ends, levels, "--", color="#c8553d", label=f"{trend.growth:+.2%}")
        for outage in run.mx["outages"]:
            axes.axvline(outage["at"] / MINUTE, color="#cccccc", linewidth=0.5)
        axes.set(ylabel="anonymous, MiB", title=server.name)
        axes.set_ylim(bottom=0)
        files = axes.twinx()
        files.plot(minutes, server.descriptors, color="#777777", linewidth=0.8)
        files.set(ylabel="descriptors")
        files.set_ylim(bottom=0)
        axes.legend(loc="lower right")
    panels[-1].set(xlabel="minutes")
    figure.savefig(folder / "memory.png", dpi=120)
