"""Configuration: text and environment in, frozen values or one line of error out."""

import contextlib
import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxflex import config
from mxflex.config import Config, MXSettings, load, load_file
from mxflex.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "mxflex.yaml.sample"
# The head of a PEM block; no test needs what is inside.
BEGIN = "-----BEGIN"
MX = "mx: {addr: 192.0.2.10, login: mxflex, password: swordfish}\n"
HEX = "0123456789abcdef" * 4


def no_file(path):
    raise FileNotFoundError(2, "No such file or directory", path)


def of(text, environ=None, read_file=no_file):
    """Load a configuration whose required keys are given."""
    return load(text + "\n" + MX, "test.yaml", environ or {}, read_file)


def mx_of(inside, environ=None, read_file=no_file):
    """Load a configuration with more keys in its section mx."""
    text = "mx: {addr: 192.0.2.10, login: mxflex, password: swordfish, " + inside + "}"
    return load(text, "test.yaml", environ or {}, read_file).mx


def error_of(text, environ=None, read_file=no_file):
    """Load what cannot be loaded, and give the one line of error."""
    with pytest.raises(ConfigError) as caught:
        load(text, "test.yaml", environ or {}, read_file)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    return line


def test_owner_example():
    """The example of the contract loads, and everything else has the contract's default."""
    text = """\
host: "localhost:8080"
mx: {
    addr: "192.0.2.10",
    login: "mxflex",
    password: "secret"
}
"""
    assert load(text, "mxflex.yaml", {}) == Config(
        host="localhost",
        port=8080,
        listen=(),
        html="html",
        mx=MXSettings(host="192.0.2.10", port=7778, login="mxflex", password="secret"),
        token=config.TokenSettings(lifetime=3600, key=None, max_age=43200, in_url=True),
        events=config.EventSettings(
            heartbeat=15.0,
            history=256,
            max_unsent=262144,
            max_per_token=100,
            max_per_address=2000,
            max_streams=20000,
        ),
        calls=config.CallSettings(restrict=True),
        numbers=config.NumberSettings(country=""),
        login=config.LoginSettings(
            max_failures=10, window=300.0, parallel=32, queue=128, refusal_step=0.25
        ),
        proxies=(),
        cors=(),
        frames=(),
    )


def test_json_gives_the_same():
    """JSON is read, with what YAML alone would stumble over: tabs and surrogate pairs."""
    text = json.dumps({"mx": {"addr": "a", "login": "b", "password": "пароль 😀"}}, indent="\t")
    assert load(text, "x.json", {}).mx.password == "пароль 😀"


def test_values_are_frozen_and_silent():
    """No secret shows in the repr of a configuration, and nothing in it can be changed."""
    loaded = of(f"token: {{key: {'k' * 32}}}")
    assert "swordfish" not in repr(loaded)
    assert "kkkk" not in repr(loaded)
    with pytest.raises(AttributeError):
        loaded.mx.password = "other"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", 80),
        ("localhost:8080", "localhost", 8080),
        ("pbx-web", "pbx-web", 80),
        ("crm.local", "crm.local", 80),
        ("crm.local:443", "crm.local", 443),
        ("192.0.2.1", "192.0.2.1", 80),
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("::1", "::1", 80),
        ("[::1]", "::1", 80),
        ("[::1]:8080", "::1", 8080),
        ("crm.example.com:8080", "crm.example.com", 8080),
        ("crm.example.com:1", "crm.example.com", 1),
        ("пример.рф:8080", "xn--e1afmkfd.xn--p1ai", 8080),
    ],
)
def test_host(text, host, port):
    """Every spelling of the contract's `host` is understood."""
    loaded = of(f'host: "{text}"')
    assert (loaded.host, loaded.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:http",
        "localhost:-1",
        ":8080",
        "http://localhost",
        "localhost/",
        "300.1.1.1",
        "1.2.3",
        "[::1",
        "[::1]8080",
        "[localhost]:80",
        "::1:x",
        "a..b:80",
        "-a:80",
        "a b:80",
        "x" * 64,
        "user@host:80",
    ],
)
def test_host_refused(text):
    """What is no host is refused, and the line says so about `host`."""
    assert error_of(f'host: "{text}"\n{MX}').startswith("test.yaml: host: expected ")


