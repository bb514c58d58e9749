"""The fixture itself: a daemon starts, serves a call's event, and stops."""

from __future__ import annotations

import pytest_twisted

from tests.integration.daemons import EXT


@pytest_twisted.ensureDeferred
async def test_a_call_reaches_a_stream(daemon):
    """The three paths meet: a login, an event of the MX, and its arrival at the client."""
    running = await daemon()
    stream = await running.open_stream(await running.log_in())
    running.mx.call_in("+12025550104", EXT)
    await stream.when_event("DeliveredEvent")
