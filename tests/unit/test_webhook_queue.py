"""The queue of webhooks: what is in the file, whatever happens to the process and the disk."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxflex.config import WebhookSettings
from mxflex.errors import StorageError
from mxflex.webhooks.message import Message
from mxflex.webhooks.queue import HORIZON_SECONDS, Failed, Queue, Round

NOW = 1_505_411_996.0
AGE = 1000.0
CRM, LOG = "crm", "log"


def hook(name, url="https://crm.example.com/"):
    return WebhookSettings(name=name, url=url, secrets=(b"x" * 24,))


def gap(reason, at, since, dropped):
    return json.dumps([reason, since - NOW, dropped]).encode()


def make(path, *hooks, max_queued=1000, max_dead=100):
    return Queue(
        path,
        hooks or (hook(CRM), hook(LOG)),
        max_queued=max_queued,
        max_age=AGE,
        max_dead=max_dead,
        gap=gap,
    )


def message(number, key=None, group=None, *, to=CRM, at=NOW):
    body = b"%d" % number
    return Message(to, f"msg_{number}", "E", body, at, key or f"call {number}", group)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "webhooks.db"


@pytest.fixture
def queue(path):
    queue = make(path)
    yield queue
    queue.close(NOW)


def turn(queue, now=NOW, *, want=100, **what):
    """Have a round of one webhook."""
    return queue.exchange(now, Round(wanted={CRM: want}, **what))


def bodies(result):
    return [each.body.decode() for each in result.ready]


def test_order_of_a_call(queue):
    """A message waits until those before it that have its key are delivered; others do not."""
    calls = [message(1, "a"), message(2, "b"), message(3, "a"), message(4, "b"), message(5, "c")]
    result = turn(queue, messages=calls)
    assert bodies(result) == ["1", "2", "5"]
    first, second, fifth = result.ready
    result = turn(queue, delivered=[second.seq], busy=frozenset([first.seq, fifth.seq]))
    assert bodies(result) == ["4"]
    assert result.states[CRM].queued == 4


def test_order_in_a_group(queue):
    """What the extensions number differently, and all parties as one, is one call."""
    calls = [
        message(1, "call 3095 1"),
        message(2, "call 3095 1", "7"),
        message(3, "call 3044 9", "7"),
        message(4, "call 3044 9", "7"),
    ]
    result = turn(queue, messages=calls)
    for wanted in (["1"], ["2"], ["3"], ["4"], []):
        assert bodies(result) == wanted
        result = turn(queue, delivered=[each.seq for each in result.ready])


def test_no_more_than_wanted(queue):
    """A round gives as many messages as there are places for, and none that is under way."""
    result = turn(queue, messages=[message(n) for n in range(5)], want=2)
    assert bodies(result) == ["0", "1"]
    busy = frozenset(each.seq for each in result.ready)
    assert bodies(turn(queue, busy=busy, want=2)) == ["2", "3"]
    assert bodies(turn(queue, busy=busy, want=0)) == []


def test_webhooks_are_apart(queue):
    """One that is stuck keeps no other."""
    both = [message(1, "a"), message(1, "a", to=LOG), message(2, "a", to=LOG)]
    result = queue.exchange(NOW, Round(messages=both, wanted={CRM: 9, LOG: 9}))
    assert [(each.hook, each.body) for each in result.ready] == [(CRM, b"1"), (LOG, b"1")]
    result = queue.exchange(NOW, Round(delivered=[result.ready[1].seq], wanted={LOG: 9}))
    assert [(each.hook, each.body) for each in result.ready] == [(LOG, b"2")]


def test_a_failure_waits(queue):
    """What failed is due again when it was said, and keeps its call waiting, but no other."""
    first = turn(queue, messages=[message(1, "a"), message(2, "a"), message(3, "b")]).ready[0]
    result = turn(queue, failed=[Failed(first.seq, "no", NOW + 10)])
    assert bodies(result) == ["3"]
    assert result.states[CRM].next_due == NOW + 10
    result = turn(queue, NOW + 9, delivered=[result.ready[0].seq])
    assert bodies(result) == []
    result = turn(queue, NOW + 10)
    assert [(each.body, each.attempts) for each in result.ready] == [(b"1", 1)]


def test_a_receiver_that_is_back(queue):
    """When the receiver works again nothing waits for its turn any longer."""
    first = turn(queue, messages=[message(1)]).ready[0]
    assert bodies(turn(queue, failed=[Failed(first.seq, "no", NOW + 300)])) == []
    assert bodies(turn(queue, recovered=[CRM])) == ["1"]


def test_a_clock_that_is_set_back(queue):
    """What was put off by a clock that was ahead is not put off for as long as that."""
    first = turn(queue, messages=[message(1)]).ready[0]
    turn(queue, failed=[Failed(first.seq, "no", NOW + HORIZON_SECONDS + 1)])
    assert bodies(turn(queue)) == ["1"]


def test_a_restart(path, queue):
    """What was not delivered is there after a restart, in its order, and a gap tells of it."""
    first = turn(queue, messages=[message(1, "a"), message(2, "a"), message(3, "b")]).ready[0]
    turn(queue, delivered=[first.seq])
    queue.close(NOW + 5)
    result = turn(make(path), NOW + 60)
    assert bodies(result) == ["2", "3", '["restart", 5.0, 0]']


def test_a_kill(path, queue, tmp_path):
    """A killed process leaves whatever a round had taken; what was under way comes again."""
    assert bodies(turn(queue, messages=[message(1), message(2)])) == ["1", "2"]
    result = turn(crashed(path, tmp_path), NOW + 60)
    assert bodies(result) == ["1", "2", '["restart", 0.0, 0]']


def crashed(path, folder):
    """Give the queue as the next process finds it, if this one is killed now."""
    copy = Path(tempfile.mkdtemp(dir=folder)) / path.name
    for ending in ("", "-wal"):
        if Path(f"{path}{ending}").exists():
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    return make(copy)


def test_a_full_queue(path):
    """A full queue drops what comes, until there is room again; then one gap says how much."""
    queue = make(path, max_queued=10)
    result = turn(queue, messages=[message(n) for n in range(13)])
    assert bodies(result) == [str(n) for n in range(10)]
    assert result.dropped == {CRM: 3}
    assert result.states[CRM].gap_since == NOW
    # One that is gone makes no room yet: else there would be a gap for each message.
    result = turn(queue, delivered=[result.ready[0].seq], messages=[message(13, at=NOW + 1)])
    assert result.dropped == {CRM: 1}
    result = turn(queue, delivered=[each.seq for each in result.ready], messages=[message(14)])
    assert bodies(result) == ['["queue-full", 0.0, 4]', "14"]
    assert result.states[CRM].gap_since is None
    queue.close(NOW)


def test_a_gap_outlives_a_restart(path):
    """That messages were dropped is told even if the process ends before there was room."""
    queue = make(path, max_queued=1)
    result = turn(queue, messages=[message(1), message(2)])
    queue.close(NOW + 9)
    queue = make(path, max_queued=1)
    assert bodies(turn(queue, NOW + 9)) == ["1"]
    result = turn(queue, NOW + 9, delivered=[result.ready[0].seq])
    assert bodies(result) == ['["queue-full", 0.0, 1]']
    queue.close(NOW)


def test_what_memory_had_no_room_for(queue):
    """What was lost on the way to the queue is told behind what was not."""
    result = turn(queue, messages=[message(1)], lost={CRM: 7})
    assert bodies(result) == ["1", '["queue-full", 0.0, 7]']
    assert result.states[LOG].queued == 0


def test_too_old(queue):
    """What could not be delivered in time is a dead letter, and the rest of its call goes on."""
    result = turn(queue, messages=[message(1, "a"), message(2, "a", at=NOW + 5)])
    assert bodies(result) == ["1"]
    result = turn(queue, failed=[Failed(result.ready[0].seq, "no answer", NOW + 5)])
    assert bodies(turn(queue, NOW + AGE)) == ["1"]
    result = turn(queue, NOW + AGE + 1)
    assert bodies(result) == ["2"]
    assert result.died == {CRM: 1}
    assert result.states[CRM].dead == 1
    (letter,) = queue.dead_letters(CRM, 9, NOW)
    assert (letter.id, letter.attempts, letter.error) == ("msg_1", 1, "no answer")
    assert letter.died == NOW + AGE + 1
    assert queue.dead_letters(LOG, 9, NOW) == []


def test_what_is_under_way_is_not_too_old(queue):
    """A message that is being sent is not given up meanwhile."""
    result = turn(queue, messages=[message(1)])
    busy = frozenset([result.ready[0].seq])
    assert turn(queue, NOW + AGE + 1, busy=busy).states[CRM].dead == 0
    result = turn(queue, NOW + AGE + 2)
    assert queue.dead_letters(CRM, 9, NOW)[0].error == "it waited too long"


def test_dead_letters_are_bounded(path):
    """Of dead letters the latest are kept."""
    queue = make(path, max_dead=3)
    turn(queue, messages=[message(n) for n in range(5)])
    result = turn(queue, NOW + AGE + 1)
    assert (result.states[CRM].dead, result.died[CRM]) == (3, 5)
    assert [each.id for each in queue.dead_letters(CRM, 2, NOW)] == ["msg_2", "msg_3"]
    queue.close(NOW)


def test_dead_letters_come_back_or_go(queue):
    """Dead letters are sent again, or thrown away: one, or all of a webhook."""
    many = [message(n, to=to) for to in (CRM, LOG) for n in range(4)]
    queue.exchange(NOW, Round(messages=many))
    queue.exchange(NOW + AGE + 1, Round())
    later = NOW + AGE + 2
    assert queue.revive(CRM, "msg_2", later) == 1
    assert queue.revive(CRM, "msg_2", later) == 0
    assert queue.discard(CRM, "msg_0", later) == 1
    result = turn(queue, later)
    assert bodies(result) == ["2"]
    assert result.ready[0].id == "msg_2"
    assert result.states[CRM].dead == 2
    assert queue.revive(CRM, None, later) == 2
    assert bodies(turn(queue, later)) == ["2", "1", "3"]
    assert queue.discard(CRM, None, later) == 0
    assert queue.discard(LOG, None, later) == 4


def test_gone(path, queue):
    """A receiver that wants nothing gets nothing, over restarts too, until it is enabled."""
    result = turn(queue, messages=[message(1), message(2)])
    result = turn(queue, NOW + 1, gone=[CRM], messages=[message(3)], lost={CRM: 2})
    assert bodies(result) == []
    state = result.states[CRM]
    assert (state.disabled, state.queued, state.dead) == (NOW + 1, 0, 2)
    assert result.dropped == {}
    queue.close(NOW + 2)
    queue = make(path)
    result = turn(queue, NOW + 3, messages=[message(4)])
    assert (result.states[CRM].disabled, bodies(result)) == (NOW + 1, [])
    assert queue.enable(CRM, NOW + 4)
    assert not queue.enable(CRM, NOW + 4)
    result = turn(queue, NOW + 4, messages=[message(5)])
    assert [each.split(",")[1] for each in bodies(result)[:1]] == [" 1.0"]
    assert bodies(result)[1:] == ["5"]
    queue.close(NOW)


def test_another_url_is_another_receiver(path, queue):
    """A webhook that leads elsewhere now is not disabled any more."""
    turn(queue, gone=[CRM])
    queue.close(NOW)
    queue = make(path, hook(CRM, "https://new.example.com/"))
    result = turn(queue, messages=[message(1)])
    assert bodies(result)[-1] == "1"
    queue.close(NOW)


def test_a_webhook_that_is_taken_out(path, queue):
    """Its messages stay for a while, in case it comes back."""
    turn(queue, messages=[message(1)])
    queue.close(NOW)
    queue = make(path, hook(LOG))
    assert set(queue.exchange(NOW + 1, Round()).states) == {LOG}
    queue.close(NOW + 1)
    queue = make(path)
    assert bodies(turn(queue, NOW + 2))[0] == "1"
    queue.close(NOW)
    queue = make(path, hook(LOG))
    queue.exchange(NOW + AGE + 1, Round())
    queue.close(NOW + AGE + 1)
    queue = make(path)
    turn(queue, NOW + AGE + 2)
    assert queue.dead_letters(CRM, 9, NOW) == []
    queue.close(NOW)


def test_only_this_user(path, queue):
    """Nobody else may read the files of the queue, whatever umask there is."""
    turn(queue, messages=[message(1)])
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each


def test_a_second_process(path, queue):
    """A second MXFlex with the same file is told so, instead of sending everything twice."""
    turn(queue)
    with pytest.raises(StorageError, match="locked"):
        turn(make(path))


def test_a_damaged_file(path, queue):
    """A file that cannot be read is set aside; the next round begins a new one, and tells of it."""
    turn(queue, messages=[message(1)])
    queue.close(NOW)
    path.write_bytes(b"no database, whatever its name says" * 100)
    queue = make(path)
    with pytest.raises(StorageError, match="set aside"):
        turn(queue)
    assert path.with_name("webhooks.db.damaged").exists()
    assert bodies(turn(queue, messages=[message(2)])) == [f'["queue-lost", {-AGE}, 0]', "2"]
    queue.close(NOW)


def test_under_way_while_the_file_is_damaged(path, queue):
    """What becomes of attempts from before says nothing of messages in the new file."""
    (lost,) = turn(queue, messages=[message(1)]).ready
    queue.close(NOW)
    path.write_bytes(b"no database, whatever its name says" * 100)
    queue = make(path)
    with pytest.raises(StorageError, match="set aside"):
        turn(queue, now=NOW + 1, busy=frozenset({lost.seq}))
    turn(queue, now=NOW + 1, messages=[message(2)], busy=frozenset({lost.seq}), want=0)
    assert bodies(turn(queue, now=NOW + 1, delivered=[lost.seq]))[1:] == ["2"]
    queue.close(NOW)


def test_a_file_of_somebody_else(path):
    """A database of another program is not touched."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (a)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="not a queue of this version"):
        turn(make(path))
    assert path.read_bytes() == before


