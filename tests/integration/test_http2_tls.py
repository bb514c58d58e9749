"""The TLS side of HTTPS: what is negotiated, and clients that never get so far."""

from __future__ import annotations

import pytest
import pytest_twisted
from h2.settings import SettingCodes
from OpenSSL import SSL
from twisted.internet import reactor

from mxflex.web import http2, site
from mxflex.web.http2 import Connection
from mxflex.web.site import Channel
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import EstablishedEvent
from tests.integration.daemons import EXT
from tests.integration.h2client import LARGEST_WINDOW, ClientTLS
from tests.integration.raw_http import RawConnection, request_bytes
from tests.integration.victims import turn


async def connect_tls(server, **kind):
    """Connect over TLS, and give the connection with the protocol that was agreed on."""
    connection = RawConnection(server.running.soon)
    await server.open(connection, ClientTLS(**kind))
    connection.send(b"")
    return connection


@pytest.mark.parametrize(
    ("offered", "agreed", "kind"),
    [
        (None, None, Channel),
        ((b"http/1.1",), b"http/1.1", Channel),
        ((b"h2", b"http/1.1"), b"h2", Connection),
        # The server's choice, not the order of the client.
        ((b"http/1.1", b"h2"), b"h2", Connection),
        ((b"spdy/3", b"http/1.1"), b"http/1.1", Channel),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_handshake_settles_the_protocol(secure, offered, agreed, kind):
    """HTTP/2 for who offers it; HTTP/1.1 for who does not, or offers nothing at all."""
    server = await secure()
    connection = await connect_tls(server, protocols=offered)
    await server.when(lambda: server.channels and server.channels[0] is not None)
    assert isinstance(server.channels[0], kind)
    assert connection.transport.negotiatedProtocol == agreed


@pytest_twisted.ensureDeferred
async def test_unknown_protocols_alone_are_refused(secure):
    """A client that offers neither is refused in the handshake (RFC 7301, 3.2)."""
    server = await secure()
    connection = await connect_tls(server, protocols=(b"spdy/3",))
    connection.send(request_bytes("GET", "/api/calls"))
    await connection.when_closed()
    assert not connection.received
    await server.when_alone()


@pytest_twisted.ensureDeferred
async def test_http11_over_tls_is_served(secure):
    """Keep-alive, an event stream, and the refusal of a bad request, all as without TLS."""
    server = await secure()
    client = await server.connect()
    token = await client.log_in()
    connection = await connect_tls(server, protocols=(b"http/1.1",))
    for _ in range(3):
        connection.send(b"GET /api/calls HTTP/1.1\r\nHost: mxflex.test\r\n\r\n")
        assert (await connection.read_reply()).status == 401
    connection.send(
        b"GET /api/events HTTP/1.1\r\nHost: mxflex.test\r\nAuthorization: Bearer %s\r\n\r\n"
        % token.encode()
    )
    await connection.when(lambda: b"retry:" in connection.received)
    server.mx.call_in("12025550104", "3095")
    await connection.when(lambda: b"DeliveredEvent" in connection.received)
    bad = await connect_tls(server, protocols=(b"http/1.1",))
    bad.send(b"GET / nothing\r\n\r\n")
    assert (await bad.read_reply()).error == "bad request"


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
@pytest_twisted.ensureDeferred
async def test_old_tls_is_refused(secure, version):
    """TLS below 1.2 is refused in the handshake."""
    server = await secure()
    connection = await connect_tls(server, version=version)
    await connection.when_closed()
    assert connection.transport.negotiatedProtocol is None
    await server.when_alone()


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest_twisted.ensureDeferred
async def test_tls_12_and_13_are_served(secure, version):
    """TLS 1.2 and 1.3 both do."""
    server = await secure()
    connection = await connect_tls(server, version=version, protocols=None)
    connection.send(request_bytes("GET", "/api/calls"))
    assert (await connection.read_reply()).status == 401


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_never_ends_is_cut(secure, monkeypatch, begin):
    """A client that says nothing, or the begin of a handshake, is cut after some seconds."""
    monkeypatch.setattr(http2, "HANDSHAKE_SECONDS", 0.3)
    server = await secure()
    began = reactor.seconds()
    connection = await server.running.connect(server.port)
    connection.send(begin)
    await server.when(lambda: server.channels == [None])
    await connection.when_closed()
    assert 0.2 < reactor.seconds() - began < 5
    await server.when_alone()


@pytest_twisted.ensureDeferred
async def test_a_handshake_byte_by_byte_is_cut_too(secure, monkeypatch):
    """Bytes of a handshake do not begin its time anew."""
    monkeypatch.setattr(http2, "HANDSHAKE_SECONDS", 0.4)
    server = await secure()
    began = reactor.seconds()
    connection = await server.running.connect(server.port)
    for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400):
        if connection.closed:
            break
        connection.send(bytes([byte]))
        await server.running.pause(0.02)
    await connection.when_closed()
    assert reactor.seconds() - began < 2
    await server.when_alone()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: mxflex.test\r\n\r\n", b"\xff" * 1000, bytes(1000), b"\x80."],
)
@pytest_twisted.ensureDeferred
async def test_garbage_instead_of_tls_is_cut(secure, garbage):
    """What is no TLS ends the connection without a traceback, and nobody else notices."""
    server = await secure()
    client = await server.connect()
    connection = await server.running.connect(server.port)
    connection.send(garbage)
    if len(garbage) > 10:
        await connection.when_closed()
    else:
        connection.abort()
    await server.when(lambda: len(server.channels) == 1)
    assert (await client.ask("GET", "/api/calls")).status == 401


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_during_the_handshake_leaves_nothing(secure):
    """Neither the connection nor the timer of its handshake is left."""
    server = await secure()
    for _ in range(10):
        connection = await server.running.connect(server.port)
        connection.send(b"\x16\x03\x01")
        await server.when(lambda: server.channels == [None])
        connection.abort()
        await server.when_alone()
    # The reactor is looked at after the test: a timer of 15 seconds would be found.


