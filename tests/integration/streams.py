"""The client's end of an event stream."""

from __future__ import annotations

import json

import attrs

from tests.integration.raw_http import Reply
from tests.integration.waiting import WaitingProtocol


@attrs.frozen(kw_only=True)
class SentEvent:
    """One event of a stream.

    Attributes:
        name: Its name.
        data: The text of its `data` line.
        id: Its id.
        raw: Its bytes with the blank line, but without the `id` line.
    """

    name: str
    data: str
    id: int
    raw: bytes

    @property
    def json(self):
        """The data, read as JSON."""
        return json.loads(self.data)


class Stream(WaitingProtocol):
    """The body of an open response.

    Attributes:
        status: The status.
        headers: The headers.
        text: All bytes that have come.
        closed: Whether the response has ended.
    """

    def __init__(self, response, soon):
        super().__init__(soon)
        self.status = response.code
        self.headers = response.headers
        self.text = b""

    def dataReceived(self, data):
        self.text += data
        self._settle()

    async def reply(self):
        """Wait for the end of the response and give it as a whole."""
        await self.when_closed()
        return Reply(status=self.status, headers=self.headers, body=self.text)

    def header(self, name):
        """Give a header of the answer, or None."""
        values = self.headers.getRawHeaders(name, [])
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def blocks(self):
        """What stands between blank lines, without an unfinished rest."""
        return self.text.split(b"\n\n")[:-1]

    @property
    def events(self):
        """All events that have come, in order; `retry`, comments and lone ids are none."""
        return parse_events(self.text)

    @property
    def names(self):
        """The names of all events that have come."""
        return [event.name for event in self.events]

    @property
    def comments(self):
        """How many comments have come."""
        return sum(block.startswith(b":") for block in self.blocks)

    async def when_events(self, count):
        """Wait for so many events since the start of the stream, and give them."""
        await self.when(lambda: len(self.events) >= count or self.closed)
        assert len(self.events) >= count, self.text
        return self.events

    async def when_event(self, name):
        """Wait for an event of that name, and give the first one."""
        await self.when(lambda: name in self.names or self.closed)
        return next(event for event in self.events if event.name == name)

    def pause(self):
        """Stop reading."""
        self.transport.pauseProducing()

    def resume(self):
        """Read on."""
        self.transport.resumeProducing()

    def abort(self):
        """Go away, as a client does that is closed. Idempotent."""
        if not self.closed:
            self.transport.loseConnection()


def parse_events(text):
    """Give all whole events of a stream's text, in order."""
    blocks = text.split(b"\n\n")[:-1]
    return [_parse(block) for block in blocks if block.startswith(b"event: ")]


def _parse(block):
    event, data, event_id = block.split(b"\n")
    assert data.startswith(b"data: "), block
    assert event_id.startswith(b"id: "), block
    return SentEvent(
        name=event.removeprefix(b"event: ").decode(),
        data=data.removeprefix(b"data: ").decode(),
        id=int(event_id.removeprefix(b"id: ")),
        raw=event + b"\n" + data + b"\n\n",
    )
