"""The JSON of the address book and of the calls."""

from __future__ import annotations

import json

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.gateway.calls import Call
from mxflex.gateway.contacts import Contacts
from mxflex.mx.addressbook import AddressBook
from mxflex.web.listings import encode_calls, encode_contact, encode_contact_event
from mxflex.wire.messages import AddressBookAdded, AddressBookEntry

# The owner's sample of an answer, as it stands in the description of the product.
OWNERS_SAMPLE = """\
{
    "contacts": [
        {
            "jid": "43884852633771555",
            "status": "LoggedOut",
            "firstName": "SMS",
            "lastName": "Gateway C73",
            "ext": "3010"
        },
        {
            "jid": "43884851428118509",
            "status": "LoggedOut",
            "firstName": "Peter",
            "lastName": "Hyde",
            "ext": "3044",
            "homePhone": "+1-202-555-0104",
            "cellPhone": "+1-512-555-0136",
            "email": "peterh@xyzrd.com",
            "did": "15125550136"
        },
        {
            "jid": "43884850939404214",
            "status": "LoggedOut",
            "firstName": "dstest2",
            "lastName": "dstest2",
            "ext": "3092",
            "cellPhone": "16693507465",
            "did": "16693507465"
        },
        {
            "jid": "43884851147406145",
            "status": "Available",
            "firstName": "Dmitry",
            "lastName": "Sedykh",
            "ext": "3095",
            "cellPhone": "+79031744445",
            "email": "dmitrys@xyzrd.com"
        }
    ]
}"""

PEOPLE = [
    AddressBookEntry(
        jid=43884851147406145,
        presence="Available",
        first_name="Dmitry",
        last_name="Sedykh",
        ext="3095",
        cell_phone="+79031744445",
        email="dmitrys@xyzrd.com",
        home_system=0,
    ),
    AddressBookEntry(
        jid=43884850939404214,
        presence="LoggedOut",
        first_name="dstest2",
        last_name="dstest2",
        ext="3092",
        cell_phone="16693507465",
        did="16693507465",
    ),
    AddressBookEntry(
        jid=43884852633771555,
        presence="LoggedOut",
        first_name="SMS",
        last_name="Gateway C73",
        ext="3010",
        home_system=0,
    ),
    AddressBookEntry(
        jid=43884851428118509,
        presence="LoggedOut",
        first_name="Peter",
        last_name="Hyde",
        ext="3044",
        home_phone="+1-202-555-0104",
        cell_phone="+1-512-555-0136",
        email="peterh@xyzrd.com",
        did="15125550136",
    ),
]


class TestContacts:
    """People."""

    def test_owners_sample(self):
        """The owner's people, told in any order, give the owner's text."""
        book = AddressBook()
        book.loaded = True
        for entry in PEOPLE:
            book.observe(AddressBookAdded(entry=entry))
        people = [encode_contact(entry) for entry in Contacts(book).all()]
        assert json.dumps({"contacts": people}, indent=4) == OWNERS_SAMPLE

    def test_every_key(self):
        """With everything filled, all keys stand in the contract's order, all of them texts."""
        entry = AddressBookEntry(
            jid=2**64 - 1,
            presence="Available",
            note="lunch",
            first_name="a",
            last_name="b",
            ext="1",
            home_phone="2",
            cell_phone="3",
            email="4",
            home_system=2**64 - 2,
            did="5",
            exchange_id="6",
        )
        assert orjson.dumps(encode_contact(entry)) == (
            b'{"jid":"18446744073709551615","status":"Available","note":"lunch","firstName":"a",'
            b'"lastName":"b","ext":"1","homePhone":"2","cellPhone":"3","email":"4",'
            b'"homeSystem":"18446744073709551614","did":"5","exchangeId":"6"}'
        )

    @pytest.mark.parametrize("home_system", [None, 0])
    def test_what_is_empty(self, home_system):
        """What is empty or 0 is left out, but for id, names and extension."""
        entry = AddressBookEntry(jid=1, home_system=home_system)
        assert encode_contact(entry) == {"jid": "1", "firstName": "", "lastName": "", "ext": ""}


