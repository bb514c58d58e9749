"""XML text in and out, on the standard library's expat: the only user of an XML parser.

What an MX sends is read leniently (namespaces, declarations, white space, stray control characters)
but a document type is refused at its first byte: without one there are no entities to expand and
nothing outside to fetch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from xml.parsers import expat

from mxflex.errors import BadBody, LocalProtocolError

# The protocol nests seven levels at the deepest; the limit keeps a hostile frame from building a
# tower of tens of thousands of elements.
MAX_DEPTH = 32

# XML 1.0, 2.2: everything else cannot stand in a document, not even as a character reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]{1,8})|([0-9]{1,8}));")


class Element:
    """An element as the messages read it: local names only, first child of each name at hand.

    Attributes:
        name: The local name, without a namespace prefix.
        attributes: Attribute values by local name, without namespace declarations.
        children: All child elements in order.
        text: The character data directly inside, children's text left out.
    """

    __slots__ = ("_first", "attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Element] = []
        self.text = ""
        self._first: dict[str, Element] = {}

    def append(self, child: Element) -> None:
        """Add a child behind the others."""
        self.children.append(child)
        self._first.setdefault(child.name, child)

    def child(self, name: str) -> Element | None:
        """Give the first child of that local name, or None."""
        return self._first.get(name)

    def attribute(self, name: str) -> str | None:
        """Give an attribute's value; its name is also found in other letter case.

        Servers and clients disagree on `Code` and `code` in login answers.
        """
        value = self.attributes.get(name)
        if value is None and self.attributes:
            lowered = name.lower()
            for key, candidate in self.attributes.items():
                if key.lower() == lowered:
                    return candidate
        return value

    def descendants(self) -> Iterator[Element]:
        """Walk all elements below this one, in document order."""
        for child in self.children:
            yield child
            yield from child.descendants()


class _Refused(Exception):
    """Raised inside expat's callbacks to stop at once."""


class _TreeBuilder:
    """Collects expat's callbacks into one `Element`."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise _Refused(f"elements nested deeper than {MAX_DEPTH}")
        if ":" in name:
            name = name.rpartition(":")[2]
        if attributes:
            attributes = {
                key.rpartition(":")[2]: value
                for key, value in attributes.items()
                if key != "xmlns" and not key.startswith("xmlns:")
            }
        element = Element(name, attributes)
        if self._open:
            self._open[-1].append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _name: str) -> None:
        self._open.pop()

    def data(self, text: str) -> None:
        # Expat reports character data only inside an element.
        self._open[-1].text += text

    def doctype(self, *_args: object) -> None:
        raise _Refused("a document type is not allowed")


def _parse_strictly(body: bytes) -> Element:
    builder = _TreeBuilder()
    # Naming the encoding here overrides whatever the document claims of itself, but not a first
    # character in UTF-16: see `parse`.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.doctype
    try:
        parser.Parse(body, True)
    except _Refused as error:
        raise BadBody(str(error)) from None
    # expat only fails to find a root in a document that it has refused already.
    assert builder.root is not None
    return builder.root


def _without_forbidden_reference(match: re.Match[str]) -> str:
    code = int(match[1], 16) if match[1] else int(match[2])
    if code > sys.maxunicode or _FORBIDDEN.match(chr(code)):
        return "\N{REPLACEMENT CHARACTER}"
    return match[0]


def _repaired(body: bytes) -> bytes:
    """Replace bytes and characters that no XML document may hold by U+FFFD."""
    text = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", body.decode("utf-8", "replace"))
    return _REFERENCE.sub(_without_forbidden_reference, text).encode("utf-8")


def parse(body: bytes) -> Element:
    """Read one XML text.

    A caller's display name comes from outside the company; a control character or a broken UTF-8
    sequence in it must not cost the event. So a text that is only wrong in that way is read with
    those characters replaced by U+FFFD.

    Raises:
        BadBody: Not well-formed, a document type, or nested too deeply.
    """
    # White space before an XML declaration is not well-formed, and does no harm.
    body = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if b"\0" in body:
        # Expat would take it for UTF-16 if the zeros stand right: `<` has one in that encoding.
        body = _repaired(body)
    try:
        return _parse_strictly(body)
    except expat.ExpatError as error:
        repaired = _repaired(body)
        if repaired == body:
            raise BadBody(f"not well-formed XML: {error}") from None
    try:
        return _parse_strictly(repaired)
    except expat.ExpatError as error:
        raise BadBody(f"not well-formed XML: {error}") from None


_TEXT_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "&#xA;", "\r": "&#xD;"}
_ATTRIBUTE_ESCAPES = {**_TEXT_ESCAPES, '"': "&quot;", "\t": "&#x9;"}
_TEXT_TABLE = str.maketrans(_TEXT_ESCAPES)
_ATTRIBUTE_TABLE = str.maketrans(_ATTRIBUTE_ESCAPES)


def is_sendable(text: str) -> bool:
    """Tell whether every character of the text may stand in an XML document (XML 1.0, 2.2)."""
    return _FORBIDDEN.search(text) is None


def _checked(text: str) -> str:
    if not is_sendable(text):
        raise LocalProtocolError("a text has a character that XML cannot carry")
    return text


def escape_text(text: str) -> str:
    """Escape character data; line ends become references, so that they survive normalization.

    Raises:
        LocalProtocolError: A character that XML cannot carry.
    """
    return _checked(text).translate(_TEXT_TABLE)


def escape_attribute(text: str) -> str:
    """Escape an attribute's value for double quotes.

    Raises:
        LocalProtocolError: A character that XML cannot carry.
    """
    return _checked(text).translate(_ATTRIBUTE_TABLE)
