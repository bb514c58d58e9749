"""Calls: making them, what one may do with them, and every refusal."""

from __future__ import annotations

import pytest
import pytest_twisted

from mxflex.simulator.faults import CommandFault
from mxflex.simulator.switchboard import State
from mxflex.wire.messages import CSTAError
from tests.integration.daemons import EXT
from tests.integration.test_http_tokens import KEY, signed

OUTSIDE = "12025550104"
SECOND = "12025550105"

# Path, the fields beside callId and deviceId, and the command that the MX gets.
COMMANDS = (
    ("/api/call/answer", {}, "AnswerCall"),
    ("/api/call/hangup", {}, "ClearConnection"),
    ("/api/call/hold", {}, "HoldCall"),
    ("/api/call/retrieve", {}, "RetrieveCall"),
    ("/api/call/deflect", {"destination": "3098"}, "DeflectCall"),
    ("/api/call/park", {}, "ParkCall"),
    ("/api/call/transfer", {"destination": "3098"}, "SingleStepTransferCall"),
    (
        "/api/call/transfer/consult",
        {"activeCallId": "1", "activeDeviceId": EXT},
        "TransferCall",
    ),
    ("/api/call/record/start", {}, "StartRecording"),
    ("/api/call/record/stop", {}, "StopRecording"),
)
every_command = pytest.mark.parametrize(("path", "more", "command"), COMMANDS)


def ringing(running, ext=EXT, number=OUTSIDE):
    """Let an extension ring; give the fields that name the call."""
    return known(running.mx.call_in(number, ext), ext)


def talking(running, ext=EXT, number=OUTSIDE):
    """Let an extension talk; give the fields that name the call."""
    fields = ringing(running, ext, number)
    running.mx.answer(ext)
    return fields


def known(call, ext):
    """Give the fields that name a call."""
    return {"callId": str(call.party(ext).call_id), "deviceId": ext}


def state(running, number=EXT):
    """Give the state of a number in its newest call, or None."""
    for call in reversed(running.mx.switchboard.calls):
        party = call.party(number)
        if party is not None and party in call.live:
            return party.state
    return None


# --- Making calls ---------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_call_is_made_from_the_own_extension(daemon):
    """`to` alone calls from the token's extension; 200 tells callId, deviceId and called."""
    running = await daemon()
    token = await running.log_in()
    reply = await running.post("/api/call", {"to": "+79031744445"}, token=token)
    assert reply.status == 200
    assert reply.body == b'{"call":{"callId":1,"deviceId":"3095","called":"+79031744445"}}'
    (made,) = running.mx.received("MakeCall")
    assert (made.command.calling_device, made.command.called) == (EXT, "+79031744445")
    assert made.session is running.mx.logins[0]


# As people write a number, and what is dialled.
WRITTEN = [
    ("(903) 174-44-45", "9031744445"),
    ("+7 903.174.44.45", "+79031744445"),
    ("+7 (0) 903/174 44 45", "+79031744445"),
    ("\N{LEFT-TO-RIGHT EMBEDDING}+7\N{NO-BREAK SPACE}9031744445", "+79031744445"),
    ("+7903\N{NON-BREAKING HYPHEN}1744445", "+79031744445"),
    (" *77 1 ", "*771"),
    # Not numbers: the MX may know them.
    ("reception desk", "reception desk"),
    ("3098,1", "3098,1"),
    ("()", "()"),
]


@pytest.mark.parametrize(("written", "dialled"), WRITTEN)
@pytest_twisted.ensureDeferred
async def test_a_number_is_dialled_without_what_is_for_the_eye(daemon, written, dialled):
    """Spaces, brackets, dots and the like in numbers do not reach the MX."""
    running = await daemon()
    token = await running.log_in()
    await running.post("/api/call", {"to": written}, token=token)
    fields = {**ringing(running), "destination": written}
    await running.post("/api/call/deflect", fields, token=token)
    await running.post("/api/call/transfer", {**fields, **ringing(running)}, token=token)
    sent = [
        running.mx.received("MakeCall")[0].command.called,
        running.mx.received("DeflectCall")[0].command.destination,
        running.mx.received("SingleStepTransferCall")[0].command.destination,
    ]
    assert sent == [dialled] * 3


@pytest.mark.parametrize("sender", [EXT, "+79031744445", "+7 (0)903 174\N{EN DASH}4445"])
@pytest_twisted.ensureDeferred
async def test_a_call_may_be_made_from_an_outside_number(daemon, sender):
    """`from` may be the own extension or an outside number."""
    running = await daemon()
    fields = {"from": sender, "to": "3099"}
    reply = await running.post("/api/call", fields, token=await running.log_in())
    assert reply.status == 200
    (made,) = running.mx.received("MakeCall")
    assert made.command.calling_device in (EXT, "+79031744445")


