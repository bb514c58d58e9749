"""Logging in and out: what the MX gets to see, and every answer."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from mxflex.simulator.faults import CommandFault
from mxflex.simulator.session import USER
from mxflex.wire.messages import CSTAError, LoginFailed
from tests.integration.daemons import EXT, LOGIN, PASSWORD
from tests.integration.mx_bench import in_directory
from tests.integration.raw_http import request_bytes

GOOD = {"login": LOGIN, "password": PASSWORD}
WRONG = {"login": LOGIN, "password": "nonsense"}


def user_logins(running):
    """Give the logins of people, without that of the server connection."""
    return [each for each in running.mx.received("loginRequest") if each.command.type == USER]


# --- What the MX sees -----------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_login_is_asked_on_a_connection_of_its_own(daemon):
    """The MX gets `loginRequest type="User" platform="CRM" version="1.0"`, and is left at once."""
    running = await daemon()
    (server,) = running.mx.connections
    await running.log_in()
    (asked,) = user_logins(running)
    command = asked.command
    assert (command.type, command.platform, command.version) == ("User", "CRM", "1.0")
    assert command.user_name == LOGIN
    assert command.password.strip() == "W6ph5Mm5Pz8GgiULbPgzG37mj9g="
    assert asked.session is not server
    await running.soon(asked.session.when_closed())
    assert running.mx.connections == [server]


@pytest_twisted.ensureDeferred
async def test_the_connection_of_a_refused_login_is_closed(daemon):
    """Whatever the MX answers, the connection of a login does not stay."""
    running = await daemon()
    assert (await running.post("/api/login", WRONG)).status == 403
    (asked,) = user_logins(running)
    await running.soon(asked.session.when_closed())


@pytest_twisted.ensureDeferred
async def test_the_monitor_runs_before_the_token_is_given(daemon):
    """The extension is monitored on the server connection once, however many log in."""
    running = await daemon()
    for _ in range(3):
        await running.log_in()
        assert running.mx.monitors(EXT) == 1
    (started,) = running.mx.received("MonitorStart")
    assert started.session is running.mx.logins[0]
    assert started.command.device == EXT


@pytest_twisted.ensureDeferred
async def test_a_login_answers_with_the_token(daemon):
    """200 with token_type, access_token and expires_in, an hour by default."""
    running = await daemon()
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 200
    token = reply.json["access_token"]
    assert reply.json == {"token_type": "Bearer", "access_token": token, "expires_in": 3600}
    assert reply.header("cache-control") == "no-store"


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "login required"),
        ({"login": "", "password": "x"}, "login required"),
        ({"login": "  ", "password": "x"}, "login required"),
        ({"password": "x"}, "login required"),
        ({"login": "x"}, "password required"),
        ({"login": "x", "password": ""}, "password required"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_login_and_password_are_required(daemon, fields, error):
    """An empty or missing field is 400 in the contract's words, and the MX is not asked."""
    running = await daemon()
    reply = await running.post("/api/login", fields)
    assert (reply.status, reply.error) == (400, error)
    assert not user_logins(running)


@pytest_twisted.ensureDeferred
async def test_a_refusal_has_the_words_of_the_mx(daemon):
    """`loginFailed` is 403 with the MX's own text; nobody is monitored then."""
    running = await daemon()
    failed = LoginFailed(code=3, serial="63022", api_version=11, text="Account is locked <till 5>")
    reply = await running.post("/api/login", WRONG)
    assert (reply.status, reply.error) == (403, "Invalid user name or password")
    running.mx.faults.set("loginRequest", CommandFault(answer=failed))
    reply = await running.post("/api/login", GOOD)
    assert (reply.status, reply.error) == (403, "Account is locked <till 5>")
    assert not running.mx.received("MonitorStart")


