"""The simulated MX over a real TLS socket on the loopback interface, seen by a raw client."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.certificate import Certificate, TLSAge
from mxflex.simulator.company import Company, User, example_company, make_jid
from mxflex.simulator.faults import MALFORMED, CommandFault
from mxflex.simulator.server import SimulatedMX
from mxflex.wire.codec import ConnectionID
from mxflex.wire.connection import (
    ClientConnection,
    EventReceived,
    LateReply,
    ReplyReceived,
)
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import (
    AddressBookAdded,
    AddressBookPage,
    AnswerCall,
    ClearConnection,
    ConnectionClearedEvent,
    CSTAError,
    DeflectCall,
    DeliveredEvent,
    EstablishedEvent,
    GetAddressBook,
    GetServiceList,
    HoldCall,
    LoggedOut,
    LoginFailed,
    LoginRequest,
    LoginResponse,
    Logout,
    MakeCall,
    MonitorStart,
    MonitorStartAddressBook,
    MonitorStop,
    MonitorStopAddressBook,
    OriginatedEvent,
    ParkCall,
    Presence,
    RetrieveCall,
    SetPresence,
    SingleStepTransferCall,
    SnapshotDevice,
    StartRecording,
    StopRecording,
    TransferCall,
    hash_password,
)
from tests.ports import free_port

# A test that waits longer has lost an answer.
PATIENCE = 5.0

A, B, C = "3095", "3044", "3098"
OUTSIDE = "12025550104"


class Client(Protocol):
    """Speaks the protocol, and keeps everything that comes, in order, until it is asked for."""

    def __init__(self):
        self.wire = ClientConnection()
        self.came = []
        self.raw = b""
        self.end = Deferred()
        self._waiting = None

    def dataReceived(self, data):
        self.raw += data
        self.wire.receive_data(data)
        while (happened := self.wire.next_event()) is not None:
            self.came.append(happened)
        self._look()

    def connectionLost(self, reason):
        self.reason = reason
        # A Failure as a result would make it an errback.
        self.end.callback(None)

    def _look(self):
        if self._waiting and (found := self._find(self._waiting[0])):
            waiting, self._waiting = self._waiting, None
            waiting[1].callback(found)

    def _find(self, wanted):
        found = next((each for each in self.came if wanted(each)), None)
        if found is not None:
            self.came.remove(found)
        return found

    async def next(self, wanted):
        """Take the first thing that came, or comes, and is wanted."""
        found = self._find(wanted)
        if found is not None:
            return found
        self._waiting = (wanted, Deferred())
        return await self._waiting[1].addTimeout(PATIENCE, reactor)

    async def event(self, cls):
        """Take the next event of a class."""
        happened = await self.next(
            lambda each: isinstance(each, EventReceived) and isinstance(each.event, cls)
        )
        return happened.event

    def send(self, command):
        invoke_id, data = self.wire.request(command)
        self.transport.write(data)
        return invoke_id

    async def ask(self, command):
        """Send a command and take its answer."""
        invoke_id = self.send(command)
        happened = await self.next(
            lambda each: isinstance(each, ReplyReceived) and each.invoke_id == invoke_id
        )
        return happened.reply

    async def settled(self):
        """Wait until everything sent so far has been answered."""
        await self.ask(GetServiceList())

    async def closed(self):
        await self.end.addTimeout(PATIENCE, reactor)
        return self.reason


class World:
    """A simulator and its clients, all gone at the end of the test."""

    def __init__(self):
        self.mx = None
        self.clients = []

    async def start(self, *args, **kwargs):
        self.mx = SimulatedMX(reactor, *args, **kwargs)
        await self.mx.listen(free_port())
        return self.mx

    async def connect(self, options=None):
        _, port = self.mx.address
        endpoint = wrapClientTLS(
            options or ssl.CertificateOptions(verify=False),
            TCP4ClientEndpoint(reactor, "127.0.0.1", port),
        )
        client = await endpoint.connect(Factory.forProtocol(Client))
        self.clients.append(client)
        return client

    async def server_session(self):
        client = await self.connect()
        reply = await client.ask(
            LoginRequest(type="Server", user_name="mxflex", password=hash_password("mxflex"))
        )
        assert isinstance(reply, LoginResponse)
        return client

    async def user_session(self, login="user_login", password="password", **more):
        client = await self.connect()
        await client.ask(
            LoginRequest(type="User", platform="CRM", user_name=login, password=password, **more)
        )
        return client

    async def monitor(self, *extensions):
        client = await self.server_session()
        for ext in extensions:
            await client.ask(MonitorStart(device=ext))
        return client


@pytest.fixture
def world():
    world = World()
    yield world
    if world.mx is not None:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.mx.stop()))
    for client in world.clients:
        if not client.end.called:
            client.transport.abortConnection()
            pytest_twisted.blockon(client.end)


def refusal(reply):
    assert isinstance(reply, CSTAError)
    return reply.category, reply.text


# --- Login ----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_server_login_has_no_extension(world):
    """The answer has serial and code, an empty ext and no user id."""
    await world.start()
    client = await world.connect()
    reply = await client.ask(LoginRequest(type="Server", user_name="mxflex", password="mxflex"))
    assert isinstance(reply, LoginResponse)
    assert (reply.code, reply.serial, reply.ext, reply.user_id) == (0, "63022", "", None)
    session = await world.mx.when_session("Server")
    assert session.login == "mxflex"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("password", ["password", hash_password("password")])
async def test_a_user_logs_in_with_either_form(world, password):
    """Clear or hashed, the answer has extension and user id."""
    await world.start()
    client = await world.connect()
    reply = await client.ask(LoginRequest(type="User", user_name="user_login", password=password))
    assert (reply.ext, reply.user_id) == (A, 43884851147406145)
    assert len(reply.soft_phone_password) == 32


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("account", "name", "password"),
    [
        ("User", "user_login", "wrong"),
        ("User", "nobody", "password"),
        ("User", "mxflex", "mxflex"),
        ("Server", "user_login", "password"),
        ("User", "", ""),
    ],
)
async def test_a_wrong_login_is_refused(world, account, name, password):
    """Code 2, and the connection stays open for another try."""
    await world.start()
    client = await world.connect()
    reply = await client.ask(LoginRequest(type=account, user_name=name, password=password))
    assert isinstance(reply, LoginFailed)
    assert reply.code == 2
    assert world.mx.sessions == []
    right = LoginRequest(type="User", user_name="user_login", password="password")
    assert isinstance(await client.ask(right), LoginResponse)


@pytest_twisted.ensureDeferred
async def test_a_directory_user_needs_the_clear_password(world):
    """The hash gets code 4 with apiversion 11, the clear password gets in."""
    mx = await world.start()
    mx.company.put(attrs.evolve(mx.user(A), in_directory=True))
    client = await world.connect()
    request = LoginRequest(type="User", user_name="user_login", password=hash_password("password"))
    reply = await client.ask(request)
    assert isinstance(reply, LoginFailed)
    assert (reply.code, reply.api_version) == (4, 11)
    reply = await client.ask(attrs.evolve(request, password="password"))
    assert isinstance(reply, LoginResponse)


@pytest_twisted.ensureDeferred
async def test_an_expired_password_still_logs_in(world):
    """Code -1 under the root of success."""
    mx = await world.start()
    mx.company.put(attrs.evolve(mx.user(A), password_expired=True))
    client = await world.connect()
    reply = await client.ask(LoginRequest(type="User", user_name="user_login", password="password"))
    assert isinstance(reply, LoginResponse)
    assert (reply.code, reply.ext) == (-1, A)


@pytest_twisted.ensureDeferred
async def test_sessions_of_one_user_and_force(world):
    """Side by side by default; refused by a switch; a forced login throws the older one out."""
    mx = await world.start()
    first = await world.user_session()
    mx.behaviour.second_session = "refuse"
    second = await world.connect()
    request = LoginRequest(type="User", user_name="user_login", password="password")
    reply = await second.ask(request)
    assert (reply.code, reply.text) == (5, "User already logged in")
    await second.ask(attrs.evolve(request, forced=True))
    assert (await first.event(LoggedOut)).mode == "forced"
    await first.closed()
    assert len(mx.sessions) == 1


@pytest_twisted.ensureDeferred
async def test_logout_is_answered_and_closes(world):
    """`Logout mode="normal"` with the command's id, then the end."""
    mx = await world.start()
    client = await world.server_session()
    reply = await client.ask(Logout())
    assert reply == LoggedOut(mode="normal")
    await client.closed()
    assert mx.sessions == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("answer", "name"), [("", None), ("logoutResponse", "logoutResponse")])
