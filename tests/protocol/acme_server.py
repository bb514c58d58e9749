"""A small ACME server for tests, as a Twisted resource: in memory or behind a socket.

It holds its clients to RFC 8555, as far as they go here: every signature, nonce, URL and key is
checked, and every challenge is looked at. What pebble cannot do, it can: give certificates of any
life by any clock, suggest when to renew (RFC 9773), and answer what no server should.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.b64 import b64decode, b64encode
from twisted.web.resource import Resource

from mxflex.certs.acme import certificate_id
from mxflex.simulator.certificate import Certificate

DAY = 86_400.0


class Problem(Exception):
    """What a server refuses (RFC 8555, 6.7)."""

    def __init__(self, status, kind, detail="as the test wants it"):
        self.status = status
        self.body = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}
        super().__init__(kind)


@attrs.define(eq=False)
class Order:
    """An order, and what became of it.

    Attributes:
        wish: The payload that asked for it.
        token: The token of its challenge.
        status: Its status (RFC 8555, 7.1.6).
        pem: Its certificate with the chain.
    """

    wish: dict
    token: str
    status: str = "pending"
    pem: str = ""


@attrs.frozen
class Answer:
    """What is answered instead.

    Attributes:
        body: The body.
        status: The status.
        content_type: The media type.
        headers: More headers.
    """

    body: bytes = b""
    status: int = 200
    content_type: bytes = b"application/json"
    headers: dict = attrs.field(factory=dict)


class AcmeServer(Resource):
    """The server.

    Args:
        seconds: Gives the time, in seconds since the epoch.
        look: Fetches the answer to a challenge by its token, as bytes or None.
        base: Its own address.

    Attributes:
        life: Seconds that its certificates are valid.
        extra: What stands in the directory besides.
        window: The start and the end that it suggests for renewals, in seconds since the epoch.
        retry_after: The header that goes with that suggestion, and with orders in progress.
        thinking: How often an order is looked at before it is done.
        stale: How many of the next nonces it refuses.
        binding: Key identifier and secret of the external account binding that it wants.
        instead: Answers that take the place of its own, by the first part of the path; `Problem`,
            `Answer`, or a function of the request that gives the body.
        requests: The first part of the path of every request.
        orders: All orders.
        validated: When it looked at challenges.
        finalized: When it made certificates.
        agents: The `User-Agent` of every request.
    """

    isLeaf = True

    def __init__(self, seconds, look, base="https://ca.example.test"):
        super().__init__()
        self.directory = f"{base}/directory"
        self.life = 90 * DAY
        self.extra = {}
        self.window = None
        self.retry_after = b""
        self.thinking = 0
        self.stale = 0
        self.binding = None
        self.instead = {}
        self.requests = []
        self.orders = []
        self.validated = []
        self.finalized = []
        self.agents = []
        self._seconds = seconds
        self._look = look
        self._base = base
        self._authority = Certificate.authority()
        self._nonces = set()
        self._number = 0
        self._accounts = {}

    # --- HTTP -------------------------------------------------------------------------------------

    def render(self, request):
        """Answer a request."""
        resource, _, name = request.path.decode()[1:].partition("/")
        self.requests.append(resource)
        self.agents.append(request.getHeader("user-agent"))
        if request.method != b"GET":
            self._number += 1
            nonce = f"nonce-{self._number}"
            self._nonces.add(nonce)
            request.setHeader(b"replay-nonce", nonce.encode())
        try:
            instead = self.instead.get(resource)
            if isinstance(instead, Problem):
                raise instead
            if isinstance(instead, Answer):
                return self._send(request, instead)
            if instead is not None:
                return instead(request)
            if request.method in (b"GET", b"HEAD"):
                return self._json(request, getattr(self, f"get_{resource}")(request, name))
            payload = self._verified(request, resource)
            answer = getattr(self, f"post_{resource}")(request, name, payload)
            if isinstance(answer, str):
                return self._send(
                    request, Answer(answer.encode(), content_type=b"application/pem-certificate")
                )
            return self._json(request, answer)
        except Problem as problem:
            body = json.dumps(problem.body).encode()
            return self._send(request, Answer(body, problem.status, b"application/problem+json"))

    def _send(self, request, answer):
        request.setResponseCode(answer.status)
        request.setHeader(b"content-type", answer.content_type)
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        return answer.body

    def _json(self, request, data):
        return self._send(request, Answer(json.dumps(data).encode()))

    # --- Signatures (RFC 8555, 6.2) ---------------------------------------------------------------

    def _verified(self, request, resource):
        assert request.getHeader("content-type") == "application/jose+json"
        jws = json.loads(request.content.read())
        header = json.loads(b64decode(jws["protected"]))
        assert header["url"] == f"{self._base}{request.path.decode()}"
        assert header["alg"] == "ES256"
        assert ("jwk" in header) != ("kid" in header)
        assert ("jwk" in header) == (resource == "account")
        if header["nonce"] not in self._nonces or self.stale:
            self.stale = max(0, self.stale - 1)
            raise Problem(400, "badNonce")
        self._nonces.remove(header["nonce"])
        if "kid" in header and header["kid"] not in self._accounts:
            raise Problem(400, "accountDoesNotExist")
        jwk = header.get("jwk") or self._accounts[header["kid"]]
        assert sorted(jwk) == ["crv", "kty", "x", "y"]
        _check_signature(jwk, jws)
        self._jwk = jwk
        return json.loads(b64decode(jws["payload"]) or b"null")

    @property
    def _thumbprint(self):
        canonical = json.dumps(self._jwk, sort_keys=True, separators=(",", ":"))
        return b64encode(hashlib.sha256(canonical.encode()).digest())

    # --- Resources --------------------------------------------------------------------------------

    def get_directory(self, _request, _name):
        """RFC 8555, 7.1.1."""
        names = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"}
        urls = {key: f"{self._base}/{value}" for key, value in names.items()}
        if self.window is not None:
            urls["renewalInfo"] = f"{self._base}/renewal"
        return {**urls, **self.extra}

    def get_nonce(self, _request, _name):
        """RFC 8555, 7.2."""

    def get_renewal(self, request, name):
        """RFC 9773, 4.1."""
        assert name == certificate_id(x509.load_pem_x509_certificate(self.orders[-1].pem.encode()))
        if self.retry_after:
            request.setHeader(b"retry-after", self.retry_after)
        start, end = (dt.datetime.fromtimestamp(each, dt.UTC).isoformat() for each in self.window)
        return {"suggestedWindow": {"start": start, "end": end}}

    def post_account(self, request, _name, wish):
        """RFC 8555, 7.3."""
        assert wish["termsOfServiceAgreed"] is True
        if self.binding is not None:
            self._check_binding(wish, f"{self._base}/account")
        url = f"{self._base}/accounts/{self._thumbprint.decode()}"
        self._accounts[url] = self._jwk
        request.setHeader(b"location", url.encode())
        return {"status": "valid"}

    def _check_binding(self, wish, url):
        if "externalAccountBinding" not in wish:
            raise Problem(403, "externalAccountRequired")
        jws = wish["externalAccountBinding"]
        kid, secret = self.binding
        assert json.loads(b64decode(jws["protected"])) == {"alg": "HS256", "kid": kid, "url": url}
        assert json.loads(b64decode(jws["payload"])) == self._jwk
        signed = f"{jws['protected']}.{jws['payload']}".encode()
        expected = hmac.digest(secret, signed, "sha256")
        if not hmac.compare_digest(expected, b64decode(jws["signature"])):
            raise Problem(401, "unauthorized")

    def post_order(self, request, _name, wish):
        """RFC 8555, 7.4."""
        assert [each["type"] for each in wish["identifiers"]] == ["dns"]
        self.orders.append(Order(wish, f"token-{len(self.orders)}"))
        number = len(self.orders) - 1
        request.setHeader(b"location", f"{self._base}/orders/{number}".encode())
        return self._describe(number)

    def _describe(self, number):
        order = self.orders[number]
        told = {
            "status": order.status,
            "authorizations": [f"{self._base}/authorizations/{number}"],
            "finalize": f"{self._base}/finalize/{number}",
        }
        return told | ({"certificate": f"{self._base}/certificate/{number}"} if order.pem else {})

    def post_orders(self, request, name, payload):
        """RFC 8555, 7.4: an order is looked at."""
        assert payload is None
        order = self.orders[int(name)]
        if order.status == "processing":
            if self.thinking:
                self.thinking -= 1
                request.setHeader(b"retry-after", self.retry_after)
            else:
                order.status = "valid"
        return self._describe(int(name))

    def post_authorizations(self, _request, name, payload):
        """RFC 8555, 7.5."""
        assert payload is None
        order = self.orders[int(name)]
        told = {
            "type": "http-01",
            "token": order.token,
            "url": f"{self._base}/challenge/{name}",
        }
        if order.status == "invalid":
            told["error"] = Problem(400, "connection", "nobody is there").body | {"status": 400}
        status = {"pending": "pending", "invalid": "invalid"}.get(order.status, "valid")
        return {"status": status, "challenges": [{"type": "dns-01"}, told]}

    def post_challenge(self, _request, name, payload):
        """RFC 8555, 7.5.1 and 8.3."""
        assert payload == {}
        order = self.orders[int(name)]
        self.validated.append(self._seconds())
        wanted = order.token.encode() + b"." + self._thumbprint
        order.status = "ready" if self._look(order.token.encode()) == wanted else "invalid"
        return {}

    def post_finalize(self, _request, name, payload):
        """RFC 8555, 7.4."""
        order = self.orders[int(name)]
        assert order.status == "ready"
        csr = x509.load_der_x509_csr(b64decode(payload["csr"]))
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        wanted = [each["value"] for each in order.wish["identifiers"]]
        assert names.get_values_for_type(x509.DNSName) == wanted
        assert csr.is_signature_valid
        order.pem = self._sign(csr, names)
        order.status = "processing"
        self.finalized.append(self._seconds())
        return self._describe(int(name))

    def _sign(self, csr, names):
        begin = dt.datetime.fromtimestamp(self._seconds(), dt.UTC)
        issuer = self._authority
        key_id = x509.SubjectKeyIdentifier.from_public_key(issuer.key.public_key()).digest
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + dt.timedelta(seconds=self.life))
            .add_extension(names, critical=True)
            .add_extension(x509.AuthorityKeyIdentifier(key_id, None, None), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode() + issuer.pem.decode()

    def post_certificate(self, _request, name, payload):
        """RFC 8555, 7.4.2."""
        assert payload is None
        return self.orders[int(name)].pem


def _check_signature(jwk, jws):
    x, y = (int.from_bytes(b64decode(jwk[each]), "big") for each in "xy")
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    raw = b64decode(jws["signature"])
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    signed = f"{jws['protected']}.{jws['payload']}".encode()
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Problem(400, "malformed", "bad signature") from error
