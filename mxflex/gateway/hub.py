"""The fan-out: an event of an extension goes to every open stream of it.

This is its one home. An event is encoded once and kept; each listener gets the same bytes. What
arrives in one turn of the reactor goes to each listener in one piece. The hub knows neither HTTP
nor the MX: events come by `publish` and `announce`, whoever calls them, and go to whatever fulfils
`Listener`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Protocol

import attrs
from twisted.logger import Logger

from mxflex.gateway.history import History, Ids, Missing, StreamEvent, replay
from mxflex.measures import FAN_OUT_BOUNDS, Durations

log = Logger()

# Events of one turn are joined up to this size, in bytes: as a chunk, too, it fits into a frame of
# HTTP/2 (RFC 9113, 4.2), and into a TLS record where those are as long as may be (RFC 8446, 5.1).
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


class Audience(Protocol):
    """The open streams of a channel."""

    def add(self, listener: Listener) -> None:
        """Add a stream; it gets what is sent from now on."""

    def remove(self, listener: Listener) -> None:
        """Take a stream out; it gets nothing any more. Idempotent."""

    def __len__(self) -> int:
        """Give how many streams there are."""

    def __iter__(self) -> Iterator[Listener]:
        """Give the streams."""

    def send_at_once(self, data: bytes) -> list[Listener]:
        """Send the bytes of events to those streams that can be sent to together, if any.

        It calls nobody who might call the hub.

        Returns:
            Those who have not got them, as they are now.
        """


class Listeners:
    """An audience in which each stream is sent to by itself."""

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}

    def add(self, listener: Listener) -> None:
        """See `Audience`."""
        self._listeners[listener] = None

    def remove(self, listener: Listener) -> None:
        """See `Audience`."""
        self._listeners.pop(listener, None)

    def __len__(self) -> int:
        return len(self._listeners)

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._listeners)

    def send_at_once(self, _data: bytes) -> list[Listener]:
        """Give all of them."""
        return list(self._listeners)


class Observer(Protocol):
    """Hears of each event once, whoever listens. It may not block, raise, or publish an event."""

    def event(self, topic: Topic | None, ext: str | None, name: str, data: bytes) -> None:
        """Take note of an event.

        Args:
            topic: What it is about; None for a gap in all topics.
            ext: Whose it is; None for one of all extensions.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """


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
        frames: The kept events that it missed, in order, and the present states of its topics.
        audiences: What it is in now.
    """

    last_id: int
    frames: list[bytes]
    audiences: list[Audience]


@attrs.frozen
class _State:
    """How things stand, by the latest event of a channel.

    Attributes:
        id: The id of that event; 0 when there was none.
        name: Its name.
        data: Its content.
    """

    id: int
    name: str
    data: bytes


@attrs.define(eq=False)
class _Channel:
    """Events that the same streams get: the latest ones, and these streams.

    Attributes:
        shared: Whether streams of several extensions listen.
        state: What every stream is told at its start; None where there is no such thing.
    """

    history: History
    listeners: Audience
    shared: bool
    state: _State | None = None


@attrs.frozen
class _Extension:
    """The channels of one extension.

    Attributes:
        calls: Everything.
        gaps: The gaps alone, for streams that want other topics than the calls.
    """

    calls: _Channel
    gaps: _Channel

    @property
    def channels(self) -> tuple[_Channel, _Channel]:
        return self.calls, self.gaps


def _at_once(act: Callable[[], None]) -> None:
    act()


def _never() -> None:
    return None


