"""tensorflow.TensorProto to and from NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable

import numpy as np

from tf2x_gateway.serving.wire import (
    FieldValue,
    WireError,
    bytes_field,
    bytes_field_header,
    decode_fields,
    decode_packed_varints,
    expect_bytes,
    expect_int,
    signed,
    varint_field,
)

DT_FLOAT = 1
DT_DOUBLE = 2
DT_INT32 = 3
DT_UINT8 = 4
DT_STRING = 7
DT_COMPLEX64 = 8
DT_INT64 = 9
DT_BOOL = 10
DT_BFLOAT16 = 14
DT_COMPLEX128 = 18
DT_HALF = 19

_NAMES = {
    DT_FLOAT: "DT_FLOAT",
    DT_DOUBLE: "DT_DOUBLE",
    DT_INT32: "DT_INT32",
    DT_UINT8: "DT_UINT8",
    5: "DT_INT16",
    6: "DT_INT8",
    DT_STRING: "DT_STRING",
    DT_COMPLEX64: "DT_COMPLEX64",
    DT_INT64: "DT_INT64",
    DT_BOOL: "DT_BOOL",
    DT_BFLOAT16: "DT_BFLOAT16",
    17: "DT_UINT16",
    DT_COMPLEX128: "DT_COMPLEX128",
    DT_HALF: "DT_HALF",
    22: "DT_UINT32",
    23: "DT_UINT64",
}

# NumPy has no bfloat16, the upper half of a float32: an array of this type holds the bits.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

# dtype: (little-endian NumPy type, number of the typed value field)
_NUMERIC = {
    DT_FLOAT: (np.dtype("<f4"), 5),
    DT_DOUBLE: (np.dtype("<f8"), 6),
    DT_INT32: (np.dtype("<i4"), 7),
    DT_UINT8: (np.dtype("u1"), 7),
    5: (np.dtype("<i2"), 7),
    6: (np.dtype("i1"), 7),
    17: (np.dtype("<u2"), 7),
    DT_COMPLEX64: (np.dtype("<c8"), 9),
    DT_INT64: (np.dtype("<i8"), 10),
    DT_BOOL: (np.dtype("?"), 11),
    DT_COMPLEX128: (np.dtype("<c16"), 12),
    DT_HALF: (np.dtype("<f2"), 13),
    DT_BFLOAT16: (BFLOAT16, 13),
    22: (np.dtype("<u4"), 16),
    23: (np.dtype("<u8"), 17),
}
_BY_NUMPY_TYPE = {wire_type: dtype for dtype, (wire_type, _unused) in _NUMERIC.items()}
_STRING_VAL = 8

Shape = tuple[int, ...]


def dtype_name(dtype: int) -> str:
    """Return the name of a tensorflow.DataType number, such as DT_FLOAT for 1."""
    return _NAMES.get(dtype, f"data type {dtype}")


def numpy_dtype(dtype: int) -> np.dtype:
    """Return the NumPy type of a numeric tensorflow.DataType, BFLOAT16 for bfloat16. Raises ValueError."""
    if dtype not in _NUMERIC:
        raise ValueError(f"{dtype_name(dtype)} has no NumPy type of numbers")
    return _NUMERIC[dtype][0]


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return float values as a BFLOAT16 array, rounded to nearest, ties to even."""
    floats = np.asarray(values, dtype="<f4")
    bits = floats.view("<u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    # Rounding could carry a NaN's bits over to another number's.
    return np.where(np.isnan(floats), 0x7FC0, rounded).astype("<u2").view(BFLOAT16)


def numeric_tensor_prefix(dtype: int, shape: Shape) -> bytes:
    """Return what stands before `tensor_content` in a TensorProto of a numeric type.

    The prefix followed by the array's bytes (C order, little-endian) is the whole message.
    """
    length = math.prod(shape) * numpy_dtype(dtype).itemsize
    return _type_and_shape(dtype, shape) + bytes_field_header(4, length)


def string_tensor_parts(shape: Shape, items: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Return what stands before the values in a TensorProto of strings, and the values with their headers."""
    values: list[bytes] = []
    for item in items:
        values += (bytes_field_header(_STRING_VAL, len(item)), item)
    return _type_and_shape(DT_STRING, shape), values


def array_buffer(array: np.ndarray) -> memoryview:
    """Return the bytes of a C-ordered array without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))


def encode_tensor_parts(array: np.ndarray) -> list[bytes | memoryview]:
    """Return the encoded TensorProto of an array in pieces: its bytes are not copied unless they must be rearranged.

    Strings are arrays of NumPy type S (whose trailing zero bytes NumPy drops), or of objects that are bytes.
    Raises ValueError for a type that has no tensor.
    """
    if array.dtype.kind in "SO":
        items = array.reshape(-1).tolist()
        for item in items:
            if not isinstance(item, bytes):
                raise ValueError(f"an array of objects holds a {type(item).__name__}; only bytes make a tensor")
        prefix, values = string_tensor_parts(array.shape, items)
        return [prefix, *values]
    # The type of the package ml_dtypes, which TensorFlow and JAX use.
    if array.dtype.name == "bfloat16":
        array = array.view("<u2").view(BFLOAT16)
    wire_type = array.dtype.newbyteorder("<")
    dtype = _BY_NUMPY_TYPE.get(wire_type)
    if dtype is None:
        hint = "; text must be encoded first" if array.dtype.kind == "U" else ""
        raise ValueError(f"the NumPy type {array.dtype} has no tensor type{hint}")
    contiguous = np.ascontiguousarray(array, dtype=wire_type)
    return [numeric_tensor_prefix(dtype, array.shape), array_buffer(contiguous)]


