"""A certificate of one's own: PEM files, read again when they change."""

from __future__ import annotations

import signal
from pathlib import Path

import pem
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mxflex.certs.context import ServingCertificate
from mxflex.certs.issuing import describe_time_left
from mxflex.certs.store import PEMObjects
from mxflex.errors import CertificateError

log = Logger()

# How often the files are looked at, in seconds.
LOOK_SECONDS = 60.0


def read_files(certificate: Path, key: Path) -> PEMObjects:
    """Read a certificate with its chain, and its key.

    Raises:
        CertificateError: A file cannot be read, or has no such thing; the text says which.
    """
    objects: PEMObjects = []
    for path, kind in ((key, pem.Key), (certificate, pem.Certificate)):
        try:
            found = [each for each in pem.parse(path.read_bytes()) if isinstance(each, kind)]
        except OSError as error:
            raise CertificateError(f"{path}: {error.strerror}") from error
        if not found:
            raise CertificateError(f"{path}: expected a {kind.__name__.lower()} in PEM form")
        objects += found
    return objects


class CertificateFiles(Service):
    """Serves the certificate of two files, and the next one when they change, or on SIGHUP.

    Args:
        clock: Gives delayed calls.
        serving: Is given the certificate.
        certificate: The file with the certificate and its chain.
        key: The file with the private key.

    Raises:
        CertificateError: The files cannot be used as they are now.
    """

    name = "certificates"

    def __init__(
        self, clock: IReactorTime, serving: ServingCertificate, certificate: Path, key: Path
    ) -> None:
        self._clock = clock
        self._serving = serving
        self._certificate = certificate
        self._key = key
        self._timer: IDelayedCall | None = None
        self._loaded: PEMObjects = []
        self._refused: PEMObjects = []
        self._load()

    def _load(self) -> None:
        objects = read_files(self._certificate, self._key)
        if objects in (self._loaded, self._refused):
            return
        try:
            self._serving.use(objects)
        except ValueError as error:
            self._refused = objects
            raise CertificateError(f"{self._certificate}, {self._key}: {error}") from error
        self._loaded = objects

    def startService(self) -> None:
        """Begin to look after the files."""
        Service.startService(self)
        self._tell()
        self._previous = signal.signal(signal.SIGHUP, self._hangup)
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def stopService(self) -> None:
        """Leave them alone."""
        Service.stopService(self)
        signal.signal(signal.SIGHUP, self._previous)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hangup(self, _number: int, _frame: object) -> None:
        # In a signal handler only this much is safe; the reactor wakes up for it.
        self._clock.callFromThread(self._reload)  # type: ignore[attr-defined]

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)
        self._reload()

    def _reload(self) -> None:
        before = self._loaded
        try:
            self._load()
        except CertificateError as error:
            # An administrator replaces two files one after the other; the old pair goes on.
            log.error("certificate not replaced: {error}", error=error)
            return
        if self._loaded != before:
            self._tell()

    def _tell(self) -> None:
        certificate = self._serving.certificate
        log.info("certificate: {days}", days=describe_time_left(certificate, self._clock.seconds()))
