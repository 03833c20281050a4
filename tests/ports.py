"""Ports for the servers of tests, which other tests that run at the same time do not take."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 32_000  # below the ports that the kernel gives to others
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
EACH = (LAST - FIRST) // WORKERS
# Two that a test asks for are never the same, for each comes again when all others have been given.
# Where to begin is chance, and not hypothesis's, by which all workers and programs would agree.
_pairs = [FIRST + WORKER * EACH + 2 * number for number in range(EACH // 2)]
random.SystemRandom().shuffle(_pairs)
_next = itertools.cycle(_pairs)


def free_port(host: str = LOOPBACK) -> int:
    """A port free for TCP and UDP whose next one is free too, from those of this worker.

    Nobody else takes it between two servers of one test, either.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in _next:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for number in (port, port + 1):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    opened.enter_context(socket.socket(family, kind)).bind((host, number))
            return port
    raise AssertionError("the ports never end")
