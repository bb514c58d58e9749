"""`AddressBook` against a server whose book changes while it is read."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mxflex.errors import CommandRefused, MXTimeout, MXUnavailable
from mxflex.mx import addressbook
from mxflex.mx.addressbook import MAX_READINGS, AddressBook, Change
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookAdded,
    AddressBookChanged,
    AddressBookDeleted,
    AddressBookEntry,
    AddressBookPage,
    CSTAError,
    GetAddressBook,
    Presence,
)
from tests.protocol.memory_mx import TIMEOUT, Peer, outcome_of, person


class Ears:
    """A listener that keeps what it is told (see `mxflex.mx.addressbook.BookListener`).

    Attributes:
        shown: The book by what was told alone, from the first reading on.
        changes: The changes that were told, one by one.
        readings: The changes that came with each reading.
    """

    def __init__(self, book):
        self.shown = {}
        self.changes = []
        self.readings = []
        self._book = book
        book.listen(self)

    def contact_changed(self, change):
        self.changes.append(change)
        self._take(change)

    def contacts_read(self, changes):
        if not self.readings:
            self.shown = dict(self._book.entries)
            assert changes == []
        self.readings.append(changes)
        for change in changes:
            self._take(change, whole=False)

    def _take(self, change, whole=True):
        known, entry = change.known, change.entry
        jid = (known or entry).jid
        assert known != entry, "nothing has changed"
        assert self.shown.get(jid) == known
        # What is told is true already.
        assert self._book.entries.get(jid) == entry
        if entry is None:
            del self.shown[jid]
        else:
            self.shown[jid] = entry
        if whole:
            assert self.shown == self._book.entries


class Bench:
    """An address book, a server's book, and the connection between them.

    Attributes:
        book: The address book under test.
        people: What the server knows, by id; its pages are in the order of the extensions.
        page_size: Entries in a page of the server.
        size: What the server says is the size, from the true one.
        with_index: Whether its pages have numbers.
    """

    def __init__(self, count=0, page_size=50):
        self.clock = Clock()
        self.book = AddressBook()
        self.ears = Ears(self.book)
        self.peer = Peer(self.clock, on_event=self.book.observe).connect().secure()
        self.people = {each.jid: each for each in map(person, range(count))}
        self.page_size = page_size
        self.size = lambda true: true
        self.with_index = True
        self.answered = 0

    def read(self):
        """Begin to read; give what comes of it."""
        return outcome_of(Deferred.fromCoroutine(self.book.read(self.peer.protocol)))

    @property
    def asked(self):
        """The page numbers asked for so far."""
        return [command.index for command in self.peer.commands(GetAddressBook)]

    def page(self, index):
        """Give a page as the server has it now."""
        people = sorted(self.people.values(), key=lambda each: (each.ext, each.jid))
        first = index * self.page_size
        return AddressBookPage(
            size=self.size(len(people)),
            index=index if self.with_index else None,
            entries=tuple(people[first : first + self.page_size]),
        )

    def answer(self):
        """Answer the oldest request that is not answered; tell whether there was one."""
        if self.answered == len(self.asked):
            return False
        index = self.asked[self.answered]
        self.answered += 1
        self.peer.event(self.page(index))
        return True

    def answer_all(self, limit=1000):
        """Answer until nothing is asked any more."""
        for _ in range(limit):
            if not self.answer():
                return
        raise AssertionError("the reading does not end")

    # What happens at the server, with the event that tells of it.

    def add(self, entry):
        self.people[entry.jid] = entry
        self.peer.event(AddressBookAdded(entry=entry))

    def change(self, entry):
        self.people[entry.jid] = entry
        self.peer.event(AddressBookChanged(entry=entry))

    def delete(self, jid):
        del self.people[jid]
        self.peer.event(AddressBookDeleted(jid=jid))

    def presence(self, jid, status, note):
        entry = self.people[jid]
        self.people[jid] = attrs.evolve(
            entry, presence=status, note=entry.note if note is None else note
        )
        self.peer.event(Presence(jid=jid, status=status, note=note))

    def agrees(self):
        """Tell whether the book under test is the server's."""
        return self.book.entries == self.people


