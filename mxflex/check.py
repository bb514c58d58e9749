"""`twistd mxflex --check-config`: tries what a configuration says, and tells what works.

Nothing is changed, but for a login of the server account: an MX that lets it in only once refuses
it while MXFlex is running.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from socket import SOCK_STREAM, gaierror, getaddrinfo
from typing import Any

import attrs
import pem
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThreadPool

from mxflex.certs.acme import Account, AcmeClient
from mxflex.certs.files import read_files
from mxflex.certs.issuing import describe_time_left
from mxflex.certs.store import check_pair
from mxflex.config import Config, WebhookSettings, load_file, state_directory
from mxflex.errors import ConfigError, MXFlexError, MXUnavailable
from mxflex.mx.session import log_out, server_login
from mxflex.ports import SYSTEMD, main_endpoints, make_endpoint, plain_endpoints
from mxflex.service import make_acme_http, make_dialer, make_receiver


class _Note(Exception):
    """Something that works, and may not be meant."""


@attrs.frozen
class _Step:
    """One thing to try: what it is called, and what says how it went."""

    name: str
    try_it: Callable[[], Awaitable[str]]


async def run(path: str, environ: Mapping[str, str], reactor: Any) -> None:
    """Try a configuration and print one line for each thing.

    Raises:
        SystemExit: With 1 when something does not work.
    """
    try:
        config = load_file(path, environ)
    except ConfigError as error:
        _say("FAIL", "configuration", str(error))
        raise SystemExit(1) from error
    _say("ok", "configuration", path)
    sound = True
    for step in _steps(config, state_directory(environ), reactor):
        try:
            _say("ok", step.name, await step.try_it())
        except _Note as note:
            _say("note", step.name, str(note))
        except (MXFlexError, OSError, ValueError) as error:
            sound = False
            _say("FAIL", step.name, str(error))
    if not sound:
        raise SystemExit(1)


def _say(verdict: str, name: str, detail: str) -> None:
    sys.stdout.write(f"{verdict:<5}{name}: {detail}\n")
    sys.stdout.flush()


def _steps(config: Config, state: str, reactor: Any) -> list[_Step]:
    steps = [
        _Step("static files", partial(_try_html, config)),
        _Step("MX", partial(_try_mx, config, reactor)),
    ]
    ports = {
        "listen": main_endpoints(config),
        "listen_http": plain_endpoints(config),
        "monitor.listen": config.monitor.listen,
    }
    if config.token.key is not None:
        steps.append(_Step(f"logouts {config.token.storage}", partial(_try_logouts, config, state)))
    if config.webhooks:
        steps.append(_Step(f"queue {config.delivery.storage}", partial(_try_queue, config, state)))
    steps += [
        _Step(f"webhook {each.name}", partial(_try_webhook, each, reactor))
        for each in config.webhooks
    ]
    steps += [
        _Step(f"port {each}", partial(_try_port, each, key, reactor))
        for key, endpoints in ports.items()
        for each in endpoints
    ]
    if config.https:
        steps.append(_Step(f"name {config.host}", partial(_try_name, config, reactor)))
    if config.tls.certificate:
        steps.append(_Step("certificate", partial(_try_own_certificate, config, reactor)))
    elif config.https:
        steps += [
            _Step(f"folder {config.acme.storage}", partial(_try_storage, config, state)),
            _Step("certificate", partial(_try_stored_certificate, config, reactor)),
            _Step("ACME server", partial(_try_acme, config, reactor)),
        ]
    return steps


async def _try_html(config: Config) -> str:
    if not Path(config.html, "index.html").is_file():
        raise _Note(f"there is no index.html in {config.html}")
    return config.html


async def _try_mx(config: Config, reactor: Any) -> str:
    dialer = make_dialer(config.mx, reactor)
    try:
        protocol, answer = await dialer.log_in(server_login(config.mx.login, config.mx.password))
    except MXUnavailable as error:
        # Here, where no web client reads it, the reason may name addresses.
        reason = f" ({error.__cause__})" if error.__cause__ else ""
        raise ValueError(f"{error}{reason}") from None
    log_out(protocol)
    await protocol.when_lost()
    return f"login of {config.mx.login} accepted, serial number {answer.serial}"


async def _try_port(description: str, key: str, reactor: Any) -> str:
    if description.startswith(SYSTEMD):
        raise _Note("systemd opens it; it cannot be tried from here")
    endpoint = make_endpoint(reactor, description, key)
    try:
        port = await endpoint.listen(Factory())
    except CannotListenError as error:
        raise ValueError(str(error)) from error
    await maybeDeferred(port.stopListening)
    return "free"


async def _try_name(config: Config, reactor: Any) -> str:
    pool = reactor.getThreadPool()
    try:
        found = await deferToThreadPool(
            reactor, pool, getaddrinfo, config.host, None, type=SOCK_STREAM
        )
    except gaierror as error:
        raise ValueError("does not resolve to an address") from error
    return "resolves to " + ", ".join(sorted({str(address[0]) for *_, address in found}))


async def _try_own_certificate(config: Config, reactor: Any) -> str:
    objects = read_files(Path(config.tls.certificate), Path(config.tls.key))
    return _still_good(check_pair(objects), reactor)


async def _try_storage(config: Config, state: str) -> str:
    # Only looked at: made by whoever checks, it might be closed to whoever runs the daemon.
    folder = Path(config.acme.storage)
    if folder.exists():
        _look_at_folder(folder, state)
        return "can be written to"
    _look_at_folder(folder.absolute().parent, state)
    return "does not exist yet, and can be made"


async def _try_webhook(hook: WebhookSettings, reactor: Any) -> str:
    # Nothing is sent: whoever is there would take it for an event.
    make_receiver(hook, reactor)
    return f"posts to {hook.site}"


async def _try_queue(config: Config, state: str) -> str:
    return _look_at_file(Path(config.delivery.storage), state)


async def _try_logouts(config: Config, state: str) -> str:
    return _look_at_file(Path(config.token.storage), state)


def _look_at_file(file: Path, state: str) -> str:
    # As above: only looked at. The folder also if the file is there: it gets others beside it.
    _look_at_folder(file.absolute().parent, state)
    if not file.exists():
        return "does not exist yet, and can be made"
    if not os.access(file, os.R_OK | os.W_OK):
        raise ValueError(f"{file} cannot be written to")
    return "can be written to"


def _look_at_folder(folder: Path, state: str) -> None:
    if state and not folder.exists() and folder == Path(state).absolute():
        raise _Note(f"there is no folder {folder} yet; systemd makes it when the service starts")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} cannot be written to")


async def _try_stored_certificate(config: Config, reactor: Any) -> str:
    path = Path(config.acme.storage, f"{config.host}.pem")
    if not path.exists():
        return "none yet; the first start will ask for one"
    return _still_good(check_pair(pem.parse(path.read_bytes())), reactor)


def _still_good(certificate: x509.Certificate, reactor: Any) -> str:
    left = describe_time_left(certificate, reactor.seconds())
    if certificate.not_valid_after_utc.timestamp() <= reactor.seconds():
        raise ValueError(left)
    return left


async def _try_acme(config: Config, reactor: Any) -> str:
    # Reading the directory needs no account, so a key for nothing will do.
    account = Account(key=ec.generate_private_key(ec.SECP256R1()))
    http = make_acme_http(config.acme, reactor)
    await AcmeClient(http, reactor, config.acme.directory, account).read_directory()
    return config.acme.directory
