"""Asks the canary what has been answered already, in the background, and counts how the two compare."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tf2x_gateway.metrics import Metrics, version_text
from tf2x_gateway.predictor import Outcome, Prediction, Predictor

# In one worker. A shadow holds its image files until it is done, and no limit in front of the gateway counts them.
_SHADOWS_AT_ONCE = 4
_BYTES_AT_ONCE = 64 * 1024 * 1024


class Shadows:
    """The shadows of one worker. One that there is no place for is dropped: they never wait, and nobody for them."""

    def __init__(self, seconds: float, metrics: Metrics) -> None:
        """Each shadow has `seconds`."""
        self._seconds = seconds
        self._results = metrics.shadow
        self._differences = metrics.shadow_difference
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def start(self, canary: Predictor, images: Sequence[bytes], answers: Sequence[Outcome]) -> None:
        """Have the canary asked about the images that were answered with a prediction, and return at once."""
        answered = [(image, answer) for image, answer in zip(images, answers) if isinstance(answer, Prediction)]
        size = sum(len(image) for image, _unused in answered)
        if not answered:
            return
        if len(self._tasks) >= _SHADOWS_AT_ONCE or self._bytes + size > _BYTES_AT_ONCE:
            self._count(canary, "dropped", len(answered))
            return
        self._bytes += size
        task = asyncio.get_running_loop().create_task(self._compare(canary, *zip(*answered)))
        self._tasks.add(task)

        def done(_task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._bytes -= size

        task.add_done_callback(done)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _compare(self, canary: Predictor, images: Sequence[bytes], answers: Sequence[Prediction]) -> None:
        try:
            shadows = await canary.predict(images, time.monotonic() + self._seconds)
        # Counted as the canary's failure by the predictor too, which knows more about it.
        except Exception:
            self._count(canary, "error", len(images))
            return
        for answer, shadow in zip(answers, shadows):
            if not isinstance(shadow, Prediction):
                self._count(canary, "error", 1)
                continue
            version = version_text(shadow.version)
            result = "same_label" if shadow.scores[0][0] == answer.scores[0][0] else "other_label"
            self._results.labels(canary.name, version, result).inc()
            answered = dict(answer.scores)
            difference = max(abs(score - answered[label]) for label, score in shadow.scores)
            self._differences.labels(canary.name, version).observe(difference)

    def _count(self, canary: Predictor, result: str, images: int) -> None:
        self._results.labels(canary.name, version_text(canary.version), result).inc(images)
