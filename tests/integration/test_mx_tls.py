"""Whom the MX side trusts, and how old a firmware may be: real handshakes on loopback."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from mxflex.errors import LoginRefused, MXTimeout, MXUnavailable
from mxflex.mx.tls import SESSION_SECONDS
from mxflex.simulator import certificate as simulated
from mxflex.simulator.certificate import Certificate, TLSAge
from mxflex.wire.messages import LoginRequest
from tests.integration.mx_bench import MXBench

OLD = TLSAge(minimum="1.0", maximum="1.0", security_level=0)


@pytest_twisted.async_yield_fixture
async def bench():
    """Give a bench that is cleared after the test."""
    bench = MXBench(reactor)
    yield bench
    await bench.stop()


@pytest.fixture(scope="module")
def authority():
    """Give a CA."""
    return Certificate.authority()


@pytest.fixture
def ca_file(authority, tmp_path):
    """Give the path of the CA's certificate."""
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    return str(path)


async def dial(bench, mx, **arguments):
    """Connect, and give the TLS version that was agreed on; raises what the dialer raises."""
    protocol = await bench.soon(Deferred.fromCoroutine(bench.dialer(mx, **arguments).dial()))
    version = protocol.tls.getHandle().get_protocol_version_name()
    protocol.close()
    await bench.gone(mx)
    return version


def refused_certificates(bench):
    """Give the fingerprints that the log shows as not the pinned one."""
    return [
        line.partition("shows certificate ")[2].partition(",")[0]
        for line in bench.log.lines
        if "not the pinned one" in line
    ]


# --- Whom to trust --------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_any_certificate_by_default(bench):
    """A self-signed certificate without a useful name will do; the log shows it once."""
    mx = await bench.simulator()
    dialer = bench.dialer(mx)
    for _ in range(3):
        protocol = await bench.soon(Deferred.fromCoroutine(dialer.dial()))
        protocol.close()
    await bench.gone(mx)
    lines = [line for line in bench.log.lines if mx.certificate.fingerprint in line]
    assert len(lines) == 1
    assert "is not verified" in lines[0]


