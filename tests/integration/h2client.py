"""HTTP/2 by the frame: a client on the `h2` library, over TLS, as bad as it is told to be."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import attrs
from cryptography.hazmat.primitives import serialization
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    PingAckReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes, Settings
from OpenSSL import SSL
from twisted.application.internet import StreamServerEndpointService
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from mxflex.certs.files import CertificateFiles
from mxflex.simulator.certificate import Certificate
from mxflex.web.eventstream import EventStreams
from mxflex.web.http2 import Connection, Negotiator
from tests.integration.daemons import LOGIN, LOOPBACK, PASSWORD
from tests.integration.streams import parse_events
from tests.integration.waiting import WaitingProtocol

HOST = "mxflex.test"
# Every header list of a test begins with these.
COMMON = ((":scheme", "https"), (":authority", HOST))
# The largest window that there is (RFC 9113, 6.9.1).
LARGEST_WINDOW = 2**31 - 1
# The window of every stream and of the connection, unless something else was said (6.9.2).
FIRST_WINDOW = 65_535


@attrs.define
class Exchange:
    """A request, and what has come of its answer.

    Attributes:
        headers: The headers of the answer, without the status; names in lower case.
        status: The status; 0 before it has come.
        informational: The statuses of answers before the answer.
        body: The body so far.
        frames: How many DATA frames it came in.
        ended: Whether the answer is whole.
        reset: The error code of the server's RST_STREAM, or None.
    """

    headers: dict = attrs.field(factory=dict)
    status: int = 0
    informational: list = attrs.field(factory=list)
    body: bytearray = attrs.field(factory=bytearray)
    frames: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def over(self):
        """Whether nothing more comes."""
        return self.ended or self.reset is not None

    @property
    def json(self):
        """The body, read as JSON."""
        return json.loads(bytes(self.body))

    @property
    def error(self):
        """The sentence of an error; fails the test when the body is not of that form."""
        assert self.json["code"] == self.status, self
        assert self.headers["content-type"] == "application/json; charset=utf-8", self
        assert self.headers["x-request-id"] == self.json["request_id"], self
        return self.json["error"]

    @property
    def events(self):
        """The events of a stream, in order."""
        return parse_events(bytes(self.body))

    @property
    def comments(self):
        """How many comments of a stream have come."""
        return bytes(self.body).count(b":\n\n")


class H2Client(WaitingProtocol):
    """One HTTP/2 connection of a client.

    Attributes:
        conn: The state of the protocol; what it has to send goes out with `flush`.
        acknowledges: Whether windows are opened again for data that has come.
        unread: The ids of streams whose windows are not opened again, but for the connection's.
        exchanges: The requests by their stream's id.
        goaway: The error code of the server's GOAWAY, or None.
        pings: How many pings were answered.
        settled: How often settings were acknowledged.
        closed: Whether the connection has ended.
    """

    def __init__(self, soon, settings, **checks):
        super().__init__(soon)
        self.conn = H2Connection(
            H2Configuration(client_side=True, header_encoding="utf-8", **checks)
        )
        self.conn.local_settings = Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, **settings},
        )
        self.acknowledges = True
        self.unread = set()
        self.exchanges = {}
        self.goaway = None
        self.pings = 0
        self.settled = 0

    def connectionMade(self):
        self.conn.initiate_connection()
        self.flush()

    def dataReceived(self, data):
        for event in self.conn.receive_data(data):
            self._take(event)
        self.flush()
        self._settle()

    def _take(self, event):
        exchange = self.exchanges.get(getattr(event, "stream_id", None))
        match event:
            case ResponseReceived():
                for name, value in event.headers:
                    before = exchange.headers.get(name)
                    exchange.headers[name] = value if before is None else f"{before}, {value}"
                exchange.status = int(exchange.headers.pop(":status"))
            case InformationalResponseReceived():
                exchange.informational.append(int(dict(event.headers)[":status"]))
            case DataReceived():
                exchange.body += event.data
                exchange.frames += 1
                self._open_windows(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                exchange.ended = True
            case StreamReset():
                exchange.reset = event.error_code
            case ConnectionTerminated():
                self.goaway = event.error_code
            case PingAckReceived():
                self.pings += 1
            case SettingsAcknowledged():
                self.settled += 1

    def _open_windows(self, length, stream_id):
        if not length or not self.acknowledges:
            return
        if stream_id in self.unread:
            self.conn.increment_flow_control_window(length)
        else:
            self.conn.acknowledge_received_data(length, stream_id)

    async def when(self, condition):
        """Wait until something holds of this connection."""
        await super().when(lambda: condition() or self.closed)
        assert condition(), "the connection has ended"

    async def when_closed(self):
        """Wait for the end of the connection."""
        await super().when(lambda: self.closed)

    async def when_ponged(self):
        """Wait until the server has taken everything that was sent before this."""
        wanted = self.pings + 1
        self.conn.ping(b"are you?")
        self.flush()
        await self.when(lambda: self.pings >= wanted)

    def flush(self):
        """Send what the protocol has to send."""
        self.transport.write(self.conn.data_to_send())

    def send_raw(self, *frames):
        """Send frames past the protocol, which knows nothing of them."""
        self.flush()
        self.transport.write(b"".join(frame.serialize() for frame in frames))

    def begin(self, method, path, headers=(), *, end=True, token=None):
        """Begin a request, and give its id; nothing goes out before `flush`."""
        stream_id = self.conn.get_next_available_stream_id()
        lines = [(":method", method), (":path", path), *COMMON, *headers]
        if token is not None:
            lines.append(("authorization", f"Bearer {token}"))
        self.exchanges[stream_id] = Exchange()
        self.conn.send_headers(stream_id, lines, end_stream=end)
        return stream_id

    def request(self, method, path, headers=(), *, body=None, token=None):
        """Make a request, and give its id; a body must fit into the windows."""
        stream_id = self.begin(method, path, headers, end=body is None, token=token)
        if body is not None:
            for start in range(0, len(body) or 1, 16_384):
                part = body[start : start + 16_384]
                last = start + 16_384 >= len(body)
                self.conn.send_data(stream_id, part, end_stream=last)
        self.flush()
        return stream_id

    async def answer(self, stream_id):
        """Wait for the end of an answer, in whichever way it ends, and give it."""
        exchange = self.exchanges[stream_id]
        await self.when(lambda: exchange.over)
        return exchange

    async def ask(self, method, path, headers=(), *, body=None, token=None):
        """Make a request, and give the whole answer."""
        return await self.answer(self.request(method, path, headers, body=body, token=token))

    async def post(self, path, fields, *, token=None):
        """POST a form, and give the whole answer."""
        headers = [("content-type", "application/x-www-form-urlencoded")]
        return await self.ask("POST", path, headers, body=urlencode(fields).encode(), token=token)

    async def upload(self, path, headers, body, *, token=None):
        """POST a body of any size, as the windows open; stop where the server does."""
        stream_id = self.begin("POST", path, headers, end=False, token=token)
        exchange = self.exchanges[stream_id]
        sent = 0
        while sent < len(body) and not exchange.over:
            room = min(self.conn.local_flow_control_window(stream_id), 16_384)
            if room <= 0:
                self.flush()
                await self.when(
                    lambda: exchange.over or self.conn.local_flow_control_window(stream_id) > 0
                )
                continue
            part = body[sent : sent + room]
            sent += len(part)
            self.conn.send_data(stream_id, part, end_stream=sent == len(body))
        self.flush()
        return await self.answer(stream_id)

    async def log_in(self, login=LOGIN, password=PASSWORD):
        """Log a user in and give the token."""
        reply = await self.post("/api/login", {"login": login, "password": password})
        assert reply.status == 200, reply
        return reply.json["access_token"]

    async def open_stream(self, token, *, query="", headers=()):
        """Open an event stream, and give it once its first bytes have come."""
        stream_id = self.request("GET", "/api/events" + query, headers, token=token)
        exchange = self.exchanges[stream_id]
        await self.when(lambda: exchange.body or exchange.over)
        assert exchange.status == 200, exchange
        return exchange

    def id_of(self, exchange):
        """Give the id of a request's stream."""
        return next(key for key, value in self.exchanges.items() if value is exchange)

    def pause(self):
        """Stop reading, so that the server's TCP window fills up."""
        self.transport.pauseProducing()

    def resume(self):
        """Read on."""
        self.transport.resumeProducing()

    def abort(self):
        """Cut the connection without a word. Idempotent."""
        if not self.closed:
            self.transport.abortConnection()