async def test_logout_in_other_ways(world, answer, name):
    """Another answer, or none, as the switch says."""
    await world.start(behaviour=Behaviour(logout_answer=answer))
    client = await world.server_session()
    client.send(Logout())
    await client.closed()
    names = [each.reply.name for each in client.came]
    assert names == ([name] if name else [])


@pytest_twisted.ensureDeferred
async def test_commands_before_the_login_are_refused(world):
    """`CSTAErrorCode`, and the connection stays, unless the switch says else."""
    mx = await world.start()
    client = await world.connect()
    assert refusal(await client.ask(GetServiceList())) == ("security", "accessDenied")
    assert refusal(await client.ask(MonitorStart(device=A))) == ("security", "accessDenied")
    mx.behaviour.keep_open_before_login = False
    await client.ask(GetServiceList())
    await client.closed()


@pytest_twisted.ensureDeferred
async def test_a_users_session_is_told_its_presence(world):
    """Some time after the login, without asking, as `from=0`."""
    await world.start(behaviour=Behaviour(presence_after_login=0.01))
    client = await world.user_session()
    presence = await client.event(Presence)
    assert (presence.jid, presence.status) == (0, "Available")


@pytest_twisted.ensureDeferred
async def test_keepalive_is_not_answered(world):
    """What follows is answered; the keep-alive is only noted."""
    mx = await world.start()
    client = await world.server_session()
    client.transport.write(client.wire.keepalive())
    await client.settled()
    assert client.came == []
    assert len(mx.received("keepalive")) == 1


