# NOT conda: a stand-in that keeps the part of its command line which the role and its test use, on a channel of the
# same layout. Its Python is the host's, which says that it has the version of its package. Every call goes to a log.
"""create, install, remove, list and env list."""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

VERSION = "@VERSION@"
ROOT = Path("@ROOT@")
CONDA = Path(__file__).resolve().parents[1]
KNOWN = Path.home() / ".conda/environments.txt"


def fail(message: str) -> None:
    sys.exit(f"\n{message}\n")


def download(url: str, md5: str | None, sha256: str | None) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        content = answer.read()
    for kind, wanted in (("md5", md5), ("sha256", sha256)):
        found = hashlib.new(kind, content).hexdigest()
        if wanted and found != wanted:
            fail(
                "ChecksumMismatchError: Conda detected a mismatch between the expected content and downloaded content\n"
                f"for url '{url}'.\n  expected {kind}: {wanted}\n  actual {kind}: {found}"
            )
    (CONDA / "pkgs" / url.rpartition("/")[2]).write_bytes(content)
    return content


def explicit(path: str) -> list[tuple[str, str | None, str | None]]:
    # As conda does since 26: one look at what kind of file it is, another at what is in it.
    if "@EXPLICIT" not in Path(path).read_text():
        fail(f"EnvironmentSpecPluginNotDetected: {path}")
    found = []
    for line in Path(path).read_text().split():
        if line == "@EXPLICIT":
            continue
        match = re.fullmatch(r"(\S+?)(?:#(?:([0-9a-f]{32})|(?:sha256:)?([0-9a-f]{64})))?", line)
        found.append(match.groups())
    return found


def resolve(specs: list[str], channels: list[str]) -> list[tuple[str, str | None, str | None]]:
    if not channels:
        fail("ArgumentError: At least one -c / --channel flag must be supplied when using --override-channels.")
    offers = {}
    for channel in channels:
        url = channel if "://" in channel else f"https://conda.anaconda.org/{channel}"
        with urllib.request.urlopen(f"{url}/noarch/repodata.json", timeout=20) as answer:
            for file, package in json.load(answer)["packages"].items():
                offers.setdefault(package["name"], []).append({**package, "url": f"{url}/noarch/{file}"})
    chosen, wanted = {}, list(specs)
    while wanted:
        name, version, build = [*re.split(r"[= ]+", wanted.pop(0)), "", ""][:3]
        fitting = [
            package
            for package in offers.get(name, [])
            if f"{package['version']}.".startswith(f"{version}." if version else "") and build in ("", package["build"])
        ]
        if not fitting:
            fail(f"PackagesNotFoundInChannelsError: The following packages are not available:\n  - {name}={version}")
        best = max(fitting, key=lambda package: [int(part) for part in package["version"].split(".")])
        if name not in chosen:
            chosen[name] = best
            wanted += best["depends"]
    return [(package["url"], package["md5"], package["sha256"]) for package in chosen.values()]


def link(prefix: Path, packages: list[tuple[str, str | None, str | None]]) -> None:
    # All are there and checked before the first one is linked.
    contents = [(url, download(url, md5, sha256)) for url, md5, sha256 in packages]
    (prefix / "conda-meta").mkdir(parents=True, exist_ok=True)
    (prefix / "conda-meta/history").touch()
    for url, content in contents:
        with tarfile.open(fileobj=io.BytesIO(bz2.decompress(content))) as archive:
            index = json.load(archive.extractfile("info/index.json"))
            files = [member for member in archive.getmembers() if not member.name.startswith("info/")]
            archive.extractall(prefix, members=files)
        if index["name"] == "python":
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
            site = next(prefix.glob("lib/python3*/site-packages"))
            (site / "version.pth").write_text(
                f"import platform; platform.python_version = lambda: '{index['version']}'\n"
            )
        if index["name"] == "pip":
            # Quicker than ensurepip, which does the same.
            with zipfile.ZipFile(next(Path("/usr/share/python-wheels").glob("pip-*.whl"))) as wheel:
                wheel.extractall(next(prefix.glob("lib/python3*/site-packages")))
        record = {
            **index,
            "url": url,
            "channel": url.rpartition("/noarch/")[0],
            "files": [member.name for member in files],
        }
        (prefix / f"conda-meta/{index['name']}-{index['version']}-{index['build']}.json").write_text(json.dumps(record))


def records(prefix: Path) -> dict[Path, dict]:
    return {path: json.loads(path.read_text()) for path in sorted(prefix.glob("conda-meta/*.json"))}


def unlink(prefix: Path, names: list[str]) -> None:
    for path, record in records(prefix).items():
        if record["name"] in names:
            for file in record["files"]:
                (prefix / file).unlink(missing_ok=True)
            path.unlink()


def main() -> None:
    with (ROOT / "log").open("a") as log:
        print("conda", *sys.argv[1:], file=log)
    parser = argparse.ArgumentParser(prog="conda")
    parser.add_argument("--version", action="version", version=f"conda {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("create", "install", "remove", "list"):
        command = commands.add_parser(name)
        command.add_argument("--prefix", type=Path, required=True)
        command.add_argument("--json", action="store_true")
        if name != "list":
            command.add_argument("--yes", action="store_true", required=True)
            command.add_argument("--quiet", action="store_true")
            command.add_argument("specs", nargs="*")
        if name in ("create", "install"):
            command.add_argument("--override-channels", action="store_true")
            command.add_argument("--channel", action="append", default=[])
            command.add_argument("--file")
    environments = commands.add_parser("env").add_subparsers(dest="env", required=True)
    environments.add_parser("list").add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    if arguments.command == "env":
        known = KNOWN.read_text().split() if KNOWN.exists() else []
        found = dict.fromkeys([str(CONDA), *known, *map(str, (CONDA / "envs").iterdir())])
        print(json.dumps({"envs": [path for path in found if Path(path, "conda-meta/history").exists()]}))
    elif arguments.command == "list":
        fields = {"name": "name", "version": "version", "build_string": "build", "channel": "channel"}
        packages = records(arguments.prefix).values()
        print(json.dumps([{field: package[key] for field, key in fields.items()} for package in packages]))
    elif arguments.command == "remove":
        unlink(arguments.prefix, arguments.specs)
    else:
        packages = explicit(arguments.file) if arguments.file else resolve(arguments.specs, arguments.channel)
        if arguments.command == "create":
            shutil.rmtree(arguments.prefix, ignore_errors=True)
        else:
            unlink(arguments.prefix, [re.split("[= ]", spec)[0] for spec in arguments.specs])
        link(arguments.prefix, packages)
        if arguments.command == "create" and os.environ.get("CONDA_REGISTER_ENVS") != "false":
            KNOWN.parent.mkdir(exist_ok=True)
            with KNOWN.open("a") as known:
                print(arguments.prefix, file=known)


main()
