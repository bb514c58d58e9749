"""Program and access log: one line an event, secrets masked, as text or as JSON.

Everything else logs through `twisted.logger` and knows nothing of this room. Here, and nowhere
else, it is decided how an event becomes a line, what of it may not be seen, and how the lines
take the place of those that `twistd` and `python -m twisted` would write.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import IO, Any, Final, cast
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

from twisted.application.service import IService, IServiceCollection, MultiService
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    formatEvent,
)
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from zope.interface import implementer

from mxflex.config import LOG_LEVELS, read_levels
from mxflex.requestid import CURRENT

# A line longer than this is a dump, not a message; journald splits lines at 48 KiB.
MAX_MESSAGE_CHARACTERS: Final = 16_384

# An exact secret shorter than this would turn the log into asterisks.
MIN_SECRET_CHARACTERS: Final = 4

MASK: Final = "***"

# What follows a name and its `=` or `:`. Quotes may be escaped (JSON in JSON), and the value may be
# the first of a list of bytes, as Twisted prints headers and form fields. Masking too much is
# harmless. Every piece is possessive: a hostile line costs no more than its length.
_VALUE: Final = (
    r"""(?:\[?b?(?:\\++"[^"]*+"?|\\++'[^']*+'?|"(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.)*+'?)"""
    r"""|[^\s&"']++)"""
)
_EQUALS: Final = r"""\\*+["']?\s*+=\s*+"""
_COLON: Final = r"""\\*+["']\s*+:\s*+"""


def _dotted(match: re.Match[str]) -> str:
    """Mask what looks like a JWT in a run of words joined by dots.

    The header of a JWT is a JSON object, so its base64url begins with `eyJ` (RFC 7519, 3.1).
    """
    run = match[0]
    start = run.find("eyJ")
    return run if start < 0 or run.count(".", start) < 1 else run[:start] + MASK


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_Rule = tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]

# (what must be there in lower case, pattern, replacement). Looking for a substring costs a fraction
# of a search by pattern, and almost no line holds one of these.
_RULES: Final[tuple[_Rule, ...]] = (
    (
        "authorization",
        _pattern(rf"(authorization\\*+[\"']?\s*+[=:]\s*+)(?:[\w-]++\s++[^\s\"',;]++|{_VALUE})"),
        rf"\1{MASK}",
    ),
    ("bearer", _pattern(r"(\bbearer(?:\s|%20|\+)++)[^\s\"',;&]++"), rf"\1{MASK}"),
    (
        "token",
        _pattern(rf"(access(?:_|%5f)token(?:{_EQUALS}|{_COLON}|%3d)){_VALUE}"),
        rf"\1{MASK}",
    ),
    ("ticket", _pattern(rf"(ticket(?:{_EQUALS}|{_COLON}|%3d)){_VALUE}"), rf"\1{MASK}"),
    ("eyj", re.compile(r"(?<![\w.-])[\w-]++(?:\.[\w-]*+)++"), _dotted),
    ("pass", _pattern(rf"(pass(?:word|wd|phrase)?(?:{_EQUALS}|{_COLON})){_VALUE}"), rf"\1{MASK}"),
    ("pwd", _pattern(rf"(pwd(?:{_EQUALS}|{_COLON})){_VALUE}"), rf"\1{MASK}"),
    (
        "pwd",
        _pattern(
            r"((?:<|&lt;)pwd\b[^<>&]*+(?:>|&gt;))(?:<!\[CDATA\[)?[^<&]*+(?:&(?!lt;)[^<&]*+)*+"
        ),
        rf"\1{MASK}",
    ),
)

# Fields of an event that are secrets whatever their value.
_SECRET_FIELDS: Final = frozenset(
    {
        "access_token",
        "authorization",
        "password",
        "pwd",
        "secret",
        "softphonepwd",
        "ticket",
        "token",
    }
)


