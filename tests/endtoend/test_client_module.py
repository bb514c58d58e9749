"""The client module `html/mxflex.js` in real browsers, with real daemons behind it."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.endtoend.stage import (
    BROWSER_FLAGS,
    HTML,
    PATIENCE,
    Cable,
    Site,
    eventually,
    find_browser,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

# A name that is this machine's, and no secure context, as `localhost` would be.
PLAIN_HOST = "mxflex.test"
EXTENSIONS = [str(number) for number in range(3001, 3061)]


def user(ext, **more):
    """Give a user of a scenario."""
    return {"ext": ext, "login": f"user{ext}", "password": "secret", "first_name": "Анна"} | more


SCENARIO = {
    "users": [user(ext) for ext in EXTENSIONS],
    "outside": [{"number": "+12025550104", "name": "Harbor Coffee", "answers_after": 0}],
}
# So that the silence of a stream is noticed soon.
EVENTS = {"heartbeat": 1}


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window."""
    with sync_api.sync_playwright() as playwright:
        path = find_browser(playwright.chromium)
        if path is None:
            pytest.skip("there is no Chromium")
        resolving = f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=path, args=[*BROWSER_FLAGS, resolving])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A folder with the module, and an empty page."""
    folder = tmp_path_factory.mktemp("html")
    shutil.copy(HTML / "mxflex.js", folder)
    (folder / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    return str(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory, html):
    """An MX without calls of its own, and MXFlex; tests share it, each with its own people."""
    folder = tmp_path_factory.mktemp("site")
    with Site(folder, SCENARIO, html=html, events=EVENTS) as site:
        yield site


@pytest.fixture(scope="module")
def extensions():
    """Extensions that no other test has."""
    return iter(EXTENSIONS)


class Tab:
    """A page that uses the module.

    Attributes:
        page: The page of Playwright.
    """

    def __init__(self, context, url):
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.goto(url)
        self.load()

    def load(self, url="/mxflex.js"):
        """Import the module."""
        self.page.evaluate(
            """async (url) => {
              window.mx = await import(url);
              window.ends = [];
              window.heard = [];
              window.states = [];
              window.keep = (session) => {
                window.session = session;
                for (const name of ["renewed", "ending", "ended"]) {
                  session.addEventListener(name, ({ detail }) => ends.push({ name, ...detail }));
                }
              };
              window.listen = (options) => {
                window.stream = session.connect(options);
                stream.addEventListener("event", ({ detail }) => heard.push(detail));
                stream.addEventListener("state", ({ detail }) => states.push(detail));
              };
            }""",
            url,
        )

    def run(self, script, argument=None):
        """Give what a script gives; it may wait for things."""
        return self.page.evaluate(script, argument)

    def when(self, condition, argument=None):
        """Wait until a condition holds."""
        self.page.wait_for_function(condition, arg=argument)

    def sign_in(self, ext, password="secret"):
        """Sign in as the user of an extension."""
        self.run(
            "async ([name, password]) => keep(await mx.login(name, password))",
            [f"user{ext}", password],
        )

    def resume(self, saved):
        """Go on with a session that was saved."""
        self.run("(saved) => keep(mx.resume(saved))", saved)

    def connect(self, **options):
        """Open a stream, and wait until it is live."""
        self.run("(options) => listen(options)", options)
        self.when("stream.state === 'live'")

    def enter(self, ext, **options):
        """Sign in and open a stream."""
        self.sign_in(ext)
        self.connect(**options)

    def join(self, other, **options):
        """Be a tab of the same person beside another one."""
        self.resume(other.run("session.save()"))
        self.connect(**options)

    def when_heard(self, name, count=1):
        """Wait until so many events of a name have come."""
        self.when(
            "([name, count]) => heard.filter((each) => each.name === name).length >= count",
            [name, count],
        )

    @property
    def events(self):
        """The names and ids of all events so far."""
        return self.run("heard.map(({ name, id }) => [name, id])")

    @property
    def calls(self):
        """The same of those events that are about calls."""
        return [event for event in self.events if event[0].endswith("Event")]

    @property
    def states(self):
        """All states of the stream so far."""
        return self.run("states.map(({ state }) => state)")


@pytest.fixture
def context(browser):
    """A profile of the browser."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def open_tab(context, site):
    """Open pages, by default at the shared site; all are tabs of one browser."""
    errors = []
    context.on("weberror", lambda error: errors.append(str(error.error)))

    def opened(url=site.url):
        return Tab(context, url)

    yield opened
    assert not errors


