"""How the fields of a message stand in its XML: one small codec for each way.

A message class names the codec of each field in its annotation:

    calling_device: Annotated[str, Device("callingDevice")] = ""

`read` takes the message's element and never fails: what is missing, empty or of the wrong type
reads as the empty value of the field, because a telephone that rings must be shown even if the MX
left out a flag. `write` gives the XML text of the field. Both directions belong to one codec.
"""

from __future__ import annotations

import typing
from typing import Any, Protocol

import attrs

from mxflex.wire.xmltext import (
    Element,
    attribute,
    child_text,
    escape_attribute,
    escape_text,
    own_text,
)

# 64-bit identifiers have at most 20 digits. Longer runs of digits stay text.
_MAX_DIGITS = 20
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1


def to_int(text: str | None) -> int | None:
    """Read a decimal integer of at most 64 bits; anything else is None."""
    if text is None:
        return None
    text = text.strip()
    digits = text.removeprefix("-")
    if len(digits) > _MAX_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    value = int(text)
    return value if _MIN_INTEGER <= value <= _MAX_INTEGER else None


def to_bool(text: str | None) -> bool:
    """Read `true` or `1` as true, everything else as false."""
    return text is not None and text.strip().lower() in ("true", "1")


class Codec(Protocol):
    """One way for a field to stand in XML."""

    in_attribute: bool

    def read(self, element: Element) -> Any:
        """Give the field's value; never raises."""

    def write(self, value: Any) -> str:
        """Give the XML text of the field: ` name="value"` or child elements."""


@attrs.frozen
class Attribute:
    """An XML attribute; the empty value is left out unless `always`."""

    name: str
    always: bool = False
    in_attribute = True

    def read(self, element: Element) -> str:
        return attribute(element, self.name) or ""

    def write(self, value: str) -> str:
        return f' {self.name}="{escape_attribute(value)}"' if value or self.always else ""


@attrs.frozen
class NumberAttribute:
    """An XML attribute with an integer; None is left out."""

    name: str
    in_attribute = True

    def read(self, element: Element) -> int | None:
        return to_int(attribute(element, self.name))

    def write(self, value: int | None) -> str:
        return "" if value is None else f' {self.name}="{value}"'


@attrs.frozen
class FlagAttribute:
    """An XML attribute `true` or `false`; false is left out."""

    name: str
    in_attribute = True

    def read(self, element: Element) -> bool:
        return to_bool(attribute(element, self.name))

    def write(self, value: bool) -> str:
        return f' {self.name}="true"' if value else ""


@attrs.frozen
class Text:
    """A child element with text; always written, since clients look for it even when empty.

    Args:
        name: The child's name.
        strip: Whether white space around the text is layout. It is not in passwords.
    """

    name: str
    strip: bool = True
    in_attribute = False

    def read(self, element: Element) -> str:
        if self.strip:
            return child_text(element, self.name)
        child = element.find(self.name)
        return "" if child is None else own_text(child)

    def write(self, value: str) -> str:
        return f"<{self.name}>{escape_text(value)}</{self.name}>"


@attrs.frozen
class OptionalText:
    """A child element whose absence means something else than its emptiness."""

    name: str
    in_attribute = False

    def read(self, element: Element) -> str | None:
        child = element.find(self.name)
        return None if child is None else own_text(child).strip()

    def write(self, value: str | None) -> str:
        return "" if value is None else f"<{self.name}>{escape_text(value)}</{self.name}>"


@attrs.frozen
class Number:
    """A child element with an integer; None is left out."""

    name: str
    in_attribute = False

    def read(self, element: Element) -> int | None:
        return to_int(child_text(element, self.name))

    def write(self, value: int | None) -> str:
        return "" if value is None else f"<{self.name}>{value}</{self.name}>"


@attrs.frozen
class Flag:
    """A child element `true` or `false`."""

    name: str
    in_attribute = False

    def read(self, element: Element) -> bool:
        return to_bool(child_text(element, self.name))

    def write(self, value: bool) -> str:
        return f"<{self.name}>{'true' if value else 'false'}</{self.name}>"


@attrs.frozen
class Body:
    """The text of the message's own element."""

    in_attribute = False

    def read(self, element: Element) -> str:
        return own_text(element).strip()

    def write(self, value: str) -> str:
        return escape_text(value)


