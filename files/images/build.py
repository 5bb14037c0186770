"""Build the project's container images where no registry can be reached.

Usage: build.py [--dry-run] [--no-archive] [--output DIR] NAME...

A NAME is a folder beside this file with a Dockerfile whose `ARG BASE_IMAGE=tf2x/<parent>` names the image below it; the
root of the chain is `base`, a Debian root file system that debootstrap makes. Tags are digests of everything that goes
in, so an image whose tag exists is never built again. Prints JSON on standard output:

    {"changed": bool, "images": {NAME: {"ref": "tf2x/NAME:<digest12>", "path": path, "sha256": hex}}}

With --dry-run nothing is built: `changed` says whether something would be, and `sha256` is "" where no archive exists.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CA_BUNDLE = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
RELEASE = "bookworm"
BASE_PACKAGES = "ca-certificates,python3"
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


class BuildError(Exception):
    """A message for the person at the terminal."""


def say(text: str) -> None:
    print(f"images: {text}", file=sys.stderr, flush=True)


def run(*command: str, **options) -> None:
    """Run a command with its output on standard error; standard output stays JSON."""
    result = subprocess.run(command, stdout=sys.stderr, check=False, **options)
    if result.returncode:
        raise BuildError(f"`{' '.join(command)}` ended with {result.returncode}")


def output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"`{' '.join(command)}` ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def parent_of(name: str) -> str | None:
    if name == "base":
        return None
    dockerfile = HERE / name / "Dockerfile"
    if not dockerfile.is_file():
        known = sorted(path.parent.name for path in HERE.glob("*/Dockerfile"))
        raise BuildError(f"no image named {name!r}: found no {name}/Dockerfile; known images: {', '.join(known)}")
    match = re.search(r"^ARG BASE_IMAGE=tf2x/([a-z_]+)$", dockerfile.read_text(), re.MULTILINE)
    if match is None:
        raise BuildError(f"{dockerfile}: no line `ARG BASE_IMAGE=tf2x/<parent>`")
    return match.group(1)


@functools.cache  # one answer a run, whatever happens to the files meanwhile
def digest_of(name: str) -> str:
    """Digest of the image's own files, of the image below it and, for `base`, of the certificates that go in."""
    total = hashlib.sha256()
    parent = parent_of(name)
    if parent is None:
        total.update(f"{RELEASE} {BASE_PACKAGES}".encode())
        total.update(CA_BUNDLE.read_bytes() if CA_BUNDLE.is_file() else b"")
    else:
        total.update(digest_of(parent).encode())
        for path in sorted((HERE / name).rglob("*")):
            # What `.dockerignore` keeps out of the image does not count.
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                mode = "x" if os.access(path, os.X_OK) else "-"
                total.update(f"{path.relative_to(HERE / name)} {mode} {path.stat().st_size}\n".encode())
                total.update(path.read_bytes())
    return total.hexdigest()


def ref_of(name: str) -> str:
    return f"tf2x/{name}:{digest_of(name)[:12]}"


def exists(ref: str) -> bool:
    return bool(output("docker", "image", "ls", "--quiet", ref).strip())


def apt_sources() -> str:
    """This machine's own Debian sources, so that images are built from the mirror that it uses."""
    if "ID=debian\n" not in Path("/etc/os-release").read_text():
        return ""
    wanted = output("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    lines = {f"deb {line}" for line in wanted.splitlines() if line.split()[1].startswith(RELEASE)}
    return "".join(f"{line}\n" for line in sorted(lines))


def apt_settings() -> str:
    dump = output("apt-config", "dump")
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith("Acquire::Check-"))


def build_base(ref: str) -> None:
    sources = apt_sources()
    mirror = [line.split()[1] for line in sources.splitlines() if line.split()[2] == RELEASE][:1]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", RELEASE, str(root), *mirror)
        if sources:
            (root / "etc/apt/sources.list").write_text(sources)
            (root / "etc/apt/apt.conf.d/99mirror").write_text(apt_settings())
        if CA_BUNDLE.is_file():
            (root / "etc/ssl/certs/ca-certificates.crt").write_bytes(CA_BUNDLE.read_bytes())
        (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "var/log"):
            for path in (root / leftover).rglob("*"):
                if path.is_file() and "copyright" not in path.name:
                    path.unlink()
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        run("docker", "import", "-", ref, stdin=tar.stdout)
        if tar.wait():
            raise BuildError(f"tar of {root} ended with {tar.returncode}")


def build(name: str) -> bool:
    """Build the image and what it is based on; True when something had to be built."""
    ref = ref_of(name)
    if exists(ref):
        return False
    parent = parent_of(name)
    if parent is not None:
        build(parent)
    say(f"building {ref}")
    if parent is None:
        build_base(ref)
    else:
        arguments = {"BASE_IMAGE": ref_of(parent), **{key: os.environ[key] for key in PASSED_ON if key in os.environ}}
        flags = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        run("docker", "build", "--tag", ref, *flags, str(HERE / name))
    return True


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def archive_path(folder: Path, name: str) -> Path:
    return folder / f"{name}-{digest_of(name)[:12]}.tar"


def archive(folder: Path, name: str) -> bool:
    """Save the image beside a file with its sha256; True when it had to be saved."""
    path = archive_path(folder, name)
    if path.is_file() and path.with_suffix(".sha256").is_file():
        return False
    say(f"saving {path.name}")
    partial = path.with_suffix(".partial")
    run("docker", "save", "--output", str(partial), ref_of(name))
    path.with_suffix(".sha256").write_text(f"{sha256_file(partial)}  {path.name}\n")
    partial.rename(path)
    for old in folder.glob(f"{name}-????????????.*"):
        if old.stem != path.stem:
            old.unlink()
    return True


def describe(folder: Path, name: str) -> dict[str, str]:
    path = archive_path(folder, name)
    recorded = path.with_suffix(".sha256")
    sha256 = recorded.read_text().split()[0] if path.is_file() and recorded.is_file() else ""
    return {"ref": ref_of(name), "path": str(path), "sha256": sha256}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--dry-run", action="store_true", help="build nothing, say what would be")
    parser.add_argument("--no-archive", action="store_true", help="build only, save no tar files")
    parser.add_argument(
        "--output", type=Path, default=HERE.parents[1] / "build" / "images", help="folder of the archives"
    )
    options = parser.parse_args()
    folder = options.output.resolve()
    try:
        if options.dry_run:
            described = {name: describe(folder, name) for name in options.names}
            changed = any(not image["sha256"] for image in described.values())
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Archives stand for their images: where one is there, the engine need not be asked.
                missing = [n for n in options.names if options.no_archive or not describe(folder, n)["sha256"]]
                changed = bool([name for name in missing if build(name)])
                if not options.no_archive:
                    changed = bool([name for name in missing if archive(folder, name)]) or changed
            described = {name: describe(folder, name) for name in options.names}
    except (BuildError, OSError) as error:
        say(str(error))
        return 1
    print(json.dumps({"changed": changed, "images": described}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
