"""Alerts and the dashboard use metrics that exist; every alert has a test and a runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from prometheus_client.metrics import MetricWrapperBase

from service.telemetry import metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]


def exported() -> set[str]:
    """Names of all time series that a process exports."""
    names = {
        sample
        for value in vars(metrics).values()
        if isinstance(value, MetricWrapperBase)
        for family in value.describe()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    # As text: importing the workers imports their engines.
    for stage in ("image", "text"):
        source = ROOT / "service" / "workers" / stage / "metrics.py"
        names |= set(re.findall(r"mmi_\w+", source.read_text()))
    return names | {f"{name}_total" for name in names}


def used(expression: str) -> set[str]:
    return set(re.findall(r"mmi_\w+", expression))


def test_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads(
        (ROOT / "k8s" / "components" / "monitoring" / "dashboard.json").read_text()
    )
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        assert used(expression) <= exported()


def test_alerts_use_metrics_that_exist() -> None:
    assert len(RULES) > 10
    for rule in RULES:
        assert used(rule["expr"])
        assert used(rule["expr"]) <= exported()


def test_absence_is_asked_of_metrics_that_one_role_alone_exports() -> None:
    """Every role exports the metrics without labels; only the one that uses them has the others."""
    asked = [used(rule["expr"]) for rule in RULES if "absent(" in rule["expr"]]
    assert asked
    for names in asked:
        for name in names:
            [metric] = [m for m in vars(metrics).values() if is_of(m, name)]
            assert metric._labelnames


def is_of(metric: object, name: str) -> bool:
    """Whether a time series is of this metric."""
    if not isinstance(metric, MetricWrapperBase):
        return False
    [family] = metric.describe()
    return name in (family.name, f"{family.name}_total")


def test_dashboard_shows_http_and_engines() -> None:
    dashboard = json.loads(
        (ROOT / "k8s" / "components" / "monitoring" / "dashboard.json").read_text()
    )
    shown = set.union(*(used(t["expr"]) for panel in dashboard["panels"] for t in panel["targets"]))
    assert {"mmi_http_requests_total", "mmi_http_request_seconds_bucket"} <= shown
    assert {"mmi_text_kv_cache_usage", "mmi_image_rows_total", "mmi_ready"} <= shown


def test_every_alert_has_a_runbook() -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings


def test_every_alert_is_tested_raised_and_quiet() -> None:
    """`make lint-deploy` runs these with promtool."""
    tests = yaml.safe_load((ROOT / "tests" / "data" / "alerts" / "alerts_test.yml").read_text())
    outcomes = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in tests["tests"]
        for case in test["alert_rule_test"]
    }
    assert outcomes == {(rule["alert"], raised) for rule in RULES for raised in (True, False)}
