"""What a page looks like to somebody who sees little, or touches it with a finger."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

# Colours of every visible text, and of what it stands on.
_COLOURS = """() => {
  const channels = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const parent = walker.currentNode.parentElement;
    if (!text || !parent.checkVisibility() || parent.closest("script, style, [aria-disabled=true]")) continue;
    let ground = parent;
    while (ground && channels(getComputedStyle(ground).backgroundColor).alpha < 1) ground = ground.parentElement;
    found.push([text, channels(getComputedStyle(parent).color).rgb,
                ground ? channels(getComputedStyle(ground).backgroundColor).rgb : [255, 255, 255]]);
  }
  return found;
}"""

_SMALL_TARGETS = """() => [...document.querySelectorAll("a, button, select, input, summary, .button")]
  .filter((node) => node.checkVisibility() && node.type !== "file" && !node.closest("dd, dt, p"))
  .map((node) => [node.textContent.trim() || node.id, node.getBoundingClientRect()])
  .filter(([, box]) => box.height < 44 || box.width < 44)
  .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""


def contrasts(page: Page) -> dict[str, float]:
    """Return the contrast ratio of every visible text by WCAG 2: 4.5 is enough for small text."""
    return {text: _ratio(colour, ground) for text, colour, ground in page.evaluate(_COLOURS)}


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def small_targets(page: Page) -> list[str]:
    """Return what can be touched, is not a link in running text, and is less than 44 pixels high or wide."""
    return page.evaluate(_SMALL_TARGETS)


def _ratio(one: list[Any], other: list[Any]) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(rgb: list[float]) -> float:
    linear = [
        value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in (c / 255 for c in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
