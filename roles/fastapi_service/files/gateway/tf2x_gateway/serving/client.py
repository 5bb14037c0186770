"""Asynchronous client of TF Serving over several addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Callable, TypeVar

import grpc

from tf2x_gateway.serving.errors import DeadlineExceeded, MalformedResponse, Unavailable, from_rpc_error
from tf2x_gateway.serving.messages import (
    ModelMetadata,
    ModelSpec,
    PredictResponse,
    VersionStatus,
    decode_metadata_response,
    decode_predict_response,
    decode_status_response,
    encode_metadata_request,
    encode_status_request,
)
from tf2x_gateway.serving.wire import WireError

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
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
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.25

Message = TypeVar("Message")


class ServingClient:
    """Calls TF Serving at the first address that is available.

    The first address is preferred and the others stand in for it. A call that finds an address unavailable goes on to
    the next one, and round again until its deadline. Once the outage has lasted `patience_seconds`, a call asks every
    address only once, so that callers do not pile up behind a service that is down.

    Deadlines are values of `time.monotonic()`. `on_retry` is called with the address of every attempt but a call's
    first. To be made, used and closed inside one event loop.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        patience_seconds: float = 10.0,
        on_retry: Callable[[str], None] = lambda _address: None,
    ) -> None:
        self._channels = [(address, grpc.aio.insecure_channel(address, _CHANNEL_OPTIONS)) for address in addresses]
        self._methods = {
            path: [(address, channel.unary_unary(path)) for address, channel in self._channels]
            for path in (_PREDICT, _GET_MODEL_METADATA, _GET_MODEL_STATUS)
        }
        self._patience_seconds = patience_seconds
        self._on_retry = on_retry
        self._outage_began: float | None = None

    async def predict(self, request: bytes, deadline: float) -> PredictResponse:
        """Send an encoded PredictRequest. Raises ServingError."""
        return await self._call(_PREDICT, request, decode_predict_response, deadline)

    async def metadata(self, spec: ModelSpec, deadline: float) -> ModelMetadata:
        """Return the signatures of a model. Raises ServingError."""
        return await self._call(_GET_MODEL_METADATA, encode_metadata_request(spec), decode_metadata_response, deadline)

    async def status(self, spec: ModelSpec, deadline: float) -> list[VersionStatus]:
        """Return the state of every version of a model that TF Serving has seen. Raises ServingError."""
        return await self._call(_GET_MODEL_STATUS, encode_status_request(spec), decode_status_response, deadline)

    async def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        await asyncio.gather(*(channel.close() for _unused, channel in self._channels))

    async def _call(
        self, path: str, request: bytes, decode: Callable[[memoryview], Message], deadline: float
    ) -> Message:
        address, reply = await self._send(path, request, deadline)
        try:
            return decode(memoryview(reply))
        except (WireError, UnicodeDecodeError) as error:
            raise MalformedResponse(str(error), address) from error

    async def _send(self, path: str, request: bytes, deadline: float) -> tuple[str, bytes]:
        failure: Unavailable | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            for address, method in self._methods[path]:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise failure or DeadlineExceeded("DEADLINE_EXCEEDED", "no time was left to ask", address)
                if failure is not None:
                    self._on_retry(address)
                try:
                    reply = await method(request, timeout=remaining)
                except grpc.aio.AioRpcError as rpc_error:
                    error = from_rpc_error(rpc_error, address)
                    if not isinstance(error, Unavailable):
                        self._outage_began = None
                        raise error from rpc_error
                    failure = error
                else:
                    self._outage_began = None
                    return address, reply
            now = time.monotonic()
            if self._outage_began is None:
                self._outage_began = now
            if now - self._outage_began >= self._patience_seconds or now + pause >= deadline:
                assert failure is not None
                raise failure
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
