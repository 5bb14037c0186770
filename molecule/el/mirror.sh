#!/usr/bin/env bash
# Sign the packages with a key of this hour, and put them where Enterprise Linux has them.
set -euo pipefail
export GNUPGHOME=/root/mirror-key
mkdir -p $GNUPGHOME /srv/www
chmod 700 $GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-generate-key 'Test mirror <mirror@example.com>' rsa3072 sign never
rpmsign --define '__gpg /usr/bin/gpg' --define '_gpg_name mirror@example.com' --addsign /srv/mirror/*/*.rpm >/dev/null
cd /srv/www
mkdir -p epel/9/Everything docker/centos/9/x86_64
cp -r /srv/mirror/os os
cp -r /srv/mirror/epel epel/9/Everything/x86_64
cp -r /srv/mirror/docker docker/centos/9/x86_64/stable
for folder in os epel/9/Everything/x86_64 docker/centos/9/x86_64/stable; do createrepo_c --quiet $folder; done
gpg --armor --export >key.asc
cp key.asc epel/RPM-GPG-KEY-EPEL-9
cp key.asc docker/centos/gpg
gpg --with-colons --list-keys | sed -n 's/^fpr:*\([0-9A-F]\{40\}\):$/\1/p' | sed -n 1p >fingerprint
