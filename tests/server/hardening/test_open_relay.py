"""Hardened, point 1: nobody is relayed without credentials that are good here and now."""

from __future__ import annotations

import base64
import hmac
import socket
import time

import pytest

from knothole.engine.turn.credentials import rest_credentials
from knothole.lab.fuzz.patient import vitals
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    Data,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    decode,
    encode,
)

from .attacker import Attacker

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
    before = vitals(patient.processes).descriptors
    with Attacker(patient.port) as attacker:
        for method, attributes in (
            (Method.ALLOCATE, (UDP,)),
            (Method.REFRESH, ()),
            (Method.CREATE_PERMISSION, (PEER,)),
            (Method.CHANNEL_BIND, (ChannelNumber(0x4000), PEER)),
        ):
            answer = decode(attacker.exchange(attacker.unsigned(method, *attributes)))
            assert answer.get(ErrorCode).code == 401
    assert vitals(patient.processes).descriptors == before


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
        content = (here, Data(b"through you"))
        indication = Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)
        for _ in range(20):
            attacker.socket.send(encode(indication))
            attacker.socket.send(b"\x40\x00\x00\x04data")
        attacker.challenge()  # it has seen all of them by now
        attacker.nonce = b""
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(100)
