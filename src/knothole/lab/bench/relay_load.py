"""What is measured of a way for datagrams: the most it carries, its cost, its delay."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knothole.lab.bench.batch_socket import BATCH, BatchSocket, Round, Shot
from knothole.lab.bench.relay_servers import cpu_seconds, softirq_processes

WINDOW: Final = 256  # ours: datagrams on their way at once when the most is sought
TICK_SECONDS: Final = 0.001  # ours: how often a fixed rate sends
SETTLE_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 10.0
LOST_SECONDS: Final = 0.02  # ours: without anything coming, what is on its way is taken as lost
BURST: Final = 16  # ours: datagrams of one flow in a burst, about what QUIC sends at once


@dataclass(frozen=True, slots=True)
class Traffic:
    """Datagrams of ``size`` payload bytes, all of them ``shots`` in turn, each one (or its burst)
    coming in at ``target`` as a datagram that begins with ``head``."""

    sender: BatchSocket
    target: BatchSocket
    shots: Sequence[Shot]
    size: int
    head: bytes
    per_shot: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of a datagram that came in microseconds: of the relay's processes, and of everything with
    them; ``lost`` is the share of those that did not."""

    server: float
    everything: float
    lost: float


class Lost(RuntimeError):
    """The way does not carry what it should."""


def most_per_second(
    traffic: Traffic, servers: Sequence[int], seconds: float
) -> tuple[float, float]:
    """Datagrams a second with the window always full; the second is per second of server CPU.

    The sender waits for what has not come. Where that is lost for want of room in a socket, fewer
    are on their way from then on.
    """
    shots = Round(traffic.shots)
    window = max(1, WINDOW // traffic.per_shot)
    size = traffic.size * traffic.per_shot
    traffic.target.discard()
    sent = came = lost = 0
    gc.disable()
    cpu = _used(servers)
    started = last = time.monotonic()
    until = started + seconds
    while (now := time.monotonic()) < until or (not came and now < until + PATIENCE_SECONDS):
        room = window - (sent - came // size - lost)
        if room >= min(window, BATCH) // 2:
            sent += traffic.sender.send(shots, room)
        arrived = traffic.target.receive()
        if arrived:
            came += arrived
            last = now
        elif now - last > LOST_SECONDS:
            lost = sent - came // size
            window = max(window // 2, 1)  # more than the relay's sockets have room for
            last = now
    spent, elapsed = _used(servers) - cpu, time.monotonic() - started
    gc.enable()
    if not came:
        raise Lost("nothing comes through")
    packets = came / traffic.size
    return packets / elapsed, packets / spent if spent else 0.0


def cost_at_rate(traffic: Traffic, servers: Sequence[int], rate: float, seconds: float) -> Cost:
    """What datagrams cost at ``rate`` a second, in even ticks."""
    shots = Round(traffic.shots)
    kernel = softirq_processes()
    traffic.target.discard()
    sent = came = 0
    gc.disable()
    cpu, kernel_cpu, own_cpu = _used(servers), _used(kernel), time.process_time()
    started = time.monotonic()
    tick = started
    while tick < started + seconds:
        due = int((tick - started + TICK_SECONDS) * rate) // traffic.per_shot
        while sent < due:
            sent += traffic.sender.send(shots, due - sent)
        came += traffic.target.receive()
        tick += TICK_SECONDS
        pause = tick - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        while arrived := traffic.target.receive():
            came += arrived
    traffic.target.wait(SETTLE_SECONDS if came else PATIENCE_SECONDS)  # for what is on its way
    while arrived := traffic.target.receive():
        came += arrived
    server = _used(servers) - cpu
    everything = server + _used(kernel) - kernel_cpu + time.process_time() - own_cpu
    gc.enable()
    got = came // traffic.size
    if not got:
        raise Lost("nothing comes through")
    lost = 1 - got / (sent * traffic.per_shot)
    return Cost(server / got * 1e6, everything / got * 1e6, lost)


def median_latency(traffic: Traffic, count: int) -> float:
    """Microseconds from sending a datagram until it has come, one at a time; the median."""
    shots = Round(traffic.shots)
    traffic.target.discard()
    taken = []
    clock = time.perf_counter
    for _ in range(count):
        sent = clock()
        traffic.sender.send(shots, 1)
        while not traffic.target.receive():
            if clock() - sent > PATIENCE_SECONDS:
                raise Lost("a single datagram did not come")
        taken.append((clock() - sent) * 1e6)
        time.sleep(0.0002)  # the relay is waiting again
    return statistics.median(taken)


def check(traffic: Traffic) -> None:
    """Some come in whole and as they should be, one after another. Raises Lost."""
    traffic.target.discard()
    shots = Round(traffic.shots)
    wanted = traffic.size * traffic.per_shot
    for _ in traffic.shots[:8]:
        traffic.sender.send(shots, 1)
        came = 0
        while came < wanted and traffic.target.wait(PATIENCE_SECONDS):
            came += traffic.target.receive()
            head = traffic.target.payload(len(traffic.head))
            if head != traffic.head:
                raise Lost(f"something else came: {head!r}")
        if came != wanted:
            raise Lost(f"{came} bytes came of {wanted}")


def _used(processes: Sequence[int]) -> float:
    return sum(map(cpu_seconds, processes))
