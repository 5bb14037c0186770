# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: gcp_error
version_added: 0.1.0
short_description: Say what a refusal of Google Cloud means
description:
  - Takes the result of a failed task of C(google.cloud), which holds an answer of Google's or a traceback, and returns
    what it means and what would be right.
author:
  - tf2x maintainers (@tf2x)
options:
  _input:
    description:
      - The failed result, of one task or of a loop.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what is wrong
  ansible.builtin.fail:
    msg: "{{ ansible_failed_result | tf2x.serving.gcp_error }}"
"""

RETURN = r"""
_value:
  description: What is wrong, with the names of a loop's items that failed.
  type: str
"""

from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils._gcp_errors import explain


def _name(result: dict[str, Any]) -> str:
    item = result.get("item")
    return f"{item['name']}: " if isinstance(item, dict) and "name" in item else ""


def gcp_error(result: dict[str, Any]) -> str:
    """Return what is wrong; of a loop, with each item that failed."""
    failed = [one for one in result.get("results") or [result] if one.get("failed")] or [result]
    return " | ".join(_name(one) + _words(one) for one in failed)


def _words(result: dict[str, Any]) -> str:
    if "censored" in result:
        return "Google's answer holds a key and is not shown. Often certificate and key do not belong together."
    # A module that broke off says so in msg, and why in a traceback.
    return explain("\n".join(str(result[key]) for key in ("msg", "module_stderr", "exception") if result.get(key)))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"gcp_error": gcp_error}
