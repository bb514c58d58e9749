"""Event streams: what goes out, in which form, and how long a stream lives."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor

from mxflex.simulator.server import SimulatedMX
from mxflex.web.eventjson import timestamp
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import ConnectionClearedEvent, DeliveredEvent, EstablishedEvent
from tests.integration.daemons import EXT

OUTSIDE = "12025550104"

# The five events of the owner's own description, as it shows them.
OWNERS_STREAM = (
    b"event: OriginatedEvent\n"
    b'data: {"callId":39,"deviceId":"3095","callingDevice":"3095","calledDevice":"79031744445",'
    b'"cause":"normal","callTypeFlags":36700160}\n\n'
    b"event: DivertedEvent\n"
    b'data: {"callId":39,"deviceId":"3095","divertingDevice":"3095","newDestination":"79031744445",'
    b'"cause":"normal","callTypeFlags":170917889}\n\n'
    b"event: DeliveredEvent\n"
    b'data: {"callId":39,"deviceId":"3095","globalCallId":"2808630435142227620","alertingDevice":'
    b'"79031744445","callingDevice":"3095","calledDevice":"79031744445","localConnectionInfo":'
    b'"alerting","cause":"normal","callTypeFlags":170917889,"cads":[{"name":"__FIRST_CALL_ID__",'
    b'"type":"string","value":"63022-00-0000D-6A4"}]}\n\n'
    b"event: EstablishedEvent\n"
    b'data: {"callId":39,"deviceId":"3095","globalCallId":"2808630435142227620","answeringDevice":'
    b'"79031744445","answeringDisplayName":"79031744445","callingDevice":"3095","calledDevice":'
    b'"79031744445","callingDisplayName":"3095","cause":"normal","callTypeFlags":170917889,"cads":'
    b'[{"name":"__FIRST_CALL_ID__","type":"string","value":"63022-00-0000D-6A4"}]}\n\n'
    b"event: ConnectionClearedEvent\n"
    b'data: {"callId":39,"deviceId":"3095","releasingDevice":"3095","cause":"normal"}\n\n'
)


def ring(running, count=1):
    """Let the extension ring and give up, so many times: two events each."""
    for _ in range(count):
        running.mx.call_in(OUTSIDE, EXT)
        running.mx.hang_up(OUTSIDE)


# --- The response ---------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_headers_come_before_any_event(daemon):
    """Status and headers go out at once, with the ones that keep proxies from buffering."""
    running = await daemon()
    connection = await running.connect()
    token = await running.log_in()
    connection.send(
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
        % token.encode()
    )
    await connection.when(lambda: b"\r\n\r\n" in connection.received)
    head, _, _ = bytes(connection.received).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "text/event-stream"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["Server"].startswith("MXFlex/")
    assert "Content-Length" not in headers


@pytest_twisted.ensureDeferred
async def test_the_stream_begins_with_retry_once(daemon):
    """`retry:` comes first and once; an id without an event tells where the stream begins."""
    running = await daemon()
    stream = await running.open_stream(await running.log_in())
    ring(running)
    await stream.when_events(2)
    retry, event_id = stream.blocks[0].split(b"\n")
    assert int(retry.removeprefix(b"retry: ")) > 0
    assert 0 < int(event_id.removeprefix(b"id: ")) < stream.events[0].id
    assert stream.text.count(b"retry:") == 1


@pytest_twisted.ensureDeferred
async def test_the_owners_call_comes_byte_for_byte(daemon):
    """The call of the owner's description makes the very stream that stands there, plus ids."""
    simulator = SimulatedMX(reactor, first_call_id=39, first_counter=0xD6A4)
    running = await daemon(simulator=simulator)
    token = await running.log_in()
    stream = await running.open_stream(token)
    reply = await running.post("/api/call", {"to": "+79031744445"}, token=token)
    assert reply.body == b'{"call":{"callId":39,"deviceId":"3095","called":"+79031744445"}}'
    running.mx.answer("79031744445")
    running.mx.hang_up(EXT)
    events = await stream.when_events(5)
    assert b"".join(event.raw for event in events) == OWNERS_STREAM
    # Each block has its lines in the same order, and nothing else has come.
    for block, event in zip(stream.blocks[1:], events, strict=True):
        assert block == event.raw[:-1] + b"id: %d" % event.id


