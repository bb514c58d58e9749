"""HTTP/2 on Twisted's own implementation, with its known defects mended.

Everything that reaches into `twisted.web._http2` is here. `tests/integration/test_http2_twisted.py`
shows each defect on the unchanged class, so that the day it is mended there will be noticed.

What Twisted keeps: the sans-IO core, the announcement of settings, control frames that wait for the
transport, and the dress of a stream as the transport of a request. What is done here instead: what
each frame of a client means, whose turn it is to send, and when a client is given up.

Source: RFC 9113.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any

import attrs
import h2.connection
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import FrameTooLargeError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hpack import Encoder
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._http2 import _END_STREAM_SENTINEL, H2Connection, H2Stream
from twisted.web.http_headers import InvalidHeaderName
from zope.interface import implementer

from mxflex.web.audience import FRAME_HEADER_BYTES, Lone, Place, SocketAudience
from mxflex.web.fastpath import Corks, Pace, SecureSender
from mxflex.web.site import Channel, Refusal, Socket, socket_of

log = Logger()

# Streams that one client may have open. Twisted's answer to one more was to end the connection.
MAX_STREAMS = 100
# Bytes of one stream that wait in our queue before its producer is asked to pause. Twisted let the
# client's window decide alone, which browsers open to megabytes.
MAX_QUEUED_BYTES = 64 * 1024
# Control frames that wait while a client does not read; Twisted's 17 KiB are less than the headers
# of the answers to all streams.
MAX_CONTROL_BYTES = 64 * 1024
# Frames that are sent in one turn of the reactor before others have theirs; Twisted sent one.
FRAMES_PER_TURN = 32
# A body that is too large is still taken in, and dropped, up to this size, since many clients read
# no answer before they have sent all. Beyond it they are told at once, and may send as much again
# before the stream is reset: some forget the answer when the reset comes with it.
MAX_DRAINED_BYTES = 1024 * 1024
# What the compression of our headers may keep of those before, in bytes; a client may allow for
# gigabytes. RFC 7541, 4.2: it is for us to use less.
HEADER_TABLE_BYTES = 4096
# What `FrameWriter` makes a frame of.
_PARTS_OF_FRAME = 4
# How long a client may take for the TLS handshake, in seconds.
HANDSHAKE_SECONDS = 15.0

# Requests that are taken back (CVE-2023-44487): so many at once, so many in each second.
RESETS = (1000.0, 33.0)
# Frames that bring nothing forward: pings, settings, priorities, windows, empty parts of bodies.
IDLE_FRAMES = (1000.0, 100.0)
# A client that reads sends a few of them, mostly to open windows, for each frame that it gets; one
# that has not read for a while does so for many frames at once.
IDLE_FRAMES_PER_SENT = 4
MAX_EARNED_FRAMES = 10_000


@attrs.define
class Allowance:
    """What a client may do often, but not all the time.

    Args:
        burst: How much of it at once.
        rate: How much of it in each second.
        now: The time, in seconds.
    """

    burst: float
    rate: float
    now: float
    left: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.left = self.burst

    def take(self, amount: float, now: float) -> bool:
        """Use some up; tell whether there was enough."""
        # A clock that is set back must not use any up.
        since = max(0.0, now - self.now)
        self.now = now
        self.left = min(self.burst, self.left + since * self.rate) - amount
        return self.left >= 0


class _Encoder(Encoder):
    """Compresses our headers, with a memory that the client cannot make grow."""

    @property
    def header_table_size(self) -> int:
        """What it keeps of headers before, in bytes."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        bounded = min(value, HEADER_TABLE_BYTES)
        self.header_table.maxsize = bounded
        if self.header_table.resized:
            self.table_size_changes.append(bounded)


class Core(h2.connection.H2Connection):
    """The sans-IO core, with three bounds that it lacks."""

    # Streams of before, of which a frame may still be under way. It remembers them in a tenth of a
    # kilobyte each, and of its own accord as many as a connection has in a day.
    MAX_CLOSED_STREAMS = 1000

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.encoder = _Encoder()

    def receive_data(self, data: Any) -> list[Event]:
        """Take bytes; see `h2.connection.H2Connection.receive_data`."""
        events = super().receive_data(data)
        # It looks at a frame's length once the whole frame has come, of up to 16 MB.
        unfinished = self.incoming_buffer._data  # noqa: SLF001 - nothing public tells
        if len(unfinished) > self.max_inbound_frame_size + FRAME_HEADER_BYTES:
            self.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError("a frame is too long")
        return events


