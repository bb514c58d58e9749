"""Topics of event streams: contacts and status beside the calls, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import itertools
import random

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import LoopingCall

from mxflex.gateway.relay import MAX_NEWS_BYTES
from mxflex.simulator.company import User
from tests.integration.daemons import EXT

OUTSIDE = "12025550104"
ALL = "?topics=calls,contacts,status"
NEW = User(jid=43884850000000001, login="new", password="secret", ext="3070", first_name="Neo")


class Plain:
    """A daemon on plain HTTP, and streams that have a connection each."""

    def __init__(self, running):
        self.running = running
        self.mx = running.mx

    @classmethod
    async def start(cls, daemon, _secure, **settings):
        front = cls(await daemon(**settings))
        front.token = await front.running.log_in()
        return front

    async def open(self, query="", *, last_id=None):
        headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
        stream = await self.running.open_stream(self.token, query=query, headers=headers)
        assert stream.status == 200
        return stream

    async def when(self, stream, condition):
        await stream.when(lambda: condition() or stream.closed)
        assert condition(), stream.text

    def close(self, stream):
        stream.abort()

    async def contacts(self):
        reply = await self.running.get("/api/contacts", token=self.token)
        assert reply.status == 200
        return reply.json["contacts"]


class Secure:
    """A daemon on HTTPS, and streams that share one HTTP/2 connection."""

    @classmethod
    async def start(cls, _daemon, secure, **settings):
        front = cls()
        daemon = await secure(**settings)
        front.running, front.mx = daemon.running, daemon.mx
        front.client = await daemon.connect()
        front.token = await front.client.log_in()
        return front

    async def open(self, query="", *, last_id=None):
        headers = [] if last_id is None else [("last-event-id", str(last_id))]
        return await self.client.open_stream(self.token, query=query, headers=headers)

    async def when(self, stream, condition):
        await self.client.when(lambda: condition() or stream.over)
        assert condition(), bytes(stream.body)

    def close(self, stream):
        self.client.conn.reset_stream(self.client.id_of(stream))
        self.client.flush()

    async def contacts(self):
        reply = await self.client.ask("GET", "/api/contacts", token=self.token)
        assert reply.status == 200
        return reply.json["contacts"]


@pytest.fixture(params=[Plain, Secure], ids=["HTTP/1.1", "HTTP/2"])
def front(request, daemon, secure):
    """Give the function that starts a daemon and gives the client's view of it."""

    async def start(**settings):
        return await request.param.start(daemon, secure, **settings)

    return start


def ring(mx):
    """Let the extension ring and give up: two events."""
    mx.call_in(OUTSIDE, EXT)
    mx.hang_up(OUTSIDE)


def told(stream):
    """Give the names and contents of the events so far."""
    return [(event.name, event.json) for event in stream.events]


async def events(front, stream, count):
    """Wait for so many events of a stream, and give all of them."""
    await front.when(stream, lambda: len(stream.events) >= count)
    return stream.events


# --- What is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?topics=calls",
        "?topics=calls,calls",
        "?topics=%20calls%20,+calls",
        "?topics=calls&lastEventId=",
    ],
)
@pytest_twisted.ensureDeferred
async def test_calls_alone(daemon, query):
    """Without topics, or with the calls alone, a stream is as it always was."""
    running = await daemon()
    stream = await running.open_stream(await running.log_in(), query=query)
    running.mx.set_presence("3098", "Busy")
    await running.when(lambda: b"Busy" in repr(running.link.address_book.entries).encode())
    ring(running.mx)
    await stream.when_events(2)
    assert stream.names == ["DeliveredEvent", "ConnectionClearedEvent"]
    retry, event_id = stream.blocks[0].split(b"\n")
    assert (retry, event_id[:4]) == (b"retry: 3000", b"id: ")