@pytest.fixture
def tab(open_tab):
    """A page of the shared site."""
    return open_tab()


# --- Bytes to events ------------------------------------------------------------------------------

# Bytes of a stream; the events in them; the id in the end.
PARSED = [
    (b"data: a\n\n", [["message", "", "a"]], ""),
    (b"\xef\xbb\xbfdata: a\n\n", [["message", "", "a"]], ""),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [["message", "", "b"]], ""),
    (b"event: x\r\ndata: a\r\nid: 1\r\n\r\n", [["x", "1", "a"]], "1"),
    (b"event: x\rdata: a\rid: 1\r\r", [["x", "1", "a"]], "1"),
    (b"event: x\rdata: a\r\ndata: b\n\r\n", [["x", "", "a\nb"]], ""),
    (b"data: a\n\r\ndata: b\r\r\n", [["message", "", "a"], ["message", "", "b"]], ""),
    (b"data\n\ndata\ndata\n\ndata:", [["message", "", ""], ["message", "", "\n"]], ""),
    (b"data:a\ndata: b\ndata:  c\n\n", [["message", "", "a\nb\n c"]], ""),
    (b"event: x\n\ndata: a\n\n", [["message", "", "a"]], ""),
    (b"event: x\nevent: y\ndata: a: b\n\n", [["y", "", "a: b"]], ""),
    (b": comment\nevent: x\n:\ndata: a\n\n", [["x", "", "a"]], ""),
    (b"id: 1\n\ndata: a\n\n", [["message", "1", "a"]], "1"),
    (b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", None, ""),
    (b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", None, "1"),
    (b"id: 1\n\nid: 2\ndata: unfinished\n", [], "1"),
    (b" data: a\nDATA: b\nother: c\ndata : d\n\n", [], ""),
    ("data: Ёлка 🎄 \u2028\u0085 x\n\n".encode(), [["message", "", "Ёлка 🎄 \u2028\u0085 x"]], ""),
    (b"data: \xff\xd0\n\n", [["message", "", "��"]], ""),
    (b"data: a\x00b\n\n", [["message", "", "a\x00b"]], ""),
    (b"retry: 5\nretry: x\nretry: 1.5\nretry:\nretry: -1\nretry: 07\ndata: a\n\n", None, ""),
]


def test_parser(tab):
    """Bytes mean the same however they are split, and mean what the WHATWG says."""
    found = tab.run(
        """(streams) => streams.map((bytes) => {
          const read = (pieces) => {
            const seen = { events: [], id: "", retries: [], comments: [] };
            const parser = new mx.EventParser({
              event: ({ name, id, text }) => {
                seen.events.push([name, id, text]);
                seen.id = id;
              },
              id: (id) => { seen.id = id; },
              retry: (milliseconds) => seen.retries.push(milliseconds),
              comment: (text) => seen.comments.push(text),
            });
            pieces.forEach((piece) => parser.feed(Uint8Array.from(piece)));
            return seen;
          };
          const whole = read([bytes]);
          const others = [read(bytes.map((byte) => [byte]))];
          for (let at = 0; at <= bytes.length; at += 1) {
            others.push(read([bytes.slice(0, at), [], bytes.slice(at)]));
          }
          const text = JSON.stringify(whole);
          return { ...whole, same: others.every((other) => JSON.stringify(other) === text) };
        })""",
        [list(data) for data, _, _ in PARSED],
    )
    for (data, events, last_id), seen in zip(PARSED, found, strict=True):
        assert seen["same"], data
        assert events is None or seen["events"] == events, data
        assert seen["id"] == last_id, data
    kept, ignored, retried = (found[number] for number in (13, 14, 20))
    assert [each[1] for each in kept["events"]] == ["1", "1", ""]
    assert [each[1] for each in ignored["events"]] == ["1", "1"]
    assert retried["retries"] == [5, 7]
    assert found[11]["comments"] == [" comment", ""]


# --- Requests -------------------------------------------------------------------------------------


def test_call_from_ringing_to_its_end(tab, site, extensions):
    """A call is answered, held, retrieved, recorded, and hung up, and events tell each step."""
    mine, other = next(extensions), next(extensions)
    tab.enter(mine)
    site.person(f"user{other}").dial(mine)
    tab.when_heard("DeliveredEvent")
    tab.run("stream.addEventListener('HeldEvent', ({ detail }) => { window.held = detail; })")
    for command, event in (
        ("answer", "EstablishedEvent"),
        ("hold", "HeldEvent"),
        ("retrieve", "RetrievedEvent"),
        ("startRecording", "RecordingStateEvent"),
        ("stopRecording", "RecordingStateEvent"),
        ("hangup", "ConnectionClearedEvent"),
    ):
        answer = tab.run(f"session.calls().then(({{ calls }}) => session.{command}(calls[0]))")
        assert answer is None
        tab.when_heard(event)
    assert tab.run("held.deviceId") == mine
    detail = tab.run("heard[0]")
    assert json.loads(detail["text"]) == detail["data"]
    assert detail["data"]["globalCallId"].isdigit()
    assert detail["data"]["callId"] == int(detail["data"]["callId"])


# --- Several tabs ---------------------------------------------------------------------------------


def test_tabs_share_one_stream(open_tab, site, extensions):
    """One tab of a person has the connection, all see the same; another takes its place."""
    mine, other = next(extensions), next(extensions)
    first, second = open_tab(), open_tab()
    first.enter(mine, topics=["calls", "status"])
    second.join(first, topics=["status", "calls"])
    assert first.run("stream.leader")
    assert not second.run("stream.leader")
    assert second.run("stream.lastEventId") == first.run("stream.lastEventId")
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    for each in (first, second):
        each.when_heard("DeliveredEvent")
    assert first.events == second.events
    first.page.close()
    second.when("stream.leader && stream.state === 'live'")
    colleague.hang_up("alerting")
    second.when_heard("ConnectionClearedEvent")
    names = [name for name, _ in second.calls]
    assert names == ["DeliveredEvent", "ConnectionClearedEvent"]


# --- Connections that fail ------------------------------------------------------------------------


def test_nothing_is_lost_and_nothing_comes_twice(open_tab, site, extensions):
    """A stream that breaks comes back by itself, with what was missed, in order."""
    mine, other = next(extensions), next(extensions)
    witness = open_tab()
    witness.enter(mine, shared=False)
    colleague = site.person(f"user{other}")
    with Cable(site.port) as cable:
        tab = open_tab(f"http://localhost:{cable.port}/")
        tab.enter(mine, shared=False)
        for count in (1, 2):
            colleague.dial(mine)
            tab.when_heard("DeliveredEvent", count)
            cable.pull()
            tab.when("stream.state === 'reconnecting'")
            colleague.hang_up("alerting")
            eventually(lambda: not colleague.calls())
            cable.plug()
            tab.when("stream.state === 'live'")
            tab.when_heard("ConnectionClearedEvent", count)
        witness.when_heard("ConnectionClearedEvent", 2)
        assert tab.calls == witness.calls
        tab.page.close()
