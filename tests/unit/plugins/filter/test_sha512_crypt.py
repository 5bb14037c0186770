"""`sha512_crypt` gives what other implementations give."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.tf2x.serving.plugins.filter.sha512_crypt import sha512_crypt


def test_the_example_of_the_specification() -> None:
    assert sha512_crypt("Hello world!", "saltstring") == (
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    )


@pytest.mark.parametrize("password", ["x", "p@ss: w#rd$", "ä" * 20, "0123456789abcdef" * 4, "long" * 33])
@pytest.mark.parametrize("salt", ["s", "Gx0iRnQw3vBtLz5e"])
def test_the_same_as_openssl(password: str, salt: str) -> None:
    openssl = shutil.which("openssl")
    assert openssl, "there is no openssl on PATH"
    found = subprocess.run(
        [openssl, "passwd", "-6", "-salt", salt, "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    assert sha512_crypt(password, salt) == found.stdout.strip()


@pytest.mark.parametrize(("password", "salt"), [("", "salt"), ("x", ""), ("x", "a" * 17), ("x", "a$b"), (None, "salt")])
def test_refuses_what_would_be_no_hash(password: str, salt: str) -> None:
    with pytest.raises(AnsibleFilterError):
        sha512_crypt(password, salt)
