"""The page in a real browser: what a person sees and does, with real daemons behind it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from mxflex.web.eventjson import EVENT_KEYS
from mxflex.wire.messages import ParkedEvent
from tests.endtoend.stage import (
    BROWSER_FLAGS,
    HTML,
    PATIENCE,
    Cable,
    Daemon,
    Site,
    Witness,
    eventually,
    find_browser,
)
from tests.ports import free_port

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=PATIENCE * 1000)

FIRST_NAMES = ("Анна", "Борис", "Vera", "Jürgen")
MARKUP = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
HOSTILE = {"ext": "3900", "login": "hostile", "first_name": MARKUP, "last_name": "</script>"}
DENIED = {"ext": "3901", "login": "denied", "first_name": "Денис", "may_call": False}
# Enough that each test has people of its own.
EXTENSIONS = [str(number) for number in range(3001, 3041)]


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
    ]
}


def name_of(ext):
    """Give the name that the directory has for an extension."""
    return f"{FIRST_NAMES[int(ext) % len(FIRST_NAMES)]} No. {ext}"


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window."""
    with sync_api.sync_playwright() as playwright:
        path = find_browser(playwright.chromium)
        if path is None:
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=path, args=[*BROWSER_FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An MX without calls of its own, and MXFlex; tests share it, each with its own people."""
    with Site(tmp_path_factory.mktemp("site"), SCENARIO) as site:
        yield site


@pytest.fixture(scope="module")
def extensions():
    """Extensions that no other test has."""
    return iter(EXTENSIONS[2:])


class Screen:
    """A page as a person sees it.

    Attributes:
        page: The page of Playwright.
        witness: What went wrong in it.
    """

    def __init__(self, context, url):
        self.witness = Witness(context)
        self.page = context.new_page()
        self._url = url
        self.page.goto(url)

    def field(self, label):
        return self.page.get_by_label(label, exact=True)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def sign_in(self, login, password="secret"):
        """Fill in the form and send it."""
        self.field("Login").fill(login)
        self.field("Password").fill(password)
        self.button("Sign in").click()

    def enter(self, ext):
        """Sign in, and wait until everything is there."""
        self.sign_in(f"user{ext}")
        expect(self.connection).to_have_text("Live")
        expect(self.contact(ext)).to_be_visible()

    def enter_without_timers(self, ext):
        """Sign in, and stop all timers of the page, so that it acts on what happens alone."""
        self.page.clock.install()
        self.page.reload()
        self.enter(ext)
        self.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))

    def dial(self, number):
        """Call a number by hand."""
        self.field("Number").fill(number)
        self.page.locator("#dial-form").get_by_role("button", name="Call").click()

    @property
    def connection(self):
        return self.page.locator("#connection")

    @property
    def calls(self):
        """The cards of the calls."""
        return self.page.locator("#calls > li")

    @property
    def sign_in_word(self):
        """Why the person is to sign in."""
        return self.page.locator("#sign-in-word")

    def contact(self, ext):
        """The row of an extension."""
        ext_cell = self.page.locator(".ext", has_text=re.compile(f"^{ext}$"))
        return self.page.locator("#contacts > li", has=ext_cell)

    def events(self, name):
        """The rows of events of that name."""
        return self.page.locator(f'#events > li[data-event="{name}"]')

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

    def opened(url, **options):
        contexts.append(browser.new_context(**options))
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
        expect(screen.page.get_by_role("alert")).to_have_text("Invalid user name or password")
        screen.sign_in("alexey", "demo")
        expect(screen.connection).to_have_text("Live")
        expect(screen.page.locator(".me")).to_have_text("Алексей Морозов 3095")
        expect(screen.contact("3072")).to_contain_text("Ольга Лебедева")
        expect(screen.contact("3072")).to_contain_text("Available · до обеда на складе")
        expect(screen.events("DeliveredEvent").first).to_contain_text('"alertingDevice":"3095"')
        expect(screen.calls).to_have_count(1)
        # It would go on asking a daemon that is about to stop.
        screen.leave()


def test_wrong_password(screen, site):
    """The MX's own words stand in the form, nothing is kept, and the person may try again."""
    screen.witness.expect("status of 403", "/api/login")
    screen.sign_in("user3001", "wrong")
    expect(screen.page.locator("#sign-in-error")).to_have_text("Invalid user name or password")
    expect(screen.field("Login")).to_have_value("user3001")
    expect(screen.page.locator("#console")).to_be_hidden()
    assert screen.page.evaluate("sessionStorage.length") == 0


def test_reload(screen, extensions):
    """A reload asks for no password: the token is kept for the tab, and the password is not."""
    ext = next(extensions)
    screen.enter(ext)
    kept = screen.page.evaluate("JSON.stringify(sessionStorage)")
    assert "secret" not in kept
    screen.page.reload()
    expect(screen.connection).to_have_text("Live")
    expect(screen.page.locator(".me")).to_have_text(f"{name_of(ext)} {ext}")


def test_sign_out(screen, site, extensions):
    """Signing out forgets the token and all that was shown, and ends the watching."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    expect(screen.calls).to_have_count(1)
    screen.button("Sign out").click()
    expect(screen.sign_in_word).to_have_text("You have signed out.")
    assert screen.page.evaluate("sessionStorage.length") == 0
    for part in ("contacts", "calls", "events"):
        expect(screen.page.locator(f"#{part} > li")).to_have_count(0)
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
    expect(screen.connection).to_have_text("Not watched")
    expect(screen.page.get_by_role("alert").filter(has_text="not watched")).to_be_visible()
    screen.button("Sign in again").click()
    screen.enter(ext)


def test_token_ends(open_screen, tmp_path):
    """When the token ends while the stream goes on, the person is brought back with a word."""
    settings = {"token": {"lifetime": 4}}
    with Site(tmp_path / "site", {"users": [user("3001")]}, **settings) as site:
        screen = open_screen(site.url)
        for path in ("/api/contacts", "/api/calls", "/api/events"):
            screen.witness.expect("status of 401", path)
        screen.sign_in("user3001")
        expect(screen.sign_in_word).to_have_text("Your session has ended. Please sign in again.")
        screen.leave()


def test_daemon_restarted(open_screen, tmp_path):
    """A new daemon does not know the token: the person is brought back with a word."""
    with Site(tmp_path / "site", {"users": [user("3001")]}) as site:
        screen = open_screen(site.url)
        screen.enter("3001")
        for path in ("/api/events", "/api/contacts", "/api/calls"):
            screen.witness.expect("status of 401", path)
            screen.witness.expect("net::", path)
        site.stop_mxflex()
        expect(screen.connection).to_have_text("Reconnecting…")
        site.start_mxflex()
        expect(screen.sign_in_word).to_have_text("Your session has ended. Please sign in again.")
        assert screen.page.evaluate("sessionStorage.length") == 0
        screen.enter("3001")
        screen.leave()


# --- Directory ------------------------------------------------------------------------------------


def test_filter(screen, extensions):
    """The filter looks at names, numbers and notes, in any case, and all words must be found."""
    screen.enter(next(extensions))
    rows = screen.page.locator("#contacts > li:visible")
    count = screen.page.locator("#directory-count")
    everybody = len(SCENARIO["users"])
    expect(count).to_have_text(f"{everybody} people")
    for text, shown in (
        ("анна", 10),
        ("VERA", 10),
        ("3002", 1),
        ("Складе", 1),
        ("анна 3004", 1),
        ("вера", 0),
    ):
        screen.field("Filter").fill(text)
        expect(rows).to_have_count(shown)
        expect(count).to_have_text(f"{shown} of {everybody} people")
    screen.field("Filter").fill("")
    expect(rows).to_have_count(everybody)


def test_presence(screen, site, extensions):
    """A change of presence at the MX shows without a reload, and the filter stays as it is."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    screen.field("Filter").fill(other)
    telephone = site.mx_user(f"user{other}")
    telephone.set_presence("NotAvailable", "на совещании")
    expect(screen.contact(other)).to_contain_text("Not available · на совещании")
    expect(screen.page.locator("#contacts > li:visible")).to_have_count(1)
    telephone.set_presence("Available", "")
    expect(screen.contact(other).locator(".quiet")).to_have_text(re.compile("^Available *$"))
    telephone.close()


def test_looked_at_again(screen, extensions):
    """When the page is looked at again it asks for the directory, which is not sent unchanged."""
    screen.enter_without_timers(next(extensions))
    statuses = []
    # More often than answers to earlier questions may still be on their way.
    for _ in range(5):
        with screen.page.expect_response("**/api/contacts") as answer:
            screen.page.evaluate("dispatchEvent(new Event('focus'))")
        statuses.append(answer.value.status)
    assert 304 in statuses


def test_hostile_name(screen, site, extensions):
    """Markup in a name is text everywhere: in the directory, on a call, in an event."""
    mine = next(extensions)
    screen.enter(mine)
    shown = f"{MARKUP} </script>"
    expect(screen.contact("3900").locator(".name")).to_have_text(shown)
    site.person("hostile").dial(mine)
    expect(screen.calls.locator(".name")).to_have_text(shown)
    screen.calls.get_by_role("button", name="Answer").click()
    expect(screen.events("EstablishedEvent")).to_contain_text("<img src=x onerror=")
    assert screen.page.locator("#console li :is(img, b, script)").count() == 0
    assert screen.page.title() == "MXFlex"


# --- Calls ----------------------------------------------------------------------------------------


def test_outgoing_call(screen, site, extensions):
    """Somebody of the directory is called, put on hold, taken back, and hung up on."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    screen.enter(mine)
    expect(screen.page.locator("#no-calls")).to_be_visible()
    screen.contact(other).get_by_role("button").click()
    card = screen.calls
    expect(card.locator(".name")).to_have_text(name_of(other))
    expect(card.locator(".quiet")).to_have_text(other)
    expect(card.locator(".state")).to_have_text("Calling")
    colleague.answer()
    expect(card.locator(".state")).to_have_text("Talking")
    expect(card.locator(".duration")).to_have_text(re.compile(r"^0:0[1-9]$"))
    card.get_by_role("button", name="Hold").click()
    expect(card.locator(".state")).to_have_text("On hold")
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".state")).to_have_text("Talking")
    card.get_by_role("button", name="Hang up").click()
    expect(card).to_have_count(0)
    expect(screen.page.locator("#no-calls")).to_be_visible()
    for name in ("OriginatedEvent", "HeldEvent", "RetrievedEvent", "ConnectionClearedEvent"):
        expect(screen.events(name)).to_have_count(1)


def test_incoming_call(screen, site, extensions):
    """A call that comes in is announced, answered, and goes when the other side hangs up."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    expect(screen.calls.locator(".state")).to_have_text("Ringing")
    expect(screen.calls.locator(".name")).to_have_text(name_of(other))
    expect(screen.page.locator("#announcement")).to_have_text(f"Incoming call: {name_of(other)}")
    screen.calls.get_by_role("button", name="Answer").click()
    expect(screen.calls.locator(".state")).to_have_text("Talking")
    colleague.hang_up()
    expect(screen.calls).to_have_count(0)


def test_events_drive_the_calls(screen, site, extensions):
    """Calls follow the events at once; the page need not come round to asking."""
    mine, other = next(extensions), next(extensions)
    screen.enter_without_timers(mine)
    colleague = site.person(f"user{other}")
    colleague.dial(mine)
    expect(screen.calls.locator(".state")).to_have_text("Ringing")
    colleague.hang_up("alerting")
    expect(screen.calls).to_have_count(0)


def test_declined_call(screen, site, extensions):
    """A call that rings can be declined."""
    mine, other = next(extensions), next(extensions)
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    screen.calls.get_by_role("button", name="Decline").click()
    expect(screen.calls).to_have_count(0)


def test_refused_call(screen):
    """What the MX refuses is told in its words where it was asked for, until it goes well."""
    screen.witness.expect("status of 422", "/api/call")
    screen.sign_in("denied")
    expect(screen.contact("3001")).to_be_visible()
    screen.contact("3001").get_by_role("button").click()
    expect(screen.contact("3001").get_by_role("alert")).to_have_text("URM Denied")
    screen.dial("+12025550117")
    expect(screen.page.locator("#dial-error")).to_have_text("URM Denied")
    expect(screen.field("Number")).to_have_value("+12025550117")


# --- Connections that fail ------------------------------------------------------------------------


def test_mx_away(open_screen, tmp_path):
    """While the MX is away a command says so; when it is back, so does a `gap`, and calls work."""
    users = [user("3001"), user("3002")]
    with Site(tmp_path / "site", {"users": users}) as site:
        screen = open_screen(site.url)
        screen.enter("3001")
        screen.witness.expect("status of 503", "/api/call")
        site.stop_mx()
        screen.dial("3002")
        expect(screen.page.locator("#dial-error")).to_contain_text("MX")
        expect(screen.contact("3002")).to_be_visible()
        site.start_mx()
        expect(screen.events("gap")).to_contain_text('"reason":"mx-down"')
        expect(screen.connection).to_have_text("Live")
        screen.dial("3002")
        expect(screen.calls.locator(".name")).to_have_text(name_of("3002"))
        expect(screen.page.locator("#dial-error")).to_have_text("")
        screen.leave()


def test_stream_lost_and_back(open_screen, site, extensions):
    """A stream that breaks comes back by itself, with what was missed, and nothing twice."""
    mine, other = next(extensions), next(extensions)
    colleague = site.person(f"user{other}")
    with Cable(site.port) as cable:
        screen = open_screen(f"http://localhost:{cable.port}/")
        for path in ("/api/events", "/api/contacts", "/api/calls"):
            screen.witness.expect("net::", path)
        screen.enter(mine)
        colleague.dial(mine)
        expect(screen.events("DeliveredEvent")).to_have_count(1)
        cable.pull()
        expect(screen.connection).to_have_text("Reconnecting…")
        colleague.hang_up("alerting")
        cable.plug()
        expect(screen.connection).to_have_text("Live")
        expect(screen.events("ConnectionClearedEvent")).to_have_count(1)
        expect(screen.events("DeliveredEvent")).to_have_count(1)
        expect(screen.calls).to_have_count(0)
        screen.leave()


# --- For everybody --------------------------------------------------------------------------------


def test_keyboard(screen, site, extensions):
    """Signing in, calling and hanging up need no mouse, and the focus is never lost."""
    mine, other = next(extensions), next(extensions)
    keyboard = screen.page.keyboard
    expect(screen.field("Login")).to_be_focused()
    keyboard.type(f"user{mine}")
    keyboard.press("Tab")
    keyboard.type("secret")
    keyboard.press("Enter")
    expect(screen.field("Number")).to_be_focused()
    expect(screen.contact(other)).to_be_visible()
    site.person(f"user{other}").dial(mine)
    answer = screen.calls.get_by_role("button", name="Answer")
    expect(answer).to_be_visible()
    keyboard.press("Tab")
    keyboard.press("Tab")
    expect(answer).to_be_focused()
    keyboard.press("Enter")
    expect(screen.calls.get_by_role("button", name="Hang up")).to_be_focused()
    keyboard.press("Enter")
    expect(screen.calls).to_have_count(0)
    expect(screen.page.get_by_role("heading", name="My calls")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_layout(open_screen, site, extensions, width, scheme):
    """Nothing sticks out sideways, every input has its label, every text enough contrast."""
    mine, other = next(extensions), next(extensions)
    size = {"width": width, "height": 740}
    screen = open_screen(site.url, viewport=size, color_scheme=scheme)
    assert screen.page.evaluate(WIDTH) == width
    assert screen.page.evaluate(FAINT) == []
    screen.enter(mine)
    site.person(f"user{other}").dial(mine)
    expect(screen.calls).to_have_count(1)
    assert screen.page.evaluate(WIDTH) == width
    assert screen.page.evaluate(FAINT) == []
    assert screen.page.evaluate(UNLABELLED) == []
    assert screen.page.locator("html").get_attribute("lang") == "en"


WIDTH = "document.documentElement.scrollWidth"
UNLABELLED = "[...document.querySelectorAll('input')].filter(i => !i.labels.length).map(i => i.id)"
# WCAG 2.2, 1.4.3: the contrast of a text and the nearest ground that is not transparent.
FAINT = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return parts(color)[3] === 0 ? ground(element.parentElement) : color;
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility())
    .filter((element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((element) => {
      const pair = [light(getComputedStyle(element).color), light(ground(element))].sort();
      return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05) < 4.5;
    })
    .map((element) => element.textContent);
}"""


def test_policy(screen):
    """The page allows itself nothing but its own files, and has nothing that would need more."""
    policy = screen.page.locator('meta[http-equiv="Content-Security-Policy"]')
    assert policy.get_attribute("content").startswith("default-src 'self';")
    screen.witness.expect("Content Security Policy")
    blocked = screen.page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.blockedURI));
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken'";
          document.head.append(script);
        })"""
    )
    assert blocked == "inline"
    assert screen.page.title() == "MXFlex"


def test_event_names():
    """The page listens for every event that the daemon sends."""
    text = (HTML / "api.js").read_text(encoding="utf-8")
    names = re.search(r"EVENT_NAMES = \[(.*?)\]", text, re.DOTALL).group(1)
    sent = {cls.__name__ for cls in (*EVENT_KEYS, ParkedEvent)} | {"gap"}
    assert set(re.findall(r'"(\w+)"', names)) == sent
