"""Make `ansible_collections.tf2x.serving` importable from this checkout."""

import os
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

# gRPC's handlers end the children of processes that have its threads: commands that modules run in the same process.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

ROOT = Path(__file__).resolve().parents[2]

_AnsibleCollectionFinder(paths=[str(ROOT / "build" / "collections")])._install()
