"""The address book as the API shows it: in order, and with servers' misspellings mended."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from mxflex.errors import MXUnavailable
from mxflex.mx.addressbook import AddressBook
from mxflex.wire.messages import AddressBookEntry

# Servers write it so; clients should not have to know.
_PRESENCE_SPELLINGS = {"NotAvaliable": "NotAvailable"}


class Contacts:
    """Everybody, by extension.

    Args:
        book: The live address book.
    """

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    @property
    def version(self) -> int:
        """Changes whenever the list may have changed."""
        return self._book.version

    def all(self) -> list[AddressBookEntry]:
        """Give all people by extension: those with numbers first, by value, then the others.

        While the MX is away it is the list as last known.

        Raises:
            MXUnavailable: The address book has never been read.
        """
        return self.of(self._book.entries)

    def of(self, jids: Iterable[int]) -> list[AddressBookEntry]:
        """Give some people, in the same order.

        Raises:
            MXUnavailable: The address book has never been read.
        """
        if not self._book.loaded:
            raise MXUnavailable("the address book has not been read yet")
        entries = self._book.entries
        return sorted((mended(entries[jid]) for jid in jids), key=_by_extension)


def mended(entry: AddressBookEntry) -> AddressBookEntry:
    """Give a person with the words spelled as clients know them."""
    spelled = _PRESENCE_SPELLINGS.get(entry.presence)
    return entry if spelled is None else attrs.evolve(entry, presence=spelled)


def _by_extension(entry: AddressBookEntry) -> tuple[bool, int, str, str, int]:
    # Only ASCII digits: others have values too, and the order must not hang on them. Of two numbers
    # the longer one is the greater.
    numeric = entry.ext.isascii() and entry.ext.isdigit()
    digits = entry.ext.lstrip("0") if numeric else ""
    return (not numeric, len(digits), digits, entry.ext, entry.jid or 0)