@pytest_twisted.ensureDeferred
async def test_certificate_that_changes_under_no_verification(bench):
    """Where any certificate will do, another one is accepted and told: an operator may wonder."""
    mx = await bench.simulator()
    dialer = bench.dialer(mx)
    for certificate in (mx.certificate, Certificate.self_signed()):
        mx.faults.certificate = certificate
        protocol = await bench.soon(Deferred.fromCoroutine(dialer.dial()))
        protocol.close()
        assert [line for line in bench.log.lines if certificate.fingerprint in line]
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_ca_file(bench, authority, ca_file, host):
    """A certificate of the CA for this name or address is accepted."""
    certificate = Certificate.issue("MX", "127.0.0.1", "localhost", issuer=authority)
    mx = await bench.simulator(certificate=certificate)
    await dial(bench, mx, host=host, verify=ca_file)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("names", [(), ("mx.example.org",), ("192.0.2.1",), ("localhost.example",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_ca_file_and_another_host(bench, authority, ca_file, host, names):
    """A certificate of the right CA for another host, or for none, is refused."""
    mx = await bench.simulator(certificate=Certificate.issue(host, *names, issuer=authority))
    with pytest.raises(MXUnavailable, match="another host"):
        await dial(bench, mx, host=host, verify=ca_file)
    await bench.gone(mx)
    assert mx.commands == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("kind", ["self-signed", "another CA of the same name"])
async def test_another_ca(bench, ca_file, kind):
    """A certificate that the CA did not sign is refused, and the error says so."""
    issuer = Certificate.authority() if kind != "self-signed" else None
    mx = await bench.simulator(certificate=Certificate.issue("MX", "127.0.0.1", issuer=issuer))
    with pytest.raises(MXUnavailable, match="certificate verify failed"):
        await dial(bench, mx, verify=ca_file)
    await bench.gone(mx)
    assert mx.commands == []


@pytest_twisted.ensureDeferred
async def test_system_does_not_know_it(bench):
    """The system's CAs do not know a certificate made a moment ago."""
    mx = await bench.simulator(certificate=Certificate.issue("MX", "127.0.0.1"))
    with pytest.raises(MXUnavailable, match="certificate verify failed"):
        await dial(bench, mx, verify="system")


@pytest_twisted.ensureDeferred
async def test_fingerprint(bench):
    """The pinned certificate is accepted whatever its name, and nothing is said of verification."""
    mx = await bench.simulator()
    await dial(bench, mx, fingerprint=mx.certificate.fingerprint)
    assert not [line for line in bench.log.lines if "not verified" in line]


@pytest_twisted.ensureDeferred
async def test_another_fingerprint(bench):
    """Another certificate than the pinned one is refused, and the log shows which came."""
    mx = await bench.simulator()
    other = Certificate.self_signed()
    with pytest.raises(MXUnavailable, match="certificate verify failed"):
        await dial(bench, mx, fingerprint=other.fingerprint)
    await bench.gone(mx)
    assert mx.commands == []
    assert refused_certificates(bench) == [mx.certificate.fingerprint]


@pytest_twisted.ensureDeferred
async def test_fingerprint_and_ca(bench, authority, ca_file):
    """With both keys both must be right."""
    good = Certificate.issue("MX", "127.0.0.1", issuer=authority)
    mx = await bench.simulator(certificate=good)
    await dial(bench, mx, verify=ca_file, fingerprint=good.fingerprint)
    mx.faults.certificate = Certificate.issue("MX", "127.0.0.1", issuer=authority)
    with pytest.raises(MXUnavailable, match="certificate verify failed"):
        await dial(bench, mx, verify=ca_file, fingerprint=good.fingerprint)
    assert refused_certificates(bench) == [mx.faults.certificate.fingerprint]
    mx.faults.certificate = wrong = Certificate.issue("MX", "127.0.0.1")
    with pytest.raises(MXUnavailable, match="certificate verify failed"):
        await dial(bench, mx, verify=ca_file, fingerprint=wrong.fingerprint)
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
async def test_certificate_that_changes_under_a_link(bench):
    """A link that pins a certificate stays away from another one, and comes back to the old."""
    mx = await bench.simulator()
    link = await bench.link(mx, fingerprint=mx.certificate.fingerprint).start()
    mx.faults.certificate = other = Certificate.self_signed()
    mx.drop()
    await link.when(lambda: link.told == ["up", "down"])
    while not refused_certificates(bench):
        await bench.pause(0.02)
    await bench.pause(0.4)
    assert not link.service.up
    assert len(mx.logins) == 1
    # It was refused several times by now, and that is one piece of news.
    assert refused_certificates(bench) == [other.fingerprint]
    mx.faults.certificate = None
    await link.when_up(2)


# --- How old a firmware ---------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("maximum", ["1.2", "1.3"])
async def test_current_versions(bench, maximum):
    """TLS 1.2 and 1.3 are spoken without any key."""
    mx = await bench.simulator(age=TLSAge(minimum="1.2", maximum=maximum))
    assert await dial(bench, mx) == f"TLSv{maximum}"


@pytest_twisted.ensureDeferred
async def test_old_version_is_refused(bench):
    """A server that knows nothing above TLS 1.0 is refused by default, and the error says why."""
    mx = await bench.simulator(age=OLD)
    with pytest.raises(MXUnavailable, match=r"protocol version|unsupported protocol"):
        await dial(bench, mx)
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
async def test_old_version_by_an_explicit_key(bench):
    """With `tls_minimum: 1.0` and security level 0 such a server is spoken to."""
    mx = await bench.simulator(age=OLD)
    assert await dial(bench, mx, tls_minimum="1.0", security_level=0) == "TLSv1"


@pytest_twisted.ensureDeferred
async def test_low_minimum_is_no_maximum(bench):
    """A low minimum does not lower the version that two modern ends agree on."""
    mx = await bench.simulator()
    assert await dial(bench, mx, tls_minimum="1.0", security_level=0) == "TLSv1.3"


@pytest_twisted.ensureDeferred
async def test_high_minimum(bench):
    """With `tls_minimum: 1.3` a server of TLS 1.2 is refused."""
    mx = await bench.simulator(age=TLSAge(minimum="1.2", maximum="1.2"))
    with pytest.raises(MXUnavailable):
        await dial(bench, mx, tls_minimum="1.3")
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("keys", "spoken"), [({}, False), ({"tls_minimum": "'1.0'"}, True)])
async def test_old_version_by_configuration(bench, keys, spoken):
    """The keys of the configuration do the same; the level belongs to old versions here."""
    mx = await bench.simulator(age=OLD)
    if spoken:
        keys = {**keys, "tls_security_level": 0}
    dialer = bench.configured_dialer(mx, **keys)
    dialing = bench.soon(Deferred.fromCoroutine(dialer.dial()))
    if spoken:
        (await dialing).close()
    else:
        with pytest.raises(MXUnavailable):
            await dialing
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "P-521", "RSA"],
)
async def test_kinds_of_certificates(bench, monkeypatch, version, key):
    """A certificate may be on any of the usual kinds of keys, whatever the keys are agreed by."""
    monkeypatch.setattr(ec, "generate_private_key", lambda _curve: key)
    certificate = Certificate.self_signed()
    mx = await bench.simulator(
        certificate=certificate, age=TLSAge(minimum=version, maximum=version)
    )
    assert await dial(bench, mx) == f"TLSv{version}"


