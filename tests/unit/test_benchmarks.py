"""The parts of the benchmarks that reckon and tell: a wrong table is worse than none."""

from __future__ import annotations

import json
import time

import attrs
import pytest

from benchmarks import api, encoding, where
from benchmarks.document import PAGE, fill
from benchmarks.peers import FLOOR_NAME, MXFLEX, NCHAN
from benchmarks.plan import BURSTS, FLAT_OUT, FULL, PLANS, STEADY, STEP, Transport, bursts, steady
from benchmarks.processes import BenchmarkError
from benchmarks.results import DISTURBED, Beside, Case, Held, Results, Sample
from benchmarks.sample import PLACE, make_event, make_json, stamp
from benchmarks.tables import BUSY, KIB, TARGETS, render

MACHINE = {
    "commit": "abc1234",
    "began": "2026-03-01T08:15:30+00:00",
    "python": "3.11.2",
    "versions": {"Twisted": "26.10.0"},
    "processors": 2,
    "processor": "A processor",
    "load_before": 0.1,
}


def make_sample(number=0, **figures):
    """A load that went well, but for these figures."""
    good = {
        "cpu_us": 5.0,
        "messages": 1000,
        "messages_per_second": 50_000.0,
        "latency_ms": {"p50": 1.0, "p99": 2.0, "p99.9": 3.0},
        "server_share": 0.3,
        "waited_share": 0.0,
        "readers_share": 0.3,
        "source_share": 0.1,
        "faults": {},
    }
    return Sample(round=number, **{**good, **figures})


def make_case(load=STEADY, *, transport=Transport.PLAIN, streams=1000, per_connection=1):
    """A case, of those that the targets speak of unless something else is said."""
    rate = None if load == FLAT_OUT else 50.0
    return Case(
        transport=transport, per_connection=per_connection, streams=streams, load=load, rate=rate
    )


def make_results():
    """A run without a figure."""
    return Results(machine=MACHINE)


def row(results, text):
    """Give the cells of a row of the targets: at most, measured, rounds, reached."""
    for line in render(results).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == text:
            return cells[1:]
    raise AssertionError(text)


# --- The plan -------------------------------------------------------------------------------------


def test_the_full_plan_has_every_case():
    """All numbers of streams, by all ways, steady and flat out; with bursts where a target is."""
    ways = [
        (Transport.PLAIN, 1),
        (Transport.TLS, 1),
        (Transport.H2, 1),
        (Transport.H2, 100),
    ]
    planned = {
        (stage.transport, stage.per_connection, stage.streams, load.name)
        for stage in FULL.stages
        for load in stage.loads
    }
    wanted = {
        (*way, streams, load)
        for way in ways
        for streams in (100, 1_000, 5_000, 10_000)
        for load in (STEADY, FLAT_OUT)
    }
    assert planned == wanted | {(*way, 1_000, BURSTS) for way in ways}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_loads_are_whole_steps(plan):
    """The readers tell of whole steps alone, so a load that ends between two would never end."""
    for stage in plan.stages:
        for load in stage.loads:
            if load.rate is not None:
                assert load.count % STEP == 0
                assert load.count >= STEP
                assert load.count % load.burst == 0


@pytest.mark.parametrize(
    ("load", "count"),
    [(steady(50, 4), 200), (steady(1, 2), STEP), (steady(2.5, 10), 20), (bursts(50, 1.05), 50)],
)
def test_a_load_is_as_long_as_it_says(load, count):
    """Rate times time, in the nearest whole step, and never none."""
    assert load.count == count


def test_targets_have_rounds():
    """A verdict needs more than one round; what is compared once has one alone."""
    for stage in FULL.stages:
        assert stage.rounds == (3 if stage.streams == 1_000 else 1)
    assert {load.name for load in FULL.stages[1].loads_of(0)} == {STEADY, BURSTS, FLAT_OUT}
    assert {load.name for load in FULL.stages[1].loads_of(1)} == {STEADY, BURSTS}


