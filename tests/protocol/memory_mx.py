"""An MX in memory: the client's end of a connection is real, sockets and TLS are not.

`FakeTransport` stands in for TLS over TCP, `Peer` for the MX behind it. `Network` is an endpoint
that hands out such connections, so that a whole `ServerLink` can run on a `Clock`.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mxflex.mx.protocol import MXProtocol
from mxflex.mx.session import Dialer
from mxflex.wire.connection import CommandReceived, ServerConnection
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookEntry,
    AddressBookPage,
    DeliveredEvent,
    GetAddressBook,
    GetServiceList,
    GetServiceListResponse,
    KeepAlive,
    LoggedOut,
    LoginRequest,
    LoginResponse,
    Logout,
    MonitorStart,
    MonitorStartAddressBook,
    MonitorStartResponse,
    MonitorStop,
)

TIMEOUT, KEEPALIVE = 7.0, 30.0

# How long a frame, or the news of an end, is under way in a `Network`.
LATENCY = 0.01


class FakeTransport(StringTransport):
    """What `MXProtocol` needs of TLS: an end takes effect when the test, or the clock, says so.

    Attributes:
        aborted: Whether the client has cut the connection.
        closed: Whether the client has asked for a polite end.
    """

    def __init__(self, on_write=None, on_close=None, on_abort=None):
        super().__init__()
        self.aborted = False
        self.closed = False
        self._on_write = on_write
        self._on_close = on_close
        self._on_abort = on_abort

    def write(self, data):
        """Take bytes, unless the end has begun: TLS drops them then."""
        if self.closed or self.aborted:
            return
        super().write(data)
        if self._on_write is not None:
            self._on_write(data)

    def writeLast(self, data):
        """Take bytes, and begin a polite end."""
        self.write(data)
        self.loseConnection()

    def loseConnection(self):
        """Begin a polite end."""
        if not self.closed and not self.aborted:
            self.closed = True
            if self._on_close is not None:
                self._on_close()

    def abortConnection(self):
        """Cut."""
        if not self.aborted:
            self.aborted = True
            if self._on_abort is not None:
                self._on_abort()

    def getHandle(self):
        """Give what the peer policy looks at."""
        return self


class Peer:
    """The MX's end of one connection, moved by hand.

    Attributes:
        received: Every command but keep-alives, with its invoke id, in order.
        keepalives: When a keep-alive came.
        events: What the client's protocol handed on.
    """

    def __init__(self, clock, check_peer=lambda _: None, on_event=None, make_protocol=None):
        self.clock = clock
        self.wire = ServerConnection()
        self.received = []
        self.keepalives = []
        self.events = []
        self.on_command = None
        self.transport = FakeTransport(self._came)
        if make_protocol is None:
            self.protocol = MXProtocol(
                clock, TIMEOUT, KEEPALIVE, check_peer, on_event or self.events.append
            )
        else:
            self.protocol = make_protocol()

    def connect(self):
        """Let the TCP connection stand."""
        self.protocol.makeConnection(self.transport)
        return self

    def secure(self):
        """Let the TLS handshake be done, too."""
        self.protocol.handshakeCompleted()
        return self

    def _came(self, data):
        self.wire.receive_data(data)
        while (happened := self.wire.next_event()) is not None:
            assert isinstance(happened, CommandReceived), happened
            if isinstance(happened.command, KeepAlive):
                self.keepalives.append(self.clock.seconds())
                continue
            self.received.append(happened)
            if self.on_command is not None:
                self.on_command(self, happened)

    def commands(self, cls):
        """Give the commands of a class that came."""
        return [each.command for each in self.received if isinstance(each.command, cls)]

    def ids(self):
        """Give the invoke ids that came."""
        return [each.invoke_id for each in self.received]

    def deliver(self, data):
        """Hand bytes to the client."""
        self.protocol.dataReceived(data)

    def reply(self, invoke_id, message):
        """Answer a command."""
        self.deliver(self.wire.reply(invoke_id, message))

    def event(self, event):
        """Tell something."""
        self.deliver(self.wire.event(event))

    def lose(self, reason=None):
        """End the connection."""
        self.protocol.connectionLost(Failure(reason or error.ConnectionDone()))


class NetworkPeer(Peer):
    """The MX's end of one connection of a `Network`: it answers by itself, a little later.

    Attributes:
        deaf: Whether whatever the client sends is swallowed, its polite end too.
        over: Whether the connection has ended.
    """

    def __init__(self, network, make_protocol):
        super().__init__(network.clock, make_protocol=make_protocol)
        self.network = network
        self.deaf = False
        self.over = False
        self.logged_in = False
        self.monitors = {}
        self._plans = []
        self.transport = FakeTransport(self._came, self._client_closes, self._client_aborts)
        self.on_command = network.command_came

    def _came(self, data):
        if not self.deaf:
            super()._came(data)

    def deliver(self, data):
        """Put bytes on their way to the client."""
        if not self.deaf:
            for piece in self.network.cut(data):
                self.clock.callLater(LATENCY, self._arrive, piece)

    def _arrive(self, data):
        if not self.over:
            self.protocol.dataReceived(data)

    def _client_closes(self):
        if not self.deaf:
            self.end(error.ConnectionDone())

    def _client_aborts(self):
        self.clock.callLater(0, self._over, error.ConnectionAborted())

    def later(self, seconds, act, *args):
        """Do something after a while, unless the connection has ended by then."""
        self._plans.append(self.clock.callLater(seconds, act, *args))

    def end(self, reason=None):
        """Let the connection end, as seen by the client a little later."""
        self.clock.callLater(LATENCY, self._over, reason or error.ConnectionLost())

    def _over(self, reason):
        if not self.over:
            self.over = True
            for plan in self._plans:
                if plan.active():
                    plan.cancel()
            self.lose(reason)


@implementer(IStreamClientEndpoint)
@attrs.define(eq=False)
class Network:
    """The way to one MX, and that MX's habits.

    Attributes:
        clock: Keeps the time.
        mode: What a connection meets: `accept`, `refuse`, `hang` (no answer to TCP at all),
            `hang in TLS`, or `reset` at once.
        habits: What happens on a command, by its class; None for silence.
        cut: Gives the pieces in which bytes arrive.
        entries: The address book.
        page_size: Entries in a page.
        peers: All connections so far, with the time of each in `dialled`.
    """

    clock: object
    mode: str = "accept"
    entries: list[AddressBookEntry] = attrs.field(factory=list)
    page_size: int = 50
    cut: Callable[[bytes], list[bytes]] = lambda data: [data]
    peers: list[NetworkPeer] = attrs.field(init=False, factory=list)
    dialled: list[float] = attrs.field(init=False, factory=list)
    habits: dict = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.habits = {
            LoginRequest: self._log_in,
            MonitorStartAddressBook: lambda p, r: p.reply(r.invoke_id, Acknowledgement(name="ok")),
            MonitorStart: self._start_monitor,
            MonitorStop: lambda p, r: p.reply(r.invoke_id, Acknowledgement(name="ok")),
            GetAddressBook: self._give_page,
            GetServiceList: lambda p, r: p.reply(r.invoke_id, GetServiceListResponse()),
            Logout: self._log_out,
        }

    def connect(self, factory):
        """Make a connection (see `IStreamClientEndpoint`)."""
        self.dialled.append(self.clock.seconds())
        if self.mode == "refuse":
            return fail(error.ConnectionRefusedError())
        if self.mode == "hang":
            hanging = Deferred(lambda _: timer.cancel())
            timer = self.clock.callLater(TIMEOUT, hanging.errback, error.TimeoutError())
            return hanging
        peer = NetworkPeer(self, lambda: factory.buildProtocol(None))
        connected = Deferred()

        def connect():
            self.peers.append(peer)
            peer.connect()
            connected.callback(peer.protocol)
            if self.mode == "reset":
                peer.end()
            elif self.mode == "accept":
                self.clock.callLater(LATENCY, secure)

        def secure():
            if not peer.over and not peer.transport.aborted:
                peer.secure()

        connecting = self.clock.callLater(LATENCY, connect)
        connected.addErrback(lambda failure: (connecting.cancel(), failure)[1])
        return connected

    def command_came(self, peer, received):
        """Do as is the habit."""
        habit = self.habits[type(received.command)]
        if habit is not None:
            habit(peer, received)

    @property
    def peer(self):
        """The latest connection."""
        return self.peers[-1]

    @property
    def open(self):
        """The connections that have not ended."""
        return [peer for peer in self.peers if not peer.over]

    def _log_in(self, peer, received):
        peer.logged_in = True
        peer.reply(received.invoke_id, LoginResponse(serial="63022", api_version=11))

    def _log_out(self, peer, received):
        peer.reply(received.invoke_id, LoggedOut(mode="normal"))
        peer.end(error.ConnectionDone())

    def _start_monitor(self, peer, received):
        monitor = str(len(peer.monitors) + 1)
        peer.monitors[monitor] = received.command.device
        peer.reply(received.invoke_id, MonitorStartResponse(monitor=monitor))

    def _give_page(self, peer, received):
        index = received.command.index
        first = index * self.page_size
        peer.event(
            AddressBookPage(
                size=len(self.entries),
                index=index,
                entries=tuple(self.entries[first : first + self.page_size]),
            )
        )


class TrustsAll:
    """A peer policy for connections without TLS."""

    def check(self, connection):
        """Find nothing wrong."""

    def remember(self, connection):
        """Know no sessions."""

    def forget(self):
        """Know no sessions."""


class MemoryDialer(Dialer):
    """A dialer whose connections go over a `Network`."""

    def __init__(self, network, *, clear_password=True):
        super().__init__(
            reactor=network.clock,
            host="mx.example",
            port=7778,
            policy=TrustsAll(),
            timeout=TIMEOUT,
            keepalive=KEEPALIVE,
            clear_password=clear_password,
        )
        self.network = network

    def _endpoint(self, _policy):
        return self.network


def person(number, **fields):
    """Give an address book entry; the number makes its id and its extension."""
    fields = {"ext": str(3000 + number), "presence": "Available", **fields}
    return AddressBookEntry(jid=43884851147406000 + number, **fields)


def ringing(monitor, call_id=1):
    """Give a call event of a monitor, told from others by its call id."""
    return attrs.evolve(
        DeliveredEvent(monitor=monitor),
        connection=attrs.evolve(DeliveredEvent().connection, call_id=call_id, device_id="3095"),
    )


def outcome_of(deferred):
    """Give a list that the result of a Deferred, or its exception, is appended to."""
    outcome = []
    deferred.addCallbacks(outcome.append, lambda failure: outcome.append(failure.value))
    return outcome


def run(clock, seconds, step=0.25):
    """Let time go by in small steps, so that what is due happens in order."""
    whole, rest = divmod(seconds, step)
    clock.pump([step] * int(whole) + [rest])
