"""Tokens: what they say, byte for byte, and which ones are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import jwt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mxflex.errors import Forbidden, InvalidToken
from mxflex.gateway import tokens as module
from mxflex.gateway.tokens import Identity, Tokens

KEY = b"k" * 64
NOW = 1505411996
JID = 43884851147406145
LIFETIME = 3600

# Payload and header of the owner's sample, whose claims stand in the order of their names.
OWNERS_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJleHAiOjE1MDU0MTU1OTYsImV4dCI6IjMwOTUiLCJpYXQiOjE1MDU0MTE5ODYsIm14IjoiNjMwMjIiLCJzdWIiOjQz"
    "ODg0ODUxMTQ3NDA2MTQ1fQ."
    "zn_HXbEJeJnluJniqu8qMdKn05kdQw4agkpSxa-HcpY"
)
OWNERS_CLAIMS = {"mx": "63022", "ext": "3095", "sub": JID, "iat": 1505411986, "exp": 1505415596}


def plain(data):
    """Write base64 as RFC 7515 does: for URLs, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def opened(part):
    """Read one part of a token."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def forge(claims=None, header=None, *, key=KEY, digest=hashlib.sha256, payload=None):
    """Make a token by hand, with any header and any payload, rightly signed over both."""
    header = {"alg": "HS256", "typ": "JWT"} if header is None else header
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = json.dumps(claims).encode() if payload is None else payload
    signed = f"{plain(head)}.{plain(body)}"
    return f"{signed}.{plain(hmac.new(key, signed.encode(), digest).digest())}"


@pytest.fixture
def tokens():
    return Tokens(LIFETIME, KEY)


def issue(tokens, now=NOW, jid=JID):
    return tokens.issue(mx="63022", ext="3095", jid=jid, now=now)


def refused(tokens, token, now=NOW):
    """Tell whether a token is refused as it should be: by `InvalidToken`, in fixed words."""
    with pytest.raises(InvalidToken) as caught:
        tokens.verify(token, now)
    return str(caught.value) == "the access token is not valid"


class TestIssue:
    """What a token says."""

    def test_header_is_the_owners(self, tokens):
        """The header is these bytes, in this order, and nothing more."""
        token, _ = issue(tokens)
        assert opened(token.split(".")[0]) == b'{"alg":"HS256","typ":"JWT"}'
        assert OWNERS_TOKEN.startswith(token.partition(".")[0] + ".")

    def test_claims_are_the_contracts(self, tokens):
        """Claims come in the contract's order, `sub` as a number of all its digits."""
        token, _ = issue(tokens)
        assert opened(token.split(".")[1]) == (
            b'{"mx":"63022","ext":"3095","sub":43884851147406145,"iat":1505411986,"exp":1505415596}'
        )

    def test_claims_equal_the_owners_sample(self, tokens):
        """A login at the moment of the owner's sample gives its claims, value by value."""
        token, _ = issue(tokens)
        assert json.loads(opened(token.split(".")[1])) == OWNERS_CLAIMS
        assert json.loads(opened(OWNERS_TOKEN.split(".")[1])) == OWNERS_CLAIMS

    def test_signature_is_hmac_sha256(self, tokens):
        """The signature is HMAC-SHA256 of header and payload, checked without a JWT library."""
        token, _ = issue(tokens)
        signed, _, signature = token.rpartition(".")
        assert opened(signature) == hmac.new(KEY, signed.encode(), hashlib.sha256).digest()

    @given(st.integers(1, 86400 * 365), st.floats(1e9, 1e10))
    def test_lifetime_counts_from_the_login(self, lifetime, now):
        """The end is the login's whole second plus the lifetime; exp - iat is ten seconds more."""
        token, identity = Tokens(lifetime, KEY).issue(mx="6", ext="1", jid=1, now=now)
        claims = json.loads(opened(token.split(".")[1]))
        assert claims["exp"] == identity.expires_at == int(now) + lifetime
        assert claims["exp"] - claims["iat"] == lifetime + 10

    def test_default_lifetime_gives_3610(self, tokens):
        """With the default lifetime, exp - iat is the owner's 3610."""
        token, _ = issue(tokens, now=NOW + 0.999)
        claims = json.loads(opened(token.split(".")[1]))
        assert claims["exp"] - claims["iat"] == 3610

    def test_random_keys_differ(self):
        """Without a key each start makes its own of 64 bytes: no token outlives its process."""
        one, two = Tokens(LIFETIME), Tokens(LIFETIME)
        token, identity = issue(one)
        assert one.verify(token, NOW) == identity
        assert refused(two, token)
        assert len(one._key) == 64
        assert one._key != two._key

    def test_tokens_of_one_user_are_valid_side_by_side(self, tokens):
        """A second login makes a second token and leaves the first one good."""
        first, _ = issue(tokens)
        second, _ = issue(tokens, now=NOW + 5)
        assert first != second
        assert tokens.verify(first, NOW + 6).ext == tokens.verify(second, NOW + 6).ext == "3095"

    @given(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers(-(2**63), 2**64 - 1),
    )
    @example('"', '","sub":1,"x":"', 2**53 + 1)
    def test_what_is_issued_is_what_is_read(self, mx, ext, jid):
        """Whatever the MX calls its people, the token says it back exactly."""
        tokens = Tokens(LIFETIME, KEY)
        token, identity = tokens.issue(mx=mx, ext=ext, jid=jid, now=NOW)
        assert tokens.verify(token, NOW) == identity
        assert identity == Identity(
            mx=mx, ext=ext, jid=jid, expires_at=NOW + LIFETIME, auth_time=NOW
        )
        assert type(tokens.verify(token, NOW).jid) is int


