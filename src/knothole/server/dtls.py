"""DTLS clients of the relay (RFC 7350), on the UDP port that STUN and TURN have (RFC 7983)."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from knothole.engine.core import Datagram
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.io.dtls import (
    HANDSHAKE_MTU,
    HANDSHAKE_RECORD,
    DtlsSession,
    dtls_context,
    take_datagrams,
)
from knothole.server.tls_context import ALPN_DISCOVERY, ALPN_TURN
from knothole.server.turn_connection import FIRST_MESSAGE_SECONDS, IDLE_SECONDS
from knothole.wire.address import Transport, network_of

HANDSHAKE_SECONDS: Final = 10.0  # ours: from the cookie to the end of the handshake
COOKIE_SECONDS: Final = 30.0  # ours: a cookie is good for so long, and for twice as long at most
COOKIE_SIZE: Final = 16
MAX_CONNECTIONS: Final = 10_000  # ours, each about 60 KiB: beyond, nobody new is let in
# Ours: connections that hold no allocation, most of them in their handshake. A network is what one
# subscriber may have at least: /24 and /48.
MAX_WITHOUT_ALLOCATION: Final = 1024
MAX_WITHOUT_ALLOCATION_OF_NETWORK: Final = 128

CLIENT_HELLO: Final = 1
MAX_CLIENT_HELLO: Final = 2048  # ours: one datagram; OpenSSL takes no fragments before the cookie
_RANDOM: Final = slice(27, 59)
"""Where ClientHello.random is, behind the headers of record (13) and message (12)."""
_NAMES: Final = (ALPN_TURN.encode(), ALPN_DISCOVERY.encode())


class DtlsConnection:
    """One client, from its proven address to its end.

    :attr:`is_kept` says that it holds an allocation, and may therefore be silent.
    """

    def __init__(self, five_tuple: FiveTuple, session: DtlsSession, client_random: bytes) -> None:
        self.five_tuple = five_tuple
        self.session = session
        self.client_random = client_random
        self.heard = False
        self.deadline: asyncio.TimerHandle | None = None
        self.on_kept: Callable[[bool], None] = lambda _: None
        self._is_kept = False

    @property
    def is_kept(self) -> bool:
        return self._is_kept

    @is_kept.setter
    def is_kept(self, kept: bool) -> None:
        if kept is not self._is_kept:
            self._is_kept = kept
            self.on_kept(kept)

    def send(self, payload: bytes) -> None:
        """Send one message as one datagram."""
        self.session.send(payload)


class DtlsServer:
    """All DTLS clients of one process; there is nothing of one before its address is proven.

    ``send`` sends datagrams, ``on_message`` gets what comes from clients, ``on_closed`` tells that
    one has gone, however that came.
    """

    def __init__(
        self,
        chain: str,
        key: str,
        *,
        send: Callable[[Datagram], None],
        on_message: Callable[[DtlsConnection, Sequence[bytes]], None],
        on_closed: Callable[[DtlsConnection], None],
    ) -> None:
        """Raises OSError when the certificate or its key cannot be used."""
        self._send, self._on_message, self._on_closed = send, on_message, on_closed
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._cookie_key = secrets.token_bytes(32)
        self._connections: dict[FiveTuple, DtlsConnection] = {}
        self._without_allocation: Counter[str] = Counter()
        self._listening: SSL.Connection | None = None
        self.use(self.prepare(chain, key))

    def __len__(self) -> int:
        return len(self._connections)

    def prepare(self, chain: str, key: str) -> SSL.Context:
        """Another certificate, to be used. Raises OSError as at the start."""
        return self._make_context(chain, key)

    def use(self, prepared: SSL.Context) -> None:
        """Show that certificate to clients that come from now on."""
        self._context = prepared
        self._listening = None

    def receive(self, datagram: Datagram) -> None:
        """A datagram whose first byte is 20 to 63."""
        five_tuple = FiveTuple(Transport.DTLS, datagram.source, datagram.destination)
        connection = self._connections.get(five_tuple)
        payload = datagram.payload
        hello = is_client_hello(payload)
        if connection is None:
            if hello:
                self._listen(five_tuple, payload)
        elif hello and payload[_RANDOM] != connection.client_random:
            # RFC 6347 Section 4.2.8: the client has forgotten us; that it is the client, and
            # nobody who takes its address, its cookie shows.
            self._listen(five_tuple, payload)
        else:
            self._from(connection, payload)

    def close(self) -> None:
        """Say goodbye to everybody."""
        for connection in tuple(self._connections.values()):
            connection.session.close()
            self._forget(connection)

    # ------------------------------------------------------------------ before there is anything

    def _listen(self, five_tuple: FiveTuple, hello: bytes) -> None:
        """Ask for a cookie, or take the client in that shows one (RFC 6347 Section 4.2.1)."""
        listening, self._listening = self._listening or self._new_connection(), None
        listening.set_app_data(five_tuple)
        listening.bio_write(hello)
        try:
            listening.DTLSv1_listen()
        except SSL.WantReadError:
            for answer in take_datagrams(listening):
                if len(answer) <= len(hello):  # nothing is won by a forged source address
                    self._transmit(five_tuple, answer)
            self._listening = listening  # as before: it has kept nothing
        except SSL.Error:
            pass
        else:
            self._take_in(five_tuple, listening, hello)

    def _take_in(self, five_tuple: FiveTuple, listening: SSL.Connection, hello: bytes) -> None:
        former = self._connections.get(five_tuple)
        if former is not None:
            self._forget(former)
        network = network_of(five_tuple.client.host, 24, 48)
        if (
            len(self._connections) >= MAX_CONNECTIONS
            or self._without_allocation.total() >= MAX_WITHOUT_ALLOCATION
            or self._without_allocation[network] >= MAX_WITHOUT_ALLOCATION_OF_NETWORK
        ):
            return
        session = DtlsSession(
            listening,
            send=lambda payload: self._transmit(five_tuple, payload),
            on_open=lambda: self._opened(connection),
            on_closed=lambda _: self._forget(connection),
        )
        connection = DtlsConnection(five_tuple, session, hello[_RANDOM])
        connection.on_kept = lambda kept: self._count(network, -1 if kept else 1)
        self._connections[five_tuple] = connection
        self._count(network, 1)
        connection.deadline = self._loop.call_later(HANDSHAKE_SECONDS, self._drop, connection)
        session.begin()

    # ------------------------------------------------------------------------ while there is one

    def _from(self, connection: DtlsConnection, datagram: bytes) -> None:
        messages = connection.session.receive(datagram)
        if messages:
            connection.heard = True
            self._on_message(connection, messages)

    def _opened(self, connection: DtlsConnection) -> None:
        if connection.deadline is not None:
            connection.deadline.cancel()
        connection.deadline = self._loop.call_later(FIRST_MESSAGE_SECONDS, self._look, connection)

    def _look(self, connection: DtlsConnection) -> None:
        """Let go of a client that says nothing and holds nothing."""
        if not connection.heard and not connection.is_kept:
            self._drop(connection)
            return
        connection.heard = False
        connection.deadline = self._loop.call_later(IDLE_SECONDS, self._look, connection)

    def _drop(self, connection: DtlsConnection) -> None:
        connection.session.close()
        self._forget(connection)

    def _forget(self, connection: DtlsConnection) -> None:
        if self._connections.get(connection.five_tuple) is not connection:
            return
        del self._connections[connection.five_tuple]
        if connection.deadline is not None:
            connection.deadline.cancel()
        self._on_closed(connection)
        connection.is_kept = True  # it counts no more among those without an allocation
        connection.session.abandon()

    def _count(self, network: str, change: int) -> None:
        self._without_allocation[network] += change
        if not self._without_allocation[network]:
            del self._without_allocation[network]

    def _transmit(self, five_tuple: FiveTuple, payload: bytes) -> None:
        self._send(Datagram(five_tuple.server, five_tuple.client, payload))

    # ------------------------------------------------------------------------------------ OpenSSL

    def _new_connection(self) -> SSL.Connection:
        connection = SSL.Connection(self._context)
        connection.set_accept_state()
        connection.set_ciphertext_mtu(HANDSHAKE_MTU)
        return connection

    def _make_context(self, chain: str, key: str) -> SSL.Context:
        context = dtls_context(SSL.DTLS_SERVER_METHOD)
        try:
            first, *others = x509.load_pem_x509_certificates(Path(chain).read_bytes())
            context.use_certificate(first)
            for other in others:
                context.add_extra_chain_cert(other)
            context.use_privatekey(load_pem_private_key(Path(key).read_bytes(), None))  # type: ignore[arg-type]
            context.check_privatekey()
        except (SSL.Error, ValueError, TypeError) as error:
            raise OSError(f"the certificate cannot be used for DTLS: {error}") from error
        try:
            context.set_cookie_generate_callback(lambda each: self._cookie(each, 0))
            context.set_cookie_verify_callback(self._is_cookie)
            context.set_alpn_select_callback(_choose_protocol)
        except MemoryError as error:  # cffi makes code, which systemd's MemoryDenyWriteExecute bars
            raise OSError("DTLS needs memory that is written and executed: allow that") from error
        return context

    def _is_cookie(self, connection: SSL.Connection, cookie: bytes) -> bool:
        return any(hmac.compare_digest(cookie, self._cookie(connection, ago)) for ago in range(2))

    def _cookie(self, connection: SSL.Connection, ago: int) -> bytes:
        period = int(self._now() // COOKIE_SECONDS) - ago
        said = f"{connection.get_app_data()} {period}".encode()
        return hmac.digest(self._cookie_key, said, "sha256")[:COOKIE_SIZE]


def is_client_hello(datagram: bytes) -> bool:
    """Whether a handshake may begin with ``datagram``: in epoch 0, with a random in it."""
    return (
        _RANDOM.stop <= len(datagram) <= MAX_CLIENT_HELLO
        and datagram[0] == HANDSHAKE_RECORD
        and datagram[3:5] == b"\0\0"
        and datagram[13] == CLIENT_HELLO
    )


def _choose_protocol(_: SSL.Connection, offered: list[bytes]) -> Any:
    """What the client prefers of what we speak; as over TLS, a client of neither is let in."""
    return next((name for name in offered if name in _NAMES), SSL.NO_OVERLAPPING_PROTOCOLS)
