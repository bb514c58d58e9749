"""No event is lost, none comes twice, all come in order: through any cutting and under any load."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise

import attrs
import pytest
import pytest_twisted
from h2.errors import ErrorCodes
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from mxflex.wire.framing import encode_frame
from tests.integration.daemons import LOOPBACK
from tests.integration.h2client import ClientTLS
from tests.integration.raw_http import RawConnection
from tests.integration.victims import request, turn

# An event, or the lone id at the beginning of a stream; chunks begin and end between them.
BLOCK = re.compile(rb"(?:event: (\w+)\ndata: (.*)\n|retry: \d+\n)id: (\d+)\n\n")
NAMES = ("", "Иванов Ёж", "a]]>b</x>\u2028\n\nz", "\U0001f919" * 50, "x" * 5_000)


def frame(monitor, number, name=""):
    """Give the bytes of an event that carries a number, and a name."""
    text = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return encode_frame(
        9999,
        (
            f"<EstablishedEvent><monitorCrossRefID>{monitor}</monitorCrossRefID>"
            f"<establishedConnection><callID>{number}</callID></establishedConnection>"
            f"<callingDisplayName>{text}</callingDisplayName></EstablishedEvent>"
        ).encode(),
    )


@attrs.frozen
class Heard:
    """What a stream has said.

    Attributes:
        name: The event's; None for the lone id at the beginning.
        data: Its data, as bytes.
        id: The id.
    """

    name: str | None
    data: bytes
    id: int

    @property
    def number(self):
        """The number that the event carries; None for a gap."""
        return json.loads(self.data).get("callId")


class Ear:
    """Finds what a stream says in its bytes, as they come."""

    def __init__(self):
        self._position = 0

    def listen(self, text):
        """Give what is whole and was not given before, of all bytes so far."""
        found = []
        for match in BLOCK.finditer(text, self._position):
            self._position = match.end()
            name, data, event_id = match.groups()
            found.append(Heard(name and name.decode(), data or b"", int(event_id)))
        return found


# --- A stream of each kind ------------------------------------------------------------------------


class Plain:
    """A stream on plain HTTP/1.1."""

    tls = None
    version = "1.1"

    def __init__(self, place):
        self._place = place
        self._connection = None
        self._ear = None

    async def open(self, last_id):
        """Open it, behind an id if one is known."""
        self._ear = Ear()
        factory = Factory.forProtocol(lambda: RawConnection(self._place.running.soon))
        factory.noisy = False
        self._connection = await self._connect(factory)
        self._place.running._connections.append(self._connection)
        lines = () if last_id is None else (f"Last-Event-ID: {last_id}",)
        data = request("GET", "/api/events", *lines, token=self._place.token)
        self._connection.send(data.replace(b"HTTP/1.1", b"HTTP/" + self.version.encode(), 1))

    async def _connect(self, factory):
        running = self._place.running
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, running.ports[0])
        return await running.soon(endpoint.connect(factory))

    async def more(self):
        """Wait until something whole has come, and give it."""
        found = []

        def something():
            found.extend(self._ear.listen(self._connection.received))
            return found or self._connection.closed

        await self._connection.when(something)
        assert found, bytes(self._connection.received)
        return found

    def leave(self, politely):
        """Go, by FIN or by RST."""
        if politely:
            self._connection.transport.loseConnection()
        else:
            self._connection.abort()


class Old(Plain):
    """A stream of HTTP/1.0, which has no chunks."""

    version = "1.0"


class Secure(Plain):
    """A stream on HTTP/1.1 over TLS."""

    async def _connect(self, factory):
        connection = factory.buildProtocol(None)
        return await self._place.secure.open(connection, ClientTLS(protocols=None))


class Http2:
    """A stream on HTTP/2; those of one place share a connection."""

    def __init__(self, place):
        self._place = place
        self._client = None
        self._exchange = None
        self._ear = None

    async def open(self, last_id):
        """Open it, behind an id if one is known."""
        self._ear = Ear()
        self._client = await self._place.h2()
        headers = [] if last_id is None else [("last-event-id", str(last_id))]
        stream_id = self._client.request("GET", "/api/events", headers, token=self._place.token)
        self._exchange = self._client.exchanges[stream_id]

    async def more(self):
        """Wait until something whole has come, and give it."""
        found = []

        def something():
            found.extend(self._ear.listen(self._exchange.body))
            return found or self._exchange.over

        await self._client.when(something)
        assert found, self._exchange
        return found

    def leave(self, politely):
        """Reset the stream; a polite way does not exist."""
        self._client.conn.reset_stream(self._client.id_of(self._exchange), ErrorCodes.CANCEL)
        self._client.flush()
        del self._client.exchanges[self._client.id_of(self._exchange)]


@attrs.define(eq=False)
class Place:
    """A daemon, somebody who is logged in there, and what streams of theirs share.

    Attributes:
        running: The daemon.
        token: The token.
        secure: The daemon, where it is one on HTTPS.
    """

    running: object
    token: str
    secure: object = None
    _h2: object = None

    async def h2(self):
        """Give the HTTP/2 connection."""
        if self._h2 is None:
            self._h2 = await self.secure.connect()
        return self._h2


class World:
    """An MX, with one daemon on HTTP and one on HTTPS.

    Attributes:
        mx: The MX.
    """

    def __init__(self, plain, secure):
        self.mx = plain.running.mx
        self._plain, self._secure = plain, secure

    def stream(self, kind):
        """Give a stream of a kind, not open yet."""
        return kind(self._secure if kind in (Secure, Http2) else self._plain)

    def frames(self, numbers, names=NAMES):
        """Give the bytes of events for each daemon's connection to the MX, by its session."""
        return {
            session: [
                frame(monitor, number, names[number % len(names)])
                for monitor in session.monitors
                for number in numbers
            ]
            for session in self.mx.sessions
            if session.type == "Server"
        }


