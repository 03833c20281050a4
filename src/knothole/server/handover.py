"""A client's data connection (RFC 6062) that came to another process than its allocation is with.

Connections may arrive at any of a server's processes, and which one is wanted is known only when
ConnectionBind has been read, inside TLS perhaps. From there on its bytes go to the process that it
is for and back, by a socket pair whose other end is handed there; whatever is slow slows the rest.
"""

from __future__ import annotations

import asyncio
import socket

from knothole.server.tcp_relay import PeerConnection
from knothole.server.turn_connection import TurnConnection


def hand_over(connection: TurnConnection, said: bytes) -> socket.socket | None:
    """Carry ``connection`` from here on, behind what it ``said``; the other end, for the process
    that it is for. None: the client is gone, or no descriptor is free."""
    made: list[Handover] = []

    def make(transport: asyncio.Transport) -> Handover:
        made.append(Handover(transport, said))
        return made[0]

    try:
        return made[0].handed if connection.carry(make) else None
    except OSError:
        return None


class Handover:
    """Joins ``transport`` with a socket whose other end is :attr:`handed`: a pump, as
    :class:`~knothole.server.turn_connection.TurnConnection` wants one."""

    def __init__(self, transport: asyncio.Transport, said: bytes) -> None:
        """``said`` is what the client said and nobody has answered. Raises OSError."""
        self.handed, ours = socket.socketpair()
        ours.setblocking(False)
        self._transport = transport
        self._other = PeerConnection(lambda *_: 0.0, lambda _: None)
        self._early = bytearray(said)
        self._is_open = self._has_ended = self._is_gone = False
        transport.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open(ours))

    def send(self, data: bytes) -> None:
        if self._is_open:
            self._other.send(data)
        else:
            self._early += data

    def end(self) -> bool:
        if self._is_open:
            return self._other.end()
        self._has_ended = True
        return self._transport.can_write_eof()

    def pause(self) -> None:
        self._other.pause()

    def resume(self) -> None:
        self._other.resume()

    def close(self) -> None:
        self._is_gone = True
        if self._is_open:
            self._other.close()

    async def _open(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._other, ours)
        except OSError:
            ours.close()
            self._transport.abort()
            return
        except BaseException:
            ours.close()
            raise
        if self._is_gone:
            self._other.abort()
            return
        self._is_open = True
        self._other.join(self._transport)
        self._other.send(bytes(self._early))
        if self._has_ended:
            self._other.end()