class TestEnd:
    """When a token ends."""

    @pytest.mark.parametrize("early", [3600, 1, 0.001])
    def test_good_until_its_last_moment(self, tokens, early):
        """A token is good for all of its lifetime."""
        token, identity = issue(tokens)
        assert tokens.verify(token, NOW + LIFETIME - early) == identity

    @pytest.mark.parametrize("late", [0, 0.001, 1, 10**9])
    def test_refused_from_its_end_on(self, tokens, late):
        """At the second of `exp` the token is refused: `exp` is the first moment of refusal."""
        token, _ = issue(tokens)
        with pytest.raises(InvalidToken, match="expired"):
            tokens.verify(token, NOW + LIFETIME + late)

    def test_time_is_the_argument_alone(self, tokens):
        """Neither `exp` nor `iat` is compared with the clock of the machine."""
        long_ago, _ = issue(tokens, now=1000)
        far_off, _ = issue(tokens, now=10**11)
        assert tokens.verify(long_ago, 1001).jid == JID
        assert tokens.verify(far_off, 10**11).jid == JID

    def test_the_slow_clock_is_allowed_for(self, tokens):
        """A token from a moment ahead of the reader's clock is good: clocks are stepped back."""
        token, identity = issue(tokens, now=NOW + 120)
        assert tokens.verify(token, NOW) == identity


