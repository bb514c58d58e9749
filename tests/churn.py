"""Clients that come and go in every way there is, as cheaply as a client can.

    churn = Churn(port, secure=True)
    for way in churn.ways:
        way.run(churn, 20)        # twenty streams are opened, and end in this way

All of it blocks: a test in the process of the daemon runs it in a thread.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import ssl
import struct
from collections.abc import Callable
from urllib.parse import urlencode

import attrs
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.ports import LOOPBACK

# Whatever a client waits for comes within this time, in seconds, or the test fails.
PATIENCE = 20.0
OUTSIDE = "+12025550104"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Its socket is closed by RST (SO_LINGER of zero seconds).
RESET = struct.pack("ii", 1, 0)
# Linux; not among the names of Python. Without it the addresses below would not multiply the ports.
IP_BIND_ADDRESS_NO_PORT = 24
# So many addresses of loopback that the ports of those who have left never run out: each is kept
# for a minute after its connection was closed.
ADDRESSES = 200


@attrs.frozen
class Way:
    """One way to come and go.

    Attributes:
        name: What happens.
        run: Lets so many clients do it, given the `Churn` and their number.
    """

    name: str
    run: Callable[[Churn, int], None]


class Churn:
    """Comes and goes.

    Args:
        port: The daemon's port.
        secure: Whether that is one of HTTPS.
        login, password: Somebody who may log in.

    Attributes:
        token: Is good for this user, whose extension is watched.
        ways: All ways of this kind of port.
    """

    def __init__(self, port, *, secure=False, login, password):
        self.port = port
        self.secure = secure
        self.ways = SECURE_WAYS if secure else PLAIN_WAYS
        self._account = {"login": login, "password": password}
        self._addresses = itertools.cycle(f"127.0.0.{number}" for number in range(1, ADDRESSES))
        self._tls = {name: _client_tls(name) for name in ("http/1.1", "h2")}
        self.token = ""
        self.log_in()

    # --- The API ----------------------------------------------------------------------------------

    def ask(self, path, **fields):
        """POST a form and give the answer's JSON, if it has any."""
        host = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE)
        host.sock = self.connect("http/1.1")
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        host.request("POST", f"/api/{path}", urlencode(fields), headers)
        response = host.getresponse()
        body = response.read()
        host.close()
        assert response.status < 300, (path, response.status, body)
        return json.loads(body or b"null")

    def log_in(self):
        """Log in; the streams of the user may be opened from now on."""
        self.token = self.ask("login", **self._account)["access_token"]

    def log_out(self):
        """Log out: all streams of the user end."""
        self.ask("logout")

    def call(self):
        """Make events: a call out, and its end."""
        call = self.ask("call", to=OUTSIDE)["call"]
        self.ask("call/hangup", callId=call["callId"], deviceId=call["deviceId"])

    # --- Connections ------------------------------------------------------------------------------

    def connect(self, protocol="", receive_buffer=0):
        """Connect.

        Args:
            protocol: What TLS shall agree on (ALPN); nothing for no TLS at all.
            receive_buffer: Bytes that the kernel holds for this client, if that matters.
        """
        plain = socket.socket()
        try:
            plain.settimeout(PATIENCE)
            if receive_buffer:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            plain.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            plain.bind((next(self._addresses), 0))
            plain.connect((LOOPBACK, self.port))
            if self.secure and protocol:
                return self._tls[protocol].wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        return plain

    def request(self, method="GET", path="/api/events", *lines, version="1.1", token=None):
        """Give the head of a request."""
        bearer = f"Authorization: Bearer {self.token if token is None else token}"
        head = [f"{method} {path} HTTP/{version}", "Host: localhost", bearer, *lines, "", ""]
        return "\r\n".join(head).encode("ascii")


def _client_tls(protocol):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


# --- How a client ends ----------------------------------------------------------------------------


def fin(each):
    """Close, as a program does that ends."""
    each.close()


def rst(each):
    """Reset the connection."""
    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    each.close()


def half(each):
    """Send no more, and read what comes until the daemon closes, too."""
    # For a TLS socket this, too, is the FIN of TCP, without a word of TLS.
    socket.socket.shutdown(each, socket.SHUT_WR)
    to_end(each)


def farewell(each):
    """Take leave in TLS, and wait for the same from the other side."""
    while True:
        try:
            each.unwrap().close()
        except ssl.SSLError as error:
            # What comes before the other side's farewell stands in its way.
            if "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" not in str(error):
                raise
            each.close()
        return


