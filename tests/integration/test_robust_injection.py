"""Text that tries to be more than text: in XML, JSON, event streams, headers and log lines."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import globalLogPublisher

from mxflex.logs import Levels, Masker, json_format
from mxflex.simulator.faults import CommandFault
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import (
    CSTAError,
    DeliveredEvent,
    EstablishedEvent,
    LoginFailed,
    LoginResponse,
    MakeCallResponse,
)
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.victims import Victims, exchange, request

# What can stand in XML must reach the other side as it is.
SENDABLE = {
    "the end of a CDATA section": "a]]>b",
    "a CDATA section": "<![CDATA[a]]>",
    "an end tag": "a</userName><userName>admin",
    "an attribute": '" forced="true" x="',
    "quotes": "a\"b'c",
    "an entity": "&lt;&amp;&#65;&x;",
    "a document type": '<!DOCTYPE a [<!ENTITY x "y">]>&x;',
    "a comment": "<!-- a -->",
    "a processing instruction": "<?xml version='1.1'?>",
    "lines": "a\nb\rc\r\nd\te",
    "lines of others": "a\u2028b\u2029c\x85d",
    "a script": "</script><script>alert(1)</script>",
    "Cyrillic": "Иванов Ёж",
    "emoji": "🤙🏽 \U0001f468\u200d\U0001f469",
    "right to left": "\u202egnp.exe",
    "the last characters": "\ufffd\U0010ffff",
    "a format": "{log_level} %s %(x)s {0.__class__}",
    "a long text": "я" * 4_000,
    "ampersands": "&" * 2_000,
}
UNSENDABLE = ["a\0", "a\x01b", "\x1b[31m", "a\x7fb\x0b", "\ufffe", "\uffff"]


@pytest_twisted.async_yield_fixture
async def victim(daemon):
    """Give the builder of daemons that must be well after the test."""
    victims = Victims(daemon)
    yield victims.start
    await victims.check()


# --- To the MX ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SENDABLE)
@pytest_twisted.ensureDeferred
async def test_text_reaches_the_mx_as_it_is(victim, name):
    """Every field that goes to the MX arrives there letter by letter, and nothing beside it."""
    text = SENDABLE[name]
    running = await victim(calls={"restrict": False})
    mx = running.mx
    reply = await running.post("/api/login", {"login": text, "password": text})
    assert reply.status == 403
    command = mx.received("loginRequest")[-1].command
    assert (command.user_name, command.type, command.forced) == (text.strip(), "User", False)
    token = await running.log_in()
    refused = CommandFault(answer=CSTAError(text="no"))
    for kind in ("MakeCall", "SingleStepTransferCall", "DeflectCall", "TransferCall"):
        mx.faults.set(kind, refused)
    own = {"callId": 7, "deviceId": text}
    sent = await running.post("/api/call", {"to": text, "from": text}, token=token)
    assert (sent.status, sent.error) == (422, "no")
    command = mx.received("MakeCall")[-1].command
    assert (command.calling_device, command.called) == (text.strip(), text.strip())
    for path, kind in (("transfer", "SingleStepTransferCall"), ("deflect", "DeflectCall")):
        sent = await running.post(f"/api/call/{path}", {**own, "destination": text}, token=token)
        assert sent.status == 422
        command = mx.received(kind)[-1].command
        assert command.connection == ConnectionID(call_id=7, device_id=text.strip())
        assert command.destination == text.strip()
    sent = await running.post(
        "/api/call/transfer/consult",
        {**own, "activeCallId": 8, "activeDeviceId": text},
        token=token,
    )
    assert sent.status == 422
    command = mx.received("TransferCall")[-1].command
    assert command.active == ConnectionID(call_id=8, device_id=text.strip())


@pytest.mark.parametrize("text", UNSENDABLE)
@pytest_twisted.ensureDeferred
async def test_text_that_xml_cannot_carry(victim, text):
    """What has no place in XML is refused by the name of its field, and the MX never sees it."""
    running = await victim(calls={"restrict": False})
    token = await running.log_in()
    before = len(running.mx.commands)
    good = {"callId": 7, "deviceId": EXT, "destination": "3044", "login": "a", "password": "b"}
    for path, field in (
        ("/api/login", "login"),
        ("/api/login", "password"),
        ("/api/call", "to"),
        ("/api/call", "from"),
        ("/api/call/hold", "deviceId"),
        ("/api/call/deflect", "destination"),
    ):
        fields = {"to": "3044", **good, field: text}
        reply = await running.post(path, fields, token=token)
        assert reply.status == 400
        assert reply.error == f"{field} has characters that are not allowed"
    assert len(running.mx.commands) == before


# --- From the MX ----------------------------------------------------------------------------------


def assert_one_event(stream, count):
    """Hold a stream to its form: blocks of three lines, whatever the events carry."""
    opening, *blocks = stream.text.removesuffix(b"\n\n").split(b"\n\n")
    assert opening.startswith(b"retry: ")
    blocks = [block for block in blocks if not block.startswith(b":")]
    assert len(blocks) == count
    assert b"\r" not in stream.text
    for block in blocks:
        assert [line.partition(b": ")[0] for line in block.split(b"\n")] == [
            b"event",
            b"data",
            b"id",
        ]


@pytest.mark.parametrize("name", SENDABLE)
@pytest_twisted.ensureDeferred
async def test_text_of_the_mx_in_an_event(victim, name):
    """Names, numbers and causes of the MX arrive in one line of JSON, letter by letter."""
    text = SENDABLE[name]
    running = await victim()
    stream = await running.open_stream(await running.log_in())
    await stream.when(lambda: stream.text)
    connection = ConnectionID(call_id=1, device_id=text, global_call_id=text)
    running.mx.send_event(
        EXT,
        EstablishedEvent(
            connection=connection,
            calling_display_name=text,
            answering_display_name=text,
            cause=text,
        ),
    )
    running.mx.send_event(
        EXT,
        DeliveredEvent(
            connection=attrs.evolve(connection, global_call_id="2"),
            local_connection_info=text,
            cads=(CallAttachedData(name=text, type=text, value=text),),
        ),
    )
    established, delivered = await stream.when_events(2)
    for key in ("callingDisplayName", "answeringDisplayName", "cause", "deviceId", "globalCallId"):
        assert established.json[key].strip() == text.strip()
    cad = {key: value.strip() for key, value in delivered.json["cads"][0].items()}
    assert cad == dict.fromkeys(("name", "type", "value"), text.strip())
    assert delivered.json["localConnectionInfo"].strip() == text.strip()
    assert_one_event(stream, 2)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\nevent: x\ndata: y\n\nb", "a\nevent: x\ndata: y\n\nb"),
        (b"a&#10;&#10;data: y&#13;&#10;b", "a\n\ndata: y\r\nb"),
        (b"a\r\rid: 0\r\rb", "a\n\nid: 0\n\nb"),
        (b"a\xff\xfeb", "a\ufffd\ufffdb"),
        (b"a\x00b\x01c\x1bd", "a\ufffdb\ufffdc\ufffdd"),
        (b"a&#0;b&#xFFFE;c&#xD800;d", "a\ufffdb\ufffdc\ufffdd"),
        (b"a\xed\xa0\x80b", "a\ufffd\ufffd\ufffdb"),
        (b"a\xc0\xafb", "a\ufffd\ufffdb"),
        (b"a\xe2\x80\xa8b&lt;/script>", "a\u2028b</script>"),
        (b"<![CDATA[<b>&amp;]]>", "<b>&amp;"),
        (b"<b>x</b>y", "y"),
        (b"", ""),
        (b"x" * 60_000, "x" * 60_000),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bytes_of_the_mx_in_an_event(victim, name, shown):
    """Whatever bytes a caller's name is made of, the event arrives, as one event."""
    running = await victim()
    stream = await running.open_stream(await running.log_in())
    await stream.when(lambda: stream.text)
    (monitor,) = running.mx.sessions[0].monitors
    running.mx.send_raw(
        encode_frame(
            9999,
            b"<EstablishedEvent><monitorCrossRefID>%s</monitorCrossRefID><establishedConnection>"
            b"<callID>99999999999999999999999</callID><deviceID>3095</deviceID>"
            b"</establishedConnection><callingDisplayName>%s</callingDisplayName>"
            b"<callTypeFlags>99999999999999999999999</callTypeFlags>"
            b"<cmdsAllowed>-18446744073709551616</cmdsAllowed></EstablishedEvent>"
            % (monitor.encode(), name),
        ),
        "Server",
    )
    (established,) = await stream.when_events(1)
    assert established.json["callingDisplayName"] == shown
    assert_one_event(stream, 1)


