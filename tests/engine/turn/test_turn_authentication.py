"""The long-term credential mechanism on the server's side (RFC 8489 Section 9.2.4)."""

from __future__ import annotations

from functools import partial

import pytest

from knothole.engine.turn.authentication import PASSWORD_ALGORITHMS
from knothole.engine.turn.credentials import AnyOf, LongTermUsers, RestUsers, rest_credentials
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import AllocationCreated, AllocationEnded, EndReason
from knothole.wire.address import Address
from knothole.wire.stun import (
    Algorithm,
    ErrorCode,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    RequestedTransport,
    SecurityFeature,
    Userhash,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    security_features,
    userhash,
    verify_integrity,
    verify_integrity_sha256,
)

REALM = "knothole.test"
PEER = Address("2.2.2.2", 2000)


def code(answer: Message) -> int:
    error = answer.get(ErrorCode)
    return 0 if error is None else error.code


def test_an_unsigned_request_is_challenged(raw) -> None:
    answer = raw.challenge()
    assert code(answer) == 401
    assert answer.get(Realm) == Realm(REALM)
    assert answer.get(PasswordAlgorithms) == PASSWORD_ALGORITHMS
    features = SecurityFeature.PASSWORD_ALGORITHMS | SecurityFeature.USERNAME_ANONYMITY
    assert security_features(answer.get(Nonce).value) == features
    assert not answer.has_integrity and not answer.has_integrity_sha256


