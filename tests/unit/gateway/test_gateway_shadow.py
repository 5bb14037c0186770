"""A canary in shadow: asked about a share of the requests, and noticed by nobody but the metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from gateway_process import Answer, Gateway, encode_image, noise, plain
from stub_protobuf import float_tensor
from stub_serving import DT_UINT8, Failure, Model, StubServing, red_and_green, wait_until

IMAGE = encode_image(noise())
REDDISH, GREENISH = plain(204, 51), plain(51, 204)
RESULTS = ("same_label", "other_label", "error", "dropped")


def shadow(percent: float) -> str:
    return json.dumps({"models": {"pets": {"canary": {"percent": percent, "mode": "shadow"}}}})


def shifted(by: float) -> Callable[[Any], bytes]:
    """The stub's classifier with other scores: `by` more for red."""

    def answer(pixels: Any) -> bytes:
        found = red_and_green(pixels) + np.array([by, 0])
        return float_tensor(found.shape, found.ravel().tolist())

    return answer


@pytest.fixture
def stub(stub) -> StubServing:
    """Version 1 is stable, and version 2 the canary."""
    stub.labels = {"stable": Model(version=1), "canary": Model(version=2)}
    stub.model = stub.labels["stable"]
    return stub


@pytest.fixture
def start(stub, new_gateway) -> Callable[..., Gateway]:
    """Starts a gateway whose canary shadows a share of the requests: all of them unless said otherwise."""

    def start(percent: float = 100, **changes: Any) -> Gateway:
        return new_gateway(stub.address, model={"version_label": "stable"}, traffic=shadow(percent), **changes)

    return start


def assert_stable(answer: Answer) -> None:
    assert answer.status == 200, answer.body
    assert answer.json["model"] == {"name": "pets", "version": "1", "label": "stable"}


def results(gateway: Gateway) -> dict[str, float]:
    """Images by result, without those that there are none of."""
    found = gateway.samples()
    counts = {
        result: sum(
            value
            for name, value in found.items()
            if name.startswith("tf2x_gateway_shadow_total{") and f'result="{result}"' in name
        )
        for result in RESULTS
    }
    return {result: count for result, count in counts.items() if count}


def expect(gateway: Gateway, **counts: int) -> None:
    wait_until(lambda: results(gateway) == counts)


def canary_calls(stub: StubServing) -> int:
    return sum(call.version_label == "canary" for call in stub.calls)


# ---- what is compared


def test_answers_are_compared_and_counted(start, stub):
    gateway = start()
    for _unused in range(3):
        assert_stable(gateway.upload(IMAGE))
        wait_until(lambda: canary_calls(stub) == sum(results(gateway).values()))
    expect(gateway, same_label=3)
    found = gateway.samples()
    assert found['tf2x_gateway_shadow_total{model="pets",result="same_label",version="2"}'] == 3
    assert found['tf2x_gateway_shadow_difference_count{model="pets",version="2"}'] == 3
    assert found['tf2x_gateway_shadow_difference_bucket{le="1e-06",model="pets",version="2"}'] == 3
    assert found['tf2x_gateway_canary_percent{mode="shadow",model="pets"}'] == 100
    assert found['tf2x_gateway_canary_percent{mode="split",model="pets"}'] == 0


def test_largest_difference_is_told(start, stub):
    stub.labels["canary"].answer = shifted(0.05)
    gateway = start()
    assert_stable(gateway.upload(REDDISH))
    expect(gateway, same_label=1)
    assert gateway.samples()['tf2x_gateway_shadow_difference_sum{model="pets",version="2"}'] == pytest.approx(0.05)


def test_another_label_is_told(start, stub):
    """Scores of 0.2 against 0.8 become 0.9 against 0.8: every image is red now."""
    stub.labels["canary"].answer = shifted(0.7)
    gateway = start()
    assert_stable(gateway.upload(GREENISH))
    expect(gateway, other_label=1)
    assert_stable(gateway.upload(REDDISH))
    expect(gateway, other_label=1, same_label=1)


