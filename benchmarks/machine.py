"""What a reader of figures must know about where they come from."""

from __future__ import annotations

import datetime as dt
import os
import platform
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mxflex
from benchmarks.processes import BenchmarkError, run

_PACKAGES = ("nginx", "libnginx-mod-nchan")


def say(text: str) -> None:
    """Tell whoever watches how far we are."""
    sys.stderr.write(text + "\n")


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM end this program as Ctrl-C does, so that what it has started ends with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def describe_machine() -> dict[str, Any]:
    """Give what a reader of the figures must know about where they come from."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "began": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
        "processor": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {
            **{name: version(name) for name in ("mxflex", "Twisted", "klein", "orjson")},
            **{name: package for name in _PACKAGES if (package := _package(name))},
        },
        # Others on the machine make every figure worse, and the ratios less sure.
        "load_before": os.getloadavg()[0],
    }


def _package(name: str) -> str:
    """Give the version of a package of Debian; "" where there is none, or no Debian."""
    try:
        return run(["dpkg-query", "--show", "--showformat=${Version}", name], Path.cwd())
    except BenchmarkError:
        return ""


def _commit() -> str:
    """Give the commit of the MXFlex that is measured, marked where files differ from it."""
    git = ["git", "-C", str(Path(mxflex.__file__).parent), "describe", "--always", "--dirty"]
    try:
        return run(git, Path.cwd()).strip()
    except BenchmarkError:
        # Installed from an archive.
        return ""


def assert_same_mxflex(folder: Path) -> None:
    """Make sure that `twistd` runs the MXFlex that this package uses and names in the results.

    Started from a checkout, Python takes the modules from there; `twistd` takes the installed ones.

    Raises:
        BenchmarkError: It would run another one.
    """
    code = "import mxflex; print(mxflex.__file__)"
    installed = run([sys.executable, "-P", "-c", code], folder).strip()
    if not Path(installed).samefile(mxflex.__file__):
        raise BenchmarkError(f"installed is {installed}, but this is {mxflex.__file__}")
