"""The X.509 certificate that carries an identity key through TLS."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from knothole.engine.secure.identity import KEY_BYTES

# RFC 8410 Section 4: SubjectPublicKeyInfo of Ed25519 is this and the 32 bytes of the key.
_SUBJECT_PUBLIC_KEY_INFO: Final = bytes.fromhex("302a300506032b6570032100")

# Nobody reads the dates: the key is pinned. RFC 5280 Section 4.1.2.5: the last date means
# "no well-defined expiration date".
_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class SigningIdentity(Protocol):
    """What a channel needs of an :class:`~knothole.engine.secure.identity.Identity`."""

    @property
    def public_key(self) -> bytes: ...
    @property
    def signing_private_key(self) -> Ed25519PrivateKey: ...
    def sign(self, context: bytes, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ChannelCertificate:
    """A self-signed certificate of an identity key, and the private key, both in PEM."""

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)


def make_certificate(identity: SigningIdentity) -> ChannelCertificate:
    """The certificate that carries ``identity``'s key through TLS; the same key, the same bytes.

    It names nobody: the key is all that the other side looks at, and whoever sees the certificate
    is to learn no more.
    """
    key = identity.signing_private_key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "knothole")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 + int.from_bytes(hashlib.sha256(identity.public_key).digest()[:8]))
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(key, None)
    )
    return ChannelCertificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def identity_key(subject_public_key_info: bytes) -> bytes | None:
    """The 32 bytes of the Ed25519 key in a certificate's key field, None for any other key."""
    if len(subject_public_key_info) != len(_SUBJECT_PUBLIC_KEY_INFO) + KEY_BYTES:
        return None
    if not subject_public_key_info.startswith(_SUBJECT_PUBLIC_KEY_INFO):
        return None
    return subject_public_key_info[len(_SUBJECT_PUBLIC_KEY_INFO) :]
