"""A receiver of webhooks: a real HTTP or HTTPS server that checks signatures as users would."""

from __future__ import annotations

import json
from base64 import b64encode

import attrs
from standardwebhooks.webhooks import Webhook
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mxflex.simulator.certificate import ServerTLS
from mxflex.web.openapi import describe
from tests.openapi import Measure
from tests.ports import LOOPBACK, free_port

MEASURE = Measure(describe(token_in_url=True), closed=True)
MESSAGE = {"$ref": "#/components/schemas/WebhookMessage"}
KEY = b"a key of thirty-two bytes, nicely"
SECRET = "whsec_" + b64encode(KEY).decode()


@attrs.frozen(kw_only=True)
class Post:
    """A request that came.

    Attributes:
        id: Its `webhook-id`.
        type: The event's name.
        timestamp: When it happened, as the body says.
        data: The event's content.
        headers: All headers, by their names in small letters.
        path: What was asked for.
    """

    id: str
    type: str
    timestamp: str
    data: dict
    headers: dict = attrs.field(repr=False)
    path: str

    @property
    def call(self):
        """Which call it is about."""
        return self.data.get("deviceId"), self.data.get("callId")


class Receiver(Resource):
    """Takes what is posted, in whatever way a test says.

    Args:
        reactor: Where it runs.
        certificate: What it shows, a `Certificate`; None for plain HTTP.
        secret: What it checks signatures with.

    Attributes:
        posts: Every request, in the order in which they came.
        answer: Called with each request, as a `Post`, and what is to be written to: gives a status,
            or a body and so on by itself and None.
        answers: How each was answered, in the order of the answers: (id, status).
        open: How many requests are not answered yet, and how many were at the most.
    """

    isLeaf = True

    def __init__(self, reactor, certificate=None, secret=SECRET):
        super().__init__()
        self._reactor = reactor
        self._certificate = certificate
        self._webhook = Webhook(secret)
        self._site = Site(self)
        self._site.noisy = False
        self._site.log = lambda request: None
        self._port = None
        self._held = []
        self._waiting = []
        self.port = None
        self.connections = 0
        self.posts = []
        self.answer = lambda post: 204
        self.most_open = 0

    async def listen(self):
        """Listen, at the same port each time."""
        self.port = self.port or free_port()
        endpoint = TCP4ServerEndpoint(self._reactor, self.port, interface=LOOPBACK)
        if self._certificate is not None:
            endpoint = wrapServerTLS(ServerTLS(lambda: self._certificate), endpoint)
        self._port = await endpoint.listen(self._site)
        build = self._site.buildProtocol

        def counted(addr):
            self.connections += 1
            return build(addr)

        self._site.buildProtocol = counted

    async def close(self):
        """Listen no more, and hang up. Idempotent."""
        if self._port is not None:
            port, self._port = self._port, None
            await maybeDeferred(port.stopListening)
        for request in self._held:
            request.channel.forceAbortClient()
        self._held.clear()

    @property
    def url(self):
        """Where it is."""
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{LOOPBACK}:{self.port}/hook?from=mxflex"

    def hook(self, **settings):
        """Give the configuration of a webhook that leads here."""
        return {"name": "crm", "url": self.url, "secret": SECRET, **settings}

    @property
    def held(self):
        """How many requests are held."""
        return len(self._held)

    def render_POST(self, request):  # noqa: N802 - Twisted's name
        """Check the signature and the form, keep the message, and answer as the test wants it."""
        body = request.content.read()
        headers = {
            name.decode().lower(): values[0].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        # Raises what ends the test where the signature is wrong, or the timestamp is old.
        self._webhook.verify(body, headers)
        message = json.loads(body)
        assert list(message) == ["type", "timestamp", "data"]
        problems = MEASURE.problems(MESSAGE, message)
        assert not problems, (message, problems)
        post = Post(
            id=headers["webhook-id"],
            headers=headers,
            path=request.uri.decode(),
            **message,
        )
        self.posts.append(post)
        answer = self.answer(post)
        if answer is None:
            self._held.append(request)
            request.notifyFinish().addErrback(lambda _: self._gone(request))
            self.most_open = max(self.most_open, len(self._held))
            self._settle()
            return NOT_DONE_YET
        self._settle()
        code, headers, body = answer if isinstance(answer, tuple) else (answer, {}, b"")
        request.setResponseCode(code)
        for name, value in headers.items():
            request.setHeader(name, value)
        return body

    def _gone(self, request):
        if request in self._held:
            self._held.remove(request)

    def let_go(self, status=204):
        """Answer what is held."""
        held, self._held = self._held, []
        for request in held:
            request.setResponseCode(status)
            request.finish()

    def _settle(self):
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    async def when(self, condition, soon):
        """Wait until something holds that a request may bring."""
        while not condition():
            waiter = Deferred()
            self._waiting.append(waiter)
            await soon(waiter)

    def of(self, name):
        """Give the requests about events of a name."""
        return [post for post in self.posts if post.type == name]

    @property
    def types(self):
        """The names of all events that came, without gaps."""
        return [post.type for post in self.posts if post.type != "gap"]
