"""Frames: an 8-byte header before each XML text.

    offset  size  content
    0       2     kind: 00 00
    2       2     total length, unsigned, big-endian, these 8 bytes included
    4       4     invoke id: 4 ASCII decimal digits
    8       n     XML text in UTF-8

Source: docs/mx-protocol.md, "Frames".
"""

from __future__ import annotations

import struct

import attrs

from mxflex.errors import LocalProtocolError, RemoteProtocolError

HEADER_BYTES = 8
# The length field has 16 bits and counts the header too.
MAX_FRAME_BYTES = 0xFFFF
MAX_BODY_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
MAX_INVOKE_ID = 9999

_HEADER = struct.Struct(">HH4s")


@attrs.frozen
class Frame:
    """One frame of the stream.

    Attributes:
        invoke_id: 0 to 9999; ties an answer to its command.
        body: The XML text, undecoded; may be empty.
        kind: The first two bytes as a number. Always 0 in known servers; kept so that another
            value can be reported, since clients that ignore it are known to work.
    """

    invoke_id: int
    body: bytes
    kind: int = 0


def encode_frame(invoke_id: int, body: bytes) -> bytes:
    """Put the header before a body.

    Raises:
        LocalProtocolError: The body does not fit a frame, or the id is not 0 to 9999.
    """
    if len(body) > MAX_BODY_BYTES:
        raise LocalProtocolError(f"a message of {len(body)} bytes does not fit a frame")
    if not 0 <= invoke_id <= MAX_INVOKE_ID:
        raise LocalProtocolError(f"invoke id {invoke_id} is not within 0..{MAX_INVOKE_ID}")
    return _HEADER.pack(0, HEADER_BYTES + len(body), b"%04d" % invoke_id) + body


class FrameDecoder:
    """Cuts a stream of bytes, however it arrives, into frames.

    It never holds more than one incomplete frame (64 KiB) plus what the last call brought.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes of the stream, any number of them."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Give the next whole frame, or None until more bytes have come.

        Raises:
            RemoteProtocolError: The header is impossible, so the frame boundary is lost. The
                decoder stays at that header: every later call raises again.
        """
        if len(self._buffer) < HEADER_BYTES:
            return None
        kind, length, digits = _HEADER.unpack_from(self._buffer)
        if length < HEADER_BYTES:
            raise RemoteProtocolError(f"frame length {length} is shorter than its header")
        if not digits.isdigit():
            raise RemoteProtocolError(f"invoke id {digits!r} is not four digits")
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[HEADER_BYTES:length])
        # A bytearray gives up its front without moving the rest, so this is linear.
        del self._buffer[:length]
        return Frame(int(digits), body, kind)
