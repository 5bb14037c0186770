#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tf_serving_model
version_added: 0.1.0
short_description: Keep the versions of a model in a TF Serving model store
description:
  - Publishes a SavedModel as a version of a model, lists the versions in the store, and removes them.
  - A model is checked before it is published, without TensorFlow. Its graph must have a signature to call and be tagged
    C(serve), all files of its variables must be there and long enough, and its golden file, if there is one, must fit
    its signature.
  - A version appears in the store as a whole or not at all, so that TF Serving, which looks at the store while it runs,
    never loads half a copy.
  - Versions are never edited. Publishing the same content again changes nothing, publishing other content under a
    version that exists is an error.
  - The golden inputs are written into the published version as TF Serving's warm-up requests, unless the source brings
    warm-up requests of its own. A model that cannot answer them is never taken into service.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) publishes the SavedModel in O(source) as O(version) of model O(name).
      - V(inspected) only checks the SavedModel in O(source) and returns what it holds.
      - V(listed) returns the versions in the store, of the model O(name) or of all.
      - V(absent) removes O(version) from the store. TF Serving unloads a version that disappears.
      - V(pruned) removes all versions but the newest O(keep) and those in O(protected).
    type: str
    choices:
      - present
      - inspected
      - listed
      - absent
      - pruned
    default: present
  source:
    description:
      - Folder on the target that is a SavedModel, or that holds SavedModels in numbered folders.
      - With O(state=present), may be an archive on the target too, tar, tar.gz or zip, with the SavedModel at its top,
        as O(pack) writes it. Then O(version) and O(digest) are required. It is unpacked straight into the store, under
        a name that TF Serving does not see, and its digest is checked before it appears. Links, devices and paths that
        lead out of it are refused.
      - May be left out with O(state=present) when O(digest) is given and the store has that content already.
    type: path
  root:
    description:
      - Folder of the model store. Required unless O(state=inspected).
    type: path
  name:
    description:
      - Name of the model. Required unless O(state) is V(inspected) or V(listed).
    type: str
  version:
    description:
      - Version of the model, a number from 1 up.
      - Defaults to the name of the numbered folder when O(source) holds just one.
    type: int
  digest:
    description:
      - Digest that the content must have, as this module returns it in RV(digest).
      - Guards the way from the controller to the target. Once the store has this content, O(source) is not looked at
        any more, so it need not be copied to the target again.
    type: str
  size_bytes:
    description:
      - Size of the model as this module returns it in RV(size_bytes), for O(state=present) in check mode with O(digest)
        when O(source) is not there yet. The module then fails when the store has no room for it.
      - So every target can be asked before the model is copied to any. Room for the copy itself is not included.
    type: int
  labels:
    description:
      - What the gateway declares the scores to stand for, in order, for O(state=inspected).
      - The module fails when the golden file has other labels or the same in another order, or when no output of the
        signature can have as many scores. An output of open size can have any number.
    type: list
    elements: str
  input:
    description:
      - What the gateway declares about the model's input, for O(state=inspected). The module fails when the signature
        has it otherwise. What is left out is not checked.
    type: dict
    suboptions:
      name:
        description:
          - Name of the input. May be left out when the signature has just one.
        type: str
      height:
        description:
          - Height of the images in pixels.
        type: int
      width:
        description:
          - Width of the images in pixels.
        type: int
      signature_name:
        description:
          - Signature that the gateway calls, with which O(labels) are compared too. Defaults to that of the golden
            file, and without one to V(serving_default).
        type: str
  golden_required:
    description:
      - Whether O(state=inspected) fails for a model without a golden file.
    type: bool
    default: false
  pack:
    description:
      - File to write the SavedModel to with O(state=inspected), as an uncompressed tar to be copied to the targets in
        one piece. Only readable by the user that runs the module.
      - Equal models give equal files. A file that holds this model already is left alone.
    type: path
  digests:
    description:
      - Whether O(state=listed) computes digests, for which it reads every byte of every version.
    type: bool
    default: true
  owner:
    description:
      - User that owns the published files. The user that runs the module by default.
    type: str
  group:
    description:
      - Group that owns the published files. The group of the user that runs the module by default.
    type: str
  mode:
    description:
      - Mode of the published files and folders. A symbolic mode with V(X) suits both.
    type: str
    default: u=rwX,go=rX
  keep:
    description:
      - How many of the newest versions to keep with O(state=pruned), from 1 up.
    type: int
  protected:
    description:
      - Versions to keep with O(state=pruned) however old they are, such as those that a label points to.
    type: list
    elements: int
    default: []
