"""The queue: messages in a file until their receivers have them, and those that were given up.

It is for one thread, which may wait for the disk. What one round brings and takes is one
transaction: either all of it is on the disk, or nothing. A process that is killed leaves what the
last transaction left; messages under way then are sent again.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import attrs

from mxflex.config import WebhookSettings
from mxflex.disk import DAMAGED
from mxflex.errors import StorageError
from mxflex.gateway.hub import GAP
from mxflex.webhooks.message import Message, make_id

# "MXFX": a file of another program is left alone.
APPLICATION_ID = 0x4D584658
SCHEMA_VERSION = 1
# A full queue takes in nothing until so much of it has gone: one gap tells of all that was dropped
# between, instead of one for each message.
ROOM = 0.9
# No pause is longer, in seconds; so whatever is due later was written before the clock was set
# back, and is due now.
HORIZON_SECONDS = 7200.0
# In a second.
MICROSECONDS = 1_000_000
# SQLite's own words for a file that is beyond repair.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# Each file that belongs to the database, by what is put behind its name.
_FILES = ("", "-wal", "-shm", "-journal")

# Why messages are missing.
FULL = "queue-full"
LOST = "queue-lost"
REMOVED = "not-configured"
RESTART = "restart"
DISABLED = "disabled"
# Why a message was given up, where it was never sent.
TOO_OLD = "it waited too long"

_SCHEMA = f"""
CREATE TABLE queue (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    hook TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    in_group TEXT,
    body BLOB NOT NULL,
    at REAL NOT NULL,
    queued REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX queue_order ON queue (hook, seq);
CREATE INDEX queue_key ON queue (hook, key, seq);
CREATE INDEX queue_in_group ON queue (hook, in_group, seq) WHERE in_group IS NOT NULL;
CREATE INDEX queue_age ON queue (hook, queued);
CREATE INDEX queue_due ON queue (hook, due) WHERE due > 0;
CREATE TABLE dead (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    hook TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    in_group TEXT,
    body BLOB NOT NULL,
    at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    died REAL NOT NULL
);
CREATE INDEX dead_order ON dead (hook, seq);
CREATE TABLE hook (
    name TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    disabled REAL,
    gap_reason TEXT,
    gap_since REAL,
    gap_count INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE alive (at REAL NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


@attrs.frozen
class Queued:
    """A message in the queue.

    Attributes:
        seq: Its number here.
        hook, id, body, at: See `Message`.
        attempts: How often it was tried in vain.
    """

    seq: int
    hook: str
    id: str
    body: bytes
    at: float
    attempts: int


@attrs.frozen
class Failed:
    """An attempt that failed.

    Attributes:
        seq: The number of the message.
        error: Why.
        due: When to try again, in seconds since the epoch.
    """

    seq: int
    error: str
    due: float


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A message that was given up.

    Attributes:
        id, type, at: See `Message`.
        attempts: How often it was tried.
        error: Why the last attempt failed.
        died: When it was given up, in seconds since the epoch.
    """

    id: str
    type: str
    at: float
    attempts: int
    error: str
    died: float


@attrs.define(kw_only=True)
class Round:
    """What has happened since the round before, and what is wanted.

    Attributes:
        messages: New ones, in their order.
        lost: Messages that there was no room for in memory, by webhook; later than those.
        delivered: Numbers of messages that their receivers have.
        failed: Attempts that failed.
        gone: Webhooks whose receivers want nothing any more.
        recovered: Webhooks whose receivers are back: whatever waits for another try is due.
        wanted: How many messages can be sent now, by webhook.
        busy: Numbers of those that are under way.
    """

    messages: Iterable[Message] = ()
    lost: Mapping[str, int] = attrs.field(factory=dict)
    delivered: Sequence[int] = ()
    failed: Sequence[Failed] = ()
    gone: Sequence[str] = ()
    recovered: Sequence[str] = ()
    wanted: Mapping[str, int] = attrs.field(factory=dict)
    busy: frozenset[int] = frozenset()


@attrs.define
class HookState:
    """How the queue of one webhook stands.

    Attributes:
        queued: Messages in it.
        dead: Messages that were given up, and are kept.
        disabled: When the receiver said that it wants nothing any more; None when it did not.
        gap_since: Since when messages are missing that it has not been told of yet; None when none
            are.
        next_due: When the next message that waits for another try is due; None when none waits.
    """

    queued: int = 0
    dead: int = 0
    disabled: float | None = None
    gap_since: float | None = None
    next_due: float | None = None


@attrs.frozen
class Result:
    """What a round gives.

    Attributes:
        ready: Messages to send now. None of them has to wait for another one.
        states: How each webhook stands.
        dropped: How many new messages found no room, by webhook.
        died: How many were given up, by webhook.
        left: How many wait for a webhook that is not in the configuration any more, by its name;
            told once.
    """

    ready: list[Queued]
    states: dict[str, HookState]
    dropped: Counter[str]
    died: Counter[str]
    left: dict[str, int]


class Queue:
    """Messages of all webhooks, in one file.

    The file is opened when it is needed first. Every method raises `StorageError` where the disk
    does not do what it should; nothing has changed then.

    Args:
        path: The file; made if it is not there, for this user alone.
        hooks: The webhooks.
        max_queued, max_age, max_dead: See `mxflex.config.DeliverySettings`.
        gap: Gives the body of the message that others are missing: for the reason, the time, since
            when, and how many.
    """

    def __init__(
        self,
        path: Path,
        hooks: Sequence[WebhookSettings],
        *,
        max_queued: int,
        max_age: float,
        max_dead: int,
        gap: Callable[[str, float, float, int], bytes],
    ) -> None:
        self._path = path
        self._gap = gap
        self._opened: sqlite3.Connection | None = None
        self._states: dict[str, HookState] = {}
        # Of webhooks that are not in the configuration: what waits, and when to look again what of
        # it is too old.
        self._left: dict[str, int] = {}
        self._look_at_left = math.inf
        self.use(hooks, max_queued=max_queued, max_age=max_age, max_dead=max_dead)

    # --- What it does -------------------------------------------------------------------------

    def use(
        self, hooks: Sequence[WebhookSettings], *, max_queued: int, max_age: float, max_dead: int
    ) -> None:
        """Be for these webhooks from now on, with these bounds; the file follows at the next use.

        What waits for others stays, as long as it is worth anything: they may come back.
        """
        self._urls = {hook.name: sha256(hook.url.encode()).hexdigest() for hook in hooks}
        self._max_queued = max_queued
        self._room = max(1, int(max_queued * ROOM))
        self._max_age = max_age
        self._max_dead = max_dead
        self._settled = False

    def exchange(self, now: float, turn: Round) -> Result:
        """Take in what has happened, and give what is to be sent.

        Args:
            now: The time, in seconds since the epoch.
            turn: See `Round`.
        """
        with self._transaction(now) as db:
            dropped: Counter[str] = Counter()
            died: Counter[str] = Counter()
            db.executemany("DELETE FROM queue WHERE seq = ?", ((seq,) for seq in turn.delivered))
            db.executemany(
                "UPDATE queue SET attempts = attempts + 1, error = ?, due = ? WHERE seq = ?",
                ((each.error, each.due, each.seq) for each in turn.failed),
            )
            db.executemany(
                "UPDATE queue SET due = 0 WHERE hook = ? AND due > 0",
                ((hook,) for hook in turn.recovered),
            )
            for hook in turn.gone:
                died[hook] += self._disable(db, hook, now)
            self._bury_old(db, now, turn.busy, died)
            if now >= self._look_at_left:
                self._clear_left(db, now)
            self._count(db)
            self._tell_gaps(db, now)
            for message in turn.messages:
                if self._takes(message.hook) and not self._put(db, message):
                    dropped[message.hook] += 1
            for hook, count in turn.lost.items():
                if self._takes(hook):
                    self._miss(db, hook, FULL, now, count)
            self._tell_gaps(db, now)
            ready = [
                message
                for hook, count in turn.wanted.items()
                for message in self._ready(db, hook, now, count, turn.busy)
            ]
            for hook, state in self._states.items():
                (state.next_due,) = db.execute(
                    # The 0 lets SQLite use the index of those that wait.
                    "SELECT min(due) FROM queue WHERE hook = ? AND due > 0 AND due > ?",
                    (hook, now),
                ).fetchone()
            db.execute("UPDATE alive SET at = ?", (now,))
        left, self._left = self._left, {}
        return Result(ready, self._copy(), dropped, died, left)

    def dead_letters(self, hook: str, limit: int, now: float) -> list[DeadLetter]:
        """Give the oldest messages of a webhook that were given up."""
        with self._transaction(now) as db:
            rows = db.execute(
                "SELECT id, type, at, attempts, error, died FROM dead WHERE hook = ?"
                " ORDER BY seq LIMIT ?",
                (hook, limit),
            )
            names = ("id", "type", "at", "attempts", "error", "died")
            return [DeadLetter(**dict(zip(names, row, strict=True))) for row in rows]

    def revive(self, hook: str, message_id: str | None, now: float) -> int:
        """Put one dead letter of a webhook, or all, behind the queue again; give how many."""
        with self._transaction(now) as db:
            which = {"hook": hook, "id": message_id, "now": now}
            db.execute(
                "INSERT INTO queue (hook, id, type, key, in_group, body, at, queued)"
                " SELECT hook, id, type, key, in_group, body, at, :now FROM dead"
                " WHERE hook = :hook AND id = coalesce(:id, id) ORDER BY seq",
                which,
            )
            return self._delete_dead(db, which)

    def discard(self, hook: str, message_id: str | None, now: float) -> int:
        """Throw away one dead letter of a webhook, or all; give how many."""
        with self._transaction(now) as db:
            return self._delete_dead(db, {"hook": hook, "id": message_id})

    def _delete_dead(self, db: sqlite3.Connection, which: Mapping[str, object]) -> int:
        return db.execute(
            "DELETE FROM dead WHERE hook = :hook AND id = coalesce(:id, id)", which
        ).rowcount

    def enable(self, hook: str, now: float) -> bool:
        """Let a webhook get messages again whose receiver wanted none; tell whether it was so."""
        with self._transaction(now) as db:
            return self._enable(db, hook)

    def close(self, now: float) -> None:
        """Close the file; the next use opens it again. Never fails."""
        if self._opened is not None:
            with suppress(StorageError), self._transaction(now) as db:
                db.execute("UPDATE alive SET at = ?", (now,))
            self._forget()

    # --- Parts --------------------------------------------------------------------------------

    def _takes(self, hook: str) -> bool:
        """Tell whether messages for a webhook are wanted; it may have gone a moment ago."""
        state = self._states.get(hook)
        return state is not None and state.disabled is None

    def _put(self, db: sqlite3.Connection, message: Message) -> bool:
        """Queue a message if there is room, and tell whether there was."""
        state = self._states[message.hook]
        if state.gap_since is not None or state.queued >= self._max_queued:
            self._miss(db, message.hook, FULL, message.at, 1)
            return False
        self._insert(db, message, message.at)
        return True

    def _insert(self, db: sqlite3.Connection, message: Message, now: float) -> None:
        db.execute(
            "INSERT INTO queue (hook, id, type, key, in_group, body, at, queued)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                message.hook,
                message.id,
                message.type,
                message.key,
                message.group,
                message.body,
                message.at,
                now,
            ),
        )
        self._states[message.hook].queued += 1

    def _miss(
        self, db: sqlite3.Connection, hook: str, reason: str, since: float, count: int
    ) -> None:
        """Remember that messages are missing, until there is room to say so."""
        db.execute(
            "UPDATE hook SET gap_reason = coalesce(gap_reason, ?),"
            " gap_since = min(coalesce(gap_since, ?), ?), gap_count = gap_count + ?"
            " WHERE name = ?",
            (reason, since, since, count, hook),
        )
        state = self._states.get(hook)
        if state is not None:
            state.gap_since = since if state.gap_since is None else min(state.gap_since, since)

    def _tell_gaps(self, db: sqlite3.Connection, now: float) -> None:
        for name, state in self._states.items():
            if state.gap_since is None or state.disabled is not None or state.queued >= self._room:
                continue
            reason, since, count = db.execute(
                "SELECT gap_reason, gap_since, gap_count FROM hook WHERE name = ?", (name,)
            ).fetchone()
            body = self._gap(reason, now, since, count)
            self._insert(db, Message(name, make_id(), GAP, body, now, GAP), now)
            state.gap_since = None
            db.execute(
                "UPDATE hook SET gap_reason = NULL, gap_since = NULL, gap_count = 0 WHERE name = ?",
                (name,),
            )

    def _ready(
        self, db: sqlite3.Connection, hook: str, now: float, count: int, busy: frozenset[int]
    ) -> Iterator[Queued]:
        """Give messages that are due, and wait for no earlier one."""
        if count <= 0 or self._states[hook].disabled is not None:
            return
        rows = db.execute(
            "SELECT seq, hook, id, body, at, attempts FROM queue AS this"
            " WHERE hook = ? AND (due <= ? OR due > ?)"
            " AND NOT EXISTS (SELECT 1 FROM queue AS other WHERE other.hook = this.hook"
            "  AND other.key = this.key AND other.seq < this.seq)"
            " AND (in_group IS NULL OR NOT EXISTS (SELECT 1 FROM queue AS other"
            "  WHERE other.hook = this.hook AND other.in_group = this.in_group"
            "  AND other.seq < this.seq))"
            " ORDER BY seq LIMIT ?",
            (hook, now, now + HORIZON_SECONDS, count + len(busy)),
        )
        for row in rows:
            if count and row[0] not in busy:
                count -= 1
                yield Queued(*row)

    def _bury_old(
        self, db: sqlite3.Connection, now: float, busy: frozenset[int], died: Counter[str]
    ) -> None:
        """Give up what has waited too long."""
        for hook in self._urls:
            old = [
                seq
                for (seq,) in db.execute(
                    "SELECT seq FROM queue WHERE hook = ? AND queued < ?",
                    (hook, now - self._max_age),
                )
                if seq not in busy
            ]
            if old:
                died[hook] += self._bury(db, hook, old, now)

    def _bury(self, db: sqlite3.Connection, hook: str, numbers: Iterable[int], now: float) -> int:
        """Make dead letters of messages, and forget those that are too many."""
        count = 0
        for seq in numbers:
            db.execute(
                "INSERT INTO dead (hook, id, type, key, in_group, body, at, attempts, error, died)"
                " SELECT hook, id, type, key, in_group, body, at, attempts,"
                " CASE error WHEN '' THEN ? ELSE error END, ? FROM queue WHERE seq = ?",
                (TOO_OLD, now, seq),
            )
            db.execute("DELETE FROM queue WHERE seq = ?", (seq,))
            count += 1
        db.execute(
            "DELETE FROM dead WHERE hook = ? AND seq NOT IN"
            " (SELECT seq FROM dead WHERE hook = ? ORDER BY seq DESC LIMIT ?)",
            (hook, hook, self._max_dead),
        )
        return count

    def _disable(self, db: sqlite3.Connection, hook: str, now: float) -> int:
        """Send a webhook nothing any more; what waits is given up. Give how much that is."""
        db.execute("UPDATE hook SET disabled = coalesce(disabled, ?) WHERE name = ?", (now, hook))
        waiting = db.execute("SELECT seq FROM queue WHERE hook = ? ORDER BY seq", (hook,))
        return self._bury(db, hook, [seq for (seq,) in waiting], now)

    def _enable(self, db: sqlite3.Connection, hook: str) -> bool:
        row = db.execute("SELECT disabled FROM hook WHERE name = ?", (hook,)).fetchone()
        if row is None or row[0] is None:
            return False
        db.execute("UPDATE hook SET disabled = NULL WHERE name = ?", (hook,))
        self._miss(db, hook, DISABLED, row[0], 0)
        return True

    def _count(self, db: sqlite3.Connection) -> None:
        """Learn how each webhook stands, from the file."""
        for name, state in self._states.items():
            (state.queued,) = db.execute(
                "SELECT count(*) FROM queue WHERE hook = ?", (name,)
            ).fetchone()
            (state.dead,) = db.execute(
                "SELECT count(*) FROM dead WHERE hook = ?", (name,)
            ).fetchone()
            state.disabled, state.gap_since = db.execute(
                "SELECT disabled, gap_since FROM hook WHERE name = ?", (name,)
            ).fetchone()

    def _copy(self) -> dict[str, HookState]:
        return {name: attrs.evolve(state) for name, state in self._states.items()}

    # --- The file -----------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, now: float) -> Iterator[sqlite3.Connection]:
        """Do all of it or nothing.

        Raises:
            StorageError: Nothing was done.
        """
        try:
            db = self._open(now)
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                self._set_aside(now)
                raise StorageError(f"the file is damaged ({error}), and was set aside") from error
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise StorageError(text) from error

    def _open(self, now: float) -> sqlite3.Connection:
        if self._opened is not None:
            if not self._settled:
                self._settle(self._opened, now, since=None)
            return self._opened
        # Calls are nobody else's business. SQLite gives the files beside it the same rights.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            # Exclusive: a second MXFlex with this file would send everything twice.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            is_new = self._is_new(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if is_new:
                db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
                # No number may be one of a file that was set aside: what was under way then would
                # be taken for a message of this one.
                first = int(now * MICROSECONDS)
                db.execute("INSERT INTO sqlite_sequence VALUES ('queue', ?)", (first,))
            row = db.execute("SELECT at FROM alive").fetchone()
            self._settle(db, now, since=row and row[0])
        except BaseException:
            db.close()
            raise
        self._opened = db
        return db

    def _is_new(self, db: sqlite3.Connection) -> bool:
        """Tell whether there is nothing in the file yet.

        Raises:
            StorageError: It is the file of another program, or of another version of this one.
        """
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and application in (0, APPLICATION_ID):
            return True
        if (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise StorageError("the file is not a queue of this version of MXFlex")
        return False

    def _settle(self, db: sqlite3.Connection, now: float, *, since: float | None) -> None:
        """Take note of the webhooks that there are now, and of the time without us.

        Args:
            db: The file.
            now: The time, in seconds since the epoch.
            since: When it was used last, by a process before; None where there was none, or the
                process is the same.
        """
        db.execute("BEGIN IMMEDIATE")
        try:
            self._settle_hooks(db, now, since)
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self._states = {name: HookState() for name in self._urls}
        self._settled = True

    def _settle_hooks(self, db: sqlite3.Connection, now: float, since: float | None) -> None:
        if db.execute("SELECT at FROM alive").fetchone() is None:
            db.execute("INSERT INTO alive VALUES (?)", (now,))
        known = dict(db.execute("SELECT name, url FROM hook"))
        for name, url in self._urls.items():
            if name not in known:
                db.execute("INSERT INTO hook (name, url) VALUES (?, ?)", (name, url))
                continue
            if known[name] != url:
                # Another receiver, which has not said that it wants nothing.
                self._enable(db, name)
                db.execute("UPDATE hook SET url = ? WHERE name = ?", (url, name))
            if since is not None:
                self._miss(db, name, RESTART, since, 0)
        for name in known.keys() - self._urls.keys():
            # Told if it comes back.
            self._miss(db, name, REMOVED, now if since is None else since, 0)
        self._left = self._clear_left(db, now)

    def _clear_left(self, db: sqlite3.Connection, now: float) -> dict[str, int]:
        """Throw away what is too old of webhooks that were taken out; give what waits of each."""
        left = {}
        for (name,) in db.execute("SELECT name FROM hook").fetchall():
            if name not in self._urls:
                old = (name, now - self._max_age)
                db.execute("DELETE FROM queue WHERE hook = ? AND queued < ?", old)
                db.execute("DELETE FROM dead WHERE hook = ? AND died < ?", old)
                (count,) = db.execute(
                    "SELECT count(*) FROM queue WHERE hook = ?", (name,)
                ).fetchone()
                if count:
                    left[name] = count
        # Also if nothing waits: there may be dead letters.
        self._look_at_left = now + self._max_age
        return left

    def _set_aside(self, now: float) -> None:
        """Put a file that cannot be read out of the way, and begin a new one."""
        self._forget()
        aside = f"{self._path}{DAMAGED}"
        for ending in _FILES:
            with suppress(OSError):
                Path(f"{self._path}{ending}").replace(f"{aside}{ending}")
        with suppress(StorageError), self._transaction(now) as db:
            for name in self._urls:
                # Nothing older was in it.
                self._miss(db, name, LOST, now - self._max_age, 0)

    def _forget(self) -> None:
        if self._opened is not None:
            with suppress(sqlite3.Error):
                self._opened.close()
            self._opened = None
