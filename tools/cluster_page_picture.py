"""Take the picture of the cluster page for the README: cluster_page_picture.py [URL], as of `make demo-ha`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from chromium import launch
from playwright.sync_api import Browser, expect, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
PICTURES = {
    "cluster-page.png": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "cluster-page-dark-phone.png": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "dark",
        "device_scale_factor": 2,
    },
}


def take(browser: Browser, url: str, name: str, options: dict) -> None:
    page = browser.new_page(**options, ignore_https_errors=True)
    page.goto(url)
    expect(page.locator("#connection")).to_have_text("Live", timeout=15_000)
    # Replicas have been asked when the last one says something of its models.
    expect(page.locator(".models").first).to_be_visible(timeout=15_000)
    expect(page.get_by_text("Asking for its models")).to_have_count(0, timeout=15_000)
    page.screenshot(path=IMAGES / name, full_page=page.viewport_size["width"] > 1000)
    page.close()


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9001/"
    with sync_playwright() as playwright, launch(playwright) as browser:
        for name, options in PICTURES.items():
            take(browser, url, name, options)


if __name__ == "__main__":
    main()
