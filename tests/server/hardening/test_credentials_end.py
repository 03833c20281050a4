"""Hardened, point 7: an allocation ends with the credentials that it was made with.

To the second in virtual time: tests/engine/turn/test_turn_credentials_end.py.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from knothole.engine.turn.credentials import rest_credentials
from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    ConnectionId,
    Method,
    RequestedTransport,
    XorPeerAddress,
)

from ..server_command import server_command
from .attacker import Attacker, StreamAttacker

ALSO_ACCELERATED = True
PEER = "127.0.0.2"
RELAY = f"allow-peers = ['{PEER}/32']\n"

UDP = RequestedTransport()
SHORT = 8.0  # seconds for which credentials are good
LONGER = 20.0  # the same where much is done before they end
PATIENCE = 60.0
NUMBER = 0x4000


def is_bound(address: Address) -> bool:
    """Whether the relayed address's socket is there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(tuple(address))
        except OSError:
            return True
        return False


def wait_for(happens: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_until_free(address: Address) -> None:
    wait_for(lambda: not is_bound(address), f"{address} is still there")


class Line:
    """A client with a channel to a UDP peer and, over TCP, a connection to a TCP peer."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        client: Attacker,
        control: StreamAttacker,
        data: StreamAttacker,
    ) -> None:
        self.client, self.data = client, data
        for each in (client, control, data):
            stack.enter_context(each)
        self.peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.peer.bind((PEER, 0))
        peer = XorPeerAddress(Address(*self.peer.getsockname()))
        self.relayed = client.allocate()
        assert client.code(Method.CHANNEL_BIND, ChannelNumber(NUMBER), peer) == 0

        listening = stack.enter_context(socket.create_server((PEER, 0)))
        self.relayed_by_tcp = control.allocate()
        wanted = XorPeerAddress(Address(*listening.getsockname()))
        number = control.ask(Method.CONNECT, wanted).get(ConnectionId)
        assert number is not None
        self.far_end = stack.enter_context(listening.accept()[0])
        assert data.code(Method.CONNECTION_BIND, number) == 0
        for end in (data.socket, self.far_end, self.peer):
            end.settimeout(PATIENCE)

    def works(self) -> None:
        """Both ways, by both."""
        self.client.send_channel(NUMBER, b"there")
        assert self.peer.recv(100) == b"there"
        self.peer.sendto(b"back", tuple(self.relayed))
        assert self.client.comes(0.0) == [b"\x40\x00\x00\x04back"]
        self.far_end.sendall(b"by TCP")
        assert self.data.socket.recv(100) == b"by TCP"

    def is_over(self, patient) -> None:
        """Everything: the port, the connections, the entries; and nothing is relayed any more."""
        wait_until_free(self.relayed)
        for end in (self.far_end, self.data.socket):
            with contextlib.suppress(ConnectionResetError):
                assert end.recv(100) == b""
        figures = read_figures(patient.metrics_port)
        assert figures.allocations == figures.entries == 0
        self.peer.setblocking(False)
        for _ in range(20):
            self.client.send_channel(NUMBER, b"there")
            self.client.indicate(Address(*self.peer.getsockname()), b"there")
            self.peer.sendto(b"back", tuple(self.relayed))
        assert self.client.code(Method.REFRESH) == 401
        assert self.client.code(Method.ALLOCATE, UDP) == 401
        with pytest.raises(BlockingIOError):
            self.peer.recv(100)
        self.client.nonce = b""


@pytest.fixture
def line(user, stream_user) -> Iterator[Callable[[float], Line]]:
    """``line(lifetime)``"""
    with contextlib.ExitStack() as stack:
        yield lambda lifetime: Line(
            stack,
            user("alice", lifetime),
            stream_user("alice", lifetime, seed=2),
            stream_user("alice", lifetime, seed=3),
        )


def test_when_they_expire_everything_that_hangs_on_them_is_over(patient, line) -> None:
    held = line(LONGER)
    held.works()
    held.is_over(patient)


def test_when_the_operator_revokes_the_user_too(patient, user, line) -> None:
    """Until that is taken back; others do not notice."""
    data = str(patient.folder / "data")
    held = line(3600)
    with user("bob", seed=8) as bob:
        held.works()
        if read_figures(patient.metrics_port).sum("knothole_accelerator_on"):
            assert read_figures(patient.metrics_port).entries == 2
        done = server_command("revoke", "alice", "--data", data)
        assert (done.returncode, done.stdout) == (0, "alice is shut out\n")
        held.is_over(patient)
        bob.allocate()
        assert bob.code(Method.REFRESH) == 0
    with user("alice", seed=9) as again:
        assert again.code(Method.ALLOCATE, UDP) == 401, "with other credentials, too"
        assert server_command("revoke", "alice", "--undo", "--data", data).returncode == 0
        again.allocate()


def test_a_refresh_does_not_keep_it(user) -> None:
    with user("alice", SHORT) as client:
        relayed = client.allocate()
        wait_for(lambda: client.code(Method.REFRESH) != 0, "it lives on")
        wait_until_free(relayed)
        client.nonce = b""


def test_renewed_credentials_keep_it(patient, user) -> None:
    """Those of the same name, shown before the old ones end."""
    with user("alice", SHORT) as client, user("brief", SHORT) as other:
        relayed, brief = client.allocate(), other.allocate()
        renewed = rest_credentials(patient.secret, "alice", 3600, time.time())
        client.username, client.password = renewed.username, renewed.password
        assert client.code(Method.REFRESH) == 0
        wait_until_free(brief)  # that long it would have lived without
        other.nonce = b""
        assert is_bound(relayed)
        assert client.code(Method.REFRESH) == 0
