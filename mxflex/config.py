"""YAML or JSON text to frozen, checked values.

`load` is pure: the text, the environment and the way to read further files are arguments. Every
mistake is a `ConfigError`: one line with the file (or the environment variable), the key, and what
is expected there. No error repeats a value, because any value may be a secret in the wrong place.

This room imports `mxflex.errors` alone. Which keys exist, and of what form their values are, is
said once, in `_KINDS`; what they default to is said by the classes. `mxflex.schema` makes a JSON
Schema of both.

Source: HTTP contract, section 5.
"""

from __future__ import annotations

import base64
import difflib
import json
import posixpath
import re
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

import attrs
import phonenumbers
import yaml

from mxflex.errors import ConfigError

DEFAULT_HOST: Final = "localhost:8080"
MX_PORT: Final = 7778
HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"

# A configuration has a few dozen short lines; whatever is larger is some other file.
MAX_FILE_BYTES: Final = 1 << 20
# Two levels are enough for every key; the limit keeps brackets from exhausting the stack.
MAX_DEPTH: Final = 16
# RFC 7518, 3.2: a key for HS256 has at least the 256 bits of the hash.
MIN_TOKEN_KEY_BYTES: Final = 32
# A year: no token lasts longer than that since its login, however often it is renewed.
MAX_TOKEN_SECONDS: Final = 31_536_000
# Standard Webhooks 1.0.0, "Signature scheme": a secret has 24 to 64 bytes.
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
WHSEC: Final = "whsec_"
# Each looks at each event, and has connections of its own.
MAX_WEBHOOKS: Final = 32

# What a webhook may be about, as `mxflex.gateway.hub.Topic` has them, and the events by name.
TOPICS: Final = ("calls", "contacts", "status")
EVENTS: Final = (
    "ConnectionClearedEvent",
    "ContactEvent",
    "DeliveredEvent",
    "DivertedEvent",
    "EstablishedEvent",
    "FailedEvent",
    "HeldEvent",
    "NetworkReachedEvent",
    "OriginatedEvent",
    "ParkedEvent",
    "RecordingStateEvent",
    "RetrievedEvent",
    "ServiceInitiatedEvent",
    "TransferredEvent",
)
TLS_VERSIONS: Final = ("1.0", "1.1", "1.2", "1.3")
LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "critical")

_PREFIX: Final = "MXFLEX_"


@attrs.frozen(kw_only=True)
class MXSettings:
    """How to reach the MX and whom to be there.

    Attributes:
        host: Name or address of the MX.
        port: TCP port of its TLS service.
        login: The account of the server connection.
        password: The password of that account.
        verify: `none`, `system` (CA and host name), or the path of a CA file (CA and host name).
        verify_chosen: Whether the configuration names `mx.verify`: a `none` that was meant and one
            that nobody thought about are told apart when a password would go out in clear.
        fingerprint: SHA-256 of the only certificate to accept, 64 lower-case hex digits, or "".
        timeout: Seconds to wait for an answer.
        keepalive: Seconds of silence on our side before a keep-alive frame is sent.
        tls_minimum: The oldest TLS version to speak: `1.0`, `1.1`, `1.2` or `1.3`.
        tls_security_level: OpenSSL's security level, 0 to 5, or None for its default.
        clear_password: Whether a password that the MX refuses as a hash may be tried in clear.
    """

    host: str
    port: int = MX_PORT
    login: str
    password: str = attrs.field(repr=False)
    verify: str = "none"
    verify_chosen: bool = False
    fingerprint: str = ""
    timeout: float = 7.0
    keepalive: float = 30.0
    tls_minimum: str = "1.2"
    tls_security_level: int | None = None
    clear_password: bool = True


@attrs.frozen(kw_only=True)
class TokenSettings:
    """How tokens are made.

    Attributes:
        lifetime: Seconds that a token is valid.
        key: The signing key that servers share, and restarts; None for a random one at each start.
        storage: The file that remembers logouts over restarts; there is none without `key`.
        max_age: Seconds since the login that renewed tokens may last. 0: none are renewed.
        in_url: Whether a token may stand in the URL of a request.
    """

    lifetime: int = 3600
    key: bytes | None = attrs.field(default=None, repr=False)
    storage: str = "logouts.json"
    max_age: int = 43_200
    in_url: bool = True


@attrs.frozen(kw_only=True)
class EventSettings:
    """How events are kept and sent.

    Attributes:
        heartbeat: Seconds between comments on a quiet stream.
        history: Events kept for each extension and each other topic.
        max_unsent: Bytes that a slow reader may owe before it is cut off.
        max_per_token: Streams that may be open with one token, and those renewed from it.
        max_per_address: Streams that may be open from one address; in IPv6 from a /64.
        max_streams: Streams that may be open in all.
    """

    heartbeat: float = 15.0
    history: int = 256
    max_unsent: int = 262_144
    max_per_token: int = 100
    max_per_address: int = 2000
    max_streams: int = 20_000


@attrs.frozen(kw_only=True)
class CallSettings:
    """Who may act on which call.

    Attributes:
        restrict: Whether a token gives a right only to calls of its own extension.
    """

    restrict: bool = True


@attrs.frozen(kw_only=True)
class NumberSettings:
    """How telephone numbers are compared.

    Attributes:
        country: Where numbers without + are from, two capital letters of ISO 3166, or "".
    """

    country: str = ""


@attrs.frozen(kw_only=True)
class LoginSettings:
    """The limits of logging in.

    Attributes:
        max_failures: Failed logins for one name or one address within the window.
        window: Length of that window in seconds.
        parallel: Logins that may be asked of the MX side by side.
        queue: Logins that may wait behind those.
        refusal_step: Seconds; a refused login is answered at the next multiple of them. 0: at once.
    """

    max_failures: int = 10
    window: float = 300.0
    parallel: int = 32
    queue: int = 128
    refusal_step: float = 0.25


@attrs.frozen(kw_only=True)
class AcmeSettings:
    """How a certificate is got from an ACME server (RFC 8555).

    Attributes:
        email: Where the CA may write to, or "".
        directory: The URL of the CA's directory.
        storage: The folder for the certificate and the account's key.
        ca_file: A file with the CA that the ACME server's own certificate is from, or "".
        profile: The certificate profile to ask for, or "" for the CA's default.
        eab_kid: Key identifier of an external account binding, or "".
        eab_key: Its secret.
    """

    email: str = ""
    directory: str = LETS_ENCRYPT
    storage: str = "certs"
    ca_file: str = ""
    profile: str = ""
    eab_kid: str = ""
    eab_key: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True)
