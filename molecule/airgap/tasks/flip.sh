#!/usr/bin/env bash
# flip.sh BUNDLE KIND TARGET: make a second bundle with one byte flipped in the middle of the first file of a kind; print that file's name.
set -euo pipefail
rm -rf "$3"
cp --archive --link "$1" "$3"
file=$(find "$3/$2" -type f | sort | sed -n 1p)
middle=$(($(stat --format %s "$file") / 2))
byte=$(od --address-radix n --format u1 --skip-bytes "$middle" --read-bytes 1 "$file")
# A file of its own: the links share theirs.
cp "$file" "$file.copy"
mv "$file.copy" "$file"
printf '%b' "\\x$(printf %x $((byte ^ 1)))" | dd of="$file" bs=1 seek="$middle" conv=notrunc status=none
echo "$file"