@pytest_twisted.ensureDeferred
async def test_the_time_of_a_refusal_tells_no_name(daemon):
    """Unknown names, wrong passwords, and users that the MX is asked about twice wait alike.

    None is answered before the first step of `login.refusal_step` is over, though the MX says no at
    once; who is let in does not wait.
    """
    running = await daemon(mx={"verify": "none"}, login={"refusal_step": 1})
    in_directory(running.mx, "3096")
    began = running.seconds()

    async def refused(login):
        reply = await running.post("/api/login", {"login": login, "password": "nonsense"})
        assert reply.status == 403
        return running.seconds() - began

    waiting = gatherResults(
        [running.later(refused(login)) for login in ("nobody", LOGIN, "user3096")]
    )
    assert (await running.post("/api/login", GOOD)).status == 200
    # The MX has answered long ago, and all of them still wait.
    await running.soon(running.mx.when(lambda: len(running.mx.connections) == 1))
    assert not waiting.called
    assert [each.command.user_name for each in user_logins(running)].count("user3096") == 2
    # The timer of the reactor may be early by less than a tick of the clock.
    assert min(await waiting) > 0.99


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_wait_for_its_refusal(daemon):
    """Who leaves before a refusal is told leaves nothing behind, however long it would last."""
    running = await daemon(login={"refusal_step": 10})
    client = await running.connect()
    form = "Content-Type: application/x-www-form-urlencoded"
    client.send(request_bytes("POST", "/api/login", form, body=b"login=nobody&password=x"))
    await running.soon(running.mx.when_command("loginRequest", 2))
    # That for the login is closed once the answer has come.
    await running.when(lambda: len(running.mx.connections) == 1)
    assert not running.log.of("mxflex.audit")
    client.abort()
    await running.when(lambda: running.log.of("mxflex.access"))
    assert "(client gone)" in running.log.of("mxflex.access")[-1]
    # Whoever tries passwords does not hide it so.
    (line,) = running.log.of("mxflex.audit")
    assert "login refused address='127.0.0.1' login='nobody' reason=" in line


@pytest_twisted.ensureDeferred
async def test_no_way_to_the_mx_is_503(daemon):
    """When the MX refuses connections the answer is 503, and says when to come again."""
    running = await daemon()
    await running.mx.refuse_connections()
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 503
    assert int(reply.header("retry-after")) > 0
    assert reply.error


@pytest.mark.parametrize("fault", ["close_on_connect", "reset_on_connect", "close_at_login"])
@pytest_twisted.ensureDeferred
async def test_an_mx_that_hangs_up_is_503(daemon, fault):
    """A connection that ends before the answer is as good as none."""
    running = await daemon()
    setattr(running.mx.faults, fault, True)
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 503
    assert reply.header("retry-after")


@pytest_twisted.ensureDeferred
async def test_an_mx_that_does_not_answer_is_504(daemon):
    """A login that the MX leaves unanswered is 504 after `mx.timeout`, and so is a handshake."""
    running = await daemon(mx={"timeout": 0.3})
    running.mx.faults.set("loginRequest", CommandFault(ignored=True))
    reply = await running.post("/api/login", GOOD)
    assert (reply.status, bool(reply.error)) == (504, True)
    running.mx.faults.hang_in_tls = True
    reply = await running.post("/api/login", GOOD)
    assert (reply.status, bool(reply.error)) == (504, True)


@pytest_twisted.ensureDeferred
async def test_too_many_failures_of_a_name_are_429(daemon):
    """After `login.max_failures` the name is refused unasked, even with the right password."""
    running = await daemon(login={"max_failures": 3, "window": 60}, proxies=["127.0.0.1"])
    for number in range(3):
        headers = {"X-Forwarded-For": f"192.0.2.{number}"}
        assert (await running.post("/api/login", WRONG, headers=headers)).status == 403
    asked = len(user_logins(running))
    reply = await running.post("/api/login", GOOD, headers={"X-Forwarded-For": "192.0.2.77"})
    assert reply.status == 429
    assert 1 <= int(reply.header("retry-after")) <= 60
    assert reply.error
    assert len(user_logins(running)) == asked
    other = {"login": "user3096", "password": "secret3096"}
    assert (await running.post("/api/login", other)).status == 200


@pytest_twisted.ensureDeferred
async def test_too_many_failures_of_an_address_are_429(daemon):
    """After `login.max_failures` the address is refused, whatever name it tries."""
    running = await daemon(login={"max_failures": 3, "window": 60})
    for number in range(3):
        fields = {"login": f"nobody{number}", "password": "x"}
        assert (await running.post("/api/login", fields)).status == 403
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 429
    assert reply.header("retry-after")


@pytest_twisted.ensureDeferred
async def test_the_tenth_failure_closes_the_door_by_default(daemon):
    """Ten failures within five minutes are let through, the eleventh try is not."""
    running = await daemon()
    for _ in range(10):
        assert (await running.post("/api/login", WRONG)).status == 403
    reply = await running.post("/api/login", WRONG)
    assert reply.status == 429
    assert 290 <= int(reply.header("retry-after")) <= 300


