"""The control API: HTTP by which tests, and people with curl, act for the telephones.

It rules the whole simulator and asks for no password. So it listens at a loopback address unless
somebody insists, and turns pages of browsers away, which other sites may have sent.

Source: docs/simulator.md, "The control API" has every path and field.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing
from typing import Any, Final, NoReturn, cast
from urllib.parse import urlsplit

import attrs
from klein import Klein
from klein.resource import KleinResource
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.server import Site
from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from mxflex.errors import CommandRefused, ConfigError
from mxflex.simulator.company import User, dialled
from mxflex.simulator.faults import EVERY_COMMAND, CommandFault, Faults
from mxflex.simulator.listening import MAX_PORT, BoundPort
from mxflex.simulator.playing import OPERATIONS, TOWARDS_STATES, Actor, NotThere, Playing
from mxflex.simulator.scenario import (
    AT,
    TOWARDS,
    At,
    Dial,
    Node,
    Scenario,
    Step,
    Towards,
    Wait,
    read_behaviour,
    read_dial,
    read_step,
)
from mxflex.simulator.server import LOOPBACK, SimulatedMX
from mxflex.simulator.session import Session
from mxflex.simulator.switchboard import Call, Party, State
from mxflex.wire.messages import COMMANDS, CSTAError

log = Logger()

JSON: Final = "application/json"
MAX_BODY_BYTES: Final = 64 * 1024
# The slowest that scripts are played on demand.
MAX_PACE: Final = 100
# How many extensions an error names.
MAX_NAMED: Final = 20

SESSION_TYPES = typing.Literal["Server", "User", ""]
PATHS: Final = "/calls, /steps, /scripts, /contacts, /connections, /faults, /behaviour and /reset"

_PLACE = re.compile(r"tcp:([0-9]{1,5})(?::interface=(.+))?")
_COMMAND_NAMES: Final = {command.wire_name for command in COMMANDS.values()} | {EVERY_COMMAND}
_SWITCHES: Final = tuple(
    name for name, hint in typing.get_type_hints(Faults).items() if hint is bool
)
_FAULT_HINTS: Final = {
    name: hint
    for name, hint in typing.get_type_hints(CommandFault).items()
    if name not in ("answer", "raw")
}


def bind_control(place: str, *, anywhere: bool = False) -> BoundPort:
    r"""Take the port of the control API.

    Args:
        place: `tcp:PORT`, or `tcp:PORT:interface=ADDRESS` with the colons of an IPv6 address as
            `\:`, as in Twisted's descriptions of endpoints; port 0 takes any free one.
        anywhere: Whether an address that others reach will do.

    Raises:
        ConfigError: The text says something else, others could reach the address, or the port
            cannot be had.
    """
    match = _PLACE.fullmatch(place)
    if match is None or int(match[1]) > MAX_PORT:
        raise ConfigError("--control", "", "expected tcp:PORT or tcp:PORT:interface=ADDRESS")
    interface = (match[2] or LOOPBACK).replace("\\:", ":")
    try:
        address = ipaddress.ip_address(interface)
    except ValueError:
        raise ConfigError("--control", "", "expected an address as a number") from None
    if not address.is_loopback and not anywhere:
        raise ConfigError(
            "--control",
            "",
            f"others may reach {interface}, and whoever does rules the simulator: expected a"
            " loopback address such as 127.0.0.1, or --control-anywhere beside it",
        )
    return BoundPort(interface, int(match[1]))


class ControlService(Service):
    """Serves the control API.

    Args:
        reactor: Where it runs.
        control: What is served.
        bound: The port.
        anywhere: Whether it may be called by any name, and not as a loopback address alone.
    """

    def __init__(self, reactor: Any, control: Control, bound: BoundPort, *, anywhere: bool) -> None:
        self.host, self.port = bound.host, bound.port
        self._reactor = reactor
        self._bound = bound
        self._factory = WrappingFactory(_Site(_Guarded(control.app, anywhere), reactor))
        self._factory.noisy = False
        self._listening: IListeningPort | None = None

    def startService(self) -> None:
        """Listen."""
        Service.startService(self)
        self._listening = self._bound.listen(self._reactor, self._factory)
        log.info("control API of the simulated MX at http://{at}", at=_shown_address(self._bound))

    def stopService(self) -> Deferred[None]:
        """Close the port and all connections."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._bound.release()
        for connection in list(self._factory.protocols):
            connection.transport.abortConnection()
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)


