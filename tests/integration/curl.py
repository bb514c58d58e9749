"""curl as a client: what it verifies, and which HTTP it speaks, is not of our making."""

from __future__ import annotations

import json

from tests.integration.pebble import HOST, LOOPBACK, Command, need
from tests.integration.streams import parse_events


class Curl:
    """Requests to one daemon, each by a process of its own.

    Args:
        reactor: Where the processes are looked after.
        folder: Where they run.
        port: The port of the daemon, whose name is `HOST`.
        root: A file with the only CA that is trusted.
    """

    def __init__(self, reactor, folder, port, root):
        need("curl")
        self._reactor = reactor
        self._folder = folder
        self._port = port
        self._root = root

    def run(self, version, path, *options):
        """Begin a request and give the `Command`.

        Args:
            version: `--http2` or `--http1.1`.
            path: The path.
            options: More of curl's options.
        """
        return Command(
            self._reactor,
            [
                "curl",
                "--silent",
                "--show-error",
                version,
                "--cacert",
                str(self._root),
                "--resolve",
                f"{HOST}:{self._port}:{LOOPBACK}",
                *options,
                f"https://{HOST}:{self._port}{path}",
            ],
            self._folder,
        )

    async def get(self, version, path, *options):
        """Make a request and give the headers with the body, as text."""
        command = self.run(version, path, "--include", *options)
        status = await command.when_ended()
        assert status == 0, command.output
        return command.output

    async def log_in(self, login, password):
        """Log a user in and give the token."""
        form = ("--data-urlencode", f"login={login}", "--data-urlencode", f"password={password}")
        answer = await self.get("--http1.1", "/api/login", *form)
        return json.loads(answer.rpartition("\r\n\r\n")[2])["access_token"]

    def open_stream(self, version, token, *, in_url=False):
        """Open an event stream, with the token in a header or in the URL; gives `CurlStream`."""
        how = ("--include", "--no-buffer")
        if in_url:
            return CurlStream(self.run(version, f"/api/events?access_token={token}", *how))
        header = ("--header", f"Authorization: Bearer {token}")
        return CurlStream(self.run(version, "/api/events", *how, *header))


class CurlStream:
    """An open event stream.

    Args:
        command: The process that reads it.
    """

    def __init__(self, command):
        self.command = command

    @property
    def events(self):
        """All events that have come, in order."""
        return parse_events(self.command.output.encode().replace(b"\r\n", b"\n"))

    async def when_events(self, count):
        """Wait for so many events since the start of the stream, and give them."""
        assert await self.command.when(lambda: len(self.events) >= count), self.command.output
        return self.events

    async def when_open(self):
        """Wait for the headers."""
        await self.command.when_says("retry: ")
