"""Alerts: each has a promtool case in which it fires and one in which it does not, a severity and a runbook.

promtool runs the cases in molecule/monitoring (`make monitoring`), with the Prometheus that is deployed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "roles/monitoring/files/rules"
CASES = ROOT / "tests/rules"
FILES = sorted(path.name for path in RULES.glob("*.yml"))


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((RULES / name).read_text())["groups"] for rule in group["rules"]]


ALERTS = [(name, rule) for name in FILES for rule in rules(name) if "alert" in rule]


def identifier(value: object) -> str | None:
    if isinstance(value, dict):
        return "-".join([value["alert"], *value["labels"].values()])
    return None


def cases(name: str) -> dict[str, list[list[dict[str, str]]]]:
    """Return for each alert the labels of those that are expected, a list for each case."""
    found = defaultdict(list)
    for test in yaml.safe_load((CASES / name).read_text())["tests"]:
        for case in test.get("alert_rule_test", []):
            found[case["alertname"]].append([alert["exp_labels"] for alert in case["exp_alerts"]])
    return found


def test_rules_are_deployed_and_tested():
    deployed = yaml.safe_load((ROOT / "roles/monitoring/vars/main.yml").read_text())["__monitoring_rule_files"]
    assert sorted(deployed) == sorted([*FILES, "objectives.yml"])
    assert sorted(path.name for path in CASES.glob("*.yml")) == FILES
    for name in FILES:
        assert yaml.safe_load((CASES / name).read_text())["rule_files"] == [
            f"../../roles/monitoring/files/rules/{name}"
        ]


@pytest.mark.parametrize(("name", "rule"), ALERTS, ids=identifier)
def test_a_case_fires_and_one_does_not(name, rule):
    expected = cases(name)[rule["alert"]]
    assert [] in expected, "no case in which it does not fire"
    assert any(rule["labels"].items() <= labels.items() for alerts in expected for labels in alerts), "no case fires"


@pytest.mark.parametrize(("name", "rule"), ALERTS, ids=identifier)
def test_says_what_to_do(name, rule):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"


def test_runbooks_are_those_of_the_alerts():
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert headings == sorted(set(headings))
    assert set(headings) == {rule["alert"] for _name, rule in ALERTS}


def test_recorded_names_say_level_metric_and_operation():
    for name in FILES:
        for rule in rules(name):
            if "record" in rule:
                assert re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", rule["record"]), rule["record"]
