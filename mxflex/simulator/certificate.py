"""Certificates of our own making, and TLS as a server of a chosen age speaks it."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Callable

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

_VALIDITY = dt.timedelta(days=365)

# What may be chosen as the lowest version, by the name used in configurations.
TLS_VERSIONS = {
    "1.0": SSL.TLS1_VERSION,
    "1.1": SSL.TLS1_1_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}


@attrs.frozen(kw_only=True)
class Certificate:
    """A certificate with its key.

    Attributes:
        certificate: What the server shows.
        key: The private key.
        chain: Certificates between it and a CA.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @classmethod
    def self_signed(cls, name: str = "MX") -> Certificate:
        """Make one as an MX ships it: P-256, self-signed, without a useful name."""
        return cls.issue(name)

    @classmethod
    def authority(cls, name: str = "Test CA") -> Certificate:
        """Make a CA that can `issue` others."""
        return cls.issue(name, is_authority=True)

    @classmethod
    def issue(
        cls,
        name: str,
        *hosts: str,
        issuer: Certificate | None = None,
        is_authority: bool = False,
    ) -> Certificate:
        """Make a certificate.

        Args:
            name: The common name.
            hosts: The host names and IP addresses it is good for.
            issuer: Who signs it; None for itself.
            is_authority: Whether it may sign others.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + _VALIDITY)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        signer = key if issuer is None else issuer.key
        return cls(certificate=builder.sign(signer, hashes.SHA256()), key=key)

    @property
    def pem(self) -> bytes:
        """The certificate alone, in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 lower-case hex digits."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return hashlib.sha256(der).hexdigest()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@attrs.frozen(kw_only=True)
class TLSAge:
    """Which TLS a server speaks, to act as firmware of some age.

    Attributes:
        minimum: The lowest version, a key of `TLS_VERSIONS`.
        maximum: The highest version.
        security_level: OpenSSL's security level; None for its default. TLS 1.0 and 1.1 need 0.
    """

    minimum: str = "1.2"
    maximum: str = "1.3"
    security_level: int | None = None


@implementer(IOpenSSLServerConnectionCreator)
@attrs.define(eq=False)
class ServerTLS:
    """Makes the TLS side of each connection, with the certificate of that moment.

    Args:
        choose: Gives the certificate to show.
        age: Which TLS to speak.
    """

    choose: Callable[[], Certificate]
    age: TLSAge = TLSAge()
    _context: SSL.Context | None = attrs.field(default=None, init=False)
    _context_for: tuple[Certificate, TLSAge] | None = attrs.field(default=None, init=False)

    def serverConnectionForTLS(
        self,
        tlsProtocol: TLSMemoryBIOProtocol,  # noqa: ARG002 - the interface names it
    ) -> SSL.Connection:
        """Give the OpenSSL object for one connection."""
        wanted = (self.choose(), self.age)
        if self._context is None or self._context_for != wanted:
            self._context, self._context_for = _context(*wanted), wanted
        return SSL.Connection(self._context, None)


def _context(certificate: Certificate, age: TLSAge) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(TLS_VERSIONS[age.minimum])
    context.set_max_proto_version(TLS_VERSIONS[age.maximum])
    if age.security_level is not None:
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=%d" % age.security_level)
    context.use_certificate(certificate.certificate)
    context.use_privatekey(certificate.key)
    for each in certificate.chain:
        context.add_extra_chain_cert(each)
    return context
