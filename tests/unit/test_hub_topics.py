"""Streams with several topics: one row of events, sent by turns, without a hole or a double."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxflex.gateway.hub import MAX_JOINED_BYTES, Hub, Topic
from tests.unit.hub_ears import NOW, Stream, Time, encode, fail, gap, id_of

CALLS, CONTACTS, STATUS = Topic.CALLS, Topic.CONTACTS, Topic.STATUS
SIZE = 4
UP, DOWN = b"up", b"down"


def encode_line(event_id, name, data):
    """Write an event as a line, so that joined ones can be told apart."""
    return encode(event_id, name, data) + b"\n"


def lines(data):
    return b"".join(data).splitlines(keepends=True)


class Turn:
    """The end of the reactor's turn, which comes when the test says so."""

    def __init__(self):
        self._acts = []

    def __call__(self, act):
        self._acts.append(act)

    def end(self):
        acts, self._acts = self._acts, []
        for act in acts:
            act()


class Observer:
    """Keeps what it is told; `fails` makes it raise."""

    def __init__(self):
        self.told = []
        self.fails = False

    def event(self, topic, ext, name, data):
        self.told.append((topic, ext, name, data))
        if self.fails:
            fail()


class House:
    """A hub with one extension, whose events go out when a turn ends."""

    def __init__(self):
        self.time = Time()
        self.turn = Turn()
        self.written = 0
        self.hub = Hub(self.time, self._encode, gap, SIZE, later=self.turn)
        self.hub.open("3095")

    def _encode(self, event_id, name, data):
        self.written += 1
        return encode_line(event_id, name, data)

    def join(self, *topics, ext="3095", last_event_id=None):
        stream = Stream()
        stream.backlog = self.hub.subscribe(ext, stream, last_event_id, topics or (CALLS,))
        return stream

    def call(self, *texts, ext="3095"):
        for text in texts:
            self.hub.publish(ext, "call", text.encode())

    def contact(self, *texts):
        for text in texts:
            self.hub.announce(CONTACTS, "contact", text.encode())

    def status(self, data):
        self.hub.announce_state(STATUS, "status", data)


@pytest.fixture
def house():
    return House()


def words(data):
    """Give name and content of each event."""
    return [line.split(b" ", 1)[1].decode().strip() for line in lines(data)]


