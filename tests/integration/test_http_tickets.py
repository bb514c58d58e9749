"""Tickets: what opens an event stream instead of a token in its URL."""

from __future__ import annotations

import pytest
import pytest_twisted

from mxflex.gateway.tickets import MAX_OF_PERSON
from tests.integration.daemons import EXT

OUTSIDE = "12025550104"
INVALID = 'Bearer realm="MXFlex", error="invalid_token"'


async def get_ticket(running, token):
    """Ask for a ticket and give its text."""
    reply = await running.post("/api/ticket", token=token)
    assert reply.status == 200
    return reply.json["ticket"]


async def refuses(running, query):
    """Tell whether a stream is refused as it is for a ticket that is not good."""
    reply = await (await running.open_stream(None, query=query)).reply()
    assert reply.error == "the ticket is not valid, or has been used"
    return (reply.status, reply.header("www-authenticate")) == (401, INVALID)


@pytest_twisted.ensureDeferred
async def test_a_ticket_opens_one_stream(daemon):
    """It opens the stream of its user, who hears of calls; the second time it is 401."""
    running = await daemon(token={"in_url": False})
    token = await running.log_in()
    reply = await running.post("/api/ticket", token=token)
    assert reply.status == 200
    assert list(reply.json) == ["ticket", "expires_in"]
    assert reply.json["expires_in"] == 30
    assert reply.header("cache-control") == "no-store"
    query = f"?ticket={reply.json['ticket']}"
    stream = await running.open_stream(None, query=query)
    assert stream.status == 200
    running.mx.call_in(OUTSIDE, EXT)
    await stream.when_event("DeliveredEvent")
    assert await refuses(running, query)


@pytest_twisted.ensureDeferred
async def test_it_goes_on_where_the_last_stream_was(daemon):
    """With `lastEventId` and `topics` beside the ticket the stream is as any other."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(None, query=f"?ticket={await get_ticket(running, token)}")
    running.mx.call_in(OUTSIDE, EXT)
    first = await stream.when_event("DeliveredEvent")
    stream.abort()
    running.mx.hang_up(OUTSIDE)
    ticket = await get_ticket(running, token)
    query = f"?ticket={ticket}&lastEventId={first.id}&topics=calls,status"
    stream = await running.open_stream(None, query=query)
    await stream.when_event("status")
    assert await stream.when_event("ConnectionClearedEvent")
    assert "gap" not in stream.names


@pytest.mark.parametrize("ticket", ["x", "a" * 43, "%20", "a.b.c", "%01", "a" * 4097])
@pytest_twisted.ensureDeferred
async def test_a_ticket_that_is_none(daemon, ticket):
    """What is no ticket is 401 that says `invalid_token`."""
    running = await daemon(ready=False)
    assert await refuses(running, f"?ticket={ticket}")


@pytest_twisted.ensureDeferred
async def test_a_ticket_is_used_by_whatever_is_refused(daemon):
    """One that was shown is used, though the request was refused for another reason."""
    running = await daemon()
    ticket = await get_ticket(running, await running.log_in())
    reply = await (await running.open_stream(None, query=f"?ticket={ticket}&topics=x")).reply()
    assert reply.status == 400
    assert await refuses(running, f"?ticket={ticket}")


@pytest_twisted.ensureDeferred
async def test_what_counts_beside_a_ticket(daemon):
    """A token in the header goes before a ticket and leaves it unused; one in the URL does not."""
    running = await daemon()
    token = await running.log_in()
    ticket = await get_ticket(running, token)
    assert (await running.open_stream(token, query=f"?ticket={ticket}")).status == 200
    assert (await running.open_stream(None, query=f"?ticket={ticket}")).status == 200
    assert await refuses(running, f"?ticket={ticket}&access_token={token}")
    assert (await running.open_stream(None, query=f"?ticket=&access_token={token}")).status == 200
    reply = await running.get(f"/api/events?ticket={ticket}&ticket={ticket}")
    assert reply.status == 400


@pytest_twisted.ensureDeferred
async def test_a_ticket_opens_nothing_else(daemon):
    """Only streams take tickets."""
    running = await daemon()
    ticket = await get_ticket(running, await running.log_in())
    reply = await running.get(f"/api/contacts?ticket={ticket}")
    assert (reply.status, reply.error) == (401, "access token required")
    assert (await running.open_stream(None, query=f"?ticket={ticket}")).status == 200


@pytest_twisted.ensureDeferred
async def test_after_a_logout(daemon):
    """A ticket from before a logout opens no stream, as its token does not."""
    running = await daemon()
    token = await running.log_in()
    ticket = await get_ticket(running, token)
    await running.post("/api/logout", token=token)
    reply = await (await running.open_stream(None, query=f"?ticket={ticket}")).reply()
    assert (reply.status, reply.error) == (403, "not monitored")


@pytest_twisted.ensureDeferred
async def test_streams_by_ticket_count_as_their_tokens(daemon):
    """A ticket is no way around `events.max_per_token`."""
    running = await daemon(events={"max_per_token": 1})
    token = await running.log_in()
    ticket = await get_ticket(running, token)
    assert (await running.open_stream(token)).status == 200
    reply = await (await running.open_stream(None, query=f"?ticket={ticket}")).reply()
    assert (reply.status, reply.error) == (429, "too many event streams with this token")


@pytest_twisted.ensureDeferred
async def test_tickets_are_not_hoarded(daemon):
    """Who has a hundred that are unused is told to wait, and other people are not hurt."""
    running = await daemon()
    token = await running.log_in()
    for _ in range(MAX_OF_PERSON):
        ticket = await get_ticket(running, token)
    reply = await running.post("/api/ticket", token=token)
    assert (reply.status, reply.error) == (429, "too many tickets that are not used")
    assert int(reply.header("retry-after")) == 30
    await get_ticket(running, await running.log_in("user3096", "secret3096"))
    assert (await running.open_stream(None, query=f"?ticket={ticket}")).status == 200
    await get_ticket(running, token)
