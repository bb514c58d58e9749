"""XML text: what is read leniently, what is refused, and how it is written."""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex.errors import BadBody, LocalProtocolError
from mxflex.wire import xmltext
from mxflex.wire.xmltext import (
    MAX_DEPTH,
    MAX_KNOWN_CHARS,
    Element,
    attribute,
    child_text,
    escape_attribute,
    escape_text,
    is_sendable,
    own_text,
    parse,
)

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MAX_BODY = 65_527


def tree(element: Element) -> tuple:
    """Give an element as plain values that compare."""
    children = tuple(tree(child) for child in element)
    # What namespaces there are is said under a name that no message has.
    attributes = {name: value for name, value in element.attrib.items() if name != "xmlns"}
    return (element.tag, attributes, own_text(element), children)


# --- The same element, written in the ways that peers write it ------------------------------------

PLAIN = '<a Code="1"><b>x</b><c/></a>'
SAME = [
    pytest.param('<?xml version="1.0"?><a Code="1"><b>x</b><c/></a>', id="declaration"),
    pytest.param(
        '<?xml version="1.0" encoding="utf-8"?>\n<a Code="1"><b>x</b><c/></a>', id="encoding"
    ),
    pytest.param(
        '  \r\n<?xml version="1.0" encoding="utf-8"?>  <a Code="1"><b>x</b><c/></a>',
        id="white space before the declaration",
    ),
    pytest.param('\ufeff<a Code="1"><b>x</b><c/></a>', id="byte order mark"),
    pytest.param(
        '\ufeff<?xml version="1.0"?><a Code="1"><b>x</b><c/></a>', id="mark and declaration"
    ),
    pytest.param("<a Code='1'><b>x</b><c/></a>", id="single quotes"),
    pytest.param('<a  Code = "1"  ><b >x</b ><c /></a >', id="doubled spaces"),
    pytest.param('<a\n\tCode="1"\n><b>x</b><c\n/></a\n>', id="line ends in tags"),
    pytest.param('<a Code="1"><b>x</b><c></c></a>', id="end tag"),
    pytest.param('<a Code="1"><b>x</b><c/></a>\r\n\r\n', id="line ends behind"),
    pytest.param(
        '<a xmlns="http://www.ecma-international.org/standards/ecma-323/csta/ed4" Code="1">'
        "<b>x</b><c/></a>",
        id="default namespace",
    ),
    pytest.param(
        '<csta:a xmlns:csta="urn:x" Code="1"><csta:b>x</csta:b><csta:c/></csta:a>', id="prefix"
    ),
    pytest.param('<q:a Code="1"><q:b>x</q:b><q:c/></q:a>', id="prefix without a declaration"),
    pytest.param('<a xmlns:q="u" q:Code="1"><b>x</b><c/></a>', id="prefixed attribute"),
    pytest.param('<a Code="1"><!-- note --><b>x</b><?pi data?><c/></a>', id="comments"),
    pytest.param('<a Code="&#49;"><b><![CDATA[x]]></b><c/></a>', id="references and CDATA"),
]


@pytest.mark.parametrize("text", SAME)
def test_ways_to_write_the_same(text: str) -> None:
    """Layout, quotes, prefixes, declarations and comments do not change what is read."""
    assert tree(parse(text.encode())) == tree(parse(PLAIN.encode()))


def test_white_space_between_elements_is_only_text() -> None:
    """Indented XML has the same elements; its white space stands in the parent's text."""
    element = parse(b"<a>\r\n  <b>x</b>\n\t<c/>\n</a>")
    assert [child.tag for child in element] == ["b", "c"]
    assert own_text(element).strip() == ""
    assert own_text(element[0]) == "x"


def test_text_around_children_is_joined() -> None:
    """Text directly inside an element is one string; what its children say is not in it."""
    element = parse(b"<a>one<b>two</b>three<!-- x -->four</a>")
    assert own_text(element) == "onethreefour"
    assert child_text(parse(b"<r> <a> one<b>two</b>three </a></r>"), "a") == "onethree"


def test_entities_of_xml() -> None:
    """The five entities and character references are read."""
    element = parse(b'<a b="&lt;&gt;&amp;&quot;&apos;">&lt;&gt;&amp;&quot;&apos;&#xA;&#1054;</a>')
    assert element.attrib["b"] == "<>&\"'"
    assert own_text(element) == "<>&\"'\n\u041e"


