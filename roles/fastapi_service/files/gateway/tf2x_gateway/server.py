"""The gateway's processes and their listening socket."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from tf2x_gateway.config import GatewayConfig
from tf2x_gateway.http_protocol import HttpProtocol

# prometheus_client's own switch, read when it is imported: workers add their values up through files in there.
_METRICS_DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# The first file descriptor that systemd passes on (sd_listen_fds(3)).
_FIRST_ACTIVATED_FD = 3

_LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # Its warnings are about the bytes of single requests, which are answered with the same text.
    "loggers": {"python_multipart": {"level": "ERROR"}},
}
# Longer than the proxies in front of gateways keep idle connections, so that it is they who close them.
_KEEP_ALIVE_SECONDS = 75
# Requests under way get their deadline and a little more to finish in before the process ends.
_GRACE_SECONDS = 5


def serve(config: GatewayConfig) -> int:
    """Serve until told to stop, on the socket that systemd passes on or on the configured address.

    Returns the process's exit status.
    """
    if config.workers == 1:
        return _serve(config)
    with tempfile.TemporaryDirectory(prefix="tf2x-gateway-metrics-") as directory:
        os.environ[_METRICS_DIRECTORY_VARIABLE] = directory
        return _serve(config)


def _serve(config: GatewayConfig) -> int:
    settings = uvicorn.Config(
        "tf2x_gateway.app:app_from_environment",
        factory=True,
        host=config.bind_address,
        port=config.port,
        workers=config.workers,
        loop="uvloop",
        http=functools.partial(HttpProtocol, header_seconds=config.limits.header_seconds),
        ws="none",
        lifespan="on",
        log_config=_LOG_CONFIG,
        access_log=False,
        server_header=False,
        proxy_headers=bool(config.trusted_proxies),
        forwarded_allow_ips=config.trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(config.upstream.deadline_seconds) + _GRACE_SECONDS,
        ssl_certfile=config.tls and config.tls.certificate_file,
        ssl_keyfile=config.tls and config.tls.key_file,
    )
    activated = _activated_socket()
    if config.workers > 1:
        supervisor = Multiprocess(settings, sockets=[activated or settings.bind_socket()])
        supervisor.run()
        # It ends alike when it is told to and when a worker cannot start.
        return STARTUP_FAILURE if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes) else 0
    server = uvicorn.Server(settings)
    server.run(sockets=[activated] if activated else None)
    return 0 if server.started else STARTUP_FAILURE


def _activated_socket() -> socket.socket | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_FIRST_ACTIVATED_FD)
