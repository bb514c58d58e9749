"""The check of a person's password, on a connection of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager

import attrs

from mxflex.errors import CommandRefused, LoginRefused
from mxflex.mx.places import Places
from mxflex.mx.session import Dialer, log_out
from mxflex.wire.messages import LoginRequest


@attrs.frozen(kw_only=True)
class Account:
    """Whom the MX knows by that login.

    Attributes:
        serial: The MX's serial number.
        ext: The person's extension; "" for an account without a telephone.
        jid: The person's user id, over 2**53.
    """

    serial: str
    ext: str
    jid: int


class LoginCheck:
    """Asks the MX whether a login and a password belong together.

    Each check opens its own connection, as `User` on platform `CRM`, and closes it as soon as the
    MX has answered. A bounded number runs at once, a bounded number waits.

    Args:
        dialer: Opens the connections.
        parallel: Checks that run at the same time.
        queue: Checks that may wait for one of those places.

    Source: owner's description, "Authorization of the user".
    """

    def __init__(self, dialer: Dialer, parallel: int, queue: int) -> None:
        self._dialer = dialer
        self._places = Places(parallel, max_waiting=queue)

    def limit(self, parallel: int, queue: int) -> None:
        """Set other limits; checks that run or wait go on."""
        self._places.resize(parallel, queue)

    async def verify(
        self, login: str, password: str, attempt: AbstractContextManager[None]
    ) -> Account:
        """Give the account of a login.

        Args:
            login: As the person typed it.
            password: As the person typed it.
            attempt: Held while the MX is asked, from the moment the check has its place; it may
                refuse, and sees how the check ended before anybody else has the place.

        Raises:
            LoginRefused: The MX said no; the text is its own.
            MXBusy: Too many checks wait already.
            MXUnavailable: The MX cannot be reached, or ended the connection.
            MXTimeout: The MX did not answer in time.
            LocalProtocolError: Login or password cannot be sent as XML, or are too long.
        """
        async with self._places:
            with attempt:
                return await self._ask(login, password)

    async def _ask(self, login: str, password: str) -> Account:
        request = LoginRequest(
            type="User", platform="CRM", version="1.0", user_name=login, password=password
        )
        try:
            protocol, answer = await self._dialer.log_in(request)
        except CommandRefused as error:
            # Some servers refuse a login as they refuse any command.
            raise LoginRefused(str(error)) from error
        log_out(protocol)
        return Account(serial=answer.serial, ext=answer.ext, jid=answer.user_id or 0)
