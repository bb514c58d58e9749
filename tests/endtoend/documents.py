"""What stands in the documents to be run, and the place where it is run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import urllib.request

import pytest

from tests.endtoend.stage import HTML, PATIENCE, ROOT, TWISTD, Daemon, eventually
from tests.ports import LOOPBACK, free_port


def fenced(name, language):
    """Give the fenced blocks of a document in one language."""
    text = (ROOT / name).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def indented(name):
    """Give the indented blocks of a document, in order."""
    text = (ROOT / name).read_text("utf-8")
    # A list goes on by indented lines, too; none of ours has a command there.
    blocks = re.findall(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", text)
    return [
        "".join(line[4:] or "\n" for line in block.splitlines(keepends=True)) for block in blocks
    ]


def commands(name):
    """Give the commands of a document, each with the lines that it goes on with."""
    found = []
    for block in indented(name):
        # A quotation that is open, a pipe or a backslash at its end: the next line belongs to it.
        command = ""
        for line in block.splitlines():
            command += line + "\n"
            if not line.endswith(("\\", "|")):
                found.append(command)
                command = ""
    starts = re.compile(r"(?:curl|[A-Z]+=\$\()")
    return [command for command in found if starts.match(command)]


class Demo:
    """`twistd mxflex --demo --quiet --control`, at ports of a test's own, until the block ends.

    Args:
        folder: Where it runs.
        settings: Further variables of its environment.

    Attributes:
        settings: The same.
        port: The port of MXFlex.
        control: The port of the control API.
        crm: The port of the site that may call it, at which nobody listens yet.
    """

    def __init__(self, folder, **settings):
        self.folder = folder
        self.settings = settings
        self.port, self.control, self.crm = free_port(), free_port(), free_port()
        self._daemon = None
        (folder / "html").symlink_to(HTML)

    def place(self, text):
        """Give a text of the documents with our ports in the place of theirs."""
        for told, ours in (("8080", self.port), ("7780", self.control), ("8000", self.crm)):
            text = re.sub(rf"(?<=localhost:|127.0.0.1:){told}\b", str(ours), text)
            text = re.sub(rf"(?<=tcp:){told}\b", str(ours), text)
        return text

    def __enter__(self):
        self._daemon = Daemon(
            self.folder,
            "mxflex",
            "--demo",
            "--quiet",
            "--control",
            f"tcp:{self.control}",
            MXFLEX_HOST=f"localhost:{self.port}",
            MXFLEX_CORS=f"http://localhost:{self.crm}",
            **self.settings,
        )
        with contextlib.ExitStack() as undo:
            undo.push(self._daemon)
            eventually(lambda: "address book read" in self._daemon.output)
            undo.pop_all()
        return self

    def __exit__(self, *arguments):
        self._daemon.__exit__(*arguments)

    def ask(self, path, body=None):
        """Make a request to the control API and give the answer's text."""
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.control}{path}",
            data=None if body is None else body.encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.read().decode()

    def environment(self, **more):
        """Give the environment of a command, where `twistd` is that of the tests."""
        path = os.pathsep.join([str(TWISTD.parent), os.environ["PATH"]])
        return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | more

    def shell(self, script, **variables):
        """Begin a script of the documents in bash, with its output in a pipe."""
        if shutil.which("curl") is None:
            pytest.skip("there is no curl")
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", self.place(script)],
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # It and what it has begun are ended as one.
            start_new_session=True,
        )
