"""Who has logged out, and not in again: remembered also over a restart, which tokens may outlive.

Source: HTTP contract, "GET /api/logout".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.config import MAX_TOKEN_SECONDS
from mxflex.disk import Worker, set_aside, write_whole

log = Logger()

# How long a logout waits for the disk, in seconds; then it has happened, but may be forgotten.
SAVE_SECONDS = 5.0
# How long the daemon's end waits for it.
LAST_SAVE_SECONDS = 0.25
# After how many seconds it is tried again to write what could not be written.
RETRY_SECONDS = 60.0
VERSION = 1


def encode(since: Mapping[str, int]) -> bytes:
    """Write logouts down: extensions, and when their users have logged out."""
    return json.dumps({"version": VERSION, "logged_out": since}).encode("ascii")


def decode(content: bytes) -> dict[str, int]:
    """Give what `encode` has written down.

    Raises:
        ValueError: It has not written this.
    """
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError("not a list of logouts of this version")
    since = document.get("logged_out")
    if not isinstance(since, dict) or not all(type(each) is int for each in since.values()):
        raise ValueError("expected extensions with times")
    return since


class LogoutFile:
    """Where logouts outlive the process.

    Args:
        path: The file.
        disk: Where is waited until it is written.
    """

    def __init__(self, path: Path, disk: Worker) -> None:
        self.path = path
        self.disk = disk

    def read(self) -> dict[str, int]:
        """Give the logouts that there were; says so where they are lost."""
        try:
            return decode(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
        except ValueError:
            why = f"is damaged and {self._set_aside()}"
        log.error(
            "{path} {why}; who logged out before this start may come back with a token that has"
            " not ended",
            path=self.path,
            why=why,
        )
        return {}

    def _set_aside(self) -> str:
        try:
            return f"was moved to {set_aside(self.path).name}"
        except OSError as error:
            return f"cannot be moved away ({error.strerror})"

    def write(self, since: Mapping[str, int]) -> Deferred[None]:
        """Replace what is in the file; fails with OSError."""
        copy = dict(since)
        return self.disk.run(lambda: write_whole(self.path, encode(copy)))


class Logouts(Service):
    """Remembers which extensions are logged out.

    Args:
        clock: Gives the time, in seconds since the epoch, and delayed calls.
        file: Where they outlive the process; None where tokens do not.
    """

    name = "logouts"

    def __init__(self, clock: IReactorTime, file: LogoutFile | None = None) -> None:
        self._clock = clock
        self._file = file
        # Only a token can log out, so there are never more of them than extensions of the MX.
        self._since: dict[str, int] = {}
        # Whether the file does not have all of it yet.
        self._behind = False
        self._writing = False
        # Those that wait until what there is now has been written.
        self._waiting: set[Deferred[None]] = set()
        self._failing = False
        self._retry: IDelayedCall | None = None

    def startService(self) -> None:
        """Read what there was."""
        Service.startService(self)
        if self._file is not None:
            self._since = self._file.read()

    def stopService(self) -> Deferred[None]:
        """Write what could not be written before, if that is quick."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._file is not None:
            # No timer may outlive the daemon.
            self._stop_retry()
            await self._saved(LAST_SAVE_SECONDS)
            self._file.disk.stop()

    def __contains__(self, ext: object) -> bool:
        return ext in self._since

    def add(self, ext: str) -> Deferred[None]:
        """Take an extension for logged out, from now on.

        Returns:
            What fires as soon as that will outlive the process, and also when it will not, which
            the log says then.
        """
        if ext not in self._since:
            now = int(self._clock.seconds())
            # No token from before those is left. What the configuration says now of how long tokens
            # last may not be what it said when they were made.
            first = now - MAX_TOKEN_SECONDS
            self._since = {each: at for each, at in self._since.items() if at > first}
            self._since[ext] = now
            self._behind = True
        return self._saved(SAVE_SECONDS)

    def discard(self, ext: str) -> None:
        """Take an extension for logged in.

        This is not waited for: at the worst somebody has to log in again.
        """
        if self._since.pop(ext, None) is not None:
            self._behind = True
            self._save()

    def _saved(self, seconds: float) -> Deferred[None]:
        if self._file is None or not (self._behind or self._writing):
            return succeed(None)
        # Who waits no longer is not kept, however long the disk takes.
        saved: Deferred[None] = Deferred(self._waiting.discard)
        self._waiting.add(saved)
        self._save()
        return saved.addTimeout(seconds, self._clock).addErrback(self._too_slow)

    def _too_slow(self, failure: Failure) -> None:
        failure.trap(WaitedTooLong)
        log.error("the disk is too slow: a restart now may forget who has logged out")

    def _save(self) -> None:
        if self._file is not None and not self._writing:
            self._stop_retry()
            self._writing = True
            writing = Deferred.fromCoroutine(self._write_all(self._file))
            writing.addErrback(partial(log.failure, "logouts are not written any more"))

    async def _write_all(self, file: LogoutFile) -> None:
        """Write until the file has all; whatever comes while it is being written goes together."""
        while self._behind or self._waiting:
            self._behind = False
            waiting, self._waiting = self._waiting, set()
            written = await self._write(file)
            self._behind = self._behind or not written
            while waiting:
                waiting.pop().callback(None)
            if not (written or self._waiting):
                break
        self._writing = False
        if self._behind and self.running:
            self._retry = self._clock.callLater(RETRY_SECONDS, self._try_again)

    async def _write(self, file: LogoutFile) -> bool:
        """Write once, and tell whether that went well."""
        try:
            await file.write(self._since)
        except OSError as error:
            if not self._failing:
                text = "{path} cannot be written: {why}; a restart now forgets who has logged out"
                log.error(text, path=file.path, why=error.strerror)
            self._failing = True
            return False
        if self._failing:
            log.info("{path} is written again", path=file.path)
        self._failing = False
        return True

    def _try_again(self) -> None:
        self._retry = None
        self._save()

    def _stop_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
