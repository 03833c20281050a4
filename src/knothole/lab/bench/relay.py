"""Relays against each other and against the kernel: datagrams a second, CPU and delay of each.

Coturn and knothole stand in the same place in turn, one core each, with the same clients, peers and
datagrams. "server" is the CPU of the relay's process for one datagram at a fixed rate, "all" that
of everything (generator, relay, the kernel's work for them) less the same datagrams sent directly.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from knothole.lab.bench import relay_table
from knothole.lab.bench.batch_socket import BatchSocket, Shot
from knothole.lab.bench.relay_clients import CHANNEL, BenchClient, open_allocations
from knothole.lab.bench.relay_ground import Ground, Way
from knothole.lab.bench.relay_load import (
    BURST,
    Traffic,
    check,
    cost_at_rate,
    median_latency,
    most_per_second,
)
from knothole.lab.bench.relay_servers import Coturn, Knothole, Relay, RelayUnavailable
from knothole.wire.address import Address

CLIENT_PORT: Final = 40_000
PEER_PORT: Final = 9_000
PINGS: Final = 300
DIRECTIONS: Final = ("to peer", "to client")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is sent: payload of ``size`` bytes on so many allocations, singly or in bursts."""

    allocations: int
    size: int
    direction: str
    bursts: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """One way measured with one cell; microseconds, and datagrams a second.

    ``per_core`` is what a whole second of the relay's CPU carries, ``lost`` the share that was lost
    while CPU was measured. Nothing is taken off yet for the direct path.
    """

    way: str
    cell: Cell
    per_second: float
    per_core: float
    server_us: float
    all_us: float
    lost: float
    latency_us: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench relay", description=__doc__)
    parser.add_argument("--allocations", type=_numbers, default=[1, 50, 500], help="1,50,500")
    parser.add_argument("--sizes", type=_numbers, default=[160, 1200], help="payload: 160,1200")
    parser.add_argument("--seconds", type=float, default=0.8, help="of each measurement")
    parser.add_argument("--rate", type=float, default=30_000, help="datagrams a second for CPU")
    parser.add_argument("--relays", default="", help="only these: coturn,user-space,accelerator")
    parser.add_argument("--no-bursts", action="store_true", help="single datagrams only")
    parser.add_argument("--json", action="store_true", help="one object per way and cell")
    options = parser.parse_args(arguments)
    figures = []
    for each in measure(options):
        figures.append(each)
        if options.json:
            print(json.dumps(asdict(each)), flush=True)
    if not options.json:
        print(relay_table.table(figures))
    return 0


def measure(options: argparse.Namespace) -> Iterator[Figures]:
    """Every way with every cell. The relays are pinned to the last core, the generator to the
    first."""
    cores = sorted(os.sched_getaffinity(0))
    wanted = [each for each in options.relays.split(",") if each]
    try:
        with Ground(max(options.allocations)) as ground:
            os.sched_setaffinity(0, {cores[0]})
            sockets = (BatchSocket(ground.client, CLIENT_PORT), BatchSocket(ground.peer, PEER_PORT))
            try:
                yield from _measure_all(ground, sockets, cores[-1], wanted, options)
            finally:
                for each in sockets:
                    each.close()
    finally:
        os.sched_setaffinity(0, cores)


def _measure_all(
    ground: Ground,
    sockets: tuple[BatchSocket, BatchSocket],
    core: int,
    wanted: list[str],
    options: argparse.Namespace,
) -> Iterator[Figures]:
    for way in (ground.direct, ground.forwarded):
        for cell in _cells(options):
            yield _measure(way.name, cell, plain_traffic(way, sockets, cell), [], options)
    for name, start in _relays(ground, core).items():
        if wanted and name not in wanted:
            continue
        for count in options.allocations:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    relay = start(Path(folder))
                except RelayUnavailable as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    break
                try:
                    clients = _open(ground, sockets[0], count)
                    for cell in _cells(options):
                        if cell.allocations == count:
                            traffic = relayed_traffic(ground, sockets, clients, cell)
                            yield _measure(name, cell, traffic, relay.processes, options)
                finally:
                    relay.stop()


def _relays(ground: Ground, core: int) -> dict[str, Callable[[Path], Relay]]:
    place = (ground.server, core, ground.listener)
    return {
        "coturn": lambda folder: Coturn(*place, folder),
        "user-space": lambda folder: Knothole(*place, folder, accelerator=False),
        "accelerator": lambda folder: Knothole(*place, folder, accelerator=True),
    }


def _open(ground: Ground, socket: BatchSocket, count: int) -> list[BenchClient]:
    peer = Address(ground.forwarded.peer, PEER_PORT)
    hosts = ground.forwarded.clients[:count]
    clients = [BenchClient(host, ground.listener, peer, f"c{n}") for n, host in enumerate(hosts)]
    open_allocations(socket, clients)
    return clients


def plain_traffic(way: Way, sockets: tuple[BatchSocket, BatchSocket], cell: Cell) -> Traffic:
    """The cell without a relay."""
    client, peer = sockets
    payload = _payload(cell)
    segment = cell.size if cell.bursts else 0
    clients = way.clients[: cell.allocations]
    if cell.direction == "to peer":
        shots = [Shot(host, Address(way.peer, PEER_PORT), payload, segment) for host in clients]
    else:
        client, peer = peer, client
        shots = [Shot(way.peer, Address(host, CLIENT_PORT), payload, segment) for host in clients]
    return Traffic(client, peer, shots, cell.size, payload[:8], _per_shot(cell))


def relayed_traffic(
    ground: Ground,
    sockets: tuple[BatchSocket, BatchSocket],
    clients: Sequence[BenchClient],
    cell: Cell,
) -> Traffic:
    """The cell through a relay: ChannelData on the client's side, bare on the peer's."""
    client, peer = sockets
    payload = _payload(cell)
    head = CHANNEL.to_bytes(2, "big") + cell.size.to_bytes(2, "big")
    if cell.direction == "to client":
        segment = cell.size if cell.bursts else 0
        host = ground.forwarded.peer
        shots = [Shot(host, each.relayed, payload, segment) for each in clients if each.relayed]
        return Traffic(peer, client, shots, cell.size + len(head), head, _per_shot(cell))
    wrapped = (head + payload[: cell.size]) * _per_shot(cell)
    segment = cell.size + len(head) if cell.bursts else 0
    shots = [Shot(each.host, ground.listener, wrapped, segment) for each in clients]
    return Traffic(client, peer, shots, cell.size, payload[:8], _per_shot(cell))


def _measure(
    name: str, cell: Cell, traffic: Traffic, servers: Sequence[int], options: argparse.Namespace
) -> Figures:
    for each in (traffic.sender, traffic.target):
        each.coalesce(cell.bursts)
    check(traffic)
    per_second, per_core = most_per_second(traffic, servers, options.seconds)
    cost = cost_at_rate(traffic, servers, options.rate, options.seconds)
    latency = median_latency(traffic, PINGS)
    return Figures(
        name, cell, per_second, per_core, cost.server, cost.everything, cost.lost, latency
    )


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for bursts in (False,) if options.no_bursts else (False, True):
        for allocations in options.allocations:
            for size in options.sizes:
                for direction in DIRECTIONS:
                    yield Cell(allocations, size, direction, bursts)


def _per_shot(cell: Cell) -> int:
    return BURST if cell.bursts else 1


def _payload(cell: Cell) -> bytes:
    """Its first byte is no STUN message's, as of any payload that may come in bursts."""
    return (b"\x80knothole" * (cell.size // 9 + 1))[: cell.size] * _per_shot(cell)


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]
