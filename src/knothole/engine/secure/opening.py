"""How the QUIC connection of a channel begins: the first flight, made and accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qh3.quic.connection import QuicConnection
from qh3.quic.events import ConnectionIdIssued, ConnectionIdRetired

from knothole.engine.secure import library
from knothole.engine.secure.certificate import ChannelCertificate
from knothole.engine.secure.events import UnacceptableFirstFlight

ALPN: Final = "knothole/1"
"""The version of everything inside QUIC; another version is refused in the handshake."""

FIRST_FLIGHT_DATAGRAMS: Final = 4  # ours: what an offer may bring; a first flight of ours is two


def open_client(now: float) -> tuple[QuicConnection, tuple[bytes, ...]]:
    """A client's connection and the first flight that it wants to send."""
    connection = QuicConnection(configuration=library.configuration(ALPN, is_client=True))
    connection.connect(library.VIRTUAL_ADDRESS, now)
    return connection, tuple(data for data, _ in connection.datagrams_to_send(now))


def open_server(
    first_flight: Sequence[bytes], certificate: ChannelCertificate, now: float
) -> QuicConnection:
    """A server's connection that has taken ``first_flight`` in and has its answer ready.

    Raises :class:`UnacceptableFirstFlight`.
    """
    configuration = library.configuration(ALPN, is_client=False)
    configuration.load_cert_chain(certificate.certificate_pem, certificate.private_key_pem)
    connection = QuicConnection(
        configuration=configuration,
        original_destination_connection_id=_destination_of(first_flight),
    )
    try:
        for datagram in first_flight:
            library.give_datagrams(connection, datagram, 0, now)
    except library.LibraryFault as fault:
        raise UnacceptableFirstFlight(f"the caller's first flight is malformed: {fault}") from fault
    if not library.has_peer_parameters(connection) or library.close_event(connection) is not None:
        raise UnacceptableFirstFlight("the caller's first flight starts no QUIC handshake of ours")
    return connection


class ConnectionIds:
    """Which datagrams are addressed to a connection (RFC 9000 Section 5.1)."""

    def __init__(self, connection: QuicConnection) -> None:
        self._ids: set[bytes] = {connection.host_cid}
        if not connection.configuration.is_client:
            self._ids.add(connection.original_destination_connection_id)

    def changed(self, event: ConnectionIdIssued | ConnectionIdRetired) -> None:
        """The connection has one more, or one less."""
        if isinstance(event, ConnectionIdIssued):
            self._ids.add(event.connection_id)
        else:
            self._ids.discard(event.connection_id)

    def match(self, payload: bytes) -> bool:
        """Whether ``payload``, one datagram or several set end to end, is for this connection."""
        if len(payload) < 1 + library.CONNECTION_ID_BYTES:
            return False
        if not payload[0] & 0x80:  # RFC 9000 Section 17.3: short header
            return payload[1 : 1 + library.CONNECTION_ID_BYTES] in self._ids
        return payload[6 : 6 + payload[5]] in self._ids  # RFC 9000 Section 17.2: long header


def _destination_of(first_flight: Sequence[bytes]) -> bytes:
    """The connection id that the client made up for the server (RFC 9000 Section 7.2)."""
    if not 0 < len(first_flight) <= FIRST_FLIGHT_DATAGRAMS:
        raise UnacceptableFirstFlight(f"a first flight of {len(first_flight)} datagrams")
    head = first_flight[0]
    # RFC 9000 Section 14.1: a server discards an Initial in a datagram of less than 1200 bytes.
    if len(head) < library.DATAGRAM_BYTES or head[0] & 0xC0 != 0xC0 or not 8 <= head[5] <= 20:
        raise UnacceptableFirstFlight("the caller's first flight starts with no QUIC Initial")
    return head[6 : 6 + head[5]]
