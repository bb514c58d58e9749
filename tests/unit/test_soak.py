"""The parts of the soak that judge: a fault that they overlook would make it worthless."""

from __future__ import annotations

import sys
from itertools import cycle, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.processes import Program
from benchmarks.soak import selfcheck
from benchmarks.soak.checking import GAP_PATIENCE, Fault, Ledger, Watch
from benchmarks.soak.flatness import MINUTE, fit
from benchmarks.soak.handover import UNDER_WAY, Handover, ranges
from benchmarks.soak.judging import (
    Measured,
    Verdict,
    inside,
    judge_events,
    judge_link,
    judge_server,
)
from benchmarks.soak.mx import make_event
from mxflex.web.eventjson import encode_call_event
from mxflex.web.eventstream import encode_sse

ROOT = Path(__file__).parents[2]
EXT = "3000"
DOWN = '{"reason":"mx-down","since":"2026-03-01T08:00:00.500Z"}'
EXPIRED = '{"reason":"expired"}'


def make_watch(history=256):
    """A client that has had nothing yet."""
    return Watch(Ledger(name="plain", history=history))


def write(steps, first_id=1):
    """The bytes of a stream: numbers of events, or the content of a `gap`."""
    texts = []
    for event_id, step in enumerate(steps, first_id):
        if isinstance(step, int):
            event = encode_call_event(EXT, make_event(EXT, step))
        else:
            event = ("gap", step.encode())
        texts.append(encode_sse(event_id, *event))
    return b"".join(texts)


def feed(watch, *steps, first_id=None, now=0.0):
    """Let a client have some of a stream."""
    watch.feed(write(steps, watch.last_id + 1 if first_id is None else first_id), now)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 300])
def test_every_kind_of_event_carries_its_number(number):
    """Each event of a simulated call shows its number to the client, by what MXFlex writes."""
    watch = make_watch()
    feed(watch, number)
    assert (watch.number, watch.ledger.messages, watch.ledger.faults) == (number, 1, {})


@settings(max_examples=300)
@given(
    case=st.sampled_from(list(selfcheck.CASES.values())),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=20),
)
def test_faults_are_seen_however_the_bytes_are_cut(case, sizes):
    """What the check before each soak shows over sockets holds for any cutting of the bytes."""
    cuts = cycle(sizes)
    watch = make_watch(selfcheck.HISTORY)
    place = 1
    for part in selfcheck._connections_of(case.script):
        watch.reopen()
        text = b"retry: 3000\n\n:\n\n" + write(part, place)
        place += len(part)
        while text:
            size = next(cuts)
            watch.feed(text[:size], 0.0)
            text = text[size:]
    watch.settle()
    # That the server hangs up, and that the end is missing, are seen from outside of the stream.
    expected = {**case.faults}
    expected.pop(Fault.CUT, None)
    if watch.number < selfcheck._LAST:
        expected.pop(Fault.LOST)
    assert watch.ledger.faults == expected


def test_half_an_event_of_an_old_connection_is_nothing():
    """What came before a connection broke in the middle of an event does not reach the next one."""
    watch = make_watch()
    text = write([1, 2])
    watch.feed(text[:-10], 0.0)
    assert watch.number == 1
    watch.reopen()
    feed(watch, 2, 3)
    assert (watch.number, watch.ledger.faults) == (3, {})


@pytest.mark.parametrize(("last_id", "faults"), [(4, {}), (3, {Fault.ID_BACKWARD: 1})])
def test_ids_grow(last_id, faults):
    """An event needs an id above all before it, also above the one that a stream begins with."""
    watch = make_watch()
    watch.feed(b"retry: 3000\nid: 3\n\n", 0.0)
    feed(watch, 1, first_id=last_id)
    assert watch.ledger.faults == faults


def test_a_gap_behind_the_jump_must_come_soon():
    """A jump is excused by a `gap` within half a minute, not by one of much later."""
    for wait, faults in ((GAP_PATIENCE, {}), (GAP_PATIENCE + 1, {Fault.LOST: 8})):
        watch = make_watch()
        feed(watch, 1, 10)
        feed(watch, DOWN, now=wait)
        watch.settle()
        assert watch.ledger.faults == faults


def test_time_away_is_no_waiting_for_a_gap():
    """A client that leaves between a jump and its `gap` gets that when it is back, however late."""
    for wait, faults in ((0.0, {}), (GAP_PATIENCE + 1, {Fault.LOST: 8})):
        watch = make_watch()
        feed(watch, 1, 10)
        watch.reopen()
        back = 10 * GAP_PATIENCE
        watch.feed(b"retry: 3000\n\n", back)
        feed(watch, DOWN, now=back + wait)
        watch.settle()
        assert watch.ledger.faults == faults


def test_a_client_that_is_late_must_get_what_is_kept():
    """After `expired` comes the whole history; the newest event of all clients says what it is."""
    for first, faults in ((161, {}), (200, {Fault.TOO_LITTLE: 1})):
        watch = make_watch(history=40)
        feed(watch, 1)
        watch.ledger.newest = 200
        feed(watch, EXPIRED, first)
        assert watch.ledger.faults == faults
        assert watch.ledger.jumps == {(1, first, "expired"): 1}


def test_a_gap_that_is_not_kept_any_more():
    """Who jumped over an outage, and comes back too late for its `gap`, is told `expired`.

    The outage has to account for what it jumped over, as if the gap had been told.
    """
    watch = make_watch(history=40)
    feed(watch, 1, 10)
    watch.ledger.newest = 200
    watch.reopen()
    feed(watch, EXPIRED, 161)
    watch.settle()
    assert watch.ledger.faults == {}
    assert watch.ledger.jumps == {(1, 10, "mx-down"): 1, (10, 161, "expired"): 1}


