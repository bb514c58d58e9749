"""The ACME client against a server in memory: what it sends, and what it makes of answers."""

from __future__ import annotations

import datetime as dt
import gzip
import json

import pem
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from txacme.util import csr_for_names

from mxflex import __version__
from mxflex.certs import acme
from mxflex.certs.acme import Account, AcmeClient, certificate_id
from mxflex.certs.http import MAX_ANSWER_BYTES
from mxflex.certs.responder import ChallengeResponder
from mxflex.certs.store import check_pair, is_for, private_bytes
from mxflex.errors import CertificateError
from tests.protocol.acme_server import AcmeServer, Answer, Problem

NAME = "mx.example.test"
NOW = 1_800_000_000
# Every resource that an issuance asks for.
RESOURCES = (
    "directory",
    "nonce",
    "account",
    "order",
    "authorizations",
    "challenge",
    "orders",
    "finalize",
    "certificate",
)


class Bench:
    """A client, its server, and the time.

    Attributes:
        key: The key to be certified.
    """

    def __init__(self, **account):
        self.clock = Clock()
        self.clock.advance(NOW)
        self.responder = ChallengeResponder()
        self.server = AcmeServer(self.clock.seconds, self.responder.answer)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.account = Account(key=ec.generate_private_key(ec.SECP256R1()), **account)
        self.client = AcmeClient(
            StubTreq(self.server), self.clock, self.server.directory, self.account
        )

    def run(self, coroutine):
        """Let something come to its end, however long that takes; give or raise its result."""
        results = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        while not results:
            calls = self.clock.getDelayedCalls()
            assert calls, "it waits for nothing"
            self.clock.advance(max(0, min(each.getTime() for each in calls) - self.clock.seconds()))
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def issue(self, **options):
        """Get a certificate, and give it with its chain in PEM."""
        csr = csr_for_names([NAME], self.key)
        return self.run(self.client.issue(csr, NAME, self.responder.respond, **options))

    def error(self, **options):
        """Fail to get a certificate, and give the sentence that says why."""
        with pytest.raises(CertificateError) as caught:
            self.issue(**options)
        return str(caught.value)

    def certificate(self):
        """Get a certificate, and give it alone."""
        return x509.load_pem_x509_certificates(self.issue().encode())[0]

    def window(self, certificate):
        """Ask when to renew."""
        return self.run(self.client.renewal_window(certificate))


@pytest.fixture
def bench():
    """Give a client without an email, and its server."""
    return Bench()


# --- What it sends --------------------------------------------------------------------------------


def test_a_certificate_is_issued(bench):
    """Sound requests in the right order lead to a certificate of our key with its chain."""
    objects = pem.parse(private_bytes(bench.key) + bench.issue().encode())
    assert is_for(check_pair(objects), NAME)
    assert len(objects) == 3
    assert bench.client.finalized
    assert bench.server.requests[:3] == ["directory", "nonce", "account"]


def test_it_says_who_it_is(bench):
    """Every request names the program and its version (RFC 8555, 6.1)."""
    bench.issue()
    assert set(bench.server.agents) == {f"MXFlex/{__version__}"}


def test_the_order_has_no_more_than_is_wanted(bench):
    """Without a profile and without renewal information an order is for the name alone."""
    bench.issue(replaces="abc.def")
    assert bench.server.orders[0].wish == {"identifiers": [{"type": "dns", "value": NAME}]}


def test_profile(bench):
    """A profile goes into the order."""
    bench.issue(profile="shortlived")
    assert bench.server.orders[0].wish["profile"] == "shortlived"


def test_contact():
    """An email address becomes the account's contact."""
    bench = Bench(email="admin@example.com")
    wishes = []
    post = bench.server.post_account
    bench.server.post_account = lambda *args: (wishes.append(args[2]), post(*args))[1]
    bench.issue()
    assert wishes[0]["contact"] == ["mailto:admin@example.com"]


def test_external_account_binding():
    """A server that wants a binding accepts the one that is made with its secret, and no other."""
    bench = Bench(eab_kid="kid-1", eab_key=b"secret of the CA")
    bench.server.binding = ("kid-1", b"secret of the CA")
    bench.issue()
    other = Bench(eab_kid="kid-1", eab_key=b"another secret")
    other.server.binding = ("kid-1", b"secret of the CA")
    assert "the CA refuses with 401 unauthorized: " in other.error()
    none = Bench()
    none.server.binding = ("kid-1", b"secret of the CA")
    assert "403 externalAccountRequired" in none.error()


