#!/usr/bin/env bash
# Build the collection's archive and have galaxy-importer look at it as Galaxy does at an upload; a warning is an error here. The argument is
# the environment of requirements/galaxy.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(realpath "$1")
export PATH=$environment/bin:$PATH
# The importer's ansible-lint looks for the community collections nowhere but beside itself.
find_packages='import sysconfig; print(sysconfig.get_path("purelib"))'
ln -sfn "$(.venv/bin/python -c "$find_packages")/ansible_collections" "$("$environment/bin/python" -c "$find_packages")/ansible_collections"
# Galaxy does not have this checkout's ansible.cfg.
unset ANSIBLE_CONFIG

folder=build/galaxy
rm -rf "$folder"
ansible-galaxy collection build --output-path "$folder"
cd "$folder"
GALAXY_IMPORTER_CHECK_REQUIRED_TAGS=true python -m galaxy_importer.main ./*.tar.gz | tee import.log
! grep -E '^(WARNING|ERROR|CRITICAL)' import.log
