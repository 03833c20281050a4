"""Allocations: how many a relay makes in a second of its CPU, what one costs in memory, and how
many it holds.

Coturn and knothole stand in the same place in turn, one core each, with the same clients. An
allocation is two requests, the first of which is answered with the challenge. "RSS" is the
process's memory, "slab" what the kernel has for its sockets meanwhile, by what the machine's grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from knothole.lab.bench.batch_socket import BatchSocket
from knothole.lab.bench.process_figures import (
    cpu_seconds,
    kernel_kibibytes,
    resident_kibibytes,
)
from knothole.lab.bench.relay_clients import BenchClient, open_allocations
from knothole.lab.bench.relay_ground import Ground, Stand
from knothole.lab.bench.relay_servers import Coturn, Knothole, Relay, descriptors
from knothole.lab.netns.namespace import Namespace
from knothole.wire.address import Address

HOSTS: Final = 500  # ours: clients are so many addresses, with as many ports as that takes
FIRST_PORT: Final = 40_000
PEER_PORT: Final = 9_000
FOR_OTHERS: Final = 150  # descriptors that are no allocation's; knothole keeps 128 back itself
HELD: Final = "knothole, held"


@dataclass(frozen=True, slots=True)
class Figures:
    """One relay with ``count`` idle allocations.

    ``per_second`` is by the clock, ``per_core`` for a second of the relay's CPU; memory in KiB.
    """

    relay: str
    count: int
    per_second: float
    per_core: float
    resident: int
    resident_each: float
    slab_each: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench allocations", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="made at each relay, and compared")
    parser.add_argument("--hold", type=int, default=20_000, help="made at knothole alone; 0: none")
    parser.add_argument("--json", action="store_true", help="one object per relay")
    options = parser.parse_args(arguments)
    coturn: Figures | None = None
    for each in measure(options.count, options.hold):
        coturn = coturn or each
        print(json.dumps(asdict(each)) if options.json else _line(each, coturn), flush=True)
    return 0


def measure(count: int, hold: int) -> Iterator[Figures]:
    """Both relays with ``count``, then knothole with ``hold``."""
    cores = sorted(os.sched_getaffinity(0))
    room = descriptors() - FOR_OTHERS
    if hold > room:
        print(
            f"{room} instead of {hold}: the system gives a process no more files", file=sys.stderr
        )
        hold = room
    try:
        with Ground(min(HOSTS, max(count, hold))) as ground:
            os.sched_setaffinity(0, {cores[0]})
            stand = ground.stands[0]
            place = (stand.namespace, cores[-1:], stand.listener)
            relays: list[tuple[str, int, Callable[[Path], Relay]]] = [
                ("coturn", count, lambda folder: Coturn(*place, folder)),
                ("knothole", count, lambda folder: Knothole(*place, folder)),
                (HELD, hold, lambda folder: Knothole(*place, folder)),
            ]
            for name, wanted, start in relays:
                if wanted:
                    with tempfile.TemporaryDirectory() as folder:
                        relay = start(Path(folder))
                        try:
                            yield _measure(name, ground.client, stand, relay, wanted)
                        finally:
                            relay.stop()
    finally:
        os.sched_setaffinity(0, cores)


def _measure(name: str, client: Namespace, stand: Stand, relay: Relay, count: int) -> Figures:
    hosts = stand.way.clients
    clients = [
        BenchClient(hosts[number % len(hosts)], stand.listener, None, f"c{number}")
        for number in range(count)
    ]
    rounds = [clients[start : start + len(hosts)] for start in range(0, count, len(hosts))]
    sockets = [BatchSocket(client, FIRST_PORT + number) for number in range(len(rounds))]
    try:
        before, slab = _resident(relay), kernel_kibibytes()
        cpu, started = _cpu(relay), time.monotonic()
        for each, group in zip(sockets, rounds, strict=True):
            open_allocations(each, group)
        spent, elapsed = _cpu(relay) - cpu, time.monotonic() - started
        after, slab_after = _resident(relay), kernel_kibibytes()
        _try_some(stand.way.peer, sockets, rounds)
    finally:
        for each in sockets:
            each.close()
    return Figures(
        name,
        count,
        count / elapsed,
        count / spent,
        after,
        (after - before) / count,
        (slab_after - slab) / count,
    )


def _try_some(
    host: str, sockets: Sequence[BatchSocket], rounds: Sequence[Sequence[BenchClient]]
) -> None:
    """The first, the last, and some others are there: they get a channel. Raises RuntimeError."""
    peer = Address(host, PEER_PORT)
    chosen = random.Random(1)  # noqa: S311 - which ones does not matter
    for each, group in zip(sockets, rounds, strict=True):
        some = {group[0].host: group[0], group[-1].host: group[-1]}
        some.update((one.host, one) for one in chosen.sample(group, min(2, len(group))))
        for one in some.values():
            one.want_channel(peer)
        open_allocations(each, list(some.values()))


def _cpu(relay: Relay) -> float:
    return sum(map(cpu_seconds, relay.processes))


def _resident(relay: Relay) -> int:
    return sum(map(resident_kibibytes, relay.processes))


def _line(each: Figures, coturn: Figures) -> str:
    return (
        f"{each.relay:15}{each.count:7} allocations"
        f"{each.per_second:8.0f}/s{each.per_core:8.0f} per core"
        f" ({each.per_core / coturn.per_core:.2f}x)"
        f"   RSS {each.resident / 1024:6.0f} MiB, each {each.resident_each:6.2f} KiB"
        f" ({each.resident_each / coturn.resident_each:.2f}x), slab {each.slab_each:.2f} KiB"
    )
