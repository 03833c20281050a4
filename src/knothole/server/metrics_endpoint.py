"""A small HTTP server for the operator's own programs: /metrics and /healthz, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from knothole.server.metrics import CONTENT_TYPE, render
from knothole.server.snapshot import Snapshot
from knothole.wire.address import Address

REQUEST_SECONDS: Final = 10.0  # ours: for a whole request to come, and its answer to go
MAX_REQUEST: Final = 16_384
SILENT: Final = "a relay process does not answer"  # what /healthz says then
MOST_CONNECTIONS: Final = 32  # ours: a few programs that ask every few seconds

Answer = tuple[int, str, bytes]


class MetricsEndpoint:
    """``look`` gives a snapshot, within a second."""

    def __init__(self, look: Callable[[], Awaitable[Snapshot]]) -> None:
        self._look = look
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self, address: Address) -> None:
        """Raises OSError."""
        self._server = await asyncio.start_server(
            self._talk, address.host, address.port, limit=MAX_REQUEST
        )

    async def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                if len(self._serving) <= MOST_CONNECTIONS:
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_http(await self._answer(head), head.startswith(b"HEAD ")))
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, EOFError, asyncio.LimitOverrunError):
            pass  # who asks has gone, or says something else than HTTP
        except asyncio.CancelledError:
            pass  # the server ends
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._serving.discard(task)

    async def _answer(self, head: bytes) -> Answer:
        method, target, _ = head.partition(b"\r\n")[0].decode("ascii").split(" ", 2)
        path = target.partition("?")[0]
        if path not in ("/metrics", "/healthz"):
            return 404, "text/plain", b"there are /metrics and /healthz\n"
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"only GET\n"
        snapshot = await self._look()
        if path == "/metrics":
            return 200, CONTENT_TYPE, render(snapshot)
        if snapshot.is_healthy:
            return 200, "text/plain", b"ok\n"
        reason = "draining" if snapshot.is_draining else SILENT
        return 503, "text/plain", f"{reason}\n".encode()


_REASONS: Final = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


def _http(answer: Answer, head_only: bool) -> bytes:
    code, content_type, body = answer
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if head_only else body)
