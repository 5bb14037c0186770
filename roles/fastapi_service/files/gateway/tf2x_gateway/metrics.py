"""Prometheus metrics of the gateway."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from tf2x_gateway import __version__

# Set where several workers run: they add their values up through files in the directory that it names.
_MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

disable_created_metrics()

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DECODE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_DIFFERENCE_BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.25, 0.5, 1)
_SCORE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# Every class is a series for each version; a model may have thousands.
_MAX_CLASSES = 100
_OTHER_CLASSES = "other"
# The lane of requests that only try whether predictions work: they must not count as traffic.
PROBE_LANE = "probe"


def version_text(version: int | None) -> str:
    """Return a model's version as the value of a metric's label: empty if it is unknown."""
    return "" if version is None else str(version)


class Metrics:
    """All metrics of one gateway process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "tf2x_gateway_requests_total",
            "HTTP requests answered.",
            ("model", "route", "code"),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "tf2x_gateway_request_seconds",
            "From an HTTP request's headers to the end of its answer.",
            ("model", "route"),
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self.decode_seconds = Histogram(
            "tf2x_gateway_decode_seconds",
            "From image file to encoded request, without the wait for a thread.",
            ("model",),
            buckets=_DECODE_BUCKETS,
            registry=self._registry,
        )
        self.upstream_seconds = Histogram(
            "tf2x_gateway_upstream_seconds",
            "Calls of Predict that were answered, with their retries.",
            ("model", "label", "version"),
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self.upstream_retries = Counter(
            "tf2x_gateway_upstream_retries_total",
            "Attempts at an upstream address after another one was unavailable.",
            ("address",),
            registry=self._registry,
        )
        self.predictions = Counter(
            "tf2x_gateway_predictions_total",
            "Requests to one label of a model: ok, error or timeout.",
            ("model", "label", "version", "outcome"),
            registry=self._registry,
        )
        self.canary_percent = Gauge(
            "tf2x_gateway_canary_percent",
            "Percent of the requests that the model's canary is asked too; 0 in the modes that are not in force.",
            ("model", "mode"),
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self.shadow = Counter(
            "tf2x_gateway_shadow_total",
            "Images that the canary was asked about in shadow: same_label or other_label, error or dropped.",
            ("model", "version", "result"),
            registry=self._registry,
        )
        self.shadow_difference = Histogram(
            "tf2x_gateway_shadow_difference",
            "Largest absolute difference between the scores of the canary and those of the answer, one for each image.",
            ("model", "version"),
            buckets=_DIFFERENCE_BUCKETS,
            registry=self._registry,
        )
        self.top_score = Histogram(
            "tf2x_gateway_top_score",
            "Highest score of a predicted image.",
            ("model", "version"),
            buckets=_SCORE_BUCKETS,
            registry=self._registry,
        )
        self.top_label = Counter(
            "tf2x_gateway_top_label_total",
            f"Predicted images by their best class; declared labels after the first {_MAX_CLASSES} count as one.",
            ("model", "version", "class"),
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "tf2x_gateway_in_flight",
            "Requests for predictions under way.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.queued = Gauge(
            "tf2x_gateway_queued",
            "Requests for predictions that wait for their turn.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.in_flight_limit = Gauge(
            "tf2x_gateway_in_flight_limit",
            "How many requests for predictions may be under way.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.queued_limit = Gauge(
            "tf2x_gateway_queued_limit",
            "How many requests for predictions may wait.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.refused = Counter(
            "tf2x_gateway_refused_total",
            "Requests refused to keep a limit: queue, memory or client.",
            ("limit",),
            registry=self._registry,
        )
        build_info = Gauge(
            "tf2x_gateway_build_info",
            "Always 1; the labels say what runs.",
            ("version", "python"),
            registry=self._registry,
            multiprocess_mode="max",
        )
        build_info.labels(__version__, platform.python_version()).set(1)

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        registry = self._registry
        if _MULTIPROCESS_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)

    def add_process_metrics(self) -> None:
        """Add CPU, memory and file descriptors of this process; pointless where several workers answer in turn."""
        if _MULTIPROCESS_VARIABLE not in os.environ:
            ProcessCollector(registry=self._registry)


class LaneMetrics:
    """The metrics of one lane of a model. Their series are looked up once: every request needs some.

    `lane` is the version label that is asked, or PROBE_LANE; `classes` are the model's declared labels.
    """

    def __init__(self, metrics: Metrics, model: str, lane: str, classes: Sequence[str]) -> None:
        self._metrics = metrics
        self._lane = (model, lane)
        self._classes = classes
        self._counters: dict[tuple[int | None, str], Counter] = {}
        self._histograms: dict[int | None, Histogram] = {}
        self._answers: dict[int | None, tuple[Histogram, dict[str, Counter]]] = {}

    def count(self, version: int | None, outcome: str) -> None:
        """Count a request that ended with `outcome`: ok, error or timeout."""
        counter = self._counters.get((version, outcome))
        if counter is None:
            counter = self._metrics.predictions.labels(*self._lane, version_text(version), outcome)
            self._counters[version, outcome] = counter
        counter.inc()

    def observe_call(self, version: int | None, seconds: float) -> None:
        """Note how long a call of Predict took that was answered by `version`."""
        histogram = self._histograms.get(version)
        if histogram is None:
            histogram = self._metrics.upstream_seconds.labels(*self._lane, version_text(version))
            self._histograms[version] = histogram
        histogram.observe(seconds)

    def observe_answer(self, version: int | None, label: str, score: float) -> None:
        """Note the best class of an image and its score. Those of probes say nothing about what clients send."""
        model, lane = self._lane
        if lane == PROBE_LANE:
            return
        if version not in self._answers:
            self._answers[version] = self._answer_metrics(model, version_text(version))
        top_score, top_label = self._answers[version]
        top_score.observe(score)
        top_label[label].inc()

    def _answer_metrics(self, model: str, version: str) -> tuple[Histogram, dict[str, Counter]]:
        """Return the metrics of a version's answers. All classes begin at 0: a new one would have no past."""
        names = [*self._classes[:_MAX_CLASSES], *[_OTHER_CLASSES] * len(self._classes[_MAX_CLASSES:])]
        counters = {
            label: self._metrics.top_label.labels(model, version, name) for label, name in zip(self._classes, names)
        }
        return self._metrics.top_score.labels(model, version), counters
