# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How the modules that speak to the Docker engine find it.
    DOCUMENTATION = r"""
requirements:
  - Docker SDK for Python 5.0 or newer (Debian package C(python3-docker), Python package C(docker)) on the target
options:
  docker_host:
    description:
      - Address of the Docker engine, as the Docker SDK takes it.
    type: str
    default: unix:///var/run/docker.sock
notes:
  - In check mode, a host on which the Docker SDK or the engine is not there yet is not an error. The module then warns
    and returns empty lists, so that a play can be checked on a fresh host.
"""
