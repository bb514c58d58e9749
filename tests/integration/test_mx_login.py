"""The login check over real TLS: what it sends to whom, how many at once, and what it leaves."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults

from mxflex.errors import (
    LocalProtocolError,
    LoginRefused,
    MXBusy,
    MXError,
    MXTimeout,
    MXUnavailable,
)
from mxflex.mx.verify import Account
from mxflex.simulator.behaviour import Behaviour
from mxflex.simulator.certificate import Certificate
from mxflex.simulator.faults import CommandFault
from mxflex.wire.messages import (
    Acknowledgement,
    CSTAError,
    LoginFailed,
    LoginRequest,
    hash_password,
)
from tests.integration.mx_bench import PATIENCE, MXBench, in_directory

LOGIN, PASSWORD, EXT, JID = "user_login", "password", "3095", 43884851147406145
HASH = "W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"


@pytest_twisted.async_yield_fixture
async def bench():
    """Give a bench that is cleared after the test."""
    bench = MXBench(reactor)
    yield bench
    await bench.stop()


def passwords(mx):
    """Give what came as passwords, in order."""
    return [received.command.password for received in mx.received("loginRequest")]


# --- Yes and no -----------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_right_password(bench):
    """A right password gives serial, extension and id; the connection is logged out and closed."""
    mx = await bench.simulator()
    account = await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)
    assert account == Account(serial="63022", ext=EXT, jid=JID)
    assert hash_password(PASSWORD) == HASH
    assert passwords(mx) == [HASH]
    await bench.gone(mx)
    assert [each.name for each in mx.commands] == ["loginRequest", "logout"]


@pytest_twisted.ensureDeferred
async def test_what_the_request_says(bench):
    """The check is a session of type `User`, platform `CRM`, version `1.0`, and never forced."""
    mx = await bench.simulator()
    in_directory(mx, EXT)
    await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)
    requests = [received.command for received in mx.received("loginRequest")]
    assert len(requests) == 2
    for request in requests:
        assert (request.type, request.platform, request.version) == ("User", "CRM", "1.0")
        assert request.forced is False
        assert request.user_name == LOGIN


@pytest_twisted.ensureDeferred
async def test_another_session_of_the_user_stays(bench):
    """The check does not end another session of the same user."""
    mx = await bench.simulator()
    check = bench.check(bench.dialer(mx))
    other = bench.dialer(mx)
    protocol, _ = await other.log_in(
        LoginRequest(type="User", platform="MXIE", user_name=LOGIN, password=PASSWORD)
    )
    await gatherResults([check(LOGIN, PASSWORD) for _ in range(3)])
    assert len(mx.logins) == 4
    assert not protocol.ended
    protocol.close()
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("login", "password"),
    [
        (LOGIN, "wrong"),
        (LOGIN, ""),
        ("nobody", PASSWORD),
        ("", ""),
        (LOGIN, HASH),
        (LOGIN, HASH.strip()),
    ],
)
async def test_wrong_password(bench, login, password):
    """A wrong password is refused in the MX's words; the hash itself is no password."""
    mx = await bench.simulator()
    with pytest.raises(LoginRefused) as refused:
        await bench.check(bench.dialer(mx, clear_password=False))(login, password)
    assert str(refused.value) == "Invalid user name or password"
    assert refused.value.code == 2
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "text",
    ["]]>", "a\"b'c&d<e>", "Сергей Кананыхин", "пароль", "  blanks  ", "\t", "x" * 10_000, "😀"],
)
async def test_any_text(bench, text):
    """Names and passwords of any characters reach the MX as they were typed."""
    mx = await bench.simulator()
    login = text.strip() or "blank"
    mx.company.put(attrs.evolve(mx.user(EXT), login=login, password=text))
    account = await bench.check(bench.dialer(mx))(login, text)
    assert account.ext == EXT


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("login", "password"), [("\x00", "x"), ("x" * 70_000, "x"), ("a\ud800", "x")]
)
async def test_text_that_no_frame_can_carry(bench, login, password):
    """What cannot be sent is an error of ours, and the connection is closed all the same."""
    mx = await bench.simulator()
    with pytest.raises(LocalProtocolError):
        await bench.check(bench.dialer(mx))(login, password)
    await bench.gone(mx)
    assert mx.commands == []