@pytest.mark.parametrize(
    ("host", "port", "https"),
    [
        ("crm.example.com", 443, True),
        ("crm.example.com:443", 443, True),
        ("CRM.Example.COM.", 443, True),
        ("crm.example.com:8080", 8080, False),
        ("crm.example.com:80", 80, False),
        ("mx.local", 80, False),
        ("localhost", 80, False),
        ("192.0.2.1", 80, False),
        ("192.0.2.1:443", 443, False),
    ],
)
def test_public_name_means_https(host, port, https):
    """A public name without a port or with 443 is served by HTTPS, all else by plain HTTP."""
    loaded = of(f'host: "{host}"')
    assert (loaded.port, loaded.https) == (port, https)


def test_own_certificate_means_https():
    """With a certificate of one's own any host is served by HTTPS, on 443 unless it says else."""
    pem = f"{BEGIN} CERTIFICATE-----\n{BEGIN} EC PRIVATE KEY-----"
    text = f"{MX}\ntls: {{certificate: a.pem, key: b.pem}}\nhost: "
    loaded = load(text + "192.0.2.1", "test.yaml", {}, lambda path: pem)
    assert (loaded.port, loaded.https, loaded.tls.key) == (443, True, "b.pem")
    loaded = load(text + "'localhost:8443'", "test.yaml", {}, lambda path: pem)
    assert (loaded.port, loaded.https) == (8443, True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tls: {certificate: a.pem}", "test.yaml: tls.key: required beside tls.certificate"),
        ("tls: {key: b.pem}", "test.yaml: tls.certificate: required beside tls.key"),
        ("acme: {eab_kid: a}", "test.yaml: acme.eab_key: required beside acme.eab_kid"),
        ("acme: {eab_kid: a, eab_key: 'a b'}", "test.yaml: acme.eab_key: expected the secret"),
        ("acme: {eab_kid: a, eab_key: abcde}", "test.yaml: acme.eab_key: expected the secret"),
        ("acme: {email: nobody}", "test.yaml: acme.email: expected an address"),
        ("acme: {directory: 'http://x/'}", "test.yaml: acme.directory: expected the URL"),
        ("acme: {ca_file: b.pem}", "test.yaml: acme.ca_file: the file should hold a certificate"),
    ],
)
def test_certificate_settings_refused(text, line):
    """Half a pair, and what is no such thing, is refused in one line."""
    files = {"a.pem": "-----BEGIN CERTIFICATE-----", "b.pem": f"{BEGIN} PRIVATE KEY-----"}
    with pytest.raises(ConfigError) as caught:
        load(f"{MX}\n{text}", "test.yaml", {}, files.__getitem__)
    assert str(caught.value).startswith(line)


def test_eab_key_is_decoded():
    """The secret of an external account binding is base64url, with padding or without."""
    for spelled in ("AAEC_w", "AAEC_w=="):
        loaded = of(f"acme: {{eab_kid: k, eab_key: '{spelled}'}}")
        assert loaded.acme.eab_key == b"\x00\x01\x02\xff"


