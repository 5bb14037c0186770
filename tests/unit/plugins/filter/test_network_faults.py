"""`network_faults`: networks that are none, and those with bits beyond their prefix."""

from __future__ import annotations

import pytest
from ansible_collections.tf2x.serving.plugins.filter.network_faults import network_faults


def test_networks() -> None:
    assert network_faults(["203.0.113.0/24", "203.0.113.7/32", "0.0.0.0/0"]) == []


@pytest.mark.parametrize("entry", ["203.0.113.7", "203.0.113.0/33", "203.0.113/24", "2001:db8::/32", "office", "", 7])
def test_what_is_no_network(entry: object) -> None:
    assert "is no IPv4 network" in network_faults([entry])[0]


def test_bits_that_are_not_numbered() -> None:
    assert network_faults(["203.0.113.0/255.255.255.0"]) == [
        "203.0.113.0/255.255.255.0 is not written as a network with the number of its bits; right is 203.0.113.0/24"
    ]


def test_bits_beyond_the_prefix() -> None:
    assert network_faults(["203.0.113.7/24"]) == [
        "203.0.113.7/24 is not the beginning of its network; right is 203.0.113.0/24, or 203.0.113.7/32"
    ]
