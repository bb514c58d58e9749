"""What is sent to webhooks when: on a clock set by hand, with a real queue in a file."""

from __future__ import annotations

import json

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from mxflex.config import DeliverySettings, WebhookSettings
from mxflex.errors import BadRequest, ServiceUnavailable, StorageError
from mxflex.gateway.hub import Hub, Topic
from mxflex.web.eventjson import encode_gap, encode_webhook, encode_webhook_gap
from mxflex.webhooks import dispatch
from mxflex.webhooks.delivery import BROKEN_OFF, Reply
from mxflex.webhooks.dispatch import Hook, Webhooks
from mxflex.webhooks.message import Writer
from mxflex.webhooks.queue import Queue
from tests.unit.memory_disk import Disk

NOW = 1_505_411_996.0
EXT, OTHER = "3095", "3044"
NO = Reply(error="the receiver answered 500")


class Receiver:
    """Takes what is posted.

    Attributes:
        reply: How attempts go, as soon as they are made; None to hold them.
        attempts: What was posted and is held: (type, data, Deferred).
        taken: What was posted, all of it: (type, data).
        most: How many attempts were held at the same time.
    """

    def __init__(self):
        self.reply = Reply()
        self.attempts = []
        self.taken = []
        self.ids = []
        self.most = 0
        self.hung_up = 0

    def post(self, message_id, body):
        message = json.loads(body)
        told = (message["type"], message["data"])
        self.taken.append(told)
        self.ids.append(message_id)
        if self.reply is not None:
            return succeed(self.reply)
        attempt = Deferred(lambda done: done.callback(BROKEN_OFF))
        held = (*told, attempt)
        self.attempts.append(held)
        self.most = max(self.most, len(self.attempts))
        attempt.addBoth(lambda reply: self.attempts.remove(held) or reply)
        return attempt

    def finish(self, number=0, reply=None):
        self.attempts[number][2].callback(reply or Reply())

    def hang_up(self):
        self.hung_up += 1


class Place:
    """Webhooks with one receiver each, and what they live on."""

    def __init__(self, path, *hooks, max_queued=1000, max_age=86_400.0):
        self.path = path
        self.clock = Clock()
        self.clock.advance(NOW)
        self.disk = Disk(StorageError("disk full"))
        hooks = hooks or ({},)
        self.settings = [
            WebhookSettings(
                **{
                    "name": f"h{number}",
                    "url": "https://crm.example.com/T0K3N",
                    "secrets": (b"x" * 24,),
                    **hook,
                }
            )
            for number, hook in enumerate(hooks)
        ]
        self.receivers = [Receiver() for _ in hooks]
        self.receiver = self.receivers[0]
        self.queue = Queue(
            path,
            self.settings,
            max_queued=max_queued,
            max_age=max_age,
            max_dead=100,
            gap=encode_webhook_gap,
        )
        self.webhooks = Webhooks(
            self.clock,
            self.disk,
            self.queue,
            Writer(encode_webhook),
            hooks=[
                Hook(settings, receiver)
                for settings, receiver in zip(self.settings, self.receivers, strict=True)
            ],
            chance=lambda: 1.0,
        )
        self.hook = self.webhooks.hooks["h0"]
        self.webhooks.startService()

    def happen(self, call=1, ext=EXT, name="DeliveredEvent", **data):
        """Let an event of a call happen; it is sent at the end of the turn."""
        content = json.dumps({"callId": call, "deviceId": ext, **data}).encode()
        self.webhooks.event(Topic.CALLS, ext, name, content)

    def turn(self, seconds=0):
        """Let the turn end, or time pass."""
        self.clock.pump([0, *([seconds / 20] * 20 if seconds else [0])])

    def stop(self):
        done = []
        self.webhooks.stopService().addCallback(done.append)
        self.clock.pump([0.1] * 20)
        assert done
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def place(tmp_path):
    places = []

    def make(*hooks, **options):
        places.append(Place(tmp_path / "webhooks.db", *hooks, **options))
        return places[-1]

    yield make
    for each in places:
        each.queue.close(NOW)


def result_of(coroutine):
    """Give what a coroutine gives that need not wait."""
    results = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def warnings(logged):
    return [event["log_format"] for event in logged if event["log_level"] >= LogLevel.warn]


