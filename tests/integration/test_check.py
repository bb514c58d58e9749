"""`--check-config`: what works and what does not, one line each."""

from __future__ import annotations

import json
import socket

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor

from mxflex import check
from mxflex.simulator.certificate import Certificate
from mxflex.simulator.server import SimulatedMX
from tests.ports import free_port


@pytest_twisted.async_yield_fixture
async def mx():
    """Give a simulated MX that runs, with its port as an attribute."""
    simulated = SimulatedMX(reactor)
    simulated.test_port = await simulated.listen()
    yield simulated
    await simulated.stop()


async def check_lines(capsys, tmp_path, text, environ=None):
    """Check a configuration; give the exit status and the lines."""
    path = tmp_path / "mxflex.yaml"
    path.write_text(text, encoding="utf-8")
    status = 0
    try:
        await check.run(str(path), environ or {}, reactor)
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr().out.replace(str(tmp_path), "DIR").splitlines()


@pytest.fixture
def page(tmp_path):
    """Give a folder with an index page."""
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("hello", encoding="utf-8")
    return tmp_path / "html"


@pytest_twisted.ensureDeferred
async def test_all_is_well(capsys, tmp_path, mx, page):
    """A configuration that works ends with 0, and says so line by line."""
    port, monitor = free_port(), f"tcp:{free_port()}:interface=127.0.0.1"
    status, lines = await check_lines(
        capsys,
        tmp_path,
        f"host: '127.0.0.1:{port}'\nhtml: '{page}'\nmonitor: {{listen: ['{monitor}']}}\n"
        f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: mxflex}}",
    )
    assert lines == [
        "ok   configuration: DIR/mxflex.yaml",
        "ok   static files: DIR/html",
        "ok   MX: login of mxflex accepted, serial number 63022",
        f"ok   port tcp:{port}:interface=127.0.0.1: free",
        f"ok   port {monitor}: free",
    ]
    assert status == 0


