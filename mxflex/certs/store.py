"""The certificate and the keys on disk: one file for each, nobody else's to read.

txacme's own `DirectoryStore` leaves private keys readable for all, and takes every PEM file in its
folder for a certificate to renew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

import pem
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from txacme.interfaces import ICertificateStore
from zope.interface import implementer

from mxflex.disk import DAMAGED, NEW, set_aside, write_whole
from mxflex.errors import CertificateError

log = Logger()

ACCOUNT_KEY = "account.key"

# What txacme hands about: a private key, a certificate, and its chain.
PEMObjects = list[pem.AbstractPEMObject]


def write_secret(path: Path, content: bytes) -> None:
    """Write a file into a folder of our own; see `write_whole`. The folder is made if need be.

    Raises:
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close_to_others(path.parent)
    write_whole(path, content)


def _close_to_others(folder: Path) -> None:
    """Let nobody else look into the folder, unless others have their files there too."""
    kinds = (".pem", ".key", DAMAGED)
    if all(each.suffix in kinds or each.name.startswith(NEW) for each in folder.iterdir()):
        folder.chmod(0o700)
    else:
        log.warn("{folder} holds files of others; acme.storage should be our own", folder=folder)


def _read_secret(path: Path) -> bytes | None:
    """Read a file of ours; None when there is none. From then on only we may read it.

    Raises:
        OSError: It cannot be read.
    """
    if not path.exists():
        return None
    # Older files, and those that an administrator has copied, may be open to more.
    _close_to_others(path.parent)
    path.chmod(0o600)
    return path.read_bytes()


def _set_aside(path: Path) -> None:
    aside = set_aside(path)
    log.error("{path} is damaged and was moved to {aside}", path=path, aside=aside.name)


def check_pair(objects: PEMObjects) -> x509.Certificate:
    """Give the certificate of PEM objects, if its key is with it.

    Raises:
        ValueError: There is not one key and at least one certificate, or they do not belong
            together.
    """
    keys = [each for each in objects if isinstance(each, pem.PrivateKey)]
    certificates = [each for each in objects if isinstance(each, pem.Certificate)]
    if len(keys) != 1 or not certificates:
        raise ValueError("expected one private key and at least one certificate")
    try:
        key = serialization.load_pem_private_key(keys[0].as_bytes(), password=None)
    except TypeError as error:
        raise ValueError("the private key is protected by a password") from error
    except UnsupportedAlgorithm as error:
        raise ValueError("the private key is of an unknown kind") from error
    try:
        certificate = x509.load_pem_x509_certificate(certificates[0].as_bytes())
        belongs = key.public_key() == certificate.public_key()
    except (UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ValueError(f"the certificate is not understood: {error}") from error
    if not belongs:
        raise ValueError("the private key does not belong to the certificate")
    return certificate


def is_for(certificate: x509.Certificate, name: str) -> bool:
    """Tell whether a certificate names a host, itself or by `*` (RFC 9525, 6.3)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return False
    names = {each.lower() for each in extension.value.get_values_for_type(x509.DNSName)}
    addresses = {str(each) for each in extension.value.get_values_for_type(x509.IPAddress)}
    return name in names | addresses or "*." + name.partition(".")[2] in names


@implementer(ICertificateStore)
class CertificateFile:
    """The certificate of one host name in a folder.

    Args:
        folder: Where it lies, beside the account's key.
        name: The host name.

    Attributes:
        folder: As above.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._name = name
        self._path = folder / f"{name}.pem"
        self._objects: PEMObjects = []
        self._saved = True

    def read(self) -> PEMObjects | None:
        """Give what is stored; None when there is nothing, or nothing sound.

        From then on it is in memory, and the file is only written.
        """
        try:
            content = _read_secret(self._path)
            if content is None:
                return None
            objects = pem.parse(content)
            try:
                sound = is_for(check_pair(objects), self._name)
            except ValueError:
                sound = False
            if not sound:
                _set_aside(self._path)
                return None
        except OSError as error:
            log.error("{path} cannot be read: {why}", path=self._path, why=error.strerror)
            return None
        self._objects = objects
        return objects

    def set_aside(self) -> None:
        """Take what is stored for damaged after all."""
        self._objects = []
        try:
            _set_aside(self._path)
        except OSError as error:
            log.error("{path} is damaged: {why}", path=self._path, why=error.strerror)

    def _get(self, server_name: str) -> PEMObjects:
        if server_name != self._name or not self._objects:
            raise KeyError(server_name)
        return self._objects

    def get(self, server_name: str) -> Deferred[PEMObjects]:
        """Give the certificate of our name; fails with KeyError for another, or without one."""
        return maybeDeferred(self._get, server_name)

    def _store(self, server_name: str, pem_objects: PEMObjects) -> None:
        if server_name != self._name:
            raise KeyError(server_name)
        self._objects = pem_objects
        self._saved = False
        self.save()

    def store(self, server_name: str, pem_objects: PEMObjects) -> Deferred[None]:
        """Replace the certificate of our name.

        Fails with OSError when it cannot be written; it is kept in memory all the same, for `save`.
        """
        return maybeDeferred(self._store, server_name, pem_objects)

    def save(self) -> None:
        """Write what could not be written before.

        Raises:
            OSError: It still cannot.
        """
        if not self._saved:
            write_secret(self._path, b"".join(each.as_bytes() for each in self._objects))
            self._saved = True

    def as_dict(self) -> Deferred[dict[str, PEMObjects]]:
        """Give our name with its certificate; an empty list asks txacme to get the first one.

        The chain is left out: txacme would renew for the sake of a CA's certificate that ends
        first, as cross-signed ones do, and get the same chain again.
        """
        leaf = next((each for each in self._objects if isinstance(each, pem.Certificate)), None)
        return succeed({self._name: [] if leaf is None else [leaf]})

    def account_key(self) -> ec.EllipticCurvePrivateKey:
        """Give the account's key, made at the first call.

        Raises:
            CertificateError: The folder cannot be used.
        """
        path = self.folder / ACCOUNT_KEY
        try:
            content = _read_secret(path)
            if content is not None:
                try:
                    key = serialization.load_pem_private_key(content, password=None)
                except (ValueError, TypeError, UnsupportedAlgorithm):
                    key = None
                if _is_usable(key):
                    return key
                _set_aside(path)
            fresh = ec.generate_private_key(ec.SECP256R1())
            write_secret(path, private_bytes(fresh))
        except OSError as error:
            raise CertificateError(f"{path.parent} cannot be used: {error.strerror}") from error
        return fresh


def _is_usable(key: object) -> TypeGuard[ec.EllipticCurvePrivateKey]:
    """Tell whether a key is one for ES256, the one algorithm that we sign with."""
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


def private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