def test_no_folder(tmp_path):
    """Where the file cannot be made, the error says why, and it is tried again each time."""
    path = tmp_path / "none" / "webhooks.db"
    queue = make(path)
    with pytest.raises(StorageError, match="No such file or directory"):
        turn(queue)
    path.parent.mkdir()
    assert bodies(turn(queue, messages=[message(1)])) == ["1"]
    queue.close(NOW)


def test_a_full_disk(queue):
    """A round that the disk has no room for has not happened, and goes through once there is."""
    first = turn(queue, messages=[message(1)]).ready[0]
    db = queue._opened
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    large = [Message(CRM, "msg_2", "E", b"x" * 1_000_000, NOW, "a")]
    with pytest.raises(StorageError, match="full"):
        turn(queue, messages=large, delivered=[first.seq])
    assert turn(queue).ready[0] == first
    db.execute("PRAGMA max_page_count = 1000000")
    result = turn(queue, messages=large, delivered=[first.seq])
    assert [each.id for each in result.ready] == ["msg_2"]


def test_a_round_that_fails(queue):
    """A round in which anything goes wrong has not happened."""
    first = turn(queue, messages=[message(1)]).ready[0]

    def failing():
        yield message(2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        turn(queue, messages=failing(), delivered=[first.seq])
    assert bodies(turn(queue)) == ["1"]


class QueueMachine(RuleBasedStateMachine):
    """Messages come, are tried, and the process dies at any moment; against a plain list.

    What the list says: a message is in the queue from the round that took it until the round that
    was told of its delivery. Whatever a round gives is in the queue, is not under way, and nothing
    that has its key or its group stands before it.
    """

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "webhooks.db"
        self.queue = make(self.path, hook(CRM))
        self.now = NOW
        self.number = 0
        # In the queue: number to (key, group); what came since; outcomes not told yet.
        self.queued = {}
        self.fresh = []
        self.told = {"delivered": [], "failed": []}
        self.busy = {}
        self.due = {}

    def teardown(self):
        self.queue.close(self.now)
        shutil.rmtree(self.folder)

    @rule(key=st.sampled_from("abcd"), group=st.sampled_from(["X", "Y", None]))
    def come(self, key, group):
        self.number += 1
        self.fresh.append((self.number, (key, group)))

    def messages(self, fresh):
        return [message(number, *keys, at=self.now) for number, keys in fresh]

    @rule(want=st.integers(0, 4))
    def round(self, want):
        fresh, self.fresh = self.fresh, []
        told, self.told = self.told, {"delivered": [], "failed": []}
        result = turn(
            self.queue,
            self.now,
            want=want,
            messages=self.messages(fresh),
            delivered=[seq for seq, _ in told["delivered"]],
            failed=[Failed(seq, "no", due) for seq, _, due in told["failed"]],
            busy=frozenset(self.busy),
        )
        for _, number in told["delivered"]:
            del self.queued[number]
        for _, number, due in told["failed"]:
            self.due[number] = due
        self.queued.update(fresh)
        assert len(result.ready) <= want
        blocked = self.blocked()
        for each in result.ready:
            if each.body.startswith(b"["):
                # Told of the restart; nothing waits for it.
                self.queued[0] = ("gap", None)
            number = 0 if each.body.startswith(b"[") else int(each.body)
            assert number in self.queued
            assert number not in self.busy.values()
            assert number not in blocked
            assert self.due.get(number, 0) <= self.now
            self.busy[each.seq] = number
        ready = set(self.queued) - blocked - set(self.busy.values())
        due = {number for number in ready if self.due.get(number, 0) <= self.now}
        # Nothing is kept back that could go.
        assert len(result.ready) == want or not due - {0}

    def blocked(self):
        """Give what something before it keeps."""
        seen, blocked = set(), set()
        for number, keys in sorted(self.queued.items()):
            if number and seen & set(keys):
                blocked.add(number)
            seen |= set(keys) - {None}
        return blocked

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def deliver(self, data):
        seq = data.draw(st.sampled_from(sorted(self.busy)))
        self.told["delivered"].append((seq, self.busy.pop(seq)))

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), wait=st.integers(0, 3))
    def fail(self, data, wait):
        seq = data.draw(st.sampled_from(sorted(self.busy)))
        self.told["failed"].append((seq, self.busy.pop(seq), self.now + wait))

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def kill(self):
        """The process dies between two rounds: what no round took is lost, nothing else."""
        self.reopen(crashed_alone(self.path, self.folder))

    @rule()
    def kill_in_a_round(self):
        """It dies in the middle of one: as if that had not begun."""
        copies = []

        def dying():
            yield from self.messages(self.fresh)
            copies.append(crashed_alone(self.path, self.folder))

        delivered = [seq for seq, _ in self.told["delivered"]]
        turn(self.queue, self.now, want=0, messages=dying(), delivered=delivered)
        self.reopen(copies[0])

    def reopen(self, path):
        self.queue.close(self.now)
        self.path, self.queue = path, make(path, hook(CRM))
        self.fresh, self.told, self.busy = [], {"delivered": [], "failed": []}, {}
        # A gap of a restart before may still be there, or not have been taken yet.
        self.queued.pop(0, None)

    @invariant()
    def bounded(self):
        assert len(self.busy) <= len(self.queued) + 1


