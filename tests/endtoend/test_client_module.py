"""The client module `html/mxflex.js` in real browsers, with real daemons behind it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.endtoend.stage import (
    HTML,
    PATIENCE,
    ROOT,
    Cable,
    Site,
    chromium,
    eventually,
)
from tests.ports import LOOPBACK

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

# A name that is this machine's, and no secure context, as `localhost` would be.
PLAIN_HOST = "mxflex.test"
EXTENSIONS = [str(number) for number in range(3001, 3061)]


def user(ext, **more):
    """Give a user of a scenario."""
    return {"ext": ext, "login": f"user{ext}", "password": "secret", "first_name": "Анна"} | more


DENIED = user("3900", may_call=False)
SCENARIO = {
    "users": [*(user(ext) for ext in EXTENSIONS), DENIED],
    "outside": [{"number": "+12025550104", "name": "Harbor Coffee", "answers_after": 0}],
}
# So that the silence of a stream is noticed soon.
EVENTS = {"heartbeat": 1}


@pytest.fixture(scope="module")
def browser():
    """A Chromium that finds one more host here."""
    with chromium(f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1") as browser:
        yield browser


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A folder with the module, and an empty page."""
    folder = tmp_path_factory.mktemp("html")
    shutil.copy(HTML / "mxflex.js", folder)
    (folder / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    return str(folder)


class QuietFiles(SimpleHTTPRequestHandler):
    """Serves files, without a word."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def elsewhere(html):
    """The origin of another site, which has its own empty page."""
    with ThreadingHTTPServer((LOOPBACK, 0), partial(QuietFiles, directory=html)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory, html, elsewhere):
    """An MX without calls of its own, and MXFlex; tests share it, each with its own people."""
    folder = tmp_path_factory.mktemp("site")
    with Site(folder, SCENARIO, html=html, events=EVENTS, cors=[elsewhere]) as site:
        yield site


@pytest.fixture(scope="module")
def extensions():
    """Extensions that no other test has."""
    return iter(EXTENSIONS)


class SilentCable(Cable):
    """A cable that can die without a sign of it, as a network does.

    Attributes:
        heartbeats: How many comments it has carried.
    """

    def __init__(self, port):
        super().__init__(port)
        self.heartbeats = 0
        self._dead = set()

    def die(self):
        """Carry nothing any more on the connections there are; those that come are well."""
        self._dead.update(self._peers)

    def _pass_on(self, here):
        with contextlib.suppress(OSError):
            if here in self._dead:
                if here.recv(65536):
                    return
            else:
                self.heartbeats += here.recv(65536, socket.MSG_PEEK).count(b":\n\n")
        super()._pass_on(here)


FAST = """{
  const [now, begun] = [Date.now, Date.now()];
  Date.now = () => begun + (now() - begun) * 20;
  for (const name of ["setTimeout", "setInterval"]) {
    const plain = window[name];
    window[name] = (act, milliseconds) => plain(act, milliseconds / 20);
  }
}"""


class Tab:
    """A page that uses the module.

    Args:
        context: A profile of the browser.
        url: The page.
        module: Where the module is.
        timed: Whether the test says how time goes by, in all tabs.
        fast: Whether time goes by twenty times as fast in this one.

    Attributes:
        page: The page of Playwright.
    """

    def __init__(self, context, url, module="/mxflex.js", *, timed=False, fast=False):
        self.page = context.new_page()
        if fast:
            self.page.add_init_script(FAST)
        self.page.set_default_timeout(PATIENCE * 1000)
        if timed:
            self.page.clock.install()
        self.page.goto(url)
        self.load(module)

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
                stream.addEventListener("state", ({ detail: { error, ...said } }) => {
                  const told = error && { ...error, words: error.message };
                  states.push(told ? { ...said, error: told } : said);
                });
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
        # It knows now from where to go on.
        self.when("stream.lastEventId !== ''")

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

    def error_of(self, script):
        """Give what a promise is rejected with: its class, its words, and what else it says."""
        return self.run(
            f"""() => ({script}).then(
              () => null,
              (error) => ({{
                class: Object.keys(mx).find((name) => error.constructor === mx[name]),
                message: error.message,
                ...error,
              }}),
            )"""
        )

    @property
    def ends(self):
        """What the session has told of itself."""
        return self.run("ends")

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
def urls(context):
    """All that pages have asked for; no token may stand there."""
    urls = []
    context.on("request", lambda request: urls.append(request.url))
    yield urls
    assert not [url for url in urls if "token=" in url]


@pytest.fixture
def open_tab(context, site, urls):
    """Open pages, by default at the shared site; all are tabs of one browser."""
    errors = []
    context.on("weberror", lambda error: errors.append(str(error.error)))

    def opened(url=site.url, **more):
        return Tab(context, url, **more)

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


# --- Sessions -------------------------------------------------------------------------------------


def test_saved_session(tab, site, extensions):
    """A saved session goes on behind a reload; what is none, or has ended, is told."""
    mine = next(extensions)
    tab.sign_in(mine)
    saved = tab.run("session.save()")
    assert "secret" not in saved
    assert tab.run("session.expiresAt") == json.loads(saved)["expiresAt"]
    tab.page.reload()
    tab.load()
    tab.resume(saved)
    assert tab.run("session.extension") == mine
    assert tab.run("session.calls()")["calls"] == []
    for text in ("", "null", "{}", '{"token":"a.b.c"}', saved.replace("eyJ", "%%%")):
        rejected = tab.run(
            """(text) => {
              try {
                mx.resume(text);
              } catch (error) {
                return error.constructor === TypeError;
              }
            }""",
            text,
        )
        assert rejected, text
    tab.resume(json.dumps(json.loads(saved) | {"begunAt": 1, "expiresAt": 2}))
    tab.when("ends.length === 1")
    assert tab.ends == [{"name": "ended", "reason": "expired"}]


def test_log_out(tab, site, extensions):
    """A logout ends the session, its streams and its requests, and says so once."""
    tab.enter(next(extensions))
    assert tab.error_of("session.logout()") is None
    assert tab.ends == [{"name": "ended", "reason": "logged-out"}]
    assert tab.states == ["live", "ended"]
    assert tab.error_of("session.calls()")["class"] == "Abandoned"
    assert tab.run("(() => { try { session.connect(); } catch (e) { return e.name; } })()") == (
        "Abandoned"
    )


def test_close(tab, site, extensions):
    """Closing a session ends what is under way and tells nobody; its token stays good."""
    tab.enter(next(extensions))
    saved = tab.run("session.save()")
    error = tab.error_of(
        "(() => { const asked = session.contacts(); session.close(); return asked; })()"
    )
    assert error["class"] == "Abandoned"
    assert tab.run("stream.state") == "ended"
    assert (tab.states, tab.ends) == (["live"], [])
    tab.resume(saved)
    tab.connect()


def test_renewals(open_tab, tmp_path, html, urls):
    """Sessions renew themselves and keep their streams until the login is too old; others go on."""
    token = {"lifetime": 2, "max_age": 5}
    with Site(tmp_path / "site", SCENARIO, html=html, token=token) as site:
        first, second = open_tab(site.url), open_tab(site.url)
        first.enter("3001")
        begun = json.loads(first.run("session.save()"))
        first.when("ends.length === 2")
        assert first.run("session.save()") != json.dumps(begun)
        second.enter("3001")
        first.when("ends.at(-1).name === 'ended'")
        told = first.ends
        assert [each["name"] for each in told] == ["renewed"] * (len(told) - 2) + [
            "ending",
            "ended",
        ]
        assert told[-2]["at"] == first.run("session.expiresAt")
        assert told[-2]["at"] - begun["begunAt"] == pytest.approx(5000, abs=1000)
        assert told[-1]["reason"] == "expired"
        assert first.states == ["live", "ended"]
        second.when("stream.leader && stream.state === 'live'")
        assert len([url for url in urls if "/api/events" in url]) == 2
        second.run("session.close()")


def test_another_server(tab, site, extensions):
    """A token that a new server does not know ends the session and its stream."""
    tab.enter(next(extensions))
    site.stop_mxflex()
    tab.when("stream.state === 'reconnecting'")
    # It was not asked again before the time that it has named.
    assert "error" not in tab.run("states.at(-1)")
    site.start_mxflex()
    tab.when("stream.state === 'ended'")
    assert tab.ends == [{"name": "ended", "reason": "refused"}]
    assert tab.states[-1] == "ended"


# --- Requests -------------------------------------------------------------------------------------


def test_contacts(tab, site, extensions):
    """People are listed and found; what has not changed is the same array as before."""
    mine = next(extensions)
    tab.sign_in(mine)
    tab.run("session.contacts().then((contacts) => { window.before = contacts; })")
    assert tab.run("before.length") == len(SCENARIO["users"])
    assert tab.run("session.contacts().then((contacts) => contacts === before)")
    for script in (f"session.contacts({{ query: '{mine}' }})", f"session.lookup('{mine}')"):
        assert [each["ext"] for each in tab.run(script)] == [mine]
    assert tab.run("session.lookup('+12025550199')") == []
    telephone = site.mx_user(f"user{mine}")
    telephone.set_presence("NotAvailable", "на совещании")
    changed = "session.contacts().then((contacts) => contacts.find(({ note }) => note)?.ext)"
    assert eventually(lambda: tab.run(changed)) == mine
    telephone.close()


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
        count = 1 + len([name for name, _ in tab.events if name == event])
        answer = tab.run(f"session.calls().then(({{ calls }}) => session.{command}(calls[0]))")
        assert answer is None
        tab.when_heard(event, count)
    assert tab.run("held.deviceId") == mine
    detail = tab.run("heard[0]")
    assert json.loads(detail["text"]) == detail["data"]
    assert detail["data"]["globalCallId"].isdigit()
    assert isinstance(detail["data"]["callId"], int)


def test_calls_handed_on(tab, site, extensions):
    """A call is made, deflected, transferred at once and after a word, and parked."""
    mine, other, third = next(extensions), next(extensions), next(extensions)
    tab.enter(mine)
    caller, colleague = site.person(f"user{other}"), site.person(f"user{third}")
    first_call = "session.calls().then(({ calls }) => "

    def ring():
        caller.dial(mine)
        count = len([name for name, _ in tab.events if name == "DeliveredEvent"])
        eventually(lambda: tab.run(first_call + "calls.some((call) => call.state === 'alerting'))"))
        return count

    ring()
    tab.run(f"{first_call}session.deflect(calls[0], '{third}'))")
    tab.when_heard("DivertedEvent")
    colleague.hang_up("alerting")
    ring()
    tab.run(f"{first_call}session.answer(calls.at(-1)))")
    tab.when_heard("EstablishedEvent")
    tab.run(f"{first_call}session.transfer(calls.at(-1), '{third}'))")
    tab.when_heard("TransferredEvent")
    colleague.hang_up("alerting")
    eventually(lambda: not caller.calls())
    ring()
    tab.run(f"{first_call}session.answer(calls.at(-1)))")
    tab.when_heard("EstablishedEvent", 2)
    tab.run(f"{first_call}{{ window.held = calls.at(-1); return session.hold(held); }})")
    tab.when_heard("HeldEvent")
    tab.run(f"session.call('{third}', {{ from: '{mine}' }}).then((call) => {{ made = call; }})")
    made = tab.run("made")
    assert (made["deviceId"], made["called"]) == (mine, third)
    colleague.answer()
    tab.when_heard("EstablishedEvent", 3)
    tab.run("session.consultTransfer(held, made)")
    tab.when_heard("TransferredEvent", 2)
    colleague.hang_up()
    eventually(lambda: not caller.calls())
    ring()
    tab.run(f"{first_call}session.answer(calls.at(-1)))")
    tab.when_heard("EstablishedEvent", 4)
    tab.run(f"{first_call}session.park(calls.at(-1)))")
    tab.when_heard("ParkedEvent")


def test_times(tab, site, extensions):
    """With the calls comes the server's time, by which those in them are to be understood."""
    tab.sign_in(next(extensions))
    assert tab.run("session.calls().then(({ now }) => Math.abs(now - Date.now()) < 60000)")


def test_ticket(tab, site, extensions):
    """A ticket opens a stream for those who cannot set headers."""
    tab.sign_in(next(extensions))
    opened = """session.ticket().then((ticket) => new Promise((done) => {
      const source = new EventSource(`/api/events?ticket=${ticket}`);
      source.onopen = () => { source.close(); done(true); };
      source.onerror = () => { source.close(); done(false); };
    }))"""
    assert tab.run(opened)


def test_errors(tab, site, extensions):
    """What goes wrong is told by class, with the server's words."""
    refused = tab.error_of("mx.login('user3001', 'wrong')")
    assert (refused["class"], refused["status"]) == ("Refused", 403)
    assert refused["message"] == "Invalid user name or password"
    tab.sign_in(next(extensions))
    refused = tab.error_of("session.answer({ callId: 999, deviceId: session.extension })")
    assert (refused["class"], refused["retryAfter"]) == ("Refused", None)
    gone = tab.error_of("mx.login('a', 'b', { server: 'http://localhost:1' })")
    assert (gone["class"], gone["message"]) == ("Unreachable", "MXFlex cannot be reached")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("mx.login()", "login required"),
        ("mx.login('user3001', undefined)", "password required"),
        ("session.lookup(undefined)", "number required"),
        ("session.lookup(null)", "number required"),
        ("session.call(undefined)", "to field is empty"),
        ("session.transfer({ callId: 1, deviceId: '3001' })", "destination phone required"),
        ("session.answer({})", "bad call id"),
    ],
)
def test_what_is_not_there(tab, site, extensions, what, message):
    """A field that a page has not got is missing, and is no text `undefined`."""
    tab.sign_in(next(extensions))
    refused = tab.error_of(what)
    assert (refused["class"], refused["status"], refused["message"]) == ("Refused", 400, message)