notes:
  - In check mode, O(state=present) with O(digest) does not mind an O(source) that is not there, because the task that
    copies it to the target did nothing either. It fails all the same when O(version) is there with another digest.
seealso:
  - module: tf2x.serving.tf_serving_model_source
"""

EXAMPLES = r"""
- name: Check a model on the controller before anything changes
  tf2x.serving.tf_serving_model:
    state: inspected
    source: files/models/pets
    labels: [cat, dog]
    input:
      height: 380
      width: 380
    golden_required: true
    pack: /var/tmp/pets.tar
  delegate_to: localhost
  register: pets

- name: Make sure that every node can take it
  tf2x.serving.tf_serving_model:
    root: /opt/tf2x/models
    name: pets
    version: "{{ pets.version }}"
    digest: "{{ pets.digest }}"
    size_bytes: "{{ pets.size_bytes }}"
  check_mode: true

- name: Copy it to the nodes
  ansible.builtin.copy:
    src: /var/tmp/pets.tar
    dest: /opt/tf2x/staging/pets.tar
    mode: "0600"

- name: Publish it
  tf2x.serving.tf_serving_model:
    source: /opt/tf2x/staging/pets.tar
    root: /opt/tf2x/models
    name: pets
    version: "{{ pets.version }}"
    digest: "{{ pets.digest }}"

- name: List the versions of a model
  tf2x.serving.tf_serving_model:
    state: listed
    root: /opt/tf2x/models
    name: pets
  register: store

- name: Keep the newest three versions and the one that is labelled stable
  tf2x.serving.tf_serving_model:
    state: pruned
    root: /opt/tf2x/models
    name: pets
    keep: 3
    protected: [2]
"""

RETURN = r"""
version:
  description: The version that was published, checked or removed. V(null) when the source does not tell it.
  returned: success and O(state) is V(present), V(inspected) or V(absent)
  type: int
  sample: 1
folder:
  description: The folder of the version in the store, or of the SavedModel that was inspected.
  returned: success and O(state) is V(present), V(inspected) or V(absent)
  type: str
  sample: /opt/tf2x/models/pets/1
digest:
  description: Digest of the content, over all files but the warm-up requests.
  returned: success and O(state) is V(present) or V(inspected)
  type: str
  sample: sha256:5d9474c0309b7ca09a182d888f73b37a8fe1362c4f6b9b0a6d2e6c0f5c7c0f5e
size_bytes:
  description: Size of all files that were inspected.
  returned: success and O(state=inspected)
  type: int
  sample: 1432211
packed_bytes:
  description: Size of the file that O(pack) names, in check mode as it would be.
  returned: success and O(state) is V(inspected) and O(pack) is set
  type: int
  sample: 1443840
tags:
  description: Tags of the graph that is served.
  returned: success and O(state=inspected)
  type: list
  elements: str
  sample: [serve]
tensorflow_version:
  description: TensorFlow that saved the model.
  returned: success and O(state=inspected)
  type: str
  sample: 2.21.0
signatures:
  description: The model's signatures by name. A shape has -1 for a size that is open and is V(null) for an open rank.
  returned: success and O(state=inspected)
  type: dict
  sample:
    serving_default:
      name: serving_default
      method_name: tensorflow/serving/predict
      inputs:
        image:
          dtype: DT_FLOAT
          shape: [-1, 380, 380, 3]
      outputs:
        scores:
          dtype: DT_FLOAT
          shape: [-1, 2]
golden:
  description: What the golden file holds. V(null) when the model has none.
  returned: success and O(state=inspected)
  type: dict
  contains:
    signature_name:
      description: The signature that the cases call.
      type: str
    tolerance:
      description: Largest absolute difference that an output may have.
      type: float
    labels:
      description: What the scores stand for, in order.
      type: list
      elements: str
    cases:
      description: Names of the cases.
      type: list
      elements: str
    images:
      description: Names of the image files that belong to cases.
      type: list
      elements: str
  sample:
    signature_name: serving_default
    tolerance: 0.0001
    labels: [cat, dog]
    cases: [cat-1]
    images: [golden-cat-1.png]
