"""Measure the gateway against the manual procedure's one, and against the least that its work can cost.

    python benchmarks/gateway.py                                # everything, about five minutes
    python benchmarks/gateway.py --only gateway,floor --quick   # what an optimisation changes, 20 seconds

Every process is one of its own: a stub of TF Serving, the gateway that is measured, and this one, which makes the load.
Parts that are compared take turns in several rounds, and the figures are medians of the rounds, so that a busy moment
of the machine counts little. docs/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from load_generator import LoadResult, check_batch, check_prediction, multipart, run_load
from plot import plot
from processes import Process, free_port
from report import Samples, document, table
from sample_images import IMAGES, sample_jpeg

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GATEWAY = ROOT / "roles" / "fastapi_service" / "files" / "gateway"
UNIT = ROOT / "roles" / "fastapi_service" / "templates" / "tf2x-gateway.service.j2"
PARTS = ("reference", "gateway", "floor", "signatures", "batch", "scale", "memory")
SMALL, MIDDLE, LARGE = IMAGES
BATCH = 32
# Mostly small, some large: what the memory of a worker sees in practice.
MIX = (SMALL,) * 12 + (MIDDLE,) * 3 + (LARGE,)
# The floor keeps its memory: by default glibc returns buffers of this size to the kernel after every call, and page
# faults then cost more than the work itself.
FLOOR_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(1 << 26), "MALLOC_MMAP_THRESHOLD_": str(1 << 26)}


@dataclass(frozen=True)
class Extent:
    """How long and how often things are measured."""

    rounds: int
    seconds: float
    reference_seconds: float
    mixed_requests: int
    more_mixed_requests: int


FULL = Extent(rounds=3, seconds=2.0, reference_seconds=5.0, mixed_requests=10_000, more_mixed_requests=5_000)
QUICK = Extent(rounds=1, seconds=2.0, reference_seconds=6.0, mixed_requests=1_000, more_mixed_requests=500)


class Server:
    """A gateway that runs."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self._port = port

    def url(self, model: str, batch: bool) -> str:
        """Return where images are posted to."""
        return f"http://127.0.0.1:{self._port}/models/{model}/predict" + ("/batch" if batch else "")


class ReferenceServer(Server):
    """The manual procedure's gateway, which has one model."""

    def url(self, model: str, batch: bool) -> str:
        return f"http://127.0.0.1:{self._port}/model/predict/"


