"""Batching: calls of one signature that come close together run as one.

A `BatchScheduler` owns the threads of the whole server; a `BatchingSession` wraps one model version.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from grpc import StatusCode

from tf_serving_compat import metrics
from tf_serving_compat.errors import ServingError, as_serving_error, invalid_argument
from tf_serving_compat.protos import BatchingParameters
from tf_serving_compat.tensorflow_c import Session
from tf_serving_compat.tensors import Tensor


@dataclass(frozen=True)
class BatchingOptions:
    """Limits of every queue; the defaults are TF Serving's."""

    max_batch_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    num_threads: int = len(os.sched_getaffinity(0))
    thread_pool_name: str = "model_server_batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False

    @classmethod
    def from_proto(cls, parameters: BatchingParameters) -> BatchingOptions:
        """Options of a batching parameters file; ServingError INVALID_ARGUMENT names what is wrong with them."""
        for name in ("enable_large_batch_splitting", "max_execution_batch_size"):
            if parameters.HasField(name) and getattr(parameters, name).value:
                raise invalid_argument(f"batching parameter {name} is not implemented by this stand-in")
        values = {
            name: getattr(parameters, source).value
            for name, source in (
                ("max_batch_size", "max_batch_size"),
                ("max_enqueued_batches", "max_enqueued_batches"),
                ("num_threads", "num_batch_threads"),
                ("thread_pool_name", "thread_pool_name"),
            )
            if parameters.HasField(source)
        }
        sizes = tuple(parameters.allowed_batch_sizes)
        options = cls(
            timeout_seconds=parameters.batch_timeout_micros.value / 1e6,
            allowed_batch_sizes=sizes,
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
            **values,
        )
        for name in ("max_batch_size", "max_enqueued_batches", "num_threads"):
            if getattr(options, name) < 1:
                raise invalid_argument(f"batching parameter {name} must be at least 1, was {getattr(options, name)}")
        if options.timeout_seconds < 0:
            raise invalid_argument("batching parameter batch_timeout_micros must not be negative")
        if any(later <= earlier for earlier, later in zip(sizes, sizes[1:])):
            raise invalid_argument(f"allowed_batch_sizes entries must be in increasing order, were {list(sizes)}")
        if sizes and sizes[-1] != options.max_batch_size:
            raise invalid_argument(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {options.max_batch_size}"
            )
        return options


@dataclass
class _Task:
    feeds: Mapping[str, Tensor]
    size: int
    deadline: float  # time.monotonic(); infinite when the caller set none
    enqueued: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    error: ServingError | None = None


class _Batch:
    def __init__(self) -> None:
        self.tasks: list[_Task] = []
        self.size = 0
        self.opened = time.monotonic()


class _Queue:
    def __init__(self, process: Callable[[list[_Task]], None]) -> None:
        self.process = process
        self.batches: deque[_Batch] = deque()  # only the last one still takes tasks


class BatchScheduler:
    """A pool of threads that take due batches from the queues in turn."""

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        self._changed = threading.Condition()
        self._queues: deque[_Queue] = deque()
        for number in range(options.num_threads):
            threading.Thread(target=self._work, name=f"{options.thread_pool_name}-{number}", daemon=True).start()

    def add_queue(self, process: Callable[[list[_Task]], None]) -> _Queue:
        """A new queue whose batches `process` runs; it must not raise."""
        queue = _Queue(process)
        with self._changed:
            self._queues.append(queue)
        return queue

    def remove_queue(self, queue: _Queue) -> None:
        """Forget an empty queue."""
        with self._changed:
            self._queues.remove(queue)

    def schedule(self, queue: _Queue, task: _Task) -> None:
        """Put a task into the open batch; ServingError when it is too large or the queue is full."""
        options = self.options
        if task.size > options.max_batch_size:
            raise invalid_argument(
                f"Task size {task.size} is larger than maximum input batch size {options.max_batch_size}"
            )
        with self._changed:
            batches = queue.batches
            if not batches or batches[-1].size + task.size > options.max_batch_size:
                if len(batches) >= options.max_enqueued_batches:
                    raise ServingError(
                        StatusCode.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"
                    )
                batches.append(_Batch())
            batches[-1].tasks.append(task)
            batches[-1].size += task.size
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                queue, batch = self._next_batch()
            queue.process(batch.tasks)

    def _next_batch(self) -> tuple[_Queue, _Batch]:
        while True:
            now = time.monotonic()
            wait: float | None = None
            for _unused in range(len(self._queues)):
                queue = self._queues[0]
                self._queues.rotate(-1)
                if not queue.batches:
                    continue
                batch = queue.batches[0]
                due = batch.opened + self.options.timeout_seconds
                if len(queue.batches) > 1 or batch.size >= self.options.max_batch_size or due <= now:
                    return queue, queue.batches.popleft()
                wait = min(due - now, wait if wait is not None else due - now)
            self._changed.wait(wait)