def test_the_account_survives(bench):
    """The same key is the same account, for another client too."""
    bench.issue()
    bench.client = AcmeClient(
        StubTreq(bench.server), bench.clock, bench.server.directory, bench.account
    )
    bench.issue()
    assert len(bench.server._accounts) == 1


# --- Nonces and waiting ---------------------------------------------------------------------------


@pytest.mark.parametrize("stale", [1, 5, acme.MAX_NONCE_TRIES - 1])
def test_refused_nonces(bench, stale):
    """A refused nonce is replaced by the fresh one of the refusal, many times if need be."""
    bench.server.stale = stale
    bench.issue()
    assert bench.server.requests.count("nonce") == 1


def test_every_nonce_is_refused(bench):
    """A server that takes no nonce at all is given up."""
    bench.server.stale = 10**9
    assert bench.error() == "the CA refuses every nonce"
    assert bench.server.requests.count("account") == acme.MAX_NONCE_TRIES


def test_an_order_takes_its_time(bench):
    """An order is looked at again until it is done, at most as often as the server wants it."""
    bench.server.thinking = 3
    bench.server.retry_after = b"10"
    bench.issue()
    assert bench.clock.seconds() - NOW == pytest.approx(30)


def test_patience_has_a_limit(bench):
    """An order that is never done is given up; no `Retry-After` makes us wait for days."""
    bench.server.thinking = 10**9
    bench.server.retry_after = b"999999999"
    assert bench.error() == "the CA has been thinking for 300 s"
    assert 300 <= bench.clock.seconds() - NOW <= 300 + acme.MAX_POLL_SECONDS
    assert bench.client.finalized


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("", 0),
        ("-5", 0),
        ("soon", 0),
        ("9" * 400, 999_999_999),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60),
        ("Fri, 15 Jan 2027 08:01:00 -0000", 60),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 0),
        ("Fri, 15 Jan 2027 08:01:00 +99999999999999", 0),
        ("Fri, 99 Jan 2027 08:01:00 GMT", 0),
    ],
)
def test_retry_after(value, seconds):
    """`Retry-After` is a number of seconds or a date, and anything else is none."""
    assert acme._retry_after(value, NOW) == seconds


@given(st.text())
def test_retry_after_of_any_kind(value):
    """Whatever stands in `Retry-After`, it is a time from now on."""
    assert acme._retry_after(value, NOW) >= 0


# --- Refusals and nonsense ------------------------------------------------------------------------


def test_problem_document(bench):
    """A problem document becomes a sentence with status, kind and the server's own words."""
    bench.server.instead["order"] = Problem(429, "rateLimited", "too many\ncertificates")
    assert bench.error() == "the CA refuses with 429 rateLimited: too many certificates"
    assert not bench.client.finalized


def test_failed_validation(bench):
    """When the challenge is not answered, the CA's finding is told."""
    bench.responder.respond = lambda challenge: None
    assert bench.error() == "the CA refuses with 400 connection: nobody is there"


