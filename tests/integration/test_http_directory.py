"""Finding people: `GET /api/contacts?q=` and `GET /api/contacts/lookup`."""

from __future__ import annotations

from urllib.parse import quote

import attrs
import pytest
import pytest_twisted

from tests.integration.daemons import EXT
from tests.integration.test_http_contacts import NEW, PEOPLE, company

ANNA = attrs.evolve(NEW, first_name="Zoë", last_name="Ёлкина", did="2025550104")
PATHS = ("/api/contacts?q=3095", "/api/contacts/lookup?number=3095")


async def found(running, token, path):
    """Ask for people and give their extensions."""
    reply = await running.get(path, token=token)
    assert reply.status == 200, reply
    assert list(reply.json) == ["contacts"]
    return [each["ext"] for each in reply.json["contacts"]]


@pytest.fixture
def office(daemon):
    """Give a function that starts a daemon for the people of these tests."""

    async def start(**settings):
        running = await daemon(simulator=company(*PEOPLE, ANNA), **settings)
        return running, await running.log_in()

    return start


@pytest.mark.parametrize(
    ("text", "extensions"),
    [
        ("zoe", ["3070"]),
        ("елкина ZOË", ["3070"]),
        ("e", ["3010", "3044", "3070", "3095"]),
        ("555-01", ["3044", "3070"]),
        ("sedykh", ["3095"]),
        ("nobody", []),
    ],
)
@pytest_twisted.ensureDeferred
async def test_search(office, text, extensions):
    """Names without case and accents, digits of numbers; in the order of the list."""
    running, token = await office()
    assert await found(running, token, f"/api/contacts?q={quote(text)}") == extensions


@pytest.mark.parametrize("query", ["", "?q=", "?q=%20%09", "?x=1"])
@pytest_twisted.ensureDeferred
async def test_nothing_to_search(office, query):
    """Without a text it is the list as ever, byte for byte, tag for tag."""
    running, token = await office()
    whole = await running.raw("GET", "/api/contacts", token=token)
    reply = await running.raw("GET", f"/api/contacts{query}", token=token)
    assert (reply.status, reply.body) == (200, whole.body)
    assert reply.header("etag") == whole.header("etag")


@pytest_twisted.ensureDeferred
async def test_lookup(office):
    """A caller's number finds its people however it is written; others are an empty list."""
    running, token = await office(numbers={"country": "US"})
    for number in ("+12025550104", "12025550104", "2025550104", "(202) 555-0104"):
        path = f"/api/contacts/lookup?number={quote(number)}"
        assert await found(running, token, path) == ["3044", "3070"]
    assert await found(running, token, f"/api/contacts/lookup?number={EXT}") == [EXT]
    assert await found(running, token, "/api/contacts/lookup?number=2025550105") == []


@pytest_twisted.ensureDeferred
async def test_lookup_without_a_country(office):
    """Unless it is known where numbers are from, those with + are found, or without it."""
    running, token = await office()
    lookup = "/api/contacts/lookup?number="
    assert await found(running, token, f"{lookup}%2B12025550104") == ["3044"]
    assert await found(running, token, f"{lookup}2025550104") == ["3070"]
    assert await found(running, token, f"{lookup}12025550104") == ["3044"]


@pytest.mark.parametrize("path", ["/api/contacts/lookup", "/api/contacts/lookup?number=%20"])
@pytest_twisted.ensureDeferred
async def test_a_number_is_needed(office, path):
    """Without a number it is 400."""
    running, token = await office()
    reply = await running.get(path, token=token)
    assert (reply.status, reply.error) == (400, "number required")


@pytest.mark.parametrize("path", PATHS)
@pytest_twisted.ensureDeferred
async def test_tags(office, path):
    """Both have an `ETag`, give 304 for it, and another one when those found have changed."""
    running, token = await office()
    reply = await running.raw("GET", path, token=token)
    line = f"If-None-Match: {reply.header('etag')}"
    running.mx.set_presence("3044", "Busy")
    book = running.link.address_book
    await running.when(lambda: any(each.presence == "Busy" for each in book.entries.values()))
    known = await running.raw("GET", path, line, token=token)
    assert (known.status, known.body) == (304, b"")
    running.mx.set_presence(EXT, "Away")
    await running.when(lambda: any(each.presence == "Away" for each in book.entries.values()))
    fresh = await running.raw("GET", path, line, token=token)
    assert fresh.status == 200
    assert fresh.header("etag") != reply.header("etag")
    assert b'"status":"Away"' in fresh.body
    head = await running.raw("HEAD", path, token=token)
    assert (head.status, head.header("etag")) == (200, fresh.header("etag"))


@pytest_twisted.ensureDeferred
async def test_who_is_told_of_a_change_finds_it(office):
    """By the time of its event a change counts."""
    running, token = await office()
    stream = await running.open_stream(token, query="?topics=contacts")
    running.mx.update_user(attrs.evolve(ANNA, first_name="Trinity"))
    await stream.when_event("ContactEvent")
    assert await found(running, token, "/api/contacts?q=trinity") == ["3070"]
    assert await found(running, token, "/api/contacts?q=zoe") == []
    running.mx.delete_user("3070")
    await stream.when_events(2)
    assert await found(running, token, "/api/contacts?q=trinity") == []


@pytest.mark.parametrize("path", PATHS)
@pytest_twisted.ensureDeferred
async def test_without_the_mx(daemon, path):
    """While the MX is away the list is searched as last known; before it was read, 503."""
    running = await daemon(token={"key": "k" * 40})
    token = await running.log_in()
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    assert await found(running, token, path) == [EXT]
    await running.stop()
    other = await daemon(simulator=running.mx, ready=False, token={"key": "k" * 40})
    reply = await other.get(path, token=token)
    assert reply.status == 503
    assert int(reply.header("retry-after")) > 0
