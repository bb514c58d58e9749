"""`python -m fuzz`: the harnesses side by side, each in a process of its own."""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
from pathlib import Path

from fuzz import TARGETS

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FOUND = HERE / "found"

# One input may take so long; it is a hang from then on. On a busy machine most take milliseconds.
TIMEOUT_SECONDS = 20


def main() -> int:
    """Run the harnesses, and tell of each what came of it."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for how long each runs")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    targets = options.targets or TARGETS
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no such harness: {', '.join(sorted(unknown))}")
    running = {target: _start(target, options.seconds) for target in targets}
    # All are waited for, so that the first finding does not hide the others.
    failed = [target for target, process in running.items() if process.wait() != 0]
    for target in targets:
        _tell(target, target in failed)
    return 1 if failed else 0


def _log(target: str) -> Path:
    return FOUND / f"{target}.log"


def _start(target: str, seconds: int) -> subprocess.Popen[bytes]:
    new = FOUND / target
    new.mkdir(parents=True, exist_ok=True)
    # What is new goes to the first folder; both are read.
    arguments = [
        str(new),
        str(CORPUS / target),
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT_SECONDS}",
        f"-artifact_prefix={FOUND / target}-",
        "-print_final_stats=1",
    ]
    with _log(target).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own harness
            [sys.executable, "-m", "fuzz.engine", target, *arguments],
            cwd=HERE.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _tell(target: str, failed: bool) -> None:
    log = _log(target).read_text(encoding="utf-8", errors="replace")
    if not failed:
        runs = re.search(r"number_of_executed_units: (\d+)", log)
        sys.stdout.write(f"{target}: held for {runs[1] if runs else 'some'} inputs\n")
        return
    raised = re.search(r"=== Uncaught Python exception.*?(?=\n==)", log, re.DOTALL)
    sys.stdout.write(raised[0] if raised else log[-4_000:])
    sys.stdout.write(f"\n{target}: BROKEN\n")
    if written := re.search(r"Test unit written to (.+)", log):
        # The build machine keeps no files, so the input stands in its log.
        data = base64.b64encode(Path(written[1]).read_bytes()).decode()
        sys.stdout.write(
            f"To see it again: echo {data} | base64 -d > broken\n"
            f"                 {sys.executable} -m fuzz.replay {target} broken\n"
        )


if __name__ == "__main__":
    sys.exit(main())
