#!/bin/sh
# NOT Miniforge: a stand-in that keeps the contract of its installer, as constructor's header.sh has it: batch mode, a prefix
# that must not exist, free space looked at first, its traces in HOME. What follows the last line is the conda it installs.
set -eu
version=@VERSION@ root=@ROOT@ needed_mb=40

while getopts bp: option; do
  case $option in
    b) ;;
    p) PREFIX=$OPTARG ;;
    *) exit 1 ;;
  esac
done
echo "installer $version $PREFIX" >>"$root/log"

if [ -e "$PREFIX" ]; then
  echo "ERROR: File or directory already exists: '$PREFIX'" >&2
  exit 1
fi
mkdir -p "$PREFIX"
free_mb=$(df -Pm "$PREFIX" | awk 'NR == 2 { print $4 }')
if [ "$free_mb" -lt "$needed_mb" ]; then
  echo "ERROR: Not enough free disk space. Only $free_mb MB are available, but $needed_mb MB are required." >&2
  exit 1
fi
mkdir -p "$HOME/.conda" "$PREFIX/bin" "$PREFIX/conda-meta" "$PREFIX/envs" "$PREFIX/pkgs"
echo "$PREFIX" >>"$HOME/.conda/environments.txt"
{ echo '#!/usr/bin/python3'; sed '1,/^exit 0$/d' "$0"; } >"$PREFIX/bin/conda"
# The test asks for an end as at a power cut: whoever waits for the installer goes too.
if [ -e "$root/cut" ]; then
  kill -KILL "$PPID" "$$"
fi
chmod 0755 "$PREFIX/bin/conda"
touch "$PREFIX/conda-meta/history"
exit 0
