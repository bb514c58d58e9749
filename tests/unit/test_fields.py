"""What a request says: fields of forms and of JSON, and what is no field."""

from __future__ import annotations

import json
from io import BytesIO
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from mxflex.errors import BadRequest, UnsupportedType
from mxflex.web.fields import (
    FORM,
    JSON,
    MAX_DIGITS,
    MAX_FIELDS,
    MAX_TEXT,
    Fields,
    has_body,
    read_body,
    read_query,
)
from mxflex.wire.xmltext import is_sendable


class Request:
    """As much of a request as has fields."""

    def __init__(self, body=b"", content_type=None, uri=b"/api/call", method=b"POST"):
        self.content = BytesIO(body)
        self.requestHeaders = Headers()
        if content_type is not None:
            self.requestHeaders.addRawHeader("content-type", content_type)
        self.uri = uri
        self.method = method

    def getHeader(self, name):
        values = self.requestHeaders.getRawHeaders(name)
        return None if values is None else values[-1]


def of_form(body, content_type=FORM):
    return read_body(Request(body, content_type)).values


def of_json(body, content_type=JSON):
    return read_body(Request(body, content_type)).values


def refused(read, *args, match=None):
    """Tell that reading is refused as the client's mistake, in words that fit one line."""
    with pytest.raises(BadRequest, match=match) as caught:
        read(*args)
    return str(caught.value).isprintable()


sendable = st.text(st.characters(exclude_categories=["Cs"])).filter(is_sendable)


class TestText:
    """Fields that are text."""

    def test_there_or_not(self):
        """A field is its text; one that is not there, or null in JSON, is None."""
        fields = Fields({"a": "x", "b": "", "c": None})
        assert [fields.text(name) for name in "abcd"] == ["x", "", None, None]

    @pytest.mark.parametrize("value", [0, 7, 1.5, True, False, [], ["x"], {}, {"x": "y"}])
    def test_numbers_where_texts_are_due(self, value):
        """A value of JSON that is no text is refused, and never turned into one."""
        for read in (Fields({"a": value}).text, lambda n: Fields({"a": value}).required(n, "c")):
            assert refused(read, "a", match="a must be text")

    @pytest.mark.parametrize(("length", "fits"), [(4095, True), (4096, True), (4097, False)])
    def test_length(self, length, fits):
        """A text may be so long, in characters, and not longer."""
        assert MAX_TEXT == 4096
        fields = Fields({"a": "\N{GRINNING FACE}" * length})
        if fits:
            assert len(fields.text("a")) == length
        else:
            assert refused(fields.text, "a", match="too long")

    @pytest.mark.parametrize("character", ["\0", "\x1b", "\x08", "\ud800", "\ufffe"])
    def test_characters_that_cannot_be_sent(self, character):
        """What XML cannot carry is refused here, before anything is sent."""
        assert refused(Fields({"a": f"x{character}"}).text, "a", match="not allowed")

    @pytest.mark.parametrize("text", ["]]>", "<a/>&amp;\"'", "Обед", "\t\n\r", "\u2028", "%00"])
    def test_characters_that_can(self, text):
        """Whatever XML can carry is taken as it is."""
        assert Fields({"a": text}).text("a") == text

    @given(st.text(st.characters()))
    def test_any_text(self, text):
        """Any text is taken whole or refused, and nothing else happens."""
        fields = Fields({"a": text})
        if is_sendable(text):
            assert fields.text("a") == text
        else:
            assert refused(fields.text, "a")

    @pytest.mark.parametrize("value", ["", " ", "\t\r\n", "\u00a0", None])
    def test_required(self, value):
        """A required text must be there and not blank; white space around it is layout."""
        assert refused(Fields({"a": value}).required, "a", "a required", match="^a required$")
        assert Fields({"a": " x y\t"}).required("a", "") == "x y"

    @pytest.mark.parametrize("value", ["", None])
    def test_secret(self, value):
        """A secret must be there; white space belongs to it."""
        assert refused(Fields({"a": value}).secret, "a", "a required", match="^a required$")
        assert Fields({"a": "  "}).secret("a", "") == "  "
        assert Fields({"a": " x "}).secret("a", "") == " x "


