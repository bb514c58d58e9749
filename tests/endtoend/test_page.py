"""The console in a real browser: what a person sees and does, with real daemons behind it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.endtoend.stage import (
    HTML,
    PATIENCE,
    Cable,
    Daemon,
    Site,
    Witness,
    eventually,
)
from tests.ports import free_port

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
expect = sync_api.expect
expect.set_options(timeout=PATIENCE * 1000)

FIRST_NAMES = ("Анна", "Борис", "Vera", "Jürgen")
MARKUP = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
HOSTILE = {"ext": "3900", "login": "hostile", "first_name": MARKUP, "last_name": "</script>"}
DENIED = {"ext": "3901", "login": "denied", "first_name": "Денис", "may_call": False}
MOBILE = "+12025550144"
REACHABLE = {"ext": "3902", "login": "zoe", "first_name": "Zoë", "last_name": "Ёлкина"}
OUTSIDE = "+12025550104"
# Enough that each test has people of its own.
EXTENSIONS = [str(number) for number in range(3001, 3081)]


def user(ext, **more):
    """Give a user of a scenario."""
    first_name = FIRST_NAMES[int(ext) % len(FIRST_NAMES)]
    return {
        "ext": ext,
        "login": f"user{ext}",
        "password": "secret",
        "first_name": first_name,
        "last_name": f"No. {ext}",
        "note": "на складе" if ext == "3002" else "",
    } | more


SCENARIO = {
    "users": [
        *(user(ext) for ext in EXTENSIONS),
        user(**HOSTILE),
        user(**DENIED),
        user(**REACHABLE, cell_phone=MOBILE, did="+442079460112", email="zoe@example.com"),
    ],
    "outside": [
        {"number": OUTSIDE, "name": "Harbor Coffee", "answers_after": 0},
        {"number": "+12025550190", "name": "Bluebird Dental", "busy": True},
    ],
}


def name_of(ext):
    """Give the name that the directory has for an extension."""
    return f"{FIRST_NAMES[int(ext) % len(FIRST_NAMES)]} No. {ext}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An MX without calls of its own, and MXFlex; tests share it, each with its own people."""
    folder = tmp_path_factory.mktemp("site")
    with Site(folder, SCENARIO, numbers={"country": "US"}) as site:
        yield site


@pytest.fixture(scope="module")
def extensions():
    """Extensions that no other test has."""
    return iter(EXTENSIONS[2:])


# Keeps what is shown by the system, and lets the page believe that nobody looks at it.
NOTICES = """
  window.notices = [];
  window.withdrawn = [];
  window.asked = 0;
  const Real = Notification;
  window.Notification = class extends Real {
    constructor(title, options) { super(title, options); notices.push(title); }
    close() { withdrawn.push(this.title); super.close(); }
    static requestPermission() { asked += 1; return Real.requestPermission(); }
  };
  Document.prototype.hasFocus = () => false;
"""


class Screen:
    """A page as a person sees it.

    Attributes:
        page: The page of Playwright.
        witness: What went wrong in it.
    """

    def __init__(self, context, url, page=None):
        self.witness = Witness(context)
        self._url = url
        self.page = page or context.new_page()
        if page is None:
            self.page.goto(url)

    def field(self, label):
        return self.page.get_by_label(label, exact=True)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def sign_in(self, login, password="secret"):
        """Fill in the form and send it."""
        self.page.locator("#login").fill(login)
        self.page.locator("#password").fill(password)
        self.page.locator("#sign-in-button").click()

    def enter(self, ext):
        """Sign in, and wait until everything is there."""
        self.sign_in(f"user{ext}")
        expect(self.chip).to_have_attribute("data-state", "live")
        expect(self.contact(ext)).to_be_attached()

    def enter_without_timers(self, ext):
        """Sign in, and stop all timers of the page, so that it acts on what happens alone."""
        self.page.clock.install()
        self.page.reload()
        self.enter(ext)
        self.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))

    def expect_cuts(self):
        """Allow the browser's reports of whatever is under way when the connection is cut."""
        for path in ("events", "contacts", "contacts/lookup", "calls", "call"):
            self.witness.expect("net::", f"/api/{path}")
        self.witness.expect("net::", "/favicon-ringing.svg")

    def search(self, text):
        self.page.locator("#search").fill(text)

    def dial(self, number):
        """Call a number by hand."""
        self.search(number)
        self.page.locator("#dial").click()

    def menu(self):
        self.page.locator("#menu-button").click()

    def show(self, view):
        """Choose what a telephone shows; at another width the choice is kept."""
        self.page.set_viewport_size({"width": 360, "height": 800})
        self.page.locator(f'.views [data-view="{view}"]').click()

    @property
    def chip(self):
        """How the connection is, for the eyes."""
        return self.page.locator("#chip")

    @property
    def banner(self):
        return self.page.locator("#banner")

    @property
    def calls(self):
        """The cards of the calls."""
        return self.page.locator("#calls > li")

    def card(self, phase):
        """The card of the call that is in this phase."""
        return self.page.locator(f'#calls > li[data-phase="{phase}"]')

    @property
    def recent(self):
        """The calls that are over."""
        return self.page.locator("#recent > li")

    @property
    def announcement(self):
        """What is said to those who listen to the page."""
        return self.page.get_by_role("alert").and_(self.page.locator("#announcement"))

    @property
    def found(self):
        """The rows of the directory."""
        return self.page.locator("#contacts > li")

    @property
    def sign_in_word(self):
        """Why the person is to sign in."""
        return self.page.locator("#sign-in-word")

    def contact(self, ext):
        """The row of an extension."""
        ext_cell = self.page.locator(".ext", has_text=re.compile(f"^{ext}$"))
        return self.page.locator("#contacts > li", has=ext_cell)

    def call_contact(self, ext):
        self.contact(ext).locator("button.call").click()

    def events(self, name):
        """The rows of events of that name."""
        return self.page.locator(f'#events > li[data-event="{name}"]')

    def pick(self, text):
        """Choose whoever is found first by a text, in the window for it."""
        self.page.locator("#picker-search").fill(text)
        self.page.locator("#picker-list button").first.click()

    def leave(self):
        """Close the page, and hold it to account."""
        if not self.page.is_closed():
            self.witness.judge(self.page, self._url)
            self.page.close()


@pytest.fixture
def open_screen(browser):
    """Open pages, each in a browser profile of its own; at the end all are held to account."""
    contexts = []
    screens = []

    def opened(url, script=None, **options):
        size = {"width": 1440, "height": 900}
        contexts.append(browser.new_context(**{"viewport": size, "locale": "en-US"} | options))
        if script is not None:
            contexts[-1].add_init_script(script)
        screens.append(Screen(contexts[-1], url))
        return screens[-1]

    yield opened
    for screen in screens:
        screen.leave()
    for context in contexts:
        context.close()


@pytest.fixture
def screen(open_screen, site):
    """A page of the shared site."""
    return open_screen(site.url)


# --- Sign in and out ------------------------------------------------------------------------------


