"""The server's side of one TLS connection, on the standard library's `ssl`.

Twisted's TLS is written for pyOpenSSL. `ServerConnection` looks to it like an
`OpenSSL.SSL.Connection` and is a `ssl.SSLObject` within, which encrypts an event in less time and
takes less memory (docs/performance.md). With thousands of open streams that counts.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import ClassVar

from OpenSSL import SSL

# RFC 8446, 5.1: types of records, and the longest plain one.
_ALERT, _HANDSHAKE = 21, 22
_HEADER_BYTES = 5
_MAX_RECORD_BYTES = 2**14
# RFC 7301, 3.1 and 3.2: the extension, and a fatal alert of the record layer's own.
_ALPN = 16
_NO_APPLICATION_PROTOCOL = bytes((_ALERT, 3, 3, 0, 2, 2, 120))


class ServerConnection:
    """One connection, from the handshake on.

    It has what `twisted.protocols.tls.TLSMemoryBIOProtocol` calls, by pyOpenSSL's names and with
    its exceptions.

    Args:
        context: Certificate, key and settings.
        protocols: The application protocols that the context knows. A client that offers others
            alone is refused, as RFC 7301, 3.2 wants it; the standard library would let it pass.

    Attributes:
        encrypt: Takes plain bytes of up to one record; the handshake must be done. Raises
            `ssl.SSLError`.
        encrypted: Takes away up to so many bytes that are to be sent, or none.
        record_bytes: Plain bytes that should be encrypted before what came of them is taken away.
            OpenSSL keeps room for the most that was ever waiting as long as the connection lasts:
            by what a certificate and its chain take, not by the largest record.
        disturbed: Called, if set, before anything but `encrypt` may have TLS say something.
    """

    record_bytes: ClassVar[int] = 4096

    __slots__ = (
        "_hello",
        "_incoming",
        "_protocols",
        "_refused",
        "_tls",
        "disturbed",
        "encrypt",
        "encrypted",
    )

    def __init__(self, context: ssl.SSLContext, protocols: frozenset[bytes]) -> None:
        self._incoming = ssl.MemoryBIO()
        outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, outgoing, server_side=True)
        self._protocols = protocols
        # What came before the first record was complete; None from then on.
        self._hello: bytes | None = b""
        self._refused = False
        # What the standard library has around it is one more call, for nothing.
        self.encrypt: Callable[[bytes], int] = getattr(self._tls, "_sslobj", self._tls).write
        self.encrypted: Callable[[int], bytes] = outgoing.read
        self.disturbed: Callable[[], None] | None = None

    def set_accept_state(self) -> None:
        """Be a server: it is one."""

    def set_app_data(self, _data: object) -> None:
        """Be told whose connection it is: nothing here asks."""

    def bio_write(self, data: bytes) -> int:
        """Take bytes of the client."""
        self._disturb()
        if self._hello is None:
            return self._incoming.write(data)
        hello = self._hello + data
        if len(hello) < _HEADER_BYTES or not _is_whole(hello):
            self._hello = hello
            return len(data)
        self._hello = None
        self._refused = not _offered(hello, self._protocols)
        self._incoming.write(hello)
        return len(data)

    def _disturb(self) -> None:
        if self.disturbed is not None:
            self.disturbed()

    def bio_read(self, size: int) -> bytes:
        """Give bytes for the client.

        Raises:
            SSL.WantReadError: There are none.
        """
        data = self.encrypted(size)
        if not data:
            if self._refused:
                self._refused = False
                return _NO_APPLICATION_PROTOCOL
            raise SSL.WantReadError
        return data

    def bio_shutdown(self) -> None:
        """Know that the client sends no more."""
        self._incoming.write_eof()

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            SSL.WantReadError: It needs more of the client's bytes.
            SSL.Error: It has failed.
        """
        if self._refused:
            raise _error("no application protocol")
        try:
            self._tls.do_handshake()
        except ssl.SSLError as error:
            raise _as_pyopenssl(error) from None

    def recv(self, size: int) -> bytes:
        """Give plain bytes of the client.

        Raises:
            SSL.WantReadError: There are none yet.
            SSL.ZeroReturnError: The client has said goodbye.
            SSL.Error: The connection is broken.
        """
        try:
            data: bytes = self._tls.read(size)
        except ssl.SSLError as error:
            raise _as_pyopenssl(error) from None
        if not data:
            raise SSL.ZeroReturnError
        return data

    def send(self, data: bytes) -> int:
        """Encrypt bytes, as many as a record takes; tell how many that were.

        Raises:
            SSL.WantReadError: The client has to say something first.
            SSL.Error: The connection is broken.
        """
        self._disturb()
        try:
            return self.encrypt(data[: self.record_bytes])
        except ssl.SSLError as error:
            raise _as_pyopenssl(error) from None

    def shutdown(self) -> bool:
        """Say goodbye; tell whether the client has, too.

        Raises:
            SSL.Error: There is nothing to say goodbye to.
        """
        self._disturb()
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _as_pyopenssl(error) from None
        return True

    def get_alpn_proto_negotiated(self) -> bytes:
        """Give the application protocol that was agreed on; empty if none was."""
        return (self._tls.selected_alpn_protocol() or "").encode("ascii")

    def get_peer_certificate(self) -> None:
        """Give the client's certificate: none is asked for."""


