"""A real ACME server for tests: Debian's `pebble`, and the name server that it asks.

Both run as processes on loopback. Pebble gives certificates of its own CA, which is new at each
start, after it has fetched the challenge as any CA does.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import urllib.request

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThread

from mxflex.simulator.certificate import Certificate
from tests.ports import LOOPBACK, free_port

# Every name leads to loopback for pebble, so any will do that is no name of loopback to MXFlex.
HOST = "mx.example.test"
# Whatever a test waits for comes within this time, in seconds, or the test fails.
PATIENCE = 20.0
# As hard as pebble can be: no authorization is used twice, and most nonces are refused.
SEVERE = {"PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "60", "PEBBLE_VA_NOSLEEP": "1"}


def need(*commands):
    """Skip the test where one of these commands is missing."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")


class Command(ProcessProtocol):
    """A process, and what it writes.

    Args:
        reactor: Where it is looked after.
        arguments: The command, found along PATH, and its arguments.
        folder: Where it runs.
        environment: Variables added to those of the tests.

    Attributes:
        output: Everything it has written to standard output and standard error, as text.
        ended: Whether it has ended.
        status: Its exit status, or the negative number of the signal, once it has.
    """

    def __init__(self, reactor, arguments, folder, **environment):
        self.output = ""
        self.ended = False
        self.status = None
        self._reactor = reactor
        self._waiters = []
        self._process = reactor.spawnProcess(
            self,
            shutil.which(arguments[0]),
            arguments,
            env={**os.environ, **environment},
            path=str(folder),
        )

    def outReceived(self, data):
        self.output += data.decode("utf-8", "replace")
        self._settle()

    errReceived = outReceived

    def processEnded(self, reason):
        self.ended = True
        how = reason.value
        self.status = -how.signal if how.exitCode is None else how.exitCode
        self._settle()

    def _settle(self):
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    async def when(self, condition, patience=PATIENCE):
        """Wait until something holds of this process; tell whether it does."""
        deadline = self._reactor.seconds() + patience
        while not condition() and not self.ended:
            waiter = Deferred()
            self._waiters.append(waiter)
            waiter.addTimeout(max(0, deadline - self._reactor.seconds()), self._reactor)
            await waiter
        return condition()

    async def when_says(self, words, count=1, patience=PATIENCE):
        """Wait until it has written these words so many times; the test fails when it ends."""
        assert await self.when(lambda: self.output.count(words) >= count, patience), self.output

    async def when_ended(self):
        """Wait for its end and give its exit status."""
        await self.when(lambda: self.ended)
        return self.status

    def signal(self, name):
        """Send it a signal."""
        self._process.signalProcess(name)

    async def stop(self, signal="TERM"):
        """End it, and wait for that. Idempotent."""
        if not self.ended:
            self.signal(signal)
            await self.when_ended()


class Pebble:
    """The CA, with its own certificate, its configuration and its ports.

    Args:
        reactor: Where its processes are looked after.
        folder: A folder of its own, which need not be there.
        validity: Seconds that its certificates are valid.
        binding: Key identifier and base64url secret of the external account binding that it wants.
        environment: Variables for pebble, over `SEVERE`.

    Attributes:
        http_port: Where it looks for challenges.
        directory: The URL of its directory.
        ca_file: The CA of its own certificate, which is not the one whose certificates it gives.
    """

    def __init__(self, reactor, folder, *, validity=86_400, binding=None, **environment):
        need("pebble", "pebble-challtestsrv")
        self._reactor = reactor
        self._folder = folder
        self._environment = SEVERE | environment
        self._dns_port = free_port()
        self._management_port = free_port()
        self._names = None
        self._server = None
        self.http_port = free_port()
        port = free_port()
        self.directory = f"https://localhost:{port}/dir"
        folder.mkdir()
        authority = Certificate.authority("Test CA of the CA")
        own = Certificate.issue("pebble", "localhost", LOOPBACK, issuer=authority)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(authority.pem)
        (folder / "own.pem").write_bytes(own.pem)
        (folder / "own.key").write_bytes(
            own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        settings = {
            "listenAddress": f"{LOOPBACK}:{port}",
            "managementListenAddress": f"{LOOPBACK}:{self._management_port}",
            "certificate": "own.pem",
            "privateKey": "own.key",
            "httpPort": self.http_port,
            "tlsPort": free_port(),
            "ocspResponderURL": "",
            "certificateValidityPeriod": validity,
            "externalAccountBindingRequired": binding is not None,
            "externalAccountMACKeys": dict([binding] if binding else []),
        }
        (folder / "config.json").write_text(json.dumps({"pebble": settings}), encoding="utf-8")

    async def start(self):
        """Start it, and wait until it serves."""
        if self._names is None:
            flags = ("-dns01", f"{LOOPBACK}:{self._dns_port}", "-defaultIPv4", LOOPBACK)
            flags += ("-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "")
            flags += ("-management", f"{LOOPBACK}:{free_port()}")
            self._names = self._command("pebble-challtestsrv", *flags)
            await self._names.when_says("Starting management server")
        flags = ("-config", "config.json", "-dnsserver", f"{LOOPBACK}:{self._dns_port}")
        self._server = self._command("pebble", *flags, **self._environment)
        await self._server.when_says("ACME directory available at")
        await self._when_listening()

    def _command(self, *arguments, **environment):
        return Command(self._reactor, arguments, self._folder, **environment)

    async def _when_listening(self):
        # It speaks before it listens.
        for _ in range(200):
            try:
                return await deferToThread(self._fetch_root)
            except OSError:
                continue
        raise AssertionError("pebble does not listen")

    def _fetch_root(self):
        context = ssl.create_default_context(cafile=str(self.ca_file))
        url = f"https://localhost:{self._management_port}/roots/0"
        with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as response:
            return response.read()

    async def root(self):
        """Give a file with the CA whose certificates it gives at present."""
        path = self._folder / "root.pem"
        path.write_bytes(await deferToThread(self._fetch_root))
        return path

    async def stop(self):
        """End it, but not its name server."""
        if self._server is not None:
            await self._server.stop()

    async def close(self):
        """End everything."""
        await self.stop()
        if self._names is not None:
            await self._names.stop()

    @property
    def server(self):
        """The process, whose output is its log."""
        return self._server

    @property
    def requests(self):
        """How many requests have come since it was started."""
        return self._server.output.count("calling handler()")

    def settings(self, storage, **acme):
        """Give keys of a configuration for a daemon that gets its certificate here.

        Args:
            storage: The folder for certificate and keys.
            acme: More keys of the section `acme`.
        """
        return {
            "host": HOST,
            "listen_http": [f"tcp:{self.http_port}:interface={LOOPBACK}"],
            "acme": {
                "directory": self.directory,
                "ca_file": str(self.ca_file),
                "storage": str(storage),
                **acme,
            },
        }
