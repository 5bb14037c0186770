# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""TF Serving's warm-up file: a TFRecord file of `tensorflow.serving.PredictionLog`."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ansible_collections.tf2x.serving.plugins.module_utils import _wire
from ansible_collections.tf2x.serving.plugins.module_utils._golden import Golden
from ansible_collections.tf2x.serving.plugins.module_utils._predict import encode_request

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

# TF Serving refuses to load a model with more.
_MAX_RECORDS = 1000


def warmup_file(golden: Golden, model: str) -> bytes:
    """Return the warm-up file that asks the model for every golden case."""
    return b"".join(
        _record(_prediction_log(encode_request(model, golden.signature_name, case.inputs)))
        for case in golden.cases[:_MAX_RECORDS]
    )


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file. Raises WireError when one is cut off or its checksum is wrong."""
    position = 0
    while position < len(data):
        head = data[position : position + 12]
        if len(head) < 12 or _checksum(head[:8]) != head[8:]:
            raise _wire.WireError(f"has a broken record head at byte {position}")
        size = struct.unpack("<Q", head[:8])[0]
        start = position + 12
        body, tail = data[start : start + size], data[start + size : start + size + 4]
        if _checksum(body) != tail:
            raise _wire.WireError(f"has a broken record at byte {position}")
        yield body
        position = start + size + 4


def _prediction_log(predict_request: bytes) -> bytes:
    predict_log = _wire.bytes_field(1, predict_request)
    return _wire.bytes_field(6, predict_log)


def _record(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return size + _checksum(size) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as TFRecord has it."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial."""
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return table


_TABLE = _table()