def test_demo(open_screen, tmp_path):
    """As a newcomer does: `--demo`, a wrong password, the right one, people, a call by itself."""
    port = free_port()
    settings = {"MXFLEX_HOST": f"localhost:{port}", "MXFLEX_HTML": str(HTML)}
    with Daemon(tmp_path, "mxflex", "--demo", **settings) as daemon:
        eventually(lambda: "MXFlex runs at" in daemon.output)
        screen = open_screen(f"http://localhost:{port}/")
        screen.witness.expect("status of 403", "/api/login")
        screen.sign_in("alexey", "wrong")
        expect(screen.page.locator("#sign-in-error")).to_have_text("Invalid user name or password")
        screen.sign_in("alexey", "demo")
        expect(screen.chip).to_have_text("Live")
        expect(screen.page.locator("#my-name")).to_have_text("Алексей Морозов")
        expect(screen.page.locator("#my-ext")).to_have_text("3095")
        expect(screen.contact("3072")).to_contain_text("Ольга Лебедева")
        expect(screen.contact("3072").locator(".note")).to_have_text("до обеда на складе")
        events = screen.page.locator('#events > li[data-topic="calls"]')
        expect(events.first).to_contain_text('"deviceId":"3095"')
        expect(screen.calls).to_have_count(1)
        # It would go on asking a daemon that is about to stop.
        screen.leave()


def test_wrong_password(screen):
    """The MX's own words stand in the form, nothing is kept, and the person may try again."""
    screen.witness.expect("status of 403", "/api/login")
    screen.sign_in("user3001", "wrong")
    expect(screen.page.locator("#sign-in-error")).to_have_text("Invalid user name or password")
    expect(screen.field("Login")).to_have_value("user3001")
    expect(screen.field("Password")).to_be_focused()
    expect(screen.page.locator("#console")).to_be_hidden()
    assert screen.page.evaluate("sessionStorage.length") == 0


def test_no_login_for_now(open_screen, tmp_path):
    """Who cannot sign in now is told why: the MX is away, or it was tried too often."""
    with Site(tmp_path, SCENARIO, login={"max_failures": 2, "window": 600}) as site:
        screen = open_screen(site.url)
        said = screen.page.locator("#sign-in-error")
        for status in (403, 429, 503):
            screen.witness.expect(f"status of {status}", "/api/login")
        site.lose_mx()
        screen.sign_in("user3001")
        expect(said).to_contain_text("(MX) is not connected")
        site.find_mx()
        for _ in range(2):
            screen.sign_in("user3001", "wrong")
            expect(said).to_have_text("Invalid user name or password")
        screen.sign_in("user3001")
        expect(said).to_have_text("Too many attempts. Try again in 10 min.")
        screen.leave()


def test_old_browser(open_screen, site):
    """A browser that lacks what the page is made with is told so, not left with a dead form."""
    screen = open_screen(site.url, "delete AbortSignal.any;")
    expect(screen.sign_in_word).to_contain_text("This browser is too old")
    expect(screen.button("Sign in")).to_be_hidden()


def test_reload(screen, extensions):
    """A reload asks for no password: the session is kept for the tab, and the password is not."""
    ext = next(extensions)
    screen.enter(ext)
    kept = screen.page.evaluate("JSON.stringify(sessionStorage)")
    assert "secret" not in kept
    screen.page.reload()
    expect(screen.chip).to_have_text("Live")
    expect(screen.page.locator("#my-name")).to_have_text(name_of(ext))


def test_kept_nonsense(screen):
    """What is kept but is no session is forgotten, and one signs in as ever."""
    screen.page.evaluate("sessionStorage.setItem('mxflex.session', 'nonsense')")
    screen.page.reload()
    expect(screen.field("Login")).to_be_focused()
    assert screen.page.evaluate("sessionStorage.length") == 0