def test_nobody_gets_anything_without_a_name(world, raw) -> None:
    for method in (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
        raw.send(encode(Message(MessageClass.REQUEST, method, bytes(12), (RequestedTransport(),))))
        assert code(raw.answer()) == 401
    assert world.server.allocations == 0


@pytest.mark.parametrize("missing", [Username, Realm, Nonce])
def test_a_signed_request_without_name_realm_or_nonce_is_bad(raw, missing) -> None:
    raw.challenge()
    raw.send(raw.signed(Method.ALLOCATE, RequestedTransport(), drop=(missing,)))
    answer = raw.answer()
    assert code(answer) == 400
    assert not answer.has_integrity_sha256 and answer.get(Nonce) is None


def test_a_stranger_and_a_wrong_password_are_told_the_same(new_raw) -> None:
    stranger, guesser = new_raw("mallory", password="x"), new_raw("alice", password="x")
    answers = [each.ask(Method.ALLOCATE, RequestedTransport()) for each in (stranger, guesser)]
    for answer in answers:
        assert code(answer) == 401
        assert [type(each) for each in answer.attributes] == [
            type(each) for each in answers[0].attributes
        ]


@pytest.mark.parametrize("sha256", [True, False])
def test_a_userhash_is_as_good_as_the_name(world, new_raw, sha256) -> None:
    raw = new_raw(sha256=sha256)
    raw.challenge()
    hashed = Userhash(userhash("alice", REALM))
    raw.send(raw.signed(Method.ALLOCATE, RequestedTransport(), hashed, drop=(Username,)))
    assert raw.answer().get(XorRelayedAddress) is not None
    assert world.server_said(AllocationCreated)[0].username == "alice"
    assert raw.code(Method.REFRESH) == 0


def test_a_userhash_of_a_stranger_is_told_what_a_wrong_password_is(raw) -> None:
    raw.challenge()
    hashed = Userhash(userhash("mallory", REALM))
    raw.send(raw.signed(Method.ALLOCATE, RequestedTransport(), hashed, drop=(Username,)))
    assert code(raw.answer()) == 401


def test_a_client_of_rfc_8489_is_answered_with_sha256(raw) -> None:
    answer = raw.ask(Method.ALLOCATE, RequestedTransport())
    assert answer.get(XorRelayedAddress) is not None
    assert verify_integrity_sha256(answer, raw.key()) and not answer.has_integrity


def test_a_client_of_rfc_5389_is_answered_with_sha1(new_raw) -> None:
    old = new_raw("alice", sha256=False)
    answer = old.ask(Method.ALLOCATE, RequestedTransport())
    assert answer.get(XorRelayedAddress) is not None
    assert verify_integrity(answer, old.key()) and not answer.has_integrity_sha256


def test_errors_after_the_signature_are_signed(raw) -> None:
    answer = raw.ask(Method.ALLOCATE)
    assert code(answer) == 400
    assert verify_integrity_sha256(answer, raw.key())


@pytest.mark.parametrize(
    "offer",
    [
        PasswordAlgorithms((PasswordAlgorithm(Algorithm.MD5),)),
        PasswordAlgorithms(tuple(reversed(PASSWORD_ALGORITHMS.algorithms))),
        PasswordAlgorithms(()),
    ],
)
def test_an_offer_that_was_changed_on_the_way_is_bad(raw, offer) -> None:
    raw.challenge()
    raw.send(raw.signed(Method.ALLOCATE, RequestedTransport(), offer, drop=(PasswordAlgorithms,)))
    assert code(raw.answer()) == 400


@pytest.mark.parametrize("missing", [PasswordAlgorithm, PasswordAlgorithms])
def test_half_a_choice_of_algorithm_is_bad(raw, missing) -> None:
    raw.challenge()
    raw.send(raw.signed(Method.ALLOCATE, RequestedTransport(), drop=(missing,)))
    assert code(raw.answer()) == 400


def test_an_algorithm_that_was_not_offered_is_bad(raw) -> None:
    raw.challenge()
    chosen = PasswordAlgorithm(0x0003)
    raw.send(raw.signed(Method.ALLOCATE, RequestedTransport(), chosen, drop=(PasswordAlgorithm,)))
    assert code(raw.answer()) == 400


def test_a_nonce_is_good_for_an_hour_and_then_stale(world, raw) -> None:
    raw.allocate()
    raw.ask(Method.REFRESH, Lifetime(3600))
    nonce = raw.nonce
    world.now = 3599.0
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    world.now = 3600.0
    answer = raw.ask(Method.CREATE_PERMISSION, XorPeerAddress(PEER))
    assert code(answer) == 438
    assert answer.get(Realm) and answer.get(PasswordAlgorithms)
    raw.nonce = answer.get(Nonce).value
    assert raw.nonce != nonce
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0


def test_a_refresh_changes_the_nonce_early_so_that_nothing_urgent_has_to(world, raw) -> None:
    raw.allocate()
    world.now = 1799.0
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    assert raw.code(Method.REFRESH) == 0
    world.now = 1800.0
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    assert raw.code(Method.REFRESH) == 438


@pytest.mark.parametrize(
    "nonce", [b"x", b"obMatJos2gAAA", b"obMatJos2gAAA!!!!", b"obMatJos2gAAA" + b"A" * 24]
)
def test_a_nonce_that_is_not_ours_is_stale(raw, nonce) -> None:
    raw.challenge()
    raw.nonce = nonce
    assert raw.code(Method.ALLOCATE, RequestedTransport()) == 438


def test_a_nonce_is_good_on_its_own_5_tuple_only(new_raw) -> None:
    first, second = new_raw(), new_raw(client=Address("1.1.1.1", 4001))
    first.challenge()
    second.nonce = first.nonce
    assert second.code(Method.ALLOCATE, RequestedTransport()) == 438


def test_another_users_request_for_an_allocation_has_wrong_credentials(new_raw) -> None:
    alice, bob = new_raw("alice"), new_raw("bob")
    alice.allocate()
    for method in (Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
        assert bob.code(method, XorPeerAddress(PEER), Lifetime(0)) == 441
    assert alice.code(Method.REFRESH) == 0


def test_the_wrong_password_is_found_before_the_missing_allocation(new_raw) -> None:
    assert new_raw("alice", password="x").code(Method.REFRESH) == 401
    assert new_raw("alice").code(Method.REFRESH) == 437


def test_a_tampered_request_is_not_believed(raw) -> None:
    raw.challenge()
    request = bytearray(raw.signed(Method.ALLOCATE, RequestedTransport(), Lifetime(600)))
    request[request.index(b"\x00\x00\x02\x58") + 3] ^= 1
    raw.send(bytes(request))
    assert code(raw.answer()) == 401


class TestRestCredentials:
    """Username "EXPIRY:NAME", password the HMAC of that."""

    UNIX = 1_700_000_000

    @pytest.fixture
    def world(self, new_world):
        self.rest = RestUsers(REALM, ["old", b"new"], unix_at_zero=self.UNIX)
        return new_world(authenticator=AnyOf(LongTermUsers(REALM, {"dave": "d"}), self.rest))

    def client(self, new_raw, name="alice", seconds=100, secret="new", **options):
        made = rest_credentials(secret, name, seconds, self.UNIX)
        return new_raw(made.username, password=made.password, **options)

    def test_they_are_what_coturn_takes(self) -> None:
        # $ echo -n 1700000100:alice | openssl dgst -sha1 -hmac north -binary | base64
        made = rest_credentials("north", "alice", 100, self.UNIX)
        assert made.username == "1700000100:alice"
        assert made.password == "s2r39XucwMOQT0J2OK4XatJImYw="
        assert made.password not in repr(made)

    @pytest.mark.parametrize("secret", ["old", "new"])
    def test_they_are_good_with_either_secret(self, new_raw, secret) -> None:
        assert self.client(new_raw, secret=secret).code(Method.ALLOCATE, RequestedTransport()) == 0

    def test_they_are_not_good_with_another_secret(self, new_raw) -> None:
        client = self.client(new_raw, secret="guess")
        assert client.code(Method.ALLOCATE, RequestedTransport()) == 401

    def test_they_expire(self, world, new_raw) -> None:
        client = self.client(new_raw)
        world.now = 99.0
        assert client.code(Method.ALLOCATE) == 400
        world.now = 100.0
        assert client.code(Method.ALLOCATE) == 401

    @pytest.mark.parametrize("username", ["alice", ":alice", "x:alice", "٣:alice", "9" * 40, ""])
    def test_a_username_without_an_expiry_is_nobodys(self, new_raw, username) -> None:
        client = new_raw(username, password="x")
        assert client.code(Method.ALLOCATE, RequestedTransport()) == 401

    def test_an_allocation_ends_with_the_credentials_that_made_it(self, world, new_raw) -> None:
        client = self.client(new_raw)
        answer = client.ask(Method.ALLOCATE, RequestedTransport(), Lifetime(3600))
        assert answer.get(Lifetime) == Lifetime(100)
        world.now = 40.5
        assert client.ask(Method.REFRESH, Lifetime(3600)).get(Lifetime) == Lifetime(59)
        world.run(99.9)
        assert world.server.allocations == 1
        world.run(100.0)
        assert world.server.allocations == 0 and not world.sockets
        assert world.server_said(AllocationEnded)[0].reason is EndReason.CREDENTIALS
        assert client.code(Method.REFRESH) == 401

    def test_no_lifetime_is_told_as_zero_which_would_mean_deleted(self, world, new_raw) -> None:
        client = self.client(new_raw)
        world.now = 99.5
        assert client.ask(Method.ALLOCATE, RequestedTransport()).get(Lifetime) == Lifetime(1)
        world.run(100.0)
        assert world.server.allocations == 0

    @pytest.mark.parametrize("method", [Method.REFRESH, Method.CREATE_PERMISSION])
    def test_renewed_credentials_carry_it_on(self, world, new_raw, method) -> None:
        self.client(new_raw).allocate(Lifetime(3600))
        renewed = self.client(new_raw, seconds=5000)
        assert renewed.code(method, Lifetime(3600), XorPeerAddress(PEER)) == 0
        assert self.client(new_raw).code(Method.REFRESH, Lifetime(3600)) == 0
        world.run(3599.9)
        assert world.server.allocations == 1
        world.run(3600.0)
        assert world.server.allocations == 0

    def test_devices_of_one_name_have_one_quota(self, new_world, new_raw) -> None:
        rest = RestUsers(REALM, ["new"], unix_at_zero=self.UNIX)
        world = new_world(authenticator=rest, limits=Limits(allocations_per_user=2))
        make = partial(type(new_raw()), world)
        devices = [
            self.client(make, f"alice/{port}", client=Address("1.1.1.1", port))
            for port in (4000, 4001, 4002)
        ]
        codes = [each.code(Method.ALLOCATE, RequestedTransport()) for each in devices]
        assert codes == [0, 0, 486]

    def test_a_wall_clock_that_is_set_forward_ends_what_has_expired(self, world, new_raw) -> None:
        self.client(new_raw).allocate()
        late = self.client(new_raw, "bob", 1000, client=Address("1.1.1.1", 4001))
        late.allocate(Lifetime(3600))
        self.rest.unix_at_zero = self.UNIX + 500
        world.server.recheck_credentials(world.now)
        world.run(499.9)
        assert [event.owner for event in world.server_said(AllocationEnded)] == [":alice"]
        assert world.server_said(AllocationEnded)[0].reason is EndReason.CREDENTIALS
        world.run(500.0)
        assert world.server.allocations == 0

    def test_who_is_revoked_loses_what_they_have_and_gets_nothing_new(self, world, new_raw) -> None:
        alice, bob = self.client(new_raw), self.client(new_raw, "bob", client=PEER)
        alice.allocate()
        bob.allocate()
        world.server.revoke(":alice", world.now)
        assert world.server.allocations == 1
        assert alice.code(Method.ALLOCATE, RequestedTransport()) == 401
        assert alice.code(Method.REFRESH) == 401
        assert bob.code(Method.REFRESH) == 0
        world.server.restore(":alice")
        alice.allocate()

    def test_what_a_secret_let_in_ends_when_the_secret_is_no_more(self, world, new_raw) -> None:
        alice, bob = self.client(new_raw), self.client(new_raw, "bob", client=PEER, secret="old")
        alice.allocate()
        bob.allocate()
        self.rest.set_secrets(["newer", "new"])
        world.server.recheck_credentials(world.now)
        world.run(1.0)
        assert [each.owner for each in world.server_said(AllocationEnded)] == [":bob"]
        assert alice.code(Method.REFRESH) == 0
        assert bob.code(Method.ALLOCATE, RequestedTransport()) == 401
        with pytest.raises(ValueError, match="not empty"):
            self.rest.set_secrets([""])
        assert alice.code(Method.REFRESH) == 0

    def test_the_same_name_with_another_good_secret_goes_on_with_the_allocation(
        self, new_raw
    ) -> None:
        self.client(new_raw, secret="old").allocate()
        assert self.client(new_raw, secret="new").code(Method.REFRESH) == 0
        assert self.client(new_raw, secret="guess").code(Method.REFRESH) == 401

    def test_a_key_is_made_once_for_an_allocation(self, new_raw, monkeypatch) -> None:
        client = self.client(new_raw)
        client.allocate()
        made = []
        monkeypatch.setattr(self.rest, "user", lambda *asked: made.append(asked))
        assert client.code(Method.REFRESH) == 0
        assert client.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
        assert made == []
        assert self.client(new_raw, "mallory").code(Method.REFRESH) == 401
        assert len(made) == 1

    def test_nobody_is_asked_to_hide_a_name_that_could_not_be_found_again(self, new_raw) -> None:
        answer = self.client(new_raw).challenge()
        features = security_features(answer.get(Nonce).value)
        assert features == SecurityFeature.PASSWORD_ALGORITHMS

    def test_renewed_credentials_of_the_same_name_refresh_it_too(self, world, new_raw) -> None:
        self.client(new_raw).allocate()
        renewed = self.client(new_raw, seconds=5000)
        assert renewed.code(Method.REFRESH) == 0
        stranger = self.client(new_raw, name="bob", seconds=5000)
        assert stranger.code(Method.REFRESH) == 441

    def test_users_of_both_kinds_are_served_and_told_apart(self, new_raw) -> None:
        new_raw("dave", password="d").allocate()
        namesake = self.client(new_raw, name="dave")
        assert namesake.code(Method.REFRESH) == 441

    def test_an_empty_secret_is_the_operators_mistake(self) -> None:
        with pytest.raises(ValueError, match="secret"):
            RestUsers(REALM, [""], unix_at_zero=0.0)
        with pytest.raises(ValueError, match="secret"):
            RestUsers(REALM, [], unix_at_zero=0.0)


def test_what_cannot_be_decoded_is_dropped(raw) -> None:
    raw.challenge()
    request = bytearray(raw.signed(Method.ALLOCATE, RequestedTransport()))
    raw.send(bytes(request[:-4]))
    assert raw.replies == []
    assert decode(bytes(request)).method == Method.ALLOCATE
