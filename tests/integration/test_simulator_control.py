"""The control API of the simulated MX, over real connections."""

from __future__ import annotations

import json
import socket
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.usage import UsageError

from mxflex.errors import ConfigError
from mxflex.simulator.control import MAX_BODY_BYTES, bind_control
from mxflex.simulator.demo import SCENARIO, SCENARIO_NAME
from mxflex.simulator.scenario import load
from mxflex.simulator.tap import Options, SimulatorService, makeService
from mxflex.wire.messages import CSTAError
from tests.integration.control import EXT, OUTSIDE, PATIENCE, Control

COLLEAGUE = "3044"


# --- Calls ----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_telephone_rings(control):
    """A call begins with who calls whom; the answer has the ids that events and commands have."""
    reply = await control.ask("POST", "/calls", {"from": OUTSIDE, "to": EXT, "name": "Zoë"})
    (call,) = control.mx.switchboard.calls
    assert reply.status == 201
    assert reply.headers.getRawHeaders("content-type") == ["application/json"]
    assert reply.json == {
        "id": call.counter,
        "globalCallId": call.global_id,
        "from": "12025550104",
        "to": EXT,
        "ended": False,
        "place": None,
        "parties": [
            {"number": "12025550104", "callId": 1, "state": "connected", "recording": False},
            {"number": EXT, "callId": 1, "state": "alerting", "recording": False},
        ],
    }
    assert call.presented_name == "Zoë"
    assert await control.get("/calls") == {"calls": [reply.json]}
    assert await control.get(f"/calls/{call.counter}") == reply.json


@pytest_twisted.ensureDeferred
async def test_a_telephone_does_all_that_telephones_do(control):
    """Answer, hold, retrieve, record, hang up: each at the telephone that can be meant alone."""
    path = await control.ring()
    await control.post(f"{path}/answer")
    assert (await control.states(path))[EXT] == "connected"
    await control.post(f"{path}/hold")
    assert (await control.states(path))[EXT] == "hold"
    await control.post(f"{path}/retrieve")
    call = await control.post(f"{path}/record")
    assert [party["recording"] for party in call["parties"]] == [False, True]
    call = await control.post(f"{path}/stop_recording")
    assert not any(party["recording"] for party in call["parties"])
    call = await control.post(f"{path}/hang_up")
    assert (call["ended"], call["parties"]) == (True, [])
    assert await control.get("/calls") == {"calls": []}


@pytest_twisted.ensureDeferred
async def test_no_telephone_acts_by_itself_in_a_call_made_here(control):
    """The built-in company answers after some seconds; not where a test has made the call."""
    control.mx.behaviour.no_answer_after = 0.0
    path = await control.ring()
    # Whatever was due has happened by the next answer but one.
    await control.get("/calls")
    assert (await control.states(path))[EXT] == "alerting"


@pytest_twisted.ensureDeferred
async def test_calls_go_to_others(control):
    """Transfer, deflection, consultation and joining, parking and picking up."""
    path = await control.talk()
    await control.post(f"{path}/transfer", {"to": COLLEAGUE})
    assert await control.states(path) == {"12025550104": "connected", COLLEAGUE: "alerting"}
    await control.post(f"{path}/deflect", {"to": "3055"})
    assert await control.states(path) == {"12025550104": "connected", "3055": "alerting"}
    await control.post(f"{path}/answer")
    other = await control.post(f"{path}/consult", {"to": EXT}, 201)
    await control.post(f"/calls/{other['id']}/answer")
    # Either of the two calls will do, and nobody else could join them.
    joined = await control.post(f"/calls/{other['id']}/join")
    assert f"/calls/{joined['id']}" == path
    assert await control.states(path) == {"12025550104": "connected", EXT: "connected"}
    call = await control.post(f"{path}/park")
    assert call["place"] == 1
    await control.post(f"{path}/pick_up", {"number": COLLEAGUE})
    assert await control.states(path) == {"12025550104": "connected", COLLEAGUE: "connected"}