class Masker:
    """Takes secrets out of text.

    Masked are tokens (`access_token=`, `Authorization`, `Bearer`, whatever looks like a JWT),
    tickets (`ticket=`), passwords by their names, and the secrets given, also as they look inside
    XML, JSON, a URL, or hashed for the MX. A secret of fewer than `MIN_SECRET_CHARACTERS` is not
    looked for.

    Args:
        secrets: The exact secrets, such as the password of the MX.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._exact: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Take out these secrets, too; those from before may still turn up."""
        spellings = {
            spelling
            for secret in secrets
            if len(secret) >= MIN_SECRET_CHARACTERS
            for spelling in _spellings(secret)
        }
        # The longest first: of two secrets one may be the beginning of the other.
        self._exact = sorted(
            spellings.union(self._exact), key=lambda spelling: (-len(spelling), spelling)
        )

    def mask(self, text: str) -> str:
        """Give the text with every secret replaced by three asterisks."""
        for secret in self._exact:
            if secret in text:
                text = text.replace(secret, MASK)
        lower = text.lower()
        for hint, pattern, replacement in _RULES:
            if hint in lower:
                text = pattern.sub(replacement, text)
        return text


def _spellings(secret: str) -> set[str]:
    """Give the forms in which a secret may stand in a line."""
    # The MX protocol sends this hash in place of the password, so it opens the same door.
    digest = hashlib.sha1(secret.encode("utf-8", "replace"), usedforsecurity=False).digest()
    return {
        secret,
        escape(secret),
        escape(secret, {'"': "&quot;", "'": "&apos;"}),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        base64.b64encode(digest).decode("ascii"),
    }


mask = Masker().mask


# Everything that could end a line, move the cursor, or turn the direction of writing.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT.get(character) or f"\\u{ord(character):04x}"


