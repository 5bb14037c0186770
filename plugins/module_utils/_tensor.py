# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Numeric tensors as raw little-endian bytes, nested lists (REST) and `tensorflow.TensorProto` (gRPC, warm-up)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils import _wire

# tensorflow.DataType
DTYPE_NAMES = {
    1: "DT_FLOAT",
    2: "DT_DOUBLE",
    3: "DT_INT32",
    4: "DT_UINT8",
    5: "DT_INT16",
    6: "DT_INT8",
    7: "DT_STRING",
    8: "DT_COMPLEX64",
    9: "DT_INT64",
    10: "DT_BOOL",
    14: "DT_BFLOAT16",
    17: "DT_UINT16",
    18: "DT_COMPLEX128",
    19: "DT_HALF",
    20: "DT_RESOURCE",
    21: "DT_VARIANT",
    22: "DT_UINT32",
    23: "DT_UINT64",
}
_DTYPE_NUMBERS = {name: number for number, name in DTYPE_NAMES.items()}

# struct's codes of the types whose values can be held here.
_CODES = {
    "DT_FLOAT": "f",
    "DT_DOUBLE": "d",
    "DT_INT32": "i",
    "DT_UINT8": "B",
    "DT_INT16": "h",
    "DT_INT8": "b",
    "DT_INT64": "q",
    "DT_BOOL": "?",
    "DT_UINT16": "H",
    "DT_HALF": "e",
    "DT_UINT32": "I",
    "DT_UINT64": "Q",
}

# Fields of TensorProto that hold values one by one.
_FLOAT_VAL, _DOUBLE_VAL, _HALF_VAL = 5, 6, 13
_VALUE_FIELDS = {
    "DT_FLOAT": _FLOAT_VAL,
    "DT_DOUBLE": _DOUBLE_VAL,
    "DT_INT32": 7,
    "DT_UINT8": 7,
    "DT_INT16": 7,
    "DT_INT8": 7,
    "DT_UINT16": 7,
    "DT_INT64": 10,
    "DT_BOOL": 11,
    "DT_HALF": _HALF_VAL,
    "DT_UINT32": 16,
    "DT_UINT64": 17,
}


class TensorError(ValueError):
    """A tensor's type, shape and values do not fit each other."""


@dataclass(frozen=True)
class Tensor:
    """`data` holds the values in row-major order, little-endian. Raises TensorError when the three do not fit."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        wanted = byte_size(self.dtype, self.shape)
        if len(self.data) != wanted:
            raise TensorError(
                f"{len(self.data)} bytes of data, but {self.dtype}{list(self.shape)} takes {wanted} bytes"
            )

    @classmethod
    def from_values(cls, dtype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
        wanted = byte_size(dtype, shape) // struct.calcsize(f"<{_CODES[dtype]}")
        if len(values) != wanted:
            raise TensorError(f"{len(values)} values, but {dtype}{list(shape)} takes {wanted}")
        try:
            data = struct.pack(f"<{len(values)}{_CODES[dtype]}", *values)
        except (struct.error, OverflowError, TypeError) as error:
            raise TensorError(f"values that are not {dtype}: {error}") from error
        return cls(dtype, tuple(shape), data)

    @classmethod
    def from_proto(cls, proto: bytes | memoryview) -> Tensor:
        """Read a TensorProto, whichever of its fields holds the values. Raises TensorError, WireError."""
        message = _wire.parse(proto)
        number = _wire.number_of(message, 1)
        dtype = DTYPE_NAMES.get(number, f"DataType {number}")
        shape = shape_from_proto(_wire.bytes_of(message, 2))
        if shape is None or any(size < 0 for size in shape):
            raise TensorError(f"a tensor of unknown shape {shape}")
        content = bytes(_wire.bytes_of(message, 4))
        if content:
            return cls(dtype, shape, content)
        count = byte_size(dtype, shape) // struct.calcsize(f"<{_CODES[dtype]}")
        values = _listed_values(dtype, message.get(_VALUE_FIELDS[dtype], []))
        if len(values) > count:
            raise TensorError(f"{len(values)} values, but {dtype}{list(shape)} takes {count}")
        # TensorProto leaves out trailing values that repeat the last one.
        values.extend([values[-1] if values else 0] * (count - len(values)))
        return cls.from_values(dtype, shape, values)

    def values(self) -> tuple[Any, ...]:
        """Return the values in row-major order."""
        code = _CODES[self.dtype]
        return struct.unpack(f"<{len(self.data) // struct.calcsize('<' + code)}{code}", self.data)

    def nested(self) -> Any:
        """Return the values as nested lists, a bare value for a scalar."""
        return _nest(self.values(), self.shape)

    def to_proto(self) -> bytes:
        """Return a TensorProto with the values in `tensor_content`."""
        dims = b"".join(_wire.bytes_field(2, _wire.number_field(1, size)) for size in self.shape)
        return (
            _wire.number_field(1, _DTYPE_NUMBERS[self.dtype])
            + _wire.bytes_field(2, dims)
            + _wire.bytes_field(4, self.data)
        )


def byte_size(dtype: str, shape: Sequence[int]) -> int:
    """Return the size of a tensor's values in bytes. Raises TensorError for a type that is not numeric."""
    if dtype not in _CODES:
        raise TensorError(f"type {dtype} is not one of {', '.join(_CODES)}")
    return math.prod(shape) * struct.calcsize(f"<{_CODES[dtype]}")


