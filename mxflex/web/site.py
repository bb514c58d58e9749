"""Below the routes: the site, its limits, the `Server` header, the access log, and CORS."""

from __future__ import annotations

import re
from io import BytesIO
from ipaddress import IPv4Network, IPv6Network

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request as TwistedRequest
from twisted.web.server import Site

from mxflex import __version__
from mxflex.web.access import client_address
from mxflex.web.render import send_error

access_log = Logger(namespace="mxflex.access")

SERVER = f"MXFlex/{__version__}".encode("ascii")
# The largest body that is read, in bytes (contract, section 1).
MAX_BODY_BYTES = 64 * 1024
# A body above that is still taken in, and dropped, up to this size, so that its sender gets to read
# the refusal: closing with unread bytes would reset the connection under it.
MAX_DRAINED_BYTES = 1024 * 1024
# A connection that sends nothing for so long is closed; an open response is no such silence.
IDLE_SECONDS = 60
# Browsers may remember the answer to a preflight request for so long.
PREFLIGHT_SECONDS = 3600

_METHOD = re.compile(rb"[A-Z]{1,20}")
_HOST = re.compile(
    rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:.]+"
)


class Channel(HTTPChannel):
    """One HTTP/1.1 connection, whose own refusals look like all other answers."""

    site: MXFlexSite

    def refuse(self, status: bytes, text: bytes) -> None:
        """Answer without a request that could carry the answer, and close."""
        assert self.transport is not None
        body = b'{"code":%s,"error":"%s"}' % (status[:3], text)
        self.transport.writeSequence(
            [
                b"HTTP/1.1 " + status + b"\r\nServer: " + SERVER,
                b"\r\nContent-Type: application/json; charset=utf-8",
                b"\r\nContent-Length: %d" % len(body),
                b"\r\nConnection: close\r\n\r\n" + body,
            ]
        )
        self.loseConnection()
        # Whatever else has come on this connection cannot be trusted to be a request.
        self.dataReceived = _ignore  # type: ignore[method-assign]

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own answer has no header at all.
        self.refuse(b"400 Bad Request", b"bad request")


def _ignore(_data: bytes) -> None:
    """Drop bytes of a connection that is being closed."""


class Request(TwistedRequest):
    """A request with a bounded body, logged when it ends.

    Attributes:
        address: Where it came from, as far as that can be believed.
    """

    channel: Channel
    content: BytesIO
    prepath: list[bytes]
    postpath: list[bytes]
    address = ""
    _too_large = False
    _drained = 0

    def gotLength(self, length: int | None) -> None:
        """Prepare for a body of that length (None: chunked), or refuse it before it comes."""
        self.content = BytesIO()
        if length is not None and length > MAX_BODY_BYTES:
            self._too_large = True
        if length is not None and length > MAX_DRAINED_BYTES:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body, as long as the whole may still be read."""
        if not self._too_large and self.content.tell() + len(data) <= MAX_BODY_BYTES:
            self.content.write(data)
            return
        self._too_large = True
        self._drained += len(data)
        if self._drained > MAX_DRAINED_BYTES:
            self._refuse_body()

    def _refuse_body(self) -> None:
        self.channel.refuse(b"413 Content Too Large", b"the body is too large")

    def process(self) -> None:
        """Answer, once the whole request has come."""
        site = self.channel.site
        self.address = client_address(self, site.proxies)
        self.notifyFinish().addBoth(self._log_access, site.clock, site.clock.seconds())
        if self._too_large:
            self._answer(413, "the body is too large")
        elif not self._is_sound():
            self._answer(400, "bad request")
        else:
            super().process()

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

    def _is_sound(self) -> bool:
        """Tell whether method, path and host are what routing can read."""
        host = self.getRequestHostname()
        return bool(_METHOD.fullmatch(self.method) and (not host or _HOST.fullmatch(host)))

    def _log_access(self, result: object, clock: IReactorTime, began: float) -> None:
        access_log.info(
            "{address} {method} {uri} {status} {sent} {seconds:.3f}{ending}",
            address=self.address,
            method=self.method.decode("ascii", "backslashreplace"),
            uri=self.uri.decode("ascii", "backslashreplace"),
            status=self.code,
            sent=self.sentLength,
            seconds=clock.seconds() - began,
            ending="" if result is None else " (client gone)",
        )


@attrs.frozen
class CrossOrigin:
    """Which other sites' pages may call the API (WHATWG Fetch, 3.2).

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
        request.setHeader("access-control-expose-headers", "ETag, Retry-After, WWW-Authenticate")
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
    """Answers a browser's question before it lets a page call the API."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(204)
        return b""


class Root(Resource):
    """`/api` is the API, all else are files.

    Args:
        api: The routes of the API.
        files: The static files.
        cross_origin: Which pages of other sites may use the API.
    """

    isLeaf = False

    def __init__(self, api: IResource, files: IResource, cross_origin: CrossOrigin) -> None:
        super().__init__()
        self._api = api
        self._files = files
        self._cross_origin = cross_origin

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """Give the resource for the first part of a path."""
        if path == b"api":
            return _Preflight() if self._cross_origin.apply(request) else self._api
        # The files look at the whole path.
        request.postpath.insert(0, request.prepath.pop())
        return self._files


class MXFlexSite(Site):
    """The HTTP server: a root resource, with the limits and the log of this module.

    Args:
        root: What is served.
        clock: Gives the time and delayed calls.
        proxies: Reverse proxies whose word on the client's address is taken.
    """

    noisy = False

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
