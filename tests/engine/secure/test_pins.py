from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.secure.identity import Identity, fingerprint
from knothole.engine.secure.pins import KnownPeers, MalformedPins, Verdict, changed_key_text

BOB = Identity.generate(random.Random(1).randbytes)
MALLORY = Identity.generate(random.Random(2).randbytes)
SERVER = "example.org:3478"


def test_a_first_key_is_new_then_the_same_and_another_one_changed() -> None:
    peers = KnownPeers()
    assert peers.check(SERVER, "bob", BOB.public_key) is Verdict.NEW
    assert peers.remember(SERVER, "bob", BOB.public_key, 1000) is Verdict.NEW
    assert peers.remember(SERVER, "bob", BOB.public_key, 2000) is Verdict.SAME
    assert peers.check(SERVER, "bob", MALLORY.public_key) is Verdict.CHANGED
    known = peers.get(SERVER, "bob")
    assert known is not None and known.first_seen == 1000


def test_a_changed_key_never_replaces_the_known_one_until_it_is_forgotten() -> None:
    peers = KnownPeers()
    peers.remember(SERVER, "bob", BOB.public_key, 1000)
    mallory = MALLORY.keys("bob")
    assert peers.remember(SERVER, "bob", MALLORY.public_key, 1, mallory) is Verdict.CHANGED
    assert peers.check(SERVER, "bob", BOB.public_key) is Verdict.SAME
    assert peers.forget(SERVER, "bob") and not peers.forget(SERVER, "bob")
    assert peers.remember(SERVER, "bob", MALLORY.public_key, 2) is Verdict.NEW


def test_the_same_name_on_another_server_is_another_person() -> None:
    peers = KnownPeers()
    peers.remember(SERVER, "bob", BOB.public_key, 1000)
    assert peers.check("other.example:3478", "bob", MALLORY.public_key) is Verdict.NEW


def test_the_sealing_key_is_kept_for_calls_without_a_lookup() -> None:
    peers = KnownPeers()
    peers.remember(SERVER, "bob", BOB.public_key, 1000)
    known = peers.get(SERVER, "bob")
    assert known is not None and known.keys is None
    peers.remember(SERVER, "bob", BOB.public_key, 1000, BOB.keys("bob"))
    known = peers.get(SERVER, "bob")
    assert known is not None and known.keys == BOB.keys("bob")


def test_sealing_keys_of_somebody_else_are_not_kept() -> None:
    peers = KnownPeers()
    peers.remember(SERVER, "bob", BOB.public_key, 1000, MALLORY.keys("bob"))
    known = peers.get(SERVER, "bob")
    assert known is not None and known.keys is None


def test_what_is_written_is_read_back() -> None:
    peers = KnownPeers()
    peers.remember(SERVER, "bob", BOB.public_key, 1000, BOB.keys("bob"))
    peers.remember("a.example:1", "carol", MALLORY.public_key, 2000)
    assert peers.mark_compared(SERVER, "bob") and not peers.mark_compared(SERVER, "nobody")
    again = KnownPeers.from_bytes(peers.to_bytes())
    assert list(again) == list(peers)
    assert [peer.name for peer in again] == ["carol", "bob"]
    assert [peer.compared for peer in again] == [False, True]


@given(st.binary(max_size=200))
def test_damaged_files_give_the_one_error(data: bytes) -> None:
    with pytest.raises(MalformedPins):
        KnownPeers.from_bytes(data)


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(MalformedPins, match="format 2"):
        KnownPeers.from_bytes(b'{"format": 2, "peers": []}')


def test_the_text_for_a_changed_key_names_both_keys_and_says_what_to_do() -> None:
    peers = KnownPeers()
    peers.remember(SERVER, "bob", BOB.public_key, 1000)
    known = peers.get(SERVER, "bob")
    assert known is not None
    text = changed_key_text(known, MALLORY.public_key)
    assert fingerprint(BOB.public_key) in text and fingerprint(MALLORY.public_key) in text
    assert "HAS CHANGED" in text and "forget" in text and "\n" not in text
