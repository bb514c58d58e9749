"""Scenarios: a company, its switches, and calls that happen by themselves, as YAML.

Pure: text in, frozen values out, and every mistake is a `ConfigError` that names the file, the key
and what is expected there. `playing` lets the scripts happen.

`docs/simulator.md` describes the format; `demo.SCENARIO` is an example that uses all of it.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import attrs
import yaml
from twisted.logger import Logger

from mxflex.errors import ConfigError
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import (
    Company,
    OutsideParty,
    ServerAccount,
    User,
    make_jid,
    serial_number,
)
from mxflex.wire.xmltext import is_sendable

log = Logger()

MAX_SCENARIO_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 16
MAX_KEY_LENGTH: Final = 60
SERIAL_LENGTH: Final = 5

# Seconds; keeps a slip of the keyboard from turning a pause into weeks.
MAX_SECONDS: Final = 86_400.0
# Between two runs of a script that has no pause of its own, in seconds.
PLAYED_PAUSE: Final = 3.0


# --- What a script says ---------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Wait:
    """Do nothing for some seconds."""

    seconds: float


@attrs.frozen(kw_only=True)
class Dial:
    """Somebody calls somebody; of several numbers each run takes the next.

    Attributes:
        callers: Who calls.
        to: Who is called.
        name: What a caller from outside presents; "" for the name that is known of the number.
    """

    callers: tuple[str, ...]
    to: tuple[str, ...]
    name: str = ""


@attrs.frozen(kw_only=True)
class At:
    """Something happens at one telephone; `action` is one of `AT`."""

    action: str
    number: str


@attrs.frozen(kw_only=True)
class Towards:
    """A telephone sends its call, or itself, to another; `action` is one of `TOWARDS`."""

    action: str
    number: str
    to: str


@attrs.frozen(kw_only=True)
class SetPresence:
    """A user's presence changes."""

    ext: str
    status: str
    note: str | None = None


@attrs.frozen(kw_only=True)
class ChangeUser:
    """A user's record changes; `fields` are the new values of `User`."""

    ext: str
    fields: tuple[tuple[str, Any], ...]


@attrs.frozen(kw_only=True)
class AddUser:
    """A user is new."""

    user: User


@attrs.frozen(kw_only=True)
class DeleteUser:
    """A user goes."""

    ext: str


@attrs.frozen(kw_only=True)
class ForceLogout:
    """Sessions are ended by force."""

    session_type: str


Step = Wait | Dial | At | Towards | SetPresence | ChangeUser | AddUser | DeleteUser | ForceLogout


@attrs.frozen(kw_only=True)
class Script:
    """Steps that happen one after the other.

    Attributes:
        name: For the log.
        start: Seconds from the start of the simulator to the first run; None when it is played only
            on demand.
        pause: Seconds between two runs; None for a single run.
        steps: What happens.
    """

    name: str
    start: float | None = 0.0
    pause: float | None = None
    steps: tuple[Step, ...]


@attrs.frozen(kw_only=True)
class Scenario:
    """A whole simulated MX.

    Attributes:
        serial: The serial number of the MX.
        account: The server account.
        users: The people.
        outside: Outside telephones with a name or a habit.
        behaviour: The switches that differ from their defaults.
        scripts: What happens by itself.
    """

    serial: str
    account: ServerAccount
    users: tuple[User, ...]
    outside: tuple[OutsideParty, ...] = ()
    behaviour: tuple[tuple[str, Any], ...] = ()
    scripts: tuple[Script, ...] = ()

    def make_company(self) -> Company:
        """Give the company as it is at the beginning."""
        return Company(
            users=self.users, serial=self.serial, accounts=(self.account,), outside=self.outside
        )

    def make_behaviour(self) -> Behaviour:
        """Give the switches as they are at the beginning."""
        return Behaviour(**dict(self.behaviour))

    def quiet(self) -> Scenario:
        """Give the same company, where nothing happens by itself."""
        times = ("outside_answers_after", "outside_hangs_up_after", "no_answer_after")
        return attrs.evolve(
            self,
            users=tuple(attrs.evolve(user, answers_after=None) for user in self.users),
            outside=tuple(attrs.evolve(party, answers_after=None) for party in self.outside),
            behaviour=tuple((name, v) for name, v in self.behaviour if name not in times),
            scripts=tuple(attrs.evolve(script, start=None) for script in self.scripts),
        )

    def playing(self, *names: str) -> Scenario:
        """Give the same company, where these scripts alone happen, over and over.

        Raises:
            ConfigError: There is no such script.
        """
        known = {script.name for script in self.scripts}
        for name in names:
            if name not in known:
                raise ConfigError(name, "", f"no such script; there are {', '.join(sorted(known))}")
        return attrs.evolve(
            self,
            scripts=tuple(
                attrs.evolve(script, start=1.0, pause=script.pause or PLAYED_PAUSE)
                if script.name in names
                else attrs.evolve(script, start=None)
                for script in self.scripts
            ),
        )


