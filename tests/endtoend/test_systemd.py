"""The daemon under systemd: what it is told, what it opens for us, and how tight the unit is."""

from __future__ import annotations

import ctypes.util
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.endtoend.stage import PATIENCE, ROOT, TWISTD, Daemon, eventually
from tests.ports import LOOPBACK, free_port

CONTRIB = ROOT / "contrib"
# `systemd-analyze security` goes from 0, which no service can be, to 10.
MAX_EXPOSURE = 2.0


def tool(name):
    """Give the path of a program of systemd's."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not there")
    return path


@pytest.fixture
def systemd():
    """Give systemd's socket, and its address."""
    # Not tmp_path: the path of a socket is short.
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        notify.bind(f"{folder}/notify")
        notify.settimeout(PATIENCE)
        yield notify, f"{folder}/notify"


def told(notify, line):
    """Wait until systemd is told something."""
    while line not in notify.recv(4096).decode().split("\n"):
        pass


def test_told_by_a_real_process(systemd, tmp_path):
    """It says when its port is open, that it lives, how the MX is, and that it stops."""
    notify, address = systemd
    port = free_port()
    with Daemon(
        tmp_path,
        "mxflex",
        "--demo",
        MXFLEX_HOST=f"{LOOPBACK}:{port}",
        NOTIFY_SOCKET=address,
        WATCHDOG_USEC="200000",
    ) as daemon:
        told(notify, "READY=1")
        socket.create_connection((LOOPBACK, port), PATIENCE).close()
        told(notify, "STATUS=connected to the MX")
        for _ in range(3):
            told(notify, "WATCHDOG=1")
        daemon.stop()
        told(notify, "STOPPING=1")


def test_not_ready_without_its_port(systemd, tmp_path):
    """A daemon that cannot open its port ends, and has not said that it is ready."""
    notify, address = systemd
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [TWISTD, "--nodaemon", "--pidfile=", "mxflex", "--demo"],
            cwd=tmp_path,
            env={
                "PYTHONPATH": str(ROOT),
                "MXFLEX_HOST": f"{LOOPBACK}:{port}",
                "NOTIFY_SOCKET": address,
            },
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode != 0
    notify.setblocking(False)
    with pytest.raises(BlockingIOError):
        notify.recv(4096)


def test_a_socket_of_systemd(tmp_path):
    """With the entry that mxflex.socket names MXFlex serves on a port that systemd has opened."""
    activate = tool("systemd-socket-activate")
    text = (CONTRIB / "mxflex.socket").read_text(encoding="utf-8")
    listen = json.loads(re.search(r"^#   listen: (.*)", text, re.MULTILINE)[1])
    port = free_port()
    settings = {
        "listen": listen,
        "mx": {"addr": f"{LOOPBACK}:{free_port()}", "login": "a", "password": "b"},
    }
    (tmp_path / "mxflex.yaml").write_text(json.dumps(settings), encoding="utf-8")
    command = [TWISTD, "--nodaemon", "--pidfile=", "mxflex"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                activate,
                f"--listen={LOOPBACK}:{port}",
                # As systemd names it, by the unit.
                "--fdname=mxflex.socket",
                f"--setenv=PYTHONPATH={ROOT}",
                *command,
            ],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        connected = eventually(lambda: socket.create_connection((LOOPBACK, port), PATIENCE))
        # The daemon starts for this connection, which waits meanwhile.
        with connected:
            connected.sendall(b"GET /api/contacts HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connected.recv(4096).startswith(b"HTTP/1.1 401 ")
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_no_socket_of_systemd(tmp_path):
    """Without the socket that the configuration counts on, one line says what is missing."""
    settings = {
        "listen": ["systemd:domain=INET:index=0"],
        "mx": {"addr": LOOPBACK, "login": "a", "password": "b"},
    }
    (tmp_path / "mxflex.yaml").write_text(json.dumps(settings), encoding="utf-8")
    done = subprocess.run(
        [TWISTD, "--nodaemon", "--pidfile=", "mxflex"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "mxflex.yaml: listen: systemd has given this process no socket"
        " for 'systemd:domain=INET:index=0'\n"
    )


def test_the_unit_is_tight():
    """What the service could do to the machine is 2.0 or better by the measure of systemd."""
    done = subprocess.run(
        [
            tool("systemd-analyze"),
            "security",
            "--offline=true",
            f"--threshold={round(MAX_EXPOSURE * 10)}",
            "--no-pager",
            CONTRIB / "mxflex.service",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    exposure = re.search(r"Overall exposure level for mxflex.service: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE, done.stdout
    assert done.returncode == 0


def test_the_malloc_of_the_unit():
    """What the unit, the image and the documents preload is found, and is another malloc."""
    unit = (CONTRIB / "mxflex.service").read_text(encoding="utf-8")
    (library,) = re.findall(r"^Environment=LD_PRELOAD=(\S+)$", unit, re.MULTILINE)
    assert f"ENV LD_PRELOAD={library} " in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"`LD_PRELOAD={library} twistd" in (ROOT / "docs/operation.md").read_text(
        encoding="utf-8"
    )
    if ctypes.util.find_library("jemalloc") is None:
        pytest.skip("libjemalloc2 is not there")
    code = "import ctypes; ctypes.CDLL(None).mallctl; print(open('/proc/self/maps').read())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_PRELOAD": library},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert library in done.stdout
    assert done.stderr == ""


def test_systemd_reads_the_units(tmp_path):
    """There is nothing in either unit that systemd complains of: no unknown key, no bad value."""
    analyze = tool("systemd-analyze")
    for name in ("mxflex.service", "mxflex.socket"):
        text = (CONTRIB / name).read_text(encoding="utf-8")
        # Where it is installed here.
        text = text.replace("/opt/mxflex/bin/", f"{Path(sys.executable).parent}/")
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", tmp_path / "mxflex.socket", tmp_path / "mxflex.service"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
