"""Inputs from files, without atheris: `python -m fuzz.replay TARGET FILE...`.

The first one that breaks the promise ends it with a traceback.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Check the files one after the other."""
    target, *files = sys.argv[1:]
    harness = importlib.import_module(f"fuzz.{target}")
    for name in files:
        sys.stderr.write(f"{name}\n")
        harness.check(Path(name).read_bytes())


if __name__ == "__main__":
    main()
