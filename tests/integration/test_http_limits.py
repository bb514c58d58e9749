"""How many event streams may be open, who is told what, and that ended ones make room."""

from __future__ import annotations

import pytest_twisted

from mxflex.simulator.faults import CommandFault
from mxflex.web.eventstream import EventStreams
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import CSTAError, EstablishedEvent
from tests.integration.daemons import EXT
from tests.integration.raw_http import request_bytes

KEY = "k" * 40
TOKEN_FULL = "too many event streams with this token"
ADDRESS_FULL = "too many event streams from this address"
SERVER_FULL = "too many event streams on this server"
LONG_EVENT = EstablishedEvent(connection=ConnectionID(7, EXT), answering_display_name="x" * 30_000)


def streams_of(running):
    return running.service.getServiceNamed(EventStreams.name)


def is_empty(running):
    """Tell whether no stream is counted any more, in whatever way."""
    streams = streams_of(running)
    admission = streams._admission
    counted = (admission.open, admission._of_token, admission._of_network, streams.count)
    return counted == (0, {}, {}, 0)


async def refused(running, token, status, sentence, **kwargs):
    """Hold a stream that is asked for to a refusal."""
    reply = await (await running.open_stream(token, **kwargs)).reply()
    assert (reply.status, reply.error) == (status, sentence)
    assert int(reply.header("retry-after")) > 0


@pytest_twisted.ensureDeferred
async def test_streams_with_one_token(daemon):
    """One more than `events.max_per_token` is 429; another token is not hurt, an end makes room."""
    running = await daemon(events={"max_per_token": 3})
    token = await running.log_in()
    streams = [await running.open_stream(token) for _ in range(3)]
    await refused(running, token, 429, TOKEN_FULL)
    # The query is no way around it.
    await refused(running, None, 429, TOKEN_FULL, query=f"?access_token={token}")
    other = await running.log_in("user3096", "secret3096")
    assert (await running.open_stream(other)).status == 200
    streams[0].abort()
    await running.when(lambda: streams_of(running).ended == 1)
    assert (await running.open_stream(token)).status == 200
    await refused(running, token, 429, TOKEN_FULL)
    # The others hear of calls as ever.
    running.mx.call_in("12025550104", EXT)
    await streams[1].when_event("DeliveredEvent")
    assert streams_of(running).refused["max_per_token"] == 3


@pytest_twisted.ensureDeferred
async def test_streams_from_one_address(daemon):
    """One more than `events.max_per_address` is 429; behind a known proxy the client's counts."""
    running = await daemon(events={"max_per_address": 2}, proxies=["127.0.0.1"])
    tokens = [await running.log_in(), await running.log_in("user3096", "secret3096")]

    def behind(address):
        return {"headers": {"X-Forwarded-For": address}}

    for token in tokens:
        assert (await running.open_stream(token, **behind("2001:db8::1"))).status == 200
    # A /64 counts as one address.
    await refused(running, tokens[0], 429, ADDRESS_FULL, **behind("2001:db8::2"))
    await refused(running, tokens[1], 429, ADDRESS_FULL, **behind("198.51.100.1, 2001:db8::3"))
    assert (await running.open_stream(tokens[0], **behind("2001:db8:0:1::1"))).status == 200
    assert (await running.open_stream(tokens[0])).status == 200


@pytest_twisted.ensureDeferred
async def test_an_unknown_proxy_is_one_address(daemon):
    """Without `proxies` an invented `X-Forwarded-For` gives no more streams."""
    running = await daemon(events={"max_per_address": 1})
    token = await running.log_in()
    await running.open_stream(token)
    await refused(running, token, 429, ADDRESS_FULL, headers={"X-Forwarded-For": "192.0.2.1"})


