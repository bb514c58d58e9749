"""Tickets: each opens one stream, soon, and there are only so many."""

from __future__ import annotations

import re

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxflex.errors import InvalidToken, ServiceUnavailable, TooManyRequests
from mxflex.gateway import tickets as module
from mxflex.gateway.tickets import MAX_OF_PERSON, TICKET_SECONDS, Tickets
from mxflex.gateway.tokens import Identity

NOW = 1_505_411_996.7


def identity(jid=1, ext="3095", expires_at=int(NOW) + 3600):
    return Identity(mx="63022", ext=ext, jid=jid, expires_at=expires_at, auth_time=int(NOW) - 60)


class Booth:
    """Tickets at a time that the test sets."""

    def __init__(self):
        self.now = NOW
        self.tickets = Tickets(lambda: self.now)

    def refuses(self, text):
        """Tell whether a ticket opens nothing, in the words for all such."""
        with pytest.raises(InvalidToken) as caught:
            self.tickets.redeem(text)
        return str(caught.value) == "the ticket is not valid, or has been used"


@pytest.fixture
def booth():
    return Booth()


def test_it_stands_for_its_token(booth):
    """A ticket is good for the person, the extension and the end of the token it was given for."""
    ticket = booth.tickets.issue(identity())
    assert ticket.expires_in == TICKET_SECONDS == 30
    assert booth.tickets.redeem(ticket.text) == identity()


def test_it_opens_one_stream(booth):
    """A ticket that has been used is like one that never was."""
    text = booth.tickets.issue(identity()).text
    booth.tickets.redeem(text)
    assert booth.refuses(text)
    assert booth.refuses(text + "x")
    assert booth.refuses("")


def test_nothing_can_be_read_from_it(booth):
    """It is 256 random bits that a URL takes as they are, no two alike, and in no repr."""
    tickets = [booth.tickets.issue(identity(jid=number)) for number in range(50)]
    assert len({ticket.text for ticket in tickets}) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", ticket.text) for ticket in tickets)
    assert tickets[0].text not in repr(tickets[0])


def test_it_is_not_kept(booth):
    """What is kept does not hold the ticket itself."""
    text = booth.tickets.issue(identity()).text
    kept = repr(vars(booth.tickets))
    assert text not in kept
    assert text.encode().hex() not in kept


@pytest.mark.parametrize("late", [TICKET_SECONDS, TICKET_SECONDS + 0.01, 1e6])
def test_it_ends(booth, late):
    """It is good for less than thirty seconds and refused from then on."""
    first, second = (booth.tickets.issue(identity()).text for _ in range(2))
    booth.now = NOW + min(late, TICKET_SECONDS) - 0.01
    booth.tickets.redeem(first)
    booth.now = NOW + late
    assert booth.refuses(second)


def test_it_ends_with_its_token(booth):
    """A token's last moments are its tickets', too."""
    text = booth.tickets.issue(identity(expires_at=int(NOW) + 5))
    assert text.expires_in == 4
    booth.now = int(NOW) + 5
    assert booth.refuses(text.text)


def test_a_clock_that_is_set_back(booth):
    """Tickets do not last because the clock was wrong, and take up no room."""
    texts = [booth.tickets.issue(identity()).text for _ in range(MAX_OF_PERSON)]
    booth.now = NOW - 3600
    assert booth.refuses(texts[0])
    booth.tickets.issue(identity())
    assert len(booth.tickets) == 1


def test_so_many_of_a_person(booth):
    """Beyond the bound a person is refused until one is used or ends, whatever the tokens."""
    texts = [
        booth.tickets.issue(identity(expires_at=int(NOW) + 100 + number)).text
        for number in range(MAX_OF_PERSON)
    ]
    with pytest.raises(TooManyRequests, match="not used") as caught:
        booth.tickets.issue(identity())
    assert caught.value.retry_after == TICKET_SECONDS
    booth.tickets.issue(identity(jid=2))
    booth.tickets.issue(identity(ext="3096"))
    booth.tickets.redeem(texts[50])
    booth.tickets.issue(identity())
    with pytest.raises(TooManyRequests):
        booth.tickets.issue(identity())
    booth.now += TICKET_SECONDS
    booth.tickets.issue(identity())
    assert len(booth.tickets) == 1


def test_so_many_in_all(booth, monkeypatch):
    """Beyond the bound everybody is refused until one is used or ends."""
    monkeypatch.setattr(module, "MAX_IN_ALL", 3)
    texts = [booth.tickets.issue(identity(jid=number)).text for number in range(3)]
    with pytest.raises(ServiceUnavailable) as caught:
        booth.tickets.issue(identity(jid=9))
    assert caught.value.retry_after == TICKET_SECONDS
    booth.tickets.redeem(texts[1])
    booth.tickets.issue(identity(jid=9))
    booth.now += TICKET_SECONDS
    booth.tickets.issue(identity(jid=9))
    assert len(booth.tickets) == 1


class Counting(RuleBasedStateMachine):
    """Tickets of several people come, are used and end in any order."""

    @initialize()
    def begin(self):
        self.booth = Booth()
        self.given = []

    @rule(jid=st.integers(0, 3), life=st.integers(1, 60))
    def give(self, jid, life):
        whose = identity(jid=jid, expires_at=int(self.booth.now) + life)
        ticket = self.booth.tickets.issue(whose)
        ends = min(self.booth.now + TICKET_SECONDS, whose.expires_at)
        self.given.append((ticket.text, whose, ends))

    @rule(place=st.integers(0, 100))
    def use(self, place):
        if self.given:
            text, whose, ends = self.given.pop(place % len(self.given))
            if self.booth.now < ends:
                assert self.booth.tickets.redeem(text) == whose
            assert self.booth.refuses(text)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.booth.now += seconds

    @invariant()
    def what_is_kept_is_counted(self):
        """Who has how many is what is there; nobody who has none is remembered."""
        tickets = self.booth.tickets
        counts = {}
        for unused in tickets._unused.values():
            person = (unused.identity.jid, unused.identity.ext)
            counts[person] = counts.get(person, 0) + 1
        assert tickets._of_person == counts


TestCounting = Counting.TestCase