def _shown_address(bound: BoundPort) -> str:
    host = f"[{bound.host}]" if ":" in bound.host else bound.host
    return f"{host}:{bound.port}"


class _Site(Site):
    noisy = False
    displayTracebacks = False

    def __init__(self, resource: KleinResource, reactor: Any) -> None:
        super().__init__(resource, reactor=reactor)  # type: ignore[no-untyped-call]

    def log(self, request: Request) -> None:
        """Say what was asked, to those who want to know."""
        log.debug(
            "control: {method} {uri} {code}",
            method=request.method.decode("latin-1"),
            uri=request.uri.decode("latin-1"),
            code=request.code,
        )


class _Guarded(KleinResource):
    """Lets programs of this machine in, and no pages.

    A page of any site can make a browser send requests to this machine. Such a request has an
    `Origin`, or says by `Sec-Fetch-Site` that it is from elsewhere; one of a site that has made its
    own name one of this machine (DNS rebinding) has that name as its `Host`.
    """

    def __init__(self, app: Klein, anywhere: bool) -> None:
        super().__init__(app)
        self._anywhere = anywhere

    # Klein states this more widely than the resources of Twisted that it stands for.
    def render(self, request: Request) -> Any:  # type: ignore[override]
        """Answer a request, or refuse to."""
        reason = self._strange(request)
        if reason:
            return _send(request, {"code": 403, "error": reason}, 403)
        return super().render(cast("IRequest", request))

    def _strange(self, request: Request) -> str:
        if request.getHeader("origin") is not None:
            return "pages in browsers may not do this: expected no Origin"
        if request.getHeader("sec-fetch-site") not in (None, "none"):
            return "pages in browsers may not do this: expected no Sec-Fetch-Site but none"
        hosts = request.requestHeaders.getRawHeaders("host") or []
        if not self._anywhere and not (len(hosts) == 1 and _is_loopback(hosts[0])):
            return "expected a loopback address or localhost as Host"
        return ""


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Control:
    """The routes.

    Args:
        mx: The MX that is ruled.
        scenario: What it is made of.
        playing: Its scripts.
    """

    app = Klein()

    def __init__(self, mx: SimulatedMX, scenario: Scenario, playing: Playing) -> None:
        self._mx = mx
        self._scenario = scenario
        self._playing = playing

    # --- Calls ------------------------------------------------------------------------------------

    @app.route("/calls", methods=["GET"])
    def calls(self, request: Request) -> bytes:
        """Give all calls, the oldest first."""
        return _send(request, self._all_calls())

    @app.route("/calls", methods=["POST"])
    def dial(self, request: Request) -> bytes:
        """Let somebody call somebody."""
        dial = read_dial(_read(request))
        if len(dial.callers) != 1 or len(dial.to) != 1:
            raise ConfigError("", "from, to", "expected one number each")
        self._check(dial)
        return _send(request, self._shown(self._act(dial).calls[-1]), 201)

    @app.route("/calls", methods=["DELETE"])
    def end_calls(self, request: Request) -> None:
        """End all calls."""
        self._end_calls()
        _send_nothing(request)

    @app.route("/calls/<int:number>", methods=["GET"])
    def call(self, request: Request, number: int) -> bytes:
        """Give one call."""
        return _send(request, self._shown(self._call(number)))

    @app.route("/calls/<int:number>/<action>", methods=["POST"])
    def act_on(self, request: Request, number: int, action: str) -> bytes:
        """Let one of the telephones of a call do something."""
        call, node = self._call(number), _read(request)
        if action not in (*AT, *TOWARDS):
            raise NotFound(f"no such action: expected one of {', '.join((*AT, *TOWARDS))}")
        step = self._step_on(call, action, node)
        # To join two calls takes the other one, too; where there are several, this one counts.
        others = [each for each in self._mx.switchboard.calls if each is not call]
        actor = Actor(self._mx, [*others, call] if action == "join" else [call])
        if action == "join":
            call = actor.mine(step.number, State.HOLD)[0]
        try:
            actor.do(step)
        except CommandRefused as refused:
            raise Conflict(f"the MX refuses: {refused}; {_states(call)}") from refused
        if action == "consult":
            return _send(request, self._shown(actor.calls[-1]), 201)
        return _send(request, self._shown(call))

    def _step_on(self, call: Call, action: str, node: Node) -> At | Towards:
        if action in TOWARDS:
            keys = node.keys("number", "to", required=("to",))
            who = self._who(call, action, keys)
            return Towards(action=action, number=who, to=keys["to"].number())
        required = ("number",) if action == "pick_up" else ()
        keys = node.keys("number", required=required)
        return At(action=action, number=self._who(call, action, keys))

    def _who(self, call: Call, action: str, keys: dict[str, Node]) -> str:
        """Give the telephone that acts: the one that is named, or the only one that can."""
        if "number" in keys:
            number = keys["number"].number()
            if action != "pick_up" and call.party(dialled(number)) not in call.live:
                raise keys["number"].wrong(f"expected one of {_numbers(call.live)}")
            return number
        states = _states_for(action)
        able = [party for party in call.live if not states or party.state in states]
        if action == "join":
            able = [party for party in able if self._has_another(call, party)]
        ours = [party for party in able if self._mx.company.user(party.number) is not None]
        for only in (able, ours):
            if len(only) == 1:
                return only[0].number
        if not able and action == "join":
            raise NotThere("expected somebody in this call who holds one call and talks on another")
        if not able:
            raise NotThere(f"expected somebody who is {' or '.join(states)}; {_states(call)}")
        raise ConfigError("", "number", f"is missing; expected one of {_numbers(ours or able)}")

    def _has_another(self, call: Call, party: Party) -> bool:
        """Tell whether a telephone has one call on hold, and talks on another; one is this."""
        others = {
            other.state
            for each in self._mx.switchboard.calls
            for other in each.live
            if each is not call and other.number == party.number
        }
        return State.HOLD in others | {party.state} and State.CONNECTED in others | {party.state}

    def _call(self, number: int) -> Call:
        for call in self._mx.switchboard.calls:
            if call.counter == number:
                return call
        raise NotFound("no such call, or it has ended; GET /calls has those that there are")

    def _all_calls(self) -> dict[str, Any]:
        return {"calls": [self._shown(call) for call in self._mx.switchboard.calls]}

    def _shown(self, call: Call) -> dict[str, Any]:
        ended = call not in self._mx.switchboard.calls
        return {
            "id": call.counter,
            "globalCallId": call.global_id,
            "from": call.calling,
            "to": call.called,
            "ended": ended,
            "place": call.place,
            "parties": [] if ended else [_shown_party(party) for party in call.live],
        }

    def _end_calls(self) -> None:
        board = self._mx.switchboard
        for call in list(board.calls):
            # One may have ended with another.
            if call in board.calls:
                board.clear(call, call.live[0])
        self._mx.deliver()

    def _act(self, step: Step) -> Actor:
        actor = Actor(self._mx, self._mx.switchboard.calls)
        actor.do(step)
        return actor

    def _check(self, dial: Dial) -> None:
        """Say what is expected, where the words of an MX would not."""
        company, caller = self._mx.company, dial.callers[0]
        if company.user(caller) is None and company.user(dial.to[0]) is None:
            raise ConfigError("", "to", f"expected an extension: {self._extensions()}")
        if company.user(caller) is not None and dial.name:
            raise ConfigError("", "name", "expected none: an extension has the name of its user")

    # --- Steps and scripts ------------------------------------------------------------------------

    @app.route("/steps", methods=["POST"])
    def step(self, request: Request) -> bytes:
        """Do one step of a script."""
        extensions = {user.ext for user in self._mx.company}
        step = read_step(_read(request), extensions, self._mx.company.serial)
        if isinstance(step, Wait):
            raise ConfigError("", "wait", "expected in scripts alone")
        if isinstance(step, Dial):
            self._check(step)
        self._act(step)
        return _send(request, self._all_calls())

    @app.route("/scripts", methods=["GET"])
    def scripts(self, request: Request) -> bytes:
        """Give the names of all scripts, and whether they are being played on demand."""
        shown = [
            {"name": script.name, "playing": self._playing.on_demand(script.name)}
            for script in self._scenario.scripts
        ]
        return _send(request, {"scripts": shown})

    @app.route("/scripts/<path:name>", methods=["POST"])
    async def play(self, request: Request, name: str) -> bytes:
        """Play a script once."""
        scripts = {script.name: script for script in self._scenario.scripts}
        if name not in scripts:
            raise NotFound("no such script; GET /scripts has their names")
        keys = _read(request).keys("pace", "wait")
        pace = _read_pace(keys["pace"]) if "pace" in keys else 1.0
        wait = keys["wait"].of_type(bool) if "wait" in keys else False
        run = self._playing.play(scripts[name], pace)
        if not wait:
            run.addErrback(_note_end, name)
            return _send(request, {"name": name}, 202)
        reason = await run
        if reason:
            raise Conflict(f"the script stopped early, at {reason}")
        return _send(request, {"name": name})

    # --- People -----------------------------------------------------------------------------------

    @app.route("/contacts", methods=["GET"])
    def contacts(self, request: Request) -> bytes:
        """Give the people of the company."""
        return _send(request, {"contacts": [_shown_user(user) for user in self._mx.company]})

    @app.route("/contacts/<ext>", methods=["POST"])
    def presence(self, request: Request, ext: str) -> bytes:
        """Change somebody's presence."""
        if self._mx.company.user(ext) is None:
            raise NotFound(f"no such extension: expected one of {self._extensions()}")
        keys = _read(request).keys("status", "note")
        if not keys:
            raise BadRequest("expected status, note or both")
        status = keys["status"].word() if "status" in keys else ""
        self._mx.set_presence(ext, status, keys["note"].text() if "note" in keys else None)
        return _send(request, _shown_user(self._mx.user(ext)))

    def _extensions(self) -> str:
        extensions = [user.ext for user in self._mx.company]
        more = ", …" if len(extensions) > MAX_NAMED else ""
        return ", ".join(extensions[:MAX_NAMED]) + more

    # --- Connections, faults, switches ------------------------------------------------------------

    @app.route("/connections", methods=["GET"])
    def connections(self, request: Request) -> bytes:
        """Give the sessions that are logged in."""
        return _send(request, {"connections": [_shown_session(s) for s in self._mx.sessions]})

    @app.route("/connections/<action>", methods=["POST"])
    async def end_connections(self, request: Request, action: str) -> None:
        """End connections, or let in no more."""
        ends = {
            "drop": self._mx.drop,
            "reset": self._mx.reset,
            "force_logout": self._mx.force_logout,
        }
        node = _read(request)
        if action in ends:
            keys = node.keys("type")
            ends[action](keys["type"].of_type(SESSION_TYPES) if "type" in keys else "")
        elif action == "refuse":
            node.keys()
            await self._mx.refuse_connections()
        elif action == "accept":
            node.keys()
            self._mx.accept_connections()
        else:
            raise NotFound(f"expected one of {', '.join((*ends, 'refuse', 'accept'))}")
        _send_nothing(request)

    @app.route("/faults", methods=["GET"])
    def faults(self, request: Request) -> bytes:
        """Give what goes wrong now."""
        return _send(request, self._shown_faults())

    @app.route("/faults", methods=["POST"])
    def set_faults(self, request: Request) -> bytes:
        """Let things go wrong, or work again, on all connections."""
        values = {
            name: node.of_type(bool) for name, node in _read(request).keys(*_SWITCHES).items()
        }
        for name, value in values.items():
            setattr(self._mx.faults, name, value)
        return _send(request, self._shown_faults())

    @app.route("/faults", methods=["DELETE"])
    def end_faults(self, request: Request) -> None:
        """Let everything work again."""
        self._mx.faults.end()
        _send_nothing(request)

    @app.route("/faults/<command>", methods=["POST"])
    def set_fault(self, request: Request, command: str) -> bytes:
        """Let a command fail."""
        _check_command(command)
        self._mx.faults.set(command, _read_fault(_read(request)))
        return _send(request, self._shown_faults())

    @app.route("/faults/<command>", methods=["DELETE"])
    def end_fault(self, request: Request, command: str) -> None:
        """Let a command work again."""
        _check_command(command)
        self._mx.faults.clear(command)
        _send_nothing(request)

    def _shown_faults(self) -> dict[str, Any]:
        faults = self._mx.faults
        shown: dict[str, Any] = {name: getattr(faults, name) for name in _SWITCHES}
        shown["commands"] = {name: _shown_fault(f) for name, f in faults.of_commands.items()}
        return shown

    @app.route("/behaviour", methods=["GET"])
    def behaviour(self, request: Request) -> bytes:
        """Give all switches."""
        return _send(request, attrs.asdict(self._mx.behaviour))

    @app.route("/behaviour", methods=["POST"])
    def set_behaviour(self, request: Request) -> bytes:
        """Change switches."""
        for name, value in read_behaviour(_read(request)):
            setattr(self._mx.behaviour, name, value)
        return _send(request, attrs.asdict(self._mx.behaviour))

    # --- All of it --------------------------------------------------------------------------------

    @app.route("/reset", methods=["POST"])
    def reset(self, request: Request) -> None:
        """Make everything as it was at the start; connections and monitors stay."""
        _read(request).keys()
        self._playing.stop()
        self._end_calls()
        self._mx.faults.end()
        for name, value in attrs.asdict(self._scenario.make_behaviour()).items():
            setattr(self._mx.behaviour, name, value)
        self._reset_people()
        self._mx.accept_connections()
        self._playing.start()
        _send_nothing(request)

    def _reset_people(self) -> None:
        wanted = {user.jid: user for user in self._scenario.users}
        for user in list(self._mx.company):
            # An extension that has moved may be somebody else's by now.
            if user.jid not in wanted or user.ext != wanted[user.jid].ext:
                self._mx.delete_user(user.ext)
        for jid, user in wanted.items():
            known = self._mx.company.by_jid(jid)
            if known is None:
                self._mx.add_user(user)
            elif known != user:
                self._mx.update_user(user)

    @app.handle_errors(Exception)
    def failed(self, request: IRequest, failure: Failure) -> bytes | None:
        """Turn whatever a route raised into an answer."""
        return _send_failure(cast("Request", request), failure)


