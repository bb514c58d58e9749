"""Shows, before it all begins, that the readers and the judge notice what they must.

A server that does everything wrong on purpose, one thing for each extension, over real connections,
in one piece and byte by byte; what is said of it is compared with what it did.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import attrs

from benchmarks.peers import start_module
from benchmarks.processes import BenchmarkError
from benchmarks.soak.checking import Fault
from benchmarks.soak.clients import Way
from benchmarks.soak.judging import Verdict, judge_events
from benchmarks.soak.mx import make_event
from mxflex.simulator.server import LOOPBACK
from mxflex.web.eventjson import encode_call_event
from mxflex.web.eventstream import encode_sse

PATIENCE = 20.0
SETTLING = 1.0
HISTORY = 40
ACCOUNT = "selfcheck"
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# An outage in which everything from 11 to 20 was lost.
_OUTAGE = {"began": 1_772_352_000.0, "lasted": 1.0, "back": 1.0}
_SINCE = '"since":"2026-03-01T08:00:00.500Z"'
_DOWN = '{"reason":"mx-down",' + _SINCE + "}"
_DOWN_EARLIER = '{"reason":"mx-down","since":"2026-03-01T07:00:00.500Z"}'
_EXPIRED = '{"reason":"expired"}'
_STRANGE = '{"reason":"unknown-id"}'
_LAST = 30

# What is sent: numbers of events, or the content of a `gap`; CLOSE where the server hangs up.
CLOSE = "close"
_Script = Sequence[int | str]


@attrs.frozen
class Case:
    """A stream with something wrong.

    Attributes:
        script: What is sent; what stands behind a `CLOSE` comes over the next connection.
        faults: How often each fault is to be found.
        lost_beside: Events to be found lost beside a gap though they were handed over.
        unfounded: Gaps to be found that no outage stands behind.
    """

    script: _Script
    faults: dict[Fault, int] = attrs.field(factory=dict)
    lost_beside: int = 0
    unfounded: int = 0


_ALL = range(1, _LAST + 1)

CASES = {
    "100": Case((*_ALL,)),
    "101": Case((*range(1, 6), *range(8, 31)), {Fault.LOST: 2}),
    "102": Case((*range(1, 6), 5, *range(6, 31)), {Fault.DOUBLED: 1}),
    "103": Case((*range(1, 6), 3, *range(6, 31)), {Fault.DOUBLED: 1}),
    "104": Case((1, 2, 4, 3, *range(5, 31)), {Fault.DISORDERED: 1, Fault.LOST: 1}),
    # What an outage costs, with the gap before the events after it, and behind the first of them.
    "105": Case((*range(1, 11), _DOWN, *range(21, 31))),
    "106": Case((*range(1, 11), 21, _DOWN, *range(22, 31))),
    # A gap excuses nothing from before the outage or from after it.
    "107": Case((*range(1, 9), _DOWN, *range(23, 31)), lost_beside=4),
    "108": Case((*range(1, 11), _DOWN, 21, 24, *range(25, 31)), {Fault.LOST: 2}),
    "109": Case((*range(1, 15), _DOWN_EARLIER, *range(15, 31)), unfounded=1),
    "110": Case((*range(1, 16), _STRANGE, *range(16, 31)), {Fault.STRANGE: 1}),
    # The end does not come.
    "111": Case((*range(1, 26),), {Fault.LOST: 5}),
    # The server hangs up; what follows is complete.
    "112": Case((*range(1, 16), CLOSE, *range(16, 31)), {Fault.CUT: 1}),
    # And what follows is not, or comes twice.
    "113": Case((*range(1, 16), CLOSE, *range(17, 31)), {Fault.CUT: 1, Fault.LOST: 1}),
    "114": Case((*range(1, 16), CLOSE, *range(15, 31)), {Fault.CUT: 1, Fault.DOUBLED: 1}),
    # Fifteen events are not beyond a history of forty.
    "115": Case(
        (*range(1, 16), CLOSE, _EXPIRED, *range(16, 31)), {Fault.CUT: 1, Fault.TOO_EARLY: 1}
    ),
}
# Ids that stay where they are are wrong, too; so is an answer that is none.
SAME_ID = Case((*_ALL,), {Fault.ID_BACKWARD: _LAST - 1})
REFUSED = Case((CLOSE, *_ALL), {Fault.REFUSED: 1})
_SAME_ID, _REFUSED = "198", "199"


def check(folder: Path) -> None:
    """Check the readers and the judge.

    Raises:
        BenchmarkError: They did not notice something.
    """
    for whole in (True, False):
        with _Liar(whole) as liar:
            told = _read(folder, liar.port, [*CASES, _SAME_ID, _REFUSED])
        for ledger in told["ledgers"]:
            _compare(ledger)


def _compare(ledger: dict[str, Any]) -> None:
    case = {**CASES, _SAME_ID: SAME_ID, _REFUSED: REFUSED}[ledger["ext"]]
    if ledger["faults"] != {fault.value: count for fault, count in case.faults.items()}:
        raise BenchmarkError(f"the readers were shown {case} and saw {ledger}")
    verdict = Verdict()
    mx = {"uncertain": {ACCOUNT: {ledger["ext"]: [[11, 20]]}}, "outages": [_OUTAGE]}
    judge_events(verdict, {"ledgers": [ledger], "streams": 1}, mx, [ACCOUNT])
    failed = Counter({check.what: int(check.found) for check in verdict.checks if not check.holds})
    wanted = sum(case.faults.values()) + case.lost_beside + case.unfounded
    if failed.total() != wanted:
        raise BenchmarkError(f"the judge was shown {case} and found {dict(failed)}")


def _read(folder: Path, port: int, exts: list[str]) -> dict[str, Any]:
    program = start_module("readers", "benchmarks.soak.readers", folder)
    try:
        program.tell(json.dumps({"tokens": [{ext: ext for ext in exts}, {}]}))
        program.tell(
            json.dumps(
                {
                    "open": {
                        "plain": port,
                        "secure": 0,
                        "each": {Way.PLAIN: 1},
                        "exts": exts,
                        "slow": {},
                        "history": HISTORY,
                    }
                }
            )
        )
        program.read(PATIENCE)
        last = dict.fromkeys(exts, _LAST)
        program.tell(json.dumps({"settle": {"last": last, "seconds": 2 * SETTLING}}))
        return program.read(PATIENCE)
    finally:
        program.stop()


class _Liar:
    """The server that does everything wrong."""

    def __init__(self, whole: bool) -> None:
        self._whole = whole
        self._listening = socket.create_server((LOOPBACK, 0), backlog=64)
        self._connections: list[socket.socket] = []
        self._visits: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        # Closing alone would leave the thread in its `accept`.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._connections:
            connection.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = connection.recv(65536)
            asked = re.search(rb"Bearer (\d+)", request)
            assert asked is not None
            ext = asked[1].decode()
            with self._lock:
                visit = self._visits[ext]
                self._visits[ext] += 1
            parts = list(_parts(ext, visit))
            data = b"".join(parts)
            for piece in [data] if self._whole else [data[at : at + 1] for at in range(len(data))]:
                connection.sendall(piece)
            if _hangs_up(ext, visit):
                connection.shutdown(socket.SHUT_RDWR)


def _connections_of(script: _Script) -> list[list[int | str]]:
    """Cut a script into what goes over each connection."""
    parts: list[list[int | str]] = [[]]
    for step in script:
        if step == CLOSE:
            parts.append([])
        else:
            parts[-1].append(step)
    return parts


def _script_of(ext: str) -> _Script:
    return {**CASES, _SAME_ID: SAME_ID, _REFUSED: REFUSED}[ext].script


def _hangs_up(ext: str, visit: int) -> bool:
    return visit < len(_connections_of(_script_of(ext))) - 1


def _parts(ext: str, visit: int) -> Iterator[bytes]:
    if ext == _REFUSED and not visit:
        yield b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        return
    yield _HEAD
    parts = _connections_of(_script_of(ext))
    before = sum(map(len, parts[:visit]))
    # Comments and the block at the beginning are no events.
    yield _chunk(b"retry: 3000\nid: %d\n\n:\n\n" % (before + 1))
    # Whoever comes once more than expected gets nothing more.
    for place, step in enumerate(parts[visit] if visit < len(parts) else [], before + 2):
        event_id = 2 if ext == _SAME_ID else place
        if isinstance(step, int):
            encoded = encode_call_event(ext, make_event(ext, step))
            assert encoded is not None
            yield _chunk(encode_sse(event_id, *encoded))
        else:
            yield _chunk(encode_sse(event_id, "gap", step.encode()))


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)
