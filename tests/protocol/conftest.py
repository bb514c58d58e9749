"""What holds for every test of this folder: what only a bug logs fails the test."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings
from twisted.logger import LogLevel, globalLogPublisher

from mxflex.logs import Levels, Masker, text_format

# How long one example takes says something about the machine, not about MXFlex.
settings.register_profile("mxflex", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mxflex")


class CapturedLog:
    """The log as an operator reads it.

    Attributes:
        lines: Everything from debug messages on.
        failures: Tracebacks: bugs, and errors in Deferreds that nobody handled.
    """

    def __init__(self):
        self.lines = []
        self.failures = []
        self._format = text_format(Masker(), Levels("debug"))

    def __call__(self, event):
        """Take an event (see `twisted.logger.ILogObserver`)."""
        line = self._format(event)
        if line is not None:
            self.lines.append(line)
            if event.get("log_level") is LogLevel.critical:
                self.failures.append(line)

    def about(self, words):
        """Give the lines in which these words stand."""
        return [line for line in self.lines if words in line]

    def take_failures(self):
        """Give the failures so far; they were expected."""
        taken, self.failures = self.failures, []
        return taken


@pytest.fixture(autouse=True)
def logged():
    """Give what is logged during the test; a failure that the test did not expect fails it."""
    captured = CapturedLog()
    globalLogPublisher.addObserver(captured)
    yield captured
    # A Deferred with an error that nobody handled says so when it goes.
    gc.collect()
    globalLogPublisher.removeObserver(captured)
    assert not captured.failures, "".join(captured.failures)
