"""The OpenAPI document: sound, complete, and of one mind with the code and with docs/api.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from mxflex import __version__
from mxflex.web.app import Api
from mxflex.web.eventjson import EVENT_KEYS
from mxflex.web.openapi import describe, document
from mxflex.web.render import STATUSES
from tests.openapi import JSON, Measure

ROOT = Path(__file__).parents[2]
DOCUMENT = describe(token_in_url=True)
MEASURE = Measure(DOCUMENT)
SCHEMAS = DOCUMENT["components"]["schemas"]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FORM = "application/x-www-form-urlencoded"
# Whose answers are any text of their type.
FREE = {"/api/openapi.json", "/api/openapi.yaml", "/api/docs", "/api/docs/{name}"}
# What docs/api.md says of other things than the API.
FOR_FILES = {416}


def operations():
    """Give (method, path, operation)."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


OPERATIONS = [pytest.param(*each, id=f"{each[0]} {each[1]}") for each in operations()]


def section(heading):
    """Give the text of docs/api.md below a heading, up to the next one."""
    _, found, rest = API.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text):
    """Give the cells of each row of the tables in a text, but for their heads."""
    found = []
    for line in text.splitlines():
        if re.fullmatch(r"\|[-|]+\|", line):
            # What stood above is the head.
            found.pop()
        elif line.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def examples_of(part):
    """Give the examples of a media type, a parameter, or a header."""
    if "example" in part:
        yield part["example"]
    for example in part.get("examples", {}).values():
        yield example["value"]


# --- The document itself --------------------------------------------------------------------------


@pytest.mark.parametrize("token_in_url", [True, False])
def test_the_document_is_openapi_3_1(token_in_url):
    """The document is sound OpenAPI, whatever the configuration."""
    described = describe(token_in_url=token_in_url)
    OpenAPIV31SpecValidator(described).validate()
    assert described["openapi"].startswith("3.1.")
    assert described["info"]["version"] == __version__


def test_both_forms_say_the_same():
    """JSON and YAML are the same document."""
    served = document(token_in_url=True)
    assert json.loads(served.json.plain) == DOCUMENT
    assert yaml.safe_load(served.yaml.plain) == DOCUMENT


def test_a_token_in_the_url_is_offered_where_it_counts():
    """With `token.in_url` off no operation takes a token in the URL; all else is the same."""
    offered = json.dumps(DOCUMENT)
    assert "tokenInUrl" in offered
    without = describe(token_in_url=False)
    assert "tokenInUrl" not in json.dumps(without)
    assert without["paths"].keys() == DOCUMENT["paths"].keys()
    assert without["security"] == [{"bearer": []}]
    events = without["paths"]["/api/events"]["get"]
    assert events["security"] == [{"bearer": []}, {"ticket": []}]


def test_every_reference_leads_somewhere():
    """Each `$ref`, and each link to a part of the document, names what there is."""
    text = json.dumps(DOCUMENT)
    references = re.findall(r'"\$ref": "(#/[^"]+)"', text) + re.findall(r"\]\((#/[^)]+)\)", text)
    assert references
    for reference in references:
        assert MEASURE.resolve({"$ref": reference})


def test_every_component_is_used():
    """Nothing is described that nothing refers to."""
    text = json.dumps(DOCUMENT)
    for kind, components in DOCUMENT["components"].items():
        for name in components if kind != "securitySchemes" else ():
            assert f"#/components/{kind}/{name}" in text, (kind, name)
    used = {
        scheme for _, _, each in operations() for way in each.get("security", []) for scheme in way
    }
    used |= {scheme for way in DOCUMENT["security"] for scheme in way}
    assert used == DOCUMENT["components"]["securitySchemes"].keys()


