"""`python -m benchmarks.soak`: an hour of everything at once, and the verdict."""

from __future__ import annotations

import argparse
import datetime as dt
import gzip
import http.client
import itertools
import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks.document import RESULTS
from benchmarks.machine import assert_same_mxflex, describe_machine, end_as_by_ctrl_c, say
from benchmarks.peers import connect, log_in, start_daemon, start_module
from benchmarks.plan import Transport
from benchmarks.processes import BenchmarkError, Program
from benchmarks.sample import ext_of
from benchmarks.soak import report
from benchmarks.soak.clients import Way
from benchmarks.soak.flatness import MINUTE
from benchmarks.soak.judging import (
    Measured,
    Verdict,
    judge_clients,
    judge_events,
    judge_link,
    judge_server,
)
from benchmarks.soak.selfcheck import check

# The extensions that are watched. The first one has many events, so that its history passes within
# half a minute and a slow reader owes too much within two.
EXTENSIONS = 20
BUSY_RATE, RATE = 15.0, 3.0
# People who log in beside them, with a monitor and no stream. Their histories, too, are full when
# the memory is judged.
OTHERS = 20
OTHER_RATE = 0.6
# Clients of each extension: 5,000 in all.
EACH = {Way.PLAIN: 200, Way.TLS: 35, Way.H2: 15}
SLOW = 8
# So many clients a second go and come back, or stop reading for a moment.
LEAVING, NAPPING = 20.0, 4.0
# Each server is asked for contacts and calls once in so many seconds, and somebody logs in after so
# many: everybody well before the last token ends, and seldom enough that the tokens which a server
# remembers (4,096 of them) do not count as growth.
ASK_EVERY, LOGIN_EVERY = 1.0, 5.0
HISTORY = 256
TOKEN_SECONDS = 600
ACCOUNTS = ("plain", "secure")
TRANSPORTS = (Transport.PLAIN, Transport.TLS)
# In minutes.
SHORTEST = 2
# Seconds before the first failure, and between two looks at the memory.
FIRST_FAILURE, LOOK_EVERY = 20.0, 10.0
# How long the opening, the calm before the end, the reading to the end and the closing may take.
OPENING, CALMING, SETTLING, CLOSING = 180.0, 90.0, 60.0, 60.0
# Events go on for a moment when the MX has become calm, to show that it works.
CALM_EVENTS = 5.0
ANSWER = 20.0
# What marks a line of a log that tells of a bug, and how much of it is shown.
COMPLAINT = 300
_COMPLAINTS = ("Traceback", "Unhandled", "[critical]", " bug")


@attrs.define(eq=False)
class Server:
    """A daemon, and what was seen of it."""

    name: str
    transport: Transport
    program: Program
    port: int
    times: list[float] = attrs.field(factory=list)
    memory: list[float] = attrs.field(factory=list)
    descriptors: list[float] = attrs.field(factory=list)
    before: int = 0
    began_cpu: float = 0.0

    def look(self, at: float) -> None:
        """Take its memory and its descriptors."""
        if not self.program.running:
            raise self.program.failure("has ended")
        self.times.append(at)
        self.memory.append(self.program.anonymous_bytes())
        self.descriptors.append(self.program.descriptors())

    def measured(self, cpu_seconds: float) -> Measured:
        """Give all of it."""
        return Measured(
            name=self.name,
            times=self.times,
            memory=self.memory,
            descriptors=self.descriptors,
            cpu_share=cpu_seconds / self.times[-1],
            before=self.before,
            after=self.program.descriptors(),
            complaints=_complaints(self.program),
        )


def _complaints(program: Program) -> list[str]:
    lines = program.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line[:COMPLAINT] for line in lines if any(word in line for word in _COMPLAINTS)]


