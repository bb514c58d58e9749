"""Bodies, fields and tokens that are not what they should be: one status, one sentence, no more."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time

import jwt
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.daemons import EXT, JID, LOGIN, LOOPBACK, PASSWORD
from tests.integration.victims import Victims, exchange, request

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
GOOD_FORM = f"login={LOGIN}&password={PASSWORD}".encode()
GOOD_JSON = json.dumps({"login": LOGIN, "password": PASSWORD}).encode()
# Fields that a call control request must have, all well.
CALL = {"callId": 1, "deviceId": EXT, "destination": "3044"}


@pytest_twisted.async_yield_fixture
async def victim(daemon):
    """Give the builder of daemons that must be well after the test."""
    victims = Victims(daemon)
    yield victims.start
    await victims.check()


# Each name says what is odd; then the type, the body and the status.
LOGINS = {
    "a form": (FORM, GOOD_FORM, 200),
    "JSON": (JSON, GOOD_JSON, 200),
    "JSON with a charset": (f'{JSON}; charset="UTF-8"', GOOD_JSON, 200),
    "JSON with more fields": (JSON, GOOD_JSON[:-1] + b', "x": [1, {"y": null}]}', 200),
    "no type": (None, GOOD_FORM, 415),
    "an empty type": ("", GOOD_FORM, 415),
    "plain text": ("text/plain", GOOD_FORM, 415),
    "JSON as text": ("text/json", GOOD_JSON, 415),
    "XML": ("application/xml", b"<login/>", 415),
    "many parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="login"\r\n\r\na\r\n--x--\r\n',
        415,
    ),
    "a type of nonsense": (";;;=,/", GOOD_FORM, 415),
    "a type of 8 kB": ("application/" + "x" * 8000, GOOD_FORM, 415),
    "another charset": (f"{FORM}; charset=windows-1251", GOOD_FORM, 415),
    "UTF-16": (f"{JSON}; charset=utf-16", GOOD_JSON.decode().encode("utf-16"), 415),
    "UTF-16 by stealth": (JSON, GOOD_JSON.decode().encode("utf-16"), 400),
    "a charset of nonsense": (f"{JSON}; charset*=x''%ff", GOOD_JSON, 415),
    "Cyrillic in windows-1251": (FORM, "login=Иван&password=x".encode("cp1251"), 400),
    "bytes that are no UTF-8": (FORM, b"login=%ff%fe&password=x", 400),
    "JSON in Latin-1": (JSON, '{"login": "é", "password": "x"}'.encode("latin-1"), 400),
    "nothing": (FORM, b"", 400),
    "no JSON": (JSON, b"", 400),
    "half of JSON": (JSON, GOOD_JSON[:-3], 400),
    "two JSON texts": (JSON, GOOD_JSON * 2, 400),
    "a form called JSON": (JSON, GOOD_FORM, 400),
    "JSON called a form": (FORM, GOOD_JSON, 400),
    "a list": (JSON, b"[" + GOOD_JSON + b"]", 400),
    "a text": (JSON, b'"login"', 400),
    "a number": (JSON, b"17", 400),
    "null": (JSON, b"null", 400),
    "a byte order mark": (JSON, b"\xef\xbb\xbf" + GOOD_JSON, 400),
    "NaN": (JSON, b'{"login": "a", "password": "b", "x": NaN}', 400),
    "Infinity": (JSON, b'{"login": "a", "password": "b", "x": -Infinity}', 400),
    "a number of 5,000 digits": (JSON, b'{"x": ' + b"9" * 5000 + b"}", 400),
    "a number beyond all floats": (JSON, b'{"login": 1e999, "password": "x"}', 400),
    "30,000 lists": (JSON, b"[" * 30_000 + b"]" * 30_000, 400),
    "10,000 objects": (JSON, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
    "a list inside": (JSON, b'{"login": ["a"], "password": "x"}', 400),
    "an object inside": (JSON, b'{"login": {"$ne": 1}, "password": "x"}', 400),
    "a number for a name": (JSON, b'{"login": 3095, "password": "x"}', 400),
    "a number for a password": (JSON, b'{"login": "a", "password": 12345}', 400),
    "true for a name": (JSON, b'{"login": true, "password": "x"}', 400),
    "null for a name": (JSON, b'{"login": null, "password": "x"}', 400),
    "half a surrogate": (JSON, rb'{"login": "\ud800", "password": "x"}', 400),
    "half a surrogate as a key": (JSON, rb'{"\ud800": 1, "\ud800": 2}', 400),
    "a zero byte": (JSON, rb'{"login": "a\u0000b", "password": "x"}', 400),
    "a zero byte in a form": (FORM, b"login=a%00b&password=x", 400),
    "a raw zero byte": (FORM, b"login=a\0b&password=x", 400),
    "an escape": (FORM, b"login=%1b[31m&password=x", 400),
    "the end of Unicode": (FORM, b"login=%ef%bf%bf&password=x", 400),
    "no name": (FORM, b"password=x", 400),
    "no password": (FORM, f"login={LOGIN}".encode(), 400),
    "an empty name": (FORM, b"login=&password=x", 400),
    "a blank name": (FORM, b"login=+%09+&password=x", 400),
    "an empty password": (FORM, f"login={LOGIN}&password=".encode(), 400),
    "names in capitals": (FORM, GOOD_FORM.upper(), 400),
    "semicolons": (FORM, GOOD_FORM.replace(b"&", b";"), 400),
    "a name twice": (FORM, GOOD_FORM + b"&login=other", 400),
    "a password twice": (FORM, GOOD_FORM + b"&password=other", 400),
    "a password twice, the same": (FORM, GOOD_FORM + f"&password={PASSWORD}".encode(), 400),
    "a field twice in JSON": (JSON, GOOD_JSON[:-1] + b', "login": "other"}', 400),
    "a field twice below": (JSON, GOOD_JSON[:-1] + b', "x": {"a": 1, "a": 2}}', 400),
    "1,000 fields": (FORM, GOOD_FORM + b"".join(b"&a%d=" % i for i in range(1000)), 400),
    "a name of 10 kB": (FORM, b"login=" + b"a" * 10_000 + b"&password=x", 400),
    "a password of 10 kB": (FORM, f"login={LOGIN}&password=".encode() + b"a" * 10_000, 400),
}


@pytest.mark.parametrize("name", LOGINS)
@pytest_twisted.ensureDeferred
async def test_body_of_a_login(victim, name):
    """A body of another kind is 415, one that is not sound is 400; the MX hears of neither."""
    running = await victim()
    content_type, body, status = LOGINS[name]
    headers = () if content_type is None else (f"Content-Type: {content_type}",)
    asked = len(running.mx.received("loginRequest"))
    reply = await exchange(running, request("POST", "/api/login", *headers, body=body))
    assert reply.status == status
    if status == 200:
        assert reply.json["token_type"] == "Bearer"
    else:
        # A sentence, and nothing of what was sent.
        assert 0 < len(reply.error) < 100
        assert reply.error.isascii()
        assert len(running.mx.received("loginRequest")) == asked


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"callId": "x"}, "bad call id"),
        ({"callId": ""}, "bad call id"),
        ({"callId": None}, "bad call id"),
        ({"callId": True}, "bad call id"),
        ({"callId": 1.5}, "bad call id"),
        ({"callId": -1}, "bad call id"),
        ({"callId": "-1"}, "bad call id"),
        ({"callId": "+1"}, "bad call id"),
        ({"callId": "1e3"}, "bad call id"),
        ({"callId": "0x1"}, "bad call id"),
        ({"callId": "1_0"}, "bad call id"),
        ({"callId": "\N{ARABIC-INDIC DIGIT FIVE}"}, "bad call id"),
        ({"callId": "9" * 5000}, "bad call id"),
        ({"callId": 10**30}, "bad call id"),
        ({"callId": [1]}, "bad call id"),
        ({"callId": "1<x/>"}, "bad call id"),
        ({"deviceId": ""}, "device id required"),
        ({"deviceId": "  "}, "device id required"),
        ({"deviceId": None}, "device id required"),
        ({"deviceId": 3095}, "deviceId must be text"),
        ({"deviceId": "a\0"}, "deviceId has characters that are not allowed"),
        ({"deviceId": "a" * 5000}, "deviceId is too long"),
        ({"destination": ""}, "destination phone required"),
        ({"destination": 3044}, "destination must be text"),
        ({"destination": "a\x1b"}, "destination has characters that are not allowed"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_fields_of_a_call(victim, fields, error):
    """Numbers where names are due, and the reverse, are told by the field's name."""
    running = await victim()
    token = await running.log_in()
    before = len(running.mx.commands)
    reply = await running.post(
        "/api/call/transfer",
        json.dumps({**CALL, **fields}).encode(),
        headers={"Content-Type": JSON},
        token=token,
    )
    assert (reply.status, reply.error) == (400, error)
    assert len(running.mx.commands) == before