class Hub:
    """Extensions and topics, their histories and their listeners.

    Args:
        clock: Gives the time, in seconds since the epoch.
        encode: Writes an event as bytes.
        gap: Gives the content of a `gap` event: its reason, and since when (seconds) or None.
        history: Events kept for each extension and each topic.
        later: Does something at the end of the reactor's turn; what is published until then is
            sent together. By default each event goes out at once.
        arrived: Gives when what is published now came from the MX, by the same clock; None for what
            did not come from there.
        audience: Makes what holds the streams of a channel.

    Attributes:
        published: How many events there were so far, by name.
        sent: How many copies of them have gone to streams as they came; what a stream had missed
            before is not among them.
        durations: How long it took from the arrival of an event to the last stream. What one turn
            brings counts as one, from the first of it on.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        encode: Encoder,
        gap: Callable[[str, float | None], bytes],
        history: int,
        later: Callable[[Callable[[], None]], object] = _at_once,
        *,
        arrived: Callable[[], float | None] = _never,
        audience: Callable[[], Audience] = Listeners,
    ) -> None:
        self._clock = clock
        self._encode = encode
        self._gap = gap
        self._history = history
        self._later = later
        self._arrived = arrived
        self._audience = audience
        self.published: Counter[str] = Counter()
        self.sent = 0
        self.durations = Durations(FAN_OUT_BOUNDS)
        self._ids = Ids()
        self._observers: list[Observer] = []
        self._extensions: dict[str, _Extension] = {}
        self._topics = {
            topic: self._channel(self._next_id(), shared=True)
            for topic in (Topic.CONTACTS, Topic.STATUS)
        }
        # What this turn has brought: of extensions, or of a single topic. A listener may be in both
        # kinds of channel, and must get its events in their order.
        self._pending: dict[_Channel, list[bytes]] = {}
        self._pending_bytes = 0
        self._since: float | None = None
        self._scheduled = False
        # How many rounds of sending are under way, one within the other, and who has left since.
        self._sending = 0
        self._left: set[Listener] = set()

    def _channel(self, begin: int, *, shared: bool) -> _Channel:
        return _Channel(History(self._history, begin), self._audience(), shared)

    def _next_id(self) -> int:
        return self._ids.next(self._clock())

    def keep(self, history: int) -> None:
        """Keep so many events for each extension and each topic from now on."""
        self._history = history
        extensions = (each for known in self._extensions.values() for each in known.channels)
        for channel in (*self._topics.values(), *extensions):
            channel.history.resize(history)

    # --- Extensions ---------------------------------------------------------------------------

    def open(self, ext: str) -> None:
        """Begin to keep events of an extension; those from before are not known. Idempotent."""
        if ext not in self._extensions:
            begin = self._next_id()
            calls, gaps = (self._channel(begin, shared=False) for _ in range(2))
            self._extensions[ext] = _Extension(calls, gaps)

    def close(self, ext: str) -> None:
        """Forget an extension and end all its streams. Idempotent."""
        self.flush()
        extension = self._extensions.pop(ext, None)
        if extension is None:
            return
        listeners = [each for channel in extension.channels for each in channel.listeners]
        for listener in listeners:
            self._leave(extension, listener)
        for listener in listeners:
            _end(listener)

    def is_open(self, ext: str) -> bool:
        """Tell whether events of the extension are kept and may be listened to."""
        return ext in self._extensions

    def listeners(self, ext: str) -> int:
        """Give how many streams of an extension are open."""
        extension = self._extensions.get(ext)
        if extension is None:
            return 0
        return sum(len(channel.listeners) for channel in extension.channels)

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
        extension = self._extensions[ext]
        # Those who are here already get what has come; the new one finds it in the history.
        self.flush()
        wanted = frozenset(topics)
        channels = [extension.calls if Topic.CALLS in wanted else extension.gaps]
        channels += [self._topics[topic] for topic in self._topics if topic in wanted]
        for channel in channels:
            channel.listeners.add(listener)
        histories = [channel.history for channel in channels]
        last_id = max(history.last_id for history in histories)
        frames: list[bytes] = []
        told: set[int] = set()
        if last_event_id is not None:
            missed = replay(histories, last_event_id)
            if missed.missing is not None:
                # Our ids are times.
                known_since = missed.missing is Missing.EXPIRED
                since = last_event_id / 1_000_000 if known_since else None
                gap = self._gap(missed.missing.value, since)
                frames.append(self._encode(missed.begin, GAP, gap))
            frames += [event.frame for event in missed.events]
            told.update(event.id for event in missed.events)
        for channel in channels:
            state = channel.state
            if state is not None and state.id not in told:
                # It stands behind all that was missed, and is as good a place to go on from.
                frames.append(self._encode(last_id, state.name, state.data))
        return Backlog(last_id, frames, [channel.listeners for channel in channels])

    def unsubscribe(self, ext: str, listener: Listener) -> None:
        """Take a listener out. Idempotent."""
        self._leave(self._extensions.get(ext), listener)

    def _leave(self, extension: _Extension | None, listener: Listener) -> None:
        if self._sending:
            self._left.add(listener)
        for channel in extension.channels if extension is not None else ():
            channel.listeners.remove(listener)
        for channel in self._topics.values():
            channel.listeners.remove(listener)

    # --- Events -------------------------------------------------------------------------------

    def observe(self, observer: Observer) -> None:
        """Tell an observer of each event from now on. Idempotent."""
        if observer not in self._observers:
            self._observers.append(observer)

    def _tell(self, topic: Topic | None, ext: str | None, name: str, data: bytes) -> None:
        for observer in self._observers:
            try:
                observer.event(topic, ext, name, data)
            except Exception:
                log.failure("an observer of events failed")

    def publish(self, ext: str, name: str, data: bytes) -> None:
        """Give an event of an extension to its streams, and keep it.

        Args:
            ext: The extension; when it is not open, nothing happens.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """
        extension = self._extensions.get(ext)
        if extension is not None:
            self._put(extension.calls, self._write(name, data))
            self._tell(Topic.CALLS, ext, name, data)

    def announce(self, topic: Topic, name: str, data: bytes) -> None:
        """Give an event of a topic that all extensions share to its streams, and keep it.

        Args:
            topic: Not the calls, which belong to an extension.
            name: The event's name for clients.
            data: Its content, one line of JSON.
        """
        self._put(self._topics[topic], self._write(name, data))
        self._tell(topic, None, name, data)

    def announce_state(self, topic: Topic, name: str, data: bytes) -> None:
        """Give the state of a topic to its streams: now as an event, to later ones at their start.

        The first state that a topic has is no event, nor is one that is as before.

        Args:
            topic: See `announce`.
            name: Likewise; always the same one for a topic.
            data: Likewise.
        """
        channel = self._topics[topic]
        before = channel.state
        if before is None:
            channel.state = _State(0, name, data)
        elif before.data != data:
            event = self._write(name, data)
            channel.state = _State(event.id, name, data)
            self._put(channel, event)
            self._tell(topic, None, name, data)

    def publish_gap(self, reason: str, since: float, only: str | None = None) -> None:
        """Tell every stream that events are lost, whatever its topics.

        Args:
            reason: `mx-down`.
            since: From when on, in seconds since the epoch.
            only: The extension whose events are lost; None for all.
        """
        data = self._gap(reason, since)
        for ext in list(self._extensions) if only is None else [only]:
            extension = self._extensions.get(ext)
            if extension is not None:
                event = self._write(GAP, data)
                for channel in extension.channels:
                    self._put(channel, event)
        if only is None or only in self._extensions:
            self._tell(None, only, GAP, data)

    def announce_gap(self, topic: Topic, reason: str, since: float) -> None:
        """Tell the streams of a topic that events of it are lost; see `publish_gap`."""
        data = self._gap(reason, since)
        self._put(self._topics[topic], self._write(GAP, data))
        self._tell(topic, None, GAP, data)

    def _write(self, name: str, data: bytes) -> StreamEvent:
        event_id = self._next_id()
        self.published[name] += 1
        return StreamEvent(event_id, self._encode(event_id, name, data))

    def _put(self, channel: _Channel, event: StreamEvent) -> None:
        """Give an event to the streams of a channel, at the end of this turn, and keep it."""
        if channel.listeners and self._must_go_before(channel, event.frame):
            self.flush()
        channel.history.append(event)
        if not channel.listeners:
            return
        if not self._pending:
            self._since = self._arrived()
        self._pending.setdefault(channel, []).append(event.frame)
        self._pending_bytes += len(event.frame)
        if not self._scheduled:
            self._scheduled = True
            self._later(self._turn_ended)

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
        # Whoever comes while this runs finds it all in the histories.
        pending, self._pending = self._pending, {}
        self._pending_bytes = 0
        since, self._since = self._since, None
        due = []
        for channel, frames in pending.items():
            data = b"".join(frames)
            self.sent += len(frames) * len(channel.listeners)
            due.append((channel.listeners.send_at_once(data), data))
        self._sending += 1
        for listeners, data in due:
            self._send(listeners, data)
        self._sending -= 1
        if not self._sending:
            self._left.clear()
        if since is not None:
            self.durations.add(self._clock() - since)

    def _send(self, listeners: list[Listener], data: bytes) -> None:
        # Whoever leaves while this runs, since others are sent something, gets nothing any more.
        left = self._left
        for listener in listeners:
            if left and listener in left:
                continue
            try:
                listener.send(data)
            except Exception:
                log.failure("a stream failed and is ended")
                for ext in self._extensions:
                    self.unsubscribe(ext, listener)
                _end(listener)


def _end(listener: Listener) -> None:
    try:
        listener.end()
    except Exception:
        log.failure("a stream failed at its end")
