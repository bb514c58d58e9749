"""The streams of a channel, sent to in one loop.

Of what a message to one of a thousand streams costs beyond the kernel's part, most is memory that
has to be fetched: each object on the way to the socket was last used an event ago. So connections
that owe nothing stand in rows, each with just what sending takes; the loops over them call nothing
but the socket and TLS. All others go the way of `Listener.send`.

Over TLS a block of streams is encrypted for, then sent to, before it is the turn of the next one:
OpenSSL and the kernel each fill the processor's caches, and would drive each other out of them with
every stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from ssl import SSLError
from typing import Any, Protocol, TypeVar

from mxflex.gateway.hub import Listener

EVERYTHING = -1
# Streams of a block: half as many gain as much, and a thousand a little less.
TOGETHER = 64
# RFC 9113, 4.1: what stands before each frame.
FRAME_HEADER_BYTES = 9


class Sender(Protocol):
    """What sending over TLS takes.

    Attributes:
        encrypt: Takes plain bytes of up to one record. Raises `ssl.SSLError`.
        encrypted: Takes away up to so many encrypted bytes.
        record_bytes: Plain bytes that make one record; the same for all.
        send: The socket's.
    """

    encrypt: Callable[[bytes], int]
    encrypted: Callable[[int], bytes]
    record_bytes: int
    send: Callable[[bytes], int]


class Lone:
    """The only stream of an HTTP/2 connection.

    Args:
        sender: The connection's.
        number: Its own, as it stands at the end of the header of a frame.
        credit: Bytes that may be sent before anybody has to look at the windows.

    Attributes:
        encrypt, encrypted, record_bytes, send: The sender's.
        number, credit: As given; the credit shrinks.
        frames: How many frames were sent.
    """

    __slots__ = ("credit", "encrypt", "encrypted", "frames", "number", "record_bytes", "send")

    def __init__(self, sender: Sender, number: bytes, credit: int) -> None:
        self.encrypt = sender.encrypt
        self.encrypted = sender.encrypted
        self.record_bytes = sender.record_bytes
        self.send = sender.send
        self.number = number
        self.credit = credit
        self.frames = 0


_S = TypeVar("_S", Sender, Lone)
Row = dict[Any, "Member"]
Place = tuple[Row, object]


class Member(Listener, Protocol):
    """A stream that may stand in a row."""

    def step_out(self) -> None:
        """Leave all rows: it could not be sent to."""

    def owe(self, rest: bytes) -> None:
        """Leave all rows, and queue what the socket has not taken, below HTTP and TLS."""


def _fits(size: int, row: Iterable[Sender]) -> bool:
    """Tell whether so many bytes make one record for those in a row."""
    first = next(iter(row), None)
    return first is None or size <= first.record_bytes


def _send(block: Iterable[_S], records: Iterable[bytes]) -> Iterator[tuple[_S, bytes]]:
    """Send each a record, which may be empty; give who owes a rest of it, and the rest."""
    for sender, record in zip(block, records, strict=True):
        try:
            sent = sender.send(record)
        except OSError:
            # Full; or the transport will find the same, and tell everybody.
            sent = 0
        if sent != len(record):
            yield sender, record[sent:]


class SocketAudience:
    """See `mxflex.gateway.hub.Audience`.

    Attributes:
        sockets: Plain connections of HTTP/1.1, by the `send` of their sockets.
        senders: The same over TLS.
        lone: Streams that have an HTTP/2 connection for themselves.
        sent: Bytes that those in rows have been sent, from the first event on.
    """

    __slots__ = ("_behind", "_places", "lone", "senders", "sent", "sockets")

    def __init__(self) -> None:
        self.sockets: dict[Callable[[bytes], int], Member] = {}
        self.senders: dict[Sender, Member] = {}
        self.lone: dict[Lone, Member] = {}
        self.sent = 0
        self._behind: dict[Listener, None] = {}
        # In which row a stream is, and under what key.
        self._places: dict[Listener, Place] = {}

    def __len__(self) -> int:
        return len(self._behind) + len(self._places)

    def __iter__(self) -> Iterator[Listener]:
        yield from self._behind
        yield from self._places

    def add(self, listener: Listener) -> None:
        """See `mxflex.gateway.hub.Audience`."""
        self._behind[listener] = None

    def remove(self, listener: Listener) -> None:
        """See `mxflex.gateway.hub.Audience`."""
        self.fall_out(listener)
        self._behind.pop(listener, None)

    def fall_in(self, member: Member, place: Place) -> None:
        """Put a stream into a row, unless it has been taken out.

        Args:
            member: The stream.
            place: One of our rows, and what belongs there.
        """
        if member in self._behind:
            del self._behind[member]
            row, key = place
            row[key] = member
            self._places[member] = place

    def fall_out(self, listener: Listener) -> None:
        """Let a stream be sent to by `Listener.send` again. Idempotent."""
        place = self._places.pop(listener, None)
        if place is not None:
            row, key = place
            del row[key]
            self._behind[listener] = None

    def send_at_once(self, data: bytes) -> list[Listener]:
        """See `mxflex.gateway.hub.Audience`."""
        others = list(self._behind)
        # Whoever leaves a row for these bytes does so when the loops are over.
        unsent: list[Member] = []
        owing: list[tuple[Member, bytes]] = []
        if self.sockets or self.senders:
            chunk = b"%x\r\n%b\r\n" % (len(data), data)
            self._send_plain(chunk, owing)
            self._send_secure(chunk, unsent, owing)
        if self.lone:
            self._send_frames(data, unsent, owing)
        for member in unsent:
            member.step_out()
            others.append(member)
        self.sent += len(data)
        for member, rest in owing:
            member.owe(rest)
        return others

    def _send_plain(self, chunk: bytes, owing: list[tuple[Member, bytes]]) -> None:
        size = len(chunk)
        for send in self.sockets:
            try:
                sent = send(chunk)
            except OSError:
                # Full; or the transport will find the same, and tell everybody.
                sent = 0
            if sent != size:
                owing.append((self.sockets[send], chunk[sent:]))

    def _send_secure(
        self, chunk: bytes, unsent: list[Member], owing: list[tuple[Member, bytes]]
    ) -> None:
        if not _fits(len(chunk), self.senders):
            unsent += self.senders.values()
            return
        row = iter(self.senders)
        while block := tuple(islice(row, TOGETHER)):
            records = []
            for sender in block:
                try:
                    sender.encrypt(chunk)
                except SSLError:
                    unsent.append(self.senders[sender])
                    records.append(b"")
                else:
                    records.append(sender.encrypted(EVERYTHING))
            owing += ((self.senders[sender], rest) for sender, rest in _send(block, records))

    def _send_frames(
        self, data: bytes, unsent: list[Member], owing: list[tuple[Member, bytes]]
    ) -> None:
        size = len(data)
        if not _fits(size + FRAME_HEADER_BYTES, self.lone):
            unsent += self.lone.values()
            return
        # Length; type (0, DATA) and flags (none).
        header = size.to_bytes(3, "big") + b"\0\0"
        # Most have the same number, so most get the same frame.
        frames: dict[bytes, bytes] = {}
        row = iter(self.lone)
        while block := tuple(islice(row, TOGETHER)):
            records = []
            for stream in block:
                credit = stream.credit - size
                frame = frames.get(stream.number)
                if frame is None:
                    frame = frames[stream.number] = header + stream.number + data
                if credit >= 0:
                    try:
                        stream.encrypt(frame)
                    except SSLError:
                        pass
                    else:
                        stream.credit = credit
                        stream.frames += 1
                        records.append(stream.encrypted(EVERYTHING))
                        continue
                unsent.append(self.lone[stream])
                records.append(b"")
            owing += ((self.lone[stream], rest) for stream, rest in _send(block, records))