class TLSSettings:
    """A certificate of one's own, instead of one by ACME.

    Attributes:
        certificate: The file with the certificate and its chain, or "".
        key: The file with its private key, or "".
    """

    certificate: str = ""
    key: str = ""


@attrs.frozen(kw_only=True)
class MonitorSettings:
    """Where those who look after the daemon find its figures.

    Attributes:
        listen: Twisted endpoint strings; none: nowhere.
    """

    listen: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class LogSettings:
    """What is logged, and how.

    Attributes:
        level: The lowest level; see `read_levels`.
        format: `text` or `json`.
    """

    level: str = "info"
    format: str = "text"


@attrs.frozen(kw_only=True)
class WebhookSettings:
    """Where events are posted to.

    Attributes:
        name: What it is called in figures, logs and answers.
        url: Where; it may hold a secret.
        secrets: The keys that sign, the newest first.
        events: Topics, and names of events.
        extensions: Whose events; they are monitored for its sake. None: of all that are anyhow.
        ca_file: A file with the CAs that the receiver's certificate may be from, or "".
        timeout: Seconds that one attempt may take.
        parallel: Events that may be under way at the same time.
        headers: Further headers of each request.
    """

    name: str
    url: str = attrs.field(repr=False)
    secrets: tuple[bytes, ...] = attrs.field(repr=False)
    events: tuple[str, ...] = ("calls",)
    extensions: tuple[str, ...] | None = None
    ca_file: str = ""
    timeout: float = 15.0
    parallel: int = 8
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)

    @property
    def site(self) -> str:
        """Scheme, host and port of the URL; what is behind them may be a secret."""
        return "/".join(self.url.split("/", 3)[:3])


@attrs.frozen(kw_only=True)
class DeliverySettings:
    """How events wait for the receivers of webhooks.

    Attributes:
        storage: The file of the queue.
        max_queued: Events that may wait for one receiver.
        max_age: Seconds after which an event is given up.
        max_dead: Given up events that are kept for one receiver.
    """

    storage: str = "webhooks.db"
    max_queued: int = 10_000
    max_age: float = 86_400.0
    max_dead: int = 1000


@attrs.frozen(kw_only=True)
class AdminSettings:
    """Who looks after the daemon by the API.

    Attributes:
        extensions: The extensions whose users may.
    """

    extensions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Config:
    """Everything that `mxflex.service.build` needs to know.

    Attributes:
        host: Name or address at which clients find MXFlex; IPv6 without brackets.
        port: TCP port of HTTPS or plain HTTP.
        https: Whether that port speaks TLS: for a public name, or with a certificate of one's own.
        listen: Twisted endpoint strings that replace the port derived from `host` and `port`.
        listen_http: Endpoint strings for the plain port beside HTTPS, which answers the challenges
            of the CA and redirects all else.
        html: The folder with the static files.
        mx: The MX.
        token: The tokens.
        events: The events.
        calls: The calls.
        numbers: Telephone numbers.
        login: The logins.
        proxies: Networks of reverse proxies whose `X-Forwarded-For` is believed.
        cors: Origins, as a browser spells them, that may call the API from other sites.
        frames: Origins whose pages may show the static files in a frame.
        acme: How a certificate is got.
        tls: A certificate of one's own.
        monitor: The figures.
        log: The log.
        webhooks: Where events are posted to.
        delivery: How events wait for those receivers.
        admin: Who looks after the daemon.
    """

    host: str = "localhost"
    port: int = 8080
    https: bool = False
    listen: tuple[str, ...] = ()
    listen_http: tuple[str, ...] = ()
    html: str = "html"
    mx: MXSettings
    token: TokenSettings = TokenSettings()
    events: EventSettings = EventSettings()
    calls: CallSettings = CallSettings()
    numbers: NumberSettings = NumberSettings()
    login: LoginSettings = LoginSettings()
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    cors: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    acme: AcmeSettings = AcmeSettings()
    tls: TLSSettings = TLSSettings()
    monitor: MonitorSettings = MonitorSettings()
    log: LogSettings = LogSettings()
    webhooks: tuple[WebhookSettings, ...] = ()
    delivery: DeliverySettings = DeliverySettings()
    admin: AdminSettings = AdminSettings()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody is to see, as it may be written."""
        eab_key = base64.urlsafe_b64encode(self.acme.eab_key).decode("ascii").rstrip("=")
        every = [self.mx.password, (self.token.key or b"").decode("utf-8"), eab_key]
        for hook in self.webhooks:
            every += [base64.b64encode(secret).decode("ascii") for secret in hook.secrets]
            # A short one may be any word, which the log has elsewhere.
            every += [value for _, value in hook.headers if len(value) >= MIN_SECRET_BYTES]
        return tuple(filter(None, every))

    @property
    def url(self) -> str:
        """Where a browser finds the page, without a slash at its end."""
        scheme, usual = ("https", HTTPS_PORT) if self.https else ("http", HTTP_PORT)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}" + ("" if self.port == usual else f":{self.port}")


def read_text(path: str) -> str:
    """Read a small UTF-8 file, with or without a byte order mark.

    Raises:
        OSError: It cannot be read, or is larger than `MAX_FILE_BYTES`.
        UnicodeDecodeError: It is not UTF-8.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - a path as the user spelled it, no Path needed
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(0, "it is larger than 1 MiB")
    return data.decode("utf-8-sig")


ReadFile = Callable[[str], str]