class TestRenewal:
    """A good token gives another one, for so long after the login."""

    MAX_AGE = 3 * LIFETIME

    @pytest.fixture
    def tokens(self):
        return Tokens(LIFETIME, KEY, self.MAX_AGE)

    def test_claims(self, tokens):
        """A renewed token has the claims of a login's, and the moment of the login behind them."""
        _, identity = issue(tokens)
        token, renewed = tokens.renew(identity, NOW + 3000.5)
        assert opened(token.split(".")[1]) == (
            b'{"mx":"63022","ext":"3095","sub":43884851147406145,'
            b'"iat":1505414986,"exp":1505418596,"auth_time":1505411996}'
        )
        assert tokens.verify(token, NOW + 3600) == renewed
        assert renewed.expires_at == NOW + 3000 + LIFETIME

    def test_the_login_is_remembered(self, tokens):
        """However often tokens are renewed, and whoever reads them, the login's moment stays."""
        token, identity = issue(tokens)
        now = NOW
        for _ in range(20):
            now += 500
            identity = Tokens(LIFETIME, KEY, self.MAX_AGE).verify(token, now)
            try:
                token, renewed = tokens.renew(identity, now)
            except Forbidden:
                break
            assert renewed.auth_time == NOW
            assert renewed.login == identity.login
        assert identity.expires_at == NOW + self.MAX_AGE

    def test_to_the_last_second(self, tokens):
        """No renewed token lasts longer than the age; one that lasts so long is renewed no more."""
        _, identity = issue(tokens)
        _, identity = tokens.renew(identity, NOW + LIFETIME - 1)
        _, nearly = tokens.renew(identity, NOW + 2 * LIFETIME - 2)
        assert nearly.expires_at == NOW + self.MAX_AGE - 2
        _, last = tokens.renew(nearly, NOW + 2 * LIFETIME + 1)
        assert last.expires_at == NOW + self.MAX_AGE
        with pytest.raises(Forbidden, match="too old"):
            tokens.renew(last, NOW + 2 * LIFETIME + 2)

    def test_at_once(self, tokens):
        """A token may be renewed in the second of its login."""
        _, identity = issue(tokens)
        assert tokens.renew(identity, NOW)[1] == identity

    @pytest.mark.parametrize("max_age", [0, 1, LIFETIME])
    def test_no_longer_than_a_login(self, max_age):
        """Where a login's own token lasts as long as the age, none is renewed; 0 is for none."""
        tokens = Tokens(LIFETIME, KEY, max_age)
        with pytest.raises(Forbidden):
            tokens.renew(issue(tokens)[1], NOW + 10)

    def test_a_token_of_somebody_else(self, tokens):
        """Without the claim, the login is taken to be when the token was issued, `iat`."""
        assert tokens.verify(forge(OWNERS_CLAIMS), NOW).auth_time == OWNERS_CLAIMS["iat"] + 10

    @pytest.mark.parametrize("value", [True, 1.5, "1505411996", None, [], {}])
    def test_the_claim_must_be_an_integer(self, tokens, value):
        """A moment of the login that is no integer makes the token bad."""
        assert refused(tokens, forge({**OWNERS_CLAIMS, "auth_time": value}))


class TestMemory:
    """Tokens are remembered, so that they need not be checked anew; it must not show."""

    def test_a_known_token_still_ends(self, tokens):
        """A token that was good a moment ago is refused once it has ended."""
        token, identity = issue(tokens)
        for _ in range(3):
            assert tokens.verify(token, NOW) == identity
        with pytest.raises(InvalidToken, match="expired"):
            tokens.verify(token, NOW + LIFETIME)

    def test_what_is_like_a_known_token_is_checked(self, tokens):
        """Knowing a token makes none good that shares a part of it."""
        token, _ = issue(tokens)
        tokens.verify(token, NOW)
        head, _, signature = token.rpartition(".")
        assert refused(tokens, head)
        assert refused(tokens, f"{head}.{signature[:-2]}")
        assert refused(tokens, token.swapcase())

    def test_a_refusal_is_not_remembered(self, tokens, monkeypatch):
        """Bad tokens take no room: a flood of them leaves nothing behind."""
        monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
        small = Tokens(LIFETIME, KEY)
        token, identity = issue(small)
        assert small.verify(token, NOW) == identity
        for number in range(100):
            assert refused(small, f"{token}{number}")
        assert small._read.cache_info().currsize == 1

    def test_only_so_many_are_remembered(self, monkeypatch):
        """Beyond the bound the oldest go, and are good all the same when they come again."""
        monkeypatch.setattr(module, "MAX_REMEMBERED", 8)
        small = Tokens(LIFETIME, KEY)
        made = [issue(small, jid=JID + number) for number in range(20)]
        for token, identity in made + made:
            assert small.verify(token, NOW) == identity
            assert small._read.cache_info().currsize <= 8

    def test_servers_do_not_share_what_they_remember(self, tokens):
        """What one key has signed is known to its server alone."""
        token, _ = issue(tokens)
        tokens.verify(token, NOW)
        assert refused(Tokens(LIFETIME, b"o" * 64), token)


