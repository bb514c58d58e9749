"""`/api/contacts` and `/api/login`, by one client after the other on a connection that stays."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from benchmarks.peers import (
    MXFLEX,
    NCHAN,
    Stand,
    connect,
    lay_out_contacts,
    start_module,
    start_mxflex,
    start_nchan,
)
from benchmarks.plan import Plan, Transport
from benchmarks.processes import BenchmarkError
from benchmarks.results import Results
from benchmarks.sample import PASSWORD, PEOPLE, login_of

PLAIN, GZIP, UNCHANGED = "contacts", "contacts, gzip", "contacts, 304"
# The first login of somebody also starts a monitor at the MX.
FIRST_LOGIN, LOGIN = "login, first", "login, again"
# Of each login: the connection to the MX for the password, measured in a process of its own.
TALK, WITHOUT_TALK = "login, the talk with the MX", "login, again, without that talk"
# Before the counting begins: the address book is read, caches are filled.
WARMING = 10
# For the address book, in seconds.
PATIENCE = 10.0
LOOK_EVERY = 0.1

Ask = Callable[[int], None]


def measure_api(plan: Plan, results: Results, folder: Path, with_nchan: bool) -> None:
    """Measure the requests; beside MXFlex, nginx serves the same bytes from a file.

    Raises:
        BenchmarkError: An answer was not the expected one.
    """
    with start_mxflex(folder, Transport.PLAIN) as stand:
        client = Client(stand, "/api/contacts")
        client.wait_for_people()
        client.measure(plan, results, MXFLEX)
        for name in (FIRST_LOGIN, LOGIN):
            figures = measure_requests(stand, plan.logins, client.log_in)
            results.api.setdefault(name, {})[MXFLEX] = figures
        results.api[TALK] = {MXFLEX: measure_talk(stand.mx_port, plan.logins, folder)}
        spent, talk = (results.api[name][MXFLEX]["cpu_us"] for name in (LOGIN, TALK))
        results.api[WITHOUT_TALK] = {MXFLEX: {"cpu_us": spent - talk}}
        contacts = client.body
        client.close()
    if with_nchan:
        lay_out_contacts(folder, contacts)
        with start_nchan(folder, Transport.PLAIN) as stand:
            client = Client(stand, "/contacts")
            client.measure(plan, results, NCHAN)
            client.close()


def measure_talk(mx_port: int, count: int, folder: Path) -> dict[str, float]:
    """Give what it costs MXFlex to ask the MX for a password."""
    program = start_module("talk", "benchmarks.talk", folder, str(mx_port), str(count))
    try:
        return program.read(PATIENCE + count)
    finally:
        program.stop()


class Client:
    """One connection, and the requests that are made on it."""

    def __init__(self, stand: Stand, path: str) -> None:
        self._stand = stand
        self._path = path
        self._connection = connect(stand.port)
        self._token = {"Authorization": f"Bearer {stand.token}"} if stand.token else {}
        self.body = b""
        self._etag = ""

    def close(self) -> None:
        self._connection.close()

    def wait_for_people(self) -> None:
        """Wait until the whole address book has come, in pages, from the MX."""
        deadline = time.monotonic() + PATIENCE
        while self.body.count(b'"jid"') < PEOPLE:
            if time.monotonic() > deadline:
                raise BenchmarkError("the address book did not come")
            time.sleep(LOOK_EVERY)
            # Until there is a first page the answer is 503.
            _, self.body = self._ask("GET", self._path, {}, None)

    def measure(self, plan: Plan, results: Results, peer: str) -> None:
        for name, ask in (
            (PLAIN, self.get_plain),
            (GZIP, self.get_compressed),
            (UNCHANGED, self.get_unchanged),
        ):
            figures = measure_requests(self._stand, plan.requests, ask)
            results.api.setdefault(name, {})[peer] = figures

    def get_plain(self, _number: int = 0) -> None:
        answer, self.body = self._ask("GET", self._path, {}, None)
        self._etag = answer.headers["ETag"]
        self._expect(answer, http.client.OK, "")

    def get_compressed(self, _number: int) -> None:
        answer, _ = self._ask("GET", self._path, {"Accept-Encoding": "gzip"}, None)
        self._expect(answer, http.client.OK, "gzip")

    def get_unchanged(self, _number: int) -> None:
        answer, _ = self._ask("GET", self._path, {"If-None-Match": self._etag}, None)
        self._expect(answer, http.client.NOT_MODIFIED, "")

    def log_in(self, number: int) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({"login": login_of(number % PEOPLE), "password": PASSWORD})
        answer, _ = self._ask("POST", "/api/login", form, body)
        self._expect(answer, http.client.OK, "")

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: str | None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._connection.request(method, path, body, {**self._token, **headers})
        answer = self._connection.getresponse()
        return answer, answer.read()

    def _expect(self, answer: http.client.HTTPResponse, status: int, encoding: str) -> None:
        if (answer.status, answer.headers.get("Content-Encoding", "")) != (status, encoding):
            raise BenchmarkError(f"{self._path}: unexpected answer {answer.status}")


def measure_requests(stand: Stand, count: int, ask: Ask) -> dict[str, float]:
    """Give the processor time and the median duration of requests, one after the other.

    Args:
        stand: The server.
        count: How many; some more go before, with negative numbers.
        ask: Makes one, by its number from 0.
    """
    # From the other end: the people that log in first are not to be known already.
    for number in range(1, WARMING + 1):
        ask(-number)
    times = []
    before = stand.server.cpu_seconds()
    for number in range(count):
        began = time.monotonic()
        ask(number)
        times.append(time.monotonic() - began)
    spent = stand.server.cpu_seconds() - before
    return {
        "cpu_us": spent / count * 1e6,
        "p50_ms": median(times) * 1e3,
    }
