"""SIGHUP: the configuration is read again, and taken over as far as that can be done.

No stream is closed for it. What cannot be taken over while the daemon runs stays as it was, and the
log says so. A configuration with a mistake changes nothing at all.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import attrs
from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.audit import FAILED, OK, record
from mxflex.config import SECRET_KEYS, Config, values_of
from mxflex.errors import ConfigError

log = Logger()

# As the audit log calls it.
ACTION: Final = "config.reload"

# From when on a new value counts.
AT_ONCE: Final = "at once"
NEW_STREAMS: Final = "for new streams"
NEW_TOKENS: Final = "for new tokens"
NEW_MX_CONNECTIONS: Final = "for new connections to the MX"

Commit = Callable[[], object]


@attrs.frozen
class Part:
    """Keys that can be taken over while the daemon runs.

    Attributes:
        when: From when on they count.
        keys: Which.
        prepare: Looks whether the values of a configuration can be used, and gives what takes them
            over, which cannot fail; or None if that takes a restart. Raises `ConfigError` where
            they cannot be used at all. It is called when one of the keys has another value.
    """

    when: str
    keys: tuple[str, ...]
    prepare: Callable[[Config], Commit | None]


class Witness(Protocol):
    """Whoever is to know of a reload."""

    def reloading(self) -> None:
        """It begins."""

    def reloaded(self) -> None:
        """It is over, however it went."""


class Reloader(Service):
    """Reads the configuration again on SIGHUP.

    Args:
        reactor: Runs what a signal asks for.
        read: Reads the configuration; None where there is nothing to read.
        config: The one that the daemon was made from.
        parts: What can be taken over. All other keys take a restart.
        always: Called each time, whether the configuration is sound or not: files that it names may
            have changed.
        witnesses: Are told.
    """

    name = "reload"

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], Config] | None,
        config: Config,
        *,
        parts: Sequence[Part],
        always: Iterable[Callable[[], None]] = (),
        witnesses: Iterable[Witness] = (),
    ) -> None:
        self._reactor = reactor
        self._read = read
        self._values = values_of(config)
        self.parts = tuple(parts)
        self._always = tuple(always)
        self._witnesses = tuple(witnesses)
        self._previous: Any = None

    def startService(self) -> None:
        """Wait for signals; without this SIGHUP would end the process."""
        Service.startService(self)
        self._previous = signal.signal(signal.SIGHUP, self._hangup)

    def stopService(self) -> None:
        """Leave signals alone."""
        Service.stopService(self)
        signal.signal(signal.SIGHUP, self._previous)

    def _hangup(self, _number: int, _frame: object) -> None:
        # In a signal handler only this much is safe; the reactor wakes up for it. Each signal has
        # its own turn, so two of them never meet.
        self._reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Read everything again."""
        if not self.running:
            return
        for witness in self._witnesses:
            witness.reloading()
        try:
            if self._read is not None:
                self._take(self._read())
        except ConfigError as error:
            log.error("configuration not reloaded, the old one stays: {error}", error=error)
            record(ACTION, "refused", reason=str(error))
        except Exception:
            log.failure("configuration not reloaded, the old one stays")
            record(ACTION, FAILED)
        finally:
            for each in self._always:
                self._do(each)
            for witness in self._witnesses:
                witness.reloaded()

    def _take(self, config: Config) -> None:
        values = values_of(config)
        changed = [key for key, value in values.items() if value != self._values[key]]
        # First all that may fail, then all that cannot.
        commits: list[tuple[Part, list[str], Commit]] = []
        for part in self.parts:
            keys = [key for key in part.keys if key in changed]
            commit = part.prepare(config) if keys else None
            if commit is not None:
                commits.append((part, keys, commit))
        taken: dict[str, str] = {}
        for part, keys, commit in commits:
            if self._do(commit):
                taken |= dict.fromkeys(keys, part.when)
        for key in changed:
            self._tell(key, values[key], taken.get(key))
        self._values |= {key: values[key] for key in taken}
        log.info(
            "configuration reloaded: {taken} taken over, {left} left for a restart",
            taken=len(taken),
            left=len(changed) - len(taken),
        )
        left = [key for key in changed if key not in taken]
        kept = [key for key in changed if key in taken]
        record(ACTION, OK, taken=", ".join(kept), left=", ".join(left))

    def _do(self, act: Commit) -> bool:
        """Do a part, and tell whether it went well; a bug there costs no other part."""
        try:
            act()
        except Exception:
            log.failure("a part of the configuration was not taken over", Failure())
            return False
        return True

    def _tell(self, key: str, value: object, when: str | None) -> None:
        before, after = shown(key, self._values[key]), shown(key, value)
        if when is None:
            tell, rest = log.warn, "only after a restart; until then it stays as it is"
        else:
            tell, rest = log.info, when
        tell(
            "{key} changed from {before} to {after}: {rest}",
            key=key,
            before=before,
            after=after,
            rest=rest,
        )


def shown(key: str, value: object) -> str:
    """Write a value for the log; a secret one is not shown."""
    if value is None or value in ("", b"", ()):
        return "nothing"
    if key in SECRET_KEYS:
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # Of what has a name no more is shown: a webhook has secrets.
        return ", ".join(str(getattr(each, "name", each)) for each in value)
    return str(value)
