"""Several images in one request."""

from __future__ import annotations

import time

import grpc
import pytest
from gateway_process import Gateway, encode_image, gateway_config, multipart, noise, plain, scores
from stub_protobuf import float_tensor
from stub_serving import DT_FLOAT, Failure, Model, red_and_green

MAX_FILE_BYTES = 4000
MAX_BATCH_BYTES = 10_000
# Colours whose scores are all different.
COLOURS = [(0, 51), (51, 102), (102, 153), (153, 204), (204, 255)]
IMAGES = [plain(*colour) for colour in COLOURS]
PATH = "/model/predict/batch/"


def expected(red: int, green: int) -> dict[str, float]:
    return pytest.approx({"red": red / 255, "green": green / 255})


@pytest.fixture(scope="module")
def batch_gateway(shared_stub):
    labels = {"labels": ["red", "green"]}
    config = gateway_config(
        shared_stub.address,
        models={"pets": {**labels, "batch_size": 2}, "single": {**labels, "batch_size": 8}, "wide": labels},
        limits={"max_batch_images": 6, "max_upload_bytes": MAX_FILE_BYTES, "max_batch_bytes": MAX_BATCH_BYTES},
    )
    gateway = Gateway(config)
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(batch_gateway, stub):
    """Two images a request for `pets`, one for `single`, as many as there are for `wide`."""
    stub.more_models = [Model("single", inputs={"image": (DT_FLOAT, (1, 6, 8, 3))}), Model("wide")]
    return batch_gateway


def results(answer) -> list:
    assert answer.status == 200, answer.body
    assert answer.json["success"] is True
    return answer.json["results"]


def faults(answer) -> list[str | None]:
    """The error code of every entry, None for a good one."""
    found = []
    for result in results(answer):
        if not result["success"]:
            assert set(result["error"]) == {"code", "message"}
        found.append(None if result["success"] else result["error"]["code"])
    return found


def images_per_call(stub) -> list[int]:
    return sorted(call.shape[0] for call in stub.calls)


# ---- answers


@pytest.mark.parametrize(
    "path", [PATH, "/model/predict/batch", "/models/pets/predict/batch", "/models/pets/predict/batch/"]
)
def test_results_come_in_the_order_sent(gateway, stub, path):
    found = results(gateway.upload_batch(IMAGES, path))
    assert [scores(result) for result in found] == [expected(*colour) for colour in COLOURS]
    assert [result["model"] for result in found] == [{"name": "pets", "version": "1", "label": None}] * 5
    for result in found:
        assert [entry["label"] for entry in result["predictions"]] == ["green", "red"]
    assert images_per_call(stub) == [1, 2, 2]


def test_order_holds_when_the_first_request_is_answered_last(gateway, stub):
    def answer(pixels):
        if pixels[0].max() < 0.3:
            time.sleep(0.5)
        found = red_and_green(pixels)
        return float_tensor(found.shape, found.ravel().tolist())

    stub.model.answer = answer
    found = results(gateway.upload_batch(IMAGES))
    assert [scores(result) for result in found] == [expected(*colour) for colour in COLOURS]


def test_same_image_gets_the_same_result_alone(gateway):
    image = encode_image(noise(size=(40, 30)), "JPEG")
    (result,) = results(gateway.upload_batch([image]))
    assert result == gateway.upload(image).json


def test_as_many_images_go_into_a_request_as_batch_size_says(gateway, stub):
    results(gateway.upload_batch(IMAGES, "/models/wide/predict/batch"))
    assert images_per_call(stub) == [5]


def test_model_that_takes_one_image_at_a_time(gateway, stub):
    found = results(gateway.upload_batch(IMAGES[:3], "/models/single/predict/batch"))
    assert [scores(result) for result in found] == [expected(*colour) for colour in COLOURS[:3]]
    assert images_per_call(stub) == [1, 1, 1]


# ---- single bad images