def load_file(path: str, environ: Mapping[str, str]) -> Config:
    """Read the configuration of a file and the environment.

    Raises:
        ConfigError: Whatever is wrong with it.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        expected = "there is no such file; name another one with --config, or try --demo"
        raise ConfigError(path, "", expected) from error
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"is not UTF-8 text (byte {error.start + 1})") from error
    return load(text, path, environ)


def load(
    text: str, source: str, environ: Mapping[str, str], read_file: ReadFile = read_text
) -> Config:
    """Make a `Config` of YAML or JSON text and the environment, which wins over the text.

    Args:
        text: The text of the file.
        source: The name of the file, for errors.
        environ: The environment; only `MXFLEX_…` variables are looked at, and `STATE_DIRECTORY`, by
            which systemd tells a service where its files belong: what MXFlex keeps goes there,
            unless it is an absolute path.
        read_file: Gives the text of a file that the configuration names (`mx.password_file`, a CA
            file in `mx.verify`); raises OSError or UnicodeDecodeError.

    Raises:
        ConfigError: Whatever is wrong.
    """
    given = _settle_password(_flatten(_parse(text, source), source), _from_environment(environ))
    config = _build({key: _read(item, read_file) for key, item in given.items()}, source)
    state = state_directory(environ)
    return attrs.evolve(
        config,
        token=attrs.evolve(config.token, storage=posixpath.join(state, config.token.storage)),
        acme=attrs.evolve(config.acme, storage=posixpath.join(state, config.acme.storage)),
        delivery=attrs.evolve(
            config.delivery, storage=posixpath.join(state, config.delivery.storage)
        ),
    )


def state_directory(environ: Mapping[str, str]) -> str:
    """Give the folder in which systemd lets a service keep things; "" where it names none."""
    # Of several, the first (systemd.exec(5)).
    return environ.get("STATE_DIRECTORY", "").partition(":")[0]


def known_keys() -> frozenset[str]:
    """Give every key that a configuration may hold, such as `mx.addr`."""
    return frozenset(_KINDS)


def forms() -> dict[str, Mapping[str, Any]]:
    """Give the form of each key's value, as JSON Schema; in the order of the sample."""
    return {key: kind.form for key, kind in _KINDS.items()}


def default_of(key: str) -> object:
    """Give what a key stands at unless it is named; None where that is nothing, or not fixed."""
    if key == "host":
        return DEFAULT_HOST
    section, _, name = key.rpartition(".")
    fields = attrs.fields_dict(_SECTIONS[section] if section else Config)
    default = fields[name].default if name in fields else None
    return None if default is attrs.NOTHING or default in ("", b"", ()) else default


def values_of(config: Config) -> dict[str, object]:
    """Give the value that each key has in a configuration.

    `mx.password_file` has none of its own: what was in it is the value of `mx.password`.
    """
    mx = config.mx
    values: dict[str, object] = {
        "host": f"{config.host}:{config.port}",
        "mx.addr": f"{mx.host}:{mx.port}",
        # Chosen or not, it says something else.
        "mx.verify": mx.verify if mx.verify_chosen else None,
    }
    for key in _KINDS:
        section, _, name = key.rpartition(".")
        owner = getattr(config, section) if section else config
        if hasattr(owner, name):
            values.setdefault(key, getattr(owner, name))
    return {key: values[key] for key in _KINDS if key in values}


class _Refused(yaml.MarkedYAMLError):
    """Sound YAML that has no place in a configuration."""


class _Loader(yaml.SafeLoader):
    """YAML's safe types; no anchors, tags, doubled keys or towers of brackets.

    None of those has a use here. Aliases can swell a few lines to gigabytes, and a second `mx:`
    would silently replace the first. Errors about them must not repeat the name behind `&`, `*` or
    `!`, since an unquoted password may begin so.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        peek: Callable[[], Any] = self.peek_event
        event = peek()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "& and * have no meaning here; put the value in quotes"
            raise _Refused(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            problem = "! has no meaning here; put the value in quotes"
            raise _Refused(problem=problem, problem_mark=event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise _Refused(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        mapping: dict[Hashable, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key_node.value in mapping:
                problem = f"{_shown(key_node.value)} stands here a second time"
                raise _Refused(problem=problem, problem_mark=key_node.start_mark)
            mapping[key_node.value] = self.construct_object(value_node, deep=deep)
        return mapping


# A password such as 2024-01-01 stays text instead of becoming a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse(text: str, source: str) -> Mapping[str, object]:
    if not text.strip():
        expected = "is empty; expected at least mx: with addr, login and password"
        raise ConfigError(source, "", expected)
    document = _parse_json(text, source) if text.lstrip().startswith("{") else None
    if document is None:
        document = _parse_yaml(text, source)
    if not isinstance(document, dict):
        expected = "expected keys with values, such as `host: localhost:8080`"
        raise ConfigError(source, "", expected)
    return document


def _parse_json(text: str, source: str) -> object:
    """Give the value of JSON text, or None if it is not JSON (it may still be YAML).

    YAML's reader alone is not enough: it stumbles over tabs and surrogate pairs, both good JSON.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key, value in pairs:
            if key in mapping:
                raise ConfigError(source, _shown(key), "stands here a second time")
            mapping[key] = value
        return mapping

    try:
        document: object = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    return document


def _parse_yaml(text: str, source: str) -> object:
    try:
        # S506 is about unsafe loaders; ours is a narrowed SafeLoader.
        document: object = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        raise ConfigError(source, "", _syntax_error(error)) from error
    except yaml.reader.ReaderError as error:
        before = text[: int(error.position)]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        expected = f"line {line}, column {column}: a control character has no place here"
        raise ConfigError(source, "", expected) from error
    except (ValueError, RecursionError) as error:
        # int() refuses numbers of thousands of digits; the scanner recurses on some towers.
        raise ConfigError(source, "", "is not readable as YAML") from error
    return document


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    if isinstance(error, _Refused):
        return f"{where}{error.problem}"
    parts = [part for part in (error.context, error.problem) if part]
    problem = " ".join(" ".join(parts).split())
    # Of a tag handle PyYAML quotes all there is, and a secret may be there.
    problem = re.sub(r"'[^']{2,}'", "…", problem) if "handle" in problem else problem
    return f"{where}not valid YAML: {problem}"


@attrs.frozen
class _Item:
    """One value as it was given, and where."""

    source: str
    key: str
    raw: object = attrs.field(repr=False)
    in_environment: bool = False

    def wrong(self, expected: str) -> ConfigError:
        """Make the error for this value."""
        return ConfigError(self.source, self.key, expected)


def _shown(key: object) -> str:
    """Give as much of a key as is fit for one line; `password:secret` ends before its colon."""
    match = re.match(r"[\w.\-]{1,40}", str(key))
    return match[0] if match else "?"


