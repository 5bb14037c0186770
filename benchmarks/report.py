"""The figures of a benchmark: what they come to, and the tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sample_images import IMAGES


@dataclass
class Samples:
    """Figures by subject, such as ("gateway", "31 KB"), and name: one value a round."""

    values: dict[tuple[str, ...], dict[str, list[float]]] = field(default_factory=dict)

    def add(self, *subject: str, **figures: float) -> None:
        for name, value in figures.items():
            self.values.setdefault(subject, {}).setdefault(name, []).append(value)

    def median(self, *subject: str) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.values.get(subject, {}).items()}

    def rounds(self, name: str, *subject: str) -> list[float]:
        return self.values.get(subject, {}).get(name, [])


@dataclass(frozen=True)
class Requirement:
    """A figure's limit."""

    key: str
    text: str
    at_least: bool
    limit: float
    unit: str = ""

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


REQUIREMENTS = (
    Requirement("ratio_to_reference", "requests/s, 31 KB, 4 connections: gateway / reference way", True, 200, "x"),
    Requirement("cpu_ratio_to_floor", "CPU time of a request: gateway / floor, worst image", False, 1.5, "x"),
    Requirement("p50_over_floor_ms", "p50, 250 KB, 1 connection: gateway - floor", False, 1.5, "ms"),
    Requirement("rss_mb_rest", "memory of a worker at rest", False, 90, "MB"),
    Requirement("rss_mb_after", "memory of a worker after 10,000 mixed requests", False, 150, "MB"),
    Requirement("rss_mb_growth", "growth of that memory in 5,000 requests more", False, 5, "MB"),
    Requirement("batch_ratio", "images/s, 32 in one call / 32 single calls at concurrency 4", True, 2, "x"),
    Requirement("scale_ratio", "images/s, 850 KB: 2 workers on 2 cores / 1 worker on 1 core", True, 1.6, "x"),
)


