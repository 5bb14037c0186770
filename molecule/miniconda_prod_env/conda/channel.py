"""Make a conda channel, two versions of the stand-in's installer and a few wheels in a folder; print their hashes."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = [
    ("python", "3.7.0", []),
    ("python", "3.11.9", []),
    ("pip", "25.3", ["python"]),
    ("toy", "1.0", ["toybox"]),
    ("toy", "2.0", ["toybox"]),
    ("toybox", "1.0", []),
]
WHEELS = [("toy", "1.0"), ("tensorflow", "2.3.0")]


def conda_package(index: dict) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as archive:
        for name, text in (("info/index.json", json.dumps(index)), (f"share/{index['name']}", index["version"])):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def wheel(name: str, version: str) -> bytes:
    packed = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    return packed.getvalue()


def main(root: Path) -> None:
    served = root / "www"
    for folder in ("main/noarch", "wheels"):
        (served / folder).mkdir(parents=True)
    hashes, repodata = {}, {}

    def serve(path: str, content: bytes) -> dict:
        (served / path).write_bytes(content)
        hashes[path.rpartition("/")[2]] = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
        return hashes[path.rpartition("/")[2]]

    for name, version, depends in PACKAGES:
        index = {
            "name": name,
            "version": version,
            "build": "0",
            "build_number": 0,
            "subdir": "noarch",
            "depends": depends,
        }
        file = f"{name}-{version}-0.tar.bz2"
        repodata[file] = index | serve(f"main/noarch/{file}", conda_package(index))
    (served / "main/noarch/repodata.json").write_text(json.dumps({"packages": repodata}))
    for name, version in WHEELS:
        serve(f"wheels/{name}-{version}-py3-none-any.whl", wheel(name, version))
    for version in ("1.0", "2.0"):
        text = "".join((HERE / part).read_text() for part in ("installer.sh", "conda.py"))
        serve(f"installer-{version}.sh", text.replace("@VERSION@", version).replace("@ROOT@", str(root)).encode())
    print(json.dumps(hashes))


main(Path(sys.argv[1]))
