"""Grafana's dashboards as their files have them, and Prometheus, to be asked what Grafana would ask it."""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "roles" / "monitoring" / "files" / "dashboards"

# Grafana takes four scrapes: a minute with the role's default.
_RATE_INTERVAL = "1m"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")
_LEGEND_LABEL = re.compile(r"\{\{(\w+)\}\}")
_TIMEOUT_SECONDS = 30


class PrometheusError(Exception):
    """Prometheus does not answer, or refuses a query."""


@dataclass(frozen=True)
class Series:
    """One line of an answer, without the points that are no numbers."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Query:
    """What a panel or a variable asks, with the variables replaced as for `All`."""

    name: str
    expression: str
    legend: str
    instant: bool

    @property
    def legend_labels(self) -> list[str]:
        """The labels that the legend shows."""
        return _LEGEND_LABEL.findall(self.legend)

    def legend_of(self, series: Series) -> str:
        """Return what Grafana writes beside a line."""
        return _LEGEND_LABEL.sub(lambda match: series.labels.get(match[1], ""), self.legend).strip()


@dataclass(frozen=True)
class Panel:
    """A panel; `x`, `y`, `width` and `height` are Grafana's grid, which is 24 wide."""

    title: str
    kind: str
    unit: str
    x: int
    y: int
    width: int
    height: int
    queries: tuple[Query, ...]


class Dashboard:
    """A dashboard; `content` is the file's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text())
        self.title: str = self.content["title"]
        self.panels = [self._panel(panel) for panel in self.content["panels"]]

    @property
    def variables(self) -> dict[str, str]:
        """What stands for each variable in a query when all of its values are chosen."""
        entries = self.content["templating"]["list"]
        return {entry["name"]: entry["allValue"] for entry in entries if entry["type"] == "query"}

    def variable_queries(self) -> Iterator[Query]:
        """Yield what the variables' values are made from."""
        for entry in self.content["templating"]["list"]:
            if entry["type"] == "query":
                match = _LABEL_VALUES.fullmatch(entry["query"]["query"])
                if match is None:
                    raise ValueError(f"{self.path}: {entry['query']['query']} is not label_values(selector, label)")
                expression = f"count by ({match['label']}) ({match['selector']})"
                yield Query(f"variable {entry['name']}", expression, f"{{{{{match['label']}}}}}", instant=False)

    def queries(self) -> Iterator[Query]:
        """Yield the queries of all variables and panels."""
        yield from self.variable_queries()
        for panel in self.panels:
            yield from panel.queries

    def _panel(self, panel: Mapping[str, Any]) -> Panel:
        grid = panel["gridPos"]
        heatmap = panel["type"] == "heatmap"
        return Panel(
            panel["title"],
            panel["type"],
            panel["options"]["yAxis"]["unit"] if heatmap else panel["fieldConfig"]["defaults"]["unit"],
            *(grid[key] for key in ("x", "y", "w", "h")),
            tuple(
                Query(
                    f"{panel['title']}, {target['refId']}",
                    expand(target["expr"], self.variables),
                    target["legendFormat"],
                    target.get("instant", False),
                )
                for target in panel["targets"]
            ),
        )


def load() -> list[Dashboard]:
    """Return all dashboards, by file name."""
    return [Dashboard(path) for path in sorted(FOLDER.glob("*.json"))]


def expand(expression: str, variables: Mapping[str, str]) -> str:
    """Replace Grafana's variables. Raises ValueError for one that is not declared."""
    known = {**variables, "__rate_interval": _RATE_INTERVAL}

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in known:
            raise ValueError(f"{expression}: there is no variable {name}")
        return known[name]

    return _VARIABLE.sub(value, expression)


class Prometheus:
    """A Prometheus at its base URL."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # Hosts of a lab are never behind a proxy.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer(self, query: Query, start: float, end: float, step: int) -> list[Series]:
        """Return the series that the panel shows from `start` to `end`. Raises PrometheusError."""
        return self.at(query.expression, end) if query.instant else self.between(query.expression, start, end, step)

    def at(self, expression: str, time: float) -> list[Series]:
        """Return the value of each series at a time. Raises PrometheusError."""
        found = self._ask("query", query=expression, time=f"{time:.3f}")
        # A scalar is no list of series.
        result = found["result"] if found["resultType"] == "vector" else [{"metric": {}, "value": found["result"]}]
        return [_series(entry["metric"], [entry["value"]]) for entry in result]

    def between(self, expression: str, start: float, end: float, step: int) -> list[Series]:
        """Return the values of each series, one every `step` seconds. Raises PrometheusError."""
        found = self._ask("query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step=str(step))
        return [_series(entry["metric"], entry["values"]) for entry in found["result"]]

    def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped. Raises PrometheusError."""
        return self._ask("targets", state="active")["activeTargets"]

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with self._opener.open(url, timeout=_TIMEOUT_SECONDS) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["error"]
            except (ValueError, LookupError, TypeError):
                text = f"status {error.code}: {text[:200]}"
            raise PrometheusError(text) from error
        except (OSError, ValueError, LookupError) as error:
            raise PrometheusError(f"{self._url}: {error}") from error


def _series(labels: Mapping[str, str], values: list[tuple[float, str]]) -> Series:
    points = ((float(time), float(value)) for time, value in values)
    return Series(labels, tuple(point for point in points if math.isfinite(point[1])))
