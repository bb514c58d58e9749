"""The HTTPS port and the plain one beside it, without a CA: what is shown, reloaded, redirected."""

from __future__ import annotations

import os
import signal
import ssl
import warnings

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from mxflex.certs import files
from mxflex.errors import ConfigError
from mxflex.simulator.certificate import Certificate, ServerTLS, TLSAge
from tests.integration.curl import Curl
from tests.integration.pebble import HOST, LOOPBACK
from tests.integration.tls_client import TLSClient, shown_by
from tests.ports import free_port

LISTEN = {"host": HOST, "listen": [f"tcp:0:interface={LOOPBACK}"]}


def key_pem(certificate, encryption=None):
    """Give the private key of a certificate in PEM."""
    return certificate.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )


class Pair:
    """The two files of a certificate of one's own.

    Args:
        folder: Where they are.

    Attributes:
        root: The file of the CA.
        settings: Keys of a configuration that names the files.
    """

    def __init__(self, folder):
        self.root = folder / "root.pem"
        self._certificate = folder / "own.pem"
        self._key = folder / "own.key"
        self._authority = Certificate.authority("Root")
        self.root.write_bytes(self._authority.pem)
        self.settings = {
            **LISTEN,
            "tls": {"certificate": str(self._certificate), "key": str(self._key)},
        }

    def make(self, *hosts):
        """Make a certificate of the CA."""
        return Certificate.issue("own", *(hosts or (HOST,)), issuer=self._authority)

    def write(self, certificate=None):
        """Write a certificate, a new one by default, and give it."""
        certificate = certificate or self.make()
        self.write_parts(certificate.pem, key_pem(certificate))
        return certificate

    def write_parts(self, certificate, key):
        """Write bytes into the files."""
        self._certificate.write_bytes(certificate)
        self._key.write_bytes(key)

    def write_key(self, key):
        """Write bytes into the file of the key."""
        self._key.write_bytes(key)


@pytest.fixture
def pair(tmp_path):
    """Give the two files, with a good certificate."""
    made = Pair(tmp_path)
    made.write()
    return made


def lines_with(running, words):
    """Give the lines of the log that have these words."""
    return [line for line in running.log.lines if words in line]


async def start_without_ca(daemon, tmp_path, **settings):
    """Start a daemon whose CA is not there."""
    return await daemon(
        **LISTEN,
        listen_http=[f"tcp:0:interface={LOOPBACK}"],
        acme={
            "directory": f"https://localhost:{free_port()}/directory",
            "storage": str(tmp_path / "certs"),
        },
        **settings,
    )


