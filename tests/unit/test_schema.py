"""The JSON Schema of the configuration, held together with the code, the sample and the docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mxflex.config import REQUIRED, Config, MXSettings, default_of, forms, known_keys, load
from mxflex.errors import ConfigError
from mxflex.schema import config_schema, schema_text

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "mxflex.yaml.sample"
SCHEMA = config_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
# Every file that a configuration may name; the head of a PEM block is all that is looked at.
BEGIN = "-----BEGIN"
FILE = f"secret {BEGIN} CERTIFICATE-----{BEGIN} PRIVATE KEY-----"
MX = {"addr": "192.0.2.10", "login": "mxflex", "password": "secret"}
# Keys that stand for one another, or only beside another.
INSTEAD = {"mx.password_file": "mx.password"}
BESIDE = {
    "tls.certificate": {"key": "key.pem"},
    "tls.key": {"certificate": "certificate.pem"},
    "acme.eab_kid": {"eab_key": "c2VjcmV0"},
    "acme.eab_key": {"eab_kid": "kid-1"},
}


def property_of(key):
    """Give what the schema says of a key."""
    *section, name = key.split(".")
    where = SCHEMA["properties"]
    for each in section:
        where = where[each]["properties"]
    return where[name]


def sample_keys():
    """Give (key, comment above it, value, line number) for every key of the sample."""
    section, comment = "", []
    for number, line in enumerate(SAMPLE.read_text(encoding="utf-8").splitlines()):
        match = re.fullmatch(r"( *)#?([a-z_]+):(.*)", line)
        if match is None:
            told = re.fullmatch(r" *# ?(.*)", line)
            comment = [*comment, told[1]] if told else []
            continue
        indent, name, value = match.groups()
        if value:
            key = f"{section}.{name}" if indent else name
            yield key, " ".join(comment), yaml.safe_load(value), number
        else:
            section = name
        comment = []


def sample_with_all():
    """Give the sample with every key taken in, but for the one of two that exclude each other."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    for key, _, _, number in sample_keys():
        lines[number] = "" if key in INSTEAD.values() else lines[number].replace("#", "", 1)
    return "\n".join(lines)


def document(key, value):
    """Give a configuration in which one key has a value, and nothing else is wrong."""
    *section, name = key.split(".")
    inside = {name: value, **BESIDE.get(key, {})}
    whole = {"mx": {k: v for k, v in MX.items() if f"mx.{k}" != INSTEAD.get(key)}}
    if section:
        whole[section[0]] = whole.get(section[0], {}) | inside
    else:
        whole |= inside
    return whole


def loads(whole):
    """Tell whether MXFlex takes a configuration; its files are there."""
    try:
        load(json.dumps(whole), "test.json", {}, lambda path: FILE)
    except ConfigError:
        return False
    return True


def test_the_schema_is_sound():
    """It is a JSON Schema of 2020-12, and describes each section and each key of the code."""
    Draft202012Validator.check_schema(SCHEMA)
    described = {
        f"{name}.{inner}" if "properties" in each else inner
        for name, each in SCHEMA["properties"].items()
        for inner in each.get("properties", {name: each})
    }
    assert described == known_keys()
    for name, each in SCHEMA["properties"].items():
        for told in (each, *each.get("properties", {}).values()):
            assert told["description"].endswith("."), name


