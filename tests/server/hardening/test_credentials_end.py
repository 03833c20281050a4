"""Hardened, point 7: an allocation ends with the credentials that it was made with.

To the second in virtual time, with what the kernel relays: tests/engine/turn.
"""

from __future__ import annotations

import socket
import time

from knothole.engine.turn.credentials import rest_credentials
from knothole.wire.address import Address
from knothole.wire.stun import Method, RequestedTransport

UDP = RequestedTransport()
SHORT = 8.0  # seconds for which credentials are good
PATIENCE = 60.0


def is_bound(address: Address) -> bool:
    """Whether the relayed address's socket is there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(tuple(address))
        except OSError:
            return True
        return False


def wait_until_free(address: Address) -> None:
    deadline = time.monotonic() + PATIENCE
    while is_bound(address):
        assert time.monotonic() < deadline, f"{address} is still there"
        time.sleep(0.05)


def test_an_allocation_whose_credentials_expire_is_gone_with_its_port(user) -> None:
    with user("alice", SHORT) as client:
        relayed = client.allocate()
        assert is_bound(relayed)
        wait_until_free(relayed)
        assert client.code(Method.REFRESH) == 401
        client.nonce = b""


def test_a_refresh_does_not_keep_it(user) -> None:
    with user("alice", SHORT) as client:
        relayed = client.allocate()
        deadline = time.monotonic() + PATIENCE
        while client.code(Method.REFRESH) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
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