def test_first_child_of_a_name() -> None:
    """The first of several counts, as in the vendor's own client; "" stands for none."""
    element = parse(b"<a><cause> busy\n</cause><cause>normal</cause><empty/></a>")
    assert child_text(element, "cause") == "busy"
    assert child_text(element, "Cause") == ""
    assert child_text(element, "empty") == ""


def test_attribute_in_other_letter_case() -> None:
    """`Code` is found as `code`; the exact spelling wins where both stand."""
    assert attribute(parse(b"<a code='2'/>"), "Code") == "2"
    assert attribute(parse(b"<a code='2' Code='4'/>"), "Code") == "4"
    assert attribute(parse(b"<a sn='1'/>"), "Code") is None
    assert attribute(parse(b"<a/>"), "Code") is None


def test_namespace_declarations_are_no_attributes() -> None:
    """A declared prefix is not read as an attribute; what merely begins like one is."""
    element = parse(b"<a xmlns='u' xmlns:Code='v' xmlns:x:y='w' xmlnsVersion='4'/>")
    assert attribute(element, "Code") is None
    assert tree(element) == ("a", {"xmlnsVersion": "4"}, "", ())


# --- Names and their prefixes ---------------------------------------------------------------------

PREFIXED = b'<p:a xmlns:p="u" p:Code="1"><p:b>x</p:b><q:c/></p:a>'
UNPREFIXED = ("a", {"Code": "1"}, "", (("b", {}, "x", ()), ("c", {}, "", ())))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Begin with no name met before, and give the names met."""
    fresh = xmltext._LocalNames()
    monkeypatch.setattr(xmltext, "_local_names", fresh)
    return fresh


def test_a_prefix_met_again(names: dict[str, str]) -> None:
    """The first document with a prefix is read as the second one, and the third."""
    for _ in range(3):
        assert tree(parse(PREFIXED)) == UNPREFIXED


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(PREFIXED + b"<", id="not well-formed"),
        pytest.param(PREFIXED.replace(b"x", b"<p:b>" * 40 + b"</p:b>" * 40), id="too deep"),
        pytest.param(b"<q:c><p:a p:Code='1'><p:b xmlns:p='u'>", id="not finished"),
        pytest.param(b"<!DOCTYPE p:a><p:b/>", id="document type"),
        pytest.param(PREFIXED.replace(b"x", b"\x01"), id="a broken character"),
    ],
)
def test_a_prefix_from_a_bad_document(names: dict[str, str], bad: bytes) -> None:
    """A prefix first met in a document that was refused does no harm to the next one."""
    with contextlib.suppress(BadBody):
        parse(bad)
    assert tree(parse(PREFIXED)) == UNPREFIXED


def test_names_that_a_peer_makes_up(names: dict[str, str]) -> None:
    """However many names come, what is remembered of them stays small, and reading stays right."""
    longest = 0
    for number in range(60):
        made_up = b"".join(b"<p%d:n%d-%d/>" % (number, number, i) for i in range(1_000))
        element = parse(b"<p:r>" + made_up + PREFIXED + b"</p:r>")
        assert element[1].tag == f"n{number}-1"
        assert tree(element[-1]) == UNPREFIXED
        longest = max(longest, sum(map(len, names)))
    assert longest <= MAX_KNOWN_CHARS + MAX_BODY


# --- Characters that no document may hold ---------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"<a>Ann\xff</a>", f"Ann{UNKNOWN}", id="invalid UTF-8"),
        pytest.param(b"<a>\xc0\xaf</a>", UNKNOWN * 2, id="overlong"),
        pytest.param(b"<a>Ann\xd0</a>", f"Ann{UNKNOWN}", id="truncated sequence"),
        pytest.param(b"<a>\xed\xa0\x80</a>", UNKNOWN * 3, id="surrogate in UTF-8"),
        pytest.param(b"<a>\xcf\xf0\xe8</a>", UNKNOWN * 3, id="windows-1251"),
        pytest.param(b"<a>Ann\x00B</a>", f"Ann{UNKNOWN}B", id="NUL"),
        pytest.param(b"<a>\x1b[31mAnn\x07</a>", f"{UNKNOWN}[31mAnn{UNKNOWN}", id="control"),
        pytest.param("<a>Ann\uffff</a>".encode(), f"Ann{UNKNOWN}", id="U+FFFF"),
        pytest.param(b"<a>Ann&#0;</a>", f"Ann{UNKNOWN}", id="reference to NUL"),
        pytest.param(b"<a>Ann&#x1F;&#31;</a>", f"Ann{UNKNOWN}{UNKNOWN}", id="to a control"),
        pytest.param(b"<a>Ann&#xD800;</a>", f"Ann{UNKNOWN}", id="to a surrogate"),
        pytest.param(b"<a>Ann&#x110000;</a>", f"Ann{UNKNOWN}", id="beyond Unicode"),
        pytest.param(b"<a>Ann&#x1;&#x41;</a>", f"Ann{UNKNOWN}A", id="good ones stay"),
    ],
)
def test_forbidden_characters(body: bytes, text: str) -> None:
    """A broken character costs that character, in text as in attributes, never the event."""
    assert own_text(parse(body)) == text
    in_attribute = b"<a b='" + body.removeprefix(b"<a>").removesuffix(b"</a>") + b"'/>"
    assert parse(in_attribute).attrib["b"] == text


@pytest.mark.parametrize("character", ["\t", "\x7f", "\x85", "\ufdd0", "\U0010ffff", UNKNOWN])
def test_odd_but_allowed_characters(character: str) -> None:
    """What XML 1.0 allows is read as it stands."""
    assert own_text(parse(f"<a>x{character}y</a>".encode())) == f"x{character}y"


# --- Refused --------------------------------------------------------------------------------------

BILLION_LAUGHS = (
    b'<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;&l;&l;&l;&l;&l;">'
    + b"".join(b'<!ENTITY %c "%s">' % (110 + i, b"&%c;" % (109 + i) * 10) for i in range(10))
    + b"]><a>&w;</a>"
)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<!DOCTYPE a><a/>", id="plain"),
        pytest.param(b'<?xml version="1.0"?>\n<!DOCTYPE a><a/>', id="behind a declaration"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', id="entity"),
        pytest.param(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', id="external subset"),
        pytest.param(
            b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
            id="external entity",
        ),
        pytest.param(
            b'<!DOCTYPE a [<!ENTITY % b SYSTEM "http://127.0.0.1/x.dtd"> %b;]><a/>',
            id="parameter entity",
        ),
        pytest.param(
            b'<!DOCTYPE a [<!ATTLIST a Code CDATA "0">]><a/>', id="attribute with a default"
        ),
        pytest.param(BILLION_LAUGHS, id="billion laughs"),
        pytest.param(b"<!DOCTYPE a><a>\x00</a>", id="and a broken character"),
        pytest.param(b"\xef\xbb\xbf<!DOCTYPE a><a/>", id="behind a mark"),
    ],
)
def test_document_type(body: bytes) -> None:
    """A document type is refused as such: nothing in it is expanded, fetched or defaulted."""
    with pytest.raises(BadBody, match="document type is not allowed"):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="blank"),
        pytest.param(b"hello", id="no element"),
        pytest.param(b'{"command":"keepalive"}', id="JSON"),
        pytest.param(b"<a>", id="not closed"),
        pytest.param(b"<a></b>", id="closed by another name"),
        pytest.param(b"<a><b></a></b>", id="crossed"),
        pytest.param(b"<a/><b/>", id="two roots"),
        pytest.param(b"<a/>x", id="text behind"),
        pytest.param(b"<a/><!DOCTYPE a>", id="document type behind"),
        pytest.param(b"<a b='1' b='2'/>", id="attribute twice"),
        pytest.param(b"<a b=1/>", id="no quotes"),
        pytest.param(b"<a b/>", id="no value"),
        pytest.param(b"<a b='<'/>", id="less-than in an attribute"),
        pytest.param(b"<a>&nbsp;</a>", id="unknown entity"),
        pytest.param(b"<?xml version='1.0' standalone='no'?><a>&b;</a>", id="hoped-for entity"),
        pytest.param(b"<a>&</a>", id="bare ampersand"),
        pytest.param(b"<a>]]></a>", id="end of CDATA in text"),
        pytest.param(b"<1/>", id="name that is none"),
        pytest.param(b"<a\x00b/>", id="NUL in a name"),
        pytest.param(b"\x1f\x8b\x08", id="gzip"),
    ],
)
def test_not_well_formed(body: bytes) -> None:
    """What is not XML is BadBody, with words that an operator can use."""
    with pytest.raises(BadBody, match="not well-formed XML: "):
        parse(body)


UTF16_TEXTS = [
    "<a>x</a>",
    '<?xml version="1.0" encoding="utf-16"?><a>x</a>',
    "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", UTF16_TEXTS)
def test_other_encodings(encoding: str, text: str) -> None:
    """UTF-8 is the only encoding: no mark or pattern of zeros makes the parser take another."""
    with pytest.raises(BadBody):
        parse(text.encode(encoding))


def test_unpaired_surrogate_in_utf16() -> None:
    """Even a document whose text could not be decoded gives BadBody and nothing else."""
    with pytest.raises(BadBody):
        parse("<a>\udc00</a>".encode("utf-16-le", "surrogatepass"))


@pytest.mark.parametrize("claim", ["utf-16", "iso-8859-1", "windows-1251", "no-such-thing"])
def test_a_claimed_encoding_changes_nothing(claim: str) -> None:
    """The declaration may claim what it likes: the bytes are UTF-8."""
    body = f'<?xml version="1.0" encoding="{claim}"?><a>\u041e\u0431\u0435\u0434</a>'.encode()
    assert own_text(parse(body)) == "\u041e\u0431\u0435\u0434"


@pytest.mark.parametrize("around", [b"", b"<b/>", b"<b/>" * 40, b"x"], ids=len)
def test_depth_at_the_bound(around: bytes) -> None:
    """32 nested elements are read, 33 are not, whatever stands between them."""
    assert MAX_DEPTH == 32
    for depth in (31, 32):
        element = parse(
            (b"<a>" + around) * (depth - 1) + b"<a/>" + (around + b"</a>") * (depth - 1)
        )
        assert len(list(element.iter("a"))) == depth
    with pytest.raises(BadBody, match="nested deeper than 32"):
        parse((b"<a>" + around) * 32 + b"<a/>" + (around + b"</a>") * 32)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param((b"<a>" * 10_000)[:MAX_BODY], id="deep and never closed"),
        pytest.param(b"<a>" * 9_000 + b"</a>" * 9_000, id="deep and closed"),
        pytest.param(b"<a>" + b"<b/>" * 16_000 + b"</a>", id="wide"),
        pytest.param(b"<a>" + b"x<b/>" * 13_000 + b"</a>", id="text in small pieces"),
        pytest.param(b"<a>" + b"&#65;" * 13_000 + b"</a>", id="references"),
        pytest.param(b"<a>" + b"&#1;" * 16_000 + b"</a>", id="forbidden references"),
        pytest.param(b"<a>" + b"\x00" * 65_000 + b"</a>", id="forbidden characters"),
        pytest.param(b"<a>" + b"\xff" * 65_000 + b"</a>", id="invalid UTF-8"),
        pytest.param(b"<a>&#" + b"1" * 65_000 + b";</a>", id="a reference of 65000 digits"),
        pytest.param(
            b"<a" + b"".join(b" x%d=''" % i for i in range(6_000)) + b"/>", id="attributes"
        ),
        pytest.param(b"<" + b"a" * 65_000 + b"/>", id="a long name"),
        pytest.param(b"<" * MAX_BODY, id="less-thans"),
        pytest.param(b"<!--" + b"-" * 65_000, id="comment"),
        pytest.param(BILLION_LAUGHS, id="billion laughs"),
    ],
)
def test_hostile_bodies_cost_little(body: bytes) -> None:
    """No body of one frame takes long to read or to refuse."""
    begin = time.process_time()
    with contextlib.suppress(BadBody):
        parse(body)
    assert time.process_time() - begin < 1


# --- Writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "in_text", "in_attribute"),
    [
        ("&", "&amp;", "&amp;"),
        ("<", "&lt;", "&lt;"),
        (">", "&gt;", "&gt;"),
        ("]]>", "]]&gt;", "]]&gt;"),
        ('"', '"', "&quot;"),
        ("'", "'", "'"),
        ("\n", "&#xA;", "&#xA;"),
        ("\r\n", "&#xD;&#xA;", "&#xD;&#xA;"),
        ("\t", "\t", "&#x9;"),
        ("&amp;", "&amp;amp;", "&amp;amp;"),
        ("\u041e\u0431\u0435\u0434", "\u041e\u0431\u0435\u0434", "\u041e\u0431\u0435\u0434"),
    ],
)
def test_escapes(text: str, in_text: str, in_attribute: str) -> None:
    """Each character that means something in XML is written as it must be."""
    assert escape_text(text) == in_text
    assert escape_attribute(text) == in_attribute


@pytest.mark.parametrize("character", ["\0", "\x01", "\x1f", "\ud800", "\ufffe", "\uffff"])
def test_unsendable_characters(character: str) -> None:
    """What XML cannot carry is refused before it is sent, not sent broken."""
    assert not is_sendable(f"x{character}")
    for escape in (escape_text, escape_attribute):
        with pytest.raises(LocalProtocolError, match="XML cannot carry"):
            escape(f"x{character}y")


SENDABLE = st.text(st.characters(codec="utf-8")).filter(is_sendable)


@given(SENDABLE)
def test_escaping_round_trip(text: str) -> None:
    """Any sendable text comes back unchanged, line ends and tabs included, also from etree."""
    body = f'<a b="{escape_attribute(text)}">{escape_text(text)}</a>'.encode()
    ours, theirs = parse(body), ET.fromstring(body)
    assert (ours.attrib["b"], own_text(ours)) == (text, text)
    assert (theirs.attrib["b"], theirs.text or "") == (text, text)


@given(st.text())
def test_sendable_is_what_expat_reads(text: str) -> None:
    """`is_sendable` agrees with a parser on each text, surrogates and controls included."""
    body = f"<a>{''.join(f'&#{ord(each)};' for each in text)}</a>".encode()
    try:
        readable = (ET.fromstring(body).text or "") == text
    except ET.ParseError:
        readable = False
    assert is_sendable(text) == readable


# --- Against an implementation that is not ours ---------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,6}", fullmatch=True).filter(
    lambda name: not name.lower().startswith("xml")
)


def written(element: ET.Element) -> bytes:
    return ET.tostring(element, encoding="utf-8", xml_declaration=True)


@st.composite
def documents(draw: st.DrawFn, depth: int = 4) -> ET.Element:
    """Make an element tree as the standard library has it."""
    element = ET.Element(draw(NAMES), draw(st.dictionaries(NAMES, SENDABLE, max_size=3)))
    element.text = draw(SENDABLE)
    if depth:
        element.extend(draw(st.lists(documents(depth - 1), max_size=3)))
    for child in element:
        child.tail = draw(SENDABLE)
    return element


def tree_of_etree(element: ET.Element) -> tuple:
    """Give etree's element in the form of `tree`; etree gives text behind a child to the child."""
    text = (element.text or "") + "".join(child.tail or "" for child in element)
    children = tuple(tree_of_etree(child) for child in element)
    return (element.tag, dict(element.attrib), text, children)


@given(documents())
def test_same_as_etree(document: ET.Element) -> None:
    """Names, attributes, text and order are those that xml.etree reads from the same bytes."""
    body = written(document)
    assert tree(parse(body)) == tree_of_etree(ET.fromstring(body))


FRAGMENTS = st.sampled_from(
    b"<a>|</a>|<a/>|<b x='1'>|</b>|&amp;|&#65;|&#0;|&x;|x| |<![CDATA[|]]>|<!--|-->|<?p ?>"
    b"|<!DOCTYPE a>|<?xml version='1.0'?>|\0|\xff|\xd0\x9e|\xef\xbb\xbf|<|>|'|\"|=".split(b"|")
)


@given(st.one_of(st.binary(max_size=80), st.lists(FRAGMENTS, max_size=12).map(b"".join)))
def test_garbage(body: bytes) -> None:
    """Any bytes give an element or BadBody; what etree also reads is read the same."""
    try:
        ours = parse(body)
    except BadBody:
        ours = None
    try:
        theirs = None if b"\0" in body or b"<!DOCTYPE" in body else ET.fromstring(body)
    except ET.ParseError:
        theirs = None
    if theirs is not None:
        assert ours is not None
        assert tree(ours) == tree_of_etree(theirs)