@pytest_twisted.ensureDeferred
async def test_passwords_do_not_show(world):
    """Neither the log of commands nor a session nor the company says a password."""
    mx = await world.start()
    await world.user_session("user3044", "secret3044")
    shown = repr((mx.commands, mx.connections, mx.company, mx.logins))
    assert "user3044" in shown
    assert "secret3044" not in shown


# --- Monitors and rights --------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_monitors_count_per_session(world):
    """Ids begin at 1 in each session, a second monitor gets a new one, and both get events."""
    mx = await world.start()
    first, second = await world.monitor(B), await world.server_session()
    assert (await second.ask(MonitorStart(device=A))).monitor == "1"
    assert (await second.ask(MonitorStart(device=A))).monitor == "2"
    mx.call_in(OUTSIDE, A)
    monitors = {(await second.event(DeliveredEvent)).monitor for _ in range(2)}
    assert monitors == {"1", "2"}
    await first.settled()
    assert first.came == []


@pytest_twisted.ensureDeferred
async def test_the_other_ways_of_monitors(world):
    """Server-wide ids, the same id again, an error, a limit: by switches."""
    mx = await world.start(behaviour=Behaviour(monitor_ids="server", second_monitor="same"))
    await world.monitor(A)
    client = await world.server_session()
    assert (await client.ask(MonitorStart(device=A))).monitor == "2"
    assert (await client.ask(MonitorStart(device=A))).monitor == "2"
    mx.behaviour.second_monitor = "error"
    assert refusal(await client.ask(MonitorStart(device=A)))[1] == "objectMonitorLimitExceeded"
    mx.behaviour.max_monitors = 1
    assert refusal(await client.ask(MonitorStart(device=B)))[1] == "resourceLimitExceeded"


@pytest_twisted.ensureDeferred
async def test_a_stopped_monitor_is_silent(world):
    """No event after MonitorStop; stopping twice is refused; exactly the stops sent are logged."""
    mx = await world.start()
    client = await world.monitor(A)
    assert (await client.ask(MonitorStop(monitor="1"))).name == "MonitorStopResponse"
    again = await client.ask(MonitorStop(monitor="1"))
    assert refusal(again) == ("operation", "invalidMonitorCrossRefID")
    mx.call_in(OUTSIDE, A)
    await client.settled()
    assert client.came == []
    assert [received.invoke_id for received in mx.received("MonitorStop")] == [3, 4]


@pytest_twisted.ensureDeferred
async def test_who_may_monitor_whom(world):
    """Server sessions anyone who exists, users themselves, others only with the right."""
    mx = await world.start()
    server, user = await world.server_session(), await world.user_session()
    invalid, denied = "invalidDeviceID", "privilegeViolationSpecifiedDevice"
    assert refusal(await server.ask(MonitorStart(device="9999")))[1] == invalid
    assert refusal(await server.ask(MonitorStart()))[1] == invalid
    assert refusal(await user.ask(MonitorStart(device=B)))[1] == denied
    assert (await user.ask(MonitorStart())).monitor == "1"
    assert (await user.ask(MonitorStart(device=A))).monitor == "2"
    mx.behaviour.users_monitor_others = True
    assert (await user.ask(MonitorStart(device=B))).monitor == "3"


