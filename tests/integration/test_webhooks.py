"""Webhooks, from the MX to a receiver over real sockets."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from mxflex.errors import ConfigError
from mxflex.simulator.certificate import Certificate
from mxflex.webhooks.dispatch import TROUBLE
from tests.integration.daemons import EXT
from tests.integration.receiver import KEY, SECRET, Receiver
from tests.integration.test_monitor import MONITOR, Watcher
from tests.ports import LOOPBACK

OUTSIDE = "12025550104"
# Somebody else of the simulated company.
OTHER = "3096"


def ring(mx, ext=EXT):
    """Let an extension ring and give up: two events."""
    mx.call_in(OUTSIDE, ext)
    mx.hang_up(OUTSIDE)


@pytest_twisted.async_yield_fixture
async def receivers():
    """Give the function that starts a receiver; all are closed after the test."""
    started = []

    async def start(certificate=None):
        receiver = Receiver(reactor, certificate)
        started.append(receiver)
        await receiver.listen()
        return receiver

    yield start
    for receiver in started:
        await receiver.close()


class Hooked:
    """A daemon with a webhook, and the receiver that it leads to."""

    def __init__(self, running, receiver):
        self.running, self.receiver = running, receiver
        self.mx, self.post, self.get = running.mx, running.post, running.get

    @property
    def hook(self):
        return self.running.service.getServiceNamed("webhooks").hooks["crm"]

    async def when(self, condition):
        """Wait until something holds of what the receiver got."""
        await self.receiver.when(condition, self.running.soon)

    async def when_types(self, count):
        """Wait for so many events, and give them; gaps do not count."""
        await self.when(lambda: len(self.receiver.types) >= count)
        return [post for post in self.receiver.posts if post.type != "gap"]

    async def when_idle(self):
        """Wait until nothing is in the queue."""
        await self.running.when(lambda: not self.hook.state.queued and not self.hook.busy)


@pytest.fixture
def hooked(daemon, receivers, tmp_path):
    """Give the function that starts a daemon with a webhook, and a receiver for it."""

    async def start(*, receiver=None, hook=None, delivery=None, **settings):
        receiver = receiver or await receivers()
        running = await daemon(
            webhooks=[receiver.hook(**({"extensions": [EXT]} if hook is None else hook))],
            delivery={"storage": str(tmp_path / "webhooks.db"), **(delivery or {})},
            admin={"extensions": [EXT]},
            **settings,
        )
        return Hooked(running, receiver)

    return start


@pytest_twisted.ensureDeferred
async def test_a_call_comes_without_anybody_logged_in(hooked):
    """The extension is monitored from the start; each event is posted once, signed, in order."""
    here = await hooked()
    ring(here.mx)
    first, second = await here.when_types(2)
    assert (first.type, second.type) == ("DeliveredEvent", "ConnectionClearedEvent")
    assert first.data["callingDevice"] == OUTSIDE
    assert first.call == second.call
    assert first.path == "/hook?from=mxflex"
    assert first.headers["content-type"] == "application/json"
    assert first.headers["user-agent"].startswith("MXFlex/")
    await here.when_idle()
    assert len({post.id for post in here.receiver.posts}) == len(here.receiver.posts)


@pytest_twisted.ensureDeferred
async def test_over_tls(hooked, receivers, tmp_path):
    """The same to a receiver on HTTPS, whose certificate is from a CA of one's own."""
    authority = Certificate.authority("Ours")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    receiver = await receivers(Certificate.issue("crm", LOOPBACK, issuer=authority))
    here = await hooked(receiver=receiver, hook={"ca_file": str(ca_file), "extensions": [EXT]})
    ring(here.mx)
    assert [post.type for post in await here.when_types(2)] == here.receiver.types
    await here.when_idle()
    # One for each message under way at the same time, and no more.
    assert receiver.connections <= here.hook.settings.parallel


@pytest_twisted.ensureDeferred
async def test_whose_events(hooked):
    """With `all`, the events are those of whoever logs in, and nobody is monitored for its sake."""
    here = await hooked(hook={"extensions": "all"})
    assert here.mx.monitors(EXT) == 0
    await here.running.log_in()
    ring(here.mx, OTHER)
    ring(here.mx)
    assert [post.data["deviceId"] for post in await here.when_types(2)] == [EXT, EXT]


@pytest_twisted.ensureDeferred
async def test_logins_and_logouts_change_nothing(hooked):
    """A logout ends the streams of its extension, and its history, but not what a webhook gets."""
    here = await hooked()
    token = await here.running.log_in()
    stream = await here.running.open_stream(token)
    ring(here.mx)
    await stream.when_events(2)
    assert (await here.get("/api/logout", token=token)).status == 204
    await stream.when_closed()
    refused = await here.running.open_stream(token)
    assert (await refused.reply()).status == 403
    ring(here.mx)
    await here.when_types(4)
    assert here.mx.received("MonitorStop") == []
    token = await here.running.log_in()
    stream = await here.running.open_stream(token)
    ring(here.mx)
    assert len(await stream.when_events(2)) == 2
    await here.when_types(6)
    assert len(here.mx.received("MonitorStart")) == 1


