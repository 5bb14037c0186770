#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
version_added: 0.1.0
short_description: Write several small files in one go
description:
  - Writes the files that differ from what is wanted, each by renaming a complete one into its place.
  - All files that differ are validated before the first one is written, so that a refused one leaves all of them as
    they are.
  - One call stands for many of M(ansible.builtin.template), each of which takes several round trips.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
attributes:
  check_mode:
    support: full
    details:
      - Nothing is validated in check mode, since what validates may not be installed yet.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  folders:
    description:
      - Folders that must exist, with mode V(0755). Their parents are made as well.
    type: list
    elements: path
    default: []
  files:
    description:
      - The files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Where the file goes. Its folder must exist, or be one of O(folders).
        type: path
        required: true
      content:
        description:
          - What is in it.
          - Ansible before 2.19 makes a structure of text that looks like JSON. It is written as JSON again.
        type: raw
        required: true
      mode:
        description:
          - Its permissions.
        type: str
        default: "0644"
      validate:
        description:
          - Command, as a list, that must succeed before the file is written. V(%s) in it stands for a file with the new
            content.
          - V(%d) in it stands for a folder that holds all O(files) in and below the file's own folder, with their new
            content, for a file that names others. It runs as soon as one of these differs.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: Write the configuration
  tf2x.serving.config_files:
    folders: [/etc/example]
    files:
      - path: /etc/example/main.conf
        content: "{{ lookup('ansible.builtin.template', 'main.conf.j2') }}"
        validate: [example, --check, "%s"]
      - path: /usr/local/bin/example-client
        content: "{{ lookup('ansible.builtin.template', 'client.j2') }}"
        mode: "0755"
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were written, or got other permissions.
  returned: success
  type: list
  elements: str
  sample: [/etc/example/main.conf]
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


@dataclass(frozen=True)
class _File:
    path: str
    content: bytes
    mode: str
    validate: list[str]

    def found(self) -> bytes | None:
        """Return what is there; None where nothing is."""
        try:
            return Path(self.path).read_bytes()
        except FileNotFoundError:
            return None


def _content(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, indent=4, sort_keys=True) + "\n"
    return text.encode()


def _prepare(mirror: Path, file: _File) -> Path:
    """Write the content to a temporary file, in a tree like that of the files, and return where it is."""
    prepared = mirror / file.path.lstrip("/")
    prepared.parent.mkdir(parents=True, exist_ok=True)
    prepared.write_bytes(file.content)
    # Whoever validates may be another user, in a container that sees the file, or its folder, only.
    prepared.chmod(int(file.mode, 8))
    for folder in prepared.parents:
        if folder == mirror:
            break
        folder.chmod(0o755)
    return prepared


def _concerns(file: _File, differing: list[_File]) -> bool:
    """Tell whether what validates the file sees something new."""
    below = any("%d" in word for word in file.validate)
    return any(file == other or (below and Path(file.path).parent in Path(other.path).parents) for other in differing)


def _validate(module: AnsibleModule, file: _File, prepared: Path) -> None:
    command = [word.replace("%s", str(prepared)).replace("%d", str(prepared.parent)) for word in file.validate]
    status, output, errors = module.run_command(command)
    if status != 0:
        module.fail_json(
            msg=f"{file.path}: the new content was refused, and nothing was written: `{' '.join(command)}` ended "
            f"with {status}: {(errors.strip() or output.strip())}",
            rc=status,
            stdout=output,
            stderr=errors,
        )


def _make_folders(module: AnsibleModule, folders: list[str]) -> bool:
    changed = False
    for folder in folders:
        if not Path(folder).is_dir():
            changed = True
            if not module.check_mode:
                try:
                    Path(folder).mkdir(parents=True, mode=0o755)
                except OSError as error:
                    module.fail_json(msg=f"{folder}: cannot be made: {error}")
        # In check mode there may be nothing to look at.
        if Path(folder).is_dir():
            changed = module.set_mode_if_different(folder, "0755", changed)
    return changed


def _check_folders(module: AnsibleModule, files: list[_File]) -> None:
    for file in files:
        if not Path(file.path).parent.is_dir():
            module.fail_json(
                msg=f"{file.path}: its folder does not exist, and is not one of folders; nothing was written"
            )


def _diff(file: _File, before: bytes | None) -> dict[str, str]:
    return {
        "before_header": file.path,
        "after_header": file.path,
        "before": (before or b"").decode(errors="replace"),
        "after": file.content.decode(),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "path", "default": []},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "raw", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "validate": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    for one in module.params["files"]:
        if not re.fullmatch("[0-7]{3,4}", one["mode"]):
            module.fail_json(msg=f"{one['path']}: mode is {one['mode']}; right are octal digits, such as '0644'")
    files = [
        _File(one["path"], _content(one["content"]), one["mode"], one["validate"]) for one in module.params["files"]
    ]
    changed = _make_folders(module, module.params["folders"])
    changed_files = []
    diffs = []
    try:
        found = [(file, file.found()) for file in files]
        differing = [file for file, before in found if before != file.content]
        diffs = [_diff(file, before) for file, before in found if file in differing]
        if differing and not module.check_mode:
            _check_folders(module, files)
            prepared = [(file, _prepare(Path(module.tmpdir, "config-files"), file)) for file in files]
            for file, temporary in prepared:
                if file.validate and _concerns(file, differing):
                    _validate(module, file, temporary)
            for file, temporary in prepared:
                if file in differing:
                    module.atomic_move(str(temporary), file.path)
    except OSError as error:
        module.fail_json(msg=f"cannot be written: {error}")
    for file, before in found:
        other = before != file.content
        if Path(file.path).exists():
            other = module.set_mode_if_different(file.path, file.mode, other)
        if other:
            changed_files.append(file.path)
    result = {"diff": diffs} if module._diff else {}
    module.exit_json(changed=changed or bool(changed_files), changed_files=changed_files, **result)


if __name__ == "__main__":
    main()
