"""Clients that vanish, that do not read, and that are many: nobody else notices, nothing stays."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from mxflex.simulator.faults import CommandFault
from mxflex.web.eventstream import EventStream
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import EstablishedEvent
from tests.integration.daemons import EXT, LOGIN, LOOPBACK, PASSWORD
from tests.integration.raw_http import RawConnection
from tests.integration.victims import (
    Sitter,
    Victims,
    eventually,
    exchange,
    read_status,
    request,
    served,
    streams_of,
    turn,
)

FORM = "Content-Type: application/x-www-form-urlencoded"
LOG_IN = request("POST", "/api/login", FORM, body=f"login={LOGIN}&password={PASSWORD}".encode())
OUTSIDE = "+12025550104"


@pytest_twisted.async_yield_fixture
async def victim(daemon):
    """Give the builder of daemons that must be well after the test."""
    victims = Victims(daemon)
    yield victims.start
    await victims.check()


def event(number, name=""):
    """Give an event that carries a number, and a name of any length."""
    return EstablishedEvent(
        connection=ConnectionID(call_id=number, device_id=EXT), calling_display_name=name
    )


def numbers(stream):
    """Give the numbers of the events that a stream has got, in the order they came."""
    return [each.json["callId"] for each in stream.events]


async def when_count(stream, count):
    """Wait for so many events, without a look into each of them every time."""
    await stream.when(lambda: stream.text.count(b"\ndata: ") >= count)


def alive(kind):
    """Count the objects of a class that somebody still holds."""
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


async def connect_all(running, count):
    """Open connections, many at a time."""
    factory = Factory.forProtocol(lambda: RawConnection(running.soon))
    factory.noisy = False
    connections = []
    while len(connections) < count:
        some = [
            TCP4ClientEndpoint(reactor, LOOPBACK, running.ports[0]).connect(factory)
            for _ in range(min(300, count - len(connections)))
        ]
        connections += await running.soon(gatherResults(some, consumeErrors=True))
    # They are cut with the daemon, at the latest.
    running._connections += connections
    return connections


# --- Who vanishes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["in the handshake", "in the login", "in the second login", "in the monitor"]
)
@pytest_twisted.ensureDeferred
async def test_vanish_in_a_login(victim, where):
    """A client that goes away during its login takes its connection to the MX along."""
    running = await victim(mx={"timeout": 1})
    mx = running.mx
    if where == "in the handshake":
        mx.faults.hang_in_tls = True
        reached = eventually(lambda: mx.door.unanswered)
    elif where == "in the login":
        mx.faults.set("loginRequest", CommandFault(ignored=True))
        reached = mx.when_command("loginRequest", 2)
    elif where == "in the second login":
        mx.behaviour.hash_refused = True
        mx.faults.set("loginRequest", CommandFault(ignored=True, first=2))
        reached = mx.when_command("loginRequest", 2)
    else:
        mx.faults.set("MonitorStart", CommandFault(ignored=True))
        reached = mx.when_command("MonitorStart", 1)
    client = await running.connect()
    client.send(LOG_IN)
    await running.soon(ensureDeferred(_settled(reached)))
    client.abort()
    await eventually(lambda: served(running) == 0)
    await eventually(lambda: len(mx.connections) == 1 and not mx.door.unanswered)
    assert running.link.up
    mx.faults.hang_in_tls = False
    mx.behaviour.hash_refused = False
    mx.faults.clear("loginRequest")
    mx.faults.clear("MonitorStart")
    stream = await running.open_stream(await running.log_in())
    mx.call_in(OUTSIDE, EXT)
    await stream.when_event("DeliveredEvent")
    assert len(stream.events) == 1


async def _settled(something):
    return await something


@pytest_twisted.ensureDeferred
async def test_vanish_before_the_monitor_answers(victim):
    """A monitor that starts although its client has gone is the one that the next login uses."""
    running = await victim()
    mx = running.mx
    mx.faults.set("MonitorStart", CommandFault(delay=0.3, times=1))
    client = await running.connect()
    client.send(LOG_IN)
    await running.soon(mx.when_command("MonitorStart"))
    client.abort()
    await eventually(lambda: served(running) == 0)
    token = await running.log_in()
    stream = await running.open_stream(token)
    mx.call_in(OUTSIDE, EXT)
    await stream.when_event("DeliveredEvent")
    assert mx.monitors(EXT) == 1
    assert len(stream.events) == 1
    assert (await running.get("/api/logout", token=token)).status == 204
    assert mx.monitors(EXT) == 0


@pytest.mark.parametrize("command", ["MakeCall", "ClearConnection", "HoldCall"])
@pytest_twisted.ensureDeferred
async def test_vanish_in_a_command(victim, command):
    """A client that goes away while the MX thinks leaves no waiter; the late answer is nobody's."""
    running = await victim()
    mx = running.mx
    token = await running.log_in()
    stream = await running.open_stream(token)
    mx.call_in(OUTSIDE, EXT)
    mx.answer(EXT)
    call_id = (await stream.when_events(2))[1].json["callId"]
    mx.faults.set(command, CommandFault(delay=0.3))
    path = {"MakeCall": "", "ClearConnection": "/hangup", "HoldCall": "/hold"}[command]
    body = f"to={OUTSIDE}&callId={call_id}&deviceId={EXT}".encode()
    before = len(reactor.getDelayedCalls())
    clients = [await running.connect() for _ in range(10)]
    for client in clients:
        client.send(request("POST", f"/api/call{path}", FORM, body=body, token=token))
    await running.soon(mx.when_command(command, 10))
    for client in clients:
        client.abort()
    await eventually(lambda: served(running) == 1)
    await eventually(lambda: running.link._protocol._wire.waiting == 0)
    assert len(running.link._protocol._waiters) == 0
    await eventually(lambda: len(reactor.getDelayedCalls()) <= before)
    mx.faults.clear(command)
    assert (await running.get("/api/calls", token=token)).status == 200