# --- Examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_examples_are_what_the_schemas_say(method, path, operation):
    """Every parameter, body and answer with JSON has examples, and each fits its schema."""
    described = [
        (each["name"], each) for each in map(MEASURE.resolve, operation.get("parameters", []))
    ]
    described += MEASURE.resolve(operation.get("requestBody", {})).get("content", {}).items()
    for status, referred in operation["responses"].items():
        response = MEASURE.resolve(referred)
        headers = {
            name: MEASURE.resolve(each) for name, each in response.get("headers", {}).items()
        }
        described += (
            (name, each) for name, each in headers.items() if "const" not in each["schema"]
        )
        if path not in FREE or int(status) >= 400:
            described += response.get("content", {}).items()
        for content in response.get("content", {}).values() if int(status) >= 400 else ():
            assert {example["code"] for example in examples_of(content)} == {int(status)}
    for name, part in described:
        examples = list(examples_of(part))
        assert examples, (method, path, name)
        for example in examples:
            assert not MEASURE.problems(part["schema"], example), (method, path, name)


@pytest.mark.parametrize("name", SCHEMAS)
def test_examples_in_schemas_fit(name):
    """What a schema, or a key of it, gives as an example fits it."""

    def check(schema):
        for example in schema.get("examples", []):
            assert not MEASURE.problems(schema, example), (name, example)
        for inner in schema.get("properties", {}).values():
            check(inner)

    check(SCHEMAS[name])


def test_generated_names_are_different():
    """No schema within another has the name of a third: generators make one class of each name."""
    kinds = [*SCHEMAS["StreamEvent"]["oneOf"], *SCHEMAS["WebhookMessage"]["oneOf"]]
    titles = [each["title"] for each in kinds]
    assert len(set(titles)) == len(titles)
    assert {*titles}.isdisjoint(SCHEMAS)


def test_every_event_has_an_example():
    """The content of each event has an example, and so has the stream; they fit."""
    for described in SCHEMAS["StreamEvent"]["oneOf"]:
        name = described["properties"]["event"]["const"]
        (example,) = SCHEMAS[name]["examples"]
        MEASURE.check_event(name, json.dumps(example))
    stream = DOCUMENT["paths"]["/api/events"]["get"]["responses"]["200"]["content"]
    example = stream["text/event-stream"]["example"]
    MEASURE.check_event(example["event"], example["data"])


def test_the_webhook_is_described():
    """What is posted has a schema for each event of the streams, and an example of each part."""
    posted = [each["properties"]["type"]["const"] for each in SCHEMAS["WebhookMessage"]["oneOf"]]
    streamed = [each["properties"]["event"]["const"] for each in SCHEMAS["StreamEvent"]["oneOf"]]
    assert posted == streamed
    operation = DOCUMENT["webhooks"]["event"]["post"]
    parts = [*operation["parameters"], operation["requestBody"]["content"][JSON]]
    for part in parts:
        assert not MEASURE.problems(part["schema"], part["example"])


# --- Code and document ----------------------------------------------------------------------------


def test_every_route_is_described():
    """Paths and methods of code and document are the same; HEAD is wherever GET is, but once."""
    routes = {}
    for rule in Api.app.url_map.iter_rules():
        path = re.sub(r"<(\w+)>", r"{\1}", f"/api{rule.rule}")
        routes.setdefault(path, set()).update(rule.methods - {"OPTIONS"})
    described = {
        path: {method.upper() for method in item} for path, item in DOCUMENT["paths"].items()
    }
    for path, methods in described.items():
        if "GET" in methods and path != "/api/events":
            methods.add("HEAD")
    assert described == routes


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_bodies_are_forms_and_json(method, path, operation):
    """A body is a form or JSON, with the same fields; if a token is wanted, it may be there."""
    if method != "POST":
        assert "requestBody" not in operation
        return
    content = MEASURE.resolve(operation["requestBody"])["content"]
    assert list(content) == [JSON, FORM]
    fields, form = (MEASURE.resolve(content[each]["schema"]) for each in (JSON, FORM))
    assert form == fields | {"additionalProperties": {"type": "string"}}
    assert ("access_token" in fields["properties"]) == (operation.get("security") != [])


def test_every_status_of_an_error_is_described():
    """Each status that the code has for an error stands at an operation."""
    described = {int(status) for _, _, each in operations() for status in each["responses"]}
    assert set(STATUSES.values()) <= described