def _unknown(source: str, key: object, where: str) -> ConfigError:
    """Say that there is no such key, and which one may have been meant."""
    shown = where + _shown(key)
    if isinstance(key, str) and ":" in key:
        return ConfigError(source, shown, "put a space behind the colon")
    if not where and shown in _KINDS and "." in shown:
        section, _, name = shown.partition(".")
        return ConfigError(source, shown, f"write it as {name} inside {section}")
    # Sections and the keys of other sections too: `addr` at the top is meant as `mx.addr`.
    names = {known.rpartition(".")[2]: known for known in _KINDS}
    close = difflib.get_close_matches(shown, [*_KINDS, *_SECTIONS], n=1, cutoff=0.75)
    close = close or [names[n] for n in difflib.get_close_matches(_shown(key), names, 1, 0.75)]
    hint = f"did you mean {close[0]}?" if close else "mxflex.yaml.sample shows all there are"
    return ConfigError(source, shown, f"unknown key; {hint}")


def _flatten(document: Mapping[str, object], source: str) -> dict[str, _Item]:
    given: dict[str, _Item] = {}
    for name, value in document.items():
        if name not in _SECTIONS:
            if name not in _KINDS or "." in name:
                raise _unknown(source, name, "")
            given[name] = _Item(source, name, value)
            continue
        if value is None:
            continue
        if not isinstance(value, dict):
            inside = " and ".join(key.partition(".")[2] for key in _of(name)[:2])
            raise ConfigError(source, name, f"expected a section with keys such as {inside}")
        for inner, inner_value in value.items():
            key = f"{name}.{inner}"
            if key not in _KINDS:
                raise _unknown(source, inner, f"{name}.")
            given[key] = _Item(source, key, inner_value)
    return given


def _variable(key: str) -> str:
    return _PREFIX + key.upper().replace(".", "_")


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Item]:
    variables = {_variable(key): key for key in _KINDS}
    given: dict[str, _Item] = {}
    for name in sorted(environ):
        if not name.startswith(_PREFIX):
            continue
        if name not in variables:
            close = difflib.get_close_matches(name, variables, n=1, cutoff=0.75)
            hint = f"did you mean {close[0]}?" if close else "there is no such setting"
            raise ConfigError(_shown(name), "", f"unknown environment variable; {hint}")
        key = variables[name]
        given[key] = _Item(name, key, environ[name], in_environment=True)
    return given


def _settle_password(
    in_file: dict[str, _Item], in_environment: dict[str, _Item]
) -> dict[str, _Item]:
    """Put the environment over the file; a password there hides both of the file's ways."""
    pair = ("mx.password", "mx.password_file")
    for given in (in_environment, in_file):
        if all(key in given for key in pair):
            other = given["mx.password"]
            name = other.source if other.in_environment else other.key
            raise given["mx.password_file"].wrong(f"{name} is given too; keep one of the two")
    if any(key in in_environment for key in pair):
        in_file = {key: item for key, item in in_file.items() if key not in pair}
    return in_file | in_environment


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _text(item: _Item, what: str = "text") -> str:
    if isinstance(item.raw, bool):
        raise item.wrong(f"expected {what}; a yes or no that is meant as text stands in quotes")
    if isinstance(item.raw, int | float):
        raise item.wrong(f"expected {what}; put the number in quotes")
    if not isinstance(item.raw, str):
        raise item.wrong(f"expected {what}" + ("; nothing is given" if item.raw is None else ""))
    if not item.raw:
        raise item.wrong(f"expected {what}; it is empty")
    if _CONTROL.search(item.raw):
        raise item.wrong(f"expected {what} in one line, without control characters")
    return item.raw


def _flag(item: _Item) -> bool:
    raw = item.raw
    if item.in_environment:
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        raw = words.get(str(raw).strip().lower())
    if not isinstance(raw, bool):
        raise item.wrong("expected true or false")
    return raw


def _whole(item: _Item, low: int, high: int, unit: str) -> int:
    raw = item.raw
    # Twelve digits are more than any limit here, and few enough for int().
    if item.in_environment and re.fullmatch(r"\s*[+-]?[0-9]{1,12}\s*", str(raw)):
        raw = int(str(raw))
    if isinstance(raw, float) and raw.is_integer():
        # JSON Schema does not tell 60.0 from 60 either.
        raw = int(raw)
    if not isinstance(raw, int) or isinstance(raw, bool) or not low <= raw <= high:
        raise item.wrong(f"expected a whole number{unit} from {low} to {high}")
    return raw


def _seconds(item: _Item, low: float, high: float) -> float:
    raw = item.raw
    if item.in_environment and re.fullmatch(r"\s*[+-]?[0-9]{1,12}(\.[0-9]{1,12})?\s*", str(raw)):
        raw = float(str(raw))
    wanted = f"expected seconds, a number from {low:g} to {high:g}"
    # A NaN lies between nothing, so the range refuses it too.
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not low <= raw <= high:
        raise item.wrong(wanted)
    return float(raw)


def _list(item: _Item, what: str) -> tuple[_Item, ...]:
    raw = item.raw
    if item.in_environment:
        raw = [part.strip() for part in str(raw).split(",") if part.strip()]
    if raw is None:
        raw = []
    if not isinstance(raw, list):
        raise item.wrong(f"expected a list of {what}: [a, b]")
    return tuple(
        _Item(item.source, f"{item.key}[{number}]", entry) for number, entry in enumerate(raw)
    )


_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