class Visitors(threading.Thread):
    """Logs people in again and again, and asks for contacts and calls, beside the streams.

    Args:
        servers: Whom to ask.
        pass_on: Takes the newest tokens, by server and extension.

    Attributes:
        answers: How often each answer was given.
        failure: What must not have happened, or None.
    """

    def __init__(
        self, servers: list[Server], pass_on: Callable[[list[dict[str, str]]], None]
    ) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self._pass_on = pass_on
        self._tokens: list[dict[str, str]] = [{} for _ in servers]
        self._over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def everybody(self) -> None:
        """Log everybody in."""
        deadline = time.monotonic() + OPENING
        for index, person in itertools.product(range(len(self._servers)), range(_PEOPLE)):
            while not self._log_in(index, person):
                if time.monotonic() > deadline:
                    raise BenchmarkError("nobody can log in")
                time.sleep(ASK_EVERY / 10)
        self._pass_on(self._tokens)

    def run(self) -> None:
        people = itertools.cycle(range(_PEOPLE))
        # The first one's token is the oldest.
        logging_in = deque(range(_PEOPLE))
        login_due = time.monotonic()
        try:
            while not self._over.is_set():
                if time.monotonic() >= login_due:
                    login_due += LOGIN_EVERY
                    if self._log_in_everywhere(logging_in[0]):
                        logging_in.rotate(-1)
                person = next(people)
                for path in ("/api/contacts", "/api/calls"):
                    for index in range(len(self._servers)):
                        self._ask(index, person, path)
                    self._over.wait(ASK_EVERY / 2)
        except Exception as error:
            self.failure = error

    def finish(self) -> None:
        """Ask no more.

        Raises:
            BenchmarkError: Something had gone wrong.
        """
        self._over.set()
        self.join(ANSWER * 2)
        if self.failure is not None:
            raise BenchmarkError(f"a request failed: {self.failure!r}") from self.failure

    def _log_in_everywhere(self, person: int) -> bool:
        """Log in at all servers; tell whether that went."""
        newest: list[dict[str, str]] = [{} for _ in self._servers]
        went = [self._log_in(index, person) for index in range(len(self._servers))]
        for index, done in enumerate(went):
            if done:
                newest[index] = {ext_of(person): self._tokens[index][ext_of(person)]}
        self._pass_on(newest)
        return all(went)

    def _log_in(self, index: int, person: int) -> bool:
        server = self._servers[index]
        token = log_in(server.port, server.transport, person)
        self.answers["login" if token else "login while there is no MX"] += 1
        if token:
            self._tokens[index][ext_of(person)] = token
        return bool(token)

    def _ask(self, index: int, person: int, path: str) -> None:
        server = self._servers[index]
        connection = connect(server.port, server.transport)
        try:
            token = self._tokens[index][ext_of(person)]
            headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip"}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise BenchmarkError(f"{path} was answered {answer.status}: {body!r}")
        if answer.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        json.loads(body)
        self.answers[path] += 1


_PEOPLE = EXTENSIONS + OTHERS


@contextmanager
def programs(folder: Path) -> Iterator[tuple[Program, Program, list[Server]]]:
    """Start the MX, the readers and both servers; end them all."""
    started: list[Program] = []
    try:
        mx = start_module("mx", "benchmarks.soak.mx", folder, *ACCOUNTS)
        started.append(mx)
        mx_port = mx.read(ANSWER)["port"]
        readers = start_module("readers", "benchmarks.soak.readers", folder)
        started.append(readers)
        servers = []
        for name, transport in zip(ACCOUNTS, TRANSPORTS, strict=True):
            program, port = start_daemon(
                folder,
                transport,
                mx_port,
                name=name,
                account=name,
                settings={
                    "events": {"history": HISTORY},
                    "token": {"lifetime": TOKEN_SECONDS},
                },
            )
            started.append(program)
            servers.append(Server(name=name, transport=transport, program=program, port=port))
        yield mx, readers, servers
    finally:
        for program in reversed(started):
            program.stop()