class TestCallID:
    """Call ids."""

    @pytest.mark.parametrize(
        ("value", "number"),
        [
            (39, 39),
            ("39", 39),
            (" 39 ", 39),
            ("0", 0),
            ("007", 7),
            (39.0, 39),
            (2**63 - 1, 2**63 - 1),
            (str(2**63 - 1), 2**63 - 1),
            (str(2**63 - 1).zfill(MAX_DIGITS), 2**63 - 1),
        ],
    )
    def test_numbers(self, value, number):
        """A number may be written as such or as text, in plain digits."""
        assert Fields({"a": value}).call_id("a", "bad id") == number

    @pytest.mark.parametrize(
        "value",
        [
            None,
            "",
            " ",
            "x",
            "3x",
            "-1",
            "+39",
            "3 9",
            "1e3",
            "0x27",
            "39.0",
            "\u0663\u0669",
            "\u00b2",
            "\uff13",
            str(2**63),
            "1".zfill(MAX_DIGITS + 1),
            "9" * 10_000,
            True,
            False,
            39.5,
            float("inf"),
            float("nan"),
            -1,
            -1.0,
            2**63,
            2.0**63,
            10**30,
            [39],
            {"a": 39},
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_what_is_none(self, value):
        """Everything else is no call id; the error has the words of whoever asked for it."""
        assert refused(Fields({"a": value}).call_id, "a", "bad id", match="^bad id$")

    def test_missing(self):
        """A call id that is not there is a bad one."""
        assert refused(Fields({}).call_id, "callId", "bad id", match="^bad id$")


class TestForms:
    """Bodies as browsers send them."""

    def test_owners_samples(self):
        """The owner's bodies are read as they are meant."""
        assert of_form(b"login=user_login&password=password") == {
            "login": "user_login",
            "password": "password",
        }
        assert of_form(b"from=79031234567&to=79037654321") == {
            "from": "79031234567",
            "to": "79037654321",
        }
        assert of_form(b"to=%2B79031744445&access_token=a.b.c")["to"] == "+79031744445"

    @given(st.dictionaries(sendable, sendable, max_size=10))
    def test_reads_what_was_written(self, values):
        """Any names and values that a browser can send are read back."""
        assert of_form(urlencode(values).encode("ascii")) == values

    def test_blank_values_are_values(self):
        """A field without a value is there, and empty."""
        assert of_form(b"a=&b&c=x") == {"a": "", "b": "", "c": "x"}
        assert of_form(b"") == of_form(b"&&") == {}

    def test_other_spellings(self):
        """Plus, percent signs and raw UTF-8 are read as the standard says (WHATWG URL, 5.1)."""
        assert of_form(b"a=1+2%2b%2B3&%61b=%u0041%") == {"a": "1 2++3", "ab": "%u0041%"}
        assert of_form("имя=Обед".encode()) == {"имя": "Обед"}
        assert of_form(b"a;b=1=2") == {"a;b": "1=2"}

    @pytest.mark.parametrize(
        "body", [b"a=1&a=2", b"a=1&%61=1", b"a&a", b"a=&b=2&a=", b"login=x&login=y"]
    )
    def test_doubled(self, body):
        """A field given twice, however it is written, is refused by its name."""
        assert refused(of_form, body, match="(a|login) is given more than once")

    def test_doubled_names_are_repeated_only_if_plain(self):
        """A doubled name that is an attack is not repeated to anybody."""
        for name in ("<script>", "a\r\nSet-Cookie: x", "\x1b[31m", ""):
            body = urlencode([(name, "1"), (name, "2")]).encode()
            assert refused(of_form, body, match="^a field is given")

    @pytest.mark.parametrize("body", [b"a=\xff", b"\xff=a", b"a=%ff", b"%C3=a", b"a=%ED%A0%80"])
    def test_not_utf8(self, body):
        """Bytes that are no UTF-8, raw or escaped, are refused."""
        assert refused(of_form, body, match="not UTF-8")

    @pytest.mark.parametrize(("count", "fits"), [(63, True), (64, True), (65, False)])
    def test_number_of_fields(self, count, fits):
        """There may be so many fields and not more."""
        assert MAX_FIELDS == 64
        body = "&".join(f"f{number}=x" for number in range(count)).encode()
        if fits:
            assert len(of_form(body)) == count
        else:
            assert refused(of_form, body, match="too many fields")

    @given(st.binary(max_size=200))
    def test_garbage(self, body):
        """Whatever the bytes, they are fields or the client's mistake."""
        try:
            values = of_form(body)
        except BadRequest:
            return
        assert all(isinstance(value, str) for value in values.values())


class TestJSON:
    """Bodies as programs send them."""

    def test_object(self):
        """An object's members are the fields, with their own types."""
        assert of_json(b' {"callId": 39, "to": "+7", "x": null, "y": [1.5, true]} ') == {
            "callId": 39,
            "to": "+7",
            "x": None,
            "y": [1.5, True],
        }

    @given(
        st.dictionaries(sendable, st.none() | st.booleans() | st.integers() | sendable, max_size=10)
    )
    def test_reads_what_was_written(self, values):
        """Any object is read back, whether its text is escaped or not."""
        assert of_json(json.dumps(values).encode()) == values
        assert of_json(json.dumps(values, ensure_ascii=False).encode()) == values

    @pytest.mark.parametrize("body", [b"[]", b'"x"', b"7", b"null", b"true", b'[{"a":1}]'])
    def test_no_object(self, body):
        """Anything but an object is refused."""
        assert refused(of_json, body, match="must be a JSON object")

    @pytest.mark.parametrize(
        "body",
        [
            b" ",
            b"{",
            b"{}{}",
            b"{'a':1}",
            b'{"a":1,}',
            b'{"a":01}',
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b'{"a":-Infinity}',
            b'{"a":"\n"}',
            b'{"a":"\\x"}',
            b"{a:1}",
            b"login=x&password=y",
            b"\xef\xbb\xbf{}",
            b'{"a":' + b"9" * 5000 + b"}",
            b"[" * 60_000,
            b'{"a":' * 10_000,
            b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        ],
        ids=range(18),
    )
    def test_malformed(self, body):
        """What is not JSON, or is too deep or too long a number, is refused in fixed words."""
        assert refused(of_json, body, match="^the body is not valid JSON$")

    def test_nothing(self):
        """No body at all has no fields, though its type is named."""
        assert of_json(b"") == {}

    @pytest.mark.parametrize("body", [b'{"a":"\xff"}', '{"a":"x"}'.encode("utf-16")])
    def test_not_utf8(self, body):
        """JSON in another encoding is refused, though other readers would guess it."""
        assert refused(of_json, body, match="not UTF-8")

    @pytest.mark.parametrize(
        "body", [b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"x":{"a":1,"a":2}}']
    )
    def test_doubled(self, body):
        """A member given twice, at any depth and in any spelling, is refused."""
        assert refused(of_json, body, match="a is given more than once")

    def test_lone_surrogates(self):
        """Half a character, which JSON can write and nothing else can, is refused as a value."""
        fields = read_body(Request(b'{"a":"\\ud800"}', JSON))
        assert refused(fields.text, "a", match="not allowed")

    @given(st.binary(max_size=200))
    def test_garbage(self, body):
        """Whatever the bytes, they are an object or the client's mistake."""
        try:
            values = of_json(body)
        except BadRequest:
            return
        assert isinstance(values, dict)


class TestTypes:
    """The type of a body."""

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/x-www-form-urlencoded; charset=utf-8",
            "application/x-www-form-urlencoded;charset=UTF-8",
            'application/x-www-form-urlencoded; charset="utf8"',
            "APPLICATION/X-WWW-Form-Urlencoded",
            "application/x-www-form-urlencoded; x=y",
        ],
    )
    def test_forms(self, content_type):
        """A form is one in any spelling of its type, with or without the charset."""
        assert of_form(b"a=1", content_type) == {"a": "1"}

    @pytest.mark.parametrize("content_type", ["application/json;charset=UTF-8", "Application/JSON"])
    def test_json(self, content_type):
        """JSON is JSON in any spelling of its type."""
        assert of_json(b'{"a":1}', content_type) == {"a": 1}

    @pytest.mark.parametrize(
        "content_type",
        [
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/xml",
            "application/jsonp",
            "application/json+x",
            "",
            ";",
            "json",
            "application/json; charset=windows-1251",
            "application/x-www-form-urlencoded; charset=koi8-r",
            "application/json; charset=utf-16",
        ],
    )
    @pytest.mark.parametrize("body", [b"a=1", b'{"a":1}', b""])
    def test_others(self, content_type, body):
        """Another type, or another charset, is told as such and not read at all."""
        with pytest.raises(UnsupportedType):
            of_form(body, content_type)

    def test_none(self):
        """No body needs no type; a body without a type is not read."""
        assert read_body(Request()).values == {}
        with pytest.raises(UnsupportedType):
            read_body(Request(b"a=1"))

    def test_read_twice(self):
        """The token and the call read the same body, one after the other."""
        request = Request(b"a=1", FORM)
        assert read_body(request) == read_body(request)

    @pytest.mark.parametrize(
        ("method", "has"),
        [(b"POST", True), (b"PUT", True), (b"PATCH", True), (b"GET", False), (b"DELETE", False)],
    )
    def test_which_methods_have_bodies(self, method, has):
        """Fields stand in the bodies of the methods that the owner names."""
        assert has_body(Request(method=method)) is has


