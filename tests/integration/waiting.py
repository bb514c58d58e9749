"""What the clients of the tests have in common: they wait until something has come."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol


class WaitingProtocol(Protocol):
    """One end of a connection, or of a response, that a test can wait for.

    Args:
        soon: Lets a Deferred fail that takes too long.

    Attributes:
        closed: Whether the other side has closed.
    """

    def __init__(self, soon):
        self.closed = False
        self._soon = soon
        self._waiters = []

    def connectionLost(self, reason=None):
        self.closed = True
        self._settle()

    def _settle(self):
        """Let those look who wait."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    async def when(self, condition):
        """Wait until something holds."""
        while not condition():
            waiter = Deferred()
            self._waiters.append(waiter)
            await self._soon(waiter)

    async def when_closed(self):
        """Wait for the end."""
        await self.when(lambda: self.closed)
