"""The protobuf wire format: as much of it as TF Serving's messages need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

# A varint is an int; every other wire type is the slice of the message that holds it.
FieldValue = Union[int, memoryview]


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def encode_varint(value: int) -> bytes:
    """Encode an int as a base-128 varint; a negative one as its 64-bit two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_field(number: int, value: int) -> bytes:
    """Encode a field of an integer, bool or enum type."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


def bytes_field(number: int, payload: bytes) -> bytes:
    """Encode a field of type bytes, string (UTF-8) or message (already encoded)."""
    return bytes_field_header(number, len(payload)) + payload


def bytes_field_header(number: int, length: int) -> bytes:
    """Encode what comes before the `length` payload bytes of a length-delimited field."""
    return encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(length)


def decode_varint(buffer: memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned value of the varint at `position` and the position after it."""
    value = shift = 0
    while True:
        if position >= len(buffer) or shift > 63:
            raise WireError(f"varint at byte {position} is cut off or too long")
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7


def signed(value: int) -> int:
    """Return the int64 whose two's complement is `value`."""
    return value - (1 << 64) if value >= 1 << 63 else value


def decode_fields(buffer: memoryview) -> Iterator[tuple[int, FieldValue]]:
    """Yield (field number, value) of every field of a message, in the order in which they stand."""
    position = 0
    while position < len(buffer):
        tag, position = decode_varint(buffer, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, position = decode_varint(buffer, position)
            yield number, value
            continue
        if wire_type == LENGTH_DELIMITED:
            length, position = decode_varint(buffer, position)
        elif wire_type == FIXED32:
            length = 4
        elif wire_type == FIXED64:
            length = 8
        else:
            raise WireError(f"field {number} has the unknown wire type {wire_type}")
        end = position + length
        if end > len(buffer):
            raise WireError(f"field {number} needs {length} bytes, {len(buffer) - position} are left")
        yield number, buffer[position:end]
        position = end


def decode_packed_varints(value: FieldValue) -> list[int]:
    """Return the unsigned values of one occurrence of a repeated varint field, packed or not."""
    if isinstance(value, int):
        return [value]
    values, position = [], 0
    while position < len(value):
        item, position = decode_varint(value, position)
        values.append(item)
    return values


def expect_bytes(number: int, value: FieldValue) -> memoryview:
    """Return the payload of a length-delimited field; WireError if it was sent as a varint."""
    if isinstance(value, int):
        raise WireError(f"field {number} is a varint, a length-delimited value belongs there")
    return value


def expect_int(number: int, value: FieldValue) -> int:
    """Return the value of a varint field; WireError if it was sent in another wire type."""
    if not isinstance(value, int):
        raise WireError(f"field {number} is {len(value)} bytes, a varint belongs there")
    return value


def decode_text(number: int, value: FieldValue) -> str:
    """Return the value of a string field."""
    return str(expect_bytes(number, value), "utf-8")


def decode_map_entry(value: FieldValue) -> tuple[str, memoryview]:
    """Return key and encoded message of one entry of a map<string, message>."""
    key, message = "", memoryview(b"")
    for number, item in decode_fields(expect_bytes(0, value)):
        if number == 1:
            key = decode_text(number, item)
        elif number == 2:
            message = expect_bytes(number, item)
    return key, message
