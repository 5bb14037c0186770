"""Look for targets that are down, and run every query of every panel of Grafana's dashboards, on real traffic.

    python tests/e2e/panels.py [--minutes 60]

Needs a running stack without API keys that has had a canary, both for a share of the traffic and as a shadow, in the
last `--minutes` (`tests/e2e/lifecycle` leaves one), and in the environment
    TF2X_GATEWAY_URLS      the gateways, e.g. http://172.17.0.2:9000,http://172.17.0.3:9000
    TF2X_PROMETHEUS_URL    e.g. http://172.17.0.2:9002

Sends what the dashboards have panels for: good pictures for every model, what is no picture, models that there are not,
and more at once than the gateways take on. A query is well when it is then answered with at least one number, and with
the labels that its legend shows.

Writes monitoring.txt, and its figures into monitoring.json. Ends with 1 unless all is well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
sys.path.append(str(ROOT / "tools"))

from dashboards import Dashboard, Prometheus, PrometheusError, Query, load  # noqa: E402
from load_generator import run_load  # noqa: E402

# Every query has some 200 points.
POINTS = 200
# Scrapes and rules follow the traffic.
PATIENCE_SECONDS = 120
PAUSE_SECONDS = 10
TRAFFIC_SECONDS = 45
RATE = 5
BURSTS = 3

# What compares the last hour with the time before it is empty until there is such a time.
NEEDS_HISTORY = ("model_version:tf2x_gateway_score:psi_1h", "model_version:tf2x_gateway_label:psi_1h")
HISTORY = "count(tf2x_gateway_top_score_count offset 90m)"


@dataclass
class Outcome:
    """What became of a query; `fault` is empty when it is well."""

    dashboard: str
    query: Query
    series: int = 0
    fault: str = ""
    waits: bool = False

    @property
    def line(self) -> str:
        """A line of the report."""
        verdict = self.fault or ("has no history to compare with yet" if self.waits else "ok")
        return f"{self.dashboard:<18}{self.query.name:<42}{self.series:>7}  {verdict}"


@dataclass
class Report:
    """The health of each target by job and instance, and the outcomes of all queries."""

    panels: int
    targets: dict[tuple[str, str], str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all targets are up and all queries are well."""
        return bool(self.targets) and not self.bad and all(health == "up" for health in self.targets.values())

    @property
    def bad(self) -> list[Outcome]:
        """The queries that are not well."""
        return [outcome for outcome in self.outcomes if outcome.fault]

    @property
    def figures(self) -> dict[str, object]:
        """The figures for monitoring.json."""
        return {
            "targets_up": sum(health == "up" for health in self.targets.values()),
            "targets": len(self.targets),
            "panels": self.panels,
            "queries": len(self.outcomes),
            "queries_empty": len(self.bad),
            "queries_without_history": [outcome.query.name for outcome in self.outcomes if outcome.waits],
        }

    @property
    def text(self) -> str:
        """The table."""
        figures = self.figures
        waiting = len(figures["queries_without_history"])
        targets = (f"{job:<18}{instance:<42}{health:>7}" for (job, instance), health in sorted(self.targets.items()))
        queries = (outcome.line for outcome in self.outcomes)
        tail = (
            f"{figures['targets_up']} of {figures['targets']} targets up, {figures['panels']} panels, "
            f"{figures['queries']} queries, {figures['queries_empty']} empty or erroring, "
            f"{waiting} without the history that they need"
        )
        heads = [f"{'job':<18}{'target':<42}{'health':>7}", f"{'dashboard':<18}{'query':<42}{'series':>7}  verdict"]
        return "".join(f"{line}\n" for line in (heads[0], *targets, "", heads[1], *queries, tail))