@pytest.mark.parametrize(
    ("addr", "host", "port"),
    [
        ("192.0.2.10", "192.0.2.10", 7778),
        ("mx.example.com", "mx.example.com", 7778),
        ("mx.example.com:443", "mx.example.com", 443),
        ("2001:db8::1", "2001:db8::1", 7778),
        ("[2001:db8::1]:7779", "2001:db8::1", 7779),
    ],
)
def test_mx_addr(addr, host, port):
    """The MX may be a name or an address, with a port or without."""
    text = f'mx: {{addr: "{addr}", login: a, password: b}}'
    mx = load(text, "test.yaml", {}).mx
    assert (mx.host, mx.port) == (host, port)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty; expected at least mx: with addr, login and password"),
        ("# nothing\n", "expected keys with values, such as `host: localhost:8080`"),
        ("[1]", "expected keys with values, such as `host: localhost:8080`"),
        ("mx", "expected keys with values, such as `host: localhost:8080`"),
        ("mx: 1", "mx: expected a section with keys such as addr and login"),
        ("mx:", "mx.addr: required: the address of the MX, such as 192.0.2.10"),
        ("mx: {adr: a}", "mx.adr: unknown key; did you mean mx.addr?"),
        ("mx: {zzzz: a}", "mx.zzzz: unknown key; mxflex.yaml.sample shows all there are"),
        ("hots: a", "hots: unknown key; did you mean host?"),
        ("addr: a", "addr: unknown key; did you mean mx.addr?"),
        ("mx.addr: a", "mx.addr: write it as addr inside mx"),
        ("1: a", "1: unknown key; mxflex.yaml.sample shows all there are"),
        ("mx: {addr:a}", "mx.addr: put a space behind the colon"),
        ("host: a\nhost: b", "line 2, column 1: host stands here a second time"),
        ('{"host": "a", "host": "b"}', "host: stands here a second time"),
        ("? [a]\n: b", "line 1, column 3: a key must be a word"),
        ("host: a\x01", "line 1, column 8: a control character has no place here"),
        (
            "a: b\n  c: d",
            "line 2, column 4: not valid YAML: mapping values are not allowed here",
        ),
        (
            "a: 'b",
            (
                "line 1, column 6: not valid YAML:"
                " while scanning a quoted scalar found unexpected end of stream"
            ),
        ),
        (
            "--- {}\n--- {}",
            (
                "line 2, column 1: not valid YAML:"
                " expected a single document in the stream but found another document"
            ),
        ),
        ("[" * 5000, "line 1, column 17: nested too deeply"),
        ('{"a":' * 5000, "line 1, column 77: nested too deeply"),
        (
            "a: &x [b]\nc: *x",
            "line 1, column 4: & and * have no meaning here; put the value in quotes",
        ),
        ("a: *x", "line 1, column 4: & and * have no meaning here; put the value in quotes"),
        (
            "a: !!python/name:os.system",
            "line 1, column 4: ! has no meaning here; put the value in quotes",
        ),
        ("a: " + "9" * 9999, "is not readable as YAML"),
    ],
)
def test_mistakes_in_the_text(text, line):
    """Each kind of bad text gives its own line, with the place or the key."""
    assert error_of(text) == f"test.yaml: {line}"


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("html: 5", "html", "expected the path of a folder; put the number in quotes"),
        ("html: ''", "html", "expected the path of a folder; it is empty"),
        ("html:", "html", "expected the path of a folder; nothing is given"),
        ("html: [a]", "html", "expected the path of a folder"),
        ('html: "a\\tb"', "html", "in one line, without control characters"),
        ("html: yes", "html", "a yes or no that is meant as text stands in quotes"),
        ("listen: tcp:80", "listen", "expected a list of endpoints: [a, b]"),
        ("listen: [80]", "listen[0]", "put the number in quotes"),
        ("listen: ['tcp:80', 'x']", "listen[1]", "expected an endpoint such as tcp:8080"),
        ("token: {lifetime: '60'}", "token.lifetime", "a whole number of seconds from 1 to"),
        ("token: {lifetime: 0}", "token.lifetime", "from 1 to 31536000"),
        ("token: {lifetime: 31536001}", "token.lifetime", "from 1 to 31536000"),
        ("token: {lifetime: true}", "token.lifetime", "a whole number"),
        ("token: {lifetime: 60.5}", "token.lifetime", "a whole number"),
        ("token: {max_age: -1}", "token.max_age", "seconds from 0 to 31536000"),
        ("token: {max_age: 31536001}", "token.max_age", "seconds from 0 to 31536000"),
        ("token: {in_url: 'no'}", "token.in_url", "expected true or false"),
        ("token: {key: short}", "token.key", "expected text of 32 bytes or more"),
        (f"token: {{key: {'k' * 31}}}", "token.key", "expected text of 32 bytes or more"),
        ("events: {heartbeat: 0}", "events.heartbeat", "seconds, a number from 0.1 to 55"),
        ("events: {heartbeat: .inf}", "events.heartbeat", "seconds, a number from 0.1 to 55"),
        ("events: {heartbeat: .nan}", "events.heartbeat", "seconds, a number from 0.1 to 55"),
        (
            f"events: {{heartbeat: {'9' * 400}}}",
            "events.heartbeat",
            "seconds, a number from 0.1 to 55",
        ),
        ("events: {heartbeat: 15s}", "events.heartbeat", "seconds, a number from 0.1 to 55"),
        ("events: {heartbeat: true}", "events.heartbeat", "seconds, a number from 0.1 to 55"),
        ("events: {history: -1}", "events.history", "a whole number from 0 to 100000"),
        ("events: {max_unsent: 65535}", "events.max_unsent", "of bytes from 65536 to"),
        ("events: {max_per_token: 0}", "events.max_per_token", "of streams from 1 to 1000000"),
        ("events: {max_per_address: 0}", "events.max_per_address", "of streams from 1 to 1000000"),
        ("events: {max_streams: 0}", "events.max_streams", "of streams from 1 to 1000000"),
        ("events: {max_streams: 1000001}", "events.max_streams", "of streams from 1 to 1000000"),
        ("numbers: {country: NO}", "numbers.country", "a yes or no that is meant as text"),
        ("numbers: {country: USA}", "numbers.country", "the two letters of a country"),
        ("numbers: {country: 'XX'}", "numbers.country", "the two letters of a country"),
        ("calls: {restrict: 'no'}", "calls.restrict", "expected true or false"),
        ("calls: {restrict: 0}", "calls.restrict", "expected true or false"),
        ("login: {max_failures: 0}", "login.max_failures", "from 1 to"),
        ("login: {window: 0.5}", "login.window", "from 1 to 86400"),
        ("login: {parallel: 0}", "login.parallel", "from 1 to 1000"),
        ("login: {queue: -1}", "login.queue", "from 0 to"),
        ("login: {refusal_step: -0.1}", "login.refusal_step", "from 0 to 10"),
        ("login: {refusal_step: 10.5}", "login.refusal_step", "from 0 to 10"),
        ("proxies: 10.0.0.1", "proxies", "expected a list of addresses"),
        ("proxies: [10.0.0.1, proxy]", "proxies[1]", "an IP address or a network such as"),
        ("proxies: [10.0.0.1/8]", "proxies[0]", "bits are set behind the prefix"),
        ("proxies: [10]", "proxies[0]", "put the number in quotes"),
        ("cors: ['*']", "cors[0]", "with * any site could use a user's token"),
        ("frames: ['*']", "frames[0]", "with * any site could make users press its buttons"),
        ("frames: ['https://crm.example.com;']", "frames[0]", "an origin such as"),
        ("cors: [crm.example.com]", "cors[0]", "an origin such as https://crm.example.com"),
        ("cors: ['https://crm.example.com/']", "cors[0]", "without a path"),
        ("cors: ['https://crm.example.com/a']", "cors[0]", "without a path"),
        ("cors: ['https://*.example.com']", "cors[0]", "an origin such as"),
        ("cors: ['https://a@example.com']", "cors[0]", "an origin such as"),
        ("cors: ['https://']", "cors[0]", "an origin such as"),
        ("cors: ['ftp://example.com']", "cors[0]", "an origin such as"),
        ("cors: ['null']", "cors[0]", "an origin such as"),
    ],
)
def test_mistakes_in_a_value(text, key, expected):
    """A value of the wrong type or range names its key and what is expected instead."""
    line = error_of(f"{text}\n{MX}")
    assert line.startswith(f"test.yaml: {key}: ")
    assert expected in line


