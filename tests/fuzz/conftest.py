"""A gateway that is watched by every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "gateway"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from fuzz import LIMITS
from watched_gateway import CONSTANT_MODEL, WatchedGateway, constant_serving, watched_gateway


@pytest.fixture(scope="session")
def shared_gateway() -> Iterator[WatchedGateway]:
    with constant_serving() as upstream, watched_gateway(upstream, limits=LIMITS, **CONSTANT_MODEL) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: WatchedGateway) -> Iterator[WatchedGateway]:
    """A gateway that still lives after the test, has not failed, and has written nothing to disk."""
    yield shared_gateway
    shared_gateway.note_open_files()
    assert shared_gateway.crashes == []
    assert shared_gateway.files_left == []
