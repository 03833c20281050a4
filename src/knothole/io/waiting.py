"""Waiting for sockets without an event loop, and never longer than was said."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from typing import TypeVar

Readable = TypeVar("Readable", socket.socket, int)


def readable(those: Iterable[Readable], until: float) -> list[Readable]:
    """Which of ``those`` sockets or descriptors can be read; none from ``until`` on.

    ``until`` is a time of :func:`time.monotonic`. Whoever sends without a pause has no say in it.
    """
    left = until - time.monotonic()
    return select.select(list(those), [], [], left)[0] if left > 0 else []
