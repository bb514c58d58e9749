"""The head of an answer and its first bytes, in one piece and at once.

Twisted queues an answer in some thirty pieces, asks the kernel to tell when the socket takes them,
and joins and sends them in the next turn of the reactor. Nearly always the socket would have taken
them all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.tcp import Connection
from twisted.web.http import HTTPChannel


class _Pieces(list[bytes]):
    """Takes the place of a transport, and keeps what is written."""

    write = list.append
    writeSequence = list.extend


def takes_pieces(channel: object) -> bool:
    """Tell whether answers on a channel go to a plain TCP socket."""
    return (
        isinstance(channel, HTTPChannel)
        and isinstance(channel.transport, Connection)
        and not channel.transport.TLS
    )


def write_at_once(channel: HTTPChannel, write: Callable[[bytes], None], data: bytes) -> None:
    """Let something write, and send what it wrote to the socket if nothing is queued before it.

    Args:
        channel: One for which `takes_pieces` holds.
        write: Writes to the channel, in any number of pieces.
        data: What `write` is given.
    """
    transport: Any = channel.transport
    pieces = _Pieces()
    channel.transport = cast("Any", pieces)
    try:
        write(data)
    finally:
        channel.transport = transport
    if transport.dataBuffer or transport._tempDataBuffer:
        transport.writeSequence(pieces)
        return
    try:
        sent = transport.socket.sendmsg(pieces)
    except OSError:
        # It is full; or the transport will find the same, and tell everybody.
        sent = 0
    if sent < sum(map(len, pieces)):
        transport.write(b"".join(pieces)[sent:])
