"""A client of ACME servers: as much of RFC 8555 as one certificate by http-01 needs.

txacme, whose service keeps the certificate fresh, speaks only the first version of the protocol,
which no public server offers any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.b64 import b64encode
from josepy.jwa import ES256, HS256
from josepy.jwk import JWKEC
from josepy.util import ComparableECKey
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.client import RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed
from twisted.web.http import BAD_REQUEST, MULTIPLE_CHOICE
from twisted.web.http_headers import Headers

from mxflex import __version__
from mxflex.certs.http import AnswerTooLong, read_body
from mxflex.errors import CertificateError

log = Logger()

# How long one request may take, and how long the server may think about an order, in seconds.
REQUEST_SECONDS = 30.0
ORDER_SECONDS = 300.0
# Waits between two looks at what is not done yet, in seconds; `Retry-After` may lengthen them.
FIRST_POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 15.0
# A server may refuse a nonce at any time, and then says so with a fresh one (RFC 8555, 6.5).
MAX_NONCE_TRIES = 40
# How many characters of the CA's own words go into a line of the log.
MAX_QUOTED = 300

# The alphabet of base64url (RFC 8555, 8.3).
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")

# RFC 8555, 6.1: with the name and the version of the software.
USER_AGENT = f"MXFlex/{__version__}"

# What requests fail with, below HTTP.
_BROKEN = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ResponseFailed,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    OSError,
)


@attrs.frozen(kw_only=True)
class Account:
    """Who we are to the ACME server.

    Attributes:
        key: The account's own key, apart from those of certificates.
        email: Where the CA may write to; "" for nowhere.
        eab_kid: Key identifier of the external account binding (RFC 8555, 7.3.4); "" for none.
        eab_key: Its secret, decoded.
    """

    key: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    email: str = ""
    eab_kid: str = ""
    eab_key: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True)
class Challenge:
    """What the CA will fetch from port 80 to see that the name is ours (RFC 8555, 8.3).

    Attributes:
        token: The last part of the path.
        key_authorization: The content.
    """

    token: str
    key_authorization: str


@attrs.frozen(kw_only=True)
class RenewalWindow:
    """When the CA suggests to renew (RFC 9773).

    Attributes:
        start, end: The window, in seconds since the epoch.
        retry_after: Seconds until it is worth asking again.
    """

    start: float
    end: float
    retry_after: float


class _Refused(CertificateError):
    """The CA answered with a problem document, or with no more than a status (RFC 8555, 6.7).

    Args:
        text: The sentence for the administrator.
        kind: The last part of the problem's type, such as `rateLimited`; "" for none.
    """

    def __init__(self, text: str, kind: str) -> None:
        self.kind = kind
        super().__init__(text)


@attrs.frozen
class _Answer:
    """A response: its text, its JSON (or None), and its headers."""

    text: str
    data: Any
    location: str
    retry_after: float


def _b64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _compact(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode("utf-8")


class AcmeClient:
    """A client of one ACME server, for one account and one conversation.

    Args:
        http: Sends requests, and trusts whom it should.
        clock: Gives the time and delayed calls.
        directory: The URL of the server's directory.
        account: Who we are.

    Attributes:
        finalized: Whether the CA was told to make a certificate, and so has counted one.
    """

    def __init__(
        self, http: HTTPClient, clock: IReactorTime, directory: str, account: Account
    ) -> None:
        self.finalized = False
        self._http = http
        self._clock = clock
        self._directory_url = directory
        self._account = account
        self._jwk = JWKEC(key=ComparableECKey(account.key))
        self._directory: dict[str, Any] = {}
        self._account_url = ""
        self._nonces: list[str] = []

    # --- What it does -------------------------------------------------------------------------

    async def issue(
        self,
        csr: x509.CertificateSigningRequest,
        name: str,
        respond: Callable[[Challenge], None],
        *,
        profile: str = "",
        replaces: str = "",
    ) -> str:
        """Get a certificate (RFC 8555, 7.4).

        Args:
            csr: What is to be certified.
            name: The host name in it.
            respond: Called with each challenge before the CA is told to look.
            profile: The certificate profile to ask for, "" for the CA's default.
            replaces: The id of the certificate that this one replaces (RFC 9773, 5).

        Returns:
            The certificate and its chain in PEM.

        Raises:
            CertificateError: The CA refused, did not answer, or found the challenge unanswered; the
                text says which.
        """
        await self._ensure_account()
        created = await self._order(name, profile, replaces)
        if not created.location:
            raise CertificateError("the CA does not say where the order is")
        for url in _field(created.data, "authorizations", list):
            await self._authorize(url, name, respond)
        ready = (await self._poll(created.location, ("ready", "valid"))).data
        self.finalized = True
        wish = {"csr": _b64(csr.public_bytes(Encoding.DER))}
        await self._post(_field(ready, "finalize", str), wish)
        done = await self._poll(created.location, ("valid",))
        chain = await self._post(_field(done.data, "certificate", str), None)
        return chain.text

    async def _order(self, name: str, profile: str, replaces: str) -> _Answer:
        order: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name}]}
        if profile:
            order["profile"] = profile
        url = self._url("newOrder")
        if replaces and "renewalInfo" in self._directory:
            try:
                return await self._post(url, {**order, "replaces": replaces})
            except _Refused as error:
                if error.kind == "rateLimited":
                    raise
                # It may be of another CA, or replaced already by a certificate that never reached
                # us. The field is a courtesy, for which no renewal shall fail.
                log.info("the CA takes no order that replaces: {error}", error=error)
        return await self._post(url, order)

    async def renewal_window(self, certificate: x509.Certificate) -> RenewalWindow | None:
        """Ask when a certificate should be renewed; None where the CA does not say (RFC 9773).

        Raises:
            CertificateError: The CA did not answer, or in a way that is not understood.
        """
        await self.read_directory()
        identifier = certificate_id(certificate)
        if "renewalInfo" not in self._directory or identifier is None:
            return None
        base = self._url("renewalInfo").rstrip("/")
        answer = await self._send("GET", f"{base}/{identifier}")
        window = _field(answer.data, "suggestedWindow", dict)
        try:
            start, end = (
                datetime.fromisoformat(_field(window, key, str)).timestamp()
                for key in ("start", "end")
            )
        except (ValueError, OverflowError) as error:
            raise CertificateError("the CA's renewal information has no usable times") from error
        if end <= start:
            # RFC 9773, 4.2: to be taken for no answer.
            raise CertificateError("the CA's renewal information ends before it starts")
        return RenewalWindow(start=start, end=end, retry_after=answer.retry_after)

    async def _authorize(self, url: str, name: str, respond: Callable[[Challenge], None]) -> None:
        """Show that the name is ours (RFC 8555, 7.5)."""
        authorization = (await self._post(url, None)).data
        if _field(authorization, "status", str) == "valid":
            return
        challenge = next(
            (
                each
                for each in _field(authorization, "challenges", list)
                if isinstance(each, dict) and each.get("type") == "http-01"
            ),
            None,
        )
        if challenge is None:
            raise CertificateError(f"the CA offers no http-01 challenge for {name}")
        token = _field(challenge, "token", str)
        if not _TOKEN.fullmatch(token):
            raise CertificateError("the CA's challenge has no usable token")
        thumbprint = _b64(self._jwk.thumbprint())
        respond(Challenge(token=token, key_authorization=f"{token}.{thumbprint}"))
        await self._post(_field(challenge, "url", str), {})
        await self._poll(url, ("valid",))

    async def _poll(self, url: str, wanted: tuple[str, ...]) -> _Answer:
        """Look at an order or an authorization until it is done (RFC 8555, 7.1.6)."""
        deadline = self._clock.seconds() + ORDER_SECONDS
        wait = FIRST_POLL_SECONDS
        while True:
            answer = await self._post(url, None)
            status = _field(answer.data, "status", str)
            if status in wanted:
                return answer
            if status not in ("pending", "processing", "ready"):
                raise CertificateError(_why_not(answer.data) or f"the CA says {_clean(status)}")
            if self._clock.seconds() >= deadline:
                raise CertificateError(f"the CA has been thinking for {ORDER_SECONDS:.0f} s")
            await deferLater(self._clock, min(max(wait, answer.retry_after), MAX_POLL_SECONDS))
            wait = min(wait * 2, MAX_POLL_SECONDS)

    # --- Account ------------------------------------------------------------------------------

    async def read_directory(self) -> None:
        """Learn where the CA has what (RFC 8555, 7.1.1); once is enough.

        Raises:
            CertificateError: The CA did not answer, or not with a directory.
        """
        if not self._directory:
            directory = (await self._send("GET", self._directory_url)).data
            if not isinstance(directory, dict) or "newOrder" not in directory:
                raise CertificateError(f"{self._directory_url} is no ACME directory")
            self._directory = directory

    def _url(self, resource: str) -> str:
        url: str = _field(self._directory, resource, str)
        return url

    async def _ensure_account(self) -> None:
        """Register, or learn the URL of the account that the key has already (RFC 8555, 7.3)."""
        await self.read_directory()
        if self._account_url:
            return
        url = self._url("newAccount")
        wish: dict[str, Any] = {"termsOfServiceAgreed": True}
        if self._account.email:
            wish["contact"] = [f"mailto:{self._account.email}"]
        if self._account.eab_kid:
            wish["externalAccountBinding"] = self._binding(url)
        answer = await self._post(url, wish)
        if not answer.location:
            raise CertificateError("the CA does not say where the account is")
        log.info("ACME account {url}", url=_clean(answer.location))
        self._account_url = answer.location

    def _binding(self, url: str) -> dict[str, str]:
        """Tie the account to one that the CA has in its books (RFC 8555, 7.3.4)."""
        header = {"alg": "HS256", "kid": self._account.eab_kid, "url": url}
        protected = _b64(_compact(header))
        payload = _b64(_compact(self._public_jwk()))
        signature = HS256.sign(self._account.eab_key, f"{protected}.{payload}".encode())
        return {"protected": protected, "payload": payload, "signature": _b64(signature)}

    def _public_jwk(self) -> dict[str, Any]:
        jwk: dict[str, Any] = self._jwk.public_key().to_partial_json()
        return jwk

    # --- Requests -----------------------------------------------------------------------------

    async def _post(self, url: str, payload: Any) -> _Answer:
        """Send a signed request (RFC 8555, 6.2); a payload of None reads (6.3)."""
        for _ in range(MAX_NONCE_TRIES):
            nonce = self._nonces.pop() if self._nonces else await self._fresh_nonce()
            try:
                return await self._send("POST", url, self._signed(url, nonce, payload))
            except _Refused as error:
                if error.kind != "badNonce":
                    raise
        raise CertificateError("the CA refuses every nonce")

    def _signed(self, url: str, nonce: str, payload: Any) -> bytes:
        header: dict[str, Any] = {"alg": "ES256", "nonce": nonce, "url": url}
        if self._account_url:
            header["kid"] = self._account_url
        else:
            header["jwk"] = self._public_jwk()
        protected = _b64(_compact(header))
        encoded = "" if payload is None else _b64(_compact(payload))
        signature = ES256.sign(self._jwk.key, f"{protected}.{encoded}".encode())
        return _compact({"protected": protected, "payload": encoded, "signature": _b64(signature)})

    async def _fresh_nonce(self) -> str:
        await self._send("HEAD", self._url("newNonce"))
        if not self._nonces:
            raise CertificateError("the CA gives no nonce")
        return self._nonces.pop()

    async def _send(self, method: str, url: Any, body: bytes | None = None) -> _Answer:
        # RFC 8555, 6.1: nothing goes over plain HTTP, whatever the CA's answers name.
        if not isinstance(url, str) or not url.startswith("https://"):
            raise CertificateError(f"the CA names {_clean(url)!r} where an https URL should be")
        headers = Headers({"User-Agent": [USER_AGENT]})
        if body is not None:
            headers.addRawHeader("Content-Type", "application/jose+json")
        try:
            sending = self._http.request(
                method, url, data=body, headers=headers, allow_redirects=False, unbuffered=True
            )
            response = await sending.addTimeout(REQUEST_SECONDS, self._clock)
            content = await read_body(response).addTimeout(REQUEST_SECONDS, self._clock)
        except DeferredTimeoutError as error:
            raise CertificateError("the CA does not answer") from error
        except AnswerTooLong as error:
            raise CertificateError(f"the CA's answer is too long: {error}") from error
        except _BROKEN as error:
            reason = _reason(error)
            if isinstance(reason, CancelledError | ConnectingCancelledError):
                # How Twisted tells of a time-out, where it does not say so itself.
                raise CertificateError("the CA does not answer") from error
            raise CertificateError(f"the CA cannot be reached: {_describe(reason)}") from error
        except ValueError as error:
            raise CertificateError(f"the CA names {_clean(url)!r}, which is no URL") from error
        self._nonces += _headers(response, b"replay-nonce")
        # Enough for one conversation; a nonce grows stale.
        del self._nonces[:-8]
        text = content.decode("utf-8", "replace")
        data = _json(text)
        if response.code >= MULTIPLE_CHOICE:
            raise _problem(response, data)
        return _Answer(
            text=text,
            data=data,
            location=next(iter(_headers(response, b"location")), ""),
            retry_after=_retry_after(
                next(iter(_headers(response, b"retry-after")), ""), self._clock.seconds()
            ),
        )


def _headers(response: Any, name: bytes) -> list[str]:
    """Give the values of a header of the response, the first one at most."""
    values = response.headers.getRawHeaders(name, [])
    return [value.decode("ascii", "replace") for value in values[:1]]


def _retry_after(value: str, now: float) -> float:
    """Give the seconds of a `Retry-After`, which may be a date (RFC 9110, 10.2.3)."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _field(data: Any, key: str, kind: type) -> Any:
    """Give a field of an answer.

    Raises:
        CertificateError: It is not there, or of another kind.
    """
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise CertificateError(f"the CA's answer has no usable {key}")
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _clean(text: object) -> str:
    """Give words of the CA as part of a line: without breaks, and not too many."""
    words = " ".join(str(text).split())
    return words if len(words) <= MAX_QUOTED else f"{words[:MAX_QUOTED]}…"


