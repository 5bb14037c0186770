"""What is said about every request: its id, its metrics, one line in the access log, and headers that browsers heed."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tf2x_gateway.access_log import AccessLog
from tf2x_gateway.errors import GatewayError, error_body
from tf2x_gateway.metrics import Metrics
from tf2x_gateway.tracing import Tracer

# Asked every few seconds by machines: worth a line only when something is wrong.
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics")
# Who only tries whether predictions work says so with this header, and with any value of it.
_PROBE_HEADER = "x-tf2x-probe"
# The route under which predictions for probes are counted.
_PROBE_ROUTE = "probe"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class RequestObserver:
    """Wraps the whole application, so that it sees the answers to failures too.

    A request may bring its own `X-Request-Id` and `traceparent`; both are in the request's state as `request_id` and
    `traceparent` ("" if there is none), the id in the answer as well. `probe` is there too: whether it asks for a
    prediction only to try, which must not count as traffic.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        models: Collection[str],
        default_model: str,
        access_log: AccessLog | None,
        cross_origin: bool,
        tracer: Tracer | None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._models = models
        self._default_model = default_model
        self._access_log = access_log
        self._tracer = tracer
        self._headers = _SECURITY_HEADERS[:-1] if cross_origin else _SECURITY_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state, request_id = _identify(scope)
        span = None
        if self._tracer is not None and scope["path"] not in _QUIET_PATHS:
            span, state["traceparent"] = self._tracer.start(state["traceparent"])
        # Without an answer the client has gone.
        status = 499

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    *self._headers,
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._note(scope, status, time.perf_counter() - started, span)

    def answer(self, scope: Scope, error: GatewayError) -> bytes:
        """Note a request that ends before the application, and return its answer: all but headers of the connection."""
        state, request_id = _identify(scope)
        state["error"] = error.code
        self._note(scope, error.status, 0.0, None)
        body = error_body(error.code, error.message)
        headers = [
            *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            *self._headers,
        ]
        lines = [name + b": " + value for name, value in headers]
        status_line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()
        return b"\r\n".join((status_line, *lines, b"", body))

    def _note(self, scope: Scope, status: int, seconds: float, span: Any) -> None:
        route = getattr(scope.get("route"), "path", "other")
        model = self._model(route, scope)
        counted = _PROBE_ROUTE if model and scope["state"]["probe"] else route
        self._metrics.requests.labels(model, counted, str(status)).inc()
        self._metrics.request_seconds.labels(model, counted).observe(seconds)
        if self._access_log is not None and (status >= 400 or route not in _QUIET_PATHS):
            self._access_log.write(_access_entry(scope, status, seconds, model))
        if self._tracer is not None and span is not None:
            method = scope["method"]
            attributes = {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "tf2x.request_id": scope["state"]["request_id"],
                "tf2x.model": model,
            }
            self._tracer.end(span, f"{method} {route}", attributes, failed=status >= 500)

    def _model(self, route: str, scope: Scope) -> str:
        if route.startswith("/model/"):
            return self._default_model
        name = scope.get("path_params", {}).get("name", "")
        return name if name in self._models else ""


def _accepted(pattern: re.Pattern[str], value: str | None) -> str:
    return value if value is not None and pattern.fullmatch(value) else ""


def _identify(scope: Scope) -> tuple[dict[str, Any], str]:
    """Put id and trace context of a request into its state; return the state and the id."""
    headers = Headers(scope=scope)
    state = scope.setdefault("state", {})
    request_id = _accepted(_REQUEST_ID, headers.get("x-request-id")) or f"{random.getrandbits(128):032x}"
    state["request_id"] = request_id
    state["traceparent"] = _accepted(_TRACEPARENT, headers.get("traceparent"))
    state["probe"] = _PROBE_HEADER in headers
    return state, request_id


def _access_entry(scope: Scope, status: int, seconds: float, model: str) -> dict[str, Any]:
    state = scope["state"]
    entry: dict[str, Any] = {
        "request_id": state["request_id"],
        "client": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 6),
        "body_bytes": state.get("body_bytes", 0),
    }
    if model:
        entry["model"] = model
    for key in ("version", "label", "error", "api_key", "traceparent"):
        if state.get(key):
            entry[key] = state[key]
    return entry
