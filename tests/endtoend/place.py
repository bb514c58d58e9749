"""A folder where the installed daemon and its MX run, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from tests.endtoend.stage import LOOPBACK, PATIENCE, TWISTD, eventually
from tests.ports import free_port

ACCOUNT = {"login": "mxflex", "password": "swordfish"}
LOGIN, PASSWORD = "anna", "secret"
# One telephone, that rings all the time.
SCENARIO = {
    "company": {"server": ACCOUNT},
    "users": [{"ext": "3095", "login": LOGIN, "password": PASSWORD}],
    "scripts": [
        {
            "name": "somebody calls, and gives up",
            "start": 0.1,
            "pause": 0.1,
            "steps": [
                {"call": {"from": "+12025550104", "to": "3095"}},
                {"wait": 0.2},
                {"hang_up": "3095"},
            ],
        }
    ],
}
STOP_SECONDS = 5


def _limited(files):
    """Give the beginning of a command that may open so many files, soft and hard."""
    if files is None:
        return []
    soft, hard = files
    return ["sh", "-c", f'ulimit -S -n {soft} && ulimit -H -n {hard} && exec "$@"', "sh"]


class Process:
    """A `twistd` command that runs.

    Args:
        folder: Where it runs, and where its output is kept.
        arguments: The command and its options.
        files: Its limits of open files, soft and hard; None for those of the tests.
        environ: Further variables of its environment.

    Attributes:
        pid: Its number.
    """

    def __init__(self, folder, *arguments, files=None, environ=()):
        self._output = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [*_limited(files), TWISTD, "--nodaemon", "--pidfile=", *arguments],
                cwd=folder,
                env={**os.environ, **dict(environ)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def output(self):
        """What it has written."""
        return self._output.read_text(encoding="utf-8")

    def wait(self):
        """Wait for its end and give its exit status."""
        return self._process.wait(timeout=PATIENCE)

    def send(self, number):
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self):
        """End it without a chance to say goodbye."""
        self._process.kill()
        self._process.wait()

    def stop(self, number=signal.SIGTERM):
        """Ask it to stop; hold it to stopping soon, well, and without a word that only bugs say."""
        began = time.monotonic()
        self.send(number)
        status = self.wait()
        assert time.monotonic() - began < STOP_SECONDS
        # Once it has stopped in order, twistd dies of the signal, as whoever sent it expects:
        # systemd counts that as a clean end.
        assert status == -number, self.output
        text = self.output
        assert "Traceback" not in text
        assert " critical " not in text, text


class Place:
    """A folder with a configuration, and the processes that run there.

    Attributes:
        port: The port of MXFlex.
        mx_port: The port of the MX.
    """

    def __init__(self, folder, stack):
        self.folder = folder
        self.port, self.mx_port = free_port(), free_port()
        self._stack = stack
        (folder / "html").mkdir()
        (folder / "html" / "index.html").write_text("hello", encoding="utf-8")
        (folder / "scenario.json").write_text(json.dumps(SCENARIO), encoding="utf-8")
        self.configure()

    def configure(self, **settings):
        """Write the configuration, with more settings than it needs."""
        mx = {"addr": f"{LOOPBACK}:{self.mx_port}", "timeout": 2, **ACCOUNT}
        document = {"host": f"{LOOPBACK}:{self.port}", "mx": mx, **settings}
        (self.folder / "mxflex.yaml").write_text(json.dumps(document), encoding="utf-8")

    def run(self, *arguments, **options):
        """Run a command; it is gone after the test, whatever happened."""
        process = Process(self.folder, *arguments, **options)
        self._stack.callback(process.kill)
        return process

    def mxflex(self, **options):
        """Start MXFlex, and wait until it serves."""
        process = self.run("mxflex", **options)
        eventually(lambda: self.get("/")[0] == 200)
        return process

    def mxsim(self):
        """Start the MX, and wait until it listens."""
        process = self.run("mxsim", "--port", str(self.mx_port), "--scenario", "scenario.json")
        eventually(lambda: "simulated MX listens" in process.output)
        return process

    def ask(self, path, fields=None, token=None):
        """Make a request and give status, headers and body."""
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.port}{path}",
            data=None if fields is None else urllib.parse.urlencode(fields).encode(),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def get(self, path, token=None):
        """GET; raises OSError while nobody listens."""
        return self.ask(path, token=token)

    def log_in(self):
        """Try to log in; gives status, headers and what was answered."""
        status, headers, body = self.ask("/api/login", {"login": LOGIN, "password": PASSWORD})
        return status, headers, json.loads(body)

    def token(self):
        """Log in as soon as the MX lets one."""
        return eventually(lambda: self.log_in()[2].get("access_token"))

    def stream(self, token, *lines):
        """Open an event stream, with further header lines."""
        stream = Stream(self.port, token, *lines)
        self._stack.callback(stream.close)
        return stream


def stream_request(token, *lines):
    """Give the bytes that ask for an event stream."""
    head = ["GET /api/events HTTP/1.1", "Host: a", f"Authorization: Bearer {token}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


class Stream:
    """An event stream over a socket of its own."""

    def __init__(self, port, token, *lines):
        self._socket = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
        self._socket.sendall(stream_request(token, *lines))
        self.text = b""
        self.read_until(b"\r\n\r\n")
        assert self.text.startswith(b"HTTP/1.1 200 ")

    def read_until(self, what, start=0):
        """Read until something has come; gives the place behind it."""
        while what not in self.text[start:]:
            data = self._socket.recv(65_536)
            assert data, self.text
            self.text += data
        return self.text.index(what, start) + len(what)

    def read_to_end(self):
        """Read until the other side closes."""
        while data := self._socket.recv(65_536):
            self.text += data

    def close(self):
        """Go away."""
        self._socket.close()