@pytest.mark.parametrize("path", ["", "/hangup", "/hold", "/transfer", "/transfer/consult"])
@pytest_twisted.ensureDeferred
async def test_no_fields_at_all(victim, path):
    """A call without a body says which field it lacks."""
    running = await victim()
    token = await running.log_in()
    reply = await running.post(f"/api/call{path}", token=token)
    assert reply.status == 400
    assert reply.error in ("to field is empty", "bad call id")


# --- Tokens ---------------------------------------------------------------------------------------


def part(data):
    """Write one part of a token."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def claims(**more):
    """Give the claims of a good token of the daemon's user."""
    now = int(time.time())
    return {"mx": "63022", "ext": EXT, "sub": JID, "iat": now, "exp": now + 3600, **more}


KEY = "k" * 64
RSA_KEY = rsa.generate_private_key(65_537, 2048)
PUBLIC_KEY = (
    RSA_KEY.public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode("ascii")
)
HEADER = {"alg": "HS256", "typ": "JWT"}


def signed(payload, header=None, key=KEY):
    """Sign a payload of any kind, whatever a proper library would think of it."""
    text = f"{part(header or HEADER)}.{part(payload)}"
    return f"{text}.{part(hmac.digest(key.encode(), text.encode(), hashlib.sha256))}"


