# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Archives of models: zip and tar, unpacked without trusting them, and tar written the same for the same files."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Callable

from ansible_collections.tf2x.serving.plugins.module_utils import _disk

MAX_BYTES = 16 << 30
MAX_ENTRIES = 100_000

_CHUNK = 1 << 20
# What is read at once: of a tar archive a chunk or a long name, of a zip archive the list of all its entries.
_TAR_READ, _ZIP_READ = 1 << 20, 64 << 20
_MAX_TAIL = 16 << 20
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    # From tarfile when headers about headers never end, from zipfile when there is something it cannot read.
    RuntimeError,
)


class ArchiveError(Exception):
    """An archive is damaged, or holds what a model has no use for."""


@dataclass(frozen=True)
class Entry:
    """A file or a folder in an archive: its name relative to the archive's top, its size unpacked in bytes."""

    name: str
    size: int
    is_folder: bool


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    refused: str
    open: Callable[[], IO[bytes]]


class _Reader:
    """A file that never gives more than `limit` bytes at once, whatever sizes an archive claims."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.seek, self.tell = stream.seek, stream.tell
        self.last = b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self._limit:
            size = self._limit + 1
        self.last = self._stream.read(size)
        if len(self.last) > self._limit:
            raise ArchiveError(f"a header or a list of entries has more than {self._limit} bytes")
        return self.last

    def seekable(self) -> bool:
        return True


def safe_name(name: str) -> str:
    """Return the shortest form of an entry's name, `.` for the top. Raises ArchiveError when it leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"entry {name!r} leads out of its folder, a relative path with / would be right")
    return str(path)


def entries(archive: Path, *, max_bytes: int | None = MAX_BYTES) -> list[Entry]:
    """Return what an archive would unpack to, of any size if `max_bytes` is None.

    Raises ArchiveError when `unpack` would, except for damage of what is in its files.
    """
    with _readable(archive), _opened(archive) as members:
        return [entry for entry, _unread in _checked(members, max_bytes)]


