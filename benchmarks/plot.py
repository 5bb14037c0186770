"""The figures of a benchmark as bars, in an SVG file that can be read on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from sample_images import IMAGES

_WIDTH, _LABELS, _VALUES, _ROW, _TITLE = 760, 230, 110, 22, 34
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.reference { fill: #c9602f } .gateway { fill: #2f7fd0 } .floor { fill: #8b949e }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


@dataclass(frozen=True)
class Bar:
    """One bar; `kind` is reference, gateway or floor, `note` stands behind its value."""

    label: str
    value: float
    kind: str
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """Bars that share a scale."""

    title: str
    bars: list[Bar]


def plot(found: Mapping[str, Any]) -> str:
    """Return the SVG document for the results of a run; what was not measured has no item."""
    panels = [panel for panel in _panels(found["details"]) if panel.bars]
    height = sum(_TITLE + _ROW * len(panel.bars) for panel in panels) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img">',
        "<title>The gateway beside the reference way and the floor</title>",
        f"<style>{_STYLE}</style>",
    ]
    top = 0
    for panel in panels:
        lines.append(f'<text class="title" x="4" y="{top + 24}">{escape(panel.title)}</text>')
        top += _TITLE
        scale = (_WIDTH - _LABELS - _VALUES) / max(item.value for item in panel.bars)
        for item in panel.bars:
            width = max(1.0, item.value * scale)
            lines += [
                f'<text x="{_LABELS - 8}" y="{top + 15}" text-anchor="end">{escape(item.label)}</text>',
                f'<rect class="{item.kind}" x="{_LABELS}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 6}"/>',
                f'<text x="{_LABELS + width + 6:.1f}" y="{top + 15}">{_number(item.value)}{item.note}</text>',
            ]
            top += _ROW
    return "\n".join([*lines, "</svg>", ""])


def _panels(details: Mapping[str, Any]) -> Iterator[Panel]:
    yield Panel("Requests per second, 4 connections", list(_rates(details)))
    for title, floor_key, gateway_key in (
        ("CPU time of a request, ms", "cpu_ms", "cpu_ms"),
        ("Median latency, 1 connection, ms", "p50_ms", "alone_p50_ms"),
    ):
        keys = {"floor": floor_key, "gateway": gateway_key}
        bars = [
            Bar(f"{kind}, {image}", details[kind][image][key], kind)
            for image in IMAGES
            for kind, key in keys.items()
            if key in details.get(kind, {}).get(image, {})
        ]
        yield Panel(title, bars)
    memory = []
    if "all" in details.get("reference", {}):
        memory.append(Bar("reference way, after its run", details["reference"]["all"]["rss_mb"], "reference"))
    if "memory" in details:
        figures = details["memory"]["all"]
        memory.append(Bar("gateway, at rest", figures["rest_mb"], "gateway"))
        memory.append(Bar(f"gateway, after {figures['requests']:,.0f} requests", figures["after_mb"], "gateway"))
    yield Panel("Memory of a worker, MB", memory)


def _rates(details: Mapping[str, Any]) -> Iterator[Bar]:
    for image in IMAGES:
        reference = details.get("reference", {}).get(image)
        gateway = details.get("gateway", {}).get(image)
        if reference:
            yield Bar(f"reference way, {image}", reference["rate"], "reference")
        if gateway:
            note = f" ({gateway['rate'] / reference['rate']:.0f} x)" if reference else ""
            yield Bar(f"gateway, {image}", gateway["rate"], "gateway", note)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
