# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Room on a file system, foreseen and run out of, and trees of files that are on disk or gone as a whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SPARE = 1.05


class DiskError(Exception):
    """A file system is full, or would be."""


def check_space(path: Path, needed: int) -> None:
    """Raise DiskError unless the file system that `path` is or will be on takes `needed` bytes and 5 % more."""
    there = path
    while not there.exists():
        there = there.parent
    stats = os.statvfs(there)
    free = stats.f_bavail * stats.f_frsize
    if free < needed * _SPARE:
        raise DiskError(f"{there} has {free} bytes free, the model needs {int(needed * _SPARE)} bytes there")


@contextmanager
def naming_full(path: Path, needed: int) -> Iterator[None]:
    """Turn the error of a file system that is full into a DiskError with the path and the bytes that were needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskError(
            f"{path} is full ({error.strerror}): the model needs {needed} bytes there; what was written is removed"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and all that is in it are on disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
