"""On a single host, killing the balancer while 50 requests a second come in costs those in flight at most.

Needs what test_restart_under_load.py needs.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from load_generator import check_prediction, multipart, run_load  # noqa: E402

RATE = 50
# The gateway's deadline: whoever waits for longer fails.
BACK_SECONDS = 10
AFTERWARDS_SECONDS = 5
IN_FLIGHT_SECONDS = 0.25


def _on_host(*command: str) -> str:
    return subprocess.run(
        ["docker", "exec", os.environ["TF2X_GATEWAY_CONTAINER"], *command], check=True, capture_output=True, text=True
    ).stdout.strip()


def _balancers() -> list[str]:
    return _on_host("docker", "ps", "--quiet", "--filter", "name=PROD-STACK_balancer").split()


@pytest.mark.asyncio
async def test_the_gateway_waits_for_the_balancer_to_come_back():
    picture = (ROOT / "tests/models/colours/1/assets.extra/golden-stripes.png").read_bytes()
    body, headers = multipart("file", picture, content_type="image/png")
    url = os.environ["TF2X_GATEWAY_URL"] + "/models/colours/predict"
    stop = asyncio.Event()
    load = asyncio.create_task(
        run_load(url, body, headers, connections=100, rate=RATE, stop=stop, timeout=30, check=check_prediction)
    )
    await asyncio.sleep(2)
    (old,) = await asyncio.to_thread(_balancers)
    process = await asyncio.to_thread(_on_host, "docker", "inspect", "--format", "{{.State.Pid}}", old)
    killed = time.monotonic()
    await asyncio.to_thread(_on_host, "kill", "-9", process)
    while await asyncio.to_thread(_balancers) in ([], [old]):
        assert time.monotonic() - killed < BACK_SECONDS, f"no balancer {BACK_SECONDS} s after it was killed"
        await asyncio.sleep(0.2)
    back = time.monotonic() - killed
    await asyncio.sleep(AFTERWARDS_SECONDS)
    stop.set()
    result = await load
    print(f"back after {back:.1f} s: {result.summary()}")
    assert sum(result.failed.values()) <= math.ceil(RATE * IN_FLIGHT_SECONDS), result.summary()
    assert result.ok >= RATE * AFTERWARDS_SECONDS
