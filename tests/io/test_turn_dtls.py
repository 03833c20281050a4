"""Our DTLS client: whom it believes."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from knothole.engine.core import Datagram
from knothole.io.tls import PinMismatch, subject_key_hash
from knothole.io.turn_dtls import TurnDtls, is_named
from knothole.io.udp import open_udp
from knothole.server.dtls import DtlsConnection, DtlsServer
from knothole.wire.address import Address, Transport

HOST = "127.0.0.1"
PATIENCE = 40.0


def certificate_for(*names: str, key: ec.EllipticCurvePrivateKey | None = None) -> x509.Certificate:
    """Signed by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        for name in names
    ]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=20_000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if alternatives:
        built = built.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return built.sign(key, hashes.SHA256())


class EchoServer:
    """A :class:`DtlsServer` on a socket that sends back what it gets."""

    async def start(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certificate_for("turn.test", HOST, key=key)
        self.pem = folder / "server.pem"
        self.pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self.pin = subject_key_hash(certificate)
        self.link = await open_udp(Address(HOST, 0), self._receive)
        self.dtls = DtlsServer(
            str(self.pem),
            str(self.pem),
            send=self.link.send,
            on_message=self._message,
            on_closed=lambda _: None,
        )

    def _receive(self, datagrams: Sequence[Datagram]) -> None:
        for datagram in datagrams:
            self.dtls.receive(datagram)

    def _message(self, connection: DtlsConnection, messages: Sequence[bytes]) -> None:
        for each in messages:
            connection.send(each)

    def close(self) -> None:
        self.dtls.close()
        self.link.close()


class Client:
    def __init__(self, server: EchoServer) -> None:
        self.received: list[Datagram] = []
        self.closed = asyncio.Event()
        self.arrived = asyncio.Event()
        self.link = TurnDtls(server.link.address, self._receive, lambda _: self.closed.set())

    def _receive(self, datagram: Datagram) -> None:
        self.received.append(datagram)
        self.arrived.set()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EchoServer]:
    made = EchoServer()
    await made.start(tmp_path)
    yield made
    made.close()
    await asyncio.sleep(0)


@pytest.fixture
async def client(server: EchoServer) -> AsyncIterator[Client]:
    made = Client(server)
    yield made
    made.link.close()
    await asyncio.sleep(0)


async def test_messages_go_there_and_come_back(server: EchoServer, client: Client) -> None:
    await client.link.open(server_name="", pin=server.pin)
    local, remote = client.link.local, client.link.server
    client.link.send(Datagram(local, remote, b"hello", transport=Transport.DTLS))
    await asyncio.wait_for(client.arrived.wait(), PATIENCE)
    assert client.received == [Datagram(remote, local, b"hello", transport=Transport.DTLS)]


async def test_the_end_of_the_association_is_told(server: EchoServer, client: Client) -> None:
    await client.link.open(server_name="", pin=server.pin)
    server.dtls.close()
    await asyncio.wait_for(client.closed.wait(), PATIENCE)


async def test_another_key_than_the_pinned_one_is_refused(
    server: EchoServer, client: Client
) -> None:
    with pytest.raises(PinMismatch):
        await client.link.open(server_name="", pin=bytes(32))
    assert not client.closed.is_set()


@pytest.mark.parametrize("name", ["turn.test", HOST])
async def test_a_certificate_that_somebody_trusted_vouches_for_is_believed(
    server: EchoServer, client: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.pem))
    await client.link.open(server_name=name, pin=None)


async def test_a_certificate_for_another_name_is_refused(
    server: EchoServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.pem))
    with pytest.raises(ssl.SSLError, match=r"not for other\.test"):
        await client.link.open(server_name="other.test", pin=None)


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    server: EchoServer, client: Client
) -> None:
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        await client.link.open(server_name="turn.test", pin=None)


@pytest.mark.parametrize(
    ("names", "host", "named"),
    [
        (["turn.test"], "turn.test", True),
        (["turn.test"], "TURN.test.", True),
        (["turn.test"], "a.turn.test", False),
        (["*.turn.test"], "a.turn.test", True),
        (["*.turn.test"], "a.b.turn.test", False),
        (["*.turn.test"], "turn.test", False),
        (["*.test"], "turn.test", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["turn.test"], "192.0.2.1", False),
        ([], "turn.test", False),
    ],
)
def test_a_name_is_a_whole_name_or_one_label_for_a_star(
    names: list[str], host: str, named: bool
) -> None:
    assert is_named(certificate_for(*names), host) is named
