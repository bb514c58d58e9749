"""Who has logged out: for how long that is remembered, and how it comes to the disk."""

from __future__ import annotations

import gc
import json
import stat
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from mxflex.config import MAX_TOKEN_SECONDS
from mxflex.gateway.logouts import (
    LAST_SAVE_SECONDS,
    RETRY_SECONDS,
    SAVE_SECONDS,
    LogoutFile,
    Logouts,
    decode,
    encode,
)
from tests.unit.memory_disk import Disk

NOW = 1_505_411_996
DAY = 86_400
FORGOTTEN = "who logged out before this start may come back with a token that has not ended"
ME, PETER, ANNA = EXTENSIONS = "3095", "3044", "3050"


class Place:
    """Logouts in a file, and ways to see what becomes of them.

    Args:
        path: The file.
        now: The time.
    """

    def __init__(self, path, now=NOW):
        self.path = path
        self.clock = Clock()
        self.clock.advance(now)
        self.disk = Disk(OSError(28, "No space left on device"))
        self.logouts = Logouts(self.clock, LogoutFile(path, self.disk))
        self.logouts.startService()

    def kept(self):
        """Give what the next process would know."""
        return set(decode(self.path.read_bytes())) if self.path.exists() else set()

    def add(self, ext):
        """Log out; give a list that is not empty once that has been waited for."""
        done = []
        self.logouts.add(ext).addCallback(done.append)
        return done

    def stop(self):
        """Stop; give the same of that."""
        done = []
        self.logouts.stopService().addCallback(done.append)
        return done


@pytest.fixture
def path(tmp_path):
    """Give the path of the file; it is not there yet."""
    return tmp_path / "logouts.json"


@pytest.fixture
def place(path):
    """Give logouts in a file."""
    return Place(path)


@pytest.fixture
def said():
    """Give a function for the lines of the log, as (level, text)."""
    with capturedLogs() as events:
        yield lambda: [(event["log_level"].name, formatEvent(event)) for event in events]


# --- What is written ------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), st.integers()))
def test_read_as_written(since):
    """Whatever extensions are called, what was written down is read again."""
    assert decode(encode(since)) == since


NO_LIST = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["version", "logged_out", "3095"]), inner)
    ),
)


@given(st.binary() | NO_LIST.map(lambda each: json.dumps(each).encode()))
def test_other_content_is_one_error(content):
    """Whatever stands there, it is a list of logouts or a ValueError."""
    try:
        since = decode(content)
    except ValueError:
        return
    assert all(type(ext) is str and type(at) is int for ext, at in since.items())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        encode({ME: NOW})[:-1],
        b"[" * 100_000,
        b'{"version": 2, "logged_out": {}}',
        b'{"version": 1, "logged_out": {"3095": true}}',
        b'{"version": 1, "logged_out": {"3095": 1.5}}',
        b'{"version": 1, "logged_out": ["3095"]}',
        b'{"version": 1}',
        b'"\xff"',
    ],
    ids=lambda content: repr(content[:40]),
)
def test_nearly_right_content_is_refused(content):
    """A rest of a file, towers of brackets, other versions, times that are none."""
    with pytest.raises(ValueError):  # noqa: PT011 - which one does not matter to who reads it
        decode(content)


# --- What is remembered ---------------------------------------------------------------------------


