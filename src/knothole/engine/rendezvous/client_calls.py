"""The calls of one client, so that they outlive the connection they were made on.

What a lost connection may have swallowed is said again after the next registration, and what
comes twice is told once. docs/protocol/signal.md Section 5.5.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

from msgspec import structs

from knothole.engine.rendezvous.deadlines import Deadlines
from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallCancelled,
    CallDeclined,
    CalleeOnFile,
    CalleeRinging,
    CallNotMade,
    ClientOutput,
    EarlyReceived,
    IncomingCall,
    PeerHungUp,
    TrickleReceived,
)
from knothole.wire.signal import messages as m
from knothole.wire.signal.values import MAX_EARLY_DATAGRAMS, Failure, Reason, Trouble

GUARD_SECONDS: Final = 60.0  # ours: the server ends a ringing call at 45 s; this is for no server
ORPHAN_SECONDS: Final = 6.0  # ours: after a reconnection the caller is back by then, or has gone
RECANCEL_SECONDS: Final = 20.0  # ours: by then a dead connection is noticed
MAX_RINGING: Final = 64  # ours: more at once is no person calling
ENDED_CALLS: Final = 1024  # ours: remembered, so that a call that has ended does not ring again


class _Timer(enum.Enum):
    GUARD = enum.auto()
    ORPHAN = enum.auto()
    RECANCEL = enum.auto()


@dataclass(eq=False, slots=True)
class _Outgoing:
    call: m.Call
    answered_by: bytes | None = None


@dataclass(eq=False, slots=True)
class _Incoming:
    incoming: m.Incoming
    ringing: bool = False
    answer: m.Answer | None = None


class ClientCalls:
    """Messages for the server go to ``outbox``, events for the parent to ``events``."""

    def __init__(self, outbox: deque[m.ClientMessage], events: deque[ClientOutput]) -> None:
        self._outbox = outbox
        self._events = events
        self._outgoing: dict[bytes, _Outgoing] = {}
        self._incoming: dict[bytes, _Incoming] = {}
        self._cancelled: dict[bytes, m.Cancel] = {}
        self._declined: dict[bytes, str] = {}  # ended incoming calls, and what to say of them
        self._deadlines: Deadlines[tuple[bytes, _Timer]] = Deadlines()

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

    def handle_timeout(self, now: float) -> None:
        for call_id, timer in self._deadlines.pop_expired(now):
            match timer:
                case _Timer.RECANCEL:
                    del self._cancelled[call_id]
                case _Timer.GUARD if call_id in self._outgoing:
                    self._end_outgoing(call_id)
                    text = "nobody answered, and the server did not say why"
                    self._events.append(CallNotMade(call_id, Failure.NO_ANSWER, text))
                case _Timer.GUARD:
                    self._end_incoming(call_id, Reason.NO_ANSWER)
                    self._events.append(CallCancelled(call_id, Reason.NO_ANSWER))
                case _Timer.ORPHAN:
                    self._end_incoming(call_id, Reason.FAILED)
                    self._events.append(CallCancelled(call_id, Reason.CALLER_GONE))

    def registered(self, now: float) -> None:
        """Registered anew: say again what may have been lost, and expect the same of others."""
        self._outbox.extend(self._cancelled.values())
        for outgoing in self._outgoing.values():
            if outgoing.answered_by is None:
                self._outbox.append(structs.replace(outgoing.call, again=True))
        for call_id, incoming in self._incoming.items():
            if incoming.answer is None:
                self._deadlines.arm((call_id, _Timer.ORPHAN), now + ORPHAN_SECONDS)

    # What our parent wants. A call that has ended meanwhile is passed over in silence: its parent
    # has been or is being told.

    def call(self, call: m.Call, now: float) -> None:
        if call.call_id in self._outgoing or call.call_id in self._incoming:
            raise ValueError("a call id is used for one call only")
        self._outgoing[call.call_id] = _Outgoing(call)
        self._deadlines.arm((call.call_id, _Timer.GUARD), now + GUARD_SECONDS)
        self._outbox.append(call)

    def ringing(self, call_id: bytes) -> None:
        incoming = self._incoming.get(call_id)
        if incoming is not None and incoming.answer is None and not incoming.ringing:
            incoming.ringing = True
            self._outbox.append(m.Ringing(call_id))

    def answer(self, call_id: bytes, sealed: bytes, show_host: bool = False) -> None:
        incoming = self._incoming.get(call_id)
        if incoming is not None and incoming.answer is None:
            incoming.answer = m.Answer(call_id, sealed, show_host)
            self._disarm(call_id)
            self._outbox.append(incoming.answer)

    def decline(self, call_id: bytes, reason: str) -> None:
        incoming = self._incoming.get(call_id)
        if incoming is not None and incoming.answer is None:
            self._end_incoming(call_id, reason)
            self._outbox.append(m.Decline(call_id, reason))

    def cancel(self, call_id: bytes, reason: str, now: float) -> None:
        if call_id in self._outgoing:
            self._end_outgoing(call_id)
            cancel = m.Cancel(call_id, reason)
            self._cancelled[call_id] = cancel
            self._deadlines.arm((call_id, _Timer.RECANCEL), now + RECANCEL_SECONDS)
            self._outbox.append(cancel)

    def hang_up(self, call_id: bytes, reason: str, now: float) -> None:
        """Ends a call in whatever state it is."""
        outgoing, incoming = self._outgoing.get(call_id), self._incoming.get(call_id)
        if outgoing is not None and outgoing.answered_by is None:
            self.cancel(call_id, reason, now)
        elif incoming is not None and incoming.answer is None:
            self.decline(call_id, reason)
        elif outgoing is not None or incoming is not None:
            self._end(call_id)
            self._outbox.append(m.HangUp(call_id, reason))

    def trickle(self, call_id: bytes, sealed: bytes) -> None:
        if call_id in self._outgoing or call_id in self._incoming:
            self._outbox.append(m.Trickle(call_id, sealed))

    def early(self, call_id: bytes, datagrams: tuple[bytes, ...]) -> None:
        if call_id in self._outgoing or call_id in self._incoming:
            for start in range(0, len(datagrams), MAX_EARLY_DATAGRAMS):
                self._outbox.append(
                    m.Early(call_id, datagrams[start : start + MAX_EARLY_DATAGRAMS])
                )

    def receive(self, message: m.ServerMessage, now: float) -> bool:
        """True when the message was about a call."""
        match message:
            case m.Incoming():
                self._receive_incoming(message, now)
            case m.Calling() | m.Answered() | m.Declined() | m.CallFailed():
                self._receive_of_outgoing(message)
            case m.Ringing():
                outgoing = self._outgoing.get(message.call_id)
                if outgoing is not None and outgoing.answered_by is None and message.device_id:
                    self._events.append(CalleeRinging(message.call_id, message.device_id))
            case m.Cancelled():
                incoming = self._incoming.get(message.call_id)
                if incoming is not None:  # also one that we answered, when another was quicker
                    self._end_incoming(message.call_id, message.reason)
                    self._events.append(CallCancelled(message.call_id, message.reason))
            case m.HangUp():
                if message.call_id in self._outgoing or message.call_id in self._incoming:
                    self._end(message.call_id)
                    self._events.append(PeerHungUp(message.call_id, message.reason))
            case m.Trickle() | m.Early():
                self._receive_passed_on(message)
            case m.Problem(code=Trouble.RATE, call_id=bytes(call_id)) if call_id in self._outgoing:
                if self._outgoing[call_id].answered_by is None:
                    self._end_outgoing(call_id)
                    failed = CallNotMade(call_id, Failure.TOO_MANY_CALLS, message.text)
                    self._events.append(failed)
            case m.Problem(call_id=bytes(call_id)) if call_id in self._cancelled:
                pass  # the server had it the first time
            case _:
                return False
        return True

    def _receive_incoming(self, message: m.Incoming, now: float) -> None:
        known = self._incoming.get(message.call_id)
        if known is not None:
            self._deadlines.disarm((message.call_id, _Timer.ORPHAN))
            if known.incoming != structs.replace(message, observed=known.incoming.observed):
                return  # another call under the same id: no honest server passes that on
            if known.answer is not None:
                self._outbox.append(known.answer)
            elif known.ringing:
                self._outbox.append(m.Ringing(message.call_id))
        elif message.call_id in self._declined or message.call_id in self._outgoing:
            reason = self._declined.get(message.call_id, Reason.FAILED)
            self._outbox.append(m.Decline(message.call_id, reason))
        elif self._ringing_count() >= MAX_RINGING:
            self._outbox.append(m.Decline(message.call_id, Reason.BUSY))
        else:
            self._incoming[message.call_id] = _Incoming(message)
            self._deadlines.arm((message.call_id, _Timer.GUARD), now + GUARD_SECONDS)
            self._events.append(
                IncomingCall(
                    message.call_id,
                    message.from_name,
                    message.from_key,
                    message.from_device,
                    message.offer,
                    message.observed,
                )
            )

    def _receive_of_outgoing(
        self, message: m.Calling | m.Answered | m.Declined | m.CallFailed
    ) -> None:
        call_id = message.call_id
        outgoing = self._outgoing.get(call_id)
        if outgoing is None or outgoing.answered_by is not None:
            return
        match message:
            case m.Calling():
                self._events.append(CalleeOnFile(call_id, message.devices))
            case m.Answered():
                outgoing.answered_by = message.device_id
                self._disarm(call_id)
                self._events.append(
                    CallAnswered(call_id, message.device_id, message.answer, message.observed)
                )
            case m.Declined():
                self._end_outgoing(call_id)
                self._events.append(CallDeclined(call_id, message.reason))
            case m.CallFailed():
                self._end_outgoing(call_id)
                self._events.append(CallNotMade(call_id, message.code, message.text))

    def _receive_passed_on(self, message: m.Trickle | m.Early) -> None:
        known = message.call_id in self._outgoing or message.call_id in self._incoming
        if not known or message.device_id is None:
            return
        if isinstance(message, m.Trickle):
            self._events.append(TrickleReceived(message.call_id, message.device_id, message.sealed))
        else:
            self._events.append(
                EarlyReceived(message.call_id, message.device_id, message.datagrams)
            )

    def _ringing_count(self) -> int:
        return sum(incoming.answer is None for incoming in self._incoming.values())

    def _end(self, call_id: bytes) -> None:
        if call_id in self._outgoing:
            self._end_outgoing(call_id)
        else:
            self._end_incoming(call_id, Reason.FAILED)

    def _end_outgoing(self, call_id: bytes) -> None:
        del self._outgoing[call_id]
        self._disarm(call_id)

    def _end_incoming(self, call_id: bytes, reason: str) -> None:
        del self._incoming[call_id]
        self._disarm(call_id)
        self._declined[call_id] = reason
        if len(self._declined) > ENDED_CALLS:
            del self._declined[next(iter(self._declined))]

    def _disarm(self, call_id: bytes) -> None:
        for timer in (_Timer.GUARD, _Timer.ORPHAN):
            self._deadlines.disarm((call_id, timer))
