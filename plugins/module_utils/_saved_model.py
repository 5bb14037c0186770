# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""What a SavedModel directory holds and whether TF Serving could load it, found out without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils import _golden, _tensor_bundle, _warmup, _wire
from ansible_collections.tf2x.serving.plugins.module_utils._signature import (
    Signature,
    is_public,
    signature_from_proto,
)

GRAPH_FILE = "saved_model.pb"
INDEX_FILE = "variables/variables.index"
GOLDEN_FILE = "assets.extra/golden.json"

# The tag that TF Serving loads by.
_SERVE = "serve"
_VARIABLE_OPS = {b"VarHandleOp", b"VariableV2", b"Variable"}


class SavedModelError(ValueError):
    """The directory is not a SavedModel that TF Serving could load."""


@dataclass(frozen=True)
class SavedModel:
    path: Path
    tags: list[str]
    tensorflow_version: str
    signatures: dict[str, Signature]
    golden: _golden.Golden | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "tags": self.tags,
            "tensorflow_version": self.tensorflow_version,
            "signatures": {name: signature.as_dict() for name, signature in sorted(self.signatures.items())},
            "golden": self.golden.summary() if self.golden else None,
        }


@dataclass(frozen=True)
class _MetaGraph:
    tags: list[str]
    tensorflow_version: str
    signatures: dict[str, Signature]
    has_variables: bool


def read(path: Path) -> SavedModel:
    """Read and check a SavedModel directory. Raises SavedModelError that names the file and what is wrong with it."""
    if not (path / GRAPH_FILE).is_file():
        found = ", ".join(sorted(child.name for child in path.iterdir())) or "nothing"
        raise SavedModelError(f"{path} is not a SavedModel: it holds {found}, but no {GRAPH_FILE}")
    graph = _served_graph(path / GRAPH_FILE)
    _check_variables(path, graph.has_variables)
    _check_warmup(path / _warmup.WARMUP_FILE)
    golden = _read_golden(path, graph.signatures)
    return SavedModel(path, graph.tags, graph.tensorflow_version, graph.signatures, golden)


@dataclass(frozen=True)
class Location:
    """Where among files a SavedModel is, or the folder with several in numbered folders.

    `folder`: relative, `.` for the top; `version`: that of the numbered folder, None when there is none or several.
    """

    folder: str
    version: int | None
    versions: list[int]


def locate(names: Iterable[str]) -> Location:
    """Find the SavedModel, or the versions of one, among the names of files. Raises SavedModelError."""
    folders = sorted({PurePosixPath(name).parent for name in names if PurePosixPath(name).name == GRAPH_FILE})
    # What lies in a SavedModel is part of it.
    folders = [folder for folder in folders if not any(parent in folders for parent in folder.parents)]
    if len(folders) == 1:
        version = version_of(folders[0].name)
        return Location(str(folders[0]), version, [] if version is None else [version])
    found = [version_of(folder.name) for folder in folders]
    if not folders or None in found or len({folder.parent for folder in folders}) > 1:
        listed = ", ".join(map(str, folders[:10])) or "no folder"
        raise SavedModelError(
            f"there is a {GRAPH_FILE} in {listed}; one SavedModel, or its versions in numbered folders, would be right"
        )
    return Location(str(folders[0].parent), None, sorted(version for version in found if version is not None))


def version_of(name: str) -> int | None:
    """Return the version that the name of a folder stands for, None when it does not stand for one."""
    return int(name) if name.isascii() and name.isdigit() and str(int(name)) == name else None


def declaration_misfits(
    model: SavedModel,
    *,
    labels: Sequence[str] | None,
    signature_name: str | None = None,
    input_name: str | None = None,
    height: int | None = None,
    width: int | None = None,
) -> list[str]:
    """Return where a model and what a gateway declares about it disagree, both sides named; empty when they fit."""
    name = signature_name or (model.golden.signature_name if model.golden else "serving_default")
    signature = model.signatures.get(name)
    if signature is None:
        return [f"signature {name} is declared, the model has {', '.join(sorted(model.signatures))}"]
    problems = []
    if labels is not None:
        problems += _label_misfits(model, signature, list(labels))
    if input_name is not None and input_name not in signature.inputs:
        problems.append(f"input {input_name} is declared, signature {name} takes {', '.join(sorted(signature.inputs))}")
        return problems
    if height is not None or width is not None:
        problems += _size_misfits(signature, input_name, height, width)
    return problems


