"""The run of all queries notices what is empty or wrong, and the pictures show what Prometheus has."""

from __future__ import annotations

import json
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qs, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tools", "tests/e2e"):
    sys.path.append(str(ROOT / folder))

import dashboards  # noqa: E402
import panel_pictures  # noqa: E402
import panels  # noqa: E402

END, MINUTES = 1_800_000_000, 10
SVG = "{http://www.w3.org/2000/svg}"
# Every label that a legend shows, with its name as its value.
LABELS = {
    label: label
    for dashboard in dashboards.load()
    for query in dashboard.queries()
    for label in query.legend_labels
    if label != "le"
}


class Script:
    """What Prometheus answers: `answer` gets an expression and returns the series' labels and values, or an error."""

    def __init__(self) -> None:
        self.answer: Callable[[str], list[tuple[dict[str, str], str]] | str] = lambda expression: [
            ({**LABELS, "le": bound}, value) for bound, value in (("0.5", "3"), ("+Inf", "4"))
        ]

        self.targets = {"node-1": "up", "node-2": "up"}

    def document(self, path: str, parameters: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        if path.endswith("/targets"):
            targets = [
                {"labels": {"job": "node", "instance": name}, "health": health} for name, health in self.targets.items()
            ]
            return 200, {"status": "success", "data": {"activeTargets": targets}}
        found = self.answer(parameters["query"][0])
        if isinstance(found, str):
            return 400, {"status": "error", "errorType": "bad_data", "error": found}
        if path.endswith("_range"):
            start, end, step = (float(parameters[name][0]) for name in ("start", "end", "step"))
            times = [start + number * step for number in range(int((end - start) / step) + 1)]
            result = [{"metric": labels, "values": [[time, value] for time in times]} for labels, value in found]
            return 200, {"status": "success", "data": {"resultType": "matrix", "result": result}}
        result = [{"metric": labels, "value": [float(parameters["time"][0]), value]} for labels, value in found]
        return 200, {"status": "success", "data": {"resultType": "vector", "result": result}}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def prometheus(script: Script) -> Iterator[dashboards.Prometheus]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status, document = script.document(url.path, parse_qs(url.query))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield dashboards.Prometheus(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def overview() -> dashboards.Dashboard:
    return dashboards.Dashboard(dashboards.FOLDER / "serving-overview.json")


@pytest.fixture
def quality() -> dashboards.Dashboard:
    return dashboards.Dashboard(dashboards.FOLDER / "model-quality.json")


def scripted(script: Script, part: str, found: Any) -> None:
    """Answer expressions that have `part` otherwise."""
    usual = script.answer
    script.answer = lambda expression: found if part in expression else usual(expression)


def check(prometheus: dashboards.Prometheus, *several: dashboards.Dashboard) -> panels.Report:
    return panels.check(prometheus, several, END, MINUTES)


def faults(report: panels.Report) -> dict[str, str]:
    return {outcome.query.name: outcome.fault for outcome in report.bad}


def test_all_is_well(prometheus):
    report = check(prometheus, *dashboards.load())
    assert faults(report) == {} and report.ok
    assert report.figures["targets"] == report.figures["targets_up"] == 2
    assert report.figures["panels"] == sum(len(dashboard.panels) for dashboard in dashboards.load())
    assert report.figures["queries"] > report.figures["panels"]
    assert report.figures["queries_empty"] == 0 and report.figures["queries_without_history"] == []


@pytest.mark.parametrize("found", [[], [(LABELS, "NaN")]], ids=["no series", "no number"])
def test_an_empty_query_is_a_fault(prometheus, script, overview, found):
    scripted(script, "model_code:", found)
    report = check(prometheus, overview)
    assert list(faults(report)) == ["Answers by status, A"]
    assert "EMPTY: sum by (code)" in report.text
    assert report.figures["queries_empty"] == 1


def test_a_variable_without_values_is_a_fault(prometheus, script, overview):
    scripted(script, "count by (model) (tf2x_gateway_predictions_total)", [])
    assert list(faults(check(prometheus, overview))) == ["variable model"]


def test_an_error_is_a_fault_with_the_servers_words(prometheus, script, overview):
    scripted(script, "queuing_latency", "parse error: unexpected character")
    assert faults(check(prometheus, overview)) == {"Wait for a batch, A": "ERROR: parse error: unexpected character"}


def test_a_legend_without_its_label_is_a_fault(prometheus, script, overview):
    scripted(script, "model_code:", [({"status": "200"}, "1")])
    assert faults(check(prometheus, overview)) == {"Answers by status, A": "ERROR: no series has the legend's code"}


def test_a_server_that_is_not_there_is_a_fault(overview):
    report = check(dashboards.Prometheus("http://127.0.0.1:9"), overview)
    assert len(report.bad) == len(report.outcomes)


def test_drift_may_be_empty_only_while_there_is_no_history(prometheus, script, quality):
    scripted(script, "psi_1h", [])
    scripted(script, panels.HISTORY, [])
    report = check(prometheus, quality)
    assert faults(report) == {}
    assert report.figures["queries_without_history"] == ["Drift of scores, A", "Drift of classes, A"]
    scripted(script, panels.HISTORY, [({}, "1")])
    assert list(faults(check(prometheus, quality))) == ["Drift of scores, A", "Drift of classes, A"]


def test_a_target_that_is_down_is_named(prometheus, script, overview):
    script.targets["node-2"] = "down"
    report = check(prometheus, overview)
    assert not report.ok and report.bad == []
    assert report.figures["targets"] == 2 and report.figures["targets_up"] == 1
    assert [line.split() for line in report.text.splitlines() if "node-2" in line] == [["node", "node-2", "down"]]


def test_an_empty_panel_of_another_kind_has_no_such_excuse(prometheus, script, quality):
    scripted(script, "psi_canary_1h", [])
    scripted(script, panels.HISTORY, [])
    assert list(faults(check(prometheus, quality))) == ["Scores of the canary against stable, A"]


def test_figures_are_added_to_those_of_others(prometheus, overview, tmp_path):
    (tmp_path / "monitoring.json").write_text('{"alerts": 9, "panels": 1}')
    panels.write(check(prometheus, overview), tmp_path)
    figures = json.loads((tmp_path / "monitoring.json").read_text())
    assert figures["alerts"] == 9 and figures["panels"] == len(overview.panels)
    assert (
        (tmp_path / "monitoring.txt")
        .read_text()
        .endswith("0 empty or erroring, 0 without the history that they need\n")
    )


def test_variables_are_replaced():
    assert dashboards.expand('a{b=~"$c"}[$__rate_interval]', {"c": ".+"}) == 'a{b=~".+"}[1m]'
    with pytest.raises(ValueError, match="no variable d"):
        dashboards.expand('a{b=~"${d}"}', {"c": ".+"})


def test_pictures_are_drawn_of_every_panel(prometheus):
    span = panel_pictures.Span(END - 60 * MINUTES, END)
    for dashboard in dashboards.load():
        root = ET.fromstring(panel_pictures.picture(dashboard, prometheus, span))
        titles = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "title"]
        assert titles == [panel.title for panel in dashboard.panels]
        kinds = [panel.kind for panel in dashboard.panels]
        assert len(list(root.iter(f"{SVG}polyline"))) >= kinds.count("timeseries")
        assert len([each for each in root.iter(f"{SVG}text") if each.get("class") == "number"]) >= kinds.count("stat")
        assert bool(list(root.iter(f"{SVG}path"))) == ("heatmap" in kinds)


def test_pictures_say_where_there_is_nothing(prometheus, script, overview):
    script.answer = lambda expression: []
    root = ET.fromstring(panel_pictures.picture(overview, prometheus, panel_pictures.Span(END - 60, END)))
    assert [text.text for text in root.iter(f"{SVG}text")].count("no data") == len(overview.panels)


def test_pictures_have_many_lines_but_not_all(prometheus, script, overview):
    scripted(script, "model_code:", [({"code": str(number)}, "1") for number in range(40)])
    text = panel_pictures.picture(overview, prometheus, panel_pictures.Span(END - 60, END))
    assert " more</text>" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "percentunit", "1.23 %"),
        (12.34, "percent", "12.3 %"),
        (0.25, "s", "250 ms"),
        (2.5, "s", "2.5 s"),
        (0, "s", "0 s"),
        (830, "µs", "830 µs"),
        (1_500_000, "µs", "1.5 s"),
        (3 * 1024**2, "bytes", "3 MiB"),
        (0, "bytes", "0 B"),
        (49.96, "reqps", "50 req/s"),
        (12_345, "short", "12.3 K"),
        (4, "none", "4"),
        (-1, "none", "-1"),
    ],
)
def test_numbers_are_short(value, unit, text):
    assert panel_pictures.number_text(value, unit) == text


@pytest.mark.parametrize(("most", "last"), [(0, 1), (0.9, 1), (1, 1), (3.2, 4), (4, 4), (41, 80), (1e-7, 1e-7)])
def test_ticks_are_round(most, last):
    ticks = panel_pictures.axis_ticks(most)
    assert ticks[0] == 0 and ticks[-1] == pytest.approx(last)
