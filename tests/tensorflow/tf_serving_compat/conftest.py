"""Models and servers shared by the tests of the stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compat_models import export
from compat_server import MONITORING_CONFIG, CompatServer, wait_for


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """SavedModels by their factor k."""
    root = tmp_path_factory.mktemp("exports")
    return {k: export(root / str(k), k) for k in (2, 3)}


@pytest.fixture
def publish(exports: dict[int, Path], tmp_path: Path) -> Callable[..., Path]:
    """Put the model with factor `k` in place as a version in one step, as a release does."""

    def put(base: Path, version: int, k: int, change: Callable[[Path], object] | None = None) -> Path:
        base.mkdir(parents=True, exist_ok=True)
        incoming = base / f".incoming-{version}"
        shutil.copytree(exports[k], incoming)
        if change:
            change(incoming)
        return incoming.rename(base / str(version))

    return put


@pytest.fixture(scope="session")
def server(exports: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompatServer]:
    """A server with model `lin`: version 1 is y = 2x + 1, version 2 is y = 3x + 1, label `stable` is version 1."""
    root = tmp_path_factory.mktemp("server")
    base = root / "lin"
    for version, k in ((1, 2), (2, 3)):
        shutil.copytree(exports[k], base / str(version))
    (root / "models.config").write_text(
        f"model_config_list {{ config {{ name: 'lin' base_path: '{base}' model_platform: 'tensorflow' "
        "model_version_policy { all {} } version_labels { key: 'stable' value: 1 } } }"
    )
    (root / "monitoring.config").write_text(MONITORING_CONFIG)
    flags = [
        f"--model_config_file={root / 'models.config'}",
        f"--monitoring_config_file={root / 'monitoring.config'}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service=true",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=2",
        "--enable_profiler=false",
    ]
    with CompatServer(root / "log", *flags) as running:
        # The port opens with the first of them.
        wait_for(lambda: running.states("lin") == {1: "AVAILABLE", 2: "AVAILABLE"}, what="both versions")
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., CompatServer]]:
    """Start servers with flags of the test's own; they end with the test."""
    running: list[CompatServer] = []

    def run(*flags: str, wait: bool = True) -> CompatServer:
        one = CompatServer(tmp_path / f"server-{len(running)}.log", *flags, wait=wait)
        running.append(one)
        return one.__enter__()

    yield run
    for one in running:
        one.__exit__()
