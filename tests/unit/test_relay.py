"""From the link to the hub: events on their way to the streams, and what a lost link costs."""

from __future__ import annotations

import inspect
import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.gateway import relay
from mxflex.gateway.calls import CallRegistry, Calls
from mxflex.gateway.contacts import Contacts
from mxflex.gateway.hub import Hub, Topic
from mxflex.gateway.relay import MAX_NEWS_BYTES, NEWS_SECONDS, Encoders, Relay
from mxflex.mx.addressbook import BookListener, Change
from mxflex.mx.link import LinkListener
from mxflex.web.eventjson import encode_call_event, encode_gap, encode_status, timestamp
from mxflex.web.eventstream import encode_sse
from mxflex.web.listings import encode_contact, encode_contact_event
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    AddressBookAdded,
    AddressBookChanged,
    AddressBookDeleted,
    CallEvent,
    ConnectionClearedEvent,
    CSTAError,
    DeliveredEvent,
    DeviceCall,
    GetAddressBook,
    MonitorStart,
    MonitorStartResponse,
    Presence,
    SnapshotDevice,
)
from tests.unit.memory_mx import MemoryMX, person

ME, PETER = "3095", "3044"


class Stream:
    """A listener that keeps what it is told, and looks at the calls whenever it is."""

    def __init__(self, look):
        self.frames = []
        self.seen = []
        self._look = look

    def send(self, frame):
        self.frames.append(frame)
        self.seen.append(self._look())

    def end(self):
        raise AssertionError("nobody ends it")

    @property
    def names(self):
        return [name for name, _ in self.told]

    @property
    def told(self):
        """The events: their names and what they say."""
        return list(map(read, self.frames))


def read(frame):
    """Give the name and the content of an event."""
    name, data, _ = frame.split(b"\n", 2)
    return (
        name.removeprefix(b"event: ").decode(),
        json.loads(data.removeprefix(b"data: ")),
    )


class House:
    """Link, registry, relay and hub, with two extensions watched and a stream on each."""

    def __init__(self, book=(), hold=()):
        self.mx = MemoryMX(book)
        self.mx.hold.update(hold)
        clock = self.mx.clock.seconds
        self.hub = Hub(clock, encode_sse, encode_gap, 16)
        self.registry = CallRegistry(clock)
        self.calls = Calls(self.mx.link, self.registry, True)
        self.contacts = Contacts(self.mx.link.address_book)
        monitors = self.mx.link.monitors
        encoders = Encoders(
            call=encode_call_event, contact=encode_contact_event, status=encode_status
        )
        self.relay = Relay(self.mx.clock, self.hub, self.calls, monitors, encoders)
        self.mx.link.listen(self.relay)
        self.mx.link.address_book.listen(self.relay)
        self.mx.start()
        self.streams = {}
        for ext in (ME, PETER):
            self.hub.open(ext)
            self.calls.watch(ext)
            self.mx.run(monitors.start(ext))
            self.streams[ext] = stream = Stream(lambda ext=ext: self.ids(ext))
            self.hub.subscribe(ext, stream, None)
        self.mx.commands.clear()

    def listen(self, *topics, ext=ME, last_event_id=None):
        """Open one more stream, which looks at the contacts whenever it is told something."""
        stream = Stream(self.people)
        stream.backlog = self.hub.subscribe(ext, stream, last_event_id, topics)
        return stream

    def people(self):
        """Give the contacts as they are shown."""
        return [encode_contact(entry) for entry in self.contacts.all()]

    def ids(self, ext=ME):
        return [call.call_id for call in self.registry.calls(ext)]

    def ring(self, ext=ME, call_id=39):
        self.mx.send(
            ext, DeliveredEvent(connection=ConnectionID(call_id, ext), alerting_device=ext)
        )


@pytest.fixture
def house():
    house = House()
    yield house
    house.mx.stop()


@pytest.mark.parametrize(
    ("listener", "names"),
    [
        (LinkListener, ["link_up", "link_down", "call_event"]),
        (BookListener, ["contact_changed", "contacts_read"]),
    ],
)
def test_is_what_the_link_expects(listener, names):
    """The relay has the methods of the listeners of link and book, with the same parameters."""
    for name in names:
        expected = inspect.signature(getattr(listener, name))
        assert inspect.signature(getattr(Relay, name)) == expected


