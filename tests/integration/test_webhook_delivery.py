"""One attempt to post to a receiver, over real sockets: what is sent, and what comes of it."""

from __future__ import annotations

import gzip
import time
from base64 import b64decode, b64encode

import pytest
import pytest_twisted
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from twisted.internet import reactor
from twisted.internet.defer import fail, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import (
    ConnectBindError,
    ConnectionLost,
    DNSLookupError,
    TCPTimedOutError,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed

from mxflex.config import WebhookSettings
from mxflex.service import make_receiver
from mxflex.simulator.certificate import Certificate
from mxflex.webhooks.connections import MAX_BYTES
from mxflex.webhooks.delivery import BROKEN_OFF, MAX_ANSWER_BYTES, Reply, _judge
from mxflex.webhooks.delivery import Receiver as WayTo
from mxflex.webhooks.signing import sign
from tests.integration.leftovers import Leftovers
from tests.integration.receiver import KEY, SECRET, Receiver
from tests.ports import LOOPBACK, free_port

ID, BODY = "msg_1", b'{"type":"status","timestamp":"2026-03-01T08:15:30.250Z","data":{"mx":"up"}}'
TAKEN = Reply()
CLOSED = "the receiver closed the connection without an answer"


class Talker(Protocol):
    """Says the same to whoever says something, by the byte."""

    def dataReceived(self, data):
        self.factory.heard += data
        if self.factory.heard.endswith(self.factory.waits_for):
            self.transport.write(self.factory.says)
            if self.factory.hangs_up:
                self.transport.loseConnection()


@pytest_twisted.async_yield_fixture
async def place():
    """Give what starts receivers and what posts to them; nothing is left of either."""
    leftovers = Leftovers(reactor)
    posts = Post()
    yield posts
    await posts.close()
    await leftovers.check()


class Post:
    """Posts to receivers."""

    def __init__(self):
        self._ends = []

    async def receiver(self, certificate=None, **options):
        """Start a receiver that takes all."""
        receiver = Receiver(reactor, certificate, **options)
        await receiver.listen()
        self._ends.append(receiver.close)
        return receiver

    async def talker(self, says, *, hangs_up=True, waits_for=BODY):
        """Start a peer that answers with these bytes, and give the URL."""
        factory = Factory.forProtocol(Talker)
        factory.noisy = False
        factory.heard, factory.says = b"", says
        factory.hangs_up, factory.waits_for = hangs_up, waits_for
        endpoint = TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)
        port = await endpoint.listen(factory)
        self._ends.append(lambda: maybeDeferred(port.stopListening))
        return f"http://{LOOPBACK}:{port.getHost().port}/"

    def way(self, url, **settings):
        """Make what posts to a URL."""
        secrets = settings.pop("secrets", (KEY,))
        hook = WebhookSettings(name="crm", url=url, secrets=secrets, **settings)
        way = make_receiver(hook, reactor)
        self._ends.insert(0, way.hang_up)
        return way

    async def to(self, url, **settings):
        """Post once."""
        return await self.way(url, **settings).post(ID, BODY)

    async def close(self):
        for end in self._ends:
            await end()


def test_signature_is_that_of_the_standard():
    """What is signed here is what the library of Standard Webhooks signs."""
    timestamp = int(time.time())
    signature = sign([KEY], ID, timestamp, BODY)
    headers = {
        "webhook-id": ID,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }
    webhook = Webhook(SECRET)
    assert webhook.verify(BODY, headers)["type"] == "status"
    for name, value in (
        ("webhook-id", "msg_2"),
        ("webhook-timestamp", str(timestamp - 1)),
        ("webhook-signature", sign([b"x" * 24], ID, timestamp, BODY)),
    ):
        with pytest.raises(WebhookVerificationError):
            webhook.verify(BODY, headers | {name: value})
    with pytest.raises(WebhookVerificationError):
        webhook.verify(BODY + b" ", headers)


def test_the_example_of_the_standard():
    """The example in the specification comes out byte for byte."""
    key = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest_twisted.ensureDeferred
async def test_several_secrets(place):
    """While secrets are changed, both the old and the new one check what is sent."""
    old, new = b"o" * 24, b"n" * 32
    for key in (old, new):
        receiver = await place.receiver(secret="whsec_" + b64encode(key).decode())
        assert await place.to(receiver.url, secrets=(new, old)) == TAKEN
        assert len(receiver.posts) == 1


@pytest_twisted.ensureDeferred
async def test_headers(place):
    """The configuration's own headers go with each request, and the body is as it is."""
    receiver = await place.receiver()
    headers = (("Authorization", "Bearer abc"), ("X-From", "mxflex"))
    assert await place.to(receiver.url, headers=headers) == TAKEN
    (post,) = receiver.posts
    assert post.headers["authorization"] == "Bearer abc"
    assert post.headers["x-from"] == "mxflex"
    assert post.data == {"mx": "up"}
    assert post.path == "/hook?from=mxflex"


