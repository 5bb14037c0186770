"""Counters and histograms with TF Serving's names, and their Prometheus page.

Names keep TensorFlow's slashes inside and get colons on the page (`:tensorflow:serving:request_count`); the Prometheus
client library adds HELP lines and suffixes that TF Serving's page does not have.
"""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Sequence

_lock = threading.Lock()
_registry: dict[str, Counter | Histogram] = {}

CONTENT_TYPE = "text/plain"


class Counter:
    """A number per combination of label values; it only grows."""

    kind = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        self._labels = labels
        self._cells: dict[tuple[str, ...], int] = {}
        _registry[name] = self

    def add(self, *values: str, amount: int = 1) -> None:
        """Increase the cell of these label values."""
        with _lock:
            self._cells[values] = self._cells.get(values, 0) + amount

    def first_value(self) -> int:
        """The value of the first cell, which is what a reload request reports; 0 when there is none."""
        with _lock:
            return next(iter(self._cells.values()), 0)

    def lines(self, name: str) -> list[str]:
        """Sample lines of the page."""
        return [f"{name}{{{_labels(self._labels, values)}}} {value}" for values, value in self._cells.items()]


class Histogram:
    """A distribution per combination of label values, in `count` buckets up to scale * growth^i."""

    kind = "histogram"

    def __init__(self, name: str, *labels: str, buckets: tuple[float, float, int] = (10, 1.8, 33)) -> None:
        scale, growth, count = buckets
        self._labels = labels
        self._limits = [scale * growth**index for index in range(count)]
        self._cells: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        _registry[name] = self

    def add(self, value: float, *values: str) -> None:
        """Record a value in the cell of these label values."""
        with _lock:
            counts, total = self._cells.setdefault(values, ([0] * (len(self._limits) + 1), [0.0]))
            counts[bisect.bisect_right(self._limits, value)] += 1
            total[0] += value

    def first_value(self) -> int:
        """Histograms have no single value; TensorFlow reports 0."""
        return 0

    def lines(self, name: str) -> list[str]:
        """Sample lines of the page."""
        lines = []
        limits = [*(f"{limit:g}" for limit in self._limits), "+Inf"]
        for values, (counts, total) in self._cells.items():
            labels = _labels(self._labels, values)
            cumulative = 0
            for limit, count in zip(limits, counts):
                cumulative += count
                lines.append(f'{name}_bucket{{{labels}{"," if labels else ""}le="{limit}"}} {cumulative}')
            lines += [f"{name}_sum{{{labels}}} {total[0]:.6g}", f"{name}_count{{{labels}}} {cumulative}"]
        return lines


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(names, values))


def page() -> str:
    """All metrics in Prometheus' text format: TYPE lines and samples, no HELP lines."""
    lines = []
    with _lock:
        for name, metric in sorted(_registry.items()):
            page_name = re.sub(r"[^a-zA-Z0-9_]", ":", name)
            lines += [f"# TYPE {page_name} {metric.kind}", *metric.lines(page_name)]
    return "\n".join(lines) + "\n"


def first_value(name: str) -> int:
    """The first value of the metric with TensorFlow's own name (slashes); 0 for an unknown one."""
    metric = _registry.get(name)
    return metric.first_value() if metric else 0


_POWERS_OF_TWO = (1, 2, 14)

REQUEST_COUNT = Counter("/tensorflow/serving/request_count", "model_name", "status")
REQUEST_LATENCY = Histogram("/tensorflow/serving/request_latency", "model_name", "API", "entrypoint")
RUNTIME_LATENCY = Histogram("/tensorflow/serving/runtime_latency", "model_name", "API", "runtime")
WARMUP_LATENCY = Histogram("/tensorflow/serving/model_warmup_latency", "model_path", "status")
WARMUP_RECORDS = Counter("/tensorflow/serving/model_warmup_records_read", "model_path", "status")
LOAD_ATTEMPTS = Counter("/tensorflow/cc/saved_model/load_attempt_count", "model_path", "status")
LOAD_LATENCY = Counter("/tensorflow/cc/saved_model/load_latency", "model_path")
BATCH_QUEUING_LATENCY = Histogram(
    "/tensorflow/serving/batching_session/queuing_latency", "thread_pool_name", buckets=(100, 1.2, 52)
)
BATCH_RUNS = Counter("/tensorflow/serving/batching_session/wrapped_run_count")
BATCH_PADDING = Histogram(
    "/tensorflow/serving/batching_session/padding_size", "execution_batch_size", buckets=_POWERS_OF_TWO
)
BATCH_INPUT_SIZE = Histogram("/tensorflow/serving/batching_session/input_batch_size", buckets=_POWERS_OF_TWO)
BATCH_PROCESSED_SIZE = Histogram("/tensorflow/serving/batching_session/processed_batch_size", buckets=_POWERS_OF_TWO)
