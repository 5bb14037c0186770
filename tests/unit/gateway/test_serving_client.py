"""The TF Serving client by itself, blocking and asynchronous, against the stub."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from gateway_process import command_environment, free_port
from stub_protobuf import message, parse, tensor
from stub_serving import Failure, StubServing
from tf2x_gateway.serving import (
    AllVersions,
    AsyncServingClient,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LatestVersions,
    MalformedResponse,
    ModelConfig,
    ModelSpec,
    NotFound,
    PredictRequestFrame,
    ServingClient,
    ServingError,
    Signature,
    SpecificVersions,
    TensorInfo,
    Unavailable,
    VersionStatus,
)

PETS = ModelSpec("pets")
DT_FLOAT, DT_STRING = 1, 7
ROWS = np.arange(2 * 6 * 8 * 3, dtype=np.float32).reshape(2, 6, 8, 3)


class Blocking:
    """An AsyncServingClient whose methods wait for their results."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._make(arguments, keywords))

    @staticmethod
    async def _make(arguments: tuple, keywords: dict[str, Any]) -> AsyncServingClient:
        return AsyncServingClient(*arguments, **keywords)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **keywords: self._loop.run_until_complete(method(*arguments, **keywords))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[ServingClient, Blocking], ids=["blocking", "asynchronous"])