@pytest_twisted.ensureDeferred
async def test_connections_are_kept(place):
    """A receiver that keeps its connection gets the next message on it."""
    receiver = await place.receiver()
    receiver.answer = lambda post: (200, {}, b"thank you")
    way = place.way(receiver.url)
    for _ in range(3):
        assert await way.post(ID, BODY) == TAKEN
    assert receiver.connections == 1
    await gatherResults([way.post(ID, BODY) for _ in range(3)])
    assert receiver.connections <= 3


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (200, TAKEN),
        (204, TAKEN),
        (299, TAKEN),
        ((200, {"content-encoding": "gzip"}, b"no gzip"), TAKEN),
        ((200, {"set-cookie": "a=b"}, gzip.compress(b"x" * 10_000_000)), TAKEN),
        (400, Reply(error="the receiver answered 400")),
        (404, Reply(error="the receiver answered 404")),
        (500, Reply(error="the receiver answered 500")),
        (410, Reply(error="the receiver answered 410", gone=True)),
        (
            (503, {"retry-after": "17"}, b""),
            Reply(error="the receiver answered 503", retry_after=17.0),
        ),
        (
            (429, {"retry-after": "9" * 5000}, b""),
            Reply(error="the receiver answered 429", retry_after=3600.0),
        ),
        ((429, {"retry-after": "soon"}, b""), Reply(error="the receiver answered 429")),
        ((500, {"retry-after": "-1"}, b""), Reply(error="the receiver answered 500")),
    ],
    ids=lambda each: "" if isinstance(each, Reply) else str(each)[:40],
)
@pytest_twisted.ensureDeferred
async def test_answers(place, answer, reply):
    """2xx is taken, 410 means for ever, all else is tried again; Retry-After is read."""
    receiver = await place.receiver()
    receiver.answer = lambda post: answer
    assert await place.to(receiver.url) == reply


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Thu, 14 Sep 2017 18:00:06 GMT", 10.0),
        ("Thu, 14 Sep 2017 17:00:00 GMT", 0.0),
        ("Fri, 14 Sep 2018 18:00:06 GMT", 3600.0),
        ("Thu, 99 Sep 2017 18:00:06 GMT", None),
        ("", None),
    ],
)
def test_retry_after_as_a_date(value, seconds):
    """A date counts from our clock on; one that is past means at once."""

    class Response:
        code = 503

        class headers:  # noqa: N801 - as Twisted has it
            @staticmethod
            def getRawHeaders(name):
                return [value.encode()]

    assert _judge(Response, 1_505_411_996.0).retry_after == seconds


@pytest_twisted.ensureDeferred
async def test_redirects_are_not_followed(place):
    """A message goes to nobody else, whatever the receiver says."""
    other = await place.receiver()
    receiver = await place.receiver()
    for status in (301, 302, 303, 307, 308):
        receiver.answer = lambda post, status=status: (status, {"location": other.url}, b"")
        reply = await place.to(receiver.url)
        assert reply == Reply(error=f"the receiver answered {status}")
    assert other.posts == []


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (b"", CLOSED),
        (b"garbage\r\n\r\n", "the receiver does not answer in HTTP"),
        (b"\x16\x03\x01\x00\x05hello", "the receiver closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "the receiver does not answer in HTTP"),
        (b"HTTP/1.1 ", CLOSED),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, None),
    ],
    ids=["nothing", "garbage", "TLS", "length", "half", "endless header"],
)
@pytest_twisted.ensureDeferred
async def test_no_answers(place, says, error):
    """What is no answer in HTTP is told as such, and is never taken for one."""
    reply = await place.to(await place.talker(says))
    assert reply.error
    assert error is None or reply.error == error


