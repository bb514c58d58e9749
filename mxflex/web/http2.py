"""HTTP/2 on Twisted's own implementation, with its known defects mended.

Everything that reaches into `twisted.web._http2` is here. `tests/integration/test_http2.py` shows
each defect on the unchanged class, so that the day it is mended there will be noticed.

Source: RFC 9113.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import h2.connection
from h2.errors import ErrorCodes
from h2.events import Event, RemoteSettingsChanged, RequestReceived, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from priority import DeadlockError, DuplicateStreamError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._http2 import _END_STREAM_SENTINEL, H2Connection, H2Stream
from zope.interface import implementer

from mxflex.web.render import JSON_TYPE
from mxflex.web.site import SERVER, Channel

# Streams that one client may have open. Twisted's answer to one more was to end the connection.
MAX_STREAMS = 100
# Bytes of one stream that wait in our queue before its producer is asked to pause. Twisted let the
# client's window decide alone, which browsers open to megabytes.
MAX_QUEUED_BYTES = 64 * 1024
# Frames that are sent in one turn of the reactor before others have theirs; Twisted sent one.
FRAMES_PER_TURN = 32
# How long a client may take for the TLS handshake, in seconds.
HANDSHAKE_SECONDS = 15.0


class _Core(h2.connection.H2Connection):
    """The sans-IO core, which tells of wider windows however they came about."""

    def receive_data(self, data: Any) -> list[Event]:
        """Add what Twisted overlooks: new settings may open the windows of all streams (6.9.2)."""
        events: list[Event] = []
        for event in super().receive_data(data):
            events.append(event)
            if (
                isinstance(event, RemoteSettingsChanged)
                and SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings
            ):
                events.append(WindowUpdated(stream_id=0, delta=0))
        return events


class Stream(H2Stream):
    """One request and its answer.

    Attributes:
        queued: Bytes that wait in the connection's queue of this stream.
        refusal: An answer given before the stream was known to its connection.
    """

    def __init__(self, *args: Any) -> None:
        self.queued = 0
        self.refusal: tuple[bytes, bytes] | None = None
        super().__init__(*args)

    def abortConnection(self) -> None:
        """Reset the stream, and tell its request, which Twisted forgets."""
        self._conn.abortRequest(self.streamID)
        self._request.connectionLost(Failure(ConnectionAborted()))

    def forceAbortClient(self) -> None:
        """Cut off the client, by the name that HTTP/1.1 has for it."""
        self.abortConnection()

    def refuse(self, status: bytes, text: bytes) -> None:
        """Answer without the request, and want no more of it."""
        self.refusal = (status, text)
        self._conn.refuse(self)

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(b"400 Bad Request", b"bad request")

    def windowUpdated(self) -> None:
        """Let the producer go on, unless the connection as a whole is blocked."""
        if not self._conn.blocked:
            super().windowUpdated()


class Connection(H2Connection):
    """One HTTP/2 connection."""

    transport: Any
    requestFactory: Any

    def __init__(self, reactor: IReactorTime) -> None:
        super().__init__(reactor)
        self.conn = _Core(config=self.conn.config)

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

    # --- Requests -----------------------------------------------------------------------------

    def _requestReceived(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if len(self.streams) >= MAX_STREAMS:
            self.conn.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = Stream(
            stream_id, self, event.headers, self.requestFactory, self.site, self.factory
        )
        self.streams[stream_id] = stream
        self._streamCleanupCallbacks[stream_id] = Deferred()
        self._outboundStreamQueues[stream_id] = deque()
        try:
            self.priority.insert_stream(stream_id)
        except DuplicateStreamError:
            pass
        else:
            self.priority.block(stream_id)
        if stream.refusal is not None:
            self.refuse(stream)

    # Frames of a stream that we have reset may still be under way; Twisted took each for a bug.

    def _requestDataReceived(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestDataReceived(event)

    def _requestEnded(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestEnded(event)

    def _requestAborted(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestAborted(event)

    def _handlePriorityUpdate(self, _event: Any) -> None:
        """Ignore priorities: deprecated (5.3.2), and a way to make the tree grow."""

    def abortRequest(self, streamID: int) -> None:
        """Reset a stream; one that has ended already stays so."""
        if streamID not in self.streams:
            return
        try:
            super().abortRequest(streamID)
        except ProtocolError:
            self._requestDone(streamID)

    def refuse(self, stream: Stream) -> None:
        """Send a stream's refusal, and reset it if its client still sends."""
        stream_id = stream.streamID
        if stream_id not in self.streams or stream.refusal is None:
            return
        status, text = stream.refusal
        body = b'{"code":%s,"error":"%s"}' % (status[:3], text)
        headers = [
            (b":status", status[:3]),
            (b"server", SERVER),
            (b"content-type", JSON_TYPE),
            (b"content-length", b"%d" % len(body)),
        ]
        try:
            self.conn.send_headers(stream_id, headers)
            if self.conn.local_flow_control_window(stream_id) >= len(body):
                self.conn.send_data(stream_id, body, end_stream=True)
            # The client need not go on (RFC 9113, 8.1).
            self.conn.reset_stream(stream_id, ErrorCodes.NO_ERROR)
        except ProtocolError:
            # It has ended already.
            pass
        if self._tryToWriteControlData():
            stream.connectionLost(Failure(ConnectionLost("the request was refused")))
            self._requestDone(stream_id)

    # --- Sending ------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Ask every producer to wait: Twisted let them fill the queues meanwhile."""
        super().pauseProducing()
        for stream in self.streams.values():
            stream.flowControlBlocked()

    def resumeProducing(self) -> None:
        """Send what waits, and let the producers go on."""
        super().resumeProducing()
        for stream in list(self.streams.values()):
            stream.windowUpdated()

    def remainingOutboundWindow(self, streamID: int) -> int:
        """Give how many bytes a stream may still write before its producer has to wait."""
        window: int = self.conn.local_flow_control_window(streamID)
        queued: int = self.streams[streamID].queued
        return min(window, MAX_QUEUED_BYTES) - queued

    def writeDataToStream(self, streamID: int, data: bytes) -> None:
        """Queue a part of an answer; nothing happens when the stream has ended meanwhile."""
        stream = self.streams.get(streamID)
        if stream is None:
            return
        self._outboundStreamQueues[streamID].append(data)
        stream.queued += len(data)
        if self.conn.local_flow_control_window(streamID) > 0:
            self._wake(streamID)
        if self._consumerBlocked is not None or self.remainingOutboundWindow(streamID) <= 0:
            stream.flowControlBlocked()

    def endRequest(self, streamID: int) -> None:
        """Queue the end of an answer; nothing happens when the stream has ended meanwhile."""
        if streamID in self.streams:
            self._outboundStreamQueues[streamID].append(_END_STREAM_SENTINEL)
            self._wake(streamID)

    def _wake(self, streamID: int) -> None:
        self.priority.unblock(streamID)
        if self._sendingDeferred is not None:
            waiting, self._sendingDeferred = self._sendingDeferred, None
            waiting.callback(streamID)

    def _sendPrioritisedData(self, *_args: object) -> None:
        """Send what the queues hold, until nothing may be sent or others should have their turn.

        Twisted's loop goes round without end, and without a byte sent, while a stream has data but
        no window; here such a stream leaves the loop until its window opens.
        """
        if not self._stillProducing:
            return
        for _ in range(FRAMES_PER_TURN):
            if self._consumerBlocked is not None:
                self._consumerBlocked.addCallback(self._sendPrioritisedData)
                return
            try:
                stream_id = next(self.priority)
            except DeadlockError:
                self._sendingDeferred = Deferred()
                self._sendingDeferred.addCallback(self._sendPrioritisedData)
                return
            self._send_frame(stream_id)
        self._reactor.callLater(0, self._sendPrioritisedData)

    def _send_frame(self, stream_id: int) -> None:
        queue = self._outboundStreamQueues[stream_id]
        stream = self.streams[stream_id]
        if queue and queue[0] is _END_STREAM_SENTINEL:
            self.conn.end_stream(stream_id)
            self.transport.write(self.conn.data_to_send())
            self.resetTimeout()
            self._requestDone(stream_id)
            return
        window = self.conn.local_flow_control_window(stream_id)
        data = _take(queue, min(window, self.conn.max_outbound_frame_size))
        if not data:
            self.priority.block(stream_id)
            stream.flowControlBlocked()
            return
        stream.queued -= len(data)
        self.conn.send_data(stream_id, data)
        self.transport.write(self.conn.data_to_send())
        # Only bytes that go out show that somebody is there.
        self.resetTimeout()
        if not queue:
            self.priority.block(stream_id)
        if self.remainingOutboundWindow(stream_id) > 0:
            stream.windowUpdated()
        else:
            stream.flowControlBlocked()


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

    _channel: Any = None
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
        self._channel = channel
        channel.makeConnection(transport)
        if http2:
            transport.registerProducer(channel, True)

    def dataReceived(self, data: bytes) -> None:
        """Hand on what came; nothing comes before the handshake is done."""
        self._channel.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell whoever took over."""
        self._stop_timer()
        if self._channel is not None:
            self._channel.connectionLost(reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
