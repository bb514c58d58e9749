"""Streams over a restart with `token.key`: the old tokens go on, and their monitors start again."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from mxflex.simulator.company import example_users
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


async def is_let_in(running, token):
    """Tell whether a token opens a stream; it can be renewed then, and not otherwise."""
    stream = await running.open_stream(token)
    renewal = await running.post("/api/token", token=token)
    if stream.status == 200:
        assert renewal.status == 200
        return True
    reply = await stream.reply()
    assert (reply.status, reply.error) == (403, "not monitored")
    assert (renewal.status, renewal.error) == (403, "not monitored")
    return False


@pytest_twisted.ensureDeferred
async def test_a_logout_holds_over_restarts(daemon, restarted):
    """No token from before it opens a stream or is renewed, until the user logs in; others do."""
    first = await daemon(**WITH_KEY)
    token, other = await first.log_in(), await first.log_in("user3096", "secret3096")
    renewed = (await first.post("/api/token", token=token)).json["access_token"]
    assert (await first.get("/api/logout", token=token)).status == 204
    second = await restarted(first)
    assert not await is_let_in(second, token)
    assert not await is_let_in(second, renewed)
    assert await is_let_in(second, other)
    assert second.mx.monitors(EXT) == 0
    # They stay good for the rest.
    assert (await second.get("/api/contacts", token=token)).status == 200
    assert (await second.get("/api/logout", token=token)).status == 204
    third = await restarted(second)
    assert not await is_let_in(third, token)
    fresh = await third.log_in()
    assert await is_let_in(third, token)
    fourth = await restarted(third)
    assert await is_let_in(fourth, fresh)
    assert await is_let_in(fourth, token)


@pytest_twisted.ensureDeferred
async def test_the_file_of_logouts(daemon):
    """It is for MXFlex alone, says who and when, and holds neither tokens nor keys."""
    running = await daemon(**WITH_KEY)
    token = await running.log_in()
    path = Path(running.config.token.storage)
    assert not path.exists()
    before = int(running.seconds())
    await running.get("/api/logout", token=token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ((ext, at),) = json.loads(path.read_bytes())["logged_out"].items()
    assert ext == EXT
    assert before <= at <= running.seconds()
    assert not any(part in path.read_text() for part in (KEY, *token.split(".")))
    # Nothing else lies about.
    assert {each.name for each in path.parent.iterdir()} == {"html", path.name}


@pytest_twisted.ensureDeferred
async def test_many_logouts_at_once(daemon, restarted):
    """Each of them has been answered when it was kept."""
    first = await daemon(**WITH_KEY)
    tokens = [await first.log_in(user.login, user.password) for user in example_users()]
    leaving = [first.later(first.get("/api/logout", token=each)) for each in tokens]
    assert [reply.status for reply in await gatherResults(leaving)] == [204] * len(tokens)
    second = await restarted(first)
    assert [await is_let_in(second, each) for each in tokens] == [False] * len(tokens)


@pytest_twisted.ensureDeferred
async def test_without_a_key_nothing_is_kept(daemon):
    """Tokens end with the process, so that there is nothing to remember."""
    running = await daemon(token={"lifetime": 600})
    await running.get("/api/logout", token=await running.log_in())
    assert not Path(running.config.token.storage).exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b'{"version": 1, "logged_out": {"3095"'])
@pytest_twisted.ensureDeferred
async def test_a_damaged_file(daemon, restarted, content):
    """It is set aside, the log says what that means, all else goes on, and so do logouts."""
    first = await daemon(**WITH_KEY)
    token = await first.log_in()
    await first.get("/api/logout", token=token)
    path = Path(first.config.token.storage)
    path.write_bytes(content)
    second = await restarted(first)
    (line,) = second.log.of("mxflex.gateway.logouts")
    assert " error " in line
    assert f"{path} is damaged and was moved to {path.name}.damaged; who logged out before" in line
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content
    assert await is_let_in(second, token)
    await second.get("/api/logout", token=token)
    third = await restarted(second)
    assert not await is_let_in(third, token)


@pytest_twisted.ensureDeferred
async def test_a_place_that_cannot_be_written(daemon, tmp_path):
    """The logout is answered 204 and holds while the daemon runs; the log has an error."""
    storage = tmp_path / "none" / "logouts.json"
    running = await daemon(token={"key": KEY, "storage": str(storage)})
    token = await running.log_in()
    assert (await running.get("/api/logout", token=token)).status == 204
    assert not await is_let_in(running, token)
    (line,) = running.log.of("mxflex.gateway.logouts")
    assert f"{storage} cannot be written: No such file or directory; a restart now forgets" in line
    # What could not be written is written by the next one, or as the daemon ends.
    storage.parent.mkdir()
    await running.stop_service()
    assert EXT in json.loads(storage.read_bytes())["logged_out"]


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
