"""The server link over real TLS against the simulator: lost and found, odd and broken bytes."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from mxflex.errors import CommandRefused, MXTimeout, MXUnavailable
from mxflex.mx.link import LinkState
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.company import Company, ServerAccount, User, make_jid
from mxflex.simulator.faults import LOSES_FRAMING, MALFORMED, CommandFault
from mxflex.wire.codec import ConnectionID
from mxflex.wire.messages import (
    DeliveredEvent,
    GetServiceList,
    GetServiceListResponse,
    LoginFailed,
    OriginatedEvent,
)
from tests.integration.mx_bench import SERVER_LOGIN, SERVER_PASSWORD, MXBench

A, B = "3095", "3044"
OUTSIDE = "+12025550104"


@pytest_twisted.async_yield_fixture
async def bench():
    """Give a bench that is cleared after the test."""
    bench = MXBench(reactor)
    yield bench
    await bench.stop()


def book_of(mx):
    """Give the address book as the MX has it."""
    return {user.jid: user.entry() for user in mx.company}


async def rings(bench, mx, link, ext=A):
    """See that a call to an extension is heard of, once."""
    before = len(link.events)
    mx.call_in(OUTSIDE, ext)
    await link.when(lambda: len(link.events) > before)
    mx.hang_up(ext)
    await link.when(lambda: len(link.events) > before + 1)
    assert link.names()[before:] == [(ext, "DeliveredEvent"), (ext, "ConnectionClearedEvent")]


# --- A session ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_session(bench):
    """The link logs in, watches and reads the book, monitors, hears calls, and takes its leave."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    assert link.service.address_book.entries == book_of(mx)
    await link.monitor(A)
    await rings(bench, mx, link)
    await bench.soon(link.service.stopService())
    await bench.gone(mx)
    assert link.service.state is LinkState.STOPPED
    names = [each.name for each in mx.commands]
    assert names[:3] == ["loginRequest", "MonitorStartAb", "iq"]
    assert names[-3:] == ["MonitorStart", "MonitorStop", "logout"]
    (login,) = mx.received("loginRequest")
    assert (login.command.type, login.command.forced) == ("Server", False)


@pytest_twisted.ensureDeferred
async def test_one_monitor_for_many_logins(bench):
    """However many log in at once, the MX has one monitor of the extension."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await gatherResults([Deferred.fromCoroutine(link.monitor(A)) for _ in range(20)])
    assert mx.monitors(A) == 1
    assert len(mx.received("MonitorStart")) == 1


@pytest_twisted.ensureDeferred
async def test_several_commands_in_flight(bench):
    """Commands are sent without waiting for each other, and answered out of order."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    mx.faults.set("GetServiceList", CommandFault(delay=0.3, times=1))
    order = []
    waiting = [
        bench.soon(link.service.request(GetServiceList())).addCallback(
            lambda answer, number=number: order.append((number, type(answer)))
        )
        for number in range(5)
    ]
    await gatherResults(waiting)
    assert [number for number, _ in order] == [1, 2, 3, 4, 0]
    assert {answer for _, answer in order} == {GetServiceListResponse}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("page_size", [3, 50])
@pytest.mark.parametrize("size", ["entries", "pages"])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("answer", ["event", "command"])
async def test_address_book_of_any_server(bench, page_size, size, index, answer):
    """The whole book is read, however the server pages, counts, numbers and answers."""
    users = [
        User(jid=make_jid("63022", n), login=f"u{n}", password="x", ext=str(3000 + n))
        for n in range(1, 121)
    ]
    company = Company(
        users=users, accounts=(ServerAccount(login=SERVER_LOGIN, password=SERVER_PASSWORD),)
    )
    behaviour = Behaviour(page_size=page_size, book_size=size, book_index=index, book_answer=answer)
    mx = await bench.simulator(company=company, behaviour=behaviour)
    link = await bench.link(mx).start()
    assert link.service.address_book.entries == book_of(mx)


