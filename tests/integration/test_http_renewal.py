"""`POST /api/token`: a good token gives another one, and streams go on."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest_twisted

from mxflex.web.eventstream import EventStreams
from tests.integration.daemons import EXT, JID

OUTSIDE = "12025550104"
KEY = "0123456789abcdef" * 4


def claims_of(token):
    """Read what a token says."""
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def signed(**changes):
    """Give a token as a server with this key would make it."""
    now = int(time.time())
    claims = {"mx": "63022", "ext": EXT, "sub": JID, "iat": now - 10, "exp": now + 3600}
    return jwt.encode({**claims, **changes}, KEY)


async def renew(running, token):
    """Renew a token and give the new one."""
    reply = await running.post("/api/token", token=token)
    assert reply.status == 200, reply
    return reply.json["access_token"]


@pytest_twisted.ensureDeferred
async def test_a_token_goes_on(daemon):
    """The answer is that of a login; the MX is not asked; the login's moment is kept."""
    running = await daemon()
    token = await running.log_in()
    reply = await running.post("/api/token", token=token)
    assert reply.status == 200
    assert list(reply.json) == ["token_type", "access_token", "expires_in"]
    assert reply.json["token_type"] == "Bearer"
    assert 3590 <= reply.json["expires_in"] <= 3600
    assert reply.header("cache-control") == "no-store"
    first, second = claims_of(token), claims_of(reply.json["access_token"])
    assert list(second) == ["mx", "ext", "sub", "iat", "exp", "auth_time"]
    assert second["auth_time"] == first["iat"] + 10
    assert second["exp"] >= first["exp"]
    third = claims_of(await renew(running, reply.json["access_token"]))
    assert third["auth_time"] == second["auth_time"]
    # Both are good, for everything.
    for each in (token, reply.json["access_token"]):
        assert (await running.get("/api/contacts", token=each)).status == 200


async def when_ended(running, token):
    """Wait for the end of a token."""
    while (await running.get("/api/contacts", token=token)).status == 200:
        await running.pause(0.1)


@pytest_twisted.ensureDeferred
async def test_streams_go_on(daemon):
    """A stream outlives the token that opened it, and the extension is watched for the next one."""
    running = await daemon(token={"key": KEY})
    token = signed(exp=int(time.time()) + 3)
    streams = [await running.open_stream(token) for _ in range(2)]
    renewed = await renew(running, token)
    await when_ended(running, token)
    running.mx.call_in(OUTSIDE, EXT)
    for stream in streams:
        await stream.when_event("DeliveredEvent")
        stream.abort()
    await running.when(lambda: running.service.getServiceNamed(EventStreams.name).count == 0)
    assert running.mx.monitors(EXT) == 1
    assert (await running.open_stream(renewed)).status == 200
    assert running.mx.monitors(EXT) == 1


@pytest_twisted.ensureDeferred
async def test_not_for_ever(daemon):
    """No token lasts longer than `token.max_age` since the login; then it is 403."""
    running = await daemon(token={"key": KEY, "max_age": 7200})
    now = int(time.time())
    early = signed(exp=now + 60, auth_time=now - 5400)
    reply = await running.post("/api/token", token=early)
    assert 1790 <= reply.json["expires_in"] <= 1800
    last = reply.json["access_token"]
    assert claims_of(last)["exp"] == now - 5400 + 7200
    reply = await running.post("/api/token", token=last)
    assert (reply.status, reply.error) == (
        403,
        "the login is too old to be renewed, log in again",
    )
    assert (await running.get("/api/contacts", token=last)).status == 200
    # Without the claim it is the time of issue that counts.
    old = signed(exp=now + 60, iat=now - 8000)
    assert (await running.post("/api/token", token=old)).status == 403


@pytest_twisted.ensureDeferred
async def test_switched_off(daemon):
    """With `token.max_age: 0` the password is needed each time."""
    running = await daemon(token={"max_age": 0})
    assert (await running.post("/api/token", token=await running.log_in())).status == 403


@pytest_twisted.ensureDeferred
async def test_an_ended_token_is_not_renewed(daemon):
    """Who comes too late is 401 as everywhere."""
    running = await daemon(token={"key": KEY}, ready=False)
    reply = await running.post("/api/token", token=signed(exp=int(time.time()) - 1))
    assert reply.status == 401
    assert reply.header("www-authenticate").endswith('error="invalid_token"')


@pytest_twisted.ensureDeferred
async def test_not_after_a_logout(daemon):
    """A logout ends renewals, by whichever token, until the user logs in again."""
    running = await daemon()
    token = await running.log_in()
    renewed = await renew(running, token)
    await running.post("/api/logout", token=renewed)
    for each in (token, renewed):
        reply = await running.post("/api/token", token=each)
        assert (reply.status, reply.error) == (403, "not monitored")
    assert running.mx.monitors(EXT) == 0
    await running.log_in()
    await renew(running, token)


@pytest_twisted.ensureDeferred
async def test_while_the_mx_is_away(daemon):
    """A renewal needs no MX."""
    running = await daemon()
    token = await running.log_in()
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    await renew(running, token)


@pytest_twisted.ensureDeferred
async def test_after_a_restart(daemon):
    """With `token.key` a renewal has the extension watched again, as a stream would."""
    running = await daemon(token={"key": KEY})
    await renew(running, signed())
    assert running.mx.monitors(EXT) == 1


@pytest_twisted.ensureDeferred
async def test_streams_of_renewed_tokens_count_together(daemon):
    """Renewing a token is no way around `events.max_per_token`."""
    running = await daemon(token={"key": KEY}, events={"max_per_token": 1})
    now = int(time.time())
    token = signed(exp=now + 60, auth_time=now - 600)
    assert (await running.open_stream(token)).status == 200
    reply = await (await running.open_stream(await renew(running, token))).reply()
    assert (reply.status, reply.error) == (429, "too many event streams with this token")
