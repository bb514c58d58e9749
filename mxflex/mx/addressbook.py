"""The live address book of the server connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
from twisted.logger import Logger

from mxflex.errors import CommandRefused, MXError, MXTimeout
from mxflex.mx.protocol import MXProtocol
from mxflex.wire.messages import (
    AddressBookAdded,
    AddressBookChanged,
    AddressBookDeleted,
    AddressBookEntry,
    AddressBookPage,
    Event,
    GetAddressBook,
    Presence,
)

log = Logger()

# 5,000 pages of 50 are more people than an MX can hold: a server whose size is nonsense must not
# be read for ever.
MAX_PAGES = 5_000
# How often a reading starts again because the book changed under it.
MAX_READINGS = 5

_Book = dict[int, AddressBookEntry]


def _is_page(index: int, event: Event) -> bool:
    """Tell one page from another that an earlier reading asked for; servers may not number them."""
    return isinstance(event, AddressBookPage) and event.index in (None, index)


def _nothing() -> None:
    """Take no interest in changes."""


def _keeps_place(known: AddressBookEntry | None, entry: AddressBookEntry) -> bool:
    """Tell whether a change leaves the person where they were in the server's order.

    What the order goes by is the server's affair: name, extension, anything but the presence.
    """
    return known is not None and entry == attrs.evolve(
        known, presence=entry.presence, note=entry.note
    )


@attrs.define(eq=False)
class AddressBook:
    """Everybody the MX knows, kept current by its events.

    What was read stays when the link to the MX is down, and is replaced by the next reading.

    Args:
        changed: Called after each change.

    Attributes:
        entries: People by JID, in the order the MX told of them.
        loaded: Whether the book has been read at least once.
        version: Grows with each change.
    """

    changed: Callable[[], None] = _nothing
    entries: _Book = attrs.field(init=False, factory=dict)
    loaded: bool = attrs.field(init=False, default=False)
    version: int = attrs.field(init=False, default=0)
    # The book that is being read, before it replaces `entries`.
    _fresh: _Book | None = attrs.field(init=False, default=None)
    # Whether people were added, moved or removed since the pages were begun: these have shifted
    # then, and somebody may have slipped from one that is still to come into one that has gone by.
    _shifted: bool = attrs.field(init=False, default=False)

    async def read(self, protocol: MXProtocol) -> None:
        """Read the whole book; changes that arrive meanwhile are in it.

        Raises:
            MXError: The MX refused, did not answer in time, or the connection ended. What was known
                before stays.
        """
        # Changes are told from before the first page on, so what one pass has found stays true, and
        # the next one adds whom the shifting pages hid.
        book: _Book = {}
        self._fresh = book
        try:
            for _ in range(MAX_READINGS):
                self._shifted = False
                await self._read_pages(protocol, book)
                if not self._shifted:
                    break
            else:
                log.warn("the address book changed all the time while it was read")
            self.entries, self.loaded = book, True
        finally:
            self._fresh = None
        log.info("address book read: {count} entries", count=len(self.entries))
        self._count_change()

    async def _read_pages(self, protocol: MXProtocol, book: _Book) -> None:
        # Changes put people into the book before their page comes, so it cannot tell what is new.
        found: set[int | None] = set()
        received = 0
        # Whether the size has shown that it does not count people; the end is found by trying then.
        trying = False
        for index in range(MAX_PAGES):
            try:
                page = await protocol.request(
                    GetAddressBook(index=index), confirms=partial(_is_page, index)
                )
            except (CommandRefused, MXTimeout):
                if trying:
                    return
                raise
            if not isinstance(page, AddressBookPage):
                raise MXError("the MX answered the address book in an unknown way")
            before = len(found)
            for entry in page.entries:
                found.add(entry.jid)
                if entry.jid:
                    book[entry.jid] = entry
            received += len(page.entries)
            # How many fit a page differs. One that brings nobody new is the last in any case.
            if received == page.size or len(found) == before:
                return
            trying = page.size is None or received > page.size
        log.warn("the address book did not end after {pages} pages", pages=MAX_PAGES)

    def observe(self, event: Event) -> None:
        """Take a change that the MX tells; other events are ignored."""
        if isinstance(event, (AddressBookAdded, AddressBookChanged)):
            # A change of somebody unknown is an addition, an addition of somebody known a change.
            self._put(event.entry)
        elif isinstance(event, AddressBookDeleted):
            self._remove(event.jid)
        elif isinstance(event, Presence) and event.jid:
            self._set_presence(event.jid, event)

    def _books(self) -> list[_Book]:
        return [self.entries] if self._fresh is None else [self.entries, self._fresh]

    def _put(self, entry: AddressBookEntry) -> None:
        if not entry.jid:
            log.warn("the MX told of an address book entry without an id")
            return
        if self._fresh is not None and not _keeps_place(self._fresh.get(entry.jid), entry):
            self._shifted = True
        for book in self._books():
            book[entry.jid] = entry
        self._count_change()

    def _remove(self, jid: int | None) -> None:
        self._shifted = True
        for book in self._books():
            if jid is not None:
                book.pop(jid, None)
        self._count_change()

    def _set_presence(self, jid: int, event: Presence) -> None:
        for book in self._books():
            entry = book.get(jid)
            if entry is None:
                continue
            book[jid] = attrs.evolve(
                entry,
                presence=event.status or entry.presence,
                note=entry.note if event.note is None else event.note,
            )
        self._count_change()

    def _count_change(self) -> None:
        self.version += 1
        self.changed()
