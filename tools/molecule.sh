#!/usr/bin/env bash
# Run molecule scenarios, JOBS of them (default 1) at a time; keep their output in build/molecule/ and show only what failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
mkdir -p build/molecule
export NO_COLOR=1 PY_COLORS=0

run() {
  local scenario=$1 start=$SECONDS outcome=failed log=build/molecule/$1.log line
  # A run that was cut off leaves hosts behind, and the belief that they are there.
  molecule destroy --scenario-name "$scenario" >"$log" 2>&1
  molecule test --scenario-name "$scenario" >>"$log" 2>&1 && outcome=passed
  printf '%s %s %d\n' "$scenario" "$outcome" $((SECONDS - start)) >"build/molecule/$scenario.result"
  printf -v line 'molecule %-20s %s in %d s' "$scenario" "$outcome" $((SECONDS - start))
  if [ $outcome = passed ]; then echo "$line"; else printf '%s\n%s\n' "$line" "$(tail -n 80 "$log")"; fi
  [ $outcome = passed ]
}

failed=0
running=0
for scenario in "$@"; do
  if [ $running -ge "${JOBS:-1}" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run "$scenario" &
  running=$((running + 1))
done
while [ $running -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit $failed