def document(samples: Samples, notes: list[str], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return all results, ready for JSON; a figure that was not measured is None."""
    figures = {name: None if value is None else round(value, 3) for name, value in _figures(samples).items()}
    return {
        **figures,
        "requirements": [
            {
                "key": requirement.key,
                "text": requirement.text,
                "limit": requirement.limit,
                "at_least": requirement.at_least,
                "unit": requirement.unit,
                "value": figures[requirement.key],
                "ok": None if figures[requirement.key] is None else requirement.holds(figures[requirement.key]),
            }
            for requirement in REQUIREMENTS
        ],
        "details": {
            kind: {name: samples.median(*subject) for subject, name in _subjects(samples, kind)}
            for kind in dict.fromkeys(subject[0] for subject in samples.values)
        },
        "rounds": {" ".join(subject): figures for subject, figures in samples.values.items()},
        "notes": notes,
        "machine": dict(machine),
    }


def _subjects(samples: Samples, kind: str) -> Iterable[tuple[tuple[str, ...], str]]:
    return [(subject, " ".join(subject[1:]) or "all") for subject in samples.values if subject[0] == kind]


def _figures(samples: Samples) -> dict[str, float | None]:
    small, middle, _large = IMAGES
    cpu_ratios = [_ratio(samples, "cpu_ms", ("gateway", image), ("floor", image)) for image in IMAGES]
    memory = samples.median("memory")
    return {
        "ratio_to_reference": _ratio(samples, "rate", ("gateway", small), ("reference", small)),
        "cpu_ratio_to_floor": None if None in cpu_ratios else max(cpu_ratios),
        "p50_over_floor_ms": _difference(samples, ("gateway", middle), ("floor", middle)),
        "rss_mb_rest": memory.get("rest_mb"),
        "rss_mb_after": memory.get("after_mb"),
        "rss_mb_growth": memory["later_mb"] - memory["after_mb"] if "later_mb" in memory else None,
        "batch_ratio": _ratio(samples, "rate", ("batch", "float32"), ("single", "float32")),
        "scale_ratio": _ratio(samples, "rate", ("scale", "2 workers"), ("scale", "1 worker")),
    }


def _ratio(samples: Samples, name: str, above: tuple[str, ...], below: tuple[str, ...]) -> float | None:
    """Return the median of the rounds' ratios: what ran side by side met the same machine."""
    pairs = zip(samples.rounds(name, *above), samples.rounds(name, *below))
    ratios = [mine / other for mine, other in pairs]
    return statistics.median(ratios) if ratios else None


def _difference(samples: Samples, gateway: tuple[str, ...], floor: tuple[str, ...]) -> float | None:
    pairs = zip(samples.rounds("alone_p50_ms", *gateway), samples.rounds("p50_ms", *floor))
    differences = [mine - other for mine, other in pairs]
    return statistics.median(differences) if differences else None


def table(found: Mapping[str, Any]) -> str:
    """Return the results as text."""
    details = found["details"]
    blocks = [
        _requirements(found["requirements"]),
        _comparison(details),
        _signatures(details),
        _batch(details),
        _scale(details),
        _memory(details),
    ]
    machine = found["machine"]
    about = (
        f"{machine['cores']} cores, Python {machine['python']}, kernel {machine['kernel']}; "
        f"load average at the start {machine['load_average']}; {machine['seconds']} s"
    )
    notes = [f"note: {note}" for note in found["notes"]]
    return "\n\n".join(["\n".join(block) for block in (*blocks, [about, *notes]) if block]) + "\n"


def _requirements(items: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [("required", "limit", "measured", "")]
    for item in items:
        limit = f"{'≥' if item['at_least'] else '≤'} {item['limit']:g} {item['unit']}"
        measured = "-" if item["value"] is None else f"{item['value']:.3g} {item['unit']}"
        rows.append((item["text"], limit, measured, {None: "not measured", True: "ok", False: "MISSED"}[item["ok"]]))
    return _grid(rows)


def _comparison(details: Mapping[str, Any]) -> list[str]:
    columns = (
        ("reference req/s", "reference", "rate"),
        ("gateway req/s", "gateway", "rate"),
        ("gateway p50 ms", "gateway", "p50_ms"),
        ("gateway p99 ms", "gateway", "p99_ms"),
        ("floor CPU ms", "floor", "cpu_ms"),
        ("gateway CPU ms", "gateway", "cpu_ms"),
        ("floor p50 ms", "floor", "p50_ms"),
        ("gateway p50 ms, alone", "gateway", "alone_p50_ms"),
    )
    shown = [column for column in columns if column[1] in details]
    if not shown:
        return []
    return _grid(
        [("float32, 4 connections", *IMAGES)]
        + [(title, *(_number(details, kind, image, key) for image in IMAGES)) for title, kind, key in shown]
    )


def _signatures(details: Mapping[str, Any]) -> list[str]:
    if "signature" not in details:
        return []
    rows = [("31 KB, by signature", "req/s", "CPU ms", "floor CPU ms", "request bytes", "of float32")]
    whole = details["signature floor"]["float32"]["request_bytes"]
    for model, floor in details["signature floor"].items():
        cells = [_number(details, "signature", model, key) for key in ("rate", "cpu_ms")]
        size = floor["request_bytes"]
        rows.append((model, *cells, f"{floor['cpu_ms']:.3g}", f"{size:,.0f}", f"1/{whole / size:.3g}"))
    return _grid(rows)


def _batch(details: Mapping[str, Any]) -> list[str]:
    if "batch" not in details:
        return []
    rows = [("images/s, 31 KB, by model", "32 single calls, 4 at a time", "32 in one call")]
    rows += [
        (model, *(_number(details, kind, model, "rate") for kind in ("single", "batch"))) for model in details["batch"]
    ]
    return _grid(rows)


def _scale(details: Mapping[str, Any]) -> list[str]:
    if "scale" not in details:
        return []
    workers = list(details["scale"])
    return _grid([("images/s, 850 KB", *workers), ("", *(_number(details, "scale", name, "rate") for name in workers))])


def _memory(details: Mapping[str, Any]) -> list[str]:
    rows = [("memory, MB", "")]
    if "memory" in details:
        figures = details["memory"]["all"]
        after, more = figures["requests"], figures["more_requests"]
        rows.append(("gateway at rest", f"{figures['rest_mb']:.1f}"))
        rows.append((f"gateway after {after:,.0f} mixed requests", f"{figures['after_mb']:.1f}"))
        rows.append((f"gateway after {more:,.0f} more", f"{figures['later_mb']:.1f}"))
    if "all" in details.get("reference", {}):
        rows.append(("reference way after its run", f"{details['reference']['all']['rss_mb']:.1f}"))
    return _grid(rows) if len(rows) > 1 else []


def _number(details: Mapping[str, Any], kind: str, name: str, key: str) -> str:
    value = details.get(kind, {}).get(name, {}).get(key)
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _grid(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the rows with their columns aligned: the first and any words to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return lines