@attrs.frozen
class _Address:
    host: str
    port: int | None
    is_ip: bool

    @property
    def is_public_name(self) -> bool:
        """Whether a certificate authority could know this name."""
        name = self.host.lower().rstrip(".")
        return not self.is_ip and "." in name and not name.endswith((".local", ".localhost"))


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _address(item: _Item, what: str) -> _Address:
    """Read a name or an address, each with or without a port.

    An IPv6 address with a port stands in brackets (RFC 3986, 3.2.2). A name outside ASCII comes out
    in its IDNA form.
    """
    text = _text(item, what).strip()
    if "://" in text or "/" in text:
        raise item.wrong(f"expected {what}, without http:// and without a path")
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        found = _ip(inside)
        if not bracket or not isinstance(found, IPv6Address) or (rest and rest[0] != ":"):
            raise item.wrong("expected an IPv6 address in brackets, such as [::1]:8080")
        return _Address(str(found), _port(item, rest[1:]) if rest else None, is_ip=True)
    if text.count(":") > 1:
        found = _ip(text)
        if found is None:
            raise item.wrong(f"expected {what}; an IPv6 address with a port stands in brackets")
        return _Address(str(found), None, is_ip=True)
    name, colon, digits = text.partition(":")
    if not name:
        raise item.wrong(f"expected {what}; for every interface write 0.0.0.0 before the port")
    port = _port(item, digits) if colon else None
    found = _ip(name)
    if found is not None:
        return _Address(str(found), port, is_ip=True)
    return _Address(_name(item, name, what), port, is_ip=False)


def _name(item: _Item, name: str, what: str) -> str:
    try:
        ascii_name = name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise item.wrong(f"expected {what}") from error
    labels = ascii_name.removesuffix(".").split(".")
    # A last label of digits only is a mistyped IPv4 address (WHATWG URL, "ends in a number").
    if labels[-1].isdecimal() or not all(_LABEL.fullmatch(label) for label in labels):
        raise item.wrong(f"expected {what}")
    return ascii_name


