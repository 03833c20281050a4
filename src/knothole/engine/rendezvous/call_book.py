"""The calls the server knows, and for a while those that have ended."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.rate import TokenBucket
from knothole.engine.rendezvous.directory import Session
from knothole.wire.signal.messages import ServerMessage, Trickle

ENDED_CALLS: Final = 4096  # ours: how many ended calls are remembered for those who were away


class DeviceState(enum.Enum):
    """How a device of the callee stands towards a call that nobody has answered."""

    CALLED = enum.auto()
    RINGING = enum.auto()
    DECLINED = enum.auto()


@dataclass(eq=False, slots=True)
class CallRecord:
    """One call. ``winner`` is the device that answered, None as long as none has. An end whose
    ``..._shown`` is True lets the server tell the other one where it sees it."""

    call_id: bytes
    caller: str
    caller_key: bytes
    caller_device: bytes
    callee: str
    offer: bytes
    early_from_caller: TokenBucket
    early_from_callee: TokenBucket
    devices: dict[bytes, DeviceState] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    trickles: list[Trickle] = field(default_factory=list)
    winner: bytes | None = None
    answer: bytes | None = None
    early_limit_told: bool = False
    caller_shown: bool = False
    callee_shown: bool = False

    def is_caller(self, session: Session) -> bool:
        return (self.caller, self.caller_device) == (session.name, session.device_id)

    def is_callee(self, session: Session) -> bool:
        """True for a device that is or was called, the caller's own device excepted."""
        return self.callee == session.name and session.device_id in self.devices

    def live_devices(self) -> list[bytes]:
        """The devices of the callee that the call is still about."""
        if self.winner is not None:
            return [self.winner]
        return [
            device for device, state in self.devices.items() if state is not DeviceState.DECLINED
        ]

    def speaks(self, session: Session) -> bool:
        """True for the caller and for the devices the call is still about."""
        if self.is_caller(session):
            return True
        return self.is_callee(session) and session.device_id in self.live_devices()


@dataclass(frozen=True, slots=True)
class EndedCall:
    """What is said to whoever asks after a call that has ended."""

    record: CallRecord
    to_caller: ServerMessage
    to_callee: ServerMessage


class CallBook:
    """Call records by id and by the names in them."""

    def __init__(self) -> None:
        self._calls: dict[bytes, CallRecord] = {}
        self._by_name: dict[str, dict[bytes, CallRecord]] = {}
        self._unanswered: dict[str, dict[bytes, CallRecord]] = {}
        self._made: Counter[tuple[str, bytes]] = Counter()
        self._ended: dict[bytes, EndedCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, call_id: bytes) -> CallRecord | None:
        return self._calls.get(call_id)

    def ended(self, call_id: bytes) -> EndedCall | None:
        return self._ended.get(call_id)

    def of_name(self, name: str) -> list[CallRecord]:
        return list(self._by_name.get(name, {}).values())

    def unanswered(self, name: str) -> Iterator[CallRecord]:
        return iter(self._unanswered.get(name, {}).values())

    def made_by(self, session: Session) -> int:
        """How many calls this device has made that have not ended."""
        return self._made[session.name, session.device_id]

    def add(self, record: CallRecord) -> None:
        self._calls[record.call_id] = record
        self._made[record.caller, record.caller_device] += 1
        for name in (record.caller, record.callee):
            self._by_name.setdefault(name, {})[record.call_id] = record
            self._unanswered.setdefault(name, {})[record.call_id] = record

    def answered(self, record: CallRecord, device_id: bytes, answer: bytes) -> None:
        """``device_id`` has answered first; the offer is not needed any more."""
        record.winner, record.answer = device_id, answer
        record.offer = b""
        record.trickles.clear()
        self._discard(self._unanswered, record)

    def remove(self, record: CallRecord) -> None:
        del self._calls[record.call_id]
        self._discard(self._by_name, record)
        self._discard(self._unanswered, record)
        caller = (record.caller, record.caller_device)
        self._made[caller] -= 1
        if not self._made[caller]:
            del self._made[caller]

    def end(self, record: CallRecord, to_caller: ServerMessage, to_callee: ServerMessage) -> None:
        """Remove, and remember how it ended for those who are away."""
        self.remove(record)
        record.offer, record.answer = b"", None
        record.trickles.clear()
        self._ended[record.call_id] = EndedCall(record, to_caller, to_callee)
        if len(self._ended) > ENDED_CALLS:
            del self._ended[next(iter(self._ended))]

    @staticmethod
    def _discard(index: dict[str, dict[bytes, CallRecord]], record: CallRecord) -> None:
        for name in (record.caller, record.callee):
            calls = index.get(name, {})
            calls.pop(record.call_id, None)
            if not calls:
                index.pop(name, None)
