"""One allocation on a TURN server, from the client's side (RFC 8656)."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.stun.transaction import STANDARD, Retransmission
from knothole.engine.turn.answer import SOFTWARE
from knothole.engine.turn.challenge import ChallengeResponder
from knothole.engine.turn.client_data import ClientData
from knothole.engine.turn.client_events import (
    Allocated,
    AllocationClosed,
    AllocationFailed,
    AllocationLost,
    AllocationOutput,
    PeerRefused,
    PeerUnreachable,
    RelayedDataReceived,
)
from knothole.engine.turn.client_peers import ClientPeers
from knothole.engine.turn.client_requests import (
    Denied,
    Granted,
    Purpose,
    Request,
    Requests,
    SentLate,
)
from knothole.engine.turn.credentials import Credentials
from knothole.engine.turn.quota import DEFAULT_LIFETIME
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AddressFamily,
    AlternateDomain,
    AlternateServer,
    Attribute,
    Lifetime,
    MalformedMessage,
    Message,
    MessageClass,
    RequestedAddressFamily,
    RequestedTransport,
    Software,
    XorMappedAddress,
    XorRelayedAddress,
    decode,
)

__all__ = [
    "Allocated",
    "Allocation",
    "AllocationClosed",
    "AllocationFailed",
    "AllocationLost",
    "AllocationOutput",
    "Credentials",
    "PeerRefused",
    "PeerUnreachable",
    "RelayedDataReceived",
]

REFRESH_BEFORE_EXPIRY: Final = 120.0
"""Ours: so long before it expires an allocation is refreshed, or at half time when it is short.
RFC 8656 Section 8 suggests a minute; a transaction takes 39.5 s to fail, and one failure is not to
be the end."""

REFRESH_AGAIN_AFTER: Final = 5.0  # ours: after a Refresh that failed and may yet succeed


class _State(enum.Enum):
    ALLOCATING = enum.auto()
    ALLOCATED = enum.auto()
    CLOSING = enum.auto()
    OVER = enum.auto()


class _Timer(enum.Enum):
    REFRESH = enum.auto()
    EXPIRY = enum.auto()


class Allocation:
    """Asks ``server`` for a relayed address at once, and keeps it until :meth:`close`.

    ``local`` and ``server`` are the ends of the socket or connection that carries it; over a stream
    a payload is one whole message. ``family`` of None leaves the choice to the server, which then
    takes IPv4. ``redirected_by`` are the servers that have sent us here with 300 (Try Alternate):
    none of them is an alternative any more.

    After AllocationFailed, AllocationLost and AllocationClosed nothing more is sent or said.
    """

    def __init__(
        self,
        *,
        local: Address,
        server: Address,
        transport: Transport,
        credentials: Credentials,
        random: RandomBytes,
        now: float,
        family: AddressFamily | None = None,
        lifetime_seconds: int = DEFAULT_LIFETIME,
        retransmission: Retransmission = STANDARD,
        redirected_by: Collection[Address] = (),
    ) -> None:
        self.local, self.server, self.transport = local, server, transport
        self.relayed_address: Address | None = None
        self.mapped_address: Address | None = None
        self._family, self._lifetime = family, lifetime_seconds
        self._redirected_by = frozenset(redirected_by)
        self._responder = ChallengeResponder(credentials)
        self._requests = Requests(
            local=local,
            server=server,
            transport=transport,
            responder=self._responder,
            random=random,
            retransmission=retransmission,
        )
        self._peers = ClientPeers(self._requests)
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[AllocationOutput] = deque()
        self._data = ClientData(
            local=local,
            server=server,
            transport=transport,
            peers=self._peers,
            random=random,
            outputs=self._outputs,
        )
        self._state = _State.ALLOCATING
        self._has_cleared = False
        self._is_refreshing = False
        self._allocate(now)
        self._drain(now)

    def permit(self, peer: Address, now: float) -> None:
        """Let the host of ``peer`` send to us, and keep it so until :meth:`release`."""
        if self._state in (_State.ALLOCATING, _State.ALLOCATED):
            self._peers.permit(peer, now)
            self._drain(now)

    def bind_channel(self, peer: Address, now: float) -> None:
        """As :meth:`permit`, and let a channel stand for ``peer``, which saves 32 bytes a datagram.

        :meth:`send` uses it once the server has said yes, and Send indications before that.
        """
        if self._state in (_State.ALLOCATING, _State.ALLOCATED):
            self._peers.bind(peer, now)
            self._drain(now)

    def send(self, peer: Address, payload: bytes, segment_size: int, now: float) -> None:
        """Have the server send ``payload``, a datagram or a burst of them, to ``peer``.

        Without a permission one is asked for, and ``payload`` follows the request at once. Before
        there is an allocation, and to a peer that the server refuses, nothing is sent.
        """
        if self._state is not _State.ALLOCATED:
            return
        if not self._data.send(peer, payload, segment_size, now):
            self.permit(peer, now)
            self._data.send(peer, payload, segment_size, now)

    def release(self, peer: Address, now: float) -> None:
        """Stop refreshing what ``peer`` needed. It can reach us until that has expired."""
        self._peers.release(peer, now)

    def refresh(self, now: float) -> None:
        """Ask the server at once whether it still has the allocation: AllocationLost if not.

        Worth a question when the server may have been restarted; no answer changes nothing.
        """
        if self._state is _State.ALLOCATED and not self._is_refreshing:
            self._refresh(now)
            self._drain(now)

    def set_credentials(self, credentials: Credentials, now: float) -> None:
        """Use these from the next Refresh on, if the server lets us change the username."""
        self._responder.renew(credentials)

    def disconnected(self, now: float) -> None:
        """The connection to the server is gone, and with it the allocation."""
        self._fail(None, "the connection to the TURN server is gone")

    def close(self, now: float) -> None:
        """Give the relayed address back."""
        if self._state in (_State.CLOSING, _State.OVER):
            return
        allocating = self._state is _State.ALLOCATING
        self._state = _State.CLOSING
        self._stop()
        if allocating and not self._responder.has_signed:
            self._finish(AllocationClosed())
            return
        # An Allocate request that is under way may still succeed: the server then has something
        # to delete, or else says 437, which is as good.
        self._requests.start(Request(Purpose.CLOSE, (Lifetime(0), SOFTWARE)), now)
        self._drain(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """What came from ``server``; what did not, or is not TURN, is dropped."""
        if datagram.source != self.server:
            return
        if self._data.receive(datagram):
            return
        if datagram.segment_size:
            for message in datagram.segments():
                if not self._data.receive(Datagram(datagram.source, datagram.destination, message)):
                    self._stun(message, now)
        else:
            self._stun(datagram.payload, now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.REFRESH:
                    self._refresh(now)
                case _Timer.EXPIRY:
                    self._fail(None, "the TURN server has not refreshed the allocation in time")
        self._requests.handle_timeout(now)
        self._peers.handle_timeout(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return least(self._timers.next(), self._requests.next_timeout(), self._peers.next_timeout())

    def outputs(self) -> Iterator[AllocationOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _stun(self, payload: bytes, now: float) -> None:
        try:
            message = decode(payload)
        except MalformedMessage:
            return
        if message.message_class is MessageClass.INDICATION:
            self._data.indication(message)
        else:
            self._requests.receive(message, now)
            self._drain(now)

    def _allocate(self, now: float) -> None:
        """RFC 8656 Section 7.1."""
        attributes: list[Attribute] = [RequestedTransport(), SOFTWARE]
        if self._family is not None:
            attributes.append(RequestedAddressFamily(self._family))
        if self._lifetime != DEFAULT_LIFETIME:
            attributes.append(Lifetime(self._lifetime))
        self._requests.start(Request(Purpose.ALLOCATE, tuple(attributes)), now)

    def _refresh(self, now: float) -> None:
        """RFC 8656 Section 8.1."""
        attributes: tuple[Attribute, ...] = (SOFTWARE,)
        if self._lifetime != DEFAULT_LIFETIME:
            attributes = (Lifetime(self._lifetime), SOFTWARE)
        self._is_refreshing = True
        self._timers.disarm(_Timer.REFRESH)
        self._requests.start(Request(Purpose.REFRESH, attributes), now)

    def _drain(self, now: float) -> None:
        for output in self._requests.outputs():
            match output:
                case Transmit():
                    self._outputs.append(output)
                case Granted(request, answer):
                    self._granted(request, answer, now)
                case Denied():
                    self._denied(output, now)
                case SentLate(request) if request.peer is not None:
                    self._data.send_again(request.peer.host)

    def _granted(self, request: Request, answer: Message, now: float) -> None:
        match request.purpose:
            case Purpose.ALLOCATE:
                self._allocated(request, answer, now)
            case Purpose.REFRESH:
                lifetime = answer.get(Lifetime)
                self._is_refreshing = False
                self._plan_refresh(lifetime.seconds if lifetime else DEFAULT_LIFETIME, request)
            case Purpose.CLEAR:
                self._allocate(now)
            case Purpose.CLOSE:
                self._finish(AllocationClosed())
            case Purpose.PERMISSION | Purpose.CHANNEL:
                self._peers.granted(request, now)

    def _allocated(self, request: Request, answer: Message, now: float) -> None:
        """RFC 8656 Section 7.3."""
        relayed, mapped = answer.get(XorRelayedAddress), answer.get(XorMappedAddress)
        lifetime = answer.get(Lifetime)
        wanted = self._family or AddressFamily.IPV4
        if relayed is None or mapped is None or lifetime is None:
            self._finish(AllocationFailed(None, "the TURN server's answer is not complete"))
        elif relayed.address.is_ipv6 is not (wanted is AddressFamily.IPV6):
            self._delete(now)
            self._finish(AllocationFailed(None, "the TURN server gave the wrong address family"))
        else:
            self._state = _State.ALLOCATED
            self.relayed_address, self.mapped_address = relayed.address, mapped.address
            self._data.relayed = relayed.address
            said, seconds = answer.get(Software), lifetime.seconds
            software = "" if said is None else said.value
            self._outputs.append(Allocated(relayed.address, mapped.address, seconds, software))
            self._plan_refresh(lifetime.seconds, request)
            self._peers.begin(now)

    def _plan_refresh(self, lifetime_seconds: int, request: Request) -> None:
        """The lifetime may run since the moment at which ``request`` was sent."""
        lead = min(REFRESH_BEFORE_EXPIRY, lifetime_seconds / 2)
        self._timers.arm(_Timer.REFRESH, request.sent_at + lifetime_seconds - lead)
        self._timers.arm(_Timer.EXPIRY, request.sent_at + lifetime_seconds)

    def _denied(self, denied: Denied, now: float) -> None:
        code, reason = denied.code, denied.reason
        # RFC 8656 Section 5: 437 "to a request other than Allocate" says that it is gone. Nor is
        # there an allocation for us where our signature does not count any more.
        is_over = code in (401, 437, 438, 441)
        match denied.request.purpose:
            case Purpose.ALLOCATE:
                self._allocate_denied(denied, now)
            case Purpose.CLEAR:
                if code == 437:
                    self._allocate(now)
                else:
                    self._finish(AllocationFailed(437, "the TURN server has us already"))
            case Purpose.CLOSE:
                self._finish(AllocationClosed())
            case Purpose.REFRESH if code == 441 and self._responder.was_a_try(
                denied.request.signature
            ):
                self._refresh(now)
            case Purpose.REFRESH if is_over:
                self._fail(code, reason)
            case Purpose.REFRESH:
                self._is_refreshing = False
                self._timers.arm(_Timer.REFRESH, now + REFRESH_AGAIN_AFTER)
            case Purpose.PERMISSION | Purpose.CHANNEL if is_over:
                self._fail(code, reason)
            case Purpose.CHANNEL if code == 400:
                # Section 12.3: "immediately delete the allocation and start afresh".
                self._delete(now)
                self._fail(code, "the channels of client and server are out of step")
            case Purpose.PERMISSION | Purpose.CHANNEL:
                self._outputs.extend(self._peers.denied(denied, now))

    def _allocate_denied(self, denied: Denied, now: float) -> None:
        """RFC 8656 Section 7.4."""
        code, answer = denied.code, denied.answer
        if code == 437 and not self._has_cleared:
            # Perhaps it is ours, from before a crash. If not, the server will not delete it.
            # coturn says 437 before it asks who we are; then it asks now.
            self._has_cleared = True
            self._requests.start(Request(Purpose.CLEAR, (Lifetime(0), SOFTWARE)), now)
            return
        server, domain = None, None
        if code == 300 and answer is not None:
            server, domain = answer.get(AlternateServer), answer.get(AlternateDomain)
        known = {self.server, *self._redirected_by}
        self._finish(
            AllocationFailed(
                code,
                denied.reason,
                server.address if server is not None and server.address not in known else None,
                domain.value if domain is not None else None,
            )
        )

    def _delete(self, now: float) -> None:
        """Tell the server to forget the allocation, without waiting for what it says."""
        self._requests.start(Request(Purpose.CLOSE, (Lifetime(0), SOFTWARE)), now)
        self._outputs.extend(o for o in self._requests.outputs() if isinstance(o, Transmit))

    def _fail(self, code: int | None, reason: str) -> None:
        match self._state:
            case _State.ALLOCATING:
                self._finish(AllocationFailed(code, reason))
            case _State.ALLOCATED:
                self._finish(AllocationLost(code, reason))
            case _State.CLOSING:
                self._finish(AllocationClosed())

    def _finish(self, event: AllocationFailed | AllocationLost | AllocationClosed) -> None:
        self._stop()
        self._state = _State.OVER
        self._outputs.append(event)

    def _stop(self) -> None:
        self._data.relayed = None
        self._timers.clear()
        self._peers.stop()
        self._requests.abandon_all()
