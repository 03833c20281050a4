"""How long an idle mapping lives, measured without disturbing anything (RFC 5780 Section 4.6).

Every idle socket makes a mapping and then is silent for its own length of time; after it another
socket asks the server to answer to that mapping (RESPONSE-PORT). What comes in is alive.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.stun.transaction import Retransmission, Transaction, TransactionTimedOut
from knothole.wire.address import Address
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    ResponsePort,
    XorMappedAddress,
    decode,
    encode,
)

IDLE_SECONDS: Final = (1.0, 15.0, 25.0, 40.0, 60.0, 100.0, 170.0, 290.0)
"""Ours. The first is for the server: one that does not answer to it cannot do this at all. RFC
4787 REQ-5 asks for two minutes at least and recommends five; Linux has 30 s."""

QUESTION: Final = Retransmission(rto_seconds=0.5, max_requests=3, last_wait=2)


@dataclass(frozen=True, slots=True)
class LifetimeLearned:
    """An idle mapping has lived for ``seconds``. None: this server cannot tell.

    When ``final`` nothing more will be learned.
    """

    seconds: float | None
    final: bool


LifetimeOutput: TypeAlias = Transmit | LifetimeLearned


class _Step(enum.Enum):
    OPEN = enum.auto()  # the idle socket makes its mapping
    IDLE = enum.auto()
    PROBE = enum.auto()  # the asking socket has the server answer to it


@dataclass(slots=True, eq=False)
class _Idle:
    base: Address
    seconds: float
    step: _Step
    transaction: Transaction | None = None
    mapped: Address | None = None
    probe_at: float | None = None


class LifetimeMeasurement:
    """Measures with ``idle`` sockets, as many as IDLE_SECONDS has entries, and one that asks."""

    def __init__(
        self,
        asking: Address,
        idle: Sequence[Address],
        server: Address,
        *,
        random: RandomBytes,
        now: float,
    ) -> None:
        self._asking = asking
        self._server = server
        self._random = random
        self._outputs: deque[LifetimeOutput] = deque()
        self._lived: float | None = None
        self.done = False
        self._idle = [
            _Idle(base, seconds, _Step.OPEN)
            for base, seconds in zip(idle, IDLE_SECONDS, strict=False)
        ]
        for each in self._idle:
            each.transaction = self._ask(each.base, (), now)
        self._drain()

    def receive(self, datagram: Datagram, now: float) -> None:
        try:
            message = decode(datagram.payload)
        except MalformedMessage:
            return
        for each in self._idle:
            transaction = each.transaction
            if transaction is None or not transaction.answered_by(message):
                continue
            mapped = message.get(XorMappedAddress)
            if each.step is _Step.OPEN and datagram.destination == each.base and mapped:
                each.step, each.transaction = _Step.IDLE, None
                each.mapped, each.probe_at = mapped.address, now + each.seconds
            elif each.step is _Step.PROBE:
                # What comes back to the asking socket is a refusal, or a server that ignores it.
                self._probed(each, alive=datagram.destination == each.base)
            return

    def handle_timeout(self, now: float) -> None:
        for each in tuple(self._idle):
            if each.transaction is not None:
                each.transaction.handle_timeout(now)
            elif each.probe_at is not None and each.probe_at <= now and each.mapped is not None:
                each.step, each.probe_at = _Step.PROBE, None
                each.transaction = self._ask(self._asking, (ResponsePort(each.mapped.port),), now)
        self._drain()

    def next_timeout(self) -> float | None:
        running = (each.transaction.next_timeout() for each in self._idle if each.transaction)
        return None if self.done else least(*running, *(each.probe_at for each in self._idle))

    def outputs(self) -> Iterator[LifetimeOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _ask(self, base: Address, attributes: tuple[Attribute, ...], now: float) -> Transaction:
        request = Message(
            MessageClass.REQUEST, Method.BINDING, self._random(TRANSACTION_ID_SIZE), attributes
        )
        return Transaction(
            Datagram(base, self._server, encode(request)), now, retransmission=QUESTION
        )

    def _drain(self) -> None:
        for each in tuple(self._idle):
            for output in each.transaction.outputs() if each.transaction else ():
                if not isinstance(output, TransactionTimedOut):
                    self._outputs.append(output)
                elif each.step is _Step.PROBE:
                    self._probed(each, alive=False)
                else:
                    self._forget(each)

    def _probed(self, idle: _Idle, *, alive: bool) -> None:
        """One answer. The shortest that is dead ends it: no longer one can be trusted."""
        if self.done:
            return
        if not alive:
            self._end()
            return
        if idle.seconds != IDLE_SECONDS[0]:
            self._lived = idle.seconds
        self._forget(idle)
        if self._idle and self._lived is not None:
            self._outputs.append(LifetimeLearned(self._lived, False))

    def _forget(self, idle: _Idle) -> None:
        self._idle.remove(idle)
        if not self._idle:
            self._end()

    def _end(self) -> None:
        self.done = True
        self._idle.clear()
        self._outputs.append(LifetimeLearned(self._lived, True))