@pytest_twisted.ensureDeferred
async def test_garbage_after_the_handshake_ends_the_connection(secure):
    """What is no HTTP/2 after it was agreed on ends the connection, and nothing else."""
    server = await secure()
    connection = await connect_tls(server, protocols=(b"h2",))
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    await connection.when_closed()
    await server.when_alone()


@pytest_twisted.ensureDeferred
async def test_http2_without_a_word_is_closed(secure):
    """A client that agrees on HTTP/2 and says nothing is closed after the idle time."""
    server = await secure()
    server.site.timeOut = 0.3
    connection = await connect_tls(server, protocols=(b"h2",))
    await connection.when_closed()
    await server.when_alone()


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_leaves_connections_alone(secure):
    """A new certificate is for new connections; a stream that is open goes on."""
    server = await secure()
    client = await server.connect()
    stream = await client.open_stream(await client.log_in())
    shown = client.transport.getPeerCertificate().get_serial_number()
    server.renew()
    other = await server.connect()
    assert other.transport.getPeerCertificate().get_serial_number() != shown
    server.mx.call_in("12025550104", "3095")
    await client.when(lambda: stream.events)


# --- Clients that take leave ----------------------------------------------------------------------


async def http11_stream(server, token):
    """Open an event stream on HTTP/1.1."""
    client = await connect_tls(server, protocols=(b"http/1.1",))
    client.send(request_bytes("GET", "/api/events", f"Authorization: Bearer {token}"))
    await client.when(lambda: b"retry:" in client.received)
    return client


async def http2_stream(server, token):
    """Open an event stream on HTTP/2, with windows that never shut."""
    client = await server.connect({SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})
    client.conn.increment_flow_control_window(LARGEST_WINDOW - 65_535)
    await client.open_stream(token)
    return client


async def take_leave(server, open_stream):
    """Open a stream, and take leave while the server waits for it to be read; give the client."""
    witness = await server.connect()
    token = await witness.log_in()
    client = await open_stream(server, token)
    tcp = server.connection_of(client).transport.transport
    client.transport.pauseProducing()
    for number in range(1_000):
        if tcp.producerPaused:
            break
        event = EstablishedEvent(
            connection=ConnectionID(call_id=number, device_id=EXT),
            calling_display_name="x" * 50_000,
        )
        server.mx.send_event(EXT, event)
        await turn()
    assert tcp.producerPaused
    client.transport.loseConnection()
    # HTTP/1.1 reads no further, but the reactor may have had word of the farewell already.
    tcp.startReading()
    await server.when(lambda: tcp.disconnecting)
    return client


@pytest.mark.parametrize("open_stream", [http11_stream, http2_stream])
@pytest_twisted.ensureDeferred
async def test_a_slow_client_that_takes_leave_is_let_go(secure, open_stream):
    """A client that says farewell in TLS before it reads what waits for it leaves nothing behind.

    Twisted waits then for a producer that was asked to pause, and knows of no end.
    """
    server = await secure(events={"max_unsent": 50_000_000})
    client = await take_leave(server, open_stream)
    client.transport.resumeProducing()
    await client.when_closed()
    await server.when(lambda: server.streams.count == 0 and len(server.channels) == 1)


@pytest.mark.parametrize("open_stream", [http11_stream, http2_stream])
@pytest_twisted.ensureDeferred
async def test_a_client_that_takes_leave_and_stays_is_cut(secure, monkeypatch, open_stream):
    """A client that says farewell, and reads nothing afterwards, is cut after a while."""
    server = await secure(events={"max_unsent": 50_000_000})
    monkeypatch.setattr(site, "IDLE_SECONDS", 0.2)
    for kind in (Channel, Connection):
        monkeypatch.setattr(kind, "abortTimeout", 0.2)
    await take_leave(server, open_stream)
    await server.when(lambda: server.streams.count == 0 and len(server.channels) == 1)
