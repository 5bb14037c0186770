"""The gateway as an ASGI application: its routes, and what errors are answered with."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from tf2x_gateway import __version__, openapi, page
from tf2x_gateway.access_log import AccessLog
from tf2x_gateway.config import CONFIG_VARIABLE, GatewayConfig, load_config
from tf2x_gateway.early_refusal import EarlyRefusal
from tf2x_gateway.errors import RETRY_AFTER_SECONDS, GatewayError, error_body, error_document
from tf2x_gateway.metrics import Metrics
from tf2x_gateway.observer import RequestObserver
from tf2x_gateway.predictor import Outcome, Prediction
from tf2x_gateway.served_model import ServedModel
from tf2x_gateway.service import Service
from tf2x_gateway.tracing import Tracer
from tf2x_gateway.traffic import TRAFFIC_VARIABLE, Traffic

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

_log = logging.getLogger("tf2x_gateway")


def app_from_environment() -> ASGIApp:
    """Return the application for the files that the environment names: what a worker process runs."""
    return create_app(load_config(Path(os.environ[CONFIG_VARIABLE])), Path(os.environ[TRAFFIC_VARIABLE]))


def create_app(config: GatewayConfig, traffic_file: Path) -> ASGIApp:
    """Return the application. Its start fails on what Service.running raises."""
    metrics = Metrics()
    metrics.add_process_metrics()
    traffic = Traffic(traffic_file, config.models, metrics)
    service = Service(config, metrics, traffic)
    access_log = AccessLog() if config.access_log else None
    tracer = Tracer(config.otlp_endpoint) if config.otlp_endpoint else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with service.running():
            # A page of another origin reads no answer that lacks the headers of the application.
            yield {} if config.cors_origins else {"early_refusal": EarlyRefusal(service.gate, app.routes, observer)}
        if access_log is not None:
            access_log.flush()
        if tracer is not None:
            tracer.close()

    app = FastAPI(
        title="tf2x gateway",
        description="Image classification with models that TF Serving serves.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-Id", "traceparent"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    _add_error_handlers(app)
    _add_predictions(app, service, config.default_model)
    _add_state(app, service, metrics, config.default_model)
    _add_pages(app)
    if config.api_keys:
        openapi.add_api_keys(app.openapi())
    observer = RequestObserver(
        app,
        metrics=metrics,
        models=config.models,
        default_model=config.default_model,
        access_log=access_log,
        cross_origin=bool(config.cors_origins),
        tracer=tracer,
    )
    return observer


def _add_predictions(app: FastAPI, service: Service, default_model: str) -> None:
    async def answer(request: Request, name: str) -> Response:
        prediction = await service.predict(request, name)
        _note(request, prediction)
        return _json(_outcome_body(name, prediction))

    async def answer_batch(request: Request, name: str) -> Response:
        outcomes = await service.predict_batch(request, name)
        for outcome in outcomes:
            _note(request, outcome)
        return _json({"success": True, "results": [_outcome_body(name, outcome) for outcome in outcomes]})

    @app.post("/model/predict", include_in_schema=False)
    @app.post("/model/predict/", summary="Classify an image with the default model", **openapi.PREDICT_DOCS)
    async def predict(request: Request) -> Response:
        return await answer(request, default_model)

    @app.post("/models/{name}/predict/", include_in_schema=False)
    @app.post("/models/{name}/predict", summary="Classify an image with a model by name", **openapi.PREDICT_DOCS)
    async def predict_by_name(request: Request, name: str) -> Response:
        return await answer(request, name)

    @app.post("/model/predict/batch", include_in_schema=False)
    @app.post("/model/predict/batch/", summary="Classify images with the default model", **openapi.BATCH_DOCS)
    async def predict_batch(request: Request) -> Response:
        return await answer_batch(request, default_model)

    @app.post("/models/{name}/predict/batch/", include_in_schema=False)
    @app.post("/models/{name}/predict/batch", summary="Classify images with a model by name", **openapi.BATCH_DOCS)
    async def predict_batch_by_name(request: Request, name: str) -> Response:
        return await answer_batch(request, name)


def _add_state(app: FastAPI, service: Service, metrics: Metrics, default_model: str) -> None:
    @app.get("/models", summary="The models that can be asked", **openapi.MODELS_DOCS)
    async def models(request: Request) -> Response:
        service.authorize(request, "predict")
        return _json({"models": [_description(model, default_model) for model in service.models()]})

    @app.get("/healthz", summary="Whether the process lives", **openapi.HEALTH_DOCS)
    async def healthz() -> Response:
        return _json({"ok": True})

    @app.get("/readyz", summary="Whether every model can be asked for predictions", **openapi.READINESS_DOCS)
    async def readyz() -> Response:
        results = await service.check()
        reasons = [result.message for result in results.values() if isinstance(result, GatewayError)]
        if reasons:
            raise GatewayError(503, "not_ready", "; ".join(reasons), {"Retry-After": str(RETRY_AFTER_SECONDS)})
        return _json({"ready": True, "models": {name: _version(version) for name, version in results.items()}})

    @app.get("/metrics", include_in_schema=False)
    async def exposition(request: Request) -> Response:
        service.authorize(request, "metrics")
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    def html(content: page.Page) -> Response:
        return HTMLResponse(content.html, headers={"Content-Security-Policy": content.content_security_policy})

    form = page.form_page()

    @app.get("/", include_in_schema=False)
    async def greeting() -> Response:
        return PlainTextResponse(page.GREETING)

    @app.get("/ui", include_in_schema=False)
    @app.get("/form", include_in_schema=False)
    async def form_page() -> Response:
        return html(form)

    @app.get("/docs", include_in_schema=False)
    async def docs_page() -> Response:
        return html(page.docs_page(app.openapi()))


def _add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, status: int, code: str, message: str, headers: Any = None) -> Response:
        request.state.error = code
        return Response(error_body(code, message), status, headers, "application/json")

    @app.exception_handler(GatewayError)
    async def gateway_error(request: Request, error: GatewayError) -> Response:
        if error.status >= 500 and error.code not in ("not_ready", "overloaded"):
            _log.warning("%s: %d %s: %s", request.url.path, error.status, error.code, error.message)
        return answer(request, error.status, error.code, error.message, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal_error")
        message = f"{request.method} {request.url.path}: {error.detail}"
        return answer(request, error.status_code, code, message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return answer(request, 400, "bad_request", faults)

    @app.exception_handler(ClientDisconnect)
    async def client_gone(_request: Request, _error: ClientDisconnect) -> Response:
        # Nobody reads it; the status is for the metrics.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _error: Exception) -> Response:
        return answer(request, 500, "internal_error", "the gateway failed unexpectedly; its log says more")


def _outcome_body(name: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, GatewayError):
        return error_document(outcome.code, outcome.message)
    return {
        "success": True,
        "predictions": [{"label": label, "score": score} for label, score in outcome.scores],
        "model": {"name": name, "version": _version(outcome.version), "label": outcome.version_label},
    }


def _description(model: ServedModel, default_model: str) -> dict[str, Any]:
    canary = model.canary_traffic
    return {
        "name": model.name,
        "default": model.name == default_model,
        "labels": model.stable.labels,
        "label": model.stable.version_label,
        "version": _version(model.stable.version),
        "canary": canary and {"version": _version(model.canary.version), **canary.model_dump()},
    }


def _note(request: Request, outcome: Outcome) -> None:
    """Keep for the access log who answered."""
    if isinstance(outcome, Prediction):
        request.state.version = outcome.version
        request.state.label = outcome.version_label


def _version(version: Any) -> Any:
    # TF Serving's REST interface writes versions as strings, as an int64 does not fit a JSON number everywhere.
    return None if version is None else str(version)


def _json(document: Any) -> Response:
    return Response(json.dumps(document, ensure_ascii=False, allow_nan=False), media_type="application/json")
