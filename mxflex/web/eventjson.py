"""The JSON form of events: names, keys, their order, and what is left out when empty.

The first five are the owner's own, byte for byte. Source: docs/api.md, "Events".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import attrs
import orjson

from mxflex.wire.codec import CallAttachedData
from mxflex.wire.messages import (
    CallEvent,
    ConnectionClearedEvent,
    DeliveredEvent,
    DivertedEvent,
    EstablishedEvent,
    FailedEvent,
    HeldEvent,
    NetworkReachedEvent,
    OriginatedEvent,
    ParkedEvent,
    RecordingStateEvent,
    RetrievedEvent,
    ServiceInitiatedEvent,
    TransferredEvent,
)


@attrs.frozen
class _Key:
    """A JSON key: its name, where its value comes from, whether it goes when that is empty."""

    name: str
    read: Callable[[Any], Any]
    optional: bool = False


def _field(name: str, path: str, *, optional: bool = False) -> _Key:
    return _Key(name, attrgetter(path), optional)


def _cad(cad: CallAttachedData) -> dict[str, str]:
    data = {"name": cad.name, "type": cad.type}
    if cad.value:
        data["value"] = cad.value
    return data


_CALL_ID = _field("callId", "connection.call_id")
_DEVICE_ID = _field("deviceId", "connection.device_id")
_GLOBAL_CALL_ID = _field("globalCallId", "connection.global_call_id")
_CALLING = _field("callingDevice", "calling_device")
_CALLED = _field("calledDevice", "called_device")
_REDIRECTION = _field("lastRedirectionDevice", "last_redirection_device", optional=True)
_LOCAL = _field("localConnectionInfo", "local_connection_info")
_CAUSE = _field("cause", "cause")
_FLAGS = _field("callTypeFlags", "call_type_flags", optional=True)
_ALLOWED = _field("cmdsAllowed", "cmds_allowed", optional=True)
_CADS = _field("cads", "cads", optional=True)

EVENT_KEYS: dict[type[CallEvent], tuple[_Key, ...]] = {
    OriginatedEvent: (_CALL_ID, _DEVICE_ID, _CALLING, _CALLED, _CAUSE, _FLAGS, _ALLOWED),
    DivertedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("divertingDevice", "diverting_device"),
        _field("newDestination", "new_destination"),
        _REDIRECTION,
        _CAUSE,
        _FLAGS,
        _ALLOWED,
    ),
    DeliveredEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _GLOBAL_CALL_ID,
        _field("alertingDevice", "alerting_device"),
        _CALLING,
        _CALLED,
        _REDIRECTION,
        _LOCAL,
        _CAUSE,
        _FLAGS,
        _ALLOWED,
        _CADS,
    ),
    EstablishedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _GLOBAL_CALL_ID,
        _field("answeringDevice", "answering_device"),
        _field("answeringDisplayName", "answering_display_name"),
        _CALLING,
        _CALLED,
        _REDIRECTION,
        _field("callingDisplayName", "calling_display_name"),
        _CAUSE,
        _FLAGS,
        _ALLOWED,
        _CADS,
    ),
    ConnectionClearedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("releasingDevice", "releasing_device"),
        _CAUSE,
    ),
    ServiceInitiatedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("initiatingDevice", "initiating_device"),
        _LOCAL,
        _CAUSE,
    ),
    NetworkReachedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("networkInterfaceUsed", "network_interface_used"),
        _CALLING,
        _CALLED,
        _LOCAL,
        _CAUSE,
    ),
    FailedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("failingDevice", "failing_device", optional=True),
        _CALLING,
        _CALLED,
        _LOCAL,
        _CAUSE,
    ),
    HeldEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("holdingDevice", "holding_device"),
        _LOCAL,
        _CAUSE,
        _FLAGS,
        _ALLOWED,
    ),
    RetrievedEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("retrievingDevice", "retrieving_device"),
        _LOCAL,
        _CAUSE,
        _FLAGS,
        _ALLOWED,
    ),
    TransferredEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("transferringDevice", "transferring_device"),
        _field("transferredToDevice", "transferred_to_device"),
        _LOCAL,
        _CAUSE,
    ),
    RecordingStateEvent: (
        _CALL_ID,
        _DEVICE_ID,
        _field("available", "available"),
        _field("active", "active"),
    ),
}


def encode_call_event(ext: str, event: CallEvent) -> tuple[str, bytes] | None:
    """Give an event's name and its content, one line of JSON; None for one clients do not get.

    Args:
        ext: The monitored extension.
        event: What the MX said.
    """
    name = type(event).__name__
    if isinstance(event, ParkedEvent):
        # The MX names the place alone; whose telephone it was is known by the monitor.
        return name, orjson.dumps({"deviceId": ext, "parkId": event.park_id or 0})
    keys = EVENT_KEYS.get(type(event))
    if keys is None:
        return None
    data = {}
    for key in keys:
        value = key.read(event)
        if value or not key.optional:
            data[key.name] = value
    return name, orjson.dumps(data, default=_cad)


def encode_gap(reason: str, since: float | None, dropped: int = 0) -> bytes:
    """Give the content of a `gap` event.

    Args:
        reason: `unknown-id`, `expired` or `mx-down`; see docs/webhooks.md for those of webhooks.
        since: From when on events are missing, in seconds since the epoch; None when unknown.
        dropped: How many are, where that is known.
    """
    data: dict[str, Any] = {"reason": reason}
    if since is not None:
        data["since"] = timestamp(since)
    if dropped:
        data["dropped"] = dropped
    return orjson.dumps(data)


def encode_webhook(name: str, at: float, data: bytes) -> bytes:
    """Give the body that is posted to a webhook (Standard Webhooks 1.0.0, "Payload structure").

    Args:
        name: The event's name.
        at: When it happened, in seconds since the epoch.
        data: Its content, one line of JSON.
    """
    return b'{"type":"%s","timestamp":"%s","data":%s}' % (
        name.encode("ascii"),
        timestamp(at).encode("ascii"),
        data,
    )


def encode_webhook_gap(reason: str, at: float, since: float, dropped: int) -> bytes:
    """Give the body that tells a webhook of events that it does not get; see `encode_gap`."""
    return encode_webhook("gap", at, encode_gap(reason, since, dropped))


def encode_status(up: bool) -> bytes:
    """Give the content of a `status` event: whether the MX is there."""
    return orjson.dumps({"mx": "up" if up else "down"})


def timestamp(seconds: float) -> str:
    """Write a time as RFC 3339 does, in UTC with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
