"""One harness under atheris: `python -m fuzz.engine TARGET [libFuzzer's arguments]`.

https://llvm.org/docs/LibFuzzer.html#options lists the arguments.
"""

from __future__ import annotations

import importlib
import shlex
import sys

import atheris


def main() -> None:
    """Run until something is found, or as long as the arguments say."""
    target, *arguments = sys.argv[1:]
    # What coverage is measured of has to be imported here for the first time.
    with atheris.instrument_imports(include=["mxflex", "yaml"]):
        harness = importlib.import_module(f"fuzz.{target}")
    # To merge and to minimize, libFuzzer starts itself again: it gives the first word to a shell.
    command = shlex.join([sys.executable, "-m", "fuzz.engine", target])
    atheris.Setup([command, *arguments], harness.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