def calls(receiver):
    return [data["callId"] for name, data in receiver.taken if name != "gap"]


def test_an_event_is_sent(place):
    """What happens in a turn is sent behind it, in one round."""
    here = place()
    before = here.disk.rounds
    here.happen(1)
    here.happen(2)
    assert here.receiver.taken == []
    here.turn()
    assert calls(here.receiver) == [1, 2]
    # One to take them, one for what became of them.
    assert here.disk.rounds - before == 2
    assert (here.hook.delivered, here.hook.state.queued) == (2, 0)


def test_calls_side_by_side(place):
    """Calls do not wait for each other, the events of one do; no more than `parallel` at a time."""
    here = place({"parallel": 3})
    here.receiver.reply = None
    for call in (1, 1, 2, 3, 4):
        here.happen(call)
    here.turn()
    assert [data["callId"] for _, data, _ in here.receiver.attempts] == [1, 2, 3]
    here.receiver.finish(0)
    here.turn()
    assert [data["callId"] for _, data, _ in here.receiver.attempts] == [2, 3, 1]
    while here.receiver.attempts:
        here.receiver.finish(0)
        here.turn()
    assert calls(here.receiver) == [1, 2, 3, 1, 4]
    assert here.receiver.most == 3


def test_all_parties_of_a_call(place):
    """The events of one call at two extensions come one after the other, once it is known."""
    here = place()
    here.receiver.reply = None
    here.happen(1, EXT, "OriginatedEvent")
    here.happen(1, EXT, "DeliveredEvent", globalCallId="77")
    here.happen(9, OTHER, "DeliveredEvent", globalCallId="77")
    here.happen(9, OTHER, "ConnectionClearedEvent")
    here.happen(1, EXT, "ConnectionClearedEvent")
    order = []
    for _ in range(5):
        here.turn()
        ((name, data, _),) = here.receiver.attempts
        order.append((data["deviceId"], name))
        here.receiver.finish()
    assert order == [
        (EXT, "OriginatedEvent"),
        (EXT, "DeliveredEvent"),
        (OTHER, "DeliveredEvent"),
        (OTHER, "ConnectionClearedEvent"),
        (EXT, "ConnectionClearedEvent"),
    ]


def test_a_message_that_is_refused(place):
    """It is tried again, with pauses that double; its call waits, others do not."""
    here = place()
    refused = []

    def post(message_id, body, post=here.receiver.post):
        here.receiver.reply = Reply()
        if json.loads(body)["data"]["callId"] == 1:
            here.receiver.reply = NO
            refused.append(here.clock.seconds() - NOW)
        return post(message_id, body)

    here.receiver.post = post
    here.happen(1)
    here.happen(1, name="ConnectionClearedEvent")
    for _ in range(70):
        # The receiver itself is well.
        here.happen(2)
        here.turn(1)
    assert [round(at) for at in refused] == [0, 1, 3, 7, 15, 31, 63]
    assert set(calls(here.receiver)[1:]) == {1, 2}
    assert not here.hook.in_trouble
    assert {name for name, data in here.receiver.taken if data["callId"] == 1} == {"DeliveredEvent"}


def test_a_receiver_that_is_down(place):
    """It is asked by one message at a time, each minute at least; once it is back, by all."""
    here = place({"parallel": 8})
    here.receiver.reply = NO
    with capturedLogs() as logged:
        for call in range(20):
            here.happen(call)
        here.turn()
        # All that were under way together are one failure of the receiver's.
        first = len(here.receiver.taken)
        assert first <= 8
        here.clock.pump([1] * 3600)
        asked = len(here.receiver.taken) - first
        assert 60 <= asked <= 70
        assert here.hook.in_trouble
        assert here.hook.error == "the receiver answered 500"
        assert warnings(logged) == ["webhook {name} fails: {error}"]
        here.receiver.reply = Reply()
        here.turn(61)
        assert here.hook.delivered == 20
        assert here.hook.failing_since is None
        assert [each["log_format"] for each in logged][-1] == "webhook {name} works again"


def test_failures_at_the_same_time(place):
    """What was under way together and fails is one trouble: the first pause is a second."""
    here = place({"parallel": 8})
    here.receiver.reply = None
    for call in range(8):
        here.happen(call)
    here.turn()
    assert len(here.receiver.attempts) == 8
    here.receiver.reply = NO
    while here.receiver.attempts:
        here.receiver.finish(0, NO)
    here.turn()
    assert len(here.receiver.taken) == 8
    here.turn(1.1)
    assert len(here.receiver.taken) == 9


