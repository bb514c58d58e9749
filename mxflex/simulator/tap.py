"""`twistd mxsim`: the simulator alone; and the simulator inside `twistd mxflex --demo`."""

from __future__ import annotations

import pathlib
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage

from mxflex.errors import ConfigError
from mxflex.simulator.company import ServerAccount, User
from mxflex.simulator.control import Control, ControlService, bind_control
from mxflex.simulator.demo import SCENARIO, SCENARIO_NAME
from mxflex.simulator.listening import MAX_PORT, BoundPort
from mxflex.simulator.playing import Playing
from mxflex.simulator.scenario import MAX_SCENARIO_BYTES, Scenario, load
from mxflex.simulator.server import LOOPBACK, SimulatedMX

log = Logger()

MX_PORT = 7778


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= MAX_PORT:
        raise ValueError(f"expected 0 to {MAX_PORT}")
    return number


class Options(usage.Options):
    """The options of `twistd mxsim`."""

    synopsis = "[--port PORT] [--scenario FILE] [--quiet | --play SCRIPT] [--control tcp:PORT]"
    longdesc = "Plays a Zultys MX telephone server, to develop and test against without one."
    optFlags: ClassVar[list[list[Any]]] = [
        ["quiet", None, "Let nothing happen by itself: no script, and no telephone is answered."],
        ["control-anywhere", None, "Let --control listen at an address that others reach."],
    ]
    optParameters: ClassVar[list[list[Any]]] = [
        ["port", "p", MX_PORT, "The TCP port; 0 for any free one.", _port],
        ["interface", "i", LOOPBACK, "The address to listen at."],
        ["scenario", "s", None, "Company, behaviour and calls, in YAML. [default: built in]"],
        ["control", None, "", "Serve HTTP to act for the telephones, at tcp:PORT of this machine."],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["play"] = []

    def opt_play(self, name: str) -> None:
        """Play this script over and over, and no other; may be given more than once."""
        self["play"].append(name)

    def postOptions(self) -> None:
        """Refuse what cannot be had together."""
        if self["quiet"] and self["play"]:
            raise usage.UsageError("--quiet lets no script play; leave out --play")
        if self["control-anywhere"] and not self["control"]:
            raise usage.UsageError("--control-anywhere is about --control, which is missing")


class SimulatorService(Service):
    """Runs a simulated MX and the scripts of its scenario.

    Its ports are bound at once, so that their numbers can be told and a mistake ends the start;
    nothing is accepted before the service starts.

    Args:
        reactor: Where it runs.
        scenario: Company, behaviour and scripts.
        interface: The address to listen at.
        port: The TCP port; 0 for any free one.
        control: Where to serve the control API, see `control.bind_control`; "" for nowhere.
        control_anywhere: Whether others may reach it there.

    Attributes:
        scenario: What it was made of.
        mx: The MX.
        host: The address.
        port: The TCP port.
        control: The control API; None without.

    Raises:
        ConfigError: An address or a port cannot be had.
    """

    def __init__(
        self,
        reactor: Any,
        scenario: Scenario,
        interface: str = LOOPBACK,
        port: int = 0,
        *,
        control: str = "",
        control_anywhere: bool = False,
    ) -> None:
        self.scenario = scenario
        self.mx = SimulatedMX(reactor, scenario.make_company(), scenario.make_behaviour())
        self._reactor = reactor
        self._playing = Playing(self.mx, scenario.scripts)
        self._bound = BoundPort(interface, port)
        self.host, self.port = self._bound.host, self._bound.port
        self.control: ControlService | None = None
        if control:
            try:
                place = bind_control(control, anywhere=control_anywhere)
            except ConfigError:
                self._bound.release()
                raise
            routes = Control(self.mx, scenario, self._playing)
            self.control = ControlService(reactor, routes, place, anywhere=control_anywhere)

    def startService(self) -> None:
        """Listen, and begin with the scripts."""
        Service.startService(self)
        self.mx.listening_at(self._bound.listen(self._reactor, self.mx.door))
        self._playing.start()
        if self.control is not None:
            self.control.startService()

    def stopService(self) -> Deferred[None]:
        """End the scripts, cut all connections and close the ports."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.control is not None:
            await self.control.stopService()
        self._playing.stop()
        self._bound.release()
        await self.mx.stop()


def makeService(options: Options) -> SimulatorService:
    """Build the simulator.

    Raises:
        SystemExit: The scenario has a mistake, or the port cannot be had; one line says which.
    """
    # Not above: --help needs no reactor.
    from twisted.internet import reactor  # noqa: PLC0415

    try:
        scenario = _read(options["scenario"])
        if options["quiet"]:
            scenario = scenario.quiet()
        elif options["play"]:
            scenario = scenario.playing(*options["play"])
        service = SimulatorService(
            reactor,
            scenario,
            options["interface"],
            options["port"],
            control=options["control"],
            control_anywhere=bool(options["control-anywhere"]),
        )
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


def demo_service(
    reactor: Any, port: int = 0, *, quiet: bool = False, control: str = ""
) -> SimulatorService:
    """Make the simulator for `twistd mxflex --demo`, with the built-in scenario.

    Its `host` and `port` are known at once, its server account and users stand in `scenario`; it
    listens at the loopback address, with TLS, from the start of the service on.

    Args:
        reactor: Where it runs.
        port: The TCP port; 0 for any free one.
        quiet: Whether nothing happens by itself.
        control: Where to serve the control API; "" for nowhere.

    Raises:
        ConfigError: A port cannot be had.
    """
    scenario = load(SCENARIO, SCENARIO_NAME)
    return SimulatorService(
        reactor, scenario.quiet() if quiet else scenario, port=port, control=control
    )
