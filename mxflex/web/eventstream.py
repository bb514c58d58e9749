"""Open event streams: Server-Sent Events on requests that stay open.

Source: WHATWG HTML, 9.2 ("Server-sent events"); docs/api.md, "Events".
"""

from __future__ import annotations

from collections import deque

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request
from zope.interface import implementer

from mxflex.gateway.hub import Backlog, Topic
from mxflex.gateway.sessions import Sessions
from mxflex.web.fastpath import Chunks, writer_for

log = Logger()

COMMENT = b":\n\n"
# After a lost connection a browser waits this long before it comes back, in milliseconds.
RETRY_MILLISECONDS = 3000
# Twisted's transports ask their producer to pause once they hold this many bytes unsent. What they
# hold beyond our own queue is at least that much then.
TRANSPORT_BUFFER_BYTES = 64 * 1024
# Heartbeats are spread over this many moments of each interval, so that ten thousand quiet streams
# do not write in the same one.
HEARTBEAT_SLOTS = 50


def encode_sse(event_id: int, name: str, data: bytes) -> bytes:
    """Write an event of a stream; the data must be one line."""
    return b"event: %s\ndata: %s\nid: %d\n\n" % (name.encode("ascii"), data, event_id)


def _opening(last_id: int) -> bytes:
    # A block with an id alone is no event, but the client remembers the id: if it is cut off before
    # its first event, it can still say from where it wants to go on.
    return b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, last_id)


@implementer(IPushProducer)
class EventStream:
    """One client's open response (see `mxflex.gateway.hub.Listener`).

    While the client reads, events go straight to its connection. When the transport has enough
    unsent, events wait here, up to the bound; a client that lets it be passed is cut off.

    Args:
        request: The request, not yet answered.
        max_unsent: Bytes that the client may owe.
        chunks: See `mxflex.web.fastpath`.

    Attributes:
        closed: Fires when the stream ended in order; cancelled when the client has gone.
    """

    def __init__(self, request: Request, max_unsent: int, chunks: Chunks) -> None:
        self._request = request
        self._write = writer_for(request, chunks)
        self._bound = self._max_waiting = max_unsent - TRANSPORT_BUFFER_BYTES
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._over = False
        self.closed: Deferred[None] = Deferred()

    def begin(self, backlog: Backlog) -> None:
        """Answer with the headers, at once, and with what the client missed."""
        request = self._request
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"cache-control", b"no-cache, no-transform")
        request.setHeader(b"x-accel-buffering", b"no")
        request.registerProducer(self, True)
        # The headers go the usual way.
        request.write(b"")
        # The opening names the id before the backlog only when nothing is missed; with a backlog
        # the events name their own.
        self.send(_opening(backlog.last_id) if not backlog.frames else _retry())
        # What was missed is bounded by the history. It must not count as unread, or a client that
        # missed much would be cut off each time it comes back for it.
        self._max_waiting += sum(map(len, backlog.frames))
        for frame in backlog.frames:
            self.send(frame)

    def send(self, frame: bytes) -> None:
        """Send bytes now, or when the client has read what is before them."""
        if self._over:
            return
        if not self._paused:
            self._write(frame)
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        if self._waiting_bytes > self._max_waiting:
            log.info("a client that does not read its event stream is cut off")
            self._cut()

    def heartbeat(self) -> None:
        """Show the client, and whatever lies between, that the stream lives."""
        # What waits will show it, too.
        if not self._paused:
            self.send(COMMENT)

    def end(self) -> None:
        """End the response in order; what waits for a slow client is dropped."""
        if not self._over:
            self.release()
            self.closed.callback(None)

    def _cut(self) -> None:
        self.release()
        self._request.channel.forceAbortClient()

    def release(self) -> None:
        """Let go of everything. Idempotent."""
        if not self._over:
            self._over = True
            self._waiting.clear()
            self._waiting_bytes = 0
            # A request whose client has gone has lost its channel, and the producer with it.
            if self._request.channel is not None:
                self._request.unregisterProducer()

    # --- IPushProducer: the transport says when the client reads ------------------------------

    def pauseProducing(self) -> None:
        """Keep events back: the transport holds enough."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send what waits, until the transport holds enough again."""
        self._paused = False
        while self._waiting and not self._paused and not self._over:
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            # What was missed goes first; when it has gone, only the bound itself is left.
            self._max_waiting = max(self._bound, self._max_waiting - len(frame))
            self._write(frame)

    def stopProducing(self) -> None:
        """Know that the connection has gone; the request tells whoever awaits `closed`."""


def _retry() -> bytes:
    return b"retry: %d\n\n" % RETRY_MILLISECONDS


class EventStreams(Service):
    """All open streams, and their heartbeat.

    Args:
        clock: Gives delayed calls.
        sessions: Where streams subscribe.
        heartbeat: At least one comment in so many seconds goes to each stream.
        max_unsent: Bytes that a client may owe.
    """

    name = "streams"

    def __init__(
        self, clock: IReactorTime, sessions: Sessions, heartbeat: float, max_unsent: int
    ) -> None:
        self._clock = clock
        self._sessions = sessions
        # A slot waits for all others; one more keeps the wait within the time that was promised.
        self._interval = heartbeat / (HEARTBEAT_SLOTS + 1)
        self._max_unsent = max_unsent
        # A stream stays in the slot it was put in; the slots take turns.
        self._slots: list[dict[EventStream, None]] = [{} for _ in range(HEARTBEAT_SLOTS)]
        self._turn = 0
        self._chunks = Chunks()
        self._timer: IDelayedCall | None = None
        # When the next heartbeat is due.
        self._planned = 0.0

    @property
    def count(self) -> int:
        """How many streams are open."""
        return sum(map(len, self._slots))

    async def serve(
        self, request: Request, ext: str, topics: frozenset[Topic], last_event_id: int | None
    ) -> None:
        """Answer a request with the events of an extension, until either side ends it.

        Args:
            request: The request, not yet answered.
            ext: The extension.
            topics: What the client wants to hear of.
            last_event_id: See `mxflex.gateway.hub.Hub.subscribe`.

        Raises:
            NotMonitored: The extension is not watched; nothing has been written.
        """
        stream = EventStream(request, self._max_unsent, self._chunks)
        backlog = self._sessions.subscribe(ext, stream, last_event_id, topics)
        # The slot whose turn was last has its next turn in a whole interval.
        slot = self._slots[self._turn]
        slot[stream] = None
        try:
            stream.begin(backlog)
            await stream.closed
        finally:
            slot.pop(stream, None)
            stream.release()
            self._sessions.unsubscribe(ext, stream)

    def startService(self) -> None:
        """Begin the heartbeat."""
        Service.startService(self)
        self._planned = self._clock.seconds() + self._interval
        self._timer = self._clock.callLater(self._interval, self._beat)

    def stopService(self) -> None:
        """End the heartbeat and all streams."""
        Service.stopService(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sessions.stop()

    def _beat(self) -> None:
        # As planned, or the intervals would grow by what each turn takes; from now on after a long
        # stall, or when the clock was set.
        now = self._clock.seconds()
        due = self._planned + self._interval
        if not now < due <= now + self._interval:
            due = now + self._interval
        self._planned = due
        self._timer = self._clock.callLater(due - now, self._beat)
        self._turn = (self._turn + 1) % HEARTBEAT_SLOTS
        for stream in list(self._slots[self._turn]):
            stream.heartbeat()
