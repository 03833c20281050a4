"""Several relay processes behind one address: whose datagrams each of them relays, counted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from knothole.lab.bench.batch_socket import BatchSocket
from knothole.lab.bench.relay_clients import BenchClient, open_allocations
from knothole.lab.bench.relay_figures import Cell
from knothole.lab.bench.relay_ground import Ground
from knothole.lab.bench.relay_load import Traffic
from knothole.lab.bench.relay_servers import PORTS, Knothole
from knothole.lab.bench.relay_traffic import (
    CLIENT_PORT,
    PEER_PORT,
    TO_CLIENT,
    TO_PEER,
    relayed_traffic,
)
from knothole.server.neighbours import slices
from knothole.server.reports import Report
from knothole.wire.address import Address

pytestmark = pytest.mark.netns

PROCESSES, CLIENTS, TIMES = 3, 60, 5
PATIENCE = 60.0


def test_each_process_relays_all_datagrams_of_its_own_allocations_and_no_others(
    tmp_path: Path,
) -> None:
    with Ground(CLIENTS) as ground:
        [stand] = ground.stands
        cores = os.sched_getaffinity(0)
        relay = Knothole(stand.namespace, cores, stand.listener, tmp_path, processes=PROCESSES)
        sockets = BatchSocket(ground.client, CLIENT_PORT), BatchSocket(ground.peer, PEER_PORT)
        try:
            peer = Address(stand.way.peer, PEER_PORT)
            clients = [BenchClient(each, stand.listener, peer, each) for each in stand.way.clients]
            open_allocations(sockets[0], clients)
            ports = [client.relayed.port for client in clients if client.relayed]
            owned = [
                sum(first <= port <= last for port in ports)
                for first, last in slices(PORTS, PROCESSES)
            ]
            assert sum(owned) == CLIENTS
            assert all(owned), "a client comes to any of them"
            for direction in (TO_PEER, TO_CLIENT):
                cell = Cell(CLIENTS, 160, direction, bursts=False)
                send_all(relayed_traffic(stand, sockets, clients, cell))
            deadline = time.monotonic() + PATIENCE
            while sum(map(relayed, relay.reports())) < 2 * TIMES * CLIENTS:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            reports = relay.reports()
            assert [sum(each.count for each in report.allocations) for report in reports] == owned
            assert list(map(relayed, reports)) == [2 * TIMES * count for count in owned]
            assert relay.handled().astray == 0
        finally:
            for each in sockets:
                each.close()
            relay.stop()


def relayed(report: Report) -> int:
    return sum(flow.datagrams for flow in report.flows)


def send_all(traffic: Traffic) -> None:
    """Each of them TIMES, one time round after the other has come whole."""
    for _ in range(TIMES):
        sent = came = 0
        while sent < CLIENTS:
            sent += traffic.sender.send(traffic.shots, CLIENTS - sent)
        while came < CLIENTS * traffic.size:
            assert traffic.target.wait(PATIENCE), "nothing more comes"
            came += traffic.target.receive()
        assert came == CLIENTS * traffic.size
