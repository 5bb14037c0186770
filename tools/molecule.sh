#!/usr/bin/env bash
# Run molecule scenarios one after another; keep their output in build/molecule/ and show only what failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
mkdir -p build/molecule
: >build/molecule/results.txt
failed=0
for scenario in "$@"; do
  start=$SECONDS
  printf 'molecule %-20s ' "$scenario"
  export NO_COLOR=1 PY_COLORS=0
  # A run that was cut off leaves hosts behind, and the belief that they are there.
  molecule destroy --scenario-name "$scenario" >"build/molecule/$scenario.log" 2>&1
  if molecule test --scenario-name "$scenario" >>"build/molecule/$scenario.log" 2>&1; then
    outcome=passed
  else
    outcome=failed
    failed=1
  fi
  printf '%s in %d s\n' "$outcome" $((SECONDS - start))
  printf '%s %s %d\n' "$scenario" "$outcome" $((SECONDS - start)) >>build/molecule/results.txt
  [ $outcome = passed ] || tail -n 80 "build/molecule/$scenario.log"
done
exit $failed
