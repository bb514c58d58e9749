"""Renews the viewer of the OpenAPI document from npm: `make viewer`.

What it writes into mxflex/web/viewer: the minified script, the licences of all that is in it,
and viewer.json, which says what it is and where it comes from.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "openapi-explorer"
SCRIPT = "dist/browser/openapi-explorer.min.js"
FOLDER = Path(__file__).parents[1] / "mxflex" / "web" / "viewer"
RULE = "=" * 78


def run(folder: Path, *command: str) -> str:
    """Run a command, which must succeed, and give what it says."""
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - all of it is ours
    return done.stdout


def fetch(folder: Path, wanted: str) -> dict[str, str]:
    """Put the package into a folder, and give its name, version and integrity."""
    (packed,) = json.loads(run(folder, "npm", "pack", "--json", f"{PACKAGE}@{wanted}"))
    archive = folder / packed["filename"]
    digest = hashlib.sha512(archive.read_bytes()).digest()
    integrity = f"sha512-{base64.b64encode(digest).decode('ascii')}"
    if integrity != packed["integrity"]:
        sys.exit(f"{archive.name} is not what the registry says it is")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return {"name": PACKAGE, "version": packed["version"], "integrity": integrity}


def licences(folder: Path, version: str) -> str:
    """Give the licences of the package and of all that may be bundled in its script."""
    command = ("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
    run(folder, *command, "--omit=dev", f"{PACKAGE}@{version}")
    parts = []
    for description in sorted((folder / "node_modules").glob("**/package.json")):
        package = json.loads(description.read_text(encoding="utf-8"))
        # Other files of that name, deeper in a package, describe none.
        if "name" not in package or "version" not in package:
            continue
        texts = [
            path.read_text(encoding="utf-8").strip()
            for path in sorted(description.parent.iterdir())
            if path.name.lower().startswith(("license", "licence", "notice")) and path.is_file()
        ]
        stated = package.get("license", "see below")
        parts.append("\n\n".join([f"{package['name']} {package['version']}: {stated}", *texts]))
    # The package itself first.
    parts.sort(key=lambda part: not part.startswith(f"{PACKAGE} "))
    return f"\n\n{RULE}\n\n".join(parts) + "\n"


def main() -> None:
    """Renew the viewer: to the newest version, or the one that is named."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "latest"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        record = fetch(folder, wanted)
        script = (folder / "package" / SCRIPT).read_bytes()
        terms = licences(folder, record["version"])
    record |= {"file": SCRIPT, "sha256": hashlib.sha256(script).hexdigest()}
    FOLDER.joinpath(Path(SCRIPT).name).write_bytes(script)
    FOLDER.joinpath("LICENSES.txt").write_text(terms, encoding="utf-8")
    FOLDER.joinpath("viewer.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{PACKAGE} {record['version']}\n")


if __name__ == "__main__":
    main()
