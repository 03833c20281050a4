"""Hardened, point 1: nobody is relayed without credentials that are good here and now."""

from __future__ import annotations

import base64
import hmac
import socket
import time

import pytest

from knothole.engine.turn.credentials import rest_credentials
from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    ErrorCode,
    Method,
    RequestedTransport,
    XorPeerAddress,
    decode,
)

from .attacker import Attacker

ALSO_ACCELERATED = True
UDP = RequestedTransport()
PEER = XorPeerAddress(Address("8.8.8.8", 53))
SOON = 10_000_000_000  # a UNIX time that is not over


def password_of(secret: str, username: str) -> str:
    """The password that the secret makes for any text at all, as a careless service would."""
    digest = hmac.digest(secret.encode(), username.encode(), "sha1")
    return base64.b64encode(digest).decode()


def refused(attacker: Attacker) -> bool:
    """Whether every request of ``attacker`` gets the challenge anew."""
    codes = {
        attacker.code(Method.ALLOCATE, UDP),
        attacker.code(Method.REFRESH),
        attacker.code(Method.CREATE_PERMISSION, PEER),
        attacker.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), PEER),
    }
    attacker.nonce = b""  # there is nothing to delete
    return codes == {401}


def test_without_credentials_there_is_nothing(patient) -> None:
    before = read_figures(patient.metrics_port).relay_descriptors
    with Attacker(patient.port) as attacker:
        for method, attributes in (
            (Method.ALLOCATE, (UDP,)),
            (Method.REFRESH, ()),
            (Method.CREATE_PERMISSION, (PEER,)),
            (Method.CHANNEL_BIND, (ChannelNumber(0x4000), PEER)),
        ):
            answer = decode(attacker.exchange(attacker.unsigned(method, *attributes)))
            assert answer.get(ErrorCode).code == 401
    assert read_figures(patient.metrics_port).relay_descriptors == before


@pytest.mark.parametrize("sha256", [True, False])
def test_a_wrong_password_is_refused(patient, sha256) -> None:
    made = rest_credentials(patient.secret, "alice", 3600, time.time())
    with Attacker(patient.port, made.username, "guessed", sha256=sha256) as attacker:
        assert refused(attacker)


def test_credentials_of_another_server_are_refused(patient) -> None:
    made = rest_credentials("another secret of 30 characters", "alice", 3600, time.time())
    with Attacker(patient.port, made.username, made.password) as attacker:
        assert refused(attacker)


def test_expired_credentials_are_refused(patient) -> None:
    made = rest_credentials(patient.secret, "alice", -1, time.time())
    with Attacker(patient.port, made.username, made.password) as attacker:
        assert refused(attacker)


@pytest.mark.parametrize("realm", ["", "Knothole", "knothole ", "other.example", "knothole\x00"])
def test_good_credentials_signed_for_another_realm_are_refused(patient, realm) -> None:
    made = rest_credentials(patient.secret, "alice", 3600, time.time())
    with Attacker(patient.port, made.username, made.password, realm) as attacker:
        assert refused(attacker)


@pytest.mark.parametrize(
    "username",
    [
        "",
        ":",
        ":alice",
        "alice",
        "\x00",
        "-1:alice",
        f"-{SOON}:alice",
        f"+{SOON}:alice",
        f" {SOON}:alice",
        f"{SOON} :alice",
        f"{SOON}.5:alice",
        "1e12:alice",
        "0x7fffffff:alice",
        "inf:alice",
        "nan:alice",
        "9" * 16 + ":alice",
        "9" * 400 + ":alice",
        "٣" * 11 + ":alice",
        "¹²" * 6 + ":alice",
        f"\x00{SOON}:alice",
        f"{SOON}\x00:alice",
        f"1:{SOON}:alice",
        f"{SOON};alice",
        "1:alice",
        "0:alice",
    ],
)
def test_no_odd_expiry_is_good_even_when_the_secret_has_signed_it(patient, username) -> None:
    password = password_of(patient.secret, username)
    with Attacker(patient.port, username, password) as attacker:
        assert refused(attacker)


@pytest.mark.parametrize("username", ["", f"{SOON}:", f"{SOON}:alice", "anonymous"])
@pytest.mark.parametrize("password", ["", "\x00", "password"])
def test_nobody_is_anonymous_by_accident(patient, username, password) -> None:
    with Attacker(patient.port, username, password) as attacker:
        assert refused(attacker)


def test_data_without_an_allocation_goes_nowhere(patient) -> None:
    """Send indications and ChannelData of strangers, at a peer that listens."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        Attacker(patient.port) as attacker,
    ):
        peer.bind(("127.0.0.1", 0))
        here = XorPeerAddress(Address(*peer.getsockname()))
        for _ in range(20):
            attacker.indicate(here.address, b"through you")
            attacker.send_channel(0x4000, b"data")
        attacker.challenge()  # it has seen all of them by now
        attacker.nonce = b""
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(100)


def test_nobody_speaks_on_the_channel_of_another(patient, user) -> None:
    """From another port than the client's own, with the number that is bound, and into the relayed
    address from another host or port than the peer's."""
    with (
        user("alice") as alice,
        user("bob", seed=2) as bob,
        Attacker(patient.port) as thief,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        to_alice, to_bob = XorPeerAddress(alice.allocate()), XorPeerAddress(bob.allocate())
        for one, peer in ((alice, to_bob), (bob, to_alice)):
            assert one.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer) == 0
        alice.send_channel(0x4000, b"it works")
        assert bob.comes(0.0) == [b"\x40\x00\x00\x08it works"]
        for _ in range(20):
            thief.send_channel(0x4000, b"I am Alice")
            thief.indicate(to_bob.address, b"I am Alice")
            for relayed in (to_alice.address, to_bob.address):
                stranger.sendto(b"I am the other one", tuple(relayed))
        thief.challenge()  # it has seen all of them by now
        thief.nonce = b""
        assert alice.heard(0.5) == bob.heard(0.5) == []
