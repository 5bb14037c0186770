"""Where the tests find gateway, stubs, clients and the load generator."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

for folder in ("tests/unit/gateway", "tests/fuzz", "benchmarks"):
    sys.path.insert(0, str(ROOT / folder))
