"""Photographs every state of the console, to be looked at: `make screenshots`.

Into build/screenshots, for each width in both appearances; console.png is the one that docs/ shows.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.endtoend.stage import PATIENCE, ROOT, Cable, Site, chromium

OUTPUT = ROOT / "build" / "screenshots"
WIDTHS = ((360, 740), (768, 1024), (1440, 900))
LOOKS = (("light", "en-US"), ("dark", "ru-RU"))
ME = "3061"
CUSTOMER, SUPPLIER = "+12025550104", "+442079460112"
PEOPLE = (
    ("3095", "Алексей", "Морозов", "Available", ""),
    ("3044", "Emma", "Clarke", "Available", ""),
    ("3055", "Lucas", "Moreau", "Busy", "in a meeting until four"),
    (ME, "Priya", "Nair", "Available", ""),
    ("3072", "Ольга", "Лебедева", "Available", "до обеда на складе"),
    ("3083", "Noah", "Berger", "NotAvailable", "with a customer"),
    ("3098", "Sofia", "Rossi", "Available", ""),
    ("3101", "Mei", "Tanaka", "BeRightBack", "back at three"),
    ("3104", "Amara", "Okafor", "Available", ""),
    ("3107", "Jürgen", "Groß", "LoggedOut", ""),
    ("3110", "Zoë", "Kravitz-Hollingsworth", "AtLunch", ""),
    ("3113", "Юлия", "Ёлкина", "Available", ""),
    ("3116", "Diego", "Fernández", "Available", "working from home, call my mobile"),
    ("3119", "Ingrid", "Nilsen", "BeRightBack", ""),
    ("3122", "Tomás", "Silva", "Available", ""),
    ("3125", "Hannah", "Schmidt", "LoggedOut", "on leave until Monday"),
)
SCENARIO = {
    "users": [
        {
            "ext": ext,
            "login": f"user{ext}",
            "password": "secret",
            "first_name": first,
            "last_name": last,
            "presence": presence,
            "note": note,
            "did": f"1202555{ext}",
            "cell_phone": f"+44770090{ext}",
            "email": f"user{ext}@example.com",
        }
        for ext, first, last, presence, note in PEOPLE
    ],
    "outside": [{"number": SUPPLIER, "name": "Northwind Logistics", "answers_after": 0}],
}


class Visit:
    """Goes through all states, and photographs each."""

    def __init__(self, page, site, cable, name):
        self._page = page
        self._site = site
        self._cable = cable
        self._name = name
        self._count = 0

    def __call__(self):
        self._page.goto(f"http://localhost:{self._cable.port}/")
        self._sign_in()
        self._people()
        self._calls()
        self._troubles()

    def _shoot(self, state):
        self._count += 1
        path = OUTPUT / f"{self._name}-{self._count:02}-{state}.png"
        self._page.screenshot(path=path, animations="disabled")

    def _show(self, view):
        button = self._page.locator(f'.views [data-view="{view}"]')
        if button.is_visible():
            button.click()

    def _card(self, phase):
        return self._page.locator(f'#calls > li[data-phase="{phase}"]')

    def _expect_chip(self, state):
        expect(self._page.locator("#chip")).to_have_attribute("data-state", state)

    def _enter(self, password="secret"):
        self._page.locator("#login").fill(f"user{ME}")
        self._page.locator("#password").fill(password)
        self._page.locator("#sign-in-button").click()

    def _sign_in(self):
        self._shoot("sign-in")
        self._enter("wrong")
        expect(self._page.locator("#sign-in-error")).not_to_be_empty()
        self._shoot("refused")
        self._enter()
        self._expect_chip("live")
        expect(self._page.locator("#no-calls")).to_be_visible()
        self._shoot("no-calls")
        self._page.locator("#menu-button").click()
        self._shoot("menu")
        self._page.keyboard.press("Escape")

    def _people(self):
        page = self._page
        self._show("directory")
        self._shoot("directory")
        for text, state in (("no", "found"), ("+1 202 555 3044", "number"), ("zzz", "nobody")):
            page.locator("#search").fill(text)
            self._shoot(state)
        page.locator("#search").fill("")
        page.locator("#contacts .name").nth(2).click()
        self._shoot("person")
        page.keyboard.press("Escape")
        self._show("calls")

    def _calls(self):
        page, site = self._page, self._site
        site.control("calls", **{"from": CUSTOMER, "to": ME, "name": "Harbor Coffee Roasters"})
        self._card("ringing").wait_for()
        self._shoot("ringing")
        self._card("ringing").locator(".answer").click()
        self._card("talking").locator(".record").click()
        expect(page.locator("#calls .record")).to_have_attribute("aria-pressed", "true")
        self._shoot("talking")
        self._card("talking").locator(".transfer").click()
        page.locator("#picker-search").fill("a")
        self._shoot("transfer")
        page.locator("#picker-ways input").last.check()
        page.locator("#picker-search").fill(SUPPLIER)
        page.keyboard.press("Enter")
        self._card("talking").wait_for()
        call = site.control("calls", **{"from": "3055", "to": ME})
        self._card("ringing").wait_for()
        self._shoot("three-calls")
        self._show("directory")
        self._shoot("three-calls-directory")
        self._show("calls")
        site.control(f"calls/{call['id']}/hang_up", number="3055")
        self._card("held").locator(".join").click()
        expect(page.locator("#recent > li")).to_have_count(3)
        self._shoot("recent")
        self._show("events")
        page.locator("#events summary").nth(1).click()
        expect(page.locator("#events pre").nth(1)).not_to_be_empty()
        self._shoot("inspector")
        page.locator("#events-filter").fill("held")
        page.locator("#events-pause").click()
        self._shoot("inspector-paused")
        self._show("calls")

    def _troubles(self):
        page, site = self._page, self._site
        self._cable.pull()
        self._expect_chip("reconnecting")
        self._shoot("reconnecting")
        self._cable.plug()
        self._expect_chip("live")
        page.context.set_offline(True)
        self._expect_chip("offline")
        self._shoot("offline")
        page.context.set_offline(False)
        self._expect_chip("live")
        site.lose_mx()
        self._expect_chip("mx-down")
        self._show("directory")
        page.locator("#contacts .call:visible").nth(2).click()
        expect(page.locator("#contacts .error")).not_to_be_empty()
        self._shoot("mx-down")
        site.find_mx()
        self._expect_chip("live")
        site.person(f"user{ME}").log_out()
        self._expect_chip("not-monitored")
        self._shoot("not-watched")
        page.locator("#banner-button").click()
        self._enter()
        self._expect_chip("live")
        page.locator("#menu-button").click()
        page.locator("#sign-out").click()
        page.locator("#sign-in-word").wait_for()
        self._shoot("signed-out")


def photograph_for_docs(page, site):
    """Photograph a busy moment."""
    page.goto(site.url)
    page.locator("#login").fill(f"user{ME}")
    page.locator("#password").fill("secret")
    page.locator("#sign-in-button").click()
    page.locator("#ask-notify-no").click()
    ringing = page.locator('#calls > li[data-phase="ringing"]')
    talking = page.locator('#calls > li[data-phase="talking"]')

    def ring(number, name):
        call = site.control("calls", **{"from": number, "to": ME, "name": name})
        ringing.wait_for()
        return call

    ring("3098", "")
    ringing.locator(".answer").click()
    talking.locator(".hang-up").click()
    expect(page.locator("#recent > li")).to_have_count(1)
    call = ring("+447700900123", "Tom Ashworth")
    site.control(f"calls/{call['id']}/hang_up", number="447700900123")
    expect(page.locator("#recent > li")).to_have_count(2)
    page.locator("#search").fill(SUPPLIER)
    page.keyboard.press("Enter")
    talking.locator(".hang-up").click()
    expect(page.locator("#recent > li")).to_have_count(3)
    ring("3044", "")
    ringing.locator(".answer").click()
    talking.wait_for()
    # Somebody has been talking for a while.
    expect(talking.locator(".clock")).to_have_text("0:19")
    site.control("contacts/3104", status="BeRightBack", note="fetching coffee")
    ring(CUSTOMER, "Harbor Coffee Roasters")
    expect(ringing.locator(".clock")).to_have_text("0:04")
    page.locator('#events > li[data-topic="contacts"] summary').click()
    expect(page.locator('#events > li[data-topic="contacts"] pre')).not_to_be_empty()
    page.locator(".brand").hover()
    page.screenshot(path=OUTPUT / "console.png", animations="disabled")


def main():
    """Photograph everything anew."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    expect.set_options(timeout=PATIENCE * 1000)
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        Site(Path(folder), SCENARIO, html=str(ROOT / "html")) as site,
        Cable(site.port) as cable,
    ):
        for width, height in WIDTHS:
            for scheme, locale in LOOKS:
                size = {"width": width, "height": height}
                context = browser.new_context(viewport=size, color_scheme=scheme, locale=locale)
                Visit(context.new_page(), site, cable, f"{width}-{scheme}")()
                context.close()
        size = {"width": 1440, "height": 820}
        photograph_for_docs(browser.new_page(viewport=size, locale="en-US"), site)


if __name__ == "__main__":
    main()
