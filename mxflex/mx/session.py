"""How a connection to the MX is opened and a login made on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import attrs
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.errors import LoginRefused, MXError, MXUnavailable
from mxflex.mx.protocol import CommandFigures, MXProtocol, ignore_event
from mxflex.mx.tls import PeerPolicy
from mxflex.mx.transport import SecureEndpoint
from mxflex.wire.messages import (
    Event,
    LoginFailed,
    LoginRequest,
    LoginResponse,
    Logout,
    Message,
    hash_password,
)

log = Logger()

# The MX refuses the hashed form of a password with these codes when it must check the clear one
# elsewhere (LDAP), and it does so from this API version on. Source: docs/mx-protocol.md, "Login".
_CLEAR_PASSWORD_CODES = (2, 4)
_CLEAR_PASSWORD_API_VERSION = 3
_PASSWORD_EXPIRED = -1

_T = TypeVar("_T")


def server_login(login: str, password: str) -> LoginRequest:
    """Give the login of the server connection, with the attributes that servers are known to take.

    Args:
        login: The server account.
        password: Its password, in clear.
    """
    return LoginRequest(
        type="Server", platform="iPhone", version="1.0", user_name=login, password=password
    )


@attrs.define(eq=False)
class Dialer:
    """Opens TLS connections to the one configured MX.

    Args:
        reactor: Connects and gives the time.
        host, port: Where the MX listens.
        policy: Whom to trust there.
        timeout: Seconds for the TCP connection, for the TLS handshake, and for each answer.
        keepalive: See `MXProtocol`.
        clear_password: Whether a refused hashed password may be tried once more in clear.
        figures: Count the commands on its connections.
    """

    reactor: IReactorTime
    host: str
    port: int
    policy: PeerPolicy
    timeout: float
    keepalive: float
    clear_password: bool
    figures: CommandFigures = attrs.field(factory=CommandFigures)

    def use(self, terms: Dialer) -> None:
        """Take over how another one connects, for the connections to come; the MX stays."""
        self.policy = terms.policy
        self.timeout = terms.timeout
        self.keepalive = terms.keepalive
        self.clear_password = terms.clear_password

    def _endpoint(self, policy: PeerPolicy) -> IStreamClientEndpoint:
        # Only a name needs the resolver's thread, and attempts at several addresses.
        kind: Callable[..., IStreamClientEndpoint] = HostnameEndpoint
        if isIPAddress(self.host):
            kind = TCP4ClientEndpoint
        elif isIPv6Address(self.host):
            kind = TCP6ClientEndpoint
        tcp = kind(self.reactor, self.host, self.port, timeout=self.timeout)
        return SecureEndpoint(self.reactor, tcp, policy)

    async def dial(
        self, on_event: Callable[[Event], None] = ignore_event, policy: PeerPolicy | None = None
    ) -> MXProtocol:
        """Connect and finish the handshake with a peer that may be trusted.

        Args:
            on_event: See `MXProtocol`.
            policy: Whom to trust there; the dialer's own by default.

        Raises:
            MXUnavailable: No connection, or the peer is not to be trusted.
            MXTimeout: The peer accepted the connection and then did not finish the handshake.
        """
        # The one of this moment: a peer must not be checked by half of each of two.
        trust = policy or self.policy
        factory = Factory.forProtocol(lambda: self._protocol(on_event, trust))
        factory.noisy = False
        try:
            connecting = _cancellable(self._endpoint(trust).connect(factory))
            protocol = cast("MXProtocol", await connecting)
        except (ConnectError, DNSLookupError) as error:
            # The detail may name the address; it is for the log, not for a web client.
            log.debug("no connection to the MX: {error}", error=error)
            raise MXUnavailable("the MX cannot be reached") from error
        try:
            await protocol.when_secured()
        except BaseException as error:
            if isinstance(error, MXError):
                trust.forget()
            protocol.abort(MXUnavailable("given up before the TLS handshake was done"))
            raise
        return protocol

    def _protocol(self, on_event: Callable[[Event], None], policy: PeerPolicy) -> MXProtocol:
        return MXProtocol(
            self.reactor,
            self.timeout,
            self.keepalive,
            lambda protocol: policy.check(protocol.tls.getHandle()),
            on_event,
            figures=self.figures,
        )

    async def log_in(
        self, request: LoginRequest, on_event: Callable[[Event], None] = ignore_event
    ) -> tuple[MXProtocol, LoginResponse]:
        """Connect and log in; the password in the request is the clear one.

        It is sent hashed. Only where the MX says that it needs the clear one, and the peer may be
        given it, a second request carries that.

        Returns:
            The open connection and the MX's answer.

        Raises:
            LoginRefused: The MX said no, with its words.
            MXUnavailable: No connection, it ended, or the peer is not to be trusted.
            MXTimeout: The MX accepted the connection and then did not answer.
            LocalProtocolError: Name or password cannot be sent as XML, or are too long.
        """
        hashed = attrs.evolve(request, password=hash_password(request.password))
        # What may be sent depends on who was checked how.
        policy, clear_password = self.policy, self.clear_password
        protocol = await self.dial(on_event, policy)
        answer = await _ask(protocol, hashed)
        policy.remember(protocol.tls.getHandle())
        if clear_password and _wants_clear_password(answer):
            log.info("the MX needs the clear password of {login}", login=request.user_name)
            try:
                answer = await _ask(protocol, request)
            except MXUnavailable:
                # Some servers expect the second try here, others close after a refusal.
                protocol = await self.dial(on_event, policy)
                answer = await _ask(protocol, request)
        try:
            return protocol, _accepted(answer, request.user_name)
        except MXError:
            protocol.close()
            raise


def _wants_clear_password(answer: Message) -> bool:
    return (
        isinstance(answer, LoginFailed)
        and answer.code in _CLEAR_PASSWORD_CODES
        and (answer.api_version or 0) >= _CLEAR_PASSWORD_API_VERSION
    )


async def _ask(protocol: MXProtocol, request: LoginRequest) -> Message:
    """Send a login request; if there is no answer to it, the connection is of no use any more."""
    try:
        return await protocol.request(request)
    except CancelledError:
        protocol.abort(MXUnavailable("given up before the login was done"))
        raise
    except BaseException:
        protocol.close()
        raise


def _cancellable(connecting: Deferred[_T]) -> Deferred[_T]:
    """Give the same result, but fail with `CancelledError` when cancelled.

    A cancelled endpoint fails in ways of its own: as a name that was not found, if it was looking
    one up.
    """

    def cancel(cancelled: Deferred[_T]) -> None:
        cancelled.errback(CancelledError())
        connecting.cancel()

    def failed(failure: Failure) -> None:
        if not connected.called:
            connected.errback(failure)

    connected: Deferred[_T] = Deferred(cancel)
    connecting.addCallbacks(connected.callback, failed)
    return connected


def _accepted(answer: Message, login: str) -> LoginResponse:
    if isinstance(answer, LoginFailed):
        raise LoginRefused(answer.text or "login refused", answer.code or 0)
    if not isinstance(answer, LoginResponse):
        raise MXError("the MX answered the login in an unknown way")
    if answer.code == _PASSWORD_EXPIRED:
        log.warn("the MX says that the password of {login} has expired", login=login)
    return answer


def log_out(protocol: MXProtocol) -> None:
    """Tell the MX that the session ends, and close; its answer does not matter any more."""
    protocol.close(Logout())
