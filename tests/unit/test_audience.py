"""The rows of an audience: whatever sockets take or not, each stream gets everything, in order."""

from __future__ import annotations

from ssl import SSLWantReadError

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxflex.web.audience import TOGETHER, Lone, SocketAudience

KINDS = ["sockets", "senders", "lone"]
# What a socket does with the next bytes: it takes all, a part, none, or is full or broken.
TAKES = ["all", "part", "none", "error"]
CREDIT = 50
TEXTS = [b"", b"a", b"b" * 20, b"c" * 17_000]


class Ear:
    """A stream with a connection: its socket, its TLS, and the queue in front of both.

    What the client will have got in the end is `got`, with TLS as a mark around each record.
    """

    record_bytes = 4096

    def __init__(self, kind, audiences):
        self.kind = kind
        self.audiences = audiences
        self.takes = "all"
        self.broken_tls = False
        self.got = b""
        self.queued = False
        self.in_rows = False
        self.long_way = 0
        self._record = b""
        self.row_key = {"sockets": self.socket_send, "senders": self, "lone": None}[kind]

    def socket_send(self, data):
        assert not self.queued, "sent past the queue"
        if self.takes == "error":
            raise BlockingIOError
        count = {"all": len(data), "part": len(data) // 2, "none": 0}[self.takes]
        self.got += data[:count]
        return count

    def encrypt(self, data):
        assert len(data) <= self.record_bytes
        if self.broken_tls:
            raise SSLWantReadError
        self._record = b"<" + data + b">"
        return len(data)

    def encrypted(self, _limit):
        record, self._record = self._record, b""
        return record

    @property
    def send(self):
        """Be the socket's `send` for the rows of TLS, and the listener's for the hub."""
        return self.socket_send

    def step_in(self):
        if self.kind == "lone":
            self.row_key = Lone(self, b"\0\0\0\1", CREDIT)
        self.in_rows = True
        for audience in self.audiences:
            audience.fall_in(self, (getattr(audience, self.kind), self.row_key))

    def step_out(self):
        self.in_rows = False
        for audience in self.audiences:
            audience.fall_out(self)

    def owe(self, rest):
        self.step_out()
        self.got += rest
        self.queued = True

    def framed(self, data):
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        frame = len(data).to_bytes(3, "big") + b"\0\0\0\0\0\1" + data
        return {"sockets": chunk, "senders": b"<" + chunk + b">", "lone": b"<" + frame + b">"}[
            self.kind
        ]


class Rows(RuleBasedStateMachine):
    """Streams of two channels; some follow both."""

    @initialize()
    def begin(self):
        self.audiences = SocketAudience(), SocketAudience()
        self.ears = []
        self.expected = {}

    @rule(kind=st.sampled_from(KINDS), which=st.sampled_from([(0,), (1,), (0, 1)]))
    def comes(self, kind, which):
        ear = Ear(kind, [self.audiences[number] for number in which])
        for audience in ear.audiences:
            audience.add(ear)
        self.ears.append(ear)
        self.expected[ear] = b""

    def _one(self, data):
        return data.draw(st.sampled_from(self.ears)) if self.ears else None

    @rule(data=st.data())
    def catches_up(self, data):
        ear = self._one(data)
        if ear is not None and not ear.in_rows:
            ear.queued = False
            ear.step_in()

    @rule(data=st.data(), takes=st.sampled_from(TAKES), broken_tls=st.booleans())
    def changes(self, data, takes, broken_tls):
        ear = self._one(data)
        if ear is not None:
            ear.takes, ear.broken_tls = takes, broken_tls

    @rule(data=st.data())
    def goes(self, data):
        ear = self._one(data)
        if ear is not None:
            for audience in ear.audiences:
                audience.remove(ear)
                audience.remove(ear)
            self.ears.remove(ear)
            if ear.in_rows:
                ear.step_out()
            # Whoever has left cannot come back by catching up.
            ear.step_in()
            assert all(ear not in audience for audience in ear.audiences)

    @rule(
        which=st.sampled_from([0, 1]), text=st.sampled_from([b"", b"a", b"b" * 20, b"c" * 17_000])
    )
    def event(self, which, text):
        audience = self.audiences[which]
        members = set(audience)
        in_rows = {ear for ear in members if ear.in_rows}
        sent_before = audience.sent
        others = audience.send_at_once(text)
        assert audience.sent == sent_before + len(text)
        assert len(others) == len(set(others))
        assert members - in_rows <= set(others) <= members
        for ear in members:
            self.expected[ear] += ear.framed(text)
        for ear in others:
            assert not ear.in_rows
            # The hub sends to these; they queue, or not, as the writers do.
            ear.got += ear.framed(text)
            ear.queued = True
        for ear in in_rows - set(others):
            assert ear.in_rows is not ear.queued

    @invariant()
    def everybody_has_everything(self):
        for ear in self.ears:
            assert ear.got == self.expected[ear]
        for audience in self.audiences:
            members = [ear for ear in self.ears if audience in ear.audiences]
            assert len(audience) == len(members)
            assert set(audience) == set(members)


TestRows = Rows.TestCase


def test_a_stream_of_another_number_has_frames_of_its_own():
    """The frame is made once for each number of a stream, and names it."""
    audience = SocketAudience()
    ears = [Ear("lone", [audience]) for _ in range(3)]
    numbers = [1, 7, 1]
    for ear, number in zip(ears, numbers, strict=True):
        audience.add(ear)
        lone = Lone(ear, number.to_bytes(4, "big"), CREDIT)
        audience.fall_in(ear, (audience.lone, lone))
    assert audience.send_at_once(b"event") == []
    assert [ear.got[6:10] for ear in ears] == [number.to_bytes(4, "big") for number in numbers]
    assert [lone.credit for lone in audience.lone] == [CREDIT - 5] * 3
    assert [lone.frames for lone in audience.lone] == [1] * 3


@pytest.mark.parametrize("kind", ["senders", "lone"])
def test_more_than_are_sent_to_together(kind):
    """Where one lot ends and the next begins everybody gets their own, whatever the others do."""
    audience = SocketAudience()
    ears = [Ear(kind, [audience]) for _ in range(2 * TOGETHER + 2)]
    for ear in ears:
        audience.add(ear)
        ear.step_in()
    broken, full, half = ears[1], ears[TOGETHER - 1], ears[2 * TOGETHER]
    broken.broken_tls, full.takes, half.takes = True, "error", "part"
    assert audience.send_at_once(b"event") == [broken]
    for ear in ears:
        assert ear.got == (b"" if ear is broken else ear.framed(b"event"))
    assert [ear for ear in ears if ear.queued] == [full, half]
    assert [ear for ear in ears if not ear.in_rows] == [broken, full, half]


def test_no_further_than_the_window():
    """A stream whose window does not take an event is left to those who know the windows."""
    audience = SocketAudience()
    ear = Ear("lone", [audience])
    audience.add(ear)
    ear.step_in()
    assert audience.send_at_once(b"x" * CREDIT) == []
    assert audience.send_at_once(b"y") == [ear]
    assert ear.got == ear.framed(b"x" * CREDIT)
    assert not ear.in_rows
