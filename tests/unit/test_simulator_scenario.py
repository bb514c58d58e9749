"""Scenario files: what they mean, what is wrong with them, and how their scripts happen."""

from __future__ import annotations

import itertools

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from mxflex.errors import ConfigError
from mxflex.simulator.company import dialled
from mxflex.simulator.demo import SCENARIO
from mxflex.simulator.playing import Playing
from mxflex.simulator.scenario import MAX_SECONDS, PLAYED_PAUSE, Dial, Wait, load
from mxflex.simulator.server import SimulatedMX
from mxflex.simulator.switchboard import DeviceNotice

HEAD = """\
company: {server: {login: mxflex, password: secret}}
users:
  - {ext: "3095", login: a, password: p}
  - {ext: "3044", login: b, password: p}
"""


def test_a_short_scenario():
    """Company and users are enough; all else has defaults."""
    scenario = load(HEAD, "short.yaml")
    company = scenario.make_company()
    assert company.serial == "63022"
    assert [user.ext for user in company] == ["3044", "3095"]
    assert len({user.jid for user in company}) == 2
    assert all(user.jid >> 32 == int("63022", 36) for user in company)
    assert scenario.account.login == "mxflex"
    assert scenario.scripts == ()


def test_all_of_it_is_read():
    """Numbers without quotes, lists of them, switches, outside telephones, all kinds of steps."""
    scenario = load(
        HEAD
        + """
outside: [{number: "+12025550104", name: Coffee, answers_after: 2, busy: true}]
behaviour: {no_answer_after: 12, outgoing: desk, api_version: 20, idle_timeout: null}
scripts:
  - name: everything
    start: 1
    pause: 0.5
    steps:
      - call: {from: ["+12025550104", "+12025550117"], to: 3095}
      - wait: 1
      - answer: 3095
      - consult: {from: "3095", to: "3044"}
      - presence: {ext: "3044", status: Available, note: x}
      - add_user: {ext: "3050", login: c, password: p, first_name: Ц}
      - update_user: {ext: "3050", last_name: Y}
      - delete_user: "3050"
      - force_logout: Server
""",
        "all.yaml",
    )
    behaviour = scenario.make_behaviour()
    assert (behaviour.no_answer_after, behaviour.outgoing) == (12.0, "desk")
    assert (behaviour.api_version, behaviour.idle_timeout) == (20, None)
    assert scenario.outside[0].busy
    (script,) = scenario.scripts
    assert script.steps[0] == Dial(callers=("+12025550104", "+12025550117"), to=("3095",))
    assert script.steps[1] == Wait(seconds=1.0)
    assert len(script.steps) == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: expected a mapping"),
        ("[]", "x.yaml: expected a mapping"),
        ("a: [", "x.yaml: line 1: not YAML"),
        ("a: 1\na: 2", "x.yaml: line 2: not YAML: the key a stands twice"),
        ("a: &x 1\nb: *x", "x.yaml: line 2: not YAML: aliases are not allowed"),
        ("a: !!python/object:os.system {}", "x.yaml: line 1: not YAML: could not determine"),
        ("? [1, 2]\n: 3", "x.yaml: line 1: not YAML: a key must be a word"),
        ("[" * 40 + "]" * 40, "x.yaml: not YAML: nested too deeply"),
        ("a: \x01", "x.yaml: not YAML"),
        ("a: 2001-99-99", "x.yaml: not YAML"),
        ("users: []", "x.yaml: company: is missing"),
        (HEAD + "colour: red", "x.yaml: colour: unknown key; known are company"),
        (HEAD + "scripts: 5", "x.yaml: scripts: expected a list"),
        (HEAD + "behaviour: {outgoing: no}", "x.yaml: behaviour.outgoing: expected one of"),
        (HEAD + "behaviour: {namespace: 1}", "x.yaml: behaviour.namespace: expected true or"),
        (HEAD + "behaviour: {page_size: 0}", "x.yaml: behaviour.page_size: expected at least"),
        (HEAD + "behaviour: {api_version: -1}", "x.yaml: behaviour.api_version: expected a whole"),
        (HEAD + "behaviour: {idle_timeout: .nan}", "x.yaml: behaviour.idle_timeout: expected 0"),
        (HEAD + "behaviour: {idle_timeout: x}", "x.yaml: behaviour.idle_timeout: expected a num"),
        (HEAD + "outside: [{}]", "x.yaml: outside[0].number: is missing"),
        (HEAD + "outside: [{number: abc}]", "x.yaml: outside[0].number: expected a telephone"),
        (HEAD + "outside: [{number: [1]}]", "x.yaml: outside[0].number: expected a telephone"),
        (HEAD + "scripts: [{steps: []}]", "x.yaml: scripts[0].steps: expected at least one"),
        (HEAD + "scripts: [{steps: [5]}]", "x.yaml: scripts[0].steps[0]: expected one step"),
        (
            HEAD + "scripts: [{steps: [{sing: 1}]}]",
            "x.yaml: scripts[0].steps[0].sing: unknown key; known are call",
        ),
        (
            HEAD + "scripts: [{steps: [{call: {to: '1'}}]}]",
            "x.yaml: scripts[0].steps[0].call.from: is missing",
        ),
        (
            HEAD + "scripts: [{steps: [{call: {from: [], to: '1'}}]}]",
            "x.yaml: scripts[0].steps[0].call.from: expected at least one",
        ),
        (
            HEAD + "scripts: [{pause: 0, steps: [{answer: '3095'}]}]",
            "x.yaml: scripts[0]: a script that repeats needs",
        ),
        (
            HEAD + "scripts: [{steps: [{presence: {ext: '1', status: x}}]}]",
            "x.yaml: scripts[0].steps[0].presence.ext: expected the extension of a user",
        ),
        (HEAD + "scripts: [{start: true, steps: []}]", "x.yaml: scripts[0].steps: expected"),
        (
            HEAD + f"scripts: [{{steps: [{{wait: {MAX_SECONDS + 1}}}]}}]",
            "x.yaml: scripts[0].steps[0].wait: expected 0 to 86400",
        ),
        (HEAD + '  - {ext: "3095", login: c, password: p}', "x.yaml: users[2].ext: another user"),
        (HEAD + '  - {ext: "1", login: a, password: p}', "x.yaml: users[2].login: another user"),
        (HEAD + '  - {ext: "1", login: c}', "x.yaml: users[2].password: is missing"),
        (HEAD + '  - {ext: "1", login: c, password: 5}', "x.yaml: users[2].password: expected te"),
        (HEAD + '  - {ext: "1", login: " ", password: p}', "x.yaml: users[2].login: must not be"),
        (HEAD + '  - {ext: "*1", login: c, password: p}', "x.yaml: users[2].ext: expected an ext"),
        (HEAD + '  - {ext: "٣", login: c, password: p}', "x.yaml: users[2].ext: expected a tele"),
        (HEAD + '  - {ext: "1", login: "\\0", password: p}', "x.yaml: users[2].login: expected te"),
        (
            HEAD + "scripts: [{name: a, steps: [{wait: 1}]}, {name: a, steps: [{wait: 1}]}]",
            "x.yaml: scripts[1].name: another script has the same one",
        ),
        (HEAD.replace("{server", "{serial: 1, server"), "x.yaml: company.serial: expected 5"),
        (HEAD.replace("{server", "{serial: '6-022', server"), "x.yaml: company.serial: expected 5"),
        (HEAD.replace("company: {", "company: {x: 1, "), "x.yaml: company.x: unknown key"),
    ],
)
def test_every_mistake_is_one_line(text, expected):
    """File, key, and what is expected there; never a value, never a second line."""
    with pytest.raises(ConfigError) as caught:
        load(text, "x.yaml")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


