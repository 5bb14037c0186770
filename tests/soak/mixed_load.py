"""How the gateway fares over time: all kinds of images, bad bodies, hang-ups, and a TF Serving that restarts."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway_process import free_port
from http_client import Connection, Reply
from image_files import samples
from overload import predict_message, slow_serving, work_left
from requests_to_send import make_case
from sample_images import IMAGES, sample_jpeg
from watched_gateway import WatchedGateway, watched_gateway

_SEED = 3
_LIMITS = {"header_seconds": 2, "body_seconds": 1}
_GOOD_CONNECTIONS, _BAD_CONNECTIONS, _LEAVING_CONNECTIONS = 6, 4, 2
_SERVING_SECONDS, _SERVING_AT_ONCE = 0.005, 8
# Calls wait this long for a TF Serving that is away: less than it is away, so that some fail.
_DEADLINE_SECONDS = 2
_AWAY_SECONDS = 3.0
# After it is back, until gRPC has connected again and the calls that waited are answered.
_BACK_SECONDS = 3.0
_PAUSE_SECONDS = 0.02
_AWAY = (502, 503, 504)
# The growth is of medians, as single samples go up and down with the images that are just decoded.
_GROWTH_MB = 5


@dataclass
class MixedLoad:
    """Answers by status while TF Serving was there and while it was away, and memory over time."""

    seconds: float = 0
    present: Counter[int] = field(default_factory=Counter)
    away: Counter[int] = field(default_factory=Counter)
    restarts: int = 0
    hung_up: int = 0
    closed: int = 0
    rss_mb: list[float] = field(default_factory=list)
    left_over: float = 0
    crashes: list[str] = field(default_factory=list)
    files_left: list[str] = field(default_factory=list)
    most_growth_mb: float = _GROWTH_MB

    @property
    def rss_growth_mb(self) -> float:
        """Growth of the median from the second third of the time to the last."""
        third = max(1, len(self.rss_mb) // 3)
        return statistics.median(self.rss_mb[-third:]) - statistics.median(self.rss_mb[third : 2 * third])

    @property
    def faults(self) -> list[str]:
        """What is not as it must be."""
        wrong = {status: count for status, count in self.present.items() if status >= 500}
        wrong_away = {status: count for status, count in self.away.items() if status >= 500 and status not in _AWAY}
        limits = {
            f"{wrong} while TF Serving was there": bool(wrong),
            f"{wrong_away} while TF Serving was away": bool(wrong_away),
            f"nothing failed during {self.restarts} restarts": not any(self.away[status] for status in _AWAY),
            f"memory grew by {self.rss_growth_mb:.1f} MB": self.rss_growth_mb > self.most_growth_mb,
            f"{self.left_over:g} are in flight or queued afterwards": self.left_over != 0,
            f"{self.crashes}": bool(self.crashes),
            f"{self.files_left}": bool(self.files_left),
        }
        return [text for text, broken in limits.items() if broken]

    def figures(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        found = {**asdict(self), "rss_growth_mb": round(self.rss_growth_mb, 1), "faults": self.faults}
        for key in ("present", "away"):
            found[key] = {str(status): count for status, count in sorted(getattr(self, key).items())}
        return found


def mixed_load(seconds: float, restart_every: float, most_growth_mb: float = _GROWTH_MB) -> MixedLoad:
    """Send everything at once for `seconds`, and restart the stub of TF Serving every `restart_every` seconds.

    Memory that grows by more than `most_growth_mb` is a fault.
    """
    port = free_port()
    with watched_gateway(f"127.0.0.1:{port}", limits=_LIMITS, deadline_seconds=_DEADLINE_SECONDS) as gateway:
        return asyncio.run(_Soak(gateway, port, MixedLoad(most_growth_mb=most_growth_mb)).run(seconds, restart_every))


class _Soak:
    def __init__(self, gateway: WatchedGateway, serving_port: int, result: MixedLoad) -> None:
        self._gateway = gateway
        self._serving_port = serving_port
        self._result = result
        self._serving_is_sure = False
        self._numbers = itertools.count()

    async def run(self, seconds: float, restart_every: float) -> MixedLoad:
        result = self._result
        good = [predict_message(sample_jpeg(name)) for name in IMAGES for _unused in range(3)]
        good += [predict_message(file) for file in samples().values()]
        helpers = [asyncio.create_task(work) for work in (self._restart_serving(restart_every), self._gateway.watch())]
        while not self._serving_is_sure:
            # One that has ended says why.
            for helper in helpers:
                if helper.done():
                    helper.result()
            await asyncio.sleep(_PAUSE_SECONDS)
        end = time.monotonic() + seconds
        work = [self._send_good(good[index:] + good[:index], end) for index in range(_GOOD_CONNECTIONS)]
        work += [self._send_bad(end) for _unused in range(_BAD_CONNECTIONS)]
        work += [self._leave(good, end) for _unused in range(_LEAVING_CONNECTIONS)]
        try:
            await asyncio.gather(self._note_memory(end), *work)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        result.seconds = seconds
        result.left_over = await work_left(self._gateway.port)
        result.crashes, result.files_left = self._gateway.crashes, self._gateway.files_left
        return result

    async def _restart_serving(self, every: float) -> None:
        while True:
            # Its start and its end take a moment in which nothing else should wait.
            serving = slow_serving(self._serving_port, _SERVING_SECONDS, _SERVING_AT_ONCE)
            await asyncio.to_thread(serving.__enter__)
            try:
                await asyncio.sleep(_BACK_SECONDS)
                self._serving_is_sure = True
                await asyncio.sleep(every)
            finally:
                self._serving_is_sure = False
                self._result.restarts += 1
                serving.__exit__(None, None, None)
            await asyncio.sleep(_AWAY_SECONDS)

    async def _send_good(self, messages: Sequence[bytes], end: float) -> None:
        connection = await Connection.open(self._gateway.port)
        for message in itertools.cycle(messages):
            if time.monotonic() > end:
                break
            was_sure = self._serving_is_sure
            reply = await connection.ask([message])
            self._count(reply, was_sure)
            if reply is None or not connection.reusable:
                connection = await Connection.open(self._gateway.port)
            elif reply.status >= 500:
                await asyncio.sleep(_PAUSE_SECONDS)
        connection.close()

    async def _send_bad(self, end: float) -> None:
        while time.monotonic() < end:
            case = make_case(_SEED, next(self._numbers))
            connection = await Connection.open(self._gateway.port)
            was_sure = self._serving_is_sure
            await connection.send(case.pieces)
            if case.hangs_up:
                self._result.hung_up += 1
            else:
                self._count(await connection.reply(20), was_sure)
            connection.close()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _leave(self, messages: Sequence[bytes], end: float) -> None:
        """Hang up at different moments: in the upload, while the image is decoded, while TF Serving works."""
        for number, message in enumerate(itertools.cycle(messages)):
            if time.monotonic() > end:
                break
            connection = await Connection.open(self._gateway.port)
            await connection.send([message[: len(message) * (number % 5 + 1) // 5]])
            await asyncio.sleep(number % 7 * 0.004)
            connection.close()
            self._result.hung_up += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _note_memory(self, end: float) -> None:
        while time.monotonic() < end:
            self._result.rss_mb.append(round(self._gateway.rss_bytes / 1e6, 1))
            await asyncio.sleep(0.5)

    def _count(self, reply: Reply | None, was_sure: bool) -> None:
        """Count an answer: TF Serving was there if it was so when the request began, and still is."""
        if reply is None:
            self._result.closed += 1
        elif was_sure and self._serving_is_sure:
            self._result.present[reply.status] += 1
        else:
            self._result.away[reply.status] += 1