@pytest_twisted.ensureDeferred
async def test_expired_password(bench):
    """An expired password is a login all the same, with a line in the log."""
    mx = await bench.simulator()
    mx.company.put(attrs.evolve(mx.user(EXT), password_expired=True))
    account = await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)
    assert account.ext == EXT
    assert any("has expired" in line for line in bench.log.lines)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (CSTAError(text="accessDenied", category="security"), LoginRefused),
        (Acknowledgement(name="hello"), MXError),
    ],
)
async def test_odd_answers_let_nobody_in(bench, answer, expected):
    """An error instead of a login answer is a refusal; something unknown is no login either."""
    mx = await bench.simulator()
    mx.faults.set("loginRequest", CommandFault(answer=answer))
    with pytest.raises(expected):
        await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
async def test_no_password_in_the_log(bench):
    """Neither form of a password is in any line, whatever becomes of the login."""
    mx = await bench.simulator()
    in_directory(mx, EXT)
    mx.company.put(attrs.evolve(mx.user(EXT), password="Tr0mbone"))
    check = bench.check(bench.dialer(mx))
    await check(LOGIN, "Tr0mbone")
    with pytest.raises(LoginRefused):
        await check(LOGIN, "Tr0mbone2")
    for secret in ("Tr0mbone", hash_password("Tr0mbone").strip()):
        assert not [line for line in bench.log.lines if secret in line]


# --- The clear password ---------------------------------------------------------------------------


def _with_fingerprint(mx, folder):
    return {"fingerprint": mx.certificate.fingerprint}


def _with_ca(mx, folder):
    path = folder / "ca.pem"
    path.write_bytes(mx.certificate.pem)
    return {"verify": path}


CHOICES = {
    "none by default": (lambda mx, folder: {}, False),
    "none chosen": (lambda mx, folder: {"verify": "none"}, True),
    "none chosen, switched off": (
        lambda mx, folder: {"verify": "none", "clear_password": "false"},
        False,
    ),
    "fingerprint": (_with_fingerprint, True),
    "fingerprint, switched off": (
        lambda mx, folder: {**_with_fingerprint(mx, folder), "clear_password": "false"},
        False,
    ),
    "CA file": (_with_ca, True),
    "system": (lambda mx, folder: {"verify": "system"}, True),
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("choice", CHOICES)
async def test_who_gets_the_clear_password(bench, tmp_path, monkeypatch, choice):
    """The hash comes first. The clear one follows only where the MX needs it, and only to an MX.

    That is one which is verified, or of which the configuration says that it need not be.
    """
    certificate = Certificate.issue("MX", "127.0.0.1", is_authority=True)
    mx = await bench.simulator(certificate=certificate)
    in_directory(mx, EXT)
    _with_ca(mx, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    keys, allowed = CHOICES[choice]
    check = bench.check(bench.configured_dialer(mx, **keys(mx, tmp_path)))
    if allowed:
        assert (await check(LOGIN, PASSWORD)).ext == EXT
        assert passwords(mx) == [HASH, PASSWORD]
    else:
        with pytest.raises(LoginRefused) as refused:
            await check(LOGIN, PASSWORD)
        assert refused.value.code == 4
        assert passwords(mx) == [HASH]
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("keys", [_with_fingerprint, _with_ca])
async def test_an_impostor_gets_nothing(bench, tmp_path, keys):
    """An MX that cannot be verified is not even shown the hash."""
    mx = await bench.simulator(certificate=Certificate.issue("MX", "127.0.0.1", is_authority=True))
    dialer = bench.configured_dialer(mx, **keys(mx, tmp_path))
    mx.faults.certificate = Certificate.issue("MX", "127.0.0.1")
    with pytest.raises(MXUnavailable):
        await bench.check(dialer)(LOGIN, PASSWORD)
    await bench.gone(mx)
    assert mx.commands == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("code", "api_version", "tries"), [(2, 11, 2), (4, 3, 2), (4, 2, 1), (5, 11, 1), (1, 11, 1)]
)
async def test_when_the_clear_password_is_tried(bench, code, api_version, tries):
    """Codes 2 and 4 from API version 3 on are worth one second try; the second answer is final."""
    mx = await bench.simulator(behaviour=Behaviour(api_version=api_version))
    in_directory(mx, EXT)
    if code != 4:
        mx.faults.set(
            "loginRequest",
            CommandFault(answer=LoginFailed(code=code, api_version=api_version, text="no")),
        )
    with pytest.raises(LoginRefused):
        await bench.check(bench.dialer(mx))(LOGIN, "wrong")
    assert passwords(mx) == [hash_password("wrong"), "wrong"][:tries]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("keep_open", [True, False])
@pytest.mark.parametrize("byte_by_byte", [True, False])
async def test_second_try_wherever_it_is_expected(bench, keep_open, byte_by_byte):
    """Some MXs expect the clear password on the same connection, others have closed it."""
    mx = await bench.simulator(behaviour=Behaviour(keep_open_after_refusal=keep_open))
    in_directory(mx, EXT)
    mx.faults.byte_by_byte = byte_by_byte
    account = await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)
    assert account.ext == EXT
    assert passwords(mx)[0] == HASH
    assert set(passwords(mx)[1:]) == {PASSWORD}
    sessions = {received.session for received in mx.received("loginRequest")}
    assert len(sessions) == (1 if keep_open else 2)
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
async def test_code_in_lower_case(bench):
    """An MX that writes `code` where others write `Code` is understood."""
    mx = await bench.simulator(behaviour=Behaviour(code_attribute="code"))
    in_directory(mx, EXT)
    assert (await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)).ext == EXT