def test_page_of_another_site(open_tab, site, elsewhere, extensions):
    """A page of an origin in `cors` imports the module and works with it; no other page does."""
    mine, other = next(extensions), next(extensions)
    tab = open_tab(elsewhere, module=f"{site.url}mxflex.js")
    tab.enter(mine)
    site.person(f"user{other}").dial(mine)
    tab.when_heard("DeliveredEvent")
    assert tab.run("session.calls().then(({ now }) => Number.isFinite(now))")
    assert tab.run("session.contacts().then(async (one) => one === (await session.contacts()))")
    stranger = elsewhere.replace("localhost", LOOPBACK)
    tab.page.goto(stranger)
    importing = f"import('{site.url}mxflex.js').then(() => '', (error) => error.name)"
    assert tab.run(importing) == "TypeError"


# --- The reference --------------------------------------------------------------------------------


def test_reference(tab):
    """The reference names whatever the module has for its users, and nothing else of a session."""
    text = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    exported = tab.run("Object.keys(mx)")
    assert len(exported) == 8
    for name in exported:
        assert f"`{name}" in text or f"await {name}(" in text, name
    for kind in ("Session", "Stream", "EventParser"):
        for name in tab.run(f"Object.getOwnPropertyNames(mx.{kind}.prototype)"):
            assert name == "constructor" or re.search(rf"`{name}[(`]", text), name
    _, session, rest = re.split(r"^## `(?:Session|Stream)`$", text, flags=re.MULTILINE)
    for name in re.findall(r"`(\w+)\(", session):
        assert tab.run(f"typeof mx.Session.prototype.{name}") == "function", name
    for state in re.findall(r"^\| `([a-z-]+)` \|", rest.partition("| state |")[2], re.MULTILINE):
        assert f'"{state}"' in (HTML / "mxflex.js").read_text(encoding="utf-8"), state


