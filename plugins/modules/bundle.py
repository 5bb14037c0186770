#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
version_added: 0.1.0
short_description: Seal a bundle for hosts without internet, or verify one
description:
  - A sealed bundle is a folder with C(manifest.json), which names every file in it with size and SHA-256, and
    C(manifest.sig), an Ed25519 signature of that.
  - Sealing adds a bill of materials, C(sbom.cdx.json), in the form of CycloneDX.
  - Verifying fails at the first thing that is not as it was sealed, and names it.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.no_diff
requirements:
  - cryptography
options:
  path:
    description:
      - The bundle's folder.
    type: path
    required: true
  state:
    description:
      - Whether it is to be V(sealed) or V(verified).
    type: str
    choices: [sealed, verified]
    default: verified
  about:
    description:
      - What is noted in the manifest beside the files, with O(state=sealed).
    type: dict
    default: {}
  private_key:
    description:
      - File with the private key, PEM, without a passphrase. Required with O(state=sealed). It is made when it is not
        there, with its public half beside it, under the same name and C(.pub).
    type: path
  public_key:
    description:
      - File with the public key, PEM. Required with O(state=verified). It must not have come with the bundle.
    type: path
"""

EXAMPLES = r"""
- name: Seal a bundle
  tf2x.serving.bundle:
    path: /srv/bundle
    state: sealed
    private_key: ~/.config/tf2x/bundle.key
    about: {system: Debian 12}

- name: Verify it where it is used
  tf2x.serving.bundle:
    path: /media/bundle
    public_key: /etc/tf2x/bundle.pub
  register: bundle
"""

RETURN = r"""
manifest:
  description: The manifest, with C(about) and, by path within the bundle, C(files), each with C(size) and C(sha256).
  returned: success
  type: dict
"""

import hashlib
import json
import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.tf2x.serving.plugins.module_utils._digest import sha256
from ansible_collections.tf2x.serving.plugins.module_utils._sbom import sbom

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ImportError:
    CRYPTOGRAPHY_ERROR: str | None = traceback.format_exc()
else:
    CRYPTOGRAPHY_ERROR = None

_MANIFEST = "manifest.json"
_SIGNATURE = "manifest.sig"
_SBOM = "sbom.cdx.json"


class _Refused(Exception):
    """The bundle, or a key, is not what it must be."""


def _files(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            raise _Refused(f"{path} is a symbolic link; a bundle holds files and folders only")
        if path.is_file() and name not in (_MANIFEST, _SIGNATURE):
            found[name] = path
    return found


def _text(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _private_key(path: Path, make: bool) -> Ed25519PrivateKey | None:
    """Return the key; where it is not there, make it, or return None."""
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _Refused(f"private_key: {path} is no private key in PEM without a passphrase: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _Refused(f"private_key: {path} is not an Ed25519 key; `openssl genpkey -algorithm ed25519` makes one")
        return key
    if not make:
        return None
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    Path(f"{path}.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _Refused(f"public_key: {path} is no public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _Refused(f"public_key: {path} is not an Ed25519 key")
    return key


def seal(folder: Path, about: dict[str, Any], private_key: Path, *, check: bool) -> tuple[bool, dict[str, Any]]:
    """Write manifest and signature where they differ; return whether they did, and the manifest."""
    found = _files(folder)
    found.pop(_SBOM, None)
    files = {name: {"size": path.stat().st_size, "sha256": sha256(path)} for name, path in found.items()}
    materials = _text(sbom(files, about))
    files[_SBOM] = {"size": len(materials), "sha256": hashlib.sha256(materials).hexdigest()}
    manifest = {"about": about, "files": files}
    text = _text(manifest)
    key = _private_key(private_key, make=not check)
    # Ed25519 signs the same text in the same way.
    signature = key.sign(text) if key else b""
    wanted = {_SBOM: materials, _MANIFEST: text, _SIGNATURE: signature}
    changed = any(not (folder / name).is_file() or (folder / name).read_bytes() != new for name, new in wanted.items())
    if changed and not check:
        for name, new in wanted.items():
            (folder / name).write_bytes(new)
    return changed, manifest


def verify(folder: Path, public_key: Path) -> dict[str, Any]:
    """Return the manifest. Raises _Refused unless the bundle is exactly what was sealed."""
    for name in (_MANIFEST, _SIGNATURE):
        if not (folder / name).is_file():
            raise _Refused(f"{folder} has no {name}: it is no bundle, or not a whole one")
    text = (folder / _MANIFEST).read_bytes()
    try:
        _public_key(public_key).verify((folder / _SIGNATURE).read_bytes(), text)
    except InvalidSignature:
        raise _Refused(
            f"{folder / _MANIFEST} was not signed with the private half of {public_key}, or was changed afterwards"
        ) from None
    manifest: dict[str, Any] = json.loads(text)
    found = _files(folder)
    for name, sealed in manifest["files"].items():
        if name not in found:
            raise _Refused(f"{folder / name} is missing")
        size = found[name].stat().st_size
        if size != sealed["size"]:
            raise _Refused(f"{found[name]} has {size} bytes; {sealed['size']} were sealed")
        digest = sha256(found[name])
        if digest != sealed["sha256"]:
            raise _Refused(f"{found[name]} has the SHA-256 {digest}; {sealed['sha256']} was sealed")
    for name, path in found.items():
        if name not in manifest["files"]:
            raise _Refused(f"{path} is not in the manifest")
    return manifest


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["sealed", "verified"], "default": "verified"},
            "about": {"type": "dict", "default": {}},
            "private_key": {"type": "path", "no_log": False},
            "public_key": {"type": "path"},
        },
        required_if=[("state", "sealed", ["private_key"]), ("state", "verified", ["public_key"])],
        supports_check_mode=True,
    )
    if CRYPTOGRAPHY_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=CRYPTOGRAPHY_ERROR)
    folder = Path(module.params["path"])
    changed = False
    try:
        if not folder.is_dir():
            raise _Refused(f"path: {folder} is no folder")
        if module.params["state"] == "sealed":
            changed, manifest = seal(
                folder, module.params["about"], Path(module.params["private_key"]), check=module.check_mode
            )
        else:
            manifest = verify(folder, Path(module.params["public_key"]))
    except _Refused as error:
        module.fail_json(msg=str(error))
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"{folder} cannot be read or written: {error}")
    module.exit_json(changed=changed, manifest=manifest)


if __name__ == "__main__":
    main()
