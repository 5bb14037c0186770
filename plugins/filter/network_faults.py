# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: network_faults
version_added: 0.1.0
short_description: Say what is wrong with networks in CIDR notation
description:
  - Returns a sentence for each entry that is no IPv4 network, or has bits set beyond its prefix, and an empty list when
    all are right.
  - Needs nothing besides Python.
author:
  - tf2x maintainers (@tf2x)
options:
  _input:
    description:
      - Networks, such as V(203.0.113.0/24).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse what is no network
  ansible.builtin.assert:
    that: allowed | tf2x.serving.network_faults | length == 0
"""

RETURN = r"""
_value:
  description: What is wrong.
  type: list
  elements: str
"""

import ipaddress
from typing import Any


def network_faults(networks: list[Any]) -> list[str]:
    """Return what is wrong; nothing for networks that are right."""
    return [fault for fault in map(_fault, networks) if fault]


def _fault(entry: Any) -> str:
    text = str(entry)
    try:
        # An address alone would pass as a network of one; whoever means that says so.
        network = ipaddress.IPv4Network(text, strict=False) if "/" in text else None
    except ValueError:
        network = None
    if network is None:
        return f"{text} is no IPv4 network; right is one such as 203.0.113.0/24, or 203.0.113.7/32 for one address"
    if str(network) == text:
        return ""
    address = text.partition("/")[0]
    if str(network.network_address) == address:
        return f"{text} is not written as a network with the number of its bits; right is {network}"
    return f"{text} is not the beginning of its network; right is {network}, or {address}/32"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"network_faults": network_faults}