def to_end(each):
    """Read until the daemon closes."""
    try:
        while each.recv(65_536):
            pass
    except (ConnectionResetError, ssl.SSLError):
        # It had sent more than was read, or closes without a word of TLS as we did.
        pass
    each.close()


# --- What a client waits for ----------------------------------------------------------------------


def nothing(_churn, _sockets):
    """Wait for nothing."""


def head(_churn, sockets):
    """Wait for the head of each answer."""
    for each in sockets:
        _read_until(each, b"\r\n\r\n")


def part_of_event(churn, sockets):
    """Wait for an event, and read a few bytes of it."""
    head(churn, sockets)
    churn.call()
    for each in sockets:
        _read_until(each, b"event: ")


def logout(churn, sockets):
    """See the stream ended by a logout, in order."""
    head(churn, sockets)
    churn.log_out()
    for each in sockets:
        _read_until(each, b"0\r\n\r\n")
    churn.log_in()


def _read_until(each, words):
    text = b""
    while words not in text:
        data = each.recv(16 if words == b"event: " else 65_536)
        assert data, text
        text += data
    return text


def _way(name, lines, wait, end, protocol="http/1.1"):
    def run(churn, count):
        data = lines(churn)
        sockets = [churn.connect(protocol) for _ in range(count)]
        for each in sockets:
            each.sendall(data)
        wait(churn, sockets)
        for each in sockets:
            end(each)

    return Way(name, run)


def _events(*lines, **words):
    return lambda churn: churn.request("GET", "/api/events", *lines, **words)


def _all_topics(churn):
    return churn.request("GET", "/api/events?topics=calls,contacts,status")


def _pipelined(churn):
    return churn.request() + churn.request("GET", "/api/calls") * 3


def _half_a_head(churn):
    return churn.request()[:60]


def _half_a_body(churn):
    return churn.request("POST", "/api/login", "Content-Length: 100") + b"login="


def _half_a_chunk(churn):
    return churn.request("POST", "/api/login", "Transfer-Encoding: chunked") + b"10\r\nlogin="


def _unread(churn, count):
    """Let clients come that read nothing, and go."""
    sockets = [churn.connect("http/1.1", receive_buffer=2048) for _ in range(count)]
    for each in sockets:
        each.sendall(churn.request())
    for _ in range(3):
        churn.call()
    for each in sockets:
        rst(each)


# Of HTTP/1.1, with and without TLS.
_HTTP_WAYS = (
    _way("a stream, then FIN", _events(), head, fin),
    _way("a stream, then RST", _events(), head, rst),
    _way("a stream, then half a close", _events(), head, half),
    _way("FIN behind the request", _events(), nothing, fin),
    _way("RST behind the request", _events(), nothing, rst),
    _way("half a close behind the request", _events(), nothing, half),
    _way("nothing at all, then FIN", lambda _churn: b"", nothing, fin),
    _way("nothing at all, then RST", lambda _churn: b"", nothing, rst),
    _way("half a head, then FIN", _half_a_head, nothing, fin),
    _way("half a head, then RST", _half_a_head, nothing, rst),
    _way("half a head, then half a close", _half_a_head, nothing, half),
    _way("half a body, then FIN", _half_a_body, nothing, fin),
    _way("half a chunk, then RST", _half_a_chunk, nothing, rst),
    _way("a part of an event, then FIN", _events(), part_of_event, fin),
    _way("a part of an event, then RST", _events(), part_of_event, rst),
    _way("HTTP/1.0, then FIN", _events(version="1.0"), head, fin),
    _way("HTTP/1.0, then RST", _events(version="1.0"), head, rst),
    _way("a logout", _events(), logout, fin),
    _way("all topics, then RST", _all_topics, head, rst),
    _way("an id of nobody, then RST", _events("Last-Event-ID: 17"), head, rst),
    _way("a bad token", _events(token="x.y.z"), head, fin),
    _way("no token", _events(token=""), head, rst),
    _way("HEAD", lambda churn: churn.request("HEAD"), head, fin),
    _way("406", _events("Accept: image/png"), head, fin),
    _way("requests behind the stream, then FIN", _pipelined, head, fin),
    _way("requests behind the stream, then RST", _pipelined, head, rst),
    _way("no request", lambda _churn: b"\r\n\r\nNONSENSE\r\n\r\n", nothing, to_end),
    Way("a stream that is not read, then RST", _unread),
)
PLAIN_WAYS = _HTTP_WAYS


# --- HTTP/2 ---------------------------------------------------------------------------------------


