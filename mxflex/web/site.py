"""Below the routes: the site, its limits, the `Server` header, the access log, and CORS."""

from __future__ import annotations

import re
from io import BytesIO
from ipaddress import IPv4Network, IPv6Network
from typing import Any, AnyStr, Protocol

import attrs
import orjson
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request as TwistedRequest
from twisted.web.server import Site

from mxflex import __version__
from mxflex.requestid import CURRENT, new_request_id
from mxflex.web.access import client_address, request_id
from mxflex.web.prompt import takes_pieces, write_at_once
from mxflex.web.render import JSON_TYPE, error_body, send_error, send_failure

access_log = Logger(namespace="mxflex.access")

SERVER = f"MXFlex/{__version__}".encode("ascii")
# The largest body that is read, in bytes (contract, section 1).
MAX_BODY_BYTES = 64 * 1024
# A connection that sends nothing for so long is closed; an open response is no such silence, but a
# client that does not read it is.
IDLE_SECONDS = 60
# After a refusal, what still comes is read and dropped for so long: closing with unread bytes would
# reset the connection under a sender who has yet to read why.
LINGER_SECONDS = 30
# Browsers may remember the answer to a preflight request for so long.
PREFLIGHT_SECONDS = 3600

# RFC 9110, 5.6.2 ("token"); the longest registered method has 17 letters.
# Methods are case-sensitive (RFC 9110, 9.1); the routing would take `get` for `GET`.
_METHOD = re.compile(rb"[A-Z0-9!#$%&'*+.^_`|~-]{1,32}")
# A name, an IPv4 address, or an IPv6 address without its brackets.
_HOST = re.compile(
    rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:]{2,39}(?:\.[0-9]{1,3}){0,3}"
)
# What stands before the path where a request names its target in full (RFC 9112, 3.2.2).
_AUTHORITY = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
# Of these, two would let each program on the way choose its own.
_SINGLE_HEADERS = (b"Host", b"Authorization", b"Content-Type", b"Last-Event-ID")


# Letters, digits and a few more, needlessly written as numbers (RFC 3986, 6.2.2.2). In the log
# they are shown plainly: `access_token` must be recognized there, however it is spelled.
_UNRESERVED = re.compile(
    rb"%(?:[46][1-9A-F]|[57][0-9A]|3[0-9]|2[DE]|5F|7E)",
    re.IGNORECASE,
)


def _unquoted(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[0][1:], 16)])


class Socket(Protocol):
    """A connection's lowest transport.

    Attributes:
        connected: Whether the connection is still there.
    """

    connected: int


def socket_of(transport: Any) -> Socket:
    """Give what lies below TLS, or the transport itself."""
    while (below := getattr(transport, "transport", None)) is not None:
        transport = below
    socket: Socket = transport
    return socket


class Refusal:
    """An answer to what is not sound enough to be a request.

    Args:
        status: Its code and its phrase.
        text: Says what is wrong.

    Attributes:
        status: As given.
        headers: Those of the answer, in lower case.
        body: Its body.
    """

    def __init__(self, status: bytes, text: str) -> None:
        self.status = status
        self._request_id = new_request_id()
        self.body = orjson.dumps(error_body(int(status[:3]), text, self._request_id))
        self.headers = [
            (b"server", SERVER),
            (b"x-request-id", self._request_id.encode("ascii")),
            (b"content-type", JSON_TYPE),
            (b"content-length", b"%d" % len(self.body)),
        ]

    def log(self, transport: ITCPTransport) -> None:
        """Log that it was sent."""
        access_log.info(
            "{address} refused: {status}",
            address=getattr(transport.getPeer(), "host", "local"),
            status=self.status.decode("ascii"),
            request_id=self._request_id,
        )


