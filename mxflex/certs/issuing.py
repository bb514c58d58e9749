"""One certificate, kept fresh by an ACME server for as long as the daemon runs.

txacme's service decides what is due and lets one issuance run at a time. What it lacks is
overridden here: the second version of the protocol, intervals that follow the certificate's own
life, waits after failures, and a stop that does not wait.
"""

from __future__ import annotations

import random
import warnings
from datetime import UTC, datetime, timedelta

import pem
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txacme.service import AcmeIssuingService
from txacme.util import csr_for_names

from mxflex.certs.acme import Account, AcmeClient, certificate_id
from mxflex.certs.context import ServingCertificate
from mxflex.certs.responder import ChallengeResponder
from mxflex.certs.store import CertificateFile, check_pair, is_for, private_bytes
from mxflex.errors import CertificateError

log = Logger()

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

CHECK_SECONDS = 1 * HOUR
# After a failure. Let's Encrypt lets five validations of a name fail in an hour, and gives one back
# every twelve minutes: doubling from a minute never meets that.
FIRST_RETRY_SECONDS = 1 * MINUTE
MAX_RETRY_SECONDS = 6 * HOUR
# Certificates that the CA made, but that never reached us, count for it. Let's Encrypt makes five
# of the same name, and one more every 34 hours: after four, that is how long we wait.
MAX_WASTED = 4
WASTED_RETRY_SECONDS = 34 * HOUR
# However the CA may drag it out, one attempt ends after so long.
ATTEMPT_SECONDS = 15 * MINUTE
# Shares of a certificate's life: with so much left it is renewed, and with so much it is an alarm.
RENEW_SHARE = 1 / 3
ALARM_SHARE = 1 / 6
# How often the CA is asked when it suggests to renew, unless it says otherwise; and what is taken
# for sensible of what it says (RFC 9773, 4.3).
RENEWAL_INFO_SECONDS = 6 * HOUR
MIN_RENEWAL_INFO_SECONDS = 1 * MINUTE
MAX_RENEWAL_INFO_SECONDS = 1 * DAY
# A CA that always says "at once" is not followed more often than it would make certificates.
MIN_FOLLOW_SECONDS = WASTED_RETRY_SECONDS