def _type_and_shape(dtype: int, shape: Shape) -> bytes:
    dims = b"".join(bytes_field(2, varint_field(1, size)) for size in shape)
    return varint_field(1, dtype) + bytes_field(2, dims)


def decode_shape(message: memoryview) -> Shape | None:
    """Return the dimensions of a TensorShapeProto, -1 where one is not known; None if not even the rank is."""
    dims: list[int] = []
    for number, value in decode_fields(message):
        if number == 2:
            size = 0
            for dim_number, dim_value in decode_fields(expect_bytes(number, value)):
                if dim_number == 1:
                    size = signed(expect_int(dim_number, dim_value))
            dims.append(size)
        elif number == 3 and value:
            return None
    return tuple(dims)


def decode_tensor(message: memoryview) -> np.ndarray:
    """Return the array of a TensorProto; strings as an object array of bytes, bfloat16 widened to float32.

    Fewer typed values than the shape has elements stand for the rest too, as TensorFlow has it: the last one repeats.
    Raises WireError for a type that has no array, or for values that do not fit the shape.
    """
    dtype = 0
    shape: Shape | None = ()
    content: memoryview | None = None
    fields: dict[int, list[FieldValue]] = {}
    for number, value in decode_fields(message):
        if number == 1:
            dtype = expect_int(number, value)
        elif number == 2:
            shape = decode_shape(expect_bytes(number, value))
        elif number == 4:
            content = expect_bytes(number, value)
        else:
            fields.setdefault(number, []).append(value)
    if shape is None or any(size < 0 for size in shape):
        raise WireError(f"a tensor has the incomplete shape {shape}")
    if dtype == DT_STRING:
        return _decode_strings(fields.get(_STRING_VAL, []), shape)
    if dtype not in _NUMERIC:
        raise WireError(f"a tensor has the type {dtype_name(dtype)}, which is not supported")
    wire_type, values_field = _NUMERIC[dtype]
    if content is not None and len(content):
        if len(content) % wire_type.itemsize:
            raise WireError(f"{len(content)} bytes of tensor_content are no whole number of {dtype_name(dtype)} values")
        values = np.frombuffer(content, dtype=wire_type)
    else:
        values = _VALUE_DECODERS.get(dtype, _decode_varint_values)(fields.get(values_field, []), wire_type)
    if dtype == DT_BFLOAT16:
        values = (values.view("<u2").astype("<u4") << 16).view("<f4")
    return _fill(values, shape, np.zeros((), values.dtype))


def _decode_fixed_values(fields: Sequence[FieldValue], dtype: np.dtype) -> np.ndarray:
    # One packed occurrence and single unpacked ones look alike once joined.
    joined = b"".join(expect_bytes(0, value) for value in fields)
    if len(joined) % dtype.itemsize:
        raise WireError(f"{len(joined)} bytes of values are no whole number of {dtype} values")
    return np.frombuffer(joined, dtype=dtype)


def _decode_varint_values(fields: Sequence[FieldValue], dtype: np.dtype) -> np.ndarray:
    values = [item for value in fields for item in decode_packed_varints(value)]
    # Sign extension is to 64 bits, so that cutting to the type's own width gives the value back.
    return np.array(values, dtype=np.uint64).astype(dtype)


def _decode_half_values(fields: Sequence[FieldValue], dtype: np.dtype) -> np.ndarray:
    return _decode_varint_values(fields, np.dtype("<u2")).view(dtype)


_VALUE_DECODERS: dict[int, Callable[[Sequence[FieldValue], np.dtype], np.ndarray]] = {
    DT_FLOAT: _decode_fixed_values,
    DT_DOUBLE: _decode_fixed_values,
    DT_COMPLEX64: _decode_fixed_values,
    DT_COMPLEX128: _decode_fixed_values,
    DT_HALF: _decode_half_values,
    DT_BFLOAT16: _decode_half_values,
}


def _decode_strings(fields: Sequence[FieldValue], shape: Shape) -> np.ndarray:
    values = np.empty(len(fields), dtype=object)
    values[:] = [bytes(expect_bytes(_STRING_VAL, value)) for value in fields]
    empty = np.empty((), dtype=object)
    empty[()] = b""
    return _fill(values, shape, empty)


def _fill(values: np.ndarray, shape: Shape, zero: np.ndarray) -> np.ndarray:
    size = math.prod(shape)
    if values.size > size:
        raise WireError(f"a tensor of shape {shape} came with {values.size} values")
    if values.size < size:
        last = values[-1:] if values.size else zero.reshape(1)
        values = np.concatenate([values, np.repeat(last, size - values.size)])
    return values.reshape(shape)
