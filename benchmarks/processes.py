"""Processes under measurement: start, CPU time, memory, end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STOP_SECONDS = 20


class Process:
    """A child process with its own children, as a context manager; its output goes to the file `log`."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, cores: Collection[int] | None = None
    ) -> None:
        """Start `command`, on the given cores only if there are any given."""
        self.log = log
        # Children inherit the cores, and may read them when they start: no moment may be left in between.
        own_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, own_cores if cores is None else cores)
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
                )
        finally:
            os.sched_setaffinity(0, own_cores)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the process and its children so far, in seconds; resolution 10 ms."""
        # utime and stime: fields 14 and 15.
        ticks = sum(int(fields[11]) + int(fields[12]) for fields in self._family())
        return ticks / _TICKS_PER_SECOND

    @property
    def rss_mb(self) -> float:
        """Resident memory of the process alone, in MB (10^6 bytes)."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * _PAGE_BYTES / 1e6

    def wait_until_answers(self, port: int, path: str, seconds: float = 60) -> None:
        """Return once GET `path` is answered with 200. Raises RuntimeError with the log if that never happens."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            if _status(port, path) == 200:
                return
            time.sleep(0.05)
        raise RuntimeError(f"no 200 from {path} of the process within {seconds} s; its log:\n{self.log.read_text()}")

    def first_line(self, seconds: float = 60) -> str:
        """Return the first line that the process writes. Raises RuntimeError if there is none."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            line, newline, _rest = self.log.read_text().partition("\n")
            if newline:
                return line
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the process said nothing within {seconds} s; exit status: {self._process.poll()}")

    def stop(self) -> None:
        """End the process as systemd would."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _family(self) -> list[list[str]]:
        """Return what /proc/PID/stat says of the process and its descendants, from the state (field 3) on."""
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name before it is in brackets, and may hold any character.
                stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
        family = [self._process.pid]
        for parent in family:
            family += [pid for pid, fields in stats.items() if int(fields[1]) == parent]
        return [stats[pid] for pid in family]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
