"""Grafana's dashboards keep its schema's rules and the project's own, and ask for nothing that does not exist."""

import itertools
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tf2x_gateway.metrics import Metrics
from tf_serving_compat import metrics as serving_metrics

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "monitoring"
sys.path.append(str(ROOT / "tools"))

import dashboards  # noqa: E402

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
KINDS = {"timeseries", "stat", "heatmap"}
# Of Grafana's some 300; an id that it does not know is shown as a suffix.
UNITS = {"none", "short", "percent", "percentunit", "s", "ms", "µs", "bytes", "Bps", "reqps", "ops"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}

# What others export, as far as it is used.
OTHERS = {
    "ALERTS",
    "up",
    "scrape_duration_seconds",
    "prometheus_tsdb_head_series",
    "node_load1",
    "engine_daemon_container_states_containers",
    "swarm_manager_leader",
    "haproxy_server_status",
    "haproxy_backend_http_requests_total",
    "haproxy_backend_retry_warnings_total",
}

DASHBOARDS = dashboards.load()
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.content["panels"]]
TARGETS = [(dashboard, panel, target) for dashboard, panel in PANELS for target in panel["targets"]]


def of_dashboard(value):
    return value.path.stem if isinstance(value, dashboards.Dashboard) else ""


def of_panel(value):
    return value.get("title") or value.get("refId") if isinstance(value, dict) else of_dashboard(value)


each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=of_dashboard)
each_panel = pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=of_panel)
each_target = pytest.mark.parametrize(("dashboard", "panel", "target"), TARGETS, ids=of_panel)


def metric_names(expression: str) -> set[str]:
    """The metrics and rules of a PromQL expression: names that are neither functions, labels nor keywords."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    found = re.finditer(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?![\w:]|\s*\()", text)
    return {match[0] for match in found} - KEYWORDS


def gateway_names() -> set[str]:
    metrics = Metrics()
    metrics.add_process_metrics()
    return {family.name + suffix for family in metrics._registry.collect() for suffix in SUFFIXES.get(family.type, ())}


def serving_names() -> set[str]:
    # TF Serving's counters have no suffix.
    return {
        name.replace("/", ":") + suffix
        for name, metric in serving_metrics._registry.items()
        for suffix in (SUFFIXES["histogram"] if metric.kind == "histogram" else ("",))
    }


def rule_patterns() -> list[str]:
    """Regular expressions of the recording rules' names; what a template puts into one may be anything."""
    files = [path for path in ROLE.rglob("*") if path.suffix in {".yml", ".j2"}]
    records = [name for path in files for name in re.findall(r"^\s*-? *record: *(.+?) *$", path.read_text(), re.M)]
    return [r"\w+".join(map(re.escape, re.split(r"\{\{.*?\}\}", name.strip("\"'")))) for name in records]


def cluster_page_names() -> set[str]:
    sources = (ROOT / "files" / "images" / "cluster_page").rglob("*.py")
    return {name for path in sources for name in re.findall(r"tf2x_\w+", path.read_text())}


def test_names_are_found_in_expressions():
    expression = (
        'histogram_quantile(0.95, sum by (le, node) (rate(a_bucket{b="c{d}", e=~"$f"}[5m]))) '
        "/ on (g) group_left () :h:i_sum or vector(0) unless k:l:p95_5m > 1e3"
    )
    assert metric_names(expression) == {"a_bucket", ":h:i_sum", "k:l:p95_5m"}


def test_the_four_dashboards_are_there_and_brought_to_the_host():
    names = {dashboard.path.name for dashboard in DASHBOARDS}
    assert names == {"serving-overview.json", "gateway.json", "nodes-and-swarm.json", "model-quality.json"}
    configure = (ROLE / "tasks" / "configure.yml").read_text()
    assert set(re.findall(r"lookup\('ansible.builtin.file', 'dashboards/([^']+)'", configure)) == names


def test_dashboards_are_told_apart():
    for key in ("uid", "title"):
        assert len({dashboard.content[key] for dashboard in DASHBOARDS}) == len(DASHBOARDS)


@each_dashboard
def test_dashboard(dashboard):
    content = dashboard.content
    assert content["uid"] == f"tf2x-{dashboard.path.stem}"
    # Longer ones are refused.
    assert len(content["uid"]) <= 40
    # Grafana gives it; a number in a file may be another dashboard's.
    assert "id" not in content and "__inputs" not in content
    assert content["title"] and content["description"].endswith(".")
    assert content["tags"] == ["tf2x"]
    assert content["schemaVersion"] >= 36
    # What is changed in the browser would be lost with the next file.
    assert content["editable"] is False
    assert content["time"]["to"] == "now" and content["timezone"] in {"browser", "utc"}
    assert re.fullmatch(r"\d+[sm]", content["refresh"])


