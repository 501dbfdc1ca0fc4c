"""The files under deploy/ fit the bridge: metrics that it serves, settings that it reads, packages that are pinned."""

import json
import re
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from bridge.clock import Clock
from bridge.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
WORDS_OF_PROMETHEUS = {"le", "job", "instance"}


def expressions() -> dict[str, str]:
    """Every PromQL expression of the alerts and the dashboard, by where it stands."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules}
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']}"] = variable["query"]["query"]
    return found


def served() -> dict[str, set[str]]:
    """The names of the series that the bridge serves, with their labels."""
    names: dict[str, set[str]] = {}
    for collector in vars(Metrics(Clock())).values():
        if not hasattr(collector, "_labelnames"):
            continue
        for family in collector.describe():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            names |= {family.name + suffix: set(collector._labelnames) for suffix in suffixes}
    return names


@pytest.mark.parametrize(("place", "expression"), expressions().items())
def test_alerts_and_dashboard_ask_for_what_is_served(place: str, expression: str) -> None:
    known = served()
    asked = set(re.findall(r"planfix_bridge_\w+", expression))
    assert asked <= known.keys(), place
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        labels |= {label.strip() for label in group.split(",")}
    assert labels <= set().union(*(known[name] for name in asked)) | WORDS_OF_PROMETHEUS, place


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert {f"alert {name}" for name in fired} == {place for place in expressions() if place.startswith("alert ")}


def test_the_image_is_built_from_what_the_package_wants() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    wanted = [Requirement(text) for text in requires("planfix-bridge") or ()]
    for one in wanted:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            assert one.specifier.contains(Version(pinned[one.name.lower()])), f"{one}: make lock"


def test_every_pinned_package_has_its_hashes_and_no_host_is_named() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) <= text.count("--hash=sha256:")
    assert "://" not in text
    assert "index-url" not in text


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((DEPLOY / "helm" / "planfix-bridge" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version("planfix-bridge")


@pytest.mark.parametrize("file", ["compose.yaml", "deploy/compose/replicas.yaml"])
def test_containers_have_least_rights(file: str) -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())["services"]
    for name, service in services.items():
        if "image" in service:
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["mem_limit"], name
            assert service["pids_limit"], name
        if name in ("bridge", "proxy") and "image" in service:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
