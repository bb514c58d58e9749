"""The wheel, the source archive and the editable install, each in an environment of its own.

The environments borrow the libraries of the one that runs the tests, so nothing is fetched. MXFlex
itself comes from what was built: python runs isolated (`-I`), so it sees neither the checkout nor
`PYTHONPATH`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import mxflex
from tests.endtoend.place import ACCOUNT
from tests.endtoend.stage import eventually
from tools import archives

ROOT = Path(__file__).parents[2]
VERSION = mxflex.__version__
# The time in archives, in seconds since the epoch.
DATE = 1_700_000_000
# What benchmarks leave behind in a checkout.
MADE_FOLDERS = ("benchmarks/native/build/", "benchmarks/results/")
MADE = ("benchmarks/native/build/load", "benchmarks/results/20260301-full/results.json")
TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"


def run(*arguments, cwd=None):
    """Run a command that must succeed, and give what it wrote."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


class Environment:
    """A virtual environment without MXFlex, beside the libraries of the outer one."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        site = run(self.python, "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))")
        self.site = Path(site.strip())
        # Files named *.pth in the folders that this one names are not read, so an editable install
        # of MXFlex in the outer environment stays out of sight.
        (self.site / "outer.pth").write_text("\n".join(sorted(paths)), encoding="utf-8")

    def pip(self, *arguments):
        """Run the outer pip for this environment, without a network."""
        return run(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def install(self, *what):
        """Install without dependencies: they are there."""
        # Forced, because MXFlex may be visible in the outer environment under the same version.
        self.pip("install", "--no-index", "--no-deps", "--force-reinstall", *what)

    def twistd(self, *arguments):
        """Run twistd in an empty folder."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        return run(self.python, "-Ic", TWISTD, *arguments, cwd=empty)

    def imported(self, name):
        """Give the folder that a module comes from."""
        code = f"import {name}; print({name}.__file__)"
        return Path(run(self.python, "-Ic", code, cwd=self.folder).strip()).parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the source, so that building leaves nothing behind in the real one."""
    folder = tmp_path_factory.mktemp("source") / "mxflex"
    left_out = shutil.ignore_patterns(
        ".[!d]*", "__pycache__", "*.egg-info", "build", "dist", "dropin.cache"
    )
    shutil.copytree(ROOT, folder, ignore=left_out)
    for made in MADE:
        (folder / made).parent.mkdir(parents=True, exist_ok=True)
        (folder / made).write_text("made by a benchmark", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """The wheel and the source archive of a checkout."""
    return archives.build(checkout, tmp_path_factory.mktemp("built"), DATE)


@pytest.fixture(scope="module")
def sdist(built):
    """The source archive."""
    return built[1]


@pytest.fixture(scope="module")
def rebuilt(sdist, tmp_path_factory):
    """The same, built from the source archive: what that lacks is missing here too."""
    folder = tmp_path_factory.mktemp("source-archive")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / f"mxflex-{VERSION}"
    for path in source.rglob("*"):
        os.utime(path)
    (source / "setup.cfg").chmod(0o600)
    return archives.build(source, tmp_path_factory.mktemp("rebuilt"), DATE)


@pytest.fixture(scope="module")
def wheel(rebuilt):
    """The wheel."""
    return rebuilt[0]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel installed."""
    environment = Environment(tmp_path_factory.mktemp("wheel-environment"))
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def editable(checkout, tmp_path_factory):
    """An environment with the checkout installed as editable."""
    environment = Environment(tmp_path_factory.mktemp("editable-environment"))
    environment.install("--no-build-isolation", "--editable", checkout)
    return environment


