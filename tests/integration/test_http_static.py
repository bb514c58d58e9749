"""Static files: what is served, how, and what never is."""

from __future__ import annotations

import os
import re
from email.utils import formatdate

import pytest
import pytest_twisted

TEXT = b"0123456789" * 100
# 2026-01-02 03:04:05 UTC.
MODIFIED = 1767323045
MODIFIED_TEXT = "Fri, 02 Jan 2026 03:04:05 GMT"


def write(running, name, data=TEXT):
    """Put a file into the folder."""
    path = running.html / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (MODIFIED, MODIFIED))
    return path


async def serving(daemon, *names):
    """Start a daemon with these files."""
    running = await daemon(ready=False)
    for name in names:
        write(running, name)
    return running


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("robots.txt", "text/plain; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.webmanifest", "application/manifest+json; charset=utf-8"),
        ("favicon.ico", "image/x-icon"),
        ("a.png", "image/png"),
        ("a.jpg", "image/jpeg"),
        ("a.gif", "image/gif"),
        ("a.webp", "image/webp"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.mp3", "audio/mpeg"),
        ("a.pdf", "application/pdf"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.tar.gz", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
        ("LICENSE", "application/octet-stream"),
        ("sub/deep/a.css", "text/css; charset=utf-8"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_files_have_their_media_type(daemon, name, content_type):
    """A file and one in a folder below come without a token, as what their names say they are."""
    running = await serving(daemon, name)
    reply = await running.raw("GET", f"/{name}")
    assert (reply.status, reply.body) == (200, TEXT)
    assert reply.header("content-type") == content_type
    assert reply.header("content-length") == str(len(TEXT))
    assert reply.header("content-encoding") is None
    assert reply.header("x-content-type-options") == "nosniff"


@pytest_twisted.ensureDeferred
async def test_no_other_site_frames_a_page(daemon):
    """Pages may stand in frames of this server alone: with a body, by HEAD, and unchanged."""
    running = await serving(daemon, "index.html", "sub/a.svg")
    for method, target, lines, status in (
        ("GET", "/", [], 200),
        ("HEAD", "/sub/a.svg", [], 200),
        ("GET", "/", [f"If-Modified-Since: {MODIFIED_TEXT}"], 304),
        ("GET", "/", ["Range: bytes=0-1"], 206),
    ):
        reply = await running.raw(method, target, *lines)
        assert reply.status == status
        assert reply.header("content-security-policy") == "frame-ancestors 'self'"


@pytest_twisted.ensureDeferred
async def test_named_sites_frame_pages(daemon):
    """Those in `frames` may show pages in a frame, and a reload names others."""
    running = await daemon(ready=False, frames=["https://crm.example.com", "http://localhost:81"])
    write(running, "index.html")
    policy = (await running.raw("GET", "/")).header("content-security-policy")
    assert policy == "frame-ancestors 'self' https://crm.example.com http://localhost:81"
    running.reload(frames=["https://new.example.com"])
    policy = (await running.raw("GET", "/")).header("content-security-policy")
    assert policy == "frame-ancestors 'self' https://new.example.com"


@pytest_twisted.ensureDeferred
async def test_names_are_unquoted(daemon):
    """A name with blanks, Cyrillic letters, percent and plus signs is found by its URL."""
    running = await serving(daemon, "цены 100%+1.txt")
    target = "/%D1%86%D0%B5%D0%BD%D1%8B%20100%25+1.txt"
    assert (await running.raw("GET", target)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_query_does_not_matter(daemon):
    """A version behind a question mark, which pages use against caches, is ignored."""
    running = await serving(daemon, "a.css")
    assert (await running.raw("GET", "/a.css?v=1&../x")).status == 200


@pytest_twisted.ensureDeferred
async def test_the_root_is_the_index(daemon):
    """`/` is `index.html`, and `/index.html` redirects there."""
    running = await serving(daemon, "index.html")
    root = await running.raw("GET", "/")
    assert (root.status, root.body) == (200, TEXT)
    assert root.header("content-type") == "text/html; charset=utf-8"
    redirect = await running.raw("GET", "/index.html")
    assert (redirect.status, redirect.header("location")) == (301, "/")


@pytest_twisted.ensureDeferred
async def test_a_folder_with_an_index_is_served(daemon):
    """`/sub/` is its index, `/sub` redirects there, so that the page's links are right."""
    running = await serving(daemon, "sub dir/index.html")
    index = await running.raw("GET", "/sub%20dir/")
    assert (index.status, index.body) == (200, TEXT)
    redirect = await running.raw("GET", "/sub%20dir")
    assert (redirect.status, redirect.header("location")) == (301, "/sub%20dir/")


@pytest_twisted.ensureDeferred
async def test_folders_are_not_listed(daemon):
    """A folder without an index is 404, with and without its slash, the root as well."""
    running = await serving(daemon, "sub/a.css")
    for target in ("/", "/sub", "/sub/", "/sub/."):
        reply = await running.raw("GET", target)
        assert (reply.status, reply.error) == (404, "not found")


@pytest_twisted.ensureDeferred
async def test_files_that_appear_and_change_are_seen(daemon):
    """The folder is read anew for each request: new files, new contents, and files that go."""
    running = await serving(daemon)
    assert (await running.raw("GET", "/a.css")).status == 404
    path = write(running, "a.css", b"one")
    first = await running.raw("GET", "/a.css")
    write(running, "a.css", b"three")
    second = await running.raw("GET", "/a.css")
    assert (first.body, second.body) == (b"one", b"three")
    assert first.header("etag") != second.header("etag")
    path.unlink()
    assert (await running.raw("GET", "/a.css")).status == 404


# --- Conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("If-None-Match: {etag}",), 304),
        (("If-None-Match: W/{etag}",), 304),
        (('If-None-Match: "x", {etag}',), 304),
        (('If-None-Match: "x"', "If-None-Match: {etag}"), 304),
        (("If-None-Match: *",), 304),
        (('If-None-Match: "x"',), 200),
        (("If-Modified-Since: {modified}",), 304),
        (("If-Modified-Since: {later}",), 304),
        (("If-Modified-Since: {earlier}",), 200),
        (("If-Modified-Since: rubbish",), 200),
        # RFC 9110, 13.1.3: the tag counts where both are given.
        (('If-None-Match: "x"', "If-Modified-Since: {modified}"), 200),
        (("If-None-Match: {etag}", "If-Modified-Since: {earlier}"), 304),
    ],
)
@pytest_twisted.ensureDeferred
async def test_conditions(daemon, lines, status):
    """`ETag` and `Last-Modified` let a client ask whether what it has is still good."""
    running = await serving(daemon, "a.css")
    full = await running.raw("GET", "/a.css")
    assert full.header("last-modified") == MODIFIED_TEXT
    values = {
        "etag": full.header("etag"),
        "modified": MODIFIED_TEXT,
        "later": formatdate(MODIFIED + 60, usegmt=True),
        "earlier": formatdate(MODIFIED - 60, usegmt=True),
    }
    reply = await running.raw("GET", "/a.css", *(line.format(**values) for line in lines))
    assert reply.status == status
    assert reply.body == (TEXT if status == 200 else b"")
    assert reply.header("etag") == full.header("etag")
    if status == 304:
        assert reply.header("content-type") is None
        # RFC 9110, 8.6: it would be the length of the file.
        assert reply.header("content-length") is None


# --- Ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=990-", 990, 1000),
        ("bytes=-10", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=500-5000", 500, 1000),
    ],
)
@pytest_twisted.ensureDeferred
async def test_one_range(daemon, ranges, start, end):
    """A range gives 206, that part, and where in the whole it stands."""
    running = await serving(daemon, "a.css")
    reply = await running.raw("GET", "/a.css", f"Range: {ranges}")
    assert (reply.status, reply.body) == (206, TEXT[start:end])
    assert reply.header("content-range") == f"bytes {start}-{end - 1}/1000"
    assert reply.header("content-length") == str(end - start)
    assert reply.header("content-type") == "text/css; charset=utf-8"
    assert reply.header("accept-ranges") == "bytes"


@pytest_twisted.ensureDeferred
async def test_several_ranges(daemon):
    """A few ranges give 206 in parts, each with its place and type."""
    running = await serving(daemon, "a.css")
    reply = await running.raw("GET", "/a.css", "Range: bytes=0-1,10-12, -2")
    assert reply.status == 206
    kind, _, boundary = reply.header("content-type").partition("; boundary=")
    assert kind == "multipart/byteranges"
    _, *parts, end = reply.body.split(b"--" + boundary.strip('"').encode())
    assert end.strip() == b"--"
    got = [part.strip().partition(b"\r\n\r\n")[::2] for part in parts]
    assert [body for _, body in got] == [b"01", b"012", b"89"]
    places = [re.search(rb"Content-range: (.*)", head, re.IGNORECASE)[1] for head, _ in got]
    places = [place.strip() for place in places]
    assert places == [b"bytes 0-1/1000", b"bytes 10-12/1000", b"bytes 998-999/1000"]
    assert all(b"text/css; charset=utf-8" in head for head, _ in got)


@pytest.mark.parametrize("ranges", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
@pytest_twisted.ensureDeferred
async def test_a_range_beyond_the_end_is_416(daemon, ranges):
    """A range that the file does not have is 416 in the form of all errors, with the length."""
    running = await serving(daemon, "a.css")
    reply = await running.raw("GET", "/a.css", f"Range: {ranges}")
    assert reply.status == 416
    assert reply.header("content-range") == "bytes */1000"
    assert reply.error
    assert reply.header("etag") is None


@pytest.mark.parametrize(
    "ranges",
    [
        "bytes=0-1,2-3,4-5,6-7,8-9,10-11,12-13,14-15,16-17",
        "bytes=" + ",".join(["0-"] * 200),
        "bytes=x",
        "bytes=5-1",
        "bytes=",
        "lines=0-1",
        "0-1",
        "bytes=--1",
    ],
)
@pytest_twisted.ensureDeferred
async def test_too_many_and_senseless_ranges_give_the_whole(daemon, ranges):
    """A range that makes no sense is ignored, and so is a list that would swell the answer."""
    running = await serving(daemon, "a.css")
    reply = await running.raw("GET", "/a.css", f"Range: {ranges}")
    assert (reply.status, reply.body) == (200, TEXT)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("{etag}", 206),
        (MODIFIED_TEXT, 206),
        ('"x"', 200),
        ("W/{etag}", 200),
        (formatdate(MODIFIED - 60, usegmt=True), 200),
        ("rubbish", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_range_of_a_changed_file_is_the_whole(daemon, condition, status):
    """`If-Range` asks for the part only if the file is still the same, else for the whole."""
    running = await serving(daemon, "a.css")
    etag = (await running.raw("GET", "/a.css")).header("etag")
    lines = ("Range: bytes=0-9", "If-Range: " + condition.format(etag=etag))
    reply = await running.raw("GET", "/a.css", *lines)
    assert (reply.status, reply.body) == (status, TEXT[:10] if status == 206 else TEXT)


# --- What is never served -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/sub/../a.css",
        "/./a.css",
        "//a.css",
        "/sub//a.css",
        "/..",
        "/../",
        "/.",
        "/%2e%2e/secret.txt",
        "/%2E%2E/secret.txt",
        "/.%2e/secret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/sub%2fa.css",
        "/%2fetc%2fpasswd",
        "//etc/passwd",
        "/%2e%2e%5csecret.txt",
        "/..%5csecret.txt",
        "/sub%5ca.css",
        "/sub\\a.css",
        "/..\\secret.txt",
        "/a.css%00",
        "/a.css%00.html",
        "/%00",
        "/%c0%ae%c0%ae/secret.txt",
        "/%c0%af",
        "/..%c0%afsecret.txt",
        "/%e0%80%ae%e0%80%ae/secret.txt",
        "/%252e%252e/secret.txt",
        "/..%252fsecret.txt",
        "/%uff0e%uff0e/secret.txt",
        "/%ff",
        "/%",
        "/%zz",
        "/a.css/",
        "/a.css/x",
        "/" + "x" * 300,
        "/" + "x/" * 3000,
        "/.hidden",
        "/%2ehidden",
        "/.well/a.css",
        "/sub/.hidden",
        "/outside.txt",
        "/outside/secret.txt",
        "/loop",
        "/pipe",
    ],
)
@pytest_twisted.ensureDeferred
async def test_nothing_outside_the_folder_is_served(daemon, target):
    """No dot names, no way out of the folder by any spelling or link, no FIFO: 404 in JSON."""
    running = await serving(daemon, "a.css", "sub/a.css", ".hidden", ".well/a.css", "sub/.hidden")
    outside = running.html.parent
    (outside / "secret.txt").write_text("secret")
    (running.html / "outside.txt").symlink_to(outside / "secret.txt")
    (running.html / "outside").symlink_to(outside)
    (running.html / "loop").symlink_to("loop")
    os.mkfifo(running.html / "pipe")
    reply = await running.raw("GET", target)
    assert (reply.status, reply.error) == (404, "not found")


@pytest_twisted.ensureDeferred
async def test_links_within_the_folder_are_served(daemon):
    """A link that stays inside is as good as the file; one to a hidden file is not."""
    running = await serving(daemon, "a.css", ".hidden")
    (running.html / "b.css").symlink_to("a.css")
    (running.html / "c.css").symlink_to(".hidden")
    assert (await running.raw("GET", "/b.css")).body == TEXT
    assert (await running.raw("GET", "/c.css")).status == 404


@pytest_twisted.ensureDeferred
async def test_a_folder_with_the_name_of_a_file_is_404(daemon):
    """What looks like a file and is a folder has nothing to serve."""
    running = await serving(daemon)
    (running.html / "folder.css").mkdir()
    assert (await running.raw("GET", "/folder.css")).status == 404
