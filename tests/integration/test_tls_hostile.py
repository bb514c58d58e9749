"""ACME servers that misbehave below HTTP, over real sockets: the daemon serves on, and tries on."""

from __future__ import annotations

import contextlib
import socket

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.server import NOT_DONE_YET, Site

from mxflex.certs import acme, issuing
from mxflex.simulator.certificate import Certificate, ServerTLS
from tests.integration.pebble import HOST, LOOPBACK
from tests.ports import free_port
from tests.protocol.acme_server import AcmeServer


class Port:
    """One port at which an ACME server should be, and what is there instead.

    Args:
        folder: Where the file of its CA is written.

    Attributes:
        number: The port.
        authority: The CA of its certificate.
        connections: The open connections of hostile servers.
        server: The sound ACME server, once `repair` was called.
    """

    def __init__(self, folder):
        self.number = free_port()
        self.authority = Certificate.authority()
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.authority.pem)
        self.connections = set()
        self.server = None
        self._own = Certificate.issue("CA", "localhost", issuer=self.authority)
        self._listening = None

    async def listen(self, factory, *, certificate=None, tls=True):
        """Serve something there."""
        if tls:
            shown = certificate or self._own
            factory = TLSMemoryBIOFactory(ServerTLS(lambda: shown), False, factory)
        endpoint = TCP4ServerEndpoint(reactor, self.number, interface=LOOPBACK)
        self._listening = await endpoint.listen(factory)

    async def hostile(self, greeting, *, close=False, tls=True):
        """Answer whatever comes with these bytes, and close or go silent."""
        port = self

        class Hostile(Protocol):
            def connectionMade(self):
                port.connections.add(self)

            def connectionLost(self, reason):
                port.connections.discard(self)

            def dataReceived(self, data):
                self.transport.write(greeting)
                if close:
                    self.transport.loseConnection()

        await self.listen(Factory.forProtocol(Hostile), tls=tls)

    async def repair(self, look, certificate=None):
        """Put a sound ACME server there."""
        await self.close()
        self.server = AcmeServer(reactor.seconds, look, f"https://localhost:{self.number}")
        await self.listen(Site(self.server), certificate=certificate)

    async def close(self):
        """Serve nothing any more."""
        for connection in list(self.connections):
            connection.transport.abortConnection()
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await maybeDeferred(listening.stopListening)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Let every wait be short."""
    monkeypatch.setattr(acme, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(acme, "FIRST_POLL_SECONDS", 0.02)
    monkeypatch.setattr(issuing, "FIRST_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(issuing, "MAX_RETRY_SECONDS", 0.2)


@pytest_twisted.async_yield_fixture
async def port(daemon, tmp_path):
    """Give the port of the ACME server; it is closed before daemons are stopped."""
    made = Port(tmp_path)
    yield made
    await made.close()


async def start(daemon, port, tmp_path):
    """Start a daemon that gets its certificate from that port."""
    return await daemon(
        host=HOST,
        listen=[f"tcp:0:interface={LOOPBACK}"],
        listen_http=[f"tcp:0:interface={LOOPBACK}"],
        acme={
            "directory": f"https://localhost:{port.number}/directory",
            "ca_file": str(port.ca_file),
            "storage": str(tmp_path / "certs"),
        },
    )


def lines_with(running, words):
    """Give the lines of the log that have these words."""
    return [line for line in running.log.lines if words in line]


def troubles(running):
    """Give the lines that say why there is no certificate."""
    return lines_with(running, f"no certificate of {HOST} yet: ")


async def recover(running, port, certificate=None):
    """Put a sound server there, and wait for the certificate that it gives."""
    responder = running.service.getServiceNamed("certificates")._responder
    await port.repair(responder.answer, certificate)
    await running.when(lambda: any("new certificate of" in line for line in running.log.lines))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ((b"", False), "the CA does not answer"),
        ((b"", True), "the CA cannot be reached: "),
        ((b"\x16\x03\x01 nonsense\r\n\r\n", False), "the CA cannot be reached: "),
        ((b"SSH-2.0-OpenSSH_9.2\r\n", True), "the CA cannot be reached: "),
        ((HEAD + b"Content-Length: 100\r\n\r\n{", False), "the CA does not answer"),
        ((HEAD + b"Content-Length: 100\r\n\r\n{", True), "the CA cannot be reached: "),
        ((HEAD + b"Content-Length: many\r\n\r\n", False), "the CA cannot be reached: "),
        ((HEAD + b"\r\n" + b" " * 10**6, False), "the CA's answer is too long: "),
        ((HEAD + b"Content-Encoding: gzip\r\n\r\nnonsense", True), "is no ACME directory"),
        ((b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6, False), "the CA"),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", False), "the CA cannot be reached: "),
        (
            (b"HTTP/1.1 200 OK\r\nReplay-Nonce: \xff\r\nConnection: close\r\n\r\n", True),
            "is no ACME",
        ),
    ],
    ids=[
        "silence",
        "end",
        "bytes",
        "ssh",
        "half-silent",
        "half-end",
        "length",
        "endless",
        "gzip",
        "header",
        "chunk",
        "nonce",
    ],
)
@pytest_twisted.ensureDeferred
async def test_hostile_server(daemon, port, tmp_path, served, words):
    """Whatever is at the CA's port, one line a try says what; then the CA's return is noticed."""
    greeting, close = served
    await port.hostile(greeting, close=close)
    running = await start(daemon, port, tmp_path)
    await running.when(lambda: len(troubles(running)) >= 2)
    for line in troubles(running):
        assert words in line
        assert line.rstrip("\n").endswith(" seconds")
        assert len(line) < 700
    assert running.link.up
    await recover(running, port)


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        HEAD + b"Content-Length: 100\r\n\r\n{",
        HEAD + b"\r\n" + b" " * 10**6,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6,
    ],
    ids=["silence", "half", "endless", "header"],
)
@pytest_twisted.ensureDeferred
async def test_nothing_stays_open(daemon, port, tmp_path, greeting):
    """An attempt that has failed leaves no connection behind, however little the server does."""
    await port.hostile(greeting)
    running = await start(daemon, port, tmp_path)
    await running.when(lambda: len(troubles(running)) >= 2)
    await running.stop_service()
    await running.when(lambda: not port.connections)


@pytest_twisted.ensureDeferred
async def test_no_connection_comes_about(daemon, port, tmp_path, monkeypatch):
    """A server that is too busy to accept is given up, and a stop does not wait for it."""
    with contextlib.ExitStack() as open_sockets:
        full = open_sockets.enter_context(socket.socket())
        full.bind((LOOPBACK, port.number))
        full.listen(0)
        for _ in range(4):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((LOOPBACK, port.number))
        running = await start(daemon, port, tmp_path)
        await running.when(lambda: troubles(running))
        assert "yet: the CA does not answer; next try in " in troubles(running)[0]
        monkeypatch.setattr(acme, "REQUEST_SECONDS", 30)
        count = len(lines_with(running, "asking for"))
        await running.when(lambda: len(lines_with(running, "asking for")) > count)
        told = len(troubles(running))
        await running.stop_service()
        assert len(troubles(running)) == told


@pytest_twisted.ensureDeferred
async def test_silence_before_tls(daemon, port, tmp_path):
    """A server that accepts connections and then says nothing holds nobody up."""
    await port.hostile(b"", tls=False)
    running = await start(daemon, port, tmp_path)
    await running.when(lambda: troubles(running))
    assert "yet: the CA does not answer; next try in " in troubles(running)[0]
    await recover(running, port)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda port: Certificate.self_signed(), "TLS: certificate verify failed"),
        (lambda port: Certificate.issue("localhost"), "TLS: certificate verify failed"),
        (
            lambda port: Certificate.issue("x", "elsewhere.example", issuer=port.authority),
            "TLS: the certificate is not for localhost",
        ),
        (
            lambda port: Certificate.issue("localhost", issuer=port.authority),
            "TLS: the certificate is not for localhost",
        ),
    ],
    ids=["self-signed", "unknown", "name", "nameless"],
)
@pytest_twisted.ensureDeferred
async def test_impostor(daemon, port, tmp_path, make, words):
    """Whoever shows no certificate of the CA's name by a trusted CA is not the CA."""
    certificate = make(port)
    await port.repair(lambda token: None, certificate)
    running = await start(daemon, port, tmp_path)
    await running.when(lambda: troubles(running))
    assert words in troubles(running)[0]
    assert port.server.requests == []
    await recover(running, port)


@pytest.mark.parametrize(
    "resource",
    ["directory", "nonce", "account", "order", "authorizations", "orders", "certificate"],
)
@pytest_twisted.ensureDeferred
async def test_stop_at_any_point(daemon, port, tmp_path, monkeypatch, resource):
    """Stopped in the middle of any request, the service goes at once and without a word."""
    monkeypatch.setattr(acme, "REQUEST_SECONDS", 30)
    await port.repair(lambda token: None)
    port.server.instead[resource] = lambda request: NOT_DONE_YET
    running = await start(daemon, port, tmp_path)
    responder = running.service.getServiceNamed("certificates")._responder
    port.server._look = responder.answer
    await running.when(lambda: resource in port.server.requests)
    began = reactor.seconds()
    await running.stop_service()
    assert reactor.seconds() - began < 2
    assert not troubles(running)
