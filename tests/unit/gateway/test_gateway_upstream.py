"""TF Serving late, slow, away, replaced: what a caller notices of it."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from gateway_process import encode_image, free_port, gateway_config, noise, refused_start
from stub_protobuf import float_tensor
from stub_serving import DT_BOOL, DT_FLOAT, DT_STRING, DT_UINT8, Failure, Model, wait_until

IMAGE = encode_image(noise())
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def seconds_of(call):
    started = time.monotonic()
    return call(), time.monotonic() - started


def retries(gateway, stub) -> float:
    lines = gateway.get("/metrics").body.decode().splitlines()
    start = f'tf2x_gateway_upstream_retries_total{{address="{stub.address}"}} '
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0.0)


def answer_of_an_outage(gateway):
    """What an upload ends with, and its seconds; not a last attempt's timeout, to which a busy machine left no time."""
    for _unused in range(5):
        answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
        if answer.status == 503:
            break
    return answer, seconds


@pytest.fixture
def silent_address():
    """An address that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def truncating_address():
    """An address where calls get the head of an answer and then its end, as behind a balancer that lost its server."""
    settings = b"\0\0\0\x04\0" + bytes(4)
    # :status 200 from HPACK's static table, and its name number 31 with a literal value.
    fields = b"\x88\x0f\x10\x10application/grpc"
    head = len(fields).to_bytes(3, "big") + b"\x01\x04"
    end = b"\0\0\0\0\x01"

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as sent:
            sent.read(24)
            connection.sendall(settings)
            while frame := sent.read(9):
                length, kind, flags = int.from_bytes(frame[:3], "big"), frame[3], frame[4]
                sent.read(length)
                if kind == 0 and flags & 1:
                    connection.sendall(head + frame[5:] + fields + end + frame[5:])
                elif kind == 4 and not flags & 1:
                    connection.sendall(b"\0\0\0\x04\x01" + bytes(4))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


# ---- starting before TF Serving


def test_gateway_starts_first_and_needs_no_restart(new_stub, new_gateway):
    stub = new_stub()
    gateway = new_gateway(stub.address, deadline_seconds=3)
    assert gateway.get("/healthz").status == 200
    answer = gateway.get("/readyz")
    assert answer.error == (503, "not_ready")
    assert stub.address in answer.message
    answer = gateway.upload(IMAGE)
    assert answer.error == (503, "upstream_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1

    stub.model.state = "LOADING"
    stub.start()
    wait_until(lambda: "LOADING" in gateway.get("/readyz").message)
    assert gateway.upload(IMAGE).error == (502, "upstream_error")

    stub.model.state = "AVAILABLE"
    answer = gateway.get("/readyz")
    assert answer.status == 200
    assert answer.json == {"ready": True, "models": {"pets": "1"}}
    assert gateway.upload(IMAGE).status == 200


def test_readiness_names_the_load_error(gateway, stub):
    stub.model.state, stub.model.load_error = "END", "warm-up failed: no such signature"
    answer = gateway.get("/readyz")
    assert answer.error == (503, "not_ready")
    assert "version 1 is END (warm-up failed: no such signature)" in answer.message
    assert gateway.get("/healthz").status == 200


def test_readiness_is_what_the_last_second_of_predictions_shows(gateway, stub):
    for _unused in range(5):
        stub.model.state = "AVAILABLE"
        before = time.monotonic()
        assert gateway.upload(IMAGE).status == 200
        stub.model.state = "LOADING"
        answer = gateway.get("/readyz")
        # On a busy machine the second may be over before readiness is asked for.
        if time.monotonic() - before < 1:
            break
    assert answer.json == {"ready": True, "models": {"pets": "1"}}
    wait_until(lambda: gateway.get("/readyz").status == 503)
    assert time.monotonic() - before >= 1
    # Its images alone say nothing about a model.
    assert gateway.upload(b"no image").status == 415
    assert gateway.get("/readyz").error == (503, "not_ready")


def test_readiness_ends_with_the_first_prediction_that_fails(gateway, stub):
    assert gateway.upload(IMAGE).status == 200
    stub.model.state = "LOADING"
    assert gateway.upload(IMAGE).error == (502, "upstream_error")
    assert gateway.get("/readyz").error == (503, "not_ready")


def test_readiness_of_a_model_that_is_not_served(gateway, stub):
    stub.model.name = "birds"
    answer = gateway.get("/readyz")
    assert answer.error == (503, "not_ready")
    assert "Could not find any versions" in answer.message


def test_every_declared_model_must_be_ready(stub, new_gateway):
    labels = {"labels": ["red", "green"]}
    gateway = new_gateway(stub.address, models={"pets": labels, "birds": labels})
    answer = gateway.get("/readyz")
    assert answer.error == (503, "not_ready")
    assert "'birds'" in answer.message
    assert "'pets'" not in answer.message
    assert gateway.upload(IMAGE, "/models/pets/predict").status == 200
    assert gateway.upload(IMAGE, "/models/birds/predict").error == (502, "upstream_error")


def test_label_that_no_version_has_yet(stub, new_gateway):
    """A gateway may start before the label is set, and a label may be away for a while."""
    stub.labels = {"canary": Model(version=2)}
    gateway = new_gateway(stub.address, model={"version_label": "stable"})
    for _unused in range(2):
        wait_until(lambda: gateway.get("/readyz").status == 503)
        answer = gateway.get("/readyz")
        assert answer.error == (503, "not_ready")
        assert "Unrecognized servable version label: stable" in answer.message
        answer = gateway.upload(IMAGE)
        assert answer.error == (503, "upstream_unavailable")
        assert "Unrecognized servable version label: stable" in answer.message
        stub.labels["stable"] = Model(version=1)
        assert gateway.upload(IMAGE).json["model"] == {"name": "pets", "version": "1", "label": "stable"}
        assert gateway.get("/readyz").json["models"] == {"pets": "1"}
        del stub.labels["stable"]


# ---- models that do not fit their declaration


@dataclass
class Contradiction:
    """A declaration, a served model that it does not fit, and what a message about them has to name."""

    words: list[str]
    declared: dict[str, Any] = field(default_factory=dict)
    served: dict[str, Any] = field(default_factory=dict)


def image_input(dtype: int, *shape: int) -> dict[str, Any]:
    return {"inputs": {"image": (dtype, shape)}}


CONTRADICTIONS = {
    "labels": Contradiction(["2 scores", "3 labels are declared: a, b, c"], {"labels": ["a", "b", "c"]}),
    "signature": Contradiction(["no signature 'x'", "'serving_default'"], {"signature_name": "x"}),
    "input": Contradiction(["input_name is 'x'", "'image'"], {"input_name": "x"}),
    "output": Contradiction(["output_name is 'x'", "'scores'"], {"output_name": "x"}),
    "inputs": Contradiction(
        ["2 inputs: 'a', 'b'", "input_name"],
        served={"inputs": {"a": (DT_FLOAT, (-1, 6, 8, 3)), "b": (DT_FLOAT, (-1, 6, 8, 3))}},
    ),
    "outputs": Contradiction(
        ["2 outputs: 'a', 'b'", "output_name"],
        served={"outputs": {"a": (DT_FLOAT, (-1, 2)), "b": (DT_FLOAT, (-1, 2))}},
    ),
    "no-pixels": Contradiction(["DT_BOOL", "DT_FLOAT", "DT_STRING"], served=image_input(DT_BOOL, -1, 6, 8, 3)),
    "rank": Contradiction(["[-1, 30]", "[-1, height, width, 3 or 1]"], served=image_input(DT_FLOAT, -1, 30)),
    "channels": Contradiction(["[-1, 6, 8, 4]", "3 or 1"], served=image_input(DT_FLOAT, -1, 6, 8, 4)),
    "fixed-batch": Contradiction(["[4, 6, 8, 3]", "[-1, height"], served=image_input(DT_FLOAT, 4, 6, 8, 3)),
    "open-size": Contradiction(["[-1, -1, -1, 3]", "declare height"], served=image_input(DT_FLOAT, -1, -1, -1, 3)),
    "height": Contradiction(["[-1, 6, 8, 3]", "height is declared as 7"], {"height": 7, "width": 8}),
    "width": Contradiction(["[-1, 6, 8, 3]", "width is declared as 9"], {"height": 6, "width": 9}),
    "integer-scale": Contradiction(
        ["DT_UINT8", "scale is declared as 0.5"], {"scale": 0.5}, image_input(DT_UINT8, -1, 6, 8, 3)
    ),
    "file-scale": Contradiction(["DT_STRING", "scale is declared as 0.5"], {"scale": 0.5}, image_input(DT_STRING, -1)),
    "file-height": Contradiction(
        ["DT_STRING", "height is declared as 6"], {"height": 6, "width": 8}, image_input(DT_STRING)
    ),
    "file-shape": Contradiction(["[-1, 1]", "[-1] or []"], served=image_input(DT_STRING, -1, 1)),
}


def serve_contradictions(stub) -> dict[str, Any]:
    """Let the stub serve a model for every contradiction, and return their declarations."""
    stub.more_models = [Model(name, **found.served) for name, found in CONTRADICTIONS.items()]
    return {name: {"labels": ["red", "green"], **found.declared} for name, found in CONTRADICTIONS.items()}


def assert_named(message: str, name: str) -> None:
    for word in (f"model '{name}' version 1", *CONTRADICTIONS[name].words):
        assert word in message


def test_contradicted_declarations_are_refused_at_the_start(stub):
    declarations = serve_contradictions(stub)
    pets = {"pets": {"labels": ["red", "green"]}}
    status, log = refused_start(gateway_config(stub.address, models={**pets, **declarations}))
    assert status == 3
    (line,) = (line for line in log.splitlines() if "DeclarationError: " in line)
    messages = line.split("; model ")
    assert len(messages) == len(CONTRADICTIONS)
    for message, name in zip(messages, CONTRADICTIONS):
        assert_named(f"model {message.split('DeclarationError: model ')[-1]}", name)
    assert "'pets'" not in line


def test_start_is_refused_with_several_workers_too(stub):
    status, log = refused_start(gateway_config(stub.address, workers=2, model={"labels": ["a", "b", "c"]}))
    assert status == 3
    assert "3 labels are declared" in log


def test_contradicted_declarations_found_later(new_stub, new_gateway):
    """Once it serves, a gateway stays, and answers for the models that fit."""
    stub = new_stub()
    declarations = serve_contradictions(stub)
    gateway = new_gateway(stub.address, models={"pets": {"labels": ["red", "green"]}, **declarations})
    stub.start()
    wait_until(lambda: gateway.upload(IMAGE).status == 200)
    not_ready = gateway.get("/readyz")
    assert not_ready.error == (503, "not_ready")
    assert "'pets'" not in not_ready.message
    messages = dict(zip(CONTRADICTIONS, not_ready.message.split("; model ")))
    asked = len(stub.calls)
    for name in CONTRADICTIONS:
        answer = gateway.upload(IMAGE, f"/models/{name}/predict")
        assert answer.error == (500, "model_contract")
        assert_named(answer.message, name)
        assert messages[name].removeprefix("model ") == answer.message.removeprefix("model ")
    assert len(stub.calls) == asked


def test_start_does_not_wait_long_for_a_silent_upstream(silent_address, new_gateway):
    gateway, seconds = seconds_of(lambda: new_gateway(silent_address, deadline_seconds=30))
    assert seconds < 20
    assert gateway.get("/healthz").status == 200


# ---- other versions


def test_new_version_with_another_size(new_stub, new_gateway):
    stub = new_stub().start()
    gateway = new_gateway(stub.address)
    assert gateway.upload(IMAGE).json["model"]["version"] == "1"
    stub.model.version = 2
    stub.model.inputs = {"picture": (1, (-1, 10, 12, 3))}
    answer = gateway.upload(IMAGE)
    assert answer.status == 200, answer.body
    assert answer.json["model"]["version"] == "2"
    assert (stub.calls[-1].input_name, stub.calls[-1].shape) == ("picture", (1, 10, 12, 3))
    assert gateway.get("/readyz").json["models"] == {"pets": "2"}


def test_new_version_that_takes_the_old_ones_tensors(new_stub, new_gateway):
    """Nothing is refused, only the answer's version tells that the signature must be read again."""
    stub = new_stub().start()
    gateway = new_gateway(stub.address)
    assert gateway.upload(IMAGE).status == 200
    stub.model.version = 2
    stub.model.outputs = {"scores": (1, (-1, 3))}
    answer = gateway.upload(IMAGE)
    assert answer.error == (500, "model_contract")
    assert "version 2" in answer.message
    assert gateway.get("/readyz").error == (503, "not_ready")
    stub.model.version, stub.model.outputs = 3, {"scores": (1, (-1, 2))}
    assert gateway.upload(IMAGE).json["model"]["version"] == "3"
    assert gateway.get("/readyz").status == 200


