"""`python -m benchmarks.where`: in whose code a server spends its time, by the kernel's samples."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.api import FIRST_LOGIN, LOGIN, Client, measure_requests
from benchmarks.document import RESULTS, RESULTS_FILE, TABLES, WHERE
from benchmarks.fanout import OPENING, Trial, readers_of
from benchmarks.generator import NATIVE
from benchmarks.machine import assert_same_mxflex, describe_machine, end_as_by_ctrl_c, say
from benchmarks.peers import MXFLEX, Start, has_nchan, peers_for, start_mxflex
from benchmarks.plan import FULL, STEADY, Stage, Transport, steady
from benchmarks.processes import BenchmarkError, Program, run
from benchmarks.tables import table

# Samples a second: so odd a number keeps no time with anything that the load does.
_RATE = 3989
# Of each kind half as many as there are people: the other half is watched.
_LOGINS = 240
# What the parts are called, and what the names of the files in which their code lies begin with.
_PARTS = {
    "kernel": ("[kernel", "[unknown", "[vdso"),
    # The last one is cryptography's module, with the OpenSSL that pyOpenSSL uses in it.
    "OpenSSL": ("libssl", "libcrypto", "_rust.abi3."),
    "Python": ("libpython", "python"),
    "C library": ("libc.", "libc-", "ld-", "libpthread"),
}
_MODULES = "Python's modules in C"
_OWN = "its own"


def part_of(name: str) -> str:
    """Give the part to which the code in a file belongs.

    Args:
        name: As perf gives it: a path, or something in brackets.
    """
    file = name if name.startswith("[") else Path(name).name
    for part, starts in _PARTS.items():
        if file.startswith(starts):
            return part
    if ".cpython-" in file or ".abi3." in file:
        return _MODULES
    return "kernel" if file.startswith("[") else _OWN


def shares_of(names: Iterable[str]) -> dict[str, float]:
    """Give the share of each part in samples.

    Args:
        names: Of each sample, in what file its code lies.

    Raises:
        BenchmarkError: There are none.
    """
    found = Counter(part_of(name) for name in names)
    if not found:
        raise BenchmarkError("perf took no samples: may this user look at the kernel?")
    return {part: count / found.total() for part, count in found.items()}


def measure(start: Start, stage: Stage, seconds: float, folder: Path) -> dict[str, float]:
    """Give the microseconds of each part for a delivered message.

    Args:
        start: Starts the server.
        stage: The streams, and among its loads the steady one.
        seconds: How long that goes on.
        folder: Where logs go.

    Raises:
        BenchmarkError: perf is missing, or something did not come through.
    """
    load = next(load for load in stage.loads if load.name == STEADY)
    assert load.rate is not None
    with (
        start(folder, stage.transport) as stand,
        readers_of(stage, stand, folder) as readers,
    ):
        readers.when_open(OPENING)
        trial = Trial(stand, readers)
        trial.warm_up()
        load = steady(load.rate, seconds)
        # What it costs is counted before: whoever takes samples is in the way.
        spent = trial.give(load).cpu_us
        with _watched(stand.server, folder) as samples:
            trial.give(load)
    return _parts(samples, spent)


def measure_logins(folder: Path) -> dict[str, dict[str, float]]:
    """Give the microseconds of each part for a login, somebody's first one and another one.

    Raises:
        BenchmarkError: See `measure`.
    """
    spent = {}
    with start_mxflex(folder, Transport.PLAIN) as stand:
        client = Client(stand, "/api/contacts")
        client.wait_for_people()
        for name in (FIRST_LOGIN, LOGIN):
            counted = measure_requests(stand, _LOGINS, client.log_in)["cpu_us"]
            with _watched(stand.server, folder) as samples:
                for number in range(_LOGINS, 2 * _LOGINS):
                    client.log_in(number)
            spent[name] = _parts(samples, counted)
        client.close()
    return spent


@contextmanager
def _watched(server: Program, folder: Path) -> Iterator[Path]:
    """Take samples of a server meanwhile; they are in the file when it is over."""
    samples = folder / "perf.data"
    pids = ",".join(map(str, server.family()))
    words: list[str | Path] = ["perf", "record", "--freq", str(_RATE), "--pid", pids]
    words += ["--output", samples]
    try:
        perf = Program("perf", words, folder, answers=False)
    except FileNotFoundError as error:
        raise BenchmarkError("perf is missing: apt install linux-perf") from error
    try:
        yield samples
    finally:
        perf.interrupt()


def _parts(samples: Path, spent: float) -> dict[str, float]:
    """Give the shares of samples, as parts of what was spent."""
    words: list[str | Path] = ["perf", "script", "--force", "--input", samples]
    words += ["--fields", "ip,dso"]
    # Of each sample an address, and the file in parentheses.
    lines = run(words, samples.parent).splitlines()
    names = (line.partition("(")[2].rstrip(" )") for line in lines)
    return {part: share * spent for part, share in shares_of(names).items()}


def main() -> int:
    """Take samples of all peers in turn, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.where", description=__doc__)
    parser.add_argument("--transport", choices=[t.name.lower() for t in Transport], default="tls")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--per-connection", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load, twice a server")
    parser.add_argument("--output", type=Path, help="a folder for the results")
    options = parser.parse_args()
    end_as_by_ctrl_c()
    transport = Transport[options.transport.upper()]
    kind = (transport, options.streams, options.per_connection)
    stage = next(
        (s for s in FULL.stages if (s.transport, s.streams, s.per_connection) == kind), None
    )
    if stage is None:
        parser.error("the full plan has no such streams")
    began = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    output: Path = (options.output or RESULTS / f"{began}-where").resolve()
    output.mkdir(parents=True, exist_ok=True)
    try:
        text = _measure_all(stage, options.seconds, output)
    except BenchmarkError as error:
        say(f"benchmarks: {error}")
        return 2
    sys.stdout.write(text)
    say(f"results: {output}")
    return 0


