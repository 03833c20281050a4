"""Ports for the servers of tests, which other tests that run at the same time do not take."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import random
import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 32_000  # below the ports that the kernel gives to others
SLICE = 400  # the part of one process: those that it has used are not free again at once
_dice = random.SystemRandom()  # hypothesis seeds the common one: all processes would agree


def free_port(host: str = LOOPBACK) -> int:
    """A port free for TCP and UDP whose next one is free too; never the same for two in one test.

    Nobody else takes it between two servers of one test, either.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in _ports():
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for number in (port, port + 1):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    opened.enter_context(socket.socket(family, kind)).bind((host, number))
            return port
    raise AssertionError("the ports never end")


@functools.cache
def _ports() -> Iterator[int]:
    """Those of this process in turn, so that each comes again when all others have."""
    first = _own_slice()
    ports = list(range(first + 2, first + SLICE, 2))
    _dice.shuffle(ports)
    return itertools.cycle(ports)


def _own_slice() -> int:
    """The first port of a slice that is this process's as long as it lives and has that one bound.

    Where there are more processes than slices, some have one together.
    """
    slices = list(range(FIRST, LAST, SLICE))
    _dice.shuffle(slices)
    for first in slices:
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind((LOOPBACK, first))
        except OSError:
            held.close()
            continue
        atexit.register(held.close)
        return first
    return slices[0]
