"""HTTP by the byte: what treq would hide, mend or refuse to send."""

from __future__ import annotations

import json

import attrs
from twisted.web.http_headers import Headers

from tests.integration.waiting import WaitingProtocol

END_OF_HEAD = b"\r\n\r\n"


def request_bytes(method, target, *lines, body=b""):
    """Write a request that is the last one of its connection.

    Args:
        method: The method.
        target: What stands in the request line, percent signs and all.
        lines: Header lines such as `Accept: */*`.
        body: The body; its length is told when it is not empty.
    """
    if body:
        lines = (*lines, f"Content-Length: {len(body)}")
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *lines]
    return "\r\n".join(head).encode("latin-1") + END_OF_HEAD + body


@attrs.frozen(kw_only=True)
class Reply:
    """An answer.

    Attributes:
        status: The status.
        headers: The headers.
        body: The body, without any transfer coding.
        head: The bytes of the status line and the headers, where they were read as bytes.
    """

    status: int
    headers: Headers = attrs.field(repr=lambda headers: str(list(headers.getAllRawHeaders())))
    body: bytes
    head: bytes = attrs.field(default=b"", repr=False)

    @property
    def json(self):
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def error(self):
        """The sentence of an error; fails the test when the body is not of that form."""
        assert self.json["code"] == self.status, self
        assert self.header("content-type") == "application/json; charset=utf-8", self
        assert self.header("x-request-id") == self.json["request_id"], self
        return self.json["error"]

    def header(self, name):
        """Give a header that stands there once, or None; fails the test when it is repeated."""
        values = self.headers.getRawHeaders(name, [])
        assert len(values) <= 1, values
        return values[0] if values else None


class RawConnection(WaitingProtocol):
    """One TCP connection of a client.

    Attributes:
        received: What came and was not read yet.
        closed: Whether the other side has closed.
    """

    def __init__(self, soon):
        super().__init__(soon)
        self.received = bytearray()

    def dataReceived(self, data):
        self.received += data
        self._settle()

    def send(self, data):
        """Send bytes."""
        self.transport.write(data)

    def abort(self):
        """Cut the connection. Idempotent."""
        if not self.closed:
            self.transport.abortConnection()

    async def read_reply(self, method="GET"):
        """Give the next answer, the answer to a request of that method."""
        await self.when(lambda: END_OF_HEAD in self.received or self.closed)
        head, end, rest = bytes(self.received).partition(END_OF_HEAD)
        assert end, f"no whole answer: {bytes(self.received)!r}"
        self.received[:] = rest
        status_line, *lines = head.split(b"\r\n")
        headers = Headers()
        for line in lines:
            name, _, value = line.partition(b":")
            headers.addRawHeader(name, value.strip())
        status = int(status_line.split(b" ")[1])
        body = b"" if method == "HEAD" or status in (204, 304) else await self._body(headers)
        return Reply(status=status, headers=headers, body=body, head=head)

    async def _body(self, headers):
        if headers.hasHeader("content-length"):
            length = int(headers.getRawHeaders("content-length")[0])
            await self.when(lambda: len(self.received) >= length or self.closed)
            assert len(self.received) >= length, "the answer ended early"
            return self._take(length)
        if headers.getRawHeaders("transfer-encoding") == ["chunked"]:
            return await self._chunks()
        await self.when_closed()
        return self._take(len(self.received))

    async def _chunks(self):
        body = b""
        while True:
            await self.when(lambda: b"\r\n" in self.received or self.closed)
            size = int(self._take(self.received.index(b"\r\n") + 2), 16)
            await self.when(lambda size=size: len(self.received) >= size + 2 or self.closed)
            body += self._take(size + 2)[:-2]
            if not size:
                return body

    def _take(self, length):
        data = bytes(self.received[:length])
        del self.received[:length]
        return data