class LogoutMachine(RuleBasedStateMachine):
    """Logouts, logins, restarts and days in any order, beside a model of them."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.clock.advance(NOW)
        self.content = encode({})
        # When those who are logged out have become so.
        self.since = {}
        self.restart()

    def read(self):
        """Read as `LogoutFile` does."""
        return decode(self.content)

    def write(self, since):
        """Write as `LogoutFile` does, at once."""
        self.content = encode(since)
        return self.disk.run(lambda: None)

    @rule()
    def restart(self):
        """The next process finds what the one before has left."""
        self.disk = Disk(OSError())
        self.logouts = Logouts(self.clock, self)
        self.logouts.startService()

    @rule(ext=st.sampled_from(EXTENSIONS))
    def log_out(self, ext):
        self.logouts.add(ext)
        self.since.setdefault(ext, int(self.clock.seconds()))

    @rule(ext=st.sampled_from(EXTENSIONS))
    def log_in(self, ext):
        self.logouts.discard(ext)
        self.since.pop(ext, None)

    @rule(days=st.integers(1, 400))
    def pass_time(self, days):
        self.clock.advance(days * DAY)

    @invariant()
    def nobody_comes_back(self):
        """Who has logged out stays so as long as there may be a token from before; nobody else."""
        for ext in EXTENSIONS:
            if ext not in self.since:
                assert ext not in self.logouts
            elif self.clock.seconds() < self.since[ext] + MAX_TOKEN_SECONDS:
                assert ext in self.logouts


TestLogoutMachine = LogoutMachine.TestCase


def test_one_goes_when_no_token_can_be_left(place):
    """It stays to the last second that a token from before may last; then the file shrinks."""
    place.add(ME)
    place.clock.advance(MAX_TOKEN_SECONDS - 1)
    place.add(PETER)
    assert place.kept() == {ME, PETER}
    place.clock.advance(1)
    place.add(ANNA)
    assert place.kept() == {PETER, ANNA}


# --- How it comes to the disk ---------------------------------------------------------------------


def test_a_logout_is_waited_for(place, path):
    """It has happened at once, and its Deferred fires when it is on the disk, for us alone."""
    place.disk.slow = True
    done = place.add(ME)
    assert ME in place.logouts
    assert not done
    place.disk.catch_up()
    assert done
    assert not place.clock.getDelayedCalls()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ME in Place(path).logouts


def test_the_second_time_costs_nothing(place):
    """Who has logged out already is written down already."""
    assert place.add(ME)
    assert place.add(ME)
    assert place.disk.rounds == 1


def test_the_second_time_waits_for_the_first(place):
    """No logout is answered before it is on the disk, whoever began to write it."""
    place.disk.slow = True
    first, second = place.add(ME), place.add(ME)
    assert not first + second
    place.disk.slow = False
    place.disk.catch_up()
    assert len(first + second) == 2


def test_a_login_takes_it_out(place, path):
    """Also after a restart; where nobody had logged out, nothing is written."""
    place.logouts.discard(ME)
    assert place.disk.rounds == 0
    place.add(ME)
    place.add(PETER)
    place.logouts.discard(ME)
    assert ME not in place.logouts
    assert place.kept() == {PETER}
    assert ME not in Place(path).logouts


def test_what_comes_while_it_is_written_goes_together(place):
    """However many come meanwhile, they are one more write, with all of them."""
    place.disk.slow = True
    first = place.add(ME)
    others = [place.add(str(ext)) for ext in range(100)]
    place.logouts.discard("7")
    assert len(place.disk.waiting) == 1
    place.disk.catch_up()
    assert first
    assert not any(others)
    assert place.kept() == {ME}
    place.disk.catch_up()
    assert all(others)
    assert place.kept() == {ME, *map(str, range(100))} - {"7"}
    assert place.disk.rounds == 2


def test_a_full_disk_stops_no_logout(place, path, said):
    """That is said once, and it is tried again: by the next one, and after a while."""
    place.disk.broken = True
    assert place.add(ME)
    assert place.add(PETER)
    assert ME in place.logouts
    assert place.disk.rounds == 2
    place.clock.advance(RETRY_SECONDS)
    assert place.disk.rounds == 3
    assert place.kept() == set()
    place.disk.broken = False
    place.clock.advance(RETRY_SECONDS)
    assert place.kept() == {ME, PETER}
    assert not place.clock.getDelayedCalls()
    why = "No space left on device"
    assert said() == [
        ("error", f"{path} cannot be written: {why}; a restart now forgets who has logged out"),
        ("info", f"{path} is written again"),
    ]


def test_who_came_while_a_write_failed(place):
    """They get one of their own, which takes in what the other could not write."""
    place.disk.slow = place.disk.broken = True
    first, second = place.add(ME), place.add(PETER)
    place.disk.catch_up()
    assert first
    assert not second
    place.disk.broken = False
    place.disk.catch_up()
    assert second
    assert place.kept() == {ME, PETER}


def test_a_login_while_a_logout_is_written(place):
    """What the thread writes does not change under its hands; the login comes with the next."""
    place.disk.slow = True
    place.add(ME)
    place.logouts.discard(ME)
    place.disk.catch_up()
    assert place.kept() == {ME}
    place.disk.catch_up()
    assert place.kept() == set()


def test_a_disk_that_hangs(place, said):
    """A logout waits for it only so long; when the disk comes back, it is written all the same."""
    place.disk.slow = True
    done = place.add(ME)
    place.clock.advance(SAVE_SECONDS)
    assert done
    assert said() == [
        ("error", "the disk is too slow: a restart now may forget who has logged out")
    ]
    place.disk.catch_up()
    assert place.kept() == {ME}


def test_nothing_piles_up_before_a_disk_that_hangs(place):
    """Of a logout that waits no longer nothing is left, whether it is being written or in line."""
    place.disk.slow = True
    waiting = [place.logouts.add(ext) for ext in EXTENSIONS]
    left = [weakref.ref(each) for each in waiting]
    waiting.clear()
    place.clock.advance(SAVE_SECONDS)
    gc.collect()
    assert [each() for each in left] == [None] * len(EXTENSIONS)


def test_a_client_that_leaves(place):
    """What it has begun is done."""
    place.disk.slow = True
    leaving = place.logouts.add(ME)
    leaving.addErrback(lambda _: None)
    leaving.cancel()
    place.disk.catch_up()
    assert place.kept() == {ME}
    assert not place.clock.getDelayedCalls()


def test_the_end_of_the_daemon(place):
    """It waits for what is being written, and lets the thread go."""
    place.disk.slow = True
    place.add(ME)
    place.logouts.discard(ME)
    done = place.stop()
    assert not done
    place.disk.slow = False
    place.disk.catch_up()
    assert done
    assert place.disk.stopped
    assert place.kept() == set()
    assert not place.clock.getDelayedCalls()


def test_the_end_of_the_daemon_with_a_full_disk(place):
    """What could not be written is tried once more, and leaves no timer."""
    place.disk.broken = True
    place.add(ME)
    rounds = place.disk.rounds
    assert place.stop()
    assert place.disk.rounds == rounds + 1
    assert not place.clock.getDelayedCalls()


def test_the_end_of_the_daemon_with_a_disk_that_hangs(place):
    """It does not hang with it."""
    place.disk.slow = True
    place.add(ME)
    done = place.stop()
    place.clock.advance(LAST_SAVE_SECONDS)
    assert done


def test_a_file_that_cannot_be_read(path, said):
    """It is as if there were none, and the log says what that means; logouts work all the same."""
    path.mkdir()
    place = Place(path)
    assert said() == [
        (
            "error",
            f"{path} cannot be read (Is a directory); {FORGOTTEN}",
        )
    ]
    assert place.add(ME)
    assert ME in place.logouts
    assert place.stop()


def test_a_damaged_file_is_kept_for_a_look(path):
    """It is moved away, and a sound one takes its place."""
    path.write_bytes(b"nonsense")
    place = Place(path)
    assert path.with_name("logouts.json.damaged").read_bytes() == b"nonsense"
    place.add(ME)
    assert place.kept() == {ME}


def test_a_damaged_file_that_cannot_be_moved(path, said):
    """The log says that, too, and nothing else comes of it."""
    path.write_bytes(b"nonsense")
    aside = path.with_name("logouts.json.damaged")
    aside.mkdir()
    Place(path)
    assert said() == [
        ("error", f"{path} is damaged and cannot be moved away (Is a directory); {FORGOTTEN}")
    ]


def test_in_memory_alone():
    """Without a file all is the same, until the process ends."""
    logouts = Logouts(Clock())
    logouts.startService()
    done = []
    logouts.add(ME).addCallback(done.append)
    assert done
    assert ME in logouts
    logouts.discard(ME)
    assert ME not in logouts
    logouts.stopService().addCallback(done.append)
    assert len(done) == 2