def test_images_of_a_batch_are_compared_each(start, stub):
    """Those without an answer are not."""
    stub.labels["canary"].answer = shifted(0.7)
    gateway = start()
    answer = gateway.upload_batch([GREENISH, IMAGE[: len(IMAGE) // 2], REDDISH, b"", GREENISH])
    assert [result["success"] for result in answer.json["results"]] == [True, False, True, False, True]
    assert {result["model"]["label"] for result in answer.json["results"] if result["success"]} == {"stable"}
    expect(gateway, other_label=2, same_label=1)


def test_canary_of_another_size_and_type(start, stub):
    stub.labels["canary"].inputs = {"picture": (DT_UINT8, (-1, 6, 8, 3))}
    stub.labels["canary"].answer = lambda pixels: float_tensor((1, 2), (red_and_green(pixels)[0] / 255).tolist())
    gateway = start()
    assert_stable(gateway.upload(IMAGE))
    expect(gateway, same_label=1)
    assert gateway.samples()['tf2x_gateway_shadow_difference_bucket{le="1e-05",model="pets",version="2"}'] == 1


@pytest.mark.parametrize(("percent", "least", "most"), [(0, 0, 0), (50, 15, 45)])
def test_share_of_the_requests(start, stub, percent, least, most):
    gateway = start(percent)
    for _unused in range(60):
        assert_stable(gateway.upload(IMAGE))
    time.sleep(0.5)
    assert least <= canary_calls(stub) <= most


def test_nothing_is_asked_twice_that_had_no_answer(start, stub):
    gateway = start()
    assert gateway.upload(IMAGE[: len(IMAGE) // 2]).error == (422, "image_truncated")
    stub.labels["stable"].failure = Failure(grpc.StatusCode.INTERNAL)
    assert gateway.upload(IMAGE).error == (502, "upstream_error")
    time.sleep(0.5)
    assert canary_calls(stub) == 0
    assert results(gateway) == {}


# ---- what a canary fails


@pytest.mark.parametrize("kind", ["label", "failure", "scores"])
def test_failures_are_counted_only(start, stub, kind):
    canary = stub.labels["canary"]
    if kind == "label":
        del stub.labels["canary"]
    elif kind == "failure":
        canary.failure = Failure(grpc.StatusCode.INTERNAL)
    else:
        canary.answer = shifted(float("nan"))
    gateway = start()
    for _unused in range(3):
        assert_stable(gateway.upload(IMAGE))
    expect(gateway, error=3)
    assert gateway.get("/readyz").status == 200
    assert "Traceback" not in gateway.log


# ---- what nobody notices


def test_answers_do_not_wait_for_it(start, stub):
    """Nor does it take one of the slots, or count as a request."""
    stub.labels["canary"].delay = 20
    gateway = start(limits={"max_in_flight": 1, "max_queued": 0}, deadline_seconds=20)
    began = time.monotonic()
    for _unused in range(3):
        assert_stable(gateway.upload(IMAGE))
    wait_until(lambda: canary_calls(stub) == 3)
    assert time.monotonic() - began < 10
    assert gateway.samples()["tf2x_gateway_in_flight"] == 0
    assert results(gateway) == {}
    stub.released.set()
    expect(gateway, same_label=3)


def test_only_so_many_at_a_time(start, stub):
    stub.labels["canary"].delay = 20
    gateway = start(deadline_seconds=20)
    with ThreadPoolExecutor(10) as callers:
        for answer in callers.map(gateway.upload, [IMAGE] * 10):
            assert_stable(answer)
    expect(gateway, dropped=6)
    wait_until(lambda: canary_calls(stub) == 4)
    stub.released.set()
    expect(gateway, dropped=6, same_label=4)
    assert_stable(gateway.upload(IMAGE))
    expect(gateway, dropped=6, same_label=5)


def test_only_so_many_bytes_at_a_time(start, stub):
    """A PNG may end long before its file does."""
    stub.labels["canary"].delay = 20
    gateway = start(deadline_seconds=20, limits={"max_upload_bytes": 50_000_000})
    large = IMAGE + bytes(40_000_000)
    for _unused in range(2):
        assert_stable(gateway.send(large))
    assert_stable(gateway.send(IMAGE))
    expect(gateway, dropped=1)
    stub.released.set()
    expect(gateway, dropped=1, same_label=2)
    assert_stable(gateway.send(large))
    expect(gateway, dropped=1, same_label=3)


def test_gateway_ends_without_waiting_for_it(start, stub):
    stub.labels["canary"].delay = 30
    gateway = start(deadline_seconds=30)
    assert_stable(gateway.upload(IMAGE))
    wait_until(lambda: canary_calls(stub) == 1)
    began = time.monotonic()
    gateway.process.terminate()
    gateway.process.wait(15)
    assert time.monotonic() - began < 10
    assert "Traceback" not in gateway.log
    assert "never" not in gateway.log
