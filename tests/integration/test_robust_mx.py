"""An MX that sends nonsense while streams are open: the streams go on."""

from __future__ import annotations

import re

import pytest
import pytest_twisted

from mxflex.mx.protocol import MAX_BAD_FRAMES_IN_A_ROW
from mxflex.simulator.faults import LOSES_FRAMING, MALFORMED, CommandFault
from mxflex.wire.codec import ConnectionID
from mxflex.wire.framing import MAX_FRAME_BYTES, encode_frame
from mxflex.wire.messages import EstablishedEvent
from tests.integration.daemons import EXT
from tests.integration.victims import Victims, eventually, read_status, request, streams_of, turn

# Broken in ways of their own, beside those that the simulator knows.
MORE_MALFORMED = {
    **MALFORMED,
    "length 1": b"\0\0\0\x01" + b"9999",
    "an id of other digits": b"\0\0\0\x0c" + "١٢".encode() + b"<a/>",
    "an id with a sign": b"\0\0\0\x0c" + b"-001" + b"<a/>",
    "an id of zero bytes": b"\0\0\0\x0c" + b"\0\0\0\0" + b"<a/>",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "65,535 bytes of text": encode_frame(9999, b"<x>" + b"a" * (MAX_FRAME_BYTES - 15) + b"</x>"),
    "65,535 bytes of blanks": encode_frame(9999, b" " * (MAX_FRAME_BYTES - 8)),
    "65,535 bytes of elements": encode_frame(9999, b"<x>" + b"<a/>" * 16_000 + b"</x>"),
    "65,535 bytes of attributes": encode_frame(
        9999, b"<x " + b" ".join(b'a%d=""' % i for i in range(6_000)) + b"/>"
    ),
    "65,535 bytes of zeros": encode_frame(9999, b"\0" * (MAX_FRAME_BYTES - 8)),
    "the same attribute twice": encode_frame(9999, b'<presence from="1" from="2"/>'),
    "an undeclared prefix": encode_frame(9999, b"<x:presence from='1'/>"),
    "UTF-16": encode_frame(9999, "<presence from='1'/>".encode("utf-16")),
    "UTF-32": encode_frame(9999, "<presence from='1'/>".encode("utf-32")),
    "an encoding that lies": encode_frame(
        9999, b"<?xml version='1.0' encoding='utf-7'?><presence from='1'/>"
    ),
    "a declaration alone": encode_frame(9999, b"<?xml version='1.0'?>"),
    "a comment alone": encode_frame(9999, b"<!-- a -->"),
    "a doctype without entities": encode_frame(9999, b"<!DOCTYPE a><a/>"),
    "a parameter entity": encode_frame(
        9999, b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/">%x;]><a/>'
    ),
    "an unknown entity": encode_frame(9999, b"<a>&nbsp;</a>"),
    "an unknown event with a long name": encode_frame(9999, b"<" + b"a" * 60_000 + b"/>"),
    "an error that nobody caused": encode_frame(9999, b"<CSTAErrorCode/>"),
    "an answer without a name": encode_frame(0, b"<x/>"),
    "a login answer out of turn": encode_frame(1, b"<loginResponce Code='0'/>"),
    "a page of an address book": encode_frame(
        9999, b"<ablist size='x' index='-1'><abentry userId='y'/><abentry/><z/></ablist>"
    ),
    "a deletion of nobody": encode_frame(9999, b"<AbDeleteUserEvent/>"),
    "an addition of nobody": encode_frame(9999, b"<AbAddUserEvent><abentry/></AbAddUserEvent>"),
    "presence of nobody": encode_frame(9999, b"<presence/>"),
    "a logout of no kind": encode_frame(9998, b"<logout/>"),
    "a keep-alive": encode_frame(9999, b"<keepalive/>"),
}
MORE_LOSE_FRAMING = LOSES_FRAMING | {
    "length 1",
    "an id of other digits",
    "an id with a sign",
    "an id of zero bytes",
    "HTTP",
}


@pytest_twisted.async_yield_fixture
async def victim(daemon):
    """Give the builder of daemons that must be well after the test."""
    victims = Victims(daemon)
    yield victims.start
    await victims.check()


def event(number):
    """Give an event that carries a number."""
    return EstablishedEvent(connection=ConnectionID(call_id=number, device_id=EXT))


def told(stream):
    """Give the names of a stream's events, or their numbers for those that have one."""
    return [each.json.get("callId", each.name) for each in stream.events]


