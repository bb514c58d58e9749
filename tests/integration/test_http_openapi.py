"""The OpenAPI document as it is served, and what the daemon really says, held to it.

All other tests of the API hold each answer and event to the document, too; see
`tests.integration.daemons`.
"""

from __future__ import annotations

import json

import pytest
import pytest_twisted
import yaml

from mxflex.simulator.company import User
from mxflex.web.openapi import describe
from tests.integration.daemons import EXT, MEASURE

OUTSIDE = "12025550104"
FORMS = pytest.mark.parametrize(
    ("path", "media_type", "read"),
    [
        ("/api/openapi.json", "application/json; charset=utf-8", json.loads),
        ("/api/openapi.yaml", "application/yaml; charset=utf-8", yaml.safe_load),
    ],
)


@FORMS
@pytest_twisted.ensureDeferred
async def test_the_document_is_served(daemon, path, media_type, read):
    """The document needs no token and no MX; HEAD, gzip and 304 work as with the contacts."""
    site = "https://crm.example.com"
    running = await daemon(ready=False, cors=[site])
    reply = await running.raw("GET", path, f"Origin: {site}")
    assert (reply.status, reply.header("content-type")) == (200, media_type)
    assert reply.header("cache-control") == "no-cache"
    assert reply.header("access-control-allow-origin") == site
    assert read(reply.body) == describe(token_in_url=True)
    head = await running.raw("HEAD", path)
    assert head.status == 200
    assert head.header("content-length") == str(len(reply.body))
    zipped = await running.raw("GET", path, "Accept-Encoding: gzip")
    assert zipped.header("content-encoding") == "gzip"
    assert len(zipped.body) < len(reply.body) / 4
    known = await running.raw("GET", path, f"If-None-Match: {reply.header('etag')}")
    assert (known.status, known.body) == (304, b"")
    assert known.header("etag") == reply.header("etag")


@FORMS
@pytest_twisted.ensureDeferred
async def test_the_document_is_that_of_the_server(daemon, path, media_type, read):
    """A server that takes no token in the URL does not offer it."""
    running = await daemon(ready=False, token={"in_url": False})
    reply = await running.get(path)
    assert read(reply.body) == describe(token_in_url=False)


@pytest_twisted.ensureDeferred
async def test_every_event_is_as_the_document_says(daemon):
    """Each event that the document has comes, and its content fits the schema of its name."""
    running = await daemon(events={"history": 4})
    mx = running.mx
    mx.behaviour.service_initiated = mx.behaviour.network_reached = True
    token = await running.log_in()
    stream = await running.open_stream(token, query="?topics=calls,contacts,status&lastEventId=1")
    mx.call_in(OUTSIDE, EXT)
    mx.answer(EXT)
    mx.hold(EXT)
    mx.retrieve(EXT)
    mx.record(EXT)
    mx.transfer(EXT, "3098")
    mx.call_in("12025550105", EXT)
    mx.deflect(EXT, "3098")
    mx.call_in("12025550106", EXT)
    mx.answer(EXT)
    mx.park(EXT)
    mx.user_calls(EXT, "79031744446")
    mx.fail("79031744446")
    mx.call_in("12025550107", EXT)
    mx.answer(EXT)
    mx.hang_up(EXT)
    await stream.when_event("ConnectionClearedEvent")
    await running.get("/api/calls", token=token)
    mx.set_presence("3098", "Busy", "back soon")
    mx.add_user(User(ext="3999", login="new", password="new", jid=1, first_name="New"))
    mx.delete_user("3999")
    await stream.when(lambda: stream.names.count("ContactEvent") >= 3)
    described = MEASURE.document["components"]["schemas"]["StreamEvent"]["oneOf"]
    assert set(stream.names) == {each["properties"]["event"]["const"] for each in described}
    for event in stream.events:
        MEASURE.check_event(event.name, event.data)


@pytest_twisted.ensureDeferred
async def test_what_the_document_does_not_say_is_found(daemon):
    """The measure itself refuses what is not described: a status, a key, a missing header."""
    running = await daemon()
    reply = await running.get("/api/calls")
    assert reply.status == 401

    def check(**more):
        given = {"status": 401, "header": reply.header, "body": reply.body} | more
        MEASURE.check_answer("GET", "/api/calls", **given)

    check()
    with pytest.raises(AssertionError, match="is not described"):
        check(status=406)
    with pytest.raises(AssertionError, match="Additional properties"):
        check(body=b'{"code":401,"error":"no","more":1}')
    with pytest.raises(AssertionError, match="required property"):
        check(body=b'{"code":401}')
    with pytest.raises(AssertionError, match="is missing"):
        check(header=lambda name: None if name == "WWW-Authenticate" else reply.header(name))
    MEASURE.check_event("status", '{"mx":"up"}')
    with pytest.raises(AssertionError, match="is not one of"):
        MEASURE.check_event("status", '{"mx":"away"}')
