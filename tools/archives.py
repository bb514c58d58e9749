"""Builds the wheel and the source archive: `make dist`. The same source gives the same bytes.

    python -m tools.archives [FOLDER]

The time in them is SOURCE_DATE_EPOCH, or else that of the last commit. What also decides is the
version of setuptools.
"""

from __future__ import annotations

import copy
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
# As far as an archive of the zip format can go back (1980-01-01).
OLDEST = 315_532_800
# What building leaves behind in a source folder. A leftover build/ would put deleted modules back.
LEFTOVERS = ("build", "mxflex.egg-info")


def source_date(source: Path) -> int:
    """Give the time that goes into archives, in seconds since the epoch."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not said:
        done = subprocess.run(
            ["git", "log", "-1", "--format=%ct"],  # noqa: S607 - the developer's own
            cwd=source,
            check=False,
            capture_output=True,
            text=True,
        )
        said = done.stdout.strip() or str(int(time.time()))
    return max(OLDEST, int(said))


def build(source: Path, target: Path, date: int) -> list[Path]:
    """Build both archives.

    Args:
        source: The folder with setup.cfg. It stays as it is.
        target: Where the archives go.
        date: The time that goes into them, in seconds since the epoch.

    Returns:
        The wheel and the source archive.
    """
    target = target.resolve()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "mxflex")
        left_out = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "dist", *LEFTOVERS)
        shutil.copytree(source, place, ignore=left_out)
        _settle_modes(place)
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(date)}
        for kind in ("wheel", "sdist"):
            done = subprocess.run(  # noqa: S603 - our own build
                [sys.executable, "-c", BUILD.format(kind=kind), str(target)],
                cwd=place,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
    (wheel,), (sdist,) = target.glob("mxflex-*.whl"), target.glob("mxflex-*.tar.gz")
    _settle_archive(sdist, date)
    return [wheel, sdist]


def _settle_modes(folder: Path) -> None:
    """Give files the modes that git knows, whatever the umask of the checkout was."""
    for path in folder.rglob("*"):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)


def _settle_archive(path: Path, date: int) -> None:
    """Write a .tar.gz anew, without the times, users and order of this machine."""
    packed = io.BytesIO()
    with (
        tarfile.open(path) as old,
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=date) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            settled = copy.copy(member)
            settled.mtime, settled.uid, settled.gid = date, 0, 0
            settled.uname = settled.gname = ""
            settled.pax_headers = {}
            new.addfile(settled, old.extractfile(member) if member.isfile() else None)
    path.write_bytes(packed.getvalue())


if __name__ == "__main__":
    for made in build(ROOT, Path(*sys.argv[1:] or ["dist"]), source_date(ROOT)):
        print(made.name)  # noqa: T201