class TestEvents:
    """The way of one event."""

    def test_goes_to_its_extension(self, house):
        """An event reaches the streams of its extension, as the bytes of a stream."""
        house.ring()
        (frame,) = house.streams[ME].frames
        assert frame.startswith(b'event: DeliveredEvent\ndata: {"callId":39,"deviceId":"3095",')
        assert house.streams[PETER].frames == []

    def test_state_is_true_before_the_word(self, house):
        """A client that asks for the calls on hearing an event finds it in them."""
        house.ring()
        house.mx.send(ME, ConnectionClearedEvent(connection=ConnectionID(39, ME)))
        assert house.streams[ME].seen == [[39], []]

    def test_what_clients_do_not_get(self, house):
        """An event without a form for clients changes nothing for streams."""
        house.relay.call_event(ME, CallEvent(monitor="1"))
        assert house.streams[ME].frames == []

    def test_of_somebody_who_is_not_watched(self, house):
        """An event of an extension nobody watches leaves nothing behind."""
        house.relay.call_event("3042", DeliveredEvent(connection=ConnectionID(1, "3042")))
        assert house.registry.calls("3042") == []
        assert not house.hub.is_open("3042")


class TestLostLink:
    """What is told when the MX was away."""

    def test_nothing_at_the_beginning(self, house):
        """The first connection is no gap."""
        assert house.streams[ME].frames == []

    def test_every_stream_is_told_once_the_mx_is_back(self, house):
        """The gap comes with the return, not with the loss, and says since when."""
        lost_at = house.mx.clock.seconds()
        house.mx.lose()
        assert house.streams[ME].frames == []
        house.mx.come_back()
        since = timestamp(lost_at)
        for stream in house.streams.values():
            (frame,) = stream.frames
            assert f'event: gap\ndata: {{"reason":"mx-down","since":"{since}"}}\n'.encode() in frame

    def test_each_loss_is_told(self, house):
        """A second loss is a second gap, with its own beginning."""
        for _ in range(2):
            house.mx.lose()
            house.mx.come_back()
            house.mx.clock.advance(100)
            house.mx.pump()
        assert house.streams[ME].names == ["gap", "gap"]
        assert house.streams[ME].frames[0] != house.streams[ME].frames[1]

    def test_tries_that_fail_are_one_loss(self, house):
        """However often the link tries in vain, there is one gap, from the loss on."""
        lost_at = house.mx.clock.seconds()
        house.mx.reachable = False
        house.mx.lose()
        house.mx.clock.advance(300)
        house.mx.come_back()
        assert house.streams[ME].names == ["gap"]
        assert timestamp(lost_at).encode() in house.streams[ME].frames[0]

    def test_calls_are_asked_for_again(self, house):
        """Calls that ended meanwhile are gone, those that began are known."""
        house.ring(call_id=39)
        house.mx.calls[ME] = [DeviceCall(connection=ConnectionID(40, ME), state="connected")]
        house.mx.lose()
        assert house.ids() == [39]
        house.mx.come_back()
        assert house.ids() == [40]
        assert {c.device for c in house.mx.commands if isinstance(c, SnapshotDevice)} == {
            ME,
            PETER,
        }

    def test_events_before_the_link_is_up_count(self, house):
        """A call that a restored monitor told of is not forgotten with those from before."""
        house.ring(call_id=39)
        house.mx.lose()
        # One monitor stays out, so that the link is not up yet when the other has its event.
        house.mx.hold.add(MonitorStart)
        while len(house.mx.held) < 2:
            house.mx.clock.advance(0.5)
            house.mx.pump()
        restored = house.mx.held[0].device
        house.mx.answer()
        assert not house.mx.link.up
        house.ring(restored, call_id=41)
        house.mx.hold.clear()
        house.mx.answer()
        assert house.mx.link.up
        assert house.ids(restored) == [41]
        assert house.streams[restored].names == ["DeliveredEvent", "gap"]

    def test_who_logged_out_meanwhile_is_not_asked_for(self, house):
        """Nothing is asked about an extension that is not watched any more."""
        house.mx.lose()
        house.mx.run(house.mx.link.monitors.stop(PETER))
        house.hub.unsubscribe(PETER, house.streams[PETER])
        house.hub.close(PETER)
        house.mx.commands.clear()
        house.mx.come_back()
        assert [c.device for c in house.mx.commands if isinstance(c, SnapshotDevice)] == [ME]
        assert house.streams[PETER].frames == []