@pytest_twisted.ensureDeferred
async def test_contacts_and_status(hooked):
    """Topics that belong to no extension are posted too."""
    here = await hooked(hook={"events": ["contacts", "status"], "extensions": [EXT]})
    await here.when_types(1)
    here.mx.set_presence(OTHER, "Busy", "in a meeting")
    up, contact = await here.when_types(2)
    assert (up.type, up.data) == ("status", {"mx": "up"})
    assert (contact.type, contact.data["action"]) == ("ContactEvent", "changed")
    assert contact.data["contact"]["note"] == "in a meeting"
    ring(here.mx)
    await here.mx.refuse_connections()
    here.mx.drop()
    status = (await here.when_types(3))[2]
    assert (status.type, status.data) == ("status", {"mx": "down"})
    here.mx.accept_connections()
    await here.running.come_back_now()
    assert (await here.when_types(4))[3].data == {"mx": "up"}


@pytest_twisted.ensureDeferred
async def test_an_outage_of_the_mx(hooked):
    """After an outage the extension is monitored again, and a gap tells since when events lack."""
    here = await hooked()
    await here.when(lambda: here.receiver.of("gap"))
    ring(here.mx)
    await here.when_types(2)
    here.mx.drop()
    await here.running.when_down()
    await here.running.come_back_now()
    await here.running.when_ready()
    await here.when(lambda: len(here.receiver.of("gap")) == 2)
    gap = here.receiver.of("gap")[1]
    assert gap.data["reason"] == "mx-down"
    assert gap.data["since"] <= gap.timestamp
    ring(here.mx)
    await here.when_types(4)


@pytest_twisted.ensureDeferred
async def test_a_receiver_that_hangs_slows_nobody(hooked):
    """With every message of it unanswered, streams get all events, and MXFlex stops in time."""
    here = await hooked(hook={"extensions": [EXT], "parallel": 2, "timeout": 60})
    here.receiver.answer = lambda post: None
    stream = await here.running.open_stream(await here.running.log_in())
    for _ in range(50):
        ring(here.mx)
    assert len(await stream.when_events(100)) == 100
    await here.when(lambda: here.receiver.held == 2)
    await here.running.when(lambda: here.hook.state.queued >= 100)
    assert here.receiver.most_open == 2
    # In order as soon as it answers, each call by itself.
    here.receiver.answer = lambda post: 204
    here.receiver.let_go()
    await here.when_types(100)
    seen = {}
    for post in here.receiver.posts:
        if post.type != "gap":
            seen.setdefault(post.call, []).append(post.type)
    assert set(map(tuple, seen.values())) == {("DeliveredEvent", "ConnectionClearedEvent")}
    assert len(seen) == 50


@pytest_twisted.ensureDeferred
async def test_a_disk_that_hangs_slows_nobody(hooked):
    """While the disk does not answer, streams get all events; the webhook gets them later."""
    here = await hooked()
    await here.when(lambda: here.receiver.of("gap"))
    await here.when_idle()
    held = threading.Event()
    webhooks = here.running.service.getServiceNamed("webhooks")
    webhooks._disk.run(held.wait)
    stream = await here.running.open_stream(await here.running.log_in())
    for _ in range(20):
        ring(here.mx)
    assert len(await stream.when_events(40)) == 40
    assert here.receiver.types == []
    held.set()
    assert len(await here.when_types(40)) == 40


@pytest_twisted.ensureDeferred
async def test_a_restart(hooked, receivers):
    """What could not be posted before a restart is posted after it, with its id, and a gap."""
    receiver = await receivers()
    receiver.answer = lambda post: 500
    here = await hooked(receiver=receiver)
    ring(here.mx)
    await here.when(lambda: receiver.of("DeliveredEvent"))
    await here.running.stop_service()
    first = receiver.of("DeliveredEvent")[0]
    receiver.answer = lambda post: 204
    receiver.posts.clear()
    again = await hooked(receiver=receiver, simulator=here.mx)
    delivered, cleared = await again.when_types(2)
    assert (delivered.id, delivered.data) == (first.id, first.data)
    assert delivered.timestamp == first.timestamp
    assert cleared.type == "ConnectionClearedEvent"
    await again.when(lambda: len(receiver.of("gap")) >= 3)
    assert [post.data["reason"] for post in receiver.of("gap")].count("restart") == 1