@pytest_twisted.ensureDeferred
async def test_keys_come_in_the_order_of_the_contract(daemon):
    """A delivered and an established event with everything in it has its keys in order."""
    running = await daemon()
    stream = await running.open_stream(await running.log_in())
    both = {
        "connection": ConnectionID(7, EXT, "99"),
        "calling_device": OUTSIDE,
        "called_device": EXT,
        "last_redirection_device": "3044",
        "calling_display_name": 'Ünï\n"Çödé" </script>',
        "cause": "normal",
        "call_type_flags": 1,
        "cmds_allowed": 2,
        "cads": (
            CallAttachedData(name="a", type="string", value="x"),
            CallAttachedData(name="b", type="int"),
        ),
    }
    running.mx.send_event(
        EXT, DeliveredEvent(**both, alerting_device=EXT, local_connection_info="alerting")
    )
    running.mx.send_event(
        EXT, EstablishedEvent(**both, answering_device=EXT, answering_display_name="D")
    )
    delivered, established = await stream.when_events(2)
    common_end = ["cause", "callTypeFlags", "cmdsAllowed", "cads"]
    assert list(delivered.json) == [
        *("callId", "deviceId", "globalCallId", "alertingDevice", "callingDevice"),
        *("calledDevice", "lastRedirectionDevice", "localConnectionInfo", *common_end),
    ]
    assert list(established.json) == [
        *("callId", "deviceId", "globalCallId", "answeringDevice", "answeringDisplayName"),
        *("callingDevice", "calledDevice", "lastRedirectionDevice", "callingDisplayName"),
        *common_end,
    ]
    assert established.json["callingDisplayName"] == 'Ünï\n"Çödé" </script>'
    assert delivered.json["cads"] == [
        {"name": "a", "type": "string", "value": "x"},
        {"name": "b", "type": "int"},
    ]


@pytest_twisted.ensureDeferred
async def test_what_the_mx_leaves_out_is_left_out(daemon):
    """Optional keys that are absent, empty or 0 do not come; the others come as empty text."""
    running = await daemon()
    stream = await running.open_stream(await running.log_in())
    running.mx.send_event(
        EXT,
        DeliveredEvent(
            connection=ConnectionID(7, EXT), call_type_flags=0, last_redirection_device=""
        ),
    )
    running.mx.send_event(EXT, ConnectionClearedEvent(connection=ConnectionID(7, EXT)))
    delivered, cleared = await stream.when_events(2)
    assert delivered.data == (
        '{"callId":7,"deviceId":"3095","globalCallId":"","alertingDevice":"","callingDevice":"",'
        '"calledDevice":"","localConnectionInfo":"","cause":""}'
    )
    assert cleared.data == '{"callId":7,"deviceId":"3095","releasingDevice":"","cause":""}'


@pytest_twisted.ensureDeferred
async def test_other_call_events_come_under_their_own_names(daemon):
    """Calls that are held, recorded, transferred, parked or fail are told in the same style."""
    running = await daemon()
    running.mx.behaviour.service_initiated = running.mx.behaviour.network_reached = True
    stream = await running.open_stream(await running.log_in())
    running.mx.call_in(OUTSIDE, EXT)
    running.mx.answer(EXT)
    running.mx.hold(EXT)
    running.mx.retrieve(EXT)
    running.mx.record(EXT)
    running.mx.transfer(EXT, "3098")
    running.mx.call_in("12025550105", EXT)
    running.mx.answer(EXT)
    running.mx.park(EXT)
    running.mx.user_calls(EXT, "79031744446")
    running.mx.fail("79031744446")
    await stream.when_event("FailedEvent")
    expected = {
        "HeldEvent",
        "RetrievedEvent",
        "RecordingStateEvent",
        "TransferredEvent",
        "ParkedEvent",
        "ServiceInitiatedEvent",
        "NetworkReachedEvent",
        "FailedEvent",
    }
    assert expected <= set(stream.names)
    for event in stream.events:
        assert event.json["deviceId"] == EXT, event


