"""Which keys can be taken over, and what the log says of the others."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from pathlib import Path

import attrs
import pytest
from twisted.internet import reactor
from twisted.logger import FileLogObserver, globalLogPublisher

from mxflex import service
from mxflex.config import forms, known_keys, load, values_of
from mxflex.errors import ConfigError
from mxflex.logs import Masker, text_format
from mxflex.reload import AT_ONCE, Part, Reloader

DOCS = Path(__file__).parents[2] / "docs" / "operation.md"
LATER = "only after a restart; until then it stays as it is"
REFUSED = "error configuration not reloaded, the old one stays"
MX = {"addr": "192.0.2.10", "login": "mxflex", "password": "canary-old"}


def configuration(**settings):
    return load(json.dumps({"mx": MX, **settings}), "test.json", {})


class Signals:
    """Stands for the reactor: what a signal asks for waits until its turn."""

    def __init__(self):
        self.waiting = []

    def callFromThread(self, act):
        self.waiting.append(act)

    def turn(self):
        waiting, self.waiting = self.waiting, []
        for act in waiting:
            act()


class Trial:
    """A reloader, what it takes over, and what it says."""

    def __init__(self, *parts, config=None, always=()):
        self.config = self.first = config or configuration()
        self.said = []
        self.signals = Signals()
        self.reloader = Reloader(
            self.signals, self.read, self.config, parts=parts, always=always, witnesses=[self]
        )
        self.reloads = 0

    def read(self):
        if isinstance(self.config, Exception):
            raise self.config
        return self.config

    def reloading(self):
        self.said.append("RELOADING")

    def reloaded(self):
        self.said.append("READY")

    def reload(self, config):
        """Reload another configuration, and give the lines of the log."""
        self.config = config
        file = io.StringIO()
        observer = FileLogObserver(file, text_format(Masker()))
        globalLogPublisher.addObserver(observer)
        try:
            self.reloader.reload()
        finally:
            globalLogPublisher.removeObserver(observer)
        lines = [each for each in file.getvalue().splitlines() if " mxflex.audit " not in each]
        return [re.sub(r"^\S+ (\w+) +mxflex\.reload  ", r"\1 ", line) for line in lines]


@pytest.fixture
def trial():
    """Give the maker of reloaders that run until the test ends."""
    trials = []

    def make(*parts, **kwargs):
        trials.append(Trial(*parts, **kwargs))
        trials[-1].reloader.startService()
        return trials[-1]

    yield make
    for each in reversed(trials):
        each.reloader.stopService()


def taking(taken, *keys, when=AT_ONCE, wrong=None, restart=False):
    """Make a part that writes down what it takes over."""

    def prepare(config):
        if wrong is not None:
            raise wrong
        values = values_of(config)
        return None if restart else lambda: taken.append({key: values[key] for key in keys})

    return Part(when, keys, prepare)


def test_what_is_taken_over_and_what_is_not(trial):
    """Each changed key has a line; a part is asked once, and only if something of it changed."""
    taken = []
    parts = (
        taking(taken, "login.queue", "login.parallel"),
        taking(taken, "events.history", when="for new streams"),
        taking(taken, "cors"),
        taking(taken, "html", restart=True),
    )
    made = trial(*parts)
    lines = made.reload(
        configuration(
            login={"queue": 1, "parallel": 2},
            cors=["https://a.example"],
            host="localhost:9",
            html="x",
        )
    )
    assert lines == [
        f"warn host changed from localhost:8080 to localhost:9: {LATER}",
        f"warn html changed from html to x: {LATER}",
        "info login.parallel changed from 32 to 2: at once",
        "info login.queue changed from 128 to 1: at once",
        "info cors changed from nothing to https://a.example: at once",
        "info configuration reloaded: 3 taken over, 2 left for a restart",
    ]
    assert taken == [{"login.queue": 1, "login.parallel": 2}, {"cors": ("https://a.example",)}]
    assert made.said == ["RELOADING", "READY"]
    # What was left is told again, and what was taken over is what counts now.
    lines = made.reload(configuration(host="localhost:9", cors=["https://a.example"]))
    assert [line.split(" changed ")[0] for line in lines] == [
        "warn host",
        "info login.parallel",
        "info login.queue",
        "info configuration reloaded: 2 taken over, 1 left for a restart",
    ]
    assert taken[2:] == [{"login.queue": 128, "login.parallel": 32}]
    assert made.reload(attrs.evolve(made.first, cors=("https://a.example",))) == [
        "info configuration reloaded: 0 taken over, 0 left for a restart"
    ]


def test_all_or_nothing(trial):
    """Where one part cannot use its values, none takes over any, and the next reload can."""
    taken, trouble = [], [ConfigError("ca.pem", "mx.verify", "expected certificates")]

    def prepare(_config):
        if trouble:
            raise trouble.pop()
        return lambda: taken.append("mx")

    looked = []
    made = trial(
        taking(taken, "cors"),
        Part(AT_ONCE, ("mx.login",), prepare),
        always=[lambda: looked.append("files")],
    )
    fresh = load(
        json.dumps({"mx": {**MX, "login": "other"}, "cors": ["https://a.example"]}), "test.json", {}
    )
    assert made.reload(fresh) == [f"{REFUSED}: ca.pem: mx.verify: expected certificates"]
    assert taken == []
    # Certificates are read again all the same.
    assert looked == ["files"]
    assert made.said == ["RELOADING", "READY"]
    made.reload(fresh)
    assert taken == [{"cors": ("https://a.example",)}, "mx"]


def test_a_file_with_a_mistake(trial):
    """What cannot be read changes nothing; that is one line, without any value."""
    taken = []
    made = trial(taking(taken, "cors"))
    error = ConfigError("mxflex.yaml", "cors", "expected a list of origins: [a, b]")
    assert made.reload(error) == [
        f"{REFUSED}: mxflex.yaml: cors: expected a list of origins: [a, b]"
    ]
    assert taken == []


def test_a_bug_in_a_part(trial):
    """A part that fails costs others nothing, is not called taken over, and is tried again."""
    taken, tries = [], []

    def fail():
        tries.append("html")
        raise ZeroDivisionError

    made = trial(Part(AT_ONCE, ("html",), lambda _config: fail), taking(taken, "cors"))
    fresh = configuration(html="x", cors=["https://a.example"])
    lines = made.reload(fresh)
    assert "ZeroDivisionError" in lines[0]
    assert lines[1:] == [
        f"warn html changed from html to x: {LATER}",
        "info cors changed from nothing to https://a.example: at once",
        "info configuration reloaded: 1 taken over, 1 left for a restart",
    ]
    assert taken == [{"cors": ("https://a.example",)}]
    assert made.said == ["RELOADING", "READY"]
    made.reload(fresh)
    assert tries == ["html", "html"]
    assert len(taken) == 1


def test_secrets_are_not_shown(trial):
    """That a secret has changed is told, and nothing of what it was or is."""
    made = trial(config=configuration(token={"key": "canary-" * 8}))
    hook = {"name": "crm", "url": "https://canary.example", "secret": f"whsec_{'canary00' * 5}"}
    secrets = {"mx": {**MX, "password": "canary-new"}, "token": {"key": "canary." * 8}}
    secrets["webhooks"] = [hook]
    text = "\n".join(made.reload(load(json.dumps(secrets), "test.json", {})))
    assert "mx.password changed from *** to ***: only" in text
    assert "token.key changed from *** to ***: only" in text
    assert "webhooks changed from nothing to crm: only" in text
    assert "canary" not in text


def test_signals(trial):
    """Each SIGHUP has a reload of its own, in the reactor's turn; at the end nobody listens."""
    before = signal.getsignal(signal.SIGHUP)
    made = trial()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    assert made.said == []
    assert len(made.signals.waiting) == 2
    made.signals.turn()
    assert made.said == ["RELOADING", "READY"] * 2
    os.kill(os.getpid(), signal.SIGHUP)
    made.reloader.stopService()
    assert signal.getsignal(signal.SIGHUP) == before
    # One that came too late is no matter.
    made.signals.turn()
    assert len(made.said) == 4
    made.reloader.startService()


def test_every_key_has_a_value_to_compare():
    """All keys are compared, but for the file of the password, which is compared by its content."""
    assert values_of(configuration()).keys() == known_keys() - {"mx.password_file"}
    assert list(values_of(configuration())) == [k for k in forms() if k != "mx.password_file"]


def test_docs_say_what_is_taken_over():
    """The last column of the table of keys in docs/operation.md is what a reload does."""
    table = DOCS.read_text(encoding="utf-8").partition("### Keys\n")[2].partition("\n#")[0]
    told = dict(re.findall(r"^\| `([a-z_.]+)` \|.*\| ([a-z MX]+) \|$", table, re.MULTILINE))
    # As the daemon has it; the log is the command's.
    made = service.build(configuration(), reactor)
    when = {"log.level": AT_ONCE}
    for part in made.getServiceNamed("reload").parts:
        when |= dict.fromkeys(part.keys, part.when)
    assert told == {key: when.get(key, "after a restart") for key in forms()}