@pytest_twisted.ensureDeferred
async def test_for_administrators(hooked):
    """Only users of the extensions in `admin.extensions` may ask; secrets are in no answer."""
    here = await hooked()
    paths = [("GET", ""), *(("POST", f"/{act}") for act in ("retry", "discard", "enable"))]
    stranger = await here.running.log_in("user3096", "secret3096")
    token = await here.running.log_in()
    for method, act in paths:
        path = f"/api/admin/webhooks{act}"
        reply = await here.running.request(method, path, token=stranger, data={"webhook": "crm"})
        assert (reply.status, reply.error) == (
            403,
            "this is for the administrators of MXFlex alone",
        )
        assert (await here.running.request(method, path)).status == 401
    reply = await here.get("/api/admin/webhooks", token=token)
    assert reply.status == 200
    (hook,) = reply.json["webhooks"]
    assert hook["name"] == "crm"
    assert hook["url"] == f"http://{LOOPBACK}:{here.receiver.port}"
    assert hook["state"] == "ok"
    assert "since" not in hook
    for name, complaint in (("", "webhook required"), ("other", "there is no such webhook")):
        for act in ("retry", "discard", "enable"):
            reply = await here.post(f"/api/admin/webhooks/{act}", {"webhook": name}, token=token)
            assert (reply.status, reply.error) == (400, complaint)


@pytest_twisted.ensureDeferred
async def test_dead_letters(hooked):
    """What is given up is listed, and sent again, or thrown away, as an administrator says."""
    here = await hooked(delivery={"max_age": 1})
    token = await here.running.log_in()
    await here.when(lambda: here.receiver.of("gap"))
    here.receiver.answer = lambda post: 500
    ring(here.mx)

    async def listed():
        (hook,) = (await here.get("/api/admin/webhooks", token=token)).json["webhooks"]
        return hook

    await here.running.when(lambda: here.hook.state.dead == 2)
    hook = await listed()
    assert (hook["state"], hook["error"]) == ("failing", "the receiver answered 500")
    assert hook["dead"] == len(hook["deadLetters"]) == 2
    letters = {letter["type"]: letter for letter in hook["deadLetters"]}
    letter = letters["DeliveredEvent"]
    assert list(letter) == ["id", "type", "timestamp", "attempts", "error", "diedAt"]
    assert letter["error"] == "the receiver answered 500"
    here.receiver.answer = lambda post: 204
    here.receiver.posts.clear()
    for act, done in (("retry", "retried"), ("discard", "discarded")):
        unknown = {"webhook": "crm", "id": "msg_unknown"}
        reply = await here.post(f"/api/admin/webhooks/{act}", unknown, token=token)
        assert (reply.status, reply.json) == (200, {done: 0})
    assert (await listed())["dead"] == 2
    act = {"webhook": "crm", "id": letter["id"]}
    reply = await here.post("/api/admin/webhooks/retry", act, token=token)
    assert (reply.status, reply.json) == (200, {"retried": 1})
    (post,) = await here.when_types(1)
    assert (post.id, post.type) == (letter["id"], "DeliveredEvent")
    reply = await here.post("/api/admin/webhooks/retry", act, token=token)
    assert (reply.status, reply.json) == (200, {"retried": 0})
    reply = await here.post("/api/admin/webhooks/discard", {"webhook": "crm"}, token=token)
    assert reply.json == {"discarded": 1}
    await here.when_idle()
    hook = await listed()
    assert (hook["state"], hook["dead"], hook["deadLetters"]) == ("ok", 0, [])


@pytest_twisted.ensureDeferred
async def test_gone(hooked):
    """After 410 nothing is posted until an administrator says so."""
    here = await hooked()
    token = await here.running.log_in()
    here.receiver.answer = lambda post: 410
    ring(here.mx)
    await here.running.when(lambda: here.hook.state.disabled is not None)
    await here.when_idle()
    (hook,) = (await here.get("/api/admin/webhooks", token=token)).json["webhooks"]
    assert hook["state"] == "disabled"
    here.receiver.posts.clear()
    here.receiver.answer = lambda post: 204
    ring(here.mx)
    reply = await here.post("/api/admin/webhooks/enable", {"webhook": "crm"}, token=token)
    assert reply.status == 204
    await here.when(lambda: here.receiver.posts)
    assert [post.type for post in here.receiver.posts] == ["gap"]
    assert here.receiver.posts[0].data["reason"] == "disabled"
    ring(here.mx)
    await here.when_types(2)


