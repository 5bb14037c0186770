"""The gRPC interface: the official services, on the official stubs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tf_serving_compat import metrics, services
from tf_serving_compat.core import ServerCore
from tf_serving_compat.errors import ServingError, as_serving_error, invalid_argument
from tf_serving_compat.predict import DEFAULT_SIGNATURE
from tf_serving_compat.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tf_serving_compat.tensors import to_proto

logger = logging.getLogger(__name__)

Response = TypeVar("Response")

_UNLIMITED = -1


def make_server(
    core: ServerCore,
    port: int,
    *,
    socket_path: str = "",
    max_threads: int = 4,
    channel_arguments: Sequence[tuple[str, int | str]] = (),
    health_service: bool = False,
    outputs_as_tensor_content: bool = False,
) -> grpc.Server:
    """A server bound to its addresses, not started; raises ServingError where an address cannot be had."""
    options: dict[str, int | str] = {
        "grpc.max_receive_message_length": _UNLIMITED,
        "grpc.max_send_message_length": _UNLIMITED,
        # Two servers on one port would share its connections without anybody noticing.
        "grpc.so_reuseport": 0,
        **dict(channel_arguments),
    }
    server = grpc.server(ThreadPoolExecutor(max_threads, "grpc"), options=list(options.items()))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(core, outputs_as_tensor_content), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(core), server)
    if health_service:
        servicer = health.HealthServicer()
        for name in ("", "ModelService", "PredictionService"):
            servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    addresses = [f"0.0.0.0:{port}"] if port else []
    addresses += [f"unix:{socket_path}"] if socket_path else []
    for address in addresses:
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServingError(StatusCode.UNAVAILABLE, f"Cannot listen for gRPC at {address}: {error}") from error
    return server


def parse_channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """`key=value,key=value`; a value that is a number is passed on as one."""
    arguments: list[tuple[str, int | str]] = []
    for item in filter(None, text.split(",")):
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise invalid_argument(f"--grpc_channel_arguments takes key=value,key=value; found {item!r}")
        try:
            arguments.append((key, int(value)))
        except ValueError:
            arguments.append((key, value))
    return arguments


def _answer(context: grpc.ServicerContext, action: Callable[[], Response]) -> Response:
    """The action's result, or the call ended with the action's error."""
    try:
        return action()
    except Exception as failure:
        error = as_serving_error(failure)
        if not isinstance(failure, ServingError):
            logger.exception("A call failed in an unforeseen way")
        context.abort(error.code, error.message)
        raise AssertionError("abort does not return") from failure


def _require_spec(request: object) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other methods of the service answer UNIMPLEMENTED."""

    def __init__(self, core: ServerCore, outputs_as_tensor_content: bool) -> None:
        self._core = core
        self._as_content = outputs_as_tensor_content

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        return _answer(context, lambda: self._predict(request, context))

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        def action() -> get_model_metadata_pb2.GetModelMetadataResponse:
            _require_spec(request)
            return services.model_metadata(self._core, request)

        return _answer(context, action)

    def _predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        started = time.monotonic()
        name, status = request.model_spec.name, StatusCode.OK
        try:
            _require_spec(request)
            timeout_ms = _timeout_ms(context)
            with services.servable_of(self._core, request.model_spec) as servable:
                outputs = servable.predict_request(request, timeout_ms)
                version = servable.version
            response = predict_pb2.PredictResponse()
            response.model_spec.name = name
            response.model_spec.version.value = version
            response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            for alias, tensor in outputs.items():
                response.outputs[alias].CopyFrom(to_proto(tensor, self._as_content))
        except Exception as failure:
            status = as_serving_error(failure).code
            raise
        else:
            metrics.REQUEST_LATENCY.add((time.monotonic() - started) * 1e6, name, "Predict", "GRPC")
            return response
        finally:
            metrics.REQUEST_COUNT.add(name, status.name)


def _timeout_ms(context: grpc.ServicerContext) -> int:
    """What is left of the client's deadline; 0 for a client without one."""
    remaining = context.time_remaining()
    if remaining is None:
        return 0
    # A call may have spent all its time waiting for a thread: nobody waits for its answer any more.
    if remaining <= 0 or not context.is_active():
        raise ServingError(StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the request was run")
    return max(1, int(min(remaining, 2**31) * 1000))


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        def action() -> get_model_status_pb2.GetModelStatusResponse:
            _require_spec(request)
            return services.model_status(self._core, request.model_spec)

        return _answer(context, action)

    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        def action() -> model_management_pb2.ReloadConfigResponse:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid_argument(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                    "Only ModelConfigList is currently supported"
                )
            before = {name: metrics.first_value(name) for name in request.metric_names}
            try:
                self._core.reload(request.config, context.time_remaining())
            except ServingError as error:
                logger.error("ReloadConfig failed: %s", error)
                raise
            response = model_management_pb2.ReloadConfigResponse()
            response.status.error_code = 0
            for name, value in before.items():
                response.metric.add(name=name, int64_value_increase=metrics.first_value(name) - value)
            return response

        return _answer(context, action)
