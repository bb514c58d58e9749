"""The two ports of a server with a certificate: HTTPS, and the plain one that leads there."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection, Server
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from zope.interface import implementedBy
from zope.interface.declarations import Provides

from mxflex.web.http2 import Negotiator
from mxflex.web.render import send_error
from mxflex.web.site import MXFlexSite, Request

# Browsers shall come by HTTPS alone for a year, in seconds (RFC 6797).
HSTS = b"max-age=31536000"
CHALLENGE = [b".well-known", b"acme-challenge"]


class SecureTransport(BufferingTLSTransport):
    """TLS with a client, which ends when the client says so, whatever was on its way.

    Twisted leaves its producer with the TCP connection, which waits for that to go on before it
    closes: one that was asked to pause never does, and the connection stayed for ever.
    """

    transport: Connection

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the protocol, and let go of it: the garbage collector is not to be waited for."""
        super().connectionLost(reason)
        self._producer = None

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is not None:
            # Twisted holds it in one of the frames that the traceback holds.
            reason.tb = None
            assert reason.value is not None
            reason.value.__traceback__ = None
        producer = self._producer
        self.transport.unregisterProducer()
        super()._tlsShutdownFinished(reason)
        if producer is not None:
            # Not from within whatever it is that has met the end.
            self.factory._clock.callLater(0, self._stop, producer)  # noqa: SLF001

    def _stop(self, producer: IPushProducer) -> None:
        if self.connected:
            producer.stopProducing()


# Twisted declares for each new connection, one after the other, what its socket implements. Such
# declarations are made once for all who say the same, but for as long only as somebody holds them.
_DECLARATIONS = [Provides(SecureTransport, each) for each in implementedBy(Server)]


class SecureFactory(TLSMemoryBIOFactory):
    """Makes `SecureTransport`s."""

    protocol = SecureTransport


class SecureSite(MXFlexSite):
    """The site on TLS: HTTP/1.1 or HTTP/2.

    Args:
        root: What is served.
        clock: Gives the time and delayed calls.
        proxies: See `MXFlexSite`.
        trusted: Whether the certificate of the moment is one that browsers may trust.
    """

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        proxies: tuple[IPv4Network | IPv6Network, ...],
        trusted: Callable[[], bool],
    ) -> None:
        super().__init__(root, clock, proxies)
        self.trusted = trusted
        self.requestFactory = SecureRequest
        self.protocol = Negotiator  # type: ignore[method-assign, assignment]


class SecureRequest(Request):
    """A request over TLS."""

    site: SecureSite

    def render(self, resrc: IResource) -> None:
        """Render a resource; once there is a real certificate, ask for HTTPS from now on."""
        if self.site.trusted():
            self.setHeader(b"strict-transport-security", HSTS)
        super().render(resrc)


class PlainRoot(Resource):
    """Port 80: answers the CA's challenges, and sends everybody else to HTTPS.

    Args:
        url: The configured address, which alone is where people are sent.
        answer: Gives the answer to a challenge by its token; None for an unknown one.
    """

    isLeaf = True

    def __init__(self, url: str, answer: Callable[[bytes], bytes | None]) -> None:
        super().__init__()
        self._url = url.encode("ascii")
        self._answer = answer

    def render(self, request: Request) -> bytes:
        """Answer a challenge, or redirect (RFC 9110, 15.4.9)."""
        if request.postpath[:2] == CHALLENGE and len(request.postpath) > len(CHALLENGE):
            answer = self._answer(b"/".join(request.postpath[2:]))
            if answer is None:
                return send_error(request, 404, "not found")
            request.setHeader(b"content-type", b"application/octet-stream")
            request.setHeader(b"content-length", b"%d" % len(answer))
            return answer
        target = request.uri if request.uri.startswith(b"/") else b"/"
        request.setResponseCode(308)
        request.setHeader(b"location", self._url + target)
        request.setHeader(b"content-length", b"0")
        return b""