class Channel(HTTPChannel):
    """One HTTP/1.1 connection, whose own refusals look like all other answers.

    It reads no further while the client does not read, and does not wait for such a client for
    ever.
    """

    site: MXFlexSite
    transport: ITCPTransport
    _refused = False
    _lost = False
    # Whether a request has come in part.
    _begun = False

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; a request has its time from its first byte on, however it drips in.

        Twisted begins the time anew with each byte, so that a few thousand of them held a
        connection for days.
        """
        if self._refused:
            return
        if not self._begun:
            self._begun = True
            self.resetTimeout()
        LineReceiver.dataReceived(self, data)

    def refuse(self, status: bytes, text: str) -> None:
        """Answer without a request that could carry the answer, and close. Idempotent."""
        if self._refused:
            return
        self._refused = True
        refusal = Refusal(status, text)
        self.transport.writeSequence(
            [
                b"HTTP/1.1 " + status,
                *(b"\r\n%s: %s" % (name.title(), value) for name, value in refusal.headers),
                b"\r\nConnection: close\r\n\r\n" + refusal.body,
            ]
        )
        refusal.log(self.transport)
        # Whatever else has come on this connection cannot be trusted to be a request.
        self.clearLineBuffer()
        self._linger()

    def _linger(self) -> None:
        """Close our side; the other is read until it closes, too."""
        if self.isSecure():
            # TLS has a farewell of its own, and reads until it is returned.
            self.loseConnection()
        else:
            network: Any = self._networkProducer
            network.unregisterProducer()
            network.resumeProducing()
            self.transport.loseWriteConnection()
        self.setTimeout(LINGER_SECONDS)

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own answer has no header at all.
        self.refuse(b"400 Bad Request", "bad request")

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002 - Twisted's signature
        """Refuse a line that is too long, instead of closing without a word."""
        self.refuse(b"431 Request Header Fields Too Large", "a header is too long")

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the head, unless it goes on with the one before.

        Twisted would join them. Programs on the way may see a header without its value, or another
        header (RFC 9112, 5.2); no client of today writes so.
        """
        if line.startswith((b" ", b"\t")):
            self._respondToBadRequestAndDisconnect()
        else:
            super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        """Take a header; tell whether the request is still sound."""
        try:
            return bool(super().headerReceived(line))
        except ValueError:
            # A length of more digits than Python reads.
            self.refuse(b"413 Content Too Large", "the body is too large")
            return False

    def allHeadersReceived(self) -> None:
        """Begin with the body, unless its end can be read in more than one way."""
        codings = self.requests[-1].requestHeaders.getRawHeaders(b"transfer-encoding")
        if codings and (self._version == b"HTTP/1.0" or codings[0].lower() != b"chunked"):
            # RFC 9112, 6.1: a proxy on the way may have read it otherwise.
            self.refuse(b"400 Bad Request", "bad request")
        else:
            super().allHeadersReceived()

    def _send100Continue(self) -> None:  # noqa: N802 - Twisted's name
        if not self._refused:
            super()._send100Continue()

    def allContentReceived(self) -> None:
        """Answer the request, unless it has been refused already."""
        self._begun = False
        if not self._refused:
            super().allContentReceived()

    def pauseProducing(self) -> None:
        """Wait until the client reads, but not for ever."""
        super().pauseProducing()
        # Twisted would go on with the requests that have come already, and pile up their answers.
        self.paused = True
        self.setTimeout(IDLE_SECONDS)

    def resumeProducing(self) -> None:
        """Go on where `pauseProducing` stopped."""
        self.setTimeout(None if self._handlingRequest else self.timeOut)
        self.paused = False
        super().resumeProducing()
        LineReceiver.dataReceived(self, b"")

    def setTimeout(self, period: float | None) -> float | None:
        """Wait so many seconds for the client, and give what was set before.

        One that has gone is not waited for, whoever says so.
        """
        before: float | None = super().setTimeout(None if self._lost else period)
        return before

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the requests, and let go of them: the garbage collector is not to be waited for."""
        self.setTimeout(None)
        self._lost = True
        super().connectionLost(reason)
        self.requests = []
        self._requestProducer = self._transferDecoder = None

    def stopProducing(self) -> None:
        """Prepare for the end: what is still to be sent does not wait for ever to be read."""
        super().stopProducing()
        self.setTimeout(IDLE_SECONDS)

    def retire(self) -> Socket:
        """Close behind the answer that is under way, instead of waiting for another request."""
        self.persistent = False
        return socket_of(self.transport)

    def forceAbortClient(self) -> None:
        """Cut the client off; whoever waits for its end need not."""
        aborting = self._abortingCall
        if aborting is not None and aborting.active():
            # Twisted would forget it, and cut off later what is lost by then.
            aborting.cancel()
        super().forceAbortClient()

    def loseConnection(self) -> None:
        """Close once everything is sent, or the client has not read it for too long."""
        if self._abortingCall is None:
            self.setTimeout(IDLE_SECONDS)
        super().loseConnection()


class Stream(Protocol):
    """An open event stream, as its request sees it."""

    def gone(self) -> object:
        """Know that the client has gone."""


# What of a request lasts as long as its answer; see `Request.shed`.
_LASTING = (
    "_began",
    "address",
    "channel",
    "chunked",
    "clientproto",
    "code",
    "method",
    "producer",
    "queued",
    "request_id",
    "sentLength",
    "startedWriting",
    "stream",
    "streamingProducer",
    "uri",
)


class Request(TwistedRequest):
    """A request with a bounded body, logged when it ends.

    Attributes:
        address: Where it came from, as far as that can be believed.
        request_id: Its name; see `mxflex.requestid`.
        stream: Told when the client has gone, once the answer is an event stream.
    """

    channel: Channel
    content: BytesIO
    prepath: list[bytes]
    postpath: list[bytes]
    address = ""
    request_id = ""
    stream: Stream | None = None
    _too_large = False
    _began = 0.0

    def gotLength(self, length: int | None) -> None:
        """Prepare for a body of that length (None: chunked), or refuse it before it comes."""
        self.content = BytesIO()
        if length is not None and length > MAX_BODY_BYTES:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body, as long as the whole may still be read."""
        if self._too_large:
            return
        if self.content.tell() + len(data) > MAX_BODY_BYTES:
            self._refuse_body()
        else:
            self.content.write(data)

    def _refuse_body(self) -> None:
        self._too_large = True
        # In HTTP/2 the rest of the body delays nobody else, and the answer comes behind it.
        if isinstance(self.channel, Channel):
            self.channel.refuse(b"413 Content Too Large", "the body is too large")

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take the request as a whole; a target in full means its path."""
        path = _AUTHORITY.sub(b"", path, count=1) if _AUTHORITY.match(path) else path
        target = path if path[:1] in (b"/", b"*") else b"/" + path
        super().requestReceived(command, target, version)

    def getHeader(self, key: AnyStr) -> AnyStr | None:
        """Give a header; as text, it has replacements for what is not UTF-8."""
        if isinstance(key, bytes):
            return super().getHeader(key)
        value = super().getHeader(key.encode("ascii"))
        return None if value is None else value.decode("utf-8", "replace")

    def process(self) -> None:
        """Answer, once the whole request has come."""
        site = self.channel.site
        self.address = client_address(self, site.proxies)
        self.request_id = request_id(self, site.proxies)
        self._began = site.clock.seconds()
        current = CURRENT.set(self.request_id)
        try:
            self.responseHeaders.setRawHeaders(b"x-request-id", [self.request_id.encode("ascii")])
            if self._too_large:
                self._answer(413, "the body is too large")
            elif (fault := self._fault()) is not None:
                self._answer(400, fault)
            else:
                super().process()
        finally:
            CURRENT.reset(current)

    def render(self, resrc: IResource) -> None:
        """Render a resource; every answer says which server gives it."""
        self.setHeader(b"server", SERVER)
        super().render(resrc)

    def _handleStar(self) -> None:
        # `OPTIONS *` asks about the server as a whole.
        self.setHeader(b"server", SERVER)
        super()._handleStar()

    def _answer(self, status: int, text: str) -> None:
        self.setHeader(b"server", SERVER)
        self.write(send_error(self, status, text))
        self.finish()

    def _fault(self) -> str | None:
        """Give why the request does not say one thing, which routing can read; None if it does."""
        if not _METHOD.fullmatch(self.method):
            return "bad method"
        headers = self.requestHeaders
        for name in _SINGLE_HEADERS:
            if (count := len(headers.getRawHeaders(name, ()))) > 1:
                return f"{count} {name.decode('ascii')} headers, expected one"
        if self.clientproto == b"HTTP/1.1" and not headers.hasHeader(b"host"):
            # RFC 9112, 3.2.
            return "Host header required"
        host = self.getRequestHostname()
        return None if not host or _HOST.fullmatch(host) else "bad Host header"

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer for what went wrong below the API, as it answers itself."""
        body = send_failure(self, reason)
        if body is not None:
            self.write(body)
            self.finish()
        return reason

    def write(self, data: bytes) -> None:
        """Write a part of the answer; the first one brings the head along."""
        if not self.startedWriting and takes_pieces(self.channel):
            write_at_once(self.channel, super().write, data)
        else:
            super().write(data)

    def finish(self) -> None:
        """End the answer in order."""
        site = self.channel.site
        super().finish()
        self._log_access(site, "")
        self._let_go()

    def connectionLost(self, reason: Failure) -> None:
        """Tell whoever answers that the client has gone."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.gone()
            self.producer = None
        # HTTP/2 tells this of answers that have ended, too.
        if self._began and not self.finished:
            self._log_access(self.channel.site, " (client gone)")
        super().connectionLost(reason)
        self._let_go()

    def _let_go(self) -> None:
        # Klein's functions hold the request, and each other, until the garbage collector comes.
        self.stream = self.transport = None

    def shed(self) -> None:
        """Drop what an answer that goes on for hours needs no more.

        What is left is for writing, for the end, and for the log.
        """
        self.__dict__ = {name: self.__dict__[name] for name in _LASTING if name in self.__dict__}
        self.notifications = []

    def _log_access(self, site: MXFlexSite, ending: str) -> None:
        access_log.emit(
            site.access_level,
            "{address} {method} {uri} {status} {sent} {seconds:.3f}{ending}",
            address=self.address,
            method=self.method.decode("ascii", "backslashreplace"),
            uri=_UNRESERVED.sub(_unquoted, self.uri).decode("ascii", "backslashreplace"),
            status=self.code,
            sent=self.sentLength,
            seconds=site.clock.seconds() - self._began,
            ending=ending,
            request_id=self.request_id,
        )


@attrs.frozen
class CrossOrigin:
    """Which other sites' pages may call the API, and load files as modules (WHATWG Fetch, 3.2).

    Args:
        origins: Such as `https://crm.example.com`.
    """

    origins: frozenset[str]

    def apply(self, request: Request) -> bool:
        """Set the headers for a page's origin; tell whether this is an answered preflight."""
        if not self.origins:
            return False
        request.responseHeaders.addRawHeader(b"vary", b"Origin")
        origin = request.getHeader("origin")
        if origin not in self.origins:
            return False
        request.setHeader("access-control-allow-origin", origin)
        # By `Date` a page knows how far its clock is from the times in the answers.
        request.setHeader(
            "access-control-expose-headers",
            "Date, ETag, Retry-After, WWW-Authenticate, X-Request-ID",
        )
        if request.method != b"OPTIONS" or not request.getHeader("access-control-request-method"):
            return False
        request.setHeader("access-control-allow-methods", "GET, HEAD, POST")
        request.setHeader(
            "access-control-allow-headers",
            "Authorization, Content-Type, If-None-Match, Last-Event-ID",
        )
        request.setHeader("access-control-max-age", str(PREFLIGHT_SECONDS))
        return True


