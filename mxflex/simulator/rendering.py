"""Message to XML text, in the spelling that the switches choose.

The messages of `mxflex.wire` write one spelling. Real servers differ in ways that no client may
mind; they are made here by rewriting the finished text, in which `<` only ever begins a tag.
"""

from __future__ import annotations

import re

from mxflex.simulator.behaviour import Behaviour
from mxflex.wire.messages import (
    CSTAError,
    LoginFailed,
    LoginResponse,
    Message,
    RecordingStateEvent,
    TransferredEvent,
)
from mxflex.wire.xmltext import escape_attribute

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
NAMESPACE = "http://www.ecma-international.org/standards/ecma-323/csta/ed4"

# The names of the bits of `cmdsAllowed` are unknown; these are two that MX 17 lists.
_COMMAND_LIST = "<cmdsAllowed><cmd>Disconnect</cmd><cmd>Transfer</cmd></cmdsAllowed>"
_COMMANDS = re.compile(r"<cmdsAllowed>[0-9]+</cmdsAllowed>")
_ABSENT = re.compile(r"<(?:notKnown|notRequired)/>")
_TAG = re.compile(r"<(/?)(?=[A-Za-z])")
_ROOT = re.compile(r"<([^\s/>]+)")


def render(message: Message, behaviour: Behaviour) -> str:
    """Give the XML text of a message.

    Raises:
        LocalProtocolError: A value has a character that XML cannot carry.
    """
    text = _refusal(message, behaviour) if isinstance(message, CSTAError) else message.to_text()
    if isinstance(message, LoginResponse | LoginFailed) and behaviour.code_attribute != "Code":
        text = text.replace(" Code=", f" {behaviour.code_attribute}=", 1)
    if isinstance(message, TransferredEvent):
        text = text.replace(message.wire_name, behaviour.transferred_name)
    if isinstance(message, RecordingStateEvent) and not behaviour.recording_nested:
        text = text.replace("<connection>", "").replace("</connection>", "")
    if behaviour.commands_as_list:
        text = _COMMANDS.sub(_COMMAND_LIST, text)
    if behaviour.absent_device != "mixed":
        empty = behaviour.absent_device == "empty"
        text = _ABSENT.sub("" if empty else f"<{behaviour.absent_device}/>", text)
    if behaviour.namespace:
        text = _TAG.sub(r"<\1csta:", text)
        text = _ROOT.sub(rf'<\1 xmlns:csta="{NAMESPACE}"', text, count=1)
    return DECLARATION + text if behaviour.xml_declaration else text


def _refusal(error: CSTAError, behaviour: Behaviour) -> str:
    if behaviour.error_form == "CSTAErrorCode":
        return error.to_text()
    name = "errorResponse" if behaviour.error_form == "errorResponse" else "Response"
    return f'<{name} Error="{escape_attribute(error.text)}"/>'
