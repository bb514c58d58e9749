"""How a certificate is kept fresh, over simulated years: when, how often, and how loudly."""

from __future__ import annotations

import errno
import random
import re
from itertools import pairwise

import pytest
from cryptography import x509
from treq.testing import StubTreq
from twisted.internet.task import Clock

from mxflex.certs import acme, issuing, store
from mxflex.certs.context import ServingCertificate
from mxflex.certs.issuing import DAY, HOUR, MINUTE, CertificateService
from mxflex.certs.responder import ChallengeResponder
from mxflex.certs.store import CertificateFile
from tests.protocol.acme_server import AcmeServer, Answer, Problem

NAME = "mx.example.test"
NOW = 1_800_000_000
YEAR = 365 * DAY
# Both ends of what chance may do.
EARLIEST, LATEST = (lambda low, _high: low), (lambda _low, high: high)


class Bench:
    """A service that looks after a certificate, a CA, and the time.

    Args:
        folder: Where the certificate is kept.
        log: What is logged.

    Attributes:
        server: The CA.
        service: The service; `start` makes it.
        serving: What connections use.
    """

    def __init__(self, folder, log):
        self.folder = folder
        self.log = log
        self.clock = Clock()
        self.clock.advance(NOW)
        self.responder = ChallengeResponder()
        self.server = AcmeServer(self.clock.seconds, self.responder.answer)
        self.service = None
        self.serving = None

    def start(self, **options):
        """Start the service, as after a restart of the daemon."""
        self.serving = ServingCertificate(NAME)
        self.service = CertificateService(
            self.clock,
            NAME,
            store=CertificateFile(self.folder, NAME),
            serving=self.serving,
            responder=self.responder,
            http=StubTreq(self.server),
            directory=self.server.directory,
            **options,
        )
        self.service.startService()

    def pass_time(self, seconds):
        """Let time go by, from one thing that is to be done to the next."""
        end = self.clock.seconds() + seconds
        while True:
            moments = [each.getTime() for each in self.clock.getDelayedCalls()]
            if not moments or min(moments) > end:
                break
            self.clock.advance(max(0, min(moments) - self.clock.seconds()))
        self.clock.advance(end - self.clock.seconds())

    @property
    def left(self):
        """Seconds until the certificate in use ends."""
        end = self.serving.certificate.not_valid_after_utc.timestamp()
        return end - self.clock.seconds()

    def troubles(self):
        """Give level and text of the lines about a certificate that is not got."""
        found = []
        for line in self.log.lines:
            match = re.search(r" (\w+) +mxflex\.certs\.issuing  (.*(?:yet|not renewed).*)\n", line)
            if match:
                found.append(match.groups())
        return found


@pytest.fixture
def bench(tmp_path, logged):
    """Give a bench; the service is stopped after the test, and leaves no delayed call."""
    made = Bench(tmp_path / "certs", logged)
    yield made
    made.service.stopService()
    assert not made.clock.getDelayedCalls()


@pytest.fixture(params=[EARLIEST, LATEST], ids=["earliest", "latest"])
def chance(request, monkeypatch):
    """Let chance choose always one end, then always the other."""
    monkeypatch.setattr(random, "uniform", request.param)


class Bucket:
    """A rate limit as Let's Encrypt counts: so many at once, then one for each interval."""

    def __init__(self, size, interval):
        self._size = self._left = size
        self._interval = interval
        self._last = None

    def take(self, moment):
        """Take one, and give how many are left, in parts too; the test fails when there is none."""
        if self._last is not None:
            self._left = min(self._size, self._left + (moment - self._last) / self._interval)
        self._last = moment
        self._left -= 1
        assert self._left >= 0, f"the limit is met at {moment - NOW} s"
        return self._left


