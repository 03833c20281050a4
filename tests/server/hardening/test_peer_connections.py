"""Hardened, point 3: connections with peers (RFC 6062): many, half-open, stolen, forgotten.

In virtual time: tests/engine/turn/test_turn_tcp_peers.py.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from knothole.lab.fuzz.patient import vitals
from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import ConnectionId, Method, XorPeerAddress

from .attacker import PATIENCE, StreamAttacker

PEER = "127.0.0.2"
RELAY = f"allow-peers = ['{PEER}/32']\n"
MOST = 32  # connections of one allocation
MORE = 8
LONG_PATIENCE = 120.0  # for what takes the server 30 s


class Peer:
    """A TCP server of somebody else's."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._listening: list[socket.socket] = []

    def listen(self) -> XorPeerAddress:
        """On one more port."""
        self._listening.append(self._stack.enter_context(socket.create_server((PEER, 0))))
        return XorPeerAddress(Address(*self._listening[-1].getsockname()))

    def accept(self) -> socket.socket:
        """On the port that was opened last."""
        self._listening[-1].settimeout(PATIENCE)
        accepted = self._stack.enter_context(self._listening[-1].accept()[0])
        accepted.settimeout(LONG_PATIENCE)
        return accepted

    def connect(self, relayed: Address) -> socket.socket:
        """To a relayed address."""
        made = self._stack.enter_context(socket.socket())
        made.bind((PEER, 0))
        made.settimeout(LONG_PATIENCE)
        made.connect(tuple(relayed))
        return made


@pytest.fixture
def peer() -> Iterator[Peer]:
    with contextlib.ExitStack() as stack:
        yield Peer(stack)


def is_closed(sock: socket.socket) -> bool:
    """Waits for it."""
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def connect(attacker: StreamAttacker, peer: Peer) -> tuple[ConnectionId, socket.socket]:
    number = attacker.ask(Method.CONNECT, peer.listen()).get(ConnectionId)
    assert number is not None
    return number, peer.accept()


def test_one_allocation_has_so_many_and_no_more(patient, stream_user, peer) -> None:
    with stream_user("alice") as attacker:
        attacker.allocate()
        before = read_figures(patient.metrics_port).relay_descriptors
        codes = [attacker.code(Method.CONNECT, peer.listen()) for _ in range(MOST + MORE)]
        assert codes == [0] * MOST + [508] * MORE
        assert read_figures(patient.metrics_port).relay_descriptors == before + MOST


def test_a_peer_that_floods_a_relayed_address_is_turned_away(patient, stream_user, peer) -> None:
    """Without a permission at once; with one beyond what one allocation may have."""
    with stream_user("alice") as attacker:
        relayed = attacker.allocate()
        before = vitals(patient.processes).descriptors
        for _ in range(50):
            assert is_closed(peer.connect(relayed))
        assert vitals(patient.processes).descriptors <= before + 1  # the last may be on its way out
        assert attacker.code(Method.CREATE_PERMISSION, XorPeerAddress(Address(PEER, 9))) == 0
        flood = [peer.connect(relayed) for _ in range(MOST + MORE)]
        for each in flood[MOST:]:
            assert is_closed(each)
        assert attacker.code(Method.REFRESH) == 0
        assert len(attacker.indications) == MOST
        assert vitals(patient.processes).descriptors <= before + MOST + 1


def test_what_nobody_binds_is_closed(stream_user, peer) -> None:
    """After 30 s, at both ends of either kind."""
    with stream_user("alice") as attacker:
        relayed = attacker.allocate()
        _, there = connect(attacker, peer)
        assert attacker.code(Method.CREATE_PERMISSION, XorPeerAddress(Address(PEER, 9))) == 0
        here = peer.connect(relayed)
        assert is_closed(there) and is_closed(here)
        assert attacker.code(Method.REFRESH) == 0


def test_a_connection_is_nobody_elses(stream_user, peer) -> None:
    """Neither a number that was guessed nor one that was overheard is of any use."""
    with stream_user("alice") as owner, stream_user("mallory", seed=2) as thief:
        owner.allocate()
        number, far_end = connect(owner, peer)
        for guess in (number.value, number.value + 1, number.value - 1, 0, 1, 0xFFFF_FFFF):
            assert thief.code(Method.CONNECTION_BIND, ConnectionId(guess)) in (400, 441)
        with stream_user("alice", seed=3) as data, stream_user("alice", seed=4) as late:
            assert data.code(Method.CONNECTION_BIND, number) == 0
            assert late.code(Method.CONNECTION_BIND, number) == 400, "it is bound"
            far_end.sendall(b"for alice")
            data.socket.settimeout(PATIENCE)
            assert data.socket.recv(100) == b"for alice"
            assert thief.heard(0.2) == []


def test_numbers_are_not_guessed_from_others(stream_user, peer) -> None:
    with stream_user("alice") as attacker:
        attacker.allocate()
        numbers = [connect(attacker, peer)[0].value for _ in range(20)]
        steps = {after - before for before, after in itertools.pairwise(numbers)}
        assert len(set(numbers)) == 20 and len(steps) > 15, numbers


def test_binds_that_stop_half_way_are_let_go(patient, stream_user, peer) -> None:
    """A data connection that says a part of its request, and no more."""
    with stream_user("alice") as attacker, contextlib.ExitStack() as stack:
        attacker.allocate()
        number, far_end = connect(attacker, peer)
        before = vitals(patient.processes).descriptors
        halves = []
        for size in (0, 1, 19, 20, 40):
            data = stack.enter_context(stream_user("alice", seed=10 + size))
            data.nonce = attacker.nonce
            data.socket.sendall(data.signed(Method.CONNECTION_BIND, number)[:size])
            data.socket.settimeout(LONG_PATIENCE)
            halves.append(data.socket)
        for each in halves:
            assert is_closed(each)
        deadline = time.monotonic() + PATIENCE
        while vitals(patient.processes).descriptors > before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert is_closed(far_end)


def test_with_the_control_connection_all_of_them_end(patient, stream_user, peer) -> None:
    with stream_user("alice") as attacker:
        attacker.allocate()
        far_ends = [connect(attacker, peer)[1] for _ in range(5)]
        with stream_user("alice", seed=2) as data:
            number, bound = connect(attacker, peer)
            assert data.code(Method.CONNECTION_BIND, number) == 0
            attacker.socket.close()
            assert all(map(is_closed, [*far_ends, bound]))
            data.socket.settimeout(PATIENCE)
            assert is_closed(data.socket)