def _measure_all(stage: Stage, seconds: float, output: Path) -> str:
    machine = describe_machine()
    assert_same_mxflex(output)
    run(["make", "--silent"], NATIVE)
    spent: dict[str, dict[str, float]] = {}
    for peer, start in peers_for(stage.transport, has_nchan()).items():
        say(f"{stage.transport.value}, {stage.streams} streams: {peer}")
        with tempfile.TemporaryDirectory(prefix="run-", dir=output) as folder:
            spent[peer] = measure(start, stage, seconds, Path(folder))
    say(f"{MXFLEX}: logins")
    with tempfile.TemporaryDirectory(prefix="run-", dir=output) as folder:
        logins = measure_logins(Path(folder))
    load = next(load for load in stage.loads if load.name == STEADY)
    text = (
        f"Commit `{machine['commit']}`, {machine['began'][:10]}: {stage.transport.value}, "
        f"{stage.streams:,} streams, {load.rate:g} events a second, {seconds:g} seconds; "
        f"{_LOGINS} logins of each kind.\n\n"
        f"{render('µs a message', spent)}\n\n{render('µs a login', logins)}\n"
    )
    (output / TABLES).write_text(text, encoding="utf-8")
    document = {"machine": machine, WHERE: spent, "logins": logins}
    (output / RESULTS_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return text


def render(unit: str, spent: dict[str, dict[str, float]]) -> str:
    """Give a table: a row for each part, most of the first column at the top.

    Args:
        unit: Of what is microseconds.
        spent: By part, of each column.
    """
    first = next(iter(spent.values()))
    parts = {part for each in spent.values() for part in each}
    rows = [
        (part, *(f"{each[part]:.2f}" if part in each else "-" for each in spent.values()))
        for part in sorted(parts, key=lambda part: -first.get(part, 0.0))
    ]
    rows.append(("all", *(f"{sum(each.values()):.2f}" for each in spent.values())))
    return table((unit, *spent), rows)


if __name__ == "__main__":
    sys.exit(main())
