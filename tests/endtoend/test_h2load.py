"""HTTP/2 as the clients of the world speak it: h2load, curl, and a browser with 20 streams."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse

import pytest

from tests.endtoend.stage import (
    PATIENCE,
    Cable,
    SecureSite,
    chromium,
)

LARGE = 5_000_000
SMALL = 2000
STREAMS = 20


def needs(program):
    """Skip where a program is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An MX and MXFlex, which the tests share."""
    folder = tmp_path_factory.mktemp("secure")
    html = folder / "html"
    html.mkdir()
    (html / "index.html").write_text("<!doctype html><title>x</title>" + " " * SMALL)
    (html / "large.bin").write_bytes(bytes(range(250)) * (LARGE // 250))
    user = {"ext": "3001", "login": "user", "password": "secret"}
    with SecureSite(folder, {"users": [user]}, html=str(html)) as site:
        yield site


def curl(site, *arguments):
    """Run curl on HTTP/2 with full verification, and give what it wrote."""
    command = ["curl", "--silent", "--show-error", "--http2", "--cacert", site.authority]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def log_in(site):
    """Log the user in and give the token."""
    fields = urllib.parse.urlencode({"login": "user", "password": "secret"})
    return json.loads(curl(site, "--data", fields, f"{site.url}api/login"))["access_token"]


# --- h2load ---------------------------------------------------------------------------------------


def load(*arguments):
    """Run h2load with 2,000 requests, all of which must succeed."""
    done = subprocess.run(
        ["h2load", "--requests=2000", *arguments],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Application protocol: h2" in done.stdout, done.stdout
    expected = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout"
    assert expected in done.stdout, done.stdout
    assert re.search(r"status codes: 2000 2xx", done.stdout), done.stdout


@needs("h2load")
@pytest.mark.parametrize(
    "shape",
    [
        ("--clients=1", "--max-concurrent-streams=1"),
        ("--clients=1", "--max-concurrent-streams=100"),
        ("--clients=10", "--max-concurrent-streams=50"),
        ("--clients=50", "--max-concurrent-streams=2"),
        # Windows of 2 KB, so that each answer waits for one.
        ("--clients=4", "--max-concurrent-streams=20", "--window-bits=11"),
    ],
    ids=" ".join,
)
def test_2000_requests_for_a_page(site, shape):
    """2,000 requests are answered without an error, in however many streams and connections."""
    load(*shape, f"{site.url}")


@needs("h2load")
@needs("curl")
def test_2000_requests_of_the_api(site):
    """2,000 requests for the address book are answered without an error."""
    load(
        "--clients=10",
        "--max-concurrent-streams=50",
        f"--header=Authorization: Bearer {log_in(site)}",
        f"{site.url}api/contacts",
    )


@needs("h2load")
def test_more_streams_than_allowed(site):
    """A client that knows the limit and wants more gets all its answers, one after the other."""
    load("--clients=2", "--max-concurrent-streams=500", f"{site.url}")


# --- curl -----------------------------------------------------------------------------------------


@needs("curl")
def test_curl_gets_a_large_file(site):
    """A file of 5 MB comes whole, at any speed, over a verified connection."""
    for speed in ((), ("--limit-rate", "5M")):
        body = curl(site, *speed, f"{site.url}large.bin")
        assert body == bytes(range(250)) * (LARGE // 250)


@needs("curl")
@pytest.mark.parametrize("size", [70_000, 3_000_000])
def test_curl_reads_why_its_body_is_refused(site, tmp_path, size):
    """The refusal of a large body is read, also when it comes before the end of the body."""
    body = tmp_path / "body"
    body.write_bytes(b"x" * size)
    reply = curl(site,
        "--data-binary", f"@{body}", "--header", "Content-Type: application/json",
        "--write-out", " %{http_version} %{http_code}",
        f"{site.url}api/login",
    )  # fmt: skip
    answer, version, status = reply.decode().rsplit(" ", 2)
    assert json.loads(answer)["error"] == "the body is too large"
    assert (version, status) == ("2", "413")


# --- A browser ------------------------------------------------------------------------------------

OPEN_STREAMS = """async ([count, login, password]) => {
    const ask = (path, fields, token) => fetch(path, {
        method: "POST",
        body: new URLSearchParams(fields),
        headers: token ? {Authorization: `Bearer ${token}`} : {},
    });
    const grant = await (await ask("/api/login", {login, password})).json();
    window.call = () => ask("/api/call", {to: "12025550104"}, grant.access_token);
    window.heard = Array.from({length: count}, () => []);
    window.lost = 0;
    const url = `/api/events?access_token=${grant.access_token}`;
    await Promise.all(window.heard.map((names, number) => new Promise((opened) => {
        const source = new EventSource(url);
        source.onopen = opened;
        source.onerror = () => { window.lost += 1; };
        for (const name of ["OriginatedEvent", "DeliveredEvent"])
            source.addEventListener(name, (event) => names.push([name, event.lastEventId]));
    })));
    return performance.getEntriesByType("navigation")[0].nextHopProtocol;
}"""


def test_20_event_sources_on_one_connection(site):
    """A browser keeps 20 streams open on one connection, and each of them hears every event."""
    with Cable(site.port) as cable, chromium("--ignore-certificate-errors") as browser:
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"https://localhost:{cable.port}/")
        protocol = page.evaluate(OPEN_STREAMS, [STREAMS, "user", "secret"])
        assert protocol == "h2"
        # With HTTP/1.1 a browser opens six connections, and the seventh stream waits for ever. A
        # second one may still be there, which it opened in case it should need it.
        assert 1 <= cable.connections <= 2
        page.evaluate("window.call().then((reply) => reply.status)")
        page.wait_for_function("window.heard.every((names) => names.length >= 2)")
        heard = page.evaluate("window.heard")
        assert len(heard) == STREAMS
        assert [name for name, _ in heard[0]] == ["OriginatedEvent", "DeliveredEvent"]
        assert all(each == heard[0] for each in heard)
        assert page.evaluate("window.lost") == 0
        browser.close()
