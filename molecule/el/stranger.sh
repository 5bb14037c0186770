#!/usr/bin/env bash
# A repository whose one package somebody else signed, with somebody else's key where Docker has its own.
set -euo pipefail
export GNUPGHOME=/root/stranger-key
mkdir -p $GNUPGHOME /srv/www/stranger/centos
chmod 700 $GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-generate-key 'Stranger <stranger@example.com>' rsa3072 sign never
cat >/root/stranger.spec <<'SPEC'
Name: stranger
Version: 1
Release: 1
Summary: A package that somebody else signed
License: none
BuildArch: noarch
%description
For tests.
%files
SPEC
rpmbuild --quiet --define '_rpmdir /srv/www/stranger' --define '_build_name_fmt %%{NAME}.rpm' -bb /root/stranger.spec
rpmsign --define '__gpg /usr/bin/gpg' --define '_gpg_name stranger@example.com' --addsign /srv/www/stranger/stranger.rpm >/dev/null
createrepo_c --quiet /srv/www/stranger
gpg --armor --export >/srv/www/stranger/centos/gpg
