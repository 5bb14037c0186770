#!/usr/bin/env bash
# A change of what users run comes with a fragment in changelogs/fragments/. Compared is with CHANGELOG_BASE, in CI the branch that a pull
# request is for; without it with origin/main or the last release's tag, as far as there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${CHANGELOG_BASE:-}
[ -n "$base" ] || base=$(git rev-parse --quiet --verify origin/main || git describe --tags --abbrev=0 2>/dev/null || true)
if ! fork=$(git merge-base "${base:-nothing}" HEAD 2>/dev/null); then
  if [ -n "${CHANGELOG_BASE:-}" ]; then
    echo "changelog: CHANGELOG_BASE is $base, and HEAD has no history in common with it here. Fetch both, with their history." >&2
    exit 1
  fi
  echo "changelog: nothing to compare with, neither origin/main nor a tag; fragments are not asked for"
  exit 0
fi
notes=(changelogs/fragments changelogs/changelog.yaml)
# With what is not committed yet.
changed=$(git diff --name-only "$fork" -- roles plugins playbooks ':(exclude)*.md')
written=$(git diff --name-only --diff-filter=AMR "$fork" -- "${notes[@]}" && git ls-files --others --exclude-standard -- "${notes[@]}")
if [ -n "$changed" ] && [ -z "$written" ]; then
  echo "changelog: changed since ${fork:0:12}, and nothing in changelogs/fragments/ says so:" >&2
  echo "$changed" >&2
  exit 1
fi
