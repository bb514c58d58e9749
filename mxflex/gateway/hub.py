"""The fan-out: an event of an extension goes to every open stream of it.

This is its one home. An event is encoded once and kept; each listener gets the same bytes. What
arrives in one turn of the reactor goes to each listener in one piece. The hub knows neither HTTP
nor the MX: events come by `publish` and `announce`, whoever calls them, and go to whatever fulfils
`Listener`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Protocol

import attrs
from twisted.logger import Logger

from mxflex.gateway.history import History, Ids, Missing, StreamEvent, replay

log = Logger()

# Events of one turn are joined up to this size, in bytes: what one TLS record takes (RFC 8446,
# 5.1), less what frames it.
MAX_JOINED_BYTES = 16 * 1024 - 64


class Topic(StrEnum):
    """What a stream may be about."""

    CALLS = "calls"
    CONTACTS = "contacts"
    STATUS = "status"


CALLS_ALONE = frozenset({Topic.CALLS})
GAP = "gap"


class Listener(Protocol):
    """An open stream. Neither method may block, raise, or publish an event."""

    def send(self, data: bytes) -> None:
        """Send the bytes of one or more events, or keep them until the client reads."""

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
    """One extension or one shared topic: its latest events and its streams, in their order.

    Attributes:
        shared: Whether streams of several extensions listen.
        listeners: Those that get every event.
        bystanders: Those of the extension that want other topics: they get the gaps alone.
    """

    history: History
    shared: bool
    listeners: dict[Listener, None] = attrs.field(factory=dict)
    bystanders: dict[Listener, None] = attrs.field(factory=dict)


def _at_once(act: Callable[[], None]) -> None:
    act()


class Hub:
    """Extensions and topics, their histories and their listeners.

    Args:
        clock: Gives the time, in seconds since the epoch.
        encode: Writes an event as bytes.
        gap: Gives the content of a `gap` event: its reason, and since when (seconds) or None.
        history: Events kept for each extension and each topic.
        later: Does something at the end of the reactor's turn; what is published until then is
            sent together. By default each event goes out at once.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        encode: Encoder,
        gap: Callable[[str, float | None], bytes],
        history: int,
        later: Callable[[Callable[[], None]], object] = _at_once,
    ) -> None:
        self._clock = clock
        self._encode = encode
        self._gap = gap
        self._history = history
        self._later = later
        self._ids = Ids()
        self._channels: dict[str, _Channel] = {}
        self._topics = {
            topic: self._make_channel(shared=True) for topic in (Topic.CONTACTS, Topic.STATUS)
        }
        # What this turn has brought: of extensions, or of a single topic. A listener may be in both
        # kinds of channel, and must get its events in their order.
        self._pending: dict[_Channel, list[bytes]] = {}
        self._pending_bytes = 0
        self._scheduled = False
        # How many rounds of sending are under way, one within the other, and who has left since.
        self._sending = 0
        self._left: set[Listener] = set()

    def _make_channel(self, *, shared: bool) -> _Channel:
        return _Channel(History(self._history, self._ids.next(self._clock())), shared)

    # --- Extensions ---------------------------------------------------------------------------

    def open(self, ext: str) -> None:
        """Begin to keep events of an extension; those from before are not known. Idempotent."""
        if ext not in self._channels:
            self._channels[ext] = self._make_channel(shared=False)

    def close(self, ext: str) -> None:
        """Forget an extension and end all its streams. Idempotent."""
        self.flush()
        channel = self._channels.pop(ext, None)
        if channel is None:
            return
        listeners = [*channel.listeners, *channel.bystanders]
        channel.listeners.clear()
        channel.bystanders.clear()
        self._leave_topics(listeners)
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
        return 0 if channel is None else len(channel.listeners) + len(channel.bystanders)

    # --- Streams ------------------------------------------------------------------------------

    def subscribe(
        self,
        ext: str,
        listener: Listener,
        last_event_id: int | None,
        topics: Iterable[Topic] = CALLS_ALONE,
    ) -> Backlog:
        """Add a listener, and give what it missed; both in one step, so that nothing falls between.

        Args:
            ext: An open extension.
            listener: Gets every event from now on.
            last_event_id: The id after which it wants to go on; None for live events alone, -1 for
                an id that is none of ours. When something after it is lost, a `gap` comes first.
            topics: What it wants to hear of.

        Raises:
            KeyError: The extension is not open.
        """
        channel = self._channels[ext]
        # Those who are here already get what has come; the new one finds it in the history.
        self.flush()
        shared = [self._topics[topic] for topic in topics if topic is not Topic.CALLS]
        with_calls = len(shared) < len(frozenset(topics))
        (channel.listeners if with_calls else channel.bystanders)[listener] = None
        for each in shared:
            each.listeners[listener] = None
        histories = [channel.history, *(each.history for each in shared)]
        last_id = max(history.last_id for history in histories)
        if last_event_id is None:
            return Backlog(last_id, [])
        missed = replay(histories, last_event_id)
        frames = [
            event.frame
            for event in missed.events
            if with_calls or event.gap or not channel.history.knows(event.id)
        ]
        if missed.missing is not None:
            # Our ids are times.
            known_since = missed.missing is Missing.EXPIRED
            since = last_event_id / 1_000_000 if known_since else None
            gap = self._gap(missed.missing.value, since)
            frames.insert(0, self._encode(missed.begin, GAP, gap))
        return Backlog(last_id, frames)

    def unsubscribe(self, ext: str, listener: Listener) -> None:
        """Take a listener out. Idempotent."""
        channel = self._channels.get(ext)
        if channel is not None:
            channel.listeners.pop(listener, None)
            channel.bystanders.pop(listener, None)
        self._leave_topics([listener])

    def _leave_topics(self, listeners: Iterable[Listener]) -> None:
        if self._sending:
            self._left.update(listeners)
        for channel in self._topics.values():
            for listener in listeners:
                channel.listeners.pop(listener, None)

    # --- Events -------------------------------------------------------------------------------

    def publish(self, ext: str, name: str, data: bytes) -> None:
        """Give an event of an extension to its streams, and keep it.

        Args:
            ext: The extension; when it is not open, nothing happens.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """
        channel = self._channels.get(ext)
        if channel is not None:
            self._publish(channel, name, data)

    def announce(self, topic: Topic, name: str, data: bytes) -> None:
        """Give an event of a topic that all extensions share to its streams, and keep it.

        Args:
            topic: Not the calls, which belong to an extension.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """
        self._publish(self._topics[topic], name, data)

    def publish_gap(self, reason: str, since: float, only: str | None = None) -> None:
        """Tell every stream that events are lost.

        Args:
            reason: `mx-down`.
            since: From when on, in seconds since the epoch.
            only: The extension whose events are lost; None for all.
        """
        data = self._gap(reason, since)
        for ext in list(self._channels) if only is None else [only]:
            channel = self._channels.get(ext)
            if channel is not None:
                frame = self._publish(channel, GAP, data, gap=True)
                if channel.bystanders:
                    self.flush()
                    self._send(channel.bystanders, frame)

    def announce_gap(self, topic: Topic, reason: str, since: float) -> None:
        """Tell the streams of a topic that events of it are lost; see `publish_gap`."""
        self._publish(self._topics[topic], GAP, self._gap(reason, since), gap=True)

    def _publish(self, channel: _Channel, name: str, data: bytes, *, gap: bool = False) -> bytes:
        event_id = self._ids.next(self._clock())
        frame = self._encode(event_id, name, data)
        if self._must_go_before(channel, frame):
            self.flush()
        channel.history.append(StreamEvent(event_id, frame, gap))
        self._pending.setdefault(channel, []).append(frame)
        self._pending_bytes += len(frame)
        if not self._scheduled:
            self._scheduled = True
            self._later(self._turn_ended)
        return frame

    def _must_go_before(self, channel: _Channel, frame: bytes) -> bool:
        """Tell whether what is pending has to be sent before a frame is put to it."""
        if not self._pending:
            return False
        if self._pending_bytes + len(frame) > MAX_JOINED_BYTES:
            return True
        mixed = channel.shared or next(iter(self._pending)).shared
        return mixed and channel not in self._pending

    def _turn_ended(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send what this turn has brought so far."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        self._pending_bytes = 0
        for channel, frames in pending.items():
            self._send(channel.listeners, frames[0] if len(frames) == 1 else b"".join(frames))

    def _send(self, listeners: dict[Listener, None], data: bytes) -> None:
        # Whoever leaves while this runs, since others are sent something, gets nothing any more.
        left = self._left
        self._sending += 1
        for listener in list(listeners):
            if left and listener in left:
                continue
            try:
                listener.send(data)
            except Exception:
                log.failure("a stream failed and is ended")
                listeners.pop(listener, None)
                self._leave_topics([listener])
                _end(listener)
        self._sending -= 1
        if not self._sending:
            left.clear()


def _end(listener: Listener) -> None:
    try:
        listener.end()
    except Exception:
        log.failure("a stream failed at its end")