def _label_misfits(model: SavedModel, signature: Signature, labels: list[str]) -> list[str]:
    problems = []
    if model.golden and model.golden.labels and list(model.golden.labels) != labels:
        problems.append(f"labels are declared as {labels}, {model.golden.path} has {list(model.golden.labels)}")
    # Beside the scores a model may have outputs that labels have nothing to do with.
    sizes = [spec.shape[-1] if spec.shape else -1 for spec in signature.outputs.values()]
    if sizes and all(size not in (-1, len(labels)) for size in sizes):
        outputs = ", ".join(f"{name} as {spec}" for name, spec in sorted(signature.outputs.items()))
        problems.append(f"{len(labels)} labels are declared: {labels}, signature {signature.name} gives {outputs}")
    return problems


def _size_misfits(signature: Signature, input_name: str | None, height: int | None, width: int | None) -> list[str]:
    if input_name is None and len(signature.inputs) != 1:
        return [f"no input is declared, signature {signature.name} takes {', '.join(sorted(signature.inputs))}"]
    name = input_name or next(iter(signature.inputs))
    spec = signature.inputs[name]
    declared = (-1, -1 if height is None else height, -1 if width is None else width, -1)
    fits = spec.shape is None or (
        len(spec.shape) == len(declared)
        and all(-1 in (mine, theirs) or mine == theirs for mine, theirs in zip(spec.shape, declared))
    )
    if fits:
        return []
    size = " and ".join(f"{key} {value}" for key, value in (("height", height), ("width", width)) if value is not None)
    return [f"{size} is declared, signature {signature.name} takes input {name} as {spec}"]


def _served_graph(file: Path) -> _MetaGraph:
    content = file.read_bytes()
    try:
        message = _wire.parse(content)
        graphs = [_meta_graph(graph) for graph in message.get(2, []) if not isinstance(graph, int)]
    except _wire.WireError as error:
        raise SavedModelError(f"{file} ({len(content)} bytes) is damaged: it {error}") from error
    served = [graph for graph in graphs if graph.tags == [_SERVE]]
    if not served:
        found = "; ".join(", ".join(graph.tags) or "no tag" for graph in graphs) or "none"
        raise SavedModelError(
            f"{file} has graphs tagged {found}; TF Serving loads the one that is tagged {_SERVE} alone"
        )
    if not served[0].signatures:
        raise SavedModelError(f"{file} has no signature to call; save the model with signatures=…")
    return served[0]


def _meta_graph(proto: memoryview) -> _MetaGraph:
    message = _wire.parse(proto)
    info = _wire.parse(_wire.bytes_of(message, 1))
    return _MetaGraph(
        sorted(_wire.decode_text(tag, 4) for tag in info.get(4, [])),
        _wire.text_of(info, 5),
        {
            name: signature_from_proto(name, signature)
            for name, signature in _wire.entries(message, 5)
            if is_public(name)
        },
        any(
            bytes(_wire.bytes_of(_wire.parse(node), 2)) in _VARIABLE_OPS
            for number, node in _wire.fields(_wire.bytes_of(message, 2))
            if number == 1 and not isinstance(node, int)
        ),
    )


def _check_variables(path: Path, needed: bool) -> None:
    index, folder = path / INDEX_FILE, path / "variables"
    shards = sorted(child.name for child in folder.glob("variables.data-*")) if folder.is_dir() else []
    if not index.is_file():
        if needed or shards:
            raise SavedModelError(f"{index} is missing, but the model has variables")
        return
    try:
        sizes = _tensor_bundle.shard_sizes(index.read_bytes())
    except _wire.WireError as error:
        raise SavedModelError(f"{index} ({index.stat().st_size} bytes) is damaged: it {error}") from error
    wanted = [f"variables.data-{number:05d}-of-{len(sizes):05d}" for number in range(len(sizes))]
    missing, foreign = sorted(set(wanted) - set(shards)), sorted(set(shards) - set(wanted))
    if missing or foreign:
        raise SavedModelError(
            f"{folder} holds {', '.join(shards) or 'no data file'}, but its index asks for {', '.join(wanted)}"
        )
    for name, least in zip(wanted, sizes):
        size = (folder / name).stat().st_size
        if size < least:
            raise SavedModelError(f"{folder / name} is cut off: it has {size} bytes, its index asks for {least}")


def _check_warmup(file: Path) -> None:
    if file.is_file():
        try:
            for record in _warmup.records(file.read_bytes()):
                _wire.parse(record)
        except _wire.WireError as error:
            raise SavedModelError(f"{file} is damaged: it {error}; TF Serving would refuse the model") from error


def _read_golden(path: Path, signatures: dict[str, Signature]) -> _golden.Golden | None:
    file = path / GOLDEN_FILE
    if not file.is_file():
        return None
    try:
        golden = _golden.load(file)
    except _golden.GoldenError as error:
        raise SavedModelError(str(error)) from error
    problems = _golden.misfits(golden, signatures)
    if problems:
        raise SavedModelError(f"{file} does not fit the model: {'; '.join(problems)}")
    return golden