@pytest_twisted.ensureDeferred
async def test_a_user_acts_on_own_calls_only(world):
    """Another extension's calls, devices and snapshots are denied to a user session."""
    mx = await world.start()
    user = await world.user_session()
    call = mx.call_in(OUTSIDE, B)
    other = ConnectionID(call.party(B).call_id, B)
    denied = ("operation", "privilegeViolationSpecifiedDevice")
    assert refusal(await user.ask(MakeCall(calling_device=B, called=C))) == denied
    assert refusal(await user.ask(AnswerCall(connection=other))) == denied
    assert refusal(await user.ask(SnapshotDevice(device=B))) == denied
    assert refusal(await user.ask(RetrieveCall(connection=ConnectionID(77, B)))) == denied
    own = await user.ask(MakeCall(called="+79037654321"))
    assert own.connection.device_id == A
    assert own.called == "+79037654321"


# --- Address book and presence --------------------------------------------------------------------


def many(count):
    return Company(
        users=[
            User(jid=make_jid("63022", n), login=f"u{n}", password="p", ext=str(4000 + n))
            for n in range(count)
        ],
        accounts=example_company().accounts,
    )


@pytest_twisted.ensureDeferred
async def test_the_address_book_comes_in_pages(world):
    """Pages of 50 as events, with size and index; one behind the end is empty."""
    await world.start(many(101))
    client = await world.server_session()
    extensions = []
    for index, entries in [(0, 50), (1, 50), (2, 1), (3, 0)]:
        client.send(GetAddressBook(index=index))
        page = await client.event(AddressBookPage)
        assert (page.size, page.index, len(page.entries)) == (101, index, entries)
        extensions += [entry.ext for entry in page.entries]
    assert extensions == [str(4000 + n) for n in range(101)]


@pytest_twisted.ensureDeferred
async def test_the_address_book_in_other_ways(world):
    """With the command's id, without an index, counted in pages, of another size; or empty."""
    mx = await world.start(
        many(5),
        Behaviour(book_answer="command", book_index=False, book_size="pages", page_size=2),
    )
    client = await world.server_session()
    page = await client.ask(GetAddressBook(index=2))
    assert isinstance(page, AddressBookPage)
    assert (page.size, page.index, len(page.entries)) == (3, None, 1)
    for user in list(mx.company):
        mx.delete_user(user.ext)
    page = await client.ask(GetAddressBook())
    assert (page.size, page.entries) == (0, ())


@pytest_twisted.ensureDeferred
async def test_changes_reach_whoever_watches(world):
    """MonitorStartAb turns changes and presence on, MonitorStopAb off; abNotify is as good."""
    mx = await world.start()
    watcher, other = await world.server_session(), await world.server_session()
    assert (await watcher.ask(MonitorStartAddressBook())).name == "MonitorStartAbResponse"
    notified = await world.user_session("user3044", "secret3044", ab_notify=True)
    new = attrs.evolve(mx.user(A), jid=make_jid("63022", 7), ext="3999", login="new")
    mx.add_user(new)
    assert (await watcher.event(AddressBookAdded)).entry == new.entry()
    await notified.event(AddressBookAdded)
    mx.set_presence(A, "BeRightBack", "обед")
    presence = await watcher.event(Presence)
    assert (presence.jid, presence.note) == (mx.user(A).jid, "обед")
    await watcher.ask(MonitorStopAddressBook())
    mx.delete_user("3999")
    await watcher.settled()
    await other.settled()
    assert watcher.came == other.came == []


@pytest_twisted.ensureDeferred
async def test_a_user_sets_its_presence(world):
    """No answer; the event comes to the own session as `from=0`, and to watchers by id."""
    mx = await world.start()
    watcher, user = await world.server_session(), await world.user_session()
    await watcher.ask(MonitorStartAddressBook())
    user.send(SetPresence(status="BeRightBack", note="at lunch"))
    assert (await user.event(Presence)).jid == 0
    assert (await watcher.event(Presence)).jid == mx.user(A).jid
    assert mx.user(A).note == "at lunch"
    # A server session has no presence; its error belongs to no answer.
    watcher.send(SetPresence(status="Available"))
    assert (await watcher.event(CSTAError)).text == "invalidDeviceID"


