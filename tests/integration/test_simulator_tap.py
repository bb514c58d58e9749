"""`twistd mxsim` and the simulator of the demo, as services."""

from __future__ import annotations

import socket

import pytest
import pytest_twisted
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher
from twisted.python.usage import UsageError

from mxflex.errors import ConfigError
from mxflex.simulator.scenario import MAX_SCENARIO_BYTES
from mxflex.simulator.tap import Options, demo_service, makeService
from mxflex.wire.connection import ClientConnection, EventReceived
from mxflex.wire.messages import CallEvent, LoginRequest, MonitorStart, UnknownEvent

PATIENCE = 10.0


def options(*arguments):
    parsed = Options()
    parsed.parseOptions(["--port", "0", *arguments])
    return parsed


def test_the_defaults():
    """Port 7778 at the loopback address, with the built-in scenario."""
    parsed = Options()
    parsed.parseOptions([])
    assert (parsed["port"], parsed["interface"], parsed["scenario"]) == (7778, "127.0.0.1", None)


@pytest.mark.parametrize("port", ["x", "-1", "65536", "٣", ""])
def test_a_wrong_port_is_refused(port):
    """Only 0 to 65535 in plain digits."""
    with pytest.raises(UsageError):
        Options().parseOptions(["--port", port])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ": cannot be read: No such file or directory"),
        (b"\xff\xfe", ": expected text in UTF-8"),
        (b"a: [", ": line 1: not YAML"),
        (b"{}", ": company: is missing"),
        (b"#" * (MAX_SCENARIO_BYTES + 1), ": expected at most 1048576 bytes"),
    ],
)
def test_a_mistake_in_the_scenario_is_one_line(tmp_path, content, expected):
    """The start ends with file and reason, without a traceback."""
    name = tmp_path / "scenario.yaml"
    if content is not None:
        name.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        makeService(options("--scenario", str(name)))
    assert str(caught.value).startswith(f"{name}{expected}")
    assert "\n" not in str(caught.value)


def test_a_taken_port_is_one_line():
    """So does a port that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            makeService(options("--port", str(port)))
    assert str(caught.value).startswith(f"127.0.0.1:{port}: cannot listen there: ")


def test_an_address_must_be_one():
    """Names are not looked up."""
    with pytest.raises(SystemExit, match="cannot listen there"):
        makeService(options("--interface", "no.such.address"))


def told_by(operation):
    """Give the lines that an operation logs."""
    lines = []

    def observe(event):
        lines.append(event["log_format"].format_map(event))

    globalLogPublisher.addObserver(observe)
    try:
        service = operation()
    finally:
        globalLogPublisher.removeObserver(observe)
    return lines, service


@pytest_twisted.ensureDeferred
async def test_whose_passwords_are_told(tmp_path):
    """Those of the built-in scenario; never those of a file."""
    lines, service = told_by(lambda: makeService(options()))
    await service.stopService()
    assert any("alexey / demo" in line for line in lines)
    name = tmp_path / "scenario.yaml"
    name.write_text(
        "company: {server: {login: boss, password: tiger123}}\n"
        'users: [{ext: "3095", login: anna, password: tiger456}]\n'
    )
    lines, service = told_by(lambda: makeService(options("--scenario", str(name))))
    await service.stopService()
    assert any("anna" in line for line in lines)
    assert not any("tiger" in line for line in lines)


class Listener(Protocol):
    """Logs in as the server, monitors one extension, and waits for events of calls."""

    def __init__(self, service, ext, enough):
        self.wire = ClientConnection()
        self.service = service
        self.ext = ext
        self.enough = enough
        self.events = []
        self.done = Deferred()
        self.gone = Deferred()

    def connectionMade(self):
        account = self.service.scenario.account
        login = LoginRequest(type="Server", user_name=account.login, password=account.password)
        for command in (login, MonitorStart(device=self.ext)):
            self.transport.write(self.wire.request(command)[1])

    def dataReceived(self, data):
        self.wire.receive_data(data)
        while (happened := self.wire.next_event()) is not None:
            if isinstance(happened, EventReceived):
                self.events.append(happened.event)
        if len(self.events) >= self.enough and not self.done.called:
            self.done.callback(None)

    def connectionLost(self, reason):
        self.gone.callback(None)


@pytest_twisted.ensureDeferred
async def test_the_demo_calls_by_itself():
    """Address and account are known before the start; soon calls come; at the stop all ends."""
    before = set(reactor.getDelayedCalls())
    service = demo_service(reactor)
    assert service.host == "127.0.0.1"
    service.startService()
    try:
        endpoint = wrapClientTLS(
            ssl.CertificateOptions(verify=False),
            TCP4ClientEndpoint(reactor, service.host, service.port),
        )
        factory = Factory()
        listener = Listener(service, "3098", enough=2)
        factory.buildProtocol = lambda _address: listener
        await endpoint.connect(factory)
        await listener.done.addTimeout(PATIENCE, reactor)
        assert all(isinstance(each, CallEvent | UnknownEvent) for each in listener.events)
    finally:
        await service.stopService()
    await listener.gone
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((service.host, service.port), timeout=PATIENCE)
    assert set(reactor.getDelayedCalls()) <= before


@pytest_twisted.ensureDeferred
async def test_two_demos_side_by_side():
    """Each has a port of its own; a port that is taken is a ConfigError."""
    first, second = demo_service(reactor), demo_service(reactor)
    assert first.port != second.port
    with pytest.raises(ConfigError):
        demo_service(reactor, first.port)
    for service in (first, second):
        service.startService()
        await service.stopService()
