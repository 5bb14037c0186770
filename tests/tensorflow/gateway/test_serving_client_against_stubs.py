"""The TF Serving client against servers of the official gRPC services: one that echoes, and the stand-in."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from compat_models import export
from compat_server import CompatServer, wait_for
from google.protobuf import text_format
from google.protobuf.message import Message
from PIL import Image
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2
from tf2x_gateway import client_cli
from tf2x_gateway.serving import (
    AllVersions,
    AsyncServingClient,
    FailedPrecondition,
    InvalidArgument,
    LatestVersions,
    ModelConfig,
    ModelSpec,
    NotFound,
    ServingClient,
    ServingError,
    SpecificVersions,
    TensorInfo,
    VersionStatus,
    to_bfloat16,
)
from tf2x_gateway.serving.model_config_text import parse_model_config

PETS = ModelSpec("pets", signature_name="s", version_label="canary")
LIN = ModelSpec("lin")


class Echo(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Answers Predict with its inputs, decoded and encoded by TensorFlow, and the rest with `answer`."""

    def __init__(self) -> None:
        self.request: Message | None = None
        self.answer: Message | None = None
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.decoded: dict[str, np.ndarray] = {}

    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> Message:
        self._note(request, context)
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        response.model_spec.version.value = 7
        for name, proto in request.inputs.items():
            self.decoded[name] = tf.make_ndarray(proto)
            response.outputs[name].CopyFrom(
                tf.make_tensor_proto(self.decoded[name], dtype=proto.dtype, shape=self.decoded[name].shape)
            )
        return response

    def _note(self, request: Message, context: grpc.ServicerContext) -> Message | None:
        self.request = request
        if self.failure:
            context.abort(*self.failure)
        return self.answer

    GetModelMetadata = GetModelStatus = HandleReloadConfigRequest = _note


@pytest.fixture
def echo() -> Iterator[Echo]:
    servicer = Echo()
    server = grpc.server(ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(0).wait()


def blocking(address: str, method: str, *arguments: Any) -> Any:
    with ServingClient(address) as client:
        return getattr(client, method)(*arguments)


def asynchronous(address: str, method: str, *arguments: Any) -> Any:
    async def run() -> Any:
        async with AsyncServingClient(address) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())


Call = Callable[..., Any]


