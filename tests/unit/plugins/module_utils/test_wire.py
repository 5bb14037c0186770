"""The wire codec on bytes that are not what they should be; right ones are compared with the official messages."""

from __future__ import annotations

import pytest
from ansible_collections.tf2x.serving.plugins.module_utils import _wire


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_numbers_survive(number: int) -> None:
    message = _wire.parse(_wire.number_field(3, number))
    assert _wire.number_of(message, 3) == number


def test_the_last_value_of_a_field_counts() -> None:
    message = _wire.parse(_wire.number_field(1, 5) + _wire.number_field(1, 6))
    assert _wire.number_of(message, 1) == 6
    assert list(_wire.varints(message[1])) == [5, 6]


def test_what_is_absent_is_empty() -> None:
    message = _wire.parse(b"")
    assert (_wire.number_of(message, 1), bytes(_wire.bytes_of(message, 1)), _wire.text_of(message, 1)) == (0, b"", "")


WHOLE = _wire.number_field(1, 300) + _wire.bytes_field(2, "hello") + bytes([3 << 3 | 5, 1, 2, 3, 4])


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9, 11, 14])
def test_a_message_that_is_cut_off(size: int) -> None:
    assert len(_wire.parse(WHOLE)) == 3
    with pytest.raises(_wire.WireError, match="ends"):
        _wire.parse(WHOLE[:size])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00", "field number 0"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x08" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "before the end of field 1"),
    ],
)
def test_bytes_that_are_no_message(data: bytes, message: str) -> None:
    with pytest.raises(_wire.WireError, match=message):
        _wire.parse(data)


def test_a_field_of_another_kind() -> None:
    message = _wire.parse(_wire.number_field(1, 5) + _wire.bytes_field(2, b"\xff"))
    with pytest.raises(_wire.WireError, match="number in field 1"):
        _wire.bytes_of(message, 1)
    with pytest.raises(_wire.WireError, match="bytes in field 2"):
        _wire.number_of(message, 2)
    with pytest.raises(_wire.WireError, match="not UTF-8"):
        _wire.text_of(message, 2)
