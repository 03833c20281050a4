"""An HTTP proxy at a client's router that carries CONNECT (RFC 9110 Section 9.3.6), to port 443."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Final

from knothole.lab.netns.namespace import Namespace

PORT: Final = 3128
_ALLOWED_PORT: Final = 443
_PIECE: Final = 65536
_LONGEST_WAIT_SECONDS: Final = 5.0


class ConnectProxy:
    """Serves on one address of a namespace until it is closed; ``tunnels`` lists its targets."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        self.tunnels: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._namespace = namespace
        with namespace.entered():
            self._listener = socket.create_server((address, PORT))
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._listener.close()
        self._loop.close()

    def _run(self) -> None:
        with self._namespace.entered():  # what the thread connects, it connects from there
            self._loop.run_until_complete(self._serve_until_closed())

    async def _serve_until_closed(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listener)
        await self._closing.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)  # for what the ends of connections still call

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError),
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.decode("ascii").split(" ")
            host, _, port = target.rpartition(":")
            if method != "CONNECT" or int(port) != _ALLOWED_PORT:
                writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            else:
                await self._tunnel(host.strip("[]"), reader, writer)

    async def _tunnel(
        self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                far_reader, far_writer = await asyncio.open_connection(host, _ALLOWED_PORT)
        except (OSError, TimeoutError):
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        self.tunnels.append(host)
        for each in (writer, far_writer):
            end: socket.socket = each.get_extra_info("socket")
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