def test_sign_out(screen, site, extensions):
    """Signing out forgets the session and all that was shown, and ends the watching."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.card("ringing").locator(".deflect").click()
    screen.page.locator("#picker-search").fill(other)
    expect(screen.page.locator("#picker-list")).to_contain_text(name_of(other))
    screen.page.locator("#picker-close").click()
    screen.contact("3902").locator(".name").click()
    expect(screen.page.locator("#person-numbers")).to_contain_text(MOBILE)
    screen.page.keyboard.press("Escape")
    screen.menu()
    screen.button("Sign out").click()
    expect(screen.sign_in_word).to_have_text("You have signed out.")
    assert screen.page.evaluate("sessionStorage.length") == 0
    for part in ("contacts", "calls", "events", "recent"):
        expect(screen.page.locator(f"#{part} > li")).to_have_count(0)
    # Nor is it there for somebody who looks at the page's source.
    source = screen.page.content()
    told = (mine, name_of(mine), other, name_of(other), "Ёлкина", MOBILE)
    assert [text for text in told if text in source] == []
    assert screen.page.title() == "MXFlex"
    expect(screen.field("Login")).to_be_focused()
    screen.page.reload()
    expect(screen.field("Login")).to_be_visible()
    screen.enter(mine)


def test_signed_out_elsewhere(screen, site, extensions):
    """When the same user signs out elsewhere, the page says so, and lets one sign in again."""
    ext = next(extensions)
    screen.enter(ext)
    screen.witness.expect("status of 403", "/api/events")
    site.person(f"user{ext}").log_out()
    expect(screen.chip).to_have_text("Not watched")
    expect(screen.banner).to_contain_text("not watched any more")
    expect(screen.page.get_by_role("status").filter(has_text="not watched")).to_be_attached()
    screen.button("Sign in again").click()
    screen.enter(ext)


@pytest.mark.parametrize("leads", [True, False])
def test_signed_out_in_another_tab(screen, site, extensions, leads):
    """Of a sign-out in another tab a page tells at once; calls of which nothing comes are gone."""
    mine, other = next(extensions), next(extensions)
    screen.enter_without_timers(mine)
    context = screen.page.context
    with context.expect_page() as opened:
        screen.page.evaluate("window.open(location.href)")
    second = Screen(context, site.url, opened.value)
    # A page that was opened by another one has the clock of its context.
    expect(second.chip).to_have_text("Live")
    leaving, staying = (second, screen) if leads else (screen, second)
    site.person(f"user{other}").dial(mine)
    for each in (leaving, staying):
        each.card("ringing").locator(".answer").wait_for()
    staying.card("ringing").locator(".answer").click()
    expect(staying.card("talking")).to_have_count(1)
    staying.card("talking").locator(".transfer").click()
    expect(staying.page.locator("#picker")).to_be_visible()
    for each in (leaving, staying):
        each.witness.expect("status of 403", "/api/events")
    leaving.menu()
    leaving.button("Sign out").click()
    expect(staying.chip).to_have_text("Not watched")
    expect(staying.calls).to_have_count(0)
    expect(staying.recent).to_have_count(0)
    expect(staying.page.locator("#picker")).to_be_hidden()
    expect(staying.page.get_by_text("Which calls there are is not known now.")).to_be_visible()
    expect(staying.page.get_by_text("No calls at the moment.")).to_be_hidden()
    with staying.page.expect_response("**/api/call"):
        staying.call_contact(REACHABLE["ext"])
    expect(staying.page.get_by_text("Which calls there are is not known now.")).to_be_visible()
    expect(staying.page.get_by_text("No calls at the moment.")).to_be_hidden()


def test_no_such_stream(screen, extensions):
    """A page that asks for what the server does not have, as one of another version, says so."""
    asked = []

    def ask_for_other(route):
        asked.append(route.request.url)
        route.continue_(url=re.sub("topics=.*", "topics=foo", route.request.url))

    screen.page.route("**/api/events?*", ask_for_other)
    screen.witness.expect("status of 400", "/api/events")
    screen.sign_in(f"user{next(extensions)}")
    expect(screen.chip).to_have_text("Ended")
    expect(screen.banner).to_contain_text("topics are calls, contacts, status. Loading it again")
    assert len(asked) == 1


def test_session_renewed_and_ended(open_screen, tmp_path):
    """A session renews itself without a new stream; one that cannot says so, and then has ended."""
    settings = {"token": {"lifetime": 6, "max_age": 8}}
    with Site(tmp_path / "site", {"users": [user("3001")]}, **settings) as site:
        screen = open_screen(site.url)
        screen.witness.expect("status of 403", "/api/token")
        asked = []
        screen.page.on("request", lambda request: asked.append(request.url.split("/")[-1]))
        screen.sign_in("user3001")
        kept = "sessionStorage.getItem('mxflex.session')"
        screen.page.wait_for_function(f"() => {kept} !== null")
        first = screen.page.evaluate(kept)
        screen.page.wait_for_function(f"(first) => {kept} !== first", arg=first)
        expect(screen.chip).to_have_text(re.compile(r"^Ends at \d\d:\d\d$"))
        expect(screen.banner).to_contain_text("Sign in again to go on")
        assert len([path for path in asked if path.startswith("events")]) == 1
        expect(screen.sign_in_word).to_have_text("Your session has ended. Please sign in again.")
        assert screen.page.evaluate("sessionStorage.length") == 0
        screen.leave()


def test_daemon_restarted(open_screen, tmp_path):
    """A new daemon does not know the session: the person is brought back with a word."""
    with Site(tmp_path / "site", {"users": [user("3001")]}) as site:
        screen = open_screen(site.url)
        screen.enter("3001")
        for path in ("/api/events", "/api/contacts", "/api/calls", "/api/token"):
            screen.witness.expect("status of 401", path)
            screen.witness.expect("net::", path)
        site.stop_mxflex()
        expect(screen.chip).to_contain_text("Reconnecting")
        expect(screen.banner).to_contain_text("comes back by itself")
        site.start_mxflex()
        # What it waits for may be a minute off: the old daemon has asked for that.
        screen.page.evaluate("dispatchEvent(new Event('online'))")
        expect(screen.sign_in_word).to_contain_text("does not know your session any more")
        assert screen.page.evaluate("sessionStorage.length") == 0
        screen.enter("3001")
        screen.leave()


# --- Directory ------------------------------------------------------------------------------------


def test_search(screen, extensions):
    """Names, notes and numbers are found, in any case and spelling; all words must be there."""
    screen.enter(next(extensions))
    count = screen.page.locator("#directory-count")
    everybody = len(SCENARIO["users"])
    expect(count).to_have_text(f"{everybody} people")
    quarter = len(EXTENSIONS) // 4
    for text, shown in (
        ("анна", quarter),
        ("VERA", quarter),
        ("jurgen", quarter),
        ("елкина", 1),
        ("Ёлкина,Zoë; ", 1),
        ("3002", 1),
        ("Складе", 1),
        ("анна 3004", 1),
        ("(202) 555-01 44", 1),
        ("zoe@example", 1),
        ("вера", 0),
    ):
        screen.search(text)
        expect(screen.found).to_have_count(shown)
        expect(count).to_have_text(f"{shown} of {everybody} people")
    expect(screen.page.locator("#directory-empty")).to_have_text("Nobody found")
    screen.page.keyboard.press("Escape")
    expect(screen.found).to_have_count(everybody)


def test_search_marks(screen, extensions):
    """What was found is marked, and a number that was found is shown; the best stand first."""
    screen.enter(next(extensions))
    screen.search("елк zo")
    row = screen.contact("3902")
    expect(row.locator("mark")).to_have_text(["Zo", "Ёлк"])
    expect(row.locator(".name")).to_have_text("Zoë Ёлкина")
    screen.search("555 0144")
    expect(row.locator(".found")).to_have_text(f"Mobile: {MOBILE}")
    expect(row.locator("mark")).to_have_text("5550144")
    # In the middle of 3010, at the beginning of 3001.
    screen.search("01")
    expect(screen.found.first.locator(".ext mark")).to_have_text("01")
    screen.search("300")
    expect(screen.found.first.locator(".ext")).to_contain_text("300")
    screen.search("")
    expect(screen.page.locator("#contacts mark")).to_have_count(0)


def test_presence(screen, site, extensions):
    """A change of presence shows at once, costs one row, and leaves the search as it is."""
    mine, other = next(extensions), next(extensions)
    screen.enter_without_timers(mine)
    screen.page.evaluate(
        """(ext) => {
          window.touched = new Set();
          new MutationObserver((records) => {
            for (const { target } of records) {
              const element = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;
              touched.add(element.closest("li")?.querySelector(".ext").textContent ?? "list");
            }
          }).observe(document.getElementById("contacts"),
            { subtree: true, childList: true, attributes: true, characterData: true });
        }"""
    )
    site.control(f"contacts/{other}", status="NotAvailable", note="meeting")
    row = screen.contact(other)
    expect(row.locator(".about")).to_have_text("Not availablemeeting")
    expect(row.locator(".avatar")).to_have_attribute("data-presence", "busy")
    assert screen.page.evaluate("[...touched]") == [other]
    screen.search("meet")
    expect(screen.found).to_have_count(1)
    site.control(f"contacts/{other}", status="Available", note="")
    expect(screen.found).to_have_count(0)
    screen.search(other)
    expect(row.locator(".about")).to_have_text("Available")


def test_change_overtakes_the_list(screen, site, extensions):
    """A presence that changes while the list is on its way is shown, not that of the list."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    late = []

    def hold(route):
        answer = route.fetch()
        if late:
            route.fulfill(response=answer)
        else:
            late.append((route, answer))
            site.control(f"contacts/{other}", status="Busy", note="")

    screen.page.route("**/api/contacts", hold)
    site.lose_mx()
    expect(screen.chip).to_have_text("MX is down")
    site.find_mx()
    expect(screen.events("ContactEvent").filter(has_text=f'"{other}"')).to_have_count(1)
    route, answer = late[0]
    with screen.page.expect_response("**/api/contacts"):
        route.fulfill(response=answer)
    expect(screen.chip).to_have_text("Live")
    expect(screen.contact(other).locator(".presence")).to_have_text("Busy")
    screen.page.unroute_all(behavior="wait")


def test_changes_are_not_kept(screen):
    """A change of a person is kept until the next one, and no longer."""
    screen.page.evaluate(
        """async () => {
          const { People } = await import("./people.js");
          const named = (name) => ({ jid: "1", firstName: name, lastName: "", ext: "3001" });
          const stream = new EventTarget();
          window.people = new People();
          people.begin({ contacts: async () => [named("first")] }, stream, (act) => act());
          await people.refresh();
          window.changes = [];
          for (let number = 0; number < 100; number++) {
            const contact = named(`name ${number}`);
            changes.push(new WeakRef(contact));
            const detail = { action: "changed", contact };
            stream.dispatchEvent(new CustomEvent("ContactEvent", { detail }));
          }
        }"""
    )
    screen.page.request_gc()
    kept = "changes.map((change) => change.deref()?.firstName).filter(Boolean)"
    assert screen.page.evaluate(kept) == ["name 99"]


