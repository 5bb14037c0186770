"""The health report's page, opened from a file as somebody does who got it by mail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from accessibility import contrasts, overflow, small_targets
from playwright.sync_api import Browser, BrowserContext, Page, expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from health_facts import facts, write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a site of which one target is down."""
    folder = tmp_path_factory.mktemp("health")
    hosts = facts()
    target = {"labels": {"job": "gateway"}, "health": "down", "lastError": "connection refused <by> the host"}
    hosts["one"]["__health_check_targets"]["json"]["data"]["activeTargets"].append(target)
    write_report(folder, hosts)
    return folder / "health.html"


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page; in the end it must have asked for nothing else, and complained of nothing."""
    contexts: list[BrowserContext] = []
    requests: list[str] = []
    complaints: list[str] = []

    def start(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.goto(report.as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if url != report.as_uri() and not url.startswith("data:")] == []


def test_what_is_wrong_stands_on_top(opened: Callable[..., Page]) -> None:
    page = opened()
    expect(page).to_have_title("9 of 10 checks ok")
    first = page.get_by_role("table", name="Checks").locator("tbody tr").first
    expect(first).to_contain_text("FAIL")
    expect(first).to_contain_text("prometheus job gateway")
    expect(first).to_contain_text("connection refused <by> the host")


def test_the_charts_are_drawn_and_told(opened: Callable[..., Page]) -> None:
    page = opened()
    charts = page.get_by_role("figure")
    expect(charts).to_have_count(4)
    for chart in charts.all():
        box = chart.locator("> svg").bounding_box()
        assert box and box["width"] > 200 and box["height"] > 80
        line = chart.locator("> svg .line").first
        drawn = line.bounding_box()
        assert drawn and drawn["width"] > box["width"] / 2
        assert line.evaluate("line => getComputedStyle(line).stroke") not in {"none", "rgb(0, 0, 0)"}
    by_version = page.get_by_role("figure").filter(has_text="by version")
    expect(by_version.locator("> svg .line")).to_have_count(2)
    expect(by_version.get_by_role("listitem")).to_have_text(["pets 1 21 ms", "pets 2 26 ms"])
    expect(by_version.get_by_role("img")).to_have_attribute("aria-label", re.compile("pets 1 21 ms; pets 2 26 ms$"))


def test_what_is_missing_and_what_runs(opened: Callable[..., Page]) -> None:
    page = opened()
    expect(page.get_by_role("list", name="Not deployed")).to_contain_text("Grafana: its image comes from")
    versions = page.get_by_role("table", name="Versions")
    for text in ("Debian GNU/Linux 12 (bookworm)", "20.10.24", "tensorflow/serving:2.20.0", "2.6.12", "ansible-core"):
        expect(versions).to_contain_text(text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_can_be_read(opened: Callable[..., Page], scheme: str, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert overflow(page) == 0
    assert small_targets(page) == []
    assert {text: ratio for text, ratio in contrasts(page).items() if ratio < 4.5} == {}


def test_without_javascript(opened: Callable[..., Page]) -> None:
    expect(opened(java_script_enabled=False).get_by_role("figure")).to_have_count(4)
