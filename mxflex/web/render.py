"""Answers: JSON out, and every error as the one form that the contract names.

Source: docs/api.md, "Answers and errors"; RFC 6750, 3 for `WWW-Authenticate`.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable
from functools import cached_property, lru_cache
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import attrs
import orjson
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.http import parse_accept_header, parse_etags

from mxflex.errors import (
    BadRequest,
    CommandRefused,
    Forbidden,
    InvalidToken,
    LocalProtocolError,
    LoginRefused,
    MXError,
    MXFlexError,
    MXTimeout,
    MXUnavailable,
    NotAcceptable,
    ServiceUnavailable,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    UnsupportedType,
)
from mxflex.web.fields import read_list

log = Logger()

JSON_TYPE = b"application/json; charset=utf-8"
# Below this size compression costs more than it saves, in bytes.
GZIP_FROM = 1024
# What a client should wait before it tries again while the MX is away, in seconds. The link comes
# back within seconds of the MX.
RETRY_AFTER_SECONDS = 5

# Twisted does not know every phrase (422).
_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

REALM = 'Bearer realm="MXFlex"'

# The only place where exceptions become statuses. A class stands for its subclasses too, unless
# they have a row of their own.
STATUSES: dict[type[MXFlexError], int] = {
    BadRequest: 400,
    LocalProtocolError: 400,
    Unauthorized: 401,
    Forbidden: 403,
    LoginRefused: 403,
    NotAcceptable: 406,
    TooLarge: 413,
    UnsupportedType: 415,
    CommandRefused: 422,
    TooManyRequests: 429,
    MXError: 502,
    MXUnavailable: 503,
    ServiceUnavailable: 503,
    MXTimeout: 504,
}


def status_of(error: MXFlexError) -> int | None:
    """Give the HTTP status of an error; None for one that should never reach the web."""
    return next((STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES), None)


@attrs.define(eq=False, slots=False)
class Body:
    """A text that may be sent many times, and is compressed once.

    Args:
        plain: The text.
        type: Its media type.
    """

    plain: bytes
    type: bytes = JSON_TYPE

    @cached_property
    def gzipped(self) -> bytes:
        """The same, compressed."""
        return gzip.compress(self.plain, compresslevel=5, mtime=0)

    @cached_property
    def etag(self) -> str:
        """An entity tag that says what the body says (RFC 9110, 8.8.3)."""
        return blake2b(self.plain, digest_size=16).hexdigest()


def send_json(request: Request, data: Any, status: int = 200) -> bytes:
    """Give the body of a JSON answer, after setting status and headers."""
    # Answers speak of people and calls; nobody on the way should keep them.
    request.setHeader(b"cache-control", b"no-store")
    return send_body(request, Body(orjson.dumps(data)), status)


def send_body(request: Request, body: Body, status: int = 200) -> bytes:
    """Give the bytes of an answer, compressed if it is worth it and the client takes it."""
    request.setResponseCode(status, _PHRASES[status])
    request.setHeader(b"content-type", body.type)
    data = body.plain
    if tell_variants(request, body) and accepts_gzip(request):
        request.setHeader(b"content-encoding", b"gzip")
        data = body.gzipped
    request.setHeader(b"content-length", b"%d" % len(data))
    return data


def send_tagged(request: Request, body: Body, cache_control: bytes) -> bytes:
    """Give the bytes of an answer with an `ETag`; none, with 304, for a client that has it already.

    Args:
        request: The request.
        body: The answer.
        cache_control: Who may keep it.
    """
    # Weak, since the compressed text has the same tag.
    request.setHeader("etag", f'W/"{body.etag}"')
    request.setHeader(b"cache-control", cache_control)
    if is_known(request, body.etag):
        # What a full answer would say (RFC 9110, 15.4.5).
        tell_variants(request, body)
        request.setResponseCode(304)
        return b""
    return send_body(request, body)


def tell_variants(request: Request, body: Body) -> bool:
    """Tell caches that the answer has two forms (RFC 9110, 12.5.5), if it is so large."""
    large = len(body.plain) > GZIP_FROM
    if large:
        request.responseHeaders.addRawHeader(b"vary", b"Accept-Encoding")
    return large


def accepts_gzip(request: Request) -> bool:
    """Tell whether the client takes gzip (RFC 9110, 12.5.3)."""
    header = read_list(request, "accept-encoding")
    return header is not None and _names_gzip(header)


# The programs that ask are few, and each says the same each time.
@lru_cache(64)
def _names_gzip(accepted: str) -> bool:
    return parse_accept_header(accepted, Accept)["gzip"] > 0


def send_nothing(request: Request) -> None:
    """Answer 204."""
    request.setHeader(b"cache-control", b"no-store")
    request.setResponseCode(204)


def is_known(request: Request, etag: str) -> bool:
    """Tell whether the client has this version already (RFC 9110, 13.1.2)."""
    tags = read_list(request, "if-none-match")
    return tags is not None and parse_etags(tags).contains_weak(etag)


def send_error(request: Request, status: int, text: str) -> bytes:
    """Give the body of an error."""
    return send_json(request, error_body(status, text, _name_of(request)), status)


def error_body(status: int, text: str, request_id: str) -> dict[str, int | str]:
    """Give what an error says."""
    return {"code": status, "error": text, "request_id": request_id}


def _name_of(request: Request) -> str:
    return str(getattr(request, "request_id", ""))


def has_left(request: Request) -> bool:
    """Tell whether the client has gone before it had its whole answer."""
    return bool(getattr(request, "_disconnected", False))


def send_failure(request: Request, failure: Failure) -> bytes | None:
    """Turn whatever a route raised into an answer; the one place where that happens."""
    if failure.check(CancelledError) or has_left(request):
        return None
    if request.startedWriting:
        log.failure("an answer that had begun failed", failure, request_id=_name_of(request))
        request.channel.forceAbortClient()
        return None
    error = failure.value
    if isinstance(error, HTTPException):
        return _send_routing_error(request, error)
    if isinstance(error, MXFlexError) and (status := status_of(error)) is not None:
        _set_error_headers(request, error)
        return send_error(request, status, str(error))
    log.failure("a request failed by a bug", failure, request_id=_name_of(request))
    return send_error(request, 500, "internal server error")


def _set_error_headers(request: Request, error: MXFlexError) -> None:
    if isinstance(error, Unauthorized):
        reason = ', error="invalid_token"' if isinstance(error, InvalidToken) else ""
        request.setHeader(b"www-authenticate", (REALM + reason).encode("ascii"))
    if isinstance(error, (TooManyRequests, ServiceUnavailable)):
        request.setHeader(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after)))
    elif isinstance(error, MXUnavailable):
        request.setHeader(b"retry-after", b"%d" % RETRY_AFTER_SECONDS)


def _send_routing_error(request: Request, error: HTTPException) -> bytes:
    if isinstance(error, MethodNotAllowed):
        return send_method_not_allowed(request, error.valid_methods or ())
    if isinstance(error, NotFound):
        return send_error(request, 404, "not found")
    return send_error(request, error.code or 500, "bad request")


def send_method_not_allowed(request: Request, methods: Iterable[str]) -> bytes:
    """Answer 405 with the methods that are allowed (RFC 9110, 15.5.6)."""
    allowed = ", ".join(sorted(set(methods) - {"OPTIONS"}))
    request.setHeader(b"allow", allowed.encode("ascii"))
    return send_error(request, 405, f"method not allowed, expected {allowed}")
