"""How each end of a channel proves its identity key.

TLS as the QUIC library speaks it authenticates the server only. So the client compares the key of
the server's certificate with the one it expects, and proves its own in its first bytes on stream
0: a signature over both keys, the hash of its first flight and both nonces of the comparison words
(docs/protocol/connection.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from knothole.engine.secure.certificate import SigningIdentity, identity_key
from knothole.engine.secure.control import NONCE_BYTES, Proof
from knothole.engine.secure.identity import verify_signature
from knothole.engine.secure.words import opens_commitment

PROOF_CONTEXT: Final = b"knothole/1 client proof"


class NotAuthentic(Exception):
    """The peer is not who it should be; the text says what did not match."""


@dataclass(frozen=True, slots=True)
class Parties:
    """Who is at both ends, once that is proven. The nonces are those of the comparison words."""

    server_key: bytes
    client_key: bytes
    client_nonce: bytes
    server_nonce: bytes


class Authentication(Protocol):
    """What a channel asks of either half."""

    def prove(self, certificate_key: bytes | None) -> tuple[Parties, Proof] | None:
        """Called when the handshake is complete: who is there, and the proof to send, if any."""

    def verify(self, proof: Proof) -> Parties:
        """Called when a proof comes: who is there. Raises :class:`NotAuthentic`."""


class ClientAuthentication:
    """The client's half: knows what it offered, learns whom to expect, then proves itself."""

    def __init__(
        self, identity: SigningIdentity, client_nonce: bytes, first_flight: Sequence[bytes]
    ) -> None:
        _require_nonce(client_nonce)
        self._identity = identity
        self._client_nonce = client_nonce
        self._flight_hash = first_flight_hash(first_flight)
        self._expected: tuple[bytes, bytes] | None = None

    def expect(self, server_key: bytes, server_nonce: bytes) -> None:
        """What the answer told. The client's nonce stays secret until the server's is fixed."""
        _require_nonce(server_nonce)
        if self._expected not in (None, (server_key, server_nonce)):
            raise ValueError("another server is expected already")
        self._expected = (server_key, server_nonce)

    def prove(self, certificate_key: bytes | None) -> tuple[Parties, Proof] | None:
        """Who is there, and the proof to send; None before :meth:`expect`.

        ``certificate_key`` is the SubjectPublicKeyInfo that the server showed in a completed
        handshake. Raises :class:`NotAuthentic` when it is not the key expected.
        """
        if self._expected is None:
            return None
        server_key, server_nonce = self._expected
        if certificate_key is None or identity_key(certificate_key) != server_key:
            raise NotAuthentic("the other side's key is not the one expected")
        parties = Parties(server_key, self._identity.public_key, self._client_nonce, server_nonce)
        text = _proof_text(parties, self._flight_hash)
        return parties, Proof(self._client_nonce, self._identity.sign(PROOF_CONTEXT, text))

    def verify(self, proof: Proof) -> Parties:
        """Never: a server proves itself by its certificate."""
        raise NotAuthentic("the server sent a client's proof")


class ServerAuthentication:
    """The server's half: knows the offer, judges the proof."""

    def __init__(
        self,
        server_key: bytes,
        client_key: bytes,
        first_flight: Sequence[bytes],
        commitment: bytes,
        server_nonce: bytes,
    ) -> None:
        _require_nonce(server_nonce)
        self._server_key = server_key
        self._client_key = client_key
        self._flight_hash = first_flight_hash(first_flight)
        self._commitment = commitment
        self._server_nonce = server_nonce

    def prove(self, certificate_key: bytes | None) -> tuple[Parties, Proof] | None:
        """Nothing: the client shows no certificate, its proof says who it is."""
        return None

    def verify(self, proof: Proof) -> Parties:
        """Who is there. Raises :class:`NotAuthentic`."""
        if not opens_commitment(self._commitment, proof.client_nonce):
            raise NotAuthentic("the caller's nonce is not the one its offer committed to")
        parties = Parties(
            self._server_key, self._client_key, proof.client_nonce, self._server_nonce
        )
        text = _proof_text(parties, self._flight_hash)
        if not verify_signature(self._client_key, proof.signature, PROOF_CONTEXT, text):
            raise NotAuthentic("the caller's proof is not signed by the key of its offer")
        return parties


def first_flight_hash(datagrams: Sequence[bytes]) -> bytes:
    """SHA-256 over the datagrams of a first flight, each preceded by its length in two bytes."""
    digest = hashlib.sha256()
    for datagram in datagrams:
        digest.update(len(datagram).to_bytes(2))
        digest.update(datagram)
    return digest.digest()


def _proof_text(parties: Parties, flight_hash: bytes) -> bytes:
    """What the client signs; five times 32 bytes, so that it has one reading.

    The hash binds the proof to this one handshake: only the holder of the server's key can have
    answered that first flight, and only it can read the proof.
    """
    parts = (
        parties.server_key,
        parties.client_key,
        flight_hash,
        parties.client_nonce,
        parties.server_nonce,
    )
    return b"".join(parts)


def _require_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
