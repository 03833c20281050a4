"""TLS to the switchboard: pinned by key where it made its own certificate, else as usual."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ALPN_WEBSOCKET: Final = "http/1.1"
ALPN_TURN: Final = "stun.turn"  # RFC 7443 Section 3


class PinMismatch(ssl.SSLError):
    """The server proved a key, and it is not the pinned one."""


def client_context(*, pinned: bool, alpn: str) -> ssl.SSLContext:
    """A context for one connection; with ``pinned``, :func:`check_pin` must follow the handshake.

    A pinned server proves its key in the handshake all the same: what is left out is only the
    question of who vouches for it.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([alpn])
    if pinned:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def check_pin(transport: asyncio.BaseTransport, pin: bytes) -> None:
    """Raise PinMismatch unless the peer's certificate has the pinned key.

    ``pin`` is the SHA-256 of the SubjectPublicKeyInfo in DER (as in RFC 7469 Section 2.4).
    """
    if not hmac.compare_digest(key_hash(transport), pin):
        raise PinMismatch("the server's key is not the pinned one")


def key_hash(transport: asyncio.BaseTransport) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of the server at the other end of ``transport``."""
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if not certificate:
        raise PinMismatch("the server showed no certificate")
    return subject_key_hash(x509.load_der_x509_certificate(certificate))


def subject_key_hash(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of ``certificate``."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()