# The rest of a person's fields are texts.
NUMBERS = ("jid", "home_system")
TEXTS = [each.name for each in attrs.fields(AddressBookEntry) if each.name not in NUMBERS]


class TestContactEvents:
    """What is told of a change."""

    ANN = AddressBookEntry(jid=1, first_name="Ann", ext="3001")

    def test_each_action(self):
        """Who comes or changes is shown as after it, who goes as before it."""
        away = attrs.evolve(self.ANN, presence="Away")
        shown = b'"contact":{"jid":"1",%s"firstName":"Ann","lastName":"","ext":"3001"}}'
        plain, changed = shown % b"", shown % b'"status":"Away",'
        assert [
            encode_contact_event(None, self.ANN),
            encode_contact_event(self.ANN, away),
            encode_contact_event(away, None),
        ] == [
            ("ContactEvent", b'{"action":"added",' + plain),
            ("ContactEvent", b'{"action":"changed",' + changed),
            ("ContactEvent", b'{"action":"removed",' + changed),
        ]

    @given(st.sampled_from(TEXTS), st.text(max_size=3), st.text(max_size=3))
    def test_what_can_be_seen_is_told(self, field, before, after):
        """A change is told just when the list shows it, in one line, whatever the texts are."""
        known, entry = (attrs.evolve(self.ANN, **{field: text}) for text in (before, after))
        event = encode_contact_event(known, entry)
        assert (event is None) == (encode_contact(known) == encode_contact(entry))
        assert (event is None) == (before == after)
        if event is not None:
            assert b"\n" not in event[1]
            assert b"\r" not in event[1]
            assert json.loads(event[1]) == {"action": "changed", "contact": encode_contact(entry)}

    def test_what_cannot_be_seen_is_not_told(self):
        """No home system and the home system 0 look the same."""
        assert encode_contact_event(self.ANN, attrs.evolve(self.ANN, home_system=0)) is None
        assert encode_contact_event(self.ANN, attrs.evolve(self.ANN, home_system=7)) is not None


FULL = Call(
    call_id=39,
    device_id="3095",
    started_at=1505411996.0,
    since=1505412000.25,
    updated_at=1505412001.0,
    state="connected",
    direction="outgoing",
    global_call_id="2808630435142227620",
    calling_device="3095",
    calling_display_name="Dmitry Sedykh",
    called_device="79031744445",
    answering_device="79031744445",
    answering_display_name="Somebody",
    answered_at=1505412000.25,
    recording=True,
)


class TestCalls:
    """Calls."""

    def test_every_key(self):
        """With everything known, all keys stand in the order of the documentation."""
        assert orjson.dumps(encode_calls([FULL])) == (
            b'{"calls":[{"callId":39,"deviceId":"3095","globalCallId":"2808630435142227620",'
            b'"state":"connected","direction":"outgoing","callingDevice":"3095",'
            b'"callingDisplayName":"Dmitry Sedykh","calledDevice":"79031744445",'
            b'"answeringDevice":"79031744445","answeringDisplayName":"Somebody",'
            b'"recording":true,"startedAt":"2017-09-14T17:59:56.000Z",'
            b'"answeredAt":"2017-09-14T18:00:00.250Z","since":"2017-09-14T18:00:00.250Z"}]}'
        )

    def test_what_is_not_known(self):
        """What is not known is left out; what commands must name, and the times, are there."""
        call = Call(call_id=39, device_id="3095", started_at=0.0, since=0.0, updated_at=0.0)
        (shown,) = encode_calls([call])["calls"]
        assert " ".join(shown) == "callId deviceId startedAt since"

    def test_no_calls(self):
        """Without calls the list is empty."""
        assert encode_calls([]) == {"calls": []}

    def test_order_is_kept(self):
        """Calls come in the order they have."""
        calls = [attrs.evolve(FULL, call_id=number) for number in (3, 1, "c2")]
        assert [call["callId"] for call in encode_calls(calls)["calls"]] == [3, 1, "c2"]
