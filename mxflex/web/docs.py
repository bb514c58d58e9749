"""The page that shows the OpenAPI document, and the files that it needs.

The viewer is openapi-explorer, kept in the folder `viewer` as npm has it (`make viewer` renews it).
Nothing comes from elsewhere: the page's policy lets the browser ask this server alone.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from twisted.web.http import Request

from mxflex.web.render import Body, send_tagged

PAGE = "index.html"
# What the page may ask for, besides the document.
FILES = {
    "openapi-explorer.min.js": b"text/javascript; charset=utf-8",
    "style.css": b"text/css; charset=utf-8",
}
_TYPES = {PAGE: b"text/html; charset=utf-8", **FILES}
# The viewer writes style sheets and style attributes of its own; scripts it only brings along.
# Source: W3C, Content Security Policy Level 3.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:;"
    b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def send_page(request: Request) -> bytes:
    """Answer with the page."""
    request.setHeader(b"content-security-policy", POLICY)
    request.setHeader(b"referrer-policy", b"no-referrer")
    return send_file(request, PAGE)


def send_file(request: Request, name: str) -> bytes:
    """Answer with a file of the folder `viewer`, which must be one of those above."""
    request.setHeader(b"x-content-type-options", b"nosniff")
    return send_tagged(request, _read(name), b"no-cache")


@cache
def _read(name: str) -> Body:
    return Body(files("mxflex.web").joinpath("viewer", name).read_bytes(), _TYPES[name])
