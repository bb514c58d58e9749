"""Whole daemons in the test process, on loopback ports, each with a simulated MX."""

from __future__ import annotations

import gc
import gzip
import json

import treq
from twisted.application.internet import StreamServerEndpointService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from mxflex import config, service
from mxflex.logs import Levels, Masker, text_format
from mxflex.mx.link import ServerLink
from mxflex.simulator.server import SimulatedMX
from mxflex.web.openapi import describe
from tests.integration.raw_http import RawConnection, Reply, request_bytes
from tests.integration.streams import Stream
from tests.openapi import Measure
from tests.ports import LOOPBACK, free_port

# Whatever a test waits for comes within this time, in seconds, or the test fails.
PATIENCE = 10.0
# How often a condition is looked at that nobody tells of.
STEP = 0.005

# The user of the simulated company that most tests act as.
LOGIN, PASSWORD, EXT, JID = "user_login", "password", "3095", 43884851147406145
SERVER_PASSWORD = "mxflex"

# Whatever a test asks for, answers and events are as the OpenAPI document has them.
MEASURE = Measure(describe(token_in_url=True), closed=True)


class Daemons:
    """Starts daemons for one test, and stops them.

    Args:
        reactor: Where they run.
        folder: A folder of the test's own, which gets the static files.
    """

    def __init__(self, reactor, folder):
        self._reactor = reactor
        self._folder = folder
        self._running = []
        self._simulators = []
        self._log = CapturedLog()
        globalLogPublisher.addObserver(self._log)

    async def start(self, *, simulator=None, listening=True, ready=True, **settings):
        """Start a daemon and give it as `Running`.

        Args:
            simulator: The `SimulatedMX` behind it; a new one by default. It is stopped at the end
                of the test, whoever made it.
            listening: Whether the simulator accepts connections when the daemon starts.
            ready: Whether to wait until the server connection is up and the address book is read.
            settings: Keys of the configuration, sections as dicts (`events={"heartbeat": 1}`).
                They go over those that a test needs: any free port at the loopback address, an
                `html` folder of the test's own, a place there for what is kept, the address and
                the account of the simulator. A key that is None is left out of the configuration.
        """
        simulator = simulator or SimulatedMX(self._reactor)
        if simulator not in self._simulators:
            self._simulators.append(simulator)
        if simulator.address is None:
            # It may close and come back, and must find its port free then.
            await simulator.listen(free_port())
            if not listening:
                await simulator.refuse_connections()
        host, port = simulator.address
        html = self._folder / "html"
        html.mkdir(exist_ok=True)
        document = {
            "listen": [f"tcp:0:interface={LOOPBACK}"],
            "html": str(html),
            **settings,
            # Tests do not wait for what is promised to be slow.
            "login": {"refusal_step": 0, **settings.get("login", {})},
            "mx": {
                "addr": f"{host}:{port}",
                "login": "mxflex",
                "password": SERVER_PASSWORD,
                **settings.get("mx", {}),
            },
        }
        if "token" in document:
            storage = str(self._folder / "logouts.json")
            document["token"] = {"storage": storage, **document["token"]}
        running = Running(self._reactor, document, simulator, html, self._log)
        self._running.append(running)
        await running.start()
        if ready:
            await running.when_ready()
        return running

    async def stop(self):
        """Stop all daemons and simulators.

        Raises:
            AssertionError: Something was logged that only a bug logs.
        """
        for running in self._running:
            await running.stop()
        for simulator in self._simulators:
            await simulator.stop()
        # A Deferred with an error that nobody handled says so when it goes.
        gc.collect()
        globalLogPublisher.removeObserver(self._log)
        assert not self._log.bugs, "".join(self._log.bugs)


class CapturedLog:
    """The log as an operator would read it, from debug messages on, with nothing masked by name.

    Attributes:
        lines: All lines.
        bugs: The critical ones: tracebacks that nobody asked for.
    """

    def __init__(self):
        self.lines = []
        self.bugs = []
        self._format = text_format(Masker(), Levels("debug"))

    def __call__(self, event):
        """Take an event (see `twisted.logger.ILogObserver`)."""
        line = self._format(event)
        if line is not None:
            self.lines.append(line)
            if event.get("log_level") is LogLevel.critical:
                self.bugs.append(line)

    def of(self, namespace):
        """Give the lines of one logger."""
        return [line for line in self.lines if f" {namespace}  " in line]


