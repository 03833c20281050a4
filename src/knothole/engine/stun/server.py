"""The STUN server: answers Binding requests, and nothing else (RFC 8489 Section 12).

Stateless: every request is answered by itself, retransmissions alike. With a second address it
serves NAT behaviour discovery too (RFC 5780 Section 6). Clients of RFC 3489 are answered in kind
where that is asked for. No answer ever goes to an address that the request names, only to where it
came from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.guard import Denied, Guard, Proof
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AlternateServer,
    Attribute,
    ChangedAddress,
    ChangeRequest,
    ErrorCode,
    MalformedMessage,
    MappedAddress,
    Message,
    MessageClass,
    Method,
    OtherAddress,
    Padding,
    ResponseAddress,
    ResponseOrigin,
    ResponsePort,
    Software,
    SourceAddress,
    UnknownAttributes,
    XorMappedAddress,
    decode,
    encode,
)

TRY_ALTERNATE: Final = 300  # RFC 8489 Section 14.8
BAD_REQUEST: Final = 400  # RFC 8489 Section 14.8
UNKNOWN_ATTRIBUTE: Final = 420  # ibid.

# Ours: a PADDING attribute in the answer makes it no longer than the request, nor than an Ethernet.
MAX_PADDING: Final = 1500
# Ours: RESPONSE-PORT must not aim answers at a well-known service of the host that asks.
LEAST_RESPONSE_PORT: Final = 1024


@dataclass(frozen=True, slots=True)
class AlternateAddresses:
    """The addresses that serve NAT discovery: every host with both ports, UDP (RFC 5780 Section 6).

    ``other_host`` is None on a server with one IP address. Such a server does not announce itself
    (no OTHER-ADDRESS), but a client that knows of its second port may ask for an answer from there.
    """

    host: str
    port: int
    other_port: int
    other_host: str | None = None

    def changed(self, received_at: Address, change: ChangeRequest) -> Address | None:
        """Where to answer from (RFC 5780 Section 6.1, Table 1); None: there is no such address."""
        hosts = {self.host: self.other_host}
        if self.other_host is not None:
            hosts[self.other_host] = self.host
        ports = {self.port: self.other_port, self.other_port: self.port}
        if received_at.host not in hosts or received_at.port not in ports:
            return None
        host = hosts[received_at.host] if change.change_ip else received_at.host
        port = ports[received_at.port] if change.change_port else received_at.port
        return None if host is None else Address(host, port)


_BOTH = ChangeRequest(change_ip=True, change_port=True)


class BindingServer:
    """Answers Binding requests that arrive on any of the server's addresses, over UDP or streams.

    A datagram's ``destination`` must be the very address it arrived at when there are
    ``alternates``. A ``software`` of None keeps the answers short, and with them what an attacker
    gains by a forged source. With ``classic`` clients of RFC 3489 are answered, too. With a
    ``guard`` only those are answered whom it admits, and the answers are signed.

    ``redirect_to``, when set, is where clients of the same address family are sent with 300 (Try
    Alternate, RFC 8489 Section 10).
    """

    def __init__(
        self,
        *,
        alternates: AlternateAddresses | None = None,
        software: str | None = None,
        classic: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self.redirect_to: Address | None = None
        self._guard = guard
        self._classic = classic
        self._alternates = alternates
        self._software = software
        self._outputs: deque[Transmit] = deque()

    def receive(self, datagram: Datagram, now: float) -> None:
        answer = self.answer(datagram, now)
        if answer is not None:
            self._outputs.append(Transmit(answer))

    def handle_timeout(self, now: float) -> None:
        """Nothing is ever due."""

    def next_timeout(self) -> float | None:
        return None

    def outputs(self) -> Iterator[Transmit]:
        while self._outputs:
            yield self._outputs.popleft()

    def answer(self, datagram: Datagram, now: float = 0.0) -> Datagram | None:
        """The answer to one datagram, None when it deserves none: not a Binding request.

        ``now`` matters to a guard only.
        """
        try:
            request = decode(datagram.payload, classic=self._classic)
        except MalformedMessage:
            return None
        if request.message_class is not MessageClass.REQUEST or request.method != Method.BINDING:
            return None
        proof: Proof | None = None
        if self._guard is not None:
            try:
                proof = self._guard.admit(request, datagram, now)
            except Denied as denied:
                attributes = (ErrorCode(denied.code, denied.reason), *denied.attributes)
                return _error(request, datagram, attributes)
        unknown = self._unknown(request, datagram)
        if unknown:
            return self._refuse(request, datagram, UNKNOWN_ATTRIBUTE, unknown, proof)
        elsewhere = self.redirect_to
        if elsewhere is not None and elsewhere.is_ipv6 is datagram.source.is_ipv6:
            alternate = (ErrorCode(TRY_ALTERNATE, "Try Alternate"), AlternateServer(elsewhere))
            return _error(request, datagram, alternate, proof)
        source, destination = datagram.destination, datagram.source
        change = request.get(ChangeRequest)
        if change is not None and self._alternates is not None:
            source = self._alternates.changed(source, change) or source
        response_port = request.get(ResponsePort)
        if response_port is not None:
            # RFC 5780 Section 6.1: with PADDING "the server MUST return an error ... 400".
            if request.get(Padding) is not None or response_port.port < LEAST_RESPONSE_PORT:
                return self._refuse(request, datagram, BAD_REQUEST, (), proof)
            destination = Address(destination.host, response_port.port)
        success = self._success_attributes(request, datagram, source)
        return datagram._replace(
            source=source,
            destination=destination,
            payload=_response(request, MessageClass.SUCCESS, success, proof),
        )

    def _serves_discovery(self, datagram: Datagram) -> bool:
        return self._alternates is not None and datagram.transport is Transport.UDP

    def _unknown(self, request: Message, datagram: Datagram) -> tuple[int, ...]:
        """The attributes that this server, here and now, does not understand."""
        unknown = list(request.unknown_required)
        if request.get(ResponseAddress) is not None:
            unknown.append(ResponseAddress.TYPE)
        discovery = self._serves_discovery(datagram)
        change = request.get(ChangeRequest)
        if change is not None and (change.change_ip or change.change_port):
            # RFC 5780 Section 6.1: without an alternate address it "MUST generate ... 420".
            alternates = self._alternates if discovery else None
            if alternates is None or alternates.changed(datagram.destination, change) is None:
                unknown.append(ChangeRequest.TYPE)
        if request.get(ResponsePort) is not None and not discovery:
            unknown.append(ResponsePort.TYPE)
        return tuple(unknown)

    def _success_attributes(
        self, request: Message, datagram: Datagram, source: Address
    ) -> tuple[Attribute, ...]:
        attributes: list[Attribute] = []
        other = None
        if self._alternates is not None and self._alternates.other_host is not None:
            other = self._alternates.changed(datagram.destination, _BOTH)
        if not request.cookie:
            attributes += [MappedAddress(datagram.source), SourceAddress(source)]
            if other is not None:
                attributes.append(ChangedAddress(other))
            return tuple(attributes)
        attributes.append(XorMappedAddress(datagram.source))
        if other is not None and datagram.transport is Transport.UDP:
            # RFC 5780 Section 6.1: both kinds of mapped address, and where the answer comes from.
            attributes += [
                MappedAddress(datagram.source),
                ResponseOrigin(source),
                OtherAddress(other),
            ]
        padding = request.get(Padding)
        if padding is not None and self._serves_discovery(datagram):
            attributes.append(Padding(min(padding.length, MAX_PADDING)))
        if self._software is not None:
            attributes.append(Software(self._software))
        return tuple(attributes)

    def _refuse(
        self,
        request: Message,
        datagram: Datagram,
        code: int,
        unknown: tuple[int, ...],
        proof: Proof | None,
    ) -> Datagram:
        reason = "Unknown Attribute" if code == UNKNOWN_ATTRIBUTE else "Bad Request"
        attributes: tuple[Attribute, ...] = (ErrorCode(code, reason),)
        if unknown:
            if not request.cookie and len(unknown) % 2:
                unknown = (*unknown, unknown[-1])  # RFC 3489 Section 11.2.10: one of them twice
            attributes += (UnknownAttributes(unknown),)
        return _error(request, datagram, attributes, proof)


def _error(
    request: Message,
    datagram: Datagram,
    attributes: tuple[Attribute, ...],
    proof: Proof | None = None,
) -> Datagram:
    return datagram._replace(
        source=datagram.destination,
        destination=datagram.source,
        payload=_response(request, MessageClass.ERROR, attributes, proof),
    )


def _response(
    request: Message,
    message_class: MessageClass,
    attributes: tuple[Attribute, ...],
    proof: Proof | None,
) -> bytes:
    response = Message(
        message_class, request.method, request.transaction_id, attributes, request.cookie
    )
    key = None if proof is None or proof.sha256 else proof.key
    sha256_key = proof.key if proof is not None and proof.sha256 else None
    return encode(response, key=key, sha256_key=sha256_key, fingerprint=request.has_fingerprint)