class TestLateMonitors:
    """Monitors that the MX does not restore at once when it is back."""

    @pytest.fixture
    def late(self, house):
        """Give the house with the MX back, and both monitors refused; and when it was lost."""
        house.lost_at = house.mx.clock.seconds()
        house.mx.refuse[MonitorStart] = CSTAError(text="busy")
        house.mx.lose()
        house.mx.come_back()
        assert house.streams[ME].names == house.streams[PETER].names == ["gap"]
        house.mx.refuse.clear()
        house.mx.commands.clear()
        return house

    def check(self, house, ext):
        """Hold the stream of an extension to a second gap, and its calls to a second question."""
        assert house.streams[ext].names == ["gap", "gap"]
        assert timestamp(house.lost_at).encode() in house.streams[ext].frames[1]
        assert SnapshotDevice(device=ext) in house.mx.commands

    def test_tried_again(self, late):
        """What was lost until a monitor ran again is told when it does."""
        late.mx.clock.advance(30)
        late.mx.pump()
        self.check(late, ME)
        self.check(late, PETER)
        late.ring()
        assert late.streams[ME].names[2:] == ["DeliveredEvent"]

    def test_calls_that_ended_meanwhile(self, late):
        """What the MX said before the monitor ran again does not count any more."""
        late.mx.calls[ME] = [DeviceCall(connection=ConnectionID(40, ME), state="connected")]
        late.calls.refresh(ME)
        late.mx.pump()
        assert late.ids() == [40]
        late.mx.calls.clear()
        late.mx.clock.advance(30)
        late.mx.pump()
        assert late.ids() == []

    def test_started_by_a_login(self, late):
        """A login that gets the monitor running tells the streams that had to do without it."""
        late.mx.run(late.mx.link.monitors.start(ME))
        self.check(late, ME)
        assert late.streams[PETER].names == ["gap"]

    def test_the_gap_comes_before_the_events(self, late):
        """Events of a monitor that overtake the answer to its start come behind the gap."""
        late.mx.hold.add(MonitorStart)
        late.mx.run(late.mx.link.monitors.start(ME))
        late.mx.send_as("9", DeliveredEvent(connection=ConnectionID(50, ME), alerting_device=ME))
        late.mx.answer(MonitorStartResponse(monitor="9"))
        assert late.streams[ME].names == ["gap", "gap", "DeliveredEvent"]

    def test_first_start(self, house):
        """The first monitor of somebody who logs in is no gap for anybody."""
        house.hub.open("3042")
        begin = house.hub.subscribe("3042", Stream(list), None).last_id
        house.mx.run(house.mx.link.monitors.start("3042"))
        assert house.hub.subscribe("3042", Stream(list), begin).frames == []
        assert house.streams[ME].frames == []


ANN, BOB, EVE = (
    person(ext, first_name=name, presence="Available")
    for ext, name in (("3001", "Ann"), ("3002", "Bob"), ("3003", "Eve"))
)


def event_of(action, entry):
    """Give what streams are told of a person."""
    return "ContactEvent", {"action": action, "contact": encode_contact(entry)}


