"""HTTP to the CA: whom it takes for the CA, and how much it reads."""

from __future__ import annotations

from typing import Any

import attrs
from OpenSSL import SSL, crypto
from service_identity import CertificateError as NoIdentity
from service_identity import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from treq.client import HTTPClient
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IPolicyForHTTPS, IResponse
from zope.interface import implementer

# How long the CA may take to accept a connection, in seconds.
CONNECT_SECONDS = 15
# The largest answer that is read. Certificates with their chains have some 4 KiB, directories and
# orders less.
MAX_ANSWER_BYTES = 256 * 1024


def make_http(reactor: IReactorTime, trust: Any) -> HTTPClient:
    """Make the client that speaks to an ACME server.

    Args:
        reactor: Where it runs.
        trust: The CAs that may have signed the server's own certificate, as Twisted's
            `platformTrust` and `trustRootFromCertificates` give them.
    """
    return HTTPClient(Agent(reactor, HTTPSPolicy(trust), connectTimeout=CONNECT_SECONDS))


# --- Whom it takes for the CA ---------------------------------------------------------------------


@implementer(IPolicyForHTTPS)
class HTTPSPolicy:
    """Trusts servers that show a certificate for their name by one of the CAs.

    Args:
        trust: See `make_http`.
    """

    def __init__(self, trust: Any) -> None:
        self._context = CertificateOptions(trustRoot=trust).getContext()

    def creatorForNetloc(self, hostname: bytes, _port: int) -> IOpenSSLClientConnectionCreator:
        """Make what opens the TLS side of connections to one host."""
        return _Verified(self._context, hostname.decode("ascii"))


@implementer(IOpenSSLClientConnectionCreator)
@attrs.frozen
class _Verified:
    """Opens TLS connections, and refuses a certificate that does not name the host.

    Twisted's own `optionsForClientTLS` accepts a certificate of a trusted CA that names no host at
    all: it logs what service_identity raises then, and goes on.
    """

    context: SSL.Context
    host: str

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the OpenSSL side of one connection."""
        connection = SSL.Connection(self.context, None)
        wanted: ServiceID
        if isIPAddress(self.host) or isIPv6Address(self.host):
            wanted = IPAddress_ID(self.host)
        else:
            wanted = DNS_ID(self.host)
            connection.set_tlsext_host_name(self.host.encode("ascii"))

        def verify(
            _connection: SSL.Connection, shown: crypto.X509, _error: int, depth: int, sound: int
        ) -> bool:
            if depth or not sound:
                return bool(sound)
            try:
                verify_service_identity(extract_patterns(shown), [wanted], [])
            except (VerificationError, NoIdentity):
                error = SSL.Error([("", "", f"the certificate is not for {self.host}")])
                protocol.failVerification(Failure(error))
                return False
            return True

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection


# --- How much it reads ----------------------------------------------------------------------------


class AnswerTooLong(Exception):
    """The answer has more than `MAX_ANSWER_BYTES`."""


def read_body(response: IResponse) -> Deferred[bytes]:
    """Give the body of a response, if it is not too long.

    Cancelling closes the connection. Fails with `AnswerTooLong`, or with what ended the connection.
    """
    body = _Body()
    response.deliverBody(body)
    return body.whole


class _Body(Protocol):
    """Reads a body, up to a limit.

    Attributes:
        whole: Fires with it.
    """

    transport: Any

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._received = bytearray()

    def _hang_up(self) -> None:
        # Not loseConnection, which over TLS waits for the other side.
        if self.transport is not None:
            self.transport.stopProducing()

    def dataReceived(self, data: bytes) -> None:
        """Keep a part, or hang up."""
        if len(self._received) + len(data) <= MAX_ANSWER_BYTES:
            self._received += data
        elif not self.whole.called:
            self.whole.errback(AnswerTooLong(f"more than {MAX_ANSWER_BYTES} bytes"))
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give the body, or say why it is not whole."""
        if self.whole.called:
            return
        # Without a length, the end of the connection is the end of the body.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._received))
        else:
            self.whole.errback(reason)
