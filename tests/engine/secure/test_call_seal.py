from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.secure.call_seal import CalleeSeal, CallerSeal, derive_ice_credentials
from knothole.engine.secure.identity import Identity, PeerKeys
from knothole.engine.secure.replay import SeenCalls
from knothole.engine.secure.seal import SealFault, SealRefused, open_statement, seal_statement
from knothole.engine.secure.words import NONCE_BYTES, opens_commitment
from knothole.wire.signal.content import (
    CallAnswer,
    CallOffer,
    ContentKind,
    Statement,
    encode_content,
)
from knothole.wire.signal.values import MAX_SEALED_BYTES

CALL_ID = b"call-id-16-bytes"
PHONE, LAPTOP = b"bob's phone.....", b"bob's laptop...."
FLIGHT = (b"\xc1" * 1200, b"\xc2" * 1200)
HOST = "candidate:1 1 udp 2130706431 10.0.0.2 5000 typ host"


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


ALICE, BOB, MALLORY = (Identity.generate(seeded(seed)) for seed in (1, 2, 3))


def caller(peer: PeerKeys | None = None, seed: int = 10) -> CallerSeal:
    return CallerSeal(
        identity=ALICE,
        name="alice",
        peer=peer or BOB.keys("bob"),
        call_id=CALL_ID,
        random=seeded(seed),
    )


def callee(
    sealed: bytes,
    *,
    identity: Identity = BOB,
    name: str = "bob",
    device_id: bytes = PHONE,
    call_id: bytes = CALL_ID,
    from_name: str = "alice",
    from_key: bytes = ALICE.public_key,
    seen: SeenCalls | None = None,
) -> CalleeSeal:
    return CalleeSeal(
        sealed,
        identity=identity,
        name=name,
        device_id=device_id,
        call_id=call_id,
        from_name=from_name,
        from_key=from_key,
        seen=seen or SeenCalls(),
        random=seeded(11),
    )


def offer_of(seal: CallerSeal) -> bytes:
    return seal.seal_offer(kind="call", app="voice", candidates=(HOST,), quic_datagrams=FLIGHT)


def refused(fault: SealFault) -> pytest.RaisesExc[SealRefused]:
    return pytest.RaisesExc(SealRefused, check=lambda error: error.fault is fault)


def test_offer_and_answer_arrive_as_they_were_sent() -> None:
    alice = caller()
    bob = callee(offer_of(alice))
    assert (bob.offer.kind, bob.offer.app) == ("call", "voice")
    assert bob.offer.candidates == (HOST,)
    assert bob.offer.quic_datagrams == FLIGHT
    answer = alice.open_answer(PHONE, bob.seal_answer(candidates=(HOST,), quic_datagrams=FLIGHT))
    assert answer == CallAnswer(bob.words_nonce, (HOST,), FLIGHT)
    assert opens_commitment(bob.offer.words_commitment, alice.words_nonce)


def test_candidates_trickle_both_ways_before_and_after_the_answer() -> None:
    alice = caller()
    bob = callee(offer_of(alice))
    assert bob.open_trickle(alice.seal_trickle((HOST,))).candidates == (HOST,)
    assert alice.open_trickle(PHONE, bob.seal_trickle((HOST,))).candidates == (HOST,)
    alice.open_answer(PHONE, bob.seal_answer())
    assert bob.open_trickle(alice.seal_trickle((), end=True)).end
    assert alice.open_trickle(PHONE, bob.seal_trickle((), end=True)).end


def test_an_offer_with_two_client_hello_datagrams_is_about_four_kilobytes() -> None:
    assert len(offer_of(caller())) < 4200


def test_sizes_come_in_steps_so_that_they_say_little() -> None:
    sizes = {
        len(caller().seal_offer(kind="line", candidates=(HOST,) * count)) for count in range(8)
    }
    assert len(sizes) <= 2


def test_nothing_of_the_content_can_be_seen_from_outside() -> None:
    alice = caller()
    sealed = offer_of(alice)
    for secret in (b"10.0.0.2", b"voice", b"alice", ALICE.public_key, FLIGHT[0][:16]):
        assert secret not in sealed