def test_examples(open_tab, site, html, extensions):
    """The examples of the reference do what it says of them."""
    mine, other = next(extensions), next(extensions)
    text = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    page, keeping, answering, connecting, calling = (
        block.replace("https://mx.example.com/", site.url).replace('"anna"', f'"user{mine}"')
        for block in blocks
    )
    (Path(html) / "example.html").write_text(f"<!doctype html>{page}", encoding="utf-8")
    tab = open_tab()
    with tab.page.expect_response("**/api/events?*"):
        tab.page.goto(f"{site.url}example.html")
    tab.load()
    colleague = site.person(f"user{other}")
    with tab.page.expect_console_message(lambda message: message.text == "Анна calls"):
        colleague.dial(mine)
    tab.sign_in(mine)
    with tab.page.expect_response("**/api/events?topics=calls%2Ccontacts%2Cstatus"):
        for block in (keeping, answering, connecting):
            tab.page.add_script_tag(type="module", content=block)
    tab.when("sessionStorage.getItem('mxflex') === session.save()")
    eventually(lambda: [call["state"] for call in colleague.calls()] == ["connected"])
    tab.sign_in(DENIED["ext"])
    with tab.page.expect_event("dialog", lambda dialog: dialog.message == "URM Denied"):
        tab.page.once("dialog", lambda dialog: dialog.accept())
        tab.page.add_script_tag(type="module", content=calling)