class TestTopics:
    """Who gets what."""

    @pytest.mark.parametrize(
        ("topics", "expected"),
        [
            ([CALLS], ["call a", "call d"]),
            ([CONTACTS], ["contact b"]),
            ([STATUS], ["status down"]),
            ([CALLS, STATUS], ["call a", "status down", "call d"]),
            ([CONTACTS, CALLS], ["call a", "contact b", "call d"]),
            ([STATUS, CONTACTS, CALLS], ["call a", "contact b", "status down", "call d"]),
        ],
    )
    def test_a_stream_gets_its_topics_in_order(self, house, topics, expected):
        """A stream hears of its topics alone, in the order in which things happened."""
        house.status(UP)
        house.hub.open("3044")
        stream = house.join(*topics)
        house.call("a")
        house.contact("b")
        house.call("of somebody else", ext="3044")
        house.status(DOWN)
        house.call("d")
        house.turn.end()
        assert words(stream.received) == expected
        ids = [id_of(line) for line in lines(stream.received)]
        assert ids == sorted(set(ids))

    def test_a_topic_is_shared_by_all_extensions(self, house):
        """One event of a topic is the same bytes for the streams of every extension."""
        house.hub.open("3044")
        streams = [house.join(CONTACTS), house.join(CONTACTS, CALLS, ext="3044")]
        house.contact("a")
        house.turn.end()
        assert streams[0].received[0] is streams[1].received[0]
        assert house.written == 1

    def test_a_gap_reaches_every_stream_of_the_extension(self, house):
        """Whatever the topics, lost events of the extension are told, and kept for latecomers."""
        house.hub.open("3044")
        kinds = [[CALLS], [CONTACTS], [STATUS], [CALLS, CONTACTS, STATUS], []]
        streams = [house.join(*topics) for topics in kinds]
        other = house.join(CONTACTS, ext="3044")
        begins = [stream.backlog.last_id for stream in streams]
        house.hub.publish_gap("mx-down", 17, "3095")
        house.turn.end()
        assert [words(stream.received) for stream in streams] == [["gap mx-down since 17"]] * 5
        assert other.received == []
        for topics, begin in zip(kinds, begins, strict=True):
            late = house.join(*topics, last_event_id=begin)
            assert words(late.backlog.frames) == ["gap mx-down since 17"]

    def test_a_gap_of_a_topic_is_for_that_topic(self, house):
        """Lost events of one topic are no loss to streams with other topics."""
        with_it, without = house.join(CALLS, CONTACTS), house.join(CALLS, STATUS)
        house.hub.announce_gap(CONTACTS, "mx-down", 17)
        house.turn.end()
        assert words(with_it.received) == ["gap mx-down since 17"]
        assert without.received == []

    def test_calls_that_are_not_wanted_are_no_loss(self, house):
        """However many calls there were: a stream without them has missed nothing."""
        first = house.join(CONTACTS)
        house.call(*"abcdefgh")
        house.contact("x")
        house.turn.end()
        back = house.join(CONTACTS, last_event_id=first.backlog.last_id)
        assert words(back.backlog.frames) == ["contact x"]

    def test_leaving_leaves_every_topic(self, house):
        """One that has left, or whose extension is closed, gets nothing of any topic."""
        gone, closed = house.join(CALLS, CONTACTS), house.join(CONTACTS, STATUS)
        house.status(UP)
        house.contact("a")
        house.hub.unsubscribe("3095", gone)
        assert house.hub.listeners("3095") == 1
        house.hub.close("3095")
        house.contact("b")
        house.status(DOWN)
        house.turn.end()
        assert gone.received == []
        assert words(closed.received) == ["contact a"]
        assert (gone.ended, closed.ended) == (0, 1)

    @pytest.mark.parametrize("topic", [CALLS, CONTACTS, STATUS])
    def test_one_that_fails_is_out_of_every_topic(self, house, topic):
        """Whichever event a stream fails on, it is ended once and gets nothing more."""
        house.status(UP)
        broken, whole = house.join(*Topic), house.join(*Topic)
        broken.on_send = fail
        acts = {
            CALLS: house.call,
            CONTACTS: house.contact,
            STATUS: lambda text: house.status(text.encode()),
        }
        acts[topic]("first")
        house.turn.end()
        for act in acts.values():
            act("then")
        house.turn.end()
        assert len(lines(broken.received)) == 1
        assert broken.ended == 1
        assert len(lines(whole.received)) == 4
        assert house.hub.listeners("3095") == 1


