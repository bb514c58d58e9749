"""A person logs in, and out."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from mxflex.errors import Forbidden, LoginRefused, MXError, MXTimeout, MXUnavailable
from mxflex.gateway.sessions import Sessions
from mxflex.gateway.throttle import Throttle
from mxflex.gateway.tokens import Identity, Tokens
from mxflex.mx.verify import LoginCheck

log = Logger()


@attrs.frozen(kw_only=True)
class Grant:
    """What a login gives.

    Attributes:
        token: The access token.
        expires_in: Seconds that it lasts.
    """

    token: str = attrs.field(repr=False)
    expires_in: int


class Logins:
    """Checks people against the MX, and gives them tokens.

    Args:
        clock: Gives the time, in seconds since the epoch.
        check: Asks the MX.
        throttle: Counts failures.
        tokens: Makes tokens.
        sessions: Watches the extensions of those who are logged in.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        check: LoginCheck,
        throttle: Throttle,
        tokens: Tokens,
        sessions: Sessions,
    ) -> None:
        self._clock = clock
        self._check = check
        self._throttle = throttle
        self._tokens = tokens
        self._sessions = sessions

    async def log_in(self, login: str, password: str, address: str) -> Grant:
        """Check a person, start the monitor of the extension, and give a token.

        Args:
            login: As the person typed it.
            password: As the person typed it.
            address: Where the request came from.

        Raises:
            TooManyRequests: This name or this address has failed too often.
            LoginRefused: The MX said no.
            Forbidden: The account has no extension, so there is nothing to watch.
            MXUnavailable, MXTimeout: The MX is not there, too busy, or does not let the extension
                be monitored.
            LocalProtocolError: Login or password cannot be sent to an MX.
        """
        # Once before it takes a place in the queue, and once when its turn has come: those before
        # it may have failed meanwhile.
        self._throttle.check(login, address, self._clock())
        attempt = self._throttle.attempt(login, address, self._clock)
        try:
            account = await self._check.verify(login, password, attempt)
        except LoginRefused as error:
            log.info(
                "login of {login!r} from {address} refused, code {code}: {error}",
                login=login,
                address=address,
                code=error.code,
                error=error,
            )
            raise
        self._throttle.succeeded(login)
        if not account.ext:
            raise Forbidden("this account has no extension")
        token, identity = self._tokens.issue(
            mx=account.serial, ext=account.ext, jid=account.jid, now=self._clock()
        )
        try:
            await self._sessions.open(identity.ext, identity.expires_at)
        except (MXUnavailable, MXTimeout):
            raise
        except MXError as error:
            # Not the command of whoever logs in, so not theirs to be told that it was refused.
            log.error("monitor of {ext} not started: {error}", ext=identity.ext, error=error)
            raise MXUnavailable("the monitor of this extension cannot be started") from error
        log.info("login of {ext} from {address}", ext=identity.ext, address=address)
        return Grant(token=token, expires_in=self._tokens.lifetime)

    def identify(self, token: str) -> Identity:
        """Give whom a token speaks for.

        Raises:
            InvalidToken: It is not a token of this server, or has ended.
        """
        return self._tokens.verify(token, self._clock())

    async def log_out(self, identity: Identity) -> None:
        """Stop watching the extension; its streams end, its tokens stay good. Idempotent."""
        await self._sessions.close(identity.ext)
        log.info("logout of {ext}", ext=identity.ext)
