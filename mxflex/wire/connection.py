"""What one end of a connection may send, and what the bytes it receives mean.

Both classes have the same three verbs: `receive_data` takes bytes, `next_event` gives the next
thing that happened or None, and the methods that send return the bytes to write. They do no input
or output and know no time.

    client                              server
    request(command) -> id, bytes  -->  CommandReceived(id, command)
    ReplyReceived(id, ...)         <--  reply(id, message) -> bytes
    EventReceived(event)           <--  event(event) -> bytes
"""

from __future__ import annotations

import attrs

from mxflex.errors import BadBody, LocalProtocolError
from mxflex.wire.framing import Frame, FrameDecoder, encode_frame
from mxflex.wire.messages import (
    EVENTS,
    Command,
    CSTAError,
    Event,
    Message,
    Reply,
    ServerKeepAlive,
    read_command,
    read_event,
    read_reply,
)
from mxflex.wire.xmltext import Element, parse

# Ids that clients use for commands; 0 belongs to keep-alives and 9999 to the server's events.
FIRST_COMMAND_ID = 1
LAST_COMMAND_ID = 9998
EVENT_ID = 9999
KEEPALIVE_ID = 0


@attrs.frozen
class ReplyReceived:
    """The MX answered a command of ours."""

    invoke_id: int
    command: Command
    reply: Reply


@attrs.frozen
class LateReply:
    """An answer that nobody waits for: too late, or to a command that was never sent.

    Attributes:
        invoke_id: The id it carries.
        name: Its root element.
        reply: What it says, where it answers a command that was given up.
    """

    invoke_id: int
    name: str
    reply: Reply | None = None


@attrs.frozen
class EventReceived:
    """The MX tells something by itself."""

    event: Event


@attrs.frozen
class CommandReceived:
    """A client asks for something."""

    invoke_id: int
    command: Command


@attrs.frozen
class BadFrame:
    """A frame that was skipped; the ones behind it are sound."""

    invoke_id: int
    reason: str


class _Receiver:
    """Bytes to frames to elements: what both ends have in common."""

    def __init__(self) -> None:
        self._frames = FrameDecoder()
        #: The kind of the latest frame that was not of kind 0. Clients that ignore it are known to
        #: work, so such frames are read as all others.
        self.odd_kind: int | None = None

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes of the stream, any number of them."""
        self._frames.receive_data(data)

    def _next_frame(self) -> Frame | None:
        """Give the next frame that has a body."""
        while (frame := self._frames.next_frame()) is not None:
            self.odd_kind = frame.kind or self.odd_kind
            if frame.body.strip():
                return frame
        return None


def _encode(invoke_id: int, message: Message) -> bytes:
    return encode_frame(invoke_id, message.to_text().encode("utf-8"))


class ClientConnection(_Receiver):
    """The client's end: hands out invoke ids and ties answers to commands.

    An id whose command was given up stays taken until its late answer comes: otherwise that answer
    would be taken for the answer to somebody else's command.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, Command] = {}
        # Ordered by the time they were given up, the oldest first.
        self._abandoned: dict[int, Command] = {}
        self._last_id = 0

    @property
    def waiting(self) -> int:
        """How many commands wait for their answer."""
        return len(self._waiting)

    def request(self, command: Command) -> tuple[int, bytes]:
        """Give the bytes of a command and the invoke id that its answer will carry.

        Raises:
            LocalProtocolError: The command does not fit a frame, has characters that XML cannot
                carry, or all 9998 ids wait for answers.
        """
        invoke_id = self._free_id()
        data = _encode(invoke_id, command)
        self._last_id = invoke_id
        self._waiting[invoke_id] = command
        return invoke_id, data

    def keepalive(self) -> bytes:
        """Give the bytes of a keep-alive. Clients in the field send it with this space."""
        return encode_frame(KEEPALIVE_ID, b"<keepalive />")

    def abandon(self, invoke_id: int) -> None:
        """Stop waiting for an answer; the id stays taken until the answer comes after all."""
        command = self._waiting.pop(invoke_id, None)
        if command is not None:
            self._abandoned[invoke_id] = command

    def _free_id(self) -> int:
        candidate = self._last_id
        for _ in range(LAST_COMMAND_ID):
            candidate = candidate + 1 if candidate < LAST_COMMAND_ID else FIRST_COMMAND_ID
            if candidate not in self._waiting and candidate not in self._abandoned:
                return candidate
        if self._abandoned:
            # Thousands of answers never came; the oldest of them will not come now.
            oldest = next(iter(self._abandoned))
            del self._abandoned[oldest]
            return oldest
        raise LocalProtocolError("all invoke ids wait for answers")

    def next_event(self) -> ReplyReceived | LateReply | EventReceived | BadFrame | None:
        """Give the next thing the MX said, or None until more bytes have come.

        Raises:
            RemoteProtocolError: The framing is lost; close the connection.
        """
        while (frame := self._next_frame()) is not None:
            try:
                element = parse(frame.body)
            except BadBody as error:
                return BadFrame(frame.invoke_id, str(error))
            happened = self._interpret(frame.invoke_id, element)
            if happened is not None:
                return happened
        return None

    def _interpret(
        self, invoke_id: int, element: Element
    ) -> ReplyReceived | LateReply | EventReceived | None:
        if element.tag == ServerKeepAlive.wire_name:
            return None
        if invoke_id == EVENT_ID:
            return EventReceived(read_event(element))
        command = self._waiting.pop(invoke_id, None)
        if command is not None:
            return ReplyReceived(invoke_id, command, read_reply(command, element))
        given_up = self._abandoned.pop(invoke_id, None)
        cls = EVENTS.get(element.tag)
        if given_up is not None and (cls is None or issubclass(cls, Reply)):
            return LateReply(invoke_id, element.tag, read_reply(given_up, element))
        if cls is None or issubclass(cls, CSTAError):
            return LateReply(invoke_id, element.tag)
        # Servers are not known to send events with other ids, but losing one would be worse.
        return EventReceived(read_event(element))


class ServerConnection(_Receiver):
    """The MX's end, for the simulator."""

    def next_event(self) -> CommandReceived | BadFrame | None:
        """Give the next thing the client said, or None until more bytes have come.

        Raises:
            RemoteProtocolError: The framing is lost; close the connection.
        """
        frame = self._next_frame()
        if frame is None:
            return None
        try:
            element = parse(frame.body)
        except BadBody as error:
            return BadFrame(frame.invoke_id, str(error))
        return CommandReceived(frame.invoke_id, read_command(element))

    def reply(self, invoke_id: int, message: Message) -> bytes:
        """Give the bytes of an answer to the command that had this id.

        Raises:
            LocalProtocolError: The answer does not fit a frame.
        """
        return _encode(invoke_id, message)

    def event(self, event: Event) -> bytes:
        """Give the bytes of an event.

        Raises:
            LocalProtocolError: The event does not fit a frame.
        """
        return _encode(EVENT_ID, event)
