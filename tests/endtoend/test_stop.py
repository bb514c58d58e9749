"""The end of the installed daemon, and the start behind it: soon in every case, and polite."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import selectors
import signal
import socket
import ssl
from collections import Counter

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mxflex.simulator.certificate import Certificate
from mxflex.web.eventstream import FIRST_RETURN_SECONDS, RETURNS_PER_SECOND
from tests.endtoend.place import ACCOUNT, SCENARIO, stream_request
from tests.endtoend.stage import LOOPBACK, PATIENCE, eventually

KEY = {"key": "k" * 40}
# The last block of a stream, as a chunk, and the end of the response.
FAREWELL = re.compile(rb"\r\n[0-9a-f]+\r\n(?:[^\r]*\n\n)?retry: (\d+)\n\n\r\n0\r\n\r\n")
MANY = 5_000


@pytest.fixture
def many_files():
    """Let this process open as many files as it may."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Crowd:
    """Many event streams of one token, until the block ends.

    Args:
        port: The port of MXFlex.
        token: The token.
        count: How many.
    """

    def __init__(self, port, token, count):
        self.texts = {}
        self.broken = 0
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            client = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
            client.sendall(stream_request(token))
            self.texts[client] = b""
            self._selector.register(client, selectors.EVENT_READ)
        self._read_while(lambda: not all(b"\nretry: " in text for text in self.texts.values()))

    def _read_while(self, condition):
        while condition():
            ready = self._selector.select(PATIENCE)
            assert ready, "nothing comes any more"
            for key, _ in ready:
                self._read(key.fileobj)

    def _read(self, client):
        try:
            data = client.recv(65_536)
        except ConnectionError:
            self.broken += 1
            data = b""
        self.texts[client] += data
        if not data:
            self._selector.unregister(client)

    def read_to_end(self):
        """Read until the other side has closed everywhere."""
        self._read_while(self._selector.get_map)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._selector.close()
        for client in self.texts:
            client.close()


