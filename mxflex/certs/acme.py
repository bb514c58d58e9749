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
from treq.client import HTTPClient
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.client import ResponseFailed
from twisted.web.http import BAD_REQUEST

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

# The alphabet of base64url (RFC 8555, 8.3).
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")

_JOSE = {"Content-Type": "application/jose+json"}


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


class _BadNonce(CertificateError):
    """The server wants the request again with another nonce."""


@attrs.frozen
class _Answer:
    """A response: its JSON (or None), its text, and its headers."""

    text: str
    data: Any
    location: str
    retry_after: float


def _b64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _compact(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode("utf-8")


class AcmeClient:
    """A client of one ACME server, for one account.

    Args:
        http: Sends requests, and trusts whom it should.
        clock: Gives the time and delayed calls.
        directory: The URL of the server's directory.
        account: Who we are.
    """

    def __init__(
        self, http: HTTPClient, clock: IReactorTime, directory: str, account: Account
    ) -> None:
        self._http = http
        self._clock = clock
        self._directory_url = directory
        self._account = account
        self._jwk = JWKEC(key=ComparableECKey(account.key))
        self._directory: Mapping[str, Any] = {}
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
        try:
            return await self._issue(csr, name, respond, profile, replaces)
        except (KeyError, TypeError) as error:
            raise CertificateError(f"the CA's answer is not understood: {error!r}") from error

    async def _issue(
        self,
        csr: x509.CertificateSigningRequest,
        name: str,
        respond: Callable[[Challenge], None],
        profile: str,
        replaces: str,
    ) -> str:
        await self._ensure_account()
        order: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name}]}
        if profile:
            order["profile"] = profile
        if replaces and "renewalInfo" in self._directory:
            order["replaces"] = replaces
        created = await self._post(self._directory["newOrder"], order)
        for url in created.data["authorizations"]:
            await self._authorize(url, name, respond)
        await self._post(created.data["finalize"], {"csr": _b64(csr.public_bytes(Encoding.DER))})
        done = await self._poll(created.location, "valid")
        chain = await self._post(done.data["certificate"], None)
        return chain.text

    async def renewal_window(self, certificate: x509.Certificate) -> RenewalWindow | None:
        """Ask when a certificate should be renewed; None where the CA does not say (RFC 9773).

        Raises:
            CertificateError: The CA did not answer, or in a way that is not understood.
        """
        await self.read_directory()
        base = self._directory.get("renewalInfo")
        identifier = certificate_id(certificate)
        if base is None or identifier is None:
            return None
        answer = await self._send("GET", f"{base.rstrip('/')}/{identifier}")
        try:
            window = answer.data["suggestedWindow"]
            start, end = (
                datetime.fromisoformat(window[key]).timestamp() for key in ("start", "end")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CertificateError("the CA's renewal information is not understood") from error
        return RenewalWindow(start=start, end=max(start, end), retry_after=answer.retry_after)

    async def _authorize(self, url: str, name: str, respond: Callable[[Challenge], None]) -> None:
        """Show that the name is ours (RFC 8555, 7.5)."""
        authorization = (await self._post(url, None)).data
        if authorization["status"] == "valid":
            return
        offered = [each for each in authorization["challenges"] if each["type"] == "http-01"]
        if not offered:
            raise CertificateError(f"the CA offers no http-01 challenge for {name}")
        token = offered[0]["token"]
        if not _TOKEN.fullmatch(token):
            raise CertificateError("the CA's challenge has no usable token")
        thumbprint = _b64(self._jwk.thumbprint())
        respond(Challenge(token=token, key_authorization=f"{token}.{thumbprint}"))
        await self._post(offered[0]["url"], {})
        await self._poll(url, "valid")

    async def _poll(self, url: str, wanted: str) -> _Answer:
        """Look at an order or an authorization until it is done (RFC 8555, 7.1.6)."""
        deadline = self._clock.seconds() + ORDER_SECONDS
        wait = FIRST_POLL_SECONDS
        while True:
            answer = await self._post(url, None)
            status = answer.data["status"]
            if status == wanted:
                return answer
            if status not in ("pending", "processing", "ready"):
                raise CertificateError(_why_not(answer.data) or f"the CA says {status}")
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

    async def _ensure_account(self) -> None:
        """Register, or learn the URL of the account that the key has already (RFC 8555, 7.3)."""
        await self.read_directory()
        if self._account_url:
            return
        url = self._directory["newAccount"]
        wish: dict[str, Any] = {"termsOfServiceAgreed": True}
        if self._account.email:
            wish["contact"] = [f"mailto:{self._account.email}"]
        if self._account.eab_kid:
            wish["externalAccountBinding"] = self._binding(url)
        answer = await self._post(url, wish)
        log.info("ACME account {url}", url=answer.location)
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
                body = self._signed(url, nonce, payload)
                return await self._send("POST", url, data=body, headers=_JOSE)
            except _BadNonce:
                continue
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
        await self._send("HEAD", self._directory["newNonce"])
        if not self._nonces:
            raise CertificateError("the CA gives no nonce")
        return self._nonces.pop()

    async def _send(self, method: str, url: str, **kwargs: Any) -> _Answer:
        try:
            sending = self._http.request(method, url, **kwargs)
            response = await sending.addTimeout(REQUEST_SECONDS, self._clock)
            reading = response.text("utf-8")
            text = await reading.addTimeout(REQUEST_SECONDS, self._clock)
        except DeferredTimeoutError as error:
            raise CertificateError("the CA does not answer") from error
        except (ConnectError, ConnectionClosed, ResponseFailed, OSError) as error:
            raise CertificateError(f"the CA cannot be reached: {_reason(error)}") from error
        except UnicodeDecodeError as error:
            raise CertificateError("the CA answers in no text") from error
        header = response.headers.getRawHeaders
        self._nonces += header("replay-nonce", [])[:1]
        # Enough for one conversation; a nonce grows stale.
        del self._nonces[:-8]
        data = _json(text)
        if response.code >= BAD_REQUEST:
            raise _problem(response.code, data)
        return _Answer(
            text=text,
            data=data,
            location=header("location", [""])[0],
            retry_after=self._retry_after(header("retry-after", [""])[0]),
        )

    def _retry_after(self, value: str) -> float:
        """Give the seconds of a `Retry-After`, which may be a date (RFC 9110, 10.2.3)."""
        if value.isascii() and value.isdigit():
            return float(value[:9])
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        return max(
            0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - self._clock.seconds()
        )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _reason(error: BaseException) -> str:
    """Say what went wrong below HTTP; Twisted wraps it in lists."""
    reasons = getattr(error, "reasons", None)
    return _reason(reasons[0].value) if reasons else str(error)


def _problem(status: int, data: Any) -> CertificateError:
    """Make an error of a problem document (RFC 8555, 6.7)."""
    problem = data if isinstance(data, dict) else {}
    kind = str(problem.get("type", "")).rpartition(":")[2]
    if kind == "badNonce":
        return _BadNonce("the CA refuses the nonce")
    detail = problem.get("detail", "")
    return CertificateError(f"the CA refuses with {status} {kind}: {detail}".rstrip(": "))


def _why_not(data: Mapping[str, Any]) -> str:
    """Find the problem in an authorization or an order that became invalid."""
    for challenge in data.get("challenges", []):
        if "error" in challenge:
            return str(_problem(challenge["error"].get("status", 400), challenge["error"]))
    return str(_problem(400, data["error"])) if "error" in data else ""


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