class BatchingSession:
    """A session whose `run` merges calls with the tensors of one of the given signatures.

    `signatures` are pairs of input and output tensor names; other calls run by themselves.
    """

    def __init__(
        self, session: Session, scheduler: BatchScheduler, signatures: Iterable[tuple[frozenset, frozenset]]
    ) -> None:
        self._session = session
        self._scheduler = scheduler
        self._queues = {
            signature: scheduler.add_queue(functools.partial(self._process, sorted(signature[1])))
            for signature in set(signatures)
        }

    def run(self, feeds: Mapping[str, Tensor], fetches: Sequence[str], timeout_ms: int = 0) -> list[Tensor]:
        """As Session.run; UNAVAILABLE when the queue is full, RESOURCE_EXHAUSTED when the time passed in it."""
        queue = self._queues.get((frozenset(feeds), frozenset(fetches)))
        if queue is None:
            return self._session.run(feeds, fetches, timeout_ms)
        deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms > 0 else float("inf")
        task = _Task(feeds, self._batch_size(feeds), deadline)
        self._scheduler.schedule(queue, task)
        task.done.wait()
        if task.error:
            raise task.error
        return [task.outputs[name] for name in fetches]

    def close(self) -> None:
        """Free the model; no `run` may be under way."""
        for queue in self._queues.values():
            self._scheduler.remove_queue(queue)
        self._session.close()

    @staticmethod
    def _batch_size(feeds: Mapping[str, Tensor]) -> int:
        if not feeds:
            raise invalid_argument("Batching Run() must have at least one input tensor")
        shapes = [tensor.array.shape for tensor in feeds.values()]
        if not all(shapes):
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        sizes = {shape[0] for shape in shapes}
        if len(sizes) > 1:
            raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
        for shape in shapes:
            metrics.BATCH_INPUT_SIZE.add(shape[0])
        return sizes.pop()

    def _process(self, fetches: list[str], tasks: list[_Task]) -> None:
        error = None
        try:
            self._run_batch(tasks, fetches)
        except Exception as failure:
            # A batching thread must survive whatever a batch does: every caller of the batch gets the error.
            error = as_serving_error(failure)
        for task in tasks:
            task.error = error
            task.done.set()

    def _run_batch(self, tasks: list[_Task], fetches: list[str]) -> None:
        options = self._scheduler.options
        now = time.monotonic()
        for task in tasks:
            metrics.BATCH_QUEUING_LATENCY.add((now - task.enqueued) * 1e6, options.thread_pool_name)
        deadline = max(task.deadline for task in tasks)
        if deadline <= now:
            raise ServingError(StatusCode.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
        size = sum(task.size for task in tasks)
        padded_size = next((allowed for allowed in options.allowed_batch_sizes if allowed >= size), size)
        metrics.BATCH_PADDING.add(padded_size - size, str(padded_size))
        metrics.BATCH_PROCESSED_SIZE.add(padded_size)
        feeds = {name: self._merge(name, [task.feeds[name] for task in tasks], padded_size) for name in tasks[0].feeds}
        timeout_ms = 0 if deadline == float("inf") else max(1, int((deadline - now) * 1000))
        outputs = self._session.run(feeds, fetches, timeout_ms)
        metrics.BATCH_RUNS.add()
        for name, output in zip(fetches, outputs):
            if output.array.ndim == 0:
                raise ServingError(StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if output.array.shape[0] != padded_size:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
            start = 0
            for task in tasks:
                task.outputs[name] = Tensor(output.dtype, output.array[start : start + task.size])
                start += task.size

    def _merge(self, name: str, tensors: list[Tensor], rows: int) -> Tensor:
        arrays = [tensor.array for tensor in tensors]
        dtype = tensors[0].dtype
        if any(tensor.dtype != dtype for tensor in tensors):
            raise ServingError(
                StatusCode.INTERNAL, f"Tensor concat operation failed: tensors with name '{name}' differ in type"
            )
        if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
            if not self._scheduler.options.pad_variable_length_inputs:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    f"Tensors with name '{name}' from different tasks have different shapes and padding is turned "
                    "off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have "
                    "equal dimensions starting with the first dim.",
                )
            arrays = _pad_to_common_shape(name, arrays)
        missing = rows - sum(len(array) for array in arrays)
        if missing > 0:
            # A row that came with a request is a valid row.
            arrays.append(np.repeat(arrays[-1][:1], missing, axis=0))
        return Tensor(dtype, arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def _pad_to_common_shape(name: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    if len({array.ndim for array in arrays}) > 1:
        raise invalid_argument(f"Tensors with name '{name}' from different tasks should have the same rank")
    sizes = np.max([array.shape[1:] for array in arrays], axis=0)
    padded = []
    for array in arrays:
        widths = [(0, 0), *((0, int(size - own)) for size, own in zip(sizes, array.shape[1:]))]
        padded.append(np.pad(array, widths, constant_values=array.reshape(-1)[0]) if array.size else array)
    return padded
