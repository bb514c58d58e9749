"""TLS of the standard library with pyOpenSSL's face, against a client in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from mxflex.certs.connection import ServerConnection
from mxflex.certs.context import PROTOCOLS, ServingCertificate

ALERT_NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
SERVING = ServingCertificate("mx.example.test")


class Client:
    """A TLS client that is not Twisted's, and whose bytes the test carries."""

    def __init__(self, protocols=()):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(protocols)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def go_on(self):
        """Go on with the handshake; tell whether it is done."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


def server():
    return SERVING.serverConnectionForTLS(None)


def taken(connection):
    """Give everything that a server has to send."""
    try:
        return connection.bio_read(2**16)
    except SSL.WantReadError:
        return b""


def shake_hands(client, connection):
    """Carry bytes to and fro until both are done."""
    done = False
    for _ in range(4):
        client.go_on()
        connection.bio_write(client.outgoing.read())
        try:
            connection.do_handshake()
            done = True
        except SSL.WantReadError:
            pass
        client.incoming.write(taken(connection))
    assert done
    assert client.go_on()


@pytest.fixture
def pair():
    """Give a client and a server that have shaken hands."""
    client, connection = Client(), server()
    shake_hands(client, connection)
    return client, connection


def test_bytes_go_both_ways(pair):
    """What one side writes is what the other one reads; nothing to read is told as such."""
    client, connection = pair
    with pytest.raises(SSL.WantReadError):
        connection.recv(100)
    client.tls.write(b"question")
    connection.bio_write(client.outgoing.read())
    assert connection.recv(100) == b"question"
    assert connection.send(b"answer") == 6
    assert connection.encrypt(b", by the short way") == 18
    client.incoming.write(connection.encrypted(-1))
    assert client.tls.read(100) + client.tls.read(100) == b"answer, by the short way"
    assert connection.encrypted(-1) == b""
    with pytest.raises(SSL.WantReadError):
        connection.bio_read(100)


def test_the_client_says_goodbye(pair):
    """A goodbye of the client ends the reading, and is returned."""
    client, connection = pair
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    connection.bio_write(client.outgoing.read())
    with pytest.raises(SSL.ZeroReturnError):
        connection.recv(100)
    assert connection.shutdown() is True
    client.incoming.write(taken(connection))
    client.tls.unwrap()


def test_the_server_says_goodbye(pair):
    """A goodbye is under way until the client returns it; nothing can be sent behind it."""
    client, connection = pair
    assert connection.shutdown() is False
    client.incoming.write(taken(connection))
    assert client.tls.read(100) == b""
    with pytest.raises(SSL.Error):
        connection.send(b"more")
    client.tls.unwrap()
    connection.bio_write(client.outgoing.read())
    assert connection.shutdown() is True


def test_an_end_without_goodbye(pair):
    """A client that just goes is noticed, by the words that Twisted looks for."""
    _, connection = pair
    connection.bio_shutdown()
    with pytest.raises(SSL.Error) as caught:
        connection.recv(100)
    assert caught.value.args[0][-1][2].startswith("unexpected eof")


def test_a_goodbye_before_the_handshake():
    """There is nothing to say goodbye to before the handshake is done."""
    with pytest.raises(SSL.Error):
        server().shutdown()


@pytest.mark.parametrize("offered", [(), ("h2",), ("http/1.1",), ("http/1.1", "h2"), ("x", "h2")])
def test_the_application_protocol(offered):
    """The server takes what it likes best of what is offered, and none if none is."""
    client, connection = Client(offered), server()
    shake_hands(client, connection)
    agreed = next((name for name in PROTOCOLS if name in offered), "")
    assert connection.get_alpn_proto_negotiated() == agreed.encode()
    assert (client.tls.selected_alpn_protocol() or "") == agreed


@pytest.mark.parametrize("step", [1, 3, 100, 2**16])
def test_unknown_protocols_alone_are_refused(step):
    """Whoever offers unknown ones alone gets the alert for it, however the bytes are cut."""
    client, connection = Client(("spdy/3", "h3")), server()
    client.go_on()
    hello = client.outgoing.read()
    for start in range(0, len(hello), step):
        connection.bio_write(hello[start : start + step])
        if start + step < len(hello):
            with pytest.raises(SSL.WantReadError):
                connection.do_handshake()
    with pytest.raises(SSL.Error, match="no application protocol"):
        connection.do_handshake()
    assert taken(connection) == ALERT_NO_APPLICATION_PROTOCOL
    assert taken(connection) == b""


@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_garbage_is_an_error_of_tls(parts, begins_well):
    """Whatever comes instead of a ClientHello, nothing but the errors of TLS escapes."""
    connection = server()
    if begins_well:
        connection.bio_write(b"\x16\x03\x01\x00\x50\x01\x00\x00\x4c\x03\x03")
    for part in parts:
        connection.bio_write(part)
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            continue
        except SSL.Error:
            break
    taken(connection)


@given(st.data())
def test_a_changed_hello_is_an_error_of_tls(data):
    """Nor when a real ClientHello is changed, cut short or grown anywhere."""
    client, connection = Client(("h2", "http/1.1")), server()
    client.go_on()
    hello = bytearray(client.outgoing.read())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(hello) - 1))
        hello[position] = data.draw(st.integers(0, 255))
    connection.bio_write(bytes(hello[: data.draw(st.integers(0, len(hello)))]))
    with suppress(SSL.Error):
        connection.do_handshake()


def test_is_what_a_context_gives():
    """The serving certificate gives connections of this kind."""
    assert isinstance(server(), ServerConnection)