def test_events_are_described_as_they_are_written():
    """A call event has the keys of the table that writes it, in their order."""
    for event, keys in EVENT_KEYS.items():
        schema = SCHEMAS[event.__name__]
        assert list(schema["properties"]) == [key.name for key in keys]
        assert schema["required"] == [key.name for key in keys if not key.optional]


# --- docs/api.md and document ---------------------------------------------------------------------


def test_the_page_and_the_document_have_the_same_paths():
    """docs/api.md names each path of the document, and no other."""
    named = {path.rstrip(".") for path in re.findall(r"/api/[a-z./{}]+", API)}
    assert named == set(DOCUMENT["paths"])


def test_the_page_and_the_document_have_the_same_errors():
    """The table of errors in docs/api.md and the document have the same statuses."""
    table = rows(section("### Answers and errors"))
    told = {int(status) for row in table for status in row[0].split(", ")}
    described = {int(status) for _, _, each in operations() for status in each["responses"]}
    # Those of no operation.
    for name in ("NotFound", "MethodNotAllowed"):
        described |= {
            each["code"]
            for each in examples_of(DOCUMENT["components"]["responses"][name]["content"][JSON])
        }
    assert told - FOR_FILES == {status for status in described if status >= 400}


def test_the_page_and_the_document_have_the_same_call_events():
    """The table of call events in docs/api.md has the keys of the document."""
    table = {name.strip("`"): keys.split(", ") for name, keys in rows(section("### Call events"))}
    for name, keys in table.items():
        schema = SCHEMAS[name]
        assert [key.rstrip("?") for key in keys] == list(schema["properties"])
        assert [key for key in keys if not key.endswith("?")] == schema["required"]
    names = {each["properties"]["event"]["const"] for each in SCHEMAS["StreamEvent"]["oneOf"]}
    assert names == table.keys() | {"ContactEvent", "status", "gap"}


def test_the_page_and_the_document_have_the_same_topics_and_gaps():
    """Topics, and reasons of a gap, are the same in docs/api.md."""
    topics = [row[0].strip("`") for row in rows(section("### Topics"))]
    assert topics == SCHEMAS["Topic"]["enum"]
    events = rows(section("## Events"))
    reasons = [row[0].strip("`") for row in events if row[0].startswith("`")]
    assert reasons == SCHEMAS["GapReason"]["enum"]


def test_the_page_and_the_document_have_the_same_contacts():
    """The keys of a contact in docs/api.md are those of the document."""
    (line,) = re.findall(r"Keys in order: (.*?);", section("## Contacts"), re.DOTALL)
    keys = [key.replace("`", "") for key in line.replace("\n", " ").split(", ")]
    contact = SCHEMAS["Contact"]
    assert [key.rstrip("?") for key in keys] == list(contact["properties"])
    assert [key for key in keys if not key.endswith("?")] == contact["required"]


def test_the_page_and_the_document_have_the_same_calls():
    """The keys of a call in docs/api.md are those of the document."""
    table, _, _ = section("## Calls").partition("| event |")
    keys = [key.replace("`", "") for names, _ in rows(table) for key in names.split(", ")]
    call = SCHEMAS["Call"]
    assert {key.rstrip("?") for key in keys} == set(call["properties"])
    assert {key for key in keys if not key.endswith("?")} == set(call["required"])


def test_the_page_and_the_document_have_the_same_commands():
    """The table of call control in docs/api.md has the fields of the document."""
    table = rows(section("## Call control"))
    told = {}
    for paths, fields, _ in table:
        for path in re.findall(r"`([^`]+)`", paths):
            told[path] = re.sub(r" \([^)]*\)", "", fields).split(", ")
    described = {}
    for _, path, operation in operations():
        if path.startswith("/api/call/"):
            content = MEASURE.resolve(operation["requestBody"])["content"]
            described[path] = MEASURE.resolve(content[JSON]["schema"])["required"]
    assert told == described