class Running:
    """A running daemon, and the ways in which tests talk to it.

    Attributes:
        config: Its configuration.
        mx: The simulated MX.
        html: The folder of its static files, a `Path`.
        log: Everything that was logged since the test began (`CapturedLog`).
        service: The daemon itself.
        link: Its server connection.
        ports: The ports that it listens at, in the order of the configuration.
        hosts: The addresses that it listens at.
    """

    def __init__(self, reactor, document, mx, html, log):
        self._reactor = reactor
        self._document = document
        self.config = self._read()
        self.mx = mx
        self.html = html
        self.log = log
        self.service = service.build(self.config, reactor, read=self._read)
        self.link = self.service.getServiceNamed(ServerLink.name)
        self.ports = []
        self.hosts = set()
        self._connections = []
        self._pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent(reactor, pool=self._pool)
        self._client = treq.client.HTTPClient(self._agent)

    def _read(self):
        given = {key: value for key, value in self._document.items() if value is not None}
        return config.load(json.dumps(given), "test.json", {})

    # --- Life -------------------------------------------------------------------------------------

    def reload(self, **settings):
        """Change keys of the configuration, or whole sections but for `mx`, and reload it."""
        mx = {**self._document["mx"], **settings.get("mx", {})}
        self._document = {**self._document, **settings, "mx": mx}
        self.service.getServiceNamed("reload").reload()

    async def start(self):
        """Start it, as `twistd` would."""
        self.service.privilegedStartService()
        self.service.startService()
        for child in self.service:
            if isinstance(child, StreamServerEndpointService):
                port = await _fork(child._waitingForPort)
                self.ports.append(port.getHost().port)
                self.hosts.add(port.getHost().host)

    async def stop_service(self):
        """Stop it, as `twistd` would. Idempotent."""
        if self.service.running:
            await maybeDeferred(self.service.stopService)

    async def stop(self):
        """Stop it, and end what tests have left open. Idempotent."""
        await self.stop_service()
        for connection in self._connections:
            connection.abort()
            if isinstance(connection, Stream):
                for event in connection.events:
                    MEASURE.check_event(event.name, event.data)
        await self._pool.closeCachedConnections()

    async def when(self, condition):
        """Wait until a condition on the daemon's inside holds, which tells nobody when it does."""
        deadline = self._reactor.seconds() + PATIENCE
        while not condition():
            assert self._reactor.seconds() < deadline, "waited in vain"
            await self.pause(STEP)

    async def when_ready(self):
        """Wait for the server connection and the address book."""
        await self.when(lambda: self.link.up and self.link.address_book.loaded)

    async def when_down(self):
        """Wait for the end of the server connection."""
        await self.when(lambda: not self.link.up)

    def soon(self, deferred):
        """Give the Deferred, which fails when it takes longer than tests are willing to wait."""
        return deferred.addTimeout(PATIENCE, self._reactor)

    async def come_back_now(self):
        """Let the server connection not wait any longer before it connects again."""
        await maybeDeferred(self.link.stopService)
        self.link.startService()

    def seconds(self):
        """Give the time of the reactor."""
        return self._reactor.seconds()

    async def pause(self, seconds):
        """Let time go by, where the promise under test is one about time."""
        await deferLater(self._reactor, seconds)

    def later(self, coroutine):
        """Begin something now and give a Deferred of its end."""
        return self.soon(Deferred.fromCoroutine(coroutine))

    # --- Requests ---------------------------------------------------------------------------------

    @property
    def url(self):
        """Its address, without a path."""
        return f"http://{LOOPBACK}:{self.ports[0]}"

    async def request(self, method, path, *, token=None, headers=None, **kwargs):
        """Make a request with treq and give the whole answer; redirects are not followed."""
        headers = dict(headers or {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        response = await self.soon(
            self._client.request(
                method, self.url + path, headers=headers, allow_redirects=False, **kwargs
            )
        )
        body = await self.soon(treq.content(response))
        reply = Reply(status=response.code, headers=response.headers, body=body)
        MEASURE.check_answer(method, path, reply.status, reply.header, reply.body)
        return reply

    async def get(self, path, **kwargs):
        """GET."""
        return await self.request("GET", path, **kwargs)

    async def post(self, path, fields=None, **kwargs):
        """POST a form."""
        return await self.request("POST", path, data=fields or {}, **kwargs)

    async def log_in(self, login=LOGIN, password=PASSWORD):
        """Log a user in and give the token."""
        reply = await self.post("/api/login", {"login": login, "password": password})
        assert reply.status == 200, reply
        return reply.json["access_token"]

    async def open_stream(self, token, *, headers=None, query=""):
        """Open an event stream and give it as `Stream`, once its headers have come."""
        headers = {"Accept": "text/event-stream", **(headers or {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        response = await self.soon(
            self._agent.request(
                b"GET",
                (self.url + "/api/events" + query).encode(),
                Headers({name: [value] for name, value in headers.items()}),
            )
        )
        stream = Stream(response, self.soon)
        response.deliverBody(stream)
        self._connections.append(stream)
        MEASURE.check_answer("GET", "/api/events", stream.status, stream.header, None)
        return stream

    async def connect(self, port=None):
        """Open a TCP connection and give it as `RawConnection`."""
        endpoint = HostnameEndpoint(self._reactor, LOOPBACK, port or self.ports[0])
        factory = Factory.forProtocol(lambda: RawConnection(self.soon))
        factory.noisy = False
        connection = await self.soon(endpoint.connect(factory))
        self._connections.append(connection)
        return connection

    async def raw(self, method, target, *lines, token=None, body=b""):
        """Make a request by the byte, see `request_bytes`, and give the whole answer."""
        if token is not None:
            lines = (f"Authorization: Bearer {token}", *lines)
        connection = await self.connect()
        connection.send(request_bytes(method, target, *lines, body=body))
        reply = await connection.read_reply(method)
        connection.abort()
        zipped = reply.header("content-encoding") == "gzip"
        body = gzip.decompress(reply.body) if zipped else reply.body
        MEASURE.check_answer(method, target, reply.status, reply.header, body)
        return reply


def _fork(deferred):
    """Give a Deferred with the same result, and leave the result to its owner."""
    forked = Deferred()

    def copy(result):
        forked.callback(result)
        return result

    deferred.addBoth(copy)
    return forked