def check(prometheus: Prometheus, dashboards: Sequence[Dashboard], end: float, minutes: int) -> Report:
    """Look at all targets, and run all queries for the `minutes` before `end`."""
    report = Report(sum(len(dashboard.panels) for dashboard in dashboards))
    # A Prometheus that does not answer is a fault of every query below.
    with contextlib.suppress(PrometheusError):
        for target in prometheus.targets():
            report.targets[target["labels"]["job"], target["labels"]["instance"]] = target["health"]
    start, step = end - minutes * 60, max(1, minutes * 60 // POINTS)
    for dashboard in dashboards:
        for query in dashboard.queries():
            outcome = Outcome(dashboard.title, query)
            report.outcomes.append(outcome)
            try:
                found = [series for series in prometheus.answer(query, start, end, step) if series.points]
                outcome.series = len(found)
                if not found and any(rule in query.expression for rule in NEEDS_HISTORY):
                    outcome.waits = not prometheus.at(HISTORY, end)
            except PrometheusError as error:
                outcome.fault = f"ERROR: {error}"
                continue
            missing = {label for label in query.legend_labels if not any(label in series.labels for series in found)}
            if found and missing:
                outcome.fault = f"ERROR: no series has the legend's {', '.join(sorted(missing))}"
            elif not found and not outcome.waits:
                outcome.fault = f"EMPTY: {query.expression}"
    return report


async def send_traffic(gateways: Sequence[str], capacity: int) -> None:
    """Make every kind of request for a while. Raises RuntimeError when a gateway does not answer good ones."""
    picture = (ROOT / "files" / "models" / "pets" / "samples" / "cat.jpg").read_bytes()
    image = {"Content-Type": "image/jpeg"}
    good: dict[str, asyncio.Task] = {}
    others = []
    for gateway in gateways:
        for model in _models(gateway):
            url = f"{gateway}/models/{model}/predict"
            good[url] = asyncio.create_task(run_load(url, picture, image, rate=RATE, seconds=TRAFFIC_SECONDS))
            others.append(run_load(url, b"no picture", image, rate=1, connections=1, seconds=TRAFFIC_SECONDS))
        nobody = f"{gateway}/models/nobody/predict"
        others.append(run_load(nobody, picture, image, rate=1, connections=1, seconds=TRAFFIC_SECONDS))
    flood = asyncio.gather(*others)
    for _number in range(BURSTS):
        await asyncio.sleep(TRAFFIC_SECONDS / (BURSTS + 1))
        for gateway in gateways:
            url = f"{gateway}/model/predict/"
            await run_load(url, picture, image, connections=capacity + 50, requests=3 * capacity)
    results = dict(zip(good, await asyncio.gather(*good.values()), strict=True))
    await flood
    for url, result in results.items():
        # The bursts take their toll, but not of all.
        if result.ok < result.sent / 2:
            raise RuntimeError(f"{url} did not answer: {result.summary()}")


def _models(gateway: str) -> list[str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{gateway}/models", timeout=10) as response:
        return [model["name"] for model in json.load(response)["models"]]


def write(report: Report, folder: Path) -> None:
    """Write monitoring.txt, and the figures beside those that monitoring.json has already."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "monitoring.txt").write_text(report.text)
    path = folder / "monitoring.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **report.figures}, indent=2) + "\n")


def main() -> int:
    """Make traffic, wait for its traces, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60, help="how far back panels look (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder (default: %(default)s)")
    options = parser.parse_args()
    missing = [name for name in ("TF2X_GATEWAY_URLS", "TF2X_PROMETHEUS_URL") if not os.environ.get(name)]
    if missing:
        parser.error(f"the environment lacks {', '.join(missing)}")
    gateways = [url.rstrip("/") for url in os.environ["TF2X_GATEWAY_URLS"].split(",") if url]
    prometheus = Prometheus(os.environ["TF2X_PROMETHEUS_URL"])
    dashboards = load()
    try:
        limits = prometheus.at("max(tf2x_gateway_in_flight_limit + tf2x_gateway_queued_limit)", time.time())
        if not limits:
            raise RuntimeError("Prometheus has no metrics of a gateway")
        asyncio.run(send_traffic(gateways, round(limits[0].points[0][1])))
    except (OSError, PrometheusError, RuntimeError, LookupError, ValueError) as error:
        print(f"panels: {error}", file=sys.stderr)
        return 1
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (report := check(prometheus, dashboards, time.time(), options.minutes)).ok and time.monotonic() < give_up:
        time.sleep(PAUSE_SECONDS)
    write(report, options.output)
    print(report.text, end="")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
