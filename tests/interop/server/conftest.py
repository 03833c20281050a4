"""Our server as a program, with a certificate that other programs can verify, and credentials."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ...ports import free_port
from ...server.conftest import serving

HOST, HOST6 = "127.0.0.1", "::1"
PATIENCE = 60.0
"""Seconds after which something that should have happened has not."""


@dataclass(frozen=True)
class Relay:
    """A server of ours, and what a client needs to use it."""

    host: str
    port: int
    username: str
    password: str
    authority: Path

    @property
    def uris(self) -> dict[str, str]:
        """By how the client reaches it."""
        where = f"{self.host}:{self.port}"
        return {
            "udp": f"turn:{where}?transport=udp",
            "tcp": f"turn:{where}?transport=tcp",
            "tls": f"turns:{where}?transport=tcp",
        }

    @property
    def environment(self) -> dict[str, str]:
        """For command lines as docs/interop.md shows them; OpenSSL and Go trust its authority."""
        return {
            **os.environ,
            "SERVER": self.host,
            "PORT": str(self.port),
            "USERNAME": self.username,
            "PASSWORD": self.password,
            "SSL_CERT_FILE": str(self.authority),
        }


@pytest.fixture(scope="package")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One server on loopback for all tests here, for peers on loopback too."""
    peers = 'allow-peers = ["127.0.0.0/8", "::1/128"]'
    with running_relay(
        tmp_path_factory.mktemp("relay"), [HOST, HOST6], free_port(), peers
    ) as started:
        yield started


@contextlib.contextmanager
def running_relay(
    folder: Path,
    hosts: Sequence[str],
    port: int,
    further: str = "",
    *,
    popen: Callable[..., Any] = subprocess.Popen,
) -> Iterator[Relay]:
    """``knothole serve`` at these addresses; ``further`` lines stand under ``[relay]``."""
    authority = write_certificates(folder, hosts)
    (folder / "server.toml").write_text(
        f'host = {json.dumps(hosts)}\nport = {port}\nname = "{hosts[0]}"\ndata = "data"\n'
        '[tls]\ncertificate = "chain.pem"\nkey = "key.pem"\n'
        f"[relay]\nallocations-per-user = 256\n{further}\n"
    )
    with serving(folder) as start:
        server = start("--config", str(folder / "server.toml"), host="", popen=popen).ready()
        username, password = mint(server.url, folder, authority, popen)
        yield Relay(hosts[0], port, username, password, authority)


_MINT = """
import asyncio, json, pathlib, sys, knothole
from knothole.peer.profile import Profile
from knothole.wire.server_url import parse_server_url

async def main(url, folder):
    profile = Profile.create(pathlib.Path(folder), "alice", parse_server_url(url))
    profile.save()
    async with knothole.Peer(profile) as peer:
        while not (found := peer.endpoint._resolver.servers().turn):
            await asyncio.sleep(0.05)
        print(json.dumps([found[0].credentials.username, found[0].credentials.password]))

asyncio.run(main(*sys.argv[1:]))
"""


def mint(url: str, folder: Path, authority: Path, popen: Callable[..., Any]) -> tuple[str, str]:
    """Credentials of that server, as a registered client is given them."""
    process = popen(
        [sys.executable, "-c", _MINT, url, str(folder / "alice")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SSL_CERT_FILE": str(authority)},
    )
    told, _ = process.communicate(timeout=PATIENCE)
    username, password = json.loads(told)
    return username, password


def write_certificates(folder: Path, hosts: Sequence[str]) -> Path:
    """``chain.pem`` and ``key.pem`` for these addresses; the authority that has signed them."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("knothole test authority", authority_key, authority_key)
    certificate = _certificate("knothole test", key, authority_key, authority, hosts)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "chain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path = folder / "authority.pem"
    path.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return path


def _certificate(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None = None,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if hosts:
        names = [x509.IPAddress(ip_address(host)) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
