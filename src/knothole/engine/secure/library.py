"""Everything we need of the QUIC library beyond its public interface, in one place.

Written for and tested with qh3 2.1 (``qh3>=2.1,<3``); tests/engine/secure/test_library.py says what
must stay true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived
from qh3.tls import SignatureAlgorithm

from knothole.engine.secure.events import CloseCode

_LONG_HEADER: Final = b"\x80"  # RFC 9000 Section 17.2: the first bit of the first byte
_CERT_NONE: Final = 0  # ssl.CERT_NONE, by number: engines import no ssl

VIRTUAL_ADDRESS: Final = ("192.0.2.1", 1)  # RFC 5737: for documentation, never on a wire
# RFC 9000 Section 14.1: the smallest maximum every path must carry. No path is probed for more,
# because the path changes underneath and a relay's header comes on top.
DATAGRAM_BYTES: Final = 1200
CONNECTION_ID_BYTES: Final = 8
# RFC 9000 Section 4.1. Measured: with 16 MB the loss of a burst costs seconds of CPU.
FLOW_CONTROL_WINDOW: Final = 8 * 1024 * 1024
# Ours; RFC 9000 Section 10.1. The line decides sooner (GONE_SECONDS of engine/connection.py): it
# also knows what ICE hears, and a channel without a path is not idle.
IDLE_TIMEOUT: Final = 60.0
# RFC 9002 Section 6.2.2 recommends 0.333 s. Ours, because people who call each other mostly have
# round trips under 0.1 s, and a probe sent too early costs one datagram.
INITIAL_RTT: Final = 0.1
# RFC 9221 Section 3: the largest DATAGRAM frame that is accepted; packets limit it further.
DATAGRAM_FRAME_BYTES: Final = 65535


def configuration(alpn: str, is_client: bool) -> QuicConfiguration:
    """How both ends set up QUIC; a server adds its certificate.

    The client checks no chain of certificates (there is none) but does check that the server
    holds the key of the certificate it shows; whose key that is, the channel checks.
    """
    made = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[alpn],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_TIMEOUT,
        initial_rtt=INITIAL_RTT,
        max_data=FLOW_CONTROL_WINDOW,
        max_stream_data=FLOW_CONTROL_WINDOW,
        max_datagram_size=DATAGRAM_BYTES,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
        probe_datagram_size=False,
    )
    if is_client:
        made.verify_mode = _CERT_NONE
        made.signature_algorithms = [SignatureAlgorithm.ED25519]
    return made


def take_datagrams(connection: QuicConnection, now: float, most: int) -> list[bytes]:
    """At most ``most`` datagrams to send now. Raises :class:`LibraryFault`.

    The public ``datagrams_to_send`` takes everything at once, and a third more time over each
    datagram, for logs that are not kept.
    """
    core = connection._core
    datagrams: list[bytes] = []
    try:
        while core is not None and len(datagrams) < most:
            transmit = core.poll_transmit(now)
            if transmit is None:
                break
            datagrams.append(transmit[0])
    except RuntimeError as error:
        raise LibraryFault(str(error)) from error
    return datagrams


def _next_timer(connection: QuicConnection) -> str:
    core = connection._core
    timer = None if core is None else core.get_timer()
    return "" if timer is None else timer[0]


def next_is_acknowledgement(connection: QuicConnection) -> bool:
    """Whether the next timer is there to let an acknowledgement of payload out, and only that."""
    return _next_timer(connection) == "ack_application"


class LibraryFault(Exception):
    """The library failed over what it was given, instead of answering or dropping it.

    A peer that takes part in the handshake can bring that about (a key share that is no key), so
    it ends a connection and never the program.
    """


def give_datagrams(
    connection: QuicConnection, payload: bytes, segment_size: int, now: float
) -> None:
    """One received datagram, or with ``segment_size`` above 0 several set end to end.

    Raises :class:`LibraryFault`.
    """
    try:
        _give_datagrams(connection, payload, segment_size, now)
    except Exception as error:
        raise LibraryFault(f"{type(error).__name__}: {error}") from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        # A panic of its native part, which is no Exception to let programs die of it.
        raise LibraryFault("the QUIC library panicked") from error


def _give_datagrams(
    connection: QuicConnection, payload: bytes, segment_size: int, now: float
) -> None:
    core = connection._core
    if core is not None and connection._handshake_complete and not segment_size:
        if not payload[:1] < _LONG_HEADER:
            connection.receive_datagram(payload, VIRTUAL_ADDRESS, now)
            return
        # Of the public call only this is left for a packet with a short header.
        connection._call_core(core.receive_datagram, payload, VIRTUAL_ADDRESS, now, len(payload))
        connection._drain_core()
    elif not segment_size or len(payload) <= segment_size:
        connection.receive_datagram(payload, VIRTUAL_ADDRESS, now)
    elif core is not None and connection._handshake_complete:
        # The public call copies each segment for logs that are not kept.
        core.receive_gro_buffer(payload, segment_size, VIRTUAL_ADDRESS, now)
        connection._drain_core()
    else:
        connection.receive_gro_buffer(payload, segment_size, VIRTUAL_ADDRESS, now)


@dataclass(frozen=True, slots=True)
class StreamBytes:
    """The next bytes of one stream, from one or more packets."""

    stream_id: int
    data: bytes
    end: bool


def take_events(connection: QuicConnection) -> Iterator[StreamBytes | QuicEvent]:
    """What the library has to say; bytes of one stream that follow each other become one."""
    stream_id, pieces = -1, list[bytes]()
    while (event := connection.next_event()) is not None:
        if pieces and not (isinstance(event, StreamDataReceived) and event.stream_id == stream_id):
            yield StreamBytes(stream_id, b"".join(pieces), end=False)
            pieces = []
        if not isinstance(event, StreamDataReceived):
            yield event
            continue
        stream_id = event.stream_id
        pieces.append(event.data)
        if event.end_stream:
            yield StreamBytes(stream_id, b"".join(pieces), end=True)
            pieces = []
    if pieces:
        yield StreamBytes(stream_id, b"".join(pieces), end=False)


def certificate_key(connection: QuicConnection) -> bytes | None:
    """SubjectPublicKeyInfo of the certificate the server showed and proved to hold."""
    certificate = connection.get_peercert()
    return None if certificate is None else certificate.public_key()


def has_peer_parameters(connection: QuicConnection) -> bool:
    """The peer's transport parameters came; a server may send application data from here on."""
    return connection._transport_parameters_applied


