"""Which model versions are loaded: states, loads with retries, unloads, and handles for the calls under way.

A version that is asked for ("aspired") is loaded before the one it replaces is unloaded, so a model that can answer
goes on answering whatever happens to its successor.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from grpc import StatusCode

from tf_serving_compat.errors import ServingError, as_serving_error
from tf_serving_compat.predict import Servable
from tf_serving_compat.protos import get_model_status_pb2

logger = logging.getLogger(__name__)

State = get_model_status_pb2.ModelVersionStatus.State


@dataclass(frozen=True)
class VersionStatus:
    """What the status calls say of a version: a state, and the error that ended it."""

    state: int
    error: ServingError | None = None


class _Phase(enum.Enum):
    NEW = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    UNLOADING = enum.auto()
    FAILED = enum.auto()


@dataclass
class _Version:
    name: str
    number: int
    path: str
    aspired: bool = True
    phase: _Phase = _Phase.NEW
    servable: Servable | None = None
    calls: int = 0
    unwanted: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.number}}}"


@dataclass(frozen=True)
class ManagerOptions:
    """How versions are loaded and unloaded; 0 threads means one after the other."""

    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_seconds: float = 60.0


class ModelManager:
    """Loads and unloads versions as they are aspired, and hands out the ones that are ready."""

    def __init__(self, load: Callable[[str, int, str], Servable], options: ManagerOptions) -> None:
        """`load(name, version, path)` makes a servable or raises."""
        self._load_servable = load
        self._options = options
        self._changed = threading.Condition()
        self._managed: dict[str, dict[int, _Version]] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = {}
        self._stopped = False
        # The first models load side by side, as in TF Serving; `finish_initial_load` puts the asked number in place.
        self._loaders = ThreadPoolExecutor(4 * len(os.sched_getaffinity(0)), "load")
        self._unloaders = ThreadPoolExecutor(max(1, options.num_unload_threads), "unload")

    def finish_initial_load(self) -> None:
        """Load with `num_load_threads` from now on."""
        with self._changed:
            initial, self._loaders = (
                self._loaders,
                ThreadPoolExecutor(max(1, self._options.num_load_threads), "load"),
            )
        initial.shutdown(wait=False)

    def set_aspired_versions(self, name: str, paths: Mapping[int, str]) -> None:
        """Make these versions (number -> directory) the ones to serve for a model; none at all unloads it."""
        with self._changed:
            versions = self._managed.setdefault(name, {})
            for version in versions.values():
                version.aspired = version.number in paths
                if version.aspired:
                    version.unwanted.clear()
                else:
                    version.unwanted.set()
            for number, path in paths.items():
                if number not in versions:
                    versions[number] = _Version(name, number, path)
                    self._publish(versions[number], State.START)
            self._advance(name)

    def statuses(self, name: str) -> dict[int, VersionStatus]:
        """Every version of a model seen since start, the highest first."""
        with self._changed:
            return dict(sorted(self._statuses.get(name, {}).items(), reverse=True))

    def is_available(self, name: str, version: int) -> bool:
        """Whether the version can answer now."""
        status = self.statuses(name).get(version)
        return status is not None and status.state == State.AVAILABLE

    @contextlib.contextmanager
    def servable(self, name: str, version: int | None = None) -> Iterator[Servable]:
        """The version, or the highest one that is ready; it stays loaded within the block.

        Raises ServingError NOT_FOUND with TF Serving's text.
        """
        with self._changed:
            ready = [v for v in self._managed.get(name, {}).values() if v.phase is _Phase.READY]
            if version is not None:
                ready = [v for v in ready if v.number == version]
            if not ready:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError(StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
            found = max(ready, key=lambda v: v.number)
            found.calls += 1
        try:
            yield found.servable
        finally:
            with self._changed:
                found.calls -= 1
                self._changed.notify_all()

    def wait_until_available(self, names: set[str], timeout: float | None = None) -> None:
        """Wait until each model has a version that became AVAILABLE or failed.

        Raises ServingError UNKNOWN that lists the failed ones, DEADLINE_EXCEEDED after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        failed: dict[str, tuple[int, VersionStatus]] = {}
        pending = set(names)
        with self._changed:
            while True:
                for name in sorted(pending):
                    settled = self._settled(name)
                    if settled is None:
                        continue
                    pending.discard(name)
                    if settled[1].state != State.AVAILABLE:
                        failed[name] = settled
                if not pending or self._stopped:
                    break
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise ServingError(
                        StatusCode.DEADLINE_EXCEEDED,
                        f"Timed out waiting for models to become available: {', '.join(sorted(pending))}",
                    )
                self._changed.wait(remaining)
        if failed:
            details = "".join(
                f"{{{{name: {name} version: {number}}}{f' due to error: {status.error}' if status.error else ''}}}, "
                for name, (number, status) in failed.items()
            )
            raise ServingError(StatusCode.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{details}}}")

    def stop(self) -> None:
        """Give up loads that wait for a retry and wake who waits for models; ready versions stay usable."""
        with self._changed:
            self._stopped = True
            for versions in self._managed.values():
                for version in versions.values():
                    version.unwanted.set()
            self._changed.notify_all()

    def _settled(self, name: str) -> tuple[int, VersionStatus] | None:
        # Versions that the present configuration does not ask for have no say.
        versions = self._managed.get(name, {})
        for number, status in sorted(self._statuses.get(name, {}).items(), reverse=True):
            if number in versions and versions[number].aspired and status.state in (State.AVAILABLE, State.END):
                return number, status
        return None

    def _publish(self, version: _Version, state: int, error: ServingError | None = None) -> None:
        self._statuses.setdefault(version.name, {})[version.number] = VersionStatus(state, error)
        self._changed.notify_all()

    def _advance(self, name: str) -> None:
        """Start what there is to do for a model now; called with the lock held after every change."""
        if self._stopped:
            return
        versions = self._managed[name]
        for version in [v for v in versions.values() if not v.aspired and v.phase in (_Phase.NEW, _Phase.FAILED)]:
            del versions[version.number]
            if version.phase is _Phase.NEW:
                self._publish(version, State.END)
        aspired = [v for v in versions.values() if v.aspired]
        aspired_is_ready = any(v.phase is _Phase.READY for v in aspired)
        replaced = sorted(
            (v for v in versions.values() if not v.aspired and v.phase is _Phase.READY), key=lambda v: v.number
        )
        if aspired and not aspired_is_ready:
            replaced = replaced[:-1]
        for version in replaced:
            version.phase = _Phase.UNLOADING
            self._unloaders.submit(self._unload, version)
        for version in sorted((v for v in aspired if v.phase is _Phase.NEW), key=lambda v: -v.number):
            version.phase = _Phase.LOADING
            self._loaders.submit(self._load, version)

    def _load(self, version: _Version) -> None:
        with self._changed:
            self._publish(version, State.LOADING)
        logger.info("Loading servable version %s", version)
        servable, error = self._try_load(version)
        with self._changed:
            if servable is not None and version.unwanted.is_set():
                servable.close()
                servable, error = None, ServingError(StatusCode.CANCELLED, "Loading was cancelled")
            if servable is None:
                version.phase = _Phase.FAILED
                self._publish(version, State.END, error)
            else:
                version.servable = servable
                version.phase = _Phase.READY
                self._publish(version, State.AVAILABLE)
                logger.info("Successfully loaded servable version %s", version)
            self._advance(version.name)

    def _try_load(self, version: _Version) -> tuple[Servable | None, ServingError | None]:
        options = self._options
        error = ServingError(StatusCode.CANCELLED, "Loading was cancelled")
        for attempt in range(options.max_num_load_retries + 1):
            if attempt and version.unwanted.wait(max(0.0, options.load_retry_interval_seconds)):
                logger.info("Retrying of loading servable %s was cancelled", version)
                break
            if attempt:
                logger.info("Retrying of loading servable: %s retry: %d", version, attempt)
            try:
                return self._load_servable(version.name, version.number, version.path), None
            except Exception as failure:
                # Whatever a model does while it loads must end in its status, not in a dead thread.
                error = as_serving_error(failure)
                logger.error("Loading servable: %s failed: %s", version, error)
        else:
            logger.error(
                "Loading servable: %s exhausted max_num_load_retries: %d", version, options.max_num_load_retries
            )
        return None, error

    def _unload(self, version: _Version) -> None:
        with self._changed:
            self._publish(version, State.UNLOADING)
            while version.calls:
                self._changed.wait()
        try:
            version.servable.close()
        except ServingError as error:
            logger.error("Unloading servable: %s failed: %s", version, error)
        version.servable = None
        logger.info("Done unloading servable version %s", version)
        with self._changed:
            self._publish(version, State.END)
            del self._managed[version.name][version.number]
            self._advance(version.name)
