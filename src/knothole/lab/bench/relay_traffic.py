"""The datagrams of each cell of the relay benchmark, with a relay and without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from knothole.lab.bench.batch_socket import BatchSocket, Round, Shot
from knothole.lab.bench.relay_clients import CHANNEL, BenchClient
from knothole.lab.bench.relay_figures import Cell
from knothole.lab.bench.relay_ground import Stand, Way
from knothole.lab.bench.relay_load import BURST, Traffic
from knothole.wire.address import Address

CLIENT_PORT: Final = 40_000
PEER_PORT: Final = 9_000
TO_PEER, TO_CLIENT = "to peer", "to client"


def plain_traffic(way: Way, sockets: tuple[BatchSocket, BatchSocket], cell: Cell) -> Traffic:
    """The cell without a relay; ``sockets`` are the clients' and the peer's."""
    client, peer = sockets
    payload = _payload(cell)
    segment = cell.size if cell.bursts else 0
    clients = way.clients[: cell.allocations]
    if cell.direction == TO_PEER:
        shots = [Shot(host, Address(way.peer, PEER_PORT), payload, segment) for host in clients]
    else:
        client, peer = peer, client
        shots = [Shot(way.peer, Address(host, CLIENT_PORT), payload, segment) for host in clients]
    return Traffic(client, peer, Round(shots), cell.size, payload[:8], _per_shot(cell))


def relayed_traffic(
    stand: Stand,
    sockets: tuple[BatchSocket, BatchSocket],
    clients: Sequence[BenchClient],
    cell: Cell,
) -> Traffic:
    """The cell through a relay: ChannelData on the client's side, bare on the peer's."""
    client, peer = sockets
    payload = _payload(cell)
    head = CHANNEL.to_bytes(2, "big") + cell.size.to_bytes(2, "big")
    if cell.direction == TO_CLIENT:
        segment = cell.size if cell.bursts else 0
        host = stand.way.peer
        shots = [Shot(host, each.relayed, payload, segment) for each in clients if each.relayed]
        return Traffic(peer, client, Round(shots), cell.size + len(head), head, _per_shot(cell))
    wrapped = (head + payload[: cell.size]) * _per_shot(cell)
    segment = cell.size + len(head) if cell.bursts else 0
    shots = [Shot(each.host, stand.listener, wrapped, segment) for each in clients]
    return Traffic(client, peer, Round(shots), cell.size, payload[:8], _per_shot(cell))


def _per_shot(cell: Cell) -> int:
    return BURST if cell.bursts else 1


def _payload(cell: Cell) -> bytes:
    """Its first byte is no STUN message's, as of any payload that may come in bursts."""
    return (b"\x80knothole" * (cell.size // 9 + 1))[: cell.size] * _per_shot(cell)
