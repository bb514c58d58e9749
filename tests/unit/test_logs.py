"""The log: how an event becomes a line, and what of it nobody may see."""

import io
import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.application.service import Service
from twisted.logger import FileLogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy_log
from twisted.python.failure import Failure

from mxflex import logs
from mxflex.logs import (
    MASK,
    MAX_MESSAGE_CHARACTERS,
    Levels,
    Masker,
    json_format,
    line_format,
    mask,
    one_line,
    text_format,
)
from mxflex.requestid import CURRENT

LEVEL_NAMES = ["debug", "info", "warn", "error", "critical"]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJleHQiOiIzMDk1In0.c2lnbmF0dXJl"
# 2026-11-23T16:00:00.123Z
WHEN = 1795449600.1234


class Written:
    """A logger whose lines are kept, as the daemon would write them."""

    def __init__(self, name="text", secrets=(), threshold="info"):
        self._file = io.StringIO()
        format_line = line_format(name, Masker(secrets), Levels(threshold))
        self.observer = FileLogObserver(self._file, format_line)
        publisher = LogPublisher(self._at_a_fixed_time, self.observer)
        self.log = Logger(namespace="mxflex.test", observer=publisher)

    @staticmethod
    def _at_a_fixed_time(event):
        event["log_time"] = WHEN

    @property
    def text(self):
        return self._file.getvalue()

    @property
    def line(self):
        """The only line written, without its end."""
        assert self.text.count("\n") == 1
        assert self.text.endswith("\n")
        return self.text[:-1]

    @property
    def fields(self):
        """The only line written, read as JSON."""
        return json.loads(self.line)


def failure_of(error):
    try:
        raise error
    except type(error):
        return Failure()


def test_text_line():
    """A line of text has the time in UTC with milliseconds, the level, the room, the message."""
    written = Written()
    written.log.info("monitor started for {ext}", ext="3095")
    assert written.line == "2026-11-23T16:00:00.123Z info  mxflex.test  monitor started for 3095"


def test_json_line():
    """A line of JSON has the same, and every plain field under its own name."""
    written = Written("json")
    peer = object()
    written.log.warn(
        "{ext} is slow", ext="3095", delay=1.5, attempt=2, ready=False, none=None, peer=peer
    )
    assert written.fields == {
        "time": "2026-11-23T16:00:00.123Z",
        "level": "warn",
        "namespace": "mxflex.test",
        "message": "3095 is slow",
        "ext": "3095",
        "delay": 1.5,
        "attempt": 2,
        "ready": False,
        "none": None,
    }


def test_json_stays_json():
    """Numbers that JSON lacks become text, and no field replaces a part of the line itself."""
    written = Written("json")
    written.log.info("{message}", message="m", namespace="x", time="y", delay=float("inf"))
    assert written.fields == {
        "time": "2026-11-23T16:00:00.123Z",
        "level": "info",
        "namespace": "mxflex.test",
        "message": "m",
        "delay": "inf",
    }


@pytest.mark.parametrize("when", [0.0, 0.9999, 1795449599.9999, 1795449600.0])
def test_time_is_cut_not_rounded(when):
    """The seconds and milliseconds are those of the event, never of the next second."""
    format_line = text_format(Masker())
    expected = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(when)))
    expected += f".{int(when * 1000) % 1000:03d}Z"
    # Twice, and with another second between: the text of a second is remembered.
    for moment in (when, when + 5, when):
        line = format_line({"log_format": "x", "log_time": moment, "log_level": LogLevel.info})
    assert line.split(" ")[0] == expected


@pytest.mark.parametrize("name", ["text", "json"])
def test_threshold(name):
    """Events below the threshold make no line; those at it and above do."""
    for threshold, expected in [("debug", 5), ("info", 4), ("warn", 3), ("critical", 1)]:
        written = Written(name, threshold=threshold)
        for level in LogLevel.iterconstants():
            written.log.emit(level, "x")
        assert written.text.count("\n") == expected


