# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""A model's folder in the store: one numbered folder a version.

TF Serving looks at the folder every second and loads whatever has a number for a name, so a version must appear and
disappear as a whole: by a rename from and to a name that is not a number.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils._warmup import WARMUP_FILE

_CHUNK = 1 << 20
_SPARE = 1.05
_INCOMING = ".incoming-"
_REMOVED = ".removed-"


class StoreError(Exception):
    """The store cannot be changed as asked."""


def version_of(path: Path) -> int | None:
    """Return the version that a folder's name stands for, None when it is not a version."""
    name = path.name
    return int(name) if name.isascii() and name.isdigit() and str(int(name)) == name and path.is_dir() else None


def versions(model_dir: Path) -> list[int]:
    """Return the versions in a model's folder, oldest first."""
    if not model_dir.is_dir():
        return []
    return sorted(version for version in map(version_of, model_dir.iterdir()) if version is not None)


def describe(model_dir: Path) -> list[dict[str, Any]]:
    """Return version, content digest and size in bytes of each version, oldest first."""
    return [
        {"version": version, "digest": digest(model_dir / str(version)), "size_bytes": size(model_dir / str(version))}
        for version in versions(model_dir)
    ]


def digest(version_dir: Path) -> str:
    """Return `sha256:<hex>` over names, sizes and bytes of all files but the warm-up file. Raises StoreError."""
    total = hashlib.sha256()
    for name in _files(version_dir):
        if name == WARMUP_FILE:
            continue
        file = version_dir / name
        total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            for chunk in iter(lambda: stream.read(_CHUNK), b""):
                total.update(chunk)
    return f"sha256:{total.hexdigest()}"


def size(version_dir: Path) -> int:
    """Return the size of all files in bytes. Raises StoreError."""
    return sum((version_dir / name).stat().st_size for name in _files(version_dir))


def check_space(model_dir: Path, needed: int) -> None:
    """Raise StoreError unless the file system of the model's folder takes `needed` bytes and 5 % more."""
    there = model_dir
    while not there.exists():
        there = there.parent
    stats = os.statvfs(there)
    free = stats.f_bavail * stats.f_frsize
    if free < needed * _SPARE:
        raise StoreError(f"{there} has {free} bytes free, the model needs {int(needed * _SPARE)} bytes there")


def publish(
    source: Path, version_dir: Path, *, source_digest: str, warmup: bytes, prepare: Callable[[Path], None]
) -> None:
    """Copy `source` into the store and make it appear as `version_dir`, whole and on disk.

    `warmup` is written as the version's warm-up file unless it is empty. `prepare` is called with the copy before it
    appears. Nothing is left behind on failure. Raises StoreError, OSError and what `prepare` raises.
    """
    model_dir = version_dir.parent
    incoming = model_dir / f"{_INCOMING}{version_dir.name}"
    model_dir.mkdir(parents=True, exist_ok=True)
    _remove_tree(incoming)
    try:
        _copy(source, incoming)
        if warmup:
            _write(incoming / WARMUP_FILE, warmup)
        found = digest(incoming)
        if found != source_digest:
            raise StoreError(
                f"{source} changed while it was copied: its digest was {source_digest}, the copy's is {found}"
            )
        prepare(incoming)
        for folder in [incoming, *(path for path in incoming.rglob("*") if path.is_dir())]:
            _sync(folder)
        incoming.rename(version_dir)
    except BaseException:
        _remove_tree(incoming)
        raise
    _sync(model_dir)


def remove(model_dir: Path, version: int) -> None:
    """Make a version disappear at once, then delete its files."""
    removed = model_dir / f"{_REMOVED}{version}"
    _remove_tree(removed)
    (model_dir / str(version)).rename(removed)
    _sync(model_dir)
    _remove_tree(removed)


def prunable(found: list[int], keep: int, protected: list[int]) -> list[int]:
    """Return the versions that are neither among the newest `keep` nor protected."""
    return [version for version in sorted(found)[:-keep] if version not in protected]


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StoreError(f"{path} is neither a plain file nor a folder; a model must hold its files itself")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for child in sorted(source.iterdir()):
        if child.is_dir():
            _copy(child, target / child.name)
            continue
        with child.open("rb") as reader, (target / child.name).open("xb") as writer:
            shutil.copyfileobj(reader, writer, _CHUNK)
            writer.flush()
            os.fsync(writer.fileno())


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("wb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
