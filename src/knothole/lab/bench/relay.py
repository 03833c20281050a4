"""Relays against each other and against the kernel: datagrams a second, CPU and delay of each.

Coturn and knothole each have a host of their own between the same clients and the same peer, and
one core all of them; with "-N" behind the name they are N processes, or threads of coturn, on all
cores, that of the generator too. Every cell is measured in rounds: direct, forwarded, each relay,
again and again. "server" is the CPU of the relay's process for one datagram at a fixed rate, "all"
that of everything (generator, relay, the kernel's work for them) less the same datagrams sent
directly. Figures are medians over the rounds, with the bounds between which they lie for nine of
ten.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from knothole.lab.bench.batch_socket import BatchSocket
from knothole.lab.bench.relay_clients import BenchClient, open_allocations
from knothole.lab.bench.relay_demands import ACCELERATOR, USER_SPACE, over_several, verdicts
from knothole.lab.bench.relay_figures import Cell, Figures, Handled, Sample, figures
from knothole.lab.bench.relay_ground import Ground, Stand
from knothole.lab.bench.relay_load import (
    Lost,
    Traffic,
    check,
    cost_at_rate,
    most_per_second,
    pings,
)
from knothole.lab.bench.relay_servers import Coturn, Knothole, Relay, RelayUnavailable
from knothole.lab.bench.relay_table import COTURN, table, title
from knothole.lab.bench.relay_traffic import (
    CLIENT_PORT,
    PEER_PORT,
    TO_CLIENT,
    TO_PEER,
    plain_traffic,
    relayed_traffic,
)
from knothole.wire.address import Address

PINGS: Final = 300
EVERY: Final = f"{COTURN},{USER_SPACE},{ACCELERATOR}"
Sockets: TypeAlias = tuple[BatchSocket, BatchSocket]


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the ways that are measured side by side, and the relay that serves it, on one core or
    everywhere."""

    name: str
    traffic: Callable[[Cell], Traffic]
    relay: Relay | None = None
    is_everywhere: bool = False

    @property
    def processes(self) -> Sequence[int]:
        return self.relay.processes if self.relay else ()

    def handled(self) -> Handled:
        return self.relay.handled() if self.relay else Handled((), 0)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench relay", description=__doc__)
    parser.add_argument(
        "--allocations", type=_numbers, default=[1, 50, 500], help="how many (default: 1,50,500)"
    )
    parser.add_argument(
        "--sizes", type=_numbers, default=[160, 1200], help="payload (default: 160,1200)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.4, help="of a measurement (default: 1.4)"
    )
    parser.add_argument(
        "--rounds", type=int, default=25, help="in which these are spent (default: 25)"
    )
    parser.add_argument(
        "--rate", type=float, default=30_000, help="datagrams a second, for CPU (default: 30000)"
    )
    parser.add_argument("--relays", type=_relays, default=_relays(EVERY), help="user-space-2,...")
    parser.add_argument("--no-bursts", action="store_true", help="single datagrams only")
    parser.add_argument("--json", action="store_true", help="one object per way and cell")
    options = parser.parse_args(arguments)
    found: list[Figures] = []
    failed: list[str] = []
    for each in measure(options, failed):
        found.append(each)
        if options.json:
            print(json.dumps(asdict(each)), flush=True)
    if not options.json:
        print(table(found))
        print()
        print("\n".join([*verdicts(found), *over_several(found)]))
    for reason in failed:
        print(reason, file=sys.stderr)
    return 1 if failed else 0


def measure(options: argparse.Namespace, failed: list[str]) -> Iterator[Figures]:
    """Every way with every cell; ``failed`` gets a line for each that carries nothing.

    The generator is pinned to the first core, a relay of one process to the last.
    """
    cores, names = sorted(os.sched_getaffinity(0)), options.relays
    try:
        with Ground(max(options.allocations), len(names)) as ground:
            os.sched_setaffinity(0, {cores[0]})
            sockets = (BatchSocket(ground.client, CLIENT_PORT), BatchSocket(ground.peer, PEER_PORT))
            try:
                for count in options.allocations:
                    with contextlib.ExitStack() as running:
                        lanes = _lanes(running, ground, sockets, cores, names, count)
                        for cell in _cells(count, options):
                            yield from _measure(lanes, cell, options, failed)
            finally:
                for each in sockets:
                    each.close()
    finally:
        os.sched_setaffinity(0, cores)


