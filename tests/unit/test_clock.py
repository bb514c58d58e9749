"""Delayed calls while the time of day is set."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mxflex.clock import SteadyTimers


class Machine(Clock):
    """A reactor whose clock can be set, and a clock beside it that cannot."""

    def __init__(self):
        super().__init__()
        self.rightNow = 1_000_000.0
        self.steady = 0.0
        self.stall = 0.0
        self.timers = SteadyTimers(self, self.read_steady)
        # Without its thread, so that it looks when it is told to.
        self.timers.running = True
        self.timers._ahead = self.rightNow

    def read_steady(self):
        steady = self.steady
        self.pass_by(self.stall)
        return steady

    def callFromThread(self, act, *arguments):
        act(*arguments)

    def pass_by(self, seconds):
        self.steady += seconds
        self.advance(seconds)

    def set_by(self, seconds):
        self.rightNow += seconds


@pytest.fixture
def machine():
    return Machine()


def test_set_back(machine):
    """What was planned comes when it would have come, and not an hour later."""
    done = []
    machine.callLater(10, done.append, "first")
    machine.callLater(30, done.append, "second")
    machine.pass_by(4)
    machine.set_by(-3600)
    machine.timers.look()
    machine.pass_by(5.9)
    assert done == []
    machine.pass_by(0.2)
    assert done == ["first"]
    # Once is enough.
    machine.timers.look()
    machine.pass_by(19.8)
    assert done == ["first"]
    machine.pass_by(0.2)
    assert done == ["first", "second"]


def test_planned_since(machine):
    """What was planned by the new time already is left alone."""
    done = []
    machine.callLater(100, done.append, "before")
    machine.set_by(-3600)
    machine.callLater(7, done.append, "since")
    machine.timers.look()
    machine.pass_by(6.9)
    assert done == []
    machine.pass_by(0.2)
    assert done == ["since"]


@pytest.mark.parametrize("seconds", [-1, 0, 0.5, 3600])
def test_nothing_to_speak_of(machine, seconds):
    """A little back, or any time forward, moves no call."""
    call = machine.callLater(5000, lambda: None)
    due = call.getTime()
    machine.set_by(seconds)
    machine.timers.look()
    assert call.getTime() == due


def test_a_process_that_stands_still(machine):
    """Who is stopped while it looks takes that for nothing."""
    call = machine.callLater(5000, lambda: None)
    due = call.getTime()
    machine.stall = 10.0
    machine.timers.look()
    machine.stall = 0.0
    machine.timers.look()
    assert call.getTime() == due
    machine.set_by(-3600)
    machine.timers.look()
    assert call.getTime() == due - 3600


def test_at_the_end(machine):
    """A daemon that has stopped leaves the calls of others alone."""
    call = machine.callLater(10, lambda: None)
    due = call.getTime()
    machine.timers.stopService()
    machine.set_by(-3600)
    machine.timers.look()
    assert call.getTime() == due
