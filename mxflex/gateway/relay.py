"""From the link to the hub: what the MX tells becomes what the streams say."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from mxflex.gateway.calls import Calls
from mxflex.gateway.contacts import mended
from mxflex.gateway.hub import Hub, Topic
from mxflex.mx.addressbook import Change
from mxflex.mx.monitors import Monitors
from mxflex.wire.messages import AddressBookEntry, CallEvent

MX_DOWN = "mx-down"
STATUS = "status"
# What the address book may bring as events, by a new reading or within a second, in bytes of their
# content; beyond, one gap says that something is lost. It is half of what the smallest
# `events.max_unsent` lets a client owe, so that nobody who reads is cut off for an address book. A
# failure of the network can change the presence of thousands at once.
MAX_NEWS_BYTES = 32 * 1024
NEWS_SECONDS = 1.0

Encoded = tuple[str, bytes]


@attrs.frozen(kw_only=True)
class Encoders:
    """Give the name and the content of an event for clients; None for one that they do not get.

    Attributes:
        call: For an event of an extension.
        contact: For a person as known before and as known now; None for one who was not there, or
            is no longer.
        status: Gives the content alone, for whether the MX is there.
    """

    call: Callable[[str, CallEvent], Encoded | None]
    contact: Callable[[AddressBookEntry | None, AddressBookEntry | None], Encoded | None]
    status: Callable[[bool], bytes]


class Relay:
    """Listens to the link and to its address book.

    See `mxflex.mx.link.LinkListener` and `mxflex.mx.addressbook.BookListener`.

    Args:
        clock: Gives the time, in seconds since the epoch, and delayed calls.
        hub: Where events go.
        calls: What is known of calls.
        monitors: The extensions that are watched.
        encoders: Write events.
    """

    def __init__(
        self,
        clock: IReactorTime,
        hub: Hub,
        calls: Calls,
        monitors: Monitors,
        encoders: Encoders,
    ) -> None:
        self._clock = clock
        self._hub = hub
        self._calls = calls
        self._monitors = monitors
        self._encoders = encoders
        # When the link was lost the last time, and whether it still is. Streams may have opened
        # before it is up for the first time, too.
        self._down = True
        self._lost_at = clock.seconds()
        # Since when the address book may have changed unseen, and whether it still may have.
        self._book_lost = False
        self._book_lost_at = self._lost_at
        # How much the present second has brought of the book, and whether it was too much.
        self._second_began = self._lost_at
        self._second_bytes = 0
        self._flooded = False
        hub.announce_state(Topic.STATUS, STATUS, encoders.status(False))
        monitors.on_restored = self._monitor_restored

    def call_event(self, ext: str, event: CallEvent) -> None:
        """Give an event to the registry of calls, then to the streams."""
        # First the state, then the word: a client that asks on hearing it finds it true.
        self._calls.observe(ext, event)
        encoded = self._encoders.call(ext, event)
        if encoded is not None:
            self._hub.publish(ext, *encoded)

    def link_down(self) -> None:
        """Remember since when events are lost."""
        self._down = True
        self._lost_at = self._clock.seconds()
        if not self._book_lost:
            self._book_lost = True
            self._book_lost_at = self._lost_at
        self._hub.announce_state(Topic.STATUS, STATUS, self._encoders.status(False))

    def link_up(self) -> None:
        """Tell the streams what they missed, and learn what is going on now."""
        if not self._down:
            return
        self._down = False
        for ext in self._monitors.wanted:
            # The restored monitors may have told of calls already.
            self._calls.resume(ext, self._lost_at)
        self._hub.publish_gap(MX_DOWN, self._lost_at)
        self._hub.announce_state(Topic.STATUS, STATUS, self._encoders.status(True))

    def _monitor_restored(self, ext: str) -> None:
        """Tell the streams of one extension what they missed while the link was up without it."""
        if not self._down:
            self._calls.resume(ext, self._clock.seconds())
            self._hub.publish_gap(MX_DOWN, self._lost_at, ext)

    def contact_changed(self, change: Change) -> None:
        """Give the streams a person who has come, changed or gone, or say later that some have."""
        for name, data in self._encode([change]):
            if self._has_room(len(data)):
                self._hub.announce(Topic.CONTACTS, name, data)

    def _has_room(self, size: int) -> bool:
        """Tell whether so many bytes of news may go out now; else a gap takes their place."""
        if self._flooded:
            return False
        now = self._clock.seconds()
        # A clock that is set back begins anew.
        if not 0 <= now - self._second_began < NEWS_SECONDS:
            self._second_began, self._second_bytes = now, 0
        self._second_bytes += size
        if self._second_bytes > MAX_NEWS_BYTES:
            self._flooded = True
            # When the second is over, whoever reads the list then has what was kept back.
            self._clock.callLater(NEWS_SECONDS, self._flood_over, now)
        return not self._flooded

    def _flood_over(self, since: float) -> None:
        self._flooded = False
        self._second_bytes = 0
        self._hub.announce_gap(Topic.CONTACTS, MX_DOWN, since)

    def contacts_read(self, changes: list[Change]) -> None:
        """Give the streams what has changed since the MX was lost, or say that it is too much."""
        self._book_lost = False
        events = self._encode(changes)
        if self._flooded or sum(len(data) for _, data in events) > MAX_NEWS_BYTES:
            self._hub.announce_gap(Topic.CONTACTS, MX_DOWN, self._book_lost_at)
            return
        for name, data in events:
            self._hub.announce(Topic.CONTACTS, name, data)

    def _encode(self, changes: list[Change]) -> list[Encoded]:
        """Give the events of those changes that clients can see."""
        encoded = [
            self._encoders.contact(_mended(change.known), _mended(change.entry))
            for change in changes
        ]
        return [each for each in encoded if each is not None]


def _mended(entry: AddressBookEntry | None) -> AddressBookEntry | None:
    return None if entry is None else mended(entry)