def _port(item: _Item, digits: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:  # noqa: PLR2004
        raise item.wrong("expected a port from 1 to 65535 behind the colon")
    return int(digits)


def _verify(item: _Item, read_file: ReadFile) -> str:
    text = _text(item, "none, system, or the path of a CA file")
    if text.lower() in ("none", "system"):
        return text.lower()
    otherwise = "" if "/" in text else "expected none, system, or the path of a CA file; "
    if "-----BEGIN CERTIFICATE-----" not in _contents(item, text, read_file, otherwise):
        raise item.wrong("expected none, system, or a CA file with PEM certificates")
    return text


def _contents(item: _Item, path: str, read_file: ReadFile, otherwise: str = "") -> str:
    try:
        return read_file(path)
    except OSError as error:
        raise item.wrong(f"{otherwise}the file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise item.wrong("the file is not UTF-8 text") from error


def _password_file(item: _Item, read_file: ReadFile) -> str:
    path = _text(item, "the path of a file")
    first = _contents(item, path, read_file).partition("\n")[0].rstrip("\r")
    if not first or _CONTROL.search(first):
        raise item.wrong("the first line of the file should be the password")
    return first


_FINGERPRINT = r"^\s*([Ss][Hh][Aa]-?256( [A-Za-z]{11})?\s*[:=])?([:\s]*[0-9A-Fa-f]){64}[:\s]*$"


def _fingerprint(item: _Item) -> str:
    wanted = "a SHA-256 fingerprint: 64 hex digits, with or without colons"
    text = re.sub(r"^sha-?256( fingerprint)?\s*[:=]", "", _text(item, wanted).strip().lower())
    digits = re.sub(r"[:\s]", "", text)
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise item.wrong(f"expected {wanted}")
    return digits


def _token_key(item: _Item) -> bytes:
    wanted = f"text of {MIN_TOKEN_KEY_BYTES} bytes or more"
    key = _text(item, wanted).encode()
    if len(key) < MIN_TOKEN_KEY_BYTES:
        raise item.wrong(f"expected {wanted}")
    return key


_ENDPOINT = "^[A-Za-z0-9_-]+:"


def _listen(item: _Item) -> tuple[str, ...]:
    wanted = "an endpoint such as tcp:8080:interface=127.0.0.1"
    endpoints = []
    for entry in _list(item, "endpoints"):
        text = _text(entry, wanted)
        if not re.match(_ENDPOINT, text):
            raise entry.wrong(f"expected {wanted}")
        endpoints.append(text)
    return tuple(endpoints)


def _proxies(item: _Item) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for entry in _list(item, "addresses"):
        wanted = "an IP address or a network such as 10.0.0.0/8"
        try:
            networks.append(ip_network(_text(entry, wanted).strip()))
        except ValueError as error:
            bits = "; bits are set behind the prefix" if "host bits" in str(error) else ""
            raise entry.wrong(f"expected {wanted}{bits}") from error
    return tuple(networks)


def _origins(item: _Item, any_site: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_origin(entry, any_site) for entry in _list(item, "origins")))


def _origin(item: _Item, any_site: str) -> str:
    """Read an origin into the form in which browsers send it (RFC 6454, 6.2)."""
    wanted = "an origin such as https://crm.example.com, without a path"
    text = _text(item, wanted).strip()
    if text == "*":
        raise item.wrong(f"expected origins by name: with * any site could {any_site}")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("http", "https"):
        raise item.wrong(f"expected {wanted}")
    if not rest or re.search(r"[/?#@\s*]", rest):
        raise item.wrong(f"expected {wanted}")
    address = _address(attrs.evolve(item, raw=rest), wanted)
    host = f"[{address.host}]" if ":" in address.host else address.host.lower()
    default_port = {"http": 80, "https": 443}[scheme]
    port = "" if address.port in (None, default_port) else f":{address.port}"
    return f"{scheme}://{host}{port}"


def _country(item: _Item) -> str:
    # YAML's word for false is what Norway would be without quotes.
    wanted = 'the two letters of a country in quotes, such as "US"'
    text = _text(item, wanted).strip().upper()
    if text not in phonenumbers.SUPPORTED_REGIONS:
        raise item.wrong(f"expected {wanted}")
    return text


def _matching(item: _Item, pattern: str, wanted: str) -> str:
    """Read a text, without spaces around it, that matches a pattern as a whole."""
    text = _text(item, wanted).strip()
    if not re.fullmatch(pattern, text):
        raise item.wrong(f"expected {wanted}")
    return text


def _eab_key(item: _Item, pattern: str) -> bytes:
    wanted = "the secret that the CA gave out, in base64url"
    text = _matching(item, pattern, wanted).rstrip("=")
    # One digit more than whole groups of four cannot be.
    if len(text) % 4 == 1:
        raise item.wrong(f"expected {wanted}")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _pem_file(item: _Item, read_file: ReadFile, block: str) -> str:
    text = _text(item, "the path of a file")
    if not re.search(f"-----BEGIN [A-Z ]*{block}-----", _contents(item, text, read_file)):
        raise item.wrong(f"the file should hold a {block.lower()} in PEM form")
    return text


# A level, or a namespace and its level.
_LEVEL: Final = rf"(?:([A-Za-z0-9_.]+)=)?({'|'.join(LOG_LEVELS)})"


def read_levels(text: str) -> dict[str, str]:
    """Read the levels of a log: `info`, or `warn,mxflex.mx=debug`.

    Returns:
        The lowest level for each namespace and what is below it, by name; "" stands for all others,
        and is `info` where the text does not say it.

    Raises:
        ValueError: It is none.
    """
    levels = {"": "info"}
    for part in text.split(","):
        match = re.fullmatch(_LEVEL, part.strip())
        if match is None:
            raise ValueError(f"one of {', '.join(LOG_LEVELS)}, or such as info,mxflex.mx=debug")
        levels[match[1] or ""] = match[2]
    return levels


def _levels(item: _Item) -> str:
    text = _text(item).strip()
    try:
        read_levels(text)
    except ValueError as error:
        raise item.wrong(f"expected {error}") from error
    return text


def _word(item: _Item, words: tuple[str, ...]) -> str:
    wanted = "one of " + ", ".join(f'"{word}"' for word in words)
    text = _text(item, wanted)
    if text not in words:
        raise item.wrong(f"expected {wanted}")
    return text


def _extensions(item: _Item) -> tuple[str, ...]:
    wanted = 'an extension in quotes, such as "3095"'
    entries = [_text(entry, wanted).strip() for entry in _list(item, "extensions")]
    return tuple(dict.fromkeys(entries))


# --- Webhooks -------------------------------------------------------------------------------------


def _webhooks(item: _Item, read_file: ReadFile) -> tuple[WebhookSettings, ...]:
    if item.in_environment:
        wrong = item.wrong("expected JSON, as the list would stand in the file")
        try:
            item = attrs.evolve(item, raw=json.loads(str(item.raw)), in_environment=False)
        except (ValueError, RecursionError):
            raise wrong from None
    entries = _list(item, "webhooks, each with name, url and secret")
    if len(entries) > MAX_WEBHOOKS:
        raise item.wrong(f"expected {MAX_WEBHOOKS} webhooks at the most")
    hooks = [_webhook(entry, read_file) for entry in entries]
    names = [hook.name for hook in hooks]
    for entry, name in zip(entries, names, strict=True):
        if names.count(name) > 1:
            raise attrs.evolve(entry, key=f"{entry.key}.name").wrong("expected another name each")
    return tuple(hooks)


def _webhook(entry: _Item, read_file: ReadFile) -> WebhookSettings:
    given = entry.raw
    if not isinstance(given, dict):
        raise entry.wrong("expected keys such as name, url and secret")
    values = {}
    for name, raw in given.items():
        kind = _WEBHOOK_KINDS.get(name)
        if kind is None:
            close = difflib.get_close_matches(_shown(name), _WEBHOOK_KINDS, n=1, cutoff=0.75)
            hint = f"did you mean {close[0]}?" if close else "docs/webhooks.md shows all there are"
            raise ConfigError(entry.source, f"{entry.key}.{_shown(name)}", f"unknown key; {hint}")
        values[name] = kind.read(_Item(entry.source, f"{entry.key}.{name}", raw), read_file)
    for name, expected in _REQUIRED_OF_WEBHOOKS.items():
        if name not in values and not (name == "secret" and "secret_file" in values):
            raise ConfigError(entry.source, f"{entry.key}.{name}", expected)
    if "secret" in values and "secret_file" in values:
        expected = "secret is given too; keep one of the two"
        raise ConfigError(entry.source, f"{entry.key}.secret_file", expected)
    both = [values.pop(name) for name in ("secret", "secret_file") if name in values]
    return WebhookSettings(secrets=both[0], **values)


_HOOK_NAME = "[a-z0-9][a-z0-9_-]{0,39}"
_HOOK_URL = r"(https?)://([^/?#\s]+)((?:[/?][!\"$-~]*)?)"


def _hook_name(item: _Item) -> str:
    wanted = "a short name of small letters, digits, - and _, such as crm"
    text = _text(item, wanted)
    if not re.fullmatch(_HOOK_NAME, text):
        raise item.wrong(f"expected {wanted}")
    return text


def _hook_url(item: _Item) -> str:
    wanted = "a URL such as https://crm.example.com/events"
    text = _text(item, wanted).strip()
    match = re.fullmatch(_HOOK_URL, text, re.IGNORECASE)
    if match is None:
        raise item.wrong(f"expected {wanted}")
    scheme, netloc, rest = match.groups()
    if "@" in netloc:
        raise item.wrong("expected a URL without name and password; put them into headers")
    address = _address(attrs.evolve(item, raw=netloc), wanted)
    host = f"[{address.host}]" if ":" in address.host else address.host.lower()
    port = "" if address.port is None else f":{address.port}"
    return f"{scheme.lower()}://{host}{port}{rest if rest.startswith('/') else f'/{rest}'}"


def _secret_key(item: _Item) -> bytes:
    wanted = (
        f"{WHSEC} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64,"
        " such as openssl rand -base64 32 gives"
    )
    text = _text(item, wanted).strip()
    try:
        key = base64.b64decode(text.removeprefix(WHSEC), validate=True)
    except ValueError as error:
        raise item.wrong(f"expected {wanted}") from error
    long_enough = MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES
    if not text.startswith(WHSEC) or not long_enough:
        raise item.wrong(f"expected {wanted}")
    return key


def _secret(item: _Item) -> tuple[bytes, ...]:
    entries = _list(item, "secrets") if isinstance(item.raw, list) else (item,)
    if not entries:
        raise item.wrong("expected at least one secret")
    return tuple(_secret_key(entry) for entry in entries)


def _secret_file(item: _Item, read_file: ReadFile) -> tuple[bytes, ...]:
    text = _contents(item, _text(item, "the path of a file"), read_file)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise item.wrong("the file should hold secrets, one in each line")
    return tuple(_secret_key(attrs.evolve(item, raw=line)) for line in lines)


def _hook_events(item: _Item) -> tuple[str, ...]:
    events = []
    for entry in _list(item, "topics and events"):
        text = _text(entry, "the name of a topic or an event").strip()
        if text not in (*TOPICS, *EVENTS):
            close = difflib.get_close_matches(_shown(text), (*TOPICS, *EVENTS), n=1)
            hint = f"did you mean {close[0]}?" if close else f"topics are {', '.join(TOPICS)}"
            raise entry.wrong(f"there is no such topic or event; {hint}")
        events.append(text)
    if not events:
        raise item.wrong("expected at least one topic or event")
    return tuple(dict.fromkeys(events))


def _hook_extensions(item: _Item) -> tuple[str, ...] | None:
    if item.raw == "all":
        return None
    if not isinstance(item.raw, list) or not item.raw:
        raise item.wrong("expected all, or a list of extensions")
    return _extensions(item)


# RFC 9110, 5.6.2; and what a value may hold, without white space at its ends.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"}
)


