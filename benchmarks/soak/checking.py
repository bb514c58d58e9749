"""What one client has had of its events: order, doubles, jumps and gaps.

Every event of an extension carries a number: 1 for the first one, then one more each time. A client
must see them all, once and in order, over all its connections; but where a `gap` tells it that some
are missing, it may see a jump. Whether what is missing there was lost rightly, `judging` says.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from enum import StrEnum

import attrs

# A jump is explained by a `gap` before it, or behind it within so many seconds: the monitors of an
# MX that is back start one after the other, and the `gap` follows when all have.
GAP_PATIENCE = 30.0
# `gap` events are kept in the history too, so a little less than it may be kept of the others.
HISTORY_SLACK = 16
MX_DOWN, EXPIRED = "mx-down", "expired"
# So many faults are told in full.
EXAMPLES = 20

_NUMBER = re.compile(rb'"(?:globalCallId|releasingDevice)":"(\d+)"')


class Fault(StrEnum):
    """What must not happen to a stream."""

    DOUBLED = "doubled"
    DISORDERED = "out of order"
    LOST = "lost without a gap"
    ID_BACKWARD = "an id that does not grow"
    TOO_EARLY = "gap `expired` within the history"
    TOO_LITTLE = "less kept than the history holds"
    GAP_LOST = "not told an outage"
    STRANGE = "not to be understood"
    CUT = "cut off though it reads"
    REFUSED = "refused"
    UNREACHABLE = "not connected"


@attrs.define(eq=False, kw_only=True)
class Ledger:
    """What all clients of one extension at one server have had.

    Attributes:
        name: Of the server and the extension, for the words on faults.
        history: Events that the server keeps.
        newest: The highest number that anybody has seen.
        messages: Events with a number, over all clients.
        jumps: How many clients went from one number to another, and what the `gap` said.
        gaps: How many clients were told a `gap`, by its reason and since when.
        late_gaps: Jumps whose `gap` came behind the first event after it.
        faults: How often something happened that must not.
        examples: The first of them, in words.
    """

    name: str
    history: int
    newest: int = 0
    messages: int = 0
    jumps: Counter[tuple[int, int, str]] = attrs.field(factory=Counter)
    gaps: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    late_gaps: int = 0
    faults: Counter[Fault] = attrs.field(factory=Counter)
    examples: list[str] = attrs.field(factory=list)

    def fault(self, fault: Fault, words: str, count: int = 1) -> None:
        """Take note of a fault."""
        self.faults[fault] += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{self.name}: {fault.value}: {words}")


@attrs.define(eq=False)
class Watch:
    """One client's view of one extension, over all its connections.

    Args:
        ledger: Where it all is added up.

    Attributes:
        number: The number of the last event; 0 before the first.
        last_id: What the client says as `Last-Event-ID`; 0 before it knows one.
        downs: How often it was told `mx-down`.
        expired: How often it came back too late.
    """

    ledger: Ledger
    number: int = 0
    last_id: int = 0
    downs: int = 0
    expired: int = 0
    _text: bytes = b""
    # What was told since the last number.
    _told: str = ""
    # After `expired`: the newest number of the extension at that time.
    _newest_then: int = 0
    # A jump that no gap has explained yet, and since when the client waits for one.
    _jump: tuple[int, int] | None = None
    _jump_at: float | None = None

    def reopen(self) -> None:
        """Know that a new connection begins; half an event of the old one is nothing."""
        self._text = b""
        self.resume()

    def resume(self) -> None:
        """Know that the client reads again: until now it did not wait for a gap."""
        self._jump_at = None

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes of the stream, however they are cut.

        Source: WHATWG HTML, 9.2.6 ("Interpreting an event stream"), for lines that end in LF.
        """
        if self._jump_at is None:
            self._jump_at = now
        *blocks, self._text = (self._text + data).split(b"\n\n")
        for block in blocks:
            self._take(block, now)

    def settle(self) -> None:
        """Count a jump that no gap has explained; call it when no more will come."""
        if self._jump is not None:
            before, after = self._jump
            self._jump = None
            lost = after - before - 1
            self.ledger.fault(Fault.LOST, f"{lost} between {before} and {after}", lost)

    def _take(self, block: bytes, now: float) -> None:
        name = data = told_id = b""
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                name = value
            elif field == b"data":
                data = value
            elif field == b"id":
                told_id = value
        if not data:
            # Comments, and the block that tells the id from which on the stream goes.
            if told_id:
                self._take_id(told_id, fresh=False)
            return
        if told_id:
            self._take_id(told_id, fresh=True)
        if name == b"gap":
            self._gap(data, now)
        elif (number := _NUMBER.search(data)) is not None and told_id:
            self._event(int(number[1]), now)
        else:
            self.ledger.fault(Fault.STRANGE, repr(block))

    def _take_id(self, text: bytes, *, fresh: bool) -> None:
        told = int(text) if text.isdigit() else -1
        if told < self.last_id + fresh:
            self.ledger.fault(Fault.ID_BACKWARD, f"{text!r} behind {self.last_id}")
        self.last_id = max(told, self.last_id)

    def _gap(self, data: bytes, now: float) -> None:
        self._forget_patience(now)
        told = json.loads(data)
        reason = str(told.get("reason"))
        self.ledger.gaps[reason, str(told.get("since"))] += 1
        if reason == MX_DOWN:
            self.downs += 1
            if self._jump is not None:
                self._explain(self._jump, MX_DOWN)
                self.ledger.late_gaps += 1
                self._jump = None
                return
        elif reason == EXPIRED:
            self.expired += 1
            if self._jump is not None:
                # The gap that it waited for is among what is not kept any more.
                self._explain(self._jump, MX_DOWN)
                self._jump = None
            self._newest_then = self.ledger.newest
            owing = self._newest_then - self.number
            if owing < self.ledger.history - HISTORY_SLACK:
                self.ledger.fault(Fault.TOO_EARLY, f"{owing} events behind")
        else:
            self.ledger.fault(Fault.STRANGE, f"a gap: {data!r}")
        # Of two, `expired` says more: what is missing was not kept.
        self._told = EXPIRED if EXPIRED in (reason, self._told) else reason

    def _forget_patience(self, now: float) -> None:
        if self._jump is None or self._jump_at is None:
            return
        if now - self._jump_at > GAP_PATIENCE:
            self.settle()

    def _explain(self, jump: tuple[int, int], reason: str) -> None:
        self.ledger.jumps[*jump, reason] += 1

    def _event(self, number: int, now: float) -> None:
        ledger = self.ledger
        ledger.messages += 1
        self._forget_patience(now)
        if number == self.number + 1 or not self.number:
            pass
        elif number <= self.number:
            before, after = self._jump or (0, 0)
            fault = Fault.DISORDERED if before < number < after else Fault.DOUBLED
            ledger.fault(fault, f"{number} behind {self.number}")
            return
        elif self._told:
            self._explain((self.number, number), self._told)
            if self._told == EXPIRED:
                kept = self._newest_then - number + 1
                if kept < ledger.history - HISTORY_SLACK:
                    ledger.fault(Fault.TOO_LITTLE, f"{kept} events")
        else:
            # Two that nothing explains are two.
            self.settle()
            self._jump, self._jump_at = (self.number, number), now
        self._told = ""
        self.number = number
        ledger.newest = max(ledger.newest, number)