@pytest_twisted.ensureDeferred
async def test_the_window_ends(daemon):
    """After `login.window` seconds, as `Retry-After` says, the name may try again."""
    running = await daemon(login={"max_failures": 1, "window": 1})
    assert (await running.post("/api/login", WRONG)).status == 403
    reply = await running.post("/api/login", GOOD)
    assert (reply.status, reply.header("retry-after")) == (429, "1")
    await running.pause(1.0)
    assert (await running.post("/api/login", GOOD)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_monitor_that_cannot_be_started_is_503(daemon):
    """Without the monitor there is no token; the next login may succeed."""
    running = await daemon()
    refused = CSTAError(text="resourceLimitExceeded", category="operation")
    running.mx.faults.set("MonitorStart", CommandFault(answer=refused, times=1))
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 503
    assert reply.header("retry-after")
    assert reply.error
    assert "access_token" not in reply.json
    assert (await running.post("/api/login", GOOD)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_login_without_a_server_connection_is_503(daemon):
    """While the server connection is down nothing can be monitored, so nobody gets a token."""
    running = await daemon()
    running.mx.faults.set("loginRequest", CommandFault(drop=True, times=1))
    running.mx.drop()
    await running.when_down()
    running.mx.faults.set("loginRequest", CommandFault())
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 503
    assert reply.header("retry-after")


@pytest_twisted.ensureDeferred
async def test_more_logins_than_can_wait_are_503(daemon):
    """`login.parallel` logins run, `login.queue` wait, and the next one is refused at once."""
    running = await daemon(login={"parallel": 1, "queue": 1}, mx={"timeout": 5})
    running.mx.faults.set("loginRequest", CommandFault(delay=0.3))
    first, second = (running.later(running.post("/api/login", GOOD)) for _ in range(2))
    await running.soon(running.mx.when_command("loginRequest", 2))
    reply = await running.post("/api/login", GOOD)
    assert reply.status == 503
    assert reply.header("retry-after")
    assert (await first).status == 200
    assert (await second).status == 200


@pytest_twisted.ensureDeferred
async def test_an_account_without_an_extension_is_403(daemon):
    """Somebody who has no telephone has nothing to watch, and gets no token."""
    running = await daemon()
    user = running.mx.company.user("3096")
    running.mx.update_user(attrs.evolve(user, ext=""))
    reply = await running.post("/api/login", {"login": user.login, "password": user.password})
    assert reply.status == 403
    assert reply.error


# --- Logout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest_twisted.ensureDeferred
async def test_logout_ends_the_monitor_and_the_streams(daemon, method):
    """`MonitorStop` goes to the MX, every stream of the extension ends in order, 204 twice."""
    running = await daemon()
    tokens = [await running.log_in(), await running.log_in()]
    streams = [await running.open_stream(token) for token in tokens]
    other = await running.open_stream(await running.log_in("user3096", "secret3096"))
    reply = await running.request(method, "/api/logout", token=tokens[0])
    assert (reply.status, reply.body) == (204, b"")
    for stream in streams:
        await stream.when_closed()
        # Without a word of when to come back: who asks at once learns why.
        assert stream.text.count(b"retry:") == 1
    assert not other.closed
    assert running.mx.monitors(EXT) == 0
    assert running.mx.monitors("3096") == 1
    assert len(running.mx.received("MonitorStop")) == 1
    assert (await running.request(method, "/api/logout", token=tokens[0])).status == 204
    assert len(running.mx.received("MonitorStop")) == 1


@pytest_twisted.ensureDeferred
async def test_after_logout_only_the_events_are_gone(daemon):
    """`/api/events` is 403 `not monitored` for every token of the user, the rest works on."""
    running = await daemon()
    tokens = [await running.log_in(), await running.log_in()]
    await running.get("/api/logout", token=tokens[0])
    for token in tokens:
        stream = await running.open_stream(token)
        reply = await stream.reply()
        assert (reply.status, reply.error) == (403, "not monitored")
        assert (await running.get("/api/contacts", token=token)).status == 200
    assert (await running.post("/api/call", {"to": "3099"}, token=tokens[0])).status == 200


@pytest_twisted.ensureDeferred
async def test_the_next_login_brings_the_events_back(daemon):
    """After somebody logs in as that user again, old tokens open streams too."""
    running = await daemon()
    old = await running.log_in()
    await running.get("/api/logout", token=old)
    await running.log_in()
    assert running.mx.monitors(EXT) == 1
    stream = await running.open_stream(old)
    running.mx.call_in("+12025550104", EXT)
    await stream.when_event("DeliveredEvent")


@pytest_twisted.ensureDeferred
async def test_logout_works_without_the_mx(daemon):
    """With the server connection down the streams end and the answer is 204 all the same."""
    running = await daemon()
    token = await running.log_in()
    stream = await running.open_stream(token)
    await running.mx.refuse_connections()
    running.mx.drop()
    await running.when_down()
    assert not stream.closed
    assert (await running.get("/api/logout", token=token)).status == 204
    await stream.when_closed()
