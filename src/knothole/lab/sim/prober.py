"""The smallest hole puncher: a measuring instrument for simulated networks, not an ICE agent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.wire.address import Address
from knothole.wire.stun import (
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    XorMappedAddress,
    decode,
    encode,
)

INTERVAL_SECONDS: Final = 0.05  # RFC 8445 Section 14.2: the default of Ta
MAX_CHECKS: Final = 80  # ours: four seconds, then it has failed
MAX_REMOTES: Final = 16  # ours: where every answer comes from a new port, this ends the chase


@dataclass(frozen=True, slots=True)
class Mapped:
    """The server saw us at this address."""

    address: Address


@dataclass(frozen=True, slots=True)
class Connected:
    """A check was answered from where it went (RFC 8445 Section 7.2.5.2.1)."""

    remote: Address


Output: TypeAlias = Transmit | Mapped | Connected


class Prober:
    """One base that asks one STUN server for its mapped address and answers Binding requests;
    after ``check`` it sends checks in turn to all addresses it knows of the other side, those
    included that the other side's checks came from, until one is answered from where it went."""

    def __init__(self, base: Address, server: Address, random: RandomBytes, now: float) -> None:
        self._base, self._server, self._random = base, server, random
        self._remotes: list[Address] = []
        self._asked: dict[bytes, Address] = {}
        self._outputs: deque[Output] = deque()
        self._next: float | None = None
        self._checks = 0
        self._request(server)

    def check(self, remotes: Iterable[Address], now: float) -> None:
        """Begin to check these addresses."""
        self._remotes += [remote for remote in remotes if remote not in self._remotes]
        self._next = now

    def receive(self, datagram: Datagram, now: float) -> None:
        try:
            message = decode(datagram.payload)
        except MalformedMessage:
            return
        if message.message_class is MessageClass.REQUEST:
            self._answer(message, datagram.source)
        elif message.message_class is MessageClass.SUCCESS:
            asked = self._asked.pop(message.transaction_id, None)
            if asked != datagram.source:
                return
            mapped = message.get(XorMappedAddress)
            if asked != self._server:
                self._next = None
                self._outputs.append(Connected(asked))
            elif mapped is not None:
                self._outputs.append(Mapped(mapped.address))

    def handle_timeout(self, now: float) -> None:
        if self._next is None or now < self._next or not self._remotes:
            return
        self._request(self._remotes[self._checks % len(self._remotes)])
        self._checks += 1
        self._next = now + INTERVAL_SECONDS if self._checks < MAX_CHECKS else None

    def next_timeout(self) -> float | None:
        return self._next

    def outputs(self) -> Iterator[Output]:
        while self._outputs:
            yield self._outputs.popleft()

    def _request(self, remote: Address) -> None:
        transaction_id = self._random(12)
        self._asked[transaction_id] = remote
        message = Message(MessageClass.REQUEST, Method.BINDING, transaction_id)
        self._send(message, remote)

    def _answer(self, request: Message, source: Address) -> None:
        mapped = (XorMappedAddress(source),)
        self._send(
            Message(MessageClass.SUCCESS, Method.BINDING, request.transaction_id, mapped), source
        )
        if source not in self._remotes and len(self._remotes) < MAX_REMOTES:
            self._remotes.append(source)

    def _send(self, message: Message, to: Address) -> None:
        self._outputs.append(Transmit(Datagram(self._base, to, encode(message))))