def shape_from_proto(proto: bytes | memoryview) -> tuple[int, ...] | None:
    """Read a TensorShapeProto: -1 for an unknown size, None for an unknown rank."""
    message = _wire.parse(proto)
    if _wire.number_of(message, 3):
        return None
    dims = message.get(2, [])
    return tuple(_wire.number_of(_wire.parse(dim), 1) for dim in dims if not isinstance(dim, int))


def _nest(values: Sequence[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return values[0]
    if len(shape) == 1:
        return list(values)
    step = len(values) // (shape[0] or 1)
    return [_nest(values[start * step : (start + 1) * step], shape[1:]) for start in range(shape[0])]


def flatten(value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return shape and row-major values of nested lists. Raises TensorError when they are ragged or not numeric."""
    if not isinstance(value, list):
        if not isinstance(value, (int, float)):
            raise TensorError(f"{value!r} where a number would be right")
        return (), [value]
    parts = [flatten(item) for item in value]
    shapes = {shape for shape, unused in parts}
    if len(shapes) > 1:
        raise TensorError(f"rows of different shapes {sorted(map(list, shapes))}")
    inner = shapes.pop() if shapes else ()
    return (len(value), *inner), [number for unused, numbers in parts for number in numbers]


def max_abs_difference(left: Iterable[float], right: Iterable[float]) -> float:
    """Return the largest absolute difference; infinite when just one of a pair is not a number."""
    return max((_difference(a, b) for a, b in zip(left, right)), default=0.0)


def _difference(left: float, right: float) -> float:
    if left == right or (math.isnan(left) and math.isnan(right)):
        return 0.0
    difference = abs(left - right)
    return math.inf if math.isnan(difference) else difference


def _listed_values(dtype: str, raw: Sequence[_wire.Value]) -> list[Any]:
    field = _VALUE_FIELDS[dtype]
    if field in (_FLOAT_VAL, _DOUBLE_VAL):
        code, size = ("f", 4) if field == _FLOAT_VAL else ("d", 8)
        data = b"".join(bytes(part) for part in raw if not isinstance(part, int))
        if len(data) % size:
            raise TensorError(f"{len(data)} bytes of {dtype} values, which is not a multiple of {size}")
        return list(struct.unpack(f"<{len(data) // size}{code}", data))
    numbers = _wire.varints(raw)
    if field == _HALF_VAL:
        return [struct.unpack("<e", struct.pack("<H", number & 0xFFFF))[0] for number in numbers]
    if dtype == "DT_BOOL":
        return [bool(number) for number in numbers]
    if dtype in ("DT_UINT32", "DT_UINT64"):
        return list(numbers)
    return [_wire.signed(number) for number in numbers]
