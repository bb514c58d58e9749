"""Other programs: lines to and from them, their processor time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Programs that are asked to end may take so long, in seconds.
PATIENCE = 15.0
_READ_BYTES = 64 * 1024


class BenchmarkError(Exception):
    """Something is missing, or did not do what it must."""


class Program:
    """A running program; its words on standard error go to a file.

    Args:
        name: What it is called in errors and in the name of its log.
        command: Its path and its arguments.
        folder: Where it runs and where its log goes.
        answers: Whether it speaks to us on standard output; otherwise that goes to the log, too:
            a pipe that nobody reads would stop it when it is full.
        polite: Whether it is asked to end; otherwise it is ended at once.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        *,
        answers: bool = True,
        polite: bool = True,
    ) -> None:
        self.name = name
        self._polite = polite
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - commands are written in this package
                [str(word) for word in command],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if answers else log,
                stderr=log,
                # Ctrl-C is for the one that runs the others, and stops them.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._received = b""

    # --- Lines ------------------------------------------------------------------------------------

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        try:
            self._input.write(line.encode() + b"\n")
            self._input.flush()
        except BrokenPipeError as error:
            raise self.failure("has ended") from error

    def read(self, seconds: float) -> dict[str, Any]:
        """Read a line of JSON from its standard output.

        Args:
            seconds: How long to wait for it.

        Raises:
            BenchmarkError: None came, or the program has ended.
        """
        assert self._output is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._output], [], [], left)[0]:
                raise self.failure(f"said nothing for {seconds:.0f} s")
            data = os.read(self._output.fileno(), _READ_BYTES)
            if not data:
                raise self.failure("has ended")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def failure(self, what: str) -> BenchmarkError:
        """Give an exception that names the program and its log."""
        return BenchmarkError(f"{self.name} {what}; see {self.log}")

    # --- What it uses -----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Give the processor time that it and its children have used, by the scheduler's count."""
        return self._scheduled(0)

    def waited_seconds(self) -> float:
        """Give for how long they could have run, and had to wait for a processor."""
        return self._scheduled(1)

    def _scheduled(self, column: int) -> float:
        """Add up a column of the scheduler's count.

        Source: Documentation/scheduler/sched-stats.rst of Linux, "/proc/<pid>/schedstat":
        nanoseconds on a processor, nanoseconds of waiting for one.
        """
        total = 0
        for pid in self.family():
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[column])
        return total / 1e9

    def resident_bytes(self) -> int:
        """Give the memory that it and its children hold, shared parts counted once in each."""
        return self._held("Rss")

    def anonymous_bytes(self) -> int:
        """Give the part of it that no file is behind.

        The rest, programs and libraries, the kernel drops and reads again as it likes.
        """
        return self._held("Anonymous")

    def _held(self, kind: str) -> int:
        total = 0
        for pid in self.family():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{kind}:"):
                    total += int(line.split()[1]) * 1024
        return total

    def malloc(self) -> str:
        """Give whose `malloc` it uses: jemalloc's where that is preloaded, or the C library's."""
        maps = Path(f"/proc/{self.pid}/maps").read_text()
        return "jemalloc" if "libjemalloc" in maps else "C library"

    def descriptors(self) -> int:
        """Give how many files, sockets among them, it has open; its children are not counted."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def family(self) -> Iterator[int]:
        """Give the process ids of it and its children."""
        yield self.pid
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name in parentheses may hold blanks; the parent is the second word behind it.
                parent = int(path.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.pid:
                yield int(path.parent.name)

    def interrupt(self) -> None:
        """End it as Ctrl-C does, and wait until it has put away what it has."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE)
        self.stop()

    def stop(self) -> None:
        """End it. Idempotent."""
        if self.running and self._polite:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        if self.running:
            self._process.kill()
        self._process.wait()
        # Closing flushes; whatever was not read by then is lost with the reader.
        for pipe in (self._input, self._output):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                continue


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run a program to its end, and give what it wrote to standard output.

    Raises:
        BenchmarkError: It is not there, or failed; with what it said.
    """
    try:
        done = subprocess.run(  # noqa: S603 - commands are written in this package
            [str(word) for word in command], cwd=folder, check=True, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise BenchmarkError(f"{command[0]} is missing") from error
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{command[0]} failed:\n{error.stderr}") from error
    return done.stdout