@pytest_twisted.ensureDeferred
async def test_vanish_in_a_stream(victim):
    """Streams whose clients go away, by RST or by FIN, before, in or after an event, are gone."""
    running = await victim()
    token = await running.log_in()
    streams = streams_of(running)
    watcher = await running.open_stream(token)
    before = len(reactor.getDelayedCalls())
    clients = await connect_all(running, 60)
    for client in clients:
        client.send(request("GET", "/api/events", token=token))
    for number, client in enumerate(clients[:20]):
        # Some go before the daemon has read their request.
        client.abort() if number % 2 else client.transport.loseConnection()
    for client in clients[20:]:
        assert await read_status(client) == 200
    running.mx.send_event(EXT, event(1))
    for client in clients[20:40]:
        client.abort()
    running.mx.send_event(EXT, event(2))
    await watcher.when_events(2)
    for client in clients[40:]:
        client.transport.loseConnection()
    await eventually(lambda: streams.count == 1 and served(running) == 1)
    running.mx.send_event(EXT, event(3))
    assert [each.json["callId"] for each in await watcher.when_events(3)] == [1, 2, 3]
    del client
    clients.clear()
    assert alive(EventStream) == 1
    assert len(reactor.getDelayedCalls()) <= before
    watcher.abort()
    await eventually(lambda: streams.count == 0)
    assert alive(EventStream) == 0


@pytest_twisted.ensureDeferred
async def test_vanish_before_the_body(victim):
    """A request whose body never comes as a whole is forgotten, and never reaches the MX."""
    running = await victim()
    before = len(reactor.getDelayedCalls())
    for cut in (-1, -10, -30):
        client = await running.connect()
        client.send(LOG_IN[:cut])
        await eventually(lambda: served(running) == 1)
        await turn()
        client.abort()
        await eventually(lambda: served(running) == 0)
    assert len(running.mx.received("loginRequest")) == 1
    assert len(reactor.getDelayedCalls()) <= before


# --- Who does not read ----------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_slow_reader_is_cut(victim):
    """Who owes more than the bound is cut off; fifty others have every event, in order, meanwhile.

    And as nothing is kept for who was cut, its end frees its memory.
    """
    running = await victim(events={"max_unsent": 131_072})
    token = await running.log_in()
    streams = streams_of(running)
    others = [await running.open_stream(token) for _ in range(50)]
    with Sitter(running, receive_buffer=4096) as slow:
        slow.send(request("GET", "/api/events", token=token))
        await eventually(lambda: streams.count == 51)
        sent = 0
        while streams.count == 51:
            assert sent < 600, "never cut off"
            running.mx.send_event(EXT, event(sent, "x" * 50_000))
            sent += 1
            await when_count(others[0], sent)
        assert streams.count == 50
        await eventually(lambda: served(running) == 50)
        assert sum("is cut off" in line for line in running.log.lines) == 1
    for other in others:
        await other.when_events(sent)
        assert numbers(other) == list(range(sent))
    running.mx.send_event(EXT, event(sent))
    for other in others:
        await other.when_events(sent + 1)
    assert alive(EventStream) == 50


