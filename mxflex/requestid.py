"""The name of a request, by which its answer, its lines in the log and its commands are found."""

from __future__ import annotations

import secrets
from contextvars import ContextVar

# Enough that nobody guesses the name of another's request, and short enough to be read out.
REQUEST_ID_BYTES = 8

# The request that is being handled, in its coroutines too, however long they wait; "" outside.
CURRENT: ContextVar[str] = ContextVar("mxflex_request_id", default="")


def new_request_id() -> str:
    """Give the name of a new request: 16 hex digits."""
    return secrets.token_hex(REQUEST_ID_BYTES)