def new_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of both kinds, and closes them."""
    clients: list[Any] = []

    def make(*arguments: Any, **keywords: Any) -> Any:
        clients.append(request.param(*arguments, **keywords))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def frame(**changes: Any) -> PredictRequestFrame:
    values = {
        "spec": PETS,
        "input_name": "image",
        "dtype": DT_FLOAT,
        "row_shape": (6, 8, 3),
        "output_names": ["scores"],
    }
    return PredictRequestFrame(**{**values, **changes})


# ---- what is sent and what is made of the answer


def test_arrays_in_and_out(new_client, stub):
    response = new_client(stub.address).predict_arrays(PETS, {"image": ROWS}, ["scores"])
    (call,) = stub.calls
    assert (call.name, call.input_name, call.output_filter, call.dtype) == ("pets", "image", ["scores"], DT_FLOAT)
    assert np.array_equal(call.pixels, ROWS)
    assert response.version == 1
    assert response.outputs["scores"].dtype == np.float32
    assert np.array_equal(response.outputs["scores"], ROWS.mean(axis=(1, 2))[:, :2])


def test_an_encoded_request_with_metadata(new_client, stub):
    traceparent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    client = new_client(stub.address)
    assert client.predict(frame().encode(ROWS), soon(), [traceparent]).version == 1
    assert client.predict_arrays(PETS, {"image": ROWS}, ["scores"], soon(), [traceparent]).version == 1
    for call in stub.calls:
        assert call.metadata["traceparent"] == traceparent[1]


def test_arrays_in_any_order_of_bytes_and_memory(new_client, stub):
    client = new_client(stub.address)
    for array in (np.asfortranarray(ROWS), ROWS.astype(">f4"), np.repeat(ROWS, 2, axis=0)[::2]):
        client.predict_arrays(PETS, {"image": array}, ["scores"])
        assert np.array_equal(stub.calls[-1].pixels, ROWS)


def test_strings(new_client, stub):
    stub.model.inputs = {"file": (DT_STRING, (-1,))}
    stub.model.answer = lambda _pixels: tensor(DT_STRING, (2,), (8, b"\xff\x00"), (8, b""))
    stub.model.outputs = {"copy": (DT_STRING, (-1,))}
    client = new_client(stub.address)
    items = [b"\x89PNG\x00", b""]
    for array in (np.array(items, dtype=object), np.array([b"ab", b"c"])):
        response = client.predict_arrays(PETS, {"file": array}, ["copy"])
        assert stub.calls[-1].strings == array.tolist()
        assert response.outputs["copy"].tolist() == [b"\xff\x00", b""]
    encoded = frame(input_name="file", dtype=DT_STRING, row_shape=(), output_names=["copy"]).encode_strings(items)
    client.predict(encoded, soon())
    assert (stub.calls[-1].strings, stub.calls[-1].shape) == (items, (2,))


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array(["text"], dtype=object), np.array([np.datetime64("2020")])], ids=str
)
def test_an_array_that_no_tensor_can_hold_is_named(new_client, stub, array):
    with pytest.raises(ValueError, match="input 'image': "):
        new_client(stub.address).predict_arrays(PETS, {"image": array})
    assert stub.calls == []


def test_metadata_and_status(new_client, stub):
    client = new_client(stub.address)
    metadata = client.metadata(PETS)
    assert metadata.version == 1
    assert metadata.signatures == {
        "serving_default": Signature(
            inputs={"image": TensorInfo(DT_FLOAT, (-1, 6, 8, 3))}, outputs={"scores": TensorInfo(DT_FLOAT, (-1, 2))}
        )
    }
    stub.model.state, stub.model.load_error = "END", "out of memory"
    assert client.status(PETS, soon()) == [VersionStatus(1, "END", "out of memory")]


def test_reload(new_client, stub):
    models = [
        ModelConfig("pets", "/models/pets", versions=SpecificVersions([1, 300]), labels={"stable": 1, "canary": 300}),
        ModelConfig("birds", "/models/birds", versions=AllVersions()),
        ModelConfig("fish", "/models/fish", platform="other", versions=LatestVersions(2)),
    ]
    new_client(stub.address).reload(models)
    (request,) = stub.reloads
    configs = [parse(config) for config in parse(parse(parse(request)[1][0])[1][0])[1]]
    assert [(c[1], c[2], c[4]) for c in configs] == [
        ([b"pets"], [b"/models/pets"], [b"tensorflow"]),
        ([b"birds"], [b"/models/birds"], [b"tensorflow"]),
        ([b"fish"], [b"/models/fish"], [b"other"]),
    ]
    assert [parse(c[7][0]) for c in configs] == [
        {102: [message((1, b"\x01\xac\x02"))]},
        {101: [b""]},
        {100: [message((1, 2))]},
    ]
    assert [parse(entry) for entry in configs[0][8]] == [{1: [b"stable"], 2: [1]}, {1: [b"canary"], 2: [300]}]


def test_reload_that_fails_behind_a_good_answer(new_client, stub):
    stub.raw_reply = message((1, message((1, 9), (2, "label stable points to version 7"))))
    with pytest.raises(MalformedResponse, match="error code 9: label stable points to version 7"):
        new_client(stub.address).reload([])


@pytest.mark.parametrize("make", [lambda: LatestVersions(0), lambda: SpecificVersions([])])
def test_version_policies_that_serve_nothing(make):
    with pytest.raises(ValueError, match="at least"):
        make()


# ---- errors


@pytest.mark.parametrize(
    "code, kind",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, FailedPrecondition),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServingError),
    ],
)
def test_errors_are_typed_and_not_tried_again(new_client, stub, code, kind):
    stub.failures = [Failure(code, "what the server says")]
    with pytest.raises(ServingError) as caught:
        new_client(stub.address).predict_arrays(PETS, {"image": ROWS}, ["scores"])
    assert caught.value.__class__ is kind
    assert (caught.value.code, caught.value.details, caught.value.address) == (
        code.name,
        "what the server says",
        stub.address,
    )
    assert len(stub.calls) == 1


@pytest.mark.parametrize("reply", [b"\xff", message((1, 5)), message((1, message((1, b"\xff"), (2, b""))))])
def test_an_answer_that_is_no_message(new_client, stub, reply):
    stub.raw_reply = reply
    with pytest.raises(MalformedResponse) as caught:
        new_client(stub.address).predict(frame().encode(ROWS))
    assert caught.value.address == stub.address


def test_the_deadline_of_a_call_and_of_a_client(new_client, stub):
    stub.delay = 30
    for client, deadline in ((new_client(stub.address), 2), (new_client(stub.address, timeout_seconds=2), None)):
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.predict(frame().encode(ROWS), deadline and soon(deadline))
        assert time.monotonic() - started < 15
        assert stub.calls[-1].seconds_left < 2.1


def test_a_deadline_that_has_passed_asks_nobody(new_client, stub):
    with pytest.raises(DeadlineExceeded):
        new_client(stub.address).predict(frame().encode(ROWS), soon(-1))
    assert stub.calls == []


# ---- addresses and connections


def test_another_address_stands_in_for_one_that_is_away(new_client, stub):
    away = f"127.0.0.1:{free_port()}"
    retried: list[str] = []
    client = new_client([away, stub.address], on_retry=retried.append)
    for _unused in range(3):
        assert client.predict_arrays(PETS, {"image": ROWS}, ["scores"]).version == 1
    assert retried == [stub.address] * 3


def test_a_call_waits_for_a_server_that_comes_back(new_client, stub):
    stub.failures = [Failure(grpc.StatusCode.UNAVAILABLE)] * 3
    retried: list[str] = []
    client = new_client(stub.address, on_retry=retried.append)
    assert client.predict_arrays(PETS, {"image": ROWS}, ["scores"]).version == 1
    assert retried == [stub.address] * 3


def test_without_patience_every_address_is_asked_once(new_client, stub):
    stub.failures = [Failure(grpc.StatusCode.UNAVAILABLE, f"failure {number}") for number in range(9)]
    client = new_client([f"127.0.0.1:{free_port()}", stub.address], patience_seconds=0)
    with pytest.raises(Unavailable, match="failure 0"):
        client.predict_arrays(PETS, {"image": ROWS}, ["scores"])
    assert len(stub.calls) == 1


@pytest.mark.parametrize("connections", [1, 2, 3])
def test_calls_take_the_connections_in_turn(new_client, stub, connections):
    client = new_client(stub.address, connections=connections)
    for _unused in range(2 * connections):
        client.predict_arrays(PETS, {"image": ROWS}, ["scores"])
    peers = [call.peer for call in stub.calls]
    assert len(set(peers)) == connections
    assert peers[:connections] == peers[connections:]


@pytest.mark.parametrize("arguments", [{"addresses": []}, {"addresses": "127.0.0.1:1", "connections": 0}])
@pytest.mark.parametrize("kind", [ServingClient, AsyncServingClient])
def test_a_client_of_nothing(kind, arguments):
    with pytest.raises(ValueError, match="needed"):
        kind(**arguments)


def test_context_managers_close(stub):
    with ServingClient(stub.address) as client:
        assert client.status(PETS)[0].version == 1
    with pytest.raises(ValueError, match="closed"):
        client.status(PETS)

    async def run() -> AsyncServingClient:
        async with AsyncServingClient(stub.address) as client:
            assert (await client.status(PETS))[0].version == 1
        with pytest.raises(Exception, match="closed"):
            await client.status(PETS)

    asyncio.run(run())


def test_threads_share_a_client(stub: StubServing):
    with ServingClient(stub.address) as client, ThreadPoolExecutor(8) as threads:
        tasks = [
            threads.submit(client.predict_arrays, PETS, {"image": np.full((1, 6, 8, 3), number, "f4")}, ["scores"])
            for number in range(40)
        ]
        assert [task.result().outputs["scores"][0, 0] for task in tasks] == list(range(40))


# ---- frames


def test_a_frame_encodes_batches_of_every_size(new_client, stub):
    client, shared = new_client(stub.address), frame()
    for count in [*range(1, 100), 1]:
        rows = np.full((count, 6, 8, 3), count, dtype=np.float32)
        client.predict(shared.encode(rows))
        assert np.array_equal(stub.calls[-1].pixels, rows)


@pytest.mark.parametrize(
    "rows",
    [ROWS[0], ROWS[:, 1:], ROWS.astype(np.float64), np.float32(1), np.asfortranarray(ROWS)],
    ids=["one row", "other size", "other type", "scalar", "other order"],
)
def test_a_frame_refuses_other_arrays(rows):
    with pytest.raises(ValueError, match=r"the frame is for DT_FLOAT of shape \[n, 6, 8, 3\]|not C-ordered"):
        frame().encode(rows)


def test_a_frame_without_a_batch_dimension(new_client, stub):
    one = frame(batched=False)
    stub.model.inputs = {"image": (DT_FLOAT, (6, 8, 3))}
    stub.model.answer = lambda pixels: tensor(DT_FLOAT, (), (4, pixels.max().tobytes()))
    assert new_client(stub.address).predict(one.encode(ROWS[1])).outputs["scores"] == ROWS.max()
    assert stub.calls[-1].shape == (6, 8, 3)
    with pytest.raises(ValueError, match=r"of shape \[6, 8, 3\]"):
        one.encode(ROWS)
    scalar = frame(input_name="file", dtype=DT_STRING, row_shape=(), batched=False)
    stub.model.inputs = {"file": (DT_STRING, ())}
    stub.model.answer = lambda _pixels: tensor(DT_STRING, (), (8, b"x"))
    assert new_client(stub.address).predict(scalar.encode_strings([b"data"])).outputs["scores"].item() == b"x"
    assert (stub.calls[-1].shape, stub.calls[-1].strings) == ((), [b"data"])
    with pytest.raises(ValueError, match="one string, 2 were given"):
        scalar.encode_strings([b"a", b"b"])


def test_frames_of_numbers_and_of_strings_are_told_apart():
    with pytest.raises(ValueError, match="DT_FLOAT rows"):
        frame().encode_strings([b"a"])
    with pytest.raises(ValueError, match="DT_STRING"):
        frame(dtype=DT_STRING, row_shape=()).encode(np.array([b"a"]))
    with pytest.raises(ValueError, match="data type 21 has no NumPy type"):
        frame(dtype=21)


# ---- by itself


def test_the_client_needs_nothing_else_of_the_gateway():
    program = (
        "import sys, tf2x_gateway.serving, tf2x_gateway.serving.model_config_text\n"
        "print(*sorted(sys.modules), sep='\\n')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=command_environment(), capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert {name for name in loaded if name.startswith("tf2x_gateway") and ".serving" not in name} == {"tf2x_gateway"}
    assert not {"tensorflow", "google.protobuf", "pydantic", "PIL", "fastapi"} & set(loaded)
