"""What all requests share: the models, and the limits in front of them."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Callable, TypeVar

import anyio
from starlette.requests import Request

from tf2x_gateway import pixels, upload
from tf2x_gateway.admission import BodyMemory, ClientLimit, Gate
from tf2x_gateway.auth import ApiKeys
from tf2x_gateway.config import GatewayConfig, Limits, ModelDeclaration
from tf2x_gateway.errors import GatewayError
from tf2x_gateway.metrics import PROBE_LANE, Metrics
from tf2x_gateway.predictor import Outcome, Prediction, Predictor
from tf2x_gateway.served_model import ServedModel
from tf2x_gateway.serving import AsyncServingClient
from tf2x_gateway.shadow import Shadows
from tf2x_gateway.traffic import CANARY_LABEL, Traffic

_CONNECTIONS_PER_UPSTREAM = 2
# There is the stable version to turn to, which is sooner there than a canary that is away.
_CANARY_PATIENCE_SECONDS = 0.5

Body = TypeVar("Body")
Answer = TypeVar("Answer")
# Asks a model about images.
Ask = Callable[[list[bytes]], Awaitable[list[Outcome]]]


class DeclarationError(Exception):
    """A model's declaration contradicts what TF Serving says of the model."""


class Service:
    """Answers requests for predictions while it is `running`."""

    def __init__(self, config: GatewayConfig, metrics: Metrics, traffic: Traffic) -> None:
        self._config = config
        self._traffic = traffic
        self._metrics = metrics
        limits = config.limits
        pixels.set_process_limit(limits.max_image_pixels)
        self._keys = ApiKeys(config.api_keys)
        self.gate = Gate(limits.max_in_flight, limits.max_queued, metrics.refused.labels("queue").inc)
        self._clients = ClientLimit(limits.max_in_flight_per_client, metrics.refused.labels("client").inc)
        self._memory = BodyMemory(limits.max_buffered_bytes, metrics.refused.labels("memory").inc)
        metrics.queued.set_function(lambda: self.gate.waiting)
        metrics.in_flight_limit.set(limits.max_in_flight)
        metrics.queued_limit.set(limits.max_queued)
        self._models: dict[str, ServedModel] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect to TF Serving, whether it answers or not.

        Raises DeclarationError if it does answer, and a model's declaration contradicts what it says.
        """
        config = self._config
        client = self._client(config.upstream.deadline_seconds)
        canary_client = self._client(_CANARY_PATIENCE_SECONDS)
        shadows = Shadows(config.upstream.deadline_seconds, self._metrics)
        watching = asyncio.get_running_loop().create_task(self._traffic.watch())
        threads = max(1, len(os.sched_getaffinity(0)) // config.workers)
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoders:

            def predictor(
                name: str, declaration: ModelDeclaration, asked: AsyncServingClient, lane: str | None = None
            ) -> Predictor:
                return Predictor(name, declaration, client=asked, decoders=decoders, metrics=self._metrics, lane=lane)

            for name, declaration in config.models.items():
                canary = declaration.model_copy(update={"version_label": CANARY_LABEL})
                self._models[name] = ServedModel(
                    predictor(name, declaration, client),
                    predictor(name, canary, canary_client),
                    predictor(name, declaration, client, PROBE_LANE),
                    traffic=self._traffic,
                    shadows=shadows,
                    slots=config.limits.max_in_flight,
                )
            try:
                results = (await self.check()).values()
                contradictions = [
                    result.message
                    for result in results
                    if isinstance(result, GatewayError) and result.code == "model_contract"
                ]
                if contradictions:
                    raise DeclarationError("; ".join(contradictions))
                yield
            finally:
                watching.cancel()
                await shadows.close()
                await canary_client.close()
                await client.close()

    def _client(self, patience_seconds: float) -> AsyncServingClient:
        return AsyncServingClient(
            self._config.upstream.grpc,
            patience_seconds=patience_seconds,
            connections=_CONNECTIONS_PER_UPSTREAM,
            on_retry=lambda address: self._metrics.upstream_retries.labels(address).inc(),
        )

    def authorize(self, request: Request, scope: str) -> str:
        """Return who asks. Raises GatewayError unauthorized or forbidden."""
        return self._keys.authorize(request, scope)

    async def predict(self, request: Request, name: str) -> Prediction:
        """Answer a request with one image. Raises GatewayError, ClientDisconnect."""
        return await self._answer(request, name, upload.read_image, _predict_file)

    async def predict_batch(self, request: Request, name: str) -> list[Outcome]:
        """Answer a request with several images: each gets its scores, or its error. Raises as `predict` does."""
        return await self._answer(request, name, upload.read_batch, _predict_files)

    def models(self) -> list[ServedModel]:
        """Return the models in the order in which they are declared."""
        return list(self._models.values())

    async def check(self) -> dict[str, int | GatewayError | None]:
        """Return for each model the version that can be asked now, or why none can: canaries do not count."""
        # Under load these calls, and each turn of the event loop, would take longest of all.
        unproven = [model.stable for model in self._models.values() if not model.stable.proven]
        results = (
            await asyncio.gather(*(stable.check() for stable in unproven), return_exceptions=True) if unproven else []
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, GatewayError):
                raise result
        found = dict(zip((stable.name for stable in unproven), results))
        return {name: found.get(name, model.stable.version) for name, model in self._models.items()}

    async def _answer(
        self,
        request: Request,
        name: str,
        read: Callable[[Request, Limits, upload.Hold], Awaitable[Body]],
        predict: Callable[[Ask, Body], Awaitable[Answer]],
    ) -> Answer:
        client = self.authorize(request, "predict")
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise GatewayError(404, "model_not_found", f"there is no model {name!r}; there are: {known}")
        with self._clients.request(client), self._memory.body() as hold:
            self.gate.check()
            # Whoever sends slowly holds memory, but no slot.
            body = await self._in_time(request, read(request, self._config.limits, hold))
            seconds = self._config.upstream.deadline_seconds
            ask = functools.partial(
                model.predict,
                client=client,
                probe=request.state.probe,
                deadline=time.monotonic() + seconds,
                metadata=_rpc_metadata(request),
            )
            async with self.gate.slot(seconds):
                with self._metrics.in_flight.track_inprogress():
                    return await predict(ask, body)

    async def _in_time(self, request: Request, reading: Awaitable[Body]) -> Body:
        seconds = self._config.limits.body_seconds
        try:
            with anyio.fail_after(seconds):
                return await reading
        except TimeoutError as error:
            size = getattr(request.state, "body_bytes", 0)
            raise GatewayError(
                408, "read_timeout", f"{size} bytes of the body arrived within {seconds:g} s, and no end"
            ) from error


async def _predict_file(ask: Ask, file: bytes) -> Prediction:
    (outcome,) = await ask([file])
    if isinstance(outcome, GatewayError):
        raise outcome
    return outcome


async def _predict_files(ask: Ask, files: list[upload.File]) -> list[Outcome]:
    """Predict the files that could be read, and keep the others' errors in their places."""
    images = [file for file in files if isinstance(file, bytes)]
    predicted = iter(await ask(images))
    return [next(predicted) if isinstance(file, bytes) else file for file in files]


def _rpc_metadata(request: Request) -> tuple[tuple[str, str], ...]:
    traceparent = request.state.traceparent
    return (("traceparent", traceparent),) if traceparent else ()
