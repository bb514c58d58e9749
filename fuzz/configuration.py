"""The text of a configuration, with an environment.

Promise: it is a `Config`, or a `ConfigError` of one line; and the same again the second time.

Input: the text in UTF-8. Behind a NUL there may be variables, one `NAME=value` a line; names get
their `MXFLEX_` in front. Files that a configuration names hold what their path says: `ca` and
`key` something in PEM form, `password` a password; any other is not there.
"""

from __future__ import annotations

from mxflex.config import Config, load
from mxflex.errors import ConfigError

SOURCE = "mxflex.yaml"
FILES = {
    "ca": "-----BEGIN CERTIFICATE-----\n",
    "key": "-----BEGIN " + "PRIVATE KEY-----\n",
    "password": "from a file\r\nand more\n",
}


def check(data: bytes) -> None:
    """Read the configuration twice, and look at the outcome."""
    text, _, variables = data.partition(b"\0")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        # `load_file` refuses it before `load` sees it.
        return
    environ = dict(
        f"MXFLEX_{line}".split("=", 1)
        # As the operating system's own bytes come into `os.environ`.
        for line in variables.decode("utf-8", "surrogateescape").split("\n")
        if "=" in line
    )
    outcome = _load(decoded, environ)
    assert outcome == _load(decoded, environ)
    if isinstance(outcome, Config):
        assert outcome.url.startswith("https://" if outcome.https else "http://")
    else:
        assert len(outcome.splitlines()) == 1


def _load(text: str, environ: dict[str, str]) -> Config | str:
    """Give the configuration, or the words in which it is refused."""
    try:
        return load(text, SOURCE, environ, _read_file)
    except ConfigError as error:
        return str(error)


def _read_file(path: str) -> str:
    try:
        return FILES[path]
    except KeyError:
        raise FileNotFoundError(2, "No such file or directory") from None
