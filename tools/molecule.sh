#!/usr/bin/env bash
# Run molecule scenarios, JOBS of them (default 1) at a time; keep their output in build/molecule/ and show only what failed. NAME:converge
# boots and sets up a scenario's hosts and leaves them, for NAME:verify to go on with, when nothing else runs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
mkdir -p build/molecule
export NO_COLOR=1 PY_COLORS=0

run() {
  local scenario=${1%:*} start=$SECONDS outcome=passed log=build/molecule/${1%:*}.log action actions line
  case $1 in
    *:converge) actions=(converge) ;;
    *:verify) actions=(verify idempotence) ;;
    *) actions=(test) ;;
  esac
  # A run that was cut off leaves hosts behind, and the belief that they are there.
  [[ $1 = *:verify ]] || molecule destroy --scenario-name "$scenario" >"$log" 2>&1
  for action in "${actions[@]}"; do
    molecule "$action" --scenario-name "$scenario" >>"$log" 2>&1 || { outcome=failed && break; }
  done
  [[ $1 != *:verify && $1$outcome != *:convergefailed ]] || molecule destroy --scenario-name "$scenario" >>"$log" 2>&1
  printf -v line 'molecule %-20s %s in %d s' "$1" "$outcome" $((SECONDS - start))
  if [ $outcome = passed ]; then echo "$line"; else printf '%s\n%s\n' "$line" "$(tail -n 80 "$log")"; fi
  [[ $1 = *:converge ]] || printf '%s %s %d\n' "$scenario" "$outcome" $((SECONDS - start)) >"build/molecule/$scenario.result"
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