@pytest_twisted.ensureDeferred
async def test_pause_below_the_bound(victim):
    """Who reads again before the bound is passed has lost nothing."""
    running = await victim(events={"max_unsent": 10_000_000})
    stream = await running.open_stream(await running.log_in())
    witness = await running.open_stream(await running.log_in())
    stream.pause()
    for number in range(120):
        running.mx.send_event(EXT, event(number, "x" * 50_000))
        await when_count(witness, number + 1)
    stream.resume()
    await stream.when_events(120)
    assert numbers(stream) == list(range(120))


@pytest_twisted.ensureDeferred
async def test_backlog_larger_than_the_bound(victim):
    """Who comes back for more than the bound gets it all: the bound is for who does not read."""
    running = await victim(events={"history": 1_000, "max_unsent": 65_536})
    token = await running.log_in()
    first = await running.open_stream(token)
    running.mx.send_event(EXT, event(0))
    (seen,) = await first.when_events(1)
    for number in range(1, 300):
        running.mx.send_event(EXT, event(number, "x" * 3_000))
        if number % 10 == 9:
            await first.when_events(number + 1)
    await first.when_events(300)
    late = await running.open_stream(token, headers={"Last-Event-ID": str(seen.id)})
    running.mx.send_event(EXT, event(300))
    await late.when_events(300)
    assert numbers(late) == list(range(1, 301))


# --- Who is many ----------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_thousand_silent_connections(victim):
    """A thousand connections that send nothing, or half a line, delay nobody."""
    running = await victim()
    silent = await connect_all(running, 1_000)
    for each in silent[::2]:
        each.send(b"GET /api/ev")
    await eventually(lambda: served(running) == 1_000)
    began = reactor.seconds()
    token = await running.log_in()
    stream = await running.open_stream(token)
    running.mx.call_in(OUTSIDE, EXT)
    await stream.when_event("DeliveredEvent")
    for _ in range(20):
        assert (await running.get("/api/contacts", token=token)).status == 200
    assert reactor.seconds() - began < 3
    for each in silent:
        each.abort()
    stream.abort()
    await eventually(lambda: served(running) == 0)


@pytest_twisted.ensureDeferred
async def test_all_come_at_once(victim):
    """Three hundred clients that connect in the same moment are let in at the first try."""
    running = await victim()
    began = reactor.seconds()
    await connect_all(running, 300)
    # The second try comes after a second (RFC 6298, 2.1).
    assert reactor.seconds() - began < 0.9
    await eventually(lambda: served(running) == 300)


@pytest_twisted.ensureDeferred
async def test_two_thousand_streams(victim):
    """Two thousand streams are open at once, and each gets each event once, in order."""
    running = await victim(events={"max_per_token": 2_000})
    token = await running.log_in()
    clients = await connect_all(running, 2_000)
    for client in clients:
        client.send(request("GET", "/api/events", token=token))
    await eventually(lambda: streams_of(running).count == 2_000)
    for number in range(5):
        running.mx.send_event(EXT, event(number))
    await eventually(lambda: all(c.received.count(b"\ndata: ") == 5 for c in clients))
    order = b"".join(b'{"callId":%d,' % number for number in range(5))
    seen = Counter(
        b"".join(part[:12] for part in bytes(c.received).split(b"\ndata: ")[1:]) for c in clients
    )
    assert seen == {order: 2_000}
    assert (await running.get("/api/contacts", token=token)).status == 200
    for client in clients:
        client.abort()
    await eventually(lambda: streams_of(running).count == 0 and served(running) == 0)
    clients.clear()
    del client
    assert alive(EventStream) == 0


