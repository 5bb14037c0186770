"""Which requests a canary answers, and that none fails when it does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from gateway_process import (
    Answer,
    Gateway,
    command_environment,
    encode_image,
    gateway_config,
    noise,
    plain,
    scores,
)
from stub_protobuf import float_tensor
from stub_serving import DT_FLOAT, DT_STRING, DT_UINT8, Failure, Model, StubServing, answer_files, wait_until
from tf2x_gateway.__main__ import main

IMAGE = encode_image(noise())
STABLE, CANARY = 1, 2
BATCH = "/model/predict/batch/"


def always(red: float, green: float) -> Callable[[Any], bytes]:
    """A classifier that gives every image these scores."""
    return lambda pixels: float_tensor((len(pixels), 2), [red, green] * len(pixels))


def traffic(percent: float, **options: Any) -> str:
    return json.dumps({"models": {"pets": {"canary": {"percent": percent, **options}}}})


def canary_of(gateway: Gateway) -> dict[str, Any] | None:
    (model,) = gateway.get("/models").json["models"]
    return model["canary"]


def send_to_canary(gateway: Gateway, percent: float, **options: Any) -> None:
    """Change the traffic, and wait until it is in force."""
    gateway.write_traffic(traffic(percent, **options))
    wanted = {"percent": percent, "mode": "split", "sticky": False, **options}
    wait_until(lambda: {**(canary_of(gateway) or {}), **wanted} == canary_of(gateway))


def answered_by(answer: Answer) -> tuple[str, str]:
    assert answer.status == 200, answer.body
    model = answer.json["model"]
    assert model["name"] == "pets"
    return model["label"], model["version"]


def canary_answers(gateway: Gateway, requests: int) -> int:
    """Send requests and return how many the canary answered."""
    lanes = [answered_by(gateway.upload(IMAGE)) for _unused in range(requests)]
    assert set(lanes) <= {("stable", "1"), ("canary", "2")}
    return lanes.count(("canary", "2"))


def attempts(gateway: Gateway, label: str, outcome: str) -> float:
    """How many requests to a label of the model ended so, whichever version it had."""
    return sum(
        value
        for name, value in gateway.samples().items()
        if name.startswith("tf2x_gateway_predictions_total{")
        and f'label="{label}"' in name
        and f'outcome="{outcome}"' in name
    )


@pytest.fixture(scope="module")
def canary_gateway(shared_stub) -> Iterator[Gateway]:
    shared_stub.reset()
    config = gateway_config(shared_stub.address, model={"version_label": "stable"}, deadline_seconds=4)
    gateway = Gateway(config)
    yield gateway
    gateway.stop()


@pytest.fixture
def stub(stub) -> StubServing:
    """Version 1 is stable and version 2 the canary, which always says red."""
    stub.labels = {"stable": Model(version=STABLE), "canary": Model(version=CANARY, answer=always(1, 0))}
    stub.model = stub.labels["stable"]
    return stub


@pytest.fixture
def gateway(canary_gateway, stub) -> Gateway:
    """A gateway in front of `stub`, with the traffic of the test before."""
    return canary_gateway


def end_canary(gateway: Gateway) -> None:
    """Remove the traffic file, and wait until that is in force."""
    gateway.write_traffic(None)
    wait_until(lambda: canary_of(gateway) is None)


# ---- shares


@pytest.mark.parametrize(("percent", "least", "most"), [(0, 0, 0), (10, 4, 45), (50, 60, 140), (100, 200, 200)])
def test_share_of_the_requests(gateway, percent, least, most):
    """The bounds of a random share are more than four standard deviations away."""
    send_to_canary(gateway, percent)
    assert least <= canary_answers(gateway, 200) <= most


def test_without_a_traffic_file_there_is_no_canary(gateway, stub):
    end_canary(gateway)
    assert canary_answers(gateway, 20) == 0
    assert {call.version_label for call in stub.calls} == {"stable"}


def test_a_batch_is_one_request(gateway):
    send_to_canary(gateway, 50)
    for _unused in range(20):
        answer = gateway.upload_batch([IMAGE] * 3, BATCH)
        assert answer.status == 200
        labels = {result["model"]["label"] for result in answer.json["results"]}
        assert labels in ({"stable"}, {"canary"})


def test_sticky_clients_stay_where_they_are(stub, new_gateway):
    """In every worker; and who is in stays in when the share grows."""
    gateway = new_gateway(
        stub.address, model={"version_label": "stable"}, workers=2, trusted_proxies=["127.0.0.1"], traffic=traffic(0)
    )
    clients = [f"10.0.0.{number}" for number in range(60)]

    def canary_clients() -> set[str]:
        return {
            client
            for client in clients
            if answered_by(gateway.upload(IMAGE, X_Forwarded_For=client)) == ("canary", "2")
        }

    def settle(percent: int) -> None:
        gateway.write_traffic(traffic(percent, sticky=True))
        # Each worker says so.
        wait_until(lambda: gateway.log.count(f"the canaries are now: pets {percent} % split sticky\n") == 2)

    found = []
    for percent in (10, 50, 100):
        settle(percent)
        found.append(canary_clients())
        for _unused in range(2):
            assert canary_clients() == found[-1]
    few, half, everyone = found
    assert few < half < everyone == set(clients)
    assert 1 <= len(few) <= 15
    assert 15 <= len(half) <= 45


# ---- the traffic file


def test_changes_are_taken_up_without_a_restart(gateway):
    for percent in (100, 0, 100):
        send_to_canary(gateway, percent)
        assert canary_answers(gateway, 5) == percent / 20
    end_canary(gateway)
    assert canary_answers(gateway, 5) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        (traffic(101), "models.pets.canary.percent: found 101; should be less than or equal to 100"),
        (traffic(-1), "models.pets.canary.percent: found -1"),
        (traffic(10, mode="mirror"), 'models.pets.canary.mode: found "mirror"'),
        (traffic(10, share=1), "models.pets.canary.share: unknown key; known here: mode, percent, sticky"),
        ('{"models": {"pets": {"canary": {}}}}', "models.pets.canary.percent: missing"),
        ('{"models": {"canary": {"split": 1}}}', "models.canary.split: unknown key; known here: canary"),
        ('{"model": {}}', "model: unknown key; known here: models"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_broken_file_changes_nothing(gateway, text, words):
    send_to_canary(gateway, 100)
    line = next_error(gateway, text)
    assert "traffic.json" in line
    assert words in line
    assert canary_answers(gateway, 5) == 5


def errors(gateway: Gateway) -> list[str]:
    return [line for line in gateway.log.splitlines() if line.startswith("ERROR")]


def next_error(gateway: Gateway, text: str) -> str:
    """Write a traffic file that cannot be used, and return what the gateway says of it."""
    before = len(errors(gateway))
    gateway.write_traffic(text)
    wait_until(lambda: len(errors(gateway)) > before)
    (line,) = errors(gateway)[before:]
    return line


def test_broken_file_is_logged_once(gateway):
    send_to_canary(gateway, 100)
    next_error(gateway, "{")
    logged = len(errors(gateway))
    time.sleep(2.5)
    assert len(errors(gateway)) == logged
    send_to_canary(gateway, 0)
    assert canary_answers(gateway, 5) == 0


def test_broken_file_at_the_start(stub, new_gateway):
    gateway = new_gateway(stub.address, model={"version_label": "stable"}, traffic="{")
    assert "traffic.json: no valid JSON" in gateway.log
    assert canary_answers(gateway, 5) == 0
    send_to_canary(gateway, 100)
    assert canary_answers(gateway, 5) == 5


def test_file_of_another_name(stub, new_gateway, tmp_path):
    """And models that this gateway does not know are none of its business."""
    path = tmp_path / "shares.json"
    document = json.loads(traffic(100))
    document["models"]["birds"] = {"canary": {"percent": 5}}
    path.write_text(json.dumps(document))
    gateway = new_gateway(stub.address, model={"version_label": "stable"}, options=("--traffic", str(path)))
    assert canary_answers(gateway, 5) == 5
    assert "birds" not in gateway.get("/metrics").body.decode()


# ---- what a canary fails


def no_label(stub: StubServing) -> None:
    del stub.labels["canary"]


def failing(code: grpc.StatusCode) -> Callable[[StubServing], None]:
    def fail(stub: StubServing) -> None:
        stub.labels["canary"].failure = Failure(code)

    return fail


def three_scores(stub: StubServing) -> None:
    stub.labels["canary"].version = 3
    stub.labels["canary"].outputs = {"scores": (DT_FLOAT, (-1, 3))}


def answering(answer: Callable[[Any], bytes]) -> Callable[[StubServing], None]:
    def change(stub: StubServing) -> None:
        stub.labels["canary"].answer = answer

    return change


def hanging(stub: StubServing) -> None:
    stub.labels["canary"].delay = 30


FAILURES: dict[str, Callable[[StubServing], None]] = {
    "label taken away": no_label,
    "unavailable": failing(grpc.StatusCode.UNAVAILABLE),
    "internal": failing(grpc.StatusCode.INTERNAL),
    "refused": failing(grpc.StatusCode.INVALID_ARGUMENT),
    "no signature": failing(grpc.StatusCode.FAILED_PRECONDITION),
    "exhausted": failing(grpc.StatusCode.RESOURCE_EXHAUSTED),
    "contract": three_scores,
    "scores": answering(lambda pixels: float_tensor((len(pixels), 3), [0.1] * 3 * len(pixels))),
    "NaN": answering(always(float("nan"), 0)),
    "garbage": answering(lambda _pixels: b"\xff\xff\xff"),
    "hanging": hanging,
}


@pytest.mark.parametrize("kind", FAILURES)
def test_stable_answers_what_the_canary_fails(gateway, stub, kind):
    send_to_canary(gateway, 100)
    assert canary_answers(gateway, 2) == 2
    FAILURES[kind](stub)
    assert_stable_answers(gateway, "timeout" if kind == "hanging" else "error")


@pytest.mark.parametrize("kind", ["label taken away", "contract"])
def test_canary_that_fails_from_the_first(stub, new_gateway, kind):
    FAILURES[kind](stub)
    gateway = new_gateway(stub.address, model={"version_label": "stable"}, traffic=traffic(100))
    assert_stable_answers(gateway, "error")


def assert_stable_answers(gateway: Gateway, outcome: str) -> None:
    """Whatever the canary is asked first, and fails."""

    def counts() -> list[float]:
        lanes = [("canary", outcome), ("canary", "ok"), ("stable", "ok"), ("stable", "error")]
        return [attempts(gateway, *lane) for lane in lanes]

    before = counts()
    for _unused in range(3):
        assert answered_by(gateway.upload(IMAGE)) == ("stable", "1")
    batch = gateway.upload_batch([plain(0, 255), plain(255, 0)])
    assert batch.status == 200
    assert [result["model"]["label"] for result in batch.json["results"]] == ["stable"] * 2
    assert [scores(result)["red"] for result in batch.json["results"]] == [0, 1]
    assert [now - then for now, then in zip(counts(), before)] == [4, 0, 4, 0]
    assert "Traceback" not in gateway.log


def test_batch_falls_back_as_a_whole(gateway, stub):
    """Two versions in one answer could not be compared."""
    send_to_canary(gateway, 100)

    def answer(pixels):
        return float_tensor((len(pixels), 2), [value for image in pixels for value in (image.flat[0] or 1e400, 0.0)])

    stub.labels["canary"].answer = answer
    answer = gateway.upload_batch([plain(255, 0), plain(0, 255), b"no image"])
    assert [result["success"] for result in answer.json["results"]] == [True, True, False]
    assert [result["model"]["label"] for result in answer.json["results"][:2]] == ["stable"] * 2


def test_faults_of_the_image_are_the_callers(gateway, stub):
    send_to_canary(gateway, 100)
    assert gateway.upload(IMAGE[: len(IMAGE) // 2]).error == (422, "image_truncated")
    assert stub.calls == []
    answer = gateway.upload_batch([IMAGE, IMAGE[: len(IMAGE) // 2]])
    assert [result["success"] for result in answer.json["results"]] == [True, False]
    assert {call.version_label for call in stub.calls} == {"canary"}


def test_files_that_only_the_canary_cannot_read(stub, new_gateway):
    """Of a model that decodes by itself, the stable version has the last word on a file."""
    for model in stub.labels.values():
        model.inputs, model.answer = {"image": (DT_STRING, (-1,))}, answer_files
    gateway = new_gateway(stub.address, model={"version_label": "stable"}, traffic=traffic(100))
    assert answered_by(gateway.upload(IMAGE)) == ("canary", "2")
    assert gateway.upload(IMAGE[: len(IMAGE) // 2]).error == (422, "image_invalid")
    stub.labels["canary"].failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, "no decoder for PNG")
    assert answered_by(gateway.upload(IMAGE)) == ("stable", "1")


def test_canary_of_another_size_and_type(gateway, stub):
    stub.labels["canary"].version = 3
    stub.labels["canary"].inputs = {"picture": (DT_UINT8, (-1, 10, 12, 3))}
    send_to_canary(gateway, 100)
    assert answered_by(gateway.upload(IMAGE)) == ("canary", "3")
    assert (stub.calls[-1].input_name, stub.calls[-1].shape) == ("picture", (1, 10, 12, 3))
    send_to_canary(gateway, 0)
    assert answered_by(gateway.upload(IMAGE)) == ("stable", "1")
    assert stub.calls[-1].shape == (1, 6, 8, 3)


def test_hanging_canary_leaves_slots_to_the_others(stub, new_gateway):
    """With four slots and half of the requests, a canary holds two of them at most."""
    gateway = new_gateway(
        stub.address,
        model={"version_label": "stable"},
        deadline_seconds=60,
        limits={"max_in_flight": 4},
        traffic=traffic(50),
    )
    stub.labels["canary"].delay = 60
    with ThreadPoolExecutor(30) as callers:
        calls = [callers.submit(gateway.upload, IMAGE) for _unused in range(30)]
        wait_until(lambda: sum(call.done() for call in calls) >= 28, 25)
        stub.released.set()
        lanes = [answered_by(call.result()) for call in calls]
    assert lanes.count(("canary", "2")) <= 2


# ---- what is told


def test_models_tell_their_canary(gateway):
    send_to_canary(gateway, 100, sticky=True)
    assert canary_answers(gateway, 1) == 1
    assert gateway.get("/models").json["models"] == [
        {
            "name": "pets",
            "default": True,
            "labels": ["red", "green"],
            "label": "stable",
            "version": "1",
            "canary": {"version": "2", "percent": 100, "mode": "split", "sticky": True},
        }
    ]


def test_readiness_is_about_the_stable_version(gateway, stub):
    send_to_canary(gateway, 100)
    del stub.labels["canary"]
    assert gateway.get("/readyz").json == {"ready": True, "models": {"pets": "1"}}
    stub.labels["stable"] = Model(version=7)
    assert gateway.get("/readyz").json == {"ready": True, "models": {"pets": "7"}}
    stub.labels = {"canary": Model(version=CANARY)}
    answer = gateway.get("/readyz")
    assert answer.error == (503, "not_ready")
    assert "label: stable" in answer.message


def test_access_log_tells_who_answered(gateway):
    for percent, expected in ((0, (1, "stable")), (100, (2, "canary"))):
        send_to_canary(gateway, percent)
        for answer in (gateway.upload(IMAGE), gateway.upload_batch([IMAGE])):
            line = gateway.access_line(answer.headers["X-Request-Id"])
            assert (line["version"], line["label"]) == expected


def test_metrics_by_label_and_version(stub, new_gateway):
    gateway = new_gateway(stub.address, model={"version_label": "stable"})
    assert gateway.samples()['tf2x_gateway_canary_percent{mode="split",model="pets"}'] == 0
    for percent in (0, 100):
        send_to_canary(gateway, percent)
        gateway.upload(IMAGE)
        gateway.upload_batch([IMAGE, IMAGE])
        gateway.upload(b"no image")
    found = gateway.samples()
    assert found['tf2x_gateway_canary_percent{mode="split",model="pets"}'] == 100
    assert found['tf2x_gateway_canary_percent{mode="shadow",model="pets"}'] == 0
    for label, version in (("stable", STABLE), ("canary", CANARY)):
        lane = f'label="{label}",model="pets"'
        assert found[f'tf2x_gateway_predictions_total{{{lane},outcome="ok",version="{version}"}}'] == 2
        assert found[f'tf2x_gateway_upstream_seconds_count{{{lane},version="{version}"}}'] == 2
    assert not [name for name in found if 'outcome="error"' in name or 'outcome="timeout"' in name]


# ---- --check-model


@pytest.fixture
def check_model(gateway, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs `--check-model` with the configuration of a gateway that serves meanwhile."""

    def run(name: str, version: int) -> tuple[int, str, str]:
        arguments = ["--config", str(gateway.config_path), "--check-model", name, "--version", str(version)]
        return (main(arguments), *capsys.readouterr())

    return run