def _headers(item: _Item) -> tuple[tuple[str, str], ...]:
    if not isinstance(item.raw, dict):
        raise item.wrong('expected names and values, such as {Authorization: "Bearer …"}')
    headers = []
    for name, raw in item.raw.items():
        entry = _Item(item.source, f"{item.key}.{_shown(name)}", raw)
        own = name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-")
        if own or not _HEADER_NAME.fullmatch(name):
            raise entry.wrong("a header of this name cannot be added")
        value = _text(entry, "the value of a header").strip()
        if not _HEADER_VALUE.fullmatch(value):
            raise entry.wrong("expected the value of a header, in ASCII")
        headers.append((name, value))
    return tuple(headers)


_Reader = Callable[[_Item, ReadFile], Any]


@attrs.frozen
class _Kind:
    """What a value may be.

    Attributes:
        form: As JSON Schema says it. What it refuses is refused here too; texts may be read more
            strictly here.
        read: Reads it.
    """

    form: Mapping[str, Any]
    read: _Reader


def _kind(form: Mapping[str, Any], reader: Callable[..., Any], *args: object) -> _Kind:
    """Make a kind whose reader needs no files."""

    def read(item: _Item, _read_file: ReadFile) -> object:
        return reader(item, *args)

    return _Kind(form, read)


# As `_text` reads it.
_LINE: Final = {"type": "string", "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"}
_FLAG: Final = _kind({"type": "boolean"}, _flag)


def _line(what: str = "text") -> _Kind:
    return _kind(_LINE, _text, what)


def _host(what: str) -> _Kind:
    return _kind({"type": "string", "pattern": r"^[^/\u0000-\u001f]+$"}, _address, what)


def _number(low: int, high: int, unit: str = "") -> _Kind:
    return _kind({"type": "integer", "minimum": low, "maximum": high}, _whole, low, high, unit)


def _time(low: float, high: float) -> _Kind:
    return _kind({"type": "number", "minimum": low, "maximum": high}, _seconds, low, high)


def _pattern(pattern: str, reader: Callable[..., Any], *args: object) -> _Kind:
    form = {"type": "string", "pattern": rf"^\s*{pattern}\s*$"}
    return _kind(form, reader, pattern, *args)


def _one_of(words: tuple[str, ...]) -> _Kind:
    return _kind({"type": "string", "enum": list(words)}, _word, words)


def _several(pattern: str, reader: Callable[..., Any]) -> _Kind:
    items = {"type": "string", "pattern": pattern}
    return _kind({"type": ["array", "null"], "items": items}, reader)


_ENDPOINTS: Final = _several(_ENDPOINT, _listen)

_EXTENSIONS: Final = _several(r"\S", _extensions)
_ORIGIN: Final = r"^\s*[Hh][Tt]{2}[Pp][Ss]?://[^/?#@\s*]+\s*$"
_CA_FILE: Final = _Kind(_LINE, partial(_pem_file, block="CERTIFICATE"))
_ONE_SECRET: Final = {"type": "string", "pattern": rf"^\s*{WHSEC}[A-Za-z0-9+/]+=*\s*$"}

_WEBHOOK_KINDS: Final[Mapping[str, _Kind]] = {
    "name": _kind({"type": "string", "pattern": f"^{_HOOK_NAME}$"}, _hook_name),
    "url": _kind({"type": "string", "pattern": r"^\s*[Hh][Tt]{2}[Pp][Ss]?://\S+\s*$"}, _hook_url),
    "secret": _kind(
        {"anyOf": [_ONE_SECRET, {"type": "array", "items": _ONE_SECRET, "minItems": 1}]}, _secret
    ),
    "secret_file": _Kind(_LINE, _secret_file),
    "events": _kind(
        {"type": "array", "items": {"enum": [*TOPICS, *EVENTS]}, "minItems": 1}, _hook_events
    ),
    "extensions": _kind(
        {
            "anyOf": [
                {"const": "all"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        },
        _hook_extensions,
    ),
    "ca_file": _CA_FILE,
    "timeout": _time(0.1, 300),
    "parallel": _number(1, 100),
    "headers": _kind({"type": "object", "additionalProperties": _LINE}, _headers),
}

_REQUIRED_OF_WEBHOOKS: Final[Mapping[str, str]] = {
    "name": "required: what the webhook is called, such as crm",
    "url": "required: where events are posted to",
    "secret": f"required (or secret_file): what signs, {WHSEC} and base64",
}

_WEBHOOK_FORM: Final[Mapping[str, Any]] = {
    "type": ["array", "null"],
    "maxItems": MAX_WEBHOOKS,
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "url"],
        "oneOf": [{"required": ["secret"]}, {"required": ["secret_file"]}],
        "properties": {name: kind.form for name, kind in _WEBHOOK_KINDS.items()},
    },
}

