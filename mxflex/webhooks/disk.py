"""A thread for the disk, so that the reactor never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

_T = TypeVar("_T")
_Job = Callable[[], None]


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
            self._thread = Thread(target=self._work, name="mxflex-webhooks", daemon=True)
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