class _Preflight(Resource):
    """Answers a browser's question before it lets a page of another site ask."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(204)
        return b""


class _Nothing(Resource):
    """Says that there is nothing at a path."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        return send_error(request, 404, "not found")


class Root(Resource):
    """`/api` is the API, all else are files.

    Args:
        api: The routes of the API.
        files: The static files.
        cross_origin: Which pages of other sites may use both.

    Attributes:
        cross_origin: As given; may be changed.
    """

    isLeaf = False

    def __init__(self, api: IResource, files: IResource, cross_origin: CrossOrigin) -> None:
        super().__init__()
        self._api = api
        self._files = files
        self.cross_origin = cross_origin

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """Give the resource for the first part of a path."""
        if self.cross_origin.apply(request):
            return _Preflight()
        # Klein takes a path that is no text for an error of its own; for the files there is no such
        # path.
        if path == b"api" and len(request.postpath) > 1 and not request.postpath[0]:
            # werkzeug would not mind a second slash here.
            return _Nothing()
        if path == b"api" and _is_text(b"/".join(request.postpath)):
            return self._api
        # The files look at the whole path.
        request.postpath.insert(0, request.prepath.pop())
        return self._files


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class MXFlexSite(Site):
    """The HTTP server: a root resource, with the limits and the log of this module.

    Args:
        root: What is served.
        clock: Gives the time and delayed calls.
        proxies: Reverse proxies whose word on the client's address is taken.

    Attributes:
        access_level: At which level requests are logged.
    """

    noisy = False
    access_level = LogLevel.info

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        proxies: tuple[IPv4Network | IPv6Network, ...],
    ) -> None:
        super().__init__(
            root,
            Request,
            timeout=IDLE_SECONDS,
            reactor=clock,
            # mxflex.web.fields reads bodies, and refuses what Twisted would let pass.
            parsePOSTFormSubmission=False,
        )
        self.clock = clock
        self.proxies = proxies

    @staticmethod
    def protocol() -> _GenericHTTPChannelProtocol:
        """Make the protocol of one connection; it becomes HTTP/2 if TLS says so."""
        return _GenericHTTPChannelProtocol(Channel())

    def log(self, request: HTTPRequest) -> None:
        """Leave the log to the request, which also notices clients that go away."""
