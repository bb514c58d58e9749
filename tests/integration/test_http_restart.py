"""Streams over a restart with `token.key`: the old tokens go on, and their monitors start again."""

from __future__ import annotations

import pytest
import pytest_twisted

from mxflex.simulator.faults import CommandFault
from mxflex.wire.messages import CSTAError
from tests.integration.daemons import EXT
from tests.integration.raw_http import request_bytes

OUTSIDE = "12025550104"
KEY = "k" * 40
WITH_KEY = {"token": {"key": KEY}}


def ring(running):
    """Let the extension ring and give up: two events."""
    running.mx.call_in(OUTSIDE, EXT)
    running.mx.hang_up(OUTSIDE)


@pytest.fixture
def restarted(daemon):
    """Give a function that restarts a daemon behind its MX; the first one's MX must be at rest."""

    async def restart(first, **settings):
        await first.stop()
        first.mx.accept_connections()
        return await daemon(simulator=first.mx, **{**WITH_KEY, **settings})

    return restart


@pytest_twisted.ensureDeferred
async def test_a_client_goes_on_over_a_restart(daemon, restarted):
    """The old token opens a stream: `gap` for what is not kept, then live events, one monitor."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    stream = await first.open_stream(token)
    ring(first)
    last_id = (await stream.when_events(2))[-1].id
    second = await restarted(first)
    assert second.mx.monitors(EXT) == 0
    streams = [
        await second.open_stream(token, headers={"Last-Event-ID": str(last_id)}) for _ in range(3)
    ]
    assert second.mx.monitors(EXT) == 1
    ring(second)
    for stream in streams:
        gap, *rest = await stream.when_events(3)
        assert (gap.name, gap.json) == ("gap", {"reason": "unknown-id"})
        assert [event.name for event in rest] == ["DeliveredEvent", "ConnectionClearedEvent"]
        assert all(event.id > last_id for event in [gap, *rest])


@pytest_twisted.ensureDeferred
async def test_the_calls_are_known_again(daemon, restarted):
    """`/api/calls` tells of a call that began before the restart."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    first.mx.call_in(OUTSIDE, EXT)
    second = await restarted(first)
    await second.open_stream(token)
    # One of each daemon.
    await second.soon(second.mx.when_command("SnapshotDevice", 2))

    async def when_told():
        while True:
            reply = await second.get("/api/calls", token=token)
            if [call["state"] for call in reply.json["calls"]] == ["alerting"]:
                return
            await second.pause(0.01)

    await second.later(when_told())


@pytest_twisted.ensureDeferred
async def test_the_mx_is_down(daemon, restarted):
    """The stream opens at once; once the MX is back a gap says so, and the calls come."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    await first.stop()
    await first.mx.refuse_connections()
    second = await daemon(simulator=first.mx, ready=False, **WITH_KEY)
    stream = await second.open_stream(token, headers={"Last-Event-ID": "1"})
    assert stream.status == 200
    await stream.when_event("gap")
    assert not second.link.up
    second.mx.accept_connections()
    await second.when_ready()
    ring(second)
    unknown, down, *rest = await stream.when_events(4)
    assert [unknown.json["reason"], down.json["reason"]] == ["unknown-id", "mx-down"]
    assert [event.name for event in rest] == ["DeliveredEvent", "ConnectionClearedEvent"]


@pytest_twisted.ensureDeferred
async def test_the_mx_refuses(daemon, restarted):
    """Without a monitor 503 with `Retry-After`, nothing is left, and the next try may work."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    second = await restarted(first)
    refused = CommandFault(answer=CSTAError(text="licence exhausted"), times=1)
    second.mx.faults.set("MonitorStart", refused)
    reply = await (await second.open_stream(token)).reply()
    assert reply.status == 503
    assert reply.error == "the monitor of this extension cannot be started"
    assert int(reply.header("retry-after")) > 0
    assert second.link.monitors.wanted == frozenset()
    stream = await second.open_stream(token)
    ring(second)
    await stream.when_events(2)


@pytest_twisted.ensureDeferred
async def test_a_logout_holds_until_a_restart(daemon, restarted):
    """After the logout 403; a restart, which forgets everything, forgets that, too."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    second = await restarted(first)
    await (await second.open_stream(token)).when(lambda: True)
    await second.get("/api/logout", token=token)
    reply = await (await second.open_stream(token)).reply()
    assert (reply.status, reply.error) == (403, "not monitored")
    third = await restarted(second)
    assert (await third.open_stream(token)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_it_waits(daemon, restarted):
    """It leaves no monitor behind, and is no error."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    second = await restarted(first)
    second.mx.faults.set("MonitorStart", CommandFault(delay=0.2, times=1))
    connection = await second.connect()
    connection.send(request_bytes("GET", "/api/events", f"Authorization: Bearer {token}"))
    # The first of each were those of the first daemon.
    await second.soon(second.mx.when_command("MonitorStart", 2))
    connection.abort()
    await second.soon(second.mx.when_command("MonitorStop", 2))
    assert second.mx.monitors(EXT) == 0
    assert second.link.monitors.wanted == frozenset()
    await second.when(lambda: any("client gone" in line for line in second.log.of("mxflex.access")))