# --- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "version"),
    [
        ((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2), "TLSv1.2"),
        ((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), "TLSv1.3"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_versions(daemon, pair, versions, version):
    """TLS 1.2 and 1.3 are spoken."""
    running = await daemon(**pair.settings)
    client = await TLSClient(running.ports[0], versions=versions).connect()
    assert client.version == version
    assert client.protocol == "http/1.1"
    client.close()


@pytest_twisted.ensureDeferred
async def test_old_versions_are_refused(daemon, pair):
    """TLS 1.1 and 1.0 are refused, by a handshake that an old server would accept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
        server = ServerTLS(pair.make, TLSAge(minimum="1.0", maximum="1.1", security_level=0))
        factory = TLSMemoryBIOFactory(server, False, Factory.forProtocol(Protocol))
        port = await TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK).listen(factory)
        client = await TLSClient(port.getHost().port, versions=old).connect()
        client.close()
        await maybeDeferred(port.stopListening)
        assert client.version == "TLSv1.1"

        running = await daemon(**pair.settings)
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await TLSClient(running.ports[0], versions=old).connect()


@pytest.mark.parametrize("name", [None, "another.example", "localhost", HOST.upper()])
@pytest_twisted.ensureDeferred
async def test_any_name_is_served(daemon, pair, name):
    """A client that asks for another name by SNI, or for none, gets the certificate there is."""
    own = pair.write()
    running = await daemon(**pair.settings)
    client = await TLSClient(running.ports[0], name).connect()
    assert client.certificate == own.certificate
    assert (await client.get())[0] == 404
    client.close()


@pytest_twisted.ensureDeferred
async def test_stand_in(daemon, tmp_path):
    """Before the first certificate there is a self-signed one, and nobody is told to insist."""
    running = await start_without_ca(daemon, tmp_path)
    client = await TLSClient(running.ports[0]).connect()
    shown = client.certificate
    assert shown.issuer == shown.subject
    assert "MXFlex has no certificate yet" in shown.subject.rfc4514_string()
    status, headers = await client.get()
    assert status == 404
    assert "strict-transport-security" not in headers
    client.close()
    # curl, which verifies, does not accept it.
    (tmp_path / "root.pem").write_bytes(Certificate.authority().pem)
    curl = Curl(reactor, tmp_path, running.ports[0], tmp_path / "root.pem")
    refused = curl.run("--http2", "/nothing")
    assert await refused.when_ended() == 60


# --- A certificate of one's own -------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_own_certificate(daemon, pair, tmp_path):
    """The files are served at once, on HTTP/2 and HTTP/1.1; browsers are to come by HTTPS alone."""
    running = await daemon(**pair.settings)
    curl = Curl(reactor, tmp_path, running.ports[0], pair.root)
    for version, status in (("--http2", "HTTP/2 404"), ("--http1.1", "HTTP/1.1 404")):
        answer = await curl.get(version, "/nothing")
        assert answer.startswith(status)
        assert "strict-transport-security: max-age=31536000\r\n" in answer.lower()
    (line,) = lines_with(running, "certificate in ")
    assert f" info  mxflex.certs.files  certificate in {tmp_path}/own.pem: ends " in line
    assert " days left" in line


@pytest_twisted.ensureDeferred
async def test_chain(daemon, pair, tmp_path):
    """What stands behind the certificate goes out with it: the CA above is all a client needs."""
    between = Certificate.issue("Between", issuer=pair._authority, is_authority=True)
    own = Certificate.issue("own", HOST, issuer=between)
    pair.write_parts(own.pem + between.pem, key_pem(own))
    running = await daemon(**pair.settings)
    curl = Curl(reactor, tmp_path, running.ports[0], pair.root)
    assert (await curl.get("--http2", "/nothing")).startswith("HTTP/2 404")


@pytest_twisted.ensureDeferred
async def test_files_in_one(daemon, pair, tmp_path):
    """One file with everything may be named twice; a public key in it is in nobody's way."""
    own = pair.make()
    public = own.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    whole = public + key_pem(own) + own.pem
    pair.write_parts(whole, whole)
    running = await daemon(**pair.settings)
    assert await shown_by(running.ports[0]) == own.certificate


@pytest_twisted.ensureDeferred
async def test_new_files_are_noticed(daemon, pair, monkeypatch):
    """New files are used for new connections within a look; open connections go on."""
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.05)
    first = pair.write()
    running = await daemon(**pair.settings)
    client = await TLSClient(running.ports[0]).connect()
    assert client.certificate == first.certificate
    second = pair.write()
    await running.when(lambda: len(lines_with(running, "certificate in ")) == 2)
    assert await shown_by(running.ports[0]) == second.certificate
    assert (await client.get())[0] == 404
    client.close()


@pytest_twisted.ensureDeferred
async def test_hangup(daemon, pair):
    """On SIGHUP the files are read at once, and the log says what came of it, new or not."""
    before = signal.getsignal(signal.SIGHUP)
    running = await daemon(**pair.settings)
    second = pair.write()
    os.kill(os.getpid(), signal.SIGHUP)
    await running.when(lambda: len(lines_with(running, "certificate in ")) == 2)
    assert await shown_by(running.ports[0]) == second.certificate
    os.kill(os.getpid(), signal.SIGHUP)
    await running.when(lambda: len(lines_with(running, "certificate in ")) == 3)
    await running.stop_service()
    assert signal.getsignal(signal.SIGHUP) == before


@pytest_twisted.ensureDeferred
async def test_a_bad_pair_changes_nothing(daemon, pair, tmp_path, monkeypatch):
    """A key that does not belong to the certificate is told once; the old pair goes on.

    So it is in the moment between the two files that an administrator replaces.
    """
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.05)
    first = pair.write()
    running = await daemon(**pair.settings)
    second = pair.make()
    pair.write_key(key_pem(second))
    await running.when(lambda: lines_with(running, "not replaced"))
    # What is told then is the next mistake, not the same one again.
    pair.write_key(b"nonsense")
    await running.when(lambda: lines_with(running, "own.key: expected"))
    one, other = lines_with(running, "not replaced")
    start = " error mxflex.certs.files  certificate not replaced (ends "
    assert start in one
    assert f"{tmp_path}/own.key: the private key does not belong to the certificate\n" in one
    assert start in other
    assert f"{tmp_path}/own.key: expected a private key in PEM form\n" in other
    assert await shown_by(running.ports[0]) == first.certificate
    pair.write(second)
    await running.when(lambda: len(lines_with(running, "certificate in ")) == 2)
    assert await shown_by(running.ports[0]) == second.certificate