@pytest.mark.parametrize(
    ("inside", "key", "expected"),
    [
        ("verify: no", "verify", "expected none, system, or the path of a CA file"),
        ("verify: ~", "verify", "expected none, system, or the path of a CA file"),
        ("verify: ./ca.pem", "verify", "the file cannot be read: No such file or directory"),
        # Perhaps it was meant as a word.
        ("verify: sytem", "verify", "expected none, system, or the path of a CA file; the file "),
        ("fingerprint: abc", "fingerprint", "64 hex digits, with or without colons"),
        (f"fingerprint: {HEX}0", "fingerprint", "64 hex digits"),
        (f"fingerprint: {HEX[1:]}", "fingerprint", "64 hex digits"),
        (f"fingerprint: {HEX[1:]}g", "fingerprint", "64 hex digits"),
        ("timeout: 0", "timeout", "from 0.1 to 300"),
        ("keepalive: 0", "keepalive", "from 1 to 3600"),
        ("tls_minimum: 1.2", "tls_minimum", "put the number in quotes"),
        ("tls_minimum: '1.4'", "tls_minimum", 'one of "1.0", "1.1", "1.2", "1.3"'),
        ("tls_security_level: 6", "tls_security_level", "from 0 to 5"),
        ("clear_password: maybe", "clear_password", "true or false"),
        ("password_file: pw", "password_file", "mx.password is given too"),
    ],
)
def test_mistakes_about_the_mx(inside, key, expected):
    """The keys of the MX are checked as strictly as the others."""
    line = error_of(MX.replace("}", f", {inside}}}"))
    assert line.startswith(f"test.yaml: mx.{key}: ")
    assert expected in line