def test_words_of_any_length(bench):
    """A server's endless detail does not become an endless line."""
    bench.server.instead["order"] = Problem(403, "unauthorized", "no " * 10_000)
    assert len(bench.error()) < 400


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"<h1>Bad Gateway</h1>", 502, b"text/html"), "the CA answers 502 with text/html"),
        (Answer(b"", 500, b""), "the CA answers 500 with "),
        (Answer(b"[]", 500), "the CA answers 500 with application/json"),
        (
            Answer(b"", 301, b"text/html", {b"location": b"https://elsewhere.example/"}),
            "the CA answers 301 with text/html",
        ),
    ],
    ids=["gateway", "empty", "list", "redirect"],
)
def test_answers_that_are_errors(answer, words):
    """Errors that are no problem documents, and redirects, are told as what they are."""
    for resource in RESOURCES:
        bench = Bench()
        bench.server.instead[resource] = answer
        assert words in bench.error(), resource
        # Nobody was followed to another place, nor asked for more after that.
        assert bench.server.requests[-1] == resource


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<h1>Welcome to the hotel</h1>", content_type=b"text/html"),
        Answer(b""),
        Answer(b"\xff\xfe\x00"),
        Answer(b"{" * 100_000),
        Answer(b"7"),
        Answer(b'["pending"]'),
        Answer(b'{"status": ["valid"], "authorizations": 5, "challenges": {"a": 1}}'),
        Answer(b'{"status": "invalid", "challenges": [{"error": 7}, 3], "error": "x"}'),
        Answer(b"{}", content_type=b"application/json; charset=klingon"),
        Answer(b"{}", headers={b"retry-after": b"\xff", b"location": b"\xff"}),
    ],
    ids=[
        "html",
        "empty",
        "bytes",
        "deep",
        "number",
        "list",
        "types",
        "errors",
        "charset",
        "header",
    ],
)
def test_answers_that_make_no_sense(answer):
    """Nonsense in place of any answer is an error of the CA, or does not matter, but no bug."""
    for resource in RESOURCES:
        bench = Bench()
        bench.server.instead[resource] = answer
        if resource in ("certificate", "nonce"):
            # The one is judged by whoever uses it, of the other the headers count.
            continue
        sentence = bench.error()
        assert sentence.startswith("the CA") or sentence.endswith("is no ACME directory"), resource
        assert "\n" not in sentence, resource


@pytest.mark.parametrize("resource", ["directory", "order", "certificate"])
def test_answers_that_never_end(bench, resource):
    """An answer that is too long is given up, compressed or not."""
    bench.server.instead[resource] = Answer(b" " * (MAX_ANSWER_BYTES + 1))
    assert bench.error() == f"the CA's answer is too long: more than {MAX_ANSWER_BYTES} bytes"
    squeezed = gzip.compress(b" " * (64 * MAX_ANSWER_BYTES))
    bench.server.instead[resource] = Answer(squeezed, headers={b"content-encoding": b"gzip"})
    assert bench.error() == f"the CA's answer is too long: more than {MAX_ANSWER_BYTES} bytes"


def test_answer_at_the_limit(bench):
    """An answer of just the allowed length is read."""
    bench.server.instead["certificate"] = Answer(b" " * MAX_ANSWER_BYTES)
    assert bench.issue() == " " * MAX_ANSWER_BYTES


def test_media_type_does_not_matter(bench):
    """JSON is read by whatever name a server calls it."""
    directory = json.dumps(bench.server.get_directory(None, "")).encode()
    bench.server.instead["directory"] = Answer(directory, content_type=b"text/plain")
    bench.issue()


@pytest.mark.parametrize("url", ["http://ca.example.test/order", "ftp://x/", "/order", "", 7, None])
def test_nothing_goes_over_plain_http(bench, url):
    """A URL that is not https is not asked, whoever names it."""
    bench.server.extra = {"newOrder": url}
    assert bench.error().startswith("the CA")
    assert "order" not in bench.server.requests


@pytest.mark.parametrize("url", ["https://[", "https://x:y/", "https://a b/"])
def test_urls_that_are_none(bench, url):
    """What only begins like a URL is an error of the CA."""
    bench.server.extra = {"newOrder": url}
    assert bench.error().startswith("the CA")


def test_other_challenges_only(bench):
    """Without http-01 among the challenges the name cannot be shown to be ours."""
    body = {"status": "pending", "challenges": [{"type": "dns-01"}]}
    bench.server.instead["authorizations"] = Answer(json.dumps(body).encode())
    assert bench.error() == f"the CA offers no http-01 challenge for {NAME}"


@pytest.mark.parametrize("token", ["", "../../etc", "a b", "x" * 257, "ä"])
def test_tokens(bench, token):
    """A token that does not fit into a path is refused (RFC 8555, 8.3)."""
    challenge = {"type": "http-01", "token": token, "url": "https://ca.example.test/challenge/0"}
    body = {"status": "pending", "challenges": [challenge]}
    bench.server.instead["authorizations"] = Answer(json.dumps(body).encode())
    assert bench.error() == "the CA's challenge has no usable token"


