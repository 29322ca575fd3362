"""Alert rules and dashboard name metrics that exist, and every alert has its action in the documentation."""

import json
import re
from typing import Any

import pytest
import yaml

from soul_store.metrics import REGISTRY
from soul_store.service_metrics import ServiceCollector
from tests.paths import ROOT

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/soul.json").read_text())
OPERATIONS = (ROOT / "docs/operations.md").read_text()
#: Names of samples that a metric of a type has.
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def list_samples() -> dict[str, set[str]]:
    """Return the samples of every metric in the code, with their labels."""
    own = [(metric._type, metric._name, metric._labelnames) for metric in REGISTRY._collector_to_names]  # type: ignore[attr-defined]
    of_service = [(family.type, family.name, family._labelnames) for family in ServiceCollector().describe()]  # type: ignore[attr-defined]
    return {
        f"{name}{suffix}": set(labels) | ({"le"} if suffix == "_bucket" else set())
        for kind, name, labels in [*own, *of_service]
        for suffix in SUFFIXES[kind]
    }


SAMPLES = list_samples()
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    names = set(re.findall(r"soul_\w+", expression))
    used = re.findall(r"(\w+)\s*=~?\s*\"", expression)
    grouped = [label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)]

    assert names
    assert names <= set(SAMPLES)
    labels = {label for name in names for label in SAMPLES[name]}
    assert {*used, *grouped} <= labels | {"job", "instance"}  # these two are Prometheus's own


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    text = " ".join(EXPRESSIONS)

    assert {name for name in SAMPLES if not name.endswith(("_bucket", "_sum", "_count")) and name not in text} == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_and_an_action_in_the_documentation(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert (ROOT / page).exists()
    assert anchor == rule["alert"].lower()
    assert f"### {rule['alert']}\n" in OPERATIONS


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
