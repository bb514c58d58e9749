"""The OpenAPI document as a measure: what may stand where, by the word of the document alone."""

from __future__ import annotations

import copy
import json

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ADDRESS = "mxflex:openapi"
FORMATS = Draft202012Validator.FORMAT_CHECKER
JSON = "application/json"
# Statuses that have nothing to do with the operation: a header is too long.
ANYWHERE = {431}


class Measure:
    """Validates against the schemas of a document.

    Args:
        document: The document.
        closed: Whether keys that a schema does not name are wrong, too.
    """

    def __init__(self, document, *, closed=False):
        self.document = copy.deepcopy(document)
        if closed:
            for schema in objects_in(self.document["components"]["schemas"]):
                schema["additionalProperties"] = False
        resource = Resource(self.document, DRAFT202012)
        self._registry = Registry().with_resource(ADDRESS, resource).crawl()
        self._validators = {}

    def resolve(self, part):
        """Give a part of the document, or what it refers to."""
        while "$ref" in part:
            found = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part

    def problems(self, schema, value):
        """Give what is wrong with a value, as texts."""
        # A reference in it means the document.
        text = json.dumps(schema).replace('"#/', f'"{ADDRESS}#/')
        validator = self._validators.get(text)
        if validator is None:
            validator = self._validators[text] = Draft202012Validator(
                json.loads(text), registry=self._registry, format_checker=FORMATS
            )
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    def check_answer(self, method, path, status, header, body):
        """Hold an answer to its operation, if the document has it.

        Args:
            method: The method.
            path: The path, and whatever follows a question mark.
            status: The status, a number.
            header: A function that gives a header by its name, or None.
            body: The bytes; None where they are not known.
        """
        path = path.partition("?")[0]
        operation = self.document["paths"].get(path, {}).get(method.lower())
        if operation is None or status in ANYWHERE:
            return
        where = f"{method} {path} {status}"
        assert str(status) in operation["responses"], f"{where} is not described"
        response = self.resolve(operation["responses"][str(status)])
        for name, described in response.get("headers", {}).items():
            self._check_header(f"{where} {name}", self.resolve(described), header(name))
        content = response.get("content")
        if content is None:
            assert not body, (where, body)
            return
        media_type = header("content-type").partition(";")[0]
        assert media_type in content, f"{where}: {media_type} is not described"
        if media_type == JSON and body is not None:
            problems = self.problems(content[media_type]["schema"], json.loads(body))
            assert not problems, (where, problems)

    def _check_header(self, where, described, text):
        if text is None:
            assert not described.get("required"), f"{where} is missing"
            return
        schema = self.resolve(described["schema"])
        value = int(text) if schema["type"] == "integer" else text
        assert not self.problems(schema, value), (where, text)

    def check_event(self, name, data):
        """Hold an event of the stream, whose data are text, to the schema of its name."""
        stream_event = {"$ref": "#/components/schemas/StreamEvent"}
        problems = self.problems(stream_event, {"event": name, "data": data, "id": "1"})
        assert not problems, (name, problems)
        problems = self.problems({"$ref": f"#/components/schemas/{name}"}, json.loads(data))
        assert not problems, (name, data, problems)


def objects_in(part):
    """Give each schema below a part of the document that names keys of an object."""
    if isinstance(part, dict):
        if part.get("type") == "object" and "properties" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from objects_in(each)
