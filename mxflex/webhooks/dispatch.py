"""What is sent when: from the hub into the queue, and from there to the receivers.

The work is done in rounds. Each takes what has come since the one before, and how attempts went,
into the queue in one transaction, and gets what can be sent now; the disk has a thread of its own.
The hub waits for none of it: for its sake an event is only put into a list.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.config import DeliverySettings, WebhookSettings
from mxflex.disk import Worker
from mxflex.errors import BadRequest, ServiceUnavailable, StorageError
from mxflex.gateway.hub import GAP, Topic
from mxflex.measures import DELIVERY_BOUNDS, Durations
from mxflex.mx.backoff import Backoff, pause_after
from mxflex.webhooks.delivery import BROKEN_OFF, Receiver, Reply
from mxflex.webhooks.message import Occurrence, Writer
from mxflex.webhooks.queue import DeadLetter, Failed, HookState, Queue, Queued, Result, Round

log = Logger()

_T = TypeVar("_T")

# A message that was not taken is tried again after a pause that grows from the first to the second.
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 300.0
# After so many failures on end it is the receiver, and not one message, that is at fault: then one
# attempt at a time is made, with pauses between them that grow to this.
TROUBLE = 3
MAX_PAUSE_SECONDS = 60.0
# Events that may wait in memory for the disk, and their bytes; what comes beyond is dropped.
MAX_WAITING = 5000
MAX_WAITING_BYTES = 8 * 1024 * 1024
# A disk that fails is tried again after a pause that grows from the first to the second.
DISK_SECONDS = 0.5
MAX_DISK_SECONDS = 30.0
# How long whoever asks by the API waits for the disk.
ANSWER_SECONDS = 5.0
# What the end of the daemon may take here: attempts under way, then the last transaction.
LAST_ATTEMPTS_SECONDS = 0.3
LAST_ROUND_SECONDS = 0.5
# Dead letters that one answer lists for a webhook.
LISTED = 100
# The one event that belongs to no call and no state.
CONTACT_EVENT = "ContactEvent"


@attrs.frozen(kw_only=True)
class HookStatus:
    """How a webhook stands, for those who look after the daemon.

    Attributes:
        name, url: Whose it is; of the URL scheme, host and port alone.
        state: `ok`, `failing`, or `disabled` when the receiver wants nothing any more.
        since: Since when it is failing or disabled, in seconds since the epoch; None when it is ok.
        error: Why the latest attempt failed; "" when it did not.
        queued, under_way: Messages that wait, and those of them that are being sent.
        delivered, failed, dropped: Since the start: messages that the receiver has, attempts that
            failed, and messages for which there was no room.
        dead: Messages that were given up, and are kept.
        letters: The oldest of them.
    """

    name: str
    url: str
    state: str
    since: float | None
    error: str
    queued: int
    under_way: int
    delivered: int
    failed: int
    dropped: int
    dead: int
    letters: list[DeadLetter]


class Hook:
    """One webhook, as far as it is in memory.

    Args:
        settings: What the configuration says of it.
        receiver: Where its messages go.

    Attributes:
        busy: The attempts under way, by the number of the message.
        failures: How many attempts have failed on end.
        failing_since: When the first of them was, in seconds since the epoch.
        error: Why the latest attempt failed; "" when it did not.
        state: How its queue stood after the latest round.
        delivered: Messages that the receiver has, since the start.
        failed: Attempts that failed.
        dropped: Messages for which there was no room.
        died: Messages that were given up.
        durations: How long it took from an event until the receiver had it.
    """

    def __init__(self, settings: WebhookSettings, receiver: Receiver) -> None:
        self.use(settings, receiver)
        self.busy: dict[int, Deferred[Reply]] = {}
        self.failures = 0
        self.failing_since: float | None = None
        self.error = ""
        # From when to when nothing is sent.
        self._pause_began = self._pause_ends = 0.0
        self.state = HookState()
        self.delivered = self.failed = self.dropped = self.died = 0
        self.durations = Durations(DELIVERY_BOUNDS)

    def use(self, settings: WebhookSettings, receiver: Receiver) -> None:
        """Be for these settings from now on."""
        self.settings = settings
        self.receiver = receiver
        events = frozenset(settings.events)
        self._events = events
        # Whoever wants to hear of one event hears where events of its kind are missing.
        self._hears_contacts = bool(events & {Topic.CONTACTS.value, CONTACT_EVENT})
        self._hears_calls = bool(events - {Topic.CONTACTS.value, CONTACT_EVENT, Topic.STATUS.value})
        extensions = settings.extensions
        self._extensions = None if extensions is None else frozenset(extensions)

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self.settings.name

    @property
    def in_trouble(self) -> bool:
        """Whether the receiver itself is at fault, as far as one can tell."""
        return self.failures >= TROUBLE

    def wants(self, topic: Topic | None, ext: str | None, name: str) -> bool:
        """Tell whether an event is for this webhook."""
        if ext is not None and self._extensions is not None and ext not in self._extensions:
            return False
        if name != GAP:
            return name in self._events or (topic is not None and topic.value in self._events)
        if ext is not None:
            return self._hears_calls
        return topic is None or self._hears_contacts

    def room(self, now: float) -> int:
        """Give how many messages more may be sent now."""
        if self.pause_left(now):
            return 0
        limit = 1 if self.in_trouble else self.settings.parallel
        return max(0, limit - len(self.busy))

    def pause_left(self, now: float) -> float:
        """Give for how many seconds nothing is sent any more; 0 outside of pauses."""
        # One that has yet to begin is from before the clock was set back.
        return self._pause_ends - now if self._pause_began <= now < self._pause_ends else 0.0

    def _pause_for(self, seconds: float, now: float) -> None:
        if seconds > self.pause_left(now):
            self._pause_began, self._pause_ends = now, now + seconds

    def succeed(self, seconds: float) -> None:
        """Count a message that the receiver has, so long after its event."""
        self.delivered += 1
        self.durations.add(seconds)
        self.failures = 0
        self.failing_since = None
        self.error = ""
        self._pause_ends = 0.0

    def fail(self, reply: Reply, now: float, chance: float) -> None:
        """Count an attempt that failed, and pause if it is not the message that is at fault."""
        self.failed += 1
        self.error = reply.error
        if self.failing_since is None:
            self.failing_since = now
        # Attempts that were under way when the pause began say nothing new.
        if not self.pause_left(now):
            self.failures += 1
            if self.in_trouble:
                tries = self.failures - TROUBLE
                self._pause_for(pause_after(tries, RETRY_SECONDS, MAX_PAUSE_SECONDS, chance), now)
        if reply.retry_after is not None:
            self._pause_for(reply.retry_after, now)

    def try_at_once(self) -> None:
        """End the pause, if there is one."""
        self.failures = min(self.failures, TROUBLE - 1)
        self._pause_ends = 0.0


@attrs.define
class _News:
    """What the next round takes to the queue; see `Round`."""

    waiting: list[Occurrence] = attrs.field(factory=list)
    waiting_bytes: int = 0
    lost: Counter[str] = attrs.field(factory=Counter)
    delivered: list[int] = attrs.field(factory=list)
    failed: list[Failed] = attrs.field(factory=list)
    gone: list[str] = attrs.field(factory=list)
    recovered: list[str] = attrs.field(factory=list)

    def before(self, other: _News) -> _News:
        """Give both, this one first."""
        return _News(
            self.waiting + other.waiting,
            self.waiting_bytes + other.waiting_bytes,
            self.lost + other.lost,
            self.delivered + other.delivered,
            self.failed + other.failed,
            self.gone + other.gone,
            self.recovered + other.recovered,
        )


class Webhooks(Service):
    """Takes events from the hub (see `mxflex.gateway.hub.Observer`) to receivers elsewhere.

    Args:
        clock: Gives the time, in seconds since the epoch, and delayed calls.
        disk: Does what may wait for the disk.
        queue: The queue; used by way of `disk` alone.
        writer: Makes messages of events; likewise.
        hooks: The webhooks.
        chance: Gives a number from 0 to 1, by which pauses differ.

    Attributes:
        hooks: The webhooks by name.
    """

    name = "webhooks"

    def __init__(
        self,
        clock: IReactorTime,
        disk: Worker,
        queue: Queue,
        writer: Writer,
        *,
        hooks: Iterable[Hook],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._queue = queue
        self._writer = writer
        self.hooks = {hook.name: hook for hook in hooks}
        self._chance = chance
        self._news = _News()
        # What a round under way has taken out of the news: it waits until it is saved.
        self._in_round = _News()
        self._working: Deferred[None] | None = None
        self._nap: Deferred[None] | None = None
        self._woken = False
        self._disk_waits = Backoff(DISK_SECONDS, MAX_DISK_SECONDS, chance)
        self._disk_trouble = ""
        self._full = False

    def use(
        self, hooks: Iterable[tuple[WebhookSettings, Receiver]], delivery: DeliverySettings
    ) -> None:
        """Have these webhooks from now on, and these bounds.

        One that was there by its name, with the same settings, goes on as if nothing had been. With
        others it is tried at once, and what waits goes where it leads now. To one that is not among
        them nothing goes out any more.

        Args:
            hooks: What the configuration says of each, and where its messages go.
            delivery: See `Queue.use`; another file takes a restart.
        """
        if not self.running:
            return
        before, self.hooks = self.hooks, {}
        for settings, receiver in hooks:
            hook = before.pop(settings.name, None)
            if hook is None:
                hook = Hook(settings, receiver)
                log.info("webhook {name} is added", name=hook.name)
            elif hook.settings != settings:
                hook.receiver.hang_up()
                hook.use(settings, receiver)
                hook.try_at_once()
                self._news.recovered.append(hook.name)
                log.info("webhook {name} is changed", name=hook.name)
            self.hooks[hook.name] = hook
        for hook in before.values():
            log.info("webhook {name} is removed", name=hook.name)
            for attempt in tuple(hook.busy.values()):
                attempt.cancel()
            hook.receiver.hang_up()
        change = partial(
            self._queue.use,
            [hook.settings for hook in self.hooks.values()],
            max_queued=delivery.max_queued,
            max_age=delivery.max_age,
            max_dead=delivery.max_dead,
        )
        # In the thread of the queue; whatever else it is asked for comes behind.
        self._disk.run(change).addErrback(self._bug)
        self._begin()
        self._wake()

    # --- What happens -------------------------------------------------------------------------

    def event(self, topic: Topic | None, ext: str | None, name: str, data: bytes) -> None:
        """Take an event for whom it is; it takes no time to speak of, whatever receivers do."""
        hooks = tuple(each.name for each in self.hooks.values() if each.wants(topic, ext, name))
        if not hooks:
            return
        if not self._has_room(len(data)):
            self._lose(hooks)
            return
        occurrence = Occurrence(self._clock.seconds(), topic, ext, name, data, hooks)
        self._news.waiting.append(occurrence)
        self._news.waiting_bytes += len(data)
        self._wake()

    def _has_room(self, size: int) -> bool:
        """Tell whether one more event may wait in memory for the disk."""
        count = len(self._news.waiting) + len(self._in_round.waiting)
        held = self._news.waiting_bytes + self._in_round.waiting_bytes
        room = count < MAX_WAITING and held + size <= MAX_WAITING_BYTES
        if not room and not self._full:
            log.error("events for webhooks are dropped: the disk does not keep up")
        self._full = not room
        return room

    def _lose(self, hooks: Iterable[str]) -> None:
        for name in hooks:
            self._news.lost[name] += 1
            # It may have been taken out since.
            if name in self.hooks:
                self.hooks[name].dropped += 1

    # --- Life ---------------------------------------------------------------------------------

    def startService(self) -> None:
        """Begin to send; what was left from before comes first."""
        Service.startService(self)
        self._begin()

    def _begin(self) -> None:
        if self.hooks and self._working is None:
            self._working = Deferred.fromCoroutine(self._work())

    def stopService(self) -> Deferred[None]:
        """Save what has come; attempts under way may end, for a moment."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._working is None:
            return
        attempts = [each for hook in self.hooks.values() for each in hook.busy.values()]
        if attempts:
            ended: Deferred[Any] = DeferredList(attempts)
            await ended.addTimeout(LAST_ATTEMPTS_SECONDS, self._clock, lambda *_: None)
            for attempt in attempts:
                attempt.cancel()
        for hook in self.hooks.values():
            hook.receiver.hang_up()
        self._end_nap()
        saving = Deferred.fromCoroutine(self._save(self._working))
        await saving.addTimeout(LAST_ROUND_SECONDS, self._clock, _not_saved)

    async def _save(self, working: Deferred[None]) -> None:
        await working
        await self._round({})
        await self._disk.run(partial(self._queue.close, self._clock.seconds()))
        self._disk.stop()

    @property
    def queue_usable(self) -> bool:
        """Whether the latest use of the queue went well; what comes waits in memory else."""
        return not self._disk_trouble

    # --- Rounds -------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Have a round at the end of this turn of the reactor, or behind the one under way."""
        if not self._woken:
            self._woken = True
            # A disk that fails is left alone for a while, whatever comes.
            if self._nap is not None and not self._disk_trouble:
                self._clock.callLater(0, self._end_nap)

    def _end_nap(self) -> None:
        nap, self._nap = self._nap, None
        if nap is not None:
            nap.callback(None)

    async def _work(self) -> None:
        """Have rounds for as long as the service runs."""
        while self.running:
            self._woken = False
            now = self._clock.seconds()
            pause = await self._round({name: hook.room(now) for name, hook in self.hooks.items()})
            if self.running and (self._disk_trouble or not self._woken):
                await self._sleep(pause)

    async def _sleep(self, seconds: float | None) -> None:
        nap: Deferred[None] = Deferred()
        self._nap = nap
        alarm = None if seconds is None else self._clock.callLater(seconds, self._end_nap)
        await nap
        if alarm is not None and alarm.active():
            alarm.cancel()

    async def _round(self, wanted: Mapping[str, int]) -> float | None:
        """Have one, and give in how many seconds the next is due; None if there is no need."""
        now = self._clock.seconds()
        news, self._news = self._news, _News()
        self._in_round = news
        busy = frozenset(seq for hook in self.hooks.values() for seq in hook.busy)
        try:
            result = await self._disk.run(partial(self._exchange, now, news, wanted, busy))
        except StorageError as error:
            self._news = news.before(self._news)
            return self._disk_failed(error)
        except CancelledError:
            raise
        except Exception:
            # Not once more: what it was about is told as missing, and sent again as far as it was.
            log.failure("a round of webhooks failed by a bug")
            self._news.lost += news.lost
            for event in news.waiting:
                self._lose(event.hooks)
            return MAX_DISK_SECONDS
        finally:
            self._in_round = _News()
        self._disk_works()
        self._take(result)
        return self._next_round()

    def _exchange(
        self, now: float, news: _News, wanted: Mapping[str, int], busy: frozenset[int]
    ) -> Result:
        """Do the part of a round that waits for the disk; in its thread."""
        turn = Round(
            messages=[each for event in news.waiting for each in self._writer.write(event)],
            lost=news.lost,
            delivered=news.delivered,
            failed=news.failed,
            gone=news.gone,
            recovered=news.recovered,
            wanted=wanted,
            busy=busy,
        )
        return self._queue.exchange(now, turn)

    def _disk_failed(self, error: StorageError) -> float:
        if not self._disk_trouble:
            log.error("the queue of webhooks cannot be used: {error}", error=error)
        self._disk_trouble = str(error)
        return self._disk_waits.next()

    def _disk_works(self) -> None:
        if self._disk_trouble:
            log.info("the queue of webhooks can be used again")
        self._disk_trouble = ""
        self._disk_waits.reset()

    def _take(self, result: Result) -> None:
        """Take note of how the queue stands, and send what is ready."""
        for name, count in result.left.items():
            log.warn(
                "{count} messages wait for webhook {name}, which is not in the configuration",
                count=count,
                name=name,
            )
        for name, state in result.states.items():
            hook = self.hooks.get(name)
            if hook is None:
                # It was taken out while the queue was at work.
                continue
            if state.gap_since is not None and hook.state.gap_since is None:
                log.error("the queue of webhook {name} is full, events are dropped", name=name)
            hook.state = state
            hook.dropped += result.dropped[name]
            if result.died[name]:
                hook.died += result.died[name]
                log.warn(
                    "webhook {name}: {count} messages are given up", name=name, count=hook.died
                )
        for message in result.ready if self.running else ():
            if message.hook in self.hooks:
                self._send(self.hooks[message.hook], message)

    def _next_round(self) -> float | None:
        now = self._clock.seconds()
        waits = []
        for hook in self.hooks.values():
            state = hook.state
            if state.disabled is not None or state.queued <= len(hook.busy):
                continue
            pause = hook.pause_left(now)
            if pause:
                waits.append(pause)
            elif hook.room(now) and state.next_due is not None:
                waits.append(max(0.0, state.next_due - now))
        return min(waits, default=None)

    # --- Attempts -----------------------------------------------------------------------------

    def _send(self, hook: Hook, message: Queued) -> None:
        receiver = hook.receiver
        attempt = receiver.post(message.id, message.body)
        hook.busy[message.seq] = attempt
        attempt.addCallback(self._sent, hook, receiver, message)
        attempt.addErrback(self._bug)

    def _sent(self, reply: Reply, hook: Hook, receiver: Receiver, message: Queued) -> None:
        del hook.busy[message.seq]
        now = self._clock.seconds()
        if not reply.error:
            self._delivered(hook, message, now)
        elif receiver is not hook.receiver:
            # Says nothing of the one that it goes to now.
            self._news.failed.append(Failed(message.seq, reply.error, now))
        elif reply != BROKEN_OFF:
            self._failed(hook, message, reply, now)
        self._wake()

    def _delivered(self, hook: Hook, message: Queued, now: float) -> None:
        if hook.in_trouble:
            log.info("webhook {name} works again", name=hook.name)
            self._news.recovered.append(hook.name)
        hook.succeed(now - message.at)
        self._news.delivered.append(message.seq)

    def _failed(self, hook: Hook, message: Queued, reply: Reply, now: float) -> None:
        was_in_trouble = hook.in_trouble
        hook.fail(reply, now, self._chance())
        pause = pause_after(message.attempts, RETRY_SECONDS, MAX_RETRY_SECONDS, self._chance())
        due = now + max(pause, reply.retry_after or 0.0)
        self._news.failed.append(Failed(message.seq, reply.error, due))
        if reply.gone:
            log.error("the receiver of webhook {name} wants no more: disabled", name=hook.name)
            self._news.gone.append(hook.name)
        elif hook.in_trouble and not was_in_trouble:
            log.warn("webhook {name} fails: {error}", name=hook.name, error=reply.error)

    def _bug(self, failure: Failure) -> None:
        log.failure("an attempt of a webhook failed by a bug", failure)

    # --- For those who look after the daemon --------------------------------------------------

    async def status(self) -> list[HookStatus]:
        """Tell how each webhook stands.

        Raises:
            ServiceUnavailable: The disk does not answer.
        """
        now = self._clock.seconds()
        hooks = list(self.hooks.values())
        if not hooks:
            return []
        letters = await self._ask(
            lambda: [self._queue.dead_letters(hook.name, LISTED, now) for hook in hooks]
        )
        return [_status(hook, each) for hook, each in zip(hooks, letters, strict=True)]

    async def retry(self, name: str, message_id: str | None) -> int:
        """Send one dead letter, or all of a webhook, again, and all that waits at once.

        Returns:
            How many dead letters.

        Raises:
            BadRequest: There is no such webhook.
            ServiceUnavailable: The disk does not answer.
        """
        hook, now = self._hook(name), self._clock.seconds()
        count = await self._ask(lambda: self._queue.revive(name, message_id, now))
        hook.try_at_once()
        self._news.recovered.append(name)
        self._wake()
        return count

    async def discard(self, name: str, message_id: str | None) -> int:
        """Throw away one dead letter of a webhook, or all; as `retry`."""
        self._hook(name)
        now = self._clock.seconds()
        count = await self._ask(lambda: self._queue.discard(name, message_id, now))
        self._wake()
        return count

    async def enable(self, name: str) -> int:
        """Send events again to a receiver that wanted no more; as `retry`, gives 1 or 0."""
        hook, now = self._hook(name), self._clock.seconds()
        was_disabled = await self._ask(lambda: self._queue.enable(name, now))
        hook.try_at_once()
        self._wake()
        return int(was_disabled)

    def _hook(self, name: str) -> Hook:
        if name not in self.hooks:
            raise BadRequest("there is no such webhook")
        return self.hooks[name]

    async def _ask(self, job: Callable[[], _T]) -> _T:
        try:
            return await self._disk.run(job).addTimeout(ANSWER_SECONDS, self._clock)
        except (StorageError, WaitedTooLong) as error:
            text = "the queue of webhooks cannot be read"
            raise ServiceUnavailable(text, ANSWER_SECONDS) from error


def _not_saved(_result: object, _seconds: float) -> None:
    log.error("the queue of webhooks was not closed in time")


def _status(hook: Hook, letters: list[DeadLetter]) -> HookStatus:
    disabled = hook.state.disabled
    state = "ok" if hook.failing_since is None else "failing"
    return HookStatus(
        name=hook.name,
        url=hook.settings.site,
        state=state if disabled is None else "disabled",
        since=hook.failing_since if disabled is None else disabled,
        error=hook.error,
        queued=hook.state.queued,
        under_way=len(hook.busy),
        delivered=hook.delivered,
        failed=hook.failed,
        dropped=hook.dropped,
        dead=hook.state.dead,
        letters=letters,
    )
