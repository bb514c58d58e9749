"""The three servers, each with its source of events, each in processes of its own."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlencode

import attrs
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.generator import FLOOR
from benchmarks.plan import Transport
from benchmarks.processes import BenchmarkError, Program
from benchmarks.sample import PASSWORD, SERVER_LOGIN, SERVER_PASSWORD, login_of
from mxflex.simulator.certificate import Certificate
from mxflex.simulator.server import LOOPBACK

MXFLEX, NCHAN, FLOOR_NAME = "MXFlex", "nchan", "C floor"

# A server is ready within so many seconds, or something is wrong.
PATIENCE = 20.0
_STEP = 0.05
# All streams come from one address here, and mostly with one token.
_MAX_STREAMS = 1_000_000
_ROOT = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
_NCHAN_MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_nchan_module.so"),
)

# What a browser sends along: a server has to read it, and may be keeping it.
_BROWSER = (
    "accept-language: en-GB,en;q=0.9,de;q=0.8",
    "accept-encoding: gzip, deflate, br",
    "cache-control: no-cache",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "referer: https://localhost/",
    "sec-fetch-mode: cors",
    "sec-fetch-site: same-origin",
)


@attrs.define(eq=False)
class Stand:
    """A server that is ready, and its source.

    Attributes:
        server: What is measured.
        source: Makes events when told.
        port: Where the streams are.
        target: What they ask for.
        headers: With these headers.
        token: Of somebody logged in; MXFlex alone has such a thing.
        mx_port: The port of its MX; 0 for the others.
    """

    server: Program
    source: Program
    port: int
    target: str
    headers: tuple[str, ...] = _BROWSER
    token: str = ""
    mx_port: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        # First the one that connects to the other.
        self.server.stop()
        self.source.stop()

    def send(self, count: int) -> None:
        """Let the source send so many events at once."""
        self.source.tell(json.dumps({"send": count}))

    def pace(self, rate: float, burst: int, count: int) -> None:
        """Let the source send so many events, in bursts, at a rate a second."""
        self.source.tell(json.dumps({"rate": rate, "burst": burst, "count": count}))


Start = Callable[[Path, Transport], Stand]


def free_port() -> int:
    """Give a port of the loopback address that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate and its key, the same kind for all servers: P-256."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not key.exists():
        made = Certificate.issue("localhost", "localhost", LOOPBACK)
        certificate.write_bytes(made.pem)
        key.write_bytes(made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
    return certificate, key


def start_module(name: str, module: str, folder: Path, *words: str) -> Program:
    """Start a module of this package as a program of its own."""
    command = [sys.executable, "-m", module, *words]
    # The package is not installed; Python finds it from here.
    return Program(name, ["/usr/bin/env", f"PYTHONPATH={_ROOT}", *command], folder)


def _source(folder: Path, *words: str) -> Program:
    return start_module("source", "benchmarks.source", folder, *words)


def _until(condition: Callable[[], bool], server: Program) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if not server.running:
            raise server.failure("has ended")
        if time.monotonic() > deadline:
            raise server.failure(f"was not ready in {PATIENCE:.0f} s")
        time.sleep(_STEP)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


# --- MXFlex ---------------------------------------------------------------------------------------


def start_mxflex(folder: Path, transport: Transport) -> Stand:
    """Start the installed `twistd mxflex`, with a simulated MX in another process.

    It serves everything over TLS too, with a certificate from files; somebody is logged in.
    """
    source = _source(folder, "mx")
    try:
        mx_port = source.read(PATIENCE)["port"]
        # A polite end of ten thousand streams takes a while, and is not what is measured.
        server, port = start_daemon(folder, transport, mx_port, polite=False)
    except BaseException:
        source.stop()
        raise
    stand = Stand(server=server, source=source, port=port, target="/api/events", mx_port=mx_port)
    try:
        _until(lambda: _log_in(stand, transport), server)
    except BaseException:
        stand.__exit__()
        raise
    stand.headers = (f"authorization: Bearer {stand.token}", *_BROWSER)
    return stand


def start_daemon(
    folder: Path,
    transport: Transport,
    mx_port: int,
    *,
    name: str = "mxflex",
    account: str = SERVER_LOGIN,
    settings: Mapping[str, Any] = MappingProxyType({}),
    polite: bool = True,
) -> tuple[Program, int]:
    """Start the installed `twistd mxflex`.

    Args:
        folder: Where its configuration and its log go.
        transport: Plain, or TLS with HTTP/2.
        mx_port: Where the MX is.
        name: Names its files.
        account: Its login at the MX.
        settings: Further keys of its configuration.
        polite: Whether it is asked to end, at the end.

    Returns:
        The daemon, once it listens, and its port.
    """
    port = free_port()
    configuration: dict[str, object] = {
        "host": f"localhost:{port}",
        "listen": [f"tcp:{port}:interface={LOOPBACK}"],
        "html": str(folder),
        "mx": {
            "addr": f"{LOOPBACK}:{mx_port}",
            "login": account,
            "password": SERVER_PASSWORD,
            "verify": "none",
        },
        "events": dict.fromkeys(("max_per_token", "max_per_address", "max_streams"), _MAX_STREAMS),
    }
    for name_of_section, value in settings.items():
        section = configuration.get(name_of_section)
        merged = {**section, **value} if isinstance(section, dict) else value
        configuration[name_of_section] = merged
    if transport is not Transport.PLAIN:
        certificate, key = make_certificate(folder)
        configuration["tls"] = {"certificate": str(certificate), "key": str(key)}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    words = ("--nodaemon", "--pidfile=", "mxflex", "--config", path)
    server = Program(name, [_BIN / "twistd", *words], folder, answers=False, polite=polite)
    try:
        _until(lambda: _listens(port), server)
    except BaseException:
        server.stop()
        raise
    return server, port


def _log_in(stand: Stand, transport: Transport) -> bool:
    stand.token = log_in(stand.port, transport, 0)
    return bool(stand.token)


def log_in(port: int, transport: Transport, person: int) -> str:
    """Log somebody in, and give the token; "" while there is no MX."""
    connection = connect(port, transport)
    try:
        body = urlencode({"login": login_of(person), "password": PASSWORD})
        form = {"content-type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/api/login", body, form)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status == http.client.OK:
        token: str = json.loads(content)["access_token"]
        return token
    if answer.status not in (http.client.SERVICE_UNAVAILABLE, http.client.GATEWAY_TIMEOUT):
        raise BenchmarkError(f"the login was answered {answer.status}: {content!r}")
    return ""


def connect(port: int, transport: Transport = Transport.PLAIN) -> http.client.HTTPConnection:
    """Give a connection for plain requests, over TLS if that is what is spoken there."""
    if transport is Transport.PLAIN:
        return http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(LOOPBACK, port, timeout=PATIENCE, context=context)


# --- nginx with nchan -----------------------------------------------------------------------------

_NGINX = """\
load_module {module};
{user}
daemon off;
# One process that works, as MXFlex is one.
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log warn;
events {{
    worker_connections {connections};
}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    tcp_nodelay on;
    # The publisher keeps its connection.
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    nchan_shared_memory_size 128M;
    server {{
        listen {address}:{port} backlog=1024{tls};
        server_name localhost;
        {certificate}
        location = /stream {{
            nchan_subscriber eventsource;
            nchan_channel_id calls;
            nchan_subscriber_first_message newest;
            # As MXFlex: a comment at least every 15 seconds.
            nchan_eventsource_ping_interval 15;
        }}
        location = /contacts {{
            root {folder};
            default_type application/json;
            gzip_static on;
        }}
    }}
    server {{
        listen {address}:{publish};
        location = /publish {{
            nchan_publisher;
            nchan_channel_id calls;
            # As MXFlex.
            nchan_message_buffer_length 256;
            nchan_message_timeout 0;
        }}
    }}
}}
"""


def has_nchan() -> bool:
    """Tell whether nginx and its module are there."""
    return shutil.which("nginx") is not None and any(path.exists() for path in _NCHAN_MODULES)


def start_nchan(folder: Path, transport: Transport) -> Stand:
    """Start nginx with one worker, with the rights of whoever starts it, at loopback ports."""
    nginx = shutil.which("nginx")
    module = next((path for path in _NCHAN_MODULES if path.exists()), None)
    if nginx is None or module is None:
        raise BenchmarkError("nginx with nchan is missing: apt install nginx libnginx-mod-nchan")
    port, publish = free_port(), free_port()
    files = os.sysconf("SC_OPEN_MAX")
    certificate = ""
    if transport is not Transport.PLAIN:
        path, key = make_certificate(folder)
        certificate = f"ssl_certificate {path}; ssl_certificate_key {key};"
        certificate += " ssl_protocols TLSv1.3;"
    text = _NGINX.format(
        module=module,
        # Otherwise the worker of a root's nginx could not read what lies here.
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        files=files,
        connections=files - 100,
        address=LOOPBACK,
        port=port,
        publish=publish,
        tls={Transport.PLAIN: "", Transport.TLS: " ssl", Transport.H2: " ssl http2"}[transport],
        certificate=certificate,
    )
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    log = folder / "nginx.error.log"
    words = ("-p", folder, "-e", log, "-c", folder / "nginx.conf")
    server = Program("nginx", [nginx, *words], folder, answers=False)
    return _stand(folder, server, ("nchan", publish), (port, "/stream"))


def lay_out_contacts(folder: Path, data: bytes) -> None:
    """Let nginx serve these bytes as `/contacts`, and the same compressed."""
    (folder / "contacts").write_bytes(data)
    (folder / "contacts.gz").write_bytes(gzip.compress(data, 5))


# --- The floor ------------------------------------------------------------------------------------


def start_floor(folder: Path, transport: Transport) -> Stand:
    """Start the broadcaster in C.

    Raises:
        BenchmarkError: It does not know HTTP/2.
    """
    if transport is Transport.H2:
        raise BenchmarkError("the floor does not speak HTTP/2")
    files = () if transport is Transport.PLAIN else make_certificate(folder)
    server = Program("floor", [FLOOR, *files], folder, polite=False)
    try:
        ports = server.read(PATIENCE)
    except BaseException:
        server.stop()
        raise
    return _stand(folder, server, ("floor", ports["publish"]), (ports["streams"], "/"))


def _stand(
    folder: Path, server: Program, publisher: tuple[str, int], streams: tuple[int, str]
) -> Stand:
    """Give a server its publisher, once it listens.

    Args:
        folder: Where logs go.
        server: The server.
        publisher: Its kind, and the port it publishes at.
        streams: The port of the streams, and what they ask for.
    """
    kind, publish = publisher
    try:
        _until(lambda: _listens(publish), server)
        source = _source(folder, kind, str(publish))
    except BaseException:
        server.stop()
        raise
    port, target = streams
    stand = Stand(server=server, source=source, port=port, target=target)
    try:
        source.read(PATIENCE)
    except BaseException:
        stand.__exit__()
        raise
    return stand


def peers_for(transport: Transport, with_nchan: bool) -> dict[str, Start]:
    """Give what can be compared over a transport, MXFlex first."""
    peers: dict[str, Start] = {MXFLEX: start_mxflex}
    if with_nchan:
        peers[NCHAN] = start_nchan
    if transport is not Transport.H2:
        peers[FLOOR_NAME] = start_floor
    return peers