@pytest_twisted.ensureDeferred
async def test_streams_in_all(daemon):
    """One more than `events.max_streams` is 503, whoever asks; other requests are answered."""
    running = await daemon(events={"max_streams": 2})
    token = await running.log_in()
    other = await running.log_in("user3096", "secret3096")
    streams = [await running.open_stream(token), await running.open_stream(other)]
    await refused(running, other, 503, SERVER_FULL)
    assert (await running.get("/api/contacts", token=token)).status == 200
    streams[0].abort()
    await running.when(lambda: streams_of(running).ended == 1)
    assert (await running.open_stream(other)).status == 200


@pytest_twisted.ensureDeferred
async def test_limits_in_http2(secure):
    """Streams of one HTTP/2 connection count like all others."""
    server = await secure(events={"max_per_token": 5})
    client = await server.connect()
    token = await client.log_in()
    streams = [await client.open_stream(token) for _ in range(5)]
    answer = await client.ask("GET", "/api/events", token=token)
    assert (answer.status, answer.error) == (429, TOKEN_FULL)
    assert int(answer.headers["retry-after"]) > 0
    client.conn.reset_stream(client.id_of(streams[0]))
    client.flush()
    await server.when(lambda: streams_of(server.running).ended == 1)
    assert (await client.open_stream(token)).status == 200
    client.abort()
    await server.when(lambda: is_empty(server.running))


@pytest_twisted.ensureDeferred
async def test_the_count_is_right_whatever_happens(daemon):
    """Streams that end, are cut off, refused, or whose clients leave early are counted no more."""
    first = await daemon(token={"key": KEY})
    token = await first.log_in()
    await first.stop()
    # One at a time: whatever is counted too long refuses the next.
    events = {"max_per_token": 1, "max_unsent": 65_536, "history": 1}
    running = await daemon(simulator=first.mx, token={"key": KEY}, events=events)
    streams = streams_of(running)
    # The MX refuses the monitor.
    refusal = CommandFault(answer=CSTAError(text="no"), times=1)
    running.mx.faults.set("MonitorStart", refusal)
    assert (await (await running.open_stream(token)).reply()).status == 503
    assert is_empty(running)
    # The client leaves while the MX takes its time; meanwhile its stream counts.
    running.mx.faults.set("MonitorStart", CommandFault(delay=0.2, times=1))
    connection = await running.connect()
    connection.send(request_bytes("GET", "/api/events", f"Authorization: Bearer {token}"))
    await running.when(lambda: streams._admission.open == 1)
    await refused(running, token, 429, TOKEN_FULL)
    connection.abort()
    await running.when(lambda: is_empty(running))
    assert (streams.opened, streams.ended) == (0, 0)
    # It is no stream at all.
    assert (await running.get("/api/events?topics=x", token=token)).status == 400
    # The client goes, in order and not.
    (await running.open_stream(token)).abort()
    await running.when(lambda: is_empty(running))
    connection = await running.connect()
    connection.send(request_bytes("GET", "/api/events", f"Authorization: Bearer {token}"))
    await connection.when(lambda: b"retry" in connection.received)
    connection.abort()
    await running.when(lambda: is_empty(running))
    # It does not read.
    stream = await running.open_stream(token)
    stream.pause()

    def is_cut_off():
        running.mx.send_event(EXT, LONG_EVENT)
        return streams.cut_off == 1

    await running.when(is_cut_off)
    stream.resume()
    assert is_empty(running)
    # The user logs out.
    stream = await running.open_stream(token)
    await running.get("/api/logout", token=token)
    await stream.when_closed()
    assert is_empty(running)
    assert (await (await running.open_stream(token)).reply()).status == 403
    assert is_empty(running)
    # The daemon ends.
    again = await running.log_in()
    stream = await running.open_stream(again)
    await running.stop_service()
    await stream.when_closed()
    assert is_empty(running)
    assert (streams.opened, streams.ended, streams.cut_off) == (5, 5, 1)
    told = [line for line in running.log.lines if "does not read its event stream" in line]
    assert len(told) == 1
