# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Asks Prometheus for counters, and says by how much they have grown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ansible_collections.tf2x.serving.plugins.module_utils import _http
from ansible_collections.tf2x.serving.plugins.module_utils._http import NotReady, ServingError


@dataclass(frozen=True)
class Sample:
    """A series' value. `labels` has the metric's name as `__name__`."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """Prometheus' HTTP API. `url`: its base, without `/api`; `timeout`: seconds a query may take."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout

    def vector(self, query: str) -> list[Sample]:
        """Return what an instant query finds now. Raises ServingError, NotReady if it may pass by itself."""
        code, body = _http.json_call(f"{self._url}/api/v1/query?{urlencode({'query': query})}", self._timeout, None, {})
        if code != 200:
            error = body.get("error") if isinstance(body, dict) else None
            raise (NotReady if code >= 500 else ServingError)(f"HTTP {code}: {error or _http.short(body)}")
        try:
            return [Sample(entry["metric"], float(entry["value"][1])) for entry in body["data"]["result"]]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ServingError(f"an answer that is not Prometheus': {_http.short(body)}") from None


class Increases:
    """How much counters have grown since the first look, exactly and over restarts of what counts.

    PromQL's `increase` does not see what a series had counted when it was first scraped, such as the first errors of a
    canary, and extrapolates what it sees.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        """`samples`: the series as they are at the first look."""
        self._last = {_key(sample): sample.value for sample in samples}
        self._grown = dict.fromkeys(self._last, 0.0)

    def take(self, samples: Iterable[Sample]) -> None:
        """Take another look; a series that was not there has grown from 0."""
        for sample in samples:
            key, last = _key(sample), self._last.get(_key(sample), 0.0)
            grown = sample.value - last if sample.value >= last else sample.value
            self._grown[key] = self._grown.get(key, 0.0) + grown
            self._last[key] = sample.value

    def samples(self) -> list[Sample]:
        """Return the increase of each series."""
        return [Sample(dict(key), value) for key, value in self._grown.items()]


def quantile(share: float, buckets: Iterable[Sample]) -> float | None:
    """Return a quantile from increases of a histogram's buckets, summed by `le`, as `histogram_quantile` does.

    None without observations; the highest finite bound for what lies above it.
    """
    counts: dict[float, float] = {}
    for bucket in buckets:
        bound = float(bucket.labels["le"])
        counts[bound] = counts.get(bound, 0.0) + bucket.value
    total = counts.get(math.inf, 0.0)
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= share * total:
            return lower if bound == math.inf else lower + (bound - lower) * (share * total - below) / (count - below)
        lower, below = bound, count
    return lower


def _key(sample: Sample) -> frozenset[tuple[str, str]]:
    return frozenset(sample.labels.items())