def _as_pyopenssl(error: ssl.SSLError) -> SSL.Error:
    """Give pyOpenSSL's error for one of the standard library."""
    # It stays as the context of what is raised next, and would hold all frames, and by them the
    # connection.
    error.__traceback__ = None
    match error:
        case ssl.SSLWantReadError():
            return SSL.WantReadError()
        case ssl.SSLZeroReturnError():
            return SSL.ZeroReturnError()
        case ssl.SSLEOFError():
            return _error("unexpected eof while reading")
    return _error((error.reason or "").lower().replace("_", " "))


def _error(reason: str) -> SSL.Error:
    # OpenSSL's queue of errors, of which the last one counts: library, function, reason.
    return SSL.Error([("SSL routines", "", reason)])


def _is_whole(hello: bytes) -> bool:
    """Tell whether the first record is complete, or is none that begins a handshake."""
    length = int.from_bytes(hello[3:5], "big")
    if hello[0] != _HANDSHAKE or length > _MAX_RECORD_BYTES:
        return True
    return len(hello) >= _HEADER_BYTES + length


def _offered(hello: bytes, known: frozenset[bytes]) -> bool:
    """Tell whether a ClientHello offers a known application protocol, or none at all.

    What cannot be read is left to OpenSSL. Source: RFC 8446, 4.1.2 and 4.2; RFC 7301, 3.1.
    """
    if hello[0] != _HANDSHAKE:
        return True
    # Behind the record's header, the message's, the version and the random bytes.
    view = _Reader(hello, _HEADER_BYTES + 4 + 2 + 32)
    view.take(1)
    view.take(2)
    view.take(1)
    extensions = _Reader(view.take(2))
    while extensions.left:
        kind = int.from_bytes(extensions.next(2), "big")
        content = extensions.take(2)
        if kind == _ALPN:
            names = _Reader(_Reader(content).take(2))
            offered = set()
            while names.left:
                offered.add(names.take(1))
            return not known.isdisjoint(offered)
    return True


class _Reader:
    """Reads vectors (RFC 8446, 3.4); beyond the end there are empty ones."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._position = position

    @property
    def left(self) -> bool:
        """Whether there is more."""
        return self._position < len(self._data)

    def next(self, count: int) -> bytes:
        """Give the next bytes."""
        start, self._position = self._position, self._position + count
        return self._data[start : self._position]

    def take(self, length_bytes: int) -> bytes:
        """Give the next vector, whose length takes so many bytes."""
        return self.next(int.from_bytes(self.next(length_bytes), "big"))
