"""The installed daemon and its MX, each in a process of its own: down, killed, back, stopped."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mxflex.process import OTHER_FILES
from tests.endtoend.place import ACCOUNT, LOGIN, PASSWORD
from tests.endtoend.stage import LOOPBACK, PATIENCE, TWISTD, eventually

LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info |warn |error|critical) \S+  .")


def test_start_without_the_mx(place):
    """MXFlex serves what it can while the MX is down, says so, and is whole once it comes."""
    mxflex = place.mxflex()
    status, headers, answer = place.log_in()
    assert status == 503
    assert int(headers["Retry-After"]) > 0
    assert answer["code"] == 503
    assert str(place.mx_port) not in answer["error"]
    mxsim = place.mxsim()
    token = place.token()
    stream = place.stream(token)
    stream.read_until(b"event: DeliveredEvent")
    # The MX was not there: told once, not at each try.
    assert mxflex.output.count("server connection down") == 1
    assert [line for line in mxflex.output.splitlines() if not LINE.match(line)] == []
    mxflex.stop()
    mxsim.stop()


def test_mx_killed_and_back(place):
    """An open stream outlives the MX: it hears of the gap, then of new calls, in one response."""
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    token = place.token()
    stream = place.stream(token)
    seen = stream.read_until(b"event: DeliveredEvent")
    mxsim.kill()
    eventually(lambda: "server connection down" in mxflex.output)
    assert place.log_in()[0] == 503
    status, headers, _ = place.ask("/api/call", {"to": "3044"}, token)
    assert (status, int(headers["Retry-After"]) > 0) == (503, True)
    # What is known stays known.
    assert place.get("/api/contacts", token)[0] == 200
    mxsim = place.mxsim()
    seen = stream.read_until(b"event: gap", seen)
    seen = stream.read_until(b"mx-down", seen)
    stream.read_until(b"event: DeliveredEvent", seen)
    assert place.log_in()[0] == 200
    mxflex.stop()
    mxsim.stop()


def test_mx_killed_again_and_again(place):
    """Each return of the MX is noticed, and leaves one connection behind."""
    mxflex = place.mxflex()
    for times in range(1, 4):
        mxsim = place.mxsim()
        eventually(lambda times=times: mxflex.output.count("server connection up") == times)
        assert place.token()
        mxsim.kill()
        eventually(lambda times=times: mxflex.output.count("server connection down") > times - 1)
    mxflex.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_stop_in_the_middle_of_everything(place, number):
    """A stop ends open streams in order, says goodbye to the MX, and takes a moment only."""
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    token = place.token()
    streams = [place.stream(token) for _ in range(20)]
    silent = [socket.create_connection((LOOPBACK, place.port)) for _ in range(20)]
    try:
        mxflex.stop(number)
    finally:
        for each in silent:
            each.close()
    for stream in streams:
        stream.read_to_end()
        # The last chunk: the response is whole, and the client knows that it may come back.
        assert stream.text.endswith(b"0\r\n\r\n")
    mxsim.stop()


def test_stop_with_a_dead_mx(place):
    """An MX that is silent, with logins on their way to it, delays no stop."""
    with socket.create_server((LOOPBACK, place.mx_port)) as mx:
        place.configure(mx={"addr": f"{LOOPBACK}:{place.mx_port}", "timeout": 30, **ACCOUNT})
        mxflex = place.mxflex()
        accepted, _ = mx.accept()
        body = f"login={LOGIN}&password={PASSWORD}"
        head = "POST /api/login HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{}\r\n\r\n{}".format(
            len(body), "Content-Type: application/x-www-form-urlencoded", body
        )
        with accepted, socket.create_connection((LOOPBACK, place.port)) as client:
            client.sendall(head.encode())
            login, _ = mx.accept()
            with login:
                mxflex.stop()


def test_open_files(place):
    """MXFlex may open as many files as the system lets it; streams that fit need no word."""
    place.configure(events={"max_streams": 900 - OTHER_FILES})
    mxflex = place.mxflex(files=(200, 900))
    assert resource.prlimit(mxflex.pid, resource.RLIMIT_NOFILE) == (900, 900)
    assert "max_streams" not in mxflex.output
    mxflex.stop()


def test_open_files_that_are_too_few(place):
    """Where there can be fewer files, fewer streams may be open, and one more gets an answer."""
    place.configure(events={"max_per_token": 1000, "max_streams": 389})
    place.mxsim()
    mxflex = place.mxflex(files=(64, 64))
    told = "events.max_streams is 389, but with 64 files that this process may open it is 32"
    assert [line for line in mxflex.output.splitlines() if " warn " in line and told in line]
    token = place.token()
    for _ in range(32):
        place.stream(token)
    assert place.get("/api/events", token)[0] == 503
    # The rest of the daemon has what it needs.
    assert place.token()
    mxflex.stop()


def test_port_in_use(place):
    """A port that another has is one line, and an exit status; the other is not disturbed."""
    first = place.mxflex()
    second = place.run("mxflex")
    assert second.wait() not in (0, None)
    text = second.output
    assert "Traceback" not in text
    told = [line for line in text.splitlines() if " error " in line]
    assert len(told) == 1
    assert f"tcp:{place.port}" in told[0]
    assert "in use" in told[0]
    assert place.get("/")[0] == 200
    first.stop()


def test_port_of_the_simulator_in_use(place):
    """The same holds for the simulator."""
    with socket.create_server((LOOPBACK, place.mx_port)):
        process = place.run("mxsim", "--port", str(place.mx_port))
        assert process.wait() == 1
    assert len(process.output.splitlines()) == 1
    assert process.output.startswith(f"{LOOPBACK}:{place.mx_port}: cannot listen there: ")


def test_nothing_of_the_host_leaks(place):
    """No answer names a folder, an address of the MX, a module or the interpreter."""
    mxflex = place.mxflex()
    (place.folder / "html" / "x").mkdir()
    told = b""
    for path in ("/", "/x", "/x/", "/nothing", "/api", "/api/login", "/api/%ff", "/%00", "/.x"):
        _, headers, body = place.get(path)
        told += str(headers).encode() + body
    told += json.dumps(place.log_in()[2]).encode()
    for secret in (str(place.folder), str(place.mx_port), "twisted", "python", "klein", "werkzeug"):
        assert secret.encode() not in told.lower()
    mxflex.stop()


MISTAKES = {
    "not YAML": (b"mx: {addr: a", "mxflex.yaml: line 1, column "),
    "a tab": (b"mx:\n\taddr: a", "mxflex.yaml: line 2, column "),
    "bytes": (bytes(range(256)), "mxflex.yaml: "),
    "UTF-16": ("mx: {}".encode("utf-16"), "mxflex.yaml: "),
    "nothing but a list": (b"[1, 2]", "mxflex.yaml: "),
    "two documents": (b"mx: {}\n---\nmx: {}\n", "mxflex.yaml: "),
    "a key twice": (b"host: 'a:1'\nhost: 'b:1'\n", "mxflex.yaml: "),
    "an object of Python": (b"mx: !!python/object/apply:os.system ['true']", "mxflex.yaml: "),
    "laughs": (
        b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n"
        + b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n" * 1
        + b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n"
        + b"g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n",
        "mxflex.yaml: ",
    ),
    "deep lists": (b"mx: " + b"[" * 5_000, "mxflex.yaml: "),
    "no password": (b"mx: {addr: a, login: b}", "mxflex.yaml: mx.password: "),
    "a misspelled key": (b"mx: {adr: a, login: b, password: c}", "mxflex.yaml: mx.adr: "),
    "a port too high": (
        b"host: 'a:99999'\nmx: {addr: a, login: b, password: c}",
        "mxflex.yaml: host",
    ),
    "an endpoint of nonsense": (
        b"listen: ['nonsense:1']\nmx: {addr: a, login: b, password: c}",
        "mxflex.yaml: listen: ",
    ),
    "a CA file that is not there": (
        b"mx: {addr: a, login: b, password: c, verify: nowhere.pem}",
        "mxflex.yaml: mx.verify: ",
    ),
    "a CA file without certificates": (
        b"mx: {addr: a, login: b, password: c, verify: mxflex.yaml}",
        "mxflex.yaml: mx.verify: ",
    ),
    "a password file that is not there": (
        b"mx: {addr: a, login: b, password_file: nowhere}",
        "mxflex.yaml: mx.password_file: ",
    ),
    "a time of nonsense": (
        b"mx: {addr: a, login: b, password: c, timeout: .nan}",
        "mxflex.yaml: mx.timeout: ",
    ),
    "a time without end": (
        b"mx: {addr: a, login: b, password: c, timeout: .inf}",
        "mxflex.yaml: mx.timeout: ",
    ),
    "a short key": (
        b"mx: {addr: a, login: b, password: c}\ntoken: {key: short}",
        "mxflex.yaml: token.key: ",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_the_configuration(name, tmp_path):
    """Each mistake is one line with file, key and what is expected; nothing is started."""
    text, line = MISTAKES[name]
    (tmp_path / "mxflex.yaml").write_bytes(text)
    done = subprocess.run(
        [TWISTD, "--nodaemon", "--pidfile=", "mxflex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == b""
    told = done.stderr.decode()
    assert len(told.splitlines()) == 1, told
    assert told.startswith(line)
    assert len(told) < 400
    assert [path.name for path in Path(tmp_path).iterdir()] == ["mxflex.yaml"]


@pytest.mark.parametrize("kind", ["a folder", "an endless file"])
def test_configurations_that_are_no_files(kind, tmp_path):
    """What is no file, or one without an end, is told in one line."""
    path = tmp_path / "it.yaml"
    if kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    done = subprocess.run(
        [sys.executable, TWISTD, "--nodaemon", "--pidfile=", "mxflex", "--config", str(path)],
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(str(path).encode() + b": ")
