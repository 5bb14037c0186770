"""The gRPC interface, called with the official stubs."""

from __future__ import annotations

import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from compat_server import (
    CompatServer,
    linear_request,
    request_for,
    run_to_end,
    wait_for,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def failure(call, *arguments, **keywords) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **{"timeout": 10, **keywords})
    return caught.value


def test_predict_answers_with_the_latest_version_and_says_which(server: CompatServer) -> None:
    response = server.prediction.Predict(linear_request("lin", 1.0, 2.0), timeout=10)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [4.0, 7.0]
    assert (response.model_spec.name, response.model_spec.version.value) == ("lin", 2)
    assert response.model_spec.signature_name == "serving_default"


def test_outputs_come_in_typed_fields(server: CompatServer) -> None:
    output = server.prediction.Predict(linear_request("lin", 1.0), timeout=10).outputs["y"]
    assert list(output.float_val) == [4.0]
    assert output.tensor_content == b""


@pytest.mark.parametrize("version, expected", [(1, 3.0), (2, 4.0)])
def test_a_version_can_be_asked_for_by_number(server: CompatServer, version: int, expected: float) -> None:
    request = linear_request("lin", 1.0)
    request.model_spec.version.value = version
    assert server.predict(request)["y"].tolist() == [expected]


def test_a_version_can_be_asked_for_by_label(server: CompatServer) -> None:
    request = linear_request("lin", 1.0)
    request.model_spec.version_label = "stable"
    response = server.prediction.Predict(request, timeout=10)
    assert response.model_spec.version.value == 1
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.0]


def tensor(dtype: int, shape: list[int], **values) -> tf.make_tensor_proto:
    proto = tf.make_tensor_proto(0.0)
    proto.Clear()
    proto.dtype = dtype
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    for field, value in values.items():
        if isinstance(value, bytes):
            setattr(proto, field, value)
        else:
            getattr(proto, field).extend(value)
    return proto


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"float_val": [1.0, 2.0, 3.0]}, [4.0, 7.0, 10.0]),
        ({"tensor_content": np.array([1, 2, 3], "<f4").tobytes()}, [4.0, 7.0, 10.0]),
        ({"float_val": [5.0]}, [16.0, 16.0, 16.0]),
        ({"float_val": [1.0, 2.0]}, [4.0, 7.0, 7.0]),
        ({}, [1.0, 1.0, 1.0]),
    ],
    ids=["typed", "content", "one-value-for-all", "last-value-repeated", "no-value-is-zero"],
)
def test_both_encodings_of_a_tensor_are_understood(server: CompatServer, values: dict, expected: list) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lin"
    request.inputs["x"].CopyFrom(tensor(tf.float32.as_datatype_enum, [3], **values))
    assert server.predict(request)["y"].tolist() == expected