@attrs.frozen
class Device:
    """A device wrapped as CSTA does: `<callingDevice><deviceIdentifier>3095</...></...>`.

    `<notKnown/>`, `<notRequired/>` and an absent element read as "". Newer servers write
    `<party><addr>`, and answers hold the number as plain text; both are read.

    Args:
        name: The outer element.
        absent: The element that is written for ""; "" leaves the whole device out.
    """

    name: str
    absent: str = "notKnown"
    in_attribute = False

    def read(self, element: Element) -> str:
        outer = element.find(self.name)
        if outer is None:
            return ""
        number = child_text(outer, "deviceIdentifier")
        if number:
            return number
        party = outer.find("party")
        if party is not None:
            number = child_text(party, "addr")
        return number or own_text(outer).strip()

    def write(self, value: str) -> str:
        if not value:
            return f"<{self.name}><{self.absent}/></{self.name}>" if self.absent else ""
        return (
            f"<{self.name}><deviceIdentifier>{escape_text(value)}</deviceIdentifier></{self.name}>"
        )


@attrs.frozen
class ConnectionID:
    """A CSTA connection: one device's part in one call (ECMA-269, "connection identifier").

    Attributes:
        call_id: A number in all known servers; kept as text when it is not one; 0 when absent.
        device_id: The device, in events always the monitored extension; "" when absent.
        global_call_id: The same call at all devices; only in delivered and established events.
    """

    call_id: int | str = 0
    device_id: str = ""
    global_call_id: str = ""


def _connection_from(element: Element) -> ConnectionID:
    text = child_text(element, "callID")
    number = to_int(text)
    return ConnectionID(
        (text or 0) if number is None else number,
        child_text(element, "deviceID"),
        child_text(element, "globalCallID"),
    )


@attrs.frozen
class Connection:
    """A connection identifier under an element whose name differs per message.

    Args:
        name: The outer element.
        or_root: Whether `callID` and `deviceID` may also stand in the message itself.
    """

    name: str
    or_root: bool = False
    in_attribute = False

    def read(self, element: Element) -> ConnectionID:
        outer = element.find(self.name)
        if outer is None:
            return _connection_from(element) if self.or_root else ConnectionID()
        return _connection_from(outer)

    def write(self, value: ConnectionID) -> str:
        whole = (
            f"<globalCallID>{escape_text(value.global_call_id)}</globalCallID>"
            if value.global_call_id
            else ""
        )
        return (
            f"<{self.name}><callID>{escape_text(str(value.call_id))}</callID>"
            f"<deviceID>{escape_text(value.device_id)}</deviceID>{whole}</{self.name}>"
        )


@attrs.frozen(kw_only=True)
class CallAttachedData:
    """One `cad` element: a named value that travels with the call."""

    name: str
    type: str = ""
    value: str = ""


@attrs.frozen
class AttachedData:
    """All `cad` elements of an event."""

    in_attribute = False

    def read(self, element: Element) -> tuple[CallAttachedData, ...]:
        return tuple(
            CallAttachedData(
                name=attribute(child, "name") or "",
                type=attribute(child, "type") or "",
                value=own_text(child).strip(),
            )
            for child in element.findall("cad")
        )

    def write(self, value: tuple[CallAttachedData, ...]) -> str:
        return "".join(
            f'<cad name="{escape_attribute(cad.name)}" type="{escape_attribute(cad.type)}">'
            f"{escape_text(cad.value)}</cad>"
            for cad in value
        )


@attrs.frozen
class Entries:
    """Repeated child elements, each with fields of its own.

    Args:
        name: The child element.
        type: The attrs class of one entry, annotated as messages are.
    """

    name: str
    type: type[Any]
    in_attribute = False

    def read(self, element: Element) -> tuple[Any, ...]:
        return tuple(read_fields(self.type, child) for child in element.findall(self.name))

    def write(self, value: tuple[Any, ...]) -> str:
        return "".join(write_element(self.name, entry) for entry in value)


_codecs: dict[type[Any], tuple[tuple[str, Codec], ...]] = {}


def codecs_of(cls: type[Any]) -> tuple[tuple[str, Codec], ...]:
    """Give the annotated fields of an attrs class with their codecs, in order."""
    known = _codecs.get(cls)
    if known is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        known = _codecs[cls] = tuple(
            (field.name, hints[field.name].__metadata__[0]) for field in attrs.fields(cls)
        )
    return known


def read_fields(cls: type[Any], element: Element) -> Any:
    """Make an instance of an annotated class from an element."""
    return cls(**{name: codec.read(element) for name, codec in codecs_of(cls)})


def write_element(name: str, value: Any, constants: str = "") -> str:
    """Write an annotated instance as one element.

    Args:
        name: The element.
        value: The instance.
        constants: Attributes that are the same for each instance, already as XML text.

    Raises:
        LocalProtocolError: A value has a character that XML cannot carry.
    """
    attributes, children = constants, ""
    for field, codec in codecs_of(type(value)):
        text = codec.write(getattr(value, field))
        if codec.in_attribute:
            attributes += text
        else:
            children += text
    if not children:
        return f"<{name}{attributes}/>"
    return f"<{name}{attributes}>{children}</{name}>"
