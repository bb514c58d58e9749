"""A person logs in, and out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mxflex.errors import (
    Forbidden,
    LoginRefused,
    MXTimeout,
    MXUnavailable,
    ServiceUnavailable,
    TooManyRequests,
)
from mxflex.gateway.sessions import Sessions
from mxflex.gateway.throttle import Throttle
from mxflex.gateway.tokens import Identity, Tokens
from mxflex.mx.verify import LoginCheck

ACCEPTED = "accepted"
OTHER = "other"
_RESULTS: dict[type[Exception], str] = {
    LoginRefused: "refused",
    Forbidden: "refused",
    TooManyRequests: "throttled",
    MXUnavailable: "unavailable",
    MXTimeout: "unavailable",
    ServiceUnavailable: "unavailable",
}


@attrs.frozen(kw_only=True)
class Grant:
    """What a login, or a renewal, gives.

    Attributes:
        token: The access token.
        expires_in: Seconds that it lasts.
        ext: The extension that it speaks for.
    """

    token: str = attrs.field(repr=False)
    expires_in: int
    ext: str


@contextmanager
def _counted(results: dict[str, int]) -> Iterator[None]:
    """Count what is done within by how it ends."""
    try:
        yield
    except BaseException as error:
        words = (word for kind, word in _RESULTS.items() if isinstance(error, kind))
        results[next(words, OTHER)] += 1
        raise
    results[ACCEPTED] += 1


class Logins:
    """Checks people against the MX, and gives them tokens.

    Args:
        clock: Gives the time, in seconds since the epoch, and delayed calls.
        check: Asks the MX.
        throttle: Counts failures.
        tokens: Makes tokens.
        sessions: Watches the extensions of those who are logged in.
        refusal_step: Seconds; a refused login ends at the next multiple of them since it came.

    Attributes:
        refusal_step: As given; may be changed.
        results: How many logins ended how: `accepted`; `refused` by the MX, or for lack of an
            extension; `throttled`; `unavailable`, since the MX was not there, too slow or too
            busy; `other`, such as a client that left before.
        renewals: The same of renewals.
    """

    def __init__(
        self,
        clock: IReactorTime,
        check: LoginCheck,
        throttle: Throttle,
        tokens: Tokens,
        sessions: Sessions,
        *,
        refusal_step: float,
    ) -> None:
        self._clock = clock
        self._now = clock.seconds
        self._check = check
        self._throttle = throttle
        self._tokens = tokens
        self._sessions = sessions
        self.refusal_step = refusal_step
        self.results = dict.fromkeys((ACCEPTED, *_RESULTS.values(), OTHER), 0)
        self.renewals = dict(self.results)

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
            ServiceUnavailable: The daemon stops.
            LocalProtocolError: Login or password cannot be sent to an MX.
        """
        with _counted(self.results):
            return await self._log_in(login, password, address)

    async def _log_in(self, login: str, password: str, address: str) -> Grant:
        # Once before it takes a place in the queue, and once when its turn has come: those before
        # it may have failed meanwhile.
        came = self._now()
        self._throttle.check(login, address, came)
        attempt = self._throttle.attempt(login, address, self._now)
        try:
            account = await self._check.verify(login, password, attempt)
        except LoginRefused:
            # Who leaves meanwhile was refused all the same.
            with suppress(CancelledError):
                await self._hide_the_time(came)
            raise
        self._throttle.succeeded(login)
        if not account.ext:
            raise Forbidden("this account has no extension")
        token, identity = self._tokens.issue(
            mx=account.serial, ext=account.ext, jid=account.jid, now=self._now()
        )
        await self._sessions.open(identity.ext, identity.expires_at)
        return Grant(token=token, expires_in=self._tokens.lifetime, ext=identity.ext)

    async def _hide_the_time(self, came: float) -> None:
        """Wait until the time of an answer says nothing of how long the MX took.

        An MX refuses a name that it does not know at once, and asks a directory first about one
        that it knows; some are even asked twice.
        """
        step = self.refusal_step
        if step:
            taken = self._now() - came
            await deferLater(self._clock, step - taken % step)

    def identify(self, token: str) -> Identity:
        """Give whom a token speaks for.

        Raises:
            InvalidToken: It is not a token of this server, or has ended.
        """
        return self._tokens.verify(token, self._now())

    async def renew(self, identity: Identity) -> Grant:
        """Give a token that goes on for one that is good, without asking the MX for the person.

        The extension is watched until its end, at least.

        Raises:
            Forbidden: The login lies too far back.
            NotMonitored: The user has logged out.
            MXUnavailable: The extension was not watched yet, and the MX refuses the monitor.
        """
        with _counted(self.renewals):
            token, renewed = self._tokens.renew(identity, self._now())
            await self._sessions.resume(renewed.ext, renewed.expires_at)
            expires_in = renewed.expires_at - int(self._now())
            return Grant(token=token, expires_in=expires_in, ext=renewed.ext)

    async def log_out(self, identity: Identity) -> None:
        """Stop watching the extension; its streams end, its tokens stay good. Idempotent."""
        await self._sessions.close(identity.ext)