def is_confirmed(connection: QuicConnection) -> bool:
    """The handshake is over for both ends (RFC 9001 Section 4.1.2)."""
    return connection._handshake_confirmed


def close_event(connection: QuicConnection) -> ConnectionTerminated | None:
    """Why the connection is closing; the public event comes only after the draining period."""
    return connection._close_event


def reason_of(event: ConnectionTerminated) -> tuple[int, str]:
    """The channel's code for an end that the library reports, and the text.

    A frame type says that QUIC itself ended the connection (RFC 9000 Section 19.19).
    """
    if event.frame_type is None:
        return event.error_code, event.reason_phrase
    if event.reason_phrase == "Idle timeout":
        return CloseCode.IDLE, "nothing was heard from the other side"
    return CloseCode.TRANSPORT_FAILED, event.reason_phrase or f"error {event.error_code:#x}"


def closed_by_peer(connection: QuicConnection) -> bool:
    core = connection._core
    return core is not None and core.state == "draining"


def is_congested(connection: QuicConnection) -> bool:
    """Whatever is handed over now waits inside the library."""
    core = connection._core
    return core is None or core.bytes_in_flight + DATAGRAM_BYTES > core.congestion_window


def bytes_in_flight(connection: QuicConnection) -> int:
    core = connection._core
    return 0 if core is None else core.bytes_in_flight


def is_at_rest(connection: QuicConnection) -> bool:
    """Nothing is in flight, and nothing waits for its turn (RFC 9002 Section 7.7).

    Only the next timer is told: any but those of idleness and of a closed connection may stand
    before the pacer's.
    """
    return not bytes_in_flight(connection) and _next_timer(connection) in ("", "idle", "close")


def losses(connection: QuicConnection) -> int:
    """How many packets were found lost so far."""
    core = connection._core
    return 0 if core is None else core.loss_total


def unacknowledged_packets(connection: QuicConnection) -> list[int]:
    """The numbers of those packets with payload or acknowledgements that are neither acknowledged
    nor found lost."""
    core = connection._core
    return [] if core is None else [packet[0] for packet in core.outstanding_application_packets]


def probes_unanswered(connection: QuicConnection) -> int | None:
    """RFC 9002 Section 6.2.1: the PTO count; None when nothing in flight wants an answer."""
    core = connection._core
    return core.pto_count if core is not None and core.bytes_in_flight else None


def smoothed_rtt_seconds(connection: QuicConnection) -> float | None:
    core = connection._core
    return None if core is None else core.smoothed_rtt


def change_keys(connection: QuicConnection) -> bool:
    """RFC 9001 Section 6.1; False when it is too early for that."""
    if not connection._handshake_confirmed or connection._close_event is not None:
        return False
    try:
        connection.request_key_update()
    except ValueError:  # the last change has not been acknowledged yet
        return False
    return True