def soak(minutes: float, every: float, folder: Path) -> tuple[Verdict, str]:
    """Let it all run, and judge.

    Args:
        minutes: For so long.
        every: The MX fails each time so many seconds have gone.
        folder: Where the results go.

    Raises:
        BenchmarkError: It could not run to its end.
    """
    machine = {"minutes": minutes, "streams": sum(EACH.values()) * EXTENSIONS, **describe_machine()}
    with programs(folder) as (mx, readers, servers):

        def pass_on(tokens: list[dict[str, str]]) -> None:
            readers.tell(json.dumps({"tokens": tokens}))

        visitors = Visitors(servers, pass_on)
        say("everybody logs in")
        visitors.everybody()
        for server in servers:
            server.before = server.program.descriptors()
        exts = [ext_of(number) for number in range(EXTENSIONS)]
        opening = {
            "plain": servers[0].port,
            "secure": servers[1].port,
            "each": EACH,
            "exts": exts,
            "slow": {exts[0]: SLOW},
            "history": HISTORY,
        }
        say(f"{machine['streams']:,} streams are opened")
        readers.tell(json.dumps({"open": opening}))
        readers.read(OPENING)
        began, began_epoch = time.monotonic(), time.time()
        watched = {"mx": mx, "readers": readers, **{s.name: s.program for s in servers}}
        cpu = {name: program.cpu_seconds() for name, program in watched.items()}
        rates = dict.fromkeys((ext_of(number) for number in range(_PEOPLE)), OTHER_RATE)
        rates |= {ext: BUSY_RATE if ext == exts[0] else RATE for ext in exts}
        mx.tell(json.dumps({"begin": {"rates": rates, "every": every, "first": FIRST_FAILURE}}))
        readers.tell(json.dumps({"roam": {"leave": LEAVING, "nap": NAPPING}}))
        visitors.start()
        _watch(servers, visitors, began, minutes)
        used = {name: program.cpu_seconds() - cpu[name] for name, program in watched.items()}
        say("the MX fails no more")
        mx.tell(json.dumps({"calm": True}))
        mx.read(CALMING)
        time.sleep(CALM_EVENTS)
        visitors.finish()
        mx.tell(json.dumps({"stop": True}))
        sent = mx.read(ANSWER)
        say("everybody reads to the end")
        readers.tell(json.dumps({"settle": {"last": sent["last"], "seconds": SETTLING}}))
        had = readers.read(SETTLING + ANSWER)
        readers.tell(json.dumps({"close": True}))
        readers.read(CLOSING)
        # A server may need a moment to notice.
        _until_closed(servers)
        measured = [server.measured(used[server.name]) for server in servers]
        machine |= {
            "malloc": servers[0].program.malloc(),
            **{
                f"{name}, of a processor": f"{used[name] / (minutes * MINUTE):.0%}"
                for name in ("mx", "readers")
            },
        }
    had["did"].update(visitors.answers)
    for outage in sent["outages"]:
        outage["at"] = outage["began"] - began_epoch
    verdict = Verdict()
    judge_events(verdict, had, sent, ACCOUNTS)
    judge_link(verdict, sent, minutes * MINUTE / every)
    judge_clients(verdict, had["did"], minutes)
    for each in measured:
        judge_server(verdict, each)
    # Whoever stumbles has seen nothing that could be believed.
    for name, program in (("mx", mx), ("readers", readers)):
        verdict.count(f"{name}: tracebacks", len(_complaints(program)))
    run = report.Run(machine=machine, verdict=verdict, servers=measured, readers=had, mx=sent)
    text = report.write(run, folder)
    report.plot(run, folder)
    return verdict, text


def _watch(servers: list[Server], visitors: Visitors, began: float, minutes: float) -> None:
    """Look at the servers until the time is over."""
    told = 0
    while (at := time.monotonic() - began) < minutes * MINUTE:
        for server in servers:
            server.look(at)
        if not visitors.is_alive():
            visitors.finish()
        if at // MINUTE >= told:
            told += 1
            seen = ", ".join(
                f"{s.name} {s.memory[-1] / report.MIB:.1f} MiB, {s.descriptors[-1]:.0f} files"
                for s in servers
            )
            say(f"{at / MINUTE:.0f} of {minutes:g} min: {seen}")
        time.sleep(max(0.0, at + LOOK_EVERY - (time.monotonic() - began)))


def _until_closed(servers: list[Server]) -> None:
    deadline = time.monotonic() + CLOSING
    while time.monotonic() < deadline:
        if all(server.program.descriptors() <= server.before for server in servers):
            return
        time.sleep(ASK_EVERY)


def main() -> int:
    """Run the soak; 0 if all holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between failures")
    parser.add_argument("--output", type=Path, help="a folder for the results")
    options = parser.parse_args()
    end_as_by_ctrl_c()
    if options.minutes < SHORTEST:
        parser.error(
            f"--minutes: expected {SHORTEST} or more, for something is left out as warming up"
        )
    began = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    output: Path = (options.output or RESULTS / f"{began}-soak").resolve()
    output.mkdir(parents=True, exist_ok=True)
    try:
        assert_same_mxflex(output)
        say("the readers are shown what they must notice")
        check(output)
        verdict, text = soak(options.minutes, options.every, output)
    except BenchmarkError as error:
        say(f"benchmarks: {error}")
        return 2
    sys.stdout.write(text)
    say(f"results: {output}")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