def hold_to_limits(server):
    """Hold what the CA was asked to the limits of Let's Encrypt.

    Five failed validations of a name, refilled one every 12 minutes; five certificates of the same
    names, refilled one every 7 days / 5; 300 orders, refilled one every 36 s.
    """
    for moments, size, interval in (
        (server.validated, 5, 12 * MINUTE),
        (server.finalized, 5, 7 * DAY / 5),
    ):
        bucket = Bucket(size, interval)
        for moment in moments:
            bucket.take(moment)


# --- The ordinary life ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "issued"),
    # One at the start, and one whenever two thirds of a life are over.
    [(6, 1 + 91), (45, 1 + 12), (90, 1 + 6)],
)
def test_a_year(bench, days, issued):
    """Over a year each kind of certificate is renewed with a third of its life left, no more."""
    bench.server.life = days * DAY
    bench.start()
    lowest = bench.left
    for _ in range(365):
        bench.pass_time(DAY)
        lowest = min(lowest, bench.left)
    assert len(bench.server.finalized) == issued
    assert lowest > days * DAY / 3 - DAY
    # Who happens to look in the last second before it is due looks again after a second.
    due = pytest.approx(days * DAY * 2 / 3, abs=1)
    assert all(second - first == due for first, second in pairwise(bench.server.finalized))
    hold_to_limits(bench.server)
    assert bench.troubles() == []


def test_a_chain_that_ends_first(bench):
    """A CA's certificate that ends before ours is no reason to renew, as renewing changes nothing.

    The chain of these certificates ends within a year of the day of the test.
    """
    bench.pass_time(2 * YEAR)
    bench.start()
    bench.pass_time(59 * DAY)
    assert len(bench.server.finalized) == 1


def test_every_renewal_has_a_key_of_its_own(bench):
    """No key serves two certificates, and the account's key serves none."""
    bench.server.life = 6 * DAY
    bench.start(profile="shortlived")
    bench.pass_time(30 * DAY)
    certificates = [
        x509.load_pem_x509_certificate(order.pem.encode()) for order in bench.server.orders
    ]
    keys = {each.public_key().public_numbers() for each in certificates}
    keys.add(CertificateFile(bench.folder, NAME).account_key().public_key().public_numbers())
    assert len(keys) == len(certificates) + 1 == 9


def test_profile_on_renewals(bench):
    """The profile is asked for each time, not only the first."""
    bench.server.life = 6 * DAY
    bench.start(profile="shortlived")
    bench.pass_time(19 * DAY)
    profiles = [order.wish["profile"] for order in bench.server.orders]
    assert profiles == ["shortlived"] * 5


def test_restart_is_silent(bench):
    """A stored certificate is used at once; nobody asks the CA, nor soon after."""
    bench.start()
    bench.service.stopService()
    count = len(bench.server.requests)
    bench.start()
    assert bench.serving.real
    bench.pass_time(HOUR - 1)
    assert len(bench.server.requests) == count
    bench.pass_time(30 * DAY)
    # The directory is read, to see whether the CA has renewal information.
    assert set(bench.server.requests[count:]) == {"directory"}


def test_restart_with_a_certificate_that_is_due(bench):
    """After a long time off, the old certificate serves, and is renewed at once."""
    bench.start()
    first = bench.serving.certificate
    bench.service.stopService()
    bench.pass_time(80 * DAY)
    bench.start()
    assert bench.serving.certificate != first
    assert len(bench.server.finalized) == 2


# --- Failures -------------------------------------------------------------------------------------


def test_failures_back_off(bench, chance):
    """After a failure the next try comes in a minute, then in two, up to six hours."""
    bench.responder.respond = lambda challenge: None
    bench.start()
    bench.pass_time(5 * DAY)
    moments = bench.server.validated
    waits = [second - first for first, second in pairwise(moments)]
    wanted = [min(2**number * MINUTE, 6 * HOUR) for number in range(len(waits))]
    for wait, least in zip(waits, wanted, strict=True):
        assert least <= wait <= least * 1.1 + 1
    assert waits[-1] >= 6 * HOUR


