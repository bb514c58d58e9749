"""One attempt to give a message to its receiver.

A plain `Agent` is what is wanted here, and nothing on top of it: no redirects, no cookies, and no
decompressing of answers that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionClosed,
    ConnectionRefusedError,  # noqa: A004 - Twisted's own
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import FileBodyProducer, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from mxflex import __version__
from mxflex.config import WebhookSettings
from mxflex.webhooks.signing import sign

log = Logger()

GONE = 410
# So much of an answer is thrown away for the sake of its connection; a longer one costs it.
MAX_ANSWER_BYTES = 64 * 1024
# A receiver may ask for no longer pause than this, in seconds.
MAX_RETRY_AFTER_SECONDS = 3600.0


@attrs.frozen(kw_only=True)
class Reply:
    """How an attempt went.

    Attributes:
        error: Why it failed, fit to be shown; "" when the receiver has taken the message.
        gone: Whether the receiver wants no more messages, ever.
        retry_after: Seconds in which it wants none; None when it does not say.
    """

    error: str = ""
    gone: bool = False
    retry_after: float | None = None


class Receiver:
    """Posts messages to a URL.

    Args:
        clock: Gives the time, in seconds since the epoch, and delayed calls.
        agent: Makes requests. It should keep connections.
        settings: Where, how signed, and how long it may take.
        hang_up: Ends the connections that are kept.
    """

    def __init__(
        self,
        clock: IReactorTime,
        agent: IAgent,
        settings: WebhookSettings,
        hang_up: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._agent = agent
        self._settings = settings
        self.hang_up = hang_up

    def post(self, message_id: str, body: bytes) -> Deferred[Reply]:
        """Try once to give a message to the receiver, and fire with how it went; never fails.

        Cancelling closes the connection.
        """
        broken_off = False

        def break_off(_: object) -> None:
            nonlocal broken_off
            broken_off = True
            attempt.cancel()
            tell(BROKEN_OFF)

        def tell(reply: Reply) -> None:
            if not told.called:
                told.callback(reply)

        told: Deferred[Reply] = Deferred(break_off)
        attempt = Deferred.fromCoroutine(self._post(message_id, body, lambda: broken_off))
        attempt.addCallback(tell)
        attempt.addErrback(lambda failure: log.failure("an attempt failed by a bug", failure))
        seconds = self._settings.timeout
        late = Reply(error=f"no answer within {seconds:g} s")
        return told.addTimeout(
            seconds, self._clock, lambda reply, _: late if reply == BROKEN_OFF else reply
        )

    async def _post(self, message_id: str, body: bytes, is_broken_off: Callable[[], bool]) -> Reply:
        try:
            response = await self._agent.request(
                b"POST",
                self._settings.url.encode("ascii"),
                self._headers(message_id, body),
                FileBodyProducer(BytesIO(body)),
            )
        except Exception as error:
            return BROKEN_OFF if is_broken_off() else Reply(error=_explain(error))
        reply = _judge(response, self._clock.seconds())
        await _throw_away(response)
        return reply

    def _headers(self, message_id: str, body: bytes) -> Headers:
        settings = self._settings
        # Of this attempt: receivers refuse what was signed long ago.
        timestamp = int(self._clock.seconds())
        headers = Headers({name: [value] for name, value in settings.headers})
        for name, value in (
            ("content-type", "application/json"),
            ("user-agent", f"MXFlex/{__version__}"),
            ("webhook-id", message_id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", sign(settings.secrets, message_id, timestamp, body)),
        ):
            headers.setRawHeaders(name, [value])
        return headers


def _judge(response: IResponse, now: float) -> Reply:
    """Tell what a status means (Standard Webhooks 1.0.0, "Delivery")."""
    code = response.code
    if 200 <= code < 300:  # noqa: PLR2004 - RFC 9110, 15.3
        return Reply()
    return Reply(
        error=f"the receiver answered {code}",
        gone=code == GONE,
        retry_after=_retry_after(response, now),
    )


def _retry_after(response: IResponse, now: float) -> float | None:
    """Read `Retry-After`, seconds or a date (RFC 9110, 10.2.3)."""
    lines = response.headers.getRawHeaders(b"retry-after") or [b""]
    text = lines[0].decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        # More digits than that are for ever anyway, and int() refuses thousands.
        return min(float(text[:12]), MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _explain(error: Exception) -> str:
    """Say in one sentence, without addresses and secrets, why no answer came."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        # A request that had begun: the first reason is what ended it.
        error = reasons[0].value
    if isinstance(error, SSL.Error):
        text = error.args[0][-1][-1] if error.args and error.args[0] else "the connection ended"
        return f"TLS with the receiver failed: {text}"
    for kind, text in _EXPLANATIONS.items():
        if isinstance(error, kind):
            return text
    if reasons or type(error).__module__.startswith("twisted.web"):
        # Whatever a parser makes of bytes that are none of HTTP.
        return "the receiver does not answer in HTTP"
    log.failure("an attempt failed by a bug", Failure(error))
    return "a bug of MXFlex, see its log"


# Whoever cancels knows better why.
BROKEN_OFF = Reply(error="the attempt was broken off")
_EXPLANATIONS: dict[type[Exception], str] = {
    ConnectionRefusedError: "the receiver refuses connections",
    DNSLookupError: "the name of the receiver is not known",
    ConnectError: "the receiver cannot be reached",
    # By us: see `mxflex.webhooks.connections`.
    ConnectionAborted: "the answer of the receiver is too long",
    ConnectionClosed: "the receiver closed the connection without an answer",
}


def _throw_away(response: IResponse) -> Deferred[None]:
    """Wait for the end of an answer, so that its connection can be used again; never fails."""
    body = _ThrownAway()
    response.deliverBody(body)
    return body.ended


class _ThrownAway(Protocol):
    """Reads an answer and keeps nothing.

    Attributes:
        ended: Fires at its end, or when it is too long. Cancelling closes the connection.
    """

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred(lambda _: self._hang_up())
        self._left = MAX_ANSWER_BYTES

    def _hang_up(self) -> None:
        # Not loseConnection, which over TLS waits for the other side.
        if self.transport is not None:
            self.transport.stopProducing()
        self._end()

    def _end(self) -> None:
        if not self.ended.called:
            self.ended.callback(None)

    def dataReceived(self, data: bytes) -> None:
        """Throw a part away, or hang up."""
        self._left -= len(data)
        if self._left < 0:
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Be done, in whatever way it ended: the status is known."""
        if not reason.check(ResponseDone, PotentialDataLoss):
            log.debug("an answer ended early: {reason}", reason=reason.getErrorMessage())
        self._end()
