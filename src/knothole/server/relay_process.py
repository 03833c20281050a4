"""The relay as a process of its own: ``python -m knothole.server.relay_process FD``.

FD is its end of the link to the rendezvous process, which started it. It ends when the link does,
however the other process came to its end.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from typing import Final

from knothole.io.loop import run_loop
from knothole.server.heap import map_large_blocks
from knothole.server.link import (
    IGNORED_SIGNALS,
    Answered,
    Ask,
    Link,
    Message,
    RelayFailed,
    RelayReady,
    RelayStart,
    TakeListening,
    TakeNeighbour,
    TakeTurn,
)
from knothole.server.neighbours import Given
from knothole.server.relay import Relay
from knothole.wire.address import Address

# Ours: a server that was killed and is started again at once may find the ports still held by the
# relay process of the first, which is about to notice.
IN_USE_TRIES: Final = 10
IN_USE_SECONDS: Final = 0.05
# Ours: an allocation is some thirty objects that stay. Looking for garbage after every 700 of them,
# as Python does, took a tenth of the time; what is found later instead is a few megabytes.
GARBAGE_THRESHOLDS: Final = (10_000, 10, 5)


class RelayProcess:
    """The relay with the link it is told by."""

    def __init__(self, sock: socket.socket) -> None:
        self.ended = asyncio.Event()
        self._relay: Relay | None = None
        self._given = Given()
        self._starting: asyncio.Task[None] | None = None
        self._link = Link(sock, self._message, self.ended.set)

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._relay is not None:
            self._relay.close()
            await asyncio.sleep(0)  # a turn for what was closed to be let go
        self._given.close()
        self._link.close()

    def _message(self, message: Message, handed: socket.socket | None) -> None:
        match message:
            case RelayStart() if self._starting is None:
                self._starting = asyncio.create_task(self._start(message))
            case TakeListening(host, port) if handed is not None:
                self._given.listening[Address(host, port)] = handed
            case TakeNeighbour(number) if handed is not None:
                self._given.neighbours[number] = handed
            case TakeTurn(remote) if handed is not None and self._relay is not None:
                self._relay.take(handed, remote)
            case Ask(number, order) if self._relay is not None:
                self._link.send(Answered(number, self._relay.obey(order)))
            case _ if handed is not None:
                handed.close()
            case _:
                pass

    async def _start(self, start: RelayStart) -> None:
        for left in reversed(range(IN_USE_TRIES)):
            try:
                self._relay = Relay(start, self._link.send, self._given)
                break
            except (OSError, ValueError) as error:
                if not left or not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                    reason = error.strerror if isinstance(error, OSError) else None
                    self._link.send(RelayFailed(reason or str(error)))
                    return
            except Exception as error:  # a defect; who waits for us is to hear of it all the same
                self._link.send(RelayFailed(f"{type(error).__name__}: {error}"))
                raise
            await asyncio.sleep(IN_USE_SECONDS)
        self._link.send(RelayReady())


async def serve(sock: socket.socket) -> None:
    """Serve until the link ends."""
    process = RelayProcess(sock)
    try:
        await process.ended.wait()
    finally:
        await process.close()


def main() -> int:
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)
    sock = socket.socket(fileno=int(sys.argv[1]))
    gc.freeze()  # modules are no garbage
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    map_large_blocks()
    run_loop(serve(sock))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
