"""TLS to the MX, without the waits that Twisted's own transport has for busier connections.

A connection to the MX carries a question and its answer. Twisted would join small writes, in the
next turn of the reactor, and then wait for the kernel's word that the socket takes bytes, in the
next turn but one: of what a login costs that was a tenth.
"""

from __future__ import annotations

from typing import cast

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

_MOST_AT_ONCE = 2**15


class PromptTLS(TLSMemoryBIOProtocol):
    """Twisted's TLS transport, which gives its records to the socket at once."""

    transport: Connection
    _holding = False

    def makeConnection(self, transport: Connection) -> None:
        """Begin with the handshake.

        Does what the base class does, but for repeating each interface of the transport.
        """
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(self)
        self._checkHandshakeStatus()  # type: ignore[no-untyped-call]

    def writeLast(self, data: bytes) -> None:
        """Send the last bytes and the end of TLS in one piece, and close."""
        self._holding = True
        try:
            super().write(data)  # type: ignore[no-untyped-call]
            super().loseConnection()  # type: ignore[no-untyped-call]
        finally:
            self._holding = False
            self._flushSendBIO()

    def _flushSendBIO(self) -> None:
        if self._holding:
            return
        try:
            records = self._tlsConnection.bio_read(_MOST_AT_ONCE)
        except SSL.WantReadError:
            return
        transport = self.transport
        sent = 0
        if transport.connected and not (transport.dataBuffer or transport._tempDataBuffer):
            try:
                sent = transport.socket.send(records)
            except OSError:
                # It is full; or the transport will find the same, and tell everybody.
                sent = 0
        if sent < len(records):
            transport.write(records[sent:])


class _PromptFactory(TLSMemoryBIOFactory):
    protocol = PromptTLS


def _without_tls(protocol: IProtocol) -> IProtocol:
    return cast("PromptTLS", protocol).wrappedProtocol


@implementer(IStreamClientEndpoint)
@attrs.frozen
class SecureEndpoint:
    """Connects over TLS.

    Args:
        clock: Gives the time and delayed calls.
        tcp: Opens the TCP connections.
        creator: Makes the OpenSSL side of each connection.
    """

    clock: IReactorTime
    tcp: IStreamClientEndpoint
    creator: IOpenSSLClientConnectionCreator

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, and give the factory's protocol; the handshake has just begun."""
        secure = _PromptFactory(self.creator, True, factory, self.clock)
        return self.tcp.connect(secure).addCallback(_without_tls)
