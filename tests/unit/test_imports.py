"""The rooms of the house, and which way imports between them may point."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each room may import besides itself and mxflex.errors. `service` puts everything together.
MAY_SEE = {
    "errors": set(),
    "wire": set(),
    "config": set(),
    "requestid": set(),
    "audit": set(),
    "logs": {"config", "requestid"},
    "schema": {"config"},
    "measures": set(),
    "clock": set(),
    "disk": set(),
    "certs": {"disk"},
    "simulator": {"wire"},
    "mx": {"wire", "config", "measures"},
    "gateway": {"wire", "mx", "config", "measures", "disk"},
    "webhooks": {"wire", "mx", "gateway", "config", "measures", "disk"},
    "web": {"wire", "mx", "gateway", "webhooks", "config", "audit", "requestid"},
    "monitor": {"wire", "mx", "gateway", "webhooks", "web", "certs", "measures"},
    "reload": {"audit", "config"},
    "ports": {"config"},
    "process": {"gateway"},
    "changes": {"mx", "gateway", "webhooks", "web", "certs", "config", "reload"},
    "service": {
        *("wire", "mx", "gateway", "webhooks", "web", "certs", "config", "monitor", "reload"),
        *("changes", "clock", "disk", "ports", "process"),
    },
    "demo": {"service", "process", "simulator", "config", "mx", "wire"},
    "check": {"service", "ports", "certs", "config", "mx"},
    "tap": {"service", "demo", "check", "config", "logs", "schema", "reload"},
}

MODULES = sorted((ROOT / "mxflex").rglob("*.py"))


def room_of(name):
    """Give the room of a module's dotted name, or None for mxflex itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


def imports_of(path):
    """Give (dotted name, whether at module level) for every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from mxflex import errors` names a module, `from mxflex.errors import X` a thing.
            yield from ((f"{node.module}.{alias.name}", top) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    """A module sees its own room, the errors, and the rooms below; nothing else of MXFlex."""
    room = path.relative_to(ROOT / "mxflex").with_suffix("").parts[0]
    if room == "__init__":
        assert not list(imports_of(path))
        return
    seen = {room_of(name) for name, _ in imports_of(path) if name.split(".")[0] == "mxflex"}
    # `from mxflex import __version__` is for everyone.
    allowed = MAY_SEE[room] | {room, "errors", "__version__"}
    # Nothing stands below the errors.
    assert seen <= (allowed if room != "errors" else set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_wire_knows_no_twisted(path):
    """The core of the protocol does no input or output, and configuration and errors do none."""
    room = path.relative_to(ROOT / "mxflex").with_suffix("").parts[0]
    if room in ("wire", "errors", "config"):
        banned = {"twisted", "socket", "ssl", "asyncio", "time", "logging", "threading"}
        assert not banned & {name.split(".")[0] for name, _ in imports_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_reactor_is_an_argument(path):
    """Only a command's own module imports the global reactor, and only inside a function."""
    levels = [top for name, top in imports_of(path) if name == "twisted.internet.reactor"]
    assert levels == [] or (path.name == "tap.py" and True not in levels)


def test_the_plugin_imports_no_mxflex():
    """Every other twistd command reads the plugin too, and should not import MXFlex for that."""
    plugin = ROOT / "twisted" / "plugins" / "mxflex_plugin.py"
    assert {name.split(".")[0] for name, _ in imports_of(plugin)} == {"twisted"}
