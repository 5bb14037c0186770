#!/usr/bin/env bash
# With each version of ansible-core that requirements/core-*.txt lock: ansible-test sanity, and the syntax of all playbooks and of
# all task files, beside the controller's own collections. Arguments name some of the versions: 2.16 2.19. `oldest` is the oldest
# one, with those sanity tests that depend on ansible-core itself.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
mkdir -p build/core
# Playbooks include roles as they run, which a syntax check does not follow; it follows what is imported.
imported=$PWD/build/core/tasks.yml
{
  printf -- '- hosts: all\n  tasks:\n'
  for file in roles/*/tasks/*.yml; do
    role=${file#roles/} tasks=${file##*/}
    printf '    - import_role: {name: tf2x.serving.%s, tasks_from: %s}\n' "${role%%/*}" "${tasks%.yml}"
  done
} >"$imported"
collections=$PWD/build/collections:$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

find_python() {
  "python$1" -c '' 2>/dev/null && echo "python$1" && return
  [ -x "$(pyenv prefix "$1" 2>/dev/null)/bin/python$1" ] && echo "$(pyenv prefix "$1")/bin/python$1"
}

try() {
  local lock=$1 environment=$2 python=$3
  # The lock's copy says what the environment is made of.
  cmp -s "$lock" "$environment/lock" || {
    rm -rf "$environment"
    "$python" -m venv "$environment" && "$environment/bin/pip" install --quiet --require-hashes --requirement "$lock" &&
      cp "$lock" "$environment/lock" || return
  }
  tools/sanity.sh "$environment" "${tests[@]}" &&
    env PATH="$environment/bin:$PATH" ANSIBLE_CONFIG="$PWD/ansible.cfg" ANSIBLE_COLLECTIONS_PATH="$collections" \
      ANSIBLE_COLLECTIONS_ON_ANSIBLE_VERSION_MISMATCH=error \
      ansible-playbook --syntax-check --inventory inventory/example playbooks/*.yml "$imported"
}

locks=(requirements/core-*.txt)
tests=()
if [ "${1:-}" = oldest ]; then
  locks=("${locks[0]}")
  tests=(--test ansible-doc --test compile --test import --test runtime-metadata --test validate-modules)
  shift
fi
failed=0
for lock in "${locks[@]}"; do
  version=${lock#requirements/core-} version=${version%.txt}
  [ $# = 0 ] || [[ " $* " = *" $version "* ]] || continue
  log=build/core/$version.log start=$SECONDS outcome=passed
  release=$(sed -n 's/^ansible-core==\([0-9.]*\).*/\1/p' "$lock")
  needed=$(sed -n 's/.* pip-compile with Python //p' "$lock")
  if ! python=$(find_python "$needed"); then
    echo "ansible-core $release: not tried, since there is no Python $needed here"
    continue
  fi
  try "$lock" "$PWD/build/core/$version" "$python" >"$log" 2>&1 || outcome=failed
  echo "ansible-core $release on Python $needed: $outcome in $((SECONDS - start)) s"
  [ $outcome = passed ] || { failed=1 && tail -n 60 "$log"; }
done
exit $failed
