"""The command as an operator runs it: options, mistakes, where the log goes, start and stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
TEXT_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info |warn |error|critical) \S+  ."
)

# A command beside MXFlex's own: it logs a few known events through mxflex.logs, and ends.
PROBE_PLUGIN = """\
from twisted.application.service import ServiceMaker
probe = ServiceMaker("Probe", "probe_tap", "Logs a few events.", "probe")
"""
PROBE_TAP = """\
import os, signal
from twisted.application.service import MultiService
from twisted.logger import Logger
from twisted.python import usage
from mxflex import logs

class Options(usage.Options):
    optParameters = [["log-format", None, None, ""]]
    optFlags = [["rotate", None, ""], ["stay", None, ""]]

class Probe(MultiService):
    def __init__(self, options, reactor):
        super().__init__()
        self.options, self.reactor = options, reactor

    def startService(self):
        super().startService()
        self.reactor.callWhenRunning(self.say)

    def say(self):
        log = Logger(namespace="probe")
        log.info("said {what}", what="once")
        log.debug("whispered")
        log.warn("secret swordfish and access_token=abc")
        try:
            raise ValueError("two\\nlines")
        except ValueError:
            log.failure("broken")
        print("printed")
        if self.options["rotate"]:
            os.kill(os.getpid(), signal.SIGUSR1)
        if not self.options["stay"]:
            self.reactor.callLater(0.1, self.reactor.stop)

    def stopService(self):
        Logger(namespace="probe").info("stopped")
        return super().stopService()

def makeService(options):
    from twisted.internet import reactor
    name = options["log-format"] or (options.parent or {}).get("logFormat", "text")
    lines = logs.line_format(name, logs.Masker(["swordfish"]))
    return logs.install(Probe(options, reactor), options.parent, lines, reactor)
