"""Tokens: JSON Web Tokens that say who a request speaks for.

Source: owner's description, "Authorization of the user"; RFC 7519; docs/api.md, "Tokens".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import attrs
import jwt

from mxflex.errors import Forbidden, InvalidToken

ALGORITHM = "HS256"
KEY_BYTES = 64
# `iat` lies this far in the past, so that a client whose clock is slow does not take the token for
# one from the future. In the owner's example exp - iat is 3610.
CLOCK_SKEW_SECONDS = 10
# Good tokens that are remembered, with what they say: a client that polls shows the same one each
# time. Some 700 bytes each. Bad ones are not, so nobody without a token can push another's out.
MAX_REMEMBERED = 4096


@attrs.frozen(kw_only=True)
class Identity:
    """Whom a token speaks for.

    Attributes:
        mx: Serial number of the MX.
        ext: The person's extension.
        jid: The person's user id, over 2**53.
        expires_at: When the token ends, in seconds since the epoch.
        auth_time: When the person has logged in, in seconds since the epoch.
    """

    mx: str
    ext: str
    jid: int
    expires_at: int
    auth_time: int

    @property
    def login(self) -> Hashable:
        """What all tokens of one login share, however often they were renewed."""
        return (self.mx, self.ext, self.jid, self.auth_time)


class Tokens:
    """Issues and checks tokens. The time is always an argument, in seconds since the epoch.

    Args:
        lifetime: Seconds that a token lasts.
        key: The secret that signs; None makes a random one, so that tokens end with the process.
        max_age: Seconds since the login that renewed tokens may last. 0: none are renewed.

    Attributes:
        lifetime, max_age: As given; may be changed, for the tokens to come.
    """

    def __init__(self, lifetime: int, key: bytes | None = None, max_age: int = 0) -> None:
        self.lifetime = lifetime
        self.max_age = max_age
        self._key = key or secrets.token_bytes(KEY_BYTES)
        self._signing = hmac.new(self._key, digestmod=hashlib.sha256)
        self._read = lru_cache(MAX_REMEMBERED)(self._read_anew)

    def issue(self, *, mx: str, ext: str, jid: int, now: float) -> tuple[str, Identity]:
        """Make a token and say what it stands for."""
        expires_at = int(now) + self.lifetime
        identity = Identity(mx=mx, ext=ext, jid=jid, expires_at=expires_at, auth_time=int(now))
        return self._sign(_claims(identity, now)), identity

    def renew(self, identity: Identity, now: float) -> tuple[str, Identity]:
        """Make a token that goes on for one that is good, and say what it stands for.

        Source: `auth_time` is OpenID Connect's word (Core 1.0, 2).

        Raises:
            Forbidden: The login lies too far back for a token that would last any longer.
        """
        last = identity.auth_time + self.max_age
        if last <= identity.expires_at:
            raise Forbidden("the login is too old to be renewed, log in again")
        renewed = attrs.evolve(identity, expires_at=min(int(now) + self.lifetime, last))
        # The token of a login has the contract's claims alone, and tells by `iat` when it was.
        claims = {**_claims(renewed, now), "auth_time": renewed.auth_time}
        return self._sign(claims), renewed

    def _sign(self, claims: dict[str, str | int]) -> str:
        # PyJWT would look at the key anew each time: whether it is a certificate, or JSON. It takes
        # several times as long as all the rest, and is for those that verify.
        signed = _HEADER + b"." + _base64url(_to_json(claims).encode("ascii"))
        signing = self._signing.copy()
        signing.update(signed)
        return (signed + b"." + _base64url(signing.digest())).decode("ascii")

    def verify(self, token: str, now: float) -> Identity:
        """Give whom a token speaks for.

        Raises:
            InvalidToken: Malformed, signed otherwise, of another algorithm, without its claims, or
                past its end.
        """
        identity = self._read(token)
        if now >= identity.expires_at:
            raise InvalidToken("the access token has expired")
        return identity

    def _read_anew(self, token: str) -> Identity:
        """Give what a token says, whenever it ends."""
        if "=" in token:
            # RFC 7515, 2. PyJWT would take a token and its padded form for the same.
            raise InvalidToken("the access token is not valid")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                options={
                    "require": ["mx", "ext", "sub", "iat", "exp"],
                    # PyJWT would compare with a clock of its own, and refuse a numeric `sub`.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_sub": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken("the access token is not valid") from error
        if not _has_the_right_types(claims):
            raise InvalidToken("the access token is not valid")
        return Identity(
            mx=claims["mx"],
            ext=claims["ext"],
            jid=claims["sub"],
            expires_at=claims["exp"],
            auth_time=claims.get("auth_time", claims["iat"] + CLOCK_SKEW_SECONDS),
        )


def _claims(identity: Identity, now: float) -> dict[str, str | int]:
    return {
        "mx": identity.mx,
        "ext": identity.ext,
        # RFC 7519 wants text here, the owner's clients read a number.
        "sub": identity.jid,
        "iat": int(now) - CLOCK_SKEW_SECONDS,
        "exp": identity.expires_at,
    }


def _base64url(data: bytes) -> bytes:
    """Write base64 as RFC 7515, 2 does: for URLs, without padding."""
    return urlsafe_b64encode(data).rstrip(b"=")


_to_json = json.JSONEncoder(separators=(",", ":")).encode
_HEADER = _base64url(_to_json({"alg": ALGORITHM, "typ": "JWT"}).encode("ascii"))


def _has_the_right_types(claims: dict[str, Any]) -> bool:
    numbers = (claims["sub"], claims["iat"], claims["exp"], claims.get("auth_time", 0))
    return (
        all(type(number) is int for number in numbers)
        and isinstance(claims["mx"], str)
        and isinstance(claims["ext"], str)
    )
