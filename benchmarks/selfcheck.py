"""Shows, before anything is measured, that the readers notice what they must.

A server that does everything wrong on purpose sends events with gaps, doubles and late stamps, in
one piece and byte by byte; what the readers say of it is compared with what it did.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.generator import PATIENCE, Readers
from benchmarks.processes import BenchmarkError
from benchmarks.sample import make_json
from mxflex.simulator.server import LOOPBACK
from mxflex.web.eventstream import encode_sse

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_LATE = 0.25
_NANOSECONDS = 1_000_000_000
_MILLISECONDS = 1_000

# What is sent, and what is to be said about it: messages, missing, backward.
_CASES: tuple[tuple[Sequence[int], tuple[int, int, int]], ...] = (
    (range(1, 11), (10, 0, 0)),
    # A gap of three, and the next one is seen as the successor.
    ((1, 2, 6, 7, 8, 9, 10), (7, 3, 0)),
    # Nothing may be lost before the first event either.
    (range(3, 11), (8, 2, 0)),
    # A double.
    ((1, 2, 2, *range(3, 11)), (11, 0, 1)),
    # Two in the wrong order: one is missed when the later one comes, and comes back.
    ((1, 3, 2, *range(4, 11)), (10, 1, 1)),
)


def check(folder: Path) -> None:
    """Check the readers.

    Raises:
        BenchmarkError: They did not notice something.
    """
    for sequences, expected in _CASES:
        for whole in (True, False):
            told = _read(folder, sequences, whole)
            noticed = (told["messages"], told["missing"], told["backward"])
            latency = told["latency_ms"]["p50"] / _MILLISECONDS
            if noticed != expected or told["strange"] != 1 or not _LATE <= latency < 2 * _LATE:
                raise BenchmarkError(f"the readers were shown {list(sequences)} and saw {told}")


def _read(folder: Path, sequences: Sequence[int], whole: bool) -> dict[str, Any]:
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(PATIENCE)
        serving = threading.Thread(target=_serve, args=(server, sequences, whole))
        serving.start()
        try:
            with Readers(folder, server.getsockname()[1]) as readers:
                readers.when_open(PATIENCE)
                readers.when_passed(max(sequences), PATIENCE)
                return readers.report()
        finally:
            serving.join()


def _serve(server: socket.socket, sequences: Sequence[int], whole: bool) -> None:
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(65536)
        stamp = time.monotonic_ns() - int(_LATE * _NANOSECONDS)
        # Comments, and an event without numbers, are no messages; the latter is strange.
        texts = [b"retry: 3000\nid: 1\n\n", b":\n\n", b'event: gap\ndata: {"reason":"x"}\n\n']
        texts += [encode_sse(number, *make_json(number, stamp)) for number in sequences]
        data = _HEAD + b"".join(b"%x\r\n%s\r\n" % (len(text), text) for text in texts)
        # The reader may go once it has the last number, before the last bytes behind it.
        with contextlib.suppress(ConnectionError):
            for piece in [data] if whole else [data[at : at + 1] for at in range(len(data))]:
                connection.sendall(piece)
            connection.recv(1)
