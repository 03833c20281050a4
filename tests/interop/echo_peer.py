"""coturn's echoing peer, a program of its own: when it is there."""

from __future__ import annotations

import contextlib
import socket
import time

PATIENCE = 60.0
"""Seconds after which it does not start any more."""


def await_echo(host: str, port: int) -> None:
    """Return when ``turnutils_peer`` answers at that address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PATIENCE
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect((host, port))
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # refused, or nothing yet
                sock.send(b"are you there?")
                if sock.recv(100):
                    return
    raise AssertionError("turnutils_peer does not start")
