"""The adaptive jitter buffer: packets in as they come, one frame out each time one is due.

The delay is set once, when the first packets have arrived, and then held: a frame plays at the
moment its timestamp says, whatever its neighbours did, so that a recording keeps true time. Only
when the delay stops fitting the network does it move: at once, by concealment, when packets come
too late in numbers; otherwise by two samples a frame, or in a pause, which nobody hears.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.wire.voice import FRAME_SAMPLES, SAMPLE_RATE, MediaPacket

# All numbers below are ours. The first trades 20 ms of delay for error correction, which
# needs the following packet (20 ms later), and as much again for jitter.
FIRST_DELAY_SECONDS: Final = 0.040
CALM_DELAY_SECONDS: Final = 0.020
"""What the delay may come down to where someone listens and nothing is lost."""

_MAX_DELAY_SECONDS: Final = 0.5
_MAX_PACKETS: Final = 100  # 2 s
_WINDOW: Final = 250  # packets, 5 s: what the delay is judged by
_JUDGED_EVERY: Final = 25  # packets
_LATE_SHARE: Final = 0.05  # of the window; fewer than that are cheaper to conceal
_LATE_IN_A_ROW: Final = 4  # packets, 80 ms of speech: the path has become longer,
_LATE_SPREAD_SECONDS: Final = 0.040  # unless they come all at once: that was a stall
_MARGIN_SECONDS: Final = 0.005
_LEAST_LATE: Final = 4  # packets, or stalls: what fewer of them say is chance
_LEAST_DELAY_SECONDS: Final = 0.010  # of most packets: shorter when clocks have drifted apart
_LEAST_DELAY_WITH_LOSS_SECONDS: Final = FRAME_SAMPLES / SAMPLE_RATE  # the following packet's
_HYSTERESIS_SECONDS: Final = 0.015
_MUCH_SECONDS: Final = 0.1  # too long a delay to shorten it unheard, as when a sink starts late
_SLIDE_SAMPLES: Final = 2  # a frame: 0.2 %, 3.6 cents
_BURST_SECONDS: Final = 0.005  # packets closer than that were held up together
_GROWTH_SAMPLES: Final = 480  # concealment comes in steps of 10 ms
_CONCEALED_AT_MOST: Final = 50  # frames, 1 s; after that there is nothing left to conceal with
_LOSS_REMEMBERED: Final = 500  # frames, 10 s


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode this packet and make the frame ``stretch`` samples longer (shorter below 0)."""

    payload: bytes
    stretch: int = 0


@dataclass(frozen=True, slots=True)
class Recover:
    """The frame was lost; the packet that follows it carries a copy."""

    following: bytes


@dataclass(frozen=True, slots=True)
class Conceal:
    """So many samples are missing and have to be made up."""

    samples: int


@dataclass(frozen=True, slots=True)
class Silence:
    """So many samples with nothing to hear: the sender is muted, or has not begun."""

    samples: int


Playable: TypeAlias = Decode | Recover | Conceal | Silence


