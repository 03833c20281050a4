"""Allocations: how many a relay makes in a second of its CPU, what one costs in memory, and how
many it holds.

Coturn and knothole stand in the same place in turn, one core each, with the same clients, so often
as there are rounds; what is told is the median. An allocation is two requests, the first of which
is answered with the challenge. "RSS" is the processes' memory, "kernel" what the kernel has for
their sockets meanwhile, by what the machine's slab grew.

Those that are held are held by ``knothole serve``, all of its processes on one core: as many relay
processes as the system's limit of files for one demands. Each of them is refreshed afterwards, and
memory is what all processes have then.
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
from knothole.lab.bench.relay_clients import BenchClient, open_allocations
from knothole.lab.bench.relay_ground import Ground, Stand
from knothole.lab.bench.relay_servers import (
    Coturn,
    Knothole,
    Relay,
    ServedKnothole,
    descriptors,
)
from knothole.lab.netns.namespace import Namespace
from knothole.lab.process_figures import (
    cpu_seconds,
    kernel_kibibytes,
    proportional_kibibytes,
    resident_kibibytes,
)
from knothole.wire.address import Address

HOSTS: Final = 500  # ours: clients are so many addresses, with as many ports as that takes
FIRST_PORT: Final = 40_000
PEER_PORT: Final = 9_000
FOR_OTHERS: Final = 150  # descriptors that are no allocation's; knothole keeps 128 back itself
HELD: Final = "knothole, held"
GIBIBYTE: Final = 1024 * 1024  # in KiB


@dataclass(frozen=True, slots=True)
class Figures:
    """One relay with ``count`` idle allocations.

    ``per_second`` is by the clock, ``per_core`` for a second of the relay's CPU; memory in KiB, of
    all ``processes`` together, with ``proportional`` what they share is counted once. Of those that
    are held so many were ``refreshed``.
    """

    relay: str
    processes: int
    count: int
    per_second: float
    per_core: float
    resident: int
    proportional: int
    resident_each: float
    kernel_each: float
    refreshed: int = 0

    @property
    def each(self) -> float:
        """What an allocation takes in the process and in the kernel."""
        return self.resident_each + self.kernel_each


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench allocations", description=__doc__)
    parser.add_argument(
        "--count", type=int, default=3000, help="made at each relay (default: 3000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="so often, in turn (default: 3)")
    parser.add_argument(
        "--hold", type=int, default=20_000, help="made at knothole alone; 0: none (default: 20000)"
    )
    parser.add_argument("--json", action="store_true", help="one object per relay")
    options = parser.parse_args(arguments)
    coturn: Figures | None = None
    for each in measure(options.count, options.rounds, options.hold):
        coturn = coturn or each
        print(json.dumps(asdict(each)) if options.json else _line(each, coturn), flush=True)
        if each.refreshed and not options.json:
            print(_held_line(each))
    return 0


def measure(count: int, rounds: int, hold: int) -> Iterator[Figures]:
    """Both relays with ``count``, then knothole with ``hold``."""
    cores = sorted(os.sched_getaffinity(0))
    compared: dict[str, list[Figures]] = {"coturn": [], "knothole": []}
    try:
        with Ground(min(HOSTS, max(count, hold))) as ground:
            os.sched_setaffinity(0, {cores[0]})
            stand = ground.stands[0]
            place = (stand.namespace, cores[-1:], stand.listener)
            starts: dict[str, Callable[[Path], Relay]] = {
                "coturn": lambda folder: Coturn(*place, folder),
                "knothole": lambda folder: Knothole(*place, folder),
            }
            for _ in range(rounds if count else 0):
                for name, found in compared.items():
                    with tempfile.TemporaryDirectory() as folder:
                        relay = starts[name](Path(folder))
                        found.append(_measure(name, ground.client, stand, relay, count))
            for found in compared.values():
                if found:
                    yield sorted(found, key=lambda each: each.per_core)[len(found) // 2]
            if hold:
                processes = _processes_for(hold)
                with tempfile.TemporaryDirectory() as folder:
                    server = ServedKnothole(*place, Path(folder), processes=processes)
                    yield _measure(HELD, ground.client, stand, server, hold, refresh=True)
    finally:
        os.sched_setaffinity(0, cores)


def _processes_for(hold: int) -> int:
    """How many relay processes it takes to hold so many here; says why they are several."""
    room = descriptors() - FOR_OTHERS
    if hold <= room:
        return 1
    # Which process a client comes to is chance: with room for a twentieth more none is too full.
    processes = max(2, -(-hold * 21 // (room * 20)))
    print(
        f"{processes} relay processes: the system lets one open {descriptors()} files "
        f"(`ulimit -Hn`), and each allocation is one",
        file=sys.stderr,
    )
    return processes


def _measure(
    name: str, client: Namespace, stand: Stand, relay: Relay, count: int, *, refresh: bool = False
) -> Figures:
    """Stops ``relay`` in the end."""
    hosts = stand.way.clients
    clients = [
        BenchClient(hosts[number % len(hosts)], stand.listener, None, f"c{number}")
        for number in range(count)
    ]
    rounds = [clients[start : start + len(hosts)] for start in range(0, count, len(hosts))]
    sockets: list[BatchSocket] = []
    try:
        sockets += (BatchSocket(client, FIRST_PORT + number) for number in range(len(rounds)))
        before, kernel = _sum(resident_kibibytes, relay), kernel_kibibytes()
        cpu, started = _cpu(relay), time.monotonic()
        for each, group in zip(sockets, rounds, strict=True):
            open_allocations(each, group)
        spent, elapsed = _cpu(relay) - cpu, time.monotonic() - started
        kernel_after = kernel_kibibytes()
        _try_some(stand.way.peer, sockets, rounds)
        if refresh:
            for each, group in zip(sockets, rounds, strict=True):
                for one in group:
                    one.want_refresh()
                open_allocations(each, group)
        after = _sum(resident_kibibytes, relay)
        return Figures(
            name,
            len(relay.processes),
            count,
            count / elapsed,
            count / spent,
            after,
            _sum(proportional_kibibytes, relay),
            (after - before) / count,
            (kernel_after - kernel) / count,
            refreshed=sum(each.is_ready for each in clients) if refresh else 0,
        )
    finally:
        for each in sockets:
            each.close()
        relay.stop()


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


def _sum(of: Callable[[int], int], relay: Relay) -> int:
    return sum(map(of, relay.processes))


def _line(each: Figures, coturn: Figures) -> str:
    return (
        f"{each.relay:15}{each.count:7} allocations"
        f"{each.per_second:8.0f}/s{each.per_core:8.0f} per core"
        f" ({each.per_core / coturn.per_core:.2f}x)"
        f"   each {each.resident_each:6.2f} KiB RSS"
        f" ({each.resident_each / coturn.resident_each:.2f}x)"
        f" + {each.kernel_each:.2f} KiB kernel ({each.each / coturn.each:.2f}x together)"
    )


def _held_line(each: Figures) -> str:
    within = "within" if each.resident <= GIBIBYTE else "NOT within"
    return (
        f"{each.refreshed} of {each.count} refreshed afterwards, by {each.processes} processes"
        f" on one core: RSS {each.resident / 1024:.0f} MiB, PSS {each.proportional / 1024:.0f} MiB,"
        f" {within} 1 GiB"
    )
