"""Wrap Debian's packages in RPMs with the names that Enterprise Linux has for them: wrap_debs.py PACKAGES.json FOLDER.

PACKAGES.json has a repository's name, then a package's: `debs` are what it is made of; files that match `without`
stay out, with `only` all others do; `links` adds symbolic links; `requires` and `conflicts` are RPM's; `after` is run
when it was installed. Debian's own scripts and dependencies take no part in it.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Debian's packages still say /lib for what is in /usr/lib.
_MERGED = ("bin", "sbin", "lib", "lib64")
_SPEC = """\
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%define _binary_payload w3.zstdio
Name: {name}
Version: {version}
Release: 1.el9
Summary: {name} for tests, made of Debian's {debs}
License: as Debian's packages say
AutoReqProv: no
{relations}
%description
For tests.

%install
cp --archive {root}/. %{{buildroot}}/

%post
ldconfig
[ ! -d /run/systemd/system ] || systemctl daemon-reload
{after}

%files
{files}
"""


def main() -> None:
    repositories: dict[str, dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    mirror = Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        for repository, packages in repositories.items():
            folder = mirror / repository
            folder.mkdir(parents=True)
            for name, package in packages.items():
                wrap(name, package, folder, Path(scratch, name))


def wrap(name: str, package: dict[str, Any], folder: Path, scratch: Path) -> None:
    """Build the RPM of one package into `folder`."""
    root, top = scratch / "root", scratch / "rpm"
    root.mkdir(parents=True)
    version = unpack(package["debs"], root, scratch) or "1"
    for path in [path for path in root.rglob("*") if not wanted(path, root, package)]:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
    if "only" in package or "without" in package:
        run("find", str(root), "-mindepth", "1", "-type", "d", "-empty", "-delete")
    for link, target in package.get("links", {}).items():
        path = root / link.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    relations = "".join(
        f"{relation.capitalize()}: {other}\n"
        for relation in ("requires", "conflicts")
        for other in package.get(relation, [])
    )
    spec = scratch / f"{name}.spec"
    spec.write_text(
        _SPEC.format(
            name=name,
            version=version,
            debs=", ".join(package["debs"]) or "nothing",
            relations=relations,
            root=root,
            after=package.get("after", ""),
            files="\n".join(listed(root)),
        )
    )
    defines = [word for define in (f"_topdir {top}", f"_rpmdir {folder}") for word in ("--define", define)]
    flat = ["--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"]
    run("rpmbuild", "--quiet", "-bb", *defines, *flat, str(spec))
    shutil.rmtree(scratch)


def unpack(debs: list[str], root: Path, scratch: Path) -> str:
    """Unpack Debian's packages into `root` and return the version of the first, as RPM takes it."""
    version = ""
    for deb in debs:
        run("apt-get", "download", "--quiet", deb, cwd=scratch)
        (archive,) = scratch.glob(f"{deb}_*.deb")
        run("dpkg-deb", "--extract", str(archive), str(root))
        found = run("dpkg-deb", "--field", str(archive), "Version").split(":")[-1]
        version = version or found.replace("-", "_").replace("+", "_").replace("~", "_").strip()
    for name in _MERGED:
        if (root / name).is_dir():
            run("cp", "--archive", f"{root / name}/.", str(root / "usr" / name))
            shutil.rmtree(root / name)
    return version


def wanted(path: Path, root: Path, package: dict[str, Any]) -> bool:
    """Tell whether a file is to be in the package."""
    place = f"/{path.relative_to(root)}"
    if "only" in package:
        return any(fnmatch.fnmatch(place, pattern) for pattern in package["only"])
    return not any(fnmatch.fnmatch(place, pattern) for pattern in package.get("without", []))


def listed(root: Path) -> Iterator[str]:
    """Yield the lines of %files: files, links and empty folders; others belong to several packages."""
    for path in sorted(root.rglob("*")):
        place = f'"/{path.relative_to(root)}"'
        if path.is_symlink() or not path.is_dir():
            yield f"%config(noreplace) {place}" if place.startswith('"/etc/') else place
        elif not any(path.iterdir()):
            yield f"%dir {place}"


def run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


if __name__ == "__main__":
    main()