# --- Calls ----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_call_from_beginning_to_end(world):
    """Answer first, then the events; every command of a call by the wire."""
    mx = await world.start(first_call_id=39)
    client = await world.monitor(A, B, C)
    made = await client.ask(MakeCall(calling_device=A, called=B))
    assert made.connection == ConnectionID(39, A)
    a, b = ConnectionID(39, A), ConnectionID(39, B)
    assert (await client.ask(AnswerCall(connection=b))).name == "AnswerCallResponse"
    assert (await client.ask(HoldCall(connection=a))).name == "HoldCallResponse"
    assert (await client.ask(RetrieveCall(connection=a))).name == "RetrieveCallResponse"
    assert (await client.ask(StartRecording(connection=a))).name == "StartRecordingResponse"
    assert (await client.ask(StopRecording(connection=a))).name == "StopRecordingResponse"
    moved = await client.ask(SingleStepTransferCall(connection=a, destination=C))
    assert moved.connection == ConnectionID(39, C)
    c = ConnectionID(39, C)
    assert (await client.ask(AnswerCall(connection=c))).name == "AnswerCallResponse"
    assert (await client.ask(ParkCall(connection=c))).name == "ParkCallResponse"
    assert (await client.ask(RetrieveCall(connection=c))).name == "RetrieveCallResponse"
    snapshot = await client.ask(SnapshotDevice(device=B))
    assert [(each.connection, each.state) for each in snapshot.calls] == [(b, "connected")]
    assert (await client.ask(ClearConnection(connection=b))).name == "ClearConnectionResponse"
    assert refusal(await client.ask(ClearConnection(connection=b))) == (
        "operation",
        "invalidConnectionID",
    )
    assert mx.switchboard.calls == []


@pytest_twisted.ensureDeferred
async def test_deflect_and_consultation_transfer(world):
    """The two commands with more than one connection or a ringing one."""
    mx = await world.start()
    client = await world.monitor(A, B)
    mx.call_in(OUTSIDE, C)
    ringing = ConnectionID(1, C)
    reply = await client.ask(DeflectCall(connection=ringing, destination=A))
    assert reply.name == "DeflectCallResponse"
    first = ConnectionID(1, A)
    await client.ask(AnswerCall(connection=first))
    second = (await client.ask(MakeCall(calling_device=A, called=B))).connection
    mx.answer(B)
    reply = await client.ask(TransferCall(connection=first, active=second))
    assert reply.name == "TransferCallResponse"
    (call,) = mx.switchboard.calls
    assert {party.number for party in call.live} == {OUTSIDE, B}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("events_first", [False, True])
async def test_the_order_of_answer_and_events(world, events_first):
    """Answer first, or, by the switch, events first."""
    await world.start(behaviour=Behaviour(events_first=events_first))
    client = await world.monitor(A)
    client.send(MakeCall(calling_device=A, called=B))
    await client.settled()
    kinds = [type(each) for each in client.came]
    assert kinds.index(ReplyReceived) == (2 if events_first else 0)


@pytest_twisted.ensureDeferred
async def test_a_call_from_an_outside_number(world):
    """A number of a user means that user; the device in the answer is by a switch."""
    mx = await world.start()
    client = await world.monitor(A)
    mobile = "+79031744445"
    made = await client.ask(MakeCall(calling_device=mobile, called="+79037654321"))
    assert made.connection.device_id == A
    assert (await client.event(OriginatedEvent)).calling_device == A
    await client.ask(ClearConnection(connection=made.connection))
    mx.behaviour.outside_caller_device = "number"
    made = await client.ask(MakeCall(calling_device=mobile, called="+79037654321"))
    assert made.connection.device_id == "79031744445"
    reply = await client.ask(ClearConnection(connection=made.connection))
    assert reply.name == "ClearConnectionResponse"
    stranger = await client.ask(MakeCall(calling_device="79031234567", called="79037654321"))
    assert stranger.connection.device_id == "79031234567"


@pytest_twisted.ensureDeferred
async def test_the_call_id_of_the_answer_may_be_another(world):
    """As in the product's own example: 38 in the answer, 39 in the events."""
    await world.start(behaviour=Behaviour(make_call_id_differs=True), first_call_id=38)
    client = await world.monitor(A)
    made = await client.ask(MakeCall(calling_device=A, called=B))
    assert made.connection.call_id == 38
    assert (await client.event(OriginatedEvent)).connection.call_id == 39


@pytest_twisted.ensureDeferred
async def test_events_carry_the_monitored_device(world):
    """Each monitor sees its own extension as deviceID, whoever rings or leaves."""
    mx = await world.start()
    client = await world.monitor(A, B)
    mx.user_calls(B, A)
    mx.answer(A)
    mx.hang_up(B)
    for cls in (DeliveredEvent, EstablishedEvent, ConnectionClearedEvent):
        seen = {}
        for _ in range(2):
            event = await client.event(cls)
            seen[event.monitor] = event.connection.device_id
        assert seen == {"1": A, "2": B}