# --- Sessions that are taken up again -------------------------------------------------------------

VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
REQUEST = LoginRequest(
    type="User", platform="CRM", version="1.0", user_name="user_login", password="password"
)


class Clock:
    """A time that stands unless it is set."""

    now = 1000.0

    def __call__(self):
        return self.now


async def log_in(bench, dialer):
    """Log in on a new connection; tell whether it took a session up, by OpenSSL's own word."""
    protocol, _ = await bench.soon(Deferred.fromCoroutine(dialer.log_in(REQUEST)))
    taken_up = bool(lib.SSL_session_reused(protocol.tls.getHandle()._ssl))
    protocol.close()
    await bench.soon(protocol.when_lost())
    return taken_up


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_session_is_taken_up_again(bench, version):
    """Each login has a connection of its own; from the second one on it takes the session up."""
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    dialer = bench.dialer(mx)
    assert [await log_in(bench, dialer) for _ in range(4)] == [False, True, True, True]
    assert len({id(each.session) for each in mx.received("loginRequest")}) == 4


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_refused_login_leaves_a_session_too(bench, version):
    """What matters is who the peer is, not what it says of a password."""
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    dialer = bench.dialer(mx)
    wrong = attrs.evolve(REQUEST, password="wrong")
    with pytest.raises(LoginRefused):
        await bench.soon(Deferred.fromCoroutine(dialer.log_in(wrong)))
    assert await log_in(bench, dialer)


