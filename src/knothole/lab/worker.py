"""One end of a measured line, told what to do in JSON: ``python -m knothole.lab.worker PROFILE``.

A line of standard input is a command, a line of standard output an event. Every event has its
``event`` and ``at``, seconds on CLOCK_MONOTONIC, which all namespaces of a machine share.

    {"do": "connect", "to": "bob"}              connecting, connected, first, path...
                                                (and payload every 20 ms, until a burst is sent)
    {"do": "burst", "count": 100, "size": 900}  sent
    {"do": "report"}                            received (datagrams of bursts so far)

It takes lines of others as well, and ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

from knothole import KnotholeError, Line, Peer

_FIRST: Final = b"F"
_FIRST_AND_HEARD: Final = b"H"
_BURST: Final = b"B"
_REPEAT_SECONDS: Final = 0.025  # datagrams get lost: the first payload is said again until heard
_REPEATS: Final = 400
_PACE_SECONDS: Final = 0.001
_TICK: Final = b"T"
_TICK_SECONDS: Final = 0.02


class Worker:
    """Holds one line at a time, its own or one that came."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._line: Line | None = None
        self._heard_first = False
        self._heard_us = False
        self._received = 0
        self._ticking = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve commands and lines until the input ends."""
        say("ready")
        self._start(self._take_lines())
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while command := await reader.readline():
            self._start(self._obey(json.loads(command)))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _obey(self, command: dict[str, Any]) -> None:
        try:
            match command["do"]:
                case "connect":
                    say("connecting")
                    line = await self._peer.connect(command["to"], timeout=command["timeout"])
                    self._begin(line)
                case "burst":
                    await self._burst(command["count"], command["size"])
                case "report":
                    say("received", count=self._received)
        except KnotholeError as error:
            say("error", text=f"{type(error).__name__}: {error}")

    async def _take_lines(self) -> None:
        async for line in self._peer.incoming():
            self._begin(line)

    def _begin(self, line: Line) -> None:
        say("connected", path=line.path.kind)
        self._line = line
        self._heard_first = self._heard_us = False
        self._received = 0
        self._ticking = True
        self._start(self._say_first(line))
        self._start(self._hear(line))
        self._start(self._watch_path(line))

    async def _say_first(self, line: Line) -> None:
        for _ in range(_REPEATS):
            line.send_datagram(_FIRST_AND_HEARD if self._heard_first else _FIRST)
            if self._heard_us:
                break
            await asyncio.sleep(_REPEAT_SECONDS)
        while self._ticking and line is self._line:
            line.send_datagram(_TICK)
            await asyncio.sleep(_TICK_SECONDS)

    async def _hear(self, line: Line) -> None:
        while True:
            data = await line.receive_datagram()
            if data[:1] == _BURST:
                self._received += 1
            if data[:1] in (_BURST, _TICK):
                continue
            if not self._heard_first:
                self._heard_first = True
                say("first")
                line.send_datagram(_FIRST_AND_HEARD)
            if data == _FIRST_AND_HEARD:
                self._heard_us = True

    async def _watch_path(self, line: Line) -> None:
        async for path in line.path_changes():
            say("path", kind=path.kind, text=str(path))

    async def _burst(self, count: int, size: int) -> None:
        assert self._line is not None, "no line yet"
        self._ticking = False
        for _ in range(count):
            self._line.send_datagram(_BURST * size)
            await asyncio.sleep(_PACE_SECONDS)
        say("sent")

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            say("over", text=f"{type(error).__name__}: {error}")


def say(event: str, **facts: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, "at": time.monotonic(), **facts}), flush=True)


async def _main(profile: str) -> None:
    try:
        async with Peer(profile) as peer:
            await Worker(peer).run()
    except KnotholeError as error:
        say("error", text=f"{type(error).__name__}: {error}")


def main() -> None:
    from knothole.io.loop import run_loop

    run_loop(_main(sys.argv[1]))


if __name__ == "__main__":
    main()
