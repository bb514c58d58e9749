"""The fan-out: every event to every stream of its extension, in order, once, whatever they do."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from mxflex.gateway.hub import Hub, Topic
from tests.unit.hub_ears import NOW, Stream, Time, encode, fail, gap, id_of, texts

SIZE = 4


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def hub(time):
    hub = Hub(time, encode, gap, SIZE)
    hub.open("3095")
    return hub


@pytest.fixture
def join(hub):
    """Give a function that adds a listener to an extension."""

    def join(ext="3095", last_event_id=None):
        stream = Stream()
        stream.backlog = hub.subscribe(ext, stream, last_event_id)
        return stream

    return join


def publish(hub, *texts, ext="3095"):
    for text in texts:
        hub.publish(ext, "e", text.encode())


class TestFanOut:
    """Who gets an event."""

    def test_the_same_bytes_for_all(self, hub, join):
        """An event is written once: every stream gets the very same object."""
        streams = [join() for _ in range(3)]
        publish(hub, "one")
        assert texts(streams[0].received) == ["one"]
        assert len({id(stream.received[0]) for stream in streams}) == 1

    def test_no_event_of_somebody_else(self, hub, join):
        """A stream gets the events of its own extension and no other."""
        hub.open("3044")
        mine, theirs = join(), join("3044")
        publish(hub, "mine")
        publish(hub, "theirs", ext="3044")
        assert texts(mine.received) == ["mine"]
        assert texts(theirs.received) == ["theirs"]

    def test_an_extension_that_is_not_open(self, hub):
        """Events of an extension nobody watches are dropped; subscribing to it is an error."""
        publish(hub, "lost", ext="3044")
        assert not hub.is_open("3044")
        with pytest.raises(KeyError):
            hub.subscribe("3044", Stream(), None)
        hub.open("3044")
        assert hub.subscribe("3044", Stream(), None).frames == []

    def test_opening_twice_forgets_nothing(self, hub, join):
        """A second login of a user leaves streams and history as they are."""
        stream = join()
        publish(hub, "one")
        hub.open("3095")
        publish(hub, "two")
        assert texts(stream.received) == ["one", "two"]
        assert texts(join(last_event_id=stream.backlog.last_id).backlog.frames) == ["one", "two"]

    def test_gap_goes_to_everybody_and_is_kept(self, hub, join):
        """Word of a lost connection reaches every stream of every extension, and latecomers."""
        hub.open("3044")
        streams = [join(), join("3044"), join("3044")]
        begin = streams[0].backlog.last_id
        hub.publish_gap("mx-down", 17)
        assert all(texts(stream.received) == ["mx-down since 17"] for stream in streams)
        assert texts(join(last_event_id=begin).backlog.frames) == ["mx-down since 17"]

    def test_unsubscribing_is_final(self, hub, join):
        """One who has left gets nothing more; leaving again, or never having come, is no error."""
        stream = join()
        assert hub.listeners("3095") == 1
        hub.unsubscribe("3095", stream)
        hub.unsubscribe("3095", stream)
        hub.unsubscribe("3044", stream)
        publish(hub, "one")
        assert stream.received == []
        assert hub.listeners("3095") == hub.listeners("3044") == 0


class TestBacklog:
    """What one begins with."""

    def test_nothing_for_one_who_asks_for_nothing(self, hub, join):
        """Without an id the stream begins with the next event."""
        publish(hub, "one")
        stream = join()
        publish(hub, "two")
        assert stream.backlog.frames == []
        assert texts(stream.received) == ["two"]

    def test_joined_with_the_live_events(self, hub, join):
        """What was missed and what comes make one row without a hole and without a double."""
        begin = join().backlog.last_id
        publish(hub, "one", "two")
        stream = join(last_event_id=begin)
        publish(hub, "three")
        assert texts(stream.backlog.frames + stream.received) == ["one", "two", "three"]
        assert stream.backlog.last_id == id_of(stream.backlog.frames[-1])

    def test_up_to_date(self, hub, join):
        """One who has seen the latest event gets no backlog and no gap."""
        publish(hub, "one")
        latest = join().backlog.last_id
        assert join(last_event_id=latest).backlog.frames == []

    def test_gap_says_why(self, hub, join):
        """A history that cannot go on says so first, then gives what it has of later ids."""
        begin = join().backlog.last_id
        publish(hub, *"abcdef")
        expired, unknown = join(last_event_id=begin), join(last_event_id=-1)
        gap, *kept = expired.backlog.frames
        assert texts([gap]) == [f"expired since {int(NOW)}"]
        assert texts(kept) == list("abcdef")[-SIZE:]
        assert texts(unknown.backlog.frames) == ["unknown-id"]
        assert id_of(unknown.backlog.frames[0]) == unknown.backlog.last_id
        assert join(last_event_id=id_of(gap)).backlog.frames == kept

    @pytest.mark.parametrize("size", [SIZE - 2, SIZE + 2])
    def test_another_number_of_events_is_kept(self, hub, join, size):
        """It counts for who is watched already and for who is watched later, in all topics."""
        begin = join().backlog.last_id
        hub.keep(size)
        hub.open("3044")
        everything = [Topic.CALLS, Topic.CONTACTS]
        for ext in ("3095", "3044"):
            publish(hub, *"abcdefghi", ext=ext)
        for number in range(9):
            hub.announce(Topic.CONTACTS, "e", b"contact %d" % number)
        for ext in ("3095", "3044"):
            missed = texts(hub.subscribe(ext, Stream(), begin, everything).frames)
            wanted = [f"contact {number}" for number in range(9)][-size:]
            assert missed[1:] == [*"abcdefghi"[-size:], *wanted]

    def test_a_gap_is_nobody_elses(self, hub, join):
        """The gap of one stream is neither sent to others nor kept."""
        other = join()
        join(last_event_id=-1)
        assert other.received == []
        assert join(last_event_id=other.backlog.last_id).backlog.frames == []


class TestEnds:
    """How streams end."""

    def test_closing_ends_all_streams_of_the_extension(self, hub, join):
        """A logout ends every stream of the extension once, and none of another."""
        hub.open("3044")
        mine, theirs = [join(), join()], join("3044")
        hub.close("3095")
        hub.close("3095")
        assert [stream.ended for stream in mine] == [1, 1]
        assert theirs.ended == 0
        assert not hub.is_open("3095")

    def test_a_stream_that_fails_at_its_end_hurts_nobody(self, hub, join):
        """Each stream is ended even if the one before it raises."""
        streams = [join(), join(), join()]
        streams[1].on_end = fail
        hub.close("3095")
        assert [stream.ended for stream in streams] == [1, 1, 1]
        assert not hub.is_open("3095")

    def test_ids_are_not_used_again(self, hub, join, time):
        """After a logout and a login, ids go on: an old one is never taken for a new one."""
        publish(hub, *"abcdef")
        old = join().backlog.last_id
        time.now -= 3600
        hub.close("3095")
        hub.open("3095")
        stream = join(last_event_id=old)
        assert texts(stream.backlog.frames) == ["unknown-id"]
        assert stream.backlog.last_id > old
        publish(hub, "g")
        assert id_of(stream.received[0]) > stream.backlog.last_id


class TestWithinSend:
    """Streams that do something while an event is on its way."""

    def test_one_that_raises_is_ended_alone(self, hub, join):
        """A stream with a bug is ended; the others get the event and the next ones."""
        streams = [join(), join(), join()]
        streams[1].on_send = fail
        publish(hub, "one", "two")
        assert [texts(stream.received) for stream in streams] == [
            ["one", "two"],
            ["one"],
            ["one", "two"],
        ]
        assert [stream.ended for stream in streams] == [0, 1, 0]
        assert hub.listeners("3095") == 2

    def test_one_that_raises_at_its_end_too(self, hub, join):
        """A stream whose end fails as well costs the others nothing."""
        first, last = join(), join()
        first.on_send = first.on_end = fail
        publish(hub, "one")
        assert texts(last.received) == ["one"]
        assert hub.listeners("3095") == 1

    def test_one_may_leave(self, hub, join):
        """A stream that leaves on an event gets no other."""
        stream, other = join(), join()
        stream.on_send = lambda: hub.unsubscribe("3095", stream)
        publish(hub, "one", "two")
        assert texts(stream.received) == ["one"]
        assert texts(other.received) == ["one", "two"]

    def test_one_may_take_out_another(self, hub, join):
        """One that has been taken out gets nothing, not even the event that is on its way."""
        first, second = join(), join()
        first.on_send = lambda: hub.unsubscribe("3095", second)
        publish(hub, "one")
        assert second.received == []

    def test_one_may_come(self, hub, join):
        """One that comes meanwhile knows the event as past, and is not sent it."""
        first, came = join(), []
        begin = first.backlog.last_id
        first.on_send = lambda: came.append(join(last_event_id=begin))
        publish(hub, "one", "two")
        assert texts(came[0].backlog.frames + came[0].received) == ["one", "two"]

    def test_all_may_be_ended(self, hub, join):
        """When an event makes its extension close, nobody is sent anything after the end."""
        first, second = join(), join()
        first.on_send = lambda: hub.close("3095")
        publish(hub, "one")
        assert (first.ended, second.ended) == (1, 1)
        assert second.received == []

    def test_an_end_may_open_again(self, hub, join):
        """When the end of a stream opens its extension anew, the new one begins empty."""
        stream = join()
        publish(hub, "one")
        stream.on_end = lambda: hub.open("3095")
        hub.close("3095")
        assert hub.is_open("3095")
        assert hub.listeners("3095") == 0
        again = join(last_event_id=stream.backlog.last_id)
        assert texts(again.backlog.frames) == ["unknown-id"]


EXTENSIONS = ("3044", "3095")


class _Known:
    """What the model knows of an open extension: its beginning and all its events."""

    def __init__(self, begin):
        self.begin = begin
        self.frames = []
        self.streams = []

    def after(self, event_id):
        """Give what one with this id must get first."""
        if event_id is None:
            return []
        known = [self.begin, *map(id_of, self.frames)]
        if event_id in known:
            missed = self.frames[known.index(event_id) :]
            return missed if len(missed) <= SIZE else "expired"
        oldest = self.begin if len(self.frames) <= SIZE else id_of(self.frames[-SIZE - 1])
        return "expired" if self.begin < event_id < oldest else "unknown-id"

    def newer(self, event_id):
        """Give what is still there for one who has missed more than that."""
        kept = self.frames[-SIZE:] if event_id >= 0 else []
        return [frame for frame in kept if id_of(frame) > event_id]


class FanOut(RuleBasedStateMachine):
    """Streams come, go and misbehave at any moment, and the clock does what it wants.

    The model keeps every event there ever was. Each stream must have got exactly the events from
    when it came until it went, behind exactly what it had missed.
    """

    ids = Bundle("ids")

    @initialize()
    def begin(self):
        self.time = Time()
        self.written = []
        self.hub = Hub(self.time, self._encode, gap, SIZE)
        self.known: dict[str, _Known] = {}
        self.last_ids = dict.fromkeys(EXTENSIONS, 0)

    def _encode(self, event_id, name, data):
        frame = encode(event_id, name, data)
        self.written.append(frame)
        return frame

    @rule(step=st.sampled_from([0.0, 0.000001, 1.0, -0.5, -3600.0]))
    def time_passes(self, step):
        self.time.now += step

    @rule(target=ids, ext=st.sampled_from(EXTENSIONS))
    def opens(self, ext):
        self.hub.open(ext)
        begin = self.hub.subscribe(ext, probe := Stream(), None).last_id
        self.hub.unsubscribe(ext, probe)
        if ext not in self.known:
            assert begin > self.last_ids[ext]
            self.last_ids[ext] = begin
            self.known[ext] = _Known(begin)
        return begin

    @rule(ext=st.sampled_from(EXTENSIONS))
    def closes(self, ext):
        self.hub.close(ext)
        self._forget(ext)

    def _forget(self, ext):
        if ext in self.known:
            assert all(stream.ended == 1 for stream in self.known.pop(ext).streams)

    @rule(ext=st.sampled_from(EXTENSIONS), last_event_id=ids | st.sampled_from([None, -1, 0]))
    def comes(self, ext, last_event_id):
        if ext in self.known:
            self._join(ext, last_event_id)

    @rule(ext=st.sampled_from(EXTENSIONS), last_event_id=ids, near=st.integers(-2, 2))
    def comes_with_an_odd_id(self, ext, last_event_id, near):
        if ext in self.known:
            self._join(ext, last_event_id + near)

    def _join(self, ext, last_event_id):
        known, stream = self.known[ext], Stream()
        expected = known.after(last_event_id)
        backlog = self.hub.subscribe(ext, stream, last_event_id)
        if isinstance(expected, str):
            first, *rest = backlog.frames
            since = f" since {last_event_id // 10**6}" if expected == "expired" else ""
            assert first.split(b" ", 1)[1] == f"gap {expected}{since}".encode()
            assert rest == known.newer(last_event_id)
            assert known.after(id_of(first)) == rest
        else:
            assert backlog.frames == expected
        latest = id_of(known.frames[-1]) if known.frames else known.begin
        assert backlog.last_id == latest
        assert all(id_of(frame) <= latest for frame in backlog.frames)
        stream.due = []
        known.streams.append(stream)

    def _stream(self, data, ext):
        streams = self.known[ext].streams if ext in self.known else []
        return data.draw(st.sampled_from(streams)) if streams else None

    @rule(data=st.data(), ext=st.sampled_from(EXTENSIONS))
    def goes(self, data, ext):
        if stream := self._stream(data, ext):
            self._leave(ext, stream)

    def _leave(self, ext, stream):
        self.hub.unsubscribe(ext, stream)
        if stream in self.known[ext].streams:
            self.known[ext].streams.remove(stream)

    @rule(
        data=st.data(),
        ext=st.sampled_from(EXTENSIONS),
        act=st.sampled_from(["raise", "raise twice", "go", "take out", "come", "close"]),
    )
    def will_act(self, data, ext, act):
        """Let one stream do something as soon as its next event comes."""
        stream, other = self._stream(data, ext), self._stream(data, ext)
        if stream is None:
            return

        def go_wrong():
            if act == "raise twice":
                stream.on_end = fail
            self.known[ext].streams.remove(stream)
            fail()

        stream.on_send = {
            "raise": go_wrong,
            "raise twice": go_wrong,
            "go": lambda: self._leave(ext, stream),
            "take out": lambda: self._leave(ext, other),
            "come": lambda: self._join(ext, self.known[ext].begin),
            "close": lambda: self.closes(ext),
        }[act]

    @rule(target=ids, ext=st.sampled_from(EXTENSIONS), text=st.binary(max_size=3))
    def event(self, ext, text):
        if ext not in self.known:
            self.hub.publish(ext, "e", text)
            return 0
        return self._publish(ext, lambda: self.hub.publish(ext, "e", text))

    def _publish(self, ext, act):
        known = self.known[ext]
        before = list(known.streams)
        count = len(self.written)
        # Streams that join from within must find the event in the history already.
        history = known.frames
        encode_before = self._encode

        def note(event_id, name, data):
            frame = encode_before(event_id, name, data)
            history.append(frame)
            self.hub._encode = encode_before
            return frame

        self.hub._encode = note
        act()
        self.hub._encode = encode_before
        frame = self.written[count]
        assert id_of(frame) > self.last_ids[ext]
        self.last_ids[ext] = id_of(frame)
        for stream in before:
            got = stream.received[len(stream.due) :]
            if ext in self.known and stream in known.streams:
                assert got == [frame]
            else:
                assert got in ([], [frame])
            stream.due = list(stream.received)
        return id_of(frame)

    @rule()
    def lost_events(self):
        since = self.time.now
        frames = len(self.written)
        before = {ext: list(known.streams) for ext, known in self.known.items()}
        for streams in before.values():
            for stream in streams:
                stream.on_send = None
        self.hub.publish_gap("mx-down", since)
        new = self.written[frames:]
        assert len(new) == len(self.known)
        for (ext, known), frame in zip(self.known.items(), new, strict=True):
            known.frames.append(frame)
            assert id_of(frame) > self.last_ids[ext]
            self.last_ids[ext] = id_of(frame)
            for stream in before[ext]:
                stream.due.append(frame)

    @invariant()
    def everybody_has_what_is_due(self):
        """No stream has more or less than the events of its time, in their order."""
        if not hasattr(self, "known"):
            return
        for ext in EXTENSIONS:
            known = self.known.get(ext)
            assert self.hub.is_open(ext) is (known is not None)
            assert self.hub.listeners(ext) == (len(known.streams) if known else 0)
            for stream in known.streams if known else []:
                assert stream.received == stream.due
                assert stream.ended == 0

    @invariant()
    def memory_is_bounded(self):
        """No more events are kept than the history's size."""
        if hasattr(self, "hub"):
            for extension in self.hub._extensions.values():
                for channel in extension.channels:
                    assert len(channel.history._events) <= SIZE