_KEYS = ("status", "authorizations", "challenges", "finalize", "certificate", "error", "type")
_KEYS += ("url", "token", "detail", "newNonce", "newOrder", "newAccount", "renewalInfo")
_WORDS = ("valid", "invalid", "pending", "http-01", "https://ca.example.test/orders/0")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_KEYS), inner | st.sampled_from(_WORDS), max_size=6)
    ),
    max_leaves=12,
)


@given(st.sampled_from(RESOURCES), _JSON, st.sampled_from([200, 201, 400, 403]))
def test_any_json(resource, data, status):
    """Whatever JSON takes the place of an answer, the outcome is a certificate or one sentence."""
    bench = Bench()
    bench.server.instead[resource] = Answer(json.dumps(data).encode(), status)
    sentence = ""
    try:
        bench.issue()
    except CertificateError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 800


# --- Renewal information --------------------------------------------------------------------------


def test_id_of_a_certificate():
    """The id is made of key identifier and serial number; the example of RFC 9773, 4.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
    name = x509.Name([])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 0x87654321)
        .not_valid_before(now)
        .not_valid_after(now)
    )
    identified = builder.add_extension(
        x509.AuthorityKeyIdentifier(authority, None, None), critical=False
    )
    signed = identified.sign(key, hashes.SHA256())
    assert certificate_id(signed) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    assert certificate_id(builder.sign(key, hashes.SHA256())) is None


def test_window(bench):
    """The window and when to ask again come from the server."""
    certificate = bench.certificate()
    bench.server.window = (NOW + 1000, NOW + 2000)
    bench.server.retry_after = b"21600"
    bench.client._directory = {}
    window = bench.window(certificate)
    assert (window.start, window.end) == bench.server.window
    assert window.retry_after == 21_600


def test_no_renewal_information(bench):
    """A server that has no such resource is not asked for it."""
    assert bench.window(bench.certificate()) is None
    assert "renewal" not in bench.server.requests


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"{}"),
        Answer(b"<p>"),
        Answer(b'{"suggestedWindow": {"start": "today", "end": "tomorrow"}}'),
        Answer(b'{"suggestedWindow": {"start": 5, "end": 6}}'),
        Answer(b'{"suggestedWindow": []}'),
        Answer(
            b'{"suggestedWindow": {"start": "2027-01-02T00:00:00Z", "end": "2027-01-01T00:00:00Z"}}'
        ),
        Answer(
            b'{"suggestedWindow": {"start": "2027-01-02T00:00:00Z", "end": "2027-01-02T00:00:00Z"}}'
        ),
        Answer(b"", 404, b"text/html"),
        Answer(b"", 302, b"", {b"location": b"https://ca.example.test/directory"}),
        Answer(b"x" * (MAX_ANSWER_BYTES + 1)),
    ],
)
def test_windows_that_are_none(bench, answer):
    """A window that ends before it starts, or is none at all, is no answer (RFC 9773, 4.2)."""
    certificate = bench.certificate()
    bench.server.window = (NOW, NOW + 1)
    bench.server.instead["renewal"] = answer
    bench.client._directory = {}
    with pytest.raises(CertificateError, match=r"^the CA"):
        bench.window(certificate)


def test_replaces(bench):
    """Where the CA has renewal information, an order names the certificate that it replaces."""
    bench.server.window = (NOW, NOW + 1)
    bench.issue(replaces="abc.def")
    assert bench.server.orders[0].wish["replaces"] == "abc.def"


@pytest.mark.parametrize(("kind", "status"), [("alreadyReplaced", 409), ("malformed", 400)])
def test_replaces_is_refused(bench, kind, status):
    """A refused `replaces` costs no certificate: the order goes out once more without it."""
    bench.server.window = (NOW, NOW + 1)
    order = bench.server.post_order

    def strict(request, name, wish):
        if "replaces" in wish:
            raise Problem(status, kind)
        return order(request, name, wish)

    bench.server.post_order = strict
    bench.issue(replaces="abc.def")
    assert "replaces" not in bench.server.orders[0].wish


def test_limit_met_with_replaces(bench):
    """An order that meets a rate limit is not tried once more in another form."""
    bench.server.window = (NOW, NOW + 1)
    bench.server.instead["order"] = Problem(429, "rateLimited")
    assert "429 rateLimited" in bench.error(replaces="abc.def")
    assert bench.server.requests.count("order") == 1