def test_version_that_fits(check_model, stub):
    """It needs no label."""
    del stub.labels["canary"]
    stub.more_models = [Model(version=5)]
    for version in (1, 5):
        status, output, errors = check_model("pets", version)
        assert (status, errors) == (0, "")
        (line,) = output.splitlines()
        assert f"model 'pets' version {version} fits" in line


def test_version_that_contradicts_the_declaration(check_model, stub):
    three_scores(stub)
    status, output, errors = check_model("pets", 3)
    assert (status, output) == (1, "")
    for words in ("model 'pets' version 3", "3 scores", "2 labels are declared: red, green"):
        assert words in errors


def test_version_that_is_not_served(check_model):
    status, output, errors = check_model("pets", 9)
    assert (status, output) == (1, "")
    assert "model 'pets' version 9 cannot be asked" in errors
    assert "Specific, 9" in errors


def test_model_that_is_not_declared(check_model):
    status, _output, errors = check_model("birds", 1)
    assert status == 2
    assert "there is no model 'birds'; declared are: pets" in errors


@pytest.mark.parametrize(
    "options", [("--check-model", "pets"), ("--version", "1"), ("--check-model", "pets", "--version")]
)
def test_usage(gateway, capsys, options):
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(gateway.config_path), *options])
    output, errors = capsys.readouterr()
    # A version without a number is that of the gateway.
    expected = 0 if options[-1] == "--version" else 2
    assert ended.value.code == expected
    assert bool(output) == (expected == 0)
    assert ("belong together" in errors) == (expected == 2)


def test_exit_status_of_the_command(gateway, stub):
    three_scores(stub)
    command = [sys.executable, "-m", "tf2x_gateway", "--config", str(gateway.config_path), "--check-model", "pets"]
    for version, status in ((1, 0), (3, 1)):
        result = subprocess.run(
            [*command, "--version", str(version)],
            env=command_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert result.returncode == status, result.stderr
        assert "Traceback" not in result.stderr
