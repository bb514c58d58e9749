"""`twistd mxflex`: the command line, and the only import of the global reactor."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from threading import Thread
from typing import Any, ClassVar, NoReturn, cast

import attrs
from twisted.application.service import IService
from twisted.internet import task
from twisted.internet._resolver import GAIResolver
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.python import usage
from twisted.python.threadpool import ThreadPool

from mxflex import config, logs
from mxflex.errors import ConfigError
from mxflex.reload import AT_ONCE, Part
from mxflex.schema import schema_text

DEFAULT_CONFIG = "mxflex.yaml"
# Names that are looked up at the same time: of the MX, the CA, and the receivers of webhooks.
MAX_LOOKUPS = 32


def _log_format(text: str) -> str:
    if text not in config.LOG_FORMATS:
        raise ValueError(f"expected one of {', '.join(config.LOG_FORMATS)}")
    return text


def _log_level(text: str) -> str:
    try:
        config.read_levels(text)
    except ValueError as error:
        raise ValueError(f"expected {error}") from error
    return text


_LEVEL_HELP = (
    f"The lowest level to log: {', '.join(config.LOG_LEVELS)}; for parts of MXFlex another one, as"
    " in info,mxflex.mx=debug. [default: log.level, info]"
)


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
            "Log lines as text or json. [default: log.format, text]",
            _log_format,
        ],
        [
            "log-level",
            None,
            None,
            _LEVEL_HELP,
            _log_level,
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
    log = _Log(options)
    try:
        daemon = (_demo if options["demo"] else _configured)(options, reactor, log)
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    lines = logs.line_format(log.format, log.masker, log.levels)
    _look_up_names_apart(reactor)
    cast("IReactorCore", reactor).callWhenRunning(_keep_what_is_loaded)
    reactor_of_threads = cast("IReactorFromThreads", reactor)
    return logs.install(daemon, options.parent, lines, reactor_of_threads, os.environ)


class _Log:
    """How to log: by the configuration, unless the command line says something else.

    Args:
        options: The options of the command line.

    Attributes:
        masker: Knows the secrets of the configuration, and those of the ones before.
        levels: Those of the configuration that was taken over last.
        format: That of the first one.
    """

    def __init__(self, options: Options) -> None:
        command: Any = options.parent or {}
        # `python -m twisted` has options of its own for both.
        self._level = options["log-level"] or getattr(command.get("logLevel"), "name", None)
        self._format = options["log-format"] or command.get("logFormat")
        self.masker = logs.Masker()
        self.levels = logs.Levels()
        self.format = "text"

    def settle(self, settings: config.Config) -> config.Config:
        """Give a configuration that was read as the command line has it, and hide its secrets."""
        self.masker.add(settings.secrets)
        chosen = config.LogSettings(
            level=self._level or settings.log.level, format=self._format or settings.log.format
        )
        return attrs.evolve(settings, log=chosen)

    def begin(self, settings: config.Config) -> None:
        """Log by the first configuration."""
        self.format = settings.log.format
        self.levels.use(settings.log.level)

    def part(self) -> Part:
        """Give what takes over another level."""
        return Part(AT_ONCE, ("log.level",), lambda new: partial(self.levels.use, new.log.level))


def _look_up_names_apart(reactor: Any) -> None:
    """Look up names in threads that do not keep the process from ending.

    Those of Twisted are waited for, and a server of names that is away takes half a minute.
    """
    pool = ThreadPool(0, MAX_LOOKUPS, "mxflex-names")
    pool.threadFactory = _LeftBehind
    # Not before: a daemon forks, and threads do not live through that.
    reactor.callWhenRunning(pool.start)
    reactor.installNameResolver(GAIResolver(reactor, lambda: pool))


class _LeftBehind(Thread):
    """A thread that ends with the process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, daemon=True, **kwargs)


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


def _demo(options: Options, reactor: Any, log: _Log) -> IService:
    from mxflex import demo  # noqa: PLC0415 - see _configured

    quiet = bool(options["quiet"])
    daemon, settings = demo.build(reactor, os.environ, quiet=quiet, control=options["control"])
    log.begin(log.settle(settings))
    return daemon


def _configured(options: Options, reactor: Any, log: _Log) -> IService:
    path = options["config"] or DEFAULT_CONFIG

    def read() -> config.Config:
        return log.settle(config.load_file(path, os.environ))

    settings = read()
    log.begin(settings)
    # The web framework takes a while to import, which --help and mistakes need not wait for.
    from mxflex import service  # noqa: PLC0415

    try:
        return service.build(settings, reactor, os.environ, read=read, parts=[log.part()])
    except ConfigError as error:
        # What is built does not know where its values stand.
        raise ConfigError(error.source or path, error.key, error.expected) from error
