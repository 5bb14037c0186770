"""Make the collection's module_utils importable without Ansible: they are a namespace package in the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

sys.path.insert(0, str(ROOT / "build" / "collections"))
