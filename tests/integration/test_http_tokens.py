"""Tokens: what they say, where they may stand, and which are refused."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import urlencode

import jwt
import pytest
import pytest_twisted

from tests.integration.daemons import EXT, JID

KEY = "0123456789abcdef" * 4
BARE = 'Bearer realm="MXFlex"'
INVALID = 'Bearer realm="MXFlex", error="invalid_token"'
FORM = "Content-Type: application/x-www-form-urlencoded"


def claims(**changes):
    """Give the claims of a good token, changed; a claim that is None is left out."""
    now = int(time.time())
    good = {"mx": "63022", "ext": EXT, "sub": JID, "iat": now - 10, "exp": now + 3600}
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def signed(key=KEY, algorithm="HS256", **changes):
    """Give a token as a server with this key would make it."""
    return jwt.encode(claims(**changes), key, algorithm=algorithm)


def unpadded(data):
    """Write base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def segment(token, index):
    """Read one of the first two parts of a token."""
    part = token.split(".")[index]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest_twisted.ensureDeferred
async def test_a_token_says_what_the_contract_says(daemon):
    """A JWT of HS256: mx and ext are text, sub is an exact number, 3610 s from iat to exp."""
    running = await daemon()
    before = int(time.time())
    token = await running.log_in()
    after = int(time.time())
    assert json.loads(segment(token, 0)) == {"alg": "HS256", "typ": "JWT"}
    told = json.loads(segment(token, 1))
    assert (told["mx"], told["ext"], told["sub"]) == ("63022", "3095", 43884851147406145)
    assert set(told) == {"mx", "ext", "sub", "iat", "exp"}
    assert before - 10 <= told["iat"] <= after - 10
    assert told["exp"] - told["iat"] == 3610


@pytest_twisted.ensureDeferred
async def test_the_lifetime_is_configured(daemon):
    """`token.lifetime` is what the login tells, and what the token holds."""
    running = await daemon(token={"lifetime": 120})
    reply = await running.post("/api/login", {"login": "user_login", "password": "password"})
    assert reply.json["expires_in"] == 120
    told = json.loads(segment(reply.json["access_token"], 1))
    assert told["exp"] - told["iat"] == 130


