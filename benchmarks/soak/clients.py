"""One client, over its many connections: when it goes, how, and for how long."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Protocol

import attrs

from benchmarks.soak.checking import Fault, Watch
from benchmarks.soak.connections import Carrier, Leaving

# After a stream that could not be opened, or was cut off, in seconds.
AGAIN = 1.0
# A client that stops reading is cut off within this time, or goes on reading, in seconds.
STALL = (60.0, 150.0)
NAP = (1.0, 10.0)


class Way(StrEnum):
    """How a client's streams travel."""

    PLAIN = "HTTP/1.1"
    TLS = "HTTP/1.1, TLS"
    H2 = "HTTP/2"


_LEAVINGS = {
    Way.PLAIN: (Leaving.FIN, Leaving.RESET, Leaving.HALF),
    Way.TLS: (Leaving.FIN, Leaving.RESET, Leaving.ABRUPT),
    # Each takes 25 streams with it.
    Way.H2: (*(Leaving.RST_STREAM,) * 9, Leaving.GOAWAY),
}


class Opener(Protocol):
    """Opens a stream for a client."""

    def __call__(
        self, client: RovingClient, headers: Mapping[str, str], *, narrow: bool
    ) -> Carrier:
        """Give the stream, which may still have to be opened."""


@attrs.define(eq=False, kw_only=True)
class RovingClient:
    """A client that wants to see every event of an extension, and does not stay.

    Args:
        clock: Gives the time and delayed calls.
        way: How its streams travel.
        open_stream: Opens one.
        token: Gives the token to ask with.
        watch: What it has had.
        chance: Decides.
        did: What was done, counted.
        narrow: Whether it has hardly any buffers, so that the server notices when it stops reading.

    Attributes:
        is_open: Whether events come.
        is_stalled: Whether it does not read.
        cut_off: How often the server cut it off for that.
    """

    clock: Any
    way: Way
    open_stream: Opener
    token: Callable[[], str]
    watch: Watch
    chance: random.Random
    did: Counter[str]
    narrow: bool = False
    is_open: bool = False
    is_stalled: bool = False
    cut_off: int = 0
    # The stream of the moment, and what was done with it.
    _carrier: Carrier | None = None
    _leaving: bool = False
    _has_stalled: bool = False
    _pause: float = 0.0
    _reopening: Any = None
    _stays_away: bool = False
    _waking: Any = None

    # --- What happens to it -----------------------------------------------------------------------

    def open(self) -> None:
        """Ask for the stream, from the last event on."""
        self._reopening = None
        self._leaving = self._has_stalled = False
        self.watch.reopen()
        headers = {"Authorization": f"Bearer {self.token()}"}
        if self.watch.last_id:
            headers["Last-Event-ID"] = str(self.watch.last_id)
        self._carrier = self.open_stream(self, headers, narrow=self.narrow)

    def opened(self) -> None:
        self.is_open = True
        self.did["opened"] += 1

    def feed(self, data: bytes) -> None:
        self.watch.feed(data, self.clock.seconds())

    def ended(self, why: str) -> None:
        if self._carrier is None:
            return
        self._carrier = None
        self.is_open = self.is_stalled = False
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        pause = self._pause
        if not self._leaving:
            pause = AGAIN
            if why == "unreachable":
                self.watch.ledger.fault(Fault.UNREACHABLE, self.way)
            elif why:
                self.watch.ledger.fault(Fault.REFUSED, f"{self.way}: {why}")
            elif self._has_stalled:
                self.cut_off += 1
                self.did["cut off as it does not read"] += 1
            else:
                self.watch.ledger.fault(Fault.CUT, self.way)
        if not self._stays_away:
            self._reopening = self.clock.callLater(pause, self.open)

    def left(self) -> None:
        self._leaving = True
        self._pause = self._choose_pause()
        self.did["closed by the stream beside it"] += 1

    # --- What it does -----------------------------------------------------------------------------

    def go(self) -> None:
        """Leave, in one way or another, and come back."""
        if self.is_open and not self._leaving:
            self._leave(self.chance.choice(_LEAVINGS[self.way]))

    def nap(self) -> None:
        """Stop reading for a moment, as a busy page does."""
        self._sleep(self.chance.uniform(*NAP), "stopped reading for a moment")

    def stall(self) -> None:
        """Stop reading for long, so that the server has to cut the stream off."""
        if self.is_open and not self._leaving:
            self._has_stalled = True
            self._sleep(self.chance.uniform(*STALL), "stopped reading")

    def _leave(self, how: Leaving) -> None:
        if self._carrier is None:
            return
        self._leaving = True
        self._pause = self._choose_pause()
        self.did[f"{self.way}: {how}"] += 1
        # It reads what comes until the end.
        self._wake()
        self._carrier.leave(how)

    def _choose_pause(self) -> float:
        kind = self.chance.random()
        if kind < 0.6:  # noqa: PLR2004 - most are back at once
            return 0.0
        return self.chance.uniform(0.1, 5.0) if kind < 0.9 else self.chance.uniform(30.0, 60.0)  # noqa: PLR2004

    def _sleep(self, seconds: float, words: str) -> None:
        if self.is_open and not self._leaving and not self.is_stalled and self._carrier:
            self.is_stalled = True
            self.did[words] += 1
            self._carrier.pause()
            self._waking = self.clock.callLater(seconds, self._wake)

    def _wake(self) -> None:
        if self._waking is not None and self._waking.active():
            self._waking.cancel()
        self._waking = None
        if self.is_stalled and self._carrier is not None:
            self.is_stalled = False
            self.watch.resume()
            self._carrier.resume()

    # --- The end ----------------------------------------------------------------------------------

    def stay(self) -> None:
        """Come back now, and read."""
        self._wake()
        if self._reopening is not None and self._reopening.active():
            self._reopening.cancel()
            self.open()

    def quit(self) -> None:
        """Leave for good."""
        self._stays_away = True
        if self._reopening is not None and self._reopening.active():
            self._reopening.cancel()
        if self._carrier is not None:
            self._leaving = True
            self._wake()
            self._carrier.leave(Leaving.FIN)