versions:
  description:
    - The versions in the store after the run, oldest first. In check mode, as they would be.
    - With O(state=inspected), the versions in O(source); empty when it is itself a SavedModel.
  returned: success, unless all models are listed
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: int
    digest:
      description: Digest of its content, without the warm-up requests. V(null) with O(digests=false).
      type: str
    size_bytes:
      description: Size of all its files. V(null) in check mode for a version that would be unpacked or copied first.
      type: int
  sample:
    - version: 1
      digest: sha256:5d9474c0309b7ca09a182d888f73b37a8fe1362c4f6b9b0a6d2e6c0f5c7c0f5e
      size_bytes: 1432211
models:
  description: The versions of each model by its name, as in RV(versions).
  returned: success and O(state=listed) without O(name)
  type: dict
  sample:
    pets:
      - version: 1
        digest: sha256:5d9474c0309b7ca09a182d888f73b37a8fe1362c4f6b9b0a6d2e6c0f5c7c0f5e
        size_bytes: 1432211
removed:
  description: The versions that were removed.
  returned: success and O(state) is V(absent) or V(pruned)
  type: list
  elements: int
  sample: [1]
"""

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils import _archive, _disk, _model_store, _saved_model, _warmup


class _Failure(Exception):
    """A message for the user."""


def _source_dir(source: str | None, version: int | None) -> tuple[Path, int | None]:
    """Return the folder of the SavedModel to take and its version, None when nothing tells it."""
    if not source:
        raise _Failure("source is missing, the folder with the SavedModel would be right")
    folder = Path(source)
    if folder.is_file():
        raise _Failure(f"source {folder} is not a folder; tf_serving_model_source unpacks archives")
    if not folder.is_dir():
        raise _Failure(f"source {folder} is not a folder")
    found = _model_store.versions(folder)
    if (folder / _saved_model.GRAPH_FILE).exists() or not found:
        return folder, version
    if len(found) == 1:
        return folder / str(found[0]), found[0] if version is None else version
    if version in found:
        return folder / str(version), version
    asked = "version is not set" if version is None else f"version is {version}"
    raise _Failure(f"source {folder} holds versions {', '.join(map(str, found))}, but {asked}")


def _check_digest(folder: Path, found: str, wanted: str | None) -> None:
    if wanted and found != wanted:
        raise _Failure(f"{folder} has digest {found}, but digest asks for {wanted}: it is not what was inspected")


def _inspected(module: AnsibleModule) -> dict[str, Any]:
    folder, version = _source_dir(module.params["source"], module.params["version"])
    model = _saved_model.read(folder)
    digest = _model_store.digest(folder)
    _check_digest(folder, digest, module.params["digest"])
    _check_declaration(module, model)
    packed: dict[str, Any] = {"changed": False}
    if module.params["pack"]:
        changed, size = _archive.pack(folder, Path(module.params["pack"]), dry=module.check_mode)
        packed = {"changed": changed, "packed_bytes": size}
    return {
        **packed,
        "version": version,
        "folder": str(folder),
        "digest": digest,
        "size_bytes": _model_store.size(folder),
        "versions": _model_store.describe(Path(module.params["source"])),
        **model.as_dict(),
    }


def _check_declaration(module: AnsibleModule, model: _saved_model.SavedModel) -> None:
    if module.params["golden_required"] and not model.golden:
        raise _Failure(f"{model.path} has no golden file {_saved_model.GOLDEN_FILE}, but golden_required is true")
    labels, declared = module.params["labels"], module.params["input"] or {}
    if labels is None and not declared:
        return
    problems = _saved_model.declaration_misfits(
        model,
        labels=labels,
        signature_name=declared.get("signature_name"),
        input_name=declared.get("name"),
        height=declared.get("height"),
        width=declared.get("width"),
    )
    if problems:
        raise _Failure(f"{model.path} does not fit what is declared about it: {'; '.join(problems)}")


def _present(module: AnsibleModule, model_dir: Path) -> dict[str, Any]:
    source, version, wanted = (module.params[name] for name in ("source", "version", "digest"))
    before = _model_store.describe(model_dir)
    stored = {entry["version"]: entry["digest"] for entry in before}

    if wanted and stored.get(version) == wanted:
        return _kept(module, model_dir, version, before)
    if module.check_mode and wanted and version and not (source and Path(source).exists()):
        _check_unused(model_dir, version, wanted, stored)
        _disk.check_space(model_dir, module.params["size_bytes"] or 0)
        return _published(model_dir, before, {"version": version, "digest": wanted, "size_bytes": None})
    if source and Path(source).is_file():
        return _unpacked(module, model_dir, before)

    folder, version = _source_dir(source, version)
    if version is None:
        raise _Failure(f"version is not set, and source {folder} does not tell it: it is not in a numbered folder")
    warmup = _own_warmup(module, _saved_model.read(folder))
    size = _model_store.size(folder) + len(warmup)
    if version not in stored:
        _disk.check_space(model_dir, size)
    digest = _model_store.digest(folder)
    _check_digest(folder, digest, wanted)
    if version in stored and stored[version] == digest:
        return _kept(module, model_dir, version, before)
    _check_unused(model_dir, version, digest, stored)
    if not module.check_mode:
        _model_store.publish(
            folder,
            model_dir / str(version),
            source_digest=digest,
            size_bytes=size,
            complete=lambda incoming: _complete(module, model_dir, incoming, warmup),
        )
    return _published(model_dir, before, {"version": version, "digest": digest, "size_bytes": size})


def _unpacked(module: AnsibleModule, model_dir: Path, before: list[dict[str, Any]]) -> dict[str, Any]:
    archive, version, wanted = (module.params[name] for name in ("source", "version", "digest"))
    if not wanted or not version:
        raise _Failure(f"source {archive} is an archive, so version and digest are needed; state=inspected tells them")
    _check_unused(model_dir, version, wanted, {entry["version"]: entry["digest"] for entry in before})
    # The digest says that it is meant, and the space that is free how large it may be.
    size = sum(entry.size for entry in _archive.entries(Path(archive), max_bytes=None))
    _disk.check_space(model_dir, size)
    version_dir = model_dir / str(version)
    if not module.check_mode:
        _model_store.publish(
            Path(archive),
            version_dir,
            source_digest=wanted,
            size_bytes=size,
            complete=lambda incoming: _complete(
                module, model_dir, incoming, _own_warmup(module, _saved_model.read(incoming))
            ),
        )
    size_bytes = None if module.check_mode else _model_store.size(version_dir)
    return _published(model_dir, before, {"version": version, "digest": wanted, "size_bytes": size_bytes})


def _own_warmup(module: AnsibleModule, model: _saved_model.SavedModel) -> bytes:
    """Return the warm-up file to write, empty for a model without golden inputs or with warm-up requests of its own."""
    if not model.golden or (model.path / _warmup.WARMUP_FILE).exists():
        return b""
    return _warmup.warmup_file(model.golden, module.params["name"])


def _complete(module: AnsibleModule, model_dir: Path, incoming: Path, warmup: bytes) -> None:
    if warmup:
        (incoming / _warmup.WARMUP_FILE).write_bytes(warmup)
    _set_attributes(module, model_dir, incoming)


def _check_unused(model_dir: Path, version: int, digest: str, stored: dict[int, str]) -> None:
    if version in stored:
        raise _Failure(
            f"{model_dir / str(version)} exists with digest {stored[version]}, the source has {digest}; "
            f"versions are never edited, publish it as version {max(stored) + 1}"
        )


def _published(model_dir: Path, before: list[dict[str, Any]], entry: dict[str, Any]) -> dict[str, Any]:
    after = sorted([*before, entry], key=lambda one: one["version"])
    return {
        "version": entry["version"],
        "folder": str(model_dir / str(entry["version"])),
        "digest": entry["digest"],
        **_change(model_dir, before, after),
    }


def _kept(module: AnsibleModule, model_dir: Path, version: int, stored: list[dict[str, Any]]) -> dict[str, Any]:
    folder = model_dir / str(version)
    return {
        **_change(model_dir, stored, stored),
        "changed": _set_attributes(module, model_dir, folder),
        "version": version,
        "folder": str(folder),
        "digest": next(entry["digest"] for entry in stored if entry["version"] == version),
    }


def _set_attributes(module: AnsibleModule, model_dir: Path, version_dir: Path) -> bool:
    """Give the model's folder and a whole version their owner, group and mode; tell whether that changed anything."""
    changed = False
    for path in [model_dir, version_dir, *sorted(version_dir.rglob("*"))]:
        changed = module.set_owner_if_different(str(path), module.params["owner"], changed)
        changed = module.set_group_if_different(str(path), module.params["group"], changed)
        changed = module.set_mode_if_different(str(path), module.params["mode"], changed)
    return changed


