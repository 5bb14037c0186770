"""Which share of a model's requests its canary gets, as a file says that may change at any time."""

import asyncio
import hashlib
import logging
import random
from collections.abc import Collection
from pathlib import Path
from typing import Literal, Optional, get_args

from pydantic import Field

from tf2x_gateway.config import ConfigError, Section, load_document
from tf2x_gateway.metrics import Metrics

# Names the traffic file to the worker processes.
TRAFFIC_VARIABLE = "TF2X_GATEWAY_TRAFFIC"
# The version label of TF Serving that a canary is asked by.
CANARY_LABEL = "canary"

Mode = Literal["split", "shadow"]

_LOOK_SECONDS = 1.0
_HASH_VALUES = 2**53

_log = logging.getLogger("tf2x_gateway")


class Canary(Section):
    """`percent` of the requests go to the canary: to be answered by it (`split`), or compared with it (`shadow`).

    They are chosen at random, or by who asks (`sticky`): who is in stays in, also when `percent` grows.
    """

    percent: float = Field(ge=0, le=100)
    mode: Mode = "split"
    sticky: bool = False

    def takes(self, model: str, client: str) -> bool:
        """Return whether a request of `client` for `model` is one of them."""
        return 100 * (_fixed_share(model, client) if self.sticky else random.random()) < self.percent


class ModelTraffic(Section):
    """How the requests for one model are shared out."""

    canary: Optional[Canary] = None


class TrafficDocument(Section):
    """The content of the traffic file."""

    models: dict[str, ModelTraffic] = Field(default_factory=dict)


class Traffic:
    """The canaries in force: none as long as there is no file, and those of the last good content of it otherwise.

    `models` are those that have a metric.
    """

    def __init__(self, path: Path, models: Collection[str], metrics: Metrics) -> None:
        self._path = path
        self._models = models
        self._percent = metrics.canary_percent
        self._canaries: dict[str, Canary] = {}
        self._seen: object = None
        self._set({})

    def canary(self, model: str) -> Optional[Canary]:
        """Return the canary of a model, or None where it has none."""
        return self._canaries.get(model)

    async def watch(self) -> None:
        """Take the file up, and changes of it within a second or so, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Take the file up if it has changed. A file that cannot be used is logged, and changes nothing."""
        try:
            found = self._path.stat()
            seen: object = (found.st_mtime_ns, found.st_ino, found.st_size)
        except FileNotFoundError:
            seen = None
        except OSError as error:
            seen = str(error)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            document = TrafficDocument() if seen is None else load_document(self._path, TrafficDocument)
        except ConfigError as error:
            _log.error("%s; the canaries stay as they were: %s", error, self._described())
            return
        self._set({name: traffic.canary for name, traffic in document.models.items() if traffic.canary is not None})
        _log.info("%s: the canaries are now: %s", self._path, self._described())

    def _set(self, canaries: dict[str, Canary]) -> None:
        self._canaries = canaries
        for model in self._models:
            canary = canaries.get(model)
            for mode in get_args(Mode):
                percent = canary.percent if canary is not None and canary.mode == mode else 0
                self._percent.labels(model, mode).set(percent)

    def _described(self) -> str:
        return (
            ", ".join(
                f"{model} {canary.percent:g} % {canary.mode}{' sticky' if canary.sticky else ''}"
                for model, canary in sorted(self._canaries.items())
            )
            or "none"
        )


def _fixed_share(model: str, client: str) -> float:
    """Return a number from 0 to below 1 that is the same for a model and a client in every process on every host."""
    digest = hashlib.blake2b(f"{model}\0{client}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _HASH_VALUES / _HASH_VALUES
