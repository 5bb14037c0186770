"""`line_chart` draws what Prometheus answers, and survives what it may answer."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.tf2x.serving.plugins.filter.line_chart import line_chart

START, END, STEP = 1_800_000_000, 1_800_003_600, 30
SPAN = {"start": START, "end": END, "step": STEP}


def series(values: list[str], begin: int = START, **labels: str) -> dict[str, Any]:
    return {
        "metric": {"chart": "x", **labels},
        "values": [[begin + STEP * number, value] for number, value in enumerate(values)],
    }


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)


def lines(html: str) -> list[str]:
    """Return the drawn lines, without those of the legend."""
    return [path.get("d", "") for path in parsed(html).find("svg").findall("path") if "line" in path.get("class", "")]


def heights(path: str) -> list[float]:
    return [float(y) for _x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def texts(html: str) -> list[str]:
    return [text.text or "" for text in parsed(html).iter("text")]


def test_a_line_for_each_series_with_its_name_and_last_value() -> None:
    html = line_chart(
        [series(["1", "2"], model="pets", version="2"), series(["3", "12.345"], model="pets", version="1")],
        "Requests",
        unit="/s",
        labels=["model", "version"],
        **SPAN,
    )
    assert len(lines(html)) == 2
    entries = ["".join(entry.itertext()) for entry in parsed(html).iter("li")]
    assert entries == ["pets 1 12.3/s", "pets 2 2/s"]
    assert parsed(html).find("svg").get("aria-label") == "Requests: pets 1 12.3/s; pets 2 2/s"


def test_the_axes() -> None:
    html = line_chart([series(["0", "7", "3.5"])], "Requests", unit=" ms", **SPAN)
    assert texts(html)[:5] == ["0", "2", "4", "6", "8"]
    assert parsed(html).find("figcaption").text == "Requests, ms"
    assert texts(html)[5:] == ["08:00", "08:15", "08:30", "08:45", "09:00"]
    zero, seven, half = heights(lines(html)[0])
    assert zero > half > seven
    assert (zero - seven) / 2 == pytest.approx(zero - half, abs=0.2)


@pytest.mark.parametrize("highest", [0.0, 1e-9, 0.003, 0.1, 0.99, 1, 4, 5, 9.99, 10, 99.9, 1000, 12345, 1e9])
def test_what_is_highest_is_inside(highest: float) -> None:
    html = line_chart([series(["0", repr(highest)])], "x", **SPAN)
    assert 2 <= len(texts(html)) - 5 <= 6
    assert all(0 <= y <= 170 for y in heights(lines(html)[0]))
    ticks = [float(text.replace(",", "")) for text in texts(html)[:-5]]
    assert ticks[-1] >= highest * 0.995
    assert len(set(ticks)) == len(ticks)


def test_what_is_missing_is_a_gap_and_what_is_alone_a_dot() -> None:
    early, late = series(["1", "2", "NaN", "3"]), series(["4"], begin=START + 1800)
    early["values"] += late["values"]
    (path,) = lines(line_chart([early], "x", **SPAN))
    assert path.count("M") == 3
    assert path.count("h0") == 3
    assert len(heights(path)) == 4


@pytest.mark.parametrize("found", [[], [series([])], [series(["NaN", "+Inf", "-Inf"])]])
def test_nothing(found: list[Any]) -> None:
    html = line_chart(found, "Errors", **SPAN)
    assert lines(html) == []
    assert "Nothing was recorded." in html
    assert parsed(html).find("svg").get("aria-label") == "Errors: nothing recorded"


def test_names_are_text() -> None:
    html = line_chart([series(["1"], model='<script>"&')], "<b>", unit="<i>", labels=["model"], **SPAN)
    assert "<script>" not in html and "<i>" not in html
    assert parsed(html).find("figcaption").text == "<b>, <i>"


def test_more_lines_than_colours() -> None:
    html = line_chart([series(["1"], model=f"m{number}") for number in range(8)], "x", labels=["model"], **SPAN)
    assert len(lines(html)) == 8
    assert "line-5" in html and "line-6" not in html


@pytest.mark.parametrize("found", [[{}], [{"metric": {}, "values": [[1]]}], [{"metric": {}, "values": [[1, "x"]]}]])
def test_refuses_what_is_not_prometheus(found: list[Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="no series of Prometheus"):
        line_chart(found, "x", **SPAN)


def test_refuses_no_time() -> None:
    with pytest.raises(AnsibleFilterError, match="no span of time"):
        line_chart([], "x", start=END, end=END, step=30)
