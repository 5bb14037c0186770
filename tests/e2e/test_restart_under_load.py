"""Restarting the gateway ten times while 50 requests a second come in loses none of them.

Needs a running stack whose gateway runs on a lab host: TF2X_GATEWAY_URL is its address, TF2X_GATEWAY_CONTAINER the lab
host's container.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from load_generator import check_prediction, multipart, run_load  # noqa: E402

RATE = 50
RESTARTS = 10
SECONDS_BETWEEN = 3
# For the answers to what waited while none served.
LATE_SECONDS = 120


@pytest.mark.asyncio
async def test_no_request_fails_while_the_gateway_restarts():
    # The small model: on this machine the stack's own speed must not be what is measured.
    picture = (ROOT / "tests/models/colours/1/assets.extra/golden-stripes.png").read_bytes()
    body, headers = multipart("file", picture, content_type="image/png")
    url = os.environ["TF2X_GATEWAY_URL"] + "/models/colours/predict"
    stop = asyncio.Event()
    answers: list[float] = []
    began = time.monotonic()
    load = asyncio.create_task(
        run_load(
            url,
            body,
            headers,
            connections=100,
            rate=RATE,
            stop=stop,
            timeout=LATE_SECONDS,
            check=check_prediction,
            observe=lambda sent, _body: answers.append(sent),
        )
    )
    for _unused in range(RESTARTS):
        await asyncio.sleep(SECONDS_BETWEEN)
        restart = await asyncio.create_subprocess_exec(
            "docker", "exec", os.environ["TF2X_GATEWAY_CONTAINER"], "systemctl", "restart", "tf2x-gateway.service"
        )
        assert await restart.wait() == 0
    # Requests that a stop finds waiting for a connection are not sent.
    end = time.monotonic() + LATE_SECONDS
    while len(answers) < RATE * (time.monotonic() - began - 1) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    stop.set()
    result = await load
    print(result.summary())
    assert not result.failed, result.summary()
    assert result.unsent == 0
    assert result.ok == result.sent >= RATE * RESTARTS * SECONDS_BETWEEN
