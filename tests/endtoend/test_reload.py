"""SIGHUP to a whole daemon: streams stay open, new values count, and mistakes change nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import urllib.error
import urllib.request

import pytest

from tests.endtoend.stage import PATIENCE, Daemon, eventually
from tests.ports import LOOPBACK, free_port

DONE = "configuration reloaded: "


class Served:
    """MXFlex with an MX, each in its own process, and the file that it reads."""

    def __init__(self, folder, mx_port, port):
        self.path = folder / "mxflex.yaml"
        self.url = f"http://{LOOPBACK}:{port}/"
        self._settings = {
            "host": f"{LOOPBACK}:{port}",
            "mx": {"addr": f"{LOOPBACK}:{mx_port}", "login": "mxflex", "password": "s"},
        }
        self.write()
        self.mxflex = None

    def write(self, **settings):
        """Write the file, with more keys than those it needs."""
        self.path.write_text(json.dumps({**self._settings, **settings}), encoding="utf-8")

    def reload(self, **settings):
        """Write the file, let it be reloaded, systemd be told, and give what the log says then."""
        before = len(self.mxflex.output)
        self.write(**settings)
        self.hang_up()
        said = eventually(lambda: self._since(before))
        begun = self._told("RELOADING=1")
        assert begun[1].startswith("MONOTONIC_USEC=")
        self._told("READY=1")
        return said

    def _since(self, before):
        said = self.mxflex.output[before:]
        return said if DONE in said or "not reloaded" in said else None

    def _told(self, line):
        """Wait until systemd is told something, and give all that it is told then."""
        while line not in (told := self.systemd.recv(4096).decode().split("\n")):
            pass
        return told

    def hang_up(self):
        """Send the signal."""
        os.kill(self.mxflex.pid, signal.SIGHUP)

    def log_in(self):
        """Give a token."""
        with self.ask("api/login", b"login=anna&password=secret") as answer:
            return json.load(answer)["access_token"]

    def ask(self, path, data=None, token=""):
        """Make a request, and give its answer, open."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def refused(self, token):
        """Give the status with which one more stream is refused; None if it is not."""
        try:
            self.ask("api/events", token=token).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        return None


@pytest.fixture
def served(tmp_path):
    """Give a daemon that can be reloaded."""
    scenario = {
        "company": {"server": {"login": "mxflex", "password": "s"}},
        "users": [{"ext": "3095", "login": "anna", "password": "secret"}],
    }
    (tmp_path / "scenario.yaml").write_text(json.dumps(scenario), encoding="utf-8")
    mx_port, port = free_port(), free_port()
    served = Served(tmp_path, mx_port, port)
    mxsim = ("mxsim", "--port", str(mx_port), "--scenario", "scenario.yaml")
    # Not tmp_path: the path of a socket is short.
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as served.systemd,
        Daemon(tmp_path, *mxsim),
    ):
        served.systemd.bind(f"{folder}/notify")
        served.systemd.settimeout(PATIENCE)
        settings = {"NOTIFY_SOCKET": f"{folder}/notify", "MXFLEX_EVENTS_HISTORY": "7"}
        with Daemon(tmp_path, "mxflex", **settings) as served.mxflex:
            eventually(lambda: "server connection up" in served.mxflex.output)
            yield served


def test_reloading_a_daemon(served):
    """Whatever happens to the file of a process, its stream goes on; what can be is taken over."""
    token = served.log_in()
    with contextlib.closing(served.ask("api/events", token=token)) as stream:
        assert stream.readline().startswith(b"retry:")
        assert served.refused(token) is None
        # A new limit counts, and the stream that is open stays.
        said = served.reload(events={"max_per_token": 1, "heartbeat": 0.1})
        assert "events.max_per_token changed from 100 to 1: at once" in said
        assert f"{DONE}2 taken over, 0 left for a restart" in said
        assert served.refused(token) == 429
        # The environment wins, and what it wins over is no change.
        said = served.reload(events={"history": 99})
        assert "history" not in said
        assert served.refused(token) is None
        # A file with a mistake: the one before goes on.
        said = served.reload(events={"max_per_token": 1}, hots="localhost", log={"level": "debug"})
        assert (
            "error mxflex.reload  configuration not reloaded, the old one stays:"
            " mxflex.yaml: hots: unknown key; did you mean host?"
        ) in said
        assert served.refused(token) is None
        served.path.unlink()
        before = len(served.mxflex.output)
        served.hang_up()
        eventually(lambda: "there is no such file" in served.mxflex.output[before:])
        # What takes a restart is named, and the rest taken.
        assert " debug " not in served.mxflex.output
        said = served.reload(host=f"{LOOPBACK}:1", log={"level": "debug"}, token={"key": "k" * 40})
        assert f" to {LOOPBACK}:1: only after a restart" in said
        assert "token.key changed from nothing to ***: only after a restart" in said
        assert "log.level changed from info to debug: at once" in said
        assert "k" * 40 not in served.mxflex.output
        served.log_in()
        assert "sent loginRequest as" in served.mxflex.output
        # Twice quickly is twice, or once for both.
        before = served.mxflex.output.count(DONE)
        served.write()
        served.hang_up()
        served.hang_up()
        eventually(lambda: served.mxflex.output.count(DONE) > before)
        with served.ask("api/calls", token=token) as answer:
            assert answer.status == 200
        # All the time the stream was alive, and the process the same.
        while stream.readline() != b":\n":
            pass
