#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: resumable_copy
version_added: 0.1.0
short_description: Bring files from the controller to a host, and go on where a broken connection ended
description:
  - Brings what the host lacks, many files in one pack, and big ones in several. After a broken connection, a further
    run goes on with the pack that was under way.
  - Each file is compared with its SHA-256 when it is whole, and has its name only then.
  - Whatever else is in O(dest) is removed.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.no_diff
options:
  src:
    description:
      - Folder on the controller.
    type: path
    required: true
  dest:
    description:
      - Folder on the host. It belongs to this module alone.
    type: path
    required: true
  files:
    description:
      - The files, by path within O(src), each with C(sha256), as M(tf2x.serving.bundle) returns them in
        RV(tf2x.serving.bundle#module:manifest).
      - What was compared once is not read again, as long as it has its size.
    type: dict
    required: true
  pack_bytes:
    description:
      - How many bytes to send at a time. A broken connection loses no more than that.
    type: int
    default: 64000000
  pack:
    description:
      - Where a pack is on the host. For this module's own use.
    type: path
notes:
  - The host needs Python 3.7 or newer, and no network but Ansible's connection.
"""

EXAMPLES = r"""
- name: Bring an archive over a slow line
  tf2x.serving.resumable_copy:
    src: /srv/images
    dest: /var/tmp/images
    files:
      tf_serving.tar.gz: {sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}
"""

RETURN = r"""
missing:
  description: What the host lacked, with check mode, or still lacks.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Path within O(src).
      type: str
    offset:
      description: How many of its bytes are there.
      type: int
sent_bytes:
  description: How many bytes were sent.
  returned: success, without check mode
  type: int
  sample: 64000000
"""

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils._digest import sha256

_PART = ".part"
_LIST = ".compared.json"
_CHUNK = 1 << 20


class _Refused(Exception):
    """What came is not what was to come."""


def _part(path: Path) -> Path:
    return path.with_name(path.name + _PART)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


class _Folder:
    """The folder on the host, with a list of what in it was compared."""

    def __init__(self, path: Path, files: dict[str, Any]) -> None:
        self.path = path
        self.files = files
        self._list = path / _LIST
        self._compared: dict[str, str] = json.loads(self._list.read_text()) if self._list.is_file() else {}

    def strangers(self) -> list[Path]:
        """Return files and folders that are not wanted."""
        files = {self.path / name for name in self.files} | {_part(self.path / name) for name in self.files}
        folders = {folder for file in files for folder in file.parents}
        known = files | {self._list}
        return [path for path in self.path.rglob("*") if path not in (folders if _is_folder(path) else known)]

    def missing(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "offset": self._offset(name)}
            for name, file in self.files.items()
            if self._compared.get(name) != file["sha256"] or not self._is_whole(name)
        ]

    def _is_whole(self, name: str) -> bool:
        path = self.path / name
        return path.is_file() and _size(path) == self.files[name]["size"]

    def _offset(self, name: str) -> int:
        # One that is longer is of another file of that name.
        there = _size(_part(self.path / name))
        return there if there <= self.files[name]["size"] else 0

    def add(self, pack: str) -> None:
        with tarfile.open(pack) as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                if content is None or entry.name not in self.files:
                    raise _Refused(f"{pack} holds {entry.name}, which was not asked for")
                part = _part(self.path / entry.name)
                part.parent.mkdir(parents=True, exist_ok=True)
                with part.open("ab") as file:
                    file.truncate(int(entry.pax_headers["TF2X.offset"]))
                    shutil.copyfileobj(content, file, _CHUNK)
                if _size(part) == self.files[entry.name]["size"]:
                    self._finish(entry.name, part)

    def _finish(self, name: str, part: Path) -> None:
        found, expected = sha256(part), self.files[name]["sha256"]
        if found != expected:
            part.unlink()
            raise _Refused(
                f"{self.path / name} came with the SHA-256 {found}; {expected} was expected. It was removed."
            )
        part.chmod(0o644)
        part.replace(self.path / name)
        self._compared[name] = found
        # As a whole: half a list would end every further run.
        part = _part(self._list)
        part.write_text(json.dumps(self._compared, indent=1, sort_keys=True))
        part.replace(self._list)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "pack_bytes": {"type": "int", "default": 64_000_000},
            "pack": {"type": "path"},
        },
        supports_check_mode=True,
    )
    dest, files, pack = Path(module.params["dest"]), module.params["files"], module.params["pack"]
    os.umask(0o022)
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        module.fail_json(msg=f"files: {', '.join(outside)}: outside of dest; right are paths within it")
    vague = [name for name, file in files.items() if not (isinstance(file, dict) and {"size", "sha256"} <= set(file))]
    if vague:
        module.fail_json(msg=f"files: {', '.join(vague)}: without size and sha256; each file needs both")
    try:
        folder = _Folder(dest, files)
        strangers = folder.strangers()
        if not module.check_mode:
            # What is in a folder comes after it.
            for path in sorted(strangers, reverse=True):
                path.rmdir() if _is_folder(path) else path.unlink()
            if pack:
                folder.add(pack)
        missing = folder.missing()
    except _Refused as error:
        module.fail_json(msg=str(error))
    except (OSError, ValueError, tarfile.TarError) as error:
        module.fail_json(msg=f"{dest}: cannot be read or written: {error}")
    module.exit_json(changed=bool(pack or strangers or missing), missing=missing)


if __name__ == "__main__":
    main()
