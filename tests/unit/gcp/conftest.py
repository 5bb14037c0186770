"""Google is a fake on loopback; google.cloud's modules and its inventory plugin are the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_google import fake_google
from gcp_controller import Controller


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with fake_google(tmp_path) as (google, environment):
        yield Controller(google, environment, tmp_path)
