"""The ports of the daemon: where it listens, and that it does so before it starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from twisted.application.internet import StreamServerEndpointService
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.config import HTTP_PORT, HTTPS_PORT, Config
from mxflex.errors import ConfigError

log = Logger()

# Connections that may wait to be accepted. After a restart all clients come back within seconds;
# with Twisted's 50, most would have to try again a second later.
BACKLOG = 1024
# How endpoints begin whose sockets systemd opens.
SYSTEMD = "systemd:"


def main_endpoints(config: Config) -> list[str]:
    """Give where the API is served, as Twisted endpoint strings."""
    return list(config.listen or _endpoints(config.host, config.port))


def plain_endpoints(config: Config) -> list[str]:
    """Give where plain HTTP leads to HTTPS, as Twisted endpoint strings."""
    if not config.https:
        return []
    beside = _endpoints(config.host, HTTP_PORT) if config.port == HTTPS_PORT else ()
    return list(config.listen_http or beside)


def _endpoints(host: str, port: int) -> Iterator[str]:
    """Give the endpoints that a host stands for: itself, or every interface for a name."""
    if host == "localhost":
        yield f"tcp:{port}:interface=127.0.0.1"
        if _has_ipv6():
            yield f"tcp6:{port}:interface={quoteStringArgument('::1')}"
    elif ":" in host:
        yield f"tcp6:{port}:interface={quoteStringArgument(host)}"
    elif isIPAddress(host):
        yield f"tcp:{port}:interface={host}"
    elif _has_ipv6():
        # Linux lets IPv4 clients in here, too.
        yield f"tcp6:{port}:interface={quoteStringArgument('::')}"
    else:
        yield f"tcp:{port}"


def _has_ipv6() -> bool:
    """Tell whether this machine has IPv6 at all: containers often lack it."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _with_backlog(description: str) -> str:
    """Let a TCP endpoint queue many connections, unless it says how many itself."""
    kind, _, _ = description.partition(":")
    if kind in ("tcp", "tcp6") and "backlog=" not in description:
        return f"{description}:backlog={BACKLOG}"
    return description


def make_endpoint(reactor: IReactorTime, description: str, key: str) -> IStreamServerEndpoint:
    """Make what opens a port.

    Args:
        reactor: Opens it.
        description: Which, as a Twisted endpoint string.
        key: Where the configuration names it.

    Raises:
        ConfigError: Twisted does not know such an endpoint.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, _with_backlog(description))
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        expected = f"expected endpoints such as tcp:8080, not {description!r}: {error}"
        if description.startswith(SYSTEMD):
            expected = f"systemd has given this process no socket for {description!r}"
        raise ConfigError("", key, expected) from error
    return endpoint


class ListeningPort(StreamServerEndpointService):
    """A listening port; the daemon does not start without it.

    Args:
        reactor: Opens it.
        description: Which, as a Twisted endpoint string.
        factory: Makes the protocol of each connection.
        key: Where the configuration names it.

    Raises:
        ConfigError: See `make_endpoint`.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        description: str,
        factory: IProtocolFactory,
        key: str = "listen",
    ) -> None:
        endpoint = make_endpoint(reactor, description, key)
        super().__init__(endpoint, factory)
        self._description = description

    def privilegedStartService(self) -> None:
        """Open the port, before privileges are dropped.

        Raises:
            SystemExit: The port cannot be had; one line says which and why.
        """
        # Twisted opens ports at once, so whatever is wrong is known here. Raised from a callback it
        # would be swallowed, and a daemon without its port would run on.
        failures: list[Failure] = []
        opening: Deferred[object] = self.endpoint.listen(self.factory)
        self._waitingForPort = opening.addCallbacks(self._opened, failures.append)
        for failure in failures:
            raise SystemExit(f"{self._description}: {failure.getErrorMessage()}")

    def _opened(self, port: object) -> object:
        log.info("listening on {endpoint}", endpoint=self._description)
        return port