@pytest.mark.parametrize("name", SENDABLE)
@pytest_twisted.ensureDeferred
async def test_text_of_the_mx_in_an_answer(victim, name):
    """Refusals and names of the MX stand in JSON alone: not in a header, and in one log line."""
    text = SENDABLE[name]
    running = await victim()
    mx = running.mx
    mx.faults.set("loginRequest", CommandFault(answer=LoginFailed(code=1, text=text), times=1))
    before = len(running.log.lines)
    reply = await running.post("/api/login", {"login": LOGIN, "password": PASSWORD})
    assert (reply.status, reply.error.strip()) == (403, text.strip())
    told = [line for line in running.log.lines[before:] if "refused" in line]
    assert len(told) == 1
    assert len(told[0].splitlines()) == 1
    token = await running.log_in()
    mx.faults.set("MakeCall", CommandFault(answer=CSTAError(text=text), times=1))
    reply = await running.post("/api/call", {"to": "3044"}, token=token)
    assert (reply.status, reply.error.strip()) == (422, text.strip())
    made = MakeCallResponse(connection=ConnectionID(call_id=5, device_id=text), called=text)
    mx.faults.set("MakeCall", CommandFault(answer=made, times=1))
    reply = await running.post("/api/call", {"to": "3044"}, token=token)
    assert reply.status == 200
    call = reply.json["call"]
    assert (call["deviceId"].strip(), call["called"].strip()) == (text.strip(), text.strip())
    assert set(dict(reply.headers.getAllRawHeaders())) <= {
        b"Server", b"Date", b"Cache-Control", b"Content-Type", b"Content-Length", b"Vary",
        b"Content-Encoding", b"X-Request-Id",
    }  # fmt: skip
    user = mx.user(EXT)
    mx.update_user(attrs.evolve(user, first_name=text, note=text, cell_phone=text))
    await running.when(
        lambda: running.link.address_book.entries[user.jid].first_name.strip() == text.strip()
    )
    reply = await running.get("/api/contacts", token=token)
    contact = next(each for each in reply.json["contacts"] if each["ext"] == EXT)
    assert {contact[key].strip() for key in ("firstName", "cellPhone")} == {text.strip()}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (LoginResponse(ext=EXT, serial="</x>\r\nX: y", user_id=2**64 - 1), 200),
        (LoginResponse(ext=EXT, serial="", user_id=-1), 200),
        (LoginResponse(ext="", serial="63022", user_id=1), 403),
        (LoginResponse(ext=EXT, serial="63022", user_id=None), 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_accounts(victim, answer, status):
    """An account that the MX describes oddly gets a token that works, or none."""
    running = await victim()
    running.mx.faults.set("loginRequest", CommandFault(answer=answer))
    reply = await running.post("/api/login", {"login": LOGIN, "password": PASSWORD})
    assert reply.status == status
    if status == 200:
        token = reply.json["access_token"]
        assert (await running.get("/api/contacts", token=token)).status == 200


@pytest.mark.parametrize("ext", ["../../x", "a\nb", "'; --", "<b>", "*", "7" * 1_000, "\u0663"])
@pytest_twisted.ensureDeferred
async def test_odd_extensions(victim, ext):
    """An extension may be any text: it is monitored, streamed, listed and logged out as such."""
    running = await victim()
    mx = running.mx
    user = attrs.evolve(mx.user(EXT), ext=ext)
    mx.update_user(user)
    token = await running.log_in()
    stream = await running.open_stream(token)
    mx.send_event(ext, EstablishedEvent(connection=ConnectionID(call_id=1, device_id=ext)))
    (established,) = await stream.when_events(1)
    assert established.json["deviceId"] == ext
    listed = (await running.get("/api/contacts", token=token)).json["contacts"]
    assert ext in [contact["ext"] for contact in listed]
    assert (await running.get("/api/logout", token=token)).status == 204
    await stream.when_closed()


# --- Into the log ---------------------------------------------------------------------------------

FORGED = "2026-01-01T00:00:00.000Z info  mxflex.access  192.0.2.1 GET / 200"


@pytest.mark.parametrize("shape", ["text", "json"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\u2028", "\x85", "\x0b", "\u2029", "\x1c"])
@pytest_twisted.ensureDeferred
async def test_forged_lines(victim, end, shape):
    """A name or an address that would begin a line of the log stays inside its own."""
    lines = []
    observer = _Lines(lines, shape)
    globalLogPublisher.addObserver(observer)
    try:
        running = await victim()
        text = f"a{end}{FORGED}{end}"
        body = {"login": text, "password": "x"}
        await running.post("/api/login", body)
        expired = LoginResponse(ext=EXT, serial="1", user_id=1, code=-1)
        running.mx.faults.set("loginRequest", CommandFault(answer=expired, times=1))
        await running.post("/api/login", body)
        for target in (f"/{quote(text)}", f"/api/x?a={quote(text)}", f"/{quote(text)}/../x"):
            await running.get(target)
        await exchange(running, request("GET", "/", f"User-Agent: {quote(text)}"))
        running.mx.send_raw(
            encode_frame(9999, b"<%s/>" % quote(text, safe="").replace("%", "_").encode()), "Server"
        )
    finally:
        globalLogPublisher.removeObserver(observer)
    written = "".join(lines)
    assert not [line for line in written.splitlines() if line.startswith("2026-01-01")]
    assert len(written.splitlines()) == len(lines)
    if shape == "json":
        assert all(json.loads(line)["message"] for line in lines)


class _Lines:
    """Writes a log, as text or JSON."""

    def __init__(self, lines, shape):
        from mxflex.logs import text_format  # noqa: PLC0415

        self._lines = lines
        self._format = {"text": text_format, "json": json_format}[shape](Masker(), Levels("debug"))

    def __call__(self, event):
        line = self._format(event)
        if line is not None:
            self._lines.append(line)


@pytest_twisted.ensureDeferred
async def test_escape_sequences_in_the_log(victim):
    """What would colour or clear an operator's terminal is written out."""
    running = await victim()
    for target in ("/%1b[2J%1b]0;x%07", "/api/%9b31m", b"/\x1b".decode(), "/\x9b31m"):
        connection = await running.connect()
        connection.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"))
        await connection.read_reply()
        connection.abort()
    await running.post("/api/login", {"login": "\u202e\u2066x\x9b31m", "password": "x"})
    text = "".join(running.log.lines)
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2066")


@pytest_twisted.ensureDeferred
async def test_one_line_for_each_request(victim):
    """Each answered request has its line, with its address as it was sent."""
    running = await victim()
    before = len(running.log.of("mxflex.access"))
    for number in range(20):
        await running.get(f"/api/x?{number}%0a%0d")
    lines = running.log.of("mxflex.access")[before:]
    assert [f"/api/x?{number}%0a%0d 404" in line for number, line in enumerate(lines)] == [
        True
    ] * 20


@pytest_twisted.ensureDeferred
async def test_secrets_stay_out_of_the_log(victim):
    """Passwords and tokens are in no line, wherever they were sent and whatever went wrong."""
    running = await victim()
    secret = "hunter2-äö&<x>"
    await running.post("/api/login", {"login": LOGIN, "password": secret})
    query = urlencode({"login": LOGIN, "password": secret, "access_token": secret})
    await running.get(f"/api/contacts?{query}")
    await running.get(f"/x?{query}")
    await running.get(f"/api/contacts?%61ccess_token={quote(secret)}")
    await running.get("/api/contacts", headers={"Authorization": "Bearer hunter2"})
    await exchange(running, request("POST", "/api/login", body=f"{query}".encode()))
    token = await running.log_in()
    await running.get(f"/api/contacts?access_token={token}")
    await running.get(f"/api/contacts/{token}")
    text = "".join(running.log.lines)
    assert "hunter2" not in text
    assert token not in text


@pytest_twisted.ensureDeferred
async def test_long_lines_cost_little(victim):
    """Addresses made to keep a pattern busy are logged as fast as others."""
    running = await victim()
    parts = ["eyJ.", "a.", "access_token=", "password='", "Bearer ", "authorization:", '\\"', "%3d"]
    began = reactor.seconds()
    for part in parts:
        target = "/" + quote(part * (15_000 // len(quote(part))))
        reply = await exchange(running, request("GET", target))
        assert reply.status == 404
    assert reactor.seconds() - began < 4