@pytest_twisted.ensureDeferred
async def test_all_is_wrong(capsys, tmp_path, mx):
    """Each thing that does not work has its line with the reason, and the status is 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, lines = await check_lines(
            capsys,
            tmp_path,
            f"host: '127.0.0.1:{port}'\nhtml: '{tmp_path}/nowhere'\n"
            f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: not-this-one}}",
        )
    assert status == 1
    assert [line[:4] for line in lines] == ["ok  ", "note", "FAIL", "FAIL"]
    assert lines[1] == "note static files: there is no index.html in DIR/nowhere"
    assert lines[2].startswith("FAIL MX: ")
    assert "Address already in use" in lines[3]
    assert "not-this-one" not in "\n".join(lines)


@pytest_twisted.ensureDeferred
async def test_the_queue_of_webhooks(capsys, tmp_path, mx, page):
    """With webhooks it is told whether their queue can be written; it is not made."""
    for folder, verdict in (
        (tmp_path, "ok   queue DIR/webhooks.db: does not exist yet, and can be made"),
        (tmp_path / "none", "FAIL queue DIR/none/webhooks.db: there is no folder DIR/none"),
    ):
        status, lines = await check_lines(
            capsys,
            tmp_path,
            f"host: '127.0.0.1:{free_port()}'\nhtml: '{page}'\n"
            f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: mxflex}}\n"
            f"webhooks: [{{name: a, url: 'https://a/', secret: whsec_{'A' * 32}}}]\n"
            f"delivery: {{storage: '{folder}/webhooks.db'}}",
        )
        assert verdict in lines
        assert status == verdict.startswith("FAIL")
    assert not (tmp_path / "webhooks.db").exists()


@pytest_twisted.ensureDeferred
async def test_before_the_first_start(capsys, tmp_path, mx, page):
    """A folder that systemd makes at the first start is no failure before it; others are."""
    settings = {
        "host": f"127.0.0.1:{free_port()}",
        "html": str(page),
        "mx": {"addr": f"127.0.0.1:{mx.test_port}", "login": "mxflex", "password": "mxflex"},
        "token": {"key": "k" * 40},
        "webhooks": [{"name": "a", "url": "https://a/", "secret": f"whsec_{'A' * 32}"}],
        "delivery": {"storage": "spool/webhooks.db"},
    }
    environ = {"STATE_DIRECTORY": f"{tmp_path}/state"}
    status, lines = await check_lines(capsys, tmp_path, json.dumps(settings), environ)
    made = "there is no folder DIR/state yet; systemd makes it when the service starts"
    assert f"note logouts DIR/state/logouts.json: {made}" in lines
    missing = "there is no folder DIR/state/spool"
    assert f"FAIL queue DIR/state/spool/webhooks.db: {missing}" in lines
    assert status == 1

    del settings["delivery"]
    status, lines = await check_lines(capsys, tmp_path, json.dumps(settings), environ)
    assert f"note queue DIR/state/webhooks.db: {made}" in lines
    assert status == 0
    assert not (tmp_path / "state").exists()


@pytest_twisted.ensureDeferred
async def test_the_folder_of_certificates_before_the_first_start(capsys, tmp_path, mx, page):
    """The folder of certificates, too, may lie in one that systemd makes."""
    settings = {
        "host": "crm.example.invalid",
        "html": str(page),
        "mx": {"addr": f"127.0.0.1:{mx.test_port}", "login": "mxflex", "password": "mxflex"},
        "listen": [f"tcp:{free_port()}:interface=127.0.0.1"],
        "listen_http": [f"tcp:{free_port()}:interface=127.0.0.1"],
        "acme": {"directory": f"https://127.0.0.1:{free_port()}/"},
    }
    environ = {"STATE_DIRECTORY": f"{tmp_path}/state"}
    _, lines = await check_lines(capsys, tmp_path, json.dumps(settings), environ)
    made = "there is no folder DIR/state yet; systemd makes it when the service starts"
    assert f"note folder DIR/state/certs: {made}" in lines


@pytest_twisted.ensureDeferred
async def test_the_file_of_logouts(capsys, tmp_path, mx, page):
    """With `token.key` it is told whether logouts can be written down; without, they are not."""
    made = "ok   logouts DIR/logouts.json: does not exist yet, and can be made"
    missing = "FAIL logouts DIR/none/logouts.json: there is no folder DIR/none"
    for key, folder, verdict in (
        ("k" * 40, tmp_path, made),
        ("k" * 40, tmp_path / "none", missing),
        (None, tmp_path / "none", None),
    ):
        settings = {
            "host": f"127.0.0.1:{free_port()}",
            "html": str(page),
            "mx": {"addr": f"127.0.0.1:{mx.test_port}", "login": "mxflex", "password": "mxflex"},
            "token": {"storage": f"{folder}/logouts.json", **({"key": key} if key else {})},
        }
        status, lines = await check_lines(capsys, tmp_path, json.dumps(settings))
        assert [line for line in lines if "logouts" in line] == ([verdict] if verdict else [])
        assert status == bool(verdict and verdict.startswith("FAIL"))
    assert not (tmp_path / "logouts.json").exists()


@pytest_twisted.ensureDeferred
async def test_receivers_of_webhooks(capsys, tmp_path, mx, page):
    """Of each receiver it is told where it is, without secrets, and whether its CA can be used."""
    bad = tmp_path / "ca.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    a = {"name": "a", "url": "https://a:8443/T0K3N?x", "secret": "whsec_" + "A" * 32}
    hooks = [a, {**a, "name": "b", "ca_file": str(bad)}]
    settings = {
        "host": f"127.0.0.1:{free_port()}",
        "html": str(page),
        "mx": {"addr": f"127.0.0.1:{mx.test_port}", "login": "mxflex", "password": "mxflex"},
        "webhooks": hooks,
        "delivery": {"storage": str(tmp_path / "webhooks.db")},
    }
    status, lines = await check_lines(capsys, tmp_path, json.dumps(settings))
    assert "ok   webhook a: posts to https://a:8443" in lines
    assert "FAIL webhook b: DIR/ca.pem: webhooks: expected certificates" in lines
    assert status == 1


@pytest_twisted.ensureDeferred
async def test_a_socket_of_systemd(capsys, tmp_path, mx, page):
    """A socket that only the service gets from systemd is no mistake, and is not tried."""
    status, lines = await check_lines(
        capsys,
        tmp_path,
        f"listen: ['systemd:domain=INET:index=0']\nhtml: '{page}'\n"
        f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: mxflex}}",
    )
    assert status == 0
    assert lines[3] == (
        "note port systemd:domain=INET:index=0: systemd opens it; it cannot be tried from here"
    )


@pytest.mark.parametrize(
    "case",
    [
        ("listen", "tcp:x", "invalid literal for int() with base 10: 'x'"),
        ("monitor.listen", "foo:1", "Unknown endpoint type: 'foo'"),
        (
            "listen",
            "ssl:1:privateKey=DIR/no.pem",
            "No such file or directory: 'DIR/no.pem'",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_none(capsys, tmp_path, mx, page, case):
    """A text that Twisted knows no endpoint by is told with its key and what is expected there."""
    key, endpoint, reason = case
    outer, _, inner = key.rpartition(".")
    endpoints = [endpoint.replace("DIR", str(tmp_path))]
    value = {outer: {inner: endpoints}} if outer else {inner: endpoints}
    status, lines = await check_lines(
        capsys,
        tmp_path,
        f"{json.dumps(value)[1:-1]}\nhost: '127.0.0.1:{free_port()}'\nhtml: '{page}'\n"
        f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: mxflex}}",
    )
    assert status == 1
    expected = f"{key}: expected endpoints such as tcp:8080, not {endpoint!r}: "
    assert lines[-1].startswith(f"FAIL port {endpoint}: {expected}")
    assert lines[-1].endswith(reason)


@pytest_twisted.ensureDeferred
async def test_nobody_there(capsys, tmp_path, page):
    """An MX that cannot be reached is told with the reason."""
    _, lines = await check_lines(
        capsys,
        tmp_path,
        f"host: '127.0.0.1:{free_port()}'\nhtml: '{page}'\n"
        f"mx: {{addr: '127.0.0.1:{free_port()}', login: mxflex, password: secret}}",
    )
    assert lines[2].startswith("FAIL MX: the MX cannot be reached (Connection was refused")


@pytest_twisted.ensureDeferred
async def test_mistake_in_the_file(capsys, tmp_path):
    """A mistake in the file is the only line."""
    status, lines = await check_lines(capsys, tmp_path, "mx: 3")
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("FAIL configuration: DIR/mxflex.yaml: mx: expected")


@pytest_twisted.ensureDeferred
async def test_public_name(capsys, tmp_path, mx, page):
    """For a public name its address, the folder, the certificate and the CA are tried, too."""
    one, other = free_port(), free_port()
    status, lines = await check_lines(
        capsys,
        tmp_path,
        f"host: pbx.example.invalid\nhtml: '{page}'\n"
        f"listen: ['tcp:{one}:interface=127.0.0.1']\n"
        f"listen_http: ['tcp:{other}:interface=127.0.0.1']\n"
        f"acme: {{storage: '{tmp_path}/certs', directory: 'https://127.0.0.1:{free_port()}/'}}\n"
        f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: mxflex}}",
    )
    assert status == 1
    assert lines[3:5] == [
        f"ok   port tcp:{one}:interface=127.0.0.1: free",
        f"ok   port tcp:{other}:interface=127.0.0.1: free",
    ]
    assert lines[5].startswith("FAIL name pbx.example.invalid: does not resolve to an address")
    assert lines[6] == "ok   folder DIR/certs: does not exist yet, and can be made"
    assert lines[7] == "ok   certificate: none yet; the first start will ask for one"
    assert lines[8].startswith("FAIL ACME server: the CA cannot be reached: Connection was refused")


@pytest_twisted.ensureDeferred
async def test_own_certificate(capsys, tmp_path, mx, page):
    """A certificate of one's own is read, and its end told."""
    made = Certificate.self_signed("localhost")
    own = tmp_path / "own.pem"
    own.write_bytes(
        made.certificate.public_bytes(Encoding.PEM)
        + made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    _, lines = await check_lines(
        capsys,
        tmp_path,
        f"host: 'localhost:{free_port()}'\nhtml: '{page}'\n"
        f"tls: {{certificate: '{own}', key: '{own}'}}\n"
        f"mx: {{addr: '127.0.0.1:{mx.test_port}', login: mxflex, password: mxflex}}",
    )
    assert lines[-1].startswith("ok   certificate: ends 2")
    assert lines[-1].endswith(" days left")