def test_levels_of_parts():
    """A namespace has its own level, or that of the nearest one above; others the one left."""
    levels = Levels("warn,mxflex.mx=debug, mxflex.mx.link=error,mxflex.access=critical")
    assert [name for name in LEVEL_NAMES if levels.show("mxflex.web", name)] == LEVEL_NAMES[2:]
    assert levels.show("mxflex.mx", "debug")
    assert levels.show("mxflex.mx.protocol", "debug")
    assert not levels.show("mxflex.mx.link", "warn")
    assert levels.show("mxflex.mx.link", "error")
    assert not levels.show("mxflex.mxsomething", "info")
    assert not levels.show("mxflex.access", "error")
    levels.use("mxflex.access=debug")
    assert levels.show("mxflex.access", "debug")
    assert levels.show("mxflex.mx.link", "info")
    assert not levels.show("mxflex.mx", "debug")
    for text in ("", "loud", "info,", "=info", "mxflex.mx=", "info;debug", "a b=info"):
        with pytest.raises(ValueError, match=r"one of debug, info, warn, error, critical, or such"):
            levels.use(text)
    assert levels.show("mxflex.access", "debug")


@pytest.mark.parametrize("name", ["text", "json"])
def test_the_name_of_the_request(name):
    """What is logged in the course of a request has its name; an event may be about another one."""
    current = CURRENT.set("5f3a9c0d1e2b4a68")
    try:
        own, other = Written(name), Written(name)
        own.log.info("monitor started")
        other.log.info("bye", request_id="x\n]")
    finally:
        CURRENT.reset(current)
    outside = Written(name)
    outside.log.info("monitor started")
    if name == "json":
        assert own.fields["request_id"] == "5f3a9c0d1e2b4a68"
        assert other.fields["request_id"] == "x\n]"
        assert "request_id" not in outside.fields
    else:
        assert own.line.endswith("  monitor started [5f3a9c0d1e2b4a68]")
        assert other.line.endswith(r"  bye [x\n]]")
        assert outside.line.endswith("  monitor started")