# --- Several tabs ---------------------------------------------------------------------------------


class Burst(threading.Thread):
    """Somebody who calls and hangs up, again and again, beside what the test does.

    Args:
        person: Who does it.
        to: Whom.
        calls: How often.
    """

    def __init__(self, person, to, calls):
        super().__init__()
        self._person, self._to, self._calls = person, to, calls

    def run(self):
        """Do it."""
        for _ in range(self._calls):
            self._person.dial(self._to)
            self._person.hang_up("alerting")


def test_tabs_share_one_stream(open_tab, site, extensions, urls):
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
    assert [name for name, _ in second.events] == ["status", "DeliveredEvent"]
    assert len([url for url in urls if "/api/events" in url]) == 1
    first.run("session.close()")
    second.when("stream.leader && stream.state === 'live'")
    colleague.hang_up("alerting")
    second.when_heard("ConnectionClearedEvent")
    assert [name for name, _ in second.calls] == ["DeliveredEvent", "ConnectionClearedEvent"]
    assert second.states == ["live", "reconnecting", "live"]
    assert len([url for url in urls if "/api/events" in url]) == 2


def test_leaders_that_go(open_tab, site, extensions):
    """Leaders close, freeze and crash while much happens; the others lose nothing, none twice."""
    mine, other = next(extensions), next(extensions)
    witness, closing, freezing, crashing, last = (open_tab() for _ in range(5))
    witness.enter(mine, shared=False)
    closing.join(witness)
    assert closing.run("stream.leader")
    for each in (freezing, crashing, last):
        each.join(witness)
    burst = Burst(site.person(f"user{other}"), mine, 40)
    burst.start()
    last.when_heard("DeliveredEvent", 4)
    closing.page.close()
    freezing.when("stream.leader")
    # A browser freezes hidden pages only, and without a window it hides none.
    freezing.run("document.dispatchEvent(new Event('freeze'))")
    crashing.when("stream.leader")
    last.when_heard("DeliveredEvent", 15)
    freezing.run("document.dispatchEvent(new Event('resume'))")
    with contextlib.suppress(sync_api.Error):
        crashing.page.goto("chrome://crash")
    last.when("stream.leader")
    last.when_heard("ConnectionClearedEvent", 40)
    burst.join()
    witness.when_heard("ConnectionClearedEvent", 40)
    assert last.calls == witness.calls
    freezing.when_heard("ConnectionClearedEvent", 40)
    assert freezing.calls == witness.calls


