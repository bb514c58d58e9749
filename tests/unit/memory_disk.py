"""A disk whose thread is the test."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Disk:
    """Does jobs at once, or when a test lets it.

    Args:
        error: What broken ones fail with.

    Attributes:
        slow: Whether jobs wait for `catch_up`.
        broken: Whether jobs fail.
        waiting: The jobs that wait.
        rounds: How many jobs were done.
    """

    def __init__(self, error):
        self._error = error
        self.slow = self.broken = self.stopped = False
        self.waiting = []
        self.rounds = 0

    def run(self, job):
        done = Deferred()
        self.waiting.append((job, done))
        if not self.slow:
            self.catch_up()
        return done

    def catch_up(self):
        """Do all that waits, and what comes of it unless it is slow still."""
        waiting, self.waiting = self.waiting, []
        for job, done in waiting:
            self.rounds += 1
            if self.broken:
                done.errback(self._error)
                continue
            try:
                result = job()
            except Exception:
                done.errback(Failure())
            else:
                done.callback(result)

    def stop(self):
        self.stopped = True
