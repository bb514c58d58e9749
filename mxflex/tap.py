"""`twistd mxflex`: the command line, and the only import of the global reactor."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, cast

from twisted.application.service import IService
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.python import usage

from mxflex import config, logs
from mxflex.errors import ConfigError
from mxflex.schema import schema_text

DEFAULT_CONFIG = "mxflex.yaml"


def _one_of(*words: str) -> Callable[[str], str]:
    def coerce(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return text

    return coerce


class Options(usage.Options):
    """The options of `twistd mxflex`."""

    synopsis = (
        "[--config FILE | --demo [--quiet] [--control tcp:PORT]]"
        " [--log-format text|json] [--log-level LEVEL]"
    )
    longdesc = (
        "Serves logins, call events, contacts and call control of a Zultys MX to web applications."
        " mxflex.yaml.sample shows what can be configured."
    )
    optFlags: ClassVar[list[list[Any]]] = [
        ["check-config", None, "Try what the configuration says, print what works, and end."],
        ["demo", None, "Play the MX as well, with a small company that calls; no file is needed."],
        ["quiet", None, "With --demo: let nothing happen there by itself."],
    ]
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", None, None, f"The configuration, YAML or JSON. [default: {DEFAULT_CONFIG}]"],
        [
            "control",
            None,
            "",
            "With --demo: serve HTTP to act for its telephones, at tcp:PORT of this machine.",
        ],
        [
            "log-format",
            None,
            None,
            "Log lines as text or json. [default: text]",
            _one_of(*logs.FORMATS),
        ],
        [
            "log-level",
            None,
            None,
            f"The lowest level to log: {', '.join(logs.LEVELS)}. [default: info]",
            _one_of(*logs.LEVELS),
        ],
    ]

    def opt_config_schema(self) -> NoReturn:
        """Print a JSON Schema of the configuration, for editors, and end."""
        sys.stdout.write(schema_text())
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Refuse a file that `--demo` would not read."""
        if self["demo"] and self["config"] is not None:
            raise usage.UsageError("--demo reads no configuration; leave out --config")
        if self["demo"] and self["check-config"]:
            raise usage.UsageError("--demo reads no configuration that could be checked")
        if not self["demo"] and (self["quiet"] or self["control"]):
            raise usage.UsageError("--quiet and --control are about --demo, which is missing")


def makeService(options: Options) -> IService:
    """Build the daemon.

    Raises:
        SystemExit: The configuration has a mistake; its text is the one line that says which.
    """
    # Not above: --help needs no reactor, and no other module may import the global one.
    from twisted.internet import reactor  # noqa: PLC0415

    if options["check-config"]:
        _check(options["config"] or DEFAULT_CONFIG, reactor)
    try:
        daemon, secrets = (_demo if options["demo"] else _configured)(options, reactor)
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    command: Any = options.parent or {}
    threshold = options["log-level"] or getattr(command.get("logLevel"), "name", "info")
    log_format = options["log-format"] or command.get("logFormat", "text")
    lines = logs.line_format(log_format, logs.Masker(secrets), threshold)
    cast("IReactorCore", reactor).callWhenRunning(_keep_what_is_loaded)
    return logs.install(daemon, options.parent, lines, cast("IReactorFromThreads", reactor))


def _keep_what_is_loaded() -> None:
    """Let the collector of reference cycles pass over what stays as long as the process.

    To look at all that has been imported takes it some 40 ms, now and then, in which no event goes
    out.
    """
    gc.collect()
    gc.freeze()


def _check(path: str, reactor: Any) -> NoReturn:
    """Try a configuration; ends the process with 0 when everything works, else with 1."""
    from mxflex import check  # noqa: PLC0415 - see _configured

    def work(_reactor: object) -> Deferred[None]:
        return Deferred.fromCoroutine(check.run(path, os.environ, reactor))

    task.react(work, _reactor=reactor)


def _demo(options: Options, reactor: Any) -> tuple[IService, list[str]]:
    from mxflex import demo  # noqa: PLC0415 - see _configured

    quiet = bool(options["quiet"])
    return demo.build(reactor, os.environ, quiet=quiet, control=options["control"]), []


def _configured(options: Options, reactor: Any) -> tuple[IService, list[str]]:
    path = options["config"] or DEFAULT_CONFIG
    settings = config.load_file(path, os.environ)
    secrets = [settings.mx.password, (settings.token.key or b"").decode()]
    # The web framework takes a while to import, which --help and mistakes need not wait for.
    from mxflex import service  # noqa: PLC0415

    try:
        return service.build(settings, reactor, os.environ), secrets
    except ConfigError as error:
        # What is built does not know where its values stand.
        raise ConfigError(error.source or path, error.key, error.expected) from error