def _without(module: AnsibleModule, model_dir: Path, doomed: list[int]) -> dict[str, Any]:
    before = _model_store.describe(model_dir)
    if not module.check_mode:
        for version in doomed:
            _model_store.remove(model_dir, version)
    after = [entry for entry in before if entry["version"] not in doomed]
    return {"removed": doomed, **_change(model_dir, before, after)}


def _absent(module: AnsibleModule, model_dir: Path) -> dict[str, Any]:
    version = module.params["version"]
    doomed = [version] if version in _model_store.versions(model_dir) else []
    return {"version": version, "folder": str(model_dir / str(version)), **_without(module, model_dir, doomed)}


def _pruned(module: AnsibleModule, model_dir: Path) -> dict[str, Any]:
    keep, protected = module.params["keep"], module.params["protected"]
    if keep < 1:
        raise _Failure(f"keep is {keep}, 1 or more would be right")
    return _without(module, model_dir, _model_store.prunable(_model_store.versions(model_dir), keep, protected))


def _listed(module: AnsibleModule, model_dir: Path) -> dict[str, Any]:
    return {"changed": False, "versions": _model_store.describe(model_dir, digests=module.params["digests"])}


def _listed_all(module: AnsibleModule) -> dict[str, Any]:
    root = Path(module.params["root"])
    entries = sorted(root.iterdir()) if root.is_dir() else []
    folders = [entry for entry in entries if entry.is_dir() and _is_name(entry.name)]
    return {"changed": False, "models": {one.name: _listed(module, one)["versions"] for one in folders}}


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text) is not None


