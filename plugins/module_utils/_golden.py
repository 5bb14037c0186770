# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""The golden file: inputs of a model with the outputs that are right for them."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils._signature import Signature, TensorSpec
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import Tensor, TensorError, byte_size

FORMAT = 1


class GoldenError(ValueError):
    """The golden file cannot be used."""


@dataclass(frozen=True)
class Case:
    """`image`: a file whose scores over HTTP are those of `outputs`."""

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    image: Path | None


@dataclass(frozen=True)
class Golden:
    path: Path
    signature_name: str
    tolerance: float
    labels: tuple[str, ...]
    cases: tuple[Case, ...]

    def summary(self) -> dict[str, Any]:
        return {
            "signature_name": self.signature_name,
            "tolerance": self.tolerance,
            "labels": list(self.labels),
            "cases": [case.name for case in self.cases],
            "images": [case.image.name for case in self.cases if case.image],
        }


def load(path: Path) -> Golden:
    """Read and check a golden file. Raises GoldenError that names file, case and what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GoldenError(f"golden file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise GoldenError(f"golden file {path} is not JSON: {error}") from error
    try:
        return _golden(path, content)
    except GoldenError as error:
        raise GoldenError(f"golden file {path}: {error}") from error


def misfits(golden: Golden, signatures: Mapping[str, Signature]) -> list[str]:
    """Return what a model's signatures and the golden file disagree about, both sides named; empty when they fit."""
    signature = signatures.get(golden.signature_name)
    if signature is None:
        found = ", ".join(sorted(signatures)) or "none"
        return [f"the golden file asks for signature {golden.signature_name}, the model has {found}"]
    problems = []
    for case in golden.cases:
        if case.inputs.keys() != signature.inputs.keys():
            problems.append(
                f"case {case.name} has inputs {sorted(case.inputs)}, "
                f"signature {signature.name} takes {sorted(signature.inputs)}"
            )
        problems += _tensor_misfits(case.name, "input", case.inputs, signature.inputs)
        unknown = sorted(case.outputs.keys() - signature.outputs.keys())
        if unknown:
            problems.append(
                f"case {case.name} has outputs {unknown}, signature {signature.name} gives {sorted(signature.outputs)}"
            )
        problems += _tensor_misfits(case.name, "output", case.outputs, signature.outputs)
    return problems


def _tensor_misfits(case: str, kind: str, tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]) -> list[str]:
    return [
        f"case {case} has {kind} {name} as {TensorSpec(tensor.dtype, tensor.shape)}, the model has it as {specs[name]}"
        for name, tensor in tensors.items()
        if name in specs and (tensor.dtype != specs[name].dtype or not specs[name].accepts(tensor.shape))
    ]


def _golden(path: Path, content: Any) -> Golden:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise GoldenError(f"format is {found!r}, {FORMAT} would be right")
    labels = _typed(content, "labels", list, [])
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise GoldenError(f"labels are {labels!r}, a list of different strings would be right")
    tolerance = _typed(content, "tolerance", (int, float))
    if not 0 <= tolerance < float("inf"):
        raise GoldenError(f"tolerance is {tolerance!r}, a number from 0 up would be right")
    cases = tuple(_case(path.parent, case, labels) for case in _typed(content, "cases", list))
    if not cases:
        raise GoldenError("it has no case")
    if len({case.name for case in cases}) != len(cases):
        raise GoldenError(f"case names {[case.name for case in cases]} repeat")
    signature_name = _typed(content, "signature_name", str, "serving_default")
    return Golden(path, signature_name, float(tolerance), tuple(labels), cases)


def _case(folder: Path, content: Any, labels: list[str]) -> Case:
    if not isinstance(content, dict):
        raise GoldenError(f"a case is {content!r:.80}, an object would be right")
    name = _typed(content, "name", str)
    try:
        inputs = {key: _tensor(key, value) for key, value in _typed(content, "inputs", dict).items()}
        outputs = {key: _tensor(key, value) for key, value in _typed(content, "outputs", dict).items()}
        if not inputs or not outputs:
            raise GoldenError("it has no input or no output")
        image = _image(folder, _typed(content, "image", str, ""))
    except GoldenError as error:
        raise GoldenError(f"case {name}: {error}") from error
    if labels and len(outputs) == 1:
        output, scores = next(iter(outputs.items()))
        if not scores.shape or scores.shape[-1] != len(labels):
            raise GoldenError(
                f"case {name}: output {output} has shape {list(scores.shape)}, but there are {len(labels)} labels"
            )
    return Case(name, inputs, outputs, image)


def _image(folder: Path, name: str) -> Path | None:
    if not name:
        return None
    if Path(name).name != name:
        raise GoldenError(f"image is {name}, the name of a file beside the golden file would be right")
    if not (folder / name).is_file():
        raise GoldenError(f"its image {folder / name} does not exist")
    return folder / name


def _tensor(name: str, content: Any) -> Tensor:
    try:
        if not isinstance(content, dict):
            raise TensorError(f"{content!r:.80} where an object would be right")
        dtype, shape = content.get("dtype"), content.get("shape")
        if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
            raise TensorError(f"shape {shape!r}, a list of sizes would be right")
        if "zlib_base64" in content:
            return Tensor(dtype, tuple(shape), _unpack(content["zlib_base64"], byte_size(dtype, shape)))
        if not isinstance(content.get("values"), list):
            raise TensorError("neither zlib_base64 nor a list of values")
        return Tensor.from_values(dtype, shape, content["values"])
    except TensorError as error:
        raise GoldenError(f"tensor {name} has {error}") from error


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _unpack(packed: Any, size: int) -> bytes:
    try:
        # One byte more than is right, so that too long data is noticed and never unpacked as a whole.
        return zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (TypeError, binascii.Error, zlib.error) as error:
        raise TensorError(f"zlib_base64 that cannot be unpacked: {error}") from error


_REQUIRED = object()


def _typed(content: Mapping[str, Any], key: str, kind: Any, default: Any = _REQUIRED) -> Any:
    value = content.get(key, default)
    if value is _REQUIRED:
        raise GoldenError(f"{key} is missing")
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise GoldenError(f"{key} is {value!r:.80}, a value of type {names} would be right")
    return value
