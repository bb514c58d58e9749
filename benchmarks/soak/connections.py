"""What carries a stream: HTTP/1.1, plain or in TLS, and HTTP/2."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Protocol, cast

import attrs
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from mxflex.simulator.server import LOOPBACK

TARGET = "/api/events"
# A connection is made within so many seconds.
CONNECTING = 20.0
# Streams on one connection of HTTP/2.
PER_CONNECTION = 25
# As wide as a browser's for the connection, and the usual 64 KiB for each stream.
CONNECTION_WINDOW = 1 << 24
# What a reluctant client's kernel takes before the server notices, in bytes: little. The largest
# segment bounds what the other end buffers on the loopback, whose segments are of 64 KiB otherwise.
NARROW_BYTES, NARROW_SEGMENT = 4096, 1400

_OK = "200"
# The end of the head of an answer, and of the size of a chunk.
_HEAD_END, _LINE_END = b"\r\n\r\n", b"\r\n"


class Leaving(StrEnum):
    """How a client goes."""

    FIN = "closes"
    RESET = "resets"
    HALF = "closes its half"
    ABRUPT = "closes beneath TLS"
    RST_STREAM = "resets the stream"
    GOAWAY = "closes with all streams beside it"


class Client(Protocol):
    """Whose stream it is."""

    def opened(self) -> None:
        """The answer has begun, with status 200."""

    def feed(self, data: bytes) -> None:
        """Bytes of the stream have come."""

    def ended(self, why: str) -> None:
        """The stream is over; why is a status, "unreachable", or "" after it was open."""

    def left(self) -> None:
        """The client beside it closes the connection of both."""


class Carrier(Protocol):
    """An open stream, as its client sees it."""

    def leave(self, how: Leaving) -> None:
        """End it."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read again."""


