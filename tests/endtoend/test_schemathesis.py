"""The daemon under schemathesis, which tries what the OpenAPI document says, and what it denies."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from mxflex.web.openapi import describe
from tests.endtoend.stage import PATIENCE, Site

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# What it may take, in seconds, on a machine that has much else to do.
LONGEST = 300
SCENARIO = {
    "users": [
        {"ext": "3061", "login": "priya", "password": "demo", "first_name": "Priya"},
        {"ext": "3044", "login": "emma", "password": "demo", "first_name": "Emma"},
    ]
}
SETTINGS = {
    # Many logins fail here, and none is a guess.
    "login": {"max_failures": 1_000_000, "refusal_step": 0},
    # A stream that opens would be read for as long as it says nothing. So one is open already, and
    # all others are too many.
    "events": {"max_per_token": 1},
}
# All but the one that gives the document, which it asks for itself.
OPERATIONS = sum(map(len, describe(token_in_url=True)["paths"].values())) - 1
CONFIGURATION = """
[checks.positive_data_acceptance]
# The MX may say no (422), and there may be too many (429) of what is sound in itself.
expected-statuses = ["2xx", "3xx", "401", "403", "422", "429"]

# Whoever logs out takes the others' streams and calls away; so it is somebody else.
[[operations]]
include-path = "/api/logout"
headers = {{ Authorization = "Bearer {other}" }}
"""


@pytest.fixture
def site(tmp_path):
    """An MX without calls of its own, and MXFlex."""
    with Site(tmp_path / "site", SCENARIO, **SETTINGS) as site:
        yield site


def log_in(site, login):
    """Sign somebody in, and give the token."""
    fields = urllib.parse.urlencode({"login": login, "password": "demo"}).encode("ascii")
    with urllib.request.urlopen(f"{site.url}api/login", fields, timeout=PATIENCE) as answer:
        return json.load(answer)["access_token"]


def test_schemathesis_finds_nothing(site, tmp_path):
    """Sound requests are accepted, others refused, and all answers are as the document says."""
    token, other = log_in(site, "priya"), log_in(site, "emma")
    bearer = {"Authorization": f"Bearer {token}"}
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(other=other), encoding="utf-8")
    events = urllib.request.Request(f"{site.url}api/events", headers=bearer)
    with urllib.request.urlopen(events, timeout=PATIENCE) as stream:
        assert stream.status == 200
        done = subprocess.run(
            [
                SCHEMATHESIS,
                *("--config-file", "schemathesis.toml", "run", f"{site.url}api/openapi.json"),
                *("--header", f"Authorization: Bearer {token}"),
                *("--checks", "all"),
                *("--generation-deterministic", "--max-examples", "5", "--no-shrink"),
                *("--continue-on-failure", "--no-color", "--request-timeout", str(PATIENCE)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {OPERATIONS}\n" in done.stdout, done.stdout
