"""`twistd mxsim`: the simulator alone; and the simulator inside `twistd mxflex --demo`."""

from __future__ import annotations

import pathlib
import socket
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage

from mxflex.errors import ConfigError
from mxflex.simulator.company import ServerAccount, User
from mxflex.simulator.demo import SCENARIO, SCENARIO_NAME
from mxflex.simulator.scenario import MAX_SCENARIO_BYTES, Playing, Scenario, load
from mxflex.simulator.server import LOOPBACK, SimulatedMX

log = Logger()

MX_PORT = 7778
MAX_PORT = 65_535


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= MAX_PORT:
        raise ValueError(f"expected 0 to {MAX_PORT}")
    return number


class Options(usage.Options):
    """The options of `twistd mxsim`."""

    synopsis = "[--port PORT] [--interface ADDRESS] [--scenario FILE]"
    longdesc = "Plays a Zultys MX telephone server, to develop and test against without one."
    optParameters: ClassVar[list[list[Any]]] = [
        ["port", "p", MX_PORT, "The TCP port; 0 for any free one.", _port],
        ["interface", "i", LOOPBACK, "The address to listen at."],
        ["scenario", "s", None, "Company, behaviour and calls, in YAML. [default: built in]"],
    ]


class SimulatorService(Service):
    """Runs a simulated MX and the scripts of its scenario.

    The port is bound at once, so that its number can be told and a mistake ends the start; nothing
    is accepted before the service starts. A listening socket outlives the fork of a daemon, which
    the registration of a port with a reactor need not.

    Args:
        reactor: Where it runs.
        scenario: Company, behaviour and scripts.
        interface: The address to listen at.
        port: The TCP port; 0 for any free one.

    Attributes:
        scenario: What it was made of.
        mx: The MX.
        host: The address.
        port: The TCP port.

    Raises:
        ConfigError: The address or the port cannot be had.
    """

    def __init__(
        self, reactor: Any, scenario: Scenario, interface: str = LOOPBACK, port: int = 0
    ) -> None:
        self.scenario = scenario
        self.mx = SimulatedMX(reactor, scenario.make_company(), scenario.make_behaviour())
        self._reactor = reactor
        self._playing = Playing(self.mx, scenario.scripts)
        self._socket: socket.socket | None = _bind(interface, port)
        self.host, self.port = self._socket.getsockname()[:2]

    def startService(self) -> None:
        """Listen, and begin with the scripts."""
        Service.startService(self)
        if self._socket is not None:
            bound, self._socket = self._socket, None
            with bound:
                self.mx.listening_at(
                    self._reactor.adoptStreamPort(bound.fileno(), bound.family, self.mx.door)
                )
        else:
            self.mx.listen(self.port, self.host)
        self._playing.start()

    def stopService(self) -> Deferred[None]:
        """End the scripts, cut all connections and close the port."""
        Service.stopService(self)
        self._playing.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        return Deferred.fromCoroutine(self.mx.stop())


def _bind(interface: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            interface, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(128)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{interface}:{port}", "", f"cannot listen there: {reason}") from error
    return bound


def makeService(options: Options) -> SimulatorService:
    """Build the simulator.

    Raises:
        SystemExit: The scenario has a mistake, or the port cannot be had; one line says which.
    """
    # Not above: --help needs no reactor.
    from twisted.internet import reactor  # noqa: PLC0415

    try:
        scenario = _read(options["scenario"])
        service = SimulatorService(reactor, scenario, options["interface"], options["port"])
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    # The passwords of the built-in scenario are there to be known; those of a file are its owner's.
    told = options["scenario"] is None
    log.info("server account: {who}", who=_known(scenario.account, told))
    for user in scenario.users:
        who = f"{_known(user, told)}, {user.name}, extension {user.ext}"
        log.info("user: {who}", who=who)
    return service


def _known(account: User | ServerAccount, with_password: bool) -> str:
    return f"{account.login} / {account.password}" if with_password else account.login


def _read(name: str | None) -> Scenario:
    if name is None:
        return load(SCENARIO, SCENARIO_NAME)
    try:
        with pathlib.Path(name).open("rb") as file:
            data = file.read(MAX_SCENARIO_BYTES + 1)
        if len(data) > MAX_SCENARIO_BYTES:
            raise ConfigError(name, "", f"expected at most {MAX_SCENARIO_BYTES} bytes")
        return load(data.decode("utf-8"), name)
    except OSError as error:
        raise ConfigError(name, "", f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ConfigError(name, "", "expected text in UTF-8") from None


def demo_service(reactor: Any, port: int = 0) -> SimulatorService:
    """Make the simulator for `twistd mxflex --demo`, with the built-in scenario.

    Its `host` and `port` are known at once, its server account and users stand in `scenario`; it
    listens at the loopback address, with TLS, from the start of the service on.

    Raises:
        ConfigError: The port cannot be had.
    """
    return SimulatorService(reactor, load(SCENARIO, SCENARIO_NAME), port=port)