def one_line(text: str) -> str:
    r"""Write control characters as `\n` or `\u001b`, so that a field cannot begin a line."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


class _Clock:
    """RFC 3339 in UTC with milliseconds; the part before the point is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def stamp(self, when: float) -> str:
        milliseconds = int(when * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{milliseconds % 1000:03d}Z"


# What Twisted says that no operator has asked for.
_NOISE: Final = frozenset(
    {
        "Starting factory {factory!r}",
        "Stopping factory {factory!r}",
        "Unable to write to plugin cache %(path)s: error number %(errno)d",
    }
)
_RANK: Final = {name: rank for rank, name in enumerate(LOG_LEVELS)}


def _level(event: LogEvent) -> str:
    # `format` is how twisted.python.log spelled it.
    if event.get("log_format") in _NOISE or event.get("format") in _NOISE:
        return "debug"
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _namespace(event: LogEvent) -> str:
    namespace = str(event.get("log_namespace", "-"))
    # What twisted.python.log puts there tells nobody anything.
    return "twisted" if namespace == "log_legacy" else namespace


def _message(event: LogEvent) -> str:
    """Format the message of an event, without its traceback.

    Twisted's `formatEvent` understands calls in the format (`{peer()}`) and survives values that
    fail to print, at several times the cost of the plain way that nearly every event can go.
    """
    template = event.get("log_format")
    if type(template) is str and "(" not in template:
        try:
            return template.format_map(event)
        except Exception:  # noqa: S110 - formatEvent tells what went wrong
            pass
    return formatEvent(event)


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    if failure is None:
        return ""
    try:
        return str(failure.getTraceback()).rstrip("\n")
    except Exception as error:
        return f"(no traceback: {type(error).__name__})"


def _bounded(text: str) -> str:
    """Keep both ends of a text that is too long; the last line of a traceback says what it is."""
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    half = MAX_MESSAGE_CHARACTERS // 2
    return f"{text[:half]} … ({len(text) - 2 * half} characters left out) … {text[-half:]}"


class Levels:
    """Which events become lines.

    Args:
        text: The lowest levels; see `mxflex.config.read_levels`.
    """

    def __init__(self, text: str = "info") -> None:
        self.use(text)

    def use(self, text: str) -> None:
        """Take other levels from now on."""
        self._lowest = {namespace: _RANK[level] for namespace, level in read_levels(text).items()}
        # Namespaces are those of modules, so there are only so many.
        self._known: dict[str, int] = {}

    def show(self, namespace: str, level: str) -> bool:
        """Tell whether an event becomes a line."""
        lowest = self._known.get(namespace)
        if lowest is None:
            lowest = self._known[namespace] = self._find(namespace)
        return _RANK[level] >= lowest

    def _find(self, namespace: str) -> int:
        while namespace not in self._lowest:
            namespace = namespace.rpartition(".")[0]
        return self._lowest[namespace]


FormatLine = Callable[[LogEvent], str | None]


def _request_id(event: LogEvent) -> str:
    """Give the name of the request that an event is about, or in whose course it came."""
    return str(event.get("request_id") or CURRENT.get())


def text_format(masker: Masker, levels: Levels | None = None) -> FormatLine:
    """Make the formatter of lines such as `2026-11-23T16:00:00.123Z info  mxflex.mx.link  ready`.

    In the course of a request its name stands at the end, in brackets.

    Args:
        masker: Takes the secrets out.
        levels: Say what becomes a line; those from `info` on by default.
    """
    stamp = _Clock().stamp
    show = (levels or Levels()).show

    def format_line(event: LogEvent) -> str | None:
        level, namespace = _level(event), _namespace(event)
        if not show(namespace, level):
            return None
        message, traceback = _message(event), _traceback(event)
        if traceback:
            message = f"{message}\n{traceback}" if message else traceback
        if not message:
            return None
        text = one_line(_bounded(masker.mask(message)))
        request_id = _request_id(event)
        name = f" [{one_line(request_id)}]" if request_id else ""
        return f"{stamp(event['log_time'])} {level:<5} {namespace}  {text}{name}\n"

    return format_line


# Of the older logging: they repeat what the line has anyway.
_LEGACY_FIELDS: Final = frozenset(
    {"format", "isError", "failure", "why", "system", "logLevel", "message", "time"}
)
_LINE_FIELDS: Final = frozenset(
    {"time", "level", "namespace", "message", "request_id", "traceback"}
)


def _fields(event: LogEvent, masker: Masker) -> Iterator[tuple[str, object]]:
    for name, value in event.items():
        if name.startswith("log_") or name in _LINE_FIELDS or name in _LEGACY_FIELDS:
            continue
        if name.lower() in _SECRET_FIELDS:
            yield name, MASK
        elif isinstance(value, str):
            yield name, _bounded(masker.mask(value))
        elif isinstance(value, float) and not math.isfinite(value):
            yield name, str(value)  # JSON has no word for it
        elif value is None or isinstance(value, int | float):
            yield name, value


def json_format(masker: Masker, levels: Levels | None = None) -> FormatLine:
    """Make the formatter of JSON lines.

    Each has `time`, `level`, `namespace`, `message`, in the course of a request `request_id`, then
    the event's fields that are text, numbers, booleans or None, then `traceback` if there is one.

    Args:
        masker: Takes the secrets out, of each text by itself, so that the line stays JSON.
        levels: Say what becomes a line; those from `info` on by default.
    """
    stamp = _Clock().stamp
    show = (levels or Levels()).show

    def format_line(event: LogEvent) -> str | None:
        level, namespace = _level(event), _namespace(event)
        if not show(namespace, level):
            return None
        message, traceback = _message(event), _traceback(event)
        if not message and not traceback:
            return None
        line: dict[str, object] = {
            "time": stamp(event["log_time"]),
            "level": level,
            "namespace": namespace,
            "message": _bounded(masker.mask(message)),
        }
        request_id = _request_id(event)
        if request_id:
            line["request_id"] = request_id
        line.update(_fields(event, masker))
        if traceback:
            line["traceback"] = _bounded(masker.mask(traceback))
        # JSON itself escapes what is below the space; the rest is for the reader's terminal.
        return one_line(json.dumps(line, ensure_ascii=False)) + "\n"

    return format_line


def line_format(name: str, masker: Masker, levels: Levels | None = None) -> FormatLine:
    """Give the formatter by its name, `text` or `json`."""
    return {"text": text_format, "json": json_format}[name](masker, levels)


def install(
    service: IService,
    command: MutableMapping[str, Any] | None,
    format_line: FormatLine,
    reactor: IReactorFromThreads,
    environ: Mapping[str, str] | None = None,
) -> IService:
    """Let the program that runs a service log in our lines, and nobody log a line twice.

    - `twistd` asks its application for an `ILogObserver`; the service returned brings one along.
      It writes where twistd would: standard output, `--logfile` (rotated), or syslog. An observer
      named with `--logger` is the operator's own choice, and is left alone: it sees raw events.
    - `python -m twisted` takes the factory of its observer from its options; ours goes there.

    What goes to systemd's journal begins with the priority of its level (sd-daemon(3)), which the
    journal takes off again.

    Args:
        service: The service to run.
        command: The options of the command that runs it (`options.parent`), or None.
        format_line: Makes the lines.
        reactor: Rotates the log file in its own thread.
        environ: The environment, where systemd says which file is the journal.

    Returns:
        The service to give to the command.
    """

    def observe(file: IO[Any]) -> FileLogObserver:
        journal = (environ or {}).get("JOURNAL_STREAM", "")
        return FileLogObserver(file, _prioritized(format_line, file, journal))

    if command is None:
        return service
    if "fileLogObserverFactory" in command:
        command["fileLogObserverFactory"] = observe
        return service
    if command.get("logger"):
        return service
    observer: ILogObserver
    if command.get("syslog"):
        observer = _SyslogObserver(str(command.get("prefix", "")), format_line)
    else:
        observer = observe(_open_log(command, reactor))
    logged = _LoggedServices(observer)
    service.setServiceParent(logged)
    return logged


# RFC 5424, 6.2.1.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}


def _prioritized(format_line: FormatLine, file: IO[Any], journal: str) -> FormatLine:
    """Give the formatter for a file: with priorities if that is systemd's journal.

    Args:
        format_line: Makes the lines.
        file: Where they go.
        journal: Device and inode of the journal, as systemd.exec(5) has them in `$JOURNAL_STREAM`.
    """
    try:
        status = os.fstat(file.fileno())
    except (OSError, AttributeError):
        return format_line
    if journal != f"{status.st_dev}:{status.st_ino}":
        return format_line

    def prioritize(event: LogEvent) -> str | None:
        line = format_line(event)
        return line and f"<{_PRIORITIES[_level(event)]}>{line}"

    return prioritize


class _LoggedServices(MultiService):
    """Services that bring the log observer of their application along."""

    def __init__(self, observer: ILogObserver) -> None:
        MultiService.__init__(self)
        self._observer = observer

    def setServiceParent(self, parent: IServiceCollection) -> None:
        MultiService.setServiceParent(self, parent)
        application: object = parent
        if isinstance(application, Componentized):
            application.setComponent(ILogObserver, self._observer)


@implementer(ILogObserver)
class _SyslogObserver:
    """Sends lines to syslog, with the priority of their level."""

    def __init__(self, prefix: str, format_line: FormatLine) -> None:
        import syslog  # noqa: PLC0415 - absent on some systems, and seldom needed

        self._format_line = format_line
        self._send = syslog.syslog
        syslog.openlog(prefix, syslog.LOG_PID)

    def __call__(self, event: LogEvent) -> None:
        line = self._format_line(event)
        if line:
            self._send(_PRIORITIES[_level(event)], line.rstrip("\n"))


def _open_log(command: Mapping[str, Any], reactor: IReactorFromThreads) -> IO[Any]:
    """Open what twistd would log to: its `--logfile`, `twistd.log`, or standard output.

    As with twistd, the file is rotated at 1 MB and by SIGUSR1.
    """
    name = command.get("logfile") or ""
    foreground = command.get("nodaemon") or command.get("debug")
    if name == "-" and not foreground:
        raise SystemExit("a daemon cannot log to standard output; name a file with --logfile")
    if name == "-" or (foreground and not name):
        return _standard_output()
    file = LogFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return cast("IO[Any]", file)


def _standard_output() -> IO[str]:
    """Give standard output, made to survive any character whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout
