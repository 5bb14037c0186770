# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SHA-512 crypt: hashes of passwords as HAProxy and /etc/shadow take them.

Ansible's own filter for it needs the package passlib on the controller.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: sha512_crypt
version_added: 0.1.0
short_description: Hash a password with SHA-512 crypt
description:
  - Gives the hash that C(openssl passwd -6) gives, with 5000 rounds. The same password and salt give the same hash.
  - Needs nothing besides Python.
author:
  - tf2x maintainers (@tf2x)
positional: salt
options:
  _input:
    description:
      - The password.
    type: str
    required: true
  salt:
    description:
      - 1 to 16 letters, digits, dots and slashes. Another one for each password.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write a line of HAProxy's userlist
  ansible.builtin.debug:
    msg: "user ops password {{ password | tf2x.serving.sha512_crypt('Gx0iRnQw3vBtLz5e') }}"
"""

RETURN = r"""
_value:
  description:
    - The hash, with C($6$) and the salt before it.
  type: str
"""

import hashlib
import re
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

_ROUNDS = 5000  # those of a hash that names no number
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _repeated(digest: bytes, length: int) -> bytes:
    return (digest * (length // len(digest) + 1))[:length]


def _base64(digest: bytes) -> str:
    """Encode as crypt does: its own alphabet, low bits first, bytes from the thirds of the digest in turn."""
    text = ""
    group = (0, 21, 42)
    for _unused in range(21):
        one, two, three = (digest[index] for index in group)
        value = one << 16 | two << 8 | three
        text += "".join(_ALPHABET[value >> shift & 63] for shift in (0, 6, 12, 18))
        group = (group[1] + 1, group[2] + 1, group[0] + 1)
    return text + _ALPHABET[digest[63] & 63] + _ALPHABET[digest[63] >> 6]


def sha512_crypt(password: str, salt: str) -> str:
    """Return the hash of a password that is not empty."""
    # What Ansible Vault holds is no str before ansible-core 2.19.
    password, salt = str(password or ""), str(salt)
    if not password:
        raise AnsibleFilterError("sha512_crypt: the password is empty")
    if not re.fullmatch(r"[./0-9A-Za-z]{1,16}", salt):
        raise AnsibleFilterError("sha512_crypt: a salt has 1 to 16 letters, digits, dots and slashes")
    key, salted = password.encode(), salt.encode()

    def sha512(data: bytes) -> bytes:
        return hashlib.sha512(data).digest()

    both = sha512(key + salted + key)
    start = key + salted + _repeated(both, len(key))
    for bit in reversed(f"{len(key):b}"):
        start += both if bit == "1" else key
    digest = sha512(start)
    key_part = _repeated(sha512(key * len(key)), len(key))
    salt_part = _repeated(sha512(salted * (16 + digest[0])), len(salted))
    for number in range(_ROUNDS):
        odd = number % 2
        digest = sha512(
            (key_part if odd else digest)
            + (salt_part if number % 3 else b"")
            + (key_part if number % 7 else b"")
            + (digest if odd else key_part)
        )
    return f"$6${salt}${_base64(digest)}"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"sha512_crypt": sha512_crypt}
