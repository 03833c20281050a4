"""Load on a TURN server: allocations in a ring, each sending to the relayed address of the next."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from knothole.io.turn_client import TurnClient, TurnFailed
from knothole.wire.address import Address

LEAST_SIZE: Final = 20  # bytes of a probe: which run, which allocation, number, time
TICK_SECONDS: Final = 0.01  # ours: probes that are due within it go together
MEET_SECONDS: Final = 15.0  # ours: for the first payload to come through on every allocation
LATE_SECONDS: Final = 2.0  # ours: what comes later than so long after the last is lost
_MEET_AGAIN_SECONDS: Final = 0.25

_PROBE: Final = struct.Struct("!4sIIQ")


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it. Latencies are in seconds, from sending to arrival through the relay."""

    seconds: float
    sent: int
    received: int
    latencies: Sequence[float]

    def percentile(self, percent: float) -> float | None:
        """The latency that so many percent of the payloads do not exceed; of sorted ones."""
        if not self.latencies:
            return None
        at = min(int(len(self.latencies) * percent / 100), len(self.latencies) - 1)
        return self.latencies[at]


class Ring:
    """Allocations that send to each other; the last one sends to the first."""

    def __init__(self, clients: Sequence[TurnClient]) -> None:
        self._clients = clients
        self._run = secrets.token_bytes(4)
        self._arrived: set[tuple[int, int]] = set()
        self._latencies: list[float] = []
        self._met: set[int] = set()
        self._measuring = False
        self._expected = 0
        self._all_arrived = asyncio.Event()
        for number, client in enumerate(clients):
            client.on_data = self._receiver(number)

    async def meet(self) -> None:
        """Open every way of the ring. Raises TurnFailed when one stays closed."""
        count = len(self._clients)
        for number, client in enumerate(self._clients):
            client.reach(self._next(number))
            client.reach(self._clients[number - 1].relayed)
        due = time.monotonic() + MEET_SECONDS
        while len(self._met) < count:
            for number, client in enumerate(self._clients):
                why = client.refusal(self._next(number))
                if why:
                    raise TurnFailed(f"the server does not relay to its own addresses: {why}")
                if (number + 1) % count not in self._met:
                    client.send(self._next(number), self._run)
            if time.monotonic() > due:
                silent = count - len(self._met)
                raise TurnFailed(f"nothing comes through on {silent} of {count} allocations")
            await asyncio.sleep(_MEET_AGAIN_SECONDS)

    async def send(self, seconds: float, packets_per_second: float, size: int) -> LoadResult:
        """Have each allocation send so many packets of ``size`` bytes a second."""
        self._measuring = True
        padding = bytes(max(size - _PROBE.size, 0))
        begun = time.monotonic()
        rounds = sent = 0
        while (passed := time.monotonic() - begun) < seconds:
            while rounds < passed * packets_per_second:
                for number, client in enumerate(self._clients):
                    probe = _PROBE.pack(self._run, number, rounds, time.perf_counter_ns())
                    client.send(self._next(number), probe + padding)
                sent += len(self._clients)
                rounds += 1
                passed = time.monotonic() - begun
                if passed >= seconds:
                    break
                await asyncio.sleep(0)  # what has come is read
            await asyncio.sleep(TICK_SECONDS)
        took = time.monotonic() - begun
        await self._wait_for_late(sent)
        return LoadResult(took, sent, len(self._arrived), sorted(self._latencies))

    async def _wait_for_late(self, sent: int) -> None:
        self._expected = sent
        if len(self._arrived) < sent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LATE_SECONDS):
                    await self._all_arrived.wait()

    def _next(self, number: int) -> Address:
        return self._clients[(number + 1) % len(self._clients)].relayed

    def _receiver(self, number: int) -> Callable[[Address, bytes], None]:
        def receive(peer: Address, payload: bytes) -> None:
            if payload == self._run:
                self._met.add(number)
            elif self._measuring and len(payload) >= _PROBE.size:
                run, sender, count, sent_at = _PROBE.unpack_from(payload)
                if run == self._run and (sender, count) not in self._arrived:
                    self._arrived.add((sender, count))
                    self._latencies.append((time.perf_counter_ns() - sent_at) / 1e9)
                    if len(self._arrived) == self._expected:
                        self._all_arrived.set()

        return receive