@pytest.fixture(params=[blocking, asynchronous])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a client of one kind and then of the other."""
    return request.param


# ---- against the official services


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and found.dtype == expected.dtype and np.array_equal(found, expected)


ARRAYS = [
    *(
        np.array([[0, 1], [2, 100]], dtype=kind)
        for kind in ("f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4")
    ),
    np.array([0, 2**64 - 1], dtype="u8"),
    np.array([[True, False, True]]),
    np.array([1 - 2j, 3j], dtype="c8"),
    np.array([[b"cat", b""], [b"\x00\xff", "perro ñ".encode()]], dtype=object),
    np.array(b"alone", dtype=object),
    np.float32(1.5),
    np.zeros((0, 3), dtype="f4"),
    np.zeros((0,), dtype=object),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_arrays_survive_the_way_there_and_back(echo, call, array):
    other = np.array([4, 5, 6], dtype=np.int64)
    response = call(echo.address, "predict_arrays", PETS, {"x": array, "other": other}, ["x", "other"])
    assert same(echo.decoded["x"], np.asarray(array))
    assert same(echo.decoded["other"], other)
    assert same(response.outputs["x"], np.asarray(array))
    assert response.version == 7
    assert echo.request.model_spec == spec_message()
    assert list(echo.request.output_filter) == ["x", "other"]


def spec_message() -> Message:
    return predict_pb2.PredictRequest(
        model_spec={"name": "pets", "signature_name": "s", "version_label": "canary"}
    ).model_spec


def test_bfloat16_goes_out_from_both_representations_and_comes_back_as_float32(echo, call):
    values = np.array([[1.0, -2.5, 3e38]], dtype=np.float32)
    rounded = tf.cast(values, tf.bfloat16).numpy()
    for array in (to_bfloat16(values), rounded):
        response = call(echo.address, "predict_arrays", PETS, {"x": array})
        assert echo.request.inputs["x"].dtype == types_pb2.DT_BFLOAT16
        assert same(echo.decoded["x"], rounded)
        assert same(response.outputs["x"], rounded.astype(np.float32))


def test_status(echo, call):
    echo.answer = get_model_status_pb2.GetModelStatusResponse()
    for version, state in ((1, 50), (2, 30), (3, 20)):
        status = echo.answer.model_version_status.add(version=version, state=state)
        if state == 50:
            status.status.error_code, status.status.error_message = 13, "no variables"
    assert call(echo.address, "status", PETS) == [
        VersionStatus(1, "END", "no variables"),
        VersionStatus(2, "AVAILABLE", ""),
        VersionStatus(3, "LOADING", ""),
    ]
    assert echo.request == get_model_status_pb2.GetModelStatusRequest(model_spec=spec_message())


def test_metadata(echo, call):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    image = signatures.signature_def["s"].inputs["image"]
    image.dtype = types_pb2.DT_BFLOAT16
    image.tensor_shape.CopyFrom(tf.TensorShape([None, 8, 8, 3]).as_proto())
    echo.answer = get_model_metadata_pb2.GetModelMetadataResponse()
    echo.answer.model_spec.version.value = 4
    echo.answer.metadata["signature_def"].Pack(signatures)
    metadata = call(echo.address, "metadata", PETS)
    assert metadata.version == 4
    assert metadata.signatures["s"].inputs == {"image": TensorInfo(types_pb2.DT_BFLOAT16, (-1, 8, 8, 3))}
    assert echo.request == get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec_message(), metadata_field=["signature_def"]
    )


MODELS_TEXT = """
# The models of a host.
model_config_list: {
  config {
    name: "pets"  base_path: '/models' '/pets', model_platform: "tensorflow"
    model_version_policy { specific { versions: 1; versions: 0x12C versions: [7, 8] } }
    version_labels { key: "stable" value: 1 }
    version_labels < value: 300 key: "canary \\"b\\"" >
  }
  config: [
    { name: 'birds' base_path: "/models/birds" model_platform: "tensorflow" model_version_policy: { all: {} } },
    { name: "fish" base_path: "/models/fish" model_platform: "other"
      model_version_policy { latest { num_versions: 2 } } }
  ]
}
"""
MODELS = [
    ModelConfig(
        "pets", "/models/pets", versions=SpecificVersions((1, 300, 7, 8)), labels={"stable": 1, 'canary "b"': 300}
    ),
    ModelConfig("birds", "/models/birds", versions=AllVersions()),
    ModelConfig("fish", "/models/fish", "other", LatestVersions(2)),
]


def test_reload(echo, call):
    echo.answer = model_management_pb2.ReloadConfigResponse()
    call(echo.address, "reload", MODELS)
    expected = text_format.Parse(MODELS_TEXT, model_server_config_pb2.ModelServerConfig())
    assert echo.request == model_management_pb2.ReloadConfigRequest(config=expected)


def test_model_configuration_files():
    assert parse_model_config(MODELS_TEXT) == MODELS
    assert parse_model_config("") == parse_model_config("model_config_list {}") == []


def test_errors_have_the_servers_own_text(echo, call):
    for code, kind in ((grpc.StatusCode.NOT_FOUND, NotFound), (grpc.StatusCode.PERMISSION_DENIED, ServingError)):
        echo.failure = (code, "Servable not found for request: Latest(ñ)")
        for method, *arguments in (("predict_arrays", PETS, {}), ("status", PETS), ("metadata", PETS), ("reload", [])):
            with pytest.raises(kind) as caught:
                call(echo.address, method, *arguments)
            assert (caught.value.code, caught.value.details) == (code.name, echo.failure[1])


# ---- against the stand-in, which runs models


class Kinds(tf.Module):
    """Types that the stand-in's own test models leave out, and a classifier of images."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 6, 3], tf.float32, name="image")])
    def colours(self, image):
        return {"scores": tf.reduce_mean(image, axis=[1, 2])}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float16, name="half"),
            tf.TensorSpec([None], tf.bfloat16, name="bfloat16"),
            tf.TensorSpec([None], tf.uint8, name="byte"),
        ]
    )
    def double(self, half, bfloat16, byte):
        return {"half": half * 2, "bfloat16": bfloat16 * 2, "byte": byte * 2}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="file")])
    def size(self, file):
        return {"scores": tf.cast(tf.strings.length(file), tf.int64)[tf.newaxis]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model `lin`, versions 1 and 2, and model `pets`, version 1."""
    root = tmp_path_factory.mktemp("models")
    for version, factor in ((1, 2), (2, 3)):
        export(root / "lin" / str(version), factor)
    module = Kinds()
    signatures = {"serving_default": module.colours, "double": module.double, "size": module.size}
    tf.saved_model.save(module, str(root / "pets" / "1"), signatures=signatures)
    return root


def models_text(models: Path, *names: str) -> str:
    configs = "".join(
        f"config {{ name: '{name}' base_path: '{models / name}' model_platform: 'tensorflow' "
        "model_version_policy { all {} } version_labels { key: 'stable' value: 1 } }"
        for name in names
    )
    return f"model_config_list {{ {configs} }}"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[CompatServer]:
    (models / "models.config").write_text(models_text(models, "lin", "pets"))
    flags = [
        f"--model_config_file={models / 'models.config'}",
        "--allow_version_labels_for_unavailable_models",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=1",
    ]
    with CompatServer(models / "log", *flags) as running:
        # The port opens with the first version of each.
        wait_for(lambda: running.states("lin") == {1: "AVAILABLE", 2: "AVAILABLE"}, what="both versions")
        yield running


@pytest.fixture
def address(server: CompatServer) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    "spec, expected, version",
    [(LIN, [4, 7], 2), (ModelSpec("lin", version=1), [3, 5], 1), (ModelSpec("lin", version_label="stable"), [3, 5], 1)],
)
def test_predictions_of_a_running_model(address, call, spec, expected, version):
    response = call(address, "predict_arrays", spec, {"x": np.array([1, 2], np.float32)})
    assert response.outputs["y"].tolist() == expected
    assert response.version == version


def test_types_of_a_running_model(address, call):
    def ask(model: str, signature: str, **inputs: np.ndarray) -> dict[str, list]:
        response = call(address, "predict_arrays", ModelSpec(model, signature), inputs)
        return {name: array.tolist() for name, array in response.outputs.items()}

    assert ask("lin", "negate", flag=np.array([True, False])) == {"not": [False, True]}
    assert ask("lin", "integers", n=np.array([[1, -2]], np.int32)) == {"n": [[1, -2]]}
    assert ask("lin", "strings", data=np.array([b"a\x00b", b""], dtype=object))["twice"] == [b"a\x00ba\x00b", b""]
    values = np.array([1.5, -2.0], np.float32)
    doubled = ask(
        "pets", "double", half=values.astype("f2"), bfloat16=to_bfloat16(values), byte=np.array([1, 2], np.uint8)
    )
    assert doubled == {"half": [3, -4], "bfloat16": [3, -4], "byte": [2, 4]}


def test_outputs_are_those_asked_for(address, call):
    inputs = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.int64)}
    spec = ModelSpec("lin", "two")
    assert set(call(address, "predict_arrays", spec, inputs).outputs) == {"sum", "b"}
    assert set(call(address, "predict_arrays", spec, inputs, ["b"]).outputs) == {"b"}


def test_metadata_and_status_of_a_running_model(address, call):
    metadata = call(address, "metadata", LIN)
    assert metadata.version == 2
    assert metadata.signatures["serving_default"].inputs == {"x": TensorInfo(types_pb2.DT_FLOAT, (-1,))}
    assert metadata.signatures["negate"].outputs == {"not": TensorInfo(types_pb2.DT_BOOL, (-1,))}
    statuses = call(address, "status", LIN)
    assert {(status.version, status.state) for status in statuses} == {(1, "AVAILABLE"), (2, "AVAILABLE")}


X = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    "spec, inputs, error",
    [
        (ModelSpec("birds"), {"x": X}, (NotFound, "Servable not found for request: Latest(birds)")),
        (ModelSpec("lin", version=9), {"x": X}, (NotFound, "Specific(lin, 9)")),
        (ModelSpec("lin", "nope"), {"x": X}, (FailedPrecondition, '"nope" not found')),
        (LIN, {"z": X}, (InvalidArgument, "Missing but required: {x}")),
        (LIN, {"x": X.astype(np.float64)}, (InvalidArgument, "double")),
    ],
)
def test_refusals_of_a_running_server(address, call, spec, inputs, error):
    kind, text = error
    with pytest.raises(kind) as caught:
        call(address, "predict_arrays", spec, inputs)
    assert text in caught.value.details


def test_reload_of_a_running_server(models, tmp_path, call):
    for name in ("lin", "pets"):
        shutil.copytree(models / name, tmp_path / name)
    config = tmp_path / "models.config"
    config.write_text(models_text(tmp_path, "lin"))
    flags = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models"]
    with CompatServer(tmp_path / "log", *flags) as running:
        own = f"127.0.0.1:{running.port}"
        call(
            own,
            "reload",
            [
                ModelConfig("lin", str(tmp_path / "lin"), versions=SpecificVersions([1]), labels={"one": 1}),
                ModelConfig("pets", str(tmp_path / "pets")),
            ],
        )
        # Either may still have been loading.
        wait_for(lambda: running.states("lin") == {1: "AVAILABLE", 2: "END"}, what="version 1 alone")
        assert {s.version: s.state for s in call(own, "status", LIN)} == {1: "AVAILABLE", 2: "END"}
        assert call(own, "status", ModelSpec("pets")) == [VersionStatus(1, "AVAILABLE", "")]
        response = call(own, "predict_arrays", ModelSpec("lin", version_label="one"), {"x": np.ones(1, "f4")})
        assert response.outputs["y"].tolist() == [3]
        with pytest.raises(ServingError):
            call(own, "reload", [ModelConfig("lin", "relative/path")])


# ---- the command line in front of the stand-in


def run(capsys: pytest.CaptureFixture[str], address: str, command: str, *arguments: object) -> tuple[int, str, str]:
    status = client_cli.main([command, "--address", address, *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Six by four pixels, all (255, 51, 0)."""
    path = tmp_path / "red.png"
    Image.new("RGB", (6, 4), (255, 51, 0)).save(path)
    return path


def test_command_predict(address, capsys, image):
    status, out, err = run(capsys, address, "predict", image)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["IMAGE", "INDEX", "SCORE", "VERSION"],
        [str(image), "0", "1", "1"],
        [str(image), "1", "0.2", "1"],
        [str(image), "2", "0", "1"],
    ]
    status, out, _err = run(capsys, address, "predict", "--signature-name=size", "--json", image, "--label=stable")
    assert status == 0
    (result,) = json.loads(out)
    assert result["predictions"] == [{"index": 0, "score": image.stat().st_size}]
    assert result["model"] == {"name": "pets", "version": "1"}


