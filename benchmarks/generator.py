"""The readers, as seen from here: `native/load.c` in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from benchmarks.plan import STEP, Transport
from benchmarks.processes import BenchmarkError, Program

NATIVE = Path(__file__).parent / "native"
LOAD, FLOOR = NATIVE / "build" / "load", NATIVE / "build" / "floor"

# For one answer of the readers, in seconds.
PATIENCE = 10.0
_FLAGS = {Transport.PLAIN: (), Transport.TLS: ("--tls",), Transport.H2: ("--h2",)}


class Readers:
    """Streams that are open, and what has come by them.

    Args:
        folder: Where the log goes.
        port: Where to connect to.
        transport: How.
        streams: How many.
        per_connection: How many of them share a connection.
        target: What to ask for.
        headers: Further headers, `name: value`.
        deaf: Whether they stop reading once they are open.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        transport: Transport = Transport.PLAIN,
        streams: int = 1,
        per_connection: int = 1,
        target: str = "/",
        headers: Iterable[str] = (),
        deaf: bool = False,
    ) -> None:
        self.streams = streams
        self.program = Program(
            "deaf" if deaf else "load",
            [
                *(LOAD, "--port", str(port), "--streams", str(streams), "--target", target),
                *("--per-connection", str(per_connection), "--step", str(STEP)),
                *_FLAGS[transport],
                *(("--deaf",) if deaf else ()),
                *(word for header in headers for word in ("--header", header)),
            ],
            folder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.program.stop()

    def when_open(self, seconds: float) -> None:
        """Wait until all streams are open.

        Raises:
            BenchmarkError: That took too long, or a stream was refused.
        """
        self._next("open", seconds)

    def when_passed(
        self, last: int, seconds: float, each: Callable[[int], None] | None = None
    ) -> None:
        """Wait until every stream has had an event.

        Args:
            last: Its number, a multiple of `STEP`.
            seconds: How long to wait for each step.
            each: Called with the number of each step that all have passed.

        Raises:
            BenchmarkError: A step did not come, or a stream ended.
        """
        passed = 0
        while passed < last:
            passed = self.next_step(seconds)
            if each is not None:
                each(passed)

    def next_step(self, seconds: float) -> int:
        """Wait until every stream has had the next step; gives the number of its last event."""
        sequence: int = self._next("passed", seconds)["sequence"]
        return sequence

    def mark(self) -> None:
        """Begin to count anew; whatever is sent after this returns is counted."""
        self.program.tell("mark")
        self._next("marked", PATIENCE)

    def report(self) -> dict[str, Any]:
        """Give the figures since the mark."""
        self.program.tell("report")
        return self._next("report", PATIENCE)

    def _next(self, event: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            answer = self.program.read(max(0.0, deadline - time.monotonic()))
            if answer["event"] == event:
                return answer
            if answer["event"] == "lost" and event != "report":
                raise BenchmarkError(f"a stream was lost: {answer}")
