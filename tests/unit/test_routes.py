"""The short way to a route: nobody can tell it from Klein's own way, but for its cost."""

from __future__ import annotations

import re

import pytest
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from mxflex.errors import BadRequest, CommandRefused
from mxflex.web.render import send_failure, send_json, send_nothing
from mxflex.web.routes import Routes
from mxflex.web.site import CrossOrigin, MXFlexSite, Root


class Shop:
    """An application with a handler of each kind."""

    app = Klein()

    def __init__(self):
        self.waiting = []
        self.cancelled = 0

    async def wait(self):
        answer = Deferred()
        self.waiting.append(answer)
        try:
            return await answer
        except CancelledError:
            self.cancelled += 1
            raise

    @app.route("/now", methods=["GET"])
    def now(self, request):
        return send_json(request, {"when": "now"})

    @app.route("/nothing", methods=["POST"])
    def nothing(self, request):
        send_nothing(request)

    @app.route("/refused", methods=["GET"])
    def refused(self, _request):
        raise BadRequest("not like this")

    @app.route("/bug", methods=["GET"])
    def bug(self, _request):
        raise ZeroDivisionError

    @app.route("/begun", methods=["GET"])
    def begun(self, request):
        request.write(b"the beginning")
        raise ZeroDivisionError

    @app.route("/soon", methods=["GET"])
    async def soon(self, request):
        return send_json(request, {"when": "soon"})

    @app.route("/late", methods=["GET"])
    async def late(self, request):
        return send_json(request, {"when": await self.wait()})

    @app.route("/late/nothing", methods=["POST"])
    async def late_nothing(self, request):
        await self.wait()
        send_nothing(request)

    @app.route("/stubborn", methods=["GET"])
    async def stubborn(self, request):
        try:
            await self.wait()
        except CancelledError:
            return send_json(request, {"when": "anyway"})

    @app.route("/people/<name>", methods=["GET"])
    def person(self, request, name):
        return send_json(request, {"name": name})

    @app.handle_errors(Exception)
    def failed(self, request, failure):
        return send_failure(request, failure)


def kleins_own(shop):
    """Make the reference: Klein's resource as it comes."""
    return shop.app.resource()


def short(shop):
    """Make the resource that is under test."""
    return Routes(shop.app)


class Transport(StringTransport):
    """Knows whether it was cut."""

    cut = False

    def abortConnection(self):
        self.cut = True


class Client:
    """One connection to a site with the shop, in memory."""

    def __init__(self, make):
        self.shop = Shop()
        root = Root(make(self.shop), Resource(), CrossOrigin(frozenset()))
        self.protocol = MXFlexSite(root, Clock(), ()).buildProtocol(None)
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)

    def ask(self, line):
        self.protocol.dataReceived(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def leave(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def answer(self):
        text = re.sub(rb"\r\nDate: [^\r]*", b"", self.transport.value())
        for number, name in enumerate(re.findall(rb"\r\nX-Request-Id: ([0-9a-f]{16})", text)):
            text = text.replace(name, b"%d" % number)
        return text


def both(*lines, then=lambda _client: None):
    """Give what both ways answer to the same lines, the reference first."""
    answers = []
    for make in (kleins_own, short):
        client = Client(make)
        for line in lines:
            client.ask(line)
        then(client)
        answers.append((client.answer, client.transport.cut))
    return answers


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("GET /api/now", b"HTTP/1.1 200 "),
        ("HEAD /api/now", b"HTTP/1.1 200 "),
        ("GET /api/now?x=1", b"HTTP/1.1 200 "),
        ("POST /api/nothing", b"HTTP/1.1 204 "),
        ("GET /api/refused", b"HTTP/1.1 400 "),
        ("GET /api/soon", b"HTTP/1.1 200 "),
        ("HEAD /api/soon", b"HTTP/1.1 200 "),
        ("GET /api/people/anna", b"HTTP/1.1 200 "),
        ("GET /api/people/%61nna", b"HTTP/1.1 200 "),
        ("GET /api/%6eow", b"HTTP/1.1 200 "),
        ("POST /api/late%2Fnothing", b""),
        ("POST /api/now", b"HTTP/1.1 405 "),
        ("DELETE /api/now", b"HTTP/1.1 405 "),
        ("OPTIONS /api/now", b"HTTP/1.1 "),
        ("GET /api/now/", b"HTTP/1.1 404 "),
        ("GET /api/", b"HTTP/1.1 404 "),
        ("GET /api", b"HTTP/1.1 404 "),
        ("GET /api/nowhere", b"HTTP/1.1 404 "),
        ("GET /api/people/<name>", b"HTTP/1.1 200 "),
        ("GET /api/late", b""),
    ],
)
def test_same_answer(line, begins):
    """Whatever is asked, the answer is Klein's, byte for byte; date and name may be others."""
    reference, answer = both(line)
    assert answer == reference
    assert answer[0].startswith(begins)
    assert bool(answer[0]) == bool(begins)


def test_a_bug():
    """A handler that fails is answered 500."""
    reference, answer = both("GET /api/bug")
    assert answer == reference
    assert answer[0].startswith(b"HTTP/1.1 500 ")


def test_a_bug_behind_the_beginning():
    """An answer that had begun when its handler failed is cut off, and never looks complete."""
    client = Client(short)
    client.ask("GET /api/begun")
    assert client.transport.cut
    assert b"the beginning" in client.answer
    assert b"\r\n0\r\n" not in client.answer


@pytest.mark.parametrize(
    ("line", "result", "begins"),
    [
        ("GET /api/late", "later", b"HTTP/1.1 200 "),
        ("POST /api/late/nothing", None, b"HTTP/1.1 204 "),
        ("GET /api/late", Failure(CommandRefused("no", "generic")), b"HTTP/1.1 422 "),
    ],
)
def test_same_answer_later(line, result, begins):
    """An answer that has to wait for something is the same, too; so is a refusal."""
    reference, answer = both(line, then=lambda client: client.shop.waiting[0].callback(result))
    assert answer == reference
    assert answer[0].startswith(begins)


def test_one_after_the_other():
    """Requests that come at once are answered in their order, quick ones behind slow ones."""
    reference, answer = both(
        "GET /api/late",
        "GET /api/now",
        then=lambda client: client.shop.waiting[0].callback("later"),
    )
    assert answer == reference
    assert answer[0].index(b"later") < answer[0].index(b'"now"')


def test_a_client_that_leaves():
    """Who leaves ends what is done for them, and no answer is tried."""
    client = Client(short)
    client.ask("GET /api/late")
    client.leave()
    assert client.shop.cancelled == 1
    assert client.answer == b""


def test_a_handler_that_goes_on_without_its_client():
    """An answer that comes although its client has left goes nowhere, and is no error."""
    client = Client(short)
    client.ask("GET /api/stubborn")
    lines = []
    globalLogPublisher.addObserver(lines.append)
    client.leave()
    globalLogPublisher.removeObserver(lines.append)
    assert client.shop.cancelled == 1
    assert client.answer == b""
    assert not [line for line in lines if "log_failure" in line]
