"""The event and the company that all is measured with.

The event is one that telephone servers send most, in their longest spelling: 1.3 KB of XML, 0.4 KB
of JSON. Its call id is the sequence number, its global call id the time at which it was sent, in
nanoseconds of CLOCK_MONOTONIC: the readers check the one and reckon with the other. The time is put
into the finished bytes right before they go to the socket, so that making them is no latency.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import attrs

from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import Company, ServerAccount, User, make_jid
from mxflex.web.eventjson import encode_call_event
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import DeliveredEvent

EXT = "3000"
SERIAL = "63022"
SERVER_LOGIN, SERVER_PASSWORD = "bench", "bench-server"
PASSWORD = "bench-user"  # noqa: S105 - of a simulated MX
PEOPLE = 500
FIRST_EXT = int(EXT)

# Holds the place of the time: as many digits as the nanoseconds of three hundred years have.
PLACE = 9_999_999_999_999_999_999
_PLACE = str(PLACE).encode()

_EVENT = DeliveredEvent(
    monitor="1",
    connection=ConnectionID(device_id=EXT),
    alerting_device=EXT,
    alerting_display_name="Alexandra Featherstone",
    network_calling_device="12025550104",
    calling_device="12025550104",
    calling_display_name="Harbor Coffee Roasters, Accounts Department",
    called_device=EXT,
    last_redirection_device="3900",
    local_connection_info="alerting",
    cause="normal",
    call_type_flags=34603008,
    cmds_allowed=1157,
    cads=(
        CallAttachedData(name="customer", type="string", value="C-2040117"),
        CallAttachedData(name="queue", type="string", value="sales"),
    ),
)


def stamp(data: bytes) -> bytes:
    """Put the present time into events that were made without one."""
    return data.replace(_PLACE, b"%019d" % time.monotonic_ns())


def make_event(sequence: int, sent_at: int = PLACE) -> DeliveredEvent:
    """Give the event with this number.

    Args:
        sequence: 1 for the first one, then one more each time.
        sent_at: Nanoseconds of CLOCK_MONOTONIC; by default the place where `stamp` puts them.
    """
    connection = ConnectionID(call_id=sequence, device_id=EXT, global_call_id=str(sent_at))
    return attrs.evolve(_EVENT, connection=connection)


def make_json(sequence: int, sent_at: int = PLACE) -> tuple[str, bytes]:
    """Give the name and the JSON of the same event, as MXFlex writes it."""
    encoded = encode_call_event(EXT, make_event(sequence, sent_at))
    assert encoded is not None
    return encoded


def make_behaviour() -> Behaviour:
    """Give the spelling of the events: each name with its namespace."""
    return Behaviour(namespace=True)


def make_company(people: int = PEOPLE, accounts: Iterable[str] = (SERVER_LOGIN,)) -> Company:
    """Give a company.

    Args:
        people: How many work there; the first one has the extension `EXT`.
        accounts: The names that servers log in with.
    """
    return Company(
        [_person(number) for number in range(people)],
        serial=SERIAL,
        accounts=tuple(ServerAccount(login=login, password=SERVER_PASSWORD) for login in accounts),
    )


def ext_of(number: int) -> str:
    """Give the extension of a person."""
    return str(FIRST_EXT + number)


def login_of(number: int) -> str:
    """Give the name that a person logs in with."""
    return f"person{number}"


def _person(number: int) -> User:
    return User(
        jid=make_jid(SERIAL, number + 1),
        login=login_of(number),
        password=PASSWORD,
        ext=ext_of(number),
        first_name=("Alexandra", "Борис", "Chloé", "Dmitri", "Erika")[number % 5],
        last_name=f"Featherstone-{number}",
        cell_phone=f"+4477009{number:05}",
        home_phone=f"+4420794{number:05}",
        email=f"person{number}@example.com",
        did=f"1202555{number:04}",
        home_system=0,
        presence=("Available", "BeRightBack", "NotAvailable")[number % 3],
        note="back at three" if number % 3 == 1 else "",
    )
