#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tf_serving_model_source
version_added: 0.1.0
short_description: Bring a SavedModel from wherever it is into a folder
description:
  - Takes a model from a folder, an archive, an HTTPS server or Google Cloud Storage, and tells in which folder the
    SavedModel then is, for M(tf2x.serving.tf_serving_model) to inspect and publish.
  - What comes over a network is checked by its checksum while it comes, and goes on where it broke off.
  - Archives are not trusted. Links, devices, encrypted entries, entries that come twice and paths that lead out of the
    archive are refused, and so is what unpacks to more than O(max_bytes) bytes or 100,000 entries.
  - O(dest) holds the model as a whole or is as it was before.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.no_diff
requirements:
  - google-auth and requests, for C(gs://) sources only
options:
  source:
    description:
      - A folder, which is used in place and not copied.
      - A file that is a zip, tar or tar.gz archive, whatever its name.
      - An address C(https://...) of such an archive. O(checksum) is required then.
      - C(gs://bucket/path), where the path is such an archive, or a folder of objects.
      - In all of them, the SavedModel may be at the top, in folders, or in a numbered folder that tells its version.
        Several versions must be in numbered folders side by side. In a folder, no more than two levels are looked at.
    type: str
    required: true
  dest:
    description:
      - Folder for the model. Its parent folders are made when they are missing.
      - A folder that holds anything that this module did not put there is refused. Not used when O(source) is a folder.
    type: path
    required: true
  checksum:
    description:
      - C(sha256:) and the SHA-256 in hexadecimal digits that the archive must have.
      - Where O(source) is a folder or a folder of objects, the digest that the SavedModel must have, as
        M(tf2x.serving.tf_serving_model) returns it.
    type: str
  max_bytes:
    description:
      - How many bytes may be downloaded, and how many an archive may unpack to.
    type: int
    default: 17179869184
  timeout:
    description:
      - How many seconds a server may be silent.
    type: int
    default: 30
  ca_path:
    description:
      - File with certificates of authorities to trust for an C(https://) source. Those of the system by default.
    type: path
  service_account_file:
    description:
      - Key file of the service account that reads a C(gs://) source.
      - By default, the application default credentials are used, that is the file that the environment variable
        E(GOOGLE_APPLICATION_CREDENTIALS) names, the user's own login, or the account of the machine in Google Cloud.
    type: path
  gcs_endpoint:
    description:
      - Address of Google Cloud Storage, to be changed where it is reached over a private address.
    type: str
    default: https://storage.googleapis.com
notes:
  - Meant for the controller, with C(delegate_to) V(localhost).
  - In check mode, archives on the controller are looked into but not unpacked, and nothing is downloaded. RV(folder) is
    then where the SavedModel would be, and V(null) when that is not known without the download.
seealso:
  - module: tf2x.serving.tf_serving_model
"""

EXAMPLES = r"""
- name: Bring a model from a web server
  tf2x.serving.tf_serving_model_source:
    source: https://models.example.com/pets-3.tar.gz
    checksum: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    dest: /var/tmp/tf2x/pets
  delegate_to: localhost
  register: pets

- name: Bring one from Google Cloud Storage
  tf2x.serving.tf_serving_model_source:
    source: gs://example-models/pets/3
    service_account_file: ~/.config/tf2x/reader.json
    dest: /var/tmp/tf2x/pets
  delegate_to: localhost
  register: pets

- name: See what it is
  tf2x.serving.tf_serving_model:
    state: inspected
    source: "{{ pets.folder }}"
  delegate_to: localhost
"""

RETURN = r"""
kind:
  description: What O(source) is, one of V(folder), V(archive), V(https) and V(gs).
  returned: success
  type: str
  sample: https
source:
  description: O(source) without what may be secret in an address, user, password and query.
  returned: success
  type: str
  sample: https://models.example.com/pets-3.tar.gz
folder:
  description:
    - The folder that is the SavedModel, or that holds its versions in numbered folders.
    - V(null) in check mode when only the download would tell.
  returned: success
  type: str
  sample: /var/tmp/tf2x/pets/model/pets/3
version:
  description: The version that a numbered folder tells. V(null) when none does, or several do.
  returned: success
  type: int
  sample: 3
versions:
  description: All versions that numbered folders tell, oldest first.
  returned: success
  type: list
  elements: int
  sample: [3]
checksum:
  description: SHA-256 of the archive. V(null) for folders, and in check mode when it was not downloaded.
  returned: success
  type: str
  sample: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
msg:
  description: What was done, or would be done in check mode.
  returned: success
  type: str
  sample: downloaded and unpacked
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils import (
    _archive,
    _disk,
    _download,
    _gcs,
    _model_store,
    _saved_model,
)
from ansible_collections.tf2x.serving.plugins.module_utils._digest import sha256

_FORMAT = 1


class _Failure(Exception):
    """A message for the user."""


@dataclass(frozen=True)
class _Errand:
    """A model that is not in a folder yet.

    `identity`: equal for equal content; `foreseen`: where the SavedModel will be, None when only the content tells;
    `own_version`: the version that the source's own name tells, for a SavedModel at its top; `fetch`: fills a folder
    that does not exist yet, with another for temporary files, and returns the checksum of the archive, if it was one.
    """

    kind: str
    identity: str
    foreseen: _saved_model.Location | None
    own_version: int | None
    fetch: Callable[[Path, Path], str | None]


@dataclass(frozen=True)
class _Marker:
    """What a destination tells of the model in it. `digest`: of the SavedModel, or of the folder with the versions."""

    identity: str
    checksum: str | None
    digest: str
    format: int = _FORMAT


class _Destination:
    """A folder with a model that was brought, and a marker that tells which."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        self._folder, self._marker = folder, folder / "source.json"
        self._incoming = folder.parent / f".{folder.name}.incoming"
        self._removed = folder.parent / f".{folder.name}.removed"

    def kept(self, identity: str) -> tuple[_Marker, _saved_model.Location] | None:
        """Return marker and place of the model when it is of that identity and nobody has changed it since."""
        try:
            marker = _Marker(**json.loads(self._marker.read_text(encoding="utf-8")))
            if (marker.format, marker.identity) != (_FORMAT, identity):
                return None
            found = _saved_model.locate(_names(self.model))
            intact = _model_store.digest(self.model / found.folder) == marker.digest
        except (OSError, ValueError, TypeError, _model_store.StoreError):
            return None
        return (marker, found) if intact else None

    def check_usable(self) -> None:
        if not self._folder.exists() or self._marker.is_file():
            return
        if not self._folder.is_dir() or any(self._folder.iterdir()):
            raise _Failure(f"dest {self._folder} holds what this module did not put there, name another folder")

    @contextmanager
    def replaced(self) -> Iterator[Path]:
        """Give an empty folder that takes the place of the destination if all goes well, and disappears if not."""
        self._incoming.parent.mkdir(parents=True, exist_ok=True)
        _disk.remove_tree(self._incoming)
        _disk.remove_tree(self._removed)
        self._incoming.mkdir(mode=0o700)
        try:
            yield self._incoming
            if self._folder.exists():
                self._folder.rename(self._removed)
            self._incoming.rename(self._folder)
        except BaseException:
            if self._removed.exists():
                self._removed.rename(self._folder)
            _disk.remove_tree(self._incoming)
            raise
        _disk.remove_tree(self._removed)

    def mark(self, incoming: Path, marker: _Marker) -> None:
        (incoming / self._marker.name).write_text(json.dumps(asdict(marker), indent=2) + "\n", encoding="utf-8")


def _bring(module: AnsibleModule) -> dict[str, Any]:
    params = dict(module.params, checksum=_checksum_of(module.params["checksum"]))
    source, destination = params["source"], _Destination(Path(params["dest"]).absolute())
    path = _local(source)
    if path and path.is_dir():
        return _used_in_place(path, params["checksum"])
    errand = _errand(params, path)
    shown = _download.shown(source) if "://" in source else source

    def result(changed: bool, checksum: str | None, found: _saved_model.Location | None, done: str) -> dict[str, Any]:
        place = _place(destination.model, found, errand.own_version)
        return {"changed": changed, "kind": errand.kind, "source": shown, "checksum": checksum, "msg": done, **place}

    kept = destination.kept(errand.identity)
    if kept:
        marker, found = kept
        _check(shown, marker.checksum or marker.digest, params["checksum"])
        return result(False, marker.checksum, found, f"{destination.model} holds it already")
    destination.check_usable()
    if module.check_mode:
        return result(True, None, errand.foreseen, f"would be brought to {destination.model}")
    with destination.replaced() as incoming:
        model = incoming / destination.model.name
        checksum = errand.fetch(model, incoming)
        found = _locate(shown, _names(model))
        digest = _model_store.digest(model / found.folder)
        _check(shown, checksum or digest, params["checksum"])
        destination.mark(incoming, _Marker(errand.identity, checksum, digest))
    return result(True, checksum, found, f"brought to {destination.model}")


def _local(source: str) -> Path | None:
    if "://" in source:
        return None
    path = Path(os.path.expandvars(source)).absolute()
    if not path.exists():
        raise _Failure(f"source {path} does not exist")
    return path


def _errand(params: dict[str, Any], path: Path | None) -> _Errand:
    if path:
        return _archive_errand(params, path)
    scheme = params["source"].partition("://")[0]
    if scheme == "https":
        return _https_errand(params)
    if scheme == "gs":
        return _gs_errand(params)
    advice = "; with http, anybody could change the model on its way" if scheme == "http" else ""
    raise _Failure(
        f"source {_download.shown(params['source'])} has the scheme {scheme}, a folder, an archive, https:// or gs:// "
        f"would be right{advice}"
    )


def _used_in_place(path: Path, wanted: str | None) -> dict[str, Any]:
    graphs = [file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}{_saved_model.GRAPH_FILE}")]
    found = _locate(str(path), (file.relative_to(path).as_posix() for file in graphs))
    if wanted:
        _check(str(path / found.folder), _model_store.digest(path / found.folder), wanted)
    return {
        "changed": False,
        "kind": "folder",
        "source": str(path),
        "checksum": None,
        "msg": "used in place",
        **_place(path, found, _saved_model.version_of(path.resolve().name)),
    }


def _archive_errand(params: dict[str, Any], path: Path) -> _Errand:
    checksum = f"sha256:{sha256(path)}"
    _check(str(path), checksum, params["checksum"])
    entries = _archive.entries(path, max_bytes=params["max_bytes"])
    foreseen = _locate(str(path), (entry.name for entry in entries if not entry.is_folder))

    def fetch(model: Path, _temporary: Path) -> str:
        _unpack(path, model, params["max_bytes"])
        return checksum

    return _Errand("archive", checksum, foreseen, None, fetch)


def _https_errand(params: dict[str, Any]) -> _Errand:
    url, wanted = params["source"], params["checksum"]
    _download.check_https(url)
    if not wanted:
        raise _Failure(f"source {_download.shown(url)} needs checksum, the archive's sha256:<hex> would be right")
    open_at = partial(_download.https, url, timeout=params["timeout"], ca_path=params["ca_path"])

    def fetch(model: Path, temporary: Path) -> str:
        file = temporary / "download"
        checksum = _save(file, partial(_download.save, open_at), params["max_bytes"])
        _check(_download.shown(url), checksum, wanted)
        _unpack(file, model, params["max_bytes"])
        file.unlink()
        return checksum

    return _Errand("https", wanted, None, None, fetch)


def _gs_errand(params: dict[str, Any]) -> _Errand:
    source, max_bytes = params["source"], params["max_bytes"]
    bucket_name, _separator, path = source.partition("://")[2].partition("/")
    if not bucket_name:
        raise _Failure(f"source {source} names no bucket, gs://bucket/path would be right")
    bucket = _gcs.Bucket(
        bucket_name,
        endpoint=params["gcs_endpoint"],
        service_account_file=params["service_account_file"],
        timeout=params["timeout"],
    )
    objects = bucket.find(path)
    size = sum(stored.size for stored in objects)
    if size > max_bytes:
        raise _Failure(f"{source} has {size} bytes, but max_bytes is {max_bytes}")
    if len(objects) > _archive.MAX_ENTRIES:
        raise _Failure(f"{source} has {len(objects)} objects, at most {_archive.MAX_ENTRIES} would be right")
    content = json.dumps([[one.name, one.size, one.md5, one.crc32c] for one in objects])
    identity = f"{source} sha256:{hashlib.sha256(content.encode()).hexdigest()}"

    def fetch_archive(model: Path, temporary: Path) -> str:
        file = temporary / "download"
        checksum = _save(file, partial(bucket.save, objects[0]), max_bytes)
        _check(source, checksum, params["checksum"])
        _unpack(file, model, max_bytes)
        file.unlink()
        return checksum

    if objects[0].name == path:
        return _Errand("gs", identity, None, None, fetch_archive)

    top = path.rstrip("/")
    files = {_archive.safe_name(one.name[len(top) :].lstrip("/")): one for one in objects}
    if len(files) != len(objects):
        raise _Failure(f"{source} has objects whose names differ in slashes only; different files would be right")

    def fetch_folder(model: Path, temporary: Path) -> None:
        _disk.check_space(temporary, size)
        for name, stored in files.items():
            file = model / name
            file.parent.mkdir(parents=True, exist_ok=True)
            _save(file, partial(bucket.save, stored), max_bytes)

    own_version = _saved_model.version_of(top.rpartition("/")[2])
    return _Errand("gs", identity, _locate(source, files), own_version, fetch_folder)


def _save(file: Path, save: Callable[..., str], max_bytes: int) -> str:
    try:
        return save(file, max_bytes=max_bytes)
    except OSError as error:
        raise _Failure(f"{file.parent} cannot take the download: {error.strerror or error}") from error


def _unpack(archive: Path, model: Path, max_bytes: int) -> None:
    size = sum(entry.size for entry in _archive.entries(archive, max_bytes=max_bytes))
    _disk.check_space(model, size)
    with _disk.naming_full(model.parent.parent, size):
        _archive.unpack(archive, model, max_bytes=max_bytes)


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob(_saved_model.GRAPH_FILE))


def _locate(about: str, names: Iterable[str]) -> _saved_model.Location:
    try:
        return _saved_model.locate(names)
    except _saved_model.SavedModelError as error:
        raise _Failure(f"{about}: {error}") from error


def _place(base: Path, found: _saved_model.Location | None, own_version: int | None) -> dict[str, Any]:
    if found is None:
        return {"folder": None, "version": None, "versions": []}
    version, versions = found.version, found.versions
    if found.folder == "." and not versions and own_version is not None:
        version, versions = own_version, [own_version]
    return {"folder": str(base / found.folder), "version": version, "versions": versions}


def _checksum_of(given: str | None) -> str | None:
    if given is not None and not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", given):
        raise _Failure(f"checksum is {given}, sha256: and 64 hexadecimal digits would be right")
    return given.lower() if given else None


def _check(about: str, found: str, wanted: str | None) -> None:
    if wanted and found != wanted:
        raise _Failure(f"{about} is {found}, but checksum asks for {wanted}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "checksum": {"type": "str"},
            "max_bytes": {"type": "int", "default": _archive.MAX_BYTES},
            "timeout": {"type": "int", "default": 30},
            "ca_path": {"type": "path"},
            "service_account_file": {"type": "path"},
            "gcs_endpoint": {"type": "str", "default": _gcs.ENDPOINT},
        },
        supports_check_mode=True,
    )
    try:
        result = _bring(module)
    except _gcs.GcsError as error:
        module.fail_json(msg=str(error), **({"exception": error.details} if error.details else {}))
    except (
        _Failure,
        _archive.ArchiveError,
        _disk.DiskError,
        _download.DownloadError,
        _model_store.StoreError,
        OSError,
    ) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