def test_command_status_and_metadata(address, capsys):
    status, out, _err = run(capsys, address, "status", "--model=lin")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["VERSION", "STATE", "ERROR"],
        ["2", "AVAILABLE"],
        ["1", "AVAILABLE"],
    ]
    status, out, _err = run(capsys, address, "metadata", "--json", "--version=1")
    assert status == 0
    document = json.loads(out)
    assert document["model"] == {"name": "pets", "version": "1"}
    assert document["signatures"]["double"]["inputs"]["bfloat16"] == {"dtype": "DT_BFLOAT16", "shape": [-1]}


def test_command_errors_are_the_servers(address, capsys):
    for command in ("predict", "metadata"):
        files = [__file__] if command == "predict" else []
        status, out, err = run(capsys, address, command, "--model=birds", *files)
        assert (status, out) == (1, "")
        assert "NOT_FOUND: Servable not found for request: Latest(birds)" in err


def test_command_reload(models, tmp_path, capsys):
    file = tmp_path / "models.config"
    file.write_text(models_text(models, "lin"))
    flags = [f"--model_config_file={file}", "--allow_version_labels_for_unavailable_models"]
    with CompatServer(tmp_path / "log", *flags) as running:
        wanted = tmp_path / "wanted.config"
        wanted.write_text(models_text(models, "pets"))
        status, out, _err = run(capsys, f"127.0.0.1:{running.port}", "reload", wanted)
        assert (status, out) == (0, "now served: pets\n")
        assert running.states("pets") == {1: "AVAILABLE"}
