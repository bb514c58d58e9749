"""Certificates from a real ACME server, over real sockets: got, used, renewed, kept."""

from __future__ import annotations

import signal
import stat
import sys

import pytest
import pytest_twisted
import txacme.client
import txacme.service
from cryptography import x509
from twisted.internet import reactor

from mxflex.certs import issuing
from tests.integration.curl import Curl
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.pebble import HOST, LOOPBACK, Command, Pebble
from tests.integration.tls_client import shown_by
from tests.ports import free_port

OUTSIDE = "12025550104"
LISTEN = [f"tcp:0:interface={LOOPBACK}"]
BOTH = ("--http2", "--http1.1")


@pytest_twisted.async_yield_fixture
async def pebble(tmp_path):
    """Give what makes a `Pebble`, by the same keywords; it is ended after the test."""
    made = []

    def make(**options):
        made.append(Pebble(reactor, tmp_path / f"pebble{len(made)}", **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def storage(tmp_path):
    """Give the folder for certificates; it is not there yet."""
    return tmp_path / "certs"


def lines_with(running, words):
    """Give the lines of the log that have these words."""
    return [line for line in running.log.lines if words in line]


async def when_certified(running, count=1, patience=20):
    """Wait until so many certificates have come since the test began."""
    deadline = reactor.seconds() + patience
    while len(lines_with(running, "new certificate of")) < count:
        assert reactor.seconds() < deadline, running.log.lines
        await running.pause(0.02)


def stored(storage):
    """Give the certificate in the folder."""
    return x509.load_pem_x509_certificates((storage / f"{HOST}.pem").read_bytes())[0]


def mode(path):
    """Give the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


# --- The first certificate ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_first_certificate(daemon, pebble, storage, tmp_path):
    """A daemon with a public name gets a certificate that curl accepts on HTTP/2 and HTTP/1.1."""
    ca = pebble()
    await ca.start()
    running = await daemon(listen=LISTEN, **ca.settings(storage, email="admin@example.com"))
    await when_certified(running)
    curl = Curl(reactor, tmp_path, running.ports[0], await ca.root())
    for version, status in zip(BOTH, ("HTTP/2 404", "HTTP/1.1 404"), strict=True):
        answer = await curl.get(version, "/nothing")
        assert answer.startswith(status)
        # Browsers shall not come by plain HTTP any more.
        assert "\r\nstrict-transport-security: max-age=31536000\r\n" in answer.lower()
    certificate = stored(storage)
    assert certificate.not_valid_after_utc.timestamp() > reactor.seconds()
    # The challenge is answered only while the CA looks.
    served = lines_with(running, "/.well-known/acme-challenge/")
    assert served
    assert all(" 200 " in line for line in served)


@pytest_twisted.ensureDeferred
async def test_keys_are_ours_alone(daemon, pebble, storage):
    """The folder has mode 0700; account key, certificate and its key have 0600, and differ."""
    ca = pebble()
    await ca.start()
    running = await daemon(listen=LISTEN, **ca.settings(storage))
    await when_certified(running)
    assert mode(storage) == 0o700
    files = sorted(path.name for path in storage.iterdir())
    assert files == ["account.key", f"{HOST}.pem"]
    assert {mode(storage / name) for name in files} == {0o600}
    account = (storage / "account.key").read_bytes()
    assert account not in (storage / f"{HOST}.pem").read_bytes()


@pytest_twisted.ensureDeferred
async def test_old_wide_files_are_tightened(daemon, pebble, storage):
    """Files and a folder that were open to others are closed to them at the next start."""
    ca = pebble()
    await ca.start()
    settings = {"listen": LISTEN, **ca.settings(storage)}
    running = await daemon(**settings)
    await when_certified(running)
    await running.stop_service()
    storage.chmod(0o755)
    for path in storage.iterdir():
        path.chmod(0o644)
    count = ca.requests
    again = await daemon(**settings)
    assert mode(storage) == 0o700
    assert mode(storage / f"{HOST}.pem") == 0o600
    # The account's key is closed when it is needed: nobody has asked the CA yet.
    assert ca.requests == count
    await again.stop_service()
    (storage / f"{HOST}.pem").unlink()
    again = await daemon(**settings)
    await when_certified(again, 2)
    assert mode(storage / "account.key") == 0o600


@pytest_twisted.ensureDeferred
async def test_version_1_is_never_spoken(daemon, pebble, storage, monkeypatch):
    """What txacme knows of the first version of ACME is not called when a certificate is got."""

    def refuse(*_, **__):
        raise AssertionError("version 1 of ACME")

    for name in ("answer_challenge", "poll_until_valid", "fqdn_identifier", "CertificateRequest"):
        monkeypatch.setattr(txacme.service, name, refuse)
    for name in ("_issue_cert", "_ensure_registered", "_register", "startService", "stopService"):
        monkeypatch.setattr(txacme.service.AcmeIssuingService, name, refuse)
    for name in ("from_url", "__init__", "register", "request_challenges", "request_issuance"):
        monkeypatch.setattr(txacme.client.Client, name, refuse)
    ca = pebble()
    await ca.start()
    running = await daemon(listen=LISTEN, **ca.settings(storage))
    await when_certified(running)
    await running.stop_service()


@pytest_twisted.ensureDeferred
async def test_external_account_binding(daemon, pebble, storage):
    """A CA that knows its customers is told, by a signature, which of them this account is."""
    secret = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    ca = pebble(binding=("kid-1", secret))
    await ca.start()
    running = await daemon(listen=LISTEN, **ca.settings(storage, eab_kid="kid-1", eab_key=secret))
    await when_certified(running)


@pytest_twisted.ensureDeferred
async def test_binding_is_missing(daemon, pebble, storage):
    """Without the binding the service runs, and the log has the CA's reason and the next try."""
    ca = pebble(binding=("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsU"))
    await ca.start()
    running = await daemon(listen=LISTEN, **ca.settings(storage))
    await running.when(lambda: lines_with(running, "no certificate of"))
    (line,) = lines_with(running, "no certificate of")
    assert f" error mxflex.certs.issuing  no certificate of {HOST} yet: the CA refuses" in line
    assert "externalAccountRequired" in line
    assert "; next try in " in line


@pytest_twisted.ensureDeferred
async def test_challenge_cannot_be_reached(daemon, pebble, storage):
    """When the CA does not reach port 80, its words about that are in the log."""
    ca = pebble()
    await ca.start()
    settings = ca.settings(storage) | {"listen_http": [f"tcp:{free_port()}:interface={LOOPBACK}"]}
    running = await daemon(listen=LISTEN, **settings)
    await running.when(lambda: lines_with(running, "no certificate of"))
    (line,) = lines_with(running, "no certificate of")
    assert "the CA refuses with 400 connection: " in line
    assert "connection refused" in line


# --- When the CA is not there ---------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_ca_down_at_first_start(daemon, pebble, storage, tmp_path, monkeypatch):
    """With the CA down the API is served with a stand-in; once the CA is up, a certificate comes.

    Until then nobody is asked to come by HTTPS alone.
    """
    monkeypatch.setattr(issuing, "FIRST_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(issuing, "MAX_RETRY_SECONDS", 0.5)
    ca = pebble()
    running = await daemon(listen=LISTEN, **ca.settings(storage))
    await running.when(lambda: lines_with(running, "no certificate of"))
    line = lines_with(running, "no certificate of")[0]
    assert "the CA cannot be reached: " in line
    assert "refused" in line
    # Whoever insists can use it: curl does not verify here.
    curl = Curl(reactor, tmp_path, running.ports[0], ca.ca_file)
    answer = await curl.get("--http2", "/nothing", "--insecure")
    assert answer.startswith("HTTP/2 404")
    assert "strict-transport-security" not in answer.lower()
    await ca.start()
    await when_certified(running)
    curl = Curl(reactor, tmp_path, running.ports[0], await ca.root())
    assert (await curl.get("--http2", "/nothing")).startswith("HTTP/2 404")


@pytest_twisted.ensureDeferred
async def test_restart_needs_no_ca(daemon, pebble, storage, tmp_path):
    """After a restart the stored certificate serves at once, without a word to the CA."""
    ca = pebble()
    await ca.start()
    settings = {"listen": LISTEN, **ca.settings(storage)}
    running = await daemon(**settings)
    await when_certified(running)
    await running.stop_service()
    root = await ca.root()
    count, serial = ca.requests, stored(storage).serial_number
    again = await daemon(**settings)
    curl = Curl(reactor, tmp_path, again.ports[0], root)
    assert (await curl.get("--http1.1", "/nothing")).startswith("HTTP/1.1 404")
    assert stored(storage).serial_number == serial
    assert ca.requests == count
    assert lines_with(again, f"certificate of {HOST}: ends ")
    # Nor does it need one at all.
    await again.stop_service()
    await ca.stop()
    third = await daemon(**settings)
    curl = Curl(reactor, tmp_path, third.ports[0], root)
    assert (await curl.get("--http2", "/nothing")).startswith("HTTP/2 404")
    assert len(lines_with(third, "asking for a certificate of")) == 1


@pytest_twisted.ensureDeferred
async def test_exit_while_the_ca_dawdles(pebble, storage, tmp_path):
    """The daemon's process ends within two seconds of a signal in the middle of a validation."""
    ca = pebble(PEBBLE_VA_NOSLEEP="0", PEBBLE_VA_SLEEPTIME="60")
    await ca.start()
    settings = ca.settings(storage)
    twistd = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    process = Command(
        reactor,
        [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "mxflex", "--demo"],
        tmp_path,
        MXFLEX_HOST=HOST,
        MXFLEX_LISTEN=f"tcp:{free_port()}:interface={LOOPBACK}",
        MXFLEX_LISTEN_HTTP=settings["listen_http"][0],
        **{f"MXFLEX_ACME_{key.upper()}": value for key, value in settings["acme"].items()},
    )
    try:
        await ca.server.when_says("Sleeping for")
        await process.when_says("asking for a certificate of")
        began = reactor.seconds()
        await process.stop()
        assert reactor.seconds() - began < 2
        # By the signal itself, as Twisted does it once everything is stopped.
        assert process.status == -signal.SIGTERM
        assert "Traceback" not in process.output
    finally:
        await process.stop("KILL")


# --- Renewals -------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_streams_live_through_renewals(daemon, pebble, storage, tmp_path):
    """Open streams of both kinds go on, without a gap, while the certificate is renewed twice.

    Meanwhile new connections get the new certificate. Certificates live for 12 seconds.
    """
    ca = pebble(validity=12)
    await ca.start()
    running = await daemon(listen=LISTEN, **ca.settings(storage))
    await when_certified(running)
    curl = Curl(reactor, tmp_path, running.ports[0], await ca.root())
    token = await curl.log_in(LOGIN, PASSWORD)
    streams = [curl.open_stream(version, token) for version in BOTH]
    serials, keys = set(), set()
    try:
        for stream in streams:
            await stream.when_open()
        for count in (1, 2, 3):
            await when_certified(running, count, patience=40)
            certificate = stored(storage)
            serials.add(certificate.serial_number)
            keys.add(certificate.public_key().public_numbers())
            shown = await shown_by(running.ports[0])
            assert shown.serial_number == certificate.serial_number
            assert (await curl.get("--http2", "/nothing")).startswith("HTTP/2 404")
            for _ in range(3):
                running.mx.call_in(OUTSIDE, EXT)
                running.mx.hang_up(OUTSIDE)
            for stream in streams:
                await stream.when_events(6 * count)
        assert len(serials) == len(keys) == 3
        first, second = ([event.raw for event in stream.events] for stream in streams)
        assert len(first) == 18
        assert first == second
        assert not any(b"gap" in event for event in first)
        assert not any(stream.command.ended for stream in streams)
    finally:
        for stream in streams:
            await stream.command.stop()
    assert not lines_with(running, "is not renewed")