def _head(headers: Mapping[str, str]) -> bytes:
    lines = [f"GET {TARGET} HTTP/1.1", "Host: localhost", "Accept: text/event-stream"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class Http1(TwistedProtocol):
    """A stream that has its connection for itself."""

    def __init__(self, client: Client, headers: Mapping[str, str], *, tls: bool) -> None:
        self._client = client
        self._headers = headers
        self._tls = tls
        self._buffer = b""
        self._in_body = False
        # What is left of a chunk, with the end of line behind it; 0 where a size is due.
        self._left = 0
        self._why = "unreachable"

    def connectionMade(self) -> None:
        tcp = self._tcp
        tcp.setTcpNoDelay(True)
        tcp.write(_head(self._headers))
        self._why = "no answer"

    def dataReceived(self, data: bytes) -> None:
        if self._in_body:
            self._read_chunks(data)
            return
        self._buffer += data
        head, separator, rest = self._buffer.partition(_HEAD_END)
        if not separator:
            return
        self._buffer = b""
        status = head.split(b" ", 2)[1].decode("ascii")
        if status != _OK or b"\r\ntransfer-encoding: chunked" not in head.lower():
            self._why = f"status {status}"
            self._tcp.loseConnection()
            return
        self._why = ""
        self._in_body = True
        self._client.opened()
        self._read_chunks(rest)

    def _read_chunks(self, data: bytes) -> None:
        """Give the client what is in the chunks (RFC 9112, 7.1)."""
        at = 0
        pieces = []
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        while at < len(data):
            if not self._left:
                end = data.find(_LINE_END, at)
                if end < 0:
                    self._buffer = data[at:]
                    break
                size = int(data[at:end].partition(b";")[0], 16)
                at = end + len(_LINE_END)
                if not size:
                    # The server has ended the answer.
                    self._tcp.loseConnection()
                    break
                self._left = size + len(_LINE_END)
            piece = data[at : at + self._left]
            # Of the end of line behind the chunk nothing belongs to it.
            behind = max(0, len(piece) - max(0, self._left - len(_LINE_END)))
            pieces.append(piece[: len(piece) - behind] if behind else piece)
            at += len(piece)
            self._left -= len(piece)
        if pieces:
            self._client.feed(b"".join(pieces))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        self._client.ended(self._why)

    @property
    def _tcp(self) -> ITCPTransport:
        return cast("ITCPTransport", self.transport)

    def leave(self, how: Leaving) -> None:
        tcp = self._tcp
        if how is Leaving.RESET:
            tcp.abortConnection()
        elif how is Leaving.HALF:
            cast("Any", tcp).loseWriteConnection()
        elif how is Leaving.ABRUPT and self._tls:
            cast("Any", tcp).transport.loseConnection()
        else:
            tcp.loseConnection()

    def pause(self) -> None:
        cast("IPushProducer", self.transport).pauseProducing()

    def resume(self) -> None:
        cast("IPushProducer", self.transport).resumeProducing()


class Connector(ClientFactory):
    """Makes one connection, once.

    Args:
        make: Gives its protocol.
        failed: Called when there is none to be had.
    """

    noisy = False

    def __init__(self, make: Callable[[], TwistedProtocol], failed: Callable[[], None]) -> None:
        self._make = make
        self._failed = failed

    def buildProtocol(self, addr: object) -> TwistedProtocol:  # noqa: ARG002
        return self._make()

    def clientConnectionFailed(self, connector: object, reason: object) -> None:  # noqa: ARG002
        self._failed()


@attrs.define(eq=False)
class Ways:
    """Opens streams.

    Args:
        reactor: Connects.
        plain: The port of the server that is not encrypted.
        secure: The port of the one that is; 0 when there is none.
    """

    reactor: Any
    plain: int
    secure: int
    _tls: Any = attrs.field(factory=lambda: CertificateOptions(verify=False))
    _h2_tls: Any = attrs.field(
        factory=lambda: CertificateOptions(verify=False, acceptableProtocols=[b"h2"])
    )
    _links: list[H2Link] = attrs.field(factory=list)

    def open_plain(self, client: Client, headers: Mapping[str, str], *, narrow: bool) -> Carrier:
        """Open a stream of plain HTTP/1.1; a narrow one has hardly any buffers below it."""
        protocol = Http1(client, headers, tls=False)
        self._connect(self.plain, protocol, lambda: client.ended("unreachable"), narrow=narrow)
        return protocol

    def open_tls(self, client: Client, headers: Mapping[str, str], *, narrow: bool) -> Carrier:
        """Open a stream of HTTP/1.1 in TLS."""
        protocol = Http1(client, headers, tls=True)
        factory = Connector(lambda: protocol, lambda: client.ended("unreachable"))
        secured = TLSMemoryBIOFactory(self._tls, True, factory)
        self._dial(self.secure, secured, lambda: client.ended("unreachable"), narrow=narrow)
        return protocol

    def open_h2(self, client: Client, headers: Mapping[str, str], *, narrow: bool) -> Carrier:  # noqa: ARG002 - windows do it
        """Open a stream of HTTP/2, on a connection that has room."""
        link = next((link for link in self._links if link.has_room), None)
        if link is None:
            link = H2Link(self._links.remove)
            self._links.append(link)
            factory = Connector(lambda: link, link.unreachable)
            secured = TLSMemoryBIOFactory(self._h2_tls, True, factory)
            self._dial(self.secure, secured, link.unreachable, narrow=False)
        return link.open(client, headers)

    def _connect(
        self, port: int, protocol: TwistedProtocol, failed: Callable[[], None], *, narrow: bool
    ) -> None:
        self._dial(port, Connector(lambda: protocol, failed), failed, narrow=narrow)

    def _dial(self, port: int, factory: Any, failed: Callable[[], None], *, narrow: bool) -> None:
        if not narrow:
            self.reactor.connectTCP(LOOPBACK, port, factory, timeout=CONNECTING)
            return
        # Buffers must be set before connecting, which Twisted does not let us do.
        with socket.socket() as narrowed:
            narrowed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
            narrowed.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, NARROW_SEGMENT)
            narrowed.settimeout(CONNECTING)
            try:
                narrowed.connect((LOOPBACK, port))
            except OSError:
                self.reactor.callLater(0, failed)
                return
            narrowed.setblocking(False)
            self.reactor.adoptStreamConnection(narrowed.fileno(), socket.AF_INET, factory)


# --- HTTP/2 ---------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _H2Stream:
    """A stream beside others on a connection.

    Attributes:
        owed: Bytes that have come and whose window is not opened again; None while it is read.
    """

    link: H2Link
    client: Client
    headers: Mapping[str, str]
    id: int = 0
    why: str = "no answer"
    owed: int | None = None

    def leave(self, how: Leaving) -> None:
        self.link.leave(self, how)

    def pause(self) -> None:
        if self.owed is None:
            self.owed = 0

    def resume(self) -> None:
        owed, self.owed = self.owed, None
        if owed:
            self.link.acknowledge(self, owed)