def test_people_come_and_go(screen, site, extensions):
    """Who is new stands where the name belongs; who leaves is not there any more."""
    screen.enter(next(extensions))
    new = {"ext": "3950", "login": "new", "password": "secret", "first_name": "Aaron"}
    site.control("steps", add_user=new)
    # Behind the one whose name begins with "<".
    expect(screen.found.nth(1).locator(".name")).to_have_text("Aaron")
    site.control("steps", update_user={"ext": "3950", "first_name": "Яков"})
    expect(screen.found.last.locator(".name")).to_have_text("Яков")
    site.control("steps", delete_user="3950")
    expect(screen.contact("3950")).to_have_count(0)


def test_person(screen, extensions):
    """A person is shown with all numbers; each can be called."""
    screen.enter(next(extensions))
    screen.contact("3902").locator(".name").click()
    window = screen.page.locator("#person")
    expect(window.get_by_role("heading")).to_have_text("Zoë Ёлкина")
    expect(window.get_by_role("button", name="Extension 3902")).to_be_visible()
    expect(window.get_by_role("button", name=f"Mobile {MOBILE}")).to_be_visible()
    expect(window.get_by_role("link")).to_have_attribute("href", "mailto:zoe%40example.com")
    screen.page.keyboard.press("Escape")
    expect(window).to_be_hidden()
    expect(screen.contact("3902").locator(".name")).to_be_focused()
    screen.page.keyboard.press("Enter")
    window.get_by_role("button", name="Direct").click()
    expect(window).to_be_hidden()
    expect(screen.card("dialling").locator(".name")).to_have_text("Zoë Ёлкина")


def test_hostile_name(screen, site, extensions):
    """Markup in a name is text everywhere: in lists, windows, titles, on a call, in an event."""
    mine = next(extensions)
    screen.enter(mine)
    shown = f"{MARKUP} </script>"
    expect(screen.contact("3900").locator(".name")).to_have_text(shown)
    screen.search("<img")
    expect(screen.contact("3900").locator(".name")).to_have_text(shown)
    screen.contact("3900").locator(".name").click()
    expect(screen.page.locator("#person-name")).to_have_text(shown)
    screen.page.keyboard.press("Escape")
    site.person("hostile").dial(mine)
    expect(screen.calls.locator(".name")).to_have_text(shown)
    assert screen.page.title() == f"{shown} is calling · MXFlex"
    screen.menu()
    screen.page.locator("#language").select_option("ru")
    screen.page.keyboard.press("Escape")
    screen.card("ringing").locator(".answer").click()
    screen.card("talking").locator(".transfer").click()
    expect(screen.page.locator("#picker-title")).to_have_text(f"Перевести: {shown}")
    screen.pick("<b>")
    expect(screen.page.locator("#picker-error")).not_to_be_empty()
    screen.witness.expect("status of 422", "/api/call/transfer")
    screen.page.keyboard.press("Escape")
    screen.events("EstablishedEvent").locator("summary").click()
    expect(screen.events("EstablishedEvent").locator("pre")).to_contain_text("<img src=x")
    screen.card("talking").locator(".hang-up").click()
    expect(screen.recent.locator(".name")).to_have_text(shown)
    assert screen.page.locator(":is(li, dialog) :is(img, b, script)").count() == 0
    assert screen.page.title() == "MXFlex"


# --- Calls ----------------------------------------------------------------------------------------


