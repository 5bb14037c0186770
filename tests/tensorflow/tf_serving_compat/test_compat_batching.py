"""Batching: what runs together, what is refused, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from compat_server import MONITORING_CONFIG, CompatServer, request_for, run_to_end, wait_for

POOL = "pool"


@pytest.fixture
def batching(start, publish, tmp_path) -> Callable[[str], CompatServer]:
    """Start a server of model `m` with these batching parameters."""

    def run(parameters: str) -> CompatServer:
        publish(tmp_path / "m", 1, k=2)
        files = {"batching.config": parameters, "monitoring.config": MONITORING_CONFIG}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return start(
            "--model_name=m",
            f"--model_base_path={tmp_path / 'm'}",
            "--enable_batching=true",
            f"--batching_parameters_file={tmp_path / 'batching.config'}",
            f"--monitoring_config_file={tmp_path / 'monitoring.config'}",
            "--grpc_max_threads=32",
        )

    return run


def rows_of(server: CompatServer, *values: float) -> tuple[list[float], list[int]]:
    request = request_for("m", "batch_size", x=np.array(values, np.float32))
    outputs = server.predict(request)
    return outputs["y"].tolist(), outputs["rows"].tolist()


def test_calls_that_come_together_run_as_one(batching) -> None:
    server = batching(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 4000000 } num_batch_threads { value: 1 } "
        "allowed_batch_sizes: 3 allowed_batch_sizes: 8 "
        f"thread_pool_name {{ value: '{POOL}' }}"
    )
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: rows_of(server, value), range(8)))
    assert answers == [([2.0 * value], [8]) for value in range(8)]
    # A lone call waits for the timeout and is padded to an allowed size; its caller sees its own row only.
    assert rows_of(server, 1.0) == ([2.0], [3])
    assert server.metric(":tensorflow:serving:batching_session:wrapped_run_count") == 2
    assert server.metric(":tensorflow:serving:batching_session:queuing_latency_count", thread_pool_name=POOL) == 9
    assert server.metric(":tensorflow:serving:batching_session:processed_batch_size_sum") == 11
    assert server.metric(":tensorflow:serving:batching_session:padding_size_sum", execution_batch_size="3") == 2
    # A call for some of the outputs fits no signature and runs by itself.
    request = request_for("m", "batch_size", x=np.array([1.0], np.float32))
    request.output_filter.append("rows")
    assert server.predict(request)["rows"].tolist() == [1]


def test_limits(batching) -> None:
    server = batching(
        "max_batch_size { value: 2 } batch_timeout_micros { value: 0 } num_batch_threads { value: 1 } "
        f"max_enqueued_batches {{ value: 2 }} thread_pool_name {{ value: '{POOL}' }}"
    )
    with pytest.raises(grpc.RpcError, match="Task size 3 is larger than maximum input batch size 2"):
        rows_of(server, 1.0, 2.0, 3.0)

    def busy(_number: int) -> tuple[int, str]:
        reply = server.post("/v1/models/m:predict", {"signature_name": "count", "instances": [1e5, 1e5]})
        return reply.status, "" if reply.status == 200 else reply.error

    with ThreadPoolExecutor(8) as pool:
        outcomes = set(pool.map(busy, range(8)))
    assert outcomes == {
        (200, ""),
        (503, "The batch scheduling queue to which this task was submitted is full"),
    }
    # A call whose time passes in the queue is not run.
    queued = ":tensorflow:serving:batching_session:queuing_latency_count"
    before = server.metric(queued, thread_pool_name=POOL)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(server.predict, request_for("m", "count", steps=np.array([3e5] * 2, np.float32)))
        wait_for(lambda: server.metric(queued, thread_pool_name=POOL) > before, what="the long call to run")
        with pytest.raises(grpc.RpcError) as caught:
            server.predict(request_for("m", "count", steps=np.array([1.0] * 2, np.float32)), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not long.done()
        assert long.result()["end"].tolist() == [300000] * 2
    late = {"model_name": "m", "status": "RESOURCE_EXHAUSTED"}
    wait_for(lambda: server.metric(":tensorflow:serving:request_count", **late) == 1, what="the refusal to be counted")


def test_shapes_that_differ(batching) -> None:
    server = batching("max_batch_size { value: 2 } batch_timeout_micros { value: 10000000 }")
    images = [np.zeros((1, 380, 380, 3), np.float32), np.zeros((1, 10, 380, 3), np.float32)]
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(server.prediction.Predict, request_for("m", "brightness", image=image), timeout=60)
            for image in images
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError, match="padding is turned off"):
                call.result()


@pytest.mark.parametrize(
    "parameters, error",
    [
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: 2",
            "must match max_batch_size; last entry was 2; expected 4",
        ),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 2", "increasing order"),
        ("num_batch_threads { value: 0 }", "num_threads must be at least 1"),
        ("enable_large_batch_splitting { value: true }", "enable_large_batch_splitting is not implemented"),
        ("unknown: 1", 'has no field named "unknown"'),
    ],
)
def test_bad_parameters_end_the_start(tmp_path: Path, parameters: str, error: str) -> None:
    file = tmp_path / "batching.config"
    file.write_text(parameters)
    status, output = run_to_end("--model_base_path=/nowhere", "--enable_batching", f"--batching_parameters_file={file}")
    assert status == 255
    assert error in output