def test_failed_validations_never_meet_the_limit(bench, chance):
    """A port 80 that is closed for months never meets the limit of failed validations."""
    bench.responder.respond = lambda challenge: None
    bench.start()
    bench.pass_time(YEAR / 4)
    assert len(bench.server.validated) > 300
    hold_to_limits(bench.server)


@pytest.mark.parametrize(
    "instead",
    [
        {"certificate": Answer(b"", 500)},
        {"certificate": Answer(b"<h1>oops</h1>")},
        {"certificate": Problem(403, "unauthorized")},
    ],
)
def test_lost_certificates_never_meet_the_limit(bench, monkeypatch, instead):
    """Certificates that the CA makes and that never reach us do not use up the week's supply."""
    monkeypatch.setattr(random, "uniform", EARLIEST)
    bench.server.instead = instead
    bench.start()
    bench.pass_time(YEAR / 4)
    assert len(bench.server.finalized) > 50
    hold_to_limits(bench.server)


def test_a_ca_in_the_past(bench, chance):
    """With a clock that is far ahead every new certificate has ended: it is used, and told so."""
    seconds = bench.server._seconds
    bench.server._seconds = lambda: seconds() - YEAR
    bench.start()
    assert bench.serving.real
    bench.pass_time(30 * DAY)
    hold_to_limits(bench.server)
    level, line = bench.troubles()[-1]
    assert level == "error"
    assert "is the clock right?" in line


def test_a_ca_that_comes_back(bench):
    """The first success ends the waiting, and the next failure begins with a minute again."""
    bench.server.life = 6 * DAY
    bench.server.instead["directory"] = Answer(b"", 503)
    bench.start()
    bench.pass_time(3 * HOUR)
    assert not bench.serving.real
    bench.server.instead.clear()
    bench.pass_time(3 * HOUR)
    assert bench.serving.real
    bench.server.instead["directory"] = Answer(b"", 503)
    bench.pass_time(4 * DAY)
    assert bench.troubles()[-1][1].count("next try in")
    first = next(line for _, line in bench.troubles() if "is not renewed" in line)
    assert re.search(r"; next try in (60|6\d) seconds$", first)


def test_trouble_says_all(bench):
    """The line of trouble says when the certificate ends, why, and when the next try is.

    It is a warning until a sixth of the certificate's life is left, and an error from then on.
    """
    bench.server.life = 6 * DAY
    bench.start()
    bench.server.instead["order"] = Problem(403, "rejectedIdentifier", "no such name")
    end = bench.serving.certificate.not_valid_after_utc
    bench.pass_time(5 * DAY - 1)
    assert {level for level, _ in bench.troubles()} == {"warn"}
    bench.pass_time(7 * HOUR)
    level, line = bench.troubles()[-1]
    assert level == "error"
    why = f"the certificate of {NAME} is not renewed (ends {end.isoformat(timespec='minutes')}, "
    assert line.startswith(why)
    assert " hours left): the CA refuses with 403 rejectedIdentifier: no such name; " in line
    # Six, and up to a tenth more by chance, rounded.
    assert line.endswith(("next try in 6 hours", "next try in 7 hours"))
    bench.pass_time(DAY)
    level, line = bench.troubles()[-1]
    assert level == "error"
    assert f"(ended {end.isoformat(timespec='minutes')})" in line
    # It goes on serving what it has.
    assert bench.serving.certificate.not_valid_after_utc == end


def test_a_bug_is_no_end(bench, monkeypatch, logged):
    """Even an error that nobody has thought of is told, and the next try comes."""

    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(issuing, "csr_for_names", broken)
    bench.start()
    assert "RuntimeError: a bug" in logged.take_failures()[0]
    monkeypatch.undo()
    bench.pass_time(2 * MINUTE)
    assert bench.serving.real