@pytest.mark.parametrize(
    "value", ["Bearer {}", "bearer {}", "BEARER {}", "bEaReR   {}", "Bearer {}  "]
)
@pytest_twisted.ensureDeferred
async def test_the_scheme_is_read_in_any_case(daemon, value):
    """`Authorization: Bearer` counts however the word is written."""
    running = await daemon(token={"key": KEY})
    line = "Authorization: " + value.format(signed())
    assert (await running.raw("GET", "/api/contacts", line)).status == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", "access_token={}"),
        ("application/json", '{{"access_token":"{}"}}'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_token_may_stand_in_the_body(daemon, content_type, body):
    """The field `access_token` of a form or of JSON is a token."""
    running = await daemon(token={"key": KEY})
    data = body.format(signed()).encode()
    reply = await running.raw("POST", "/api/logout", f"Content-Type: {content_type}", body=data)
    assert reply.status == 204


@pytest_twisted.ensureDeferred
async def test_a_token_may_stand_in_the_query(daemon):
    """The field `access_token` of the URL is a token, for GET and for POST."""
    running = await daemon(token={"key": KEY})
    assert (await running.raw("GET", f"/api/contacts?access_token={signed()}")).status == 200
    assert (await running.raw("POST", f"/api/logout?access_token={signed()}")).status == 204


@pytest_twisted.ensureDeferred
async def test_a_body_of_get_holds_no_token(daemon):
    """Only POST, PUT and PATCH carry the token in their bodies."""
    running = await daemon(token={"key": KEY})
    body = f"access_token={signed()}".encode()
    assert (await running.raw("GET", "/api/contacts", FORM, body=body)).status == 401


@pytest_twisted.ensureDeferred
async def test_tokens_in_urls_can_be_switched_off(daemon):
    """With `token.in_url: false` one in the URL is none, and the answer says so; others count."""
    running = await daemon(token={"key": KEY, "in_url": False})
    for method, path in (
        ("GET", "/api/contacts"),
        ("GET", "/api/events"),
        ("POST", "/api/logout"),
        ("POST", "/api/ticket"),
    ):
        reply = await running.raw(method, f"{path}?access_token={signed()}")
        assert (reply.status, reply.header("www-authenticate")) == (401, BARE)
        assert reply.error == "an access token in the URL does not count on this server"
    assert (await running.raw("GET", "/api/contacts")).error == "access token required"
    assert (await running.raw("GET", "/api/contacts", token=signed())).status == 200
    body = f"access_token={signed()}".encode()
    assert (await running.raw("POST", "/api/ticket", FORM, body=body)).status == 200


@pytest.mark.parametrize("text", ["\x01", "a\uffff", "a" * 4097, "\u00e4.b.c"])
@pytest_twisted.ensureDeferred
async def test_a_token_of_odd_characters_is_401(daemon, text):
    """A token that cannot be one is malformed (RFC 6750, 3.1), wherever it stands."""
    running = await daemon(ready=False)
    for reply in (
        await running.get(f"/api/contacts?{urlencode({'access_token': text})}"),
        await running.post("/api/logout", {"access_token": text}),
        await running.request("POST", "/api/logout", json={"access_token": text}),
    ):
        assert (reply.status, reply.header("www-authenticate")) == (401, INVALID)
    reply = await running.request("POST", "/api/logout", json={"access_token": 1})
    assert (reply.status, reply.error) == (400, "access_token must be text")


@pytest.mark.parametrize("path", ["/api/token", "/api/logout", "/api/ticket"])
@pytest_twisted.ensureDeferred
async def test_a_body_that_is_not_needed_must_be_sound(daemon, path):
    """With the token in the header a body says nothing; one that is malformed is refused still."""
    running = await daemon()
    token = await running.log_in()
    for content_type, body in (
        ("application/json", "[]"),
        ("application/json", "{"),
        ("application/json", '{"access_token":1}'),
        ("application/x-www-form-urlencoded", "a=1&a=2"),
    ):
        lines = [f"Content-Type: {content_type}"]
        reply = await running.raw("POST", path, *lines, token=token, body=body.encode())
        assert reply.status == 400, (content_type, body)
    for lines, body in (
        (["Content-Type: application/json"], b""),
        (["Content-Type: application/json"], b'{"access_token":null}'),
        (["Content-Type: text/plain"], b"hello"),
        ([], b""),
    ):
        reply = await running.raw("POST", path, *lines, token=token, body=body)
        assert reply.status in (200, 204), (lines, body)
        if path == "/api/logout":
            await running.log_in()


GOOD, BAD = "good", "bad"


@pytest.mark.parametrize(
    ("header", "body", "query", "status"),
    [
        (GOOD, BAD, BAD, 204),
        (BAD, GOOD, GOOD, 401),
        (None, GOOD, BAD, 204),
        (None, BAD, GOOD, 401),
        (None, None, GOOD, 204),
        (None, None, BAD, 401),
        (None, "", GOOD, 204),
        ("Basic dXNlcjpwYXNz", GOOD, BAD, 204),
        ("Bearer", None, GOOD, 204),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_first_place_that_has_a_token_counts(daemon, header, body, query, status):
    """Header before body before query; another scheme and an empty field are no token."""
    running = await daemon(token={"key": KEY})
    tokens = {GOOD: signed(), BAD: signed("x" * 32), "": ""}
    lines = [FORM]
    if header is not None:
        value = f"Bearer {tokens[header]}" if header in tokens else header
        lines.append(f"Authorization: {value}")
    data = b"" if body is None else f"access_token={tokens[body]}".encode()
    target = f"/api/logout?access_token={tokens[query]}"
    assert (await running.raw("POST", target, *lines, body=data)).status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/logout"),
        ("POST", "/api/logout"),
        ("POST", "/api/ticket"),
        ("POST", "/api/token"),
        ("GET", "/api/events"),
        ("GET", "/api/contacts"),
        ("GET", "/api/contacts?q=anna"),
        ("GET", "/api/contacts/lookup?number=3095"),
        ("GET", "/api/calls"),
        ("POST", "/api/call"),
        ("POST", "/api/call/answer"),
        ("POST", "/api/call/hangup"),
        ("POST", "/api/call/hold"),
        ("POST", "/api/call/retrieve"),
        ("POST", "/api/call/deflect"),
        ("POST", "/api/call/park"),
        ("POST", "/api/call/transfer"),
        ("POST", "/api/call/transfer/consult"),
        ("POST", "/api/call/record/start"),
        ("POST", "/api/call/record/stop"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_call_but_the_login_needs_a_token(daemon, method, path):
    """No token: 401 that names the realm alone; a bad one: 401 that says `invalid_token`."""
    running = await daemon(token={"key": KEY})
    nothing = await running.raw(method, path)
    assert (nothing.status, nothing.header("www-authenticate")) == (401, BARE)
    assert nothing.error
    foreign = await running.raw(method, path, token=signed("x" * 32))
    assert (foreign.status, foreign.header("www-authenticate")) == (401, INVALID)
    assert foreign.error


def _without_signature(algorithm):
    head = unpadded(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    return f"{head}.{unpadded(json.dumps(claims()).encode())}."


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x",
        lambda: "a.b.c",
        lambda: "....",
        lambda: "%",
        lambda: signed()[:-2],
        lambda: signed() + "x",
        lambda: signed().replace(".", "..", 1),
        lambda: signed("another key, which is long enough too"),
        lambda: signed(algorithm="HS384"),
        lambda: signed(algorithm="HS512"),
        lambda: _without_signature("none"),
        lambda: _without_signature("None"),
        lambda: _without_signature("HS256"),
        lambda: signed(exp=int(time.time()) - 1),
        lambda: signed(exp=0),
        lambda: signed(exp=None),
        lambda: signed(exp="tomorrow"),
        lambda: signed(exp=time.time() + 0.5),
        lambda: signed(sub=str(JID)),
        lambda: signed(sub=None),
        lambda: signed(ext=None),
        lambda: signed(ext=3095),
        lambda: signed(mx=63022),
        lambda: signed(iat=None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_tokens_are_401(daemon, make):
    """Malformed, expired, foreign, of another algorithm, unsigned, or with other claims: 401."""
    running = await daemon(token={"key": KEY}, ready=False)
    for reply in (
        await running.raw("GET", "/api/calls", token=make()),
        await running.raw("GET", f"/api/calls?access_token={make()}"),
    ):
        assert (reply.status, reply.header("www-authenticate")) == (401, INVALID)
        assert reply.error


@pytest_twisted.ensureDeferred
async def test_several_tokens_are_good_side_by_side(daemon):
    """Each login of one user gives a token, and no token ends another."""
    running = await daemon()
    tokens = [await running.log_in() for _ in range(3)]
    await running.get("/api/logout", token=tokens[1])
    for token in tokens:
        assert (await running.get("/api/contacts", token=token)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_restart_ends_all_tokens(daemon):
    """Each start makes a key of its own, so the tokens from before are refused."""
    first = await daemon()
    token = await first.log_in()
    await first.stop()
    second = await daemon(simulator=first.mx)
    reply = await second.get("/api/contacts", token=token)
    assert (reply.status, reply.header("www-authenticate")) == (401, INVALID)


@pytest_twisted.ensureDeferred
async def test_a_configured_key_outlives_a_restart(daemon):
    """With `token.key` several servers, and the same one later, take each other's tokens."""
    first = await daemon(token={"key": KEY})
    token = await first.log_in()
    await first.stop()
    second = await daemon(simulator=first.mx, token={"key": KEY})
    assert (await second.get("/api/contacts", token=token)).status == 200