def crashed_alone(path, folder):
    """Copy the files as a killed process leaves them, and give the path."""
    copy = Path(tempfile.mkdtemp(dir=folder)) / path.name
    for ending in ("", "-wal"):
        if Path(f"{path}{ending}").exists():
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    return copy


QueueMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25)
TestQueueMachine = QueueMachine.TestCase


def using(queue, *hooks, max_queued=1000):
    queue.use(hooks, max_queued=max_queued, max_age=AGE, max_dead=100)


def test_a_webhook_that_is_taken_out_while_it_runs(queue):
    """What waits for it stays, and what still comes is left out; back, it hears since when."""
    turn(queue, messages=[message(1), message(2, to=LOG)], want=0)
    using(queue, hook(LOG))
    late = [message(3), message(4, to=LOG)]
    result = queue.exchange(NOW + 1, Round(messages=late, lost={CRM: 5}, wanted={LOG: 9}))
    assert bodies(result) == ["2", "4"]
    assert list(result.states) == [LOG]
    assert result.left == {CRM: 1}
    assert queue.exchange(NOW + 2, Round()).left == {}
    using(queue, hook(CRM), hook(LOG))
    # Nobody was away for those that stayed.
    result = queue.exchange(NOW + 60, Round(wanted={CRM: 9, LOG: 9}))
    told = [(each.hook, each.body.decode()) for each in result.ready]
    assert told == [
        (CRM, "1"),
        (CRM, '["not-configured", 1.0, 0]'),
        (LOG, "2"),
        (LOG, "4"),
    ]