@pytest_twisted.ensureDeferred
async def test_stop_with_streams_open(victim, daemon):
    """A daemon that stops ends its streams in order, and soon, whether they are read or not."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    with Sitter(running, receive_buffer=4096) as slow:
        slow.send(request("GET", "/api/events", token=token))
        await eventually(lambda: streams_of(running).count == 2)
        began = reactor.seconds()
        await running.stop()
        await stream.when_closed()
        assert reactor.seconds() - began < 5
        assert streams_of(running).count == 0


# --- Who logs in all at once ----------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_stop_with_readers_that_have_stopped(daemon):
    """Who does not read, and is owed much, has no say in how long the stop takes."""
    running = await daemon(events={"max_unsent": 10_000_000})
    token = await running.log_in()
    streams = streams_of(running)
    witness = await running.open_stream(token)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            slow = stack.enter_context(Sitter(running, receive_buffer=4096))
            slow.send(request("GET", "/api/events", token=token))
        await eventually(lambda: streams.count == 6)
        sent = 0
        while sum(each._waiting is not None for slot in streams._slots for each in slot) < 5:
            assert sent < 600, "they take it all"
            running.mx.send_event(EXT, event(sent, "x" * 50_000))
            sent += 1
            await when_count(witness, sent)
        await running.later(running.stop_service())
    assert not [line for line in running.log.lines if "cut short" in line]
    await witness.when_closed()
    assert numbers(witness) == list(range(sent))
    assert streams.count == 0


@pytest_twisted.ensureDeferred
async def test_storm_of_logins(victim):
    """Of 300 logins at a slow MX a few run, some wait, the rest is told to come back; all recover.

    Meanwhile streams and other requests go on as ever.
    """
    running = await victim()
    mx = running.mx
    token = await running.log_in()
    stream = await running.open_stream(token)
    asked = len(mx.received("loginRequest"))
    mx.faults.set("loginRequest", CommandFault(delay=1.0, times=32))
    clients = await connect_all(running, 300)
    for client in clients:
        client.send(LOG_IN)
    await running.soon(mx.when_command("loginRequest", asked + 32))
    for _ in range(20):
        await turn()
    assert len(mx.received("loginRequest")) == asked + 32
    assert len(mx.connections) == 33
    # Those that find no place know at once.
    await eventually(lambda: sum(bool(client.received) for client in clients) == 140)
    mx.call_in(OUTSIDE, EXT)
    await stream.when_event("DeliveredEvent")
    assert (await running.get("/api/contacts", token=token)).status == 200
    replies = await running.soon(
        gatherResults([ensureDeferred(client.read_reply()) for client in clients])
    )
    assert Counter(reply.status for reply in replies) == {200: 160, 503: 140}
    busy = next(reply for reply in replies if reply.status == 503)
    assert busy.error
    assert int(busy.header("retry-after")) > 0
    assert mx.monitors(EXT) == 1
    assert (await exchange(running, LOG_IN)).status == 200
    await eventually(lambda: len(mx.connections) == 1)


@pytest_twisted.ensureDeferred
async def test_storm_of_logins_that_vanish(victim):
    """Logins that are given up while they wait give their places to others."""
    running = await victim(login={"parallel": 2, "queue": 20})
    mx = running.mx
    mx.faults.set("loginRequest", CommandFault(ignored=True))
    clients = await connect_all(running, 22)
    for client in clients:
        client.send(LOG_IN)
    await running.soon(mx.when_command("loginRequest", 3))
    full = await exchange(running, LOG_IN)
    assert full.status == 503
    mx.faults.clear("loginRequest")
    for client in clients:
        client.abort()
    await eventually(lambda: served(running) == 0 and len(mx.connections) == 1)
    assert (await exchange(running, LOG_IN)).status == 200
    # One was asked before the faults were cleared for each place; the others never reached the MX.
    assert len(mx.received("loginRequest")) <= 1 + 22 + 1


@pytest_twisted.ensureDeferred
async def test_guessing_passwords(victim):
    """After so many failures the MX is not asked any more, in whatever spelling the name comes."""
    running = await victim(login={"max_failures": 3, "window": 60})
    bad = {"login": LOGIN, "password": "wrong"}
    for _ in range(3):
        assert (await running.post("/api/login", bad)).status == 403
    asked = len(running.mx.received("loginRequest"))
    for login in (LOGIN, LOGIN.upper(), "another"):
        reply = await running.post("/api/login", {"login": login, "password": PASSWORD})
        assert reply.status == 429
        assert 0 < int(reply.header("retry-after")) <= 60
        assert reply.error
    assert len(running.mx.received("loginRequest")) == asked


@pytest_twisted.ensureDeferred
async def test_guessing_passwords_in_parallel(victim):
    """Guesses sent all at once get round the limit only by those that are under way already."""
    running = await victim(login={"max_failures": 3, "window": 60, "parallel": 2})
    bad = request("POST", "/api/login", FORM, body=f"login={LOGIN}&password=wrong".encode())
    clients = await connect_all(running, 60)
    for client in clients:
        client.send(bad)
    replies = await running.soon(
        gatherResults([ensureDeferred(client.read_reply()) for client in clients])
    )
    counted = Counter(reply.status for reply in replies)
    assert set(counted) == {403, 429}
    # A place is free again a moment before the failure counts.
    assert 3 <= counted[403] < 3 + 2 * 2
