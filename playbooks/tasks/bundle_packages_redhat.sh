#!/usr/bin/env bash
# Download the packages in the arguments and what they need into /srv/packages, with an index.
set -euo pipefail
mkdir -p /srv/packages
# The role removes what the engine cannot be beside.
dnf install --quiet --assumeyes --allowerasing --downloadonly --destdir /srv/packages "$@"
# Those in the image, too: a host may have been installed with fewer.
dnf reinstall --quiet --assumeyes --downloadonly --destdir /srv/packages "$@" || true
# A repository may say that dnf need not; and without this level, none is as good as a right one.
rpmkeys --define '_pkgverify_level signature' --checksig /srv/packages/*.rpm >&2
createrepo_c --quiet --no-database --revision 1 --set-timestamp-to-revision /srv/packages
