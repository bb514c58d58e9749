"""The spellings in which the simulator writes, and that the client's reader bears them all."""

from __future__ import annotations

import attrs
import pytest

from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.rendering import DECLARATION, NAMESPACE, render
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    CSTAError,
    DeliveredEvent,
    HeldEvent,
    LoginFailed,
    LoginResponse,
    RecordingStateEvent,
    TransferredEvent,
    is_error,
    read_event,
)
from mxflex.wire.xmltext import parse

CALL = ConnectionID(7, "3095")
HELD = HeldEvent(
    monitor="1", connection=CALL, holding_device="<&>", cause="normal", cmds_allowed=376
)


def test_by_default_messages_are_written_as_they_are():
    """No switch set: the text is that of the message itself."""
    assert render(HELD, Behaviour()) == HELD.to_text()


def test_declaration_and_namespace():
    """Every element gets the prefix, the root declares it, and text is left alone."""
    text = render(HELD, Behaviour(xml_declaration=True, namespace=True))
    assert text.startswith(f'{DECLARATION}<csta:HeldEvent xmlns:csta="{NAMESPACE}"><csta:monitor')
    assert "</csta:HeldEvent>" in text
    assert read_event(parse(text.encode())) == HELD


def test_an_empty_root_can_have_a_namespace():
    """A message that is one empty tag stays well-formed."""
    text = render(LoginFailed(code=None), Behaviour(namespace=True))
    assert parse(text.encode()).tag == "loginFailed"


def test_the_command_list_of_newer_servers():
    """`cmdsAllowed` as elements is read as absent."""
    text = render(HELD, Behaviour(commands_as_list=True))
    assert "<cmd>Disconnect</cmd>" in text
    assert read_event(parse(text.encode())) == attrs.evolve(HELD, cmds_allowed=None)


@pytest.mark.parametrize("form", ["notKnown", "notRequired", "empty"])
def test_absent_devices_read_as_empty(form):
    """Each way to write a device without a number means the same."""
    event = DeliveredEvent(monitor="1", connection=CALL)
    text = render(event, Behaviour(absent_device=form))
    other = {"notKnown": "notRequired", "notRequired": "notKnown", "empty": "not"}[form]
    assert f"<{other}" not in text
    assert read_event(parse(text.encode())) == event


def test_the_other_spelling_of_transferred():
    """Two r instead of one, at both ends of the element."""
    event = TransferredEvent(monitor="1", connection=CALL, transferring_device="3095")
    text = render(event, Behaviour(transferred_name="TransferredEvent"))
    assert text.startswith("<TransferredEvent>")
    assert text.endswith("</TransferredEvent>")
    assert read_event(parse(text.encode())) == event


def test_recording_state_without_its_wrapper():
    """Call and device may stand in the event itself."""
    event = RecordingStateEvent(monitor="1", connection=CALL, available=True)
    text = render(event, Behaviour(recording_nested=False))
    assert "<connection>" not in text
    assert read_event(parse(text.encode())) == event


def test_the_code_in_lower_case():
    """Both login answers can spell their code as some clients expect it."""
    for answer in (LoginResponse(code=0, serial="63022"), LoginFailed(code=4)):
        text = render(answer, Behaviour(code_attribute="code"))
        assert " code=" in text
        assert type(answer).from_element(parse(text.encode())) == answer


@pytest.mark.parametrize("form", ["CSTAErrorCode", "errorResponse", "attribute"])
def test_every_form_of_a_refusal_reads_as_one(form):
    """The words survive, whatever they are wrapped in."""
    text = render(CSTAError(text='a "b" <c>', category="operation"), Behaviour(error_form=form))
    element = parse(text.encode())
    assert is_error(element)
    assert CSTAError.from_element(element).text == 'a "b" <c>'
