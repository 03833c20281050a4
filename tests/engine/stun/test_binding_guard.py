"""A STUN server that does not answer everybody: credentials and other servers (RFC 8489)."""

from __future__ import annotations

import random

import pytest

from knothole.engine.core import Datagram
from knothole.engine.stun.guard import ShortTermGuard
from knothole.engine.stun.server import BindingServer
from knothole.engine.turn.authentication import PASSWORD_ALGORITHMS
from knothole.engine.turn.binding_guard import LongTermGuard
from knothole.engine.turn.credentials import LongTermUsers
from knothole.wire.address import Address
from knothole.wire.stun import (
    Algorithm,
    AlternateServer,
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    SecurityFeature,
    UnknownAttribute,
    Userhash,
    Username,
    XorMappedAddress,
    decode,
    encode,
    long_term_key,
    security_features,
    short_term_key,
    userhash,
    verify_integrity,
    verify_integrity_sha256,
)

CLIENT, SERVER = Address("1.1.1.1", 4000), Address("9.9.9.9", 3478)
REALM = "knothole.test"
KEY = short_term_key("wonder")


def ask(server: BindingServer, *attributes: Attribute, now: float = 0.0, **keys: bytes) -> Message:
    request = Message(MessageClass.REQUEST, Method.BINDING, bytes(12), attributes)
    answer = server.answer(Datagram(CLIENT, SERVER, encode(request, **keys)), now)
    assert answer is not None and answer.destination == CLIENT and answer.source == SERVER
    return decode(answer.payload)


def code(answer: Message) -> int:
    error = answer.get(ErrorCode)
    return 0 if error is None else error.code


class TestShortTerm:
    @pytest.fixture
    def server(self) -> BindingServer:
        return BindingServer(guard=ShortTermGuard({"alice": "wonder"}))

    def test_either_integrity_is_answered_with_its_like(self, server) -> None:
        answer = ask(server, Username("alice"), key=KEY)
        assert answer.get(XorMappedAddress) == XorMappedAddress(CLIENT)
        assert verify_integrity(answer, KEY) and not answer.has_integrity_sha256
        answer = ask(server, Username("alice"), sha256_key=KEY)
        assert verify_integrity_sha256(answer, KEY) and not answer.has_integrity
        answer = ask(server, Username("alice"), key=KEY, sha256_key=KEY)
        assert verify_integrity_sha256(answer, KEY)

    def test_without_name_or_integrity_it_is_a_bad_request(self, server) -> None:
        for answer in (ask(server), ask(server, Username("alice")), ask(server, key=KEY)):
            assert code(answer) == 400
            assert not answer.has_integrity and not answer.has_integrity_sha256

    @pytest.mark.parametrize("name", ["alice", "mallory"])
    @pytest.mark.parametrize("kind", ["key", "sha256_key"])
    def test_a_stranger_and_a_wrong_password_are_told_the_same(self, server, name, kind) -> None:
        answer = ask(server, Username(name), **{kind: short_term_key("guess")})
        assert code(answer) == 401 and len(answer.attributes) == 1
        assert not answer.has_integrity and not answer.has_integrity_sha256

    def test_errors_after_the_signature_are_signed(self, server) -> None:
        answer = ask(server, Username("alice"), UnknownAttribute(0x7FFE, b""), key=KEY)
        assert code(answer) == 420 and verify_integrity(answer, KEY)


class TestLongTerm:
    @pytest.fixture
    def server(self) -> BindingServer:
        users = LongTermUsers(REALM, {"alice": "wonder"})
        return BindingServer(guard=LongTermGuard(REALM, users, random.Random(1).randbytes, 0.0))

    def identity(self, server) -> tuple[Attribute, ...]:
        challenge = ask(server)
        assert code(challenge) == 401 and challenge.get(Realm) == Realm(REALM)
        nonce = challenge.get(Nonce)
        assert nonce is not None
        assert challenge.get(PasswordAlgorithms) == PASSWORD_ALGORITHMS
        features = security_features(nonce.value)
        assert features is not None and SecurityFeature.USERNAME_ANONYMITY in features
        return Realm(REALM), nonce

    def test_a_client_of_rfc_5389_is_served(self, server) -> None:
        key = long_term_key("alice", REALM, "wonder", Algorithm.MD5)
        answer = ask(server, Username("alice"), *self.identity(server), key=key)
        assert answer.get(XorMappedAddress) == XorMappedAddress(CLIENT)
        assert verify_integrity(answer, key)

    @pytest.mark.parametrize("name", [Username("alice"), Userhash(userhash("alice", REALM))])
    def test_a_client_of_rfc_8489_is_served_by_its_name_or_the_hash_of_it(
        self, server, name
    ) -> None:
        key = long_term_key("alice", REALM, "wonder", Algorithm.SHA256)
        chosen = PASSWORD_ALGORITHMS, PasswordAlgorithm(Algorithm.SHA256)
        answer = ask(server, name, *self.identity(server), *chosen, sha256_key=key)
        assert answer.get(XorMappedAddress) == XorMappedAddress(CLIENT)
        assert verify_integrity_sha256(answer, key)

    def test_an_offer_that_was_bid_down_is_refused(self, server) -> None:
        key = long_term_key("alice", REALM, "wonder", Algorithm.MD5)
        less = PasswordAlgorithms((PasswordAlgorithm(Algorithm.MD5),))
        chosen = PasswordAlgorithm(Algorithm.MD5)
        answer = ask(server, Username("alice"), *self.identity(server), less, chosen, key=key)
        assert code(answer) == 400

    def test_a_nonce_grows_stale(self, server) -> None:
        key = long_term_key("alice", REALM, "wonder", Algorithm.MD5)
        identity = Username("alice"), *self.identity(server)
        assert code(ask(server, *identity, now=3599.0, key=key)) == 0
        assert code(ask(server, *identity, now=3600.0, key=key)) == 438


def test_clients_may_be_sent_to_another_server_of_their_family() -> None:
    server = BindingServer(guard=ShortTermGuard({"alice": "wonder"}))
    server.redirect_to = Address("8.8.8.8", 3478)
    answer = ask(server, Username("alice"), key=KEY)
    assert code(answer) == 300 and verify_integrity(answer, KEY)
    assert answer.get(AlternateServer) == AlternateServer(Address("8.8.8.8", 3478))
    assert code(ask(server)) == 400
    server.redirect_to = Address("2606:4700::1", 3478)
    assert code(ask(server, Username("alice"), key=KEY)) == 0