@given(st.sets(st.integers(1, 60)))
def test_ranges_hold_just_these_numbers(numbers):
    """Joined to ranges, numbers are the same, and no two ranges touch."""
    joined = ranges(numbers)
    assert {n for first, last in joined for n in range(first, last + 1)} == numbers
    assert all(later > end + 1 for (_, end), (later, _) in pairwise(joined))


@given(st.sets(st.integers(1, 60)), st.integers(1, 60), st.integers(0, 60))
def test_what_is_handed_over_is_counted(uncertain, first, more):
    """Of the numbers that are missing, those count that may not be lost."""
    last = first + more
    assert inside(first, last, ranges(uncertain)) == len(set(range(first, last + 1)) - uncertain)


def test_a_cut_takes_what_was_under_way():
    """Events right before a connection is reset may be lost; older ones may not, nor later ones."""
    handover = Handover()
    handover.sent(EXT, 1, 0.0, covered=True)
    handover.sent(EXT, 2, 10.0, covered=True)
    handover.sent(EXT, 3, 10.0 + UNDER_WAY, covered=True)
    handover.cut(10.0 + UNDER_WAY)
    handover.sent(EXT, 4, 20.0, covered=False)
    handover.sent(EXT, 5, 21.0, covered=True)
    assert handover.uncertain() == {EXT: [(2, 4)]}


def test_a_cut_after_a_quiet_time_takes_nothing():
    """What was written long before a connection is reset has arrived, though nothing followed."""
    handover = Handover()
    handover.sent(EXT, 1, 0.0, covered=True)
    handover.cut(2 * UNDER_WAY)
    assert handover.uncertain() == {}


def test_a_line_is_found_in_the_noise():
    """The slope is that of the line, and what was measured while warming up is left out."""
    times = [10.0 * step for step in range(100)]
    values = [9e9 if t < 100 else 1000.0 + t / MINUTE * 6 + (-1) ** (t // 10) for t in times]
    trend = fit(times, values, 100.0)
    assert trend.per_minute == pytest.approx(6, rel=0.01)
    assert trend.minutes == pytest.approx(890 / MINUTE)
    assert trend.growth == pytest.approx(6 * 890 / MINUTE / trend.level, rel=0.01)
    with pytest.raises(ValueError, match="1 values"):
        fit(times, values, 990.0)


def measured(**figures):
    """A server with nothing to be said against it, but for these."""
    times = [10.0 * step for step in range(360)]
    good = {
        "memory": [1e8] * 360,
        "descriptors": [4000.0] * 360,
        "before": 30,
        "after": 30,
        "complaints": [],
    }
    return Measured(name="plain", times=times, cpu_share=0.1, **{**good, **figures})


@pytest.mark.parametrize(
    ("figures", "failed"),
    [
        ({}, 0),
        ({"memory": [1e8 + step * 5e3 for step in range(360)]}, 0),
        ({"memory": [1e8 + step * 1e4 for step in range(360)]}, 1),
        ({"descriptors": [4000.0 + step for step in range(360)]}, 1),
        ({"after": 32}, 0),
        ({"after": 33}, 1),
        ({"complaints": ["Traceback"]}, 1),
    ],
)
def test_what_a_server_may_not_do(figures, failed):
    """Memory or descriptors that grow, descriptors that stay, and tracebacks fail the soak."""
    verdict = Verdict()
    judge_server(verdict, measured(**figures))
    assert sum(not check.holds for check in verdict.checks) == failed
    assert verdict.holds is not bool(failed)


def test_a_server_that_is_back_late_fails():
    """An outage that outlasts its bound, and a link that ended by itself, fail the soak."""
    outage = {"back": 5.0, "bound": 15.0}
    for outages, unforeseen, holds in (
        ([outage] * 6, 0, True),
        ([outage] * 5, 0, False),
        ([outage] * 5 + [{"back": 16.0, "bound": 15.0}], 0, False),
        ([outage] * 6, 1, False),
    ):
        verdict = Verdict()
        judge_link(verdict, {"outages": outages, "unforeseen": unforeseen}, 10)
        assert verdict.holds is holds


def test_each_server_is_judged_by_what_was_handed_to_it():
    """What one server may have lost does not excuse the other."""
    ledger = {
        "ext": EXT,
        "messages": 10,
        "jumps": [[4, 9, "mx-down", 3]],
        "gaps": [],
        "faults": {},
        "examples": [],
    }
    mx = {"uncertain": {"plain": {EXT: [[5, 8]]}, "secure": {EXT: [[6, 8]]}}, "outages": []}
    for server, lost in ((0, 0), (1, 3)):
        verdict = Verdict()
        told = {"streams": 3, "ledgers": [{**ledger, "server": server}]}
        judge_events(verdict, told, mx, ("plain", "secure"))
        assert [int(c.found) for c in verdict.checks if not c.holds] == [lost] * bool(lost)


ECHO = """
from benchmarks.soak.program import obey, say
from twisted.internet.defer import Deferred
from twisted.internet.task import react
echo = {"echo": lambda count: say({"said": "x" * count})}
react(lambda reactor: Deferred.fromCoroutine(obey(reactor, echo)))
"""


def test_an_answer_may_be_longer_than_a_pipe(tmp_path):
    """The report of an hour is far longer than what a pipe holds, and comes whole."""
    command = ["/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-c", ECHO]
    program = Program("echo", command, tmp_path)
    try:
        program.tell('{"echo": 1000000}')
        assert program.read(20.0) == {"said": "x" * 1_000_000}
    finally:
        program.stop()
