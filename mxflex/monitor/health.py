"""Whether the daemon can do its work now, check by check."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from mxflex.certs.context import ServingCertificate
from mxflex.mx.link import LinkState, ServerLink

_LINK = {
    LinkState.STOPPED: "the server connection to the MX is stopped",
    LinkState.CONNECTING: "the server connection to the MX is being made",
    LinkState.RESTORING: "the server connection is there, its monitors are not yet",
    LinkState.WAITING: "the server connection to the MX is down, and will be tried again",
}


@attrs.frozen(kw_only=True)
class Check:
    """How one thing stands.

    Attributes:
        name: What it is.
        reason: Why it is not as it should be; "" where it is.
    """

    name: str
    reason: str

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return not self.reason


class Health:
    """The checks. No reason names an address, a login or a path.

    Args:
        clock: Gives the time, in seconds since the epoch.
        link: The server connection.
        certificate: What HTTPS shows; None without HTTPS.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        link: ServerLink,
        certificate: ServingCertificate | None,
    ) -> None:
        self._clock = clock
        self._link = link
        self._certificate = certificate

    def checks(self) -> list[Check]:
        """Give how things stand at this moment."""
        checks = [Check(name="mx", reason=_LINK.get(self._link.state, ""))]
        if self._certificate is not None:
            checks.append(Check(name="certificate", reason=self._doubt(self._certificate)))
        return checks

    def _doubt(self, serving: ServingCertificate) -> str:
        if not serving.real:
            return "there is no certificate yet; a self-signed one stands in"
        now = self._clock()
        if now >= serving.certificate.not_valid_after_utc.timestamp():
            return "the certificate has expired"
        if now < serving.certificate.not_valid_before_utc.timestamp():
            return "the certificate is not valid yet"
        return ""
