"""The server's TLS certificate: its own, made at the first start and pinned, or the operator's."""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

VALID_DAYS: Final = 3650  # clients pin the key, not the dates: ours

ALPN: Final = ["http/1.1", "stun.turn"]  # WebSocket (RFC 6455) and TURN (RFC 7443)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate chain with its key, both PEM files.

    ``pinned`` says that clients know this server by its key alone (it made the certificate
    itself); otherwise they verify the chain and the host name as usual.
    """

    chain: Path
    key: Path
    pinned: bool

    def public_key_info(self) -> bytes:
        """The SubjectPublicKeyInfo (RFC 5280 Section 4.1.2.7) in DER: what the PIN is made of."""
        from cryptography.hazmat.primitives.serialization import PublicFormat

        certificate = x509.load_pem_x509_certificate(self.chain.read_bytes())
        return certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.chain, self.key)
        context.set_alpn_protocols(ALPN)
        return context


def own_certificate(folder: Path) -> ServerCertificate:
    """The self-signed certificate in ``folder``, made there when it is the first start.

    The key file is readable for its owner alone. Raises OSError when the folder cannot be used.
    """
    chain, key = folder / "server-cert.pem", folder / "server-key.pem"
    if not (chain.exists() and key.exists()):
        folder.mkdir(parents=True, exist_ok=True)
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
        _write_private(
            key, private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    return ServerCertificate(chain, key, pinned=True)


def _write_private(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    partial.replace(path)