@each_dashboard
def test_the_datasource_is_a_variable_and_every_variable_is_used(dashboard):
    variables = {entry["name"]: entry for entry in dashboard.content["templating"]["list"]}
    assert len(variables) == len(dashboard.content["templating"]["list"])
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    expressions = " ".join(target["expr"] for panel in dashboard.content["panels"] for target in panel["targets"])
    for name, entry in variables.items():
        assert entry["label"]
        if name != "datasource":
            assert entry["type"] == "query" and entry["datasource"] == DATASOURCE
            assert entry["includeAll"] and entry["allValue"]
            # Several values become a regular expression.
            uses = re.findall(rf"(\S)\"\${name}\b", expressions)
            assert uses and set(uses) == {"~"}, f"${name} is not used, or not with =~"
    used = set(re.findall(r"\$(\w+)", expressions)) - {"__rate_interval"}
    assert used == set(variables) - {"datasource"}
    assert list(dashboard.variable_queries())


@each_dashboard
def test_panels_have_ids_and_titles_of_their_own(dashboard):
    for key in ("id", "title"):
        counts = Counter(panel[key] for panel in dashboard.content["panels"])
        assert [value for value, count in counts.items() if count > 1] == []


@each_dashboard
def test_panels_lie_in_the_grid_side_by_side(dashboard):
    for panel in dashboard.panels:
        assert panel.width > 0 and panel.height > 0 and panel.x >= 0 and panel.y >= 0
        assert panel.x + panel.width <= COLUMNS
    for one, other in itertools.combinations(dashboard.panels, 2):
        apart = (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
        assert apart, f"{one.title} lies over {other.title}"


@each_panel
def test_panel(dashboard, panel):
    assert panel["type"] in KINDS
    assert isinstance(panel["id"], int) and panel["id"] > 0
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["datasource"] == DATASOURCE
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["fieldConfig"]["overrides"] == []
    assert panel["targets"]
    identifiers = [target["refId"] for target in panel["targets"]]
    assert len(set(identifiers)) == len(identifiers)
    if panel["type"] == "heatmap":
        assert panel["options"]["calculate"] is False and panel["options"]["yAxis"]["unit"] in UNITS
    if panel["type"] == "stat":
        assert panel["options"]["reduceOptions"]["calcs"]


@each_panel
def test_thresholds_begin_at_minus_infinity_and_rise(dashboard, panel):
    thresholds = panel["fieldConfig"]["defaults"].get("thresholds")
    if thresholds:
        first, *others = (step["value"] for step in thresholds["steps"])
        assert thresholds["mode"] == "absolute" and first is None
        assert others == sorted(set(others))


@each_target
def test_target(dashboard, panel, target):
    assert target["datasource"] == DATASOURCE
    assert target["legendFormat"]
    assert bool(target.get("instant")) != bool(target["range"])
    assert bool(target.get("instant")) == (panel["type"] == "stat")
    assert (target.get("format") == "heatmap") == (panel["type"] == "heatmap")
    expression = target["expr"]
    assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")
    dashboards.expand(expression, dashboard.variables)


@each_target
def test_ranges_follow_the_scrape_interval(dashboard, panel, target):
    assert set(re.findall(r"\[([^]]*)\]", target["expr"])) <= {"$__rate_interval"}


@each_target
def test_counters_are_not_shown_as_they_are(dashboard, panel, target):
    for match in re.finditer(r"(\w+\()?([\w:]+_(?:total|bucket|sum|count))\b(?!\()", target["expr"]):
        assert match[1] in {"rate(", "increase("}, f"{match[2]} is a counter"


@each_target
def test_quantiles_keep_the_buckets(dashboard, panel, target):
    if "histogram_quantile" in target["expr"] or panel["type"] == "heatmap":
        assert re.search(r"sum by \((le|le, [^)]*)\) ", target["expr"])


@each_target
def test_legends_show_labels_that_are_left(dashboard, panel, target):
    kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    if kept:
        assert shown <= set(", ".join(kept).split(", "))
    elif re.match(r"(sum|max|count|avg)\(", target["expr"]):
        assert not shown


@each_dashboard
def test_every_metric_and_rule_is_known(dashboard):
    known = gateway_names() | serving_names() | cluster_page_names() | OTHERS
    rules = rule_patterns()
    for query in dashboard.queries():
        for name in metric_names(query.expression):
            assert name in known or any(re.fullmatch(rule, name) for rule in rules), f"{query.name}: {name}"


def test_what_others_export_is_used():
    used = set().union(*(metric_names(query.expression) for dashboard in DASHBOARDS for query in dashboard.queries()))
    assert used >= OTHERS


def test_grafana_is_provisioned_with_that_datasource_and_closed():
    source = (ROLE / "templates" / "grafana" / "datasources" / "prometheus.yml.j2").read_text()
    prometheus = next(
        entry
        for entry in yaml.safe_load(re.sub(r"\{\{.*?\}\}", "text", source))["datasources"]
        if entry["type"] == "prometheus"
    )
    current = DASHBOARDS[0].content["templating"]["list"][0]["current"]
    assert (prometheus["uid"], prometheus["name"]) == (current["value"], current["text"])
    assert prometheus["isDefault"] and not prometheus["editable"]
    snippet = (ROLE / "templates" / "stack" / "grafana.yml.j2").read_text()
    service = yaml.safe_load(re.sub(r'"?\{\{.*?\}\}"?', "text", snippet))["grafana"]
    environment = service["environment"]
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"].startswith("/run/secrets/")
    # The front does.
    assert "ports" not in service
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name in {dashboard.path.name for dashboard in DASHBOARDS}
