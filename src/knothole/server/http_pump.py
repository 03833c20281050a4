"""An HTTP client inside the relay's TLS: its bytes go to and fro to the rendezvous process.

That happens to a client that does not say in its ClientHello (by ALPN) what it will speak, so that
TLS had to be opened before anybody could know.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

CHUNK: Final = 65_536
STALLED_SECONDS: Final = 30.0  # ours: a client that reads nothing for so long is let go


class HttpPump:
    """Joins ``transport`` (TLS, decrypted) with a socket whose other end is :attr:`handed`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.handed, self._ours = socket.socketpair()
        self._ours.setblocking(False)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._stalled: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._ours, self._readable)

    def send(self, data: bytes) -> None:
        """Bytes from the client."""
        try:
            sent = self._ours.send(data)
        except OSError:
            sent = 0
        if sent < len(data):  # rendezvous messages are small: whoever fills this is no client
            self._transport.abort()

    def end(self) -> bool:
        """Who sends no more HTTP has gone."""
        return False

    def pause(self) -> None:
        """The client does not read. Nor do we then, and the rendezvous process will notice."""
        if not self._closed and self._stalled is None:
            self._loop.remove_reader(self._ours)
            self._stalled = self._loop.call_later(STALLED_SECONDS, self._transport.abort)

    def resume(self) -> None:
        """The client reads again."""
        if not self._closed and self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            self._loop.add_reader(self._ours, self._readable)

    def close(self) -> None:
        """The client is gone. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._stalled is not None:
                self._stalled.cancel()
            self._loop.remove_reader(self._ours)
            self._ours.close()

    def _readable(self) -> None:
        try:
            data = self._ours.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._transport.write(data)
        else:
            self.close()
            self._transport.close()
