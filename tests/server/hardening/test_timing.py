"""Hardened, point 6: a stranger and a wrong password look alike, and nothing can be guessed.

By what is computed and said, not by a clock.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

import pytest

from knothole.engine.core import Transmit
from knothole.engine.turn.credentials import (
    AnyOf,
    Authenticator,
    LongTermUsers,
    RestUsers,
    rest_credentials,
)
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    ErrorCode,
    Message,
    MessageClass,
    Method,
    Nonce,
    RequestedTransport,
    decode,
    encode,
)

from .attacker import Attacker

UDP = RequestedTransport()
SERVER, CLIENT = Address("9.9.9.9", 3478), Address("1.1.1.1", 4000)
REALM = "knothole"


def without_chance(answer: bytes) -> tuple:
    """All that an answer says, but for the transaction and the nonce."""
    message = decode(answer)
    kinds = [each for each in message.attributes if not isinstance(each, Nonce)]
    nonce = message.get(Nonce)
    return len(answer), message.message_class, message.method, kinds, len(nonce.value)


@pytest.mark.parametrize("sha256", [True, False])
def test_a_real_server_says_the_same_to_both(patient, sha256) -> None:
    expired = f"{int(time.time()) - 10}:alice"
    alice = rest_credentials(patient.secret, "alice", 3600, time.time())
    names = ["nobody", alice.username, expired, "", "a" * 400]
    answers = []
    for name in names:
        with Attacker(patient.port, name, "wrong", sha256=sha256) as attacker:
            attacker.challenge()
            answers.append(without_chance(attacker.exchange(attacker.signed(Method.ALLOCATE, UDP))))
            attacker.nonce = b""
    assert answers == [answers[0]] * len(names)


@pytest.fixture
def counted(monkeypatch):
    """Every use of a hash or of a comparison in constant time, with its length."""
    found: list[str] = []

    def watch(module: object, name: str, length: int) -> None:
        original = getattr(module, name)

        def counting(*args: object, **options: object) -> object:
            size = len(args[length]) if len(args) > length else 0  # type: ignore[arg-type]
            found.append(f"{name} of {size}")
            return original(*args, **options)

        monkeypatch.setattr(module, name, counting)

    for module, name, length in (
        *((hmac, "digest", 1), (hmac, "compare_digest", 0), (hmac, "new", 1)),
        *((hashlib, each, 0) for each in ("md5", "sha1", "sha256", "new")),
    ):
        watch(module, name, length)
    return found


@pytest.mark.parametrize("sha256", [True, False])
@pytest.mark.parametrize("several", [False, True], ids=["one kind of users", "two kinds"])
def test_as_much_is_computed_for_a_stranger_as_for_a_wrong_password(
    counted, sha256, several
) -> None:
    users: Authenticator = LongTermUsers(REALM, {"alice": "wonder", "carol": "christmas"})
    if several:
        users = AnyOf(RestUsers(REALM, ["a secret", "another"], 0.0), users)
    server = TurnServer(
        realm=REALM,
        authenticator=users,
        random=secrets.token_bytes,
        relay_hosts=["9.9.9.10"],
        now=0.0,
        server_addresses=[SERVER],
    )
    server.revoke("carol", 0.0)

    def work(name: str, hashed: bool = False) -> list[str]:
        """All that is computed for one request of ``name``, with a password that is wrong."""
        with Attacker(9, name, "wrong", REALM, sha256=sha256) as attacker:
            challenge = ask(server, attacker.unsigned(Method.ALLOCATE, UDP))
            attacker.nonce = decode(challenge).get(Nonce).value
            request = attacker.signed(Method.ALLOCATE, UDP, hashed=hashed)
            attacker.nonce = b""
        counted.clear()
        assert decode(ask(server, request)).get(ErrorCode).code == 401
        return list(counted)

    known = work("alice")
    assert any(each.startswith("compare") for each in known)
    assert work("mallo") == known, "a stranger"
    assert work("carol") == known, "who is revoked"
    assert work("alice", hashed=True) == work("mallo", hashed=True), "by USERHASH"


def ask(server: TurnServer, request: bytes) -> bytes:
    server.receive(FiveTuple(Transport.UDP, CLIENT, SERVER), request, 0.0)
    (answer,) = [each.datagram.payload for each in server.outputs() if isinstance(each, Transmit)]
    return answer


def test_users_of_any_kind_are_unknown_in_the_same_words() -> None:
    users = AnyOf(RestUsers(REALM, ["a secret"], 0.0), LongTermUsers(REALM, {"alice": "wonder"}))
    server = TurnServer(
        realm=REALM,
        authenticator=users,
        random=secrets.token_bytes,
        relay_hosts=["9.9.9.10"],
        now=0.0,
    )
    bare = encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP,)))
    answers = []
    for name in ("alice", "mallory", "99999999:alice", "1:alice"):
        with Attacker(9, name, "wrong", REALM) as attacker:
            attacker.nonce = decode(ask(server, bare)).get(Nonce).value
            answers.append(without_chance(ask(server, attacker.signed(Method.ALLOCATE, UDP))))
            attacker.nonce = b""
    assert answers == [answers[0]] * 4


def test_relay_ports_and_nonces_are_drawn_from_secrets(patient, monkeypatch) -> None:
    """The relay gives its engine ``secrets.token_bytes``, and every port comes of that alone."""
    from knothole.engine.turn.relay_pool import RelayPool
    from knothole.server import relay
    from knothole.wire.stun import AddressFamily

    assert relay.secrets is secrets
    drawn: list[int] = []

    def bytes_of(size: int) -> bytes:
        drawn.append(size)
        return secrets.token_bytes(size)

    pool = RelayPool(["9.9.9.10"], (50_000, 59_999), bytes_of)
    for _ in range(100):
        assert pool.take(AddressFamily.IPV4, "", even=False, pair=False)
    assert drawn == [4] * 100