def test_both_sides_derive_the_same_ice_credentials_and_other_devices_others() -> None:
    alice = caller()
    sealed = offer_of(alice)
    phone, laptop = callee(sealed), callee(sealed, device_id=LAPTOP)
    assert alice.ice_credentials(PHONE) == phone.ice_credentials()
    assert alice.ice_credentials(LAPTOP) == laptop.ice_credentials()
    credentials = (*phone.ice_credentials(), *laptop.ice_credentials())
    assert len({each.ufrag for each in credentials}) == 4
    for each in credentials:
        assert (len(each.ufrag), len(each.password)) == (8, 32)  # RFC 8445 Section 5.3
        assert each.password not in repr(each)


def test_the_ice_credentials_of_a_known_secret_never_change_within_version_1() -> None:
    assert derive_ice_credentials(bytes(32), bytes(16)).caller.ufrag == "palKyyzR"


@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_changed_bit_of_an_offer_is_noticed(position: int, bit: int) -> None:
    sealed = bytearray(offer_of(caller()))
    sealed[position % len(sealed)] ^= 1 << bit
    with refused(SealFault.CANNOT_OPEN):
        callee(bytes(sealed))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_never_raise_anything_else(data: bytes) -> None:
    with refused(SealFault.CANNOT_OPEN):
        callee(data)


@given(st.binary(max_size=300))
def test_nonsense_sealed_by_somebody_to_the_right_key_is_refused(data: bytes) -> None:
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    info = b"knothole/1 sealed\x00offer\x00" + CALL_ID  # docs/protocol/signal.md Section 6.2
    for plaintext in (data, len(data).to_bytes(4, "big") + data):
        sealed = suite.encrypt(plaintext, BOB.sealing_private_key.public_key(), info)
        with refused(SealFault.MALFORMED):
            callee(sealed)


def test_an_offer_to_bob_is_of_no_use_to_carol() -> None:
    with refused(SealFault.CANNOT_OPEN):
        callee(offer_of(caller()), identity=MALLORY, name="carol")


def test_an_offer_for_bob_sealed_to_carols_swapped_key_says_whom_it_was_meant_for() -> None:
    swapped = offer_of(caller(peer=MALLORY.keys("bob")))
    with refused(SealFault.WRONG_RECIPIENT) as caught:
        callee(swapped, identity=MALLORY, name="carol")
    assert "meant for bob, not for carol" in str(caught.value)


def test_an_offer_under_another_call_id_cannot_be_opened() -> None:
    with refused(SealFault.CANNOT_OPEN):
        callee(offer_of(caller()), call_id=b"another call id.")


def test_an_offer_under_another_name_or_key_than_the_callers_is_refused() -> None:
    sealed = offer_of(caller())
    with refused(SealFault.WRONG_SENDER):
        callee(sealed, from_name="mallory")
    with refused(SealFault.WRONG_SENDER):
        callee(sealed, from_key=MALLORY.public_key)


def test_an_offer_in_somebody_elses_name_needs_that_persons_signature() -> None:
    forged = Statement(
        kind=ContentKind.OFFER,
        call_id=CALL_ID,
        from_name="alice",
        from_key=ALICE.public_key,
        to_name="bob",
        to_key=BOB.public_key,
        body=encode_content(CallOffer(bytes(32), ALICE.sealing_key, bytes(32), "call")),
    )
    with refused(SealFault.BAD_SIGNATURE):
        callee(seal_statement(MALLORY, forged, BOB.sealing_key))
    assert callee(seal_statement(ALICE, forged, BOB.sealing_key)).offer.kind == "call"


def test_a_replayed_offer_is_refused_as_long_as_it_is_remembered() -> None:
    sealed, seen = offer_of(caller()), SeenCalls()
    callee(sealed, seen=seen)
    with refused(SealFault.REPLAYED):
        callee(sealed, seen=seen)


def test_only_the_last_calls_are_remembered() -> None:
    seen = SeenCalls(capacity=2)
    assert [seen.remember(b"k", bytes([n])) for n in (1, 2, 2, 3, 1)] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert seen.remember(b"other", bytes([3]))


def test_answers_of_another_call_device_or_person_are_refused() -> None:
    alice = caller()
    sealed = offer_of(alice)
    bob = callee(sealed)
    answer = bob.seal_answer()
    with refused(SealFault.WRONG_SENDER):
        alice.open_answer(LAPTOP, answer)
    with refused(SealFault.CANNOT_OPEN):
        other = caller(seed=99)
        offer_of(other)
        other.open_answer(PHONE, answer)
    with refused(SealFault.CANNOT_OPEN):
        alice.open_trickle(PHONE, answer)
    alice.open_answer(PHONE, answer)
    with refused(SealFault.REPLAYED):
        alice.open_answer(PHONE, answer)


