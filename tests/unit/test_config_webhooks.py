"""The configuration of webhooks: what it may say, and the line of error for what it may not."""

from __future__ import annotations

import base64
import json

import pytest

from mxflex import config
from mxflex.config import WebhookSettings, load
from mxflex.errors import ConfigError
from mxflex.gateway.hub import Topic
from mxflex.web.eventjson import EVENT_KEYS
from mxflex.wire.messages import ParkedEvent

KEY = b"0123456789abcdef01234567"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
MX = {"addr": "192.0.2.10", "login": "mxflex", "password": "swordfish"}
HOOK = {"name": "crm", "url": "https://crm.example.com/events", "secret": SECRET}


def no_file(path):
    raise FileNotFoundError(2, "No such file or directory", path)


def of(hook, environ=None, read_file=no_file):
    """Load a configuration with one webhook, whose required keys are given."""
    hooks = {} if hook is None else {"webhooks": [HOOK | hook]}
    return load(json.dumps({"mx": MX, **hooks}), "test.json", environ or {}, read_file)


def error_of(hooks, environ=None, read_file=no_file):
    """Load webhooks that cannot be loaded, and give the one line of error."""
    with pytest.raises(ConfigError) as caught:
        load(json.dumps({"mx": MX, "webhooks": hooks}), "test.json", environ or {}, read_file)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def test_the_least():
    """Name, URL and secret are enough: all calls of whoever is monitored."""
    assert of({}).webhooks == (
        WebhookSettings(
            name="crm",
            url="https://crm.example.com/events",
            secrets=(KEY,),
            events=("calls",),
            extensions=None,
            ca_file="",
            timeout=15.0,
            parallel=8,
            headers=(),
        ),
    )


def test_everything():
    """Every key is read."""
    pem = "-----BEGIN" + " CERTIFICATE-----"
    hook = {
        "events": ["DeliveredEvent", "status"],
        "extensions": ["3095", "3044", "3095"],
        "ca_file": "ca.pem",
        "timeout": 5,
        "parallel": 2,
        "headers": {"Authorization": "Bearer abc"},
    }
    (read,) = of(hook, read_file=lambda path: pem).webhooks
    assert read.events == ("DeliveredEvent", "status")
    assert read.extensions == ("3095", "3044")
    assert (read.ca_file, read.timeout, read.parallel) == ("ca.pem", 5.0, 2)
    assert read.headers == (("Authorization", "Bearer abc"),)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("https://CRM.example.com", "https://crm.example.com/"),
        ("HTTP://127.0.0.1:8000/a?b=c", "http://127.0.0.1:8000/a?b=c"),
        ("https://[::1]:8443/", "https://[::1]:8443/"),
        ("https://пример.рф/x", "https://xn--e1afmkfd.xn--p1ai/x"),
        ("https://crm?x", "https://crm/?x"),
    ],
)
def test_url(url, read):
    """A URL is read into the form in which it is asked for."""
    assert of({"url": url}).webhooks[0].url == read


def test_secrets():
    """Secrets may be several, or stand in a file, one in each line."""
    other = b"x" * 64
    second = "whsec_" + base64.b64encode(other).decode()
    assert of({"secret": [SECRET, second]}).webhooks[0].secrets == (KEY, other)
    hook = {key: value for key, value in HOOK.items() if key != "secret"}
    text = json.dumps({"mx": MX, "webhooks": [hook | {"secret_file": "s"}]})
    loaded = load(text, "x", {}, lambda path: f"{SECRET}\n\n{second}\n")
    assert loaded.webhooks[0].secrets == (KEY, other)


def test_nothing_secret_shows():
    """Neither a secret, nor a header, nor the URL shows in the repr; the log masks what signs."""
    loaded = of({"headers": {"X-Key": "sesame-sesame-sesame-sesame"}, "url": "https://a/T0K3N"})
    shown = repr(loaded)
    assert not any(each in shown for each in (KEY.decode(), "sesame", "T0K3N"))
    assert SECRET.removeprefix("whsec_") in loaded.secrets
    assert "sesame-sesame-sesame-sesame" in loaded.secrets


def test_from_the_environment():
    """The whole list may come from the environment, as JSON, and wins over the file."""
    environ = {"MXFLEX_WEBHOOKS": json.dumps([HOOK | {"name": "other"}])}
    assert [hook.name for hook in of({}, environ).webhooks] == ["other"]
    for text in ("crm", "[" * 100_000, "{}"):
        line = error_of([HOOK], {"MXFLEX_WEBHOOKS": text})
        assert line.startswith("MXFLEX_WEBHOOKS: webhooks: expected ")


