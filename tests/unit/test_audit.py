"""Audit lines: their form, and that no value can pass for another field or line."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.logger import FileLogObserver, globalLogPublisher

from mxflex.audit import audited, record
from mxflex.errors import (
    BadRequest,
    CommandRefused,
    Forbidden,
    LoginRefused,
    MXBusy,
    MXTimeout,
    NotMonitored,
    TooManyRequests,
)
from mxflex.logs import Masker, line_format


def lines_of(act, name="text"):
    """Give what something writes, without the time."""
    file = io.StringIO()
    observer = FileLogObserver(file, line_format(name, Masker()))
    globalLogPublisher.addObserver(observer)
    try:
        act()
    finally:
        globalLogPublisher.removeObserver(observer)
    return file.getvalue().splitlines()


def test_text_and_json():
    """A line has action, result and fields in their order; in JSON each is a field."""

    def act():
        record("call.hold", "ok", address="192.0.2.1", ext="3095", call_id=38, to="", calling=None)

    (line,) = lines_of(act)
    assert line.endswith(
        " info  mxflex.audit  call.hold ok address='192.0.2.1' ext='3095' call_id=38"
    )
    (line,) = lines_of(act, "json")
    told = json.loads(line)
    del told["time"], told["message"]
    assert told == {
        "level": "info",
        "namespace": "mxflex.audit",
        "action": "call.hold",
        "result": "ok",
        "address": "192.0.2.1",
        "ext": "3095",
        "call_id": 38,
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LoginRefused("Invalid user", 4), "refused x=1 reason='Invalid user' code=4"),
        (CommandRefused("no such call"), "refused x=1 reason='no such call'"),
        (Forbidden("not yours"), "forbidden x=1 reason='not yours'"),
        (NotMonitored("not monitored"), "forbidden x=1 reason='not monitored'"),
        (TooManyRequests("too many", 3), "throttled x=1 reason='too many'"),
        (MXBusy("busy"), "unavailable x=1 reason='busy'"),
        (MXTimeout("late"), "timeout x=1 reason='late'"),
        (BadRequest("what"), "invalid x=1 reason='what'"),
        (CancelledError(), "cancelled x=1 reason='CancelledError'"),
        (ZeroDivisionError("canary"), "failed x=1 reason='ZeroDivisionError'"),
    ],
)
def test_results(error, told):
    """How it ended is one word, and why are the words of the error, unless it is a bug."""

    def act():
        with pytest.raises(type(error)), audited("do", x=1):
            raise error

    (line,) = lines_of(act)
    assert line.endswith(f"  do {told}")


@given(text=st.text())
def test_no_value_is_another_field(text):
    """Whatever a value holds, it is quoted, and read back as it was."""
    (line,) = lines_of(lambda: record("do", "ok", login=text, ext="3095"))
    if not text:
        assert line.endswith("  do ok ext='3095'")
        return
    found = re.search(r"  do ok login=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\") ext='3095'$", line)
    assert found, line
