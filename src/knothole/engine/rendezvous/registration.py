"""The signature that proves who registers (docs/protocol/signal.md Section 5.1)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from knothole.engine.secure.identity import Identity, PeerKeys, verify_signature
from knothole.wire.signal.messages import Register
from knothole.wire.signal.values import ANYONE, NOBODY, VERSION, Audience

_CONTEXT: Final = b"knothole/1 register"


def make_register(
    *,
    identity: Identity,
    name: str,
    device_id: bytes,
    nonce: bytes,
    server_pin: bytes,
    disclosure: Audience = NOBODY,
    visible_to: Audience = ANYONE,
    callable: bool = True,
    invitation: str | None = None,
) -> Register:
    """The answer to a challenge with ``nonce`` from the server whose TLS key hashes to
    ``server_pin``, both of 32 bytes."""
    signed = _signed_bytes(
        nonce, server_pin, device_id, identity.public_key, identity.sealing_key, name
    )
    return Register(
        version=VERSION,
        name=name,
        public_key=identity.public_key,
        sealing_key=identity.sealing_key,
        sealing_signature=identity.sealing_signature,
        device_id=device_id,
        signature=identity.sign(_CONTEXT, signed),
        disclosure=disclosure,
        visible_to=visible_to,
        callable=callable,
        invitation=invitation,
    )


def is_signed(register: Register, nonce: bytes, server_pins: Collection[bytes]) -> bool:
    """True when the owner of the key signed for this very challenge and for this server."""
    keys = PeerKeys(
        register.name, register.public_key, register.sealing_key, register.sealing_signature
    )
    return keys.verify() and any(
        verify_signature(
            register.public_key,
            register.signature,
            _CONTEXT,
            _signed_bytes(
                nonce,
                pin,
                register.device_id,
                register.public_key,
                register.sealing_key,
                register.name,
            ),
        )
        for pin in server_pins
    )


def _signed_bytes(
    nonce: bytes,
    server_pin: bytes,
    device_id: bytes,
    public_key: bytes,
    sealing_key: bytes,
    name: str,
) -> bytes:
    for part, size in ((nonce, 32), (server_pin, 32), (device_id, 16)):
        if len(part) != size:
            raise ValueError("nonce and server pin have 32 bytes, a device id 16")
    # All but the name have a fixed length, so that no two registrations give the same bytes.
    return nonce + server_pin + device_id + public_key + sealing_key + name.encode("utf-8")
