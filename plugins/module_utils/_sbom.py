# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A bundle's bill of materials, as CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/), from what files are called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

# What is where in a bundle, with the name, version and architecture that are in a file's name.
_KINDS = [
    (re.compile(r"packages/(?P<name>[^/_]+)_(?P<version>[^/_]+)_(?P<arch>[^/_]+)\.deb"), "deb"),
    (re.compile(r"packages/(?P<name>[^/]+)-(?P<version>[^/-]+-[^/-]+)\.(?P<arch>[^/.]+)\.rpm"), "rpm"),
    (re.compile(r"(?:wheels|controller)/(?P<name>[^/-]+)-(?P<version>[^/-]+)-[^/]+\.whl"), "pypi"),
    (re.compile(r"collections/(?P<name>[^/-]+-[^/-]+)-(?P<version>[^/]+)\.tar\.gz"), "generic"),
]


def sbom(files: dict[str, dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Return the document. C(files) and C(about) are those of the manifest; the same ones give the same document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "tf2x-bundle", "bom-ref": "tf2x-bundle"}},
        "components": [*_packages(files, about), *_images(files, about), *_models(files)],
    }


def _component(kind: str, path: str, name: str, file: dict[str, Any], **more: Any) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": file["sha256"]}]
    return {"type": kind, "bom-ref": path, "name": name, "hashes": hashes, **more}


def _packages(files: dict[str, dict[str, Any]], about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    system = str(about.get("system", "")).partition(" ")[0].lower()
    for path, file in files.items():
        for pattern, kind in _KINDS:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            # apt writes the colon of an epoch so.
            name, version = found["name"], unquote(found["version"])
            if kind == "pypi":
                name = re.sub(r"[-_.]+", "-", name).lower()
            purl = f"pkg:{kind}/{name}@{quote(version)}"
            if kind in ("deb", "rpm"):
                purl = f"pkg:{kind}/{system}/{quote(name)}@{quote(version)}?arch={found['arch']}"
            yield _component("library", path, name, file, version=version, purl=purl)


def _images(files: dict[str, dict[str, Any]], about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    named = {
        f"images/{image['path']}": image["ref"] for role in about.get("images", {}).values() for image in role.values()
    }
    for path, ref in sorted(named.items()):
        tagged, _at, digest = ref.partition("@")
        # A colon before a slash is that of a registry's port.
        folder, slash, last = tagged.rpartition("/")
        last, _colon, tag = last.partition(":")
        yield _component("container", path, f"{folder}{slash}{last}", files[path], version=tag or digest)


def _models(files: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a model with its files, for each models/NAME."""
    for model in sorted({path.split("/")[1] for path in files if path.startswith("models/")}):
        parts = [
            _component("file", path, path, file) for path, file in files.items() if path.startswith(f"models/{model}/")
        ]
        yield {"type": "machine-learning-model", "bom-ref": f"models/{model}", "name": model, "components": parts}
