"""The company behind the simulated MX: users, services, outside numbers, and how an MX makes ids.

Source: docs/mx-protocol.md, "Identifiers" and "Address book".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from mxflex.wire.messages import AddressBookEntry, Service

VOICEMAIL = "*86"
PARK = "*77"

# Outside numbers are at least this long; shorter ones that are no extension reach nobody.
MIN_OUTSIDE_DIGITS = 5

BUILT_IN_SERVICES = (
    Service(id="3458764514472757356", name="voicemail", type="VM", ext=VOICEMAIL),
    Service(id="3458764514634960449", name="park", type="ParkServer", ext=PARK),
)


def serial_number(serial: str) -> int:
    """Give the number behind a serial such as `63022`: five characters of base 36.

    Raises:
        ValueError: The text is not such a number.
    """
    return int(serial, 36)


def make_jid(serial: str, low: int) -> int:
    """Give a user's id: the serial of the MX above 32 bits of its own."""
    return serial_number(serial) << 32 | low & 0xFFFF_FFFF


def global_call_id(serial: str, node: int, counter: int) -> str:
    """Give the decimal form of a call's id: serial, node and a counter of 30 bits."""
    return str(serial_number(serial) << 38 | node << 30 | counter & 0x3FFF_FFFF)


def call_id_text(serial: str, node: int, counter: int) -> str:
    """Give the other form of the same id, `63022-00-0000D-6A4`."""
    return f"{serial}-{node:02X}-{counter >> 12:05X}-{counter & 0xFFF:03X}"


def dialled(number: str) -> str:
    """Give a number as the MX shows it in events: without blanks and without the leading plus."""
    return "".join(number.split()).removeprefix("+")


@attrs.frozen(kw_only=True)
class User:
    """A person with an extension.

    Attributes:
        jid: The user's id, over 2**53.
        login: The name to log in with.
        password: The clear password.
        presence: `Available`, `LoggedOut`, `BeRightBack`, ...
        note: The words beside the presence.
        in_directory: The password is checked by a directory server, which cannot use the hash: the
            MX refuses the hashed form with code 4 and takes the clear one.
        password_expired: The login succeeds with code -1.
        may_call: Whether `MakeCall` is permitted; otherwise it is refused with `URM Denied`.
        may_monitor: Whether the user's own sessions may monitor other extensions.
        lines: How many calls the telephone holds at once; one more caller finds it busy.
        has_voicemail: Whether an unanswered call goes to voicemail.
        answers_after: Seconds after which the telephone is answered by itself; None for never.
    """

    jid: int
    login: str
    password: str = attrs.field(repr=False)
    ext: str
    first_name: str = ""
    last_name: str = ""
    home_phone: str = ""
    cell_phone: str = ""
    email: str = ""
    home_system: int | None = 0
    did: str = ""
    exchange_id: str = ""
    presence: str = "Available"
    note: str = ""
    in_directory: bool = False
    password_expired: bool = False
    may_call: bool = True
    may_monitor: bool = False
    lines: int = 4
    has_voicemail: bool = True
    answers_after: float | None = None

    @property
    def name(self) -> str:
        """First and last name, or the extension of a user without a name."""
        return f"{self.first_name} {self.last_name}".strip() or self.ext

    def entry(self) -> AddressBookEntry:
        """Give the user's record in the address book."""
        return AddressBookEntry(
            jid=self.jid,
            presence=self.presence,
            note=self.note,
            first_name=self.first_name,
            last_name=self.last_name,
            ext=self.ext,
            home_phone=self.home_phone,
            cell_phone=self.cell_phone,
            email=self.email,
            home_system=self.home_system,
            did=self.did,
            exchange_id=self.exchange_id,
        )


@attrs.frozen(kw_only=True)
class OutsideParty:
    """A telephone outside the company.

    Attributes:
        number: As dialled, with or without a plus.
        name: The name it presents when it calls.
        answers_after: Seconds until it is answered; None leaves that to the behaviour.
        busy: Whether calls to it fail with the cause `busy`.
    """

    number: str
    name: str = ""
    answers_after: float | None = None
    busy: bool = False


@attrs.frozen(kw_only=True)
class ServerAccount:
    """An account for sessions of type `Server`."""

    login: str
    password: str = attrs.field(repr=False)


def _by_jid(users: Iterable[User]) -> dict[int, User]:
    return {user.jid: user for user in users}


