#!/usr/bin/env bash
# ansible-test sanity on a copy of the tracked files, with no ignore file. The first argument names another environment than .venv,
# the others are ansible-test's.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(realpath "${1:-.venv}")
shift $(($# > 0))
export PATH=$environment/bin:$PATH
# Outside of this repository, or ansible-test would ask its .gitignore which files count.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
copy=$scratch/ansible_collections/tf2x/serving
mkdir -p "$copy"
# Tracked files as they are in the work tree. Without .git, ansible-test takes every file that it finds.
git ls-files -z | while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
  tar --null --files-from=- -c | tar -x -C "$copy"

# ansible-test bootstraps pip in its own environments with a script that it downloads. The pip that is here does as well,
# and keeps to this machine's own settings. One of another checkout may lead nowhere any more.
cache=$HOME/.ansible/test/cache
mkdir -p "$cache"
pip=$(sed -n "s/^ *pip='\([0-9.]*\)',$/\1/p" "$environment"/lib/python3.*/site-packages/ansible_test/_internal/python_requirements.py | head -n 1)
script=$cache/get_pip_${pip//./_}.py
if [ ! -e "$script" ] || grep -q '"--python", sys.executable' "$script"; then
  cat >"$script" <<PYTHON
import subprocess, sys
sys.exit(subprocess.call(["$environment/bin/pip", "--python", sys.executable, "install", "--quiet", "pip==$pip"]))
PYTHON
fi

version=$("$environment/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$copy"
ansible-test sanity --local --python "$version" --color no "$@"