@pytest.mark.parametrize("missing", ["addr", "login", "password"])
def test_required(missing):
    """Each of the three keys of the MX must be given, and the line names the one that is not."""
    keys = {"addr": "a", "login": "b", "password": "c"}
    del keys[missing]
    assert error_of(json.dumps({"mx": keys})).startswith(f"test.yaml: mx.{missing}: required")


@pytest.mark.parametrize("value", ["12345", "007", "1.5", "yes", "~", "[swordfish]", "''"])
def test_password_is_text(value):
    """A password that YAML takes for something else is refused instead of silently changed."""
    line = error_of(f"mx: {{addr: a, login: b, password: {value}}}")
    assert line.startswith("test.yaml: mx.password: expected text")


def test_date_like_password():
    """A password that looks like a date stays as it was typed."""
    assert (
        load("mx: {addr: a, login: b, password: 2024-01-31}", "x", {}).mx.password == "2024-01-31"
    )


@pytest.mark.parametrize(
    "text",
    [
        "mx: {addr: a, login: b, password: !swordfish}",
        "mx: {addr: a, login: b, password: !swordfish! }",
        "mx: {addr: a, login: b, password: !sword!fish }",
        "mx: {addr: a, login: b, password: *swordfish}",
        "mx: {addr: a, login: b, password: &swordfish }",
        "mx: {addr: a, login: b, password:swordfish}",
        "mx: {addr: a, login: b, password: [swordfish]}",
        "mx: {addr: a, login: b, password: {swordfish: x}}",
        "mx: {addr: a, login: b, password: swordfish: x}",
        'mx: {addr: a, login: b, password: "swordfish\\q"}',
        "mx:\n  addr: a\n  password: swordfish\n login: b",
        "mx:\n  password: %swordfish\n  @swordfish",
        '{"mx": {"password": "swordfish", }',
        "token: {key: swordfish}\nmx: {addr: a, login: b, password: c}",
        "mx: {addr: swordfish/, login: b, password: c}",
        "mx: {addr: a, login: b, password: c, fingerprint: swordfish}",
        "mx: {addr: a, login: b, password: c, timeout: swordfish}",
        "mx: {addr: a, login: b, password: c}\ncors: [swordfish]",
        "mx: {addr: a, login: b, password: c}\nproxies: [swordfish]",
    ],
)
def test_errors_never_repeat_values(text):
    """Whatever goes wrong, no value is shown: it may be a secret in the wrong place."""
    assert "fish" not in error_of(text)


def test_environment_wins():
    """A variable overrides the file; the dot of the key is an underscore there."""
    loaded = of(
        "events: {max_unsent: 70000}\nhost: a",
        {
            "MXFLEX_MX_PASSWORD": "12345",
            "MXFLEX_EVENTS_MAX_UNSENT": "80000",
            "MXFLEX_EVENTS_HEARTBEAT": "2.5",
            "MXFLEX_CALLS_RESTRICT": "No",
            "MXFLEX_HOST": "b:81",
            "MXFLEX_LISTEN": "tcp:1, tcp:2",
            "MXFLEX_PROXIES": "10.0.0.1,10.1.0.0/16,2001:db8::/32",
            "MXFLEX_CORS": "",
            "PATH": "/bin",
        },
    )
    assert loaded.mx.password == "12345"
    assert loaded.events.max_unsent == 80000
    assert loaded.events.heartbeat == 2.5
    assert loaded.calls.restrict is False
    assert (loaded.host, loaded.port) == ("b", 81)
    assert loaded.listen == ("tcp:1", "tcp:2")
    assert [str(network) for network in loaded.proxies] == [
        "10.0.0.1/32",
        "10.1.0.0/16",
        "2001:db8::/32",
    ]
    assert loaded.cors == ()


@pytest.mark.parametrize(
    ("state", "stored"), [("", "certs"), ("/s", "/s/certs"), ("/s:/t", "/s/certs")]
)
def test_where_things_are_kept(state, stored):
    """What is kept lies where systemd says, unless an absolute path is given."""
    environ = {"STATE_DIRECTORY": state} if state else {}
    loaded = load(MX, "c.yaml", environ)
    assert loaded.acme.storage == stored
    assert loaded.delivery.storage == stored.replace("certs", "webhooks.db")
    assert loaded.token.storage == stored.replace("certs", "logouts.json")
    staging = load(MX + "acme: {storage: staging}", "c.yaml", environ)
    assert staging.acme.storage == stored.replace("certs", "staging")
    places = "acme: {storage: /a}\ndelivery: {storage: /b}\ntoken: {storage: /c}"
    apart = load(MX + places, "c.yaml", environ)
    assert (apart.acme.storage, apart.delivery.storage, apart.token.storage) == ("/a", "/b", "/c")


