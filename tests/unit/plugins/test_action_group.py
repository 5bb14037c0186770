"""`module_defaults: group/tf2x.serving.all` reaches every module."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]


def test_the_action_group_holds_every_module() -> None:
    groups = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))["action_groups"]
    assert groups == {"all": sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))}