def test_outgoing_call(screen, site, extensions):
    """Somebody of the directory is called, put on hold, taken back, and hung up on."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    screen.enter(mine)
    expect(screen.page.locator("#no-calls")).to_be_visible()
    screen.call_contact(other)
    card = screen.calls
    expect(card.locator(".name")).to_have_text(name_of(other))
    expect(card.locator(".party")).to_have_text(other)
    expect(card.locator(".state")).to_have_text("Calling")
    colleague.answer()
    expect(card.locator(".state")).to_have_text("Talking")
    expect(card.locator(".clock")).to_have_text(re.compile(r"^0:0[1-9]$"))
    card.get_by_role("button", name="Hold").click()
    expect(card.locator(".state")).to_have_text("On hold")
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".state")).to_have_text("Talking")
    card.get_by_role("button", name="Hang up").click()
    expect(card).to_have_count(0)
    expect(screen.page.locator("#no-calls")).to_be_visible()
    for name in ("OriginatedEvent", "HeldEvent", "RetrievedEvent", "ConnectionClearedEvent"):
        expect(screen.events(name)).to_have_count(1)
    expect(screen.recent.locator(".about")).to_have_text(re.compile(r"^Outgoing · \d+ · 0:\d\d$"))
    screen.recent.get_by_role("button", name=f"Call {name_of(other)}").click()
    expect(screen.card("dialling").locator(".name")).to_have_text(name_of(other))


@pytest.mark.parametrize("typed", ["+1 202 555-0104", "+1 (0)202 555\N{EN DASH}0104"])
def test_dialled_number(screen, extensions, typed):
    """A number that nobody has is called however it was typed, and answered there."""
    screen.enter(next(extensions))
    screen.search(typed)
    expect(screen.page.locator("#dial")).to_have_text(re.compile(re.escape(f"Call {typed}")))
    screen.page.keyboard.press("Enter")
    expect(screen.card("talking").locator(".name")).to_have_text(OUTSIDE.removeprefix("+"))
    expect(screen.page.locator("#search")).to_have_value("")


def test_incoming_call(screen, site, extensions):
    """A call that comes in is announced, answered, and goes when the other side hangs up."""
    mine, other = next(extensions), next(extensions)
    screen.enter_without_timers(mine)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    expect(screen.card("ringing").locator(".name")).to_have_text(name_of(other))
    expect(screen.announcement).to_have_text(f"Incoming call: {name_of(other)}")
    assert screen.page.title() == f"{name_of(other)} is calling · MXFlex"
    icon = screen.page.locator("link[rel=icon]")
    expect(icon).to_have_attribute("href", "favicon-ringing.svg")
    screen.calls.get_by_role("button", name="Answer").click()
    expect(screen.card("talking")).to_have_count(1)
    expect(icon).to_have_attribute("href", "favicon.svg")
    assert screen.page.title() == "MXFlex"
    colleague.hang_up()
    expect(screen.calls).to_have_count(0)
    expect(screen.recent.locator(".about")).to_contain_text("Incoming")


def test_caller_by_number(screen, site, extensions):
    """Who calls from a number of the address book is shown by name, however it is written there."""
    mine = next(extensions)
    screen.enter(mine)
    site.control("calls", **{"from": MOBILE.removeprefix("+"), "to": mine})
    expect(screen.card("ringing").locator(".name")).to_have_text("Zoë Ёлкина")
    expect(screen.card("ringing").locator(".party")).to_contain_text("2025550144")
    expect(screen.announcement).to_have_text("Incoming call: Zoë Ёлкина")


def test_twice_is_once(screen, site, extensions):
    """A double click, or a key held down, does a thing once, whatever stands there meanwhile."""
    page = screen.page
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    asked = []
    page.on("request", lambda request: asked.append(request.url.partition("/api/")[2]))

    def double(button, once):
        box = button.bounding_box()
        page.mouse.move(box["x"] + 15, box["y"] + 15)
        for count in (1, 2):
            page.mouse.down(click_count=count)
            page.mouse.up(click_count=count)
            once()

    site.person(f"user{other}").dial(mine)
    double(screen.card("ringing").locator(".answer"), screen.card("talking").wait_for)
    screen.card("talking").locator(".hang-up").click()
    expect(screen.calls).to_have_count(0)
    screen.search(other)
    expect(screen.found).to_have_count(1)
    double(screen.contact(other).locator(".call"), screen.card("dialling").wait_for)
    screen.calls.locator(".hang-up").click()
    expect(screen.calls).to_have_count(0)
    page.locator("#search").focus()
    page.keyboard.down("Enter")
    screen.card("dialling").wait_for()
    page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    screen.calls.locator(".hang-up").click()
    expect(screen.calls).to_have_count(0)
    commands = [path for path in asked if path.startswith("call") and path != "calls"]
    done = ["call/answer", "call/hangup", "call", "call/hangup", "call", "call/hangup"]
    assert commands == done


def test_missed_and_declined(screen, site, extensions):
    """Calls that nobody took are missed, those that were sent away are not, and are called back."""
    mine = next(extensions)
    screen.enter(mine)
    for end in ("declined", "missed"):
        call = site.control("calls", **{"from": OUTSIDE, "to": mine, "name": "Harbor Coffee"})
        expect(screen.card("ringing")).to_have_count(1)
        if end == "declined":
            screen.calls.get_by_role("button", name="Decline").click()
        else:
            site.control(f"calls/{call['id']}/hang_up", number=OUTSIDE.removeprefix("+"))
        expect(screen.calls).to_have_count(0)
    outcomes = [item.get_attribute("data-outcome") for item in screen.recent.all()]
    assert outcomes == ["missed", "declined"]
    expect(screen.recent.first.locator(".about")).to_have_text("Missed · 12025550104")
    screen.recent.first.get_by_role("button").click()
    expect(screen.card("talking").locator(".name")).to_have_text(OUTSIDE.removeprefix("+"))


def test_missed_on_a_telephone(open_screen, site, extensions):
    """On a narrow screen a call shows in every view, and missed ones are counted until seen."""
    mine = next(extensions)
    screen = open_screen(site.url, viewport={"width": 360, "height": 740})
    screen.enter(mine)
    views = screen.page.get_by_role("navigation", name="Views")
    views.get_by_role("button", name="Directory").click()
    expect(screen.page.locator("#calls-title")).to_be_hidden()
    call = site.control("calls", **{"from": OUTSIDE, "to": mine})
    expect(screen.card("ringing").get_by_role("button", name="Answer")).to_be_visible()
    site.control(f"calls/{call['id']}/hang_up", number=OUTSIDE.removeprefix("+"))
    expect(screen.calls).to_have_count(0)
    expect(screen.page.get_by_label("1 missed call")).to_have_text("1")
    views.get_by_role("button", name="Calls").click()
    expect(screen.page.locator("#missed-count")).to_be_hidden()
    expect(screen.recent).to_have_count(1)


def test_missed_on_a_telephone_on_its_side(open_screen, site, extensions):
    """A call has the place of the list for itself; what was missed is seen once that is back."""
    screen = open_screen(site.url, viewport={"width": 740, "height": 360})
    mine = next(extensions)
    screen.enter(mine)
    call = site.control("calls", **{"from": OUTSIDE, "to": mine})
    expect(screen.card("ringing")).to_be_visible()
    expect(screen.page.get_by_role("heading", name="Recent calls")).to_be_hidden()
    site.control(f"calls/{call['id']}/hang_up", number=OUTSIDE.removeprefix("+"))
    expect(screen.recent).to_be_visible()
    expect(screen.page.locator("#missed-count")).to_be_hidden()


def test_transfer(screen, site, extensions):
    """A call goes to somebody who is picked, at once; who is not there to be had is said so."""
    mine, other, third = (next(extensions) for _ in range(3))
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.calls.get_by_role("button", name="Answer").click()
    screen.card("talking").get_by_role("button", name="Transfer").click()
    window = screen.page.get_by_role("dialog", name=f"Transfer {name_of(other)}")
    expect(screen.page.locator("#picker-search")).to_be_focused()
    screen.witness.expect("status of 422", "/api/call/transfer")
    screen.pick("99")
    expect(window.get_by_role("alert")).to_contain_text("The MX says:")
    screen.pick(third)
    expect(window).to_be_hidden()
    expect(screen.calls).to_have_count(0)
    expect(screen.recent.locator(".about")).to_contain_text("Sent on")
    colleague = site.person(f"user{third}")
    colleague.answer()
    (call,) = colleague.calls()
    assert call["callingDevice"] == other


def test_deflect(screen, site, extensions):
    """A call that rings is sent on to somebody else."""
    mine, other, third = (next(extensions) for _ in range(3))
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.card("ringing").get_by_role("button", name="Send on").click()
    expect(screen.page.locator("#picker-ways")).to_be_hidden()
    screen.pick(name_of(third))
    expect(screen.calls).to_have_count(0)
    site.person(f"user{third}").answer()


def test_choice_ends_with_the_call(screen, site, extensions):
    """Who is choosing to whom a call shall go need choose no more when the caller hangs up."""
    mine = next(extensions)
    screen.enter(mine)
    call = site.control("calls", **{"from": OUTSIDE, "to": mine})
    screen.card("ringing").get_by_role("button", name="Send on").click()
    expect(screen.page.locator("#picker")).to_be_visible()
    site.control(f"calls/{call['id']}/hang_up", number=OUTSIDE.removeprefix("+"))
    expect(screen.page.locator("#picker")).to_be_hidden()
    expect(screen.calls).to_have_count(0)


def test_consultation(screen, site, extensions):
    """A third person is asked while the caller is on hold; then the two are connected."""
    mine, other, third = (next(extensions) for _ in range(3))
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.calls.get_by_role("button", name="Answer").click()
    screen.card("talking").get_by_role("button", name="Transfer").click()
    screen.page.get_by_role("radio", name="Ask first").check()
    screen.pick(third)
    expect(screen.card("held").locator(".name")).to_have_text(name_of(other))
    site.person(f"user{third}").answer()
    expect(screen.card("talking").locator(".name")).to_have_text(name_of(third))
    screen.button(f"Connect with {name_of(third)}").click()
    expect(screen.calls).to_have_count(0)
    expect(screen.recent).to_have_count(2)


def test_record_and_park(screen, extensions):
    """A call is recorded and parked; the page says so, and where it is parked."""
    screen.enter(next(extensions))
    screen.dial(OUTSIDE)
    card = screen.card("talking")
    record = card.get_by_role("button", name="Record")
    expect(record).to_have_attribute("aria-pressed", "false")
    record.click()
    expect(record).to_have_attribute("aria-pressed", "true")
    expect(card.locator(".party")).to_contain_text("being recorded")
    record.click()
    expect(record).to_have_attribute("aria-pressed", "false")
    card.get_by_role("button", name="Park").click()
    word = screen.page.get_by_role("status").filter(has_text=re.compile(r"Parked in place \d+\."))
    expect(word).to_be_visible()
    expect(screen.calls).to_have_count(0)
    word.get_by_role("button", name="Close").click()
    expect(word).to_be_hidden()


def test_failed_call(screen, site, extensions):
    """A call that fails, as when the other one is busy, is told from one that nobody answers."""
    screen.enter(next(extensions))
    screen.dial("+12025550190")
    expect(screen.recent).to_have_attribute("data-outcome", "unfinished")
    other = next(extensions)
    screen.call_contact(other)
    screen.card("dialling").get_by_role("button", name="Hang up").click()
    expect(screen.recent.first).to_have_attribute("data-outcome", "unanswered")


def test_refused_call(screen):
    """What the MX refuses is told in its words where it was asked for, until it goes well."""
    screen.witness.expect("status of 422", "/api/call")
    screen.sign_in("denied")
    screen.call_contact("3001")
    row = screen.contact("3001")
    expect(row.get_by_role("alert")).to_have_text("The MX says: URM Denied")
    screen.dial(OUTSIDE)
    expect(screen.page.locator("#dial-note")).to_have_text("The MX says: URM Denied")
    expect(screen.page.locator("#search")).to_have_value(OUTSIDE)


def test_command_refused(screen, site, extensions):
    """What cannot be done with a call is told on its card."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.calls.get_by_role("button", name="Answer").click()
    site.control("faults/HoldCall", refuse="resourceBusy", times=1)
    screen.witness.expect("status of 422", "/api/call/hold")
    screen.card("talking").get_by_role("button", name="Hold").click()
    expect(screen.calls.get_by_role("alert")).to_have_text("The MX says: resourceBusy")
    screen.card("talking").get_by_role("button", name="Hold").click()
    expect(screen.card("held")).to_have_count(1)
    expect(screen.calls.get_by_role("alert")).to_have_count(0)


