"""The shortest ways from prepared bytes to a client's socket.

`request.write` costs each stream a second trip through the reactor: the bytes are queued, the
socket is registered for writing, the kernel reports it, they are sent, and it is unregistered.
Where nothing is queued before them they can be sent at once; what the kernel does not take goes
the usual way. `request.write` stays the reference: tests hold these ways to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from ssl import SSLError
from typing import Any, Protocol

from twisted.internet.tcp import Connection
from twisted.protocols.tls import BufferingTLSTransport
from twisted.web.http import Request

_EVERYTHING = -1


class Writer(Protocol):
    """Writes the body of an answer that has begun.

    Attributes:
        sent: Bytes of the body so far that the request has not counted itself.
    """

    sent: int

    def write(self, data: bytes) -> None:
        """Send bytes, or queue them behind what is queued."""


class Chunks:
    """Gives bytes as a chunk of HTTP/1.1 (RFC 9112, 7.1); made once for all streams that ask.

    Attributes:
        data: The bytes that were last asked for.
        chunk: Those as a chunk.
        size: The chunk's bytes.
    """

    __slots__ = ("chunk", "data", "size")

    def __init__(self) -> None:
        self.data = self.chunk = b""
        self.size = 0

    def of(self, data: bytes) -> bytes:
        """Give the chunk; the streams of an extension ask for the same object in turn."""
        if data is not self.data:
            self.data = data
            self.chunk = b"%x\r\n%b\r\n" % (len(data), data)
            self.size = len(self.chunk)
        return self.chunk


class RequestWriter:
    """Writes the usual way, by the request: what all others are held to.

    Args:
        request: Any request.

    Attributes:
        sent: Always 0: the request counts.
        write: See `Writer`.
    """

    __slots__ = ("sent", "write")

    def __init__(self, request: Request) -> None:
        self.sent = 0
        self.write: Callable[[bytes], None] = request.write


class Corks:
    """Connections that hold the bytes of several streams back, to send them in one piece.

    Args:
        later: Does something in the next turn of the reactor.
    """

    def __init__(self, later: Callable[[Callable[[], None]], object]) -> None:
        self._later = later
        self._flushes: list[Callable[[], None]] = []

    def add(self, flush: Callable[[], None]) -> None:
        """Let this be called in the next turn."""
        if not self._flushes:
            self._later(self._pull)
        self._flushes.append(flush)

    def _pull(self) -> None:
        flushes, self._flushes = self._flushes, []
        for flush in flushes:
            flush()


class SocketWriter:
    """Sends chunks to a plain TCP socket.

    Args:
        request: An HTTP/1.1 request whose response is chunked.
        chunks: Makes the chunks.

    Attributes:
        sent: Bytes of the body so far.
    """

    __slots__ = ("_behind", "_chunks", "_send", "_transport", "sent")

    def __init__(self, request: Request, chunks: Chunks) -> None:
        transport: Any = request.channel.transport
        self._transport = transport
        self._send = transport.socket.send
        self._chunks = chunks
        # Whether the transport may have something to send before; nobody else writes there as long
        # as the answer is open. With many streams, not to look at the transport is worth a tenth.
        self._behind = True
        self.sent = 0

    def write(self, data: bytes) -> None:
        """Send bytes, at once if nothing is queued before them."""
        chunks = self._chunks
        if data is not chunks.data:
            chunks.of(data)
        self.sent += len(data)
        if self._behind and not self._caught_up():
            self._transport.write(chunks.chunk)
            return
        try:
            sent = self._send(chunks.chunk)
        except OSError:
            # Full; or the transport will find the same, and tell everybody.
            sent = 0
        if sent != chunks.size:
            self._behind = True
            self._transport.write(chunks.chunk[sent:])

    def _caught_up(self) -> bool:
        transport = self._transport
        self._behind = bool(transport.dataBuffer or transport._tempDataBuffer)
        return not self._behind


class SecureSender:
    """Sends bytes over TLS, encrypted and straight to the socket where nothing is queued.

    Args:
        tls: The TLS side of a connection whose handshake is done, with a handle of the kind of
            `mxflex.certs.connection.ServerConnection`.

    Attributes:
        record_bytes: Plain bytes that make one TLS record.
    """

    __slots__ = ("_encrypt", "_encrypted", "_send", "_tls", "_transport", "record_bytes")

    def __init__(self, tls: BufferingTLSTransport) -> None:
        self._tls: Any = tls
        connection: Any = tls.getHandle()
        self._encrypt = connection.encrypt
        self._encrypted = connection.encrypted
        self.record_bytes: int = connection.record_bytes
        transport: Any = tls.transport
        self._transport = transport
        self._send = transport.socket.send

    def send(self, data: bytes) -> None:
        """Send bytes, at once if nothing is queued before them."""
        if not self.caught_up():
            self._tls.write(data)
            return
        step = self.record_bytes
        if len(data) <= step:
            self.send_record(data)
            return
        records: list[bytes] = []
        for start in range(0, len(data), step):
            try:
                self._encrypt(data[start : start + step])
            except SSLError:
                # It waits for the peer, or is broken: Twisted knows what to do.
                self._put(b"".join(records))
                self._tls.write(data[start:])
                return
            records.append(self._encrypted(_EVERYTHING))
        self._put(b"".join(records))

    def caught_up(self) -> bool:
        """Tell whether TLS and the transport below have nothing to send before."""
        transport = self._transport
        return not (
            transport.dataBuffer or transport._tempDataBuffer or self._tls._aggregator._buffer
        )

    def send_record(self, data: bytes) -> bool:
        """Send what fits into a record, behind what the transport may have queued.

        Returns:
            Whether TLS, and the socket at once, have taken it all; if not it is queued.
        """
        try:
            self._encrypt(data)
        except SSLError:
            self._tls.write(data)
            return False
        return self._put(self._encrypted(_EVERYTHING))

    def _put(self, records: bytes) -> bool:
        """Send records; tell whether the socket has taken them at once."""
        transport = self._transport
        if transport.dataBuffer or transport._tempDataBuffer:
            # TLS itself has had something to say.
            transport.write(records)
            return False
        try:
            sent = self._send(records)
        except OSError:
            sent = 0
        if sent != len(records):
            transport.write(records[sent:])
            return False
        return True

    @classmethod
    def for_transport(cls, transport: object) -> SecureSender | None:
        """Give a sender for a transport, if it is our TLS on a TCP socket."""
        if (
            isinstance(transport, BufferingTLSTransport)
            and hasattr(transport.getHandle(), "encrypt")
            and isinstance(transport.transport, Connection)
        ):
            return cls(transport)
        return None


class SecureWriter:
    """Sends chunks over TLS.

    Args:
        sender: The connection's.
        chunks: Makes the chunks.

    Attributes:
        sent: Bytes of the body so far.
    """

    __slots__ = ("_behind", "_chunks", "_sender", "sent")

    def __init__(self, sender: SecureSender, chunks: Chunks) -> None:
        self._sender = sender
        self._chunks = chunks
        # As in `SocketWriter`.
        self._behind = True
        self.sent = 0

    def write(self, data: bytes) -> None:
        """Send bytes, at once if nothing is queued before them."""
        chunks = self._chunks
        if data is not chunks.data:
            chunks.of(data)
        self.sent += len(data)
        if self._behind or chunks.size > self._sender.record_bytes:
            self._sender.send(chunks.chunk)
            self._behind = not self._sender.caught_up()
        else:
            self._behind = not self._sender.send_record(chunks.chunk)


def writer_for(request: Request, chunks: Chunks, corks: Corks) -> Writer:
    """Give the best way to write the body of a response that has begun."""
    channel: Any = request.channel
    make = getattr(channel, "event_writer", None)
    if make is not None:
        # A stream of HTTP/2.
        writer: Writer = make(corks)
        return writer
    if request.clientproto == b"HTTP/1.1":
        transport = channel.transport
        if isinstance(transport, Connection) and not transport.TLS:
            return SocketWriter(request, chunks)
        sender = SecureSender.for_transport(transport)
        if sender is not None:
            return SecureWriter(sender, chunks)
    return RequestWriter(request)