"""


def environment(**more):
    """Give the environment of a command that sees this checkout, and no configuration of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MXFLEX_")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def twistd(*arguments, cwd, env=None):
    """Run twistd to its end."""
    return subprocess.run(
        [sys.executable, "-c", TWISTD, *arguments],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def eventually(look, seconds=20):
    """Give the first true answer of `look`; fail when there is none in time.

    For what other processes do: there is nothing to wait on but their traces.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = look()
            if found:
                return found
        time.sleep(0.02)
    pytest.fail("it did not happen in time")


@pytest.fixture
def probe(tmp_path):
    """A folder from which the command `probe` runs, and the environment for it."""
    plugins = tmp_path / "path" / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "probe_plugin.py").write_text(PROBE_PLUGIN, encoding="utf-8")
    (tmp_path / "path" / "probe_tap.py").write_text(PROBE_TAP, encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    path = os.pathsep.join([str(tmp_path / "path"), str(ROOT)])
    return work, environment(PYTHONPATH=path)


def assert_probe_lines(text):
    """Hold the lines of the probe to: ours, each once, masked, one line an event."""
    lines = text.splitlines()
    assert [line for line in lines if not TEXT_LINE.match(line)] == []
    for message in ("probe  said once", "stdout  printed", "probe  stopped"):
        assert sum(line.endswith(message) for line in lines) == 1, text
    assert sum("secret *** and access_token=***" in line for line in lines) == 1
    assert sum(line.endswith(r"ValueError: two\nlines") for line in lines) == 1
    assert "swordfish" not in text
    assert "whispered" not in text


def test_log_in_the_foreground(probe):
    """`twistd -n` writes our lines, and nothing else, to standard output."""
    work, env = probe
    done = twistd("-n", "--pidfile=", "probe", cwd=work, env=env)
    assert_probe_lines(done.stdout)
    assert done.stderr == ""
    assert list(work.iterdir()) == []
    done = twistd("-n", "--pidfile=", "--logfile=-", "probe", cwd=work, env=env)
    assert_probe_lines(done.stdout)


def test_log_as_json(probe):
    """With `--log-format json` every line of standard output is an object."""
    work, env = probe
    done = twistd("-n", "--pidfile=", "probe", "--log-format", "json", cwd=work, env=env)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (said,) = [event for event in events if event["message"] == "said once"]
    assert said["what"] == "once"
    (broken,) = [event for event in events if event["message"] == "broken"]
    assert broken["traceback"].endswith("ValueError: two\nlines")


def test_log_to_a_file(probe):
    """`--logfile` gets our lines, and standard output none."""
    work, env = probe
    done = twistd("-n", "--pidfile=", "--logfile=out.log", "probe", cwd=work, env=env)
    assert done.stdout == ""
    assert_probe_lines((work / "out.log").read_text(encoding="utf-8"))


def test_log_file_rotates(probe):
    """SIGUSR1 rotates the file, as twistd's users know it."""
    work, env = probe
    twistd("-n", "--pidfile=", "--logfile=out.log", "probe", "--rotate", cwd=work, env=env)
    assert "said once" in (work / "out.log.1").read_text(encoding="utf-8")
    assert "stopped" in (work / "out.log").read_text(encoding="utf-8")


def test_log_of_a_daemon(probe):
    """A daemon writes our lines to twistd.log, from its start to its stop."""
    work, env = probe
    done = twistd("probe", "--stay", cwd=work, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = work / "twistd.log"
    eventually(lambda: "printed" in log.read_text(encoding="utf-8"))
    os.kill(int((work / "twistd.pid").read_text(encoding="ascii")), signal.SIGTERM)
    eventually(lambda: "Server Shut Down" in log.read_text(encoding="utf-8"))
    assert_probe_lines(log.read_text(encoding="utf-8"))


def test_a_daemon_has_no_standard_output(probe):
    """`--logfile=-` without `-n` is refused in one line."""
    work, env = probe
    done = twistd("--logfile=-", "probe", cwd=work, env=env)
    assert done.returncode == 1
    assert done.stderr == "a daemon cannot log to standard output; name a file with --logfile\n"


def test_the_operators_own_logger(probe):
    """An observer named with `--logger` is used instead of ours."""
    work, env = probe
    # A factory without arguments, as twistd wants it; this one drops everything.
    factory = "--logger=twisted.logger.LogPublisher"
    done = twistd("-n", "--pidfile=", factory, "probe", cwd=work, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_syslog(probe):
    """With `--syslog` nothing goes to standard output or to a file."""
    work, env = probe
    done = twistd("-n", "--pidfile=", "--syslog", "probe", cwd=work, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("options", [["--log-format", "text"], ["--log-level", "info"]])
def test_log_under_twist(options, probe):
    """`python -m twisted` writes our lines too, each once, in the format asked of it."""
    work, env = probe
    done = subprocess.run(
        [sys.executable, "-m", "twisted", *options, "probe"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if options[0] == "--log-format":
        assert_probe_lines(done.stdout)
    else:
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [event["message"] for event in events].count("said once") == 1
    assert done.stderr == ""


# Runs what twistd runs, and says what the collector passes over from then on.
COLLECTOR = """
import gc, weakref
from mxflex import tap

options = tap.Options()
options.parseOptions(["--demo"])
service = tap.makeService(options)
from twisted.internet import reactor

class Cycle:
    pass

def look():
    later = Cycle()
    later.itself = later
    alive = weakref.ref(later)
    del later
    gc.collect()
    print(gc.get_freeze_count() > 50_000, len(gc.get_objects()) < 5_000, alive())
    reactor.stop()

reactor.callWhenRunning(look)
reactor.run()
"""


def test_the_collector_passes_over_what_is_loaded():
    """Nothing that was imported is looked at again by the collector; what comes later is."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECTOR], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "True", "None"]


def test_help():
    """`--help` names the options, and needs no configuration."""
    done = twistd("mxflex", "--help", cwd="/")
    assert done.returncode == 0
    for option in ("--config", "--demo", "--log-format", "--log-level"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--log-format", "xml"], "expected one of text, json"),
        (["--log-level", "loud"], "expected one of debug, info"),
        (["--demo", "--config", "x"], "--demo reads no configuration"),
        (["--quiet"], "--quiet and --control are about --demo"),
        (["--control", "tcp:0"], "--quiet and --control are about --demo"),
        (["--nonsense"], "--nonsense"),
        (["surplus"], "Wrong number of arguments"),
    ],
)
def test_bad_options(arguments, word, tmp_path):
    """A bad option is told with the usage, not with a traceback."""
    done = twistd("-n", "mxflex", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "there is no such file; name another one with --config, or try --demo"),
        ("", "is empty; expected at least mx: with addr, login and password"),
        ("mx: {addr: a, login: b}", "mx.password: required (or mx.password_file): the password"),
        ("mx: {adr: a}", "mx.adr: unknown key; did you mean mx.addr?"),
        ("mx: {addr: a, login: b, password: 12345}", "mx.password: expected text; put the number"),
        ("mx: {addr: a", "line 1, column 13: not valid YAML: while parsing a flow mapping"),
        ("acme: {eab_kid: x}\nmx: {addr: a, login: b, password: c}", "acme.eab_key: required "),
    ],
)
@pytest.mark.parametrize("daemon", [[], ["--nodaemon"]], ids=["daemon", "foreground"])
def test_mistakes_in_the_configuration(daemon, text, line, tmp_path):
    """A mistake stops the start with one line on standard error, and leaves nothing behind."""
    if text is not None:
        (tmp_path / "mxflex.yaml").write_text(text, encoding="utf-8")
    before = set(tmp_path.iterdir())
    done = twistd(*daemon, "mxflex", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"mxflex.yaml: {line}")
    assert set(tmp_path.iterdir()) == before


def test_mistakes_in_a_named_file(tmp_path):
    """The line names the file as `--config` named it."""
    path = tmp_path / "other.json"
    path.write_text('{"mx": 1}', encoding="utf-8")
    done = twistd("-n", "mxflex", "--config", str(path), cwd=tmp_path)
    assert done.stderr == f"{path}: mx: expected a section with keys such as addr and login\n"


def test_mistakes_in_the_environment(tmp_path):
    """The line names the variable."""
    (tmp_path / "mxflex.yaml").write_text("host: localhost", encoding="utf-8")
    done = twistd("-n", "mxflex", cwd=tmp_path, env=environment(MXFLEX_MX_PORT="1"))
    assert done.returncode == 1
    assert done.stderr.startswith("MXFLEX_MX_PORT: unknown environment variable; ")
    assert len(done.stderr.splitlines()) == 1


class Daemon:
    """`twistd -n mxflex` in its own process."""

    def __init__(self, folder, *arguments, **variables):
        self.output = folder / "output"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "mxflex", *arguments],
                cwd=folder,
                env=environment(**variables),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self):
        """What it has written so far."""
        return self.output.read_text(encoding="utf-8")

    def stop(self, number=signal.SIGTERM):
        """Ask it to stop, and give the seconds it took."""
        begin = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=20)
        return time.monotonic() - begin


@pytest.fixture
def daemon_of(tmp_path):
    """Start a daemon; at the end it is gone, whatever happened."""
    started = []

    def start(*arguments, **variables):
        started.append(Daemon(tmp_path, *arguments, **variables))
        return started[-1]

    yield start
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


def status_of(url):
    """Give the HTTP status of a GET; OSError while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_start_and_stop(number, daemon_of, tmp_path):
    """The daemon serves with the MX down, and stops in under five seconds without a traceback."""
    port = free_port()
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("<p>hello</p>", encoding="utf-8")
    (tmp_path / "mxflex.yaml").write_text(
        f"host: 127.0.0.1:{port}\n"
        f"mx: {{addr: '127.0.0.1:{free_port()}', login: a, password: swordfish}}\n",
        encoding="utf-8",
    )
    daemon = daemon_of()
    assert eventually(lambda: status_of(f"http://127.0.0.1:{port}/")) == 200
    assert status_of(f"http://127.0.0.1:{port}/api/contacts") == 401
    assert daemon.stop(number) < 5
    assert "Traceback" not in daemon.text
    assert "swordfish" not in daemon.text
    assert [line for line in daemon.text.splitlines() if not TEXT_LINE.match(line)] == []
    assert "Server Shut Down." in daemon.text


def test_port_in_use(daemon_of, tmp_path):
    """A port that somebody else has is an error that names it, with an exit status."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        (tmp_path / "mxflex.yaml").write_text(
            f"host: 127.0.0.1:{port}\nmx: {{addr: 127.0.0.1, login: a, password: b}}\n",
            encoding="utf-8",
        )
        daemon = daemon_of()
        daemon.process.wait(timeout=20)
    assert daemon.process.returncode != 0
    assert str(port) in daemon.text


def test_demo(daemon_of):
    """The demo prints a line for curl that, pasted, streams real events; then it stops well."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not there")
    url = f"http://localhost:{free_port()}"
    daemon = daemon_of("--demo", MXFLEX_HOST=url.removeprefix("http://"))
    eventually(lambda: "Ctrl-C ends it." in daemon.text)
    assert url in daemon.text
    pasted = re.search(r"^ +(curl -N (?:.*\\\n)*.*)", daemon.text, re.MULTILINE)[1]
    command = ["timeout", "60", "bash", "-c", f"exec {pasted}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        try:
            # Telephones of the demo ring every few seconds; the pipe waits for the first event.
            lines = iter(curl.stdout)
            event = next((line for line in lines if line.startswith(b"event:")), b"")
            data = next((line for line in lines if line.startswith(b"data:")), b"")
        finally:
            curl.terminate()
    assert event.strip().endswith(b"Event")
    assert "callId" in json.loads(data.removeprefix(b"data:"))
    assert daemon.stop(signal.SIGINT) < 5
    assert "Traceback" not in daemon.text
    assert "eyJ" not in daemon.text