@pytest.mark.parametrize("name", ["text", "json"])
def test_priorities_for_the_journal(name, tmp_path):
    """Lines for systemd's journal begin with the priority of their level; all others do not."""
    with (tmp_path / "journal").open("w+", encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        for journal in (f"{status.st_dev}:{status.st_ino}", f"{status.st_dev}:1", ""):
            command = {"fileLogObserverFactory": None}
            environ = {"JOURNAL_STREAM": journal}
            logs.install(Service(), command, line_format(name, Masker()), None, environ)
            observe = command["fileLogObserverFactory"](file)
            for level in ("info", "warn", "error", "critical"):
                named = LogLevel.levelWithName(level)
                observe({"log_format": "x", "log_time": WHEN, "log_level": named})
        file.seek(0)
        lines = file.read().splitlines()
    assert [line[:3] for line in lines[:4]] == ["<6>", "<4>", "<3>", "<2>"]
    assert [line[3:] for line in lines[:4]] == lines[4:8] == lines[8:]


@pytest.mark.parametrize("name", ["text", "json"])
def test_a_field_cannot_forge_a_line(name):
    """Whatever a client puts into a field, the event stays one line without control characters."""
    written = Written(name)
    evil = "a\r\n2026 info  mxflex  forged\x1b[2J\x85\u2028\u202e\x00\ud800"
    written.log.info("login {login} failed", login=evil)
    assert written.line.isprintable()
    assert len(written.line.splitlines()) == 1
    assert r"a\r\n2026 info  mxflex  forged\u001b[2J\u0085\u2028\u202e\u0000\ud800" in written.line


@given(text=st.text(), name=st.sampled_from(["text", "json"]))
def test_any_text_is_one_line(text, name):
    """No text at all makes more than one line, or a line that cannot be written as UTF-8."""
    written = Written(name)
    written.log.info("x{text}", text=text)
    assert len(written.line.splitlines()) == 1
    assert written.line.encode("utf-8")


def test_readable_text_is_left_alone():
    """Letters of any language, and backslashes, come out as they went in."""
    assert one_line(r"Лариса 李 é 😀 C:\new") == r"Лариса 李 é 😀 C:\new"


def test_traceback():
    """A failure is one line too: escaped in text, a field in JSON."""
    failure = failure_of(ValueError("no good"))
    written = Written()
    written.log.failure("monitor lost", failure=failure)
    assert " critical mxflex.test  monitor lost\\nTraceback " in written.line
    assert written.line.endswith("ValueError: no good")
    written = Written("json")
    written.log.failure("monitor lost", failure=failure)
    assert written.fields["message"] == "monitor lost"
    assert written.fields["traceback"].endswith("ValueError: no good")
    assert "\n" in written.fields["traceback"]


def test_traceback_is_masked():
    """A secret in an exception's text is masked like any other."""
    for name in ("text", "json"):
        written = Written(name, secrets=["swordfish"])
        written.log.failure("x", failure=failure_of(ValueError("swordfish access_token=abc")))
        assert "swordfish" not in written.text
        assert "abc" not in written.text


def test_long_messages_keep_both_ends():
    """A dump is cut in its middle: its beginning says where, the end of a traceback what."""
    written = Written()
    written.log.info("{dump}", dump="begin" + "x" * MAX_MESSAGE_CHARACTERS + "end")
    assert len(written.line) < MAX_MESSAGE_CHARACTERS + 200
    assert "begin" in written.line
    assert "(8 characters left out)" in written.line
    assert written.line.endswith("end")
    written = Written()
    written.log.info("{dump}", dump="x" * MAX_MESSAGE_CHARACTERS)
    assert written.line.endswith("x" * MAX_MESSAGE_CHARACTERS)


def test_formats_of_twisted():
    """Calls in a format work, and a value that cannot be printed does not lose the event."""

    class Silent:
        def __str__(self):
            raise RuntimeError("no words")

    written = Written()
    written.log.info("from {peer()}", peer=lambda: "192.0.2.1")
    assert written.line.endswith("from 192.0.2.1")
    written = Written()
    written.log.info("value {value}", value=Silent())
    assert "no words" in written.line


def test_events_without_words_make_no_line():
    """An event that has neither a format nor a failure is nothing to write."""
    for format_line in (text_format(Masker()), json_format(Masker())):
        assert format_line({"log_time": WHEN, "log_level": LogLevel.info}) is None


@pytest.mark.parametrize("name", ["text", "json"])
def test_older_logging(name):
    """What goes through twisted.python.log comes out in the same form."""
    written = Written(name)
    publisher = legacy_log.LogPublisher(publishPublisher=LogPublisher(written.observer))
    publisher.msg("Main loop terminated.", password="swordfish")
    assert "Main loop terminated." in written.line
    assert "swordfish" not in written.line
    assert "log_legacy" not in written.line


def test_noise_is_lowered():
    """What only says how Twisted works inside is for `debug` alone."""
    for threshold, count in [("info", 0), ("debug", 2)]:
        written = Written(threshold=threshold)
        written.log.info("Starting factory {factory!r}", factory=1)
        legacy = legacy_log.LogPublisher(publishPublisher=LogPublisher(written.observer))
        legacy.msg(
            format="Unable to write to plugin cache %(path)s: error number %(errno)d",
            path="/x",
            errno=13,
        )
        assert written.text.count("\n") == count


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "GET /api/events?access_token=abc.def&x=1 HTTP/1.1",
            "GET /api/events?access_token=***&x=1 HTTP/1.1",
        ),
        ("/?ACCESS_TOKEN=abc", "/?ACCESS_TOKEN=***"),
        ("/?access%5Ftoken=abc&b=1", "/?access%5Ftoken=***&b=1"),
        ("access_token%3Dabc", "access_token%3D***"),
        ("GET /api/events?ticket=a-b_c&lastEventId=1", "GET /api/events?ticket=***&lastEventId=1"),
        ("/?TICKET=abc", "/?TICKET=***"),
        ('{"ticket":"abc","expires_in":30}', '{"ticket":***,"expires_in":30}'),
        ('{"access_token": "abc", "x": 1}', '{"access_token": ***, "x": 1}'),
        (r"{\"access_token\":\"abc\",\"x\":1}", r"{\"access_token\":***,\"x\":1}"),
        ("{b'access_token': [b'abc'], b'x': 1}", "{b'access_token': ***], b'x': 1}"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("authorization: Basic dTpw next", "authorization: *** next"),
        ("{b'authorization': [b'Basic dTpw']}", "{b'authorization': ***]}"),
        ("sent Bearer abc.def-_~+/= to", "sent Bearer *** to"),
        ("Bearer%20abc", "Bearer%20***"),
        (f"token {JWT} refused", "token *** refused"),
        (f"<{JWT}>", "<***>"),
        (f"a.b%20{JWT}", "a.b%20***"),
        ("<pwd>W6ph5Mm5Pz8=&#xA;</pwd>", "<pwd>***</pwd>"),
        ('<pwd a="b">x</pwd><x>y</x>', '<pwd a="b">***</pwd><x>y</x>'),
        ("<pwd><![CDATA[x]]></pwd>", "<pwd>***</pwd>"),
        ("&lt;pwd&gt;x&amp;y&lt;/pwd&gt;", "&lt;pwd&gt;***&lt;/pwd&gt;"),
        ('<loginResponce softPhonePwd="a b" ext="1">', '<loginResponce softPhonePwd=*** ext="1">'),
        (r"softPhonePwd=\"a b\" ext", r"softPhonePwd=*** ext"),
        ("softPhonePwd='a b' ext", "softPhonePwd=*** ext"),
        ("login=a&password=b%26c&x=1", "login=a&password=***&x=1"),
        ("MXSettings(password='it\\'s', port=1)", "MXSettings(password=***, port=1)"),
        ('{"password": "a\\"b", "x": 1}', '{"password": ***, "x": 1}'),
        ("passwd=a", "passwd=***"),
    ],
)
def test_mask(text, masked):
    """Each way in which a secret shows up in a line is known, and the rest of the line stays."""
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "password required",
        "mx.password: expected text",
        "mx.password_file=/run/x",
        "GET /api/contacts HTTP/1.1",
        "access_token is missing",
        "POST /api/ticket HTTP/1.1",
        "the ticket is not valid",
        "/?access_token=&x=1",
        "mxflex.mx.link eyJ",
        "the bearer",
    ],
)
def test_mask_leaves_the_rest(text):
    """Words that only speak about secrets stay readable."""
    assert mask(text) == text


