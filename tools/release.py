"""Makes what is published of a version, and tries it: `make release`.

    python -m tools.release [FOLDER]

In the folder are then the wheel, the source archive, the versions of the libraries that they were
tried with (constraints), a bill of materials of these (CycloneDX), and the checksums of all that.
It needs a network, for the libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mxflex import __version__
from tools.archives import ROOT, build, source_date

LOOPBACK = "127.0.0.1"
# Whatever the smoke test waits for comes within so many seconds.
PATIENCE = 60.0
SERVER = {"login": "mxflex", "password": "swordfish"}
ANNA = {"login": "anna", "password": "secret"}
SCENARIO = {"company": {"server": SERVER}, "users": [{"ext": "3095", **ANNA}]}


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command, which must succeed, and give what it says."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True)  # noqa: S603 - all of it is ours
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)  # noqa: T201


def export(folder: Path) -> Path:
    """Give a folder with what is committed, and nothing else."""
    source = folder / "source"
    archive = subprocess.run(
        ["git", "archive", "HEAD"],  # noqa: S607 - the developer's own
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as opened:
        opened.extractall(source, filter="data")
    return source


def build_twice(source: Path, folder: Path) -> list[Path]:
    """Build the archives, and once more elsewhere; whoever builds them must get the same bytes."""
    date = source_date(ROOT)
    first, second = (build(source, folder / name, date) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        if one.read_bytes() != other.read_bytes():
            sys.exit(f"{one.name} is not the same when it is built again")
    return first


class Environment:
    """A clean virtual environment, without pip, with nothing in it but the wheel and its libraries.

    Args:
        folder: Where it is made.
        wheel: The wheel.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._folder = folder
        self.bin = folder / "bin"
        self.share = folder / "share" / "mxflex"
        venv.create(folder, with_pip=False, symlinks=True)
        self._pip("install", "--quiet", wheel)
        # Where the wheel lay on this machine.
        for path in folder.glob("lib/python3*/site-packages/mxflex-*.dist-info/direct_url.json"):
            path.unlink()
        self._pip("check")

    def _pip(self, *arguments: object) -> str:
        python = self.bin / "python"
        return run(sys.executable, "-m", "pip", "--python", python, *arguments)

    def constraints(self) -> str:
        """Give the versions of all libraries, in the form of `pip install --constraint`."""
        lines = self._pip("freeze", "--all", "--exclude", "mxflex").splitlines()
        builder = f"# The archives were built with setuptools {version('setuptools')}."
        return "\n".join(["# What this version was tried with.", builder, *lines, ""])

    def materials(self, target: Path) -> None:
        """Write the bill of materials."""
        tool = Path(sys.executable).with_name("cyclonedx-py")
        how = ("--output-reproducible", "--validate")
        run(tool, "environment", *how, "--output-file", target, self.bin / "python")
        named = {part["name"].lower() for part in json.loads(target.read_bytes())["components"]}
        if not {"mxflex", "twisted", "cryptography"} <= named:
            sys.exit(f"{target.name} does not name what is in use: {sorted(named)}")
        if str(self._folder.parent) in target.read_text(encoding="utf-8"):
            sys.exit(f"{target.name} tells where it was made")

    @contextlib.contextmanager
    def running(self, *arguments: str, cwd: Path) -> Iterator[None]:
        """Run a command of twistd as long as the block lasts; it must end in order."""
        command = [str(self.bin / "twistd"), "--nodaemon", "--pidfile=", *arguments]
        with (cwd / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - ours
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)
        text = (cwd / f"{arguments[0]}.log").read_text(encoding="utf-8")
        if "Traceback" in text or " critical " in text:
            sys.exit(text)


def free_port() -> int:
    """Give a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def when_listening(port: int) -> None:
    """Wait until somebody listens at the port."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((LOOPBACK, port)).close()
        except OSError:
            if time.monotonic() > end:
                sys.exit(f"nobody listens at port {port}")
            time.sleep(0.1)
        else:
            return


def smoke_test(environment: Environment, folder: Path) -> None:
    """Check a configuration, and let somebody log in and read the address book."""
    port, mx_port = free_port(), free_port()
    folder.mkdir()
    (folder / "scenario.json").write_text(json.dumps(SCENARIO), encoding="utf-8")
    settings = {
        "host": f"{LOOPBACK}:{port}",
        "html": str(environment.share / "html"),
        "mx": {"addr": f"{LOOPBACK}:{mx_port}", **SERVER},
    }
    (folder / "mxflex.yaml").write_text(json.dumps(settings), encoding="utf-8")
    mxsim = ("mxsim", "--port", str(mx_port), "--scenario", "scenario.json")
    with environment.running(*mxsim, cwd=folder):
        when_listening(mx_port)
        say(run(environment.bin / "twistd", "mxflex", "--check-config", cwd=folder).rstrip())
        with environment.running("mxflex", cwd=folder):
            when_listening(port)
            fields = urllib.parse.urlencode(ANNA).encode("ascii")
            url = f"http://{LOOPBACK}:{port}"
            with urllib.request.urlopen(f"{url}/api/login", fields, PATIENCE) as answer:  # noqa: S310 - http
                token = json.load(answer)["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            asked = urllib.request.Request(f"{url}/api/contacts", headers=headers)  # noqa: S310 - http
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:  # noqa: S310 - http
                json.load(answer)
            with urllib.request.urlopen(f"{url}/", timeout=PATIENCE) as answer:  # noqa: S310 - http
                if b"<html" not in answer.read():
                    sys.exit("there is no page")


def objections() -> list[str]:
    """Give why this may be tried, and not be published."""
    found = []
    if run("git", "status", "--porcelain", cwd=ROOT):
        found.append("there are changes that are not committed; they are not in it")
    if f"v{__version__}" not in run("git", "tag", "--points-at", "HEAD", cwd=ROOT).split():
        found.append(f"the commit has no tag v{__version__}")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"## [{__version__}] - unreleased" in changelog:
        found.append("CHANGELOG.md has no date for this version")
    return found


def release(target: Path) -> None:
    """Make everything, and try it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("building, twice")
        archives = build_twice(export(folder), folder)
        say(run(sys.executable, "-m", "twine", "check", "--strict", *archives).rstrip())
        say("installing into a clean environment")
        environment = Environment(folder / "environment", archives[0])
        smoke_test(environment, folder / "smoke")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        made = [Path(shutil.copy(archive, target)) for archive in archives]
        constraints = target / f"mxflex-{__version__}.constraints.txt"
        constraints.write_text(environment.constraints(), encoding="utf-8")
        materials = target / f"mxflex-{__version__}.cdx.json"
        environment.materials(materials)
    made += [constraints, materials]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made]
    (target / "SHA256SUMS").write_text("".join(sums), encoding="ascii")
    say("\n" + "".join(sums))
    for objection in objections():
        say(f"not to be published: {objection}")


if __name__ == "__main__":
    os.umask(0o022)
    release(Path(*sys.argv[1:] or ["dist"]).resolve())
