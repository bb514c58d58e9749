"""An MX that may do anything while streams are open: they stay, are told, and go on."""

from __future__ import annotations

from datetime import datetime

import pytest
import pytest_twisted
from twisted.internet import reactor

from mxflex.mx.backoff import Backoff
from mxflex.simulator.faults import CommandFault
from mxflex.simulator.server import SimulatedMX
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import EstablishedEvent, LoggedOut, LoginFailed
from tests.integration.daemons import EXT
from tests.integration.victims import eventually, streams_of

OTHER_EXT = "3044"
OTHER = {"login": "user3044", "password": "secret3044"}


# --- What an MX may do ----------------------------------------------------------------------------
#
# Each makes trouble, and is done when the trouble has come to nothing several times; it gives what
# makes the MX well again.


async def drop(running, mx):
    """Close the connection."""
    mx.drop("Server")
    return lambda: None


async def reset(running, mx):
    """Reset it."""
    mx.reset("Server")
    return lambda: None


async def half_open(running, mx):
    """Swallow everything, as a network does that has lost its other half."""
    mx.faults.silent = True
    await running.when_down()

    def well():
        mx.faults.silent = False

    return well


async def refuse(running, mx):
    """Refuse TCP connections."""
    await mx.refuse_connections()
    mx.reset()
    await tries(running, 2)
    return mx.accept_connections


def before_tls(fault):
    """Let new connections come no further than TCP."""

    async def act(running, mx):
        setattr(mx.faults, fault, True)
        mx.drop()
        await tries(running, 2)
        return lambda: setattr(mx.faults, fault, False)

    act.__name__ = fault
    return act


def at(command, fault):
    """Let a command go wrong on every new connection."""

    async def act(running, mx):
        mx.faults.set(command, fault)
        mx.drop()
        if command == "MonitorStart" and not (fault.drop or fault.reset):
            # The link is up without it.
            await eventually(lambda: running.link.up and running.link.monitors.missing)
        else:
            await tries(running, 2)
        return lambda: mx.faults.clear(command)

    return act


async def send_away(running, mx):
    """End the session in order, as an MX does that shuts down."""
    mx.broadcast(LoggedOut(mode="normal"))
    return lambda: None


async def throw_out(running, mx):
    """End the session by force, as another client of the account makes it do."""
    mx.force_logout("Server")
    return lambda: None


async def throw_out_again(running, mx):
    """The same with every new session."""
    mx.faults.set("MonitorStartAb", CommandFault(raw=b'\0\0\0\x1f9999<Logout mode="forced"/>'))
    mx.drop()
    await tries(running, 2)
    return lambda: mx.faults.clear("MonitorStartAb")


TROUBLES = {
    "drop": drop,
    "reset": reset,
    "half open": half_open,
    "refuse": refuse,
    "hang in TLS": before_tls("hang_in_tls"),
    "close on connect": before_tls("close_on_connect"),
    "reset on connect": before_tls("reset_on_connect"),
    "never answer the login": at("loginRequest", CommandFault(ignored=True)),
    "refuse the login": at("loginRequest", CommandFault(answer=LoginFailed(code=1, text="no"))),
    "reset at the login": at("loginRequest", CommandFault(reset=True)),
    "answer the login late": at("loginRequest", CommandFault(delay=0.45)),
    "never answer MonitorStart": at("MonitorStart", CommandFault(ignored=True)),
    "start monitors without a word": at("MonitorStart", CommandFault(unanswered=True)),
    "answer MonitorStart late": at("MonitorStart", CommandFault(delay=0.45)),
    "drop at MonitorStart": at("MonitorStart", CommandFault(drop=True)),
    "never answer MonitorStartAb": at("MonitorStartAb", CommandFault(drop=True)),
    "send away": send_away,
    "throw out": throw_out,
    "throw out again and again": throw_out_again,
}


async def tries(running, count):
    """Wait until the link has tried so often, in vain, since now."""
    waits = running.link._waits
    kinds = (waits.lost, waits.refused, waits.thrown_out)
    wanted = sum(kind._tries for kind in kinds) + count
    await eventually(lambda: sum(kind._tries for kind in kinds) >= wanted)


