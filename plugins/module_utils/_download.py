# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Downloads to a file that go on where they broke off, and an HTTPS source for them."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urljoin, urlsplit

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import open_url
from ansible_collections.tf2x.serving.plugins.module_utils import _disk

CHUNK = 1 << 20

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.5
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
# Statuses that may be gone at the next attempt.
PASSING = (408, 429, 500, 502, 503, 504)


class DownloadError(Exception):
    """What was asked for cannot be downloaded."""


class Interrupted(DownloadError):
    """The download broke off; another attempt may succeed."""


@dataclass(frozen=True)
class Part:
    """What a server sends: the bytes from `start` to the end. `size`: of the whole, None when it does not say.

    `start` is 0 or what was asked for.
    """

    start: int
    size: int | None
    chunks: Iterator[bytes]


# Python 3.8 cannot make it.
if TYPE_CHECKING:
    OpenAt = Callable[[int], AbstractContextManager[Part]]
Result = TypeVar("Result")


def retried(call: Callable[[], Result]) -> Result:
    """Return what `call` returns; it is called again, up to five times in all, when it raises Interrupted."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except Interrupted:
            time.sleep(_PAUSE_SECONDS * attempt)
    return call()


def save(open_at: OpenAt, file: Path, *, max_bytes: int) -> str:
    """Download to `file` and return the `sha256:<hex>` of what came.

    `open_at` takes the byte to go on from; the server may begin at the first byte all the same. Raises DownloadError,
    DiskError and OSError.
    """
    done, total = 0, hashlib.sha256()
    with file.open("wb") as writer:

        def go_on() -> None:
            nonlocal done, total
            with open_at(done) as part:
                if part.start != done:
                    done, total = 0, hashlib.sha256()
                    writer.seek(0)
                    writer.truncate()
                if part.size is not None:
                    _check_size(part.size, max_bytes)
                    _disk.check_space(file.parent, part.size - done)
                for chunk in part.chunks:
                    done += len(chunk)
                    _check_size(done, max_bytes)
                    writer.write(chunk)
                    total.update(chunk)
                if part.size is not None and done != part.size:
                    raise Interrupted(f"it broke off after {done} of {part.size} bytes")

        retried(go_on)
    return f"sha256:{total.hexdigest()}"


def check_https(url: str) -> None:
    """Raise DownloadError unless the address is one of HTTPS with a host."""
    parts = _split(url)
    if parts.scheme != "https" or not parts.hostname:
        raise DownloadError(f"{shown(url)} is not an https:// address, and others can be listened to and changed")


def shown(url: str) -> str:
    """Return an address without what may be secret in it: user, password, query."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise DownloadError(f"{url.partition('://')[0]}://… is not an address: {error}") from error


@contextmanager
def https(url: str, start: int, *, timeout: float, ca_path: str | None = None) -> Iterator[Part]:
    """Ask an HTTPS server for the bytes from `start` on; redirects only to HTTPS. Raises DownloadError."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    for _hop in range(_MAX_REDIRECTS + 1):
        check_https(url)
        with _translated(url):
            try:
                response = open_url(
                    url, headers=headers, timeout=timeout, ca_path=ca_path, follow_redirects="no", decompress=False
                )
            except HTTPError as error:
                location = error.headers.get("Location")
                if error.code not in _REDIRECTS or not location:
                    raise
                url = urljoin(url, location)
                error.close()
                continue
            with response:
                yield _part(response, start)
                return
    raise DownloadError(f"it redirects more than {_MAX_REDIRECTS} times, last to {shown(url)}")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        kind = Interrupted if error.code in PASSING else DownloadError
        raise kind(f"{shown(url)} answers {error.code} {error.reason}") from error
    except (URLError, UrlsConnectionError, http.client.InvalidURL) as error:
        reason = getattr(error, "reason", error)
        lasting = isinstance(reason, (ssl.SSLCertVerificationError, UrlsConnectionError, http.client.InvalidURL))
        raise (DownloadError if lasting else Interrupted)(f"{shown(url)} cannot be reached: {reason}") from error
    # Not OSError at large: what fails to be written to disk comes by here too.
    except (http.client.HTTPException, ConnectionError, socket.timeout, ssl.SSLError) as error:
        raise Interrupted(f"{shown(url)} broke off: {error!r}") from error


def _part(response: Any, start: int) -> Part:
    length = response.headers.get("Content-Length")
    rest = int(length) if length and length.isdigit() else None
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    begins = int(match[1]) if response.status == 206 and match else 0
    if begins not in (0, start):
        raise DownloadError(f"the server sends from byte {begins} on, byte {start} was asked for")
    chunks = iter(lambda: response.read(CHUNK), b"")
    return Part(begins, None if rest is None else begins + rest, chunks)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DownloadError(f"it has more than {max_bytes} bytes (max_bytes)")
