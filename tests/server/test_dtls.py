"""DTLS clients of the relay, in memory: what they must show, and what is kept of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from OpenSSL import SSL

from knothole.engine.core import Datagram
from knothole.io.dtls import HANDSHAKE_MTU, MAX_PAYLOAD, DtlsSession, dtls_context
from knothole.io.tls import subject_key_hash
from knothole.server import dtls
from knothole.server.certificate import ServerCertificate, own_certificate
from knothole.server.dtls import DtlsConnection, DtlsServer
from knothole.wire.address import Address, Transport

SERVER = Address("192.0.2.1", 3478)
ALICE = Address("198.51.100.7", 40_000)


class Client:
    """A DTLS client whose datagrams go where the test wants them."""

    def __init__(self, server: Server, address: Address, alpn: Sequence[bytes] = ()) -> None:
        self.server, self.address = server, address
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.closed: list[str] = []
        context = dtls_context(SSL.DTLS_CLIENT_METHOD)
        if alpn:
            context.set_alpn_protos(list(alpn))
        self.connection = SSL.Connection(context)
        self.connection.set_connect_state()
        self.connection.set_ciphertext_mtu(HANDSHAKE_MTU)
        self.session = DtlsSession(
            self.connection,
            send=self.sent.append,
            on_open=lambda: None,
            on_closed=self.closed.append,
        )
        self.session.begin()

    def to_server(self) -> int:
        """Let what was sent arrive; how many datagrams that were."""
        datagrams, self.sent[:] = list(self.sent), []
        for each in datagrams:
            self.server.dtls.receive(Datagram(self.address, SERVER, each))
        return len(datagrams)

    def to_client(self) -> int:
        mine = [each for each in self.server.sent if each.destination == self.address]
        for each in mine:
            self.server.sent.remove(each)
            self.received += self.session.receive(each.payload)
        return len(mine)

    def settle(self) -> None:
        """Both ways, until nothing is under way."""
        while self.to_server() + self.to_client():
            pass


class Server:
    """A :class:`DtlsServer` with everything that comes of it."""

    def __init__(self, certificate: ServerCertificate) -> None:
        self.sent: list[Datagram] = []
        self.messages: list[tuple[Address, bytes]] = []
        self.gone: list[Address] = []
        self.connections: dict[Address, DtlsConnection] = {}
        self.clients: list[Client] = []
        self.dtls = DtlsServer(
            str(certificate.chain),
            str(certificate.key),
            send=self.sent.append,
            on_message=self._message,
            on_closed=lambda each: self.gone.append(each.five_tuple.client),
        )

    def _message(self, connection: DtlsConnection, messages: Sequence[bytes]) -> None:
        self.connections[connection.five_tuple.client] = connection
        self.messages += [(connection.five_tuple.client, each) for each in messages]

    def client(self, address: Address = ALICE, alpn: Sequence[bytes] = ()) -> Client:
        self.clients.append(Client(self, address, alpn))
        return self.clients[-1]

    def opened(self, address: Address = ALICE, alpn: Sequence[bytes] = ()) -> Client:
        client = self.client(address, alpn)
        client.settle()
        assert client.session.is_open
        return client

    def half_open(self, address: Address) -> Client:
        """A client that has shown its cookie, and no more."""
        client = self.client(address)
        client.to_server()
        client.to_client()
        client.to_server()
        return client


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return own_certificate(Path(tmp_path_factory.mktemp("certificate")))


@pytest.fixture
async def server(certificate: ServerCertificate) -> AsyncIterator[Server]:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, each: troubles.append(each))
    made = Server(certificate)
    yield made
    made.dtls.close()
    for client in made.clients:
        client.session.abandon()
    assert len(made.dtls) == 0
    assert troubles == []


async def test_a_client_is_let_in_and_each_record_is_one_message(server) -> None:
    client = server.opened()
    client.session.send(b"one")
    client.session.send(b"two" * 400)
    client.settle()
    assert server.messages == [(ALICE, b"one"), (ALICE, b"two" * 400)]
    assert server.connections[ALICE].five_tuple == (Transport.DTLS, ALICE, SERVER)
    server.connections[ALICE].send(b"answer")
    client.settle()
    assert client.received == [b"answer"]
    assert client.connection.get_protocol_version_name() == "DTLSv1.2"
    assert str(client.connection.get_cipher_name()).startswith("ECDHE-")


async def test_before_its_cookie_nothing_is_kept_and_no_answer_is_longer_than_the_question(
    server,
) -> None:
    client = server.client()
    [hello] = client.sent
    for number in range(500):
        server.dtls.receive(Datagram(Address("203.0.113.1", 1024 + number), SERVER, hello))
    assert len(server.dtls) == 0
    assert len(server.sent) == 500
    assert all(len(answer.payload) <= len(hello) for answer in server.sent)
    assert {answer.payload[13] for answer in server.sent} == {3}, "not all are HelloVerifyRequests"


async def test_a_cookie_is_good_for_its_own_address_only(server) -> None:
    client = server.client()
    client.to_server()
    client.to_client()
    [hello] = client.sent
    for other in (Address(ALICE.host, 40_001), Address("198.51.100.8", ALICE.port)):
        server.dtls.receive(Datagram(other, SERVER, hello))
    server.dtls.receive(Datagram(ALICE, Address(SERVER.host, 3479), hello))
    assert len(server.dtls) == 0
    server.sent.clear()
    client.settle()
    assert client.session.is_open


async def test_a_cookie_expires(server, monkeypatch) -> None:
    ahead = [0.0]
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(server.dtls, "_now", lambda: time() + ahead[0])
    client = server.client()
    client.to_server()
    client.to_client()
    [hello] = client.sent
    ahead[0] = 2 * dtls.COOKIE_SECONDS
    server.dtls.receive(Datagram(ALICE, SERVER, hello))
    assert len(server.dtls) == 0
    ahead[0] = 0.0
    server.dtls.receive(Datagram(ALICE, SERVER, hello))
    assert len(server.dtls) == 1


async def test_a_flight_that_is_lost_is_sent_again(server, until) -> None:
    client = server.half_open(ALICE)
    server.sent.clear()  # the ServerHello is lost

    async def pump() -> None:
        while not client.session.is_open:
            client.settle()
            await asyncio.sleep(0.01)

    await asyncio.wait_for(pump(), 40)
    client.session.send(b"after all")
    client.settle()
    assert server.messages == [(ALICE, b"after all")]


async def test_half_open_handshakes_are_bounded_by_network_and_in_all(
    server, until, monkeypatch
) -> None:
    monkeypatch.setattr(dtls, "MAX_WITHOUT_ALLOCATION_OF_NETWORK", 3)
    monkeypatch.setattr(dtls, "MAX_WITHOUT_ALLOCATION", 5)
    for number in range(5):
        server.half_open(Address(f"198.51.100.{number}", 5000))
    assert len(server.dtls) == 3
    server.opened(Address("203.0.113.1", 5000))
    server.half_open(Address("203.0.114.1", 5000))
    assert len(server.dtls) == 5
    server.half_open(Address("203.0.115.1", 5000))
    assert len(server.dtls) == 5


async def test_who_holds_an_allocation_does_not_count_as_half_open(server, monkeypatch) -> None:
    monkeypatch.setattr(dtls, "MAX_WITHOUT_ALLOCATION_OF_NETWORK", 1)
    first = server.opened()
    first.session.send(b"allocate")
    first.settle()
    server.connections[ALICE].is_kept = True
    second = server.opened(Address(ALICE.host, 40_001))
    assert len(server.dtls) == 2
    second.session.close()
    second.settle()
    server.connections[ALICE].is_kept = False
    third = server.half_open(Address(ALICE.host, 40_002))
    assert third.to_client() == 0
    assert len(server.dtls) == 1


async def test_a_handshake_that_is_not_finished_in_time_is_forgotten(
    server, until, monkeypatch
) -> None:
    monkeypatch.setattr(dtls, "HANDSHAKE_SECONDS", 0.05)
    server.half_open(ALICE)
    assert len(server.dtls) == 1
    await until(lambda: len(server.dtls) == 0)
    assert server.gone == [ALICE]


async def test_who_says_nothing_after_the_handshake_is_let_go(server, until, monkeypatch) -> None:
    monkeypatch.setattr(dtls, "FIRST_MESSAGE_SECONDS", 0.05)
    client = server.opened()
    await until(lambda: len(server.dtls) == 0)
    client.settle()
    assert client.closed == ["the other side has closed the DTLS association"]


async def test_who_holds_an_allocation_may_be_silent(server, until, monkeypatch) -> None:
    monkeypatch.setattr(dtls, "FIRST_MESSAGE_SECONDS", 0.01)
    monkeypatch.setattr(dtls, "IDLE_SECONDS", 0.01)
    client = server.opened()
    client.session.send(b"allocate")
    client.settle()
    connection = server.connections[ALICE]
    connection.is_kept = True
    looks = [0]
    look = server.dtls._look

    def counted(each: DtlsConnection) -> None:
        looks[0] += 1
        look(each)

    monkeypatch.setattr(server.dtls, "_look", counted)
    await until(lambda: looks[0] >= 3)
    assert len(server.dtls) == 1
    connection.is_kept = False
    await until(lambda: len(server.dtls) == 0)


async def test_a_goodbye_ends_the_connection(server) -> None:
    client = server.opened()
    client.session.close()
    client.to_server()
    assert server.gone == [ALICE]


@pytest.mark.parametrize("who", ["client", "server", "nobody"])
async def test_what_is_over_does_not_wait_for_the_garbage_collector(server, who: str) -> None:
    client = server.opened()
    client.session.send(b"here")
    client.settle()
    session = weakref.ref(server.connections.pop(ALICE).session)
    gc.disable()
    try:
        if who == "client":
            client.session.close()
            client.settle()
        elif who == "server":
            server.dtls.close()
        else:  # it begins anew from the same address
            server.opened()
        assert session() is None
    finally:
        gc.enable()


async def test_a_client_that_has_forgotten_us_replaces_itself_by_its_cookie(server) -> None:
    old = server.opened()
    new = server.client()
    new.to_server()
    assert server.gone == [], "the old association ended before the new one had a cookie"
    old.session.send(b"still there")
    old.to_server()
    assert server.messages == [(ALICE, b"still there")]
    new.settle()
    assert new.session.is_open
    assert server.gone == [ALICE]
    assert len(server.dtls) == 1


async def test_a_late_copy_of_the_first_flight_changes_nothing(server) -> None:
    client = server.client()
    client.to_server()
    client.to_client()
    [hello] = client.sent
    client.settle()
    server.dtls.receive(Datagram(ALICE, SERVER, hello))
    client.session.send(b"still there")
    client.settle()
    assert server.messages == [(ALICE, b"still there")]
    assert server.gone == []


@pytest.mark.parametrize("content", [21, 22, 23])
async def test_forged_records_harm_no_association(server, content: int) -> None:
    client = server.opened()
    for epoch in range(3):
        forged = bytes([content, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 9, 0, 2, 2, 0])
        server.dtls.receive(Datagram(ALICE, SERVER, forged))
        server.dtls.receive(Datagram(ALICE, SERVER, forged[:13] + b"\xff\xff"))
        server.dtls.receive(Datagram(ALICE, SERVER, forged + bytes(40_000)))
    client.session.send(b"still there")
    client.settle()
    assert server.messages == [(ALICE, b"still there")]


async def test_what_begins_no_handshake_is_dropped(server) -> None:
    client = server.client()
    [hello] = client.sent
    for junk in (
        b"\x16",
        hello[:13],
        hello[:58],
        hello[:-1],
        hello[:13] + b"\x02" + hello[14:],
        hello + bytes(60_000),
        b"\x17" + hello[1:],
        bytes([20]) * 100,
        bytes([63]) * 1000,
    ):
        server.dtls.receive(Datagram(ALICE, SERVER, junk))
    assert server.sent == []
    assert len(server.dtls) == 0
    client.settle()
    assert client.session.is_open


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([b"stun.turn"], b"stun.turn"),
        ([b"stun.nat-discovery"], b"stun.nat-discovery"),
        ([b"h2", b"stun.turn"], b"stun.turn"),
        ([b"coap"], b""),
        ([], b""),
    ],
)
async def test_the_protocol_is_the_one_of_rfc_7443(server, offered, chosen: bytes) -> None:
    client = server.opened(alpn=offered)
    assert client.connection.get_alpn_proto_negotiated() == chosen


async def test_another_certificate_is_shown_to_who_comes_after(server, tmp_path: Path) -> None:
    other = own_certificate(tmp_path)
    before = server.opened()
    server.dtls.use(server.dtls.prepare(str(other.chain), str(other.key)))
    with pytest.raises(OSError):
        server.dtls.prepare(str(tmp_path / "none"), str(other.key))
    after = server.opened(Address(ALICE.host, 40_001))
    keys = [
        subject_key_hash(each.connection.get_peer_certificate(as_cryptography=True))
        for each in (before, after)
    ]
    assert keys[0] != keys[1] == other.key_hash
    before.session.send(b"still there")
    before.settle()
    assert server.messages == [(ALICE, b"still there")]


async def test_dtls_1_0_is_refused(server) -> None:
    client = server.client()
    [hello] = client.sent
    old = hello[:25] + b"\xfe\xff" + hello[27:]
    server.dtls.receive(Datagram(ALICE, SERVER, old))
    assert all(answer.payload[13] == 3 for answer in server.sent)
    assert len(server.dtls) == 0


async def test_what_is_longer_than_a_record_is_not_sent(server) -> None:
    client = server.opened()
    client.session.send(bytes(MAX_PAYLOAD + 1))
    client.session.send(bytes(MAX_PAYLOAD))
    client.settle()
    assert [len(message) for _, message in server.messages] == [MAX_PAYLOAD]


def test_a_certificate_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    async def make() -> None:
        (tmp_path / "bad.pem").write_text("nothing")
        with pytest.raises(OSError, match="the certificate cannot be used for DTLS"):
            DtlsServer(
                str(tmp_path / "bad.pem"),
                str(tmp_path / "bad.pem"),
                send=lambda _: None,
                on_message=lambda *_: None,
                on_closed=lambda _: None,
            )

    asyncio.run(make())


def test_where_no_memory_may_be_written_and_executed_there_is_a_reason(monkeypatch, tmp_path):
    # systemd's MemoryDenyWriteExecute, which cffi answers with MemoryError.
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(SSL.Context, "set_cookie_generate_callback", refuse)
    certificate = own_certificate(tmp_path)

    async def make() -> None:
        DtlsServer(
            str(certificate.chain),
            str(certificate.key),
            send=lambda _: None,
            on_message=lambda *_: None,
            on_closed=lambda _: None,
        )

    with pytest.raises(OSError, match="written and executed"):
        asyncio.run(make())
