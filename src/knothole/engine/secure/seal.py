"""Statements that the server carries and can neither read nor change.

A statement says who speaks to whom in which call, is signed by the speaker's identity and then
sealed to the listener with HPKE (RFC 9180, base mode). Everything the server could lie about
around it (the call id, both names, both keys, the device) stands inside the signature and is
compared on opening. docs/protocol/signal.md Section 6 is the normative text.
"""

from __future__ import annotations

import enum
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from knothole.engine.secure.identity import Identity, verify_signature
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.content import (
    ContentKind,
    SignedStatement,
    Statement,
    decode_signed_statement,
    decode_statement,
    encode_content,
)
from knothole.wire.signal.values import MAX_SEALED_BYTES

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_SEAL_OVERHEAD: Final = 48  # RFC 9180 Section 7: Nenc = 32 (X25519), tag Nt = 16 (ChaCha20Poly1305)
_LENGTH_BYTES: Final = 4
_SMALL_BUCKETS: Final = (256, 512)
_BUCKET: Final = 1024  # ours: sizes say little, and an offer grows by a sixth at most

_SIGNATURE_CONTEXT: Final = b"knothole/1 statement"
_INFO_CONTEXT: Final = b"knothole/1 sealed\x00"


class SealFault(enum.Enum):
    """What was wrong with something sealed."""

    UNUSABLE_KEY = "unusable key"
    CANNOT_OPEN = "cannot open"
    MALFORMED = "malformed"
    WRONG_CALL = "wrong call"
    WRONG_SENDER = "wrong sender"
    WRONG_RECIPIENT = "wrong recipient"
    BAD_SIGNATURE = "bad signature"
    REPLAYED = "replayed"


class SealRefused(Exception):
    """Something sealed is not what it should be: it was altered, redirected, replayed or forged.

    ``fault`` says which; the text says it to a person.
    """

    def __init__(self, fault: SealFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def seal_statement(identity: Identity, statement: Statement, listener_sealing_key: bytes) -> bytes:
    """``statement`` signed by ``identity`` and sealed to ``listener_sealing_key`` (X25519).

    Raises :class:`SealRefused` when the key is none that can be sealed to, and ValueError when
    the statement is too long to be sent.
    """
    encoded = encode_content(statement)
    signature = identity.sign(_SIGNATURE_CONTEXT, encoded)
    plaintext = _pad(encode_content(SignedStatement(encoded, signature)))
    try:
        key = X25519PublicKey.from_public_bytes(listener_sealing_key)
        return _SUITE.encrypt(plaintext, key, _info(statement.kind, statement.call_id))
    except (ValueError, UnsupportedAlgorithm) as error:  # a point of low order, RFC 7748 Section 6
        raise SealRefused(
            SealFault.UNUSABLE_KEY, "the other side's sealing key is not usable"
        ) from error


def open_statement(
    sealed: bytes,
    private_key: X25519PrivateKey,
    *,
    kind: ContentKind,
    call_id: bytes,
    from_name: str,
    from_key: bytes,
    to_name: str,
    to_key: bytes,
    device_id: bytes | None,
    about: bytes | None,
) -> Statement:
    """What is in ``sealed``, when it is exactly the statement that is expected here.

    Raises :class:`SealRefused` and nothing else, whatever ``sealed`` is.
    """
    try:
        plaintext = _SUITE.decrypt(sealed, private_key, _info(kind, call_id))
    except (InvalidTag, ValueError) as error:
        raise SealRefused(
            SealFault.CANNOT_OPEN,
            f"the {kind.value} was not sealed to this key, or was changed on its way",
        ) from error
    try:
        signed = decode_signed_statement(_unpad(plaintext))
        statement = decode_statement(signed.statement)
    except MalformedMessage as error:
        raise SealRefused(SealFault.MALFORMED, f"the {kind.value} makes no sense") from error
    if (statement.kind, statement.call_id, statement.about) != (kind, call_id, about):
        raise SealRefused(SealFault.WRONG_CALL, f"the {kind.value} belongs to another call")
    if (statement.to_name, statement.to_key) != (to_name, to_key):
        raise SealRefused(
            SealFault.WRONG_RECIPIENT,
            f"the {kind.value} was meant for {statement.to_name}, not for {to_name}",
        )
    if (statement.from_name, statement.from_key, statement.device_id) != (
        from_name,
        from_key,
        device_id,
    ):
        raise SealRefused(
            SealFault.WRONG_SENDER, f"the {kind.value} does not come from {from_name}"
        )
    if not verify_signature(from_key, signed.signature, _SIGNATURE_CONTEXT, signed.statement):
        raise SealRefused(SealFault.BAD_SIGNATURE, f"the {kind.value} is not signed by {from_name}")
    return statement


def _info(kind: ContentKind, call_id: bytes) -> bytes:
    return _INFO_CONTEXT + kind.value.encode("ascii") + b"\x00" + call_id


def _pad(content: bytes) -> bytes:
    length = _LENGTH_BYTES + len(content)
    bucket = next((size for size in _SMALL_BUCKETS if length <= size), None)
    padded = bucket or -(-length // _BUCKET) * _BUCKET
    padded = min(padded, MAX_SEALED_BYTES - _SEAL_OVERHEAD)
    if length > padded:
        raise ValueError(f"{len(content)} bytes are too many to be sealed in one message")
    return (len(content).to_bytes(_LENGTH_BYTES, "big") + content).ljust(padded, b"\x00")


def _unpad(plaintext: bytes) -> bytes:
    length = int.from_bytes(plaintext[:_LENGTH_BYTES], "big")
    if len(plaintext) < _LENGTH_BYTES + length:
        raise MalformedMessage("sealed content is shorter than it says")
    return plaintext[_LENGTH_BYTES : _LENGTH_BYTES + length]
