"""Connections to receivers, on which no answer can be without end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

# How long a receiver may take to accept a connection, in seconds.
CONNECT_SECONDS = 10
# Of one answer, head and body, no more than this is read. Twisted bounds each line of a head, and
# not how many there are.
MAX_BYTES = 256 * 1024


@implementer(IAgentEndpointFactory)
@attrs.frozen
class Endpoints:
    """Gives an `Agent` what makes its connections.

    Args:
        reactor: Makes them.
        policy: Says whom to believe over TLS.
    """

    reactor: IReactorTime
    policy: IPolicyForHTTPS

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Give what makes connections for a URL."""
        host = uri.host.decode("ascii")
        plain = HostnameEndpoint(self.reactor, host, uri.port, timeout=CONNECT_SECONDS)
        if uri.scheme == b"http":
            return _Bounded(plain)
        creator = self.policy.creatorForNetloc(uri.host, uri.port)
        return _Bounded(wrapClientTLS(creator, plain))


@implementer(IStreamClientEndpoint)
@attrs.frozen
class _Bounded:
    """Makes connections that are cut when too much comes on them for one answer."""

    endpoint: IStreamClientEndpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Make one, and fire with the protocol that the factory has made for it."""
        wrapping: WrappingFactory[_Counting] = WrappingFactory(factory)
        wrapping.protocol = _Counting
        wrapping.noisy = False
        connecting = self.endpoint.connect(wrapping)
        return connecting.addCallback(lambda made: cast("_Counting", made).wrappedProtocol)


class _Counting(ProtocolWrapper):
    """Counts what comes; what we say begins another answer."""

    transport: Any
    _left = MAX_BYTES

    def write(self, data: bytes) -> None:
        self._left = MAX_BYTES
        self.transport.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._left = MAX_BYTES
        self.transport.writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.transport.abortConnection()
        else:
            self.wrappedProtocol.dataReceived(data)
