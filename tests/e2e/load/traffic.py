"""Steady traffic to the gateways, from its start until it is stopped."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from answers import RawAnswer
from load_generator import LoadResult, run_load

__all__ = ["LoadResult", "Traffic", "predict_path"]

_TIMEOUT_SECONDS = 30
_LATE_SECONDS = 10


def predict_path(model: str) -> str:
    """Return the path at which the gateways answer for a model."""
    return f"/models/{model}/predict"


class Traffic:
    """An async context in which `rate` requests a second, shared out among the gateways, are sent.

    After it, `answers` holds those with status 200 and `result` counts all; `result_of` counts those of some gateways.
    """

    def __init__(
        self,
        gateways: Sequence[str],
        model: str,
        picture: bytes,
        *,
        rate: float,
        # Enough for a second in which nothing is answered.
        connections: int = 50,
    ) -> None:
        self.answers: list[RawAnswer] = []
        self._gateways = gateways
        self._path = predict_path(model)
        self._picture = picture
        self._rate = rate
        self._connections = connections
        self._stop = asyncio.Event()
        self._results: dict[str, LoadResult] = {}

    async def __aenter__(self) -> Traffic:
        self._runs = [
            asyncio.create_task(
                run_load(
                    gateway + self._path,
                    self._picture,
                    {"Content-Type": "image/png"},
                    connections=self._connections,
                    rate=self._rate / len(self._gateways),
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
        self._results = dict(zip(self._gateways, await asyncio.gather(*self._runs), strict=True))

    async def lead(self, seconds: float) -> None:
        """Wait `seconds`, and longer where a busy machine answers late: what is judged then has answers before it."""
        await asyncio.sleep(seconds)
        end = time.monotonic() + _LATE_SECONDS
        while len(self.answers) < 0.75 * self._rate * seconds and time.monotonic() < end:
            await asyncio.sleep(0.05)

    @property
    def result(self) -> LoadResult:
        """What became of all requests."""
        return self.result_of(self._gateways)

    def result_of(self, gateways: Collection[str]) -> LoadResult:
        """Return what became of the requests to these gateways."""
        total = LoadResult()
        for gateway in gateways:
            part = self._results[gateway]
            total.sent += part.sent
            total.failed += part.failed
            total.failed_sent += part.failed_sent
            total.examples = {**part.examples, **total.examples}
            total.unsent += part.unsent
            total.seconds = max(total.seconds, part.seconds)
            total.latencies_ms += part.latencies_ms
        return total

    def _observe(self, sent: float, body: bytes) -> None:
        # They are read after the run: it is the requests' timing that counts now.
        self.answers.append(RawAnswer(sent, time.monotonic(), body))
