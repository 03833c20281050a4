"""One encrypted, authenticated channel to one remote peer: QUIC without addresses.

The QUIC connection lives on a constant virtual address; which path carries its datagrams is the
parent's business and may change at any time (the migration of RFC 9000 Section 9 is not used).
The client's first flight exists before any path does and travels in the signalled offer; the
server's goes back in the answer. docs/protocol/connection.md is the normative text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qh3.quic import events as quic_events
from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library
from knothole.engine.secure.authenticate import (
    Authentication,
    ClientAuthentication,
    NotAuthentic,
    Parties,
    ServerAuthentication,
)
from knothole.engine.secure.certificate import (
    ChannelCertificate,
    SigningIdentity,
    make_certificate,
)
from knothole.engine.secure.clock import ChannelClock
from knothole.engine.secure.control import (
    CONTROL_STREAM,
    Candidates,
    ControlReader,
    Credit,
    MalformedControl,
    Proof,
)
from knothole.engine.secure.delivery import Delivery
from knothole.engine.secure.early import EarlyPackets
from knothole.engine.secure.events import (
    CandidatesTold,
    ChannelClosed,
    ChannelEvent,
    CloseCode,
    Closed,
    DatagramReceived,
    Secured,
)
from knothole.engine.secure.farewell import Farewell
from knothole.engine.secure.opening import ConnectionIds, open_client, open_server
from knothole.engine.secure.outbox import MAX_DATAGRAM_SIZE as MAX_DATAGRAM_SIZE
from knothole.engine.secure.outbox import Outbox
from knothole.engine.secure.pings import KEEPALIVE_PING, Pings
from knothole.engine.secure.streams import Payload, PeerViolation, Streams
from knothole.engine.secure.timers import ChannelTimers

DATAGRAMS_A_CALL: Final = 216  # ours: four full bursts of 54; about half a millisecond of work


class SecureChannel:
    """An engine that a connection owns; its parent brings it datagrams and carries its own away.

    After every call the parent drains :meth:`outputs` and, while there is a path, :meth:`datagrams`
    until they are fewer than asked for; it calls :meth:`handle_timeout` at :meth:`next_timeout`.
    Nothing of the peer's is delivered before :class:`Secured`. A server's writes leave even before
    that: only who made the first flight can read them, and the signed offer says who did. A
    client's writes wait inside until the server is known.
    """

    def __init__(
        self,
        connection: QuicConnection,
        first_flight: tuple[bytes, ...],
        authentication: Authentication,
        now: float,
    ) -> None:
        """Not called directly: :meth:`client` and :meth:`server` make channels."""
        self._quic = connection
        self.first_flight: Final = first_flight
        """The client's first datagrams, for the offer (the server: those it was made from)."""
        self._authentication = authentication
        self._is_client = isinstance(authentication, ClientAuthentication)
        self._handshake_complete = False
        self._early = EarlyPackets()
        self._clock = ChannelClock(now, longest_wait=library.INITIAL_RTT)
        self._timers = ChannelTimers(connection, self._clock, now)
        self._farewell: Farewell | None = None
        self._delivery = Delivery()
        self._streams = Streams(connection, self._is_client)
        self._control = ControlReader()
        self._outbox = Outbox(connection, self._streams, self._timers)
        self._pings = Pings()
        self._connection_ids = ConnectionIds(connection)
        self._after_input(now)

    @classmethod
    def client(cls, identity: SigningIdentity, client_nonce: bytes, now: float) -> SecureChannel:
        """The caller's end. ``client_nonce`` (32 random bytes) is what the offer commits to.

        Its clock stands still, however long the other side rings, until :meth:`start` or the
        first :meth:`receive`.
        """
        connection, flight = open_client(now)
        return cls(connection, flight, ClientAuthentication(identity, client_nonce, flight), now)

    @classmethod
    def server(
        cls,
        identity: SigningIdentity,
        client_key: bytes,
        first_flight: Sequence[bytes],
        commitment: bytes,
        server_nonce: bytes,
        now: float,
        certificate: ChannelCertificate | None = None,
    ) -> SecureChannel:
        """The callee's end, made from a verified offer.

        ``client_key`` is the key that signed the offer; ``first_flight`` and ``commitment`` are
        from inside it; ``server_nonce`` (32 random bytes) is what the answer tells. A
        ``certificate`` made before saves making one. Raises :class:`UnacceptableFirstFlight`.
        """
        connection = open_server(first_flight, certificate or make_certificate(identity), now)
        authentication = ServerAuthentication(
            identity.public_key, client_key, first_flight, commitment, server_nonce
        )
        return cls(connection, tuple(first_flight), authentication, now)

    # ----------------------------------------------------------------------------- the engine

    def start(self, now: float) -> None:
        """A path exists, or the call was answered: time passes from here. Idempotent.

        The time since the channel was made counts as the initial RTT at most, so that ringing
        neither times the handshake out nor spoils the first RTT sample.
        """
        if not self._clock.is_running:
            self._clock.start(now)
            self._timers.heard(now)

    def accepts(self, payload: bytes) -> bool:
        """True when ``payload`` (one datagram, or a burst) is addressed to this channel."""
        return self._connection_ids.match(payload)

    def receive(self, payload: bytes, segment_size: int, now: float) -> None:
        """Datagrams of the peer, or of anybody who pretends to be.

        With a ``segment_size`` above 0 they are set end to end, as in
        :class:`~knothole.engine.core.Datagram`.
        """
        self.start(now)
        if self._farewell is not None:
            self._farewell.peer_spoke()
            return
        if not self._handshake_complete:
            self._early.keep(payload, segment_size)
        inner = self._clock.inner(now)
        self._timers.received(len(payload) // segment_size + 1 if segment_size else 1)
        try:
            library.give_datagrams(self._quic, payload, segment_size, inner)
            self._after_input(now)
            if self._handshake_complete:
                for packet in self._early.take():
                    library.give_datagrams(self._quic, packet, 0, inner)
                    self._after_input(now)
        except library.LibraryFault as fault:
            self._fail(fault)

    def datagrams(self, now: float, most: int = DATAGRAMS_A_CALL) -> list[bytes]:
        """The next datagrams to send, at most ``most``; fewer are all there are."""
        self._timers.input(now)
        inner = self._clock.inner(now)
        try:
            if self._farewell is not None:
                return self._farewell.say(self._quic, inner, most)
            may_send = not self.is_closed and (self.is_secured or not self._is_client)
            burst = self._outbox.take(now, inner, most, may_send)
            if self._timers.catch_up(now):
                burst += library.take_datagrams(self._quic, inner, most)
                self._after_input(now)
        except library.LibraryFault as fault:
            self._fail(fault)
            return []
        return burst

    def next_timeout(self) -> float | None:
        return self._timers.next() if self._farewell is None else None

    def handle_timeout(self, now: float) -> None:
        keepalive_due = self._timers.expire(now)
        self._after_input(now)
        if keepalive_due and not self.is_closed:
            self._outbox.ping(KEEPALIVE_PING)

    def outputs(self) -> Iterator[ChannelEvent]:
        return self._delivery.drain()

    # ------------------------------------------------------------------------------- commands

    def expect_server(self, server_key: bytes, server_nonce: bytes, now: float) -> None:
        """Client: the key that signed the answer, and the nonce the answer told.

        Before this the client delivers nothing and reveals nothing. When the server turns out to
        hold another key the channel ends with KEY_MISMATCH.
        """
        if not isinstance(self._authentication, ClientAuthentication):
            raise ValueError("only a client expects a server")
        self._authentication.expect(server_key, server_nonce)
        self._after_input(now)

    def open_stream(self) -> int:
        """The id of a new stream; the peer hears of it with its first bytes or its end.

        Raises :class:`TooManyStreams`, :class:`ChannelClosed`.
        """
        self._require_open()
        return self._streams.open()

    def write(self, stream_id: int, data: Payload, end: bool = False) -> None:
        """Queue ``data``; after ``end`` nothing may follow. Watch :meth:`send_backlog`.

        After the peer's StopSending the data is dropped. Raises :class:`StreamNotWritable`,
        :class:`ChannelClosed`.
        """
        self._require_open()
        self._streams.write(stream_id, data, end)

    def send_backlog(self, stream_id: int) -> int:
        """Bytes written to a stream that have not left yet; 0 once the stream is over."""
        return 0 if self.is_closed else self._streams.backlog(stream_id)

    def consumed(self, stream_id: int, size: int) -> bool:
        """The application has read ``size`` bytes of a stream, so the peer may send more.

        True when that is to be told, by :meth:`datagrams`; it is not each time.
        """
        credit = None if self.is_closed else self._streams.consumed(stream_id, size)
        if credit is not None:
            self._outbox.put_control(credit)
        return credit is not None

    def reset(self, stream_id: int, code: int) -> None:
        """Give up sending on a stream; what has not left is dropped."""
        self._streams.reset(stream_id, code)

    def stop(self, stream_id: int, code: int) -> None:
        """Ask the peer to send no more on a stream; what still comes is dropped."""
        self._streams.stop(stream_id, code)

    def send_datagram(self, data: bytes) -> None:
        """Queue an unreliable datagram; while the path is congested the oldest waiting is dropped.

        Raises DatagramTooLarge above :data:`MAX_DATAGRAM_SIZE`, :class:`ChannelClosed`.
        """
        self._require_open()
        self._outbox.put_datagram(data)

    def ping(self, now: float) -> int:
        """Ask for an answer; the id comes back in PingAnswered. Raises :class:`ChannelClosed`."""
        self._require_open()
        ping_id = self._pings.ask(now)
        self._outbox.ping(ping_id)
        return ping_id

    def tell_candidates(self, lines: tuple[str, ...]) -> None:
        """Let the other end know of further candidates of ours, once both keys are proven."""
        if self.is_secured and not self.is_closed:
            self._outbox.put_control(Candidates(lines))

    def path_changed(self, now: float) -> None:
        """The datagrams take this path from now on: ask for an answer over it at once.

        What was lost with the old path is then sent again after one round trip of the new one,
        instead of when a probe timeout expires that has doubled all the while.
        """
        self.start(now)
        if self.is_secured and not self.is_closed:
            self._outbox.ping(KEEPALIVE_PING)

    def close(self, code: int, reason: str) -> None:
        """End the channel; :meth:`datagrams` then gives the farewell, which may be lost.

        What is not :attr:`is_flushed` may be lost too.
        """
        if not self.is_closed:
            self._farewell = Farewell(code, reason)
            self._end(code, reason, by_peer=False)

    # ---------------------------------------------------------------------------------- state

    @property
    def is_secured(self) -> bool:
        """:class:`Secured` was reported."""
        return self._delivery.is_open

    @property
    def is_closed(self) -> bool:
        """:class:`Closed` was reported."""
        return self._delivery.is_closed

    @property
    def can_open_stream(self) -> bool:
        """False when closed, and while as many streams are in use as the peer allows (100)."""
        return not self.is_closed and self._streams.can_open

    @property
    def is_flushed(self) -> bool:
        """Everything written so far has been acknowledged by the peer, or dropped."""
        return self._outbox.is_flushed

    @property
    def probes_unanswered(self) -> int | None:
        """How often QUIC has probed since the last answer; None while none is due."""
        return library.probes_unanswered(self._quic)

    @property
    def smoothed_rtt_seconds(self) -> float | None:
        """QUIC's estimate over the paths used so far, None before the first answer."""
        return library.smoothed_rtt_seconds(self._quic)

    # --------------------------------------------------------------------------------- inside

    def _require_open(self) -> None:
        if self.is_closed:
            raise ChannelClosed("the channel has ended")

    def _after_input(self, now: float) -> None:
        self._timers.input(now)
        try:
            for event in library.take_events(self._quic):
                if not self.is_closed:
                    self._heard(event, now)
            if self._handshake_complete and not self.is_secured and not self.is_closed:
                self._prove()
        except (PeerViolation, MalformedControl) as violation:
            self.close(CloseCode.CONTROL_VIOLATION, str(violation))
        except NotAuthentic as reason:
            refused = CloseCode.KEY_MISMATCH if self._is_client else CloseCode.PROOF_REFUSED
            self.close(refused, str(reason))
        ended = library.close_event(self._quic)
        if ended is not None and not self.is_closed:
            self._end(*library.reason_of(ended), library.closed_by_peer(self._quic))

    def _heard(self, event: library.StreamBytes | quic_events.QuicEvent, now: float) -> None:
        match event:
            case library.StreamBytes(stream_id=stream_id, data=data, end=end):
                self._timers.heard(now)
                if stream_id == CONTROL_STREAM:
                    self._control_data(data, end)
                else:
                    self._delivery.put_all(self._streams.received(stream_id, data, end))
            case quic_events.DatagramFrameReceived(data=data):
                self._timers.heard(now)
                self._delivery.put(DatagramReceived(data))
            case quic_events.PingAcknowledged(uid=uid):
                self._timers.heard(now)
                self._delivery.put_all(self._pings.answered(uid, now))
            case quic_events.HandshakeCompleted():
                self._handshake_complete = True
            case quic_events.StreamReset(stream_id=stream_id, error_code=code):
                self._delivery.put_all(self._streams.peer_reset(stream_id, code))
            case quic_events.StopSendingReceived(stream_id=stream_id, error_code=code):
                self._delivery.put_all(self._streams.peer_stopped(stream_id, code))
            case quic_events.ConnectionIdIssued() | quic_events.ConnectionIdRetired():
                self._connection_ids.changed(event)

    def _control_data(self, data: bytes, end: bool) -> None:
        if end:
            raise PeerViolation("the control stream must not end")
        for message in self._control.feed(data):
            match message:
                case Credit():
                    self._streams.allow(message)
                case Candidates(lines):
                    self._delivery.put(CandidatesTold(lines))
                case Proof() if self.is_secured:
                    raise PeerViolation("a proof where none is due")
                case Proof():
                    self._secure(self._authentication.verify(message))

    def _prove(self) -> None:
        proven = self._authentication.prove(library.certificate_key(self._quic))
        if proven is not None:
            self._outbox.put_control(proven[1])
            self._secure(proven[0])

    def _secure(self, parties: Parties) -> None:
        peer_key = parties.server_key if self._is_client else parties.client_key
        self._timers.keeps_alive = True
        self._delivery.open(Secured(peer_key, parties.client_nonce, parties.server_nonce))

    def _fail(self, fault: library.LibraryFault) -> None:
        """The library cannot be trusted with this connection any more, not even to say goodbye."""
        self._farewell = Farewell.silent()
        self._end(CloseCode.TRANSPORT_FAILED, str(fault), by_peer=False)

    def _end(self, code: int, reason: str, by_peer: bool) -> None:
        self._timers.keeps_alive = False
        self._delivery.close(Closed(code, reason, by_peer))
