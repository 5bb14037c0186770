"""Headless Chromium as the distribution packages it."""

from __future__ import annotations

import os
import shutil

from playwright.sync_api import Browser, Playwright

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def launch(playwright: Playwright) -> Browser:
    """Start the Chromium that CHROMIUM names, or that is on PATH; with a profile of its own that goes with it."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if executable is None:
        raise FileNotFoundError("there is no chromium on PATH; tools/chromium.sh installs it, or CHROMIUM names one")
    return playwright.chromium.launch(executable_path=executable, headless=True, args=list(_ARGUMENTS))
