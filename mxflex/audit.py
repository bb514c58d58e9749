"""The audit log: who did what, and how it ended; one line each, in a namespace of its own.

Source: docs/operation.md, "Audit", has every action and every field.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from mxflex.errors import (
    BadRequest,
    CommandRefused,
    Forbidden,
    LocalProtocolError,
    LoginRefused,
    MXFlexError,
    MXTimeout,
    MXUnavailable,
    ServiceUnavailable,
    TooManyRequests,
)

log = Logger(namespace="mxflex.audit")

OK: Final = "ok"
FAILED: Final = "failed"
# What an error is called there; the first that fits.
_RESULTS: Final[dict[type[BaseException], str]] = {
    LoginRefused: "refused",
    CommandRefused: "refused",
    Forbidden: "forbidden",
    TooManyRequests: "throttled",
    MXUnavailable: "unavailable",
    ServiceUnavailable: "unavailable",
    MXTimeout: "timeout",
    BadRequest: "invalid",
    LocalProtocolError: "invalid",
    CancelledError: "cancelled",
}

Field = str | int


def record(action: str, result: str, **fields: Field | None) -> None:
    """Write a line.

    Args:
        action: What was done, such as `call.hold`.
        result: How it ended.
        fields: Who did it, from where, to what; those that are None or "" are left out.
    """
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    log.info(_template(tuple(known)), action=action, result=result, **known)


@lru_cache(256)
def _template(names: tuple[str, ...]) -> str:
    # As Python writes them, so that no value can look like another field.
    return "{action} {result}" + "".join(f" {name}={{{name}!r}}" for name in names)


@contextmanager
def audited(action: str, **fields: Field | None) -> Iterator[dict[str, Field | None]]:
    """Write a line when what is done within has ended, in whatever way.

    Args:
        action: See `record`.
        fields: Likewise.

    Yields:
        Takes further fields, which are not known before.
    """
    told = dict(fields)
    try:
        yield told
    except BaseException as error:
        words = (word for kind, word in _RESULTS.items() if isinstance(error, kind))
        # Whatever else goes wrong has a traceback elsewhere, and its text may hold anything.
        told["reason"] = str(error) if isinstance(error, MXFlexError) else type(error).__name__
        told["code"] = getattr(error, "code", None) if isinstance(error, LoginRefused) else None
        record(action, next(words, FAILED), **told)
        raise
    record(action, OK, **told)