def _lanes(
    running: contextlib.ExitStack,
    ground: Ground,
    sockets: Sockets,
    cores: Sequence[int],
    names: Sequence[str],
    count: int,
) -> list[Lane]:
    """The plain ways, and relays with ``count`` allocations each, until ``running`` ends."""
    lanes = [
        Lane(way.name, partial(plain_traffic, way, sockets))
        for way in (ground.direct, ground.forwarded)
    ]
    for name, stand in zip(names, ground.stands, strict=True):
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        try:
            relay = _start(name, stand, cores, folder)
        except RelayUnavailable as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        running.callback(relay.stop)
        clients = _open(stand, sockets[0], count)
        traffic = partial(relayed_traffic, stand, sockets, clients)
        lanes.append(Lane(name, traffic, relay, is_everywhere=_parts(name)[1] > 1))
    return lanes


def _start(name: str, stand: Stand, cores: Sequence[int], folder: Path) -> Relay:
    kind, number = _parts(name)
    place = (stand.namespace, cores if number > 1 else cores[-1:], stand.listener, folder)
    if kind == COTURN:
        return Coturn(*place, threads=number)
    return Knothole(*place, processes=number, accelerator=kind == ACCELERATOR)


def _open(stand: Stand, socket: BatchSocket, count: int) -> list[BenchClient]:
    peer = Address(stand.way.peer, PEER_PORT)
    hosts = stand.way.clients[:count]
    clients = [BenchClient(host, stand.listener, peer, f"c{n}") for n, host in enumerate(hosts)]
    open_allocations(socket, clients)
    return clients


def _measure(
    lanes: Sequence[Lane], cell: Cell, options: argparse.Namespace, failed: list[str]
) -> Iterator[Figures]:
    traffic = {lane.name: lane.traffic(cell) for lane in lanes}
    for lane in lanes:
        traffic[lane.name].yields = lane.is_everywhere
    samples: dict[str, list[Sample]] = {lane.name: [] for lane in lanes}
    for each in next(iter(traffic.values())).sockets:
        each.coalesce(cell.bursts)
    before = {lane.name: lane.handled() for lane in lanes}
    for number in range(-1, options.rounds):
        # To and fro: what slows down or speeds up steadily does so for all.
        for lane in lanes if number % 2 else reversed(lanes):
            if lane.name not in samples:
                continue
            try:
                if number < 0:
                    check(traffic[lane.name])
                else:
                    samples[lane.name].append(_sample(lane, traffic[lane.name], options))
            except Lost as error:
                failed.append(f"{lane.name}: {title(cell)}: {error}")
                del samples[lane.name]
    for lane in lanes:
        if lane.name in samples:
            handled = lane.handled().since(before[lane.name])
            yield figures(lane.name, cell, samples[lane.name], handled)


def _sample(lane: Lane, traffic: Traffic, options: argparse.Namespace) -> Sample:
    seconds = options.seconds / options.rounds
    per_second, per_core = most_per_second(traffic, lane.processes, seconds)
    cost = cost_at_rate(traffic, lane.processes, options.rate, seconds)
    latency = pings(traffic, max(1, PINGS // options.rounds))
    return Sample(per_second, per_core, cost.server, cost.everything, cost.lost, latency)


def _cells(allocations: int, options: argparse.Namespace) -> Iterator[Cell]:
    for bursts in (False,) if options.no_bursts else (False, True):
        for size in options.sizes:
            for direction in (TO_PEER, TO_CLIENT):
                yield Cell(allocations, size, direction, bursts)


def _relays(text: str) -> list[str]:
    """Raises ValueError for what is none."""
    return [name for name in text.split(",") if _parts(name)]


def _parts(name: str) -> tuple[str, int]:
    """What kind it is and how many processes it has. Raises ValueError."""
    kind, dash, number = name.rpartition("-")
    if dash and number.isdecimal() and kind in (COTURN, USER_SPACE) and int(number) > 0:
        return kind, int(number)
    if name in EVERY.split(","):
        return name, 1
    raise ValueError(name)


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]