@pytest.mark.parametrize(
    "query",
    [
        "?topics=",
        "?topics=,",
        "?topics=calls,",
        "?topics=voicemail",
        "?topics=calls,voicemail",
        "?topics=Calls",
        "?topics=CONTACTS",
        "?topics=calls+contacts",
        "?topics=calls;contacts",
        "?topics=calls%00",
        "?topics=calls&topics=contacts",
        "?topics=calls&topics=calls",
        "?topics=" + ",".join(["calls"] * 1000),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_topic_is_400(daemon, query):
    """An unknown, empty or wrongly written name is 400, and so is a second list."""
    running = await daemon()
    reply = await (await running.open_stream(await running.log_in(), query=query)).reply()
    assert (reply.status, bool(reply.error)) == (400, True)


# --- Contacts -------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_contacts_live(front):
    """Who comes, changes and goes is told as the list has it, which is true by then."""
    front = await front()
    stream = await front.open("?topics=contacts")
    steps = [
        ("added", lambda: front.mx.add_user(NEW)),
        ("changed", lambda: front.mx.update_user(attrs.evolve(NEW, ext="3001", did="5"))),
        ("changed", lambda: front.mx.set_presence("3001", "NotAvailable", "away")),
        ("removed", lambda: front.mx.delete_user("3001")),
    ]
    for count, (action, act) in enumerate(steps, 1):
        act()
        event = (await events(front, stream, count))[-1]
        assert event.name == "ContactEvent"
        assert list(event.json) == ["action", "contact"]
        assert event.json["action"] == action
        contact = event.json["contact"]
        listed = [each for each in await front.contacts() if each["jid"] == str(NEW.jid)]
        if action == "removed":
            assert listed == []
        else:
            assert listed == [contact]
            assert [list(each) for each in listed] == [list(contact)]
    assert stream.events[-1].data == (
        '{"action":"removed","contact":{"jid":"43884850000000001","status":"NotAvailable",'
        '"note":"away","firstName":"Neo","lastName":"","ext":"3001","did":"5"}}'
    )
    assert len(stream.events) == len(steps)


@pytest_twisted.ensureDeferred
async def test_contacts_go_to_every_extension(daemon):
    """One change reaches the streams of all users who asked for it, as the same bytes."""
    running = await daemon()
    tokens = [await running.log_in(), await running.log_in("user3096", "secret3096")]
    streams = [await running.open_stream(token, query="?topics=contacts") for token in tokens]
    running.mx.set_presence("3098", "Busy")
    (mine,), (theirs,) = [await stream.when_events(1) for stream in streams]
    assert mine == theirs


@pytest_twisted.ensureDeferred
async def test_what_changed_while_the_mx_was_away(front):
    """The next reading of the address book tells in what it differs from the last one."""
    front = await front()
    stream = await front.open("?topics=contacts")
    before = await front.contacts()
    await front.running.mx.refuse_connections()
    front.mx.drop()
    await front.running.when_down()
    front.mx.add_user(NEW)
    front.mx.set_presence("3098", "Busy", "lunch")
    front.mx.delete_user("3099")
    front.mx.accept_connections()
    gap, *rest = await events(front, stream, 4)
    assert (gap.name, gap.json["reason"]) == ("gap", "mx-down")
    # Whoever had the list and goes by the events has the new list.
    known = {each["jid"]: each for each in before}
    for event in rest:
        contact = event.json["contact"]
        if event.json["action"] == "removed":
            assert known.pop(contact["jid"]) == contact
        else:
            assert (event.json["action"] == "added") == (contact["jid"] not in known)
            known[contact["jid"]] = contact
    assert sorted(known) == sorted(each["jid"] for each in await front.contacts())
    assert all(each == known[each["jid"]] for each in await front.contacts())
    assert len(stream.events) == 4


@pytest_twisted.ensureDeferred
async def test_too_many_changes_while_the_mx_was_away(front):
    """A book that differs by more than 32 KiB is told as one gap, and is there by then."""
    front = await front()
    contacts, status = await front.open("?topics=contacts"), await front.open("?topics=status")
    await front.running.mx.refuse_connections()
    front.mx.drop()
    await front.running.when_down()
    note = "x" * 1000
    crowd = range(MAX_NEWS_BYTES // len(note))
    for number in crowd:
        front.mx.add_user(
            attrs.evolve(NEW, jid=NEW.jid + number, login=f"u{number}", ext=str(5000 + number))
        )
        front.mx.set_presence(str(5000 + number), "Available", note)
    front.mx.accept_connections()
    outage, reading = await events(front, contacts, 2)
    assert (outage.name, reading.name) == ("gap", "gap")
    assert reading.json == outage.json
    listed = {each["ext"] for each in await front.contacts()}
    assert {str(5000 + number) for number in crowd} <= listed
    await events(front, status, 4)
    assert [name for name, _ in told(status)].count("gap") == 1


# --- Status ---------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_status_comes_and_goes(front):
    """Each stream begins with the state of the MX, and hears of each change once."""
    front = await front()
    stream = await front.open("?topics=status")
    await events(front, stream, 1)
    assert told(stream) == [("status", {"mx": "up"})]
    assert stream.events[0].data == '{"mx":"up"}'
    await front.running.mx.refuse_connections()
    front.mx.drop()
    await events(front, stream, 2)
    late = await front.open(ALL)
    await events(front, late, 1)
    assert told(late) == [("status", {"mx": "down"})]
    front.mx.accept_connections()
    await events(front, stream, 4)
    await events(front, late, 3)
    assert [name for name, _ in told(stream)] == ["status", "status", "gap", "status"]
    assert [data["mx"] for name, data in told(stream) if name == "status"] == ["up", "down", "up"]
    assert told(late)[1:] == told(stream)[2:]


@pytest_twisted.ensureDeferred
async def test_the_first_status_has_an_id_to_come_back_with(front):
    """A client that was cut off after nothing but the status misses nothing after it."""
    front = await front()
    watcher = await front.open()
    ring(front.mx)
    await events(front, watcher, 2)
    stream = await front.open(ALL)
    (status,) = await events(front, stream, 1)
    front.close(stream)
    assert status.id == watcher.events[-1].id
    watcher = await front.open("?topics=calls,contacts")
    ring(front.mx)
    front.mx.set_presence("3098", "Busy")
    missed = await events(front, watcher, 3)
    back = await front.open(ALL, last_id=status.id)
    assert (await events(front, back, 4))[:3] == missed
    assert told(back)[3] == ("status", {"mx": "up"})
    assert [event.id for event in back.events] == [*(e.id for e in missed), missed[-1].id]


@pytest_twisted.ensureDeferred
async def test_an_outage_reaches_streams_of_any_topics(front):
    """Whatever a stream is about: lost events of its extension are told, and kept."""
    front = await front()
    queries = ["", "?topics=contacts", "?topics=status", "?topics=status,contacts", ALL]
    streams = [await front.open(query) for query in queries]
    begin = await front.open("?topics=status")
    front.mx.drop("Server")
    for stream in [*streams, begin]:
        await front.when(stream, lambda stream=stream: "gap" in [n for n, _ in told(stream)])
    gaps = {event for stream in streams for event in stream.events if event.name == "gap"}
    assert len(gaps) == 1
    back = await front.open("?topics=contacts", last_id=begin.events[0].id)
    assert (await events(front, back, 1))[0] in gaps


# --- All together ---------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_one_row_of_everything(front):
    """Calls, contacts and status come in one row, in the order of things, with growing ids."""
    front = await front()
    stream = await front.open(ALL)
    front.mx.call_in(OUTSIDE, EXT)
    front.mx.set_presence(EXT, "Busy")
    front.mx.hang_up(OUTSIDE)
    front.mx.set_presence(EXT, "Available")
    names = [event.name for event in await events(front, stream, 5)]
    assert names == [
        "status",
        "DeliveredEvent",
        "ContactEvent",
        "ConnectionClearedEvent",
        "ContactEvent",
    ]
    ids = [event.id for event in stream.events]
    assert ids == sorted(set(ids))


@pytest_twisted.ensureDeferred
async def test_coming_back_at_full_rate(front):
    """A client that is cut off again and again while events never rest gets each of them once."""
    front = await front(events={"history": 100_000})
    watcher = await front.open(ALL)
    number = itertools.count()
    busy = LoopingCall(lambda: act(front.mx, next(number)))
    busy.clock = reactor
    ended = busy.start(0)
    seen, last_id = [], None
    dice = random.Random(4)
    for _ in range(30):
        stream = await front.open(ALL, last_id=last_id)
        await events(front, stream, dice.randrange(1, 40))
        came = stream.events
        front.close(stream)
        # The state at the start of a stream stands behind what was missed.
        seen += [event for event in came if event.name != "status"]
        last_id = came[-1].id
    busy.stop()
    await ended
    first = next(n for n, event in enumerate(watcher.events) if event == seen[0])
    await front.when(watcher, lambda: watcher.events[-1].id >= seen[-1].id)
    expected = watcher.events[first : first + len(seen)]
    assert seen == expected
    assert {event.name for event in seen} == {
        "DeliveredEvent",
        "ConnectionClearedEvent",
        "ContactEvent",
    }


def act(mx, number):
    """Let something happen: a call that comes and goes, and somebody's presence."""
    ring(mx)
    mx.set_presence("3098", "Available" if number % 2 else "Busy", str(number))
