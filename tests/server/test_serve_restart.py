"""The server is killed and started again: clients come back by themselves, names stay theirs.

How soon is measured by `./dev bench recovery`.
"""

from __future__ import annotations

import signal
import sys
import time

import pytest

import knothole
from knothole.wire.candidate import CandidateKind
from knothole.wire.server_url import parse_server_url

CLIENTS = 8


def is_relayed(peer: knothole.Peer) -> bool:
    return any(
        candidate.candidate.kind is CandidateKind.RELAYED
        for candidate in peer.endpoint.gatherer.candidates
    )


async def test_registered_clients_are_back_soon_after_a_restart(serve, clients, until) -> None:
    server = serve().ready()
    port = parse_server_url(server.url).port
    peers = [await clients.peer(server.url, f"client-{number}") for number in range(CLIENTS)]
    await until(lambda: all(is_relayed(peer) for peer in peers))

    server.stop(signal.SIGKILL)
    await until(lambda: not any(peer.online for peer in peers))
    again = serve(port=port).ready()
    took = await until(lambda: all(peer.online for peer in peers))
    print(f"{CLIENTS} clients are back {took:.2f} s after the server is", file=sys.stderr)
    assert again.url == server.url

    relayed = await until(lambda: all(is_relayed(peer) for peer in peers))
    print(f"and have relayed addresses again {relayed:.2f} s later", file=sys.stderr)
    line = await peers[0].connect("client-1", timeout=40)
    line.close()


async def test_a_stop_in_good_order_brings_them_back_as_well(serve, clients, until) -> None:
    server = serve().ready()
    port = parse_server_url(server.url).port
    peer = await clients.peer(server.url, "alice")
    assert server.stop() == 0
    await until(lambda: not peer.online)
    serve(port=port).ready()
    await until(lambda: peer.online)


async def test_a_line_does_not_notice_that_the_server_is_gone(serve, clients, until) -> None:
    server = serve().ready()
    alice = await clients.peer(server.url, "alice")
    bob = await clients.peer(server.url, "bob")
    line = await alice.connect("bob", timeout=40)
    there = await anext(aiter(bob.incoming()))
    await until(lambda: line.path.kind == "direct" and there.path.kind == "direct")
    server.stop(signal.SIGKILL)
    await until(lambda: not alice.online and not bob.online)
    begun = time.monotonic()
    for number in range(20):
        line.send_datagram(b"%d" % number)
        assert await there.receive_datagram() == b"%d" % number
    print(f"20 datagrams in {time.monotonic() - begun:.3f} s without a server", file=sys.stderr)
    line.close()


async def test_a_name_belongs_to_its_key_after_a_restart_too(serve, clients) -> None:
    server = serve().ready()
    await clients.peer(server.url, "alice")
    server.stop(signal.SIGKILL)
    again = serve(port=parse_server_url(server.url).port).ready()
    await clients.peer(again.url, "alice")
    with pytest.raises(knothole.RegistrationRefused, match="belongs to another key"):
        await clients.peer(again.url, "alice", folder="somebody-else")
