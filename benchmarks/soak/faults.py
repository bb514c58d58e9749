"""The ways in which the MX fails, one in each minute, in turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.task import deferLater

from benchmarks.soak.handover import Handover
from mxflex.simulator.faults import MALFORMED, CommandFault
from mxflex.simulator.server import SimulatedMX
from mxflex.simulator.session import SERVER, Session
from mxflex.wire.messages import LoggedOut

# How long each of the longer failures lasts, in seconds.
REFUSING, HANGING, CLOSING, RESTARTING = 8.0, 10.0, 5.0, 3.0
# What was written is with the kernel after this time, in seconds.
FLUSHING = 0.1
# How late the MX answers, and how many answers it owes for good.
LATE = 3.0
UNANSWERED = 4
# MXFlex comes back at most so many seconds after the MX has: the longest wait between two tries is
# five, and a try that an MX does not answer ends after seven.
BACK = 15.0
# A peer that has gone silent is asked after thirty seconds, and given seven to answer. A monitor
# that was not answered is asked for again after seven and thirty, and then once more.
SILENCE_NOTICED, MONITORS_RETRIED = 50.0, 60.0


class FailingMX(SimulatedMX):
    """An MX whose server connections end for reasons that are known.

    Attributes:
        handovers: For each server account, what was handed over to it.
        unforeseen: Server connections that ended though nothing was done to them.
    """

    def __init__(self, reactor: Any, *arguments: Any) -> None:
        super().__init__(reactor, *arguments)
        self.handovers = {account.login: Handover() for account in self.company.accounts}
        self.unforeseen = 0
        self._struck: set[Session] = set()
        self._shift = 0

    def servers(self) -> list[Session]:
        """Give the living connections of servers."""
        return [session for session in self.sessions if session.type == SERVER]

    def covers(self, account: str, ext: str) -> bool:
        """Tell whether a server has a living connection with a monitor of the extension."""
        return any(
            session.login == account and ext in session.monitors.values()
            for session in self.servers()
        )

    def strike(self, *, cut: bool = False) -> list[Session]:
        """Give the connections of servers, which are going to end; tell whether by force."""
        struck = self.servers()
        self._struck.update(struck)
        if cut:
            for handover in self.handovers.values():
                handover.cut(self.clock.seconds())
        return struck

    def shift_monitor_ids(self) -> None:
        """Let new connections get, for one extension, the id that another had before."""
        self._shift += 1

    def take_monitor_id(self, session: Session) -> str:
        return str(int(super().take_monitor_id(session)) + self._shift)

    def session_ended(self, session: Session) -> None:
        if session.type == SERVER and session not in self._struck:
            self.unforeseen += 1
        self._struck.discard(session)
        super().session_ended(session)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await deferLater(self.clock, seconds)


async def _close(mx: FailingMX) -> None:
    struck = mx.strike()
    for session in struck:
        session.is_closing = True
    # TLS keeps small writes until the next turn of the reactor. They are to be on their way.
    await mx.sleep(FLUSHING)
    for session in struck:
        session.drop()


async def _reset(mx: FailingMX) -> None:
    for session in mx.strike(cut=True):
        session.reset()


async def _fall_silent(mx: FailingMX) -> None:
    # The connection stays, and nothing is read from it or written to it any more.
    for session in mx.strike():
        session.is_closing = True


async def _log_out(mx: FailingMX) -> None:
    for session in mx.strike():
        session.send_event(LoggedOut(mode="normal"))
        session.close()


async def _break_protocol(mx: FailingMX) -> None:
    for session in mx.strike():
        session.send_raw(MALFORMED["length 0"])
        session.is_closing = True


async def _refuse(mx: FailingMX) -> None:
    await mx.refuse_connections()
    await _close(mx)
    await mx.sleep(REFUSING)
    mx.accept_connections()


async def _hang_in_tls(mx: FailingMX) -> None:
    mx.faults.hang_in_tls = True
    await _reset(mx)
    await mx.sleep(HANGING)
    mx.faults.hang_in_tls = False


async def _close_on_connect(mx: FailingMX) -> None:
    await _close_while(mx, "close_on_connect")


async def _close_at_login(mx: FailingMX) -> None:
    await _close_while(mx, "close_at_login")


async def _close_while(mx: FailingMX, fault: str) -> None:
    setattr(mx.faults, fault, True)
    await _close(mx)
    await mx.sleep(CLOSING)
    setattr(mx.faults, fault, False)


async def _restart(mx: FailingMX) -> None:
    assert mx.address is not None
    for session in mx.strike(cut=True):
        # It takes a turn to stop, and nothing may be written meanwhile.
        session.is_closing = True
    await mx.stop()
    await mx.sleep(RESTARTING)
    mx.shift_monitor_ids()
    mx.accept_connections()


async def _answer_late(mx: FailingMX) -> None:
    mx.faults.set("MonitorStart", CommandFault(delay=LATE))
    await _close(mx)
    await mx.sleep(2 * LATE)
    mx.faults.clear("MonitorStart")


async def _leave_monitors_unanswered(mx: FailingMX) -> None:
    mx.faults.set("MonitorStart", CommandFault(ignored=True, times=UNANSWERED))
    await _close(mx)


@attrs.frozen
class Failing:
    """A way to fail.

    Attributes:
        name: What the MX does.
        act: Does it, and gives when the MX is itself again.
        back: Within so many seconds from then on all monitors must run again.
    """

    name: str
    act: Callable[[FailingMX], Awaitable[None]]
    back: float = BACK


FAILINGS = (
    Failing("closes its connections", _close),
    Failing("resets its connections", _reset),
    Failing("refuses connections for 8 s", _refuse),
    Failing("goes silent, connections stay", _fall_silent, SILENCE_NOTICED),
    Failing("hangs in TLS for 10 s", _hang_in_tls),
    Failing("says Logout", _log_out),
    Failing("restarts, with other monitor ids", _restart),
    Failing("breaks the protocol", _break_protocol),
    Failing("answers 3 s late", _answer_late),
    Failing("closes new connections for 5 s", _close_on_connect),
    Failing("leaves monitors unanswered", _leave_monitors_unanswered, MONITORS_RETRIED),
    Failing("closes at the login for 5 s", _close_at_login),
)