# What one telephone does with its call.
AT: Final = (
    "fail",
    "hang_up",
    "hold",
    "retrieve",
    "park",
    "record",
    "stop_recording",
    "answer",
    "join",
    "no_answer",
    "pick_up",
)
TOWARDS: Final = ("consult", "deflect", "transfer")
STEPS: Final = (
    "call",
    "wait",
    *AT,
    *TOWARDS,
    "presence",
    "add_user",
    "update_user",
    "delete_user",
    "force_logout",
)


# --- Reading --------------------------------------------------------------------------------------


_NUMBER = re.compile(r"\+?[0-9*#]*[0-9][0-9*#]*")


class Node:
    """A value of a YAML or JSON text, with the path that leads to it; made to be read once.

    Each reading raises `ConfigError` where the value is another than what is asked for.

    Args:
        source: The name of the text, for errors.
        path: The keys that lead here; "" at the top.
        value: The value.
    """

    def __init__(self, source: str, path: str, value: Any) -> None:
        self.source = source
        self.path = path
        self.value = value

    def wrong(self, expected: str) -> ConfigError:
        """Make the error for this value; it never repeats the value, which may be a secret."""
        return ConfigError(self.source, self.path, expected)

    def items(self) -> Iterator[Node]:
        """Walk the entries of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("expected a list")
        for index, each in enumerate(self.value):
            yield Node(self.source, f"{self.path}[{index}]", each)

    def keys(self, *known: str, required: Sequence[str] = ()) -> dict[str, Node]:
        """Give the values of a mapping that has no keys but these."""
        if not isinstance(self.value, dict):
            raise self.wrong("expected a mapping of " + ", ".join(known))
        nodes = {}
        for key, value in self.value.items():
            if key not in known:
                name = " ".join(str(key).split())[:MAX_KEY_LENGTH]
                raise Node(self.source, self._below(name), value).wrong(
                    "unknown key; known are " + ", ".join(known)
                )
            nodes[key] = Node(self.source, self._below(key), value)
        for key in required:
            if key not in nodes:
                raise Node(self.source, self._below(key), None).wrong("is missing")
        return nodes

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def text(self) -> str:
        """Give text that may be sent."""
        if not isinstance(self.value, str) or not is_sendable(self.value):
            raise self.wrong("expected text; numbers need quotes")
        return self.value

    def word(self) -> str:
        """Give text that is not empty."""
        if not self.text().strip():
            raise self.wrong("must not be empty")
        return self.text().strip()

    def number(self) -> str:
        """Give a telephone number; YAML reads one without quotes as an integer."""
        if isinstance(self.value, int) and not isinstance(self.value, bool) and self.value >= 0:
            return str(self.value)
        if not isinstance(self.value, str):
            raise self.wrong("expected a telephone number in quotes")
        digits = "".join(self.value.split())
        if not _NUMBER.fullmatch(digits):
            raise self.wrong("expected a telephone number: digits, with + before or *, # inside")
        return digits

    def extension(self) -> str:
        """Give a user's extension."""
        ext = self.number()
        if not ext.isdecimal():
            raise self.wrong("expected an extension: digits in quotes")
        return ext

    def numbers(self) -> tuple[str, ...]:
        """Give one number or a list of them."""
        if not isinstance(self.value, list):
            return (self.number(),)
        if not self.value:
            raise self.wrong("expected at least one telephone number")
        return tuple(each.number() for each in self.items())

    def seconds(self) -> float:
        """Give a duration in seconds."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("expected a number of seconds")
        if not 0 <= value <= MAX_SECONDS:
            raise self.wrong(f"expected 0 to {MAX_SECONDS:.0f} seconds")
        return float(value)

    def of_type(self, hint: Any) -> Any:
        """Give a value as a field of `Behaviour` or `User` is annotated."""
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            if self.value not in choices:
                raise self.wrong("expected one of " + ", ".join(repr(c) for c in choices))
            return self.value
        if hint in (float | None, float):
            return None if self.value is None and hint is not float else self.seconds()
        if hint is bool:
            if not isinstance(self.value, bool):
                raise self.wrong("expected true or false")
            return self.value
        if hint in (int, int | None):
            if self.value is None and hint is not int:
                return None
            if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 0:
                raise self.wrong("expected a whole number, not negative")
            return self.value
        return self.text()


class _NoAliases(yaml.SafeLoader):
    """Reads plain data: no tags, no aliases (a few of them could blow up), no doubled keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not allowed",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a word", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load(text: str, source: str) -> Scenario:
    """Read a scenario.

    Args:
        text: YAML.
        source: The name of the file, for errors.

    Raises:
        ConfigError: Anything is wrong with it.
    """
    try:
        data = yaml.load(text, Loader=_NoAliases)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ConfigError(source, "", f"{where}not YAML: {error.problem or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(source, "", f"not YAML: {reason}") from None
    return _scenario(Node(source, "", data))


def _scenario(root: Node) -> Scenario:
    keys = root.keys(
        "company", "users", "outside", "behaviour", "scripts", required=("company", "users")
    )
    company = keys["company"].keys("serial", "server", required=("server",))
    serial = _serial(company["serial"]) if "serial" in company else "63022"
    server = company["server"].keys("login", "password", required=("login", "password"))
    users = tuple(_user(node, serial) for node in keys["users"].items())
    if not users:
        raise keys["users"].wrong("expected at least one user")
    _check_unique(keys["users"], users, "ext", "login", "jid")
    extensions = {user.ext for user in users}
    scripts: tuple[Script, ...] = ()
    if "scripts" in keys:
        scripts = tuple(_script(node, extensions, serial) for node in keys["scripts"].items())
        _check_unique(keys["scripts"], scripts, "name")
    return Scenario(
        serial=serial,
        account=ServerAccount(login=server["login"].word(), password=server["password"].word()),
        users=users,
        outside=tuple(_outside(n) for n in keys["outside"].items()) if "outside" in keys else (),
        behaviour=read_behaviour(keys["behaviour"]) if "behaviour" in keys else (),
        scripts=scripts,
    )


def _serial(node: Node) -> str:
    text = str(node.value) if isinstance(node.value, int) else node.text()
    try:
        serial_number(text)
    except ValueError:
        text = ""
    if len(text) != SERIAL_LENGTH or not text.isalnum():
        raise node.wrong(f"expected {SERIAL_LENGTH} letters and digits")
    return text


_USER_HINTS = typing.get_type_hints(User)
_REQUIRED_OF_USERS = ("ext", "login", "password")


def _user_fields(node: Node, required: Sequence[str]) -> dict[str, Any]:
    keys = node.keys(*(["ext"] + [n for n in _USER_HINTS if n != "ext"]), required=required)
    fields: dict[str, Any] = {}
    for name, each in keys.items():
        if name == "ext":
            fields[name] = each.extension()
        elif name in ("home_phone", "cell_phone", "did"):
            fields[name] = each.number() if each.value != "" else ""
        elif name in ("login", "password"):
            fields[name] = each.word()
        elif name == "jid":
            fields[name] = each.of_type(int)
        else:
            fields[name] = each.of_type(_USER_HINTS[name])
    return fields


def _user(node: Node, serial: str) -> User:
    fields = _user_fields(node, _REQUIRED_OF_USERS)
    # A multiplier prime to 2**32 spreads the extensions over the ids, without a collision.
    low = int(fields["ext"]) * 0x9E3779B1
    return User(**{"jid": make_jid(serial, low), **fields})


def _check_unique(node: Node, things: Sequence[User | Script], *names: str) -> None:
    for name in names:
        seen = set()
        for thing, each in zip(things, node.items(), strict=True):
            value = getattr(thing, name)
            if value in seen:
                kind = "script" if isinstance(thing, Script) else "user"
                raise ConfigError(
                    node.source, f"{each.path}.{name}", f"another {kind} has the same one"
                )
            seen.add(value)


def _outside(node: Node) -> OutsideParty:
    keys = node.keys("number", "name", "answers_after", "busy", required=("number",))
    fields: dict[str, Any] = {"number": keys["number"].number()}
    if "name" in keys:
        fields["name"] = keys["name"].text()
    if "answers_after" in keys:
        fields["answers_after"] = keys["answers_after"].of_type(float | None)
    if "busy" in keys:
        fields["busy"] = keys["busy"].of_type(bool)
    return OutsideParty(**fields)


_BEHAVIOUR_HINTS = typing.get_type_hints(Behaviour)


def read_behaviour(node: Node) -> tuple[tuple[str, Any], ...]:
    """Read switches.

    Raises:
        ConfigError: There is no such switch, or not with such a value.
    """
    keys = node.keys(*_BEHAVIOUR_HINTS)
    values = [(name, each.of_type(_BEHAVIOUR_HINTS[name])) for name, each in keys.items()]
    for name, value in values:
        if name == "page_size" and not value:
            raise keys[name].wrong("expected at least 1")
    return tuple(values)


def _script(node: Node, extensions: set[str], serial: str) -> Script:
    keys = node.keys("name", "start", "pause", "steps", required=("steps",))
    steps = tuple(read_step(each, extensions, serial) for each in keys["steps"].items())
    if not steps:
        raise keys["steps"].wrong("expected at least one step")
    pause = keys["pause"].seconds() if "pause" in keys else None
    if pause is not None and pause + sum(s.seconds for s in steps if isinstance(s, Wait)) <= 0:
        raise node.wrong("a script that repeats needs a pause or a wait, or it never lets go")
    return Script(
        name=keys["name"].text() if "name" in keys else node.path,
        start=keys["start"].of_type(float | None) if "start" in keys else 0.0,
        pause=pause,
        steps=steps,
    )


def read_step(node: Node, extensions: set[str], serial: str) -> Step:
    """Read one step.

    Args:
        node: A mapping with the step's name as its only key.
        extensions: Those of the company; those of `add_user` are added.
        serial: The serial of the MX, which new users' ids are made of.

    Raises:
        ConfigError: It is no step.
    """
    if not isinstance(node.value, dict) or len(node.value) != 1:
        raise node.wrong('expected one step, such as `answer: "3095"`')
    (name, argument) = next(iter(node.keys(*STEPS).items()))
    if name in AT:
        return At(action=name, number=argument.number())
    if name in TOWARDS:
        keys = argument.keys("from", "to", required=("from", "to"))
        return Towards(action=name, number=keys["from"].number(), to=keys["to"].number())
    if name == "call":
        return read_dial(argument)
    if name == "wait":
        return Wait(seconds=argument.seconds())
    if name == "force_logout":
        return ForceLogout(session_type=argument.of_type(Literal["Server", "User", ""]))
    return _step_about_people(name, argument, extensions, serial)


def read_dial(node: Node) -> Dial:
    """Read who calls whom.

    Raises:
        ConfigError: Something is missing or wrong.
    """
    keys = node.keys("from", "to", "name", required=("from", "to"))
    return Dial(
        callers=keys["from"].numbers(),
        to=keys["to"].numbers(),
        name=keys["name"].text() if "name" in keys else "",
    )


def _step_about_people(name: str, argument: Node, extensions: set[str], serial: str) -> Step:
    if name == "add_user":
        user = _user(argument, serial)
        extensions.add(user.ext)
        return AddUser(user=user)
    if name == "delete_user":
        return DeleteUser(ext=_known_extension(argument, extensions))
    if name == "presence":
        keys = argument.keys("ext", "status", "note", required=("ext", "status"))
        return SetPresence(
            ext=_known_extension(keys["ext"], extensions),
            status=keys["status"].word(),
            note=keys["note"].text() if "note" in keys else None,
        )
    fields = _user_fields(argument, ("ext",))
    _known_extension(argument.keys(*_USER_HINTS)["ext"], extensions)
    return ChangeUser(ext=fields.pop("ext"), fields=tuple(fields.items()))


def _known_extension(node: Node, extensions: set[str]) -> str:
    ext = node.number()
    if ext not in extensions:
        raise node.wrong("expected the extension of a user of this scenario")
    return ext
