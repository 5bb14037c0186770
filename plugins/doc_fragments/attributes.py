# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What each attribute means; a module adds its own support.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and predict whether it would change something, without changing it.
  diff_mode:
    description: Returns what has changed, or would change in check mode, when run with C(--diff).
  idempotent:
    description: A second run with the same arguments changes nothing, as long as nobody else changed the target.
  action_group:
    description: Use C(group/tf2x.serving.all) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - tf2x.serving.all
"""

    # For modules that only read.
    READ_ONLY = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This action does not modify state.
  diff_mode:
    support: N/A
    details:
      - This action does not modify state.
  idempotent:
    support: full
    details:
      - This action does not modify state.
"""

    # For modules that change files, whose contents are of no use to a reader.
    NO_DIFF = r"""
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
"""