class TestState:
    """What a stream is told at its start."""

    def test_present_state_at_the_start(self, house):
        """A stream begins with the state as it is; the id is one to come back with."""
        house.status(DOWN)
        house.status(UP)
        house.call("a")
        stream = house.join(CALLS, STATUS)
        assert words(stream.backlog.frames) == ["status up"]
        assert id_of(stream.backlog.frames[0]) == stream.backlog.last_id
        assert stream.received == []
        house.call("b")
        house.turn.end()
        back = house.join(CALLS, STATUS, last_event_id=stream.backlog.last_id)
        assert words(back.backlog.frames) == ["call b", "status up"]

    def test_the_first_state_is_no_event(self, house):
        """What a topic begins with is told at the start of streams, and has not happened."""
        begin = house.join(STATUS).backlog.last_id
        house.status(DOWN)
        assert words(house.join(STATUS).backlog.frames) == ["status down"]
        back = house.join(STATUS, last_event_id=begin)
        assert words(back.backlog.frames) == ["status down"]

    def test_the_same_state_again_is_nothing(self, house):
        """What has not changed is not told once more."""
        house.status(DOWN)
        stream = house.join(STATUS)
        for data in (DOWN, UP, UP, DOWN):
            house.status(data)
        house.turn.end()
        assert words(stream.received) == ["status up", "status down"]

    def test_a_backlog_that_has_it(self, house):
        """A stream that missed the latest change gets it in its place, and once."""
        house.status(DOWN)
        begin = house.join(CALLS, STATUS).backlog.last_id
        house.status(UP)
        house.call("a")
        back = house.join(CALLS, STATUS, last_event_id=begin)
        assert words(back.backlog.frames) == ["status up", "call a"]

    def test_behind_a_gap(self, house):
        """Where events are lost the state comes last, with an id that goes on from there."""
        house.status(UP)
        house.call(*"abcdef")
        back = house.join(CALLS, STATUS, last_event_id=-1)
        assert words(back.backlog.frames) == ["gap unknown-id", "status up"]
        assert [id_of(frame) for frame in back.backlog.frames] == [back.backlog.last_id] * 2
        begin = house.join(CALLS).backlog.last_id
        house.call(*"ghijkl")
        back = house.join(CALLS, STATUS, last_event_id=begin)
        assert words(back.backlog.frames) == [
            f"gap expired since {int(NOW)}",
            *(f"call {text}" for text in "ijkl"),
            "status up",
        ]
        ids = [id_of(frame) for frame in back.backlog.frames]
        assert ids == sorted(ids)

    @pytest.mark.parametrize("kept", [0, 1])
    def test_without_a_history(self, house, kept):
        """A hub that keeps little or nothing still tells the state, with a good id."""
        hub = Hub(house.time, encode_line, gap, kept, later=house.turn)
        hub.open("3095")
        hub.announce_state(STATUS, "status", DOWN)
        hub.announce_state(STATUS, "status", UP)
        backlog = hub.subscribe("3095", Stream(), None, [STATUS])
        assert words(backlog.frames) == ["status up"]
        again = hub.subscribe("3095", Stream(), id_of(backlog.frames[0]), [STATUS])
        assert words(again.frames) == ["status up"]


class TestTurns:
    """What one turn of the reactor brings is sent in one piece."""

    def test_a_turn_is_one_piece(self, house):
        """Events of one turn go out together when it ends, in their order, and once."""
        stream = house.join()
        house.call(*"abc")
        assert stream.received == []
        house.turn.end()
        assert len(stream.received) == 1
        assert words(stream.received) == ["call a", "call b", "call c"]
        house.turn.end()
        house.call("d")
        house.turn.end()
        assert len(stream.received) == 2

    def test_several_extensions_are_joined_each(self, house):
        """Events of different extensions need not break each other's pieces."""
        house.hub.open("3044")
        mine, theirs = house.join(), house.join(ext="3044")
        for text in "abc":
            house.call(text)
            house.call(text, ext="3044")
        house.turn.end()
        assert len(mine.received) == len(theirs.received) == 1
        assert len(lines(mine.received)) == len(lines(theirs.received)) == 3

    @pytest.mark.parametrize("over", [0, 1])
    def test_the_bound_of_a_piece(self, house, over):
        """A piece is never longer than the bound; what would pass it begins the next one."""
        stream = house.join()
        house.call("")
        first = len(encode_line(house.hub.subscribe("3095", Stream(), None).last_id, "call", b""))
        stream.received.clear()
        house.call("x" * 100)
        rest = MAX_JOINED_BYTES - (first + 100)
        house.call("x" * (rest - first + over))
        assert len(stream.received) == over
        house.turn.end()
        assert [len(piece) for piece in stream.received] == (
            [first + 100, rest + 1] if over else [MAX_JOINED_BYTES]
        )

    def test_an_event_longer_than_the_bound(self, house):
        """A single event beyond the bound is a piece of its own, whole and in its place."""
        stream = house.join()
        house.call("a", "x" * MAX_JOINED_BYTES, "b")
        house.turn.end()
        assert [words([piece])[0][:6] for piece in stream.received] == [
            "call a",
            "call x",
            "call b",
        ]

    def test_one_that_joins_within_a_turn(self, house):
        """What came before in the turn is in the backlog, what comes after is live."""
        begin = house.join().backlog.last_id
        first = house.join(CALLS, CONTACTS)
        house.call("a")
        house.contact("b")
        stream = house.join(CALLS, CONTACTS, last_event_id=begin)
        fresh = house.join(CALLS, CONTACTS)
        house.contact("c")
        house.turn.end()
        assert words(stream.backlog.frames) == ["call a", "contact b"]
        assert fresh.backlog.frames == []
        assert words(stream.received) == words(fresh.received) == ["contact c"]
        assert words(first.received) == ["call a", "contact b", "contact c"]

    def test_one_that_joins_while_a_turn_is_sent(self, house):
        """One that comes as the pieces of a turn go out is not sent what its backlog has."""
        house.hub.open("3044")
        begin = house.join(ext="3044").backlog.last_id
        came = []
        first = house.join()
        first.on_send = lambda: came.append(house.join(ext="3044", last_event_id=begin))
        house.call("a")
        house.call("b", ext="3044")
        house.turn.end()
        assert words(came[0].backlog.frames + came[0].received) == ["call b"]


