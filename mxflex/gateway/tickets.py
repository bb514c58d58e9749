"""Tickets: each opens one event stream, so that no token needs to stand in a URL.

A browser's `EventSource` sends no headers, and URLs are kept in histories and in logs of proxies.
What they keep of a ticket is worth nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha256

import attrs

from mxflex.errors import InvalidToken, ServiceUnavailable, TooManyRequests
from mxflex.gateway.tokens import Identity

# Seconds that a ticket may wait to be used: a browser opens its stream at once.
TICKET_SECONDS = 30
TICKET_BYTES = 32
# Tickets that may be unused at one time: as many as one token may open streams by default, and as
# many as streams may be open in all. Some 500 bytes each.
MAX_OF_PERSON = 100
MAX_IN_ALL = 20_000


@attrs.frozen(kw_only=True)
class Ticket:
    """What opens one stream.

    Attributes:
        text: The ticket itself.
        expires_in: Seconds that it may be used.
    """

    text: str = attrs.field(repr=False)
    expires_in: int


@attrs.frozen
class _Unused:
    identity: Identity
    ends: float


class Tickets:
    """Gives tickets, and takes each of them once.

    Kept is a hash, so nothing here opens a stream for whoever sees it; and finding a hash takes a
    time that tells nothing of how much of a ticket was guessed.

    Args:
        now: Gives the time, in seconds since the epoch.

    Attributes:
        results: How many were `issued`, and not, since there were too many: `refused`; how many
            were `redeemed`, and how often what came was none, or none any more: `invalid`.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.results = {"issued": 0, "refused": 0, "redeemed": 0, "invalid": 0}
        # In the order in which they were given.
        self._unused: dict[bytes, _Unused] = {}
        # How many of them each person has, by id and extension: tokens are made too easily.
        self._of_person: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        """Tell how many are kept."""
        return len(self._unused)

    def issue(self, identity: Identity) -> Ticket:
        """Give a ticket for a stream; it ends with the token, if that is sooner.

        Args:
            identity: Whom the stream is for.

        Raises:
            TooManyRequests: This person has too many that are unused.
            ServiceUnavailable: There are too many in all.
        """
        now = self._now()
        self._forget_ended(now)
        person = _person(identity)
        count = self._of_person.get(person, 0)
        if count >= MAX_OF_PERSON:
            self.results["refused"] += 1
            raise TooManyRequests("too many tickets that are not used", TICKET_SECONDS)
        if len(self._unused) >= MAX_IN_ALL:
            self.results["refused"] += 1
            raise ServiceUnavailable("too many tickets on this server", TICKET_SECONDS)
        text = secrets.token_urlsafe(TICKET_BYTES)
        ends = min(now + TICKET_SECONDS, identity.expires_at)
        self._unused[_hash(text)] = _Unused(identity, ends)
        self._of_person[person] = count + 1
        self.results["issued"] += 1
        return Ticket(text=text, expires_in=int(min(TICKET_SECONDS, identity.expires_at - now)))

    def redeem(self, text: str) -> Identity:
        """Take a ticket, and give whom its stream is for.

        Raises:
            InvalidToken: There is no such ticket, or it has been used or has ended.
        """
        digest = _hash(text)
        unused = self._unused.get(digest)
        if unused is not None:
            self._remove(digest)
            if _is_good(unused, self._now()):
                self.results["redeemed"] += 1
                return unused.identity
        self.results["invalid"] += 1
        raise InvalidToken("the ticket is not valid, or has been used")

    def _forget_ended(self, now: float) -> None:
        # One that ended early, with its token, waits for those given before it.
        while self._unused:
            digest, unused = next(iter(self._unused.items()))
            if _is_good(unused, now):
                return
            self._remove(digest)

    def _remove(self, digest: bytes) -> None:
        person = _person(self._unused.pop(digest).identity)
        left = self._of_person[person] - 1
        if left:
            self._of_person[person] = left
        else:
            del self._of_person[person]


def _is_good(unused: _Unused, now: float) -> bool:
    # A clock that was set back must not make tickets last.
    return 0 < unused.ends - now <= TICKET_SECONDS


def _person(identity: Identity) -> tuple[int, str]:
    return identity.jid, identity.ext


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8")).digest()