@pytest_twisted.ensureDeferred
async def test_unknown_commands_are_refused(world):
    """A command gets an answer, an unknown `iq` an error event."""
    mx = await world.start()
    client = await world.server_session()
    client.transport.write(encode_frame(5000, b"<AssignDevice/>"))
    client.transport.write(encode_frame(5001, b'<iq type="get" id="calllog"/>'))
    assert await client.next(lambda each: each == LateReply(5000, "CSTAErrorCode"))
    error = await client.event(CSTAError)
    assert (error.category, error.text) == ("operation", "serviceNotSupported")
    assert [c.invoke_id for c in mx.commands[-2:]] == [5000, 5001]


# --- Bad input ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name", ["length 0", "length 7", "id with letters", "id with blanks"])
async def test_a_client_that_loses_the_framing_is_cut_off(world, name):
    """There is no way back to a frame boundary."""
    await world.start()
    client = await world.server_session()
    client.transport.write(MALFORMED[name])
    await client.closed()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name", ["text instead of XML", "doctype", "deep nesting"])
async def test_broken_xml_is_answered_with_its_id(world, name):
    """`CSTAErrorCode`, and the next command works."""
    await world.start()
    client = await world.server_session()
    client.transport.write(MALFORMED[name])
    await client.event(CSTAError)
    await client.settled()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name", ["empty body", "blank body", "kind 1"])
async def test_harmless_frames_are_passed_over(world, name):
    """Empty bodies are ignored, another kind is only odd."""
    await world.start()
    client = await world.server_session()
    client.transport.write(MALFORMED[name])
    await client.settled()


# --- Faults ---------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_command_can_be_refused_dropped_or_doubled(world):
    """Refusal, double answer, unknown id, raw bytes, and none at all."""
    mx = await world.start()
    client = await world.server_session()
    mx.faults.refuse("HoldCall", "resourceBusy", "systemResourceAvailability")
    assert refusal(await client.ask(HoldCall())) == ("systemResourceAvailability", "resourceBusy")
    mx.faults.set("MonitorStart", CommandFault(twice=True))
    await client.ask(MonitorStart(device=A))
    await client.next(lambda each: isinstance(each, LateReply))
    assert mx.monitors(A) == 1
    mx.faults.set("MonitorStop", CommandFault(wrong_id=True))
    client.send(MonitorStop(monitor="1"))
    late = await client.next(lambda each: isinstance(each, LateReply))
    assert (late.invoke_id, mx.monitors(A)) == (9998, 0)
    mx.faults.set("ParkCall", CommandFault(raw=MALFORMED["unknown event"]))
    client.send(ParkCall())
    await client.next(lambda each: isinstance(each, EventReceived))
    mx.faults.set("RetrieveCall", CommandFault(ignored=True))
    client.send(RetrieveCall())
    mx.faults.set("AnswerCall", CommandFault(unanswered=True))
    mx.call_in(OUTSIDE, B)
    client.send(AnswerCall(connection=ConnectionID(1, B)))
    await client.settled()
    assert client.came == []
    assert mx.switchboard.snapshot(B)[0].state == "connected"


@pytest_twisted.ensureDeferred
async def test_a_command_can_be_answered_late(world):
    """Commands behind it overtake it; after its time it is carried out."""
    clock = Clock()
    mx = await world.start(clock=clock)
    client = await world.server_session()
    mx.faults.set("MonitorStart", CommandFault(delay=30, times=1))
    invoke_id = client.send(MonitorStart(device=A))
    await client.settled()
    assert mx.monitors(A) == 0
    clock.advance(30)
    reply = await client.next(lambda each: isinstance(each, ReplyReceived))
    assert reply.invoke_id == invoke_id
    await mx.when_monitored(A)


@pytest_twisted.ensureDeferred
async def test_the_nth_monitor_can_be_refused(world):
    """The others work."""
    mx = await world.start()
    client = await world.server_session()
    refused = CSTAError(text="resourceBusy", category="operation")
    mx.faults.set("MonitorStart", CommandFault(answer=refused, first=2, times=1))
    replies = [await client.ask(MonitorStart(device=ext)) for ext in (A, B, C)]
    assert [isinstance(reply, CSTAError) for reply in replies] == [False, True, False]


