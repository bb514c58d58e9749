"""What a test leaves in the reactor: sockets and delayed calls."""

from __future__ import annotations

from twisted.internet.task import deferLater

# Both ends of a connection hear of its end in turns of the reactor of their own; a test is given
# this long for that, in seconds. Whatever is a leak stays for much longer.
GRACE_SECONDS = 3.0
STEP_SECONDS = 0.01


class Leftovers:
    """Compares what the reactor holds after a test with what it held before.

    Args:
        reactor: The reactor, as it is before the test.
    """

    def __init__(self, reactor):
        self._reactor = reactor
        self._before = self._held()

    def _held(self):
        reactor = self._reactor
        return {
            *reactor.getReaders(),
            *reactor.getWriters(),
            *(call for call in reactor.getDelayedCalls() if call.active()),
        }

    async def check(self):
        """Wait until nothing more is held than before.

        Raises:
            AssertionError: Something stays; the message lists it.
        """
        deadline = self._reactor.seconds() + GRACE_SECONDS
        while left := self._held() - self._before:
            if self._reactor.seconds() > deadline:
                raise AssertionError(f"left in the reactor: {sorted(map(str, left))}")
            await deferLater(self._reactor, STEP_SECONDS)
