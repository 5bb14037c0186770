# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""A model's signatures, as its SavedModel holds them and as TF Serving's metadata tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils import _wire
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import DTYPE_NAMES, shape_from_proto


@dataclass(frozen=True)
class TensorSpec:
    """`shape`: -1 for a size that is open, None when even the rank is."""

    dtype: str
    shape: tuple[int, ...] | None

    def accepts(self, shape: Sequence[int]) -> bool:
        if self.shape is None:
            return True
        return len(self.shape) == len(shape) and all(mine in (-1, size) for mine, size in zip(self.shape, shape))

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[any shape]"
        return f"{self.dtype}[{','.join('?' if size < 0 else str(size) for size in self.shape)}]"

    def as_dict(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}


@dataclass(frozen=True)
class Signature:
    name: str
    method_name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "method_name": self.method_name,
            "inputs": {name: spec.as_dict() for name, spec in sorted(self.inputs.items())},
            "outputs": {name: spec.as_dict() for name, spec in sorted(self.outputs.items())},
        }


def signature_from_proto(name: str, proto: bytes | memoryview) -> Signature:
    """Read a `tensorflow.SignatureDef`. Raises WireError."""
    message = _wire.parse(proto)
    return Signature(
        name,
        _wire.text_of(message, 3),
        {tensor: _spec_from_proto(info) for tensor, info in _wire.entries(message, 1)},
        {tensor: _spec_from_proto(info) for tensor, info in _wire.entries(message, 2)},
    )


def signatures_from_metadata(body: Any) -> tuple[int, dict[str, Signature]]:
    """Read the JSON body of `GET /v1/models/<name>/metadata`: the version that answered and its public signatures.

    Raises ValueError when the body is not shaped like that.
    """
    try:
        version = int(body["model_spec"]["version"])
        found = body["metadata"]["signature_def"]["signature_def"]
        signatures = {name: _signature_from_json(name, one) for name, one in found.items() if is_public(name)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"metadata that is not TF Serving's: {error!r} is missing or wrong in {str(body)[:200]}"
        ) from None
    return version, signatures


def is_public(name: str) -> bool:
    """Tell whether a signature is meant for callers (TensorFlow keeps its own under `__saved_model_…`)."""
    return not name.startswith("__")


def _spec_from_proto(proto: memoryview) -> TensorSpec:
    message = _wire.parse(proto)
    number = _wire.number_of(message, 2)
    return TensorSpec(DTYPE_NAMES.get(number, f"DataType {number}"), shape_from_proto(_wire.bytes_of(message, 3)))


def _signature_from_json(name: str, body: Mapping[str, Any]) -> Signature:
    return Signature(
        name,
        body.get("method_name", ""),
        {tensor: _spec_from_json(info) for tensor, info in body.get("inputs", {}).items()},
        {tensor: _spec_from_json(info) for tensor, info in body.get("outputs", {}).items()},
    )


def _spec_from_json(info: Mapping[str, Any]) -> TensorSpec:
    shape = info.get("tensor_shape", {})
    if shape.get("unknown_rank"):
        return TensorSpec(info["dtype"], None)
    return TensorSpec(info["dtype"], tuple(int(dim["size"]) for dim in shape.get("dim", [])))