# --- Many at once ---------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_many_side_by_side(bench):
    """Of 64 logins 32 run at once, the others follow, and all succeed."""
    mx = await bench.simulator()
    mx.faults.set("loginRequest", CommandFault(delay=0.2))
    check = bench.check(bench.dialer(mx))
    people = list(mx.company) * 8
    accounts = await gatherResults([check(user.login, user.password) for user in people])
    assert [account.ext for account in accounts] == [user.ext for user in people]
    assert check.most == 32
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
async def test_a_full_queue(bench):
    """Who finds the queue full is told at once; who stands in it gets a turn."""
    mx = await bench.simulator()
    mx.faults.set("loginRequest", CommandFault(delay=0.2))
    check = bench.check(bench.dialer(mx), parallel=2, queue=3)
    waiting = [check(LOGIN, PASSWORD) for _ in range(5)]
    for _ in range(3):
        with pytest.raises(MXBusy):
            await check(LOGIN, PASSWORD)
    assert not any(each.called for each in waiting)
    assert len(await gatherResults(waiting)) == 5
    assert (await check(LOGIN, PASSWORD)).ext == EXT
    assert check.most == 2


@pytest_twisted.ensureDeferred
async def test_no_queue(bench):
    """With a queue of none there are places, or there is a refusal."""
    mx = await bench.simulator()
    check = bench.check(bench.dialer(mx), parallel=1, queue=0)
    first = check(LOGIN, PASSWORD)
    with pytest.raises(MXBusy):
        await check(LOGIN, PASSWORD)
    assert (await first).ext == EXT


@pytest_twisted.ensureDeferred
async def test_failures_give_their_places_back(bench):
    """Whatever becomes of a check, its place is free afterwards."""
    mx = await bench.simulator()
    check = bench.check(bench.dialer(mx, timeout=0.3), parallel=1, queue=0)
    for _ in range(2):
        with pytest.raises(LoginRefused):
            await check(LOGIN, "wrong")
        with pytest.raises(LocalProtocolError):
            await check("\x00", "x")
        mx.faults.hang_in_tls = True
        with pytest.raises(MXTimeout):
            await check(LOGIN, PASSWORD)
        mx.faults.hang_in_tls = False
        assert (await check(LOGIN, PASSWORD)).ext == EXT


# --- Trouble --------------------------------------------------------------------------------------


