"""Predictions of one model."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from tf2x_gateway import pixels
from tf2x_gateway.config import ModelDeclaration
from tf2x_gateway.contract import ModelContract, agree, describe_labels, model_spec
from tf2x_gateway.errors import (
    from_serving,
    model_contract,
    upstream_error,
    upstream_timeout,
    upstream_unavailable,
)
from tf2x_gateway.metrics import Metrics
from tf2x_gateway.serving import (
    FailedPrecondition,
    InvalidArgument,
    PredictResponse,
    ServingClient,
    ServingError,
    VersionStatus,
)
from tf2x_gateway.serving.messages import AVAILABLE


@dataclass(frozen=True)
class Prediction:
    """Labels with their scores, best first, and the model version that gave them."""

    scores: list[tuple[str, float]]
    version: int | None


class Predictor:
    """Answers for one declared model.

    Input, output and size are read from the served model when they are first needed, so TF Serving need not be there
    before. They are read again whenever another version answers, or refuses what the last one took.
    """

    def __init__(
        self,
        name: str,
        declaration: ModelDeclaration,
        *,
        client: ServingClient,
        decoders: Executor,
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._declaration = declaration
        self._spec = model_spec(name, declaration)
        self._client = client
        self._decoders = decoders
        self._metrics = metrics
        self._contract: ModelContract | None = None
        self._reading = asyncio.Lock()

    async def predict(self, image: bytes, seconds: float) -> Prediction:
        """Return the scores of an image file within `seconds`. Raises GatewayError."""
        deadline = time.monotonic() + seconds
        try:
            # Only the calls to TF Serving know the deadline by themselves: waiting for a decoder or the lock does not.
            return await asyncio.wait_for(self._predict(image, deadline), seconds)
        except ServingError as error:
            raise from_serving(self._name, error) from error
        except asyncio.TimeoutError as error:
            raise upstream_timeout(f"model {self._name!r}: no prediction within {seconds:g} s") from error

    async def check(self, seconds: float) -> int | None:
        """Return the version that can be asked for predictions now. Raises GatewayError with the reason if none can."""
        deadline = time.monotonic() + seconds
        try:
            return await asyncio.wait_for(self._check(deadline), seconds)
        except ServingError as error:
            raise from_serving(self._name, error) from error
        except asyncio.TimeoutError as error:
            raise upstream_timeout(f"model {self._name!r}: TF Serving did not answer within {seconds:g} s") from error

    async def _predict(self, image: bytes, deadline: float) -> Prediction:
        contract = self._contract or await self._read_contract(None, deadline)
        try:
            response = await self._ask(contract, image, deadline)
        except (InvalidArgument, FailedPrecondition):
            fresh = await self._read_contract(contract, deadline)
            if fresh == contract:
                raise
            contract, response = fresh, await self._ask(fresh, image, deadline)
        if response.version not in (None, contract.version):
            fresh = await self._read_contract(contract, deadline)
            if fresh != contract:
                contract, response = fresh, await self._ask(fresh, image, deadline)
        return Prediction(self._scores(contract, response), response.version)

    async def _check(self, deadline: float) -> int | None:
        statuses = await self._client.status(self._spec, deadline)
        available = [status.version for status in statuses if status.state == AVAILABLE]
        if not available:
            raise upstream_unavailable(f"model {self._name!r}: no version is AVAILABLE: {_describe(statuses)}")
        contract = self._contract
        if contract is None or contract.version not in available:
            contract = await self._read_contract(contract, deadline)
        return contract.version

    async def _read_contract(self, known: ModelContract | None, deadline: float) -> ModelContract:
        """Return a contract newer than `known`; whoever asks while another one reads gets what that one read."""
        async with self._reading:
            if self._contract is known or self._contract is None:
                metadata = await self._client.metadata(self._spec, deadline)
                self._contract = agree(self._name, self._declaration, metadata)
            return self._contract

    async def _ask(self, contract: ModelContract, image: bytes, deadline: float) -> PredictResponse:
        loop = asyncio.get_running_loop()
        request = await loop.run_in_executor(self._decoders, self._encode, contract, image)
        with self._metrics.upstream_seconds.labels(self._name).time():
            return await self._client.predict(request, deadline)

    def _encode(self, contract: ModelContract, image: bytes) -> bytes:
        with self._metrics.decode_seconds.labels(self._name).time():
            decoded = pixels.decode(image, contract.pixel_format)
            return contract.frame.encode(decoded[np.newaxis])

    def _scores(self, contract: ModelContract, response: PredictResponse) -> list[tuple[str, float]]:
        about = f"model {self._name!r} version {response.version}"
        tensor = response.outputs.get(contract.output_name)
        if tensor is None:
            names = ", ".join(map(repr, sorted(response.outputs))) or "none"
            raise upstream_error(f"{about} was asked for output {contract.output_name!r} and returned: {names}")
        if tensor.dtype.kind not in "fiu":
            raise model_contract(f"{about}: output {contract.output_name!r} holds no numbers")
        scores = tensor.astype(np.float64).reshape(-1).tolist()
        labels = self._declaration.labels
        if len(scores) != len(labels):
            raise model_contract(
                f"{about} returned {len(scores)} scores in the shape {list(tensor.shape)}; {describe_labels(labels)}"
            )
        for label, score in zip(labels, scores):
            if not math.isfinite(score):
                found = "NaN" if math.isnan(score) else "an infinite score"
                raise upstream_error(f"{about}: model returned {found} for label {label!r}")
        return sorted(zip(labels, scores), key=lambda pair: -pair[1])


def _describe(statuses: list[VersionStatus]) -> str:
    return (
        ", ".join(
            f"version {status.version} is {status.state}" + (f" ({status.error})" if status.error else "")
            for status in statuses
        )
        or "none is known"
    )