def test_the_id_stays(place):
    """Each message has an id of its own, the same each time that it is tried."""
    here = place()
    here.receiver.reply = NO
    here.happen(1)
    here.turn(10)
    here.receiver.reply = Reply()
    here.happen(2)
    here.turn(400)
    assert len(here.receiver.ids) > 4
    assert len(set(here.receiver.ids)) == 2


def test_retry_after(place):
    """A receiver that asks for a pause gets it, for all messages."""
    here = place()
    here.receiver.reply = Reply(error="the receiver answered 429", retry_after=120.0)
    here.happen(1)
    here.turn()
    here.receiver.reply = Reply()
    here.happen(2)
    here.turn(119)
    assert calls(here.receiver) == [1]
    here.turn(7)
    assert calls(here.receiver) == [1, 1, 2]


@pytest.mark.parametrize("pause", [None, 1800.0])
def test_a_pause_and_a_clock_that_is_set_back(place, pause):
    """A pause is over when the clock is set back, lest it last for as long as that was."""
    hook = place().hook
    for _ in range(3):
        hook.fail(Reply(error="no", retry_after=pause), NOW, 1.0)
    assert hook.room(NOW + 0.5) == 0
    assert hook.room(NOW - 600) > 0
    assert hook.pause_left(NOW - 600) == 0


def test_gone(place):
    """A receiver that wants nothing any more gets nothing; what waited becomes dead letters."""
    here = place()
    here.receiver.reply = Reply(error="the receiver answered 410", gone=True)
    here.happen(1)
    here.happen(1)
    with capturedLogs() as logged:
        here.turn()
    assert warnings(logged)[0] == "the receiver of webhook {name} wants no more: disabled"
    here.happen(2)
    here.turn(3600)
    assert calls(here.receiver) == [1]
    (status,) = result_of(here.webhooks.status())
    assert (status.state, status.since, status.dead, status.queued) == ("disabled", NOW, 2, 0)
    here.receiver.reply = Reply()
    assert result_of(here.webhooks.enable("h0")) == 1
    here.turn()
    here.happen(3)
    here.turn()
    gap, delivered = here.receiver.taken[1:]
    assert gap == ("gap", {"reason": "disabled", "since": "2017-09-14T17:59:56.000Z"})
    assert delivered[1]["callId"] == 3


def test_what_a_webhook_hears_of(place):
    """Topics, events and extensions choose; gaps come to whoever may have lost something."""
    here = place(
        {},
        {"events": ("DeliveredEvent", "status"), "extensions": (EXT,)},
        {"events": ("contacts",)},
        {"events": ("ContactEvent", "status")},
    )
    gap = encode_gap("mx-down", NOW)
    for ext in (EXT, OTHER):
        here.happen(ext=ext)
        here.happen(ext=ext, name="HeldEvent")
        here.webhooks.event(None, ext, "gap", gap)
    here.webhooks.event(None, None, "gap", gap)
    here.webhooks.event(Topic.STATUS, None, "status", b'{"mx":"up"}')
    here.webhooks.event(Topic.CONTACTS, None, "ContactEvent", b'{"contact":{"jid":"1"}}')
    here.webhooks.event(Topic.CONTACTS, None, "gap", gap)
    here.turn()
    told = [
        sorted((name, *map(str, data.values())) for name, data in receiver.taken)
        for receiver in here.receivers
    ]
    since = "2017-09-14T17:59:56.000Z"
    own, others, all_ = (("gap", "mx-down", since, *ext) for ext in ((EXT,), (OTHER,), ()))
    calls_of = {
        ext: [(name, "1", ext) for name in ("DeliveredEvent", "HeldEvent")] for ext in (EXT, OTHER)
    }
    contact = ("ContactEvent", "{'jid': '1'}")
    contacts = ("gap", "mx-down", since, "contacts")
    status = ("status", "up")
    assert told[0] == sorted([*calls_of[EXT], *calls_of[OTHER], own, others, all_])
    assert told[1] == sorted([calls_of[EXT][0], own, all_, status])
    assert told[2] == sorted([contact, contacts, all_])
    assert told[3] == sorted([contact, contacts, all_, status])


