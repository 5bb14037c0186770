"""A gateway process that is watched: whether it lives, what it writes to disk, and how much memory it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gateway_process import GATEWAY_DIRECTORY, Gateway, gateway_config
from processes import Process

_STDERR = 2
_LOOK_SECONDS = 0.02
_STUB = Path(__file__).resolve().parents[2] / "benchmarks" / "stub_tf_serving.py"
_UNIT = GATEWAY_DIRECTORY.parents[1] / "templates" / "tf2x-gateway.service.j2"
# What a configuration says of the stub's model.
CONSTANT_MODEL = {"default_model": "float32", "models": {"float32": {"labels": ["cat", "dog"]}}}


class WatchedGateway:
    """A gateway whose working directory, home and directory for temporary files are one empty directory."""

    def __init__(self, gateway: Gateway, scratch: Path) -> None:
        self._gateway = gateway
        self._scratch = scratch
        self._pid = gateway.process.pid
        self._open_files: set[str] = set()

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that it listens on."""
        return self._gateway.port

    @property
    def log(self) -> str:
        """What it has written to its log."""
        return self._gateway.log

    @property
    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._memory("VmRSS")

    @property
    def peak_rss_bytes(self) -> int:
        """Largest resident memory since the start or `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak of the resident memory start over from now; see clear_refs in proc(5)."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    @property
    def crashes(self) -> list[str]:
        """What says that the process ended or that its code failed."""
        status = self._gateway.process.poll()
        found = [] if status is None else [f"the gateway ended with status {status}"]
        return found + [f"the log has: {line}" for line in _failures(self.log)]

    @property
    def files_left(self) -> list[str]:
        """Files that the process left behind, and those that it had open while it was watched."""
        left = [str(path) for path in self._scratch.rglob("*")]
        return left + sorted(self._open_files)

    async def watch(self) -> None:
        """Look at the open files of the process again and again, until cancelled."""
        while True:
            self.note_open_files()
            await asyncio.sleep(_LOOK_SECONDS)

    def note_open_files(self) -> None:
        """Remember the files that the process can write to now, its output and log aside."""
        for path in Path(f"/proc/{self._pid}/fd").iterdir():
            if int(path.name) <= _STDERR:
                continue
            # It may be closed at any moment.
            with contextlib.suppress(OSError):
                target = str(path.readlink())
                flags = int(Path(f"/proc/{self._pid}/fdinfo/{path.name}").read_text().split()[3], 8)
                if flags & os.O_ACCMODE != os.O_RDONLY and target.startswith("/") and not target.startswith("/dev/"):
                    self._open_files.add(target)

    def _memory(self, key: str) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(key))


@contextlib.contextmanager
def constant_serving() -> Iterator[str]:
    """Start a stub of TF Serving that answers at once with constants; the address of its gRPC interface."""
    environment = {"PYTHONPATH": str(GATEWAY_DIRECTORY), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "stub.log")
        with Process([sys.executable, str(_STUB)], environment=environment, log=log) as stub:
            yield f"127.0.0.1:{json.loads(stub.first_line())['grpc']}"


@contextlib.contextmanager
def watched_gateway(upstream: str, cores: Collection[int] | None = None, **changes: Any) -> Iterator[WatchedGateway]:
    """Start a gateway, on the given cores only if any are given; `changes` as those of gateway_config."""
    with tempfile.TemporaryDirectory() as directory:
        config = gateway_config(upstream, **{"deadline_seconds": 10, **changes})
        with _surroundings(directory, cores):
            gateway = Gateway(config)
        try:
            yield WatchedGateway(gateway, Path(directory))
        finally:
            gateway.stop()


@contextlib.contextmanager
def _surroundings(directory: str, cores: Collection[int] | None) -> Iterator[None]:
    """Let child processes start in this directory, on these cores, and allocate memory as the systemd unit says."""
    allocation = dict(re.findall(r"((?:MALLOC|GLIBC)_\w+)=(\S+)", _UNIT.read_text()))
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or own_cores)
    try:
        private = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), directory)
        with patch.dict(os.environ, {**private, **allocation}), contextlib.chdir(directory):
            yield
    finally:
        os.sched_setaffinity(0, own_cores)


def _failures(log: str) -> list[str]:
    """Return the lines that a failure of the gateway's code leaves; the access log's lines are JSON objects."""
    lines = [line for line in log.splitlines() if not line.startswith("{")]
    return [line for line in lines if "Traceback" in line or line.startswith(("ERROR", "CRITICAL", "Fatal"))]
