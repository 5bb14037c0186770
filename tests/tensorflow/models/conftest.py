"""Lets these tests make models, and start the stand-in of TF Serving as its own tests do."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(TESTS / "tensorflow" / "tf_serving_compat"))
sys.path.insert(0, str(TESTS / "models" / "colours"))
