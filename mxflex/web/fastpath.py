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

from mxflex.web.audience import EVERYTHING, Place, SocketAudience


class Writer(Protocol):
    """Writes the body of an answer that has begun.

    Attributes:
        sent: Bytes of the body so far that the request has not counted itself.
    """

    sent: int

    def write(self, data: bytes) -> None:
        """Send bytes, or queue them behind what is queued."""


class DirectWriter(Writer, Protocol):
    """A writer in whose place an audience may send, as long as nothing is queued."""

    def place(self, audience: SocketAudience) -> Place:
        """Give where the stream may stand."""

    def stepped_out(self) -> None:
        """Know that the audiences do not send any more, and something may be queued."""

    def queue(self, rest: bytes) -> None:
        """Queue what the socket has not taken of what an audience has sent."""


class Pace(Protocol):
    """A stream, as its writer sees it."""

    def step_in(self, writer: DirectWriter) -> None:
        """Let the audiences send: the connection owes nothing."""

    def step_out(self) -> None:
        """Let them send no more. Idempotent."""


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
        pace: The stream.

    Attributes:
        sent: Bytes of the body so far.
    """

    __slots__ = ("_behind", "_chunks", "_pace", "_send", "_transport", "sent")

    def __init__(self, request: Request, chunks: Chunks, pace: Pace) -> None:
        transport: Any = request.channel.transport
        self._transport = transport
        self._send = transport.socket.send
        self._chunks = chunks
        self._pace = pace
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
        transport = self._transport
        if self._behind and (transport.dataBuffer or transport._tempDataBuffer):
            transport.write(chunks.chunk)
            return
        try:
            sent = self._send(chunks.chunk)
        except OSError:
            # Full; or the transport will find the same, and tell everybody.
            sent = 0
        if sent != chunks.size:
            self._pace.step_out()
            self._behind = True
            transport.write(chunks.chunk[sent:])
        elif self._behind:
            self._behind = False
            self._pace.step_in(self)

    def place(self, audience: SocketAudience) -> Place:
        """See `DirectWriter`."""
        return audience.sockets, self._send

    def stepped_out(self) -> None:
        """See `DirectWriter`."""
        self._behind = True

    def queue(self, rest: bytes) -> None:
        """See `DirectWriter`."""
        self._transport.write(rest)


class SecureSender:
    """Sends bytes over TLS, encrypted and straight to the socket where nothing is queued.

    Args:
        tls: The TLS side of a connection whose handshake is done, with a handle of the kind of
            `mxflex.certs.connection.ServerConnection`.

    Attributes:
        encrypt, encrypted: The handle's.
        record_bytes: Plain bytes that make one TLS record.
        send: The socket's.
    """

    __slots__ = ("_tls", "_transport", "encrypt", "encrypted", "record_bytes", "send")

    def __init__(self, tls: BufferingTLSTransport) -> None:
        self._tls: Any = tls
        connection: Any = tls.getHandle()
        self.encrypt: Callable[[bytes], int] = connection.encrypt
        self.encrypted: Callable[[int], bytes] = connection.encrypted
        self.record_bytes: int = connection.record_bytes
        transport: Any = tls.transport
        self._transport = transport
        self.send: Callable[[bytes], int] = transport.socket.send

    def when_disturbed(self, act: Callable[[], None] | None) -> None:
        """Let this be called before the client, or Twisted, may have TLS say something."""
        self._tls.getHandle().disturbed = act

    def write(self, data: bytes) -> None:
        """Send bytes, at once if nothing is queued before them.

        What has to wait waits with the transport, which says when it holds enough; Twisted's TLS
        would first collect what comes in this turn.
        """
        if self._tls._aggregator._buffer or self._tls._appSendBuffer:
            self._tls.write(data)
            return
        step = self.record_bytes
        if len(data) <= step:
            self.write_record(data)
            return
        records: list[bytes] = []
        for start in range(0, len(data), step):
            try:
                self.encrypt(data[start : start + step])
            except SSLError:
                # It waits for the peer, or is broken: Twisted knows what to do.
                self._put(b"".join(records))
                self._tls.write(data[start:])
                return
            records.append(self.encrypted(EVERYTHING))
        self._put(b"".join(records))

    def caught_up(self) -> bool:
        """Tell whether TLS and the transport below have nothing to send before."""
        transport = self._transport
        return not (
            transport.dataBuffer or transport._tempDataBuffer or self._tls._aggregator._buffer
        )

    def write_record(self, data: bytes) -> bool:
        """Send what fits into a record, behind what the transport may have queued.

        Returns:
            Whether TLS, and the socket at once, have taken it all; if not it is queued.
        """
        try:
            self.encrypt(data)
        except SSLError:
            self._tls.write(data)
            return False
        return self._put(self.encrypted(EVERYTHING))

    def _put(self, records: bytes) -> bool:
        """Send records; tell whether the socket has taken them at once."""
        transport = self._transport
        if transport.dataBuffer or transport._tempDataBuffer:
            # TLS itself has had something to say.
            transport.write(records)
            return False
        try:
            sent = self.send(records)
        except OSError:
            sent = 0
        if sent != len(records):
            transport.write(records[sent:])
            return False
        return True

    def queue(self, records: bytes) -> None:
        """Queue records, or a part of one, that the socket has not taken."""
        self._transport.write(records)

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
        pace: The stream.

    Attributes:
        sent: Bytes of the body so far.
    """

    __slots__ = ("_behind", "_chunks", "_pace", "_sender", "sent")

    def __init__(self, sender: SecureSender, chunks: Chunks, pace: Pace) -> None:
        self._sender = sender
        self._chunks = chunks
        self._pace = pace
        # As in `SocketWriter`.
        self._behind = True
        self.sent = 0

    def write(self, data: bytes) -> None:
        """Send bytes, at once if nothing is queued before them."""
        chunks = self._chunks
        if data is not chunks.data:
            chunks.of(data)
        self.sent += len(data)
        sender = self._sender
        if self._behind or chunks.size > sender.record_bytes:
            sender.write(chunks.chunk)
            caught_up = sender.caught_up()
        else:
            caught_up = sender.write_record(chunks.chunk)
        if not caught_up:
            self._pace.step_out()
            self._behind = True
        elif self._behind:
            self._behind = False
            sender.when_disturbed(self._pace.step_out)
            self._pace.step_in(self)

    def place(self, audience: SocketAudience) -> Place:
        """See `DirectWriter`."""
        return audience.senders, self._sender

    def stepped_out(self) -> None:
        """See `DirectWriter`."""
        self._sender.when_disturbed(None)
        self._behind = True

    def queue(self, rest: bytes) -> None:
        """See `DirectWriter`."""
        self._sender.queue(rest)


def writer_for(request: Request, chunks: Chunks, corks: Corks, pace: Pace) -> Writer:
    """Give the best way to write the body of a response that has begun."""
    channel: Any = request.channel
    make = getattr(channel, "event_writer", None)
    if make is not None:
        # A stream of HTTP/2.
        writer: Writer = make(corks, pace)
        return writer
    if request.clientproto == b"HTTP/1.1":
        transport = channel.transport
        if isinstance(transport, Connection) and not transport.TLS:
            return SocketWriter(request, chunks, pace)
        sender = SecureSender.for_transport(transport)
        if sender is not None:
            return SecureWriter(sender, chunks, pace)
    return RequestWriter(request)