_KINDS: Final[Mapping[str, _Kind]] = {
    "host": _host("a name or an address, with a port or without"),
    "listen": _ENDPOINTS,
    "listen_http": _ENDPOINTS,
    "html": _line("the path of a folder"),
    "mx.addr": _host("the name or the address of the MX, with a port or without"),
    "mx.login": _line(),
    "mx.password": _line(),
    "mx.password_file": _Kind(_LINE, _password_file),
    "mx.verify": _Kind(_LINE, _verify),
    "mx.fingerprint": _kind({"type": "string", "pattern": _FINGERPRINT}, _fingerprint),
    "mx.timeout": _time(0.1, 300),
    "mx.keepalive": _time(1, 3600),
    "mx.tls_minimum": _one_of(TLS_VERSIONS),
    "mx.tls_security_level": _number(0, 5),
    "mx.clear_password": _FLAG,
    "token.lifetime": _number(1, MAX_TOKEN_SECONDS, " of seconds"),
    # JSON Schema counts characters; one takes four bytes at the most.
    "token.key": _kind({**_LINE, "minLength": MIN_TOKEN_KEY_BYTES // 4}, _token_key),
    "token.storage": _line("the path of a file"),
    "token.max_age": _number(0, MAX_TOKEN_SECONDS, " of seconds"),
    "token.in_url": _FLAG,
    # HTTP/2 connections are closed after 60 s of silence, so the comment must come before.
    "events.heartbeat": _time(0.1, 55),
    "events.history": _number(0, 100_000),
    # Below 64 KiB Twisted does not push back yet, so a bound there would cut healthy readers.
    "events.max_unsent": _number(65_536, 1 << 30, " of bytes"),
    "events.max_per_token": _number(1, 1_000_000, " of streams"),
    "events.max_per_address": _number(1, 1_000_000, " of streams"),
    "events.max_streams": _number(1, 1_000_000, " of streams"),
    "calls.restrict": _FLAG,
    "numbers.country": _kind({"type": "string", "pattern": r"^\s*[A-Za-z]{2}\s*$"}, _country),
    "login.max_failures": _number(1, 1_000_000),
    "login.window": _time(1, 86_400),
    "login.parallel": _number(1, 1000),
    "login.queue": _number(0, 100_000),
    "login.refusal_step": _time(0, 10),
    "proxies": _several(r"^\s*[0-9A-Fa-f:.]+(%[^/]+)?(/[0-9.]+)?\s*$", _proxies),
    "cors": _several(_ORIGIN, partial(_origins, any_site="use a user's token")),
    "frames": _several(_ORIGIN, partial(_origins, any_site="make users press its buttons")),
    "acme.email": _pattern(r"[^\s@:]+@[^\s@:]+", _matching, "an address such as admin@example.com"),
    "acme.directory": _pattern(
        r"https://[^\s/]+/\S*",
        _matching,
        "the URL of an ACME directory, beginning with https://",
    ),
    "acme.storage": _line("the path of a folder"),
    "acme.ca_file": _CA_FILE,
    "acme.profile": _line(),
    "acme.eab_kid": _line(),
    "acme.eab_key": _pattern(r"[A-Za-z0-9_-]+=*", _eab_key),
    "tls.certificate": _Kind(_LINE, partial(_pem_file, block="CERTIFICATE")),
    "tls.key": _Kind(_LINE, partial(_pem_file, block="PRIVATE KEY")),
    "monitor.listen": _ENDPOINTS,
    "log.level": _kind(
        {"type": "string", "pattern": rf"^\s*{_LEVEL}(\s*,\s*{_LEVEL})*\s*$"}, _levels
    ),
    "log.format": _one_of(LOG_FORMATS),
    "webhooks": _Kind(_WEBHOOK_FORM, _webhooks),
    "delivery.storage": _line("the path of a file"),
    "delivery.max_queued": _number(1, 1_000_000, " of events"),
    "delivery.max_age": _time(1, 31_536_000),
    "delivery.max_dead": _number(0, 10_000, " of events"),
    "admin.extensions": _EXTENSIONS,
}

# What nobody is to see.
SECRET_KEYS: Final = frozenset(("mx.password", "token.key", "acme.eab_key"))

_SECTIONS: Final[Mapping[str, type[Any]]] = {
    "mx": MXSettings,
    "token": TokenSettings,
    "events": EventSettings,
    "calls": CallSettings,
    "numbers": NumberSettings,
    "login": LoginSettings,
    "acme": AcmeSettings,
    "tls": TLSSettings,
    "monitor": MonitorSettings,
    "log": LogSettings,
    "delivery": DeliverySettings,
    "admin": AdminSettings,
}


def _of(section: str) -> list[str]:
    return [key for key in _KINDS if key.startswith(f"{section}.")]


def _read(item: _Item, read_file: ReadFile) -> Any:
    return _KINDS[item.key].read(item, read_file)


REQUIRED: Final[Mapping[str, str]] = {
    "mx.addr": "required: the address of the MX, such as 192.0.2.10",
    "mx.login": "required: the login of the server connection",
    "mx.password": "required (or mx.password_file): the password of the server connection",
}


_PLAIN_KEYS: Final = ("listen", "listen_http", "html", "proxies", "cors", "frames", "webhooks")

# Keys of which neither makes sense without the other.
_PAIRS: Final = (("tls.certificate", "tls.key"), ("acme.eab_kid", "acme.eab_key"))


def _build(values: dict[str, Any], source: str) -> Config:
    if "mx.password_file" in values:
        values["mx.password"] = values.pop("mx.password_file")
    for key, expected in REQUIRED.items():
        if key not in values:
            raise ConfigError(source, key, expected)
    for pair in _PAIRS:
        for key, other in (pair, pair[::-1]):
            if key in values and other not in values:
                raise ConfigError(source, other, f"required beside {key}")

    def section(name: str) -> dict[str, Any]:
        return {key.partition(".")[2]: values[key] for key in _of(name) if key in values}

    default = _Item(source, "host", DEFAULT_HOST)
    own: _Address = values.pop("host", None) or _address(default, "")
    https = "tls.certificate" in values or (own.is_public_name and own.port in (None, HTTPS_PORT))
    mx = section("mx")
    addr: _Address = mx.pop("addr")
    return Config(
        # As CAs and certificates spell it.
        host=own.host.lower().rstrip("."),
        port=own.port or (HTTPS_PORT if https else HTTP_PORT),
        https=https,
        mx=MXSettings(
            host=addr.host,
            port=addr.port or MX_PORT,
            verify_chosen="verify" in mx,
            **mx,
        ),
        **{name: make(**section(name)) for name, make in _SECTIONS.items() if name != "mx"},
        **{key: values[key] for key in _PLAIN_KEYS if key in values},
    )
