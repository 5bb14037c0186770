"""Make `ansible_collections.tf2x.serving` importable from this checkout."""

from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = Path(__file__).resolve().parents[2]

_AnsibleCollectionFinder(paths=[str(ROOT / "build" / "collections")])._install()