def test_streams_first(place):
    """In a turn of the reactor, the streams have their events before the disk is asked at all."""
    here = place()
    here.turn()
    order = []

    class Stream:
        def send(self, data):
            order.append("stream")

        def end(self):
            pass

    hub = Hub(
        here.clock.seconds,
        lambda *_: b"x",
        encode_gap,
        16,
        later=lambda act: here.clock.callLater(0, act),
    )
    hub.observe(here.webhooks)
    hub.open(EXT)
    hub.subscribe(EXT, Stream(), None)
    here.disk.slow = True
    run = here.disk.run
    here.disk.run = lambda job: order.append("disk") or run(job)
    for call in range(3):
        hub.publish(EXT, "DeliveredEvent", b'{"callId":%d}' % call)
    assert order == []
    here.clock.advance(0)
    assert order == ["stream", "disk"]


def test_a_disk_that_hangs(place, monkeypatch):
    """Events wait in memory, up to a bound; then they are dropped, and a gap tells of it."""
    monkeypatch.setattr(dispatch, "MAX_WAITING", 10)
    here = place()
    here.turn()
    here.disk.slow = True
    with capturedLogs() as logged:
        for call in range(3):
            here.happen(call)
        here.turn()
        # A round holds the first; it counts until it is done.
        for call in range(3, 15):
            here.happen(call)
            here.turn()
    assert here.hook.dropped == 5
    assert warnings(logged) == ["events for webhooks are dropped: the disk does not keep up"]
    here.disk.slow = False
    here.disk.catch_up()
    here.turn()
    gap, rest = here.receiver.taken[-1], here.receiver.taken[:-1]
    assert [data["callId"] for _, data in rest] == list(range(10))
    assert gap[0] == "gap"
    assert (gap[1]["reason"], gap[1]["dropped"]) == ("queue-full", 5)
    here.happen(99)
    here.turn()
    assert here.receiver.taken[-1][1]["callId"] == 99


def test_many_bytes(place, monkeypatch):
    """The bound in memory is one of bytes, too."""
    monkeypatch.setattr(dispatch, "MAX_WAITING_BYTES", 1000)
    here = place()
    here.disk.slow = True
    for call in range(3):
        here.happen(call, callingDevice="1" * 400)
    assert here.hook.dropped == 1


def test_a_disk_that_fails(place):
    """A full disk is tried again, seldom, and told once; then all goes on, and nothing is lost."""
    here = place()
    here.receiver.reply = None
    here.happen(1)
    here.turn()
    here.disk.broken = True
    before = here.disk.rounds
    with capturedLogs() as logged:
        here.receiver.finish()
        for call in range(2, 5):
            here.happen(call)
            here.turn(20)
        assert warnings(logged) == ["the queue of webhooks cannot be used: {error}"]
        assert here.disk.rounds - before <= 10
        here.receiver.reply = Reply()
        here.disk.broken = False
        here.turn(31)
    assert logged[-1]["log_format"] == "the queue of webhooks can be used again"
    assert calls(here.receiver) == [1, 2, 3, 4]
    assert here.hook.state.queued == 0


def test_a_full_queue(place):
    """What finds no room in the queue is counted and told once, whatever streams get."""
    here = place(max_queued=5)
    here.receiver.reply = NO
    with capturedLogs() as logged:
        for call in range(20):
            here.happen(call)
            here.turn()
    assert here.hook.dropped == 15
    assert here.hook.state.queued == 5
    full = "the queue of webhook {name} is full, events are dropped"
    assert warnings(logged).count(full) == 1
    here.receiver.reply = Reply()
    here.turn(301)
    assert here.receiver.taken[-1][1]["dropped"] == 15


def test_too_old(place):
    """A message that is never taken is given up in the end, told in the log, and counted."""
    here = place(max_age=60.0)
    here.receiver.reply = NO
    here.happen(1)
    with capturedLogs() as logged:
        here.turn(200)
    assert "webhook {name}: {count} messages are given up" in warnings(logged)
    assert (here.hook.died, here.hook.state.dead, here.hook.state.queued) == (1, 1, 0)
    (status,) = result_of(here.webhooks.status())
    assert status.letters[0].error == "the receiver answered 500"
    assert (status.name, status.url, status.state) == ("h0", "https://crm.example.com", "failing")
    here.receiver.reply = Reply()
    assert result_of(here.webhooks.retry("h0", None)) == 1
    here.turn()
    assert (here.hook.delivered, here.hook.state.dead) == (1, 0)
    assert result_of(here.webhooks.discard("h0", None)) == 0


