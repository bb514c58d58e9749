"""One event from the MX's bytes to the text of a stream, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.sample import EXT, make_behaviour, make_event
from mxflex.simulator.rendering import render
from mxflex.web.eventjson import encode_call_event
from mxflex.web.eventstream import encode_sse
from mxflex.wire.connection import EVENT_ID, ClientConnection, EventReceived
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import CallEvent

BATCHES = 5
READ, WRITE, FRAME, WHOLE = "bytes to event", "event to JSON", "JSON to SSE", "whole"


def measure_encoding(count: int) -> dict[str, float]:
    """Give the microseconds of processor time that an event costs, by step.

    Args:
        count: Events for each of a few batches, of which the median counts.
    """
    frames = [
        encode_frame(EVENT_ID, render(make_event(number, number), make_behaviour()).encode())
        for number in range(1, count + 1)
    ]
    wire = ClientConnection()

    def read(frame: bytes) -> CallEvent:
        wire.receive_data(frame)
        received = wire.next_event()
        assert isinstance(received, EventReceived)
        assert isinstance(received.event, CallEvent)
        return received.event

    def write(event: CallEvent) -> tuple[str, bytes]:
        encoded = encode_call_event(EXT, event)
        assert encoded is not None
        return encoded

    def frame_text(encoded: tuple[str, bytes]) -> bytes:
        return encode_sse(1_000_000, *encoded)

    events = [read(frame) for frame in frames]
    texts = [write(event) for event in events]
    return {
        f"{READ} ({len(frames[0])} bytes)": _each(read, frames),
        WRITE: _each(write, events),
        FRAME: _each(frame_text, texts),
        WHOLE: _each(lambda frame: frame_text(write(read(frame))), frames),
    }


def _each(step: Callable[[Any], object], things: list[Any]) -> float:
    batches = []
    for _ in range(BATCHES):
        began = time.process_time_ns()
        for thing in things:
            step(thing)
        batches.append((time.process_time_ns() - began) / len(things) / 1e3)
    return median(batches)