@pytest_twisted.ensureDeferred
async def test_events_can_come_before_the_answer_to_their_monitor(world):
    """The event has the id that the answer behind it will tell."""
    mx = await world.start()
    mx.faults.before_monitor_answer = (DeliveredEvent(connection=ConnectionID(5, A)),)
    client = await world.server_session()
    client.send(MonitorStart(device=A))
    await client.settled()
    event, reply = client.came
    assert isinstance(event, EventReceived)
    assert event.event.monitor == reply.reply.monitor


@pytest_twisted.ensureDeferred
async def test_ends_of_a_connection(world):
    """FIN without TLS's goodbye, RST, and the forced logout."""
    mx = await world.start()
    client = await world.server_session()
    mx.drop()
    reason = await client.closed()
    assert reason.check(ConnectionLost, SSL.Error)
    client = await world.server_session()
    mx.reset("Server")
    assert (await client.closed()).check(ConnectionLost)
    client = await world.server_session()
    mx.force_logout()
    assert (await client.event(LoggedOut)).mode == "forced"
    await client.closed()
    assert mx.sessions == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_command_can_end_the_connection(world, how):
    """In the middle of a command, by FIN or RST."""
    mx = await world.start()
    client = await world.server_session()
    mx.faults.set("MakeCall", CommandFault(**{how: True}))
    client.send(MakeCall(calling_device=A, called=B))
    await client.closed()
    assert mx.switchboard.calls == []


@pytest_twisted.ensureDeferred
async def test_silence_is_silence(world):
    """A half-open connection: open, and nothing comes, until the fault is over."""
    mx = await world.start()
    client = await world.monitor(A)
    mx.faults.silent = True
    client.send(GetServiceList())
    mx.call_in(OUTSIDE, A)
    mx.faults.silent = False
    await client.settled()
    assert [type(each) for each in client.came if isinstance(each, EventReceived)] == []


@pytest_twisted.ensureDeferred
async def test_bytes_can_come_one_by_one(world):
    """The same events, in many pieces; an orderly close waits for the last of them."""
    mx = await world.start()
    client = await world.monitor(A)
    pieces = []
    receive = client.dataReceived
    client.dataReceived = lambda data: (pieces.append(data), receive(data))
    mx.faults.byte_by_byte = True
    mx.call_in(OUTSIDE, A)
    mx.answer(A)
    mx.force_logout()
    await client.closed()
    assert [type(each.event) for each in client.came] == [
        DeliveredEvent,
        EstablishedEvent,
        LoggedOut,
    ]
    assert len(pieces) > len(b"".join(pieces)) / 4


@pytest_twisted.ensureDeferred
async def test_the_door_can_be_shut(world):
    """Refused, reset and closed before TLS, hung in TLS; closed at login; and well again."""
    mx = await world.start()
    await mx.refuse_connections()
    with pytest.raises(ConnectError):
        await world.connect()
    mx.accept_connections()
    for fault in ("reset_on_connect", "close_on_connect"):
        setattr(mx.faults, fault, True)
        client = await world.connect()
        await client.closed()
        setattr(mx.faults, fault, False)
    mx.faults.hang_in_tls = True
    client = await world.connect()
    client.send(GetServiceList())
    await mx.when(lambda: any(hung.received for hung in mx.door.unanswered))
    assert client.raw == b""
    assert mx.connections == []
    mx.faults.hang_in_tls = False
    mx.faults.close_at_login = True
    client = await world.connect()
    client.send(LoginRequest(type="Server", user_name="mxflex", password="mxflex"))
    await client.closed()
    mx.faults.close_at_login = False
    await world.server_session()


@pytest_twisted.ensureDeferred
async def test_an_idle_session_is_closed(world):
    """After the time of silence, and not before; anything received begins it anew."""
    clock = Clock()
    await world.start(behaviour=Behaviour(idle_timeout=120), clock=clock)
    client = await world.server_session()
    clock.advance(119)
    client.transport.write(client.wire.keepalive())
    await client.settled()
    clock.advance(119)
    await client.settled()
    clock.advance(120)
    await client.closed()


@pytest_twisted.ensureDeferred
async def test_stop_and_listen_again(world):
    """All connections end; the same port works afterwards, with the same company."""
    mx = await world.start()
    client = await world.server_session()
    _, port = mx.address
    await mx.stop()
    await client.closed()
    with pytest.raises(ConnectError):
        await world.connect()
    assert await mx.listen(port) == port
    await world.server_session()
    assert (await mx.when_session("Server", 2)) is mx.sessions[0]


