"""The media phase of a call: from the first packet to the end, as a state machine.

Ringing and answering come before and are the rendezvous engine's; here two sides that both want
to talk send each other frames, reports once a second, and one end.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import TimerName, Timers
from knothole.engine.voice.jitter import FIRST_DELAY_SECONDS
from knothole.engine.voice.level import LevelMeter
from knothole.engine.voice.playout import Decoder, Playout
from knothole.engine.voice.reception import Reception
from knothole.wire.malformed import MalformedMessage
from knothole.wire.voice import (
    FRAME_SAMPLES,
    FRAME_SECONDS,
    EndPacket,
    EndReason,
    MediaPacket,
    ReportPacket,
    VoicePacket,
    decode_voice,
    encode_voice,
)

# All ours, and normative in docs/protocol/voice.md.
HELLO_SECONDS: Final = 0.1  # between reports until the other side is heard
REPORT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 1.5
"""With nothing heard for so long, not even a report, people should be told."""
GONE_SECONDS: Final = 4.5
"""With nothing heard for so long, the other side is gone. A line mends itself within 3 s."""
END_RETRY_SECONDS: Final = 0.1
END_GIVE_UP_SECONDS: Final = 0.6
DRAIN_SECONDS: Final = 1.0
"""What has arrived before the end is played, but no longer than that."""
MUTE_INTERVAL_FRAMES: Final = 10
_MUTE_BURST_FRAMES: Final = 3  # the first ones are all sent, in case one is lost
_QUIET: Final = bytes(2 * FRAME_SAMPLES)

_MICROSECONDS: Final = 1_000_000
_WRAP: Final = 1 << 32


class CallState(enum.Enum):
    """How the call stands."""

    WAITING = "waiting"
    """No speech has come from the other side yet."""
    FLOWING = "flowing"
    MUTED = "muted"
    """The other side has muted itself."""
    SILENT = "silent"
    """Nothing at all is heard from the other side, not even a report."""
    DRAINING = "draining"
    """The other side has ended; what arrived before is still played."""
    CLOSING = "closing"
    """We have ended; the other side has not said yet that it knows."""
    GONE = "gone"
    """Over: the other side has vanished."""
    ENDED = "ended"
    """Over."""


class _Trigger(enum.Enum):
    SPEECH = enum.auto()
    MUTE = enum.auto()
    SILENCE = enum.auto()
    LOSS_OF_PEER = enum.auto()
    END_RECEIVED = enum.auto()
    HANG_UP = enum.auto()
    DONE = enum.auto()  # the end is acknowledged or given up, or everything is played


_OPEN: Final = (CallState.WAITING, CallState.FLOWING, CallState.MUTED, CallState.SILENT)

_TRANSITIONS: Final[dict[tuple[CallState, _Trigger], CallState]] = {
    **{(state, _Trigger.SPEECH): CallState.FLOWING for state in _OPEN},
    **{(state, _Trigger.MUTE): CallState.MUTED for state in _OPEN},
    **{(state, _Trigger.SILENCE): CallState.SILENT for state in _OPEN},
    **{(state, _Trigger.LOSS_OF_PEER): CallState.GONE for state in _OPEN},
    **{(state, _Trigger.END_RECEIVED): CallState.DRAINING for state in _OPEN},
    **{(state, _Trigger.HANG_UP): CallState.CLOSING for state in _OPEN},
    (CallState.DRAINING, _Trigger.DONE): CallState.ENDED,
    (CallState.DRAINING, _Trigger.HANG_UP): CallState.ENDED,
    (CallState.CLOSING, _Trigger.DONE): CallState.ENDED,
    (CallState.CLOSING, _Trigger.END_RECEIVED): CallState.ENDED,
    (CallState.CLOSING, _Trigger.LOSS_OF_PEER): CallState.ENDED,
}


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Send this datagram to the other side now."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerReady:
    """The other side has been heard for the first time: what is spoken now is not lost."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: CallState


@dataclass(frozen=True, slots=True)
class LossReported:
    """The other side misses this fraction (0 to 1) of what we sent in the last second."""

    fraction: float


@dataclass(frozen=True, slots=True)
class CallEnded:
    """Nothing follows. ``reason`` is None when the other side is gone."""

    by_peer: bool
    reason: EndReason | None


CallOutput: TypeAlias = SendPacket | PeerReady | StateChanged | LossReported | CallEnded


