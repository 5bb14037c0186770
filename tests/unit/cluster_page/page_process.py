"""The cluster page as a process, and a client for its events."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fake_swarm import NETWORK, FakeSwarm, wait_until

sys.path.append(str(Path(__file__).resolve().parents[1]))

from ports import free_port

PAGE_DIRECTORY = Path(__file__).resolve().parents[3] / "files" / "images" / "cluster_page"


class ClusterPage:
    """A page in front of a fake swarm, from its start to `stop`."""

    def __init__(self, swarm: FakeSwarm) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "cluster_page", "--listen=127.0.0.1", f"--port={self.port}"]
        command += [f"--docker-api=http://127.0.0.1:{swarm.port}", f"--network={NETWORK}"]
        command += [f"--serving-port={swarm.serving_port}"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self.process = subprocess.Popen(
            command, stderr=self._log, env={**os.environ, "PYTHONPATH": str(PAGE_DIRECTORY)}
        )
        try:
            wait_until(self._lives, 60)
        except BaseException:
            self.stop()
            raise

    def _lives(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples; `name` may go on with labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def cpu_seconds(self) -> float:
        """Return what the process has used of a core, without asking it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Events:
    """What a browser is told: the picture, kept up to date with the changes that came."""

    def __init__(self, page: ClusterPage) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
        self._connection.request("GET", "/events")
        self._socket = self._connection.sock
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.picture: dict[str, Any] = {}
        if self.status == 200:
            name, self.picture = self.next()
            assert name == "picture"

    def close(self) -> None:
        # Only then the other side sees that nobody listens: the answer holds the socket as well.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._answer.close()
        self._connection.close()

    def next(self, seconds: float = 20) -> tuple[str, dict[str, Any]]:
        """Return the next event. Raises TimeoutError."""
        self._socket.settimeout(seconds)
        name = ""
        while True:
            line = self._answer.readline().decode().rstrip("\n")
            assert line or name or not self._answer.isclosed(), "the stream has ended"
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))

    def follow(self, seconds: float = 20) -> dict[str, Any]:
        """Take the next change into the picture and return it."""
        name, change = self.next(seconds)
        assert name == "change"
        for section, changed in change.items():
            if section == "trouble":
                self.picture[section] = changed
                continue
            for identifier, value in changed.items():
                if value is None:
                    del self.picture[section][identifier]
                else:
                    self.picture[section][identifier] = value
        return change

    def until(self, condition, seconds: float = 30) -> None:
        """Follow until `condition` of the picture holds."""
        end = time.monotonic() + seconds
        while not condition(self.picture):
            assert time.monotonic() < end, f"still not so: {json.dumps(self.picture)[:2000]}"
            self.follow(max(0.1, end - time.monotonic()))
