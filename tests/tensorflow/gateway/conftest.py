"""Lets these tests start the stand-in of TF Serving as its own tests do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tf_serving_compat"))