@dataclass(frozen=True, slots=True)
class CallMeasurements:
    """The call so far; losses are of the last interval between two reports, 0 to 1."""

    state: CallState
    rtt_seconds: float | None
    loss_in: float
    loss_out: float
    level_out_db: float
    level_in_db: float
    jitter_seconds: float
    playout_delay_seconds: float
    packets_sent: int
    packets_received: int
    packets_lost: int
    packets_late: int
    frames_played: int
    frames_recovered: int
    frames_concealed: int


class _Timer(TimerName):
    REPORT = enum.auto()
    SILENT = enum.auto()
    GONE = enum.auto()
    END_RETRY = enum.auto()
    CLOSED = enum.auto()


class VoiceCall:
    """One side of a call. Call :meth:`handle_timeout` at :meth:`next_timeout`, drain outputs."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        now: float,
        calm_delay_seconds: float = FIRST_DELAY_SECONDS,
    ) -> None:
        self.state = CallState.WAITING
        self._outputs: deque[CallOutput] = deque()
        self._timers: Timers[_Timer] = Timers()
        self._playout = Playout(decoder, calm_delay_seconds=calm_delay_seconds)
        self._reception = Reception()
        self._heard = False
        self._sequence = 0
        self._timestamp = 0
        self._muted_frames = 0
        self._level_out = LevelMeter()
        self._echo: tuple[int, float] | None = None  # the last report's sent_at, when it came
        self._rtt: float | None = None
        self._loss_in = self._loss_out = 0.0
        self._end: EndPacket | None = None  # ours or the other side's
        self._timers.arm(_Timer.GONE, now + GONE_SECONDS)
        self._report(now)

    @property
    def is_over(self) -> bool:
        return self.state in (CallState.GONE, CallState.ENDED)

    def speak(self, payload: bytes, frame: bytes, now: float) -> None:
        """Send the next 20 ms: the Opus packet of ``frame`` (samples), or b"" while muted.

        To be called once for every frame of the microphone, muted or not: that is what keeps the
        timestamps true.
        """
        if self.state not in _OPEN:
            return
        self._level_out.add(frame if payload else _QUIET)
        due = self._muted_frames
        self._muted_frames = 0 if payload else due + 1
        if payload or due < _MUTE_BURST_FRAMES or due % MUTE_INTERVAL_FRAMES == 0:
            self._send(MediaPacket(self._sequence & 0xFFFF, self._timestamp % _WRAP, payload))
            self._sequence += 1
        self._timestamp += FRAME_SAMPLES

    def pull(self, count: int, now: float) -> bytes:
        """Samples to play from ``now`` on, silence after the end: see :meth:`Playout.pull`."""
        if self.is_over:
            return bytes(2 * count)
        samples = self._playout.pull(count, now)
        if self.state is CallState.DRAINING:
            self._finish_when_played()
        return samples

    def receive(self, payload: bytes, now: float) -> None:
        """Take in one datagram of the other side; what is no voice packet is dropped."""
        if self.is_over:
            return
        try:
            packet = decode_voice(payload)
        except MalformedMessage:
            return
        self._hear(now)
        match packet:
            case MediaPacket():
                self._reception.add(packet, now)
                self._playout.receive(packet, now)
                self._move(_Trigger.MUTE if packet.muted else _Trigger.SPEECH)
            case ReportPacket():
                self._read(packet, now)
            case EndPacket():
                self._receive_end(packet, now)

    def end(self, reason: EndReason, now: float) -> None:
        """Hang up. :class:`CallEnded` follows within :data:`END_GIVE_UP_SECONDS`."""
        if self.state is CallState.DRAINING:
            self._finish(by_peer=True)
        elif self.state in _OPEN:
            self._move(_Trigger.HANG_UP)
            self._end = EndPacket(reason, self._timestamp % _WRAP)
            self._timers.clear()
            self._timers.arm(_Timer.END_RETRY, now + END_RETRY_SECONDS)
            self._timers.arm(_Timer.CLOSED, now + END_GIVE_UP_SECONDS)
            self._send(self._end)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            if self.is_over:
                return
            match timer:
                case _Timer.REPORT:
                    self._report(now)
                case _Timer.SILENT:
                    self._move(_Trigger.SILENCE)
                case _Timer.GONE:
                    self._move(_Trigger.LOSS_OF_PEER)
                    self._over(CallEnded(by_peer=True, reason=None))
                case _Timer.END_RETRY if self._end is not None:
                    self._timers.arm(_Timer.END_RETRY, now + END_RETRY_SECONDS)
                    self._send(self._end)
                case _Timer.CLOSED:
                    self._finish(by_peer=self.state is CallState.DRAINING)

    def next_timeout(self) -> float | None:
        return self._timers.next()

    def outputs(self) -> Iterator[CallOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def measure(self) -> CallMeasurements:
        """The numbers to show."""
        return CallMeasurements(
            state=self.state,
            rtt_seconds=self._rtt,
            loss_in=self._loss_in,
            loss_out=self._loss_out,
            level_out_db=self._level_out.read(),
            level_in_db=self._playout.level.read(),
            jitter_seconds=self._reception.jitter_seconds,
            playout_delay_seconds=self._playout.delay_seconds,
            packets_sent=self._sequence,
            packets_received=self._reception.received,
            packets_lost=self._reception.lost,
            packets_late=self._playout.late,
            frames_played=self._playout.frames,
            frames_recovered=self._playout.recovered,
            frames_concealed=self._playout.concealed,
        )

    def _hear(self, now: float) -> None:
        if self.state not in _OPEN:
            return
        self._timers.arm(_Timer.GONE, now + GONE_SECONDS)
        if self.state is not CallState.WAITING:
            self._timers.arm(_Timer.SILENT, now + SILENT_SECONDS)
        if not self._heard:
            self._heard = True
            self._outputs.append(PeerReady())
            self._timers.arm(_Timer.REPORT, now)  # so that the other side knows at once, too

    def _read(self, packet: ReportPacket, now: float) -> None:
        self._echo = (packet.sent_at, now)
        if packet.echo is not None:
            round_trip = (_clock(now) - packet.echo - packet.held) % _WRAP
            if round_trip < _WRAP // 2:
                self._rtt = round_trip / _MICROSECONDS
        if self._sequence:
            self._loss_out = packet.fraction_lost / 256
            self._outputs.append(LossReported(self._loss_out))

    def _report(self, now: float) -> None:
        self._timers.arm(_Timer.REPORT, now + (REPORT_SECONDS if self._heard else HELLO_SECONDS))
        self._loss_in = self._reception.take_fraction_lost()
        echo, held = (None, 0) if self._echo is None else (self._echo[0], now - self._echo[1])
        self._send(
            ReportPacket(
                level=round(-self._playout.level.read()),
                fraction_lost=min(255, int(self._loss_in * 256)),
                highest_sequence=self._reception.highest_sequence,
                lost=self._reception.lost,
                jitter=int(self._reception.jitter_seconds * FRAME_SAMPLES / FRAME_SECONDS),
                sent_at=_clock(now),
                echo=echo,
                held=min(_WRAP - 1, int(held * _MICROSECONDS)),
                playout_delay=min(0xFFFF, int(self._playout.delay_seconds * 1000)),
            )
        )

    def _receive_end(self, packet: EndPacket, now: float) -> None:
        if packet.acknowledges:
            if self.state is CallState.CLOSING:
                self._finish(by_peer=False)
            return
        self._send(EndPacket(packet.reason, packet.timestamp, acknowledges=True))
        if self.state is CallState.CLOSING:
            self._finish(by_peer=False)
        elif self.state in _OPEN:
            self._move(_Trigger.END_RECEIVED)
            self._end = packet
            self._timers.clear()
            self._timers.arm(_Timer.CLOSED, now + DRAIN_SECONDS)
            self._finish_when_played()

    def _finish_when_played(self) -> None:
        if self._end is not None and self._playout.has_played(self._end.timestamp):
            self._finish(by_peer=True)

    def _finish(self, *, by_peer: bool) -> None:
        assert self._end is not None
        self._move(_Trigger.DONE)
        self._over(CallEnded(by_peer, self._end.reason))

    def _over(self, ended: CallEnded) -> None:
        self._timers.clear()
        self._outputs.append(ended)

    def _move(self, trigger: _Trigger) -> None:
        """The one place that changes the state; a trigger that means nothing here is ignored."""
        state = _TRANSITIONS.get((self.state, trigger), self.state)
        if state is not self.state:
            self.state = state
            self._outputs.append(StateChanged(state))

    def _send(self, packet: VoicePacket) -> None:
        self._outputs.append(SendPacket(encode_voice(packet)))


def _clock(now: float) -> int:
    return int(now * _MICROSECONDS) % _WRAP
