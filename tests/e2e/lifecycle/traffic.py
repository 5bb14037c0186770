"""Steady traffic to the gateways, from its start until it is stopped."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from answers import MODEL, RawAnswer
from load_generator import LoadResult, run_load

PATH = f"/models/{MODEL}/predict"
RATE = 50.0
# Enough for a second in which nothing is answered.
_CONNECTIONS = 50
_TIMEOUT_SECONDS = 30


class Traffic:
    """An async context in which `RATE` requests a second, shared out among the gateways, are sent.

    After it, `answers` holds those with status 200 and `result` counts all.
    """

    def __init__(self, gateways: Sequence[str], picture: bytes) -> None:
        self.answers: list[RawAnswer] = []
        self.result = LoadResult()
        self._gateways = gateways
        self._picture = picture
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Traffic:
        self._runs = [
            asyncio.create_task(
                run_load(
                    gateway + PATH,
                    self._picture,
                    {"Content-Type": "image/png"},
                    connections=_CONNECTIONS,
                    rate=RATE / len(self._gateways),
                    stop=self._stop,
                    timeout=_TIMEOUT_SECONDS,
                    observe=self._observe,
                )
            )
            for gateway in self._gateways
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for part in await asyncio.gather(*self._runs):
            self.result.sent += part.sent
            self.result.failed += part.failed
            self.result.examples = {**part.examples, **self.result.examples}
            self.result.unsent += part.unsent
            self.result.seconds = max(self.result.seconds, part.seconds)
            self.result.latencies_ms += part.latencies_ms

    def _observe(self, sent: float, body: bytes) -> None:
        # They are read after the run: it is the requests' timing that counts now.
        self.answers.append(RawAnswer(sent, time.monotonic(), body))
