"""The certificate and the keys on disk: one file for each, nobody else's to read.

txacme's own `DirectoryStore` leaves private keys readable for all, and takes every PEM file in its
folder for a certificate to renew.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pem
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from txacme.interfaces import ICertificateStore
from zope.interface import implementer

from mxflex.errors import CertificateError

log = Logger()

ACCOUNT_KEY = "account.key"

# What txacme hands about: a private key, a certificate, and its chain.
PEMObjects = list[pem.AbstractPEMObject]


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only we may read, whole or not at all, and so that it survives a crash.

    Raises:
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    # mkstemp gives mode 0600 from the first moment.
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _set_aside(path: Path) -> None:
    """Keep a damaged file for whoever wants to know what happened."""
    aside = path.with_suffix(path.suffix + ".damaged")
    path.replace(aside)
    log.error("{path} is damaged and was moved to {aside}", path=path, aside=aside.name)


def check_pair(objects: PEMObjects) -> x509.Certificate:
    """Give the certificate of PEM objects, if its key is with it.

    Raises:
        ValueError: There is not one key and at least one certificate, or they do not belong
            together.
    """
    keys = [each for each in objects if isinstance(each, pem.Key)]
    certificates = [each for each in objects if isinstance(each, pem.Certificate)]
    if len(keys) != 1 or not certificates:
        raise ValueError("expected one private key and at least one certificate")
    key = serialization.load_pem_private_key(keys[0].as_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate(certificates[0].as_bytes())
    if key.public_key() != certificate.public_key():
        raise ValueError("the private key does not belong to the certificate")
    return certificate


@implementer(ICertificateStore)
class CertificateFile:
    """The certificate of one host name in a folder.

    Args:
        folder: Where it lies, beside the account's key.
        name: The host name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._path = folder / f"{name}.pem"

    def read(self) -> PEMObjects | None:
        """Give what is stored; None when there is nothing, or nothing sound."""
        try:
            objects = pem.parse(self._path.read_bytes())
        except FileNotFoundError:
            return None
        try:
            check_pair(objects)
        except ValueError:
            _set_aside(self._path)
            return None
        return objects

    def _get(self, server_name: str) -> PEMObjects:
        objects = self.read() if server_name == self._name else None
        if objects is None:
            raise KeyError(server_name)
        return objects

    def get(self, server_name: str) -> Deferred[PEMObjects]:
        """Give the certificate of our name; fails with KeyError for another, or without one."""
        return maybeDeferred(self._get, server_name)

    def _store(self, server_name: str, pem_objects: PEMObjects) -> None:
        if server_name != self._name:
            raise KeyError(server_name)
        write_secret(self._path, b"".join(each.as_bytes() for each in pem_objects))

    def store(self, server_name: str, pem_objects: PEMObjects) -> Deferred[None]:
        """Replace the certificate of our name."""
        return maybeDeferred(self._store, server_name, pem_objects)

    def as_dict(self) -> Deferred[dict[str, PEMObjects]]:
        """Give our name with its certificate; an empty list asks txacme to get the first one."""
        return maybeDeferred(lambda: {self._name: self.read() or []})

    def account_key(self) -> ec.EllipticCurvePrivateKey:
        """Give the account's key, made at the first call.

        Raises:
            CertificateError: The folder cannot be used.
        """
        path = self._folder / ACCOUNT_KEY
        try:
            if path.exists():
                try:
                    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
                except ValueError:
                    key = None
                if isinstance(key, ec.EllipticCurvePrivateKey):
                    return key
                _set_aside(path)
            fresh = ec.generate_private_key(ec.SECP256R1())
            write_secret(path, private_bytes(fresh))
        except OSError as error:
            raise CertificateError(f"{path.parent} cannot be used: {error.strerror}") from error
        return fresh


def private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