@pytest.mark.parametrize(
    "spelling",
    [
        "p&ss\"w<o>r'd ä",
        "p&amp;ss\"w&lt;o&gt;r'd ä",
        "p&amp;ss&quot;w&lt;o&gt;r&apos;d ä",
        "p%26ss%22w%3Co%3Er%27d%20%C3%A4",
        "p%26ss%22w%3Co%3Er%27d+%C3%A4",
        "p&ss\\\"w<o>r'd \\u00e4",
        "p&ss\\\"w<o>r'd ä",
        "p&ss\"w<o>r\\'d ä",
        "8cgNB+ZTaPIbr+fxtqQ/toGInMM=",
    ],
)
def test_exact_secrets_in_every_spelling(spelling):
    """A registered secret is found as XML, JSON, URLs, Python and the MX's hash spell it."""
    masker = Masker(["p&ss\"w<o>r'd ä"])
    assert masker.mask(f"before {spelling} after") == f"before {MASK} after"


def test_secrets_within_secrets():
    """Of two secrets where one begins with the other, no rest of the longer one is left."""
    assert Masker(["word", "wordlonger"]).mask("wordlonger word") == "*** ***"


def test_short_secrets_are_not_looked_for():
    """A secret of three characters would mask the log away; four are enough."""
    assert Masker(["abc", ""]).mask("abc abcd") == "abc abcd"
    assert Masker(["abcd"]).mask("abc abcd") == "abc ***"


@pytest.mark.parametrize(
    "unit",
    [
        "eyJ",
        "eyJ.",
        "<pwd>",
        "<pwd",
        "&lt;pwd",
        "&lt;pwd&gt;",
        "password=",
        'password="',
        "password=\\",
        "access_token",
        "ticket",
        "ticket=",
        "bearer ",
        "authorization",
        "authorization: a ",
        '\\"',
        "password ",
    ],
)
def test_masking_is_linear(unit):
    """A hostile line of a megabyte costs what its length costs, not its square."""
    masker = Masker(["swordfish"])

    def cost(count):
        text = unit * count
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            masker.mask(text)
            best = min(best, time.process_time() - begin)
        return best

    # Sixteen times the length: linear is about 16 times the cost, quadratic 256 times.
    assert cost(160_000) < 80 * max(cost(10_000), 0.001)
