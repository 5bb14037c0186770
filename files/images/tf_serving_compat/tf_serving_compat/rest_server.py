"""The REST interface and the metrics page, with TF Serving's paths, bodies, codes and error texts."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote

import orjson
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc import StatusCode

from tf_serving_compat import metrics, rest_json, services
from tf_serving_compat.core import ServerCore
from tf_serving_compat.errors import (
    HTTP_STATUS,
    ServingError,
    as_serving_error,
    invalid_argument,
)
from tf_serving_compat.predict import DEFAULT_SIGNATURE
from tf_serving_compat.protos import get_model_metadata_pb2, model_pb2

logger = logging.getLogger(__name__)

SERVER_HEADER = "tf2x-serving-compat"
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"

_PREDICT_PATH = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)"
)
_STATUS_PATH = re.compile(
    r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?(?:/(metadata))?"
)
_API_PATH = re.compile(r"(?i)/v1/.*")
_NOT_FOUND_PAGE = "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


class _Target(NamedTuple):
    spec: model_pb2.ModelSpec
    method: str  # predict, classify, regress, metadata, or "" for the status


class RestServer:
    """An HTTP server whose event loop has a thread of its own; predictions run in a pool of `num_threads`."""

    def __init__(
        self,
        core: ServerCore,
        port: int,
        *,
        num_threads: int,
        timeout_ms: int = 30000,
        metrics_path: str | None = None,
        cors: bool = False,
        shutdown_seconds: float = 30,
    ) -> None:
        """Bind the port; `metrics_path` None means no metrics page. Raises ServingError if the port is taken."""
        self._core = core
        self._timeout_ms = timeout_ms
        self._metrics_path = metrics_path
        self._cors = cors
        self._shutdown_seconds = shutdown_seconds
        self._pool = ThreadPoolExecutor(num_threads, "rest")
        self._socket = _listen(port)
        self._loop = asyncio.new_event_loop()
        self._runner: web.ServerRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest-loop", daemon=True)

    def start(self) -> None:
        """Accept requests."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        """Accept no more requests, and give the ones under way `shutdown_seconds`."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    async def _start(self) -> None:
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), shutdown_timeout=self._shutdown_seconds
        )
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=128).start()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        if path == self._metrics_path:
            return _response(200, metrics.page().encode(), metrics.CONTENT_TYPE)
        if not _API_PATH.fullmatch(path):
            return _response(404, _NOT_FOUND_PAGE.encode(), "text/html")
        started = time.monotonic()
        body = await request.content.read()
        name, method, status = "", "", StatusCode.OK
        try:
            if request.method == "OPTIONS":
                answer = _preflight(request)
            else:
                target = _parse_path(request.method, path)
                name, method = target.spec.name, target.method if request.method == "POST" else ""
                answer = await self._process(target, body)
        except Exception as failure:
            if not isinstance(failure, ServingError):
                logger.exception("A request failed in an unforeseen way: %s %s", request.method, path)
            error = as_serving_error(failure)
            status = error.code
            answer = b'{\n    "error": ' + orjson.dumps(error.message) + b"\n}"
        else:
            metrics.REQUEST_LATENCY.add((time.monotonic() - started) * 1e6, name, method, "REST")
        metrics.REQUEST_COUNT.add(name, status.name)
        return _response(HTTP_STATUS[status], answer, "application/json", _CORS_HEADERS if self._cors else {})

    async def _process(self, target: _Target, body: bytes) -> bytes:
        if target.method == "predict":
            # Nothing that takes long may run on the event loop; a busy pool leaves status and metrics answering.
            return await self._loop.run_in_executor(self._pool, self._predict, target.spec, body)
        if target.method in ("classify", "regress"):
            raise ServingError(
                StatusCode.UNIMPLEMENTED, f"{target.method} is not implemented by this stand-in; use predict"
            )
        if not target.spec.name:
            raise invalid_argument("Missing model name in request.")
        if target.method == "metadata":
            return _metadata_body(self._core, target.spec)
        return _to_json(services.model_status(self._core, target.spec)).encode()

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
        with services.servable_of(self._core, spec) as servable:

            def inputs_of(signature_name: str) -> rest_json.Inputs:
                signature = servable.signatures.get(signature_name or DEFAULT_SIGNATURE)
                if signature is None:
                    raise invalid_argument(
                        f'Serving signature name: "{signature_name or DEFAULT_SIGNATURE}" not found in signature def'
                    )
                return signature.inputs

            call = rest_json.parse_predict(body, inputs_of)
            outputs = servable.predict(
                call.signature_name or DEFAULT_SIGNATURE,
                call.inputs,
                lambda _alias, tensor: tensor,
                timeout_ms=max(0, self._timeout_ms),
            )
        return rest_json.predict_body(outputs, call.row_format)


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("0.0.0.0", port))
    except OSError as error:
        raise ServingError(StatusCode.UNAVAILABLE, f"Cannot listen for HTTP at port {port}: {error}") from error


def _response(status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> web.Response:
    all_headers = {"Server": SERVER_HEADER, "Content-Type": content_type, **(headers or {})}
    return web.Response(status=status, body=body, headers=all_headers)


def _preflight(request: web.BaseRequest) -> bytes:
    if not re.search(r"https?://", request.headers.get("Origin", "")):
        raise ServingError(StatusCode.FAILED_PRECONDITION, "Origin header is missing in CORS preflight")
    return b""


def _parse_path(http_method: str, path: str) -> _Target:
    pattern = {"POST": _PREDICT_PATH, "GET": _STATUS_PATH}.get(http_method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise invalid_argument(f"Malformed request: {http_method} {path}")
    name, version, label, method = match.groups()
    spec = model_pb2.ModelSpec(name=unquote(name or ""))
    if version:
        if int(version) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label:
        spec.version_label = unquote(label)
    return _Target(spec, (method or "").lower())


def _metadata_body(core: ServerCore, spec: model_pb2.ModelSpec) -> bytes:
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[services.SIGNATURE_DEF])
    response = services.model_metadata(core, request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[services.SIGNATURE_DEF].Unpack(signatures)
    return (
        f'{{\n"model_spec":{_to_json(response.model_spec)},\n'
        f'"metadata": {{"signature_def": {_to_json(signatures)}}}\n}}\n'
    ).encode()


def _to_json(message: Message) -> str:
    return json_format.MessageToJson(
        message, indent=1, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
