"""Each defect of Twisted's HTTP/2 that `mxflex.web.http2` mends, beside the same without it.

The tests of `H2Connection` state the defect: where one fails with a later Twisted, the mending may
go. Everything is in memory, turn by turn of a clock of the test's own.
"""

from __future__ import annotations

from importlib.metadata import requires
from secrets import token_hex

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection as Core
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web._http2 import H2Connection
from twisted.web.http_headers import InvalidHeaderName
from zope.interface import implementer

from mxflex.web.http2 import FRAMES_PER_TURN, MAX_CONTROL_BYTES, MAX_QUEUED_BYTES, Connection

IDLE = 60
REQUEST = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "mxflex.test")]
BOTH = pytest.mark.parametrize("connection", [H2Connection, Connection])


class Turns(Clock):
    """A clock whose delayed calls of no delay wait for the next turn, as a reactor's do."""

    def turn(self):
        """Make the calls that are due, and tell how many."""
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        for call in due:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        return len(due)

    def settle(self, turns=1000):
        """Turn until nothing is due; tell whether that came to be."""
        return any(not self.turn() for _ in range(turns))


class Transport(StringTransport):
    """Ends as TLS does: not before the producer has been taken away."""

    connected = True

    def loseConnection(self):
        self.disconnecting = True

    def abortConnection(self):
        self.connected = False


class Pair:
    """A client, and a connection of the server that answers its requests with a function.

    Args:
        connection: The class of the connection.
        process: Answers a request.
        settings: The client's settings, by their codes.
    """

    def __init__(self, connection, process, settings=None):
        self.clock = Turns()
        self.requests = requests = []
        self.transport = Transport()
        self.client = Core(H2Configuration(client_side=True))
        self.events = []

        class Request(http.Request):
            def process(self):
                requests.append(self)
                process(self)

        self.server = connection(self.clock)
        self.server.requestFactory = Request
        self.server.callLater = self.clock.callLater
        self.server.timeOut = IDLE
        self.server.makeConnection(self.transport)
        self.transport.registerProducer(self.server, True)
        self.client.initiate_connection()
        if settings is not None:
            self.client.update_settings(settings)
        self.talk()

    def talk(self):
        """Let both sides hear what the other has said, once."""
        self.events += self.client.receive_data(self.transport.value())
        self.transport.clear()
        self.server.dataReceived(self.client.data_to_send())

    def ask(self, count=1):
        """Make requests; give the id of the last one."""
        for _ in range(count):
            stream_id = self.client.get_next_available_stream_id()
            self.client.send_headers(stream_id, REQUEST, end_stream=True)
        self.talk()
        return stream_id

    def run(self):
        """Go on until the server has nothing more to do, or never gets there."""
        for _ in range(100):
            self.clock.settle()
            self.talk()

    def received(self, kind):
        """Give the events of a kind that came to the client."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def body(self):
        """How many bytes of answers have come."""
        return sum(len(event.data) for event in self.received(DataReceived))


def answer(size):
    """Give a function that answers with so many bytes at once."""

    def process(request):
        request.write(b"x" * size)
        request.finish()

    return process


def wait(request):
    """Answer later."""
    request.write(b"")


@implementer(IPushProducer)
class Pushed:
    """A producer that counts what it is asked."""

    def __init__(self, request):
        self.paused = self.resumed = self.stopped = 0
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.paused += 1

    def resumeProducing(self):
        self.resumed += 1

    def stopProducing(self):
        self.stopped += 1


# --- 1. Windows -----------------------------------------------------------------------------------


def shut_pair(connection):
    """Give a pair whose client never opens its window, with a request for something."""
    pair = Pair(connection, answer(100), {SettingCodes.INITIAL_WINDOW_SIZE: 0})
    pair.ask()
    return pair


def test_twisted_spins_at_a_shut_window():
    """Twisted's loop has something to do in every turn, and sends nothing."""
    pair = shut_pair(H2Connection)
    assert not pair.clock.settle()
    assert pair.body == 0
    # Each turn begins the idle time anew.
    for _ in range(10):
        pair.clock.rightNow += IDLE / 2
        pair.clock.turn()
    assert not pair.transport.disconnecting


