"""A server process of the stand-in, and clients for its two interfaces."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

sys.path.append(str(Path(__file__).resolve().parents[2] / "unit"))

from ports import free_port

IMAGE = Path(__file__).resolve().parents[3] / "files" / "images" / "tf_serving_compat"
METRICS_PATH = "/monitoring/prometheus/metrics"
MONITORING_CONFIG = f'prometheus_config {{ enable: true, path: "{METRICS_PATH}" }}'


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The error text of a JSON answer."""
        return self.json["error"]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0, what: str = "the condition") -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


def run_to_end(*arguments: str, seconds: float = 120.0) -> tuple[int, str]:
    """Exit status and output of a server that is expected to end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(IMAGE)}
    command = [sys.executable, "-m", "tf_serving_compat", *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    return process.returncode, process.stdout + process.stderr


class CompatServer:
    """A running server; use it as a context manager."""

    def __init__(self, log: Path, *flags: str, wait: bool = True) -> None:
        self.port, self.rest_port = free_port(), free_port()
        self._log = log
        self._flags = flags
        self._wait = wait

    def __enter__(self) -> CompatServer:
        arguments = [f"--port={self.port}", f"--rest_api_port={self.rest_port}", *self._flags]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tf_serving_compat", *arguments],
                env={**os.environ, "PYTHONPATH": str(IMAGE)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", -1)]
        )
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)
        if self._wait:
            wait_for(lambda: self.is_open() or self.process.poll() is not None, what="the REST port")
            assert self.process.poll() is None, self.log()
        return self

    def __exit__(self, *_error: object) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self) -> str:
        """What the process has written so far."""
        return self._log.read_text(errors="replace")

    def is_open(self) -> bool:
        """Whether the REST port accepts."""
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex(("127.0.0.1", self.rest_port)) == 0

    def http(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Reply:
        """An HTTP call with the path exactly as given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        """A GET."""
        return self.http("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        """A POST of raw text or bytes, or of anything else as JSON."""
        return self.http("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body))

    def states(self, model: str) -> dict[int, str]:
        """State by version over gRPC; empty while the model is unknown."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = self.model.GetModelStatus(request, timeout=10)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
            return {}
        names = get_model_status_pb2.ModelVersionStatus.State
        return {status.version: names.Name(status.state) for status in response.model_version_status}

    def predict(self, request: predict_pb2.PredictRequest, timeout: float | None = 60) -> dict[str, np.ndarray]:
        """Outputs of a call as arrays."""
        response = self.prediction.Predict(request, timeout=timeout)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample; 0 when it is not on the page."""
        page = self.get(METRICS_PATH).text
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        match = re.search(rf"^{re.escape(f'{name}{{{text}}}')} (\S+)$", page, re.MULTILINE)
        return float(match[1]) if match else 0.0


def request_for(model: str, signature: str = "", **inputs: Any) -> predict_pb2.PredictRequest:
    """A Predict request; arrays go in as TensorFlow's own `make_tensor_proto` encodes them (tensor_content)."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def linear_request(model: str, *values: float) -> predict_pb2.PredictRequest:
    """A request for y = k * x + 1."""
    return request_for(model, x=np.array(values, np.float32))
