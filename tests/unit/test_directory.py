"""Who is found in the address book, and by what."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from phonenumbers import PhoneNumberType

from mxflex.errors import MXUnavailable
from mxflex.gateway.contacts import Contacts
from mxflex.gateway.directory import Directory, fold
from mxflex.gateway.numbers import Numbers
from mxflex.mx.addressbook import AddressBook
from mxflex.wire.messages import (
    AddressBookAdded,
    AddressBookDeleted,
    AddressBookEntry,
    Presence,
)


def person(jid, first="", last="", ext="", **more):
    return AddressBookEntry(jid=jid, first_name=first, last_name=last, ext=ext, **more)


PEOPLE = (
    person(1, "Jürgen", "Müller", "3044", did="+1-202-555-0104", cell_phone="+49 30 901820"),
    person(2, "Алёна", "Чайка", "3010", cell_phone="+79031744445"),
    person(3, "Søren", "Łukasz-Straße", "999", home_phone="(202) 555-0117"),
    person(4, "Ann", "Hyde", "3095", did="12025550104", home_phone="1-800-FLOWERS"),
    person(5, "Bob", "Hyde", "sales", home_phone="+1 202 555 0199 x12"),
)


class Office:
    """A directory of an address book that the test changes."""

    def __init__(self, *people, country=""):
        self.book = AddressBook()
        self.directory = Directory(self.book, Contacts(self.book), Numbers(country))
        self.book.listen(self.directory)
        self.book.entries = {entry.jid: entry for entry in people}
        self.book.loaded = True
        self.directory.contacts_read([])

    def search(self, text):
        return [entry.jid for entry in self.directory.search(text)]

    def lookup(self, number):
        return [entry.jid for entry in self.directory.lookup(number)]


@pytest.fixture
def office():
    return Office(*PEOPLE)


@pytest.fixture
def american():
    return Office(*PEOPLE, country="US")


class TestSearch:
    """What somebody types."""

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("jürgen", [1]),
            ("JURGEN", [1]),
            ("Mu\u0308ller", [1]),
            ("ller", [1]),
            ("алена", [2]),
            ("ЧАЙКА алё", [2]),
            ("чаика", [2]),
            ("soren", [3]),
            ("lukasz", [3]),
            ("STRASSE", [3]),
            ("hyde", [4, 5]),
            ("hyde ann", [4]),
            ("Hyde, Ann", [4]),
            ("hyde,ann;", [4]),
            (", ", [3, 2, 1, 4, 5]),
            ("  ann\thyde ", [4]),
            ("ann bob", []),
            ("hyde 3095", [4]),
            ("hyde 3044", []),
            ("nobody", []),
            ("%", []),
        ],
    )
    def test_names(self, office, text, found):
        """Each word is somewhere in the names, without regard to case, accents and order."""
        assert office.search(text) == found

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("3010", [2]),
            ("30", [2, 1, 4]),
            ("55501", [3, 1, 4, 5]),
            ("555-01", [3, 1, 4, 5]),
            ("+1 (202) 555-0104", [1, 4]),
            ("202 555 0104", [1, 4]),
            ("٣٠١٠", [2]),
            ("sales", []),
            ("7 903", [2]),
        ],
    )
    def test_numbers(self, office, text, found):
        """Digits are somewhere in a number or an extension; the list's order is kept."""
        assert office.search(text) == found

    def test_a_number_in_another_spelling(self, american):
        """A number that is whole is found by what it means, too."""
        assert american.search("011 7 903 174 44 45") == [2]
        assert Office(*PEOPLE).search("011 7 903 174 44 45") == []

    @given(st.text(max_size=8))
    def test_everybody_is_found_by_their_name(self, name):
        """Whatever a name is, who types it finds the person."""
        office = Office(person(1, "x", name, "1"))
        assert office.search(name) == [1]

    @given(st.text())
    def test_folding_twice_is_folding_once(self, text):
        """What is folded stays as it is."""
        assert fold(fold(text)) == fold(text)