@implementer(IOpenSSLClientConnectionCreator)
@attrs.frozen
class ClientTLS:
    """TLS as a client of a certain kind speaks it.

    Attributes:
        protocols: What it offers to speak inside (ALPN); None to offer nothing.
        version: The only TLS version that it speaks, or None.
    """

    protocols: tuple | None = (b"h2",)
    version: int | None = None

    def clientConnectionForTLS(self, _protocol):
        """Make the OpenSSL side of a connection."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if self.version is not None:
            context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
            context.set_min_proto_version(self.version)
            context.set_max_proto_version(self.version)
        if self.protocols is not None:
            context.set_alpn_protos(list(self.protocols))
        connection = SSL.Connection(context, None)
        connection.set_tlsext_host_name(HOST.encode())
        return connection


class SecureDaemon:
    """A running daemon on HTTPS, with its clients.

    Args:
        running: The daemon (`tests.integration.daemons.Running`).

    Attributes:
        running: The daemon.
    """

    def __init__(self, running):
        self.running = running
        self._clients = []
        self._tls = next(
            child.factory
            for child in running.service
            if isinstance(child, StreamServerEndpointService)
            and isinstance(child.factory, TLSMemoryBIOFactory)
        )

    @property
    def port(self):
        """The port of HTTPS."""
        return self.running.ports[0]

    @property
    def log(self):
        """What was logged."""
        return self.running.log

    @property
    def html(self):
        """The folder of the static files."""
        return self.running.html

    @property
    def mx(self):
        """The simulated MX."""
        return self.running.mx

    @property
    def streams(self):
        """The daemon's open event streams."""
        return self.running.service.getServiceNamed(EventStreams.name)

    @property
    def site(self):
        """The site, whose limits of time are for all connections to come."""
        return self._tls.wrappedFactory

    @property
    def channels(self):
        """What the server has for each TLS connection: None before the handshake is done."""
        inner = [each.wrappedProtocol for each in self._tls.protocols]
        return [None if isinstance(each, Negotiator) else each for each in inner]

    @property
    def connection(self):
        """The server's end of the only HTTP/2 connection."""
        (connection,) = [each for each in self.channels if isinstance(each, Connection)]
        return connection

    def connection_of(self, client):
        """Give the server's end of a client's connection."""
        port = client.transport.getHost().port
        return next(each for each in self.channels if each.transport.getPeer().port == port)

    async def open(self, protocol, tls):
        """Connect a protocol of any kind over TLS."""
        endpoint = wrapClientTLS(tls, TCP4ClientEndpoint(reactor, LOOPBACK, self.port))
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        connected = await self.running.soon(endpoint.connect(factory))
        self._clients.append(connected)
        return connected

    async def connect(self, settings=None, **checks):
        """Connect an HTTP/2 client.

        Args:
            settings: Its settings, by their codes.
            checks: What it shall not check of its own requests; see `H2Configuration`.
        """
        client = H2Client(self.running.soon, settings or {}, **checks)
        await self.open(client, ClientTLS())
        # The server's settings, and the client's own, have arrived.
        await client.when(lambda: client.settled)
        return client

    def renew(self):
        """Replace the certificate, as an administrator does, and let the daemon look at it."""
        tls = self.running.config.tls
        write_certificate(Path(tls.certificate), Path(tls.key))
        self.running.service.getServiceNamed(CertificateFiles.name)._reload()

    async def when(self, condition):
        """Wait until a condition on the daemon's inside holds."""
        await self.running.when(condition)

    async def when_alone(self):
        """Wait until the server has no connection left."""
        await self.when(lambda: not self._tls.protocols)

    def stop_clients(self):
        """Cut what tests have left open."""
        for client in self._clients:
            client.abort()


def write_certificate(certificate, key):
    """Make a certificate of one's own, and write it and its key to files."""
    made = Certificate.issue(HOST, HOST)
    key.write_bytes(
        made.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate.write_bytes(made.pem)


async def start_secure(start, folder, **settings):
    """Start a daemon on HTTPS with a certificate of its own.

    Args:
        start: Starts a daemon; see `tests.integration.daemons.Daemons.start`.
        folder: Where the certificate is put.
        settings: Keys of the configuration.
    """
    folder = Path(tempfile.mkdtemp(dir=folder))
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    write_certificate(certificate, key)
    running = await start(
        host=HOST,
        listen_http=[f"tcp:0:interface={LOOPBACK}"],
        tls={"certificate": str(certificate), "key": str(key)},
        **settings,
    )
    return SecureDaemon(running)