def test_thousands_of_streams(place, many_files):
    """All of 5,000 end in order, and come back spread over time; the end takes a moment only."""
    place.configure(events={"max_per_token": MANY, "max_per_address": MANY})
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    with Crowd(place.port, place.token(), MANY) as crowd:
        mxflex.stop()
        crowd.read_to_end()
    assert crowd.broken == 0
    farewells = [each for each in map(FAREWELL.search, crowd.texts.values()) if each]
    assert all(each.end() == len(each.string) for each in farewells)
    # A machine that is too busy leaves some to the end of the process, and says so.
    left = re.search(r"(\d+) streams are not ended in order", mxflex.output)
    assert len(farewells) == MANY - (int(left[1]) if left else 0)
    returns = [int(farewell[1]) for farewell in farewells]
    last = (FIRST_RETURN_SECONDS + MANY / RETURNS_PER_SECOND) * 1000
    assert FIRST_RETURN_SECONDS * 1000 <= min(returns) < max(returns) <= last
    # So many in a second on average; chance does not put twice as many into one.
    each_second = Counter(milliseconds // 1000 for milliseconds in returns)
    assert max(each_second.values()) < 2 * RETURNS_PER_SECOND
    mxsim.stop()


def test_one_stream(place):
    """A lone stream needs no spreading: its client is told to come back when we are gone."""
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    stream = place.stream(place.token())
    mxflex.stop()
    stream.read_to_end()
    farewell = FAREWELL.search(stream.text)
    assert farewell.end() == len(stream.text)
    assert abs(int(farewell[1]) - FIRST_RETURN_SECONDS * 1000) <= 1000 / RETURNS_PER_SECOND
    mxsim.stop()


def test_without_the_mx(place):
    """Streams end as orderly while the MX is away."""
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    streams = [place.stream(place.token()) for _ in range(30)]
    mxsim.kill()
    eventually(lambda: "server connection down" in mxflex.output)
    mxflex.stop()
    for stream in streams:
        stream.read_to_end()
        assert FAREWELL.search(stream.text)


def test_an_mx_that_hangs(place):
    """An MX that has fallen silent with monitors and streams on it delays the end by a moment."""
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    streams = [place.stream(place.token()) for _ in range(30)]
    mxsim.send(signal.SIGSTOP)
    mxflex.stop()
    for stream in streams:
        stream.read_to_end()
        assert FAREWELL.search(stream.text)


# What Python runs before a program, if it finds it.
SLOW_NAMES = """
import socket, time
look_up = socket.getaddrinfo
def getaddrinfo(name, *rest, **more):
    if str(name).endswith(".example"):
        print("looking for", name, flush=True)
        time.sleep(60)
    return look_up(name, *rest, **more)
socket.getaddrinfo = getaddrinfo
"""


def test_names_that_are_not_found_out(place):
    """A server of names that does not answer, or not for a long time, does not delay the end."""
    (place.folder / "sitecustomize.py").write_text(SLOW_NAMES)
    place.configure(mx={"addr": "mx.example", **ACCOUNT})
    mxflex = place.mxflex(environ={"PYTHONPATH": str(place.folder)})
    eventually(lambda: "looking for mx.example" in mxflex.output)
    mxflex.stop()


def test_tls_clients_without_manners(place):
    """Clients that read nothing any more, not even the goodbye of TLS, delay the end by a moment.

    So do those that have not finished their handshake.
    """
    place.configure(token=KEY)
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    token = place.token()
    mxflex.stop()
    certificate, key = place.folder / "certificate.pem", place.folder / "key.pem"
    made = Certificate.issue("localhost", LOOPBACK)
    certificate.write_bytes(made.pem)
    key.write_bytes(made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    place.configure(token=KEY, tls={"certificate": str(certificate), "key": str(key)})
    mxflex = place.run("mxflex")
    eventually(lambda: "server connection up" in mxflex.output)
    context = ssl.create_default_context(cafile=certificate)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection((LOOPBACK, place.port)))
            plain = socket.create_connection((LOOPBACK, place.port), timeout=PATIENCE)
            client = stack.enter_context(context.wrap_socket(plain, server_hostname=LOOPBACK))
            client.sendall(stream_request(token))
            text = b""
            while b"\nretry: " not in text:
                text += client.recv(65_536)
        mxflex.stop()
    mxsim.stop()


# --- The start behind it --------------------------------------------------------------------------


def ids(stream):
    """Give the ids of what a stream has brought so far."""
    return [int(each) for each in re.findall(rb"\nid: (\d+)\n", stream.text)]


def test_clients_go_on_with_their_tokens(place):
    """With `token.key` the old token opens a stream: `gap` for what is lost, then live events."""
    place.configure(token=KEY)
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    token = place.token()
    stream = place.stream(token)
    stream.read_until(b"event: DeliveredEvent")
    stream.read_until(b"\n\n")
    mxflex.stop()
    stream.read_to_end()
    last_id = ids(stream)[-1]
    mxflex = place.mxflex()
    eventually(lambda: "server connection up" in mxflex.output)
    again = place.stream(token, f"Last-Event-ID: {last_id}")
    seen = again.read_until(b'event: gap\ndata: {"reason":"unknown-id"}')
    again.read_until(b"event: DeliveredEvent", seen)
    again.read_until(b"\n\n", seen)
    assert min(ids(again)) > last_id
    mxflex.stop()
    mxsim.stop()


def test_clients_go_on_though_the_mx_is_away(place):
    """The stream opens at once, and goes on when the MX comes, with a gap that says since when."""
    place.configure(token=KEY)
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    token = place.token()
    mxflex.stop()
    mxsim.stop()
    mxflex = place.mxflex()
    stream = place.stream(token, "Last-Event-ID: 1")
    seen = stream.read_until(b'event: gap\ndata: {"reason":"unknown-id"}')
    mxsim = place.mxsim()
    seen = stream.read_until(b'event: gap\ndata: {"reason":"mx-down","since":"', seen)
    stream.read_until(b"event: DeliveredEvent", seen)
    mxflex.stop()
    mxsim.stop()


def test_the_mx_knows_the_extension_no_more(place):
    """When the MX refuses the monitor, the stream is 503 with `Retry-After`, in our own words."""
    place.configure(token=KEY)
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    token = place.token()
    mxflex.stop()
    mxsim.stop()
    users = [{**SCENARIO["users"][0], "ext": "3044"}]
    scenario = {"company": SCENARIO["company"], "users": users}
    (place.folder / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")
    mxsim = place.mxsim()
    mxflex = place.mxflex()
    eventually(lambda: "server connection up" in mxflex.output)
    status, headers, body = place.get("/api/events", token)
    assert status == 503
    assert int(headers["Retry-After"]) > 0
    assert json.loads(body)["error"] == "the monitor of this extension cannot be started"
    assert mxflex.output.count("monitor of 3095 not started") == 1
    mxflex.stop()
    mxsim.stop()
