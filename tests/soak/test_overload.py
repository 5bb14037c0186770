"""More load than the gateway can bear, and clients that misbehave: the short form of soak.py."""

from __future__ import annotations

import asyncio
import math

import pytest
from mixed_load import mixed_load
from overload import OVERLOAD, best, cpu_bound_gateway, gateway_before_slow_upstream, overload
from slow_clients import patient_gateway, slow_clients


@pytest.fixture(
    scope="module",
    # The aim is 0.9 for both. Where all that the gateway has is one core, each request that it refuses still costs it
    # a tenth of an answer: docs/benchmarks.md has the figures.
    params=[(cpu_bound_gateway, 0.6), (gateway_before_slow_upstream, 0.9)],
    ids=["CPU-bound", "slow upstream"],
)
def result(request):
    """What became of three times the load at which the gateway has its best goodput."""
    start, least_goodput_ratio = request.param
    with start() as gateway:
        return best(lambda: asyncio.run(overload(gateway, 4, least_goodput_ratio)))


def test_nearly_as_many_good_answers_as_at_best(result):
    assert result.offered >= 0.95 * OVERLOAD * result.peak
    assert result.goodput >= result.least_goodput_ratio * result.peak


def test_refusals_come_at_once_and_say_when_to_come_back(result):
    assert result.refusals > 0
    assert result.refusals_timed > 20
    assert result.refusal_ms <= 50
    assert result.without_retry_after == 0
    assert result.other_outcomes == {}


def test_state_is_told_in_time(result):
    assert {path: ms for path, ms in result.state_ms.items() if not ms <= 100} == {}


def test_nothing_is_left_of_it(result):
    assert result.left_over == 0
    assert result.crashes == []
    assert result.rss_peak_mb - result.rss_before_mb < 100


def test_slow_clients_cost_others_nothing():
    seconds = 1.5
    with patient_gateway(seconds) as gateway:
        assert best(lambda: asyncio.run(slow_clients(gateway, seconds))).faults == []


def test_everything_at_once_while_tf_serving_restarts():
    # So short a time says nothing about memory.
    result = best(lambda: mixed_load(7, restart_every=1, most_growth_mb=math.inf))
    assert result.faults == []
    assert result.restarts > 0
    assert result.present[200] > 0
    assert result.away[503] > 0