# --- Notifications and tabs -----------------------------------------------------------------------


def test_asks_before_it_notifies(open_screen, site, extensions):
    """The browser is asked for notifications by a click alone, and the offer can be sent away."""
    screen = open_screen(site.url, script=NOTICES)
    screen.enter(next(extensions))
    offer = screen.page.locator("#ask-notify")
    expect(offer).to_be_visible()
    assert screen.page.evaluate("asked") == 0
    screen.page.context.grant_permissions(["notifications"])
    screen.menu()
    screen.page.get_by_role("switch", name="Notify me of calls").check()
    expect(offer).to_be_hidden()
    screen.page.reload()
    expect(screen.chip).to_have_text("Live")
    expect(screen.page.locator("#notify")).to_be_checked()


def test_notification_of_a_tab_that_goes(open_screen, site, extensions):
    """Who closes the tab, or leaves the page, is not shown any more that somebody calls."""
    mine, other = next(extensions), next(extensions)
    screen = open_screen(site.url, script=NOTICES, permissions=["notifications"])
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.page.wait_for_function("notices.length === 1")
    assert screen.page.evaluate("withdrawn") == []
    screen.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
    assert screen.page.evaluate("withdrawn") == screen.page.evaluate("notices")


def test_offer_declined(screen, extensions):
    """Who does not want notifications is not asked again."""
    screen.enter(next(extensions))
    screen.button("Not now").click()
    expect(screen.page.locator("#ask-notify")).to_be_hidden()
    screen.page.reload()
    expect(screen.chip).to_have_text("Live")
    expect(screen.page.locator("#ask-notify")).to_be_hidden()


def test_two_tabs(open_screen, site, extensions):
    """Two tabs have one stream and show one notification; when one goes, the other goes on."""
    mine, other = next(extensions), next(extensions)
    screen = open_screen(site.url, script=NOTICES, permissions=["notifications"])
    context = screen.page.context
    streams = []
    context.on("request", lambda request: "/api/events" in request.url and streams.append(request))
    screen.enter(mine)
    with context.expect_page() as opened:
        screen.page.evaluate("window.open(location.href)")
    second = Screen(context, site.url, opened.value)
    expect(second.chip).to_have_text("Live")
    expect(second.events("status")).to_have_count(1)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    for tab in (screen, second):
        expect(tab.card("ringing")).to_have_count(1)
        expect(tab.announcement).to_have_text(f"Incoming call: {name_of(other)}")
    assert len(streams) == 1
    assert screen.page.evaluate("notices") == [f"{name_of(other)} is calling"]
    assert second.page.evaluate("notices") == []
    screen.leave()
    colleague.hang_up("alerting")
    expect(second.calls).to_have_count(0)
    colleague.dial(mine)
    expect(second.card("ringing")).to_have_count(1)
    second.page.wait_for_function("() => notices.length === 1")
    assert len(streams) == 2
    second.leave()


# --- Connections that fail ------------------------------------------------------------------------


def test_mx_away(screen, site, extensions):
    """While the MX is away the page says so and commands do; when it is back, calls work."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    screen.witness.expect("status of 503", "/api/call")
    site.lose_mx()
    expect(screen.chip).to_have_text("MX is down")
    expect(screen.banner).to_contain_text("telephone server (MX) is not connected")
    screen.call_contact(other)
    expect(screen.contact(other).get_by_role("alert")).to_contain_text("MX")
    site.find_mx()
    expect(screen.chip).to_have_text("Live")
    expect(screen.banner).to_be_hidden()
    expect(screen.contact(other).get_by_role("alert")).to_have_count(0)
    expect(screen.events("gap")).to_contain_text('"reason":"mx-down"')
    screen.call_contact(other)
    expect(screen.calls.locator(".name")).to_have_text(name_of(other))


def test_stream_lost_and_back(open_screen, site, extensions):
    """A stream that breaks comes back by itself, with what was missed, and nothing twice."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    with Cable(site.port) as cable:
        screen = open_screen(f"http://localhost:{cable.port}/")
        screen.expect_cuts()
        screen.enter(mine)
        colleague.dial(mine)
        expect(screen.events("DeliveredEvent")).to_have_count(1)
        cable.pull()
        expect(screen.chip).to_have_text(re.compile(r"^Reconnecting( in \d+ s|…)$"))
        expect(screen.banner).to_contain_text(re.compile(r"how things were at \d\d:\d\d:\d\d"))
        colleague.hang_up("alerting")
        site.control(f"contacts/{other}", status="Busy", note="в дороге")
        # Somebody calls and gives up while nobody can see it.
        call = site.control("calls", **{"from": OUTSIDE, "to": mine})
        site.control(f"calls/{call['id']}/hang_up", number=OUTSIDE.removeprefix("+"))
        screen.page.evaluate(
            """() => {
              window.said = [];
              new MutationObserver(() => said.push(announcement.textContent))
                .observe(announcement, { childList: true });
            }"""
        )
        cable.plug()
        expect(screen.chip).to_have_text("Live")
        expect(screen.banner).to_be_hidden()
        expect(screen.events("ConnectionClearedEvent")).to_have_count(2)
        expect(screen.events("DeliveredEvent")).to_have_count(2)
        expect(screen.calls).to_have_count(0)
        names = screen.recent.locator(".name")
        expect(names).to_have_text([OUTSIDE.removeprefix("+"), name_of(other)], use_inner_text=True)
        assert {row.get_attribute("data-outcome") for row in screen.recent.all()} == {"missed"}
        # What is long over does not ring.
        assert "Incoming" not in "".join(screen.page.evaluate("said"))
        expect(screen.contact(other).locator(".note")).to_have_text("в дороге")
        screen.leave()