@pytest_twisted.ensureDeferred
async def test_address_book_lives(bench):
    """Additions, changes, deletions and presence at the MX are in the book at once."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    book = link.service.address_book
    new = User(jid=make_jid("63022", 77), login="new", password="x", ext="3777")
    for change in (
        lambda: mx.add_user(new),
        lambda: mx.update_user(attrs.evolve(new, first_name="Ann")),
        lambda: mx.set_presence("3777", "Away", "lunch"),
        lambda: mx.delete_user(B),
    ):
        version = book.version
        change()
        await link.when(lambda version=version: book.version > version)
        assert book.entries == book_of(mx)


@pytest_twisted.ensureDeferred
async def test_refusals_leave_the_link_up(bench):
    """A refused monitor, and an unanswered command, reach their callers alone."""
    mx = await bench.simulator()
    link = await bench.link(mx, timeout=0.4).start()
    with pytest.raises(CommandRefused):
        await link.monitor("9999")
    mx.faults.set("MonitorStart", CommandFault(unanswered=True, times=1))
    with pytest.raises(MXTimeout):
        await link.monitor(B)
    await link.monitor(A)
    await rings(bench, mx, link)
    assert link.told == ["up"]


@pytest_twisted.ensureDeferred
async def test_late_answer(bench):
    """An answer that comes after its time is ignored, and the next command gets its own."""
    mx = await bench.simulator()
    link = await bench.link(mx, timeout=0.3).start()
    mx.faults.set("HoldCall", CommandFault())
    mx.faults.set("GetServiceList", CommandFault(delay=0.5, times=1))
    with pytest.raises(MXTimeout):
        await link.service.request(GetServiceList())
    assert isinstance(await link.service.request(GetServiceList()), GetServiceListResponse)
    while not [line for line in bench.log.lines if "late answer" in line]:
        await bench.pause(0.02)
    assert link.told == ["up"]


# --- Lost and found -------------------------------------------------------------------------------


LOSSES = {
    "drop": lambda mx: mx.drop(),
    "reset": lambda mx: mx.reset(),
    "length 0": lambda mx: mx.send_raw(MALFORMED["length 0"]),
    "polite close": lambda mx: [session.close() for session in mx.sessions],
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("loss", LOSSES)
async def test_lost_and_found(bench, loss):
    """However the connection ends, monitors run again and the book is read anew before long."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await link.monitor(A)
    await link.monitor(B)
    LOSSES[loss](mx)
    await link.when_up(2)
    assert (mx.monitors(A), mx.monitors(B)) == (1, 1)
    await rings(bench, mx, link, A)
    await rings(bench, mx, link, B)
    assert link.told == ["up", "down", "up"]


@pytest_twisted.ensureDeferred
async def test_waiting_commands_fail_at_once(bench):
    """Commands that wait when the connection ends fail with it, not with their timeouts."""
    mx = await bench.simulator()
    link = await bench.link(mx, timeout=60.0).start()
    mx.faults.set("GetServiceList", CommandFault(ignored=True))
    waiting = [bench.soon(link.service.request(GetServiceList())) for _ in range(10)]
    await bench.soon(mx.when_command("GetServiceList", 10))
    mx.reset()
    for each in waiting:
        with pytest.raises(MXUnavailable):
            await each


@pytest_twisted.ensureDeferred
async def test_mx_killed_and_brought_back(bench):
    """An MX that is gone for a while, and comes back with other people, is found by itself."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await link.monitor(A)
    await mx.stop()
    await link.when(lambda: link.told == ["up", "down"])
    with pytest.raises(MXUnavailable):
        await link.service.request(GetServiceList())
    with pytest.raises(MXUnavailable):
        await link.monitor(B)
    # Known people are shown while the MX is away.
    assert link.service.address_book.entries == book_of(mx)
    mx.company.remove(mx.user(B).jid)
    mx.company.put(User(jid=make_jid("63022", 77), login="new", password="x", ext="3777"))
    await bench.pause(0.5)
    assert link.told == ["up", "down"]
    mx.accept_connections()
    await link.when_up(2)
    await link.when(lambda: link.service.address_book.entries == book_of(mx))
    await rings(bench, mx, link)


@pytest_twisted.ensureDeferred
async def test_started_before_the_mx(bench):
    """A link that is started first finds the MX when that comes."""
    mx = await bench.simulator()
    await mx.refuse_connections()
    link = bench.link(mx)
    link.service.startService()
    await bench.pause(0.3)
    mx.accept_connections()
    await link.when_up()


@pytest_twisted.ensureDeferred
async def test_half_open(bench):
    """A connection that swallows everything is found by a probe, cut, and replaced."""
    mx = await bench.simulator()
    link = await bench.link(mx, timeout=0.4, keepalive=0.6).start()
    await link.monitor(A)
    mx.faults.silent = True
    began = reactor.seconds()
    await link.when(lambda: "down" in link.told)
    assert reactor.seconds() - began < 0.6 + 2 * 0.4 + 1.0
    mx.faults.silent = False
    await link.when_up(2)
    await rings(bench, mx, link)


@pytest_twisted.ensureDeferred
async def test_quiet_connection_is_kept(bench):
    """A connection on which nothing happens is kept alive, by frames that nobody answers."""
    mx = await bench.simulator(behaviour=Behaviour(idle_timeout=0.9))
    link = await bench.link(mx, timeout=0.5, keepalive=0.25).start()
    await bench.soon(mx.when_command("keepalive", 4))
    assert link.told == ["up"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("fault", ["hang_in_tls", "close_on_connect", "reset_on_connect"])
async def test_trouble_before_tls(bench, fault):
    """Whatever happens before TLS, the link goes on trying and comes back."""
    mx = await bench.simulator()
    link = await bench.link(mx, timeout=0.3).start()
    setattr(mx.faults, fault, True)
    mx.drop()
    await link.when(lambda: link.told == ["up", "down"])
    await bench.pause(0.8)
    assert not link.service.up
    setattr(mx.faults, fault, False)
    await link.when_up(2)


@pytest_twisted.ensureDeferred
async def test_forced_logout(bench):
    """A link that is thrown out waits for the long pause, and then comes back with its monitors."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await link.monitor(A)
    mx.force_logout()
    began = reactor.seconds()
    await link.when(lambda: "down" in link.told)
    await link.when_up(2)
    # The pause was made short for this test; a lost connection would be back after 0.02 s.
    assert reactor.seconds() - began >= 0.3
    await rings(bench, mx, link)


