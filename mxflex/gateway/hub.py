"""The fan-out: an event of an extension goes to every open stream of it.

This is its one home. An event is encoded once and kept; each listener gets the same bytes. The hub
knows neither HTTP nor the MX: events come by `publish`, whoever calls it, and go to whatever
fulfils `Listener`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.logger import Logger

from mxflex.gateway.history import History, Missing, StreamEvent

log = Logger()


class Listener(Protocol):
    """An open stream. Neither method may block, raise, or publish an event."""

    def send(self, frame: bytes) -> None:
        """Send the bytes of one event, or keep them until the client reads."""

    def end(self) -> None:
        """End the stream; nothing is sent any more."""


class Encoder(Protocol):
    """Writes an event as the bytes of a stream."""

    def __call__(self, event_id: int, name: str, data: bytes) -> bytes:
        """Give the bytes of the event.

        Args:
            event_id: See `StreamEvent`.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """


@attrs.frozen
class Backlog:
    """What a new listener begins with.

    Attributes:
        last_id: The id of the latest event before the listener's first live one.
        frames: The kept events that it missed, in order.
    """

    last_id: int
    frames: list[bytes]


@attrs.define(eq=False)
class _Channel:
    """One extension: its latest events and its open streams, in the order they came."""

    history: History
    listeners: dict[Listener, None] = attrs.field(factory=dict)


class Hub:
    """Extensions, their histories and their listeners.

    Args:
        clock: Gives the time, in seconds since the epoch.
        encode: Writes an event as bytes.
        gap: Gives the content of a `gap` event: its reason, and since when (seconds) or None.
        history: Events kept for each extension.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        encode: Encoder,
        gap: Callable[[str, float | None], bytes],
        history: int,
    ) -> None:
        self._clock = clock
        self._encode = encode
        self._gap = gap
        self._history = history
        self._channels: dict[str, _Channel] = {}
        # No closed history has an id beyond this one.
        self._closed_at = 0

    def open(self, ext: str) -> None:
        """Begin to keep events of an extension; those from before are not known. Idempotent."""
        if ext not in self._channels:
            history = History(self._history, self._clock(), self._closed_at)
            self._channels[ext] = _Channel(history)

    def close(self, ext: str) -> None:
        """Forget an extension and end all its streams. Idempotent."""
        channel = self._channels.pop(ext, None)
        if channel is not None:
            self._closed_at = max(self._closed_at, channel.history.last_id)
            listeners, channel.listeners = channel.listeners, {}
            for listener in listeners:
                _end(listener)

    def close_all(self) -> None:
        """Forget every extension and end all streams."""
        for ext in list(self._channels):
            self.close(ext)

    def is_open(self, ext: str) -> bool:
        """Tell whether events of the extension are kept and may be listened to."""
        return ext in self._channels

    def listeners(self, ext: str) -> int:
        """Give how many streams of an extension are open."""
        channel = self._channels.get(ext)
        return 0 if channel is None else len(channel.listeners)

    def subscribe(self, ext: str, listener: Listener, last_event_id: int | None) -> Backlog:
        """Add a listener, and give what it missed; both in one step, so that nothing falls between.

        Args:
            ext: An open extension.
            listener: Gets every event from now on.
            last_event_id: The id after which it wants to go on; None for live events alone, -1 for
                an id that is none of ours. When something after it is lost, a `gap` comes first.

        Raises:
            KeyError: The extension is not open.
        """
        channel = self._channels[ext]
        channel.listeners[listener] = None
        history = channel.history
        if last_event_id is None:
            return Backlog(history.last_id, [])
        missed = history.after(last_event_id)
        if isinstance(missed, Missing):
            # Something is lost; what is still there is not kept back for that.
            begin, newer = (
                (history.last_id, []) if last_event_id < 0 else history.newer(last_event_id)
            )
            gap = self._encode(begin, "gap", self._gap(missed.value, None))
            return Backlog(history.last_id, [gap, *(event.frame for event in newer)])
        return Backlog(history.last_id, [event.frame for event in missed])

    def unsubscribe(self, ext: str, listener: Listener) -> None:
        """Take a listener out. Idempotent."""
        channel = self._channels.get(ext)
        if channel is not None:
            channel.listeners.pop(listener, None)

    def publish(self, ext: str, name: str, data: bytes) -> None:
        """Give an event to every stream of the extension, and keep it.

        Args:
            ext: The extension; when it is not open, nothing happens.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """
        channel = self._channels.get(ext)
        if channel is None:
            return
        event_id = channel.history.next_id(self._clock())
        frame = self._encode(event_id, name, data)
        channel.history.append(StreamEvent(event_id, frame))
        for listener in list(channel.listeners):
            # One that was cut off while this runs has left the dict.
            if listener not in channel.listeners:
                continue
            try:
                listener.send(frame)
            except Exception:
                log.failure("a stream failed and is ended")
                channel.listeners.pop(listener, None)
                _end(listener)

    def publish_gap(self, reason: str, since: float, only: str | None = None) -> None:
        """Tell every stream that events are lost.

        Args:
            reason: `mx-down`.
            since: From when on, in seconds since the epoch.
            only: The extension whose events are lost; None for all.
        """
        data = self._gap(reason, since)
        for ext in list(self._channels) if only is None else [only]:
            self.publish(ext, "gap", data)


def _end(listener: Listener) -> None:
    try:
        listener.end()
    except Exception:
        log.failure("a stream failed at its end")
