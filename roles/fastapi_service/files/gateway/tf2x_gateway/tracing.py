"""Spans of requests, sent to an OpenTelemetry collector over HTTP (OTLP)."""

from __future__ import annotations

import importlib.util
from typing import Any

from tf2x_gateway import __version__
from tf2x_gateway.config import ConfigError

_SDK = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def check_installed() -> None:
    """Raise ConfigError if OpenTelemetry's SDK or its exporter is not in this Python environment."""
    try:
        missing = [name for name in _SDK if importlib.util.find_spec(name) is None]
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
    if missing:
        raise ConfigError(
            f"otlp_endpoint is set, and this Python environment has no {missing[0]}; "
            "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http are needed"
        )


class Tracer:
    """Makes a span for each request and sends them in the background, from a thread of the SDK."""

    def __init__(self, endpoint: str) -> None:
        # Some 10 MB that only those pay who want traces.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        resource = Resource.create({"service.name": "tf2x-gateway", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("tf2x_gateway", __version__)
        self._context = TraceContextTextMapPropagator()
        self._context_of = set_span_in_context
        self._server_kind = SpanKind.SERVER
        self._error_status = StatusCode.ERROR

    def start(self, traceparent: str) -> tuple[Any, str]:
        """Return a span that continues the caller's trace, if there is one, and the `traceparent` of the span."""
        parent = self._context.extract({"traceparent": traceparent} if traceparent else {})
        span = self._tracer.start_span("request", context=parent, kind=self._server_kind)
        carrier: dict[str, str] = {}
        self._context.inject(carrier, self._context_of(span))
        return span, carrier.get("traceparent", "")

    def end(self, span: Any, name: str, attributes: dict[str, Any], *, failed: bool) -> None:
        """End a span under its final name."""
        span.update_name(name)
        span.set_attributes(attributes)
        if failed:
            span.set_status(self._error_status)
        span.end()

    def close(self) -> None:
        """Send what is left, and stop."""
        self._provider.shutdown()
