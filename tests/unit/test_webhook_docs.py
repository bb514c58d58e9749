"""docs/webhooks.md: what it says is so, and what it shows runs."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path

import pytest
import yaml
from standardwebhooks.webhooks import WebhookVerificationError

from mxflex import __version__, changes, config
from mxflex.config import load
from mxflex.gateway.relay import MX_DOWN
from mxflex.web.openapi import describe
from mxflex.webhooks import dispatch, message, queue
from mxflex.webhooks.signing import sign
from tests.openapi import Measure

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
KEY = b64decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
ID, BODY = "msg_1", b'{"type":"status","timestamp":"2026-03-01T08:15:30.250Z","data":{"mx":"up"}}'


def section(heading):
    """Give the text below a heading, up to the next one."""
    return PAGE.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def first_cells(text):
    return [cell.strip("`") for cell in re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)]


def signed(body=BODY, timestamp=None, key=KEY):
    timestamp = timestamp or int(time.time())
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign([b"another key of another receiver", key], ID, timestamp, body),
    }


FORGED = {
    "another key": (signed(key=b"x" * 24), BODY),
    "another body": (signed(), BODY + b" "),
    "another id": (signed() | {"webhook-id": "msg_2"}, BODY),
    "old": (signed(timestamp=int(time.time()) - 301), BODY),
}


@pytest.mark.parametrize("code", blocks("python"))
def test_checking_in_python(code):
    """Both receivers in Python take what MXFlex signs, and nothing else."""
    place = {}
    exec(code, place)
    assert place["receive"](signed(), BODY)["type"] == "status"
    for headers, body in FORGED.values():
        with pytest.raises((ValueError, WebhookVerificationError)):
            place["receive"](headers, body)


def test_checking_in_javascript(tmp_path):
    """The receiver in JavaScript takes what MXFlex signs, and nothing else."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    (code,) = blocks("javascript")
    (tmp_path / "receiver.mjs").write_text(code, encoding="utf-8")
    (tmp_path / "test.mjs").write_text(
        """
        import { receive } from "./receiver.mjs";
        const told = [];
        for (const { headers, body } of JSON.parse(process.argv[2])) {
          try { told.push(receive(headers, Buffer.from(body)).type); }
          catch (error) { told.push(error.message); }
        }
        console.log(JSON.stringify(told));
        """,
        encoding="utf-8",
    )
    cases = [(signed(), BODY), *FORGED.values()]
    given = json.dumps([{"headers": headers, "body": body.decode()} for headers, body in cases])
    done = subprocess.run(
        [node, "test.mjs", given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    forged = "not from our MXFlex"
    assert json.loads(done.stdout) == ["status", forged, forged, forged, "too old"]


def test_the_configurations_load():
    """What is shown as configuration is one, and the table has each key of a webhook."""
    shown = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)
    mx = {"addr": "192.0.2.10", "login": "mxflex", "password": "secret"}
    loaded = {}
    for block in shown:
        if block.startswith(("    webhooks:", "    admin:")):
            document = yaml.safe_load(block)
            read = load(json.dumps({"mx": mx, **document}), "test", {})
            loaded[next(iter(document))] = read
    assert loaded["webhooks"].webhooks[0].extensions == ("3095", "3044")
    assert loaded["webhooks"].webhooks[0].secrets == (KEY,)
    assert loaded["admin"].admin.extensions == ("3061",)
    assert first_cells(section("## Configuration")) == list(config._WEBHOOK_KINDS)


def test_the_examples_are_what_is_posted():
    """Each body that is shown has the keys of a message, and content as the API describes it."""
    measure = Measure(describe(token_in_url=True))
    bodies = [json.loads(line) for line in re.findall(r'^    (\{"type":.*)$', PAGE, re.MULTILINE)]
    names = [body["type"] for body in bodies]
    assert names == ["DeliveredEvent", "ContactEvent", "status", "gap"]
    for body in bodies:
        assert list(body) == ["type", "timestamp", "data"]
        assert not measure.problems({"$ref": "#/components/schemas/WebhookMessage"}, body)


def test_the_signature_that_is_shown():
    """The request that is shown is signed by the secret of the configuration that is shown."""
    (head, body) = re.search(
        r"    POST .*\n((?:    .+\n)+)\n    (\{.*\})\n", section("## What is posted")
    ).groups()
    headers = dict(re.findall(r"^ +([\w-]+): (.*)$", head, re.MULTILINE))
    timestamp = int(headers["webhook-timestamp"])
    signature = sign([KEY], headers["webhook-id"], timestamp, body.encode())
    assert signature == headers["webhook-signature"]
    assert headers["User-Agent"] == f"MXFlex/{__version__}"


def test_the_gaps():
    """The table of gaps has every reason that there is."""
    reasons = [MX_DOWN, queue.RESTART, queue.FULL, queue.LOST, queue.DISABLED, queue.REMOVED]
    assert first_cells(section("## Gaps")) == reasons
    schemas = describe(token_in_url=True)["components"]["schemas"]
    assert schemas["WebhookGapReason"]["enum"] == reasons


def test_the_log_lines():
    """Each line of the log that is explained is one that is logged."""
    modules = (dispatch, message, queue, changes)
    source = "".join(map(inspect.getsource, modules))
    formats = {re.sub(r"\{[a-z]+\}", "…", text) for text in re.findall(r'"([^"\n]+)"', source)}
    lines = first_cells(section("## Looking after them"))
    assert len(lines) == 9
    assert set(lines) <= formats


def test_the_bounds():
    """Bounds that are written out are those of the code."""
    text = section("## The queue")
    settings = config.DeliverySettings()
    assert f"{settings.max_queued:,}" in text
    assert f"`delivery.max_dead`, {settings.max_dead};" in text
    assert f"{dispatch.MAX_WAITING}, or {dispatch.MAX_WAITING_BYTES >> 20} MiB" in text
    assert settings.max_age == 24 * 3600
    assert queue.ROOM == 0.9
    hook = config.WebhookSettings(name="a", url="https://a/", secrets=())
    table = section("## Configuration")
    assert f"0.1 to 300 | {hook.timeout:g} |" in table
    assert f"1 to 100 | {hook.parallel} |" in table