def test_leader_that_hangs(open_tab, site, extensions):
    """A leader that gives no sign of life is replaced, and follows when it is back."""
    mine, other = next(extensions), next(extensions)
    leader, follower = open_tab(), open_tab(fast=True)
    leader.enter(mine)
    follower.join(leader)
    assert leader.run("stream.leader")
    leader.run(
        """() => setTimeout(() => {
          const end = Date.now() + 4000;
          while (Date.now() < end);
        }, 0)"""
    )
    follower.when("stream.leader && stream.state === 'live'")
    leader.when("!stream.leader")
    site.person(f"user{other}").dial(mine)
    for each in (leader, follower):
        each.when_heard("DeliveredEvent")
    assert leader.calls == follower.calls


# A leader that says what it is told to, in the page of its only follower.
LEADER = """async () => {
  const name = (await navigator.locks.query()).held[0].name;
  stream.close();
  heard.length = 0;
  const channel = new BroadcastChannel(name);
  window.joined = [];
  window.welcomes = [
    { position: "10", missed: [] },
    { position: "14", missed: [entry(13, 12), entry(14, 13)] },
  ];
  channel.addEventListener("message", ({ data: { type, from, position } }) => {
    if (type === "join" && welcomes.length) {
      joined.push(position);
      const told = { epoch: "", status: null, state: "live", said: {}, ...welcomes.shift() };
      channel.postMessage({ type: "welcome", term: 5, to: from, ...told });
    }
  });
  window.tell = (term, entry) => channel.postMessage({ type: "event", term, entry });
  window.say = (state, said) => channel.postMessage({ type: "state", term: 5, state, said });
  window.locked = navigator.locks.request(name, () => new Promise(() => {}));
}"""
ENTRY = """window.entry = (id, before, text = '{}', anew = false) => ({
  event: { name: anew ? "gap" : "x", id: String(id), text, at: 0 }, before: String(before), anew,
})"""


def test_what_a_follower_believes(tab, site, extensions):
    """A follower hears everything once and in order, whatever leaders say twice, late or not."""
    tab.enter(next(extensions))
    tab.run(f"() => {{ {ENTRY} }}")
    tab.run(LEADER)
    tab.connect()
    for term, entry in (
        (5, "entry(11, 10)"),
        (5, "entry(11, 10)"),
        (4, "entry(13, 11)"),
        (5, "entry(12, 11)"),
        (5, "entry(14, 13)"),
    ):
        tab.run(f"tell({term}, {entry})")
    tab.when("heard.length === 4")
    assert tab.run("heard.map(({ id }) => id)") == ["11", "12", "13", "14"]
    assert tab.run("joined") == ["", "12"]
    assert not tab.run("stream.leader")
    tab.run("""tell(5, entry(3, 2, '{"reason":"unknown-id"}', true))""")
    tab.run("tell(5, entry(4, 3))")
    tab.when("heard.length === 6")
    assert tab.run("heard.slice(4).map(({ name, id }) => name + id)") == ["gap3", "x4"]
    assert tab.run("stream.lastEventId") == "4"
    tab.run("say('ended', { error: { kind: 'Refused', message: 'no such path', status: 404 } })")
    tab.when("stream.state === 'ended'")
    assert tab.run("states.at(-1).error.words") == "no such path"
    held = tab.run(
        "navigator.locks.query().then(({ held, pending }) => held.concat(pending).length)"
    )
    assert held == 1


