"""Failed logins, counted by name and by address, so that passwords cannot be tried at will."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b

from mxflex.errors import LoginRefused, TooManyRequests

# Names and addresses that are remembered at the most: what an attacker sends must not fill the
# memory. When it is full the one that failed longest ago goes.
MAX_KEYS = 20_000

# Whether it is a login or an address, and which.
_Key = tuple[str, bytes]


class Throttle:
    """Refuses a login while its name or its address has failed too often lately.

    The time is always an argument, in seconds. It may be that of a clock which is set back now and
    then.

    Args:
        max_failures: Failures within the window that are still let through.
        window: Length of the window, in seconds.
    """

    def __init__(self, max_failures: int, window: float) -> None:
        self._max_failures = max_failures
        self._window = window
        # Ordered by the latest failure, the oldest first; only failures within the window count.
        self._failures: dict[_Key, deque[float]] = {}
        self._latest = 0.0
        self._set_back = 0.0

    def limit(self, max_failures: int, window: float) -> None:
        """Set other limits; the failures so far count by them."""
        self._max_failures = max_failures
        self._window = window
        self._failures = {
            key: deque(times, maxlen=max_failures) for key, times in self._failures.items()
        }

    def check(self, login: str, address: str, now: float) -> None:
        """Let a login try, or not.

        Raises:
            TooManyRequests: Too many failures; says after how many seconds it is worth trying.
        """
        now = self._steady(now)
        wait = max(self._wait(key, now) for key in _keys(login, address))
        if wait > 0:
            raise TooManyRequests("too many failed logins, try again later", wait)

    def failed(self, login: str, address: str, now: float) -> None:
        """Count a login that the MX refused."""
        now = self._steady(now)
        for key in _keys(login, address):
            times = self._failures.pop(key, None) or deque(maxlen=self._max_failures)
            times.append(now)
            self._failures[key] = times
        self._forget_old(now)

    def succeeded(self, login: str) -> None:
        """Forget the failures of a name: whoever knows the password may have mistyped it.

        Those of the address stay; or else a good login now and then would let bad ones go on.
        """
        self._failures.pop(_login_key(login), None)

    @contextmanager
    def attempt(self, login: str, address: str, now: Callable[[], float]) -> Iterator[None]:
        """Let a login try; a `LoginRefused` from within is counted.

        Attempts that are under way when the last permitted one fails are not called back.

        Raises:
            TooManyRequests: As `check`.
        """
        self.check(login, address, now())
        try:
            yield
        except LoginRefused:
            self.failed(login, address, now())
            raise

    def _steady(self, now: float) -> float:
        """Give a time that never goes back: nobody is to wait until a wrong clock's time comes."""
        self._set_back += max(0.0, self._latest - now)
        self._latest = now
        return now + self._set_back

    def _wait(self, key: _Key, now: float) -> float:
        times = self._failures.get(key)
        if times is None or len(times) < self._max_failures:
            return 0.0
        return max(0.0, times[0] + self._window - now)

    def _forget_old(self, now: float) -> None:
        while self._failures:
            key, times = next(iter(self._failures.items()))
            if times[-1] + self._window > now and len(self._failures) <= MAX_KEYS:
                return
            del self._failures[key]


def _login_key(login: str) -> _Key:
    # The MX may not tell `Anna` from `anna`; an attacker must not gain by spelling, nor fill the
    # memory by long names.
    folded = login.casefold().encode("utf-8", "surrogatepass")
    return "login", blake2b(folded, digest_size=16).digest()


def _keys(login: str, address: str) -> tuple[_Key, _Key]:
    return _login_key(login), ("address", network_of(address).encode("utf-8", "surrogatepass"))


# Each login needs it three times.
@lru_cache(256)
def network_of(address: str) -> str:
    """Give what one attacker can hold: an IPv4 address, or a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
