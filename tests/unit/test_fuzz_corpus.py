"""The inputs that fuzzing has kept, through the same harnesses, without atheris."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fuzz import TARGETS
from mxflex.wire.connection import ClientConnection, ServerConnection

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"
KEPT = [(target, path) for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


def harness(target):
    return importlib.import_module(f"fuzz.{target}")


@pytest.mark.parametrize(
    ("target", "path"), KEPT, ids=[f"{target}/{path.name}" for target, path in KEPT]
)
def test_kept_input(target, path):
    """An input that once was a finding, or leads to one, keeps its harness's promise."""
    harness(target).check(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_harness_has_a_corpus(target):
    """Each harness begins with inputs that reach far; none stands alone."""
    assert {target for target, _ in KEPT} == set(TARGETS)
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    harness(target).check(b"")


def of_corpus(target, name):
    return (CORPUS / target / name).read_bytes()


@pytest.mark.parametrize("end", [ClientConnection, ServerConnection])
@pytest.mark.parametrize("error", [ValueError, AttributeError, RecursionError])
def test_frames_notices_errors(monkeypatch, end, error):
    """An end that raises anything but its documented error breaks the promise."""

    def broken(self):
        raise error

    monkeypatch.setattr(end, "next_event", broken)
    with pytest.raises(error):
        harness("frames").check(of_corpus("frames", "event-delivered"))


def test_frames_notices_cuts(monkeypatch):
    """An end that hears something else when the stream comes in pieces breaks the promise."""
    whole = ClientConnection.receive_data

    def forgetful(self, data):
        whole(self, data if len(data) > 20 else data[:-1])

    monkeypatch.setattr(ClientConnection, "receive_data", forgetful)
    with pytest.raises(AssertionError):
        harness("frames").check(b"\x03" + of_corpus("frames", "event-delivered")[1:])


def test_messages_notices(monkeypatch):
    """A field that is not written as it was read, and JSON of two lines, break the promise."""
    check, body = harness("messages").check, of_corpus("messages", "event-delivered")
    with monkeypatch.context() as patch:
        patch.setattr("mxflex.wire.codec.escape_text", str.upper)
        with pytest.raises(AssertionError):
            check(body)
    for content in (b'{"cause":\n"normal"}', b'{"cause":"invented"}'):
        with monkeypatch.context() as patch:
            patch.setattr(
                "fuzz.messages.encode_call_event", lambda ext, event, text=content: ("", text)
            )
            with pytest.raises(AssertionError):
                check(body)


def test_configuration_notices(monkeypatch):
    """An undocumented error, and an error of two lines, break the promise."""
    check = harness("configuration").check
    with monkeypatch.context() as patch:
        patch.setattr("mxflex.config._build", dict.__getitem__)
        with pytest.raises(KeyError):
            check(of_corpus("configuration", "least"))
    monkeypatch.setattr("mxflex.config._shown", str)
    check(b"hots: x")
    with pytest.raises(AssertionError):
        check(b'"ho\\nts": x')
