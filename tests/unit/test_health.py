"""Whether the daemon is ready: each thing that can keep it from its work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pem
import pytest
from cryptography.hazmat.primitives import serialization

from mxflex.certs.context import ServingCertificate
from mxflex.monitor.health import Health
from mxflex.mx.link import LinkState
from mxflex.simulator.certificate import Certificate


class Link:
    """Stands where it is told to."""

    def __init__(self, state=LinkState.READY):
        self.state = state


def reasons(health):
    return {check.name: check.reason for check in health.checks()}


@pytest.mark.parametrize("state", LinkState)
def test_the_link(state):
    """Only a server connection that is up is good; every other state has its own words."""
    (check,) = Health(lambda: 0.0, Link(state), None).checks()
    others = {reasons(Health(lambda: 0.0, Link(other), None))["mx"] for other in LinkState}
    assert check.ok == (state is LinkState.READY)
    assert check.ok == (check.reason == "")
    assert len(others) == len(LinkState)


def test_a_stand_in():
    """A certificate that is made only until the real one comes is none."""
    serving = ServingCertificate("crm.example.com")
    now = datetime.now(UTC).timestamp()
    assert "self-signed" in reasons(Health(lambda: now, Link(), serving))["certificate"]


def test_the_life_of_a_certificate():
    """A certificate is good from its first moment to its last, and neither before nor after."""
    made = Certificate.issue("crm.example.com", "crm.example.com")
    key = made.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    serving = ServingCertificate("crm.example.com")
    serving.use(pem.parse(key + made.pem))
    begin, end = serving.certificate.not_valid_before_utc, serving.certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    for moment, word in (
        (begin - second, "not valid yet"),
        (begin, ""),
        (end - second, ""),
        (end, "expired"),
    ):
        reason = reasons(Health(moment.timestamp, Link(), serving))["certificate"]
        assert word in reason
        assert bool(reason) == bool(word)
