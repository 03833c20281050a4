from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

from knothole.io.audio.echo import VoiceProcessor, voice_processor
from knothole.lab.synthetic_voice import synthetic_voice

FRAME = 960


def test_the_echo_of_what_is_played_is_taken_out() -> None:
    far = synthetic_voice(12.0, seed=2).astype(float)
    echo = np.concatenate([np.zeros(48 * 60), far])[: len(far)] * 0.3  # 60 ms through the room
    processor = VoiceProcessor(delay_seconds=0.06)
    cleaned = []
    for start in range(0, len(far) - FRAME, FRAME):
        processor.played(far[start : start + FRAME].astype(np.int16).tobytes())
        near = echo[start : start + FRAME].astype(np.int16).tobytes()
        cleaned.append(np.frombuffer(processor.clean(near), np.int16).astype(float))
    last = slice(6 * 50, 11 * 50)
    left = np.concatenate(cleaned[last])
    before = echo[6 * 48_000 : 11 * 48_000]
    reduction = 10 * np.log10((before @ before) / (left @ left + 1))
    assert reduction > 20


def test_who_speaks_into_a_quiet_room_is_heard() -> None:
    near = synthetic_voice(6.0, seed=3)
    processor = VoiceProcessor(delay_seconds=0.06)
    cleaned = []
    for start in range(0, len(near) - FRAME, FRAME):
        processor.played(bytes(2 * FRAME))
        frame = processor.clean(near[start : start + FRAME].tobytes())
        assert len(frame) == 2 * FRAME
        cleaned.append(np.frombuffer(frame, np.int16).astype(float))
    left = np.concatenate(cleaned)
    assert np.sqrt((left**2).mean()) > 0.3 * np.sqrt((near.astype(float) ** 2).mean())


def test_where_more_is_played_than_recorded_the_memory_is_bounded() -> None:
    processor = VoiceProcessor(delay_seconds=0.0)
    for _ in range(1000):
        processor.played(bytes(2 * FRAME))
    assert len(processor.clean(bytes(2 * FRAME))) == 2 * FRAME


def test_without_the_package_a_call_goes_on_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    with caplog.at_level(logging.WARNING):
        assert voice_processor(delay_seconds=0.05) is None
    assert "no echo cancellation" in caplog.text and "headphones" in caplog.text
