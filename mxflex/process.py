"""The process around the daemon: how it stops, what it may open, and what it gives back."""

from __future__ import annotations

import ctypes
import resource

from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as StoppingTakesTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mxflex.gateway.admission import Admission

log = Logger()

# Files that are open beside the event streams: ports, the link, logins on their way to the MX,
# other requests.
OTHER_FILES = 512
# How often memory that is free is given back.
TRIM_SECONDS = 60.0


class InTurn(MultiService):
    """Stops its children one after the other, the last one first.

    `MultiService` itself lets them all stop at once.

    Args:
        clock: Gives delayed calls.
        seconds: How long that may take; those that have not had their turn by then are left.
    """

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds

    def stopService(self) -> Deferred[None]:
        """Stop them; one that fails does not keep the others."""
        Service.stopService(self)
        stopping = Deferred.fromCoroutine(self._stop())
        return stopping.addTimeout(self._seconds, self._clock).addErrback(self._cut_short)

    async def _stop(self) -> None:
        for child in reversed(list(self)):
            try:
                await maybeDeferred(child.stopService)
            except CancelledError:
                raise
            except Exception:
                log.failure("{name} did not stop in order", name=child.name or type(child).__name__)

    def _cut_short(self, failure: Failure) -> None:
        failure.trap(StoppingTakesTooLong)
        log.warn("the stop took too long and is cut short")


class OpenFiles(Service):
    """Lets the process have as many files open as the system lets it.

    The usual limit of 1024, which is there for the sake of select(2), would be the end of the
    thousandth stream. Where the system allows no more, fewer streams may be open: without a file
    for it there is neither an answer to a client nor a way back to the MX.

    Args:
        admission: Counts streams.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def startService(self) -> None:
        Service.startService(self)
        self._admission.max_streams = self.expect(self._admission.max_streams)

    def expect(self, max_streams: int) -> int:
        """Let so many streams be open, as far as that can be done, and give how many may."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            # What systemd's filter of system calls may forbid is not even tried without need.
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            except (ValueError, OSError) as error:
                log.warn("the limit of open files stays {files}: {error}", files=soft, error=error)
            else:
                soft = hard
        if soft == resource.RLIM_INFINITY or soft >= max_streams + OTHER_FILES:
            return max_streams
        may = min(max_streams, soft - min(OTHER_FILES, soft // 2))
        log.warn(
            "events.max_streams is {streams}, but with {files} files that this process may open"
            " it is {may}",
            streams=max_streams,
            files=soft,
            may=may,
        )
        return may


class SpareMemory(TimerService):
    """Gives memory that is free inside of the heap back to the system, once a minute.

    TLS connections that come and go leave holes in the heap of glibc, which keeps them for good:
    the process would grow for hours though nothing more is in use. It takes half a millisecond in a
    process of 100 MiB. Source: malloc_trim(3). Does nothing where there is no such function, and
    next to nothing where another malloc is preloaded.

    Args:
        clock: Gives the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        super().__init__(TRIM_SECONDS, trim or (lambda _keep: 0), 0)
        self.clock = clock