def test_taken_out_over_several_restarts(path, queue):
    """A webhook that comes back after several starts hears since when it had nothing."""
    turn(queue, messages=[message(1)])
    queue.close(NOW + 5)
    for start in (60, 120):
        without = make(path, hook(LOG))
        assert without.exchange(NOW + start, Round()).left == {CRM: 1}
        without.close(NOW + start + 5)
    result = turn(make(path), NOW + 180)
    assert bodies(result) == ["1", '["not-configured", 5.0, 0]']


def test_what_is_left_of_a_webhook_gets_too_old(queue):
    """What waits for a webhook that does not come back goes in time, without a restart."""
    turn(queue, messages=[message(1), message(2, at=NOW + 500)], want=0)
    using(queue, hook(LOG))
    queue.exchange(NOW + 600, Round())
    assert rows(queue, CRM) == 2
    using(queue, hook(LOG))
    queue.exchange(NOW + AGE + 100, Round())
    assert rows(queue, CRM) == 1
    queue.exchange(NOW + 2 * AGE + 100, Round())
    assert rows(queue, CRM) == 0


def rows(queue, name):
    """Count what waits, by the connection that has the file for itself."""
    return queue._opened.execute("SELECT count(*) FROM queue WHERE hook = ?", (name,)).fetchone()[0]


