"""Write SavedModel folders without TensorFlow: the same bytes in small."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils import _wire

Spec = tuple[int, tuple[int, ...]]

FLOAT, INT64 = 1, 9
INPUTS: dict[str, Spec] = {"image": (FLOAT, (-1, 2, 2, 3))}
OUTPUTS: dict[str, Spec] = {"scores": (FLOAT, (-1, 2))}
LABELS = ["cat", "dog"]


def scores(pixels: Sequence[float]) -> list[float]:
    """What the model of these tests computes."""
    mean = sum(pixels) / len(pixels)
    return [mean, 1 - mean]


def build(
    path: Path,
    *,
    inputs: Mapping[str, Spec] | None = None,
    outputs: Mapping[str, Spec] | None = None,
    tags: Sequence[str] = ("serve",),
    signature_name: str = "serving_default",
    shards: Sequence[int] = (64,),
    golden: bool = True,
) -> Path:
    """Write a SavedModel; `shards` are the sizes of its data files, none for a model without variables."""
    (path / "assets").mkdir(parents=True)
    (path / "variables").mkdir()
    (path / "saved_model.pb").write_bytes(
        _saved_model(inputs or INPUTS, outputs or OUTPUTS, tags, signature_name, bool(shards))
    )
    for number, size in enumerate(shards):
        name = f"variables.data-{number:05d}-of-{len(shards):05d}"
        (path / "variables" / name).write_bytes(bytes([number]) * size)
    if shards:
        (path / "variables" / "variables.index").write_bytes(_index(shards))
    if golden:
        write_golden(path)
    return path


def golden_content(cases: int = 2) -> dict[str, Any]:
    """A golden file that is right for `scores`; every case has an image."""
    content: dict[str, Any] = {
        "format": 1,
        "signature_name": "serving_default",
        "tolerance": 1e-4,
        "labels": LABELS,
        "cases": [],
    }
    for number in range(cases):
        pixels = [(number + index) / 32 for index in range(12)]
        packed = base64.b64encode(zlib.compress(struct.pack("<12f", *pixels))).decode()
        content["cases"].append(
            {
                "name": f"case-{number}",
                "inputs": {"image": {"dtype": "DT_FLOAT", "shape": [1, 2, 2, 3], "zlib_base64": packed}},
                "outputs": {"scores": {"dtype": "DT_FLOAT", "shape": [1, 2], "values": scores(pixels)}},
                "image": f"case-{number}.png",
            }
        )
    return content


def write_golden(path: Path, content: Any = None) -> Path:
    """Write a golden file and the images that it names into a SavedModel."""
    content = golden_content() if content is None else content
    file = path / "assets.extra" / "golden.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    for case in content["cases"]:
        if case.get("image"):
            (file.parent / case["image"]).write_bytes(f"image of {case['name']}".encode())
    return file


def _saved_model(
    inputs: Mapping[str, Spec], outputs: Mapping[str, Spec], tags: Sequence[str], signature_name: str, variables: bool
) -> bytes:
    nodes = [_node("image", "Placeholder"), *([_node("kernel", "VarHandleOp")] if variables else [])]
    signature = (
        b"".join(_wire.entry_field(1, name, _tensor_info(spec)) for name, spec in inputs.items())
        + b"".join(_wire.entry_field(2, name, _tensor_info(spec)) for name, spec in outputs.items())
        + _wire.bytes_field(3, "tensorflow/serving/predict")
    )
    meta_info = b"".join(_wire.bytes_field(4, tag) for tag in tags) + _wire.bytes_field(5, "2.21.0")
    graph = (
        _wire.bytes_field(1, meta_info)
        + _wire.bytes_field(2, b"".join(_wire.bytes_field(1, node) for node in nodes))
        + _wire.entry_field(5, "__saved_model_init_op", b"")
        + _wire.entry_field(5, signature_name, signature)
    )
    return _wire.number_field(1, 1) + _wire.bytes_field(2, graph)


def _node(name: str, operation: str) -> bytes:
    return _wire.bytes_field(1, name) + _wire.bytes_field(2, operation)


def _tensor_info(spec: Spec) -> bytes:
    dtype, shape = spec
    dims = b"".join(_wire.bytes_field(2, _wire.number_field(1, size)) for size in shape)
    return _wire.bytes_field(1, "tensor:0") + _wire.number_field(2, dtype) + _wire.bytes_field(3, dims)


def _index(shards: Sequence[int]) -> bytes:
    """A checkpoint index with one tensor a data file, which fills it."""
    entries = [(b"", _wire.number_field(1, len(shards)))]
    for number, size in enumerate(shards):
        # The keys share a beginning, which the table stores once.
        entry = _wire.number_field(3, number) + _wire.number_field(4, 8) + _wire.number_field(5, size - 8)
        entries.append((f"kernel_{number}".encode(), entry))
    data = _block(entries)
    meta = _block([])
    handle = _wire.varint(0) + _wire.varint(len(data))
    index = _block([(b"l", handle)])
    table = b"".join(block + b"\0" + bytes(4) for block in (data, meta, index))
    starts = [0, len(data) + 5, len(data) + len(meta) + 10]
    footer = b"".join(_wire.varint(number) for number in (starts[1], len(meta), starts[2], len(index)))
    return table + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def _block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    out, last = b"", b""
    for key, value in entries:
        shared = next((i for i, pair in enumerate(zip(key, last)) if pair[0] != pair[1]), min(len(key), len(last)))
        out += _wire.varint(shared) + _wire.varint(len(key) - shared) + _wire.varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack("<II", 0, 1)
