"""The address book: its form and order, and that it is live."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor

from mxflex.simulator.company import Company, ServerAccount, User
from mxflex.simulator.server import SimulatedMX

# Some of the people of the owner's description, not in the order of their extensions.
PEOPLE = (
    User(
        jid=43884851147406145,
        login="user_login",
        password="password",
        ext="3095",
        first_name="Dmitry",
        last_name="Sedykh",
        cell_phone="+79031744445",
        email="dmitrys@example.com",
    ),
    User(
        jid=43884851428118509,
        login="peter",
        password="secret",
        ext="3044",
        first_name="Peter",
        last_name="Hyde",
        presence="LoggedOut",
        home_phone="+1-202-555-0104",
        cell_phone="+1-512-555-0136",
        email="peterh@example.com",
        did="15125550136",
    ),
    User(
        jid=43884852633771555,
        login="sms",
        password="secret",
        ext="3010",
        first_name="SMS",
        last_name="Gateway C73",
        presence="LoggedOut",
    ),
)
OWNERS_LIST = (
    b'{"contacts":['
    b'{"jid":"43884852633771555","status":"LoggedOut","firstName":"SMS","lastName":"Gateway C73",'
    b'"ext":"3010"},'
    b'{"jid":"43884851428118509","status":"LoggedOut","firstName":"Peter","lastName":"Hyde",'
    b'"ext":"3044","homePhone":"+1-202-555-0104","cellPhone":"+1-512-555-0136",'
    b'"email":"peterh@example.com","did":"15125550136"},'
    b'{"jid":"43884851147406145","status":"Available","firstName":"Dmitry","lastName":"Sedykh",'
    b'"ext":"3095","cellPhone":"+79031744445","email":"dmitrys@example.com"}]}'
)
NEW = User(jid=43884850000000001, login="new", password="secret", ext="3070", first_name="Neo")


def company(*users):
    """Give an MX with these users and nobody else but Dmitry."""
    accounts = (ServerAccount(login="mxflex", password="mxflex"),)
    return SimulatedMX(reactor, Company(users=users, accounts=accounts))


async def contacts(running, token):
    """Read the list."""
    reply = await running.get("/api/contacts", token=token)
    assert reply.status == 200
    return reply.json["contacts"]


async def changed(running, token, act):
    """Let something happen at the MX, and give the list once it shows it."""
    book = running.link.address_book
    version = book.version
    act()
    await running.when(lambda: book.version != version)
    return {each["ext"]: each for each in await contacts(running, token)}


@pytest_twisted.ensureDeferred
async def test_the_list_is_that_of_the_owner(daemon):
    """The people of the owner's description come in its order, with its keys, byte for byte."""
    running = await daemon(simulator=company(*PEOPLE))
    reply = await running.raw("GET", "/api/contacts", token=await running.log_in())
    assert reply.status == 200
    assert reply.header("content-type") == "application/json; charset=utf-8"
    assert reply.body == OWNERS_LIST


@pytest_twisted.ensureDeferred
async def test_all_keys_in_their_order(daemon):
    """A person with everything has every key, in order, all of them text."""
    everything = User(
        jid=43884850000000002,
        login="all",
        password="secret",
        ext="3100",
        first_name="Ann <a@b> & Co",
        last_name="Ёлкина",
        presence="Busy",
        note='in "Paris"\\',
        home_phone="1",
        cell_phone="2",
        email="a@example.com",
        home_system=63022,
        did="3",
        exchange_id="x-4",
    )
    running = await daemon(simulator=company(*PEOPLE, everything))
    last = (await contacts(running, await running.log_in()))[-1]
    assert list(last) == [
        *("jid", "status", "note", "firstName", "lastName", "ext"),
        *("homePhone", "cellPhone", "email", "homeSystem", "did", "exchangeId"),
    ]
    assert last["jid"] == "43884850000000002"
    assert last["homeSystem"] == "63022"
    assert (last["firstName"], last["lastName"]) == ("Ann <a@b> & Co", "Ёлкина")
    assert last["note"] == 'in "Paris"\\'


