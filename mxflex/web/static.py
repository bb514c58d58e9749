"""The folder of static files: pages, scripts, pictures; no token needed.

Source: owner's description, "Static files"; RFC 9110 for validators and ranges.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import File
from werkzeug.http import http_date, is_resource_modified

from mxflex.web.fields import read_list
from mxflex.web.render import send_error, send_method_not_allowed

INDEX = "index.html"
# Some clients ask for a few parts of a file. Hundreds of them, overlapping, are an attack that
# makes a small file a long answer; the whole file is the answer then (RFC 9110, 14.2).
MAX_RANGES = 8
NO_SUCH_RANGE = 416
_RANGE = re.compile(r"\s*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))\s*")

# The library's own table alone: what the machine has in /etc/mime.types must not matter.
_TYPES = mimetypes.MimeTypes()
for _type, _extension in (
    ("text/javascript", ".js"),
    ("text/javascript", ".mjs"),
    ("application/manifest+json", ".webmanifest"),
    ("application/json", ".map"),
    ("application/yaml", ".yaml"),
    ("font/woff", ".woff"),
    ("font/woff2", ".woff2"),
    ("image/avif", ".avif"),
    ("image/webp", ".webp"),
    ("image/x-icon", ".ico"),
    ("text/markdown", ".md"),
):
    _TYPES.add_type(_type, _extension)
_TEXTS = ("application/json", "application/manifest+json", "application/yaml", "image/svg+xml")


def media_type(name: str) -> str:
    """Give the `Content-Type` of a file by its name."""
    guessed, encoding = _TYPES.guess_type(name)
    if guessed is None or encoding is not None:
        # A compressed archive is offered as it is, not unpacked on the way.
        return "application/octet-stream"
    if guessed.startswith("text/") or guessed in _TEXTS:
        return f"{guessed}; charset=utf-8"
    return guessed


class StaticFiles(Resource):
    """Serves the files of one folder and of the folders below it.

    No listings, no name that begins with a dot, and nothing outside the folder, however the path is
    spelled and wherever a link points.

    Args:
        root: The folder. It may appear later.
        frames: Origins of other sites whose pages may show ours in a frame.
    """

    isLeaf = True

    def __init__(self, root: str, frames: Sequence[str] = ()) -> None:
        super().__init__()
        self.use(root)
        self.let_frame(frames)

    def use(self, root: str) -> None:
        """Serve another folder from now on."""
        self._root = Path(root).resolve()

    def let_frame(self, origins: Sequence[str]) -> None:
        """Let pages of these sites show ours in a frame from now on, and those of no others.

        A page that is shown unseen in another has its buttons pressed by people who mean something
        else. Source: W3C, Content Security Policy Level 3, 6.4.2.
        """
        self._policy = " ".join(("frame-ancestors 'self'", *origins)).encode("ascii")

    def render(self, request: Request) -> bytes | int:
        """Answer with a file, a redirection, or 404."""
        if request.method not in (b"GET", b"HEAD"):
            return send_method_not_allowed(request, ("GET", "HEAD"))
        segments = _segments(request.postpath or [])
        path = None if segments is None else self._find(segments)
        if segments is None or path is None:
            return send_error(request, 404, "not found")
        if segments == [INDEX]:
            return _redirect(request, "/")
        if path.is_dir():
            return _redirect(request, "/" + quote("/".join(segments)) + "/")
        request.setHeader(b"content-security-policy", self._policy)
        return _send_file(request, path)

    def _find(self, segments: list[str]) -> Path | None:
        """Give the path of the file, or of a folder with an index that lacks its slash."""
        try:
            path = self._root.joinpath(*segments[:-1], segments[-1] or INDEX).resolve()
            # A link may neither leave the folder nor show what is hidden in it.
            if not path.is_relative_to(self._root) or _is_hidden(path.relative_to(self._root)):
                return None
            if path.is_dir():
                return path if (path / INDEX).is_file() else None
            # Nothing but files: a FIFO would wait for its other end for ever.
            return path if path.is_file() else None
        except (OSError, ValueError, RuntimeError):
            # Names too long, links in a circle.
            return None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _segments(postpath: list[bytes]) -> list[str] | None:
    """Give the parts of a path that may name a file of ours; None for any other."""
    try:
        segments = [part.decode("utf-8") for part in postpath]
    except UnicodeDecodeError:
        return None
    for position, part in enumerate(segments):
        last = position == len(segments) - 1
        if part.startswith(".") or set(part) & {"/", "\\", "\0"} or not (part or last):
            return None
    return segments or [""]


def _redirect(request: Request, to: str) -> bytes:
    request.setResponseCode(301)
    request.setHeader(b"location", to.encode("ascii"))
    request.setHeader(b"content-length", b"0")
    return b""


def _send_file(request: Request, path: Path) -> bytes | int:
    file = File(str(path))
    content_type = media_type(path.name)
    file.type, file.encoding = content_type, None
    try:
        content = file.open()
    except OSError:
        # Removed or made unreadable in this moment.
        return send_error(request, 404, "not found")
    status = os.fstat(content.fileno())
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    modified = datetime.fromtimestamp(int(status.st_mtime), UTC)
    request.setHeader(b"etag", f'"{etag}"'.encode("ascii"))
    request.setHeader(b"last-modified", http_date(modified).encode("ascii"))
    # May be kept, but must be asked for again: pages change with the next release.
    request.setHeader(b"cache-control", b"no-cache")
    request.setHeader(b"x-content-type-options", b"nosniff")
    request.setHeader(b"accept-ranges", b"bytes")
    if not is_resource_modified(_conditions(request), etag=etag, last_modified=modified):
        content.close()
        request.setResponseCode(304)
        # Not as a body: its length would be told, which is that of the file (RFC 9110, 8.6).
        request.finish()
        return NOT_DONE_YET
    if request.method == b"HEAD":
        content.close()
        request.setHeader(b"content-type", content_type.encode("ascii"))
        request.setHeader(b"content-length", b"%d" % status.st_size)
        return b""
    ranges = _ranges(request.getHeader("range") or "", status.st_size)
    if ranges and _is_unchanged(request, etag, modified):
        request.requestHeaders.setRawHeaders(b"range", [b"bytes=" + b",".join(ranges)])
    else:
        request.requestHeaders.removeHeader(b"range")
    producer = file.makeProducer(request, content)
    if request.code == NO_SUCH_RANGE:
        # Twisted has set `Content-Range`, and would send no body.
        content.close()
        for name in (b"etag", b"last-modified"):
            # They would speak of the body, which is not the file's.
            request.responseHeaders.removeHeader(name)
        return send_error(request, NO_SUCH_RANGE, "the file is shorter than that range")
    producer.start()
    return NOT_DONE_YET


def _conditions(request: Request) -> dict[str, str]:
    """Give the request's conditions as werkzeug reads them."""
    names = {"HTTP_IF_NONE_MATCH": "if-none-match", "HTTP_IF_MODIFIED_SINCE": "if-modified-since"}
    given = {key: read_list(request, name) for key, name in names.items()}
    return {"REQUEST_METHOD": "GET", **{key: value for key, value in given.items() if value}}


def _ranges(header: str, size: int) -> list[bytes] | None:
    """Give the ranges of a `Range` header, each from its first byte on (RFC 9110, 14.1.2).

    None if there is none, or it makes no sense, or it asks for too many. Twisted must not see a
    suffix: it takes one that is longer than the file for a place before its beginning.
    """
    unit, _, texts = header.partition("=")
    specs = texts.split(",")
    if unit.strip().lower() != "bytes" or len(specs) > MAX_RANGES:
        return None
    ranges = []
    for spec in specs:
        match = _RANGE.fullmatch(spec)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix:
            first, last = str(max(0, size - int(suffix))), ""
        elif last and int(last) < int(first):
            return None
        ranges.append(f"{first}-{last}".encode("ascii"))
    return ranges


def _is_unchanged(request: Request, etag: str, modified: datetime) -> bool:
    """Tell whether a part of the file fits the parts that the client has (RFC 9110, 13.1.5)."""
    unless = request.getHeader("if-range")
    return unless is None or unless in (f'"{etag}"', http_date(modified))