def test_environment_completes_the_file():
    """Required keys may come from the environment alone."""
    environ = {"MXFLEX_MX_ADDR": "a", "MXFLEX_MX_LOGIN": "b", "MXFLEX_MX_PASSWORD": "c"}
    assert load("host: localhost", "x", environ).mx.login == "b"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "MXFLEX_MX_PASSWROD",
            "x",
            "MXFLEX_MX_PASSWROD: unknown environment variable; did you mean MXFLEX_MX_PASSWORD?",
        ),
        ("MXFLEX_Q", "x", "MXFLEX_Q: unknown environment variable; there is no such setting"),
        (
            "MXFLEX_Q\r\n\x1b[2J",
            "x",
            "MXFLEX_Q: unknown environment variable; there is no such setting",
        ),
        (
            "MXFLEX_MX_TIMEOUT",
            "soon",
            "MXFLEX_MX_TIMEOUT: mx.timeout: expected seconds, a number from 0.1 to 300",
        ),
        (
            "MXFLEX_MX_PASSWORD",
            "",
            "MXFLEX_MX_PASSWORD: mx.password: expected text; it is empty",
        ),
        (
            "MXFLEX_EVENTS_HISTORY",
            "9" * 9999,
            "MXFLEX_EVENTS_HISTORY: events.history: expected a whole number from 0 to 100000",
        ),
        (
            "MXFLEX_CALLS_RESTRICT",
            "2",
            "MXFLEX_CALLS_RESTRICT: calls.restrict: expected true or false",
        ),
    ],
)
def test_mistakes_in_the_environment(name, value, line):
    """A bad or unknown variable is named instead of the file."""
    assert error_of(MX, {name: value}) == line


def test_password_file():
    """The first line of the file is the password, whatever ends it and follows it."""
    files = {"pw": "пароль with spaces \r\nsecond\n", "bare": "x"}
    for name, password in [("pw", "пароль with spaces "), ("bare", "x")]:
        text = f"mx: {{addr: a, login: b, password_file: {name}}}"
        assert load(text, "x", {}, files.__getitem__).mx.password == password


def test_password_file_mistakes():
    """A password file that is absent, empty or binary is an error about that key."""

    def binary(path):
        return b"\xff".decode()

    text = "mx: {addr: a, login: b, password_file: pw}"
    key = "test.yaml: mx.password_file: "
    assert error_of(text) == f"{key}the file cannot be read: No such file or directory"
    assert error_of(text, read_file=binary) == f"{key}the file is not UTF-8 text"
    for content in ["", "\npassword", "a\x00b"]:
        line = error_of(text, read_file=lambda path, content=content: content)
        assert line == f"{key}the first line of the file should be the password"


def test_password_of_the_environment_hides_those_of_the_file():
    """Either variable replaces either key of the file; only both at one level are a mistake."""
    text = "mx: {addr: a, login: b, password_file: absent}"
    assert load(text, "x", {"MXFLEX_MX_PASSWORD": "c"}, no_file).mx.password == "c"
    environ = {"MXFLEX_MX_PASSWORD_FILE": "pw"}
    assert of("", environ, {"pw": "from file"}.__getitem__).mx.password == "from file"
    environ["MXFLEX_MX_PASSWORD"] = "c"
    line = error_of(MX, environ)
    assert line == (
        "MXFLEX_MX_PASSWORD_FILE: mx.password_file: MXFLEX_MX_PASSWORD is given too;"
        " keep one of the two"
    )


def test_verify():
    """A `none` that was written is told from one that was not; a CA file must hold certificates."""
    assert (mx_of("").verify, mx_of("").verify_chosen) == ("none", False)
    assert (mx_of("verify: none").verify, mx_of("verify: none").verify_chosen) == ("none", True)
    assert mx_of("verify: System").verify == "system"
    pem = {"ca.pem": "-----BEGIN CERTIFICATE-----\n…", "key.pem": f"{BEGIN} PRIVATE KEY-----"}
    assert mx_of("verify: ca.pem", read_file=pem.__getitem__).verify == "ca.pem"
    with pytest.raises(ConfigError, match=r"mx\.verify: .* a CA file with PEM certificates"):
        mx_of("verify: key.pem", read_file=pem.__getitem__)
    from_environment = mx_of("", {"MXFLEX_MX_VERIFY": "none"})
    assert from_environment.verify_chosen


