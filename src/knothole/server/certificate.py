"""The server's TLS certificate: its own, made at the first start and pinned, or the operator's."""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from knothole.server.tls_context import ALPN_TURN, ALPN_WEBSOCKET, server_context

VALID_DAYS: Final = 3650  # clients pin the key, not the dates: ours


class CertificateError(Exception):
    """The certificate cannot be used; the text names the file and says why."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate chain with its key, both PEM files that fit each other.

    ``pinned`` says that clients know this server by its key alone (it made the certificate
    itself); otherwise they verify the chain and the host name as usual. ``key_hash`` is the
    SHA-256 of the SubjectPublicKeyInfo (RFC 7469 Section 2.4): the PIN.
    """

    chain: Path
    key: Path
    pinned: bool
    key_hash: bytes
    context: ssl.SSLContext


def load_certificate(chain: Path, key: Path, *, pinned: bool) -> ServerCertificate:
    """The certificate in these two files. Raises CertificateError."""
    for path in (chain, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
    try:
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
    except ValueError as error:
        raise CertificateError(f"{chain} is not a certificate in PEM form") from error
    try:
        context = server_context(chain, key, (ALPN_WEBSOCKET, ALPN_TURN))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"{key} is not the key of the certificate in {chain}"
        else:
            reason = f"{key} is not a private key in PEM form without a pass phrase"
        raise CertificateError(reason) from error
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ServerCertificate(chain, key, pinned, hashlib.sha256(info).digest(), context)


def own_certificate(folder: Path) -> ServerCertificate:
    """The self-signed certificate in ``folder``, made there when it is the first start.

    The key file is readable for its owner alone. Raises OSError when the folder cannot be used,
    CertificateError when what lies there is damaged: a new key would lock all clients out.
    """
    chain, key = folder / "server-cert.pem", folder / "server-key.pem"
    if not chain.exists():
        _make(chain, key)
    return load_certificate(chain, key, pinned=True)


def _make(chain: Path, key: Path) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "knothole server")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=VALID_DAYS))
        .sign(private_key, hashes.SHA256())
    )
    _write(key, private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    # Last, because it is what says that both are there.
    _write(chain, certificate.public_bytes(Encoding.PEM))


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and for its owner alone."""
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