# --- Playing --------------------------------------------------------------------------------------


def a_simulator(text):
    """Give an MX that nobody is connected to, its scripts, and its clock."""
    scenario = load(text, "test")
    clock = Clock()
    mx = SimulatedMX(
        MemoryReactorClock(), scenario.make_company(), scenario.make_behaviour(), clock=clock
    )
    return mx, Playing(mx, scenario.scripts), clock


def listen_in(mx):
    """Note every call event, with its device and time."""
    heard = []

    def note(notice):
        if isinstance(notice, DeviceNotice):
            heard.append((mx.clock.seconds(), notice.device, notice.event.wire_name))

    mx.watch(note)
    return heard


def test_a_script_happens_at_its_times():
    """The steps follow each other, and the script begins again after its pause."""
    mx, playing, clock = a_simulator(
        HEAD
        + """
scripts:
  - start: 1
    pause: 2
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 3
      - answer: "3095"
      - wait: 4
      - hang_up: "3095"
"""
    )
    heard = listen_in(mx)
    playing.start()
    clock.pump([0.5] * 22)
    assert heard == [
        (1.0, "3095", "DeliveredEvent"),
        (4.0, "3095", "EstablishedEvent"),
        (8.0, "3095", "ConnectionClearedEvent"),
        (10.0, "3095", "DeliveredEvent"),
    ]
    playing.stop()
    assert mx.switchboard.calls == []
    assert clock.getDelayedCalls() == []


def test_a_script_leaves_a_used_telephone_alone():
    """A call that somebody makes himself is neither joined by another nor ended."""
    mx, playing, clock = a_simulator(
        HEAD
        + """
scripts: [{pause: 1, steps: [{call: {from: "+12025550104", to: "3095"}}, {wait: 2}]}]
"""
    )
    call = mx.user_calls("3095", "3044")
    playing.start()
    clock.pump([1] * 10)
    assert mx.switchboard.calls == [call]
    playing.stop()
    assert mx.switchboard.calls == [call]


