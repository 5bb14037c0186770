"""A declared model: its stable lane, and its canary where it has one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Sequence

from tf2x_gateway.errors import GatewayError
from tf2x_gateway.predictor import Outcome, Predictor, RpcMetadata, is_failure
from tf2x_gateway.shadow import Shadows
from tf2x_gateway.traffic import Canary, Traffic

# Under heavy traffic every request could say the same; the metrics count them.
_REPORT_SECONDS = 1.0

_log = logging.getLogger("tf2x_gateway")


class ServedModel:
    """Answers requests for one model. A canary only ever adds to it: what the canary fails, the stable lane answers.

    `probe` is the stable lane again, with metrics of its own; `slots` is how many requests the gateway has under way at
    most.
    """

    def __init__(
        self,
        stable: Predictor,
        canary: Predictor,
        probe: Predictor,
        *,
        traffic: Traffic,
        shadows: Shadows,
        slots: int,
    ) -> None:
        self.name = stable.name
        self.stable = stable
        self.canary = canary
        self._probe = probe
        self._traffic = traffic
        self._shadows = shadows
        self._slots = slots
        self._canary_attempts = 0
        self._next_report = 0.0

    @property
    def canary_traffic(self) -> Canary | None:
        """What goes to the canary now, or None where there is none."""
        return self._traffic.canary(self.name)

    def predict(
        self, images: Sequence[bytes], *, client: str, probe: bool, deadline: float, metadata: RpcMetadata = ()
    ) -> Awaitable[list[Outcome]]:
        """Return for each image file its scores, or what is wrong with it. To be awaited; raises GatewayError.

        `client` is who asks, `probe` whether only to try; `deadline` and `metadata` are those of Predictor.predict.
        """
        if probe:
            return self._probe.predict(images, deadline, metadata)
        canary = self._traffic.canary(self.name)
        if canary is None or not canary.takes(self.name, client):
            return self.stable.predict(images, deadline, metadata)
        if canary.mode == "shadow":
            return self._shadowed(images, deadline, metadata)
        # A canary that hangs holds its requests' slots: the rest is left to those of the stable lane.
        if self._canary_attempts >= math.ceil(self._slots * max(canary.percent, 50) / 100):
            return self.stable.predict(images, deadline, metadata)
        return self._canary_first(images, deadline, metadata)

    async def _shadowed(self, images: Sequence[bytes], deadline: float, metadata: RpcMetadata) -> list[Outcome]:
        outcomes = await self.stable.predict(images, deadline, metadata)
        self._shadows.start(self.canary, images, outcomes)
        return outcomes

    async def _canary_first(self, images: Sequence[bytes], deadline: float, metadata: RpcMetadata) -> list[Outcome]:
        now = time.monotonic()
        self._canary_attempts += 1
        try:
            outcomes = await self.canary.predict(images, now + (deadline - now) / 2, metadata)
        # Whatever it is, the caller has not asked for a canary.
        except Exception as error:
            self._report(error)
        else:
            failure = next(filter(is_failure, outcomes), None)
            if failure is None:
                return outcomes
            self._report(failure)
        finally:
            self._canary_attempts -= 1
        return await self.stable.predict(images, deadline, metadata)

    def _report(self, failure: Exception) -> None:
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            unforeseen = None if isinstance(failure, GatewayError) else failure
            _log.warning("the canary failed, the stable version answers: %s", failure, exc_info=unforeseen)