@pytest_twisted.ensureDeferred
async def test_forced_logout_behind_the_login(bench):
    """Thrown out with the very next frame, the link waits for the long pause just the same."""
    mx = await bench.simulator()
    link = bench.link(mx)
    mx.faults.set(
        "MonitorStartAb", CommandFault(raw=b'\x00\x00\x00\x1f9999<Logout mode="forced"/>')
    )
    link.service.startService()
    await bench.soon(mx.when_session(count=2))
    times = [received.time for received in mx.received("loginRequest")]
    assert times[1] - times[0] >= 0.3
    mx.faults.clear("MonitorStartAb")
    await link.when_up()


@pytest_twisted.ensureDeferred
async def test_refused_login_is_tried_again(bench):
    """A refused login is tried again when its wait is over, and succeeds once it is put right."""
    mx = await bench.simulator()
    mx.faults.set("loginRequest", CommandFault(answer=LoginFailed(code=1, text="no licence")))
    link = bench.link(mx)
    link.service.startService()
    await bench.soon(mx.when_command("loginRequest", 2))
    assert [line for line in bench.log.lines if "no licence" in line]
    assert len(mx.connections) <= 1
    mx.faults.clear("loginRequest")
    await link.when_up()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("command", ["MonitorStartAb", "iq", "MonitorStart"])
@pytest.mark.parametrize(
    "fault", [CommandFault(drop=True, times=2), CommandFault(reset=True, times=2)]
)
async def test_lost_while_it_is_restored(bench, command, fault):
    """A connection lost at any step of the restoring is replaced until one is whole."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await link.monitor(A)
    await link.monitor(B)
    mx.faults.set(command, fault)
    mx.drop()
    # The book is read behind `up`: then the link may be up for a moment each time.
    await bench.soon(mx.when_session(count=4))
    await link.when(lambda: link.service.up and not link.service.monitors.missing)
    await bench.soon(mx.when(lambda: mx.monitors(A) == mx.monitors(B) == 1))
    await rings(bench, mx, link)


async def connecting(bench, mx, link):
    link.service.startService()


async def in_tls(bench, mx, link):
    mx.faults.hang_in_tls = True
    link.service.startService()
    while not mx.door.unanswered:
        await bench.pause(0.01)


async def logging_in(bench, mx, link):
    mx.faults.set("loginRequest", CommandFault(ignored=True))
    link.service.startService()
    await bench.soon(mx.when_command("loginRequest"))


async def watching_the_book(bench, mx, link):
    mx.faults.set("MonitorStartAb", CommandFault(ignored=True))
    link.service.startService()
    await bench.soon(mx.when_command("MonitorStartAb"))


async def reading_the_book(bench, mx, link):
    mx.faults.set("iq", CommandFault(ignored=True))
    link.service.startService()
    await bench.soon(mx.when_command("iq"))


async def up(bench, mx, link):
    await link.start()
    await link.monitor(A)


async def deaf(bench, mx, link):
    await up(bench, mx, link)
    mx.faults.silent = True


async def waiting(bench, mx, link):
    await mx.refuse_connections()
    link.service.startService()
    while link.service.state is not LinkState.WAITING:
        await bench.pause(0.01)


async def thrown_out(bench, mx, link):
    await up(bench, mx, link)
    mx.force_logout()
    await link.when(lambda: "down" in link.told)


MOMENTS = (
    connecting,
    in_tls,
    logging_in,
    watching_the_book,
    reading_the_book,
    up,
    deaf,
    waiting,
    thrown_out,
)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("moment", MOMENTS)
async def test_stop(bench, moment):
    """A stop at any moment is done within seconds, and leaves no connection and no timer."""
    mx = await bench.simulator()
    link = bench.link(mx)
    await moment(bench, mx, link)
    began = reactor.seconds()
    await bench.soon(link.service.stopService())
    assert reactor.seconds() - began < 6.5
    assert link.service.state is LinkState.STOPPED
    await bench.gone(mx)
    while mx.door.unanswered:
        await bench.pause(0.01)
    logins = len(mx.received("loginRequest"))
    await bench.pause(0.3)
    assert len(mx.received("loginRequest")) == logins
    assert mx.connections == []


@pytest_twisted.ensureDeferred
async def test_stop_while_the_name_is_looked_up(bench):
    """A stop while the MX's name is being looked up is a stop: nothing is dialled afterwards."""
    mx = await bench.simulator()
    link = bench.link(mx, host="localhost")
    link.service.startService()
    await bench.soon(link.service.stopService())
    await bench.pause(0.3)
    assert mx.commands == []
    assert link.service.state is LinkState.STOPPED


