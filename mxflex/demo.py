"""`twistd mxflex --demo`: the daemon and a simulated MX in one process, ready to try."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
from twisted.application.service import MultiService
from twisted.internet.interfaces import IReactorTime

from mxflex import service
from mxflex.config import Config, load
from mxflex.mx.link import ServerLink
from mxflex.mx.tls import ANY
from mxflex.process import InTurn
from mxflex.simulator.company import User
from mxflex.simulator.tap import SimulatorService, demo_service
from mxflex.wire.messages import CallEvent

# Where an installed MXFlex keeps its pages, for a demo in a folder without any.
INSTALLED_HTML = Path(sys.prefix, "share", "mxflex", "html")


def build(
    reactor: IReactorTime, environ: Mapping[str, str], *, quiet: bool = False, control: str = ""
) -> tuple[MultiService, Config]:
    """Make the daemon with its own MX, not yet started, and give its configuration.

    The environment may change what a configuration could (`MXFLEX_HOST=localhost:9000`).

    Args:
        reactor: Where it will run.
        environ: The environment.
        quiet: Whether nothing happens by itself at the MX.
        control: Where the MX serves its control API; "" for nowhere.

    Raises:
        ConfigError: An environment variable is wrong, or a port of the MX cannot be had.
    """
    simulator = demo_service(reactor, quiet=quiet, control=control)
    config = _config(simulator, environ)
    daemon = service.build(config, reactor, environ)
    link = daemon.getServiceNamed(ServerLink.name)
    link.listen(_Welcome(config, simulator, quiet=quiet))
    # The daemon takes its leave from an MX that lives.
    demo = InTurn(reactor, 2 * service.STOP_SECONDS)
    simulator.setServiceParent(demo)
    daemon.setServiceParent(demo)
    return demo, config


def _config(simulator: SimulatorService, environ: Mapping[str, str]) -> Config:
    account = simulator.scenario.account
    settings: dict[str, object] = {
        "mx": {
            "addr": f"{simulator.host}:{simulator.port}",
            "login": account.login,
            "password": account.password,
            "verify": ANY,
        },
        # Whose numbers are those of the company that is played.
        "numbers": {"country": "US"},
    }
    if not Path("html").is_dir() and INSTALLED_HTML.is_dir():
        settings["html"] = str(INSTALLED_HTML)
    return load(json.dumps(settings), "--demo", environ)


class _Welcome:
    """Says where to go and what to try, once (see `mxflex.mx.link.LinkListener`)."""

    def __init__(self, config: Config, simulator: SimulatorService, *, quiet: bool) -> None:
        # Every interface is no address that a browser can go to.
        everywhere = config.host.strip("0.:") == ""
        self._url = (attrs.evolve(config, host="localhost") if everywhere else config).url
        self._users = simulator.scenario.users
        self._quiet = quiet
        control = simulator.control
        self._control = "" if control is None else f"http://{control.host}:{control.port}"
        self._said = False

    def link_up(self) -> None:
        if not self._said:
            self._said = True
            # Not through the log, which masks what looks like a token, and has lines of its own.
            text = _welcome(self._url, self._users, self._control, quiet=self._quiet)
            print(text, file=sys.__stdout__, flush=True)

    def link_down(self) -> None:
        """Wait for the next time."""

    def call_event(self, ext: str, event: CallEvent) -> None:
        """Leave calls to the streams."""


def _welcome(url: str, users: tuple[User, ...], control: str, *, quiet: bool) -> str:
    user = users[0]
    telephones = "which is quiet until you call" if quiet else "whose telephones keep ringing"
    logins = "\n".join(
        f"    {each.login} / {each.password} ({each.name}, extension {each.ext})" for each in users
    )
    return f"""
MXFlex runs at {url} with a simulated MX, {telephones}.

Logins (name / password):
{logins}

Watch the calls of {user.name} (extension {user.ext}); paste this into another terminal:

    curl -N -H "Authorization: Bearer $(curl -s {url}/api/login \\
        -d login={user.login} -d password={user.password} | cut -d'"' -f8)" {url}/api/events

{_ring(control, user)}Ctrl-C ends it.
"""


def _ring(control: str, user: User) -> str:
    if not control:
        return ""
    call = f'{{"from": "+12025550104", "to": "{user.ext}"}}'
    return f"""Make that telephone ring:

    curl {control}/calls --json '{call}'

"""
