"""What TLS connections of browsers use at this moment: certificate, key, protocols."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta

import pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mxflex.certs.connection import ServerConnection
from mxflex.certs.store import PEMObjects, check_pair, private_bytes

# In the order of our preference.
PROTOCOLS = ("h2", "http/1.1")
_PROTOCOLS = frozenset(name.encode("ascii") for name in PROTOCOLS)
# For TLS 1.2: forward secrecy and authenticated encryption (RFC 9113, 9.2.2; RFC 9325, 4.2).
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
PLACEHOLDER_LIFE = timedelta(days=7)


@implementer(IOpenSSLServerConnectionCreator)
class ServingCertificate:
    """The certificate in use; a new one is for new connections, open ones go on.

    Args:
        name: The host name; until a real certificate comes, a self-signed one stands in.

    Attributes:
        name: The host name.
        certificate: The one in use.
        real: Whether it is more than the stand-in.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.real = False
        self.certificate, self._context = _load(_placeholder(name))

    def use(self, objects: PEMObjects) -> None:
        """Use a key, its certificate and its chain from now on.

        Raises:
            ValueError: They do not belong together, or OpenSSL does not take them.
        """
        self.certificate, self._context = _load(objects)
        self.real = True

    # Twisted asks for a pyOpenSSL connection, and means something that does as one does.
    def serverConnectionForTLS(  # type: ignore[override]
        self, _protocol: TLSMemoryBIOProtocol
    ) -> ServerConnection:
        """Make the TLS side of one connection, whatever name the client asked for."""
        return ServerConnection(self._context, _PROTOCOLS)


def _load(objects: PEMObjects) -> tuple[x509.Certificate, ssl.SSLContext]:
    certificate = check_pair(objects)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    # It reads files alone; this one is in memory, and nobody else's.
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:
        file.write(b"".join(each.as_bytes() for each in objects))
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        except (ssl.SSLError, OSError) as error:
            raise ValueError("OpenSSL does not take the certificate") from error
    return certificate, context


def _placeholder(name: str) -> PEMObjects:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MXFlex has no certificate yet")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + PLACEHOLDER_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return pem.parse(private_bytes(key) + certificate.public_bytes(serialization.Encoding.PEM))
