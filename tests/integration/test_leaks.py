"""Whoever comes and goes, in whatever way, leaves nothing: no object, no timer, no socket."""

from __future__ import annotations

import gc
import os
from collections import Counter
from itertools import pairwise

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogBeginner

from mxflex.web.eventstream import EventStreams
from tests.churn import PLAIN_WAYS, SECURE_WAYS, Churn
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.victims import eventually, served, turn

# Clients that come side by side, and how often so many do.
CLIENTS = 3
WAVES = 4
# A timer that was cancelled stays in the reactor's heap until many were; what it would have done is
# gone at once, and what its methods are bound to is counted of itself.
LAZY = {"twisted.internet.base.DelayedCall", "builtins.method"}
# What the test itself keeps: one for each look.
OWN = {"collections.Counter"}
# Where what makes up a connection to a client is from.
OF_CONNECTIONS = ("mxflex.web.", "mxflex.certs.", "twisted.protocols.", "h2.", "ssl.", "_ssl.")
# Klein makes functions for each request it routes, which hold the request and each other.
ROUTED_BY_KLEIN = {"HEAD": {"mxflex.web.site.Request", "mxflex.web.secure.SecureRequest"}}


class Observer:
    """Looks at what the process holds on behalf of a daemon.

    Args:
        running: The daemon, in this process.
    """

    def __init__(self, running):
        self._running = running
        self._hub = running.service.getServiceNamed(EventStreams.name)._sessions._hub

    def settled(self):
        """Tell whether every client has been noticed to be gone."""
        streams = self._running.service.getServiceNamed(EventStreams.name)
        return not streams.count and not self._hub.listeners(EXT) and not served(self._running)

    def held(self):
        """Give what is held, by name: objects of each type, timers, sockets."""
        self._forget_what_the_test_keeps()
        gc.collect()
        held = Counter(name_of(each) for each in gc.get_objects())
        for name in LAZY | OWN:
            del held[name]
        held["timers"] = len(reactor.getDelayedCalls())
        held["sockets"] = len({*reactor.getReaders(), *reactor.getWriters()})
        held["file descriptors"] = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone
        return held

    def _forget_what_the_test_keeps(self):
        # The log, which waits for twistd to say where it goes, and the simulated MX remember all.
        globalLogBeginner._initialBuffer._buffer.clear()
        mx = self._running.mx
        del self._running.log.lines[:], mx.commands[:], mx.logins[1:]


@pytest.fixture
def churn(daemon, secure):
    """Give the builder of a daemon and of those who come and go there."""

    async def start(*, tls):
        # A short history is soon as full as it gets.
        events = {"history": 4}
        running = (await secure(events=events)).running if tls else await daemon(events=events)
        churn = await deferToThread(
            Churn, running.ports[0], secure=tls, login=LOGIN, password=PASSWORD
        )
        return running, churn

    return start


def in_every_way(test):
    """Let a test see clients come and go in each way there is."""
    ways = [(False, way.name) for way in PLAIN_WAYS] + [(True, way.name) for way in SECURE_WAYS]
    return pytest.mark.parametrize(("tls", "name"), ways)(test)


def name_of(each):
    """Name an object's type in full."""
    return f"{type(each).__module__}.{type(each).__qualname__}"


@in_every_way
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(churn, tls, name):
    """Clients that come and go leave as much of everything as was there before them."""
    running, clients = await churn(tls=tls)
    (way,) = [way for way in clients.ways if way.name == name]
    observer = Observer(running)

    async def come_and_go():
        await deferToThread(way.run, clients, CLIENTS)
        await eventually(observer.settled)
        # What was put off to the next turn, or the one after it, is done.
        for _ in range(3):
            await turn()
        return observer.held()

    # What is made once, is made the first time; by the look, too.
    looks = [await come_and_go() for _ in range(2 + WAVES)][1:]
    # A few objects more or less are at work at any moment, such as those of one more thread. What a
    # client leaves, or a wave of clients, is left by each wave.
    steps = [after - before for before, after in pairwise(looks)]
    left = {name: count for name, count in steps[-1].items() if all(step[name] for step in steps)}
    assert left == {}


@pytest.fixture
def collecting():
    """Give what stops the garbage collector, and then tells what it would have found."""

    def stop():
        gc.collect()
        gc.disable()
        return found

    def found():
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            return Counter(name_of(each) for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    yield stop
    gc.enable()


@in_every_way
@pytest_twisted.ensureDeferred
async def test_the_garbage_collector_is_not_needed(churn, collecting, tls, name):
    """A connection that is lost is freed at once, with all that was made for it.

    What waits for the collector of reference cycles lies among what stays, and makes the process
    grow though nothing leaks.
    """
    running, clients = await churn(tls=tls)
    (way,) = [way for way in clients.ways if way.name == name]
    observer = Observer(running)
    found = collecting()
    await deferToThread(way.run, clients, CLIENTS)
    await eventually(observer.settled)
    for _ in range(3):
        await turn()
    needed = {kind for kind in found() if kind.startswith(OF_CONNECTIONS)}
    assert needed - ROUTED_BY_KLEIN.get(name, set()) == set()
