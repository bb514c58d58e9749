"""From the link to the hub: what the MX tells becomes what the streams say."""

from __future__ import annotations

from collections.abc import Callable

from mxflex.gateway.calls import Calls
from mxflex.gateway.hub import Hub
from mxflex.mx.monitors import Monitors
from mxflex.wire.messages import CallEvent

MX_DOWN = "mx-down"


class Relay:
    """Listens to the link (see `mxflex.mx.link.LinkListener`).

    Args:
        clock: Gives the time, in seconds since the epoch.
        hub: Where events go.
        calls: What is known of calls.
        monitors: The extensions that are watched.
        encode: Gives the name and the content of an event for clients; None for one they do not
            get.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        hub: Hub,
        calls: Calls,
        monitors: Monitors,
        encode: Callable[[str, CallEvent], tuple[str, bytes] | None],
    ) -> None:
        self._clock = clock
        self._hub = hub
        self._calls = calls
        self._monitors = monitors
        self._encode = encode
        # When the link was lost the last time, and whether it still is. Streams may have opened
        # before it is up for the first time, too.
        self._down = True
        self._lost_at = clock()
        monitors.on_restored = self._monitor_restored

    def call_event(self, ext: str, event: CallEvent) -> None:
        """Give an event to the registry of calls, then to the streams."""
        # First the state, then the word: a client that asks on hearing it finds it true.
        self._calls.observe(ext, event)
        encoded = self._encode(ext, event)
        if encoded is not None:
            self._hub.publish(ext, *encoded)

    def link_down(self) -> None:
        """Remember since when events are lost."""
        self._down = True
        self._lost_at = self._clock()

    def link_up(self) -> None:
        """Tell the streams what they missed, and learn what is going on now."""
        if not self._down:
            return
        self._down = False
        for ext in self._monitors.wanted:
            # The restored monitors may have told of calls already.
            self._calls.resume(ext, self._lost_at)
        self._hub.publish_gap(MX_DOWN, self._lost_at)

    def _monitor_restored(self, ext: str) -> None:
        """Tell the streams of one extension what they missed while the link was up without it."""
        if not self._down:
            self._calls.resume(ext, self._clock())
            self._hub.publish_gap(MX_DOWN, self._lost_at, ext)