@pytest.mark.parametrize("fields", [{}, {"to": ""}, {"to": "  "}, {"from": EXT}])
@pytest_twisted.ensureDeferred
async def test_to_is_required(daemon, fields):
    """An empty `to` is 400 in the contract's words, and the MX hears nothing."""
    running = await daemon()
    reply = await running.post("/api/call", fields, token=await running.log_in())
    assert (reply.status, reply.error) == (400, "to field is empty")
    assert not running.mx.received("MakeCall")


# --- Commands -------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_answer_and_hang_up(daemon):
    """A ringing call is answered and ended; each is 204 without a body."""
    running = await daemon()
    token = await running.log_in()
    fields = ringing(running)
    reply = await running.post("/api/call/answer", fields, token=token)
    assert (reply.status, reply.body) == (204, b"")
    assert state(running) is State.CONNECTED
    reply = await running.post("/api/call/hangup", fields, token=token)
    assert (reply.status, reply.body) == (204, b"")
    assert state(running) is None


@pytest_twisted.ensureDeferred
async def test_hold_takes_back_what_is_held(daemon):
    """`/api/call/hold` holds a call, and retrieves it when it is held."""
    running = await daemon()
    token = await running.log_in()
    fields = talking(running)
    for expected in (State.HOLD, State.CONNECTED, State.HOLD):
        assert (await running.post("/api/call/hold", fields, token=token)).status == 204
        assert state(running) is expected
    assert len(running.mx.received("HoldCall")) == 2
    assert len(running.mx.received("RetrieveCall")) == 1


@pytest_twisted.ensureDeferred
async def test_retrieve(daemon):
    """`/api/call/retrieve` takes a held call back."""
    running = await daemon()
    token = await running.log_in()
    fields = talking(running)
    running.mx.hold(EXT)
    assert (await running.post("/api/call/retrieve", fields, token=token)).status == 204
    assert state(running) is State.CONNECTED


@pytest_twisted.ensureDeferred
async def test_transfer(daemon):
    """`/api/call/transfer` hands an answered call to another number."""
    running = await daemon()
    token = await running.log_in()
    fields = {**talking(running), "destination": "3098"}
    assert (await running.post("/api/call/transfer", fields, token=token)).status == 204
    assert (state(running), state(running, "3098")) == (None, State.ALERTING)


@pytest_twisted.ensureDeferred
async def test_deflect(daemon):
    """`/api/call/deflect` sends a ringing call to another number."""
    running = await daemon()
    token = await running.log_in()
    fields = {**ringing(running), "destination": "3098"}
    assert (await running.post("/api/call/deflect", fields, token=token)).status == 204
    assert (state(running), state(running, "3098")) == (None, State.ALERTING)


@pytest_twisted.ensureDeferred
async def test_park(daemon):
    """`/api/call/park` parks a call, and the place comes as an event."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    fields = talking(running)
    assert (await running.post("/api/call/park", fields, token=token)).status == 204
    assert state(running) is None
    parked = await stream.when_event("ParkedEvent")
    assert parked.json == {"deviceId": EXT, "parkId": 1}


@pytest_twisted.ensureDeferred
async def test_transfer_after_asking(daemon):
    """`/api/call/transfer/consult` joins the held call and the active one."""
    running = await daemon()
    token = await running.log_in()
    held = talking(running)
    running.mx.hold(EXT)
    asked = running.mx.user_calls(EXT, "3098")
    running.mx.answer("3098")
    fields = {**held, "activeCallId": str(asked.party(EXT).call_id), "activeDeviceId": EXT}
    reply = await running.post("/api/call/transfer/consult", fields, token=token)
    assert reply.status == 204
    assert state(running) is None
    assert state(running, "3098") is State.CONNECTED


@pytest_twisted.ensureDeferred
async def test_recording(daemon):
    """`/api/call/record/start` and `/stop` begin and end the recording of a call."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    fields = talking(running)
    for path, active in (("start", True), ("stop", False)):
        reply = await running.post(f"/api/call/record/{path}", fields, token=token)
        assert reply.status == 204
        (call,) = running.mx.switchboard.calls
        assert call.party(EXT).recording is active
    await stream.when(lambda: stream.names.count("RecordingStateEvent") == 2)


@pytest_twisted.ensureDeferred
async def test_fields_may_come_as_json(daemon):
    """`callId` may be a JSON number, or text as in a form."""
    running = await daemon()
    token = await running.log_in()
    fields = talking(running)
    for call_id in (int(fields["callId"]), fields["callId"]):
        data = {"callId": call_id, "deviceId": EXT}
        reply = await running.request("POST", "/api/call/hold", token=token, json=data)
        assert reply.status == 204


# --- Mistakes -------------------------------------------------------------------------------------