def test_retry_ends_the_pause(place):
    """Who asks for it has everything tried at once, not after the pause."""
    here = place()
    here.receiver.reply = NO
    for call in range(5):
        here.happen(call)
    here.turn(600)
    here.receiver.reply = Reply()
    here.turn()
    assert here.hook.delivered == 0
    assert result_of(here.webhooks.retry("h0", None)) == 0
    here.turn()
    assert here.hook.delivered == 5


def test_who_asks_is_answered(place):
    """A name that there is not, and a disk that does not answer, are told."""
    here = place()
    with pytest.raises(BadRequest, match="there is no such webhook"):
        result_of(here.webhooks.retry("h1", None))
    here.turn()
    here.disk.slow = True
    failed = []
    Deferred.fromCoroutine(here.webhooks.status()).addErrback(failed.append)
    here.turn(5.1)
    assert failed[0].check(ServiceUnavailable)
    here.disk.slow, here.disk.broken = False, True
    with pytest.raises(ServiceUnavailable):
        result_of(here.webhooks.discard("h0", "msg_1"))


def test_no_webhooks(place):
    """Without webhooks there is no disk, no thread, and no timer."""
    here = place()
    nothing = Webhooks(here.clock, None, None, None, hooks=[])
    nothing.startService()
    nothing.event(Topic.CALLS, EXT, "DeliveredEvent", b"{}")
    assert result_of(nothing.status()) == []
    done = []
    nothing.stopService().addCallback(done.append)
    assert done


def test_the_end(place):
    """Attempts under way are given a moment, what has come is saved, and all is closed."""
    here = place()
    here.receiver.reply = None
    here.happen(1)
    here.happen(2)
    here.turn()
    here.happen(3)
    done = []
    here.webhooks.stopService().addCallback(done.append)
    here.receiver.finish(0)
    here.clock.pump([0.1] * 10)
    assert done
    assert here.disk.stopped
    assert here.receiver.hung_up == 1
    assert here.receiver.attempts == []
    assert not here.clock.getDelayedCalls()
    again = place()
    again.turn()
    assert calls(again.receiver) == [2, 3]
    assert again.receiver.taken[2][1]["reason"] == "restart"


def test_the_end_with_a_disk_that_hangs(place):
    """The daemon ends in time all the same."""
    here = place()
    here.turn()
    here.disk.slow = True
    here.happen(1)
    with capturedLogs() as logged:
        here.stop()
    assert warnings(logged) == ["the queue of webhooks was not closed in time"]


def test_nothing_is_begun_at_the_end(place):
    """What a round gives that was under way at the end is not sent any more, but kept."""
    here = place()
    here.turn()
    here.disk.slow = True
    here.happen(1)
    here.turn()
    here.webhooks.stopService()
    here.disk.slow = False
    here.disk.catch_up()
    here.turn(1)
    assert calls(here.receiver) == []
    again = place()
    again.turn()
    assert calls(again.receiver) == [1]


def test_a_bug_in_a_round(place):
    """What a round cannot deal with is told as missing, and stops nothing that comes later."""
    here = place()
    here.turn()
    with capturedLogs() as logged:
        here.webhooks.event(Topic.CALLS, EXT, "DeliveredEvent", b"no JSON")
        here.turn()
        here.happen(2)
        here.turn(31)
    assert "a round of webhooks failed by a bug" in warnings(logged)
    assert calls(here.receiver) == [2]
    assert any(data.get("reason") == "queue-full" for _, data in here.receiver.taken)


