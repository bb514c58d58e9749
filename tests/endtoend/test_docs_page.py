"""The page that shows the OpenAPI document, in a real browser with a real daemon behind it."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import mxflex.web
from mxflex.web.openapi import describe
from tests.endtoend.stage import PATIENCE, Site, Witness

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect

VIEWER = Path(mxflex.web.__file__).with_name("viewer")
SCENARIO = {
    "users": [
        {"ext": "3061", "login": "priya", "password": "demo", "first_name": "Priya"},
        {"ext": "3044", "login": "emma", "password": "demo", "first_name": "Emma"},
    ]
}
OPERATIONS = [
    operation
    for path in describe(token_in_url=True)["paths"].values()
    for operation in path.values()
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An MX without calls of its own, and MXFlex."""
    with Site(tmp_path_factory.mktemp("site"), SCENARIO) as site:
        yield site


@pytest.fixture(params=["light", "dark"])
def page(request, browser, site):
    """The page as a person sees it; nothing may be wrong in it, and nobody else be asked."""
    with browser.new_context(
        color_scheme=request.param, viewport={"width": 1300, "height": 900}
    ) as context:
        context.set_default_timeout(PATIENCE * 1000)
        witness = Witness(context)
        page = context.new_page()
        page.goto(f"{site.url}api/docs")
        yield page
        # A breach of the policy is an error in the console.
        witness.judge_traffic(site.url)


def test_every_operation_is_listed_and_opens(page):
    """The list has each operation by its words; one that is chosen shows what it needs."""
    menu = page.get_by_role("navigation", name="Menu")
    for operation in OPERATIONS:
        expect(menu.get_by_role("link", name=operation["summary"], exact=True)).to_be_visible()
    menu.get_by_role("link", name="Hand an answered call on, unannounced").click()
    main = page.get_by_role("main")
    expect(main.get_by_text("/api/call/transfer", exact=True)).to_be_visible()
    for field in ("callId", "deviceId", "destination"):
        expect(main.get_by_text(field).first).to_be_visible()
    for status in ("204", "401", "403", "422", "503", "504"):
        expect(main.get_by_role("button", name=status, exact=True)).to_be_visible()


def test_an_operation_can_be_tried(page):
    """One signs in on the page, gives it the token, and reads the contacts."""
    menu = page.get_by_role("navigation", name="Menu")

    def run(summary, path):
        menu.get_by_role("link", name=summary, exact=True).click()
        with page.expect_response(lambda answer: path in answer.url) as caught:
            page.get_by_role("button", name="Execute").click()
        return caught.value

    answer = run("Sign in with an MX login", "/api/login")
    assert answer.status == 200
    menu.get_by_role("link", name="Authentication").click()
    page.get_by_placeholder("JWT").fill(answer.json()["access_token"])
    page.get_by_role("button", name="Set").first.click()
    expect(page.get_by_text("1 API key applied")).to_be_visible()
    answer = run("Read or search the address book", "/api/contacts")
    assert answer.status == 200
    assert [each["firstName"] for each in answer.json()["contacts"]] == ["Emma", "Priya"]
    expect(page.get_by_role("main").get_by_text("Response Status: OK (200)")).to_be_visible()


def test_the_page_and_its_files_are_served(site):
    """The page has a strict policy; its files have their types, and there are no others."""
    with urllib.request.urlopen(f"{site.url}api/docs", timeout=PATIENCE) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    for name, media_type in (
        ("style.css", "text/css"),
        ("openapi-explorer.min.js", "text/javascript"),
    ):
        with urllib.request.urlopen(f"{site.url}api/docs/{name}", timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.read() == (VIEWER / name).read_bytes()
    for name in ("viewer.json", "index.html", "", "../openapi.yaml", "..%2fopenapi.yaml"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{site.url}api/docs/{name}", timeout=PATIENCE)
        assert caught.value.code == 404, name
        assert json.load(caught.value)["error"] == "not found"


def test_the_viewer_is_what_it_says():
    """The vendored script is the recorded one, and its licences lie beside it."""
    record = json.loads((VIEWER / "viewer.json").read_text(encoding="utf-8"))
    script = (VIEWER / Path(record["file"]).name).read_bytes()
    assert hashlib.sha256(script).hexdigest() == record["sha256"]
    assert record["version"].encode("ascii") in script[:200]
    assert record["integrity"].startswith("sha512-")
    licences = (VIEWER / "LICENSES.txt").read_text(encoding="utf-8")
    assert licences.startswith(f"{record['name']} {record['version']}: Apache-2.0\n")
    assert "Apache License" in licences
