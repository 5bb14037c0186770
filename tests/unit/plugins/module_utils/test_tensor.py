"""Tensors as nested lists, and how far two of them are apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import (
    Tensor,
    TensorError,
    flatten,
    max_abs_difference,
)


@pytest.mark.parametrize(
    "nested", [7, [1, 2, 3], [[1, 2], [3, 4], [5, 6]], [[[1], [2]], [[3], [4]]], [], [[], []]], ids=str
)
def test_nested_lists_survive(nested: Any) -> None:
    shape, values = flatten(nested)
    assert Tensor.from_values("DT_INT32", shape, values).nested() == nested


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ([[1], [2, 3]], "rows of different shapes"),
        ([1, [2]], "rows of different shapes"),
        ([None], "None where a number"),
        ([{}], "where a number"),
    ],
)
def test_lists_that_are_no_tensor(nested: Any, message: str) -> None:
    with pytest.raises(TensorError, match=message):
        flatten(nested)


@pytest.mark.parametrize(
    ("left", "right", "difference"),
    [
        ([], [], 0),
        ([1, 2], [1, 2.5], 0.5),
        ([-3], [4], 7),
        ([math.nan], [math.nan], 0),
        ([math.nan], [1], math.inf),
        ([1], [math.nan], math.inf),
        ([math.inf], [math.inf], 0),
        ([math.inf], [-math.inf], math.inf),
        ([0.1, math.nan], [0.1, 0.1], math.inf),
    ],
)
def test_difference(left: list[float], right: list[float], difference: float) -> None:
    assert max_abs_difference(left, right) == difference


def test_values_must_fit_type_and_shape() -> None:
    with pytest.raises(TensorError, match="not DT_UINT8"):
        Tensor.from_values("DT_UINT8", [1], [256])
    with pytest.raises(TensorError, match="3 values, but DT_FLOAT"):
        Tensor.from_values("DT_FLOAT", [2], [1, 2, 3])
    with pytest.raises(TensorError, match="3 bytes of data, but DT_INT16"):
        Tensor("DT_INT16", (2,), b"123")
