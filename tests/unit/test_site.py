"""The channel of an HTTP/1.1 connection, without a socket."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from mxflex.web.site import MXFlexSite


class Socket(StringTransport):
    """What HTTP wants of a transport beside what tests need."""

    def getTcpNoDelay(self):
        return True

    def setTcpNoDelay(self, enabled):
        """Send small parts at once, as here they always are."""


@pytest.mark.parametrize("late", ["pauseProducing", "resumeProducing", "loseConnection"])
def test_nothing_waits_for_a_connection_that_is_lost(late):
    """What is said to a channel after its end starts no timer, which would end in a traceback."""
    clock = Clock()
    site = MXFlexSite(Resource(), clock, ())
    channel = site.buildProtocol(None)
    channel.makeConnection(Socket())
    channel.connectionLost(Failure(ConnectionDone()))
    getattr(channel._channel, late)()
    assert clock.getDelayedCalls() == []