class TestRefusals:
    """Which tokens are refused."""

    def test_owners_sample_of_another_key(self, tokens):
        """The owner's own token is well-formed, and not ours."""
        assert refused(tokens, OWNERS_TOKEN, now=1505412000)

    def test_other_key(self, tokens):
        """A token that another key signed is refused."""
        assert refused(tokens, forge(OWNERS_CLAIMS, key=b"x" * 64))

    @pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None])
    def test_no_algorithm(self, tokens, algorithm):
        """`alg: none` is refused with an empty signature, with a good one, in any spelling."""
        header = {"alg": algorithm, "typ": "JWT"}
        signed = forge(OWNERS_CLAIMS, header)
        assert refused(tokens, signed)
        assert refused(tokens, signed.rpartition(".")[0] + ".")

    @pytest.mark.parametrize(
        ("algorithm", "digest"), [("HS384", hashlib.sha384), ("HS512", hashlib.sha512)]
    )
    def test_stronger_algorithms_of_the_same_key(self, tokens, algorithm, digest):
        """Another algorithm is refused though the key is right: there is one algorithm."""
        token = jwt.encode(OWNERS_CLAIMS, KEY, algorithm=algorithm)
        assert refused(tokens, token)
        assert refused(tokens, forge(OWNERS_CLAIMS, {"alg": algorithm}, digest=digest))

    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256", "EdDSA", "hs256", "HS256 "])
    def test_headers_that_name_other_algorithms(self, tokens, algorithm):
        """A header may not choose how it is checked, though the HMAC fits the one we use."""
        assert refused(tokens, forge(OWNERS_CLAIMS, {"alg": algorithm, "typ": "JWT"}))

    @pytest.mark.parametrize(
        "header",
        [
            {"typ": "JWT"},
            {"alg": 256},
            {"alg": ["HS256"]},
            {"alg": {"HS256": 1}},
            {"alg": "HS256", "crit": ["x"], "x": 1},
            {"alg": "HS256", "b64": False, "crit": ["b64"]},
            {"alg": "HS256", "kid": 7},
            b"[]",
            b'"HS256"',
            b"null",
            b"7",
            b"",
            b"{",
            b"\xff\xfe",
            b'{"alg":"HS256"}{}',
            b'{"alg":' + b"1" * 5000 + b"}",
        ],
        ids=repr,
    )
    def test_odd_headers(self, tokens, header):
        """A header that is not one, names nothing, or demands what is unknown, is refused."""
        assert refused(tokens, forge(OWNERS_CLAIMS, header))

    @pytest.mark.parametrize("claim", list(OWNERS_CLAIMS))
    def test_missing_claims(self, tokens, claim):
        """Every claim must be there, and not be null."""
        without = {name: value for name, value in OWNERS_CLAIMS.items() if name != claim}
        assert refused(tokens, forge(without))
        assert refused(tokens, forge({**OWNERS_CLAIMS, claim: None}))

    @pytest.mark.parametrize("claim", ["sub", "iat", "exp"])
    @pytest.mark.parametrize(
        "value", [True, False, 43884851147406145.0, 1e300, "43884851147406145", "", [], {}]
    )
    def test_numbers_must_be_integers(self, tokens, claim, value):
        """A claim that is a number must be an integer: no truth value, no fraction, no text."""
        assert refused(tokens, forge({**OWNERS_CLAIMS, claim: value}))

    @pytest.mark.parametrize("claim", ["sub", "iat", "exp"])
    @pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x10"])
    def test_numbers_that_are_none(self, tokens, claim, number):
        """What JSON readers of other languages write for no number is refused."""
        marked = json.dumps({**OWNERS_CLAIMS, claim: "@"}).encode().replace(b'"@"', number)
        assert refused(tokens, forge(payload=marked))

    @pytest.mark.parametrize("claim", ["mx", "ext"])
    @pytest.mark.parametrize("value", [3095, True, 3095.0, ["3095"], {"3095": 1}])
    def test_texts_must_be_texts(self, tokens, claim, value):
        """A claim that is a text must not be anything else."""
        assert refused(tokens, forge({**OWNERS_CLAIMS, claim: value}))

    @pytest.mark.parametrize("digits", [400, 4000, 5000])
    def test_huge_numbers_break_nothing(self, tokens, digits):
        """Numbers of any length in a signed token are read or refused, and never crash."""
        payload = b'{"mx":"6","ext":"1","sub":1,"iat":1,"exp":' + b"9" * digits + b"}"
        if digits < 4300:
            assert tokens.verify(forge(payload=payload), NOW).ext == "1"
        else:
            assert refused(tokens, forge(payload=payload))

    @pytest.mark.parametrize("depth", [100, 10_000, 200_000])
    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_deep_json(self, tokens, depth, opening):
        """Headers and payloads nested as deep as a request may be long are refused."""
        tower = opening * depth
        assert refused(tokens, forge(OWNERS_CLAIMS, tower))
        assert refused(tokens, forge(payload=tower))
        if opening == b"[":
            assert refused(tokens, forge(OWNERS_CLAIMS, tower + b"]" * depth))
            assert refused(tokens, forge(payload=tower + b"]" * depth))

    @pytest.mark.parametrize("payload", [b"", b"null", b"[]", b'"x"', b"7", b"{", b"\xff", b"{}{}"])
    def test_payloads_that_are_no_claims(self, tokens, payload):
        """A rightly signed payload that is no JSON object is refused."""
        assert refused(tokens, forge(payload=payload))

    @pytest.mark.parametrize(
        "token",
        [
            "",
            ".",
            "..",
            "...",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            " ",
            "null",
            "Bearer x.y.z",
            "é.é.é",
            "\ud800.\udfff.x",
            "\0.\0.\0",
            "x" * 70_000,
        ],
        ids=range(14),
    )
    def test_what_is_no_token(self, tokens, token):
        """Text that is no token, of any length and any characters, is refused."""
        assert refused(tokens, token)

    @given(st.text(st.characters()), st.text("abcXYZ019-_.=+/ ", max_size=80))
    def test_garbage(self, anything, alphabet):
        """Whatever the text, the answer is `InvalidToken` and no other exception."""
        tokens = Tokens(LIFETIME, KEY)
        assert refused(tokens, anything)
        assert refused(tokens, alphabet)
        assert refused(tokens, f"{OWNERS_TOKEN.partition('.')[0]}.{alphabet}.{alphabet}")

    @given(st.data())
    def test_no_bit_may_change(self, data):
        """A token with any one character changed is refused."""
        tokens = Tokens(LIFETIME, KEY)
        token, _ = issue(tokens)
        place = data.draw(st.integers(0, len(token) - 1))
        letter = data.draw(st.sampled_from("ABCDwxyz0189-_.").filter(lambda c: c != token[place]))
        changed = token[:place] + letter + token[place + 1 :]
        # The last character of a part has bits that stand for nothing.
        assume(not opened_alike(token, changed))
        assert refused(tokens, changed)

    @given(st.integers(0, 300))
    def test_no_part_is_enough(self, length):
        """A token that was cut short is refused."""
        tokens = Tokens(LIFETIME, KEY)
        token, _ = issue(tokens)
        assert refused(tokens, token[: min(length, len(token) - 1)])

    @pytest.mark.parametrize("end", ["=", "==", "====", " ", "\n", "!", "."])
    def test_nothing_may_follow(self, tokens, end):
        """A token with anything behind it is no token: there is one way to write each."""
        token, _ = issue(tokens)
        assert refused(tokens, token + end)

    def test_the_signature_of_another_token(self, tokens):
        """Claims of one token under the signature of another are refused."""
        mine, _ = issue(tokens)
        theirs, _ = tokens.issue(mx="63022", ext="3044", jid=JID, now=NOW)
        swapped = theirs.rpartition(".")[0] + "." + mine.rpartition(".")[2]
        assert refused(tokens, swapped)


def opened_alike(one, other):
    """Tell whether two tokens are the same bytes below their base64."""
    if one.count(".") != other.count("."):
        return False
    try:
        return [*map(opened, one.split("."))] == [*map(opened, other.split("."))]
    except ValueError:
        return False
