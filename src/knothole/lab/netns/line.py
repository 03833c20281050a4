"""A line with delay, jitter and loss, in user space: for kernels without netem.

Run as a process: ``python -m knothole.lab.netns.line --ends 5 6 --settings {...}`` with two
inherited descriptors that give and take one packet at a time (TUN interfaces or packet sockets).
It says ``ready``, reads new settings from its standard input, a JSON object a line, and ends with
that input, so that it never outlives its lab. Standard library only: it starts in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import heapq
import json
import os
import random
import select
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

_BURST: Final = 64
_LARGEST_PACKET: Final = 65536
_BUSY_SECONDS: Final = 0.000_15
_PR_SET_TIMERSLACK: Final = 29
_QUEUE_LIMIT: Final = 50_000


@dataclass(frozen=True, slots=True)
class LineSettings:
    """What a line does to the packets of either direction.

    Each is held for ``one_way_seconds`` and up to ``jitter_seconds`` more (uniform), and lost with
    the probability ``loss`` (0 to 1). Packets keep their order unless ``reorders``. The same
    ``seed`` gives the same fate to the same row of packets.
    """

    one_way_seconds: float = 0.0
    jitter_seconds: float = 0.0
    loss: float = 0.0
    reorders: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.one_way_seconds < 0 or self.jitter_seconds < 0 or not 0 <= self.loss <= 1:
            raise ValueError(f"no line is like this: {self}")

    @property
    def is_ideal(self) -> bool:
        return not (self.one_way_seconds or self.jitter_seconds or self.loss)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Line:
    """Packets under way between two ends, and when each is due."""

    def __init__(self, settings: LineSettings) -> None:
        self.settings = settings
        self._random = random.Random(settings.seed)  # noqa: S311  chance that repeats is wanted
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._sent = 0
        self._last_due = [0.0, 0.0]

    def change(self, settings: LineSettings) -> None:
        """New settings for the packets that come from now on."""
        self.settings = settings
        self._random.seed(settings.seed)

    def take(self, packet: bytes, end: int, now: float) -> None:
        """A packet came in for the far ``end`` (0 or 1) at ``now`` (seconds)."""
        settings = self.settings
        lost = settings.loss and self._random.random() < settings.loss
        if lost or len(self._under_way) >= _QUEUE_LIMIT:
            return
        due = now + settings.one_way_seconds
        if settings.jitter_seconds:
            due += self._random.random() * settings.jitter_seconds
        if not settings.reorders:
            due = self._last_due[end] = max(due, self._last_due[end])
        self._sent += 1
        heapq.heappush(self._under_way, (due, self._sent, end, packet))

    def next_due(self) -> float | None:
        """When the next packet comes out, None when the line is empty."""
        return self._under_way[0][0] if self._under_way else None

    def pop_due(self, now: float) -> list[tuple[int, bytes]]:
        """The packets that come out by ``now``: (end, packet) in order."""
        due = []
        while self._under_way and self._under_way[0][0] <= now:
            _, _, end, packet = heapq.heappop(self._under_way)
            due.append((end, packet))
        return due


def shuttle(line: Line, ends: Sequence[int], control: int) -> None:
    """Carry packets between the two descriptors until ``control`` ends."""
    monotonic, read, write = time.monotonic, os.read, os.write
    commands = b""
    woken = 0.0
    while True:
        before, woken = woken, monotonic()
        if woken - before < _BUSY_SECONDS:
            time.sleep(_BUSY_SECONDS)  # many packets: fewer wake-ups, each for several
        due = line.next_due()
        timeout = None if due is None else max(0.0, due - monotonic())
        # select, because its timeouts have microseconds; epoll's have milliseconds.
        readable, _, _ = select.select((*ends, control), (), (), timeout)
        for near, far in ((0, 1), (1, 0)):
            if ends[near] not in readable:
                continue
            for _ in range(_BURST):
                try:
                    packet = read(ends[near], _LARGEST_PACKET)
                except OSError:  # empty, or the interface is down
                    break
                # The clock is read after each packet: one that comes while this process has lost
                # the processor must not count from before it came.
                line.take(packet, far, monotonic())
        for end, packet in line.pop_due(monotonic()):
            with contextlib.suppress(OSError):  # the interface is down or its queue full: lost
                write(ends[end], packet)
        if control in readable:
            heard = read(control, 65536)
            if not heard:
                return
            *whole, commands = (commands + heard).split(b"\n")
            for command in whole:
                line.change(LineSettings(**json.loads(command)))


def main() -> None:
    parser = argparse.ArgumentParser(description="carry packets between two descriptors")
    parser.add_argument("--ends", nargs=2, type=int, required=True, metavar="FD")
    parser.add_argument("--settings", default="{}", help="LineSettings as JSON")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(OSError):  # needs privilege; without it less exact on a busy machine
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.disable()
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        shuttle(Line(LineSettings(**json.loads(arguments.settings))), arguments.ends, 0)


if __name__ == "__main__":
    main()
