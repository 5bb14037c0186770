"""`_sbom`: what is in a bundle, as CycloneDX."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tf2x.serving.plugins.module_utils._sbom import sbom

IMAGE = {"ref": "tf2x/balancer:0123456789ab", "path": "balancer.tar.gz", "sha256": "b" * 64}
ABOUT = {
    "system": "Debian 12 x86_64",
    "images": {"tf_serving_stack": {"balancer": IMAGE}, "monitoring": {"haproxy": IMAGE}},
}


def components(*paths: str) -> list[dict[str, Any]]:
    files = {path: {"size": 1, "sha256": "a" * 64} for path in ("images/balancer.tar.gz", *paths)}
    return [one for one in sbom(files, ABOUT)["components"] if one["type"] != "container"]


@pytest.mark.parametrize(
    ("path", "name", "version", "purl"),
    [
        (
            "packages/docker.io_20.10.24+dfsg1-1_amd64.deb",
            "docker.io",
            "20.10.24+dfsg1-1",
            "pkg:deb/debian/docker.io@20.10.24%2Bdfsg1-1?arch=amd64",
        ),
        ("packages/git_1%3a2.39.5-0_amd64.deb", "git", "1:2.39.5-0", "pkg:deb/debian/git@1%3A2.39.5-0?arch=amd64"),
        (
            "packages/docker-ce-27.3.1-1.el9.x86_64.rpm",
            "docker-ce",
            "27.3.1-1.el9",
            "pkg:rpm/debian/docker-ce@27.3.1-1.el9?arch=x86_64",
        ),
        ("wheels/Jinja2-3.1.4-py3-none-any.whl", "jinja2", "3.1.4", "pkg:pypi/jinja2@3.1.4"),
        (
            "controller/ansible_core-2.19.14-py3-none-any.whl",
            "ansible-core",
            "2.19.14",
            "pkg:pypi/ansible-core@2.19.14",
        ),
        ("collections/tf2x-serving-0.1.0.tar.gz", "tf2x-serving", "0.1.0", "pkg:generic/tf2x-serving@0.1.0"),
    ],
)
def test_packages_have_name_version_and_address(path: str, name: str, version: str, purl: str) -> None:
    (found,) = components(path)
    assert (found["name"], found["version"], found["purl"], found["bom-ref"]) == (name, version, purl, path)
    assert found["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]


def test_an_image_of_two_roles_is_named_once() -> None:
    (image,) = sbom({"images/balancer.tar.gz": {"size": 1, "sha256": "b" * 64}}, ABOUT)["components"]
    assert (image["type"], image["name"], image["version"]) == ("container", "tf2x/balancer", "0123456789ab")


@pytest.mark.parametrize(
    ("ref", "name", "version"),
    [
        ("registry.example.org:5000/tensorflow/serving", "registry.example.org:5000/tensorflow/serving", ""),
        ("registry.example.org:5000/serving:2.3.0", "registry.example.org:5000/serving", "2.3.0"),
        ("tensorflow/serving:2.3.0@sha256:00", "tensorflow/serving", "2.3.0"),
        ("tensorflow/serving@sha256:00", "tensorflow/serving", "sha256:00"),
    ],
)
def test_an_image_is_named_without_tag_and_digest(ref: str, name: str, version: str) -> None:
    about = {"images": {"monitoring": {"haproxy": {**IMAGE, "ref": ref}}}}
    (image,) = sbom({"images/balancer.tar.gz": {"size": 1, "sha256": "b" * 64}}, about)["components"]
    assert (image["name"], image["version"]) == (name, version)


def test_a_model_has_its_files() -> None:
    (model,) = components("models/pets/1/saved_model.pb", "models/pets/1/variables/variables.index")
    assert (model["type"], model["name"]) == ("machine-learning-model", "pets")
    assert [part["name"] for part in model["components"]] == [
        "models/pets/1/saved_model.pb",
        "models/pets/1/variables/variables.index",
    ]


def test_an_index_is_no_component() -> None:
    assert components("packages/Packages") == []
