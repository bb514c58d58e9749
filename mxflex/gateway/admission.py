"""How many streams may be open: with one token, from one address, and in all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

from mxflex.errors import ServiceUnavailable, TooManyRequests
from mxflex.gateway.throttle import network_of
from mxflex.gateway.tokens import Identity

# When it is worth trying again, in seconds. Streams end when they please, so this is no promise; it
# keeps those who are refused from asking all the time.
RETRY_SECONDS = 30.0
# The same for a daemon that stops: mostly another one takes its place within seconds.
RESTART_SECONDS = 5.0


@attrs.frozen
class Place:
    """What an open stream counts as.

    Attributes:
        identity: Whom it is for.
        network: Where its client is.
    """

    identity: Identity
    network: str


class Admission:
    """Counts streams, and lets no more be opened than may.

    Only what is open is counted, and nothing kept of what was: so the bounds on streams are also
    those on memory.

    Args:
        max_per_token: Streams with one token, and those renewed from it.
        max_per_address: Streams from one address; in IPv6 from a /64.
        max_streams: Streams in all.

    Attributes:
        max_streams: As given.
        open: How many are counted now.
        refused: How many have been refused, by the name of the limit; `stopping` at the end.
    """

    def __init__(self, max_per_token: int, max_per_address: int, max_streams: int) -> None:
        self.limit(max_per_token, max_per_address, max_streams)
        # By login: a token that was renewed counts as the one before.
        self._of_token: dict[Hashable, int] = {}
        self._of_network: dict[str, int] = {}
        self.open = 0
        self.refused = {"max_per_token": 0, "max_per_address": 0, "max_streams": 0, "stopping": 0}
        self._stopping = False

    def limit(self, max_per_token: int, max_per_address: int, max_streams: int) -> None:
        """Set other limits; streams that are open stay, even if there are more of them."""
        self._max_per_token = max_per_token
        self._max_per_address = max_per_address
        self.max_streams = max_streams

    def admit(self, identity: Identity, address: str) -> Place:
        """Count a stream that is about to open; `leave` must follow, once, however it ends.

        Args:
            identity: What its token says.
            address: Where its client is.

        Raises:
            TooManyRequests: The token, or the address, has as many as it may.
            ServiceUnavailable: There are as many in all as may be, or the daemon stops.
        """
        if self._stopping:
            self.refused["stopping"] += 1
            raise ServiceUnavailable("the server is about to stop", RESTART_SECONDS)
        network = network_of(address)
        if self._of_token.get(identity.login, 0) >= self._max_per_token:
            self.refused["max_per_token"] += 1
            raise TooManyRequests("too many event streams with this token", RETRY_SECONDS)
        if self._of_network.get(network, 0) >= self._max_per_address:
            self.refused["max_per_address"] += 1
            raise TooManyRequests("too many event streams from this address", RETRY_SECONDS)
        if self.open >= self.max_streams:
            self.refused["max_streams"] += 1
            raise ServiceUnavailable("too many event streams on this server", RETRY_SECONDS)
        self._of_token[identity.login] = self._of_token.get(identity.login, 0) + 1
        self._of_network[network] = self._of_network.get(network, 0) + 1
        self.open += 1
        return Place(identity, network)

    def leave(self, place: Place) -> None:
        """Count a stream no more."""
        _take_one(self._of_token, place.identity.login)
        _take_one(self._of_network, place.network)
        self.open -= 1

    def stop(self) -> None:
        """Refuse all that come from now on."""
        self._stopping = True


def _take_one(counts: dict[Any, int], key: Hashable) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