@pytest.mark.parametrize("leader_saw_it", [True, False])
def test_tab_that_comes_back(open_tab, site, extensions, leader_saw_it):
    """A tab that names its last event gets what it missed, from the leader or the server."""
    mine, other = next(extensions), next(extensions)
    witness, leader, late = open_tab(), open_tab(), open_tab()
    witness.enter(mine, shared=False)
    if leader_saw_it:
        leader.join(witness)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    colleague.hang_up("alerting")
    witness.when_heard("ConnectionClearedEvent")
    if not leader_saw_it:
        leader.join(witness)
    assert leader.run("stream.leader")
    first = witness.calls[0][1]
    late.join(witness, lastEventId=first)
    late.when_heard("ConnectionClearedEvent")
    colleague.dial(mine)
    witness.when_heard("DeliveredEvent", 2)
    late.when_heard("DeliveredEvent")
    assert late.calls == witness.calls[1:]
    assert not late.run("stream.leader")


def test_sign_in_beside_a_tab_that_waits(open_tab, site, extensions):
    """When a person has signed out elsewhere streams say so; with the next login all are back."""
    mine = next(extensions)
    waiting, fresh = open_tab(timed=True), open_tab()
    waiting.enter(mine)
    site.person(f"user{mine}").log_out()
    waiting.when("stream.state === 'not-monitored'")
    waiting.page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=1))
    assert waiting.run("states.at(-1).error.words") == "not monitored"
    assert waiting.run("states.at(-1).retryAt > Date.now() - 60000")
    assert waiting.ends == []
    fresh.enter(mine)
    waiting.when("stream.state === 'live'")
    assert waiting.run("stream.leader")


@pytest.mark.parametrize("leads", [True, False])
def test_signed_out_in_another_tab(open_tab, site, extensions, leads):
    """A tab knows at once that the person has signed out in another one, whichever leads."""
    first, second = open_tab(timed=True), open_tab(timed=True)
    first.enter(next(extensions))
    second.join(first)
    leaving, staying = (second, first) if leads else (first, second)
    assert staying.run("stream.leader") is leads
    # So that it waits for nothing.
    staying.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    leaving.run("session.logout()")
    staying.when("stream.state === 'not-monitored'")
    if leads:
        assert staying.states == ["live", "not-monitored"]
    assert staying.ends == []


def test_signed_out_while_the_server_hangs(tab, site, extensions):
    """While it is not known why a stream has ended it does not pass for one that lives."""
    mine = next(extensions)
    tab.enter(mine)
    held = []

    def hold(route):
        held.append(route)

    tab.page.route("**/api/events?*", hold, times=1)
    site.person(f"user{mine}").log_out()
    tab.when("stream.state === 'reconnecting'")
    (route,) = held
    route.continue_()
    tab.when("stream.state === 'not-monitored'")
    assert tab.states == ["live", "reconnecting", "not-monitored"]


class BriefStreams(QuietFiles):
    """Ends each event stream, in order, as soon as it has begun."""

    def do_GET(self):
        """Give the beginning of a stream, or a file."""
        if not self.path.startswith("/api/events"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"retry: 3000\nid: 1\n\n")


