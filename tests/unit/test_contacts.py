"""The address book as clients see it: its order, and mended spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.errors import MXUnavailable
from mxflex.gateway.contacts import Contacts
from mxflex.mx.addressbook import AddressBook
from mxflex.wire.messages import AddressBookAdded, AddressBookEntry, Presence


def contacts_of(*entries):
    """Give the contacts of an address book with these people, in this order."""
    book = AddressBook()
    book.loaded = True
    for entry in entries:
        book.observe(AddressBookAdded(entry=entry))
    return book, Contacts(book)


def ordered(*extensions):
    """Give these extensions in the order of the list."""
    entries = [AddressBookEntry(jid=n, ext=ext) for n, ext in enumerate(extensions, 1)]
    _, contacts = contacts_of(*entries)
    return [entry.ext for entry in contacts.all()]


def test_numbers_first_by_value_then_texts():
    """Extensions that are numbers come by their value, then the others as texts."""
    assert ordered("3100", "sales", "999", "", "10000", "*86", "Ops", "0999") == [
        "0999",
        "999",
        "3100",
        "10000",
        "",
        "*86",
        "Ops",
        "sales",
    ]


def test_long_numbers_have_their_value_too():
    """However many digits, the value decides, and nothing breaks."""
    long, longer = "9" * 30, "1" + "0" * 30
    assert ordered(longer, long, "9" * 6000, "5") == ["5", long, longer, "9" * 6000]


def test_digits_of_other_scripts_are_text():
    """What only looks like a number is ordered as text, behind the numbers."""
    assert ordered("\u0663\u0660", "\u00b2", "77", "+5") == ["77", "+5", "\u00b2", "\u0663\u0660"]


@given(st.lists(st.text("0123456789+*#a ", max_size=25), max_size=12), st.randoms())
def test_order_is_one_order(extensions, random):
    """The order is that of the values, and does not hang on the order of arrival."""
    result = ordered(*extensions)
    numbers = [ext for ext in result if ext.isdigit()]
    assert result[: len(numbers)] == numbers
    assert [*map(int, numbers)] == sorted(map(int, numbers))
    assert result[len(numbers) :] == sorted(result[len(numbers) :])
    shuffled = list(extensions)
    random.shuffle(shuffled)
    assert ordered(*shuffled) == result


def test_people_of_one_extension_have_a_fixed_order():
    """Who shares an extension is ordered by id: the list does not flicker."""
    people = [AddressBookEntry(jid=jid, ext="3095") for jid in (3, 1, 2)]
    _, contacts = contacts_of(*people)
    assert [entry.jid for entry in contacts.all()] == [1, 2, 3]


def test_the_servers_spelling_is_mended():
    """`NotAvaliable` reaches clients as it should be written; every other word as it came."""
    words = ["NotAvaliable", "NotAvailable", "LoggedOut", "notavaliable", ""]
    entries = [
        AddressBookEntry(jid=n, ext=str(n), presence=word) for n, word in enumerate(words, 1)
    ]
    book, contacts = contacts_of(*entries)
    assert [entry.presence for entry in contacts.all()] == ["NotAvailable", *words[1:]]
    book.observe(Presence(jid=3, status="NotAvaliable"))
    assert contacts.all()[2].presence == "NotAvailable"
    assert book.entries[1].presence == "NotAvaliable"


def test_empty_book():
    """A book without people is an empty list; one that was never read is not there yet."""
    book, contacts = contacts_of()
    assert contacts.all() == []
    book.loaded = False
    with pytest.raises(MXUnavailable):
        contacts.all()


def test_version_changes_with_the_list():
    """Each change of the book changes the version, by which lists may be kept."""
    book, contacts = contacts_of(AddressBookEntry(jid=1, ext="1"))
    before = contacts.version
    book.observe(Presence(jid=1, status="Away"))
    assert contacts.version != before
