"""The OpenAPI document: the file openapi.yaml, completed with what the code knows itself.

Source: OpenAPI Specification 3.1.1; JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, cast

import attrs
import orjson
import yaml

from mxflex import __version__
from mxflex.gateway.calls import CONNECTION_STATES, INCOMING, OUTGOING
from mxflex.gateway.history import Missing
from mxflex.gateway.hub import Topic
from mxflex.gateway.relay import MX_DOWN
from mxflex.web.docs import FILES
from mxflex.web.eventjson import EVENT_KEYS
from mxflex.web.fields import FORM, JSON, MAX_TEXT
from mxflex.web.render import JSON_TYPE, Body
from mxflex.webhooks import queue

# RFC 9512.
YAML_TYPE = b"application/yaml; charset=utf-8"
# The security scheme that goes where no token may stand in a URL.
URL_SCHEME = "tokenInUrl"

# Several times faster than their equals in Python, where PyYAML was built with them.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_SCHEMAS: dict[str, dict[str, Any]] = {
    "Text": {"maxLength": MAX_TEXT},
    "FilledText": {"maxLength": MAX_TEXT},
    "OptionalText": {"maxLength": MAX_TEXT},
    "Secret": {"maxLength": MAX_TEXT},
    "Topic": {"enum": [str(topic) for topic in Topic]},
    "ConnectionState": {"enum": sorted(CONNECTION_STATES)},
    "Direction": {"enum": [INCOMING, OUTGOING]},
    "PageFile": {"enum": [*FILES]},
    "GapReason": {"enum": [*(missing.value for missing in Missing), MX_DOWN]},
    "WebhookGapReason": {
        "enum": [MX_DOWN, queue.RESTART, queue.FULL, queue.LOST, queue.DISABLED, queue.REMOVED]
    },
}
# Events that are not written by the table of call events.
_OTHER_EVENTS = ("ParkedEvent", "ContactEvent", "status", "gap")
_EVENTS = (*(event.__name__ for event in EVENT_KEYS), *_OTHER_EVENTS)


@attrs.frozen
class Document:
    """The document in its two forms."""

    json: Body
    yaml: Body


@cache
def document(*, token_in_url: bool) -> Document:
    """Give the document as it is served.

    Args:
        token_in_url: Whether a token may stand in the URL.
    """
    described = describe(token_in_url=token_in_url)
    text = yaml.dump(
        described, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, encoding="utf-8"
    )
    return Document(Body(orjson.dumps(described), JSON_TYPE), Body(text, YAML_TYPE))


def describe(*, token_in_url: bool) -> dict[str, Any]:
    """Give the document as data; see `document`."""
    text = files("mxflex.web").joinpath("openapi.yaml").read_bytes()
    source: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - either of them is safe
    described = {key: value for key, value in source.items() if not key.startswith("x-")}
    described["info"] = {**described["info"], "version": __version__}
    components = described["components"]
    schemas = components["schemas"]
    for name, known in _SCHEMAS.items():
        schemas[name] = {**schemas[name], **known}
    schemas |= _call_events(source["x-call-events"], source["x-event-keys"])
    schemas["StreamEvent"] = _stream_event()
    schemas["WebhookMessage"] = _webhook_message()
    _name_requests(described)
    for body in _bodies(described):
        _add_form(body["content"], schemas)
    if not token_in_url:
        del components["securitySchemes"][URL_SCHEME]
        for secured in (described, *_operations(described)):
            if "security" in secured:
                secured["security"] = [way for way in secured["security"] if URL_SCHEME not in way]
    return described


def _name_requests(described: dict[str, Any]) -> None:
    """Give each answer the header that names its request, and examples of errors the name."""
    name = described["components"]["headers"]["X-Request-ID"]["example"]
    for response in _responses(described):
        header = {"$ref": "#/components/headers/X-Request-ID"}
        response["headers"] = {**response.get("headers", {}), "X-Request-ID": header}
        content = response.get("content", {}).get(JSON, {})
        if content.get("schema") == {"$ref": "#/components/schemas/Error"}:
            values = [each["value"] for each in content.get("examples", {}).values()]
            for error in filter(None, (content.get("example"), *values)):
                error["request_id"] = name


def _call_events(meanings: dict[str, str], known: dict[str, Any]) -> dict[str, Any]:
    """Give the schemas of the call events, by name."""
    return {
        event.__name__: {
            "description": f"{meanings[event.__name__]} Topic `{Topic.CALLS}`.",
            "type": "object",
            "required": [key.name for key in keys if not key.optional],
            "properties": {key.name: known[key.name] for key in keys},
            "examples": [{key.name: known[key.name]["examples"][0] for key in keys}],
        }
        for event, keys in EVENT_KEYS.items()
    }


def _stream_event() -> dict[str, Any]:
    """Give the schema of an event as a reader of the stream sees it: any of them."""
    return {
        "description": "An event of the stream: its name, its content, which is JSON, and its id.",
        "oneOf": [
            {
                # A name of its own: generators make a class of it, beside that of the content.
                "title": f"{name}Message",
                "type": "object",
                "required": ["event", "data"],
                "properties": {
                    "event": {"type": "string", "const": name},
                    "data": {
                        "description": f"JSON, one line; what it says is `{name}`.",
                        "type": "string",
                        "contentMediaType": JSON,
                        "contentSchema": {"$ref": f"#/components/schemas/{name}"},
                    },
                    "id": {"type": "string", "pattern": "^[0-9]+$"},
                },
            }
            for name in _EVENTS
        ],
    }


def _webhook_message() -> dict[str, Any]:
    """Give the schema of the body that is posted to a webhook: any of the events."""
    return {
        "description": "An event: its name, when it happened, and its content.",
        "oneOf": [
            {
                "title": f"{name}Post",
                "type": "object",
                "required": ["type", "timestamp", "data"],
                "properties": {
                    "type": {"type": "string", "const": name},
                    "timestamp": {"$ref": "#/components/schemas/Time"},
                    # A gap of a webhook has other reasons.
                    "data": {
                        "$ref": f"#/components/schemas/{'WebhookGap' if name == 'gap' else name}"
                    },
                },
            }
            for name in _EVENTS
        ],
    }


def _add_form(content: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Let a body that may be a JSON object be a form with the same fields."""
    name = content[JSON]["schema"]["$ref"].rpartition("/")[2]
    form = name.replace("Fields", "Form")
    # What else stands in a form is text, and given once.
    schemas[form] = {**schemas[name], "additionalProperties": {"type": "string"}}
    content[FORM] = {**content[JSON], "schema": {"$ref": f"#/components/schemas/{form}"}}


def _operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in described["paths"].values():
        yield from path.values()


def _responses(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the answers that are described in place."""
    yield from described["components"]["responses"].values()
    for operation in _operations(described):
        yield from (each for each in operation["responses"].values() if "$ref" not in each)


def _bodies(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the request bodies that are described in place."""
    yield from described["components"]["requestBodies"].values()
    for operation in _operations(described):
        body = operation.get("requestBody", {})
        if "content" in body:
            yield body


class _Dumper(_BaseDumper):  # type: ignore[misc]
    """Writes everything in full, and texts of several lines as such."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return cast(
        "yaml.ScalarNode", dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
    )


_Dumper.add_representer(str, _text)
