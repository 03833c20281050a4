"""What is measured of a way for datagrams: the most it carries, its cost, its delay."""

from __future__ import annotations

import functools
import gc
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knothole.lab.bench.batch_socket import BATCH, BatchSocket, Round
from knothole.lab.process_figures import cpu_seconds, softirq_processes

WINDOW: Final = 256  # ours: datagrams on their way at once when the most is sought
TICK_SECONDS: Final = 0.001  # ours: how often a fixed rate sends
PAUSE_SECONDS: Final = 0.0002  # ours: between single datagrams, so that the relay waits again
SETTLE_SECONDS: Final = 0.05  # ours: what has not come by then is lost
SWITCH_SECONDS: Final = 0.004  # ours, a tick of the kernel: by then it has written down who ran
PATIENCE_SECONDS: Final = 10.0
LOST_SECONDS: Final = 0.02  # ours: without anything coming, what is on its way is taken as lost
BURST: Final = 16  # ours: datagrams of one flow in a burst, about what QUIC sends at once


@dataclass(slots=True)
class Traffic:
    """Datagrams of ``size`` payload bytes, all of them ``shots`` in turn, each one (or its burst)
    coming in at ``target`` as a datagram that begins with ``head``. Every way is sent the same
    number at the same moments, in calls of the same size, and read at the same moments. ``window``
    is how many may be on their way at once, as far as is known. ``yields``: a relay may want the
    core that sends."""

    sender: BatchSocket
    target: BatchSocket
    shots: Round
    size: int
    head: bytes
    per_shot: int = 1
    window: int = WINDOW
    yields: bool = False

    def pause(self) -> None:
        """Between one look and the next."""
        if self.yields:
            os.sched_yield()

    @property
    def sockets(self) -> tuple[BatchSocket, BatchSocket]:
        return self.sender, self.target


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
    are on their way from then on, and a few more with each measurement in which all of it came.
    """
    shots = traffic.shots
    window = max(1, traffic.window // traffic.per_shot)
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
        elif now - last <= LOST_SECONDS:
            traffic.pause()
        else:
            lost = sent - came // size
            window = max(window // 2, 1)  # more than the relay's sockets have room for
            traffic.window = window * traffic.per_shot
            last = now
    if not lost:
        traffic.window = min(traffic.window * 5 // 4 + traffic.per_shot, WINDOW)
    elapsed, came_in_time = time.monotonic() - started, came
    came += _settle(traffic, sent * size - came, SETTLE_SECONDS)
    spent = _used(servers) - cpu
    gc.enable()
    if not came:
        raise Lost("nothing comes through")
    per_core = came / traffic.size / spent if spent else 0.0
    return came_in_time / traffic.size / elapsed, per_core


def cost_at_rate(traffic: Traffic, servers: Sequence[int], rate: float, seconds: float) -> Cost:
    """What datagrams cost at ``rate`` a second, in even ticks: sent at the beginning of each, taken
    in at its middle.

    Between the two the generator spins, and that is not counted: a core that goes to sleep a
    thousand times a second wakes up with cold caches, here and wherever this machine runs.
    """
    shots = traffic.shots
    kernel = _kernel()
    traffic.target.discard()
    sent = came = ticks = 0
    own = 0.0
    clock, own_clock = time.perf_counter, time.process_time
    gc.disable()
    cpu, kernel_cpu = _used(servers), _used(kernel)
    started = clock()
    while (tick := started + ticks * TICK_SECONDS) < started + seconds or not sent:
        _pass_until(traffic, tick)
        ticks += 1
        due = int(ticks * TICK_SECONDS * rate) // traffic.per_shot
        before = own_clock()
        while sent < due:
            sent += traffic.sender.send(shots, due - sent)
        own += own_clock() - before
        _pass_until(traffic, tick + TICK_SECONDS / 2)
        before = own_clock()
        while arrived := traffic.target.receive():
            came += arrived
        own += own_clock() - before
    before = own_clock()
    missing = sent * traffic.size * traffic.per_shot - came
    came += _settle(traffic, missing, SETTLE_SECONDS if came else PATIENCE_SECONDS)
    own += own_clock() - before
    server = _used(servers) - cpu
    everything = server + _used(kernel) - kernel_cpu + own
    gc.enable()
    got = came // traffic.size
    if not got:
        raise Lost("nothing comes through")
    lost = 1 - got / (sent * traffic.per_shot)
    return Cost(server / got * 1e6, everything / got * 1e6, lost)


def pings(traffic: Traffic, count: int) -> float:
    """Microseconds from sending a datagram until it has come, one at a time; the median."""
    shots = traffic.shots
    traffic.target.discard()
    taken = []
    clock = time.perf_counter
    for _ in range(count):
        sent = clock()
        traffic.sender.send(shots, 1)
        while not traffic.target.receive():
            if clock() - sent > PATIENCE_SECONDS:
                raise Lost("a single datagram did not come")
            traffic.pause()
        came = clock()
        taken.append((came - sent) * 1e6)
        _pass_until(traffic, came + PAUSE_SECONDS)
    return statistics.median(taken)


def check(traffic: Traffic) -> None:
    """Some come in whole and as they should be, one after another. Raises Lost."""
    traffic.target.discard()
    shots = traffic.shots
    wanted = traffic.size * traffic.per_shot
    for _ in range(min(shots.length, 8)):
        traffic.sender.send(shots, 1)
        came = 0
        while came < wanted and traffic.target.wait(PATIENCE_SECONDS):
            came += traffic.target.receive()
            head = traffic.target.payload(len(traffic.head))
            if head != traffic.head:
                raise Lost(f"something else came: {head!r}")
        if came != wanted:
            raise Lost(f"{came} bytes came of {wanted}")


def _settle(traffic: Traffic, missing: int, seconds: float) -> int:
    """Wait for so many bytes, ``seconds`` at most in which nothing comes, and until the relay has
    put down its work; how many came."""
    came = 0
    while came < missing and traffic.target.wait(seconds):
        while arrived := traffic.target.receive():
            came += arrived
    time.sleep(SWITCH_SECONDS)
    return came


def _pass_until(traffic: Traffic, moment: float) -> None:
    while time.perf_counter() < moment:
        traffic.pause()


@functools.cache
def _kernel() -> list[int]:
    return softirq_processes()


def _used(processes: Sequence[int]) -> float:
    return sum(map(cpu_seconds, processes))
