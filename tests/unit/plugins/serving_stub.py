"""Servers that answer like TF Serving and the gateway, and as wrongly or slowly as a test asks."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import model_builder
from ansible_collections.tf2x.serving.plugins.module_utils import _wire
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import Tensor

HTML_404 = b"<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD></HTML>"
_PATH = re.compile(r"/v1/models/(?P<model>[^/:]+)(/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?(?P<verb>.*)")


def flatten(value: Any) -> list[float]:
    return [number for part in value for number in flatten(part)] if isinstance(value, list) else [value]


@dataclass
class Model:
    """What the stub serves.

    By path, `answers` replaces status and body, and `delays` has the seconds before an answer. `drip`: seconds a byte.
    """

    name: str = "pets"
    states: dict[int, str] = field(default_factory=lambda: {1: "AVAILABLE"})
    errors: dict[int, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=lambda: dict(model_builder.INPUTS))
    outputs: dict[str, Any] = field(default_factory=lambda: dict(model_builder.OUTPUTS))
    offset: float = 0.0
    second_output: bool = False
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    drip: float = 0.0
    seen: list[str] = field(default_factory=list)

    def scores(self, pixels: list[float]) -> list[float]:
        return [score + self.offset for score in model_builder.scores(pixels)]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        match = _PATH.fullmatch(path)
        if not match:
            return 404, HTML_404
        if match["model"] != self.name:
            return 404, {"error": f"Could not find any versions of model {match['model']}"}
        version = int(match["version"]) if match["version"] else None
        if match["verb"] == "" and method == "GET":
            return self._status(version)
        try:
            return self._answer_for(self._resolve(version, match["label"]), f"{method} {match['verb']}", body)
        except LookupError as error:
            return error.args

    def _resolve(self, version: int | None, label: str | None) -> int:
        if label and label not in self.labels:
            raise LookupError(400, {"error": f"Unrecognized servable version label: {label}"})
        available = [one for one, state in self.states.items() if state == "AVAILABLE"]
        version = self.labels[label] if label else version or max(available, default=None)
        if version not in available:
            raise LookupError(404, {"error": f"Servable not found for request: Specific({self.name}, {version})"})
        return version

    def _answer_for(self, version: int, verb: str, body: bytes) -> tuple[int, Any]:
        if verb == "GET /metadata":
            return self._metadata(version)
        return self._predict(json.loads(body)) if verb == "POST :predict" else (404, HTML_404)

    def _status(self, version: int | None) -> tuple[int, Any]:
        if version is not None and version not in self.states:
            return 404, {"error": f"Could not find version {version} of model {self.name}"}
        entries = [
            {
                "version": str(number),
                "state": state,
                "status": {"error_code": "OK", "error_message": self.errors.get(number, "")},
            }
            for number, state in self.states.items()
            if version in (None, number)
        ]
        return 200, {"model_version_status": entries}

    def _metadata(self, version: int) -> tuple[int, Any]:
        signature = {
            "inputs": {name: _tensor_info(spec) for name, spec in self.inputs.items()},
            "outputs": {name: _tensor_info(spec) for name, spec in self.outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        signatures = {"serving_default": signature, "__saved_model_init_op": {"inputs": {}, "outputs": {}}}
        return 200, {
            "model_spec": {"name": self.name, "signature_name": "", "version": str(version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }

    def _predict(self, request: dict[str, Any]) -> tuple[int, Any]:
        if request["signature_name"] != "serving_default":
            return 400, {"error": f'Serving signature name: "{request["signature_name"]}" not found in signature def'}
        result = [self.scores(flatten(row)) for row in request["inputs"]["image"]]
        return 200, {"outputs": {"scores": result, "other": [1]} if self.second_output else result}


@dataclass
class Gateway:
    """`answer` replaces status and body; else each golden image gets the scores that belong to it."""

    images: dict[bytes, list[float]]
    version: Any = "1"
    status: int = 200
    body: Any = None
    api_key: str | None = None
    delays: dict[str, float] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    drip: float = 0.0
    seen: list[str] = field(default_factory=list)

    def refusal(self, authorization: str) -> tuple[int, Any] | None:
        if self.api_key is None or authorization == f"Bearer {self.api_key}":
            return None
        return 401, {"success": False, "error": {"code": "unauthorized", "message": "no key, or no known one"}}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.body is not None:
            return self.status, self.body
        if method != "POST" or path != "/models/pets/predict":
            return 404, {"success": False, "error": {"code": "model_not_found", "message": f"no model at {path}"}}
        if b'name="file"' not in body:
            return 422, {"success": False, "error": {"code": "missing_file", "message": "no file"}}
        scores = next((scores for image, scores in self.images.items() if image in body), None)
        if scores is None:
            return 422, {"success": False, "error": {"code": "image_invalid", "message": "not an image"}}
        pairs = sorted(zip(scores, model_builder.LABELS), reverse=True)
        return 200, {
            "success": True,
            "predictions": [{"label": label, "score": score} for score, label in pairs],
            "model": {"name": "pets", "version": self.version},
        }


@contextmanager
def http_server(model: Model | Gateway, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve `model`; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            model.seen.append(f"{self.command} {self.path}")
            time.sleep(model.delays.get(self.path, 0))
            refusal = model.refusal(self.headers.get("Authorization", "")) if isinstance(model, Gateway) else None
            status, content = refusal or model.answers.get(self.path) or model.answer(self.command, self.path, body)
            data = content if isinstance(content, bytes) else json.dumps(content, indent=4).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                for start in range(0, len(data), 1) if model.drip else [0]:
                    self.wfile.write(data[start : start + 1] if model.drip else data)
                    time.sleep(model.drip)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = _handle

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_server(model: Model) -> Iterator[str]:
    """Serve `model` on PredictionService; yields the address."""

    def predict(request: bytes, context: grpc.ServicerContext) -> bytes:
        message = _wire.parse(request)
        spec = _wire.parse(_wire.bytes_of(message, 1))
        asked = f"grpc {_wire.text_of(spec, 1)} {_wire.text_of(spec, 3)} {_wire.text_of(spec, 4)}".rstrip()
        model.seen.append(asked if 2 not in spec else f"{asked} by version")
        time.sleep(model.delays.get("grpc", 0))
        version = _wire.number_of(_wire.parse(_wire.bytes_of(spec, 2)), 1)
        if version and model.states.get(version) != "AVAILABLE":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific(pets, {version})")
        image = Tensor.from_proto(dict(_wire.entries(message, 2))["image"])
        scores = model.scores(list(image.values()))
        answer = Tensor.from_values("DT_FLOAT", [1, len(scores)], scores).to_proto()
        return _wire.entry_field(1, "scores", answer)

    handler = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def silent_server() -> Iterator[str]:
    """Take connections and never answer; yields host:port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def closed_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _tensor_info(spec: model_builder.Spec) -> dict[str, Any]:
    dtype, shape = spec
    name = {model_builder.FLOAT: "DT_FLOAT", model_builder.INT64: "DT_INT64"}[dtype]
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": name, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": "tensor:0"}