def test_streams_that_end_again_and_again(open_tab, html, site, extensions):
    """A server that ends each stream at once is asked at once a single time."""
    signed_in = open_tab()
    signed_in.sign_in(next(extensions))
    with ThreadingHTTPServer((LOOPBACK, 0), partial(BriefStreams, directory=html)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tab = open_tab(f"http://localhost:{server.server_address[1]}", timed=True)
            asked = []
            tab.page.on("request", lambda request: asked.append(request.url))
            tab.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
            tab.resume(signed_in.run("session.save()"))
            tab.run("listen({ shared: false })")
            tab.when("stream.state === 'reconnecting'")
            assert len(asked) == 2
            assert tab.run("states.at(-1).retryAt - Date.now()") >= 3000
            tab.page.close()
        finally:
            server.shutdown()
            thread.join()


def test_without_secure_context(open_tab, site, extensions):
    """Where browsers give no locks each tab has a stream of its own."""
    mine, other = next(extensions), next(extensions)
    url = f"http://{PLAIN_HOST}:{site.port}/"
    tabs = [open_tab(url), open_tab(url)]
    assert not tabs[0].run("isSecureContext")
    for each in tabs:
        each.enter(mine)
        assert each.run("stream.leader")
    site.person(f"user{other}").dial(mine)
    for each in tabs:
        each.when_heard("DeliveredEvent")


def test_without_locks(tab, site, extensions):
    """Where the browser refuses locks, since nothing may be stored, a tab does without."""
    tab.run(
        """() => {
          const refused = new DOMException("no", "SecurityError");
          navigator.locks.request = () => Promise.reject(refused);
        }"""
    )
    tab.enter(next(extensions))
    assert tab.run("stream.leader")
    tab.run("stream.close()")
    assert not tab.run("stream.leader")


# --- Connections that fail ------------------------------------------------------------------------


def test_nothing_is_lost_and_nothing_comes_twice(open_tab, site, extensions):
    """A stream that breaks comes back by itself, with what was missed, in order."""
    mine, other = next(extensions), next(extensions)
    witness = open_tab()
    witness.enter(mine, shared=False)
    colleague = site.person(f"user{other}")
    with Cable(site.port) as cable:
        tab = open_tab(f"http://localhost:{cable.port}/")
        tab.enter(mine)
        colleague.dial(mine)
        tab.when_heard("DeliveredEvent")
        cable.pull()
        tab.when("stream.state === 'reconnecting'")
        error = tab.error_of("session.calls()")
        assert error["class"] == "Unreachable"
        colleague.hang_up("alerting")
        colleague.dial(mine)
        cable.plug()
        tab.when("stream.state === 'live'")
        tab.when_heard("DeliveredEvent", 2)
        witness.when_heard("DeliveredEvent", 2)
        assert tab.calls == witness.calls
        assert tab.run("states[1].retryAt - heard[0].at") > 3000
        tab.page.close()


def test_network_that_dies(open_tab, site, extensions):
    """A connection without heartbeats is noticed and replaced; what happened meanwhile comes."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    with SilentCable(site.port) as cable:
        tab = open_tab(f"http://localhost:{cable.port}/")
        tab.enter(mine)
        eventually(lambda: cable.heartbeats >= 2)
        cable.die()
        colleague.dial(mine)
        tab.when_heard("DeliveredEvent")
        assert tab.states == ["live", "reconnecting", "live"]
        tab.page.close()


def test_network_that_changes(open_tab, site, extensions):
    """With another network the stream comes anew, at once: the old connection is of no use."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    with SilentCable(site.port) as cable:
        tab = open_tab(f"http://localhost:{cable.port}/", timed=True)
        tab.enter(mine)
        tab.page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=2))
        cable.die()
        colleague.dial(mine)
        tab.run("dispatchEvent(new Event('online'))")
        # The browser may first use another connection that has died, and give it up in time.
        tab.page.clock.resume()
        tab.when_heard("DeliveredEvent")
        assert tab.states == ["live", "reconnecting", "live"]
        tab.page.close()


def test_sleep(open_tab, site, extensions):
    """After a sleep that the connection has not outlived the stream comes back at once."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    with SilentCable(site.port) as cable:
        tab = open_tab(f"http://localhost:{cable.port}/", timed=True)
        tab.enter(mine)
        cable.die()
        colleague.dial(mine)
        tab.page.clock.fast_forward(10 * 60_000)
        tab.when_heard("DeliveredEvent")
        assert tab.states == ["live", "reconnecting", "live"]
        tab.page.close()


def test_sleep_beside_idle_connections(open_tab, site, extensions):
    """Idle connections that have died in a sleep, too, and which the browser uses, are given up."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    with SilentCable(site.port) as cable:
        tab = open_tab(f"http://localhost:{cable.port}/", timed=True)
        tab.enter(mine)
        # Two at once take two connections, which stay.
        tab.run("Promise.all([session.calls(), session.contacts()]).then(() => null)")
        cable.die()
        colleague.dial(mine)
        tab.page.clock.fast_forward(10 * 60_000)
        tab.when_heard("DeliveredEvent")
        assert tab.states == ["live", "reconnecting", "live"]
        tab.page.close()