GOOD = signed(claims())
BAD_TOKENS = {
    "nonsense": "nonsense",
    "dots": "...",
    "two parts": ".".join(GOOD.split(".")[:2]),
    "four parts": GOOD + ".x",
    "no signature": GOOD.rpartition(".")[0] + ".",
    "another signature": GOOD.rpartition(".")[0] + "." + part(b"x" * 32),
    "another key": signed(claims(), key="other" * 20),
    "an empty key": signed(claims(), key=""),
    "a changed payload": ".".join([GOOD.split(".")[0], part(claims(ext="3044")), GOOD[-43:]]),
    "no algorithm": jwt.encode(claims(), None, algorithm="none"),
    "no algorithm, in capitals": f"{part({'alg': 'NONE'})}.{part(claims())}.",
    "no algorithm, but signed": signed(claims(), {"alg": "none"}),
    "another algorithm": jwt.encode(claims(), KEY, algorithm="HS512"),
    "an algorithm of keys": signed(claims(), {"alg": "RS256"}),
    "a list of algorithms": signed(claims(), {"alg": ["HS256"]}),
    "no header": signed(claims(), [1]),
    "a header of nonsense": f"{part(b'{')}.{part(claims())}.{part(b'x')}",
    "a deep header": f"{part(b'[' * 5000)}.{part(claims())}.{part(b'x')}",
    "a critical extension": signed(claims(), {**HEADER, "crit": ["x"], "x": 1}),
    "a payload apart": signed(claims(), {**HEADER, "b64": False, "crit": ["b64"]}),
    "a key id of nonsense": signed(claims(), {**HEADER, "kid": 1}),
    "a payload of nonsense": signed(b"\xff\xfe"),
    "a list for a payload": signed([claims()]),
    "a deep payload": signed(b"[" * 5000),
    "a number of 5,000 digits": signed(b'{"exp": ' + b"9" * 5000 + b"}"),
    "no claims": signed({}),
    "an end in the past": signed(claims(exp=int(time.time()) - 1)),
    "an end of text": signed(claims(exp="9999999999")),
    "an end of infinity": signed(json.dumps(claims(exp=float("inf"))).encode()),
    "a fractional end": signed(claims(exp=time.time() + 3600)),
    "true for an end": signed(claims(exp=True)),
    "no end": signed({k: v for k, v in claims().items() if k != "exp"}),
    "a user of text": signed(claims(sub=str(JID))),
    "an extension of digits": signed(claims(ext=3095)),
    "no extension": signed({k: v for k, v in claims().items() if k != "ext"}),
    "another audience": signed(claims(aud="elsewhere")),
    "not before tomorrow": signed(claims(nbf=int(time.time()) + 86_400)),
    "10 kB": "a" * 10_000,
    "10 kB of dots": "." * 10_000,
    "10 kB in parts": f"{part(b'a' * 3000)}.{part(b'b' * 3000)}.{part(b'c' * 1000)}",
    "control characters": "a\x01b\x1b[31m",
    "other letters": "\xff\xfe\xe4",
    "an RSA signature": jwt.encode(claims(), RSA_KEY, algorithm="RS256"),
    "a public key for a secret": signed(claims(), key=PUBLIC_KEY),
    "a public key for a secret, and its algorithm": signed(
        claims(), {**HEADER, "alg": "RS256"}, key=PUBLIC_KEY
    ),
    "an elliptic signature": jwt.encode(
        claims(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"
    ),
    "a key of its own": signed(
        claims(),
        {**HEADER, "jwk": {"kty": "oct", "k": part(b"mine" * 16)}},
        key="mine" * 16,
    ),
    "a key id that is a path": signed(claims(), {**HEADER, "kid": "../../../dev/null"}, key=""),
    "a key id that is SQL": signed(claims(), {**HEADER, "kid": "' UNION SELECT 'a"}, key="a"),
    "another type": signed(claims(), {**HEADER, "typ": "at+jwt", "alg": "HS384"}),
    "encrypted, it says": f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..{part(b'x' * 12)}.x.x",
    "an algorithm twice": signed(claims(), b'{"alg":"HS256","alg":"none"}', key="mine" * 16),
    "an end twice": signed(
        json.dumps(claims(exp=int(time.time()) - 1)).encode()[:-1] + b',"exp":0}'
    ),
    "padding": GOOD + "=",
    "the other base64": signed(claims(mx="~~~???")).replace("-", "+").replace("_", "/"),
    "a blank inside": GOOD.replace(".", ". ", 1),
    "a tab inside": GOOD.replace(".", "\t.", 1),
    "a folded line": GOOD.replace(".", "%0d%0a .", 1),
    "blanks in the payload's base64": f"{GOOD[:60]} {GOOD[60:]}",
    "a zero-width blank": GOOD.replace(".", ".\u200b", 1).encode().decode("latin-1"),
    "dots of full width": GOOD.replace(".", "\uff0e").encode().decode("latin-1"),
    "letters that look alike": GOOD.replace("e", "\u0435", 1).encode().decode("latin-1"),
    "half a payload": f"{GOOD[:100]}.{GOOD[-43:]}",
    "14 kB of a payload": signed(claims(x="x" * 10_000), key="mine" * 16),
    "a list of users": signed(claims(sub=[JID] * 500)),
    "an end beyond time": signed(claims(exp=2**63), key="mine" * 16),
    "a quotation": f'"{GOOD}"',
    "two tokens": f"{GOOD}, {GOOD}",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
@pytest_twisted.ensureDeferred
async def test_bad_token(victim, name):
    """A token that is not a good one of ours is 401 with the challenge of RFC 6750, and no hint."""
    running = await victim(token={"key": KEY})
    await running.log_in()
    reply = await exchange(running, request(token=BAD_TOKENS[name]))
    assert reply.status == 401
    assert reply.header("www-authenticate") == 'Bearer realm="MXFlex", error="invalid_token"'
    assert reply.error in ("the access token is not valid", "the access token has expired")


@pytest.mark.parametrize("name", ["jku", "x5u", "kid"])
@pytest_twisted.ensureDeferred
async def test_keys_are_fetched_nowhere(victim, name):
    """A token cannot make us look for its key at an address of its choice."""
    running = await victim(token={"key": KEY})
    with socket.create_server((LOOPBACK, 0)) as elsewhere:
        elsewhere.setblocking(False)
        url = f"http://{LOOPBACK}:{elsewhere.getsockname()[1]}/keys.json"
        for key in (KEY, "mine" * 16):
            token = signed(claims(), {**HEADER, name: url}, key=key)
            await exchange(running, request(token=token))
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest_twisted.ensureDeferred
async def test_good_token(victim):
    """The token that the bad ones are made of is a good one."""
    running = await victim(token={"key": KEY})
    assert (await exchange(running, request(token=GOOD))).status == 200


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ((f"Authorization: Basic {GOOD}",), "", 401),
        (("Authorization: Bearer",), "", 401),
        (("Authorization: Bearer ",), "", 401),
        (("Authorization:",), "", 401),
        ((f"Authorization: Bearer\t{GOOD}",), "", 401),
        ((f"Authorization: {GOOD}",), "", 401),
        ((f"Cookie: access_token={GOOD}",), "", 401),
        ((), f"?Access_Token={GOOD}", 401),
        ((), f"?access_token={GOOD}%0d%0aX:y", 401),
        ((), f"?access_token={GOOD}&access_token={GOOD}", 400),
        ((f"Authorization: Bearer {GOOD}", f"Authorization: Bearer {GOOD}"), "", 400),
        ((f"Authorization: bEaReR    {GOOD}",), "", 200),
        ((f"Authorization: Bearer {GOOD}",), "?access_token=bad", 200),
        (("Authorization: Basic YTpi",), f"?access_token={GOOD}", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_places_of_a_token(victim, headers, query, status):
    """A token counts where the contract has it, once; elsewhere there is none."""
    running = await victim(token={"key": KEY})
    reply = await exchange(running, request("GET", f"/api/contacts{query}", *headers))
    assert reply.status == status
    assert GOOD not in "".join(running.log.lines)
