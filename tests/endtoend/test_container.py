"""The container image: what its Dockerfile says is done, step by step, in a folder.

No container engine is needed, and none is replaced: the commands are those of the Dockerfile, with
the libraries of these tests in the place of those that pip would fetch.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from mxflex import __version__
from mxflex.config import load
from tests.endtoend.place import ACCOUNT
from tests.endtoend.stage import PATIENCE, ROOT, eventually
from tests.ports import LOOPBACK, free_port

DOCKERFILE = ROOT / "Dockerfile"
CONTAINER = ROOT / "contrib" / "container.yaml"
COMPOSE = ROOT / "contrib" / "compose.yaml"
TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
# A process of its own kind in a container: the first one, for which signals are different.
FIRST = ["unshare", "--pid", "--fork", "--mount-proc"]


def instructions():
    """Give what the Dockerfile says: pairs of a word and what stands behind it."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(None, 1)) for line in lines if line and not line.startswith("#")]


def said(word):
    """Give what stands behind this word, each time."""
    return [rest for found, rest in instructions() if found == word]


def environment():
    """Give the variables that the image sets."""
    return dict(pair.split("=", 1) for rest in said("ENV") for pair in shlex.split(rest))


class Image:
    """A folder that holds what the image would.

    Args:
        folder: The folder.
    """

    def __init__(self, folder):
        self.root = folder / "root"
        self.context = folder / "context"
        self.monitor_port = free_port()
        for name in ("etc", "opt", "var/lib", "bin"):
            (self.root / name).mkdir(parents=True)
        for name in ("passwd", "group", "shadow", "gshadow"):
            (self.root / "etc" / name).touch()
        (self.root / "bin" / "python").symlink_to(sys.executable)
        self._copy_context()

    def _copy_context(self):
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
        self.context.mkdir()
        for line in lines:
            if line.startswith("!"):
                source, target = ROOT / line[1:], self.context / line[1:]
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
                    shutil.copytree(source, target, ignore=ignored)
                else:
                    shutil.copy(source, target)

    def inside(self, text):
        """Give a text of the Dockerfile with its paths in the folder, and with the test's port."""
        text = re.sub(r"(?<![\w/])/(opt|etc|var/lib)/", rf"{self.root}/\1/", text)
        return text.replace("9464", str(self.monitor_port))

    def run(self, command):
        """Run a command of the Dockerfile."""
        variables = {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_FORCE_REINSTALL": "1",
        }
        command = self.inside(command).replace("useradd ", f"useradd --prefix {self.root} ")
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.context,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "-m venv" in command:
            self._lend_libraries()

    def _lend_libraries(self):
        home = self.root / "opt" / "mxflex"
        (site,) = (home / "lib").glob("python3*/site-packages")
        # Before Python 3.12 a new environment has a setuptools of its own, which is too old.
        for old in (*site.glob("setuptools*"), *site.glob("_distutils_hack")):
            shutil.rmtree(old)
        for old in site.glob("distutils-precedence.pth"):
            old.unlink()
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "outer.pth").write_text("\n".join(sorted(paths)), encoding="utf-8")
        # Twisted is among the lent ones, so pip makes no command for it.
        twistd = home / "bin" / "twistd"
        twistd.write_text(f"#!{home}/bin/python -I\n{TWISTD}\n", encoding="utf-8")
        twistd.chmod(0o755)

    def build(self):
        """Do what the Dockerfile says, in its order."""
        for word, rest in instructions():
            if word == "RUN" and "apt-get" in rest:
                # The packages are those of the machine.
                continue
            if word == "RUN" and ("useradd" not in rest or os.getuid() == 0):
                self.run(rest)
            elif word == "COPY" and rest.startswith("contrib/"):
                source, target = rest.split()
                target = Path(self.inside(target))
                target.parent.mkdir(exist_ok=True)
                shutil.copy(self.context / source, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """What the image would hold."""
    made = Image(tmp_path_factory.mktemp("image"))
    made.build()
    return made


def test_the_image_runs(image, place):
    """It starts by its own command, is healthy, lets people log in, and stops on SIGTERM."""
    place.mxsim()
    (healthy,) = said("HEALTHCHECK")
    check = json.loads(image.inside(healthy[healthy.index("[") :]))
    (entry,), (command,) = said("ENTRYPOINT"), said("CMD")
    arguments = [image.inside(word) for word in json.loads(entry) + json.loads(command)]
    (password := place.folder / "password").write_text(ACCOUNT["password"], encoding="utf-8")
    own = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    variables = own["services"]["mxflex"]["environment"] | {
        "MXFLEX_HOST": f"{LOOPBACK}:{place.port}",
        "MXFLEX_MX_ADDR": f"{LOOPBACK}:{place.mx_port}",
        "MXFLEX_MX_PASSWORD_FILE": str(password),
    }
    variables |= {name: image.inside(value) for name, value in environment().items()}
    first = FIRST if os.getuid() == 0 else []
    daemon = subprocess.Popen(
        [*first, *arguments], cwd=image.inside(said("WORKDIR")[-1] + "/"), env=variables
    )
    pid = daemon.pid
    try:
        eventually(lambda: b"<html" in place.get("/")[2])
        if first:
            (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split())
        assert subprocess.run(check, check=False).returncode == 0
        assert place.token()
        os.kill(pid, signal.SIGTERM)
        assert daemon.wait(PATIENCE) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    finally:
        if daemon.poll() is None:
            os.kill(pid, signal.SIGKILL)
            daemon.wait(PATIENCE)
    assert subprocess.run(check, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_the_image_writes_nowhere_but_into_its_volume(image):
    """Everything that MXFlex keeps is below the volume, which belongs to the image's own user."""
    (volume,) = json.loads(said("VOLUME")[0])
    settings = load(
        image.context.joinpath("contrib/container.yaml").read_text(encoding="utf-8"),
        "container.yaml",
        {**environment(), "MXFLEX_MX_ADDR": "a", "MXFLEX_MX_LOGIN": "b", "MXFLEX_MX_PASSWORD": "c"},
    )
    assert settings.acme.storage == f"{volume}/certs"
    user, _, group = said("USER")[-1].partition(":")
    assert (user, group) == ("10001", "10001")
    if os.getuid() == 0:
        kept = Path(image.inside(f"{volume}/"))
        stat = kept.stat()
        assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o777) == (10001, 10001, 0o700)
        users = (image.root / "etc" / "passwd").read_text(encoding="utf-8")
        assert users == f"mxflex:x:10001:10001::{image.inside(volume)}:/usr/sbin/nologin\n"


def test_the_context_is_all_that_the_image_needs(image):
    """No secret, test or history gets into the image: what is left in is named one by one."""
    assert not (image.context / ".git").exists()
    assert not (image.context / "tests").exists()
    (site,) = image.root.joinpath("opt/mxflex/lib").glob("python3*/site-packages")
    for path in ROOT.joinpath("mxflex").rglob("*.py"):
        assert (site / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    # Twisted's list of plugins is there, so that no start tries to write it.
    assert (site / "twisted" / "plugins" / "dropin.cache").exists()


def test_compose_fits_the_image():
    """What compose.yaml names of the image is what the image has."""
    document = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    service = document["services"]["mxflex"]
    (volume,) = json.loads(said("VOLUME")[0])
    assert [each.partition(":") for each in service["volumes"]] == [("state", ":", volume)]
    assert set(document["volumes"]) == {"state"}
    assert set(document["secrets"]) == set(service["secrets"]) == {"mx-password"}
    port = said("EXPOSE")[0]
    assert [each.rpartition(":")[2] for each in service["ports"]] == [port]
    assert yaml.safe_load(CONTAINER.read_text(encoding="utf-8")) == {"host": f"0.0.0.0:{port}"}

    assert service["image"] == f"mxflex:{__version__}"


def test_hadolint_finds_no_fault():
    """hadolint, which knows what goes wrong in such files, warns of nothing."""
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not there")
    done = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "warning", DOCKERFILE],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