@every_command
@pytest.mark.parametrize("call_id", [None, "", "x", "1.5", "-1", "1e3", "0x1", "\u0661", "1" * 30])
@pytest_twisted.ensureDeferred
async def test_a_call_id_must_be_a_number(daemon, path, more, command, call_id):
    """`callId` that is not a number is 400 `bad call id`."""
    running = await daemon(token={"key": KEY}, ready=False)
    fields = {"callId": call_id, "deviceId": EXT, **more}
    fields = {key: value for key, value in fields.items() if value is not None}
    reply = await running.post(path, fields, token=signed())
    assert (reply.status, reply.error) == (400, "bad call id")


@every_command
@pytest_twisted.ensureDeferred
async def test_a_device_is_required(daemon, path, more, command):
    """`deviceId` that is empty or missing is 400 `device id required`."""
    running = await daemon(token={"key": KEY}, ready=False)
    for device in ({}, {"deviceId": ""}, {"deviceId": " "}):
        reply = await running.post(path, {"callId": "1", **device, **more}, token=signed())
        assert (reply.status, reply.error) == (400, "device id required")


@pytest.mark.parametrize("path", ["/api/call/transfer", "/api/call/deflect"])
@pytest_twisted.ensureDeferred
async def test_a_destination_is_required(daemon, path):
    """`destination` that is empty or missing is 400 `destination phone required`."""
    running = await daemon(token={"key": KEY}, ready=False)
    for destination in ({}, {"destination": ""}, {"destination": " "}):
        fields = {"callId": "1", "deviceId": EXT, **destination}
        reply = await running.post(path, fields, token=signed())
        assert (reply.status, reply.error) == (400, "destination phone required")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("callId", "x", "bad call id"),
        ("deviceId", "", "device id required"),
        ("activeCallId", "x", "bad active call id"),
        ("activeCallId", "", "bad active call id"),
        ("activeDeviceId", "", "active device id required"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_active_call_must_be_named(daemon, field, value, error):
    """A consultation transfer names both calls; the error says which of them is not right."""
    running = await daemon(token={"key": KEY}, ready=False)
    fields = {"callId": "1", "deviceId": EXT, "activeCallId": "2", "activeDeviceId": EXT}
    path = "/api/call/transfer/consult"
    reply = await running.post(path, {**fields, field: value}, token=signed())
    assert (reply.status, reply.error) == (400, error)


# --- The MX does not do it ------------------------------------------------------------------------


@every_command
@pytest_twisted.ensureDeferred
async def test_a_refusal_of_the_mx_is_422(daemon, path, more, command):
    """`CSTAErrorCode` is 422 with the MX's own words."""
    running = await daemon()
    token = await running.log_in()
    fields = talking(running)
    refusal = CSTAError(text="invalidConnectionState & <more>", category="operation")
    running.mx.faults.set(command, CommandFault(answer=refusal))
    reply = await running.post(path, {**fields, **more}, token=token)
    assert (reply.status, reply.error) == (422, "invalidConnectionState & <more>")


@pytest_twisted.ensureDeferred
async def test_a_refused_call_is_422(daemon):
    """A number that the MX does not call is 422 with the MX's own words."""
    running = await daemon()
    reply = await running.post("/api/call", {"to": "nobody"}, token=await running.log_in())
    assert (reply.status, reply.error) == (422, "invalidCalledDeviceID")


@every_command
@pytest_twisted.ensureDeferred
async def test_no_answer_of_the_mx_is_504(daemon, path, more, command):
    """A command that is not answered within `mx.timeout` is 504."""
    running = await daemon(mx={"timeout": 0.2})
    token = await running.log_in()
    fields = talking(running)
    running.mx.faults.set(command, CommandFault(ignored=True))
    reply = await running.post(path, {**fields, **more}, token=token)
    assert (reply.status, bool(reply.error)) == (504, True)


@pytest_twisted.ensureDeferred
async def test_a_call_without_an_answer_is_504(daemon):
    """`MakeCall` that is not answered within `mx.timeout` is 504."""
    running = await daemon(mx={"timeout": 0.2})
    token = await running.log_in()
    running.mx.faults.set("MakeCall", CommandFault(ignored=True))
    reply = await running.post("/api/call", {"to": "3099"}, token=token)
    assert (reply.status, bool(reply.error)) == (504, True)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/call", {"to": "3099"}),
        ("/api/call", {"to": "3099", "from": "+79031744445"}),
        *((path, {"callId": "1", "deviceId": EXT, **more}) for path, more, _ in COMMANDS),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_connection_that_is_down_is_503_at_once(daemon, path, fields):
    """Without the server connection the answer is 503 with `Retry-After`, without any waiting."""
    running = await daemon(mx={"timeout": 60})
    token = await running.log_in()
    ringing(running)
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    reply = await running.post(path, fields, token=token)
    assert reply.status == 503
    assert int(reply.header("retry-after")) > 0
    assert reply.error


@pytest_twisted.ensureDeferred
async def test_a_connection_lost_under_a_command_is_503(daemon):
    """A command whose connection ends before the answer is 503, at once."""
    running = await daemon(mx={"timeout": 60})
    token = await running.log_in()
    running.mx.faults.set("MakeCall", CommandFault(drop=True))
    reply = await running.post("/api/call", {"to": "3099"}, token=token)
    assert reply.status == 503
    assert reply.header("retry-after")


# --- Whose call it is -----------------------------------------------------------------------------


@every_command
@pytest_twisted.ensureDeferred
async def test_a_call_of_others_is_403(daemon, path, more, command):
    """A call in which the own extension takes no part cannot be touched, under any device."""
    running = await daemon()
    token = await running.log_in()
    await running.log_in("user3096", "secret3096")
    foreign = talking(running, "3096")
    for device in ("3096", EXT):
        fields = {**foreign, "deviceId": device, **more}
        reply = await running.post(path, fields, token=token)
        assert (reply.status, bool(reply.error)) == (403, True)
    assert not running.mx.received(command)


@pytest_twisted.ensureDeferred
async def test_both_calls_of_a_transfer_must_be_own(daemon):
    """A held call of one's own cannot be joined with a call of others."""
    running = await daemon()
    token = await running.log_in()
    held = talking(running)
    running.mx.hold(EXT)
    foreign = talking(running, "3096", SECOND)
    fields = {**held, "activeCallId": foreign["callId"], "activeDeviceId": "3096"}
    reply = await running.post("/api/call/transfer/consult", fields, token=token)
    assert reply.status == 403


@pytest.mark.parametrize("sender", ["3096", " 3096 ", "30-96", "3010", "*86", "nobody"])
@pytest_twisted.ensureDeferred
async def test_a_call_from_another_extension_is_403(daemon, sender):
    """`from` must not be the extension of another user, however it is spelled."""
    running = await daemon()
    fields = {"from": sender, "to": "3099"}
    reply = await running.post("/api/call", fields, token=await running.log_in())
    assert (reply.status, bool(reply.error)) == (403, True)
    assert not running.mx.received("MakeCall")


@pytest_twisted.ensureDeferred
async def test_an_older_call_is_found_at_the_mx(daemon):
    """A call that began before anybody logged in may be acted on by its own user alone."""
    running = await daemon()
    call = running.mx.call_in(OUTSIDE, EXT)
    fields = known(call, EXT)
    token = await running.log_in()
    assert (await running.post("/api/call/answer", fields, token=token)).status == 204
    foreign = running.mx.call_in(SECOND, "3096")
    fields = known(foreign, "3096")
    assert (await running.post("/api/call/answer", fields, token=token)).status == 403


@pytest_twisted.ensureDeferred
async def test_the_rule_can_be_lifted(daemon):
    """With `calls: {restrict: false}` any call may be acted on, and any extension may call."""
    running = await daemon(calls={"restrict": False})
    token = await running.log_in()
    foreign = ringing(running, "3096")
    assert (await running.post("/api/call/answer", foreign, token=token)).status == 204
    assert state(running, "3096") is State.CONNECTED
    reply = await running.post("/api/call", {"from": "3044", "to": "3099"}, token=token)
    assert reply.status == 200
    assert reply.json["call"]["deviceId"] == "3044"


# --- The list -------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_calls_are_listed(daemon):
    """`GET /api/calls` shows the user's calls as they are now, and nobody else's."""
    running = await daemon()
    token = await running.log_in()
    await running.log_in("user3096", "secret3096")
    stream = await running.open_stream(token)
    assert (await running.get("/api/calls", token=token)).body == b'{"calls":[]}'
    running.mx.call_in(SECOND, "3096")
    running.mx.call_in(OUTSIDE, EXT, "Harbor Coffee")
    running.mx.answer(EXT)
    running.mx.hold(EXT)
    await stream.when_event("HeldEvent")
    (call,) = (await running.get("/api/calls", token=token)).json["calls"]
    told = {
        "deviceId": EXT,
        "state": "hold",
        "direction": "incoming",
        "callingDevice": OUTSIDE,
        "callingDisplayName": "Harbor Coffee",
        "calledDevice": EXT,
        "answeringDevice": EXT,
    }
    assert told.items() <= call.items()
    assert call["startedAt"] <= call["answeredAt"] <= call["since"]
    running.mx.hang_up(OUTSIDE)
    await stream.when_event("ConnectionClearedEvent")
    assert (await running.get("/api/calls", token=token)).body == b'{"calls":[]}'