def test_offline(screen, extensions):
    """Without a network the page says so, what is asked fails where it was, and it comes back."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    screen.expect_cuts()
    screen.page.context.set_offline(True)
    expect(screen.chip).to_have_text("Offline")
    expect(screen.banner).to_contain_text("no network")
    screen.call_contact(other)
    expect(screen.contact(other).get_by_role("alert")).to_contain_text("cannot be reached")
    screen.page.context.set_offline(False)
    expect(screen.chip).to_have_text("Live")


# --- The inspector --------------------------------------------------------------------------------


def test_inspector(open_screen, site, extensions):
    """The stream as it comes: opened, filtered, paused, copied, cleared."""
    mine, other = next(extensions), next(extensions)
    permissions = ["clipboard-read", "clipboard-write"]
    screen = open_screen(site.url, permissions=permissions)
    screen.enter(mine)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    delivered = screen.events("DeliveredEvent")
    delivered.locator("summary").click()
    # The browser tells a moment later that it is open.
    expect(delivered.locator("pre")).not_to_be_empty()
    shown = json.loads(delivered.locator("pre").text_content())
    assert shown["alertingDevice"] == mine
    assert '\n  "callId"' in delivered.locator("pre").text_content()
    event_id = delivered.locator(".event-id").text_content().removeprefix("id ")
    delivered.get_by_role("button", name="Copy").click()
    expect(screen.page.locator("#events-word")).to_have_text("Copied")
    raw = screen.page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(rf'event: DeliveredEvent\ndata: {{"callId":.*}}\nid: {event_id}\n\n', raw)
    rows = screen.page.locator("#events > li:visible")
    count = screen.page.locator("#events-count")
    screen.field("Topic").select_option("Status")
    expect(rows).to_have_count(1)
    screen.field("Topic").select_option("All")
    screen.field("Filter events").fill(f"delivered {other}")
    expect(rows).to_have_count(1)
    expect(count).to_have_text(re.compile(r"^1 of \d+$"))
    screen.field("Filter events").fill("")
    screen.button("Pause").click()
    colleague.hang_up("alerting")
    expect(count).to_have_text("paused, 1 new")
    expect(screen.events("ConnectionClearedEvent")).to_have_count(0)
    screen.button("Pause").click()
    expect(screen.events("ConnectionClearedEvent")).to_have_count(1)
    screen.button("Copy all that is shown").click()
    screen.page.wait_for_function(
        "async () => (await navigator.clipboard.readText()).includes('ConnectionCleared')"
    )
    screen.button("Clear").click()
    expect(rows).to_have_count(0)
    expect(screen.page.locator("#no-events")).to_be_visible()


# --- For everybody --------------------------------------------------------------------------------


def test_keyboard(screen, site, extensions):
    """Signing in, calling, transferring and hanging up need no mouse; the focus is never lost."""
    mine, other, third = (next(extensions) for _ in range(3))
    keyboard = screen.page.keyboard
    focused = screen.page.locator(":focus")
    expect(screen.field("Login")).to_be_focused()
    keyboard.type(f"user{mine}")
    keyboard.press("Tab")
    keyboard.type("secret")
    keyboard.press("Enter")
    search = screen.page.locator("#search")
    expect(search).to_be_focused()
    expect(screen.contact(other)).to_be_attached()
    # Down the list and up again; the whole list is one stop of Tab.
    keyboard.press("ArrowDown")
    keyboard.press("ArrowDown")
    expect(focused).to_have_attribute("aria-label", re.compile("^Call "))
    keyboard.press("Tab")
    assert not screen.page.evaluate(
        "document.getElementById('contacts').contains(document.activeElement)"
    )
    # `/` leads to the search, from wherever one is.
    keyboard.press("/")
    expect(search).to_be_focused()
    keyboard.type(other)
    expect(screen.found).to_have_count(1)
    keyboard.press("Enter")
    expect(screen.card("dialling").locator(".name")).to_have_text(name_of(other))
    site.person(f"user{other}").answer()
    transfer = screen.card("talking").get_by_role("button", name="Transfer")
    transfer.focus()
    keyboard.press("Enter")
    expect(screen.page.locator("#picker-search")).to_be_focused()
    keyboard.press("Escape")
    expect(transfer).to_be_focused()
    keyboard.press("Enter")
    keyboard.type(third)
    keyboard.press("ArrowDown")
    expect(focused).to_contain_text(name_of(third))
    keyboard.press("Enter")
    expect(screen.calls).to_have_count(0)
    expect(screen.page.get_by_role("heading", name="My calls")).to_be_focused()


def test_focus_follows_a_call(screen, site, extensions):
    """Who answers by key has the focus where the button was, on one that does no harm."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    answer = screen.calls.get_by_role("button", name="Answer")
    answer.focus()
    screen.page.keyboard.press("Enter")
    expect(screen.calls.get_by_role("button", name="Hold")).to_be_focused()
    screen.page.keyboard.press("Enter")
    expect(screen.calls.get_by_role("button", name="Resume")).to_be_focused()
    screen.calls.get_by_role("button", name="Hang up").focus()
    screen.page.keyboard.press("Enter")
    expect(screen.page.get_by_role("heading", name="My calls")).to_be_focused()


def test_slash_can_be_switched_off(screen, extensions):
    """A key alone that does something can be switched off (WCAG 2.1, 2.1.4); Ctrl-K stays."""
    screen.enter(next(extensions))
    search = screen.page.locator("#search")
    screen.menu()
    screen.page.get_by_role("switch", name="The key / goes to the search").uncheck()
    screen.page.keyboard.press("Escape")
    screen.page.reload()
    expect(screen.chip).to_have_text("Live")
    screen.page.keyboard.press("/")
    expect(search).not_to_be_focused()
    screen.page.keyboard.press("Control+k")
    expect(search).to_be_focused()
    expect(search).to_have_value("")


def test_languages(open_screen, site, extensions):
    """The browser's language to begin with; the one that is chosen at once, and the next time."""
    ext = next(extensions)
    screen = open_screen(site.url, locale="ru-RU")
    html = screen.page.locator("html")
    expect(html).to_have_attribute("lang", "ru")
    expect(screen.button("Войти")).to_be_visible()
    screen.enter(ext)
    expect(screen.chip).to_contain_text("связи")
    expect(screen.page.locator("#directory-count")).to_have_text("83 человека")
    expect(screen.contact("3001").locator(".presence")).to_contain_text("месте")
    screen.menu()
    screen.page.locator("#language").select_option("en")
    expect(html).to_have_attribute("lang", "en")
    expect(screen.chip).to_have_text("Live")
    expect(screen.page.locator("#directory-count")).to_have_text("83 people")
    expect(screen.contact("3001").locator(".presence")).to_have_text("Available")
    expect(screen.page.locator("#search")).to_have_attribute("placeholder", "Name or number")
    screen.page.reload()
    expect(screen.page.get_by_role("heading", name="My calls")).to_be_visible()


def test_words(screen):
    """Each text is there in each language, in all forms that the language has."""
    lacking = screen.page.evaluate(
        """async () => {
          const { WORDS } = await import("/words.js");
          const lacking = [];
          const names = (text) => [...text.matchAll(/\\{\\w+\\}/g)].map(String).sort().join();
          const forms = (text) => (typeof text === "string" ? { other: text } : text);
          const keys = new Set(Object.values(WORDS).flatMap(Object.keys));
          const templates = [...document.querySelectorAll("template")];
          const roots = [document, ...templates.map((template) => template.content)];
          for (const element of roots.flatMap((root) => [...root.querySelectorAll("*")])) {
            for (const [name, key] of Object.entries(element.dataset)) {
              if (/^t([A-Z]|$)/.test(name) && name !== "tArgs" && !keys.has(key)) lacking.push(key);
            }
          }
          for (const [language, words] of Object.entries(WORDS)) {
            const { pluralCategories } = new Intl.PluralRules(language).resolvedOptions();
            for (const key of keys) {
              const text = words[key];
              if (text === undefined) { lacking.push(`${language}: ${key}`); continue; }
              if (typeof text !== "string" && pluralCategories.some((form) => !text[form])) {
                lacking.push(`${language}: ${key} lacks a form`);
              }
              const wanted = names(forms(WORDS.en[key]).other);
              if (Object.values(forms(text)).some((form) => names(form) !== wanted)) {
                lacking.push(`${language}: ${key} fills in other things`);
              }
            }
          }
          return lacking;
        }"""
    )
    assert lacking == []


