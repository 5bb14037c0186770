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
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils import _archive, _disk
from ansible_collections.tf2x.serving.plugins.module_utils._saved_model import version_of
from ansible_collections.tf2x.serving.plugins.module_utils._warmup import WARMUP_FILE

_CHUNK = 1 << 20
_INCOMING = ".incoming-"
_REMOVED = ".removed-"


class StoreError(Exception):
    """The store cannot be changed as asked."""


def versions(model_dir: Path) -> list[int]:
    """Return the versions in a model's folder, oldest first."""
    if not model_dir.is_dir():
        return []
    found = (version_of(path.name) for path in model_dir.iterdir() if path.is_dir())
    return sorted(version for version in found if version is not None)


def describe(model_dir: Path, *, digests: bool = True) -> list[dict[str, Any]]:
    """Return version, content digest and size in bytes of each version, oldest first; None for digests left out."""
    return [
        {
            "version": version,
            "digest": digest(model_dir / str(version)) if digests else None,
            "size_bytes": size(model_dir / str(version)),
        }
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


def publish(
    source: Path,
    version_dir: Path,
    *,
    source_digest: str,
    size_bytes: int,
    complete: Callable[[Path], None],
) -> None:
    """Copy or unpack `source`, a folder or an archive, and make it appear as `version_dir`, whole and on disk.

    `size_bytes` is what it takes. `complete` is called with the copy once its digest was checked, before it appears.
    Nothing is left behind on failure. Raises StoreError, ArchiveError, DiskError, OSError and what `complete` raises.
    """
    model_dir = version_dir.parent
    incoming = model_dir / f"{_INCOMING}{version_dir.name}"
    model_dir.mkdir(parents=True, exist_ok=True)
    _disk.remove_tree(incoming)
    try:
        with _disk.naming_full(model_dir, size_bytes):
            if source.is_dir():
                _copy(source, incoming)
            else:
                _archive.unpack(source, incoming, max_bytes=size_bytes)
            found = digest(incoming)
            if found != source_digest:
                raise StoreError(
                    f"{source} is not what is to be published: digest {source_digest} is expected, its copy has {found}"
                )
            complete(incoming)
            _disk.sync_tree(incoming)
            incoming.rename(version_dir)
    except BaseException:
        _disk.remove_tree(incoming)
        raise
    _disk.sync(model_dir)


def remove(model_dir: Path, version: int) -> None:
    """Make a version disappear at once, then delete its files."""
    removed = model_dir / f"{_REMOVED}{version}"
    _disk.remove_tree(removed)
    (model_dir / str(version)).rename(removed)
    _disk.sync(model_dir)
    _disk.remove_tree(removed)


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
