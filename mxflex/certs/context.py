"""What TLS connections of browsers use at this moment: certificate, key, protocols."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mxflex.certs.store import PEMObjects, check_pair, private_bytes

ALPN = [b"h2", b"http/1.1"]
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

    def serverConnectionForTLS(self, _protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the OpenSSL side of one connection, whatever name the client asked for."""
        return SSL.Connection(self._context, None)


def _load(objects: PEMObjects) -> tuple[x509.Certificate, SSL.Context]:
    certificate = check_pair(objects)
    key = next(each for each in objects if isinstance(each, pem.PrivateKey))
    try:
        leaf, *chain = [
            crypto.X509.from_cryptography(x509.load_pem_x509_certificate(each.as_bytes()))
            for each in objects
            if isinstance(each, pem.Certificate)
        ]
        options = CertificateOptions(
            privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, key.as_bytes()),
            certificate=leaf,
            extraCertChain=chain,
            raiseMinimumTo=TLSVersion.TLSv1_2,
            acceptableProtocols=ALPN,
        )
        return certificate, options.getContext()
    except (SSL.Error, crypto.Error, x509.InvalidVersion) as error:
        raise ValueError("OpenSSL does not take the certificate") from error


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
