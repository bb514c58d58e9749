"""Every exception of MXFlex. This module imports nothing of the project.

The classes know no HTTP status: `mxflex.web.render` holds the one table that maps them. The text of
an exception is one sentence without a trailing dot, fit for whoever receives it.
"""

from __future__ import annotations


class MXFlexError(Exception):
    """The root of all errors that MXFlex raises on purpose."""


class ConfigError(MXFlexError):
    """A mistake in the configuration; the process does not start.

    Args:
        source: Where the mistake stands: the file's name, or the name of an environment variable.
        key: The path of the key (`mx.addr`), or "" when the text as a whole is at fault.
        expected: What is wrong there and what would be right.
    """

    def __init__(self, source: str, key: str, expected: str) -> None:
        self.source = source
        self.key = key
        self.expected = expected
        super().__init__(": ".join(part for part in (source, key, expected) if part))


class WireError(MXFlexError):
    """Something is wrong with the bytes between MXFlex and an MX."""


class LocalProtocolError(WireError):
    """We tried to send what the protocol cannot carry: too long, or characters XML forbids."""


class RemoteProtocolError(WireError):
    """The peer broke the framing; where the next frame begins is unknown, so the link must end."""


class BadBody(WireError):
    """The body of one frame is not the XML it should be; the next frame may be sound."""


class MXError(MXFlexError):
    """The MX said no, or nothing."""


class LoginRefused(MXError):
    """The MX answered `loginFailed`; the text is the MX's own.

    Args:
        text: The MX's words.
        code: The attribute `Code` of the answer.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        self.code = code
        super().__init__(text)


class CommandRefused(MXError):
    """The MX answered a command with `CSTAErrorCode`; the text is the MX's own.

    Args:
        text: The MX's words, such as `invalidConnectionID`.
        category: The ECMA-269 error category, such as `operation`; "" when there was none.
    """

    def __init__(self, text: str, category: str = "") -> None:
        self.category = category
        super().__init__(text)


class MXUnavailable(MXError):
    """There is no working connection to the MX at this moment."""


class MXTimeout(MXError):
    """The MX did not answer within the configured time."""


class MXBusy(MXUnavailable):
    """More logins wait for the MX than MXFlex lets queue."""


class ServiceUnavailable(MXFlexError):
    """MXFlex itself cannot take more at this moment, whatever the MX does (RFC 9110, 15.6.4).

    Args:
        text: The sentence for the client.
        retry_after: Seconds until it is worth trying again.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(text)


class CertificateError(MXFlexError):
    """A certificate for the web side cannot be had or used; the service goes on without it."""


class StorageError(MXFlexError):
    """The disk does not do what it should; nothing was changed there."""


class RequestError(MXFlexError):
    """The HTTP client asked for something that cannot be answered as it was asked."""


class BadRequest(RequestError):
    """A field is missing, doubled or malformed."""


class Unauthorized(RequestError):
    """No token came with the request."""


class InvalidToken(Unauthorized):
    """The token is malformed, has ended, or was not signed by this server (RFC 6750, 3.1)."""


class Forbidden(RequestError):
    """The token is good, but does not give the right to do this."""


class NotMonitored(Forbidden):
    """The extension is not monitored: the user has logged out."""


class NotAcceptable(RequestError):
    """The client accepts no media type that this resource has (RFC 9110, 15.5.7)."""


class TooLarge(RequestError):
    """The body of the request passes the limit (RFC 9110, 15.5.14)."""


class UnsupportedType(RequestError):
    """The body has a media type or a charset that MXFlex does not read (RFC 9110, 15.5.16)."""


class TooManyRequests(RequestError):
    """Too many failed logins, or open streams, of one name, token or address (RFC 6585, 4).

    Args:
        text: The sentence for the client.
        retry_after: Seconds until it is worth trying again.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(text)
