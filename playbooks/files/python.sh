# shellcheck shell=sh
# Gives a host whose own Python is too old for Ansible's modules another one beside it. playbooks/python.yml sets $allow_eol, $vault,
# $folder, $lock_3_8 and $lock_3_11; $test_root is the tests' own. Lines that begin with "changed: " are what was changed.
: "${allow_eol:?}" "${vault:?}" "${folder:?}" "${lock_3_8:?}" "${lock_3_11:?}"
set -eu
umask 022

refuse() {
  echo "python: $*" >&2
  exit 1
}

# The mirrors of CentOS 7 are gone. A repository that names another server stays as it is, and so do the keys.
use_vault() {
  for file in "${test_root:-}"/etc/yum.repos.d/CentOS-*.repo; do
    grep -q '^[^#]*//mirror\(list\)\{0,1\}\.centos\.org' "$file" || continue
    sed -i.mirrors -e 's/^mirrorlist=/#&/' -e "s|^#* *baseurl=http://mirror\.centos\.org/centos/[^/]*|baseurl=$vault|" "$file"
    echo "changed: $file names $vault"
  done
}

# shellcheck source=/dev/null
. "${test_root:-}/etc/os-release"
case $ID:${ID_LIKE:-}:${VERSION_ID:-} in
  centos:*:7 | centos:*:7.*)
    [ "$allow_eol" = true ] || refuse "centos_base_allow_eol is $allow_eol, and this host runs $PRETTY_NAME, which has had no security" \
      "updates since June 2024. Move to Enterprise Linux 9 or 10; or say centos_base_allow_eol: true, and read what docs/operations.md says of it."
    [ "$(uname -m)" = x86_64 ] || refuse "this host is $(uname -m); of CentOS 7, x86_64 is what there is a newer Python for."
    python=${test_root:-}/opt/rh/rh-python38/root/usr/bin/python3.8
    lock=$lock_3_8
    use_vault
    if ! rpm --query --quiet rh-python38-python rh-python38-python-pip; then
      yum --quiet --assumeyes install centos-release-scl-rh
      use_vault
      yum --quiet --assumeyes install rh-python38-python rh-python38-python-pip
      echo "changed: rh-python38 is installed"
    fi
    # Its library has a name of its own, and lies where the linker does not look.
    if ! "$python" -c '' 2>/dev/null; then
      echo "${python%/bin/*}/lib64" >"${test_root:-}/etc/ld.so.conf.d/rh-python38.conf"
      ldconfig
      echo "changed: the linker finds the library of rh-python38"
    fi
    ;;
  rhel:*:7* | ol:*:7* | *rhel*:7*)
    refuse "this host runs $PRETTY_NAME; of version 7, CentOS is what the vault has packages for. Move to Enterprise Linux 9 or 10."
    ;;
  rhel:*:8* | ol:*:8* | *rhel*:8*)
    python=${test_root:-}/usr/bin/python3.11
    lock=$lock_3_11
    if ! rpm --query --quiet python3.11; then
      dnf --quiet --assumeyes install python3.11
      echo "changed: python3.11 is installed"
    fi
    ;;
  *)
    echo "$PRETTY_NAME has a Python that is new enough."
    exit 0
    ;;
esac

if [ "$(cat "$folder/.lock" 2>/dev/null)" != "$lock" ] || ! "$folder/bin/python" -c '' 2>/dev/null; then
  "$python" -m venv --clear "$folder"
  printf '%s\n' "$lock" | PIP_CERT=/etc/pki/tls/certs/ca-bundle.crt "$folder/bin/python" -m pip install --quiet --no-input --no-cache-dir \
    --disable-pip-version-check --require-hashes --only-binary :all: --requirement /dev/stdin
  printf '%s\n' "$lock" >"$folder/.lock"
  echo "changed: $folder is made"
fi
echo "ansible_python_interpreter: $folder/bin/python"
