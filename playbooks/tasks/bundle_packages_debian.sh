#!/usr/bin/env bash
# Download the packages in the arguments and what they need into /srv/packages, with an index.
set -euo pipefail
mkdir -p /srv/packages/partial
apt-get update --quiet
# Those in the image, too: a host may have been installed with fewer.
apt-get install --quiet --assume-yes --download-only --reinstall -o Dir::Cache::archives=/srv/packages "$@"
rm -rf /srv/packages/partial /srv/packages/lock
cd /srv/packages
apt-ftparchive packages . >Packages