Control.app.url_map.merge_slashes = False


# --- In and out -----------------------------------------------------------------------------------


def _read(request: Request) -> Node:
    """Give the body, which may be left out.

    Raises:
        HTTPException: It is no JSON object, or too large.
    """
    assert request.content is not None
    body = request.content.read(MAX_BODY_BYTES + 1)
    if not body:
        return Node("", "", {})
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge(f"expected at most {MAX_BODY_BYTES} bytes")
    content_type = request.getHeader("content-type") or ""
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(f"expected Content-Type: {JSON}")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("expected JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("expected a JSON object")
    return Node("", "", value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_pace(node: Node) -> float:
    pace = node.value
    known = isinstance(pace, int | float) and not isinstance(pace, bool)
    if not known or not 0 <= pace <= MAX_PACE:
        raise node.wrong(f"expected a number from 0 to {MAX_PACE}")
    return float(pace)


def _read_fault(node: Node) -> CommandFault:
    keys = node.keys("refuse", "category", *_FAULT_HINTS)
    values = {name: keys[name].of_type(hint) for name, hint in _FAULT_HINTS.items() if name in keys}
    if "refuse" in keys:
        category = keys["category"].word() if "category" in keys else "operation"
        values["answer"] = CSTAError(text=keys["refuse"].word(), category=category)
    if not set(values) - {"first", "times"}:
        raise BadRequest("expected what goes wrong: refuse, " + ", ".join(_FAULT_HINTS))
    return CommandFault(**values)


def _check_command(command: str) -> None:
    if command not in _COMMAND_NAMES:
        raise NotFound(f"no such command: expected one of {', '.join(sorted(_COMMAND_NAMES))}")


def _states_for(action: str) -> tuple[State, ...]:
    if action in TOWARDS_STATES:
        return TOWARDS_STATES[action]
    return OPERATIONS[action][0] if action in OPERATIONS else (State.CONNECTED, State.HOLD)


def _states(call: Call) -> str:
    parties = " and ".join(f"{party.number} is {party.state}" for party in call.live)
    return f"in this call {parties}"


def _numbers(parties: list[Party]) -> str:
    return ", ".join(party.number for party in parties)


def _shown_party(party: Party) -> dict[str, Any]:
    return {
        "number": party.number,
        "callId": party.call_id,
        "state": party.state,
        "recording": party.recording,
    }


def _shown_user(user: User) -> dict[str, Any]:
    return {
        "ext": user.ext,
        "login": user.login,
        "name": user.name,
        "status": user.presence,
        "note": user.note,
    }


def _shown_session(session: Session) -> dict[str, Any]:
    return {
        "type": session.type,
        "login": session.login,
        "monitors": sorted(set(session.monitors.values())),
    }


def _shown_fault(fault: CommandFault) -> dict[str, Any]:
    shown = {name: getattr(fault, name) for name in _FAULT_HINTS}
    if isinstance(fault.answer, CSTAError):
        shown |= {"refuse": fault.answer.text, "category": fault.answer.category}
    return shown


def _send(request: Request, data: dict[str, Any], status: int = 200) -> bytes:
    """Give the body of an answer, after setting status and headers."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _send_nothing(request: Request) -> None:
    request.setResponseCode(204)


def _note_end(failure: Failure, name: str) -> None:
    if not failure.check(CancelledError):
        log.failure("script {name} has failed", failure, name=name)


def _send_failure(request: Request, failure: Failure) -> bytes | None:
    error = failure.value
    status, text = 500, "a bug of the simulator; the log has it"
    match error:
        case CancelledError():
            status, text = 409, "the script was ended"
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            request.setHeader(b"allow", allowed.encode("ascii"))
            status, text = 405, f"expected {allowed}"
        case NotFound(description=NotFound.description):
            status, text = 404, f"no such path: expected one below {PATHS}"
        case HTTPException(code=int(code)):
            status, text = code, error.description or ""
        case ConfigError():
            status, text = 400, str(error)
        case CommandRefused():
            status, text = 409, f"the MX refuses: {error}"
        case NotThere():
            status, text = 409, str(error)
        case CannotListenError():
            status, text = 409, "the port of the MX is taken"
        case _:
            log.failure("a request to the control API failed by a bug", failure)
    return _send(request, {"code": status, "error": text}, status)
