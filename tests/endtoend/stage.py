"""What the page is tested with: daemons in their own processes, other people, and a browser."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mxflex.simulator.certificate import Certificate
from mxflex.wire.connection import ClientConnection, ReplyReceived
from mxflex.wire.messages import LoginRequest, LoginResponse, SetPresence
from tests.ports import LOOPBACK, free_port

ROOT = Path(__file__).parents[2]
HTML = ROOT / "html"
TWISTD = Path(sys.executable).with_name("twistd")
# Whatever a test waits for comes within this time, in seconds, or the test fails.
PATIENCE = 30.0

# No sandbox: the build machine runs as root. The rest keeps the browser from talking of its own.
BROWSER_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What a page may keep for ever: no secret is among it.
CHOICES = {"mxflex.language", "mxflex.theme", "mxflex.notify", "mxflex.slash"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def eventually(look):
    """Give the first true answer of `look`; fail when there is none in time.

    For what other processes do: there is nothing to wait on but their traces.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = look()
            if found:
                return found
        time.sleep(0.05)
    pytest.fail("it did not happen in time")


class Daemon:
    """A `twistd` command in its own process, until the block ends.

    Args:
        folder: Where it runs, and where its output is kept.
        arguments: The command and its options.
        settings: Environment variables for it.
    """

    def __init__(self, folder, *arguments, **settings):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MXFLEX_")}
        self._output = folder / f"{arguments[0]}.log"
        with self._output.open("ab") as file:
            self._process = subprocess.Popen(
                [TWISTD, "--nodaemon", "--pidfile=", *arguments],
                cwd=folder,
                env=kept | {"PYTHONPATH": str(ROOT)} | settings,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self):
        """The number of its process."""
        return self._process.pid

    @property
    def output(self):
        """What it has written, with its runs before this one."""
        return self._output.read_text(encoding="utf-8")

    def stop(self):
        """Ask it to stop, and wait until it has."""
        self._process.terminate()
        try:
            self._process.wait(timeout=PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        assert " critical " not in self.output, self.output
        assert "Traceback" not in self.output, self.output


class Site:
    """An MX and MXFlex, each in its own process, until the block ends.

    Args:
        folder: Where both run.
        scenario: The scenario of the MX, without its server account.
        settings: Keys of the configuration of MXFlex, over those that it needs.

    Attributes:
        port: The port of MXFlex.
        url: Where the page is.
        mxflex: MXFlex itself.
    """

    scheme = "http"

    def __init__(self, folder, scenario, **settings):
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._mx_port = free_port()
        self._control_port = free_port()
        self.port = free_port()
        (folder / "scenario.yaml").write_text(
            json.dumps({"company": {"server": {"login": "mxflex", "password": "s"}}, **scenario}),
            encoding="utf-8",
        )
        settings = {
            "html": str(HTML),
            **settings,
            "host": f"localhost:{self.port}",
            "mx": {"addr": f"{LOOPBACK}:{self._mx_port}", "login": "mxflex", "password": "s"},
        }
        (folder / "mxflex.yaml").write_text(json.dumps(settings), encoding="utf-8")
        self.url = f"{self.scheme}://localhost:{self.port}/"
        self._mx = None
        self.mxflex = None
        self._starts = 0

    def start_mx(self):
        """Start the MX, at the port that it keeps."""
        self._mx = Daemon(
            self._folder,
            "mxsim",
            "--port",
            str(self._mx_port),
            "--scenario",
            "scenario.yaml",
            "--control",
            f"tcp:{self._control_port}",
        )

    def stop_mx(self):
        """Stop the MX."""
        self._mx.__exit__()

    def start_mxflex(self):
        """Start MXFlex, and wait until it serves and the MX has let it in."""
        self._starts += 1
        with contextlib.ExitStack() as undo:
            self.mxflex = undo.enter_context(Daemon(self._folder, "mxflex"))
            eventually(lambda: self.mxflex.output.count("server connection up") >= self._starts)
            eventually(self._answers)
            undo.pop_all()

    def stop_mxflex(self):
        """Stop MXFlex."""
        self.mxflex.__exit__()

    def _answers(self):
        # The certificate, where there is one, is what a client makes of it.
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(self.url, timeout=PATIENCE, context=context) as response:
            return response.status == 200

    def control(self, path, **fields):
        """Ask the MX itself for something (docs/simulator.md, "The control API")."""
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._control_port}/{path}",
            data=json.dumps(fields).encode("utf-8"),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read() or b"null")

    def lose_mx(self):
        """Take the MX away from MXFlex."""
        self.control("connections/refuse")
        self.control("connections/drop")

    def find_mx(self):
        """Give it back."""
        self.control("connections/accept")

    def person(self, login):
        """Sign somebody in who needs no page."""
        return Person(self.url, login)

    def mx_user(self, login):
        """Sign somebody in at the MX itself."""
        return MXUser(self._mx_port, login)

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            self.start_mx()
            undo.callback(self.stop_mx)
            self.start_mxflex()
            undo.pop_all()
        return self

    def __exit__(self, *_):
        try:
            self.stop_mxflex()
        finally:
            self.stop_mx()