@pytest.fixture
def world(daemon, secure):
    """Give the builder of a world."""

    async def make(**settings):
        plain = await daemon(**settings)
        https = await secure(simulator=plain.mx, **settings)
        return World(
            Place(plain, await plain.log_in()),
            Place(https.running, await (await https.connect()).log_in(), https),
        )

    return make


KINDS = (Plain, Old, Secure, Http2)


def in_pieces(sizes):
    """Give a way to cut bytes: pieces of these sizes, in turn and again."""

    def cut(data):
        start = number = 0
        while start < len(data):
            end = start + sizes[number % len(sizes)]
            yield data[start:end]
            start, number = end, number + 1

    return cut


def by_chance(seed, most):
    """Give a way to cut bytes: pieces of any size up to one."""

    def cut(data):
        chance = random.Random(seed)
        start = 0
        while start < len(data):
            end = start + chance.randint(1, most)
            yield data[start:end]
            start = end

    return cut


CUTTINGS = {
    "1 byte": (in_pieces([1]), 6),
    "headers and bodies apart": (in_pieces([8, 300]), 30),
    "7 bytes": (in_pieces([7]), 18),
    "1, then many": (in_pieces([1, 2_000]), 60),
    "up to 30 bytes": (by_chance(1, 30), 30),
    "up to 1,000 bytes": (by_chance(2, 1_000), 120),
    "up to 20,000 bytes": (by_chance(3, 20_000), 600),
    "all at once": (in_pieces([1_000_000]), 1_200),
}


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest_twisted.ensureDeferred
async def test_any_cutting(world, cutting):
    """However the bytes of the MX are cut, every kind of stream has every event once, in order."""
    cut, count = CUTTINGS[cutting]
    here = await world(events={"max_unsent": 20_000_000})
    streams = [here.stream(kind) for kind in KINDS]
    for stream in streams:
        await stream.open(None)
        assert [each.name for each in await stream.more()] == [None]
    for session, frames in here.frames(range(count)).items():
        for piece in cut(b"".join(frames)):
            session.send_raw(piece)
            await turn()
    for stream in streams:
        heard = []
        while len(heard) < count:
            heard += await stream.more()
        assert [each.number for each in heard] == list(range(count))
        assert all(a.id < b.id for a, b in pairwise(heard))
        names = [json.loads(each.data)["callingDisplayName"] for each in heard]
        assert names == [NAMES[number % len(NAMES)] for number in range(count)]


# --- Under load -----------------------------------------------------------------------------------


class Follower:
    """A client that wants to hear everything, and is cut off all the time.

    Args:
        stream: The kind of stream that it opens.
        seed: What it goes by.
        last: The number of the last event that there will be.

    Attributes:
        heard: All events and gaps, over all its streams.
        openings: How often it came.
    """

    def __init__(self, stream, seed, last):
        self._stream = stream
        self._chance = random.Random(seed)
        self._last = last
        self._last_id = None
        self.heard = []
        self.openings = 0

    async def arrive(self):
        """Open the first stream, and hear where it begins."""
        await self._open()
        (beginning,) = await self._stream.more()
        self._last_id = beginning.id

    async def _open(self):
        self.openings += 1
        await self._stream.open(self._last_id)

    async def follow(self):
        """Listen, leave, and come back, until the last event has been heard."""
        while True:
            patience = self._chance.choice((0, 1, 1, 3, 30, 300))
            while patience > 0:
                more = await self._stream.more()
                # Whatever has come with them is lost on the way to a client that is cut off here.
                more = more[:patience]
                patience -= len(more)
                self._last_id = more[-1].id
                self.heard += [each for each in more if each.name is not None]
                if self.heard and self.heard[-1].number == self._last:
                    self._stream.leave(politely=True)
                    return
            self._stream.leave(politely=self._chance.random() < 0.5)
            if self._chance.random() < 0.3:
                await turn()
            await self._open()


async def follow_all(here, count, copies):
    """Let followers of every kind come, and so many events happen at full rate; give the former."""
    followers = [
        Follower(here.stream(kind), f"{kind.__name__} {copy}", count - 1)
        for kind in KINDS
        for copy in range(copies)
    ]
    for each in followers:
        await each.arrive()
    following = gatherResults(
        [Deferred.fromCoroutine(each.follow()) for each in followers], consumeErrors=True
    )
    for start in range(0, count, 20):
        for session, frames in here.frames(range(start, start + 20), names=("",)).items():
            session.send_raw(b"".join(frames))
        await turn()
    await following
    return followers


@pytest_twisted.ensureDeferred
async def test_clients_that_come_back_all_the_time(world):
    """While events come at full rate, 32 clients leave and come back, and none misses any."""
    count = 1_000
    here = await world(events={"history": count})
    followers = await follow_all(here, count, 8)
    for each in followers:
        assert [event.number for event in each.heard] == list(range(count))
        assert all(a.id < b.id for a, b in pairwise(each.heard))
    assert sum(each.openings for each in followers) > 500


@pytest_twisted.ensureDeferred
async def test_what_is_missing_is_told(world):
    """With a history that is too short a client misses events, but never without a `gap`."""
    count = 2_000
    here = await world(events={"history": 10})
    followers = await follow_all(here, count, 8)
    gaps = 0
    for each in followers:
        assert all(a.id <= b.id for a, b in pairwise(each.heard))
        told = False
        expected = 0
        for event in each.heard:
            if event.name == "gap":
                assert json.loads(event.data)["reason"] == "expired"
                told, gaps = True, gaps + 1
            else:
                assert event.number == expected or (told and event.number > expected)
                told, expected = False, event.number + 1
        assert expected == count
    assert gaps > 20
