"""A DTLS association with a TURN server: messages out, messages in, one a datagram (RFC 7350)."""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from OpenSSL import SSL

from knothole.engine.core import Datagram
from knothole.io.dtls import HANDSHAKE_MTU, DtlsSession, dtls_context
from knothole.io.tls import ALPN_TURN, PinMismatch, subject_key_hash
from knothole.io.udp import UdpLink, open_udp
from knothole.wire.address import Address, Transport

HANDSHAKE_SECONDS: Final = 10.0  # ours: flights are sent again after 1, 3 and 7 s


class TurnDtls:
    """One association. ``on_datagram`` gets what comes in, ``on_closed`` that it is over."""

    transport: Final = Transport.DTLS

    def __init__(
        self,
        server: Address,
        on_datagram: Callable[[Datagram], None],
        on_closed: Callable[[TurnDtls], None],
    ) -> None:
        self.server = server
        self.local = Address("0.0.0.0", 0)  # noqa: S104 - known once there is a socket
        self._on_datagram, self._on_closed = on_datagram, on_closed
        self._link: UdpLink | None = None
        self._session: DtlsSession | None = None

    async def open(self, *, server_name: str, pin: bytes | None, insecure: bool = False) -> None:
        """Come to an association with the server that ``server_name`` or ``pin`` names.

        Raises OSError (ssl.SSLError among it), TimeoutError.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        connection = _connection(server_name or self.server.host, verify=not (pin or insecure))

        def closed(reason: str) -> None:
            if opened.done():
                self.close()
                self._on_closed(self)
            else:
                opened.set_exception(ssl.SSLError(ssl.SSL_ERROR_SSL, reason))

        self._link = link = await open_udp(Address(_local_host(self.server), 0), self._receive)
        self.local = link.address
        self._session = session = DtlsSession(
            connection,
            send=lambda payload: link.send(Datagram(self.local, self.server, payload)),
            on_open=lambda: opened.set_result(None),
            on_closed=closed,
        )
        try:
            session.begin()
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await opened
            if not insecure:
                _check(connection, server_name or self.server.host, pin)
        except BaseException:
            self.close()
            raise

    @property
    def is_blocked(self) -> bool:
        return self._link is not None and self._link.is_blocked

    def when_writable(self, callback: Callable[[], None]) -> None:
        if self._link is not None:
            self._link.when_writable(callback)

    def send(self, datagram: Datagram) -> None:
        """Send each message of ``datagram`` in a record of its own."""
        if self._session is not None:
            for message in datagram.segments():
                self._session.send(message)

    def close(self) -> None:
        """Say goodbye and end; idempotent."""
        if self._session is not None:
            self._session.close()
        if self._link is not None:
            self._link.close()

    def _receive(self, datagrams: Sequence[Datagram]) -> None:
        for datagram in datagrams:
            if datagram.source != self.server or self._session is None:
                continue
            for each in datagram.segments():
                for message in self._session.receive(each):
                    self._on_datagram(
                        Datagram(self.server, self.local, message, transport=Transport.DTLS)
                    )


def _connection(server_name: str, *, verify: bool) -> SSL.Connection:
    context = dtls_context(SSL.DTLS_CLIENT_METHOD)
    context.set_alpn_protos([ALPN_TURN.encode()])
    if verify:
        context.set_default_verify_paths()
        context.set_verify(SSL.VERIFY_PEER, lambda *seen: bool(seen[-1]))
    connection = SSL.Connection(context)
    connection.set_connect_state()
    connection.set_ciphertext_mtu(HANDSHAKE_MTU)
    if not _is_address(server_name):  # RFC 6066 Section 3: no addresses
        connection.set_tlsext_host_name(server_name.encode("idna"))
    return connection


def _check(connection: SSL.Connection, server_name: str, pin: bytes | None) -> None:
    """Raises ssl.SSLError unless the server is the one that was meant."""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise PinMismatch("the server showed no certificate")
    if pin is not None:
        if not hmac.compare_digest(subject_key_hash(certificate), pin):
            raise PinMismatch("the server's key is not the pinned one")
    elif not is_named(certificate, server_name):
        reason = f"the server's certificate is not for {server_name}"
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason)


def is_named(certificate: x509.Certificate, host: str) -> bool:
    """Whether ``certificate`` is for ``host`` (RFC 9525 Section 6): a whole name or an address,
    or a wildcard as the leftmost label."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    if _is_address(host):
        return ip_address(host) in names.get_values_for_type(x509.IPAddress)
    wanted = host.rstrip(".").lower()
    label, _, parent = wanted.partition(".")
    known = [name.rstrip(".").lower() for name in names.get_values_for_type(x509.DNSName)]
    return wanted in known or bool(label and "." in parent and f"*.{parent}" in known)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _local_host(server: Address) -> str:
    """Our address towards ``server``. Raises OSError when there is no way."""
    family = socket.AF_INET6 if server.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as towards:
        towards.connect(server)  # nothing is sent
        return str(towards.getsockname()[0])
