"""The audit log of a daemon: one line for each act, and no secret in any of its outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import globalLogPublisher

from mxflex.logs import Levels, Masker, json_format
from mxflex.simulator.demo import SCENARIO, SCENARIO_NAME
from mxflex.simulator.faults import CommandFault
from mxflex.simulator.scenario import load
from mxflex.simulator.server import SimulatedMX
from mxflex.wire.messages import CSTAError
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.test_http_calls import COMMANDS, ringing, talking

DOCS = Path(__file__).parents[2] / "docs" / "operation.md"
RIGHT = {"login": LOGIN, "password": PASSWORD}
CANARY = "canary-7f3a"


def told(running):
    """Give the audit lines, without time and name."""
    lines = running.log.of("mxflex.audit")
    return [re.sub(r".* mxflex\.audit  (.*?)( \[\w+\])?\n", r"\1", line) for line in lines]


@pytest_twisted.ensureDeferred
async def test_who_comes_and_goes(daemon):
    """Logins, renewals, tickets and logouts have a line each, however they end."""
    running = await daemon(login={"max_failures": 1})
    reply = await running.post("/api/login", RIGHT)
    token = reply.json["access_token"]
    assert (await running.post("/api/token", token=token)).status == 200
    assert (await running.post("/api/ticket", token=token)).status == 200
    assert (await running.get("/api/logout", token=token)).status == 204
    assert (await running.post("/api/token", token=token)).status == 403
    for _ in range(2):
        await running.post("/api/login", {"login": "x' ext='1", "password": CANARY})
    who = f"address='127.0.0.1' ext='{EXT}'"
    stranger = "address='127.0.0.1' login=\"x' ext='1\""
    assert told(running) == [
        f"login ok address='127.0.0.1' login='{LOGIN}' ext='{EXT}'",
        f"token.renew ok {who}",
        f"ticket ok {who}",
        f"logout ok {who}",
        f"token.renew forbidden {who} reason='not monitored'",
        f"login refused {stranger} reason='Invalid user name or password' code=2",
        f"login throttled {stranger} reason='too many failed logins, try again later'",
    ]
    reply = await running.post("/api/login", RIGHT)
    name = reply.header("x-request-id")
    assert running.log.of("mxflex.audit")[-1].endswith(f" [{name}]\n")


@pytest.mark.parametrize(("path", "more", "command"), COMMANDS)
@pytest_twisted.ensureDeferred
async def test_call_commands(daemon, path, more, command):
    """Each command has a line that says who did what to which call, and what came of it."""
    running = await daemon()
    token = await running.log_in()
    fields = ringing(running) if command in ("AnswerCall", "DeflectCall") else talking(running)
    running.mx.faults.set(command, CommandFault(answer=CSTAError(text="not now"), times=1))
    if "activeCallId" in more:
        more = {**more, "activeCallId": fields["callId"]}
    reply = await running.post(path, {**fields, **more}, token=token)
    assert reply.status == 422, reply
    action = path.removeprefix("/api/").replace("/", ".")
    call = f"call_id={fields['callId']} device_id='{EXT}'"
    rest = f" to='{more['destination']}'" if "destination" in more else ""
    if "activeCallId" in more:
        rest = f" active_call_id={fields['callId']} active_device_id='{EXT}'"
    line = f"address='127.0.0.1' ext='{EXT}' {call}{rest} reason='not now'"
    assert told(running)[-1] == f"{action} refused {line}"
    assert (await running.post(path, {**fields, **more, "callId": "99"}, token=token)).status == 403
    assert told(running)[-1].startswith(f"{action} forbidden address='127.0.0.1' ext='{EXT}' ")


@pytest_twisted.ensureDeferred
async def test_a_call_that_is_made(daemon):
    """The line has the number, and the call that came of it."""
    running = await daemon()
    token = await running.log_in()
    await running.post("/api/call", {"to": "3044"}, token=token)
    who = f"address='127.0.0.1' ext='{EXT}'"
    assert told(running)[-1] == f"call.make ok {who} to='3044' call_id=1 device_id='{EXT}'"
    await running.post("/api/call", {"to": "3044", "from": "3096"}, token=token)
    assert told(running)[-1].startswith(
        f"call.make forbidden {who} to='3044' calling='3096' reason="
    )


@pytest_twisted.ensureDeferred
async def test_administrators(daemon):
    """Who is none is told of, and so is what one does."""
    running = await daemon()
    token = await running.log_in()
    assert (await running.get("/api/admin/webhooks", token=token)).status == 403
    running.reload(admin={"extensions": [EXT]})
    retry = {"webhook": "nobody"}
    assert (await running.post("/api/admin/webhooks/retry", retry, token=token)).status >= 400
    refused, reload, act = told(running)[-3:]
    assert refused.startswith(f"admin forbidden address='127.0.0.1' ext='{EXT}' reason=")
    assert reload == "config.reload ok taken='admin.extensions'"
    assert act.startswith("admin.webhook.retry ")
    assert f" ext='{EXT}' webhook='nobody' reason=" in act


@pytest_twisted.ensureDeferred
async def test_reloads(daemon):
    """A reload has a line, with the keys; one that is refused says why."""
    running = await daemon()
    running.reload(cors=["https://a.example"], token={"key": CANARY * 4})
    running.reload(token={"lifetime": CANARY})
    expected = "a whole number of seconds from 1 to 31536000"
    assert told(running) == [
        "config.reload ok taken='cors' left='token.key'",
        f"config.reload refused reason='test.json: token.lifetime: expected {expected}'",
    ]


@pytest_twisted.ensureDeferred
async def test_no_secret_in_any_output(daemon):
    """Passwords, tokens and tickets are in no line of either format, down to debug messages."""
    lines = []
    write = json_format(Masker(), Levels("debug"))

    def observer(event):
        lines.append(write(event) or "")

    globalLogPublisher.addObserver(observer)
    running = await daemon(mx={"login": "mxflex"})
    secrets = [CANARY, PASSWORD + CANARY]
    try:
        await running.post("/api/login", {"login": LOGIN, "password": PASSWORD + CANARY})
        token = await running.log_in()
        renewed = (await running.post("/api/token", token=token)).json["access_token"]
        ticket = (await running.post("/api/ticket", token=token)).json["ticket"]
        stream = await running.open_stream(None, query=f"?ticket={ticket}")
        await running.get(f"/api/calls?access_token={renewed}")
        await running.post("/api/call", {"to": "3044", "access_token": token})
        stream.abort()
        await running.get("/api/logout", token=token)
        await running.when(lambda: any("client gone" in line for line in running.log.lines))
    finally:
        globalLogPublisher.removeObserver(observer)
    secrets += [token, renewed, ticket, token.split(".")[2], renewed.split(".")[1]]
    text = "".join((*running.log.lines, *lines))
    assert "call.make ok" in text
    assert [secret for secret in secrets if secret in text] == []


def test_docs_name_every_action():
    """The table of actions in docs/operation.md has those of the code, and no others."""
    table = DOCS.read_text(encoding="utf-8").partition("### Audit\n")[2].partition("\n## ")[0]
    told_there = {
        name
        for cell in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
        for name in re.findall(r"`([a-z.]+)`", cell)
    } - {"action"}
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (DOCS.parents[1] / "mxflex").rglob("*.py")
        if path.name != "audit.py"
    )
    used = set(re.findall(r'audited\(\s*"([a-z.]+)"', source))
    used |= set(re.findall(r'^ACTION: Final = "([a-z.]+)"', source, re.MULTILINE))
    used |= {
        f"admin.webhook.{what}" for what in re.findall(r'_act_on_webhook\(request, "(\w+)"', source)
    }
    assert told_there == used


@pytest_twisted.ensureDeferred
async def test_the_examples_of_the_docs(daemon):
    """The example lines in docs/operation.md are those that the company of the demo gives."""
    scenario = load(SCENARIO, SCENARIO_NAME)
    mx = SimulatedMX(reactor, scenario.make_company(), scenario.make_behaviour())
    account = {"login": scenario.account.login, "password": scenario.account.password}
    running = await daemon(simulator=mx, mx=account)
    token = await running.log_in("priya", "demo")
    await running.post("/api/login", {"login": "priya", "password": "wrong"})
    await running.post("/api/call", {"to": "3044"}, token=token)
    await running.post("/api/call/hold", {"callId": "99", "deviceId": "3061"}, token=token)
    await running.get("/api/logout", token=token)
    text = DOCS.read_text(encoding="utf-8").partition("### Audit\n")[2].partition("\n| ")[0]
    shown = re.findall(r"^    info  mxflex\.audit  (.*) \[[0-9a-f]{16}\]$", text, re.MULTILINE)
    assert told(running) == shown
    example = json.loads(re.search(r"^    (\{.*\})$", text, re.MULTILINE)[1])
    assert list(example)[:5] == ["time", "level", "namespace", "message", "request_id"]
    fields = " ".join(f"{key}={example[key]!r}" for key in list(example)[7:])
    assert f"{example['action']} {example['result']} {fields}" == shown[0]
