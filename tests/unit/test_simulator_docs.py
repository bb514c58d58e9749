"""The simulator's manual is complete, and its example is true."""

from __future__ import annotations

import pathlib
import re
import textwrap

import attrs
import pytest

from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import User
from mxflex.simulator.faults import CommandFault, Faults
from mxflex.simulator.scenario import _STEPS, load

MANUAL = (pathlib.Path(__file__).parents[2] / "docs" / "simulator.md").read_text("utf-8")
WORDS = set(re.findall(r"\w+", MANUAL))


@pytest.mark.parametrize("cls", [Behaviour, User, CommandFault, Faults])
def test_every_field_is_described(cls):
    """Switches, keys of a user, and faults: none is left out."""
    names = {field.name for field in attrs.fields(cls) if not field.name.startswith("_")}
    assert names <= WORDS


def test_every_step_is_described():
    """All steps of scripts stand in the table."""
    assert set(_STEPS) <= WORDS


def test_the_example_is_a_scenario():
    """What the manual shows can be loaded as it stands."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", MANUAL, re.MULTILINE)
    (example,) = [block for block in blocks if "scripts:" in block]
    scenario = load(textwrap.dedent(example), "manual")
    assert scenario.users[0].name == "Anna Petrova"
    assert len(scenario.scripts[0].steps) == 5
