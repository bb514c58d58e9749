"""Daemons that are attacked: whatever a test does to them, they are as healthy afterwards."""

from __future__ import annotations

import re
import socket

from twisted.internet import reactor, tcp
from twisted.internet.task import deferLater

from mxflex.web.eventstream import EventStreams
from tests.integration.daemons import LOOPBACK, PATIENCE
from tests.integration.raw_http import END_OF_HEAD

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info |warn |error|critical) \S+  [^\n]+\n"
)


class Victims:
    """Starts daemons, and looks after the test whether they are well.

    Args:
        start: Starts one; see `tests.integration.daemons.Daemons.start`.
    """

    def __init__(self, start):
        self._start = start
        self._running = []

    async def start(self, **settings):
        """Start a daemon."""
        running = await self._start(**settings)
        self._running.append(running)
        return running

    async def check(self):
        """See that each daemon answers, has logged no traceback, and only whole lines.

        Raises:
            AssertionError: One does not.
        """
        for running in self._running:
            reply = await running.get("/api/contacts")
            assert reply.status == 401, reply
            bad = [
                line for line in running.log.lines if "Traceback" in line or " critical " in line
            ]
            assert not bad, bad
            assert not [line for line in running.log.lines if not LINE.fullmatch(line)]


def request(method="GET", target="/api/contacts", *headers, body=b"", token=None):
    """Give the bytes of a request to a daemon, with a `Host`, and a length for a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {LOOPBACK}", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body and not any(h.lower().startswith(("content-length", "transfer-")) for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def streams_of(running):
    """Give the daemon's event streams."""
    return running.service.getServiceNamed(EventStreams.name)


async def turn():
    """Let the reactor turn once, so that what has been written goes out."""
    await deferLater(reactor, 0)


async def eventually(condition):
    """Wait until something holds that tells nobody of its own.

    Raises:
        AssertionError: It does not come to hold within the time that tests are willing to wait.
    """
    deadline = reactor.seconds() + PATIENCE
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen in time"
        await deferLater(reactor, 0.005)


async def read_status(connection):
    """Take the head of an answer whose body has no end, and give its status."""
    await connection.when(lambda: END_OF_HEAD in connection.received or connection.closed)
    head, end, rest = bytes(connection.received).partition(END_OF_HEAD)
    assert end, f"no whole answer: {head!r}"
    connection.received[:] = rest
    return int(head.split(b" ")[1])


async def exchange(running, data):
    """Send bytes on a connection of their own and give the first answer."""
    connection = await running.connect()
    connection.send(data)
    reply = await connection.read_reply()
    connection.abort()
    return reply


def connections(running):
    """Give the daemon's ends of the HTTP connections that it reads from or writes to."""
    return {
        each
        for each in (*reactor.getReaders(), *reactor.getWriters())
        if isinstance(each, tcp.Server) and each.getHost().port in running.ports
    }


def served(running):
    """Give how many HTTP connections the daemon holds."""
    return len(connections(running))


class Sitter(socket.socket):
    """A client that stays connected whatever the other side does, as Twisted's would not."""

    def __init__(self, running, receive_buffer=0):
        super().__init__()
        if receive_buffer:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connect((LOOPBACK, running.ports[0]))
        self.setblocking(False)
