"""docs/integrate.md, and every command of the documents on the API: run as they stand there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.endtoend.documents import Demo, commands, fenced, indented
from tests.endtoend.stage import (
    PATIENCE,
    ROOT,
    Cable,
    Daemon,
    eventually,
)
from tests.ports import LOOPBACK, free_port

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect

GUIDE = "docs/integrate.md"
LOG_IN = """\
TOKEN=$(curl -s http://localhost:8080/api/login -d login=alexey -d password=demo | cut -d'"' -f8)
"""
EMMA, OUTSIDE = "+12025550144", "+12025550104"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A quiet MXFlex, as the documents start it; tests share it."""
    with Demo(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


@pytest.fixture
def demo(daemon):
    """The same, without a call."""
    daemon.ask("/reset", "{}")
    return daemon


@pytest.fixture
def fresh(tmp_path):
    """One of a test's own, whose calls are counted from 1."""
    with Demo(tmp_path) as demo:
        yield demo


@contextlib.contextmanager
def running(process):
    """End a process, and what it has begun, at the end of the block.

    It is ended too when the block takes too long: whoever waits for a line of it gets "".
    """

    def kill():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    alarm = threading.Timer(PATIENCE, kill)
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        kill()
        process.wait()
        process.stdout.close()


def ring(demo, caller=OUTSIDE):
    """Let Alexey's telephone ring."""
    return json.loads(demo.ask("/calls", json.dumps({"from": caller, "to": "3095"})))


# --- In a page ------------------------------------------------------------------------------------


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def page(browser):
    """A page in which no error goes unnoticed."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    expect.set_options(timeout=PATIENCE * 1000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


@pytest.fixture
def crm(demo, tmp_path):
    """The folder of a site beside MXFlex, that may call it."""
    handler = partial(_Silent, directory=tmp_path)
    with ThreadingHTTPServer((LOOPBACK, demo.crm), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield tmp_path
        site.shutdown()


def open_in(crm, page, demo, html):
    """Serve a page at the site of the CRM, and open it."""
    (crm / "popup.html").write_text(demo.place(html), encoding="utf-8")
    page.goto(f"http://localhost:{demo.crm}/popup.html")


def test_the_popup_in_a_page(demo, crm, page):
    """It says who calls, by name where the address book knows the number, until the call ends."""
    (html,) = fenced(GUIDE, "html")
    open_in(crm, page, demo, html)
    page.locator("input[name=login]").fill("alexey")
    page.locator("input[name=password]").fill("demo")
    with page.expect_response(re.compile("/api/events")):
        page.get_by_role("button").click()
    expect(page.locator("form")).to_be_hidden()
    item = page.locator("li")
    call = ring(demo, EMMA)
    expect(item).to_have_text("Emma Clarke")
    demo.ask(f"/calls/{call['id']}/hang_up", '{"number": "+12025550144"}')
    expect(item).to_have_count(0)
    ring(demo)
    expect(item).to_have_text("12025550104")
    # The own call rings at somebody else's telephone, and pops up nothing.
    demo.ask("/steps", '{"hang_up": "3095"}')
    expect(item).to_have_count(0)
    demo.ask("/steps", '{"call": {"from": "3095", "to": "3044"}}')
    ring(demo, "+12025550117")
    expect(item).to_have_text("12025550117")


def test_the_popup_in_a_page_says_what_is_wrong(demo, crm, page):
    """A login that is refused is told in the server's words, and can be tried again."""
    (html,) = fenced(GUIDE, "html")
    open_in(crm, page, demo, html)
    told = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    page.locator("input[name=login]").fill("alexey")
    page.locator("input[name=password]").fill("wrong")
    with page.expect_event("dialog"):
        page.get_by_role("button").click()
    assert told == ["Invalid user name or password"]
    page.locator("input[name=password]").fill("demo")
    page.get_by_role("button").click()
    expect(page.locator("form")).to_be_hidden()


def test_links_that_call(demo, crm, page):
    """A click on a `tel:` link calls; where that cannot be, the reason is shown."""
    (snippet,) = fenced(GUIDE, "js")
    module = f"http://localhost:{demo.port}/mxflex.js"
    html = f"""<!doctype html>
<a href="tel:+1%20202%20555%200117">Grace</a> <a href="tel:abc">Nobody</a>
<script type="module">
import {{ login }} from "{module}";
const session = await login("alexey", "demo");
{snippet}
document.title = "ready";
</script>"""
    open_in(crm, page, demo, html)
    expect(page).to_have_title("ready")
    with page.expect_response(re.compile("/api/call$")) as answered:
        page.get_by_text("Grace").click()
    assert answered.value.status == 200
    (call,) = json.loads(demo.ask("/calls"))["calls"]
    assert (call["from"], call["to"]) == ("3095", "12025550117")
    told = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    with page.expect_event("dialog"):
        page.get_by_text("Nobody").click()
    assert told != [""]


def test_a_page_with_a_ticket(demo, page):
    """What docs/api.md shows opens the stream with a ticket, and comes back with the next one.

    Its pause of three seconds is shorter here.
    """
    (snippet,) = [block for block in indented("docs/api.md") if block.startswith("let ")]
    assert ", 3000)" in snippet
    page.goto(f"http://localhost:{demo.port}/")
    logged = []
    page.on("console", lambda message: logged.append(message.text))
    with page.expect_response(re.compile(r"/api/events\?ticket=")):
        snippet = snippet.replace(", 3000)", ", 100)")
        page.evaluate(f"(token) => {{ {snippet} }}", _token(demo))
    with page.expect_console_message():
        ring(demo)
    # The server ends the stream; the page comes back with another ticket after its pause.
    with page.expect_response(re.compile(r"/api/events\?ticket=.+&lastEventId=\d+")):
        _log_out_and_in(demo)
    assert len(logged) >= 1


def _token(demo):
    """Sign Alexey in."""
    with running(demo.shell(f"{LOG_IN} echo $TOKEN")) as shell:
        output, _ = shell.communicate(timeout=PATIENCE)
        return output.strip()


def _log_out_and_in(demo):
    """End all streams of Alexey, and let him be watched again."""
    script = LOG_IN + (
        'curl -sf http://localhost:8080/api/logout -H "Authorization: Bearer $TOKEN"\n' + LOG_IN
    )
    with running(demo.shell(script)) as shell:
        assert shell.wait(PATIENCE) == 0, shell.stdout.read()


# --- In Python ------------------------------------------------------------------------------------


def python_programs():
    """Give the pop-up and its tests."""
    popup, _, tests = fenced(GUIDE, "python")
    assert "connect_sse" in popup
    assert "def test_" in tests
    return popup, tests


def test_the_popup_in_python(demo):
    """It prints who calls; over a lost network it comes back, and has missed nothing."""
    popup, _ = python_programs()
    with Cable(demo.port) as cable:
        popup = demo.place(popup).replace(f":{demo.port}", f":{cable.port}")
        # Three seconds are good manners towards the server, and too long for a test.
        popup = popup.replace("time.sleep(pause)", "time.sleep(0.1)")
        process = subprocess.Popen(
            [sys.executable, "-c", popup], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        with running(process):
            assert process.stdout.readline() == "listening\n"
            ring(demo)
            assert process.stdout.readline() == "12025550104 calls\n"
            cable.pull()
            ring(demo, EMMA)
            cable.plug()
            assert process.stdout.readline() == "listening\n"
            assert process.stdout.readline() == "12025550144 calls\n"


def test_the_popup_in_python_comes_back_when_it_may(tmp_path):
    """Where there is no room for its stream now, it waits as long as the server says."""
    popup, _ = python_programs()
    with Demo(tmp_path, MXFLEX_EVENTS_MAX_PER_ADDRESS="1") as demo:
        popup = demo.place(popup)
        wait = "time.sleep(pause)"
        assert wait in popup
        popup = popup.replace(wait, f"print(pause, flush=True); {wait.replace('pause', '0.1')}")
        request = urllib.request.Request(
            f"http://localhost:{demo.port}/api/events",
            headers={"Authorization": f"Bearer {_token(demo)}"},
        )
        with contextlib.ExitStack() as other:
            other.enter_context(urllib.request.urlopen(request, timeout=PATIENCE))
            process = subprocess.Popen(
                [sys.executable, "-c", popup],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            with running(process):
                assert process.stdout.readline() == "30\n"
                other.close()
                lines = iter(process.stdout.readline, "")
                assert next(line for line in lines if line != "30\n") == "listening\n"


def test_the_popup_in_python_does_not_try_a_wrong_password_again(demo):
    """What the server will not take, it will not take later: the program ends."""
    popup, _ = python_programs()
    popup = demo.place(popup).replace('"password": "demo"', '"password": "wrong"')
    done = subprocess.run(
        [sys.executable, "-c", popup], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "403" in done.stderr


def test_the_tests_of_the_popup(tmp_path):
    """They pass, and fail where the pop-up is broken."""
    popup, tests = python_programs()
    place = Demo(tmp_path)
    (tmp_path / "test_popup.py").write_text(place.place(tests), encoding="utf-8")
    broken = popup.replace('"callingDevice"', '"calledDevice"')
    assert broken != popup
    for text, failed in ((popup, 0), (broken, 1)):
        (tmp_path / "popup.py").write_text(place.place(text), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "test_popup.py"],
            cwd=tmp_path,
            env=place.environment(MXFLEX_HOST=f"localhost:{place.port}"),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == failed, done.stdout + done.stderr


# --- A receiver of webhooks -----------------------------------------------------------------------


def test_the_receiver_of_webhooks(tmp_path):
    """It tells each event once; what happened while it was away comes when it is back."""
    _, receiver, _ = fenced(GUIDE, "python")
    (command,) = [block for block in indented(GUIDE) if block.startswith("MXFLEX_WEBHOOKS=")]
    place = Demo(tmp_path)
    (tmp_path / "receiver.py").write_text(receiver.replace("8000", str(place.crm)), "utf-8")
    (webhooks,) = re.findall(r"MXFLEX_WEBHOOKS='([^']+)'", place.place(command))

    def start():
        return running(
            subprocess.Popen(
                [sys.executable, tmp_path / "receiver.py"],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )

    def told(process):
        """Give the next call that rings; whatever else is told is passed over."""
        lines = iter(process.stdout.readline, "")
        return next(line for line in lines if line.startswith("DeliveredEvent"))

    place.settings["MXFLEX_WEBHOOKS"] = webhooks
    with place as demo:
        with start() as process:
            ring(demo)
            assert told(process) == "DeliveredEvent 12025550104\n"
        demo.ask("/reset", "{}")
        ring(demo, EMMA)
        with start() as process:
            assert told(process) == "DeliveredEvent 12025550144\n"
        # Whoever has no signature gets nowhere.
        with start() as process:
            eventually(lambda: _posted(place.crm, b"{}") == 400)


def _posted(port, body):
    """Post something that is not signed, and give the status; 0 where nobody listens."""
    try:
        urllib.request.urlopen(f"http://localhost:{port}", data=body, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0
    return 204


# --- With curl ------------------------------------------------------------------------------------


def test_the_popup_with_curl(demo):
    """It prints who calls."""
    log_in, watch = commands(GUIDE)[2:4]
    assert log_in == LOG_IN
    assert "api/events" in watch
    # What rings before the server has answered is not told.
    source, _, rest = watch.partition("|")
    with running(demo.shell(f"{log_in} {source} | tee stream.txt | {rest}")) as shell:
        eventually(lambda: "id: " in (demo.folder / "stream.txt").read_text("utf-8"))
        ring(demo)
        assert shell.stdout.readline() == "12025550104 calls\n"


def is_stream(command):
    """Tell whether a command does not end by itself."""
    return "-N" in command or "-sN" in command


def test_every_curl_of_the_documents(fresh):
    """Each works as it stands, one after the other, for somebody who has a token and no calls.

    A stream has begun when its first line has come.
    """
    # The ids of calls in the first one are those of an MX that has just begun.
    for name in ("docs/simulator.md", "docs/events.md", "docs/api.md", GUIDE):
        fresh.ask("/reset", "{}")
        found = commands(name)
        assert len(found) >= 3, name
        script = LOG_IN
        for command in found:
            checked = re.sub(r"\bcurl ", "curl --fail --silent --show-error ", command)
            if is_stream(command):
                source = checked.partition("|")[0].rstrip()
                script += f"exec 3< <(exec {source}); read -r line <&3; kill $!; exec 3<&-\n"
            else:
                script += checked
        with running(fresh.shell(script)) as shell:
            output, _ = shell.communicate(timeout=PATIENCE)
            assert shell.returncode == 0, (name, output)


def test_the_first_five_minutes(fresh):
    """The commands of the README, in one shell, do what is said beside them."""
    found = commands("README.md")
    assert len(found) == 8
    events = [command for command in found if "/api/events" in command]
    assert [command.rstrip().endswith("&") for command in events] == [True]
    # Nobody types the next command before the stream is open.
    source = events[0].rstrip().removesuffix("&")
    opened = f"exec 3< <(exec {source}); read -r line <&3; cat <&3 &\n"
    script = "".join(opened if command in events else command for command in found)
    with running(fresh.shell(script + "wait\n")) as shell:
        output, _ = shell.communicate(timeout=PATIENCE)
        assert shell.returncode == 0, output
    assert output.count('"token_type":"Bearer"') == 1
    assert '"firstName":"Priya"' in output
    assert '{"call":{"callId":1,"deviceId":"3061","called":"+12025550117"}}' in output
    assert '{"calls":[{"callId":1,' in output
    assert output.count("HTTP/1.1 204 No Content") == 2
    for event in ("OriginatedEvent", "DeliveredEvent", "ConnectionClearedEvent"):
        assert f"event: {event}\n" in output


def test_the_readmes_have_the_same_commands():
    """Whoever reads either types the same."""
    assert commands("README.md") == commands("README.ru.md")


def test_the_guide_is_reached():
    """Both READMEs list it, and the page on events."""
    for name in ("README.md", "README.ru.md"):
        text = (ROOT / name).read_text("utf-8")
        assert "(docs/integrate.md)" in text
        assert "(docs/events.md)" in text


def test_a_telephone_at_which_the_same_happens(tmp_path):
    """`twistd mxsim --play`, as docs/simulator.md shows it, plays that script by itself."""
    (command,) = [block for block in indented("docs/simulator.md") if "--play" in block]
    twistd, foreground, no_file, *arguments = command.split()
    assert (twistd, foreground, no_file) == ("twistd", "-n", "--pidfile=")
    assert arguments[0] == "mxsim"
    port = free_port()
    options = ("--port", "0", "--control", f"tcp:{port}")
    with Daemon(tmp_path, *arguments, *options):
        calls = eventually(lambda: ask(port, "/calls")["calls"])
    assert [party["number"] for party in calls[0]["parties"]] == ["12025550104", "3095"]


def ask(port, path):
    """Give what the control API shows."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=PATIENCE) as response:
        return json.load(response)