def test_one_version_behind_while_replicas_change(new_stub, new_gateway):
    """A replica with another version than the one whose signature is read answers: that is no error."""
    stub = new_stub().start()
    gateway = new_gateway(stub.address)
    stub.answering_version = 2
    for _unused in range(3):
        assert gateway.upload(IMAGE).json["model"]["version"] == "2"


# ---- addresses, retries


@pytest.mark.parametrize("code", [UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_unavailable_is_retried(gateway, stub, code):
    """A server that stops cancels the calls that it has."""
    before = retries(gateway, stub)
    stub.failures = [Failure(code), Failure(code)]
    assert gateway.upload(IMAGE).status == 200
    assert len(stub.calls) == 3
    assert retries(gateway, stub) - before == 2


def test_answer_that_was_cut_short_is_asked_for_again(truncating_address, stub, new_gateway):
    gateway = new_gateway(truncating_address, stub.address)
    assert gateway.upload(IMAGE).status == 200
    assert retries(gateway, stub) > 0


def test_answer_that_is_always_cut_short(truncating_address, new_gateway):
    gateway = new_gateway(truncating_address, deadline_seconds=1)
    answer, _unused = answer_of_an_outage(gateway)
    assert answer.error == (503, "upstream_unavailable")
    assert "Stream removed" in answer.message


def test_unavailable_until_the_deadline(stub, new_gateway):
    gateway = new_gateway(stub.address, deadline_seconds=1)
    stub.failures = [Failure(UNAVAILABLE, "queue is full") for _unused in range(1000)]
    answer, seconds = answer_of_an_outage(gateway)
    assert answer.error == (503, "upstream_unavailable")
    assert "queue is full" in answer.message
    assert 0.5 < seconds < 10
    assert 3 < len(stub.calls) < 40


def test_long_outage_is_not_waited_for(new_stub, new_gateway):
    """Callers must not pile up behind an upstream that has been away for longer than any of them would wait."""
    stub = new_stub().start()
    gateway = new_gateway(stub.address, deadline_seconds=6)
    stub.stop()
    _unused, seconds = seconds_of(lambda: gateway.upload(IMAGE))
    assert seconds > 3
    time.sleep(0.3)
    answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
    assert answer.error == (503, "upstream_unavailable")
    assert seconds < 3
    stub.start()
    wait_until(lambda: gateway.upload(IMAGE).status == 200)


def test_first_address_is_preferred(new_stub, new_gateway):
    first, second = new_stub().start(), new_stub().start()
    gateway = new_gateway(first.address, second.address)
    for _unused in range(5):
        assert gateway.upload(IMAGE).status == 200
    assert (len(first.calls), len(second.calls)) == (5, 0)


def test_fallback_address_and_return(new_stub, new_gateway):
    first, second = new_stub().start(), new_stub().start()
    gateway = new_gateway(first.address, second.address, deadline_seconds=20)
    assert gateway.upload(IMAGE).status == 200
    first.stop()
    for _unused in range(5):
        answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
        assert answer.status == 200
        assert seconds < 8
    assert len(second.calls) == 5
    assert gateway.get("/readyz").status == 200
    assert retries(gateway, second) >= 5

    first.start()

    def first_is_asked() -> bool:
        assert gateway.upload(IMAGE).status == 200
        return len(first.calls) > 1

    wait_until(first_is_asked)


def test_first_address_never_there(new_stub, new_gateway):
    second = new_stub().start()
    gateway = new_gateway(f"127.0.0.1:{free_port()}", second.address)
    assert gateway.get("/readyz").status == 200
    assert gateway.upload(IMAGE).status == 200


def test_first_address_silent(silent_address, new_stub, new_gateway):
    """A host that takes connections and nothing more must not eat the whole deadline."""
    second = new_stub().start()
    gateway = new_gateway(silent_address, second.address, deadline_seconds=20)
    answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
    assert answer.status == 200
    assert seconds < 10


def test_only_address_silent(silent_address, new_gateway):
    gateway = new_gateway(silent_address, deadline_seconds=1)
    answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
    assert answer.status in {503, 504}
    assert seconds < 10


def test_restart_of_the_only_upstream_fails_no_request(new_stub, new_gateway):
    stub = new_stub().start()
    gateway = new_gateway(stub.address)
    statuses = []
    ended = threading.Event()

    def keep_asking() -> None:
        while not ended.is_set():
            statuses.append(gateway.upload(IMAGE).status)

    with ThreadPoolExecutor(4) as callers:
        for _unused in range(4):
            callers.submit(keep_asking)
        wait_until(lambda: len(statuses) > 20)
        stub.stop()
        time.sleep(0.7)
        stub.start()
        asked = len(statuses)
        wait_until(lambda: len(statuses) > asked + 20)
        ended.set()
    assert set(statuses) == {200}


def test_upstream_is_found_again_soon_after_a_long_outage(new_stub, new_gateway):
    """gRPC's own pauses between attempts to connect would have grown by then."""
    stub = new_stub().start()
    gateway = new_gateway(stub.address, deadline_seconds=20)
    assert gateway.upload(IMAGE).status == 200

    def seconds_until_found() -> float:
        stub.stop()
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(gateway.upload, IMAGE)
            time.sleep(3)
            stub.start()
            answer, seconds = seconds_of(call.result)
        assert answer.status == 200
        return seconds

    # The machine may be busy when the stub comes back.
    assert any(seconds_until_found() < 1.5 for _unused in range(3))


# ---- deadlines


def test_slow_upstream_ends_at_the_deadline(stub, new_gateway):
    gateway = new_gateway(stub.address, deadline_seconds=2)
    assert gateway.upload(IMAGE).status == 200
    stub.delay = 30
    answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
    assert answer.error == (504, "upstream_timeout")
    assert 1.6 < seconds < 15
    assert len(stub.calls) == 2
    stub.delay = 0
    assert gateway.upload(IMAGE).status == 200


def test_slow_upstream_does_not_hold_up_others(stub, new_gateway):
    gateway = new_gateway(stub.address, deadline_seconds=60)
    assert gateway.upload(IMAGE).status == 200
    stub.delay = 60
    with ThreadPoolExecutor(4) as callers:
        slow = [callers.submit(gateway.upload, IMAGE) for _unused in range(4)]
        wait_until(lambda: len(stub.calls) == 5)
        assert gateway.get("/healthz").status == 200
        stub.delay = 0
        assert gateway.upload(IMAGE).status == 200
        assert not any(call.done() for call in slow)
        stub.released.set()
        assert [call.result().status for call in slow] == [200] * 4


def test_large_decodes_do_not_hold_up_the_event_loop(stub, new_gateway):
    """While images of half a second each are decoded, health is answered in between."""
    gateway = new_gateway(stub.address, deadline_seconds=30)
    large = encode_image(noise(size=(64, 48)).resize((6000, 8000)), "JPEG", quality=95, progressive=True)

    def longest_wait() -> float:
        """As a part of the time that one decode takes."""
        answer, alone = seconds_of(lambda: gateway.upload(large))
        assert answer.status == 200
        with ThreadPoolExecutor(4) as callers:
            uploads = [callers.submit(gateway.upload, large) for _unused in range(4)]
            waits = []
            while not all(upload.done() for upload in uploads):
                waits.append(seconds_of(lambda: gateway.get("/healthz"))[1])
            assert [upload.result().status for upload in uploads] == [200] * 4
        return max(waits) / alone

    # Others may take the cores at any moment.
    assert any(longest_wait() < 0.5 for _unused in range(5))


def test_large_answer_is_taken(new_stub, new_gateway):
    """More than the 4 MiB at which a gRPC client stops by default."""
    labels = [f"label {number}" for number in range(1_200_000)]
    stub = new_stub().start()
    stub.model.outputs = {"scores": (1, (-1, -1))}
    stub.model.answer = lambda _pixels: float_tensor((1, len(labels)), [0.5] * len(labels))
    gateway = new_gateway(stub.address)
    answer = gateway.upload(IMAGE)
    assert answer.error == (500, "model_contract")
    assert f"{len(labels)} scores" in answer.message
