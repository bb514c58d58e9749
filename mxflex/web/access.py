"""Who asks: the token or the ticket, the address behind proxies, and by what name they ask."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network

from twisted.web.http import Request

from mxflex.errors import Unauthorized, UnsupportedType
from mxflex.requestid import new_request_id
from mxflex.web.fields import Fields, has_body, read_body, read_query

_SCHEME = "bearer"
# What proxies make: hex digits, UUIDs, ULIDs, base64url. Nothing in it means anything in a log, in
# JSON or in a header.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def find_token(request: Request, *, in_url: bool) -> str:
    """Give the access token: from the header, else the body, else the URL.

    Source: docs/api.md, "Tokens"; RFC 6750, 2.

    Args:
        request: The request.
        in_url: Whether one that stands in the URL counts.

    Raises:
        Unauthorized: There is none, or (`InvalidToken`) one that cannot be any.
        BadRequest: The body or the query, where it had to be sought, is malformed.
    """
    token = _token_of_header(request) or _token_of_body(request)
    if token:
        return token
    token = _token_in(read_query(request))
    if not token:
        raise Unauthorized("access token required")
    if not in_url:
        raise Unauthorized("an access token in the URL does not count on this server")
    return token


def find_ticket(request: Request) -> str | None:
    """Give the ticket of the URL, or None where there is none, or a token in the header.

    Source: docs/api.md, "Tickets".

    Raises:
        InvalidToken: It cannot be any.
        BadRequest: The query, where it had to be sought, is malformed.
    """
    if _token_of_header(request):
        return None
    return (
        read_query(request).credential("ticket", "the ticket is not valid, or has been used")
        or None
    )


def _token_of_header(request: Request) -> str:
    header = request.getHeader("authorization") or ""
    scheme, _, credentials = header.partition(" ")
    return credentials.strip() if scheme.lower() == _SCHEME else ""


def _token_of_body(request: Request) -> str | None:
    try:
        return _token_in(read_body(request)) if has_body(request) else None
    except UnsupportedType:
        # Whoever needs the fields of this body will refuse it; logging out needs none.
        return None


def _token_in(fields: Fields) -> str | None:
    return fields.credential("access_token", "the access token is not valid")


def check_body(request: Request) -> None:
    """Refuse a body that is malformed, where at most a token may stand in it.

    Raises:
        BadRequest, InvalidToken: As `find_token`, though the token stands elsewhere.
    """
    _token_of_body(request)


def client_address(request: Request, proxies: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """Give the address of the client, as far as it can be believed.

    A peer that is no configured proxy is the client. What a proxy says in `X-Forwarded-For` is
    believed from the right: the first address from there that is no proxy of ours.
    """
    address = peer_of(request)
    if not proxies or not _is_proxy(address, proxies):
        return address
    forwarded = b",".join(request.requestHeaders.getRawHeaders(b"x-forwarded-for") or [])
    for hop in reversed([each.strip() for each in forwarded.decode("latin-1").split(",")]):
        if _parse(hop) is None:
            break
        address = hop
        if not _is_proxy(address, proxies):
            break
    return address


def request_id(request: Request, proxies: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """Give the name of a request: the one that a configured proxy gave it, or a new one."""
    given = request.requestHeaders.getRawHeaders(b"x-request-id") if proxies else None
    if (
        given
        and len(given) == 1
        and _REQUEST_ID.fullmatch(given[0])
        and _is_proxy(peer_of(request), proxies)
    ):
        return given[0].decode("ascii")
    return new_request_id()


def peer_of(request: Request) -> str:
    """Give the address at the other end of the connection."""
    return str(getattr(request.getClientAddress(), "host", "")) or "local"


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _is_proxy(address: str, proxies: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    ip = _parse(address)
    return ip is not None and any(ip in network for network in proxies)
