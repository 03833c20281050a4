"""Calls as the server handles them: who rings, who answered first, what is passed on to whom.

A call belongs to devices, not to connections: whoever reconnects within the grace period finds it
where it was. Offers and answers are opaque here. docs/protocol/signal.md Section 5.4.
"""

from __future__ import annotations

import enum
from typing import Final

from knothole.engine.rate import TokenBucket
from knothole.engine.rendezvous.call_book import CallBook, CallRecord, DeviceState
from knothole.engine.rendezvous.call_failures import call_failed
from knothole.engine.rendezvous.deadlines import Deadlines
from knothole.engine.rendezvous.directory import Directory, Session
from knothole.engine.rendezvous.limits import Limits
from knothole.wire.signal.messages import (
    Answer,
    Answered,
    Call,
    Calling,
    Cancel,
    Cancelled,
    Decline,
    Declined,
    Early,
    HangUp,
    Incoming,
    Problem,
    Ringing,
    ServerMessage,
    Trickle,
)
from knothole.wire.signal.values import Failure, Reason, Trouble

RING_SECONDS: Final = 45.0  # ours: the caller's program gives up at the same age
GRACE_SECONDS: Final = 6.0  # ours: a client is back within 5 s after a lost connection
LINGER_SECONDS: Final = 60.0  # ours: how long an answered call is kept for somebody who is away
KEPT_TRICKLES: Final = 8  # ours: passed on to a device that begins to ring later


class _Timer(enum.Enum):
    RING = enum.auto()
    CALLER_GONE = enum.auto()
    CALLEE_GONE = enum.auto()
    LINGER = enum.auto()
    FORGET_ANSWER = enum.auto()