@pytest_twisted.ensureDeferred
async def test_raw_bytes_and_own_events(world):
    """Tests can send what they like: to all, to a type of session, to the monitors of a device."""
    mx = await world.start()
    client = await world.monitor(A)
    user = await world.user_session("user3044", "secret3044")
    mx.send_event(A, ConnectionClearedEvent(connection=ConnectionID(9, A)))
    assert (await client.event(ConnectionClearedEvent)).monitor == "1"
    mx.broadcast(Presence(jid=1, status="x"))
    assert (await client.event(Presence)).jid == 1
    assert (await user.event(Presence)).jid == 1
    mx.send_raw(MALFORMED["unknown event"], "User")
    await user.next(lambda each: isinstance(each, EventReceived))
    await client.settled()
    assert client.came == []


@pytest_twisted.ensureDeferred
async def test_waiting_for_what_happens(world):
    """The `when_` Deferreds fire at once for the past, and can be given up."""
    mx = await world.start()
    coming, never = mx.when_session("User"), mx.when_command("HoldCall")
    await world.user_session()
    session = await coming
    assert session.user.ext == A
    assert (await mx.when_command("loginRequest")).session is session
    never.cancel()
    never.addErrback(lambda failure: None)
    ended = session.when_closed()
    mx.reset()
    await ended
    await session.when_closed()


# --- Telephones that nobody holds -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_telephones_act_by_themselves(world):
    """Outside answers and hangs up, extensions answer or are given up, all by the clock."""
    clock = Clock()
    mx = await world.start(
        behaviour=Behaviour(outside_answers_after=3, outside_hangs_up_after=20, no_answer_after=12),
        clock=clock,
    )
    mx.company.put(attrs.evolve(mx.user(B), answers_after=4))
    seen = []
    mx.watch(lambda notice: seen.append((clock.seconds(), notice)))

    def events(device):
        names = [
            (when, notice.event.wire_name)
            for when, notice in seen
            if getattr(notice, "device", "") == device
        ]
        seen.clear()
        return names

    mx.user_calls(A, OUTSIDE)
    clock.pump([1] * 25)
    assert events(A)[-2:] == [(3.0, "EstablishedEvent"), (23.0, "ConnectionClearedEvent")]
    mx.call_in(OUTSIDE, B)
    clock.pump([1] * 25)
    assert events(B)[1:] == [(29.0, "EstablishedEvent"), (49.0, "ConnectionClearedEvent")]
    mx.call_in(OUTSIDE, A)
    clock.pump([1] * 33)
    assert [name for _, name in events(A)] == [
        "DeliveredEvent",
        "DivertedEvent",
        "DeliveredEvent",
        "EstablishedEvent",
        "ConnectionClearedEvent",
        "MailIncomingReadyEvent",
    ]
    assert mx.switchboard.calls == []
    assert clock.getDelayedCalls() == []


# --- TLS ------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_an_authority(world):
    """A CA of the test's own signs the certificate, and a client that trusts it is content."""
    ca = Certificate.authority()
    mx = await world.start(
        certificate=Certificate.issue("mx.example.com", "mx.example.com", "127.0.0.1", issuer=ca)
    )
    client = await world.connect(_context_trusting(ca))
    await client.ask(GetServiceList())
    mx.faults.certificate = Certificate.self_signed("somebody else")
    client = await world.connect(_context_trusting(ca))
    reason = await client.closed()
    assert reason.check(SSL.Error)


def _context_trusting(ca):
    trusted = ssl.Certificate.loadPEM(ca.pem)
    return ssl.CertificateOptions(trustRoot=ssl.trustRootFromCertificates([trusted]))


@pytest_twisted.ensureDeferred
async def test_the_age_of_tls(world):
    """TLS 1.2 and up by default; an old server speaks 1.0 with its low security level."""
    mx = await world.start()
    old = _OldClient()
    client = await world.connect(old)
    assert (await client.closed()).check(SSL.Error)
    mx.tls.age = TLSAge(minimum="1.0", maximum="1.0", security_level=0)
    client = await world.connect(old)
    await client.ask(GetServiceList())
    assert client.transport.getHandle().get_protocol_version_name() == "TLSv1"


@implementer(IOpenSSLClientConnectionCreator)
class _OldClient:
    """Makes TLS 1.0 connections only."""

    def clientConnectionForTLS(self, tlsProtocol):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(SSL.TLS1_VERSION)
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        return SSL.Connection(context, None)