class TestQueries:
    """Fields of the URL."""

    @given(st.dictionaries(sendable, sendable, max_size=10))
    def test_reads_what_was_written(self, values):
        """Any names and values in the URL are read back."""
        uri = b"/api/events?" + urlencode(values, quote_via=quote).encode("ascii")
        assert read_query(Request(uri=uri)).values == values

    @pytest.mark.parametrize(
        ("uri", "values"),
        [
            (b"/api/events", {}),
            (b"/api/events?", {}),
            (b"/?a=1?b=2", {"a": "1?b=2"}),
            (b"/?access_token=a.b-c_d", {"access_token": "a.b-c_d"}),
            (b"/?a=/x%26y", {"a": "/x&y"}),
        ],
    )
    def test_where_it_begins(self, uri, values):
        """The query is what stands behind the first question mark."""
        assert read_query(Request(uri=uri)).values == values

    @pytest.mark.parametrize("query", [b"a=1&a=2", b"a=%ff", b"a=\xff", b"&".join([b"a"] * 65)])
    def test_refused(self, query):
        """The query is held to the rules of the body."""
        assert refused(read_query, Request(uri=b"/?" + query))

    @given(st.binary(max_size=100))
    def test_garbage(self, query):
        """Whatever the bytes, they are fields or the client's mistake."""
        assume(b"#" not in query)
        try:
            values = read_query(Request(uri=b"/?" + query)).values
        except BadRequest:
            return
        assert all(isinstance(value, str) for value in values.values())