def _change(model_dir: Path, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "changed": before != after,
        "versions": after,
        "diff": {
            "before_header": str(model_dir),
            "after_header": str(model_dir),
            "before": {str(entry["version"]): entry["digest"] for entry in before},
            "after": {str(entry["version"]): entry["digest"] for entry in after},
        },
    }


_STATES = {"present": _present, "listed": _listed, "absent": _absent, "pruned": _pruned}


def _run(module: AnsibleModule) -> dict[str, Any]:
    name, version = module.params["name"], module.params["version"]
    if version is not None and version < 1:
        raise _Failure(f"version is {version}, 1 or more would be right")
    if module.params["state"] == "inspected":
        return _inspected(module)
    if name is None:
        return _listed_all(module)
    if not _is_name(name):
        raise _Failure(f"name is {name!r}, letters, digits, '_', '-' and '.' would be right")
    return _STATES[module.params["state"]](module, Path(module.params["root"]) / name)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["present", "inspected", "listed", "absent", "pruned"],
                "default": "present",
            },
            "source": {"type": "path"},
            "root": {"type": "path"},
            "name": {"type": "str"},
            "version": {"type": "int"},
            "digest": {"type": "str"},
            "size_bytes": {"type": "int"},
            "labels": {"type": "list", "elements": "str"},
            "input": {
                "type": "dict",
                "options": {
                    "name": {"type": "str"},
                    "height": {"type": "int"},
                    "width": {"type": "int"},
                    "signature_name": {"type": "str"},
                },
            },
            "golden_required": {"type": "bool", "default": False},
            "pack": {"type": "path"},
            "digests": {"type": "bool", "default": True},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "str", "default": "u=rwX,go=rX"},
            "keep": {"type": "int"},
            "protected": {"type": "list", "elements": "int", "default": []},
        },
        required_if=[
            ("state", "present", ["root", "name"]),
            ("state", "inspected", ["source"]),
            ("state", "listed", ["root"]),
            ("state", "absent", ["root", "name", "version"]),
            ("state", "pruned", ["root", "name", "keep"]),
        ],
        supports_check_mode=True,
    )
    try:
        result = _run(module)
    except (
        _Failure,
        _saved_model.SavedModelError,
        _model_store.StoreError,
        _archive.ArchiveError,
        _disk.DiskError,
        OSError,
    ) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
