"""When faults strike."""

from __future__ import annotations

import pytest

from mxflex.errors import RemoteProtocolError
from mxflex.simulator.faults import (
    EVERY_COMMAND,
    LOSES_FRAMING,
    MALFORMED,
    NO_FAULT,
    CommandFault,
    Faults,
)
from mxflex.wire.connection import BadFrame, ClientConnection
from mxflex.wire.framing import encode_frame

HARMLESS = sorted(set(MALFORMED) - LOSES_FRAMING)


def test_a_fault_strikes_its_command_alone():
    """Other commands work, and so does the same one once the fault is cleared."""
    faults = Faults()
    fault = CommandFault(ignored=True)
    faults.set("HoldCall", fault)
    assert faults.strike("HoldCall") is fault
    assert faults.strike("AnswerCall") is NO_FAULT
    faults.clear("HoldCall")
    assert faults.strike("HoldCall") is NO_FAULT


def test_a_fault_can_begin_and_end_by_count():
    """`first` and `times` choose the occurrences."""
    faults = Faults()
    fault = CommandFault(ignored=True, first=2, times=2)
    faults.set("MonitorStart", fault)
    assert [faults.strike("MonitorStart") is fault for _ in range(5)] == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_fault_for_every_command_gives_way_to_a_special_one():
    """The command's own fault is looked at first."""
    faults = Faults()
    special, general = CommandFault(twice=True), CommandFault(drop=True)
    faults.set(EVERY_COMMAND, general)
    faults.set("HoldCall", special)
    assert faults.strike("HoldCall") is special
    assert faults.strike("RetrieveCall") is general


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_malformed_frame_is_passed_by(name):
    """The frame behind it is read; none of them costs the connection."""
    wire = ClientConnection()
    wire.receive_data(MALFORMED[name] + encode_frame(9999, b"<SoundEvent/>"))
    happened = []
    while (event := wire.next_event()) is not None:
        happened.append(event)
    assert happened[-1].event.name == "SoundEvent"


@pytest.mark.parametrize("name", ["doctype", "billion laughs", "external entity", "two roots"])
def test_a_bad_body_is_reported(name):
    """What is no XML, or too much of it, is a bad frame and not an event."""
    wire = ClientConnection()
    wire.receive_data(MALFORMED[name])
    assert isinstance(wire.next_event(), BadFrame)


@pytest.mark.parametrize("name", sorted(LOSES_FRAMING))
def test_lost_framing_is_final(name):
    """The malformed headers are those after which nothing can be read."""
    wire = ClientConnection()
    wire.receive_data(MALFORMED[name])
    with pytest.raises(RemoteProtocolError):
        wire.next_event()