def test_a_plan_can_be_narrowed():
    """Only the named ways and numbers of streams are left; none named are all."""
    assert FULL.narrowed(set(), set()) == FULL
    plan = FULL.narrowed({Transport.TLS}, {100, 5_000})
    assert [(s.transport, s.streams) for s in plan.stages] == [
        (Transport.TLS, 100),
        (Transport.TLS, 5_000),
    ]
    assert plan.slow_readers is None
    assert FULL.narrowed({Transport.PLAIN}, set()).slow_readers is FULL.slow_readers


# --- The event ------------------------------------------------------------------------------------


def test_the_time_is_put_into_finished_bytes():
    """It takes the place that was held for it, nowhere else, and nothing changes its length."""
    name, data = make_json(7)
    assert str(PLACE).encode() in data
    before = time.monotonic_ns()
    stamped = stamp(data + data)
    after = time.monotonic_ns()
    assert len(stamped) == 2 * len(data)
    told = json.loads(stamped[: len(data)])
    assert (name, told["callId"]) == ("DeliveredEvent", 7)
    assert before <= int(told["globalCallId"]) <= after
    expected = {**json.loads(data), "globalCallId": told["globalCallId"]}
    assert told == expected
    assert make_event(7, 5).connection.global_call_id == "5"


# --- The results ----------------------------------------------------------------------------------


def test_ratios_are_made_within_a_round():
    """A round that one of the two lacks makes no ratio, and shifts none of the others."""
    results, case = make_results(), make_case()
    for number, cpu_us in ((0, 2.0), (1, 4.0), (2, 6.0)):
        results.add(case, MXFLEX, make_sample(number, cpu_us=cpu_us))
    for number, cpu_us in ((0, 4.0), (2, 4.0)):
        results.add(case, NCHAN, make_sample(number, cpu_us=cpu_us))
    assert results.ratios(case, MXFLEX, NCHAN, lambda s: s.cpu_us) == [0.5, 1.5]
    assert results.cpu_us(case, MXFLEX) == 4.0
    assert results.cpu_us(case, FLOOR_NAME) is None


@pytest.mark.parametrize("disturbed", [MXFLEX, NCHAN])
def test_a_disturbed_round_makes_no_ratio(disturbed):
    """Whoever is kept from the processor joins what waits, and must not win by that."""
    results, case = make_results(), make_case()
    for number, share in ((0, DISTURBED), (1, DISTURBED + 0.01)):
        for peer in (MXFLEX, NCHAN):
            waited = share if peer == disturbed else 0.0
            results.add(case, peer, make_sample(number, waited_share=waited))
    assert results.ratios(case, MXFLEX, NCHAN, lambda s: s.cpu_us) == [1.0]


def test_faults_are_told():
    """An event that went wrong anywhere is in the list, which decides the exit status."""
    results = make_results()
    results.add(make_case(), MXFLEX, make_sample())
    results.beside.append(Beside(alone=make_sample(), beside=make_sample(), deaf=5, cut_off=5))
    assert results.faults() == []
    results.add(make_case(), NCHAN, make_sample(faults={"missing": 3}))
    late = make_sample(faults={"backward": 1})
    results.beside.append(Beside(alone=make_sample(), beside=late, deaf=5, cut_off=5))
    assert len(results.faults()) == 2
    assert "nchan" in results.faults()[0]
    assert "missing" in results.faults()[0]


def test_results_are_json():
    """Every round of everything is in the JSON, and JSON can say it."""
    results = make_results()
    results.add(make_case(), MXFLEX, make_sample(0))
    results.add(make_case(), MXFLEX, make_sample(1))
    results.beside.append(Beside(alone=make_sample(), beside=make_sample(), deaf=5, cut_off=5))
    held = Held(transport=Transport.TLS, per_connection=1, streams=10_000)
    results.add_memory(held, MXFLEX, 20 * KIB)
    document = json.loads(json.dumps(results.as_json()))
    assert [r["round"] for r in document["fanout"][0]["rounds"]] == [0, 1]
    assert document["memory"][0]["transport"] == "HTTP/1.1, TLS"
    assert document["beside"][0]["beside"]["cpu_us"] == 5.0


