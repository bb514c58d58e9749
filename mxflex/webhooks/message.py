"""What is posted: one message for each event, and which others it has to wait for."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import orjson

from mxflex.gateway.hub import GAP, Topic

# Of so many calls it is remembered which are one; a large company has some hundreds at a time.
MAX_REMEMBERED_CALLS = 10_000
ID_BYTES = 16


@attrs.frozen
class Occurrence:
    """An event as it came, for whom it is.

    Attributes:
        at: When, in seconds since the epoch.
        topic: What it is about; None for all.
        ext: Whose it is; None for one that belongs to no extension, or to all.
        name: Its name for clients.
        data: Its content, one line of JSON.
        hooks: The names of the webhooks that are told.
    """

    at: float
    topic: Topic | None
    ext: str | None
    name: str
    data: bytes
    hooks: tuple[str, ...]


@attrs.frozen
class Message:
    """What one webhook is sent.

    Attributes:
        hook: The name of the webhook.
        id: Stays the same however often it is sent, so that receivers know what they have had.
        type: The event's name.
        body: The bytes of the request.
        at: When it happened, in seconds since the epoch.
        key: What it is about. A message waits for those before it that have its key, or its
            group.
        group: What all parties of its call have in common; None where that is not known.
    """

    hook: str
    id: str
    type: str
    body: bytes
    at: float
    key: str
    group: str | None = None


def make_id() -> str:
    """Give a new id of a message."""
    return f"msg_{secrets.token_urlsafe(ID_BYTES)}"


class Writer:
    """Makes messages of events. It is not for several threads at once.

    Args:
        encode: Gives the body, for the event's name, its time and its content.
    """

    def __init__(self, encode: Callable[[str, float, bytes], bytes]) -> None:
        self._encode = encode
        # The MX names the global id in few events; it is that of the call from then on.
        self._global: OrderedDict[str, str] = OrderedDict()

    def write(self, event: Occurrence) -> Iterator[Message]:
        """Give a message for each webhook that is told; all of an event have one id."""
        data: dict[str, Any] = orjson.loads(event.data)
        group = None
        if event.topic is None:
            key = GAP
            if event.ext is not None:
                data["extension"] = event.ext
        elif event.topic is Topic.CALLS:
            key, group = self._key_of_call(event.ext or "", data)
        elif event.topic is Topic.CONTACTS and "contact" in data:
            key = f"contact {data['contact'].get('jid')}"
        else:
            key = event.topic.value
            if "reason" in data:
                data["topic"] = event.topic.value
        content = event.data if event.topic in (Topic.CALLS, Topic.STATUS) else orjson.dumps(data)
        body = self._encode(event.name, event.at, content)
        message_id = make_id()
        for hook in event.hooks:
            yield Message(hook, message_id, event.name, body, event.at, key, group)

    def _key_of_call(self, ext: str, data: dict[str, Any]) -> tuple[str, str | None]:
        """Give a call as the extension numbers it, and as all its parties do."""
        if "callId" not in data:
            return f"device {ext}", None
        own = f"call {ext} {data['callId']}"
        told = data.get("globalCallId")
        if told:
            self._global[own] = told
            self._global.move_to_end(own)
            if len(self._global) > MAX_REMEMBERED_CALLS:
                self._global.popitem(last=False)
        return own, self._global.get(own)
