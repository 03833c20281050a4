"""Requests of a TURN client on their way: signed, paced, retransmitted, and answered."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.stun.transaction import Retransmission, Transaction
from knothole.engine.turn.challenge import Challenged, ChallengeResponder, Signature
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Method,
)

MAX_OUTSTANDING: Final = 10  # RFC 8489 Section 6.2: "ten outstanding transactions"
MAX_CHALLENGES: Final = 4  # ours: how often one request is signed anew before it has failed


class Purpose(enum.Enum):
    """Why a request is sent."""

    ALLOCATE = enum.auto()
    REFRESH = enum.auto()
    PERMISSION = enum.auto()
    CHANNEL = enum.auto()
    CLEAR = enum.auto()
    """Delete what an earlier run of ours has left behind on the same 5-tuple."""
    CLOSE = enum.auto()


_METHODS: Final = {
    Purpose.ALLOCATE: Method.ALLOCATE,
    Purpose.REFRESH: Method.REFRESH,
    Purpose.PERMISSION: Method.CREATE_PERMISSION,
    Purpose.CHANNEL: Method.CHANNEL_BIND,
    Purpose.CLEAR: Method.REFRESH,
    Purpose.CLOSE: Method.REFRESH,
}


@dataclass(slots=True, eq=False)
class Request:
    """What is asked of the server, through as many transactions as that takes.

    ``peer`` is whom it is for, if it is for one.
    """

    purpose: Purpose
    attributes: tuple[Attribute, ...]
    peer: Address | None = None
    sent_at: float = 0.0
    transaction: Transaction | None = None
    signature: Signature | None = None
    challenges: int = 0
    distrusted: str = ""
    """What an answer said that was not signed as it must be."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The server did what was asked."""

    request: Request
    answer: Message


@dataclass(frozen=True, slots=True)
class Denied:
    """The server did not; ``code`` is None when it did not answer at all, or not credibly."""

    request: Request
    code: int | None
    reason: str
    answer: Message | None = None


@dataclass(frozen=True, slots=True)
class SentLate:
    """The request has left just now: it had to wait for others, or the server wanted it signed
    anew. What was sent in the hope that it would arrive before has come too early."""

    request: Request


RequestsOutput: TypeAlias = Transmit | Granted | Denied | SentLate


class Requests:
    """The requests of one allocation."""

    def __init__(
        self,
        *,
        local: Address,
        server: Address,
        transport: Transport,
        responder: ChallengeResponder,
        random: RandomBytes,
        retransmission: Retransmission,
    ) -> None:
        self._local, self._server, self._transport = local, server, transport
        self._responder, self._random = responder, random
        self._retransmission = retransmission
        self._outstanding: dict[bytes, Request] = {}
        self._waiting: deque[Request] = deque()
        self._outputs: deque[RequestsOutput] = deque()

    def start(self, request: Request, now: float) -> None:
        """Send ``request``, as soon as not too many others are outstanding."""
        if len(self._outstanding) < MAX_OUTSTANDING:
            self._send(request, now)
        else:
            self._waiting.append(request)

    def abandon_all(self) -> None:
        """Forget every request."""
        self._outstanding.clear()
        self._waiting.clear()
        self._outputs.clear()

    def receive(self, answer: Message, now: float) -> None:
        """A response came from the server; it may be anybody's who can write its address."""
        request = self._outstanding.get(answer.transaction_id)
        if (
            request is None
            or request.transaction is None
            or not request.transaction.answered_by(answer)
            or answer.method != _METHODS[request.purpose]
        ):
            return
        error = answer.get(ErrorCode) if answer.message_class is MessageClass.ERROR else None
        if error is not None and error.code in (401, 438):
            self._finish(request, now)
            self._challenged(request, answer, error, now)
        elif not self._responder.trusts(answer, request.signature):
            self._distrust(request, error, now)
        elif answer.message_class is MessageClass.SUCCESS and not answer.unknown_required:
            self._finish(request, now)
            self._responder.accepted(request.signature)
            self._outputs.append(Granted(request, answer))
        else:
            self._finish(request, now)
            if error is None or answer.unknown_required:  # RFC 8489 Section 6.3.4
                self._outputs.append(Denied(request, None, "an answer that makes no sense"))
            else:
                self._deny(request, error, answer)

    def handle_timeout(self, now: float) -> None:
        for request in tuple(self._outstanding.values()):
            if request.transaction is not None:
                request.transaction.handle_timeout(now)
                self._drain(request, now)

    def next_timeout(self) -> float | None:
        return least(
            *(
                request.transaction.next_timeout()
                for request in self._outstanding.values()
                if request.transaction is not None
            )
        )

    def outputs(self) -> Iterator[RequestsOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _send(self, request: Request, now: float) -> None:
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        method = _METHODS[request.purpose]
        payload, request.signature = self._responder.request(
            method,
            transaction_id,
            request.attributes,
            renewed=request.purpose is Purpose.REFRESH,
        )
        datagram = Datagram(self._local, self._server, payload, transport=self._transport)
        request.transaction = Transaction(datagram, now, retransmission=self._retransmission)
        request.sent_at = now
        self._outstanding[transaction_id] = request
        self._drain(request, now)

    def _drain(self, request: Request, now: float) -> None:
        if request.transaction is None:
            return
        for output in tuple(request.transaction.outputs()):
            if isinstance(output, Transmit):
                self._outputs.append(output)
                continue
            self._finish(request, now)
            reason = request.distrusted or "the TURN server does not answer"
            self._outputs.append(Denied(request, None, reason))

    def _finish(self, request: Request, now: float) -> None:
        """Its transaction is over; a request that waits takes its place."""
        if request.transaction is not None:
            del self._outstanding[request.transaction.transaction_id]
            request.transaction.abandon()
            request.transaction = None
        while self._waiting and len(self._outstanding) < MAX_OUTSTANDING:
            waiting = self._waiting.popleft()
            self._send(waiting, now)
            self._outputs.append(SentLate(waiting))

    def _challenged(self, request: Request, answer: Message, error: ErrorCode, now: float) -> None:
        """RFC 8489 Section 9.2.5."""
        request.challenges += 1
        try:
            self._responder.learn(answer)
        except Challenged as challenged:
            self._outputs.append(Denied(request, error.code, str(challenged)))
            return
        hopeless = error.code == 401 and not self._responder.can_do_better(request.signature)
        if hopeless or request.challenges > MAX_CHALLENGES:
            self._deny(request, error, answer)
            return
        self._send(request, now)
        if error.code == 438:
            self._outputs.append(SentLate(request))

    def _deny(self, request: Request, error: ErrorCode, answer: Message) -> None:
        self._outputs.append(Denied(request, error.code, _plain(error.reason), answer))

    def _distrust(self, request: Request, error: ErrorCode | None, now: float) -> None:
        """RFC 8489 Section 9.2.5: over UDP "as if it had never been received", otherwise "signal
        that the integrity protection was violated"."""
        said = f"said {error.code} {_plain(error.reason)}" if error is not None else "said yes"
        request.distrusted = f"the TURN server, or somebody in its place, {said} without a proof"
        if self._transport.is_stream:
            self._finish(request, now)
            self._outputs.append(Denied(request, None, request.distrusted))


def _plain(text: str) -> str:
    """What a server says, fit for a terminal; coturn ends it with a zero byte."""
    return "".join(each for each in text if each.isprintable())
