"""The JSON of the address book, of its changes, of the calls, and of the webhooks.

Source: docs/api.md, "Contacts", "Contact events", "Calls" and "Webhooks".
"""

from __future__ import annotations

from typing import Any

import orjson
from twisted.web.http import Request

from mxflex.gateway.calls import Call
from mxflex.gateway.contacts import Contacts
from mxflex.web.eventjson import timestamp
from mxflex.web.render import Body, send_tagged
from mxflex.webhooks.dispatch import HookStatus
from mxflex.wire.messages import AddressBookEntry


def encode_contact(entry: AddressBookEntry) -> dict[str, str]:
    """Give a person as the contract shows one: what is empty or 0 is left out, but for four."""
    optional = {
        "status": entry.presence,
        "note": entry.note,
    }
    details = {
        "homePhone": entry.home_phone,
        "cellPhone": entry.cell_phone,
        "email": entry.email,
        "homeSystem": str(entry.home_system) if entry.home_system else "",
        "did": entry.did,
        "exchangeId": entry.exchange_id,
    }
    return {
        # Over 2**53: as a number it would lose digits in JavaScript.
        "jid": str(entry.jid),
        **{key: value for key, value in optional.items() if value},
        "firstName": entry.first_name,
        "lastName": entry.last_name,
        "ext": entry.ext,
        **{key: value for key, value in details.items() if value},
    }


def encode_contact_event(
    known: AddressBookEntry | None, entry: AddressBookEntry | None
) -> tuple[str, bytes] | None:
    """Give an event's name and its content, one line of JSON; None where clients see no change.

    Args:
        known: The person as clients could see one before; None for one who has come.
        entry: The person as clients can see one now; None for one who has gone.
    """
    before, after = (None if each is None else encode_contact(each) for each in (known, entry))
    if before == after:
        return None
    action = "added" if before is None else "removed" if after is None else "changed"
    return "ContactEvent", orjson.dumps({"action": action, "contact": after or before})


class ContactList:
    """Answers with the address book; the text is made once for each state of the book."""

    def __init__(self, contacts: Contacts) -> None:
        self._contacts = contacts
        self._version = -1
        self._body = Body(b"")

    def render(self, request: Request) -> bytes:
        """Answer 200 with the list, or 304 when the client has it already.

        Raises:
            MXUnavailable: The address book has never been read.
        """
        if self._version != self._contacts.version:
            self._body = _encode_contacts(self._contacts.all())
            self._version = self._contacts.version
        return _send_contacts(request, self._body)


def send_contacts(request: Request, entries: list[AddressBookEntry]) -> bytes:
    """Answer 200 with some people, or 304 when the client has just them already."""
    return _send_contacts(request, _encode_contacts(entries))


def _encode_contacts(entries: list[AddressBookEntry]) -> Body:
    return Body(orjson.dumps({"contacts": [encode_contact(entry) for entry in entries]}))


def _send_contacts(request: Request, body: Body) -> bytes:
    # May be kept by whoever asked, but must be asked for again: the tag is for that.
    return send_tagged(request, body, b"private, no-cache")


def encode_calls(calls: list[Call]) -> dict[str, Any]:
    """Give the calls of one extension; what is not known is left out."""
    return {"calls": [_encode_call(call) for call in calls]}


def _encode_call(call: Call) -> dict[str, Any]:
    data = {
        "callId": call.call_id,
        "deviceId": call.device_id,
        "globalCallId": call.global_call_id,
        "state": call.state,
        "direction": call.direction,
        "callingDevice": call.calling_device,
        "callingDisplayName": call.calling_display_name,
        "calledDevice": call.called_device,
        "answeringDevice": call.answering_device,
        "answeringDisplayName": call.answering_display_name,
        "recording": call.recording,
        "startedAt": timestamp(call.started_at),
        "answeredAt": None if call.answered_at is None else timestamp(call.answered_at),
        "since": timestamp(call.since),
    }
    return {key: value for key, value in data.items() if value or key in ("callId", "deviceId")}


def encode_webhooks(hooks: list[HookStatus]) -> dict[str, Any]:
    """Give how the webhooks stand; what is empty is left out where docs/api.md says so."""
    return {"webhooks": [_encode_webhook(hook) for hook in hooks]}


def _encode_webhook(hook: HookStatus) -> dict[str, Any]:
    trouble = {
        "since": None if hook.since is None else timestamp(hook.since),
        "error": hook.error,
    }
    return {
        "name": hook.name,
        "url": hook.url,
        "state": hook.state,
        **{key: value for key, value in trouble.items() if value},
        "queued": hook.queued,
        "underWay": hook.under_way,
        "delivered": hook.delivered,
        "failed": hook.failed,
        "dropped": hook.dropped,
        "dead": hook.dead,
        "deadLetters": [
            {
                "id": letter.id,
                "type": letter.type,
                "timestamp": timestamp(letter.at),
                "attempts": letter.attempts,
                "error": letter.error,
                "diedAt": timestamp(letter.died),
            }
            for letter in hook.letters
        ],
    }
