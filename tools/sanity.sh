#!/usr/bin/env bash
# ansible-test sanity on a copy of the tracked files, with no ignore file.
set -euo pipefail
cd "$(dirname "$0")/.."
# Outside of this repository, or ansible-test would ask its .gitignore which files count.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
copy=$scratch/ansible_collections/tf2x/serving
mkdir -p "$copy"
# Tracked files as they are in the work tree. Without .git, ansible-test takes every file that it finds.
git ls-files -z | while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
  tar --null --files-from=- -c | tar -x -C "$copy"

# ansible-test bootstraps pip in its own environments with a script that it downloads. The pip that is here does as well,
# and keeps to this machine's own settings.
cache=$HOME/.ansible/test/cache
mkdir -p "$cache"
[ -e "$cache/get_pip_24_2.py" ] || cat >"$cache/get_pip_24_2.py" <<PYTHON
import subprocess, sys
sys.exit(subprocess.call(["$PWD/.venv/bin/pip", "--python", sys.executable, "install", "--quiet", "pip==24.2"]))
PYTHON

version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$copy"
ansible-test sanity --local --python "$version" --color no