def test_a_changed_url_while_it_runs(queue):
    """Another receiver gets what waits, also if the one before wanted no more."""
    turn(queue, messages=[message(1)], want=0)
    assert turn(queue, gone=[CRM]).states[CRM].disabled == NOW
    using(queue, hook(CRM), hook(LOG))
    assert turn(queue).states[CRM].disabled == NOW
    using(queue, hook(CRM, "https://other.example.com/"), hook(LOG))
    result = turn(queue, NOW + 1, messages=[message(2)])
    assert bodies(result) == ['["disabled", 0.0, 0]', "2"]


def test_other_bounds_while_it_runs(queue):
    """A smaller queue takes in nothing until there is room in it, and throws nothing away."""
    turn(queue, messages=[message(n) for n in range(3)], want=0)
    using(queue, hook(CRM), hook(LOG), max_queued=2)
    result = turn(queue, messages=[message(3)])
    assert (bodies(result), result.dropped) == (["0", "1", "2"], {CRM: 1})


def test_a_disk_that_fails_while_webhooks_change(queue, monkeypatch):
    """The change is not lost: the next round that the disk lets be has it."""
    turn(queue)
    using(queue, hook(CRM), hook(LOG), hook("new"))

    def fail(*_args):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "_settle_hooks", fail)
        with pytest.raises(StorageError):
            turn(queue)
    result = queue.exchange(NOW, Round(messages=[message(1, to="new")], wanted={"new": 1}))
    assert bodies(result) == ["1"]
