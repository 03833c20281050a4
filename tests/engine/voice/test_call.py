from __future__ import annotations

from array import array
from typing import Any, TypeVar

from knothole.engine.voice.call import (
    CallEnded,
    CallState,
    LossReported,
    PeerReady,
    SendPacket,
    StateChanged,
    VoiceCall,
)
from knothole.wire.voice import (
    EndPacket,
    EndReason,
    MediaPacket,
    ReportPacket,
    decode_voice,
    encode_voice,
)

SPEECH = bytes([15 << 3]) + b"speech"
FRAME_OF_20_DB = array("h", [3277, -3277] * 480).tobytes()
FRAME = 0.02
T = TypeVar("T")


class SilentDecoder:
    def decode(self, payload: bytes) -> bytes:
        return bytes(1920)

    def recover(self, following: bytes) -> bytes:
        return bytes(1920)

    def conceal(self, samples: int) -> bytes:
        return bytes(2 * samples)


class Conversation:
    """Two calls and what is between them, in virtual time; wakes each exactly when it asked."""

    def __init__(self, delay: float = 0.03, *, connected: bool = True) -> None:
        self.now = 1000.0
        self.delay = delay
        self.calls = [VoiceCall(SilentDecoder(), now=self.now) for _ in range(2)]
        self.speaking: list[bytes | None] = [None, None]
        self.cut = [not connected] * 2  # what this one sends is lost
        self.events: list[list[Any]] = [[], []]
        self.packets: list[list[tuple[float, Any]]] = [[], []]
        self._under_way: list[tuple[float, int, bytes]] = []
        self._next_frame = self.now + FRAME
        self._pulled = [self.now, self.now]
        self._drain()

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            moments = [end, self._next_frame]
            moments += [at for at, _, _ in self._under_way]
            moments += [t for call in self.calls if (t := call.next_timeout()) is not None]
            self.now = max(self.now, min(moments))
            if self.now >= end:
                return
            arrived = [entry for entry in self._under_way if entry[0] <= self.now]
            self._under_way = [entry for entry in self._under_way if entry[0] > self.now]
            for _, to, payload in arrived:
                self.calls[to].receive(payload, self.now)
            for call in self.calls:
                timeout = call.next_timeout()
                if timeout is not None and timeout <= self.now:
                    call.handle_timeout(self.now)
            if self._next_frame <= self.now:
                self._next_frame += FRAME
                for call, payload in zip(self.calls, self.speaking, strict=True):
                    if payload is not None:
                        call.speak(payload, FRAME_OF_20_DB, self.now)
            for index, call in enumerate(self.calls):
                while self._pulled[index] <= self.now:
                    count = len(call.pull(960, self._pulled[index])) // 2
                    self._pulled[index] += count / 48_000
            self._drain()

    def end(self, index: int, reason: EndReason = EndReason.HUNG_UP) -> None:
        self.calls[index].end(reason, self.now)
        self._drain()

    def of(self, index: int, kind: type[T]) -> list[T]:
        return [event for event in self.events[index] if isinstance(event, kind)]

    def sent(self, index: int, kind: type[T]) -> list[T]:
        return [packet for _, packet in self.packets[index] if isinstance(packet, kind)]

    def _drain(self) -> None:
        for index, call in enumerate(self.calls):
            for output in call.outputs():
                if isinstance(output, SendPacket):
                    self.packets[index].append((self.now, decode_voice(output.payload)))
                    if not self.cut[index]:
                        entry = (self.now + self.delay, 1 - index, output.payload)
                        self._under_way.append(entry)
                else:
                    self.events[index].append(output)


def talking() -> Conversation:
    conversation = Conversation()
    conversation.speaking = [SPEECH, SPEECH]
    conversation.pass_time(3.0)
    return conversation


def test_both_sides_know_after_one_way_that_the_other_is_there() -> None:
    conversation = Conversation(delay=0.03)
    conversation.pass_time(0.031)
    assert conversation.of(0, PeerReady) == conversation.of(1, PeerReady) == [PeerReady()]
    assert conversation.calls[0].state is CallState.WAITING


def test_until_the_other_side_is_heard_a_report_says_hello_ten_times_a_second() -> None:
    conversation = Conversation(connected=False)
    conversation.pass_time(1.05)
    assert len(conversation.sent(0, ReportPacket)) == 11


def test_speech_flows_and_is_reported_once_a_second() -> None:
    conversation = talking()
    for call in conversation.calls:
        assert call.state is CallState.FLOWING
        measured = call.measure()
        assert measured.packets_lost == 0
        assert measured.rtt_seconds is not None
        assert abs(measured.rtt_seconds - 0.06) < 1e-5
        assert round(measured.level_out_db) == -20
        assert abs(measured.playout_delay_seconds - 0.04) < 0.001
    assert 4 <= len(conversation.sent(0, ReportPacket)) <= 7


def test_sequence_and_timestamp_count_packets_and_samples() -> None:
    media = talking().sent(0, MediaPacket)
    assert [p.sequence for p in media] == list(range(len(media)))
    assert [p.timestamp for p in media] == [960 * n for n in range(len(media))]


