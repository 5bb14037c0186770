"""Protobuf for the stub server: written apart from the gateway's own codec, so that one fault cannot hide in both."""

from __future__ import annotations

import struct


def varint(value: int) -> bytes:
    out = []
    value %= 2**64
    while True:
        value, low = divmod(value, 128)
        out.append(low + (128 if value else 0))
        if not value:
            return bytes(out)


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Encode fields in the given order: ints as varints, str and bytes length-delimited."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number * 8) + varint(value)
        else:
            payload = value.encode() if isinstance(value, str) else value
            out += varint(number * 8 + 2) + varint(len(payload)) + payload
    return out


def parse(data: bytes) -> dict[int, list]:
    """Return the values of every field: int for a varint, bytes for everything else."""
    fields: dict[int, list] = {}
    at = 0

    def read_varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value += (byte % 128) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, wire_type = divmod(read_varint(), 8)
        if wire_type == 0:
            value: int | bytes = read_varint()
        else:
            length = {1: 8, 5: 4}.get(wire_type) or read_varint()
            value = data[at : at + length]
            at += length
        fields.setdefault(number, []).append(value)
    return fields


def shape(dims: tuple[int, ...]) -> bytes:
    return message(*((2, message((1, size))) for size in dims))


def tensor(dtype: int, dims: tuple[int, ...], *fields: tuple[int, int | bytes]) -> bytes:
    return message((1, dtype), (2, shape(dims)), *fields)


def float_tensor(dims: tuple[int, ...], values: list[float]) -> bytes:
    """As TF Serving answers: packed float_val."""
    return tensor(1, dims, (5, struct.pack(f"<{len(values)}f", *values)))
