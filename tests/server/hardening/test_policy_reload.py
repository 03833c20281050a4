"""Hardened, point 2, after a policy was reloaded: what it forbids is over, by every way there was.

In virtual time: tests/engine/turn/test_turn_policy_reload.py.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.lab.fuzz.patient import Patient
from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    ConnectionId,
    Method,
    XorPeerAddress,
)

from ..server_command import server_command
from .attacker import PATIENCE, StreamAttacker
from .conftest import running, user_of
from .peer_attempts import attempts, spellings

ALSO_ACCELERATED = True

PEER = "127.0.0.2"
NUMBER = 0x4000
RELAY = "[relay]\nallocations-per-user = 8\n"
ALLOWED = f"{RELAY}allow-peers = ['{PEER}/32']\n"
DENIED = f"{ALLOWED}deny-peers = ['{PEER}/32', '8.8.8.0/24']\n"


@pytest.fixture
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Patient]:
    """Of each test its own, for its policy is changed. PEER is allowed."""
    with running(tmp_path, request.param, ALLOWED) as started:
        yield started


def reload(patient: Patient, config: str) -> tuple[int, str]:
    """Exit code of the command, and what it complains of."""
    patient.configure(config)
    done = server_command("reload", "--data", str(patient.folder / "data"))
    return done.returncode, done.stderr


class Line:
    """A client with a channel to a UDP peer, and with a connection to a TCP peer."""

    def __init__(self, patient: Patient, stack: contextlib.ExitStack) -> None:
        self.peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.peer.bind((PEER, 0))
        self.address = Address(*self.peer.getsockname())
        self.client = stack.enter_context(user_of(patient, "alice"))
        self.relayed = self.client.allocate()
        self.channel = (ChannelNumber(NUMBER), XorPeerAddress(self.address))
        assert self.client.code(Method.CHANNEL_BIND, *self.channel) == 0

        listening = stack.enter_context(socket.create_server((PEER, 0)))
        self.control = stack.enter_context(user_of(patient, "bob", seed=2, kind=StreamAttacker))
        self.data = stack.enter_context(user_of(patient, "bob", seed=3, kind=StreamAttacker))
        self.control.allocate()
        self.tcp_peer = XorPeerAddress(Address(*listening.getsockname()))
        number = self.control.ask(Method.CONNECT, self.tcp_peer).get(ConnectionId)
        assert number is not None
        self.far_end = stack.enter_context(listening.accept()[0])
        assert self.data.code(Method.CONNECTION_BIND, number) == 0
        for end in (self.data.socket, self.far_end):
            end.settimeout(PATIENCE)

    def sends(self, round_: bytes) -> None:
        """Whatever might get through."""
        self.client.indicate(self.address, b"indication " + round_)
        self.client.send_channel(NUMBER, b"channel " + round_)
        self.peer.sendto(b"peer " + round_, tuple(self.relayed))

    def comes(self, round_: bytes) -> tuple[set[bytes], list[bytes]]:
        """What comes of that at the peer, and at the client."""
        wanted = {b"indication " + round_, b"channel " + round_}
        at_peer: set[bytes] = set()
        self.peer.settimeout(PATIENCE)
        while at_peer != wanted:
            at_peer.add(self.peer.recv(100))
        return at_peer, self.client.comes(0.1)


@pytest.fixture
def line(patient: Patient) -> Iterator[Line]:
    with contextlib.ExitStack() as stack:
        yield Line(patient, stack)


def test_what_there_was_is_over_and_no_spelling_brings_it_back(
    patient, line, user, stream_user
) -> None:
    line.sends(b"before")
    at_peer, at_client = line.comes(b"before")
    assert at_peer and at_client
    line.far_end.sendall(b"by TCP")
    assert line.data.socket.recv(100) == b"by TCP"
    figures = read_figures(patient.metrics_port)
    is_accelerated = figures.sum("knothole_accelerator_on") == 1
    assert figures.entries == (2 if is_accelerated else 0)

    assert reload(patient, DENIED) == (0, "")

    assert line.far_end.recv(100) == b"", "the peer's connection is closed"
    with contextlib.suppress(ConnectionResetError):
        assert line.data.socket.recv(100) == b"", "the client's, too"
    wait_for(lambda: read_figures(patient.metrics_port).entries == 0)
    for number in range(20):
        line.sends(b"after %d" % number)
    assert line.client.code(Method.REFRESH) == 0, "the allocation goes on"
    line.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.peer.recv(100)
    assert line.client.heard(0.5) == []

    assert line.client.code(Method.CHANNEL_BIND, *line.channel) == 403
    assert line.client.code(Method.CREATE_PERMISSION, line.channel[1]) == 403
    assert line.control.code(Method.CONNECT, line.tcp_peer) == 403
    for host in (PEER, "8.8.8.8", "8.8.8.0", "8.8.8.255"):
        found = attempts(user, stream_user, [host], AddressFamily.IPV4)
        assert found == {host: {403}}
        hosts = spellings(host)
        found = attempts(user, stream_user, hosts, AddressFamily.IPV6)
        assert found == {each: {403} for each in hosts}
    assert read_figures(patient.metrics_port).entries == 0


def test_what_is_opened_again_is_asked_for_again(patient, line) -> None:
    """A permission that was taken does not come back with the policy."""
    assert reload(patient, DENIED) == (0, "")
    assert reload(patient, ALLOWED) == (0, "")
    line.sends(b"without a permission")
    assert line.client.code(Method.REFRESH) == 0
    line.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.peer.recv(100)
    assert line.client.heard(0.5) == []
    assert line.client.code(Method.CHANNEL_BIND, *line.channel) == 0
    line.sends(b"again")
    at_peer, at_client = line.comes(b"again")
    assert at_peer and at_client


@pytest.mark.parametrize("range_", ["127.0.0.0/33", "127.0.0.1/8", "", "10", "::/129", "all"])
def test_a_malformed_range_opens_and_closes_nothing(patient, line, range_) -> None:
    for key in ("allow-peers", "deny-peers"):
        code, said = reload(patient, f"{RELAY}{key} = ['{range_}']\n")
        assert code == 1 and f"relay.{key}" in said
    with user_of(patient, "carol", seed=9) as other:
        other.allocate()
        for host, code in (("10.0.0.1", 403), (PEER, 0), ("127.0.0.3", 403)):
            assert other.code(Method.CREATE_PERMISSION, XorPeerAddress(Address(host, 1))) == code
    line.sends(b"as before")
    at_peer, at_client = line.comes(b"as before")
    assert at_peer and at_client


@pytest.mark.parametrize("key", ["allow-peers", "deny-peers"])
def test_with_a_malformed_range_it_does_not_start(tmp_path, free_port, key) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=f"relay.{key}"):
        Patient(folder, free_port(), config=f"[relay]\n{key} = ['10.0.0.0/33']")


def wait_for(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)