TROUBLES = {
    "reset before TLS": (lambda mx: setattr(mx.faults, "reset_on_connect", True), MXUnavailable),
    "closed before TLS": (lambda mx: setattr(mx.faults, "close_on_connect", True), MXUnavailable),
    "hang in TLS": (lambda mx: setattr(mx.faults, "hang_in_tls", True), MXTimeout),
    "closed at login": (lambda mx: setattr(mx.faults, "close_at_login", True), MXUnavailable),
    "dropped at login": (
        lambda mx: mx.faults.set("loginRequest", CommandFault(drop=True)),
        MXUnavailable,
    ),
    "reset at login": (
        lambda mx: mx.faults.set("loginRequest", CommandFault(reset=True)),
        MXUnavailable,
    ),
    "silent": (lambda mx: setattr(mx.faults, "silent", True), MXTimeout),
    "answered too late": (
        lambda mx: mx.faults.set("loginRequest", CommandFault(delay=1.0)),
        MXTimeout,
    ),
    "wrong id": (
        lambda mx: mx.faults.set("loginRequest", CommandFault(wrong_id=True)),
        MXTimeout,
    ),
    "garbage": (
        lambda mx: mx.faults.set("loginRequest", CommandFault(raw=b"HTTP/1.1 400 Bad Request\r\n")),
        MXUnavailable,
    ),
    "refused after the second try": (
        lambda mx: (
            in_directory(mx, EXT),
            mx.faults.set("loginRequest", CommandFault(drop=True, first=2)),
        ),
        MXUnavailable,
    ),
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble_leaves_no_connection(bench, trouble):
    """However the MX fails, the error says so and the connection is gone."""
    mx = await bench.simulator()
    make, expected = TROUBLES[trouble]
    make(mx)
    with pytest.raises(expected):
        await bench.check(bench.dialer(mx, timeout=0.4))(LOGIN, PASSWORD)
    await bench.gone(mx)


@pytest_twisted.ensureDeferred
async def test_connection_refused(bench):
    """No MX at that address is said at once, and without the address."""
    mx = await bench.simulator()
    dialer = bench.dialer(mx)
    await mx.stop()
    with pytest.raises(MXUnavailable) as error:
        await bench.check(dialer)(LOGIN, PASSWORD)
    assert "127.0.0.1" not in str(error.value)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("stage", ["at once", "in TLS", "at login", "at the second try"])
async def test_client_that_leaves(bench, stage):
    """A check that is cancelled at any stage closes its connection, and gives its place back."""
    mx = await bench.simulator()
    # No timeout of ours helps: the connection is closed because the client has gone.
    check = bench.check(bench.dialer(mx, timeout=60.0), parallel=1, queue=0)
    if stage == "in TLS":
        mx.faults.hang_in_tls = True
    elif stage == "at login":
        mx.faults.set("loginRequest", CommandFault(ignored=True))
    elif stage == "at the second try":
        in_directory(mx, EXT)
        mx.faults.set("loginRequest", CommandFault(ignored=True, first=2))
    checking = check(LOGIN, PASSWORD)
    if stage == "in TLS":
        while not mx.door.unanswered:
            await bench.pause(0.01)
    elif stage != "at once":
        await bench.soon(mx.when_command("loginRequest", 1 if stage == "at login" else 2))
    checking.cancel()
    with pytest.raises(CancelledError):
        await checking
    await bench.gone(mx)
    deadline = reactor.seconds() + PATIENCE
    while mx.door.unanswered:
        assert reactor.seconds() < deadline
        await bench.pause(0.01)
    mx.faults.hang_in_tls = False
    mx.faults.clear("loginRequest")
    assert (await check(LOGIN, PASSWORD)).ext == EXT


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_the_queue(bench):
    """A check that is cancelled before its turn never reaches the MX, and holds up nobody."""
    mx = await bench.simulator()
    mx.faults.set("loginRequest", CommandFault(delay=0.2))
    check = bench.check(bench.dialer(mx), parallel=1, queue=2)
    first, second, third = (check(LOGIN, PASSWORD) for _ in range(3))
    second.cancel()
    with pytest.raises(CancelledError):
        await second
    assert (await first).ext == (await third).ext == EXT
    assert len(mx.received("loginRequest")) == 2


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name", ["localhost", "mx.invalid"])
async def test_client_that_leaves_while_the_name_is_looked_up(bench, name):
    """The same while the MX's name is still being looked up: a cancelled check is no lost MX."""
    mx = await bench.simulator()
    check = bench.check(bench.dialer(mx, host=name))
    checking = check(LOGIN, PASSWORD)
    checking.cancel()
    with pytest.raises(CancelledError):
        await checking
    assert mx.commands == []


@pytest_twisted.ensureDeferred
async def test_unknown_name(bench):
    """A name that nobody knows is an MX that cannot be reached."""
    mx = await bench.simulator()
    with pytest.raises(MXUnavailable):
        await bench.check(bench.dialer(mx, host="mx.invalid"))(LOGIN, PASSWORD)


@pytest_twisted.ensureDeferred
async def test_deaf_to_the_farewell(bench):
    """An MX that does not answer the logout is cut off; nobody waits for it."""
    mx = await bench.simulator()
    mx.faults.set("logout", CommandFault(ignored=True))
    account = await bench.check(bench.dialer(mx))(LOGIN, PASSWORD)
    assert account.ext == EXT
    await bench.gone(mx)