class TestContacts:
    """What is told of the address book."""

    @pytest.fixture
    def office(self):
        """Give a house with people in the address book, and a stream on the contacts."""
        office = House([ANN, BOB])
        office.stream = office.listen(Topic.CONTACTS)
        yield office
        office.mx.stop()

    def lose(self, office, *book):
        """Let the MX go away, and be back with another address book."""
        office.lost_at = office.mx.clock.seconds()
        office.mx.lose()
        office.mx.book = book
        office.mx.come_back()

    def test_live_changes(self, office):
        """Whoever comes, changes or goes is told as the list shows them."""
        renamed = attrs.evolve(BOB, last_name="Bo", did="5")
        office.mx.tell(AddressBookAdded(entry=EVE))
        office.mx.tell(AddressBookChanged(entry=renamed))
        office.mx.tell(Presence(jid=ANN.jid, status="Busy", note="lunch"))
        office.mx.tell(AddressBookDeleted(jid=BOB.jid))
        assert office.stream.told == [
            event_of("added", EVE),
            event_of("changed", renamed),
            event_of("changed", attrs.evolve(ANN, presence="Busy", note="lunch")),
            event_of("removed", renamed),
        ]
        assert office.streams[ME].frames == []

    def test_the_list_is_true_before_the_word(self, office):
        """A client that asks for the contacts on hearing a change finds it in them."""
        office.mx.tell(AddressBookAdded(entry=EVE))
        office.mx.tell(Presence(jid=EVE.jid, status="Away"))
        office.mx.tell(AddressBookDeleted(jid=EVE.jid))
        (_, added), (_, changed), (_, removed) = office.stream.told
        seen = office.stream.seen
        assert added["contact"] in seen[0]
        assert changed["contact"] in seen[1]
        assert changed["contact"] != added["contact"]
        assert removed["contact"] == changed["contact"]
        assert [len(people) for people in seen] == [3, 3, 2]

    def test_spelling_is_mended(self, office):
        """Presences are told in the words of the list, also where the MX misspells them."""
        office.mx.tell(Presence(jid=ANN.jid, status="NotAvaliable"))
        office.mx.tell(Presence(jid=ANN.jid, status="NotAvailable"))
        ((_, told),) = office.stream.told
        assert told["contact"]["status"] == "NotAvailable"

    def test_what_clients_cannot_see(self, office):
        """What the list does not show makes no event."""
        office.mx.tell(AddressBookChanged(entry=attrs.evolve(ANN, home_system=0)))
        office.mx.tell(AddressBookChanged(entry=BOB))
        office.mx.tell(Presence(jid=1, status="Away"))
        office.mx.tell(AddressBookDeleted(jid=1))
        assert office.stream.frames == []

    def test_the_first_reading_is_no_news(self):
        """Nobody could have the book before it was read, so nothing of it is told."""
        office = House([ANN, BOB], hold=[GetAddressBook])
        stream = office.listen(Topic.CONTACTS)
        office.mx.tell(AddressBookAdded(entry=EVE))
        office.mx.hold.clear()
        office.mx.answer()
        assert [each["ext"] for each in office.people()] == ["3001", "3002", "3003"]
        assert stream.frames == []
        office.mx.tell(AddressBookDeleted(jid=EVE.jid))
        assert stream.told == [event_of("removed", EVE)]
        office.mx.stop()

    def test_another_reading_tells_the_differences(self, office):
        """After an outage come the gap of the calls, and then what has changed among people."""
        away = attrs.evolve(BOB, presence="Away")
        self.lose(office, away, EVE)
        assert office.stream.told == [
            ("gap", {"reason": "mx-down", "since": timestamp(office.lost_at)}),
            event_of("removed", ANN),
            event_of("changed", away),
            event_of("added", EVE),
        ]
        # All of them are true when the first one is told.
        assert office.stream.seen[1:] == [[encode_contact(away), encode_contact(EVE)]] * 3

    def test_another_reading_that_finds_nothing_new(self, office):
        """An outage during which nobody changed is no news of the contacts."""
        self.lose(office, ANN, attrs.evolve(BOB, home_system=0))
        assert office.stream.names == ["gap"]

    def filling(self, total):
        """Give people who are so many bytes as events of a reading, all of them new."""
        crowd = [person(str(ext), note="x" * 400) for ext in range(4000, 4000 + total // 600)]
        rest = total - sum(map(self.size, crowd))
        last = person("5000", note="x")
        return [*crowd, attrs.evolve(last, note="x" * (1 + rest - self.size(last)))]

    def size(self, entry):
        return len(encode_contact_event(None, entry)[1])

    @pytest.mark.parametrize("over", [0, 1])
    def test_differences_beyond_the_bound_are_a_gap(self, office, over):
        """Up to 32 KiB of differences come as events, more as one gap, on this topic alone."""
        crowd = self.filling(MAX_NEWS_BYTES + over)
        other = office.listen(Topic.STATUS)
        self.lose(office, ANN, BOB, *crowd)
        gap = ("gap", {"reason": "mx-down", "since": timestamp(office.lost_at)})
        if over:
            assert office.stream.told == [gap, gap]
            assert len(office.stream.seen[1]) == 2 + len(crowd)
        else:
            assert office.stream.told == [gap, *(event_of("added", each) for each in crowd)]
        assert other.names.count("gap") == 1

    @pytest.mark.parametrize("over", [0, 1])
    def test_a_flood_of_changes_is_a_gap(self, office, over):
        """Up to 32 KiB of changes within a second come as events, more as one gap at its end."""
        office.mx.clock.advance(NEWS_SECONDS)
        began = timestamp(office.mx.clock.seconds())
        crowd = self.filling(MAX_NEWS_BYTES + over)
        other = office.listen(Topic.STATUS)
        for each in crowd:
            office.mx.tell(AddressBookAdded(entry=each))
        events = [event_of("added", each) for each in crowd]
        told = events[:-1] if over else events
        assert office.stream.told == told
        office.mx.tell(AddressBookDeleted(jid=crowd[0].jid))
        assert office.stream.told == told
        office.mx.clock.advance(NEWS_SECONDS)
        office.mx.pump()
        assert office.stream.told[-1] == ("gap", {"reason": "mx-down", "since": began})
        # Whoever reads the list now has all of it, and from now on each change is told again.
        assert len(office.stream.seen[-1]) == 2 + len(crowd) - 1
        office.mx.tell(Presence(jid=ANN.jid, status="Busy"))
        changed = event_of("changed", attrs.evolve(ANN, presence="Busy"))
        assert office.stream.told[-1] == changed
        assert other.names == []

    def test_many_changes_that_take_their_time(self, office):
        """What is spread over seconds comes as events, however much it is."""
        crowd = self.filling(MAX_NEWS_BYTES)
        for status in ("Away", "Busy", "Away"):
            for each in crowd:
                office.mx.clock.advance(2 * NEWS_SECONDS / len(crowd))
                office.mx.pump()
                office.mx.tell(AddressBookChanged(entry=attrs.evolve(each, presence=status)))
        assert office.stream.names == ["ContactEvent"] * 3 * len(crowd)

    def test_a_reading_in_a_flood(self, office):
        """What a reading finds while changes are kept back is kept back, too."""
        for each in self.filling(MAX_NEWS_BYTES + 1):
            office.mx.tell(AddressBookAdded(entry=each))
        office.relay.contacts_read([Change(ANN, attrs.evolve(ANN, presence="Busy"))])
        assert office.stream.names[-1] == "gap"
        office.mx.clock.advance(NEWS_SECONDS)
        assert office.stream.names[-2:] == ["gap", "gap"]

    def test_since_when_a_book_is_not_known(self, office):
        """The gap tells of the first loss, where the book could not be read before another one."""
        lost_at = office.mx.clock.seconds()
        office.mx.hold.add(GetAddressBook)
        self.lose(office, ANN, BOB)
        office.mx.hold.clear()
        self.lose(office, *self.filling(MAX_NEWS_BYTES + 1))
        assert office.lost_at > lost_at
        gaps = [told["since"] for name, told in office.stream.told if name == "gap"]
        assert gaps == [timestamp(lost_at), timestamp(office.lost_at), timestamp(lost_at)]
        # The next one counts from its own loss.
        self.lose(office)
        assert office.stream.told[-1] == (
            "gap",
            {"reason": "mx-down", "since": timestamp(office.lost_at)},
        )

    def test_coming_back(self, office):
        """A stream that comes back with an id gets what it missed of contacts, in order."""
        begin = office.listen(Topic.CONTACTS, Topic.CALLS).backlog.last_id
        office.mx.tell(AddressBookAdded(entry=EVE))
        office.ring()
        office.mx.tell(Presence(jid=EVE.jid, status="Away"))
        back = office.listen(Topic.CONTACTS, Topic.CALLS, last_event_id=begin)
        assert [read(frame)[0] for frame in back.backlog.frames] == [
            "ContactEvent",
            "DeliveredEvent",
            "ContactEvent",
        ]


_NUMBERS = st.integers(1, 6)
_NEWS = st.one_of(
    st.tuples(st.just("put"), _NUMBERS, st.sampled_from(["", "a", "b"])),
    st.tuples(st.just("delete"), _NUMBERS),
    st.tuples(st.just("presence"), _NUMBERS, st.sampled_from(["", "Away", "NotAvaliable"])),
    st.tuples(
        st.just("time passes"),
    ),
    st.tuples(st.just("outage"), st.dictionaries(_NUMBERS, st.sampled_from(["", "a"]))),
)


def somebody(number, name):
    """Give one of a few people."""
    return person(str(number), jid=number, first_name=name)


def happen(office, kind, *details):
    """Let something happen at the MX."""
    if kind == "put":
        office.mx.tell(AddressBookChanged(entry=somebody(*details)))
    elif kind == "delete":
        office.mx.tell(AddressBookDeleted(jid=details[0]))
    elif kind == "presence":
        office.mx.tell(Presence(jid=details[0], status=details[1]))
    elif kind == "time passes":
        office.mx.clock.advance(NEWS_SECONDS)
        office.mx.pump()
    else:
        office.mx.lose()
        office.mx.book = tuple(somebody(*each) for each in details[0].items())
        office.mx.come_back()


@given(book=st.dictionaries(_NUMBERS, st.just("a")), news=st.lists(_NEWS, max_size=20))
def test_whoever_goes_by_the_events_has_the_list(book, news):
    """The list as read first and at each gap, with all events applied to it, stays the list.

    The bound of what a reading or a second tells as events is at two or three people here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "MAX_NEWS_BYTES", 250)
        office = House([somebody(*each) for each in book.items()])
        stream = office.listen(Topic.CONTACTS)
        known = {each["jid"]: each for each in office.people()}
        for each in news:
            happen(office, *each)
        happen(office, "time passes")
        for (name, told), listed in zip(stream.told, stream.seen, strict=True):
            if name == "gap":
                known = {each["jid"]: each for each in listed}
                continue
            contact, action = told["contact"], told["action"]
            before = known.pop(contact["jid"], None)
            assert (before is None) == (action == "added")
            if action == "removed":
                assert before == contact
            else:
                assert before != contact
                known[contact["jid"]] = contact
        assert known == {each["jid"]: each for each in office.people()}
        office.mx.stop()


class TestStatus:
    """What is told of the MX itself."""

    def present(self, house):
        """Give what a stream is told at its start."""
        return [read(frame) for frame in house.listen(Topic.STATUS).backlog.frames]

    def test_comes_and_goes(self, house):
        """The streams hear when the MX goes and when it is back, each once; others hear nothing."""
        stream = house.listen(Topic.STATUS)
        assert self.present(house) == [("status", {"mx": "up"})]
        house.mx.lose()
        assert self.present(house) == [("status", {"mx": "down"})]
        house.mx.reachable = False
        house.mx.clock.advance(60)
        house.mx.come_back()
        assert self.present(house) == [("status", {"mx": "up"})]
        assert [told for told in stream.told if told[0] == "status"] == [
            ("status", {"mx": "down"}),
            ("status", {"mx": "up"}),
        ]
        assert house.streams[ME].names == ["gap"]

    def test_down_before_the_first_connection(self):
        """Until the MX has been reached it is down; the first connection is an event."""
        mx = MemoryMX()
        clock = mx.clock.seconds
        hub = Hub(clock, encode_sse, encode_gap, 16)
        hub.open(ME)
        encoders = Encoders(
            call=encode_call_event, contact=encode_contact_event, status=encode_status
        )
        calls = Calls(mx.link, CallRegistry(clock), True)
        mx.link.listen(Relay(mx.clock, hub, calls, mx.link.monitors, encoders))
        stream = Stream(list)
        (frame,) = hub.subscribe(ME, stream, None, [Topic.STATUS]).frames
        assert read(frame) == ("status", {"mx": "down"})
        mx.start()
        assert stream.told[-1] == ("status", {"mx": "up"})
        mx.stop()

    def test_up_means_that_calls_are_known(self, house):
        """When the return is told, the gap has been, and the calls are asked for."""
        stream = house.listen(Topic.CALLS, Topic.STATUS)
        house.mx.lose()
        house.mx.come_back()
        assert stream.names == ["status", "gap", "status"]

    def test_every_stream_hears_of_the_outage(self, house):
        """The gap of an outage reaches streams of any topics, and of none but the status too."""
        streams = [
            house.listen(*topics)
            for topics in ([Topic.CONTACTS], [Topic.STATUS], [Topic.CONTACTS, Topic.STATUS])
        ]
        house.mx.lose()
        house.mx.come_back()
        assert [stream.names.count("gap") for stream in streams] == [1, 1, 1]
