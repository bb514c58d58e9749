"""Ports that are bound before the reactor runs, and accept nothing until they are told to."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from mxflex.errors import ConfigError

MAX_PORT = 65_535
BACKLOG = 128


class BoundPort:
    """A TCP port.

    Its number can be told at once, and a port that cannot be had ends the start. A listening socket
    outlives the fork of a daemon, which the registration of a port with a reactor need not.

    Args:
        interface: The address, as a number.
        port: The TCP port; 0 for any free one.

    Attributes:
        host: The address.
        port: The TCP port.

    Raises:
        ConfigError: The address or the port cannot be had.
    """

    def __init__(self, interface: str, port: int) -> None:
        self._socket: socket.socket | None = _bind(interface, port)
        self.host, self.port = self._socket.getsockname()[:2]

    def listen(self, reactor: Any, factory: IProtocolFactory) -> IListeningPort:
        """Accept connections from now on; also after the port was closed."""
        if self._socket is None:
            port = reactor.listenTCP(self.port, factory, BACKLOG, self.host)
        else:
            bound, self._socket = self._socket, None
            with bound:
                port = reactor.adoptStreamPort(bound.fileno(), bound.family, factory)
        return cast("IListeningPort", port)

    def release(self) -> None:
        """Give the port back, if it has never accepted anything. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _bind(interface: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            interface, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{interface}:{port}", "", f"cannot listen there: {reason}") from error
    return bound
