"""A few words that are the same at both ends unless somebody stands in between.

Trust on first use cannot tell a server that swapped both keys from an honest one. Words read
aloud can: they are a hash over both keys and two nonces. The caller commits to its nonce in the
offer, the callee shows its own in the answer, then the caller reveals. Somebody in between must
choose what it shows to one side before it knows what the other side will reveal, so it gets one
guess among 2**32 a call (the same order as in ZRTP, RFC 6189 Section 4.4.1.1).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from knothole.engine.secure.wordlist import COMPARISON_WORDS

WORD_COUNT: Final = 4  # ours: 32 bits; two more would not make people compare them more often
NONCE_BYTES: Final = 32

_COMMITMENT_CONTEXT: Final = b"knothole/1 words commitment\x00"
_WORDS_CONTEXT: Final = b"knothole/1 words\x00"


def words_commitment(caller_nonce: bytes) -> bytes:
    """What the offer says of the caller's nonce: a hash of 32 bytes that binds and hides it.

    Raises ValueError when the nonce is not 32 bytes, since a short one could be guessed.
    """
    _require(caller_nonce, "nonce")
    return hashlib.sha256(_COMMITMENT_CONTEXT + caller_nonce).digest()


def opens_commitment(commitment: bytes, caller_nonce: bytes) -> bool:
    """True when ``caller_nonce``, as it was revealed, is the one the offer committed to."""
    if len(caller_nonce) != NONCE_BYTES:
        return False
    return hmac.compare_digest(words_commitment(caller_nonce), commitment)


def comparison_words(
    caller_key: bytes, callee_key: bytes, caller_nonce: bytes, callee_nonce: bytes
) -> tuple[str, ...]:
    """The four words both people see, from both Ed25519 keys and both nonces (32 bytes each).

    Use the keys that QUIC authenticated, not the ones a server named. Raises ValueError for a
    value of another length.
    """
    parts = (caller_key, callee_key, caller_nonce, callee_nonce)
    for part in parts:
        _require(part, "key and nonce")
    digest = hashlib.sha256(_WORDS_CONTEXT + b"".join(parts)).digest()
    return tuple(COMPARISON_WORDS[byte] for byte in digest[:WORD_COUNT])


def _require(value: bytes, what: str) -> None:
    if len(value) != NONCE_BYTES:
        raise ValueError(f"a {what} of the comparison words has {NONCE_BYTES} bytes")
