from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from knothole.io import opus
from knothole.io.opus import OpusDecoder, OpusEncoder, OpusError
from knothole.lab.synthetic_voice import synthetic_voice
from knothole.wire.malformed import MalformedMessage
from knothole.wire.voice import FRAME_SAMPLES, opus_samples

VOICE = synthetic_voice(6.0)
FRAMES = [
    VOICE[start : start + FRAME_SAMPLES].tobytes() for start in range(0, len(VOICE), FRAME_SAMPLES)
]


def likeness(frames: list[bytes], lookahead: int) -> float:
    heard = np.frombuffer(b"".join(frames), np.int16).astype(float)[lookahead - 2 :]
    said = VOICE.astype(float)[: len(heard)]
    return float(said @ heard / np.sqrt((said @ said) * (heard @ heard)))


def coded(*, loss_percent: int = 10) -> tuple[list[bytes], int]:
    encoder = OpusEncoder()
    encoder.packet_loss_percent = loss_percent
    return [encoder.encode(frame) for frame in FRAMES], encoder.lookahead_samples


def test_a_voice_comes_out_as_it_went_in_6_5_ms_later() -> None:
    packets, lookahead = coded()
    assert lookahead == 312
    assert {opus_samples(packet) for packet in packets} == {FRAME_SAMPLES}
    decoder = OpusDecoder()
    assert likeness([decoder.decode(packet) for packet in packets], lookahead) > 0.98


def test_a_lost_frame_is_recovered_better_than_it_can_be_made_up() -> None:
    packets, lookahead = coded()
    results = []
    for recover in (True, False):
        decoder = OpusDecoder()
        frames = []
        for number, packet in enumerate(packets):
            if number % 10 != 7:
                frames.append(decoder.decode(packet))
            elif recover:
                frames.append(decoder.recover(packets[number + 1]))
            else:
                frames.append(decoder.conceal())
        results.append(likeness(frames, lookahead))
    recovered, made_up = results
    assert recovered > 0.97
    assert made_up < recovered - 0.01


def test_concealment_fades_to_silence_and_comes_in_steps_of_10_ms() -> None:
    packets, _ = coded()
    decoder = OpusDecoder()
    for packet in packets[:50]:
        decoder.decode(packet)
    assert len(decoder.conceal(480)) == 960
    for _ in range(100):
        frame = decoder.conceal()
    assert np.abs(np.frombuffer(frame, np.int16)).max() < 100


def test_a_packet_is_no_longer_than_it_may_be() -> None:
    encoder = OpusEncoder(bit_rate=128_000)
    assert max(len(encoder.encode(frame, 60)) for frame in FRAMES) <= 60


def test_a_frame_of_another_length_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="1920 bytes, not 10"):
        OpusEncoder().encode(bytes(10))


def test_a_payload_that_is_no_opus_is_the_remote_side_s_fault() -> None:
    with pytest.raises(MalformedMessage):
        OpusDecoder().decode(bytes([9 << 3 | 3, 0]))


def test_any_bytes_are_decoded_or_refused() -> None:
    random = np.random.default_rng(3)
    decoder = OpusDecoder()
    for length in (1, 2, 3, 10, 100, 1275):
        for _ in range(200):
            payload = bytes([random.integers(256) & 0xF8]) + random.bytes(length - 1)
            try:
                decoder.decode(payload)
                decoder.recover(payload)
            except MalformedMessage:
                pass


@pytest.mark.parametrize(
    ("layout", "library"),
    [
        ("Linux", "av.libs/libopus-114e2b1a.so.0.11.1"),
        ("macOS", "av/.dylibs/libopus.0.dylib"),
        ("Windows", "av.libs/libopus-0-4369edc456631a3cc933d7918747e5d2.dll"),
    ],
)
def test_the_library_is_found_where_each_wheel_of_pyav_keeps_it(
    layout: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av").mkdir()
    path = tmp_path / library
    path.parent.mkdir(exist_ok=True)
    path.touch()
    origin = str(tmp_path / "av" / "__init__.py")
    spec = importlib.machinery.ModuleSpec("av", None, origin=origin)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert opus._find() == str(path)


def test_without_any_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(OpusError, match="install PyAV from its wheel"):
        opus._find()


def test_speech_after_a_long_silence_comes_out_as_it_went_in() -> None:
    encoder, decoder = OpusEncoder(), OpusDecoder()
    encoder.packet_loss_percent = 10
    silence = bytes(2 * FRAME_SAMPLES)
    heard = [
        decoder.decode(encoder.encode(frame)) for frame in [*FRAMES, *[silence] * 100, *FRAMES]
    ]
    after = heard[len(FRAMES) + 100 :]
    assert likeness(after, encoder.lookahead_samples) > 0.96
    assert max(abs(np.frombuffer(heard[len(FRAMES) + 90], np.int16).astype(int))) <= 1


def test_a_smaller_packet_of_silence_is_made_when_only_that_fits() -> None:
    encoder = OpusEncoder()
    silence = bytes(2 * FRAME_SAMPLES)
    packets = [encoder.encode(silence) for _ in range(60)]
    assert len(encoder.encode(silence, max_bytes=20)) <= 20 < len(packets[-1])
