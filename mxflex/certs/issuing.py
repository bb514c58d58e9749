"""One certificate, kept fresh by an ACME server for as long as the daemon runs.

txacme's service decides what is due and lets one issuance run at a time. What it lacks is
overridden here: the second version of the protocol, intervals that follow the certificate's own
life, waits after failures, and a stop that does not wait.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pem
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txacme.service import AcmeIssuingService
from txacme.util import csr_for_names

from mxflex.certs.acme import Account, AcmeClient, certificate_id
from mxflex.certs.context import ServingCertificate
from mxflex.certs.responder import ChallengeResponder
from mxflex.certs.store import CertificateFile, check_pair, private_bytes
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
# Shares of a certificate's life: with so much left it is renewed, and with so much it is an alarm.
RENEW_SHARE = 1 / 3
ALARM_SHARE = 1 / 6
# How often the CA is asked when it suggests to renew, unless it says otherwise (RFC 9773, 4.2).
RENEWAL_INFO_SECONDS = 6 * HOUR


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
            client_creator=self._make_client,
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
        self._client: AcmeClient | None = None
        self._keeping: Deferred[None] | None = None
        self._failures = 0
        self._ask_renewal_at = 0.0
        self._renew_at: float | None = None

    # --- Life ---------------------------------------------------------------------------------

    def startService(self) -> None:
        """Use the stored certificate, if there is one, and see to it that it stays fresh."""
        Service.startService(self)
        objects = self._store.read()
        if objects is not None:
            self._serving.use(objects)
            log.info("certificate of {name}: {days}", name=self._name, days=self._time_left())
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
                await deferLater(self._clock, self._next_wait())

    def _keeper_ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("nobody looks after the certificate any more", failure)

    def _next_wait(self) -> float:
        """Give the seconds until the next look."""
        moved = random.uniform(0.9, 1.1)  # noqa: S311  chance, not secrecy
        if self._failures:
            doubled: float = FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 32)
            return min(doubled, MAX_RETRY_SECONDS) * moved
        due = self._serving.certificate.not_valid_after_utc - self._life() * RENEW_SHARE
        until_due = due.timestamp() - self._seconds()
        return min(CHECK_SECONDS * moved, max(1.0, until_due))

    # --- What txacme asks of us ---------------------------------------------------------------

    def _make_client(self) -> Deferred[AcmeClient]:
        if self._client is None:
            kid, secret = self._eab
            account = Account(
                key=self._store.account_key(), email=self._email, eab_kid=kid, eab_key=secret
            )
            self._client = AcmeClient(self._http, self._clock, self._directory, account)
        return succeed(self._client)

    def _ensure_registered(self) -> Deferred[None]:
        # The client registers when it first needs the account, so that a certificate that is still
        # good is used without a word to the CA.
        return succeed(None)

    def _check_certs(self) -> Deferred[None]:
        """Renew the certificate if it is due; the intervals follow its own life."""
        return Deferred.fromCoroutine(self._check())

    async def _check(self) -> None:
        await self._ask_when_to_renew()
        life = self._life()
        self.reissue_interval = life * RENEW_SHARE
        self.panic_interval = life * ALARM_SHARE
        if self._renew_at is not None and self._seconds() >= self._renew_at:
            self.reissue_interval = life
        await super()._check_certs()

    def _issue_cert(self, client: AcmeClient, server_name: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._renew(client, server_name))

    def _failed_by_a_bug(self, failure: Failure, server_name: str) -> None:
        """Take what `_renew` did not expect; txacme calls this "panic"."""
        self._failures += 1
        log.failure("the certificate of {name} was not renewed", failure, name=server_name)

    # --- One renewal --------------------------------------------------------------------------

    async def _renew(self, client: AcmeClient, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        replaces = certificate_id(self._serving.certificate) if self._serving.real else None
        log.info("asking for a certificate of {name}", name=name)
        try:
            chain = await client.issue(
                csr_for_names([name], key),
                name,
                self._responder.respond,
                profile=self._profile,
                replaces=replaces or "",
            )
            objects = pem.parse(private_bytes(key) + chain.encode("ascii"))
            check_pair(objects)
            await self._store.store(name, objects)
            self._serving.use(objects)
        except CancelledError:
            # The service stops; that is no failure to tell.
            return
        except (CertificateError, OSError, ValueError) as error:
            self._failures += 1
            self._tell_trouble(error)
        else:
            self._failures = 0
            self._renew_at = None
            log.info("new certificate of {name}: {days}", name=name, days=self._time_left())
        finally:
            self._responder.forget()

    def _tell_trouble(self, error: Exception) -> None:
        if self._serving.real:
            log.error(
                "the certificate of {name} is not renewed ({days}): {error}",
                name=self._name,
                days=self._time_left(),
                error=error,
            )
        else:
            log.error("no certificate of {name} yet: {error}", name=self._name, error=error)

    async def _ask_when_to_renew(self) -> None:
        """Ask the CA for its suggestion, where it has one (RFC 9773)."""
        now = self._seconds()
        if not self._serving.real or now < self._ask_renewal_at:
            return
        self._ask_renewal_at = now + RENEWAL_INFO_SECONDS
        try:
            client = await self._make_client()
            window = await client.renewal_window(self._serving.certificate)
        except CertificateError as error:
            log.warn("the CA was not asked when to renew: {error}", error=error)
            return
        if window is None:
            return
        if window.retry_after:
            self._ask_renewal_at = now + window.retry_after
        if self._renew_at is None or not window.start <= self._renew_at <= window.end:
            # A moment by chance, so that a CA is not asked by everybody at once.
            self._renew_at = random.uniform(window.start, window.end)  # noqa: S311
            moment = datetime.fromtimestamp(self._renew_at, UTC)
            log.info("the CA suggests to renew at {moment}", moment=moment.isoformat())

    def _seconds(self) -> float:
        seconds: float = self._clock.seconds()
        return seconds

    def _life(self) -> timedelta:
        certificate: x509.Certificate = self._serving.certificate
        return certificate.not_valid_after_utc - certificate.not_valid_before_utc

    def _time_left(self) -> str:
        return describe_time_left(self._serving.certificate, self._seconds())


def describe_time_left(certificate: x509.Certificate, now: float) -> str:
    """Say how long a certificate lasts, for people."""
    end = certificate.not_valid_after_utc
    left = end.timestamp() - now
    moment = end.isoformat(timespec="minutes")
    if left <= 0:
        return f"ended {moment}"
    if left < 2 * DAY:
        return f"ends {moment}, {left / HOUR:.1f} hours left"
    return f"ends {moment}, {left / DAY:.0f} days left"