def test_what_is_lost_is_reported_to_who_sent_it() -> None:
    conversation = Conversation()
    conversation.speaking = [SPEECH, None]
    for _ in range(300):
        conversation.cut[0] = not conversation.cut[0]
        conversation.pass_time(FRAME)
    assert 0.4 < conversation.of(0, LossReported)[-1].fraction < 0.6
    assert 0.4 < conversation.calls[1].measure().loss_in < 0.6
    assert 0.4 < conversation.calls[0].measure().loss_out < 0.6


def test_muting_is_told_at_once_and_costs_few_packets() -> None:
    conversation = talking()
    before = len(conversation.sent(0, MediaPacket))
    conversation.speaking[0] = b""
    conversation.pass_time(0.1)
    assert conversation.calls[1].state is CallState.MUTED
    conversation.pass_time(9.9)
    assert conversation.calls[1].state is CallState.MUTED
    assert len(conversation.sent(0, MediaPacket)) - before < 60
    assert conversation.calls[1].measure().frames_concealed == 0
    conversation.speaking[0] = SPEECH
    conversation.pass_time(0.2)
    assert conversation.calls[1].state is CallState.FLOWING
    assert conversation.sent(0, MediaPacket)[-1].timestamp > 960 * 600


def test_hanging_up_ends_both_sides_within_a_round_trip_and_what_is_buffered() -> None:
    conversation = talking()
    conversation.end(0)
    conversation.pass_time(0.07)
    assert conversation.events[0][-1] == CallEnded(by_peer=False, reason=EndReason.HUNG_UP)
    conversation.pass_time(0.05)
    assert conversation.events[1][-1] == CallEnded(by_peer=True, reason=EndReason.HUNG_UP)
    assert conversation.calls[0].is_over and conversation.calls[1].is_over
    assert conversation.calls[0].next_timeout() is None


def test_what_was_said_before_the_end_is_played_to_the_end() -> None:
    conversation = talking()
    said = conversation.sent(0, MediaPacket)[-1].timestamp // 960 + 1
    conversation.end(0, EndReason.SOURCE_ENDED)
    conversation.pass_time(0.3)
    assert conversation.events[1][-1] == CallEnded(by_peer=True, reason=EndReason.SOURCE_ENDED)
    assert conversation.calls[1].measure().frames_played == said
    states = [event.state for event in conversation.of(1, StateChanged)]
    assert states[-2:] == [CallState.DRAINING, CallState.ENDED]


def test_an_end_that_is_lost_is_said_again() -> None:
    conversation = talking()
    conversation.cut[0] = True
    conversation.end(0)
    conversation.pass_time(0.15)
    conversation.cut[0] = False
    conversation.pass_time(0.2)
    assert conversation.calls[0].is_over and conversation.calls[1].is_over


def test_an_end_that_nobody_hears_is_given_up_after_600_ms() -> None:
    conversation = talking()
    conversation.cut = [True, True]
    conversation.end(0)
    conversation.pass_time(0.59)
    assert not conversation.calls[0].is_over
    conversation.pass_time(0.02)
    assert conversation.events[0][-1] == CallEnded(by_peer=False, reason=EndReason.HUNG_UP)
    assert len(conversation.sent(0, EndPacket)) == 6


def test_two_ends_that_cross_are_both_heard() -> None:
    conversation = talking()
    conversation.end(0)
    conversation.end(1)
    conversation.pass_time(0.031)
    assert [events[-1].by_peer for events in conversation.events] == [False, False]


def test_a_call_can_be_ended_before_a_word_was_said() -> None:
    conversation = Conversation()
    conversation.end(0)
    conversation.pass_time(0.1)
    assert conversation.calls[0].is_over and conversation.calls[1].is_over


def test_a_side_that_vanishes_is_noticed_within_5_seconds() -> None:
    conversation = talking()
    conversation.cut[0] = True
    conversation.pass_time(1.6)
    assert conversation.calls[1].state is CallState.SILENT
    conversation.pass_time(3.0)
    assert conversation.calls[1].state is CallState.GONE
    assert conversation.events[1][-1] == CallEnded(by_peer=True, reason=None)


def test_a_side_that_was_never_there_is_noticed_within_5_seconds() -> None:
    conversation = Conversation(connected=False)
    conversation.pass_time(4.6)
    assert conversation.calls[0].state is CallState.GONE


def test_a_line_that_mends_itself_in_3_seconds_goes_on() -> None:
    conversation = talking()
    conversation.cut = [True, True]
    conversation.pass_time(3.0)
    conversation.cut = [False, False]
    conversation.pass_time(0.5)
    assert all(call.state is CallState.FLOWING for call in conversation.calls)


def test_what_is_no_voice_packet_changes_nothing_and_proves_no_life() -> None:
    conversation = Conversation(connected=False)
    for _ in range(46):
        conversation.calls[0].receive(b"\xff rubbish", conversation.now)
        conversation.pass_time(0.1)
    assert conversation.calls[0].state is CallState.GONE
    assert not conversation.of(0, PeerReady)


def test_after_the_end_nothing_is_sent_or_taken_in() -> None:
    conversation = talking()
    conversation.end(0)
    conversation.pass_time(1.0)
    call = conversation.calls[0]
    call.speak(SPEECH, FRAME_OF_20_DB, conversation.now)
    call.receive(encode_voice(EndPacket(EndReason.HUNG_UP, 0)), conversation.now)
    call.end(EndReason.HUNG_UP, conversation.now)
    call.handle_timeout(conversation.now + 10)
    assert list(call.outputs()) == []