@pytest_twisted.ensureDeferred
async def test_ids_increase(daemon):
    """Each event of an extension has a greater id than the one before, also in other streams."""
    running = await daemon()
    token = await running.log_in()
    first = await running.open_stream(token)
    ring(running, 20)
    await first.when_events(40)
    second = await running.open_stream(token)
    ring(running)
    await second.when_events(2)
    ids = [event.id for event in await first.when_events(42)]
    assert ids == sorted(set(ids))
    assert [event.id for event in second.events] == ids[-2:]


@pytest_twisted.ensureDeferred
async def test_ids_stay_unique_across_restarts(daemon):
    """A new daemon goes on with ids that the one before has not given."""
    first = await daemon()
    stream = await first.open_stream(await first.log_in())
    ring(first, 20)
    before = [event.id for event in await stream.when_events(40)]
    await first.stop()
    second = await daemon(simulator=first.mx)
    stream = await second.open_stream(await second.log_in())
    ring(second)
    after = [event.id for event in await stream.when_events(2)]
    assert min(after) > max(before)


@pytest_twisted.ensureDeferred
async def test_every_stream_of_an_extension_gets_the_same_bytes(daemon):
    """Two streams of one user hear the same; a stream of another user hears nothing of it."""
    running = await daemon()
    streams = [await running.open_stream(await running.log_in()) for _ in range(2)]
    other = await running.open_stream(await running.log_in("user3096", "secret3096"))
    ring(running)
    for stream in streams:
        await stream.when_events(2)
    assert streams[0].blocks[1:] == streams[1].blocks[1:]
    running.mx.call_in(OUTSIDE, "3096")
    (event,) = await other.when_events(1)
    assert event.json["deviceId"] == "3096"
    assert len(streams[0].events) == 2


# --- Heartbeat ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_quiet_stream_has_comments(daemon):
    """While nothing happens comment lines come; how often, tests/unit/test_stop.py counts."""
    running = await daemon(events={"heartbeat": 0.2})
    stream = await running.open_stream(await running.log_in())
    await stream.when(lambda: stream.comments >= 4)
    assert set(stream.blocks[1:]) == {b":"}


# --- Going on after an id -------------------------------------------------------------------------


def with_header(event_id):
    """Ask for what came after an id, as browsers do."""
    return {"headers": {"Last-Event-ID": str(event_id)}}


def with_query(event_id):
    """Ask for what came after an id in the URL."""
    return {"query": f"?lastEventId={event_id}"}


@pytest.mark.parametrize("asking", [with_header, with_query])
@pytest_twisted.ensureDeferred
async def test_a_client_that_comes_back_misses_nothing(daemon, asking):
    """Every kept event after the id comes, in order and none twice, then the live ones."""
    running = await daemon()
    token = await running.log_in()
    watcher = await running.open_stream(token)
    ring(running, 3)
    events = await watcher.when_events(6)
    for seen in range(6):
        stream = await running.open_stream(token, **asking(events[seen].id))
        await stream.when_events(5 - seen)
        assert stream.events == events[seen + 1 :]
        stream.abort()
    stream = await running.open_stream(token, **asking(events[3].id))
    ring(running)
    events = await watcher.when_events(8)
    await stream.when_events(4)
    assert stream.events == events[4:]
    assert stream.text.count(b"retry:") == 1


@pytest_twisted.ensureDeferred
async def test_a_client_cut_off_before_its_first_event_misses_nothing(daemon):
    """The id at the begin of a quiet stream is one to come back with."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    await stream.when(lambda: stream.blocks)
    last_id = stream.blocks[0].rpartition(b"id: ")[2].decode()
    stream.abort()
    ring(running)
    back = await running.open_stream(token, **with_header(last_id))
    await back.when_events(2)
    assert back.names == ["DeliveredEvent", "ConnectionClearedEvent"]


@pytest_twisted.ensureDeferred
async def test_the_header_goes_before_the_query(daemon):
    """Where both name an id, the header counts: an EventSource keeps its first URL for ever."""
    running = await daemon()
    token = await running.log_in()
    watcher = await running.open_stream(token)
    ring(running, 2)
    events = await watcher.when_events(4)
    stream = await running.open_stream(
        token, **with_header(events[2].id), **with_query(events[0].id)
    )
    ring(running)
    await stream.when_events(3)
    assert stream.events == (await watcher.when_events(6))[3:]


@pytest.mark.parametrize("event_id", ["1", "999999999999999999", "x", "-1", "9" * 40, "1.5"])
@pytest.mark.parametrize("asking", [with_header, with_query])
@pytest_twisted.ensureDeferred
async def test_an_unknown_id_begins_with_a_gap(daemon, asking, event_id):
    """An id that was never given makes the stream begin with `gap`, and live events follow."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token, **asking(event_id))
    ring(running)
    events = await stream.when_events(3)
    assert [e.name for e in events] == ["gap", "DeliveredEvent", "ConnectionClearedEvent"]
    assert events[0].json == {"reason": "unknown-id"}


