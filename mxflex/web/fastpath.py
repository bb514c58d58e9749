"""The shortest way from prepared bytes to a client's socket.

`request.write` costs each stream a second trip through the reactor: the bytes are queued, the
socket is registered for writing, the kernel reports it, they are sent, and it is unregistered.
Where nothing is queued before them they can be sent at once; what the kernel does not take goes
the usual way. `request.write` stays the reference: tests hold this way to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.tcp import Connection
from twisted.web.http import Request

Writer = Callable[[bytes], None]


class Chunks:
    """Gives bytes as a chunk of HTTP/1.1 (RFC 9112, 7.1); made once for all streams that ask."""

    def __init__(self) -> None:
        self._data = b""
        self._chunk = b""

    def of(self, data: bytes) -> bytes:
        """Give the chunk; the streams of an extension ask for the same object in turn."""
        if data is not self._data:
            self._data = data
            self._chunk = b"%x\r\n%b\r\n" % (len(data), data)
        return self._chunk


class SocketWriter:
    """Sends chunks to a plain TCP socket.

    Args:
        request: An HTTP/1.1 request whose response is chunked.
        chunks: Makes the chunks.
    """

    __slots__ = ("_chunks", "_request", "_transport")

    def __init__(self, request: Request, chunks: Chunks) -> None:
        self._request: Any = request
        self._transport: Any = request.channel.transport
        self._chunks = chunks

    def __call__(self, data: bytes) -> None:
        """Send bytes, at once if nothing is queued before them."""
        request = self._request
        transport = self._transport
        chunk = self._chunks.of(data)
        request.sentLength += len(data)
        if transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting:
            transport.write(chunk)
            return
        if not transport.connected:
            return
        try:
            sent = transport.socket.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The transport will find the same, and tell everybody.
            sent = 0
        if sent < len(chunk):
            transport.write(chunk[sent:])


def writer_for(request: Request, chunks: Chunks) -> Writer:
    """Give the best way to write the body of a response that is about to begin."""
    transport = getattr(request.channel, "transport", None)
    chunked = request.clientproto == b"HTTP/1.1"
    if chunked and isinstance(transport, Connection) and not transport.TLS:
        return SocketWriter(request, chunks)
    return request.write