# --- The tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "reached"),
    [([4.0, 4.0, 4.0], "yes"), ([4.1, 5.0, 6.0], "no"), ([4.0, 4.0, 4.1], "undecided")],
)
def test_a_target_is_reached_when_all_rounds_say_so(ours, reached):
    """At the limit is reached; a single round that says otherwise leaves it undecided."""
    results, case = make_results(), make_case()
    for number, cpu_us in enumerate(ours):
        results.add(case, MXFLEX, make_sample(number, cpu_us=cpu_us))
        results.add(case, NCHAN, make_sample(number, cpu_us=5.0))
    cells = row(results, "HTTP/1.1, 1,000 streams, 50 events/s")
    assert cells[0] == "0.80 x nchan"
    assert cells[3] == reached
    assert cells[2].startswith("3: ")


def test_nothing_measured_is_no_verdict():
    """Every target is in the table, also when nothing was measured for it."""
    for target in {target.text for target in TARGETS} - {"the same"}:
        assert row(make_results(), target)[1:] == ["-", "0", "-"]


def fill_all(factor):
    """A run in which every figure with a target is at its limit, times a factor."""
    results = make_results()
    other = {"cpu_us": 10.0, "latency_ms": {"p50": 10.0, "p99": 10.0, "p99.9": 10.0}}
    limits = [
        (make_case(), NCHAN, 0.80),
        (make_case(BURSTS), NCHAN, 0.30),
        (make_case(transport=Transport.TLS), NCHAN, 0.85),
        (make_case(transport=Transport.H2, per_connection=100), NCHAN, 0.35),
        (make_case(transport=Transport.H2), NCHAN, 1.2),
    ]
    for case, peer, limit in limits:
        results.add(case, peer, make_sample(**other))
        late = {"p50": 1.0, "p99": 10.0 * factor, "p99.9": 1.0}
        own = make_sample(cpu_us=10.0 * limit * factor, latency_ms=late)
        results.add(case, MXFLEX, own)
    results.add(make_case(), FLOOR_NAME, make_sample(cpu_us=8.0 / 1.25))
    worse = {"cpu_us": 13.0 * factor, "latency_ms": {"p50": 1.0, "p99": 13.0 * factor}}
    worse["latency_ms"]["p99.9"] = 1.0
    beside = Beside(alone=make_sample(**other), beside=make_sample(**worse), deaf=25, cut_off=25)
    results.beside.append(beside)
    for transport, kib in ((Transport.PLAIN, 6), (Transport.TLS, 30)):
        held = Held(transport=transport, per_connection=1, streams=10_000)
        results.add_memory(held, MXFLEX, kib * KIB * factor)
    for name, limit in (
        (api.PLAIN, 150.0),
        (api.FIRST_LOGIN, 1000.0),
        (api.LOGIN, 1000.0),
        (api.WITHOUT_TALK, 1000.0),
    ):
        results.api[name] = {MXFLEX: {"cpu_us": limit * factor, "p50_ms": 1.0}}
    results.encoding[encoding.WHOLE] = 40.0 * factor
    return results


@pytest.mark.parametrize(("factor", "reached"), [(0.999, "yes"), (1.001, "no")])
def test_every_target_looks_at_its_own_figure(factor, reached):
    """With each figure a little below or above its limit, all targets say the same."""
    results = fill_all(factor)
    verdicts = [
        line.strip("| ").split("|")[-1].strip()
        for line in render(results).partition("## The figures")[0].splitlines()
        if line.startswith("| ") and "---" not in line
    ][1:]
    assert verdicts == [reached] * len(TARGETS)