class Bench:
    """The stub and what is measured before it."""

    def __init__(self, directory: Path, extent: Extent, tf_python: str) -> None:
        self.extent = extent
        self.samples = Samples()
        self.notes: list[str] = []
        self._directory = directory
        self._tf_python = tf_python
        self._environment = {"PYTHONPATH": f"{GATEWAY}{os.pathsep}{HERE}", "PYTHONDONTWRITEBYTECODE": "1"}
        for name in IMAGES:
            self._image(name).write_bytes(sample_jpeg(name))

    def run(self, parts: Collection[str]) -> None:
        """Measure the parts; the figures are in `samples` then."""
        with self._process("stub", sys.executable, str(HERE / "stub_tf_serving.py")) as stub:
            self._ports = json.loads(stub.first_line())
            if {"reference", "gateway", "floor"} & set(parts):
                self._compare(parts)
            for part in ("signatures", "batch", "scale", "memory"):
                if part in parts:
                    getattr(self, f"_{part}")()

    def _compare(self, parts: Collection[str]) -> None:
        with self._gateway() as gateway, self._reference("reference" in parts) as reference:
            for number in range(self.extent.rounds):
                _say(f"reference, gateway and floor: round {number + 1} of {self.extent.rounds}")
                for image in IMAGES:
                    if "floor" in parts:
                        self._floor("float32", image)
                    if "gateway" in parts:
                        self._throughput(gateway, "gateway", image)
                        self._latency(gateway, "gateway", image)
                    if reference and (image == SMALL or number == 0):
                        self._throughput(reference, "reference", image, seconds=self.extent.reference_seconds)
            if reference:
                self.samples.add("reference", rss_mb=reference.process.rss_mb)

    def _signatures(self) -> None:
        with self._gateway() as gateway:
            for number in range(self.extent.rounds):
                _say(f"signatures: round {number + 1} of {self.extent.rounds}")
                for model in ("float32", "uint8", "encoded"):
                    self._floor(model, SMALL, "signature floor", model)
                    self._throughput(gateway, "signature", SMALL, model=model, subject=model)

    def _batch(self) -> None:
        with self._gateway() as gateway:
            for number in range(self.extent.rounds):
                _say(f"batch: round {number + 1} of {self.extent.rounds}")
                for model in ("float32", "uint8"):
                    self._throughput(gateway, "single", SMALL, model=model, subject=model)
                    self._throughput(gateway, "batch", SMALL, model=model, subject=model, images=BATCH, connections=1)

    def _scale(self) -> None:
        cores = sorted(os.sched_getaffinity(0))[:2]
        if len(cores) < 2:
            self.notes.append("scale was not measured: that needs two cores")
            return
        with self._gateway(cores=cores[:1]) as one, self._gateway(workers=2, cores=cores) as two:
            for number in range(self.extent.rounds):
                _say(f"scale: round {number + 1} of {self.extent.rounds}")
                for gateway, subject in ((one, "1 worker"), (two, "2 workers")):
                    self._throughput(gateway, "scale", LARGE, subject=subject, connections=16)

    def _memory(self) -> None:
        extent = self.extent
        with self._gateway() as gateway:
            self.samples.add("memory", rest_mb=gateway.process.rss_mb)
            for name, count in (("after_mb", extent.mixed_requests), ("later_mb", extent.more_mixed_requests)):
                _say(f"memory: {count} mixed requests")
                self._load(gateway, [self._form(image) for image in MIX], connections=8, requests=count)
                self.samples.add("memory", **{name: gateway.process.rss_mb})
            self.samples.add("memory", requests=extent.mixed_requests, more_requests=extent.more_mixed_requests)

    def _throughput(
        self,
        server: Server,
        kind: str,
        image: str,
        *,
        model: str = "float32",
        subject: str | None = None,
        connections: int = 4,
        images: int = 1,
        seconds: float | None = None,
    ) -> None:
        """Note images per second, CPU time per image and median latency under a closed loop."""
        form = self._form(image, images)
        self._load(server, [form], model, connections=connections, requests=2 * connections, batch=images > 1)
        cpu = server.process.cpu_seconds
        result = self._load(
            server, [form], model, connections=connections, seconds=seconds or self.extent.seconds, batch=images > 1
        )
        cpu_ms = (server.process.cpu_seconds - cpu) * 1000
        if result.ok:
            self.samples.add(
                kind,
                subject or image,
                rate=result.rate * images,
                cpu_ms=cpu_ms / (result.ok * images),
                p50_ms=result.percentile(50),
                p99_ms=result.percentile(99),
            )

    def _latency(self, server: Server, kind: str, image: str) -> None:
        """Note the median latency of one request at a time."""
        result = self._load(server, [self._form(image)], connections=1, seconds=self.extent.seconds)
        if result.ok:
            self.samples.add(kind, image, alone_p50_ms=result.percentile(50))

    def _floor(self, model: str, image: str, *subject: str) -> None:
        command = [sys.executable, str(HERE / "floor.py"), f"127.0.0.1:{self._ports['grpc']}", model]
        command += [str(self._image(image)), f"--seconds={self.extent.seconds}"]
        environment = {**os.environ, **self._environment, **FLOOR_ENVIRONMENT}
        found = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
        self.samples.add(*(subject or ("floor", image)), **found)

    def _load(
        self,
        server: Server,
        forms: list[tuple[bytes, dict[str, str]]],
        model: str = "float32",
        *,
        batch: bool = False,
        **extent: Any,
    ) -> LoadResult:
        url = server.url(model, batch)
        check = check_batch if batch else check_prediction
        bodies = [body for body, _unused in forms]
        result = uvloop.run(run_load(url, bodies, forms[0][1], check=check, **extent))
        if result.failed:
            faults = ", ".join(f"{count} of {kind} ({result.examples[kind]})" for kind, count in result.failed.items())
            self._note(f"{url}: {sum(result.failed.values())} of {result.sent} requests failed: {faults}")
        return result

    @contextmanager
    def _gateway(self, workers: int = 1, cores: Collection[int] | None = None) -> Iterator[Server]:
        port = free_port()
        config = {
            "bind_address": "127.0.0.1",
            "port": port,
            "workers": workers,
            "upstream": {"grpc": [f"127.0.0.1:{self._ports['grpc']}"]},
            "default_model": "float32",
            "models": {name: {"labels": ["cat", "dog"]} for name in ("float32", "uint8", "encoded")},
        }
        file = self._directory / f"config-{port}.json"
        file.write_text(json.dumps(config))
        command = [sys.executable, "-m", "tf2x_gateway", "--config", str(file)]
        with self._process(f"gateway-{port}", *command, cores=cores, environment=unit_environment()) as process:
            process.wait_until_answers(port, "/healthz")
            yield Server(process, port)

    @contextmanager
    def _reference(self, wanted: bool) -> Iterator[Server | None]:
        if not wanted:
            yield None
            return
        port = free_port()
        command = [self._tf_python, str(HERE / "reference_way.py"), str(self._ports["rest"]), str(port)]
        with self._process("reference", *command) as process:
            process.wait_until_answers(port, "/")
            yield ReferenceServer(process, port)

    def _process(
        self,
        name: str,
        *command: str,
        cores: Collection[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        log = self._directory / f"{name}.log"
        return Process(command, environment={**(environment or {}), **self._environment}, log=log, cores=cores)

    def _image(self, name: str) -> Path:
        return self._directory / f"{name}.jpg".replace(" ", "-")

    def _form(self, image: str, images: int = 1) -> tuple[bytes, dict[str, str]]:
        return multipart("file" if images == 1 else "files", *[sample_jpeg(image)] * images)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            _say(text)


def unit_environment() -> dict[str, str]:
    """Return the variables that the gateway's systemd unit sets to values of its own, not to the host's."""
    lines = [line for line in UNIT.read_text().splitlines() if line.startswith("Environment=")]
    settings = [word for line in lines for word in line.removeprefix("Environment=").split() if "=" in word]
    return {name: value for name, _unused, value in (word.partition("=") for word in settings) if "{" not in value}


def _say(text: str) -> None:
    print(f"benchmark: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the table, and write it, its figures and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,…", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one short round, for a first impression")
    parser.add_argument("--tf-python", default=str(ROOT / ".venv-tf" / "bin" / "python"), help="Python with TensorFlow")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory (default: %(default)s)")
    parser.add_argument("--plot", type=Path, help="also draw the figures into this SVG file")
    options = parser.parse_args()
    parts = options.only.split(",")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        parser.error(f"--only names {', '.join(unknown)}; the parts are: {', '.join(PARTS)}")
    if "reference" in parts and not Path(options.tf_python).is_file():
        parser.error(f"--tf-python is {options.tf_python}, which is not there; the part reference needs TensorFlow")
    started, load_average = time.monotonic(), round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        bench = Bench(Path(directory), QUICK if options.quick else FULL, options.tf_python)
        bench.run(parts)
    if options.quick:
        count, more = QUICK.mixed_requests, QUICK.more_mixed_requests
        bench.notes.append(f"one short round only, and memory after {count:,} and {more:,} requests instead")
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_average": load_average,
        "seconds": round(time.monotonic() - started),
    }
    found = document(bench.samples, bench.notes, machine)
    text = table(found)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench-gateway.json").write_text(json.dumps(found, indent=2) + "\n")
    (options.output / "bench-gateway.txt").write_text(text)
    print(text)
    print(json.dumps({requirement["key"]: requirement["value"] for requirement in found["requirements"]}))
    if options.plot:
        options.plot.write_text(plot(found))


if __name__ == "__main__":
    main()
