"""A gateway in front of a stub of TF Serving, and Chromium with pages that note what they ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "gateway"))

from chromium import launch
from gateway_process import Gateway, free_port, gateway_config
from stub_serving import StubServing

# What a test holds back is still asked for when a slow browser has shown all that it is to show.
PATIENCE_SECONDS = 60


@pytest.fixture(scope="session")
def shared_stub() -> Iterator[StubServing]:
    stub = StubServing(free_port()).start()
    yield stub
    stub.stop()


@pytest.fixture
def stub(shared_stub: StubServing) -> Iterator[StubServing]:
    """The stub, healthy and without memories."""
    shared_stub.reset()
    yield shared_stub
    shared_stub.released.set()


@pytest.fixture(scope="session")
def shared_gateway(shared_stub: StubServing) -> Iterator[Gateway]:
    gateway = Gateway(gateway_config(shared_stub.address, deadline_seconds=PATIENCE_SECONDS))
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(shared_gateway: Gateway, stub: StubServing) -> Gateway:
    """The shared gateway in front of `stub`."""
    return shared_gateway


@pytest.fixture
def new_gateway(stub: StubServing) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways in front of `stub` for configuration changes, and stops them."""
    gateways: list[Gateway] = []

    def start(**changes: Any) -> Gateway:
        gateways.append(Gateway(gateway_config(stub.address, **{"deadline_seconds": PATIENCE_SECONDS, **changes})))
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # As patient as contexts are.
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright, launch(playwright) as browser:
        yield browser


@dataclass
class Visit:
    """A page at a gateway, with the addresses that it asked for and the complaints in its console."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.origin + path)
        return self.page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens `path` of a gateway in a fresh context; in the end, all must have come from there, without errors."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def start(gateway: Gateway, path: str = "/form", **options: Any) -> Visit:
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        visit = Visit(context.new_page(), f"http://127.0.0.1:{gateway.port}")
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on("console", lambda said: visit.complaints.append(said.text) if said.type == "error" else None)
        visits.append(visit)
        visit.open(path)
        return visit

    yield start
    for context in contexts:
        context.close()
    for visit in visits:
        # A page cannot keep the browser from noting each answer of 400 and more.
        complaints = [text for text in visit.complaints if not text.startswith("Failed to load resource: the server")]
        assert complaints == []
        elsewhere = [url for url in visit.requests if not url.startswith((visit.origin + "/", "data:", "blob:"))]
        assert elsewhere == []
