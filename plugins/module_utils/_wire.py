# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Protobuf's wire format, as much of it as reading and writing TensorFlow's messages takes.

Targets have no TensorFlow and no protobuf package, and the few messages in play never change their field numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Union

Value = Union[int, memoryview]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


class WireError(ValueError):
    """The bytes are not a whole, well-formed message."""


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned 64-bit varint at `position` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError(f"ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise WireError(f"has a number of more than 10 bytes before byte {position}")


def fields(data: bytes | memoryview) -> Iterator[tuple[int, Value]]:
    """Yield (field number, value) in the order of the bytes.

    A varint comes as an unsigned int, everything else as a memoryview (4 or 8 bytes for the fixed types). Raises
    WireError.
    """
    view = memoryview(data)
    position = 0
    while position < len(view):
        start = position
        key, position = read_varint(view, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError(f"has field number 0 at byte {start}")
        if wire_type == _VARINT:
            value, position = read_varint(view, position)
            yield number, value
            continue
        if wire_type == _LENGTH:
            size, position = read_varint(view, position)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise WireError(f"has unknown wire type {wire_type} in field {number} at byte {start}")
        if position + size > len(view):
            missing = position + size - len(view)
            raise WireError(f"ends {missing} bytes before the end of field {number} that starts at byte {start}")
        yield number, view[position : position + size]
        position += size


def parse(data: bytes | memoryview) -> dict[int, list[Value]]:
    """Return all values of each field number."""
    message: dict[int, list[Value]] = {}
    for number, value in fields(data):
        message.setdefault(number, []).append(value)
    return message


def number_of(message: dict[int, list[Value]], field: int, default: int = 0) -> int:
    """Return the last value of a varint field, read as a signed 64-bit integer."""
    value = message.get(field, [default])[-1]
    if not isinstance(value, int):
        raise WireError(f"has bytes in field {field}, which holds a number")
    return signed(value)


def bytes_of(message: dict[int, list[Value]], field: int) -> memoryview:
    """Return the last value of a length-delimited field; empty when absent."""
    return _bytes(message.get(field, [memoryview(b"")])[-1], field)


def text_of(message: dict[int, list[Value]], field: int) -> str:
    """Return the last value of a string field; empty when absent."""
    return decode_text(bytes_of(message, field), field)


def decode_text(value: Value, field: int) -> str:
    """Return a value of a string field. Raises WireError."""
    try:
        return bytes(_bytes(value, field)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"has text in field {field} that is not UTF-8") from error


def entries(message: dict[int, list[Value]], field: int) -> Iterator[tuple[str, memoryview]]:
    """Yield key and value of a `map<string, message>` field."""
    for value in message.get(field, []):
        entry = parse(_bytes(value, field))
        yield text_of(entry, 1), bytes_of(entry, 2)


def varints(values: Iterable[Value]) -> Iterator[int]:
    """Yield the unsigned numbers of a repeated varint field, packed or not."""
    for value in values:
        if isinstance(value, int):
            yield value
            continue
        position = 0
        while position < len(value):
            number, position = read_varint(value, position)
            yield number


def signed(value: int) -> int:
    """Read an unsigned 64-bit value as a signed one."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _bytes(value: Value, field: int) -> memoryview:
    if isinstance(value, int):
        raise WireError(f"has a number in field {field}, which holds bytes")
    return value


def varint(value: int) -> bytes:
    """Encode a signed or unsigned 64-bit integer."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3 | _VARINT) + varint(value)


def bytes_field(field: int, value: bytes | str) -> bytes:
    data = value.encode("utf-8") if isinstance(value, str) else value
    return varint(field << 3 | _LENGTH) + varint(len(data)) + data


def entry_field(field: int, key: str, value: bytes) -> bytes:
    """Encode one entry of a `map<string, message>` field."""
    return bytes_field(field, bytes_field(1, key) + bytes_field(2, value))