class H2Link(TwistedProtocol):
    """A connection with several streams."""

    def __init__(self, forget: Callable[[H2Link], None]) -> None:
        self._forget = forget
        self._conn = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._conn.local_settings.update({SettingCodes.ENABLE_PUSH: 0})
        self._waiting: list[_H2Stream] = []
        self._streams: dict[int, _H2Stream] = {}
        # Going means that we have said so, and listen to nothing more.
        self._ready = self._going = self._over = False

    @property
    def has_room(self) -> bool:
        """Whether another stream may go here."""
        if self._over or self._going:
            return False
        return len(self._waiting) + len(self._streams) < PER_CONNECTION

    def open(self, client: Client, headers: Mapping[str, str]) -> _H2Stream:
        """Ask for a stream, at once or when the connection is there."""
        stream = _H2Stream(self, client, headers)
        if self._ready:
            self._ask(stream)
            self._flush()
        else:
            self._waiting.append(stream)
        return stream

    def unreachable(self) -> None:
        """Know that there is no connection."""
        self._end("unreachable")

    def connectionMade(self) -> None:
        self._conn.initiate_connection()
        self._conn.increment_flow_control_window(CONNECTION_WINDOW)
        self._ready = True
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            self._ask(stream)
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        self._end("")

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._forget(self)
        streams = [*self._waiting, *self._streams.values()]
        self._waiting.clear()
        self._streams.clear()
        for stream in streams:
            stream.client.ended(why or stream.why)

    def _ask(self, stream: _H2Stream) -> None:
        stream.id = self._conn.get_next_available_stream_id()
        self._streams[stream.id] = stream
        fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", TARGET),
            ("accept", "text/event-stream"),
            *((name.lower(), value) for name, value in stream.headers.items()),
        ]
        self._conn.send_headers(stream.id, fields, end_stream=True)

    def dataReceived(self, data: bytes) -> None:
        if self._going:
            return
        for event in self._conn.receive_data(data):
            self._take(event)
        self._flush()

    def _take(self, event: Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", 0) or 0)
        match event:
            case ConnectionTerminated():
                self._go()
            case DataReceived():
                self._take_data(stream, event)
            case ResponseReceived() if stream is not None:
                status = dict(event.headers or ())[b":status"].decode("ascii")
                stream.why = "" if status == _OK else f"status {status}"
                if status == _OK:
                    stream.client.opened()
            case StreamEnded() | StreamReset() if stream is not None:
                del self._streams[stream.id]
                stream.client.ended(stream.why)

    def _take_data(self, stream: _H2Stream | None, event: DataReceived) -> None:
        size = event.flow_controlled_length or 0
        if stream is None:
            # Was on its way when we reset the stream; the connection's window is to open again.
            self._conn.acknowledge_received_data(size, event.stream_id or 0)
            return
        if stream.owed is None:
            self._conn.acknowledge_received_data(size, stream.id)
        else:
            stream.owed += size
            self._conn.increment_flow_control_window(size)
        stream.client.feed(bytes(event.data or b""))

    def acknowledge(self, stream: _H2Stream, size: int) -> None:
        """Open a window again by what was held back; the connection's is open already."""
        if stream.id in self._streams and not self._going:
            self._conn.increment_flow_control_window(size, stream.id)
            self._flush()

    def leave(self, stream: _H2Stream, how: Leaving) -> None:
        """End a stream, or the connection with all of them."""
        if self._going:
            return
        if how is Leaving.GOAWAY:
            for other in [*self._waiting, *self._streams.values()]:
                if other is not stream:
                    other.client.left()
            self._conn.close_connection()
            self._flush()
            self._go()
        elif stream.id in self._streams:
            self._conn.reset_stream(stream.id, ErrorCodes.CANCEL)
            self._flush()
            del self._streams[stream.id]
            stream.client.ended(stream.why)
            if not self._streams and not self._waiting:
                self._go()

    def _go(self) -> None:
        self._going = True
        cast("Any", self.transport).loseConnection()

    def _flush(self) -> None:
        data = self._conn.data_to_send()
        if data and not self._over:
            cast("Any", self.transport).write(data)
