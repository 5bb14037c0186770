"""How the gateway fares under more load than it can bear."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Protocol, TypeVar

from gateway_process import free_port
from http_client import Connection, Reply, ask, get
from processes import Process
from requests_to_send import SINGLE, form, form_type, head, length
from sample_images import sample_jpeg
from watched_gateway import CONSTANT_MODEL, WatchedGateway, constant_serving, watched_gateway

HERE = Path(__file__).resolve().parent
GENERATOR = HERE.parents[1] / "benchmarks" / "load_generator.py"
IMAGE = "31 KB"
STATE_PATHS = ("/healthz", "/readyz", "/metrics")
OVERLOAD = 3.0
_CLOSED_LOOPS = (8, 32)
_OPEN_CONNECTIONS = 192
# Often enough for a percentile, and seldom enough to be no load.
_BETWEEN_STATE_PROBES_SECONDS = 0.2
_BETWEEN_PREDICTIONS_SECONDS = 0.04
_PREDICTING_CONNECTIONS = 16
_STEADY_AFTER_SECONDS = 1.0


class Judged(Protocol):
    """A result that says what is wrong with it."""

    faults: list[str]


Result = TypeVar("Result", bound=Judged)


@dataclass(frozen=True)
class Overload:
    """What was measured: rates in requests per second, times as 95th percentiles."""

    peak: float
    offered: float
    goodput: float
    good_p50_ms: float
    refusals: int
    refusals_timed: int
    refusal_ms: float
    without_retry_after: int
    state_ms: dict[str, float]
    state_probes: int
    other_outcomes: dict[str, int]
    rss_before_mb: float
    rss_peak_mb: float
    left_over: float
    crashes: list[str]
    least_goodput_ratio: float

    @property
    def faults(self) -> list[str]:
        """What is not as it must be."""
        limits = {
            f"{self.offered:.0f}/s were offered, less than {OVERLOAD:g} x the peak": self.offered
            < 0.95 * OVERLOAD * self.peak,
            f"goodput is {self.goodput / self.peak:.1%} of the peak": self.goodput
            < self.least_goodput_ratio * self.peak,
            f"refusals take {self.refusal_ms:.0f} ms": self.refusal_ms > 50 or math.isnan(self.refusal_ms),
            f"{self.without_retry_after} refusals have no Retry-After": self.without_retry_after > 0,
            f"{self.other_outcomes} beside 200 and 503": bool(self.other_outcomes),
            f"memory grows from {self.rss_before_mb:.0f} to {self.rss_peak_mb:.0f} MB": self.rss_peak_mb
            > self.rss_before_mb + 100,
            f"{self.left_over:g} are in flight or queued afterwards": self.left_over != 0,
            f"{self.crashes}": bool(self.crashes),
        }
        limits.update({f"{path} takes {ms:.0f} ms": not ms <= 100 for path, ms in self.state_ms.items()})
        return [text for text, broken in limits.items() if broken]

    def figures(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**asdict(self), "goodput_ratio": round(self.goodput / self.peak, 3), "faults": self.faults}


def best(attempt: Callable[[], Result], attempts: int = 5) -> Result:
    """Return the first result without faults, or that with the fewest: the machine may be busy during one attempt."""
    results = []
    for _unused in range(attempts):
        results.append(attempt())
        if not results[-1].faults:
            break
    return min(results, key=lambda result: len(result.faults))


def percentile_ms(seconds: Sequence[float], percent: float = 95) -> float:
    """Return a percentile of some times, in ms; NaN of none."""
    ordered = sorted(seconds)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] * 1000 if ordered else math.nan


@contextlib.contextmanager
def cpu_bound_gateway() -> Iterator[WatchedGateway]:
    """A gateway on a core of its own before an upstream that answers at once: its CPU time is the limit.

    Whatever makes the load has the other cores, so that it takes nothing from the gateway.
    """
    own, *others = sorted(os.sched_getaffinity(0))
    with (
        _on_cores(others or [own]),
        constant_serving() as upstream,
        watched_gateway(upstream, cores=[own], **CONSTANT_MODEL) as gateway,
    ):
        yield gateway


@contextlib.contextmanager
def gateway_before_slow_upstream() -> Iterator[WatchedGateway]:
    """A gateway before an upstream that is the limit: 8 calls at once, 80 ms each."""
    port = free_port()
    with slow_serving(port, 0.08, 8), watched_gateway(f"127.0.0.1:{port}") as gateway:
        yield gateway


@contextlib.contextmanager
def slow_serving(port: int, seconds: float, at_once: int) -> Iterator[Process]:
    """Run slow_serving.py."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(HERE / "slow_serving.py"), str(port), str(seconds), str(at_once)]
        with Process(command, environment={}, log=Path(directory, "log")) as process:
            process.first_line()
            yield process


@contextlib.contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


