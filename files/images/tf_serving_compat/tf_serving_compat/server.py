"""The parts of a server put together: start, signals, shutdown."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
import time

import grpc

from tf_serving_compat import grpc_server, metrics, tensorflow_c, warmup
from tf_serving_compat.batching import BatchingOptions, BatchingSession, BatchScheduler
from tf_serving_compat.core import ModelServerConfig, ServerCore
from tf_serving_compat.errors import ServingError
from tf_serving_compat.flags import Flags
from tf_serving_compat.manager import ManagerOptions, ModelManager
from tf_serving_compat.predict import Runner, Servable
from tf_serving_compat.protos import BatchingParameters, MonitoringConfig, config_pb2, read_text_proto
from tf_serving_compat.rest_server import DEFAULT_METRICS_PATH, RestServer

logger = logging.getLogger(__name__)

SHUTDOWN_GRACE_SECONDS = 30


def serve(flags: Flags) -> bool:
    """Serve until SIGTERM or SIGINT, and shut down in good order; False when the server could not start."""
    # TensorFlow's own lines about every load; its warnings and errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # An image in JSON becomes half a million objects; looking through them for garbage again and again costs more than
    # parsing them.
    gc.freeze()
    gc.set_threshold(100_000)
    # A signal may come to any thread, and Python's handlers wait for the main one to wake up: a byte wakes it for sure.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = Server(flags)
    failures: list[Exception] = []

    def start() -> None:
        try:
            server.start()
        except Exception as error:
            failures.append(error)
            writer.send(b"\0")

    # Models may take for ever to come; signals are handled meanwhile.
    threading.Thread(target=start, name="start", daemon=True).start()
    reader.recv(1)
    for error in failures:
        expected = isinstance(error, ServingError)
        logger.error("Failed to start server. Error: %s", error, exc_info=None if expected else error)
    server.stop()
    return not failures


class Server:
    """The parts of a running server, put together as the flags say."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._core: ServerCore | None = None
        self._grpc: grpc.Server | None = None
        self._rest: RestServer | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Load the models, and open the ports when all of them are available; raises ServingError."""
        flags = self._flags
        monitoring = (
            read_text_proto(flags.monitoring_config_file, MonitoringConfig)
            if flags.monitoring_config_file
            else MonitoringConfig()
        )
        channel_arguments = grpc_server.parse_channel_arguments(flags.grpc_channel_arguments)
        loader = _Loader(flags)
        manager = ModelManager(
            loader.load,
            ManagerOptions(
                num_load_threads=flags.num_load_threads,
                num_unload_threads=flags.num_unload_threads,
                max_num_load_retries=flags.max_num_load_retries,
                load_retry_interval_seconds=flags.load_retry_interval_micros / 1e6,
            ),
        )
        self._core = ServerCore(
            manager, flags.file_system_poll_wait_seconds, flags.allow_version_labels_for_unavailable_models
        )
        self._core.start(_first_config(flags))
        if self._stopping.is_set():
            return
        if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
            self._core.poll_config_file(flags.model_config_file, flags.model_config_file_poll_wait_seconds)
        self._grpc = grpc_server.make_server(
            self._core,
            flags.port,
            socket_path=flags.grpc_socket_path,
            max_threads=flags.grpc_max_threads,
            channel_arguments=channel_arguments,
            health_service=flags.enable_grpc_healthcheck_service,
            outputs_as_tensor_content=flags.enable_serialization_as_tensor_content,
        )
        self._grpc.start()
        if flags.port:
            logger.info("Running gRPC ModelServer at 0.0.0.0:%d ...", flags.port)
        if flags.rest_api_port:
            prometheus = monitoring.prometheus_config
            self._rest = RestServer(
                self._core,
                flags.rest_api_port,
                num_threads=flags.rest_api_num_threads,
                timeout_ms=flags.rest_api_timeout_in_ms,
                metrics_path=(prometheus.path or DEFAULT_METRICS_PATH) if prometheus.enable else None,
                cors=flags.rest_api_enable_cors_support,
                shutdown_seconds=SHUTDOWN_GRACE_SECONDS,
            )
            self._rest.start()
            logger.info("Exporting HTTP/REST API at:localhost:%d ...", flags.rest_api_port)

    def stop(self) -> None:
        """Take no new calls, and give the ones under way time to finish."""
        logger.info("Shutting down: calls under way have up to %d seconds", SHUTDOWN_GRACE_SECONDS)
        self._stopping.set()
        if self._core:
            self._core.stop()
        stopped = self._grpc.stop(SHUTDOWN_GRACE_SECONDS) if self._grpc else None
        if self._rest:
            self._rest.stop()
        if stopped:
            stopped.wait(SHUTDOWN_GRACE_SECONDS)


class _Loader:
    """Makes servables: session, batching, warm-up."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._tags = flags.saved_model_tags.split(",")
        self._session_config = _session_config(flags)
        self._scheduler = BatchScheduler(_batching_options(flags)) if flags.enable_batching else None

    def load(self, name: str, version: int, path: str) -> Servable:
        """The version in directory `path`, warmed up; raises ServingError."""
        session = self._load_session(path)
        runner: Runner = session
        if self._scheduler:
            runner = BatchingSession(
                session,
                self._scheduler,
                (
                    (
                        frozenset(info.name for info in signature.inputs.values()),
                        frozenset(info.name for info in signature.outputs.values()),
                    )
                    for signature in session.signatures.values()
                    if signature.inputs and signature.outputs
                ),
            )
        servable = Servable(name, version, session.signatures, runner, self._flags.enable_signature_method_name_check)
        if self._flags.enable_model_warmup:
            try:
                warmup.run(servable, path, max(1, self._flags.num_request_iterations_for_warmup))
            except BaseException:
                servable.close()
                raise
        return servable

    def _load_session(self, path: str) -> tensorflow_c.Session:
        started = time.monotonic()
        try:
            session = tensorflow_c.Session(path, self._tags, self._session_config)
        except ServingError:
            metrics.LOAD_ATTEMPTS.add(path, "fail")
            raise
        metrics.LOAD_ATTEMPTS.add(path, "success")
        metrics.LOAD_LATENCY.add(path, amount=int((time.monotonic() - started) * 1e6))
        return session


def _first_config(flags: Flags) -> ModelServerConfig:
    if flags.model_config_file:
        return read_text_proto(flags.model_config_file, ModelServerConfig)
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=flags.model_name, base_path=flags.model_base_path, model_platform="tensorflow"
    )
    return config


def _batching_options(flags: Flags) -> BatchingOptions:
    if not flags.batching_parameters_file:
        return BatchingOptions()
    return BatchingOptions.from_proto(read_text_proto(flags.batching_parameters_file, BatchingParameters))


def _session_config(flags: Flags) -> config_pb2.ConfigProto:
    config = (
        read_text_proto(flags.tensorflow_session_config_file, config_pb2.ConfigProto)
        if flags.tensorflow_session_config_file
        else config_pb2.ConfigProto()
    )
    intra = flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism
    inter = flags.tensorflow_inter_op_parallelism or flags.tensorflow_session_parallelism
    config.intra_op_parallelism_threads = intra or config.intra_op_parallelism_threads
    config.inter_op_parallelism_threads = inter or config.inter_op_parallelism_threads
    return config