@pytest.mark.parametrize("line", [b"a: b\r\n", b" folded\r\n", b"HTTP/1.1 103 Early\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_a_head_without_end(place, line):
    """A head that goes on and on costs its connection, and no memory to speak of."""
    says = b"HTTP/1.1 103 Early\r\na: b\r\n" + (b"\r\n" if b"103" in line else b"")
    url = await place.talker(says + line * 200_000, hangs_up=False)
    reply = await place.to(url, timeout=5)
    assert reply.error == "the answer of the receiver is too long"


@pytest_twisted.ensureDeferred
async def test_many_answers(place):
    """How much is read is bound for each answer, not for a connection that is kept."""
    receiver = await place.receiver()
    receiver.answer = lambda post: (200, {}, b"x" * MAX_ANSWER_BYTES)
    way = place.way(receiver.url)
    for _ in range(2 * MAX_BYTES // MAX_ANSWER_BYTES):
        assert await way.post(ID, BODY) == TAKEN
    assert receiver.connections == 1


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk",
    ],
    ids=["half", "long", "garbage"],
)
@pytest_twisted.ensureDeferred
async def test_the_status_counts(place, says):
    """A receiver that has said 2xx has the message, whatever becomes of the rest of its answer."""
    assert await place.to(await place.talker(says)) == TAKEN


@pytest_twisted.ensureDeferred
async def test_a_long_answer(place):
    """More than 64 KiB of an answer are not read; the connection is closed."""
    receiver = await place.receiver()
    receiver.answer = lambda post: (200, {}, b"x" * 10_000_000)
    way = place.way(receiver.url)
    assert await way.post(ID, BODY) == TAKEN
    assert await way.post(ID, BODY) == TAKEN
    assert receiver.connections == 2


@pytest_twisted.ensureDeferred
async def test_time_limits(place):
    """An attempt ends in time: whether nothing comes, or a part, or all but the end of the body."""
    late = Reply(error="no answer within 0.2 s")
    for says, reply in (
        (b"", late),
        (b"HTTP/1.1 500 ", late),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", TAKEN),
        (
            b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n",
            Reply(error="the receiver answered 500"),
        ),
    ):
        url = await place.talker(says, hangs_up=False)
        assert await place.to(url, timeout=0.2) == reply


@pytest_twisted.ensureDeferred
async def test_breaking_off(place):
    """An attempt can be broken off at any point; it says so, and its connection is closed."""
    for says in (b"", b"HTTP/1.1 500 "):
        attempt = place.way(await place.talker(says, hangs_up=False)).post(ID, BODY)
        reactor.callLater(0.05, attempt.cancel)
        assert await attempt == BROKEN_OFF
    # Before there is a connection, too.
    attempt = place.way(f"http://{LOOPBACK}:{free_port()}/").post(ID, BODY)
    attempt.cancel()
    assert await attempt == BROKEN_OFF


@pytest_twisted.ensureDeferred
async def test_nobody_there(place):
    """A port where nobody listens is told as such."""
    reply = await place.to(f"http://{LOOPBACK}:{free_port()}/")
    assert reply == Reply(error="the receiver refuses connections")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DNSLookupError(), "the name of the receiver is not known"),
        (TCPTimedOutError(), "the receiver cannot be reached"),
        (ConnectBindError(), "the receiver cannot be reached"),
        (RequestGenerationFailed([Failure(ConnectionLost())]), CLOSED),
    ],
)
def test_what_goes_wrong_before(error, told):
    """What no test here can bring about has its sentence, too."""

    class Failing:
        def request(self, *_):
            return fail(error)

    hook = WebhookSettings(name="crm", url="https://crm.example.com/", secrets=(KEY,))
    replies = []
    WayTo(Clock(), Failing(), hook, lambda: None).post(ID, BODY).addCallback(replies.append)
    assert replies == [Reply(error=told)]


@pytest_twisted.ensureDeferred
async def test_certificates(place, tmp_path):
    """Over TLS only a receiver is believed whose certificate is from the CA, and for its name."""
    authority, stranger = Certificate.authority("Ours"), Certificate.authority("Theirs")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    good = Certificate.issue("good", LOOPBACK, issuer=authority)
    receiver = await place.receiver(good)
    assert await place.to(receiver.url, ca_file=str(ca_file)) == TAKEN
    for certificate, settings, error in (
        (good, {}, "certificate verify failed"),
        (
            Certificate.issue("other", "crm.example.com", issuer=authority),
            {"ca_file": str(ca_file)},
            f"the certificate is not for {LOOPBACK}",
        ),
        (
            Certificate.issue("forged", LOOPBACK, issuer=stranger),
            {"ca_file": str(ca_file)},
            "certificate verify failed",
        ),
    ):
        refused = await place.receiver(certificate)
        reply = await place.to(refused.url, **settings)
        assert reply.error.startswith("TLS with the receiver failed: ")
        assert reply.error.endswith(error)
        assert refused.posts == []


@pytest_twisted.ensureDeferred
async def test_plain_and_tls_mixed_up(place):
    """A receiver that speaks no TLS where it should is an error like others."""
    url = await place.talker(b"HTTP/1.1 400 Bad Request\r\n\r\n", waits_for=b"")
    reply = await place.to(url.replace("http:", "https:"))
    assert reply.error.startswith("TLS with the receiver failed")


def test_nothing_runs_on_its_own():
    """What posts has no timers and no connections until it is asked to."""
    clock = Clock()
    make_receiver(WebhookSettings(name="a", url="https://a/", secrets=(KEY,)), clock)
    assert not clock.getDelayedCalls()
