"""Open event streams: Server-Sent Events on requests that stay open.

Source: WHATWG HTML, 9.2 ("Server-sent events"); docs/api.md, "Events".
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from mxflex.gateway.admission import Admission, Place
from mxflex.gateway.hub import Backlog, Topic
from mxflex.gateway.sessions import Sessions
from mxflex.gateway.tokens import Identity
from mxflex.web.audience import SocketAudience
from mxflex.web.fastpath import Chunks, Corks, DirectWriter, RequestWriter, Writer, writer_for
from mxflex.web.site import Request, Socket

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
# When the daemon stops, streams end over this time, in seconds, some in each slot of it, so that
# neither the daemon nor a proxy before it has all of them to end at once.
STOP_SECONDS = 1.5
STOP_SLOT_SECONDS = 0.05
# A few streams need no spreading: so many end in each slot at least.
ENDED_AT_ONCE = 10
# What has not ended by then is cut off with the process; and so is what has ended, but not been
# read, so much later.
STOP_AT_LAST_SECONDS = 2.0
DRAIN_SECONDS = 0.4
DRAIN_STEP_SECONDS = 0.02
# After a stop, clients come back so many in each second; the first one when we are gone, the last
# one before anybody wonders. In seconds.
RETURNS_PER_SECOND = 200
FIRST_RETURN_SECONDS = 2.0
LAST_RETURN_SECONDS = 60.0


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
        place: What it counts as.
        slot: See `EventStreams`.
        over: Called once when it has ended, in whatever way: with the stream, and whether it was
            cut off.

    Attributes:
        place, slot: As given.
        send: Takes bytes for the client. It is one call from here to the socket: with a thousand
            streams each further one counts.
    """

    __slots__ = (
        "_audiences",
        "_bound",
        "_direct",
        "_max_waiting",
        "_over",
        "_request",
        "_sent_before",
        "_waiting",
        "_waiting_bytes",
        "_writer",
        "place",
        "send",
        "slot",
    )

    def __init__(
        self,
        request: Request,
        max_unsent: int,
        place: Place,
        slot: int,
        over: Callable[[EventStream, bool], None],
    ) -> None:
        self._request = request
        self.place = place
        self.slot = slot
        self._writer: Writer = RequestWriter(request)
        self.send: Callable[[bytes], None] = self._writer.write
        self._bound = self._max_waiting = max_unsent - TRANSPORT_BUFFER_BYTES
        # There only while the client does not read.
        self._waiting: deque[bytes] | None = None
        self._waiting_bytes = 0
        self._audiences: tuple[SocketAudience, ...] = ()
        # In whose place the audiences send at the moment, and what they had sent when that began.
        self._direct: DirectWriter | None = None
        self._sent_before = 0
        self._over: Callable[[EventStream, bool], None] | None = over

    def begin(self, backlog: Backlog, chunks: Chunks, corks: Corks) -> None:
        """Answer with the headers, at once, and with what the client missed.

        Args:
            backlog: What it missed.
            chunks: See `mxflex.web.fastpath`.
            corks: Likewise.
        """
        request = self._request
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"cache-control", b"no-cache, no-transform")
        request.setHeader(b"x-accel-buffering", b"no")
        request.stream = self
        request.registerProducer(self, True)
        # The headers go the usual way.
        request.write(b"")
        self._audiences = tuple(
            each for each in backlog.audiences if isinstance(each, SocketAudience)
        )
        self._writer = writer_for(request, chunks, corks, self)
        if self._waiting is None:
            self.send = self._writer.write
        # The opening names the id before the backlog only when nothing is missed; with a backlog
        # the events name their own.
        self.send(_opening(backlog.last_id) if not backlog.frames else _retry(RETRY_MILLISECONDS))
        for frame in backlog.frames:
            if self._waiting is not None:
                # What was missed is bounded by the history. As long as it is unread it must not
                # count, or a client that missed much would be cut off each time it comes back.
                self._max_waiting += len(frame)
            self.send(frame)

    def _keep(self, data: bytes) -> None:
        """Keep bytes until the client has read what is before them."""
        assert self._waiting is not None
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > self._max_waiting:
            log.info("a client that does not read its event stream is cut off")
            # HTTP/2 tells at once that the client has gone, which is no news then.
            self.gone(cut_off=True)
            self._request.channel.forceAbortClient()

    def heartbeat(self) -> None:
        """Show the client, and whatever lies between, that the stream lives."""
        # What waits will show it, too.
        if self._waiting is None:
            self.send(COMMENT)

    def end(self) -> None:
        """End the response in order; what waits for a slow client is dropped."""
        request = self._request
        if self.gone():
            request.unregisterProducer()
            request.finish()

    def dismiss(self, retry: int) -> Socket | None:
        """End the response in order, and the connection behind it.

        Args:
            retry: After how many milliseconds the client is to come back.

        Returns:
            What tells whether the connection has closed; None if the stream was over.
        """
        if self._over is None:
            return None
        socket = self._request.channel.retire()
        # Behind what the transport holds, in whole events; what waits is dropped.
        self._writer.write(_retry(retry))
        self.end()
        return socket

    def gone(self, *, cut_off: bool = False) -> bool:
        """Let go of everything; tell whether the stream was open until now."""
        over, self._over = self._over, None
        if over is None:
            return False
        self.step_out()
        self._waiting = None
        self._waiting_bytes = 0
        self.send = _drop
        self._request.sentLength += self._writer.sent
        # The others know us, and we them.
        self._writer = RequestWriter(self._request)
        over(self, cut_off)
        return True

    # --- Where audiences send -----------------------------------------------------------------

    def _sent_by_audiences(self) -> int:
        return sum(audience.sent for audience in self._audiences)

    def step_in(self, writer: DirectWriter) -> None:
        """See `mxflex.web.fastpath.Pace`."""
        if self._over is None or self._direct is not None:
            return
        self._direct = writer
        self._sent_before = self._sent_by_audiences()
        for audience in self._audiences:
            audience.fall_in(self, writer.place(audience))

    def step_out(self) -> None:
        """See `mxflex.web.audience.Member`."""
        writer, self._direct = self._direct, None
        if writer is None:
            return
        for audience in self._audiences:
            audience.fall_out(self)
        writer.sent += self._sent_by_audiences() - self._sent_before
        writer.stepped_out()

    def owe(self, rest: bytes) -> None:
        """See `mxflex.web.audience.Member`."""
        writer = self._direct
        self.step_out()
        if writer is not None:
            writer.queue(rest)

    # --- IPushProducer: the transport says when the client reads ------------------------------

    def pauseProducing(self) -> None:
        """Keep events back: the transport holds enough."""
        self.step_out()
        if self._over is not None and self._waiting is None:
            self._waiting = deque()
            self.send = self._keep

    def resumeProducing(self) -> None:
        """Send what waits, until the transport holds enough again."""
        waiting, self._waiting = self._waiting, None
        if self._over is None:
            return
        self.send = self._writer.write
        while waiting and self._waiting is None:
            data = waiting.popleft()
            self._waiting_bytes -= len(data)
            # What was missed goes first; when it has gone, only the bound itself is left.
            self._max_waiting = max(self._bound, self._max_waiting - len(data))
            self.send(data)
        if waiting:
            # Paused again; nothing has been put behind it meanwhile.
            self._waiting = waiting

    def stopProducing(self) -> None:
        """Know that the connection has gone; the request says so, too."""


