"""Blocking and asynchronous client of TF Serving over several addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Generic, TypeVar

import grpc
import numpy as np

from tf2x_gateway.serving.errors import MalformedResponse, from_rpc_error
from tf2x_gateway.serving.failover import Attempt, Failover, Pause
from tf2x_gateway.serving.messages import (
    ModelMetadata,
    ModelSpec,
    PredictResponse,
    VersionStatus,
    decode_metadata_response,
    decode_predict_response,
    decode_status_response,
    encode_metadata_request,
    encode_predict_request,
    encode_status_request,
)
from tf2x_gateway.serving.model_config import ModelConfig, decode_reload_response, encode_reload_request
from tf2x_gateway.serving.wire import WireError

Message = TypeVar("Message")
RpcMetadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Rpc(Generic[Message]):
    """A method of a service, and how its answer is read."""

    path: str
    decode: Callable[[memoryview], Message]

    def message(self, reply: bytes, address: str) -> Message:
        """Return the decoded reply. Raises MalformedResponse."""
        try:
            return self.decode(memoryview(reply))
        except (WireError, UnicodeDecodeError) as error:
            raise MalformedResponse(str(error), address) from error


_PREDICT = _Rpc("/tensorflow.serving.PredictionService/Predict", decode_predict_response)
_METADATA = _Rpc("/tensorflow.serving.PredictionService/GetModelMetadata", decode_metadata_response)
_STATUS = _Rpc("/tensorflow.serving.ModelService/GetModelStatus", decode_status_response)
_RELOAD = _Rpc("/tensorflow.serving.ModelService/HandleReloadConfigRequest", decode_reload_response)
_PATHS = (_PREDICT.path, _METADATA.path, _STATUS.path, _RELOAD.path)

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Channels to one address would otherwise share one TCP connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Between the servers' smallest accepted ping interval (300 s) and the idle cut of the swarm's IPVS (900 s).
    ("grpc.keepalive_time_ms", 360_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Also the TCP user timeout: how long a peer that has lost power may leave a request unacknowledged.
    ("grpc.keepalive_timeout_ms", 5_000),
    # The defaults (1 s growing to 120 s, 20 s for a connection) would outlast every deadline.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 1_000),
)


class _Client:
    """What both clients are made of: the channels, and how a call goes from one to the next."""

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        timeout_seconds: float = 10.0,
        patience_seconds: float = 10.0,
        connections: int = 2,
        on_retry: Callable[[str], None] = lambda _address: None,
    ) -> None:
        addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not addresses:
            raise ValueError("no address was given; at least one HOST:PORT is needed")
        if connections < 1:
            raise ValueError(f"connections is {connections}; at least 1 is needed")
        self._timeout_seconds = timeout_seconds
        self._failover = Failover(addresses, connections, patience_seconds, on_retry)
        self._channels = {
            (address, number): self._open_channel(address) for address in addresses for number in range(connections)
        }
        self._methods = {
            (path, *key): channel.unary_unary(path) for key, channel in self._channels.items() for path in _PATHS
        }

    def _open_channel(self, address: str) -> Any:
        raise NotImplementedError

    def _method(self, rpc: _Rpc[Any], attempt: Attempt) -> Any:
        return self._methods[rpc.path, attempt.address, attempt.connection]

    def _deadline(self, deadline: float | None) -> float:
        return time.monotonic() + self._timeout_seconds if deadline is None else deadline


class ServingClient(_Client):
    """Calls TF Serving at the first address that is available, and blocks until the answer is there.

    The first address is preferred and the others stand in for it. A call that finds an address unavailable goes on to
    the next one, and round again until its deadline. Once the outage has lasted `patience_seconds`, a call asks every
    address only once, so that callers do not pile up behind a service that is down.

    `addresses` are HOST:PORT, [IPV6]:PORT or any other target that gRPC knows; `connections` is the number of TCP
    connections to each, which calls take in turn. `on_retry` is called with the address of every attempt but a call's
    first. Every `deadline` is a value of `time.monotonic()`; without one a call has `timeout_seconds`.

    Use it as a context manager, or close it. Threads may share a client.
    """

    def predict(
        self, request: bytes, deadline: float | None = None, metadata: RpcMetadata | None = None
    ) -> PredictResponse:
        """Send an encoded PredictRequest, such as a PredictRequestFrame makes, with gRPC metadata.

        Raises ServingError.
        """
        return self._call(_PREDICT, request, deadline, metadata)

    def predict_arrays(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, np.ndarray],
        output_names: Sequence[str] = (),
        deadline: float | None = None,
        metadata: RpcMetadata | None = None,
    ) -> PredictResponse:
        """Ask a model for its outputs: those named, or all of its signature.

        The inputs go out in their arrays' own types, of any shape; strings are arrays of bytes (NumPy types S and
        object). Raises ServingError, and ValueError for an array that TensorFlow has no type for.
        """
        return self.predict(encode_predict_request(spec, inputs, output_names), deadline, metadata)

    def metadata(self, spec: ModelSpec, deadline: float | None = None) -> ModelMetadata:
        """Return the signatures of a model. Raises ServingError."""
        return self._call(_METADATA, encode_metadata_request(spec), deadline)

    def status(self, spec: ModelSpec, deadline: float | None = None) -> list[VersionStatus]:
        """Return the state of every version of a model that TF Serving has seen. Raises ServingError."""
        return self._call(_STATUS, encode_status_request(spec), deadline)

    def reload(self, models: Sequence[ModelConfig], deadline: float | None = None) -> None:
        """Make TF Serving serve these models and no others. Returns once they are AVAILABLE. Raises ServingError."""
        self._call(_RELOAD, encode_reload_request(models), deadline)

    def close(self) -> None:
        """Close the connections; calls under way end."""
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> ServingClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _open_channel(self, address: str) -> grpc.Channel:
        return grpc.insecure_channel(address, _CHANNEL_OPTIONS)

    def _call(
        self, rpc: _Rpc[Message], request: bytes, deadline: float | None, metadata: RpcMetadata | None = None
    ) -> Message:
        steps = self._failover.steps(self._deadline(deadline))
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = next(steps)
                continue
            try:
                reply = self._method(rpc, step)(request, timeout=step.seconds, metadata=metadata)
            except grpc.RpcError as error:
                step = steps.send(from_rpc_error(error, step.address))
            else:
                self._failover.answered()
                return rpc.message(reply, step.address)


class AsyncServingClient(_Client):
    """ServingClient with coroutines. To be made, used and closed inside one event loop."""

    async def predict(
        self, request: bytes, deadline: float | None = None, metadata: RpcMetadata | None = None
    ) -> PredictResponse:
        """See ServingClient.predict."""
        return await self._call(_PREDICT, request, deadline, metadata)

    async def predict_arrays(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, np.ndarray],
        output_names: Sequence[str] = (),
        deadline: float | None = None,
        metadata: RpcMetadata | None = None,
    ) -> PredictResponse:
        """See ServingClient.predict_arrays."""
        return await self.predict(encode_predict_request(spec, inputs, output_names), deadline, metadata)

    async def metadata(self, spec: ModelSpec, deadline: float | None = None) -> ModelMetadata:
        """See ServingClient.metadata."""
        return await self._call(_METADATA, encode_metadata_request(spec), deadline)

    async def status(self, spec: ModelSpec, deadline: float | None = None) -> list[VersionStatus]:
        """See ServingClient.status."""
        return await self._call(_STATUS, encode_status_request(spec), deadline)

    async def reload(self, models: Sequence[ModelConfig], deadline: float | None = None) -> None:
        """See ServingClient.reload."""
        await self._call(_RELOAD, encode_reload_request(models), deadline)

    async def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def __aenter__(self) -> AsyncServingClient:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def _open_channel(self, address: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address, _CHANNEL_OPTIONS)

    async def _call(
        self, rpc: _Rpc[Message], request: bytes, deadline: float | None, metadata: RpcMetadata | None = None
    ) -> Message:
        steps = self._failover.steps(self._deadline(deadline))
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = next(steps)
                continue
            try:
                reply = await self._method(rpc, step)(request, timeout=step.seconds, metadata=metadata)
            except grpc.RpcError as error:
                step = steps.send(from_rpc_error(error, step.address))
            else:
                self._failover.answered()
                return rpc.message(reply, step.address)