TestFanOutMachine = FanOut.TestCase


class TestFigures:
    """What the hub counts."""

    @pytest.fixture
    def turn(self):
        """What is to be done at the end of the reactor's turn."""
        return []

    @pytest.fixture
    def arrivals(self):
        """When the bytes came that are being handled; the last one counts."""
        return [None]

    @pytest.fixture
    def hub(self, time, turn, arrivals):
        hub = Hub(time, encode, gap, SIZE, turn.append, arrived=lambda: arrivals[-1])
        hub.open("3095")
        return hub

    def test_copies(self, hub, join, turn):
        """Every copy for a stream counts, and every event once; nobody there: no copy."""
        publish(hub, "unheard")
        assert turn == []
        join()
        join()
        publish(hub, "one", "two")
        turn.pop()()
        assert hub.sent == 4
        assert hub.published == {"e": 3}

    def test_from_the_first_byte_to_the_last_stream(self, hub, join, time, turn, arrivals):
        """A turn takes from when its first event came until its last stream has it."""
        join()
        join().on_send = lambda: setattr(time, "now", time.now + 0.5)
        arrivals.append(time.now - 0.25)
        publish(hub, "one")
        time.now += 1.0
        arrivals.append(time.now)
        publish(hub, "two")
        turn.pop()()
        assert hub.durations.total == pytest.approx(1.75)
        assert list(hub.durations.up_to())[-1][1] == 1
        # The next turn has a beginning of its own.
        arrivals.append(time.now)
        publish(hub, "three")
        turn.pop()()
        assert hub.durations.total == pytest.approx(1.75)
        assert list(hub.durations.up_to())[-1][1] == 2

    def test_what_came_from_nowhere(self, hub, join, time, turn):
        """What no byte of the MX has brought, such as the news of its loss, has no duration."""
        join()
        hub.publish_gap("mx-down", time.now)
        turn.pop()()
        assert hub.sent == 1
        assert list(hub.durations.up_to())[-1][1] == 0
