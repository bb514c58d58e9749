"""A certificate of one's own: PEM files, read again when they change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pem
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mxflex.certs.context import ServingCertificate
from mxflex.certs.issuing import DAY, describe_time_left
from mxflex.certs.store import PEMObjects, check_pair, is_for
from mxflex.errors import CertificateError

log = Logger()

# How often the files are looked at, in seconds.
LOOK_SECONDS = 60.0
# With less than this left, in seconds, the certificate is an alarm, once a day.
ALARM_SECONDS = 14 * DAY


def read_files(certificate: Path, key: Path) -> PEMObjects:
    """Read a certificate with its chain, and its key.

    Raises:
        CertificateError: A file cannot be read, or has no such thing; the text says which.
    """
    objects: PEMObjects = []
    for path, kind, what in (
        (key, pem.PrivateKey, "private key"),
        (certificate, pem.Certificate, "certificate"),
    ):
        try:
            found = [each for each in pem.parse(path.read_bytes()) if isinstance(each, kind)]
        except OSError as error:
            raise CertificateError(f"{path}: {error.strerror}") from error
        if not found:
            raise CertificateError(f"{path}: expected a {what} in PEM form")
        objects += found
    return objects


class CertificateFiles(Service):
    """Serves the certificate of two files, and the next one when they change.

    Args:
        reactor: Gives delayed calls.
        serving: Is given the certificate.
        certificate: The file with the certificate and its chain.
        key: The file with the private key.

    Raises:
        CertificateError: The files cannot be used as they are now.
    """

    name = "certificates"

    def __init__(
        self, reactor: IReactorTime, serving: ServingCertificate, certificate: Path, key: Path
    ) -> None:
        self._reactor = reactor
        self._serving = serving
        self._certificate = certificate
        self._key = key
        self._timer: IDelayedCall | None = None
        self._loaded: PEMObjects = []
        self._refused: PEMObjects = []
        self._complaint = ""
        self._alarm_at = 0.0
        self._load()

    def _load(self) -> bool:
        """Use what the files hold; tell whether that is something new."""
        objects = read_files(self._certificate, self._key)
        if objects in (self._loaded, self._refused):
            return False
        try:
            self._serving.use(objects)
        except ValueError as error:
            self._refused = objects
            raise CertificateError(f"{self._certificate}, {self._key}: {error}") from error
        self._loaded = objects
        self._refused = []
        return True

    def startService(self) -> None:
        """Begin to look after the files."""
        Service.startService(self)
        self._tell()
        self._timer = self._reactor.callLater(LOOK_SECONDS, self._look)

    def stopService(self) -> None:
        """Leave them alone."""
        Service.stopService(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def prepare(self, certificate: Path, key: Path) -> Callable[[], None]:
        """Give what takes the certificate of other files.

        Raises:
            CertificateError: They cannot be used.
        """
        objects = read_files(certificate, key)
        try:
            check_pair(objects)
        except ValueError as error:
            raise CertificateError(f"{certificate}, {key}: {error}") from error
        return partial(self._move, certificate, key)

    def _move(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key

    def reload(self) -> None:
        """Read the files now, because somebody wants it, who is told how it went in any case."""
        self._refused = []
        self._complaint = ""
        if not self._reload():
            self._tell()

    def _look(self) -> None:
        self._timer = self._reactor.callLater(LOOK_SECONDS, self._look)
        if not self._reload() and self._reactor.seconds() >= self._alarm_at:
            self._tell()

    def _reload(self) -> bool:
        """Use what the files hold now; tell whether there was anything to say."""
        try:
            fresh = self._load()
        except CertificateError as error:
            # An administrator replaces two files one after the other; the old pair goes on.
            told, self._complaint = self._complaint, str(error)
            if self._complaint != told:
                log.error(
                    "certificate not replaced ({left}): {why}", left=self._time_left(), why=error
                )
            return True
        self._complaint = ""
        if fresh:
            self._tell()
        return fresh

    def _tell(self) -> None:
        certificate = self._serving.certificate
        end = certificate.not_valid_after_utc.timestamp()
        now = self._reactor.seconds()
        self._alarm_at = max(end - ALARM_SECONDS, now + DAY)
        if not is_for(certificate, self._serving.name):
            log.warn(
                "the certificate in {path} is not for {name}: browsers will refuse it",
                path=self._certificate,
                name=self._serving.name,
            )
        tell = log.error if end - now <= ALARM_SECONDS else log.info
        tell("certificate in {path}: {left}", path=self._certificate, left=self._time_left())

    def _time_left(self) -> str:
        return describe_time_left(self._serving.certificate, self._reactor.seconds())