class CertificateService(AcmeIssuingService):  # type: ignore[misc]
    """Gets and renews the certificate of one host name.

    Args:
        reactor: Gives the time and delayed calls.
        name: The host name.
        store: Where certificate and account key are kept.
        serving: Is given each new certificate.
        responder: Answers the CA's challenges.
        http: Speaks to the CA.
        directory: The URL of the CA's directory.
        email: Where the CA may write to; "" for nowhere.
        eab: Key identifier and decoded secret of an external account binding; empty for none.
        profile: The certificate profile to ask for; "" for the CA's default.
    """

    name = "certificates"

    def __init__(
        self,
        reactor: IReactorTime,
        name: str,
        *,
        store: CertificateFile,
        serving: ServingCertificate,
        responder: ChallengeResponder,
        http: HTTPClient,
        directory: str,
        email: str = "",
        eab: tuple[str, bytes] = ("", b""),
        profile: str = "",
    ) -> None:
        super().__init__(
            cert_store=store,
            # Making a client may fail, too, so `_renew` does it.
            client_creator=lambda: succeed(None),
            clock=reactor,
            responders=[],
            panic=self._failed_by_a_bug,
        )
        self._name = name
        self._store = store
        self._serving = serving
        self._responder = responder
        self._http = http
        self._directory = directory
        self._email = email
        self._eab = eab
        self._profile = profile
        self._keeping: Deferred[None] | None = None
        self._failures = 0
        self._wasted = 0
        self._trouble: CertificateError | None = None
        self._ask_renewal_at = 0.0
        self._renew_at: float | None = None
        self._followed_at = 0.0

    # --- Life ---------------------------------------------------------------------------------

    def startService(self) -> None:
        """Use the stored certificate, if there is one, and see to it that it stays fresh."""
        Service.startService(self)
        objects = self._store.read()
        if objects is not None:
            try:
                self._serving.use(objects)
            except ValueError:
                self._store.set_aside()
            else:
                log.info("certificate of {name}: {left}", name=self._name, left=self._time_left())
        # Not at once: a restart need not tell the CA.
        self._ask_renewal_at = self._seconds() + CHECK_SECONDS
        self._keeping = Deferred.fromCoroutine(self._keep())
        self._keeping.addErrback(self._keeper_ended)

    def stopService(self) -> None:
        """Stop at once, also in the middle of an issuance."""
        Service.stopService(self)
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

    async def _keep(self) -> None:
        while self.running:
            await self._check_certs()
            if self.running:
                wait = self._next_wait()
                self._tell_trouble(wait)
                await deferLater(self._clock, wait)

    def _keeper_ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("nobody looks after the certificate any more", failure)

    def _next_wait(self) -> float:
        """Give the seconds until the next look."""
        # A little later, never sooner: what is counted here are limits.
        moved = random.uniform(1.0, 1.1)  # noqa: S311  chance, not secrecy
        if self._failures:
            doubled: float = FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 32)
            wait = min(doubled, MAX_RETRY_SECONDS)
            return moved * (wait if self._wasted < MAX_WASTED else WASTED_RETRY_SECONDS)
        return min(CHECK_SECONDS * moved, max(1.0, self._due() - self._seconds()))

    def _due(self) -> float:
        """Give the moment at which the certificate is to be renewed."""
        end = self._serving.certificate.not_valid_after_utc
        due: float = (end - self._life() * RENEW_SHARE).timestamp()
        return due if self._renew_at is None else min(due, self._renew_at)

    # --- What txacme asks of us ---------------------------------------------------------------

    def _ensure_registered(self) -> Deferred[None]:
        # The client registers when it first needs the account, so that a certificate that is still
        # good is used without a word to the CA.
        return succeed(None)

    def _check_certs(self) -> Deferred[None]:
        """Renew the certificate if it is due; the intervals follow its own life."""
        return Deferred.fromCoroutine(self._check())

    async def _check(self) -> None:
        try:
            self._store.save()
        except OSError as error:
            self._tell_unsaved(error)
        await self._ask_when_to_renew()
        life = self._life()
        self.reissue_interval = life * RENEW_SHARE
        self.panic_interval = life * ALARM_SHARE
        if self._renew_at is not None and self._seconds() >= self._renew_at:
            self.reissue_interval = life
            self._followed_at = self._renew_at
        with warnings.catch_warnings():
            # txacme reads the end of a certificate in a way that cryptography would not.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            checking = super()._check_certs()
        await checking

    def _issue_cert(self, _client: None, server_name: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._renew(server_name))

    def _failed_by_a_bug(self, failure: Failure, server_name: str) -> None:
        """Take what `_renew` did not expect; txacme calls this "panic"."""
        log.failure("the certificate of {name} was not renewed", failure, name=server_name)

    # --- One renewal --------------------------------------------------------------------------

    async def _renew(self, name: str) -> None:
        self._failures += 1
        client: AcmeClient | None = None
        key = ec.generate_private_key(ec.SECP256R1())
        replaces = certificate_id(self._serving.certificate) if self._serving.real else None
        log.info("asking for a certificate of {name}", name=name)
        try:
            client = self._make_client()
            asking = client.issue(
                csr_for_names([name], key),
                name,
                self._responder.respond,
                profile=self._profile,
                replaces=replaces or "",
            )
            chain = await Deferred.fromCoroutine(asking).addTimeout(ATTEMPT_SECONDS, self._clock)
            await self._take(name, key, chain)
        except CancelledError:
            # The service stops; that is no failure to tell.
            return
        except DeferredTimeoutError:
            minutes = ATTEMPT_SECONDS / MINUTE
            self._trouble = CertificateError(f"the CA has not finished after {minutes:.0f} minutes")
        except CertificateError as error:
            self._trouble = error
        else:
            self._failures = self._wasted = 0
            self._trouble = None
            log.info("new certificate of {name}: {left}", name=name, left=self._time_left())
        finally:
            self._responder.forget()
            if self._failures and client is not None:
                self._wasted += client.finalized

    def _make_client(self) -> AcmeClient:
        """Make a client for one conversation: what a CA said months ago may not hold any more.

        Raises:
            CertificateError: There is no key for the account, and none can be made.
        """
        kid, secret = self._eab
        account = Account(
            key=self._store.account_key(), email=self._email, eab_kid=kid, eab_key=secret
        )
        return AcmeClient(self._http, self._clock, self._directory, account)

    async def _take(self, name: str, key: ec.EllipticCurvePrivateKey, chain: str) -> None:
        """Use a certificate from now on, and keep it.

        Raises:
            CertificateError: It is of no use.
        """
        try:
            objects = pem.parse(private_bytes(key) + chain.encode("ascii"))
            certificate = check_pair(objects)
            if not is_for(certificate, name):
                raise CertificateError(f"the CA's certificate is not for {name}")
            self._serving.use(objects)
        except ValueError as error:
            raise CertificateError(f"the CA's certificate cannot be used: {error}") from error
        self._renew_at = None
        try:
            await self._store.store(name, objects)
        except OSError as error:
            # In use it is all the same; asking for another one would not make room on the disk.
            self._tell_unsaved(error)
        if self._due() <= self._seconds():
            # It serves, but without this the CA would be asked again and again.
            raise CertificateError(
                f"the new certificate is old already ({self._time_left()}); is the clock right?"
            )

    def _tell_unsaved(self, error: OSError) -> None:
        log.error(
            "the certificate of {name} cannot be kept in {folder}: {why}",
            name=self._name,
            folder=self._store.folder,
            why=error.strerror,
        )

    def _tell_trouble(self, wait: float) -> None:
        """Say why there is no new certificate; louder when the old one is about to end."""
        why, self._trouble = self._trouble, None
        if why is None:
            return
        again = describe_span(wait)
        if not self._serving.real:
            log.error(
                "no certificate of {name} yet: {why}; next try in {again}",
                name=self._name,
                why=why,
                again=again,
            )
            return
        left = self._serving.certificate.not_valid_after_utc.timestamp() - self._seconds()
        alarm = left <= self._life().total_seconds() * ALARM_SHARE
        tell = log.error if alarm else log.warn
        tell(
            "the certificate of {name} is not renewed ({left}): {why}; next try in {again}",
            name=self._name,
            left=self._time_left(),
            why=why,
            again=again,
        )

    async def _ask_when_to_renew(self) -> None:
        """Ask the CA for its suggestion, where it has one (RFC 9773)."""
        now = self._seconds()
        if not self._serving.real or now < self._ask_renewal_at:
            return
        self._ask_renewal_at = now + RENEWAL_INFO_SECONDS
        try:
            window = await self._make_client().renewal_window(self._serving.certificate)
        except CertificateError as error:
            log.warn("the CA was not asked when to renew: {why}", why=error)
            return
        if window is None:
            self._ask_renewal_at = now + MAX_RENEWAL_INFO_SECONDS
            return
        if window.retry_after:
            wait = max(MIN_RENEWAL_INFO_SECONDS, window.retry_after)
            self._ask_renewal_at = now + min(wait, MAX_RENEWAL_INFO_SECONDS)
        if self._renew_at is None or not window.start <= self._renew_at <= window.end:
            # A moment by chance, so that a CA is not asked by everybody at once.
            moment = random.uniform(window.start, window.end)  # noqa: S311
            self._renew_at = max(moment, self._followed_at + MIN_FOLLOW_SECONDS)
            log.info(
                "the CA suggests to renew at {moment}",
                moment=datetime.fromtimestamp(self._renew_at, UTC).isoformat("T", "seconds"),
            )

    def _seconds(self) -> float:
        seconds: float = self._clock.seconds()
        return seconds

    def _life(self) -> timedelta:
        certificate: x509.Certificate = self._serving.certificate
        return certificate.not_valid_after_utc - certificate.not_valid_before_utc

    def _time_left(self) -> str:
        return describe_time_left(self._serving.certificate, self._seconds())


def describe_span(seconds: float) -> str:
    """Say how long a time is, for people."""
    for unit, name in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def describe_time_left(certificate: x509.Certificate, now: float) -> str:
    """Say how long a certificate lasts, for people."""
    end = certificate.not_valid_after_utc
    left = end.timestamp() - now
    moment = end.isoformat(timespec="minutes")
    if left <= 0:
        return f"ended {moment}"
    return f"ends {moment}, {describe_span(left)} left"
