"""Ports for processes that a test is about to start."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens, and which nobody is given until this process ends.

    A bound socket keeps it from everybody who asks for any port. Servers, which set SO_REUSEADDR, can listen on it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return holder.getsockname()[1]