def test_a_human_may_be_quicker_than_the_script():
    """An answer or a hang-up by somebody else does not break the script."""
    mx, playing, clock = a_simulator(
        HEAD
        + """
scripts:
  - pause: 5
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - no_answer: "3095"
      - wait: 2
      - hang_up: "3095"
"""
    )
    heard = listen_in(mx)
    playing.start()
    clock.pump([0, 1])
    mx.answer("3095")
    clock.pump([1, 1, 1])
    assert [name for _, _, name in heard] == [
        "DeliveredEvent",
        "EstablishedEvent",
        "ConnectionClearedEvent",
    ]
    clock.pump([1] * 6)
    mx.hang_up("3095")
    clock.pump([1] * 6)
    assert heard[-1][2] == "DeliveredEvent"
    playing.stop()


def test_a_refused_step_disturbs_no_other_script():
    """It ends that run alone; the script comes again, and so do the others."""
    mx, playing, clock = a_simulator(
        HEAD
        + """
scripts:
  - pause: 1
    steps: [{delete_user: "3044"}]
  - pause: 1
    steps: [{call: {from: "+12025550104", to: "3095"}}, {wait: 1}]
"""
    )
    heard = listen_in(mx)
    playing.start()
    clock.pump([1] * 6)
    assert [name for _, _, name in heard].count("DeliveredEvent") >= 3
    playing.stop()


def test_a_script_on_demand():
    """One without a start waits until it is asked for; then it takes the next number each time."""
    text = (
        HEAD
        + """
scripts:
  - name: ring
    start: null
    steps:
      - call: {from: ["+12025550104", "+12025550117"], to: "3095", name: Zoë}
      - wait: 2
"""
    )
    scripts = load(text, "test").scripts
    mx, playing, clock = a_simulator(text)
    (script,) = scripts
    playing.start()
    clock.pump([1] * 10)
    assert mx.switchboard.calls == []
    over = []
    playing.play(script).addCallback(over.append)
    playing.play(script, pace=0.5).addCallback(over.append)
    assert playing.on_demand("ring") == 1
    (call,) = mx.switchboard.calls
    assert (call.calling, call.presented_name) == ("12025550104", "Zoë")
    # The second run found the telephone in use, and left it alone.
    assert over == ["step 1: 3095 is in use"]
    clock.pump([1, 1])
    assert over[1:] == [""]
    playing.play(script, pace=0.5).addCallback(over.append)
    assert mx.switchboard.calls[0].calling == "12025550104"
    clock.advance(1)
    assert over[2:] == [""]
    playing.play(script).addErrback(over.append)
    playing.stop()
    assert mx.switchboard.calls == []
    assert over[3].check(CancelledError)
    assert playing.on_demand("ring") == 0
    assert clock.getDelayedCalls() == []


def test_a_quiet_company():
    """No script begins, and no telephone is answered, given up or hung up, by itself."""
    scenario = load(SCENARIO, "demo").quiet()
    clock = Clock()
    mx = SimulatedMX(
        MemoryReactorClock(), scenario.make_company(), scenario.make_behaviour(), clock=clock
    )
    Playing(mx, scenario.scripts).start()
    calls = [mx.call_in("+12025550104", "3095"), mx.user_calls("3044", "+12025550117")]
    assert clock.getDelayedCalls() == []
    assert mx.switchboard.calls == calls


def test_some_scripts_alone():
    """Those that are named play over and over, and no other; a name must be one of the scenario."""
    scenario = load(SCENARIO, "demo").playing("hold", "park")
    starts = {script.name: (script.start, script.pause) for script in scenario.scripts}
    assert starts.pop("hold") == (1.0, PLAYED_PAUSE)
    assert starts.pop("park") == (1.0, PLAYED_PAUSE)
    assert {start for start, _ in starts.values()} == {None}
    with pytest.raises(ConfigError, match=r"^juggle: no such script; there are a caller is parked"):
        scenario.playing("juggle")


def test_the_demo_keeps_every_stream_busy():
    """Within 8 s of any moment of ten minutes, each user's device has an event."""
    mx, playing, clock = a_simulator(SCENARIO)
    heard = listen_in(mx)
    playing.start()
    clock.pump([0.25] * 2400)
    playing.stop()
    for user in mx.company:
        times = [0.0, *(when for when, device, _ in heard if device == user.ext)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(gaps) <= 8, user.ext
        assert times[-1] > 590
    assert {name for _, _, name in heard} >= {
        "OriginatedEvent",
        "DivertedEvent",
        "DeliveredEvent",
        "EstablishedEvent",
        "ConnectionClearedEvent",
        "FailedEvent",
        "HeldEvent",
        "RetrievedEvent",
        "TransferedEvent",
        "callParkInfo",
        "RecordingStateEvent",
        "MailIncomingReadyEvent",
    }


def test_the_demo_has_what_is_promised():
    """Eight users, extension 3095 among them, names in more than one script, simple passwords."""
    scenario = load(SCENARIO, "demo")
    assert len(scenario.users) == 8
    assert {user.password for user in scenario.users} == {"demo"}
    names = {user.ext: user.name for user in scenario.users}
    assert not names["3095"].isascii()
    assert all(dialled(party.number).isdigit() for party in scenario.outside)