@pytest_twisted.ensureDeferred
@VERSIONS
@pytest.mark.parametrize("pinned", [True, False])
async def test_an_impostor_has_no_session(bench, authority, ca_file, version, pinned):
    """Whoever comes in the MX's place cannot take its session up, and has to show a certificate."""
    good = Certificate.issue("MX", "127.0.0.1", issuer=authority)
    mx = await bench.simulator(certificate=good, age=TLSAge(minimum=version, maximum=version))
    trust = {"fingerprint": good.fingerprint} if pinned else {"verify": ca_file}
    dialer = bench.dialer(mx, **trust)
    await log_in(bench, dialer)
    assert await log_in(bench, dialer)
    mx.faults.certificate = Certificate.issue("MX", "127.0.0.1")
    with pytest.raises(MXUnavailable, match="certificate verify failed"):
        await log_in(bench, dialer)
    assert len(mx.received("loginRequest")) == 2
    mx.faults.certificate = None
    # The session went with the failure.
    assert not await log_in(bench, dialer)
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_session_does_not_outlive_the_trust(bench, authority, ca_file, version):
    """A session whose peer would not be trusted any more is cut before anything is sent."""
    good = Certificate.issue("MX", "127.0.0.1", issuer=authority)
    mx = await bench.simulator(certificate=good, age=TLSAge(minimum=version, maximum=version))
    dialer = bench.dialer(mx, verify=ca_file)
    await log_in(bench, dialer)
    for field, value, reason in (
        ("fingerprint", "0" * 64, "not the pinned one"),
        ("host", "192.0.2.1", "for another host"),
    ):
        assert dialer.policy._session is not None
        proper = getattr(dialer.policy, field)
        setattr(dialer.policy, field, value)
        with pytest.raises(MXUnavailable, match=reason):
            await log_in(bench, dialer)
        assert dialer.policy._session is None
        setattr(dialer.policy, field, proper)
        dialer.policy._sessions_from = 0
        assert not await log_in(bench, dialer)
    assert len(mx.received("loginRequest")) == 3
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_session_is_not_taken_up_for_ever(bench, version):
    """After ten minutes the certificate is looked at anew, however often it was taken up."""
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    clock = Clock()
    dialer = bench.dialer(mx, clock=clock)
    taken_up = []
    for passed in (0, 400, 150, 49, 2, 400, 198, 3):
        clock.now += passed
        taken_up.append(await log_in(bench, dialer))
    assert SESSION_SECONDS == 600
    assert taken_up == [False, True, True, True, False, True, True, False]


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_server_that_declines_a_session(bench, version):
    """A server that does not know the session any more shows its certificate, as of then."""
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    clock = Clock()
    dialer = bench.dialer(mx, clock=clock)
    await log_in(bench, dialer)
    clock.now += SESSION_SECONDS - 1
    # With another certificate the simulator forgets its sessions.
    mx.faults.certificate = Certificate.self_signed()
    assert not await log_in(bench, dialer)
    clock.now += SESSION_SECONDS - 1
    assert await log_in(bench, dialer)


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_server_that_trips_over_a_session(bench, version):
    """After a handshake that failed all are full ones for a while, so the next login gets through.

    Whether the session was to blame cannot be known.
    """
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    clock = Clock()
    dialer = bench.dialer(mx, clock=clock, timeout=0.2)
    await log_in(bench, dialer)
    mx.faults.hang_in_tls = True
    with pytest.raises(MXTimeout):
        await log_in(bench, dialer)
    mx.faults.hang_in_tls = False
    assert [await log_in(bench, dialer) for _ in range(3)] == [False, False, False]
    clock.now += SESSION_SECONDS
    assert [await log_in(bench, dialer) for _ in range(2)] == [False, True]
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_server_without_sessions(bench, monkeypatch, version):
    """A server that knows no sessions is spoken to as ever."""
    make = simulated._context

    def without_sessions(*arguments):
        context = make(*arguments)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        return context

    monkeypatch.setattr(simulated, "_context", without_sessions)
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    dialer = bench.dialer(mx)
    # In TLS 1.3 such a server still issues sessions that it does not recognize afterwards.
    for _ in range(3):
        await log_in(bench, dialer)
    assert len(mx.received("loginRequest")) == 3


@pytest_twisted.ensureDeferred
@VERSIONS
async def test_a_connection_that_was_cut_leaves_no_session(bench, version):
    """A connection that ends without a farewell is no reason to fail: the next one is full."""
    mx = await bench.simulator(age=TLSAge(minimum=version, maximum=version))
    dialer = bench.dialer(mx)
    protocol, _ = await bench.soon(Deferred.fromCoroutine(dialer.log_in(REQUEST)))
    mx.drop()
    await bench.soon(protocol.when_lost())
    await log_in(bench, dialer)
    assert await log_in(bench, dialer)


@pytest_twisted.ensureDeferred
async def test_the_first_message_is_one_packet(bench):
    """The hello fits one packet, with a session and without: old firmware may read no more."""
    mx = await bench.simulator()
    dialer = bench.dialer(mx)
    for _ in range(2):
        connection = dialer.policy.clientConnectionForTLS(None)
        connection.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            connection.do_handshake()
        assert len(connection.bio_read(2**15)) < 1200
        await log_in(bench, dialer)