@pytest_twisted.ensureDeferred
async def test_an_id_that_is_no_longer_kept_begins_with_a_gap(daemon):
    """When events after the id have gone, `gap` comes first, then all that are still kept."""
    running = await daemon(events={"history": 3})
    token = await running.log_in()
    watcher = await running.open_stream(token)
    ring(running, 4)
    events = await watcher.when_events(8)
    stream = await running.open_stream(token, **with_header(events[1].id))
    gap, *kept = await stream.when_events(4)
    since = timestamp(events[1].id / 1_000_000)
    assert (gap.name, gap.json) == ("gap", {"reason": "expired", "since": since})
    assert kept == events[5:]
    # The last one that went is still a good place to go on from.
    stream = await running.open_stream(token, **with_header(events[4].id))
    assert await stream.when_events(3) == events[5:]
    # So is the gap: whoever is cut off behind it gets the same once more.
    stream = await running.open_stream(token, **with_header(gap.id))
    assert await stream.when_events(3) == events[5:]


@pytest_twisted.ensureDeferred
async def test_an_id_from_before_a_restart_begins_with_a_gap(daemon):
    """A client that lived through a restart is told that it missed something, and gets the rest."""
    first = await daemon()
    stream = await first.open_stream(await first.log_in())
    ring(first)
    old = (await stream.when_events(2))[-1].id
    await first.stop()
    second = await daemon(simulator=first.mx)
    token = await second.log_in()
    watcher = await second.open_stream(token)
    ring(second)
    events = await watcher.when_events(2)
    stream = await second.open_stream(token, **with_header(old))
    gap, *rest = await stream.when_events(3)
    assert (gap.name, gap.json["reason"]) == ("gap", "unknown-id")
    assert rest == events


@pytest_twisted.ensureDeferred
async def test_history_of_zero_keeps_nothing(daemon):
    """With `events.history: 0` any id but the latest begins with a gap."""
    running = await daemon(events={"history": 0})
    token = await running.log_in()
    watcher = await running.open_stream(token)
    ring(running)
    first, last = await watcher.when_events(2)
    stream = await running.open_stream(token, **with_header(last.id))
    old = await running.open_stream(token, **with_header(first.id))
    await old.when_event("gap")
    ring(running)
    await stream.when_events(2)
    assert "gap" not in stream.names


