"""Finds people in the address book: by what somebody types, or by the number of a call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import combining, normalize

import attrs

from mxflex.gateway.contacts import Contacts
from mxflex.gateway.numbers import Numbers, digits_of
from mxflex.mx.addressbook import AddressBook, Change
from mxflex.wire.messages import AddressBookEntry

# Letters that look like others with a mark, and are no such for Unicode.
_LETTERS = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ŧ": "t",
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "æ": "ae",
        "œ": "oe",
    }
)
# A number of nothing but digits and the usual signs between them. What has more in it, such as an
# extension behind, does not end in the digits of its form.
_PLAIN = re.compile(r"[0-9+()./ -]*")
# What stands between the names of a person, as in "Clarke, Emma".
_BETWEEN = re.compile("[,;]")
# Two spellings of a number end alike, and a number has so many digits that no country would add
# some before fewer. Those of an address book differ most in the last ones.
TAIL_DIGITS = 4


def fold(text: str) -> str:
    """Give a text without case and accents."""
    if text.isascii():
        return text.lower()
    decomposed = normalize("NFKD", normalize("NFKD", text).casefold())
    return "".join(each for each in decomposed if not combining(each)).translate(_LETTERS)


@attrs.frozen
class _Card:
    """What a person is found by.

    Attributes:
        ext: The extension.
        name: The folded names.
        numbers: All numbers as they are written.
        digits: The digits of these and of the extension, with a space between.
    """

    ext: str
    name: str
    numbers: tuple[str, ...]
    digits: str


def _card_of(entry: AddressBookEntry) -> _Card:
    numbers = tuple(filter(None, (entry.home_phone, entry.cell_phone, entry.did)))
    return _Card(
        ext=entry.ext,
        name=fold(f"{entry.first_name} {entry.last_name}"),
        numbers=numbers,
        digits=" ".join(map(digits_of, (entry.ext, *numbers))),
    )


class Directory:
    """An index of the address book that follows its changes (`BookListener`).

    Numbers are not brought to their form before somebody asks for one that ends alike: a whole book
    would take the reactor a good part of a second.

    Args:
        book: The live address book.
        contacts: The list for clients.
        numbers: Compares numbers.
    """

    def __init__(self, book: AddressBook, contacts: Contacts, numbers: Numbers) -> None:
        self._book = book
        self._contacts = contacts
        self._numbers = numbers
        self._cards: dict[int, _Card] = {}
        self._by_ext: dict[str, set[int]] = {}
        self._by_tail: dict[str, set[int]] = {}

    def use(self, numbers: Numbers) -> None:
        """Compare numbers in another way from now on."""
        self._numbers = numbers
        self._by_tail = {}
        for jid, card in self._cards.items():
            _put(self._by_tail, map(self._tail, card.numbers), jid)

    def contacts_read(self, changes: list[Change]) -> None:
        """Take what has changed, or the whole book when it is read for the first time."""
        if not self._cards:
            changes = [Change(None, entry) for entry in self._book.entries.values()]
        for change in changes:
            self.contact_changed(change)

    def contact_changed(self, change: Change) -> None:
        """Take what has become of one person."""
        entry = change.entry or change.known
        if entry is None or entry.jid is None:
            return
        jid = entry.jid
        card = None if change.entry is None else _card_of(change.entry)
        known = self._cards.pop(jid, None)
        if card is not None:
            self._cards[jid] = card
        if card == known:
            return
        if known is not None:
            _drop(self._by_ext, [known.ext], jid)
            _drop(self._by_tail, map(self._tail, known.numbers), jid)
        if card is not None:
            _put(self._by_ext, [card.ext], jid)
            _put(self._by_tail, map(self._tail, card.numbers), jid)

    def _tail(self, number: str) -> str:
        plain = _PLAIN.fullmatch(number)
        return (digits_of(number) if plain else self._numbers.form(number))[-TAIL_DIGITS:]

    def search(self, text: str) -> list[AddressBookEntry]:
        """Give those whom a text is about, in the order of the list.

        Each word must be in the name, or be digits of a number. A text without letters may also be
        one number, in whatever spelling.

        Raises:
            MXUnavailable: The address book has never been read.
        """
        cards = self._cards
        # Each word is looked for among those found by the ones before: a long text costs no more
        # than a short one.
        for word in dict.fromkeys(_BETWEEN.sub(" ", fold(text)).split()):
            digits = _digits_alone(word)
            cards = {
                jid: card
                for jid, card in cards.items()
                if word in card.name or (digits and digits in card.digits)
            }
        found = set(cards)
        digits = _digits_alone(text)
        if digits:
            found.update(jid for jid, card in self._cards.items() if digits in card.digits)
            found |= self._numbered(text)
        return self._contacts.of(found)

    def lookup(self, number: str) -> list[AddressBookEntry]:
        """Give those who have a number, or this extension, in the order of the list.

        Raises:
            MXUnavailable: The address book has never been read.
        """
        return self._contacts.of(self._numbered(number) | self._by_ext.get(number, set()))

    def _numbered(self, number: str) -> set[int]:
        readings = self._numbers.readings(number)
        return {
            jid
            for tail in {each[-TAIL_DIGITS:] for each in readings}
            for jid in self._by_tail.get(tail, ())
            if any(readings & self._numbers.readings(each) for each in self._cards[jid].numbers)
        }


def _put(index: dict[str, set[int]], keys: Iterable[str], jid: int) -> None:
    for key in keys:
        if key:
            index.setdefault(key, set()).add(jid)


def _drop(index: dict[str, set[int]], keys: Iterable[str], jid: int) -> None:
    # Two numbers of one person may end alike.
    for key in set(keys):
        if key:
            index[key].discard(jid)
            if not index[key]:
                del index[key]


def _digits_alone(text: str) -> str:
    """Give the digits of a text; "" where there are letters, too."""
    return "" if any(map(str.isalpha, text)) else digits_of(text)