def test_an_answer_to_another_offer_under_the_same_call_id_is_refused() -> None:
    alice = caller()
    bob = callee(offer_of(alice))
    twin = caller()  # same secrets and call id, so only the hash of the sealed offer differs
    offer_of(twin)
    with refused(SealFault.WRONG_CALL):
        twin.open_answer(PHONE, bob.seal_answer())


def test_trickled_candidates_that_come_again_or_out_of_order_are_refused() -> None:
    alice = caller()
    bob = callee(offer_of(alice))
    first, second = alice.seal_trickle((HOST,)), alice.seal_trickle(())
    bob.open_trickle(second)
    for stale in (first, second):
        with refused(SealFault.REPLAYED):
            bob.open_trickle(stale)
    back = bob.seal_trickle(())
    alice.open_trickle(PHONE, back)
    with refused(SealFault.REPLAYED):
        alice.open_trickle(PHONE, back)


def test_a_peer_whose_sealing_key_is_not_its_own_is_not_called() -> None:
    lied = replace(BOB.keys("bob"), sealing_key=MALLORY.sealing_key)
    with refused(SealFault.UNUSABLE_KEY):
        caller(peer=lied)


def test_a_sealing_key_of_low_order_is_refused_and_does_not_crash() -> None:
    zero = bytes(32)
    signature = BOB.sign(b"knothole/1 sealing key", zero)
    with refused(SealFault.UNUSABLE_KEY):
        caller(peer=PeerKeys("bob", BOB.public_key, zero, signature))


def test_a_reply_key_of_low_order_is_refused_and_does_not_crash() -> None:
    statement = Statement(
        kind=ContentKind.OFFER,
        call_id=CALL_ID,
        from_name="alice",
        from_key=ALICE.public_key,
        to_name="bob",
        to_key=BOB.public_key,
        body=encode_content(CallOffer(bytes(32), bytes(32), bytes(32), "call")),
    )
    with refused(SealFault.UNUSABLE_KEY):
        callee(seal_statement(ALICE, statement, BOB.sealing_key))


def test_a_body_of_the_wrong_shape_is_refused() -> None:
    statement = Statement(
        kind=ContentKind.OFFER,
        call_id=CALL_ID,
        from_name="alice",
        from_key=ALICE.public_key,
        to_name="bob",
        to_key=BOB.public_key,
        body=msgspec.msgpack.encode({"secret": b"short"}),
    )
    with refused(SealFault.MALFORMED):
        callee(seal_statement(ALICE, statement, BOB.sealing_key))


def test_the_largest_content_fits_and_a_larger_one_is_our_own_mistake() -> None:
    def statement(size: int) -> Statement:
        return Statement(
            kind=ContentKind.OFFER,
            call_id=CALL_ID,
            from_name="alice",
            from_key=ALICE.public_key,
            to_name="bob",
            to_key=BOB.public_key,
            body=bytes(size),
        )

    def size_of(size: int) -> int:
        return len(seal_statement(ALICE, statement(size), BOB.sealing_key))

    assert size_of(15900) <= MAX_SEALED_BYTES
    with pytest.raises(ValueError, match="too many to be sealed"):
        size_of(MAX_SEALED_BYTES)
    opened = open_statement(
        seal_statement(ALICE, statement(15900), BOB.sealing_key),
        BOB.sealing_private_key,
        kind=ContentKind.OFFER,
        call_id=CALL_ID,
        from_name="alice",
        from_key=ALICE.public_key,
        to_name="bob",
        to_key=BOB.public_key,
        device_id=None,
        about=None,
    )
    assert len(opened.body) == 15900


def test_the_offer_of_a_call_is_sealed_once() -> None:
    alice = caller()
    offer_of(alice)
    with pytest.raises(RuntimeError, match="sealed already"):
        offer_of(alice)


def test_secrets_do_not_show_in_representations() -> None:
    alice = caller()
    bob = callee(offer_of(alice))
    assert "secret" not in repr(bob.offer)
    assert len(alice.words_nonce) == NONCE_BYTES