@pytest_twisted.ensureDeferred
async def test_extensions_are_ordered_as_numbers_then_as_text(daemon):
    """9 comes before 10, and what is no number comes behind all numbers."""
    extensions = ["b1", "100", "9", "10", "*86", "3095", "99", "a"]
    users = [
        attrs.evolve(PEOPLE[0], jid=JID_BASE + number, login=f"u{number}", ext=ext)
        for number, ext in enumerate(extensions)
        if ext != "3095"
    ]
    running = await daemon(simulator=company(*users, PEOPLE[0]))
    told = [each["ext"] for each in await contacts(running, await running.log_in())]
    assert told == ["9", "10", "99", "100", "3095", "*86", "a", "b1"]


JID_BASE = 43884850000001000


@pytest_twisted.ensureDeferred
async def test_all_pages_are_read(daemon):
    """An address book of many pages comes whole."""
    users = [
        attrs.evolve(PEOPLE[0], jid=JID_BASE + number, login=f"u{number}", ext=str(4000 + number))
        for number in range(123)
    ]
    running = await daemon(simulator=company(*users, PEOPLE[0]))
    people = await contacts(running, await running.log_in())
    assert [each["ext"] for each in people] == ["3095", *map(str, range(4000, 4123))]


@pytest_twisted.ensureDeferred
async def test_changes_show_without_asking_the_mx(daemon):
    """People who come, change, and go, and their presence, show at once; nothing is asked again."""
    running = await daemon(simulator=company(*PEOPLE))
    token, mx = await running.log_in(), running.mx
    asked = len(mx.commands)
    people = await changed(running, token, lambda: mx.add_user(NEW))
    assert list(people) == ["3010", "3044", "3070", "3095"]
    assert people["3070"]["firstName"] == "Neo"
    people = await changed(
        running, token, lambda: mx.update_user(attrs.evolve(NEW, ext="3001", did="5"))
    )
    assert list(people) == ["3001", "3010", "3044", "3095"]
    assert people["3001"]["did"] == "5"
    people = await changed(running, token, lambda: mx.set_presence("3001", "NotAvailable", "away"))
    assert (people["3001"]["status"], people["3001"]["note"]) == ("NotAvailable", "away")
    people = await changed(running, token, lambda: mx.delete_user("3001"))
    assert list(people) == ["3010", "3044", "3095"]
    assert len(mx.commands) == asked


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', "*"])
@pytest_twisted.ensureDeferred
async def test_a_known_list_is_304(daemon, form):
    """`If-None-Match` with the `ETag` gives 304 without a body until something changes."""
    running = await daemon()
    token = await running.log_in()
    full = await running.raw("GET", "/api/contacts", token=token)
    etag = full.header("etag")
    line = "If-None-Match: " + form.format(etag.removeprefix("W/"))
    known = await running.raw("GET", "/api/contacts", line, token=token)
    assert (known.status, known.body, known.header("etag")) == (304, b"", etag)
    assert known.header("content-type") is None
    assert known.header("server")
    await changed(running, token, lambda: running.mx.set_presence("3099", "Busy"))
    fresh = await running.raw("GET", "/api/contacts", line, token=token)
    assert fresh.status == (304 if form == "*" else 200)
    assert fresh.header("etag") != etag


@pytest_twisted.ensureDeferred
async def test_an_unknown_tag_is_200(daemon):
    """Another tag, or no tag at all, gets the list."""
    running = await daemon()
    token = await running.log_in()
    for line in ('If-None-Match: "x"', "If-None-Match: rubbish", "If-None-Match:"):
        assert (await running.raw("GET", "/api/contacts", line, token=token)).status == 200


@pytest_twisted.ensureDeferred
async def test_the_list_outlives_the_mx(daemon):
    """While the MX is away the list is as last known; afterwards it is read anew."""
    running = await daemon(simulator=company(*PEOPLE))
    token = await running.log_in()
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    assert len(await contacts(running, token)) == 3
    running.mx.add_user(NEW)
    running.mx.accept_connections()
    book = running.link.address_book
    await running.when(lambda: len(book.entries) == 4)
    assert len(await contacts(running, token)) == 4


@pytest_twisted.ensureDeferred
async def test_a_list_that_was_never_read_is_503(daemon):
    """With the MX down since the start there is no list to show: 503 at once, with Retry-After."""
    key = "k" * 40
    first = await daemon(token={"key": key})
    token = await first.log_in()
    await first.stop()
    await first.mx.stop()
    second = await daemon(simulator=first.mx, token={"key": key}, ready=False)
    reply = await second.get("/api/contacts", token=token)
    assert reply.status == 503
    assert reply.header("retry-after")
    assert reply.error