EXTENSIONS = ("3044", "3095")
SIZES = st.sampled_from([0, 1, 300, 8_000, MAX_JOINED_BYTES - 20, MAX_JOINED_BYTES + 1])


@attrs.define(eq=False)
class Client:
    """A client that comes back with the last id it saw, as browsers do.

    Attributes:
        last_id: That id; None before it saw one.
        seen: All events that it saw, but for states at the start and gaps of its own.
        excused: Events whose loss it was told of.
        stream: Its open stream, or None; `due` has all that must come on it.
    """

    ext: str
    topics: frozenset
    last_id: int | None = None
    since: int = 0
    seen: list = attrs.field(factory=list)
    excused: set = attrs.field(factory=set)
    stream: Stream | None = None


class Topics(RuleBasedStateMachine):
    """Clients of any topics, cut off at any frame, while things happen and turns end.

    Each must see every event of its topics in order and once, or be told of the loss; a loss may be
    told only where something is no longer kept.
    """

    @initialize()
    def begin(self):
        self.time = Time()
        self.turn = Turn()
        self.hub = Hub(self.time, self._encode, gap, SIZE, later=self.turn)
        self.status = DOWN
        self.hub.announce_state(STATUS, "status", DOWN)
        # Every event there ever was, by the channels that it belongs to.
        self.frames = {(each, kind): [] for each in EXTENSIONS for kind in ("calls", "gaps")}
        self.frames |= {CONTACTS: [], STATUS: []}
        self.fresh = []
        self.clients = []
        self.number = itertools.count()
        for ext in EXTENSIONS:
            self.hub.open(ext)

    def _encode(self, event_id, name, data):
        frame = encode_line(event_id, name, data)
        self.fresh.append(frame)
        return frame

    def _channels(self, client):
        own = "calls" if CALLS in client.topics else "gaps"
        return [(client.ext, own), *client.topics - {CALLS}]

    def _events(self, client):
        return sorted((f for key in self._channels(client) for f in self.frames[key]), key=id_of)

    @rule(step=st.sampled_from([0.000001, 1.0, -0.5, -3600.0]))
    def time_passes(self, step):
        self.time.now += step

    @rule()
    def turn_ends(self):
        self.turn.end()
        for client in self._open():
            assert b"".join(client.stream.received) == b"".join(client.stream.due)

    # --- Events -------------------------------------------------------------------------------

    def _happens(self, act, *keys):
        """Let an event happen; it is written once, and due on every stream of these channels."""
        self.fresh.clear()
        before = self._open()
        act()
        assert len(self.fresh) == 1
        (frame,) = self.fresh
        for key in keys:
            self.frames[key].append(frame)
        for client in before:
            if client.stream is not None and set(keys) & set(self._channels(client)):
                client.stream.due.append(frame)

    def _text(self, size):
        return b"%d" % next(self.number) + b"x" * size

    @rule(ext=st.sampled_from(EXTENSIONS), size=SIZES)
    def call(self, ext, size):
        text = self._text(size)
        self._happens(lambda: self.hub.publish(ext, "call", text), (ext, "calls"))

    @rule(size=SIZES)
    def contact(self, size):
        text = self._text(size)
        self._happens(lambda: self.hub.announce(CONTACTS, "contact", text), CONTACTS)

    @rule()
    def status_changes(self):
        self.status = UP if self.status is DOWN else DOWN
        self._happens(lambda: self.hub.announce_state(STATUS, "status", self.status), STATUS)

    @rule()
    def status_stays(self):
        self.fresh.clear()
        self.hub.announce_state(STATUS, "status", self.status)
        assert self.fresh == []

    @rule(ext=st.sampled_from(EXTENSIONS))
    def calls_are_lost(self, ext):
        since = next(self.number)
        self._happens(
            lambda: self.hub.publish_gap("mx-down", since, ext), (ext, "calls"), (ext, "gaps")
        )

    @rule()
    def contacts_are_lost(self):
        since = next(self.number)
        self._happens(lambda: self.hub.announce_gap(CONTACTS, "mx-down", since), CONTACTS)

    # --- Clients ------------------------------------------------------------------------------

    def _open(self):
        return [client for client in self.clients if client.stream is not None]

    @rule(ext=st.sampled_from(EXTENSIONS), topics=st.frozensets(st.sampled_from(Topic)))
    def comes(self, ext, topics):
        self.clients.append(client := Client(ext, topics))
        self._connect(client)

    @rule(data=st.data())
    def comes_back(self, data):
        if away := [client for client in self.clients if client.stream is None]:
            self._connect(data.draw(st.sampled_from(away)))

    def _connect(self, client):
        stream = Stream()
        stream.due = []
        events = self._events(client)
        backlog = self.hub.subscribe(client.ext, stream, client.last_id, client.topics)
        client.stream = stream
        assert backlog.last_id >= max(map(id_of, events), default=0)
        stream.frames = list(backlog.frames)
        stream.opening = None if backlog.frames else backlog.last_id
        self._check(client, list(backlog.frames), backlog.last_id, events)
        if client.last_id is None:
            client.since = backlog.last_id

    def _check(self, client, rest, last_id, events):
        """Hold what a stream begins with to what the client has not seen."""
        ids = [client.last_id or 0, *map(id_of, rest), last_id]
        assert ids == sorted(ids)
        missed, lost = [], []
        if client.last_id is not None:
            kept = {f for key in self._channels(client) for f in self.frames[key][-SIZE:]}
            later = [frame for frame in events if id_of(frame) > client.last_id]
            missed = [frame for frame in later if frame in kept]
            lost = [frame for frame in later if frame not in kept]
        if lost:
            told = rest.pop(0).split(b" ", 1)[1]
            assert told == b"gap expired since %d\n" % (client.last_id // 1_000_000)
            client.excused.update(lost)
        if STATUS in client.topics and self.frames[STATUS][-1:] not in [
            [frame] for frame in missed
        ]:
            assert rest.pop() == encode_line(last_id, "status", self.status)
        assert rest == missed

    @rule(data=st.data(), where=st.integers(0, 12))
    def is_cut_off(self, data, where):
        """Let a client go that has read only the first few of the frames that were sent to it."""
        if not self._open():
            return
        client = data.draw(st.sampled_from(self._open()))
        stream, client.stream = client.stream, None
        self.hub.unsubscribe(client.ext, stream)
        self._read(client, stream, where)

    def _read(self, client, stream, count):
        if stream.opening is not None:
            client.last_id = stream.opening
        events = set(self._events(client))
        for frame in (stream.frames + lines(stream.received))[:count]:
            client.last_id = id_of(frame)
            if frame in events and frame not in client.seen[-1:]:
                client.seen.append(frame)

    @rule(data=st.data())
    def fails(self, data):
        """Let a stream fail on its next piece: it is out of everything, and reads nothing of it."""
        if not self._open():
            return
        client = data.draw(st.sampled_from(self._open()))
        stream = client.stream

        def go_wrong():
            client.stream = None
            stream.received.pop()
            self._read(client, stream, 1000)
            fail()

        stream.on_send = go_wrong

    @rule(data=st.data())
    def takes_out(self, data):
        """Let a stream end another one, or itself, on its next piece."""
        if not self._open():
            return
        client, other = (data.draw(st.sampled_from(self._open())) for _ in range(2))

        def act():
            if other.stream is not None:
                stream, other.stream = other.stream, None
                self.hub.unsubscribe(other.ext, stream)
                self._read(other, stream, 1000)

        client.stream.on_send = act

    # --- What holds at any time ---------------------------------------------------------------

    @invariant()
    def pieces_are_whole_and_bounded(self):
        """What has gone out is the beginning of what is due, cut between events."""
        for client in self._open():
            stream = client.stream
            sent = lines(stream.received)
            assert sent == stream.due[: len(sent)]
            for piece in stream.received:
                assert len(piece) <= MAX_JOINED_BYTES or len(lines([piece])) == 1

    @invariant()
    def nobody_misses_anything(self):
        """Up to where a client has read, it has seen everything once or was told of the loss."""
        for client in self.clients:
            ids = [id_of(frame) for frame in client.seen]
            assert ids == sorted(set(ids))
            if client.last_id is not None:
                due = {
                    frame
                    for frame in self._events(client)
                    if client.since < id_of(frame) <= client.last_id
                }
                assert due - set(client.seen) - client.excused == set()

    @invariant()
    def who_is_there_is_counted(self):
        """The hub knows just the open streams."""
        for ext in EXTENSIONS:
            present = [client for client in self._open() if client.ext == ext]
            assert self.hub.listeners(ext) == len(present)
        for topic, channel in self.hub._topics.items():
            assert set(channel.listeners) == {
                client.stream for client in self._open() if topic in client.topics
            }


TestTopicsMachine = Topics.TestCase
# A row of several things on one stream is rare among all that may happen.
TestTopicsMachine.settings = settings(max_examples=400)


def test_observers_hear_of_each_event_once():
    """However many streams there are, an observer is told of an event, a state or a gap once."""
    house, observer = House(), Observer()
    house.hub.observe(observer)
    house.join(CALLS, CONTACTS)
    house.join(CALLS)
    house.hub.publish("3095", "DeliveredEvent", b"1")
    house.hub.publish("3044", "DeliveredEvent", b"nobody's")
    house.hub.announce(CONTACTS, "ContactEvent", b"2")
    for state in (UP, UP, DOWN):
        house.hub.announce_state(STATUS, "status", state)
    house.hub.publish_gap("mx-down", NOW)
    house.hub.publish_gap("mx-down", NOW, "3095")
    house.hub.publish_gap("mx-down", NOW, "3044")
    house.hub.announce_gap(CONTACTS, "mx-down", NOW)
    data = gap("mx-down", NOW)
    assert observer.told == [
        (CALLS, "3095", "DeliveredEvent", b"1"),
        (CONTACTS, None, "ContactEvent", b"2"),
        (STATUS, None, "status", DOWN),
        (None, None, "gap", data),
        (None, "3095", "gap", data),
        (CONTACTS, None, "gap", data),
    ]


def test_an_observer_that_fails():
    """An observer with a bug keeps nobody else from an event."""
    house, bad, good = House(), Observer(), Observer()
    bad.fails = True
    for observer in (bad, good):
        house.hub.observe(observer)
    stream = house.join(CALLS)
    house.hub.publish("3095", "DeliveredEvent", b"1")
    house.turn.end()
    assert len(good.told) == len(stream.received) == 1