@attrs.define(eq=False)
class Company:
    """Everybody an MX knows.

    Args:
        users: The people; extensions, ids and logins are unique.
        serial: The serial number of the MX, five characters of base 36.
        node: The number of this MX in a group.
        accounts: The accounts for `Server` sessions.
        outside: Outside telephones that have a name or a habit; others may be called too.
        services: The built-in services.
    """

    _users: dict[int, User] = attrs.field(converter=_by_jid, alias="users")
    serial: str = "63022"
    node: int = 0
    accounts: tuple[ServerAccount, ...] = ()
    outside: tuple[OutsideParty, ...] = ()
    services: tuple[Service, ...] = BUILT_IN_SERVICES

    def __iter__(self) -> Iterator[User]:
        """Walk the users in the order of their extensions."""
        return iter(sorted(self._users.values(), key=lambda user: (len(user.ext), user.ext)))

    def __len__(self) -> int:
        return len(self._users)

    def user(self, ext: str) -> User | None:
        """Give the user of an extension."""
        return next((user for user in self._users.values() if user.ext == ext), None)

    def by_jid(self, jid: int) -> User | None:
        """Give the user of an id."""
        return self._users.get(jid)

    def by_login(self, login: str) -> User | None:
        """Give the user of a login."""
        return next((user for user in self._users.values() if user.login == login), None)

    def by_phone(self, number: str) -> User | None:
        """Give the user whose mobile, home or direct number this is."""
        wanted = dialled(number)
        return next(
            (
                user
                for user in self
                if wanted in {dialled(n) for n in (user.cell_phone, user.home_phone, user.did) if n}
            ),
            None,
        )

    def service(self, number: str) -> Service | None:
        """Give the service of an extension."""
        return next((service for service in self.services if service.ext == number), None)

    def outside_party(self, number: str) -> OutsideParty:
        """Give what is known about an outside number; unknown ones get a plain record."""
        for party in self.outside:
            if dialled(party.number) == number:
                return party
        return OutsideParty(number=number)

    def put(self, user: User) -> None:
        """Add a user, or replace the one with the same id."""
        self._users[user.jid] = user

    def remove(self, jid: int) -> None:
        """Take a user out.

        Raises:
            KeyError: There is no such user.
        """
        del self._users[jid]


# The low halves of the ids of the test company's users.
_PEOPLE = (
    ("3010", 0x7C3F3C73, "", "", "Gateway", "SMS", "LoggedOut", "", "", ""),
    ("3042", 0x2F10C0A1, "", "", "mxflex", "mxflex", "LoggedOut", "", "", ""),
    ("3044", 0x34643CAD, "", "", "Peter", "Hyde", "Available", "+15125550136", "15125550136", ""),
    ("3055", 0x05D01995, "", "", "Mike", "Flynn", "BeRightBack", "", "", "lunch"),
    (
        "3095",
        0x23A97B41,
        "user_login",
        "password",
        "Dmitry",
        "Sedykh",
        "Available",
        "+79031744445",
        "",
        "",
    ),
    ("3096", 0x4DA2B2E4, "", "", "Сергей", "Кананыхин", "LoggedOut", "", "", "на встрече"),
    ("3098", 0x2E33B322, "", "", "John", "Smith", "Available", "12035160992", "12035160992", ""),
    ("3099", 0x585C5CF1, "", "", "Maxim", "O'Neil & <Sons>", "Available", "", "", ""),
)


def example_users(serial: str = "63022") -> Iterable[User]:
    """Give the users of `example_company`."""
    for ext, low, login, password, first, last, presence, cell, did, note in _PEOPLE:
        yield User(
            jid=make_jid(serial, low),
            login=login or f"user{ext}",
            password=password or f"secret{ext}",
            ext=ext,
            first_name=first,
            last_name=last,
            presence=presence,
            cell_phone=cell,
            did=did,
            note=note,
            email=f"user{ext}@example.org",
        )


def example_company() -> Company:
    """Give a company for tests: serial 63022, eight users.

    Extension 3095 logs in as `user_login` with the password `password`; every other user as
    `user` and the extension, with `secret` and the extension. The server account is `mxflex` with
    the password `mxflex`.
    """
    return Company(
        users=example_users(),
        accounts=(ServerAccount(login="mxflex", password="mxflex"),),  # noqa: S106
    )
