# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of M(tf2x.serving.resumable_copy): asks the host what it lacks, and brings that in packs."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_MB = 1_000_000


def pieces(missing: list[dict[str, Any]], sizes: dict[str, int], most: int) -> Iterator[list[tuple[str, int, int]]]:
    """Yield what goes into each pack, C((name, offset, length)), of C(most) bytes altogether; big files are cut."""
    pack: list[tuple[str, int, int]] = []
    room = most
    for one in missing:
        offset, end = one["offset"], sizes[one["name"]]
        while True:
            length = min(end - offset, room)
            pack.append((one["name"], offset, length))
            offset, room = offset + length, room - length
            if room == 0:
                yield pack
                pack, room = [], most
            if offset == end:
                break
    if pack:
        yield pack


def write_pack(source: Path, pack: list[tuple[str, int, int]], target: Path) -> None:
    """Write a pack as a tar archive whose entries say at which offset they belong."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, offset, length in pack:
            entry = tarfile.TarInfo(name)
            entry.size = length
            entry.pax_headers = {"TF2X.offset": str(offset)}
            with (source / name).open("rb") as file:
                file.seek(offset)
                # An entry that the file is too short for would spoil the archive.
                content = file.read(length)
            if len(content) < length:
                raise AnsibleActionFail(f"{source / name} ends before byte {offset + length}")
            archive.addfile(entry, io.BytesIO(content))


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(
            argument_spec={
                "src": {"type": "path", "required": True},
                "dest": {"type": "path", "required": True},
                "files": {"type": "dict", "required": True},
                "pack_bytes": {"type": "int", "default": 64 * _MB},
            }
        )[1]
        source, most = Path(arguments["src"]), arguments["pack_bytes"]
        files: dict[str, dict[str, Any]] = arguments["files"]
        if most < 1:
            raise AnsibleActionFail(f"pack_bytes is {most}; right is how many bytes to send at a time, 1 at least")
        try:
            sizes = {name: (source / name).stat().st_size for name in files}
        except OSError as error:
            raise AnsibleActionFail(f"src: {source}: {error}") from error
        arguments["files"] = {name: {**file, "size": sizes[name]} for name, file in files.items()}

        def ask(**more: Any) -> dict[str, Any]:
            answer = self._execute_module("tf2x.serving.resumable_copy", {**arguments, **more}, task_vars=task_vars)
            return dict(answer)

        state = ask()
        if state.get("failed") or self._task.check_mode:
            return {**result, **state}
        total = sum(sizes[one["name"]] - one["offset"] for one in state["missing"])
        sent = 0
        changed = state["changed"]
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir or self._make_tmp_path(), "pack")
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, "pack")
            for pack in pieces(state["missing"], sizes, most):
                write_pack(source, pack, local)
                self._transfer_file(str(local), remote)
                self._fixup_perms2((self._connection._shell.tmpdir, remote))
                state = ask(pack=remote)
                if state.get("failed"):
                    return {**result, **state}
                sent += sum(length for name, offset, length in pack)
                if total > most:
                    who = (task_vars or {}).get("inventory_hostname", "host")
                    Display().display(f"{who}: {sent / _MB:,.0f} of {total / _MB:,.0f} MB are there")
        return {**result, **state, "changed": changed, "sent_bytes": sent}
