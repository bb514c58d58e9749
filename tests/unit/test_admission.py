"""How many streams may be open, and that their number is right however they come and go."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxflex.errors import ServiceUnavailable, TooManyRequests
from mxflex.gateway.admission import RETRY_SECONDS, Admission
from mxflex.gateway.tokens import Identity

HERE, THERE = "192.0.2.1", "192.0.2.2"


def identity(ext="3095", jid=1, auth_time=1000, expires_at=4600):
    return Identity(mx="63022", ext=ext, jid=jid, expires_at=expires_at, auth_time=auth_time)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_streams_of_a_token(limit):
    """A token has as many as it may; another one is not hurt, and an end makes room for one."""
    admission = Admission(limit, 1000, 1000)
    places = [admission.admit(identity(), HERE) for _ in range(limit)]
    with pytest.raises(TooManyRequests, match="with this token") as caught:
        admission.admit(identity(), THERE)
    assert caught.value.retry_after == RETRY_SECONDS
    admission.admit(identity(jid=2), HERE)
    admission.leave(places[0])
    admission.admit(identity(), HERE)
    with pytest.raises(TooManyRequests):
        admission.admit(identity(), HERE)
    assert admission.refused == {
        "max_per_token": 2,
        "max_per_address": 0,
        "max_streams": 0,
        "stopping": 0,
    }


def test_what_a_token_is():
    """Tokens differ by person, extension or login; one that was renewed is the same token."""
    admission = Admission(1, 1000, 1000)
    admission.admit(identity(), HERE)
    for other in (identity(ext="3044"), identity(jid=2), identity(auth_time=1001)):
        admission.admit(other, HERE)
    for same in (identity(), identity(expires_at=4601)):
        with pytest.raises(TooManyRequests):
            admission.admit(same, HERE)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_streams_from_an_address(limit):
    """An address has as many as it may, whatever its tokens."""
    admission = Admission(1000, limit, 1000)
    places = [admission.admit(identity(jid=number), HERE) for number in range(limit)]
    with pytest.raises(TooManyRequests, match="from this address"):
        admission.admit(identity("3044"), HERE)
    admission.admit(identity("3044"), THERE)
    admission.leave(places[-1])
    admission.admit(identity("3044"), HERE)
    assert admission.refused == {
        "max_per_token": 0,
        "max_per_address": 1,
        "max_streams": 0,
        "stopping": 0,
    }


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_an_address_is(first, second, same):
    """In IPv6 a /64 counts as one address: its holder has them all."""
    admission = Admission(1000, 1, 1000)
    admission.admit(identity(), first)
    if same:
        with pytest.raises(TooManyRequests):
            admission.admit(identity("3044"), second)
    else:
        admission.admit(identity("3044"), second)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_streams_in_all(limit):
    """The server has as many as it may; one more is no fault of whoever asks."""
    admission = Admission(1000, 1000, limit)
    places = [admission.admit(identity(jid=number), f"192.0.2.{number}") for number in range(limit)]
    with pytest.raises(ServiceUnavailable, match="on this server") as caught:
        admission.admit(identity("3044"), THERE)
    assert caught.value.retry_after == RETRY_SECONDS
    admission.leave(places[0])
    admission.admit(identity("3044"), THERE)
    assert admission.refused == {
        "max_per_token": 0,
        "max_per_address": 0,
        "max_streams": 1,
        "stopping": 0,
    }


def test_nothing_is_kept_of_what_was():
    """However many come and go, or are refused, nothing stays."""
    admission = Admission(1, 1000, 1000)
    for number in range(1000):
        place = admission.admit(identity(jid=number), f"2001:db8:0:{number:x}::1")
        with pytest.raises(TooManyRequests):
            admission.admit(identity(jid=number), THERE)
        admission.leave(place)
    assert admission.open == 0
    assert (admission._of_token, admission._of_network) == ({}, {})


def test_the_end_of_the_daemon():
    """Once it stops, nobody is let in, and those who are in still leave."""
    admission = Admission(10, 10, 10)
    place = admission.admit(identity(), HERE)
    admission.stop()
    with pytest.raises(ServiceUnavailable, match="is about to stop"):
        admission.admit(identity(), HERE)
    assert admission.refused["stopping"] == 1
    admission.leave(place)
    assert admission.open == 0


class Crowd(RuleBasedStateMachine):
    """Streams open and end in any order; the model counts them anew each time."""

    LIMITS = (2, 3, 5)

    def __init__(self):
        super().__init__()
        self.admission = Admission(*self.LIMITS)
        self.open = []

    @rule(jid=st.integers(0, 4), address=st.sampled_from([HERE, THERE, "2001:db8::1", ""]))
    def opens(self, jid, address):
        of_token = sum(each.identity.jid == jid for each, _ in self.open)
        of_address = sum(there == address for _, there in self.open)
        expected = (
            (of_token >= 2 and "token")
            or (of_address >= 3 and "address")
            or (len(self.open) >= 5 and "server")
        )
        if expected:
            with pytest.raises((TooManyRequests, ServiceUnavailable), match=expected):
                self.admission.admit(identity(jid=jid), address)
        else:
            self.open.append((self.admission.admit(identity(jid=jid), address), address))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def ends(self, data):
        place, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.admission.leave(place)

    @invariant()
    def counts_are_those_of_the_model(self):
        assert self.admission.open == len(self.open)
        assert sum(self.admission._of_token.values()) == len(self.open)
        assert sum(self.admission._of_network.values()) == len(self.open)


TestCrowd = Crowd.TestCase
