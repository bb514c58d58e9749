"""Real reverse proxies in front of a daemon, each with its file from contrib."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mxflex.simulator.certificate import Certificate
from tests.integration.pebble import HOST, PATIENCE, Command, need
from tests.ports import LOOPBACK, free_port

CONTRIB = Path(__file__).parents[2] / "contrib"


class Proxy:
    """A reverse proxy that runs; its files differ from those in contrib by names and ports alone.

    Args:
        reactor: Where its process is looked after.
        folder: A folder of its own.
        upstream: The port of the daemon.
        changes: Further texts of the file from contrib, and what to put in their place.

    Attributes:
        port: Its port for HTTPS.
        plain_port: Its port for HTTP; None if it has none here.
        root: The only CA that its clients need to trust.
        process: Its process, once it runs.
    """

    command: str
    file: str
    arguments: tuple[str, ...] = ()
    # What the tests have elsewhere, as `{name}` of what `_places` gives.
    changes: ClassVar[dict[str, str]]

    def __init__(self, reactor, folder, upstream, **changes):
        need(self.command)
        folder.mkdir()
        self._reactor = reactor
        self._folder = folder
        self._upstream = upstream
        self._more = changes
        self.port, self.plain_port, self.admin_port = (free_port() for _ in range(3))
        self.root = folder / "certificate.pem"
        self._key = folder / "certificate.pem.key"
        self.process = None
        made = Certificate.issue(HOST, HOST)
        key = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.root.write_bytes(made.pem)
        self._key.write_bytes(key)
        (folder / "both.pem").write_bytes(made.pem + key)

    def _configuration(self):
        text = (CONTRIB / self.file).read_text(encoding="utf-8")
        places = {
            "folder": self._folder,
            "port": self.port,
            "plain_port": self.plain_port,
            "admin_port": self.admin_port,
        }
        changes: ClassVar = {
            **{old: new.format_map(places) for old, new in self.changes.items()},
            "127.0.0.1:8080": f"{LOOPBACK}:{self._upstream}",
            **self._more,
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        return text.replace("crm.example.com", HOST)

    def _write(self):
        (self._folder / self.file).write_text(self._configuration(), encoding="utf-8")

    def _run(self, *arguments):
        home = {name: str(self._folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        return Command(self._reactor, [self.command, *arguments], self._folder, **home)

    async def start(self):
        """Start it, and wait until it listens."""
        self._write()
        self.process = self._run(*self.arguments)
        await self._when_listening()

    async def _when_listening(self):
        # nginx says nothing when it is ready.
        end = self._reactor.seconds() + PATIENCE
        while not await deferToThread(_listens, self.port):
            assert not self.process.ended, self.process.output
            assert self._reactor.seconds() < end, self.process.output
            await deferLater(self._reactor, 0.02)

    async def reload(self):
        """Let it read its file again, which names another port; wait until that is there."""
        self.port = free_port()
        self._write()
        await self._tell_to_reload()
        await self._when_listening()

    async def _tell_to_reload(self):
        raise NotImplementedError

    async def stop(self):
        """End it at once. Idempotent."""
        if self.process is not None:
            await self.process.stop()


def _listens(port):
    try:
        socket.create_connection((LOOPBACK, port), 1).close()
    except OSError:
        return False
    return True


class Nginx(Proxy):
    """nginx, with what Debian's own nginx.conf says around the file."""

    command = "nginx"
    file = "nginx.conf"
    arguments = ("-p", ".", "-c", "around.conf")
    changes: ClassVar = {
        "listen 80;": "listen 127.0.0.1:{plain_port};",
        "    listen [::]:80;\n": "",
        "listen 443 ssl http2;": "listen 127.0.0.1:{port} ssl http2;",
        "    listen [::]:443 ssl http2;\n": "",
        "/etc/ssl/crm.example.com.pem": "{folder}/certificate.pem",
        "/etc/ssl/private/crm.example.com.key": "{folder}/certificate.pem.key",
        "/var/log/nginx": "{folder}",
    }

    def _write(self):
        super()._write()
        temporary = "\n".join(
            f"{kind}_temp_path {self._folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.getuid() == 0 else ""
        (self._folder / "around.conf").write_text(
            f"{user} daemon off; worker_processes 2; pid {self._folder}/pid;\n"
            f"error_log {self._folder}/error.log;\nevents {{ worker_connections 768; }}\n"
            f"http {{ sendfile on; tcp_nopush on; gzip on; {temporary}\n"
            f"access_log {self._folder}/access.log;\n"
            f"include {self._folder}/{self.file}; }}\n",
            encoding="utf-8",
        )

    async def _tell_to_reload(self):
        self.process.signal("HUP")

    @property
    def log(self):
        """What it has written about requests and troubles."""
        return "".join(
            (self._folder / name).read_text(encoding="utf-8")
            for name in ("mxflex.log", "access.log", "error.log")
        )


class HAProxy(Proxy):
    """HAProxy, with a master process as systemd runs it."""

    command = "haproxy"
    file = "haproxy.cfg"
    arguments = ("-W", "-f", "haproxy.cfg")
    changes: ClassVar = {
        # Its lines come where the test can read them.
        "log /dev/log local0": "log stdout format raw local0",
        "    user haproxy\n    group haproxy\n": "",
        # What a service may open is more than what a test may.
        "maxconn 25000": "maxconn 100",
        "bind :80": "bind 127.0.0.1:{plain_port}",
        "bind :443": "bind 127.0.0.1:{port}",
        "/etc/haproxy/crm.example.com.pem": "{folder}/both.pem",
    }

    async def _tell_to_reload(self):
        self.process.signal(signal.SIGUSR2)

    @property
    def log(self):
        """What it has written about requests and troubles."""
        return self.process.output


class Caddy(Proxy):
    """Caddy, with a certificate that is there, as the CAs of the world cannot reach it here."""

    command = "caddy"
    file = "Caddyfile"
    arguments = ("run", "--config", "Caddyfile", "--adapter", "caddyfile")
    changes: ClassVar = {
        "\ncrm.example.com {\n": (
            "\n{{\n\tadmin localhost:{admin_port}\n\tauto_https disable_redirects\n}}\n\n"
            "https://crm.example.com:{port} {{\n\tbind 127.0.0.1\n"
            "\ttls {folder}/certificate.pem {folder}/certificate.pem.key\n"
        ),
    }

    def __init__(self, *arguments, **changes):
        super().__init__(*arguments, **changes)
        self.plain_port = None

    async def _tell_to_reload(self):
        reloading = self._run(
            "reload",
            *("--config", "Caddyfile", "--adapter", "caddyfile"),
            *("--address", f"localhost:{self.admin_port}"),
        )
        assert await reloading.when_ended() == 0, reloading.output

    @property
    def log(self):
        """What it has written about requests and troubles."""
        return self.process.output
