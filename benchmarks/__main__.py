"""`python -m benchmarks`: measure everything of a plan, and tell."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import tables
from benchmarks.api import measure_api
from benchmarks.document import RESULTS, RESULTS_FILE, TABLES
from benchmarks.encoding import measure_encoding
from benchmarks.fanout import Turn, measure_beside, measure_stage
from benchmarks.generator import NATIVE
from benchmarks.machine import assert_same_mxflex, describe_machine, end_as_by_ctrl_c, say
from benchmarks.peers import MXFLEX, has_nchan, peers_for
from benchmarks.plan import FULL, PLANS, Plan, Stage, Transport
from benchmarks.processes import BenchmarkError, run
from benchmarks.results import Results
from benchmarks.selfcheck import check


def turns_of(stage: Stage, with_nchan: bool) -> Iterator[Turn]:
    """Give the peers in turn, round by round, so that a busy minute does not hit one alone."""
    for number in range(stage.rounds):
        for peer, start in peers_for(stage.transport, with_nchan).items():
            yield Turn(number, peer, start)


@contextmanager
def attempt(what: str, results: Results, folder: Path) -> Iterator[Path]:
    """Give a measurement a folder of its own; a failure is told of, and its logs stay there."""
    own = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    try:
        yield own
    except BenchmarkError as error:
        results.missed.append(f"{what}: {error}")
        say(f"  failed: {error}")
    else:
        shutil.rmtree(own)


def measure_fanout(plan: Plan, results: Results, folder: Path, with_nchan: bool) -> None:
    """Measure all stages; one that fails is told of, and the others go on."""
    for stage in plan.stages:
        for turn in turns_of(stage, with_nchan):
            what = f"{stage.transport.value}, {stage.streams} streams"
            if stage.transport is Transport.H2:
                what += f", {stage.per_connection} a connection"
            say(f"{what}: {turn.peer}, round {turn.number + 1} of {stage.rounds}")
            with attempt(f"{turn.peer}, {what}", results, folder) as own:
                measure_stage(stage, turn, results, own)
        # A long run that is stopped has not been in vain.
        write(results, folder)


def write(results: Results, output: Path) -> str:
    """Write what there is so far as JSON and as tables; gives the tables."""
    text = tables.render(results)
    (output / TABLES).write_text(text, encoding="utf-8")
    document = json.dumps(results.as_json(), indent=1, ensure_ascii=False)
    (output / RESULTS_FILE).write_text(document, encoding="utf-8")
    return text


def main() -> int:
    """Run the plan; 0 if every event came through, once and in order."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    parser.add_argument(
        "--transport",
        action="append",
        choices=[transport.name.lower() for transport in Transport],
        help="only streams that travel like this; may be repeated",
    )
    parser.add_argument(
        "--streams", action="append", type=int, help="only so many streams; may be repeated"
    )
    parser.add_argument("--output", type=Path, help="a folder for the results")
    parser.add_argument("--no-plots", action="store_true", help="no pictures, no matplotlib")
    options = parser.parse_args()
    end_as_by_ctrl_c()
    plan = PLANS[options.plan].narrowed(
        {Transport[name.upper()] for name in options.transport or ()}, set(options.streams or ())
    )
    began = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    output: Path = options.output or RESULTS / f"{began}-{plan.name}"
    output.mkdir(parents=True, exist_ok=True)
    try:
        results = _measure(plan, output.resolve())
    except BenchmarkError as error:
        say(f"benchmarks: {error}")
        return 2
    text = write(results, output)
    if not options.no_plots:
        # Only here: without pictures, matplotlib need not be there.
        from benchmarks.plots import plot  # noqa: PLC0415

        plot(results, output)
    sys.stdout.write(text)
    say(f"results: {output}")
    return 1 if results.missed or results.faults() else 0


def _measure(plan: Plan, output: Path) -> Results:
    results = Results(machine={"plan": plan.name, **describe_machine()})
    assert_same_mxflex(output)
    run(["make", "--silent"], NATIVE)
    check(output)
    with_nchan = has_nchan()
    if not with_nchan:
        results.missed.append("no nginx with nchan: apt install nginx libnginx-mod-nchan")
    say(f"{MXFLEX}: one event")
    results.encoding.update(measure_encoding(plan.encodings))
    say(f"{MXFLEX}: requests")
    with attempt("requests", results, output) as own:
        measure_api(plan, results, own, with_nchan)
    if plan.slow_readers is not None:
        say(f"{MXFLEX}: beside readers that do not read")
        with attempt("slow readers", results, output) as own:
            measure_beside(plan.slow_readers, results, own)
    measure_fanout(plan, results, output, with_nchan)
    return results


if __name__ == "__main__":
    sys.exit(main())
