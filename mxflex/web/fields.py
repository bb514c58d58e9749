"""What a request says: the fields of its body and of its query."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import attrs
from twisted.web.http import Request
from werkzeug.http import parse_options_header

from mxflex.errors import BadRequest, InvalidToken, UnsupportedType
from mxflex.wire.xmltext import is_sendable

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
# No call has more than a handful of fields.
MAX_FIELDS = 64
# Longer than any name, number or password; short of what would not fit a frame to the MX.
MAX_TEXT = 4096
# A call id is what the MX's 64 bits hold, and has no more digits than that.
MAX_CALL_ID = 2**63 - 1
MAX_DIGITS = 19
_Parser = Callable[[bytes, str], dict[str, Any]]

METHODS_WITH_BODY = (b"POST", b"PUT", b"PATCH")


@attrs.frozen
class Fields:
    """Named values; those of a form are texts, those of JSON may be anything."""

    values: dict[str, Any] = attrs.field(repr=False)

    def text(self, name: str) -> str | None:
        """Give a field as text, or None when it is not there.

        Raises:
            BadRequest: It is not text, too long, or has characters that no MX could be sent.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadRequest(f"{name} must be text")
        if len(value) > MAX_TEXT:
            raise BadRequest(f"{name} is too long")
        if not is_sendable(value):
            raise BadRequest(f"{name} has characters that are not allowed")
        return value

    def required(self, name: str, complaint: str) -> str:
        """Give a text that must be there and not be blank, without white space around it.

        Raises:
            BadRequest: It is missing or blank; the complaint is the text.
        """
        value = (self.text(name) or "").strip()
        if not value:
            raise BadRequest(complaint)
        return value

    def secret(self, name: str, complaint: str) -> str:
        """Give a text that must be there; white space belongs to it.

        Raises:
            BadRequest: It is missing or empty; the complaint is the text.
        """
        value = self.text(name)
        if not value:
            raise BadRequest(complaint)
        return value

    def credential(self, name: str, complaint: str) -> str | None:
        """Give a token or a ticket as text, or None when it is not there.

        Raises:
            BadRequest: It is not text.
            InvalidToken: It has characters, or is of a length, that none has (RFC 6750, 3.1); the
                complaint is the text.
        """
        value = self.values.get(name)
        if isinstance(value, str) and not (len(value) <= MAX_TEXT and is_sendable(value)):
            raise InvalidToken(complaint)
        return self.text(name)

    def call_id(self, name: str, complaint: str) -> int:
        """Give a call id, which must be a number.

        Raises:
            BadRequest: It is missing or not a number; the complaint is the text of the error.
        """
        value = self.values.get(name)
        if isinstance(value, float) and value.is_integer():
            # To JSON it is the same number, and some programs write all of theirs so.
            value = int(value)
        if isinstance(value, str):
            digits = value.strip()
            plain = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
            value = int(digits) if plain else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_CALL_ID:
            return value
        raise BadRequest(complaint)


def read_list(request: Request, name: str) -> str | None:
    """Give a header that holds a list; its parts may come in several lines (RFC 9110, 5.3)."""
    lines = request.requestHeaders.getRawHeaders(name.encode("ascii"))
    return None if lines is None else b", ".join(lines).decode("latin-1")


def read_query(request: Request) -> Fields:
    """Read the fields of the URL.

    Raises:
        BadRequest: A field is given twice, or is not UTF-8.
    """
    _, _, query = request.uri.partition(b"?")
    return Fields(_parse_form(query, "the query"))


def read_body(request: Request) -> Fields:
    """Read the fields of the body; no body at all has none.

    Raises:
        BadRequest: It is malformed, not UTF-8, or a field is given twice.
        UnsupportedType: Its type is neither a form nor JSON, or its charset is not UTF-8.
    """
    assert request.content is not None
    body: bytes = request.content.read()
    request.content.seek(0)
    content_type = request.getHeader("content-type")
    if content_type is None:
        if body:
            raise UnsupportedType(f"the body must be {FORM} or {JSON}")
        return Fields({})
    parse = _parser_for(content_type)
    # Some clients name the type of a body that they do not send.
    return Fields(parse(body, "the body") if body else {})


# The programs that ask are few, and each says the same each time.
@lru_cache(64)
def _parser_for(content_type: str) -> _Parser:
    """Give what reads bodies of a type.

    Raises:
        UnsupportedType: As `read_body`.
    """
    media_type, options = parse_options_header(content_type)
    # RFC 9110, 8.3.1: the case of a media type does not matter.
    parser = _PARSERS.get(media_type.lower())
    if parser is None:
        raise UnsupportedType(f"the body must be {FORM} or {JSON}")
    if options.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedType("the body must be in UTF-8")
    return parser


def has_body(request: Request) -> bool:
    """Tell whether fields may stand in the body of this request."""
    return request.method in METHODS_WITH_BODY


def _parse_form(text: bytes, where: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            text.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except UnicodeDecodeError as error:
        raise BadRequest(f"{where} is not UTF-8") from error
    except ValueError as error:
        raise BadRequest(f"{where} has too many fields") from error
    return _unique(pairs)


def _parse_json(text: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise BadRequest(f"{where} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{where} is not valid JSON") from error
    if not isinstance(data, dict):
        raise BadRequest(f"{where} must be a JSON object")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict, and refuse a name that is given twice: which one is meant is anybody's guess.

    An attacker could mean one program on the way to read the first and this one the last.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            # The name may be anything; only a plain one is worth repeating.
            shown = name if name.isidentifier() else "a field"
            raise BadRequest(f"{shown} is given more than once")
        values[name] = value
    return values


_PARSERS: dict[str, _Parser] = {
    FORM: _parse_form,
    JSON: _parse_json,
}
