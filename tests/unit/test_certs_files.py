"""A certificate of one's own, over simulated time: when it is told that it is about to end."""

from __future__ import annotations

import datetime as dt

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from mxflex.certs.context import ServingCertificate
from mxflex.certs.files import CertificateFiles
from mxflex.certs.issuing import DAY
from mxflex.certs.store import private_bytes
from mxflex.simulator.certificate import Certificate

NAME = "mx.example.test"
NOW = 1_800_000_000


def certificate_for(days):
    """Make a certificate that ends so many days from the start of the test."""
    own = Certificate.issue("own", NAME)
    begin = dt.datetime.fromtimestamp(NOW, dt.UTC)
    subject = x509.Name([])
    names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    builder = x509.CertificateBuilder(subject, subject, own.key.public_key(), 1)
    builder = builder.not_valid_before(begin - dt.timedelta(days=1))
    builder = builder.not_valid_after(begin + dt.timedelta(days=days))
    signed = builder.add_extension(names, critical=False).sign(own.key, hashes.SHA256())
    return attrs.evolve(own, certificate=signed)


@pytest.fixture
def told():
    """Give level and text of what the room says."""
    found = []

    def look(event):
        if event.get("log_namespace") == "mxflex.certs.files":
            found.append((event["log_level"], event["log_format"].format(**event)))

    globalLogPublisher.addObserver(look)
    yield found
    globalLogPublisher.removeObserver(look)


@pytest.fixture
def start(tmp_path, told):
    """Give what starts the service with a certificate, and gives its clock; it is stopped later."""
    running = []

    def begin(certificate):
        (tmp_path / "own.pem").write_bytes(certificate.pem)
        (tmp_path / "own.key").write_bytes(private_bytes(certificate.key))
        clock = Clock()
        clock.advance(NOW)
        serving = ServingCertificate(NAME)
        service = CertificateFiles(clock, serving, tmp_path / "own.pem", tmp_path / "own.key")
        service.startService()
        running.append((service, clock))
        return clock

    yield begin
    for service, clock in running:
        service.stopService()
        assert not clock.getDelayedCalls()


def pass_days(clock, days):
    """Let days go by, minute by minute."""
    clock.pump([60] * round(days * 24 * 60))


def test_quiet_until_the_end_is_near(start, told):
    """Nothing is said until a certificate has two weeks left; from then on, an error every day."""
    clock = start(certificate_for(20))
    assert [level for level, _ in told] == [LogLevel.info]
    assert told[0][1].endswith(", 20 days left")
    pass_days(clock, 5.9)
    assert len(told) == 1
    pass_days(clock, 3)
    assert [level for level, _ in told[1:]] == [LogLevel.error] * 3
    assert told[1][1].endswith(", 14 days left")
    assert told[2][1].endswith(", 13 days left")


def test_it_has_ended(start, told):
    """A certificate that has ended is served all the same, with an error at each start."""
    start(certificate_for(-0.5))
    ((level, line),) = told
    assert level is LogLevel.error
    assert ": ended 20" in line


def test_a_new_one_ends_the_alarm(start, told, tmp_path):
    """With a certificate that lasts, everything is quiet again."""
    clock = start(certificate_for(10))
    fresh = certificate_for(90)
    (tmp_path / "own.pem").write_bytes(fresh.pem)
    (tmp_path / "own.key").write_bytes(private_bytes(fresh.key))
    clock.advance(60)
    assert [level for level, _ in told] == [LogLevel.error, LogLevel.info]
    clock.advance(3 * DAY)
    assert len(told) == 2
