"""The simulator's manual is complete, and its example is true."""

from __future__ import annotations

import pathlib
import re
import textwrap

import attrs
import pytest

from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import User
from mxflex.simulator.control import Control
from mxflex.simulator.demo import SCENARIO
from mxflex.simulator.faults import CommandFault, Faults
from mxflex.simulator.scenario import AT, STEPS, TOWARDS, load

MANUAL = (pathlib.Path(__file__).parents[2] / "docs" / "simulator.md").read_text("utf-8")
WORDS = set(re.findall(r"\w+", MANUAL))


@pytest.mark.parametrize("cls", [Behaviour, User, CommandFault, Faults])
def test_every_field_is_described(cls):
    """Switches, keys of a user, and faults: none is left out."""
    names = {field.name for field in attrs.fields(cls) if not field.name.startswith("_")}
    assert names <= WORDS


def test_every_step_is_described():
    """All steps of scripts stand in the table."""
    assert set(STEPS) <= WORDS


def test_every_path_of_the_control_api_is_described():
    """Each method of each route stands in a table, as METHOD /path."""
    for rule in Control.app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", "NAME", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            shown = re.escape(f"{method} {path}").replace("NAME", "[A-Z]+")
            assert re.search(rf"`{shown}`", MANUAL), (method, rule.rule)


def test_every_action_is_described():
    """Whatever a telephone can be told stands in the section on calls."""
    section = MANUAL.partition("### Calls")[2].partition("###")[0]
    assert {f"`{action}`" for action in (*AT, *TOWARDS)} <= set(re.findall(r"`\w+`", section))


def test_every_script_on_demand_is_described():
    """Those of the built-in scenario stand in the table."""
    scripts = [script for script in load(SCENARIO, "demo").scripts if script.start is None]
    assert {f"`{script.name}`" for script in scripts} <= set(re.findall(r"`[a-z-]+`", MANUAL))


def test_the_example_is_a_scenario():
    """What the manual shows can be loaded as it stands."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", MANUAL, re.MULTILINE)
    (example,) = [block for block in blocks if "scripts:" in block]
    scenario = load(textwrap.dedent(example), "manual")
    assert scenario.users[0].name == "Anna Petrova"
    assert len(scenario.scripts[0].steps) == 5
