"""XML text in and out, on the standard library's expat: the only user of an XML parser.

What an MX sends is read leniently (namespaces, declarations, white space, stray control characters)
but a document type is refused at its first byte: without one there are no entities to expand and
nothing outside to fetch.

Elements are those of `xml.etree`, under their local names: expat makes them by way of etree's own
builder without a line of Python, and an event has dozens of them.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import TypeAlias
from xml.etree import ElementTree as ET
from xml.parsers import expat

from mxflex.errors import BadBody, LocalProtocolError

Element: TypeAlias = ET.Element

# The protocol nests seven levels at the deepest; whoever walks the elements may rely on the limit.
MAX_DEPTH = 32

# All names of the protocol have some 3000 characters, and again as many with each prefix in use.
MAX_KNOWN_CHARS = 50_000

# XML 1.0, 2.2: everything else cannot stand in a document, not even as a character reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]{1,8})|([0-9]{1,8}));")


def own_text(element: Element) -> str:
    """Give the character data directly inside an element, children's text left out."""
    text = element.text or ""
    if len(element):
        # What stands behind a child is kept with the child.
        text += "".join(child.tail or "" for child in element)
    return text


def child_text(element: Element, name: str) -> str:
    """Give the text of the first child of that name, without white space around it, or ""."""
    child = element.find(name)
    if child is None:
        return ""
    # Nearly all are without children of their own.
    text = own_text(child) if len(child) else child.text
    return text.strip() if text else ""


def attribute(element: Element, name: str) -> str | None:
    """Give an attribute's value; its name is also found in other letter case.

    Servers and clients disagree on `Code` and `code` in login answers.
    """
    value = element.get(name)
    if value is None:
        lowered = name.lower()
        for key, candidate in element.items():
            if key.lower() == lowered:
                return candidate
    return value


class _Refused(Exception):
    """Raised inside expat's callbacks to stop at once."""


def _refuse_document_type(*_args: object) -> None:
    raise _Refused("a document type is not allowed")


class _LocalNames(dict[str, str]):
    """Names of elements and attributes as peers spell them, each with its local name.

    To have each name once, Python's binding to expat looks it up in a dict and hands on the value
    that it finds there. So a name that is known comes without its prefix, at no cost. A new one
    comes as it stands, and is in the dict from then on, as its own value.
    """

    def __init__(self) -> None:
        super().__init__()
        self._chars = 0

    def learn(self, known: int) -> bool:
        """Find the local names of those that came after the first so many.

        Returns:
            Whether there is one with a prefix, so that it was handed on with it.
        """
        # Of a document type, what it leaves out is there as well, as None.
        new = list(filter(None, itertools.islice(self, known, None)))
        self._chars += sum(map(len, new))
        prefixed = [name for name in new if ":" in name]
        for name in prefixed:
            # A declared prefix must not look like an attribute of that name.
            local = "xmlns" if name.startswith("xmlns:") else name.rpartition(":")[2]
            self[name] = local
        return bool(prefixed)

    def make_room(self) -> None:
        """Forget all names when there are so many that the peer must be making them up."""
        if self._chars > MAX_KNOWN_CHARS:
            self.clear()
            self._chars = 0


_local_names = _LocalNames()


def _build(body: bytes) -> Element:
    builder = ET.TreeBuilder()
    # Naming the encoding here overrides whatever the document claims of itself, but not a first
    # character in UTF-16: see `parse`.
    parser = expat.ParserCreate("utf-8", None, _local_names)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.Parse(body, True)
    return builder.close()


def _is_too_deep(root: Element) -> bool:
    if len(list(root.iter())) <= MAX_DEPTH:
        # Too few to stand so deep in each other, as in nearly every message.
        return False
    level = [root]
    for _ in range(MAX_DEPTH - 1):
        level = [child for element in level for child in element if len(child)]
    return bool(level)


def _parse_strictly(body: bytes) -> Element:
    _local_names.make_room()
    known = len(_local_names)
    try:
        root = _build(body)
    except _Refused as error:
        raise BadBody(str(error)) from None
    finally:
        # Also from a document that is refused, since the next one may be of the same names.
        new_prefix = len(_local_names) != known and _local_names.learn(known)
    if new_prefix:
        root = _build(body)
    if _is_too_deep(root):
        raise BadBody(f"elements nested deeper than {MAX_DEPTH}")
    return root


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