def files_below(folder, pattern="*"):
    """Give the paths of all files below a folder of the checkout."""
    below = (path for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return {
        str(path.relative_to(ROOT))
        for path in below
        if "__pycache__" not in path.parts and path.name != "dropin.cache"
    }


def test_wheel_holds_what_it_should(wheel):
    """Modules, their data, the page and what share/mxflex has are there; nothing of Twisted's."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    data = f"mxflex-{VERSION}.data/data/share/mxflex/"
    assert names == (
        files_below("mxflex")
        | {"twisted/plugins/mxflex_plugin.py"}
        | {f"{data}mxflex.schema.json", f"{data}mxflex.yaml.sample"}
        | {data + name.removeprefix("contrib/") for name in files_below("contrib")}
        | {data + name for name in files_below("html")}
    )


def test_sdist_holds_what_it_should(sdist):
    """The source archive has all that `make` needs, and nothing that `make` has made."""
    with tarfile.open(sdist) as archive:
        top = f"mxflex-{VERSION}/"
        names = {name.removeprefix(top) for name in archive.getnames()}
    wanted = {"Makefile", "LICENSE", "MANIFEST.in", "pyproject.toml"}
    wanted |= {"mxflex.schema.json", "mxflex.yaml.sample", "Dockerfile", ".dockerignore"}
    folders = ("mxflex", "twisted", "tests", "html", "contrib", "debian", "benchmarks", "tools")
    for folder in folders:
        wanted |= files_below(folder)
    made = {name for name in wanted | names if name.startswith(MADE_FOLDERS)}
    assert wanted - made - names == set()
    assert made & names == set()


def test_the_same_source_gives_the_same_bytes(built, rebuilt):
    """Whoever builds a version gets what was published, wherever, whenever, and as whom."""
    for one, other in zip(built, rebuilt, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


def test_nothing_takes_the_place_of_twisted():
    """Beside the plugin there is no package marker; one would break every twistd."""
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


@pytest.mark.parametrize("command", ["mxflex", "mxsim"])
@pytest.mark.parametrize("kind", ["installed", "editable"])
def test_twistd_knows_the_commands(command, kind, request):
    """Both commands work in any folder, from the wheel and from an editable install."""
    environment = request.getfixturevalue(kind)
    home = environment.site if kind == "installed" else request.getfixturevalue("checkout")
    assert environment.imported("mxflex") == home / "mxflex"
    assert f"  {command} " in environment.twistd("--help")
    assert "--help" in environment.twistd(command, "--help")


def test_files_travel_with_the_wheel(installed):
    """The page, the sample and its schema lie under share/mxflex, as they are in the checkout."""
    share = installed.folder / "share" / "mxflex"
    for name in ("mxflex.yaml.sample", "mxflex.schema.json", *files_below("html")):
        assert (share / name).read_bytes() == (ROOT / name).read_bytes()
    assert (share / "html" / "index.html").is_file()


def test_other_commands_are_left_alone(installed):
    """Another twistd command works, and imports nothing of MXFlex."""
    code = (
        "import atexit, sys; sys.argv = ['twistd', 'web', '--help'];"
        "atexit.register(lambda: print('imported:', *(m for m in sys.modules if 'mxflex.' in m)));"
        "from twisted.scripts.twistd import run; run()"
    )
    output = run(installed.python, "-Ic", code, cwd=installed.folder)
    assert "--listen" in output
    assert output.rstrip().endswith("imported:")


def test_uninstalling_leaves_twisted_whole(wheel, tmp_path):
    """After MXFlex is gone, twistd works and knows it no more."""
    environment = Environment(tmp_path)
    environment.install(wheel)
    assert "  mxflex " in environment.twistd("--help")
    environment.pip("uninstall", "--yes", "mxflex")
    help_text = environment.twistd("--help")
    assert "  mxflex " not in help_text
    assert "  web " in help_text
    assert not list(environment.site.glob("twisted/plugins/mxflex*"))


# --- The steps of docs/deploy.md ------------------------------------------------------------------


def steps_of_the_document():
    """Give the commands that install a wheel as a service, without those that fetch it."""
    document = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    section = document.partition("## From a wheel under systemd")[2].partition("### ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    made, installed_by_pip, preloaded, *steps = lines
    assert made == "python3 -m venv /opt/mxflex"
    assert installed_by_pip == f"/opt/mxflex/bin/pip install mxflex-{VERSION}-py3-none-any.whl"
    assert preloaded == "apt install libjemalloc2"
    # To look at what a running systemd does is left to people.
    assert steps.pop() == "journalctl -u mxflex -f"
    return steps


def in_folder(steps, folder):
    """Give the steps as one script that keeps to a folder in the place of the whole machine."""
    changes = {
        "/opt/": f"{folder}/opt/",
        "/etc/": f"{folder}/etc/",
        "systemd-sysusers": f"systemd-sysusers --root={folder}",
        # The group is in the folder's own /etc/group; only root may give files away.
        "-g mxflex": '-g "$(grep ^mxflex: etc/group | cut -d: -f3)"' if os.getuid() == 0 else "",
        "systemctl enable --now": f"systemctl --root={folder} enable",
    }
    script = "\n".join(["set -e", *steps])
    for old, new in changes.items():
        assert old in script, old
        script = script.replace(old, new)
    return script


def read_unit(path):
    """Give what a unit says in its section about the service: the values of each key."""
    said = {}
    section = path.read_text(encoding="utf-8").partition("[Service]\n")[2].partition("\n[")[0]
    for line in section.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            said.setdefault(key, []).append(value)
    return said


def test_a_service_by_the_steps_of_the_document(installed, place, tmp_path):
    """By the steps of docs/deploy.md a wheel becomes a service that lets people log in."""
    for tool in ("systemd-sysusers", "systemctl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not there")
    root = tmp_path / "root"
    for name in ("etc/systemd/system", "opt", "state"):
        (root / name).mkdir(parents=True)
    (root / "opt" / "mxflex").symlink_to(installed.folder)
    # The environment borrows the libraries, but pip has made no command for them there.
    twistd = installed.folder / "bin" / "twistd"
    twistd.write_text(f"#!{installed.python} -I\n{TWISTD}\n", encoding="utf-8")
    twistd.chmod(0o755)

    place.mxsim()
    password = tmp_path / "typed"
    password.write_text(f"{ACCOUNT['password']}\n", encoding="utf-8")
    script = in_folder(steps_of_the_document(), root).replace("/dev/stdin", str(password))
    # Between the two somebody edits the configuration.
    before, cd, after = script.partition("cd ")
    run("sh", "-c", before, cwd=root)
    assert "mxflex:" in (root / "etc" / "passwd").read_text(encoding="utf-8")
    config = root / "etc" / "mxflex" / "mxflex.yaml"
    text = config.read_text(encoding="utf-8")
    for old, new in (
        ("192.0.2.10", f"127.0.0.1:{place.mx_port}"),
        ("localhost:8080", f"127.0.0.1:{place.port}"),
    ):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    output = run("sh", "-ec", cd + after, cwd=root)
    assert "ok   MX: login of mxflex accepted" in output
    assert "ok   static files" in output
    assert (root / "etc/systemd/system/multi-user.target.wants/mxflex.service").is_symlink()
    # As systemd would start it.
    unit = read_unit(root / "etc" / "systemd" / "system" / "mxflex.service")
    name, source = unit["LoadCredential"][0].split(":")
    assert source == "/etc/mxflex/mx-password"
    words = " ".join(unit["Environment"]).replace("%d/" + name, f"{root}{source}")
    environment = dict(word.split("=", 1) for word in words.replace("%S", f"{root}/state").split())
    command = unit["ExecStart"][0].replace("/etc/", f"{root}/etc/").split()
    command[0] = f"{root}{command[0]}"
    daemon = subprocess.Popen(command, cwd=f"{root}{unit['WorkingDirectory'][0]}", env=environment)
    try:
        eventually(lambda: b"<html" in place.get("/")[2])
        assert place.token()
    finally:
        daemon.terminate()
        daemon.wait(60)


def test_the_versions_agree():
    """The Debian package has the version of MXFlex, and so have the documents that name a file."""
    changelog = (ROOT / "debian" / "changelog").read_text(encoding="utf-8")
    assert changelog.startswith(f"mxflex ({VERSION}) ")
    documents = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    named = [
        (path.name, found)
        for path in documents
        for found in re.findall(r"mxflex[-_](\d[\d.]*\d)[-_.]", path.read_text(encoding="utf-8"))
    ]
    assert named
    assert [each for each in named if each[1] != VERSION] == []