def test_bad_images_cost_only_their_own_results(gateway, stub):
    whole = encode_image(noise(size=(40, 30)))
    truncated = whole[: len(whole) * 2 // 3]
    too_large = IMAGES[0] + bytes(MAX_FILE_BYTES)
    answer = gateway.upload_batch([IMAGES[0], b"no image", b"", too_large, truncated, IMAGES[1]])
    assert faults(answer) == [None, "unsupported_type", "missing_file", "file_too_large", "image_truncated", None]
    assert scores(results(answer)[0]) == expected(*COLOURS[0])
    assert scores(results(answer)[5]) == expected(*COLOURS[1])
    assert str(MAX_FILE_BYTES) in results(answer)[3]["error"]["message"]
    assert sum(images_per_call(stub)) == 2


def test_nan_costs_only_its_own_result(gateway, stub):
    def answer(pixels):
        found = red_and_green(pixels)
        found[found[:, 0] == found[:, 0].max(), 1] = float("nan")
        return float_tensor(found.shape, found.ravel().tolist())

    stub.more_models[1].answer = answer
    found = gateway.upload_batch([IMAGES[0], IMAGES[4], IMAGES[1]], "/models/wide/predict/batch")
    assert faults(found) == [None, "upstream_error", None]
    assert "NaN for label 'green'" in results(found)[1]["error"]["message"]
    assert scores(results(found)[2]) == expected(*COLOURS[1])


def test_only_bad_images_are_no_reason_to_ask_the_model(gateway, stub):
    answer = gateway.upload_batch([b"no image", b"", IMAGES[0][:50]])
    assert [code is not None for code in faults(answer)] == [True] * 3
    assert stub.calls == []


# ---- requests that fail as a whole


def test_too_many_images(gateway, stub):
    assert len(results(gateway.upload_batch([IMAGES[0]] * 6))) == 6
    stub.calls.clear()
    answer = gateway.upload_batch([IMAGES[0]] * 7)
    assert answer.error == (400, "bad_request")
    assert "more than 6 'files'" in answer.message
    assert stub.calls == []


@pytest.mark.parametrize("length", ["declared", "not declared"])
def test_too_many_bytes(gateway, stub, length):
    """The limit counts the files, and a good deal of form around them."""
    image = IMAGES[0] + bytes(MAX_FILE_BYTES - len(IMAGES[0]))
    assert faults(gateway.upload_batch([image, image])) == [None, None]
    stub.calls.clear()
    body, headers = multipart(*[("files", image)] * 6, ("comment", bytes(80_000)))
    sent = body if length == "declared" else (body[at : at + 5000] for at in range(0, len(body), 5000))
    answer = gateway.request("POST", PATH, sent, headers)
    assert answer.error == (413, "file_too_large")
    assert str(MAX_BATCH_BYTES) in answer.message
    assert stub.calls == []


def test_form_without_files(gateway):
    body, headers = multipart(("file", IMAGES[0]))
    answer = gateway.request("POST", PATH, body, headers)
    assert answer.error == (422, "missing_file")
    assert "'files'" in answer.message
    assert "'file'" in answer.message


@pytest.mark.parametrize("content_type", ["image/png", "application/json"])
def test_other_bodies_than_forms(gateway, content_type):
    answer = gateway.send(IMAGES[0], content_type, PATH)
    assert answer.error == (415, "unsupported_type")
    assert repr(content_type) in answer.message


def test_unknown_model(gateway):
    answer = gateway.upload_batch(IMAGES, "/models/birds/predict/batch")
    assert answer.error == (404, "model_not_found")


@pytest.mark.parametrize("failing", [1, 3])
def test_upstream_failure_is_nobodys_result(gateway, stub, failing):
    """One failed request to TF Serving fails the batch: sent again, it may succeed."""
    stub.failures = [Failure(grpc.StatusCode.INTERNAL, "words of the server")] * failing
    answer = gateway.upload_batch(IMAGES)
    assert answer.error == (502, "upstream_error")
    assert "words of the server" in answer.message
    stub.failures = []
    assert faults(gateway.upload_batch(IMAGES)) == [None] * 5


def test_batch_of_an_answer_for_one_image(gateway, stub):
    """A model that ignores the batch dimension must not have its one row taken for all."""
    stub.more_models[1].answer = lambda _pixels: float_tensor((1, 2), [0.5, 0.5])
    answer = gateway.upload_batch(IMAGES, "/models/wide/predict/batch")
    assert answer.error == (500, "model_contract")
    assert "2 scores in the shape [1, 2] for 5 images" in answer.message
