"""The event loop: uvloop where it exists (TLS takes a seventh of the memory), else asyncio's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

TLS_READ_BYTES: Final = 32 * 1024
"""Ours: what asyncio keeps for each TLS connection; its own 256 KiB are a server's whole memory."""


def run_loop(main: Coroutine[Any, Any, T], *, readers: bool = False) -> T:
    """Run ``main`` in a fresh loop, like :func:`asyncio.run`.

    With ``readers`` it is one that has ``add_reader``: the usual one of Windows has not.
    """
    try:
        import uvloop
    except ImportError:
        from asyncio import sslproto

        sslproto.SSLProtocol.max_size = TLS_READ_BYTES
        selector = readers and sys.platform == "win32"
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop if selector else None) as runner:
            return runner.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
