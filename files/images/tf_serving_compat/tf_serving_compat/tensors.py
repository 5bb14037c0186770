"""Tensors in memory, and their conversion from and to `tensorflow.TensorProto`."""

from __future__ import annotations

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tf_serving_compat.errors import invalid_argument
from tf_serving_compat.protos import tensor_pb2, types_pb2

STRING = types_pb2.DT_STRING

# DataType -> (numpy dtype, TensorProto field of its values). The 16-bit floats travel as bit patterns.
_DTYPES = {
    types_pb2.DT_FLOAT: (np.float32, "float_val"),
    types_pb2.DT_DOUBLE: (np.float64, "double_val"),
    types_pb2.DT_INT32: (np.int32, "int_val"),
    types_pb2.DT_UINT8: (np.uint8, "int_val"),
    types_pb2.DT_INT16: (np.int16, "int_val"),
    types_pb2.DT_INT8: (np.int8, "int_val"),
    types_pb2.DT_UINT16: (np.uint16, "int_val"),
    types_pb2.DT_QINT8: (np.int8, "int_val"),
    types_pb2.DT_QUINT8: (np.uint8, "int_val"),
    types_pb2.DT_QINT32: (np.int32, "int_val"),
    types_pb2.DT_QINT16: (np.int16, "int_val"),
    types_pb2.DT_QUINT16: (np.uint16, "int_val"),
    types_pb2.DT_STRING: (np.object_, "string_val"),
    types_pb2.DT_COMPLEX64: (np.complex64, "scomplex_val"),
    types_pb2.DT_COMPLEX128: (np.complex128, "dcomplex_val"),
    types_pb2.DT_INT64: (np.int64, "int64_val"),
    types_pb2.DT_BOOL: (np.bool_, "bool_val"),
    types_pb2.DT_BFLOAT16: (ml_dtypes.bfloat16, "half_val"),
    types_pb2.DT_HALF: (np.float16, "half_val"),
    types_pb2.DT_UINT32: (np.uint32, "uint32_val"),
    types_pb2.DT_UINT64: (np.uint64, "uint64_val"),
}


class Tensor(NamedTuple):
    """A DataType number and an array; strings are an object array of bytes."""

    dtype: int
    array: np.ndarray


def dtype_name(dtype: int) -> str:
    """TensorFlow's short name of a DataType: `float`, `int64`, `string` ..."""
    try:
        return types_pb2.DataType.Name(dtype)[len("DT_") :].lower()
    except ValueError:
        return f"unknown dtype enum ({dtype})"


def numpy_dtype(dtype: int) -> np.dtype:
    """The array dtype of a DataType; ServingError INVALID_ARGUMENT for one that cannot be served."""
    if dtype not in _DTYPES:
        raise invalid_argument(f"Tensors of type {dtype_name(dtype)} are not supported")
    return np.dtype(_DTYPES[dtype][0])


def string_array(values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """An object array of bytes."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def from_proto(proto: tensor_pb2.TensorProto) -> Tensor:
    """A tensor from either encoding, `tensor_content` or the typed fields.

    As in TensorFlow the last typed value stands for all that are left out, and none at all means zeros.
    Raises ServingError INVALID_ARGUMENT for a message that describes no tensor.
    """
    dtype = numpy_dtype(proto.dtype)
    if proto.tensor_shape.unknown_rank:
        raise invalid_argument("the shape of a value cannot have an unknown rank")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise invalid_argument(f"the shape of a value cannot have a negative size: {list(shape)}")
    count = math.prod(shape)
    if proto.dtype == STRING:
        values = (
            _decode_string_list(proto.tensor_content, count) if proto.tensor_content else list(proto.string_val[:count])
        )
        values += [values[-1] if values else b""] * (count - len(values))
        return Tensor(proto.dtype, string_array(values, shape))
    if proto.tensor_content:
        if len(proto.tensor_content) != count * dtype.itemsize:
            raise invalid_argument(
                f"tensor_content has {len(proto.tensor_content)} bytes, "
                f"shape {list(shape)} of {dtype_name(proto.dtype)} needs {count * dtype.itemsize}"
            )
        return Tensor(proto.dtype, np.frombuffer(proto.tensor_content, dtype=dtype).reshape(shape))
    return Tensor(proto.dtype, _typed_values(proto, dtype, count).reshape(shape))


def _typed_values(proto: tensor_pb2.TensorProto, dtype: np.dtype, count: int) -> np.ndarray:
    field = getattr(proto, _DTYPES[proto.dtype][1])
    try:
        if dtype.kind == "c":
            values = np.array(field, dtype=np.float64).view(np.complex128).astype(dtype)
        elif proto.dtype in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
            values = np.array(field, dtype=np.uint16).view(dtype)
        else:
            values = np.array(field, dtype=dtype)
    except (ValueError, OverflowError) as error:
        raise invalid_argument(f"the values do not fit {dtype_name(proto.dtype)}: {error}") from error
    if len(values) >= count:
        return values[:count]
    filled = np.zeros(count, dtype=dtype) if len(values) == 0 else np.full(count, values[-1], dtype=dtype)
    filled[: len(values)] = values
    return filled


def to_proto(tensor: Tensor, as_content: bool = False) -> tensor_pb2.TensorProto:
    """A message with typed fields, or with `tensor_content`."""
    proto = tensor_pb2.TensorProto(dtype=tensor.dtype)
    array = tensor.array
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = array.reshape(-1)
    if as_content:
        proto.tensor_content = _encode_string_list(flat) if tensor.dtype == STRING else flat.tobytes()
        return proto
    field = getattr(proto, _DTYPES[tensor.dtype][1])
    if array.dtype.kind == "c":
        parts = flat.astype(np.complex128).view(np.float64)
        field.extend(parts.tolist())
    elif tensor.dtype in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
        field.extend(flat.view(np.uint16).tolist())
    else:
        field.extend(flat.tolist())
    return proto


def _decode_string_list(content: bytes, count: int) -> list[bytes]:
    lengths, position = [], 0
    try:
        for _unused in range(count):
            length = shift = 0
            while True:
                byte = content[position]
                position += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            lengths.append(length)
    except IndexError as error:
        raise invalid_argument("tensor_content of strings ends within the lengths") from error
    if position + sum(lengths) != len(content):
        raise invalid_argument("tensor_content of strings does not have the length it declares")
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return values


def _encode_string_list(values: np.ndarray) -> bytes:
    lengths = bytearray()
    for value in values:
        length = len(value)
        while length >= 0x80:
            lengths.append(length & 0x7F | 0x80)
            length >>= 7
        lengths.append(length)
    return bytes(lengths) + b"".join(values)
