"""Frames: what the 8-byte header promises, however the bytes arrive."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.errors import LocalProtocolError, RemoteProtocolError
from mxflex.wire.framing import MAX_BODY_BYTES, Frame, FrameDecoder, encode_frame
from tests.data.frames import COMMANDS, EVENTS, KEEPALIVE_FRAME, REPLIES

FACTS = [
    pytest.param(1, b"<MonitorStartAb/>", b"\0\0\0\x190001<MonitorStartAb/>", id="25 bytes"),
    pytest.param(
        7, b"<MonitorStopResponse/>", b"\0\0\0\x1e0007<MonitorStopResponse/>", id="30 bytes"
    ),
    pytest.param(
        9999, b'<Logout mode="forced"/>', b'\0\0\0\x1f9999<Logout mode="forced"/>', id="31 bytes"
    ),
    pytest.param(0, b"<keepalive />", KEEPALIVE_FRAME, id="keepalive"),
    pytest.param(42, b"", b"\0\0\0\x080042", id="empty body"),
]


def frames_of(*pieces: bytes) -> list[Frame]:
    """Feed the pieces one after the other and collect every frame as soon as it is there."""
    decoder = FrameDecoder()
    frames = []
    for piece in pieces:
        decoder.receive_data(piece)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
    return frames


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(("invoke_id", "body", "data"), FACTS)
class TestFacts:
    """Frames known byte for byte, written and read."""

    def test_encode(self, invoke_id: int, body: bytes, data: bytes) -> None:
        """The header is written as the samples have it."""
        assert encode_frame(invoke_id, body) == data

    def test_whole(self, invoke_id: int, body: bytes, data: bytes) -> None:
        """A frame that comes in one piece is given out at once."""
        assert frames_of(data) == [Frame(invoke_id, body)]

    def test_byte_by_byte(self, invoke_id: int, body: bytes, data: bytes) -> None:
        """A frame that comes byte by byte is given out with its last byte, not before."""
        decoder = FrameDecoder()
        for byte in one_by_one(data):
            assert decoder.next_frame() is None
            decoder.receive_data(byte)
        assert decoder.next_frame() == Frame(invoke_id, body)
        assert decoder.next_frame() is None

    def test_next_frame_behind(self, invoke_id: int, body: bytes, data: bytes) -> None:
        """Bytes behind a frame belong to the next one, wherever the stream is cut."""
        stream = data + KEEPALIVE_FRAME
        expected = [Frame(invoke_id, body), Frame(0, b"<keepalive />")]
        for cut in range(len(stream) + 1):
            assert frames_of(stream[:cut], stream[cut:]) == expected


@pytest.mark.parametrize("size", [0, 1, MAX_BODY_BYTES - 1, MAX_BODY_BYTES])
def test_sizes_that_fit(size: int) -> None:
    """A body of 0 to 65527 bytes travels; the length field counts the header too."""
    data = encode_frame(1, b"x" * size)
    assert int.from_bytes(data[2:4]) == size + 8
    assert frames_of(data) == [Frame(1, b"x" * size)]


def test_size_above_the_bound() -> None:
    """A body of 65528 bytes is refused: its length does not fit the field."""
    with pytest.raises(LocalProtocolError, match="65528 bytes"):
        encode_frame(1, b"x" * 65528)


@pytest.mark.parametrize("invoke_id", [-1, 10000])
def test_id_out_of_range(invoke_id: int) -> None:
    """An id of other than four digits is never written."""
    with pytest.raises(LocalProtocolError, match="invoke id"):
        encode_frame(invoke_id, b"")


@pytest.mark.parametrize("invoke_id", [0, 1, 9998, 9999])
def test_id_in_range(invoke_id: int) -> None:
    """The first and the last ids travel, padded to four digits."""
    assert frames_of(encode_frame(invoke_id, b"<a/>")) == [Frame(invoke_id, b"<a/>")]


@pytest.mark.parametrize("length", range(8))
def test_length_shorter_than_the_header(length: int) -> None:
    """A length below 8 is an error at once: a client that subtracts blindly waits for 64 KiB."""
    decoder = FrameDecoder()
    decoder.receive_data(b"\0\0" + length.to_bytes(2) + b"0001")
    with pytest.raises(RemoteProtocolError, match=f"frame length {length} "):
        decoder.next_frame()


@pytest.mark.parametrize(
    "digits",
    [
        b"    ",
        b"-001",
        b"+001",
        b"0x01",
        b" 001",
        b"001 ",
        b"1_00",
        b"\0\0\0\1",
        b"\xd9\xa1\xd9\xa2",
    ],
)
def test_id_that_is_not_four_digits(digits: bytes) -> None:
    """Only ASCII digits make an id; signs, blanks and what `int` would also take do not."""
    decoder = FrameDecoder()
    decoder.receive_data(b"\0\0\0\x0c" + digits + b"<a/>")
    with pytest.raises(RemoteProtocolError, match="four digits"):
        decoder.next_frame()


def test_a_lost_boundary_stays_lost() -> None:
    """After an impossible header no later byte is taken for a frame."""
    decoder = FrameDecoder()
    decoder.receive_data(KEEPALIVE_FRAME + b"\0\0\0\x070001")
    assert decoder.next_frame() == Frame(0, b"<keepalive />")
    for _ in range(3):
        with pytest.raises(RemoteProtocolError):
            decoder.next_frame()
        decoder.receive_data(KEEPALIVE_FRAME)


def test_a_bad_header_waits_for_its_eighth_byte() -> None:
    """Nothing is judged before the whole header is there."""
    decoder = FrameDecoder()
    decoder.receive_data(b"\0\0\0\x07abc")
    assert decoder.next_frame() is None


def test_another_kind_is_read_and_reported() -> None:
    """Clients that ignore the first two bytes work, so another value does not end the link."""
    assert frames_of(b"\x01\x02\0\x0c0001<a/>") == [Frame(1, b"<a/>", kind=0x0102)]


def test_byte_by_byte_input_is_linear() -> None:
    """The longest frame, byte by byte, costs its bytes and not their square."""
    data = encode_frame(1, b"x" * MAX_BODY_BYTES)
    begin = time.process_time()
    assert len(frames_of(*one_by_one(data))) == 1
    assert time.process_time() - begin < 2


def test_many_small_frames_in_one_piece_are_linear() -> None:
    """A megabyte of small frames at once does not move the rest of the buffer for each of them."""
    count = 50_000
    begin = time.process_time()
    assert len(frames_of(KEEPALIVE_FRAME * count)) == count
    assert time.process_time() - begin < 2


def test_nothing_is_kept_of_frames_given_out() -> None:
    """The buffer is empty once all whole frames are taken, so a long session does not grow."""
    decoder = FrameDecoder()
    for _ in range(3):
        decoder.receive_data(KEEPALIVE_FRAME * 2)
        assert decoder.next_frame() is not None
        assert decoder.next_frame() is not None
        assert decoder.next_frame() is None
        assert not decoder._buffer


@st.composite
def cut_up(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut bytes at any places, empty pieces included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


FRAMES = st.lists(
    st.builds(Frame, st.integers(0, 9999), st.binary(max_size=60)), min_size=1, max_size=8
)


@given(st.data(), FRAMES)
def test_any_split_gives_the_same_frames(data: st.DataObject, frames: list[Frame]) -> None:
    """How the bytes of a stream are cut never changes the frames."""
    stream = b"".join(encode_frame(frame.invoke_id, frame.body) for frame in frames)
    assert frames_of(*data.draw(cut_up(stream))) == frames


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_garbage(pieces: list[bytes]) -> None:
    """Any bytes give frames, nothing, or RemoteProtocolError; no other exception."""
    decoder = FrameDecoder()
    for piece in pieces:
        decoder.receive_data(piece)
        try:
            while decoder.next_frame() is not None:
                pass
        except RemoteProtocolError:
            return


@pytest.mark.parametrize("sample", [*COMMANDS, *REPLIES, *EVENTS], ids=str)
def test_sample_frames(sample) -> None:
    """The header of every sample is a sound one, and is written the same."""
    (frame,) = frames_of(sample.frame)
    assert encode_frame(frame.invoke_id, frame.body) == sample.frame