# --- Who may listen -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((), 200),
        (("Accept: text/event-stream",), 200),
        (("Accept: */*",), 200),
        (("Accept: text/*;q=0.1",), 200),
        (("Accept: application/json, Text/Event-Stream",), 200),
        (("Accept: application/json", "Accept: text/event-stream", "Accept: text/html"), 200),
        (("Accept:",), 200),
        (("Accept: application/json",), 406),
        (("Accept: text/html, application/xml;q=0.9",), 406),
        (("Accept: text/event-stream;q=0",), 406),
        (("Accept: */*, text/event-stream;q=0.0",), 406),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_accept_without_event_streams_is_406(daemon, lines, status):
    """An `Accept` that excludes `text/event-stream` is 406; one that allows it, or none, is not."""
    running = await daemon()
    token = await running.log_in()
    connection = await running.connect()
    head = ["GET /api/events HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *lines]
    connection.send(("\r\n".join(head) + "\r\n\r\n").encode())
    await connection.when(lambda: b"\r\n\r\n" in connection.received)
    if status == 200:
        assert connection.received.startswith(b"HTTP/1.1 200 ")
    else:
        reply = await connection.read_reply()
        assert (reply.status, bool(reply.error)) == (406, True)


# --- How long a stream lives ----------------------------------------------------------------------


@pytest.mark.parametrize("end", ["drop", "reset", "force_logout"])
@pytest_twisted.ensureDeferred
async def test_a_stream_outlives_the_mx(daemon, end):
    """When the MX goes, the response stays; a `gap` says so once it is back, then calls go on."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    ring(running)
    await stream.when_events(2)
    getattr(running.mx, end)("Server")
    await running.when_down()
    if end == "force_logout":
        # After being thrown out the daemon waits for more than a minute.
        await running.come_back_now()
    await running.when_ready()
    await stream.when_event("gap")
    gap = stream.events[2]
    assert list(gap.json) == ["reason", "since"]
    assert gap.json["reason"] == "mx-down"
    assert running.mx.monitors(EXT) == 1
    ring(running)
    assert [event.name for event in await stream.when_events(5)] == [
        "DeliveredEvent",
        "ConnectionClearedEvent",
        "gap",
        "DeliveredEvent",
        "ConnectionClearedEvent",
    ]
    # The gap has its place among the events for whoever comes back.
    back = await running.open_stream(token, **with_header(stream.events[1].id))
    assert await back.when_events(3) == stream.events[2:]


@pytest_twisted.ensureDeferred
async def test_a_stream_may_be_opened_while_the_mx_is_down(daemon):
    """The extension stays monitored in intention, so the stream opens and waits for the MX."""
    running = await daemon()
    token = await running.log_in()
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    stream = await running.open_stream(token)
    assert stream.status == 200
    running.mx.accept_connections()
    await running.when_ready()
    ring(running)
    await stream.when_events(3)
    assert stream.names == ["gap", "DeliveredEvent", "ConnectionClearedEvent"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_cut_off(daemon):
    """Beyond `events.max_unsent` unsent bytes a stream is cut; another one hears everything."""
    running = await daemon(events={"max_unsent": 65536, "history": 10})
    token = await running.log_in()
    slow = await running.open_stream(token)
    await slow.when(lambda: slow.blocks)
    slow.pause()
    healthy = await running.open_stream(token)
    long_name = "x" * 30_000
    event = EstablishedEvent(connection=ConnectionID(7, EXT), answering_display_name=long_name)
    count = 0
    # What the kernel buffers on both sides differs between machines.
    while not any("cut off" in line for line in running.log.lines):
        assert count < 2000
        running.mx.send_event(EXT, event)
        count += 1
        await healthy.when_events(count)
    slow.resume()
    await slow.when_closed()
    assert len(slow.events) < count
    running.mx.send_event(EXT, event)
    await healthy.when_events(count + 1)
    assert not healthy.closed


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_leaves_nothing(daemon):
    """When clients go away their streams are forgotten, and the extension stays monitored."""
    running = await daemon()
    token = await running.log_in()
    streams = [await running.open_stream(token) for _ in range(5)]
    listening = running.service.getServiceNamed("streams")
    assert listening.count == 5
    for stream in streams:
        stream.abort()
    await running.when(lambda: listening.count == 0)
    assert running.mx.monitors(EXT) == 1


@pytest_twisted.ensureDeferred
async def test_the_end_of_the_daemon_ends_streams_in_order(daemon):
    """When the daemon stops, a stream ends as a whole response, and the MX is taken leave of."""
    running = await daemon()
    token = await running.log_in()
    connection = await running.connect()
    connection.send(
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
        % token.encode()
    )
    await connection.when(lambda: b"retry" in connection.received)
    stopped = running.later(running.stop_service())
    reply = await connection.read_reply()
    assert reply.status == 200
    await stopped
    assert len(running.mx.received("MonitorStop")) == 1
    # One of the person who logged in, one of the server connection.
    assert len(running.mx.received("logout")) == 2


@pytest_twisted.ensureDeferred
async def test_the_end_of_the_last_token_ends_the_monitor_but_not_the_stream(daemon):
    """An open stream goes on when its token ends; with the last stream the monitor goes, too."""
    running = await daemon(token={"lifetime": 1})
    token = await running.log_in()
    stream = await running.open_stream(token)
    await running.pause(1.1)
    assert (await running.get("/api/contacts", token=token)).status == 401
    assert running.mx.monitors(EXT) == 1
    ring(running)
    await stream.when_events(2)
    stream.abort()
    await running.soon(running.mx.when_command("MonitorStop"))
    assert running.mx.monitors(EXT) == 0