def test_an_attempt_ends(bench, monkeypatch):
    """However the CA drags it out, an attempt ends, and the log says so."""
    monkeypatch.setattr(acme, "ORDER_SECONDS", YEAR)
    bench.server.thinking = 10**9
    bench.start()
    bench.pass_time(16 * MINUTE)
    ((level, line),) = bench.troubles()
    assert level == "error"
    assert ": the CA has not finished after 15 minutes; next try in " in line


# --- The folder -----------------------------------------------------------------------------------


def test_a_folder_that_cannot_be(bench):
    """Without a folder nobody bothers the CA; the line says which folder and why."""
    bench.folder.write_text("in the way", encoding="utf-8")
    bench.start()
    ((level, line),) = bench.troubles()
    assert level == "error"
    assert f": {bench.folder} cannot be used: " in line
    assert bench.server.requests == []
    bench.folder.unlink()
    bench.pass_time(2 * MINUTE)
    assert bench.serving.real


def test_a_full_disk(bench, monkeypatch):
    """A certificate that cannot be written is used all the same, and written when it can be."""
    bench.start()
    written = (bench.folder / f"{NAME}.pem").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write_secret", full)
    bench.pass_time(61 * DAY)
    assert bench.left > 80 * DAY
    assert len(bench.server.finalized) == 2
    lines = bench.log.about("cannot be kept in")
    assert "No space left on device" in lines[0]
    assert (bench.folder / f"{NAME}.pem").read_bytes() == written
    monkeypatch.undo()
    bench.pass_time(2 * HOUR)
    assert (bench.folder / f"{NAME}.pem").read_bytes() != written
    assert len(bench.server.finalized) == 2


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_certificate(bench, content):
    """A damaged file is kept aside and counts as none: a new certificate takes its place."""
    bench.start()
    bench.service.stopService()
    path = bench.folder / f"{NAME}.pem"
    path.write_bytes(content)
    bench.start()
    assert bench.serving.real
    assert len(bench.server.finalized) == 2
    assert (bench.folder / f"{NAME}.pem.damaged").read_bytes() == content
    (line,) = bench.log.about("is damaged and was moved to")
    assert f" error mxflex.certs.store  {path} is damaged and was moved to {NAME}.pem.dam" in line


def test_a_damaged_account_key(bench):
    """A damaged account key is kept aside, and a new account made."""
    bench.start()
    bench.service.stopService()
    (bench.folder / "account.key").write_bytes(b"nonsense")
    (bench.folder / f"{NAME}.pem").unlink()
    bench.start()
    assert bench.serving.real
    assert (bench.folder / "account.key.damaged").read_bytes() == b"nonsense"
    assert len(bench.server._accounts) == 2


def test_a_certificate_of_another_name(bench):
    """A file of ours that is for another host is of no use."""
    bench.start()
    bench.service.stopService()
    content = (bench.folder / f"{NAME}.pem").read_bytes()
    other = "other.example.test"
    (bench.folder / f"{other}.pem").write_bytes(content)
    assert CertificateFile(bench.folder, other).read() is None
    assert (bench.folder / f"{other}.pem.damaged").read_bytes() == content


# --- Renewal information (RFC 9773) ---------------------------------------------------------------


def test_window_is_followed(bench, chance):
    """A renewal falls into the window that the CA suggests, and names what it replaces."""
    bench.server.window = (NOW + 20 * DAY, NOW + 21 * DAY)
    bench.start()
    bench.pass_time(20 * DAY - 1)
    assert len(bench.server.finalized) == 1
    bench.pass_time(DAY + HOUR)
    start, end = bench.server.window
    assert len(bench.server.finalized) == 2
    assert start <= bench.server.finalized[1] <= end + 1
    first = x509.load_pem_x509_certificate(bench.server.orders[0].pem.encode())
    assert bench.server.orders[1].wish["replaces"] == issuing.certificate_id(first)
    assert "replaces" not in bench.server.orders[0].wish


