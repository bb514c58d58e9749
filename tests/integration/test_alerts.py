"""The alerts and the dashboard in contrib: Prometheus takes them, and their figures are real."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import pytest_twisted
import yaml
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.integration.h2client import LOGIN, PASSWORD
from tests.integration.raw_http import request_bytes
from tests.ports import LOOPBACK, free_port

ROOT = Path(__file__).parents[2]
RULES = ROOT / "contrib" / "mxflex.rules.yml"
DASHBOARD = ROOT / "contrib" / "mxflex.dashboard.json"
DOCS = ROOT / "docs" / "monitoring.md"
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$job": "mxflex", "$instance": "m"}

TIMEOUTS = 'mxflex_mx_commands_total{command="MakeCall", result="timeout"'
REFUSALS = 'mxflex_logins_total{result="refused"'
REFUSED = 'mxflex_streams_refused_total{limit="max_per_token"'
HOOK = '{webhook="crm"'
DAY = 86_400
# For each alert the figures, minute by minute, that set it off within the hour. `{` stands for
# further labels.
FIRING = {
    "MXFlexDown": {"up{": "0x60"},
    "MXFlexWithoutMX": {"mxflex_mx_link_up{": "0x60"},
    "MXFlexConnectionUnsteady": {"mxflex_mx_link_connects_total{": "1+1x60"},
    "MXFlexMonitorsMissing": {"mxflex_monitors_missing{": "2x60", "mxflex_mx_link_up{": "1x60"},
    "MXFlexCommandsUnanswered": {TIMEOUTS: "0+1x60"},
    "MXFlexCommandsSlow": {
        'mxflex_mx_command_seconds_bucket{command="MakeCall", le="2.5"': "0+1x60",
        'mxflex_mx_command_seconds_bucket{command="MakeCall", le="5.0"': "0+9x60",
        'mxflex_mx_command_seconds_bucket{command="MakeCall", le="+Inf"': "0+9x60",
    },
    "MXFlexFanOutSlow": {
        'mxflex_fan_out_seconds_bucket{le="0.1"': "0+9x60",
        'mxflex_fan_out_seconds_bucket{le="0.25"': "0+10x60",
        'mxflex_fan_out_seconds_bucket{le="+Inf"': "0+10x60",
    },
    "MXFlexStreamsNearLimit": {"mxflex_streams_open{": "95x60", "mxflex_streams_limit{": "100x60"},
    "MXFlexStreamsRefused": {REFUSED: "0+2x60"},
    "MXFlexStreamsCutOff": {"mxflex_streams_cut_off_total{": "0+3x60"},
    "MXFlexLoginsRefused": {REFUSALS: "0+6x60"},
    # The time of these tests begins with the epoch.
    "MXFlexCertificateEnds": {
        "mxflex_certificate_not_after_timestamp_seconds{": f"{13 * DAY}x120",
        "mxflex_certificate_real{": "1x120",
    },
    "MXFlexNoCertificate": {"mxflex_certificate_real{": "0x60"},
    "MXFlexWebhookFails": {f"mxflex_webhook_failing{HOOK}": "1x60"},
    "MXFlexWebhookQueue": {"mxflex_webhook_queue_usable{": "0x60"},
    "MXFlexWebhookLoses": {
        f"mxflex_webhook_dropped_total{HOOK}": "0+1x60",
        f"mxflex_webhook_died_total{HOOK}": "0x60",
    },
    "MXFlexFilesNearLimit": {"process_open_fds{": "95x60", "process_max_fds{": "100x60"},
}
WELL = {
    "up{": "1x120",
    "mxflex_mx_link_up{": "1x120",
    "mxflex_mx_link_connects_total{": "1x120",
    "mxflex_monitors_missing{": "0x120",
    TIMEOUTS: "3x120",
    'mxflex_mx_command_seconds_bucket{command="MakeCall", le="2.5"': "0+9x120",
    'mxflex_mx_command_seconds_bucket{command="MakeCall", le="+Inf"': "0+9x120",
    'mxflex_fan_out_seconds_bucket{le="0.1"': "0+10x120",
    'mxflex_fan_out_seconds_bucket{le="+Inf"': "0+10x120",
    "mxflex_streams_open{": "89x120",
    "mxflex_streams_limit{": "100x120",
    REFUSED: "5x120",
    'mxflex_streams_refused_total{limit="stopping"': "0+10x120",
    "mxflex_streams_cut_off_total{": "0+1x120",
    REFUSALS: "0+1x120",
    "mxflex_certificate_not_after_timestamp_seconds{": f"{30 * DAY}x120",
    "mxflex_certificate_real{": "1x120",
    f"mxflex_webhook_failing{HOOK}": "0x120",
    f"mxflex_webhook_disabled{HOOK}": "0x120",
    f"mxflex_webhook_dropped_total{HOOK}": "7x120",
    f"mxflex_webhook_died_total{HOOK}": "7x120",
    "process_open_fds{": "89x120",
    "process_max_fds{": "100x120",
}


def promtool(*arguments, text=None):
    """Run promtool, with a text as its input; what it says must be that all is well."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not there")
    done = subprocess.run(
        [path, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts():
    """Give the alerts by their names."""
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def expressions():
    """Give every expression of the dashboard, with values in the place of variables."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for name, value in VARIABLES.items():
        texts = [text.replace(name, value) for text in texts]
    return texts


def series(figures):
    """Write figures as promtool reads them."""
    return [
        {
            "series": (name + ', job="mxflex", instance="m"}').replace("{,", "{"),
            "values": values,
        }
        for name, values in figures.items()
    ]


def test_prometheus_reads_the_alerts():
    """Every rule is sound."""
    promtool("check", "rules", str(RULES))


def test_what_sets_alerts_off(tmp_path):
    """Each alert is set off by what it is for, and by that alone; none while all is well."""
    assert FIRING.keys() == alerts().keys()
    cases = [(name, series(figures), [name]) for name, figures in FIRING.items()]
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": figures,
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "60m" if name != "MXFlexCertificateEnds" else "90m",
                    "exp_samples": [
                        {"labels": f'{{alertname="{each}"}}', "value": 1} for each in fired
                    ],
                }
            ],
        }
        for name, figures, fired in [*cases, ("well", series(WELL), [])]
    ]
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    promtool("test", "rules", str(path))


def test_prometheus_reads_the_dashboard(tmp_path):
    """Every expression of the dashboard is sound."""
    rules = [
        {"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions())
    ]
    assert len(rules) > 20
    path = tmp_path / "rules.yml"
    document = {"groups": [{"name": "dashboard", "rules": rules}]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    promtool("check", "rules", str(path))


@pytest_twisted.ensureDeferred
async def test_every_figure_is_there(secure, tmp_path):
    """Alerts, panels and docs/monitoring.md speak of the figures that a daemon has."""
    # Nobody listens there: the figures are there all the same.
    hook = {
        "name": "crm",
        "url": f"http://{LOOPBACK}:{free_port()}/",
        "secret": f"whsec_{'A' * 32}",
    }
    served = await secure(
        monitor={"listen": [f"tcp:0:interface={LOOPBACK}"]},
        webhooks=[hook],
        delivery={"storage": str(tmp_path / "webhooks.db")},
    )
    client = await served.connect()
    await client.log_in(LOGIN, PASSWORD)
    connection = await served.running.connect(served.running.ports[-1])
    connection.send(request_bytes("GET", "/metrics"))
    text = (await connection.read_reply("GET")).body.decode()
    samples, families = {}, set()
    for family in read_text(text):
        families.add(family.name + ("_total" if family.type == "counter" else ""))
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    listed = re.findall(r"^\| `(mxflex_\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert {each for each in families if each.startswith("mxflex_")} == set(listed)
    # These come from Prometheus itself.
    labels = {"job", "instance"}.union(*samples.values())
    texts = [*expressions(), *(rule["expr"] for rule in alerts().values())]
    for each in texts:
        assert set(re.findall(r"\b(?:mxflex|process|python)_\w+", each)) <= samples.keys(), each
        named = re.findall(r"(\w+)=~?\"|(\w+)!=\"", each)
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", each)
        used = {name for pair in named for name in pair if name}
        used |= {name.strip() for group in grouped for name in group.split(",")}
        assert used <= labels, each
    promtool("check", "metrics", text=text)


def test_the_document_lists_the_alerts():
    """docs/monitoring.md has every alert, and none that is not there."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(MXFlex\w+)` \|", text, re.MULTILINE)) == alerts().keys()