def _reason(error: BaseException) -> BaseException:
    """Give what went wrong below HTTP, which Twisted wraps in lists."""
    reasons = getattr(error, "reasons", None)
    return _reason(reasons[0].value) if reasons else error


def _describe(error: BaseException) -> str:
    """Say what went wrong, for people."""
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return "TLS: " + ", ".join(str(each[-1]) for each in error.args[0])
    return _clean(error).rstrip(".") or type(error).__name__


def _problem(response: Any, data: Any) -> _Refused:
    """Make an error of an answer that is none."""
    if isinstance(data, dict) and "type" in data:
        return _refusal(data, response.code)
    kind = next(iter(_headers(response, b"content-type")), "no content")
    return _Refused(f"the CA answers {response.code} with {_clean(kind)}", "")


def _refusal(problem: Mapping[str, Any], status: object) -> _Refused:
    """Make an error of a problem document (RFC 8555, 6.7)."""
    kind = str(problem.get("type", "")).rpartition(":")[2]
    text = f"the CA refuses with {_clean(status)} {_clean(kind)}: "
    return _Refused(text + _clean(problem.get("detail", "no details")), kind)


def _why_not(data: Mapping[str, Any]) -> str:
    """Find the problem in an authorization or an order that became invalid; "" for none."""
    challenges = data.get("challenges")
    for each in (*(challenges if isinstance(challenges, list) else ()), data):
        problem = each.get("error") if isinstance(each, dict) else None
        if isinstance(problem, dict):
            return str(_refusal(problem, problem.get("status", BAD_REQUEST)))
    return ""


def certificate_id(certificate: x509.Certificate) -> str | None:
    """Give the id of a certificate for renewal information (RFC 9773, 4.1); None without one."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    key_identifier = extension.value.key_identifier
    if key_identifier is None:
        return None
    number = certificate.serial_number
    # The content of the DER integer: a leading zero keeps it positive.
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return f"{_b64(key_identifier)}.{_b64(serial)}"
