"""Files that outlive a crash, and a thread for the disk, so that the reactor never waits for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

# How the names of files begin that are being written, and how those end that are set aside.
NEW = ".new-"
DAMAGED = ".damaged"

_T = TypeVar("_T")
_Job = Callable[[], None]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that only we may read, whole or not at all, and so that it survives a crash.

    Raises:
        OSError: The folder cannot be written to.
    """
    # mkstemp gives mode 0600 from the first moment.
    handle, temporary = tempfile.mkstemp(prefix=NEW, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def set_aside(path: Path) -> Path:
    """Keep a damaged file under another name, for whoever wants to know what happened; give that.

    Raises:
        OSError: The folder cannot be written to.
    """
    return path.replace(path.with_name(path.name + DAMAGED))


class Worker(Protocol):
    """Does jobs one after the other, elsewhere."""

    def run(self, job: Callable[[], _T]) -> Deferred[_T]:
        """Do a job behind those before it, and fire with what it gives or raises."""

    def stop(self) -> None:
        """End behind the jobs that there are."""


class DiskThread:
    """One thread. It does not keep the process from ending, however long the disk takes.

    Args:
        reactor: Where results go.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # Not one of the reactor's pool: their end is waited for.
        self._thread: Thread | None = None

    def run(self, job: Callable[[], _T]) -> Deferred[_T]:
        """See `Worker.run`. Cancelling it only ends the waiting."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="mxflex-disk", daemon=True)
            self._thread.start()
        done: Deferred[_T] = Deferred()

        def work() -> None:
            try:
                result = job()
            except BaseException:
                self._reactor.callFromThread(done.errback, Failure())
            else:
                self._reactor.callFromThread(done.callback, result)

        self._jobs.put(work)
        return done

    def stop(self) -> None:
        """See `Worker.stop`."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
