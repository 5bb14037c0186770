"""Take the pictures of the documentation: the gateway's pages, with predictions of the demo model.

Needs Chromium, and both environments (`make setup`, `make tensorflow`): one runs this, the other one the model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "gateway"))

from chromium import launch
from gateway_process import Gateway, free_port, gateway_config
from playwright.sync_api import Browser, Page, sync_playwright
from stub_serving import wait_until

ROOT = Path(__file__).resolve().parents[1]
SERVING = ROOT / "files" / "images" / "tf_serving_compat"
SAMPLES = [ROOT / "files" / "models" / "pets" / "samples" / name for name in ("cat.jpg", "dog.jpg")]
IMAGES = ROOT / "docs" / "images"
DESKTOP = {"width": 1100, "height": 860}
PHONE = {"width": 390, "height": 844}


def classify(page: Page, origin: str, files: list[Path | dict]) -> None:
    page.goto(f"{origin}/form")
    for count, file in enumerate(files, 1):
        page.set_input_files("#file", file)
        page.locator(".card.done, .card.failed").nth(count - 1).wait_for()
    page.evaluate("document.activeElement.blur()")


def take(browser: Browser, origin: str) -> None:
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture at all"}
    page = browser.new_page(viewport=DESKTOP, color_scheme="light")
    classify(page, origin, [*SAMPLES, text])
    page.screenshot(path=IMAGES / "form.png", full_page=True)
    page.set_viewport_size({**DESKTOP, "height": 1500})
    page.goto(f"{origin}/docs")
    page.screenshot(path=IMAGES / "docs-page.png")
    page = browser.new_page(viewport=PHONE, color_scheme="dark", device_scale_factor=2)
    classify(page, origin, SAMPLES[:1])
    page.screenshot(path=IMAGES / "form-dark-phone.png", full_page=True)


@contextmanager
def serving() -> Iterator[str]:
    """The demo model behind gRPC, at the address that this gives."""
    port = free_port()
    command = [str(ROOT / ".venv-tf" / "bin" / "python"), "-m", "tf_serving_compat", f"--port={port}"]
    command += [f"--rest_api_port={free_port()}", "--model_name=pets", f"--model_base_path={SAMPLES[0].parents[1]}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(SERVING)}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    with serving() as address:
        gateway = Gateway(gateway_config(address, model={"labels": ["cat", "dog"]}))
        try:
            wait_until(lambda: gateway.get("/readyz").status == 200, 60)
            with sync_playwright() as playwright, launch(playwright) as browser:
                take(browser, f"http://127.0.0.1:{gateway.port}")
        finally:
            gateway.stop()


if __name__ == "__main__":
    main()
