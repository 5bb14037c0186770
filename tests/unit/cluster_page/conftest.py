"""A small swarm and a page in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fake_swarm import FakeSwarm, small_swarm
from page_process import ClusterPage, Events


@pytest.fixture
def swarm() -> Iterator[FakeSwarm]:
    swarm = small_swarm()
    yield swarm
    swarm.stop()


@pytest.fixture
def page(swarm: FakeSwarm) -> Iterator[ClusterPage]:
    page = ClusterPage(swarm)
    yield page
    page.stop()


@pytest.fixture
def look() -> Iterator[Callable[[ClusterPage], Events]]:
    """Looks at a page as a browser does, until the end of the test."""
    looking: list[Events] = []

    def begin(page: ClusterPage) -> Events:
        looking.append(Events(page))
        return looking[-1]

    yield begin
    for events in looking:
        events.close()
