"""A connection that carries datagrams, as a driver sees it: a link that drops when it is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

MAX_UNSENT: Final = 512 * 1024  # bytes: beyond it new datagrams are dropped, as a full link does


class StreamLink(asyncio.Protocol):
    """One connection, from :meth:`connection_made` to :meth:`connection_lost`."""

    def __init__(self) -> None:
        self._connection: asyncio.Transport | None = None

    @property
    def is_blocked(self) -> bool:
        """Never: what a full stream does not take is dropped, as a full link does."""
        return False

    def when_writable(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    @property
    def writable(self) -> asyncio.Transport | None:
        """The connection, while it takes anything."""
        connection = self._connection
        if connection is None or connection.is_closing():
            return None
        return connection if connection.get_write_buffer_size() <= MAX_UNSENT else None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast(asyncio.Transport, transport)  # uvloop has its own kind

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection = None