@pytest_twisted.ensureDeferred
async def test_missing_files_change_nothing(daemon, pair, tmp_path, monkeypatch):
    """A file that goes away is told once, not at every look, and again on SIGHUP."""
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.02)
    looks = []
    reload = files.CertificateFiles._reload
    monkeypatch.setattr(
        files.CertificateFiles, "_reload", lambda self: (looks.append(self), reload(self))[1]
    )
    first = pair.write()
    running = await daemon(**pair.settings)
    (tmp_path / "own.key").unlink()
    await running.when(lambda: lines_with(running, "not replaced"))
    count = len(looks)
    await running.when(lambda: len(looks) > count + 5)
    assert len(lines_with(running, "own.key: No such file or directory")) == 1
    os.kill(os.getpid(), signal.SIGHUP)
    await running.when(lambda: len(lines_with(running, "not replaced")) == 2)
    assert await shown_by(running.ports[0]) == first.certificate


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_another_host(daemon, pair):
    """A certificate that browsers will refuse is served as wanted, with a warning."""
    pair.write(pair.make("elsewhere.example"))
    running = await daemon(**pair.settings)
    (line,) = lines_with(running, "is not for")
    assert f"own.pem is not for {HOST}: browsers will refuse it" in line
    assert " warn  " in line


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda own: (own.pem, key_pem(Certificate.self_signed())),
            "the private key does not belong to the certificate",
        ),
        (
            lambda own: (own.pem, key_pem(own, BestAvailableEncryption(b"secret"))),
            "the private key is protected by a password",
        ),
        (
            lambda own: (own.pem.replace(b"MII", b"AAA"), key_pem(own)),
            "own.key: ",
        ),
        (
            lambda own: (
                own.pem,
                b"-----%s PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" % b"BEGIN",
            ),
            "own.key: ",
        ),
    ],
    ids=["pair", "password", "certificate", "key"],
)
@pytest_twisted.ensureDeferred
async def test_bad_files_at_the_start(daemon, pair, make, words):
    """With files that cannot be used the daemon does not start; one line says which and why."""
    pair.write_parts(*make(pair.make()))
    with pytest.raises(ConfigError) as caught:
        await daemon(**pair.settings)
    assert str(caught.value).startswith("tls.certificate: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- Port 80 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/api/events?access_token=x&y=/", "/api/events?access_token=x&y=/"),
        ("//evil.example/", "//evil.example/"),
        ("///", "///"),
        ("/\\evil.example", "/\\evil.example"),
        ("/@evil.example/%2e%2e/%0d%0aSet-Cookie:x", "/@evil.example/%2e%2e/%0d%0aSet-Cookie:x"),
        ("/%ff%00", "/%ff%00"),
        ("http://evil.example/path", "/path"),
        ("https://evil.example:444?q", "/?q"),
        ("http://user@evil.example/path", "/path"),
        ("evil.example/path", "/evil.example/path"),
        ("@evil.example", "/@evil.example"),
        (".evil.example", "/.evil.example"),
        (":444/", "/:444/"),
        ("/.well-known/acme-challenge", "/.well-known/acme-challenge"),
        ("/.well-known/acme-challenges/x", "/.well-known/acme-challenges/x"),
        ("/x" * 4000, "/x" * 4000),
    ],
)
@pytest_twisted.ensureDeferred
async def test_redirect(daemon, tmp_path, target, path):
    """Port 80 sends everybody to the configured host, whatever path and Host say."""
    running = await start_without_ca(daemon, tmp_path)
    for host in ("evil.example", f"{HOST}:80", "localhost", "[::1]:80", "a@b", ""):
        connection = await running.connect(running.ports[1])
        connection.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
        reply = await connection.read_reply()
        if host == "a@b":
            assert reply.status == 400
            continue
        assert reply.status == 308
        expected = b"\r\nLocation: https://" + HOST.encode() + path.encode("latin-1") + b"\r\n"
        assert expected.lower() in reply.head.lower() + b"\r\n"
        assert reply.header("strict-transport-security") is None
        assert reply.body == b""
        connection.abort()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
@pytest_twisted.ensureDeferred
async def test_redirect_of_any_method(daemon, tmp_path, method):
    """308 lets a client repeat the very same request, so that no login goes astray."""
    running = await start_without_ca(daemon, tmp_path)
    connection = await running.connect(running.ports[1])
    connection.send(f"{method} /api/login HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    reply = await connection.read_reply(method)
    assert reply.status == 308
    assert reply.header("location") == f"https://{HOST}/api/login"


@pytest_twisted.ensureDeferred
async def test_redirect_to_another_port(daemon, pair):
    """With HTTPS on another port, that port stands in the redirect."""
    settings = pair.settings | {"host": f"{HOST}:8443"}
    running = await daemon(**settings, listen_http=[f"tcp:0:interface={LOOPBACK}"])
    connection = await running.connect(running.ports[1])
    connection.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    reply = await connection.read_reply()
    assert reply.header("location") == f"https://{HOST}:8443/a"


@pytest.mark.parametrize("token", ["", "unknown", "a/b", "%2e%2e", "../x", "a" * 300])
@pytest_twisted.ensureDeferred
async def test_unknown_tokens(daemon, tmp_path, token):
    """A token that nobody has asked for is 404, in the form of every error."""
    running = await start_without_ca(daemon, tmp_path)
    connection = await running.connect(running.ports[1])
    connection.send(
        f"GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    )
    reply = await connection.read_reply()
    assert reply.status == 404
    assert reply.error == "not found"


@pytest_twisted.ensureDeferred
async def test_the_api_is_not_on_port_80(daemon, tmp_path):
    """A password that is sent to port 80 by mistake is not looked at."""
    running = await start_without_ca(daemon, tmp_path)
    connection = await running.connect(running.ports[1])
    body = b"login=user_login&password=password"
    connection.send(
        b"POST /api/login HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )
    reply = await connection.read_reply("POST")
    assert reply.status == 308
    assert b"access_token" not in reply.body
