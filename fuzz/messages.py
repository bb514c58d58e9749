"""One XML text: the body of a frame.

Promise: it is `BadBody` or an element, and an element is some command, some event, and some answer
to each command. A message that was read is written as XML that reads as the same message. The JSON
of a call event is one line, and its texts are those of the event.

Input: the body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

import attrs

from mxflex.errors import BadBody
from mxflex.web.eventjson import encode_call_event
from mxflex.wire.messages import (
    COMMANDS,
    Acknowledgement,
    CallEvent,
    CSTAError,
    Message,
    UnknownCommand,
    UnknownEvent,
    read_command,
    read_event,
    read_reply,
)
from mxflex.wire.xmltext import Element, parse

READERS: list[Callable[[Element], Message]] = [
    read_command,
    read_event,
    *(partial(read_reply, cls()) for cls in COMMANDS.values()),
]

# Enough of a name's beginning (XML, 2.3); the rest of it the parser has seen.
_NAME = re.compile("[A-Za-z_]")


def check(data: bytes) -> None:
    """Read the body in each way there is, and write what it says."""
    try:
        element = parse(data)
    except BadBody:
        return
    for read in READERS:
        _check_writing(read, read(element))
    event = read_event(element)
    if isinstance(event, CallEvent):
        _check_json(event)


def _check_writing(read: Callable[[Element], Message], message: Message) -> None:
    if not _can_be_written(message):
        return
    again = read(parse(message.to_text().encode()))
    if isinstance(message, CSTAError):
        # Other forms of refusal become the usual one, and that one stays.
        message, again = again, read(parse(again.to_text().encode()))
    assert again == message


def _can_be_written(message: Message) -> bool:
    """Tell whether what the peer named is a name: behind a prefix there may stand anything."""
    if isinstance(message, Acknowledgement | UnknownCommand | UnknownEvent):
        return bool(_NAME.match(message.name))
    if isinstance(message, CSTAError):
        return not message.category or bool(_NAME.match(message.category))
    return True


def _check_json(event: CallEvent) -> None:
    encoded = encode_call_event("3095", event)
    assert encoded is not None
    _, content = encoded
    assert not re.search(rb"[\r\n]", content)
    said = {"3095", *_texts(attrs.astuple(event))}
    assert _texts(json.loads(content)) <= said


def _texts(value: object) -> set[str]:
    """Give all texts in a value made of lists, tuples and dicts."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*map(_texts, value))
    return set()
