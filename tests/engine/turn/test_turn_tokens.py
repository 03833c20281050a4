"""Third-party authorization on the server's side (RFC 7635)."""

from __future__ import annotations

import pytest

from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import AllocationCreated, AllocationEnded, EndReason
from knothole.engine.turn.tokens import TokenKey, TokenUsers, make_token
from knothole.wire.address import Address
from knothole.wire.oauth import TokenContent
from knothole.wire.stun import (
    AccessToken,
    ErrorCode,
    Lifetime,
    Method,
    MobilityTicket,
    RequestedTransport,
    ThirdPartyAuthorization,
    UnknownAttributes,
    XorPeerAddress,
    XorRelayedAddress,
    verify_integrity,
    verify_integrity_sha256,
)

UNIX = 1_700_000_000
NAME = "turn.example.org"
OLD, NEW = TokenKey("old", b"o" * 32, NAME), TokenKey("new", b"n" * 16, NAME)
PEER = Address("2.2.2.2", 2000)
MAC_KEY = bytes(range(20))
UDP = RequestedTransport()


@pytest.fixture
def tokens() -> TokenUsers:
    return TokenUsers([OLD, NEW], UNIX)


@pytest.fixture
def world(new_world, tokens):
    return new_world(tokens=tokens, mobility=True, limits=Limits(allocations_per_user=2))


def content(
    mac_key: bytes = MAC_KEY, issued_at: float = UNIX, lifetime: int = 1000
) -> TokenContent:
    return TokenContent(mac_key, issued_at, lifetime)


@pytest.fixture
def bearer(world, new_raw):
    """Makes clients that show a token, each with an address of its own."""
    made = []

    def make(what: TokenContent | None = None, key: TokenKey = OLD, **options: object):
        what = what or content()
        client = new_raw(
            key.kid, client=Address("1.1.1.1", 4000 + len(made)), sha256=False, **options
        )
        client.key = lambda: what.mac_key
        client.token = AccessToken(make_token(key, what, world.random.randbytes))
        made.append(client)
        return client

    return make


def allocated(client) -> int:
    return client.code(Method.ALLOCATE, UDP, client.token)


def test_the_challenge_names_the_server_that_tokens_are_made_for(raw) -> None:
    assert raw.challenge().get(ThirdPartyAuthorization) == ThirdPartyAuthorization(NAME)


def test_who_shows_a_token_gets_an_allocation_no_longer_than_it_says(world, bearer) -> None:
    client = bearer()
    answer = client.ask(Method.ALLOCATE, UDP, Lifetime(3600), client.token)
    assert answer.get(XorRelayedAddress) is not None
    assert answer.get(Lifetime) == Lifetime(1000)
    assert verify_integrity(answer, MAC_KEY)
    (created,) = world.server_said(AllocationCreated)
    assert created.username == "old"
    world.run(999.9)
    assert world.server.allocations == 1
    world.run(1000.0)
    assert world.server.allocations == 0
    assert world.server_said(AllocationEnded)[0].reason is EndReason.CREDENTIALS


def test_coturns_client_signs_with_part_of_the_key_and_is_served(bearer) -> None:
    client = bearer()
    client.key = lambda: MAC_KEY[:16]
    answer = client.ask(Method.ALLOCATE, UDP, client.token)
    assert answer.get(XorRelayedAddress) is not None
    assert verify_integrity(answer, MAC_KEY[:16])


def test_a_request_with_sha256_integrity_is_answered_with_it(bearer) -> None:
    client = bearer()
    client.challenge()
    client.sha256 = True
    client.send(client.signed(Method.ALLOCATE, UDP, client.token))
    assert verify_integrity_sha256(client.answer(), MAC_KEY)


def test_a_token_need_not_be_shown_with_every_request(world, bearer) -> None:
    client = bearer()
    assert allocated(client) == 0
    assert client.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    assert client.code(Method.REFRESH) == 0
    client.key = lambda: b"x" * 20
    assert client.code(Method.REFRESH) == 401


def test_a_token_may_be_shown_with_every_request(bearer) -> None:
    client = bearer()
    assert allocated(client) == 0
    assert client.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER), client.token) == 0


def test_a_new_token_carries_the_allocation_on_with_either_key(world, bearer) -> None:
    client = bearer()
    assert allocated(client) == 0
    world.now = 900.0
    later = content(b"l" * 32, UNIX + 900, 5000)
    for key in (OLD, NEW):
        renewed = bearer(later, key)
        renewed.five_tuple = client.five_tuple
        answer = renewed.ask(Method.REFRESH, renewed.token, Lifetime(3600))
        assert answer.get(Lifetime) == Lifetime(3600)
    world.run(4499.0)
    assert world.server.allocations == 1


