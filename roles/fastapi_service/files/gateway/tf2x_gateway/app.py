"""The gateway as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tf2x_gateway import __version__, page, pixels, upload
from tf2x_gateway.config import CONFIG_VARIABLE, GatewayConfig, load_config
from tf2x_gateway.errors import RETRY_AFTER_SECONDS, GatewayError, error_body
from tf2x_gateway.metrics import Metrics, RequestMetricsMiddleware
from tf2x_gateway.predictor import Prediction, Predictor
from tf2x_gateway.serving import ServingClient

_READINESS_SECONDS = 2.0
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

_log = logging.getLogger("tf2x_gateway")


def app_from_environment() -> FastAPI:
    """Return the application for the configuration file that TF2X_GATEWAY_CONFIG names: what a worker process runs."""
    return create_app(load_config(Path(os.environ[CONFIG_VARIABLE])))


def create_app(config: GatewayConfig) -> FastAPI:
    """Return the application. It connects to TF Serving when it starts up, and starts whether that answers or not."""
    metrics = Metrics()
    metrics.add_process_metrics()
    pixels.set_process_limit(config.limits.max_image_pixels)
    predictors: dict[str, Predictor] = {}

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        client = ServingClient(
            config.upstream.grpc,
            patience_seconds=config.upstream.deadline_seconds,
            on_retry=lambda address: metrics.upstream_retries.labels(address).inc(),
        )
        threads = max(1, len(os.sched_getaffinity(0)) // config.workers)
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoders:
            for name, declaration in config.models.items():
                predictors[name] = Predictor(
                    name,
                    declaration,
                    client=client,
                    decoders=decoders,
                    metrics=metrics,
                )
            yield
            await client.close()

    app = FastAPI(
        title="tf2x gateway",
        description="Image classification with models that TF Serving serves.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(
        RequestMetricsMiddleware, metrics=metrics, models=config.models, default_model=config.default_model
    )
    _add_error_handlers(app)

    async def answer(request: Request, name: str) -> Response:
        predictor = predictors.get(name)
        if predictor is None:
            known = ", ".join(sorted(predictors))
            raise GatewayError(404, "model_not_found", f"there is no model {name!r}; there are: {known}")
        with metrics.in_flight.track_inprogress():
            image = await upload.read_image(request, config.limits.max_upload_bytes)
            prediction = await predictor.predict(image, config.upstream.deadline_seconds)
        return _json(_prediction_body(name, prediction))

    @app.post("/model/predict", include_in_schema=False)
    @app.post("/model/predict/", summary="Classify an image with the default model", **_PREDICT_DOCS)
    async def predict_default(request: Request) -> Response:
        return await answer(request, config.default_model)

    @app.post("/models/{name}/predict/", include_in_schema=False)
    @app.post("/models/{name}/predict", summary="Classify an image with a model by name", **_PREDICT_DOCS)
    async def predict_named(request: Request, name: str) -> Response:
        return await answer(request, name)

    @app.get("/", include_in_schema=False)
    async def greeting() -> Response:
        return PlainTextResponse(page.GREETING)

    form = page.form_page()

    @app.get("/form", include_in_schema=False)
    async def form_page() -> Response:
        return HTMLResponse(form)

    @app.get("/docs", include_in_schema=False)
    async def docs_page() -> Response:
        return HTMLResponse(page.docs_page(app.openapi()))

    @app.get("/healthz", summary="Whether the process lives", responses={200: {"description": "It does"}})
    async def healthz() -> Response:
        return _json({"ok": True})

    @app.get("/readyz", summary="Whether every model can be asked for predictions", responses=_READINESS_ANSWERS)
    async def readyz() -> Response:
        seconds = min(_READINESS_SECONDS, config.upstream.deadline_seconds)
        checks = [predictor.check(seconds) for predictor in predictors.values()]
        results = dict(zip(predictors, await asyncio.gather(*checks, return_exceptions=True)))
        reasons = []
        for result in results.values():
            if isinstance(result, GatewayError):
                reasons.append(result.message)
            elif isinstance(result, BaseException):
                raise result
        if reasons:
            raise GatewayError(503, "not_ready", "; ".join(reasons), {"Retry-After": str(RETRY_AFTER_SECONDS)})
        return _json({"ready": True, "models": {name: _version(version) for name, version in results.items()}})

    @app.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return app


def _prediction_body(name: str, prediction: Prediction) -> dict[str, Any]:
    return {
        "success": True,
        "predictions": [{"label": label, "score": score} for label, score in prediction.scores],
        "model": {"name": name, "version": _version(prediction.version)},
    }


def _version(version: Any) -> Any:
    # TF Serving's REST interface writes versions as strings, as an int64 does not fit a JSON number everywhere.
    return None if version is None else str(version)


def _json(document: Any) -> Response:
    return Response(json.dumps(document, ensure_ascii=False, allow_nan=False), media_type="application/json")


def _add_error_handlers(app: FastAPI) -> None:
    def answer(status: int, code: str, message: str, headers: Any = None) -> Response:
        return Response(error_body(code, message), status, headers, "application/json")

    @app.exception_handler(GatewayError)
    async def gateway_error(request: Request, error: GatewayError) -> Response:
        if error.status >= 500 and error.code != "not_ready":
            _log.warning("%s: %d %s: %s", request.url.path, error.status, error.code, error.message)
        return answer(error.status, error.code, error.message, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal_error")
        message = f"{request.method} {request.url.path}: {error.detail}"
        return answer(error.status_code, code, message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_request: Request, error: RequestValidationError) -> Response:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return answer(400, "bad_request", faults)

    @app.exception_handler(ClientDisconnect)
    async def client_gone(_request: Request, _error: ClientDisconnect) -> Response:
        # Nobody reads it; the status is for the metrics.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        return answer(500, "internal_error", "the gateway failed unexpectedly; its log says more")


_BINARY = {"type": "string", "format": "binary"}
_PREDICT_DOCS: dict[str, Any] = {
    "description": "Labels with their scores, best first, and the model version that gave them.",
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}}
                },
                "image/*": {"schema": _BINARY},
            },
        }
    },
    "responses": {
        200: {
            "description": "The predictions",
            "content": {
                "application/json": {
                    "example": {
                        "success": True,
                        "predictions": [{"label": "cat", "score": 0.98}, {"label": "dog", "score": 0.02}],
                        "model": {"name": "pets", "version": "1"},
                    }
                }
            },
        },
        400: {"description": "bad_request"},
        404: {"description": "model_not_found"},
        413: {"description": "file_too_large, image_too_large"},
        415: {"description": "unsupported_type"},
        422: {"description": "missing_file, image_invalid, image_truncated"},
        500: {"description": "model_contract"},
        502: {"description": "upstream_error"},
        503: {"description": "upstream_unavailable; Retry-After says when to come back"},
        504: {"description": "upstream_timeout"},
    },
}
_READINESS_ANSWERS: dict[Any, Any] = {
    200: {"description": "Yes; the versions that answer"},
    503: {"description": "not_ready; the message says why"},
}
