"""A stream of bytes, read by both ends of a connection.

Promise: whatever the bytes are and however they are cut, an end hears the same; it hears nothing
but what `connection` documents, and the only error is `RemoteProtocolError`, which then stays.

Input: a byte with the size of the pieces (0 cuts nothing), then the stream.
"""

from __future__ import annotations

from typing import Any

from mxflex.errors import RemoteProtocolError
from mxflex.wire.connection import (
    BadFrame,
    ClientConnection,
    CommandReceived,
    EventReceived,
    LateReply,
    ReplyReceived,
    ServerConnection,
)
from mxflex.wire.messages import COMMANDS

HEARD = {
    ClientConnection: (ReplyReceived, LateReply, EventReceived, BadFrame),
    ServerConnection: (CommandReceived, BadFrame),
}


def check(data: bytes) -> None:
    """Read the bytes at once and in pieces, at either end."""
    size, stream = (data[0], data[1:]) if data else (0, b"")
    for end in (_client, ServerConnection):
        whole = _heard(end(), stream, len(stream))
        if size:
            assert _heard(end(), stream, size) == whole


def _client() -> ClientConnection:
    """Give a client that waits for an answer to one command of each kind, and gave up the last."""
    client = ClientConnection()
    for cls in COMMANDS.values():
        last, _ = client.request(cls())
    client.abandon(last)
    return client


def _heard(end: ClientConnection | ServerConnection, stream: bytes, size: int) -> list[Any]:
    """Give all that an end hears, and the words of the error that stopped it."""
    heard: list[Any] = []
    for begin in range(0, len(stream), size or 1):
        end.receive_data(stream[begin : begin + size])
        try:
            while (happened := end.next_event()) is not None:
                assert isinstance(happened, HEARD[type(end)])
                heard.append(happened)
        except RemoteProtocolError as error:
            _stays_broken(end, str(error))
            return [*heard, str(error)]
    if isinstance(end, ClientConnection):
        answered = sum(isinstance(happened, ReplyReceived) for happened in heard)
        assert end.waiting == len(COMMANDS) - 1 - answered
    return heard


def _stays_broken(end: ClientConnection | ServerConnection, words: str) -> None:
    end.receive_data(b"\0\0\0\x080000")
    again = ""
    try:
        end.next_event()
    except RemoteProtocolError as error:
        again = str(error)
    assert again == words
