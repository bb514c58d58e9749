"""Where events come from, as a program of its own.

    python -m benchmarks.source mx              plays the MX; says {"port": ...}
    python -m benchmarks.source nchan PORT      posts to nginx; says {"port": ...} of its own end
    python -m benchmarks.source floor PORT      writes to the floor; likewise

It reads commands from standard input, each a JSON object in a line:

    {"send": 10}                                ten events at once
    {"rate": 50, "burst": 5, "count": 100}      a hundred, five at a time, 50 a second on average

All three make the same events, ahead of time, and put the time into them right before the bytes go
to the socket: not to a queue for the next turn of the reactor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IReactorTCP, ITCPTransport, IWriteDescriptor
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.tls import TLSMemoryBIOProtocol

from benchmarks.sample import (
    EXT,
    make_behaviour,
    make_company,
    make_event,
    make_json,
    stamp,
)
from mxflex.simulator.rendering import render
from mxflex.simulator.server import LOOPBACK, SimulatedMX
from mxflex.web.eventstream import encode_sse
from mxflex.wire.connection import EVENT_ID
from mxflex.wire.framing import encode_frame


class Outlet(Protocol):
    """Where events go."""

    def prepare(self, first: int, count: int) -> Callable[[], None]:
        """Make so many events, numbered from the first one on; gives what sends them."""


class Telephones:
    """Events as an MX sends them, to whoever watches the extension."""

    def __init__(self, mx: SimulatedMX) -> None:
        self._mx = mx

    def prepare(self, first: int, count: int) -> Callable[[], None]:
        ready = [
            (
                session,
                b"".join(self._frame(number, monitor) for number in range(first, first + count)),
            )
            for session in self._mx.sessions
            for monitor, ext in session.monitors.items()
            if ext == EXT
        ]

        for session, _ in ready:
            # As the publishers do. Otherwise the kernel keeps an event back until the one before is
            # acknowledged, which a reader that has nothing to say puts off for 40 ms.
            cast("ITCPTransport", session.transport).setTcpNoDelay(True)

        def send() -> None:
            for session, data in ready:
                tls = cast("TLSMemoryBIOProtocol", session.transport)
                # The `write` of the instance would keep it for the next turn.
                TLSMemoryBIOProtocol.write(tls, stamp(data))
                cast("IWriteDescriptor", tls.transport).doWrite()

        return send

    def _frame(self, number: int, monitor: str) -> bytes:
        event = attrs.evolve(make_event(number), monitor=monitor)
        return encode_frame(EVENT_ID, render(event, self._mx.behaviour).encode())


class Publisher(TwistedProtocol):
    """Events as a publisher's bytes on one connection.

    Args:
        frame: Gives the bytes of an event by its number, its name and its JSON.
    """

    transport: ITCPTransport

    def __init__(self, frame: Callable[[int, str, bytes], bytes]) -> None:
        self._frame = frame

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def prepare(self, first: int, count: int) -> Callable[[], None]:
        numbers = range(first, first + count)
        data = b"".join(self._frame(number, *make_json(number)) for number in numbers)

        def send() -> None:
            self.transport.write(stamp(data))
            cast("IWriteDescriptor", self.transport).doWrite()

        return send


def frame_for_floor(sequence: int, name: str, data: bytes) -> bytes:
    """Give the length and the text of an event."""
    text = encode_sse(sequence, name, data)
    return len(text).to_bytes(4, "big") + text


def frame_for_nchan(_sequence: int, name: str, data: bytes) -> bytes:
    """Give a request that publishes an event; nchan writes the lines around the data itself."""
    return (
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"X-EventSource-Event: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (name.encode("ascii"), len(data), data)
    )


class Commands(LineOnlyReceiver):
    """Does what standard input says; numbers the events."""

    delimiter = b"\n"

    def __init__(self, reactor: Any, outlet: Outlet, ended: Deferred[None]) -> None:
        self._reactor = reactor
        self._outlet = outlet
        self._ended = ended
        self._next = 1

    def lineReceived(self, line: bytes) -> None:
        command = json.loads(line)
        if "send" in command:
            self._prepare(command["send"])()
        else:
            interval = command["burst"] / command["rate"]
            self._pace(time.monotonic(), interval, command["burst"], command["count"])

    def connectionLost(self, reason: object = None) -> None:  # noqa: ARG002 - Twisted's signature
        self._ended.callback(None)

    def _prepare(self, count: int) -> Callable[[], None]:
        first, self._next = self._next, self._next + count
        return self._outlet.prepare(first, count)

    def _pace(self, due: float, interval: float, burst: int, left: int) -> None:
        """Send a burst when it is due, and the next one by when it is due, not by when this was."""
        if left <= 0:
            return
        send = self._prepare(min(burst, left))

        def send_now() -> None:
            send()
            self._pace(due + interval, interval, burst, left - burst)

        self._reactor.callLater(max(0.0, due - time.monotonic()), send_now)


async def _open(reactor: Any, kind: str, port: int) -> tuple[Outlet, int]:
    if kind == "mx":
        mx = SimulatedMX(cast("IReactorTCP", reactor), make_company(), make_behaviour())
        return Telephones(mx), await mx.listen()
    frame = frame_for_floor if kind == "floor" else frame_for_nchan
    endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, port)
    factory = Factory.forProtocol(lambda: Publisher(frame))
    publisher = cast("Publisher", await endpoint.connect(factory))
    return publisher, publisher.transport.getHost().port


async def main(reactor: Any, kind: str, port: str = "0") -> None:
    """Send events until standard input ends."""
    outlet, own_port = await _open(reactor, kind, int(port))
    ended: Deferred[None] = Deferred()
    StandardIO(Commands(reactor, outlet, ended), reactor=reactor)
    sys.stdout.write(json.dumps({"port": own_port}) + "\n")
    sys.stdout.flush()
    await ended


if __name__ == "__main__":
    react(lambda reactor, *words: Deferred.fromCoroutine(main(reactor, *words)), sys.argv[1:])