class SecureSite(Site):
    """The same on HTTPS.

    Attributes:
        authority: The file of the certificate, for who wants to verify it.
    """

    scheme = "https"

    def __init__(self, folder, scenario, **settings):
        folder.mkdir(exist_ok=True)
        made = Certificate.issue("localhost", "localhost", LOOPBACK)
        self.authority, key = folder / "certificate.pem", folder / "key.pem"
        self.authority.write_bytes(made.pem)
        key.write_bytes(
            made.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files = {"certificate": str(self.authority), "key": str(key)}
        super().__init__(folder, scenario, tls=files, **settings)


class Person:
    """Somebody who uses the API without a page; the password is `secret`."""

    def __init__(self, url, login):
        self._url = url
        self._token = ""
        self._token = self._ask("login", login=login, password="secret")["access_token"]

    def _ask(self, path, **fields):
        request = urllib.request.Request(
            f"{self._url}api/{path}",
            data=urllib.parse.urlencode(fields).encode("ascii") if fields else None,
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read() or b"null")

    def calls(self):
        """Give the calls that this person has."""
        return self._ask("calls")["calls"]

    def dial(self, to):
        """Call somebody."""
        self._ask("call", to=to)

    def _command(self, name, state):
        def look():
            return [call for call in self.calls() if call["state"] == state]

        (call,) = eventually(look)
        self._ask(f"call/{name}", callId=call["callId"], deviceId=call["deviceId"])

    def answer(self):
        """Answer the call that rings, or will soon."""
        self._command("answer", "alerting")

    def hang_up(self, state="connected"):
        """Leave the call that has this state, or will soon."""
        self._command("hangup", state)

    def log_out(self):
        """Stop watching the extension."""
        self._ask("logout")


class MXUser:
    """Somebody's own client of the MX, beside MXFlex; the password is `secret`."""

    def __init__(self, port, login):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The MX makes its certificate itself.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connected = socket.create_connection((LOOPBACK, port), PATIENCE)
        self._socket = context.wrap_socket(connected)
        self._connection = ClientConnection()
        self._send(LoginRequest(type="User", platform="Test", user_name=login, password="secret"))
        self._wait_for_login()

    def _send(self, command):
        _, data = self._connection.request(command)
        self._socket.sendall(data)

    def _wait_for_login(self):
        while True:
            event = self._connection.next_event()
            if event is None:
                data = self._socket.recv(65536)
                assert data, "the MX has hung up"
                self._connection.receive_data(data)
            elif isinstance(event, ReplyReceived):
                assert isinstance(event.reply, LoginResponse), event
                return

    def set_presence(self, status, note):
        """Change the presence, as a telephone or a program of the MX does."""
        self._send(SetPresence(status=status, note=note))

    def close(self):
        """Hang up."""
        self._socket.close()


class Cable:
    """Carries connections to a port, until it is pulled out; until the block ends.

    Args:
        port: The port of loopback where they go.

    Attributes:
        port: The port of loopback where they come.
    """

    def __init__(self, port):
        self._to = port
        self._listening = socket.create_server((LOOPBACK, 0))
        self.port = self._listening.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        # Its other end wakes the thread up.
        self._bell, heard = socket.socketpair()
        self._selector.register(heard, selectors.EVENT_READ)
        self._heard = heard
        self._peers = {}
        self._plugged = True
        self._pulled = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def pull(self):
        """Cut all connections, and refuse new ones."""
        self._pulled.clear()
        self._plugged = False
        self._bell.send(b".")
        assert self._pulled.wait(PATIENCE)

    @property
    def connections(self):
        """How many connections there are at this moment."""
        return len(self._peers) // 2

    def plug(self):
        """Let connections through again."""
        self._plugged = True

    def _carry(self):
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._heard:
                    self._heard.recv(64)
                    self._cut()
                    self._pulled.set()
                    # Not before: whoever ends this waits for the bell to be heard.
                    if self._over:
                        return
                elif key.fileobj is self._listening:
                    self._accept()
                elif key.fileobj in self._peers:
                    self._pass_on(key.fileobj)

    def _accept(self):
        near, _ = self._listening.accept()
        if not self._plugged:
            near.close()
            return
        far = socket.create_connection((LOOPBACK, self._to), PATIENCE)
        for here, there in ((near, far), (far, near)):
            self._peers[here] = there
            self._selector.register(here, selectors.EVENT_READ)

    def _pass_on(self, here):
        with contextlib.suppress(OSError):
            data = here.recv(65536)
            if data:
                self._peers[here].sendall(data)
                return
        self._close(here)

    def _close(self, here):
        there = self._peers.pop(here)
        del self._peers[there]
        for end in (here, there):
            self._selector.unregister(end)
            end.close()

    def _cut(self):
        while self._peers:
            self._close(next(iter(self._peers)))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over = True
        self.pull()
        self._thread.join()
        for end in (self._listening, self._bell, self._heard):
            end.close()
        self._selector.close()


def _find_browser(chromium):
    """Give the path of a Chromium: the machine's, or the one that Playwright has installed."""
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    own = Path(chromium.executable_path)
    return str(own) if own.is_file() else None


@contextlib.contextmanager
def chromium(*flags):
    """Run a Chromium without a window; where there is none, the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        path = _find_browser(playwright.chromium)
        if path is None:
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=path, args=[*BROWSER_FLAGS, *flags])
        with browser:
            yield browser


class Witness:
    """Sees what a browser's pages do, and finds fault with it.

    Args:
        context: The context of the pages.
    """

    def __init__(self, context):
        self._expected = []
        self._problems = []
        self._urls = []
        context.on("console", self._console)
        context.on("weberror", lambda error: self._problems.append(("", str(error.error))))
        context.on("request", lambda request: self._urls.append(request.url))

    def _console(self, message):
        if message.type in ("error", "warning"):
            self._problems.append((message.location.get("url", ""), message.text))

    def expect(self, words, path=""):
        """Allow a report of the browser's own, such as that a request has failed.

        Args:
            words: They stand in the report.
            path: What it is about.
        """
        self._expected.append((words, path))

    def _is_expected(self, url, text):
        return any(
            words in text and urllib.parse.urlsplit(url).path == path
            for words, path in self._expected
        )

    def judge(self, page, origin):
        """Hold what was seen to: no errors, no other host, no token where it does not belong."""
        self.judge_traffic(origin)
        assert page.url == origin
        assert not [url for url in self._urls if "eyJ" in url]
        stored = page.evaluate("Object.entries(localStorage)")
        assert dict(stored).keys() <= CHOICES
        assert page.evaluate("document.cookie") == ""

    def judge_traffic(self, origin):
        """Hold what was seen to: no errors, no other host."""
        surprises = [each for each in self._problems if not self._is_expected(*each)]
        assert not surprises, surprises
        foreign = [url for url in self._urls if not url.startswith(origin)]
        assert not foreign, foreign
