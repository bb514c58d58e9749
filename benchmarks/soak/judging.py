"""What the clients had, against what the MX has sent."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from benchmarks.soak.checking import EXAMPLES, MX_DOWN, Fault
from benchmarks.soak.flatness import MINUTE, Trend, fit

# The line through memory and through descriptors may rise by this part of its level. A run that is
# shorter than this is a trial: its server is still filling histories and caches.
GROWTH, TRIAL_GROWTH = 0.02, 0.10
TRIAL_MINUTES = 20.0
# Descriptors that may be left when all streams are closed, beside those from before: of a login
# that is under way.
DESCRIPTORS_LEFT = 2
# What is left out as warming up: this part of the time, and at least a minute.
WARMING, WARMING_SHARE = MINUTE, 0.15
# So far from the beginning of an outage may be what a `gap` says, in seconds: both clocks are this
# machine's, and a silent MX is noticed late.
GAP_EARLY, GAP_LATE = 1.0, 60.0

_Range = Sequence[int]


@attrs.frozen(kw_only=True)
class Measured:
    """A server over the time.

    Attributes:
        name: `plain` or `secure`.
        times: When it was looked at, in seconds since everything was open.
        memory: Its anonymous bytes then.
        descriptors: Its open files then.
        cpu_share: Part of one processor that it used, over all.
        before: Its open files before any stream was opened.
        after: And when all had been closed.
        complaints: Lines of its log that tell of a bug.
    """

    name: str
    times: list[float]
    memory: list[float]
    descriptors: list[float]
    cpu_share: float
    before: int
    after: int
    complaints: list[str]


@attrs.frozen
class Check:
    """One thing that must hold.

    Attributes:
        what: What it is.
        found: What was found, as text.
        wanted: What is to be found, as text.
        holds: Whether it was.
    """

    what: str
    found: str
    wanted: str
    holds: bool


@attrs.define(eq=False)
class Verdict:
    """All checks, and what lies behind those that failed."""

    checks: list[Check] = attrs.field(factory=list)
    examples: list[str] = attrs.field(factory=list)
    trends: dict[str, dict[str, Trend]] = attrs.field(factory=dict)

    @property
    def holds(self) -> bool:
        """Whether all of them hold."""
        return all(check.holds for check in self.checks)

    def count(self, what: str, found: int) -> None:
        """Demand that something has not happened."""
        self.checks.append(Check(what, f"{found:,}", "0", found == 0))

    def at_least(self, what: str, found: int, least: int) -> None:
        """Demand that something has happened: what was not tried has not been shown."""
        self.checks.append(Check(what, f"{found:,}", f"{least:,} or more", found >= least))


def inside(first: int, last: int, uncertain: Iterable[_Range]) -> int:
    """Give how many numbers from the first to the last one are in none of the ranges."""
    outside = last - first + 1
    for begin, end in uncertain:
        outside -= max(0, min(last, end) - max(first, begin) + 1)
    return outside


def judge_events(
    verdict: Verdict, readers: dict[str, Any], mx: dict[str, Any], accounts: Sequence[str]
) -> None:
    """Judge what became of the events.

    Args:
        verdict: Takes the checks.
        readers: The report of the readers.
        mx: What the MX says that it has sent.
        accounts: The account of each server at the MX, in the order of the readers.
    """
    faults: Counter[str] = Counter()
    lost_by_gap = 0
    unfounded = 0
    for ledger in readers["ledgers"]:
        faults.update(ledger["faults"])
        verdict.examples += ledger["examples"]
        uncertain = mx["uncertain"][accounts[ledger["server"]]].get(ledger["ext"], [])
        name = f"{accounts[ledger['server']]} {ledger['ext']}"
        for before, after, reason, clients in ledger["jumps"]:
            if reason != MX_DOWN:
                # What a client that came back too late may have lost, was judged at once.
                continue
            lost = inside(before + 1, after - 1, uncertain)
            if lost:
                lost_by_gap += lost * clients
                verdict.examples.append(
                    f"{name}: handed over and lost: {lost} between {before} and {after}, "
                    f"{clients} clients, beside a gap"
                )
        for reason, since, clients in ledger["gaps"]:
            if reason == MX_DOWN and not _founded(since, mx["outages"]):
                unfounded += clients
                verdict.examples.append(f"{name}: a gap since {since}, and no outage")
    del verdict.examples[EXAMPLES:]
    messages = sum(ledger["messages"] for ledger in readers["ledgers"])
    verdict.at_least("events that reached a stream", messages, readers["streams"])
    verdict.count("lost, and no gap tells so", faults.pop(Fault.LOST, 0))
    verdict.count("lost beside a gap, though handed over outside of the outage", lost_by_gap)
    for fault in Fault:
        if fault is not Fault.LOST:
            verdict.count(fault.value, faults.pop(fault.value, 0))
    verdict.count("gaps without an outage", unfounded)


def _founded(since: str, outages: Iterable[dict[str, Any]]) -> bool:
    moment = _epoch(since)
    return any(
        outage["began"] - GAP_EARLY
        <= moment
        <= outage["began"] + outage["lasted"] + outage["back"] + GAP_LATE
        for outage in outages
    )


def _epoch(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def judge_link(verdict: Verdict, mx: dict[str, Any], due: float) -> None:
    """Judge how the servers came back to the MX.

    Args:
        verdict: Takes the checks.
        mx: What the MX says that it has done.
        due: How many failures there was time for; those that take long use up that of others.
    """
    outages = mx["outages"]
    verdict.at_least("outages of the MX", len(outages), max(1, round(due * 0.6)))
    late = [outage for outage in outages if outage["back"] > outage["bound"]]
    verdict.count("outages after which a server came back late", len(late))
    verdict.examples += [f"late: {outage}" for outage in late]
    verdict.count("connections that MXFlex ended by itself", mx["unforeseen"])


def judge_clients(verdict: Verdict, did: dict[str, int], minutes: float) -> None:
    """Demand that clients came and went."""
    verdict.at_least("streams opened again", did.get("opened", 0), round(60 * minutes))
    # Slow readers need a while until the server has had enough of them.
    slow = 1 if minutes >= 3 else 0  # noqa: PLR2004 - minutes
    verdict.at_least("slow readers cut off", did.get("cut off as it does not read", 0), slow)


def judge_server(verdict: Verdict, measured: Measured) -> None:
    """Judge what a server uses."""
    end = measured.times[-1]
    since = max(WARMING, end * WARMING_SHARE)
    name = measured.name
    memory = fit(measured.times, measured.memory, since)
    files = fit(measured.times, measured.descriptors, since)
    verdict.trends[name] = {"memory": memory, "descriptors": files}
    for what, trend in (("memory", memory), ("descriptors", files)):
        bound = GROWTH if trend.minutes >= TRIAL_MINUTES else TRIAL_GROWTH
        found = f"{trend.growth:+.2%} in {trend.minutes:.0f} min"
        holds = trend.growth <= bound
        verdict.checks.append(
            Check(f"{name}: growth of {what}", found, f"at most {bound:+.2%}", holds)
        )
    left = measured.after - measured.before
    verdict.checks.append(
        Check(
            f"{name}: descriptors left when all streams are closed",
            f"{left:+d}",
            f"at most {DESCRIPTORS_LEFT:+d}",
            left <= DESCRIPTORS_LEFT,
        )
    )
    verdict.count(f"{name}: tracebacks in its log", len(measured.complaints))
    verdict.examples += [f"{name}: {line}" for line in measured.complaints[:EXAMPLES]]
