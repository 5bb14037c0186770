"""The demo model's folder on the import path, and the model itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tensorflow as tf

PETS = Path(__file__).resolve().parents[3] / "files" / "models" / "pets"
sys.path.insert(0, str(PETS))


@pytest.fixture(scope="session")
def pets() -> Path:
    """The folder of the demo model."""
    return PETS


@pytest.fixture(scope="session")
def signature(pets):
    """The serving signature of the SavedModel as a client of TensorFlow loads it."""
    return tf.saved_model.load(str(pets / "1")).signatures["serving_default"]


@pytest.fixture(scope="session")
def golden(pets) -> dict:
    """The parsed golden file."""
    return json.loads((pets / "1" / "assets.extra" / "golden.json").read_text())