def _let_go(core: h2.connection.H2Connection) -> None:
    """Take in no more; the garbage collector is not to be waited for."""
    core._frame_dispatch_table.clear()  # noqa: SLF001 - its methods, which hold it


class Stream(H2Stream):
    """One request and its answer.

    Attributes:
        queue: What waits to be sent; Twisted's sentinel stands for the end.
        queued: Its bytes.
        refusal: An answer given before the stream was known to its connection.
        complete: Whether the whole request has come.
    """

    _conn: Connection
    _request: Any
    command: bytes | None
    path: bytes | None
    producer: Any
    streamID: int

    def __init__(self, *args: Any) -> None:
        self.queue: deque[Any] = deque()
        self.queued = 0
        self.refusal: Refusal | None = None
        self.complete = False
        self._received = 0
        super().__init__(*args)

    def _convertHeaders(self, headers: list[tuple[bytes, bytes]]) -> None:
        if any(name == b":authority" for name, _ in headers):
            # RFC 9113, 8.3.1: it takes the place of `Host`; converters from HTTP/1.1 send both.
            headers = [each for each in headers if each[0] != b"host"]
        try:
            super()._convertHeaders(headers)
        except (InvalidHeaderName, ValueError):
            self.refuse(b"400 Bad Request", "bad request")
        # CONNECT has no path (8.5); no resource of ours knows the method.
        self.path = self.path or b"/"

    def receiveDataChunk(self, data: bytes, flowControlledLength: int) -> None:
        """Take a part of the body, or drop it once the request has been refused."""
        if self.refusal is None:
            super().receiveDataChunk(data, flowControlledLength)
        else:
            self._conn.openStreamWindow(self.streamID, flowControlledLength)
        self._received += len(data)
        if self._received > 2 * MAX_DRAINED_BYTES:
            self._conn.abortRequest(self.streamID, ErrorCodes.NO_ERROR)
        elif self._received > MAX_DRAINED_BYTES and self.refusal is None:
            self.refuse(b"413 Content Too Large", "the body is too large")

    def requestComplete(self) -> None:
        """Begin to answer."""
        self.complete = True
        super().requestComplete()

    def connectionLost(self, reason: Failure) -> None:
        """Stop the producer, which Twisted lets run on into nothing, and tell the request."""
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        super().connectionLost(reason)

    def abortConnection(self) -> None:
        """Reset the stream, and tell its request, which Twisted forgets."""
        self._conn.abortRequest(self.streamID)

    def forceAbortClient(self) -> None:
        """Cut off the client, by the name that HTTP/1.1 has for it."""
        self.abortConnection()

    def retire(self) -> Socket:
        """Close the connection once no answer is under way on it."""
        return self._conn.retire()

    def event_writer(self, corks: Corks, pace: Pace) -> FrameWriter:
        """Give the shortest way to write the body of the answer; its headers have gone."""
        return FrameWriter(self, self._conn, corks, pace)

    def refuse(self, status: bytes, text: str) -> None:
        """Answer without the request, and want no more of it."""
        self.refusal = Refusal(status, text)
        self._conn.refuse(self)

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(b"400 Bad Request", "bad request")

    def windowUpdated(self) -> None:
        """Let the producer go on, if what it writes may go out."""
        if not self._conn.blocked and self._conn.streams.get(self.streamID) is self:
            super().windowUpdated()


