"""Run a module the way Ansible does: arguments in, exit status and JSON out."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_builder
import pytest
from ansible.module_utils.testing import patch_module_args

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunModule:
    """Call as `run_module("module", check=…, diff=…, option=…)`; fails unless exit status and result agree."""
    # Once a filter was imported, as other tests do, warnings would go to the controller's display.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False, raising=False)

    def run(module_name: str, /, *, check: bool = False, diff: bool = False, **options: Any) -> dict[str, Any]:
        module = importlib.import_module(f"ansible_collections.tf2x.serving.plugins.modules.{module_name}")
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            module.main()
        result = json.loads(capsys.readouterr().out)
        assert ended.value.code == (1 if result.get("failed") else 0)
        return result

    return run


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """A whole SavedModel with a golden file, in a folder of its own."""
    return model_builder.build(tmp_path / "saved_model")