async def load(port: int, seconds: float, connections: int, rate: float | None = None) -> dict[str, Any]:
    """Run the load generator with IMAGE in a process of its own, and return the summary of its result."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "image.jpg")
        file.write_bytes(sample_jpeg(IMAGE))
        command = [sys.executable, str(GENERATOR), f"http://127.0.0.1:{port}{SINGLE}", str(file)]
        command += [f"--connections={connections}", f"--seconds={seconds}", *([f"--rate={rate}"] if rate else [])]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            output, _unused = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    return json.loads(output)


async def peak_goodput(port: int, seconds: float) -> float:
    """Return the best rate of good answers that clients get who wait for each answer."""
    await load(port, 1, 8)
    results = [await load(port, seconds, connections) for connections in _CLOSED_LOOPS]
    failed = [result["failed"] for result in results if result["failed"]]
    if failed:
        raise RuntimeError(f"requests failed without overload: {failed}")
    return max(result["rate"] for result in results)


async def overload(gateway: WatchedGateway, seconds: float, least_goodput_ratio: float = 0.9) -> Overload:
    """Find the gateway's peak, offer three times as much for `seconds`, and watch what becomes of it."""
    peak = await peak_goodput(gateway.port, seconds / 2)
    before = gateway.rss_bytes
    gateway.forget_peak()
    generator = asyncio.create_task(load(gateway.port, seconds, _OPEN_CONNECTIONS, OVERLOAD * peak))
    # Until it has started, and the queue is full.
    start, end = time.monotonic() + _STEADY_AFTER_SECONDS, time.monotonic() + seconds
    period = _PREDICTING_CONNECTIONS * _BETWEEN_PREDICTIONS_SECONDS
    probes = [_probe(gateway.port, get(path), _BETWEEN_STATE_PROBES_SECONDS, start, end) for path in STATE_PATHS]
    probes += [
        _probe(
            gateway.port, predict_message(sample_jpeg(IMAGE)), period, start + index * _BETWEEN_PREDICTIONS_SECONDS, end
        )
        for index in range(_PREDICTING_CONNECTIONS)
    ]
    replies = await asyncio.gather(*probes)
    states, predictions = replies[: len(STATE_PATHS)], list(itertools.chain(*replies[len(STATE_PATHS) :]))
    result = await generator
    left_over = await work_left(gateway.port)
    outcomes = Counter(result["failed"])
    outcomes.update(str(reply.status) for reply in itertools.chain(*replies))
    refusals = [reply for reply in predictions if reply.status == 503]
    return Overload(
        peak=peak,
        offered=result["sent"] / seconds,
        goodput=result["rate"] + sum(reply.status == 200 for reply in predictions) / result["seconds"],
        good_p50_ms=result["p50_ms"] or math.nan,
        refusals=result["failed"].get("503", 0),
        refusals_timed=len(refusals),
        refusal_ms=percentile_ms([reply.seconds for reply in refusals]),
        without_retry_after=sum("retry-after" not in reply.headers for reply in refusals),
        state_ms={
            path: percentile_ms([reply.seconds for reply in answers if reply.status == 200])
            for path, answers in zip(STATE_PATHS, states)
        },
        state_probes=sum(map(len, states)),
        other_outcomes={outcome: count for outcome, count in outcomes.items() if outcome not in ("200", "503")},
        rss_before_mb=before / 1e6,
        rss_peak_mb=gateway.peak_rss_bytes / 1e6,
        left_over=left_over,
        crashes=gateway.crashes,
        least_goodput_ratio=least_goodput_ratio,
    )


async def _probe(port: int, message: bytes, period: float, start: float, end: float) -> list[Reply]:
    """Send a request every `period` seconds on one connection, and return the answers."""
    connection = await Connection.open(port)
    await asyncio.sleep(start - time.monotonic())
    replies = []
    while time.monotonic() < end:
        replies.append(await connection.ask([message]))
        await asyncio.sleep(period)
    connection.close()
    return replies


def predict_message(image: bytes) -> bytes:
    """Return a request for the prediction of a JPEG file."""
    body = form(b"file", [image])
    return head(SINGLE, form_type(), length(body)) + body


async def work_left(port: int, seconds: float = 5) -> float:
    """Return how many requests the gateway counts as in flight or queued; waits up to `seconds` for none."""
    end = time.monotonic() + seconds
    while True:
        left = await metric(port, "tf2x_gateway_in_flight") + await metric(port, "tf2x_gateway_queued")
        if left == 0 or time.monotonic() > end:
            return left
        await asyncio.sleep(0.1)


async def metric(port: int, name: str) -> float:
    """Return the value of a metric without labels."""
    reply = await ask(port, [get("/metrics")])
    values = [line.split()[1] for line in reply.body.decode().splitlines() if line.startswith(f"{name} ")]
    return float(values[0])
