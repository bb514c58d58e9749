"""The live address book of the server connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

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


@attrs.frozen
class Change:
    """What has become of one person.

    Attributes:
        known: The person as known before; None for one who has come.
        entry: The person as known now; None for one who has gone.
    """

    known: AddressBookEntry | None
    entry: AddressBookEntry | None


class BookListener(Protocol):
    """Whoever wants to know what changes. The book is as it is told when it tells."""

    def contact_changed(self, change: Change) -> None:
        """Somebody has come, changed or gone, as the MX has just told."""

    def contacts_read(self, changes: list[Change]) -> None:
        """The whole book has been read.

        Args:
            changes: In what it differs from what was known before; nothing for the first reading,
                before which nobody could know the book.
        """


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

    Attributes:
        entries: People by JID, in the order the MX told of them.
        loaded: Whether the book has been read at least once.
        version: Grows with each change and each reading.
    """

    entries: _Book = attrs.field(init=False, factory=dict)
    loaded: bool = attrs.field(init=False, default=False)
    version: int = attrs.field(init=False, default=0)
    # The book that is being read, before it replaces `entries`.
    _fresh: _Book | None = attrs.field(init=False, default=None)
    # Whether people were added, moved or removed since the pages were begun: these have shifted
    # then, and somebody may have slipped from one that is still to come into one that has gone by.
    _shifted: bool = attrs.field(init=False, default=False)
    _listeners: list[BookListener] = attrs.field(init=False, factory=list)

    def listen(self, listener: BookListener) -> None:
        """Tell this listener of changes from now on."""
        self._listeners.append(listener)

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
        finally:
            self._fresh = None
        changes = _differences(self.entries, book) if self.loaded else []
        self.entries, self.loaded = book, True
        self.version += 1
        log.info("address book read: {count} entries", count=len(book))
        self._tell(lambda listener: listener.contacts_read(changes))

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
        known = self.entries.get(entry.jid)
        for book in self._books():
            book[entry.jid] = entry
        self._changed(known, entry)

    def _remove(self, jid: int | None) -> None:
        self._shifted = True
        if jid is None:
            return
        known = self.entries.get(jid)
        for book in self._books():
            book.pop(jid, None)
        self._changed(known, None)

    def _set_presence(self, jid: int, event: Presence) -> None:
        known = self.entries.get(jid)
        for book in self._books():
            entry = book.get(jid)
            if entry is None:
                continue
            book[jid] = attrs.evolve(
                entry,
                presence=event.status or entry.presence,
                note=entry.note if event.note is None else event.note,
            )
        self._changed(known, self.entries.get(jid))

    def _changed(self, known: AddressBookEntry | None, entry: AddressBookEntry | None) -> None:
        if known == entry:
            return
        self.version += 1
        # Before the first reading nobody knows the book.
        if self.loaded:
            change = Change(known, entry)
            self._tell(lambda listener: listener.contact_changed(change))

    def _tell(self, tell: Callable[[BookListener], None]) -> None:
        """Tell every listener; one that fails costs neither the others nor the link."""
        for listener in self._listeners:
            try:
                tell(listener)
            except Exception:
                log.failure("a listener failed on news of the address book")


def _differences(before: _Book, after: _Book) -> list[Change]:
    gone = [Change(known, None) for jid, known in before.items() if jid not in after]
    put = [Change(before.get(jid), entry) for jid, entry in after.items()]
    return gone + [change for change in put if change.known != change.entry]
