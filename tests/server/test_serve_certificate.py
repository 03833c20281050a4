"""The operator's own certificate: clients verify it as usual, and no PIN is needed."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import knothole
from knothole.engine.endpoint.servers import Resolver
from knothole.wire.server_url import parse_server_url
from knothole.wire.signal.values import TurnService

KEY_USES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]

CONFIG = """
name = "localhost"
[tls]
certificate = "chain.pem"
key = "key.pem"
"""


def make_certificate(
    folder: Path, *, valid_days: int = 30, names: tuple[str, ...] = ("localhost",)
) -> Path:
    """A CA of our own, and a certificate by it for ``names``; the CA's file."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])

    def build(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=valid_days))
        )

    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca_use = dict.fromkeys(KEY_USES, False) | {"key_cert_sign": True, "crl_sign": True}
    ca = (
        build(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**ca_use), critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        build(x509.Name([]), key.public_key())
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "chain.pem").write_bytes(
        leaf.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM)
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "server.toml").write_text(CONFIG + '\n[relay]\nexternal = ["127.0.0.1"]\n')
    return folder / "ca.pem"


async def test_clients_verify_the_operators_certificate_as_usual(
    serve, clients, tmp_path, monkeypatch
) -> None:
    ca = make_certificate(tmp_path)
    server = serve("--config", str(tmp_path / "server.toml")).ready()
    url = parse_server_url(server.url)
    assert url.host == "localhost"
    assert url.pin is None
    assert "#" not in server.url

    with pytest.raises(knothole.KnotholeError, match="cannot be verified"):
        await clients.peer(server.url, "alice")

    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    await clients.is_served(server.url, "alice")

    # The same server under a name that its certificate does not have.
    other = server.url.replace("localhost", "127.0.0.1")
    with pytest.raises(knothole.KnotholeError, match="cannot be verified"):
        await clients.peer(other, "bob")


async def test_the_relay_over_tls_is_verified_in_the_same_way(
    serve, clients, tmp_path, monkeypatch
) -> None:
    """UDP is taken away, so that the client needs a stream to the relay."""
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path)))
    monkeypatch.setattr(Resolver, "set_services", without_udp(Resolver.set_services))
    server = serve("--config", str(tmp_path / "server.toml")).ready()
    peer = await clients.relayed(server.url, "alice")
    assert not peer.endpoint.gatherer.udp_works


def without_udp(set_services):
    def only_streams(self, stun, turn: tuple[TurnService, ...]):
        only_tls = tuple(
            TurnService(
                uris=tuple(uri for uri in service.uris if uri.startswith("turns:")),
                username=service.username,
                password=service.password,
                realm=service.realm,
                lifetime_seconds=service.lifetime_seconds,
            )
            for service in turn
        )
        set_services(self, (), only_tls)

    return only_streams


async def test_an_expired_certificate_is_refused_by_clients(
    serve, clients, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path, valid_days=-1)))
    server = serve("--config", str(tmp_path / "server.toml")).ready()
    with pytest.raises(knothole.KnotholeError, match="cannot be verified"):
        await clients.peer(server.url, "alice")