def test_tables_say_what_was_not_the_servers_own():
    """Readers that were busy, and servers that had to wait, are named under the tables."""
    results = make_results()
    busy = make_sample(readers_share=BUSY + 0.01, waited_share=0.5)
    results.add(make_case(), MXFLEX, busy)
    results.missed.append("no nginx")
    remarks = render(results).partition("### Remarks")[2]
    assert "MXFlex, HTTP/1.1, 1,000, steady (readers, 86%)" in remarks
    assert "MXFlex, HTTP/1.1, 1,000, steady (50%)" in remarks
    assert "- no nginx" in remarks


def test_what_is_absent_is_a_dash():
    """A peer that does not speak HTTP/2 has no figure and no ratio there."""
    results, case = make_results(), make_case(transport=Transport.H2)
    results.add(case, MXFLEX, make_sample())
    lines = render(results).splitlines()
    line = next(line for line in lines if line.startswith("| HTTP/2, 1 a connection"))
    assert [cell.strip() for cell in line.strip("|").split("|")][3:] == ["5.0", *["-"] * 4]


# --- The page -------------------------------------------------------------------------------------


def test_tables_go_between_their_marks():
    """What stood there is replaced, all else is left as it is, and twice is as once."""
    marks = "a\n<!-- {0}: begin -->\nold\n<!-- {0}: end -->\n"
    page = marks.format("bench") + marks.format("soak")
    filled = fill(page, "bench", "| new |\n")
    assert filled == page.replace("old\n", "\n| new |\n\n", 1)
    assert fill(filled, "bench", "| new |\n") == filled
    for broken in ("nothing", page + page):
        with pytest.raises(ValueError, match="needs one"):
            fill(broken, "bench", "")


def test_the_page_has_the_marks():
    """`make figures` finds where to write."""
    page = PAGE.read_text(encoding="utf-8")
    for kind in ("bench", "soak"):
        assert fill(page, kind, "tables") != page


def test_samples_are_values():
    """A sample can be compared with what was read back."""
    assert make_sample() == attrs.evolve(make_sample())


# --- In whose code the time goes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("[kernel.kallsyms]", "kernel"),
        ("[nf_tables]", "kernel"),
        ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "OpenSSL"),
        ("/x/cryptography/hazmat/bindings/_rust.abi3.so", "OpenSSL"),
        ("/x/_cffi_backend.abi3.so", "Python's modules in C"),
        ("/usr/lib/libpython3.11.so.1.0", "Python"),
        ("/usr/bin/python3.13", "Python"),
        ("/x/_ssl.cpython-311-x86_64-linux-gnu.so", "Python's modules in C"),
        ("/x/orjson.cpython-313-x86_64-linux-gnu.so", "Python's modules in C"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "C library"),
        ("/usr/sbin/nginx", "its own"),
        ("/usr/lib/nginx/modules/ngx_nchan_module.so", "its own"),
    ],
)
def test_whose_code(name, part):
    """Each file with code belongs to one part."""
    assert where.part_of(name) == part


def test_shares_of_samples():
    """Each sample counts once; without samples there is nothing to say."""
    assert where.shares_of(["[kernel.kallsyms]"] * 3 + ["/usr/sbin/nginx"]) == {
        "kernel": 0.75,
        "its own": 0.25,
    }
    with pytest.raises(BenchmarkError):
        where.shares_of([])


def test_table_of_whose_code():
    """A row for each part, most of MXFlex's first; what a server does not have is left out."""
    spent = {MXFLEX: {"Python": 1.0, "kernel": 4.25}, NCHAN: {"kernel": 5.0, "its own": 2.5}}
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in where.render("µs a message", spent).splitlines()
    ]
    assert cells[0] == ["µs a message", MXFLEX, NCHAN]
    assert cells[2:] == [
        ["kernel", "4.25", "5.00"],
        ["Python", "1.00", "-"],
        ["its own", "-", "2.50"],
        ["all", "5.25", "7.50"],
    ]
