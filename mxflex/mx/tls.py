"""TLS to the MX: which peer is trusted, and how old a firmware may be.

An MX comes with a self-signed certificate without a useful name, so the default accepts any and
says so in the log. Source: docs/mx-protocol.md, "Transport".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import attrs
import service_identity
import service_identity.pyopenssl
from OpenSSL import SSL, crypto
from OpenSSL._util import lib
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mxflex.errors import MXUnavailable

log = Logger()

# For so many seconds after a peer was checked, TLS sessions with it are taken up again, and neither
# the end of its certificate nor a change of the CAs is noticed. So long, too, all handshakes are
# full ones after one that failed: the server may be one of those that trip over a session.
SESSION_SECONDS = 600.0

ANY = "none"
SYSTEM = "system"

_VERSIONS = {
    "1.0": SSL.TLS1_VERSION,
    "1.1": SSL.TLS1_1_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}
_CURVES = b"X25519:P-256:P-384:P-521"
# OpenSSL's, but for the order: SHA-256 costs a fraction of SHA-384 wherever the processor has it.
_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# OpenSSL 3 refuses servers without RFC 5746; firmware that needs TLS 1.0 or 1.1 lacks it.
# The number is SSL_OP_LEGACY_SERVER_CONNECT, which pyOpenSSL does not name.
_OP_LEGACY_SERVER_CONNECT = 0x4


@implementer(IOpenSSLClientConnectionCreator)
@attrs.define(eq=False)
class PeerPolicy:
    """Makes TLS connections to the MX and judges the certificate it shows.

    A peer that was judged lately is known again by the session of that connection, which nobody
    else can take up (RFC 8446, 2.2; RFC 5077). No certificate is shown then; the one of the first
    connection is checked in its place.

    Args:
        host: The MX's name or address as configured.
        verify: `none`, `system`, or the path of a PEM file with CA certificates.
        fingerprint: SHA-256 of the only certificate accepted, 64 lower-case hex digits; "" for any.
        tls_minimum: The lowest TLS version: "1.0", "1.1", "1.2" or "1.3".
        security_level: OpenSSL's security level, 0 to 5; None for OpenSSL's own.
        clock: Gives the time in seconds.

    Raises:
        OpenSSL.SSL.Error: The CA file cannot be read.
    """

    host: str
    verify: str = ANY
    fingerprint: str = ""
    tls_minimum: str = "1.2"
    security_level: int | None = None
    clock: Callable[[], float] = time.monotonic
    _context: SSL.Context = attrs.field(init=False)
    _session: SSL.Session | None = attrs.field(init=False, default=None)
    # When the peer of that session was checked.
    _checked_at: float = attrs.field(init=False, default=0.0)
    # The same of the connections that take a session up.
    _resumed: WeakKeyDictionary[SSL.Connection, float] = attrs.field(
        init=False, factory=WeakKeyDictionary
    )
    _sessions_from: float = attrs.field(init=False, default=-math.inf)
    _reported: str = attrs.field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        _agree_on_keys_by_curves(context)
        context.set_tls13_ciphersuites(_SUITES)
        context.set_min_proto_version(_VERSIONS[self.tls_minimum])
        if self.security_level is not None:
            context.set_cipher_list(f"DEFAULT:@SECLEVEL={self.security_level}".encode("ascii"))
        if self.tls_minimum in ("1.0", "1.1"):
            context.set_options(_OP_LEGACY_SERVER_CONNECT)
        if self.verify == SYSTEM:
            context.set_default_verify_paths()
        elif self.verify != ANY:
            context.load_verify_locations(self.verify)
        context.set_verify(SSL.VERIFY_PEER, self._verify)
        self._context = context

    def _verify(
        self, connection: SSL.Connection, shown: crypto.X509, _error: int, depth: int, ok: int
    ) -> bool:
        """Judge one certificate of the chain, in the middle of the handshake.

        A pinned certificate is refused here already, and again when the handshake is done: here the
        peer learns why, there nothing can have been forgotten.
        """
        # The server has not taken the session up.
        self._resumed.pop(connection, None)
        return self._is_pinned(shown, depth) and (self.verify == ANY or bool(ok))

    def _is_pinned(self, shown: crypto.X509, depth: int = 0) -> bool:
        if depth or not self.fingerprint or _fingerprint(shown) == self.fingerprint:
            return True
        if self._is_news(shown):
            log.error(
                "the MX shows certificate {shown}, not the pinned one", shown=_fingerprint(shown)
            )
        return False

    def _is_news(self, shown: crypto.X509) -> bool:
        """Tell whether this certificate is another one than the last that was worth a line."""
        last, self._reported = self._reported, _fingerprint(shown)
        return last != self._reported

    def clientConnectionForTLS(self, _protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the OpenSSL side of one connection: no ALPN, and SNI only for a name to verify."""
        connection = SSL.Connection(self._context, None)
        if self.verify != ANY and not self._is_address():
            connection.set_tlsext_host_name(self.host.encode("idna"))
        if self._session is not None and self.clock() < self._checked_at + SESSION_SECONDS:
            connection.set_session(self._session)
            self._resumed[connection] = self._checked_at
        return connection

    def remember(self, connection: SSL.Connection) -> None:
        """Let the next connections take this one's session up.

        Args:
            connection: Its peer has passed `check`, and has sent something: in TLS 1.3 sessions
                come after the handshake.
        """
        now = self.clock()
        if now >= self._sessions_from:
            self._checked_at = self._resumed.get(connection, now)
            self._session = connection.get_session()

    def forget(self) -> None:
        """Let the next connections be full handshakes: one has failed."""
        self._session = None
        self._sessions_from = self.clock() + SESSION_SECONDS

    @property
    def trusts_anybody(self) -> bool:
        """Whether any certificate will do, so that an impostor would not be noticed."""
        return self.verify == ANY and not self.fingerprint

    def _is_address(self) -> bool:
        return isIPAddress(self.host) or isIPv6Address(self.host)

    def check(self, connection: SSL.Connection) -> None:
        """Judge the peer after the handshake; the chain is checked by OpenSSL before.

        Raises:
            MXUnavailable: The certificate is not the pinned one or names another host.
        """
        if self.trusts_anybody and connection in self._resumed:
            # Of whom the log has told already.
            return
        certificate = connection.get_peer_certificate()
        if certificate is None:
            raise MXUnavailable("the MX showed no certificate")
        if not self._is_pinned(certificate):
            raise MXUnavailable("the certificate of the MX is not the pinned one")
        if self.verify != ANY:
            self._check_name(connection, certificate)
        elif not self.fingerprint and self._is_news(certificate):
            log.warn(
                "the certificate of the MX is not verified; to accept only this one, "
                'add to mx: fingerprint: "{shown}"',
                shown=_fingerprint(certificate),
            )

    def _check_name(self, connection: SSL.Connection, shown: crypto.X509) -> None:
        verify = (
            service_identity.pyopenssl.verify_ip_address
            if self._is_address()
            else service_identity.pyopenssl.verify_hostname
        )
        try:
            verify(connection, self.host)
        except (service_identity.VerificationError, service_identity.CertificateError) as error:
            if self._is_news(shown):
                log.error("the certificate of the MX is not for {host}", host=self.host)
            raise MXUnavailable("the certificate of the MX is for another host") from error


def _agree_on_keys_by_curves(context: SSL.Context) -> None:
    """Leave out post-quantum keys, which no MX is known to take.

    OpenSSL would begin with one: it makes two packets of the first message, which old firmware may
    not read, and a third more work of each handshake.
    """
    # pyOpenSSL itself can name but a single curve, which TLS 1.2 takes for a word on certificates,
    # too (RFC 8422, 5.1).
    set_curves = getattr(lib, "SSL_CTX_set1_curves_list", None)
    if set_curves is not None:
        set_curves(context._context, _CURVES)  # noqa: SLF001 - no public way, see above


def _fingerprint(certificate: crypto.X509) -> str:
    return certificate.digest("sha256").decode("ascii").replace(":", "").lower()
