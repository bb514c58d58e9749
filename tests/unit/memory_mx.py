"""An MX in memory: the real link, protocol and codec over a transport without a socket.

Nothing happens by itself: `pump` carries what was written to the other side, and `task.Clock` is
the only time. An answer can be held back, so that a test decides what happens meanwhile.
"""

from __future__ import annotations

import inspect
from collections import deque
from zlib import crc32

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mxflex.errors import MXUnavailable
from mxflex.mx.link import ServerLink
from mxflex.mx.protocol import MXProtocol, ignore_event
from mxflex.mx.session import Dialer
from mxflex.wire.connection import ServerConnection
from mxflex.wire.messages import (
    Acknowledgement,
    AddressBookEntry,
    AddressBookPage,
    GetAddressBook,
    LoginResponse,
    MonitorStart,
    MonitorStartResponse,
    MonitorStop,
    SnapshotDevice,
    SnapshotDeviceResponse,
)

NOW = 1_505_411_996.0


class MemoryDialer:
    """Takes the place of `mxflex.mx.session.Dialer`: its connections end in a `MemoryMX`."""

    def __init__(self, mx):
        self._mx = mx

    async def log_in(self, request, on_event=ignore_event):
        return self._mx.connected(on_event), LoginResponse(serial="63022")


def parameters(function):
    """Give the names and the defaults of a function's parameters."""
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


assert parameters(MemoryDialer.log_in) == parameters(Dialer.log_in)


class MemoryMX:
    """One MX and the server link to it.

    Attributes:
        clock: The only time there is.
        link: The real server link; `pump` after `start` brings it up.
        book: The people of the address book.
        calls: What a snapshot tells of an extension; without an entry there are no calls.
        commands: Every command that came, in order.
        monitors: The running monitors of the present connection: id to extension.
        refuse: Answers for commands of a type, in place of the usual ones.
        hold: Types of commands that are not answered until `answer`.
        reachable: Whether a connection can be had.
    """

    def __init__(self, book=()):
        self.clock = Clock()
        self.clock.advance(NOW)
        self.book = tuple(book)
        self.calls = {}
        self.commands = []
        self.monitors = {}
        self.refuse = {}
        self.hold = set()
        self.reachable = True
        self._held = deque()
        self._last_monitor = 0
        self._protocol = None
        self.link = ServerLink(self.clock, MemoryDialer(self), "mxflex", "secret")

    # --- The connection -----------------------------------------------------------------------

    def connected(self, on_event):
        if not self.reachable:
            raise MXUnavailable("the MX cannot be reached")
        protocol = MXProtocol(self.clock, 7, 30, lambda _: None, on_event)
        self._transport = StringTransport()
        self._wire = ServerConnection()
        self._protocol = protocol
        self.monitors.clear()
        self._held.clear()
        protocol.makeConnection(self._transport)
        protocol.handshakeCompleted()
        return protocol

    def start(self):
        """Bring the link up."""
        self.link.startService()
        self.pump()
        assert self.link.up
        return self

    def stop(self):
        """Stop the link in order; no timer of it, and of nobody else, may be left."""
        self.hold.clear()
        stopping = self.link.stopService()
        for _ in range(20):
            while self._held:
                self.answer()
            self.pump()
            self.clock.advance(0.5)
        assert stopping.called
        assert self.clock.getDelayedCalls() == []

    def pump(self):
        """Answer all commands, those too that the answers lead to."""
        while self._protocol is not None:
            if self._transport.disconnecting:
                self._end(ConnectionDone())
                break
            data = self._transport.value()
            if not data:
                break
            self._transport.clear()
            self._wire.receive_data(data)
            while (received := self._wire.next_event()) is not None:
                self._take(received)

    def run(self, coroutine):
        """Start a coroutine and answer all its commands; give the Deferred of its result."""
        running = Deferred.fromCoroutine(coroutine)
        self.pump()
        return running

    def lose(self):
        """Cut the connection as a cable would."""
        self._end(ConnectionLost())

    def come_back(self, seconds=60):
        """Let the link find the MX again."""
        self.reachable = True
        for _ in range(seconds * 2):
            if self.link.up:
                return
            self.clock.advance(0.5)
            self.pump()
        raise AssertionError("the link did not come back")

    def _end(self, reason):
        protocol, self._protocol = self._protocol, None
        protocol.connectionLost(Failure(reason))

    # --- What the MX does ---------------------------------------------------------------------

    def count(self, kind):
        """Give how many commands of a type came."""
        return sum(isinstance(command, kind) for command in self.commands)

    def send(self, ext, event):
        """Send a call event of an extension, once for each of its monitors."""
        for monitor, watched in list(self.monitors.items()):
            if watched == ext:
                self.send_as(monitor, event)

    def send_as(self, monitor, event):
        """Send a call event of a monitor, which may not exist."""
        self.tell(attrs.evolve(event, monitor=monitor))

    def tell(self, event):
        """Send an event as it is."""
        self._protocol.dataReceived(self._wire.event(event))
        self.pump()

    def answer(self, message=None):
        """Answer the oldest command that is held back, with this message or the usual one."""
        invoke_id, command = self._held.popleft()
        self._reply(invoke_id, command, message or self._usual(command))
        self.pump()

    @property
    def held(self):
        """The commands that are held back."""
        return [command for _, command in self._held]

    def _take(self, received):
        command = received.command
        self.commands.append(command)
        if type(command) in self.hold:
            self._held.append((received.invoke_id, command))
        else:
            message = self.refuse.get(type(command)) or self._usual(command)
            self._reply(received.invoke_id, command, message)

    def _reply(self, invoke_id, command, message):
        if isinstance(message, MonitorStartResponse):
            self.monitors[message.monitor] = command.device
        data = self._wire.reply(invoke_id, message)
        if isinstance(message, AddressBookPage):
            data = self._wire.event(message)
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def _usual(self, command):
        if isinstance(command, MonitorStart):
            self._last_monitor += 1
            return MonitorStartResponse(monitor=str(self._last_monitor))
        if isinstance(command, MonitorStop):
            self.monitors.pop(command.monitor, None)
        if isinstance(command, GetAddressBook):
            return AddressBookPage(size=len(self.book), index=0, entries=self.book)
        if isinstance(command, SnapshotDevice):
            return SnapshotDeviceResponse(calls=tuple(self.calls.get(command.device, ())))
        return Acknowledgement(name=f"{command.wire_name}Response")


def person(ext, jid=None, **fields):
    """Give somebody of the address book."""
    return AddressBookEntry(jid=jid or 2**53 + crc32(ext.encode()), ext=ext, **fields)
