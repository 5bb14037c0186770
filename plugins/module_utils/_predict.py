# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""`tensorflow.serving.PredictRequest` and `PredictResponse` as bytes."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.tf2x.serving.plugins.module_utils import _wire
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import Tensor

PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"


def encode_request(
    model: str,
    signature_name: str,
    inputs: Mapping[str, Tensor],
    version: int | None = None,
    label: str | None = None,
) -> bytes:
    """Return the request of a prediction by a version or a label; without both TF Serving picks the version."""
    spec = _wire.bytes_field(1, model)
    if version is not None:
        spec += _wire.bytes_field(2, _wire.number_field(1, version))
    spec += _wire.bytes_field(3, signature_name)
    if label is not None:
        spec += _wire.bytes_field(4, label)
    tensors = (_wire.entry_field(2, name, tensor.to_proto()) for name, tensor in sorted(inputs.items()))
    return _wire.bytes_field(1, spec) + b"".join(tensors)


def decode_response(data: bytes) -> dict[str, Tensor]:
    """Return the outputs by name. Raises TensorError, WireError."""
    message = _wire.parse(data)
    return {name: Tensor.from_proto(proto) for name, proto in _wire.entries(message, 1)}
