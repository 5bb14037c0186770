# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""The index of a checkpoint (`variables.index`): how many data files there must be and how long each must be.

The index is a sorted string table: data blocks, an index block that points to them, and a footer of 48 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.tf2x.serving.plugins.module_utils import _wire

_FOOTER_SIZE = 48
_MAGIC = bytes.fromhex("57fb808b247547db")
_TRAILER_SIZE = 5  # compression type, checksum
_HEADER_KEY = b""


def shard_sizes(index: bytes) -> list[int]:
    """Return the smallest size in bytes that each data file may have. Raises WireError for a damaged index."""
    if len(index) < _FOOTER_SIZE or index[-8:] != _MAGIC:
        raise _wire.WireError("does not end like a checkpoint index")
    footer = index[-_FOOTER_SIZE:]
    _offset, position = _wire.read_varint(footer, 0)
    _size, position = _wire.read_varint(footer, position)
    offset, position = _wire.read_varint(footer, position)
    size, position = _wire.read_varint(footer, position)
    sizes: list[int] = []
    for _key, handle in _block(index, offset, size):
        block_offset, position = _wire.read_varint(handle, 0)
        block_size, position = _wire.read_varint(handle, position)
        for key, value in _block(index, block_offset, block_size):
            message = _wire.parse(value)
            if key == _HEADER_KEY:
                sizes = [0] * _wire.number_of(message, 1)
                continue
            shard = _wire.number_of(message, 3)
            if not 0 <= shard < len(sizes):
                raise _wire.WireError(f"puts {key.decode(errors='replace')} into data file {shard} of {len(sizes)}")
            sizes[shard] = max(sizes[shard], _wire.number_of(message, 4) + _wire.number_of(message, 5))
    if not sizes:
        raise _wire.WireError("has no header")
    return sizes


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block = table[offset : offset + size + _TRAILER_SIZE]
    if len(block) != size + _TRAILER_SIZE or size < 4:
        raise _wire.WireError(f"ends inside the block at byte {offset}")
    if block[size] != 0:
        raise _wire.WireError(f"has a compressed block at byte {offset}, which TensorFlow does not write")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    end = size - 4 - 4 * restarts
    position, key = 0, b""
    while position < end:
        shared, position = _wire.read_varint(block, position)
        added, position = _wire.read_varint(block, position)
        length, position = _wire.read_varint(block, position)
        key = key[:shared] + block[position : position + added]
        position += added
        if position + length > end:
            raise _wire.WireError(f"has an entry that leaves its block at byte {offset}")
        yield key, block[position : position + length]
        position += length