def test_no_turn_is_spent_on_a_shut_window():
    """Our loop is at rest, and the client is cut after the idle time."""
    pair = shut_pair(Connection)
    assert pair.clock.settle(3)
    pair.clock.advance(IDLE)
    assert pair.transport.disconnecting
    pair.talk()
    assert pair.received(ConnectionTerminated)
    pair.clock.advance(pair.server.abortTimeout)
    assert not pair.transport.connected


@pytest.mark.parametrize("nonsense", ["ping", "settings", "priority", "window"])
def test_a_client_that_talks_but_does_not_read_is_cut(nonsense):
    """Pings, settings, priorities and windows of a stream that has ended do not keep it."""
    pair = shut_pair(Connection)
    for number in range(IDLE):
        if nonsense == "ping":
            pair.client.ping(b"12345678")
        elif nonsense == "settings":
            pair.client.update_settings({SettingCodes.MAX_FRAME_SIZE: 16_384 + number})
        elif nonsense == "priority":
            pair.client.prioritize(1, weight=number + 1)
        else:
            pair.client.increment_flow_control_window(1)
        pair.talk()
        pair.clock.advance(1)
    assert pair.transport.disconnecting


def exhausted_pair(connection):
    """Give a pair whose client's window is used up, with a producer that would go on."""
    pair = Pair(connection, wait, {SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.ask()
    producer = Pushed(pair.requests[0])
    pair.requests[0].write(b"x" * 10)
    pair.run()
    assert pair.body == 10
    assert (producer.paused, producer.resumed) == (1, 0)
    return pair, producer


@BOTH
def test_new_settings_open_windows(connection):
    """Twisted's producers wait on when new settings have opened their window; ours go on."""
    pair, producer = exhausted_pair(connection)
    pair.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    pair.run()
    assert producer.resumed == (connection is Connection)


@BOTH
def test_a_window_opens_for_what_waits(connection):
    """What waits longer than the window allowed goes out when the client opens it."""
    pair = Pair(connection, answer(100_000), {SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.client.increment_flow_control_window(100_000)
    stream_id = pair.ask()
    pair.run()
    assert pair.body == 10
    pair.client.increment_flow_control_window(99_990, stream_id)
    pair.run()
    assert pair.body == 100_000
    assert pair.received(StreamEnded)


# --- 2. Aborting ----------------------------------------------------------------------------------


def aborted(connection):
    """Abort an answer; give the pair, the request, and what its `notifyFinish` said."""
    pair = Pair(connection, wait)
    pair.ask()
    (request,) = pair.requests
    said = []
    request.notifyFinish().addBoth(said.append)
    request.channel.abortConnection()
    pair.talk()
    assert pair.received(StreamReset)
    return pair, request, said


def test_twisted_forgets_whom_it_aborts():
    """Twisted tells nobody, and the next write is a KeyError."""
    _, request, said = aborted(H2Connection)
    assert not said
    with pytest.raises(KeyError):
        request.write(b"x")


def test_aborting_tells_the_request():
    """`notifyFinish` fires, nothing of the stream is left, and later writes do nothing."""
    pair, request, said = aborted(Connection)
    assert len(said) == 1
    assert not pair.server.streams
    request.write(b"x")
    assert pair.clock.settle(3)
    assert not pair.received(DataReceived)


@implementer(IPullProducer)
class Pulled:
    """A file without end, that counts how often it is read."""

    def __init__(self, request):
        self.reads = 0
        self.stopped = False
        self._request = request
        request.registerProducer(self, False)

    def resumeProducing(self):
        self.reads += 1
        self._request.write(b"x" * 10)

    def stopProducing(self):
        self.stopped = True


@BOTH
def test_a_reset_stops_the_producer(connection):
    """Twisted's producers are not told that their client has gone; ours are stopped."""
    pair = Pair(connection, wait)
    stream_id = pair.ask()
    producer = Pulled(pair.requests[0])
    driver = pair.server.streams[stream_id].producer
    pair.client.reset_stream(stream_id)
    pair.talk()
    assert producer.stopped == (connection is Connection)
    if connection is H2Connection:
        # It reads on, for ever, for nobody.
        driver.stopStreaming()


@BOTH
def test_a_request_taken_back_in_the_same_segment(connection):
    """Twisted begins the request, and never sends anything again; we answer the next one."""
    pair = Pair(connection, answer(10))
    pair.run()
    stream_id = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream_id, REQUEST, end_stream=True)
    pair.client.reset_stream(stream_id)
    pair.talk()
    assert len(pair.requests) == (connection is H2Connection)
    pair.ask()
    pair.run()
    assert pair.body == (10 if connection is Connection else 0)


def test_a_request_may_reset_others_when_it_is_lost():
    """Whoever hears that the connection is lost may abort other streams of it."""
    pair = Pair(Connection, wait)
    pair.ask(3)
    first, second, third = pair.requests
    said = []
    second.notifyFinish().addErrback(said.append)
    third.notifyFinish().addErrback(said.append)
    channel = second.channel
    first.notifyFinish().addErrback(lambda _: channel.abortConnection())
    pair.server.connectionLost(Failure(ConnectionLost()))
    assert len(said) == 2
    assert not pair.server.streams


# --- 3. Silence -----------------------------------------------------------------------------------


@BOTH
def test_a_silent_answer(connection):
    """Twisted cuts a client whose answer takes longer than the idle time; we go on."""
    pair = Pair(connection, wait)
    pair.ask()
    for _ in range(5):
        pair.clock.advance(IDLE)
    assert pair.transport.disconnecting == (connection is H2Connection)
    if connection is Connection:
        pair.requests[0].write(b"at last")
        pair.requests[0].finish()
        pair.run()
        assert pair.body == len(b"at last")
        pair.clock.advance(IDLE)
        assert pair.transport.disconnecting


def test_a_request_that_does_not_end_is_no_answer():
    """A client that begins requests and does not go on is cut after the idle time."""
    pair = Pair(Connection, wait)
    for _ in range(3):
        stream_id = pair.client.get_next_available_stream_id()
        pair.client.send_headers(stream_id, [(":method", "POST"), *REQUEST[1:]])
    pair.talk()
    pair.clock.advance(IDLE)
    assert pair.transport.disconnecting


def test_a_silent_answer_to_who_does_not_read():
    """That an answer takes long is no excuse for a client that leaves TCP unread."""
    pair = Pair(Connection, wait)
    pair.ask()
    pair.transport.producer.pauseProducing()
    pair.clock.advance(IDLE)
    assert pair.transport.disconnecting


# --- 4. Readers that stop -------------------------------------------------------------------------


@BOTH
def test_a_full_transport_pauses_the_producers(connection):
    """Twisted lets producers fill its queues while the client does not read; we pause them."""
    pair = Pair(connection, wait)
    pair.ask()
    producer = Pushed(pair.requests[0])
    pair.transport.producer.pauseProducing()
    assert producer.paused == (connection is Connection)


@BOTH
def test_a_wide_window_is_no_reason_to_queue(connection):
    """Twisted queues as much as the client's window allows; we pause at 64 KiB."""
    pair = Pair(connection, wait, {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    pair.client.increment_flow_control_window(2**30)
    pair.ask()
    producer = Pushed(pair.requests[0])
    pair.transport.producer.pauseProducing()
    producer.paused = 0
    pair.transport.producer.resumeProducing()
    pair.requests[0].write(b"x" * MAX_QUEUED_BYTES)
    assert producer.paused == (connection is Connection)


@BOTH
def test_a_client_that_sends_but_does_not_read(connection):
    """To Twisted, a body that goes on is a sign of life; we cut who leaves TCP unread."""
    pair = Pair(connection, wait)
    pair.run()
    stream_id = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream_id, [(":method", "POST"), *REQUEST[1:]])
    pair.transport.producer.pauseProducing()
    for _ in range(IDLE):
        pair.client.send_data(stream_id, b"x")
        pair.server.dataReceived(pair.client.data_to_send())
        pair.clock.advance(1)
    assert pair.transport.disconnecting == (connection is Connection)


@BOTH
def test_headers_wait_for_a_blocked_transport(connection):
    """Twisted aborts a client when many headers wait; we keep those of all its streams."""

    def process(request):
        request.setHeader("x-random", token_hex(200))
        request.write(b"")

    pair = Pair(connection, process)
    pair.transport.producer.pauseProducing()
    pair.ask(99)
    assert pair.transport.connected == (connection is Connection)


@BOTH
def test_control_frames_do_not_pile_up(connection):
    """A client that asks for many small answers and reads none is aborted."""
    pair = Pair(connection, wait)
    pair.transport.producer.pauseProducing()
    for _ in range(MAX_CONTROL_BYTES // 17 + 1):
        pair.client.ping(b"12345678")
    # Slowly, so that no other bound is met before.
    for _ in range(MAX_CONTROL_BYTES // 17 + 1):
        if pair.transport.connected:
            pair.server.dataReceived(pair.client.data_to_send(17))
            pair.clock.rightNow += 0.01
    assert not pair.transport.connected


# --- 5. Large writes ------------------------------------------------------------------------------


class Counted(bytes):
    """Counts the bytes that are copied by cutting it into pieces."""

    copied = 0

    def __getitem__(self, key):
        part = Counted(super().__getitem__(key))
        Counted.copied += len(part)
        return part


def copied(connection, size):
    """Send one write of a size, and give how many bytes were copied on the way to the core."""
    Counted.copied = 0

    def process(request):
        request.write(Counted(size))
        request.finish()

    pair = Pair(connection, process, {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    pair.client.increment_flow_control_window(2**30)
    pair.ask()
    pair.run()
    assert pair.body == size
    return Counted.copied


def test_twisted_copies_a_large_write_over_and_over():
    """Twisted copies the whole rest for each frame: four times the size, sixteen times the work."""
    assert copied(H2Connection, 4_000_000) > 10 * copied(H2Connection, 1_000_000)


def test_a_large_write_is_cut_without_copies():
    """What one write leaves for later frames is not copied for each of them."""
    assert copied(Connection, 4_000_000) == 0


@pytest.mark.parametrize(("connection", "turns"), [(H2Connection, 61), (Connection, 2)])
def test_frames_go_out_many_in_a_turn(connection, turns):
    """Twisted sends one frame in each turn of the reactor; we send up to 32."""
    pair = Pair(connection, answer(60 * 16_384), {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    pair.client.increment_flow_control_window(2**30)
    pair.clock.turn()
    pair.ask()
    taken = 0
    while pair.clock.turn():
        taken += 1
    pair.talk()
    assert pair.received(StreamEnded)
    # The last one finds that there is nothing more.
    assert turns <= taken <= turns + 1
    assert FRAMES_PER_TURN == 32


# --- 6. Streams that are too many, or have gone ---------------------------------------------------


@BOTH
def test_one_stream_too_many(connection):
    """Twisted ends the connection at the 101st stream; we refuse the stream alone."""
    pair = Pair(connection, wait)
    pair.ask(100)
    # The client would hold itself to the limit.
    pair.client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    pair.client.remote_settings.acknowledge()
    last = pair.ask()
    pair.talk()
    if connection is H2Connection:
        assert pair.transport.disconnecting
        return
    assert not pair.transport.disconnecting
    (reset,) = pair.received(StreamReset)
    assert (reset.stream_id, reset.error_code) == (last, ErrorCodes.REFUSED_STREAM)
    assert len(pair.requests) == 100
    for request in pair.requests:
        request.finish()
    pair.run()
    assert len(pair.received(StreamEnded)) == 100


def send_to_the_gone(connection):
    """Let parts of a body, and their end, come for a stream that the server has reset."""
    pair = Pair(connection, wait)
    stream_id = pair.client.get_next_available_stream_id()
    headers = [(":method", "POST"), *REQUEST[1:]]
    pair.client.send_headers(stream_id, headers)
    pair.talk()
    stream = pair.server.streams[stream_id]
    # The reset is on its way, and in one segment with the request for the core.
    pair.client.send_data(stream_id, b"x" * 1000)
    pair.client.send_data(stream_id, b"x" * 1000, end_stream=True)
    core, abort = pair.server.conn, stream.abortConnection
    receive = core.receive_data

    def receive_then_abort(data):
        events = receive(data)
        core.receive_data = receive
        abort()
        return events

    core.receive_data = receive_then_abort
    pair.talk()
    return pair


def test_twisted_takes_late_frames_for_a_bug():
    """Data that came before the client knew of the reset are a KeyError."""
    with pytest.raises(KeyError):
        send_to_the_gone(H2Connection)


def test_late_frames_are_ignored():
    """Data that came before the client knew of the reset are dropped."""
    pair = send_to_the_gone(Connection)
    assert not pair.requests
    pair.ask()
    assert len(pair.requests) == 1
    assert not pair.transport.disconnecting


@BOTH
def test_a_request_has_no_transport(connection):
    """`request.transport` is None, so whoever touches it has an error on HTTP/2 alone."""
    pair = Pair(connection, wait)
    pair.ask()
    assert pair.requests[0].transport is None


@BOTH
def test_a_header_that_is_none(connection):
    """With a core that lets odd names pass, Twisted loses the connection; we refuse the request."""
    pair = Pair(connection, wait)
    pair.server.conn.config.validate_inbound_headers = False
    pair.client.config.validate_outbound_headers = False
    stream_id = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream_id, [*REQUEST, ("x y", "1")], end_stream=True)
    if connection is H2Connection:
        with pytest.raises(InvalidHeaderName):
            pair.talk()
        return
    pair.talk()
    pair.talk()
    (response,) = pair.received(ResponseReceived)
    assert dict(response.headers)[b":status"] == b"400"
    assert not pair.requests
    assert not pair.server.streams


# --- The end of a connection ----------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["goodbye", "error", "idle"])
@BOTH
def test_a_connection_that_is_over_is_closed(connection, ending):
    """Twisted leaves its producer with TLS, which waits for it to end; we take it away."""
    pair = Pair(connection, answer(0))
    pair.ask()
    pair.run()
    if ending == "goodbye":
        pair.client.close_connection()
        pair.server.dataReceived(pair.client.data_to_send())
    elif ending == "error":
        pair.server.dataReceived(DataFrame(stream_id=99).serialize())
    else:
        pair.clock.advance(IDLE)
    assert pair.transport.disconnecting
    assert (pair.transport.producer is None) == (connection is Connection)


# --- 7. Dependencies ------------------------------------------------------------------------------


def test_twisted_pins_its_priority_library():
    """Twisted's extra bounds `priority` from above, which no other way of asking for it does."""
    wanted = [each for each in requires("twisted") if each.startswith("priority")]
    assert any("<2.0" in each and "http2" in each for each in wanted), wanted


def test_http2_is_asked_for_by_twisteds_extra():
    """We depend on the extra, and on no version of `priority` of our own choice."""
    wanted = requires("mxflex")
    (twisted,) = [each for each in wanted if each.lower().startswith("twisted")]
    extras = twisted[twisted.index("[") + 1 : twisted.index("]")].split(",")
    assert {"http2", "tls"} <= set(extras)
    assert not [each for each in wanted if each.startswith("priority")]
