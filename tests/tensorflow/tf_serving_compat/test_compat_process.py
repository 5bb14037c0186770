"""The process: command line, start, metrics page, shutdown."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from compat_server import (
    METRICS_PATH,
    CompatServer,
    linear_request,
    request_for,
    run_to_end,
    wait_for,
)

PATH = "--model_base_path=/nowhere"


@pytest.mark.parametrize(
    "arguments, error",
    [
        ([PATH, "--ssl_config_file=/x"], "flag --ssl_config_file is not implemented by this stand-in"),
        ([PATH, "--platform_config_file=/x"], "flag --platform_config_file is not implemented"),
        ([PATH, "--enable_profiler=true"], "the only setting it takes is --enable_profiler=false"),
        ([PATH, "--enable_per_model_batching_parameters"], "--enable_per_model_batching_parameters is not implemented"),
        ([PATH, "--no_such_flag=1"], "tensorflow_model_server has no flag --no_such_flag"),
        ([PATH, "stray"], "unknown argument: stray"),
        ([PATH, "--port"], "flag --port needs a value"),
        ([PATH, "--port=x"], "flag --port takes a number, found 'x'"),
        ([PATH, "--port=70000"], "flag --port takes a port number"),
        ([PATH, "--enable_batching=maybe"], "flag --enable_batching takes true or false, found 'maybe'"),
        ([PATH, "--port=0"], "at least one of --port and --grpc_socket_path"),
        ([PATH, "--rest_api_port=8500"], "--port and --rest_api_port must differ"),
        ([PATH, "--batching_parameters_file=/x"], "--batching_parameters_file is set without --enable_batching"),
        (
            [PATH, "--tensorflow_session_parallelism=1", "--tensorflow_intra_op_parallelism=1"],
            "set either --tensorflow_session_parallelism",
        ),
        ([PATH, "--grpc_channel_arguments=novalue"], "--grpc_channel_arguments takes key=value,key=value"),
        ([PATH, "--monitoring_config_file=/no/such"], "Cannot read MonitoringConfig file /no/such"),
        (["--model_config_file=/no/such"], "Cannot read ModelServerConfig file /no/such"),
        ([], "one of --model_base_path and --model_config_file must be set"),
    ],
)
def test_a_command_line_that_is_not_taken_is_refused_by_name(arguments: list[str], error: str) -> None:
    status, output = run_to_end(*arguments)
    assert status == 255
    assert error in output


def test_the_first_line_says_what_this_is(server: CompatServer) -> None:
    first_line = server.log().splitlines()[0]
    assert "stand-in for TensorFlow Serving, NOT the official tensorflow_model_server" in first_line


def test_version_says_so_too() -> None:
    status, output = run_to_end("--version")
    assert status == 0
    assert "stand-in" in output
    assert "TensorFlow Library: 2." in output


def test_of_a_flag_given_twice_the_later_one_counts(start, publish, tmp_path) -> None:
    publish(tmp_path / "m", 1, k=2)
    # What the image's entry point puts first, and what the user adds.
    defaults = ("--model_name=model", "--model_base_path=/models/model")
    server = start(*defaults, "--model_name=m", f"--model_base_path={tmp_path / 'm'}", "--flush_filesystem_caches=true")
    assert server.states("m") == {1: "AVAILABLE"}


def test_metrics(server: CompatServer) -> None:
    def counts() -> list[float]:
        count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency_count"
        runtime = {"model_name": "lin", "API": "Predict", "runtime": "TF1"}
        return [
            server.metric(count, model_name="lin", status="OK"),
            server.metric(count, model_name="lin", status="INVALID_ARGUMENT"),
            server.metric(count, model_name="no", status="NOT_FOUND"),
            server.metric(latency, model_name="lin", API="Predict", entrypoint="GRPC"),
            server.metric(latency, model_name="lin", API="predict", entrypoint="REST"),
            server.metric(latency, model_name="lin", API="", entrypoint="REST"),
            server.metric(":tensorflow:serving:runtime_latency_count", **runtime),
        ]

    before = counts()
    server.predict(linear_request("lin", 1.0))
    server.post("/v1/models/lin:predict", {"instances": [1.0]})
    server.post("/v1/models/lin:predict", "{}")
    server.get("/v1/models/lin")
    server.get("/v1/models/no")
    assert [after - b for after, b in zip(counts(), before)] == [3, 1, 1, 1, 1, 1, 2]


def test_the_metrics_page(server: CompatServer) -> None:
    server.predict(linear_request("lin", 1.0))
    reply = server.get(METRICS_PATH)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain"
    lines = reply.text.splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    assert not [line for line in lines if line.startswith("# HELP")]
    buckets = [
        line.split('le="')[1].split('"')[0]
        for line in lines
        if line.startswith(':tensorflow:serving:request_latency_bucket{model_name="lin",API="Predict"')
    ]
    assert len(buckets) == 34
    latency = {"model_name": "lin", "API": "Predict", "entrypoint": "GRPC"}
    in_10_us, in_any_time = (
        server.metric(":tensorflow:serving:request_latency_bucket", **latency, le=limit) for limit in ("10", "+Inf")
    )
    assert in_10_us == 0
    assert in_any_time == server.metric(":tensorflow:serving:request_latency_count", **latency) > 0
    assert buckets[:3] == ["10", "18", "32.4"]
    assert buckets[-1] == "+Inf"
    paths = [line for line in lines if line.startswith(":tensorflow:cc:saved_model:load_attempt_count{")]
    assert len(paths) == 2
    assert all('status="success"} 1' in line for line in paths)


def test_memory_with_a_small_model(server: CompatServer) -> None:
    server.predict(linear_request("lin", 1.0))
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    # What a replica costs by itself; the library's pages are shared by all replicas of a host.
    assert own / 1024 < 300


def test_sigterm_lets_calls_under_way_finish(start, publish, tmp_path) -> None:
    publish(tmp_path / "m", 1, k=2)
    server = start("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    steps = 2e5
    started = time.monotonic()
    server.post("/v1/models/m:predict", {"signature_name": "count", "instances": [steps]})
    alone = time.monotonic() - started
    with ThreadPoolExecutor(2) as pool:
        rest = pool.submit(server.post, "/v1/models/m:predict", {"signature_name": "count", "instances": [steps]})
        request = request_for("m", "count", steps=np.array([steps], np.float32))
        over_grpc = pool.submit(server.predict, request)
        # Long enough for both to be under way, as slow as the machine may be, and too short for their end.
        time.sleep(alone / 3)
        assert not rest.done()
        assert not over_grpc.done()
        server.process.send_signal(signal.SIGTERM)
        assert rest.result().json == {"predictions": [int(steps)]}
        assert over_grpc.result()["end"].tolist() == [int(steps)]
    assert server.process.wait(30) == 0
    assert not server.is_open()


def test_sigterm_ends_the_server_whichever_thread_gets_it(start, publish, tmp_path) -> None:
    publish(tmp_path / "m", 1, k=2)
    server = start("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    threads = [int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()]
    other = next(thread for thread in threads if thread != server.process.pid)
    assert ctypes.CDLL(None).tgkill(server.process.pid, other, signal.SIGTERM) == 0
    assert server.process.wait(30) == 0


def test_sigterm_while_waiting_for_a_model(start, tmp_path) -> None:
    (tmp_path / "m").mkdir()
    server = start("--model_name=m", f"--model_base_path={tmp_path / 'm'}", wait=False)
    wait_for(lambda: "No versions of servable" in server.log(), what="the server to wait")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0


def test_many_callers_at_once_get_their_own_answers(server: CompatServer) -> None:
    barrier = threading.Barrier(8)

    def call(number: int) -> bool:
        barrier.wait()
        return all(
            server.predict(linear_request("lin", float(number), float(step)))["y"].tolist()
            == [3.0 * number + 1, 3.0 * step + 1]
            for step in range(50)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))
