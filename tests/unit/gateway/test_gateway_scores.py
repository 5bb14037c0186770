"""What the metrics tell of the model's answers, and that health checks do not count among them."""

from __future__ import annotations

import json
from typing import Any

import grpc
from gateway_process import Gateway, plain
from stub_serving import Failure, Model, wait_until
from tf2x_gateway.metrics import PROBE_LANE, LaneMetrics, Metrics

RED = plain(217, 51)
GREEN = plain(26, 153)
PROBE = {"X_Tf2x_Probe": "1"}


def growth(gateway: Gateway, act: Any) -> dict[str, float]:
    """By how much the samples grew that did."""
    before = gateway.samples()
    act()
    grown = {name: value - before.get(name, 0) for name, value in gateway.samples().items()}
    return {name: value for name, value in grown.items() if value}


def top_label(name: str) -> str:
    return f'tf2x_gateway_top_label_total{{class="{name}",model="pets",version="1"}}'


def top_score(bound: str) -> str:
    return f'tf2x_gateway_top_score_bucket{{le="{bound}",model="pets",version="1"}}'


def test_best_class_and_its_score_are_counted_for_each_image(gateway):
    def act() -> None:
        assert gateway.upload(RED).status == 200
        answer = gateway.upload_batch([GREEN, b"no image", RED])
        assert [result["success"] for result in answer.json["results"]] == [True, False, True]

    grown = growth(gateway, act)
    assert grown[top_label("red")] == 2
    assert grown[top_label("green")] == 1
    found = [grown.get(top_score(bound), 0) for bound in ("0.5", "0.6", "0.7", "0.8", "0.9", "1.0", "+Inf")]
    # 153 and 217 of 255.
    assert found in ([0, 1, 1, 1, 3, 3, 3], [0, 0, 1, 1, 3, 3, 3])


def test_every_class_begins_at_zero(stub, new_gateway):
    gateway = new_gateway(stub.address)
    assert gateway.upload(RED).status == 200
    assert gateway.samples()[top_label("green")] == 0


def test_a_failure_has_no_score(gateway, stub):
    stub.model.failure = Failure(grpc.StatusCode.INTERNAL)
    grown = growth(gateway, lambda: gateway.upload(RED))
    assert grown['tf2x_gateway_predictions_total{label="",model="pets",outcome="error",version="1"}'] == 1
    assert not [name for name in grown if "_top_" in name]


def test_probes_are_not_traffic(gateway):
    def act() -> None:
        assert gateway.upload(RED, **PROBE).status == 200
        assert gateway.upload(b"no image", "/models/pets/predict", **PROBE).status == 415
        assert gateway.get("/models", **PROBE).status == 200

    grown = growth(gateway, act)
    assert grown['tf2x_gateway_requests_total{code="200",model="pets",route="probe"}'] == 1
    assert grown['tf2x_gateway_requests_total{code="415",model="pets",route="probe"}'] == 1
    assert grown['tf2x_gateway_requests_total{code="200",model="",route="/models"}'] == 1
    assert grown['tf2x_gateway_request_seconds_count{model="pets",route="probe"}'] == 2
    assert grown['tf2x_gateway_predictions_total{label="probe",model="pets",outcome="ok",version="1"}'] == 1
    assert grown['tf2x_gateway_upstream_seconds_count{label="probe",model="pets",version="1"}'] == 1
    assert not [name for name in grown if "_top_" in name or 'label=""' in name]


def test_probes_ask_the_stable_version(stub, new_gateway):
    stub.labels = {"stable": Model(version=1), "canary": Model(version=2)}
    stub.model = stub.labels["stable"]
    traffic = json.dumps({"models": {"pets": {"canary": {"percent": 100}}}})
    gateway = new_gateway(stub.address, model={"version_label": "stable"}, traffic=traffic)
    wait_until(lambda: gateway.upload(RED).json["model"]["label"] == "canary")
    for _unused in range(5):
        assert gateway.upload(RED, **PROBE).json["model"] == {"name": "pets", "version": "1", "label": "stable"}
        assert gateway.upload(RED).json["model"]["label"] == "canary"


def test_limits_are_told_for_all_workers(stub, new_gateway):
    gateway = new_gateway(stub.address, workers=2, limits={"max_in_flight": 3, "max_queued": 5})
    wait_until(lambda: gateway.samples().get("tf2x_gateway_in_flight_limit") == 6)
    assert gateway.samples()["tf2x_gateway_queued_limit"] == 10


def test_many_classes_are_counted_as_one():
    metrics = Metrics()
    lane = LaneMetrics(metrics, "pets", "stable", [f"class {number}" for number in range(250)])
    for number in (0, 99, 100, 249):
        lane.observe_answer(7, f"class {number}", 0.5)
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith("tf2x_gateway_top_label")]
    assert len(lines) == 101
    assert 'tf2x_gateway_top_label_total{class="other",model="pets",version="7"} 2.0' in lines


def test_probes_have_no_scores():
    metrics = Metrics()
    LaneMetrics(metrics, "pets", PROBE_LANE, ["red"]).observe_answer(1, "red", 0.5)
    assert 'class="' not in metrics.exposition().decode()