@pytest.mark.parametrize(
    "proto, text",
    [
        (tensor(1, [3], tensor_content=b"1234"), "tensor_content has 4 bytes"),
        (tensor(1, [-1], float_val=[1.0]), "negative size"),
        (tensor(20, [1]), "resource"),
    ],
    ids=["short-content", "negative-size", "resource"],
)
def test_a_message_that_is_no_tensor_is_refused(server: CompatServer, proto: object, text: str) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lin"
    request.inputs["x"].CopyFrom(proto)
    error = failure(server.prediction.Predict, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("tensor parsing error: x")
    assert text in error.details()


def test_strings_and_their_bytes_survive(server: CompatServer) -> None:
    values = [b"", b"\x00\xff", "ñandú".encode(), b"long" * 100]
    outputs = server.predict(request_for("lin", "strings", data=np.array(values, dtype=object)))
    assert outputs["twice"].tolist() == [value * 2 for value in values]


def test_one_string_may_stand_for_all(server: CompatServer) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lin"
    request.model_spec.signature_name = "strings"
    request.inputs["data"].CopyFrom(tensor(tf.string.as_datatype_enum, [3], string_val=[b"ab"]))
    assert server.predict(request)["twice"].tolist() == [b"abab"] * 3


def test_several_inputs_and_a_filtered_output(server: CompatServer) -> None:
    request = request_for("lin", "two", a=np.array([1.5], np.float32), b=np.array([2**53 + 1], np.int64))
    outputs = server.predict(request)
    assert set(outputs) == {"sum", "b"}
    assert outputs["b"].tolist() == [2**53 + 1]
    request.output_filter.append("b")
    assert set(server.predict(request)) == {"b"}


def with_filter(*aliases: str) -> predict_pb2.PredictRequest:
    request = linear_request("lin", 1.0)
    request.output_filter.extend(aliases)
    return request


def with_version(version: int) -> predict_pb2.PredictRequest:
    request = linear_request("lin", 1.0)
    request.model_spec.version.value = version
    return request


def with_label(label: str) -> predict_pb2.PredictRequest:
    request = linear_request("lin", 1.0)
    request.model_spec.version_label = label
    return request


X = np.array([1.0], np.float32)


@pytest.mark.parametrize(
    "request_message, code, details",
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request_for("", x=X), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (request_for("no", x=X), "NOT_FOUND", "Servable not found for request: Latest(no)"),
        (with_version(9), "NOT_FOUND", "Servable not found for request: Specific(lin, 9)"),
        (with_label("x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (request_for("lin", "x", x=X), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            request_for("lin", "two", a=X),
            "INVALID_ARGUMENT",
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
            "Missing but required: {b}.",
        ),
        (
            request_for("lin", x=X, z=X),
            "INVALID_ARGUMENT",
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {}.",
        ),
        (
            with_filter("z"),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        ),
        (with_filter("y", "y"), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
    ],
)
def test_predict_errors(server: CompatServer, request_message: object, code: str, details: str) -> None:
    error = failure(server.prediction.Predict, request_message)
    assert (error.code().name, error.details()) == (code, details)


def test_a_wrong_name_or_type_of_input_is_an_invalid_argument(server: CompatServer) -> None:
    wrong_name = failure(server.prediction.Predict, request_for("lin", z=X))
    assert wrong_name.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Sent extra: {z}. Missing but required: {x}." in wrong_name.details()
    wrong_type = failure(server.prediction.Predict, request_for("lin", x=np.array([1], np.int64)))
    assert wrong_type.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "float" in wrong_type.details()


def test_a_message_larger_than_grpcs_default_limit_is_served(server: CompatServer) -> None:
    image = np.full((3, 380, 380, 3), 0.25, np.float32)
    assert image.nbytes > 4 * 2**20
    outputs = server.predict(request_for("lin", "brightness", image=image))
    assert outputs["mean"] == pytest.approx([0.25] * 3)


def test_status_lists_the_versions_the_highest_first(server: CompatServer) -> None:
    assert list(server.states("lin").items()) == [(2, "AVAILABLE"), (1, "AVAILABLE")]


def test_status_of_one_version_and_of_unknown_ones(server: CompatServer) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    assert failure(server.model.GetModelStatus, request).details() == "Missing ModelSpec"
    request.model_spec.name = "lin"
    request.model_spec.version.value = 1
    (status,) = server.model.GetModelStatus(request, timeout=10).model_version_status
    assert (status.version, status.status.error_code, status.status.error_message) == (1, 0, "")
    request.model_spec.version.value = 7
    error = failure(server.model.GetModelStatus, request)
    assert (error.code().name, error.details()) == ("NOT_FOUND", "Could not find version 7 of model lin")
    request.model_spec.Clear()
    request.model_spec.name = "no"
    error = failure(server.model.GetModelStatus, request)
    assert (error.code().name, error.details()) == ("NOT_FOUND", "Could not find any versions of model no")


def test_metadata_holds_the_signatures(server: CompatServer) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "lin"
    request.model_spec.version_label = "stable"
    assert "at least one metadata_field" in failure(server.prediction.GetModelMetadata, request).details()
    request.metadata_field.append("signature_def")
    response = server.prediction.GetModelMetadata(request, timeout=10)
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    info = signatures.signature_def["brightness"].inputs["image"]
    assert info.dtype == tf.float32.as_datatype_enum
    assert [dim.size for dim in info.tensor_shape.dim] == [-1, 380, 380, 3]
    request.metadata_field.append("other")
    assert failure(server.prediction.GetModelMetadata, request).details() == "Metadata field other is not supported"


def test_what_is_not_implemented_says_so(server: CompatServer) -> None:
    calls = (
        (server.prediction.Classify, classification_pb2.ClassificationRequest()),
        (server.prediction.Regress, regression_pb2.RegressionRequest()),
        (server.prediction.MultiInference, inference_pb2.MultiInferenceRequest()),
    )
    for call, request in calls:
        assert failure(call, request).code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_health_service_is_there_when_asked_for(server: CompatServer) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", "PredictionService", "ModelService"):
        response = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    error = failure(stub.Check, health_pb2.HealthCheckRequest(service="pets"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_a_deadline_ends_the_work_and_not_only_the_wait(server: CompatServer) -> None:
    counted = {"model_name": "lin", "status": "DEADLINE_EXCEEDED"}
    before = server.metric(":tensorflow:serving:request_count", **counted)
    started = time.monotonic()
    endless = request_for("lin", "count", steps=np.array([1e15], np.float32))
    error = failure(server.prediction.Predict, endless, timeout=0.5)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 20
    wait_for(
        lambda: server.metric(":tensorflow:serving:request_count", **counted) == before + 1,
        what="the server to end the abandoned call",
    )


def test_options_of_the_channel_and_of_the_answers(start, publish, tmp_path) -> None:
    publish(tmp_path / "m", 1, k=2)
    socket_path = tmp_path / "grpc.sock"
    server = start(
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        "--grpc_channel_arguments=grpc.max_receive_message_length=2000,grpc.primary_user_agent=x",
        "--enable_serialization_as_tensor_content",
        f"--grpc_socket_path={socket_path}",
    )
    output = server.prediction.Predict(linear_request("m", 1.0, 2.0), timeout=10).outputs["y"]
    assert list(output.float_val) == []
    assert tf.make_ndarray(output).tolist() == [3.0, 5.0]
    # Strings as content are TensorFlow's own format; the server reads what it writes.
    strings = request_for("m", "strings", data=np.array([b"a", b"b" * 200], dtype=object))
    strings.inputs["data"].CopyFrom(server.prediction.Predict(strings, timeout=10).outputs["twice"])
    assert strings.inputs["data"].tensor_content == b"\x02\x90\x03" + b"aa" + b"b" * 400
    output = server.prediction.Predict(strings, timeout=10).outputs["twice"]
    assert output.tensor_content == b"\x04\xa0\x06" + b"aaaa" + b"b" * 800
    too_large = failure(server.prediction.Predict, linear_request("m", *range(1000)))
    assert too_large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    stub = health_pb2_grpc.HealthStub(server.channel)
    assert failure(stub.Check, health_pb2.HealthCheckRequest()).code() is grpc.StatusCode.UNIMPLEMENTED
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        grpc.channel_ready_future(channel).result(10)
    status, output = run_to_end(
        f"--port={server.port}", "--model_name=m", f"--model_base_path={tmp_path / 'm'}", seconds=30
    )
    assert status == 255
    assert f"Cannot listen for gRPC at 0.0.0.0:{server.port}" in output