def test_the_newest_token_counts_even_if_its_life_is_shorter(world, bearer) -> None:
    """coturn's client shows another one with every Refresh."""
    client, newer = bearer(), bearer(content(b"n" * 20, lifetime=100))
    newer.five_tuple = client.five_tuple
    assert allocated(client) == 0
    assert newer.ask(Method.REFRESH, newer.token).get(Lifetime) == Lifetime(100)
    assert newer.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    assert client.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 401
    world.run(100.0)
    assert world.server.allocations == 0


@pytest.mark.parametrize(
    "wrong",
    [
        content(issued_at=UNIX - 1000),
        content(issued_at=UNIX + 6),
        content(lifetime=0),
        content(issued_at=0.0),
    ],
    ids=["expired", "from the future", "without a life", "ancient"],
)
def test_a_token_out_of_its_time_is_nobodys(bearer, wrong) -> None:
    assert allocated(bearer(wrong)) == 401


@pytest.mark.parametrize("good", [content(issued_at=UNIX - 999), content(issued_at=UNIX + 5)])
def test_a_token_within_its_time_is_good(bearer, good) -> None:
    assert allocated(bearer(good)) == 0


@pytest.mark.parametrize("at", [0, 1, 2, 13, 14, 20, -17, -1])
def test_a_changed_token_is_nobodys(world, bearer, at) -> None:
    client = bearer()
    changed = bytearray(client.token.value)
    changed[at] ^= 1
    client.token = AccessToken(bytes(changed))
    assert allocated(client) == 401
    assert world.server.allocations == 0


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\x0c", bytes(14), bytes(60), bytes(600)])
def test_an_invented_token_is_nobodys(bearer, value) -> None:
    client = bearer()
    client.token = AccessToken(value)
    assert allocated(client) == 401


def test_a_token_for_another_server_is_nobodys(bearer) -> None:
    assert allocated(bearer(key=TokenKey("old", OLD.key, "turn.example.net"))) == 401


def test_a_token_of_another_key_than_it_says_is_nobodys(bearer) -> None:
    assert allocated(bearer(key=TokenKey("old", NEW.key, NAME))) == 401
    assert allocated(bearer(key=TokenKey("unknown", OLD.key, NAME))) == 401


def test_whoever_has_seen_a_token_cannot_use_it_without_its_key(bearer) -> None:
    thief = bearer()
    thief.key = lambda: b"guess" * 4
    assert allocated(thief) == 401


def test_each_token_has_a_quota_of_its_own(bearer) -> None:
    same = content(b"s" * 20)
    assert [allocated(bearer(same)) for _ in range(3)] == [0, 0, 486]
    assert allocated(bearer(content(b"t" * 20))) == 0


def test_users_of_the_authenticator_are_served_beside_them_and_kept_apart(new_raw, bearer) -> None:
    alice, client = new_raw(), bearer()
    alice.five_tuple = client.five_tuple
    assert allocated(client) == 0
    assert alice.code(Method.REFRESH) == 441


def test_without_its_token_nobody_takes_an_allocation_elsewhere(world, bearer) -> None:
    owner, thief = bearer(), bearer(content(b"t" * 20))
    ticket = owner.ask(Method.ALLOCATE, UDP, owner.token, MobilityTicket(b"")).get(MobilityTicket)
    assert thief.code(Method.REFRESH, thief.token, ticket) == 441
    moved = bearer()
    assert moved.code(Method.REFRESH, ticket) == 401
    assert moved.code(Method.REFRESH, moved.token, ticket) == 0


def test_a_key_that_is_taken_away_ends_what_it_was_good_for(world, tokens, bearer) -> None:
    old, new = bearer(), bearer(key=NEW)
    assert [allocated(old), allocated(new)] == [0, 0]
    tokens.set_keys([NEW])
    world.server.recheck_credentials(world.now)
    assert world.server.allocations == 1
    assert old.code(Method.REFRESH) == 401 and new.code(Method.REFRESH) == 0


@pytest.mark.parametrize("keys", [None, ()])
def test_a_server_without_keys_does_not_know_the_attribute(new_world, new_raw, keys) -> None:
    tokens = None if keys is None else TokenUsers(keys, UNIX)
    raw = type(new_raw())(new_world(tokens=tokens))
    assert raw.challenge().get(ThirdPartyAuthorization) is None
    answer = raw.ask(Method.ALLOCATE, UDP, AccessToken(bytes(60)))
    assert answer.get(ErrorCode).code == 420
    assert answer.get(UnknownAttributes) == UnknownAttributes((AccessToken.TYPE,))
    raw.allocate()