def test_a_bug_in_a_round_that_tells_of_losses(place, monkeypatch):
    """What is missing already, for lack of room, is not forgotten by a round that fails."""
    monkeypatch.setattr(dispatch, "MAX_WAITING", 1)
    here = place()
    here.turn()
    here.disk.slow = True
    here.happen(1)
    here.turn()
    here.happen(2)
    with monkeypatch.context() as broken, capturedLogs():
        here.disk.catch_up()
        broken.setattr(Queue, "exchange", lambda *_: 1 / 0)
        here.turn()
        here.disk.catch_up()
    here.disk.slow = False
    here.turn(31)
    here.happen(3)
    here.turn()
    gaps = [data for name, data in here.receiver.taken if name == "gap"]
    assert [gap["dropped"] for gap in gaps] == [1]
    assert calls(here.receiver)[-1] == 3


def test_figures(place):
    """It is measured how long it takes from an event until the receiver has it."""
    here = place()
    here.receiver.reply = None
    here.happen(1)
    here.turn(3)
    here.receiver.finish()
    assert here.hook.durations.total == pytest.approx(3)
    here.turn()
    assert attrs.asdict(here.hook.state)["queued"] == 0


def use(here, *hooks, **delivery):
    """Reload: these webhooks, each with a new receiver; give the receivers."""
    made = [(settings, Receiver()) for settings in hooks]
    here.webhooks.use(made, attrs.evolve(DeliverySettings(), **delivery))
    return [receiver for _, receiver in made]


def test_a_webhook_is_added(place):
    """It gets what happens from then on; those that are there go on, whatever they are at."""
    here = place()
    here.receiver.reply = None
    here.happen(1)
    here.turn()
    more = attrs.evolve(here.settings[0], name="more")
    unused, added = use(here, here.settings[0], more)
    here.happen(2)
    here.turn()
    assert calls(added) == [2]
    assert calls(here.receiver) == [1, 2]
    assert calls(unused) == []
    assert here.receiver.hung_up == 0
    here.stop()


def test_the_first_webhook(place):
    """Also a daemon that began without any takes one in."""
    here = place()
    here.stop()
    webhooks = here.webhooks = Webhooks(
        here.clock, here.disk, here.queue, Writer(encode_webhook), hooks=[]
    )
    here.queue.use([], max_queued=1, max_age=1, max_dead=1)
    webhooks.startService()
    (added,) = use(here, here.settings[0])
    here.happen(1)
    here.turn()
    assert calls(added) == [1]
    here.stop()


def test_a_webhook_is_removed(place):
    """Nothing goes out to it any more, and what is under way is broken off; it may come back."""
    here = place({}, {})
    here.receiver.reply = None
    here.happen(1)
    here.turn()
    here.happen(2)
    with capturedLogs() as logged:
        use(here, here.settings[1])
        here.happen(3)
        here.turn()
    assert calls(here.receiver) == [1]
    assert here.receiver.attempts == []
    assert calls(here.receivers[1]) == [1, 2, 3]
    assert list(here.webhooks.hooks) == ["h1"]
    assert warnings(logged) == [
        "{count} messages wait for webhook {name}, which is not in the configuration"
    ]
    back, _ = use(here, *here.settings)
    here.turn()
    assert calls(back) == [1]
    here.stop()


def test_removed_while_the_queue_is_at_work(place):
    """What the queue gives of a webhook that has gone meanwhile is not sent."""
    here = place({}, {})
    here.disk.slow = True
    here.happen(1)
    here.turn()
    use(here, here.settings[1])
    here.happen(2)
    for _ in range(3):
        here.disk.catch_up()
        here.turn()
    assert calls(here.receiver) == []
    assert calls(here.receivers[1]) == [1, 2]
    here.disk.slow = False
    here.stop()


def test_a_webhook_is_changed(place):
    """What waits goes to the new receiver at once; the old one's last word counts for nothing."""
    here = place({"parallel": 2})
    here.receiver.reply = NO
    for call in (1, 2, 3):
        here.happen(call)
    here.turn(30)
    assert here.hook.in_trouble
    here.receiver.reply = None
    here.turn(60)
    assert len(here.receiver.attempts) == 1
    failed = here.hook.failed
    changed = attrs.evolve(here.settings[0], url="https://other.example.com/")
    (new,) = use(here, changed)
    here.turn()
    assert len(new.taken) == 2
    here.receiver.finish(0, Reply(error="the receiver answered 410", gone=True))
    here.turn()
    assert sorted(calls(new)) == [1, 2, 3]
    assert here.hook.state.disabled is None
    assert (here.hook.delivered, here.hook.failed, here.hook.state.queued) == (3, failed, 0)
    here.stop()