async def start(daemon, **settings):
    """Start a daemon whose waits are short: their length is tested on a clock."""
    running = await daemon(mx={"timeout": 0.3, "keepalive": 1}, **settings)
    waits = running.link._waits
    waits.lost, waits.refused, waits.thrown_out = (Backoff(0.02, 0.1) for _ in range(3))
    return running


def event(number, ext=EXT):
    """Give an event that carries a number."""
    return EstablishedEvent(connection=ConnectionID(call_id=number, device_id=ext))


def told(stream):
    """Give the numbers of a stream's events, or `gap`."""
    return [each.json.get("callId", each.name) for each in stream.events]


def assert_gaps(stream, began):
    """Hold the gaps of a stream to their form: since when, and why."""
    gaps = [each.json for each in stream.events if each.name == "gap"]
    assert gaps
    for gap in gaps:
        assert gap["reason"] == "mx-down"
        assert began - 0.01 <= datetime.fromisoformat(gap["since"]).timestamp() <= reactor.seconds()


@pytest.mark.parametrize("name", TROUBLES)
@pytest_twisted.ensureDeferred
async def test_streams_go_on(daemon, name):
    """Whatever the MX does, open streams stay, hear of the gap, and of calls once it is well.

    What was there before comes once, and so does what comes afterwards; and no connection to the
    MX is left over.
    """
    running = await start(daemon)
    mx = running.mx
    token = await running.log_in()
    streams = [await running.open_stream(token) for _ in range(3)]
    mx.send_event(EXT, event(1))
    for stream in streams:
        await stream.when_events(1)
    began = reactor.seconds()
    make_well = await TROUBLES[name](running, mx)
    make_well()
    for stream in streams:
        await stream.when(lambda stream=stream: "gap" in told(stream) or stream.closed)
    await eventually(lambda: running.link.up and not running.link.monitors.missing)
    # There may be one whose start was never answered.
    assert mx.monitors(EXT) >= 1
    mx.send_event(EXT, event(2))
    for stream in streams:
        await stream.when(lambda stream=stream: 2 in told(stream) or stream.closed)
        assert not stream.closed
        numbers = [number for number in told(stream) if number != "gap"]
        assert numbers == [1, 2]
        assert told(stream)[0] == 1
        assert told(stream)[-1] == 2
        assert_gaps(stream, began)
    assert streams_of(running).count == 3
    await eventually(lambda: len(mx.connections) == 1 and not mx.door.unanswered)
    # Who comes in the middle goes on with the same.
    back = await running.open_stream(token, headers={"Last-Event-ID": str(streams[0].events[0].id)})
    await back.when(lambda: 2 in told(back))
    assert back.events == streams[0].events[1:]


@pytest_twisted.ensureDeferred
async def test_another_mx_at_the_same_place(daemon):
    """An MX that comes back knowing no monitor hands out other ids, in use before for others.

    Each stream goes on with the events of its own extension.
    """
    running = await start(daemon)
    old = running.mx
    # Monitors are started again in the order of the extensions, which is not this one.
    tokens = {EXT: await running.log_in(), OTHER_EXT: await running.log_in(**OTHER)}
    streams = {ext: await running.open_stream(token) for ext, token in tokens.items()}
    (before,) = [session.monitors for session in old.sessions if session.type == "Server"]
    new = SimulatedMX(reactor, first_call_id=7_000)
    _, port = old.address
    await old.stop()
    await new.listen(port)
    try:
        for stream in streams.values():
            await stream.when_event("gap")
        (after,) = [session.monitors for session in new.sessions if session.type == "Server"]
        # This is what it is about: an id of one is now an id of the other.
        assert {before[monitor] for monitor in after} == set(streams)
        assert all(before[monitor] != ext for monitor, ext in after.items())
        for number, ext in enumerate(streams, 10):
            new.send_event(ext, event(number, ext))
        for number, stream in enumerate(streams.values(), 10):
            await stream.when_events(2)
            assert told(stream) == ["gap", number]
        # Calls of the MX before are no calls any more.
        for token in tokens.values():
            assert (await running.get("/api/calls", token=token)).json["calls"][0]["callId"] >= 10
    finally:
        await running.stop_service()
        await new.stop()
