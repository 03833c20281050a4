"""The WebSocket to the switchboard where something else answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from knothole.io.proxy import Proxy
from knothole.io.signalling import SignallingLink, Unreachable
from knothole.server.certificate import own_certificate

ELSEWHERE = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n"


@asynccontextmanager
async def answering(answer: bytes, tls: ssl.SSLContext | None) -> AsyncIterator[tuple[int, list]]:
    """A server that answers every request so; its port, and who has come."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1], came


@pytest.mark.parametrize("location", ["wss://127.0.0.1:%d/", "/again", "http://[", "nonsense:"])
@pytest.mark.parametrize("by_proxy", [False, True])
async def test_nobody_is_followed_to_another_server(
    tmp_path: Path, location: str, by_proxy: bool
) -> None:
    """Before its key is known anybody may answer, and say so."""
    tls = own_certificate(tmp_path).context
    link = SignallingLink(lambda data: None, lambda: None)
    async with answering(b"", tls) as (other, came_to_other):
        to = location.replace("%d", str(other)).encode()
        async with answering(ELSEWHERE % to, tls) as (port, came):
            async with relaying() as proxy:
                with pytest.raises(Unreachable, match="302"):
                    await link.open("127.0.0.1", [port], b"pin", proxy if by_proxy else None)
            assert len(came) == (2 if by_proxy else 1)
        assert came_to_other == []


@asynccontextmanager
async def relaying() -> AsyncIterator[Proxy]:
    """A willing HTTP CONNECT proxy."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        host, _, port = request.split()[1].decode().rpartition(":")
        theirs = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 ok\r\n\r\n")
        await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