@pytest_twisted.ensureDeferred
async def test_figures(hooked):
    """The figures tell what waits, what has gone, what failed, and how long it took."""
    here = await hooked(monitor=MONITOR)
    watcher = Watcher(here.running)
    ring(here.mx)
    await here.when_types(2)
    await here.when_idle()
    own = {"webhook": "crm"}
    delivered = await watcher.figure("mxflex_webhook_delivered_total", **own)
    assert delivered == len(here.receiver.posts)
    assert await watcher.figure("mxflex_webhook_delivery_seconds_count", **own) == delivered
    for name in ("queued", "dead", "failing", "disabled"):
        assert await watcher.figure(f"mxflex_webhook_{name}", **own) == 0
    here.receiver.answer = lambda post: 500
    for _ in range(TROUBLE):
        ring(here.mx)
    await here.running.when(lambda: here.hook.in_trouble)
    assert await watcher.figure("mxflex_webhook_failed_total", **own) >= TROUBLE
    assert await watcher.figure("mxflex_webhook_failing", **own) == 1
    for name in ("dropped", "died"):
        assert await watcher.figure(f"mxflex_webhook_{name}_total", **own) == 0


@pytest_twisted.ensureDeferred
async def test_nothing_secret_is_logged(hooked, tmp_path):
    """Neither secrets, nor headers, nor the path of the URL are in the log, whatever fails."""
    header = "sesame-sesame-sesame-sesame"
    here = await hooked(hook={"extensions": [EXT], "headers": {"X-Key": header}})
    here.receiver.answer = lambda post: 500
    for _ in range(TROUBLE):
        ring(here.mx)
    await here.running.when(lambda: here.hook.in_trouble)
    text = "".join(here.running.log.lines)
    assert "webhook crm fails: the receiver answered 500" in text
    for secret in (SECRET, SECRET.removeprefix("whsec_"), KEY.decode(), header, "from=mxflex"):
        assert secret not in text
    for path in tmp_path.glob("webhooks.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest_twisted.ensureDeferred
async def test_no_webhooks(daemon, tmp_path, monkeypatch):
    """Without webhooks there is no file, and the list is empty."""
    monkeypatch.chdir(tmp_path)
    running = await daemon(admin={"extensions": [EXT]})
    reply = await running.get("/api/admin/webhooks", token=await running.log_in())
    assert reply.json == {"webhooks": []}
    assert not Path("webhooks.db").exists()


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_made(hooked, tmp_path):
    """The daemon serves all else, the log says what is wrong; once it is right, events go out."""
    folder = tmp_path / "later"
    here = await hooked(delivery={"storage": str(folder / "webhooks.db")})
    ring(here.mx)
    text = "the queue of webhooks cannot be used: No such file or directory"
    await here.running.when(lambda: text in "".join(here.running.log.lines))
    folder.mkdir()
    assert len(await here.when_types(2)) == 2


@pytest_twisted.ensureDeferred
async def test_a_ca_file_without_certificates(daemon, tmp_path):
    """A CA file that holds none ends the start with one line."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("-----BEGIN" + " CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    hook = {"name": "crm", "url": "https://crm.example.com/", "secret": SECRET}
    with pytest.raises(ConfigError, match="expected certificates"):
        await daemon(webhooks=[{**hook, "ca_file": str(ca_file)}])


@pytest_twisted.ensureDeferred
async def test_reload(daemon, receivers, tmp_path):
    """Webhooks come, change and go while a stream is open; so do the monitors for their sake."""
    running = await daemon(delivery={"storage": str(tmp_path / "webhooks.db")})
    stream = await running.open_stream(await running.log_in())
    first, second = await receivers(), await receivers()
    running.reload(webhooks=[first.hook(extensions=[OTHER])])
    await running.when(lambda: running.mx.monitors(OTHER) == 1)
    here = Hooked(running, first)
    ring(running.mx, OTHER)
    await here.when_types(2)
    here.receiver = second
    running.reload(webhooks=[second.hook(extensions=[EXT])])
    await running.when(lambda: running.mx.monitors(OTHER) == 0)
    ring(running.mx, OTHER)
    ring(running.mx)
    assert [post.data["deviceId"] for post in await here.when_types(2)] == [EXT, EXT]
    await here.when_idle()
    running.reload(webhooks=[])
    ring(running.mx)
    await stream.when_events(4)
    assert not stream.closed
    for receiver in (first, second):
        assert len([each for each in receiver.types if each != "gap"]) == 2
    assert running.mx.monitors(EXT) == 1


@pytest_twisted.ensureDeferred
async def test_reload_with_a_wrong_ca_file(hooked, tmp_path):
    """A webhook that cannot be used changes nothing at all, and the log says which file."""
    here = await hooked()
    broken = tmp_path / "ca.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    hook = here.receiver.hook(extensions=[OTHER], ca_file=str(broken))
    here.running.reload(webhooks=[hook], events={"history": 1})
    (line,) = here.running.log.of("mxflex.reload")
    assert f"the old one stays: {broken}: webhooks: expected certificates" in line
    ring(here.mx)
    await here.when_types(2)
