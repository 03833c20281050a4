"""The STUN client of one base and one server: asks for the mapped address, once or for ever."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.stun.transaction import (
    STANDARD,
    Retransmission,
    Transaction,
    TransactionTimedOut,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    ErrorCode,
    MalformedMessage,
    MappedAddress,
    Message,
    MessageClass,
    Method,
    Software,
    XorMappedAddress,
    decode,
    encode,
    looks_like_stun,
)

MAX_SERVER_ERRORS: Final = 4  # RFC 8489 Section 6.3.4: "retransmissions SHOULD be limited to 4"
SERVER_ERROR_WAIT: Final = 0.5  # ours: a server that says 500 is asked again so much later

# Ours. The standard waits 39.5 s before it says that a server is gone; one who keeps a mapping warm
# must know sooner, and begins anew at a short interval, so that a server that is back is heard.
KEEPALIVE_RETRANSMISSION: Final = Retransmission(max_requests=5, last_wait=4)


@dataclass(frozen=True, slots=True)
class MappedAddressLearned:
    """The server sees ``base`` as ``mapped``: the first answer, or the first after a failure."""

    base: Address
    server: Address
    mapped: Address
    rtt_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MappedAddressChanged:
    """The server sees ``base`` as another address than before."""

    base: Address
    server: Address
    previous: Address
    mapped: Address


@dataclass(frozen=True, slots=True)
class BindingFailed:
    """The server did not answer (``code`` is None) or answered with an error.

    A client with keepalive says so once, goes on asking, and says MappedAddressLearned or
    MappedAddressChanged when it is answered again.
    """

    base: Address
    server: Address
    code: int | None
    reason: str


BindingOutput: TypeAlias = Transmit | MappedAddressLearned | MappedAddressChanged | BindingFailed


class _Timer(enum.Enum):
    ASK = enum.auto()


class BindingClient:
    """Asks ``server`` for the mapped address of ``base``, at once and every ``keepalive_seconds``.

    ``keepalive_seconds`` of None asks once. Over a stream, ``base`` and ``server`` name the
    connection and :meth:`disconnected` says that it is gone.
    """

    def __init__(
        self,
        base: Address,
        server: Address,
        *,
        random: RandomBytes,
        now: float,
        transport: Transport = Transport.UDP,
        keepalive_seconds: float | None = None,
        retransmission: Retransmission | None = None,
        software: str | None = None,
    ) -> None:
        self.base = base
        self.server = server
        self.mapped: Address | None = None
        self.rtt_seconds: float | None = None
        self._random = random
        self._transport = transport
        self.keepalive_seconds = keepalive_seconds
        if retransmission is None:
            retransmission = STANDARD if keepalive_seconds is None else KEEPALIVE_RETRANSMISSION
        self._retransmission = retransmission
        self._attributes = () if software is None else (Software(software),)
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[BindingOutput] = deque()
        self._transaction: Transaction | None = None
        self._started = now
        self._failing = False
        self._server_errors = 0
        self._closed = False
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Ask again at once, whatever is under way: before a call, after a network change."""
        if self._closed:
            return
        self._timers.clear()
        self._started = now
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        request = Message(
            MessageClass.REQUEST, Method.BINDING, transaction_id, attributes=self._attributes
        )
        self._transaction = Transaction(
            Datagram(self.base, self.server, encode(request), transport=self._transport),
            now,
            retransmission=self._retransmission,
        )
        self._drain_transaction(now)

    def set_keepalive(self, seconds: float, now: float) -> None:
        """Keep asking at another pace from now on."""
        self.keepalive_seconds = seconds
        if self._timers.is_armed(_Timer.ASK) and not self._failing:
            self._ask_later(now)

    def postpone(self, now: float) -> None:
        """What is asked for to keep the mapping warm is not needed now: payload does that."""
        if self._timers.is_armed(_Timer.ASK) and not self._failing and not self._server_errors:
            self._started = now
            self._ask_later(now)

    def close(self) -> None:
        """Stop: nothing more is sent or said."""
        self._closed = True
        self._timers.clear()
        self._transaction = None
        self._outputs.clear()

    def disconnected(self, now: float) -> None:
        """The stream to the server is gone, and with it a transaction in progress.

        Nothing more is asked before :meth:`refresh`.
        """
        self._timers.clear()
        if self._transaction is not None:
            self._fail(None, "the connection to the server is gone", now, again=False)

    def receive(self, datagram: Datagram, now: float) -> None:
        transaction = self._transaction
        if (
            transaction is None
            or datagram.source != self.server
            or datagram.destination != self.base
            or not looks_like_stun(datagram.payload)
            or datagram.payload[8:20] != transaction.transaction_id
        ):
            return
        try:
            message = decode(datagram.payload)
        except MalformedMessage:
            return
        if message.method != Method.BINDING or not transaction.answered_by(message):
            return
        rtt_seconds = transaction.complete(now)
        if rtt_seconds is not None:
            self.rtt_seconds = rtt_seconds
        if message.message_class is MessageClass.ERROR:
            self._handle_error(message, now)
        else:
            self._handle_success(message, now)

    def handle_timeout(self, now: float) -> None:
        if self._transaction is not None:
            self._transaction.handle_timeout(now)
            self._drain_transaction(now)
        # After the transaction: its failure may be what makes the next question due.
        if self._timers.pop_expired(now):
            self.refresh(now)

    def next_timeout(self) -> float | None:
        transaction = self._transaction
        return least(self._timers.next(), transaction.next_timeout() if transaction else None)

    def outputs(self) -> Iterator[BindingOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _drain_transaction(self, now: float) -> None:
        if self._transaction is None:
            return
        for output in self._transaction.outputs():
            if isinstance(output, TransactionTimedOut):
                self._fail(None, "the server does not answer", now)
            else:
                self._outputs.append(output)

    def _handle_success(self, message: Message, now: float) -> None:
        # RFC 8489 Section 6.3.3; a server of RFC 3489 knows MAPPED-ADDRESS only (Section 11).
        found = message.get(XorMappedAddress) or message.get(MappedAddress)
        if message.unknown_required or found is None:
            self._fail(None, "the server's answer has no mapped address", now)
            return
        previous, self.mapped = self.mapped, found.address
        failing, self._failing = self._failing, False
        self._server_errors = 0
        self._transaction = None
        if previous is not None and previous != found.address:
            self._outputs.append(
                MappedAddressChanged(self.base, self.server, previous, found.address)
            )
        elif previous is None or failing:
            self._outputs.append(
                MappedAddressLearned(self.base, self.server, found.address, self.rtt_seconds)
            )
        self._ask_later(now)

    def _handle_error(self, message: Message, now: float) -> None:
        error = message.get(ErrorCode)
        if error is None or message.unknown_required:  # RFC 8489 Section 6.3.4
            self._fail(None, "the server's answer cannot be understood", now)
        elif error.code // 100 == 5 and self._server_errors < MAX_SERVER_ERRORS:
            self._server_errors += 1
            self._transaction = None
            self._timers.arm(_Timer.ASK, now + SERVER_ERROR_WAIT)
        else:
            self._fail(error.code, error.reason, now)

    def _fail(self, code: int | None, reason: str, now: float, *, again: bool = True) -> None:
        if not self._failing:
            self._outputs.append(BindingFailed(self.base, self.server, code, reason))
        self._failing = self.keepalive_seconds is not None
        self._server_errors = 0
        self._transaction = None
        if again:
            self._ask_later(now)

    def _ask_later(self, now: float) -> None:
        if self.keepalive_seconds is not None:
            self._timers.arm(_Timer.ASK, max(self._started + self.keepalive_seconds, now))
