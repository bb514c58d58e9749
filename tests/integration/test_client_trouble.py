"""Clients that may do anything, many at a time: bounded, cut off, counted; the others get all."""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from contextlib import ExitStack

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP6ClientEndpoint
from twisted.internet.protocol import Factory

from mxflex.gateway.hub import MAX_JOINED_BYTES
from mxflex.web import site
from mxflex.web.eventstream import TRANSPORT_BUFFER_BYTES
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import EstablishedEvent
from tests.integration.daemons import EXT, LOGIN, LOOPBACK, PASSWORD
from tests.integration.h2client import ClientTLS
from tests.integration.pebble import Command
from tests.integration.raw_http import RawConnection, request_bytes
from tests.integration.victims import (
    Sitter,
    Victims,
    eventually,
    read_status,
    request,
    served,
    streams_of,
    turn,
)

# What one client may cost all others at a time, in seconds: far more than it does.
HICCUP = 2.0
CUT_OFF = "does not read its event stream is cut off"


@pytest_twisted.async_yield_fixture
async def victim(daemon):
    """Give the builder of daemons that must be well after the test."""
    victims = Victims(daemon)
    yield victims.start
    await victims.check()


@pytest.fixture
def closing():
    """Give what closes the sockets of a test at its end, however it ends."""
    with ExitStack() as stack:
        yield stack


def event(number, size=0):
    """Give an event that carries a number, and a name of any length."""
    return EstablishedEvent(
        connection=ConnectionID(call_id=number, device_id=EXT), calling_display_name="x" * size
    )


class Witness:
    """A client that behaves, has a stream open, and must miss nothing."""

    def __init__(self, running, token):
        self._running = running
        self._token = token
        self._connection = None
        self._heard = []
        self.told = 0

    async def arrive(self):
        """Open the stream."""
        self._connection = await self._running.connect()
        self._connection.send(request("GET", "/api/events", token=self._token))
        assert await read_status(self._connection) == 200
        return self

    async def hear(self, size=0):
        """Let an event happen, and wait until it has arrived."""
        number = self.told
        self.told += 1
        self._running.mx.send_event(EXT, event(number, size))
        received = self._connection.received
        await self._connection.when(
            lambda: b"\nid: " in received and b'{"callId":%d,' % number in received
        )
        self._heard += [int(found) for found in re.findall(rb'\ndata: {"callId":(\d+),', received)]
        received.clear()

    def check(self):
        """Hold the stream to what has happened: each event once, in order."""
        assert self._heard == list(range(self.told))


# --- Requests that never end ----------------------------------------------------------------------

HEAD = request("GET", "/api/contacts")
BODY = request("POST", "/api/login", "Content-Length: 60000")
# What each sends first, and then goes on with, byte by byte, for as long as it may.
DRIPS = {
    "nothing": (b"", b""),
    "a line without an end": (b"", b"G" * 10_000),
    "header after header": (HEAD[:-2], b"X: y\r\n" * 2_000),
    "a body": (BODY, b"x" * 10_000),
}


@pytest_twisted.ensureDeferred
async def test_slowloris(victim, monkeypatch, closing):
    """2,000 connections whose requests never end delay nobody, and end by themselves in time."""
    monkeypatch.setattr(site, "IDLE_SECONDS", 4)
    running = await victim()
    token = await running.log_in()
    witness = await Witness(running, token).arrive()
    slow = []
    for number, (begin, _) in zip(range(2_000), itertools.cycle(DRIPS.values())):
        slow.append(closing.enter_context(Sitter(running)))
        slow[-1].send(begin)
        if number % 100 == 99:
            await turn()
    await eventually(lambda: served(running) == 2_001)
    drips = [(each, iter(drip)) for each, (_, drip) in zip(slow, itertools.cycle(DRIPS.values()))]
    deadline = reactor.seconds() + 3 * site.IDLE_SECONDS
    while served(running) > 1:
        assert reactor.seconds() < deadline, served(running)
        began = reactor.seconds()
        assert (await running.get("/api/calls", token=token)).status == 200
        await witness.hear()
        assert reactor.seconds() - began < HICCUP
        for each, drip in drips:
            byte = next(drip, None)
            if byte is not None:
                try:
                    each.send(bytes([byte]))
                except OSError:
                    # It has been cut.
                    continue
    witness.check()