class CallDesk:
    """Every call between the sessions of a :class:`Directory`; its messages go out through it."""

    def __init__(self, directory: Directory, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits
        self._book = CallBook()
        self._deadlines: Deadlines[tuple[bytes, _Timer]] = Deadlines()

    def __len__(self) -> int:
        return len(self._book)

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

    def handle_timeout(self, now: float) -> None:
        for call_id, timer in self._deadlines.pop_expired(now):
            call = self._book.get(call_id)
            assert call is not None  # timers of a removed call are disarmed with it
            match timer:
                case _Timer.RING:
                    self._fail(call, Failure.NO_ANSWER, Reason.NO_ANSWER)
                case _Timer.CALLER_GONE:
                    self._fail(call, Failure.CALLER_GONE, Reason.CALLER_GONE)
                case _Timer.CALLEE_GONE if call.reasons:
                    self._declined(call)
                case _Timer.CALLEE_GONE:
                    failure = Failure.CALLEE_GONE if call.devices else Failure.OFFLINE
                    self._fail(call, failure, Reason.FAILED)
                case _Timer.LINGER:
                    self._book.remove(call)
                    self._disarm(call)
                case _Timer.FORGET_ANSWER:
                    call.answer = None

    def opened(self, session: Session, now: float) -> None:
        """A device has registered: calls to its person ring on it, calls it was in go on."""
        for call in self._book.of_name(session.name):
            if call.winner is not None:
                self._watch_for_absence(call, now)
            elif call.is_caller(session):
                self._deadlines.disarm((call.call_id, _Timer.CALLER_GONE))
            elif call.callee == session.name and session.callable:
                self._ring(call, session)
                self._deadlines.disarm((call.call_id, _Timer.CALLEE_GONE))
                self._tell_caller(call, self._calling(call))
                self._check_callee_present(call, now)

    def closed(self, session: Session, now: float) -> None:
        """A device has gone, perhaps for good; the directory has forgotten it already."""
        for call in self._book.of_name(session.name):
            if call.winner is not None:
                self._watch_for_absence(call, now)
            elif call.is_caller(session):
                self._deadlines.arm((call.call_id, _Timer.CALLER_GONE), now + GRACE_SECONDS)
            elif call.is_callee(session):
                self._check_callee_present(call, now)

    def call(self, session: Session, message: Call, now: float) -> None:
        """A new call, or one that the caller asks after when it has reconnected."""
        if (known := self._book.get(message.call_id)) is not None:
            self._ask_after(session, known)
            return
        if (ended := self._book.ended(message.call_id)) is not None:
            mine = ended.record.is_caller(session)
            in_use = call_failed(message.call_id, Failure.CALL_ID_IN_USE)
            self._directory.send(session, ended.to_caller if mine else in_use)
            return
        if (failure := self._obstacle(session, message)) is not None:
            self._directory.send(session, call_failed(message.call_id, failure))
            return
        call = CallRecord(
            call_id=message.call_id,
            caller=session.name,
            caller_key=session.public_key,
            caller_device=session.device_id,
            callee=message.to,
            offer=message.offer,
            early_from_caller=TokenBucket(self._limits.early, now),
            early_from_callee=TokenBucket(self._limits.early, now),
            caller_shown=message.show_host,
        )
        self._book.add(call)
        self._deadlines.arm((call.call_id, _Timer.RING), now + RING_SECONDS)
        # The callee first: it punches, and the caller's packet comes through the hole.
        for device in self._directory.callable_sessions(call.callee):
            if not call.is_caller(device):
                self._ring(call, device)
        self._directory.send(session, self._calling(call))
        self._check_callee_present(call, now)

    def ringing(self, session: Session, message: Ringing) -> None:
        call = self._book.get(message.call_id)
        if call is None or not call.is_callee(session):
            self._no_such_call(session, message.call_id)
        elif call.winner not in (None, session.device_id):
            self._answered_elsewhere(call, session.device_id)
        elif call.devices[session.device_id] is DeviceState.CALLED:
            call.devices[session.device_id] = DeviceState.RINGING
            self._tell_caller(call, Ringing(call.call_id, session.device_id))

    def answer(self, session: Session, message: Answer, now: float) -> None:
        """The first answer wins; the same device may repeat its answer after a reconnection."""
        call = self._book.get(message.call_id)
        if call is None or not call.is_callee(session):
            self._no_such_call(session, message.call_id)
            return
        if call.winner is None:
            losers = [device for device in call.live_devices() if device != session.device_id]
            self._disarm(call)
            self._book.answered(call, session.device_id, message.answer)
            call.callee_shown = message.show_host
            self._deadlines.arm((call.call_id, _Timer.FORGET_ANSWER), now + LINGER_SECONDS)
            for device in losers:
                self._answered_elsewhere(call, device)
            self._watch_for_absence(call, now)
        elif call.winner != session.device_id:
            self._answered_elsewhere(call, session.device_id)
            return
        self._tell_answer(call)

    def decline(self, session: Session, message: Decline, now: float) -> None:
        call = self._book.get(message.call_id)
        if call is None or not call.is_callee(session):
            self._no_such_call(session, message.call_id, over=True)
        elif call.winner is None:
            call.devices[session.device_id] = DeviceState.DECLINED
            call.reasons.append(message.reason)
            if message.reason == Reason.DECLINED:
                self._declined(call)
            else:
                self._check_callee_present(call, now)

    def cancel(self, session: Session, message: Cancel) -> None:
        call = self._book.get(message.call_id)
        if call is None or not call.is_caller(session):
            self._no_such_call(session, message.call_id, over=True)
        elif call.winner is not None:  # the answer crossed it
            self._hang_up(call, session, message.reason)
        else:
            cancelled = Cancelled(call.call_id, message.reason)
            self._end(call, cancelled, cancelled, tell_caller=False)

    def hang_up(self, session: Session, message: HangUp, now: float) -> None:
        """Also taken for a cancel or decline, when nobody has answered yet."""
        call = self._book.get(message.call_id)
        if call is None or not call.speaks(session):
            self._no_such_call(session, message.call_id, over=True)
        elif call.winner is not None:
            self._hang_up(call, session, message.reason)
        elif call.is_caller(session):
            self.cancel(session, Cancel(message.call_id, message.reason))
        else:
            self.decline(session, Decline(message.call_id, message.reason), now)

    def trickle(self, session: Session, message: Trickle) -> None:
        call = self._book.get(message.call_id)
        if call is None or not call.speaks(session):
            self._no_such_call(session, message.call_id)
            return
        passed = Trickle(call.call_id, message.sealed, session.device_id)
        if not call.is_caller(session):
            delivered = self._tell_caller(call, passed)
        else:
            if call.winner is None and len(call.trickles) < KEPT_TRICKLES:
                call.trickles.append(passed)
            delivered = self._tell_devices(call, passed)
        if not delivered:
            text = "the other side is not connected to the server just now"
            self._directory.send(session, Problem(Trouble.PEER_AWAY, text, call.call_id))

    def early(self, session: Session, message: Early, now: float) -> None:
        """Datagrams over path zero; what is too much is dropped, as a network would."""
        call = self._book.get(message.call_id)
        if call is None or not call.speaks(session):
            self._no_such_call(session, message.call_id)
            return
        from_caller = call.is_caller(session)
        if not from_caller and call.winner is None:
            text = "a device sends no data before it has answered"
            self._directory.send(session, Problem(Trouble.NOT_ALLOWED, text, call.call_id))
            return
        bucket = call.early_from_caller if from_caller else call.early_from_callee
        if not bucket.take(sum(map(len, message.datagrams)), now):
            if not call.early_limit_told:
                call.early_limit_told = True
                text = "too much data by way of the server; it is dropped"
                self._directory.send(session, Problem(Trouble.EARLY_LIMIT, text, call.call_id))
            return
        passed = Early(call.call_id, message.datagrams, session.device_id)
        if from_caller:
            self._tell_devices(call, passed)
        else:
            self._tell_caller(call, passed)

    def _obstacle(self, session: Session, message: Call) -> Failure | None:
        account = self._directory.visible_account(message.to, session.name)
        if account is None:
            return Failure.UNKNOWN
        devices = self._directory.callable_sessions(message.to)
        if not message.again and not any(device is not session for device in devices):
            return Failure.OFFLINE
        if account.sealing_key != message.sealed_to:
            return Failure.STALE_KEY
        mine = sum(call.is_caller(session) for call in self._book.unanswered(session.name))
        theirs = [call for call in self._book.unanswered(message.to) if call.callee == message.to]
        from_me = sum(call.caller == session.name for call in theirs)
        limits = self._limits
        if (
            self._book.made_by(session) >= limits.calls_per_caller
            or mine >= limits.unanswered_calls_per_caller
            or from_me >= limits.unanswered_calls_per_pair
            or len(theirs) >= limits.ringing_calls_per_callee
        ):
            return Failure.TOO_MANY_CALLS
        return None

    def _ask_after(self, session: Session, call: CallRecord) -> None:
        if not call.is_caller(session):
            self._directory.send(session, call_failed(call.call_id, Failure.CALL_ID_IN_USE))
            return
        self._directory.send(session, self._calling(call))
        if call.winner is not None:
            self._tell_answer(call)
            return
        for device, state in call.devices.items():
            if state is DeviceState.RINGING:
                self._tell_caller(call, Ringing(call.call_id, device))

    def _ring(self, call: CallRecord, session: Session) -> None:
        if call.devices.setdefault(session.device_id, DeviceState.CALLED) is DeviceState.DECLINED:
            return
        caller = (call.caller, call.caller_key, call.caller_device)
        observed = self._observed(call.caller, call.caller_device) if call.caller_shown else ()
        self._directory.send(session, Incoming(call.call_id, *caller, call.offer, observed))
        for trickle in call.trickles:
            self._directory.send(session, trickle)

    def _tell_answer(self, call: CallRecord) -> None:
        if call.answer is None or call.winner is None:
            return
        observed = self._observed(call.callee, call.winner) if call.callee_shown else ()
        answered = Answered(call.call_id, call.winner, call.answer, observed)
        self._tell_caller(call, answered)

    def _observed(self, name: str, device_id: bytes) -> tuple[str, ...]:
        session = self._directory.session(name, device_id)
        return () if session is None else session.observed

    def _calling(self, call: CallRecord) -> Calling:
        present = (
            self._directory.session(call.callee, device_id) for device_id in call.live_devices()
        )
        return Calling(
            call.call_id,
            tuple(device.disclosed_to(call.caller) for device in present if device is not None),
        )

    def _check_callee_present(self, call: CallRecord, now: float) -> None:
        """The call goes on while one device may still answer, for a while also without any."""
        live = call.live_devices()
        if not live and call.reasons:
            self._declined(call)
        elif not any(self._directory.session(call.callee, device) for device in live):
            self._deadlines.arm((call.call_id, _Timer.CALLEE_GONE), now + GRACE_SECONDS)

    def _watch_for_absence(self, call: CallRecord, now: float) -> None:
        assert call.winner is not None
        here = self._directory.session(call.caller, call.caller_device)
        there = self._directory.session(call.callee, call.winner)
        if here is not None and there is not None:
            self._deadlines.disarm((call.call_id, _Timer.LINGER))
        else:
            self._deadlines.arm((call.call_id, _Timer.LINGER), now + LINGER_SECONDS)

    def _declined(self, call: CallRecord) -> None:
        reason = call.reasons[-1]
        if Reason.BUSY in call.reasons and reason != Reason.DECLINED:
            reason = Reason.BUSY  # the kindest truth when devices differ
        self._end(
            call,
            Declined(call.call_id, reason),
            Cancelled(call.call_id, Reason.DECLINED_ELSEWHERE),
        )

    def _fail(self, call: CallRecord, failure: Failure, reason: Reason) -> None:
        self._end(call, call_failed(call.call_id, failure), Cancelled(call.call_id, reason))

    def _hang_up(self, call: CallRecord, session: Session, reason: str) -> None:
        message = HangUp(call.call_id, reason, session.device_id)
        if call.is_caller(session):
            self._tell_devices(call, message)
        else:
            self._tell_caller(call, message)
        self._disarm(call)
        self._book.end(call, message, message)

    def _end(
        self,
        call: CallRecord,
        to_caller: ServerMessage,
        to_callee: ServerMessage,
        *,
        tell_caller: bool = True,
    ) -> None:
        if tell_caller:
            self._tell_caller(call, to_caller)
        self._tell_devices(call, to_callee)
        self._disarm(call)
        self._book.end(call, to_caller, to_callee)

    def _disarm(self, call: CallRecord) -> None:
        for timer in _Timer:
            self._deadlines.disarm((call.call_id, timer))

    def _answered_elsewhere(self, call: CallRecord, device_id: bytes) -> None:
        session = self._directory.session(call.callee, device_id)
        if session is not None:
            self._directory.send(session, Cancelled(call.call_id, Reason.ANSWERED_ELSEWHERE))

    def _tell_caller(self, call: CallRecord, message: ServerMessage) -> bool:
        session = self._directory.session(call.caller, call.caller_device)
        if session is None:
            return False
        self._directory.send(session, message)
        return True

    def _tell_devices(self, call: CallRecord, message: ServerMessage) -> bool:
        sessions = [
            session
            for device in call.live_devices()
            if (session := self._directory.session(call.callee, device)) is not None
        ]
        for session in sessions:
            self._directory.send(session, message)
        return bool(sessions)

    def _no_such_call(self, session: Session, call_id: bytes, *, over: bool = False) -> None:
        """Say how the call ended, to one who was in it; ``over`` when the client knows it has."""
        ended = self._book.ended(call_id)
        if ended is not None and ended.record.is_caller(session):
            if not over:
                self._directory.send(session, ended.to_caller)
        elif ended is not None and ended.record.callee == session.name:
            if not over:
                self._directory.send(session, ended.to_callee)
        else:
            text = "this call is not known here; it may have ended, or the server was restarted"
            self._directory.send(session, Problem(Trouble.UNKNOWN_CALL, text, call_id))