def test_appearance(open_screen, site, extensions):
    """Light or dark as the system is, or as it was chosen."""
    screen = open_screen(site.url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = screen.page.evaluate(ground)
    screen.enter(next(extensions))
    screen.menu()
    screen.page.locator("#theme").select_option("light")
    light = screen.page.evaluate(ground)
    assert light != dark
    screen.page.reload()
    expect(screen.chip).to_have_text("Live")
    assert screen.page.evaluate(ground) == light


# A telephone upright and on its side, a tablet, a desk.
SIZES = ((360, 800), (740, 360), (768, 800), (1440, 800))


# What tells who is there and how things are: it is never cut off.
WHOLE = (
    "#chip-text, #banner-text, .card .name, .card .party, .card .state, .buttons button,"
    " .past .about"
)


class Inspection:
    """Looks at states of the page: no rule of axe broken, nothing sticks out or is cut off."""

    def __init__(self, screen):
        self._screen = screen
        self._axe = axe.Axe()

    def __call__(self, state, *, telephone=False):
        """Judge what is to be seen at this moment, at all widths; axe at one, or at two."""
        page = self._screen.page
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            self._measure(state, width, height)
            if (width, height) == SIZES[-1] or (telephone and (width, height) == SIZES[0]):
                found = self._axe.run(page, options={"resultTypes": ["violations"]})
                assert found.violations_count == 0, (state, width, found.generate_report())

    def _measure(self, state, width, height):
        page = self._screen.page
        assert page.evaluate("document.documentElement.scrollWidth") == width, state
        # The form may be higher than a telephone on its side. The console scrolls in its parts.
        if page.locator("#console").is_visible():
            assert page.evaluate("document.documentElement.scrollHeight") == height, (state, width)
        cut = page.locator(WHOLE).evaluate_all(
            """(elements) => elements
              .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth)
              .map((each) => each.textContent)"""
        )
        assert cut == [], (state, width)


def visit_quiet_states(screen, inspect):
    """Go through what there is to see while nobody calls."""
    page = screen.page
    inspect("nothing happens", telephone=True)
    screen.menu()
    inspect("menu")
    page.keyboard.press("Escape")
    # A few people are enough for the rest: axe takes its time over each.
    screen.search("555 01")
    expect(page.locator("#dial")).to_be_attached()
    inspect("a number is found, and can be dialled")
    screen.contact("3902").locator(".name").click()
    inspect("a person")
    page.keyboard.press("Escape")


def visit_calls(screen, inspect, site, extensions):
    """Go through all phases of calls, and what is left of them."""
    page = screen.page
    mine, other, third = extensions
    site.person(f"user{other}").dial(mine)
    screen.card("ringing").locator(".answer").click()
    screen.card("talking").locator(".transfer").click()
    inspect("transfer")
    page.locator("#picker-ways input").last.check()
    screen.pick(third)
    site.person(f"user{third}").answer()
    expect(screen.card("talking")).to_have_count(1)
    name = "Harbor Coffee Roasters and Daughters"
    site.control("calls", **{"from": OUTSIDE, "to": mine, "name": name})
    expect(screen.card("ringing")).to_have_count(1)
    inspect("a call talks, one is held, one rings", telephone=True)
    screen.card("ringing").locator(".hang-up").click()
    screen.card("held").locator(".join").click()
    expect(screen.recent).to_have_count(3)
    screen.events("HeldEvent").locator("summary").click()
    screen.show("events")
    inspect("recent calls, and an open event", telephone=True)


def visit_troubles(screen, inspect, site, cable):
    """Go through what is shown while something is away."""
    screen.show("directory")
    site.lose_mx()
    try:
        expect(screen.chip).to_have_attribute("data-state", "mx-down")
        screen.call_contact("3902")
        expect(screen.contact("3902").get_by_role("alert")).not_to_be_empty()
        inspect("the MX is away", telephone=True)
    finally:
        site.find_mx()
    expect(screen.chip).to_have_attribute("data-state", "live")
    cable.pull()
    expect(screen.chip).to_have_attribute("data-state", "reconnecting")
    inspect("reconnecting")
    cable.plug()
    expect(screen.chip).to_have_attribute("data-state", "live")


@pytest.mark.parametrize(("scheme", "locale"), [("light", "ru-RU"), ("dark", "en-US")])
def test_every_state_is_for_everybody(open_screen, site, extensions, scheme, locale):
    """No state breaks a rule of axe (WCAG 2.1 AA among them), in both themes, at any width."""
    mine, other, third = (next(extensions) for _ in range(3))
    options = {"color_scheme": scheme, "locale": locale, "reduced_motion": "reduce"}
    with Cable(site.port) as cable:
        screen = open_screen(f"http://localhost:{cable.port}/", **options)
        screen.witness.expect("status of 403", "/api/login")
        screen.witness.expect("status of 503", "/api/call")
        screen.expect_cuts()
        inspect = Inspection(screen)
        screen.sign_in(f"user{mine}", "wrong")
        expect(screen.page.locator("#sign-in-error")).not_to_be_empty()
        inspect("sign in, with an error")
        screen.enter(mine)
        expect(screen.page.locator("#no-calls")).to_be_visible()
        visit_quiet_states(screen, inspect)
        visit_calls(screen, inspect, site, (mine, other, third))
        visit_troubles(screen, inspect, site, cable)
        screen.leave()


def test_policy(screen):
    """The page allows itself nothing but its own files, and has nothing that would need more."""
    policy = screen.page.locator('meta[http-equiv="Content-Security-Policy"]')
    content = policy.get_attribute("content")
    assert content.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in content
    screen.witness.expect("Content Security Policy")
    screen.witness.expect("TrustedScript")
    blocked = screen.page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.blockedURI));
          const script = document.createElement("script");
          try {
            script.textContent = "document.title = 'taken'";
          } catch {
            done("trusted-types-sink");
          }
          document.head.append(script);
        })"""
    )
    assert blocked in ("inline", "trusted-types-sink")
    assert screen.page.title() == "MXFlex"


def test_no_other_site_shows_it(browser, site):
    """A page of another site that puts the console into a frame of its own gets nothing to see."""
    page = browser.new_page()
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.set_content(f'<iframe src="{site.url}"></iframe>')
    assert page.frame_locator("iframe").locator("#sign-in").count() == 0
    page.context.close()


def test_no_outside_resource():
    """No file of the page names another host, but for the namespace of SVG."""
    for path in HTML.iterdir():
        hosts = set(re.findall(r"https?://[\w.:-]+", path.read_text(encoding="utf-8")))
        # The example at the head of the client module.
        assert hosts <= {"http://www.w3.org", "https://mx.example.com"}, path.name