# --- Streams that are not read --------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_byte_at_a_time(victim, closing):
    """Who reads a byte for each event is cut off at the bound, counted and logged once.

    Ten such clients cost the others nothing.
    """
    running = await victim(events={"max_unsent": 65_536})
    streams = streams_of(running)
    token = await running.log_in()
    witness = await Witness(running, token).arrive()
    slow = [closing.enter_context(Sitter(running, receive_buffer=4096)) for _ in range(10)]
    for each in slow:
        each.send(request("GET", "/api/events", token=token))
    await eventually(lambda: streams.count == 11)
    while streams.count > 1:
        assert witness.told < 400, "never cut off"
        await witness.hear(50_000)
        for each in slow:
            try:
                each.recv(1)
            except (BlockingIOError, ConnectionResetError):
                continue
    witness.check()
    assert streams.cut_off == 10
    assert sum(CUT_OFF in line for line in running.log.lines) == 10


@pytest_twisted.ensureDeferred
async def test_a_process_that_is_stopped(victim, tmp_path):
    """A client whose machine hangs, and says nothing any more, is cut off at the bound."""
    running = await victim(events={"max_unsent": 65_536})
    streams = streams_of(running)
    token = await running.log_in()
    witness = await Witness(running, token).arrive()
    (tmp_path / "request").write_bytes(request("GET", "/api/events", token=token))
    program = (
        "import socket;"
        f"s = socket.create_connection(('{LOOPBACK}', {running.ports[0]}));"
        "s.sendall(open('request', 'rb').read());"
        "[s.recv(65536) for _ in iter(int, 1)]"
    )
    client = Command(reactor, [sys.executable, "-c", program], tmp_path)
    try:
        await eventually(lambda: streams.count == 2)
        client.signal("STOP")
        while streams.count == 2:
            assert witness.told < 600, "never cut off"
            await witness.hear(50_000)
    finally:
        await client.stop("KILL")
    witness.check()
    assert streams.cut_off == 1
    assert sum(CUT_OFF in line for line in running.log.lines) == 1
    await eventually(lambda: served(running) == 1)


def owed(stream, transport):
    """Give how many bytes are kept for a client that does not read."""
    queued = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return queued + sum(map(len, stream._waiting or ()))


async def open_unread(daemon, secure, tls, *, bound, count=1):
    """Give a daemon with streams that nobody reads, by these, the transports below them."""
    settings = {"events": {"max_unsent": bound}}
    server = await secure(**settings) if tls else None
    running = server.running if tls else await daemon(**settings)
    token = await ((await server.connect()).log_in() if tls else running.log_in())
    for _ in range(count):
        if tls:
            connection = RawConnection(running.soon)
            await server.open(connection, ClientTLS(protocols=None))
        else:
            connection = await running.connect()
        connection.send(request_bytes("GET", "/api/events", f"Authorization: Bearer {token}"))
        await connection.when(lambda connection=connection: b"retry:" in connection.received)
        connection.transport.pauseProducing()
    transports = {}
    for stream in [stream for slot in streams_of(running)._slots for stream in slot]:
        transport = stream._request.channel.transport
        transports[stream] = transport.transport if tls else transport
    assert len(transports) == count
    return running, transports


@pytest.mark.parametrize("tls", [False, True], ids=["HTTP", "HTTPS"])
@pytest_twisted.ensureDeferred
async def test_what_is_owed_in_all(daemon, secure, tls):
    """Thirty clients that read nothing are owed the bound each, at the most, and then cut off."""
    bound, size = 131_072, 5_000
    running, transports = await open_unread(daemon, secure, tls, bound=bound, count=30)
    streams = streams_of(running)
    # What is sent in one piece may be under way when the transport says that it has enough; chunks
    # and TLS records frame it.
    at_most = bound + MAX_JOINED_BYTES + 4096
    for number in range(5_000):
        if not streams.count:
            break
        running.mx.send_event(EXT, event(number, size))
        await turn()
        assert max(owed(*each) for each in transports.items()) <= at_most
    assert streams.count == 0
    assert streams.cut_off == 30
    assert sum(CUT_OFF in line for line in running.log.lines) == 30


@pytest.mark.parametrize("tls", [False, True], ids=["HTTP", "HTTPS"])
@pytest_twisted.ensureDeferred
async def test_what_is_owed_within_one_turn(daemon, secure, tls):
    """What comes all at once counts as it comes: who does not read is owed no more than that."""
    bound, piece = 131_072, b": %b\n\n" % (b"x" * 3_996)
    running, transports = await open_unread(daemon, secure, tls, bound=bound)
    streams = streams_of(running)
    ((stream, transport),) = transports.items()
    # Somewhat less than what makes the transport ask for a pause.
    while owed(stream, transport) < TRANSPORT_BUFFER_BYTES - 4 * len(piece):
        stream.send(piece)
        await turn()
    taken = owed(stream, transport)
    # The reactor has no turn from here on.
    while streams.count:
        stream.send(piece)
        taken += len(piece)
    # The last piece of each queue may go beyond it; chunks and records frame them.
    assert taken <= bound + 2 * len(piece) + 2048
    assert streams.cut_off == 1