@pytest_twisted.ensureDeferred
async def test_who_acts_may_be_said(control):
    """A call between two extensions has two that can act; outside parties act when named."""
    path = await control.talk(COLLEAGUE, EXT)
    reason = await control.refused(400, f"{path}/hold")
    assert reason == "number: is missing; expected one of 3044, 3095"
    await control.post(f"{path}/hold", {"number": COLLEAGUE})
    assert await control.states(path) == {COLLEAGUE: "hold", EXT: "connected"}
    reason = await control.refused(400, f"{path}/hold", {"number": "3055"})
    assert reason == "number: expected one of 3044, 3095"
    await control.post("/reset", status=204)
    path = await control.talk()
    await control.post(f"{path}/hang_up", {"number": OUTSIDE})
    assert await control.get("/calls") == {"calls": []}


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_done_now(control):
    """It is 409, with the states that there are, and changes nothing."""
    path = await control.ring()
    assert await control.refused(409, f"{path}/retrieve") == (
        "expected somebody who is hold; in this call 12025550104 is connected and 3095 is alerting"
    )
    assert await control.refused(409, f"{path}/hold", {"number": OUTSIDE}) == (
        "the MX refuses: invalidConnectionState;"
        " in this call 12025550104 is connected and 3095 is alerting"
    )
    assert "holds one call" in await control.refused(409, f"{path}/join")
    assert await control.refused(409, f"{path}/pick_up", {"number": COLLEAGUE}) == (
        "no call is parked"
    )
    busy = {"from": EXT, "to": COLLEAGUE}
    for _ in range(3):
        await control.ring()
    assert "resourceBusy" in await control.refused(409, "/calls", busy)
    assert len((await control.get("/calls"))["calls"]) == 4


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "from: is missing"),
        ({"from": OUTSIDE}, "to: is missing"),
        ({"from": OUTSIDE, "to": "999"}, "to: expected an extension: 3044, 3055, 3061, 3072"),
        ({"from": "x", "to": EXT}, "from: expected a telephone number: digits"),
        ({"from": [OUTSIDE, OUTSIDE], "to": EXT}, "from, to: expected one number each"),
        ({"from": OUTSIDE, "to": EXT, "colour": 1}, "colour: unknown key; known are from, to"),
        ({"from": EXT, "to": COLLEAGUE, "name": "x"}, "name: expected none: an extension has"),
        ({"from": OUTSIDE, "to": EXT, "name": 7}, "name: expected text"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_call_that_is_none(control, body, reason):
    """It is 400, with the field and what is expected there."""
    assert (await control.refused(400, "/calls", body)).startswith(reason)
    assert await control.get("/calls") == {"calls": []}


@pytest_twisted.ensureDeferred
async def test_what_is_not_there(control):
    """Calls that have ended, unknown actions, unknown paths and methods say what there is."""
    path = await control.ring()
    assert "expected one of fail, hang_up" in await control.refused(404, f"{path}/juggle")
    assert await control.ask("DELETE", "/calls")
    assert "GET /calls has" in await control.refused(404, f"{path}/answer")
    assert "below /calls, /steps" in await control.refused(404, "/call")
    reply = await control.ask("PUT", "/calls", {})
    assert reply.status == 405
    assert reply.headers.getRawHeaders("allow") == ["DELETE, GET, HEAD, POST"]


# --- Steps and scripts ----------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_single_steps(control):
    """Every step of a script can be done by itself, in any call; the answer has all calls."""
    answer = await control.post("/steps", {"call": {"from": OUTSIDE, "to": EXT}})
    assert len(answer["calls"]) == 1
    answer = await control.post("/steps", {"answer": EXT})
    assert answer["calls"][0]["parties"][1]["state"] == "connected"
    person = {"ext": "3120", "login": "ines", "password": "demo", "first_name": "Inês"}
    await control.post("/steps", {"add_user": person})
    assert control.mx.user("3120").name == "Inês"
    await control.post("/steps", {"delete_user": "3120"})
    assert await control.refused(409, "/steps", {"answer": EXT}) == (
        "3095 has no call that is alerting, only one that is connected"
    )
    assert await control.refused(409, "/steps", {"hold": "3055"}) == (
        "3055 has no call that is connected"
    )
    assert "unknown key" in await control.refused(400, "/steps", {"juggle": EXT})
    assert "one step" in await control.refused(400, "/steps", {})
    assert "scripts alone" in await control.refused(400, "/steps", {"wait": 1})
    assert "extension of a user" in await control.refused(400, "/steps", {"delete_user": "3120"})
    assert "an extension" in await control.refused(
        400, "/steps", {"call": {"from": OUTSIDE, "to": "999"}}
    )


def script_names():
    return [script.name for script in load(SCENARIO, SCENARIO_NAME).scripts]


@pytest_twisted.ensureDeferred
async def test_scripts_are_played(control):
    """One after the other, each to its end, at any pace; all leave the MX without a call."""
    listed = await control.get("/scripts")
    assert [each["name"] for each in listed["scripts"]] == script_names()
    for name in script_names():
        assert await control.post(f"/scripts/{quote(name)}", {"pace": 0, "wait": True}) == {
            "name": name
        }
        assert control.mx.switchboard.calls == []


@pytest_twisted.ensureDeferred
async def test_a_script_that_is_not_waited_for(control):
    """The answer comes at once; the list shows that it plays; a reset ends it with its calls."""
    assert await control.post("/scripts/hold", status=202) == {"name": "hold"}
    playing = {each["name"]: each["playing"] for each in (await control.get("/scripts"))["scripts"]}
    assert (playing["hold"], playing["park"]) == (1, 0)
    assert len(control.mx.switchboard.calls) == 1
    await control.post("/reset", status=204)
    assert control.mx.switchboard.calls == []
    listed = await control.get("/scripts")
    assert not any(each["playing"] for each in listed["scripts"])


@pytest_twisted.ensureDeferred
async def test_a_script_that_cannot_go_on(control):
    """Who waits for it learns at which step it stopped, and why."""
    await control.ring(to=COLLEAGUE)
    reason = await control.refused(409, "/scripts/hold", {"wait": True})
    assert reason == "the script stopped early, at step 1: 3044 is in use"
    waiting = Deferred.fromCoroutine(control.ask("POST", "/scripts/park", {"wait": True}))
    while len(control.mx.switchboard.calls) < 2:
        await control.get("/calls")
    await control.post("/reset", status=204)
    reply = await waiting
    assert (reply.status, reply.json["error"]) == (409, "the script was ended")


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/scripts/juggle", {}, 404, "GET /scripts has their names"),
        ("/scripts/hold", {"pace": -1}, 400, "pace: expected a number from 0 to 100"),
        ("/scripts/hold", {"pace": True}, 400, "pace: expected a number from 0 to 100"),
        ("/scripts/hold", {"pace": None}, 400, "pace: expected a number from 0 to 100"),
        ("/scripts/hold", {"wait": 1}, 400, "wait: expected true or false"),
        ("/contacts/99", {"status": "Away"}, 404, "expected one of 3044"),
        ("/contacts/3061", {}, 400, "expected status, note or both"),
        ("/contacts/3061", {"status": " "}, 400, "status: must not be empty"),
        ("/faults", {"silent": 1}, 400, "silent: expected true or false"),
        ("/faults", {"certificate": True}, 400, "certificate: unknown key"),
        ("/faults/HoldCal", {"refuse": "no"}, 404, "expected one of *, AnswerCall"),
        ("/faults/HoldCall", {"times": 1}, 400, "expected what goes wrong"),
        ("/faults/HoldCall", {"delay": None}, 400, "delay: expected a number of seconds"),
        ("/faults/HoldCall", {"answer": "x"}, 400, "answer: unknown key"),
        ("/connections/cut", {}, 404, "expected one of drop, reset, force_logout"),
        ("/connections/drop", {"type": "Admin"}, 400, "type: expected one of 'Server'"),
        ("/connections/refuse", {"type": ""}, 400, "type: unknown key"),
        ("/behaviour", {"outgoing": "x"}, 400, "outgoing: expected one of 'remote', 'desk'"),
        ("/behaviour", {"mood": "x"}, 400, "mood: unknown key"),
        ("/reset", {"all": True}, 400, "all: unknown key"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_mistakes_say_what_is_expected(control, path, body, status, reason):
    """Wherever it is: the field, and what is expected there."""
    assert reason in await control.refused(status, path, body)


# --- People, connections, faults, switches --------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_presence(control):
    """Status and note change, each also without the other."""
    shown = await control.post("/contacts/3061", {"status": "NotAvailable", "note": "lunch"})
    assert shown == {
        "ext": "3061",
        "login": "priya",
        "name": "Priya Nair",
        "status": "NotAvailable",
        "note": "lunch",
    }
    assert (await control.post("/contacts/3061", {"note": ""}))["status"] == "NotAvailable"
    assert (await control.post("/contacts/3061", {"status": "Available"}))["note"] == ""
    contacts = (await control.get("/contacts"))["contacts"]
    assert [each["status"] for each in contacts if each["ext"] == "3061"] == ["Available"]
    assert len(contacts) == 8


@pytest_twisted.ensureDeferred
async def test_faults(control):
    """What goes wrong is set and taken back, on all connections and for single commands."""
    shown = await control.post("/faults", {"silent": True})
    assert shown["silent"]
    assert control.mx.faults.silent
    await control.post("/faults/HoldCall", {"refuse": "resourceBusy", "times": 2})
    fault = control.mx.faults.strike("HoldCall")
    assert fault.answer == CSTAError(text="resourceBusy", category="operation")
    assert fault.times == 2
    await control.post("/faults/*", {"delay": 0.5})
    shown = await control.get("/faults")
    assert shown["commands"]["HoldCall"]["refuse"] == "resourceBusy"
    assert shown["commands"]["*"]["delay"] == 0.5
    assert (await control.ask("DELETE", "/faults/HoldCall")).status == 204
    assert control.mx.faults.strike("HoldCall").delay == 0.5
    assert (await control.ask("DELETE", "/faults")).status == 204
    shown = await control.get("/faults")
    assert not any(shown.values())


@pytest_twisted.ensureDeferred
async def test_switches(control):
    """Behaviour changes at once."""
    shown = await control.post("/behaviour", {"outgoing": "desk", "no_answer_after": 12})
    assert (shown["outgoing"], shown["no_answer_after"]) == ("desk", 12.0)
    assert control.mx.behaviour.outgoing == "desk"
    assert await control.get("/behaviour") == shown


@pytest_twisted.ensureDeferred
async def test_a_reset(control):
    """Calls, faults, switches and people are as at the start."""
    before = [await control.get(path) for path in ("/contacts", "/faults", "/behaviour")]
    await control.talk()
    await control.post("/faults", {"byte_by_byte": True})
    await control.post("/behaviour", {"outgoing": "desk"})
    await control.post("/contacts/3061", {"status": "Away"})
    person = {"ext": "3120", "login": "ines", "password": "demo"}
    await control.post("/steps", {"add_user": person})
    await control.post("/steps", {"delete_user": "3055"})
    await control.post("/steps", {"update_user": {"ext": "3044", "last_name": "Smith"}})
    await control.post("/connections/refuse", status=204)
    await control.post("/reset", status=204)
    after = [await control.get(path) for path in ("/contacts", "/faults", "/behaviour")]
    assert after == before
    assert control.mx.switchboard.calls == []
    with socket.create_connection(control.mx.address, timeout=PATIENCE):
        pass


# --- Who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "192.0.2.1"},
        {"Host": "localhost@evil.example:80"},
        {"Host": "[::1"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_pages_are_turned_away(control, headers):
    """Whatever a page of another site can make a browser send, it changes nothing: 403."""
    json_too = {"Content-Type": "application/json"}
    body = json.dumps({"from": OUTSIDE, "to": EXT}).encode()
    reply = await control.ask("POST", "/calls", headers=headers | json_too, data=body)
    assert reply.status == 403
    assert "expected" in reply.json["error"]
    assert (await control.ask("GET", "/calls", headers=headers)).status == 403
    assert control.mx.switchboard.calls == []


@pytest.mark.parametrize("host", ["localhost:7780", "127.0.0.1", "127.8.8.8:1", "[::1]:7780"])
@pytest_twisted.ensureDeferred
async def test_this_machine_has_many_names(control, host):
    """All of them are let in; so is a page that somebody typed the address of."""
    headers = {"Host": host, "Sec-Fetch-Site": "none"}
    assert (await control.ask("GET", "/calls", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("content_type", "data", "status"),
    [
        ("text/plain", b"{}", 415),
        ("application/x-www-form-urlencoded", b"from=1", 415),
        (None, b"{}", 415),
        ("application/json", b"{", 400),
        ("application/json", b"[" * 30_000, 400),
        ("application/json", b"[]", 400),
        ("application/json", b'{"pace": NaN}', 400),
        ("application/json", b'{"from": "\xff"}', 400),
        ("application/json; charset=utf-8", b"{}", 204),
        ("Application/JSON", b" {} ", 204),
        ("application/json", b"{" + b" " * MAX_BODY_BYTES + b"}", 413),
        (None, b"", 204),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bodies(control, content_type, data, status):
    """JSON objects alone, of a bounded size; what needs no field needs no body."""
    headers = {"Content-Type": content_type} if content_type else {}
    assert (await control.ask("POST", "/reset", headers=headers, data=data)).status == status


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("7780", "expected tcp:PORT"),
        ("tcp:", "expected tcp:PORT"),
        ("tcp:x", "expected tcp:PORT"),
        ("unix:/x", "expected tcp:PORT"),
        ("tcp:7780:interface=", "expected tcp:PORT"),
        ("tcp:0:interface=localhost", "expected an address as a number"),
        ("tcp:0:interface=0.0.0.0", "expected a loopback address"),
        ("tcp:0:interface=\\:\\:", "expected a loopback address"),
        ("tcp:0:interface=192.0.2.1", "expected a loopback address"),
        ("tcp:65536", "expected tcp:PORT"),
        ("tcp:0:interface=127.0.0.1:more", "expected an address as a number"),
    ],
)
def test_where_it_may_be(place, expected):
    """A TCP port at a loopback address; any other place is refused, and the reason told."""
    with pytest.raises(ConfigError, match=expected):
        bind_control(place)


def test_somebody_may_insist():
    """Where it is said plainly, every address will do."""
    port = bind_control("tcp:0:interface=0.0.0.0", anywhere=True)
    assert port.host == "0.0.0.0"
    port.release()


@pytest_twisted.ensureDeferred
async def test_anywhere_it_may_have_any_name():
    """There others may name the machine as they like; pages are turned away all the same."""
    scenario = load(SCENARIO, SCENARIO_NAME).quiet()
    service = SimulatorService(reactor, scenario, control="tcp:0", control_anywhere=True)
    service.startService()
    control = Control(service)
    try:
        headers = {"Host": "mxsim.example"}
        assert (await control.ask("GET", "/calls", headers=headers)).status == 200
        headers["Origin"] = "http://mxsim.example"
        assert (await control.ask("GET", "/calls", headers=headers)).status == 403
    finally:
        await service.stopService()


# --- The service ----------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_it_is_there_when_asked_for_alone():
    """Without `--control` nothing listens beside the MX."""
    parsed = Options()
    parsed.parseOptions(["--port", "0"])
    service = makeService(parsed)
    assert service.control is None
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_it_stops_and_starts(control):
    """When the simulator stops the port is free, and requests under way end; it may start again."""
    waiting = Deferred.fromCoroutine(control.ask("POST", "/scripts/hold", {"wait": True}))
    while not control.mx.switchboard.calls:
        await control.get("/calls")
    await control.service.stopService()
    with pytest.raises(Exception, match=r"(?i)connection"):
        await waiting
    place = (control.service.control.host, control.service.control.port)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(place, timeout=PATIENCE)
    control.service.startService()
    assert await control.get("/calls") == {"calls": []}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quiet", "--play", "hold"],
        ["--control-anywhere"],
    ],
)
def test_what_does_not_go_together(arguments):
    """It is a mistake in the command."""
    with pytest.raises(UsageError):
        Options().parseOptions(arguments)


def test_a_mistake_of_the_command_is_one_line():
    """A place that others reach, and a script that there is not, end the start."""
    for arguments in (["--control", "tcp:0:interface=0.0.0.0"], ["--play", "juggle"]):
        parsed = Options()
        parsed.parseOptions(["--port", "0", *arguments])
        with pytest.raises(SystemExit) as caught:
            makeService(parsed)
        assert "expected" in str(caught.value) or "no such script" in str(caught.value)
        assert "\n" not in str(caught.value)
