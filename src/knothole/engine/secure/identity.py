"""Who somebody is: an Ed25519 key that signs and an X25519 key that others seal to."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from knothole.engine.core import RandomBytes

KEY_BYTES: Final = 32  # RFC 8032 Section 5.1.5 and RFC 7748 Section 5: both curves
SIGNATURE_BYTES: Final = 64  # RFC 8032 Section 5.1.6

_SEALING_CONTEXT: Final = b"knothole/1 sealing key"
_PROBE: Final = X25519PrivateKey.from_private_bytes(b"\x01" * KEY_BYTES)
_PEM_BLOCK: Final = re.compile(
    rb"-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----", re.DOTALL
)


class MalformedIdentity(ValueError):
    """The bytes are no identity; the text says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What is public about somebody: the name with its two keys, the second signed by the first.

    ``name`` is the canonical name on the server that told us, ``public_key`` the Ed25519 key that
    is the person, ``sealing_key`` the X25519 key that offers to this person are sealed to.
    """

    name: str
    public_key: bytes
    sealing_key: bytes
    sealing_signature: bytes

    def verify(self) -> bool:
        """True when the sealing key is signed by the public key and can be sealed to."""
        return can_be_sealed_to(self.sealing_key) and verify_signature(
            self.public_key, self.sealing_signature, _SEALING_CONTEXT, self.sealing_key
        )


class Identity:
    """The private half of a person: all devices of one person hold the same."""

    __slots__ = ("_sealing", "_signing", "public_key", "sealing_key", "sealing_signature")

    def __init__(self, signing: Ed25519PrivateKey, sealing: X25519PrivateKey) -> None:
        self._signing = signing
        self._sealing = sealing
        self.public_key: Final[bytes] = signing.public_key().public_bytes(
            Encoding.Raw, PublicFormat.Raw
        )
        self.sealing_key: Final[bytes] = sealing.public_key().public_bytes(
            Encoding.Raw, PublicFormat.Raw
        )
        self.sealing_signature: Final[bytes] = self.sign(_SEALING_CONTEXT, self.sealing_key)

    @classmethod
    def generate(cls, random: RandomBytes) -> Identity:
        """A new identity from 64 bytes of ``random``."""
        return cls(
            Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES)),
            X25519PrivateKey.from_private_bytes(random(KEY_BYTES)),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Identity:
        """The identity that :meth:`to_bytes` wrote. Raises :class:`MalformedIdentity`."""
        signing: Ed25519PrivateKey | None = None
        sealing: X25519PrivateKey | None = None
        for block in _PEM_BLOCK.findall(data):
            try:
                key = load_pem_private_key(block + b"\n", password=None)
            except Exception as error:  # the loader raises several kinds for foreign bytes
                raise MalformedIdentity("the identity file has an unreadable key in it") from error
            if isinstance(key, Ed25519PrivateKey) and signing is None:
                signing = key
            elif isinstance(key, X25519PrivateKey) and sealing is None:
                sealing = key
            else:
                raise MalformedIdentity(
                    "the identity file holds another key than one Ed25519 and one X25519 key"
                )
        if signing is None or sealing is None:
            raise MalformedIdentity(
                "the identity file must hold an Ed25519 and an X25519 private key in PEM"
            )
        return cls(signing, sealing)

    def to_bytes(self) -> bytes:
        """Both private keys as two unencrypted PKCS #8 PEM blocks (RFC 8410), signing key first."""
        return b"".join(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            for key in (self._signing, self._sealing)
        )

    @property
    def signing_private_key(self) -> Ed25519PrivateKey:
        """The private key itself, for the TLS certificate inside QUIC."""
        return self._signing

    @property
    def sealing_private_key(self) -> X25519PrivateKey:
        """The private key that opens what others sealed to us."""
        return self._sealing

    def sign(self, context: bytes, message: bytes) -> bytes:
        """The Ed25519 signature over ``context``, a zero byte and ``message``.

        Every use has a ``context`` of its own (no zero byte in it), so that no signature made for
        one purpose can be taken for another.
        """
        return self._signing.sign(_with_context(context, message))

    def keys(self, name: str) -> PeerKeys:
        """The public half, as others see it under ``name``."""
        return PeerKeys(name, self.public_key, self.sealing_key, self.sealing_signature)

    def __repr__(self) -> str:
        return f"Identity({fingerprint(self.public_key)})"


def verify_signature(public_key: bytes, signature: bytes, context: bytes, message: bytes) -> bool:
    """True when :meth:`Identity.sign` of the holder of ``public_key`` made ``signature``.

    Foreign bytes of any length and content give False, never an exception.
    """
    data = _with_context(context, message)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def can_be_sealed_to(sealing_key: bytes) -> bool:
    """False for what is no X25519 key or one of low order, which shares its secret with everybody
    (RFC 7748 Section 6.1: the check for the all-zero value)."""
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(sealing_key))
    except ValueError:
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """A key as people and logs name it: ``SHA256:`` and unpadded base64, the way ssh writes it."""
    digest = hashlib.sha256(public_key).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def _with_context(context: bytes, message: bytes) -> bytes:
    if b"\x00" in context:
        raise ValueError("a signature context must not contain a zero byte")
    return context + b"\x00" + message
