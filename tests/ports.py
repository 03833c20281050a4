"""Ports for the servers of tests, which other tests that run at the same time do not take."""

from __future__ import annotations

import contextlib
import os
import random
import socket

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 32_000  # below the ports that the kernel gives to others
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
EACH = (LAST - FIRST) // WORKERS
_dice = random.SystemRandom()  # hypothesis seeds the common one: all workers would agree


def free_port(host: str = LOOPBACK) -> int:
    """A port free for TCP and UDP whose next one is free too, from those of this worker.

    Nobody else takes it between two servers of one test, either.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = FIRST + WORKER * EACH + 2 * _dice.randrange(EACH // 2)
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for number in (port, port + 1):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    opened.enter_context(socket.socket(family, kind)).bind((host, number))
            return port