# --- Odd bytes ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_byte_by_byte(bench):
    """An MX that writes every byte by itself is understood like any other."""
    mx = await bench.simulator()
    mx.faults.byte_by_byte = True
    link = await bench.link(mx).start()
    await link.monitor(A)
    await rings(bench, mx, link)
    assert link.service.address_book.entries == book_of(mx)


@pytest_twisted.ensureDeferred
async def test_declaration_and_namespace(bench):
    """An XML declaration before every text, and a prefix on every element, change nothing."""
    mx = await bench.simulator(behaviour=Behaviour(xml_declaration=True, namespace=True))
    link = await bench.link(mx).start()
    await link.monitor(A)
    await rings(bench, mx, link)
    assert link.service.address_book.entries == book_of(mx)
    with pytest.raises(CommandRefused, match="invalid"):
        await link.monitor("9999")


@pytest_twisted.ensureDeferred
async def test_events_before_the_monitor_answer(bench):
    """Events in front of the answer of `MonitorStart` are delivered, in order, none lost."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    mx.faults.before_monitor_answer = (
        OriginatedEvent(connection=ConnectionID(call_id=1, device_id=A)),
        DeliveredEvent(connection=ConnectionID(call_id=1, device_id=A)),
    )
    await link.monitor(A)
    assert link.names() == [(A, "OriginatedEvent"), (A, "DeliveredEvent")]
    mx.faults.before_monitor_answer = ()
    link.events.clear()
    await rings(bench, mx, link)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("kind", sorted(MALFORMED.keys() - LOSES_FRAMING))
async def test_malformed_frame(bench, kind):
    """Every frame that makes no sense is skipped: calls go on behind it, on the same connection."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await link.monitor(A)
    mx.send_raw(MALFORMED[kind] * 3)
    await rings(bench, mx, link)
    assert link.told == ["up"]
    assert len(mx.logins) == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("kind", sorted(LOSES_FRAMING))
async def test_lost_framing(bench, kind):
    """A header that makes no sense costs the connection, which is replaced."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    await link.monitor(A)
    mx.send_raw(MALFORMED[kind])
    await link.when_up(2)
    await rings(bench, mx, link)


@pytest_twisted.ensureDeferred
async def test_too_many_malformed_frames(bench):
    """Ten bad frames in a row cost the connection, which is replaced."""
    mx = await bench.simulator()
    link = await bench.link(mx).start()
    mx.send_raw(MALFORMED["two roots"] * 10)
    await link.when_up(2)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("form", ["CSTAErrorCode", "errorResponse", "attribute"])
async def test_refusals_of_any_form(bench, form):
    """A refusal is recognized however the MX writes it."""
    mx = await bench.simulator(behaviour=Behaviour(error_form=form))
    link = await bench.link(mx).start()
    with pytest.raises(CommandRefused):
        await link.monitor("9999")


@pytest_twisted.ensureDeferred
async def test_answers_twice(bench):
    """An MX that answers everything twice is understood like any other."""
    mx = await bench.simulator()
    mx.faults.set("*", CommandFault(twice=True))
    link = await bench.link(mx).start()
    await link.monitor(A)
    await rings(bench, mx, link)
    assert link.told == ["up"]