def _drop(_data: bytes) -> None:
    """Send nothing: the stream is over."""


def _retry(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds


class _LeftOpen(Resource):
    """Leaves a request open whose answer has begun, and lets it shed what it needs no more."""

    isLeaf = True

    def render(self, request: Request) -> int:
        request.shed()
        return NOT_DONE_YET


LEFT_OPEN = _LeftOpen()


def _interval(heartbeat: float) -> float:
    """Give the seconds from one slot to the next."""
    # A slot waits for all others; one more keeps the wait within the time that was promised.
    return heartbeat / (HEARTBEAT_SLOTS + 1)


class EventStreams(Service):
    """All open streams, and their heartbeat.

    Args:
        clock: Gives delayed calls.
        sessions: Where streams subscribe.
        admission: Says how many there may be.
        heartbeat: At least one comment in so many seconds goes to each stream.
        max_unsent: Bytes that a client may owe.

    Attributes:
        opened: How many streams have been opened so far.
        ended: How many of them have ended, in whatever way.
        cut_off: How many of those because the client did not read.
        max_unsent: As given; may be changed, for streams to come.
        refused: See `Admission`.
    """

    name = "streams"

    def __init__(
        self,
        clock: IReactorTime,
        sessions: Sessions,
        admission: Admission,
        heartbeat: float,
        max_unsent: int,
    ) -> None:
        self._clock = clock
        self._sessions = sessions
        self._admission = admission
        self._interval = _interval(heartbeat)
        self.max_unsent = max_unsent
        # A stream stays in the slot it was put in; the slots take turns.
        self._slots: list[dict[EventStream, None]] = [{} for _ in range(HEARTBEAT_SLOTS)]
        self._turn = 0
        self._chunks = Chunks()
        self._corks = Corks(lambda act: clock.callLater(0, act))
        self._timer: IDelayedCall | None = None
        # When the next heartbeat is due.
        self._planned = 0.0
        # One bound method for all streams.
        self._when_over = self._over
        self.opened = self.ended = self.cut_off = 0
        self.refused = admission.refused

    @property
    def count(self) -> int:
        """How many streams are open."""
        return self.opened - self.ended

    @property
    def limit(self) -> int:
        """How many may be open."""
        return self._admission.max_streams

    def beat_every(self, heartbeat: float) -> None:
        """Send at least one comment in so many seconds from now on."""
        self._interval = _interval(heartbeat)
        if self._timer is not None and self._planned > self._clock.seconds() + self._interval:
            self._planned = self._clock.seconds() + self._interval
            self._timer.reset(self._interval)

    async def open(
        self,
        request: Request,
        identity: Identity,
        topics: frozenset[Topic],
        last_event_id: int | None,
    ) -> IResource:
        """Begin to answer a request with the events of an extension, until either side ends it.

        Whatever is raised, nothing has been written.

        Args:
            request: The request, not yet answered.
            identity: Whose extension it is.
            topics: What the client wants to hear of.
            last_event_id: See `mxflex.gateway.hub.Hub.subscribe`.

        Returns:
            What leaves the request open when it is rendered.

        Raises:
            TooManyRequests, ServiceUnavailable: See `Admission.admit`.
            NotMonitored, MXUnavailable: See `Sessions.resume`.
        """
        place = self._admission.admit(identity, request.address)
        # The slot whose turn was last has its next turn in a whole interval.
        stream = EventStream(request, self.max_unsent, place, self._turn, self._when_over)
        try:
            await self._sessions.resume(identity.ext, identity.expires_at)
            backlog = self._sessions.subscribe(identity.ext, stream, last_event_id, topics)
            self._slots[stream.slot][stream] = None
            self.opened += 1
            stream.begin(backlog, self._chunks, self._corks)
        except BaseException:
            stream.gone()
            raise
        return LEFT_OPEN

    def _over(self, stream: EventStream, cut_off: bool) -> None:
        self._admission.leave(stream.place)
        self._sessions.unsubscribe(stream.place.identity.ext, stream)
        slot = self._slots[stream.slot]
        if stream in slot:
            del slot[stream]
            self.ended += 1
            self.cut_off += cut_off

    def startService(self) -> None:
        """Begin the heartbeat."""
        Service.startService(self)
        self._planned = self._clock.seconds() + self._interval
        self._timer = self._clock.callLater(self._interval, self._beat)

    def stopService(self) -> Deferred[None]:
        """End the heartbeat, let no stream open any more, and end all that are open.

        Each is told by a `retry` of its own when to come back, so that they do not all do so at
        once.

        Returns:
            What fires when all have ended and been read, or after two and a half seconds.
        """
        Service.stopService(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._admission.stop()
        self._sessions.stop()
        return Deferred.fromCoroutine(self._dismiss_all())

    async def _dismiss_all(self) -> None:
        streams = [stream for slot in self._slots for stream in slot]
        in_slot = max(ENDED_AT_ONCE, math.ceil(len(streams) * STOP_SLOT_SECONDS / STOP_SECONDS))
        last = min(FIRST_RETURN_SECONDS + len(streams) / RETURNS_PER_SECOND, LAST_RETURN_SECONDS)
        began = self._clock.seconds()
        sockets: list[Socket] = []
        for number, stream in enumerate(streams):
            wait = number // in_slot * STOP_SLOT_SECONDS - (self._clock.seconds() - began)
            # A slot that is late is not waited for; nor is a clock that was set back.
            if wait > 0 and not number % in_slot:
                await deferLater(self._clock, min(wait, STOP_SLOT_SECONDS))
            if self._clock.seconds() - began > STOP_AT_LAST_SECONDS:
                log.warn("{count} streams are not ended in order", count=len(streams) - number)
                break
            # Chance, not secrecy.
            retry = random.uniform(FIRST_RETURN_SECONDS, last)  # noqa: S311
            socket = stream.dismiss(round(retry * 1000))
            if socket is not None:
                sockets.append(socket)
        await self._drain(sockets)

    async def _drain(self, sockets: list[Socket]) -> None:
        """Wait until connections have closed behind what was sent, but not for long."""
        began = self._clock.seconds()
        for _ in range(round(DRAIN_SECONDS / DRAIN_STEP_SECONDS)):
            sockets = [socket for socket in sockets if socket.connected]
            if not sockets or self._clock.seconds() - began > DRAIN_SECONDS:
                return
            await deferLater(self._clock, DRAIN_STEP_SECONDS)

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
