"""The gateway's own protobuf codec against TF Serving's official messages."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from tf2x_gateway.serving import ModelSpec, PredictRequestFrame, TensorInfo, dtype_name, to_bfloat16
from tf2x_gateway.serving.messages import (
    decode_metadata_response,
    decode_predict_response,
    decode_status_response,
    encode_metadata_request,
    encode_status_request,
)
from tf2x_gateway.serving.tensors import decode_tensor, encode_tensor_parts
from tf2x_gateway.serving.wire import WireError

RANDOM = np.random.default_rng(7)
SPECS = [
    ModelSpec("pets"),
    ModelSpec("pets", signature_name="serving_default"),
    ModelSpec("pets", version=3),
    ModelSpec("pets", version=0),
    ModelSpec("pets", version=2**63 - 1),
    ModelSpec("mascotas-ñ", signature_name="s", version_label="canary"),
]


def set_spec(message: Message, spec: ModelSpec) -> None:
    message.name = spec.name
    message.signature_name = spec.signature_name
    if spec.version is not None:
        message.version.value = spec.version
    if spec.version_label is not None:
        message.version_label = spec.version_label


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.float64, tf.uint8, tf.int32, tf.int64])
@pytest.mark.parametrize("row_shape", [(2, 3, 3), (380, 380, 3)])
def test_predict_request(spec, dtype, row_shape):
    frame = PredictRequestFrame(spec, "image", dtype.as_datatype_enum, row_shape, ("scores", "other"))
    for count in (1, 3, 0, 1):
        shape = (count, *row_shape)
        values = (RANDOM.random(shape) * 255).astype(dtype.as_numpy_dtype)
        expected = predict_pb2.PredictRequest(output_filter=["scores", "other"])
        set_spec(expected.model_spec, spec)
        expected.inputs["image"].CopyFrom(
            tensor_pb2.TensorProto(
                dtype=dtype.as_datatype_enum,
                tensor_shape=tf.TensorShape(shape).as_proto(),
                tensor_content=values.tobytes(),
            )
        )
        decoded = predict_pb2.PredictRequest.FromString(frame.encode(values))
        assert decoded == expected
        assert equal(tf.make_ndarray(decoded.inputs["image"]), values)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("item", [b"", b"\x89PNG\x00\xff", bytes(300_000)], ids=len)
def test_predict_request_of_strings(batched, item):
    frame = PredictRequestFrame(SPECS[-1], "file", types_pb2.DT_STRING, (), ("scores",), batched=batched)
    for items in ([item], [item] * 3, [item, b"x"]) if batched else ([item],):
        expected = predict_pb2.PredictRequest(output_filter=["scores"])
        set_spec(expected.model_spec, SPECS[-1])
        expected.inputs["file"].CopyFrom(tf.make_tensor_proto(items if batched else item))
        assert predict_pb2.PredictRequest.FromString(frame.encode_strings(items)) == expected


def test_predict_request_of_one_row_without_batch_dimension():
    values = RANDOM.random((4, 3), dtype=np.float32)
    frame = PredictRequestFrame(SPECS[0], "row", types_pb2.DT_FLOAT, (4, 3), batched=False)
    decoded = predict_pb2.PredictRequest.FromString(frame.encode(values))
    assert equal(tf.make_ndarray(decoded.inputs["row"]), values)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_metadata_and_status_requests(spec):
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    set_spec(metadata.model_spec, spec)
    assert get_model_metadata_pb2.GetModelMetadataRequest.FromString(encode_metadata_request(spec)) == metadata
    status = get_model_status_pb2.GetModelStatusRequest()
    set_spec(status.model_spec, spec)
    assert get_model_status_pb2.GetModelStatusRequest.FromString(encode_status_request(spec)) == status


def equal(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.array_equal(found, expected)


NUMERIC = [
    tf.float32,
    tf.float64,
    tf.float16,
    tf.bfloat16,
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.complex64,
    tf.complex128,
]


def typed_values(proto: tensor_pb2.TensorProto) -> tensor_pb2.TensorProto:
    """The same tensor with its values in the field of its type, as TF Serving answers by default."""
    values = tf.make_ndarray(proto).reshape(-1)
    typed = tensor_pb2.TensorProto(dtype=proto.dtype, tensor_shape=proto.tensor_shape)
    name = tf.as_dtype(proto.dtype).name
    if name in {"float16", "bfloat16"}:
        typed.half_val.extend(values.view(np.uint16).tolist())
    elif name == "complex64":
        typed.scomplex_val.extend(values.view(np.float32).tolist())
    elif name == "complex128":
        typed.dcomplex_val.extend(values.view(np.float64).tolist())
    else:
        fields = {"float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val"}
        fields |= {"uint32": "uint32_val", "uint64": "uint64_val"}
        getattr(typed, fields.get(name, "int_val")).extend(values.tolist())
    return typed


def extreme_values(dtype: tf.DType) -> np.ndarray:
    if dtype == tf.bool:
        return np.array([True, False, True])
    if dtype.is_complex:
        return np.array([1 - 2j, 0, complex(1e-3, np.inf)], dtype=dtype.as_numpy_dtype)
    if dtype.is_integer:
        return np.array([dtype.min, 0, 1, dtype.max], dtype=dtype.as_numpy_dtype)
    return np.array([-1.5, 0.0, 1e-3, 3.0e4, np.inf], dtype=dtype.as_numpy_dtype)


def encoded_tensor(array: np.ndarray) -> tensor_pb2.TensorProto:
    return tensor_pb2.TensorProto.FromString(b"".join(encode_tensor_parts(array)))


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.name)
def test_encode_numeric_tensor(dtype):
    values = extreme_values(dtype)
    grid = np.stack([values] * 3)
    for array in (values, grid, grid.T, grid[:, ::2], grid[:0], np.asarray(values[0])):
        proto = encoded_tensor(array)
        assert proto.dtype == dtype.as_datatype_enum
        assert equal(tf.make_ndarray(proto), array)
        if dtype != tf.bfloat16:
            assert encoded_tensor(array.astype(array.dtype.newbyteorder(">"))) == proto


def test_encode_string_tensor():
    for array in (np.array([b"cat", b""]), np.array([[b"a\x00", b"\xff"]], dtype=object), np.array(b"alone")):
        assert encoded_tensor(array) == tf.make_tensor_proto(array)


def test_bfloat16_is_rounded_as_tensorflow_rounds():
    bits = RANDOM.integers(0, 2**32, 100_000, dtype=np.uint32)
    # Halfway cases, and what overflows to infinity.
    bits[:1000] = bits[:1000] & 0xFFFF0000 | 0x8000
    special = np.array([np.inf, -np.inf, 0.0, -0.0, 3.4e38], dtype=np.float32)
    values = np.concatenate([bits.view(np.float32), special])
    expected = tf.cast(values, tf.bfloat16).numpy()
    found = tf.make_ndarray(encoded_tensor(to_bfloat16(values)))
    assert found.dtype == expected.dtype
    assert np.array_equal(found.astype(np.float32), expected.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("encode", [lambda proto: proto, typed_values], ids=["tensor_content", "typed values"])
def test_decode_numeric_tensor(dtype, encode):
    values = extreme_values(dtype)
    for array in (values, values.reshape(1, -1), np.stack([values] * 3)):
        proto = encode(tf.make_tensor_proto(array, dtype=dtype))
        assert equal(decode_tensor(memoryview(proto.SerializeToString())), tf.make_ndarray(proto))


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (1,), (1, 2), (2, 3, 4), (0,), (0, 5)])
def test_decode_tensor_of_fewer_values_than_elements(dtype, shape):
    one = typed_values(tf.make_tensor_proto(extreme_values(dtype)[:1], dtype=dtype))
    one.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    if 0 in shape:
        one = tensor_pb2.TensorProto(dtype=one.dtype, tensor_shape=one.tensor_shape)
    assert equal(decode_tensor(memoryview(one.SerializeToString())), tf.make_ndarray(one))
    none = tensor_pb2.TensorProto(dtype=one.dtype, tensor_shape=one.tensor_shape)
    assert equal(decode_tensor(memoryview(none.SerializeToString())), tf.make_ndarray(none))


def test_decode_string_tensor():
    for array in ([b"cat", b"", "perro ñ".encode()], [[b"a", b"b"]], b"alone"):
        proto = tf.make_tensor_proto(array)
        assert equal(decode_tensor(memoryview(proto.SerializeToString())), tf.make_ndarray(proto))


@pytest.mark.parametrize(
    "proto",
    [
        tensor_pb2.TensorProto(dtype=types_pb2.DT_VARIANT),
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"123"),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2]),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=tf.TensorShape([None, 2]).as_proto()),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=tf.TensorShape(None).as_proto()),
    ],
    ids=["variant", "no type", "odd content", "too many values", "unknown dimension", "unknown rank"],
)
def test_tensors_that_are_none(proto):
    with pytest.raises(WireError):
        decode_tensor(memoryview(proto.SerializeToString()))


@pytest.mark.parametrize("version", [None, 0, 1, 2**40])
def test_predict_response(version):
    response = predict_pb2.PredictResponse()
    response.model_spec.name = "pets"
    if version is not None:
        response.model_spec.version.value = version
    scores, names = RANDOM.random((1, 5), dtype=np.float32), np.array([[b"a", b"b"]], dtype=object)
    response.outputs["scores"].CopyFrom(tf.make_tensor_proto(scores))
    response.outputs["names"].CopyFrom(tf.make_tensor_proto(names))
    decoded = decode_predict_response(memoryview(response.SerializeToString()))
    assert decoded.version == version
    assert set(decoded.outputs) == {"scores", "names"}
    assert equal(decoded.outputs["scores"], scores)
    assert equal(decoded.outputs["names"], names)


def test_metadata_response():
    def info(dtype: int, shape: list | None) -> meta_graph_pb2.TensorInfo:
        return meta_graph_pb2.TensorInfo(name="x:0", dtype=dtype, tensor_shape=tf.TensorShape(shape).as_proto())

    signatures = get_model_metadata_pb2.SignatureDefMap()
    default = signatures.signature_def["serving_default"]
    default.inputs["image"].CopyFrom(info(types_pb2.DT_FLOAT, [None, 380, 380, 3]))
    default.inputs["any"].CopyFrom(info(types_pb2.DT_STRING, None))
    default.outputs["scores"].CopyFrom(info(types_pb2.DT_HALF, [None, 2]))
    default.method_name = "tensorflow/serving/predict"
    signatures.signature_def["__saved_model_init_op"].outputs["op"].CopyFrom(info(types_pb2.DT_INVALID, None))
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = "pets"
    response.model_spec.version.value = 12
    response.metadata["signature_def"].Pack(signatures)

    decoded = decode_metadata_response(memoryview(response.SerializeToString()))
    assert decoded.version == 12
    assert set(decoded.signatures) == {"serving_default", "__saved_model_init_op"}
    signature = decoded.signatures["serving_default"]
    assert signature.inputs == {
        "image": TensorInfo(types_pb2.DT_FLOAT, (-1, 380, 380, 3)),
        "any": TensorInfo(types_pb2.DT_STRING, None),
    }
    assert signature.outputs == {"scores": TensorInfo(types_pb2.DT_HALF, (-1, 2))}


def test_metadata_response_without_signatures():
    with pytest.raises(WireError, match="signature_def"):
        decode_metadata_response(memoryview(b""))


def test_status_response():
    response = get_model_status_pb2.GetModelStatusResponse()
    states = get_model_status_pb2.ModelVersionStatus.State.items()
    for version, (_unused, state) in enumerate(states):
        status = response.model_version_status.add(version=version, state=state)
        status.status.error_code = version
        status.status.error_message = f"message {version}" if version else ""
    decoded = decode_status_response(memoryview(response.SerializeToString()))
    assert [(status.version, status.state) for status in decoded] == [
        (n, name) for n, (name, _unused) in enumerate(states)
    ]
    assert [status.error for status in decoded] == [f"message {n}" if n else "" for n in range(len(states))]


def test_type_names():
    for dtype in (*NUMERIC, tf.string):
        assert dtype_name(dtype.as_datatype_enum) == types_pb2.DataType.Name(dtype.as_datatype_enum)