SKIPPED = sorted(set(MORE_MALFORMED) - MORE_LOSE_FRAMING)


@pytest.mark.parametrize(
    ("name", "byte_by_byte"),
    [
        *((name, False) for name in SKIPPED),
        # Longer ones would take a while, and frames of any size are joined in one way.
        *((name, True) for name in SKIPPED if len(MORE_MALFORMED[name]) < 1_000),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_frame_is_skipped(victim, name, byte_by_byte):
    """A frame that cannot be read costs itself alone: the events around it arrive, once."""
    data = MORE_MALFORMED[name]
    running = await victim()
    mx = running.mx
    stream = await running.open_stream(await running.log_in())
    mx.faults.byte_by_byte = byte_by_byte
    mx.send_event(EXT, event(1))
    mx.send_raw(data, "Server")
    mx.send_event(EXT, event(2))
    mx.send_raw(data * 3, "Server")
    mx.send_event(EXT, event(3))
    await stream.when_events(3)
    assert told(stream) == [1, 2, 3]
    assert len([session for session in mx.logins if session.type == "Server"]) == 1
    # Commands are answered as ever.
    assert (await running.get("/api/calls", token=await running.log_in())).status == 200
    # One line for each at the most, and none of 64 KiB.
    assert all(len(line) < 1_500 for line in running.log.lines if "mxflex.mx" in line)


@pytest.mark.parametrize("name", sorted(MORE_LOSE_FRAMING))
@pytest_twisted.ensureDeferred
async def test_a_lost_boundary_ends_the_connection_alone(victim, name):
    """Where frames can no longer be told apart the connection is replaced; the stream stays."""
    running = await victim()
    mx = running.mx
    stream = await running.open_stream(await running.log_in())
    mx.send_event(EXT, event(1))
    mx.send_raw(MORE_MALFORMED[name], "Server")
    mx.send_event(EXT, event(2))
    await running.soon(mx.when_session("Server", 2))
    await running.when_ready()
    await running.soon(mx.when_monitored(EXT))
    mx.send_event(EXT, event(3))
    await stream.when(lambda: 3 in told(stream))
    # What came behind the broken frame is lost, and the client is told so.
    assert told(stream) == [1, "gap", 3]
    assert streams_of(running).count == 1
    assert len(mx.connections) == 1


@pytest_twisted.ensureDeferred
async def test_many_bad_frames_in_a_row(victim):
    """A peer that sends nothing but nonsense is left; one that sends a good frame is kept."""
    running = await victim()
    mx = running.mx
    stream = await running.open_stream(await running.log_in())
    bad = encode_frame(9999, b"nonsense")
    for number in range(3):
        mx.send_raw(bad * (MAX_BAD_FRAMES_IN_A_ROW - 1), "Server")
        mx.send_event(EXT, event(number))
    await stream.when_events(3)
    assert len(mx.logins) == 2
    mx.send_raw(bad * MAX_BAD_FRAMES_IN_A_ROW, "Server")
    await running.soon(mx.when_session("Server", 2))
    await running.soon(mx.when_monitored(EXT))
    await stream.when_event("gap")


@pytest_twisted.ensureDeferred
async def test_half_a_frame_and_the_end(victim):
    """A connection that ends inside a frame is replaced; half an event is none."""
    running = await victim()
    mx = running.mx
    stream = await running.open_stream(await running.log_in())
    (monitor,) = mx.sessions[0].monitors
    whole = encode_frame(
        9999,
        b"<EstablishedEvent><monitorCrossRefID>%s</monitorCrossRefID><establishedConnection>"
        b"<callID>7</callID></establishedConnection></EstablishedEvent>" % monitor.encode(),
    )
    mx.send_raw(whole[:-5], "Server")
    mx.drop("Server")
    await running.soon(mx.when_session("Server", 2))
    await running.soon(mx.when_monitored(EXT))
    mx.send_event(EXT, event(8))
    await stream.when(lambda: 8 in told(stream))
    assert told(stream) == ["gap", 8]


@pytest_twisted.ensureDeferred
async def test_a_flood_of_events(victim):
    """Ten thousand events in a row arrive in order, and requests are answered meanwhile."""
    running = await victim(events={"max_unsent": 20_000_000})
    token = await running.log_in()
    client = await running.connect()
    client.send(request("GET", "/api/events", token=token))
    assert await read_status(client) == 200
    (monitor,) = running.mx.sessions[0].monitors
    flood = b"".join(
        encode_frame(
            9999,
            b"<EstablishedEvent><monitorCrossRefID>%s</monitorCrossRefID><establishedConnection>"
            b"<callID>%d</callID></establishedConnection></EstablishedEvent>"
            % (monitor.encode(), number),
        )
        for number in range(10_000)
    )
    running.mx.send_raw(flood, "Server")
    assert (await running.get("/api/contacts", token=token)).status == 200
    await client.when(lambda: client.received.count(b"\ndata: ") == 10_000)
    numbers = re.findall(rb'\ndata: {"callId":(\d+),', client.received)
    assert numbers == [b"%d" % number for number in range(10_000)]


@pytest_twisted.ensureDeferred
async def test_events_of_nobody(victim):
    """Events for monitors that nobody started reach no stream, and fill nothing."""
    running = await victim()
    token = await running.log_in()
    stream = await running.open_stream(token)
    for monitor in (b"", b"0", b"-1", b"987654", b"x", b"1 ", b"01"):
        running.mx.send_raw(
            encode_frame(
                9999,
                b"<EstablishedEvent><monitorCrossRefID>%s</monitorCrossRefID>"
                b"<establishedConnection><callID>7</callID><deviceID>3095</deviceID>"
                b"</establishedConnection></EstablishedEvent>" % monitor,
            ),
            "Server",
        )
    running.mx.send_event(EXT, event(8))
    await stream.when(lambda: 8 in told(stream))
    # White space around an id belongs to the writing, not to the id.
    assert [number for number in told(stream) if number != 7] == [8]
    assert told(stream).count(7) <= 1
    assert len((await running.get("/api/calls", token=token)).json["calls"]) <= 2


@pytest.mark.parametrize(
    "raw",
    [
        MALFORMED["length 0"],
        MALFORMED["text instead of XML"],
        encode_frame(9999, b"<loginFailed/>"),
        encode_frame(1, b"<unheardOf/>"),
        encode_frame(1, b"<loginResponce/>"),
        encode_frame(1, b"<loginFailed Code='x'>\xff\xfe</loginFailed>"),
        encode_frame(1, b"<CSTAErrorCode>&#10;</CSTAErrorCode>"),
        b"\x15\x03\x01\x00\x02\x02\x28",
    ],
)
@pytest_twisted.ensureDeferred
async def test_nonsense_for_a_login(victim, raw):
    """Whatever a login is answered with, the client gets an error, and the connection goes."""
    running = await victim(mx={"timeout": 1})
    running.mx.faults.set("loginRequest", CommandFault(raw=raw, times=1))
    reply = await running.post("/api/login", {"login": "user_login", "password": "password"})
    assert reply.status in (403, 502, 503, 504)
    assert reply.error
    assert "127.0.0.1" not in reply.error
    await eventually(lambda: len(running.mx.connections) == 1)
    assert running.link.up
    assert await running.log_in()


@pytest.mark.parametrize("command", ["MonitorStart", "MakeCall", "HoldCall", "SnapshotDevice"])
@pytest.mark.parametrize(
    "fault",
    [
        CommandFault(twice=True),
        CommandFault(wrong_id=True),
        CommandFault(raw=encode_frame(9999, b"nonsense")),
        CommandFault(raw=MALFORMED["length 7"]),
        CommandFault(reset=True),
        CommandFault(drop=True),
        CommandFault(ignored=True),
    ],
    ids=["twice", "wrong id", "nonsense", "lost boundary", "reset", "drop", "ignored"],
)
@pytest_twisted.ensureDeferred
async def test_nonsense_for_a_command(victim, fault, command):
    """Whatever a command is answered with, the client gets its own answer or an error, in time."""
    running = await victim(mx={"timeout": 1}, calls={"restrict": False})
    mx = running.mx
    mx.faults.set(command, fault)
    login = await running.post("/api/login", {"login": "user_login", "password": "password"})
    assert login.status in (200, 502, 503, 504)
    if login.status == 200:
        token = login.json["access_token"]
        hold = {"callId": 1, "deviceId": EXT}
        for path, fields in (("/api/call", {"to": "+12025550104"}), ("/api/call/hold", hold)):
            reply = await running.post(path, fields, token=token)
            assert reply.status in (200, 204, 422, 502, 503, 504)
    mx.faults.clear(command)
    for _ in range(3):
        await turn()
    await running.when_ready()
    stream = await running.open_stream(await running.log_in())
    mx.send_event(EXT, event(1))
    await stream.when(lambda: told(stream).count(1) == 1)
