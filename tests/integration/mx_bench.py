"""The MX side of the daemon alone, over real TLS on loopback ports, against simulated MXs."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from mxflex import config, service
from mxflex.mx.backoff import Backoff
from mxflex.mx.link import ServerLink
from mxflex.mx.session import Dialer
from mxflex.mx.tls import PeerPolicy
from mxflex.mx.verify import LoginCheck
from mxflex.simulator.server import SimulatedMX
from tests.integration.daemons import CapturedLog
from tests.integration.leftovers import Leftovers
from tests.ports import free_port

# Whatever a test waits for comes within this time, in seconds, or the test fails.
PATIENCE = 15.0

SERVER_LOGIN = SERVER_PASSWORD = "mxflex"


class MXBench:
    """Makes simulators, links and login checks for one test, and takes them away again.

    Args:
        reactor: Where they run.

    Attributes:
        log: What was logged since the test began.
    """

    def __init__(self, reactor):
        self.reactor = reactor
        self.log = CapturedLog()
        globalLogPublisher.addObserver(self.log)
        self._leftovers = Leftovers(reactor)
        self._simulators = []
        self._links = []

    async def simulator(self, **arguments):
        """Give a simulated MX that listens."""
        mx = SimulatedMX(self.reactor, **arguments)
        self._simulators.append(mx)
        await mx.listen(free_port())
        return mx

    def dialer(self, mx, *, timeout=5.0, keepalive=30.0, clear_password=True, host=None, **policy):
        """Give a dialer for an MX; further arguments go to its `PeerPolicy`."""
        host = host or mx.address[0]
        return Dialer(
            reactor=self.reactor,
            host=host,
            port=mx.address[1],
            policy=PeerPolicy(host, **policy),
            timeout=timeout,
            keepalive=keepalive,
            clear_password=clear_password,
        )

    def configured_dialer(self, mx, **keys):
        """Give the dialer that the daemon makes of these keys of the section `mx`."""
        host, port = mx.address
        section = {"addr": f"{host}:{port}", "login": "mxflex", "password": "mxflex", **keys}
        text = "mx:\n" + "".join(f"  {key}: {value}\n" for key, value in section.items())
        return service.make_dialer(config.load(text, "test.yaml", {}, _read_file).mx, self.reactor)

    def check(self, dialer, parallel=32, queue=1000):
        """Give a login check, as `Check`."""
        return Check(self, dialer, parallel, queue)

    def link(self, mx, **arguments):
        """Give a link to an MX, as `Link`, not yet started; arguments go to `dialer`."""
        link = Link(self, self.dialer(mx, **arguments))
        self._links.append(link)
        return link

    def soon(self, deferred):
        """Give the Deferred, which fails when it takes longer than tests are willing to wait."""
        return deferred.addTimeout(PATIENCE, self.reactor)

    async def pause(self, seconds):
        """Let time go by, where the promise under test is one about time."""
        await deferLater(self.reactor, seconds)

    async def gone(self, mx):
        """Wait until an MX has no connection left."""
        await self.soon(mx.when(lambda: not mx.connections))

    async def stop(self):
        """Stop everything.

        Raises:
            AssertionError: Something stays behind in the reactor, or only a bug logs such a thing.
        """
        for link in self._links:
            if link.service.running:
                await self.soon(link.service.stopService())
        for mx in self._simulators:
            await mx.stop()
        # A Deferred with an error that nobody handled says so when it goes.
        gc.collect()
        globalLogPublisher.removeObserver(self.log)
        await self._leftovers.check()
        assert not self.log.bugs, "".join(self.log.bugs)


def _read_file(name):
    return Path(name).read_text(encoding="utf-8")


class Check:
    """A login check that counts how many run at once.

    Attributes:
        most: The highest number that ran at the same time.
    """

    def __init__(self, bench, dialer, parallel, queue):
        self._bench = bench
        self._dialer = dialer
        self._check = LoginCheck(self, parallel, queue)
        self._running = 0
        self.most = 0

    def __call__(self, login, password):
        """Begin a check."""
        checking = Deferred.fromCoroutine(self._check.verify(login, password, nullcontext()))
        return self._bench.soon(checking)

    async def log_in(self, request):
        """Log in (see `Dialer`)."""
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            return await self._dialer.log_in(request)
        finally:
            self._running -= 1


class Link:
    """A server link whose waits are short, and what it tells.

    Attributes:
        service: The link itself.
        told: `up` and `down` as they were told.
        events: Call events with their extensions.
    """

    def __init__(self, bench, dialer):
        self._bench = bench
        self._waiting = []
        self.told = []
        self.events = []
        self.service = ServerLink(bench.reactor, dialer, SERVER_LOGIN, SERVER_PASSWORD)
        # The lengths of the waits are tested on a clock; here they only cost time.
        self.service._waits.lost = Backoff(0.02, 0.1)
        self.service._waits.thrown_out = Backoff(0.4, 1.0)
        self.service._waits.refused = Backoff(0.4, 1.0)
        self.service.listen(self)
        self.service.address_book.listen(self)

    def link_up(self):
        """Hear of the connection (see `mxflex.mx.link.LinkListener`)."""
        self.told.append("up")
        self._look()

    def link_down(self):
        """Hear of its end."""
        self.told.append("down")
        self._look()

    def call_event(self, ext, event):
        """Hear of a call."""
        self.events.append((ext, event))
        self._look()

    def contact_changed(self, change):
        """Hear of the address book (see `mxflex.mx.addressbook.BookListener`)."""
        self._look()

    def contacts_read(self, changes):
        """Hear of a reading of the address book."""
        self._look()

    def _look(self):
        for condition, waiter in list(self._waiting):
            if not waiter.called and condition():
                waiter.callback(None)

    async def when(self, condition):
        """Wait until a condition on what the link tells holds."""
        waiter = (condition, Deferred())
        self._waiting.append(waiter)
        self._look()
        try:
            await self._bench.soon(waiter[1])
        finally:
            self._waiting.remove(waiter)

    async def when_up(self, count=1):
        """Wait until it has been up for the n-th time, and has read the address book."""
        await self.when(
            lambda: (
                self.told.count("up") >= count
                and self.service.up
                and self.service.address_book.loaded
            )
        )

    async def start(self):
        """Start it and wait until it is up."""
        self.service.startService()
        await self.when_up()
        return self

    async def monitor(self, ext):
        """Have an extension monitored."""
        await self._bench.soon(Deferred.fromCoroutine(self.service.monitors.start(ext)))

    def names(self):
        """Give the events so far by extension and class."""
        return [(ext, type(event).__name__) for ext, event in self.events]


def in_directory(mx, ext):
    """Let a user's password be checked by a directory, so that the MX needs the clear one."""
    mx.company.put(attrs.evolve(mx.user(ext), in_directory=True))