@pytest.mark.parametrize(
    ("hook", "complaint"),
    [
        ("crm", "webhooks[0]: expected keys such as name, url and secret"),
        ({}, "webhooks[0].name: required"),
        ({"name": "crm"}, "webhooks[0].url: required"),
        ({"name": "crm", "url": "https://a/"}, "webhooks[0].secret: required (or secret_file)"),
        (HOOK | {"nmae": "x"}, "webhooks[0].nmae: unknown key; did you mean name?"),
        (HOOK | {"name": "C R M"}, "webhooks[0].name: expected a short name"),
        (HOOK | {"url": "ftp://a/"}, "webhooks[0].url: expected a URL such as"),
        (HOOK | {"url": "https://u:p@a/"}, "webhooks[0].url: expected a URL without name"),
        (HOOK | {"url": "https://a/#x"}, "webhooks[0].url: expected a URL such as"),
        (HOOK | {"url": "https://a/ b"}, "webhooks[0].url: expected a URL such as"),
        (HOOK | {"url": "https://1.2.3/"}, "webhooks[0].url: expected a URL such as"),
        (HOOK | {"secret": "swordfish"}, "webhooks[0].secret: expected whsec_"),
        (HOOK | {"secret": SECRET[6:]}, "webhooks[0].secret: expected whsec_"),
        (HOOK | {"secret": "whsec_swordfish="}, "webhooks[0].secret: expected whsec_"),
        (HOOK | {"secret": "whsec_" + "A" * 28}, "webhooks[0].secret: expected whsec_"),
        (HOOK | {"secret": "whsec_" + "A" * 88}, "webhooks[0].secret: expected whsec_"),
        (HOOK | {"secret": []}, "webhooks[0].secret: expected at least one"),
        (HOOK | {"secret": [SECRET, "x"]}, "webhooks[0].secret[1]: expected whsec_"),
        (HOOK | {"secret_file": "no"}, "webhooks[0].secret_file: the file cannot be read"),
        (HOOK | {"events": []}, "webhooks[0].events: expected at least one"),
        (
            HOOK | {"events": ["DeliverdEvent"]},
            "webhooks[0].events[0]: there is no such topic or event; did you mean DeliveredEvent?",
        ),
        (HOOK | {"extensions": "3095"}, "webhooks[0].extensions: expected all, or a list"),
        (HOOK | {"extensions": []}, "webhooks[0].extensions: expected all, or a list"),
        (HOOK | {"extensions": [3095]}, "webhooks[0].extensions[0]: expected an extension"),
        (HOOK | {"timeout": 0}, "webhooks[0].timeout: expected seconds"),
        (HOOK | {"parallel": 0}, "webhooks[0].parallel: expected a whole number"),
        (HOOK | {"headers": {"Webhook-Id": "x"}}, "webhooks[0].headers.Webhook-Id: a header of"),
        (HOOK | {"headers": {"a b": "x"}}, "webhooks[0].headers.a: a header of this name"),
        (HOOK | {"headers": {"a": "ü"}}, "webhooks[0].headers.a: expected the value of a header"),
    ],
)
def test_mistakes(hook, complaint):
    """Each mistake is one line that names the key, and repeats no secret."""
    line = error_of([hook])
    assert line.startswith(f"test.json: {complaint}")
    assert "swordfish" not in line


def test_both_ways_of_a_secret():
    """A secret and a file with secrets are one too many."""
    line = error_of([HOOK | {"secret_file": "s"}], read_file=lambda path: SECRET)
    assert "webhooks[0].secret_file: secret is given too" in line


def test_names_are_unique():
    """Two webhooks of one name could not be told apart."""
    assert "webhooks[0].name: expected another name each" in error_of([HOOK, HOOK])
    many = [HOOK | {"name": f"h{n}"} for n in range(config.MAX_WEBHOOKS + 1)]
    assert error_of(many).endswith("webhooks: expected 32 webhooks at the most")
    assert "expected a list of webhooks" in error_of(HOOK)


def test_the_names_are_those_of_the_events():
    """Topics and events that can be asked for are those that there are."""
    calls = {cls.__name__ for cls in (*EVENT_KEYS, ParkedEvent)}
    assert set(config.EVENTS) == calls | {"ContactEvent"}
    assert set(config.TOPICS) == set(Topic)


def test_delivery_and_admin():
    """The queue has defaults, and nobody administers unless named."""
    loaded = of(None)
    assert loaded.delivery == config.DeliverySettings(
        storage="webhooks.db", max_queued=10_000, max_age=86_400.0, max_dead=1000
    )
    assert loaded.admin.extensions == ()
    loaded = of(None, {"MXFLEX_ADMIN_EXTENSIONS": "3095,3044"})
    assert loaded.admin.extensions == ("3095", "3044")
