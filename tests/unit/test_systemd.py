"""What systemd is told, and when: a real socket, and a clock that is moved by hand."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile

import pytest
from twisted.internet.task import Clock

from mxflex.monitor.systemd import SystemdNotifier

DEMANDED = {"WATCHDOG_USEC": "20000000"}


class Systemd:
    """The end of the socket that systemd has."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address)

    def told(self):
        """Give what has come since the last time: the lines of each datagram."""
        told = []
        while True:
            try:
                told.append(self._socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return told

    def close(self):
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def place(request):
    """A socket of systemd, and its address as it stands in NOTIFY_SOCKET."""
    # Not tmp_path: the path of a socket is short.
    folder = tempfile.mkdtemp()
    name = secrets.token_hex(8)
    if request.param == "file":
        address = shown = f"{folder}/notify"
    else:
        address, shown = f"\0mxflex-{name}", f"@mxflex-{name}"
    systemd = Systemd(address)
    yield systemd, shown
    systemd.close()
    shutil.rmtree(folder)


@pytest.fixture
def systemd(place):
    return place[0]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def notifier(place, clock):
    """Give the maker of notifiers, for an environment."""

    def make(**environ):
        return SystemdNotifier(clock, {"NOTIFY_SOCKET": place[1], **environ})

    return make


def test_from_start_to_stop(notifier, systemd, clock):
    """Ready comes with the reactor's first turn, the status with each change, the end at once."""
    service = notifier()
    service.startService()
    assert systemd.told() == []
    clock.advance(0)
    assert systemd.told() == [["READY=1", "STATUS=connecting to the MX"]]
    service.link_up()
    service.link_down()
    assert systemd.told() == [
        ["STATUS=connected to the MX"],
        ["STATUS=the MX is away, trying to reach it again"],
    ]
    service.stopService()
    service.link_down()
    assert systemd.told() == [["STOPPING=1", "STATUS=stopping"]]
    assert clock.getDelayedCalls() == []


def test_the_mx_is_there_first(notifier, systemd, clock):
    """What the link has told before the daemon is ready is not forgotten."""
    service = notifier()
    service.link_up()
    service.startService()
    clock.advance(0)
    assert systemd.told() == [["READY=1", "STATUS=connected to the MX"]]


def test_watchdog(notifier, systemd, clock):
    """A sign of life comes twice as often as is demanded, from the start to the end."""
    service = notifier(**DEMANDED, WATCHDOG_PID=str(os.getpid()))
    service.startService()
    clock.advance(0)
    assert systemd.told()[1:] == [["WATCHDOG=1"]]
    for _ in range(5):
        clock.advance(9.9)
        assert systemd.told() == []
        clock.advance(0.1)
        assert systemd.told() == [["WATCHDOG=1"]]
    service.stopService()
    assert systemd.told() == [["STOPPING=1", "STATUS=stopping", "WATCHDOG=1"]]
    clock.advance(100)
    assert systemd.told() == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog(environ, notifier, systemd, clock):
    """Nobody is told of life who does not want to know, or wants to know it of another process."""
    service = notifier(**environ)
    service.startService()
    clock.advance(0)
    assert len(systemd.told()) == 1
    assert clock.getDelayedCalls() == []
    service.stopService()
    assert systemd.told() == [["STOPPING=1", "STATUS=stopping"]]


def test_without_systemd(clock):
    """Whoever is not started by systemd tells nobody."""
    service = SystemdNotifier(clock, {})
    service.startService()
    assert clock.getDelayedCalls() == []
    service.link_up()
    service.stopService()


def test_nobody_listens(notifier, systemd, clock):
    """A socket that is gone, or that nobody reads, ends and delays nothing."""
    service = notifier(**DEMANDED)
    service.startService()
    clock.advance(0)
    for _ in range(5000):
        service.link_up()
    assert systemd.told()
    systemd.close()
    clock.advance(10)
    service.stopService()
