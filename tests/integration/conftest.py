"""The fixture `daemon`: builds whole daemons, each with a simulated MX, and leaves nothing behind.

    async def test_something(daemon):
        running = await daemon(events={"heartbeat": 0.2})
        token = await running.log_in()
        reply = await running.get("/api/contacts", token=token)

Nothing here acts on tests that do not ask for it.
"""

from __future__ import annotations

import pytest_twisted
from twisted.internet import reactor

from mxflex.simulator.demo import SCENARIO, SCENARIO_NAME
from mxflex.simulator.scenario import load
from mxflex.simulator.tap import SimulatorService
from tests.integration.control import Control
from tests.integration.daemons import Daemons
from tests.integration.h2client import start_secure
from tests.integration.leftovers import Leftovers


@pytest_twisted.async_yield_fixture
async def daemon(tmp_path):
    """Give the builder of running daemons; see `tests.integration.daemons.Daemons.start`.

    After the test everything is stopped, and whatever the reactor still holds then, of sockets and
    delayed calls, fails the test.
    """
    leftovers = Leftovers(reactor)
    daemons = Daemons(reactor, tmp_path)
    yield daemons.start
    await daemons.stop()
    await leftovers.check()


@pytest_twisted.async_yield_fixture
async def secure(daemon, tmp_path):
    """Give the builder of daemons on HTTPS; see `tests.integration.h2client.SecureDaemon`."""
    started = []

    async def start(**settings):
        started.append(await start_secure(daemon, tmp_path, **settings))
        return started[-1]

    yield start
    for each in started:
        each.stop_clients()


@pytest_twisted.async_yield_fixture
async def control():
    """Give a quiet MX with the built-in company, ruled over HTTP."""
    scenario = load(SCENARIO, SCENARIO_NAME).quiet()
    service = SimulatorService(reactor, scenario, control="tcp:0")
    service.startService()
    yield Control(service)
    await service.stopService()