def unpack(archive: Path, target: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Unpack an archive to `target`, which must not exist; nothing of it stays on failure.

    Raises ArchiveError for damage, for an entry that is neither a plain file nor a folder, for one that leads out of
    the archive or comes twice, and for more than `max_bytes` bytes or MAX_ENTRIES entries. Raises OSError.
    """
    target.mkdir()
    try:
        with _readable(archive), _opened(archive) as members:
            for entry, member in _checked(members, max_bytes):
                path = target / entry.name
                (path if entry.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
                if not entry.is_folder:
                    _write(member, path)
    except BaseException:
        _disk.remove_tree(target)
        raise


def pack(folder: Path, file: Path, *, dry: bool = False) -> tuple[bool, int]:
    """Write a folder to `file` as an uncompressed tar that only depends on names and bytes of what is in it.

    Returns whether that changes `file`, and the size of the tar in bytes. With `dry`, nothing is written. Raises
    ArchiveError, DiskError and OSError.
    """
    if folder in file.parents:
        raise ArchiveError(f"{file} is in {folder} itself, a file elsewhere would be right")
    comparison = _Comparison(file)
    _write_tar(folder, comparison)
    size, same = comparison.size, comparison.close()
    if same or dry:
        return not same, size
    _disk.check_space(file.parent, size)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with _disk.naming_full(file.parent, size):
            with os.fdopen(descriptor, "wb") as stream:
                _write_tar(folder, stream)
            Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise
    return True, size


def _write_tar(folder: Path, stream: Any) -> None:
    # GNU's format has names and sizes of any length, and nothing beyond them that is not set here.
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.uname = info.gname = "root"
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
                continue
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                tar.addfile(info, content)


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(f"{archive}: {error}") from error
    except _DAMAGED as error:
        raise ArchiveError(f"{archive} is damaged or cut off: {error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    with ExitStack() as stack:
        stream = stack.enter_context(archive.open("rb"))
        head = stream.read(512)
        stream.seek(0)
        if head[:4] in (b"PK\3\4", b"PK\5\6"):
            yield _zip_members(stack.enter_context(zipfile.ZipFile(_Reader(stream, _ZIP_READ))))
        elif head[:2] == b"\x1f\x8b":
            yield _tar_members(stack.enter_context(gzip.GzipFile(fileobj=stream)))
        elif head[257:262] == b"ustar":
            yield _tar_members(stream)
        else:
            raise ArchiveError(f"it is neither zip nor tar nor tar.gz: it begins with {head[:16]!r}")


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        refused = ""
        if info.flag_bits & 1:
            refused = "encrypted"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            refused = "neither a plain file nor a folder"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            refused = "compressed in a way other than deflate"
        yield _Member(info.filename, info.file_size, info.is_dir(), refused, lambda info=info: archive.open(info))


def _tar_members(stream: Any) -> Iterator[_Member]:
    reader = _Reader(stream, _TAR_READ)
    with tarfile.open(fileobj=reader, mode="r:") as tar:
        for info in tar:
            refused = "" if info.isdir() or (info.isreg() and not info.issparse()) else _tar_kind(info)
            size = 0 if info.isdir() else info.size
            yield _Member(info.name, size, info.isdir(), refused, lambda info=info: tar.extractfile(info))
    # tarfile takes a damaged header for the end.
    if len(reader.last) != tarfile.BLOCKSIZE or any(reader.last):
        raise ArchiveError("it is damaged or cut off: it does not end as a tar archive does")
    # A gzip file has its checksum at its very end.
    tail = 0
    for chunk in iter(lambda: reader.read(_TAR_READ), b""):
        tail += len(chunk)
        if tail > _MAX_TAIL:
            raise ArchiveError(f"more than {_MAX_TAIL} bytes follow after its end")


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return f"a link to {info.linkname!r}"
    return "a sparse file" if info.isreg() else "neither a plain file nor a folder"


def _checked(members: Iterator[_Member], max_bytes: int | None) -> Iterator[tuple[Entry, _Member]]:
    total = 0
    kinds = {".": True}
    for number, member in enumerate(members, 1):
        if number > MAX_ENTRIES:
            raise ArchiveError(f"it has more than {MAX_ENTRIES} entries")
        if member.refused:
            raise ArchiveError(f"entry {member.name!r} is {member.refused}; plain files and folders would be right")
        entry = Entry(safe_name(member.name), member.size, member.is_folder)
        total += entry.size
        if max_bytes is not None and total > max_bytes:
            raise ArchiveError(f"it unpacks to more than {max_bytes} bytes (max_bytes)")
        # Folders that are listed twice do no harm.
        if kinds.get(entry.name, entry.is_folder) != entry.is_folder or (not entry.is_folder and entry.name in kinds):
            raise ArchiveError(f"entry {entry.name!r} is there twice")
        kinds[entry.name] = entry.is_folder
        for parent in PurePosixPath(entry.name).parents:
            if not kinds.setdefault(str(parent), True):
                raise ArchiveError(f"entry {str(parent)!r} is there twice, as a file and as a folder")
        yield entry, member


def _write(member: _Member, path: Path) -> None:
    written = 0
    with member.open() as reader, path.open("xb") as writer:
        for chunk in iter(lambda: reader.read(_CHUNK), b""):
            written += len(chunk)
            if written > member.size:
                break
            writer.write(chunk)
    if written != member.size:
        raise ArchiveError(f"entry {member.name!r} does not have the {member.size} bytes that it claims")


class _Comparison:
    """A stream that takes what is written to it for comparison with a file: `size` in bytes, `same` at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb") if file.is_file() else None
        self._same = self._file is not None
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self._same = self._same and self._file.read(len(data)) == bytes(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def close(self) -> bool:
        """Return whether the file holds just what was written."""
        if self._file is None:
            return False
        with self._file:
            return self._same and os.fstat(self._file.fileno()).st_size == self.size