@pytest.mark.parametrize(
    "spelling",
    [
        HEX,
        HEX.upper(),
        ":".join(HEX[i : i + 2] for i in range(0, 64, 2)),
        "sha256 Fingerprint=" + ":".join(HEX[i : i + 2] for i in range(0, 64, 2)).upper(),
        "SHA-256: " + HEX,
    ],
)
def test_fingerprint(spelling):
    """A fingerprint may be pasted as OpenSSL or a browser prints it."""
    assert mx_of(f'fingerprint: "{spelling}"').fingerprint == HEX


def test_bounds_are_inclusive():
    """The bounds that the errors name are themselves allowed."""
    loaded = of(
        f"token: {{lifetime: 1, max_age: 0, key: {'é' * 16}}}\n"
        "events: {heartbeat: 0.1, history: 0, max_unsent: 65536,"
        " max_per_token: 1, max_per_address: 1, max_streams: 1}\n"
        "login: {max_failures: 1, window: 1, parallel: 1, queue: 0, refusal_step: 0}\n"
    )
    assert (loaded.token.lifetime, loaded.token.max_age) == (1, 0)
    assert of("numbers: {country: 'us'}").numbers.country == "US"
    assert loaded.token.key == ("é" * 16).encode()
    assert loaded.events == config.EventSettings(
        heartbeat=0.1,
        history=0,
        max_unsent=65536,
        max_per_token=1,
        max_per_address=1,
        max_streams=1,
    )
    assert loaded.login == config.LoginSettings(
        max_failures=1, window=1, parallel=1, queue=0, refusal_step=0
    )


def test_origins_come_out_as_browsers_send_them():
    """Origins are lower case, without the scheme's own port, and each stands once."""
    text = (
        "cors: ['HTTPS://CRM.example.com:443', 'https://crm.example.com', 'http://[2001:DB8::1]:81',"
        " 'http://localhost:80']"
    )
    assert of(text).cors == (
        "https://crm.example.com",
        "http://[2001:db8::1]:81",
        "http://localhost",
    )


def test_proxies():
    """Addresses become networks of one address."""
    assert of("proxies: [127.0.0.1, '::1', 10.0.0.0/8]").proxies == (
        ip_network("127.0.0.1/32"),
        ip_network("::1/128"),
        ip_network("10.0.0.0/8"),
    )


def test_load_file(tmp_path):
    """A file is read with or without a byte order mark."""
    path = tmp_path / "mxflex.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MX.encode())
    assert load_file(str(path), {}).mx.password == "swordfish"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"mx": {}}).encode())
    with pytest.raises(ConfigError, match=r"mxflex\.yaml: mx\.addr: required"):
        load_file(str(path), {})


def test_load_file_mistakes(tmp_path):
    """A file that cannot be read as text is one line that names it."""
    path = tmp_path / "mxflex.yaml"
    with pytest.raises(ConfigError) as caught:
        load_file(str(path), {})
    assert str(caught.value) == (
        f"{path}: there is no such file; name another one with --config, or try --demo"
    )
    with pytest.raises(ConfigError) as caught:
        load_file(str(tmp_path), {})
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"
    path.write_bytes("host: é".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_file(str(path), {})
    assert str(caught.value) == f"{path}: is not UTF-8 text (byte 7)"
    path.write_bytes(b"#" * (config.MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match=r"cannot be read: it is larger than 1 MiB"):
        load_file(str(path), {})
    path.write_bytes(MX.encode().ljust(config.MAX_FILE_BYTES))
    assert load_file(str(path), {}).mx.login == "mxflex"


def test_sample_loads_as_it_is():
    """The sample is a sound configuration that says nothing but defaults."""
    loaded = load_file(str(SAMPLE), {})
    assert loaded == Config(mx=MXSettings(host="192.0.2.10", login="mxflex", password="secret"))


@given(st.text() | st.text(alphabet="{}[]:,-?&*!|>'\"%@# \n\tahost1.mx"))
def test_any_text_is_a_value_or_a_config_error(text):
    """No text at all raises anything but ConfigError."""
    with contextlib.suppress(ConfigError):
        load(text, "x", {}, no_file)