class JitterBuffer:
    """Orders packets and decides what plays next.

    ``calm_delay_seconds`` is the delay it returns to when it has become longer than the network
    needs.
    """

    def __init__(self, *, calm_delay_seconds: float = FIRST_DELAY_SECONDS) -> None:
        self._calm_delay = calm_delay_seconds
        self._waiting: list[tuple[int, MediaPacket]] = []  # ascending extended timestamps
        self._timestamp = 0  # extended, of the newest packet
        self._offset: float | None = None  # least of arrival minus timestamp, before playing
        self._playing = False
        self._next = 0  # extended timestamp of what plays next
        self._next_due = 0.0
        self._last_sequence = 0
        self._paused = False
        self._slacks: deque[float] = deque(maxlen=_WINDOW)
        self._shift = 0.0  # how far the delay has moved; slacks are kept without it
        self._unjudged = 0
        self._last_arrival = -_BURST_SECONDS
        self._late_in_a_row: list[tuple[float, float]] = []  # arrival, slack
        self._growth_samples = 0
        self._slide = 0
        self._excess_samples = 0
        self._missing_in_a_row = 0
        self._since_loss = _LOSS_REMEMBERED
        self.late = 0
        """Packets that came after their turn."""

    @property
    def delay_seconds(self) -> float:
        """How long a packet that arrives on time waits, typically."""
        if not self._slacks:
            return 0.0
        return max(0.0, sorted(self._slacks)[len(self._slacks) // 2] + self._shift)

    @property
    def excess_samples(self) -> int:
        """How much shorter the delay could be; 0 unless it is being shortened."""
        return self._excess_samples

    def cut(self, samples: int) -> None:
        """So many samples of the last frame are left out: nobody will miss them."""
        self._excess_samples -= samples
        self._shift -= samples / SAMPLE_RATE
        self._next_due -= samples / SAMPLE_RATE

    @property
    def next_timestamp(self) -> int | None:
        """The 32-bit timestamp of what plays next, None before anything has arrived."""
        if not self._playing:
            return self._waiting[0][0] & 0xFFFF_FFFF if self._waiting else None
        return self._next & 0xFFFF_FFFF

    def put(self, packet: MediaPacket, now: float) -> None:
        """Take in a packet that arrived at ``now``; late ones and duplicates are dropped."""
        timestamp = self._extend(packet.timestamp)
        first_of_burst = now - self._last_arrival >= _BURST_SECONDS
        self._last_arrival = now
        if self._playing:
            slack = self._next_due + (timestamp - self._next) / SAMPLE_RATE - now
            if slack > _MAX_DELAY_SECONDS:  # the sender's clock has jumped ahead
                self._start_over()
            elif timestamp < self._next:
                self.late += 1
                self._add_late(slack, now)
                if first_of_burst:
                    self._add_slack(slack)
                return
            else:
                self._late_in_a_row.clear()
                if first_of_burst:  # the others tell the same delay once more
                    # What is still in time is in time, even when we were late to take it in.
                    self._add_slack(max(0.0, slack))
        if not self._playing:
            offset = now - timestamp / SAMPLE_RATE
            self._offset = offset if self._offset is None else min(self._offset, offset)
        position = bisect.bisect_left(self._waiting, timestamp, key=lambda entry: entry[0])
        if position < len(self._waiting) and self._waiting[position][0] == timestamp:
            return
        self._waiting.insert(position, (timestamp, packet))
        if len(self._waiting) > _MAX_PACKETS:
            del self._waiting[0]

    def take(self, due: float) -> Playable:
        """What plays at ``due`` (seconds); at most one frame."""
        if not self._playing:
            early = self._samples_until_start(due)
            if early:
                return Silence(early)
            self._playing = True
            self._next = self._waiting[0][0]
            self._last_sequence = self._waiting[0][1].sequence - 1
        if self._growth_samples:
            samples = min(self._growth_samples, FRAME_SAMPLES)
            self._growth_samples -= samples
            self._next_due = due + samples / SAMPLE_RATE
            return Silence(samples) if self._paused else Conceal(samples)
        playable, advance = self._choose()
        self._next += advance
        stretch = playable.stretch if isinstance(playable, Decode) else 0
        self._next_due = due + (advance + stretch) / SAMPLE_RATE
        return playable

    def _choose(self) -> tuple[Playable, int]:
        """What stands at the next timestamp, and how many samples of the stream that uses up."""
        self._since_loss += 1
        while self._waiting and self._waiting[0][0] < self._next:
            del self._waiting[0]
        ahead = self._waiting[0][0] - self._next if self._waiting else None
        if ahead == 0:
            packet = self._waiting.pop(0)[1]
            self._last_sequence = packet.sequence
            self._missing_in_a_row = 0
            self._paused = packet.muted
            if packet.muted:
                return Silence(FRAME_SAMPLES), FRAME_SAMPLES
            return self._decode(packet.payload), FRAME_SAMPLES
        if ahead is not None and ahead < FRAME_SAMPLES:
            return Silence(ahead), ahead
        if ahead is not None and (self._waiting[0][1].sequence - self._last_sequence) & 0xFFFF == 1:
            return Silence(FRAME_SAMPLES), FRAME_SAMPLES  # nothing was sent in between
        if ahead == FRAME_SAMPLES and self._waiting[0][1].payload:
            self._since_loss = 0
            return Recover(self._waiting[0][1].payload), FRAME_SAMPLES
        self._missing_in_a_row += 1
        if self._paused or self._missing_in_a_row > _CONCEALED_AT_MOST:
            return Silence(FRAME_SAMPLES), FRAME_SAMPLES
        self._since_loss = 0
        return Conceal(FRAME_SAMPLES), FRAME_SAMPLES

    def _decode(self, payload: bytes) -> Decode:
        self._shift += self._slide / SAMPLE_RATE
        return Decode(payload, self._slide)

    def _samples_until_start(self, due: float) -> int:
        if self._offset is None or not self._waiting:
            return FRAME_SAMPLES
        start = self._offset + self._waiting[0][0] / SAMPLE_RATE + FIRST_DELAY_SECONDS
        return min(FRAME_SAMPLES, max(0, round((start - due) * SAMPLE_RATE)))

    def _start_over(self) -> None:
        self._waiting.clear()
        self._offset = None
        self._playing = self._paused = False
        self._slacks.clear()
        self._unjudged = 0
        self._shift = 0.0
        self._growth_samples = self._slide = self._excess_samples = self._missing_in_a_row = 0
        self._late_in_a_row.clear()

    def _add_late(self, slack: float, now: float) -> None:
        self._late_in_a_row.append((now, slack))
        row = self._late_in_a_row
        if len(row) >= _LATE_IN_A_ROW and now - row[0][0] >= _LATE_SPREAD_SECONDS:
            self._grow(min(row[-1][1], row[-2][1]))
            row.clear()

    def _add_slack(self, slack: float) -> None:
        self._slacks.append(slack - self._shift)
        self._unjudged += 1
        if self._unjudged >= _JUDGED_EVERY:
            self._unjudged = 0
            self._judge()

    def _judge(self) -> None:
        """Decide from the last five seconds whether the delay still fits."""
        late = max(_LEAST_LATE, round(_LATE_SHARE * len(self._slacks)))
        ordered = sorted(self._slacks)
        low = ordered[late - 1] + self._shift
        middle = ordered[len(ordered) // 2] + self._shift
        lossy = self._since_loss < _LOSS_REMEMBERED
        least = _LEAST_DELAY_WITH_LOSS_SECONDS if lossy else _LEAST_DELAY_SECONDS
        calm = max(self._calm_delay, FIRST_DELAY_SECONDS if lossy else 0.0)
        latest = min(list(self._slacks)[-_JUDGED_EVERY:]) + self._shift
        if latest > calm + _MUCH_SECONDS:
            self._skip(latest - calm)
        elif low < 0:
            self._grow(low)
        elif middle < least:
            self._slide = _SLIDE_SAMPLES
        elif self._slide > 0:
            if middle >= least + _MARGIN_SECONDS:
                self._slide = 0
        elif self._slide < 0:
            self._slide = -_SLIDE_SAMPLES if low > calm else 0
        elif low > calm + _HYSTERESIS_SECONDS and len(self._slacks) == _WINDOW:
            self._slide = -_SLIDE_SAMPLES
        self._excess_samples = round((low - calm) * SAMPLE_RATE) if self._slide < 0 else 0

    def _grow(self, slack: float) -> None:
        """Make room at once for packets that come with ``slack`` (below 0)."""
        if self._growth_samples or self.delay_seconds > _MAX_DELAY_SECONDS:
            return
        wanted = round((_MARGIN_SECONDS - slack) * SAMPLE_RATE)
        self._growth_samples = -(-wanted // _GROWTH_SAMPLES) * _GROWTH_SAMPLES
        self._shift += self._growth_samples / SAMPLE_RATE
        self._slide = 0

    def _skip(self, excess: float) -> None:
        """Leave out, at once, what makes the delay so much too long."""
        samples = int(excess * SAMPLE_RATE) // FRAME_SAMPLES * FRAME_SAMPLES
        self._next += samples
        self._shift -= samples / SAMPLE_RATE
        self._slide = 0
        for _ in range(len(self._slacks) - _JUDGED_EVERY):  # they tell of another time
            self._slacks.popleft()

    def _extend(self, timestamp: int) -> int:
        """The 32-bit ``timestamp`` without its wrap, judged by the newest one seen."""
        step = (timestamp - self._timestamp + (1 << 31)) % (1 << 32) - (1 << 31)
        extended = self._timestamp + step
        self._timestamp = max(self._timestamp, extended)
        return extended