class TestLookup:
    """The number of a call."""

    @pytest.mark.parametrize(
        ("number", "found"),
        [
            ("+12025550104", [1, 4]),
            ("+1 202 555 0104", [1, 4]),
            ("12025550104", [1, 4]),
            ("4930901820", [1]),
            ("+4930901820", [1]),
            ("+49 (0)30 901820", [1]),
            ("tel:+79031744445", [2]),
            ("2025550117", [3]),
            ("+12025550117", []),
            ("+12025550199", [5]),
            ("3095", [4]),
            ("sales", [5]),
            ("Sales", []),
            ("309", []),
            ("0104", []),
            ("", []),
            ("+", []),
        ],
    )
    def test_without_a_country(self, office, number, found):
        """With + in any spelling, else by all digits; extensions just as they are."""
        assert office.lookup(number) == found

    @pytest.mark.parametrize(
        ("number", "found"),
        [
            ("+12025550104", [1, 4]),
            ("12025550104", [1, 4]),
            ("2025550104", [1, 4]),
            ("(202) 555-0104", [1, 4]),
            ("0012025550104", []),
            ("+12025550117", [3]),
            ("79031744445", [2]),
            ("011 7 903 174 4445", [2]),
            ("+18003569377", [4]),
            ("2025550199", [5]),
            ("+1 202 555 0199;ext=7", [5]),
            ("3095", [4]),
            ("5550104", []),
        ],
    )
    def test_with_a_country(self, american, number, found):
        """National numbers are of that country; those from abroad may lack their +."""
        assert american.lookup(number) == found

    @pytest.mark.parametrize("number", ["+447700900144", "447700900144", "+44 7700 900144"])
    def test_a_number_from_abroad_that_no_plan_has(self, number):
        """A number is found without its + also where the plan of its country does not know it."""
        office = Office(person(1, did="+447700900144"), person(2, did="447700900144"), country="US")
        assert office.lookup(number) == [1, 2]

    @pytest.mark.parametrize("number", ["+12025550104", "12025550104", "+1 202-555-0104"])
    def test_a_number_from_abroad_that_could_be_from_here(self, number):
        """Where a number without + could be from here, and is one from abroad, both are found."""
        office = Office(person(1, did="+12025550104"), person(2, did="12025550104"), country="DE")
        assert office.lookup(number) == [1, 2]

    def test_many_who_share_a_number(self):
        """All who have a number are told, in the order of the list."""
        office = Office(
            *(person(n, ext=str(5000 - n), did="+12025550104") for n in range(1, 50)),
        )
        assert office.lookup("+12025550104") == list(range(49, 0, -1))

    @pytest.mark.parametrize("country", sorted(phonenumbers.SUPPORTED_REGIONS))
    def test_every_country(self, country):
        """Of the usual spellings of numbers each finds those that mean the same, and no other."""
        kinds = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE)
        examples = [phonenumbers.example_number_for_type(country, kind) for kind in kinds]
        spellings = {
            phonenumbers.format_number(example, style)
            for example in examples
            if example is not None
            for style in range(4)
        }
        form = Numbers(country).form
        assert any(form(spelling).startswith("+") for spelling in spellings)
        office = Office(*(person(n, did=s) for n, s in enumerate(spellings, 1)), country=country)
        for spelling in spellings:
            same = [n for n, s in enumerate(spellings, 1) if form(s) == form(spelling)]
            assert office.lookup(spelling) == same


class TestChanges:
    """The address book lives."""

    def test_before_it_is_read(self):
        """Nobody knows yet whether there is somebody."""
        book = AddressBook()
        directory = Directory(book, Contacts(book), Numbers("US"))
        for ask in (directory.search, directory.lookup):
            with pytest.raises(MXUnavailable):
                ask("3095")

    def test_who_comes_changes_and_goes(self, office):
        """Each change counts at once; what was is found no more."""
        office.book.observe(
            AddressBookAdded(entry=person(9, "Neo", ext="3070", did="+12025550150"))
        )
        assert office.search("neo") == office.lookup("3070") == [9]
        office.book.observe(
            AddressBookAdded(entry=person(9, "Leo", ext="3071", did="+12025550151"))
        )
        assert office.search("neo") == office.lookup("3070") == office.lookup("+12025550150") == []
        assert office.search("leo") == office.lookup("3071") == office.lookup("+12025550151") == [9]
        office.book.observe(AddressBookDeleted(jid=9))
        assert office.search("leo") == office.lookup("3071") == office.lookup("+12025550151") == []

    def test_presence_is_the_present_one(self, office):
        """Who is found is shown as the list shows them now."""
        office.book.observe(Presence(jid=4, status="NotAvaliable"))
        assert [entry.presence for entry in office.directory.lookup("3095")] == ["NotAvailable"]


NAMES = st.sampled_from(["Ann", "Änn", "Bob", ""])
NUMBERS = st.sampled_from(["", "+12025550104", "(202) 555-0104", "4", "0104", "+1 202 555 0104 x4"])


class Living(RuleBasedStateMachine):
    """People come, change and go in any order, with numbers that end alike."""

    @initialize()
    def begin(self):
        self.office = Office(country="US")

    @rule(jid=st.integers(1, 4), name=NAMES, ext=NUMBERS, did=NUMBERS, cell=NUMBERS)
    def put(self, jid, name, ext, did, cell):
        entry = person(jid, name, ext=ext, did=did, cell_phone=cell)
        self.office.book.observe(AddressBookAdded(entry=entry))

    @rule(jid=st.integers(1, 4))
    def remove(self, jid):
        self.office.book.observe(AddressBookDeleted(jid=jid))

    @invariant()
    def as_if_read_anew(self):
        """What has followed the changes is what a directory of the book as it is would be."""
        directory = self.office.directory
        fresh = Office(*self.office.book.entries.values(), country="US").directory
        assert directory._by_ext == fresh._by_ext
        assert directory._by_tail == fresh._by_tail
        assert directory._cards == fresh._cards


TestLiving = Living.TestCase


@given(st.text(max_size=30), st.sampled_from(["", "US", "RU"]))
def test_any_text_has_a_form(text, country):
    """Whatever a number is, it has a form, and breaks nothing; the form's form is itself."""
    numbers = Numbers(country)
    form = numbers.form(text)
    assert form.removeprefix("+").isdigit() or form == ""
    assert numbers.form(form) == form