# --- Pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 7, 50, 64])
@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 100, 101, 120])
@pytest.mark.parametrize("with_index", [True, False])
def test_all_pages(count, page_size, with_index):
    """Every page is read, whatever its size, and none beyond the last one is asked for."""
    bench = Bench(count, page_size)
    bench.with_index = with_index
    outcome = bench.read()
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()
    assert bench.book.loaded
    assert bench.asked == list(range(max(1, -(-count // page_size))))


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(lambda true: None, id="absent"),
        pytest.param(lambda true: 0, id="zero"),
        pytest.param(lambda true: -1, id="negative"),
        pytest.param(lambda true: true - 1, id="one too few"),
        pytest.param(lambda true: true + 1, id="one too many"),
        pytest.param(lambda true: 10**9, id="enormous"),
        pytest.param(lambda true: -(-true // 50), id="pages"),
    ],
)
@pytest.mark.parametrize("count", [1, 120])
def test_size_is_nonsense(size, count):
    """Where the size does not count people, the first page that brings nobody new is the end."""
    bench = Bench(count)
    bench.size = size
    outcome = bench.read()
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()
    assert len(bench.asked) <= -(-count // 50) + 1


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("ending", ["silence", "refusal"])
def test_no_page_behind_the_last(size, ending):
    """A server that counts pages and has no answer behind the last one is read all the same."""
    bench = Bench(120)
    bench.size = lambda true: size
    outcome = bench.read()
    for _ in range(3):
        bench.answer()
    assert outcome == []
    if ending == "silence":
        bench.clock.advance(TIMEOUT)
    else:
        bench.peer.event(CSTAError(text="invalidIndex"))
    assert outcome == [None]
    assert bench.agrees()


def test_same_page_for_ever():
    """A server that gives its first page whatever is asked is not asked for ever."""
    bench = Bench(50)
    bench.size = lambda true: 1000
    bench.with_index = False
    bench.page = lambda index: Bench.page(bench, 0)
    outcome = bench.read()
    bench.answer_all(3)
    assert outcome == [None]
    assert bench.agrees()


def test_endless_book(monkeypatch, logged):
    """A server that always has somebody new is stopped at a bound, which the log tells."""
    monkeypatch.setattr(addressbook, "MAX_PAGES", 20)
    bench = Bench()
    bench.page = lambda index: AddressBookPage(size=10**9, index=index, entries=(person(index),))
    outcome = bench.read()
    bench.answer_all(21)
    assert outcome == [None]
    assert len(bench.book.entries) == 20
    assert logged.about("did not end after 20 pages")


def test_entries_without_an_id():
    """An entry without an id cannot be told from others; it is left out, and counted."""
    bench = Bench(2)
    nobody = (AddressBookEntry(first_name="x"), AddressBookEntry(first_name="y"))
    page = bench.page(0)
    bench.page = lambda index: attrs.evolve(page, size=4, entries=page.entries + nobody)
    outcome = bench.read()
    bench.answer()
    assert outcome == [None]
    assert bench.agrees()


def test_page_of_an_earlier_reading():
    """A late page of a reading that was given up is not taken for another page of the next one."""
    bench = Bench(120)
    first = bench.read()
    bench.answer()
    late = bench.page(1)
    bench.clock.advance(TIMEOUT)
    assert isinstance(first[0], MXTimeout)
    bench.answered = len(bench.asked)
    second = bench.read()
    bench.peer.event(late)
    assert second == []
    bench.answer_all()
    assert second == [None]
    assert bench.agrees()


def test_answers_before_the_pages():
    """A server that answers each request and then sends the page is read like any other."""
    bench = Bench(120)
    outcome = bench.read()
    while not outcome:
        bench.peer.reply(bench.peer.ids()[-1], Acknowledgement(name="iqResponse"))
        bench.answer()
    assert outcome == [None]
    assert bench.agrees()


def test_literal_page():
    """A literal page as it is known from the wire: attributes of one entry, empty elements."""
    bench = Bench()
    outcome = bench.read()
    bench.peer.deliver(
        encode_frame(
            9999,
            b'<ablist size="1"><abentry jid="43884851147406145" presence="Available" '
            b'presenceNote=""><firstName>Jane</firstName><lastName>Doe</lastName>'
            b"<businessPhone>3095</businessPhone><homePhone></homePhone>"
            b"<homeSystem></homeSystem></abentry></ablist>",
        )
    )
    assert outcome == [None]
    entry = bench.book.entries[43884851147406145]
    assert (entry.first_name, entry.ext, entry.home_system) == ("Jane", "3095", None)


# --- Failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["refused", "refused by event", "unanswered", "lost"])
@pytest.mark.parametrize("pages_before", [0, 1])
def test_failed_reading_keeps_the_old_book(ending, pages_before):
    """A reading that fails leaves the book as it was, with the changes that came meanwhile."""
    bench = Bench(60)
    bench.read()
    bench.answer_all()
    outcome = bench.read()
    for _ in range(pages_before):
        bench.answer()
    bench.change(person(3, first_name="New"))
    if ending == "refused":
        bench.peer.reply(bench.peer.ids()[-1], CSTAError(text="URM Denied"))
    elif ending == "refused by event":
        bench.peer.event(CSTAError(text="URM Denied"))
    elif ending == "unanswered":
        bench.clock.advance(TIMEOUT)
    else:
        bench.peer.lose()
    expected = {"unanswered": MXTimeout, "lost": MXUnavailable}.get(ending, CommandRefused)
    assert isinstance(outcome[0], expected)
    assert bench.agrees()
    assert len(bench.book.entries) == 60
    assert bench.book.loaded


def test_first_reading_that_fails():
    """A book that was never read says so, whatever changes were told meanwhile."""
    bench = Bench(1)
    outcome = bench.read()
    bench.add(person(9))
    bench.clock.advance(TIMEOUT)
    assert isinstance(outcome[0], MXTimeout)
    assert not bench.book.loaded


def test_changes_after_a_failed_reading_are_not_kept_twice():
    """After a failed reading changes go to the one book that is left."""
    bench = Bench(1)
    bench.read()
    bench.clock.advance(TIMEOUT)
    bench.add(person(9))
    bench.answered = len(bench.asked)
    bench.delete(person(9).jid)
    outcome = bench.read()
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()


# --- Changes --------------------------------------------------------------------------------------


@pytest.fixture
def small():
    """Give a book of four people that has been read."""
    bench = Bench(4)
    bench.read()
    bench.answer_all()
    return bench


def test_live_changes(small):
    """After the reading the book follows each event."""
    small.add(person(10, first_name="New"))
    assert small.agrees()
    small.change(person(2, ext="9999"))
    assert small.agrees()
    small.delete(person(1).jid)
    assert small.agrees()
    small.presence(person(3).jid, "LoggedOut", "gone")
    assert small.agrees()


def test_addition_of_the_known_and_change_of_the_unknown(small):
    """Servers mix up the two; the last word counts in any case."""
    small.add(person(2, first_name="Again"))
    small.change(person(11, first_name="New"))
    assert small.agrees()


def test_deletion_of_the_unknown(small):
    """Somebody nobody knew may be deleted, also without saying who."""
    small.peer.event(AddressBookDeleted(jid=1))
    small.peer.event(AddressBookDeleted(jid=None))
    assert small.agrees()


def test_change_without_an_id(small, logged):
    """A record without an id changes nothing, and is logged."""
    small.peer.event(AddressBookAdded(entry=AddressBookEntry(first_name="x")))
    assert small.agrees()
    assert logged.about("without an id")


@pytest.mark.parametrize(("note", "expected"), [(None, "lunch"), ("", ""), ("meeting", "meeting")])
def test_presence_note(small, note, expected):
    """A presence without a note leaves the known one, an empty one clears it."""
    jid = person(1).jid
    small.presence(jid, "Away", "lunch")
    small.presence(jid, "Available", note)
    assert (small.book.entries[jid].presence, small.book.entries[jid].note) == (
        "Available",
        expected,
    )


def test_presence_without_a_status(small):
    """A presence that has only a note leaves the status."""
    jid = person(1).jid
    small.peer.event(Presence(jid=jid, note="lunch"))
    assert (small.book.entries[jid].presence, small.book.entries[jid].note) == (
        "Available",
        "lunch",
    )


@pytest.mark.parametrize("jid", [None, 0, 12345])
def test_presence_of_nobody(small, jid):
    """One's own presence, and that of somebody unknown, changes nothing."""
    small.peer.event(Presence(jid=jid, status="Away"))
    assert small.agrees()


def test_changes_are_told(small):
    """Whoever comes, changes or goes is told with what was known before, and counted."""
    added, known = person(10), person(1)
    away = attrs.evolve(known, presence="Away")
    steps = [
        (lambda: small.add(added), Change(None, added)),
        (lambda: small.delete(added.jid), Change(added, None)),
        (lambda: small.presence(known.jid, "Away", None), Change(known, away)),
        (lambda: small.change(known), Change(away, known)),
    ]
    for act, change in steps:
        version = small.book.version
        act()
        assert small.ears.changes[-1] == change
        assert small.book.version > version
    assert len(small.ears.changes) == len(steps)


def test_what_changes_nothing_is_not_told(small):
    """An event that says what is known already, or is of nobody, is no change."""
    version = small.book.version
    small.change(person(1))
    small.add(person(2))
    small.presence(person(3).jid, person(3).presence, None)
    small.peer.event(Presence(jid=12345, status="Away"))
    small.peer.event(AddressBookDeleted(jid=12345))
    assert small.ears.changes == []
    assert small.book.version == version


def test_nothing_is_told_of_a_book_that_was_never_read():
    """Changes before the first reading, and that reading itself, are no news to anybody."""
    bench = Bench(4)
    bench.add(person(9))
    bench.read()
    bench.change(person(9, first_name="New"))
    bench.answer_all()
    assert bench.agrees()
    assert (bench.ears.changes, bench.ears.readings) == ([], [[]])


def test_another_reading_tells_the_differences(small):
    """A reading after a lost link tells what has changed meanwhile, and nothing else."""
    gone, changed, new = person(1), person(2, did="5"), person(10)
    del small.people[gone.jid]
    small.people |= {changed.jid: changed, new.jid: new}
    version = small.book.version
    small.read()
    # What is told while it is read is not told once more.
    small.presence(person(0).jid, "Away", None)
    small.answer_all()
    assert small.agrees()
    differences = [Change(gone, None), Change(person(2), changed), Change(None, new)]
    assert small.ears.readings[1:] == [differences]
    assert len(small.ears.changes) == 1
    assert small.book.version > version + 1


def test_a_listener_that_fails(small, logged):
    """A listener with a bug costs neither the book nor the other listeners anything."""

    class Broken:
        def contact_changed(self, change):
            raise ZeroDivisionError

        contacts_read = contact_changed

    small.book._listeners.insert(0, Broken())
    small.add(person(10))
    outcome = small.read()
    small.answer_all()
    assert outcome == [None]
    assert small.agrees()
    assert len(small.ears.changes) == 1
    assert len(small.ears.readings) == 2
    assert len(logged.take_failures()) == 2


def test_readers_see_no_half_book(small):
    """While it is read again the book stays whole, and is replaced in one go."""
    small.page_size = 1
    before = dict(small.book.entries)
    small.people = {person(7).jid: person(7), person(8).jid: person(8)}
    outcome = small.read()
    small.answer()
    assert small.book.entries == before
    small.answer()
    assert outcome == [None]
    assert small.agrees()


# --- Changes while it is read ---------------------------------------------------------------------


def test_update_of_a_page_to_come_does_not_end_the_reading():
    """People who change before their page comes are no sign that the pages are over."""
    bench = Bench(6, page_size=2)
    bench.read()
    bench.answer_all()
    asked = len(bench.asked)
    outcome = bench.read()
    bench.answer()
    for number in (2, 3):
        bench.presence(person(number).jid, "Away", None)
        bench.change(attrs.evolve(bench.people[person(number).jid], presence="Busy"))
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()
    assert len(bench.asked) > asked


def test_deletion_shifts_the_pages():
    """Somebody who slips to a page that has gone by, as one before is deleted, is not lost."""
    bench = Bench(6, page_size=2)
    outcome = bench.read()
    bench.answer()
    bench.delete(person(0).jid)
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()


def test_renumbering_shifts_the_pages():
    """The same where somebody gets another extension, by which the server sorts."""
    bench = Bench(6, page_size=2)
    outcome = bench.read()
    bench.answer()
    bench.change(person(0, ext="9999"))
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()


def test_addition_of_somebody_who_was_known_long_ago():
    """Somebody from the book of the last connection who comes back is new to this one's pages."""
    bench = Bench(6, page_size=2)
    bench.read()
    bench.answer_all()
    gone = [bench.people.pop(person(number).jid) for number in (0, 1)]
    outcome = bench.read()
    bench.answer()
    for each in gone:
        bench.add(each)
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()


def test_presence_while_reading_costs_no_second_reading():
    """A presence moves nobody: a busy office does not make the reading begin again."""
    bench = Bench(6, page_size=2)
    outcome = bench.read()
    bench.answer()
    bench.presence(person(0).jid, "Away", "lunch")
    bench.presence(person(5).jid, "Away", None)
    bench.change(attrs.evolve(bench.people[person(1).jid], presence="Busy", note="x"))
    bench.answer_all()
    assert outcome == [None]
    assert bench.agrees()
    assert bench.asked == [0, 1, 2]


def test_book_that_never_rests(logged):
    """A book that changes all the time is read five times at most, and then kept as it is."""
    bench = Bench(4, page_size=2)
    outcome = bench.read()
    number = 100
    while not outcome:
        bench.add(person(number))
        number += 1
        bench.answer()
        assert number < 1000
    assert outcome == [None]
    assert bench.book.loaded
    assert bench.asked.count(0) == MAX_READINGS
    assert logged.about("changed all the time")


_PEOPLE = 12
_CHANGES = st.one_of(
    st.tuples(st.just("put"), st.integers(0, _PEOPLE), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("delete"), st.integers(0, _PEOPLE)),
    st.tuples(
        st.just("presence"),
        st.integers(0, _PEOPLE),
        st.sampled_from(["Available", "Away"]),
        st.sampled_from([None, "", "lunch"]),
    ),
)


def _apply(bench, change):
    """Let the server's book change, in the way the server would tell it."""
    kind, number, *rest = change
    jid = person(number).jid
    known = jid in bench.people
    if kind == "put":
        ext, mixed_up = rest
        entry = person(number, ext=str(3000 + ext))
        (bench.change if known is not mixed_up else bench.add)(entry)
    elif kind == "delete" and known:
        bench.delete(jid)
    elif kind == "presence" and known:
        bench.presence(jid, *rest)


@given(
    # Who was known from an earlier connection, with other extensions than now.
    stale=st.lists(st.tuples(st.integers(0, _PEOPLE), st.integers(0, 30)), max_size=8),
    present=st.lists(st.tuples(st.integers(0, _PEOPLE), st.integers(0, 30)), max_size=_PEOPLE),
    page_size=st.integers(1, 5),
    with_index=st.booleans(),
    # One batch may shift one reading: four leave the fifth in peace.
    batches=st.lists(
        st.tuples(st.integers(0, 12), st.lists(_CHANGES, min_size=1, max_size=6)), max_size=4
    ),
)
def test_the_book_is_the_servers(stale, present, page_size, with_index, batches):
    """Whatever changes before, between and after the pages, the book ends as the server's."""
    bench = Bench(page_size=page_size)
    bench.people = {person(n).jid: person(n, ext=str(3000 + e)) for n, e in stale}
    bench.read()
    bench.answer_all()
    assert bench.agrees()
    bench.people = {person(n).jid: person(n, ext=str(3000 + e)) for n, e in present}
    bench.with_index = with_index
    outcome = bench.read()
    turn = 0
    while not outcome:
        for when, changes in batches:
            if when == turn:
                for change in changes:
                    _apply(bench, change)
        turn += 1
        assert bench.answer()
    for when, changes in batches:
        if when >= turn:
            for change in changes:
                _apply(bench, change)
    assert outcome == [None]
    assert bench.agrees()
    # Whoever has the first book and goes by what is told has the last one.
    assert bench.ears.shown == bench.people
    bench.peer.lose()
    assert bench.clock.getDelayedCalls() == []