class FrameWriter:
    """Writes the body of an answer in DATA frames that go out with those of other streams.

    Where nothing is queued on the connection and the windows have room, the frames are made here,
    without the core, which is told how much of its windows they take.

    Args:
        stream: The answer's.
        connection: The stream's.
        corks: Says when the connection sends.
        pace: The event stream.

    Attributes:
        sent: Bytes so far that were written here.
    """

    __slots__ = (
        "_connection",
        "_core_stream",
        "_corks",
        "_id",
        "_lone",
        "_lone_credit",
        "_pace",
        "_stream",
        "sent",
    )

    def __init__(self, stream: Stream, connection: Connection, corks: Corks, pace: Pace) -> None:
        self._stream = stream
        self._connection = connection
        self._corks = corks
        self._pace = pace
        # While audiences send in our place: what they have, and what they had at first.
        self._lone: Lone | None = None
        self._lone_credit = 0
        self._core_stream = connection.conn.streams[stream.streamID]
        # The end of a frame's header (RFC 9113, 4.1).
        self._id = stream.streamID.to_bytes(4, "big")
        self.sent = 0

    def write(self, data: bytes) -> None:
        """Send bytes with those of the other streams, or queue them behind what is queued."""
        self._pace.step_out()
        stream, connection, size = self._stream, self._connection, len(data)
        core, core_stream = connection.conn, self._core_stream
        self.sent += size
        if (
            # Whoever waits for its turn would never have it if others went past.
            connection.ready
            or connection.shut
            or size > core_stream.outbound_flow_control_window
            or size > core.outbound_flow_control_window
            or size > core.max_outbound_frame_size
            or connection.blocked
            or connection.streams.get(stream.streamID) is not stream
        ):
            stream.write(data)
            return
        core_stream.outbound_flow_control_window -= size
        core.outbound_flow_control_window -= size
        corked = connection.corked
        alone = len(connection.streams) == 1
        if not (corked or alone):
            self._corks.add(connection.uncork)
        # Length; type (0, DATA) and flags (none).
        corked += (size.to_bytes(3, "big"), b"\0\0", self._id, data)
        if alone:
            connection.uncork()
            self._step_in()

    def _step_in(self) -> None:
        """Let audiences send, if nothing is queued."""
        sender = self._connection.sender
        if sender is None or not sender.caught_up():
            return
        core = self._connection.conn
        self._lone_credit = min(
            self._core_stream.outbound_flow_control_window,
            core.outbound_flow_control_window,
        )
        self._lone = Lone(sender, self._id, self._lone_credit)
        sender.when_disturbed(self._pace.step_out)
        self._pace.step_in(self)

    def place(self, audience: SocketAudience) -> Place:
        """See `mxflex.web.fastpath.DirectWriter`."""
        return audience.lone, self._lone

    def stepped_out(self) -> None:
        """Tell the core how much of its windows was used."""
        lone, self._lone = self._lone, None
        sender = self._connection.sender
        if lone is not None and sender is not None:
            sender.when_disturbed(None)
            used = self._lone_credit - lone.credit
            self._core_stream.outbound_flow_control_window -= used
            self._connection.conn.outbound_flow_control_window -= used
            self._connection.count_sent(lone.frames)

    def queue(self, rest: bytes) -> None:
        """See `mxflex.web.fastpath.DirectWriter`."""
        sender = self._connection.sender
        if sender is not None:
            sender.queue(rest)


