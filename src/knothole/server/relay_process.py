"""The relay as a process of its own: ``python -m knothole.server.relay_process FD``.

FD is its end of the link to the rendezvous process, which started it. It ends when the link does.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from knothole.io.loop import run_loop
from knothole.server.link import (
    Link,
    Message,
    RelayFailed,
    RelayReady,
    RelayStart,
    TakeTurn,
)
from knothole.server.relay import Relay


class RelayProcess:
    """The relay with the link it is told by."""

    def __init__(self, sock: socket.socket) -> None:
        self.ended = asyncio.Event()
        self._relay: Relay | None = None
        self._link = Link(sock, self._message, self.ended.set)

    def close(self) -> None:
        if self._relay is not None:
            self._relay.close()
        self._link.close()

    def _message(self, message: Message, handed: socket.socket | None) -> None:
        match message:
            case RelayStart() if self._relay is None:
                try:
                    self._relay = Relay(message, self._link.send)
                except OSError as error:
                    self._link.send(RelayFailed(error.strerror or str(error)))
                    self.ended.set()
                else:
                    self._link.send(RelayReady())
            case TakeTurn(remote) if handed is not None and self._relay is not None:
                self._relay.take(handed, remote)
            case _ if handed is not None:
                handed.close()
            case _:
                pass


async def serve(sock: socket.socket) -> None:
    """Serve until the link ends."""
    # Ctrl-C reaches the whole process group; the rendezvous process decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = RelayProcess(sock)
    try:
        await process.ended.wait()
    finally:
        process.close()


def main() -> int:
    sock = socket.socket(fileno=int(sys.argv[1]))
    run_loop(serve(sock))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
