# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Objects in Google Cloud Storage, listed and downloaded over its JSON API."""

from __future__ import annotations

import base64
import hashlib
import mmap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.tf2x.serving.plugins.module_utils import _download, _warmup

try:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from google.oauth2 import service_account
    from requests.exceptions import RequestException

    _IMPORT_ERROR = None
except ImportError:
    _IMPORT_ERROR = traceback.format_exc()

try:
    import google_crc32c
except ImportError:
    google_crc32c = None

ENDPOINT = "https://storage.googleapis.com"

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_FIELDS = "name,size,generation,md5Hash,crc32c,contentEncoding"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class GcsError(Exception):
    """Cloud Storage refuses, or does not have what was asked for. `details`: a traceback for the user."""

    def __init__(self, message: str, *, details: str | None = None) -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class StoredObject:
    """`size` in bytes; `md5` and `crc32c` in base64 as Cloud Storage has them, None where it has none."""

    name: str
    size: int
    generation: str
    md5: str | None
    crc32c: str | None


class Bucket:
    """A bucket, read with the credentials of a service account's key file or those that the environment has."""

    def __init__(self, name: str, *, endpoint: str, service_account_file: str | None, timeout: float) -> None:
        """Raise GcsError when google-auth or credentials are missing; nothing is asked of Cloud Storage yet."""
        if _IMPORT_ERROR:
            raise GcsError(missing_required_lib("google-auth with requests"), details=_IMPORT_ERROR)
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise GcsError(f"gcs_endpoint is {endpoint}, an https:// address would be right: a token is sent there")
        self._name, self._timeout = name, timeout
        self._url = f"{endpoint.rstrip('/')}/storage/v1/b/{quote(name, safe='')}/o"
        self._session = AuthorizedSession(_credentials(service_account_file))

    def find(self, path: str) -> list[StoredObject]:
        """Return the object `path`, or else all objects in the folder `path`. Raises GcsError when there is none."""
        if path and not path.endswith("/"):
            found = self._json(f"{self._url}/{quote(path, safe='')}", {"fields": _FIELDS}, or_none=True)
            if found is not None:
                return [self._object(found)]
        prefix = path.rstrip("/") + "/" if path.strip("/") else ""
        # Objects with a name that ends so stand for folders.
        found = [one for one in self._list(prefix) if not one["name"].endswith("/")]
        if not found:
            raise GcsError(f"gs://{self._name}/{path} does not exist: no object has that name, and none is below it")
        return [self._object(one) for one in found]

    def save(self, stored: StoredObject, file: Path, *, max_bytes: int) -> str:
        """Download the generation that was found, check it and return its `sha256:<hex>`.

        Raises GcsError, DownloadError, DiskError and OSError.
        """
        about = f"gs://{self._name}/{stored.name}"
        digest = _download.save(lambda start: self._open(stored, start), file, max_bytes=max_bytes)
        if stored.md5:
            kind, wanted, found = "MD5", stored.md5, _md5(file)
        elif stored.crc32c:
            kind, wanted, found = "CRC32C", stored.crc32c, _crc32c(file)
        else:
            raise GcsError(f"{about} has neither an MD5 nor a CRC32C to be checked by")
        if wanted != found:
            raise GcsError(f"{about} was damaged on its way: its {kind} is {wanted}, what came has {found}")
        return digest

    def _list(self, prefix: str) -> Iterator[dict[str, Any]]:
        query = {"prefix": prefix, "fields": f"items({_FIELDS}),nextPageToken"}
        while True:
            page = self._json(self._url, query)
            yield from page.get("items", [])
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    def _object(self, found: dict[str, Any]) -> StoredObject:
        if found.get("contentEncoding"):
            raise GcsError(
                f"gs://{self._name}/{found['name']} is stored with Content-Encoding {found['contentEncoding']}; "
                "upload it as it is"
            )
        return StoredObject(
            found["name"], int(found["size"]), found["generation"], found.get("md5Hash"), found.get("crc32c")
        )

    @contextmanager
    def _open(self, stored: StoredObject, start: int) -> Iterator[_download.Part]:
        url = f"{self._url}/{quote(stored.name, safe='')}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        query = {"alt": "media", "generation": stored.generation}
        with self._asked(url, query, f"gs://{self._name}/{stored.name}", headers=headers, stream=True) as response:
            begins = start if response.status_code == 206 else 0
            yield _download.Part(begins, stored.size, response.iter_content(_download.CHUNK))

    def _json(self, url: str, query: dict[str, str], *, or_none: bool = False) -> Any:
        def ask() -> Any:
            with self._asked(url, query, f"gs://{self._name}", missing_will_do=or_none) as response:
                return response.json() if response.ok else None

        return _download.retried(ask)

    @contextmanager
    def _asked(
        self, url: str, query: dict[str, str], about: str, *, missing_will_do: bool = False, **options: Any
    ) -> Iterator[Any]:
        try:
            with self._session.get(url, params=query, timeout=self._timeout, **options) as response:
                if not (missing_will_do and response.status_code == 404):
                    _check_status(about, response)
                yield response
        except GoogleAuthError as error:
            raise GcsError(f"no access token for {about}: {error}") from error
        except RequestException as error:
            raise _download.Interrupted(f"{about} broke off or cannot be reached: {error}") from error


def _credentials(service_account_file: str | None) -> Any:
    if service_account_file:
        try:
            return service_account.Credentials.from_service_account_file(service_account_file, scopes=[_SCOPE])
        except (OSError, ValueError, GoogleAuthError) as error:
            raise GcsError(
                f"service_account_file {service_account_file} cannot be used: {error}; "
                "the JSON key of a service account would be right"
            ) from error
    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except DefaultCredentialsError as error:
        raise GcsError(
            f"there are no credentials for Google Cloud: {error} Set service_account_file or the environment variable "
            "GOOGLE_APPLICATION_CREDENTIALS, or log in with 'gcloud auth application-default login'."
        ) from error


def _check_status(about: str, response: Any) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = response.text[:200].strip() or response.reason
    if status in _download.PASSING:
        raise _download.Interrupted(f"{about} answers {status}: {reason}")
    meaning = {
        401: "the credentials are not accepted",
        403: "the credentials may not read it; the role Storage Object Viewer would be right",
        404: "it does not exist, or no longer in the generation that was listed",
    }
    raise GcsError(f"{about} answers {status}, {meaning.get(status, 'which is not expected')}: {reason}")


def _md5(file: Path) -> str:
    total = hashlib.md5(usedforsecurity=False)
    for chunk in _chunks(file):
        total.update(chunk)
    return base64.b64encode(total.digest()).decode()


def _crc32c(file: Path) -> str:
    crc = 0
    if google_crc32c:
        for chunk in _chunks(file):
            crc = google_crc32c.extend(crc, chunk)
    elif file.stat().st_size:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Iterating over the map itself gives no numbers.
            crc = _warmup.crc32c(memoryview(content))
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        yield from iter(lambda: stream.read(_download.CHUNK), b"")