class Connection(H2Connection):
    """One HTTP/2 connection.

    A client is given up when it neither reads nor asks for anything for the site's idle time:
    whatever else it sends does not count, and nothing counts while TCP is not read; that an answer
    takes long is not its fault. A single stream whose window stays shut for so long is reset, as
    others may be read meanwhile.
    """

    transport: Any
    requestFactory: Any
    conn: Core
    streams: dict[int, Stream]
    timeOut: Any
    _abortingCall: IDelayedCall | None
    _reactor: IReactorTime
    _stillProducing: bool

    def __init__(self, reactor: IReactorTime) -> None:
        super().__init__(reactor)
        _let_go(self.conn)
        self.conn = Core(self.conn.config)
        self._maxBufferedControlFrameBytes = MAX_CONTROL_BYTES
        self._resets = Allowance(*RESETS, reactor.seconds())
        self._idle_frames = Allowance(*IDLE_FRAMES, reactor.seconds())
        # Streams that have something to send, in the order of their turns.
        self.ready: dict[Stream, None] = {}
        self._sending: IDelayedCall | None = None
        # Streams whose client has shut their window, and when their time is up; the first to be
        # reset comes first.
        self.shut: dict[Stream, float] = {}
        # The same for those whose requests are not whole yet.
        self._incoming: dict[Stream, float] = {}
        self._cutting: IDelayedCall | None = None
        # Whether to close once no stream is open.
        self._retired = False
        # Parts of frames that go out together; see `FrameWriter`.
        self.corked: list[bytes] = []
        # How many idle frames it may send for those that it got, and when the last ones went.
        self._earned = 0
        self._sent_at = 0.0

    def connectionMade(self) -> None:
        """Announce the limit of streams, and leave its enforcement to `_requestReceived`."""
        super().connectionMade()
        # What was announced stays 100; the core, which would end the connection, allows more.
        settings = self.conn.local_settings
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        settings.acknowledge()

    @property
    def blocked(self) -> bool:
        """Whether the client reads nothing at all at this moment."""
        return self._consumerBlocked is not None

    # --- What comes ---------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of the client."""
        if not self._stillProducing:
            return
        try:
            events = self.conn.receive_data(data)
        except ProtocolError:
            self._terminate(Failure())
            return
        if any(isinstance(event, ConnectionTerminated) for event in events):
            # The core does not send any more, not even to streams that are open.
            self._terminate(Failure(ConnectionLost("the client said goodbye")))
            return
        self._take(events)
        if self._stillProducing:
            self._tryToWriteControlData()

    def _take(self, events: Iterable[Event]) -> None:
        # The core has seen all of these frames: a stream whose reset comes last is closed to it
        # already, so nothing may be sent there, and its request is not even begun.
        reset = {event.stream_id for event in events if isinstance(event, StreamReset)}
        for stream_id in reset:
            self._drop(stream_id, ConnectionLost("the client reset the stream"))
        widened: set[int] = set()
        idle = 0
        for event in events:
            known = isinstance(event, DataReceived) or getattr(event, "stream_id", 0) not in reset
            if known and self._stillProducing:
                idle += self._take_event(event, widened)
        # Once for all: each frame would otherwise cost as much as there are streams.
        self._widen(self.streams if 0 in widened else widened)
        now = self._reactor.seconds()
        unearned = max(0, idle - self._earned)
        self._earned -= idle - unearned
        if not (self._resets.take(len(reset), now) and self._idle_frames.take(unearned, now)):
            self._give_up(ErrorCodes.ENHANCE_YOUR_CALM)

    def _take_event(self, event: Event, widened: set[int]) -> bool:
        """Take what a frame says; tell whether it brings nothing forward.

        Args:
            event: What it says.
            widened: Is given the streams whose windows may have opened; 0 stands for all.
        """
        match event:
            case RequestReceived():
                return not self._requestReceived(event)
            case DataReceived():
                self._requestDataReceived(event)
                return not event.data
            case StreamEnded():
                self._requestEnded(event)
                return False
            case TrailersReceived():
                return False
            case WindowUpdated():
                widened.add(event.stream_id or 0)
            case RemoteSettingsChanged():
                if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    # RFC 9113, 6.9.2; Twisted overlooks it.
                    widened.add(0)
        # Priorities, too, which are deprecated (5.3.2), and a way to make a tree grow.
        return True

    def _requestReceived(self, event: RequestReceived) -> bool:
        """Begin a request, or refuse its stream; tell which."""
        stream_id = event.stream_id or 0
        if len(self.streams) >= MAX_STREAMS:
            self.conn.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return False
        self._made_progress()
        stream = Stream(
            stream_id, self, event.headers, self.requestFactory, self.site, self.factory
        )
        self.streams[stream_id] = stream
        self._give_time(self._incoming, stream)
        if stream.refusal is not None:
            self.refuse(stream)
        return True

    def _requestDataReceived(self, event: DataReceived) -> None:
        length: int = event.flow_controlled_length
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            if event.data:
                self._made_progress()
            stream.receiveDataChunk(event.data, length)
        elif length:
            # On its way before the client knew of the reset. It has used up the window of the
            # connection, which others need.
            self.conn.acknowledge_received_data(length, event.stream_id)

    def _requestEnded(self, event: StreamEnded) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is None:
            return
        self._incoming.pop(stream, None)
        if stream.refusal is None:
            stream.requestComplete()
        else:
            self._requestDone(stream.streamID)

    def _made_progress(self) -> None:
        """Begin the idle time anew."""
        if not self.blocked:
            self.resetTimeout()

    # --- The end of a stream ------------------------------------------------------------------

    def _requestDone(self, streamID: int) -> None:
        stream = self.streams.pop(streamID)
        self.ready.pop(stream, None)
        self.shut.pop(stream, None)
        self._incoming.pop(stream, None)
        if self._retired and not self.streams:
            # Not from within whatever has ended the stream, which may go on.
            self._reactor.callLater(0, self._leave)

    def retire(self) -> Socket:
        """Say goodbye once no answer is under way (RFC 9113, 6.8)."""
        self._retired = True
        return socket_of(self.transport)

    def _leave(self) -> None:
        if self._stillProducing and not self.streams:
            self.conn.close_connection()
            self._terminate(Failure(ConnectionDone()))

    def _drop(self, stream_id: int, reason: BaseException | None) -> None:
        """Forget a stream that is closed to the core, and tell its request. Idempotent."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._requestDone(stream_id)
            stream.connectionLost(Failure(reason))

    def abortRequest(self, streamID: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Reset a stream, and tell its request. Idempotent."""
        if streamID not in self.streams:
            return
        # Closed to the core already: the client has ended it, too, in the frames under way.
        with suppress(StreamClosedError):
            self.conn.reset_stream(streamID, code)
        self._tryToWriteControlData()
        self._drop(streamID, ConnectionAborted())

    def refuse(self, stream: Stream) -> None:
        """Send a stream's refusal; the stream stays until its client has ended it, too."""
        stream_id = stream.streamID
        if self.streams.get(stream_id) is not stream or stream.refusal is None:
            return
        refusal = stream.refusal
        head = [(b":status", refusal.status[:3]), *refusal.headers]
        if self.conn.local_flow_control_window(stream_id) < len(refusal.body):
            # The head must do.
            head = [header for header in head if header[0] != b"content-length"]
            self.conn.send_headers(stream_id, head, end_stream=True)
        else:
            self.conn.send_headers(stream_id, head)
            self.conn.send_data(stream_id, refusal.body, end_stream=True)
        refusal.log(self.transport)
        stream.connectionLost(Failure(ConnectionLost("the request was refused")))
        self._tryToWriteControlData()

    # --- The end of the connection ------------------------------------------------------------

    def timeoutConnection(self) -> None:
        """Give up a client that has been idle, or has not read, for too long."""
        since = self._reactor.seconds() - self._sent_at
        if 0 <= since < self.timeOut:
            # Bytes that go out show that somebody is there.
            self.setTimeout(self.timeOut - since)
            return
        answering = any(stream.complete and not stream.queue for stream in self.streams.values())
        if answering and not self.blocked:
            # It has read everything. It is we who are silent: an MX may take its time.
            self.setTimeout(self.timeOut)
        else:
            self._give_up(ErrorCodes.PROTOCOL_ERROR if self.streams else ErrorCodes.NO_ERROR)

    def _give_up(self, code: ErrorCodes) -> None:
        if not self._stillProducing:
            return
        peer = getattr(self.transport.getPeer(), "host", "local")
        log.info("{address}: HTTP/2 connection ended: {code}", address=peer, code=code.name)
        self.conn.close_connection(code)
        self._terminate(Failure(ConnectionLost(code.name)))

    def _terminate(self, reason: Failure) -> None:
        """Send what the core has still to say, close, and do not wait for ever for that."""
        self.setTimeout(None)
        self.uncork()
        # Bounded, so it may go out whether the client reads or not.
        self.transport.write(b"".join(self._bufferedControlFrames) + self.conn.data_to_send())
        self._bufferedControlFrames.clear()
        self.transport.loseConnection()
        # TLS says its goodbye once nobody is left who might write.
        self.transport.unregisterProducer()
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.connectionLost(reason, _cancelTimeouts=False)

    def connectionLost(
        self, reason: Failure = connectionDone, _cancelTimeouts: bool = True
    ) -> None:
        """Forget all streams, and tell their requests."""
        self._stillProducing = False
        for timer in (self._sending, self._cutting):
            if timer is not None:
                timer.cancel()
        self._sending = self._cutting = None
        # Whoever is told may reset others; Twisted would stumble over that.
        for stream_id in list(self.streams):
            self._drop(stream_id, reason.value)
        super().connectionLost(reason, _cancelTimeouts)
        _let_go(self.conn)

    # --- What goes ----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Ask every producer to wait: Twisted let them fill the queues meanwhile."""
        super().pauseProducing()
        for stream in self.streams.values():
            stream.flowControlBlocked()

    def stopProducing(self) -> None:
        """End: the client has taken leave, and may read or not what was sent before."""
        if self._stillProducing:
            self._terminate(Failure(ConnectionLost("the client has taken leave")))

    def resumeProducing(self) -> None:
        """Send what waits, and let the producers go on."""
        super().resumeProducing()
        self._schedule()
        for stream in list(self.streams.values()):
            stream.windowUpdated()

    def uncork(self) -> None:
        """Send the frames that were made without the core. Idempotent.

        Whatever else is sent of a stream has to come behind them.
        """
        corked = self.corked
        if not corked or not self._stillProducing:
            return
        data = b"".join(corked)
        self.count_sent(len(corked) // _PARTS_OF_FRAME)
        corked.clear()
        sender = self.sender
        if sender is None:
            self.transport.write(data)
        else:
            sender.write(data)

    @cached_property
    def sender(self) -> SecureSender | None:
        """What sends in the shortest way, if there is such a one; the handshake is done."""
        return SecureSender.for_transport(self.transport)

    def count_sent(self, frames: int) -> None:
        """Know that frames of data were sent."""
        if frames:
            self._earned = min(MAX_EARNED_FRAMES, self._earned + frames * IDLE_FRAMES_PER_SENT)
            self._sent_at = self._reactor.seconds()

    def _tryToWriteControlData(self) -> bool:
        self.uncork()
        return bool(super()._tryToWriteControlData())

    def writeHeaders(
        self,
        version: bytes,
        code: bytes,
        reason: bytes,
        headers: list[tuple[bytes, bytes]],
        streamID: int,
    ) -> None:
        """Send headers; nothing happens when the stream has ended meanwhile."""
        if streamID in self.streams:
            super().writeHeaders(version, code, reason, headers, streamID)

    def remainingOutboundWindow(self, streamID: int) -> int:
        """Give how many bytes a stream may still write before its producer has to wait."""
        window: int = self.conn.local_flow_control_window(streamID)
        return min(window, MAX_QUEUED_BYTES) - self.streams[streamID].queued

    def writeDataToStream(self, streamID: int, data: bytes) -> None:
        """Queue a part of an answer; nothing happens when the stream has ended meanwhile."""
        stream = self.streams.get(streamID)
        if stream is None or not data:
            return
        stream.queue.append(data)
        stream.queued += len(data)
        self._wake(stream)
        if self.blocked or self.remainingOutboundWindow(streamID) <= 0:
            stream.flowControlBlocked()

    def endRequest(self, streamID: int) -> None:
        """Queue the end of an answer; nothing happens when the stream has ended meanwhile."""
        stream = self.streams.get(streamID)
        if stream is not None:
            stream.queue.append(_END_STREAM_SENTINEL)
            self._wake(stream)

    def _wake(self, stream: Stream) -> None:
        """Put a stream at the end of the line, unless it waits for its window."""
        if stream not in self.shut:
            self.ready[stream] = None
            self._schedule()

    def _widen(self, stream_ids: Iterable[int]) -> None:
        """Let streams go on whose windows may have opened."""
        for stream_id in list(stream_ids):
            stream = self.streams.get(stream_id)
            if stream is None:
                continue
            if stream in self.shut and self.conn.local_flow_control_window(stream_id) > 0:
                # It stays among the shut ones until it has sent something.
                self.ready[stream] = None
                self._schedule()
            stream.windowUpdated()

    def _schedule(self) -> None:
        # In a turn of its own: what is written in this one goes out in as few frames as may be.
        if self._sending is None and self.ready and not self.blocked and self._stillProducing:
            self._sending = self._reactor.callLater(0, self._send)

    def _sendPrioritisedData(self, *_args: object) -> None:
        """Do nothing, where Twisted's loop began.

        It went round without end, and without a byte sent, while a stream had data but no window.
        """

    def _send(self) -> None:
        """Let streams send one frame each in turn, until others than this connection have theirs.

        `resumeProducing` and `_widen` begin anew where this ends for want of room.
        """
        self._sending = None
        for _ in range(FRAMES_PER_TURN):
            if self.blocked or not self.ready:
                return
            stream = next(iter(self.ready))
            del self.ready[stream]
            self._send_frame(stream)
        self._schedule()

    def _send_frame(self, stream: Stream) -> None:
        self.uncork()
        stream_id, queue = stream.streamID, stream.queue
        window = self.conn.local_flow_control_window(stream_id)
        data = _take(queue, min(window, self.conn.max_outbound_frame_size))
        stream.queued -= len(data)
        ended = bool(queue) and queue[0] is _END_STREAM_SENTINEL
        if not data and not ended:
            self._wait_for_window(stream)
            return
        self.conn.send_data(stream_id, data, end_stream=ended)
        self.transport.write(self.conn.data_to_send())
        # Bytes that go out show that somebody is there.
        self.resetTimeout()
        self.count_sent(1)
        self.shut.pop(stream, None)
        if ended:
            self._requestDone(stream_id)
            return
        if queue:
            self.ready[stream] = None
        if self.remainingOutboundWindow(stream_id) > 0:
            stream.windowUpdated()
        else:
            stream.flowControlBlocked()

    def _wait_for_window(self, stream: Stream) -> None:
        stream.flowControlBlocked()
        if stream.queue and stream not in self.shut:
            self._give_time(self.shut, stream)

    def _give_time(self, late: dict[Stream, float], stream: Stream) -> None:
        """Let a stream be reset if it is still there when its time is up."""
        late[stream] = self._reactor.seconds() + self.timeOut
        if self._cutting is None:
            self._cutting = self._reactor.callLater(self.timeOut, self._cut)

    def _cut(self) -> None:
        """Reset the streams whose time is up."""
        self._cutting = None
        now = self._reactor.seconds()
        for late, what in (
            (self.shut, "stream that is not read"),
            (self._incoming, "slow request"),
        ):
            for stream in [each for each, until in late.items() if until <= now]:
                log.info("an HTTP/2 {what} is reset", what=what)
                self.abortRequest(stream.streamID)
        waits = [next(iter(late.values())) for late in (self.shut, self._incoming) if late]
        if waits and self._stillProducing:
            self._cutting = self._reactor.callLater(max(0.0, min(waits) - now), self._cut)


def _take(queue: deque[Any], limit: int) -> bytes:
    """Take up to so many bytes from a queue; views keep long parts from being copied."""
    taken: list[Any] = []
    while limit > 0 and queue and queue[0] is not _END_STREAM_SENTINEL:
        part = queue.popleft()
        if len(part) > limit:
            view = memoryview(part)
            queue.appendleft(view[limit:])
            part = view[:limit]
        taken.append(part)
        limit -= len(part)
    return taken[0] if len(taken) == 1 and isinstance(taken[0], bytes) else b"".join(taken)


@implementer(IHandshakeListener)
class Negotiator(Protocol):
    """A TLS connection that becomes HTTP/1.1 or HTTP/2, as the handshake settled (RFC 7301).

    The site sets the attributes that it sets on all its channels.
    """

    requestFactory: Any = None
    site: Any = None
    timeOut: float | None = None
    callLater: Any = None

    _timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Give the client a while for its handshake."""
        self._timer = self.callLater(HANDSHAKE_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]

    def handshakeCompleted(self) -> None:
        """Let the negotiated protocol take over."""
        self._stop_timer()
        transport: Any = self.transport
        http2 = transport.negotiatedProtocol == b"h2"
        channel: Any = Connection(self.site.clock) if http2 else Channel()
        channel.requestFactory = self.requestFactory
        channel.site = self.site
        channel.factory = self.factory
        channel.timeOut = self.timeOut
        channel.callLater = self.callLater
        # Whatever comes next is for the channel; nothing came before the handshake was done.
        transport.wrappedProtocol = channel
        channel.makeConnection(transport)
        if http2:
            transport.registerProducer(channel, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002 - Twisted's
        """Know that there was no handshake."""
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