def test_no_network(open_tab, context, site, extensions):
    """Without a network streams say so; with it they are back, and so is what was missed."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    tab = open_tab(timed=True)
    tab.enter(mine)
    colleague.dial(mine)
    tab.when_heard("DeliveredEvent")
    tab.page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=2))
    context.set_offline(True)
    tab.when("stream.state === 'offline'")
    colleague.hang_up("alerting")
    context.set_offline(False)
    tab.when_heard("ConnectionClearedEvent")
    assert tab.states == ["live", "offline", "live"]
    assert [name for name, _ in tab.calls] == ["DeliveredEvent", "ConnectionClearedEvent"]


def test_mx_away_and_server_restarted(open_tab, tmp_path, html):
    """The absence of the MX is told, and so is a gap behind it and behind a new server."""
    key = {"key": "0123456789abcdef0123456789abcdef"}
    with Site(tmp_path / "site", SCENARIO, html=html, token=key) as site:
        tab = open_tab(site.url)
        tab.enter("3001", topics=["calls", "status"])
        gaps = "stream.addEventListener('gap', ({ detail }) => gaps.push(detail.reason))"
        tab.run(f"() => {{ window.gaps = []; {gaps}; }}")
        site.stop_mx()
        tab.when("heard.at(-1).data.mx === 'down'")
        refused = tab.error_of("session.call('3002')")
        assert (refused["class"], refused["status"]) == ("Refused", 503)
        assert refused["retryAfter"] > 0
        site.start_mx()
        tab.when("gaps.includes('mx-down')")
        tab.when("heard.some(({ data }) => data.mx === 'up')")
        assert tab.states == ["live"]
        before = tab.run("stream.lastEventId")
        site.stop_mxflex()
        tab.when("stream.state === 'reconnecting'")
        site.start_mxflex()
        tab.run("dispatchEvent(new Event('online'))")
        tab.when("gaps.includes('unknown-id')")
        assert int(tab.run("stream.lastEventId")) > int(before)
        assert tab.run("session.calls()")["calls"] == []
        assert tab.ends == []


def test_too_many(open_tab, tmp_path, html, urls):
    """A server that wants no more streams is asked again, and not before it said so."""
    events = {"max_per_token": 1, "max_streams": 2}
    with Site(tmp_path / "site", SCENARIO, html=html, events=events) as site:
        first, second, third, other = (open_tab(site.url, timed=True) for _ in range(4))
        first.enter("3001", shared=False)
        second.resume(first.run("session.save()"))
        second.run("listen({ shared: false })")
        second.when("stream.state === 'refused'")
        (told,) = second.run("states")
        assert (told["error"]["status"], told["error"]["retryAfter"]) == (429, 30)
        other.enter("3002")
        third.sign_in("3003")
        third.run("listen({ shared: false })")
        third.when("stream.state === 'reconnecting'")
        (full,) = third.run("states")
        assert (full["error"]["status"], full["error"]["retryAfter"]) == (503, 30)
        asked = len(urls)
        for each in (second, third):
            each.run("dispatchEvent(new Event('online'))")
        second.page.clock.fast_forward(10_000)
        assert len(urls) == asked
        first.run("stream.close()")
        other.run("stream.close()")
        second.page.clock.fast_forward(40_000)
        for each in (second, third):
            each.when("stream.state === 'live'")


@pytest.mark.parametrize("shared", [True, False])
def test_stream_that_there_is_not(open_tab, site, extensions, urls, shared):
    """A refusal that stays as it is ends a stream, with its reason, in each tab; no session."""
    first, second = open_tab(timed=True), open_tab()
    first.sign_in(next(extensions))
    second.resume(first.run("session.save()"))
    for each in (first, second):
        each.run("(shared) => listen({ topics: ['foo'], shared })", shared)
        each.when("stream.state === 'ended'")
        (told,) = each.run("states")
        assert told["state"] == "ended"
        assert "retryAt" not in told
        assert (told["error"]["name"], told["error"]["status"]) == ("Refused", 400)
        assert told["error"]["words"] == "topics are calls, contacts, status"
        assert not each.run("stream.leader")
    first.page.clock.fast_forward(10 * 60_000)
    first.run("dispatchEvent(new Event('online'))")
    assert len([url for url in urls if "/api/events" in url]) == 2
    for each in (first, second):
        assert each.ends == []
        each.connect()


def test_where_there_is_no_stream(open_tab, site, elsewhere, extensions):
    """MXFlex's own "no such path" is final; that of another server may pass."""
    tab = open_tab(elsewhere, module=f"{site.url}mxflex.js", timed=True)
    tab.run(
        "async ([name, server]) => keep(await mx.login(name, 'secret', { server }))",
        [f"user{next(extensions)}", site.url],
    )
    saved = tab.run("session.save()")
    for server, state in ((f"{site.url}nowhere", "ended"), (elsewhere, "refused")):
        tab.run("([saved, server]) => keep(mx.resume(saved, { server }))", [saved, server])
        tab.run("() => { states.length = 0; listen({ shared: false }); }")
        tab.when("states.length === 1")
        (told,) = tab.run("states")
        assert (told["state"], told["error"]["status"]) == (state, 404)
        assert ("retryAt" in told) is (state == "refused")
        tab.run("session.close()")