class _H2:
    """One connection with some streams; the bytes are made here, and answers are looked at little.

    Args:
        churn: Where to.
        count: How many streams are opened.
        window: The window of each stream.
        whole: Whether the last request is whole.
    """

    def __init__(self, churn, count, *, window=65_535, whole=True):
        self._socket = churn.connect("h2")
        self._buffer = b""
        self._encoder = Encoder()
        self.streams = range(1, 2 * count, 2)
        settings = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: window})
        frames = [self._headers(number, churn.token) for number in self.streams]
        if not whole:
            frames[-1].flags.discard("END_HEADERS")
        self._socket.sendall(PREFACE)
        self.send(settings, SettingsFrame(0, flags=["ACK"]), *frames)

    def _headers(self, number, token):
        frame = HeadersFrame(number, flags=["END_HEADERS", "END_STREAM"])
        frame.data = self._encoder.encode(
            [
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/api/events"),
                (":authority", "localhost"),
                ("authorization", f"Bearer {token}"),
            ]
        )
        return frame

    def send(self, *frames):
        self._socket.sendall(b"".join(frame.serialize() for frame in frames))

    def wait(self, kind, flag=None):
        """Wait for a frame of a kind on each stream."""
        missing = set(self.streams)
        while missing:
            frame = self._read()
            if isinstance(frame, kind) and (flag is None or flag in frame.flags):
                missing.discard(frame.stream_id)

    def _read(self):
        while True:
            if len(self._buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
                if len(self._buffer) >= 9 + length:
                    frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
                    self._buffer = self._buffer[9 + length :]
                    return frame
            data = self._socket.recv(65_536)
            assert data, "the connection has ended"
            self._buffer += data

    def end(self, how):
        how(self._socket)


def _h2_way(name, act, **options):
    def run(churn, count):
        connection = _H2(churn, count, **options)
        act(churn, connection)

    return Way(f"HTTP/2: {name}", run)


def _h2_reset(_churn, connection):
    connection.wait(HeadersFrame)
    connection.send(*(RstStreamFrame(number, error_code=8) for number in connection.streams))
    connection.end(farewell)


def _h2_reset_at_once(_churn, connection):
    connection.send(*(RstStreamFrame(number, error_code=8) for number in connection.streams))
    connection.end(fin)


def _h2_goaway(_churn, connection):
    connection.wait(HeadersFrame)
    connection.send(GoAwayFrame(0))
    connection.end(farewell)


def _h2_end(how):
    def act(_churn, connection):
        connection.wait(HeadersFrame)
        connection.end(how)

    return act


def _h2_leave(how):
    return lambda _churn, connection: connection.end(how)


def _h2_logout(churn, connection):
    connection.wait(HeadersFrame)
    churn.log_out()
    connection.wait(DataFrame, "END_STREAM")
    connection.end(fin)
    churn.log_in()


def _h2_events(how):
    def act(churn, connection):
        connection.wait(DataFrame)
        churn.call()
        connection.wait(DataFrame)
        connection.end(how)

    return act


def _h2_shut_windows(churn, connection):
    connection.wait(HeadersFrame)
    churn.call()
    connection.send(*(WindowUpdateFrame(n, window_increment=5) for n in connection.streams))
    connection.wait(DataFrame)
    connection.end(rst)


def _hello(_churn):
    """Give the first bytes of a TLS handshake (RFC 8446, 5.1)."""
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60)


SECURE_WAYS = (
    *_HTTP_WAYS,
    _way("a stream, then a farewell", _events(), head, farewell),
    _way("half a handshake, then FIN", _hello, nothing, fin, protocol=""),
    _way("half a handshake, then RST", _hello, nothing, rst, protocol=""),
    _way("no TLS", _events(), nothing, to_end, protocol=""),
    _h2_way("RST_STREAM", _h2_reset),
    _h2_way("RST_STREAM at once", _h2_reset_at_once),
    _h2_way("GOAWAY", _h2_goaway),
    _h2_way("FIN", _h2_end(fin)),
    _h2_way("RST", _h2_end(rst)),
    _h2_way("a farewell", _h2_end(farewell)),
    _h2_way("FIN at once", _h2_leave(fin)),
    _h2_way("RST at once", _h2_leave(rst)),
    _h2_way("half a head, then FIN", _h2_leave(fin), whole=False),
    _h2_way("half a head, then RST", _h2_leave(rst), whole=False),
    _h2_way("a logout", _h2_logout),
    _h2_way("events, then FIN", _h2_events(fin)),
    _h2_way("events, then RST", _h2_events(rst)),
    _h2_way("shut windows, then RST", _h2_shut_windows, window=0),
)
