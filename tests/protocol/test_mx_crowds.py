"""Many at once: what waits in line must neither be lost nor bring the line to a halt."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mxflex.errors import LoginRefused, MXTimeout, MXUnavailable
from mxflex.mx.link import ServerLink
from mxflex.mx.verify import LoginCheck
from mxflex.wire.messages import LoginFailed, LoginRequest, MonitorStart, MonitorStop
from tests.protocol.memory_mx import TIMEOUT, MemoryDialer, Network, outcome_of, run

# More than the stack is deep, with a few frames for each.
CROWD = 600


@pytest.fixture
def network():
    return Network(Clock())


@pytest.fixture
def link(network):
    """Give a link that is up, and stopped after the test."""
    link = ServerLink(network.clock, MemoryDialer(network), "mxflex", "secret")
    link.startService()
    run(network.clock, 2)
    yield link
    link.stopService()
    run(network.clock, 10)


def starting(link, ext):
    return outcome_of(Deferred.fromCoroutine(link.monitors.start(ext)))


def test_a_link_lost_while_hundreds_of_monitors_are_restored(network, link):
    """However many monitors were to be restored, the link comes back, and they all with it."""
    outcomes = [starting(link, f"{n}") for n in range(CROWD)]
    run(network.clock, 5)
    assert outcomes == [[None]] * CROWD
    start = network.habits[MonitorStart]
    network.habits[MonitorStart] = None
    network.peer.end()
    run(network.clock, 4)
    assert len(network.peers) == 2
    network.peer.end()
    network.habits[MonitorStart] = start
    run(network.clock, 30)
    assert link.up
    assert link.monitors.missing == frozenset()


def test_hundreds_of_starts_of_one_extension(network, link):
    """However many log in as one user behind a slow MX, all get their answer."""
    network.habits[MonitorStart] = None
    outcomes = [starting(link, "3095") for _ in range(CROWD)]
    run(network.clock, 1)
    network.peer.end()
    run(network.clock, 2)
    assert all(isinstance(outcome[0], MXUnavailable) for outcome in outcomes)
    del network.habits[MonitorStart]
    network.habits[MonitorStart] = network._start_monitor
    run(network.clock, 30)
    again = starting(link, "3095")
    run(network.clock, 2)
    assert again == [None]


def test_a_monitor_that_comes_too_late_is_stopped(network, link):
    """A monitor whose start was given up is stopped when the MX tells of it after all."""
    held = []
    network.habits[MonitorStart] = lambda peer, received: held.append(received)
    outcome = starting(link, "3095")
    run(network.clock, TIMEOUT + 1)
    assert isinstance(outcome[0], MXTimeout)
    network._start_monitor(network.peer, held[0])
    run(network.clock, 1)
    stops = [r.command for r in network.peer.received if isinstance(r.command, MonitorStop)]
    assert stops == [MonitorStop(monitor="1")]
    assert link.monitors.monitor_of("3095") is None


def test_hundreds_of_refused_logins(network):
    """However many wrong passwords come at once, each has its answer and every place is left."""
    network.habits[LoginRequest] = lambda peer, received: peer.reply(
        received.invoke_id, LoginFailed(code=1, text="no")
    )
    check = LoginCheck(MemoryDialer(network), parallel=4, queue=CROWD)
    outcomes = [
        outcome_of(Deferred.fromCoroutine(check.verify("anna", "x", nullcontext())))
        for _ in range(CROWD)
    ]
    for _ in range(CROWD):
        run(network.clock, 1)
        if all(outcomes):
            break
    assert all(isinstance(outcome[0], LoginRefused) for outcome in outcomes)
    assert check._places.unused
    run(network.clock, 10)
    assert network.open == []
