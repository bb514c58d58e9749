"""What holds for every test: on the build machine nothing is skipped, and garbage costs little."""

from __future__ import annotations

import gc
import os

import pytest

_ON_BUILD_MACHINE = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def _refuse_skip(report):
    """Turn a skip into a failure: there, a missing tool is a mistake of `.ci/run`."""
    if _ON_BUILD_MACHINE and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although CI is set: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Look at the report of each test."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Look at the report of each module: it may skip itself as a whole."""
    return _refuse_skip((yield))


def pytest_collection_finish():
    """Take what is there before the first test out of the collector's sight.

    Many tests collect garbage at their end, to hear of a Deferred whose error nobody handled. With
    all modules and tests in memory that took longer than the tests themselves.
    """
    gc.collect()
    gc.freeze()
