"""The collection reads and writes TensorFlow's messages by itself; here the official code says whether rightly."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from zlib import compress

import numpy as np
import pytest
import tensorflow as tf
from ansible_collections.tf2x.serving.plugins.module_utils import (
    _golden,
    _predict,
    _saved_model,
    _tensor_bundle,
    _warmup,
)
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import Tensor
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

NUMERIC = [
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bool",
]


class Model(tf.Module):
    """Scores of the mean brightness of an image of 4x4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.random.stateless_normal([48, 2], seed=[1, 2]))
        self.table = tf.Variable(tf.zeros([1000], tf.int64))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32, name="image")])
    def serve(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.nn.softmax(tf.reshape(image, [-1, 48]) @ self.weights)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string, name="text"), tf.TensorSpec([], tf.int64, name="n")])
    def other(self, text: tf.Tensor, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": text, "n": n + self.table[0]}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).random([1, 4, 4, 3], dtype=np.float32)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    """A model saved by TensorFlow, with a golden file."""
    model = Model()
    path = tmp_path_factory.mktemp("model") / "1"
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.serve, "other": model.other})
    scores = model.serve(image)["scores"].numpy()
    packed = b64encode(compress(image.astype("<f4").tobytes())).decode()
    golden = {
        "format": 1,
        "signature_name": "serving_default",
        "tolerance": 1e-4,
        "labels": ["cat", "dog"],
        "cases": [
            {
                "name": "noise",
                "inputs": {"image": {"dtype": "DT_FLOAT", "shape": list(image.shape), "zlib_base64": packed}},
                "outputs": {
                    "scores": {"dtype": "DT_FLOAT", "shape": list(scores.shape), "values": scores.ravel().tolist()}
                },
            }
        ],
    }
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "golden.json").write_text(json.dumps(golden))
    return path


def test_a_model_that_tensorflow_saved_is_read(saved_model: Path) -> None:
    found = _saved_model.read(saved_model).as_dict()

    assert found["tags"] == ["serve"]
    assert found["tensorflow_version"] == tf.__version__
    assert found["golden"]["cases"] == ["noise"]
    message = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    wanted = {
        name: {
            "name": name,
            "method_name": signature.method_name,
            "inputs": _specs(signature.inputs),
            "outputs": _specs(signature.outputs),
        }
        for name, signature in message.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }
    assert found["signatures"] == wanted
    assert sorted(wanted) == ["other", "serving_default"]
    assert wanted["other"]["inputs"]["text"] == {"dtype": "DT_STRING", "shape": None}


def test_a_model_without_variables_is_read(tmp_path: Path) -> None:
    module = tf.Module()
    double = tf.function(lambda x: {"y": x * 2}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures=double)
    (tmp_path / "variables" / "variables.index").unlink()
    for data in (tmp_path / "variables").iterdir():
        data.unlink()
    assert sorted(_saved_model.read(tmp_path).signatures) == ["serving_default"]


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_model_that_is_cut_off_is_noticed(saved_model: Path, file: str) -> None:
    path = saved_model / file
    whole = path.read_bytes()
    try:
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(_saved_model.SavedModelError):
                _saved_model.read(saved_model)
    finally:
        path.write_bytes(whole)
    _saved_model.read(saved_model)


def test_the_index_tells_the_size_of_each_data_file(tmp_path: Path) -> None:
    """A checkpoint with several data files and enough tensors for several blocks of the index."""
    parts = []
    for number in range(3):
        prefix = str(tmp_path / f"part{number}")
        names = [f"layer/{number}/some/long/name/of/a/variable/{index}" for index in range(300)]
        tensors = [np.full([index % 7 + 1], index, np.float32) for index in range(300)]
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * 300, tensors=tensors)
        parts.append(prefix)
    merged = str(tmp_path / "merged")
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=merged, delete_old_dirs=False)

    found = _tensor_bundle.shard_sizes(Path(f"{merged}.index").read_bytes())
    assert found == [Path(f"{merged}.data-{number:05d}-of-00003").stat().st_size for number in range(3)]


def test_the_warmup_file_is_what_tensorflow_reads(saved_model: Path, tmp_path: Path, image: np.ndarray) -> None:
    golden = _golden.load(saved_model / "assets.extra" / "golden.json")
    content = _warmup.warmup_file(golden, "pets")
    file = tmp_path / "warmup"
    file.write_bytes(content)
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]

    wanted = predict_pb2.PredictRequest()
    wanted.model_spec.name = "pets"
    wanted.model_spec.signature_name = "serving_default"
    wanted.inputs["image"].CopyFrom(tf.make_tensor_proto(image))
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert [log.predict_log.request for log in logs] == [wanted]
    assert list(_warmup.records(content)) == records


def test_tfrecords_that_tensorflow_wrote_are_read(tmp_path: Path) -> None:
    file = str(tmp_path / "records")
    written = [b"", b"x", bytes(range(256)) * 20]
    with tf.io.TFRecordWriter(file) as writer:
        for record in written:
            writer.write(record)
    assert list(_warmup.records(Path(file).read_bytes())) == written


@pytest.mark.parametrize(("version", "label"), [(None, None), (7, None), (None, "stable")])
def test_a_request_is_the_official_one(image: np.ndarray, version: int | None, label: str | None) -> None:
    wanted = predict_pb2.PredictRequest()
    wanted.model_spec.name = "pets"
    wanted.model_spec.signature_name = "serving_default"
    if version is not None:
        wanted.model_spec.version.value = version
    if label is not None:
        wanted.model_spec.version_label = label
    wanted.inputs["image"].CopyFrom(tf.make_tensor_proto(image))
    # A scalar's value may be written either way; the collection always writes `tensor_content`.
    number = wanted.inputs["n"]
    number.CopyFrom(tf.make_tensor_proto(np.int64(-5)))
    number.ClearField("int64_val")
    number.tensor_content = np.int64(-5).tobytes()

    inputs = {
        "image": Tensor("DT_FLOAT", image.shape, image.tobytes()),
        "n": Tensor.from_values("DT_INT64", [], [-5]),
    }
    request = _predict.encode_request("pets", "serving_default", inputs, version, label)
    assert predict_pb2.PredictRequest.FromString(request) == wanted


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("compact", [False, True])
def test_a_tensor_is_read_however_it_is_written(dtype: str, compact: bool) -> None:
    """Both ways: `tensor_content`, and values one by one (with a repeated end left out)."""
    values = np.array([[0, 1, 3], [5, 5, 5]])
    array = (values if dtype.startswith(("u", "b")) else values - 3).astype(dtype)
    official = tf.make_tensor_proto(array)
    if compact:
        official.ClearField("tensor_content")
        field = {"float32": "float_val", "float64": "double_val", "float16": "half_val", "bool": "bool_val"}.get(dtype)
        field = field or {"int64": "int64_val", "uint32": "uint32_val", "uint64": "uint64_val"}.get(dtype, "int_val")
        official.ClearField(field)
        flat = array.ravel()[:4]
        getattr(official, field).extend((flat.view(np.uint16) if dtype == "float16" else flat).tolist())
        assert np.array_equal(tf.make_ndarray(official), array)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = "pets"
    response.outputs["scores"].CopyFrom(official)
    response.outputs["empty"].CopyFrom(tf.make_tensor_proto(np.zeros([0, 2], dtype)))

    found = _predict.decode_response(response.SerializeToString())
    assert found["scores"].shape == (2, 3)
    assert list(found["scores"].values()) == array.ravel().tolist()
    assert found["scores"].dtype == types_pb2.DataType.Name(official.dtype)
    assert found["empty"].values() == ()
    again = tensor_pb2.TensorProto.FromString(found["scores"].to_proto())
    assert np.array_equal(tf.make_ndarray(again), array)


def _specs(tensors: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, object]:
    return {
        name: {
            "dtype": types_pb2.DataType.Name(info.dtype),
            "shape": None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim],
        }
        for name, info in tensors.items()
    }
