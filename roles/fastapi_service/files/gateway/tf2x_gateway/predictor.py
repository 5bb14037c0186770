"""Predictions of one model, by one of its version labels."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar, Union

import numpy as np

from tf2x_gateway.config import ModelDeclaration
from tf2x_gateway.contract import ModelContract, agree, describe_labels, model_spec
from tf2x_gateway.encoding import RequestEncoder
from tf2x_gateway.errors import (
    GatewayError,
    RefusedByModel,
    from_serving,
    model_contract,
    upstream_error,
    upstream_timeout,
    upstream_unavailable,
)
from tf2x_gateway.metrics import LaneMetrics, Metrics
from tf2x_gateway.serving import (
    AsyncServingClient,
    FailedPrecondition,
    InvalidArgument,
    PredictResponse,
    ServingError,
    VersionStatus,
)
from tf2x_gateway.serving.messages import AVAILABLE

# Of all batches together: while TF Serving works on one request, the next is decoded, and memory stays bounded.
_BATCH_REQUESTS_AT_ONCE = 4
_CHECK_SECONDS = 2.0
# For how long an answer shows that the next request will be answered: nothing needs to be asked for that meanwhile.
_PROVEN_SECONDS = 1.0

RpcMetadata = Sequence[tuple[str, str]]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Prediction:
    """Labels with their scores, best first, the model version that gave them, and the version label it was asked by."""

    scores: list[tuple[str, float]]
    version: int | None
    version_label: str | None


Outcome = Union[Prediction, GatewayError]


def is_failure(outcome: Outcome) -> bool:
    """Return whether the model may be at fault: then another version may do better with the same image."""
    return isinstance(outcome, GatewayError) and (outcome.status >= 500 or isinstance(outcome, RefusedByModel))


class Predictor:
    """Answers for one declared model, asked by the declaration's version label.

    Input, output and size are read from the served model when they are first needed, so TF Serving need not be there
    before. They are read again whenever another version answers, or refuses what the last one took.
    """

    def __init__(
        self,
        name: str,
        declaration: ModelDeclaration,
        *,
        client: AsyncServingClient,
        decoders: Executor,
        metrics: Metrics,
        lane: str | None = None,
    ) -> None:
        """`lane`: what the metrics call it, unless it is the version label."""
        self.name = name
        self.labels = declaration.labels
        self.version_label = declaration.version_label
        self._declaration = declaration
        self._spec = model_spec(name, declaration)
        self._client = client
        self._encoder = RequestEncoder(name, decoders, metrics)
        self._metrics = LaneMetrics(metrics, name, lane or declaration.version_label or "", declaration.labels)
        self._contract: ModelContract | None = None
        self._proven_until = -math.inf
        self._reading = asyncio.Lock()
        self._batch_requests = asyncio.Semaphore(_BATCH_REQUESTS_AT_ONCE)

    @property
    def version(self) -> int | None:
        """The version whose signature was read last, or None before the first."""
        return None if self._contract is None else self._contract.version

    @property
    def proven(self) -> bool:
        """Whether predictions themselves have just shown that `version` can be asked."""
        return time.monotonic() < self._proven_until

    async def predict(self, images: Sequence[bytes], deadline: float, metadata: RpcMetadata = ()) -> list[Outcome]:
        """Return for each image file its scores, or what is wrong with it. Raises GatewayError for what is not its own.

        As many images go into one request as the model takes, and the declaration allows. `deadline` is a value of
        `time.monotonic()`, `metadata` is passed on to TF Serving.
        """
        if not images:
            return []
        predict = self._predict if len(images) == 1 else self._predict_batch
        try:
            outcomes = await self._until(deadline, predict(images, deadline, metadata))
        except Exception as error:
            self._proven_until = -math.inf
            timeout = isinstance(error, GatewayError) and error.code == "upstream_timeout"
            self._metrics.count(self.version, "timeout" if timeout else "error")
            raise
        self._note(outcomes)
        return outcomes

    async def check(self) -> int | None:
        """Return the version that can be asked for predictions now. Raises GatewayError with the reason if none can."""
        deadline = time.monotonic() + _CHECK_SECONDS
        return await self._until(deadline, self._check(deadline))

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Note a request that got its outcomes, unless there was nothing in it that a model could be asked about."""
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        for prediction in predictions:
            self._metrics.observe_answer(prediction.version, *prediction.scores[0])
        if any(map(is_failure, outcomes)):
            self._proven_until = -math.inf
            self._metrics.count(self.version, "error")
        elif predictions:
            self._proven_until = time.monotonic() + _PROVEN_SECONDS
            self._metrics.count(predictions[0].version, "ok")

    async def _until(self, deadline: float, answer: Awaitable[Answer]) -> Answer:
        seconds = deadline - time.monotonic()
        try:
            # Only the calls to TF Serving know the deadline by themselves: waiting for a decoder or the lock does not.
            return await asyncio.wait_for(answer, seconds)
        except ServingError as error:
            raise from_serving(self.name, error) from error
        except asyncio.TimeoutError as error:
            raise upstream_timeout(f"model {self.name!r}: no answer within {seconds:.3g} s") from error

    async def _predict_batch(self, images: Sequence[bytes], deadline: float, metadata: RpcMetadata) -> list[Outcome]:
        contract = self._contract or await self._read_contract(None, deadline)
        size = contract.batch_size

        async def predict(some: Sequence[bytes]) -> list[Outcome]:
            async with self._batch_requests:
                return await self._predict(some, deadline, metadata)

        parts = [asyncio.ensure_future(predict(images[at : at + size])) for at in range(0, len(images), size)]
        try:
            return [outcome for part in parts for outcome in await part]
        finally:
            for part in parts:
                part.cancel()

    async def _predict(self, images: Sequence[bytes], deadline: float, metadata: RpcMetadata) -> list[Outcome]:
        contract = self._contract or await self._read_contract(None, deadline)
        try:
            return await self._ask(contract, images, deadline, metadata)
        except (InvalidArgument, FailedPrecondition) as error:
            fresh = await self._read_contract(contract, deadline)
            if fresh != contract:
                return await self._ask(fresh, images, deadline, metadata)
            if fresh.pixel_format is not None or not isinstance(error, InvalidArgument):
                raise
            return await self._find_bad_files(fresh, images, error, deadline, metadata)

    async def _find_bad_files(
        self,
        contract: ModelContract,
        images: Sequence[bytes],
        error: InvalidArgument,
        deadline: float,
        metadata: RpcMetadata,
    ) -> list[Outcome]:
        """A model that decodes image files by itself refuses a whole request for one bad file: ask for each alone."""
        if len(images) == 1:
            return [RefusedByModel(f"model {self.name!r} cannot read the image: {error.details}")]
        outcomes: list[Outcome] = []
        for image in images:
            try:
                outcomes += await self._ask(contract, [image], deadline, metadata)
            except InvalidArgument as one_error:
                outcomes += await self._find_bad_files(contract, [image], one_error, deadline, metadata)
        return outcomes

    async def _check(self, deadline: float) -> int | None:
        statuses = await self._client.status(self._spec, deadline)
        available = [status.version for status in statuses if status.state == AVAILABLE]
        if not available:
            raise upstream_unavailable(f"model {self.name!r}: no version is AVAILABLE: {_describe(statuses)}")
        contract = self._contract
        # States do not tell where a label points, or whether it does at all.
        if self.version_label is not None or contract is None or contract.version not in available:
            contract = await self._read_contract(contract, deadline)
        return contract.version

    async def _read_contract(self, known: ModelContract | None, deadline: float) -> ModelContract:
        """Return a contract newer than `known`; whoever asks while another one reads gets what that one read."""
        async with self._reading:
            if self._contract is known or self._contract is None:
                try:
                    metadata = await self._client.metadata(self._spec, deadline)
                except InvalidArgument as error:
                    # There is no tensor to refuse: no version has the label, as long as none is published or loaded.
                    raise upstream_unavailable(f"model {self.name!r}: TF Serving at {error}") from error
                self._contract = agree(self.name, self._declaration, metadata)
            return self._contract

    async def _ask(
        self, contract: ModelContract, images: Sequence[bytes], deadline: float, metadata: RpcMetadata
    ) -> list[Outcome]:
        """Ask for all images in one request; ask again if the version that answers should be asked otherwise."""
        encoded = await self._encoder.encode(contract, images)
        if encoded.request is None:
            return list(encoded.faults.values())
        started = time.perf_counter()
        response = await self._client.predict(encoded.request, deadline, metadata)
        self._metrics.observe_call(response.version, time.perf_counter() - started)
        if response.version not in (None, contract.version):
            fresh = await self._read_contract(contract, deadline)
            if fresh != contract:
                return await self._ask(fresh, images, deadline, metadata)
        answered = iter(self._outcomes(contract, response, len(images) - len(encoded.faults)))
        return [encoded.faults.get(index) or next(answered) for index in range(len(images))]

    def _outcomes(self, contract: ModelContract, response: PredictResponse, images: int) -> list[Outcome]:
        """Return what the response says about each of the images that were asked for."""
        about = f"model {self.name!r} version {response.version}"
        tensor = response.outputs.get(contract.output_name)
        if tensor is None:
            names = ", ".join(map(repr, sorted(response.outputs))) or "none"
            raise upstream_error(f"{about} was asked for output {contract.output_name!r} and returned: {names}")
        if tensor.dtype.kind not in "fiu":
            raise model_contract(f"{about}: output {contract.output_name!r} holds no numbers")
        if tensor.size != images * len(self.labels):
            raise model_contract(
                f"{about} returned {tensor.size} scores in the shape {list(tensor.shape)} for {images} "
                f"image{'s' if images > 1 else ''}; {describe_labels(self.labels)}"
            )
        rows = tensor.astype(np.float64).reshape(images, len(self.labels)).tolist()
        return [self._outcome(about, response.version, row) for row in rows]

    def _outcome(self, about: str, version: int | None, scores: list[float]) -> Outcome:
        for label, score in zip(self.labels, scores):
            if not math.isfinite(score):
                found = "NaN" if math.isnan(score) else "an infinite score"
                return upstream_error(f"{about}: model returned {found} for label {label!r}")
        return Prediction(sorted(zip(self.labels, scores), key=lambda pair: -pair[1]), version, self.version_label)


def _describe(statuses: list[VersionStatus]) -> str:
    return (
        ", ".join(
            f"version {status.version} is {status.state}" + (f" ({status.error})" if status.error else "")
            for status in statuses
        )
        or "none is known"
    )