def test_the_file_is_the_schema():
    """mxflex.schema.json is what `twistd mxflex --config-schema` prints."""
    done = subprocess.run(
        [Path(sys.executable).with_name("twistd"), "mxflex", "--config-schema"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == schema_text()
    assert (ROOT / "mxflex.schema.json").read_text(encoding="utf-8") == schema_text()


def test_defaults_are_those_of_the_code():
    """What the schema calls a default changes nothing when it is written out."""
    as_it_is = load(json.dumps(document("html", "html")), "test.json", {})
    assert as_it_is == Config(mx=MXSettings(host="192.0.2.10", login="mxflex", password="secret"))
    for key in known_keys():
        told = property_of(key)
        assert told.get("default") == default_of(key)
        if "default" in told:
            written = load(json.dumps(document(key, told["default"])), "test.json", {})
            # Whether somebody chose `none` is remembered.
            assert key == "mx.verify" or written == as_it_is


def test_sample_schema_and_code_say_the_same():
    """The sample has every key once, with the schema's words above it, and its default behind."""
    keys = [key for key, *_ in sample_keys()]
    assert keys == list(forms())
    for key, comment, value, _ in sample_keys():
        told = property_of(key)
        assert comment == told["description"]
        assert value == (told["default"] if "default" in told else told["examples"][0]), key


def test_sample_is_valid():
    """The sample names the schema, which takes it as it is and with every key; so does the code."""
    text = SAMPLE.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=mxflex.schema.json\n")
    for each in (text, sample_with_all()):
        assert list(VALIDATOR.iter_errors(yaml.safe_load(each))) == []
        load(each, "sample", {}, lambda path: FILE)
    taken = yaml.safe_load(sample_with_all())
    shown = {
        f"{name}.{inner}" if isinstance(each, dict) else inner
        for name, each in taken.items()
        for inner in (each if isinstance(each, dict) else {name: each})
    }
    assert shown == known_keys() - set(INSTEAD.values())


def may_be(told):
    """Say what a value may be, as docs/operation.md does."""
    if "enum" in told:
        return ", ".join(f"`{each}`" for each in told["enum"])
    low, high = told.get("minimum"), told.get("maximum")
    return {
        "boolean": "`true`, `false`",
        "integer": f"whole number, {low} to {high}",
        "number": f"number, {low} to {high}",
        "string": "text",
    }.get(str(told["type"]), "list")


def test_docs_say_the_same():
    """The table of keys in docs/operation.md has each of them, its form and its default."""
    text = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    table = text.partition("### Keys\n")[2].partition("\n#")[0]
    rows = [
        tuple(row)
        for row in re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|(.*?)\|", table, re.MULTILINE)
    ]
    wanted = []
    for key in forms():
        told = property_of(key)
        default = f"`{json.dumps(told['default'])}`" if "default" in told else ""
        default = "required" if key in REQUIRED else default
        wanted.append((key, may_be(told), default.replace('"', "")))
    rows = [(key, form, default.strip()) for key, form, default in rows]
    assert rows == wanted


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
NUMBERS = st.integers(-2, 70000) | st.floats(-2, 1000) | st.integers(0, 400).map(float)
WORDS = st.sampled_from(
    [
        "",
        "none",
        "1.2",
        "US",
        "a@example.com",
        "tcp:80",
        "https://example.com/",
        "10.0.0.0/8",
        "[::1]:80",
    ]
)
TEXTS = st.text(max_size=40) | WORDS
VALUES = (
    SCALARS
    | NUMBERS
    | TEXTS
    | st.lists(TEXTS | SCALARS, max_size=3)
    | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
)


def is_text(value):
    """Tell whether a value is of the type of a text, or of a list of texts."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(each, str) for each in value)
    )


# Some forty for each key.
@settings(max_examples=40 * len(known_keys()))
@given(data=st.data())
def test_schema_and_code_agree(data):
    """Whatever the schema refuses the code refuses; and the other way round for types and ranges.

    Within a text, MXFlex may be stricter: it looks into files, and knows the countries.
    """
    key = data.draw(st.sampled_from(sorted(known_keys())))
    told = property_of(key)
    bounds = [told[name] for name in ("minimum", "maximum") if name in told]
    around = st.sampled_from(
        [bound + step for bound in bounds for step in (-1, -0.5, 0, 0.5, 1)] or [0]
    )
    value = data.draw(VALUES | around)
    whole = document(key, value)
    valid, loaded = VALIDATOR.is_valid(whole), loads(whole)
    assert valid or not loaded
    assert loaded or not valid or is_text(value)


@pytest.mark.parametrize(
    "whole",
    [
        {"hots": "localhost"},
        {"mx": {**MX, "adr": "192.0.2.10"}},
        {"mx": {"login": "mxflex", "password": "secret"}},
        {"mx": {**MX, "password_file": "password"}},
        {"mx": None},
        {"mx": MX, "token": []},
        {},
        [],
    ],
)
def test_mistakes_beyond_one_key(whole):
    """Unknown and missing keys, a password given twice, and what is no section are refused."""
    assert not VALIDATOR.is_valid(whole)
    assert not loads(whole)


def test_what_the_environment_gives_may_be_missing():
    """The file of the systemd unit, whose password is a credential, is valid without it."""
    whole = {"mx": {"addr": "192.0.2.10", "login": "mxflex"}, "token": None}
    assert VALIDATOR.is_valid(whole)
    load(json.dumps(whole), "test.json", {"MXFLEX_MX_PASSWORD": "secret"})
