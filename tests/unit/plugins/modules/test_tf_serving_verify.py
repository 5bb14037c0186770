"""`tf_serving_verify` against servers that answer well, wrongly, slowly and not at all."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import model_builder
import pytest
from ansible_collections.tf2x.serving.plugins.modules import tf_serving_verify
from serving_stub import HTML_404, Gateway, Model, closed_port, grpc_server, http_server, silent_server

MODULE = "tf_serving_verify"


@pytest.fixture
def golden(saved_model: Path) -> Path:
    return saved_model / "assets.extra" / "golden.json"


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def url(model: Model) -> Iterator[str]:
    with http_server(model) as base:
        yield base


@pytest.fixture
def gateway(saved_model: Path) -> Gateway:
    content = model_builder.golden_content()
    return Gateway(
        {
            (saved_model / "assets.extra" / case["image"]).read_bytes(): case["outputs"]["scores"]["values"]
            for case in content["cases"]
        }
    )


@pytest.fixture
def gateway_url(gateway: Gateway) -> Iterator[str]:
    with http_server(gateway) as base:
        yield base


@pytest.fixture
def verify(run_module: Any, golden: Path) -> Any:
    def run(*endpoints: str, **options: Any) -> dict[str, Any]:
        defaults = {"model": "pets", "golden": str(golden), "endpoints": list(endpoints), "timeout": 10}
        return run_module(MODULE, **{**defaults, **options})

    return run


@contextmanager
def once_asked(model: Model, change: Callable[[], object]) -> Iterator[None]:
    """Let `change` happen to the model a while after the first question."""
    over = threading.Event()

    def wait_and_change() -> None:
        while not model.seen and not over.wait(0.01):
            pass
        over.wait(0.7)
        change()

    thread = threading.Thread(target=wait_and_change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def names(result: dict[str, Any]) -> list[str]:
    return [check["name"] for check in result["checks"]]


@pytest.mark.parametrize("second_output", [False, True])
def test_a_model_that_is_right(verify: Any, model: Model, url: str, second_output: bool) -> None:
    model.second_output = second_output
    result = verify(url)

    assert result["changed"] is False
    assert names(result) == [f"status {url}", f"signature {url}", f"golden case-0 {url}", f"golden case-1 {url}"]
    assert all(check["ok"] for check in result["checks"])
    assert result["versions"] == {url: {"1": "AVAILABLE"}}
    assert result["signature"]["inputs"] == {"image": {"dtype": "DT_FLOAT", "shape": [-1, 2, 2, 3]}}


def test_check_mode_makes_the_same_checks(verify: Any, model: Model, url: str) -> None:
    checked = verify(url, check=True)
    assert all(check["ok"] for check in checked["checks"])
    asked, model.seen[:] = list(model.seen), []
    verify(url)
    assert model.seen == asked

    model.offset = 0.1
    assert verify(url, check=True)["failed"]


def test_without_a_golden_file_state_and_signature_are_checked(verify: Any, url: str) -> None:
    result = verify(url, golden=None)

    assert names(result) == [f"status {url}", f"signature {url}"]
    assert result["signature"]["name"] == "serving_default"


def test_a_version_is_asked_for_itself(verify: Any, model: Model, url: str) -> None:
    model.states = {1: "AVAILABLE", 2: "AVAILABLE"}
    result = verify(url, version=1)

    assert "failed" not in result
    assert {line.split("/versions/")[1][:1] for line in model.seen} == {"1"}


def test_a_label_is_asked_for_itself(verify: Any, model: Model, url: str) -> None:
    model.states, model.labels = {1: "AVAILABLE", 2: "END"}, {"stable": 1}
    result = verify(url, label="stable")

    assert "failed" not in result
    assert result["checks"][0]["detail"] == "pets version 1 is AVAILABLE"
    assert "POST /v1/models/pets/labels/stable:predict" in model.seen


def test_a_label_that_must_stand_for_a_version(verify: Any, model: Model, url: str) -> None:
    model.states, model.labels = {1: "AVAILABLE", 2: "AVAILABLE"}, {"stable": 1}
    wrong = verify(url, label="stable", version=2)
    assert "label stable stands for version 1, version 2 would be right" in wrong["msg"]
    assert names(wrong) == [f"status {url}"]

    assert "failed" not in verify(url, label="stable", version=1)
    assert "POST /v1/models/pets/labels/stable:predict" in model.seen
    assert not any(line.startswith("POST") and "/versions/" in line for line in model.seen)


@pytest.mark.parametrize("labels", [{"stable": 1}, {}])
def test_waits_until_the_label_has_moved(verify: Any, model: Model, url: str, labels: dict[str, int]) -> None:
    model.states, model.labels = {1: "AVAILABLE", 2: "AVAILABLE"}, labels
    with once_asked(model, lambda: model.labels.update({"stable": 2})):
        result = verify(url, label="stable", version=2, wait=30)

    assert "failed" not in result
    assert result["checks"][0]["seconds"] >= 0.4
    assert result["checks"][0]["detail"] == "pets version 2 is AVAILABLE"


def test_a_label_of_a_version_that_is_not_loaded(verify: Any, model: Model, url: str) -> None:
    model.states, model.labels = {1: "AVAILABLE", 2: "LOADING"}, {"stable": 1}
    message = verify(url, label="stable", version=2)["msg"]
    assert "version 2 in state AVAILABLE would be right, found version 2 LOADING" in message


def test_at_most_so_many_golden_cases(verify: Any, url: str, gateway_url: str) -> None:
    result = verify(url, gateway_urls=[gateway_url], golden_cases=1)
    assert names(result)[2:] == [f"golden case-0 {url}", f"gateway golden case-0 {gateway_url}"]


def test_a_model_without_a_golden_file_where_none_is_required(verify: Any, url: str, tmp_path: Path) -> None:
    absent = str(tmp_path / "golden.json")
    assert names(verify(url, golden=absent, golden_required=False)) == [f"status {url}", f"signature {url}"]
    assert absent in verify(url, golden=absent)["msg"]


def test_endpoints_are_asked_side_by_side(verify: Any, model: Model, url: str) -> None:
    model.delays[PREDICT] = 3
    started = time.monotonic()
    result = verify(*[url] * 4, golden_cases=1)

    assert "failed" not in result
    assert names(result) == [f"status {url}", f"signature {url}", f"golden case-0 {url}"] * 4
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        ({1: "END"}, {}, "a version in state AVAILABLE would be right, found version 1 END"),
        (
            {1: "AVAILABLE", 2: "LOADING"},
            {"version": 2},
            "version 2 in state AVAILABLE would be right, found version 2",
        ),
        ({1: "AVAILABLE"}, {"version": 2}, "HTTP 404: Could not find version 2 of model pets"),
        ({1: "AVAILABLE"}, {"model": "cars"}, "HTTP 404: Could not find any versions of model cars"),
        ({1: "AVAILABLE"}, {"label": "canary"}, "HTTP 400: Unrecognized servable version label: canary"),
        ({}, {}, "found no version"),
    ],
)
def test_a_version_that_is_not_available(
    *, verify: Any, model: Model, url: str, states: dict[int, str], options: dict[str, Any], message: str
) -> None:
    model.states = states
    result = verify(url, **options)

    assert result["failed"]
    assert names(result) == [f"status {url}"]
    assert message in result["msg"]
    assert url in result["msg"]


def test_the_reason_of_a_failed_load_is_told(verify: Any, model: Model, url: str) -> None:
    model.states, model.errors = {1: "AVAILABLE", 2: "END"}, {2: "Input to reshape is a tensor with 3 values"}
    result = verify(url, version=2)

    assert "version 2 END (Input to reshape is a tensor with 3 values)" in result["msg"]
    assert result["versions"][url] == {"2": "END (Input to reshape is a tensor with 3 values)"}


def test_a_load_that_fails_is_not_waited_for(verify: Any, model: Model, url: str) -> None:
    model.states = {1: "AVAILABLE", 2: "LOADING"}

    def fail() -> None:
        model.errors[2] = "Input to reshape is a tensor with 3 values"
        model.states[2] = "END"

    started = time.monotonic()
    with once_asked(model, fail):
        result = verify(url, version=2, wait=60)

    assert "version 2 END (Input to reshape is a tensor with 3 values)" in result["msg"]
    assert time.monotonic() - started < 30


def test_an_earlier_load_that_failed_is_not_the_present_one(verify: Any, model: Model, url: str) -> None:
    model.states, model.errors = {1: "AVAILABLE", 2: "END"}, {2: "Input to reshape is a tensor with 3 values"}

    def load() -> None:
        model.states[2] = "LOADING"
        model.errors.clear()
        time.sleep(0.5)
        model.states[2] = "AVAILABLE"

    with once_asked(model, load):
        result = verify(url, version=2, wait=30)
    assert "failed" not in result


def test_an_error_that_stays_is_not_waited_for_to_the_end(
    monkeypatch: pytest.MonkeyPatch, verify: Any, model: Model, url: str
) -> None:
    monkeypatch.setattr(tf_serving_verify, "_OLD_ERROR_SECONDS", 0.5)
    model.states, model.errors = {1: "AVAILABLE", 2: "END"}, {2: "Data loss"}
    started = time.monotonic()
    assert "version 2 END (Data loss)" in verify(url, version=2, wait=60)["msg"]
    assert 0.4 < time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ({"inputs": {"picture": model_builder.INPUTS["image"]}}, "takes ['picture']"),
        ({"inputs": {"image": (model_builder.FLOAT, (-1, 4, 4, 3))}}, "the model has it as DT_FLOAT[?,4,4,3]"),
        ({"inputs": {"image": (model_builder.INT64, (-1, 2, 2, 3))}}, "the model has it as DT_INT64[?,2,2,3]"),
        ({"outputs": {"logits": model_builder.OUTPUTS["scores"]}}, "gives ['logits']"),
    ],
)
def test_a_signature_that_does_not_fit(
    *, verify: Any, model: Model, url: str, golden: Path, harm: dict[str, Any], message: str
) -> None:
    for name, value in harm.items():
        setattr(model, name, value)
    result = verify(url)

    assert names(result) == [f"status {url}", f"signature {url}"]
    assert message in result["msg"]
    assert str(golden) in result["msg"]


def test_another_version_than_asked_is_noticed(verify: Any, model: Model, url: str) -> None:
    model.states = {1: "AVAILABLE", 2: "AVAILABLE"}
    other = model.answer("GET", "/v1/models/pets/versions/2/metadata", b"")
    model.answers["/v1/models/pets/versions/1/metadata"] = (200, json.dumps(other[1]).encode())

    assert "version 2 of pets answered, not version 1" in verify(url, version=1)["msg"]


def test_the_state_of_another_version_does_not_count(verify: Any, model: Model, url: str) -> None:
    other = model.answer("GET", STATUS, b"")
    model.answers[f"{STATUS}/versions/2"] = (200, json.dumps(other[1]).encode())

    message = verify(url, version=2)["msg"]
    assert "version 2 in state AVAILABLE would be right, found version 1 AVAILABLE" in message


def test_wrong_scores_are_noticed_and_the_tolerance_counts(verify: Any, model: Model, url: str) -> None:
    model.offset = 0.01
    result = verify(url)

    assert result["failed"]
    assert names(result)[-1] == f"golden case-0 {url}"
    assert "would be right: largest difference 0.01, tolerance 0.0001" in result["msg"]
    assert "failed" not in verify(url, tolerance=0.02)
    assert verify(url, tolerance=0)["failed"]


PREDICT = "/v1/models/pets:predict"
STATUS = "/v1/models/pets"


@pytest.mark.parametrize(
    ("path", "status", "body", "message"),
    [
        (PREDICT, 200, b'{"outputs": [[NaN, 0.5]]}', "gave scores [nan, 0.5]"),
        (PREDICT, 200, b'{"outputs": [[Infinity, 0.5]]}', "largest difference inf"),
        (PREDICT, 200, b'{"outputs": [[0.5, 0.5, 0.5]]}', "gave scores in shape [1, 3], [1, 2] would be right"),
        (PREDICT, 200, b'{"outputs": [0.5, 0.5]}', "gave scores in shape [2], [1, 2] would be right"),
        (PREDICT, 200, b'{"outputs": [[0.5], [0.5, 0.5]]}', "rows of different shapes [[1], [2]]"),
        (PREDICT, 200, b'{"outputs": [["cat", "dog"]]}', "'cat' where a number would be right"),
        (PREDICT, 200, b'{"outputs": {"logits": [[1, 2]]}}', "without output scores"),
        (PREDICT, 200, b'{"predictions": [[1, 2]]}', "a prediction without outputs"),
        (PREDICT, 200, b"[]", "a prediction without outputs"),
        (PREDICT, 400, b'{"error": "input size does not match signature"}', "HTTP 400: input size does not match"),
        (PREDICT, 503, b'{"error": "The batch scheduling queue is full"}', "HTTP 503: The batch scheduling queue"),
        (PREDICT, 200, b"OK", "a body that is not JSON: OK"),
        (STATUS, 404, HTML_404, "HTTP 404 with a body that is not JSON: <HTML>"),
        (STATUS, 200, b"<html>hello</html>", "HTTP 200 with a body that is not JSON"),
        (STATUS, 200, b"", "a body that is not JSON: nothing"),
        (STATUS, 200, b"{}", "status that is not TF Serving's: {}"),
        (STATUS, 200, b"[1]", "status that is not TF Serving's: [1]"),
        (STATUS, 500, b'{"error": "boom"}', "HTTP 500: boom"),
        (f"{STATUS}/metadata", 200, b'{"model_spec": {}}', "metadata that is not TF Serving's"),
        (f"{STATUS}/metadata", 404, HTML_404, "not JSON"),
        (f"{STATUS}/metadata", 200, b'{"model_spec": {"version": "1"}, "metadata": []}', "is missing or wrong"),
    ],
)
def test_a_wrong_answer_is_told(
    *, verify: Any, model: Model, url: str, path: str, status: int, body: bytes, message: str
) -> None:
    model.answers[path] = (status, body)
    result = verify(url)

    assert result["failed"]
    assert message in result["msg"]


def test_every_endpoint_is_checked_though_one_fails(verify: Any, url: str) -> None:
    gone = f"http://127.0.0.1:{closed_port()}"
    result = verify(gone, url)

    assert "no connection" in result["msg"]
    assert [check["ok"] for check in result["checks"]] == [False, True, True, True, True]
    assert list(result["versions"]) == [url]


def test_a_server_that_never_answers(verify: Any) -> None:
    with silent_server() as address:
        started = time.monotonic()
        result = verify(f"http://{address}", timeout=0.3)

    assert "answer within 0.3 s" in result["msg"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("path", [STATUS, f"{STATUS}/metadata", PREDICT])
def test_a_slow_server(verify: Any, model: Model, url: str, path: str) -> None:
    model.delays[path] = 1
    assert "answer within 0.3 s" in verify(url, timeout=0.3)["msg"]
    assert "failed" not in verify(url)


def test_a_server_whose_answer_drips(verify: Any, model: Model, url: str) -> None:
    model.drip = 0.02
    assert "no whole answer within 0.3 s" in verify(url, timeout=0.3)["msg"]


@pytest.mark.parametrize("bad", ["127.0.0.1:8501", "nonsense", "http://", "http://127.0.0.1:notaport"])
def test_an_endpoint_that_is_not_a_url(verify: Any, bad: str) -> None:
    result = verify(bad)
    assert result["failed"]
    assert len(result["checks"]) == 1


def test_waits_until_the_version_is_available(verify: Any, model: Model, url: str) -> None:
    model.states = {1: "AVAILABLE", 2: "LOADING"}
    with once_asked(model, lambda: model.states.update({2: "AVAILABLE"})):
        result = verify(url, version=2, wait=30)

    assert "failed" not in result
    assert result["checks"][0]["seconds"] >= 0.5


def test_waits_no_longer_than_asked(verify: Any, model: Model, url: str) -> None:
    model.states = {1: "LOADING"}
    started = time.monotonic()
    assert verify(url, url, wait=4)["failed"]
    assert 2 <= time.monotonic() - started < 7.5


def test_does_not_wait_for_a_wrong_answer_to_become_right(verify: Any, model: Model, url: str) -> None:
    model.offset = 1
    started = time.monotonic()
    assert verify(url, wait=30)["failed"]
    assert time.monotonic() - started < 25


def test_grpc_round_trip(verify: Any, model: Model) -> None:
    with grpc_server(model) as address:
        result = verify(grpc_addresses=[address])
        assert names(result) == [f"grpc golden case-0 {address}", f"grpc golden case-1 {address}"]
        assert model.seen == ["grpc pets serving_default"] * 2

        model.offset = 0.01
        assert "largest difference 0.01" in verify(grpc_addresses=[address])["msg"]
        model.offset = 0
        assert "failed" not in verify(grpc_addresses=[address], label="stable", version=1)
        assert model.seen[-1] == "grpc pets serving_default stable"
        assert "NOT_FOUND: Servable not found" in verify(grpc_addresses=[address], version=3)["msg"]
        model.delays["grpc"] = 1
        assert "DEADLINE_EXCEEDED" in verify(grpc_addresses=[address], timeout=0.3)["msg"]


def test_grpc_waits_for_the_version(verify: Any, model: Model) -> None:
    model.states = {}
    with grpc_server(model) as address, once_asked(model, lambda: model.states.update({2: "AVAILABLE"})):
        result = verify(grpc_addresses=[address], version=2, wait=30)
    assert "failed" not in result


def test_grpc_that_is_not_there(verify: Any) -> None:
    assert "UNAVAILABLE" in verify(grpc_addresses=[f"127.0.0.1:{closed_port()}"])["msg"]


def test_gateway_round_trip(verify: Any, gateway: Gateway, gateway_url: str) -> None:
    result = verify(gateway_urls=[f"{gateway_url}/"])

    assert [check["ok"] for check in result["checks"]] == [True, True]
    assert gateway.seen == ["POST /models/pets/predict"] * 2
    assert result["versions"] == {}


def test_gateway_that_wants_a_key(verify: Any, gateway: Gateway, gateway_url: str) -> None:
    gateway.api_key = "open-sesame-open-sesame"
    refused = verify(gateway_urls=[gateway_url])
    assert "HTTP 401" in refused["msg"]
    assert verify(gateway_urls=[gateway_url], gateway_api_key=gateway.api_key).get("failed", False) is False


def test_gateway_whose_certificate_nobody_knows(verify: Any, gateway: Gateway, tmp_path: Path) -> None:
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=test", "-days", "1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*files)

    with http_server(gateway, tls) as secured:
        assert "certificate verify failed" in verify(gateway_urls=[secured])["msg"]
        assert gateway.seen == []
        assert "failed" not in verify(gateway_urls=[secured], gateway_validate_certs=False)


def test_all_ways_at_once(verify: Any, model: Model, url: str, gateway_url: str) -> None:
    with grpc_server(model) as address:
        result = verify(url, grpc_addresses=[address], gateway_urls=[gateway_url])
    assert len(result["checks"]) == 8
    assert all(check["ok"] for check in result["checks"])


def prediction(scores: dict[str, Any]) -> dict[str, Any]:
    return {"success": True, "predictions": [{"label": label, "score": score} for label, score in scores.items()]}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, prediction({"dog": 0.171875, "cat": 0.828125}), "gave the scores [0.828125, 0.171875]"),
        (200, prediction({"cat": 0.5}), "scores for labels ['cat'], ['cat', 'dog'] would be right"),
        (200, prediction({"cat": None}), "a prediction that is not the gateway's"),
        (200, {"success": True}, "a prediction that is not the gateway's"),
        (200, [], "a prediction that is not the gateway's"),
        (200, b"hello", "not JSON: hello"),
        (422, {"success": False, "error": {"code": "image_invalid", "message": "no image"}}, "image_invalid: no image"),
        (503, {"success": False, "error": {"code": "upstream_unavailable", "message": "down"}}, "HTTP 503: upstream_"),
        (500, b"Internal Server Error", "HTTP 500 with a body that is not JSON: Internal Server Error"),
        (307, b"", "HTTP 307 with a body that is not JSON: nothing"),
    ],
)
def test_a_gateway_that_answers_wrongly(
    *, verify: Any, gateway: Gateway, gateway_url: str, status: int, body: Any, message: str
) -> None:
    gateway.status, gateway.body = status, body
    result = verify(gateway_urls=[gateway_url])

    assert result["failed"]
    assert message in result["msg"]
    assert gateway_url in result["msg"]


def test_a_gateway_that_serves_another_version(verify: Any, gateway: Gateway, gateway_url: str) -> None:
    gateway.version = 2
    assert "version 2 of pets answered, not version 1" in verify(gateway_urls=[gateway_url], version=1)["msg"]
    assert "failed" not in verify(gateway_urls=[gateway_url], version=2)
    assert "failed" not in verify(gateway_urls=[gateway_url])
    gateway.version = None
    assert "failed" not in verify(gateway_urls=[gateway_url], version=1)


def test_what_the_gateway_check_needs(verify: Any, saved_model: Path) -> None:
    content = model_builder.golden_content()
    for case in content["cases"]:
        del case["image"]
    model_builder.write_golden(saved_model, content)
    assert "gateway_urls need labels, and a case with an image" in verify(gateway_urls=["http://127.0.0.1"])["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of endpoints, grpc_addresses and gateway_urls is required"),
        ({"grpc_addresses": ["127.0.0.1:1"], "golden": None}, "need a golden file"),
        ({"gateway_urls": ["http://127.0.0.1:1"], "golden": None}, "need a golden file"),
        (
            {"endpoints": ["http://127.0.0.1:1"], "golden": "/no/such/golden.json"},
            "/no/such/golden.json cannot be read",
        ),
        ({"endpoints": ["http://127.0.0.1:1"], "golden_cases": 0}, "golden_cases is 0, 1 or more would be right"),
    ],
)
def test_wrong_options(verify: Any, options: dict[str, Any], message: str) -> None:
    assert message in verify(**options)["msg"]


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, verify: Any, model: Model, url: str, gateway_url: str
) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    with grpc_server(model) as address:
        assert "failed" not in verify(url, grpc_addresses=[address], gateway_urls=[gateway_url])


def test_two_endpoints_are_told_apart(verify: Any, url: str) -> None:
    old = Model(offset=0.3)
    with ExitStack() as stack:
        other = stack.enter_context(http_server(old))
        result = verify(url, other)
    failed = [check["name"] for check in result["checks"] if not check["ok"]]
    assert failed == [f"golden case-0 {other}"]
    assert "1 of 7 checks failed" in result["msg"]