def test_the_moment_is_chance(bench):
    """Daemons with the same window do not come all at the same moment."""
    moments = set()
    bench.server.window = (NOW + 20 * DAY, NOW + 22 * DAY)
    for _ in range(5):
        bench.start()
        bench.pass_time(2 * HOUR)
        moments.add(bench.service._renew_at)
        bench.service.stopService()
    assert len(moments) == 5


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (b"", 6 * HOUR, 7.2 * HOUR),
        (b"43200", 12 * HOUR, 13.2 * HOUR),
        # What is not sensible is bounded: a minute becomes the hour of our own looks.
        (b"1", HOUR, 1.2 * HOUR),
        (b"99999999", 24 * HOUR, 25.2 * HOUR),
    ],
)
def test_asked_again(bench, header, least, most):
    """The CA is asked again after its `Retry-After`, within bounds, else every six hours."""
    bench.server.window = (NOW + 50 * DAY, NOW + 51 * DAY)
    bench.server.retry_after = header
    moments = []
    get = bench.server.get_renewal

    def noted(*args):
        moments.append(bench.clock.seconds())
        return get(*args)

    bench.server.get_renewal = noted
    bench.start()
    bench.pass_time(10 * DAY)
    waits = [second - first for first, second in pairwise(moments)]
    assert len(waits) > 5
    assert all(least <= wait <= most for wait in waits)


def test_window_moves(bench, chance):
    """When a certificate is to be revoked, the CA moves the window, and we renew at once."""
    bench.server.window = (NOW + 50 * DAY, NOW + 51 * DAY)
    bench.start()
    bench.pass_time(10 * DAY)
    bench.server.window = (NOW + 9 * DAY, NOW + 9.5 * DAY)
    bench.pass_time(8 * HOUR)
    assert len(bench.server.finalized) == 2


def test_window_in_the_past_for_ever(bench, chance):
    """A CA that always wants a renewal at once does not get one every hour."""
    bench.server.window = (NOW - 2 * DAY, NOW - DAY)
    bench.server.retry_after = b"60"
    bench.start()
    bench.pass_time(30 * DAY)
    assert len(bench.server.finalized) > 10
    hold_to_limits(bench.server)


def test_suggestions_fail(bench):
    """A CA that does not answer this question is warned of, and renewals come as ever."""
    bench.server.window = (NOW, NOW)
    bench.server.instead["renewal"] = Answer(b"", 500)
    bench.start()
    bench.pass_time(61 * DAY)
    assert len(bench.server.finalized) == 2
    (first, *_) = bench.log.about("was not asked when to renew")
    assert (
        " warn  mxflex.certs.issuing  the CA was not asked when to renew: the CA answers" in first
    )


def test_a_late_window_is_no_reason_to_wait(bench):
    """With a third of its life left a certificate is renewed, whatever the CA suggests."""
    bench.server.window = (NOW + 89 * DAY, NOW + 89.5 * DAY)
    bench.start()
    bench.pass_time(60 * DAY + 1)
    assert len(bench.server.finalized) == 2


# --- The end --------------------------------------------------------------------------------------


def test_stop_in_the_middle(bench):
    """Stopping does not wait for an issuance, which leaves no answer to challenges behind."""
    bench.server.thinking = 10
    bench.start()
    assert bench.server.finalized
    assert bench.service.stopService() is None
    assert not bench.clock.getDelayedCalls()
    assert bench.responder.answer(b"token-0") is None
    assert bench.troubles() == []


def test_times_are_told_for_people():
    """Spans are told in the unit that fits."""
    spans = [
        issuing.describe_span(each) for each in (0, 119, 120, 7199, 7200, 2 * DAY - 1, 2 * DAY)
    ]
    assert spans == [
        "0 seconds",
        "119 seconds",
        "2 minutes",
        "120 minutes",
        "2 hours",
        "48 hours",
        "2 days",
    ]