# --- Streams without end --------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_reconnecting_as_fast_as_can_be(victim):
    """Who opens streams and leaves them, a thousand times over, takes nothing from the others."""
    running = await victim()
    streams = streams_of(running)
    token = await running.log_in()
    witness = await Witness(running, token).arrive()

    async def come_and_go():
        for _ in range(100):
            client = await running.connect()
            client.send(request("GET", "/api/events", "Last-Event-ID: 17", token=token))
            assert await read_status(client) == 200
            client.abort()

    coming = gatherResults([Deferred.fromCoroutine(come_and_go()) for _ in range(10)])
    while not coming.called:
        began = reactor.seconds()
        await witness.hear()
        assert reactor.seconds() - began < HICCUP
    await coming
    await eventually(lambda: streams.count == 1)
    witness.check()
    assert (streams.opened, streams.ended, streams.cut_off) == (1_001, 1_000, 0)
    await eventually(lambda: served(running) == 1)


# --- Guesses --------------------------------------------------------------------------------------

# Whom a flood of guesses comes from, by its number, and whose password is guessed.
FLOODS = {
    "one name, from everywhere": (lambda n: f"198.51.100.{n}", lambda _: LOGIN),
    "one name, in all spellings": (
        lambda n: f"198.51.100.{n}",
        lambda n: "".join(c.upper() if n >> i & 1 else c for i, c in enumerate(LOGIN)),
    ),
    "all names, from one address": (lambda _: "198.51.100.1", lambda n: f"name{n}"),
    "all names, from one /64": (lambda n: f"2001:db8:1:2:{n:x}::{n:x}", lambda n: f"name{n}"),
    "all names, from one address in two notations": (
        lambda n: ("198.51.100.1", "::ffff:198.51.100.1", "::ffff:c633:6401")[n % 3],
        lambda n: f"name{n}",
    ),
}
FAILURES, PARALLEL = 5, 4


@pytest.mark.parametrize("name", FLOODS)
@pytest_twisted.ensureDeferred
async def test_a_flood_of_guesses(victim, name):
    """Of 100 guesses at once few reach the MX; the rest is told to wait, and others log in.

    What is under way when the door closes may still be answered, no more.
    """
    running = await victim(
        proxies=["127.0.0.1"],
        login={"max_failures": FAILURES, "window": 60, "parallel": PARALLEL},
    )
    where, who = FLOODS[name]

    async def guess(number):
        reply = await running.post(
            "/api/login",
            {"login": who(number), "password": f"guess {number}"},
            headers={"X-Forwarded-For": where(number)},
        )
        assert reply.status == 403 or int(reply.header("retry-after")) > 0
        return reply.status

    guesses = [Deferred.fromCoroutine(guess(number)) for number in range(1, 101)]
    counted = Counter(await running.soon(gatherResults(guesses, consumeErrors=True)))
    assert set(counted) == {403, 429}
    assert FAILURES <= counted[403] < FAILURES + PARALLEL
    asked = [each for each in running.mx.received("loginRequest") if each.command.type == "User"]
    assert len(asked) == counted[403]
    # The neighbours in the next /64, under another name, are nobody of them.
    fields = {"login": "user3096", "password": "secret3096"}
    for elsewhere in ("198.51.101.1", "2001:db8:1:3::1"):
        reply = await running.post("/api/login", fields, headers={"X-Forwarded-For": elsewhere})
        assert reply.status == 200


@pytest_twisted.ensureDeferred
async def test_guesses_over_ipv6(victim):
    """A client that comes by IPv6 itself is known by its /64, too."""
    running = await victim(
        listen=["tcp:0:interface=127.0.0.1", "tcp6:0:interface=\\:\\:1"],
        login={"max_failures": 2, "window": 60},
    )
    endpoint = TCP6ClientEndpoint(reactor, "::1", running.ports[1])
    statuses = []
    for number in range(3):
        factory = Factory.forProtocol(lambda: RawConnection(running.soon))
        connection = await running.soon(endpoint.connect(factory))
        body = f"login=name{number}&password=x".encode()
        form = "Content-Type: application/x-www-form-urlencoded"
        connection.send(request_bytes("POST", "/api/login", form, body=body))
        statuses.append((await connection.read_reply()).status)
        connection.abort()
    assert statuses == [403, 403, 429]
    assert any(" ::1 POST /api/login 429 " in line for line in running.log.of("mxflex.access"))
    assert (await running.post("/api/login", {"login": LOGIN, "password": PASSWORD})).status == 200
