"""Prometheus metrics of the gateway."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Collection

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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tf2x_gateway import __version__

# Set where several workers run: they add their values up through files in the directory that it names.
_MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

disable_created_metrics()

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DECODE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


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
            "Calls of Predict, with their retries.",
            ("model",),
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self.upstream_retries = Counter(
            "tf2x_gateway_upstream_retries_total",
            "Attempts at an upstream address after another one was unavailable.",
            ("address",),
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "tf2x_gateway_in_flight",
            "Requests for predictions under way.",
            registry=self._registry,
            multiprocess_mode="livesum",
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


class RequestMetricsMiddleware:
    """Counts and times requests by model, route and status code; unknown models and paths share one label value."""

    def __init__(self, app: ASGIApp, metrics: Metrics, models: Collection[str], default_model: str) -> None:
        self._app = app
        self._metrics = metrics
        self._models = models
        self._default_model = default_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # An exception that nothing handles is answered outside of this middleware, with 500.
        code = 500

        async def send_and_note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            model = self._model(route, scope)
            self._metrics.requests.labels(model, route, str(code)).inc()
            self._metrics.request_seconds.labels(model, route).observe(time.perf_counter() - started)

    def _model(self, route: str, scope: Scope) -> str:
        if route.startswith("/model/"):
            return self._default_model
        name = scope.get("path_params", {}).get("name", "")
        return name if name in self._models else ""
