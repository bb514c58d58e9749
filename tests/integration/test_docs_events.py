"""docs/events.md is true: each call goes as it says, on a whole daemon, ruled over HTTP."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import pytest
import pytest_twisted
import yaml

from mxflex.simulator.demo import SCENARIO, SCENARIO_NAME
from mxflex.simulator.playing import OPERATIONS, TOWARDS_STATES
from mxflex.simulator.scenario import load
from mxflex.simulator.switchboard import State
from mxflex.web.eventjson import EVENT_KEYS
from tests.integration.rehearsal import LOGINS, Rehearsal

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "events.md").read_text("utf-8")
# Those that are not about calls, and the one whose keys are not in the table of the code.
MORE_KEYS = {
    "ParkedEvent": ["deviceId", "parkId"],
    "ContactEvent": ["action", "contact"],
    "status": ["mx"],
    "gap": ["reason", "since"],
}
KEYS = {cls.__name__: [key.name for key in keys] for cls, keys in EVENT_KEYS.items()} | MORE_KEYS
OPTIONAL = {
    cls.__name__: {key.name for key in keys if key.optional} for cls, keys in EVENT_KEYS.items()
}
# What differs from one run to the next.
CHANGING = re.compile(
    r'(?<="callId":)\d+|(?<="globalCallId":")\d+|63022-00-[0-9A-F-]{9}|(?<="since":")[^"]+'
)
# How a client does what a telephone can; the rest is done at telephones alone.
PATHS = {
    "call": "/api/call",
    "consult": "/api/call",
    "answer": "/api/call/answer",
    "hang_up": "/api/call/hangup",
    "hold": "/api/call/hold",
    "retrieve": "/api/call/retrieve",
    "transfer": "/api/call/transfer",
    "deflect": "/api/call/deflect",
    "join": "/api/call/transfer/consult",
    "park": "/api/call/park",
    "record": "/api/call/record/start",
    "stop_recording": "/api/call/record/stop",
}
# In which state a call must be for it.
STATES = {"join": (State.HOLD,)} | TOWARDS_STATES | {k: v[0] for k, v in OPERATIONS.items()}


@attrs.frozen
class Row:
    """A row of the table of one way that a call can go.

    Attributes:
        step: What happens: a step of a script, or a request to the control API.
        events: The names of the events that each extension's stream gets.
        calls: The direction and state of each extension's calls then.
    """

    step: str
    events: dict[str, list[str]]
    calls: dict[str, str]

    @property
    def parsed(self):
        """The step as a script has it; None for a request."""
        return None if self.step.startswith("POST ") else yaml.safe_load(f"{{{self.step}}}")


@attrs.frozen
class Way:
    """One way that a call can go, as the document shows it.

    Attributes:
        title: The heading.
        script: The script that plays it; "" where there is none.
        rows: Its table.
        diagram: The lines of its diagram.
    """

    title: str
    script: str
    rows: list[Row]
    diagram: list[str]

    def events(self, ext):
        """All events that a stream gets, in order."""
        return [name for row in self.rows for name in row.events.get(ext, [])]


def cells_of(line):
    """Give the cells of a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_way(section):
    """Read one section."""
    title, _, body = section.partition("\n")
    script = re.search(r"^Script `([a-z-]+)`\.", body, re.MULTILINE)
    diagram = re.search(r"^```mermaid\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
    lines = [line for line in body.splitlines() if line.startswith("|")]
    columns = cells_of(lines[0])
    assert columns[0] == "step"
    rows = []
    for line in lines[2:]:
        step, *cells = cells_of(line)
        row = Row(step.strip("`"), {}, {})
        for column, cell in zip(columns[1:], cells, strict=True):
            what, ext = column.split(" of ")
            if what == "stream":
                row.events[ext] = re.findall(r"`(\w+)`", cell)
            else:
                row.calls[ext] = cell
        rows.append(row)
    return Way(title, script[1] if script else "", rows, diagram[1].splitlines())


def read_ways():
    """Read all sections that have a diagram."""
    part = TEXT.partition("\n## How calls go\n")[2].partition("\n## ")[0]
    return [read_way(section) for section in part.split("\n### ")[1:]]


WAYS = read_ways()
EVENTS = {
    section.partition("\n")[0]: section
    for section in TEXT.partition("\n## The events\n")[2].partition("\n## ")[0].split("\n### ")[1:]
}
COMMON = EVENTS.pop("Keys that many have")


def keys_in(section):
    """Give the keys that the table of a section explains."""
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`(\w+)`", cells_of(row)[0])}


def example_in(section):
    """Give name and data of the example in a section."""
    event = re.search(r"^    event: (.*)\n    data: (.*)$", section, re.MULTILINE)
    return event[1], event[2]


def shown(calls):
    """Give calls as the document does."""
    return ", ".join(f"{c.get('direction', '')} {c['state']}".strip() for c in calls) or "none"


# --- The text -------------------------------------------------------------------------------------


def test_every_event_is_described():
    """Each that a stream can carry has a section, which explains each of its keys."""
    assert set(EVENTS) == set(KEYS)
    for name, section in EVENTS.items():
        assert set(KEYS[name]) <= keys_in(section) | keys_in(COMMON), name
        # What is explained there exists.
        assert keys_in(section) <= set(KEYS[name]), name


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_has_an_example(name):
    """One of its own, with the keys in their order."""
    title, data = example_in(EVENTS[name])
    given = list(json.loads(data))
    assert title == name
    assert given == [key for key in KEYS[name] if key in given]
    assert set(KEYS[name]) - set(given) <= OPTIONAL.get(name, set())


def test_every_script_on_demand_is_shown():
    """Each has a section, with the same steps."""
    scripts = [script for script in load(SCENARIO, SCENARIO_NAME).scripts if script.start is None]
    assert {way.script for way in WAYS if way.script} == {script.name for script in scripts}
    flows = {flow["name"]: flow["steps"] for flow in yaml.safe_load(SCENARIO)["scripts"]}
    for way in WAYS:
        if way.script:
            steps = [step for step in flows[way.script] if "wait" not in step]
            assert [row.parsed for row in way.rows] == steps, way.title


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_diagrams_and_tables_agree(way):
    """A diagram has an arrow for each step, and behind it those to the streams, each declared."""
    declared = set()
    told = []
    for line in way.diagram[1:]:
        words = line.split()
        if words[0] in ("actor", "participant"):
            declared.add(words[1])
            continue
        arrow = re.fullmatch(r"\s+(\w+)(->>|-\))(\w+): (.+)", line)
        assert arrow, line
        assert {arrow[1], arrow[3]} <= declared, line
        if arrow[2] == "->>":
            told.append({})
        else:
            told[-1].setdefault(arrow[3].removeprefix("S"), []).append(arrow[4])
    assert way.diagram[0] == "sequenceDiagram"
    # A switch is nothing that anybody in the picture does.
    rows = [row for row in way.rows if not row.step.startswith("POST /behaviour")]
    seen = [{ext: names for ext, names in row.events.items() if names} for row in rows]
    assert told == seen


def test_what_clients_can_do_is_told():
    """The table of requests has each, and nothing else."""
    told = {}
    for line in re.findall(r"^\| (`\w+`.*) \| (`POST /api.*) \|$", TEXT, re.MULTILINE):
        steps, paths = (re.findall(r"`(?:POST )?([\w/]+)`", cell) for cell in line)
        told |= dict(zip(steps, paths, strict=True))
    assert told == PATHS


# --- The calls ------------------------------------------------------------------------------------


class Player:
    """Plays ways step by step, and compares.

    Attributes:
        events: All events that have come: the title of the way, the extension, and the event.
    """

    def __init__(self, rehearsal, act):
        self.rehearsal = rehearsal
        self.events = []
        self._act = act

    async def play(self, way):
        """Play one, and hold it to its table."""
        rehearsal = self.rehearsal
        await rehearsal.control.post("/reset", status=204)
        await rehearsal.news()
        for row in way.rows:
            await self._act(rehearsal, row)
            news = await rehearsal.news()
            told = {ext: [event.name for event in events] for ext, events in news.items()}
            assert told == {ext: row.events.get(ext, []) for ext in LOGINS}, (way.title, row.step)
            for ext in LOGINS:
                calls = shown(await rehearsal.calls(ext))
                assert calls == row.calls.get(ext, "none"), (way.title, row.step, ext)
            self.events += [(way.title, ext, event) for ext in LOGINS for event in news[ext]]


async def at_telephones(rehearsal, row):
    """Do a step as a script does."""
    if row.parsed is not None:
        await rehearsal.control.post("/steps", row.parsed)
        return
    _, path, *body = row.step.split(" ", 2)
    link, mx = rehearsal.running.link, rehearsal.control.mx
    connects, asked = link.connects, len(mx.received("SnapshotDevice"))
    reply = await rehearsal.control.ask("POST", path, json.loads(body[0]) if body else None)
    assert reply.status in (200, 204), reply
    if path.startswith("/connections/"):
        # What is told while MXFlex comes back may overtake the word that it is back.
        asked += len(LOGINS)
        await rehearsal.running.when(
            lambda: link.connects > connects and len(mx.received("SnapshotDevice")) >= asked
        )


async def through_the_api(rehearsal, row):
    """Do a step as a client of the extension does, where it has one and the API can."""
    ((action, argument),) = (row.parsed or {"": ""}).items()
    ext = argument if isinstance(argument, str) else argument.get("from")
    if action not in PATHS or ext not in LOGINS:
        await at_telephones(rehearsal, row)
        return
    if action in ("call", "consult"):
        fields = {"to": argument["to"]}
    else:
        calls = await rehearsal.calls(ext)
        wanted = STATES[action]
        (*_, call) = [each for each in calls if not wanted or each["state"] in wanted]
        fields = {"callId": call["callId"], "deviceId": call["deviceId"]}
        if action == "join":
            (active,) = [c for c in calls if c["state"] == "connected"]
            fields |= {"activeCallId": active["callId"], "activeDeviceId": active["deviceId"]}
        if action in ("transfer", "deflect"):
            fields["destination"] = argument["to"]
    reply = await rehearsal.running.post(PATHS[action], fields, token=rehearsal.tokens[ext])
    assert reply.status in (200, 204), reply


@pytest_twisted.ensureDeferred
async def test_calls_go_as_they_are_told(daemon, control):
    """Step by step each stream gets the events of the tables, and `/api/calls` says what they say.

    Each example is an event that came, and what is said of single events holds.
    """
    player = Player(await Rehearsal.begin(daemon, control), at_telephones)
    for way in WAYS:
        await player.play(way)
    came = {
        (event.name, CHANGING.sub("?", event.data))
        for _, ext, event in player.events
        if ext == "3095"
    }
    for name, section in EVENTS.items():
        assert (name, CHANGING.sub("?", example_in(section)[1])) in came, name
    hold_to_the_words(player.events)


def hold_to_the_words(events):
    """Compare what is said in words."""

    def all_of(title, ext, name):
        return [e.json for way, to, e in events if (way, to, e.name) == (title, ext, name)]

    (missed,) = all_of("Missed", "3095", "ConnectionClearedEvent")
    (rejected,) = all_of("Rejected", "3095", "ConnectionClearedEvent")
    assert missed["releasingDevice"] == "12025550104"
    assert rejected["releasingDevice"] == "3095"
    assert all_of("Voicemail", "3095", "DeliveredEvent")[1]["alertingDevice"] == "*86"
    assert all_of("Voicemail", "3095", "EstablishedEvent")[0]["answeringDevice"] == "*86"
    assert all_of("Outgoing, busy", "3095", "FailedEvent")[0]["cause"] == "busy"
    unknown = all_of("Outgoing, no such number", "3095", "FailedEvent")
    assert unknown[0]["cause"] == "destNotObtainable"
    ours, theirs = (all_of("Between colleagues", ext, "DeliveredEvent")[0] for ext in LOGINS)
    assert ours["globalCallId"] == theirs["globalCallId"]
    assert ours["callingDevice"] == "3044"
    for title in ("Handed on without asking", "Sent elsewhere while it rings"):
        (delivered,) = all_of(title, "3044", "DeliveredEvent")
        assert delivered["callingDevice"] == "12025550104"
        assert delivered["lastRedirectionDevice"] == "3095"
    title = "Handed on after asking"
    (rings,) = all_of(title, "3044", "DeliveredEvent")
    first, joined = all_of(title, "3044", "EstablishedEvent")
    assert rings["callId"] == first["callId"] == joined["callId"]
    assert joined["globalCallId"] == all_of(title, "3095", "DeliveredEvent")[0]["globalCallId"]
    assert joined["globalCallId"] != first["globalCallId"]
    assert joined["callingDevice"] == "12025550104"
    assert [each["active"] for each in all_of("Recorded", "3095", "RecordingStateEvent")] == [
        True,
        False,
    ]


@pytest_twisted.ensureDeferred
async def test_it_is_the_same_through_the_api(daemon, control):
    """A client of the extension does what the telephone did, and all get the same events."""
    player = Player(await Rehearsal.begin(daemon, control), through_the_api)
    for way in WAYS:
        if way.script:
            await player.play(way)


@pytest_twisted.ensureDeferred
async def test_scripts_play_the_same(daemon, control):
    """Played as a whole, each script gives the same events in the same order."""
    rehearsal = await Rehearsal.begin(daemon, control)
    for way in WAYS:
        if way.script:
            await control.post(f"/scripts/{way.script}", {"pace": 0, "wait": True})
            news = await rehearsal.news()
            told = {ext: [event.name for event in events] for ext, events in news.items()}
            assert told == {ext: way.events(ext) for ext in LOGINS}, way.title
