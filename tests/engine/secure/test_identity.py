from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.secure.identity import (
    Identity,
    MalformedIdentity,
    PeerKeys,
    fingerprint,
    verify_signature,
)


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


ALICE = Identity.generate(seeded(1))
BOB = Identity.generate(seeded(2))


def test_the_same_randomness_gives_the_same_identity() -> None:
    assert Identity.generate(seeded(1)).public_key == ALICE.public_key
    assert ALICE.public_key != BOB.public_key
    assert ALICE.sealing_key != BOB.sealing_key


def test_an_identity_comes_back_from_its_bytes_whole() -> None:
    again = Identity.from_bytes(ALICE.to_bytes())
    assert again.keys("alice") == ALICE.keys("alice")
    assert again.to_bytes() == ALICE.to_bytes()


def test_identity_files_with_something_wrong_say_what() -> None:
    pem = ALICE.to_bytes()
    first = pem[: pem.index(b"-----END PRIVATE KEY-----\n") + 26]
    with pytest.raises(MalformedIdentity, match="must hold an Ed25519 and an X25519"):
        Identity.from_bytes(b"")
    with pytest.raises(MalformedIdentity, match="must hold"):
        Identity.from_bytes(first)
    with pytest.raises(MalformedIdentity, match="another key"):
        Identity.from_bytes(pem + first)
    with pytest.raises(MalformedIdentity, match="unreadable"):
        Identity.from_bytes(pem.replace(b"MC4C", b"MC4D", 1))


def test_an_encrypted_or_foreign_key_is_refused_as_malformed() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    foreign = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(MalformedIdentity, match="another key"):
        Identity.from_bytes(ALICE.to_bytes() + foreign)


@given(st.binary(max_size=400))
def test_any_bytes_give_an_identity_or_the_one_error(data: bytes) -> None:
    for candidate in (
        data,
        b"-----BEGIN PRIVATE KEY-----\n" + data + b"\n-----END PRIVATE KEY-----\n",
    ):
        with pytest.raises(MalformedIdentity):
            Identity.from_bytes(candidate)


def test_a_signature_holds_for_its_context_message_and_key_only() -> None:
    signature = ALICE.sign(b"one", b"message")
    assert verify_signature(ALICE.public_key, signature, b"one", b"message")
    assert not verify_signature(ALICE.public_key, signature, b"two", b"message")
    assert not verify_signature(ALICE.public_key, signature, b"one", b"messagf")
    assert not verify_signature(BOB.public_key, signature, b"one", b"message")


def test_a_context_and_message_cannot_be_shifted_into_each_other() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        ALICE.sign(b"one\x00two", b"")


@given(key=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verifying_foreign_bytes_is_false_and_never_raises(key: bytes, signature: bytes) -> None:
    assert not verify_signature(key, signature, b"context", b"message")


def test_a_sealing_key_that_is_not_signed_by_the_person_is_noticed() -> None:
    assert ALICE.keys("alice").verify()
    swapped = PeerKeys("alice", ALICE.public_key, BOB.sealing_key, ALICE.sealing_signature)
    assert not swapped.verify()
    other_signer = PeerKeys("alice", ALICE.public_key, BOB.sealing_key, BOB.sealing_signature)
    assert not other_signer.verify()


@pytest.mark.parametrize(
    "low_order", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
)
def test_a_signed_sealing_key_of_low_order_is_no_key(low_order: bytes) -> None:
    signature = ALICE.sign(b"knothole/1 sealing key", low_order)
    assert not PeerKeys("alice", ALICE.public_key, low_order, signature).verify()


def test_the_representation_shows_the_fingerprint_and_no_secret() -> None:
    text = repr(ALICE)
    assert fingerprint(ALICE.public_key) in text
    secret = ALICE.signing_private_key.private_bytes_raw()
    assert secret.hex() not in text and repr(secret) not in text


def test_the_signing_key_is_a_plain_ed25519_key_for_other_libraries() -> None:
    assert isinstance(ALICE.signing_private_key, Ed25519PrivateKey)
    assert ALICE.signing_private_key.public_key().public_bytes_raw() == ALICE.public_key
    assert ALICE.sealing_private_key.public_key().public_bytes_raw() == ALICE.sealing_key
